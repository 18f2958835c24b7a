//! `tensormill optimize`

pub mod args;
mod eval;
mod html;
mod measure;
mod progress;
mod report;
mod samples;
mod show;
mod sweep;

use crate::{failure::Failure, inputs, session, text::safe};
use args::{OptimizeArgs, QuantizeArg, TargetArg};
use eval::Labelled;
use progress::Progress;
use report::{Declined, Figures, Fused, PrunedLayer, Report, ZEROS};
use samples::Sample;
use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
};
use tensormill::{
    Error, Limits, Model, OptLog, Optimization, Session, SessionOptions, files,
    prune::{Pattern, PruneEntry, PruneOptions, Pruning},
    quantize::{QuantReport, Quantizer, Treatment},
};

/// Samples that errors of outputs are measured on.
const COMPARED: usize = 4;

pub fn run(args: &OptimizeArgs) -> Result<String, Failure> {
    check(args)?;
    let source = session::load(&args.model, None)?;
    let model = fixed(&source, args)?;
    let work = Work::new(args, &model)?;
    let report = if args.sweep { sweep::run(&work)? } else { optimized(&work)? };
    for path in &args.report {
        write(path, &report)?;
    }
    Ok(if args.json { format!("{}\n", report.json()) } else { show::terminal(&report) })
}

/// What needs no model to be refused.
fn check(args: &OptimizeArgs) -> Result<(), Failure> {
    let ending = |p: &Path| p.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
    let shown = |p: &Path| safe(&p.display().to_string());
    if let Some(out) = &args.out
        && !matches!(ending(out).as_str(), "onnx" | "mill")
    {
        return Err(Failure::Usage(format!("{}: models are written as .onnx or .mill", shown(out))));
    }
    for path in &args.report {
        if !matches!(ending(path).as_str(), "json" | "html" | "md") {
            return Err(Failure::Usage(format!(
                "{}: reports are written as .json, .html or .md",
                shown(path)
            )));
        }
    }
    if args.quantize == Some(QuantizeArg::Int8) && args.calib.is_none() {
        let what = "--quantize int8 finds the ranges of activations on samples: give some with --calib, or use \
                    int8-dynamic, int8-weights, int4-weights or f16, which need none";
        return Err(Failure::Usage(what.into()));
    }
    if args.quantize.is_none() && args.prune.is_none() && !args.exclude.is_empty() {
        let what = "--exclude says what --quantize and --prune leave alone, and neither is given";
        return Err(Failure::Usage(what.into()));
    }
    if args.two_of_four && args.prune != Some(0.5) {
        return Err(Failure::Usage("--2of4 takes out half of the weights: give --prune 0.5".into()));
    }
    Ok(())
}

/// The model with the sizes that are to be fixed.
fn fixed(model: &Model, args: &OptimizeArgs) -> Result<Model, Failure> {
    if args.dims.is_empty() {
        return Ok(model.clone());
    }
    let options = SessionOptions::new().optimization(Optimization::None);
    let options = args.dims.iter().fold(options, |o, (name, size)| o.dim(name, *size));
    Ok(model.prepared(&options)?)
}

/// The model without what is to be pruned.
fn pruned(model: &Model, args: &OptimizeArgs) -> Result<(Model, Vec<PruneEntry>), Failure> {
    let Some(ratio) = args.prune else { return Ok((model.clone(), vec![])) };
    let pattern = match (args.structured, args.two_of_four) {
        (true, _) => Pattern::Channels,
        (_, true) => Pattern::TwoOfFour,
        _ => Pattern::Magnitude,
    };
    let exclude = args.exclude.iter().cloned().collect();
    Ok(model.pruned(&PruneOptions { pattern, ratio, exclude })?)
}

/// A model and what it is measured with.
struct Work<'a> {
    args: &'a OptimizeArgs,
    model: &'a Model,
    /// What is fused or quantized.
    start: Model,
    pruned: Vec<PruneEntry>,
    calibration: Vec<Sample>,
    labelled: Option<Labelled>,
    /// What errors are measured on; the first is what times are measured on.
    compared: Vec<Sample>,
    session: Session,
}

impl<'a> Work<'a> {
    fn new(args: &'a OptimizeArgs, model: &'a Model) -> Result<Work<'a>, Failure> {
        let ports = model.inputs();
        let calibration = match &args.calib {
            Some(path) => samples::read(path, ports, args.samples as usize, args.seed)?,
            None => vec![],
        };
        let labelled = args.eval.as_deref().map(|p| Labelled::read(p, ports)).transpose()?;
        let mut compared: Vec<Sample> = calibration.iter().take(COMPARED).cloned().collect();
        if compared.is_empty() {
            compared = labelled.iter().flat_map(|l| l.first(COMPARED)).collect();
        }
        if compared.is_empty() {
            compared.push(inputs::random(ports, &BTreeMap::new())?);
        }
        let session = compile(model, args)?;
        let (start, pruned) = pruned(model, args)?;
        Ok(Work { args, model, start, pruned, calibration, labelled, compared, session })
    }

    fn quantizer(&self, scheme: QuantizeArg, method: args::MethodArg) -> Quantizer {
        let a = self.args;
        let mut q = Quantizer::new(scheme.scheme(a.group))
            .method(method.method(a.percentile))
            .per_channel(!a.per_tensor)
            .signed_activations(a.signed_activations || a.target == TargetArg::Arm64)
            .seven_bit_weights(matches!(a.target, TargetArg::X86Avx2 | TargetArg::Portable))
            .zero_points(!a.no_zero_points);
        if scheme == QuantizeArg::Int8Weights {
            q = q.group(scheme.group(a.group));
        }
        for name in &a.exclude {
            q = q.exclude(name);
        }
        match a.threads {
            Some(n) => q.threads(n),
            None => q,
        }
    }

    /// Samples for calibration, one step of progress each.
    fn samples(&self, progress: &mut Progress) -> impl Iterator<Item = Result<Sample, Error>> {
        self.calibration.iter().map(|s| {
            progress.step();
            Ok(s.clone())
        })
    }

    fn settings(&self) -> Vec<(String, String)> {
        let a = self.args;
        let mut out = vec![];
        let mut push = |k: &str, v: String| out.push((k.to_owned(), v));
        if let Some(ratio) = a.prune {
            let what = match (a.structured, a.two_of_four) {
                (true, _) => " of channels and heads",
                (_, true) => ", two of four",
                _ => " of weights",
            };
            push("prune", format!("{ratio}{what}"));
        }
        if let Some(q) = a.quantize {
            push("quantize", q.word().into());
            if q == QuantizeArg::Int8 {
                push("method", a.method.word().into());
            }
            if let Some(group) = q.group(a.group) {
                push("group", group.to_string());
            }
        }
        if !self.calibration.is_empty() {
            push("samples", self.calibration.len().to_string());
        }
        if let Some(l) = &self.labelled {
            push("labelled samples", l.len().to_string());
        }
        if let Some(d) = a.max_drop {
            push("max drop", format!("{d}%"));
        }
        out
    }
}

fn compile(model: &Model, args: &OptimizeArgs) -> Result<Session, Failure> {
    let mut options = SessionOptions::new();
    if let Some(n) = args.threads {
        options = options.threads(n);
    }
    Ok(model.session_with(&options)?)
}

fn optimized(work: &Work<'_>) -> Result<Report, Failure> {
    let args = work.args;
    let (result, quant) = match args.quantize {
        Some(scheme) => {
            let (model, report) = quantized(work, scheme)?;
            (model, Some(report))
        }
        None => (work.start.clone(), None),
    };
    let (fused, log) = result.optimized(Optimization::Default)?;
    // Quantized models are written in the form that all engines read; fusing is done when they are loaded.
    let mut result = if quant.is_some() { result } else { fused };
    if let Some(out) = args.out.as_ref().filter(|_| !args.dry_run) {
        result.save(out)?;
        // What is measured is what was written.
        result = Model::load_with(out.as_path(), &Limits::default())?;
    }
    let mut report = measured(work, &result, quant.as_ref())?;
    note_rules(&mut report, &log);
    Ok(report)
}

fn quantized(work: &Work<'_>, scheme: QuantizeArg) -> Result<(Model, QuantReport), Failure> {
    let q = work.quantizer(scheme, work.args.method);
    let mut progress = Progress::new("quantizing", Some(work.calibration.len()).filter(|n| *n > 0));
    let done = match (work.args.max_drop, &work.labelled) {
        (Some(drop), Some(labelled)) => {
            let samples: Vec<_> = work.samples(&mut progress).collect();
            let metric = |s: &Session| labelled.score(s).map(|s| s.value);
            // What pruning took is no longer there to be lost.
            let lost = match work.pruned.is_empty() {
                true => 0.0,
                false => metric(&work.session)? - metric(&compile(&work.start, work.args)?)?,
            };
            q.run_within(&work.start, samples, drop / 100.0 - lost, metric)
        }
        _ => q.run(&work.start, work.samples(&mut progress)),
    };
    drop(progress);
    match done {
        Ok(done) => Ok((done.model, done.report)),
        Err(e @ Error::Budget { .. }) => Err(Failure::Differs(format!("{e}\n"))),
        Err(e) => Err(e.into()),
    }
}

/// Figures of the model before and after.
fn measured(work: &Work<'_>, result: &Model, quant: Option<&QuantReport>) -> Result<Report, Failure> {
    let (args, sample) = (work.args, &work.compared[0]);
    let after = compile(result, args)?;
    let outputs = measure::errors(&work.session, &after, &work.compared)?;
    let progress = Progress::new("measuring", None);
    let (a, b) = measure::latency(&work.session, &after, sample, args.measure)?;
    let times = if args.measure > 0.0 {
        Some((measure::times(&work.session, sample)?, measure::times(&after, sample)?))
    } else {
        None
    };
    let score = |s: &Session| work.labelled.as_ref().map(|l| l.score(s)).transpose();
    let (x, y) = (score(&work.session)?, score(&after)?);
    let written = args.out.as_ref().filter(|_| !args.dry_run);
    let peak = |path: Option<&PathBuf>| {
        path.filter(|_| args.measure > 0.0).and_then(|p| measure::peak(p, sample, args.threads))
    };
    let figures = |model: &Model, path: Option<&PathBuf>, latency_ms, score: Option<eval::Score>| Figures {
        nodes: nodes(model),
        file_bytes: path.and_then(|p| on_disk(p)),
        constant_bytes: model.graph().constant_bytes() as u64,
        latency_ms,
        peak_bytes: peak(path),
        score: score.map(|s| s.value),
        mse: score.and_then(|s| s.mse),
    };
    let before = figures(work.model, Some(&args.model), a, x);
    let after = figures(result, written, b, y);
    drop(progress);
    let mut layers = measure::layers(work.model.graph(), result.graph(), times.as_ref());
    if let Some(q) = quant {
        by_treatment(&mut layers, q);
    }
    Ok(Report {
        model: args.model.display().to_string(),
        out: written.map(|p| p.display().to_string()),
        settings: work.settings(),
        samples: quant.map_or(0, |q| q.samples),
        before,
        after,
        metric: work.labelled.as_ref().map(Labelled::metric),
        outputs,
        pruned: work.pruned.iter().map(pruned_layer).collect(),
        notes: work
            .pruned
            .iter()
            .find(|p| p.what == Pruning::Weights)
            .map(|_| ZEROS.to_owned())
            .into_iter()
            .collect(),
        layers,
        ..Report::default()
    })
}

fn pruned_layer(p: &PruneEntry) -> PrunedLayer {
    let what = match p.what {
        Pruning::Channels => "channels",
        Pruning::Heads => "heads",
        _ => "weights",
    };
    PrunedLayer { what, nodes: p.nodes.clone(), before: p.before, after: p.after, kept: p.kept.clone() }
}

/// Nodes that compute.
fn nodes(model: &Model) -> usize {
    model.graph().nodes().filter(|(_, n)| !matches!(n.op, tensormill_ir::Op::Const(_))).count()
}

/// Bytes of a model's files.
fn on_disk(path: &Path) -> Option<u64> {
    let own = std::fs::metadata(path).ok()?.len();
    let mut beside = path.as_os_str().to_owned();
    beside.push(".data");
    Some(own + std::fs::metadata(beside).map_or(0, |m| m.len()))
}

/// Adds what the quantizer says of layers, and layers that only it knows.
fn by_treatment(layers: &mut Vec<report::Layer>, q: &QuantReport) {
    let mut known: Vec<report::Layer> = vec![];
    for n in &q.nodes {
        let mut l = match layers.iter().position(|l| l.name == n.name && l.op == n.op) {
            Some(i) => layers.remove(i),
            None => report::Layer { name: n.name.clone(), op: n.op.into(), ..report::Layer::default() },
        };
        l.snr = n.snr;
        match &n.treatment {
            Treatment::Float(why) => l.kept = Some((*why).to_owned()),
            treatment => l.form = treatment.to_string(),
        }
        known.push(l);
    }
    // The others have weights that quantization is not for, such as tables.
    known.append(layers);
    *layers = known;
}

/// Adds what rules did, and what they left alone.
fn note_rules(report: &mut Report, log: &OptLog) {
    for e in log.entries() {
        let rule = e.rule.unwrap_or(e.pass);
        if e.rewrites > 0 {
            report.fused.push(Fused { rule: rule.replace('_', " "), count: e.rewrites });
        }
        for d in &e.declines {
            report.declined.push(Declined {
                rule: rule.replace('_', " "),
                reason: d.reason.to_owned(),
                count: d.count,
                nodes: d.nodes.clone(),
            });
        }
    }
    report.fused.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.rule.cmp(&b.rule)));
}

/// Writes a report in the form that its name says.
fn write(path: &Path, report: &Report) -> Result<(), Failure> {
    let text = match path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase).as_deref() {
        Some("html") => html::page(report),
        Some("md") => show::markdown(report),
        _ => format!("{:#}\n", report.json()),
    };
    files::replace_file(path, |f| f.write_all(text.as_bytes()))
        .map_err(|e: std::io::Error| Failure::new(format!("{}: {e}", safe(&path.display().to_string()))))
}
