//! How long commands take from exec to exit, and where in a run of rdvm's that goes, by the timeline of its report.
//!
//!     timeline ROUNDS PLAN
//!
//! PLAN has a line for each row: engine, kernel, image, and the words of a command, with tabs between; the word REPORT
//! stands for a file that its report goes to. The commands take turns, after one round that is not counted; of 0 rounds
//! that one is, which is enough where time is a count of instructions, and the first command warms up alone. Prints a line
//! for each phase of each row: engine, kernel, image, phase, and the median of its milliseconds; a command without a
//! report has one phase. What each run took goes to standard error as it ends.

use std::error::Error;
use std::fs;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

/// What ends at each moment of the timeline, in the order of the moments (docs/report.md). What is missing is part of the
/// next: QEMU does not tell of a first exit, and not every kernel of its unpacking.
const PHASES: [(&str, &str); 8] = [
    ("machine_start", "reading and packing"),
    ("guest_clock", "machine, early kernel"),
    ("unpack_begin", "kernel"),
    ("unpack_end", "unpacking"),
    ("rdinit", "rest of the kernel"),
    ("command", "PID 1"),
    ("command_end", "command"),
    ("end", "stopping"),
];

/// The process before its main function and after its last.
const OUTSIDE: &str = "exec and exit";
const WHOLE: &str = "whole run";

type Result<T> = std::result::Result<T, Box<dyn Error>>;

struct Row {
    labels: String,
    command: Vec<String>,
    /// Of each phase the milliseconds of each round.
    phases: Vec<(&'static str, Vec<f64>)>,
}

fn main() -> ExitCode {
    match rows() {
        Ok(rows) => {
            for Row { labels, phases, .. } in rows {
                for (phase, mut times) in phases {
                    times.sort_by(f64::total_cmp);
                    println!("{labels}\t{phase}\t{:.3}", times[times.len() / 2]);
                }
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("timeline: {error}");
            ExitCode::FAILURE
        }
    }
}

fn rows() -> Result<Vec<Row>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [rounds, plan] = &words[..] else {
        return Err("usage: timeline ROUNDS PLAN".into());
    };
    let mut rows = Vec::new();
    for line in fs::read_to_string(plan)?.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [engine, kernel, image, command @ ..] = &fields[..] else {
            return Err(format!("{line}: no labels").into());
        };
        rows.push(Row {
            labels: [*engine, kernel, image].join("\t"),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            phases: Vec::new(),
        });
    }
    let rounds: u32 = rounds.parse()?;
    if let (0, Some(first)) = (rounds, rows.first()) {
        run(&first.command)?;
    }
    for round in 0..=rounds {
        for row in &mut rows {
            let times = run_until_it_ends(&row.command)
                .map_err(|error| format!("{}: {error}", row.command.join(" ")))?;
            let whole: f64 = times.iter().map(|(_, time)| time).sum();
            eprintln!(
                "timeline: {}: {whole:.1} ms",
                row.labels.replace('\t', ", ")
            );
            if round > 0 || rounds == 0 {
                row.add(&times);
            }
        }
    }
    Ok(rows)
}

impl Row {
    fn add(&mut self, times: &[(&'static str, f64)]) {
        for (phase, time) in times {
            match self.phases.iter_mut().find(|(name, _)| name == phase) {
                Some((_, all)) => all.push(*time),
                None => self.phases.push((phase, vec![*time])),
            }
        }
    }
}

/// As [`run`], and once more when the command's own deadline ended it, three times at most: in the rig a machine now and
/// then spins for ever (docs/testing.md), and one that does says nothing of the others.
fn run_until_it_ends(command: &[String]) -> Result<Vec<(&'static str, f64)>> {
    let mut times = run(command);
    for _ in 0..3 {
        let Err(error) = &times else { break };
        if !error.to_string().starts_with("exit status: 124") {
            break;
        }
        eprintln!("timeline: {}: {error}; once more", command.join(" "));
        times = run(command);
    }
    times
}

/// Runs a command; the phases that it went through.
fn run(command: &[String]) -> Result<Vec<(&'static str, f64)>> {
    let report = std::env::temp_dir().join(format!("timeline.{}", std::process::id()));
    let shown = report.display().to_string();
    let word = |word: &String| {
        if word == "REPORT" {
            shown.clone()
        } else {
            word.clone()
        }
    };
    let words: Vec<String> = command.iter().map(word).collect();
    let start = Instant::now();
    let output = Command::new(words.first().ok_or("no command")?)
        .args(&words[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .output()?;
    let whole = start.elapsed().as_secs_f64() * 1e3;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{}: {}", output.status, said.trim()).into());
    }
    if !command.iter().any(|word| word == "REPORT") {
        return Ok(vec![(WHOLE, whole)]);
    }
    let text = fs::read_to_string(&report)?;
    fs::remove_file(&report)?;
    phases(&text, whole)
}

fn phases(report: &str, whole: f64) -> Result<Vec<(&'static str, f64)>> {
    let timeline = report
        .split_once("\"timeline\"")
        .ok_or("the report has no timeline")?
        .1;
    let timeline = timeline.split_once('}').ok_or("the timeline has no end")?.0;
    let (mut phases, mut from) = (Vec::new(), 0.0);
    for (moment, phase) in PHASES {
        let behind = timeline.split_once(&format!("\"{moment}\":"));
        let Some((_, behind)) = behind else { continue };
        let digits = behind
            .trim_start()
            .split([',', '\n', ' '])
            .next()
            .unwrap_or("");
        let at: f64 = digits
            .parse()
            .map_err(|_| format!("{moment}: {digits} is no number"))?;
        phases.push((phase, (at - from).max(0.0)));
        from = from.max(at);
    }
    match phases.is_empty() {
        true => Err("the timeline is empty".into()),
        false => {
            phases.push((OUTSIDE, (whole - from).max(0.0)));
            Ok(phases)
        }
    }
}
