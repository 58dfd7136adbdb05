//! Bodies, copied from one connection to another while they come: read by one framing, written by the same or another.
//!
//! Chunks are read strictly and written anew, so that no two programs on the way can read them differently. Their extensions
//! and the trailer are dropped.

use std::io::Write;

use crate::input::{HEAD_MAX, HeadError, Input, Timed};

/// The longest line of a chunk's size.
const SIZE_LINE: usize = 1 << 10;

/// How the length of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is no body.
    None,
    /// By a number in the head.
    Length(u64),
    /// By chunks.
    Chunked,
    /// By the end of the connection.
    UntilClose,
}

/// Why a body was not copied to its end.
#[derive(Debug)]
pub(crate) enum BodyError {
    /// Its stream ended too early, failed, or was silent for too long.
    Source,
    /// Its chunks are not what the standard says.
    Malformed(&'static str),
    /// It cannot be written.
    Sink,
}

impl From<HeadError> for BodyError {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::TooLong => Self::Malformed("the lines between chunks are too long"),
            HeadError::Malformed(reason) => Self::Malformed(reason),
            HeadError::Late | HeadError::Gone => Self::Source,
        }
    }
}

/// Where a body goes.
struct Output<W> {
    to: W,
    in_chunks: bool,
}

impl<W: Write> Output<W> {
    fn write(&mut self, piece: &[u8]) -> Result<(), BodyError> {
        let written = match self.in_chunks {
            false => self.to.write_all(piece),
            true => {
                // One write for a chunk, so that it is one packet.
                let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
                chunk.reserve(piece.len() + 2);
                chunk.extend(piece);
                chunk.extend(b"\r\n");
                self.to.write_all(&chunk)
            }
        };
        written.map_err(|_| BodyError::Sink)
    }

    fn finish(mut self) -> Result<(), BodyError> {
        match self.in_chunks {
            true => self.to.write_all(b"0\r\n\r\n").map_err(|_| BodyError::Sink),
            false => Ok(()),
        }
    }
}

/// Copies a body to its end, `in_chunks` or as plain bytes.
pub(crate) fn copy<S: Timed>(
    from: &mut Input<S>,
    framing: Framing,
    to: impl Write,
    in_chunks: bool,
) -> Result<(), BodyError> {
    let mut output = Output { to, in_chunks };
    match framing {
        Framing::None => return Ok(()),
        Framing::Length(length) => copy_length(from, length, &mut output)?,
        Framing::Chunked => copy_chunks(from, &mut output)?,
        Framing::UntilClose => loop {
            let piece = from.piece().map_err(|_| BodyError::Source)?;
            if piece.is_empty() {
                break;
            }
            output.write(piece)?;
            let length = piece.len();
            from.consume(length);
        },
    }
    output.finish()
}

fn copy_length<S: Timed>(
    from: &mut Input<S>,
    mut left: u64,
    output: &mut Output<impl Write>,
) -> Result<(), BodyError> {
    while left > 0 {
        let piece = from.piece().map_err(|_| BodyError::Source)?;
        let length = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if length == 0 {
            return Err(BodyError::Source);
        }
        output.write(&piece[..length])?;
        from.consume(length);
        left -= length as u64;
    }
    Ok(())
}

fn copy_chunks<S: Timed>(
    from: &mut Input<S>,
    output: &mut Output<impl Write>,
) -> Result<(), BodyError> {
    loop {
        let size = chunk_size(&from.line(SIZE_LINE)?)?;
        if size == 0 {
            break;
        }
        copy_length(from, size, output)?;
        if !from.line(SIZE_LINE)?.is_empty() {
            return Err(BodyError::Malformed("a chunk is longer than its size"));
        }
    }
    let mut trailer = 0;
    loop {
        let line = from.line(HEAD_MAX)?;
        if line.is_empty() {
            return Ok(());
        }
        trailer += line.len();
        if trailer > HEAD_MAX {
            return Err(BodyError::Malformed("the trailer is too long"));
        }
    }
}

/// Parses hexadecimal digits, and an extension behind a semicolon that is ignored.
fn chunk_size(line: &[u8]) -> Result<u64, BodyError> {
    let digits = line.split(|&byte| byte == b';').next().unwrap_or(line);
    let is_number = (1..=16).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
    let digits = std::str::from_utf8(digits).ok().filter(|_| is_number);
    let size = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    size.ok_or(BodyError::Malformed("a chunk's size is not a number"))
}

#[cfg(any(test, feature = "fuzzing"))]
impl Timed for &[u8] {
    fn set_patience(&self, _: Option<std::time::Duration>) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copied(
        bytes: &[u8],
        framing: Framing,
        in_chunks: bool,
    ) -> Result<(Vec<u8>, Vec<u8>), BodyError> {
        let mut input = Input::new(bytes);
        let mut output = Vec::new();
        copy(&mut input, framing, &mut output, in_chunks)?;
        let mut rest = input.buffered().to_vec();
        while input.fill().unwrap() {
            rest = input.buffered().to_vec();
        }
        Ok((output, rest))
    }

    #[test]
    fn each_framing_ends_where_it_says() {
        let (body, rest) = copied(b"12345678", Framing::Length(5), false).unwrap();
        assert_eq!((&body[..], &rest[..]), (&b"12345"[..], &b"678"[..]));
        let (body, _) = copied(b"12345678", Framing::UntilClose, false).unwrap();
        assert_eq!(body, b"12345678");
        let (body, rest) = copied(b"1234", Framing::None, true).unwrap();
        assert_eq!((body.len(), rest.len()), (0, 4));
        let chunks = b"3\r\nabc\r\nA;ext=\"1\"\r\n0123456789\r\n000\r\nTrailer: x\r\n\r\nnext";
        let (body, rest) = copied(chunks, Framing::Chunked, false).unwrap();
        assert_eq!(
            (&body[..], &rest[..]),
            (&b"abc0123456789"[..], &b"next"[..])
        );
        let (body, _) = copied(chunks, Framing::Chunked, true).unwrap();
        assert_eq!(body, b"3\r\nabc\r\na\r\n0123456789\r\n0\r\n\r\n");
        let (body, _) = copied(b"12345", Framing::Length(5), true).unwrap();
        assert_eq!(body, b"5\r\n12345\r\n0\r\n\r\n");
    }

    #[test]
    fn a_body_that_ends_too_early_is_not_taken_for_a_whole_one() {
        assert!(matches!(
            copied(b"1234", Framing::Length(5), false),
            Err(BodyError::Source)
        ));
        let whole = b"3\r\nabc\r\n0\r\n\r\n";
        for cut in 0..whole.len() {
            let copied = copied(&whole[..cut], Framing::Chunked, false);
            assert!(matches!(copied, Err(BodyError::Source)), "{cut}");
        }
    }

    #[test]
    fn chunks_that_programs_read_differently_are_refused() {
        for chunks in [
            &b"3\nabc\r\n0\r\n\r\n"[..],
            b"3\r\nabc\n0\r\n\r\n",
            b"3\r\nabc\r\n0\r\n\n",
            b"3 \r\nabc\r\n0\r\n\r\n",
            b" 3\r\nabc\r\n0\r\n\r\n",
            b"+3\r\nabc\r\n0\r\n\r\n",
            b"-3\r\nabc\r\n0\r\n\r\n",
            b"0x3\r\nabc\r\n0\r\n\r\n",
            b"3_\r\nabc\r\n0\r\n\r\n",
            b"\r\nabc\r\n0\r\n\r\n",
            b";x\r\nabc\r\n0\r\n\r\n",
            b"2\r\nabc\r\n0\r\n\r\n",
            b"3\r\nabcd\r\n0\r\n\r\n",
            b"10000000000000003\r\nabc\r\n0\r\n\r\n",
            b"3;a\0b\r\nabc\r\n0\r\n\r\n",
            b"3;a\rb\r\nabc\r\n0\r\n\r\n",
        ] {
            let copied = copied(chunks, Framing::Chunked, false);
            let shown = String::from_utf8_lossy(chunks);
            assert!(matches!(copied, Err(BodyError::Malformed(_))), "{shown:?}");
        }
        let long = [b"3;", &vec![b'x'; 1 << 20][..], b"\r\nabc\r\n0\r\n\r\n"].concat();
        assert!(matches!(
            copied(&long, Framing::Chunked, false),
            Err(BodyError::Malformed(_))
        ));
        let trailer = [&b"0\r\n"[..], &b"a: b\r\n".repeat(10_000)].concat();
        assert!(matches!(
            copied(&trailer, Framing::Chunked, false),
            Err(BodyError::Malformed(_))
        ));
    }
}
