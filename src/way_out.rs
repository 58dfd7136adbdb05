//! The ways out of errors of the crates below, in words of the command line: those crates have none of these words, and say
//! by a `Remedy` which one is wanted.

use std::fmt;

use rdvm_hostfs::hostmem;
use rdvm_image::tree::Warning;

/// The way out for a host that the guest may not reach; the rule takes the place of the braces.
pub(crate) const ALLOW: &str = "--allow {} allows it";

/// The way out for a digest that is none.
pub(crate) const DIGESTS: &str = "rdvm inspect prints an image's";

/// The way out for a layer of confinement that is missing.
pub(crate) const OF_CONFINEMENT: &str = "; leave out --require-sandbox to run without this layer";

pub(crate) fn of_image(error: &rdvm_image::Error) -> &'static str {
    use rdvm_image::Remedy;
    error.remedy().map_or("", |remedy| match remedy {
        Remedy::Export => ", or for an image of docker's: docker save NAME | rdvm run -",
        Remedy::RaiseUnpacked => "; raise the limit with --max-size",
        Remedy::RaiseEntries => "; raise the limit with --max-entries",
        Remedy::NameImage => "; name one with --tag",
        Remedy::NameOneOfThose => "; name one of those with --tag",
        Remedy::NameAnother => "; name another with --tag",
        Remedy::OmitName => "; leave out --tag",
        Remedy::OmitFormat => "; leave out --format, or correct it",
        Remedy::OmitFakeroot => "; leave out --fakeroot",
        Remedy::AddOwnerRange => "; add one that has it to --owner",
        Remedy::NameUser => "; give --user",
    })
}

pub(crate) fn of_engine(error: &rdvm_vmm::Error) -> &'static str {
    use rdvm_vmm::Remedy;
    error.remedy().map_or("", |remedy| match remedy {
        Remedy::OtherEngine => ", or use --engine qemu",
        Remedy::FewerCpus => ", or take fewer --cpus",
        Remedy::LessMemory => ", or give the guest less with -m",
        Remedy::MoreMemory => "; give it more with -m",
        Remedy::OtherKernel => "; try another kernel (-k)",
        Remedy::Examine => "; see rdvm doctor",
        Remedy::ExamineOrOtherEngine => "; see rdvm doctor, or use --engine qemu",
        Remedy::OtherKernelOrExamine => "; try it with another kernel (-k), or see rdvm doctor",
    })
}

pub(crate) fn with_host_memory(error: &hostmem::Error) -> impl fmt::Display {
    match error {
        hostmem::Error::Given { .. } => format!("--memory: {error}"),
        hostmem::Error::Needed { .. } => {
            format!("{error} (--copy-in-exclude leaves out files that are copied in)")
        }
    }
}

/// Returns a warning about an image with its way out.
pub fn with_warning(warning: &Warning) -> String {
    let way_out = match warning {
        Warning::Owners { .. } => {
            "; --owner keep or --fakeroot FILE gives others, --owner root hides this line"
        }
        _ => "",
    };
    format!("{warning}{way_out}")
}
