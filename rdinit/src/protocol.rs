//! The host/guest contract: every byte that crosses between rdvm and rdinit, and nothing else.
//!
//! Host to guest: the start record ([`Start`]), a file in the last cpio segment. Guest to host: [`Event`] frames
//! on the status port. [`VERSION`] changes whenever a byte of either changes. All numbers are little-endian.

/// Version of both formats.
pub const VERSION: u8 = 1;

/// What is added to rdinit's own path (its `argv[0]`) to give the path of the start record.
pub const RECORD_SUFFIX: &str = ".start";

/// First bytes of a frame; none of them is text, so that no stray message on the port looks like one.
pub const FRAME_MAGIC: [u8; 4] = [0xf5, 0x9d, 0xa7, 0xfe];
/// Bytes before the payload: magic, version, kind, payload length.
pub const FRAME_HEAD: usize = 7;
/// Bytes after the payload: CRC-32 of everything between magic and checksum.
pub const FRAME_TAIL: usize = 4;
/// The longest frame.
pub const FRAME_MAX: usize = FRAME_HEAD + PAYLOAD_MAX + FRAME_TAIL;
const PAYLOAD_MAX: usize = 64;

/// What the guest tells the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// PID 1 runs. Times are nanoseconds of the guest's boot clock; zero where not asked for or not known.
    Ready {
        /// When PID 1 started.
        init: u64,
        /// When the kernel began to unpack the initrd.
        unpack_begin: u64,
        /// When the kernel had unpacked it.
        unpack_end: u64,
    },
    /// The command runs; the guest's boot clock in nanoseconds.
    Started(u64),
    /// The command called exit with this code, and all its output was sent.
    Exited(u8, Totals),
    /// The command was killed by this signal, and all its output was sent.
    Killed(u8, Totals),
    /// The command could not be started.
    Failed {
        /// What was being done.
        stage: Stage,
        /// The kernel's answer.
        errno: i32,
    },
}

/// What had gone over the ports, and what was used, when the command had ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Bytes that PID 1 wrote to the stdout port.
    pub stdout: u64,
    /// Bytes of the command's stderr that PID 1 wrote to the console.
    pub stderr: u64,
    /// Processes that the guest's kernel killed for want of memory.
    pub oom_kills: u32,
    /// User time of the command and its children, microseconds.
    pub user_us: u64,
    /// System time of the command and its children, microseconds.
    pub system_us: u64,
    /// The largest resident set of any one process, KiB.
    pub max_rss_kib: u64,
}

/// The steps before the command runs, as named in errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// Reading the start record.
    Record = 1,
    /// Opening the serial ports.
    Ports = 2,
    /// Making pipes and the signal descriptor.
    Pipes = 3,
    /// Forking.
    Fork = 4,
    /// Changing to the working directory.
    Workdir = 5,
    /// Taking on user and groups.
    User = 6,
    /// Executing the command.
    Exec = 7,
    /// The command's file is there, but what it needs to run (its interpreter or dynamic loader) is not.
    Interpreter = 8,
}

impl Stage {
    fn from_byte(byte: u8) -> Option<Self> {
        [
            Self::Record,
            Self::Ports,
            Self::Pipes,
            Self::Fork,
            Self::Workdir,
            Self::User,
            Self::Exec,
            Self::Interpreter,
        ]
        .into_iter()
        .find(|stage| *stage as u8 == byte)
    }
}

/// Why bytes on the status port are not an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameError {
    /// The frame may still become whole.
    Incomplete,
    /// It can never become one.
    Malformed,
    /// It is a frame of another version of this contract.
    Version(u8),
}

impl Event {
    /// Writes the frame; gives the number of bytes used, at most [`FRAME_MAX`].
    pub fn encode(&self, out: &mut [u8; FRAME_MAX]) -> usize {
        let mut w = Cursor { bytes: out, at: 0 };
        w.put(&FRAME_MAGIC);
        w.put(&[VERSION, self.kind(), 0]);
        match *self {
            Self::Ready {
                init,
                unpack_begin,
                unpack_end,
            } => {
                for time in [init, unpack_begin, unpack_end] {
                    w.put(&time.to_le_bytes());
                }
            }
            Self::Started(time) => w.put(&time.to_le_bytes()),
            Self::Exited(byte, totals) | Self::Killed(byte, totals) => {
                w.put(&[byte]);
                w.put(&totals.stdout.to_le_bytes());
                w.put(&totals.stderr.to_le_bytes());
                w.put(&totals.oom_kills.to_le_bytes());
                w.put(&totals.user_us.to_le_bytes());
                w.put(&totals.system_us.to_le_bytes());
                w.put(&totals.max_rss_kib.to_le_bytes());
            }
            Self::Failed { stage, errno } => {
                w.put(&[stage as u8]);
                w.put(&errno.to_le_bytes());
            }
        }
        let end = w.at;
        out[FRAME_HEAD - 1] = (end - FRAME_HEAD) as u8;
        let sum = crc32(&out[FRAME_MAGIC.len()..end]);
        out[end..end + FRAME_TAIL].copy_from_slice(&sum.to_le_bytes());
        end + FRAME_TAIL
    }

    /// Reads one frame from the start of `bytes`; gives it and its length.
    ///
    /// Errors: [`FrameError`]; only `Incomplete` may turn into a frame when more bytes follow.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize), FrameError> {
        let known = bytes.len().min(FRAME_MAGIC.len());
        if bytes[..known] != FRAME_MAGIC[..known] {
            return Err(FrameError::Malformed);
        }
        let Some(&[version, kind, length]) = bytes.get(FRAME_MAGIC.len()..FRAME_HEAD) else {
            return Err(FrameError::Incomplete);
        };
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        let end = FRAME_HEAD + usize::from(length);
        if usize::from(length) > PAYLOAD_MAX {
            return Err(FrameError::Malformed);
        }
        let Some(tail) = bytes.get(end..end + FRAME_TAIL) else {
            return Err(FrameError::Incomplete);
        };
        if crc32(&bytes[FRAME_MAGIC.len()..end]).to_le_bytes() != *tail {
            return Err(FrameError::Malformed);
        }
        let event =
            Self::from_payload(kind, &bytes[FRAME_HEAD..end]).ok_or(FrameError::Malformed)?;
        Ok((event, end + FRAME_TAIL))
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Ready { .. } => 1,
            Self::Started(_) => 2,
            Self::Exited(..) => 3,
            Self::Killed(..) => 4,
            Self::Failed { .. } => 5,
        }
    }

    /// `None` unless the payload is exactly what this kind of event has.
    fn from_payload(kind: u8, payload: &[u8]) -> Option<Self> {
        let mut r = Reader { bytes: payload };
        let event = match kind {
            1 => Self::Ready {
                init: r.u64()?,
                unpack_begin: r.u64()?,
                unpack_end: r.u64()?,
            },
            2 => Self::Started(r.u64()?),
            3 => Self::Exited(r.u8()?, Totals::read(&mut r)?),
            4 => Self::Killed(r.u8()?, Totals::read(&mut r)?),
            5 => Self::Failed {
                stage: Stage::from_byte(r.u8()?)?,
                errno: r.u32()? as i32,
            },
            _ => return None,
        };
        r.bytes.is_empty().then_some(event)
    }
}

impl Totals {
    fn read(r: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            stdout: r.u64()?,
            stderr: r.u64()?,
            oom_kills: r.u32()?,
            user_us: r.u64()?,
            system_us: r.u64()?,
            max_rss_kib: r.u64()?,
        })
    }
}

/// CRC-32 (IEEE 802.3, reflected), bit by bit: it runs over some fifty bytes a machine.
pub fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| {
            (sum >> 1) ^ (0xedb8_8320 * (sum & 1))
        })
    })
}

/// First bytes of a start record.
pub const START_MAGIC: [u8; 8] = *b"rdvmgo\0\x01";

/// Flag in a start record: say when the kernel unpacked the initrd.
pub const WANT_TIMELINE: u32 = 1;
/// Flag in a start record: make the working directory where it is missing, as docker does.
pub const MAKE_WORKDIR: u32 = 2;

/// What the host wants PID 1 to do: a view of the record's bytes.
#[derive(Debug, Clone, Copy)]
pub struct Start<'a> {
    /// [`WANT_TIMELINE`] and the like.
    pub flags: u32,
    /// User of the command.
    pub uid: u32,
    /// Group of the command.
    pub gid: u32,
    /// Size in bytes that the root tmpfs may grow to; zero leaves it alone.
    pub root_limit: u64,
    /// How long PID 1 waits with the reset after its last event, so that a host that stops the machine at that event
    /// comes first. Milliseconds.
    pub linger_ms: u32,
    /// Supplementary groups, four bytes each.
    groups: &'a [u8],
    /// Number of arguments, at least one.
    pub argc: usize,
    /// Number of environment entries.
    pub envc: usize,
}

/// The strings of a record in their order, each followed by a NUL.
#[derive(Debug, Clone, Copy)]
pub struct Strings<'a> {
    /// The device of the console.
    pub console: &'a [u8],
    /// The device of stdout.
    pub stdout: &'a [u8],
    /// The device of the status port.
    pub status: &'a [u8],
    /// Working directory, not empty.
    pub workdir: &'a [u8],
    /// Host name; empty leaves it alone.
    pub hostname: &'a [u8],
    /// The arguments, then the environment: `argc + envc` strings.
    pub rest: &'a [u8],
}

impl<'a> Start<'a> {
    /// Reads a record; `None` when it is not exactly one record of this version.
    pub fn decode(bytes: &'a [u8]) -> Option<(Self, Strings<'a>)> {
        let mut r = Reader { bytes };
        if r.take(8)? != START_MAGIC || r.u32()? != u32::from(VERSION) {
            return None;
        }
        let (flags, uid, gid, root_limit, linger_ms) =
            (r.u32()?, r.u32()?, r.u32()?, r.u64()?, r.u32()?);
        let (groups, argc, envc) = (r.u32()? as usize, r.u32()? as usize, r.u32()? as usize);
        let groups = r.take(groups.checked_mul(4)?)?;
        let start = Self {
            flags,
            uid,
            gid,
            root_limit,
            linger_ms,
            groups,
            argc,
            envc,
        };
        let strings = Strings {
            console: r.string()?,
            stdout: r.string()?,
            status: r.string()?,
            workdir: r.string()?,
            hostname: r.string()?,
            rest: r.bytes,
        };
        let count = r.bytes.iter().filter(|&&byte| byte == 0).count();
        let whole = r.bytes.last() == Some(&0) && count == argc.checked_add(envc)?;
        (whole && argc > 0).then_some((start, strings))
    }

    /// The supplementary groups.
    pub fn groups(&self) -> impl ExactSizeIterator<Item = u32> + 'a {
        self.groups
            .chunks_exact(4)
            .map(|g| u32::from_le_bytes([g[0], g[1], g[2], g[3]]))
    }
}

/// What the host puts into a start record. Strings must not contain NUL.
#[cfg(not(freestanding))]
#[derive(Debug, Clone, Copy)]
pub struct StartRecord<'a> {
    /// [`WANT_TIMELINE`] and the like.
    pub flags: u32,
    /// User of the command.
    pub uid: u32,
    /// Group of the command.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: &'a [u32],
    /// Size in bytes that the root tmpfs may grow to; zero leaves it alone.
    pub root_limit: u64,
    /// How long PID 1 waits with the reset after its last event, milliseconds.
    pub linger_ms: u32,
    /// Devices of console, stdout and status.
    pub ports: [&'a [u8]; 3],
    /// Working directory.
    pub workdir: &'a [u8],
    /// Host name; empty leaves it alone.
    pub hostname: &'a [u8],
    /// Program and arguments, at least one.
    pub argv: &'a [&'a [u8]],
    /// `NAME=VALUE` entries.
    pub env: &'a [&'a [u8]],
}

#[cfg(not(freestanding))]
impl StartRecord<'_> {
    /// The record's bytes. Strings are cut at their first NUL, which the kernel would do as well.
    pub fn encode(&self) -> alloc::vec::Vec<u8> {
        let mut out = alloc::vec::Vec::new();
        out.extend(START_MAGIC);
        let numbers = [u32::from(VERSION), self.flags, self.uid, self.gid];
        numbers.iter().for_each(|n| out.extend(n.to_le_bytes()));
        out.extend(self.root_limit.to_le_bytes());
        out.extend(self.linger_ms.to_le_bytes());
        let counts = [self.groups.len(), self.argv.len(), self.env.len()];
        counts
            .iter()
            .for_each(|&n| out.extend((n as u32).to_le_bytes()));
        self.groups.iter().for_each(|g| out.extend(g.to_le_bytes()));
        let fixed = self.ports.into_iter().chain([self.workdir, self.hostname]);
        for string in fixed
            .chain(self.argv.iter().copied())
            .chain(self.env.iter().copied())
        {
            out.extend(string.iter().take_while(|&&byte| byte != 0));
            out.push(0);
        }
        out
    }
}

struct Cursor<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Cursor<'_> {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.bytes.split_at_checked(count)?;
        self.bytes = tail;
        Some(head)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)
            .map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from(self.u32()?) | u64::from(self.u32()?) << 32)
    }

    /// A string with its NUL, so that it can be handed to the kernel as it stands.
    fn string(&mut self) -> Option<&'a [u8]> {
        let end = self.bytes.iter().position(|&byte| byte == 0)?;
        self.take(end + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    const TOTALS: Totals = Totals {
        stdout: 1 << 40,
        stderr: 7,
        oom_kills: 3,
        user_us: 1,
        system_us: 2,
        max_rss_kib: u64::MAX,
    };

    fn events() -> Vec<Event> {
        vec![
            Event::Ready {
                init: 1,
                unpack_begin: 2,
                unpack_end: u64::MAX,
            },
            Event::Started(9),
            Event::Exited(0, Totals::default()),
            Event::Exited(255, TOTALS),
            Event::Killed(9, TOTALS),
            Event::Failed {
                stage: Stage::Interpreter,
                errno: -2,
            },
        ]
    }

    #[test]
    fn every_event_survives_the_wire() {
        for event in events() {
            let mut frame = [0; FRAME_MAX];
            let length = event.encode(&mut frame);
            assert_eq!(Event::decode(&frame[..length]), Ok((event, length)));
        }
    }

    #[test]
    fn a_frame_cut_short_is_incomplete_and_a_damaged_one_malformed() {
        for event in events() {
            let mut frame = [0; FRAME_MAX];
            let length = event.encode(&mut frame);
            for cut in 0..length {
                assert_eq!(
                    Event::decode(&frame[..cut]),
                    Err(FrameError::Incomplete),
                    "cut at {cut}"
                );
            }
            for byte in (0..length).filter(|&byte| byte != FRAME_MAGIC.len()) {
                let mut damaged = frame;
                damaged[byte] ^= 0x10;
                assert!(
                    Event::decode(&damaged[..length]).is_err(),
                    "byte {byte} of {event:?}"
                );
            }
        }
    }

    #[test]
    fn the_checksum_is_the_common_crc32() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn a_start_record_keeps_every_byte_of_its_strings() {
        let argv: [&[u8]; 4] = [b"sh", b"", b"a\nb", &[0xff, 0xfe]];
        let env: [&[u8]; 2] = [b"A=", b"\x01=\x80"];
        let bytes = StartRecord {
            flags: WANT_TIMELINE,
            uid: 1000,
            gid: 100,
            groups: &[4, 24],
            root_limit: 1 << 33,
            linger_ms: 77,
            ports: [b"/dev/ttyS0", b"/dev/ttyS1", b"/dev/ttyS2"],
            workdir: b"/src",
            hostname: b"",
            argv: &argv,
            env: &env,
        }
        .encode();
        let (start, strings) = Start::decode(&bytes).unwrap();
        assert_eq!(
            (start.flags, start.uid, start.gid, start.root_limit),
            (1, 1000, 100, 1 << 33)
        );
        assert_eq!(start.linger_ms, 77);
        assert_eq!(start.groups().collect::<Vec<_>>(), [4, 24]);
        assert_eq!(
            (strings.stdout, strings.workdir, strings.hostname),
            (&b"/dev/ttyS1\0"[..], &b"/src\0"[..], &b"\0"[..])
        );
        assert_eq!((start.argc, start.envc), (4, 2));
        assert_eq!(strings.rest, b"sh\0\0a\nb\0\xff\xfe\0A=\0\x01=\x80\0");
        for cut in 0..bytes.len() {
            assert!(Start::decode(&bytes[..cut]).is_none(), "cut at {cut}");
        }
    }
}
