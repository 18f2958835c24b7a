//! What the commands share: loading, compiling, memory.

use crate::{
    args::{BackendArg, OptArg, SessionArgs},
    failure::Failure,
    note,
    text::safe,
};
use std::{path::Path, time::Duration};
use tensormill::{Limits, Model, Session, SessionOptions};

/// Loads a model; what is odd about it goes to the error stream.
pub fn load(path: &Path, args: Option<&SessionArgs>) -> Result<Model, Failure> {
    let mut limits = Limits::default();
    if let Some(bytes) = args.and_then(|a| a.max_memory) {
        limits.max_memory = bytes;
    }
    let model = Model::load_with(path, &limits)?;
    const SHOWN: usize = 5;
    for w in model.warnings().iter().take(SHOWN) {
        note(&format!("note: {}", safe(w)));
    }
    if model.warnings().len() > SHOWN {
        note(&format!("note: {} more like these", model.warnings().len() - SHOWN));
    }
    Ok(model)
}

/// The options that the arguments ask for.
pub fn options(args: &SessionArgs) -> SessionOptions {
    let mut o = SessionOptions::new().backend(args.backend.into()).optimization(args.opt.into());
    if let Some(n) = args.threads {
        o = o.threads(n);
    }
    if let Some(folder) = &args.cache {
        o = o.cache_dir(folder);
    }
    if let Some(seconds) = args.autotune {
        o = o.autotune(Duration::from_secs_f64(seconds));
    }
    if args.all_multiplications {
        o = o.fewer_multiplications(false);
    }
    for (name, size) in &args.dims {
        o = o.dim(name, *size);
    }
    o
}

/// The same on another backend and level.
pub fn options_on(args: &SessionArgs, backend: BackendArg, opt: OptArg) -> SessionOptions {
    options(args).backend(backend.into()).optimization(opt.into())
}

/// Compiles with further inner values as outputs.
pub fn compile(model: &Model, args: &SessionArgs, outputs: &[String]) -> Result<Session, Failure> {
    let options = outputs.iter().fold(options(args), |o, name| o.output(name));
    Ok(model.session_with(&options)?)
}

/// Most memory that the process ever held, in bytes, where the system tells.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}
