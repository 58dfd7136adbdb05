//! Guests that break the rules of the link, frame by frame.

use rdvm_proto::{FrameError, NET_PAYLOAD, NET_STREAMS, NET_WINDOW, NetFrame, NetKind};

use super::*;

/// A proxy's link, held by the test.
struct Link {
    stream: UnixStream,
    gateway: Arc<Gateway>,
    served: Option<JoinHandle<Result<(), LinkError>>>,
    received: Vec<u8>,
    /// Bytes of these that were returned.
    at: usize,
}

impl Link {
    fn new(gateway: Gateway) -> Self {
        let (gateway, (stream, theirs)) = (Arc::new(gateway), UnixStream::pair().unwrap());
        stream.set_read_timeout(Some(LONG)).unwrap();
        let served = {
            let gateway = Arc::clone(&gateway);
            let record = RecordFile::new().unwrap();
            thread::spawn(move || serve(theirs, &gateway, Vec::new(), record))
        };
        Self {
            stream,
            gateway,
            served: Some(served),
            received: Vec::new(),
            at: 0,
        }
    }

    fn send(&mut self, stream: u32, kind: NetKind<'_>) {
        let mut bytes = vec![0; rdvm_proto::NET_MAX];
        let length = NetFrame { stream, kind }.encode(&mut bytes).unwrap();
        // A link that the proxy has closed is what some tests wait for.
        let _ = self.stream.write_all(&bytes[..length]);
    }

    /// Returns the next frame: its stream, its kind as text, its bytes.
    fn next(&mut self) -> Option<(u32, String, Vec<u8>)> {
        loop {
            match NetFrame::decode(&self.received[self.at..]) {
                Ok((frame, length)) => {
                    let data = match frame.kind {
                        NetKind::Data(data) => data.to_vec(),
                        _ => Vec::new(),
                    };
                    let kind = match frame.kind {
                        NetKind::Data(_) => "Data".to_owned(),
                        kind => format!("{kind:?}"),
                    };
                    let stream = frame.stream;
                    self.at += length;
                    return Some((stream, kind, data));
                }
                Err(FrameError::Incomplete) => {}
                Err(error) => panic!("{error:?}"),
            }
            self.received.drain(..std::mem::take(&mut self.at));
            let mut piece = [0; 65536];
            match self.stream.read(&mut piece) {
                Ok(count) if count > 0 => self.received.extend(&piece[..count]),
                _ => return None,
            }
        }
    }

    /// Returns how the proxy ended the link.
    fn ended(mut self) -> Result<(), LinkError> {
        while self.next().is_some() {}
        self.served.take().unwrap().join().unwrap()
    }

    /// Closes the link, as a machine that is gone does.
    fn close(self) -> Result<(), LinkError> {
        self.stream.shutdown(Shutdown::Both).unwrap();
        self.ended()
    }
}

#[test]
fn each_frame_that_breaks_a_rule_ends_the_link_with_its_reason() {
    type Frames = &'static [(u32, NetKind<'static>)];
    let cases: [(Frames, &str); 9] = [
        (
            &[(2, NetKind::Data(b"x"))],
            "a frame for a stream that was never opened",
        ),
        (
            &[(4, NetKind::Open(0)), (6, NetKind::Finish)],
            "a frame for a stream that was never opened",
        ),
        (
            &[(1, NetKind::Reset)],
            "a frame for a stream that was never opened",
        ),
        (
            &[(2, NetKind::Open(0)), (2, NetKind::Open(0))],
            "a stream opened under a number",
        ),
        (
            &[(4, NetKind::Open(0)), (2, NetKind::Open(0))],
            "a stream opened under a number",
        ),
        (&[(3, NetKind::Open(0))], "a stream opened under a number"),
        (&[(2, NetKind::Open(22))], "a stream opened to a port"),
        (
            &[(2, NetKind::Open(0)), (2, NetKind::Credit(1))],
            "more credit than the window",
        ),
        (
            &[
                (2, NetKind::Open(0)),
                (2, NetKind::Finish),
                (2, NetKind::Data(b"x")),
            ],
            "data behind the end",
        ),
    ];
    for (frames, reason) in cases {
        let mut link = Link::new(gateway(&[]));
        for &(stream, kind) in frames {
            link.send(stream, kind);
            // All of them at once, so that no credit comes between.
        }
        let gateway = Arc::clone(&link.gateway);
        let ended = link.ended().unwrap_err().to_string();
        assert!(
            ended.starts_with(&format!("network: the guest sent {reason}")),
            "{frames:?}: {ended}"
        );
        assert_eq!(gateway.ledger.record().fault, Some(ended));
    }
}

#[test]
fn bytes_that_are_no_frame_end_the_link() {
    for (bytes, reason) in [
        (
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            "network: the guest sent bytes that are no frame",
        ),
        (
            &[2, 0, 0, 0, 9, 0, 0, 0],
            "network: the guest sent bytes that are no frame",
        ),
        (
            &[2, 0, 0, 0, 2, 0, 0xff, 0xff],
            "network: the guest sent bytes that are no frame",
        ),
        (&[2, 0, 0, 0, 1], "network: the link ended within a frame"),
    ] {
        let link = Link::new(gateway(&[]));
        (&link.stream).write_all(bytes).unwrap();
        link.stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(link.ended().unwrap_err().to_string(), reason);
    }
    Link::new(gateway(&[])).close().unwrap();
}

#[test]
fn the_sixty_fifth_stream_is_reset_at_once_and_a_million_cost_no_memory() {
    let mut link = Link::new(gateway(&[]));
    for at in 1..=NET_STREAMS as u32 {
        link.send(2 * at, NetKind::Open(0));
    }
    let mut reader = Link {
        stream: link.stream.try_clone().unwrap(),
        gateway: Arc::clone(&link.gateway),
        served: None,
        received: Vec::new(),
        at: 0,
    };
    let before = threads();
    let count = 200_000u32;
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut opens = Vec::new();
            for at in 0..count {
                let mut frame = [0; 10];
                let stream = 1000 + 2 * at;
                NetFrame {
                    stream,
                    kind: NetKind::Open(0),
                }
                .encode(&mut frame)
                .unwrap();
                opens.extend(frame);
            }
            link.stream.write_all(&opens).unwrap();
        });
        for at in 0..count {
            let (stream, kind, _) = reader.next().unwrap();
            assert_eq!((stream, kind.as_str()), (1000 + 2 * at, "Reset"));
        }
    });
    // The proxy has at most a thread for each stream, whatever else runs in this process.
    assert!(
        threads() < before + 4 * NET_STREAMS + 200,
        "{} threads",
        threads()
    );
    // A slot is free again once its stream and its thread are over.
    link.send(2, NetKind::Reset);
    let mut stream = 1000 + 2 * count;
    let start = std::time::Instant::now();
    loop {
        link.send(stream, NetKind::Open(0));
        link.send(stream, NetKind::Data(b"nonsense\r\n\r\n"));
        match reader.next().unwrap().1.as_str() {
            "Data" => break,
            kind => assert!(kind == "Reset" && start.elapsed() < LONG, "{kind}"),
        }
        stream += 2;
        thread::sleep(Duration::from_millis(5));
    }
    link.close().unwrap();
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

#[test]
fn frames_of_a_stream_that_was_reset_a_moment_ago_are_ignored() {
    let mut link = Link::new(gateway(&[]));
    link.send(2, NetKind::Open(0));
    link.send(2, NetKind::Data(b"nonsense\r\n\r\n"));
    // The answer and the end come from the proxy; the guest resets, and what it had sent before arrives late.
    link.send(2, NetKind::Reset);
    for kind in [
        NetKind::Data(b"late"),
        NetKind::Credit(5),
        NetKind::Finish,
        NetKind::Reset,
    ] {
        link.send(2, kind);
    }
    link.send(4, NetKind::Open(0));
    link.send(4, NetKind::Data(b"nonsense\r\n\r\n"));
    let answer =
        std::iter::from_fn(|| link.next()).find(|(stream, kind, _)| *stream == 4 && kind == "Data");
    assert!(answer.unwrap().2.starts_with(b"HTTP/1.1 400 "));
    link.close().unwrap();
}

#[test]
fn a_guest_that_gives_no_credit_gets_a_window_and_holds_up_no_other_stream() {
    let server = server(|mut stream| {
        head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[1; 65536]).is_ok() {}
    });
    let mut link = Link::new(gateway(&allow(server)));
    let request = format!("GET http://a.test:{}/ HTTP/1.1\r\n\r\n", server.port());
    link.send(2, NetKind::Open(0));
    link.send(2, NetKind::Data(request.as_bytes()));
    let mut sum = 0;
    while sum < NET_WINDOW as usize {
        let (stream, kind, data) = link.next().unwrap();
        assert_eq!((stream, kind.as_str()), (2, "Data"));
        sum += data.len();
    }
    assert_eq!(sum, NET_WINDOW as usize);
    // The other stream's frames are the next.
    link.send(4, NetKind::Open(0));
    link.send(4, NetKind::Data(b"nonsense\r\n\r\n"));
    let (stream, kind, _) = link.next().unwrap();
    assert_eq!((stream, kind.as_str()), (4, "Data"));
    // As much as there is credit for, and no more.
    link.send(2, NetKind::Credit(10));
    let more = std::iter::from_fn(|| link.next())
        .find(|(stream, _, _)| *stream == 2)
        .unwrap();
    assert_eq!(more.2.len(), 10);
    link.close().unwrap();
}

/// Returns the next credit, if one comes in time.
fn grant(link: &mut Link) -> Option<usize> {
    let (_, kind, _) = link.next()?;
    let count = kind.strip_prefix("Credit(")?.strip_suffix(')')?;
    Some(count.parse().unwrap())
}

/// A link whose stream 2 leads to a server that reads nothing until it is told to, with all bytes sent that there is credit for.
fn stalled() -> (Link, std::sync::mpsc::SyncSender<()>) {
    let (sender, go) = std::sync::mpsc::sync_channel::<()>(0);
    let go = std::sync::Mutex::new(go);
    let server = server(move |mut stream| {
        let _ = go.lock().unwrap().recv_timeout(LONG);
        let _ = io::copy(&mut stream, &mut io::sink());
    });
    let mut link = Link::new(gateway(&allow(server)));
    let request = format!("CONNECT a.test:{} HTTP/1.1\r\n\r\n", server.port());
    link.send(2, NetKind::Open(0));
    link.send(2, NetKind::Data(request.as_bytes()));
    assert_eq!(link.next().unwrap().1, "Data");
    let (mut credit, mut sent) = (NET_WINDOW as usize - request.len(), 0);
    link.stream
        .set_read_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    loop {
        while credit > 0 {
            let count = credit.min(NET_PAYLOAD);
            link.send(2, NetKind::Data(&vec![1; count]));
            (credit, sent) = (credit - count, sent + count);
        }
        match grant(&mut link) {
            Some(count) => credit += count,
            None => break,
        }
    }
    assert!(
        sent < 32 << 20,
        "{sent} bytes were taken for a server that reads nothing"
    );
    link.stream.set_read_timeout(Some(LONG)).unwrap();
    (link, sender)
}

#[test]
fn credit_is_given_for_what_is_passed_on_and_a_slow_server_gets_no_more() {
    let (mut link, go) = stalled();
    go.send(()).unwrap();
    assert!(
        grant(&mut link).is_some(),
        "credit comes when the server reads"
    );
    link.close().unwrap();
}

#[test]
fn a_guest_that_waits_for_no_credit_ends_the_link() {
    let (mut link, _go) = stalled();
    link.send(2, NetKind::Data(&[1; NET_PAYLOAD]));
    let ended = link.ended().unwrap_err().to_string();
    assert_eq!(
        ended,
        "network: the guest sent more data than there was credit for"
    );
}

#[test]
fn a_link_that_ends_ends_everything() {
    let (sender, ended) = std::sync::mpsc::channel();
    let server = server(move |mut stream| {
        head(&mut stream);
        sender.send(()).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
        sender.send(()).unwrap();
    });
    let mut link = Link::new(gateway(&allow(server)));
    let request = format!("GET http://a.test:{}/ HTTP/1.1\r\n\r\n", server.port());
    link.send(2, NetKind::Open(0));
    link.send(2, NetKind::Data(request.as_bytes()));
    ended.recv_timeout(LONG).unwrap();
    link.close().unwrap();
    ended.recv_timeout(LONG).unwrap();
}
