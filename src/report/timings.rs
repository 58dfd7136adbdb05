//! The time of a run: by phase, and as points on one line.
//!
//! The host sees when its own things happen, and when a word of PID 1's arrives. What happened inside before that is told
//! on the guest's clock, and put on the host's by an event that both saw.

use std::time::{Duration, Instant};

use serde::Serialize;

use rdvm_vmm::guest::Timestamps;

/// Milliseconds by phase; absent where the guest did not say.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Timings {
    /// Reading the image, planning, loading kernel and initrd to where the machine finds them.
    pub pack: f64,
    /// From starting the engine to the kernel's first moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<f64>,
    /// The kernel, without unpacking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<f64>,
    /// The kernel unpacking the initrd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unpack: Option<f64>,
    /// PID 1 until the command ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<f64>,
    /// The command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<f64>,
    /// From the command's end to ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<f64>,
    /// All of it.
    pub total: f64,
}

impl Timings {
    /// The phases of a run that began at `began` and ended at `now`, as far as the guest has told.
    pub(crate) fn of(began: Instant, timestamps: &Timestamps, now: Instant) -> Self {
        let between = |from: Option<Instant>, to: Option<Instant>| {
            from.zip(to)
                .map(|(from, to)| milliseconds(to.saturating_duration_since(from)))
        };
        let boot = timestamps.boot.unwrap_or_default();
        let nanoseconds = |from: u64, to: u64| {
            (from > 0 && to >= from).then(|| rounded((to - from) as f64 / 1e6))
        };
        let unpack = nanoseconds(boot.unpack_begin, boot.unpack_end);
        let in_kernel = (boot.init > 0).then_some(boot.init as f64 / 1e6);
        let loaded = timestamps.loaded.unwrap_or(now);
        let until_ready = between(Some(loaded), timestamps.ready);
        Self {
            pack: milliseconds(loaded - began),
            start: until_ready
                .zip(in_kernel)
                .map(|(all, kernel)| rounded((all - kernel).max(0.0))),
            kernel: in_kernel.map(|all| rounded(all - unpack.unwrap_or(0.0))),
            unpack,
            init: between(timestamps.ready, timestamps.started),
            command: between(timestamps.started, timestamps.ended),
            stop: between(timestamps.ended, Some(now)),
            total: milliseconds(now - began),
        }
    }

    /// The phases on one line.
    pub fn to_line(self) -> String {
        let phases = [
            ("pack", Some(self.pack)),
            ("start", self.start),
            ("kernel", self.kernel),
            ("unpack", self.unpack),
            ("init", self.init),
            ("command", self.command),
            ("stop", self.stop),
            ("total", Some(self.total)),
        ];
        let known = phases
            .into_iter()
            .filter_map(|(name, ms)| ms.map(|ms| format!("{name} {ms:.0}")));
        format!("timings in ms: {}", known.collect::<Vec<_>>().join(", "))
    }
}

/// The times of a run's events, in milliseconds since rdvm started; absent where unknown.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Timeline {
    /// Kernel and initrd were where the machine finds them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loaded: Option<f64>,
    /// The kernel was entered (KVM), or QEMU was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine_start: Option<f64>,
    /// The guest was left for the first time, for rdvm to do something (KVM).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_exit: Option<f64>,
    /// The guest's clock began: its kernel had found a clock source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_clock: Option<f64>,
    /// The kernel began to unpack the initrd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unpack_begin: Option<f64>,
    /// The kernel had unpacked the initrd.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unpack_end: Option<f64>,
    /// PID 1 started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rdinit: Option<f64>,
    /// The command ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<f64>,
    /// The command's last byte had been written to our standard output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_byte: Option<f64>,
    /// The command had ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command_end: Option<f64>,
    /// The machine was gone.
    pub end: f64,
}

impl Timeline {
    /// The line of a run whose process started at `began`, and whose machine was gone at `now`.
    pub(crate) fn of(began: Instant, timestamps: &Timestamps, now: Instant) -> Self {
        let since = |moment: Instant| milliseconds(moment.saturating_duration_since(began));
        let boot = timestamps.boot.unwrap_or_default();
        // The later of the two words has nothing but the port between it and its arrival.
        let seen = match (timestamps.started, timestamps.ready) {
            (Some(at), _) if boot.started > 0 => Some((at, boot.started)),
            (_, Some(at)) if boot.init > 0 => Some((at, boot.init)),
            _ => None,
        };
        let zero = seen.and_then(|(at, clock)| at.checked_sub(Duration::from_nanos(clock)));
        let inside = |clock: u64| {
            let at = zero?.checked_add(Duration::from_nanos(clock))?;
            (clock > 0).then(|| since(at))
        };
        Self {
            loaded: timestamps.loaded.map(since),
            machine_start: timestamps.machine_start.map(since),
            first_exit: timestamps.first_exit.map(since),
            guest_clock: zero.map(since),
            unpack_begin: inside(boot.unpack_begin),
            unpack_end: inside(boot.unpack_end),
            rdinit: inside(boot.init),
            command: timestamps.started.map(since),
            last_byte: timestamps.last_byte.map(since),
            command_end: timestamps.ended.map(since),
            end: since(now),
        }
    }

    /// The points on one line.
    pub fn to_line(self) -> String {
        let points = [
            ("loaded", self.loaded),
            ("machine start", self.machine_start),
            ("first exit", self.first_exit),
            ("guest's clock", self.guest_clock),
            ("unpack begin", self.unpack_begin),
            ("unpack end", self.unpack_end),
            ("rdinit", self.rdinit),
            ("command", self.command),
            ("last byte", self.last_byte),
            ("command end", self.command_end),
            ("end", Some(self.end)),
        ];
        let known = points
            .into_iter()
            .filter_map(|(name, ms)| ms.map(|ms| format!("{name} {ms:.1}")));
        let known: Vec<_> = known.collect();
        format!("timeline in ms since the start: {}", known.join(", "))
    }
}

/// A span in milliseconds with three decimals, which is all that is meant.
fn milliseconds(span: Duration) -> f64 {
    rounded(span.as_secs_f64() * 1e3)
}

/// Three decimals.
fn rounded(milliseconds: f64) -> f64 {
    (milliseconds * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use rdvm_vmm::guest::BootClock;

    #[test]
    fn the_guests_times_are_put_on_the_hosts_clock() {
        let began = Instant::now();
        let at = |ms| Some(began + Duration::from_millis(ms));
        let timestamps = Timestamps {
            loaded: at(5),
            machine_start: at(6),
            first_exit: at(7),
            ready: at(31),
            started: at(40),
            boot: Some(BootClock {
                init: 20_000_000,
                unpack_begin: 10_000_000,
                unpack_end: 15_000_000,
                started: 30_000_000,
            }),
            ..Timestamps::default()
        };
        let line = Timeline::of(began, &timestamps, began + Duration::from_millis(60));
        let points = [
            line.loaded,
            line.machine_start,
            line.first_exit,
            line.guest_clock,
            line.unpack_begin,
            line.unpack_end,
            line.rdinit,
            line.command,
            line.last_byte,
            Some(line.end),
        ];
        let expected = [5.0, 6.0, 7.0, 10.0, 20.0, 25.0, 30.0, 40.0, -1.0, 60.0];
        let expected = expected.map(|ms| (ms >= 0.0).then_some(ms));
        assert_eq!(points, expected);
    }

    #[test]
    fn a_guest_that_lies_about_its_clock_does_no_harm() {
        let began = Instant::now();
        let timestamps = Timestamps {
            started: Some(began),
            boot: Some(BootClock {
                init: u64::MAX,
                unpack_begin: 1,
                unpack_end: u64::MAX,
                started: u64::MAX,
            }),
            ..Timestamps::default()
        };
        let line = Timeline::of(began, &timestamps, began);
        assert!(line.rdinit.is_none_or(f64::is_finite), "{line:?}");
        Timings::of(began, &timestamps, began);
    }
}
