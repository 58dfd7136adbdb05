//! Servers that lie, or never end.

use super::server::{Home, MANIFEST, Made, PATIENCE, Reply, Server, Then, digest};
use crate::client::Patience;

#[test]
fn other_bytes_than_the_digest_says_never_get_its_name() {
    let image = Made::new(&[200_000, 10]);
    let path = image.layer(0);
    let server = Server::of(&image, move |seen, _, mut reply| {
        if seen.path == path {
            reply.body[199_999] ^= 1;
        }
        reply
    });
    let home = Home::new();
    let message = home.refuses(&server.name("app:1"));
    let wanted = digest(&image.layers[0]).to_string();
    assert!(
        message.starts_with(&format!("{}: {wanted} has the digest sha256:", server.host)),
        "{message}"
    );
    assert_eq!(home.blob(&image.layers[0]), None);
    // Nor is it gone on with.
    let partial = home
        .store
        .path()
        .join("partial")
        .join(wanted.strip_prefix("sha256:").unwrap());
    assert!(!partial.exists());
}

#[test]
fn more_or_fewer_bytes_than_announced_are_refused() {
    let image = Made::new(&[1000]);
    for (change, count) in [(1i64, 1), (-1, 1)] {
        let path = image.layer(0);
        let server = Server::of(&image, move |seen, _, mut reply| {
            if seen.path == path {
                reply.body.resize((1000 + change) as usize, 0);
            }
            reply
        });
        let home = Home::new();
        let message = home.refuses(&server.name("app:1"));
        assert!(
            message.contains(&format!("has {} bytes and not 1000", 1000 + change)),
            "{message}"
        );
        assert_eq!(server.count(&image.layer(0)), count);
        assert_eq!(home.blob(&image.layers[0]), None);
    }
}

#[test]
fn a_blob_without_end_is_left_at_its_size() {
    let image = Made::new(&[1000]);
    let path = image.layer(0);
    let server = Server::of(&image, move |seen, _, mut reply| {
        if seen.path == path {
            // Announced in pieces, so that it has no length.
            reply = Reply::ok(format!("8000\r\n{}\r\n", "x".repeat(0x8000)).as_bytes())
                .with("Transfer-Encoding", "chunked");
            reply.then = Then::Repeat;
        }
        reply
    });
    let home = Home::new();
    let message = home.refuses(&server.name("app:1"));
    assert!(message.contains("bytes and not 1000"), "{message}");
}

#[test]
fn a_manifest_of_a_gigabyte_is_not_read() {
    let announced = Server::new(|_, _| {
        let mut reply = Reply::ok(&[b' '; 4096]);
        reply.length = Some(1 << 30);
        reply.then = Then::Repeat;
        reply
    });
    let endless = Server::new(|_, _| {
        let mut reply = Reply::ok(b"1000\r\n").with("Transfer-Encoding", "chunked");
        reply.body = format!("1000\r\n{}\r\n", " ".repeat(0x1000)).into_bytes();
        reply.then = Then::Repeat;
        reply
    });
    for server in [announced, endless] {
        let message = Home::new().refuses(&server.name("app:1"));
        assert_eq!(
            message,
            format!(
                "{}: manifests/1 has more than 4096 KiB; use another registry",
                server.host
            )
        );
        assert_eq!(server.count(MANIFEST), 1);
    }
}

#[test]
fn a_thousand_layers_are_not_fetched() {
    let image = Made::new(&(0..1000).collect::<Vec<_>>());
    let server = Server::of(&image, |_, _, reply| reply);
    let message = Home::new().refuses(&server.name("app:1"));
    assert!(
        message.ends_with("app:1: has 1000 layers, and 127 is the limit"),
        "{message}"
    );
    assert_eq!(server.seen().len(), 1);
}

#[test]
fn redirects_end_and_do_not_lead_away_from_a_known_host_without_tls() {
    for (to, why) in [
        (
            "/v2/app/manifests/1",
            "more often than there can be a reason for",
        ),
        (
            "http://r.example/x",
            "a host that is not known to need no TLS",
        ),
        ("ftp://r.example/x", "which is not a URL of a host"),
        ("http://user@127.0.0.1/x", "which is not a URL of a host"),
        ("", "more often"),
    ] {
        let server = Server::new(move |_, _| Reply::redirect(to));
        let message = Home::new().refuses(&server.name("app:1"));
        assert!(message.contains(why), "{message}");
        assert!(server.seen().len() <= 6);
    }
}

#[test]
fn a_tag_with_another_digest_than_its_header_says_is_refused() {
    let image = Made::new(&[10]);
    let zeros = format!("sha256:{}", "0".repeat(64));
    let server = Server::of(&image, move |_, _, reply| {
        reply.with("Docker-Content-Digest", &zeros)
    });
    let home = Home::new();
    assert!(
        home.refuses(&server.name("app:1"))
            .contains("has the digest")
    );
    // Where a digest was named the header does not matter, and the bytes do.
    let name = server.name("app:1").at_digest(digest(&image.manifest));
    home.pull(&name).unwrap();
    let mut other = digest(&image.manifest);
    other.0[0] ^= 1;
    let served = image.manifest.clone();
    let liar = Server::new(move |_, _| Reply::ok(&served));
    assert!(
        Home::new()
            .refuses(&liar.name("app:1").at_digest(other))
            .contains("has the digest")
    );
}

#[test]
fn heads_and_failures_without_end_are_given_up() {
    let long = Server::new(|_, _| Reply::ok(b"").with("X", &"x".repeat(100_000)));
    let message = Home::new().refuses(&long.name("app:1"));
    assert!(message.contains("its answer"), "{message}");
    let busy = Server::new(|_, _| Reply::status(503).with("Retry-After", "999999999"));
    let message = Home::new().refuses(&busy.name("app:1"));
    assert!(
        message.contains("answers manifests/1 with 503"),
        "{message}"
    );
    assert_eq!(busy.seen().len(), 4);
}

#[test]
fn a_server_that_gives_a_byte_and_breaks_off_is_given_up() {
    let image = Made::new(&[1000]);
    let path = image.layer(0);
    let server = Server::of(&image, move |seen, _, reply| match seen.path == path {
        true => reply.cut(1, Then::Close),
        false => reply,
    });
    let message = Home::new().refuses(&server.name("app:1"));
    assert!(message.contains("try again later"), "{message}");
    assert!(
        server.count(&image.layer(0)) < 20,
        "{}",
        server.count(&image.layer(0))
    );
}

#[test]
fn a_server_that_says_nothing_is_given_up() {
    let server = Server::new(|_, _| Reply::ok(b"{").cut(0, Then::Stall));
    let patience = Patience {
        silence: std::time::Duration::from_millis(200),
        attempts: 2,
        ..PATIENCE
    };
    let error = Home::new()
        .pull_with(&server.name("app:1"), patience)
        .unwrap_err();
    assert!(
        error.to_string().contains("says nothing for too long"),
        "{error}"
    );
    assert_eq!(server.seen().len(), 2);
}

#[test]
fn a_manifest_that_comes_too_slowly_is_given_up() {
    let server = Server::new(|_, _| Reply::ok(&[b' '; 100]).cut(99, Then::Close));
    let patience = Patience {
        document: std::time::Duration::ZERO,
        attempts: 1,
        ..PATIENCE
    };
    let error = Home::new()
        .pull_with(&server.name("app:1"), patience)
        .unwrap_err();
    assert!(error.to_string().contains("too slowly"), "{error}");
}

#[test]
fn words_of_a_server_cannot_act_on_a_terminal() {
    let server = Server::new(|_, _| {
        let mut reply = Reply::status(404);
        reply.body = b"{\"errors\":[{\"message\":\"\\u001b[2Jgone\\nline\"}]}".to_vec();
        reply
    });
    let message = Home::new().refuses(&server.name("app:1"));
    assert!(
        message.contains(r"has no such image: \u{1b}[2Jgone;"),
        "{message}"
    );
}

#[test]
fn images_for_other_machines_and_other_things_are_refused_before_their_layers_come() {
    let arm = Made::of(br#"{"os":"linux","architecture":"arm64"}"#, &[vec![1; 10]]);
    let server = Server::of(&arm, |_, _, reply| reply);
    let message = Home::new().refuses(&server.name("app:1"));
    assert!(message.contains("is for linux/arm64 only"), "{message}");
    assert_eq!(server.count(&arm.layer(0)), 0);
    for text in ["", "null", "[]", "<html>", r#"{"manifests":[]}"#] {
        let server = Server::new(move |_, _| Reply::ok(text.as_bytes()));
        Home::new().refuses(&server.name("app:1"));
    }
}

#[test]
fn indexes_in_indexes_end() {
    // Each is the one that it names, as far as the server is concerned.
    let server = Server::new(|_, _| {
        Reply::ok(br#"{"manifests":[{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}]}"#)
    });
    let message = Home::new().refuses(&server.name("app:1"));
    assert!(message.contains("has the digest"), "{message}");
    assert_eq!(server.seen().len(), 2);
}
