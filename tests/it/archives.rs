//! Images in archives, as people have them: the same image in every form, from files and through pipes, in machines.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::canary::Canary;
use crate::support::{Image, RDVM, Rdvm, any_engine, busybox, missing, note_run};

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn sha(bytes: &[u8]) -> String {
    let hex = Sha256::digest(bytes);
    let hex: String = hex.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A directory as a tar archive: owner, mode and time of each file as they are, the root too.
fn layer(dir: &Path) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    builder.follow_symlinks(false);
    builder.append_dir_all(".", dir).unwrap();
    builder.into_inner().unwrap()
}

/// Files in a tar archive.
pub(crate) fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, name, bytes.as_slice())
            .unwrap();
    }
    builder.into_inner().unwrap()
}

fn config(layers: &[Vec<u8>]) -> String {
    let diff_ids: Vec<String> = layers.iter().map(|layer| sha(layer)).collect();
    json!({ "architecture": "amd64", "os": "linux", "config": { "Cmd": ["/bin/sh"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids } })
    .to_string()
}

/// What `docker save` makes of layers.
pub(crate) fn docker(layers: &[Vec<u8>]) -> Vec<u8> {
    let config = config(layers);
    let name = format!("{}.json", &sha(config.as_bytes())[7..]);
    let place = |layer: &Vec<u8>| format!("{}/layer.tar", &sha(layer)[7..]);
    let names: Vec<String> = layers.iter().map(place).collect();
    let list = json!([{ "Config": name, "RepoTags": ["app:v1"], "Layers": names }]);
    let mut files: Vec<_> = names.into_iter().zip(layers.iter().cloned()).collect();
    files.push((name, config.into_bytes()));
    files.push(("manifest.json".to_owned(), list.to_string().into_bytes()));
    archive(&files)
}

/// An archive as docker saved it before 1.10: `repositories` names the topmost layer, each layer names the one below it.
pub(crate) fn docker_v1(layers: &[Vec<u8>]) -> Vec<u8> {
    let mut files = Vec::new();
    let mut parent = Value::Null;
    for (number, layer) in layers.iter().enumerate() {
        let id = format!("{number:064}");
        let json = json!({ "id": id, "parent": parent, "architecture": "amd64", "os": "linux",
                           "config": { "Cmd": ["/bin/sh"] } });
        files.push((format!("{id}/VERSION"), b"1.0".to_vec()));
        files.push((format!("{id}/json"), json.to_string().into_bytes()));
        files.push((format!("{id}/layer.tar"), layer.clone()));
        parent = json!(id);
    }
    let names = json!({ "app": { "v1": parent } });
    files.push(("repositories".to_owned(), names.to_string().into_bytes()));
    archive(&files)
}

/// An OCI layout of compressed layers, as files.
fn oci(layers: &[Vec<u8>]) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let mut blob = |kind: &str, bytes: Vec<u8>| -> Value {
        let digest = sha(&bytes);
        let descriptor = json!({ "mediaType": format!("application/vnd.oci.image.{kind}"),
                                 "digest": digest, "size": bytes.len() });
        files.push((format!("blobs/{}", digest.replace(':', "/")), bytes));
        descriptor
    };
    let packed: Vec<Value> = layers
        .iter()
        .map(|layer| blob("layer.v1.tar+gzip", gzip(layer)))
        .collect();
    let config = blob("config.v1+json", config(layers).into_bytes());
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": packed });
    let manifest = blob("manifest.v1+json", manifest.to_string().into_bytes());
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    files.push(("index.json".to_owned(), index.to_string().into_bytes()));
    let layout = json!({ "imageLayoutVersion": "1.0.0" });
    files.push(("oci-layout".to_owned(), layout.to_string().into_bytes()));
    files
}

/// Two layers: busybox with three files, and a change that removes one, replaces one and links one.
fn layers() -> Vec<Vec<u8>> {
    let lower = Image::busybox()
        .file("etc/removed", 0o644, "1")
        .file("etc/replaced", 0o644, "1")
        .file("etc/kept", 0o640, "1");
    let mut upper = tar::Builder::new(layer_without_end(
        Image::empty()
            .file("etc/replaced", 0o600, "2")
            .file("etc/.wh.removed", 0o644, "")
            .path(),
    ));
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Link);
    header.set_size(0);
    upper
        .append_link(&mut header, "etc/linked", "etc/kept")
        .unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Char);
    header.set_size(0);
    header.set_mode(0o620);
    header.set_uid(12);
    header.set_gid(34);
    header.set_device_major(4).unwrap();
    header.set_device_minor(5).unwrap();
    upper
        .append_data(&mut header, "etc/device", std::io::empty())
        .unwrap();
    vec![layer(lower.path()), upper.into_inner().unwrap()]
}

fn layer_without_end(dir: &Path) -> Vec<u8> {
    let mut bytes = layer(dir);
    bytes.truncate(bytes.len() - 1024);
    bytes
}

/// Says what became of the files of [`layers`].
const LOOK: &str = "cd /etc && ls | tr '\\n' ' ' && cat replaced kept linked && stat -c ' %a %h' kept && \
                    stat -c '%a %u:%g %t,%T' device";
const SEEN: &str = "device hostname hosts kept linked mtab replaced 211 640 2\n620 12:34 4,5\n";

#[test]
fn a_docker_archive_runs_without_being_unpacked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.tar");
    fs::write(&path, docker(&layers())).unwrap();
    for engine in any_engine() {
        Rdvm::on(engine)
            .image(&path)
            .sh(LOOK)
            .run()
            .exits(0)
            .prints(SEEN);
    }
    // Nothing was left beside it.
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_docker_archive_of_the_1_0_form_runs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.tar");
    fs::write(&path, docker_v1(&layers())).unwrap();
    for engine in any_engine() {
        let run = Rdvm::on(engine).image(&path).sh(LOOK).run();
        run.exits(0).prints(SEEN);
    }
}

#[test]
fn an_initrd_of_compressed_and_plain_parts_runs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("initrd");
    let mut bytes = gzip(&pack(busybox().path(), Stdio::null()));
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes.extend(cpio("plain", b"1"));
    bytes.extend(gzip(&cpio("packed", b"2")));
    fs::write(&path, &bytes).unwrap();
    for engine in any_engine() {
        let run = Rdvm::on(engine).image(&path).sh("cat /plain /packed").run();
        run.exits(0).prints("12");
    }
}

#[test]
fn an_oci_archive_runs_from_a_pipe() {
    let archive = archive(&oci(&layers()));
    for engine in any_engine() {
        note_run(engine);
        let mut child = Command::new(RDVM)
            .args(["run", "--engine", engine, "-", "sh", "-c", LOOK])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&archive).unwrap();
        crate::support::Run(child.wait_with_output().unwrap())
            .exits(0)
            .prints(SEEN);
    }
}

#[test]
fn a_compressed_tar_archive_runs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.tgz");
    fs::write(&path, gzip(&layers()[0])).unwrap();
    for engine in any_engine() {
        Rdvm::on(engine)
            .image(&path)
            .sh("cat /etc/removed /etc/replaced; stat -c ' %a' /etc/kept")
            .run()
            .exits(0)
            .prints("11 640\n");
    }
}

/// Packs an image, and gives what came out.
fn pack(image: &Path, input: Stdio) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("out.cpio");
    let run = Command::new(RDVM)
        .arg("pack")
        .arg(image)
        .arg("-o")
        .arg(&output)
        .stdin(input)
        .output()
        .unwrap();
    assert!(
        run.status.success(),
        "{}: {}",
        image.display(),
        String::from_utf8_lossy(&run.stderr)
    );
    fs::read(output).unwrap()
}

/// A newc archive of one file.
fn cpio(name: &str, bytes: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, mode, bytes) in [(name, 0o100_644, bytes), ("TRAILER!!!", 0, b"")] {
        let (size, length) = (bytes.len(), name.len() + 1);
        let head = format!(
            "070701{0:08x}{mode:08x}{0:032x}{size:08x}{0:032x}{length:08x}{0:08x}",
            0
        );
        archive.extend([head.as_bytes(), name.as_bytes(), b"\0"].concat());
        archive.resize(archive.len().next_multiple_of(4), 0);
        archive.extend(bytes);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    archive
}

/// One image in every form; `None`, and why, where that cannot be made.
struct Forms {
    dir: tempfile::TempDir,
    /// The directory that it was, packed.
    expected: Vec<u8>,
}

impl Forms {
    fn new() -> Option<Self> {
        let image = Image::busybox()
            .file("etc/setuid", 0o4755, "x")
            .file("etc/empty", 0o600, "")
            .directory("tmp", 0o1777)
            .link("/bin/busybox", "etc/absolute");
        fs::hard_link(
            image.path().join("bin/busybox"),
            image.path().join("etc/second"),
        )
        .unwrap();
        // The crate has no hard links, GNU tar has.
        let tar = Command::new("tar")
            .args(["--owner=0", "--group=0", "-cf", "-", "-C"])
            .arg(image.path())
            .arg(".")
            .output();
        let Ok(tar) = tar else {
            missing("tar");
            return None;
        };
        assert!(tar.status.success());
        let tar = tar.stdout;
        let forms = Self {
            dir: tempfile::tempdir().unwrap(),
            expected: pack(image.path(), Stdio::null()),
        };
        let layers = std::slice::from_ref(&tar);
        for (name, bytes) in oci(layers) {
            forms.file(&format!("layout/{name}"), &bytes);
        }
        forms.file("app.tar", &tar);
        forms.file("app.tgz", &gzip(&tar));
        forms.file("docker.tar", &docker(layers));
        forms.file("docker-1.0.tar", &docker_v1(layers));
        forms.file("oci.tar", &archive(&oci(layers)));
        forms.file("oci.tgz", &gzip(&archive(&oci(layers))));
        forms.file("app.cpio", &forms.expected);
        forms.file("app.cpio.gz", &gzip(&forms.expected));
        // As some distributions write initrds: a plain archive behind a compressed one.
        let mut mixed = gzip(&cpio("bin", b""));
        mixed.resize(mixed.len().next_multiple_of(4), 0);
        forms.file("mixed.cpio", &[&mixed[..], &forms.expected].concat());
        Some(forms)
    }

    fn file(&self, name: &str, bytes: &[u8]) {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
    }

    fn paths(&self) -> impl Iterator<Item = PathBuf> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        entries.map(|entry| entry.unwrap().path())
    }
}

#[test]
fn one_image_packs_to_the_same_bytes_in_whatever_form_it_came() {
    let Some(forms) = Forms::new() else { return };
    for path in forms.paths() {
        let packed = pack(&path, Stdio::null());
        assert!(packed == forms.expected, "{}", path.display());
    }
    assert_eq!(forms.paths().count(), 10);
}

#[test]
fn a_pipe_that_the_shell_has_opened_is_read_and_one_that_nobody_has_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("a.tar");
    let packed = Rdvm::verb("pack").option("-o").option(&archive);
    packed.image(busybox().path()).run().exits(0);
    let inspect = r#""$0" inspect <(cat "$1") | grep '^kind'"#;
    let output = std::process::Command::new("bash")
        .args(["-c", inspect, RDVM])
        .arg(&archive)
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "kind        tar archive\n"
    );
    let fifo = dir.path().join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RUSR).unwrap();
    let run = Rdvm::verb("inspect").image(&fifo).run();
    run.exits(125).says("is a named pipe");
}

#[test]
fn standard_input_may_be_a_file_or_a_pipe() {
    let Some(forms) = Forms::new() else { return };
    for path in forms.paths().filter(|path| path.is_file()) {
        let packed = pack(Path::new("-"), File::open(&path).unwrap().into());
        assert!(packed == forms.expected, "{}", path.display());
        let mut cat = Command::new("cat")
            .arg(&path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let packed = pack(Path::new("-"), cat.stdout.take().unwrap().into());
        assert!(packed == forms.expected, "{} in a pipe", path.display());
        assert!(cat.wait().unwrap().success());
    }
}

/// Names and links in an archive are never names on the host: whatever it says, only the output file is written, and
/// nothing that it names is opened.
#[test]
fn an_archive_opens_and_writes_nothing_on_the_host_but_the_output() {
    let dir = tempfile::tempdir().unwrap();
    let canary = Canary::new(dir.path());
    let canary_name = canary.name().trim_start_matches('/').to_owned();
    let mut builder = tar::Builder::new(Vec::new());
    let mut put = |kind: tar::EntryType, name: &str, target: Option<&str>| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_mode(0o755);
        // Written by hand: the crate refuses such names.
        let gnu = header.as_gnu_mut().unwrap();
        gnu.name[..name.len()].copy_from_slice(name.as_bytes());
        if let Some(target) = target {
            gnu.linkname[..target.len()].copy_from_slice(target.as_bytes());
        }
        header.set_cksum();
        builder.append(&header, std::io::empty()).unwrap();
    };
    let up = format!("../../../../../{canary_name}");
    use tar::EntryType as Type;
    put(Type::Symlink, "out", Some(&format!("/{canary_name}")));
    put(Type::Regular, "out/new", None);
    put(Type::Regular, "out/file", None);
    put(Type::Symlink, "up", Some(&up));
    put(Type::Directory, "up/made", None);
    put(Type::Regular, &format!("/{canary_name}/absolute"), None);
    put(
        Type::Link,
        "hard",
        Some(&format!("/{canary_name}/absolute")),
    );
    put(Type::Fifo, "out/pipe", None);
    // The links lead to nothing inside of the archive, so the directories must come first.
    let mut first = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(Type::Directory);
    header.set_size(0);
    header.set_mode(0o755);
    first
        .append_data(&mut header, &canary_name, std::io::empty())
        .unwrap();
    let mut bytes = first.into_inner().unwrap();
    bytes.truncate(bytes.len() - 1024);
    bytes.extend_from_slice(&builder.into_inner().unwrap());
    let image = dir.path().join("evil.tar");
    fs::write(&image, &bytes).unwrap();
    let layer = dir.path().join("docker.tar");
    fs::write(&layer, docker(&[bytes])).unwrap();

    let log = dir.path().join("log");
    for image in [&image, &layer] {
        let output = dir.path().join("out.cpio");
        let traced = Command::new("strace")
            .args(["-f", "-e", "trace=%file", "-o"])
            .arg(&log)
            .arg(RDVM)
            .arg("pack")
            .arg(image)
            .arg("-o")
            .arg(&output)
            .output();
        let Ok(traced) = traced else {
            return missing("strace");
        };
        assert!(
            traced.status.success(),
            "{}",
            String::from_utf8_lossy(&traced.stderr)
        );
        let calls = fs::read_to_string(&log).unwrap();
        assert!(calls.contains(image.to_str().unwrap()), "{calls}");
        for call in calls.lines() {
            assert!(!call.contains("canary"), "{call}");
            let writes = [
                "O_WRONLY", "O_RDWR", "O_CREAT", "mkdir", "symlink", "mknod", "unlink", "chmod",
                "chown",
            ];
            if writes.iter().any(|word| call.contains(word)) {
                let own = dir.path().to_str().unwrap();
                assert!(call.contains(own) || call.contains("/dev/"), "{call}");
            }
        }
        let listing = fs::read(&output).unwrap();
        assert!(listing.windows(5).any(|bytes| bytes == b"/new\0"));
    }
    canary.is_untouched();
}

#[test]
fn a_damaged_archive_leaves_no_output() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("app.tar");
    let output = dir.path().join("out.cpio");
    let mut bytes = docker(&[layer(busybox().path())]);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&image, bytes).unwrap();
    Rdvm::verb("pack")
        .option(&image)
        .option("-o")
        .option(&output)
        .run()
        .exits(125)
        .says("it unpacks to the digest sha256:");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}
