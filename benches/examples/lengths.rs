//! One session, inputs of many sizes in turn: what a server of texts does. Prints one JSON object.
//!
//! `cargo run --release -p tensormill-benches --example lengths -- MODEL THREADS SECONDS OUT.npz IN.npz ..`
//!
//! A pass runs every input once. The outputs of the first pass are written to `OUT.npz`, named by the place of
//! their input and their own.

#![allow(clippy::print_stdout)]

use std::{
    error::Error,
    time::{Duration, Instant},
};
use tensormill::{
    Model, SessionOptions, Tensor,
    files::{read_npz, write_npz},
};

/// Passes before the measurement: at least this many, and for at least a second.
const WARM_UP_PASSES: usize = 2;
const WARM_UP_TIME: Duration = Duration::from_secs(1);

/// Bytes that this process has held at most, where the system tells.
fn peak_memory() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse::<f64>().ok().map(|kib| kib * 1024.0)
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [path, threads, seconds, out, feeds @ ..] = &args[..] else {
        return Err("give MODEL THREADS SECONDS OUT.npz IN.npz ..".into());
    };
    let (threads, seconds): (usize, f64) = (threads.parse()?, seconds.parse()?);
    if feeds.is_empty() {
        return Err("no inputs are given".into());
    }
    let feeds = feeds.iter().map(read_npz).collect::<Result<Vec<_>, _>>()?;

    let start = Instant::now();
    let model = Model::load(path.as_str())?;
    let session = model.session_with(&SessionOptions::new().threads(threads))?;
    let load = start.elapsed();

    let run = |feed: &[(String, Tensor)]| {
        let given: Vec<(&str, Tensor)> = feed.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
        session.run(given)
    };
    let mut kept: Vec<(String, Tensor)> = vec![];
    let mut first = Duration::ZERO;
    for (i, feed) in feeds.iter().enumerate() {
        let start = Instant::now();
        let outputs = run(feed)?;
        if i == 0 {
            first = start.elapsed();
        }
        for j in 0..outputs.len() {
            kept.push((format!("{i}.{j}"), outputs.tensor(j)?.clone()));
        }
    }
    let pass = || -> Result<f64, tensormill::Error> {
        let start = Instant::now();
        for feed in &feeds {
            drop(run(feed)?);
        }
        Ok(start.elapsed().as_secs_f64() * 1e3)
    };
    let warm = Instant::now();
    let mut passes = 1;
    while passes < WARM_UP_PASSES || warm.elapsed() < WARM_UP_TIME {
        pass()?;
        passes += 1;
    }
    let mut times = vec![];
    let start = Instant::now();
    while times.len() < 3 || start.elapsed().as_secs_f64() < seconds {
        times.push(pass()?);
    }
    times.sort_by(f64::total_cmp);
    // Before the file is written, which takes memory of its own.
    let memory = peak_memory().map_or("null".into(), |b| format!("{:.1}", b / 1048576.0));
    let named: Vec<(&str, &Tensor)> = kept.iter().map(|(n, t)| (n.as_str(), t)).collect();
    write_npz(out, &named)?;

    let at = |p: usize| times[(times.len() * p / 100).min(times.len() - 1)];
    println!(
        "{{\"load_ms\":{},\"first_ms\":{},\"runs\":{},\"p10_ms\":{},\"p50_ms\":{},\"p90_ms\":{},\"peak_rss_mb\":{memory}}}",
        load.as_secs_f64() * 1e3,
        first.as_secs_f64() * 1e3,
        times.len(),
        at(10),
        at(50),
        at(90)
    );
    Ok(())
}
