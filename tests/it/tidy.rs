//! The rules of the code, as tests: unsafe in named files, documents that are true.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The files that may hold `unsafe`.
const UNSAFE: &[&str] = &[
    "crates/confine/src/attack.rs",
    "crates/confine/src/sys.rs",
    "crates/proxy/src/descriptors.rs",
    "crates/vmm/src/kvm/ram.rs",
    "crates/vmm/src/kvm/teardown.rs",
    "crates/vmm/src/kvm/vcpu.rs",
    "crates/vmm/src/qemu/child.rs",
    "crates/vmm/src/qemu/tsc.rs",
    "crates/vmm/src/stop_signals/handlers.rs",
    "rdinit/src/sys.rs",
    "rdinit/src/sys/shared.rs",
    "rdinit/src/main.rs",
    "src/oci/namespaces.rs",
];

fn sources() -> Vec<(PathBuf, String)> {
    fn walk(dir: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    let mut found = Vec::new();
    for root in ["src", "crates", "rdinit/src"] {
        walk(Path::new(root), &mut found);
    }
    found
}

/// The part before the unit tests.
fn code(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap()
}

#[test]
fn unsafe_stands_in_the_files_named_for_it_with_an_argument() {
    for (path, text) in sources() {
        let named = UNSAFE.iter().any(|name| path == Path::new(name));
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let code = line.split("//").next().unwrap();
            if !(code.contains("unsafe {")
                || code.contains("unsafe fn")
                || code.contains("unsafe impl"))
            {
                continue;
            }
            assert!(
                named,
                "{}:{}: unsafe outside of {UNSAFE:?}",
                path.display(),
                at + 1
            );
            let above = &lines[at.saturating_sub(8)..at];
            let argued = above
                .iter()
                .any(|line| line.contains("SAFETY:") || line.contains("# Safety"));
            assert!(
                argued,
                "{}:{}: unsafe without an argument",
                path.display(),
                at + 1
            );
        }
    }
}

#[test]
fn files_are_short_and_say_what_they_are() {
    for (path, text) in sources() {
        assert!(
            text.starts_with("//! "),
            "{}: the first line says what the file is",
            path.display()
        );
        let lines = match path.ends_with("tests.rs") || path.ends_with("samples.rs") {
            true => 0,
            false => code(&text).lines().count(),
        };
        assert!(
            lines <= 420,
            "{}: {lines} lines before the tests; is it still one noun?",
            path.display()
        );
    }
}

/// The most public items of the crates, and of the root package, whose hidden modules its program uses. The frames and streams of
/// the network, which both ends use, are 29 of them, and the proxy 19; the OCI runtime and its command line are 54 of the package's;
/// images by name are 41 of the crates', and 21 of the package's;
/// confinement is 27 and 4.
const CRATES: usize = 679;
const ROOT: usize = 317;

/// Counts the lines before the unit tests that begin with `pub` and an item; fields are not items, and what is `pub(crate)`
/// is no interface. What only tests are made of does not count.
#[test]
fn public_items_do_not_become_more() {
    const ITEMS: &[&str] = &[
        "const ", "enum ", "fn ", "mod ", "static ", "struct ", "trait ", "type ", "use ",
    ];
    let is_item = |line: &&str| {
        let rest = line.trim_start().strip_prefix("pub ");
        rest.is_some_and(|rest| ITEMS.iter().any(|item| rest.starts_with(item)))
    };
    let made_for_tests = ["tests", "tests.rs", "samples.rs", "fuzzing.rs"];
    let counted = |root: &str| -> usize {
        let files = sources().into_iter().filter(|(path, _)| {
            path.starts_with(root)
                && !path
                    .iter()
                    .any(|name| made_for_tests.iter().any(|made| name == *made))
        });
        files
            .map(|(_, text)| {
                let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
                code.lines().filter(is_item).count()
            })
            .sum()
    };
    let counts = (counted("crates"), counted("src"));
    assert!(counts.0 <= CRATES && counts.1 <= ROOT, "{counts:?}");
}

/// The crates below do not know what the program calls its options; `src/way_out.rs` does.
#[test]
fn messages_of_the_crates_have_no_word_of_the_command_line() {
    const WORDS: &[&str] = &[
        "--console",
        "--copy-",
        "--cpus",
        "--engine",
        "--fakeroot",
        "--max-",
        "--owner",
        "--share",
        "--tag",
        "--user",
        "(-k)",
        "with -m",
        "rdvm doctor",
        "rdvm inspect",
        "rdvm run",
    ];
    let crates = [
        "hostfs", "image", "initrd", "proto", "proxy", "registry", "vmm",
    ];
    for (path, text) in sources() {
        let is_crates = |name: &&str| path.starts_with(Path::new("crates").join(name));
        if !crates.iter().any(is_crates) || path.iter().any(|name| name == "tests") {
            continue;
        }
        let lines = code(&text)
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        for line in lines {
            let word = WORDS.iter().find(|word| line.contains(*word));
            assert!(word.is_none(), "{}: {word:?} in {line}", path.display());
        }
    }
}

#[test]
fn exit_codes_in_the_readme_are_those_of_the_code() {
    use rdvm::report::{BY_SIGNAL, CANNOT_RUN, FAILED, NOT_FOUND, TIMED_OUT};
    let readme = fs::read_to_string("README.md").unwrap();
    for code in [TIMED_OUT, FAILED, CANNOT_RUN, NOT_FOUND] {
        assert!(
            readme.contains(&format!("| {code} |")),
            "{code} is not in the table"
        );
    }
    assert!(readme.contains(&format!("| {BY_SIGNAL}+n |")));
}

#[test]
fn the_changelog_has_this_version() {
    let changelog = fs::read_to_string("CHANGELOG.md").unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert!(
        changelog.contains("## Unreleased") || changelog.contains(&format!("## {version}")),
        "{version}"
    );
}

/// A reason stands behind the option, or in the comment above its block.
#[test]
fn every_option_of_the_small_kernel_has_its_reason() {
    let text = fs::read_to_string("kernels/rdvm.config").unwrap();
    let mut options = 0;
    for block in text.split("\n\n") {
        let is_reason = |line: &&str| line.starts_with("# ");
        let above = block.lines().take_while(is_reason).count() > 0;
        for line in block.lines().filter(|line| !line.starts_with('#')) {
            let (option, reason) = line.split_once('#').unwrap_or((line, ""));
            assert!(option.starts_with("CONFIG_"), "{line}");
            assert!(above || reason.trim().len() > 5, "{option} has no reason");
            options += 1;
        }
    }
    assert!(options > 50, "{options} options");
}

/// Skips are noted by tests/it/support/skips.rs alone, so that a run can count and list it.
#[test]
fn tests_leave_nothing_out_in_words_of_their_own() {
    let word = ["skip", "ped"].concat();
    for path in tracked_files() {
        let is_source = path.extension().is_some_and(|extension| extension == "rs");
        if !is_source || path.starts_with("benches") || path.ends_with("support/skips.rs") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for (at, line) in text.lines().enumerate() {
            let printed = ["eprintln!(\"", "println!(\""].map(|start| start.to_owned() + &word);
            let own = line.to_lowercase();
            assert!(
                !printed.iter().any(|start| own.contains(start.as_str())),
                "{}:{}: use support::missing or left_out",
                path.display(),
                at + 1
            );
        }
    }
}

/// Archives are those that apt or cargo have been told of on the machine.
#[test]
fn no_host_name_of_a_package_mirror_stands_in_the_tree() {
    // In pieces, since this file is looked at too.
    let hosts: Vec<String> = [
        ["deb", "debian.org"],
        ["ftp", "debian.org"],
        ["security", "debian.org"],
        ["snapshot", "debian.org"],
        ["archive", "debian.org"],
        ["httpredir", "debian.org"],
        ["archive", "ubuntu.com"],
        ["ports", "ubuntu.com"],
        ["security", "ubuntu.com"],
        ["index", "crates.io"],
        ["static", "crates.io"],
        ["static", "rust-lang.org"],
        ["files", "pythonhosted.org"],
        ["pypi", "org"],
        ["registry", "npmjs.org"],
        ["proxy", "golang.org"],
        ["cdn", "kernel.org"],
        ["mirrors", "kernel.org"],
        ["registry-1", "docker.io"],
    ]
    .map(|parts| parts.join("."))
    .into();
    let files = tracked_files();
    assert!(files.len() > 100, "{} files", files.len());
    for path in files {
        // A fact of docker's protocol: what names without a registry mean. Nothing is fetched from there for rdvm itself.
        if path == Path::new("crates/registry/src/docker_hub.rs") {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&bytes).to_lowercase();
        for host in &hosts {
            assert!(
                !text.contains(host.as_str()),
                "{} names {host}; scripts/mirror.sh asks apt",
                path.display()
            );
        }
    }
}

/// The files of this checkout: those that git tracks or would, else all but what is built.
fn tracked_files() -> Vec<PathBuf> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let kind = entry.file_type().unwrap();
            let name = entry.file_name();
            if kind.is_dir() && name != "target" && name != ".git" {
                walk(&entry.path(), found);
            } else if kind.is_file() {
                found.push(entry.path().strip_prefix(".").unwrap().to_owned());
            }
        }
    }
    let git = std::process::Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .output();
    match git {
        Ok(output) if output.status.success() => {
            let names = String::from_utf8(output.stdout).unwrap();
            let paths = names.split('\0').map(PathBuf::from);
            paths
                .filter(|path| path.is_file() && !path.is_symlink())
                .collect()
        }
        _ => {
            let mut found = Vec::new();
            walk(Path::new("."), &mut found);
            found
        }
    }
}

#[test]
fn documents_name_files_that_exist() {
    for document in [
        "README.md",
        "CONTRIBUTING.md",
        "docs/architecture.md",
        "docs/decisions.md",
    ] {
        let text = fs::read_to_string(document).unwrap();
        for word in text.split(|c: char| c.is_whitespace() || "`()[],;".contains(c)) {
            let word = word.trim_end_matches(['.', ':']);
            let is_path = [
                "src/",
                "rdinit/src/",
                "tests/",
                "benches/",
                "scripts/",
                "docs/",
                "kernels/",
            ];
            if is_path.iter().any(|start| word.starts_with(start)) && !word.contains('*') {
                assert!(
                    Path::new(word).exists(),
                    "{document} names {word}, which is not there"
                );
            }
        }
    }
}

/// The paragraph of docs/architecture.md that begins like this, as one line.
fn architecture(start: &str) -> String {
    let text = fs::read_to_string("docs/architecture.md").unwrap();
    let paragraph = text.split("\n\n").find(|part| part.starts_with(start));
    let paragraph = paragraph.unwrap_or_else(|| panic!("no paragraph begins with {start:?}"));
    paragraph.replace('\n', " ")
}

/// The source files that a text names in backticks.
fn named_sources(text: &str) -> BTreeSet<&str> {
    let words = text.split('`').skip(1).step_by(2);
    words
        .filter(|word| word.ends_with(".rs") && word.contains("src/"))
        .collect()
}

#[test]
fn the_architecture_lists_the_files_with_unsafe_code_and_counts_them() {
    let text = architecture("**Unsafe code**");
    let (list, _) = text.split_once("Everything else").unwrap();
    assert_eq!(named_sources(list), UNSAFE.iter().copied().collect());
    let words = [
        "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    ];
    let count = words[UNSAFE.len() - 4];
    assert!(list.contains(&format!(" is in {count} files: ")), "{list}");
}

#[test]
fn the_size_of_rdinit_in_the_documents_is_that_of_the_built_one() {
    let built = rdvm::payload::RDINIT.len() as f64 / 1000.0;
    for (document, before) in [
        ("README.md", "PID 1, a static program of "),
        ("docs/decisions.md", "without a libc into a static ELF of "),
        ("docs/decisions.md", "**rdinit has "),
    ] {
        let text = fs::read_to_string(document).unwrap().replace('\n', " ");
        let (_, after) = text.split_once(before).unwrap();
        let (number, _) = after.split_once(" KB").unwrap();
        let named: f64 = number.parse().unwrap();
        assert!(
            (named / built - 1.0).abs() < 0.1,
            "{document} says {named} KB, it has {built:.1}"
        );
    }
}

#[test]
fn documents_refer_to_documents_of_this_repository() {
    let mut texts = sources();
    for directory in [".", "docs", "kernels"] {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == "md") {
                let text = fs::read_to_string(&path).unwrap();
                texts.push((path, text));
            }
        }
    }
    let mut seen = 0;
    for (path, text) in &texts {
        let is_part = |c: char| c.is_alphanumeric() || "/._-".contains(c);
        for word in text.split(|c: char| !is_part(c)) {
            let word = word.trim_end_matches('.');
            if !word.ends_with(".md") || word == ".md" {
                continue;
            }
            let beside = path.parent().unwrap().join(word);
            assert!(
                beside.exists() || Path::new(word).exists(),
                "{} refers to {word}, which is not there",
                path.display()
            );
            seen += 1;
        }
    }
    assert!(seen > 20, "only {seen} references were found");
}

/// Phrases of a text that reads as if it were translated.
const ODD_PHRASES: [&str; 11] = [
    "for ever",
    "is none",
    "are none",
    "nobody",
    "somebody",
    "goes not",
    "of ours",
    "comes to",
    "the day something",
    "bluntly",
    "told nothing",
];

/// True if `text` has the phrase between other characters than letters. Quotations and code have their own words.
fn has_phrase(text: &str, phrase: &str) -> bool {
    text.match_indices(phrase).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let behind = text[at + phrase.len()..].chars().next();
        let is_letter =
            |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || "`_-".contains(c));
        !is_letter(before) && !is_letter(behind)
    })
}

#[test]
fn documents_and_help_are_written_in_plain_english() {
    use clap::CommandFactory;
    fn help(command: &clap::Command, texts: &mut Vec<(String, String)>) {
        let text = command.clone().render_long_help().to_string();
        texts.push((format!("{} --help", command.get_name()), text));
        let verbs = command.get_subcommands();
        verbs.for_each(|verb| help(verb, texts));
    }
    let mut texts = Vec::new();
    help(&rdvm::cli::Cli::command(), &mut texts);
    assert!(texts.len() > 10, "{} verbs", texts.len());
    let documents = fs::read_dir("docs").unwrap().flatten();
    let documents = documents.map(|entry| entry.path());
    for path in documents.chain([PathBuf::from("README.md")]) {
        if path.extension().is_some_and(|extension| extension == "md") {
            texts.push((
                path.display().to_string(),
                fs::read_to_string(path).unwrap(),
            ));
        }
    }
    for (name, text) in &texts {
        for (at, line) in text.lines().enumerate() {
            // The name of a user of every system, and of tests.
            let line = line
                .to_lowercase()
                .replace("-u nobody", "")
                .replace("::", "_");
            for phrase in ODD_PHRASES {
                assert!(!has_phrase(&line, phrase), "{name}:{}: {phrase:?}", at + 1);
            }
        }
    }
}

#[test]
fn doc_comments_begin_with_a_noun_or_a_verb() {
    for (path, text) in sources() {
        for (at, line) in text.lines().enumerate() {
            let line = line.trim_start();
            let start = ["/// ", "//! "]
                .iter()
                .find_map(|mark| line.strip_prefix(mark));
            let word = start.and_then(|text| text.split(' ').next());
            // Only the first line of a comment begins it.
            let begins = at == 0
                || !text
                    .lines()
                    .nth(at - 1)
                    .unwrap()
                    .trim_start()
                    .starts_with("//");
            let is_odd = |word| ["What", "Whether", "Who", "Nobody", "Somebody"].contains(&word);
            assert!(
                !(begins && word.is_some_and(is_odd)),
                "{}:{}",
                path.display(),
                at + 1
            );
        }
    }
}

/// The table of clauses in docs/oci.md names tests that there are.
#[test]
fn the_tests_of_the_specification_are_there() {
    let text = fs::read_to_string("docs/oci.md").unwrap();
    let mut named = 0;
    for name in text
        .split('`')
        .filter(|name| name.contains("::") && !name.contains(' '))
    {
        let (file, test) = name.split_once("::").unwrap();
        let source = fs::read_to_string(format!("tests/it/oci/{file}.rs")).unwrap_or_default();
        assert!(source.contains(&format!("fn {test}()")), "{name}");
        named += 1;
    }
    assert!(named > 30, "{named}");
}
