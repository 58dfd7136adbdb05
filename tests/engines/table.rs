//! The commands that mean the same on every engine: exit codes, streams, standard input and the terminal.

use std::fs;
use std::process::Command;

use crate::lab::{behind, command, ended, fed, lab};

/// The standard streams that a container is to have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Streams {
    /// Output only.
    Output,
    /// Standard input too.
    Input,
    /// A terminal.
    Terminal,
}

/// A way to run containers.
pub(crate) trait Engine {
    /// The command line that runs `words` in a new container and removes it afterwards.
    fn container(&self, streams: Streams, words: &[&str]) -> Command;

    /// The exit codes for a container that cannot be created since its command is not in the image, or is no program.
    fn refusals(&self) -> [i32; 2] {
        [127, 126]
    }

    /// False if the engine has no terminals to give.
    fn has_terminals(&self) -> bool {
        true
    }
}

/// Runs the whole table.
pub(crate) fn all(engine: &dyn Engine) {
    exit_codes(engine);
    refusals(engine);
    streams(engine);
    input(engine);
    if engine.has_terminals() {
        terminal(engine);
    }
}

fn sh(script: &str) -> [&str; 3] {
    ["sh", "-c", script]
}

/// An exit code is the command's, and a signal's number more than 128.
pub(crate) fn exit_codes(engine: &dyn Engine) {
    ended(engine.container(Streams::Output, &["true"])).exits(0);
    ended(engine.container(Streams::Output, &sh("exit 7"))).exits(7);
    ended(engine.container(Streams::Output, &sh("kill -9 $$"))).exits(137);
}

/// A command that is not in the image, and one that is no program, have the codes that a shell has for them.
fn refusals(engine: &dyn Engine) {
    let [not_found, no_program] = engine.refusals();
    let words = ["no-such-program"];
    ended(engine.container(Streams::Output, &words))
        .exits(not_found)
        .fails_with("no-such-program");
    let words = ["/etc/passwd"];
    ended(engine.container(Streams::Output, &words))
        .exits(no_program)
        .fails_with("/etc/passwd");
}

/// Standard output and standard error are apart, and the command has a kernel of its own.
pub(crate) fn streams(engine: &dyn Engine) {
    let script = "cat /proc/sys/kernel/random/boot_id; echo error >&2; sleep 0.2; echo more";
    let run = ended(engine.container(Streams::Output, &sh(script))).exits(0);
    let text = run.text();
    let lines: Vec<&str> = text.lines().collect();
    let [boot, "more"] = lines[..] else {
        panic!("{run}");
    };
    let host = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_ne!(boot, host.trim(), "the command runs on the host's kernel");
    assert!(run.stderr.lines().any(|line| line == "error"), "{run}");
}

/// Bytes of every value go through, to the end. They are more than the pipes on the way hold: ctr loses the end of an input that it
/// has read before the container runs, with any runtime.
pub(crate) fn input(engine: &dyn Engine) {
    let bytes: Vec<u8> = (0..=255).cycle().take(1_000_000).collect();
    let run = fed(engine.container(Streams::Input, &["cat"]), &bytes).exits(0);
    assert!(run.stdout == bytes, "{} bytes came back", run.stdout.len());
}

/// The command has a terminal of the size of the engine's own, and its exit code.
fn terminal(engine: &dyn Engine) {
    let script = "tty; stty size; exit 5";
    let inner = engine.container(Streams::Terminal, &sh(script));
    let run = ended(in_terminal(&inner, 33, 101)).exits(5);
    assert!(run.text().contains("/dev/"), "{run}");
    assert!(run.text().contains("33 101"), "{run}");
}

/// The command on a new terminal of this size; its output is the terminal's.
pub(crate) fn in_terminal(inner: &Command, rows: u16, columns: u16) -> Command {
    // script(1) takes a line for the shell; the command's own words come by a file, with its environment.
    let words = std::iter::once(inner.get_program()).chain(inner.get_args());
    let quoted: Vec<String> = words
        .map(|word| format!("'{}'", word.to_str().unwrap().replace('\'', r"'\''")))
        .collect();
    // What the engine says of its own (srun of an exit code) would fall into the middle of the command's lines.
    let quoted = quoted.join(" ");
    let line = format!("stty rows {rows} cols {columns}; exec {quoted} 2>/dev/null");
    let script = command("script", &["-q", "-e", "-c", &line, "/dev/null"]);
    let mut outer = behind(
        command("env", &["-C", lab().dir.to_str().unwrap()]),
        &script,
    );
    for (name, value) in inner.get_envs() {
        outer.env(name, value.unwrap());
    }
    outer
}
