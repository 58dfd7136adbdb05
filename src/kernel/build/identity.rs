//! What a kernel says of its own build: nothing of who built it, where, when or how often, so that the same source and
//! options give the same bytes (`Documentation/kbuild/reproducible-builds.rst`).

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Settings for `make` that take the place of the builder's name, host, count of builds and clock. The time is that of
/// the Makefile in `tree`: an archive has it from whoever released the source, a directory keeps it.
///
/// # Errors
/// There is no Makefile.
pub(super) fn settings(tree: &Path) -> io::Result<[String; 4]> {
    let released = tree.join("Makefile").metadata()?.mtime();
    Ok([
        "KBUILD_BUILD_USER=rdvm".to_owned(),
        "KBUILD_BUILD_HOST=rdvm".to_owned(),
        "KBUILD_BUILD_VERSION=1".to_owned(),
        format!("KBUILD_BUILD_TIMESTAMP={}", day(released)),
    ])
}

/// The day of a time in seconds since 1970, in UTC and in the form 2026-05-14, which date(1) reads too.
fn day(seconds: i64) -> String {
    // From 0000-03-01, so that a leap day is the last day of a year of the count.
    let days = seconds.div_euclid(86_400) + 719_468;
    let (cycle, in_cycle) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (in_cycle - in_cycle / 1460 + in_cycle / 36_524 - in_cycle / 146_096) / 365;
    let in_year = in_cycle - (365 * year + year / 4 - year / 100);
    let month = (5 * in_year + 2) / 153;
    let day = in_year - (153 * month + 2) / 5 + 1;
    let (month, next) = match month {
        0..10 => (month + 3, 0),
        _ => (month - 9, 1),
    };
    format!("{:04}-{month:02}-{day:02}", 400 * cycle + year + next)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (seconds, want) in [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (951_782_400, "2000-02-29"),
            (951_868_799, "2000-02-29"),
            (1_709_251_200, "2024-03-01"),
            (4_107_542_400, "2100-03-01"),
        ] {
            assert_eq!(day(seconds), want);
        }
    }

    #[test]
    fn the_time_is_that_of_the_source() {
        let tree = tempfile::tempdir().unwrap();
        assert!(settings(tree.path()).is_err());
        let makefile = tree.path().join("Makefile");
        fs::write(&makefile, "").unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000);
        let file = fs::File::options().write(true).open(&makefile).unwrap();
        file.set_modified(time).unwrap();
        let settings = settings(tree.path()).unwrap();
        assert_eq!(settings[3], "KBUILD_BUILD_TIMESTAMP=2017-07-14");
    }
}
