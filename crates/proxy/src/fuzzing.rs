//! The bodies of the fuzz targets: any bytes as a guest's frames, as a client's requests, as a server's response. Each panics
//! where a promise is broken.

use std::time::Duration;

use rdvm_proto::{NET_WINDOW, NetEvent, NetFrame, NetKind, NetSide, NetStreams};

use crate::body;
use crate::head::{Request, Response, Target};
use crate::input::{HEAD_MAX, HeadError, Input};

const LONG: Duration = Duration::from_secs(60);

/// Reads the bytes as the frames of a guest; every other piece of data stays where it is.
///
/// # Panics
/// A promise is broken.
pub fn frames(mut bytes: &[u8]) {
    let mut streams = NetStreams::new(NetSide::Host);
    let mut kept = [0; rdvm_proto::NET_SLOTS];
    while let Ok((frame, length)) = NetFrame::decode(bytes) {
        let mut again = vec![0; length];
        assert_eq!(frame.encode(&mut again), Some(length));
        assert_eq!(again, bytes[..length]);
        bytes = &bytes[length..];
        let Ok(event) = streams.receive(&frame) else {
            return;
        };
        match (event, frame.kind) {
            (NetEvent::Opened(slot, port), _) => {
                assert_eq!((port, kept[slot]), (0, 0));
                assert_eq!(streams.stream(slot), Some(frame.stream));
            }
            (NetEvent::Data(slot), NetKind::Data(data)) => {
                kept[slot] += data.len() as u32;
                assert!(kept[slot] <= NET_WINDOW);
                if data[0] & 1 == 0 {
                    streams.passed_on(slot, kept[slot] as usize);
                    kept[slot] = 0;
                    streams.grant(slot);
                }
            }
            (NetEvent::Credit(slot), _) => assert!(streams.room(slot) <= NET_WINDOW as usize),
            (NetEvent::Reset(slot), _) => {
                assert_eq!(streams.stream(slot), None);
                kept[slot] = 0;
            }
            _ => {}
        }
    }
}

/// Reads the bytes as the requests of a client. What is passed on has the host that was decided on, and is one message.
///
/// # Panics
/// A promise is broken.
pub fn requests(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    while let Ok(Some(head)) = input.head(LONG, LONG) {
        assert!(head.len() <= HEAD_MAX && head.ends_with(b"\r\n\r\n"));
        let Ok(request) = Request::parse(&head) else {
            return;
        };
        let host = request.host.to_string();
        assert!(
            host.bytes()
                .all(|byte| byte.is_ascii_graphic() && !b"/@\\?#%".contains(&byte))
        );
        assert!(request.port > 0);
        if let Target::Path(path) = &request.target {
            assert!(path == "*" || path.starts_with('/'));
            let whole = request.head(path, Some(""));
            if let Some(again) = valid(Request::parse(&whole)) {
                assert_eq!((&again.host, again.port), (&request.host, request.port));
                assert_eq!(again.framing, request.framing);
            }
            is_one_head(&request.head(path, None));
        }
        let mut copy = Vec::new();
        if body::copy(&mut input, request.framing, &mut copy, true).is_err() {
            return;
        }
    }
}

/// Reads the bytes as the response to a request; the first of them chooses its method.
///
/// # Panics
/// A promise is broken.
pub fn response(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else {
        return;
    };
    let method = ["GET", "HEAD"][usize::from(choice & 1)];
    let mut input = Input::new(bytes);
    let Ok(Some(head)) = input.head(LONG, LONG) else {
        return;
    };
    let Ok(response) = Response::parse(&head, method) else {
        return;
    };
    let in_chunks = response.framing == body::Framing::Chunked;
    let written = response.head(in_chunks, response.keeps_alive);
    is_one_head(&written);
    if let Some(again) = valid(Response::parse(&written, method)) {
        assert_eq!(again.status, response.status);
        assert_eq!(again.framing, response.framing);
    }
    let mut copy = Vec::new();
    if body::copy(&mut input, response.framing, &mut copy, in_chunks).is_ok() && in_chunks {
        let mut again = Input::new(&copy[..]);
        let mut plain = Vec::new();
        body::copy(&mut again, body::Framing::Chunked, &mut plain, false).expect("valid chunks");
    }
}

/// Returns what was parsed of a head that is passed on. It is valid, and may have a field more than are read.
fn valid<T>(parsed: Result<T, HeadError>) -> Option<T> {
    match parsed {
        Ok(parsed) => Some(parsed),
        Err(HeadError::TooLong) => None,
        Err(error) => panic!("{error:?}"),
    }
}

/// Checks that there is one empty line, at the end, and at most one length of the body.
fn is_one_head(head: &[u8]) {
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    assert_eq!(text.find("\r\n\r\n"), Some(text.len() - 4), "{text:?}");
    assert!(
        !text.replace("\r\n", "").contains(['\r', '\n', '\0']),
        "{text:?}"
    );
    let lengths = ["\r\ncontent-length:", "\r\ntransfer-encoding:"];
    let lengths = lengths.map(|name| text.matches(name).count());
    assert!(lengths[0] + lengths[1] <= 1, "{text:?}");
    assert!(text.matches("\r\nhost:").count() <= 1, "{text:?}");
}

#[cfg(test)]
mod tests {
    /// Bytes that the fuzz targets begin with, and each of them with a byte changed or its end missing.
    #[test]
    fn the_fuzz_targets_bear_their_seeds_and_damaged_ones() {
        let requests = b"POST http://a.example:81/x?y HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n\
            3;x\r\nabc\r\n0\r\nT: u\r\n\r\nGET http://[::1]/ HTTP/1.0\r\nContent-Length: 2\r\n\r\nab";
        let response = b"\0HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: x\r\n\r\n1\r\na\r\n0\r\n\r\n";
        let frames = b"\x02\0\0\0\x01\0\x02\0\0\0\x02\0\0\0\x02\0\x02\0ab\x02\0\0\0\x04\0\0\0\x02\0\0\0\x05\0\0\0";
        let seeds = [&requests[..], response, frames];
        let targets: [fn(&[u8]); 3] = [super::requests, super::response, super::frames];
        for (seed, target) in seeds.into_iter().zip(targets) {
            for at in 0..seed.len() {
                target(&seed[..at]);
                for byte in *b"\0\r\n :;,09aA@\xff" {
                    let mut damaged = seed.to_vec();
                    damaged[at] = byte;
                    target(&damaged);
                }
            }
        }
    }
}
