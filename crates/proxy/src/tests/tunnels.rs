//! Connections that carry any bytes: tunnels out of the guest, and published ports into it.

use super::*;

/// A server that sends back what it reads, and ends when that has ended.
fn echo() -> SocketAddr {
    server(|mut stream| {
        let mut piece = vec![0; 1 << 16];
        while let Ok(count) = stream.read(&mut piece) {
            if count == 0 || stream.write_all(&piece[..count]).is_err() {
                break;
            }
        }
    })
}

/// A server that reads to the end, and then answers with the number of bytes.
fn counter() -> SocketAddr {
    server(|mut stream| {
        let count = io::copy(&mut stream, &mut io::sink()).unwrap();
        write!(stream, "{count}").unwrap();
    })
}

fn tunnel(net: &Net, server: SocketAddr) -> TcpStream {
    let mut stream = net.connect();
    write!(
        stream,
        "CONNECT a.test:{} HTTP/1.1\r\nHost: a\r\n\r\n",
        server.port()
    )
    .unwrap();
    assert_eq!(
        head(&mut stream),
        "HTTP/1.1 200 Connection established\r\n\r\n"
    );
    stream
}

fn published(server: SocketAddr) -> (Published, SocketAddr) {
    let rule = format!("0:{}", server.port());
    let published = rule
        .parse::<crate::PublishRule>()
        .unwrap()
        .listen()
        .unwrap();
    let address = published.listener.local_addr().unwrap();
    (published, address)
}

/// Sends and receives so many bytes at once.
fn exchange(stream: &TcpStream, total: usize) {
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = stream;
            stream.write_all(&vec![5; total]).unwrap();
        });
        let mut bytes = vec![0; total];
        let mut stream = stream;
        stream.read_exact(&mut bytes).unwrap();
        assert!(bytes.iter().all(|&byte| byte == 5));
    });
}

#[test]
fn a_tunnel_carries_bytes_both_ways_at_once_and_each_end_by_itself() {
    let (echo, counter) = (echo(), counter());
    let net = Net::new(gateway(&[allow(echo), allow(counter)].concat()));
    exchange(&tunnel(&net, echo), 8 << 20);
    // The client ends first, and still gets the answer.
    let mut stream = tunnel(&net, counter);
    stream.write_all(&[0; 100_000]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut stream), "100000");
    // The server ends first, and still gets what the client sends.
    let (sender, received) = std::sync::mpsc::channel();
    let first = server(move |mut stream| {
        stream.write_all(b"bye").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        sender.send(rest(&mut stream)).unwrap();
    });
    let net = Net::new(gateway(&allow(first)));
    let mut stream = tunnel(&net, first);
    assert_eq!(rest(&mut stream), "bye");
    stream.write_all(b"and you").unwrap();
    drop(stream);
    assert_eq!(received.recv_timeout(LONG).unwrap(), "and you");
}

#[test]
fn a_tunnels_bytes_are_counted_and_what_was_sent_too_early_arrives() {
    let echo = echo();
    let net = Net::new(gateway(&allow(echo)));
    let mut stream = net.connect();
    write!(
        stream,
        "CONNECT a.test:{} HTTP/1.1\r\n\r\nearly",
        echo.port()
    )
    .unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let answer = rest(&mut stream);
    assert_eq!(answer, "HTTP/1.1 200 Connection established\r\n\r\nearly");
    let record = net.record();
    assert_eq!((record.reached[0].sent, record.reached[0].received), (5, 5));
}

#[test]
fn a_reset_of_the_servers_is_a_reset_for_the_client() {
    let server = server(|stream| {
        // Unread bytes make the end a reset.
        stream.peek(&mut [0]).unwrap();
    });
    let net = Net::new(gateway(&allow(server)));
    let mut stream = tunnel(&net, server);
    stream.write_all(b"unread").unwrap();
    let ended = stream.read_to_end(&mut Vec::new());
    assert!(ended.is_err(), "{ended:?}");
}

#[test]
fn a_client_that_is_gone_ends_the_connection_to_its_server() {
    let (sender, ended) = std::sync::mpsc::channel();
    let server = server(move |mut stream| {
        // A server that never answers learns of the end.
        sender.send(()).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
        sender.send(()).unwrap();
    });
    let net = Net::new(gateway(&allow(server)));
    for request in [
        "CONNECT a.test:{} HTTP/1.1\r\n\r\n",
        "GET http://a.test:{}/ HTTP/1.1\r\n\r\n",
    ] {
        let mut stream = net.connect();
        let request = request.replace("{}", &server.port().to_string());
        stream.write_all(request.as_bytes()).unwrap();
        ended.recv_timeout(LONG).unwrap();
        rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
        drop(stream);
        ended.recv_timeout(LONG).unwrap();
    }
}

#[test]
fn a_slow_reader_slows_its_own_server_and_no_other_connection() {
    let source = server(|mut stream| while stream.write_all(&[1; 65536]).is_ok() {});
    let echo = echo();
    let net = Net::new(gateway(&[allow(source), allow(echo)].concat()));
    let slow: Vec<_> = (0..8).map(|_| tunnel(&net, source)).collect();
    let received = || {
        let record = net.record();
        record
            .reached
            .iter()
            .find(|each| each.port == source.port())
            .unwrap()
            .received
    };
    // Nothing reads until the buffers are full.
    until("the buffers are full", || {
        let before = received();
        thread::sleep(Duration::from_millis(200));
        before > 0 && before == received()
    });
    let before = received();
    exchange(&tunnel(&net, echo), 4 << 20);
    assert!(
        received() - before < 1 << 20,
        "more is read than there is room for"
    );
    drop(slow);
}

#[test]
fn a_published_port_carries_connections_into_the_guest() {
    let (echo, counter) = (echo(), counter());
    let ((first, to_echo), (second, to_counter)) = (published(echo), published(counter));
    let net = Net::publishing(gateway(&[]), vec![first, second]);
    let connect = |address| {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
    };
    exchange(&connect(to_echo), 8 << 20);
    let mut stream = connect(to_counter);
    stream.write_all(&[0; 100_000]).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(&mut stream), "100000");
    // Beyond 64 at once connections wait until others have ended.
    thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| {
                let mut stream = connect(to_counter);
                stream.write_all(b"12345").unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
                assert_eq!(rest(&mut stream), "5");
            });
        }
    });
    assert_eq!(
        net.record(),
        Record::default(),
        "none of these is the guest's"
    );
}

#[test]
fn a_published_port_that_nothing_listens_behind_gives_a_reset() {
    // A port that was free a moment ago.
    let gone = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let (published, address) = published(gone);
    let _net = Net::publishing(gateway(&[]), vec![published]);
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    let ended = stream.read(&mut [0]);
    assert!(ended.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset));
}
