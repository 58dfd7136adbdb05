//! Looks the command up in the image, as PID 1 will with execve(2): what cannot start is told before anything boots.
//!
//! Answers only where the image alone decides. Whatever depends on the guest (its own file systems, permissions of another
//! user, interpreters) is left to the guest. Reads names and modes, no contents.

use std::collections::VecDeque;
use std::os::unix::ffi::OsStrExt;

use rustix::io::Errno;

use crate::request::Command;
use rdvm_image::tree::{Entry, Kind, Tree};

/// As many links as Linux follows for one name (`MAXSYMLINKS`).
const HOPS: usize = 40;
const NAME_MAX: usize = 255;
const PATH_MAX: usize = 4096;
/// The directories on which PID 1 mounts file systems of the guest's kernel.
const MOUNTED: [&[u8]; 3] = [b"dev", b"proc", b"sys"];

/// The outcome of execve(2) for a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// It fails with this.
    Fails(Errno),
    /// It works, or only the guest can tell.
    Open,
}

/// The errno with which the guest would refuse to execute the command, where the image tells: `ENOENT` for one that is
/// not there. `default` runs when no command is given, `path` is PATH where the command's environment has none.
pub(crate) fn missing(
    tree: &Tree,
    command: &Command,
    default: &str,
    path: &str,
    uid: u32,
) -> Option<Errno> {
    let lookup = Lookup {
        tree,
        workdir: command.workdir.as_ref().map_or(b"/", |dir| dir.as_bytes()),
        is_root: uid == 0,
    };
    let program = command.argv.first();
    let program = program.map_or(default.as_bytes(), |word| word.as_bytes());
    if program.contains(&b'/') {
        return match lookup.answer(program) {
            Answer::Fails(errno) => Some(errno),
            Answer::Open => None,
        };
    }
    let mut search = path.as_bytes();
    for variable in &command.env {
        search = variable.as_bytes().strip_prefix(b"PATH=").unwrap_or(search);
    }
    let mut best = Errno::NOENT;
    for directory in search.split(|&byte| byte == b':') {
        if program.is_empty() {
            break;
        }
        let directory = if directory.is_empty() {
            b"."
        } else {
            directory
        };
        match lookup.answer(&[directory, b"/", program].concat()) {
            Answer::Open => return None,
            Answer::Fails(Errno::NOENT | Errno::NOTDIR) => {}
            Answer::Fails(errno) => best = errno,
        }
    }
    Some(best)
}

struct Lookup<'a> {
    tree: &'a Tree,
    workdir: &'a [u8],
    is_root: bool,
}

impl Lookup<'_> {
    /// Follows a path from the root, or from the working directory, through links.
    fn answer(&self, path: &[u8]) -> Answer {
        let directories = [b"/", self.workdir, b"/"].concat();
        let from_root = path.starts_with(b"/");
        let start = if from_root { &b"/"[..] } else { &directories };
        let whole = [start, path].concat();
        if whole.len() >= PATH_MAX || whole.ends_with(b"/") || whole.ends_with(b"/.") {
            return Answer::Open;
        }
        let mut rest: VecDeque<&[u8]> = components(&whole).collect();
        let mut at: Vec<&[u8]> = Vec::new();
        let mut hops = 0;
        let mut found: Option<&Entry> = None;
        while let Some(name) = rest.pop_front() {
            if name == b".." {
                at.pop();
                found = None;
                continue;
            }
            at.push(name);
            if name.len() > NAME_MAX || MOUNTED.contains(&at[0]) {
                return Answer::Open;
            }
            let Some(entry) = self.tree.get(&at.join(&b'/')) else {
                return Answer::Fails(Errno::NOENT);
            };
            match &entry.kind {
                Kind::Symlink(target) => {
                    hops += 1;
                    if hops > HOPS {
                        return Answer::Fails(Errno::LOOP);
                    }
                    match target.first() {
                        Some(b'/') => at.clear(),
                        _ => drop(at.pop()),
                    }
                    // A slash at its end asks for a directory.
                    if target.ends_with(b"/") && rest.is_empty() {
                        return Answer::Open;
                    }
                    for name in components(target).rev() {
                        rest.push_front(name);
                    }
                    found = None;
                }
                Kind::Directory if !rest.is_empty() && !self.may_pass(entry) => {
                    return Answer::Open;
                }
                Kind::Directory => found = Some(entry),
                _ if !rest.is_empty() => return Answer::Fails(Errno::NOTDIR),
                _ => found = Some(entry),
            }
        }
        match found.map(|entry| (&entry.kind, entry.mode & 0o111)) {
            // Root may execute what anybody may.
            Some((Kind::File(_), 1..)) | None => Answer::Open,
            Some(_) => Answer::Fails(Errno::ACCESS),
        }
    }

    /// A directory that every user may pass.
    fn may_pass(&self, directory: &Entry) -> bool {
        self.is_root || directory.mode & 0o111 == 0o111 && directory.xattrs.is_none()
    }
}

/// A path's components but `.`.
fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    let parts = path.split(|&byte| byte == b'/');
    parts.filter(|part| !part.is_empty() && *part != b".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdvm_image::tree::{Content, FileBody};

    const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

    fn tree() -> Tree {
        let entry = |path: &str, mode, kind| Entry {
            path: path.into(),
            mode,
            uid: 0,
            gid: 0,
            mtime: 0,
            xattrs: None,
            kind,
        };
        let file = || {
            Kind::File(FileBody {
                size: 1,
                content: Content::Bytes(vec![0].into()),
                link: None,
            })
        };
        let link = |target: &str| Kind::Symlink(target.into());
        let entries = vec![
            entry("", 0o755, Kind::Directory),
            entry("bin", 0o777, link("usr/bin")),
            entry("data", 0o644, file()),
            entry("dev", 0o755, Kind::Directory),
            entry("escape", 0o777, link("../../../usr/bin/tool")),
            entry("loop", 0o777, link("loop")),
            entry("exe", 0o777, link("/proc/self/exe")),
            entry("opt", 0o700, Kind::Directory),
            entry("opt/tool", 0o755, file()),
            entry("usr", 0o755, Kind::Directory),
            entry("usr/bin", 0o755, Kind::Directory),
            entry("usr/bin/alias", 0o777, link("tool")),
            entry("usr/bin/dangling", 0o777, link("/nowhere")),
            entry("usr/bin/plain", 0o644, file()),
            entry("usr/bin/tool", 0o755, file()),
            entry("work", 0o755, Kind::Directory),
            entry("work/run.sh", 0o755, file()),
        ];
        Tree::from_entries(entries).unwrap()
    }

    fn of(argv: &[&str], env: &[&str], workdir: Option<&str>, uid: u32) -> Option<Errno> {
        let command = Command {
            argv: argv.iter().map(Into::into).collect(),
            env: env.iter().map(Into::into).collect(),
            workdir: workdir.map(Into::into),
            ..Command::default()
        };
        missing(&tree(), &command, "/init", PATH, uid)
    }

    #[test]
    fn what_the_guest_would_find_is_found_through_links_path_and_working_directory() {
        for argv in [
            "tool",
            "alias",
            "/bin/tool",
            "/escape",
            "/usr/../bin/./alias",
            "usr/bin/tool",
        ] {
            assert_eq!(of(&[argv], &[], None, 0), None, "{argv}");
        }
        assert_eq!(of(&["./run.sh"], &[], Some("/work"), 0), None);
        assert_eq!(of(&["run.sh"], &["PATH=:/bin"], Some("work"), 0), None);
        assert_eq!(
            of(&["tool"], &["PATH=/nowhere", "PATH=/opt"], None, 0),
            None
        );
    }

    #[test]
    fn what_it_would_refuse_is_refused_with_its_errno() {
        let cases: [(&[&str], Errno); 13] = [
            (&[], Errno::NOENT),
            (&[""], Errno::NOENT),
            (&["nonsense"], Errno::NOENT),
            (&["dangling"], Errno::NOENT),
            (&["/bin/dangling"], Errno::NOENT),
            (&["/no/such/file"], Errno::NOENT),
            (&["./run.sh"], Errno::NOENT),
            (&["/data"], Errno::ACCESS),
            (&["/bin"], Errno::ACCESS),
            (&["plain"], Errno::ACCESS),
            (&["/data/x"], Errno::NOTDIR),
            (&["/loop"], Errno::LOOP),
            (&["/loop/x"], Errno::LOOP),
        ];
        for (argv, errno) in cases {
            assert_eq!(of(argv, &[], None, 0), Some(errno), "{argv:?}");
        }
        let path = ["PATH=/nowhere:/data"];
        assert_eq!(of(&["tool"], &path, None, 0), Some(Errno::NOENT));
        assert_eq!(
            of(&["run.sh"], &["PATH="], Some("/new"), 0),
            Some(Errno::NOENT)
        );
    }

    #[test]
    fn what_only_the_guest_can_tell_is_left_to_it() {
        let long = "n".repeat(256);
        for argv in [
            "/proc/self/exe",
            "/exe",
            "/dev/shm/x",
            "/bin/",
            "/data/",
            "/bin/.",
            &long,
        ] {
            assert_eq!(of(&[argv], &[], None, 0), None, "{argv}");
        }
        // Another user than root may be kept from looking.
        assert_eq!(of(&["/opt/none"], &[], None, 1000), None);
        assert_eq!(of(&["/opt/none"], &[], None, 0), Some(Errno::NOENT));
        assert_eq!(of(&["tool"], &["PATH=/opt"], None, 1000), None);
    }
}
