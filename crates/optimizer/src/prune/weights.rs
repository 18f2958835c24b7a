//! Weights set to zero where they stand.

use super::{Changes, Pattern, PruneEntry, PruneError, PruneOptions, Pruned, Pruning, excluded, rebuilt};
use crate::driver::label;
use std::collections::BTreeMap;
use tensormill_ir::{Graph, Op, ValueId};
use tensormill_tensor::Tensor;

/// Products whose second operand is a constant of floats, with the axis that their inputs lie along.
fn products(g: &Graph, o: &PruneOptions) -> Vec<(String, ValueId, usize)> {
    let mut out: Vec<(String, ValueId, usize)> = vec![];
    for id in g.order() {
        let n = g.node(id);
        let axis = match &n.op {
            Op::Conv(_) => |_: usize| 1,
            Op::MatMul(m) if m.trans_b => |rank: usize| rank - 1,
            Op::MatMul(_) => |rank: usize| rank - 2,
            _ => continue,
        };
        let Some(w) = n.input(1) else { continue };
        let Some(t) = g.constant(w).filter(|t| t.dtype().is_float() && t.shape().len() >= 2) else {
            continue;
        };
        if !excluded(g, n, o) && !out.iter().any(|p| p.1 == w) {
            out.push((label(g, id), w, axis(t.shape().len())));
        }
    }
    out
}

pub(super) fn prune(g: &Graph, o: &PruneOptions) -> Result<Pruned, PruneError> {
    let mut constants = BTreeMap::new();
    let mut entries = vec![];
    for (name, w, axis) in products(g, o) {
        let Some(t) = g.constant(w) else { continue };
        let mut v = t.to_f64_vec()?;
        match o.pattern {
            Pattern::TwoOfFour => two_of_four(&mut v, t.shape(), axis),
            _ => smallest(&mut v, o.ratio),
        }
        let after = v.iter().filter(|x| **x != 0.0).count();
        let what = Pruning::Weights;
        entries.push(PruneEntry { what, nodes: vec![name], before: v.len(), after, kept: None });
        constants.insert(w, Tensor::from_f64s(t.dtype(), t.shape(), v)?);
    }
    let graph = rebuilt(g, &Changes { constants, ..Changes::default() })?;
    Ok(Pruned { graph, entries })
}

/// Sets this part of the numbers to zero, those of the least magnitude; of equal ones the first.
fn smallest(v: &mut [f64], ratio: f64) {
    let count = (ratio * v.len() as f64).floor() as usize;
    let mut order: Vec<usize> = (0..v.len()).collect();
    order.sort_by(|a, b| v[*a].abs().total_cmp(&v[*b].abs()).then(a.cmp(b)));
    for i in &order[..count] {
        v[*i] = 0.0;
    }
}

/// Of every four numbers along an axis the two of the least magnitude; what is left over at its end stays.
fn two_of_four(v: &mut [f64], shape: &[usize], axis: usize) {
    let inner: usize = shape[axis + 1..].iter().product();
    let (n, outer) = (shape[axis], shape[..axis].iter().product::<usize>());
    for row in 0..outer {
        for column in 0..inner {
            for block in 0..n / 4 {
                let at = |i: usize| (row * n + block * 4 + i) * inner + column;
                let mut order = [0, 1, 2, 3];
                order.sort_by(|a, b| v[at(*a)].abs().total_cmp(&v[at(*b)].abs()).then(a.cmp(b)));
                for i in &order[..2] {
                    v[at(*i)] = 0.0;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_go_first() {
        let mut v = [3.0, -1.0, 0.5, -4.0, 1.0];
        smallest(&mut v, 0.5);
        assert_eq!(v, [3.0, 0.0, 0.0, -4.0, 1.0]);
        let mut v = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, -9.0, 0.0, 1.0, 2.0];
        two_of_four(&mut v, &[6, 2], 0);
        assert_eq!(v, [0.0, 0.0, 0.0, 0.0, 5.0, 6.0, 7.0, 8.0, -9.0, 0.0, 1.0, 2.0]);
        let mut v = [1.0, -2.0, 3.0, -4.0, 5.0];
        two_of_four(&mut v, &[1, 5], 1);
        assert_eq!(v, [0.0, 0.0, 3.0, -4.0, 5.0]);
    }
}
