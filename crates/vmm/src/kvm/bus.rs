//! The ports and what answers at them: one table.
//!
//! Splits accesses of any width and any number into bytes, as an ISA bus does. Moves no output and raises no interrupt:
//! the owner of the bus asks the devices for both.

use super::cmos::{self, Cmos};
use super::serial::Serial;
use crate::acpi;
use crate::guest::Port;

/// COM1, COM2, COM3 with their interrupt lines, as every PC has them.
pub(super) const PORTS: [(Port, u16, u32); 3] = [
    (Port::Console, 0x3f8, 4),
    (Port::Stdout, 0x2f8, 3),
    (Port::Status, 0x3e8, 4),
];
const SERIAL_PORTS: u16 = 8;
/// The keyboard controller's command port, and its command to pull the reset line. Nothing else of it is there, which
/// kernels find out at once; half of it would cost them half a second.
const I8042_COMMAND: u16 = 0x64;
const I8042_RESET: u8 = 0xfe;
/// System control port A: bit 0 is a fast reset.
const CONTROL_A: u16 = 0x92;
const FAST_RESET: u8 = 1;
/// The reset control register of PC chipsets, which the ACPI tables name: bit 2 resets. Only as a byte: four bytes from
/// 0xcf8 on are something else.
const RESET_CPU: u8 = 4;
const PM1_ENABLE: u16 = acpi::PM1_EVENT + 2;
/// PM1 control's high byte: the sleep state, and the bit that enters it. Its low byte says that ACPI is on.
const PM1_CONTROL_HIGH: u16 = acpi::PM1_CONTROL + 1;
const SLEEP: u8 = acpi::OFF << 2 | 1 << 5;
const ACPI_ON: u8 = 1;

/// All devices.
#[derive(Debug, Default)]
pub(super) struct Bus {
    /// In the order of `PORTS`.
    pub(super) serial: [Serial; 3],
    cmos: Cmos,
    /// There is a way to a PCI bus, with nothing on it.
    pub(super) empty_pci: bool,
    /// ACPI's event enable register: kernels see to it that it keeps what they write.
    pm1_enable: [u8; 2],
    /// Bytes read from or written to ports where nothing is.
    strays: u64,
}

/// The request of an access beside its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    Done,
    /// The guest wants to be reset, by the named device.
    Reset(&'static str),
    /// The guest wants to be off.
    Off,
}

enum Device {
    Serial(usize, u16),
    Cmos,
    /// ACPI's registers.
    Power,
    /// The way to a PCI bus with nothing on it.
    Pci,
    None,
}

impl Bus {
    /// Takes `data`, which is any number of accesses of `width` bytes to `port`.
    pub(super) fn write(&mut self, port: u16, width: u8, data: &[u8]) -> Reply {
        for access in data.chunks(usize::from(width.max(1))) {
            if let [value] = access
                && let Some(reset) = reset(port, *value)
            {
                return Reply::Reset(reset);
            }
            for (value, port) in access.iter().zip(port..=u16::MAX) {
                match device(port) {
                    Device::Serial(index, offset) => self.serial[index].write(offset, *value),
                    Device::Cmos => self.cmos.write(port, *value),
                    Device::Power if port == PM1_CONTROL_HIGH && *value == SLEEP => {
                        return Reply::Off;
                    }
                    Device::Power => {
                        if let PM1_ENABLE..acpi::PM1_CONTROL = port {
                            self.pm1_enable[usize::from(port - PM1_ENABLE)] = *value;
                        }
                    }
                    Device::Pci if self.empty_pci => {}
                    Device::Pci | Device::None => self.strays += 1,
                }
            }
        }
        Reply::Done
    }

    /// Fills `data`, any number of accesses of `width` bytes to `port`.
    pub(super) fn read(&mut self, port: u16, width: u8, data: &mut [u8]) {
        for access in data.chunks_mut(usize::from(width.max(1))) {
            // The last port has none behind it: what is beyond reads as nothing.
            access.fill(0xff);
            for (value, port) in access.iter_mut().zip(port..=u16::MAX) {
                *value = match device(port) {
                    Device::Serial(index, offset) => self.serial[index].read(offset),
                    Device::Cmos => self.cmos.read(port),
                    Device::Pci if self.empty_pci => 0,
                    Device::Power if port == acpi::PM1_CONTROL => ACPI_ON,
                    Device::Power => match port {
                        PM1_ENABLE..acpi::PM1_CONTROL => {
                            self.pm1_enable[usize::from(port - PM1_ENABLE)]
                        }
                        _ => 0,
                    },
                    Device::Pci | Device::None => {
                        self.strays += 1;
                        0xff
                    }
                };
            }
        }
    }

    /// Counts an access to memory where nothing is; it reads as all ones.
    pub(super) fn stray(&mut self) {
        self.strays += 1;
    }

    /// Returns the number of bytes read from or written to where nothing is.
    pub(super) fn strays(&self) -> u64 {
        self.strays
    }
}

fn device(port: u16) -> Device {
    match port {
        cmos::INDEX | cmos::DATA => return Device::Cmos,
        acpi::PM1_EVENT..=PM1_CONTROL_HIGH => return Device::Power,
        _ if crate::PCI_CONFIGURATION.contains(&port) => return Device::Pci,
        _ => {}
    }
    let serial = PORTS
        .iter()
        .position(|(_, base, _)| (*base..base + SERIAL_PORTS).contains(&port));
    serial.map_or(Device::None, |index| {
        Device::Serial(index, port - PORTS[index].1)
    })
}

/// Returns the device that a single byte written to a port makes reset the machine.
fn reset(port: u16, value: u8) -> Option<&'static str> {
    match port {
        I8042_COMMAND if value == I8042_RESET => Some("the keyboard controller"),
        CONTROL_A if value & FAST_RESET != 0 => Some("port 0x92"),
        acpi::RESET if value & RESET_CPU != 0 => Some("port 0xcf9"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_string_of_bytes_goes_to_one_port_whole() {
        let mut bus = Bus::default();
        assert_eq!(bus.write(0x2f8, 1, b"hello"), Reply::Done);
        assert_eq!(bus.serial[1].output(), b"hello");
        let mut scratch = [0; 3];
        bus.write(0x2ff, 1, &[1, 2, 3]);
        bus.read(0x2ff, 1, &mut scratch);
        assert_eq!(scratch, [3; 3]);
    }

    #[test]
    fn wider_accesses_reach_the_ports_that_follow() {
        let mut bus = Bus::default();
        // Two accesses of four bytes: DLL, DLM, FCR and LCR each.
        bus.write(0x3fb, 1, &[0x80]);
        bus.write(0x3f8, 4, &[1, 2, 1, 0x80, 3, 4, 1, 0x80]);
        let mut back = [0; 4];
        bus.read(0x3f8, 4, &mut back);
        assert_eq!(back, [3, 4, 0xc1, 0x80]);
    }

    #[test]
    fn where_nothing_is_all_bits_are_one_and_it_is_counted() {
        let mut bus = Bus::default();
        let mut data = [0; 4];
        bus.read(0xcfc, 4, &mut data);
        assert_eq!(data, [0xff; 4]);
        bus.write(0x80, 1, &[1]);
        assert_eq!(bus.strays(), 5);
        // The last port of all: the rest is beyond.
        let mut data = [0; 4];
        bus.read(0xffff, 4, &mut data);
        assert_eq!(
            (data, bus.write(0xffff, 4, &data)),
            ([0xff; 4], Reply::Done)
        );
    }

    #[test]
    fn each_way_to_reset_is_one_and_what_looks_like_it_is_not() {
        let mut bus = Bus::default();
        for (port, value) in [(0x64, 0xfe), (0x92, 1), (0xcf9, 6), (0xcf9, 0xe)] {
            assert!(
                matches!(bus.write(port, 1, &[value]), Reply::Reset(_)),
                "{port:#x}"
            );
        }
        assert!(matches!(bus.write(0x64, 1, &[0, 0xfe]), Reply::Reset(_)));
        for (port, value) in [(0x64, 0xaa), (0x92, 2), (0xcf9, 2), (0x60, 0xfe)] {
            assert_eq!(bus.write(port, 1, &[value]), Reply::Done, "{port:#x}");
        }
        let sleep = (u16::from(acpi::OFF) << 10 | 1 << 13).to_le_bytes();
        assert_eq!(bus.write(0x604, 2, &sleep), Reply::Off);
        assert_eq!(
            bus.write(0x604, 2, &[0, sleep[1] & !0x20]),
            Reply::Done,
            "only announced"
        );
        let mut control = [0; 2];
        bus.read(0x604, 2, &mut control);
        assert_eq!(control, [1, 0], "ACPI is on");
        bus.write(0x602, 2, &[0x20, 4]);
        let mut events = [0xff; 4];
        bus.read(0x600, 4, &mut events);
        assert_eq!(events, [0, 0, 0x20, 4]);
        // An address for PCI's configuration.
        assert_eq!(bus.write(0xcf8, 4, &[0, 0xff, 0, 0x80]), Reply::Done);
    }
}
