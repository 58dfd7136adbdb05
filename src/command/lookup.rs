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
pub(crate) const MOUNTED: [&[u8]; 3] = [b"/dev", b"/proc", b"/sys"];

/// The outcome of execve(2) for a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// It fails with this.
    Fails(Errno),
    /// It works, or only the guest can tell.
    Open,
}

/// The errno with which the guest would refuse to execute the command, where the image tells: `ENOENT` for one that is
/// not there. `default` runs when no command is given, `path` is PATH where the command's environment has none. Of what is at
/// or below one of `covered` the image does not tell.
pub(crate) fn missing(
    tree: &Tree,
    covered: &[&[u8]],
    command: &Command,
    default: &str,
    path: &str,
    uid: u32,
) -> Option<Errno> {
    let mut lookup = Lookup {
        tree,
        covered: Vec::new(),
        workdir: command.workdir.as_ref().map_or(b"/", |dir| dir.as_bytes()),
        is_root: uid == 0,
    };
    // Links of the image lead to them from elsewhere.
    let places = covered.iter().map(|path| lookup.place(path));
    lookup.covered = places.collect::<Option<_>>()?;
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
    /// Paths that something is put at which is not of the image, without links in them.
    covered: Vec<Vec<u8>>,
    workdir: &'a [u8],
    is_root: bool,
}

/// The end of the way along a path.
enum End<'a> {
    /// It leads to this entry, or to a directory by its parent.
    Found(Option<&'a Entry>),
    /// There is no such name in the image.
    Missing,
    /// It cannot be followed.
    Fails(Errno),
    /// Only the guest can tell.
    Open,
}

impl<'a> Lookup<'a> {
    /// Follows a path and tells what the guest would say to its execution.
    fn answer(&self, path: &[u8]) -> Answer {
        let whole = self.absolute(path);
        if whole.len() >= PATH_MAX || whole.ends_with(b"/") || whole.ends_with(b"/.") {
            return Answer::Open;
        }
        let (_, end) = self.follow(&whole);
        match end {
            End::Missing => Answer::Fails(Errno::NOENT),
            End::Fails(errno) => Answer::Fails(errno),
            End::Open | End::Found(None) => Answer::Open,
            End::Found(Some(entry)) => match (&entry.kind, entry.mode & 0o111) {
                // Root may execute what anybody may.
                (Kind::File(_), 1..) => Answer::Open,
                _ => Answer::Fails(Errno::ACCESS),
            },
        }
    }

    /// Returns the path without links that something put at `path` has; `None` where the image does not tell.
    fn place(&self, path: &[u8]) -> Option<Vec<u8>> {
        match self.follow(&self.absolute(path)) {
            (at, End::Found(_) | End::Missing) => Some(at),
            _ => None,
        }
    }

    fn absolute(&self, path: &[u8]) -> Vec<u8> {
        match path.starts_with(b"/") {
            true => path.to_vec(),
            false => [b"/", self.workdir, b"/", path].concat(),
        }
    }

    /// Follows a path through links. Returns where it leads, with the rest of the path if that is missing.
    fn follow(&self, whole: &[u8]) -> (Vec<u8>, End<'a>) {
        let mut rest: VecDeque<Vec<u8>> = components(whole).map(<[u8]>::to_vec).collect();
        let mut at: Vec<Vec<u8>> = Vec::new();
        let mut hops = 0;
        let mut found: Option<&Entry> = None;
        while let Some(name) = rest.pop_front() {
            if name == b".." {
                at.pop();
                found = None;
                continue;
            }
            let is_long = name.len() > NAME_MAX;
            at.push(name);
            let path = at.join(&b'/');
            if is_long || self.covered.iter().any(|covered| is_below(&path, covered)) {
                return (path, End::Open);
            }
            let Some(entry) = self.tree.get(&path) else {
                // What is put further below brings its directories along.
                let goes_back = rest.iter().any(|name| name == b"..");
                at.extend(rest);
                let path = at.join(&b'/');
                let is_put = self.covered.iter().any(|covered| is_below(&path, covered));
                let end = if is_put || goes_back {
                    End::Open
                } else {
                    End::Missing
                };
                return (path, end);
            };
            match &entry.kind {
                Kind::Symlink(target) => {
                    hops += 1;
                    if hops > HOPS {
                        return (path, End::Fails(Errno::LOOP));
                    }
                    match target.first() {
                        Some(b'/') => at.clear(),
                        _ => drop(at.pop()),
                    }
                    // A slash at its end asks for a directory.
                    if target.ends_with(b"/") && rest.is_empty() {
                        return (path, End::Open);
                    }
                    for name in components(target).rev() {
                        rest.push_front(name.to_vec());
                    }
                    found = None;
                }
                Kind::Directory if !rest.is_empty() && !self.may_pass(entry) => {
                    return (path, End::Open);
                }
                Kind::Directory => found = Some(entry),
                _ if !rest.is_empty() => return (path, End::Fails(Errno::NOTDIR)),
                _ => found = Some(entry),
            }
        }
        (at.join(&b'/'), End::Found(found))
    }

    /// A directory that every user may pass.
    fn may_pass(&self, directory: &Entry) -> bool {
        self.is_root || directory.mode & 0o111 == 0o111 && directory.xattrs.is_none()
    }
}

/// True if a path is `above` or leads below it.
fn is_below(path: &[u8], above: &[u8]) -> bool {
    let rest = path.strip_prefix(above);
    rest.is_some_and(|rest| above.is_empty() || rest.is_empty() || rest.starts_with(b"/"))
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
        missing(&tree(), &MOUNTED, &command, "/init", PATH, uid)
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

    #[test]
    fn what_is_put_over_the_image_is_not_judged_by_it() {
        let asked = |covered: &str, word: &str| {
            let command = Command {
                argv: vec![word.into()],
                ..Command::default()
            };
            missing(&tree(), &[covered.as_bytes()], &command, "/init", PATH, 0)
        };
        for (covered, word) in [
            ("/usr/bin/new", "new"),
            // By a link of the image, on either side.
            ("/bin/new", "/usr/bin/new"),
            ("/usr/bin/new", "/bin/new"),
            ("/usr/bin", "new"),
            ("/usr/bin/", "new"),
            ("usr", "new"),
            ("/", "new"),
            ("/srv/some/new", "/srv/some/new"),
            ("/exe", "/exe"),
        ] {
            assert_eq!(asked(covered, word), None, "{covered} {word}");
        }
        for (covered, word) in [
            ("/etc/hosts", "new"),
            ("/usr/bin/newer", "new"),
            ("/srv/some", "/srv/other"),
        ] {
            assert_eq!(asked(covered, word), Some(Errno::NOENT), "{covered} {word}");
        }
    }
}
