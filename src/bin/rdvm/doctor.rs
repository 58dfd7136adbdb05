//! `rdvm doctor`.

mod checks;
mod diagnosis;
mod facts;
mod limits;
mod memory;
#[cfg(test)]
mod tests;

use std::path::Path;

use rdvm::cli::DoctorArgs;
use rdvm::kernel::regions;
use rdvm_kernel::{KernelSpec, Search};

use self::diagnosis::{KernelFinding, examine};
use self::facts::HostFacts;
use crate::Result;
use crate::print::print_verdict;

/// Prints what works on this host.
pub(crate) fn doctor(args: &DoctorArgs) -> Result<u8> {
    let diagnosis = examine(&HostFacts::gather(), &kernels());
    let text = match args.json {
        true => diagnosis.to_json(),
        false => diagnosis.render(),
    };
    print_verdict(&text, diagnosis.can_run())
}

/// Looks for what large images in place need of the kernel that a run takes.
fn in_place(path: &Path) -> std::result::Result<String, String> {
    let spec = KernelSpec::File(path.to_owned());
    let search = Search::from_env();
    let kernel = rdvm_kernel::open(&spec, None, &search).map_err(|error| error.to_string())?;
    regions::describe(&kernel, search.cache.as_deref())
}

fn kernels() -> Vec<KernelFinding> {
    let finding = |found: rdvm_kernel::KernelFile| KernelFinding {
        usable: found.problem.as_ref().map_or(Ok(()), |problem| {
            Err(format!("{problem}; {}", problem.remedy(&found.path)))
        }),
        in_place: found.chosen.then(|| in_place(&found.path)),
        path: found.path,
        chosen: found.chosen,
    };
    let kernels = rdvm_kernel::list(&Search::from_env(), None);
    kernels.into_iter().map(finding).collect()
}
