//! Names in the file system: made, removed, entered; trees looked at for `--copy-out` and moved into place for `--copy-in`.

use crate::arch::*;

use super::{
    EINVAL, O_CLOEXEC, O_NONBLOCK, O_RDONLY, O_WRONLY, Result, call, call3, close, open, path, read,
};

/// Do not follow a symbolic link.
pub(crate) const O_NOFOLLOW: usize = 0o400000;
/// Refuse what is no directory.
pub(crate) const O_DIRECTORY: usize = 0o200000;

/// The working directory, in the place of a directory's descriptor.
pub(crate) const AT_CWD: i32 = -100;
const AT_SYMLINK_NOFOLLOW: usize = 0x100;

/// Type bits of a mode.
pub(crate) const S_IFMT: u32 = 0o170000;
/// A directory's.
pub(crate) const S_IFDIR: u32 = 0o040000;
/// A regular file's.
pub(crate) const S_IFREG: u32 = 0o100000;
/// A symbolic link's.
pub(crate) const S_IFLNK: u32 = 0o120000;

/// The fields of `struct stat` that are used.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stat {
    /// The file system that it is on.
    pub device: u64,
    /// Type and permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes.
    pub size: u64,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Nanoseconds on top.
    pub mtime_ns: u32,
}

impl Stat {
    fn of(words: [u64; 18]) -> Self {
        Self {
            device: words[0],
            mode: words[3] as u32,
            uid: (words[3] >> 32) as u32,
            gid: words[4] as u32,
            size: words[6],
            mtime: words[11] as i64,
            mtime_ns: words[12] as u32,
        }
    }

    /// True if it is a directory.
    pub(crate) fn is_directory(&self) -> bool {
        self.mode & S_IFMT == S_IFDIR
    }
}

/// Returns the status of `name` below the open directory `at`, links not followed.
pub(crate) fn stat_at(at: i32, name: &[u8]) -> Result<Stat> {
    let mut words = [0u64; 18];
    let (name, to) = (path(name)?, words.as_mut_ptr() as usize);
    call(
        __NR_newfstatat,
        [at as usize, name, to, AT_SYMLINK_NOFOLLOW, 0, 0],
    )?;
    Ok(Stat::of(words))
}

/// Returns the status of `name`, links followed.
pub(crate) fn stat(name: &[u8]) -> Result<Stat> {
    let mut words = [0u64; 18];
    call3(__NR_stat, path(name)?, words.as_mut_ptr() as usize, 0)?;
    Ok(Stat::of(words))
}

/// The parts of `struct statfs` that are of use.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FileSystem {
    /// Bytes that it may hold; zero where there is no limit.
    pub bytes: u64,
    /// Bytes of those that are free.
    pub free_bytes: u64,
    /// Inodes that it may hold; zero where there is no limit.
    pub inodes: u64,
    /// Inodes of those that are free.
    pub free_inodes: u64,
    /// Restrictions of its mount, by the flags of `mount(2)`.
    pub flags: usize,
}

/// The file system that `name` is on.
pub(crate) fn stat_fs(name: &[u8]) -> Result<FileSystem> {
    let mut words = [0u64; 15];
    call3(__NR_statfs, path(name)?, words.as_mut_ptr() as usize, 0)?;
    Ok(FileSystem {
        bytes: words[2].saturating_mul(words[1]),
        free_bytes: words[3].saturating_mul(words[1]),
        inodes: words[5],
        free_inodes: words[6],
        flags: words[10] as usize,
    })
}

/// Reads the start of a file; gives how much that is.
pub(crate) fn read_file(name: &[u8], buffer: &mut [u8]) -> Result<usize> {
    let fd = open(name, O_RDONLY | O_CLOEXEC)?;
    let length = read(fd, buffer);
    close(fd);
    length
}

/// The number whose digits stand at the start of `text`; zero where there is none.
pub(crate) fn decimal(text: &[u8]) -> u64 {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0u64, |sum, digit| {
        sum.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'))
    })
}

/// Opens `name` below the open directory `at`, closed on exec.
pub(crate) fn open_at(at: i32, name: &[u8], flags: usize) -> Result<i32> {
    let name = path(name)?;
    call(__NR_openat, [at as usize, name, flags | O_CLOEXEC, 0, 0, 0]).map(|fd| fd as i32)
}

/// Opens the regular file `name` for writing, made with mode 644 where it is missing; gives its length as well. A link is
/// not followed, and anything else that has the name is `EINVAL`.
pub(crate) fn open_to_write(name: &[u8]) -> Result<(i32, u64)> {
    const O_CREAT: usize = 0o100;
    let flags = O_WRONLY | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC;
    let fd = call3(__NR_open, path(name)?, flags, 0o644)? as i32;
    let mut words = [0u64; 18];
    let known = call3(__NR_fstat, fd as usize, words.as_mut_ptr() as usize, 0);
    let stat = Stat::of(words);
    if known.is_err() || stat.mode & S_IFMT != S_IFREG {
        super::close(fd);
        return Err(EINVAL);
    }
    Ok((fd, stat.size))
}

/// The target of the link `name` below the open directory `at`; gives its length, cut to the buffer's.
pub(crate) fn read_link_at(at: i32, name: &[u8], buffer: &mut [u8]) -> Result<usize> {
    let (name, to) = (path(name)?, buffer.as_mut_ptr() as usize);
    call(__NR_readlinkat, [at as usize, name, to, buffer.len(), 0, 0])
}

/// Reads names of an open directory into `buffer`; gives how many bytes of it are used, zero at the end. [`names`] takes
/// them apart.
pub(crate) fn read_directory(fd: i32, buffer: &mut [u8]) -> Result<usize> {
    call3(
        __NR_getdents64,
        fd as usize,
        buffer.as_mut_ptr() as usize,
        buffer.len(),
    )
}

/// The first name, with its NUL, in what [`read_directory`] has read, and how many bytes it and what is with it take;
/// `.` and `..` are names here.
pub(crate) fn first_name(bytes: &[u8]) -> Option<(&[u8], usize)> {
    const HEAD: usize = 19;
    let length = usize::from(u16::from_le_bytes([*bytes.get(16)?, *bytes.get(17)?])).max(HEAD);
    let name = bytes.get(HEAD..length)?;
    let end = name.iter().position(|&byte| byte == 0)?;
    Some((&name[..=end], length))
}

/// The names, each with its NUL, in what [`read_directory`] has read (`struct linux_dirent64`); not `.` and `..`.
pub(crate) fn names(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    const HEAD: usize = 19;
    core::iter::from_fn(move || {
        loop {
            let length = usize::from(u16::from_le_bytes([*bytes.get(16)?, *bytes.get(17)?]));
            let (entry, rest) = bytes.split_at_checked(length.max(HEAD))?;
            bytes = rest;
            let name = &entry[HEAD..];
            let end = name.iter().position(|&byte| byte == 0)?;
            let name = &name[..=end];
            if name != b".\0" && name != b"..\0" {
                return Some(name);
            }
        }
    })
}

/// Gives what is called `from` the name `to`, in the place of what had it.
pub(crate) fn rename(from: &[u8], to: &[u8]) -> Result<()> {
    call3(__NR_rename, path(from)?, path(to)?, 0).map(drop)
}

/// Removes an empty directory.
pub(crate) fn remove_directory(name: &[u8]) -> Result<()> {
    call3(__NR_rmdir, path(name)?, 0, 0).map(drop)
}

/// Sets permissions, links followed.
pub(crate) fn set_mode(name: &[u8], mode: u32) -> Result<()> {
    call3(__NR_chmod, path(name)?, mode as usize & 0o7777, 0).map(drop)
}

/// Sets owner and group, links followed.
pub(crate) fn set_owner(name: &[u8], uid: u32, gid: u32) -> Result<()> {
    call3(__NR_chown, path(name)?, uid as usize, gid as usize).map(drop)
}

/// Makes an open directory the working directory.
pub(crate) fn chdir_to(fd: i32) -> Result<()> {
    call3(__NR_fchdir, fd as usize, 0, 0).map(drop)
}

/// Changes the working directory.
pub(crate) fn chdir(name: &[u8]) -> Result<()> {
    call3(__NR_chdir, path(name)?, 0, 0).map(drop)
}

/// Changes the root directory.
pub(crate) fn chroot(name: &[u8]) -> Result<()> {
    call3(__NR_chroot, path(name)?, 0, 0).map(drop)
}

/// Makes a directory and gives it exactly this mode.
pub(crate) fn mkdir(name: &[u8], mode: usize) -> Result<()> {
    call3(__NR_mkdir, path(name)?, mode, 0)?;
    call3(__NR_chmod, path(name)?, mode, 0).map(drop)
}

/// Removes a name that is not a directory.
pub(crate) fn unlink(name: &[u8]) -> Result<()> {
    call3(__NR_unlink, path(name)?, 0, 0).map(drop)
}

/// Makes a symbolic link.
pub(crate) fn symlink(target: &[u8], name: &[u8]) -> Result<()> {
    call3(__NR_symlink, path(target)?, path(name)?, 0).map(drop)
}

/// Makes a character device.
pub(crate) fn mknod_char(name: &[u8], mode: usize, major: usize, minor: usize) -> Result<()> {
    call3(__NR_mknod, path(name)?, 0o020000 | mode, major << 8 | minor)?;
    call3(__NR_chmod, path(name)?, mode, 0).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn a_number_ends_at_the_first_byte_that_is_no_digit() {
        assert_eq!(decimal(b"1242\n"), 1242);
        assert_eq!((decimal(b""), decimal(b"x7")), (0, 0));
    }

    #[test]
    fn the_root_of_this_machine_has_limits_or_none() {
        let root = stat_fs(b"/\0").unwrap();
        assert!(root.free_bytes <= root.bytes && root.free_inodes <= root.inodes);
    }

    #[test]
    fn a_directory_of_this_machine_is_read() {
        let fd = open_at(AT_CWD, b"src\0", super::super::O_RDONLY | O_DIRECTORY).unwrap();
        let mut buffer = [0; 1024];
        let (mut found, mut singly) = (Vec::new(), Vec::new());
        loop {
            let length = read_directory(fd, &mut buffer).unwrap();
            if length == 0 {
                break;
            }
            found.extend(names(&buffer[..length]).map(<[u8]>::to_vec));
            let mut at = 0;
            while let Some((name, taken)) = first_name(&buffer[at..length]) {
                at += taken;
                singly.push(name.to_vec());
            }
            assert_eq!(at, length);
        }
        singly.retain(|name| name != b".\0" && name != b"..\0");
        assert_eq!(singly, found);
        assert!(found.contains(&b"sys.rs\0".to_vec()) && !found.contains(&b"..\0".to_vec()));
        let seen = stat_at(fd, b"sys\0").unwrap();
        assert!(seen.is_directory() && seen.mtime > 1_500_000_000);
        assert_eq!(seen.device, stat(b"src\0").unwrap().device);
        super::super::close(fd);
    }
}
