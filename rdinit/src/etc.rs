//! The names of this machine, in the files of `/etc` by which programs look them up.
//!
//! Container engines mount these files over the image's own, which is why images made with them have empty ones. Files that
//! have a content are the image's own and stay as they are. Nothing here can fail the start.

use crate::sys;

/// As docker has it.
const LOCAL: &[u8] = b"127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
";

/// Fills `/etc/hosts` and `/etc/hostname` for a machine of the name `hostname`, which ends in a NUL, and makes the link
/// `/etc/mtab`, each where it is missing or empty.
pub(crate) fn complete(hostname: &[u8]) {
    // A link to elsewhere is the image's own choice.
    match sys::stat_at(sys::AT_CWD, b"/etc\0") {
        Ok(etc) if etc.is_directory() => {}
        Err(sys::ENOENT) if sys::mkdir(b"/etc\0", 0o755).is_ok() => {}
        _ => return,
    }
    let name = hostname.strip_suffix(b"\0").unwrap_or(hostname);
    let short = name.split(|&byte| byte == b'.').next().unwrap_or(name);
    // The same address as localhost, so that what listens on the one name is found by the other.
    let (address, newline): (&[u8], &[u8]) = match name.is_empty() {
        false => (b"127.0.0.1\t", b"\n"),
        true => (b"", b""),
    };
    let (space, short): (&[u8], &[u8]) = match short.len() < name.len() {
        true => (b" ", short),
        false => (b"", b""),
    };
    fill(
        b"/etc/hosts\0",
        &[LOCAL, address, name, space, short, newline],
    );
    fill(b"/etc/hostname\0", &[name, newline]);
    let _ = sys::symlink(b"/proc/mounts\0", b"/etc/mtab\0");
}

/// Writes a file that is missing or empty.
fn fill(file: &[u8], content: &[&[u8]]) {
    let Ok((fd, length)) = sys::open_to_write(file) else {
        return;
    };
    if length == 0 {
        for part in content.iter().filter(|part| !part.is_empty()) {
            let _ = sys::write(fd, part);
        }
    }
    sys::close(fd);
}
