//! The processor as /proc/cpuinfo describes it: its maker, and its virtualisation.

use std::fs::File;
use std::io::Read;

/// More than the first processor takes in /proc/cpuinfo (2 KB today). The whole file has hundreds of
/// KB on a large host, and the kernel makes them up as they are read.
const CPUINFO_ENOUGH: u64 = 16 << 10;

/// The CPU's virtualisation instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extension {
    /// Intel's.
    Vmx,
    /// AMD's.
    Svm,
}

/// The first processor in /proc/cpuinfo.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cpu {
    /// `GenuineIntel`, `AuthenticAMD`, …; empty when not told.
    pub vendor: String,
    /// Its trade name; empty when not told.
    pub model: String,
    /// `vmx` or `svm`, when the kernel shows one of them.
    pub extension: Option<Extension>,
    /// True if this host is itself a virtual machine.
    pub hypervisor: bool,
}

impl Cpu {
    /// Reads the first processor of /proc/cpuinfo; nothing known where that cannot be read.
    pub fn gather() -> Self {
        let mut text = String::new();
        let file = File::open("/proc/cpuinfo");
        let _ = file.map(|file| file.take(CPUINFO_ENOUGH).read_to_string(&mut text));
        Self::parse(&text)
    }

    /// Reads the first processor of the text of a /proc/cpuinfo.
    pub(crate) fn parse(cpuinfo: &str) -> Self {
        let first = cpuinfo.lines().take_while(|line| !line.is_empty());
        let fields = first.filter_map(|line| line.split_once(':'));
        let mut cpu = Self::default();
        for (name, value) in fields.map(|(name, value)| (name.trim(), value.trim())) {
            match name {
                "vendor_id" => cpu.vendor = value.into(),
                "model name" => cpu.model = value.into(),
                "flags" => {
                    let has = |flag| value.split(' ').any(|word| word == flag);
                    cpu.hypervisor = has("hypervisor");
                    cpu.extension = match (has("vmx"), has("svm")) {
                        (true, _) => Some(Extension::Vmx),
                        (_, true) => Some(Extension::Svm),
                        _ => None,
                    };
                }
                _ => {}
            }
        }
        cpu
    }
}

impl Extension {
    /// Its name among the CPU's flags.
    pub fn flag(self) -> &'static str {
        match self {
            Self::Vmx => "vmx",
            Self::Svm => "svm",
        }
    }

    /// The kernel's module for it.
    pub(super) fn module(self) -> &'static str {
        match self {
            Self::Vmx => "kvm_intel",
            Self::Svm => "kvm_amd",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_processor_is_read_and_flags_are_whole_words() {
        let text = "vendor_id\t: AuthenticAMD\nmodel name\t: EPYC\nflags\t\t: fpu svm hypervisor\n\n\
                    vendor_id\t: Other\nflags\t\t: vmx\n";
        let cpu = Cpu {
            vendor: "AuthenticAMD".into(),
            model: "EPYC".into(),
            extension: Some(Extension::Svm),
            hypervisor: true,
        };
        assert_eq!(Cpu::parse(text), cpu);
        let near = Cpu::parse("flags : fpu vmxoff svm_lock\nvmx flags : vnmi\n");
        assert_eq!(near.extension, None);
        assert_eq!(Cpu::parse(""), Cpu::default());
    }
}
