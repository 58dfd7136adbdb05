//! `rdvm doctor`.

mod checks;
mod diagnosis;
mod facts;
mod limits;
mod memory;
#[cfg(test)]
mod tests;

use rdvm::cli::DoctorArgs;
use rdvm_kernel::Search;

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

fn kernels() -> Vec<KernelFinding> {
    let finding = |found: rdvm_kernel::KernelFile| KernelFinding {
        usable: found.problem.as_ref().map_or(Ok(()), |problem| {
            Err(format!("{problem}; {}", problem.remedy(&found.path)))
        }),
        path: found.path,
        chosen: found.chosen,
    };
    let kernels = rdvm_kernel::list(&Search::from_env(), None);
    kernels.into_iter().map(finding).collect()
}
