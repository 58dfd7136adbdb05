//! A buffered stream, from which heads are read under limits of length and time, and bodies piece by piece.

use std::io::{self, ErrorKind, Read};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// The longest head of a request or response in bytes.
pub(crate) const HEAD_MAX: usize = 16 << 10;
/// The size of the buffer.
const BUFFER: usize = 32 << 10;

/// A stream whose reads can be limited in time.
pub(crate) trait Timed: Read {
    /// Sets how long a read waits, `None` for without end.
    fn set_patience(&self, patience: Option<Duration>) -> io::Result<()>;
}

impl Timed for &UnixStream {
    fn set_patience(&self, patience: Option<Duration>) -> io::Result<()> {
        self.set_read_timeout(patience)
    }
}

/// Why there is no head.
#[derive(Debug)]
pub(crate) enum HeadError {
    /// It has more than [`HEAD_MAX`] bytes, or more fields than are read.
    TooLong,
    /// It is not what the standard says.
    Malformed(&'static str),
    /// Its time is up.
    Late,
    /// The stream ended or failed.
    Gone,
}

/// A stream with a buffer.
#[derive(Debug)]
pub(crate) struct Input<S> {
    stream: S,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl<S: Timed> Input<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            buffer: vec![0; BUFFER].into(),
            start: 0,
            end: 0,
        }
    }

    /// Returns the bytes that were read and not consumed.
    pub(crate) fn buffered(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.start += count;
    }

    /// Returns at least one byte, of the buffer or else of the stream; none at the stream's end.
    pub(crate) fn piece(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            self.fill()?;
        }
        Ok(self.buffered())
    }

    /// Reads more into the buffer, which is not full; returns false at the stream's end.
    pub(crate) fn fill(&mut self) -> io::Result<bool> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        loop {
            match self.stream.read(&mut self.buffer[self.end..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(count) => {
                    self.end += count;
                    return Ok(count > 0);
                }
            }
        }
    }

    /// Limits the time of the reads that follow.
    pub(crate) fn set_patience(&self, patience: Option<Duration>) {
        // It fails for a duration of zero, which nothing here has.
        let _ = self.stream.set_patience(patience);
    }

    /// Reads a head with its empty line. Its first byte has the time `first`, all the rest together `rest`. `None` if the
    /// stream ends before the first byte.
    pub(crate) fn head(
        &mut self,
        first: Duration,
        rest: Duration,
    ) -> Result<Option<Vec<u8>>, HeadError> {
        let (mut seen, mut deadline) = (0, None);
        loop {
            // An empty line in front is left over from a body that was followed by one.
            if seen == 0 && self.buffered().starts_with(b"\r\n") {
                self.consume(2);
            }
            let bytes = self.buffered();
            let length = end_of_head(bytes, &mut seen).map_err(HeadError::Malformed)?;
            if length.unwrap_or(bytes.len()) > HEAD_MAX {
                return Err(HeadError::TooLong);
            }
            if let Some(length) = length {
                let head = bytes[..length].to_vec();
                self.consume(length);
                return Ok(Some(head));
            }
            let is_empty = bytes.is_empty();
            let patience = match is_empty {
                true => first,
                false => {
                    let deadline = *deadline.get_or_insert_with(|| Instant::now() + rest);
                    deadline.saturating_duration_since(Instant::now())
                }
            };
            if patience.is_zero() {
                return Err(HeadError::Late);
            }
            self.set_patience(Some(patience));
            match self.fill() {
                Ok(true) => {}
                Ok(false) if is_empty => return Ok(None),
                Err(error) if is_timeout(&error) => return Err(HeadError::Late),
                Ok(false) | Err(_) => return Err(HeadError::Gone),
            }
        }
    }

    /// Reads a line of at most `max` bytes, and returns it without its end.
    pub(crate) fn line(&mut self, max: usize) -> Result<Vec<u8>, HeadError> {
        let mut seen = 0;
        loop {
            let bytes = self.buffered();
            let unseen = &bytes[seen..];
            if let Some(at) = unseen.iter().position(|&byte| byte == b'\n') {
                let line = &bytes[..seen + at];
                let line = line
                    .strip_suffix(b"\r")
                    .ok_or(BARE)
                    .map_err(HeadError::Malformed)?;
                if line.iter().any(|&byte| byte < b' ' && byte != b'\t') {
                    return Err(HeadError::Malformed("a control character in a line"));
                }
                let line = line.to_vec();
                self.consume(line.len() + 2);
                return Ok(line);
            }
            seen = bytes.len();
            if seen >= max {
                return Err(HeadError::TooLong);
            }
            if !self.fill().map_err(|_| HeadError::Gone)? {
                return Err(HeadError::Gone);
            }
        }
    }
}

const BARE: &str = "a line that does not end in CR and LF";

/// Returns true if a read took longer than it may.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Returns the length of the head at the start of `bytes` if its empty line is there. `seen` is how many bytes need not be
/// looked at again. Lines end in CR and LF and there are no other of these: what one program takes for the end of a line is
/// the end for all.
fn end_of_head(bytes: &[u8], seen: &mut usize) -> Result<Option<usize>, &'static str> {
    while let Some(&byte) = bytes.get(*seen) {
        let before = seen.checked_sub(1).map(|at| bytes[at]);
        match byte {
            0 => return Err("a NUL"),
            b'\n' if before != Some(b'\r') => return Err(BARE),
            b'\n' if bytes[..*seen - 1].ends_with(b"\r\n") => return Ok(Some(*seen + 1)),
            b'\n' => {}
            _ if before == Some(b'\r') => return Err("a CR inside of a line"),
            _ => {}
        }
        *seen += 1;
    }
    Ok(None)
}

/// Ends the sending direction, and discards for a little while what still comes: an end with unread bytes would be a reset, which
/// may overtake the response.
pub(crate) fn linger(input: &mut Input<&UnixStream>, patience: Duration) {
    const DISCARDED: usize = 1 << 20;
    let _ = input.stream.shutdown(Shutdown::Write);
    let deadline = Instant::now() + patience;
    let mut discarded = 0;
    while discarded < DISCARDED {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        input.set_patience(Some(left));
        match input.piece().map(<[u8]>::len) {
            Ok(count) if count > 0 => {
                discarded += count;
                input.consume(count);
            }
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::thread;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn head_of(bytes: &[u8]) -> Result<Option<Vec<u8>>, HeadError> {
        let (mut peer, stream) = UnixStream::pair().unwrap();
        let bytes = bytes.to_vec();
        let sender = thread::spawn(move || peer.write_all(&bytes));
        let head = Input::new(&stream).head(LONG, LONG);
        drop(stream);
        let _ = sender.join().unwrap();
        head
    }

    #[test]
    fn a_head_ends_at_the_empty_line_and_the_rest_stays() {
        let (mut peer, stream) = UnixStream::pair().unwrap();
        peer.write_all(b"\r\nA\r\nB: c\r\n\r\nrest").unwrap();
        let mut input = Input::new(&stream);
        let head = input.head(LONG, LONG).unwrap();
        assert_eq!(head.unwrap(), b"A\r\nB: c\r\n\r\n");
        assert_eq!(input.buffered(), b"rest");
        // Byte by byte it is the same.
        let (mut peer, stream) = UnixStream::pair().unwrap();
        let sender = thread::spawn(move || {
            for byte in b"A\r\n\r\n" {
                peer.write_all(&[*byte]).unwrap();
                thread::sleep(Duration::from_millis(2));
            }
        });
        let mut input = Input::new(&stream);
        assert_eq!(input.head(LONG, LONG).unwrap().unwrap(), b"A\r\n\r\n");
        sender.join().unwrap();
        assert!(input.head(LONG, LONG).unwrap().is_none(), "the end");
    }

    #[test]
    fn lines_end_in_cr_and_lf_and_have_neither_inside() {
        for bytes in [
            &b"A\nB: c\r\n\r\n"[..],
            b"A\r\nB: c\n\n",
            b"A\r\nB: c\r\n\n",
            b"\nA\r\n\r\n",
            b"A\rB\r\n\r\n",
            b"A\r\r\n\r\n",
            b"A\0\r\n\r\n",
            b"A\r\nB: c\r\rD: e\r\n\r\n",
        ] {
            let head = head_of(bytes);
            assert!(
                matches!(head, Err(HeadError::Malformed(_))),
                "{bytes:?}: {head:?}"
            );
        }
        assert!(matches!(head_of(b"A\r\nB"), Err(HeadError::Gone)));
        assert!(matches!(head_of(b""), Ok(None)));
    }

    #[test]
    fn a_head_has_a_longest_length() {
        let with = |length: usize| [&vec![b'a'; length - 4][..], b"\r\n\r\n"].concat();
        assert_eq!(head_of(&with(HEAD_MAX)).unwrap().unwrap().len(), HEAD_MAX);
        assert!(matches!(
            head_of(&with(HEAD_MAX + 1)),
            Err(HeadError::TooLong)
        ));
        assert!(matches!(
            head_of(&vec![b'a'; 1 << 20]),
            Err(HeadError::TooLong)
        ));
    }

    #[test]
    fn half_a_head_has_its_time_and_no_byte_prolongs_it() {
        let (mut peer, stream) = UnixStream::pair().unwrap();
        let start = Instant::now();
        let sender = thread::spawn(move || {
            while peer.write_all(b"a").is_ok() && start.elapsed() < LONG {
                thread::sleep(Duration::from_millis(20));
            }
        });
        let head = Input::new(&stream).head(LONG, Duration::from_millis(300));
        assert!(matches!(head, Err(HeadError::Late)), "{head:?}");
        assert!(start.elapsed() >= Duration::from_millis(300));
        drop(stream);
        sender.join().unwrap();
        assert!(start.elapsed() < LONG / 2);
        let (_peer, stream) = UnixStream::pair().unwrap();
        let head = Input::new(&stream).head(Duration::from_millis(50), LONG);
        assert!(matches!(head, Err(HeadError::Late)));
    }
}
