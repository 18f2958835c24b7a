//! `cargo xtask test`: every check, cheapest first, each with its time.

use crate::{
    arm,
    conformance::{self, Engine, Options},
    models, python, spills,
};
use std::{path::PathBuf, process::Command, time::Instant};

/// Least number of cases that must pass on every engine.
const FLOOR: usize = 1_100;

/// Runs everything; the first failure ends it.
pub fn run(cases: Option<PathBuf>, model_dir: Option<PathBuf>) -> Result<(), String> {
    let ci = std::env::var_os("CI").is_some();
    let mut done: Vec<(String, f64)> = vec![];
    let mut step = |name: &str, f: &mut dyn FnMut() -> Result<(), String>| {
        println!("\n== {name}");
        let start = Instant::now();
        f().map_err(|e| format!("{name}: {e}"))?;
        done.push((name.to_owned(), start.elapsed().as_secs_f64()));
        Ok::<(), String>(())
    };
    step("format", &mut || cargo(&["fmt", "--all", "--check"]))?;
    step("lints", &mut || {
        cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--all-features",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ])
    })?;
    step("tests", &mut || cargo(&["test", "--workspace", "--all-features", "--quiet"]))?;
    let mut skipped = vec![];
    if spills::available() {
        step("register tiles", &mut spills::run)?;
    } else {
        skipped.push("register tiles: need objdump (binutils) on x86-64");
    }
    if arm::available() {
        step("kernels on 64-bit Arm, emulated", &mut arm::run)?;
    } else {
        skipped
            .push("kernels on 64-bit Arm: need a cross compiler and qemu-aarch64 (cargo xtask arm --help)");
    }
    if cases.is_some() || python::available() {
        for on in Engine::ALL {
            step(&format!("conformance on {}", on.name()), &mut || {
                let report = conformance::run(&Options {
                    cases: cases.clone(),
                    on: *on,
                    filter: None,
                    verbose: false,
                    bless: false,
                })?;
                let (passed, total) = report.counts();
                if passed < FLOOR {
                    return Err(format!("{passed} of {total} passed, fewer than {FLOOR}"));
                }
                report.verdict()
            })?;
        }
    } else {
        skipped.push("conformance: needs python3 with venv, or --cases ARCHIVE");
    }
    match &model_dir {
        Some(dir) => step("real models", &mut || models::run(dir))?,
        None => skipped.push("real models: need --models DIR"),
    }
    println!();
    for (name, seconds) in &done {
        println!("{name:<34} passed {seconds:>8.1} s");
    }
    for s in &skipped {
        println!("skipped {s}");
    }
    // Where the machine can run everything, a skip would hide a failure.
    if ci && !python::available() && cases.is_none() {
        return Err("CI must run conformance: install python3 with venv, or give --cases".into());
    }
    if ci && cfg!(target_arch = "x86_64") && !spills::available() {
        return Err("CI must read the register tiles: install binutils".into());
    }
    if ci && cfg!(all(target_arch = "x86_64", target_os = "linux")) && !arm::available() {
        return Err("CI must run the kernels on 64-bit Arm: see `cargo xtask arm --help`".into());
    }
    println!("{} passed, 0 failed, {} skipped", done.len(), skipped.len());
    Ok(())
}

fn cargo(args: &[&str]) -> Result<(), String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    match Command::new(cargo).args(args).status() {
        Ok(s) if s.success() => Ok(()),
        Ok(s) => Err(format!("cargo {}: {s}", args.join(" "))),
        Err(e) => Err(format!("cargo: {e}")),
    }
}
