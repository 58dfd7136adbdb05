//! Requests that are carried out: bodies, keep-alive, other proxies, the clients that people use.

use std::io::{Read, Write};

use std::thread;

use super::*;

/// A server that keeps connections and answers each request with its head, and a body of that length.
fn echo_of_heads() -> SocketAddr {
    server(|mut stream| {
        loop {
            let head = head(&mut stream);
            if head.is_empty() {
                return;
            }
            let response = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}",
                head.len()
            );
            if stream.write_all(response.as_bytes()).is_err() {
                return;
            }
        }
    })
}

#[test]
fn a_request_reaches_its_server_with_a_path_and_the_urls_host() {
    let server = echo_of_heads();
    let net = Net::new(gateway(&allow(server)));
    let port = server.port();
    let response = net.ask(&format!(
        "GET http://A.test:{port}/x?y HTTP/1.1\r\nHost: other\r\nProxy-Connection: keep-alive\r\nA: b\r\n\r\n"
    ));
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert!(
        response.ends_with(&format!(
            "GET /x?y HTTP/1.1\r\nHost: a.test:{port}\r\nA: b\r\n\r\n"
        )),
        "{response}"
    );
    let record = net.record();
    let [reached] = &record.reached[..] else {
        panic!("{record:?}")
    };
    assert_eq!(
        (reached.host.as_str(), reached.port, reached.connections),
        ("a.test", port, 1)
    );
    let sent = format!("GET /x?y HTTP/1.1\r\nHost: a.test:{port}\r\nA: b\r\n\r\n").len() as u64;
    assert_eq!(reached.sent, sent);
    assert!(reached.received > sent && record.refused.is_empty());
}

#[test]
fn requests_behind_one_another_share_a_connection_to_their_server() {
    let server = echo_of_heads();
    let net = Net::new(gateway(&allow(server)));
    let port = server.port();
    let request = |n| format!("GET http://a.test:{port}/{n} HTTP/1.1\r\nHost: a.test\r\n\r\n");
    // All at once, as apt sends them, and without waiting for an answer.
    let response = net.ask(&(0..20).map(request).collect::<String>());
    for n in 0..20 {
        assert_eq!(
            response.matches(&format!("GET /{n} HTTP/1.1")).count(),
            1,
            "{n}"
        );
    }
    // One by one.
    let mut stream = net.connect();
    for n in 0..5 {
        stream.write_all(request(n).as_bytes()).unwrap();
        let head = head(&mut stream);
        let (_, length) = head.split_once("Content-Length: ").unwrap();
        let length = length.lines().next().unwrap().parse().unwrap();
        let mut body = vec![0; length];
        stream.read_exact(&mut body).unwrap();
        assert!(body.starts_with(format!("GET /{n} ").as_bytes()));
    }
    drop(stream);
    assert_eq!(net.record().reached[0].connections, 2);
}

#[test]
fn a_kept_connection_that_the_server_has_closed_is_replaced() {
    let server = answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let net = Net::new(gateway(&allow(server)));
    let mut stream = net.connect();
    for _ in 0..10 {
        write!(
            stream,
            "GET http://a.test:{}/ HTTP/1.1\r\n\r\n",
            server.port()
        )
        .unwrap();
        assert!(head(&mut stream).starts_with("HTTP/1.1 200 OK"));
        stream.read_exact(&mut [0; 2]).unwrap();
    }
    assert_eq!(net.record().reached[0].connections, 10);
}

#[test]
fn bodies_of_responses_end_as_each_framing_says() {
    for (response, expected) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
        ),
        (
            "HTTP/1.1 200 OK\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc",
        ),
        (
            "HTTP/1.0 200 OK\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc",
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n1\r\nc\r\n0\r\nT: u\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
        ),
        ("HTTP/1.1 204 No\r\n\r\n", "HTTP/1.1 204 No\r\n\r\n"),
        (
            "HTTP/1.1 304 Same\r\nContent-Length: 9\r\n\r\n",
            "HTTP/1.1 304 Same\r\nContent-Length: 9\r\n\r\n",
        ),
        (
            "HTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 103 Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        ),
    ] {
        let server = answering(response);
        let net = Net::new(gateway(&allow(server)));
        let answer = net.ask(&format!(
            "GET http://a.test:{}/ HTTP/1.1\r\n\r\n",
            server.port()
        ));
        assert_eq!(answer, expected, "{response}");
    }
    // An old client has neither chunks nor interim responses.
    let server = answering(
        "HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    );
    let net = Net::new(gateway(&allow(server)));
    let answer = net.ask(&format!(
        "GET http://a.test:{}/ HTTP/1.0\r\n\r\n",
        server.port()
    ));
    assert_eq!(answer, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc");
    let server = answering("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n");
    let net = Net::new(gateway(&allow(server)));
    let answer = net.ask(&format!(
        "HEAD http://a.test:{}/ HTTP/1.1\r\n\r\n",
        server.port()
    ));
    assert_eq!(answer, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n");
}

#[test]
fn a_response_that_is_cut_off_is_not_taken_for_a_whole_one() {
    for response in [
        "HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nx\r\n",
    ] {
        let server = answering(response);
        let net = Net::new(gateway(&allow(server)));
        let mut stream = net.connect();
        write!(
            stream,
            "GET http://a.test:{}/ HTTP/1.1\r\n\r\n",
            server.port()
        )
        .unwrap();
        assert!(head(&mut stream).starts_with("HTTP/1.1 200"));
        let mut body = Vec::new();
        let ended = stream.read_to_end(&mut body);
        assert!(ended.is_err(), "{response}: {body:?}");
    }
}

#[test]
fn bodies_of_requests_arrive_whole_in_their_framing() {
    let server = server(|mut stream| {
        let head = head(&mut stream);
        let mut body = Vec::new();
        match head.contains("Content-Length: 5") {
            true => {
                body.resize(5, 0);
                stream.read_exact(&mut body).unwrap();
            }
            false => {
                while !body.ends_with(b"0\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    body.push(byte[0]);
                }
            }
        }
        let length = head.len() + body.len();
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{head}"
        )
        .unwrap();
        stream.write_all(&body).unwrap();
    });
    let net = Net::new(gateway(&allow(server)));
    for (fields, body, expected) in [
        (
            "Content-Length: 5",
            "hello",
            "Content-Length: 5\r\n\r\nhello",
        ),
        (
            "Transfer-Encoding: chunked",
            "5;x\r\nhello\r\n0\r\nT: u\r\n\r\n",
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ),
    ] {
        let answer = net.ask(&format!(
            "POST http://a.test:{}/ HTTP/1.1\r\n{fields}\r\n\r\n{body}",
            server.port()
        ));
        assert!(answer.ends_with(expected), "{answer}");
    }
}

#[test]
fn a_client_that_expects_100_sends_its_body_when_the_server_says_so() {
    let server = server(|mut stream| {
        assert!(head(&mut stream).contains("\r\nExpect: 100-continue\r\n"));
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
        let mut body = [0; 5];
        stream.read_exact(&mut body).unwrap();
        stream
            .write_all(b"HTTP/1.1 201 Made\r\nContent-Length: 0\r\n\r\n")
            .unwrap();
    });
    let net = Net::new(gateway(&allow(server)));
    let mut stream = net.connect();
    write!(
        stream,
        "PUT http://a.test:{}/ HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
        server.port()
    )
    .unwrap();
    assert_eq!(head(&mut stream), "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").unwrap();
    assert_eq!(
        head(&mut stream),
        "HTTP/1.1 201 Made\r\nContent-Length: 0\r\n\r\n"
    );
}

#[test]
fn a_response_may_come_before_the_requests_body_was_read() {
    let server = answering("HTTP/1.1 413 Too much\r\nContent-Length: 2\r\n\r\nno");
    let net = Net::new(gateway(&allow(server)));
    let mut stream = net.connect();
    let length = 1u64 << 40;
    write!(
        stream,
        "PUT http://a.test:{}/ HTTP/1.1\r\nContent-Length: {length}\r\n\r\n",
        server.port()
    )
    .unwrap();
    // The client goes on sending until nothing takes it.
    let mut sending = stream.try_clone().unwrap();
    let sender = thread::spawn(move || while sending.write_all(&[0; 65536]).is_ok() {});
    assert!(head(&mut stream).starts_with("HTTP/1.1 413 Too much"));
    let mut body = [0; 2];
    stream.read_exact(&mut body).unwrap();
    assert_eq!(&body, b"no");
    sender.join().unwrap();
}

#[test]
fn a_server_that_answers_while_it_reads_holds_nothing_up() {
    // Every byte comes back at once: neither side can wait until the other has sent everything.
    let total = 8 << 20;
    let server = server(move |mut stream| {
        head(&mut stream);
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n").unwrap();
        let mut piece = vec![0; 65536];
        while let Ok(count) = stream.read(&mut piece) {
            if count == 0 || stream.write_all(&piece[..count]).is_err() {
                return;
            }
        }
    });
    let net = Net::new(gateway(&allow(server)));
    let mut stream = net.connect();
    write!(
        stream,
        "POST http://a.test:{}/ HTTP/1.1\r\nContent-Length: {total}\r\n\r\n",
        server.port()
    )
    .unwrap();
    let mut sending = stream.try_clone().unwrap();
    let sender = thread::spawn(move || sending.write_all(&vec![7; total]).unwrap());
    assert!(head(&mut stream).starts_with("HTTP/1.1 200"));
    let mut body = vec![0; total];
    stream.read_exact(&mut body).unwrap();
    assert!(body.iter().all(|&byte| byte == 7));
    sender.join().unwrap();
}

#[test]
fn a_redirect_to_a_forbidden_place_is_followed_by_the_client_alone_and_refused() {
    let forbidden = answering("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret");
    let server = {
        let port = forbidden.port();
        server(move |mut stream| {
            head(&mut stream);
            let _ = write!(
                stream,
                "HTTP/1.1 302 There\r\nLocation: http://127.1:{port}/\r\nContent-Length: 0\r\n\r\n"
            );
        })
    };
    let net = Net::new(gateway(&allow(server)));
    let answer = net.ask(&format!(
        "GET http://a.test:{}/ HTTP/1.1\r\n\r\n",
        server.port()
    ));
    assert!(answer.contains(&format!("Location: http://127.1:{}/", forbidden.port())));
    let answer = net.ask(&format!(
        "GET http://127.1:{}/ HTTP/1.1\r\n\r\n",
        forbidden.port()
    ));
    assert!(answer.starts_with("HTTP/1.1 403 127.0.0.1:") && !answer.contains("secret"));
}
