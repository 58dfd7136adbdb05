//! `rdvm kernel`.

use rdvm::cli::{BuildArgs, CheckArgs, KernelVerb};
use rdvm::kernel::{build, check};
use rdvm::pipeline::StopSignals;
use rdvm::report::BY_SIGNAL;
use rdvm_kernel::Search;

use crate::Result;
use crate::print::{print, print_verdict, say, show_bar};

/// Lists, builds or checks kernels.
pub(crate) fn kernel(verb: KernelVerb) -> Result<u8> {
    match verb {
        KernelVerb::List { image } => {
            let image_boot = image.map(|image| image.join("boot"));
            let kernels = rdvm_kernel::list(&Search::from_env(), image_boot.as_deref());
            print(&rdvm_kernel::render(&kernels))
        }
        KernelVerb::Build(args) => build(args),
        KernelVerb::Check(args) => check(&args),
    }
}

fn build(args: BuildArgs) -> Result<u8> {
    let cache = Search::from_env().cache;
    let bar = show_bar();
    let mut options = args.into_options();
    options.progress = bar.progress.clone();
    match build::build(&options, cache.as_deref(), &say, StopSignals::catch) {
        Ok(path) => print(&format!("{}\n", path.display())),
        Err(error @ build::Error::Interrupted(signal)) => {
            say(&error.to_string());
            Ok(BY_SIGNAL.saturating_add(u8::try_from(signal)?))
        }
        Err(error) => Err(error.into()),
    }
}

fn check(args: &CheckArgs) -> Result<u8> {
    let cache = Search::from_env().cache;
    let verdict = check::check(&args.file, cache.as_deref())?;
    let text = match args.json {
        true => verdict.to_json(),
        false => verdict.render(),
    };
    print_verdict(&text, verdict.can_run())
}
