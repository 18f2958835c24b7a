//! The program `tensormill`.

mod args;
mod bench;
mod check;
mod compare;
mod convert;
mod digits;
mod doctor;
mod failure;
mod image_input;
mod inputs;
mod inspect;
mod optimize;
mod outputs;
mod profile;
mod run;
mod session;
mod table_input;
mod text;

use args::{Cli, Command};
use clap::{CommandFactory, Parser};
use failure::Failure;
use std::{
    io::{self, ErrorKind, Write},
    process::ExitCode,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        None => digits::run(),
        Some(Command::Run(a)) => run::run(&a),
        Some(Command::Inspect(a)) => inspect::run(&a),
        Some(Command::Check(a)) => check::run(&a),
        Some(Command::Bench(a)) => bench::run(&a),
        Some(Command::Profile(a)) => profile::run(&a),
        Some(Command::Compare(a)) => compare::run(&a),
        Some(Command::Convert(a)) => convert::run(&a),
        Some(Command::Optimize(a)) => optimize::run(&a),
        Some(Command::Doctor { json }) => Ok(doctor::run(json)),
        Some(Command::Completions { shell }) => {
            let mut out = vec![];
            clap_complete::generate(shell, &mut Cli::command(), "tensormill", &mut out);
            Ok(String::from_utf8_lossy(&out).into_owned())
        }
    };
    let (output, code) = match done {
        Ok(text) => (text, 0),
        Err(failure) => {
            let code = failure.code();
            match failure {
                Failure::Differs(report) => (report, code),
                Failure::General(what) | Failure::Usage(what) | Failure::Unsupported(what) => {
                    note(&format!("error: {what}"));
                    (String::new(), code)
                }
            }
        }
    };
    let mut stdout = io::stdout().lock();
    match stdout.write_all(output.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::from(code),
        // The reader went away: it has what it wanted.
        Err(e) if e.kind() == ErrorKind::BrokenPipe => ExitCode::from(code),
        Err(e) => {
            note(&format!("error: the output cannot be written: {e}"));
            ExitCode::from(1)
        }
    }
}

/// A line on the error stream, which may be closed.
fn note(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
