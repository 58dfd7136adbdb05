//! The clock chip at ports 0x70 and 0x71: the time of day, and zeros.
//!
//! A kernel that reads all ones here believes that an update is in progress and waits for its end, for a second.
//! Registers: Motorola MC146818A data sheet; a PC keeps the century in register 0x32.

use std::time::{SystemTime, UNIX_EPOCH};

use rdvm_hostfs::civil::Date;

/// Register select; its top bit masks the NMI and is no part of the number.
pub(super) const INDEX: u16 = 0x70;
pub(super) const DATA: u16 = 0x71;

/// The chip, which counts no time of its own.
#[derive(Debug, Default)]
pub(super) struct Cmos {
    index: u8,
}

impl Cmos {
    /// Takes a byte for one of the two ports. What is written to a register is lost: the host's clock is not the guest's
    /// to set.
    pub(super) fn write(&mut self, port: u16, value: u8) {
        if port == INDEX {
            self.index = value & 0x7f;
        }
    }

    /// Returns the register that was selected.
    pub(super) fn read(&self, port: u16) -> u8 {
        if port == INDEX {
            return 0xff;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        register(self.index, now.map_or(0, |since| since.as_secs()))
    }
}

/// One register at a time in seconds since 1970, in UTC: binary-coded decimal, 24 hours.
fn register(index: u8, seconds: u64) -> u8 {
    let (days, second) = (seconds / 86400, seconds % 86400);
    let Date { year, month, day } = Date::of_unix(seconds as i64);
    let decimal = match index {
        0 => second % 60,
        2 => second / 60 % 60,
        4 => second / 3600,
        6 => (days + 4) % 7 + 1, // 1970 began on a Thursday, and Sunday is 1
        7 => day as u64,
        8 => month as u64,
        9 => year as u64 % 100,
        0x32 => year as u64 / 100,
        // Register A: oscillator on, no update in progress. B: 24 hours. D: the battery is good.
        0xa => return 0x26,
        0xb => return 0x02,
        0xd => return 0x80,
        _ => return 0,
    };
    (decimal / 10 * 16 + decimal % 10) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_update_is_ever_in_progress() {
        let mut cmos = Cmos::default();
        cmos.write(INDEX, 0x8a);
        assert_eq!(cmos.read(DATA) & 0x80, 0);
    }

    #[test]
    fn the_registers_hold_the_date_in_decimal() {
        #[rustfmt::skip]
        let table = [
            (0, [0x19, 0x70, 0x01, 0x01, 0x05, 0x00, 0x00, 0x00]),
            (951_782_399, [0x20, 0x00, 0x02, 0x28, 0x02, 0x23, 0x59, 0x59]),
            (951_782_400, [0x20, 0x00, 0x02, 0x29, 0x03, 0x00, 0x00, 0x00]),
            (1_795_261_265, [0x20, 0x26, 0x11, 0x21, 0x07, 0x11, 0x41, 0x05]),
            (4_107_542_399, [0x21, 0x00, 0x02, 0x28, 0x01, 0x23, 0x59, 0x59]),
            (4_107_542_400, [0x21, 0x00, 0x03, 0x01, 0x02, 0x00, 0x00, 0x00]),
        ];
        for (seconds, expected) in table {
            let got = [0x32, 9, 8, 7, 6, 4, 2, 0].map(|index| register(index, seconds));
            assert_eq!(got, expected, "{seconds}: {got:x?}");
        }
    }
}
