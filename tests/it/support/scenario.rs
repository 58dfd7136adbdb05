//! The list of the scenarios, which `cargo xtask rig` asks this program for: the tests that reach `engines()`, by whatever helper.
//!
//! Where `RDVM_TEST_LIST` names a file, a test that reaches `engines()` adds a line `scenario NAME` to that file and ends at
//! once. Others run as ever, and so that the list does not take as long as the tests, those that boot without `engines()` or
//! are long in another way call [`this_is_none`], which adds `none NAME` and ends them. In every other run that call is
//! binding: `engines()` after it fails.

use std::cell::Cell;
use std::fs::File;
use std::io::Write;
use std::panic::resume_unwind;
use std::path::PathBuf;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unknown,
    Scenario,
    None,
}

thread_local! {
    static KIND: Cell<Kind> = const { Cell::new(Kind::Unknown) };
}

fn list() -> Option<PathBuf> {
    std::env::var_os("RDVM_TEST_LIST").map(PathBuf::from)
}

/// Adds a line to the list and ends the test, where there is a list.
fn end_where_listed(kind: &str) {
    let Some(path) = list() else { return };
    let thread = std::thread::current();
    let line = format!("{kind} {}\n", thread.name().unwrap_or("?"));
    let mut options = File::options();
    let mut list = options.append(true).create(true).open(path).unwrap();
    // One write, since other tests append at the same time.
    list.write_all(line.as_bytes()).unwrap();
    resume_unwind(Box::new("listed"));
}

/// Notes that this test is a scenario.
///
/// # Panics
///
/// The list cannot have it: the test has said that it is none, or the thread has no test's name.
pub(super) fn this_is_one() {
    let thread = std::thread::current();
    assert!(
        thread.name().is_some(),
        "engines() is for a test's own thread, by whose name the rig knows the scenario; ask before the thread is made"
    );
    assert!(
        KIND.get() != Kind::None,
        "this test has booted something, or said that it is no scenario, so that the rig's list lacks it; call engines() first"
    );
    KIND.set(Kind::Scenario);
    end_where_listed("scenario");
}

/// Notes that this test is no scenario, unless it is known for one: from here on it must not ask for `engines()`.
pub(crate) fn this_is_none() {
    if KIND.get() != Kind::Scenario {
        KIND.set(Kind::None);
        end_where_listed("none");
    }
}

#[test]
fn a_test_that_has_said_to_be_none_cannot_ask_for_engines() {
    let outcome = |run: fn()| {
        std::thread::Builder::new()
            .name("a::test".into())
            .spawn(run)
            .unwrap()
            .join()
    };
    if list().is_none() {
        outcome(|| assert!(super::engines().len() < 3)).unwrap();
        outcome(|| {
            this_is_none();
            super::engines();
        })
        .unwrap_err();
        std::thread::spawn(|| super::engines().len())
            .join()
            .unwrap_err();
    }
}
