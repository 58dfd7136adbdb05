//! Clients, servers and names that mean harm: one defined outcome each.

use std::sync::Mutex;
use std::time::Instant;

use super::*;

/// A gateway whose time runs out at once.
fn hasty(rules: &[String]) -> Gateway {
    let mut gateway = gateway(rules);
    gateway.patience.head = Duration::from_millis(300);
    gateway.patience.answer = Duration::from_millis(300);
    gateway.patience.linger = Duration::from_millis(300);
    gateway
}

/// Every request that is refused, whole as it is sent, with the start of the answer.
#[test]
fn each_hostile_request_has_its_answer_and_reaches_no_server() {
    let server = server(|_| panic!("a server was reached"));
    let net = Net::new(hasty(&allow(server)));
    let port = server.port();
    let long = "x".repeat(20_000);
    for (request, status) in [
        // Lengths and lines that programs read differently.
        (
            "POST http://a.test:PORT/ HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "POST http://a.test:PORT/ HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
            400,
        ),
        (
            "POST http://a.test:PORT/ HTTP/1.1\r\nTransfer-Encoding: identity, chunked\r\n\r\n",
            400,
        ),
        ("GET http://a.test:PORT/ HTTP/1.1\nHost: a.test\n\n", 400),
        (
            "GET http://a.test:PORT/ HTTP/1.1\r\nA: b\nC: d\r\n\r\n",
            400,
        ),
        (
            "GET http://a.test:PORT/ HTTP/1.1\r\nA: b\r\n folded\r\n\r\n",
            400,
        ),
        ("GET http://a.test:PORT/ HTTP/1.1\r\nA : b\r\n\r\n", 400),
        ("GET http://a.test:PORT/ HTTP/1.1\r\nA: b\0\r\n\r\n", 400),
        ("GET http://a.test:PORT/\0 HTTP/1.1\r\n\r\n", 400),
        (
            "GET http://a.test:PORT/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            400,
        ),
        // Hosts that are not what they seem.
        ("GET http://a.test:PORT@evil.example/ HTTP/1.1\r\n\r\n", 400),
        (
            "GET http://allowed.test@127.0.0.1:PORT/ HTTP/1.1\r\n\r\n",
            400,
        ),
        ("CONNECT a.test:80@127.0.0.1:PORT HTTP/1.1\r\n\r\n", 400),
        ("GET http://b\u{fc}cher.test:PORT/ HTTP/1.1\r\n\r\n", 400),
        ("GET http://a.test:PORT\\.evil/ HTTP/1.1\r\n\r\n", 400),
        ("GET http://[fe80::1%lo]:PORT/ HTTP/1.1\r\n\r\n", 400),
        ("GET http://%61.test:PORT/ HTTP/1.1\r\n\r\n", 400),
        ("GET /etc/passwd HTTP/1.1\r\nHost: a.test\r\n\r\n", 400),
        ("GET file:///etc/passwd HTTP/1.1\r\n\r\n", 400),
        ("CONNECT a.test HTTP/1.1\r\n\r\n", 400),
        // Addresses of the loopback on a port that no rule has.
        ("GET http://127.0.0.1:1/ HTTP/1.1\r\n\r\n", 403),
        ("GET http://2130706433:1/ HTTP/1.1\r\n\r\n", 403),
        ("GET http://0x7f000001:1/ HTTP/1.1\r\n\r\n", 403),
        ("GET http://0177.0.0.1:1/ HTTP/1.1\r\n\r\n", 403),
        ("GET http://127.1:1/ HTTP/1.1\r\n\r\n", 403),
        ("GET http://0:1/ HTTP/1.1\r\n\r\n", 403),
        ("CONNECT [::ffff:7f00:1]:1 HTTP/1.1\r\n\r\n", 403),
        ("CONNECT [::]:PORT HTTP/1.1\r\n\r\n", 403),
        ("CONNECT [64:ff9b::7f00:1]:PORT HTTP/1.1\r\n\r\n", 403),
        ("CONNECT 169.254.169.254:80 HTTP/1.1\r\n\r\n", 403),
        ("GET http://evil.example:PORT/ HTTP/1.1\r\n\r\n", 403),
        ("GET http://a.test.evil.example:PORT/ HTTP/1.1\r\n\r\n", 403),
        // Too much, too long, not HTTP.
        ("GET http://a.test:PORT/LONG HTTP/1.1\r\n\r\n", 431),
        ("GET http://a.test:PORT/ HTTP/1.1\r\nA: LONG\r\n\r\n", 431),
        ("LONG", 431),
        ("GET http://a.test:PORT/ HTTP/1.1\r\nA: ", 408),
        ("\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03\r\n\r\n", 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        ("\r\n\r\n\r\n", 400),
    ] {
        let whole = request
            .replace("PORT", &port.to_string())
            .replace("LONG", &long);
        let answer = net.ask(&whole);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{request:?}: {answer:?}"
        );
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let line = head
            .lines()
            .next()
            .unwrap()
            .split_once(&format!("{status} "))
            .unwrap()
            .1;
        assert_eq!(body, format!("{line}\n"), "{request:?}");
        assert!(line.contains("; "), "{line}: no way out");
    }
    let record = net.record();
    assert!(record.reached.is_empty(), "{record:?}");
    let refused = |host: &str| {
        record
            .refused
            .iter()
            .find(|each| each.host == host)
            .unwrap()
    };
    // One address, in all its notations.
    assert_eq!(
        (refused("127.0.0.1").port, refused("127.0.0.1").times),
        (1, 6)
    );
    assert_eq!(refused("evil.example").reason, "is not allowed");
}

#[test]
fn bodies_that_are_not_valid_reach_no_server_as_whole_ones() {
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let server = {
        let bodies = Arc::clone(&bodies);
        server(move |mut stream| {
            head(&mut stream);
            let body = rest(&mut stream);
            bodies.lock().unwrap().push(body);
        })
    };
    let net = Net::new(hasty(&allow(server)));
    let cases = [
        "Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: \0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "Content-Length: 10\r\n\r\nabc",
    ];
    for fields in cases {
        let answer = net.ask(&format!(
            "POST http://a.test:{}/ HTTP/1.1\r\n{fields}",
            server.port()
        ));
        assert!(
            answer.starts_with("HTTP/1.1 400 "),
            "{fields:?}: {answer:?}"
        );
    }
    until("the server has read them", || {
        bodies.lock().unwrap().len() == cases.len()
    });
    assert!(
        bodies
            .lock()
            .unwrap()
            .iter()
            .all(|body| !body.contains("0\r\n\r\n"))
    );
}

#[test]
fn what_follows_a_message_is_not_a_second_one_for_the_server() {
    // A smuggled request in a body, in the rest of a connection, and behind a tunnel's head.
    let heads = Arc::new(Mutex::new(Vec::new()));
    let server = {
        let heads = Arc::clone(&heads);
        server(move |mut stream| {
            let head = head(&mut stream);
            heads.lock().unwrap().push(head);
            let _ = stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        })
    };
    let net = Net::new(hasty(&allow(server)));
    let answer = net.ask(&format!(
        "GET http://a.test:{port}/ HTTP/1.1\r\nContent-Length: 0\r\n\r\nGET /secret HTTP/1.1\r\nHost: evil\r\n\r\n",
        port = server.port()
    ));
    // The second is a request to the proxy, in a form that it refuses.
    assert!(
        answer.starts_with("HTTP/1.1 200 OK") && answer.contains("HTTP/1.1 400 "),
        "{answer}"
    );
    assert_eq!(heads.lock().unwrap().len(), 1);
}

#[test]
fn each_hostile_response_has_its_answer() {
    let flood: &'static str =
        Box::leak(format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(1 << 20)).into());
    let interim: &'static str = Box::leak("HTTP/1.1 100 Go\r\n\r\n".repeat(100).into());
    for (response, reason) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "both Content-Length and",
        ),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            "two lengths",
        ),
        (
            "HTTP/1.1 200 OK\nA: b\n\n",
            "a line that does not end in CR and LF",
        ),
        ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", "a field's name"),
        ("HTTP/1.1 200 OK\r\nA: \0\r\n\r\n", "a NUL"),
        (
            "HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\n\r\n",
            "switched to another protocol",
        ),
        ("SSH-2.0-OpenSSH\r\n\r\n", "not valid"),
        ("", "closed the connection without an answer"),
        (
            "HTTP/1.1 200 OK\r\nA: b",
            "closed the connection without an answer",
        ),
        (flood, "too long"),
        (interim, "no final response"),
    ] {
        let server = answering(response);
        let net = Net::new(hasty(&allow(server)));
        let answer = net.ask(&format!(
            "GET http://a.test:{}/ HTTP/1.1\r\n\r\n",
            server.port()
        ));
        let last = answer
            .rsplit_once("HTTP/1.1 502 ")
            .unwrap_or_else(|| panic!("{response:.80?}: {answer:?}"))
            .1;
        assert!(last.contains(reason), "{response:.80?}: {last}");
    }
}

#[test]
fn a_server_that_never_answers_is_given_up_unless_it_is_still_sent_to() {
    let silent = server(|mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let net = Net::new(hasty(&allow(silent)));
    let mut stream = net.connect();
    write!(
        stream,
        "GET http://a.test:{}/ HTTP/1.1\r\n\r\n",
        silent.port()
    )
    .unwrap();
    let answer = rest(&mut stream);
    assert!(answer.starts_with(&format!(
        "HTTP/1.1 504 a.test:{}: the server did not answer; ",
        silent.port()
    )));
    // An upload that takes longer than an answer may.
    let mut stream = net.connect();
    write!(
        stream,
        "PUT http://a.test:{}/ HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n",
        silent.port()
    )
    .unwrap();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(1200) {
        stream.write_all(b"slow").unwrap();
        thread::sleep(Duration::from_millis(50));
    }
    stream.set_nonblocking(true).unwrap();
    let early = stream.read(&mut [0; 100]);
    assert!(early.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock));
    stream.set_nonblocking(false).unwrap();
    // Now it stops.
    assert!(rest(&mut stream).starts_with("HTTP/1.1 504 "));
}

#[test]
fn a_server_that_accepts_nothing_and_a_name_that_is_none_are_told_apart() {
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let mut gateway = gateway(&[allow(closed), vec!["*.example".into()]].concat());
    gateway.patience.connect = Duration::from_millis(300);
    let net = Net::new(gateway);
    let answer = net.ask(&format!(
        "CONNECT a.test:{} HTTP/1.1\r\n\r\n",
        closed.port()
    ));
    let expected = format!(
        "HTTP/1.1 502 a.test:{}: no connection: Connection refused; ",
        closed.port()
    );
    assert!(answer.starts_with(&expected), "{answer}");
    let answer = net.ask("CONNECT none.example:80 HTTP/1.1\r\n\r\n");
    let expected = "HTTP/1.1 502 none.example:80: the name was not resolved: no such name; ";
    assert!(answer.starts_with(expected), "{answer}");
    assert!(net.record().reached.is_empty());
}

#[test]
fn a_name_is_looked_up_once_and_only_its_permitted_addresses_are_used() {
    let server = answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let looked_up = Arc::new(Mutex::new(0));
    let mut gateway = hasty(&[
        format!("*.test:{}", server.port()),
        format!("127.0.0.1:{}", server.port()),
    ]);
    gateway.resolve = {
        let looked_up = Arc::clone(&looked_up);
        Box::new(move |name| {
            *looked_up.lock().unwrap() += 1;
            let addresses: &[&str] = match (name, *looked_up.lock().unwrap()) {
                // The first look-up is harmless, the second is not.
                ("rebound.test", 1) => &["127.0.0.1"],
                ("rebound.test", _) => &["127.0.0.2"],
                ("mixed.test", _) => &["10.0.0.1", "::ffff:127.0.0.3", "127.0.0.1"],
                _ => &["10.0.0.1", "fd00:ec2::254", "169.254.169.254"],
            };
            Ok(addresses
                .iter()
                .map(|address| address.parse().unwrap())
                .collect())
        })
    };
    let net = Net::new(gateway);
    let ask = |name: &str| {
        net.ask(&format!(
            "GET http://{name}.test:{}/ HTTP/1.1\r\n\r\n",
            server.port()
        ))
    };
    assert!(ask("rebound").ends_with("ok"));
    assert_eq!(*looked_up.lock().unwrap(), 1);
    let refused = ask("rebound");
    let expected = format!(
        "HTTP/1.1 403 rebound.test:{0}: leads to 127.0.0.2, which is loopback; --rule 127.0.0.2:{0} allows it\r\n",
        server.port()
    );
    assert!(refused.starts_with(&expected), "{refused}");
    assert!(ask("mixed").ends_with("ok"));
    assert!(ask("private").contains("leads to 10.0.0.1, which is private"));
    let record = net.record();
    assert_eq!(record.refused.len(), 2);
    assert!(
        record
            .reached
            .iter()
            .all(|each| each.host != "private.test")
    );
}
