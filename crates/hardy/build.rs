//! Notes what the binary is built from: the compiler, the target, and the git revision where there is one.

use std::{env, process::Command};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    note("HARDY_RUSTC", output(&rustc, &["--version"]).as_deref());
    note("HARDY_TARGET", env::var("TARGET").ok().as_deref());
    note("HARDY_REVISION", revision().as_deref());
}

/// The revision of the checkout that this crate belongs to; none in a source archive, wherever it was unpacked.
fn revision() -> Option<String> {
    output("git", &["ls-files", "--error-unmatch", "Cargo.toml"])?;
    // The log of HEAD grows with every commit and checkout.
    for name in ["HEAD", "logs/HEAD"] {
        println!("cargo:rerun-if-changed={}", output("git", &["rev-parse", "--git-path", name])?);
    }
    output("git", &["rev-parse", "--short=12", "HEAD"])
}

/// The first line that a program prints, if it can be run and succeeds.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.lines().next().unwrap_or_default().to_owned())
}

fn note(name: &str, value: Option<&str>) {
    println!("cargo:rustc-env={name}={}", value.unwrap_or("unknown"));
}
