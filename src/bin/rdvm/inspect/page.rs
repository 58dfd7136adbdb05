//! The output of `rdvm inspect`.

use std::fmt::{Display, Write};

use serde::Serialize;

use rdvm::memory::MemoryPlan;
use rdvm::prepared_image::ImageInfo;
use rdvm::request::ImageRef;
use rdvm_hostfs::Digest;
use rdvm_hostfs::escape::escaped;
use rdvm_hostfs::units::ByteSize;
use rdvm_image::Image;
use rdvm_image::stream::Compression;
use rdvm_image::tree::{Kind, Tree};
use rdvm_kernel::Kernel;

/// Everything there is to say of an image.
#[derive(Debug)]
pub(crate) struct Inspected<'a> {
    /// As it was named.
    pub(crate) image: &'a ImageRef,
    /// The image.
    pub(crate) read: &'a Image,
    pub(crate) info: &'a ImageInfo,
    /// Its content digest.
    pub(crate) digest: Digest,
    /// The kernel that a run would take, and the RAM with it; or why there is none, which is no fault of the image's.
    pub(crate) machine: Result<(&'a Kernel, MemoryPlan), String>,
}

/// A page about an image: what is in it, what it runs, and the RAM it needs as a sum.
impl Display for Inspected<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut line = |name: &str, value: &dyn Display| writeln!(f, "{name:<12}{value}");
        let (read, info) = (self.read, self.info);
        let name = escaped(self.image.name().as_os_str().as_encoded_bytes());
        line("image", &name)?;
        line("kind", &kind(read))?;
        line("digest", &self.digest)?;
        if let Some(manifest) = &read.manifest {
            line("manifest", manifest)?;
        }
        if let Some(id) = &read.id {
            line("id", id)?;
        }
        for layer in &read.layers {
            let (id, size) = (layer.diff_id, ByteSize(layer.size));
            line("layer", &format!("{id}, {size}, {} members", layer.members))?;
        }
        for layer in &self.image.layers {
            line("on top", &escaped(layer.as_os_str().as_encoded_bytes()))?;
        }
        line("entries", &Entries::of(&read.tree))?;
        line("unpacked", &ByteSize(info.contents.page_rounded_bytes))?;
        line("initrd", &ByteSize(info.contents.packed_bytes))?;
        if let Some(region) = info.region {
            line("in place", &ByteSize(region))?;
        }
        let config = &info.config;
        match (config.entrypoint.is_empty(), config.cmd.is_empty()) {
            (true, true) if read.tree.get(b"init").is_some() => line("command", &"/init")?,
            (true, true) => line("command", &"none; name a command")?,
            _ => {}
        }
        for (name, words) in [
            ("entrypoint", &config.entrypoint),
            ("cmd", &config.cmd),
            ("env", &config.env),
        ] {
            if !words.is_empty() {
                line(name, &list(words))?;
            }
        }
        if let Some(workdir) = &config.workdir {
            line("workdir", &escaped(workdir.as_bytes()))?;
        }
        if let Some(user) = &config.user {
            line("user", &escaped(user.to_string().as_bytes()))?;
        }
        match &self.machine {
            Ok((kernel, memory)) => {
                let path = kernel.path.display();
                line("kernel", &format!("{path} ({})", kernel.origin))?;
                line("memory", memory)
            }
            Err(why) => line("kernel", &format!("none: {why}")),
        }
    }
}

/// Version of the JSON form; it changes when a field changes its meaning or goes.
const SCHEMA: u32 = 1;

/// The JSON form: docs/images.md describes each field.
#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    image: String,
    kind: String,
    compression: Option<&'static str>,
    digest: Digest,
    manifest: Option<Digest>,
    id: Option<Digest>,
    layers: Vec<Layer>,
    on_top: Vec<String>,
    entries: Entries,
    unpacked_bytes: u64,
    initrd_bytes: u64,
    in_place_bytes: Option<u64>,
    entrypoint: &'a [String],
    cmd: &'a [String],
    env: &'a [String],
    workdir: Option<&'a str>,
    user: Option<String>,
    has_init: bool,
    warnings: &'a [String],
    kernel: Option<String>,
    memory: Option<Memory>,
    problem: Option<&'a str>,
}

#[derive(Serialize)]
struct Layer {
    diff_id: Digest,
    bytes: u64,
    members: u64,
}

#[derive(Serialize)]
struct Memory {
    total_bytes: u64,
    terms: Vec<Term>,
}

#[derive(Serialize)]
struct Term {
    name: &'static str,
    bytes: u64,
}

impl Inspected<'_> {
    /// The same as JSON, ending in a newline.
    pub(crate) fn to_json(&self) -> String {
        let (read, info) = (self.read, self.info);
        let path = |path: &std::path::Path| escaped(path.as_os_str().as_encoded_bytes());
        let machine = self.machine.as_ref();
        let terms = |memory: &MemoryPlan| {
            let terms = memory.terms.iter();
            terms
                .map(|&(name, ByteSize(bytes))| Term { name, bytes })
                .collect()
        };
        let document = Document {
            schema: SCHEMA,
            image: path(self.image.name()),
            kind: read.form.to_string(),
            compression: compression(read.compression),
            digest: self.digest,
            manifest: read.manifest,
            id: read.id,
            layers: read
                .layers
                .iter()
                .map(|layer| Layer {
                    diff_id: layer.diff_id,
                    bytes: layer.size,
                    members: layer.members,
                })
                .collect(),
            on_top: self.image.layers.iter().map(|layer| path(layer)).collect(),
            entries: Entries::of(&read.tree),
            unpacked_bytes: info.contents.page_rounded_bytes,
            initrd_bytes: info.contents.packed_bytes,
            in_place_bytes: info.region,
            entrypoint: &info.config.entrypoint,
            cmd: &info.config.cmd,
            env: &info.config.env,
            workdir: info.config.workdir.as_deref(),
            user: info.config.user.as_ref().map(ToString::to_string),
            has_init: read.tree.get(b"init").is_some(),
            warnings: &info.warnings,
            kernel: machine.ok().map(|(kernel, _)| path(&kernel.path)),
            memory: machine.ok().map(|(_, memory)| Memory {
                total_bytes: memory.total.0,
                terms: terms(memory),
            }),
            problem: machine.err().map(String::as_str),
        };
        // Strings, numbers and lists only: nothing in it can fail to serialize.
        serde_json::to_string_pretty(&document).unwrap_or_default() + "\n"
    }
}

fn kind(image: &Image) -> String {
    match compression(image.compression) {
        Some(compression) => format!("{}, compressed with {compression}", image.form),
        None => image.form.to_string(),
    }
}

fn compression(compression: Compression) -> Option<&'static str> {
    match compression {
        Compression::None => None,
        Compression::Gzip => Some("gzip"),
        Compression::Zstd => Some("zstd"),
        Compression::Xz => Some("xz"),
        Compression::Lz4 => Some("lz4"),
        Compression::Bzip2 => Some("bzip2"),
    }
}

/// Numbers of entries by kind.
#[derive(Serialize)]
struct Entries {
    all: usize,
    files: usize,
    directories: usize,
    links: usize,
    others: usize,
}

impl Entries {
    fn of(tree: &Tree) -> Self {
        let all = tree.entries();
        let count =
            |wanted: fn(&Kind) -> bool| all.iter().filter(|entry| wanted(&entry.kind)).count();
        let files = count(|kind| matches!(kind, Kind::File(_)));
        let directories = count(|kind| matches!(kind, Kind::Directory));
        let links = count(|kind| matches!(kind, Kind::Symlink(_)));
        Self {
            all: all.len(),
            files,
            directories,
            links,
            others: all.len() - files - directories - links,
        }
    }
}

impl Display for Entries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            all,
            files,
            directories,
            links,
            others,
        } = self;
        write!(
            f,
            "{all} ({files} files, {directories} directories, {links} links, {others} others)"
        )
    }
}

/// Words with blanks between them, in quotes where a word has some itself.
fn list(words: &[String]) -> String {
    let mut text = String::new();
    for word in words {
        let word = escaped(word.as_bytes());
        let space = if text.is_empty() { "" } else { " " };
        // Writing to a String cannot fail.
        let _ = match word.is_empty() || word.contains(' ') {
            true => write!(text, "{space}\"{word}\""),
            false => write!(text, "{space}{word}"),
        };
    }
    text
}
