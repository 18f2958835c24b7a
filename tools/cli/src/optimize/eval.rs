//! Samples with labels, and how well a model does on them.

use super::samples::{self, Sample};
use crate::{failure::Failure, inputs, table_input, text::safe};
use std::path::Path;
use tensormill::{DType, FileKind, Inputs, Outputs, Port, Session, Tensor};

/// Names of an array or a column of labels.
const NAMES: &[&str] = &["labels", "label", "targets", "target", "y"];

/// Samples and what should come out.
pub struct Labelled {
    samples: Vec<Sample>,
    /// One list per sample: a number for each row of the batch, or for each element of the output.
    labels: Vec<Vec<f64>>,
    /// Whether labels are classes.
    classes: bool,
}

/// How well a model does; the larger the better.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// Part of the labels that are met, or the part of their variance that is explained (R2).
    pub value: f64,
    /// Mean squared error, where labels are values.
    pub mse: Option<f64>,
}

impl Labelled {
    /// Reads a file of samples and labels.
    pub fn read(path: &Path, ports: &[Port]) -> Result<Labelled, Failure> {
        let at = safe(&path.display().to_string());
        match inputs::kind(path)? {
            FileKind::Zip => {
                let arrays = samples::arrays(path, ports)?;
                let spare: Vec<&(String, Tensor)> =
                    arrays.iter().filter(|(n, _)| !ports.iter().any(|p| p.name == *n)).collect();
                let named = spare.iter().find(|(n, _)| NAMES.contains(&n.as_str()));
                let Some((_, labels)) = named.or(if spare.len() == 1 { spare.first() } else { None }) else {
                    return Err(Failure::new(format!("{at}: no array is named `labels`")));
                };
                let labels = labels.clone();
                Labelled::new(&at, samples::apart(&at, arrays, ports)?, &labels)
            }
            FileKind::Text => {
                let (table, labels) = table(path, &at)?;
                let [port] = ports else {
                    return Err(Failure::new(format!("{at}: a table feeds models of one input")));
                };
                Labelled::new(&at, samples::apart(&at, vec![(port.name.clone(), table)], ports)?, &labels)
            }
            _ => Err(Failure::new(format!("{at}: labels are read from .npz and CSV files"))),
        }
    }

    fn new(at: &str, samples: Vec<Sample>, labels: &Tensor) -> Result<Labelled, Failure> {
        let v = labels.to_f64_vec()?;
        if !v.len().is_multiple_of(samples.len()) || v.is_empty() {
            return Err(Failure::new(format!("{at}: {} labels for {} samples", v.len(), samples.len())));
        }
        let whole = v.iter().all(|x| x.fract() == 0.0 && *x >= 0.0);
        let classes =
            whole && (labels.dtype().is_int() || labels.dtype() == DType::Bool || v.iter().any(|x| *x > 0.0));
        let each = v.len() / samples.len();
        Ok(Labelled { samples, labels: v.chunks(each).map(<[f64]>::to_vec).collect(), classes })
    }

    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// The first samples, without their labels.
    pub fn first(&self, n: usize) -> Vec<Sample> {
        self.samples.iter().take(n).cloned().collect()
    }

    /// What is measured.
    pub fn metric(&self) -> &'static str {
        if self.classes { "accuracy" } else { "R2" }
    }

    /// Runs a model on all samples.
    pub fn score(&self, session: &Session) -> Result<Score, tensormill::Error> {
        let (mut met, mut total) = (0usize, 0usize);
        let (mut squares, mut sum, mut sum2, mut n) = (0f64, 0f64, 0f64, 0f64);
        for (sample, labels) in self.samples.iter().zip(&self.labels) {
            let outputs =
                session.run(sample.iter().map(|(n, t)| (n.as_str(), t.clone())).collect::<Inputs<'_>>())?;
            if self.classes {
                let found = classes(&outputs, labels.len())?;
                met += found.iter().zip(labels).filter(|(a, b)| a == b).count();
                total += labels.len();
            } else {
                let found = values(&outputs, labels.len())?;
                for (f, l) in found.iter().zip(labels) {
                    squares += (f - l) * (f - l);
                    sum += l;
                    sum2 += l * l;
                    n += 1.0;
                }
            }
        }
        Ok(if self.classes {
            Score { value: met as f64 / total.max(1) as f64, mse: None }
        } else {
            let spread = sum2 - sum * sum / n;
            Score { value: 1.0 - squares / spread.max(f64::MIN_POSITIVE), mse: Some(squares / n) }
        })
    }
}

fn tensors(outputs: &Outputs) -> impl Iterator<Item = &Tensor> {
    (0..outputs.len()).filter_map(|i| outputs.tensor(i).ok())
}

/// The class of each row: from scores, the largest; or what an output of one whole number a row says.
fn classes(outputs: &Outputs, rows: usize) -> Result<Vec<f64>, tensormill::Error> {
    let scores = |t: &&Tensor| t.dtype().is_float() && t.len() > rows && t.len().is_multiple_of(rows);
    if let Some(t) = tensors(outputs).find(scores) {
        let v = t.to_f64_vec()?;
        // Not a number is no class.
        let largest = |row: &[f64]| {
            let best = row.iter().enumerate().filter(|(_, x)| !x.is_nan());
            best.fold((f64::NAN, f64::NEG_INFINITY), |m, (i, x)| if *x > m.1 { (i as f64, *x) } else { m }).0
        };
        return Ok(v.chunks(v.len() / rows).map(largest).collect());
    }
    if let Some(t) = tensors(outputs).find(|t| t.dtype().is_int() && t.len() == rows) {
        return t.to_f64_vec().map_err(Into::into);
    }
    // One score a row: a probability, or what is one after the logistic function.
    if let Some(t) = tensors(outputs).find(|t| t.dtype().is_float() && t.len() == rows) {
        let v = t.to_f64_vec()?;
        let probabilities = v.iter().all(|p| (0.0..=1.0).contains(p));
        let limit = if probabilities { 0.5 } else { 0.0 };
        return Ok(v.into_iter().map(|p| f64::from(u8::from(p > limit))).collect());
    }
    Err(tensormill::Error::Option(format!("no output has scores for {rows} labels a run")))
}

fn values(outputs: &Outputs, n: usize) -> Result<Vec<f64>, tensormill::Error> {
    match tensors(outputs).find(|t| t.dtype().is_float() && t.len() == n) {
        Some(t) => t.to_f64_vec().map_err(Into::into),
        None => Err(tensormill::Error::Option(format!("no output has a value for each of {n} labels a run"))),
    }
}

/// A table of numbers: its features `[rows,columns]`, and its labels.
fn table(path: &Path, at: &str) -> Result<(Tensor, Tensor), Failure> {
    let bad = |what: String| Failure::new(format!("{at}: {what}"));
    let mut rows = table_input::records(path, at)?;
    let header = rows.first().is_some_and(|r| r.iter().any(|c| !c.is_empty() && c.parse::<f64>().is_err()));
    let head = if header { rows.remove(0) } else { csv::StringRecord::new() };
    let width = rows.first().map_or(0, csv::StringRecord::len);
    if width < 2 {
        return Err(bad("needs rows of features and a label".into()));
    }
    let at = head.iter().position(|c| NAMES.contains(&c)).unwrap_or(width - 1);
    let (mut features, mut labels) = (vec![], vec![]);
    for r in &rows {
        for (i, cell) in r.iter().enumerate() {
            let v = match cell {
                "" => f64::NAN,
                c => c.parse::<f64>().map_err(|_| bad(format!("`{}` is no number", safe(c))))?,
            };
            if i == at { labels.push(v) } else { features.push(v as f32) }
        }
    }
    Ok((Tensor::from_vec([rows.len(), width - 1], features)?, Tensor::from_vec([labels.len()], labels)?))
}
