//! The exclusions of `--copy-in`: lines by the rules of gitignore(5), of `.rdvmignore` in HOST and then of the options.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;

use super::Error;
use rdvm_image::host::{open_file, read_exact};

/// The file of such lines at the top of HOST.
const NAME: &str = ".rdvmignore";
/// Files of patterns are written by hand; what is larger is none.
const SIZE_LIMIT: u64 = 1 << 20;

/// The exclusions of one HOST.
#[derive(Debug)]
pub(super) struct Exclude(Gitignore);

impl Exclude {
    /// The lines of the directory `host`'s own file, where it has one, then those of `patterns`; later ones win.
    ///
    /// # Errors
    /// The file cannot be read or is none, a line is no pattern.
    pub(super) fn of(host: &Path, patterns: &[String]) -> Result<Self, Error> {
        let mut builder = GitignoreBuilder::new("");
        // The mistake is told instead of waiting for a file that is called "[".
        builder.allow_unclosed_class(false);
        let path = host.join(NAME);
        let failed = |source: std::io::Error| Error::IgnoreFile {
            path: path.clone(),
            source,
        };
        let text = read(host).map_err(failed)?;
        // As the first bytes of a text that some editors write.
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
        for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
            let bad = |why| Error::IgnoreLine {
                path: path.clone(),
                line: index + 1,
                why,
            };
            let line = str::from_utf8(line).map_err(|_| bad("is no UTF-8".to_owned()))?;
            add(&mut builder, line).map_err(bad)?;
        }
        for pattern in patterns {
            add(&mut builder, pattern).map_err(|why| Error::Pattern {
                pattern: pattern.clone(),
                why,
            })?;
        }
        let all = builder.build().map_err(|error| Error::Patterns {
            why: error.to_string(),
        })?;
        Ok(Self(all))
    }

    /// True if a path below HOST stays out.
    pub(super) fn has(&self, path: &[u8], kind: FileType) -> bool {
        let path = Path::new(OsStr::from_bytes(path));
        let is_dir = kind == FileType::Directory;
        !self.0.is_empty() && self.0.matched(path, is_dir).is_ignore()
    }
}

/// The text of the directory's file; nothing where there is none.
fn read(host: &Path) -> std::io::Result<Vec<u8>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = openat(CWD, host, flags, Mode::empty())?;
    let file = match open_file(&dir, NAME.as_bytes()) {
        Err(Errno::NOENT) => return Ok(Vec::new()),
        // HOST may be of a stranger's making: where a link leads is nothing that he may have us read.
        Err(Errno::LOOP) => return Err(std::io::Error::other("is a symbolic link")),
        file => file?,
    };
    let stat = fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(std::io::Error::other("is no regular file"));
    }
    if stat.st_size as u64 > SIZE_LIMIT {
        return Err(std::io::Error::other(format!(
            "has {} bytes, {SIZE_LIMIT} is the limit",
            stat.st_size
        )));
    }
    let mut text = vec![0; stat.st_size as usize];
    read_exact(&file, 0, &mut text)?;
    Ok(text)
}

fn add(builder: &mut GitignoreBuilder, line: &str) -> Result<(), String> {
    match builder.add_line(None, &without_braces(line)) {
        Ok(_) => Ok(()),
        Err(ignore::Error::Glob { err, .. }) => Err(err),
        Err(error) => Err(error.to_string()),
    }
}

/// The pattern with its braces escaped: to git they are letters like others, to the crate they are alternatives.
fn without_braces(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut letters = line.chars().peekable();
    // Inside of [...], where braces are letters anyway, and how many letters of it have been passed.
    let mut class = None;
    while let Some(letter) = letters.next() {
        match (letter, class) {
            ('\\', _) => {
                out.push('\\');
                out.extend(letters.next());
                class = class.map(|passed: usize| passed + 1);
                continue;
            }
            ('[', None) => class = Some(0),
            ('!' | '^', Some(0)) if !out.ends_with(['!', '^']) => {}
            // A bracket that comes first is one of the letters.
            (']', Some(1..)) => class = None,
            (_, Some(passed)) => class = Some(passed + 1),
            ('{' | '}', None) => out.push('\\'),
            _ => {}
        }
        out.push(letter);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::process::Command;

    /// Paths below a directory, with a slash at the end of those of directories.
    const PATHS: [&str; 24] = [
        "a.o",
        "b.txt",
        "{a,b}",
        "x{1}",
        "dir/",
        "dir/a.o",
        "dir/keep.o",
        "dir/sub/",
        "dir/sub/deep.log",
        "dir/sub/a.o",
        "build/",
        "build/out",
        "build/keep",
        "foo/",
        "foo/bar/",
        "foo/bar/baz",
        "#hash",
        "!bang",
        "end ",
        "a\nb",
        "]x",
        "-x",
        "question",
        "[z]",
    ];

    /// Everything that is not below something excluded and not excluded itself, as the walk finds it.
    fn kept(exclude: &Exclude) -> Vec<&'static str> {
        let is_out = |path: &str| {
            let kind = match path.ends_with('/') {
                true => FileType::Directory,
                false => FileType::RegularFile,
            };
            exclude.has(path.trim_end_matches('/').as_bytes(), kind)
        };
        let mut gone: Vec<&str> = Vec::new();
        let mut kept = Vec::new();
        for path in PATHS {
            match gone.iter().any(|dir| path.starts_with(dir)) || is_out(path) {
                true if path.ends_with('/') => gone.push(path),
                true => {}
                false if path.ends_with('/') => {}
                false => kept.push(path),
            }
        }
        kept.sort_unstable();
        kept
    }

    #[test]
    fn patterns_mean_what_they_mean_to_git() {
        let dir = tempfile::tempdir().unwrap();
        for path in PATHS {
            match path.strip_suffix('/') {
                Some(path) => fs::create_dir_all(dir.path().join(path)).unwrap(),
                None => fs::write(dir.path().join(path), "").unwrap(),
            }
        }
        let git = |words: &[&str]| {
            let git = Command::new("git")
                .arg("-C")
                .arg(dir.path())
                .args(words)
                .env("GIT_CONFIG_GLOBAL", "/dev/null")
                .env("GIT_CONFIG_NOSYSTEM", "1")
                .output();
            let git = git.expect("git is installed");
            assert!(git.status.success(), "{git:?}");
            git.stdout
        };
        git(&["init", "-q"]);
        let list = dir.path().join("patterns");
        for patterns in [
            "*.o",
            "*.o\n!keep.o",
            "*.o\n!dir/keep.o\n",
            "/a.o",
            "dir/*.o",
            "dir/**",
            "dir/**/*.o",
            "**/sub",
            "sub/",
            "build",
            "build/\n!build/keep",
            "build/*\n!build/keep",
            "foo/bar",
            "/foo/*\n!/foo/bar\n",
            "*\n!*.txt",
            "*\n!*/\n!*.log",
            "{a,b}",
            "x{1}",
            "[{]a,b[}]",
            "# comment\n\n\\#hash",
            "\\!bang",
            "end\\ ",
            "end ",
            "a?b",
            "*b",
            "[]x]x",
            "[!a]x",
            "\\[z]",
            "q*n",
            "dir/\n!dir/",
            "-*",
            "b.txt\r",
        ] {
            fs::write(&list, patterns).unwrap();
            let excluded = format!("--exclude-from={}", list.display());
            let out = git(&["ls-files", "-z", "--others", &excluded]);
            let out = String::from_utf8(out).unwrap();
            let mut theirs: Vec<&str> = out
                .split_terminator('\0')
                .filter(|path| *path != "patterns")
                .collect();
            theirs.sort_unstable();
            fs::rename(&list, dir.path().join(NAME)).unwrap();
            let ours = Exclude::of(dir.path(), &[]).unwrap();
            fs::remove_file(dir.path().join(NAME)).unwrap();
            assert_eq!(kept(&ours), theirs, "{patterns:?}");
            let lines: Vec<String> = patterns.split('\n').map(str::to_owned).collect();
            let ours = Exclude::of(dir.path(), &lines).unwrap();
            assert_eq!(kept(&ours), theirs, "{patterns:?} as options");
        }
    }

    #[test]
    fn options_have_the_last_word_and_bytes_of_any_kind_match() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(NAME), "\u{feff}*.o\n").unwrap();
        let exclude = Exclude::of(dir.path(), &["!keep.o".to_owned(), "x*".to_owned()]).unwrap();
        let file = FileType::RegularFile;
        assert!(exclude.has(b"a.o", file) && !exclude.has(b"keep.o", file));
        assert!(exclude.has(b"x\xff\n", file) && exclude.has(b"\xff.o", file));
    }

    #[test]
    fn what_is_no_pattern_is_told_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(NAME);
        let error = |text: &[u8]| {
            fs::write(&path, text).unwrap();
            Exclude::of(dir.path(), &[]).unwrap_err().to_string()
        };
        assert!(error(b"fine\na[b").contains(".rdvmignore:2: "));
        assert!(error(b"\xff").contains("is no UTF-8"));
        fs::remove_file(&path).unwrap();
        let error = Exclude::of(dir.path(), &["a[b".to_owned()]).unwrap_err();
        assert!(
            error.to_string().contains("--copy-in-exclude: \"a[b\""),
            "{error}"
        );
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        let error = Exclude::of(dir.path(), &[]).unwrap_err().to_string();
        assert!(error.contains("is a symbolic link"), "{error}");
        fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from(0o600), 0).unwrap();
        let error = Exclude::of(dir.path(), &[]).unwrap_err().to_string();
        assert!(error.contains("is no regular file"), "{error}");
    }
}
