//! A machine from Rust: `cargo run --example machine -- IMAGE COMMAND [ARG...]`.

use std::error::Error;
use std::process::ExitCode;

use rdvm::{Request, Streams};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut args = std::env::args_os().skip(1);
    let image = args
        .next()
        .ok_or("name an image, a directory or an archive")?;
    let request = Request::new(image, args);
    let finished = rdvm::run(&request, Streams::inherited()?)?;
    Ok(ExitCode::from(finished.report.exit_code))
}
