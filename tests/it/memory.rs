//! The RAM plan: arithmetic that boots. The bisection against the least RAM is in benches/memory.rs.

use std::fs::File;

use crate::support::{Image, Rdvm, busybox, engines, sized};

/// Sixty-four mebibytes into a file, by a program that needs next to nothing itself.
const WRITE_64_MIB: &str =
    "dd if=/dev/zero of=/written bs=64k count=1024 2>/dev/null && stat -c %s /written";

#[test]
fn the_planned_ram_boots_and_leaves_room_to_write_for_few_large_files() {
    for mebibytes in [1, 4, 16, 64, sized(256u64, 96)] {
        let image = Image::busybox();
        for part in 0..4 {
            let file = File::create(image.path().join(format!("part{part}"))).unwrap();
            file.set_len(mebibytes << 18).unwrap();
        }
        for engine in engines() {
            Rdvm::on(engine)
                .image(image.path())
                .sh(WRITE_64_MIB)
                .run()
                .exits(0)
                .prints("67108864\n");
        }
    }
}

#[test]
fn the_planned_ram_boots_and_leaves_room_to_write_for_a_gibibyte() {
    let image = Image::busybox();
    File::create(image.path().join("large"))
        .unwrap()
        .set_len(sized(1024, 192) << 20)
        .unwrap();
    for engine in engines() {
        Rdvm::on(engine)
            .image(image.path())
            .sh(WRITE_64_MIB)
            .run()
            .exits(0)
            .prints("67108864\n");
    }
}

#[test]
fn the_planned_ram_boots_and_leaves_room_to_write_for_fifty_thousand_small_files() {
    let image = Image::busybox();
    let directories = sized(200, 20);
    for directory in 0..directories {
        let path = image.path().join(format!("d{directory}"));
        std::fs::create_dir(&path).unwrap();
        for file in 0..250 {
            std::fs::write(path.join(format!("f{file}")), b"some bytes").unwrap();
        }
    }
    for engine in engines() {
        let run = Rdvm::on(engine)
            .image(image.path())
            .sh(&format!("find /d* -type f | wc -l; {WRITE_64_MIB}"))
            .run();
        run.exits(0)
            .prints(format!("{}\n67108864\n", directories * 250));
    }
}

#[test]
fn less_than_the_need_is_refused_with_both_numbers_before_anything_boots() {
    let run = Rdvm::verb("run")
        .option("-m")
        .option("64m")
        .image(busybox().path())
        .sh("true")
        .run();
    let run = run
        .exits(125)
        .says("rdvm: --memory: the image needs ")
        .says(", 64 MiB were given; raise it to ");
    assert!(run.stderr().contains(" = kernel "), "{}", run.stderr());
}

#[test]
fn more_than_the_need_is_what_the_guest_gets() {
    for engine in engines() {
        let rdvm = Rdvm::on(engine)
            .option("-m")
            .option("512m")
            .image(busybox().path());
        let run = rdvm
            .sh("sed -n 's/MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo; grep '^rootfs / ' /proc/mounts")
            .run()
            .exits(0);
        let text = run.stdout();
        let total: u64 = text.lines().next().unwrap().parse().unwrap();
        assert!((430_000..512 * 1024).contains(&total), "{text}");
        assert!(text.contains("size="), "a tmpfs with a size: {text}");
    }
}

#[test]
fn inspect_and_dry_run_print_the_sum_and_boot_nothing() {
    let image = busybox().path();
    let run = Rdvm::verb("inspect").option(image).run().exits(0);
    let text = run.stdout();
    for part in [
        "kernel ",
        "unpacked files ",
        "inodes ",
        "room to write",
        "page structs ",
        "the kernel's reserves ",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let run = Rdvm::verb("run")
        .option("--dry-run")
        .image(image)
        .sh("true")
        .run();
    let run = run.exits(0).prints("").says("rdvm: ram ");
    let sum = run
        .stderr()
        .lines()
        .find_map(|line| line.strip_prefix("rdvm: ram ").map(str::to_owned))
        .unwrap();
    assert!(text.contains(&sum), "inspect and --dry-run agree");
}
