//! Small archives for the tests: members from one line each, and the tar bytes of the same.

use std::process::Command;
use std::sync::Arc;

use super::byte_source::{ByteSource, CHUNK, Span};
use super::member::{EntryKind, FileContent, Member};
use super::tree::{FileBody, Kind, Tree};

/// One member: its kind, name and what follows, as in `d bin`, `f bin/sh text`, `s sh -> bin/sh`, `h sh = bin/sh`,
/// `p pipe`, `c tty 5 0`, `b disk 8 1`. A mode in octal may stand before the name: `d 700 root`.
pub(crate) fn member(line: &str) -> Member {
    let (kind, rest) = line.split_once(' ').unwrap();
    let (mode, rest) = match rest.split_once(' ') {
        Some((mode, rest)) if mode.len() >= 3 && u16::from_str_radix(mode, 8).is_ok() => {
            (u16::from_str_radix(mode, 8).unwrap(), rest)
        }
        _ => (if kind == "d" { 0o755 } else { 0o644 }, rest),
    };
    let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let after = |sign: &str| rest.strip_prefix(sign).unwrap().trim_start().into();
    let device = || {
        let (major, minor) = rest.split_once(' ').unwrap();
        (major.parse().unwrap(), minor.parse().unwrap())
    };
    let what = match kind {
        "d" => EntryKind::Directory,
        "f" => file(rest.as_bytes()),
        "s" => EntryKind::Symlink(after("->")),
        "h" => EntryKind::HardLink(after("=")),
        "p" => EntryKind::Fifo,
        "c" => {
            let (major, minor) = device();
            EntryKind::CharDevice { major, minor }
        }
        "b" => {
            let (major, minor) = device();
            EntryKind::BlockDevice { major, minor }
        }
        _ => panic!("{line}"),
    };
    Member {
        name: name.into(),
        mode,
        uid: 0,
        gid: 0,
        mtime: 1000,
        xattrs: None,
        what,
    }
}

/// A regular file with these bytes.
pub(crate) fn file(bytes: &[u8]) -> EntryKind {
    let store = ByteSource::of_chunks(
        bytes
            .chunks(CHUNK)
            .map(|chunk| Some(chunk.into()))
            .collect(),
        bytes.len() as u64,
        "sample".into(),
    );
    EntryKind::File {
        size: bytes.len() as u64,
        content: FileContent::Span(Span {
            store: Arc::new(store),
            offset: 0,
        }),
        link: 0,
    }
}

/// The ustar archive of these members; names and targets of at most 100 bytes.
pub(crate) fn tar(members: &[Member]) -> Vec<u8> {
    let mut archive = Vec::new();
    for member in members {
        let (kind, target, size, device) = match &member.what {
            EntryKind::Directory => (b'5', &[][..], 0, (0, 0)),
            EntryKind::File { size, .. } => (b'0', &[][..], *size, (0, 0)),
            EntryKind::HardLink(target) => (b'1', &target[..], 0, (0, 0)),
            EntryKind::Symlink(target) => (b'2', &target[..], 0, (0, 0)),
            EntryKind::CharDevice { major, minor } => (b'3', &[][..], 0, (*major, *minor)),
            EntryKind::BlockDevice { major, minor } => (b'4', &[][..], 0, (*major, *minor)),
            EntryKind::Fifo => (b'6', &[][..], 0, (0, 0)),
            EntryKind::Socket => panic!("tar has no sockets"),
        };
        let mut header = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        assert!(member.name.len() <= 100 && target.len() <= 100);
        put(0, &member.name);
        put(100, format!("{:07o}", member.mode).as_bytes());
        put(108, format!("{:07o}", member.uid).as_bytes());
        put(116, format!("{:07o}", member.gid).as_bytes());
        put(124, format!("{size:011o}").as_bytes());
        put(136, format!("{:011o}", member.mtime).as_bytes());
        put(148, b"        ");
        put(156, &[kind]);
        put(157, target);
        put(257, b"ustar\x0000");
        put(329, format!("{:07o}", device.0).as_bytes());
        put(337, format!("{:07o}", device.1).as_bytes());
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive.extend_from_slice(&header);
        if let EntryKind::File {
            size,
            content: FileContent::Span(span),
            ..
        } = &member.what
        {
            let mut bytes = vec![0; *size as usize];
            span.store.read_exact(span.offset, &mut bytes).unwrap();
            archive.append(&mut bytes);
            archive.resize(archive.len().next_multiple_of(512), 0);
        }
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// [`tar`] of members from one line each.
pub(crate) fn tar_of(lines: &[&str]) -> Vec<u8> {
    tar(&lines.iter().map(|line| member(line)).collect::<Vec<_>>())
}

/// A line for each entry but the root: kind, mode, path, then what it holds; names of one file carry the first one's
/// path.
pub(crate) fn listing(tree: &Tree) -> Vec<String> {
    let mut firsts = std::collections::HashMap::new();
    let entries = tree.entries().iter().filter(|entry| !entry.path.is_empty());
    let lines = entries.map(|entry| {
        let path = String::from_utf8_lossy(&entry.path).into_owned();
        let mode = entry.mode;
        match &entry.kind {
            Kind::Directory => format!("d {mode:o} {path}"),
            Kind::File(FileBody {
                size,
                content,
                link,
            }) => {
                let text = content.read(*size).unwrap();
                let text = String::from_utf8_lossy(&text).into_owned();
                let first = link.map_or(path.clone(), |link| {
                    firsts.entry(link).or_insert(path.clone()).clone()
                });
                match first == path {
                    true => format!("f {mode:o} {path} {text}"),
                    false => format!("f {mode:o} {path} {text} = {first}"),
                }
            }
            Kind::Symlink(target) => format!("s {path} -> {}", String::from_utf8_lossy(target)),
            Kind::CharDevice { major, minor } => format!("c {mode:o} {path} {major} {minor}"),
            Kind::BlockDevice { major, minor } => format!("b {mode:o} {path} {major} {minor}"),
            Kind::Fifo => format!("p {mode:o} {path}"),
            Kind::Socket => format!("S {mode:o} {path}"),
        }
    });
    lines.map(|line| line.trim_end().to_owned()).collect()
}

/// True if a program is here; says so when it is not.
pub(crate) fn is_here(program: &str) -> bool {
    let here = Command::new(program).arg("--version").output().is_ok();
    if !here {
        crate::skips::missing(program);
    }
    here
}
