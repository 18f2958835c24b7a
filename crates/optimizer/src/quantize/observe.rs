//! Graphs whose outputs are what a quantization wants to know.

use super::{
    compensate::Moments,
    rebuild::Rebuild,
    statistics::{Statistics, Wanted},
};
use std::collections::{BTreeMap, BTreeSet};
use tensormill_ir::{
    Graph, IrError, TensorType, ValueId,
    ops::{MatMul, Reduce, ReduceKind, Reshape, SizeOf},
};
use tensormill_tensor::{Tensor, TensorError};

/// A graph that shows some of what is wanted of another graph.
#[derive(Debug, Clone)]
pub struct Observer {
    /// It takes the inputs of the graph that it watches.
    pub graph: Graph,
    shown: Vec<Shown>,
}

/// What an output shows.
#[derive(Debug, Clone)]
enum Shown {
    Value { value: ValueId, range: bool, axis: Option<usize> },
    Moments { value: ValueId, size: usize },
}

impl Observer {
    /// Graphs that together show all that is wanted, each of outputs of about `bytes` at most, as far as their
    /// sizes are known.
    ///
    /// # Errors
    /// [`IrError`]: a defect of the quantizer.
    pub fn all(g: &Graph, wanted: &Wanted, bytes: usize) -> Result<Vec<Observer>, IrError> {
        let ranges: BTreeSet<ValueId> = wanted.ranges.iter().copied().collect();
        let axes: BTreeMap<ValueId, usize> = wanted.channels.iter().copied().collect();
        let mut parts: Vec<(usize, Vec<Shown>)> = vec![];
        let mut show = |shown: Shown, size: usize| match parts.last_mut() {
            Some((sum, list)) if *sum + size <= bytes => {
                *sum += size;
                list.push(shown);
            }
            _ => parts.push((size, vec![shown])),
        };
        let values: BTreeSet<ValueId> = ranges.iter().chain(axes.keys()).copied().collect();
        for value in values {
            let size =
                g.ty(value).as_tensor().and_then(TensorType::static_shape).map_or(0, |s| 4 * s.numel());
            let axis = axes.get(&value).copied();
            show(Shown::Value { value, range: ranges.contains(&value), axis }, size);
        }
        for &(value, _, size) in &wanted.moments {
            show(Shown::Moments { value, size }, 8 * size * size);
        }
        let axis_of: BTreeMap<ValueId, usize> = wanted.moments.iter().map(|m| (m.0, m.1)).collect();
        parts.into_iter().map(|(_, shown)| Observer::of(g, shown, &axis_of)).collect()
    }

    fn of(g: &Graph, shown: Vec<Shown>, axis_of: &BTreeMap<ValueId, usize>) -> Result<Observer, IrError> {
        let mut r = Rebuild::new(g)?;
        for id in g.order() {
            r.copy(id)?;
        }
        let mut outputs = vec![];
        for s in &shown {
            match s {
                Shown::Value { value, .. } => outputs.push(r.get(*value)?),
                Shown::Moments { value, size } => {
                    let x = r.get(*value)?;
                    outputs.push(moments(&mut r, x, axis_of[value], *size)?);
                    outputs.push(r.b.op(SizeOf {}, &[x])?);
                }
            }
        }
        let graph = r.finish_with(outputs.into_iter().enumerate().map(|(i, v)| (i.to_string(), v)))?;
        Ok(Observer { graph, shown })
    }

    /// Counts the outputs of one run.
    ///
    /// # Errors
    /// [`TensorError`] for tensors of other types than the graph's.
    pub fn count(&self, outputs: &[Tensor], stats: &mut Statistics) -> Result<(), TensorError> {
        let mut outputs = outputs.iter();
        for shown in &self.shown {
            let Some(t) = outputs.next() else { break };
            let x = t.to_f32_vec()?;
            match shown {
                Shown::Value { value, range, axis } => {
                    if *range {
                        stats.ranges.entry(*value).or_default().add(&x);
                    }
                    if let Some(axis) = axis {
                        stats.channels.entry(*value).or_default().add(&x, t.shape().dims(), *axis);
                    }
                }
                Shown::Moments { value, size } => {
                    let elements =
                        outputs.next().map_or(Ok(0.0), |n| Ok(n.to_f64_vec()?.iter().sum::<f64>()))?;
                    let sums = stats.moments.entry(*value).or_insert_with(|| Moments::new(*size));
                    sums.add(&x, elements / (*size).max(1) as f64);
                }
            }
        }
        Ok(())
    }
}

/// A graph's values as the outputs of a graph, in order.
///
/// # Errors
/// [`IrError`] for a value that is not in the graph.
pub fn showing(g: &Graph, values: &[ValueId]) -> Result<Graph, IrError> {
    let mut r = Rebuild::new(g)?;
    for id in g.order() {
        r.copy(id)?;
    }
    let outputs = values.iter().map(|v| r.get(*v)).collect::<Result<Vec<_>, _>>()?;
    r.finish_with(outputs.into_iter().enumerate().map(|(i, v)| (i.to_string(), v)))
}

/// The elements along an axis multiplied by each other, summed over all else.
fn moments(r: &mut Rebuild<'_>, x: ValueId, axis: usize, size: usize) -> Result<ValueId, IrError> {
    let b = &mut r.b;
    b.set_origin(None);
    let last = b.ty(x).as_tensor().and_then(TensorType::rank) == Some(axis + 1);
    let size = size as i64;
    if last {
        let shape = b.ints(&[-1, size])?;
        let rows = b.op(Reshape::default(), &[x, shape])?;
        return b.op(MatMul { trans_a: true, ..Default::default() }, &[rows, rows]);
    }
    let shape = b.ints(&[0, size, -1])?;
    let planes = b.op(Reshape::default(), &[x, shape])?;
    let each = b.op(MatMul { trans_b: true, ..Default::default() }, &[planes, planes])?;
    let axes = b.ints(&[0])?;
    b.op(Reduce { kind: ReduceKind::Sum, keepdims: false, ..Default::default() }, &[each, axes])
}
