//! The RAM plan: arithmetic that boots. The bisection against the least RAM is in benches/memory.rs.

use std::fs::File;
use std::path::Path;

use rdvm_hostfs::units::ByteSize;

use crate::support::{Image, Rdvm, any_engine, busybox, engines, is_small, left_out, sized};

/// A term of the sum that `rdvm inspect` prints, by a part of its name.
fn term(image: &Path, name: &str) -> ByteSize {
    let text = Rdvm::verb("inspect").option(image).run().exits(0).stdout();
    let sum = text.lines().find(|line| line.starts_with("memory "));
    let term = sum.unwrap().split(" + ").find(|term| term.contains(name));
    let mut words = term.unwrap().rsplit(' ');
    let (unit, number) = (words.next().unwrap(), words.next().unwrap());
    format!("{number}{unit}").parse().unwrap()
}

/// What the plan promises: that the command can write so much, with a program that needs next to nothing itself.
fn writes_its_room(image: &Path, before: &str, said: &str) {
    let blocks = (term(image, "room to write").0 >> 20) * 16;
    let script = format!(
        "{before}dd if=/dev/zero of=/written bs=64k count={blocks} 2>/dev/null && stat -c %s /written"
    );
    for engine in engines() {
        let run = Rdvm::on(engine).image(image).sh(&script).run();
        run.exits(0).prints(format!("{said}{}\n", blocks << 16));
    }
}

#[test]
fn the_planned_ram_boots_and_leaves_its_room_to_write_for_few_large_files() {
    let all = [1, 4, 10, 16, 64, 256];
    let edges = [1, 16, 96];
    for &mebibytes in if is_small() { &edges[..] } else { &all } {
        let image = Image::busybox();
        for part in 0..4 {
            let file = File::create(image.path().join(format!("part{part}"))).unwrap();
            file.set_len(mebibytes << 18).unwrap();
        }
        writes_its_room(image.path(), "", "");
    }
}

#[test]
fn the_planned_ram_boots_and_leaves_its_room_to_write_for_a_gibibyte() {
    let image = Image::busybox();
    File::create(image.path().join("large"))
        .unwrap()
        .set_len(sized(1024, 192) << 20)
        .unwrap();
    writes_its_room(image.path(), "", "");
}

#[test]
fn the_planned_ram_boots_and_leaves_its_room_to_write_for_fifty_thousand_small_files() {
    engines(); // Known for a scenario before it makes the files.
    let image = Image::busybox();
    let directories = sized(200, 20);
    for directory in 0..directories {
        let path = image.path().join(format!("d{directory}"));
        std::fs::create_dir(&path).unwrap();
        for file in 0..250 {
            std::fs::write(path.join(format!("f{file}")), b"some bytes").unwrap();
        }
    }
    let files = format!("{}\n", directories * 250);
    writes_its_room(image.path(), "find /d* -type f | wc -l; ", &files);
}

/// The least that `-m` takes is what was planned; `auto` gives a small image more.
#[test]
fn the_need_itself_boots() {
    let image = busybox().path();
    let refusal = Rdvm::verb("run").option("-m").option("8m").image(image);
    let refusal = refusal.sh("true").run().exits(125).stderr();
    let need = refusal.split("raise it to ").nth(1).unwrap();
    let mut words = need.split(' ');
    let need = format!("{}{}", words.next().unwrap(), words.next().unwrap());
    for engine in engines() {
        let run = Rdvm::on(engine).option("-m").option(&need).image(image);
        run.sh("echo on").run().exits(0).prints("on\n");
    }
}

#[test]
fn who_writes_more_than_there_is_gets_an_error_and_not_a_dead_machine() {
    let image = busybox().path();
    for engine in any_engine() {
        let run = Rdvm::on(engine).image(image);
        let run = run
            .sh("dd if=/dev/zero of=/written bs=64k 2>&1 | grep -o 'No space.*'; rm /written; echo on")
            .run();
        run.exits(0).prints("No space left on device\non\n");
    }
}

/// A mebibyte of words is in the record, in PID 1 and with the command.
#[test]
fn many_words_are_planned_for() {
    let image = busybox().path();
    for engine in any_engine() {
        let mut run = Rdvm::on(engine);
        for number in 0..9 {
            let variable = format!("WORDS{number}={}", "x".repeat(100_000));
            run = run.option("-e").option(variable);
        }
        let run = run.image(image).sh("env | wc -c").run().exits(0);
        assert!(run.stdout().trim().parse::<u64>().unwrap() > 900_000);
    }
}

#[test]
fn one_small_program_and_a_small_kernel_get_96_mebibytes_at_most() {
    let image = busybox().path();
    if term(image, "kernel").0 >= 24 << 20 {
        left_out("there is no small kernel (rdvm kernel build)");
        return;
    }
    for engine in engines() {
        let run = Rdvm::on(engine).image(image);
        let run = run.sh("sed -n 's/MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo");
        let total: u64 = run.run().exits(0).stdout().trim().parse().unwrap();
        assert!(total < 96 << 10, "{total} KiB");
    }
}

#[test]
fn less_than_the_need_is_refused_with_both_numbers_before_anything_boots() {
    let run = Rdvm::verb("run")
        .option("-m")
        .option("16m")
        .image(busybox().path())
        .sh("true")
        .run();
    let run = run
        .exits(125)
        .says("rdvm: --memory: the image needs ")
        .says(", 16 MiB were given; raise it to ");
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

/// The line about the RAM in what rdvm said.
fn ram_line(stderr: &str) -> String {
    let mut lines = stderr.lines();
    let line = lines.find(|line| line.starts_with("rdvm: ram "));
    line.unwrap_or_else(|| panic!("no line about the RAM: {stderr}"))
        .to_owned()
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
    let line = ram_line(&run.stderr());
    let sum = line.strip_prefix("rdvm: ram ").unwrap();
    assert!(text.contains(sum), "inspect and --dry-run agree");
}
