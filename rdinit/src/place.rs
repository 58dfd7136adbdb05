//! `--copy-in`: from where the kernel has unpacked it to its place in the image, by renaming.
//!
//! With a slash at its end a place is a directory to put things into, made where it is missing; else it is what the thing
//! becomes. A directory is merged into one that is there, which keeps its own owner, mode and everything in it that has
//! another name; a file goes into one. Links on the way are the image's own and are followed, the last name's is not,
//! unless it leads to a directory that a directory is merged into.

use crate::sys::{self, AT_CWD, ENOENT, ENOTDIR, Errno, O_DIRECTORY, O_NOFOLLOW, O_RDONLY};

const EEXIST: Errno = Errno(17);
const ENAMETOOLONG: Errno = Errno(36);
const ENOTEMPTY: Errno = Errno(39);

/// `PATH_MAX`: the longest path with its NUL.
const PATH_MAX: usize = 4096;
/// Names are read in pieces of this size. After each directory that is merged its parent is read anew, from what is left
/// in it, so there is no use in having many.
const NAMES: usize = 1024;

/// Puts everything in its place. `pairs` holds for each of `count` copies the path of what is to be moved and where it is
/// to go, both with a NUL. Removes the directories that it all was in.
///
/// Errors: which copy, from 0 on, and why; those before it are in their places, those after it are not.
pub(crate) fn place(pairs: &[u8], count: usize) -> Result<(), (u32, Errno)> {
    let mut strings = pairs.split_inclusive(|&byte| byte == 0);
    for which in 0..count as u32 {
        let (Some(from), Some(to)) = (strings.next(), strings.next()) else {
            return Err((which, sys::EINVAL));
        };
        put(from, to).map_err(|errno| (which, errno))?;
    }
    Ok(())
}

fn put(from: &[u8], to: &[u8]) -> sys::Result<()> {
    let mut from = Path::of(from)?;
    let mut to = Path::of(to)?;
    let is_directory = sys::stat_at(AT_CWD, from.with_nul())?.is_directory();
    let into = to.take_ending(is_directory);
    make_parents(&mut to, into)?;
    let goes_in = into || !is_directory && leads_to_directory(&to)?;
    if goes_in {
        to.push(from.last())?;
    }
    match is_directory {
        true => merge(&mut from, &mut to)?,
        false => sys::rename(from.with_nul(), to.with_nul())?,
    }
    // Of the directories that it was in the upper one is empty after the last copy.
    for _ in 0..2 {
        from.pop();
        let _ = sys::remove_directory(from.with_nul());
    }
    Ok(())
}

/// Makes a directory, and those above it, where they are missing.
pub(crate) fn make_directory(name: &[u8]) -> sys::Result<()> {
    make_parents(&mut Path::of(name)?, true)
}

/// Makes an empty file, and the directories above it, where they are missing.
pub(crate) fn make_file(name: &[u8]) -> sys::Result<()> {
    let mut path = Path::of(name)?;
    make_parents(&mut path, false)?;
    let (file, _) = sys::open_to_write(path.with_nul())?;
    sys::close(file);
    Ok(())
}

/// Makes the directories above a path, or that path too, where they are missing.
fn make_parents(path: &mut Path, itself: bool) -> sys::Result<()> {
    let length = path.length;
    for at in 1..=length {
        if at < length && path.buffer[at] != b'/' || at == length && !itself {
            continue;
        }
        let kept = core::mem::replace(&mut path.buffer[at], 0);
        let made = sys::mkdir(&path.buffer[..=at], 0o755);
        path.buffer[at] = kept;
        match made {
            // Whatever is there: if it is no directory, what is put below it fails.
            Ok(()) | Err(EEXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn leads_to_directory(path: &Path) -> sys::Result<bool> {
    match sys::stat(path.with_nul()) {
        Ok(there) => Ok(there.is_directory()),
        Err(ENOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// True if a directory must be merged into one at `to`, instead of getting that name.
fn meets_directory(to: &Path) -> sys::Result<bool> {
    match sys::stat(to.with_nul()) {
        Ok(there) if there.is_directory() => Ok(true),
        Ok(_) => Err(ENOTDIR),
        Err(ENOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Gives a directory its place, whatever is there. Depth costs nothing: what has been moved is gone, so every directory
/// can be read from its start again when those below it are done.
fn merge(from: &mut Path, to: &mut Path) -> sys::Result<()> {
    if !meets_directory(to)? {
        return sys::rename(from.with_nul(), to.with_nul());
    }
    let mut depth = 0;
    loop {
        if sweep(from, to)? {
            depth += 1;
            continue;
        }
        match sys::remove_directory(from.with_nul()) {
            // A name that was passed over while others were taken away.
            Err(ENOTEMPTY) => continue,
            done => done?,
        }
        if depth == 0 {
            return Ok(());
        }
        depth -= 1;
        from.pop();
        to.pop();
    }
}

/// Moves what is in the directory `from` into the directory `to`, up to the first directory that has to be merged; true
/// where there is one, which both paths then lead to.
fn sweep(from: &mut Path, to: &mut Path) -> sys::Result<bool> {
    let fd = sys::open_at(AT_CWD, from.with_nul(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW)?;
    let swept = sweep_open(fd, from, to);
    sys::close(fd);
    swept
}

fn sweep_open(fd: i32, from: &mut Path, to: &mut Path) -> sys::Result<bool> {
    let mut buffer = [0; NAMES];
    loop {
        let length = sys::read_directory(fd, &mut buffer)?;
        if length == 0 {
            return Ok(false);
        }
        for name in sys::names(&buffer[..length]) {
            let name = name.strip_suffix(b"\0").unwrap_or(name);
            from.push(name)?;
            to.push(name)?;
            let is_directory = sys::stat_at(AT_CWD, from.with_nul())?.is_directory();
            if is_directory && meets_directory(to)? {
                return Ok(true);
            }
            sys::rename(from.with_nul(), to.with_nul())?;
            if !is_directory {
                // Two names of one file that meet in one place: the kernel then leaves both.
                let _ = sys::unlink(from.with_nul());
            }
            from.pop();
            to.pop();
        }
    }
}

/// A path that grows and shrinks by names.
struct Path {
    /// The path, and a NUL behind it.
    buffer: [u8; PATH_MAX],
    /// Without the NUL.
    length: usize,
}

impl Path {
    /// Of a string with its NUL.
    fn of(string: &[u8]) -> sys::Result<Self> {
        let bytes = string.strip_suffix(b"\0").unwrap_or(string);
        let mut path = Self {
            buffer: [0; PATH_MAX],
            length: 0,
        };
        path.append(bytes)?;
        Ok(path)
    }

    fn append(&mut self, bytes: &[u8]) -> sys::Result<()> {
        let end = self.length + bytes.len();
        let place = self.buffer.get_mut(self.length..=end);
        let (nul, place) = place
            .and_then(|place| place.split_last_mut())
            .ok_or(ENAMETOOLONG)?;
        place.copy_from_slice(bytes);
        *nul = 0;
        self.length = end;
        Ok(())
    }

    fn push(&mut self, name: &[u8]) -> sys::Result<()> {
        if !self.bytes().ends_with(b"/") {
            self.append(b"/")?;
        }
        self.append(name)
    }

    /// Takes bytes off its end.
    fn cut(&mut self, count: usize) {
        self.length = self.length.saturating_sub(count);
        self.buffer[self.length] = 0;
    }

    /// Takes slashes and dots off the end. Whether a directory is meant to put things into: a slash always says so, a dot
    /// means the directory itself, which is what a directory can become and a file cannot.
    fn take_ending(&mut self, is_directory: bool) -> bool {
        let mut into = self.bytes() == b"/";
        while self.length > 1 {
            if self.bytes().ends_with(b"/") {
                into = true;
                self.cut(1);
            } else if self.bytes().ends_with(b"/.") {
                into |= !is_directory;
                // Nothing but the root is left of "/.".
                self.cut(if self.length == 2 { 1 } else { 2 });
            } else {
                break;
            }
        }
        into
    }

    /// Takes its last name off, and the slash before it unless that is the root.
    fn pop(&mut self) {
        let name = self.last().len();
        let slash = usize::from(name + 1 < self.length);
        self.cut(name + slash);
    }

    fn last(&self) -> &[u8] {
        let bytes = self.bytes();
        let start = bytes
            .iter()
            .rposition(|&byte| byte == b'/')
            .map_or(0, |slash| slash + 1);
        &bytes[start..]
    }

    fn bytes(&self) -> &[u8] {
        &self.buffer[..self.length]
    }

    fn with_nul(&self) -> &[u8] {
        &self.buffer[..=self.length]
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use alloc::format;
    use alloc::string::{String, ToString};
    use alloc::vec::Vec;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::PathBuf;

    /// A directory with staged copies below `in/` and an image below `root/`.
    struct Guest(PathBuf);

    impl Guest {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("rdinit-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(path.join("root")).unwrap();
            Self(path)
        }

        fn with(self, path: &str, text: &str) -> Self {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            self
        }

        fn place(&self, pairs: &[(&str, &str)]) -> Result<(), (u32, i32)> {
            let mut strings = Vec::new();
            for (from, to) in pairs {
                for part in [format!("in/{from}"), format!("root{to}")] {
                    strings.extend(self.0.join(part).to_str().unwrap().bytes());
                    strings.push(0);
                }
            }
            place(&strings, pairs.len()).map_err(|(which, errno)| (which, errno.0))
        }

        /// All files below the root, with their text.
        fn files(&self) -> Vec<String> {
            fn walk(dir: PathBuf, found: &mut Vec<String>) {
                for entry in fs::read_dir(dir).unwrap() {
                    let entry = entry.unwrap();
                    let path = entry.path();
                    if entry.file_type().unwrap().is_dir() {
                        walk(path, found);
                    } else if let Ok(text) = fs::read_to_string(&path) {
                        found.push(format!("{}={text}", path.display()));
                    }
                }
            }
            let mut found = Vec::new();
            walk(self.0.join("root"), &mut found);
            let start = self.0.join("root").display().to_string();
            let mut found: Vec<String> = found
                .iter()
                .map(|line| line.strip_prefix(&start).unwrap().to_string())
                .collect();
            found.sort();
            found
        }
    }

    impl Drop for Guest {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_place_is_what_a_thing_becomes_or_with_a_slash_what_it_goes_into() {
        for (what, to, file) in [
            ("0/f", "/a/b", "/a/b=f"),
            ("0/f", "/a/b/", "/a/b/f=f"),
            ("0/f", "/there", "/there/f=f"),
            ("0/f", "/", "/f=f"),
            ("0/f", "/.", "/f=f"),
            ("0/f", "/new/.", "/new/f=f"),
            ("0/f", "/there/../x", "/x=f"),
            ("0/f", "/link/y", "/there/y=f"),
            ("0/f", "/link", "/there/f=f"),
            ("0/d", "/a", "/a/x=x"),
            ("0/d", "/a/", "/a/d/x=x"),
            ("0/d", "/there", "/there/x=x"),
            ("0/d", "/there/", "/there/d/x=x"),
            ("0/d", "/", "/d/x=x"),
            ("0/d", "/.", "/x=x"),
            ("0/d", "/a/b/./", "/a/b/d/x=x"),
            ("0/d", "/a/./.", "/a/x=x"),
            ("0/d", "/link", "/there/x=x"),
        ] {
            let guest = Guest::new("place")
                .with("in/0/f", "f")
                .with("in/0/d/x", "x");
            let unused = if what == "0/f" { "in/0/d" } else { "in/0/f" };
            let _ = fs::remove_dir_all(guest.0.join(unused));
            let _ = fs::remove_file(guest.0.join(unused));
            fs::create_dir(guest.0.join("root/there")).unwrap();
            symlink("there", guest.0.join("root/link")).unwrap();
            assert_eq!(guest.place(&[(what, to)]), Ok(()), "{what} {to}");
            assert_eq!(guest.files(), [file], "{what} {to}");
            assert!(!guest.0.join("in").exists(), "{what} {to}: left something");
        }
    }

    #[test]
    fn directories_are_merged_and_keep_what_they_are() {
        let guest = Guest::new("merge")
            .with("in/0/d/lib/x", "new")
            .with("in/0/d/lib/deep/er/y", "new")
            .with("in/0/d/fresh/z", "new")
            .with("in/1/d/lib/x", "newer")
            .with("root/usr/lib/x", "old")
            .with("root/usr/lib/kept", "old")
            .with("root/usr/lib/deep/er/kept", "old");
        symlink("usr/lib", guest.0.join("root/lib")).unwrap();
        for (path, mode) in [
            ("root/usr/lib", 0o751),
            ("in/0/d/lib", 0o700),
            ("in/0/d/fresh", 0o710),
        ] {
            fs::set_permissions(guest.0.join(path), fs::Permissions::from_mode(mode)).unwrap();
        }
        assert_eq!(guest.place(&[("0/d", "/."), ("1/d", "/.")]), Ok(()));
        assert_eq!(
            guest.files(),
            [
                "/fresh/z=new",
                "/usr/lib/deep/er/kept=old",
                "/usr/lib/deep/er/y=new",
                "/usr/lib/kept=old",
                "/usr/lib/x=newer",
            ]
        );
        let mode = |path: &str| fs::metadata(guest.0.join(path)).unwrap().mode() & 0o777;
        assert_eq!((mode("root/usr/lib"), mode("root/fresh")), (0o751, 0o710));
        assert!(guest.0.join("root/lib").is_symlink() && !guest.0.join("in").exists());
    }

    #[test]
    fn what_cannot_be_is_told_with_its_number() {
        let guest = Guest::new("cannot")
            .with("in/0/f", "f")
            .with("in/1/f", "f")
            .with("in/1/d/x/y", "y")
            .with("in/1/e/x", "x")
            .with("root/file", "old")
            .with("root/t/x", "old")
            .with("root/u/x/old", "old")
            .with("root/u/f/old", "old");
        const NOT_A_DIRECTORY: i32 = 20;
        const IS_A_DIRECTORY: i32 = 21;
        symlink("nowhere", guest.0.join("root/dangling")).unwrap();
        for (what, to, errno) in [
            ("1/f", "/file/", NOT_A_DIRECTORY),
            ("1/f", "/file/below", NOT_A_DIRECTORY),
            ("1/d", "/file", NOT_A_DIRECTORY),
            ("1/d", "/t", NOT_A_DIRECTORY),
            ("1/e", "/u", IS_A_DIRECTORY),
            ("1/f", "/u", IS_A_DIRECTORY),
            ("1/d", "/dangling", NOT_A_DIRECTORY),
            ("1/none", "/x", 2),
        ] {
            let error = guest.place(&[("0/f", "/ok/"), (what, to)]);
            assert_eq!(error, Err((1, errno)), "{what} {to}");
            assert!(guest.0.join("root/ok/f").exists());
            fs::rename(guest.0.join("root/ok/f"), guest.0.join("root/ok/g")).unwrap();
            fs::create_dir_all(guest.0.join("in/0")).unwrap();
            fs::write(guest.0.join("in/0/f"), "f").unwrap();
        }
        let long = "/x".repeat(2100);
        assert_eq!(guest.place(&[("0/f", &long)]), Err((0, ENAMETOOLONG.0)));
        assert_eq!(place(b"only one\0", 1), Err((0, sys::EINVAL)));
    }

    #[test]
    fn deep_trees_and_full_directories_are_merged_whole() {
        let deep = "d/".repeat(300);
        let guest = Guest::new("deep")
            .with(&format!("in/0/d/{deep}new"), "new")
            .with(&format!("root/{deep}old"), "old");
        // More names than a piece holds, every third of them a directory on both sides.
        for n in 0..300 {
            let side = format!("in/0/d/wide/{n:020}");
            if n % 3 == 0 {
                fs::create_dir_all(guest.0.join(format!("root/wide/{n:020}"))).unwrap();
                fs::create_dir_all(guest.0.join(&side)).unwrap();
                fs::write(guest.0.join(side).join("f"), "").unwrap();
            } else {
                fs::create_dir_all(guest.0.join("in/0/d/wide")).unwrap();
                fs::write(guest.0.join(side), "").unwrap();
            }
        }
        assert_eq!(guest.place(&[("0/d", "/.")]), Ok(()));
        assert!(!guest.0.join("in").exists());
        assert_eq!(guest.files().len(), 302);
    }

    #[test]
    fn two_names_of_one_file_may_meet() {
        let guest = Guest::new("names").with("in/0/d/a/f", "f");
        fs::create_dir(guest.0.join("in/0/d/b")).unwrap();
        fs::hard_link(guest.0.join("in/0/d/a/f"), guest.0.join("in/0/d/b/f")).unwrap();
        fs::create_dir(guest.0.join("root/b")).unwrap();
        symlink("b", guest.0.join("root/a")).unwrap();
        assert_eq!(guest.place(&[("0/d", "/.")]), Ok(()));
        assert_eq!(guest.files(), ["/b/f=f"]);
        assert!(!guest.0.join("in").exists());
    }
}
