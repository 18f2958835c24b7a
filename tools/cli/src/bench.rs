//! `tensormill bench`

use crate::{
    args::BenchArgs,
    failure::Failure,
    inputs, session,
    text::{bytes, safe, table, time},
};
use serde_json::{Value as Json, json};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use tensormill::{Backend, Dim, Model, Optimization, Session, Tensor};

/// Runs before the measurement: at least this many, and for at least a second.
const WARM_UP_RUNS: usize = 10;
const WARM_UP_TIME: Duration = Duration::from_secs(1);
/// Times kept; a longer measurement keeps every other one, then every fourth.
const MAX_TIMES: usize = 1 << 22;

pub fn run(args: &BenchArgs) -> Result<String, Failure> {
    let start = Instant::now();
    let model = session::load(&args.model, Some(&args.session))?;
    let session = session::compile(&model, &args.session, &[])?;
    let load = start.elapsed();
    let mut sizes: BTreeMap<String, usize> = args.session.dims.iter().cloned().collect();
    if let Some(n) = args.batch {
        set_batch(&model, n, &mut sizes)?;
    }
    let given = inputs::gather(&args.input, session.inputs(), &sizes)?;
    let once = || -> Result<Duration, Failure> {
        let given: Vec<(&str, Tensor)> = given.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
        let start = Instant::now();
        let outputs = session.run(given)?;
        let time = start.elapsed();
        drop(outputs);
        Ok(time)
    };
    let first = once()?;
    let warm = Instant::now();
    let mut runs = 1;
    while runs < WARM_UP_RUNS || warm.elapsed() < WARM_UP_TIME {
        once()?;
        runs += 1;
    }
    let mut times = vec![];
    let start = Instant::now();
    let end = Duration::from_secs_f64(args.duration);
    let mut runs = 0usize;
    let mut every = 1usize;
    // At least one run: no figures can be made of none.
    while runs == 0 || args.iterations.map_or_else(|| start.elapsed() < end, |n| runs < n) {
        let t = once()?.as_secs_f64();
        if runs.is_multiple_of(every) {
            times.push(t);
        }
        runs += 1;
        if times.len() == MAX_TIMES {
            let mut odd = false;
            times.retain(|_| {
                odd = !odd;
                odd
            });
            every *= 2;
        }
    }
    times.sort_by(f64::total_cmp);
    let figures = Figures { load, first, runs, times, batch: batch_of(&given) };
    if args.json { Ok(figures.json(args, &session)) } else { Ok(figures.table(args, &session)) }
}

/// The first axis of the first input, which models use for the batch.
fn batch_of(given: &[(String, Tensor)]) -> usize {
    given.first().and_then(|(_, t)| t.shape().first().copied()).unwrap_or(1).max(1)
}

fn set_batch(model: &Model, n: usize, sizes: &mut BTreeMap<String, usize>) -> Result<(), Failure> {
    let mut found = false;
    for port in model.inputs() {
        let first = port.ty.as_tensor().and_then(|t| t.dims.as_ref()?.first());
        if let Some(Dim::Sym(e)) = first
            && let Some(symbol) = e.as_symbol()
        {
            sizes.entry(symbol.to_string()).or_insert(n);
            found = true;
        }
    }
    if found {
        return Ok(());
    }
    Err(Failure::Usage("--batch: no input has a first axis of a named, open size".into()))
}

struct Figures {
    load: Duration,
    first: Duration,
    runs: usize,
    /// Seconds, sorted.
    times: Vec<f64>,
    batch: usize,
}

impl Figures {
    /// The time that this part of the runs stayed below (nearest rank).
    fn percentile(&self, p: f64) -> f64 {
        let rank = (p / 100.0 * self.times.len() as f64).ceil() as usize;
        self.times[rank.clamp(1, self.times.len()) - 1]
    }

    fn mean(&self) -> f64 {
        self.times.iter().sum::<f64>() / self.times.len() as f64
    }

    fn per_second(&self) -> f64 {
        self.batch as f64 / self.mean().max(1e-12)
    }

    fn json(&self, args: &BenchArgs, session: &Session) -> String {
        let ms = |s: f64| json!((s * 1e9).round() / 1e6);
        let memory = session::peak_memory()
            .map_or(Json::Null, |b| json!((b as f64 / 1048576.0 * 10.0).round() / 10.0));
        let report = json!({
            "model": args.model.display().to_string(),
            "backend": Backend::from(args.session.backend).name(),
            "opt": Optimization::from(args.session.opt).name(),
            "threads": session.threads(), "batch": self.batch,
            "load_ms": ms(self.load.as_secs_f64()), "first_ms": ms(self.first.as_secs_f64()),
            "runs": self.runs, "mean_ms": ms(self.mean()), "min_ms": ms(self.times[0]),
            "p10_ms": ms(self.percentile(10.0)), "p50_ms": ms(self.percentile(50.0)),
            "p90_ms": ms(self.percentile(90.0)), "p99_ms": ms(self.percentile(99.0)),
            "per_second": (self.per_second() * 1000.0).round() / 1000.0, "peak_rss_mb": memory,
        });
        format!("{report}\n")
    }

    fn table(&self, args: &BenchArgs, session: &Session) -> String {
        let row = |k: &str, v: String| vec![k.to_string(), v];
        let rows = vec![
            row("model", safe(&args.model.display().to_string())),
            row("threads", session.threads().to_string()),
            row("load", time(self.load.as_secs_f64())),
            row("first run", time(self.first.as_secs_f64())),
            row("runs", self.runs.to_string()),
            row("mean", time(self.mean())),
            row("p10", time(self.percentile(10.0))),
            row("p50", time(self.percentile(50.0))),
            row("p90", time(self.percentile(90.0))),
            row("p99", time(self.percentile(99.0))),
            row("throughput", format!("{:.1} per second (batches of {})", self.per_second(), self.batch)),
            row("peak memory", session::peak_memory().map_or_else(|| "not known".into(), bytes)),
        ];
        table(&["what", "measured"], &[], &rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let times: Vec<f64> = (1..=10).map(f64::from).collect();
        let f = Figures { load: Duration::ZERO, first: Duration::ZERO, runs: 10, times, batch: 2 };
        assert_eq!([10.0, 50.0, 90.0, 99.0].map(|p| f.percentile(p)), [1.0, 5.0, 9.0, 10.0]);
        assert_eq!(f.mean(), 5.5);
    }
}
