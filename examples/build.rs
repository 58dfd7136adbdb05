//! A build from Rust: `cargo run --example build -- IMAGE SOURCE PROGRAM OUTPUT`.
//!
//! SOURCE, a directory, goes in, `make` runs there, PROGRAM comes out to OUTPUT; time and output are limited.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use rdvm::{Outcome, Request, Streams};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [image, source, program, output] = args.as_slice() else {
        return Err(
            "name an image, a source directory, the program in it and where it goes".into(),
        );
    };
    let request = Request::new(image, ["make", "-C", "/src"])
        .copy_in(source, "/src")
        .copy_out(Path::new("/src").join(program), output)
        .timeout(Duration::from_secs(600))
        .max_output(10 << 20);
    let report = rdvm::run(&request, Streams::inherited()?)?.report;
    eprintln!(
        "{}",
        match report.outcome {
            Outcome::Exited if report.exit_code == 0 => format!("built {}", output.display()),
            Outcome::Exited => format!("the build failed with {}", report.exit_code),
            Outcome::TimedOut => "the build took too long".to_owned(),
            other => format!(
                "no build: {other:?}; {}",
                report.message.unwrap_or_default()
            ),
        }
    );
    Ok(ExitCode::from(report.exit_code))
}
