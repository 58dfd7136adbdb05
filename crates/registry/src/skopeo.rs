//! Images whose signatures are to be checked: skopeo fetches them into a layout, from which they go into the store.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rdvm_hostfs::Digest;
use rdvm_image::manifest::{self, blob_path};

use crate::client::PIECE;
use crate::config::policy::Demand;
use crate::document::{self, Document, LIMIT, Part};
use crate::environment::Environment;
use crate::error::{Error, Result, quoted};
use crate::reference::Reference;
use crate::store::{ImageInUse, Store};

/// A directory that is removed in the end.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left of it is removed with the partial blobs.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Has skopeo fetch an image, and check it by policy.json.
///
/// # Errors
/// There is no skopeo, or it fails; the store cannot be written to.
pub(crate) fn fetch(
    environment: &Environment,
    store: &Store,
    name: &Reference,
    demand: Demand,
) -> Result<ImageInUse> {
    let _lock = store.lock_shared()?;
    let scratch = Scratch(
        store
            .path()
            .join(format!("partial/skopeo-{}", std::process::id())),
    );
    let mut command = Command::new("skopeo");
    if let Some(path) = environment.path("PATH") {
        command.env("PATH", path);
    }
    // skopeo 1.9 does not look at the variable.
    if let Some(path) = environment.path("CONTAINERS_REGISTRIES_CONF") {
        command.arg("--registries-conf").arg(path);
    }
    let output = command
        .args([
            "copy",
            "--quiet",
            "--override-os",
            manifest::OS,
            "--override-arch",
            manifest::ARCHITECTURE,
        ])
        .arg(format!("docker://{name}"))
        .arg(format!("oci:{}:image", scratch.0.display()))
        .stdin(Stdio::null())
        .output();
    let failed = |text: String| Error::Skopeo {
        name: name.to_string(),
        text,
    };
    let output = match output {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(Error::Signature {
                name: name.to_string(),
                path: demand.path,
                kind: demand.kind,
            });
        }
        output => output.map_err(|error| failed(rdvm_hostfs::escape::reason(&error)))?,
    };
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let last = text
            .lines()
            .rfind(|line| !line.trim().is_empty())
            .unwrap_or_default();
        return Err(failed(quoted(last)));
    }
    import(store, name, &scratch.0, &failed)
}

/// Takes the only image of a layout over, with the digests checked.
fn import(
    store: &Store,
    name: &Reference,
    layout: &Path,
    failed: &dyn Fn(String) -> Error,
) -> Result<ImageInUse> {
    let wrong = || failed("has written no image".to_owned());
    let copied = Store::open(layout)?;
    let image = copied.images()?.into_iter().next().ok_or_else(wrong)?;
    let path = layout.join(blob_path(&image.manifest));
    if fs::metadata(&path).is_ok_and(|meta| meta.len() > LIMIT) {
        return Err(wrong());
    }
    let bytes = fs::read(path).map_err(|error| store.failed(error))?;
    let Ok(Document::Manifest(found)) = Document::parse(&bytes) else {
        return Err(wrong());
    };
    for part in found.parts() {
        copy(store, &part, &layout.join(blob_path(&part.digest)))?.map_err(|_| wrong())?;
    }
    let part = Part {
        digest: image.manifest,
        size: bytes.len() as u64,
    };
    store.put(&part, &bytes)?;
    // A digest that was named is that of the registry's manifest, which skopeo has checked and may have rewritten.
    let source = name.digest().unwrap_or(image.manifest);
    store.add(name, image.manifest, source, document::media_type(&bytes))
}

fn copy(store: &Store, part: &Part, path: &Path) -> Result<std::result::Result<(), Digest>> {
    let Some(mut partial) = store.partial(part)? else {
        return Ok(Ok(()));
    };
    partial.restart()?;
    let mut file = File::open(path).map_err(|error| store.failed(error))?;
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece).map_err(|error| store.failed(error))? {
            0 => return partial.finish(),
            count => partial.write(&piece[..count])?,
        }
    }
}
