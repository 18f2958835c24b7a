//! Scales moved between layers: what one divides its channels by, the next multiplies into its weights, so that
//! neither activations nor weights have channels that all others must share a wide range with.
//!
//! Between convolutions after "Data-Free Quantization Through Weight Equalization and Bias Correction" (Nagel and
//! others, 2019), after layer norms after "SmoothQuant" (Xiao and others, 2022).

use super::{
    options::{QuantError, QuantOptions},
    rebuild::Rebuild,
    report::{NodeEntry, Treatment},
    statistics::Statistics,
    weighted::{Absorbed, Inputs, Weighted},
};
use crate::pattern::dims;
use std::collections::BTreeMap;
use tensormill_ir::{
    Dim, Graph, NodeId, ValueId,
    ops::{Op, Unary, UnaryKind},
};
use tensormill_tensor::{DType, Tensor};

/// Scales beyond this either way would only trade one wide range for another.
const MOST: f32 = 64.0;

/// Operands that become other constants.
type Changes = BTreeMap<(NodeId, usize), Vec<f32>>;

/// The value between two layers, and who writes and reads it.
struct Link {
    value: ValueId,
    /// Divided: operands of the writer, each with as many elements a channel.
    writer: NodeId,
    writes: Vec<usize>,
    readers: Vec<(NodeId, Weighted)>,
    channels: usize,
    /// How much of the range moves to the readers.
    part: f32,
}

/// The graph with scales moved as the options say, and where that was declined.
///
/// # Errors
/// [`QuantError`]: a defect of the quantizer.
pub fn equalize(
    g: &Graph,
    o: &QuantOptions,
    stats: &Statistics,
) -> Result<(Graph, Vec<NodeEntry>), QuantError> {
    let mut declined = vec![];
    let mut changes = Changes::new();
    if o.equalize || o.smooth.is_some() {
        for id in g.order() {
            match link(g, id, o) {
                None => {}
                Some(Ok(l)) => move_scales(g, &l, stats, &mut changes)?,
                Some(Err(why)) => {
                    declined.push(NodeEntry::new(g, id, g.node(id).output(), Treatment::Float(why)));
                }
            }
        }
    }
    let mut r = Rebuild::new(g)?;
    for id in g.order() {
        let node = g.node(id);
        let mut operands = r.operands(id)?;
        for (i, operand) in operands.iter_mut().enumerate() {
            if let (Some(data), Some(v)) = (changes.remove(&(id, i)), node.input(i))
                && let Some(t) = g.constant(v)
            {
                let t = Tensor::from_vec(t.shape().clone(), data)?;
                *operand = Some(r.constant(v, "scaled", t)?);
            }
        }
        r.node(id, node.op.clone(), &operands)?;
    }
    Ok((r.finish()?.0, declined))
}

/// The values whose channels must be observed for it.
pub(super) fn observed(g: &Graph, o: &QuantOptions) -> Vec<(ValueId, usize)> {
    let of = |(id, _)| {
        let l = link(g, id, o)?.ok()?;
        let axis = l.readers.first()?.1.input_axis(g)?;
        Some((l.value, axis))
    };
    if o.equalize || o.smooth.is_some() { g.nodes().filter_map(of).collect() } else { vec![] }
}

/// Whether a factor before these steps is one after them.
fn homogeneous(g: &Graph, after: &Absorbed) -> bool {
    after.nodes.iter().all(|n| {
        matches!(g.node(*n).op, Op::Unary(Unary { kind: UnaryKind::Relu | UnaryKind::LeakyRelu { .. } }))
    })
}

fn link(g: &Graph, id: NodeId, o: &QuantOptions) -> Option<Result<Link, &'static str>> {
    let node = g.node(id);
    let constant = |i: usize| node.input(i).and_then(|v| g.constant(v)).filter(|t| t.dtype() == DType::F32);
    let (value, writes, channels, part) = match &node.op {
        Op::Conv(_) if o.equalize => {
            let Ok(_) = Weighted::at(g, id, o)? else { return Some(Err("its weights are not constant")) };
            let after = Absorbed::after(g, node.output(), o);
            if !homogeneous(g, &after) {
                return Some(Err("the activation after it knows no factors"));
            }
            let bias = node.input(2).is_some();
            if bias && constant(2).is_none() {
                return Some(Err("its bias is computed"));
            }
            let channels = *constant(1)?.shape().first()?;
            (after.end, if bias { vec![1, 2] } else { vec![1] }, channels, 0.5)
        }
        Op::LayerNorm(_) if o.smooth.is_some() => {
            let last = dims(g, node.output())?.last().and_then(Dim::known)?;
            let writes: Vec<usize> = (1..3).filter(|i| node.input(*i).is_some()).collect();
            let vectors = writes.iter().all(|i| constant(*i).is_some_and(|t| t.len() == last));
            if writes.first() != Some(&1) || !vectors || node.outputs.len() > 1 {
                return Some(Err("its scale is no constant vector"));
            }
            (node.output(), writes, last, o.smooth.unwrap_or(0.5))
        }
        _ => return None,
    };
    let users = g.value(value).users();
    let mut readers = vec![];
    for u in users {
        match Weighted::at(g, *u, o) {
            Some(Ok(w)) if w.x == value && w.inputs != Inputs::BeforeLast => readers.push((*u, w)),
            _ => return Some(Err("others than products read what it writes")),
        }
    }
    if readers.is_empty() || g.is_output(value) {
        return Some(Err("others than products read what it writes"));
    }
    Some(Ok(Link { value, writer: id, writes, readers, channels, part }))
}

fn move_scales(g: &Graph, l: &Link, stats: &Statistics, changes: &mut Changes) -> Result<(), QuantError> {
    let mut data = |id: NodeId, i: usize| -> Result<(), QuantError> {
        if let (false, Some(t)) =
            (changes.contains_key(&(id, i)), g.node(id).input(i).and_then(|v| g.constant(v)))
        {
            changes.insert((id, i), t.to_f32_vec()?);
        }
        Ok(())
    };
    for i in &l.writes {
        data(l.writer, *i)?;
    }
    for (id, _) in &l.readers {
        data(*id, 1)?;
    }
    // The reach of each channel: observed, or as the weights that write it say.
    let written = &changes[&(l.writer, 1)];
    let each = written.len() / l.channels.max(1);
    let mut reach: Vec<f32> =
        written.chunks(each.max(1)).map(|c| c.iter().fold(0f32, |m, v| m.max(v.abs()))).collect();
    if let Some(peaks) =
        stats.channels.get(&l.value).map(super::Channels::peaks).filter(|p| p.len() == l.channels)
    {
        reach = peaks.to_vec();
    }
    let mut weigh = vec![0f32; l.channels];
    for (id, w) in &l.readers {
        each_weight(g, *id, w, |k, at| {
            if let Some(m) = weigh.get_mut(k) {
                *m = m.max(changes[&(*id, 1)][at].abs());
            }
        });
    }
    let scale: Vec<f32> = reach
        .iter()
        .zip(&weigh)
        .map(|(a, w)| {
            let s = a.powf(l.part) / w.powf(1.0 - l.part);
            if *a > 0.0 && *w > 0.0 && s.is_finite() && s > 0.0 { s } else { 1.0 }
        })
        .collect();
    // Around their own mean, so that no layer's numbers grow as a whole.
    let mean =
        (scale.iter().map(|s| f64::from(s.ln())).sum::<f64>() / scale.len().max(1) as f64).exp() as f32;
    let scale: Vec<f32> = scale.iter().map(|s| (s / mean).clamp(1.0 / MOST, MOST)).collect();
    for i in &l.writes {
        let Some(w) = changes.get_mut(&(l.writer, *i)) else { continue };
        let each = w.len() / l.channels.max(1);
        w.chunks_mut(each.max(1)).zip(&scale).for_each(|(c, s)| c.iter_mut().for_each(|v| *v /= s));
    }
    for (id, w) in &l.readers {
        let Some(mut moved) = changes.remove(&(*id, 1)) else { continue };
        each_weight(g, *id, w, |k, at| moved[at] *= scale.get(k).copied().unwrap_or(1.0));
        changes.insert((*id, 1), moved);
    }
    Ok(())
}

/// Every weight of a node: the input channel that it meets, and its place in the tensor.
fn each_weight(g: &Graph, id: NodeId, w: &Weighted, mut f: impl FnMut(usize, usize)) {
    let Some(t) = g.node(id).input(1).and_then(|v| g.constant(v)) else { return };
    let shape = t.shape().dims();
    let count = shape.get(w.axis).copied().unwrap_or(1);
    let len = t.len() / count.max(1);
    for row in 0..count {
        for k in 0..len {
            let at = if w.axis == 0 { row * len + k } else { k * count + row };
            f(w.input_of(k, row, count, len), at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantize::options::Scheme;
    use crate::{
        Numerics,
        testing::{Bytes, compare, random_inputs},
    };
    use tensormill_ir::text;
    use tensormill_tensor::Shape;

    fn parse(source: &str) -> Graph {
        let resolve = |name: &str, dtype: DType, shape: &Shape| {
            let seed = name.bytes().fold(7u64, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
            Ok(Bytes::seeded(seed, 4096).tensor(dtype, shape))
        };
        text::parse_with(source, &resolve).unwrap()
    }

    #[test]
    fn moved_scales_change_no_result() {
        let convolutions = parse(
            "graph @main(%x: f32[2,4,6,6]) -> (%y, %z) {
              %w: f32[6,4,3,3] = const @\"w\"
              %b: f32[6] = const @\"b\"
              %0: f32[2,6,4,4] = conv %x, %w, %b !\"a\"
              %1: f32[2,6,4,4] = relu %0
              %d: f32[6,1,3,3] = const @\"d\"
              %2: f32[2,6,2,2] = conv %1, %d {group=6} !\"b\"
              %v: f32[3,6,1,1] = const @\"v\"
              %y: f32[2,3,2,2] = conv %2, %v !\"c\"
              %3: f32[2,6,4,4] = conv %x, %w, %b !\"d\"
              %4: f32[2,6,4,4] = sigmoid %3
              %z: f32[2,3,4,4] = conv %4, %v !\"e\"
            }",
        );
        let norm = parse(
            "graph @main(%x: f32[3,8]) -> (%y, %z) {
              %s: f32[8] = const @\"s\"
              %b: f32[8] = const @\"b\"
              %0: f32[3,8] = layer_norm %x, %s, %b !\"n\"
              %w: f32[8,5] = const @\"w\"
              %v: f32[6,8] = const @\"v\"
              %y: f32[3,5] = matmul %0, %w
              %z: f32[3,6] = matmul %0, %v {trans_b=true}
            }",
        );
        for (g, declines) in
            [(convolutions, vec!["the activation after it knows no factors"]), (norm, vec![])]
        {
            let mut o = QuantOptions::new(Scheme::StaticInt8);
            (o.equalize, o.smooth) = (true, Some(0.5));
            let (h, declined) = equalize(&g, &o, &Statistics::default()).unwrap();
            h.verify().unwrap();
            assert!(!h.same_as(&g));
            for seed in 0..4 {
                let inputs = random_inputs(&g, &mut Bytes::seeded(seed, 1 << 12));
                compare(&g, &h, &inputs, Numerics::Reassociates).unwrap();
            }
            let reasons: Vec<_> = declined.iter().map(|d| d.treatment.to_string()).collect();
            for d in declines {
                assert!(reasons.iter().any(|r| r.ends_with(d)), "{reasons:?}");
            }
        }
    }
}
