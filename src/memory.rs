//! The RAM that an image needs. Pure arithmetic: sizes in, a plan with its sum out.
//!
//! The kernel keeps the initrd until it has unpacked it, so the first peak is initrd + unpacked tree; afterwards the
//! initrd is free again and the command may use its place. Whichever is larger counts. Meanwhile the root, a tmpfs, may
//! hold half of what kernel and initrd leave: so there are initrd and twice the unpacked tree at least. What of it files
//! may take in the end is up to PID 1, which sees how much is really free ([`Room`]).
//!
//! The constants were measured by bisection (`benches/memory.rs`): those of a distribution's kernel on Debian's 6.1, those
//! of a small one on what `rdvm kernel build` makes.

use std::fmt;

use rdvm_proto::Room;

use crate::request::MemorySpec;
use rdvm_hostfs::units::{ByteSize, PAGE};
use rdvm_initrd::layout::Contents;

/// RAM for files and programs on top of the image, at least, beside a distribution's kernel.
pub const ROOM: ByteSize = ByteSize::mib(64);

/// The same beside a small kernel. What an image's initrd takes becomes free before the command starts, so an image that
/// holds compilers has room for them; this is for those that hold one program.
pub const SMALL_ROOM: ByteSize = ByteSize::mib(12);

/// Kernels that occupy less are small ones: what rdvm builds has 11 MiB, the kernels of distributions have 45 to 60.
const SMALL_KERNEL: ByteSize = ByteSize::mib(24);

/// The least that `auto` gives, though a machine may need less: RAM that no guest touches costs the host nothing, and how many
/// processes there may be goes by the RAM. In 96 MiB it is 670, each of which takes about 110 KiB.
const FLOOR: ByteSize = ByteSize::mib(96);

/// The same beside an image in place or scratch space: an image that large is there for work, which finds no room that an initrd
/// has left, and work that writes much needs RAM for its programs.
const FLOOR_FOR_WORK: ByteSize = ByteSize::mib(256);

/// Of every page of RAM the kernel keeps a `struct page` of 64 bytes.
const PAGE_STRUCTS: u64 = PAGE / 64;

/// With transparent huge pages on, `mm/khugepaged.c` raises `min_free_kbytes` to this, or to 5 % of the RAM that is not
/// reserved at that time (and the initrd still is): nothing but an emergency may use it. Without them it is less.
const RESERVE: ByteSize = ByteSize::mib(44);
const RESERVE_SHARE: u64 = 20;

/// `lowmem_reserve_ratio`: so much of the RAM above 16 MiB is kept free below it.
const ZONE_RESERVE_SHARE: u64 = 256;

/// Page-cache trees: a node of 576 bytes for 64 pages, rounded up.
const TREE_SHARE: u64 = 256;

/// The share of the sum that no formula has (fragments, per-CPU lists of free pages).
const MARGIN_SHARE: u64 = 100;

/// Memory that a distribution's kernel allocates for itself before PID 1 runs, beyond its image: slabs, per-CPU areas, hash
/// tables, page tables, and the low memory it leaves alone.
const KERNEL_OWN: ByteSize = ByteSize::mib(20);

/// The same of a small kernel: so much, and two fifths of its size, since what is in it wants slabs and tables.
const SMALL_KERNEL_OWN: ByteSize = ByteSize(5 << 19);

/// A further CPU's stacks, per-CPU area and run queues.
const PER_CPU: ByteSize = ByteSize::mib(1);

/// The gap that QEMU leaves between the initrd and the end of the RAM (ACPI tables on the PC).
const QEMU_KEEPS: u64 = 256 << 10;

/// Beside regions QEMU has RAM in two pieces: the upper one holds the initrd and has so much at least; with what is left of it, and
/// since the lower one ends at a multiple of 2 MiB, they take so much more than kernel and initrd.
const QEMU_UPPER: u64 = 8 << 20;
const QEMU_PIECES: u64 = 3 << 20;

/// Both engines have RAM above 4 GiB in a machine of more than this. Then the kernel sets aside `swiotlb`, buffers for
/// devices that do not reach it, whether there are any or not.
const LOW: u64 = 3 << 30;
const BOUNCE: u64 = 64 << 20;

/// Page tables and drivers of a region, and the inodes and directories of it that a command looks at; the kernel takes the
/// latter back when memory is short.
const REGION_READ: ByteSize = ByteSize::mib(4);

/// The share of scratch space that takes RAM beside its page structs: of each page a count of three bytes, and nine in the trees of
/// the files that it holds ([`Room`]).
const SWAP_SHARE: u64 = 340;

/// An inode, its directory entry and their page-cache bookkeeping.
const PER_ENTRY: u64 = 1200;

/// The input of a plan.
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    /// The contents of the initrd.
    pub contents: Contents,
    /// The size of the loaded kernel, from its first to its last byte including bss.
    pub kernel: ByteSize,
    /// The address behind its last byte: the initrd stands above that.
    pub kernel_end: u64,
    /// PID 1, what it is told and the table of extended attributes.
    pub own: ByteSize,
    /// Modules that PID 1 loads; they are in `own` as well.
    pub modules: ByteSize,
    /// Number of vCPUs.
    pub cpus: u8,
    /// The bytes of all regions with file systems.
    pub regions: ByteSize,
    /// The bytes of the region that is swap space.
    pub scratch: ByteSize,
    /// PID 1 is the user's own and leaves the root the half of the RAM that it begins with.
    pub root_keeps_its_half: bool,
}

/// The RAM and its terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPlan {
    /// The RAM of the guest.
    pub total: ByteSize,
    /// The least RAM that works.
    pub need: ByteSize,
    /// The parts that the need is the sum of.
    pub terms: Vec<(&'static str, ByteSize)>,
}

/// `-m` is below what the image needs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "--memory: the image needs {need} of guest RAM, {given} were given; raise it to {need} or leave it out ({sum})"
)]
pub struct TooLittle {
    /// The least RAM that works.
    pub need: ByteSize,
    /// The RAM that was given.
    pub given: ByteSize,
    /// The need as a sum.
    pub sum: String,
}

/// Plans the RAM for `needs`, or checks what the user wished.
///
/// Errors: [`TooLittle`] with both numbers.
pub fn plan(needs: &Needs, spec: MemorySpec) -> Result<MemoryPlan, TooLittle> {
    let kernel = needs.kernel.page_round_up();
    let is_small = kernel < SMALL_KERNEL;
    let own = own_data(kernel, is_small, needs.cpus);
    let entries = ByteSize(needs.contents.entries.saturating_mul(PER_ENTRY)).page_round_up();
    let unpacked = ByteSize(needs.contents.page_rounded_bytes);
    let initrd = ByteSize(needs.contents.packed_bytes).page_round_up();
    let least_room = if is_small { SMALL_ROOM } else { ROOM };
    let mut terms = vec![
        ("kernel", kernel),
        ("its own data", own),
        ("unpacked files", unpacked),
        ("inodes", entries),
        // In the initrd and unpacked.
        (
            "PID 1 and what it is told",
            ByteSize(needs.own.page_round_up().0.saturating_mul(2)),
        ),
    ];
    terms.extend(room(least_room, initrd, spec));
    if needs.modules.0 > 0 {
        terms.push(("modules, loaded", needs.modules.page_round_up()));
    }
    if needs.regions.0 > 0 {
        let structs = needs.regions.0 / PAGE_STRUCTS;
        terms.push(("page structs of the image", ByteSize(structs)));
        terms.push(("what is read of its directories", REGION_READ));
    }
    if needs.scratch.0 > 0 {
        let structs = needs.scratch.0 / PAGE_STRUCTS;
        let entries = ByteSize(needs.scratch.0 / SWAP_SHARE).page_round_up();
        terms.push(("page structs of the scratch space", ByteSize(structs)));
        terms.push(("where its pages are", entries));
    }
    let used = terms
        .iter()
        .fold(0u64, |sum, (_, size)| sum.saturating_add(size.0));
    let summed = with_overhead(used, initrd, unpacked);
    let structs = summed.0 / PAGE_STRUCTS;
    terms.push(("page structs", ByteSize(structs)));
    terms.push((
        "the kernel's reserves",
        ByteSize(summed.0.saturating_sub(used).saturating_sub(structs)),
    ));
    // The place of the initrd is above the kernel.
    let above = needs.own.page_round_up().0.saturating_add(initrd.0);
    let above = match needs.regions.0 > 0 || needs.scratch.0 > 0 {
        true => above.max(QEMU_UPPER).saturating_add(QEMU_PIECES),
        false => above.saturating_add(QEMU_KEEPS),
    };
    let lies = ByteSize(needs.kernel_end.saturating_add(above)).mib_round_up();
    if lies > summed {
        terms.push(("free below the kernel", ByteSize(lies.0 - summed.0)));
    }
    let fixed = ByteSize(kernel.0 + own.0);
    let half = unpacked.0.max(needs.contents.entries.saturating_mul(PAGE));
    let half = half.saturating_add(needs.own.page_round_up().0);
    let for_half = for_tmpfs(fixed, initrd, half);
    let need = summed.max(lies);
    if for_half > need {
        let more = ByteSize(for_half.0 - need.0);
        terms.push(("the other half, beside a tmpfs", more));
    }
    let need = need.max(for_half);
    let total = match spec {
        MemorySpec::FromImage | MemorySpec::Room(_) if needs.root_keeps_its_half => {
            let half = half.saturating_add(least_room.0);
            need.max(for_tmpfs(fixed, initrd, half)).max(FLOOR)
        }
        MemorySpec::FromImage if needs.regions.0 > 0 || needs.scratch.0 > 0 => {
            need.max(FLOOR_FOR_WORK)
        }
        MemorySpec::FromImage => need.max(FLOOR),
        // It is a limit as well: the command is not to have more.
        MemorySpec::Room(_) => need,
        MemorySpec::Exactly(given) if given < need => {
            return Err(TooLittle {
                need,
                given,
                sum: sum(need, &terms),
            });
        }
        MemorySpec::Exactly(given) => ByteSize(given.0 & !(PAGE - 1)),
    };
    Ok(MemoryPlan { total, need, terms })
}

/// The terms of what is left to the command. At first the initrd is there.
fn room(least: ByteSize, initrd: ByteSize, spec: MemorySpec) -> Vec<(&'static str, ByteSize)> {
    if let MemorySpec::Room(given) = spec {
        let room = given.page_round_up().max(initrd);
        return vec![("room given, at first the initrd", room)];
    }
    let room = least.max(initrd);
    let files = ByteSize(Room::within(room.0, 0).bytes);
    vec![
        ("room to write, at first the initrd", files),
        ("programs and new inodes", ByteSize(room.0 - files.0)),
    ]
}

/// The kernel's own data beside its image, for this number of CPUs.
fn own_data(kernel: ByteSize, is_small: bool, cpus: u8) -> ByteSize {
    let own = match is_small {
        true => SMALL_KERNEL_OWN.0 + kernel.0 * 2 / 5,
        false => KERNEL_OWN.0,
    };
    ByteSize(own + PER_CPU.0 * u64::from(cpus.saturating_sub(1))).page_round_up()
}

/// All RAM such that what the kernel keeps of it for itself leaves `used`.
fn with_overhead(used: u64, initrd: ByteSize, unpacked: ByteSize) -> ByteSize {
    let used = used.saturating_add(unpacked.0 / TREE_SHARE);
    let mut total = used;
    // What is kept is some 7 % of the sum, so each round finds 93 % of what the one before missed.
    for _ in 0..6 {
        total = used.saturating_add(total / PAGE_STRUCTS + kept(total, initrd));
    }
    ByteSize(total).mib_round_up()
}

/// Returns the part of `total` that the kernel keeps in reserve.
fn kept(total: u64, initrd: ByteSize) -> u64 {
    let reserve = (total.saturating_sub(initrd.0) / RESERVE_SHARE).min(RESERVE.0);
    reserve + total / ZONE_RESERVE_SHARE + total / MARGIN_SHARE
}

/// The least RAM with which half of what is free while the image is unpacked is `half` (`mm/shmem.c`: the default limits
/// are half of the RAM that is not reserved at mount time, and the initrd still is, and an inode for each of these
/// pages). The guest touches no more of it than of the sum.
fn for_tmpfs(fixed: ByteSize, initrd: ByteSize, half: u64) -> ByteSize {
    let used = fixed
        .0
        .saturating_add(initrd.0)
        .saturating_add(half.saturating_mul(2));
    // All of it, of which page structs and hash tables, a 256th, leave `used`.
    let all = |used: u64| used.saturating_add(used / 50 + PAGE);
    let total = match all(used) {
        total if total > LOW => all(used.saturating_add(BOUNCE)),
        total => total,
    };
    ByteSize(total).mib_round_up()
}

fn sum(total: ByteSize, terms: &[(&'static str, ByteSize)]) -> String {
    let parts: Vec<String> = terms
        .iter()
        .map(|(name, size)| format!("{name} {size}"))
        .collect();
    format!("ram {total} = {}", parts.join(" + "))
}

impl fmt::Display for MemoryPlan {
    /// The sum on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&sum(self.need, &self.terms))?;
        if self.total > self.need {
            write!(f, "; it gets {}", self.total)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn needs(packed: u64, unpacked: u64, entries: u64, cpus: u8) -> Needs {
        let contents = Contents {
            entries,
            inodes: entries,
            packed_bytes: packed,
            page_rounded_bytes: unpacked,
        };
        Needs {
            contents,
            kernel: ByteSize::mib(46),
            kernel_end: 62 << 20,
            own: ByteSize(200 << 10),
            modules: ByteSize(0),
            cpus,
            regions: ByteSize(0),
            scratch: ByteSize(0),
            root_keeps_its_half: false,
        }
    }

    #[test]
    fn the_sum_is_the_need() {
        let plan = plan(&needs(161 << 20, 172 << 20, 6681, 1), MemorySpec::FromImage).unwrap();
        let sum: u64 = plan.terms.iter().map(|(_, size)| size.0).sum();
        assert_eq!(sum, plan.need.0, "{plan}");
        let least = ByteSize::mib(161 + 2 * 172 + 46);
        assert!(
            plan.need > least && plan.need.0 < least.0 + (40 << 20),
            "{plan}"
        );
    }

    #[test]
    fn room_that_is_given_takes_the_place_of_the_usual_and_is_all_there_is() {
        let needs = needs(40 << 20, 50 << 20, 100, 1);
        let room = |mib| plan(&needs, MemorySpec::Room(ByteSize::mib(mib))).unwrap();
        let usual = plan(&needs, MemorySpec::FromImage).unwrap();
        // The usual room is 64 MiB.
        let same = room(64);
        assert_eq!((same.need, same.total), (usual.need, usual.need));
        let (large, larger) = (room(1000), room(1001));
        assert_eq!(term(&large, "room given"), ByteSize::mib(1000));
        assert!(
            large
                .to_string()
                .contains("room given, at first the initrd 1000 MiB")
        );
        let sum: u64 = large.terms.iter().map(|(_, size)| size.0).sum();
        assert_eq!((large.total, large.total), (large.need, ByteSize(sum)));
        // Of each MiB the kernel keeps some for itself.
        let more = larger.total.0 - large.total.0;
        assert!((1 << 20..=2 << 20).contains(&more), "{more}");
        // The initrd has to fit at first.
        assert_eq!(term(&room(1), "room given"), ByteSize::mib(40));
        // Other machines have the floor at least.
        let small = Needs {
            kernel: ByteSize::mib(11),
            kernel_end: 27 << 20,
            ..self::needs(1 << 20, 1 << 20, 10, 1)
        };
        let total = |spec| plan(&small, spec).unwrap().total;
        assert_eq!(total(MemorySpec::FromImage), FLOOR);
        assert!(total(MemorySpec::Room(ByteSize::mib(4))) < FLOOR);
    }

    fn term(plan: &MemoryPlan, name: &str) -> ByteSize {
        let mut terms = plan.terms.iter();
        let term = terms.find(|(other, _)| other.starts_with(name));
        term.unwrap_or_else(|| panic!("no {name} in {plan}")).1
    }

    #[test]
    fn files_and_programs_share_sixty_four_mebibytes() {
        let plan = plan(&needs(2 << 20, 2 << 20, 10, 1), MemorySpec::FromImage).unwrap();
        let (files, programs) = (term(&plan, "room to write"), term(&plan, "programs"));
        assert_eq!(files.0 + programs.0, ROOM.0, "{plan}");
        assert!(files > ByteSize::mib(45), "{plan}");
    }

    #[test]
    fn modules_count_in_the_initrd_unpacked_and_loaded() {
        let need = |mib: u64| {
            let plain = needs(2 << 20, 2 << 20, 10, 1);
            let with = Needs {
                own: ByteSize(plain.own.0 + (mib << 20)),
                modules: ByteSize::mib(mib),
                regions: ByteSize::mib(128),
                ..plain
            };
            plan(&with, MemorySpec::FromImage).unwrap().need.0 >> 20
        };
        let more = need(10) - need(0);
        assert!((30..=34).contains(&more), "{more} MiB");
    }

    fn small(packed: u64, unpacked: u64) -> Needs {
        Needs {
            kernel: ByteSize::mib(11),
            kernel_end: 28 << 20,
            ..needs(packed, unpacked, 10, 1)
        }
    }

    #[test]
    fn one_program_and_a_small_kernel_get_96_mebibytes_and_need_less() {
        let plan = plan(&small(2 << 20, 2 << 20), MemorySpec::FromImage).unwrap();
        assert_eq!(plan.total, ByteSize::mib(96), "{plan}");
        assert!(plan.need < ByteSize::mib(36), "{plan}");
        assert!(term(&plan, "room to write").0 > SMALL_ROOM.0 / 3, "{plan}");
    }

    #[test]
    fn the_initrd_has_its_place_above_the_kernel_wherever_that_lies() {
        for end in [28 << 20, 100 << 20, 3 << 30] {
            let needs = Needs {
                kernel_end: end,
                ..small(2 << 20, 2 << 20)
            };
            let plan = plan(&needs, MemorySpec::FromImage).unwrap();
            assert!(plan.need.0 >= end + (2 << 20) + needs.own.0, "{plan}");
            let sum: u64 = plan.terms.iter().map(|(_, size)| size.0).sum();
            assert_eq!(sum, plan.need.0, "{plan}");
        }
    }

    #[test]
    fn a_region_costs_its_page_structs_and_is_not_unpacked() {
        let with = |mib: u64| Needs {
            regions: ByteSize::mib(mib),
            ..small(100 << 10, 100 << 10)
        };
        for (mib, most) in [(112, 96), (928, 128)] {
            let plan = plan(&with(mib), MemorySpec::FromImage).unwrap();
            let sum: u64 = plan.terms.iter().map(|(_, size)| size.0).sum();
            assert_eq!(sum, plan.need.0, "{plan}");
            assert!(plan.need <= ByteSize::mib(most), "{plan}");
            // Kernel and initrd are in different pieces of RAM in QEMU.
            assert!(
                plan.need.0 >= (28 << 20) + QEMU_UPPER + QEMU_PIECES,
                "{plan}"
            );
            assert_eq!(plan.total, FLOOR_FOR_WORK, "{plan}");
            assert_eq!(
                term(&plan, "page structs of"),
                ByteSize(mib << 20 >> 6),
                "{plan}"
            );
        }
    }

    #[test]
    fn scratch_space_costs_a_sixtieth_of_ram_and_three_gibibytes_fit_beside_a_small_kernel() {
        for mib in [64, 3 << 10, 20 << 10] {
            let needs = Needs {
                scratch: ByteSize::mib(mib),
                ..small(2 << 20, 2 << 20)
            };
            let plan = plan(&needs, MemorySpec::FromImage).unwrap();
            let sum: u64 = plan.terms.iter().map(|(_, size)| size.0).sum();
            assert_eq!(sum, plan.need.0, "{plan}");
            let most = ByteSize::mib(44 + mib / 45);
            assert!(plan.need < most, "{mib} MiB: {plan}");
            assert_eq!(plan.total, plan.need.max(FLOOR_FOR_WORK), "{plan}");
            let structs = term(&plan, "page structs of the scratch");
            assert_eq!(structs, ByteSize(mib << 20 >> 6), "{plan}");
        }
    }

    #[test]
    fn half_of_what_kernel_and_initrd_leave_holds_the_image() {
        for (packed, unpacked, entries) in [
            (161, 172, 6681),
            (1, 1, 2_000_000),
            (3000, 3100, 9),
            (2, 2, 10),
        ] {
            for cpus in [1, 16] {
                let needs = needs(packed << 20, unpacked << 20, entries, cpus);
                let plan = plan(&needs, MemorySpec::FromImage).unwrap();
                let (kernel, own) = (term(&plan, "kernel"), term(&plan, "its own data"));
                let left = plan.need.0 - kernel.0 - own.0 - (packed << 20);
                let half = left.saturating_sub(plan.need.0 / PAGE_STRUCTS) / 2;
                assert!(half >= (unpacked << 20) + needs.own.0, "{plan}");
                assert!(half / PAGE >= entries, "{plan}");
            }
        }
    }

    #[test]
    fn a_root_that_keeps_its_half_has_room_to_write_in_it() {
        let needs = needs(161 << 20, 172 << 20, 6681, 1);
        let own = Needs {
            root_keeps_its_half: true,
            ..needs
        };
        let plan = |needs| plan(needs, MemorySpec::FromImage).unwrap();
        assert_eq!(plan(&own).need, plan(&needs).need);
        assert!(plan(&own).total.0 >= plan(&needs).total.0 + 2 * ROOM.0);
    }

    #[test]
    fn a_wish_below_the_need_is_refused_with_both_numbers() {
        let error = plan(&needs(0, 0, 1, 1), MemorySpec::Exactly(ByteSize::mib(32))).unwrap_err();
        assert_eq!(error.given, ByteSize::mib(32));
        let text = error.to_string();
        assert!(
            text.contains(&error.need.to_string()) && text.contains("32 MiB were given"),
            "{text}"
        );
    }

    proptest! {
        #[test]
        fn more_of_anything_never_needs_less(
            packed in 0u64..1 << 34, unpacked in 0u64..1 << 34, entries in 0u64..2_000_000, cpus in 1u8..16,
            more in 0u64..1 << 30,
        ) {
            let need = |n: &Needs| plan(n, MemorySpec::FromImage).unwrap().need;
            let base = need(&needs(packed, unpacked, entries, cpus));
            prop_assert!(need(&needs(packed + more, unpacked, entries, cpus)) >= base);
            prop_assert!(need(&needs(packed, unpacked + more, entries, cpus)) >= base);
            prop_assert!(need(&needs(packed, unpacked, entries + more % 1000, cpus)) >= base);
            prop_assert!(need(&needs(packed, unpacked, entries, cpus + 1)) >= base);
            prop_assert!(base.0 > packed.max(ROOM.0) + unpacked);
        }

        #[test]
        fn no_sizes_overflow(packed: u64, unpacked: u64, entries: u64) {
            let needs = Needs {
                root_keeps_its_half: true,
                ..needs(packed, unpacked, entries, 16)
            };
            let plan = plan(&needs, MemorySpec::FromImage).unwrap();
            prop_assert!(plan.need >= ROOM && plan.total >= plan.need);
        }
    }
}
