//! Quantizes a model by samples in npz files, and compares outputs: what `benches/peers/quantizers.py` calls.
//!
//! `quantize IN OUT.mill SCHEME SAMPLES [OPTION ...]`, where SAMPLES is a folder of npz files or `-`, and OPTION is
//! `method=minmax|entropy|percentile|mse`, `search=0|1`, `bias=0|1`, `compensate=0|1`, `equalize=0|1`, `smooth=X`,
//! `zero_points=0|1`, `channel=0|1`, `group=N`, `exclude=NODE`, `nodes=1` (prints the report).

use std::{error::Error, path::PathBuf};
use tensormill::{
    Model,
    quantize::{Method, Quantizer, Scheme},
};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [input, output, scheme, samples, options @ ..] = &args[..] else {
        return Err("quantize IN OUT.mill SCHEME SAMPLES [OPTION ...]".into());
    };
    let scheme = match scheme.as_str() {
        "int8" => Scheme::StaticInt8,
        "int8-dynamic" => Scheme::DynamicInt8,
        "int8-weights" => Scheme::Int8Weights,
        "int4-weights" => Scheme::Int4Weights { group: 32 },
        "f16" => Scheme::F16Weights,
        "bf16" => Scheme::Bf16Weights,
        other => return Err(format!("no scheme {other}").into()),
    };
    let (mut q, mut nodes) = (Quantizer::new(scheme), false);
    for o in options {
        let (key, value) = o.split_once('=').ok_or("an option is KEY=VALUE")?;
        let yes = value == "1";
        q = match key {
            "method" => q.method(match value {
                "minmax" => Method::MinMax,
                "entropy" => Method::Entropy,
                "percentile" => Method::Percentile(99.999),
                _ => Method::Mse,
            }),
            "search" => q.search_weights(yes),
            "bias" => q.correct_bias(yes),
            "compensate" => q.compensate(yes),
            "equalize" => q.equalize(yes),
            "smooth" => q.smooth(Some(value.parse()?)),
            "zero_points" => q.zero_points(yes),
            "channel" => q.per_channel(yes),
            "group" => q.group(value.parse::<usize>()?),
            "exclude" => q.exclude(value),
            "measure" => q.measured_samples(value.parse()?),
            "nodes" => {
                nodes = yes;
                q
            }
            _ => return Err(format!("no option {key}").into()),
        };
    }
    let mut files: Vec<PathBuf> = match samples.as_str() {
        "-" => vec![],
        folder => std::fs::read_dir(folder)?.map(|e| Ok(e?.path())).collect::<std::io::Result<_>>()?,
    };
    files.sort();
    let model = Model::load(PathBuf::from(input))?;
    let read = |p: PathBuf| tensormill::files::read_npz(p).map_err(tensormill::Error::from);
    let done = q.run(&model, files.into_iter().map(read))?;
    let report = &done.report;
    let mut text = String::new();
    if nodes {
        for n in &report.nodes {
            let db = |x: Option<f64>| x.map_or("-".into(), |x| format!("{x:.1}"));
            text += &format!("{:>6} dB  {} {}: {}\n", db(n.snr), n.op, n.name, n.treatment);
        }
    }
    for (name, db) in &report.outputs {
        text += &format!("output {name}: {} dB\n", db.map_or("-".into(), |x| format!("{x:.2}")));
    }
    text += &format!("{} bytes of constants before, {} after\n", report.float_bytes, report.quantized_bytes);
    std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes())?;
    done.model.save(output)?;
    Ok(())
}
