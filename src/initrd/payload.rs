//! What rdvm adds to an image: PID 1, the start record and the extended attributes, in a cpio segment of their own behind
//! the image's.
//!
//! The only file that knows where rdinit's bytes are. The image's own entries are never touched: the names added are ones
//! the image does not have.

use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rdinit::protocol::{
    ATTRIBUTES_SUFFIX, HAS_ATTRIBUTES, HAS_ORDERS, HAS_STDIN, HAS_TERMINAL, Limit, MAKE_WORKDIR,
    RECORD_SUFFIX, StartRecord, WANT_TIMELINE,
};

use super::account::Account;
use crate::image::tree::{Content, Entry, FileBody, Kind, Tree};
use crate::memory::RootFs;
use crate::request::{Command, Copies, Stdin, Ulimit};

/// rdinit: a static ELF for x86-64 Linux.
pub const RDINIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/rdinit"));

/// What runs when no command is given.
pub const DEFAULT_COMMAND: &str = "/init";

/// The guest's devices for console, stdout and status.
const PORTS: [&[u8]; 3] = [b"/dev/ttyS0", b"/dev/ttyS1", b"/dev/ttyS2"];
/// As docker sets it where the image says nothing.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// rdvm stops the machine as soon as it has read the last event. This is for the day it does not: long, since the
/// kernel announces a reset on the console.
const LINGER_MS: u32 = 10_000;
const HOSTNAME: &[u8] = b"rdvm";

/// The name in the guest's root directory that PID 1 gets: one that `image` has no entry for, with or without a suffix.
pub fn name(image: &Tree) -> String {
    let taken = |path: String| image.get(path.as_bytes()).is_some();
    let free = |name: &String| {
        let mut suffixes = ["", RECORD_SUFFIX, ATTRIBUTES_SUFFIX].into_iter();
        !suffixes.any(|suffix| taken(format!("{name}{suffix}")))
    };
    let mut names =
        std::iter::once(".rdvm".to_owned()).chain((1u64..).map(|n| format!(".rdvm{n}")));
    names.find(free).unwrap_or_default()
}

/// What goes on between PID 1 and the host beside the command and its output.
#[derive(Debug, Clone, Copy)]
pub struct Dealings<'a> {
    /// What the command's standard input is.
    pub stdin: Stdin,
    /// Rows and columns of its terminal; zero where not known.
    pub window: [u16; 2],
    /// The physical address of memory that is shared, where any is.
    pub rings: Option<u64>,
    /// Files that go in and out.
    pub copies: &'a Copies,
    /// Whether the host may have orders.
    pub orders: bool,
    /// Whether PID 1 is to say when the initrd was unpacked.
    pub timings: bool,
}

impl<'a> Dealings<'a> {
    /// Nothing but what `copies` say.
    pub fn none(copies: &'a Copies) -> Self {
        Self {
            stdin: Stdin::default(),
            window: [0; 2],
            rings: None,
            copies,
            orders: false,
            timings: false,
        }
    }
}

/// The segment for rdinit: itself, the record of what it is to do, and the table of the image's extended attributes
/// ([`super::attributes::table`]) where there is one.
pub fn segment(
    name: &str,
    command: &Command,
    account: &Account,
    root: RootFs,
    dealings: &Dealings<'_>,
    attributes: Option<Arc<[u8]>>,
) -> Tree {
    let flags = [
        (true, MAKE_WORKDIR),
        (dealings.timings, WANT_TIMELINE),
        (attributes.is_some(), HAS_ATTRIBUTES),
        (dealings.stdin.interactive, HAS_STDIN),
        (dealings.stdin.tty, HAS_TERMINAL),
        (dealings.orders, HAS_ORDERS),
    ];
    let flags = flags.iter().filter(|(set, _)| *set);
    let flags = flags.fold(0, |flags, (_, flag)| flags | flag);
    let record = record(command, account, root, dealings, flags);
    let mut files = vec![
        (name.to_owned(), 0o700, RDINIT.into()),
        (format!("{name}{RECORD_SUFFIX}"), 0o600, record.into()),
    ];
    files.extend(attributes.map(|table| (format!("{name}{ATTRIBUTES_SUFFIX}"), 0o600, table)));
    tree(files)
}

/// The segment for the user's own init.
pub fn own_init(name: &str, init: Vec<u8>) -> Tree {
    tree(vec![(name.to_owned(), 0o755, init.into())])
}

fn record(
    command: &Command,
    account: &Account,
    root: RootFs,
    dealings: &Dealings<'_>,
    flags: u32,
) -> Vec<u8> {
    let limits: Vec<Limit> = command.ulimits.iter().map(limit).collect();
    let copies_out = dealings.copies.out.iter();
    let copies_out: Vec<&[u8]> = copies_out.map(|copy| copy.guest.as_bytes()).collect();
    let default = [DEFAULT_COMMAND.as_bytes()];
    let given: Vec<&[u8]> = command.argv.iter().map(|arg| arg.as_bytes()).collect();
    let root_limit = match root {
        RootFs::Tmpfs { limit } => limit.0,
        RootFs::Ramfs => 0,
    };
    let env = environment(command, account);
    let env: Vec<&[u8]> = env.iter().map(Vec::as_slice).collect();
    StartRecord {
        flags,
        uid: account.uid,
        gid: account.gid,
        groups: &account.groups,
        root_limit,
        linger_ms: LINGER_MS,
        ports: PORTS,
        workdir: command.workdir.as_ref().map_or(b"/", |dir| dir.as_bytes()),
        hostname: command
            .hostname
            .as_ref()
            .map_or(HOSTNAME, |name| name.as_bytes()),
        argv: if given.is_empty() { &default } else { &given },
        env: &env,
        window: dealings.window,
        rings: dealings.rings.unwrap_or(0),
        limits: &limits,
        copies_in: &[],
        copies_out: &copies_out,
    }
    .encode()
}

/// PATH and HOME as docker sets them, then the user's own; the last of each name wins and keeps the first's place.
fn environment(command: &Command, account: &Account) -> Vec<Vec<u8>> {
    let home = format!("HOME={}", account.home);
    let defaults = [PATH.as_bytes(), home.as_bytes()];
    let mut entries: Vec<Vec<u8>> = Vec::new();
    let mut places = std::collections::HashMap::new();
    for entry in defaults
        .into_iter()
        .chain(command.env.iter().map(|entry| entry.as_bytes()))
    {
        let name = entry
            .split(|&byte| byte == b'=')
            .next()
            .unwrap_or_default()
            .to_vec();
        let place = *places.entry(name).or_insert(entries.len());
        match entries.get_mut(place) {
            Some(old) => *old = entry.to_vec(),
            None => entries.push(entry.to_vec()),
        }
    }
    entries
}

fn limit(limit: &Ulimit) -> Limit {
    Limit {
        resource: limit.resource,
        soft: limit.soft,
        hard: limit.hard,
    }
}

fn tree(files: Vec<(String, u16, Arc<[u8]>)>) -> Tree {
    let entries = files.into_iter().map(|(path, mode, bytes)| Entry {
        path: path.into_bytes(),
        mode,
        uid: 0,
        gid: 0,
        mtime: 0,
        xattrs: None,
        kind: Kind::File(FileBody {
            size: bytes.len() as u64,
            content: Content::Bytes(bytes),
            link: None,
        }),
    });
    // Plain names of our own making in the root directory: no rule of the tree can refuse them.
    Tree::from_entries(entries.collect()).expect("plain names make a tree")
}
