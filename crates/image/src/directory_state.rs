//! A directory's state: the stamps of everything in it, so that a change of any of it is seen without reading a file.

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, fstat, openat, statat};
use sha2::{Digest as _, Sha256};

use super::host::HostRoot;
use super::work_list::WorkList;
use rdvm_hostfs::{Digest, FileStamp, path};

/// Threads that look; as many as read.
const WALKERS: usize = 2;
/// Fewer directories are not worth a thread.
const FEW: usize = 16;
/// Bytes of names that are read at a time.
const NAMES: usize = 16 << 10;

/// The state of a directory and of everything below it on its file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectoryState {
    /// The same for the same names with the same stamps.
    pub digest: Digest,
    /// True if every further change must show ([`FileStamp::is_settled`]).
    pub is_settled: bool,
}

/// The findings of one thread: the sum of all directories' digests, which does not depend on their order.
struct Seen {
    sum: [u64; 4],
    is_settled: bool,
}

/// Returns the state of a directory.
///
/// # Errors
/// It, or a directory in it, cannot be read.
pub(super) fn directory_state(root: &HostRoot) -> io::Result<DirectoryState> {
    let device = fstat(root.as_fd())?.st_dev;
    let mut all = Seen {
        sum: [0; 4],
        is_settled: true,
    };
    let mut buffer = Vec::with_capacity(NAMES);
    let mut waiting = vec![Vec::new()];
    for _ in 0..FEW {
        let Some(path) = waiting.pop() else { break };
        waiting.extend(all.directory(root, path, device, &mut buffer)?);
    }
    if !waiting.is_empty() {
        all.many(root, device, waiting)?;
    }
    let mut digest = [0; 32];
    let words = digest.chunks_exact_mut(8).zip(all.sum);
    words.for_each(|(bytes, word)| bytes.copy_from_slice(&word.to_le_bytes()));
    Ok(DirectoryState {
        digest: Digest(digest),
        is_settled: all.is_settled,
    })
}

impl Seen {
    /// Takes in many directories, with several threads.
    fn many(&mut self, root: &HostRoot, device: u64, waiting: Vec<Vec<u8>>) -> io::Result<()> {
        let list = WorkList::new(waiting);
        let look = || -> io::Result<Seen> {
            let mut seen = Seen {
                sum: [0; 4],
                is_settled: true,
            };
            let mut buffer = Vec::with_capacity(NAMES);
            list.each(|path: Vec<u8>| seen.directory(root, path, device, &mut buffer))?;
            Ok(seen)
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..WALKERS).map(|_| scope.spawn(look)).collect();
            let own = look()?;
            self.add(own.sum);
            self.is_settled &= own.is_settled;
            for other in others {
                let seen = other
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                self.add(seen.sum);
                self.is_settled &= seen.is_settled;
            }
            Ok(())
        })
    }

    /// Takes in one directory; returns those in it.
    fn directory(
        &mut self,
        root: &HostRoot,
        at: Vec<u8>,
        device: u64,
        buffer: &mut Vec<u8>,
    ) -> io::Result<Vec<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let shown: &[u8] = if at.is_empty() { b"." } else { &at };
        let fd = openat(root.as_fd(), shown, flags, Mode::empty())?;
        let own = FileStamp::of(&fd)?;
        self.is_settled &= own.is_settled();
        let mut hash = Sha256::new();
        hash.update((at.len() as u64).to_le_bytes());
        hash.update(&at);
        hash.update(own.to_bytes());
        let mut below = Vec::new();
        self.names(
            &fd,
            &mut hash,
            buffer,
            |name| below.push(path::join(&at, name)),
            device,
        )?;
        // What was added while it was read has changed its times.
        if FileStamp::of(&fd)? != own {
            self.is_settled = false;
        }
        let digest = hash.finalize();
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(digest.chunks_exact(8)) {
            *word = bytes
                .iter()
                .fold(0, |word, byte| word << 8 | u64::from(*byte));
        }
        self.add(words);
        Ok(below)
    }

    fn names(
        &mut self,
        fd: &OwnedFd,
        hash: &mut Sha256,
        buffer: &mut Vec<u8>,
        mut found: impl FnMut(&[u8]),
        device: u64,
    ) -> io::Result<()> {
        buffer.clear();
        let mut names = RawDir::new(fd, buffer.spare_capacity_mut());
        while let Some(entry) = names.next() {
            let entry = entry?;
            let name: &CStr = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = statat(fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let stamp = FileStamp::from(&stat);
            self.is_settled &= stamp.is_settled();
            hash.update(name.to_bytes_with_nul());
            hash.update(stamp.to_bytes());
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind == FileType::Directory && stat.st_dev == device {
                found(name.to_bytes());
            }
        }
        Ok(())
    }

    fn add(&mut self, words: [u64; 4]) {
        for (sum, word) in self.sum.iter_mut().zip(words) {
            *sum = sum.wrapping_add(word);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn every_change_is_another_state() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(root.join("a/b/file"), "1").unwrap();
        let state = || directory_state(&HostRoot::open(root).unwrap()).unwrap();
        let mut last = state().digest;
        assert_eq!(last, state().digest);
        let file = root.join("a/b/file");
        let changes: [&dyn Fn(); 6] = [
            &|| fs::write(&file, "22").unwrap(),
            &|| fs::write(root.join("a/new"), "").unwrap(),
            &|| fs::rename(root.join("a/new"), root.join("a/newer")).unwrap(),
            &|| fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap(),
            &|| symlink("x", root.join("link")).unwrap(),
            &|| fs::remove_file(root.join("a/newer")).unwrap(),
        ];
        for (index, change) in changes.into_iter().enumerate() {
            std::thread::sleep(std::time::Duration::from_millis(10));
            change();
            let now = state().digest;
            assert_ne!(now, last, "change {index}");
            last = now;
        }
        assert!(!state().is_settled);
    }

    #[test]
    fn many_directories_are_seen_by_both_threads_once() {
        let dir = tempfile::tempdir().unwrap();
        for index in 0..200 {
            let path = dir.path().join(format!("{}/{index}", index % 7));
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("file"), "").unwrap();
        }
        let root = HostRoot::open(dir.path()).unwrap();
        let state = directory_state(&root).unwrap();
        for _ in 0..20 {
            assert_eq!(directory_state(&root).unwrap().digest, state.digest);
        }
    }
}
