//! Entries that are found again, and those that must not be.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{Cache, CacheInputs, Packed};
use rdvm_hostfs::atomic::TEMPORARY;
use rdvm_hostfs::units::ByteSize;

const NO_LIMIT: ByteSize = ByteSize(u64::MAX);

struct Place {
    dir: tempfile::TempDir,
    cache: Cache,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::below(dir.path());
    Place { dir, cache }
}

impl Place {
    /// An archive's file, left alone for a minute.
    fn source(&self, name: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, name).unwrap();
        path
    }

    fn insert(&self, inputs: &CacheInputs, bytes: &[u8]) -> io::Result<Packed> {
        let write = |file: &File| {
            file.write_all_at(bytes, 0)?;
            Ok(b"facts".to_vec())
        };
        self.cache
            .insert(inputs, bytes.len() as u64, NO_LIMIT, write)
    }

    /// The entry of these inputs.
    fn entry(&self, inputs: &CacheInputs) -> PathBuf {
        let name = format!("{}.erofs", inputs.key());
        self.cache.directory().join(name)
    }

    fn names(&self) -> Vec<String> {
        let list = fs::read_dir(self.cache.directory()).unwrap();
        let names = list.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }
}

/// The recipe of a file, as if it had been left alone for long.
fn inputs(path: &Path) -> CacheInputs {
    let mut inputs = CacheInputs::new("options");
    inputs.file("image", &path.metadata().unwrap()).unwrap();
    inputs.is_settled = true;
    inputs
}

fn bytes(packed: &Packed) -> Vec<u8> {
    let mut bytes = vec![0; packed.size as usize];
    packed.file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn what_was_kept_is_found_by_the_state_of_its_files_and_by_nothing_else() {
    let place = place();
    let source = place.source("a.tar");
    assert!(place.cache.find(&inputs(&source)).is_none());
    let packed = place.insert(&inputs(&source), b"archive").unwrap();
    assert_eq!(
        (bytes(&packed), &*packed.facts),
        (b"archive".to_vec(), &b"facts"[..])
    );
    let found = place.cache.find(&inputs(&source)).unwrap();
    assert_eq!(
        (bytes(&found), &*found.facts),
        (b"archive".to_vec(), &b"facts"[..])
    );

    let mut other_options = CacheInputs::new("other options");
    let state = source.metadata().unwrap();
    other_options.file("image", &state).unwrap();
    assert!(place.cache.find(&other_options).is_none());
    fs::write(&source, "changed").unwrap();
    assert!(place.cache.find(&inputs(&source)).is_none());
    let directory = place.dir.path().metadata().unwrap();
    assert!(CacheInputs::new("").file("image", &directory).is_err());
}

#[test]
fn what_is_not_whole_or_not_ours_does_not_count() {
    let place = place();
    let source = place.source("a.tar");
    let inputs = inputs(&source);
    let entry = place.entry(&inputs);
    let harms: [&dyn Fn(&File); 5] = [
        &|file| file.set_len(20).unwrap(),
        &|file| file.set_len(file.metadata().unwrap().len() - 1).unwrap(),
        &|file| (&*file).write_all(b"").and(file.set_len(0)).unwrap(),
        &|file| {
            let end = file.metadata().unwrap().len();
            file.write_all_at(&[0xff; 8], end - 16).unwrap();
        },
        &|file| {
            file.set_permissions(fs::Permissions::from_mode(0o666))
                .unwrap()
        },
    ];
    for harm in harms {
        place.insert(&inputs, &[7; 100]).unwrap();
        assert!(place.cache.find(&inputs).is_some());
        harm(&File::options().write(true).open(&entry).unwrap());
        assert!(place.cache.find(&inputs).is_none());
    }
}

#[test]
fn a_writer_that_fails_leaves_nothing() {
    let place = place();
    let source = place.source("a.tar");
    let full = |_: &File| Err(io::ErrorKind::StorageFull.into());
    let inserted: io::Result<Packed> = place.cache.insert(&inputs(&source), 5, NO_LIMIT, full);
    assert_eq!(inserted.unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(place.names(), [""; 0]);
}

#[test]
fn what_was_not_used_for_longest_goes_first() {
    let place = place();
    let sources = ["a", "b", "c"].map(|name| inputs(&place.source(name)));
    for (age, source) in (0..).zip(&sources) {
        let packed = place.insert(source, &[0; 1000]).unwrap();
        let age = Duration::from_secs(1000 - age);
        packed.file.set_modified(SystemTime::now() - age).unwrap();
    }
    // Used just now, so the second and third are older.
    assert!(place.cache.find(&sources[0]).is_some());
    let listed = place.cache.list().unwrap();
    let order: Vec<_> = listed.iter().map(|entry| entry.name.clone()).collect();
    let name = |at: usize| format!("{}.erofs", sources[at].key());
    assert_eq!(order, [name(0), name(2), name(1)]);
    let size = listed[0].size.0;
    let pruned = place.cache.prune(ByteSize(2 * size)).unwrap();
    assert_eq!((pruned.entries, pruned.bytes.0), (1, size));
    assert!(place.cache.find(&sources[1]).is_none());
    assert!(place.cache.find(&sources[2]).is_some());
    // What is being written when the limit is small stays.
    let limits = super::limits(ByteSize(0));
    place
        .cache
        .0
        .prune(limits, Some(&sources[2].key()))
        .unwrap();
    assert_eq!(place.cache.list().unwrap().len(), 1);
    place.cache.prune(ByteSize(0)).unwrap();
    assert_eq!(place.names(), [""; 0]);
}

#[test]
fn what_a_killed_writer_left_goes_after_a_day_and_what_is_not_ours_never() {
    let place = place();
    let directory = place.cache.directory().to_owned();
    fs::create_dir_all(&directory).unwrap();
    let key = "ab".repeat(32);
    let names = [
        format!("{TEMPORARY}77-0"),
        format!("{key}.other"),
        "notes".to_owned(),
    ];
    for name in &names {
        let file = File::create(directory.join(name)).unwrap();
        let age = Duration::from_secs(2 * 24 * 60 * 60);
        file.set_modified(SystemTime::now() - age).unwrap();
    }
    fs::write(directory.join(format!("{TEMPORARY}78-0")), "").unwrap();
    place.cache.prune(ByteSize(0)).unwrap();
    assert_eq!(
        place.names(),
        [
            format!("{TEMPORARY}78-0"),
            format!("{key}.other"),
            "notes".to_owned()
        ]
    );
}
