//! How much noise quantization adds: both models' values compared on samples.

use super::{OBSERVED, Observed, Quantizer, report::decibels, run, tensors};
use crate::Error;
use std::collections::BTreeMap;
use tensormill_ir::{Graph, TensorType, ValueId};
use tensormill_optimizer::quantize::{QuantError, Quantized, showing};

/// Noise as a part of the signal, for each node's input and result, and in decibels for the outputs.
pub(super) struct Noise {
    pub(super) nodes: Vec<(Option<f64>, Option<f64>)>,
    pub(super) outputs: Vec<Option<f64>>,
}

/// A value of the float graph and the same of the quantized one.
type Pair = (ValueId, ValueId);

/// Compares both graphs' values on the samples kept.
pub(super) fn noise(q: &Quantizer, float: &Observed, done: &Quantized) -> Result<Noise, Error> {
    let node = |n: &tensormill_optimizer::quantize::NodeEntry| {
        (n.input.zip(n.quantized_input), n.quantized.map(|v| (n.value, v)))
    };
    let nodes: Vec<(Option<Pair>, Option<Pair>)> = done.nodes.iter().map(node).collect();
    let ends = float.graph.outputs().iter().zip(done.graph.outputs()).map(|(a, b)| (a.value, b.value));
    let outputs: Vec<Pair> = ends.collect();
    let is_float = |v: ValueId| float.graph.ty(v).as_tensor().is_some_and(|t| t.dtype.is_float());
    let all = nodes.iter().flat_map(|(a, b)| [*a, *b]).flatten().chain(outputs.iter().copied());
    let mut sums: BTreeMap<Pair, (f64, f64)> =
        all.filter(|p| is_float(p.0)).map(|p| (p, (0.0, 0.0))).collect();
    if !float.samples.is_empty() {
        for part in parts(&float.graph, sums.keys().copied().collect()) {
            compare(q, float, done, &part, &mut sums)?;
        }
    }
    let of = |p: &Pair| {
        let (signal, noise) = *sums.get(p)?;
        (signal > 0.0).then(|| noise / signal)
    };
    Ok(Noise {
        nodes: nodes.iter().map(|(a, b)| (a.as_ref().and_then(of), b.as_ref().and_then(of))).collect(),
        outputs: outputs.iter().map(|p| of(p).map(decibels)).collect(),
    })
}

/// Values in parts that a run can show at once.
fn parts(g: &Graph, pairs: Vec<Pair>) -> Vec<Vec<Pair>> {
    let mut out: Vec<(usize, Vec<Pair>)> = vec![];
    for p in pairs {
        let size = g.ty(p.0).as_tensor().and_then(TensorType::static_shape).map_or(0, |s| 8 * s.numel());
        match out.last_mut() {
            Some((sum, list)) if *sum + size <= OBSERVED => {
                *sum += size;
                list.push(p);
            }
            _ => out.push((size, vec![p])),
        }
    }
    out.into_iter().map(|(_, list)| list).collect()
}

fn compare(
    q: &Quantizer,
    float: &Observed,
    done: &Quantized,
    pairs: &[Pair],
    sums: &mut BTreeMap<Pair, (f64, f64)>,
) -> Result<(), Error> {
    let graph = |g: &Graph, values: Vec<ValueId>| showing(g, &values).map_err(QuantError::from);
    let a = q.session(&float.model, graph(&float.graph, pairs.iter().map(|p| p.0).collect())?)?;
    let b = q.session(&float.model, graph(&done.graph, pairs.iter().map(|p| p.1).collect())?)?;
    for sample in &float.samples {
        let (x, y) = (tensors(run(&a, sample)?)?, tensors(run(&b, sample)?)?);
        for (pair, (x, y)) in pairs.iter().zip(x.iter().zip(&y)) {
            let Some((signal, noise)) = sums.get_mut(pair) else { continue };
            for (x, y) in x.to_f32_vec()?.into_iter().zip(y.to_f32_vec()?) {
                let (x, y) = (f64::from(x), f64::from(y));
                if x.is_finite() {
                    *signal += x * x;
                    *noise += (x - y) * (x - y);
                }
            }
        }
    }
    Ok(())
}
