//! The segment that rdvm adds to an image: PID 1, the start record, the extended attributes and the kernel's modules, in a cpio
//! archive behind the image's.
//!
//! The only file that knows where rdinit's bytes are. The image's own entries are never touched: the names added are ones
//! the image does not have.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rdvm_proto::{
    ATTRIBUTES_SUFFIX, COPY_IN_SUFFIX, HAS_ATTRIBUTES, HAS_CAPABILITIES, HAS_MODULES, HAS_NETWORK,
    HAS_PROXY, HAS_REQUESTS, HAS_STDIN, HAS_TERMINAL, HELD, IS_INIT, Limit, MAKE_WORKDIR,
    MODULES_SUFFIX, NO_NEW_PRIVILEGES, OWNS_ROOT, READ_ONLY_ROOT, RECORD_SUFFIX, StartRecord, Step,
    StepAction, WANT_TIMELINE,
};

use crate::network;
use crate::request::{Command, CopyIn, Request, SetupStep, Ulimit};
use rdvm_image::account::Account;
use rdvm_image::config;
use rdvm_image::tree::{Content, Entry, FileBody, Kind, Tree};

/// rdinit: a static ELF for x86-64 Linux.
pub const RDINIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/rdinit"));

/// The command when none is given.
pub(crate) const DEFAULT_COMMAND: &str = "/init";

/// The guest's devices for console, stdout and status.
const PORTS: [&[u8]; 3] = [b"/dev/ttyS0", b"/dev/ttyS1", b"/dev/ttyS2"];
/// PATH where neither the image nor the options set it, as docker has it.
pub(crate) const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// As docker sets it with `-t`: whatever the terminal is, this is in every image's terminfo and near to it.
const TERM: &[u8] = b"TERM=xterm";
/// Limits of open files and processes: as systemd sets it for services and so for docker, `RLIMIT_NOFILE` of 1024
/// that may be raised by anybody, and no `RLIMIT_NPROC`. The kernel's own are 4096 and what a half of the RAM would hold.
const LIMITS: [Limit; 2] = [
    Limit {
        resource: 7,
        soft: 1024,
        hard: 524_288,
    },
    Limit {
        resource: 6,
        soft: u64::MAX,
        hard: u64::MAX,
    },
];
/// rdvm stops the machine as soon as it has read the last event. This is for the day it does not: long, since the
/// kernel announces a reset on the console.
const LINGER_MS: u32 = 10_000;
/// The file mode mask that containers have.
const UMASK: u32 = 0o022;
/// `PID_MAX_LIMIT`: what the kernel takes for a limit at most, and has no more processes than.
const PIDS_MAX: u32 = 4 << 20;
const HOSTNAME: &[u8] = b"rdvm";
/// By this systemd knows that its namespace is not the whole machine: it leaves devices alone, and `systemctl exit` has a code.
const CONTAINER: &[u8] = b"container=rdvm";

/// The name in the guest's root directory that PID 1 gets: one that `image` has no entry for, with or without a suffix.
pub(crate) fn name(image: &Tree) -> String {
    let taken = |path: String| image.get(path.as_bytes()).is_some();
    let free = |name: &String| {
        let suffixes = [
            "",
            RECORD_SUFFIX,
            ATTRIBUTES_SUFFIX,
            MODULES_SUFFIX,
            COPY_IN_SUFFIX,
        ];
        !suffixes
            .into_iter()
            .any(|suffix| taken(format!("{name}{suffix}")))
    };
    let mut names =
        std::iter::once(".rdvm".to_owned()).chain((1u64..).map(|n| format!(".rdvm{n}")));
    names.find(free).unwrap_or_default()
}

/// The facts for PID 1 besides the request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Surroundings<'a> {
    /// The command, with the image's configuration.
    pub command: &'a Command,
    /// As whom.
    pub account: &'a Account,
    /// Rows and columns of the terminal; zero where there is none or it does not say.
    pub window: [u16; 2],
    /// The physical address of memory that is shared, where any is.
    pub rings: Option<u64>,
    /// Where regions are mounted.
    pub regions: &'a [&'a [u8]],
    /// The modules that are loaded for them ([`rdvm_proto::Modules`]).
    pub modules: Option<&'a Arc<[u8]>>,
}

/// The segment for rdinit: itself, the record of what it is to do, the table of the image's extended attributes
/// ([`rdvm_initrd::attributes::table`]) where there is one, and modules. What is copied in ([`landing`]) is not in it.
pub(crate) fn segment(
    name: &str,
    request: &Request,
    surroundings: Surroundings<'_>,
    attributes: Option<Arc<[u8]>>,
) -> Tree {
    let privileges = &surroundings.command.privileges;
    let flags = [
        (true, MAKE_WORKDIR),
        (true, OWNS_ROOT),
        (request.timings, WANT_TIMELINE),
        (attributes.is_some(), HAS_ATTRIBUTES),
        (surroundings.modules.is_some(), HAS_MODULES),
        (request.stdin.interactive, HAS_STDIN),
        (request.stdin.tty, HAS_TERMINAL),
        (request.takes_requests(), HAS_REQUESTS),
        (request.network.is_wanted(), HAS_NETWORK),
        (request.network.has_proxy(), HAS_PROXY),
        (is_init(surroundings.command), IS_INIT),
        (privileges.capabilities.is_some(), HAS_CAPABILITIES),
        (privileges.no_new_privileges, NO_NEW_PRIVILEGES),
        (request.read_only_root, READ_ONLY_ROOT),
        (request.held, HELD),
    ];
    let flags = flags.iter().filter(|(is_set, _)| *is_set);
    let flags = flags.fold(0, |all, (_, flag)| all | flag);
    let record = record(name, request, surroundings, flags);
    let mut files = vec![
        (name.to_owned(), 0o700, RDINIT.into()),
        (format!("{name}{RECORD_SUFFIX}"), 0o600, record.into()),
    ];
    files.extend(attributes.map(|table| (format!("{name}{ATTRIBUTES_SUFFIX}"), 0o600, table)));
    let modules = surroundings.modules.cloned();
    files.extend(modules.map(|file| (format!("{name}{MODULES_SUFFIX}"), 0o600, file)));
    tree(files)
}

/// The directory, beside PID 1 called `name`, that everything copied in lands in.
pub(crate) fn copy_in_directory(name: &str) -> String {
    format!("{name}{COPY_IN_SUFFIX}")
}

/// Returns the path in the guest of copy number `index`, of `host`, from the root directory: below `below`, under its
/// own name if it has one. (`..` has none.)
pub(crate) fn landing(below: &str, index: usize, host: &Path) -> Vec<u8> {
    let mut path = format!("{below}/{index}/").into_bytes();
    path.extend_from_slice(own_name(host).unwrap_or(b"files"));
    path
}

/// The last name of a path; `None` for one that ends in a dot or two, and for the root.
fn own_name(path: &Path) -> Option<&[u8]> {
    let names = path.as_os_str().as_bytes().split(|&byte| byte == b'/');
    let last = names.rev().find(|name| !name.is_empty());
    last.filter(|name| !matches!(*name, b"." | b".."))
}

/// A path of the guest as an option has it, from the root.
fn from_root(guest: &[u8], workdir: &[u8]) -> Vec<u8> {
    let mut path = Vec::new();
    if !guest.starts_with(b"/") {
        if !workdir.starts_with(b"/") {
            path.push(b'/');
        }
        path.extend_from_slice(workdir);
        path.push(b'/');
    }
    path.extend_from_slice(guest);
    path
}

/// Returns a copy's destination. A copy without a name cannot go into a directory, so a slash at the end has no meaning then.
fn target(copy: &CopyIn, workdir: &[u8]) -> Vec<u8> {
    let mut path = from_root(copy.guest.as_bytes(), workdir);
    if own_name(&copy.host).is_none() && path.ends_with(b"/") {
        path.push(b'.');
    }
    path
}

/// The last limit for each resource, over the usual ones.
fn limits(ulimits: &[Ulimit]) -> Vec<Limit> {
    let mut limits = LIMITS.to_vec();
    for &Ulimit {
        resource,
        soft,
        hard,
    } in ulimits
    {
        limits.retain(|limit| limit.resource != resource);
        limits.push(Limit {
            resource,
            soft,
            hard,
        });
    }
    limits
}

/// The segment for the user's own init.
pub(crate) fn own_init(name: &str, init: Vec<u8>) -> Tree {
    tree(vec![(name.to_owned(), 0o755, init.into())])
}

fn record(name: &str, request: &Request, surroundings: Surroundings<'_>, flags: u32) -> Vec<u8> {
    let Surroundings {
        command,
        account,
        window,
        rings,
        regions,
        modules: _,
    } = surroundings;
    let default = [DEFAULT_COMMAND.as_bytes()];
    let given: Vec<&[u8]> = command.argv.iter().map(|arg| arg.as_bytes()).collect();
    let hostname = command
        .hostname
        .as_ref()
        .map_or(HOSTNAME, |name| name.as_bytes());
    let proxy = match request.network.has_proxy() {
        true => network::environment(),
        false => Vec::new(),
    };
    let env = environment(command, account, hostname, request.stdin.tty, &proxy);
    let env: Vec<&[u8]> = env.iter().map(Vec::as_slice).collect();
    let workdir = command
        .workdir
        .as_ref()
        .map_or(&b"/"[..], |dir| dir.as_bytes());
    let copies = &request.copies;
    let below = copy_in_directory(name);
    let numbered = copies.into.iter().enumerate();
    let copies_in: Vec<[Vec<u8>; 2]> = numbered
        .map(|(index, copy)| [landing(&below, index, &copy.host), target(copy, workdir)])
        .collect();
    let copies_in: Vec<[&[u8]; 2]> = copies_in.iter().map(|[a, b]| [&a[..], b]).collect();
    let out = copies.out.iter();
    let copies_out: Vec<Vec<u8>> = out
        .map(|copy| from_root(copy.guest.as_bytes(), workdir))
        .collect();
    let copies_out: Vec<&[u8]> = copies_out.iter().map(Vec::as_slice).collect();
    StartRecord {
        flags,
        uid: account.uid,
        gid: account.gid,
        groups: command.groups.as_deref().unwrap_or(&account.groups),
        linger_ms: LINGER_MS,
        ports: PORTS,
        workdir,
        hostname,
        argv: if given.is_empty() { &default } else { &given },
        env: &env,
        window,
        rings: rings.unwrap_or(0),
        umask: command.privileges.umask.unwrap_or(UMASK),
        pids: request.pids.unwrap_or(0).min(PIDS_MAX),
        capabilities: command.privileges.capabilities.unwrap_or_default(),
        steps: &request.steps.iter().map(step).collect::<Vec<_>>(),
        regions,
        limits: &limits(&command.ulimits),
        copies_in: &copies_in,
        copies_out: &copies_out,
    }
    .encode()
}

/// A step as PID 1 takes it.
fn step(step: &SetupStep) -> Step<'_> {
    match step {
        SetupStep::Mount {
            kind,
            source,
            target,
            flags,
            data,
        } => Step {
            flags: *flags,
            source: source.as_bytes(),
            kind: kind.as_bytes(),
            ..plain(StepAction::Mount, target, data)
        },
        SetupStep::Write { path, value } => plain(StepAction::Write, path, value),
        SetupStep::Mask { path } => plain(StepAction::Mask, path, OsStr::new("")),
        SetupStep::ReadOnly { path } => plain(StepAction::ReadOnly, path, OsStr::new("")),
    }
}

/// A step without a file system.
fn plain<'a>(action: StepAction, target: &'a OsStr, data: &'a OsStr) -> Step<'a> {
    Step {
        action,
        flags: 0,
        source: b"",
        target: target.as_bytes(),
        kind: b"",
        data: data.as_bytes(),
    }
}

/// True if the command has to be PID 1: systemd, or the machine's init under one of its usual names. The same rule as
/// `podman run --systemd=true` has.
fn is_init(command: &Command) -> bool {
    let name = command.argv.first().map(|name| name.as_bytes());
    let name = name.unwrap_or_default();
    let inits: [&[u8]; 4] = [
        b"init",
        b"/sbin/init",
        b"/usr/sbin/init",
        b"/usr/local/sbin/init",
    ];
    inits.contains(&name) || name.rsplit(|&byte| byte == b'/').next() == Some(b"systemd")
}

/// PATH, HOME, HOSTNAME and with a terminal TERM as docker sets them, the `proxy`'s, then the user's own; the last of each name
/// wins and keeps the first's place. Of an exact one HOME and the user's own.
fn environment(
    command: &Command,
    account: &Account,
    hostname: &[u8],
    tty: bool,
    proxy: &[String],
) -> Vec<Vec<u8>> {
    let path = format!("PATH={DEFAULT_PATH}");
    let home = format!("HOME={}", account.home);
    let hostname = [b"HOSTNAME=", hostname].concat();
    let defaults = [path.as_bytes(), home.as_bytes(), &hostname];
    let defaults = defaults.into_iter().chain(tty.then_some(TERM));
    let defaults = defaults.chain(is_init(command).then_some(CONTAINER));
    let defaults = defaults.chain(proxy.iter().map(String::as_bytes));
    let defaults: Vec<&[u8]> = match command.exact_env {
        true => vec![home.as_bytes()],
        false => defaults.collect(),
    };
    let own = command.env.iter().map(|entry| entry.as_bytes());
    let entries = config::last_of_each(defaults.into_iter().chain(own));
    entries.into_iter().map(<[u8]>::to_vec).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_lands_under_its_own_name_if_it_has_one() {
        let landed = |host: &str| String::from_utf8(landing("x.in", 3, Path::new(host))).unwrap();
        for (host, name) in [
            ("src", "src"),
            ("a/b//", "b"),
            (".", "files"),
            ("a/.", "files"),
            ("..", "files"),
            ("/", "files"),
            ("...", "..."),
        ] {
            assert_eq!(landed(host), format!("x.in/3/{name}"), "{host}");
        }
    }

    #[test]
    fn a_place_in_the_guest_is_from_the_working_directory() {
        let target = |host: &str, guest: &str, workdir: &str| {
            let copy = CopyIn {
                host: host.into(),
                guest: guest.into(),
            };
            String::from_utf8(target(&copy, workdir.as_bytes())).unwrap()
        };
        assert_eq!(target("a", "b", "/"), "//b");
        assert_eq!(target("a", "b/", "/w"), "/w/b/");
        assert_eq!(target("a", "/b", "/w"), "/b");
        assert_eq!(target("a", ".", "w"), "/w/.");
        assert_eq!(target(".", "b/", "/w"), "/w/b/.");
        assert_eq!(target("a/..", "/", "/w"), "/.");
        assert_eq!(target(".", "b", "/w"), "/w/b");
    }

    #[test]
    fn the_last_limit_of_a_resource_counts() {
        let limit = |resource, soft| Ulimit {
            resource,
            soft,
            hard: 9,
        };
        let limits = limits(&[limit(7, 1), limit(2, 5), limit(7, 3)]);
        let seen: Vec<_> = limits.iter().map(|l| (l.resource, l.soft)).collect();
        assert_eq!(seen, [(6, u64::MAX), (2, 5), (7, 3)]);
    }

    fn image(names: &[&str]) -> Tree {
        let entry = |path: &&str| Entry {
            path: path.as_bytes().to_vec(),
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: 0,
            xattrs: None,
            kind: Kind::Fifo,
        };
        Tree::from_entries(names.iter().map(entry).collect()).unwrap()
    }

    #[test]
    fn without_attributes_there_is_neither_file_nor_flag() {
        let table = || Some([0][..].into());
        let account = Account {
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            home: "/".to_owned(),
        };
        let request = Request::new("image", [""; 0]);
        let surroundings = Surroundings {
            command: &request.command,
            account: &account,
            window: [0, 0],
            rings: None,
            regions: &[],
            modules: None,
        };
        let make = |table| segment(".rdvm", &request, surroundings, table);
        let flags = |segment: &Tree| {
            let Kind::File(record) = &segment.get(b".rdvm.start").unwrap().kind else {
                panic!("no record");
            };
            let bytes = record.content.read(record.size).unwrap();
            rdvm_proto::Start::decode(&bytes).unwrap().0.flags
        };
        let (with, without) = (make(table()), make(None));
        assert_eq!((with.entries().len(), without.entries().len()), (3, 2));
        assert_eq!(flags(&with) ^ flags(&without), rdvm_proto::HAS_ATTRIBUTES);
    }

    #[test]
    fn the_names_of_what_rdvm_adds_are_free_in_the_image() {
        for taken in [
            ".rdvm",
            ".rdvm.start",
            ".rdvm.xattrs",
            ".rdvm.modules",
            ".rdvm.in",
        ] {
            assert_eq!(name(&image(&[taken])), ".rdvm1", "{taken}");
        }
    }
}
