//! The ONNX backend cases: a model, its inputs, and the outputs that ONNX itself computed.

mod cases;
mod compare;
mod engine;
mod expected;

use crate::python;
use cases::Case;
use clap::ValueEnum;
pub use compare::difference;
pub use engine::Engine;
use std::{
    collections::BTreeMap,
    panic,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

/// What to run, and on what.
#[derive(clap::Args, Clone)]
pub struct Options {
    /// A ready archive (.tar.zst) or folder of cases; without it they are generated with Python.
    #[arg(long, value_name = "ARCHIVE")]
    pub cases: Option<PathBuf>,
    /// What runs the models.
    #[arg(long, value_enum, default_value_t = Engine::Reference)]
    pub on: Engine,
    /// Only cases whose name contains this; the list of expected failures is then not complete and not checked
    /// for cases that are missing.
    #[arg(long)]
    pub filter: Option<String>,
    /// Print every case that does not pass, with the reason.
    #[arg(long, short)]
    pub verbose: bool,
    /// Rewrite the list of expected failures from this run.
    #[arg(long)]
    pub bless: bool,
}

/// How a case ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Every output is within tolerance.
    Passed,
    /// The model asks for something that is refused as not supported.
    Unsupported(String),
    /// A wrong output, an error, or a panic.
    Failed(String),
}

/// The outcomes of a run, and whether they are the expected ones.
pub struct Report {
    passed: usize,
    total: usize,
    surprises: Vec<String>,
}

impl Report {
    /// An error unless everything ended as the committed list says.
    pub fn verdict(&self) -> Result<(), String> {
        if self.surprises.is_empty() {
            return Ok(());
        }
        Err(format!(
            "{} cases did not end as expected:\n  {}\nmend them, or bless the list with --bless and say why",
            self.surprises.len(),
            self.surprises.join("\n  ")
        ))
    }
}

/// Runs the cases and prints the table.
pub fn run(options: &Options) -> Result<Report, String> {
    let source = match &options.cases {
        Some(path) => path.clone(),
        None => python::generate_cases()?,
    };
    let wanted = |name: &str| options.filter.as_ref().is_none_or(|f| name.contains(f.as_str()));
    let mut cases = cases::load(&source)?;
    cases.retain(|c| wanted(&c.name));
    if cases.is_empty() {
        return Err(format!("{}: no cases", source.display()));
    }
    let start = Instant::now();
    let outcomes = run_all(&cases, options.on);
    let mut by_op: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    let mut passed = 0;
    for (case, outcome) in cases.iter().zip(&outcomes) {
        let row = by_op.entry(&case.op).or_default();
        match outcome {
            Outcome::Passed => {
                passed += 1;
                row[0] += 1;
            }
            Outcome::Failed(_) => row[1] += 1,
            Outcome::Unsupported(_) => row[2] += 1,
        }
        if options.verbose && *outcome != Outcome::Passed {
            println!("{}: {outcome:?}", case.name);
        }
    }
    println!("{:<34} {:>7} {:>7} {:>14}", "operator", "passed", "failed", "not supported");
    for (op, [p, f, u]) in &by_op {
        println!("{op:<34} {p:>7} {f:>7} {u:>14}");
    }
    let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("expected-failures.txt");
    let ends: Vec<(&str, &Outcome)> = cases.iter().map(|c| c.name.as_str()).zip(&outcomes).collect();
    let surprises = if options.bless {
        expected::bless(&list, options.on, &ends)?;
        vec![]
    } else {
        expected::check(&list, options.on, &ends, options.filter.is_none())?
    };
    println!("on {} in {:.1} s", options.on.name(), start.elapsed().as_secs_f64());
    println!("conformance: {passed} of {} passed", cases.len());
    Ok(Report { passed, total: cases.len(), surprises })
}

impl Report {
    /// Passed and total.
    pub fn counts(&self) -> (usize, usize) {
        (self.passed, self.total)
    }
}

fn run_all(cases: &[Case], on: Engine) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(vec![Outcome::Passed; cases.len()]);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let hook = panic::take_hook();
    // A panic is an outcome here; its message is in it.
    panic::set_hook(Box::new(|_| {}));
    std::thread::scope(|s| {
        for _ in 0..threads {
            s.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = cases.get(i) else { break };
                    let outcome = panic::catch_unwind(|| run_one(case, on)).unwrap_or_else(|p| {
                        let what = p.downcast_ref::<String>().map(String::as_str);
                        let what = what.or_else(|| p.downcast_ref::<&str>().copied()).unwrap_or("");
                        Outcome::Failed(format!("panicked: {what}"))
                    });
                    outcomes.lock().expect("no panic holds it")[i] = outcome;
                }
            });
        }
    });
    panic::set_hook(hook);
    outcomes.into_inner().expect("no panic holds it")
}

fn run_one(case: &Case, on: Engine) -> Outcome {
    let model = match on.load(&case.model) {
        Ok(m) => m,
        Err(o) => return o,
    };
    for set in &case.sets {
        let io = match set.decode(&case.model) {
            Ok(io) => io,
            Err(e) => return Outcome::Failed(e),
        };
        let outputs = match model.run(&io.inputs) {
            Ok(v) => v,
            Err(o) => return o,
        };
        if outputs.len() != io.outputs.len() {
            return Outcome::Failed(format!("{} outputs, not {}", outputs.len(), io.outputs.len()));
        }
        for (i, (got, want)) in outputs.iter().zip(&io.outputs).enumerate() {
            if let Some(what) = difference(got, want, case.rtol, case.atol) {
                return Outcome::Failed(format!("output {i}: {what}"));
            }
        }
    }
    Outcome::Passed
}

impl Engine {
    /// The name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned())
    }
}
