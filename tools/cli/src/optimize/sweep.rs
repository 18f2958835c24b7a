//! Every setting beside each other.

use super::{
    Work,
    args::{MethodArg, QuantizeArg},
    compile, measure, nodes, on_disk,
    progress::Progress,
    report::{Figures, Report, Trial},
};
use crate::failure::Failure;
use clap::ValueEnum;

/// The settings to try.
fn settings(work: &Work<'_>) -> Vec<(QuantizeArg, MethodArg)> {
    let schemes = match work.args.quantize {
        Some(q) => vec![q],
        None => QuantizeArg::value_variants().to_vec(),
    };
    let mut out = vec![];
    for scheme in schemes {
        match scheme {
            // Without samples there are no ranges.
            QuantizeArg::Int8 if work.calibration.is_empty() => {}
            QuantizeArg::Int8 => out.extend(MethodArg::value_variants().iter().map(|m| (scheme, *m))),
            _ => out.push((scheme, work.args.method)),
        }
    }
    out
}

pub fn run(work: &Work<'_>) -> Result<Report, Failure> {
    let args = work.args;
    let all = settings(work);
    let sample = &work.compared[0];
    let each = args.measure / (all.len() + 1) as f64;
    let mut progress = Progress::new("trying settings", Some(all.len()));
    let score =
        |s: &tensormill::Session| work.labelled.as_ref().map(|l| l.score(s).map(|s| s.value)).transpose();
    let base = Figures {
        nodes: nodes(work.model),
        file_bytes: on_disk(&args.model),
        constant_bytes: work.model.graph().constant_bytes() as u64,
        latency_ms: measure::latency(&work.session, &work.session, sample, each)?.0,
        score: score(&work.session)?,
        ..Figures::default()
    };
    let mut trials = vec![Trial {
        setting: "as it is".into(),
        constant_bytes: base.constant_bytes,
        latency_ms: base.latency_ms,
        relative_error: Some(0.0),
        score: base.score,
        failed: None,
    }];
    for (scheme, method) in all {
        let setting = match scheme {
            QuantizeArg::Int8 => format!("{} {}", scheme.word(), method.word()),
            _ => match scheme.group(args.group) {
                Some(group) => format!("{} of {group}", scheme.word()),
                None => scheme.word().to_owned(),
            },
        };
        let mut trial = Trial {
            setting,
            constant_bytes: 0,
            latency_ms: None,
            relative_error: None,
            score: None,
            failed: None,
        };
        let q = work.quantizer(scheme, method).measured_samples(0);
        match q.run(work.model, work.calibration.iter().cloned().map(Ok)) {
            Ok(done) => {
                let session = compile(&done.model, args)?;
                trial.constant_bytes = done.model.graph().constant_bytes() as u64;
                trial.latency_ms = measure::latency(&work.session, &session, sample, each)?.1;
                trial.relative_error =
                    measure::worst(&measure::errors(&work.session, &session, &work.compared)?);
                trial.score = score(&session)?;
            }
            // One setting that a model is not for says nothing of the others.
            Err(e) => trial.failed = Some(e.to_string()),
        }
        trials.push(trial);
        progress.step();
    }
    Ok(Report {
        model: args.model.display().to_string(),
        settings: work.settings(),
        samples: work.calibration.len(),
        before: base.clone(),
        after: base,
        metric: work.labelled.as_ref().map(super::Labelled::metric),
        trials,
        ..Report::default()
    })
}
