//! `rdvm inspect`.

mod page;

use rdvm::cli::InspectArgs;
use rdvm::{names, pipeline, trust};
use rdvm_hostfs::escape::shown;

use self::page::Inspected;
use crate::Result;
use crate::print::{print, say, show_bar};

/// Prints what is in an image and the RAM that it needs, or records its digest in rdvm.lock.
pub(crate) fn inspect(args: InspectArgs) -> Result<u8> {
    let (lock, json, scratch, pull) = (args.lock, args.json, args.scratch, args.pull());
    let (mut image, kernel, cpus) = args.into_parts()?;
    let bar = show_bar();
    let pulled = names::resolve(&mut image, pull, &bar.progress)?;
    pulled.iter().for_each(|line| say(line));
    let (prepared, machine) = pipeline::look(&image, &kernel, (cpus, scratch), &bar.progress)?;
    let (info, Some(read)) = (prepared.info(), prepared.image()) else {
        return Err(format!("{}: was not read", shown(&image.path)).into());
    };
    let digest = match info.digest {
        Some(digest) => digest,
        None => rdvm_image::digest::of(&read.tree)?,
    };
    drop(bar);
    info.warnings.iter().for_each(|warning| say(warning));
    if lock {
        if !image.layers.is_empty() {
            return Err("--lock: an image with layers on top cannot be kept in rdvm.lock; lock each by itself".into());
        }
        match &image.stored {
            Some(stored) => trust::lock::keep_name(&stored.name, stored.digest)?,
            None => trust::lock::keep(&image.path, digest)?,
        }
    }
    let machine = match &machine {
        Ok((kernel, memory)) => {
            kernel.warnings.iter().for_each(|warning| say(warning));
            Ok((kernel, memory.clone()))
        }
        Err(error) => Err(error.to_string()),
    };
    let inspected = Inspected {
        image: &image,
        read,
        info,
        digest,
        machine,
    };
    print(&match json {
        true => inspected.to_json(),
        false => inspected.to_string(),
    })
}
