//! Options of the verbs that run machines: how rdvm's own processes are confined.

use clap::Args;

/// Arguments of `run` and `oci`.
#[derive(Debug, Clone, Copy, Args)]
pub struct ConfinementArgs {
    /// Leave rdvm's own processes unconfined, to debug them
    #[arg(long, overrides_with = "require_sandbox", help_heading = "Confinement")]
    no_sandbox: bool,
    /// Refuse to run where a layer of confinement is missing (see rdvm doctor)
    #[arg(long, overrides_with = "no_sandbox", help_heading = "Confinement")]
    require_sandbox: bool,
}

impl ConfinementArgs {
    /// Returns true if every layer is required, false if those are enough that there are, and `None` if there is to be none.
    pub fn required(self) -> Option<bool> {
        (!self.no_sandbox).then_some(self.require_sandbox)
    }
}
