//! Times an ONNX model on the CPU backend and tells where the time goes.
//!
//! `time_model MODEL.onnx IN.npz THREADS RUNS [PIPELINE [OUT.npz]]`
#![allow(clippy::print_stdout, reason = "a program for people")]

use std::collections::BTreeMap;
use std::error::Error;
use std::time::{Duration, Instant};
use tensormill_backend::{Backend, CompileOptions, Io, Plan, Profile};
use tensormill_cpu::{CpuBackend, Pool};
use tensormill_formats::{external::ExternalData, onnx};
use tensormill_ir::{Type, infer::Inferred};
use tensormill_optimizer::{OptOptions, Pipeline};
use tensormill_tensor::{Value, map_file, read_npz, write_npz};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, input, threads, runs, rest @ ..] = &args[..] else {
        return Err("MODEL.onnx IN.npz THREADS RUNS [PIPELINE [OUT.npz]]".into());
    };
    let begin = Instant::now();
    let bytes = map_file(model.as_ref())?;
    let parsed = onnx::parse(bytes, &onnx::ParseLimits::default(), ExternalData::deny())?;
    let mut graph = onnx::lower(&parsed)?.graph;
    drop(parsed);
    let pipeline = rest.first().map_or("default", String::as_str);
    let log =
        Pipeline::by_name(pipeline).ok_or("no such pipeline")?.run(&mut graph, &OptOptions::default())?;
    println!("{log}");
    let names: Vec<String> = graph.outputs().iter().map(|o| o.name.to_string()).collect();
    let given = read_npz(input)?;
    let mut inputs = vec![];
    for &v in graph.inputs() {
        let name = graph.value(v).name.clone().ok_or("an input without a name")?;
        let found = given.iter().find(|(n, _)| *n == *name).ok_or_else(|| format!("no input {name}"))?;
        inputs.push(Value::Tensor(found.1.clone()));
    }
    let types: Vec<Inferred> =
        inputs.iter().filter_map(Type::of).map(|ty| Inferred { ty, elements: None }).collect();
    let plan = CpuBackend::new(Pool::new(threads.parse()?)?).compile(graph, &CompileOptions::default())?;
    let mut state = plan.state(&types)?;
    println!("ready after {:?}, state of {} bytes", begin.elapsed(), state.bytes());
    report(&*plan);

    let mut times = vec![];
    let mut outputs = vec![];
    let runs: usize = runs.parse()?;
    for _ in 0..runs + 2 {
        outputs.clear();
        let start = Instant::now();
        state.run(&mut Io { inputs: &inputs, outputs: &mut outputs, profile: None, cancel: None })?;
        times.push(start.elapsed());
    }
    times.drain(..2);
    times.sort();
    println!("median {:?}, least {:?} of {runs}", times[runs / 2], times[0]);
    let mut profile = Profile::default();
    outputs.clear();
    let mut io = Io { inputs: &inputs, outputs: &mut outputs, profile: Some(&mut profile), cancel: None };
    state.run(&mut io)?;
    totals(&profile);
    if let Some(path) = rest.get(1) {
        let named: Vec<(&str, &tensormill_tensor::Tensor)> =
            names.iter().zip(&outputs).filter_map(|(n, v)| Some((n.as_str(), v.as_tensor().ok()?))).collect();
        write_npz(path, &named)?;
    }
    Ok(())
}

fn report(plan: &dyn Plan) {
    let report = plan.report();
    let mut fallbacks: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for n in report.nodes.iter().filter(|n| n.fallback || n.kernel == "run-time") {
        *fallbacks.entry((n.op, &n.reason)).or_default() += 1;
    }
    for ((op, reason), n) in fallbacks {
        println!("  {n} x {op}: {reason}");
    }
    println!("{} nodes, {} bytes of constants", report.nodes.len(), report.constant_bytes);
}

fn totals(profile: &Profile) {
    let mut by: BTreeMap<(&str, &str), (usize, Duration, u64)> = BTreeMap::new();
    for s in &profile.samples {
        let e = by.entry((s.op, &s.kernel)).or_default();
        *e = (e.0 + 1, e.1 + s.time, e.2 + s.flops);
    }
    let mut all: Vec<_> = by.into_iter().collect();
    all.sort_by_key(|(_, v)| std::cmp::Reverse(v.1));
    for ((op, kernel), (n, time, flops)) in all.iter().take(12) {
        let rate = *flops as f64 / time.as_secs_f64() / 1e9;
        println!("  {time:>10.1?}  {n:>4} x {op} ({kernel}), {rate:.1} GFLOP/s");
    }
    let mut slow: Vec<_> = profile.samples.iter().collect();
    slow.sort_by_key(|s| std::cmp::Reverse(s.time));
    for s in slow.iter().take(6) {
        println!("    {:>10.1?} {} {} {} {}", s.time, s.op, s.kernel, s.shape, s.node);
    }
    println!("  profiled run {:?}", profile.total);
}
