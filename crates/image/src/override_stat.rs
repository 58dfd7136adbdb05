//! `user.containers.override_stat`: what a container engine without root says that a file is.
//!
//! The value is `UID:GID:MODE[:KIND]`, mode in octal, kind one of `file`, `dir`, `symlink`, `pipe`, `socket`,
//! `block-MAJOR-MINOR` and `char-MAJOR-MINOR`, as containers/storage writes it (its `pkg/idtools`). Others (libkrun) leave
//! the kind out and write all of `st_mode`. Further fields are for the future.

use rustix::fs::{FileType, makedev};

use super::fakeroot::Pretended;

/// Reads a value. `real` is what the file is on the host, where the value does not say; `None` where it is malformed.
pub(super) fn parse(value: &[u8], real: FileType) -> Option<Pretended> {
    let mut fields = str::from_utf8(value).ok()?.split(':');
    let mut next = |radix| number(fields.next()?, radix);
    let (uid, gid, mode) = (next(10)?, next(10)?, next(8)?);
    let in_mode = FileType::from_raw_mode(mode);
    let (kind, rdev) = match fields.next() {
        Some(kind) => of_kind(kind)?,
        // A device without its numbers is none.
        None if matches!(in_mode, FileType::CharacterDevice | FileType::BlockDevice) => {
            return None;
        }
        None if mode & TYPE != 0 => (in_mode, 0),
        None => (real, 0),
    };
    Some(Pretended {
        mode: kind.as_raw_mode() | mode & 0o7777,
        uid,
        gid,
        rdev,
    })
}

/// The bits of a mode that tell the kind of file.
const TYPE: u32 = 0o170_000;

fn of_kind(text: &str) -> Option<(FileType, u64)> {
    let kind = match text {
        "file" => FileType::RegularFile,
        "dir" => FileType::Directory,
        "symlink" => FileType::Symlink,
        "pipe" => FileType::Fifo,
        "socket" => FileType::Socket,
        device => {
            let mut parts = device.split('-');
            let kind = match parts.next()? {
                "block" => FileType::BlockDevice,
                "char" => FileType::CharacterDevice,
                _ => return None,
            };
            let (major, minor) = (number(parts.next()?, 10)?, number(parts.next()?, 10)?);
            return Some((kind, makedev(major, minor)));
        }
    };
    Some((kind, 0))
}

/// Digits only: the standard library would also take a sign.
fn number(text: &str, radix: u32) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| u32::from_str_radix(text, radix).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_as_container_engines_write_them_are_understood() {
        let regular = FileType::RegularFile;
        for (value, real, (mode, uid, gid, rdev)) in [
            ("0:0:0755:file", regular, (0o100_755, 0, 0, 0)),
            ("1000:100:4755", regular, (0o104_755, 1000, 100, 0)),
            ("0:42:2775:dir", FileType::Directory, (0o042_775, 0, 42, 0)),
            ("0:0:0700", FileType::Directory, (0o040_700, 0, 0, 0)),
            ("0:0:0644:pipe", regular, (0o010_644, 0, 0, 0)),
            ("0:0:0644:socket", regular, (0o140_644, 0, 0, 0)),
            (
                "0:5:0620:char-136-3",
                regular,
                (0o020_620, 0, 5, makedev(136, 3)),
            ),
            (
                "0:6:0660:block-259-70000-x",
                regular,
                (0o060_660, 0, 6, makedev(259, 70_000)),
            ),
            ("0:0:0777:symlink", regular, (0o120_777, 0, 0, 0)),
            ("0:0:0100644", regular, (0o100_644, 0, 0, 0)),
            ("0:0:041777", FileType::Directory, (0o041_777, 0, 0, 0)),
            ("0:0:010600", regular, (0o010_600, 0, 0, 0)),
            (
                "4294967295:0:7777:file:later",
                regular,
                (0o107_777, u32::MAX, 0, 0),
            ),
        ] {
            let expected = Pretended {
                mode,
                uid,
                gid,
                rdev,
            };
            assert_eq!(parse(value.as_bytes(), real), Some(expected), "{value}");
        }
    }

    #[test]
    fn values_of_another_shape_are_not() {
        for bad in [
            "",
            "0:0",
            "0:0:",
            ":0:0644",
            "0:0:0648",
            "-1:0:0644",
            "+1:0:0644",
            "0:0:0644:",
            "0:0:0644:door",
            "0:0:0644:char",
            "0:0:0644:char-1",
            "0:0:0644:char-1-",
            "0:0:0644:char-a-b",
            "0:0:0644:files",
            "0:0:020644",
            "4294967296:0:0644",
            "0:0:0644\0",
            "0:0:0644\n",
            " 0:0:0644",
        ] {
            assert_eq!(
                parse(bad.as_bytes(), FileType::RegularFile),
                None,
                "{bad:?}"
            );
        }
        assert_eq!(parse(b"0:0:0\xff", FileType::RegularFile), None);
    }
}
