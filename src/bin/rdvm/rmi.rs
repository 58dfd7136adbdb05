//! `rdvm rmi`.

use rdvm::cli::RmiArgs;
use rdvm::names::{self, Images};
use rdvm::report::FAILED;
use rdvm_hostfs::escape::escaped;
use rdvm_registry::{Removed, StoredImage};

use crate::Result;
use crate::print::{print, say};

/// The fewest digits of a digest that name an image.
const DIGITS: usize = 12;

/// Removes images by name or digest, and the least recently used ones.
pub(crate) fn rmi(args: &RmiArgs) -> Result<u8> {
    let images = Images::open()?;
    let mut code = 0;
    for text in &args.names {
        let removed = match digest_of(text) {
            Some(digits) => images.store.remove(|image| has_digits(image, digits))?,
            None => {
                let names = images.registries.candidates(&names::parse(text)?)?;
                let names: Vec<String> = names.iter().map(ToString::to_string).collect();
                images.store.remove(|image| names.contains(&image.name))?
            }
        };
        if removed.names.is_empty() {
            let shown = escaped(text.as_bytes());
            say(&format!(
                "{shown}: is not in the local store; rdvm images lists what is"
            ));
            code = FAILED;
        }
        show(&removed)?;
    }
    if let Some(size) = args.to {
        show(&images.store.shrink(size, None)?)?;
    }
    Ok(code)
}

/// The digits of an argument that is a digest.
fn digest_of(text: &str) -> Option<&str> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    let is_digest = digits.len() >= DIGITS
        && digits
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    is_digest.then_some(digits)
}

fn has_digits(image: &StoredImage, digits: &str) -> bool {
    let digests = [image.manifest, image.source].map(|digest| digest.to_string());
    digests
        .iter()
        .any(|digest| digest.trim_start_matches("sha256:").starts_with(digits))
}

fn show(removed: &Removed) -> Result<u8> {
    if removed.in_use {
        say("other processes use the store; what they use is removed with a later rmi or pull");
    }
    let lines = removed.names.iter().map(|name| format!("removed {name}\n"));
    print(&lines.collect::<String>())
}
