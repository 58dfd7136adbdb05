//! Notices that are worth a line once a day, not with every run.
//!
//! The day is kept as the time of a file in the user's cache directory. Nothing here fails: where no such file can be
//! kept, the notice is due.

use std::fs;
use std::path::Path;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Returns whether `text` is due: it has not been shown within a day by the file `name` of the directory `cache`, which
/// then says that it has been. The directory is made where only itself is missing.
pub(crate) fn is_due(cache: Option<&Path>, name: &str, text: &str) -> bool {
    let Some(cache) = cache else {
        return true;
    };
    let stamp = cache.join(name);
    let shown = fs::read(&stamp).is_ok_and(|bytes| bytes == text.as_bytes());
    let time = fs::metadata(&stamp).and_then(|meta| meta.modified());
    let is_fresh = time.is_ok_and(|time| time.elapsed().is_ok_and(|age| age < DAY));
    if shown && is_fresh {
        return false;
    }
    let _ = fs::create_dir(cache);
    let _ = fs::write(&stamp, text);
    true
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_notice_is_due_once_a_day_and_again_when_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("rdvm");
        let due = |text| is_due(Some(&cache), "notice", text);
        assert!(due("a"));
        assert!(!due("a"));
        assert!(due("b"));
        assert!(!due("b"));
        for time in [SystemTime::now() - DAY, SystemTime::now() + DAY] {
            let file = File::options().write(true).open(cache.join("notice"));
            file.unwrap().set_modified(time).unwrap();
            assert!(due("b"), "{time:?}");
            assert!(!due("b"), "{time:?}");
        }
    }

    #[test]
    fn where_nothing_can_be_kept_a_notice_is_always_due_and_nothing_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let nowhere = dir.path().join("home/.cache/rdvm");
        for cache in [None, Some(nowhere.as_path())] {
            assert!(is_due(cache, "notice", "a") && is_due(cache, "notice", "a"));
        }
        assert!(!dir.path().join("home").exists());
    }
}
