//! Host to guest: the start record, a file in the last cpio segment.

use super::{Reader, VERSION};

/// What is added to rdinit's own path (its `argv[0]`) to give the path of the start record.
pub const RECORD_SUFFIX: &str = ".start";

/// First bytes of a start record.
pub const START_MAGIC: [u8; 8] = *b"rdvmgo\0\x01";

/// Flag in a start record: say when the kernel unpacked the initrd.
pub const WANT_TIMELINE: u32 = 1;
/// Flag in a start record: make the working directory where it is missing, as docker does.
pub const MAKE_WORKDIR: u32 = 2;
/// Flag in a start record: there is a table of extended attributes.
pub const HAS_ATTRIBUTES: u32 = 4;

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

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

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
