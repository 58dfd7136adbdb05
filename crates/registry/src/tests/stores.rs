//! The store: names, removal, room.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use super::server::{Home, Made, Server, digest};
use crate::{Error, Reference, Store};
use rdvm_hostfs::units::ByteSize;

/// A home with `HOST/app:1` of this image, and the name.
fn with(home: &Home, image: &Made) -> Reference {
    let server = Server::of(image, |_, _, reply| reply);
    home.pull(&server.name("app:1")).unwrap();
    server.name("app:1")
}

fn names(home: &Home) -> Vec<String> {
    home.store
        .images()
        .unwrap()
        .into_iter()
        .map(|image| image.name)
        .collect()
}

#[test]
fn removing_an_image_leaves_the_blobs_of_others() {
    let home = Home::new();
    let (first, second) = (Made::new(&[1000, 2000]), Made::new(&[1000, 3000]));
    let a = with(&home, &first);
    let b = with(&home, &second);
    let removed = home
        .store
        .remove(|image| image.name == a.to_string())
        .unwrap();
    assert_eq!(removed.names, [a.to_string()]);
    // The manifest and the layer that is its own; layer and configuration are shared.
    assert_eq!(removed.bytes, ByteSize(2000 + first.manifest.len() as u64));
    home.has_all(&second);
    assert_eq!(names(&home), [b.to_string()]);
    home.store.remove(|_| true).unwrap();
    let left: Vec<_> = fs::read_dir(home.store.path().join("blobs/sha256"))
        .unwrap()
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn an_image_in_use_stays_until_it_is_not() {
    let home = Home::new();
    let image = Made::new(&[1000, 2000]);
    let name = with(&home, &image);
    let used = home.store.take(&name).unwrap().unwrap();
    let removed = home.store.remove(|_| true).unwrap();
    assert_eq!(
        (removed.names.len(), removed.bytes, removed.in_use),
        (1, ByteSize(0), true)
    );
    home.has_all(&image);
    assert!(home.store.take(&name).unwrap().is_none());
    drop(used);
    assert!(home.store.remove(|_| true).unwrap().bytes > ByteSize(3000));
}

#[test]
fn nothing_is_removed_while_an_image_comes() {
    let home = Home::new();
    let image = Made::new(&[1000]);
    with(&home, &image);
    let lock = home.store.lock_shared().unwrap();
    assert!(home.store.remove(|_| true).unwrap().in_use);
    home.has_all(&image);
    with(&home, &Made::new(&[2000]));
    let kept = home.store.shrink(ByteSize(0), None).unwrap();
    assert!(kept.in_use && kept.names.is_empty() && names(&home).len() == 1);
    drop(lock);
    assert!(home.store.remove(|_| true).unwrap().bytes > ByteSize(1000));
}

#[test]
fn the_store_shrinks_by_what_was_not_used_for_longest() {
    let home = Home::new();
    let images = [
        Made::new(&[10_000]),
        Made::new(&[20_000]),
        Made::new(&[30_000]),
    ];
    let names_of = images.each_ref().map(|image| with(&home, image));
    for (image, days) in images.iter().zip([2, 3, 1]) {
        let file = fs::File::open(home.store.blob(&digest(&image.manifest))).unwrap();
        let then = SystemTime::now() - Duration::from_secs(days * 24 * 60 * 60);
        file.set_modified(then).unwrap();
    }
    assert_eq!(
        home.store.shrink(ByteSize(70_000), None).unwrap().names,
        [""; 0]
    );
    let removed = home.store.shrink(ByteSize(50_000), None).unwrap();
    assert_eq!(removed.names, [names_of[1].to_string()]);
    // Use makes it young.
    drop(home.store.take(&names_of[0]).unwrap().unwrap());
    let removed = home.store.shrink(ByteSize(20_000), None).unwrap();
    assert_eq!(removed.names, [names_of[2].to_string()]);
    let keep = digest(&images[0].manifest);
    assert_eq!(
        home.store.shrink(ByteSize(0), Some(&keep)).unwrap().names,
        [""; 0]
    );
    home.has_all(&images[0]);
}

#[test]
fn an_image_that_lost_a_blob_is_not_here_and_comes_again() {
    let home = Home::new();
    let image = Made::new(&[1000, 2000]);
    let server = Server::of(&image, |_, _, reply| reply);
    let name = server.name("app:1");
    home.pull(&name).unwrap();
    fs::write(home.store.blob(&digest(&image.layers[1])), "short").unwrap();
    assert!(home.store.take(&name).unwrap().is_none());
    home.pull(&name).unwrap();
    home.has_all(&image);
}

#[test]
fn stores_of_others_and_damaged_lists_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("s")).unwrap();
    fs::write(store.path().join("index.json"), "{").unwrap();
    assert!(matches!(store.images(), Err(Error::StoreIndex { .. })));
    fs::set_permissions(store.path(), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(
        Store::open(store.path()),
        Err(Error::StoreOwner { .. })
    ));
}

#[test]
fn what_a_killed_pull_left_goes_after_a_week() {
    let home = Home::new();
    let path = home.store.path().join("partial/x");
    for (days, stays) in [(1, true), (8, false)] {
        fs::write(&path, "x").unwrap();
        let then = SystemTime::now() - Duration::from_secs(days * 24 * 60 * 60);
        fs::File::open(&path).unwrap().set_modified(then).unwrap();
        home.store.remove(|_| false).unwrap();
        assert_eq!(path.exists(), stays, "{days}");
    }
}
