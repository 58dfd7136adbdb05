//! What a machine is made of, and what keeps one from being made: CPUs, RAM, the engine, the host's limits.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use rdvm_vmm::probe::{self, KvmState};

use crate::support::{Image, RDVM, Rdvm, Run, busybox, engines, left_out, sized, while_sleeping};

#[test]
fn processes_run_on_every_cpu_that_was_asked_for() {
    // The number of the CPU that a process last ran on is the 39th field.
    let script = "for n in 0 1 2; do busybox taskset $((1 << n)) busybox awk '{ print $39 }' /proc/self/stat; done";
    for engine in engines() {
        let run = Rdvm::on(engine).option("--cpus").option("3");
        let run = run.image(busybox().path()).sh(script).run();
        run.exits(0).prints("0\n1\n2\n");
    }
}

#[test]
fn a_guest_has_all_of_the_ram_above_the_hole_below_four_gibibytes() {
    let gibibytes = sized(6u64, 4);
    let host = fs::read_to_string("/proc/meminfo").unwrap();
    let total = host.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let total: u64 = total
        .unwrap()
        .trim_end_matches("kB")
        .trim()
        .parse()
        .unwrap();
    if total < gibibytes << 20 {
        left_out(&format!("the host has less than {gibibytes} GiB of RAM"));
        return;
    }
    for engine in engines() {
        let run = Rdvm::on(engine)
            .option("-m")
            .option(format!("{gibibytes}g"));
        let run = run
            .image(busybox().path())
            .sh("busybox awk '/^MemTotal/ { print $2 }' /proc/meminfo")
            .run()
            .exits(0);
        let kibibytes: u64 = run.stdout().trim().parse().unwrap();
        // A page of 64 bytes for each page of RAM, and the kernel.
        let whole = gibibytes << 20;
        assert!(
            (whole - whole / 16..whole).contains(&kibibytes),
            "{engine}: {kibibytes}"
        );
    }
}

/// Two files of a GiB each, without a byte on the host's disk. In the initrd they are 2 GiB and some more, which is
/// above the highest address that a kernel's header allows for it.
#[test]
fn an_initrd_of_two_gibibytes_is_unpacked_whole() {
    if std::env::var_os("RDVM_TEST_BIG").is_none() {
        left_out("it takes minutes; make test-big runs it");
        return;
    }
    let image = Image::busybox();
    for name in ["a", "b"] {
        let file = fs::File::create(image.path().join(name)).unwrap();
        file.set_len(1 << 30).unwrap();
    }
    let script =
        "busybox stat -c %s /a /b; busybox tail -c 100 /b | busybox tr -d '\\0' | busybox wc -c";
    for engine in engines() {
        let run = Rdvm::on(engine).image(image.path()).sh(script).run();
        run.exits(0).prints("1073741824\n1073741824\n0\n");
    }
}

#[test]
fn kvm_that_cannot_be_used_is_refused_with_the_reason_and_auto_says_why_it_takes_qemu() {
    let has_qemu = engines().contains(&"qemu");
    let state = probe::kvm();
    if state == KvmState::Usable {
        left_out("KVM can be used here");
        return;
    }
    // No image is looked at: it is the engine that is wrong.
    let run = Rdvm::on("kvm").image("/nowhere").run();
    run.exits(125)
        .prints("")
        .says_only(&format!("rdvm: {state}, or use --engine qemu\n"));
    if has_qemu {
        let home = tempfile::tempdir().unwrap();
        let auto = |option: &[&str]| {
            let run = option.iter().fold(Rdvm::verb("run"), Rdvm::option);
            let run = run.with_variable("RDVM_CACHE", home.path());
            let run = run.image(busybox().path());
            run.command(&["busybox", "true"]).run().exits(0)
        };
        let why = format!("rdvm: {}; running in QEMU, slower", state.reason());
        auto(&["-q"]).says_only("");
        auto(&[]).says_only(&format!("{why} (said once a day)\n"));
        auto(&[]).says_only("");
        auto(&["--verbose"]).says(&format!("{why}\n"));
    }
}

/// `rdvm run` below a limit of the shell's.
fn limited(engine: &str, limit: &str) -> Run {
    let script = format!("ulimit {limit}; exec \"$@\"");
    let output = Command::new("sh")
        .args([
            "-c", &script, "sh", RDVM, "run", "-m", "128m", "--engine", engine,
        ])
        .arg(busybox().path())
        .args(["busybox", "echo", "on"])
        .stdin(Stdio::null())
        .output();
    Run(output.unwrap())
}

#[test]
fn a_host_that_gives_too_little_gets_one_line_and_nothing_is_left() {
    for engine in engines() {
        // Sixteen descriptors are enough for one CPU, eight are not; no address space is left for the guest's RAM.
        for (limit, least) in [("-n 16", 0), ("-n 8", 1), ("-v 90000", 1)] {
            let run = limited(engine, limit);
            let (code, stderr) = (run.0.status.code(), run.stderr());
            let fine = code == Some(0) && run.stdout() == "on\n";
            assert!(
                fine && least == 0 || code == Some(125),
                "{engine} {limit}: {code:?} {stderr}"
            );
            assert!(!stderr.contains("panicked"), "{engine} {limit}: {stderr}");
            let lines = stderr
                .lines()
                .filter(|line| line.starts_with("rdvm: "))
                .count();
            assert_eq!(lines, usize::from(!fine), "{engine} {limit}: {stderr}");
        }
    }
}

/// Resident memory of a process in KiB: of mappings below 12 MiB anonymous and all, of larger ones all. The guest's 96 MiB
/// are two: below the kernel, and from it on with huge pages.
fn resident(pid: u32) -> (u64, u64, u64) {
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let field = |line: &str, name: &str| -> Option<u64> {
        let rest = line.strip_prefix(name)?.trim().strip_suffix(" kB")?;
        rest.trim().parse().ok()
    };
    let (mut size, mut sums) = (0, (0, 0, 0));
    for line in maps.lines() {
        size = field(line, "Size:").unwrap_or(size);
        let is_ram = size >= 12 << 10;
        match (field(line, "Rss:"), field(line, "Anonymous:")) {
            (Some(all), _) if is_ram => sums.2 += all,
            (Some(all), _) => sums.1 += all,
            (_, Some(anonymous)) if !is_ram => sums.0 += anonymous,
            _ => {}
        }
    }
    sums
}

#[test]
fn rdvm_itself_takes_little_memory_on_kvm() {
    while_sleeping(&["kvm"], |_, child| {
        let (anonymous, all, ram) = resident(child.id());
        eprintln!("rdvm itself: {anonymous} KiB anonymous, {all} KiB in all; guest RAM {ram} KiB");
        assert!(ram > 10 << 10, "{ram} KiB of guest RAM");
        assert!(anonymous < 1536, "{anonymous} KiB");
        // Unoptimised code is larger.
        assert!(cfg!(debug_assertions) || all < 4 << 10, "{all} KiB");
    });
}

#[test]
fn a_sleeping_guest_leaves_the_host_alone() {
    let ticks = |pid: u32| -> u64 {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields = stat.split_whitespace().skip(13).take(2);
        fields.map(|field| field.parse::<u64>().unwrap()).sum()
    };
    while_sleeping(&["kvm"], |_, child| {
        std::thread::sleep(Duration::from_secs(1));
        let before = ticks(child.id());
        std::thread::sleep(Duration::from_secs(3));
        let used = ticks(child.id()) - before;
        // Hundredths of a second; the guest's own ticks and one look a second.
        assert!(used < 100, "{used} of 300");
    });
}
