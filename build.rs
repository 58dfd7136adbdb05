//! Compiles rdinit, PID 1 of the guest, into a freestanding static ELF that rdvm embeds.
//!
//! Called through `$RUSTC` and not as a cargo target: it needs panic=abort, no libc and its own linker flags
//! whatever profile and RUSTFLAGS the user builds rdvm with, on stable Rust, without a second target installed.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=rdinit/src");
    println!("cargo::rerun-if-changed=crates/proto/src");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let proto = out.join("librdvm_proto.rlib");
    rustc(
        "crates/proto/src/lib.rs",
        &proto,
        &["--crate-name=rdvm_proto", "--crate-type=rlib"],
    );
    let proto = format!("--extern=rdvm_proto={}", proto.display());
    let library = out.join("librdinit.rlib");
    rustc(
        "rdinit/src/lib.rs",
        &library,
        &["--crate-name=rdinit", "--crate-type=rlib", &proto],
    );
    let external = format!("--extern=rdinit={}", library.display());
    let link = [
        "--crate-name=rdinit_elf",
        "--crate-type=bin",
        &external,
        &proto,
        &format!("-Ldependency={}", out.display()),
        "-Clto=fat",
        "-Cstrip=symbols",
        "-Crelocation-model=static",
        "-Clink-arg=-nostartfiles",
        "-Clink-arg=-nostdlib",
        "-Clink-arg=-static",
        "-Clink-arg=-Wl,--build-id=none",
        "-Clink-arg=-Wl,-z,norelro",
        "-Clink-arg=-Wl,-z,noexecstack",
    ];
    rustc("rdinit/src/main.rs", &out.join("rdinit"), &link);
}

fn rustc(source: &str, output: &Path, extra: &[&str]) {
    let status = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args([
            "--edition=2024",
            "--target=x86_64-unknown-linux-gnu",
            "--cfg=freestanding",
            "-Copt-level=z",
        ])
        .args([
            "-Cpanic=abort",
            "-Ccodegen-units=1",
            "-Cforce-unwind-tables=no",
            "-Cdebuginfo=0",
            "-Cembed-bitcode=yes",
        ])
        .args(["-Coverflow-checks=off", "-Cdebug-assertions=off"])
        .args(extra)
        .arg(source)
        .arg("-o")
        .arg(output)
        .status()
        .unwrap_or_else(|error| panic!("rustc for {source}: {error}"));
    assert!(status.success(), "rustc could not compile {source}");
}
