//! The cost of reading images, side by side with the usual tools, in one run: each figure is the least of ROUNDS (3), taken in
//! turn.
//!
//! 1. A docker archive of 8 layers and some 500 MB to an initrd, and to a booted command, against skopeo, umoci and cpio (as
//!    root).
//! 2. A tar archive of 100,000 entries to an initrd, against GNU tar and GNU cpio.
//! 3. gzip, zstd and the cache: the same archive compressed, unpacked by rdvm and by the tools; the second run with --cache.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Least;
use crate::process::{self, Scratch, command, timed};
use crate::project::{Project, number_or, program};
use crate::tsv::{self, row};

/// An image in the layout that umoci unpacks, and its root file system as an initrd.
const THEIRS: &str = r#"rm -rf "$out/oci" "$out/bundle"
    skopeo copy --quiet "docker-archive:$archive" "oci:$out/oci:bench"
    umoci unpack --image "$out/oci:bench" "$out/bundle"
    cd "$out/bundle/rootfs" && find . | sort | cpio --quiet -o -H newc >"$out/theirs.cpio""#;
const THEIRS_BOOT: &str = r#"; "$rdvm" run --engine qemu -m 2g "$out/bundle/rootfs" /bin/true"#;
const THEIRS_MANY: &str = r#"rm -rf "$out/many"; mkdir "$out/many"
    tar -C "$out/many" -xf "$archive"
    cd "$out/many" && find . | sort | cpio --quiet -o -H newc >"$out/many.cpio""#;
const OURS: &str = r#""$rdvm" pack -o "$out/ours.cpio" "$archive""#;
const OURS_BOOT: &str = r#""$rdvm" run --engine qemu -m 2g "$archive" /bin/true"#;
const CACHED: &str = r#""$rdvm" run --engine qemu --cache -m 2g "$archive" /bin/true"#;

/// Rows: what, rdvm's figure, the others'.
const ROWS: [(&str, &str, &str); 5] = [
    (
        "docker archive to an initrd, against skopeo, umoci, find, sort, cpio",
        "ours",
        "theirs",
    ),
    (
        "the same, layers compressed with gzip",
        "ours.gz",
        "theirs.gz",
    ),
    (
        "100,000 entries in a tar to an initrd, against GNU tar and GNU cpio",
        "ours.many",
        "theirs.many",
    ),
    (
        "docker archive to a booted command, in QEMU",
        "ours.boot",
        "theirs.boot",
    ),
    (
        "compressed, to a booted command: with `--cache`, second run, against without",
        "cached.gz.boot",
        "ours.gz.boot",
    ),
];

/// Measures all of it: images.tsv.
pub(super) fn measure(project: &Project, work: &Path) -> Result<()> {
    if process::output(&mut command(&["id", "-u"]))?.trim() != "0" {
        bail!("umoci unpacks as root only; run it as root");
    }
    let rdvm = project.release()?;
    prepare(&rdvm, work)?;
    let (rounds, out) = (number_or("ROUNDS", 3)?, Scratch::new("rdvm-bench", "/tmp")?);
    println!(
        "{} bytes, 8 layers",
        fs::metadata(work.join("app.tar")).context("app.tar")?.len()
    );
    let mut least = Least::default();
    let theirs_boot = format!("{THEIRS}{THEIRS_BOOT}");
    for _ in 0..rounds {
        for (name, script, archive) in [
            ("ours", OURS, "app.tar"),
            ("theirs", THEIRS, "app.tar"),
            ("ours.gz", OURS, "app.gz.tar"),
            ("theirs.gz", THEIRS, "app.gz.tar"),
            ("ours.many", OURS, "many.tar"),
            ("theirs.many", THEIRS_MANY, "many.tar"),
            ("ours.boot", OURS_BOOT, "app.tar"),
            ("theirs.boot", &theirs_boot, "app.tar"),
            ("ours.gz.boot", OURS_BOOT, "app.gz.tar"),
            ("cached.gz.boot", CACHED, "app.gz.tar"),
        ] {
            let mut bash = command(&["bash", "-euo", "pipefail", "-c", script]);
            bash.env("rdvm", &rdvm)
                .env("out", out.path())
                .env("archive", work.join(archive));
            least.add(name, timed(&bash, &out.path().join("err"))?.wall);
        }
    }
    let mut table = tsv::head_here(
        project,
        &format!("least wall time of {rounds} rounds in turn"),
    )? + &row(&["what", "rdvm, s", "others, s", "ratio"]);
    for (what, ours, theirs) in ROWS {
        let (ours, theirs) = (least.of(ours), least.of(theirs));
        table += &row(&[
            what,
            &format!("{ours:.2}"),
            &format!("{theirs:.2}"),
            &format!("{:.1}", theirs / ours),
        ]);
    }
    tsv::save("images", &table)
}

/// Makes the archives, once.
fn prepare(rdvm: &Path, work: &Path) -> Result<()> {
    if work.join("made").exists() {
        return Ok(());
    }
    fs::create_dir_all(work).with_context(|| work.display().to_string())?;
    let layers = layers(&work.join("layers"))?;
    let bin = layers[0].join("bin");
    fs::create_dir_all(&bin).with_context(|| bin.display().to_string())?;
    fs::copy(program("busybox")?, bin.join("busybox")).context("busybox")?;
    symlink("busybox", bin.join("true")).context("a link to busybox")?;
    for (name, options) in [
        ("app.tar", &[][..]),
        ("app.gz.tar", &["--compress", "gzip"]),
    ] {
        let mut pack = Command::new(rdvm);
        pack.args(["pack", "--format", "docker"])
            .args(options)
            .args(["--tag", "bench:latest", "-o"]);
        pack.arg(work.join(name));
        for layer in &layers[1..] {
            pack.arg("--layer").arg(layer);
        }
        process::run(pack.arg(&layers[0]))?;
    }
    let many = work.join("many");
    for at in 0..100_000 {
        let dir = many.join(format!("d{}", at % 100));
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        fs::write(dir.join(format!("file{at}")), format!("content of {at}\n"))
            .with_context(|| dir.display().to_string())?;
    }
    let mut tar = Command::new("tar");
    process::run(
        tar.arg("-C")
            .arg(&many)
            .arg("-cf")
            .arg(work.join("many.tar"))
            .arg("."),
    )?;
    fs::write(work.join("made"), "").context("the mark that all is made")
}

/// Eight directories of real files, some 62 MB each.
fn layers(dir: &Path) -> Result<Vec<PathBuf>> {
    const LEAST: u64 = 65_000_000;
    process::run(command(&["rm", "-rf"]).arg(dir))?;
    let find = "find /usr/lib /usr/bin /usr/share -xdev -type f -size -20000k -printf '%s %p\\n' | LC_ALL=C sort -k2";
    let files = process::output(&mut command(&["sh", "-c", find]))?;
    let (mut made, mut size) = (vec![dir.join("0")], 0);
    for line in files.lines() {
        let Some((length, file)) = line.split_once(' ') else {
            continue;
        };
        let Some(layer) = made.last() else { break };
        let place = layer.join(file.trim_start_matches('/'));
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
        }
        fs::copy(file, &place).with_context(|| file.to_owned())?;
        size += length.parse::<u64>().unwrap_or(0);
        if size > LEAST {
            if made.len() == 8 {
                break;
            }
            size = 0;
            made.push(dir.join(made.len().to_string()));
        }
    }
    if made.len() < 8 {
        bail!("this machine has too few files below /usr for eight layers; measure on another");
    }
    Ok(made)
}
