//! Pulls that go well, perhaps after some failures.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rdvm_image::manifest;

use super::server::{Home, MANIFEST, Made, PATIENCE, Reply, Server, Then, blob_at, digest};
use crate::client::Patience;
use crate::{Error, Reference};

#[test]
fn an_image_comes_with_all_its_parts_and_once() {
    let image = Made::new(&[100_000, 0, 1, 300_000, 100_000]);
    let server = Server::of(&image, |_, _, reply| reply);
    let home = Home::new();
    let pulled = home.pull(&server.name("app:1")).unwrap().image;
    home.has_all(&image);
    assert_eq!(pulled.manifest, digest(&image.manifest));
    assert_eq!(pulled.source, pulled.manifest);
    assert_eq!(pulled.name, server.name("app:1").to_string());
    assert_eq!(pulled.layers, 5);
    let before = server.seen().len();
    home.pull(&server.name("app:1")).unwrap();
    // The manifest, to see whether the tag has moved.
    assert_eq!(server.seen().len(), before + 1);
    assert_eq!(home.store.images().unwrap().len(), 1);
}

#[test]
fn a_cut_connection_goes_on_where_it_was() {
    let image = Made::new(&[200_000]);
    let layer = image.layer(0);
    let path = layer.clone();
    let server = Server::of(&image, move |seen, before, reply| match seen.path == path {
        true if before < 6 => reply.cut(30_000, Then::Close),
        _ => reply,
    });
    let home = Home::new();
    home.pull(&server.name("app:1")).unwrap();
    home.has_all(&image);
    let seen = server.seen();
    let starts: Vec<usize> = seen
        .iter()
        .filter(|it| it.path == layer)
        .map(|it| it.from())
        .collect();
    assert_eq!(
        starts,
        [0, 30_000, 60_000, 90_000, 120_000, 150_000, 180_000]
    );
}

#[test]
fn a_pull_that_was_killed_goes_on_with_what_it_has() {
    let image = Made::new(&[200_000]);
    let server = Server::of(&image, |_, _, reply| reply);
    let home = Home::new();
    let name = digest(&image.layers[0]).to_string();
    let partial = home
        .store
        .path()
        .join("partial")
        .join(name.strip_prefix("sha256:").unwrap());
    std::fs::write(&partial, &image.layers[0][..150_000]).unwrap();
    home.pull(&server.name("app:1")).unwrap();
    home.has_all(&image);
    let seen = server.seen();
    let starts: Vec<usize> = seen
        .iter()
        .filter(|it| it.path == image.layer(0))
        .map(|it| it.from())
        .collect();
    assert_eq!(starts, [150_000]);
    assert!(!partial.exists());
}

#[test]
fn what_an_earlier_pull_left_damaged_comes_once_more() {
    let image = Made::new(&[200_000]);
    let server = Server::of(&image, |_, _, reply| reply);
    let name = digest(&image.layers[0]).to_string();
    for left in [vec![1; 150_000], vec![1; 200_000], vec![1; 300_000]] {
        let home = Home::new();
        let partial = home
            .store
            .path()
            .join("partial")
            .join(name.strip_prefix("sha256:").unwrap());
        std::fs::write(&partial, left).unwrap();
        home.pull(&server.name("app:1")).unwrap();
        home.has_all(&image);
    }
}

#[test]
fn a_server_without_ranges_begins_anew() {
    let image = Made::new(&[200_000]);
    let (path, whole) = (image.layer(0), image.layers[0].clone());
    let server = Server::of(&image, move |seen, before, reply| {
        match (seen.path == path, before) {
            (true, 0) => reply.cut(150_000, Then::Close),
            (true, _) => Reply::ok(&whole),
            _ => reply,
        }
    });
    let home = Home::new();
    home.pull(&server.name("app:1")).unwrap();
    home.has_all(&image);
}

#[test]
fn busy_servers_are_asked_again_when_they_say() {
    let image = Made::new(&[1000]);
    for status in [429, 500, 503] {
        let server = Server::of(&image, move |_, before, reply| match before {
            0 | 1 => Reply::status(status).with("Retry-After", "0"),
            _ => reply,
        });
        let home = Home::new();
        home.pull(&server.name("app:1")).unwrap();
        assert_eq!(server.count(MANIFEST), 3);
        home.has_all(&image);
    }
}

#[test]
fn a_silent_server_is_left_and_asked_again() {
    let image = Made::new(&[200_000]);
    let path = image.layer(0);
    let server = Server::of(&image, move |seen, before, reply| {
        match (seen.path == path, before) {
            (true, 0) => reply.cut(100_000, Then::Stall),
            _ => reply,
        }
    });
    let home = Home::new();
    let patience = Patience {
        silence: std::time::Duration::from_millis(300),
        ..PATIENCE
    };
    home.pull_with(&server.name("app:1"), patience).unwrap();
    home.has_all(&image);
    assert_eq!(server.count(&image.layer(0)), 2);
}

#[test]
fn an_index_leads_to_the_image_for_this_platform_and_its_digest_finds_it_again() {
    let image = Made::new(&[1000]);
    let one = |digest: &str, size: usize, architecture: &str| {
        format!(
            r#"{{"digest":"{digest}","size":{size},"platform":{{"os":"linux","architecture":"{architecture}"}}}}"#
        )
    };
    let own = digest(&image.manifest).to_string();
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{},{}]}}"#,
        manifest::INDEX,
        one(&own.replace(&own[20..30], "0000000000"), 1, "arm64"),
        one(&own, image.manifest.len(), "amd64"),
    );
    let index = digest(text.as_bytes());
    let server = Server::of(&image, move |seen, _, reply| {
        match seen.path.strip_prefix("/v2/app/manifests/") {
            Some(version) if version == "1" || version == index.to_string() => {
                Reply::ok(text.as_bytes())
            }
            _ => reply,
        }
    });
    let home = Home::new();
    let pulled = home.pull(&server.name("app:1")).unwrap().image;
    assert_eq!(
        (pulled.manifest, pulled.source),
        (digest(&image.manifest), index)
    );
    for digest in [pulled.manifest, index] {
        let name = server.name("app:1").at_digest(digest);
        assert_eq!(
            home.store.take(&name).unwrap().unwrap().image.manifest,
            pulled.manifest
        );
        assert_eq!(home.pull(&name).unwrap().image.manifest, pulled.manifest);
    }
    let other = server.name("other:1").at_digest(index);
    assert!(home.store.take(&other).unwrap().is_none());
}

#[test]
fn mirrors_are_asked_first_and_the_registry_when_they_fail() {
    let image = Made::new(&[1000, 2000]);
    let (own, broken) = (
        Server::of(&image, |_, _, reply| reply),
        Server::new(|_, _| Reply::status(404)),
    );
    let files = image.files.clone();
    let mirror = Server::new(move |seen, _| {
        let path = seen.path.replace("/v2/mirrored/app/", "/v2/app/");
        files
            .get(&path)
            .map_or(Reply::status(404), |body| Reply::ok(body))
    });
    let conf = |mirror: &str| {
        format!(
            "[[registry]]\nprefix = 'r.example'\nlocation = '{}'\n[[registry.mirror]]\nlocation = '{mirror}'",
            own.host
        )
    };
    let name: Reference = "r.example/app:1".parse().unwrap();
    let home = Home::new();
    home.write(
        ".config/containers/registries.conf",
        &conf(&format!("{}/mirrored", mirror.host)),
    );
    assert_eq!(home.pull(&name).unwrap().image.name, "r.example/app:1");
    home.has_all(&image);
    assert!(own.seen().is_empty() && mirror.seen().len() == 4);
    let home = Home::new();
    home.write(".config/containers/registries.conf", &conf(&broken.host));
    home.pull(&name).unwrap();
    home.has_all(&image);
    assert_eq!((own.seen().len(), broken.seen().len()), (4, 1));
}

#[test]
fn blobs_may_be_elsewhere() {
    let image = Made::new(&[200_000]);
    let files = image.files.clone();
    let elsewhere = Server::new(move |seen, before| {
        let reply = Reply::part(seen, &files[&format!("/v2/app/blobs/{}", &seen.path[1..])]);
        match before {
            0 if reply.body.len() > 100_000 => reply.cut(100_000, Then::Close),
            _ => reply,
        }
    });
    let host = elsewhere.host.clone();
    let server = Server::of(&image, move |seen, _, reply| {
        match seen.path.strip_prefix("/v2/app/blobs/") {
            Some(digest) => Reply::redirect(&format!("http://{host}/{digest}")),
            None => reply,
        }
    });
    let home = Home::new();
    home.pull(&server.name("app:1")).unwrap();
    home.has_all(&image);
    assert_eq!(elsewhere.seen().len(), 3);
}

#[test]
fn four_blobs_come_at_a_time_and_no_more() {
    let image = Made::new(
        &[1000; 12]
            .iter()
            .enumerate()
            .map(|(at, length)| at + length)
            .collect::<Vec<_>>(),
    );
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counted, highest) = (now.clone(), most.clone());
    let server = Server::of(&image, move |seen, _, reply| {
        if seen.path.contains("/blobs/") {
            let here = counted.fetch_add(1, Ordering::SeqCst) + 1;
            highest.fetch_max(here, Ordering::SeqCst);
            std::thread::sleep(std::time::Duration::from_millis(50));
            counted.fetch_sub(1, Ordering::SeqCst);
        }
        reply
    });
    let home = Home::new();
    home.pull(&server.name("app:1")).unwrap();
    home.has_all(&image);
    assert_eq!(most.load(Ordering::SeqCst), 4);
}

#[test]
fn pulls_of_one_image_at_a_time_fetch_each_blob_once() {
    let image = Made::new(&[300_000, 200_000]);
    let path = image.layer(0);
    let server = Server::of(&image, move |seen, _, reply| {
        if seen.path == path {
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        reply
    });
    let home = Home::new();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| home.pull(&server.name("app:1")).unwrap());
        }
    });
    home.has_all(&image);
    assert_eq!(server.count(&blob_at(&image.layers[0])), 1);
    assert_eq!(home.store.images().unwrap().len(), 1);
}

#[test]
fn a_policy_is_kept() {
    let image = Made::new(&[10]);
    let server = Server::of(&image, |_, _, reply| reply);
    let mut home = Home::new();
    home.write(
        ".config/containers/policy.json",
        &format!(r#"{{"default":[{{"type":"reject"}}],"transports":{{"docker":{{"{}":[{{"type":"insecureAcceptAnything"}}]}}}}}}"#, server.host),
    );
    home.pull(&server.name("app:1")).unwrap();
    let rejected = home.pull(&"r.example/x:1".parse().unwrap());
    assert!(
        matches!(rejected, Err(Error::Rejected { .. })),
        "{rejected:?}"
    );
    home.write(
        ".config/containers/policy.json",
        r#"{"default":[{"type":"sigstoreSigned"}]}"#,
    );
    // No skopeo there.
    home.environment.set("PATH", "/nowhere");
    let demanded = home.pull(&server.name("app:1"));
    assert!(
        matches!(demanded, Err(Error::Signature { .. })),
        "{demanded:?}"
    );
}
