//! Requests that go through another proxy.

use super::*;

#[test]
fn an_upstream_proxy_gets_whole_urls_tunnels_and_credentials() {
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let upstream = {
        let seen = Arc::clone(&seen);
        server(move |mut stream| {
            let head = head(&mut stream);
            let is_tunnel = head.starts_with("CONNECT");
            seen.lock().unwrap().push(head);
            match is_tunnel {
                true => {
                    stream
                        .write_all(b"HTTP/1.0 200 OK\r\nX: y\r\n\r\n")
                        .unwrap();
                    let mut bytes = [0; 4];
                    stream.read_exact(&mut bytes).unwrap();
                    stream.write_all(&bytes).unwrap();
                }
                false => stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    .unwrap(),
            }
        })
    };
    let mut gateway = gateway(&["far.example".into(), "far.example:8443".into()]);
    // It is not subject to the rules.
    gateway.upstream = Some(
        format!("http://u:p@proxy.test:{}", upstream.port())
            .parse()
            .unwrap(),
    );
    let net = Net::new(gateway);
    let answer =
        net.ask("GET http://far.example/x HTTP/1.1\r\nProxy-Authorization: Basic own\r\n\r\n");
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
    let mut stream = net.connect();
    stream
        .write_all(b"CONNECT far.example:8443 HTTP/1.1\r\n\r\nping")
        .unwrap();
    assert!(head(&mut stream).starts_with("HTTP/1.1 200 "));
    let mut bytes = [0; 4];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"ping");
    let refused = net.ask("GET http://other.example/ HTTP/1.1\r\n\r\n");
    assert!(refused.starts_with(
        "HTTP/1.1 403 other.example:80: is not allowed; --rule other.example allows it\r\n"
    ));
    assert!(
        net.ask("GET http://127.0.0.1/ HTTP/1.1\r\n\r\n")
            .starts_with("HTTP/1.1 403 ")
    );
    assert_eq!(
        *seen.lock().unwrap(),
        [
            "GET http://far.example/x HTTP/1.1\r\nHost: far.example\r\nProxy-Authorization: Basic dTpw\r\n\r\n",
            "CONNECT far.example:8443 HTTP/1.1\r\nHost: far.example:8443\r\nProxy-Authorization: Basic dTpw\r\n\r\n",
        ]
    );
    let reached: Vec<_> = net
        .record()
        .reached
        .iter()
        .map(|each| (each.host.clone(), each.port))
        .collect();
    assert_eq!(
        reached,
        [
            ("far.example".to_owned(), 80),
            ("far.example".to_owned(), 8443)
        ]
    );
}

#[test]
fn an_upstream_proxy_that_refuses_is_named() {
    let denied = answering("HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n");
    let mut gateway = gateway(&["far.example".into()]);
    gateway.upstream = Some(
        format!("http://proxy.test:{}", denied.port())
            .parse()
            .unwrap(),
    );
    let net = Net::new(gateway);
    let answer = net.ask("GET http://far.example/ HTTP/1.1\r\n\r\n");
    let line = "HTTP/1.1 502 far.example:80: the upstream proxy does not accept the credentials; name it with the user and password";
    assert!(answer.starts_with(line), "{answer}");
    let answer = net.ask("CONNECT far.example:443 HTTP/1.1\r\n\r\n");
    let line =
        "HTTP/1.1 502 far.example:443: the upstream proxy does not accept the credentials; name it";
    assert!(answer.starts_with(line), "{answer}");
}

#[test]
fn an_upstream_proxy_that_cannot_be_reached_is_named() {
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let mut gateway = gateway(&["far.example".into()]);
    gateway.upstream = Some(format!("http://u:secret@{closed}").parse().unwrap());
    let net = Net::new(gateway);
    for request in [
        "GET http://far.example/ HTTP/1.1\r\n\r\n",
        "CONNECT far.example:443 HTTP/1.1\r\n\r\n",
    ] {
        let answer = net.ask(request);
        let line = format!(
            "HTTP/1.1 502 upstream proxy http://{closed}: no connection: Connection refused; "
        );
        assert!(
            answer.starts_with(&line) && !answer.contains("secret"),
            "{answer}"
        );
    }
}
