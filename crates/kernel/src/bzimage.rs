//! The check of a bzImage's header: every field that a loader will trust.
//!
//! Takes the first bytes and the size of the file, returns `BzImageFacts`; does not unpack and opens nothing. Format:
//! Linux `Documentation/arch/x86/boot.rst`, whose field names are used.

use std::ops::Range;

use super::field::{ParseError, ensure, ensure_hex, number};

/// The first bytes of the file that are looked at: the largest set-up part there can be (255 sectors and the first).
pub const HEAD_BYTES: u64 = 256 * SECTOR;

const SECTOR: u64 = 512;
/// Where "HdrS" stands, and where the last field that is read here ends (`init_size`).
const MAGIC_AT: usize = 0x202;
const FIELDS_END: u64 = 0x264;
const LOWEST: u64 = 1 << 20;
const HIGHEST: u64 = 4 << 30;
/// No kernel needs more; Debian's with everything built in takes 60 MiB.
pub(super) const MAX_UNPACKED: u64 = 1 << 30;
/// The value of every x86-64 kernel (`COMMAND_LINE_SIZE` without the final zero). One that kept less would cut a longer
/// command line without a word.
const CMDLINE_SIZE: u64 = 2047;
const LOADED_HIGH: u64 = 1;
const XLF_KERNEL_64: u64 = 1;
const XLF_CAN_BE_LOADED_ABOVE_4G: u64 = 2;
const RELEASE_MAX: usize = 128;

/// The header of a checked bzImage. Addresses are guest-physical, sizes are bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BzImageFacts {
    /// The kernel's release, as `uname -r` will print it, when the header has it in printable form.
    pub release: Option<String>,
    /// Where the kernel wants to be.
    pub pref_address: u64,
    /// RAM that it needs from there on until it has unpacked itself and reads the memory map.
    pub init_size: u64,
    /// The highest address that the initrd's last byte may have, unless `above_4g`.
    pub initrd_addr_max: u64,
    /// It takes an initrd anywhere (XLF_CAN_BE_LOADED_ABOVE_4G).
    pub above_4g: bool,
    /// Offset in the file of the compressed kernel, with the four bytes of its unpacked size.
    pub payload: Range<u64>,
}

impl BzImageFacts {
    /// The first address that the initrd may not reach.
    pub fn initrd_limit(&self) -> u64 {
        match self.above_4g {
            true => u64::MAX,
            false => self.initrd_addr_max + 1,
        }
    }
}

/// True if the file claims to be a bzImage.
pub fn recognise(head: &[u8]) -> bool {
    head.get(MAGIC_AT..MAGIC_AT + 4) == Some(b"HdrS")
}

/// Checks the header of a file of `file_bytes` bytes that begins with `head` (all of it or `HEAD_BYTES`).
///
/// # Errors
/// The first flaw, with the name of its field and both values.
pub(super) fn parse(head: &[u8], file_bytes: u64) -> Result<BzImageFacts, ParseError> {
    let field = |at, width, name| number(head, at, width, name);
    let magic = field(MAGIC_AT, 4, "header")?;
    ensure_hex(magic == 0x5372_6448, "header", magic, "0x53726448 (HdrS)")?;
    let boot_flag = field(0x1fe, 2, "boot_flag")?;
    ensure_hex(boot_flag == 0xaa55, "boot_flag", boot_flag, "0xaa55")?;
    let version = field(0x206, 2, "version")?;
    let recent = "0x20c or later (Linux 3.8)";
    ensure_hex(version >= 0x20c, "version", version, recent)?;
    // The byte after the short jump at 0x200 says how far the header reaches.
    let end = MAGIC_AT as u64 + field(0x201, 1, "jump")?;
    ensure_hex(
        end >= FIELDS_END,
        "end of the header by jump",
        end,
        "at least 0x264",
    )?;
    let loadflags = field(0x211, 1, "loadflags")?;
    let high = "with LOADED_HIGH (bit 0)";
    ensure_hex(loadflags & LOADED_HIGH != 0, "loadflags", loadflags, high)?;
    let code32 = field(0x214, 4, "code32_start")?;
    let above = "at least 0x100000";
    ensure_hex(code32 >= LOWEST, "code32_start", code32, above)?;
    let xloadflags = field(0x236, 2, "xloadflags")?;
    let long = "with XLF_KERNEL_64 (bit 0)";
    ensure_hex(
        xloadflags & XLF_KERNEL_64 != 0,
        "xloadflags",
        xloadflags,
        long,
    )?;
    let cmdline_size = field(0x238, 4, "cmdline_size")?;
    let whole = format_args!("at least {CMDLINE_SIZE}");
    ensure(
        cmdline_size >= CMDLINE_SIZE,
        "cmdline_size",
        cmdline_size,
        whole,
    )?;

    let (pref_address, init_size, initrd_addr_max) = placement(head)?;
    let setup = setup_bytes(head)?;
    Ok(BzImageFacts {
        release: release(head, setup)?,
        pref_address,
        init_size,
        initrd_addr_max,
        above_4g: xloadflags & XLF_CAN_BE_LOADED_ABOVE_4G != 0,
        payload: payload(head, setup, file_bytes)?,
    })
}

/// `pref_address`, `init_size` and `initrd_addr_max`, which must leave room for each other.
fn placement(head: &[u8]) -> Result<(u64, u64, u64), ParseError> {
    let field = |at, width, name| number(head, at, width, name);
    let alignment = field(0x230, 4, "kernel_alignment")?;
    let power = "a power of two of at least 0x1000";
    ensure_hex(
        alignment.is_power_of_two() && alignment >= 0x1000,
        "kernel_alignment",
        alignment,
        power,
    )?;
    let address = field(0x258, 8, "pref_address")?;
    let below = "from 0x100000 to 0xffffffff";
    ensure_hex(
        (LOWEST..HIGHEST).contains(&address),
        "pref_address",
        address,
        below,
    )?;
    let multiple = format!("a multiple of kernel_alignment, {alignment:#x}");
    ensure_hex(address % alignment == 0, "pref_address", address, multiple)?;
    let size = field(0x260, 4, "init_size")?;
    let range = "from 0x1 to 0x40000000";
    ensure_hex((1..=MAX_UNPACKED).contains(&size), "init_size", size, range)?;
    let end = address + size;
    ensure_hex(
        end <= HIGHEST,
        "pref_address + init_size",
        end,
        "at most 0x100000000",
    )?;
    let initrd = field(0x22c, 4, "initrd_addr_max")?;
    let room = format!("above pref_address + init_size, {end:#x}");
    ensure_hex(initrd > end, "initrd_addr_max", initrd, room)?;
    Ok((address, size, initrd))
}

/// The size of the real-mode part, behind which the kernel proper begins.
fn setup_bytes(head: &[u8]) -> Result<u64, ParseError> {
    let sectors = match number(head, 0x1f1, 1, "setup_sects")? {
        0 => 4, // the protocol's oldest rule
        sectors => sectors,
    };
    Ok((sectors + 1) * SECTOR)
}

/// Where the compressed kernel lies in the file.
fn payload(head: &[u8], setup: u64, file_bytes: u64) -> Result<Range<u64>, ParseError> {
    let syssize = number(head, 0x1f4, 4, "syssize")? * 16;
    let room = file_bytes.saturating_sub(setup);
    // syssize counts paragraphs, so it may reach up to 15 bytes past the end.
    let want = format_args!("at most what follows the set-up, {room}");
    ensure(
        syssize <= room.next_multiple_of(16),
        "syssize",
        syssize,
        want,
    )?;
    let offset = number(head, 0x248, 4, "payload_offset")?;
    let length = number(head, 0x24c, 4, "payload_length")?;
    ensure(
        length > 8,
        "payload_length",
        length,
        "more than a magic number and a size",
    )?;
    let end = offset + length;
    let want = format_args!("at most the kernel's size, {}", syssize.min(room));
    ensure(
        end <= syssize.min(room),
        "payload_offset + payload_length",
        end,
        want,
    )?;
    Ok(setup + offset..setup + end)
}

/// The first word of the text that `kernel_version` points at.
fn release(head: &[u8], setup: u64) -> Result<Option<String>, ParseError> {
    let pointer = number(head, 0x20e, 2, "kernel_version")?;
    if pointer == 0 {
        return Ok(None);
    }
    let at = pointer + 0x200;
    let want = format_args!("inside the set-up part of {setup} bytes");
    ensure(at < setup, "kernel_version + 0x200", at, want)?;
    let text = head.get(at as usize..).unwrap_or_default();
    let word: String = text
        .iter()
        .take(RELEASE_MAX)
        .take_while(|byte| byte.is_ascii_graphic())
        .map(|&byte| char::from(byte))
        .collect();
    Ok(Some(word).filter(|word| !word.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::super::samples::{CODE, INIT_SIZE, PAYLOAD, bzimage, put};
    use super::*;

    fn sample() -> Vec<u8> {
        bzimage(&[7; 0x1000])
    }

    fn parse_whole(image: &[u8]) -> Result<BzImageFacts, ParseError> {
        parse(image, image.len() as u64)
    }

    fn flawed_field(image: &[u8]) -> &'static str {
        match parse_whole(image) {
            Err(ParseError::Field { field, .. } | ParseError::Short { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_sound_bzimage_gives_its_facts() {
        let facts = BzImageFacts {
            release: Some("6.1.0-test".into()),
            pref_address: CODE,
            init_size: INIT_SIZE,
            initrd_addr_max: 0x7fff_ffff,
            above_4g: true,
            payload: PAYLOAD as u64..PAYLOAD as u64 + 0x1000,
        };
        assert_eq!(parse_whole(&sample()), Ok(facts));
    }

    #[test]
    fn each_wrong_number_is_refused_by_the_name_of_its_field() {
        #[rustfmt::skip]
        let table: &[(usize, usize, u64, &str)] = &[
            (0x1f4, 4, 0x105, "syssize"),
            (0x1f4, 4, 0x10, "payload_offset + payload_length"),
            (0x1f4, 4, u32::MAX as u64, "syssize"),
            (0x1fe, 2, 0, "boot_flag"),
            (0x201, 1, 0x61, "end of the header by jump"),
            (0x202, 4, 0, "header"),
            (0x206, 2, 0x20b, "version"),
            (0x20e, 2, 0x200, "kernel_version + 0x200"),
            (0x20e, 2, 0xffff, "kernel_version + 0x200"),
            (0x211, 1, 0, "loadflags"),
            (0x214, 4, 0, "code32_start"),
            (0x22c, 4, 0, "initrd_addr_max"),
            (0x22c, 4, CODE + INIT_SIZE, "initrd_addr_max"),
            (0x230, 4, 0, "kernel_alignment"),
            (0x230, 4, 0x20_0001, "kernel_alignment"),
            (0x230, 4, 0x800, "kernel_alignment"),
            (0x236, 2, 0x7e, "xloadflags"),
            (0x238, 4, 0, "cmdline_size"),
            (0x238, 4, 2046, "cmdline_size"),
            (0x248, 4, u32::MAX as u64, "payload_offset + payload_length"),
            (0x24c, 4, 0, "payload_length"),
            (0x24c, 4, 0x1001, "payload_offset + payload_length"),
            (0x24c, 4, u32::MAX as u64, "payload_offset + payload_length"),
            (0x258, 8, 0, "pref_address"),
            (0x258, 8, CODE + 0x1000, "pref_address"),
            (0x258, 8, 1 << 32, "pref_address"),
            (0x258, 8, u64::MAX, "pref_address"),
            (0x258, 8, 0xffe0_0000, "pref_address + init_size"),
            (0x260, 4, 0, "init_size"),
            (0x260, 4, u32::MAX as u64, "init_size"),
        ];
        for &(at, width, value, field) in table {
            let mut image = sample();
            put(&mut image, at, width, value);
            assert_eq!(flawed_field(&image), field, "{value:#x} at {at:#x}");
        }
    }

    #[test]
    fn no_setup_sectors_means_four_and_255_are_believed() {
        for (sectors, setup) in [(0, 5 * 512), (255, 256 * 512)] {
            let mut image = sample();
            put(&mut image, 0x1f1, 1, sectors);
            let missing = setup - 1024;
            image.splice(1024..1024, vec![0; missing]);
            let facts = parse(
                &image[..image.len().min(HEAD_BYTES as usize)],
                image.len() as u64,
            );
            assert_eq!(facts.unwrap().payload.start, setup as u64 + 0x40);
        }
    }

    #[test]
    fn a_file_cut_anywhere_is_refused() {
        let image = sample();
        for length in (0..image.len())
            .step_by(64)
            .chain([0x263, image.len() - 17])
        {
            assert!(parse_whole(&image[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn no_damaged_byte_panics() {
        for at in 0x1f0..0x270 {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut image = sample();
                image[at] = value;
                let _ = parse_whole(&image);
            }
        }
    }

    #[test]
    fn a_release_text_is_taken_only_as_far_as_it_can_be_printed() {
        let mut image = sample();
        image[0x300..0x306].copy_from_slice(b"6.1\x1b[2");
        assert_eq!(parse_whole(&image).unwrap().release.as_deref(), Some("6.1"));
        image[0x300] = 0;
        assert_eq!(parse_whole(&image).unwrap().release, None);
    }
}
