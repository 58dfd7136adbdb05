//! The form of an image, by its content: the first bytes of a file, the members of an archive.
//!
//! A tar archive may be a root file system or hold images. It holds images if the documents that list them are there
//! and have the shape of such lists: a root file system may well have a file of one of these names.

use std::fmt;

use serde::Deserialize;

use super::blobs::{Blobs, parse};
use super::fs::FileSystem;
use super::{docker, docker_v1, erofs};

/// The form an image came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A directory that holds a root file system.
    Directory,
    /// A tar archive of a root file system.
    Tar,
    /// One or several newc archives.
    Cpio,
    /// An EROFS file system.
    Erofs,
    /// An archive of `docker save`.
    DockerArchive,
    /// An OCI image layout in a tar archive.
    OciArchive,
    /// An OCI image layout in a directory.
    OciDirectory,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Directory => "directory",
            Self::Tar => "tar archive",
            Self::Cpio => "cpio archive",
            Self::Erofs => "EROFS file system",
            Self::DockerArchive => "docker archive",
            Self::OciArchive => "OCI archive",
            Self::OciDirectory => "OCI layout directory",
        })
    }
}

/// The number of first bytes that tell a kind.
pub(super) const START: u64 = erofs::SUPER_AT + erofs::MAGIC.to_le_bytes().len() as u64;
/// Bytes of a tar header.
const HEADER: usize = 512;

/// The kind of an uncompressed archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// tar, whatever it holds.
    Tar,
    /// cpio.
    Cpio,
    /// EROFS.
    Erofs,
}

/// Where a known kind of file that is no image has which bytes.
const KINDS: [(&[u8], &str); 6] = [
    (b"PK\x03\x04", "a zip archive"),
    (b"!<arch>\n", "an ar archive or a Debian package"),
    (b"hsqs", "a squashfs file system"),
    (b"QFI\xfb", "a qcow2 disk image"),
    (b"\x7fELF", "a program"),
    (b"#!", "a script"),
];

/// Returns an uncompressed archive's kind by its first bytes, [`START`] of them.
///
/// Before an EROFS file system's super block anything may stand, as a rule zeros, which are the end of a tar archive
/// without members.
///
/// # Errors
/// It is none; its probable kind, with an article.
pub(super) fn kind(start: &[u8]) -> Result<Kind, &'static str> {
    if start.starts_with(b"07070") {
        return Ok(Kind::Cpio);
    }
    let header = start.get(..HEADER);
    let is_zero = header.is_some_and(|header| header.iter().all(|&byte| byte == 0));
    if header.is_some_and(|header| header[257..].starts_with(b"ustar") || is_tar(header)) {
        return Ok(Kind::Tar);
    }
    let super_block = start.get(erofs::SUPER_AT as usize..).unwrap_or_default();
    if super_block.starts_with(&erofs::MAGIC.to_le_bytes()) {
        return Ok(Kind::Erofs);
    }
    if is_zero {
        return Ok(Kind::Tar);
    }
    match KINDS.iter().find(|(magic, _)| start.starts_with(magic)) {
        Some((_, what)) => Err(what),
        None if start.is_empty() => Err("an empty file"),
        None => Err("a file of unknown kind"),
    }
}

/// True if a block is a tar header by its checksum: those of the oldest kind have no magic number.
fn is_tar(block: &[u8]) -> bool {
    const FIELD: std::ops::Range<usize> = 148..156;
    let field = block[FIELD].iter().map(|&byte| char::from(byte));
    let digits: String = field
        .skip_while(|&c| c == ' ')
        .take_while(char::is_ascii_digit)
        .collect();
    let sum = |blanks| -> u32 {
        let bytes = block.iter().enumerate();
        let bytes = bytes.map(|(at, &byte)| if FIELD.contains(&at) { blanks } else { byte });
        bytes.map(u32::from).sum()
    };
    u32::from_str_radix(&digits, 8) == Ok(sum(b' '))
}

/// Which lists of images an archive has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bundle {
    /// docker's.
    Docker,
    /// OCI's.
    Oci,
    /// Both, as docker writes since version 25.
    Both,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OciLayoutFile {
    #[allow(dead_code)] // Only that it is there matters.
    image_layout_version: String,
}

#[derive(Deserialize)]
struct Index {
    #[allow(dead_code)] // Only that it is there matters.
    manifests: Vec<serde::de::IgnoredAny>,
}

/// Which lists of images are among an archive's members; `None` for a root file system.
pub(super) fn bundle(blobs: &Blobs) -> Option<Bundle> {
    let document = |name| blobs.document(name).unwrap_or_default();
    let oci = parse::<OciLayoutFile>("oci-layout", &document("oci-layout")).is_ok()
        && parse::<Index>("index.json", &document("index.json")).is_ok();
    let docker = docker::is_here(blobs);
    match (docker, oci) {
        (true, true) => Some(Bundle::Both),
        (true, false) => Some(Bundle::Docker),
        (false, true) => Some(Bundle::Oci),
        (false, false) => match blobs {
            Blobs::Archive { system, .. } => damaged(system),
            Blobs::Directory { .. } => None,
        },
    }
}

/// An archive whose lists are damaged or missing still has nothing in it that a root file system would have. It is taken
/// for what it must have been, so that the error says what is wrong with it: lists often are the last members, which an
/// archive that was cut off lacks.
fn damaged(system: &FileSystem) -> Option<Bundle> {
    let mut lists = Vec::new();
    let mut has_parts = false;
    for name in system.names_in(b"") {
        match name {
            b"manifest.json" | b"repositories" => lists.push(Bundle::Docker),
            b"oci-layout" | b"index.json" => lists.push(Bundle::Oci),
            b"blobs" => {}
            _ if is_part(name) => has_parts = true,
            _ => return None,
        }
    }
    if lists.contains(&Bundle::Docker) || (lists.is_empty() && has_parts) {
        return Some(Bundle::Docker);
    }
    let has_blobs = system.names_in(b"blobs").eq([b"sha256"]);
    match lists.is_empty() && has_blobs {
        true => Some(Bundle::Oci),
        false => lists.first().copied(),
    }
}

/// A name that docker gave to configurations and layers: a digest, with or without a suffix.
fn is_part(name: &[u8]) -> bool {
    let stem = [&b".json"[..], b".tar"]
        .iter()
        .find_map(|suffix| name.strip_suffix(*suffix));
    docker_v1::is_id(stem.unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::tar_of;

    #[test]
    fn archives_are_known_by_their_first_bytes() {
        let mut v7 = tar_of(&["f a x"]);
        v7[257..265].fill(0);
        let sum: u32 = v7[..512]
            .iter()
            .enumerate()
            .map(|(at, &byte)| u32::from(if (148..156).contains(&at) { b' ' } else { byte }))
            .sum();
        v7[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        let erofs = |mut start: Vec<u8>| {
            start.resize(1024, 0);
            start.extend(0xe0f5_e1e2_u32.to_le_bytes());
            start
        };
        for (bytes, known) in [
            (&erofs(Vec::new())[..], Ok(Kind::Erofs)),
            (&erofs(vec![1; 512]), Ok(Kind::Erofs)),
            (&erofs(b"hsqs".to_vec()), Ok(Kind::Erofs)),
            (&erofs(Vec::new())[..1027], Ok(Kind::Tar)),
            (&erofs(tar_of(&["f a x"])[..512].to_vec()), Ok(Kind::Tar)),
            (&erofs(v7[..512].to_vec()), Ok(Kind::Tar)),
            (&erofs(b"070701".to_vec()), Ok(Kind::Cpio)),
            (&tar_of(&["f a x"])[..512], Ok(Kind::Tar)),
            (&v7[..512], Ok(Kind::Tar)),
            (&[0; 512], Ok(Kind::Tar)),
            (&[0; 511], Err("a file of unknown kind")),
            (&[1; 512], Err("a file of unknown kind")),
            (b"070701000", Ok(Kind::Cpio)),
            (b"070707000", Ok(Kind::Cpio)),
            (b"\x7fELF", Err("a program")),
            (b"", Err("an empty file")),
        ] {
            assert_eq!(kind(bytes), known, "{:?}", &bytes[..bytes.len().min(9)]);
        }
    }
}
