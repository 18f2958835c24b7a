//! Developer commands: `cargo xtask test` runs everything that CI runs, cheapest check first;
//! `cargo xtask conformance` runs the ONNX backend cases alone.

mod arm;
mod conformance;
mod models;
mod python;
mod spills;
mod suite;

use clap::{Parser, Subcommand};
use std::{path::PathBuf, process::ExitCode};

/// Tensormill's developer commands.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run every test: format, lints, unit, golden, property and doc tests, conformance, real models.
    Test {
        /// A ready archive (.tar.zst) or folder of ONNX cases; without it they are generated with Python.
        #[arg(long, value_name = "ARCHIVE")]
        cases: Option<PathBuf>,
        /// A folder of models, each NAME.onnx (or .tflite) with NAME_onnx.npz holding in_<input> and out_<position>.
        #[arg(long, value_name = "DIR")]
        models: Option<PathBuf>,
    },
    /// Run the ONNX backend cases.
    Conformance(conformance::Options),
    /// Run the kernels' tests on 64-bit Arm, under emulation.
    ///
    /// Needs a compiler with that target's library (TENSORMILL_ARM_RUSTC names one; else /usr/bin/rustc is
    /// asked: on Debian the packages rustc-web and libstd-rust-web-dev:arm64), aarch64-linux-gnu-gcc as the
    /// linker (gcc-aarch64-linux-gnu, libc6-dev-arm64-cross) and qemu-aarch64 (qemu-user).
    Arm,
    /// Check in the machine code that the kernels' register tiles stay in registers.
    Spills,
    /// Run real models against the outputs stored beside them.
    Models {
        /// A folder of models, each NAME.onnx (or .tflite) with NAME_onnx.npz holding in_<input> and out_<position>.
        dir: PathBuf,
    },
}

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Test { cases, models } => suite::run(cases, models),
        Command::Conformance(options) => conformance::run(&options).and_then(|r| r.verdict()),
        Command::Arm => arm::run(),
        Command::Spills => spills::run(),
        Command::Models { dir } => models::run(&dir),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}
