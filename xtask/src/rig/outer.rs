//! An outer machine to be run: its name, memory and command, and what emulates it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result};

use super::bochs::Bochs;
use crate::project::{Project, variable};

/// Where the guest of the outer machine gets its small kernel from: none stands for Debian's kernel alone.
pub(super) type Guest = Option<PathBuf>;

/// The emulation of the hardware.
#[derive(Debug)]
pub(super) enum Machine {
    Qemu,
    Bochs(Bochs),
}

impl Machine {
    /// The module of KVM for its CPU.
    pub(super) fn module(&self) -> &'static str {
        match self {
            Self::Qemu => "kvm-amd",
            Self::Bochs(_) => "kvm-intel",
        }
    }

    pub(super) fn guest(&self, project: &Project) -> Guest {
        match self {
            Self::Bochs(bochs) if bochs.without_small_kernel => None,
            _ => Some(variable("RIG_GUEST").map_or_else(|| project.small_kernel(), PathBuf::from)),
        }
    }
}

/// One outer machine.
#[derive(Debug)]
pub(super) struct Outer<'a> {
    pub(super) name: &'a str,
    /// As rdvm's `-m` takes it.
    pub(super) memory: &'a str,
    pub(super) command: Vec<&'a str>,
    /// Counted instructions are its clock.
    pub(super) counted: bool,
    /// A time limit where `RIG_LIMIT` names none.
    pub(super) limit: Option<&'a str>,
    /// FIFOs of a shell, named without their endings.
    pub(super) shell: Option<PathBuf>,
    /// A file for standard output, and whether standard error goes there too.
    output: Option<(File, bool)>,
}

impl<'a> Outer<'a> {
    pub(super) fn new(name: &'a str, memory: &'a str, command: &[&'a str]) -> Self {
        Self {
            name,
            memory,
            command: command.to_vec(),
            counted: false,
            limit: None,
            shell: None,
            output: None,
        }
    }

    /// With counted instructions as its clock.
    pub(super) fn counted(mut self) -> Self {
        self.counted = true;
        self
    }

    /// With a time limit where `RIG_LIMIT` names none.
    pub(super) fn limited(mut self, limit: &'a str) -> Self {
        self.limit = Some(limit);
        self
    }

    /// With standard output in a file.
    pub(super) fn into_file(mut self, path: &Path) -> Result<Self> {
        self.output = Some((
            File::create(path).with_context(|| path.display().to_string())?,
            false,
        ));
        Ok(self)
    }

    /// With both output streams in a file.
    pub(super) fn all_into_file(self, path: &Path) -> Result<Self> {
        let mut outer = self.into_file(path)?;
        outer.output = outer.output.map(|(file, _)| (file, true));
        Ok(outer)
    }

    /// Standard output and standard error for a child.
    pub(super) fn streams(&self) -> io::Result<(Stdio, Stdio)> {
        Ok(match &self.output {
            None => (Stdio::inherit(), Stdio::inherit()),
            Some((file, false)) => (file.try_clone()?.into(), Stdio::inherit()),
            Some((file, true)) => (file.try_clone()?.into(), file.try_clone()?.into()),
        })
    }

    /// Writes to standard output.
    pub(super) fn print(&self, text: &str) -> io::Result<()> {
        match &self.output {
            None => io::Write::write_all(&mut io::stdout(), text.as_bytes()),
            Some((file, _)) => io::Write::write_all(&mut &*file, text.as_bytes()),
        }
    }

    /// Writes to standard error.
    pub(super) fn complain(&self, text: &str) -> io::Result<()> {
        match &self.output {
            Some((file, true)) => io::Write::write_all(&mut &*file, text.as_bytes()),
            _ => io::Write::write_all(&mut io::stderr(), text.as_bytes()),
        }
    }
}
