//! What `rdvm inspect` prints.

use std::fmt::{Display, Write};

use crate::base::Facts;
use crate::digest::Digest;
use crate::escape::escaped;
use crate::image::Image;
use crate::image::stream::Compression;
use crate::image::tree::{Kind, Tree};
use crate::kernel::Kernel;
use crate::memory::MemoryPlan;
use crate::request::ImageRef;
use crate::units::ByteSize;

/// Everything there is to say of an image.
#[derive(Debug)]
pub struct Inspected<'a> {
    /// As it was named.
    pub image: &'a ImageRef,
    /// What was read.
    pub read: &'a Image,
    /// What a run has to know of it.
    pub facts: &'a Facts,
    /// Its content digest.
    pub digest: Digest,
    /// The kernel that a run would take, and the RAM with it; or why there is none, which is no fault of the image's.
    pub machine: Result<(&'a Kernel, MemoryPlan), String>,
}

/// A page about an image: what is in it, what it runs, and the RAM it needs as a sum.
impl Display for Inspected<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut line = |name: &str, value: &dyn Display| writeln!(f, "{name:<12}{value}");
        let (read, facts) = (self.read, self.facts);
        line(
            "image",
            &escaped(self.image.path.as_os_str().as_encoded_bytes()),
        )?;
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
        line("entries", &entries(&read.tree))?;
        line("unpacked", &ByteSize(facts.contents.page_rounded_bytes))?;
        line("initrd", &ByteSize(facts.contents.packed_bytes))?;
        let config = &facts.config;
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

fn kind(image: &Image) -> String {
    let compression = match image.compression {
        Compression::None => return image.form.to_string(),
        Compression::Gzip => "gzip",
        Compression::Zstd => "zstd",
        Compression::Xz => "xz",
        Compression::Lz4 => "lz4",
        Compression::Bzip2 => "bzip2",
    };
    format!("{}, compressed with {compression}", image.form)
}

fn entries(tree: &Tree) -> String {
    let all = tree.entries();
    let count = |wanted: fn(&Kind) -> bool| all.iter().filter(|entry| wanted(&entry.kind)).count();
    let files = count(|kind| matches!(kind, Kind::File(_)));
    let directories = count(|kind| matches!(kind, Kind::Directory));
    let links = count(|kind| matches!(kind, Kind::Symlink(_)));
    let others = all.len() - files - directories - links;
    format!(
        "{} ({files} files, {directories} directories, {links} links, {others} others)",
        all.len()
    )
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
