//! A directory that must stay as it is.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub(crate) struct Canary {
    path: PathBuf,
    before: Metadata,
}

impl Canary {
    /// One in `dir`; "canary" is in its name.
    pub(crate) fn new(dir: &Path) -> Self {
        let path = dir.join("canary");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("file"), "untouched").unwrap();
        let before = fs::metadata(&path).unwrap();
        Self { path, before }
    }

    pub(crate) fn name(&self) -> &str {
        self.path.to_str().unwrap()
    }

    #[track_caller]
    pub(crate) fn is_untouched(&self) {
        let time = |metadata: &Metadata| (metadata.mtime(), metadata.mtime_nsec());
        assert_eq!(time(&self.before), time(&fs::metadata(&self.path).unwrap()));
        assert_eq!(fs::read_dir(&self.path).unwrap().count(), 1);
        assert_eq!(fs::read(self.path.join("file")).unwrap(), b"untouched");
    }
}
