//! Documents whose examples are run: a ```console block is one session of sh in a directory of its own.
//!
//! A line that starts with `$ ` is a command, one that starts with `> ` continues it, and all others are its standard
//! output. `...` inside a line stands for any text, alone on a line for any lines.

use std::path::Path;
use std::process::{Command, Stdio};

use super::RDVM;

/// A command and the standard output that is promised for it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Step {
    command: String,
    output: Vec<String>,
}

/// The fenced blocks of a Markdown text: the line of the opening fence, the words behind it, the lines between.
pub(crate) fn blocks(text: &str) -> Vec<(usize, &str, Vec<&str>)> {
    let mut found = Vec::new();
    let mut open: Option<(usize, &str, Vec<&str>)> = None;
    for (at, line) in text.lines().enumerate() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(_), Some(block)) => found.push(block),
            (Some(kind), None) => open = Some((at + 1, kind.trim(), Vec::new())),
            (None, Some(mut block)) => {
                block.2.push(line);
                open = Some(block);
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "the last block has no end: {open:?}");
    found
}

/// The commands of one console block.
fn steps(lines: &[&str]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in lines {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push(Step {
                command: command.to_owned(),
                output: Vec::new(),
            }),
            (None, Some(step)) => match line.strip_prefix("> ").or((*line == ">").then_some("")) {
                Some(more) if step.output.is_empty() => {
                    step.command.push('\n');
                    step.command.push_str(more);
                }
                _ => step.output.push((*line).to_owned()),
            },
            (None, None) => panic!("{line:?} stands before the first command"),
        }
    }
    steps
}

/// Whether a line is what was promised, where `...` stands for any text.
fn line_matches(promised: &str, line: &str) -> bool {
    match promised.split_once("...") {
        None => promised == line,
        Some((start, rest)) => line.strip_prefix(start).is_some_and(|line| {
            let mut cuts = (0..=line.len()).filter(|&cut| line.is_char_boundary(cut));
            cuts.any(|cut| line_matches(rest, &line[cut..]))
        }),
    }
}

/// Whether lines are what was promised, where a line `...` stands for any number of them.
fn lines_match(promised: &[String], lines: &[&str]) -> bool {
    match promised.split_first() {
        None => lines.is_empty(),
        Some((first, rest)) if first == "..." => {
            (0..=lines.len()).any(|cut| lines_match(rest, &lines[cut..]))
        }
        Some((first, rest)) => lines
            .split_first()
            .is_some_and(|(line, lines)| line_matches(first, line) && lines_match(rest, lines)),
    }
}

/// Runs the commands in one sh, and gives each one's standard output.
///
/// `rdvm` is the program under test; `variables` are set beside it.
fn run(steps: &[Step], dir: &Path, variables: &[(&str, &Path)]) -> Vec<String> {
    let mut script = String::new();
    for step in steps {
        // The mark ends an output, and the command after it still finds the exit code in `$?`.
        let command = &step.command;
        script.push_str(&format!(
            "{command}\ncode=$?; printf '\\000'; (exit $code)\n"
        ));
    }
    script.push_str("exit 0\n");
    let programs = Path::new(RDVM).parent().unwrap().display();
    let path = format!("{programs}:{}", std::env::var("PATH").unwrap_or_default());
    let output = Command::new("timeout")
        .args(["1200", "sh", "-c", &script])
        .envs(variables.iter().copied())
        .current_dir(dir)
        .env("PATH", path)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "the session ended early ({}): {script}",
        output.status
    );
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut outputs: Vec<String> = text.split('\0').map(str::to_owned).collect();
    assert_eq!(outputs.pop().as_deref(), Some(""));
    assert_eq!(
        outputs.len(),
        steps.len(),
        "an output has a NUL byte in it: {text:?}"
    );
    outputs
}

/// A console block of a document.
#[derive(Debug)]
pub(crate) struct Session {
    /// The document's name, and the line where the block begins.
    place: String,
    steps: Vec<Step>,
}

impl Session {
    /// How many commands it has.
    pub(crate) fn len(&self) -> usize {
        self.steps.len()
    }

    /// The document's name, and the line where it begins, if one of its commands runs this program.
    pub(crate) fn place_if_it_runs(&self, program: &str) -> Option<&str> {
        let mut steps = self.steps.iter();
        let runs = steps.any(|step| step.command.split_whitespace().any(|word| word == program));
        runs.then_some(&*self.place)
    }

    /// Runs it in `dir` and compares what each command prints with what the document shows.
    #[track_caller]
    pub(crate) fn keeps_its_word(&self, dir: &Path, variables: &[(&str, &Path)]) {
        for (step, output) in self.steps.iter().zip(run(&self.steps, dir, variables)) {
            let lines: Vec<&str> = output.lines().collect();
            assert!(
                lines_match(&step.output, &lines),
                "{}: $ {}\npromised {:#?}\ncame {lines:#?}",
                self.place,
                step.command,
                step.output
            );
        }
    }
}

/// The console blocks of a document. One without a command is a failure.
pub(crate) fn sessions(document: &str) -> Vec<Session> {
    let text = std::fs::read_to_string(document).unwrap();
    let consoles = blocks(&text).into_iter();
    let consoles = consoles.filter(|(_, kind, _)| *kind == "console");
    let sessions: Vec<_> = consoles
        .map(|(at, _, lines)| Session {
            place: format!("{document}, block at line {at}"),
            steps: steps(&lines),
        })
        .collect();
    let empty = sessions.iter().find(|session| session.steps.is_empty());
    assert!(empty.is_none(), "a block without a command: {empty:?}");
    sessions
}

#[test]
fn a_session_is_read_into_commands_and_their_output() {
    let text = "x\n```console\n$ a \\\n>\n> b\none\ntwo\n$ c\n```\n```sh\nmake\n```\n";
    let found = blocks(text);
    assert_eq!(
        found
            .iter()
            .map(|(at, kind, _)| (*at, *kind))
            .collect::<Vec<_>>(),
        [(2, "console"), (10, "sh")]
    );
    let steps = steps(&found[0].2);
    assert_eq!(steps[0].command, "a \\\n\nb");
    assert_eq!(steps[0].output, ["one", "two"]);
    assert_eq!((steps[1].command.as_str(), steps[1].output.len()), ("c", 0));
}

#[test]
fn dots_stand_for_any_text_and_everything_else_for_itself() {
    assert!(line_matches("glibc ...", "glibc 2.36"));
    assert!(line_matches("a...c", "abbc") && line_matches("a...c", "ac"));
    assert!(!line_matches("a...c", "abbd") && !line_matches("a", "ab") && !line_matches("", "a"));
    let promised = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert!(lines_match(&promised("a\n...\nd"), &["a", "b", "c", "d"]));
    assert!(lines_match(&promised("..."), &[]) && lines_match(&[], &[]));
    assert!(!lines_match(&promised("a"), &["a", "b"]) && !lines_match(&promised("a\nb"), &["a"]));
}

#[test]
fn a_session_keeps_exit_codes_and_tells_outputs_apart() {
    let dir = tempfile::tempdir().unwrap();
    let steps = steps(&[
        "$ printf one",
        "$ sh -c 'exit 7'",
        "$ echo $?",
        "$ rdvm --version",
    ]);
    let outputs = run(&steps, dir.path(), &[]);
    assert_eq!(outputs[..3], ["one", "", "7\n"]);
    assert_eq!(outputs[3], format!("rdvm {}\n", env!("CARGO_PKG_VERSION")));
}
