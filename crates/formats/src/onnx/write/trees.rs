//! Decision trees and tables of domain `ai.onnx.ml`, whose operands are attributes there.

use super::{
    error::{Result, refuse},
    node::{NodeCx, made},
};
use tensormill_ir::ops::{TreeAggregate, TreeEnsemble};
use tensormill_tensor::Tensor;

/// The version of the operators that both are written in.
const VERSION: i64 = 5;

fn constant<'g>(cx: &NodeCx<'_, '_, 'g>, i: usize) -> Result<&'g Tensor> {
    cx.constant(i).map_or_else(|| refuse(format!("operand {i} is computed, and an attribute in ONNX")), Ok)
}

fn ints(cx: &NodeCx<'_, '_, '_>, i: usize) -> Result<Vec<i64>> {
    constant(cx, i)?.to_i64_vec().or_else(|e| refuse(e.to_string()))
}

pub(super) fn lookup(cx: &mut NodeCx<'_, '_, '_>) -> Result<()> {
    let (keys, values, default) = (constant(cx, 1)?, constant(cx, 2)?, constant(cx, 3)?);
    let default = made(default.reshape([1]))?;
    let (x, y) = (cx.input(0), cx.output(0));
    let made = cx.add_ml("LabelEncoder", VERSION, vec![x], vec![y]).tensor("keys_tensor", keys)?;
    made.tensor("values_tensor", values)?.tensor("default_tensor", &default)?;
    Ok(())
}

pub(super) fn tree_ensemble(cx: &mut NodeCx<'_, '_, '_>, op: &TreeEnsemble) -> Result<()> {
    let (roots, table, modes) = (ints(cx, 1)?, ints(cx, 2)?, ints(cx, 3)?);
    let (splits, leaves, targets, votes) = (constant(cx, 4)?, ints(cx, 5)?, ints(cx, 6)?, constant(cx, 7)?);
    // There a leaf is one vote.
    if leaves.iter().enumerate().any(|(i, l)| *l != i as i64) {
        return refuse("a leaf with several votes");
    }
    if roots.iter().any(|r| *r < 0) {
        return refuse("a tree that is a leaf");
    }
    let rows: Vec<&[i64]> = table.chunks_exact(3).collect();
    let column = |i: usize| rows.iter().map(|r| r[i]).collect::<Vec<_>>();
    let to = |v: Vec<i64>| -> (Vec<i64>, Vec<i64>) {
        v.into_iter().map(|i| if i < 0 { (-1 - i, 1) } else { (i, 0) }).unzip()
    };
    let ((yes, yes_leaf), (no, no_leaf)) = (to(column(1)), to(column(2)));
    let mode: Vec<u8> = modes.iter().map(|m| (m & 7) as u8).collect();
    let track: Vec<i64> = modes.iter().map(|m| i64::from(m & 8 != 0)).collect();
    let aggregate = match op.aggregate {
        TreeAggregate::Average => 0,
        TreeAggregate::Sum => 1,
        TreeAggregate::Min => 2,
        TreeAggregate::Max => 3,
    };
    let sets = if cx.node.input(8).is_some() { Some(members(cx)?) } else { None };
    let mode = made(Tensor::from_vec([mode.len()], mode))?;
    let (x, y) = (cx.input(0), cx.output(0));
    let made = cx
        .add_ml("TreeEnsemble", VERSION, vec![x], vec![y])
        .size("n_targets", op.targets)
        .int("aggregate_function", aggregate)
        .int("post_transform", 0)
        .ints("tree_roots", &roots)
        .ints("nodes_featureids", &column(0))
        .tensor("nodes_modes", &mode)?
        .tensor("nodes_splits", splits)?
        .ints("nodes_truenodeids", &yes)
        .ints("nodes_trueleafs", &yes_leaf)
        .ints("nodes_falsenodeids", &no)
        .ints("nodes_falseleafs", &no_leaf)
        .ints("nodes_missing_value_tracks_true", &track)
        .ints("leaf_targetids", &targets)
        .tensor("leaf_weights", votes)?;
    if let Some(sets) = sets {
        made.tensor("membership_values", &sets)?;
    }
    Ok(())
}

/// The sets of nodes that test membership, in their order, with NaN behind each.
fn members(cx: &NodeCx<'_, '_, '_>) -> Result<Tensor> {
    let (modes, starts, t) = (ints(cx, 3)?, ints(cx, 8)?, constant(cx, 9)?);
    let all = t.to_f64_vec().or_else(|e| refuse(e.to_string()))?;
    let mut out = vec![];
    for (i, m) in modes.iter().enumerate() {
        if m & 7 == 6 {
            let at = |i: usize| starts.get(i).and_then(|s| usize::try_from(*s).ok());
            match at(i).zip(at(i + 1)).and_then(|(a, b)| all.get(a..b)) {
                Some(set) => out.extend_from_slice(set),
                None => return refuse("a set lies outside of the members"),
            }
            out.push(f64::NAN);
        }
    }
    made(Tensor::from_f64s(t.dtype(), [out.len()], out))
}
