//! Counted figures against the committed ones: what has grown by more than a twentieth fails the check.
//!
//! Both tables have a row for each figure and a column for each case, as benches/counts.rs prints them.

use std::fmt::Write as _;

use super::{Error, Table};

/// The factor by which a figure may grow.
const LIMIT: f64 = 1.05;
/// The same when kernel, QEMU or compiler are not those of the committed figures: their costs are not ours.
const OTHERS: f64 = 1.10;
/// Of a small count one more is many percent.
const FEW: f64 = 3.0;
/// Ticks of the outer kernel, by which it waits when it takes a machine of KVM's apart: two, of 4 ms.
const TICKS: f64 = 8.0;

/// The result of a comparison.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// A line for each figure: case, figure, committed, measured, percent.
    pub(crate) text: String,
    /// The number of figures that have grown, are missing or are new.
    pub(crate) bad: usize,
    /// The number of those that are better by more than the limit.
    pub(crate) better: usize,
}

/// Compares what was measured with what is committed.
///
/// # Errors
///
/// A field of either holds no number.
pub(crate) fn compare(committed: &Table, measured: &Table) -> Result<Verdict, Error> {
    let with = |table: &Table| {
        let line = table.about.iter().find(|(key, _)| key == "with");
        line.map_or(String::new(), |(_, value)| value.clone())
    };
    let (was, is) = (with(committed), with(measured));
    let same = was == is;
    let limit = if same { LIMIT } else { OTHERS };
    let mut verdict = Verdict {
        text: String::new(),
        bad: 0,
        better: 0,
    };
    if !same {
        let _ = writeln!(
            verdict.text,
            "other versions, so {:.0} % are let pass\n  committed: {was}\n  here: {is}",
            (OTHERS - 1.0) * 100.0
        );
    }
    let cases = committed.columns[1..].iter().chain(
        measured.columns[1..]
            .iter()
            .filter(|case| !committed.columns.contains(case)),
    );
    for case in cases {
        let figures = committed
            .rows
            .iter()
            .chain(&measured.rows)
            .map(|row| &row[0]);
        let mut seen: Vec<&String> = Vec::new();
        for figure in figures {
            if !seen.contains(&figure) {
                seen.push(figure);
                verdict.add(
                    case,
                    figure,
                    field(committed, case, figure)?,
                    field(measured, case, figure)?,
                    limit,
                );
            }
        }
    }
    Ok(verdict)
}

/// The number in a field; none where row, column or number are missing.
fn field(table: &Table, case: &str, figure: &str) -> Result<Option<f64>, Error> {
    let Ok(column) = table.column(case) else {
        return Ok(None);
    };
    match table.rows.iter().find(|row| row[0] == figure) {
        Some(row) if row[column] != "-" => table.number(row, case).map(Some),
        _ => Ok(None),
    }
}

impl Verdict {
    fn add(&mut self, case: &str, figure: &str, was: Option<f64>, is: Option<f64>, limit: f64) {
        let slack = match figure {
            "ms to the end" => TICKS,
            figure if figure.starts_with("ms ") => 0.0,
            _ => FEW,
        };
        let numbers =
            |was: &str, is: &str| format!("{case:<24} {figure:<30} {was:>12} -> {is:>12}");
        let shown = |value: f64| {
            if value.fract() == 0.0 {
                format!("{value:.0}")
            } else {
                format!("{value:.3}")
            }
        };
        let line = match (was, is) {
            (None, None) => return,
            (Some(was), None) => {
                self.bad += 1;
                numbers(&shown(was), "?")
                    + "  NOT MEASURED: is the small kernel there (make kernel)?"
            }
            (None, Some(is)) => {
                self.bad += 1;
                numbers("?", &shown(is)) + "  NOT COMMITTED: make check-speed-accept"
            }
            // Whoever counts has failed to, and must not be taken for an improvement.
            (Some(was), Some(0.0)) if was > FEW => {
                self.bad += 1;
                numbers(&shown(was), "0") + "  NOTHING COUNTED"
            }
            (Some(was), Some(is)) => {
                let percent = if was == is {
                    0.0
                } else {
                    (is / was - 1.0) * 100.0
                };
                let judged = if is > was * limit + slack {
                    self.bad += 1;
                    "  WORSE"
                } else if is * limit + slack < was {
                    self.better += 1;
                    "  BETTER"
                } else {
                    ""
                };
                format!(
                    "{} {percent:>+8.1} %{judged}",
                    numbers(&shown(was), &shown(is))
                )
            }
        };
        self.text += &line;
        self.text += "\n";
    }
}
