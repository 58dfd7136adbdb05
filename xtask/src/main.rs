//! `cargo xtask`: the program behind most targets of the Makefile.

use std::process::ExitCode;

fn main() -> ExitCode {
    xtask::main(std::env::args().skip(1).collect())
}
