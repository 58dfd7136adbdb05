//! The number of files that a running kernel build has compiled, from the lines that it writes: `  CC      init/main.o`.

/// The mark that kbuild (`scripts/Makefile.build`) writes before each object that is made from a source file for the kernel
/// itself. Its own programs (`HOSTCC`) are a few dozen and not counted.
const MARKS: [&[u8]; 2] = [b"  CC  ", b"  AS  "];
const MARK_LENGTH: usize = 6;

/// The number with Linux 6.1 and our options. Other releases have some more or less, hence "about".
const ABOUT: u64 = 1200;

/// A count, and the beginning of the line that is being written.
#[derive(Debug, Default)]
pub(super) struct Compiled {
    files: u64,
    begin: [u8; MARK_LENGTH],
    length: usize,
    told: u64,
}

impl Compiled {
    /// Counts what is in the next part of the output; returns how many files are new.
    pub(super) fn read(&mut self, output: &[u8]) -> u64 {
        let before = self.files;
        for &byte in output {
            if byte == b'\n' {
                self.length = 0;
            } else if self.length < MARK_LENGTH {
                self.begin[self.length] = byte;
                self.length += 1;
                self.files += u64::from(MARKS.contains(&&self.begin[..self.length]));
            }
        }
        self.files - before
    }

    /// The files so far.
    pub(super) fn files(&self) -> u64 {
        self.files
    }

    /// The files in the end, about.
    pub(super) fn about() -> u64 {
        ABOUT
    }

    /// A line each time that another tenth is done.
    pub(super) fn tenth(&mut self) -> Option<String> {
        // More than expected is still not all.
        let percent = (self.files * 100 / ABOUT).min(99);
        let is_new = percent / 10 > self.told;
        self.told = percent / 10;
        let files = self.files;
        is_new.then(|| format!("compiled {files} of about {ABOUT} files, {percent} %"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "  HOSTCC  scripts/x.o\n  CC      init/main.o\nwarning:   CC  \n\n  AS      a.o\n  AR      b.a\n  CC      c";

    #[test]
    fn objects_are_counted_however_the_output_is_cut() {
        for at in 0..OUTPUT.len() {
            let mut compiled = Compiled::default();
            let (one, two) = OUTPUT.as_bytes().split_at(at);
            assert_eq!(compiled.read(one) + compiled.read(two), 3, "cut at {at}");
            assert_eq!(compiled.files(), 3);
        }
    }

    #[test]
    fn each_tenth_is_told_once_and_all_is_never_claimed() {
        let mut compiled = Compiled::default();
        let mut lines = Vec::new();
        for _ in 0..2 * ABOUT {
            compiled.read(b"  CC      a.o\n");
            lines.extend(compiled.tenth());
        }
        assert_eq!(lines.len(), 9, "{lines:?}");
        assert!(lines[0].ends_with(" files, 10 %"), "{lines:?}");
        assert!(lines[8].ends_with(" files, 90 %"), "{lines:?}");
    }
}
