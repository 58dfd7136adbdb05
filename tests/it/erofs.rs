//! EROFS files as IMAGE: what `pack --format erofs` writes is read as the tree that it was, and runs.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::expected::digest_of as digest;
use crate::kept::has_strace;
use crate::pack::one_of_everything;
use crate::support::{Image, RDVM, Rdvm, Run, engines};

fn pack(place: &TempDir, name: &str, image: &Path) -> PathBuf {
    let target = place.path().join(name);
    let rdvm = Rdvm::verb("pack").option("--owner").option("keep");
    let rdvm = rdvm.option("-o").option(&target).image(image);
    rdvm.run().exits(0).says_only("");
    target
}

#[test]
fn a_packed_file_system_is_the_tree_that_it_was() {
    let image = one_of_everything();
    let place = TempDir::new().unwrap();
    let packed = pack(&place, "x.erofs", image.path());
    let wanted = digest(image.path(), &["--owner", "keep"]);
    assert_eq!(digest(&packed, &[]), wanted);
    assert_eq!(digest(&packed, &["--format", "erofs"]), wanted);
    let report = Rdvm::verb("inspect").image(&packed).run().exits(0).stdout();
    assert!(report.contains("EROFS file system"), "{report}");
    // Packed again, it is the same to the byte.
    let again = pack(&place, "again.erofs", &packed);
    assert!(fs::read(again).unwrap() == fs::read(&packed).unwrap());
    // Compressed as a whole, from a pipe, and both.
    let script = r#"
        gzip -9 <"$1" >"$1.gz"
        "$0" inspect "$1.gz"
        "$0" inspect <(cat "$1")
        "$0" inspect <(cat "$1.gz")
    "#;
    let output = Command::new("bash")
        .args(["-c", script, RDVM])
        .arg(&packed)
        .output();
    let run = Run(output.unwrap()).exits(0);
    let digests = run.stdout();
    assert_eq!(digests.matches(&wanted).count(), 3, "{digests}");
}

/// Large files are copied by the kernel, where it can.
#[test]
fn a_packed_file_system_is_the_same_where_the_kernel_does_not_copy() {
    if !has_strace() {
        return;
    }
    let image = Image::empty()
        .file("a", 0o644, "a")
        .file("b", 0o644, vec![b'b'; 70_001])
        .file("c", 0o644, vec![b'c'; 5000])
        .file("d", 0o644, vec![b'd'; 1_000_003]);
    let place = TempDir::new().unwrap();
    let copied = fs::read(pack(&place, "x.erofs", image.path())).unwrap();
    for inject in [
        "error=EXDEV",
        "error=ENOSYS",
        "error=EPERM:when=2+",
        "retval=0",
    ] {
        let target = place.path().join("read.erofs");
        let log = place.path().join("log");
        let output = Command::new("strace")
            .args(["-f", "-qq", "-e", "trace=copy_file_range", "-e"])
            .arg(format!("inject=copy_file_range:{inject}"))
            .arg("-o")
            .arg(&log)
            .args([RDVM, "pack", "--owner", "keep", "-o"])
            .args([&target, image.path()])
            .output();
        Run(output.unwrap()).exits(0).says_only("");
        assert!(fs::read(target).unwrap() == copied, "{inject}");
        let log = fs::read_to_string(log).unwrap();
        assert!(log.contains("(INJECTED)"), "{inject}: {log}");
    }
}

#[test]
fn a_packed_file_system_runs() {
    let image = Image::busybox().file("text", 0o644, "inside\n");
    let place = TempDir::new().unwrap();
    let packed = pack(&place, "x.erofs", image.path());
    for engine in engines() {
        for root in ["initrd", "erofs"] {
            let run = Rdvm::on(engine)
                .option("--root")
                .option(root)
                .image(&packed);
            run.sh("cat /text; exit 3")
                .run()
                .exits(3)
                .prints("inside\n");
        }
    }
}

#[test]
fn a_file_system_can_be_below_and_on_top() {
    let place = TempDir::new().unwrap();
    let below = Image::empty()
        .file("a", 0o644, "a")
        .file("d/b", 0o644, "b")
        .file("c", 0o644, "c");
    let above = Image::empty()
        .file("a", 0o600, "other")
        .file("d/.wh.b", 0o644, "");
    let both = Image::empty()
        .file("a", 0o600, "other")
        .directory("d", 0o755)
        .file("c", 0o644, "c");
    let (lower, upper) = (
        pack(&place, "l.erofs", below.path()),
        pack(&place, "u.erofs", above.path()),
    );
    let wanted = digest(both.path(), &["--owner", "keep"]);
    let upper = upper.to_str().unwrap();
    assert_eq!(digest(&lower, &["--layer", upper]), wanted);
    assert_eq!(
        digest(below.path(), &["--owner", "keep", "--layer", upper]),
        wanted
    );
}

#[test]
fn a_sparse_file_of_64_gib_is_packed_and_read_without_its_holes() {
    let image = Image::empty().directory("d", 0o755);
    let large = File::create(image.path().join("d/large")).unwrap();
    large.set_len(64 << 30).unwrap();
    large.write_all_at(b"in the middle", 33 << 30).unwrap();
    let place = TempDir::new().unwrap();
    let begin = Instant::now();
    let packed = pack(&place, "x.erofs", image.path());
    let again = pack(&place, "again.erofs", &packed);
    // It takes some milliseconds; all of it would take a minute.
    assert!(
        begin.elapsed() < Duration::from_secs(20),
        "{:?}",
        begin.elapsed()
    );
    assert!(fs::metadata(&packed).unwrap().size() < 4 << 20);
    assert!(fs::read(again).unwrap() == fs::read(packed).unwrap());
}

#[test]
fn what_erofs_has_no_place_for_is_refused() {
    let place = TempDir::new().unwrap();
    let image = Image::empty().file("a", 0o644, "a");
    let target = place.path().join("x.erofs");
    let pack = |words: &[&str]| {
        let mut rdvm = Rdvm::verb("pack").option("--format").option("erofs");
        for word in words {
            rdvm = rdvm.option(word);
        }
        rdvm.option("-o").option(&target).image(image.path()).run()
    };
    pack(&["--compress", "gzip"])
        .exits(125)
        .says("--compress: an EROFS file system is used where it lies");
    pack(&["--base", "base.tar"])
        .exits(125)
        .says("--base: only tar, docker and OCI archives record removed files; add --format tar");
    assert!(!target.exists());
}

#[test]
fn what_is_no_file_system_is_refused_by_name() {
    let place = TempDir::new().unwrap();
    let image = Image::empty().file("a", 0o644, "a");
    let packed = pack(&place, "x.erofs", image.path());
    let bytes = fs::read(&packed).unwrap();
    let cut = place.path().join("cut.erofs");
    fs::write(&cut, &bytes[..bytes.len() - 4096]).unwrap();
    let inspect = |path: &Path, format: &str| {
        let mut rdvm = Rdvm::verb("inspect");
        if !format.is_empty() {
            rdvm = rdvm.option("--format").option(format);
        }
        rdvm.image(path).run().exits(125)
    };
    let shown = cut.display();
    inspect(&cut, "").says_only(&format!(
        "rdvm: {shown}: the file has 4096 bytes, its file system 8192; it is cut off, get all of it\n"
    ));
    let text = place.path().join("text");
    fs::write(&text, [b'x'; 5000]).unwrap();
    inspect(&text, "erofs").says("text: there is no EROFS file system in it; give another file");
    inspect(image.path(), "erofs")
        .says("is not an EROFS file system; leave out --format, or correct it");
    let stdin = File::open(&cut).unwrap();
    let run = Rdvm::verb("inspect")
        .stdin(stdin)
        .image("-")
        .run()
        .exits(125);
    run.says("it is cut off");
}
