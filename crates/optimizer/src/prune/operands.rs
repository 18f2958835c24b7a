//! Operands that spell sizes or places, and have to change with the shapes.

use super::channels::Kept;
use crate::pattern::dims;
use std::collections::BTreeMap;
use tensormill_ir::{Graph, Node, NodeId, Op, ValueId};
use tensormill_tensor::Tensor;

/// What takes the place of an operand.
pub(super) enum Operand {
    Constant(Tensor),
    /// Vectors of i64, one after the other.
    Joined(Vec<Part>),
}

pub(super) enum Part {
    Value(ValueId),
    Numbers(Vec<i64>),
}

impl Operand {
    fn ints(v: Vec<i64>) -> Option<Operand> {
        Some(Operand::Constant(Tensor::from_vec([v.len()], v).ok()?))
    }
}

/// The vector of a shape, in parts of which those that are constant can be changed.
fn parts(g: &Graph, shape: ValueId) -> Option<Vec<Part>> {
    if let Some(v) = g.const_ints(shape) {
        return Some(vec![Part::Numbers(v)]);
    }
    let (_, n) = g.producer(shape)?;
    let Op::Concat(_) = n.op else { return None };
    let part = |v: &Option<ValueId>| {
        let v = (*v)?;
        Some(g.const_ints(v).map_or(Part::Value(v), Part::Numbers))
    };
    n.inputs.iter().map(part).collect()
}

/// The number at a place of a shape that can be changed there.
fn entry(g: &Graph, shape: ValueId, at: usize) -> Option<i64> {
    let mut before = 0;
    for part in parts(g, shape)? {
        let length = match &part {
            Part::Numbers(n) => n.len(),
            Part::Value(v) => dims(g, *v)?.first()?.known()?,
        };
        if at < before + length {
            return match part {
                Part::Numbers(n) => Some(n[at - before]),
                Part::Value(_) => None,
            };
        }
        before += length;
    }
    None
}

/// Whether the size of an axis of a node's result can be changed in its second operand.
pub(super) fn can_resize(g: &Graph, n: &Node, axis: usize) -> bool {
    n.input(1).is_some_and(|shape| entry(g, shape, axis).is_some())
}

/// A shape with other numbers in some places.
fn changed(g: &Graph, shape: ValueId, new: &BTreeMap<usize, i64>) -> Option<Operand> {
    let mut at = 0;
    let mut all = parts(g, shape)?;
    for part in &mut all {
        match part {
            Part::Value(v) => at += dims(g, *v)?.first()?.known()?,
            Part::Numbers(numbers) => {
                for n in numbers {
                    *n = *new.get(&at).unwrap_or(n);
                    at += 1;
                }
            }
        }
    }
    match all.pop() {
        Some(Part::Numbers(n)) if all.is_empty() => Operand::ints(n),
        last => {
            all.extend(last);
            Some(Operand::Joined(all))
        }
    }
}

/// What a slice with constant operands takes of an axis: the place in its vectors, start and end.
pub(super) fn sliced(g: &Graph, n: &Node, axis: usize) -> Option<Option<(usize, usize, usize)>> {
    let ints = |i: usize| n.input(i).map(|v| g.const_ints(v));
    let (starts, ends) = (ints(1)??, ints(2)??);
    let d = dims(g, n.input(0)?)?;
    let axes = match ints(3) {
        Some(axes) => axes?,
        None => (0..starts.len() as i64).collect(),
    };
    let rank = d.len() as i64;
    let at = axes.iter().position(|a| (if *a < 0 { a + rank } else { *a }) == axis as i64);
    let Some(at) = at else { return Some(None) };
    let size = d.get(axis)?.known()? as i64;
    let place = |v: i64| (if v < 0 { v.saturating_add(size) } else { v }).clamp(0, size) as usize;
    let step = match ints(4) {
        Some(steps) => *steps?.get(at)?,
        None => 1,
    };
    (step == 1).then_some(Some((at, place(*starts.get(at)?), place(*ends.get(at)?))))
}

/// The operands that change with the axes that lose something.
pub(super) fn of(g: &Graph, kept: &Kept) -> BTreeMap<(NodeId, usize), Operand> {
    let mut out = BTreeMap::new();
    for (id, n) in g.nodes() {
        let (Some(x), Some(&y)) = (n.input(0), n.outputs.first()) else { continue };
        let rank = |v| dims(g, v).map_or(0, |d| d.len());
        match &n.op {
            Op::Reshape(_) | Op::Expand(_) => {
                let Some(shape) = n.input(1) else { continue };
                let mut new = BTreeMap::new();
                for axis in 0..rank(y) {
                    let size = match (kept.get(&(y, axis)), kept.contains_key(&(x, axis))) {
                        (Some(left), _) => Some(left.len()),
                        // A zero would copy what has become smaller.
                        (None, true) => dims(g, y).and_then(|d| d[axis].known()),
                        _ => None,
                    };
                    // What is computed stays so, and an axis that is not stretched keeps its one.
                    let computed = match entry(g, shape, axis) {
                        None | Some(-1) => true,
                        Some(e) => e == 1 && matches!(n.op, Op::Expand(_)),
                    };
                    if let Some(size) = size.filter(|_| !computed) {
                        new.insert(axis, size as i64);
                    }
                }
                if let Some(operand) = (!new.is_empty()).then(|| changed(g, shape, &new)).flatten() {
                    out.insert((id, 1), operand);
                }
            }
            Op::Split(s) => {
                let axis = if s.axis < 0 { s.axis + rank(x) as i64 } else { s.axis } as usize;
                let size = |v: &ValueId| {
                    let left = kept.get(&(*v, axis)).map(Vec::len);
                    left.or_else(|| dims(g, *v)?.get(axis)?.known()).map(|n| n as i64)
                };
                if kept.contains_key(&(x, axis))
                    && let Some(operand) = n.outputs.iter().map(size).collect::<Option<_>>()
                    && let Some(operand) = Operand::ints(operand)
                {
                    out.insert((id, 1), operand);
                }
            }
            Op::Slice(_) => {
                for axis in 0..rank(x) {
                    let Some(left) = kept.get(&(x, axis)) else { continue };
                    let Some(Some((at, start, end))) = sliced(g, n, axis) else { continue };
                    for (i, place) in [(1, start), (2, end)] {
                        let now = match out.remove(&(id, i)) {
                            Some(Operand::Constant(t)) => t.to_i64_vec().ok(),
                            _ => n.input(i).and_then(|v| g.const_ints(v)),
                        };
                        let Some(mut now) = now else { continue };
                        now[at] = left.iter().filter(|p| **p < place).count() as i64;
                        if let Some(operand) = Operand::ints(now) {
                            out.insert((id, i), operand);
                        }
                    }
                }
            }
            _ => {}
        }
    }
    out
}
