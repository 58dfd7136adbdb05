//! The MP table: the guest's CPUs, its IO-APIC, and which interrupt line is which pin.
//!
//! Numbers in, bytes out. Format: Intel MultiProcessor Specification 1.4, chapter 4; sizes and codes are from there.

use super::layout::{IO_APIC, LOCAL_APIC, MP_TABLE, MP_TABLE_MAX};

/// The PC's interrupt lines.
const ISA_LINES: u8 = 16;
const FLOATING_POINTER: usize = 16;
const VERSION_1_4: u8 = 4;
/// As KVM's in-kernel devices say of themselves.
const LOCAL_APIC_VERSION: u8 = 0x14;
const IO_APIC_VERSION: u8 = 0x11;
const ENABLED: u8 = 1;
const BOOT_CPU: u8 = 2;
const ALL_LOCAL_APICS: u8 = 0xff;
/// Interrupt types: vectored, non-maskable, from an 8259.
const INT: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;

/// The table for `cpus` CPUs, whose local APICs have the numbers from 0 on, to be placed at `MP_TABLE`.
pub(super) fn table(cpus: u8) -> Vec<u8> {
    let mut entries: Vec<Vec<u8>> = Vec::new();
    for cpu in 0..cpus {
        let flags = ENABLED | if cpu == 0 { BOOT_CPU } else { 0 };
        let mut entry = vec![0, cpu, LOCAL_APIC_VERSION, flags];
        entry.extend([0; 16]); // signature and features: kernels ask the CPU itself
        entries.push(entry);
    }
    entries.push([&[1, 0][..], b"ISA   "].concat());
    let io_apic = cpus;
    let mut entry = vec![2, io_apic, IO_APIC_VERSION, ENABLED];
    entry.extend(IO_APIC.to_le_bytes());
    entries.push(entry);
    // Flags of zero: as the bus has it, and on ISA that is edge-triggered, active high. KVM routes line n to pin n.
    let interrupt = |kind: u8, what, line, apic, pin| vec![kind, what, 0, 0, 0, line, apic, pin];
    entries.extend((0..ISA_LINES).map(|line| interrupt(3, INT, line, io_apic, line)));
    entries.push(interrupt(4, EXT_INT, 0, 0, 0));
    entries.push(interrupt(4, NMI, 0, ALL_LOCAL_APICS, 1));

    let count = entries.len() as u16;
    let body = entries.concat();
    let mut header = Vec::new();
    header.extend(b"PCMP");
    header.extend((44 + body.len() as u16).to_le_bytes());
    header.extend([VERSION_1_4, 0]);
    header.extend(b"RDVM    MICROVM     ");
    header.extend([0; 6]); // no OEM table
    header.extend(count.to_le_bytes());
    header.extend(LOCAL_APIC.to_le_bytes());
    header.extend([0; 4]); // no extended table
    let mut table = [header, body].concat();
    table[7] = checksum(&table);

    let mut pointer = Vec::from(*b"_MP_");
    pointer.extend((MP_TABLE as u32 + FLOATING_POINTER as u32).to_le_bytes());
    pointer.extend([1, VERSION_1_4, 0, 0, 0, 0, 0, 0]);
    pointer[10] = checksum(&pointer);
    [pointer, table].concat()
}

/// What makes the sum of all bytes zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}

/// The longest table.
const _: () = assert!(
    FLOATING_POINTER as u64 + 44 + 16 * 20 + 8 + 8 + 18 * 8 <= MP_TABLE_MAX,
    "the MP table of 16 CPUs is too long for its place"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_zero_and_the_pointer_leads_to_the_table() {
        for cpus in 1..=16 {
            let bytes = table(cpus);
            let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
            assert_eq!((sum(&bytes[..16]), sum(&bytes[16..])), (0, 0));
            assert_eq!((&bytes[..4], &bytes[16..20]), (&b"_MP_"[..], &b"PCMP"[..]));
            let address = u32::from_le_bytes(bytes[4..8].try_into().unwrap());
            assert_eq!(u64::from(address), MP_TABLE + 16);
            let length = u16::from_le_bytes(bytes[20..22].try_into().unwrap());
            assert_eq!(usize::from(length), bytes.len() - 16);
            assert!(bytes.len() as u64 <= MP_TABLE_MAX);
        }
    }

    #[test]
    fn it_names_every_cpu_once_and_the_io_apic_after_them() {
        let bytes = table(3);
        let cpus = &bytes[60..];
        for cpu in 0..3 {
            let entry = &cpus[20 * cpu..][..20];
            assert_eq!(entry[..2], [0, cpu as u8]);
            assert_eq!(entry[3], if cpu == 0 { 3 } else { 1 });
        }
        assert_eq!(cpus[60..68], *b"\x01\0ISA   ");
        assert_eq!(cpus[68..72], [2, 3, 0x11, 1]);
        // COM2's line 3 is pin 3 of IO-APIC 3.
        assert_eq!(cpus[76 + 3 * 8..][..8], [3, 0, 0, 0, 0, 3, 3, 3]);
    }
}
