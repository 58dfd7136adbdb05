//! `rdvm pull`.

use rdvm::cli::PullArgs;
use rdvm::names::{self, Images, PullPolicy};
use rdvm::report::FAILED;
use rdvm_hostfs::progress::Progress;

use crate::Result;
use crate::print::{print, say, show_bar};

/// Pulls images, and prints the full name and the digest of each. One that cannot be had does not keep the others from being
/// pulled.
pub(crate) fn pull(args: &PullArgs) -> Result<u8> {
    let images = Images::open()?;
    let bar = (!args.quiet).then(show_bar);
    let progress = bar
        .as_ref()
        .map_or_else(Progress::default, |bar| bar.progress.clone());
    let mut code = 0;
    for text in &args.names {
        match pull_one(&images, text, &progress) {
            Ok(line) => {
                progress.pause();
                print(&line)?;
            }
            Err(error) => {
                say(&error.to_string());
                code = FAILED;
            }
        }
    }
    Ok(code)
}

fn pull_one(images: &Images, text: &str, progress: &Progress) -> Result<String> {
    let names = images.registries.candidates(&names::parse(text)?)?;
    let (pulled, _) = images.get(&names, PullPolicy::Always, progress)?;
    Ok(format!("{} {}\n", pulled.image.name, pulled.image.manifest))
}
