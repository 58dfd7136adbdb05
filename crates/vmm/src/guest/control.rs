//! Status-port bytes → events.
//!
//! The guest owns every byte here. Frames are short and checked, noise between them is passed over, and nothing is
//! kept beyond one frame. With a user's own init the port is text: a decimal exit code on a line.

use rdvm_proto::{Event, FRAME_MAX, FrameError, Totals};

/// The decoder of one status port.
#[derive(Debug)]
pub struct Control {
    pending: Vec<u8>,
    text: bool,
}

/// The longest line that can be an exit code: three digits, a CR, a LF, with room for blanks.
const LINE_MAX: usize = 16;

impl Control {
    /// A decoder of rdinit's frames.
    pub fn frames() -> Self {
        Self {
            pending: Vec::new(),
            text: false,
        }
    }

    /// A decoder for a user's own init that writes the exit code as text.
    pub fn text() -> Self {
        Self {
            text: true,
            ..Self::frames()
        }
    }

    /// Takes bytes from the port.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// Returns the next whole event, if the bytes so far have one.
    pub(crate) fn next_event(&mut self) -> Option<Event> {
        if self.text {
            self.next_line()
        } else {
            self.next_frame()
        }
    }

    fn next_frame(&mut self) -> Option<Event> {
        let mut at = 0;
        let event = loop {
            let rest = &self.pending[at..];
            if rest.is_empty() {
                break None;
            }
            match Event::decode(rest) {
                Ok((event, length)) => {
                    at += length;
                    break Some(event);
                }
                Err(FrameError::Incomplete) => break None,
                Err(_) => at += 1,
            }
        };
        self.pending.drain(..at);
        debug_assert!(event.is_some() || self.pending.len() < FRAME_MAX);
        event
    }

    fn next_line(&mut self) -> Option<Event> {
        while let Some(end) = self.pending.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.pending.drain(..=end).collect();
            let code = std::str::from_utf8(&line)
                .ok()
                .and_then(|line| line.trim().parse().ok());
            if let Some(code) = code {
                return Some(Event::Exited(code, Totals::default()));
            }
        }
        if self.pending.len() > LINE_MAX {
            // No code is that long; keep the end, where the next line starts.
            let excess = self.pending.len() - LINE_MAX;
            self.pending.drain(..excess);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(event: Event) -> Vec<u8> {
        let mut buffer = [0; FRAME_MAX];
        let length = event.encode(&mut buffer);
        buffer[..length].to_vec()
    }

    fn events(control: &mut Control, bytes: &[u8], step: usize) -> Vec<Event> {
        let mut seen = Vec::new();
        for part in bytes.chunks(step) {
            control.feed(part);
            while let Some(event) = control.next_event() {
                seen.push(event);
            }
        }
        seen
    }

    #[test]
    fn frames_are_found_however_they_are_cut_and_whatever_lies_between() {
        let exit = Event::Exited(3, Totals::default());
        let mut bytes = b"BIOS says hello\r\n\xf5\x9d".to_vec();
        bytes.extend(frame(Event::Started(5)));
        bytes.extend(b"\xf5\x9d\xa7\xfe\x01\x03\xff");
        bytes.extend(frame(exit));
        for step in 1..bytes.len() {
            let mut control = Control::frames();
            assert_eq!(
                events(&mut control, &bytes, step),
                [Event::Started(5), exit],
                "in steps of {step}"
            );
        }
    }

    #[test]
    fn endless_noise_takes_no_memory() {
        for mut control in [Control::frames(), Control::text()] {
            for _ in 0..1000 {
                control.feed(&[0xf5; 1000]);
                assert_eq!(control.next_event(), None);
                assert!(control.pending.len() < FRAME_MAX);
            }
        }
    }

    #[test]
    fn a_frame_of_another_version_is_not_believed() {
        let mut bytes = frame(Event::Exited(0, Totals::default()));
        bytes[4] = 9;
        let mut control = Control::frames();
        assert_eq!(events(&mut control, &bytes, 64), []);
    }

    #[test]
    fn a_decimal_code_on_a_line_is_read_with_or_without_cr() {
        for text in ["7\n", "7\r\n", "noise\n 7\r\n", "300\n-1\n7\n"] {
            let mut control = Control::text();
            let exit = Event::Exited(7, Totals::default());
            assert_eq!(events(&mut control, text.as_bytes(), 1), [exit], "{text:?}");
        }
        assert_eq!(
            events(&mut Control::text(), b"7", 1),
            [],
            "an unfinished line is no code"
        );
    }
}
