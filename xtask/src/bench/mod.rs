//! Measurements by the clock, side by side with what one would use instead; each leaves its tables in benches/results.

mod beside;
mod copies;
mod density;
mod images;
mod memory;
mod ports;
mod scale;

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::project::Project;

const USAGE: &str = "usage: cargo xtask bench VERB

  run [pack|run]          packing beside cpio, bsdcpio and tar; whole runs beside the cookbook's recipe: packing.tsv, runs.tsv
  timeline [phases|ports] where the time of a run in QEMU goes, and how fast bytes go in and out: timeline-qemu.tsv, ports-qemu.tsv
  scale                   packing and running over the number of files and over bytes: scale.tsv
  images [WORK]           reading archives beside skopeo, umoci, tar and cpio, as root: images.tsv
  copies                  files in and out, standard input, Ctrl-C: copies.tsv
  memory                  planned against least RAM by bisection, with both kernels: memory.tsv
  density                 many machines of one image: density.tsv, starts.tsv

Variables: IMAGES, RDVM and KERNEL name what is not below target and /boot; RUNS or ROUNDS, how often. The files say which
others there are.";

/// Runs the verb that the words name.
pub(crate) fn main(words: &[&str]) -> Result<ExitCode> {
    let project = Project::enter()?;
    match words {
        ["run"] => beside::both(&project)?,
        ["run", "pack"] => beside::packing(&project)?,
        ["run", "run"] => beside::runs(&project)?,
        ["timeline"] => {
            ports::phases(&project)?;
            ports::ports(&project)?;
        }
        ["timeline", "phases"] => ports::phases(&project)?,
        ["timeline", "ports"] => ports::ports(&project)?,
        ["scale"] => scale::measure(project)?,
        ["images"] => images::measure(&project, &project.top.join("target/bench-images"))?,
        ["images", work] => images::measure(&project, &project.top.join(work))?,
        ["copies"] => copies::measure(&project)?,
        ["memory"] => return memory::measure(&project),
        ["density"] => density::measure(&project)?,
        _ => bail!("{USAGE}"),
    }
    Ok(ExitCode::SUCCESS)
}

/// The middle of some numbers, or between the two middle ones.
fn median(numbers: impl IntoIterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = numbers.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        count => (sorted[(count - 1) / 2] + sorted[count / 2]) / 2.0,
    }
}

/// The least of each figure, in the order in which they came first.
#[derive(Debug, Default)]
struct Least(Vec<(&'static str, f64)>);

impl Least {
    fn add(&mut self, name: &'static str, value: f64) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, least)) => *least = least.min(value),
            None => self.0.push((name, value)),
        }
    }

    /// The least of a figure; no number where there is none.
    fn of(&self, name: &str) -> f64 {
        self.0
            .iter()
            .find(|(known, _)| *known == name)
            .map_or(f64::NAN, |(_, least)| *least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_is_between_two() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median([]).is_nan());
    }

    #[test]
    fn the_least_of_each_figure_is_kept() {
        let mut least = Least::default();
        for (name, value) in [("a", 2.0), ("b", 1.0), ("a", 1.5), ("a", 3.0)] {
            least.add(name, value);
        }
        assert_eq!((least.of("a"), least.of("b")), (1.5, 1.0));
        assert!(least.of("c").is_nan());
    }
}
