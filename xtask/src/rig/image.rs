//! The outer machine's image: busybox, KVM's modules, the scripts of tests/rig, kernels to boot, programs with their libraries.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::modules;
use super::outer::Guest;
use crate::process::{self, command};
use crate::project::{Project, program, variable};

/// A directory that becomes the outer machine's root.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) dir: PathBuf,
    /// The kernel that the outer machine boots.
    pub(super) kernel: PathBuf,
    /// The distribution's kernel inside, which is unpacked; where rdvm looks for it all the same.
    pub(super) debian: PathBuf,
    /// The small kernel on the host; inside it is there when this file is.
    pub(super) small: Option<PathBuf>,
}

impl Image {
    /// A new image with kernel, modules and a shell.
    pub(super) fn base(
        project: &Project,
        dir: PathBuf,
        module: &str,
        rdvm: &Path,
        guest: Guest,
    ) -> Result<Self> {
        let named = variable("RIG_KERNEL");
        let release = match named
            .as_deref()
            .and_then(|file| Path::new(file).file_name()?.to_str())
        {
            Some(name) => name.strip_prefix("vmlinuz-").unwrap_or(name).to_owned(),
            None => modules::outer_release(module)?,
        };
        let debian = PathBuf::from(format!("/boot/vmlinuz-{release}"));
        let image = Self {
            kernel: named.map_or_else(|| debian.clone(), PathBuf::from),
            small: guest.filter(|file| file.exists()),
            debian,
            dir,
        };
        if image.dir.exists() {
            process::run(command(&["rm", "-rf", "--one-file-system"]).arg(&image.dir))?;
        }
        for name in ["bin", "boot", "cache/kernel", "rig", "tmp"] {
            image.make_dir(name)?;
        }
        let busybox = program("busybox")?;
        image.copy(&busybox, "bin/busybox")?;
        for name in process::output(Command::new(&busybox).arg("--list"))?.lines() {
            if name != "busybox" {
                image.link("busybox", &format!("bin/{name}"))?;
            }
        }
        modules::add(&release, module, &image.path("modules"))?;
        for name in ["start", "scenarios", "shell", "vmx"] {
            image.copy(
                Path::new(&format!("tests/rig/{name}.sh")),
                &format!("rig/{name}.sh"),
            )?;
        }
        image.unpacked(project, rdvm, &image.kernel, &image.inside(&image.debian))?;
        if let Some(small) = &image.small {
            image.unpacked(project, rdvm, small, &image.path("cache/kernel/vmlinux"))?;
        }
        Ok(image)
    }

    /// A place in the image.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The place in the image of a path that is absolute inside.
    pub(super) fn inside(&self, path: &Path) -> PathBuf {
        self.dir.join(path.strip_prefix("/").unwrap_or(path))
    }

    pub(super) fn make_dir(&self, name: &str) -> Result<()> {
        let dir = self.path(name);
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())
    }

    pub(super) fn copy(&self, file: &Path, name: &str) -> Result<()> {
        let copied = fs::copy(file, self.path(name));
        copied.with_context(|| {
            format!("{} to {name} in the outer machine's image", file.display())
        })?;
        Ok(())
    }

    pub(super) fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> Result<()> {
        let path = self.path(name);
        fs::write(&path, contents).with_context(|| path.display().to_string())
    }

    pub(super) fn link(&self, target: impl AsRef<Path>, name: &str) -> Result<()> {
        let path = self.path(name);
        symlink(target, &path).with_context(|| path.display().to_string())
    }

    /// A copy of a program without its symbols.
    pub(super) fn strip(&self, program: &Path, into: &Path) -> Result<()> {
        process::run(Command::new("strip").arg("-o").arg(into).arg(program))
    }

    /// The libraries that ldd says the programs need, at the same paths.
    pub(super) fn add_libraries(&self, programs: &[&Path]) -> Result<()> {
        let listed = process::output(Command::new("ldd").args(programs))?;
        for library in libraries(&listed) {
            process::run(
                command(&["install", "-D", library]).arg(self.inside(Path::new(library))),
            )?;
        }
        Ok(())
    }

    /// Copies a kernel as an uncompressed one, so that no decompressor runs in emulation.
    fn unpacked(&self, project: &Project, rdvm: &Path, kernel: &Path, out: &Path) -> Result<()> {
        let bytes = fs::read(kernel).with_context(|| kernel.display().to_string())?;
        if bytes.starts_with(b"\x7fELF") {
            return fs::write(out, bytes).with_context(|| out.display().to_string());
        }
        // Unpacks it into the cache.
        process::output(Command::new(rdvm).args([
            OsStr::new("inspect"),
            "-k".as_ref(),
            kernel.as_ref(),
            self.dir.as_ref(),
        ]))?;
        let sum = process::output(Command::new("sha256sum").arg(kernel))?;
        let file = project
            .cache
            .join("vmlinux")
            .join(sum.split(' ').next().unwrap_or_default());
        if !file.exists() {
            bail!(
                "{}: rdvm could not unpack it into {}",
                kernel.display(),
                project.cache.display()
            );
        }
        fs::copy(&file, out).with_context(|| file.display().to_string())?;
        Ok(())
    }

    /// The kernels of several releases, with a cache in which they are unpacked: xz takes minutes in emulation.
    pub(super) fn add_kernels(&self, project: &Project, rdvm: &Path) -> Result<()> {
        self.make_dir("kernels")?;
        self.make_dir("unpacked")?;
        // Those few by which a kernel has an image in place.
        let modules = project.kernels.join("modules");
        if modules.is_dir() {
            let copy = ["cp", "-r", "--reflink=auto"];
            process::run(command(&copy).arg(modules).arg(self.path("kernels")))?;
        }
        let mut found = 0;
        for entry in fs::read_dir(&project.kernels)
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.starts_with("vmlinuz-") {
                continue;
            }
            found += 1;
            self.copy(&entry.path(), &format!("kernels/{name}"))?;
            let mut inspect = Command::new(rdvm);
            inspect
                .env("RDVM_CACHE", self.path("unpacked"))
                .arg("inspect")
                .arg("-k");
            process::run(
                inspect
                    .arg(entry.path())
                    .arg(self.path("rig"))
                    .stdout(Stdio::null()),
            )?;
        }
        if found == 0 {
            bail!(
                "{} has no kernels; scripts/get-kernels.sh fetches them",
                project.kernels.display()
            );
        }
        // Stamps of this host's files.
        process::run(
            command(&["find"])
                .arg(self.path("unpacked"))
                .args(["-name", "at-*", "-delete"]),
        )
    }

    /// Images that tests boot, as hard links where that goes.
    pub(super) fn add_images(&self, project: &Project, names: &[&str]) -> Result<()> {
        self.make_dir("images")?;
        let from: Vec<PathBuf> = names.iter().map(|name| project.images.join(name)).collect();
        let copy = |how: &str, quiet: bool| {
            let mut cp = Command::new("cp");
            cp.arg(how).args(&from).arg(self.path("images"));
            if quiet {
                cp.stderr(Stdio::null());
            }
            process::run(&mut cp)
        };
        copy("-al", true)
            .or_else(|_| copy("-a", false))
            .with_context(|| {
                format!(
                    "{} has no images; scripts/make-images.sh makes them",
                    project.images.display()
                )
            })
    }
}

/// The files that stand in what ldd printed.
fn libraries(listed: &str) -> BTreeSet<&str> {
    let words = listed.split_whitespace();
    words
        .filter(|word| word.starts_with('/') && word.contains(".so"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_the_files_that_ldd_names() {
        let listed = "one:\n\tlinux-vdso.so.1 (0x7ffd)\n\tlibc.so.6 => /lib/libc.so.6 (0x7f)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x7f)\n/bin/two:\n\tlibc.so.6 => /lib/libc.so.6 (0x7f)\n";
        let found: Vec<&str> = libraries(listed).into_iter().collect();
        assert_eq!(found, ["/lib/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
    }
}
