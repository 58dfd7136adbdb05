//! `rdvm pack`.

use std::mem::ManuallyDrop;

use rdvm::cli::PackArgs;
use rdvm::report::BY_SIGPIPE;
use rdvm::way_out::with_warning;
use rdvm::{names, output, trust};
use rdvm_image::config::Config;
use rdvm_image::tree::Tree;
use rdvm_image::{Image, Sources};
use rdvm_initrd::Epoch;

use crate::Result;
use crate::print::{say, show_bar};

/// Writes an archive of an image.
pub(crate) fn pack(args: PackArgs) -> Result<u8> {
    let mut packing = args.into_packing()?;
    let bar = show_bar();
    let pulled = names::resolve_all(&mut packing.steps, packing.pull, &bar.progress)?;
    pulled.iter().for_each(|line| say(line));
    // Never dropped: the process ends right after, and freeing many thousand entries one by one takes its time.
    let mut images = ManuallyDrop::new(Vec::new());
    // Steps have parts in common, and each part is opened once.
    let sources = match packing.steps.iter().any(|step| !step.layers.is_empty()) {
        true => Sources::keeping(),
        false => Sources::default(),
    }
    .with_progress(&bar.progress);
    for step in &packing.steps {
        let image = rdvm_image::open_from(step, &sources).map_err(rdvm::Error::from)?;
        trust::check(step, &image.tree, &sources)?;
        let warnings = image.tree.warnings().iter();
        warnings.for_each(|warning| say(&with_warning(warning)));
        images.push(image);
    }
    let steps: Vec<&Tree> = images.iter().map(|image| &image.tree).collect();
    let has_config = |image: &&Image| image.config != Config::default();
    // IMAGE's own configuration, which the steps after it share; else that of what is below.
    let options = match images.iter().rev().find(has_config) {
        Some(image) => packing.options.over(&image.config),
        None => packing.options,
    };
    match output::write(&steps, &options, Epoch::from_env()?) {
        // Like any local command whose reader has gone away.
        Err(error) if error.is_broken_pipe() => Ok(BY_SIGPIPE),
        result => {
            let warnings = result?;
            warnings
                .iter()
                .for_each(|warning| say(&warning.to_string()));
            Ok(0)
        }
    }
}
