//! rdvm.toml: what a profile comes to, what wins, and what is said of one that cannot be used.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rdvm::cli::{self, UsageError, Verb};
use rdvm::request::{KernelSpec, MemorySpec, Request};
use rdvm_hostfs::units::ByteSize;
use tempfile::TempDir;

use crate::support::{RDVM, Run, any_engine, busybox, note_run};

/// A directory with an rdvm.toml.
fn project(text: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("rdvm.toml"), text).unwrap();
    dir
}

/// What `rdvm run --config FILE WORDS` comes to.
fn request(dir: &TempDir, words: &[&str]) -> Result<Request, String> {
    let file = dir.path().join("rdvm.toml");
    let mut line: Vec<OsString> = ["rdvm", "run", "--config"].map(OsString::from).to_vec();
    line.push(file.into());
    line.extend(words.iter().map(OsString::from));
    match cli::parse(line) {
        Ok(cli) => match cli.verb {
            Verb::Run(args) => args.into_request().map_err(|error| error.to_string()),
            other => panic!("{other:?}"),
        },
        Err(UsageError::Cannot(error)) => Err(error.to_string()),
        Err(UsageError::Line(error)) => Err(error.to_string()),
    }
}

/// `rdvm run` in a directory.
fn run_in(dir: &Path, words: &[&str]) -> Run {
    let mut command = Command::new(RDVM);
    command.arg("run").args(words).current_dir(dir);
    Run(command.stdin(Stdio::null()).output().unwrap())
}

const BUILD: &str = r#"
# What the project is built with.
[profile.build]
image = "images/build.tar"
command = ["make", "-j4"]
copy-in = [".:/src", "../shared:lib/"]
copy-in-exclude = ["*.o", "!keep.o"]
copy-out = "/src/out:results"
env = { CC = "gcc -m64", LEVEL = 3 }
env-file = "build.env"
memory = "2g"
cpus = 2
interactive = true
tty = false
timeout = "10m"
ulimit = ["nofile=1024", "core=0"]
workdir = "/src"
user = "1000:100"
layer = ["extra.tar", "/abs/dir"]
kernel = "6.1.0-cloud"
append = "--quiet"
verbose = true

[profile."other one"]
env = ["A=1", "B"]
kernel = "kernels/mine"
ulimit = { nofile = "10:20" }
"#;

#[test]
fn a_profile_is_the_options_that_one_would_type() {
    let dir = project(BUILD);
    fs::write(dir.path().join("build.env"), "FROM=file\n").unwrap();
    let at = |path: &str| dir.path().join(path);
    let request = request(&dir, &["--profile", "build"]).unwrap();
    assert_eq!(request.image.path, at("images/build.tar"));
    assert_eq!(
        request.image.layers,
        [at("extra.tar"), Path::new("/abs/dir").into()]
    );
    assert_eq!(request.command.argv, ["make", "-j4"]);
    assert_eq!(request.command.env, ["FROM=file", "CC=gcc -m64", "LEVEL=3"]);
    let copies = &request.copies;
    assert_eq!(copies.into[0].host, at("."));
    assert_eq!(copies.into[0].guest, "/src");
    assert_eq!(copies.into[1].host, at("../shared"));
    assert_eq!(copies.into[1].guest, "lib/");
    assert_eq!(copies.exclude, ["*.o", "!keep.o"]);
    assert_eq!(copies.out[0].guest, "/src/out");
    assert_eq!(copies.out[0].host, at("results"));
    assert_eq!(request.memory, MemorySpec::Exactly(ByteSize::mib(2048)));
    assert_eq!(request.cpus, 2);
    assert!(request.stdin.interactive && !request.stdin.tty);
    assert_eq!(request.timeout, Some(Duration::from_secs(600)));
    assert_eq!(request.command.ulimits.len(), 2);
    assert_eq!(request.command.user.unwrap().to_string(), "1000:100");
    assert_eq!(request.kernel, KernelSpec::Named("6.1.0-cloud".into()));
    assert_eq!(request.append.as_deref(), Some("--quiet"));
}

#[test]
fn other_forms_of_values_mean_the_same() {
    let dir = project(BUILD);
    let request = request(&dir, &["--profile", "other one", "img", "ls"]).unwrap();
    assert_eq!(request.image.path, Path::new("img"));
    // B is not set, and so is not passed on.
    assert_eq!(request.command.env, ["A=1"]);
    let kernel = dir.path().join("kernels/mine");
    assert_eq!(request.kernel, KernelSpec::Named(kernel.into()));
    let limit = request.command.ulimits[0];
    assert_eq!((limit.soft, limit.hard), (10, 20));
}

#[test]
fn the_command_line_wins_and_lists_add_up() {
    let dir = project(BUILD);
    fs::write(dir.path().join("build.env"), "").unwrap();
    let words = [
        "--profile",
        "build",
        "-m",
        "1g",
        "-m",
        "3g",
        "-e",
        "CC=clang",
        "--ulimit",
        "core=1",
        "--copy-in",
        "x:/y",
        "--kernel",
        "k",
        "--timeout",
        "1s",
        "-w",
        "/",
    ];
    let request = request(&dir, &words).unwrap();
    assert_eq!(request.memory, MemorySpec::Exactly(ByteSize::mib(3072)));
    assert_eq!(request.command.env, ["CC=gcc -m64", "LEVEL=3", "CC=clang"]);
    assert_eq!(request.command.ulimits.len(), 3);
    assert_eq!(request.copies.into[2].host, Path::new("x"));
    assert_eq!(request.kernel, KernelSpec::Named("k".into()));
    assert_eq!(request.timeout, Some(Duration::from_secs(1)));
    assert_eq!(request.command.workdir.unwrap(), "/");
}

#[test]
fn image_and_command_come_from_whoever_names_them() {
    let dir = project(
        "[profile.both]\nimage = '-'\ncommand = ['--', 'a']\n[profile.image]\nimage = '/p'\n[profile.command]\ncommand = ['c', '-x']\n[profile.none]\n",
    );
    type Expected = Result<(&'static str, &'static [&'static str]), &'static str>;
    let cases: [(&[&str], Expected); 14] = [
        (&["both"], Ok(("-", &["--", "a"]))),
        (&["both", "--"], Ok(("-", &["--", "a"]))),
        (
            &["both", "--", "make", "check"],
            Ok(("-", &["make", "check"])),
        ),
        (&["both", "--", "-x"], Ok(("-", &["-x"]))),
        (&["both", "--", "--", "x"], Ok(("-", &["--", "x"]))),
        (&["both", "img"], Ok(("img", &["--", "a"]))),
        (&["both", "img", "--"], Ok(("img", &["--", "a"]))),
        (&["both", "img", "ls"], Ok(("img", &["ls"]))),
        (&["both", "img", "--", "ls"], Ok(("img", &["ls"]))),
        (&["image"], Ok(("/p", &[]))),
        (&["command", "img"], Ok(("img", &["c", "-x"]))),
        (&["command", "--", "img", "ls"], Ok(("img", &["ls"]))),
        (&["command"], Err("IMAGE: neither the profile nor")),
        (&["none", "--memroy", "1g", "img"], Err("--memory")),
    ];
    for (words, expected) in cases {
        let words: Vec<&str> = ["--profile"].iter().chain(words).copied().collect();
        match (request(&dir, &words), expected) {
            (Ok(request), Ok((image, command))) => {
                assert_eq!(request.image.path, Path::new(image), "{words:?}");
                assert_eq!(request.command.argv, command, "{words:?}");
            }
            (Err(error), Err(expected)) => assert!(error.contains(expected), "{words:?}: {error}"),
            (got, _) => panic!("{words:?}: {got:?}"),
        }
    }
}

#[test]
fn what_cannot_be_used_is_one_line_with_its_place() {
    for (text, says) in [
        (
            "[profile.p]\n\nmemroy = '1g'",
            "rdvm.toml:3: memroy: rdvm run has no such option; is it memory?",
        ),
        (
            "[profile.p]\nzzzzzzzz = 1",
            "rdvm.toml:2: zzzzzzzz: rdvm run has no such option; rdvm run --help",
        ),
        (
            "[profile.p]\nmemory = 'lots'",
            "rdvm.toml:2: memory: invalid value 'lots' for '--memory",
        ),
        (
            "[profile.p]\nmemory = ['1g']",
            "rdvm.toml:2: memory: write a text in quotes",
        ),
        (
            "[profile.p]\nmemory = 1.5",
            "rdvm.toml:2: memory: write a text in quotes",
        ),
        (
            "[profile.p]\ncpus = 99",
            "rdvm.toml:2: cpus: invalid value '99'",
        ),
        (
            "[profile.p]\nengine = 'bochs'",
            "[possible values: auto, kvm, qemu]",
        ),
        (
            "[profile.p]\ninteractive = 1",
            "rdvm.toml:2: interactive: is a switch",
        ),
        (
            "[profile.p]\nenv = 1.5",
            "rdvm.toml:2: env: write a list of texts, or a table",
        ),
        (
            "[profile.p]\ncopy-in = { a = 'b' }",
            "rdvm.toml:2: copy-in: write a text, or a list",
        ),
        ("[profile.p]\ncopy-in = 'a'", "rdvm.toml:2: copy-in: "),
        (
            "[profile.p]\ncommand = 'make check'",
            "rdvm.toml:2: command: write a list of words",
        ),
        ("[profile.p]\nimage = true", "rdvm.toml:2: image: "),
        ("[profile.p]\nappend = \"\\u0000\"", "a word has no NUL"),
        ("[profile.p]\nprofile = 'q'", "rdvm.toml:2: profile: "),
        ("[profile.p]\nhelp = true", "rdvm.toml:2: help: "),
        ("[profile.p]\n\u{1b} = 1", "rdvm.toml:2: "),
        (
            "[profile.p]\nmemory = \"\\u001b[2J\"",
            "rdvm.toml:2: memory: invalid value ''",
        ),
        ("[profile.p\n", "rdvm.toml:1: "),
        ("memory = '1g'", "rdvm.toml:1: memory: stands in no profile"),
        (
            "[run]\nmemory = '1g'",
            "rdvm.toml:1: run: stands in no profile",
        ),
        ("[profile]\np = 1", "rdvm.toml:2: profile.p: is no profile"),
        ("", "has no profile \"p\"; write [profile.NAME] into it"),
        ("[profile.q]", "has no profile \"p\"; it has q"),
        ("[profile.p]\na = 1\na = 2", "rdvm.toml:3: "),
    ] {
        let dir = project(text);
        let run = run_in(dir.path(), &["--profile", "p", "img"]).exits(125);
        let stderr = run.stderr();
        assert!(stderr.contains(says), "{text:?}: {stderr:?}");
        assert!(stderr.starts_with("rdvm: "), "{stderr:?}");
        assert_eq!(stderr.matches('\n').count(), 1, "{stderr:?}");
        assert!(!stderr.contains('\x1b'), "{stderr:?}");
    }
    let dir = project("[profile.build]\n[profile.test]\n");
    run_in(dir.path(), &["--profile", "biuld", "img"])
        .exits(125)
        .says_only("rdvm: --profile: rdvm.toml has no profile \"biuld\"; is it build?\n");
    fs::write(dir.path().join("rdvm.toml"), b"\xff").unwrap();
    run_in(dir.path(), &["--profile", "p", "img"])
        .exits(125)
        .says("rdvm.toml: stream did not contain valid UTF-8");
    run_in(dir.path(), &["--config", "x", "img"])
        .exits(125)
        .says("--profile");
}

#[test]
fn the_nearest_file_counts_and_its_paths_are_its_own() {
    let dir = project("[profile.p]\nimage = 'above'\n");
    let below = dir.path().join("a/b");
    fs::create_dir_all(&below).unwrap();
    run_in(&below, &["--profile", "p"])
        .exits(125)
        .says("rdvm: ../../above: no such file or directory");
    fs::write(
        dir.path().join("a/rdvm.toml"),
        "[profile.p]\nimage = 'near'\n",
    )
    .unwrap();
    run_in(&below, &["--profile", "p"])
        .exits(125)
        .says("rdvm: ../near: no such file or directory");
    run_in(&below, &["--profile", "p", "--config", "../../rdvm.toml"])
        .exits(125)
        .says("rdvm: ../../above: no such file or directory");
    // Nothing of it counts unless it is asked for.
    fs::write(dir.path().join("a/rdvm.toml"), "nonsense").unwrap();
    run_in(&below, &["nothing"])
        .exits(125)
        .says("rdvm: nothing: no such file or directory");
    let empty = TempDir::new().unwrap();
    run_in(empty.path(), &["--profile", "p"])
        .exits(125)
        .says("rdvm: --profile: there is no rdvm.toml here or above");
}

#[test]
fn options_that_exclude_each_other_are_refused_or_the_last_counts() {
    let dir = project("[profile.p]\nverbose = true\nimage = 'none'\n");
    for (words, says) in [
        (
            &["-i", "-"][..],
            "rdvm: --interactive: standard input is the image already",
        ),
        (
            &["-i", "--layer", "-", "img"],
            "rdvm: --interactive: standard input is",
        ),
        (
            &["--rdinit", "f", "-i", "img"],
            "rdvm: --interactive: cannot be used with --rdinit",
        ),
        (
            &["--rdinit", "f", "--copy-in", "a:b", "img"],
            "rdvm: --copy-in: cannot be used with",
        ),
        (
            &["--rdinit", "f", "--copy-out", "a:b", "img"],
            "rdvm: --copy-out: cannot be used",
        ),
        (
            &["--rdinit", "f", "--ulimit", "core=0", "img"],
            "rdvm: --ulimit: cannot be used",
        ),
        (
            &["--rdinit", "f", "-t", "img"],
            "rdvm: --tty: cannot be used",
        ),
        (
            &["-q", "--verbose", "-q", "none"],
            "rdvm: none: no such file",
        ),
        (&["--profile", "p", "-q"], "rdvm: none: no such file"),
        (
            &["--profile", "p"],
            "rdvm: the profile's options: --verbose\nrdvm: none: no such file",
        ),
    ] {
        let run = run_in(dir.path(), words).exits(125).says(says);
        assert!(run.stderr().starts_with("rdvm: "), "{words:?}");
    }
}

#[test]
fn a_profile_runs() {
    let dir = project(&format!(
        "[profile.test]\nimage = {:?}\ncommand = ['sh', '-c', 'cat /src/file; echo $GREETING; ulimit -n']\ncopy-in = 'src:/src'\nenv.GREETING = 'hi'\nulimit = 'nofile=99'\nquiet = true\n",
        busybox().path()
    ));
    fs::create_dir_all(dir.path().join("src/deeper")).unwrap();
    fs::write(dir.path().join("src/file"), "text\n").unwrap();
    for engine in any_engine() {
        note_run(engine);
        let below = dir.path().join("src/deeper");
        run_in(&below, &["--engine", engine, "--profile", "test"])
            .exits(0)
            .prints("text\nhi\n99\n");
        let words = [
            "--engine",
            engine,
            "--profile",
            "test",
            "-e",
            "GREETING=you",
            "--",
            "sh",
        ];
        let words: Vec<&str> = words.into_iter().chain(["-c", "echo $GREETING"]).collect();
        run_in(&below, &words).exits(0).prints("you\n");
    }
}
