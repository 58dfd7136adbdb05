//! Our changes to the kernel's source, `kernels/patches`: for speed only, so a source that they do not fit is built
//! without them. Each file says at its head what it is for; `patch` passes over that.

use std::path::Path;
use std::process::Command;

use super::build_dir::BuildDir;
use super::error::Error;

/// Name and text. Each stands for itself.
const PATCHES: [(&str, &str); 3] = [
    (
        "unpack",
        include_str!("../../../kernels/patches/unpack.patch"),
    ),
    (
        "release",
        include_str!("../../../kernels/patches/release.patch"),
    ),
    (
        "regions",
        include_str!("../../../kernels/patches/regions.patch"),
    ),
];

/// The texts of all, for what is to tell one set of them from another.
pub(super) fn all() -> impl Iterator<Item = &'static str> {
    PATCHES.into_iter().map(|(_, text)| text)
}

/// Applies to the source in `tree` what fits, each patch wholly or not at all, and says what does not.
///
/// # Errors
/// One that fitted failed all the same; a file cannot be written; interrupted.
pub(super) fn apply(build_dir: &BuildDir, tree: &Path, say: &dyn Fn(&str)) -> Result<(), Error> {
    for (name, text) in PATCHES {
        let file = build_dir.write(&format!("{name}.patch"), text.as_bytes())?;
        let patch = |more: &[&str]| {
            let mut patch = Command::new("patch");
            // Not a line of its surroundings may differ: what was measured and tested is this source.
            patch.args(["--batch", "--forward", "--fuzz=0", "--strip=1"]);
            patch.arg("--input").arg(&file);
            patch.arg("--directory").arg(tree).args(more);
            patch
        };
        match build_dir.run("patch", patch(&["--dry-run"])) {
            Ok(()) => build_dir.run("patch", patch(&["--no-backup-if-mismatch"]))?,
            Err(Error::Step { .. }) => say(&format!(
                "the change \"{name}\" does not fit this source and is left out; the kernel will unpack images more slowly"
            )),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rdvm_vmm::stop_signals::StopSignals;

    use std::cell::RefCell;
    use std::fs;

    use super::*;
    use rdvm_hostfs::units::ByteSize;

    /// The files that the patches change, as far as they show them: the old lines of each hunk where it says that they are.
    fn source(tree: &Path) {
        for text in all() {
            let mut file: Option<(String, Vec<String>)> = None;
            let write = |file: Option<(String, Vec<String>)>| {
                if let Some((name, lines)) = file {
                    let path = tree.join(name);
                    fs::create_dir_all(path.parent().unwrap()).unwrap();
                    fs::write(path, lines.join("\n") + "\n").unwrap();
                }
            };
            for line in text.lines() {
                if let Some(name) = line.strip_prefix("--- a/") {
                    write(file.take());
                    file = Some((name.to_owned(), Vec::new()));
                } else if let (Some(hunk), Some((_, lines))) =
                    (line.strip_prefix("@@ -"), &mut file)
                {
                    let start: usize = hunk.split(',').next().unwrap().parse().unwrap();
                    lines.resize(start - 1, "unchanged".to_owned());
                } else if let (Some(b' ' | b'-'), Some((_, lines))) =
                    (line.bytes().next(), &mut file)
                {
                    lines.push(line[1..].to_owned());
                }
            }
            write(file.take());
        }
    }

    fn applied(tree: &Path) -> Vec<String> {
        let home = tempfile::tempdir().unwrap();
        let build_dir = BuildDir::open(home.path(), ByteSize(0), StopSignals::new).unwrap();
        let said = RefCell::new(Vec::new());
        apply(&build_dir, tree, &|line| {
            said.borrow_mut().push(line.to_owned())
        })
        .unwrap();
        said.into_inner()
    }

    #[test]
    fn patches_fit_what_they_were_made_from_and_nothing_else() {
        let tree = tempfile::tempdir().unwrap();
        let (unpack, header) = ("init/initramfs.c", "include/linux/initrd.h");
        let text = |file: &str| fs::read_to_string(tree.path().join(file)).unwrap();

        source(tree.path());
        assert_eq!(applied(tree.path()), Vec::<String>::new());
        assert!(text(unpack).contains("O_EXCL"));
        assert!(text(header).contains("free_reserved_blocks"));

        source(tree.path());
        let other = text(unpack).replace("static int __init do_name(void)", "int do_name(void)");
        fs::write(tree.path().join(unpack), &other).unwrap();
        let said = applied(tree.path());
        assert!(
            matches!(&said[..], [line] if line.contains("\"unpack\" does not fit")),
            "{said:?}"
        );
        assert_eq!(text(unpack), other, "not a part of it was applied");
        assert!(text(header).contains("free_reserved_blocks"));
    }

    #[test]
    fn each_patch_says_what_it_is_for() {
        for text in all() {
            let (reason, _) = text.split_once("\n--- a/").expect("a patch");
            assert!(reason.len() > 200, "{reason}");
        }
    }
}
