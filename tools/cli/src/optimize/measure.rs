//! What a model costs to run, and how far its outputs are from another's.

use super::{
    report::{Layer, OutputError},
    samples::Sample,
};
use crate::{failure::Failure, outputs::flatten};
use serde_json::Value as Json;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use tensormill::{Graph, Inputs, Outputs, RunOptions, Session, files};
use tensormill_ir::{Node, Op, ValueId};

/// Runs of each model at least, however short the time.
const LEAST_RUNS: usize = 3;
/// Runs that the time of a layer is the mean of.
const PROFILED: usize = 5;

fn once(session: &Session, sample: &Sample) -> Result<Outputs, tensormill::Error> {
    session.run(sample.iter().map(|(n, t)| (n.as_str(), t.clone())).collect::<Inputs<'_>>())
}

fn median(mut times: Vec<f64>) -> Option<f64> {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied()
}

/// Medians of both models' times in milliseconds, run in turns for about so many seconds.
pub fn latency(
    a: &Session,
    b: &Session,
    sample: &Sample,
    seconds: f64,
) -> Result<(Option<f64>, Option<f64>), Failure> {
    if seconds == 0.0 {
        return Ok((None, None));
    }
    let (mut x, mut y) = (vec![], vec![]);
    let end = Duration::from_secs_f64(seconds);
    let timed = |s: &Session| -> Result<f64, Failure> {
        let start = Instant::now();
        once(s, sample)?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    };
    // First runs plan, and are of no interest here.
    timed(a)?;
    timed(b)?;
    let start = Instant::now();
    while x.len() < LEAST_RUNS || start.elapsed() < end {
        x.push(timed(a)?);
        y.push(timed(b)?);
    }
    Ok((median(x), median(y)))
}

/// Milliseconds of a run by node name.
pub fn times(session: &Session, sample: &Sample) -> Result<BTreeMap<String, f64>, Failure> {
    let mut out = BTreeMap::new();
    for _ in 0..PROFILED {
        let inputs: Inputs<'_> = sample.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
        let outputs = session.run_with(inputs, &RunOptions::new().profile())?;
        for s in outputs.profile().iter().flat_map(|p| &p.samples) {
            *out.entry(s.node.clone()).or_default() += s.time.as_secs_f64() * 1e3 / PROFILED as f64;
        }
    }
    Ok(out)
}

/// How far the second model's outputs are from the first's, over samples.
pub fn errors(a: &Session, b: &Session, samples: &[Sample]) -> Result<Vec<OutputError>, Failure> {
    let mut sums: Vec<(String, f64, f64, f64)> = vec![];
    for sample in samples {
        let (x, y) = (once(a, sample)?, once(b, sample)?);
        let (x, y) = (flatten(x.iter()), flatten(y.iter()));
        for (name, t) in &x {
            let Some((_, u)) = y.iter().find(|(n, _)| n == name) else { continue };
            let (Ok(p), Ok(q)) = (t.to_f64_vec(), u.to_f64_vec()) else { continue };
            if p.len() != q.len() {
                continue;
            }
            let at = sums.iter().position(|s| s.0 == *name).unwrap_or_else(|| {
                sums.push((name.clone(), 0.0, 0.0, 0.0));
                sums.len() - 1
            });
            for (v, w) in p.iter().zip(&q) {
                let d = if v == w || (v.is_nan() && w.is_nan()) { 0.0 } else { (v - w).abs() };
                sums[at].1 += d * d;
                sums[at].2 += if v.is_finite() { v * v } else { 0.0 };
                // Not a number would be lost in a maximum.
                sums[at].3 = sums[at].3.max(if d.is_nan() { f64::INFINITY } else { d });
            }
        }
    }
    Ok(sums
        .into_iter()
        .map(|(name, noise, signal, largest)| {
            let relative = if noise == 0.0 { 0.0 } else { (noise / signal).sqrt() };
            OutputError { name, relative, largest }
        })
        .collect())
}

/// The worst of the outputs.
pub fn worst(errors: &[OutputError]) -> Option<f64> {
    errors.iter().map(|e| e.relative).reduce(|a, b| if a >= b || a.is_nan() { a } else { b })
}

/// Most memory of a process of its own that only runs the model.
pub fn peak(model: &Path, sample: &Sample, threads: Option<usize>) -> Option<u64> {
    let file = std::env::temp_dir().join(format!("tensormill-sample-{}.npz", std::process::id()));
    let named: Vec<_> = sample.iter().map(|(n, t)| (n.as_str(), t)).collect();
    files::write_npz(&file, &named).ok()?;
    let mut command = Command::new(std::env::current_exe().ok()?);
    command.arg("bench").arg(model).arg("--inputs").arg(&file).args(["--iterations", "1", "--json"]);
    if let Some(n) = threads {
        command.args(["--threads", &n.to_string()]);
    }
    let done = command.stdin(Stdio::null()).stderr(Stdio::null()).output();
    // Whatever came of it, the file has served.
    let _ = std::fs::remove_file(&file);
    let report: Json = serde_json::from_slice(&done.ok()?.stdout).ok()?;
    Some((report["peak_rss_mb"].as_f64()? * 1048576.0) as u64)
}

/// Nodes with weights: name, op, and bytes of what the weights are stored as.
pub fn weighted(g: &Graph) -> Vec<(String, &'static str, u64)> {
    let mut out = vec![];
    for id in g.order() {
        let node = g.node(id);
        if matches!(node.op, Op::Const(_)) || is_form(&node.op) {
            continue;
        }
        let bytes: u64 = node.inputs.iter().flatten().map(|v| stored(g, *v, 0)).sum();
        if bytes > 0 {
            out.push((label(g, node), node.op.name(), bytes));
        }
    }
    out
}

/// The name that profiles call a node by.
fn label(g: &Graph, node: &Node) -> String {
    let result = node.outputs.first().and_then(|v| g.value(*v).name.as_deref());
    node.origin.as_deref().or(result).map_or_else(|| node.op.name().to_owned(), str::to_owned)
}

/// Whether an op only says how a weight is stored.
fn is_form(op: &Op) -> bool {
    matches!(
        op,
        Op::DequantizeLinear(_) | Op::QuantizeLinear(_) | Op::Cast(_) | Op::Transpose(_) | Op::Reshape(_)
    )
}

/// Bytes of the constants that a value is made of.
fn stored(g: &Graph, v: ValueId, depth: usize) -> u64 {
    const DEEPEST: usize = 6;
    match g.producer(v) {
        Some((_, n)) => match &n.op {
            Op::Const(c) => c.tensor.byte_len() as u64,
            op if is_form(op) && depth < DEEPEST && n.input(0).is_some_and(|x| fixed(g, x, depth)) => {
                n.inputs.iter().flatten().map(|v| stored(g, *v, depth + 1)).sum()
            }
            _ => 0,
        },
        None => 0,
    }
}

/// Whether a value is a constant in some form.
fn fixed(g: &Graph, v: ValueId, depth: usize) -> bool {
    const DEEPEST: usize = 6;
    match g.producer(v) {
        Some((_, n)) if matches!(n.op, Op::Const(_)) => true,
        Some((_, n)) => {
            is_form(&n.op) && depth < DEEPEST && n.input(0).is_some_and(|x| fixed(g, x, depth + 1))
        }
        None => false,
    }
}

/// Layers with what is known of both models.
pub fn layers(
    before: &Graph,
    after: &Graph,
    times: Option<&(BTreeMap<String, f64>, BTreeMap<String, f64>)>,
) -> Vec<Layer> {
    let was = weighted(before);
    let mut out: Vec<Layer> = vec![];
    for (name, op, bytes) in weighted(after) {
        // A composite's nodes share its name, and differ in their ops.
        let before = was.iter().find(|w| w.0 == name && w.1 == op).map_or(0, |w| w.2);
        out.push(Layer {
            name,
            op: op.into(),
            form: "float".into(),
            bytes: (before, bytes),
            ..Layer::default()
        });
    }
    if let Some((a, b)) = times {
        let mut timed: BTreeSet<String> = BTreeSet::new();
        for l in &mut out {
            // What was fused into one step has its time at its first node.
            if timed.insert(l.name.clone()) {
                l.ms = (a.get(&l.name).copied(), b.get(&l.name).copied());
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_count_as_they_are_stored() {
        let g = tensormill_ir::text::parse(
            "graph @g(%x: f32[N,2]) -> (%y) {\n%w: i8[2,2] = const [1, 2, 3, 4]\n%s: f32[2] = const [1.0, 2.0]\n\
             %f: f32[2,2] = dequantize %w, %s\n%p: f32[N,2] = matmul %x, %f !\"fc\"\n%y: f32[N,2] = relu %p\n}",
        )
        .unwrap();
        assert_eq!(weighted(&g), [("fc".to_owned(), "matmul", 12)]);
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![]), None);
        let e = |relative| OutputError { name: String::new(), relative, largest: 0.0 };
        assert_eq!(worst(&[e(1.0), e(2.0)]), Some(2.0));
    }
}
