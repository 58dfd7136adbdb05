//! Images by skopeo's names (containers-transports(5)): `oci:`, `oci-archive:` and `docker-archive:` name files, which
//! are read, and `docker://` an image of a registry; every other transport is answered with the command that makes a file of
//! the image.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Error;
use crate::names;
use crate::request::Format;
use rdvm_hostfs::escape::escaped;
use rdvm_registry::TRANSPORT;

/// The transports whose images rdvm reads.
const READ: [(&str, Format); 3] = [
    ("oci:", Format::Oci),
    ("oci-archive:", Format::Oci),
    ("docker-archive:", Format::Docker),
];

/// Those that skopeo reads for it.
const FETCHED: [&str; 5] = [
    "docker-daemon:",
    "containers-storage:",
    "dir:",
    "ostree:",
    "sif:",
];

/// A file or directory, and what its name said of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) path: PathBuf,
    pub(super) format: Option<Format>,
    pub(super) tag: Option<String>,
}

/// Takes `word` for a transport's name where it begins like one and no file is called so.
///
/// Errors: [`Error::Transport`].
pub(super) fn named(word: PathBuf) -> Result<Named, Error> {
    let bytes = word.as_os_str().as_bytes();
    let transport = |name: &str| bytes.strip_prefix(name.as_bytes());
    let is_file = || word.symlink_metadata().is_ok();
    if FETCHED.iter().any(|name| transport(name).is_some()) && !is_file() {
        return Err(refused(&word));
    }
    // Resolved when the image is needed; a wrong one is an error now.
    names::name_in(&word)?;
    for (name, format) in READ {
        let Some(rest) = transport(name).filter(|_| !is_file()) else {
            continue;
        };
        let (path, tag) = match rest.iter().position(|&byte| byte == b':') {
            Some(at) => (&rest[..at], Some(&rest[at + 1..])),
            None => (rest, None),
        };
        return Ok(Named {
            path: Path::new(OsStr::from_bytes(path)).to_owned(),
            format: Some(format),
            tag: tag.map(|tag| String::from_utf8_lossy(tag).into_owned()),
        });
    }
    Ok(Named {
        path: word,
        format: None,
        tag: None,
    })
}

/// Refuses names that only skopeo can fetch, and names of images, where a plain file is meant.
///
/// Errors: [`Error::Transport`].
pub(super) fn check(words: &[PathBuf]) -> Result<(), Error> {
    words
        .iter()
        .try_for_each(|word| match names::name_in(word)? {
            Some(_) => Err(refused(word)),
            None => named(word.clone()).map(drop),
        })
}

fn refused(word: &Path) -> Error {
    let bytes = word.as_os_str().as_bytes();
    let is_known = FETCHED
        .iter()
        .any(|name| bytes.starts_with(name.as_bytes()));
    let (command, file) = match is_known || bytes.starts_with(TRANSPORT.as_bytes()) {
        true => fetch(bytes),
        false => fetch(&[TRANSPORT.as_bytes(), bytes].concat()),
    };
    Error::Transport {
        word: word.to_owned(),
        command,
        file,
    }
}

/// The command that makes a docker archive of an image, and the archive's name.
pub(super) fn fetch(image: &[u8]) -> (String, String) {
    // The last name, without tag and digest.
    let name = image
        .rsplit(|&byte| byte == b'/')
        .next()
        .unwrap_or_default();
    let name = FETCHED
        .iter()
        .chain([&TRANSPORT])
        .find_map(|transport| name.strip_prefix(transport.as_bytes()))
        .unwrap_or(name);
    let end = name.iter().position(|&byte| matches!(byte, b':' | b'@'));
    let stem = &name[..end.unwrap_or(name.len())];
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    let file = match !stem.is_empty() && stem[0] != b'-' && stem.iter().all(is_plain) {
        true => format!("{}.tar", String::from_utf8_lossy(stem)),
        false => "image.tar".to_owned(),
    };
    let is_word = |byte: &u8| is_plain(byte) || b":/@+=%,".contains(byte);
    let image = match image.iter().all(is_word) {
        true => String::from_utf8_lossy(image).into_owned(),
        false => format!("'{}'", escaped(image).replace('\'', r"'\''")),
    };
    (format!("skopeo copy {image} docker-archive:{file}"), file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transports_that_name_files_are_taken_apart() {
        let cases = [
            ("oci:dir", "dir", Format::Oci, None),
            ("oci:a/b:v1.0", "a/b", Format::Oci, Some("v1.0")),
            ("oci-archive:x.tar:t", "x.tar", Format::Oci, Some("t")),
            ("docker-archive:x.tar", "x.tar", Format::Docker, None),
            (
                "docker-archive:/x.tar:host:5000/app:1",
                "/x.tar",
                Format::Docker,
                Some("host:5000/app:1"),
            ),
        ];
        for (word, path, format, tag) in cases {
            let want = Named {
                path: path.into(),
                format: Some(format),
                tag: tag.map(str::to_owned),
            };
            assert_eq!(named(word.into()).unwrap(), want, "{word}");
        }
        for word in ["dir", "./oci:dir", "ocix:dir", "-"] {
            let plain = named(word.into()).unwrap();
            assert_eq!((plain.path, plain.format), (word.into(), None));
        }
    }

    #[test]
    fn other_transports_are_answered_with_the_command_that_fetches() {
        for (word, command) in [
            (
                "debian:12",
                "skopeo copy docker://debian:12 docker-archive:debian.tar",
            ),
            (
                "docker://debian",
                "skopeo copy docker://debian docker-archive:debian.tar",
            ),
            (
                "docker://host:5000/a/app:1.2",
                "skopeo copy docker://host:5000/a/app:1.2 docker-archive:app.tar",
            ),
            (
                "docker-daemon:alpine@sha256:00",
                "skopeo copy docker-daemon:alpine@sha256:00 docker-archive:alpine.tar",
            ),
            (
                "docker-daemon:app:latest",
                "skopeo copy docker-daemon:app:latest docker-archive:app.tar",
            ),
            (
                "dir:some/where",
                "skopeo copy dir:some/where docker-archive:where.tar",
            ),
            (
                "dir:it's",
                r"skopeo copy 'dir:it'\''s' docker-archive:image.tar",
            ),
        ] {
            let error = check(&[word.into()]).unwrap_err().to_string();
            assert!(error.contains(command), "{error}");
        }
    }
}
