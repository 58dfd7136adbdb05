//! The kernel command line from typed parts. Its length and characters are checked here, since a kernel cuts a long
//! one short without a word.

/// `COMMAND_LINE_SIZE` of x86 is 2048 with its NUL (`arch/x86/include/asm/setup.h`).
pub(crate) const LENGTH_LIMIT: usize = 2047;

/// Every guest: three ports with their interrupts, end instead of hang on a panic, reset by triple fault, which needs
/// no device; tests of ciphers that nobody here uses left out; entropy from the CPU, which is all there is. What guards
/// the kernel against its own programs is left out, since both belong to one command (`mitigations=off`), and so is the
/// splitting of its page tables to write-protect it (`rodata=off`: 1.2 million instructions of the small kernel's 42,
/// 4 to 8 of Debian's 408). docs/decisions.md has the words that gain nothing.
const ALWAYS: &str = "console=ttyS0 8250.nr_uarts=4 panic=-1 reboot=t cryptomgr.notests random.trust_cpu=on \
                      mitigations=off rodata=off";

/// Only the words of a dying kernel reach the console (`pr_emerg`): after the start it is the command's stderr.
const SILENT: &str = "quiet loglevel=1";
const TALKATIVE: &str = "loglevel=7";

/// The file system that the image is unpacked into: one with limits, which PID 1 sets. The other choice, a ramfs, has none.
const ROOT: &str = "rootfstype=tmpfs";

/// The parts of the command line.
#[derive(Debug, Clone)]
pub(crate) struct Parts<'a> {
    /// Path of PID 1 in the guest.
    pub(crate) init: &'a str,
    /// True if the kernel prints its messages.
    pub(crate) show_boot: bool,
    /// The words that the engine's machine needs.
    pub(crate) engine: &'a str,
    /// The user's own words; they come last, so they win.
    pub(crate) append: Option<&'a str>,
}

/// A kernel command line that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Longer than kernels take.
    #[error("--append: the kernel command line would have {length} bytes and kernels cut it at {LENGTH_LIMIT}; shorten it by {}", length - LENGTH_LIMIT)]
    TooLong {
        /// Its length.
        length: usize,
    },
    /// A character that does not belong there.
    #[error(
        "--append: character {character:?} cannot stand in a kernel command line; use printable ASCII"
    )]
    Character {
        /// The character.
        character: char,
    },
    /// ` -- ` would hand the rest to PID 1 as arguments.
    #[error("--append: \"--\" would end the kernel's options; leave it out")]
    EndOfOptions,
    /// A word that decides how the machine starts or is listened to.
    #[error("--append: {word} is set by rdvm; {way_out}")]
    Owned {
        /// Its name, with the equals sign where it has a value.
        word: &'static str,
        /// The way out.
        way_out: &'static str,
    },
}

/// The options that rdvm sets itself: with another value the kernel does not find PID 1, and waits or panics, or kernel
/// messages mix with the command's output. Each with the beginning of its value, and the way out.
const OWNED: [(&str, &str, &str); 6] = [
    ("rdinit=", "", "--rdinit FILE starts a PID 1 of your own"),
    ("init=", "", "--rdinit FILE starts a PID 1 of your own"),
    (
        "rootfstype=",
        "",
        "leave it out, the image is unpacked into memory",
    ),
    ("8250.nr_uarts=", "", "leave it out, all ports are in use"),
    (
        "console=",
        "ttyS1",
        "leave it out, that port is standard output",
    ),
    (
        "console=",
        "ttyS2",
        "leave it out, that port is the exit status",
    ),
];

/// Refuses words that would keep the machine from starting or garble its output.
fn check(append: &str) -> Result<(), Error> {
    if let Some(character) = append.chars().find(|c| !(' '..='~').contains(c)) {
        return Err(Error::Character { character });
    }
    // The kernel drops quotes around a word, or around its value, and takes a dash for an underscore (lib/cmdline.c).
    let unquoted = append.replace('"', "");
    for word in unquoted.split(' ') {
        if word == "--" {
            return Err(Error::EndOfOptions);
        }
        let end = word.find('=').map_or(word.len(), |at| at + 1);
        let (name, value) = (word[..end].replace('-', "_"), &word[end..]);
        let is_owned = |owned: &&(&str, &str, &str)| name == owned.0 && value.starts_with(owned.1);
        if let Some(&(word, _, way_out)) = OWNED.iter().find(is_owned) {
            return Err(Error::Owned { word, way_out });
        }
    }
    Ok(())
}

/// The command line.
///
/// Errors: [`Error`], before anything is booted.
pub(crate) fn build(parts: &Parts<'_>) -> Result<String, Error> {
    let voice = if parts.show_boot { TALKATIVE } else { SILENT };
    let init = format!("rdinit={}", parts.init);
    let append = parts.append.unwrap_or_default();
    check(append)?;
    let words = [ALWAYS, voice, ROOT, &init, parts.engine, append];
    let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
    let line = words.join(" ");
    match line.len() {
        length if length > LENGTH_LIMIT => Err(Error::TooLong { length }),
        _ => Ok(line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_append(append: &str) -> Result<String, Error> {
        let engine = "pci=off";
        build(&Parts {
            init: "/.rdvm",
            show_boot: false,
            engine,
            append: Some(append),
        })
    }

    #[test]
    fn the_users_words_come_last_and_the_kernel_is_quiet() {
        let line = with_append("a=b").unwrap();
        assert!(
            line.ends_with(" rootfstype=tmpfs rdinit=/.rdvm pci=off a=b"),
            "{line}"
        );
        assert!(line.contains(" mitigations=off rodata=off quiet loglevel=1 "));
    }

    #[test]
    fn a_line_is_refused_from_the_byte_on_that_kernels_cut() {
        let base = with_append("").unwrap().len() + 1;
        let fits = "x".repeat(LENGTH_LIMIT - base);
        assert_eq!(with_append(&fits).unwrap().len(), LENGTH_LIMIT);
        assert_eq!(
            with_append(&format!("{fits}x")),
            Err(Error::TooLong {
                length: LENGTH_LIMIT + 1
            })
        );
    }

    #[test]
    fn characters_that_would_change_its_meaning_are_refused() {
        assert_eq!(
            with_append("a\nb"),
            Err(Error::Character { character: '\n' })
        );
        assert_eq!(with_append("ü"), Err(Error::Character { character: 'ü' }));
        assert_eq!(with_append("a -- b"), Err(Error::EndOfOptions));
        assert_eq!(with_append("a \"--\" b"), Err(Error::EndOfOptions));
    }

    #[test]
    fn words_that_decide_how_the_machine_starts_are_refused_by_name() {
        for append in [
            "a=b rdinit=/x",
            "init=/bin/sh",
            "\"rdinit=/x\"",
            "rdinit=\"/x y\"",
            "rootfstype=ramfs",
            "8250.nr-uarts=1",
            "console=ttyS1,115200",
        ] {
            let error = with_append(append).expect_err(append);
            assert!(matches!(error, Error::Owned { .. }), "{append}: {error}");
        }
        for append in [
            "myinit=/x",
            "rdinit",
            "console=ttyS0,115200",
            "root=/dev/nothing",
            "rootflags=size=1g",
            "loglevel=7",
        ] {
            assert!(with_append(append).is_ok(), "{append}");
        }
    }
}
