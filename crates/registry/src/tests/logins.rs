//! Logins: who gets which credentials, and who never does.

use std::sync::Arc;

use super::server::{Home, Made, Reply, Seen, Server};

/// u:p in base64.
const BASIC: &str = "Basic dTpw";

fn home(registry: &str, entry: &str) -> Home {
    let home = Home::new();
    home.write(
        ".docker/config.json",
        &format!(r#"{{"auths":{{"{registry}":{entry}}}}}"#),
    );
    home
}

fn of_user(registry: &str) -> Home {
    home(registry, r#"{"auth":"dTpw"}"#)
}

/// A registry that wants this header, and asks for it so.
fn guarded(
    image: &Made,
    wanted: &str,
    challenge: impl Fn(&Seen) -> String + Send + Sync + 'static,
) -> Server {
    let wanted = wanted.to_owned();
    Server::of(image, move |seen, _, reply| {
        match seen.header("authorization") == Some(&wanted) {
            true => reply,
            false => Reply::status(401).with("WWW-Authenticate", &challenge(seen)),
        }
    })
}

#[test]
fn basic_credentials_are_sent_when_they_are_asked_for() {
    let image = Made::new(&[1000, 2000]);
    let server = guarded(&image, BASIC, |_| r#"Basic realm="r""#.to_owned());
    let home = of_user(&server.host);
    home.pull(&server.name("app:1")).unwrap();
    home.has_all(&image);
    let without = server
        .seen()
        .iter()
        .filter(|seen| seen.header("authorization").is_none())
        .count();
    assert_eq!(without, 1);
    let message = Home::new().refuses(&server.name("app:1"));
    assert!(message.contains("grants no access"), "{message}");
    // A wrong password is not tried again.
    let before = server.seen().len();
    let message =
        super::logins::home(&server.host, r#"{"auth":"dTp4"}"#).refuses(&server.name("app:1"));
    assert!(
        message.contains("grants no access") && server.seen().len() == before + 2,
        "{message}"
    );
}

#[test]
fn a_token_is_fetched_for_reading_this_image_and_again_when_it_has_run_out() {
    let image = Made::new(&[1000, 2000]);
    let tokens = Server::new(|seen, before| match seen.header("authorization") {
        Some(BASIC) => Reply::ok(format!(r#"{{"token":"t{before}"}}"#).as_bytes()),
        _ => Reply::status(401),
    });
    let realm = tokens.host.clone();
    let path = image.layer(0);
    let server = Server::of(&image, move |seen, _, reply| {
        let token = seen.header("authorization");
        // The first token is good for no more than the manifest and the configuration.
        match token == Some("Bearer t1")
            || (token == Some("Bearer t0") && !seen.path.contains(&path))
        {
            true => reply,
            false => Reply::status(401).with(
                "WWW-Authenticate",
                &format!(r#"Bearer realm="http://{realm}/token",service="a b",scope="x""#),
            ),
        }
    });
    let home = of_user(&server.host);
    home.pull(&server.name("app:1")).unwrap();
    home.has_all(&image);
    let asked: Vec<String> = tokens.seen().into_iter().map(|seen| seen.path).collect();
    assert_eq!(asked, ["/token?service=a%20b&scope=repository:app:pull"; 2]);
    let message = Home::new().refuses(&server.name("app:1"));
    assert!(message.contains("grants no access"), "{message}");
}

#[test]
fn an_identity_token_is_exchanged() {
    let image = Made::new(&[10]);
    let tokens = Server::new(|seen, _| {
        match seen.body.contains("grant_type=refresh_token")
            && seen.body.contains("refresh_token=secret")
        {
            true => Reply::ok(br#"{"access_token":"t"}"#),
            false => Reply::status(401),
        }
    });
    let realm = tokens.host.clone();
    let server = guarded(&image, "Bearer t", move |_| {
        format!(r#"Bearer realm="http://{realm}/""#)
    });
    let home = home(&server.host, r#"{"identitytoken":"secret"}"#);
    home.pull(&server.name("app:1")).unwrap();
    assert!(
        tokens.seen()[0]
            .body
            .contains("scope=repository%3Aapp%3Apull"),
        "{:?}",
        tokens.seen()[0]
    );
}

#[test]
fn credentials_stay_with_their_host() {
    let image = Made::new(&[1000]);
    let files = image.files.clone();
    let elsewhere = Arc::new(Server::new(move |seen, _| {
        Reply::part(seen, &files[&seen.path])
    }));
    let to = elsewhere.host.clone();
    let server = guarded(&image, BASIC, |_| "Basic realm=r".to_owned());
    let front_host = server.host.clone();
    // It asks for credentials of its own, and sends every request on: those for blobs elsewhere, others to the other registry.
    let front = Server::new(move |seen, _| match seen.header("authorization") {
        None => Reply::status(401).with("WWW-Authenticate", "Basic realm=r"),
        Some(_) if seen.path.contains("/blobs/") => {
            Reply::redirect(&format!("http://{to}{}", seen.path))
        }
        Some(_) => Reply::redirect(&format!("http://{front_host}{}", seen.path)),
    });
    let home = of_user(&front.host);
    let message = home.refuses(&front.name("app:1"));
    assert!(message.contains("grants no access"), "{message}");
    assert!(
        server
            .seen()
            .iter()
            .all(|seen| seen.header("authorization").is_none())
    );
    assert_eq!(server.seen().len(), 1);
    let files = image.files.clone();
    let to = elsewhere.host.clone();
    let front = Server::new(move |seen, _| match seen.header("authorization") {
        None => Reply::status(401).with("WWW-Authenticate", "Basic realm=r"),
        Some(_) if seen.path.contains("/blobs/") => {
            Reply::redirect(&format!("http://{to}{}", seen.path))
        }
        Some(_) => Reply::part(seen, &files[&seen.path]),
    });
    let home = of_user(&front.host);
    home.pull(&front.name("app:1")).unwrap();
    assert!(elsewhere.seen().len() == 2);
    assert!(
        elsewhere
            .seen()
            .iter()
            .all(|seen| seen.header("authorization").is_none())
    );
}

#[test]
fn tokens_are_not_fetched_from_just_anywhere() {
    let image = Made::new(&[10]);
    for (challenge, why) in [
        (r#"Bearer realm="http://r.example/""#, "without TLS"),
        (r#"Bearer realm="/token""#, "which is not a URL of a host"),
        ("Bearer", "which is not a URL of a host"),
        ("Negotiate", "of the kind negotiate"),
    ] {
        let server = guarded(&image, "x", move |_| challenge.to_owned());
        let message = of_user(&server.host).refuses(&server.name("app:1"));
        assert!(message.contains(why), "{message}");
    }
}

#[test]
fn answers_of_hosts_of_tokens_are_bounded_and_checked() {
    let image = Made::new(&[10]);
    for (body, why) in [
        (vec![b' '; (1 << 20) + 1], "a token has more than 1024 KiB"),
        (
            br#"{"token":"a\r\nHost: x"}"#.to_vec(),
            "is not in its answer",
        ),
        (br#"{"token":""}"#.to_vec(), "is not in its answer"),
        (b"{}".to_vec(), "is not in its answer"),
    ] {
        let tokens = Server::new(move |_, _| Reply::ok(&body));
        let realm = tokens.host.clone();
        let server = guarded(&image, "x", move |_| {
            format!(r#"Bearer realm="http://{realm}/""#)
        });
        let message = Home::new().refuses(&server.name("app:1"));
        assert!(message.contains(why), "{message}");
    }
}
