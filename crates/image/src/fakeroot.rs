//! The save file of `fakeroot -s`: what fakeroot pretended about files, by device and inode.
//!
//! A line is `dev=HEX,ino=DEC,mode=OCTAL,uid=DEC,gid=DEC,nlink=DEC,rdev=DEC`, mode with the file type. Takes the text,
//! gives a look-up; who asks decides what an answer means.

use std::collections::HashMap;
use std::path::Path;

use super::Error;

/// The attributes that fakeroot pretended for one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pretended {
    /// File type and permission bits, as in `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, as in `st_rdev`.
    pub rdev: u64,
}

/// A whole save file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct SaveFile {
    files: HashMap<(u64, u64), Pretended>,
}

impl SaveFile {
    /// Reads the save file at `path`; errors name it, and the line that is not understood.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read(path).map_err(|source| Error::SaveFile {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text).map_err(|line| Error::SaveFileLine {
            path: path.to_owned(),
            line,
        })
    }

    /// Reads lines; the error is the number of the first one that is not understood, from 1.
    fn parse(text: &[u8]) -> Result<Self, usize> {
        let mut files = HashMap::new();
        if text.is_empty() {
            return Ok(Self { files });
        }
        let lines = text
            .strip_suffix(b"\n")
            .unwrap_or(text)
            .split(|&byte| byte == b'\n');
        for (index, line) in lines.enumerate() {
            let (key, file) = parse_line(line).ok_or(index + 1)?;
            if files.insert(key, file).is_some() {
                return Err(index + 1);
            }
        }
        Ok(Self { files })
    }

    /// Returns the attributes pretended for the file with this device and inode number.
    pub(crate) fn get(&self, dev: u64, ino: u64) -> Option<&Pretended> {
        self.files.get(&(dev, ino))
    }
}

fn parse_line(line: &[u8]) -> Option<((u64, u64), Pretended)> {
    let mut fields = str::from_utf8(line).ok()?.split(',');
    let mut field = |name: &str, radix: u32| -> Option<u64> {
        let digits = fields.next()?.strip_prefix(name)?.strip_prefix('=')?;
        // A sign would pass below.
        digits
            .bytes()
            .all(|byte| byte.is_ascii_hexdigit())
            .then(|| u64::from_str_radix(digits, radix).ok())?
    };
    let key = (field("dev", 16)?, field("ino", 10)?);
    let mode = u32::try_from(field("mode", 8)?).ok()?;
    let uid = u32::try_from(field("uid", 10)?).ok()?;
    let gid = u32::try_from(field("gid", 10)?).ok()?;
    let _nlink = field("nlink", 10)?;
    let rdev = field("rdev", 10)?;
    fields.next().is_none().then_some((
        key,
        Pretended {
            mode,
            uid,
            gid,
            rdev,
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "dev=fe00,ino=10010754,mode=20644,uid=0,gid=5,nlink=1,rdev=259\n";

    #[test]
    fn a_line_as_fakeroot_writes_it_is_understood() {
        let save = SaveFile::parse(GOOD.as_bytes()).unwrap();
        let device = Pretended {
            mode: 0o20644,
            uid: 0,
            gid: 5,
            rdev: 259,
        };
        assert_eq!(save.get(0xfe00, 10_010_754), Some(&device));
        assert_eq!(save.get(0xfe00, 1), None);
        assert_eq!(SaveFile::parse(b""), Ok(SaveFile::default()));
    }

    #[test]
    fn a_line_that_is_not_understood_is_named_by_its_number() {
        for bad in [
            "\n",
            "garbage\n",
            "dev=fe00,ino=1,mode=8,uid=0,gid=0,nlink=1,rdev=0\n",
            "dev=fe00,ino=1,mode=100644,uid=0,gid=0,nlink=1\n",
            "dev=fe00,ino=1,mode=100644,uid=0,gid=0,nlink=1,rdev=0,x=1\n",
            "dev=fe00,ino=1,mode=100644,uid=4294967296,gid=0,nlink=1,rdev=0\n",
            "dev=fe00,ino=1,mode=100644,uid=+1,gid=0,nlink=1,rdev=0\n",
            "ino=1,dev=fe00,mode=100644,uid=0,gid=0,nlink=1,rdev=0\n",
            "dev=fe00,ino=1,mode=100644,uid=0,gid",
            GOOD,
        ] {
            assert_eq!(
                SaveFile::parse(format!("{GOOD}{bad}").as_bytes()),
                Err(2),
                "{bad:?}"
            );
        }
    }
}
