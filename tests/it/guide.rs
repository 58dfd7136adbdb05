//! docs/guide.md, run as it stands there, from top to bottom in one directory.
//!
//! Its `sh` blocks name examples and targets of make; `examples` runs those.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::clients::has_apt_mirror;
use crate::examples::EXAMPLES;
use crate::support::session::{Session, blocks, sessions};
use crate::support::{engines, is_missing, left_out, missing, note_run, reference_image};

const GUIDE: &str = "docs/guide.md";

#[test]
fn the_guide_can_be_followed_from_top_to_bottom() {
    let sessions = sessions(GUIDE);
    let count: usize = sessions.iter().map(Session::len).sum();
    assert!(count >= 20, "only {count} commands were found in {GUIDE}");
    let needs = ["gcc", "make", "git", "jq", "tar", "xargs"];
    if let Some(program) = needs.into_iter().find(|program| is_missing(program)) {
        return missing(program);
    }
    let (Some(debian), Some(engine)) = (reference_image("debian"), engines().first()) else {
        return;
    };
    note_run(engine);
    let dir = tempfile::tempdir().unwrap();
    symlink(debian.canonicalize().unwrap(), dir.path().join("debian")).unwrap();
    let examples = Path::new("examples").canonicalize().unwrap();
    symlink(examples, dir.path().join("examples")).unwrap();
    let mut fetching = 0;
    for session in &sessions {
        if let Some(place) = session.place_if_it_runs("apt-get") {
            fetching += 1;
            if !has_apt_mirror(&debian) {
                left_out(&format!("{place}: it fetches packages"));
                continue;
            }
        }
        session.keeps_its_word(dir.path(), &[]);
    }
    assert_eq!(fetching, 1, "sessions that fetch packages");
}

#[test]
fn every_block_of_the_guide_is_of_a_kind_that_is_run() {
    let guide = fs::read_to_string(GUIDE).unwrap();
    let examples: Vec<_> = EXAMPLES
        .iter()
        .map(|(name, ..)| format!("examples/{name}/run"))
        .collect();
    let mut shown = Vec::new();
    for (at, kind, lines) in blocks(&guide) {
        match kind {
            "console" => {}
            "sh" => shown.extend(lines),
            other => panic!("{GUIDE}:{at}: a block of kind {other:?}, which nothing runs"),
        }
    }
    for line in &shown {
        assert!(
            examples.iter().any(|example| example == line),
            "{GUIDE}: nothing runs {line}"
        );
    }
    for example in &examples {
        assert!(
            shown.contains(&example.as_str()),
            "{GUIDE} does not know {example}"
        );
    }
}
