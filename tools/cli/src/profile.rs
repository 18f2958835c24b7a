//! `tensormill profile`

use crate::{
    args::ProfileArgs,
    failure::Failure,
    inputs, session,
    text::{bytes, safe, table, time},
};
use serde_json::json;
use std::{collections::BTreeMap, io::Write, path::Path};
use tensormill::{Inputs, Profile, RunOptions, Sample, files};

/// One node, or all nodes of one op, over all runs.
#[derive(Default, Clone)]
struct Sum {
    label: String,
    op: &'static str,
    kernel: String,
    shape: String,
    nodes: usize,
    seconds: f64,
    flops: f64,
    bytes: f64,
}

impl Sum {
    fn add(&mut self, s: &Sample) {
        self.seconds += s.time.as_secs_f64();
        self.flops += s.flops as f64;
        self.bytes += s.bytes as f64;
    }

    /// Of one run out of `n`.
    fn of_runs(mut self, n: f64) -> Sum {
        self.seconds /= n;
        self.flops /= n;
        self.bytes /= n;
        self
    }

    fn row(&self, total: f64, first: &[String]) -> Vec<String> {
        let rate = |v: f64| {
            if self.seconds > 0.0 && v > 0.0 { format!("{:.1}", v / self.seconds / 1e9) } else { "-".into() }
        };
        let mut row = first.to_vec();
        row.extend([
            time(self.seconds),
            format!("{:.1}", 100.0 * self.seconds / total.max(1e-12)),
            rate(self.flops),
            rate(self.bytes),
        ]);
        row
    }
}

pub fn run(args: &ProfileArgs) -> Result<String, Failure> {
    let model = session::load(&args.model, Some(&args.session))?;
    let session = session::compile(&model, &args.session, &[])?;
    let sizes: BTreeMap<String, usize> = args.session.dims.iter().cloned().collect();
    let given = inputs::gather(&args.input, session.inputs(), &sizes)?;
    let once = || -> Result<Profile, Failure> {
        let outputs =
            session.run_with(given.iter().cloned().collect::<Inputs<'_>>(), &RunOptions::new().profile())?;
        Ok(outputs.profile().cloned().unwrap_or_default())
    };
    for _ in 0..3 {
        once()?;
    }
    let profiles = (0..args.iterations).map(|_| once()).collect::<Result<Vec<_>, _>>()?;
    let last = profiles.last().cloned().unwrap_or_default();
    if let Some(path) = &args.trace {
        trace(path, &last)?;
    }
    let (nodes, ops) = sums(&profiles);
    let total = profiles.iter().map(|p| p.total.as_secs_f64()).sum::<f64>() / profiles.len() as f64;
    if args.json {
        let one = |s: &Sum| {
            json!({"name": s.label, "op": s.op, "kernel": s.kernel, "shape": s.shape, "nodes": s.nodes,
                "us": s.seconds * 1e6, "flops": s.flops, "bytes": s.bytes})
        };
        let nodes: Vec<_> = nodes.iter().map(one).collect();
        let ops: Vec<_> = ops.iter().map(one).collect();
        return Ok(format!(
            "{}\n",
            json!({"runs": args.iterations, "threads": session.threads(), "total_us": total * 1e6,
                "nodes": nodes, "ops": ops})
        ));
    }
    let mut out = format!(
        "{} a run, the mean of {} ({} threads); {} at most\n\n",
        time(total),
        args.iterations,
        session.threads(),
        session::peak_memory().map_or_else(|| "memory not known".into(), bytes)
    );
    let shown = if args.top == 0 { nodes.len() } else { args.top.min(nodes.len()) };
    let rows: Vec<_> = nodes[..shown]
        .iter()
        .map(|s| s.row(total, &[safe(&s.label), s.op.into(), s.kernel.clone(), safe(&s.shape)]))
        .collect();
    out += &table(&["node", "op", "kernel", "result", "time", "%", "GFLOP/s", "GB/s"], &[4, 5, 6, 7], &rows);
    if shown < nodes.len() {
        out += &format!("and {} more (--top 0 lists all)\n", nodes.len() - shown);
    }
    let rows: Vec<_> = ops.iter().map(|s| s.row(total, &[s.op.into(), s.nodes.to_string()])).collect();
    out += "\n";
    out += &table(&["op", "nodes", "time", "%", "GFLOP/s", "GB/s"], &[1, 2, 3, 4, 5], &rows);
    Ok(out)
}

/// Nodes and ops, each with the mean of its time, the slowest first.
fn sums(profiles: &[Profile]) -> (Vec<Sum>, Vec<Sum>) {
    let n = profiles.len().max(1) as f64;
    let mut nodes: Vec<Sum> = vec![];
    let mut ops: BTreeMap<&'static str, Sum> = BTreeMap::new();
    for p in profiles {
        for (i, s) in p.samples.iter().enumerate() {
            // One plan runs the same nodes in the same order, except in loops and branches.
            if nodes.len() == i {
                nodes.push(Sum {
                    label: s.node.clone(),
                    op: s.op,
                    kernel: s.kernel.clone(),
                    shape: s.shape.clone(),
                    nodes: 1,
                    ..Sum::default()
                });
            }
            nodes[i].add(s);
            let op =
                ops.entry(s.op).or_insert_with(|| Sum { label: s.op.into(), op: s.op, ..Sum::default() });
            op.add(s);
            op.nodes += 1;
        }
    }
    let runs = profiles.len().max(1);
    let mut nodes: Vec<Sum> = nodes.into_iter().map(|s| s.of_runs(n)).collect();
    let mut ops: Vec<Sum> = ops
        .into_values()
        .map(|mut s| {
            s.nodes = s.nodes.div_ceil(runs);
            s.of_runs(n)
        })
        .collect();
    nodes.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    ops.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    (nodes, ops)
}

/// Chrome's trace events: one complete event a node, times in microseconds.
fn trace(path: &Path, profile: &Profile) -> Result<(), Failure> {
    let events: Vec<_> = profile
        .samples
        .iter()
        .map(|s| {
            json!({"name": s.node, "cat": s.op, "ph": "X", "pid": 1, "tid": 1,
                "ts": s.start.as_secs_f64() * 1e6, "dur": s.time.as_secs_f64() * 1e6,
                "args": {"op": s.op, "kernel": s.kernel, "shape": s.shape, "flops": s.flops, "bytes": s.bytes}})
        })
        .collect();
    let text = json!({"traceEvents": events, "displayTimeUnit": "ns"}).to_string();
    files::replace_file(path, |f| f.write_all(text.as_bytes()))
        .map_err(|e: std::io::Error| Failure::new(format!("{}: {e}", safe(&path.display().to_string()))))
}
