//! What starting machines on KVM costs in things that can be counted: instructions, exits, system calls, bytes that these
//! carry, page faults, pieces of heap. Runs in the rig; `cargo xtask rig check` builds and calls it.
//!
//!     counts LIBC MALLOC CALLOC REALLOC ALIGNED
//!
//! LIBC is the C library that rdvm is linked with, the others where in that file its functions for the heap begin, as
//! hexadecimal numbers. Files are where xtask/src/rig/measured.rs puts them, below /bench. The outer machine's kernel does the
//! counting: histograms of its tracepoints, and probes on the functions. Nothing is counted in the run that is timed.
//!
//! Prints a table: a row for each figure, a column for each case, with tabs between, `-` where a case has no such figure.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

#[allow(dead_code, reason = "the other program's own half")]
#[path = "boot.rs"]
mod boot;

const TRACING: &str = "/sys/kernel/tracing";

/// Guest RAM of the machines, MiB: fixed, since it is no matter of speed what is planned.
const RAM: u32 = boot::RAM;

/// Numbers of the system calls whose result is a number of bytes, x86-64: read, write, pread64, pwrite64, readv, writev,
/// sendfile, sendto, recvfrom, splice, tee, vmsplice, preadv, pwritev, copy_file_range.
const CARRY: [u64; 15] = [
    0, 1, 17, 18, 19, 20, 40, 44, 45, 275, 276, 278, 295, 296, 326,
];

/// Exit codes of AMD's SVM (its manual, volume 2, appendix C) that have a row of their own.
const EXITS: [(&str, &[u64]); 5] = [
    ("exits: ports", &[0x7b]),
    ("exits: nested page faults", &[0x400]),
    ("exits: interrupts of the host", &[0x60]),
    ("exits: CPUID and MSRs", &[0x72, 0x7c]),
    ("exits: HLT", &[0x78]),
];

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A command and what it prints.
struct Case {
    name: &'static str,
    command: Vec<String>,
    prints: Prints,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Prints {
    Nothing,
    /// A line, when the machine has all the memory that it will have.
    Line,
    /// The marks of benches/guest.c.
    Marks,
}

/// A row of the table in the making: figure, and value.
type Figures = Vec<(String, String)>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match counted(&arguments) {
        Ok(table) => {
            print!("{table}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("counts: {error}");
            ExitCode::FAILURE
        }
    }
}

fn counted(arguments: &[String]) -> Result<String> {
    let [libc, functions @ ..] = arguments else {
        return Err("usage: counts LIBC MALLOC CALLOC REALLOC ALIGNED".into());
    };
    let histograms = Histograms::new(libc, functions)?;
    let mut columns = Vec::new();
    for case in cases() {
        let figures =
            figures(&case, &histograms).map_err(|error| format!("{}: {error}", case.name))?;
        columns.push((case.name, figures));
    }
    Ok(table(&columns))
}

fn cases() -> Vec<Case> {
    let hello = |name, kernel: &str| Case {
        name,
        command: (boot::ours(name, kernel, "/bench/guest", "/bench/dir").command)(0),
        prints: Prints::Marks,
    };
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
    let mut cases = Vec::new();
    if Path::new(SMALL).exists() {
        cases.push(hello("hello, small kernel", SMALL));
        cases.push(Case {
            name: "true, small kernel",
            command: words(&format!(
                "rdvm run -q --engine kvm -m {RAM}m -k {SMALL} /bench/libs busybox true"
            )),
            prints: Prints::Nothing,
        });
        cases.push(Case {
            name: "hello in C, planned RAM",
            command: words(&format!(
                "rdvm run -q --engine kvm -k {SMALL} /bench/hello /hello"
            )),
            prints: Prints::Line,
        });
    }
    cases.push(hello("hello, Debian's kernel", "/bench/debian"));
    cases.push(Case {
        name: "pack 2,000 files",
        command: words("rdvm pack -o /tmp/packed.cpio /bench/many"),
        prints: Prints::Nothing,
    });
    cases
}

const SMALL: &str = "/cache/kernel/vmlinux";

/// Runs a case three times: to warm up, counted, and timed.
fn figures(case: &Case, histograms: &Histograms) -> Result<Figures> {
    run(&case.command)?;
    histograms.start()?;
    run(&case.command)?;
    let mut figures = histograms.stop()?;
    if case.prints == Prints::Line {
        figures.push(("peak memory, KiB".to_owned(), peak(&case.command)?.to_string()));
    }
    if case.prints == Prints::Marks {
        let times = boot::run(&case.command)?;
        for (figure, time) in [
            ("ms to user space", times.user_space),
            ("ms to the end", times.end),
        ] {
            figures.push((
                figure.to_owned(),
                format!("{:.3}", time.as_secs_f64() * 1e3),
            ));
        }
    } else {
        let start = Instant::now();
        run(&case.command)?;
        let time = start.elapsed().as_secs_f64() * 1e3;
        let figure = if case.name.starts_with("pack") {
            "ms in all"
        } else {
            "ms to the end"
        };
        figures.push((figure.to_owned(), format!("{time:.3}")));
    }
    Ok(figures)
}

fn run(command: &[String]) -> Result<()> {
    let status = Command::new(&command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()?;
    match status.success() {
        true => Ok(()),
        false => Err(format!("{}: {status}", command.join(" ")).into()),
    }
}

/// The most memory that a command had by its first byte of output, in KiB: all that was touched, the guest's RAM too.
fn peak(command: &[String]) -> Result<u64> {
    let mut child = Command::new(&command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdout = child.stdout.take().ok_or("it is piped")?;
    stdout.read_exact(&mut [0])?;
    let status = fs::read_to_string(format!("/proc/{}/status", child.id()))?;
    std::io::copy(&mut stdout, &mut std::io::sink())?;
    child.wait()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.ok_or("it was gone already")?.parse()?)
}

/// What the kernel counts for us: the event and its histogram's keys and sum.
struct Histograms(Vec<(String, &'static str)>);

const EXIT: &str = "kvm/kvm_exit";
const CALL: &str = "raw_syscalls/sys_exit";
const FAULT: &str = "exceptions/page_fault_user";

impl Histograms {
    fn new(libc: &str, functions: &[String]) -> Result<Self> {
        if !Path::new(TRACING).join("events").exists() {
            run(&["mount", "-t", "tracefs", "tracefs", TRACING].map(str::to_owned))?;
        }
        let mut all = vec![
            (EXIT.to_owned(), "hist:keys=exit_reason:size=256"),
            (
                CALL.to_owned(),
                "hist:keys=common_pid,id:vals=ret:size=4096",
            ),
            (FAULT.to_owned(), "hist:keys=common_pid:size=4096"),
        ];
        // How many bytes are asked for, from the arguments' registers; of calloc the product cannot be had.
        let sizes = [
            ("malloc", "%di"),
            ("calloc", "%si"),
            ("realloc", "%si"),
            ("aligned", "%dx"),
        ];
        let mut probes = String::new();
        for ((name, size), at) in sizes.iter().zip(functions) {
            probes += &format!(
                "p:heap/{name} {libc}:0x{} size={size}:u64\n",
                at.trim_start_matches("0x")
            );
            all.push((
                format!("heap/{name}"),
                "hist:keys=common_pid:vals=size:size=4096",
            ));
        }
        for probe in probes.lines() {
            write(&format!("{TRACING}/uprobe_events"), probe, true)?;
        }
        Ok(Self(all))
    }

    fn start(&self) -> Result<()> {
        for (event, histogram) in &self.0 {
            write(
                &format!("{TRACING}/events/{event}/trigger"),
                histogram,
                false,
            )?;
        }
        Ok(())
    }

    /// Ends the counting and gives the figures.
    fn stop(&self) -> Result<Figures> {
        let mut found = BTreeMap::new();
        for (event, histogram) in &self.0 {
            let text = fs::read_to_string(format!("{TRACING}/events/{event}/hist"))?;
            write(
                &format!("{TRACING}/events/{event}/trigger"),
                &format!("!{histogram}"),
                false,
            )?;
            if !text.contains("Dropped: 0") {
                return Err(format!("the histogram of {event} has dropped something").into());
            }
            found.insert(event.as_str(), buckets(&text));
        }
        let exits = &found[EXIT];
        let mut figures = Vec::new();
        let mut put =
            |figure: &str, value: u64| figures.push((figure.to_owned(), value.to_string()));
        if !exits.is_empty() {
            put("exits", exits.iter().map(|bucket| bucket.hits).sum());
            let mut others = exits.iter().map(|bucket| bucket.hits).sum::<u64>();
            for (figure, codes) in EXITS {
                let of_kind = exits
                    .iter()
                    .filter(|bucket| codes.contains(&bucket.key("exit_reason")));
                let hits = of_kind.map(|bucket| bucket.hits).sum();
                others -= hits;
                put(figure, hits);
            }
            put("exits: others", others);
        }
        let calls = ours(&found[CALL]);
        put("system calls", calls.iter().map(|bucket| bucket.hits).sum());
        let carry = calls
            .iter()
            .filter(|bucket| CARRY.contains(&bucket.key("id")));
        // A failed call has a result of -1 to -4095, which is lost in the sum.
        put(
            "bytes read and written",
            carry
                .map(|bucket| bucket.sum("ret"))
                .fold(0, u64::wrapping_add),
        );
        put(
            "page faults",
            ours(&found[FAULT]).iter().map(|bucket| bucket.hits).sum(),
        );
        let heap = self
            .0
            .iter()
            .filter(|(event, _)| event.starts_with("heap/"));
        let heap: Vec<Bucket> = heap
            .flat_map(|(event, _)| ours(&found[event.as_str()]))
            .collect();
        put(
            "pieces of heap",
            heap.iter().map(|bucket| bucket.hits).sum(),
        );
        put(
            "bytes of heap",
            heap.iter().map(|bucket| bucket.sum("size")).sum(),
        );
        Ok(figures)
    }
}

fn write(path: &str, text: &str, append: bool) -> Result<()> {
    use std::io::Write;
    let file = fs::OpenOptions::new().write(true).append(append).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| format!("{path}: {error}").into())
}

/// Those of the processes that began after this one: rdvm's.
fn ours(buckets: &[Bucket]) -> Vec<Bucket> {
    let own = u64::from(std::process::id());
    let later = buckets
        .iter()
        .filter(|bucket| bucket.key("common_pid") > own);
    later.cloned().collect()
}

/// A line of a histogram, as `{ common_pid: 80, id: 1 } hitcount: 3 ret: 24`.
#[derive(Clone)]
struct Bucket {
    fields: BTreeMap<String, u64>,
    hits: u64,
}

impl Bucket {
    fn key(&self, name: &str) -> u64 {
        self.sum(name)
    }

    fn sum(&self, name: &str) -> u64 {
        self.fields.get(name).copied().unwrap_or(0)
    }
}

fn buckets(text: &str) -> Vec<Bucket> {
    let lines = text.lines().filter(|line| line.starts_with('{'));
    lines
        .map(|line| {
            let words: Vec<&str> = line
                .split([' ', '{', '}', ',', '[', ']'])
                .filter(|word| !word.is_empty())
                .collect();
            let fields = words.windows(2).filter_map(|pair| {
                let name = pair[0].strip_suffix(':')?;
                Some((name.to_owned(), number(pair[1])?))
            });
            let fields: BTreeMap<_, _> = fields.collect();
            let hits = fields.get("hitcount").copied().unwrap_or(0);
            Bucket { fields, hits }
        })
        .collect()
}

fn number(word: &str) -> Option<u64> {
    match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => word
            .parse()
            .ok()
            .or_else(|| word.parse::<i64>().ok().map(i64::cast_unsigned)),
    }
}

fn table(columns: &[(&str, Figures)]) -> String {
    let mut figures: Vec<&str> = Vec::new();
    for (figure, _) in columns.iter().flat_map(|(_, column)| column) {
        if !figures.contains(&figure.as_str()) {
            figures.push(figure);
        }
    }
    // What is timed stands first.
    figures.sort_by_key(|figure| !figure.starts_with("ms "));
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    let mut text = format!("figure\t{}\n", names.join("\t"));
    for figure in figures {
        text += figure;
        for (_, column) in columns {
            let value = column.iter().find(|(name, _)| name == figure);
            text += "\t";
            text += value.map_or("-", |(_, value)| value);
        }
        text += "\n";
    }
    text
}
