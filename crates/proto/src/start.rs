//! Host to guest: the start record, a file in the last cpio segment.

use crate::step::{STEP, STEP_STRINGS, Steps};
use crate::{Decoder, VERSION};

/// The suffix of rdinit's own path (its `argv[0]`) that gives the path of the start record.
pub const RECORD_SUFFIX: &str = ".start";

/// First bytes of a start record.
pub(crate) const START_MAGIC: [u8; 8] = *b"rdvmgo\0\x01";

/// Flag in a start record: say when the kernel unpacked the initrd.
pub const WANT_TIMELINE: u32 = 1;
/// Flag in a start record: make the working directory where it is missing, as docker does.
pub const MAKE_WORKDIR: u32 = 2;
/// Flag in a start record: there is a table of extended attributes.
pub const HAS_ATTRIBUTES: u32 = 4;

/// Flag in a start record: standard input follows, in the inbound ring or on the stdout port.
pub const HAS_STDIN: u32 = 8;
/// Flag in a start record: the command gets a terminal.
pub const HAS_TERMINAL: u32 = 16;
/// Flag in a start record: orders may come on the status port.
pub const HAS_REQUESTS: u32 = 32;
/// Flag in a start record: the root file system is the one that the kernel unpacked the image into. PID 1 makes it one
/// that can be pivoted and sets its limits ([`super::Room`]).
pub const OWNS_ROOT: u32 = 64;
/// Flag in a start record: the command is PID 1 of a namespace of its own, as inits must be.
pub const IS_INIT: u32 = 128;
/// Flag in a start record: there are modules, which PID 1 loads before it mounts anything.
pub const HAS_MODULES: u32 = 256;

/// Flag in a start record: the host carries connections through the rings.
pub const HAS_NETWORK: u32 = 512;
/// Flag in a start record: connections to [`NET_PORT`](crate::NET_PORT) are for the host's proxy.
pub const HAS_PROXY: u32 = 1024;
/// Flag in a start record: the command gets the [`Capabilities`] of the record and no others.
pub const HAS_CAPABILITIES: u32 = 2048;
/// Flag in a start record: neither the command nor what it executes gains privileges by executing a file.
pub const NO_NEW_PRIVILEGES: u32 = 4096;
/// Flag in a start record: nothing can be written to the root file system when the command starts.
pub const READ_ONLY_ROOT: u32 = 8192;
/// Flag in a start record: PID 1 does everything up to starting the command, sends [`Event::Held`](crate::Event::Held) and
/// waits for [`HostRequest::Start`](crate::HostRequest::Start).
pub const HELD: u32 = 16384;

/// The region with this in the place of a mount point is swap space, with its header: the last one.
pub const SWAP: &[u8] = b"swap";

/// The suffix of rdinit's own path that gives the path of the directory in which files copied in land: below it a directory
/// for each, named by its number.
pub const COPY_IN_SUFFIX: &str = ".in";

/// A resource limit, as `setrlimit(2)` takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Which resource: `RLIMIT_NOFILE` and the like.
    pub resource: u32,
    /// The limit that the command starts with.
    pub soft: u64,
    /// The limit that it may raise it to.
    pub hard: u64,
}

/// The capability sets of a process (`capabilities(7)`), a bit for each capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// The most that it can ever have.
    pub bounding: u64,
    /// Those that count now.
    pub effective: u64,
    /// Those that are kept over exec by files that have them as well.
    pub inheritable: u64,
    /// Those that it can make effective.
    pub permitted: u64,
    /// Those that a user other than root keeps over exec.
    pub ambient: u64,
}

/// The instructions to PID 1: a view of the record's bytes.
#[derive(Debug, Clone, Copy)]
pub struct Start<'a> {
    /// [`WANT_TIMELINE`] and the like.
    pub flags: u32,
    /// User of the command.
    pub uid: u32,
    /// Group of the command.
    pub gid: u32,
    /// How long PID 1 waits with the reset after its last event, so that a host that stops the machine at that event
    /// comes first. Milliseconds.
    pub linger_ms: u32,
    /// Rows and columns of the terminal; zero where not known.
    pub window: [u16; 2],
    /// The physical address of the rings; zero where there are none.
    pub rings: u64,
    /// The file mode mask of the command.
    pub umask: u32,
    /// The most processes and threads that there may be of the command; zero for no limit.
    pub pids: u32,
    /// The command's, with [`HAS_CAPABILITIES`].
    pub capabilities: Capabilities,
    /// Supplementary groups, four bytes each.
    groups: &'a [u8],
    /// Resource limits, twenty bytes each.
    limits: &'a [u8],
    /// Number of arguments, at least one.
    pub argc: usize,
    /// Number of environment entries.
    pub envc: usize,
    /// Number of copies in: two strings each.
    pub copies_in: usize,
    /// Number of copies out: a string each.
    pub copies_out: usize,
    /// Number of regions of memory: a string each.
    pub regions: usize,
    /// The steps' numbers, [`STEP`] bytes each.
    steps: &'a [u8],
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
    /// For each copy in where it has landed and where it is to go.
    pub copies_in: &'a [u8],
    /// The paths to copy out.
    pub copies_out: &'a [u8],
    /// Where each region is mounted, in the order of their addresses; the root's is `/`, and the first. [`SWAP`] is not
    /// mounted.
    pub regions: &'a [u8],
    /// The steps' strings, which [`Start::steps`] takes apart.
    steps: &'a [u8],
}

impl<'a> Start<'a> {
    /// Reads a record; `None` when it is not exactly one record of this version.
    pub fn decode(bytes: &'a [u8]) -> Option<(Self, Strings<'a>)> {
        let mut r = Decoder { bytes };
        if r.take(8)? != START_MAGIC || r.u32()? != u32::from(VERSION) {
            return None;
        }
        let (flags, uid, gid, linger_ms) = (r.u32()?, r.u32()?, r.u32()?, r.u32()?);
        let (window, rings) = ([r.u16()?, r.u16()?], r.u64()?);
        let (umask, pids) = (r.u32()?, r.u32()?);
        let capabilities = Capabilities {
            bounding: r.u64()?,
            effective: r.u64()?,
            inheritable: r.u64()?,
            permitted: r.u64()?,
            ambient: r.u64()?,
        };
        let mut count = || r.u32().map(|count| count as usize);
        let (groups, limits) = (count()?, count()?);
        let (argc, envc, copies_in, copies_out) = (count()?, count()?, count()?, count()?);
        let (regions, steps) = (count()?, count()?);
        let groups = r.take(groups.checked_mul(4)?)?;
        let limits = r.take(limits.checked_mul(LIMIT)?)?;
        let step_strings = steps.checked_mul(STEP_STRINGS)?;
        let steps = r.take(steps.checked_mul(STEP)?)?;
        let start = Self {
            flags,
            uid,
            gid,
            linger_ms,
            window,
            rings,
            umask,
            pids,
            capabilities,
            groups,
            limits,
            argc,
            envc,
            copies_in,
            copies_out,
            regions,
            steps,
        };
        let strings = Strings {
            console: r.string()?,
            stdout: r.string()?,
            status: r.string()?,
            workdir: r.string()?,
            hostname: r.string()?,
            rest: r.strings(argc.checked_add(envc)?)?,
            copies_in: r.strings(copies_in.checked_mul(2)?)?,
            copies_out: r.strings(copies_out)?,
            regions: r.strings(regions)?,
            steps: r.strings(step_strings)?,
        };
        let known_steps = start.steps(&strings).count() * STEP;
        let is_whole = r.bytes.is_empty() && known_steps == start.steps.len();
        (is_whole && argc > 0).then_some((start, strings))
    }

    /// The resource limits.
    pub fn limits(&self) -> impl Iterator<Item = Limit> + 'a {
        self.limits.chunks_exact(LIMIT).filter_map(|bytes| {
            let mut r = Decoder { bytes };
            Some(Limit {
                resource: r.u32()?,
                soft: r.u64()?,
                hard: r.u64()?,
            })
        })
    }

    /// The supplementary groups as the kernel of a little-endian machine takes them, four bytes each.
    pub fn groups(&self) -> &'a [u8] {
        self.groups
    }

    /// The steps, whose strings are in `strings`.
    pub fn steps(&self, strings: &Strings<'a>) -> Steps<'a> {
        Steps {
            numbers: Decoder { bytes: self.steps },
            strings: Decoder {
                bytes: strings.steps,
            },
        }
    }
}

/// Bytes of a limit.
const LIMIT: usize = 20;

impl<'a> Decoder<'a> {
    /// So many strings, each with its NUL.
    fn strings(&mut self, count: usize) -> Option<&'a [u8]> {
        let all = self.bytes;
        for _ in 0..count {
            self.string()?;
        }
        all.get(..all.len() - self.bytes.len())
    }
}

/// The contents of a start record. Strings must not contain NUL.
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
    /// Rows and columns of the terminal.
    pub window: [u16; 2],
    /// The physical address of the rings; zero where there are none.
    pub rings: u64,
    /// The file mode mask of the command.
    pub umask: u32,
    /// The most processes and threads of the command; zero for no limit.
    pub pids: u32,
    /// The command's, with [`HAS_CAPABILITIES`].
    pub capabilities: Capabilities,
    /// Resource limits.
    pub limits: &'a [Limit],
    /// For each copy in where it has landed and where it is to go.
    pub copies_in: &'a [[&'a [u8]; 2]],
    /// The paths to copy out.
    pub copies_out: &'a [&'a [u8]],
    /// Where each region is mounted.
    pub regions: &'a [&'a [u8]],
    /// The steps before the command runs, in order.
    pub steps: &'a [crate::Step<'a>],
}

#[cfg(not(freestanding))]
impl StartRecord<'_> {
    /// The record's bytes. Strings are cut at their first NUL, which the kernel would do as well.
    pub fn encode(&self) -> alloc::vec::Vec<u8> {
        let mut out = alloc::vec::Vec::new();
        out.extend(START_MAGIC);
        let numbers = [u32::from(VERSION), self.flags, self.uid, self.gid];
        numbers.iter().for_each(|n| out.extend(n.to_le_bytes()));
        out.extend(self.linger_ms.to_le_bytes());
        let window = self.window.iter().flat_map(|n| n.to_le_bytes());
        out.extend(window);
        out.extend(self.rings.to_le_bytes());
        out.extend(self.umask.to_le_bytes());
        out.extend(self.pids.to_le_bytes());
        let caps = self.capabilities;
        let sets = [
            caps.bounding,
            caps.effective,
            caps.inheritable,
            caps.permitted,
            caps.ambient,
        ];
        sets.iter().for_each(|set| out.extend(set.to_le_bytes()));
        let counts = [
            self.groups.len(),
            self.limits.len(),
            self.argv.len(),
            self.env.len(),
            self.copies_in.len(),
            self.copies_out.len(),
            self.regions.len(),
            self.steps.len(),
        ];
        counts
            .iter()
            .for_each(|&n| out.extend((n as u32).to_le_bytes()));
        self.groups.iter().for_each(|g| out.extend(g.to_le_bytes()));
        for limit in self.limits {
            out.extend(limit.resource.to_le_bytes());
            out.extend(limit.soft.to_le_bytes());
            out.extend(limit.hard.to_le_bytes());
        }
        for step in self.steps {
            out.extend((step.action as u32).to_le_bytes());
            out.extend(step.flags.to_le_bytes());
        }
        let fixed = self.ports.into_iter().chain([self.workdir, self.hostname]);
        for string in fixed
            .chain(self.argv.iter().copied())
            .chain(self.env.iter().copied())
            .chain(self.copies_in.iter().flatten().copied())
            .chain(self.copies_out.iter().copied())
            .chain(self.regions.iter().copied())
            .chain(self.steps.iter().flat_map(crate::Step::strings))
        {
            out.extend(string.iter().take_while(|&&byte| byte != 0));
            out.push(0);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Step, StepAction};
    use alloc::vec::Vec;

    #[test]
    fn a_start_record_keeps_every_byte_of_its_strings() {
        let argv: [&[u8]; 4] = [b"sh", b"", b"a\nb", &[0xff, 0xfe]];
        let env: [&[u8]; 2] = [b"A=", b"\x01=\x80"];
        let limits = [
            Limit {
                resource: 7,
                soft: 1,
                hard: u64::MAX,
            },
            Limit {
                resource: 2,
                soft: 0,
                hard: 0,
            },
        ];
        let capabilities = Capabilities {
            bounding: 1 << 63,
            effective: 2,
            inheritable: 3,
            permitted: 4,
            ambient: 5,
        };
        let steps = [
            Step {
                action: StepAction::Mount,
                flags: 1 << 40 | 6,
                source: b"/src",
                target: b"/mnt",
                kind: b"",
                data: b"size=1m,mode=700",
            },
            Step {
                action: StepAction::Write,
                flags: 0,
                source: b"",
                target: b"/proc/sys/net/x",
                kind: b"",
                data: b"1 2\n",
            },
        ];
        let bytes = StartRecord {
            flags: WANT_TIMELINE,
            uid: 1000,
            gid: 100,
            groups: &[4, 24],
            linger_ms: 77,
            ports: [b"/dev/ttyS0", b"/dev/ttyS1", b"/dev/ttyS2"],
            workdir: b"/src",
            hostname: b"",
            argv: &argv,
            env: &env,
            window: [24, 80],
            rings: 1 << 40,
            umask: 0o27,
            pids: 99,
            capabilities,
            limits: &limits,
            copies_in: &[[b"/.rdvm.in/0/a", b"/src"]],
            copies_out: &[b"/out", b"x"],
            regions: &[b"/", b"/data", SWAP],
            steps: &steps,
        }
        .encode();
        let (start, strings) = Start::decode(&bytes).unwrap();
        assert_eq!((start.flags, start.uid, start.gid), (1, 1000, 100));
        assert_eq!(start.linger_ms, 77);
        assert_eq!(start.groups(), [4, 0, 0, 0, 24, 0, 0, 0]);
        assert_eq!((start.umask, start.pids), (0o27, 99));
        assert_eq!(start.capabilities, capabilities);
        let decoded: Vec<_> = start.steps(&strings).collect();
        assert_eq!(
            decoded[1],
            Step {
                source: b"\0",
                target: b"/proc/sys/net/x\0",
                kind: b"\0",
                data: b"1 2\n\0",
                ..steps[1]
            }
        );
        assert_eq!((decoded[0].flags, decoded.len()), (1 << 40 | 6, 2));
        assert_eq!(
            (strings.stdout, strings.workdir, strings.hostname),
            (&b"/dev/ttyS1\0"[..], &b"/src\0"[..], &b"\0"[..])
        );
        assert_eq!((start.argc, start.envc), (4, 2));
        assert_eq!((start.copies_in, start.copies_out), (1, 2));
        assert_eq!((start.window, start.rings), ([24, 80], 1 << 40));
        assert_eq!(start.limits().collect::<Vec<_>>(), limits);
        assert_eq!(
            (strings.copies_in, strings.copies_out),
            (&b"/.rdvm.in/0/a\0/src\0"[..], &b"/out\0x\0"[..])
        );
        assert_eq!(
            (start.regions, strings.regions),
            (3, &b"/\0/data\0swap\0"[..])
        );
        assert_eq!(strings.rest, b"sh\0\0a\nb\0\xff\xfe\0A=\0\x01=\x80\0");
        for cut in 0..bytes.len() {
            assert!(Start::decode(&bytes[..cut]).is_none(), "cut at {cut}");
        }
        // An action that there is none of.
        let number = (1u64 << 40 | 6).to_le_bytes();
        let at = bytes.windows(8).position(|window| window == number);
        let mut unknown = bytes;
        unknown[at.unwrap() - 4] = 9;
        assert!(Start::decode(&unknown).is_none());
    }
}
