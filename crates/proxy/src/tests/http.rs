//! Requests that are carried out: bodies, keep-alive, other proxies, the clients that people use.

use std::io::{Read, Write};

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

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
    let line = "HTTP/1.1 502 far.example:80: the upstream proxy does not accept the credentials; ";
    assert!(answer.starts_with(line), "{answer}");
    let answer = net.ask("CONNECT far.example:443 HTTP/1.1\r\n\r\n");
    let line = "HTTP/1.1 502 far.example:443: the upstream proxy answered 407 Who are you; ";
    assert!(answer.starts_with(line), "{answer}");
}

#[test]
fn sixty_four_connections_work_at_once_and_one_more_waits_for_none_of_them() {
    let waiting = Arc::new(AtomicUsize::new(0));
    let server = {
        let waiting = Arc::clone(&waiting);
        server(move |mut stream| {
            head(&mut stream);
            waiting.fetch_add(1, Relaxed);
            until("64 at once", || waiting.load(Relaxed) >= 64);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        })
    };
    let net = Net::new(gateway(&allow(server)));
    let request = format!(
        "GET http://a.test:{}/ HTTP/1.1\r\nConnection: close\r\n\r\n",
        server.port()
    );
    thread::scope(|scope| {
        let all: Vec<_> = (0..64).map(|_| scope.spawn(|| net.ask(&request))).collect();
        for one in all {
            assert!(one.join().unwrap().ends_with("ok"));
        }
    });
    // The places are free again.
    assert!(net.ask(&request).ends_with("ok"));
    assert_eq!(net.record().reached[0].connections, 65);
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

/// The bytes of a large body, so that a lost or doubled piece is found.
fn pattern(at: u64) -> u8 {
    (at ^ at >> 8 ^ at >> 16) as u8
}

/// 64 MiB, or 1 GiB with RDVM_TEST_LONG, in which no memory grows.
#[test]
fn a_large_body_comes_as_it_is_in_memory_that_does_not_grow() {
    let total: u64 = match std::env::var_os("RDVM_TEST_LONG") {
        Some(_) => 1 << 30,
        None => 64 << 20,
    };
    let server = server(move |mut stream| {
        head(&mut stream);
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n\r\n").unwrap();
        let piece: Vec<u8> = (0..1 << 24).map(pattern).collect();
        for _ in 0..total >> 24 {
            stream.write_all(&piece).unwrap();
        }
    });
    let net = Net::new(gateway(&allow(server)));
    let mut stream = net.connect();
    write!(
        stream,
        "GET http://a.test:{}/ HTTP/1.1\r\n\r\n",
        server.port()
    )
    .unwrap();
    assert!(head(&mut stream).starts_with("HTTP/1.1 200"));
    // What lies between server and client while nothing is read: windows and the kernel's buffers.
    thread::sleep(Duration::from_millis(300));
    let received = net.record().reached[0].received;
    assert!(
        received < 16 << 20,
        "{received} bytes were read ahead of the client"
    );
    let (mut at, mut piece) = (0, vec![0; 1 << 16]);
    let start = std::time::Instant::now();
    while at < total {
        let count = stream.read(&mut piece).unwrap();
        assert!(count > 0, "only {at} bytes");
        let is_right = piece[..count]
            .iter()
            .zip(at..)
            .all(|(&byte, at)| byte == pattern(at % (1 << 24)));
        assert!(is_right, "at {at}");
        at += count as u64;
    }
    let rate = total as f64 / 1e6 / start.elapsed().as_secs_f64();
    println!("{} MiB at {rate:.0} MB/s", total >> 20);
}

/// Runs curl; its output, its exit code and what it says of an error. Without curl the other tests are what there is.
fn curl(net: &Net, args: &[&str]) -> Option<(String, i32)> {
    let mut command = Command::new("curl");
    let proxy = format!("http://{}", net.proxy);
    command
        .args(["-sS", "--max-time", "60", "--proxy", &proxy])
        .args(args)
        .env_clear();
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "curl: {error}");
            return None;
        }
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    Some((text, output.status.code().unwrap()))
}

#[test]
fn curl_downloads_uploads_and_is_told_why_it_is_refused() {
    let server = server(|mut stream| {
        let request = head(&mut stream);
        let length: usize = request
            .lines()
            .find_map(|line| line.strip_prefix("Content-Length: "))
            .map_or(0, |n| n.parse().unwrap());
        if request.contains("100-continue") {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).unwrap();
        let sum: u64 = body.iter().map(|&byte| u64::from(byte)).sum();
        let answer = format!("{length} bytes, sum {sum}\n");
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{answer}\r\n0\r\n\r\n",
            answer.len()
        )
        .unwrap();
    });
    let net = Net::new(gateway(&allow(server)));
    let url = format!("http://a.test:{}/x", server.port());
    let Some(answer) = curl(&net, &[&url]) else {
        return;
    };
    assert_eq!(answer, ("0 bytes, sum 0\n".into(), 0));
    // By CONNECT, through which curl sends plain HTTP here.
    assert_eq!(
        curl(&net, &["--proxytunnel", &url]),
        Some(("0 bytes, sum 0\n".into(), 0))
    );
    let file = std::env::temp_dir().join(format!("rdvm-proxy-{}", std::process::id()));
    std::fs::write(&file, vec![1; 3 << 20]).unwrap();
    let upload = curl(&net, &["-T", file.to_str().unwrap(), &url]).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert_eq!(upload, ("3145728 bytes, sum 3145728\n".into(), 0));
    let (refused, code) = curl(&net, &["-v", "http://evil.test/"]).unwrap();
    let line = "evil.test:80: is not allowed; --rule evil.test allows it";
    assert_eq!(code, 0, "{refused}");
    assert!(
        refused.starts_with(&format!("{line}\n"))
            && refused.contains(&format!("HTTP/1.1 403 {line}")),
        "{refused}"
    );
    let (refused, code) = curl(&net, &["-v", "https://evil.test/"]).unwrap();
    assert_eq!(code, 56, "{refused}");
    let line = line.replace(":80", ":443");
    assert!(
        refused.contains(&format!("HTTP/1.1 403 {line}")),
        "{refused}"
    );
}

#[test]
fn a_connection_may_be_to_ipv6_and_the_next_address_is_tried() {
    let server = server_on("::1".parse().unwrap(), |mut stream| {
        head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    });
    let mut gateway = gateway(&allow(server));
    // Nothing listens at the first.
    gateway.resolve = Box::new(|_| Ok(vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()]));
    let net = Net::new(gateway);
    for host in ["a.test", "[::1]", "[0:0:0:0:0:0:0:1]"] {
        let answer = net.ask(&format!(
            "GET http://{host}:{}/ HTTP/1.1\r\n\r\n",
            server.port()
        ));
        assert!(answer.ends_with("ok"), "{host}: {answer}");
    }
}
