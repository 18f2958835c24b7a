//! What an optimization did and cost, as data.

use serde_json::{Value as Json, json};

/// Sizes and times of one model.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    pub nodes: usize,
    /// Bytes of the file, with what lies beside it.
    pub file_bytes: Option<u64>,
    pub constant_bytes: u64,
    /// Median of a run on the sample input.
    pub latency_ms: Option<f64>,
    /// Most memory of a process that only runs the model.
    pub peak_bytes: Option<u64>,
    /// Accuracy or R2.
    pub score: Option<f64>,
    pub mse: Option<f64>,
}

/// How far an output is from the original's.
#[derive(Debug, Clone)]
pub struct OutputError {
    pub name: String,
    /// Norm of the difference by the norm of the original.
    pub relative: f64,
    pub largest: f64,
}

/// A layer before and after.
#[derive(Debug, Clone, Default)]
pub struct Layer {
    pub name: String,
    pub op: String,
    /// How its numbers are stored now.
    pub form: String,
    /// Why it stays in float, if it does.
    pub kept: Option<String>,
    pub bytes: (u64, u64),
    pub ms: (Option<f64>, Option<f64>),
    /// Signal to noise of its result in decibels.
    pub snr: Option<f64>,
}

/// A rule and how often it changed the graph.
#[derive(Debug, Clone)]
pub struct Fused {
    pub rule: String,
    pub count: u64,
}

/// A rule that left nodes alone.
#[derive(Debug, Clone)]
pub struct Declined {
    pub rule: String,
    pub reason: String,
    pub count: u64,
    pub nodes: Vec<String>,
}

/// Weights, channels or heads of a product, or of several that share them.
#[derive(Debug, Clone)]
pub struct PrunedLayer {
    /// What is counted.
    pub what: &'static str,
    pub nodes: Vec<String>,
    pub before: usize,
    pub after: usize,
    /// Why all of them stay.
    pub kept: Option<String>,
}

/// What zeros among weights are good for; told beside the figures.
pub const ZEROS: &str = "weights that are zero are stored like all others: the file is as large as before, and only an \
                         archive of it gets smaller. Products of several rows are as fast as before; those of one row, as \
                         when text is generated, leave out the zeros of large weights of which two of every four, or four \
                         of every five, are zero. --structured makes all of them smaller and faster";

/// One setting of a sweep.
#[derive(Debug, Clone)]
pub struct Trial {
    pub setting: String,
    pub constant_bytes: u64,
    pub latency_ms: Option<f64>,
    pub relative_error: Option<f64>,
    pub score: Option<f64>,
    /// Why there are no figures.
    pub failed: Option<String>,
}

/// All of it.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub model: String,
    pub out: Option<String>,
    pub settings: Vec<(String, String)>,
    pub samples: usize,
    pub before: Figures,
    pub after: Figures,
    /// What `score` is.
    pub metric: Option<&'static str>,
    pub outputs: Vec<OutputError>,
    pub pruned: Vec<PrunedLayer>,
    /// What is to be said of the figures.
    pub notes: Vec<String>,
    pub layers: Vec<Layer>,
    pub fused: Vec<Fused>,
    pub declined: Vec<Declined>,
    pub trials: Vec<Trial>,
}

/// A number, or its name where JSON has none.
fn number(v: Option<f64>) -> Json {
    match v {
        None => Json::Null,
        Some(v) if v.is_finite() => json!(v),
        Some(v) => json!(v.to_string()),
    }
}

impl Figures {
    fn json(&self, metric: Option<&str>) -> Json {
        json!({
            "nodes": self.nodes, "file_bytes": self.file_bytes, "constant_bytes": self.constant_bytes,
            "latency_ms": number(self.latency_ms), "peak_bytes": self.peak_bytes,
            "metric": metric, "score": number(self.score), "mse": number(self.mse),
        })
    }
}

impl Report {
    pub fn json(&self) -> Json {
        let outputs: Vec<Json> = self
            .outputs
            .iter()
            .map(|o| {
                json!({"name": o.name, "relative": number(Some(o.relative)), "largest": number(Some(o.largest))})
            })
            .collect();
        let layers: Vec<Json> = self
            .layers
            .iter()
            .map(|l| {
                json!({"name": l.name, "op": l.op, "form": l.form, "kept": l.kept,
                    "bytes_before": l.bytes.0, "bytes_after": l.bytes.1,
                    "ms_before": number(l.ms.0), "ms_after": number(l.ms.1), "snr_db": number(l.snr)})
            })
            .collect();
        let pruned: Vec<Json> = self
            .pruned
            .iter()
            .map(|p| json!({"what": p.what, "nodes": p.nodes, "before": p.before, "after": p.after, "kept": p.kept}))
            .collect();
        let fused: Vec<Json> = self.fused.iter().map(|f| json!({"rule": f.rule, "count": f.count})).collect();
        let declined: Vec<Json> = self
            .declined
            .iter()
            .map(|d| json!({"rule": d.rule, "reason": d.reason, "count": d.count, "nodes": d.nodes}))
            .collect();
        let trials: Vec<Json> = self
            .trials
            .iter()
            .map(|t| {
                json!({"setting": t.setting, "constant_bytes": t.constant_bytes,
                    "latency_ms": number(t.latency_ms), "relative_error": number(t.relative_error),
                    "score": number(t.score), "failed": t.failed})
            })
            .collect();
        let settings: serde_json::Map<String, Json> =
            self.settings.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
        json!({
            "model": self.model, "out": self.out, "settings": settings, "samples": self.samples,
            "before": self.before.json(self.metric), "after": self.after.json(self.metric),
            "outputs": outputs, "pruned": pruned, "notes": self.notes, "layers": layers, "fused": fused, "declined": declined, "trials": trials,
        })
    }

    /// The layers that stay in float, by reason, with the names of the first few.
    pub fn kept(&self) -> Vec<(&str, Vec<&str>)> {
        let mut out: Vec<(&str, Vec<&str>)> = vec![];
        for l in &self.layers {
            let Some(why) = &l.kept else { continue };
            match out.iter_mut().find(|(w, _)| w == why) {
                Some((_, names)) => names.push(&l.name),
                None => out.push((why, vec![&l.name])),
            }
        }
        out
    }
}
