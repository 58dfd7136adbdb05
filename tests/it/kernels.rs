//! Kernels of distributions: each boots, in each form; each compression gives the same kernel; wrong files and bad
//! places for the cache have their one line. The files are fetched by scripts/get-kernels.sh.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use rdvm::request::KernelSpec;
use rdvm_kernel::{KernelImage, Search};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::support::scenario::this_is_none;
use crate::support::{RDVM, Rdvm, Run, busybox, engines, missing, note_run};

/// The kernels that were fetched: two releases, cloud and generic; Ubuntu's cloud kernel may be its generic one.
pub(crate) fn kernels() -> &'static [PathBuf] {
    static KERNELS: OnceLock<Vec<PathBuf>> = OnceLock::new();
    KERNELS.get_or_init(|| {
        let directory = std::env::var_os("RDVM_TEST_KERNELS");
        let directory = directory.map_or_else(|| "target/kernels".into(), PathBuf::from);
        let files = fs::read_dir(&directory).into_iter().flatten().flatten();
        let is_kernel = |path: &PathBuf| release(path).is_some();
        let mut kernels: Vec<_> = files.map(|f| f.path()).filter(is_kernel).collect();
        kernels.sort();
        if kernels.is_empty() {
            let directory = directory.display();
            missing(&format!(
                "{directory}/vmlinuz-* (scripts/get-kernels.sh fetches them)"
            ));
        }
        kernels
    })
}

fn release(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()?.strip_prefix("vmlinuz-")
}

/// A line that shows although the test passes, as what `eprintln` prints does not.
fn say(line: &str) {
    let line = format!("{line}\n");
    io::stderr().write_all(line.as_bytes()).unwrap();
}

fn sha256(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A little-endian 32-bit number.
fn number(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// A bzImage in two parts: what stands before the payload, and the payload.
fn split(bzimage: &[u8]) -> (&[u8], &[u8]) {
    let setup = (usize::from(bzimage[0x1f1]) + 1) * 512;
    let start = setup + number(bzimage, 0x248);
    (
        &bzimage[..start],
        &bzimage[start..start + number(bzimage, 0x24c)],
    )
}

/// The same bzImage around another payload. It has no code behind it any more that could unpack it in a guest.
fn join(head: &[u8], payload: &[u8]) -> Vec<u8> {
    let setup = (usize::from(head[0x1f1]) + 1) * 512;
    let mut bzimage = [head, payload].concat();
    let proper = (bzimage.len() - setup).next_multiple_of(16);
    bzimage.resize(setup + proper, 0);
    bzimage[0x1f4..0x1f8].copy_from_slice(&(proper as u32 / 16).to_le_bytes());
    bzimage[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    bzimage
}

/// What this payload is packed with.
fn format(payload: &[u8]) -> &'static str {
    match payload {
        [0x1f, 0x8b, ..] => "gzip",
        [0x02, 0x21, 0x4c, 0x18, ..] => "lz4",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "xz",
        [0x5d, 0, 0, ..] => "lzma",
        _ => "unknown",
    }
}

/// The vmlinux that rdvm finds in a bzImage, without a cache.
fn unpacked(bzimage: &Path) -> Vec<u8> {
    this_is_none();
    let spec = KernelSpec::File(bzimage.into());
    let kernel = rdvm_kernel::open(&spec, None, &Search::default()).unwrap();
    let KernelImage::Elf { mut elf, .. } = kernel.image else {
        panic!("{}: not unpacked", bzimage.display());
    };
    let mut bytes = Vec::new();
    elf.read_to_end(&mut bytes).unwrap();
    bytes
}

/// `bytes` through a program.
fn through(program: &[&str], bytes: &[u8]) -> Vec<u8> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    let output = Command::new(program[0])
        .args(&program[1..])
        .stdin(fs::File::open(file.path()).unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{program:?}: {output:?}");
    output.stdout
}

/// A run of a shell script in which `"$@"` is `rdvm run --dry-run -k KERNEL IMAGE true` with a cache.
fn in_shell(script: &str, kernel: &Path, cache: &Path) -> Command {
    this_is_none();
    let mut shell = Command::new("sh");
    shell
        .args(["-c", script, "sh", RDVM, "run", "--dry-run", "-k"])
        .args([kernel, busybox().path()])
        .args(["busybox", "true"])
        .env("XDG_CACHE_HOME", cache)
        .stdin(Stdio::null());
    shell
}

/// What is in the cache directory of a run.
fn entries(cache: &Path) -> Vec<PathBuf> {
    let directory = fs::read_dir(cache.join("rdvm/vmlinux"));
    let mut entries: Vec<_> = directory
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    entries
}

#[test]
fn every_kernel_boots_as_bzimage_and_as_vmlinux() {
    // Unpacking an xz kernel takes a minute where the CPU is emulated: the rig brings a full cache, and both forms are one file.
    let full = std::env::var_os("RDVM_TEST_KERNEL_CACHE").map(PathBuf::from);
    let empty = TempDir::new().unwrap();
    let forms = if full.is_some() { 1 } else { 2 };
    let cache = full.unwrap_or_else(|| empty.path().into());
    let mut boots = 0;
    for kernel in kernels() {
        let bytes = fs::read(kernel).unwrap();
        let entry = cache.join("vmlinux").join(sha256(&bytes));
        let release = release(kernel).unwrap();
        for engine in engines() {
            let files = [("bzImage", kernel), ("vmlinux", &entry)];
            for (form, file) in files.into_iter().take(forms) {
                Rdvm::on(engine)
                    .option("--timeout")
                    .option("120s")
                    .option("-k")
                    .option(file)
                    .with_variable("RDVM_CACHE", &cache)
                    .image(busybox().path())
                    .sh("uname -r; echo err >&2; exit 7")
                    .run()
                    .exits(7)
                    .prints(format!("{release}\n"))
                    .says_only("err\n");
                let payload = format(split(&bytes).1);
                say(&format!(
                    "booted {release}, {form} ({payload}), on {engine}"
                ));
                boots += 1;
            }
        }
    }
    say(&format!("{boots} boots of {} kernels", kernels().len()));
    assert_eq!(boots, kernels().len() * engines().len() * forms);
}

/// One kernel, unpacked, and packed anew by the usual programs with the options of the kernel's own build.
struct Repacked {
    /// What stands before the payload.
    head: Vec<u8>,
    vmlinux: Vec<u8>,
    payloads: Vec<(&'static str, Vec<u8>)>,
}

fn repacked() -> Option<&'static Repacked> {
    this_is_none();
    static REPACKED: OnceLock<Option<Repacked>> = OnceLock::new();
    #[rustfmt::skip]
    let programs: [(&str, &[&str]); 5] = [
        ("gzip", &["gzip", "-n", "-1"]),
        ("lz4", &["lz4", "-l", "-1", "-c"]),
        ("zstd", &["zstd", "-1", "-c"]),
        ("xz", &["xz", "--check=crc32", "--x86", "--lzma2=preset=0"]),
        ("lzma", &["xz", "--format=lzma", "-0"]),
    ];
    let repack = |kernel: &PathBuf| {
        let vmlinux = unpacked(kernel);
        let pack = |(name, program): (&'static str, &[&str])| {
            let mut payload = through(program, &vmlinux);
            assert_eq!(format(&payload), name);
            if name != "gzip" {
                payload.extend((vmlinux.len() as u32).to_le_bytes());
            }
            (name, payload)
        };
        Repacked {
            head: split(&fs::read(kernel).unwrap()).0.to_vec(),
            payloads: programs.map(pack).into(),
            vmlinux,
        }
    };
    REPACKED
        .get_or_init(|| kernels().first().map(repack))
        .as_ref()
}

#[test]
fn every_compression_gives_the_same_kernel() {
    let Some(kernel) = repacked() else {
        return;
    };
    for (name, payload) in &kernel.payloads {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), join(&kernel.head, payload)).unwrap();
        let got = sha256(&unpacked(file.path()));
        assert_eq!(got, sha256(&kernel.vmlinux), "{name}");
    }
}

#[test]
fn a_dictionary_that_is_declared_as_four_gigabytes_needs_no_memory() {
    let Some(kernel) = repacked() else {
        return;
    };
    let directory = TempDir::new().unwrap();
    let of = |wanted| kernel.payloads.iter().find(|(name, _)| *name == wanted);
    let mut xz = of("xz").unwrap().1.clone();
    // The block's header ends with two filters (one without options, then LZMA2 with the dictionary) and a checksum.
    assert_eq!(xz[12..18], [2, 1, 4, 0, 0x21, 1]);
    xz[18] = 40;
    let mut crc = flate2::Crc::new();
    crc.update(&xz[12..20]);
    xz[20..24].copy_from_slice(&crc.sum().to_le_bytes());
    let mut lzma = of("lzma").unwrap().1.clone();
    lzma[1..5].copy_from_slice(&0xffff_0000_u32.to_le_bytes());
    for (name, payload) in [("xz", xz), ("lzma", lzma)] {
        let path = directory.path().join(name);
        fs::write(&path, join(&kernel.head, &payload)).unwrap();
        let cache = directory.path().join("cache").join(name);
        let output = in_shell("ulimit -v 1000000 && exec \"$@\"", &path, &cache).output();
        let run = Run(output.unwrap()).exits(0);
        let kept = entries(&cache);
        let entry = kept.first().unwrap_or_else(|| panic!("{}", run.stderr()));
        assert!(fs::read(entry).unwrap() == kernel.vmlinux, "{name}");
    }
}

#[test]
fn what_is_no_kernel_is_refused_at_once_by_its_name() {
    let directory = TempDir::new().unwrap();
    let at = |name: &str| directory.path().join(name);
    let status = Command::new("mkfifo").arg(at("fifo")).status().unwrap();
    assert!(status.success());
    let mut files = vec![
        (at("fifo"), "is a fifo, not a file"),
        (directory.path().into(), "is a directory, not a file"),
        ("/dev/zero".into(), "is a device, not a file"),
        ("/proc/version".into(), "an empty file"),
        (RDVM.into(), "p_paddr is 0x0, must be at least 0x100000"),
    ];
    if let Some(kernel) = kernels().first() {
        let bzimage = fs::read(kernel).unwrap();
        let mut write = |name: &str, bytes: &[u8], want| {
            fs::write(at(name), bytes).unwrap();
            files.push((at(name), want));
        };
        write("gz", &through(&["gzip", "-1"], &bzimage), "a gzip file");
        write("half", &bzimage[..bzimage.len() / 2], "syssize is ");
        write("head", &bzimage[..600], "cut short: ");
        let mut efi = bzimage.clone();
        efi[0x202..0x206].fill(0);
        write("efi", &efi, "an EFI program without the bzImage header");
        let mut damaged = bzimage.clone();
        let payload = split(&bzimage).0.len() + 0x1000;
        damaged[payload..payload + 0x1000].fill(0);
        write("damaged", &damaged, " payload is damaged: ");
    }
    for (path, want) in files {
        let cache = at("cache");
        let run = Run(in_shell("exec \"$@\"", &path, &cache).output().unwrap()).exits(125);
        let line = run.stderr();
        assert!(line.contains(want), "{}: {line}", path.display());
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(!cache.exists(), "something was kept of {}", path.display());
    }
}

#[test]
fn runs_that_unpack_the_same_kernel_at_once_leave_one_whole_entry() {
    let Some(kernel) = kernels().first() else {
        return;
    };
    let cache = TempDir::new().unwrap();
    let spawn = || {
        in_shell("exec \"$@\"", kernel, cache.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let children = [spawn(), spawn(), spawn()];
    let warnings = children.map(|child| {
        let run = Run(child.wait_with_output().unwrap()).exits(0);
        run.stderr().contains("not kept")
    });
    assert_eq!(warnings, [false; 3]);
    let key = sha256(&fs::read(kernel).unwrap());
    let whole = |path: &PathBuf| path.ends_with(&key);
    let kept = entries(cache.path());
    let temporary = |path: &PathBuf| path.file_name().unwrap().as_encoded_bytes()[0] == b'.';
    assert_eq!(kept.iter().filter(|path| whole(path)).count(), 1);
    assert_eq!(kept.iter().filter(|path| temporary(path)).count(), 0);
    let entry = kept.iter().find(|path| whole(path)).unwrap();
    assert!(fs::read(entry).unwrap() == unpacked(kernel));
}

#[test]
fn a_run_that_is_killed_at_any_time_leaves_a_whole_entry_or_none() {
    let Some(kernel) = kernels().first() else {
        return;
    };
    let vmlinux = unpacked(kernel);
    for milliseconds in [20, 100, 200, 400, 800, 1600] {
        let cache = TempDir::new().unwrap();
        let mut child = in_shell("exec \"$@\"", kernel, cache.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(milliseconds));
        child.kill().unwrap();
        child.wait().unwrap();
        for entry in entries(cache.path()) {
            let bytes = fs::read(&entry).unwrap();
            assert!(bytes == vmlinux, "{}", entry.display());
        }
    }
}

/// The kernel runs all the same, and one line says what the cache lacks.
#[test]
fn a_cache_without_room_or_permission_is_a_warning_and_stays_as_it_was() {
    let Some(kernel) = kernels().first() else {
        return;
    };
    let directory = TempDir::new().unwrap();
    let warning = "the unpacked kernel is not kept, every run unpacks it again: ";
    let run = |script: &str, cache: &Path| {
        let output = in_shell(script, kernel, cache).output().unwrap();
        Run(output).exits(0)
    };
    let limited = directory.path().join("limited");
    run("ulimit -f 2000 && exec \"$@\"", &limited)
        .says(warning)
        .says("the file size limit (ulimit -f)");
    assert!(entries(&limited).is_empty());

    let full = directory.path().join("full");
    fs::create_dir(&full).unwrap();
    let mounts = "mount -t tmpfs -o size=1m tmpfs \"$XDG_CACHE_HOME\"";
    let probe = Command::new("unshare")
        .args(["-rm", "sh", "-c", mounts])
        .env("XDG_CACHE_HOME", &full)
        .output();
    if !probe.is_ok_and(|output| output.status.success()) {
        missing("unshare -rm (user namespaces or root)");
        return;
    }
    let list = "find \"$XDG_CACHE_HOME/rdvm/vmlinux\" -mindepth 1 >&2";
    let script =
        format!("exec unshare -rm sh -c '{mounts} && \"$@\" && {list} && echo end >&2' sh \"$@\"");
    let run = run(&script, &full).says(warning).says("No space left");
    let text = run.stderr();
    let (_, behind) = text.split_once("No space left").unwrap();
    let (_, found) = behind.split_once('\n').unwrap();
    assert!(!found.contains("rdvm/vmlinux/"), "{text}");
}

#[test]
fn a_kernel_that_cannot_be_kept_anywhere_boots_as_bzimage() {
    // The quickest to unpack, since that is what the guest has to do.
    let is_lz4 = |kernel: &&PathBuf| format(split(&fs::read(kernel).unwrap()).1) == "lz4";
    let Some(kernel) = kernels().iter().find(is_lz4).or(kernels().first()) else {
        return;
    };
    // Room for the initrd and not for the unpacked kernel, neither in the cache nor in memory.
    for engine in engines() {
        note_run(engine);
        let cache = TempDir::new().unwrap();
        let image = TempDir::new().unwrap();
        let hello = image.path().join("busybox");
        fs::copy("/bin/busybox", &hello).expect("busybox-static is installed");
        fs::set_permissions(&hello, fs::Permissions::from_mode(0o755)).unwrap();
        let output = Command::new("sh")
            .args(["-c", "ulimit -f 40000 && exec \"$@\"", "sh", RDVM, "run"])
            .args(["--engine", engine, "--timeout", "180s", "-k"])
            .args([kernel, image.path()])
            .args(["/busybox", "echo", "hello"])
            .env("RDVM_CACHE", cache.path().join("rdvm"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        Run(output).exits(0).prints("hello\n").says("not kept");
        assert!(entries(cache.path()).is_empty());
    }
}
