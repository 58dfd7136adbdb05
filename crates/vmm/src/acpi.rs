//! The ACPI tables of both engines' machines: the guest's CPUs, its IO-APIC, how it resets and switches itself off.
//!
//! Numbers in, bytes out. Format: ACPI Specification 6.4, chapter 5; signatures, lengths and offsets are from there. As
//! little as kernels need: no devices (the three serial ports are where every PC has them), no interpreted code but the
//! name of the state "off".

/// The place of the tables, where the BIOS of a PC would be: kernels look there for the first of them if they are not told.
pub(super) const ACPI: u64 = 0xe_0000;
pub(super) const ACPI_MAX: u64 = 0x1000;
/// Fixed by the architecture.
pub(super) const IO_APIC: u32 = 0xfec0_0000;
pub(super) const LOCAL_APIC: u32 = 0xfee0_0000;

/// PM1 status and enable: no event ever comes.
pub(super) const PM1_EVENT: u16 = 0x600;
/// PM1 control, two bytes: says that ACPI is on, and takes the wish to be off.
pub(super) const PM1_CONTROL: u16 = PM1_EVENT + 4;
/// The reset register, and what resets when written there.
pub(super) const RESET: u16 = 0xcf9;
const RESET_VALUE: u8 = 6;
/// The number of the sleep state "off" in the tables; PM1 control takes it with the bit that enters it.
pub(super) const OFF: u8 = 5;

const OEM: &[u8] = b"RDVM  RDVM    ";
/// The interrupt that ACPI events would have, and the PC's usual line for it.
const SCI: u16 = 9;
const FACP_LENGTH: usize = 276;
/// Caches are flushed by WBINVD, HLT saves power, no buttons, no wake by the clock, the reset register is there.
const FACP_FLAGS: u32 = 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 10;
/// No keyboard controller, and no VGA.
const BOOT_ARCHITECTURE: u16 = 1 << 2;
const CENTURY: u8 = 0x32; // the clock's register, see cmos.rs
/// States deeper than C1 are not there: longer latencies than these are not believed.
const NO_C2: u16 = 101;
const NO_C3: u16 = 1001;
const PORT_IO: u8 = 1;
const WITH_8259: u32 = 1;
const ENABLED: u32 = 1;
const ALL_CPUS: u8 = 0xff;

/// Returns the tables for `cpus` CPUs, whose local APICs have the numbers from 0 on, to be placed at `ACPI`. The first of them
/// is the RSDP. The timer's interrupt, line 0, is at the pin `timer` of the IO-APIC.
pub(super) fn tables(cpus: u8, timer: u8) -> Vec<u8> {
    let mut memory = vec![0; 64]; // the RSDP, once it is known where the rest is
    let facs = place(&mut memory, &facs());
    let dsdt = place(&mut memory, &table(b"DSDT", 2, &off()));
    let facp = place(&mut memory, &facp(facs, dsdt));
    let madt = place(&mut memory, &madt(cpus, timer));
    let list: Vec<u8> = [facp, madt]
        .iter()
        .flat_map(|at| at.to_le_bytes())
        .collect();
    let xsdt = place(&mut memory, &table(b"XSDT", 1, &list));
    let rsdp = rsdp(xsdt);
    memory[..rsdp.len()].copy_from_slice(&rsdp);
    memory
}

/// Appends a table; returns its address.
fn place(memory: &mut Vec<u8>, table: &[u8]) -> u64 {
    memory.resize(memory.len().next_multiple_of(64), 0);
    let at = ACPI + memory.len() as u64;
    memory.extend(table);
    at
}

/// A table with its header (section 5.2.6).
fn table(signature: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    let mut table = Vec::from(*signature);
    table.extend((36 + body.len() as u32).to_le_bytes());
    table.extend([revision, 0]);
    table.extend(OEM);
    table.extend(1u32.to_le_bytes());
    table.extend(b"RDVM\x01\0\0\0");
    table.extend(body);
    table[9] = checksum(&table);
    table
}

/// Section 5.2.5.3.
fn rsdp(xsdt: u64) -> Vec<u8> {
    let mut rsdp = Vec::from(*b"RSD PTR \0");
    rsdp.extend(&OEM[..6]);
    rsdp.extend([2, 0, 0, 0, 0]); // revision, and no RSDT
    rsdp[8] = checksum(&rsdp);
    rsdp.extend(36u32.to_le_bytes());
    rsdp.extend(xsdt.to_le_bytes());
    rsdp.extend([0; 4]);
    rsdp[32] = checksum(&rsdp);
    rsdp
}

/// Section 5.2.10: nothing in it but its length.
fn facs() -> Vec<u8> {
    let mut facs = Vec::from(*b"FACS");
    facs.extend(64u32.to_le_bytes());
    facs.resize(64, 0);
    facs[32] = 2;
    facs
}

/// Section 5.2.9. Addresses of ports are given once, in the older fields.
fn facp(facs: u64, dsdt: u64) -> Vec<u8> {
    let mut body = vec![0; FACP_LENGTH - 36];
    let mut set = |at: usize, bytes: &[u8]| body[at - 36..][..bytes.len()].copy_from_slice(bytes);
    set(36, &(facs as u32).to_le_bytes());
    set(40, &(dsdt as u32).to_le_bytes());
    set(46, &SCI.to_le_bytes());
    set(56, &u32::from(PM1_EVENT).to_le_bytes());
    set(64, &u32::from(PM1_CONTROL).to_le_bytes());
    set(88, &[4, 2]); // their lengths
    set(96, &NO_C2.to_le_bytes());
    set(98, &NO_C3.to_le_bytes());
    set(108, &[CENTURY]);
    set(109, &BOOT_ARCHITECTURE.to_le_bytes());
    set(112, &FACP_FLAGS.to_le_bytes());
    set(116, &[PORT_IO, 8, 0, 1]);
    set(120, &u64::from(RESET).to_le_bytes());
    set(128, &[RESET_VALUE]);
    table(b"FACP", 6, &body)
}

/// Section 5.2.12.
fn madt(cpus: u8, timer: u8) -> Vec<u8> {
    let mut body = Vec::from(LOCAL_APIC.to_le_bytes());
    body.extend(WITH_8259.to_le_bytes());
    for cpu in 0..cpus {
        body.extend([0, 8, cpu, cpu]);
        body.extend(ENABLED.to_le_bytes());
    }
    body.extend([1, 12, cpus, 0]);
    body.extend(IO_APIC.to_le_bytes());
    body.extend([0; 4]);
    // Other interrupt lines are the pins of the same number.
    if timer != 0 {
        body.extend([2, 10, 0, 0]);
        body.extend(u32::from(timer).to_le_bytes());
        body.extend([0; 2]);
    }
    // The NMI is at the second pin of every local APIC.
    body.extend([4, 6, ALL_CPUS, 0, 0, 1]);
    table(b"APIC", 4, &body)
}

/// `Name (_S5, Package () {OFF, 0, 0, 0})` (section 20.2 has the encoding).
fn off() -> Vec<u8> {
    [&b"\x08_S5_\x12\x07\x04\x0a"[..], &[OFF, 0, 0, 0]].concat()
}

/// Returns the byte that makes the sum of all bytes zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}

/// With sixteen CPUs, each table rounded up.
const _: () = assert!(
    64 + 64 + 64 + FACP_LENGTH as u64 + 64 + 256 + 64 <= ACPI_MAX,
    "the ACPI tables are too long for their place"
);

#[cfg(test)]
mod tests {
    use super::*;

    fn number(bytes: &[u8], at: usize, length: usize) -> usize {
        let bytes = bytes[at..at + length].iter().rev();
        bytes.fold(0, |number, byte| number << 8 | usize::from(*byte))
    }

    /// The table at a guest-physical address, with its sum checked.
    fn at(memory: &[u8], address: usize) -> &[u8] {
        let table = &memory[address - ACPI as usize..];
        let table = &table[..number(table, 4, 4)];
        assert_eq!(checksum(table), 0, "{:?}", &table[..4]);
        table
    }

    #[test]
    fn the_rsdp_leads_to_every_table_and_all_sums_are_zero() {
        for cpus in 1..=16 {
            let memory = tables(cpus, 2);
            assert!(memory.len() as u64 <= ACPI_MAX);
            assert_eq!((checksum(&memory[..20]), checksum(&memory[..36])), (0, 0));
            let xsdt = at(&memory, number(&memory, 24, 8));
            let facp = at(&memory, number(xsdt, 36, 8));
            let madt = at(&memory, number(xsdt, 44, 8));
            let dsdt = at(&memory, number(facp, 40, 4));
            assert_eq!((&xsdt[..4], xsdt.len()), (&b"XSDT"[..], 52));
            assert_eq!(
                (&facp[..4], &madt[..4], &dsdt[..4]),
                (&b"FACP"[..], &b"APIC"[..], &b"DSDT"[..])
            );
            let facs = number(facp, 36, 4) - ACPI as usize;
            assert_eq!((&memory[facs..facs + 4], facs % 64), (&b"FACS"[..], 0));
            assert_eq!(madt.len(), 44 + 8 * usize::from(cpus) + 12 + 10 + 6);
        }
    }

    #[test]
    fn the_madt_names_every_cpu_once_and_the_io_apic_after_them() {
        let madt = madt(3, 0);
        for cpu in 0..3 {
            let entry = &madt[44 + 8 * usize::from(cpu)..][..8];
            assert_eq!(entry, [0, 8, cpu, cpu, 1, 0, 0, 0]);
        }
        assert_eq!(madt[68..80], [1, 12, 3, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
        assert_eq!(madt[80..82], [4, 6], "line 0 is pin 0");
        let madt = super::madt(3, 2);
        assert_eq!(madt[80..90], [2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
    }

    /// Read by the reference interpreter where it is installed; by hand here.
    #[test]
    fn off_is_a_package_of_four() {
        let code = off();
        assert_eq!(code[..5], *b"\x08_S5_");
        assert_eq!(
            usize::from(code[6]),
            code.len() - 6,
            "the package's length counts itself"
        );
        assert_eq!(code[7..], [4, 0x0a, OFF, 0, 0, 0]);
    }
}
