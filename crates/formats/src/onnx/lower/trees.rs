//! Decision trees of domain `ai.onnx.ml`.

use super::{
    LowerError, NodeCx, Table,
    ml::{made, post_transform},
};
use tensormill_ir::ops::{TreeAggregate, TreeEnsemble};
use tensormill_tensor::Tensor;

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table = &[("TreeEnsemble", tree_ensemble)];

fn required(cx: &NodeCx<'_, '_>, name: &str) -> Result<Vec<i64>> {
    match cx.ints(name)? {
        Some(v) => Ok(v),
        None => cx.bad(name, "is missing"),
    }
}

fn tensor(cx: &NodeCx<'_, '_>, name: &str) -> Result<Tensor> {
    match cx.tensor_attribute(name)? {
        Some(t) => {
            let n = t.len();
            made(t.reshape([n]))
        }
        None => cx.bad(name, "is missing"),
    }
}

/// The comparison of a node that tests membership.
const MEMBER: i64 = 6;

fn tree_ensemble(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    // How often nodes are reached only helps to lay them out.
    cx.ignore("nodes_hitrates");
    let aggregate = match cx.int("aggregate_function", 1)? {
        0 => TreeAggregate::Average,
        1 => TreeAggregate::Sum,
        2 => TreeAggregate::Min,
        3 => TreeAggregate::Max,
        _ => return cx.bad("aggregate_function", "must be 0 to 3"),
    };
    let transform = match cx.int("post_transform", 0)? {
        0 => "NONE",
        1 => "SOFTMAX",
        2 => "LOGISTIC",
        3 => "SOFTMAX_ZERO",
        4 => "PROBIT",
        _ => return cx.bad("post_transform", "must be 0 to 4"),
    };
    let targets =
        usize::try_from(cx.int("n_targets", 1)?).or_else(|_| cx.bad("n_targets", "must not be negative"))?;
    let features = required(cx, "nodes_featureids")?;
    let n = features.len();
    let sized = |name: &str, v: Vec<i64>| {
        if v.len() == n { Ok(v) } else { cx.bad(name, format!("must have {n} elements")) }
    };
    let branch = |ids: &str, leafs: &str| -> Result<Vec<i64>> {
        let leaf = sized(leafs, required(cx, leafs)?)?;
        let ids = sized(ids, required(cx, ids)?)?;
        // Negative numbers mean leaves from here on, so none may be given.
        let at = |(id, leaf): (i64, i64)| match (id >= 0, leaf != 0) {
            (true, true) => Ok(-1 - id),
            (true, false) => Ok(id),
            (false, _) => LowerError::operand(format!("a branch leads to {id}")),
        };
        ids.into_iter().zip(leaf).map(at).collect()
    };
    let yes = branch("nodes_truenodeids", "nodes_trueleafs")?;
    let no = branch("nodes_falsenodeids", "nodes_falseleafs")?;
    let table = (0..n).flat_map(|i| [features[i], yes[i], no[i]]).collect();
    let as_ints = |t: Tensor| t.to_i64_vec().map_err(|e| LowerError::Operand(e.to_string()));
    let modes = sized("nodes_modes", as_ints(tensor(cx, "nodes_modes")?)?)?;
    let track = cx.ints("nodes_missing_value_tracks_true")?.filter(|v| !v.is_empty());
    let track = sized("nodes_missing_value_tracks_true", track.unwrap_or_else(|| vec![0; n]))?;
    if modes.iter().any(|m| !(0..=MEMBER).contains(m)) {
        return cx.bad("nodes_modes", "has a comparison that does not exist");
    }
    let modes_of = modes.iter().zip(&track).map(|(m, t)| *m as u8 | u8::from(*t != 0) << 3).collect();
    let weights = tensor(cx, "leaf_weights")?;
    let ids = required(cx, "leaf_targetids")?;
    let leaves = (0..=ids.len() as i64).collect::<Vec<_>>();
    let sets = sets(cx, &modes)?;
    let roots = required(cx, "tree_roots")?;
    if roots.iter().any(|r| *r < 0) {
        return cx.bad("tree_roots", "must not be negative");
    }
    let splits = tensor(cx, "nodes_splits")?;
    let vector = |v: Vec<i64>| made(Tensor::from_vec([v.len()], v));
    let constants = [
        vector(roots)?,
        made(Tensor::from_vec::<i64>([n, 3], table))?,
        made(Tensor::from_vec::<u8>([n], modes_of))?,
        splits,
        vector(leaves)?,
        vector(ids)?,
        weights,
    ];
    let mut operands = vec![Some(x)];
    for t in constants.into_iter().chain(sets.into_iter().flatten()) {
        operands.push(Some(cx.constant(t)?));
    }
    let y = cx.node(TreeEnsemble { targets, aggregate }, &operands)?[0];
    let y = post_transform(cx, y, transform)?;
    cx.set(0, y);
    Ok(())
}

/// Where each node's set begins, and the members of all.
fn sets(cx: &NodeCx<'_, '_>, modes: &[i64]) -> Result<Option<[Tensor; 2]>> {
    let Some(t) = cx.tensor_attribute("membership_values")? else {
        if modes.contains(&MEMBER) {
            return cx.bad("membership_values", "is missing");
        }
        return Ok(None);
    };
    let values = t.to_f64_vec().map_err(|e| LowerError::Operand(e.to_string()))?;
    // One set per such node, in their order, with NaN between and perhaps at the end.
    let mut given = values.split(|v| v.is_nan());
    let (mut starts, mut members) = (vec![0i64], vec![]);
    for mode in modes {
        if *mode == MEMBER {
            let Some(set) = given.next() else {
                return cx.bad("membership_values", "has fewer sets than there are nodes for them");
            };
            members.extend_from_slice(set);
        }
        starts.push(members.len() as i64);
    }
    if given.any(|set| !set.is_empty()) {
        return cx.bad("membership_values", "has more sets than there are nodes for them");
    }
    let starts = made(Tensor::from_vec([starts.len()], starts))?;
    Ok(Some([starts, made(Tensor::from_f64s(t.dtype(), [members.len()], members))?]))
}
