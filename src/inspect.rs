//! What `rdvm inspect` prints.

use std::fmt::Write;

use crate::image::tree::Kind;
use crate::pipeline::Plan;
use crate::request::ImageRef;

/// A page about an image: what is in it, and the RAM it needs as a sum.
pub fn render(image: &ImageRef, plan: &Plan) -> String {
    let count = |wanted: fn(&Kind) -> bool| {
        plan.tree
            .entries()
            .iter()
            .filter(|entry| wanted(&entry.kind))
            .count()
    };
    let files = count(|kind| matches!(kind, Kind::File(_)));
    let directories = count(|kind| matches!(kind, Kind::Directory));
    let links = count(|kind| matches!(kind, Kind::Symlink(_)));
    let others = plan.tree.entries().len() - files - directories - links;
    let contents = plan.places.contents();
    let init = if plan.tree.get(b"init").is_some() {
        "/init"
    } else {
        "none; name a command"
    };
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<12}{value}");
    };
    line(
        "image",
        crate::escape::escaped(image.path.as_os_str().as_encoded_bytes()),
    );
    line("kind", "directory".to_owned());
    line(
        "entries",
        format!(
            "{} ({files} files, {directories} directories, {links} links, {others} others)",
            contents.entries
        ),
    );
    line(
        "unpacked",
        crate::units::ByteSize(contents.page_rounded_bytes).to_string(),
    );
    line(
        "initrd",
        crate::units::ByteSize(contents.packed_bytes).to_string(),
    );
    line("command", init.to_owned());
    line(
        "kernel",
        format!("{} ({})", plan.kernel.path.display(), plan.kernel.origin),
    );
    line("memory", plan.memory.to_string());
    text
}
