//! Guest to host: what PID 1 says on the status port, in checked frames.

use crate::frame::{self, FrameError, HEAD, TAIL};
use crate::{BELL, Decoder, Ring};

/// First bytes of an event's frame; none of them is text, so that no stray message on the port looks like one.
pub(crate) const FRAME_MAGIC: [u8; 4] = [0xf5, 0x9d, 0xa7, 0xfe];
/// The longest frame of an event.
pub const FRAME_MAX: usize = HEAD + PAYLOAD_MAX + TAIL;
const PAYLOAD_MAX: usize = 80;

/// An event that the guest reports to the host.
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
    /// Some of the image's extended attributes could not be set. Sent once at most, before the command runs.
    AttributesLost(AttributesLost),
    /// The command runs; the guest's boot clock in nanoseconds.
    Started(u64),
    /// The command called exit with this code, and all its output was sent.
    Exited(u8, Totals),
    /// The command was killed by this signal, and all its output was sent.
    Killed(u8, Totals),
    /// The command could not be started.
    Failed {
        /// The step that failed.
        stage: Stage,
        /// The kernel's answer.
        errno: i32,
        /// Which of several: the index of a copy or a step, the number of a limit; zero where there is one only.
        which: u32,
    },
    /// So many bytes of standard input may have been sent in all: there is room for them.
    Credit(u64),
    /// The rings are mapped: standard input and copied files go through them.
    Mapped,
    /// After so many bytes on its port the rest of this stream comes through its ring.
    Switched(Ring, u64),
    /// Everything is ready for the command, which is held until the host has it started.
    Held,
    /// There is something new in the rings.
    Bell,
}

/// The bytes sent through the ports and the resources used when the command had ended.
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
    /// The root file system.
    pub root: RootUse,
}

/// How full a file system with limits is; all zero for one without.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RootUse {
    /// Bytes that it may hold.
    pub bytes: u64,
    /// Bytes that it may hold besides what it holds.
    pub free_bytes: u64,
    /// Files, directories and links that may be made.
    pub free_inodes: u64,
}

impl RootUse {
    /// Less than a 256th is left, or no file can be made: who wrote until an error came leaves that much.
    pub fn is_full(&self) -> bool {
        self.bytes > 0 && (self.free_bytes < self.bytes / 256 || self.free_inodes == 0)
    }
}

/// Which extended attributes the guest's kernel would not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AttributesLost {
    /// How many attributes.
    pub attributes: u32,
    /// Of how many files.
    pub files: u32,
    /// How many of them are file capabilities.
    pub capabilities: u32,
    /// Which was the first, counted from 0 in the table's order.
    pub first: u32,
    /// The kernel's answer to that one.
    pub errno: i32,
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
    /// Putting what is copied in in its place.
    CopyIn = 9,
    /// Setting a resource limit.
    Limit = 10,
    /// Making the command's terminal.
    Terminal = 11,
    /// Mounting a region of memory.
    Region = 12,
    /// Loading a module.
    Modules = 13,
    /// Making the way of network streams.
    Network = 14,
    /// Swapping to a region of memory.
    Scratch = 15,
    /// A step of the start record.
    Setup = 16,
    /// Making the root read-only.
    ReadOnlyRoot = 17,
    /// Limiting the number of processes.
    Pids = 18,
    /// Giving up capabilities and new privileges.
    Privileges = 19,
}

impl Stage {
    /// The stage of this number.
    pub fn from_byte(byte: u8) -> Option<Self> {
        [
            Self::Record,
            Self::Ports,
            Self::Pipes,
            Self::Fork,
            Self::Workdir,
            Self::User,
            Self::Exec,
            Self::Interpreter,
            Self::CopyIn,
            Self::Limit,
            Self::Terminal,
            Self::Region,
            Self::Modules,
            Self::Network,
            Self::Scratch,
            Self::Setup,
            Self::ReadOnlyRoot,
            Self::Pids,
            Self::Privileges,
        ]
        .into_iter()
        .find(|stage| *stage as u8 == byte)
    }
}

impl Event {
    /// Writes the frame; gives the number of bytes used, at most [`FRAME_MAX`].
    pub fn encode(&self, out: &mut [u8; FRAME_MAX]) -> usize {
        let mut w = Cursor {
            bytes: out,
            at: HEAD,
        };
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
            Self::AttributesLost(lost) => {
                let counts = [lost.attributes, lost.files, lost.capabilities, lost.first];
                counts.iter().for_each(|n| w.put(&n.to_le_bytes()));
                w.put(&lost.errno.to_le_bytes());
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
                let root = totals.root;
                for number in [root.bytes, root.free_bytes, root.free_inodes] {
                    w.put(&number.to_le_bytes());
                }
            }
            Self::Failed {
                stage,
                errno,
                which,
            } => {
                w.put(&[stage as u8]);
                w.put(&errno.to_le_bytes());
                w.put(&which.to_le_bytes());
            }
            Self::Credit(total) => w.put(&total.to_le_bytes()),
            Self::Switched(ring, after) => {
                w.put(&[ring as u8]);
                w.put(&after.to_le_bytes());
            }
            Self::Mapped | Self::Held => {}
            Self::Bell => {
                out[0] = BELL;
                return 1;
            }
        }
        let length = w.at - HEAD;
        frame::seal(out, FRAME_MAGIC, self.kind(), length)
    }

    /// Reads one frame from the start of `bytes`; gives it and its length.
    ///
    /// Errors: [`FrameError`]; only `Incomplete` may turn into a frame when more bytes follow.
    pub fn decode(bytes: &[u8]) -> Result<(Self, usize), FrameError> {
        if bytes.first() == Some(&BELL) {
            return Ok((Self::Bell, 1));
        }
        let (kind, payload, length) = frame::open(bytes, FRAME_MAGIC, PAYLOAD_MAX)?;
        let event = Self::from_payload(kind, payload).ok_or(FrameError::Malformed)?;
        Ok((event, length))
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Ready { .. } => 1,
            Self::Started(_) => 2,
            Self::Exited(..) => 3,
            Self::Killed(..) => 4,
            Self::Failed { .. } => 5,
            Self::AttributesLost(_) => 6,
            Self::Credit(_) => 7,
            Self::Mapped => 8,
            Self::Switched(..) => 9,
            Self::Held => 10,
            Self::Bell => BELL,
        }
    }

    /// `None` unless the payload is exactly what this kind of event has.
    fn from_payload(kind: u8, payload: &[u8]) -> Option<Self> {
        let mut r = Decoder { bytes: payload };
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
                which: r.u32()?,
            },
            7 => Self::Credit(r.u64()?),
            8 => Self::Mapped,
            9 => Self::Switched(Ring::from_byte(r.u8()?)?, r.u64()?),
            10 => Self::Held,
            6 => Self::AttributesLost(AttributesLost {
                attributes: r.u32()?,
                files: r.u32()?,
                capabilities: r.u32()?,
                first: r.u32()?,
                errno: r.u32()? as i32,
            }),
            _ => return None,
        };
        r.bytes.is_empty().then_some(event)
    }
}

impl Totals {
    fn read(r: &mut Decoder<'_>) -> Option<Self> {
        Some(Self {
            stdout: r.u64()?,
            stderr: r.u64()?,
            oom_kills: r.u32()?,
            user_us: r.u64()?,
            system_us: r.u64()?,
            max_rss_kib: r.u64()?,
            root: RootUse {
                bytes: r.u64()?,
                free_bytes: r.u64()?,
                free_inodes: r.u64()?,
            },
        })
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
        root: RootUse {
            bytes: 5,
            free_bytes: 6,
            free_inodes: u64::MAX - 1,
        },
    };

    fn events() -> Vec<Event> {
        vec![
            Event::Ready {
                init: 1,
                unpack_begin: 2,
                unpack_end: u64::MAX,
            },
            Event::AttributesLost(AttributesLost {
                attributes: 5,
                files: 4,
                capabilities: 3,
                first: 2,
                errno: -1,
            }),
            Event::Started(9),
            Event::Exited(0, Totals::default()),
            Event::Exited(255, TOTALS),
            Event::Killed(9, TOTALS),
            Event::Failed {
                stage: Stage::Interpreter,
                errno: -2,
                which: 3,
            },
            Event::Credit(1 << 50),
            Event::Mapped,
            Event::Switched(Ring::Stderr, 1 << 33),
            Event::Held,
            Event::Failed {
                stage: Stage::Privileges,
                errno: 1,
                which: u32::MAX,
            },
            Event::Bell,
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
}
