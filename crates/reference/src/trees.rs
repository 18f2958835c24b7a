//! Decision trees, and tables.

use crate::{
    EvalError,
    data::{Wide, i64s, take},
    error::refuse,
    eval::Operands,
};
use std::collections::HashMap;
use tensormill_ir::ops::{TreeAggregate, TreeEnsemble};
use tensormill_tensor::{DType, Shape, Tensor};

type Result<T> = std::result::Result<T, EvalError>;

/// Numbers of any real dtype.
fn numbers(t: &Tensor) -> Result<Vec<f64>> {
    Ok(match Wide::of(t)? {
        Wide::Float(v) => v,
        Wide::Int(v) => v.into_iter().map(|v| v as f64).collect(),
    })
}

/// Where a root or a branch leads.
#[derive(Clone, Copy)]
enum Step {
    Node(usize),
    Leaf(usize),
}

struct Forest {
    roots: Vec<Step>,
    /// Feature, and the steps when the comparison holds and when not.
    nodes: Vec<(usize, Step, Step)>,
    modes: Vec<u8>,
    splits: Vec<f64>,
    leaves: Vec<usize>,
    votes: Vec<(usize, f64)>,
    sets: Vec<usize>,
    members: Vec<f64>,
}

/// Offsets that begin at 0, never fall, and end at `end`.
fn offsets(t: &Tensor, count: usize, end: usize) -> Result<Vec<usize>> {
    let given: Option<Vec<usize>> = i64s(t)?.into_iter().map(|v| usize::try_from(v).ok()).collect();
    match given {
        Some(v) if v.len() == count && v.is_sorted() && v.first() == Some(&0) && v.last() == Some(&end) => {
            Ok(v)
        }
        _ => refuse("offsets do not cover what they divide"),
    }
}

impl Forest {
    fn read(op: &TreeEnsemble, x: &Operands<'_>, features: usize) -> Result<Forest> {
        let modes: Vec<u8> = x.tensor(3)?.to_i64_vec()?.into_iter().map(|m| m as u8).collect();
        let n = modes.len();
        let Some(leaves) = x.tensor(5)?.len().checked_sub(1) else { return refuse("leaves have no end") };
        let step = |v: i64| -> Result<Step> {
            let at = usize::try_from(if v < 0 { -(v + 1) } else { v }).unwrap_or(usize::MAX);
            match v < 0 {
                true if at < leaves => Ok(Step::Leaf(at)),
                false if at < n => Ok(Step::Node(at)),
                _ => refuse(format!("a branch leads to {v}, which is not there")),
            }
        };
        let table = i64s(x.tensor(2)?)?;
        let splits = x.tensor(4)?.to_f64_vec()?;
        if table.len() != 3 * n || splits.len() != n {
            return refuse("nodes, comparisons and splits must be as many");
        }
        let mut nodes = Vec::with_capacity(n);
        for row in table.chunks_exact(3) {
            let Some(feature) = usize::try_from(row[0]).ok().filter(|f| *f < features) else {
                return refuse(format!("feature {} is not one of {features}", row[0]));
            };
            nodes.push((feature, step(row[1])?, step(row[2])?));
        }
        let (targets, values) = (i64s(x.tensor(6)?)?, x.tensor(7)?.to_f64_vec()?);
        if targets.len() != values.len() {
            return refuse("targets and values of votes must be as many");
        }
        let mut votes = Vec::with_capacity(values.len());
        for (t, v) in targets.into_iter().zip(values) {
            match usize::try_from(t).ok().filter(|t| *t < op.targets) {
                Some(t) => votes.push((t, v)),
                None => return refuse(format!("target {t} is not one of {}", op.targets)),
            }
        }
        let members = x.opt_tensor(9)?.map(Tensor::to_f64_vec).transpose()?.unwrap_or_default();
        let sets = match x.opt_tensor(8)? {
            Some(t) => offsets(t, n + 1, members.len())?,
            None => vec![0; n + 1],
        };
        if modes.iter().any(|m| m & !8 > 6) {
            return refuse("a comparison that does not exist");
        }
        Ok(Forest {
            roots: i64s(x.tensor(1)?)?.into_iter().map(step).collect::<Result<_>>()?,
            leaves: offsets(x.tensor(5)?, leaves + 1, votes.len())?,
            nodes,
            modes,
            splits,
            votes,
            sets,
            members,
        })
    }

    fn holds(&self, node: usize, x: f64) -> bool {
        let (mode, split) = (self.modes[node], self.splits[node]);
        if x.is_nan() {
            return mode & 8 != 0;
        }
        match mode & 7 {
            0 => x <= split,
            1 => x < split,
            2 => x >= split,
            3 => x > split,
            4 => x == split,
            5 => x != split,
            _ => self.members[self.sets[node]..self.sets[node + 1]].contains(&x),
        }
    }

    /// The leaf that a row reaches from a root.
    fn leaf(&self, root: Step, row: &[f64]) -> Result<usize> {
        let mut at = root;
        // No path without a cycle is longer than there are nodes.
        for _ in 0..=self.nodes.len() {
            match at {
                Step::Leaf(leaf) => return Ok(leaf),
                Step::Node(node) => {
                    let (feature, yes, no) = self.nodes[node];
                    at = if self.holds(node, row[feature]) { yes } else { no };
                }
            }
        }
        refuse("a tree leads back to one of its own nodes")
    }
}

pub(crate) fn trees(op: &TreeEnsemble, x: &Operands<'_>) -> Result<Tensor> {
    let t = x.tensor(0)?;
    let [rows, features] = **t.shape() else { return refuse("x must have rank 2") };
    let shape = Shape::from([rows, op.targets]);
    x.limits.check(&shape)?;
    let forest = Forest::read(op, x, features)?;
    let v = numbers(t)?;
    let mut y = vec![0.0; shape.numel()];
    for row in 0..rows {
        let out = &mut y[row * op.targets..][..op.targets];
        let mut voted = vec![false; op.targets];
        for root in &forest.roots {
            let leaf = forest.leaf(*root, &v[row * features..][..features])?;
            for &(target, value) in &forest.votes[forest.leaves[leaf]..forest.leaves[leaf + 1]] {
                let y = &mut out[target];
                *y = match op.aggregate {
                    TreeAggregate::Min if voted[target] => f64::min(*y, value),
                    TreeAggregate::Max if voted[target] => f64::max(*y, value),
                    TreeAggregate::Min | TreeAggregate::Max => value,
                    TreeAggregate::Sum | TreeAggregate::Average => *y + value,
                };
                voted[target] = true;
            }
        }
        if op.aggregate == TreeAggregate::Average && !forest.roots.is_empty() {
            out.iter_mut().for_each(|y| *y /= forest.roots.len() as f64);
        }
    }
    Ok(Tensor::from_f64s(x.tensor(7)?.dtype(), shape, y)?)
}

/// For every element the index of the last equal key, or that of the default after them.
fn positions<T: std::hash::Hash + Eq>(keys: Vec<T>, of: Vec<T>) -> Vec<usize> {
    let n = keys.len();
    let known: HashMap<T, usize> = keys.into_iter().enumerate().map(|(i, k)| (k, i)).collect();
    of.iter().map(|v| known.get(v).copied().unwrap_or(n)).collect()
}

/// Bits that are equal exactly for floats that count as equal here.
fn key_bits(v: Vec<f64>) -> Vec<u64> {
    let bits = |v: f64| if v.is_nan() { f64::NAN.to_bits() } else { (v + 0.0).to_bits() };
    v.into_iter().map(bits).collect()
}

pub(crate) fn lookup(x: &Operands<'_>) -> Result<Tensor> {
    let (t, keys, values, default) = (x.tensor(0)?, x.tensor(1)?, x.tensor(2)?, x.tensor(3)?);
    if keys.len() != values.len() || default.len() != 1 || default.dtype() != values.dtype() {
        return refuse("there must be one value per key, and one for what is no key");
    }
    let at = if t.dtype() == DType::Str {
        positions(keys.strings()?.to_vec(), t.strings()?.to_vec())
    } else {
        match (Wide::of(keys)?, Wide::of(t)?) {
            (Wide::Int(k), Wide::Int(v)) => positions(k, v),
            (Wide::Float(k), Wide::Float(v)) => positions(key_bits(k), key_bits(v)),
            _ => return refuse("keys must be of x's dtype"),
        }
    };
    // The default stands after the values, so that every element is one taken by its index.
    let known = values.len();
    if known == 0 {
        return take(default, t.shape().clone(), &vec![0; t.len()]);
    }
    let found = take(values, t.shape().clone(), &at.iter().map(|i| (*i).min(known - 1)).collect::<Vec<_>>())?;
    if at.iter().all(|i| *i < known) {
        return Ok(found);
    }
    if values.dtype() == DType::Str {
        let (v, d) = (found.strings()?, &default.strings()?[0]);
        let mixed = at.iter().zip(v).map(|(i, v)| if *i < known { v.clone() } else { d.clone() }).collect();
        return Ok(Tensor::from_strings(t.shape().clone(), mixed)?);
    }
    let Some(size) = values.dtype().size() else {
        return Err(EvalError::Unsupported(format!("a table of {}", values.dtype())));
    };
    let mut bytes = found.bytes().to_vec();
    for (i, slot) in at.iter().zip(bytes.chunks_exact_mut(size)) {
        if *i == known {
            slot.copy_from_slice(default.bytes());
        }
    }
    Ok(Tensor::from_bytes(values.dtype(), t.shape().clone(), bytes.into())?)
}

#[cfg(test)]
mod tests {
    use crate::{EvalLimits, eval};
    use tensormill_ir::ops::{Lookup, Op, TreeEnsemble};
    use tensormill_tensor::{Tensor, Value};

    fn ints(v: &[i64]) -> Value {
        Tensor::from_vec([v.len()], v.to_vec()).unwrap().into()
    }

    fn floats(v: &[f32]) -> Value {
        Tensor::from_vec([v.len()], v.to_vec()).unwrap().into()
    }

    /// One tree over one feature; leaf `i` votes `10^i`.
    fn run(x: &[f32], nodes: &[[i64; 3]], modes: &[u8], splits: &[f32]) -> Result<Vec<f64>, String> {
        let operands: Vec<Value> = vec![
            Tensor::from_vec([x.len(), 1], x.to_vec()).unwrap().into(),
            ints(&[0]),
            Tensor::from_vec([nodes.len(), 3], nodes.concat()).unwrap().into(),
            Tensor::from_vec([modes.len()], modes.to_vec()).unwrap().into(),
            floats(splits),
            ints(&[0, 1, 2, 3]),
            ints(&[0, 0, 0]),
            floats(&[1.0, 10.0, 100.0]),
        ];
        let operands: Vec<Option<&Value>> = operands.iter().map(Some).collect();
        let y = eval(&Op::from(TreeEnsemble::default()), &operands, &EvalLimits::default());
        let y = y.map_err(|e| e.to_string())?;
        Ok(y[0].as_tensor().unwrap().to_f64_vec().unwrap())
    }

    #[test]
    fn rows_go_where_comparisons_say() {
        let nodes = [[0, -1, 1], [0, -2, -3]];
        let x = [0.0, 1.0, 2.0, 3.0, f32::NAN];
        assert_eq!(run(&x, &nodes, &[0, 1], &[1.0, 3.0]).unwrap(), [1.0, 1.0, 10.0, 100.0, 100.0]);
        // NaN follows the branch that each node names for it.
        assert_eq!(run(&x[4..], &nodes, &[8, 1], &[1.0, 3.0]).unwrap(), [1.0]);
        assert_eq!(run(&x[4..], &nodes, &[5, 8], &[1.0, 3.0]).unwrap(), [10.0]);
    }

    #[test]
    fn broken_trees_are_refused() {
        let refused = |nodes: &[[i64; 3]], modes: &[u8], what: &str| {
            let e = run(&[0.0], nodes, modes, &vec![1.0; modes.len()]).unwrap_err();
            assert!(e.contains(what), "{e}");
        };
        refused(&[[0, 0, 0]], &[0], "leads back");
        refused(&[[0, 1, 1], [0, 0, 0]], &[0, 0], "leads back");
        refused(&[[0, 7, -1]], &[0], "leads to 7");
        refused(&[[0, -9, -1]], &[0], "leads to -9");
        refused(&[[0, i64::MIN, i64::MAX]], &[0], "leads to");
        refused(&[[1, -1, -1]], &[0], "feature 1");
        refused(&[[-1, -1, -1]], &[0], "feature -1");
        refused(&[[0, -1, -1]], &[7], "comparison");
    }

    #[test]
    fn the_last_of_equal_keys_counts_and_nan_is_a_key() {
        let operands = [
            floats(&[f32::NAN, 0.0, -0.0, 2.0]),
            floats(&[0.0, f32::NAN, 0.0]),
            ints(&[1, 2, 3]),
            Value::from(Tensor::scalar(-1i64)),
        ];
        let operands: Vec<Option<&Value>> = operands.iter().map(Some).collect();
        let y = eval(&Op::from(Lookup {}), &operands, &EvalLimits::default()).unwrap();
        assert_eq!(y[0].as_tensor().unwrap().to_i64_vec().unwrap(), [2, 3, 3, -1]);
    }
}
