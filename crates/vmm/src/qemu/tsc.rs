//! The host's time stamp counter, which emulated guests see as it is: how fast it counts.
//!
//! A guest kernel measures that against the PIT. On a busy host the emulated PIT is late, and the measurement fails or is
//! wrong. `tsc_early_khz` (Linux 5.5 and later) tells it instead; older kernels ignore the word.

use std::time::{Duration, Instant};

/// Below that the two clocks' own granularity would show.
const SHORTEST: Duration = Duration::from_millis(4);
/// Tries, of which the one counts between whose two clocks the least time passed: this process may lose the CPU there.
const TRIES: usize = 8;

/// One look at both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sample {
    at: Instant,
    ticks: u64,
}

impl Sample {
    /// Now.
    pub(super) fn take() -> Self {
        let once = || {
            let ticks = ticks();
            let at = Instant::now();
            (self::ticks().wrapping_sub(ticks), Self { at, ticks })
        };
        let closer = |best: (u64, Self), _| match once() {
            other if other.0 < best.0 => other,
            _ => best,
        };
        (1..TRIES).fold(once(), closer).1
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

fn ticks() -> u64 {
    // SAFETY: rdtsc reads a register and has no other effect; every x86-64 CPU has it, and where a kernel forbids it
    // to user space (PR_SET_TSC) nothing has asked for that in this process.
    unsafe { core::arch::x86_64::_rdtsc() }
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
