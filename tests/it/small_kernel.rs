//! What the small kernel runs: a test for each claim of kernels/README.md.
//!
//! Those that need tools share two machines with the image `tools` on the QEMU engine, in which a script tries half of them
//! each and says of each how it went (`small_kernel/claims.sh`). The others are a machine each, on every engine.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::support::scenario::this_is_none;
use crate::support::{Image, Rdvm, any_engine, engines, is_missing, missing, reference_image};

const SCRIPT: &str = include_str!("small_kernel/claims.sh");

/// The claims that the script tries, in its order.
const CLAIMS: [&str; 18] = [
    "dpkg",
    "apt",
    "gcc",
    "make",
    "git",
    "python",
    "node",
    "service",
    "user_namespaces",
    "overlayfs",
    "cgroup_memory",
    "cgroup_pids",
    "cgroup_cpu",
    "loop_ext4",
    "loop_squashfs",
    "fuse",
    "ipv4",
    "ipv6",
];

/// The small kernel of this user, as `make test` builds it.
pub(crate) fn small_kernel() -> Option<PathBuf> {
    let list = Rdvm::verb("kernel").option("list").run().exits(0).stdout();
    let built = list.lines().find(|line| line.contains("/kernel/vmlinux"));
    let path = built.and_then(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    if path.is_none() {
        missing("the small kernel (make kernel builds it)");
    }
    path.map(PathBuf::from)
}

/// The output of the script for each claim, `None` where kernel, image or engine are missing. The tests of one machine wait for it:
/// with two, whose claims alternate, two CPUs are busy meanwhile.
fn verdicts(claim: &str) -> Option<&'static HashMap<String, String>> {
    static VERDICTS: [OnceLock<Option<HashMap<String, String>>>; 2] =
        [const { OnceLock::new() }; 2];
    let position = CLAIMS.iter().position(|known| *known == claim);
    let half = position.expect("the claim is tried") % 2;
    let run = || {
        let (kernel, image) = (small_kernel()?, reference_image("tools")?);
        if is_missing("qemu-system-x86_64") {
            missing("qemu-system-x86_64");
            return None;
        }
        let run = Rdvm::on("qemu").option("-k").option(kernel);
        let tried: Vec<&str> = CLAIMS.into_iter().skip(half).step_by(2).collect();
        let claims = format!("CLAIMS={}", tried.join(" "));
        let run = run.option("-e").option(claims).image(image);
        let said = run.sh(SCRIPT).run().exits(0).stdout();
        let mut verdicts = HashMap::new();
        let mut words = String::new();
        for line in said.lines() {
            words += line;
            words.push('\n');
            if let Some((claim, "ok" | "failed")) = line.split_once(' ') {
                verdicts.insert(claim.to_owned(), std::mem::take(&mut words));
            }
        }
        Some(verdicts)
    };
    VERDICTS[half].get_or_init(run).as_ref()
}

/// Asserts that the script succeeded with `claim`.
#[track_caller]
fn holds(claim: &str) {
    this_is_none();
    let Some(verdicts) = verdicts(claim) else {
        return;
    };
    let words = verdicts.get(claim).map(String::as_str);
    assert_eq!(words, Some(format!("{claim} ok\n").as_str()));
}

macro_rules! claims {
    ($($name:ident: $claim:literal;)*) => {
        $(
            #[test]
            fn $name() {
                holds($claim);
            }
        )*

        #[test]
        fn every_claim_of_the_script_has_its_test() {
            assert_eq!([$($claim),*], CLAIMS);
            for claim in CLAIMS {
                assert!(SCRIPT.contains(&format!("\nclaim_{claim}() {{\n")), "{claim}");
            }
            assert_eq!(SCRIPT.matches("\nclaim_").count(), CLAIMS.len());
        }
    };
}

claims! {
    dpkg_builds_installs_configures_and_removes_a_package: "dpkg";
    apt_updates_from_files_and_installs: "apt";
    gcc_compiles_a_program_with_threads: "gcc";
    make_runs_jobs_side_by_side: "make";
    git_commits_and_clones: "git";
    python_has_processes_and_threads: "python";
    node_has_timers_files_children_and_sockets: "node";
    a_daemon_runs_without_systemd: "service";
    a_user_makes_a_namespace_of_their_own: "user_namespaces";
    an_overlay_leaves_what_is_below_as_it_was: "overlayfs";
    a_group_is_limited_in_memory: "cgroup_memory";
    a_group_is_limited_in_processes: "cgroup_pids";
    a_group_is_limited_in_time_of_the_cpu: "cgroup_cpu";
    an_image_of_ext4_is_mounted_and_written: "loop_ext4";
    images_of_squashfs_are_mounted: "loop_squashfs";
    a_program_is_a_file_system: "fuse";
    ipv4_works_on_loopback: "ipv4";
    ipv6_works_on_loopback: "ipv6";
}

/// A run with the small kernel.
fn on(engine: &str, kernel: &PathBuf) -> Rdvm {
    Rdvm::on(engine).option("-k").option(kernel)
}

#[test]
fn debian_is_a_user_space() {
    let (Some(kernel), Some(image)) = (small_kernel(), reference_image("debian")) else {
        return;
    };
    for engine in any_engine() {
        let script = "set -e; . /etc/os-release; test -n \"$ID\"; dpkg --audit; perl -e 'print \"perl\\n\"'; bash -c 'echo $0'";
        let run = on(engine, &kernel).image(&image).sh(script).run();
        run.exits(0).prints("perl\nbash\n").says_only("");
    }
}

/// Busybox as the shell, and a program linked with musl's loader, which has another idea of threads and of the stack.
#[test]
fn what_alpine_has_is_a_user_space() {
    let Some(kernel) = small_kernel() else { return };
    if is_missing("musl-gcc") {
        missing("musl-gcc");
        return;
    }
    let source = "#include <pthread.h>\n#include <stdio.h>\n
        static void *answer(void *to) { *(int *)to = 42; return 0; }
        int main(void) { pthread_t t; int n; pthread_create(&t, 0, answer, &n); pthread_join(t, 0);
        printf(\"%d\\n\", n); return 0; }";
    let image = Image::busybox().file("answer.c", 0o644, source);
    let compiled = Command::new("musl-gcc")
        .args(["-Os", "-s", "-o"])
        .arg(image.path().join("bin/answer"))
        .arg(image.path().join("answer.c"))
        .status();
    assert!(compiled.unwrap().success());
    let loader = "/lib/ld-musl-x86_64.so.1";
    let image = image.file(&loader[1..], 0o755, std::fs::read(loader).unwrap());
    let run = on("qemu", &kernel).image(image.path());
    let script = "set -e; answer; echo $(busybox uname -s)";
    run.sh(script)
        .run()
        .exits(0)
        .prints("42\nLinux\n")
        .says_only("");
}

/// One static program, users, and nothing else: no shell, no libraries, and nobody is root.
#[test]
fn what_is_distroless_is_a_user_space() {
    let Some(kernel) = small_kernel() else { return };
    let users =
        "root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532::/home/nonroot:/sbin/nologin\n";
    let image = Image::empty()
        .program("calls", "calls")
        .file("etc/passwd", 0o644, users);
    for engine in any_engine() {
        let run = on(engine, &kernel).option("--user").option("nonroot");
        let run = run.image(image.path()).command(&["/calls", "nobody"]);
        run.run().exits(0).prints("ok\n").says_only("");
    }
}

#[test]
fn a_seccomp_filter_refuses_a_call() {
    for engine in engines() {
        works(engine, "seccomp");
    }
}

#[test]
fn io_uring_writes_a_file() {
    for engine in engines() {
        works(engine, "io_uring");
    }
}

/// What `tests/programs/calls.c` does with a system call.
fn works(engine: &str, call: &str) {
    let Some(kernel) = small_kernel() else { return };
    let image = Image::empty().program("calls", "calls");
    let run = on(engine, &kernel).image(image.path());
    let run = run.command(&["/calls", call]).run();
    run.exits(0).prints("ok\n").says_only("");
}

/// Without tools: that the parts are there on every engine.
#[test]
fn namespaces_groups_overlays_and_addresses_need_no_tools() {
    let Some(kernel) = small_kernel() else { return };
    let image = Image::busybox().directory("mnt", 0o755);
    let script = "set -e; B=/bin/busybox; cd /mnt
        $B unshare -U -r -m sh -ec '$0 id -u; $0 mount -t tmpfs none /tmp' $B
        $B mount -t tmpfs none /mnt; $B mkdir /mnt/l /mnt/u /mnt/w /mnt/m; echo low >/mnt/l/file
        $B mount -t overlay -o lowerdir=/mnt/l,upperdir=/mnt/u,workdir=/mnt/w none /mnt/m
        echo high >/mnt/m/file; $B cat /mnt/l/file /mnt/u/file
        echo +memory +pids +cpu >/sys/fs/cgroup/cgroup.subtree_control; $B mkdir /sys/fs/cgroup/g
        $B ls /sys/fs/cgroup/g/memory.max /sys/fs/cgroup/g/pids.max /sys/fs/cgroup/g/cpu.max | $B wc -l
        $B ping -c 1 127.0.0.1 >/dev/null; $B ping6 -c 1 ::1 >/dev/null
        $B ls /dev/fuse /dev/loop-control; $B zcat /proc/config.gz | $B grep -c '^CONFIG_PVH=y'";
    for engine in engines() {
        let run = on(engine, &kernel).image(image.path()).sh(script).run();
        run.exits(0)
            .prints("0\nlow\nhigh\n3\n/dev/fuse\n/dev/loop-control\n1\n");
    }
}

/// What it occupies decides on how little RAM a machine can have, and is touched at every start.
#[test]
fn the_small_kernel_is_small() {
    use rdvm::request::KernelSpec;
    use rdvm_kernel::{Search, open};
    let Some(path) = small_kernel() else { return };
    let kernel = open(&KernelSpec::File(path), None, &Search::default()).unwrap();
    let bytes = kernel.memory_bytes();
    assert!(bytes < 8 << 20, "{bytes} bytes");
}

fn check(file: impl AsRef<OsStr>) -> Rdvm {
    Rdvm::verb("kernel").option("check").option(file)
}

#[test]
fn the_small_kernel_has_every_feature_and_says_so_itself() {
    let Some(kernel) = small_kernel() else { return };
    let text = check(&kernel).run().exits(0).stdout();
    assert!(
        text.ends_with("this kernel has all that rdvm makes use of\n"),
        "{text}"
    );
    let json = check(&kernel).option("--json").run().exits(0).stdout();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["can_run"], true);
    assert_eq!(json["config"], kernel.to_str().unwrap());
}

#[test]
fn a_kernel_that_cannot_run_images_is_told_by_the_exit_code() {
    let image = Image::empty()
        .file("config", 0o644, "CONFIG_64BIT=y\nCONFIG_FUSE_FS=m\n")
        .file("text", 0o644, "hello\n");
    let run = check(image.path().join("config")).run().exits(1);
    let text = run.stdout();
    assert!(text.starts_with("FAIL  image as initrd: the kernel finds no root file system and panics\n      CONFIG_BLK_DEV_INITRD is off\n"), "{text}");
    let run = check(image.path().join("text")).run().exits(125).prints("");
    run.says("is no kernel and no configuration of one; name a kernel, its .config or config.gz\n");
    let run = check(image.path().join("none")).run().exits(125);
    run.says("none: no such file; name a kernel, its .config or config.gz\n");
}

/// Distributions' kernels have what is required; of the rest much is in modules.
#[test]
fn the_kernels_of_distributions_can_run_images() {
    let boot = std::fs::read_dir("/boot").unwrap().flatten();
    let is_config = |name: &str| name.starts_with("config-");
    let configs = boot.filter(|entry| entry.file_name().to_str().is_some_and(is_config));
    for config in configs {
        let text = check(config.path()).run().exits(0).stdout();
        assert!(text.contains("\nok    boot on QEMU\n"), "{text}");
    }
}
