//! Image archives as docker, skopeo, umoci and nobody in his right mind write them.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::Compression as Level;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::*;
use crate::member::{EntryKind, Member};
use crate::reference::{Format, Id, ImageRef, Limits, UserSpec};
use crate::samples::{file, is_here, listing, member, tar, tar_of};
use crate::{Form, Image, open};
use rdvm_hostfs::units::ByteSize;

fn sha(bytes: &[u8]) -> String {
    Digest(Sha256::digest(bytes).into()).to_string()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Level::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An archive under construction.
#[derive(Clone, Default)]
struct Parts(Vec<Member>);

impl Parts {
    fn file(&mut self, name: impl Into<String>, bytes: impl AsRef<[u8]>) {
        let name = name.into();
        self.0.retain(|member| member.name != name.as_bytes());
        let what = file(bytes.as_ref());
        self.0.push(Member {
            name: name.into(),
            what,
            ..member("f x")
        });
    }

    fn json(&mut self, name: &str, value: &Value) {
        self.file(name, value.to_string());
    }

    fn link(&mut self, name: &str, target: &str) {
        self.0.push(member(&format!("s {name} -> {target}")));
    }

    fn remove(&mut self, name: &str) {
        let count = self.0.len();
        self.0.retain(|member| member.name != name.as_bytes());
        assert_ne!(count, self.0.len(), "{name}");
    }

    /// Adds a part by its digest; returns a descriptor of it.
    fn blob(&mut self, kind: &str, bytes: impl AsRef<[u8]>) -> Value {
        let bytes = bytes.as_ref();
        let digest = sha(bytes);
        self.file(blob_path(&digest.parse().unwrap()), bytes);
        json!({ "mediaType": kind, "digest": digest, "size": bytes.len() })
    }

    /// Changes a byte in the middle of a file.
    fn damage(&mut self, name: &str) {
        let member = self.0.iter().find(|member| member.name == name.as_bytes());
        let EntryKind::File { content, size, .. } = &member.expect(name).what else {
            panic!("{name} is no file");
        };
        let crate::member::FileContent::Span(span) = content else {
            unreachable!()
        };
        let mut bytes = vec![0; *size as usize];
        span.store.read_exact(0, &mut bytes).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        self.file(name, bytes);
    }

    /// The whole in a file.
    fn write(&self, path: &Path) {
        fs::write(path, tar(&self.0)).unwrap();
    }

    /// The whole as files below a directory.
    fn unpack(&self, path: &Path) {
        let archive = path.with_extension("tar");
        self.write(&archive);
        fs::create_dir_all(path).unwrap();
        let status = Command::new("tar")
            .arg("-xf")
            .arg(&archive)
            .arg("-C")
            .arg(path)
            .status();
        assert!(status.unwrap().success());
    }
}

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

fn lower() -> Vec<u8> {
    tar_of(&[
        "d bin",
        "f 755 bin/sh shell",
        "d etc",
        "f etc/old 1",
        "s lib -> usr/lib",
    ])
}

fn upper() -> Vec<u8> {
    tar_of(&["f etc/.wh.old", "f etc/new 2", "h bin/ash = bin/sh"])
}

/// The tree of both layers.
const BOTH: [&str; 6] = [
    "d 755 bin",
    "f 755 bin/ash shell",
    "f 755 bin/sh shell = bin/ash",
    "d 755 etc",
    "f 644 etc/new 2",
    "s lib -> usr/lib",
];

fn config(layers: &[&[u8]]) -> Value {
    let diff_ids: Vec<String> = layers.iter().map(|layer| sha(layer)).collect();
    json!({
        "architecture": "amd64", "os": "linux",
        "config": { "Entrypoint": ["/bin/sh"], "Cmd": ["-l"], "Env": ["A=b"], "User": "7:8" },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
}

/// A manifest of the two layers, the second one compressed; returns its descriptor.
fn image(parts: &mut Parts, config: &Value) -> Value {
    let layers = [
        parts.blob(LAYER, lower()),
        parts.blob(&format!("{LAYER}+gzip"), gzip(&upper())),
    ];
    let config = parts.blob(CONFIG, config.to_string());
    let manifest =
        json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers });
    parts.blob(MANIFEST, manifest.to_string())
}

fn layout(parts: &mut Parts, manifests: &[Value]) {
    parts.json("oci-layout", &json!({ "imageLayoutVersion": "1.0.0" }));
    parts.json(
        "index.json",
        &json!({ "schemaVersion": 2, "manifests": manifests }),
    );
}

fn oci() -> Parts {
    let mut parts = Parts::default();
    let manifest = image(&mut parts, &config(&[&lower(), &upper()]));
    layout(&mut parts, &[manifest]);
    parts
}

/// As docker saved until version 25: directories of its own numbers, and a layer that was there before as a link.
fn docker() -> Parts {
    let mut parts = Parts::default();
    let config = config(&[&lower(), &upper(), &lower()]).to_string();
    let id = sha(config.as_bytes()).replace("sha256:", "");
    let number = |digit: &str| digit.repeat(64);
    parts.file(format!("{}/layer.tar", number("a")), lower());
    parts.file(format!("{}/VERSION", number("a")), "1.0");
    parts.file(format!("{}/layer.tar", number("b")), upper());
    parts.link(
        &format!("{}/layer.tar", number("c")),
        &format!("../{}/layer.tar", number("a")),
    );
    parts.file(format!("{id}.json"), config);
    let layers: Vec<String> = ["a", "b", "c"]
        .iter()
        .map(|digit| format!("{}/layer.tar", number(digit)))
        .collect();
    let list =
        json!([{ "Config": format!("{id}.json"), "RepoTags": ["app:v1"], "Layers": layers }]);
    parts.json("manifest.json", &list);
    parts.json("repositories", &json!({ "app": { "v1": number("c") } }));
    parts
}

/// The files of one test.
struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn open(&self, parts: &Parts) -> Result<Image, crate::Error> {
        self.open_as(parts, |_| {})
    }

    fn open_as(
        &self,
        parts: &Parts,
        spec: impl FnOnce(&mut ImageRef),
    ) -> Result<Image, crate::Error> {
        parts.write(&self.path("app.tar"));
        self.read(&self.path("app.tar"), spec)
    }

    fn read(&self, path: &Path, spec: impl FnOnce(&mut ImageRef)) -> Result<Image, crate::Error> {
        let mut image = ImageRef {
            path: path.to_owned(),
            ..ImageRef::default()
        };
        spec(&mut image);
        open(&image)
    }
}

/// An error on one line, with the way out that it leaves to the caller.
#[track_caller]
fn told(result: Result<Image, crate::Error>) -> String {
    let text = match result {
        Ok(image) => panic!("was read: {:?}", listing(&image.tree)),
        Err(error) => match error.remedy() {
            Some(remedy) => format!("{error}; {remedy:?}"),
            None => error.to_string(),
        },
    };
    assert!(!text.contains('\n'), "{text:?}");
    text
}

#[test]
fn a_docker_archive_is_read_through_its_links_with_its_configuration() {
    let bench = Bench::new();
    let image = bench.open(&docker()).unwrap();
    // The third layer is the first once more.
    assert!(listing(&image.tree).contains(&"f 644 etc/old 1".to_owned()));
    assert_eq!(image.form, Form::DockerArchive);
    assert_eq!(image.config.entrypoint, ["/bin/sh"]);
    assert_eq!(image.config.cmd, ["-l"]);
    let user = UserSpec {
        user: Id::Number(7),
        group: Some(Id::Number(8)),
    };
    assert_eq!(image.config.user, Some(user));
    let members: Vec<u64> = image.layers.iter().map(|layer| layer.members).collect();
    assert_eq!(members, [5, 3, 5]);
    assert_eq!(image.layers[0].diff_id.to_string(), sha(&lower()));
    assert_eq!(image.layers[0], image.layers[2]);
    assert_eq!(image.manifest, None);
    let config = config(&[&lower(), &upper(), &lower()]).to_string();
    assert_eq!(image.id.unwrap().to_string(), sha(config.as_bytes()));
}

#[test]
fn an_oci_layout_is_read_from_a_directory_and_an_archive_compressed_or_not() {
    let bench = Bench::new();
    let parts = oci();
    let image = bench.open(&parts).unwrap();
    assert_eq!(listing(&image.tree), BOTH);
    assert_eq!(image.form, Form::OciArchive);
    assert_eq!(image.layers.len(), 2);
    assert_eq!(
        image.layers[1].digest.unwrap().to_string(),
        sha(&gzip(&upper()))
    );
    assert_eq!(image.layers[1].diff_id.to_string(), sha(&upper()));
    assert!(image.manifest.is_some());

    fs::write(bench.path("app.tgz"), gzip(&tar(&parts.0))).unwrap();
    let again = bench.read(&bench.path("app.tgz"), |_| {}).unwrap();
    assert_eq!(listing(&again.tree), BOTH);
    assert_eq!(again.manifest, image.manifest);
    assert_eq!(again.compression, crate::stream::Compression::Gzip);

    parts.unpack(&bench.path("layout"));
    let again = bench.read(&bench.path("layout"), |_| {}).unwrap();
    assert_eq!(listing(&again.tree), BOTH);
    assert_eq!(again.form, Form::OciDirectory);
    assert_eq!(again.layers, image.layers);
}

#[test]
fn plain_layers_are_not_copied() {
    let bench = Bench::new();
    let image = bench.open(&docker()).unwrap();
    let crate::tree::Kind::File(body) = &image.tree.get(b"bin/sh").unwrap().kind else {
        panic!("no file");
    };
    let Content::Span(span) = &body.content else {
        panic!("not where it was: {:?}", body.content);
    };
    let path = bench.path("app.tar");
    assert_eq!(span.store.shown(), path.to_str().unwrap());
    assert_eq!(
        &fs::read(&path).unwrap()[span.offset as usize..][..5],
        b"shell"
    );
    // And a change of the archive is noticed.
    image.tree.check_unchanged().unwrap();
    fs::write(&path, "x").unwrap();
    assert_eq!(
        image.tree.check_unchanged(),
        Err(path.display().to_string())
    );
}

#[test]
fn every_part_that_is_not_what_its_digest_says_is_told() {
    let bench = Bench::new();
    let parts = oci();
    let names: Vec<String> = parts
        .0
        .iter()
        .map(|member| String::from_utf8(member.name.clone()).unwrap())
        .filter(|name| name.starts_with("blobs/"))
        .collect();
    // Two layers, a configuration and a manifest.
    assert_eq!(names.len(), 4);
    for name in &names {
        let mut damaged = parts.clone();
        damaged.damage(name);
        let error = told(bench.open(&damaged));
        assert!(
            error.contains(&format!("{name}: its contents have the digest sha256:")),
            "{error}"
        );
        let mut missing = parts.clone();
        missing.remove(name);
        let error = told(bench.open(&missing));
        assert!(error.contains(&format!("{name} is not in it")), "{error}");
        let mut longer = parts.clone();
        longer.file(name.as_str(), "x");
        let error = told(bench.open(&longer));
        assert!(
            error.contains(&format!("{name}: has 1 bytes and not ")),
            "{error}"
        );
    }
    let parts = docker();
    for (name, words) in [
        ("a", "it unpacks to the digest"),
        ("b", "it unpacks to the digest"),
    ] {
        let mut damaged = parts.clone();
        damaged.damage(&format!("{}/layer.tar", name.repeat(64)));
        let error = told(bench.open(&damaged));
        assert!(error.contains(words), "{error}");
    }
    let mut damaged = parts.clone();
    let config = parts
        .0
        .iter()
        .map(|member| String::from_utf8(member.name.clone()).unwrap())
        .find(|name| name.len() == 69)
        .unwrap();
    damaged.damage(&config);
    let error = told(bench.open(&damaged));
    assert!(
        error.contains(".json: its contents have the digest"),
        "{error}"
    );
}

/// Row a18: what digests, names and documents should never be.
#[test]
fn lists_that_lead_elsewhere_or_nowhere_are_refused() {
    let bench = Bench::new();
    let zeros = "0".repeat(64);
    let descriptor = |digest: &str| json!({ "mediaType": MANIFEST, "digest": digest, "size": 3 });
    let mut table: Vec<(Parts, String)> = Vec::new();
    for (digest, words) in [
        ("sha256:../../../etc/passwd", "is not a digest of sha256:"),
        ("sha256:", "is not a digest"),
        ("../x", "is not a digest"),
        (&format!("sha256:{}", "A".repeat(64)), "is not a digest"),
        (&format!("sha256:{zeros}0"), "is not a digest"),
        (
            &format!("sha512:{zeros}{zeros}"),
            "only sha256 digests are checked",
        ),
        (&format!("sha256:{zeros}"), "is not in it; export"),
    ] {
        let mut parts = oci();
        layout(&mut parts, &[descriptor(digest)]);
        table.push((parts, words.to_owned()));
    }

    // Of layers and configurations as well.
    for (kind, digest) in [
        ("layers", "sha256:../x"),
        ("config", "sha256:../x"),
        ("layers", "md5:0"),
    ] {
        let mut parts = Parts::default();
        image(&mut parts, &config(&[]));
        let bad = json!({ "mediaType": CONFIG, "digest": digest, "size": 0 });
        let good = parts.blob(CONFIG, config(&[b""]).to_string());
        let manifest = match kind {
            "layers" => json!({ "config": good, "layers": [bad] }),
            _ => json!({ "config": bad, "layers": [] }),
        };
        let manifest = parts.blob(MANIFEST, manifest.to_string());
        layout(&mut parts, &[manifest]);
        table.push((parts, "is not a digest".to_owned()));
    }

    // Counts, versions, shapes.
    let mut parts = Parts::default();
    let manifest = image(&mut parts, &config(&[&lower()]));
    layout(&mut parts, &[manifest]);
    table.push((parts, "2 layers and the configuration 1".to_owned()));
    // The first layer is not compressed, the second one is.
    for wrong in [upper(), lower()] {
        let mut parts = Parts::default();
        let manifest = image(&mut parts, &config(&[&wrong, &wrong]));
        layout(&mut parts, &[manifest]);
        table.push((parts, "it unpacks to the digest".to_owned()));
    }
    let mut parts = oci();
    parts.json("oci-layout", &json!({ "imageLayoutVersion": "2.0" }));
    table.push((parts, "version \"2.0\" is not known".to_owned()));
    let mut parts = Parts::default();
    layout(&mut parts, &[]);
    table.push((parts, "there is no image in it".to_owned()));
    let mut parts = oci();
    parts.file("index.json", "{");
    table.push((parts, "index.json: is not what it should be".to_owned()));
    let mut parts = oci();
    parts.file("index.json", "[".repeat(5000));
    table.push((parts, "index.json: is not what it should be".to_owned()));
    let mut parts = oci();
    parts.file("index.json", vec![b' '; JSON_LIMIT as usize + 1]);
    table.push((
        parts,
        "index.json: has 4194305 bytes, and 4194304 is the limit".to_owned(),
    ));
    let mut parts = oci();
    let manifest = parts.blob(MANIFEST, vec![b' '; JSON_LIMIT as usize + 1]);
    layout(&mut parts, &[manifest]);
    table.push((parts, "is the limit for JSON".to_owned()));
    let mut parts = oci();
    let both = json!({ "manifests": [], "config": descriptor("x"), "layers": [] });
    let both = parts.blob(MANIFEST, both.to_string());
    layout(&mut parts, &[both]);
    table.push((parts, "is an index and a manifest at once".to_owned()));
    let mut parts = oci();
    let chart = parts.blob("application/vnd.cncf.helm.config.v1+json", "{}");
    let chart = json!({ "config": chart, "layers": [] });
    let chart = parts.blob(MANIFEST, chart.to_string());
    layout(&mut parts, &[chart]);
    table.push((
        parts,
        "is not a container image but application/vnd.cncf.helm".to_owned(),
    ));
    let mut parts = oci();
    let nothing = parts.blob("text/x", "{}");
    layout(&mut parts, &[nothing]);
    table.push((parts, "is not a container image but text/x".to_owned()));

    // Nested indexes, more than there may be and as many as there may.
    for (depth, words) in [(5, "nested more than 4 deep"), (4, "")] {
        let mut parts = Parts::default();
        let mut top = image(&mut parts, &config(&[&lower(), &upper()]));
        for _ in 0..depth {
            top = parts.blob(INDEX, json!({ "manifests": [top] }).to_string());
        }
        layout(&mut parts, &[top]);
        table.push((parts, words.to_owned()));
    }
    let mut parts = Parts::default();
    let mut top;
    // The first that fits would end the search.
    let mut foreign = config(&[&lower(), &upper()]);
    foreign["architecture"] = json!("riscv64");
    top = image(&mut parts, &foreign);
    for _ in 0..4 {
        top = parts.blob(INDEX, json!({ "manifests": vec![top; 30] }).to_string());
    }
    layout(&mut parts, &[top]);
    table.push((parts, "more than 1024 indexes and manifests".to_owned()));

    // Layers: too many, nested compression, not to be passed on.
    let mut parts = Parts::default();
    let empty = parts.blob(LAYER, tar_of(&[]));
    let settings = parts.blob(CONFIG, config(&vec![&tar_of(&[])[..]; 1025]).to_string());
    let many = json!({ "config": settings, "layers": vec![empty; 1025] });
    let many = parts.blob(MANIFEST, many.to_string());
    layout(&mut parts, &[many]);
    table.push((
        parts,
        "it has 1025 layers, and 1024 is the limit".to_owned(),
    ));
    for (kind, bytes, words) in [
        (LAYER, Some(gzip(&gzip(&lower()))), "is compressed twice"),
        (LAYER, Some(b"garbage".to_vec()), "layer 1 of 1: "),
        (
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            None,
            "may not be passed on",
        ),
        (
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
            None,
            "may not be passed on",
        ),
    ] {
        let mut parts = Parts::default();
        let plain = match &bytes {
            Some(bytes) if bytes.starts_with(b"\x1f\x8b") => gzip(&lower()),
            Some(bytes) => bytes.clone(),
            None => Vec::new(),
        };
        let layer = parts.blob(kind, bytes.as_deref().unwrap_or_default());
        if bytes.is_none() {
            parts.remove(&blob_path(&sha(b"").parse().unwrap()));
        }
        let settings = parts.blob(CONFIG, config(&[&plain]).to_string());
        let manifest = json!({ "config": settings, "layers": [layer] });
        let manifest = parts.blob(MANIFEST, manifest.to_string());
        layout(&mut parts, &[manifest]);
        table.push((parts, words.to_owned()));
    }

    // docker's list.
    for (list, words) in [
        (
            json!([{ "Config": "c.json", "Layers": ["../../etc/shadow"] }]),
            "../../etc/shadow is not in it",
        ),
        (
            json!([{ "Config": "c.json", "Layers": ["/etc/shadow"] }]),
            "/etc/shadow is not in it",
        ),
        (
            json!([{ "Config": "c.json", "Layers": ["loop"] }]),
            "loop: too many links",
        ),
        (
            json!([{ "Config": "c.json", "Layers": ["out"] }]),
            "out is not in it",
        ),
        (
            json!([{ "Config": "c.json", "Layers": ["dir"] }]),
            "dir is not in it",
        ),
        (
            json!([{ "Config": "c.json", "Layers": ["l9"] }]),
            "l9: too many links",
        ),
        (json!([{ "Config": "c.json", "Layers": ["l8"] }]), ""),
        (
            json!([{ "Config": "c.json", "Layers": [] }]),
            "0 layers and the configuration 1",
        ),
        (json!([{ "Config": "../c.json", "Layers": ["l0"] }]), ""),
        (
            json!([{ "Config": "dir", "Layers": ["l0"] }]),
            "dir is not in it",
        ),
        (
            json!([{ "Config": "arm.json", "Layers": ["l0"] }]),
            "no image for linux/amd64 in it, only for linux/arm64",
        ),
        (
            json!([{ "Config": "\u{1b}[2J", "Layers": [] }]),
            "\\u{1b}[2J is not in it",
        ),
    ] {
        let mut parts = Parts::default();
        parts.json("c.json", &config(&[&lower()]));
        parts.json(
            "arm.json",
            &json!({ "os": "linux", "architecture": "arm64" }),
        );
        parts.link("loop", "loop");
        parts.link("out", "/etc/passwd");
        parts.0.push(member("d dir"));
        parts.file("l0", lower());
        for hop in 1..10 {
            parts.link(&format!("l{hop}"), &format!("l{}", hop - 1));
        }
        parts.json("manifest.json", &list);
        table.push((parts, words.to_owned()));
    }

    for (parts, words) in &table {
        match words.is_empty() {
            true => assert!(bench.open(parts).is_ok(), "{:?}", bench.open(parts).err()),
            false => {
                let error = told(bench.open(parts));
                assert!(error.contains(words.as_str()), "{words:?}: {error}");
                let shown = bench.path("app.tar").display().to_string();
                assert!(error.contains(&shown), "{error}");
            }
        }
    }
}

#[test]
fn a_layout_in_a_directory_is_never_left_by_a_link() {
    let bench = Bench::new();
    oci().unpack(&bench.path("good"));
    bench.read(&bench.path("good"), |_| {}).unwrap();
    for (name, target) in [
        ("index.json", "real.json"),
        ("blobs", "real"),
        ("blobs/sha256", "real"),
    ] {
        let root = bench.path("bad");
        let _ = fs::remove_dir_all(&root);
        oci().unpack(&root);
        let outside = bench.path(target);
        let _ = fs::remove_file(&outside);
        let _ = fs::remove_dir_all(&outside);
        fs::rename(root.join(name), &outside).unwrap();
        std::os::unix::fs::symlink(&outside, root.join(name)).unwrap();
        let spec = |image: &mut ImageRef| image.format = Some(Format::Oci);
        let error = told(bench.read(&root, spec));
        assert!(
            error.contains("bad: is not an OCI layout") || error.contains("cannot be read"),
            "{error}"
        );
    }
}

#[test]
fn the_image_for_this_machine_is_found_among_several() {
    let bench = Bench::new();
    let mut parts = Parts::default();
    let ours = image(&mut parts, &config(&[&lower(), &upper()]));
    let with = |platform: Value, mut descriptor: Value| {
        descriptor["platform"] = platform;
        descriptor
    };
    let other =
        json!({ "mediaType": MANIFEST, "digest": format!("sha256:{}", "1".repeat(64)), "size": 7 });
    let arm = with(
        json!({ "os": "linux", "architecture": "arm64", "variant": "v8" }),
        other.clone(),
    );
    let windows = with(
        json!({ "os": "windows", "architecture": "amd64" }),
        other.clone(),
    );
    let newer = with(
        json!({ "os": "linux", "architecture": "amd64", "variant": "v3" }),
        other.clone(),
    );
    let attestation = with(json!({ "os": "unknown", "architecture": "unknown" }), other);
    let plain = with(json!({ "os": "linux", "architecture": "amd64" }), ours);

    let index = json!({ "manifests": [arm, newer, attestation, plain, windows] });
    let mut nested = parts.clone();
    let index = nested.blob(INDEX, index.to_string());
    layout(&mut nested, &[index]);
    let image = bench.open(&nested).unwrap();
    assert_eq!(listing(&image.tree), BOTH);
    assert_eq!(
        image.manifest.unwrap().to_string(),
        plain["digest"].as_str().unwrap()
    );

    let mut top = parts.clone();
    layout(
        &mut top,
        &[arm.clone(), attestation.clone(), plain, windows.clone()],
    );
    assert_eq!(listing(&bench.open(&top).unwrap().tree), BOTH);

    let mut none = parts.clone();
    layout(&mut none, &[arm, attestation, windows]);
    let error = told(bench.open(&none));
    assert!(
        error.contains("only for linux/arm64, windows/amd64"),
        "{error}"
    );

    // Where the index does not say, the configuration does.
    let mut none = Parts::default();
    let mut foreign = config(&[&lower(), &upper()]);
    foreign["architecture"] = json!("riscv64");
    let foreign = self::image(&mut none, &foreign);
    layout(&mut none, &[foreign]);
    let error = told(bench.open(&none));
    assert!(error.contains("only for linux/riscv64"), "{error}");
}

/// An index with `manifests`, called v1, in a layout.
fn nested(mut parts: Parts, manifests: &[Value]) -> Parts {
    let mut index = parts.blob(INDEX, json!({ "manifests": manifests }).to_string());
    index["annotations"] = json!({ "org.opencontainers.image.ref.name": "v1" });
    layout(&mut parts, &[index]);
    parts
}

/// As skopeo, docker and containerd do: the image specification has the first one used.
#[test]
fn of_several_manifests_for_this_platform_the_first_is_taken() {
    let bench = Bench::new();
    let mut parts = Parts::default();
    let mut manifest = |cmd: &str, platform: Value| {
        let mut config = config(&[&lower(), &upper()]);
        config["config"]["Cmd"] = json!([cmd]);
        let mut descriptor = image(&mut parts, &config);
        descriptor["platform"] = platform;
        descriptor
    };
    let plain = json!({ "os": "linux", "architecture": "amd64" });
    let (one, two) = (manifest("one", plain.clone()), manifest("two", plain));
    let features = json!({ "os": "linux", "architecture": "amd64", "os.features": ["x"] });
    let (featured, newer) = (
        manifest("featured", features),
        manifest(
            "newer",
            json!({ "os": "linux", "architecture": "amd64", "variant": "v2" }),
        ),
    );
    let other_name = json!({ "os": "linux", "architecture": "x86_64", "variant": "v1" });
    let other_name = manifest("other name", other_name);
    let unsaid = manifest("unsaid", json!(null));
    for (manifests, cmd) in [
        ([&one, &two, &unsaid], "one"),
        ([&two, &one, &unsaid], "two"),
        ([&featured, &newer, &one], "one"),
        ([&unsaid, &featured, &newer], "newer"),
        ([&unsaid, &other_name, &one], "other name"),
    ] {
        let manifests = manifests.map(Clone::clone);
        let parts = nested(parts.clone(), &manifests);
        assert_eq!(bench.open(&parts).unwrap().config.cmd, [cmd]);
        // Any of them can be asked for.
        for manifest in &manifests {
            let digest = manifest["digest"].as_str().unwrap().to_owned();
            let image = bench.open_as(&parts, |image| image.tag = Some(digest.clone()));
            assert_eq!(image.unwrap().manifest.unwrap().to_string(), digest);
        }
    }
}

/// The image specification: an entry of an unknown kind must not be an error.
#[test]
fn what_is_no_image_in_an_index_is_passed_over() {
    let bench = Bench::new();
    let mut parts = Parts::default();
    let mut ours = image(&mut parts, &config(&[&lower(), &upper()]));
    let platform = json!({ "os": "linux", "architecture": "amd64" });
    let empty = parts.blob("application/vnd.oci.empty.v1+json", "{}");
    let artifact = json!({ "config": empty, "layers": [empty] });
    let artifact = parts.blob(MANIFEST, artifact.to_string());
    let mut on_our_platform = artifact.clone();
    on_our_platform["platform"] = platform.clone();
    let xml = parts.blob("application/xml", "<a/>");
    // What cosign writes is an image in all but its layer.
    let signed = json!({ "architecture": "", "os": "", "rootfs": { "diff_ids": [sha(b"{}")] } });
    let signed = parts.blob(CONFIG, signed.to_string());
    let signature = parts.blob("application/vnd.dev.cosign.simplesigning.v1+json", "{}");
    let signature = json!({ "config": signed, "layers": [signature] });
    let signature = parts.blob(MANIFEST, signature.to_string());
    let bad = json!({ "mediaType": "text/x", "digest": "../x", "size": 1 });
    for platform in [json!(null), platform] {
        ours["platform"] = platform;
        for other in [&artifact, &on_our_platform, &xml, &signature, &bad] {
            for entries in [[&ours, other], [other, &ours]] {
                let entries = entries.map(Clone::clone);
                let mut top = parts.clone();
                layout(&mut top, &entries);
                assert_eq!(listing(&bench.open(&top).unwrap().tree), BOTH, "{other}");
                let nested = nested(parts.clone(), &entries);
                assert_eq!(listing(&bench.open(&nested).unwrap().tree), BOTH, "{other}");
                let spec = |image: &mut ImageRef| image.tag = Some("v1".to_owned());
                assert_eq!(listing(&bench.open_as(&nested, spec).unwrap().tree), BOTH);
            }
        }
    }
    // Alone they are told; and an image for another platform is more of a reason.
    for (entry, words) in [
        (
            &artifact,
            "is not a container image but application/vnd.oci.empty",
        ),
        (&xml, "is not a container image but application/xml"),
    ] {
        let error = told(bench.open(&nested(parts.clone(), std::slice::from_ref(entry))));
        assert!(error.contains(words), "{error}");
    }
    let mut foreign = artifact.clone();
    foreign["platform"] = json!({ "os": "linux", "architecture": "arm64" });
    let error = told(bench.open(&nested(parts.clone(), &[foreign, artifact])));
    assert!(error.contains("only for linux/arm64"), "{error}");
}

/// All of these are taken by GNU tar, bsdtar and umoci.
#[test]
fn a_layer_that_its_digest_proves_whole_may_end_in_any_way() {
    let bench = Bench::new();
    let whole = upper();
    let body = &whole[..whole.len() - 1024];
    let of = |top: &[u8]| {
        let mut parts = Parts::default();
        let layers = [
            parts.blob(LAYER, lower()),
            parts.blob(&format!("{LAYER}+gzip"), gzip(top)),
            parts.blob(LAYER, top),
        ];
        let settings = parts.blob(CONFIG, config(&[&lower(), top, top]).to_string());
        let manifest = json!({ "config": settings, "layers": layers });
        let manifest = parts.blob(MANIFEST, manifest.to_string());
        layout(&mut parts, &[manifest]);
        bench.open(&parts).unwrap()
    };
    let tails: [&[u8]; 5] = [
        b"",
        &[0; 512],
        &[0; 1024],
        &[&[0; 1024][..], b"junk"].concat(),
        &[&[0; 1024][..], &tar_of(&["f never"])].concat(),
    ];
    for tail in tails {
        let image = of(&[body, tail].concat());
        assert_eq!(listing(&image.tree), BOTH);
        assert_eq!(image.tree.warnings(), []);
    }
    let nothing = of(b"");
    assert_eq!(nothing.layers[1].members, 0);
    assert!(nothing.tree.get(b"etc/old").is_some());
}

#[test]
fn a_root_file_system_that_nothing_proves_whole_comes_with_a_warning() {
    let bench = Bench::new();
    let whole = tar_of(&["f a x", "f b y"]);
    let path = bench.path("app.tar");
    for (bytes, words) in [
        (whole.clone(), ""),
        (whole[..whole.len() - 512].to_vec(), ""),
        (
            whole[..whole.len() - 1024].to_vec(),
            "app.tar: the archive has no end marker; should files be missing",
        ),
        (
            [&whole[..], &tar_of(&["f c z"])].concat(),
            "app.tar: what follows the end of the archive at offset 3072 is left out",
        ),
    ] {
        let check = |image: Result<Image, crate::Error>| {
            let tree = image.unwrap().tree;
            assert_eq!(listing(&tree), ["f 644 a x", "f 644 b y"]);
            let warnings: Vec<_> = tree.warnings().iter().map(ToString::to_string).collect();
            assert_eq!(warnings.len(), usize::from(!words.is_empty()));
            assert!(
                warnings.iter().all(|line| line.contains(words)),
                "{warnings:?}"
            );
        };
        fs::write(&path, &bytes).unwrap();
        check(bench.read(&path, |_| {}));
        fs::write(&path, gzip(&bytes)).unwrap();
        check(bench.read(&path, |image| image.format = Some(Format::Tar)));
        // On top of another.
        fs::write(&path, &bytes).unwrap();
        fs::write(bench.path("base.tar"), tar_of(&["f b old"])).unwrap();
        let layer = |image: &mut ImageRef| image.layers = vec![path.clone()];
        check(bench.read(&bench.path("base.tar"), layer));
    }
}

/// The ID of a layer of the 1.0 form.
fn number(digit: &str) -> String {
    digit.repeat(64)
}

/// Adds a layer of the 1.0 form, with a command of its own.
fn put_layer(parts: &mut Parts, digit: &str, parent: Option<&str>, bytes: &[u8]) {
    let id = number(digit);
    parts.file(format!("{id}/VERSION"), "1.0");
    let mut json = json!({ "id": id, "os": "linux", "architecture": "amd64", "docker_version": "1.6.2",
        "config": { "Cmd": [format!("of {digit}")], "Env": null, "Entrypoint": null, "User": "" } });
    if let Some(parent) = parent {
        json["parent"] = json!(number(parent));
    }
    parts.json(&format!("{id}/json"), &json);
    parts.file(format!("{id}/layer.tar"), bytes);
}

/// As docker saved before 1.10, and as the container cookbook writes it: the topmost layer first.
fn docker_v1() -> Parts {
    let mut parts = Parts::default();
    put_layer(&mut parts, "b", Some("a"), &gzip(&upper()));
    put_layer(&mut parts, "a", None, &lower());
    parts.json("repositories", &json!({ "app": { "v1": number("b") } }));
    parts
}

#[test]
fn a_docker_archive_of_the_1_0_form_is_read_from_its_top_layer_down() {
    let bench = Bench::new();
    let parts = docker_v1();
    let check = |image: Result<Image, crate::Error>| {
        let image = image.unwrap();
        assert_eq!(listing(&image.tree), BOTH);
        assert_eq!(image.config.cmd, ["of b"]);
        assert_eq!((image.form, image.manifest), (Form::DockerArchive, None));
        let ids: Vec<_> = image
            .layers
            .iter()
            .map(|it| it.diff_id.to_string())
            .collect();
        assert_eq!(ids, [sha(&lower()), sha(&upper())]);
    };
    check(bench.open(&parts));
    check(bench.open_as(&parts, |image| image.format = Some(Format::Docker)));
    for tag in ["app:v1", &number("b"), &format!("sha256:{}", number("b"))] {
        check(bench.open_as(&parts, |image| image.tag = Some((*tag).to_owned())));
    }
    // As a layer on top of something.
    fs::write(bench.path("base.tar"), tar_of(&["f etc/old gone"])).unwrap();
    let on_top = |image: &mut ImageRef| image.layers = vec![bench.path("app.tar")];
    let image = bench.read(&bench.path("base.tar"), on_top).unwrap();
    assert_eq!(listing(&image.tree), BOTH);
    // docker wrote no names where there were none.
    let mut unnamed = parts.clone();
    unnamed.remove("repositories");
    check(bench.open(&unnamed));
    // Layers may be links, and `./` may stand before everything.
    let mut linked = parts.clone();
    linked.remove(&format!("{}/layer.tar", number("a")));
    linked.file("store.tar", lower());
    linked.link(&format!("{}/layer.tar", number("a")), "../store.tar");
    linked
        .0
        .iter_mut()
        .for_each(|member| member.name.splice(..0, *b"./").for_each(drop));
    check(bench.open(&linked));
    // No digest proves that a layer is whole.
    let mut cut = parts.clone();
    let (top, whole) = (format!("{}/layer.tar", number("b")), upper());
    cut.file(&*top, &whole[..whole.len() - 1024]);
    let image = bench.open(&cut).unwrap();
    let warnings: Vec<_> = image
        .tree
        .warnings()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(
        matches!(&warnings[..], [one] if one.contains(&format!("app.tar: {top}: the archive has no end marker"))),
        "{warnings:?}"
    );
}

#[test]
fn images_in_the_1_0_form_are_told_apart_by_name() {
    let bench = Bench::new();
    let mut parts = docker_v1();
    put_layer(&mut parts, "c", Some("a"), &tar_of(&["f c c"]));
    let names = json!({ "app": { "v1": number("b"), "latest": number("b") } });
    parts.json("repositories", &names);
    // Two names of one image are no reason to ask.
    assert_eq!(bench.open(&parts).unwrap().config.cmd, ["of b"]);
    let names = json!({ "app": { "v1": number("b"), "latest": number("c") }, "x/base": { "1": number("a") } });
    parts.json("repositories", &names);
    for (tag, cmd) in [
        ("app:v1", "of b"),
        ("app:latest", "of c"),
        ("app", "of c"),
        ("x/base:1", "of a"),
        ("base:1", "of a"),
    ] {
        let image = bench.open_as(&parts, |image| image.tag = Some(tag.to_owned()));
        assert_eq!(image.unwrap().config.cmd, [cmd], "{tag}");
    }
    let error = told(bench.open(&parts));
    let several = "several images in it: x/base:1, app:v1, app:latest; NameImage";
    assert!(error.contains(several), "{error}");
    let error = told(bench.open_as(&parts, |image| image.tag = Some("gone".to_owned())));
    assert!(
        error.contains("no image \"gone\" in it, only x/base:1, "),
        "{error}"
    );
    // Without names the IDs are what there is to name.
    parts.remove("repositories");
    let error = told(bench.open(&parts));
    assert!(
        error.contains(&format!("{}, {}; NameImage", number("b"), number("c"))),
        "{error}"
    );
    let image = bench.open_as(&parts, |image| image.tag = Some(number("c")));
    assert_eq!(image.unwrap().config.cmd, ["of c"]);
}

#[test]
fn chains_of_layers_that_lead_elsewhere_or_nowhere_are_refused() {
    let bench = Bench::new();
    let json_of = |digit: &str| format!("{}/json", number(digit));
    let with_parent = |parent: &str| {
        let mut parts = docker_v1();
        parts.json(&json_of("a"), &json!({ "parent": parent }));
        parts
    };
    let with_top = |id: &str| {
        let mut parts = docker_v1();
        parts.json("repositories", &json!({ "app": { "v1": id } }));
        parts
    };
    let without = |name: String| {
        let mut parts = docker_v1();
        parts.remove(&name);
        parts
    };
    let mut table = vec![
        (with_parent(&number("b")), "is its own ancestor"),
        (with_parent(&number("a")), "is its own ancestor"),
        (with_parent(&number("f")), "ff/json is not in it"),
        (
            with_parent("../../etc"),
            "\"../../etc\" is not a layer's ID",
        ),
        (
            with_parent(&format!("{}/..", number("a"))),
            "is not a layer's ID",
        ),
        (with_top("../x"), "\"../x\" is not a layer's ID"),
        (with_top("/"), "\"/\" is not a layer's ID"),
        (with_top(&number("f")), "ff/json is not in it"),
        (without(json_of("a")), "aa/json is not in it"),
        (
            without(format!("{}/layer.tar", number("a"))),
            "aa/layer.tar is not in it",
        ),
    ];
    let mut circle = with_parent(&number("b"));
    circle.remove("repositories");
    table.push((circle, "is its own ancestor"));
    let mut parts = docker_v1();
    parts.json("repositories", &json!({}));
    table.push((parts, "there is no image in it"));
    let mut parts = docker_v1();
    parts.json("repositories", &json!([]));
    table.push((parts, "repositories: is not what it should be"));
    let mut parts = docker_v1();
    parts.json(
        &json_of("b"),
        &json!({ "os": "linux", "architecture": "arm64" }),
    );
    table.push((parts, "only for linux/arm64"));
    for (parts, words) in &table {
        let error = told(bench.open(parts));
        assert!(error.contains(words), "{words:?}: {error}");
    }
    for (count, words) in [
        (1024_u32, ""),
        (1025, "it has 1025 layers, and 1024 is the limit"),
    ] {
        let mut parts = Parts::default();
        for layer in 0..count {
            let id = format!("{layer:064}");
            let parent = layer.checked_sub(1).map(|below| format!("{below:064}"));
            parts.0.push(member(&format!("f {id}/layer.tar {}", "")));
            let bytes = tar_of(&["f a x"]);
            parts.0.last_mut().unwrap().what = file(&bytes);
            parts.0.push(member(&format!("f {id}/json x")));
            let json = json!({ "parent": parent }).to_string();
            parts.0.last_mut().unwrap().what = file(json.as_bytes());
        }
        let top = format!("{:064}", count - 1);
        parts.json("repositories", &json!({ "app": { "v1": top } }));
        match words.is_empty() {
            true => assert_eq!(bench.open(&parts).unwrap().layers.len(), 1024),
            false => assert!(told(bench.open(&parts)).contains(words)),
        }
    }
    // A root file system may have a file of this name.
    let lines = ["f repositories {\"a\":{\"b\":\"c\"}}", "d bin"];
    let image = bench.open(&Parts(lines.iter().map(|line| member(line)).collect()));
    assert_eq!(image.unwrap().form, Form::Tar);
}

#[test]
fn one_of_several_images_is_chosen_by_name_or_digest() {
    let bench = Bench::new();
    let mut parts = Parts::default();
    let mut second = config(&[&lower(), &upper()]);
    second["config"]["Cmd"] = json!(["second"]);
    let named = |mut image: Value, name: &str, key: &str| {
        image["annotations"] = json!({ key: name });
        image
    };
    let one = image(&mut parts, &config(&[&lower(), &upper()]));
    let two = image(&mut parts, &second);
    let digest = two["digest"].as_str().unwrap().to_owned();
    let one = named(
        one,
        "docker.io/library/app:latest",
        "io.containerd.image.name",
    );
    let two = named(two, "v2", "org.opencontainers.image.ref.name");
    layout(&mut parts, &[one, two]);
    let error = told(bench.open(&parts));
    assert!(
        error.contains("several images in it: docker.io/library/app:latest, v2; NameImage"),
        "{error}"
    );
    let id = sha(second.to_string().as_bytes());
    for (tag, cmd) in [
        ("app", "-l"),
        ("app:latest", "-l"),
        ("library/app", "-l"),
        ("docker.io/library/app:latest", "-l"),
        ("v2", "second"),
        (&digest, "second"),
        (&digest[7..], "second"),
        (&id, "second"),
    ] {
        let image = bench.open_as(&parts, |image| image.tag = Some(tag.to_owned()));
        assert_eq!(image.unwrap().config.cmd, [cmd], "{tag}");
    }
    for tag in ["pp", "app:", "", "latest:", "v3"] {
        let error = told(bench.open_as(&parts, |image| image.tag = Some(tag.to_owned())));
        assert!(
            error.contains(&format!("no image \"{tag}\" in it, only docker.io")),
            "{error}"
        );
    }

    let mut parts = docker();
    parts.json("x.json", &config(&[&lower()]));
    let mut list: Value = {
        let text = bench
            .open(&parts)
            .map(|_| fs::read_to_string(bench.path("app.tar")));
        drop(text);
        let blobs = Parts(parts.0.clone());
        let manifest = blobs
            .0
            .iter()
            .find(|member| member.name == b"manifest.json")
            .unwrap();
        let EntryKind::File {
            content: crate::member::FileContent::Span(span),
            size,
            ..
        } = &manifest.what
        else {
            unreachable!()
        };
        let mut bytes = vec![0; *size as usize];
        span.store.read_exact(0, &mut bytes).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    };
    let layer = format!("{}/layer.tar", "a".repeat(64));
    let more = json!({ "Config": "x.json", "RepoTags": ["registry:5000/x/other:latest"], "Layers": [layer] });
    list.as_array_mut().unwrap().push(more);
    parts.json("manifest.json", &list);
    let error = told(bench.open(&parts));
    assert!(
        error.contains("app:v1, registry:5000/x/other:latest; NameImage"),
        "{error}"
    );
    let other = bench.open_as(&parts, |image| image.tag = Some("other".to_owned()));
    assert_eq!(other.unwrap().layers.len(), 1);
    let error = told(bench.open_as(&parts, |image| image.tag = Some("gone".to_owned())));
    assert!(error.contains("no image \"gone\" in it"), "{error}");

    // Where there is nothing to choose from.
    let error = told(bench.open_as(&Parts(vec![member("f x y")]), |image| {
        image.tag = Some("v1".to_owned());
    }));
    assert!(error.contains("; OmitName"), "{error}");
}

#[test]
fn an_archive_with_both_lists_is_read_by_the_one_that_leads_somewhere() {
    let bench = Bench::new();
    let mut parts = oci();
    let mut second = config(&[&lower()]);
    second["config"]["Cmd"] = json!(["by docker"]);
    let id = parts.blob(CONFIG, second.to_string());
    let path =
        |descriptor: &Value| blob_path(&descriptor["digest"].as_str().unwrap().parse().unwrap());
    let layer = blob_path(&sha(&lower()).parse().unwrap());
    let list = json!([{ "Config": path(&id), "RepoTags": ["app:v1"], "Layers": [layer] }]);
    parts.json("manifest.json", &list);
    let image = bench.open(&parts).unwrap();
    assert_eq!(image.config.cmd, ["-l"]);
    assert_eq!(image.form, Form::DockerArchive);

    // An index of an image with several platforms, of which others were saved.
    let mut gap = parts.clone();
    let missing =
        json!({ "mediaType": MANIFEST, "digest": format!("sha256:{}", "1".repeat(64)), "size": 7 });
    layout(&mut gap, &[missing]);
    assert_eq!(bench.open(&gap).unwrap().config.cmd, ["by docker"]);
    let image = bench
        .open_as(&parts, |image| image.tag = Some("app:v1".into()))
        .unwrap();
    assert_eq!(image.config.cmd, ["by docker"]);
    let image = bench
        .open_as(&parts, |image| image.format = Some(Format::Docker))
        .unwrap();
    assert_eq!(image.config.cmd, ["by docker"]);
    assert_eq!(image.layers[0].digest, Some(image.layers[0].diff_id));

    // What is wrong is wrong, whatever the other list says.
    let manifest = parts
        .0
        .iter()
        .map(|member| String::from_utf8(member.name.clone()).unwrap())
        .find(|name| {
            parts_size(&parts, name) > 300
                && parts_text(&parts, name).contains("schemaVersion")
                && name.starts_with("blobs")
        })
        .unwrap();
    parts.damage(&manifest);
    assert!(told(bench.open(&parts)).contains("its contents have the digest"));
}

fn parts_size(parts: &Parts, name: &str) -> usize {
    parts_text(parts, name).len()
}

fn parts_text(parts: &Parts, name: &str) -> String {
    let member = parts.0.iter().find(|member| member.name == name.as_bytes());
    let EntryKind::File {
        content: crate::member::FileContent::Span(span),
        size,
        ..
    } = &member.unwrap().what
    else {
        return String::new();
    };
    let mut bytes = vec![0; *size as usize];
    span.store.read_exact(0, &mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn a_root_file_system_with_a_file_of_such_a_name_is_one() {
    let bench = Bench::new();
    for lines in [
        &["f manifest.json {}", "d bin"][..],
        &["f manifest.json []", "d bin"],
        &["f manifest.json [{\"a\":1}]", "d bin"],
        &["f index.json {\"manifests\":[]}", "d bin"],
        &["d index.json", "d oci-layout", "d manifest.json", "d bin"],
        &["f oci-layout x", "f index.json y", "f bin"],
        &["d blobs"],
    ] {
        let members = lines.iter().map(|line| member(line)).collect();
        let image = bench.open(&Parts(members)).unwrap();
        assert_eq!(
            (image.form, image.tree.entries().len()),
            (Form::Tar, lines.len() + 1)
        );
    }
    // What has nothing else in it was meant as an archive of images.
    for lines in [
        &["f manifest.json {}"][..],
        &["f repositories {}"],
        &["f index.json x", "d blobs"],
    ] {
        let members = lines.iter().map(|line| member(line)).collect();
        told(bench.open(&Parts(members)));
    }
}

#[test]
fn the_format_may_be_said() {
    let bench = Bench::new();
    let with = |format| move |image: &mut ImageRef| image.format = Some(format);
    // As a root file system, it is what it is.
    let image = bench.open_as(&oci(), with(Format::Tar)).unwrap();
    assert_eq!(image.form, Form::Tar);
    assert!(image.tree.get(b"index.json").is_some());
    oci().unpack(&bench.path("layout"));
    let image = bench
        .read(&bench.path("layout"), with(Format::Dir))
        .unwrap();
    assert_eq!(image.form, Form::Directory);
    for format in [Format::Tar, Format::Docker, Format::Cpio] {
        let error = told(bench.read(&bench.path("layout"), with(format)));
        assert!(
            error.contains("layout: is not a ") && error.ends_with("; OmitFormat"),
            "{error}"
        );
    }
    let error = told(bench.read(&bench.path("app.tar"), with(Format::Dir)));
    assert!(error.contains("app.tar: is not a directory"), "{error}");
    fs::create_dir(bench.path("root")).unwrap();
    let error = told(bench.read(&bench.path("root"), with(Format::Oci)));
    assert!(error.contains("root: is not an OCI layout"), "{error}");
    let error = told(bench.open_as(&docker(), with(Format::Oci)));
    assert!(error.contains("oci-layout is not in it"), "{error}");
    told(bench.open_as(&oci(), with(Format::Cpio)));
}

#[test]
fn layers_on_top_come_from_directories_and_archives_of_all_kinds() {
    let bench = Bench::new();
    fs::create_dir_all(bench.path("base/etc")).unwrap();
    fs::write(bench.path("base/etc/a"), "1").unwrap();
    fs::write(bench.path("base/etc/b"), "1").unwrap();
    fs::write(bench.path("base/.wh.literal"), "1").unwrap();
    fs::create_dir_all(bench.path("top/etc")).unwrap();
    fs::write(bench.path("top/etc/.wh.a"), "").unwrap();
    fs::write(bench.path("top/etc/c"), "2").unwrap();
    fs::write(
        bench.path("more.tgz"),
        gzip(&tar_of(&["f etc/.wh.b", "f etc/d 3"])),
    )
    .unwrap();
    oci().write(&bench.path("oci.tar"));
    let image = bench
        .read(&bench.path("base"), |image| {
            image.layers = vec![
                bench.path("top"),
                bench.path("more.tgz"),
                bench.path("oci.tar"),
            ];
        })
        .unwrap();
    let files: Vec<String> = listing(&image.tree)
        .into_iter()
        .filter(|line| line.contains("etc/") || line.contains(".wh."))
        .collect();
    assert_eq!(
        files,
        [
            "f 644 .wh.literal 1",
            "f 644 etc/c 2",
            "f 644 etc/d 3",
            "f 644 etc/new 2"
        ]
    );
    assert_eq!(image.form, Form::Directory);
    assert!(image.layers.is_empty() && image.config.cmd.is_empty());
    image.tree.check_unchanged().unwrap();

    // An archive below a directory, too.
    let image = bench
        .open_as(&oci(), |image| image.layers = vec![bench.path("top")])
        .unwrap();
    assert_eq!(image.config.cmd, ["-l"]);
    assert!(image.tree.get(b"etc/c").is_some() && image.layers.len() == 2);
    let error = told(bench.open_as(&oci(), |image| image.layers = vec![bench.path("gone")]));
    assert!(error.contains("gone: no such file"), "{error}");
}

#[test]
fn a_layer_may_not_come_to_more_than_the_limits() {
    let bench = Bench::new();
    let limits = |unpacked, entries| {
        move |image: &mut ImageRef| {
            image.limits = Limits {
                unpacked: Some(ByteSize(unpacked)),
                entries,
            };
        }
    };
    let mut parts = Parts::default();
    let zeros = vec![0; 8 << 20];
    let layer = parts.blob(LAYER, gzip(&zeros));
    let settings = parts.blob(CONFIG, config(&[&zeros]).to_string());
    let manifest = json!({ "config": settings, "layers": [layer] });
    let manifest = parts.blob(MANIFEST, manifest.to_string());
    layout(&mut parts, &[manifest]);
    let error = told(bench.open_as(&parts, limits(1 << 20, 100)));
    assert!(error.ends_with("; RaiseUnpacked"), "{error}");
    let error = told(bench.open_as(&oci(), limits(1 << 20, 9)));
    assert!(error.ends_with("; RaiseEntries"), "{error}");
}

/// Archives by skopeo and layouts by umoci hold the image that they were made from.
#[test]
fn archives_of_skopeo_and_layouts_of_umoci_are_the_same_image() {
    if !is_here("skopeo") || !is_here("umoci") {
        return;
    }
    let bench = Bench::new();
    oci().unpack(&bench.path("layout"));
    let run = |program: &str, words: &[&str]| {
        let output = Command::new(program)
            .args(words)
            .current_dir(bench.0.path())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{words:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    let copy = |from: &str, to: &str| run("skopeo", &["copy", "--insecure-policy", from, to]);
    copy("oci:layout", "docker-archive:docker.tar:example/app:v1");
    copy("oci:layout", "oci-archive:oci.tar:v1");
    copy("docker-archive:docker.tar", "oci:again:v1");
    for (name, form) in [
        ("docker.tar", Form::DockerArchive),
        ("oci.tar", Form::OciArchive),
        ("again", Form::OciDirectory),
    ] {
        let image = bench.read(&bench.path(name), |_| {}).unwrap();
        assert_eq!(listing(&image.tree), BOTH, "{name}");
        assert_eq!(
            (image.form, &image.config.cmd[..]),
            (form, &["-l".to_owned()][..])
        );
    }
    let named = bench.read(&bench.path("docker.tar"), |image| {
        image.tag = Some("app:v1".into())
    });
    named.unwrap();

    // And umoci unpacks to the same tree.
    run("umoci", &["unpack", "--image", "again:v1", "bundle"]);
    let theirs = bench.read(&bench.path("bundle/rootfs"), |_| {}).unwrap();
    assert_eq!(listing(&theirs.tree), BOTH);
}

#[test]
fn an_archive_that_is_cut_off_is_never_taken_for_a_whole_one() {
    let bench = Bench::new();
    let path = bench.path("app.tar");
    // Without its last list, the 1.0 form is what docker wrote of an image without a name.
    let mut unnamed = docker_v1();
    unnamed.remove("repositories");
    for parts in [docker(), oci(), unnamed] {
        let whole = tar(&parts.0);
        let lengths = (0..whole.len() - 1024).step_by(37);
        for length in lengths.chain((0..whole.len() - 1024).step_by(512)) {
            fs::write(&path, &whole[..length]).unwrap();
            // Only `repositories`, the last member of the one, is a list that nothing needs.
            match bench.read(&path, |_| {}) {
                Ok(image) => assert_eq!((image.layers.len(), length), (3, whole.len() - 2048)),
                error => drop(told(error)),
            }
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config {
        cases: 400, failure_persistence: None, ..Default::default()
    })]

    /// Whatever is in it, there is a tree or an error: no panic, and no other tree than the whole archive's.
    #[test]
    fn no_damage_is_too_strange(
        is_docker: bool, damage in proptest::collection::vec((0usize..1 << 20, 0u8..=255), 1..6)
    ) {
        let bench = Bench::new();
        let parts = if is_docker { docker() } else { oci() };
        let whole = bench.open(&parts).unwrap();
        let mut bytes = tar(&parts.0);
        for (at, byte) in damage {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        fs::write(bench.path("app.tar"), bytes).unwrap();
        if let Ok(image) = bench.read(&bench.path("app.tar"), |_| {})
            && !image.layers.is_empty()
        {
            proptest::prop_assert_eq!(listing(&image.tree), listing(&whole.tree));
        }
    }
}
