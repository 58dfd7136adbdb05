//! `rdvm kernel list`: the kernels that are there, which one a run would take, and why not the others.
//!
//! Takes the same candidates as `open` and asks the same question of each; prints nothing itself.

use std::path::{Path, PathBuf};

use super::error::{FileError, install};
use super::find::{Origin, Search};
use super::probe::{Format, Probe};
use crate::KernelSpec;
use rdvm_hostfs::escape::shown;
use rdvm_hostfs::units::ByteSize;

/// One file that was found.
#[derive(Debug)]
pub struct KernelFile {
    /// The file.
    pub path: PathBuf,
    /// Which step of the search came to it.
    pub origin: Origin,
    /// The kernel's release, from its header or its banner, else from the file's name.
    pub release: Option<String>,
    /// Its format, if it can be used.
    pub format: Option<Format>,
    /// The file's size in bytes.
    pub bytes: Option<u64>,
    /// Why it cannot be used.
    pub problem: Option<FileError>,
    /// A run would take this one.
    pub chosen: bool,
}

/// The kernels that a search comes to, in its order; `image_boot` is the image's own boot directory, if there is one.
/// Reads headers only, so that a damaged payload is not noticed; but a vmlinux is searched for its release.
pub fn list(host: &Search, image_boot: Option<&Path>) -> Vec<KernelFile> {
    let mut list: Vec<KernelFile> = Vec::new();
    let mut decided = false;
    for candidate in host.candidates(&KernelSpec::Search, image_boot) {
        let named = candidate.is_named();
        let mut found = match Probe::new(&candidate) {
            Err(FileError::Missing) if !named => continue,
            Ok(probe) => KernelFile {
                release: probe.release_of_any_kind(),
                format: Some(probe.format()),
                problem: None,
                ..KernelFile::of(candidate.path, candidate.origin)
            },
            Err(problem) => KernelFile {
                problem: Some(problem),
                ..KernelFile::of(candidate.path, candidate.origin)
            },
        };
        found.chosen = !decided && found.problem.is_none();
        // A named file that cannot be used ends a search: `open` then says so.
        decided |= found.chosen || named;
        found.release = found.release.or_else(|| release_in_name(&found.path));
        list.push(found);
    }
    list
}

impl KernelFile {
    fn of(path: PathBuf, origin: Origin) -> Self {
        Self {
            bytes: path.symlink_metadata().ok().map(|meta| meta.len()),
            path,
            origin,
            release: None,
            format: None,
            problem: None,
            chosen: false,
        }
    }
}

fn release_in_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let release = name
        .strip_prefix("vmlinuz-")
        .or(name.strip_prefix("vmlinux-"))?;
    Some(release.into())
}

/// The table as text that ends with a line feed: the chosen one is marked `*`; below it what can be done when none is.
pub fn render(list: &[KernelFile]) -> String {
    let mut rows = vec![["RELEASE", "FORMAT", "SIZE", "FILE", ""].map(String::from)];
    rows.extend(list.iter().map(row));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..5).map(|column| width(column).unwrap_or(0)).collect();
    let mut text = String::new();
    if list.is_empty() {
        text.push_str("no kernel found\n");
        rows.clear();
    }
    for (index, row) in rows.iter().enumerate() {
        let chosen = index.checked_sub(1).is_some_and(|index| list[index].chosen);
        let mut line = String::from(if chosen { "*" } else { " " });
        for (cell, &width) in row.iter().zip(&widths) {
            line.push_str(&format!(" {cell:<width$} "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    for remedy in remedies(list) {
        text.push_str(&format!("\n{remedy}\n"));
    }
    text
}

fn row(found: &KernelFile) -> [String; 5] {
    let dash = || String::from("-");
    let release = found.release.as_ref().map(|name| shown(Path::new(name)));
    let note = match &found.problem {
        Some(problem) => problem.to_string(),
        None if found.chosen => format!("used: {}", found.origin),
        None => String::new(),
    };
    [
        release.unwrap_or_else(dash),
        found.format.map_or_else(dash, |format| format.to_string()),
        found
            .bytes
            .map_or_else(dash, |bytes| ByteSize(bytes).to_string()),
        shown(&found.path),
        note,
    ]
}

/// Returns the ways to make a run possible when it is not, and how the running kernel becomes readable.
fn remedies(list: &[KernelFile]) -> Vec<String> {
    let usable = list.iter().any(|found| found.chosen);
    let unreadable = |found: &&KernelFile| matches!(found.problem, Some(FileError::Unreadable));
    let mut lines: Vec<String> = list
        .iter()
        .filter(unreadable)
        .filter(|found| !usable || found.origin == Origin::Running)
        .map(|found| {
            format!(
                "{}: {}",
                shown(&found.path),
                FileError::Unreadable.remedy(&found.path)
            )
        })
        .collect();
    if !usable && lines.is_empty() {
        lines.push(install().into());
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::samples::{bzimage, vmlinux};
    use super::*;

    #[test]
    fn the_table_marks_the_kernel_that_open_takes_and_says_why_not_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let boot = dir.path().join("b");
        let image = dir.path().join("i");
        fs::create_dir(&boot).unwrap();
        fs::create_dir(&image).unwrap();
        fs::write(image.join("vmlinuz-5.9"), "text").unwrap();
        fs::write(
            boot.join("vmlinuz-6.1.0-test"),
            bzimage(b"\x02\x21\x4c\x18 and more"),
        )
        .unwrap();
        fs::write(boot.join("vmlinuz-6.2"), vmlinux()).unwrap();
        let host = Search {
            boot,
            release: "6.1.0-test".into(),
            ..Search::default()
        };
        let table = render(&list(&host, Some(&image)));
        let table = table.replace(dir.path().to_str().unwrap(), "");
        let want = "  \
  RELEASE     FORMAT       SIZE    FILE
  5.9         -            4 B     /i/vmlinuz-5.9         not an x86-64 Linux kernel but something else (no HdrS at 0x202, no ELF header)
* 6.1.0-test  bzImage lz4  1104 B  /b/vmlinuz-6.1.0-test  used: the host's running kernel
  6.2         vmlinux      5120 B  /b/vmlinuz-6.2
";
        assert_eq!(table, want, "{table}");
    }

    #[test]
    fn without_any_kernel_the_table_is_a_remedy() {
        let host = Search {
            boot: "/nowhere".into(),
            ..Search::default()
        };
        let text = render(&list(&host, None));
        assert!(
            text.starts_with("no kernel found\n\nsudo apt install"),
            "{text}"
        );
    }

    #[test]
    fn an_unreadable_running_kernel_gets_its_remedy_even_when_another_can_be_used() {
        let of = |name: &str, origin| KernelFile::of(PathBuf::from(name), origin);
        let list = [
            KernelFile {
                problem: Some(FileError::Unreadable),
                ..of("/boot/vmlinuz-2", Origin::Running)
            },
            KernelFile {
                chosen: true,
                ..of("/boot/vmlinuz-1", Origin::Newest)
            },
        ];
        let text = render(&list);
        assert!(
            text.contains("/boot/vmlinuz-2  permission denied\n"),
            "{text}"
        );
        assert!(
            text.contains("\n/boot/vmlinuz-2: sudo chmod a+r /boot/vmlinuz-2,"),
            "{text}"
        );
    }

    #[test]
    fn a_named_kernel_that_is_missing_is_shown_and_nothing_is_chosen() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("vmlinuz-1"), vmlinux()).unwrap();
        let host = Search {
            kernel: Some("/no/such".into()),
            boot: dir.path().into(),
            ..Search::default()
        };
        let list = list(&host, None);
        assert_eq!(list.len(), 2);
        assert!(matches!(list[0].problem, Some(FileError::Missing)));
        assert!(!list[1].chosen);
    }
}
