//! Plans for benches/timeline.rs: what is run, and what its phases come to.

use std::path::Path;

use crate::tsv::{self, Sums, phases, row, three_digits};

/// The engine that runs of rdvm are on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Engine {
    Kvm,
    Qemu,
}

impl Engine {
    /// As rdvm's `--engine` takes it.
    fn word(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Qemu => "qemu",
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Kvm => "KVM",
            Self::Qemu => "QEMU",
        }
    }
}

/// Name and file of each kernel that is booted.
pub(crate) fn kernels<'a>(small: Option<&'a str>, debian: &'a str) -> Vec<(&'static str, &'a str)> {
    let small = small.map(|file| ("small kernel", file));
    small
        .into_iter()
        .chain([("Debian's kernel", debian)])
        .collect()
}

/// Runs of the images in a directory with each kernel; ENDING is what their names have behind them as archives.
pub(crate) fn runs(
    engine: Engine,
    label: Option<&str>,
    dir: &str,
    names: &[&str],
    ending: &str,
    kernels: &[(&str, &str)],
) -> String {
    let mut plan = String::new();
    for (kernel, file) in kernels {
        for name in names {
            let command = if *name == "debian-image" {
                "/bin/true"
            } else {
                "/hello"
            };
            let labels = [label.unwrap_or(engine.label()), kernel, name];
            let image = format!("{dir}/{name}{ending}");
            let words = [
                "--engine",
                engine.word(),
                "--report",
                "REPORT",
                "-k",
                file,
                &image,
                command,
            ];
            plan += &row(&[&labels[..], &["rdvm", "run", "-q"], &words].concat());
        }
    }
    plan
}

/// The same by QEMU's microvm on KVM, of archives; options as in benches/boot.rs.
pub(crate) fn peers(dir: &str, names: &[&str], kernels: &[(&str, &str)]) -> String {
    const OPTIONS: &str = "qemu-system-x86_64 -accel kvm -cpu host -M microvm,rtc=on,pit=off,pic=off,isa-serial=off -m 640 -nodefaults -no-user-config -no-reboot -display none -chardev null,id=console -device isa-serial,chardev=console,index=0 -chardev null,id=stdout -device isa-serial,chardev=stdout,index=1";
    const WORDS: &str = "console=ttyS0 8250.nr_uarts=4 panic=-1 reboot=t cryptomgr.notests random.trust_cpu=on quiet loglevel=1 rdinit=/init";
    let options: Vec<&str> = OPTIONS.split(' ').collect();
    let mut plan = String::new();
    for (kernel, file) in kernels {
        for name in names {
            let archive = format!("{dir}/{name}.cpio");
            let words = ["-kernel", file, "-initrd", &archive, "-append", WORDS];
            plan += &row(&[&["QEMU microvm", kernel, name][..], &options, &words].concat());
        }
    }
    plan
}

/// Bytes in and out of the image DIR/libs; DIR/blob.SIZE has as many. What goes by a serial port stops at MOST bytes.
pub(crate) fn ports(engine: Engine, dir: &str, sizes: &[u64], most: u64) -> String {
    // Through a shell, which gives it its standard input.
    let run = |port: &str, size: u64, words: &str| {
        let script = format!(
            "exec rdvm run -q --engine {} -m 640m {words}",
            engine.word()
        );
        row(&[port, engine.label(), &size.to_string(), "sh", "-c", &script])
    };
    let libs = format!("{dir}/libs");
    let mut plan = run("nothing", 0, &format!("{libs} busybox true </dev/null"));
    for &size in sizes {
        for (way, by, limit) in [("", "", u64::MAX), ("--ports uart", ", by the port", most)] {
            if size > limit {
                continue;
            }
            for (stream, script) in [
                ("standard output", zeros(size, size.min(65536))),
                (
                    "standard error",
                    zeros(size, size.min(65536)).replace("3>&1", "3>&2"),
                ),
                ("standard output, 10 bytes a write", zeros(size, 10)),
            ] {
                let words = format!("{way} {libs} -- busybox sh -c '{script}'");
                if !stream.ends_with("write") || size <= most {
                    plan += &run(&format!("{stream}{by}"), size, &words);
                }
            }
        }
        let blob = format!("{dir}/blob.{size}");
        plan += &run(
            "standard input",
            size,
            &format!("-i {libs} busybox dd of=/dev/null bs=64k <{blob}"),
        );
        plan += &run(
            "--copy-in",
            size,
            &format!("--copy-in {blob}:/blob {libs} busybox true"),
        );
        plan += &network(engine, dir, size);
        let copy = format!("--copy-out /blob:{dir}/out {libs} busybox truncate -s {size} /blob");
        plan += &run("--copy-out", size, &copy);
    }
    plan
}

/// The file of this size from a web server of the host's, through the proxy.
fn network(engine: Engine, dir: &str, size: u64) -> String {
    const SERVER: &str = "127.0.0.2:8098";
    let script = format!(
        "busybox httpd -f -p {SERVER} -h {dir} & server=$!; \
         rdvm run -q --engine {} -m 640m --allow {SERVER} {dir}/libs busybox wget -q -O /dev/null http://{SERVER}/blob.{size}; \
         result=$?; kill $server; exit $result",
        engine.word()
    );
    row(&[
        "network",
        engine.label(),
        &size.to_string(),
        "sh",
        "-c",
        &script,
    ])
}

/// A script that prints so many bytes, so many of them at a time.
fn zeros(size: u64, at_a_time: u64) -> String {
    let count = size / at_a_time;
    // What it says itself goes elsewhere.
    format!(
        "busybox dd if=/dev/zero of=/proc/self/fd/3 bs={at_a_time} count={count} 3>&1 2>/dev/null"
    )
}

/// Throughput by the phases of such a plan. The time of a run that carries nothing is taken away; where what is left is less
/// than NOISE times that, it may be noise, and is left out.
pub(crate) fn speeds(text: &str, noise: f64) -> String {
    let mut nothing = 0.0;
    let mut sums = Sums::new();
    for phase in phases(text) {
        match phase.labels {
            ["nothing", ..] => nothing += phase.ms,
            [port, _, bytes] => sums.add((port, bytes), phase.ms),
        }
    }
    let mut table = tsv::row(&["what", "bytes", "MB/s"]);
    for ((port, bytes), sum) in sums.0 {
        let ms = sum - nothing;
        if ms > nothing * noise {
            let speed = bytes.parse::<f64>().unwrap_or(0.0) / ms / 1e3;
            table += &row(&[port, bytes, &three_digits(speed)]);
        }
    }
    table
}

/// The images of whole runs that are there below a directory.
pub(crate) fn images_in(dir: &Path) -> Vec<&'static str> {
    let mut names = vec!["hello", "debian-image", "files"];
    names.retain(|name| dir.join(name).is_dir());
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_has_labels_and_a_command_in_each_line() {
        let kernels = kernels(Some("/small"), "/boot/k");
        let plan = runs(
            Engine::Kvm,
            None,
            "/bench",
            &["hello", "debian-image"],
            "",
            &kernels,
        );
        assert_eq!(plan.lines().count(), 4);
        assert!(plan.starts_with(
            "KVM\tsmall kernel\thello\trdvm\trun\t-q\t--engine\tkvm\t--report\tREPORT\t-k\t/small\t/bench/hello\t/hello\n"
        ));
        let archive = runs(
            Engine::Kvm,
            Some("rdvm of the archive"),
            "/bench",
            &["files"],
            ".cpio",
            &kernels,
        );
        assert!(
            archive.starts_with("rdvm of the archive\t")
                && archive.contains("/bench/files.cpio\t/hello")
        );
        assert_eq!(
            ports(Engine::Qemu, "/b", &[4, 8], 4).lines().count(),
            1 + 10 + 6
        );
        let peer = peers("/bench", &["hello"], &kernels);
        assert!(
            peer.lines()
                .all(|line| line.split('\t').all(|word| !word.is_empty())),
            "{peer}"
        );
    }

    #[test]
    fn speeds_are_above_a_run_that_carries_nothing() {
        let text = "nothing\tKVM\t0\twhole run\t10\nout\tKVM\t4000\twhole run\t12\nin\tKVM\t4000\twhole run\t10.1\n";
        assert_eq!(
            speeds(text, 0.0),
            "what\tbytes\tMB/s\nout\t4000\t2\nin\t4000\t40\n"
        );
        assert_eq!(speeds(text, 0.05), "what\tbytes\tMB/s\nout\t4000\t2\n");
    }
}
