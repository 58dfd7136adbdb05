//! Notes of what tests leave out, in one place, so that a run can count and list it. The unit tests of the library read this file too.

use std::fs::File;
use std::io::Write;

/// Notes that this test needs something that is not here; in CI that is a failure.
pub(crate) fn missing(what: &str) {
    assert!(
        std::env::var_os("CI").is_none(),
        "{what} is missing, and CI must have it"
    );
    left_out(&format!(
        "{what} is missing (scripts/install-deps.sh test installs it)"
    ));
}

/// Notes that this test does not run, or only in part, for a reason that CI may have too.
pub(crate) fn left_out(why: &str) {
    let thread = std::thread::current();
    left_out_of(thread.name().unwrap_or("?"), why);
}

/// Notes what does not run: on standard error, and as a line of the file that `RDVM_TEST_SKIPS` names, which `make test`
/// counts and lists at its end.
pub(crate) fn left_out_of(test: &str, why: &str) {
    eprintln!("SKIPPED: {test}: {why}");
    if let Some(path) = std::env::var_os("RDVM_TEST_SKIPS") {
        let mut options = File::options();
        let mut log = options.append(true).create(true).open(path).unwrap();
        // One write, since other tests append at the same time.
        let line = format!("{test}: {why}\n");
        log.write_all(line.as_bytes()).unwrap();
    }
}
