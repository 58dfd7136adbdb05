//! A kernel's record of its own build: nothing of who built it, where, when or how often, so that the same source and
//! options give the same bytes (`Documentation/kbuild/reproducible-builds.rst`).

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rdvm_hostfs::civil::Date;

/// Settings for `make` that take the place of the builder's name, host, count of builds and clock. The time is that of
/// the Makefile in `tree`: an archive has it from the release, a directory keeps it.
///
/// # Errors
/// There is no Makefile.
pub(super) fn settings(tree: &Path) -> io::Result<[String; 4]> {
    let released = tree.join("Makefile").metadata()?.mtime();
    Ok([
        "KBUILD_BUILD_USER=rdvm".to_owned(),
        "KBUILD_BUILD_HOST=rdvm".to_owned(),
        "KBUILD_BUILD_VERSION=1".to_owned(),
        format!("KBUILD_BUILD_TIMESTAMP={}", Date::of_unix(released)),
    ])
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::{Duration, SystemTime};

    use super::*;

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
