//! The static scheme: integers between nodes, with ranges measured ahead.

use super::{
    options::{QuantError, QuantOptions},
    plan::{Chosen, Plan, Role, data_operands},
    range::{Affine, choose},
    rebuild::Rebuild,
    report::{NodeEntry, Treatment},
    statistics::Statistics,
    weighted::Weighted,
    weights::{Format, Rows, Stored, store},
};
use std::collections::BTreeMap;
use tensormill_ir::{
    Graph, NodeId, Op, ValueId,
    ops::{Binary, BinaryKind},
};
use tensormill_tensor::{DType, Tensor};

/// The largest integer of a bias, below the type's for the sums that it is added to.
const MAX_BIAS: f64 = (1u64 << 30) as f64;

/// The graph with integers between the nodes of the plan, and what became of its nodes.
pub(super) fn rewrite(
    g: &Graph,
    o: &QuantOptions,
    stats: &Statistics,
) -> Result<(Graph, Vec<NodeEntry>), QuantError> {
    let mut plan = Plan::of(g, o);
    let ranges = ranges(g, &plan, o, stats)?;
    let mut r = Rebuild::new(g)?;
    for &v in g.inputs() {
        integers(&mut r, &plan, &ranges, v)?;
    }
    let mut corrections = BTreeMap::new();
    for id in g.order() {
        let node = g.node(id);
        match plan.nodes.get(&id) {
            None => match corrections.remove(&id) {
                Some(shift) => corrected(&mut r, id, shift)?,
                None => r.copy(id)?,
            },
            Some(Chosen { role: Role::Product(w), after }) => {
                let s = Affine::scale_of(&ranges, &plan, w.x);
                let (weights, shift) = product(&mut r, id, w, s, o, stats)?;
                let adds = after.nodes.first().filter(|n| is_bias(g, **n, node.output()));
                if let (Some(shift), Some(add)) = (shift, adds) {
                    corrections.insert(*add, shift);
                }
                let treatment = Treatment::Quantized { weights: Some(weights) };
                plan.entries.push((id, NodeEntry::new(g, id, after.end, treatment)));
            }
            Some(Chosen { role, after }) => {
                let mut operands = r.operands(id)?;
                for (v, operand) in node.inputs.iter().zip(&mut operands) {
                    if let Some(v) = v.filter(|v| data_operands(g, node).contains(v))
                        && let Some(t) = g.constant(v)
                    {
                        *operand = Some(constant(&mut r, v, t, o)?);
                    }
                }
                r.node(id, node.op.clone(), &operands)?;
                if !matches!(role, Role::Mover) {
                    let treatment = Treatment::Quantized { weights: None };
                    plan.entries.push((id, NodeEntry::new(g, id, after.end, treatment)));
                }
            }
        }
        for v in &node.outputs {
            integers(&mut r, &plan, &ranges, *v)?;
        }
    }
    let (new, map) = r.finish()?;
    let mut entries = plan.entries;
    let place: BTreeMap<NodeId, usize> = g.order().into_iter().enumerate().map(|(i, n)| (n, i)).collect();
    entries.sort_by_key(|(id, _)| place[id]);
    Ok((new, entries.into_iter().map(|(_, e)| e.mapped(&map)).collect()))
}

impl Affine {
    fn scale_of(ranges: &BTreeMap<ValueId, Affine>, plan: &Plan, v: ValueId) -> f32 {
        plan.values.get(&v).and_then(|s| ranges.get(s)).map_or(1.0, |a| a.scale)
    }
}

/// The parameters of every value that others have theirs from.
fn ranges(
    g: &Graph,
    plan: &Plan,
    o: &QuantOptions,
    stats: &Statistics,
) -> Result<BTreeMap<ValueId, Affine>, QuantError> {
    let of = |v: ValueId| {
        let seen =
            stats.ranges.get(&v).and_then(|h| choose(h, o.method, o.activations, o.symmetric_activations));
        let Some((low, high)) = seen else {
            let name = g.value(v).name.as_deref().map(str::to_owned);
            let made = g.producer(v).map(|(id, _)| crate::driver::label(g, id));
            return Err(QuantError::NotObserved(name.or(made).unwrap_or_default()));
        };
        Ok((v, Affine::of_range(low, high, o.activations, o.symmetric_activations)))
    };
    plan.ranges().into_iter().map(of).collect()
}

fn integers(
    r: &mut Rebuild<'_>,
    plan: &Plan,
    ranges: &BTreeMap<ValueId, Affine>,
    v: ValueId,
) -> Result<(), QuantError> {
    if let Some(source) = plan.values.get(&v)
        && let Some(a) = ranges.get(source)
    {
        r.through_integers(v, *source, *a)?;
    }
    Ok(())
}

/// An operand that is a constant, stored as integers of its own range.
fn constant(r: &mut Rebuild<'_>, v: ValueId, t: &Tensor, o: &QuantOptions) -> Result<ValueId, QuantError> {
    let x = t.to_f32_vec()?;
    let (low, high) = x.iter().fold((0f32, 0f32), |(a, b), v| (a.min(*v), b.max(*v)));
    let a = Affine::of_range(low.into(), high.into(), o.activations, o.symmetric_activations);
    let ints = Tensor::from_i64s(a.dtype, t.shape().clone(), x.iter().map(|v| a.quantize(*v)))?;
    let zero = Tensor::from_i64s(a.dtype, [], [a.zero])?;
    Ok(r.dequantized(v, ints, Tensor::scalar(a.scale), Some(zero), 1, 0)?)
}

/// A product over stored weights. Returns how they are stored, and by how much each output channel's mean
/// moves where no bias of its own could take that back.
fn product(
    r: &mut Rebuild<'_>,
    id: NodeId,
    w: &Weighted,
    x_scale: f32,
    o: &QuantOptions,
    stats: &Statistics,
) -> Result<(String, Option<Vec<f64>>), QuantError> {
    let g = r.old;
    let node = g.node(id);
    let Some(rows) = w.rows(g) else { return Err(QuantError::Option("weights without rows".into())) };
    let conv = matches!(node.op, Op::Conv(_));
    let bias = match node.input(2).filter(|_| conv) {
        None => None,
        Some(b) => g.constant(b).map(|t| Ok::<_, QuantError>((b, t.to_f64_vec()?))).transpose()?,
    };
    let least: Option<Vec<f64>> =
        bias.as_ref().map(|(_, b)| b.iter().map(|b| b.abs() / MAX_BIAS / f64::from(x_scale)).collect());
    let format = Format {
        dtype: DType::I8,
        seven_bits: o.seven_bit_weights,
        group: None,
        per_tensor: !o.per_channel,
        search: o.search_weights,
    };
    let importance = importance(w, &rows, stats);
    let moments = stats.moments.get(&w.x).filter(|_| o.compensate && w.is_plain_product());
    let s = store(&rows, format, importance.as_deref(), moments, least.as_deref())?;
    let shift = if o.correct_bias { shift(w, &rows, &s, stats) } else { None };
    let scales = s.scales.clone();
    let mut operands = r.operands(id)?;
    operands[1] = Some(r.dequantized(w.weights, s.ints, s.scale, s.zero, s.axis, s.block)?);
    let computed_bias = conv && node.input(2).is_some() && bias.is_none();
    let mut left = shift;
    if conv && !computed_bias && (bias.is_some() || left.is_some()) {
        let (of, mut b) = bias.unwrap_or_else(|| (w.weights, vec![0.0; rows.count]));
        if let Some(shift) = left.take() {
            b.iter_mut().zip(shift).for_each(|(b, s)| *b -= s);
        }
        operands.resize(3.max(operands.len()), None);
        operands[2] = Some(stored_bias(r, of, &b, x_scale, &scales, o.per_channel)?);
    }
    r.node(id, node.op.clone(), &operands)?;
    let how = if o.per_channel { "i8 per channel" } else { "i8 per tensor" };
    Ok((how.into(), left))
}

/// How much an error of each weight of a row matters; none where rows differ in what they read.
fn importance(w: &Weighted, rows: &Rows, stats: &Statistics) -> Option<Vec<f32>> {
    let squares = stats.channels.get(&w.x)?.squares();
    let of = |k: usize| squares.get(w.input_of(k, 0, rows.count, rows.len)).map(|v| *v as f32);
    let plain = !matches!(w.inputs, super::weighted::Inputs::Channels { groups, .. } if groups > 1);
    if plain { (0..rows.len).map(of).collect() } else { None }
}

/// By how much rounded weights move each output channel, on inputs that are their means.
fn shift(w: &Weighted, rows: &Rows, s: &Stored, stats: &Statistics) -> Option<Vec<f64>> {
    let means = stats.channels.get(&w.x)?.means();
    (0..rows.count)
        .map(|i| {
            let moved = rows.row(i).iter().zip(&s.back[i * rows.len..]).enumerate();
            moved
                .map(|(k, (w0, back))| {
                    let mean = means.get(w.input_of(k, i, rows.count, rows.len))?;
                    Some(f64::from(back - w0) * mean)
                })
                .sum()
        })
        .collect()
}

fn stored_bias(
    r: &mut Rebuild<'_>,
    of: ValueId,
    b: &[f64],
    x_scale: f32,
    scales: &[f32],
    per_channel: bool,
) -> Result<ValueId, QuantError> {
    // As ONNX Runtime has it: one product of scales per channel, and no zero point.
    let scale: Vec<f32> = scales.iter().map(|s| (s * x_scale).max(f32::MIN_POSITIVE)).collect();
    let ints = b.iter().zip(&scale).map(|(b, s)| (b / f64::from(*s)).round_ties_even() as i64);
    let limit = i64::from(i32::MAX);
    let ints = Tensor::from_i64s(DType::I32, [b.len()], ints.map(|v| v.clamp(-limit, limit)))?;
    let scale = match per_channel {
        true => Tensor::from_vec([scale.len()], scale)?,
        false => Tensor::scalar(scale.first().copied().unwrap_or(1.0)),
    };
    let zero = Tensor::from_i64s(DType::I32, scale.shape().clone(), vec![0; scale.len()])?;
    Ok(r.dequantized(of, ints, scale, Some(zero), 0, 0)?)
}

/// Whether a node adds a constant vector, one element a column, to a product that only it reads.
fn is_bias(g: &Graph, id: NodeId, y: ValueId) -> bool {
    let node = g.node(id);
    let other = node.inputs.iter().flatten().find(|v| **v != y);
    matches!(node.op, Op::Binary(Binary { kind: BinaryKind::Add }))
        && other
            .is_some_and(|c| g.constant(*c).is_some_and(|t| t.shape().rank() == 1 && t.dtype() == DType::F32))
}

/// An addition whose constant also takes back what rounded weights moved.
fn corrected(r: &mut Rebuild<'_>, id: NodeId, shift: Vec<f64>) -> Result<(), QuantError> {
    let g = r.old;
    let node = g.node(id);
    let mut operands = r.operands(id)?;
    for (v, operand) in node.inputs.iter().zip(&mut operands) {
        let Some((v, t)) = v.and_then(|v| Some((v, g.constant(v)?))) else { continue };
        let b = t.to_f64_vec()?;
        if b.len() == shift.len() {
            let moved = b.iter().zip(&shift).map(|(b, s)| b - s);
            *operand = Some(r.constant(v, "corrected", Tensor::from_f64s(DType::F32, [b.len()], moved)?)?);
        }
    }
    r.node(id, node.op.clone(), &operands)?;
    Ok(())
}
