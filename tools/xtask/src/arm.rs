//! `cargo xtask arm`: the kernels' tests on 64-bit Arm, under emulation.
//!
//! It needs a compiler with that target's library (`TENSORMILL_ARM_RUSTC` names one; else the distribution's
//! `/usr/bin/rustc`, of Debian's `rustc-web` and `libstd-rust-web-dev:arm64`), `aarch64-linux-gnu-gcc` as the
//! linker, and `qemu-aarch64`.

use std::{path::PathBuf, process::Command};

const TARGET: &str = "aarch64-unknown-linux-gnu";
const EMULATOR: &str = "qemu-aarch64";
const LINKER: &str = "aarch64-linux-gnu-gcc";

/// The compiler, if it has the target's library.
fn compiler() -> Option<PathBuf> {
    let rustc =
        std::env::var_os("TENSORMILL_ARM_RUSTC").map_or_else(|| "/usr/bin/rustc".into(), PathBuf::from);
    let said = Command::new(&rustc).args(["--print", "target-libdir", "--target", TARGET]).output().ok()?;
    let folder = PathBuf::from(String::from_utf8_lossy(&said.stdout).trim());
    let found = said.status.success() && folder.read_dir().is_ok_and(|mut d| d.next().is_some());
    found.then_some(rustc)
}

/// Whether all that it needs is there.
pub fn available() -> bool {
    let runs = |tool| Command::new(tool).arg("--version").output().is_ok_and(|o| o.status.success());
    compiler().is_some() && runs(EMULATOR) && runs(LINKER)
}

/// Builds the tests and runs them.
pub fn run() -> Result<(), String> {
    let rustc = compiler().ok_or("needs a compiler for 64-bit Arm: see `cargo xtask arm --help`")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // Its own folder, because another compiler would build everything anew in either.
    let done = Command::new(cargo)
        .args(["rustc", "-p", "tensormill-kernels", "--lib", "--profile", "test", "--target", TARGET])
        .args(["--target-dir", "target/arm", "--ignore-rust-version", "--quiet"])
        .args(["--message-format", "json-render-diagnostics"])
        // Emulated threads hang in the dynamic loader of some versions.
        .args(["--", "-C", "target-feature=+crt-static"])
        .env("RUSTC", rustc)
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", LINKER)
        .stderr(std::process::Stdio::inherit())
        .output()
        .map_err(|e| format!("cargo: {e}"))?;
    if !done.status.success() {
        return Err(format!("building the kernels' tests: {}", done.status));
    }
    let tests = String::from_utf8_lossy(&done.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .next_back()
        .ok_or("cargo named no test binary")?;
    // All tests on a processor with everything; those that choose a form of bytes on one without dot products, too.
    for (processor, dotprod, only) in
        [("max", "yes", &[][..]), ("cortex-a72", "no", &["quantized::tests::tiles"])]
    {
        // An emulated instruction costs tens of real ones: a few cases of each property.
        let status = Command::new(EMULATOR)
            .args(["-cpu", processor])
            .arg(&tests)
            .arg("--quiet")
            .args(only)
            .env("PROPTEST_CASES", "4")
            .env("TENSORMILL_TEST_DOTPROD", dotprod)
            .status();
        match status {
            Ok(s) if s.success() => {}
            Ok(s) => return Err(format!("the kernels' tests on {processor}: {s}")),
            Err(e) => return Err(format!("{EMULATOR}: {e}")),
        }
    }
    Ok(())
}
