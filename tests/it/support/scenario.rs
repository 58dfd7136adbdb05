//! The list of the scenarios, which `cargo xtask rig` asks this program for: the tests that reach `engines()`, by whatever helper.
//!
//! Where `RDVM_TEST_LIST` names a file, a test that reaches `engines()` adds a line `scenario NAME` to that file and ends at
//! once; one that reaches `any_engine()` adds `any NAME`. Others run as ever, and so that the list does not take as long as the
//! tests, the modules of [`WITHOUT`] are not asked, and those that boot without `engines()` or are long in another way call
//! [`this_is_none`], which adds `none NAME` and ends them. In every other run both are binding: `engines()` fails there.

use std::cell::Cell;
use std::fs::File;
use std::io::Write;
use std::panic::resume_unwind;
use std::path::PathBuf;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unknown,
    Scenario,
    Any,
    None,
}

/// Modules that have no scenario, one a line. The rig (xtask/src/rig/tests_here.rs) reads this too.
const WITHOUT: &str = include_str!("without-engines");

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

/// Notes that this test is a scenario for every engine.
///
/// # Panics
///
/// The list cannot have it: the test has said that it is none, or the thread has no test's name.
pub(super) fn this_is_one() {
    can_be_listed();
    assert!(
        KIND.get() != Kind::Any,
        "the list has this test as one for any engine; call engines() before any_engine()"
    );
    KIND.set(Kind::Scenario);
    end_where_listed("scenario");
}

/// Notes that this test is a scenario for any one engine, unless it is known for one of every engine.
///
/// # Panics
///
/// As [`this_is_one`].
pub(super) fn this_is_for_any() {
    can_be_listed();
    if KIND.get() == Kind::Unknown {
        KIND.set(Kind::Any);
        end_where_listed("any");
    }
}

fn can_be_listed() {
    let thread = std::thread::current();
    let name = thread.name().expect(
        "engines() is for a test's own thread, by whose name the rig knows the scenario; ask before the thread is made",
    );
    let module = name.split("::").next().unwrap();
    assert!(
        !WITHOUT.lines().any(|line| line == module),
        "tests/it/support/without-engines says that {module} has no scenario, so that the rig's list lacks this one"
    );
    assert!(
        KIND.get() != Kind::None,
        "this test has booted something, or said that it is no scenario, so that the rig's list lacks it; call engines() first"
    );
}

/// Notes that this test is no scenario, unless it is known for one: from here on it must not ask for `engines()`.
pub(crate) fn this_is_none() {
    if matches!(KIND.get(), Kind::Unknown | Kind::None) {
        KIND.set(Kind::None);
        end_where_listed("none");
    }
}

#[test]
fn a_test_that_has_said_to_be_none_cannot_ask_for_engines() {
    let outcome_in = |module: &str, run: fn()| {
        std::thread::Builder::new()
            .name(format!("{module}::test"))
            .spawn(run)
            .unwrap()
            .join()
    };
    let outcome = |run| outcome_in("a", run);
    if list().is_none() {
        outcome(|| assert!(super::engines().len() < 3)).unwrap();
        outcome(|| {
            this_is_none();
            super::engines();
        })
        .unwrap_err();
        outcome(|| assert!(super::any_engine().len() < 3 && super::engines().is_empty()))
            .unwrap_err();
        outcome(|| assert!(super::engines().len() >= super::any_engine().len())).unwrap();
        outcome_in("cli", || assert!(super::engines().is_empty())).unwrap_err();
        std::thread::spawn(|| super::engines().len())
            .join()
            .unwrap_err();
    }
}
