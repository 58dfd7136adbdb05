//! Many connections, large bodies, and the clients that people use.

use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::*;
use crate::skips::missing;

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

/// Runs curl; returns what it prints, and its exit code. `None` without curl.
fn curl(net: &Net, args: &[&str]) -> Option<(String, i32)> {
    let mut command = Command::new("curl");
    let proxy = format!("http://{}", net.proxy);
    command
        .args(["-sS", "-m", "60", "--proxy", &proxy])
        .args(args)
        .env_clear();
    let Ok(output) = command.output() else {
        missing("curl");
        return None;
    };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
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
