//! The check of an uncompressed kernel (vmlinux): every number that a loader will trust, before one sees it.
//!
//! Takes the bytes it asks for and gives `ElfFacts`; places nothing in memory and opens no file. Reads at most 64 KiB
//! for the headers and 64 KiB per note segment, whatever the file says. Format: `elf(5)`; PVH note: `xen/elfnote.h`.

use std::io;
use std::ops::Range;

use super::field::{ParseError, ensure, ensure_hex, number};

/// The first bytes of the file that are looked at; the program headers lie within.
pub(super) const HEAD_BYTES: u64 = 64 << 10;

const PROGRAM_HEADER: usize = 56;
const MAX_PROGRAM_HEADERS: u64 = 64;
const MAX_NOTE_BYTES: u64 = 64 << 10;
/// Below lie the zero page, the command line, the MP table and the legacy ROMs.
const LOWEST: u64 = 1 << 20;
/// A PVH entry is 32-bit code, and loaders build page tables for the first 4 GiB.
const HIGHEST: u64 = 4 << 30;

const PT_LOAD: u64 = 1;
const PT_NOTE: u64 = 4;
const PF_X: u64 = 1;
/// `XEN_ELFNOTE_PHYS32_ENTRY`.
const PVH_NOTE: u64 = 18;

/// The facts of a checked vmlinux that a loader needs. Addresses are guest-physical, sizes are bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElfFacts {
    /// Where 64-bit execution begins.
    pub entry: u64,
    /// Where 32-bit execution begins by the PVH protocol, if the kernel offers that.
    pub pvh_entry: Option<u64>,
    /// Lowest address that is loaded.
    pub load_start: u64,
    /// First address above everything that the kernel occupies before it runs.
    pub load_end: u64,
    /// The bytes that its segments occupy in RAM.
    pub memory_bytes: u64,
    /// The bytes of those that are read from the file.
    pub file_bytes: u64,
}

/// Checks an ELF file of `file_bytes` bytes; `read(offset, length)` gives exactly that part of it.
///
/// # Errors
/// Those of `read`, else a flaw that names the field.
pub(super) fn check(
    file_bytes: u64,
    read: impl Fn(u64, usize) -> io::Result<Vec<u8>>,
) -> io::Result<Result<ElfFacts, ParseError>> {
    let head = read(0, file_bytes.min(HEAD_BYTES) as usize)?;
    let layout = match parse(&head, file_bytes) {
        Ok(layout) => layout,
        Err(flaw) => return Ok(Err(flaw)),
    };
    let mut facts = layout.facts;
    for note in &layout.notes {
        let bytes = read(note.offset, note.file as usize)?;
        match pvh_entry(&bytes, note.align, &layout.code) {
            // The first one counts: a later, empty note does not take a found entry away.
            Ok(Some(entry)) => {
                facts.pvh_entry = Some(entry);
                break;
            }
            Ok(None) => {}
            Err(flaw) => return Ok(Err(flaw)),
        }
    }
    Ok(Ok(facts))
}

#[derive(Debug)]
struct Segments {
    facts: ElfFacts,
    notes: Vec<Segment>,
    code: Vec<Range<u64>>,
}

#[derive(Debug, Clone)]
struct Segment {
    kind: u64,
    flags: u64,
    offset: u64,
    vaddr: u64,
    paddr: u64,
    file: u64,
    memory: u64,
    align: u64,
}

fn parse(head: &[u8], file_bytes: u64) -> Result<Segments, ParseError> {
    let (entry, segments) = headers(head)?;
    let mut loads = Vec::new();
    let mut notes = Vec::new();
    for segment in segments {
        match segment.kind {
            PT_LOAD if segment.memory > 0 || segment.file > 0 => {
                check_load(&segment, file_bytes)?;
                loads.push(segment);
            }
            PT_NOTE => {
                check_in_file("PT_NOTE p_offset + p_filesz", &segment, file_bytes)?;
                let limit = "at most 65536";
                ensure(
                    segment.file <= MAX_NOTE_BYTES,
                    "PT_NOTE p_filesz",
                    segment.file,
                    limit,
                )?;
                notes.push(segment);
            }
            _ => {}
        }
    }
    ensure(!loads.is_empty(), "number of PT_LOAD", 0, "at least 1")?;
    loads.sort_by_key(|load| load.paddr);
    for pair in loads.windows(2) {
        let end = pair[0].paddr + pair[0].memory;
        let want = format!("at least {end:#x}, where the segment before it ends");
        ensure_hex(pair[1].paddr >= end, "p_paddr", pair[1].paddr, want)?;
    }
    let last = &loads[loads.len() - 1];
    let facts = ElfFacts {
        entry: physical_entry(entry, &loads)?,
        pvh_entry: None,
        load_start: loads[0].paddr,
        load_end: last.paddr + last.memory,
        memory_bytes: loads.iter().map(|load| load.memory).sum(),
        file_bytes: loads.iter().map(|load| load.file).sum(),
    };
    // Segments that share their bytes would make a small file a long one to load.
    let want = format_args!("at most the file's size, {file_bytes}");
    ensure(
        facts.file_bytes <= file_bytes,
        "sum of PT_LOAD p_filesz",
        facts.file_bytes,
        want,
    )?;
    let executable = loads.iter().filter(|load| load.flags & PF_X != 0);
    let code = executable.map(|load| load.paddr..load.paddr + load.memory);
    Ok(Segments {
        facts,
        notes,
        code: code.collect(),
    })
}

/// The file header and the program header table, without a look at what the segments say.
fn headers(head: &[u8]) -> Result<(u64, Vec<Segment>), ParseError> {
    let field = |at, width, name| number(head, at, width, name);
    let expect = |at, width, name, value: u64, meaning: &str| {
        let got = field(at, width, name)?;
        ensure_hex(
            got == value,
            name,
            got,
            format_args!("{value:#x} ({meaning})"),
        )
    };
    expect(0, 4, "e_ident magic", 0x464c_457f, "ELF")?;
    expect(4, 1, "EI_CLASS", 2, "64-bit")?;
    expect(5, 1, "EI_DATA", 1, "little-endian")?;
    let kind = field(16, 2, "e_type")?;
    let executable = "2 (executable) or 3 (position-independent)";
    ensure(matches!(kind, 2 | 3), "e_type", kind, executable)?;
    expect(18, 2, "e_machine", 0x3e, "x86-64")?;
    let entry = field(24, 8, "e_entry")?;
    expect(54, 2, "e_phentsize", PROGRAM_HEADER as u64, "56 bytes")?;
    let count = field(56, 2, "e_phnum")?;
    ensure(
        (1..=MAX_PROGRAM_HEADERS).contains(&count),
        "e_phnum",
        count,
        "1 to 64",
    )?;
    let table = field(32, 8, "e_phoff")?;
    let want = "64 or more, with the table in the first 64 KiB";
    ensure(
        (64..HEAD_BYTES).contains(&table),
        "e_phoff",
        format_args!("{table:#x}"),
        want,
    )?;
    let segments = (0..count as usize).map(|index| {
        let at = table as usize + index * PROGRAM_HEADER;
        let part = |offset, width| field(at + offset, width, "program header table");
        Ok(Segment {
            kind: part(0, 4)?,
            flags: part(4, 4)?,
            offset: part(8, 8)?,
            vaddr: part(16, 8)?,
            paddr: part(24, 8)?,
            file: part(32, 8)?,
            memory: part(40, 8)?,
            align: part(48, 8)?,
        })
    });
    Ok((entry, segments.collect::<Result<_, ParseError>>()?))
}

fn check_load(load: &Segment, file_bytes: u64) -> Result<(), ParseError> {
    check_in_file("PT_LOAD p_offset + p_filesz", load, file_bytes)?;
    let want = format_args!("at most p_memsz, {}", load.memory);
    ensure(load.file <= load.memory, "p_filesz", load.file, want)?;
    ensure_hex(
        load.paddr >= LOWEST,
        "p_paddr",
        load.paddr,
        "at least 0x100000",
    )?;
    let end = load.paddr.saturating_add(load.memory);
    ensure_hex(
        end <= HIGHEST,
        "p_paddr + p_memsz",
        end,
        "at most 0x100000000",
    )
}

fn check_in_file(
    field: &'static str,
    segment: &Segment,
    file_bytes: u64,
) -> Result<(), ParseError> {
    let end = segment.offset.saturating_add(segment.file);
    let want = format_args!("at most the file's size, {file_bytes}");
    ensure(end <= file_bytes, field, end, want)
}

/// Linux writes the physical address of its first instruction into the header; other linkers leave the virtual one.
fn physical_entry(entry: u64, loads: &[Segment]) -> Result<u64, ParseError> {
    let code = || loads.iter().filter(|load| load.flags & PF_X != 0);
    let inside = |start: u64, load: &Segment| entry >= start && entry - start < load.memory;
    if code().any(|load| inside(load.paddr, load)) {
        return Ok(entry);
    }
    let by_address = code().find(|load| inside(load.vaddr, load));
    let translated = by_address.map(|load| load.paddr + (entry - load.vaddr));
    translated.ok_or_else(|| ParseError::Field {
        field: "e_entry",
        got: format!("{entry:#x}"),
        want: "inside an executable segment".into(),
    })
}

/// The entry that the PVH note in one note segment names, if it has one.
fn pvh_entry(notes: &[u8], align: u64, code: &[Range<u64>]) -> Result<Option<u64>, ParseError> {
    let padding = if align == 8 { 8 } else { 4 };
    let mut at = 0;
    // What is left behind the last note is padding when no note header fits into it.
    while at + 12 <= notes.len() {
        let name_bytes = number(notes, at, 4, "note n_namesz")? as usize;
        let body_bytes = number(notes, at + 4, 4, "note n_descsz")? as usize;
        let kind = number(notes, at + 8, 4, "note n_type")?;
        // Sizes are below 2^32 and usize has 64 bits on the only machine that this is built for: no sum wraps.
        let name = at + 12;
        let body = (name + name_bytes).next_multiple_of(padding);
        let end = body + body_bytes;
        let room = notes.len();
        ensure(
            end <= room,
            "note n_namesz + n_descsz",
            end,
            format_args!("at most {room}"),
        )?;
        if kind == PVH_NOTE && &notes[name..name + name_bytes] == b"Xen\0" {
            let width = matches!(body_bytes, 4 | 8);
            ensure(width, "PVH note n_descsz", body_bytes, "4 or 8")?;
            let entry = number(notes, body, body_bytes, "PVH entry")?;
            let found = code.iter().any(|range| range.contains(&entry));
            ensure_hex(found, "PVH entry", entry, "inside an executable segment")?;
            return Ok(Some(entry));
        }
        at = end.next_multiple_of(padding);
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::super::samples::{CODE, NOTE, note, program_header as header, put, vmlinux};
    use super::*;

    fn check_bytes(bytes: &[u8]) -> Result<ElfFacts, ParseError> {
        check_counted(bytes, bytes.len() as u64).0
    }

    /// A file of `size` bytes that begins with `bytes` and goes on with zeros, and how many bytes of it were read.
    fn check_counted(bytes: &[u8], size: u64) -> (Result<ElfFacts, ParseError>, u64) {
        let count = Cell::new(0);
        let read = |offset: u64, length: usize| {
            assert!(offset + length as u64 <= size, "a read beyond the file");
            count.set(count.get() + length as u64);
            let start = bytes.len().min(offset as usize);
            let mut part = bytes[start..bytes.len().min(start + length)].to_vec();
            part.resize(length, 0);
            Ok(part)
        };
        (check(size, read).unwrap(), count.get())
    }

    fn flawed_field(bytes: &[u8]) -> &'static str {
        match check_bytes(bytes) {
            Err(ParseError::Field { field, .. } | ParseError::Short { field, .. }) => field,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_sound_vmlinux_gives_its_addresses() {
        let facts = ElfFacts {
            entry: CODE,
            pvh_entry: Some(CODE + 0x10),
            load_start: CODE,
            load_end: CODE + 0x4000,
            memory_bytes: 0x3200,
            file_bytes: 0x400,
        };
        assert_eq!(check_bytes(&vmlinux()), Ok(facts));
    }

    #[test]
    fn each_wrong_number_is_refused_by_the_name_of_its_field() {
        let (code, data, notes) = (header(0), header(1), header(2));
        #[rustfmt::skip]
        let table: &[(usize, usize, u64, &str)] = &[
            (0, 1, 0x7e, "e_ident magic"),
            (4, 1, 1, "EI_CLASS"),
            (5, 1, 2, "EI_DATA"),
            (16, 2, 1, "e_type"),
            (16, 2, 4, "e_type"),
            (18, 2, 0xb7, "e_machine"),
            (18, 2, 3, "e_machine"),
            (24, 8, 0xffff_ffff_8000_0000, "e_entry"),
            (24, 8, CODE + 0x200, "e_entry"),
            (24, 8, CODE + 0x1000, "e_entry"),
            (32, 8, 0, "e_phoff"),
            (32, 8, 1 << 16, "e_phoff"),
            (32, 8, u64::MAX, "e_phoff"),
            (32, 8, 0x13f0, "program header table"),
            (54, 2, 55, "e_phentsize"),
            (56, 2, 0, "e_phnum"),
            (56, 2, 65, "e_phnum"),
            (56, 2, 0xffff, "e_phnum"),
            (code + 8, 8, 0x1300, "PT_LOAD p_offset + p_filesz"),
            (code + 8, 8, u64::MAX, "PT_LOAD p_offset + p_filesz"),
            (code + 24, 8, 0, "p_paddr"),
            (code + 24, 8, 0xf_f000, "p_paddr"),
            (code + 24, 8, CODE + 0xf00, "p_paddr"),
            (code + 24, 8, u64::MAX - 8, "p_paddr + p_memsz"),
            (code + 24, 8, (4 << 30) - 0x1ff, "p_paddr + p_memsz"),
            (code + 32, 8, 0x201, "p_filesz"),
            (code + 32, 8, u64::MAX, "PT_LOAD p_offset + p_filesz"),
            (code + 40, 8, 0x1001, "p_paddr"),
            (data + 40, 8, 1 << 62, "p_paddr + p_memsz"),
            (code + 4, 4, 6, "e_entry"),
            (notes + 8, 8, 0x1400, "PT_NOTE p_offset + p_filesz"),
            (notes + 32, 8, (64 << 10) + 1, "PT_NOTE p_offset + p_filesz"),
            (NOTE, 4, 8, "note n_namesz + n_descsz"),
            (NOTE, 4, u32::MAX as u64, "note n_namesz + n_descsz"),
            (NOTE + 4, 4, u32::MAX as u64, "note n_namesz + n_descsz"),
            (NOTE + 4, 4, 2, "PVH note n_descsz"),
            (NOTE + 16, 8, CODE + 0x1000, "PVH entry"),
            (NOTE + 16, 8, (1 << 32) + CODE, "PVH entry"),
        ];
        for &(at, width, value, field) in table {
            let mut elf = vmlinux();
            put(&mut elf, at, width, value);
            assert_eq!(flawed_field(&elf), field, "{value:#x} at {at:#x}");
            let (_, read) = check_counted(&elf, elf.len() as u64);
            assert!(read <= elf.len() as u64 + 24, "{field}: {read} bytes read");
        }
    }

    #[test]
    fn a_file_without_anything_to_load_is_refused() {
        let mut elf = vmlinux();
        put(&mut elf, header(0), 4, 0);
        put(&mut elf, header(1), 4, 0);
        assert_eq!(flawed_field(&elf), "number of PT_LOAD");
    }

    #[test]
    fn a_note_segment_of_more_than_64_kib_is_refused_and_one_of_zeros_is_read_through() {
        let mut elf = vmlinux();
        let end = elf.len() as u64;
        elf.resize(elf.len() + (64 << 10) + 1, 0);
        put(&mut elf, header(2) + 8, 8, end);
        put(&mut elf, header(2) + 32, 8, 64 << 10);
        assert_eq!(check_bytes(&elf).unwrap().pvh_entry, None);
        put(&mut elf, header(2) + 32, 8, (64 << 10) + 1);
        assert_eq!(flawed_field(&elf), "PT_NOTE p_filesz");
    }

    /// How long a check takes depends on what it reads, and only on that.
    #[test]
    fn however_large_the_file_and_whatever_it_says_little_of_it_is_read() {
        let terabyte = 1 << 40;
        let mut many = vmlinux();
        put(&mut many, 56, 2, 0xffff);
        let mut long = vmlinux();
        put(&mut long, header(2) + 32, 8, 64 << 20);
        for (elf, want) in [(&many, "e_phnum"), (&long, "PT_NOTE p_filesz")] {
            let (checked, read) = check_counted(elf, terabyte);
            let flaw = checked.unwrap_err().to_string();
            assert!(flaw.starts_with(want), "{flaw}");
            assert_eq!(read, HEAD_BYTES);
        }
        let mut notes = vmlinux();
        put(&mut notes, 56, 2, 64);
        let mut header_of_zeros = notes[header(2)..header(3)].to_vec();
        put(&mut header_of_zeros, 8, 8, 1 << 30);
        put(&mut header_of_zeros, 32, 8, MAX_NOTE_BYTES);
        for index in 2..64 {
            notes[header(index)..header(index + 1)].copy_from_slice(&header_of_zeros);
        }
        let (checked, read) = check_counted(&notes, terabyte);
        assert_eq!(checked.unwrap().pvh_entry, None);
        assert_eq!(read, HEAD_BYTES + 62 * MAX_NOTE_BYTES);
    }

    #[test]
    fn segments_that_share_their_bytes_in_the_file_are_refused() {
        let mut elf = vmlinux();
        let size = elf.len() as u64;
        let each = size / 2 + 1;
        for (index, address) in [(0, CODE), (1, CODE + size)] {
            put(&mut elf, header(index) + 8, 8, size - each);
            put(&mut elf, header(index) + 24, 8, address);
            put(&mut elf, header(index) + 32, 8, each);
            put(&mut elf, header(index) + 40, 8, each);
        }
        assert_eq!(flawed_field(&elf), "sum of PT_LOAD p_filesz");
        for index in 0..2 {
            put(&mut elf, header(index) + 32, 8, each - 1);
        }
        assert!(check_bytes(&elf).is_ok());
    }

    #[test]
    fn a_later_empty_note_does_not_take_the_pvh_entry_away() {
        let mut elf = vmlinux();
        let copy: Vec<u8> = elf[header(2)..header(3)].to_vec();
        elf[header(3)..header(4)].copy_from_slice(&copy);
        put(&mut elf, header(3) + 32, 8, 0);
        put(&mut elf, 56, 2, 4);
        assert_eq!(check_bytes(&elf).unwrap().pvh_entry, Some(CODE + 0x10));
    }

    #[test]
    fn the_pvh_note_is_found_behind_others_and_may_have_four_bytes() {
        let code = [CODE..CODE + 0x100, CODE + 0x100..CODE + 0x200];
        let mut notes = note(b"GNU\0", 18, &[0; 8]);
        notes.extend(note(b"Xen\0", 17, &[1; 4]));
        assert_eq!(pvh_entry(&notes, 4, &code), Ok(None));
        notes.extend(note(b"Xen\0", 18, &(CODE as u32 + 4).to_le_bytes()));
        assert_eq!(pvh_entry(&notes, 4, &code), Ok(Some(CODE + 4)));
        notes.truncate(notes.len() - 1);
        assert!(pvh_entry(&notes, 4, &code).is_err());
    }

    #[test]
    fn an_entry_by_virtual_address_is_translated() {
        let mut elf = vmlinux();
        put(&mut elf, 24, 8, 0xffff_ffff_8000_0000 + CODE + 8);
        assert_eq!(check_bytes(&elf).unwrap().entry, CODE + 8);
    }

    #[test]
    fn every_truncation_is_refused_and_no_damaged_byte_panics() {
        let elf = vmlinux();
        for length in 0..elf.len() {
            assert!(check_bytes(&elf[..length]).is_err(), "{length} bytes");
        }
        for at in (0..header(3)).chain(NOTE..NOTE + 24) {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut elf = elf.clone();
                elf[at] = value;
                let _ = check_bytes(&elf);
            }
        }
    }
}
