//! A bar on the terminal for what takes longer than half a second: bytes, how many of how many, and how fast; or files; or
//! the time that it takes.
//!
//! Stages count their bytes or files in a [`Progress`], which is silent unless the program shows it as a [`Bar`]. The bar
//! is removed before anything else is written.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::units::ByteSize;

/// Shorter phases need no bar.
const PATIENCE: Duration = Duration::from_millis(500);
const INTERVAL: Duration = Duration::from_millis(100);
/// Cells of the bar.
const WIDTH: u64 = 24;
const ERASE: &str = "\r\x1b[K";

/// A counter of work in stages; its clones count together. The default counts nothing.
#[derive(Debug, Clone, Default)]
pub struct Progress(Option<Arc<Meter>>);

#[derive(Debug)]
struct Meter {
    /// Bytes or files of the stage that are done.
    done: AtomicU64,
    stage: Mutex<Stage>,
    changed: Condvar,
}

#[derive(Debug)]
struct Stage {
    what: &'static str,
    total: Option<u64>,
    unit: Unit,
    began: Option<Instant>,
    /// The beginning of the first of the stages that had no pause between them.
    since: Option<Instant>,
    /// The bar is on the terminal.
    shown: bool,
    /// The bar is gone for good.
    over: bool,
}

/// The unit of a stage.
#[derive(Debug, Clone, Copy)]
enum Unit {
    Bytes,
    Files,
    Time,
}

impl Progress {
    /// Begins the stage `what` ("reading", "packing"), of `total` bytes where that is known.
    pub fn stage(&self, what: &'static str, total: Option<u64>) {
        self.begin(what, total, Unit::Bytes);
    }

    /// Begins the stage `what` ("compiled"), in which about `total` files are counted.
    pub fn stage_of_files(&self, what: &'static str, total: u64) {
        self.begin(what, Some(total), Unit::Files);
    }

    /// Begins the stage `what` ("booting"), of which nothing can be counted but the time.
    pub fn stage_of_time(&self, what: &'static str) {
        self.begin(what, None, Unit::Time);
    }

    fn begin(&self, what: &'static str, total: Option<u64>, unit: Unit) {
        let Some(meter) = &self.0 else { return };
        let mut stage = meter.stage();
        (stage.what, stage.total, stage.unit) = (what, total, unit);
        let now = Instant::now();
        stage.began = Some(now);
        stage.since.get_or_insert(now);
        meter.done.store(0, Ordering::Relaxed);
        meter.changed.notify_all();
    }

    /// Counts so many more bytes, or files, of the stage.
    pub fn add(&self, more: u64) {
        if let Some(meter) = &self.0 {
            meter.done.fetch_add(more, Ordering::Relaxed);
        }
    }

    /// True if there is a terminal that the bar is drawn on, as long as a stage takes.
    pub fn is_shown(&self) -> bool {
        self.0.as_ref().is_some_and(|meter| !meter.stage().over)
    }

    /// Removes the bar for good: something else is about to be written to the terminal.
    pub fn finish(&self) {
        if let Some(meter) = &self.0 {
            let mut stage = meter.stage();
            stage.over = true;
            erase(&mut stage);
            meter.changed.notify_all();
        }
    }

    /// Removes the bar until another stage begins: the guest is about to print.
    pub fn pause(&self) {
        if let Some(meter) = &self.0 {
            let mut stage = meter.stage();
            (stage.began, stage.since) = (None, None);
            erase(&mut stage);
        }
    }

    /// Removes the bar until it is drawn again: a line is about to be written to the terminal.
    pub fn clear(&self) {
        if let Some(meter) = &self.0 {
            erase(&mut meter.stage());
        }
    }
}

fn erase(stage: &mut Stage) {
    if std::mem::take(&mut stage.shown) {
        print(ERASE);
    }
}

/// Writes to the terminal, unless that would wait, as it does for one that is stopped by Ctrl-S: a machine may wait for the
/// thread that removes the bar.
fn print(text: &str) -> bool {
    let stderr = std::io::stderr();
    let at_once = Timespec::default();
    let mut set = [PollFd::new(&stderr, PollFlags::OUT)];
    poll(&mut set, Some(&at_once)) == Ok(1)
        && set[0].revents() == PollFlags::OUT
        && stderr.lock().write_all(text.as_bytes()).is_ok()
}

/// The bar of a [`Progress`] on standard error, until this is dropped or [`Progress::finish`] is called. Nothing is drawn where
/// standard error is not a terminal.
#[derive(Debug)]
pub struct Bar {
    /// The counter that the bar shows.
    pub progress: Progress,
}

/// Shows what is counted from now on.
pub fn show() -> Bar {
    if !std::io::stderr().is_terminal() {
        let progress = Progress::default();
        return Bar { progress };
    }
    let now = Some(Instant::now());
    let meter = Arc::new(Meter {
        done: AtomicU64::new(0),
        stage: Mutex::new(Stage {
            what: "",
            total: None,
            unit: Unit::Bytes,
            began: now,
            since: now,
            shown: false,
            over: false,
        }),
        changed: Condvar::new(),
    });
    let drawn = Arc::clone(&meter);
    // Without a thread there is no bar, and that is no reason to stop.
    let _ = std::thread::Builder::new()
        .name("progress".to_owned())
        .spawn(move || draw(&drawn));
    let progress = Progress(Some(meter));
    Bar { progress }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.progress.finish();
    }
}

impl Meter {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn draw(meter: &Meter) {
    let mut stage = meter.stage();
    while !stage.over {
        let (Some(began), Some(since)) = (stage.began, stage.since) else {
            let waited = meter.changed.wait(stage);
            stage = waited.unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        let patience = PATIENCE.saturating_sub(since.elapsed());
        let done = meter.done.load(Ordering::Relaxed);
        if patience.is_zero() && (done > 0 || matches!(stage.unit, Unit::Time)) {
            let text = match (stage.unit, stage.total) {
                (Unit::Files, Some(total)) => line_of_files(stage.what, done, total),
                (Unit::Time, _) => line_of_time(stage.what, began.elapsed()),
                _ => line(stage.what, done, stage.total, began.elapsed()),
            };
            stage.shown = print(&format!("{ERASE}{text}")) || stage.shown;
        }
        let waited = meter.changed.wait_timeout(stage, patience.max(INTERVAL));
        stage = waited.unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// Returns the bar of a stage of which only the time is known.
fn line_of_time(what: &str, elapsed: Duration) -> String {
    format!("rdvm: {what}, {} s", elapsed.as_secs())
}

/// Returns the bar of a stage that counts files. The total is a guess, and never claimed to be reached.
fn line_of_files(what: &str, done: u64, about: u64) -> String {
    let percent = (done.saturating_mul(100) / about.max(1)).min(99);
    format!("rdvm: {what} {done} of about {about} files, {percent} %")
}

/// Returns the bar of a stage that counts bytes.
fn line(what: &str, done: u64, total: Option<u64>, elapsed: Duration) -> String {
    let rate = ByteSize((done as f64 / elapsed.as_secs_f64().max(0.001)) as u64);
    let mut line = format!("rdvm: {what} ");
    // Writing to a String cannot fail.
    let _ = match total {
        Some(total) if total > 0 => {
            let full = (done.min(total) * WIDTH / total) as usize;
            let (full, empty) = ("#".repeat(full), ".".repeat(WIDTH as usize - full));
            let total = ByteSize(total);
            write!(
                line,
                "[{full}{empty}] {} of {total}, {rate}/s",
                ByteSize(done)
            )
        }
        _ => write!(line, "{}, {rate}/s", ByteSize(done)),
    };
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_time_has_whole_seconds() {
        let time = Duration::from_millis(3999);
        assert_eq!(line_of_time("booting", time), "rdvm: booting, 3 s");
    }

    #[test]
    fn a_line_of_files_never_claims_that_all_is_done() {
        assert_eq!(
            line_of_files("compiled", 512, 1900),
            "rdvm: compiled 512 of about 1900 files, 26 %"
        );
        assert!(line_of_files("compiled", 2000, 1900).ends_with("files, 99 %"));
        line_of_files("compiled", u64::MAX, 0);
    }

    #[test]
    fn the_line_has_bytes_and_rate_and_never_a_bar_longer_than_full() {
        let second = Duration::from_secs(1);
        assert_eq!(
            line("reading", 64 << 20, Some(128 << 20), second),
            "rdvm: reading [############............] 64 MiB of 128 MiB, 64 MiB/s"
        );
        assert_eq!(
            line("reading", 64 << 20, None, 2 * second),
            "rdvm: reading 64 MiB, 32 MiB/s"
        );
        assert!(line("packing", 9, Some(3), second).contains(&"#".repeat(24)));
        line("packing", u64::MAX / 32, Some(0), Duration::ZERO);
    }
}
