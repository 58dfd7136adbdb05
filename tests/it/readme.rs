//! The examples of README.md and docs/cli.md, run as they stand there: `libs` and `debian` lead to the reference images.
//!
//! Nothing is passed over: an unknown kind of block, or one without a command, is a failure.

use std::fs;
use std::os::unix::fs::symlink;

use crate::support::session::{Session, blocks, sessions};
use crate::support::{engines, reference_image};

#[test]
fn the_examples_of_the_readme_do_what_they_show() {
    do_what_they_show("README.md", 10);
}

#[test]
fn the_examples_of_the_command_line_do_what_they_show() {
    do_what_they_show("docs/cli.md", 20);
}

fn do_what_they_show(document: &str, least: usize) {
    let sessions = sessions(document);
    let count: usize = sessions.iter().map(Session::len).sum();
    assert!(
        count >= least,
        "only {count} commands were found in {document}"
    );
    let (Some(libs), Some(debian)) = (reference_image("libs"), reference_image("debian")) else {
        return;
    };
    if engines().is_empty() {
        return;
    }
    for session in &sessions {
        let dir = tempfile::tempdir().unwrap();
        symlink(libs.canonicalize().unwrap(), dir.path().join("libs")).unwrap();
        symlink(debian.canonicalize().unwrap(), dir.path().join("debian")).unwrap();
        session.keeps_its_word(dir.path(), &[]);
    }
}

#[test]
fn every_block_of_the_readme_is_of_a_kind_that_is_checked() {
    let makefile = fs::read_to_string("Makefile").unwrap();
    for document in ["README.md", "docs/cli.md"] {
        let text = fs::read_to_string(document).unwrap();
        for (at, kind, lines) in blocks(&text) {
            every_target_is_in(&makefile, document, at, kind, &lines);
        }
    }
}

fn every_target_is_in(makefile: &str, document: &str, at: usize, kind: &str, lines: &[&str]) {
    match kind {
        "console" => {}
        // What needs the network, and root perhaps, is not run; its targets must at least be there.
        "sh" => {
            let targets = lines.iter().filter_map(|line| line.strip_prefix("make "));
            for target in targets.filter_map(|words| words.split_whitespace().next()) {
                assert!(
                    makefile.contains(&format!("\n{target}: ")),
                    "{document}:{at}: make {target}"
                );
            }
        }
        other => panic!("{document}:{at}: a block of kind {other:?}, which nothing checks"),
    }
}
