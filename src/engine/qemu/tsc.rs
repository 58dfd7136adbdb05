//! The host's time stamp counter, which emulated guests see as it is: how fast it counts.
//!
//! A guest kernel measures that against the PIT. On a busy host the emulated PIT is late, the measurement fails, and
//! the kernel then waits for ever for a clock it does not have (seen on microvm with ACPI under three busy loops, in
//! four of five boots). `tsc_early_khz` (Linux 5.5 and later) tells it instead; older kernels ignore the word.

use std::time::{Duration, Instant};

/// Below that the two clocks' own granularity would show.
const SHORTEST: Duration = Duration::from_millis(4);

/// One look at both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sample {
    at: Instant,
    ticks: u64,
}

impl Sample {
    /// Now.
    pub(super) fn take() -> Self {
        // SAFETY: rdtsc reads a register and has no other effect; every x86-64 CPU has it, and where a kernel forbids it
        // to user space (PR_SET_TSC) nobody has asked for that in this process.
        let ticks = unsafe { core::arch::x86_64::_rdtsc() };
        Self {
            at: Instant::now(),
            ticks,
        }
    }

    /// Ticks per millisecond since this look; waits where that was too short a time ago. `None` where the counter does
    /// not count steadily forwards.
    pub(super) fn khz(self) -> Option<u64> {
        std::thread::sleep(SHORTEST.saturating_sub(self.at.elapsed()));
        let now = Self::take();
        let ticks = u128::from(now.ticks.checked_sub(self.ticks)?);
        let nanoseconds = now.at.duration_since(self.at).as_nanos();
        u64::try_from(ticks * 1_000_000 / nanoseconds.max(1))
            .ok()
            .filter(|khz| *khz > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_agree() {
        let rates: Vec<u64> = (0..2).filter_map(|_| Sample::take().khz()).collect();
        let [a, b] = rates[..] else {
            panic!("the counter stands still: {rates:?}")
        };
        assert!(
            a.abs_diff(b) * 50 < a,
            "{a} and {b} differ by more than 2 %"
        );
    }
}
