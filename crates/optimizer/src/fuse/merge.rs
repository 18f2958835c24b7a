//! Products of one left operand with several weights, as one product.

use crate::{
    pass::Numerics,
    pattern::{binary, dims, dtype, find},
    rule::{Outcome, Rule, RuleCx},
    simplify::fold_node,
};
use tensormill_ir::{
    Dim, Graph, New, Node, NodeId, OpKind, Patch, ValueId,
    ops::{AttentionScores, Binary, BinaryKind, Concat, MatMul, Op, PostOp, PostOps, Split},
};
use tensormill_tensor::{DType, Tensor};

/// Makes one product of those that give an attention's queries, keys and values, where they have the same left
/// operand: one walk over its rows, and threads that meet once. The weights lie side by side, which backends
/// see to when they pack them, and the attention reads the parts of each row where they are.
#[derive(Debug)]
pub struct MergeProjections;

/// Undoes [`MergeProjections`]: to prune heads or to quantize, each product is one of its own.
#[derive(Debug)]
pub struct PartProjections;

/// Puts together weights that [`MergeProjections`] left apart, for what looks for constants.
#[derive(Debug)]
pub struct JoinWeights;

/// Numbers of a matrix that are looked at to see whether it has zeros: a page of the file.
const PROBED: usize = 1024;

/// A product of constant weights, and a bias if it has one.
struct Projection<'a> {
    x: ValueId,
    /// The result.
    y: ValueId,
    weights: &'a Tensor,
    w: ValueId,
    trans_b: bool,
    columns: usize,
    bias: Option<&'a Tensor>,
}

/// The projection that computes a value. An error says why a product by weights is none.
fn projection(g: &Graph, y: ValueId) -> Option<Result<Projection<'_>, &'static str>> {
    let (_, n) = g.producer(y)?;
    let Op::MatMul(MatMul { trans_a: false, trans_b, epilogue }) = &n.op else { return None };
    let (x, w) = (n.input(0)?, n.input(1)?);
    let weights = g.constant(w)?;
    let [rows, columns] = weights.shape()[..] else { return None };
    let columns = if *trans_b { rows } else { columns };
    if dtype(g, x)? != DType::F32 {
        return Some(Err("the weights are not f32"));
    }
    let bias = match epilogue.0[..] {
        [] => None,
        [PostOp::Binary { kind: BinaryKind::Add, operand, .. }] => {
            let t = n.input(operand).and_then(|b| g.constant(b));
            match t.filter(|t| {
                t.dtype() == DType::F32 && t.len() == columns && t.shape().last() == Some(&columns)
            }) {
                None => return Some(Err("what is added to a product is no bias")),
                t => t,
            }
        }
        _ => return Some(Err("other steps follow a product")),
    };
    Some(Ok(Projection { x, y, weights, w, trans_b: *trans_b, columns, bias }))
}

/// Whether so many weights are zero that backends may leave them out, each matrix by itself.
fn has_zeros(t: &Tensor) -> bool {
    let first = t.bytes().as_chunks::<4>().0;
    let first = &first[..PROBED.min(first.len())];
    let zeros = first.iter().filter(|b| f32::from_le_bytes(**b) == 0.0).count();
    // Pages around it came with it.
    t.release();
    5 * zeros > 2 * first.len()
}

/// The biases of all columns, if there are any. What is added where there is none changes no number, not even
/// the sign of a zero.
fn biases(all: &[Projection<'_>]) -> Option<Option<Tensor>> {
    if all.iter().all(|p| p.bias.is_none()) {
        return Some(None);
    }
    let mut out = vec![];
    for p in all {
        match p.bias {
            None => out.resize(out.len() + p.columns, -0.0f32),
            Some(t) => out.extend_from_slice(&t.to_slice::<f32>().ok()?),
        }
    }
    Tensor::from_vec([out.len()], out).ok().map(Some)
}

impl Rule for MergeProjections {
    fn name(&self) -> &'static str {
        "merge_projections"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Attention]
    }

    fn apply(&self, g: &Graph, at: NodeId, cx: &RuleCx<'_>) -> Outcome {
        let node = g.node(at);
        let Op::Attention(op) = &node.op else { return Outcome::NoMatch };
        let found: Vec<_> = (0..3).filter_map(|i| projection(g, node.input(i)?)).collect();
        if found.len() < 2 {
            return Outcome::NoMatch;
        }
        let all = match found.into_iter().collect::<Result<Vec<_>, _>>() {
            Ok(all) => all,
            Err(why) => return Outcome::Declined(why),
        };
        // Of cross attention, keys and values.
        let shared = |x: ValueId| all.iter().filter(|p| p.x == x).count();
        let x = find!(all.iter().map(|p| p.x).max_by_key(|&x| shared(x)));
        let all: Vec<Projection<'_>> = all.into_iter().filter(|p| p.x == x).collect();
        if all.len() < 2 {
            return Outcome::Declined("the products have different left operands");
        }
        let past = node.inputs.iter().skip(4).any(Option::is_some);
        if op.present || op.scores != AttentionScores::None || past {
            return Outcome::Declined(
                "the attention keeps its keys, which would be copied out of the product",
            );
        }
        if all.iter().any(|p| p.trans_b != all[0].trans_b) {
            return Outcome::Declined("the weights lie in different ways");
        }
        if !all.iter().all(|p| cx.is_private(g, p.y) && cx.is_private(g, p.w)) {
            return Outcome::Declined("a product or its weights have other readers");
        }
        if !dims(g, x).is_some_and(|d| d.len() == 3 && d.iter().all(|d| !matches!(d, Dim::Unknown))) {
            return Outcome::Declined("the rows are counted during the run");
        }
        if all.iter().any(|p| has_zeros(p.weights)) {
            return Outcome::Declined("weights of zeros may be left out one by one");
        }
        let bias = find!(biases(&all));
        let mut p = Patch::new();
        let weights: Vec<New> = all.iter().map(|p| p.w.into()).collect();
        let w = p.op(Concat { axis: if all[0].trans_b { 0 } else { 1 } }, &weights);
        let mut inputs = vec![x.into(), w];
        let mut epilogue = PostOps::default();
        if let Some(bias) = bias {
            inputs.push(p.constant(bias));
            epilogue.0.push(PostOp::Binary { kind: BinaryKind::Add, operand: 2, swapped: false });
        }
        let product = p.op(MatMul { trans_a: false, trans_b: all[0].trans_b, epilogue }, &inputs);
        let widths: Vec<i64> = all.iter().map(|p| p.columns as i64).collect();
        let widths = p.constant(find!(Tensor::from_vec([widths.len()], widths).ok()));
        let parts = p.op(Split { axis: -1, outputs: all.len() }, &[product, widths]);
        p.origin(find!(g.producer(all[0].y)).1.origin.clone());
        for (i, projection) in all.iter().enumerate() {
            p.replace(projection.y, parts.sibling(i));
        }
        Outcome::Rewrite(p)
    }
}

/// Whether a node puts the weights of merged projections side by side: a product that is split reads them, maybe
/// with a bias between. Backends pack the parts; as one constant they would be in memory once more.
pub(crate) fn joins_weights(g: &Graph, node: &Node) -> bool {
    let Op::Concat(_) = node.op else { return false };
    let sole = |v: ValueId| match *g.value(v).users() {
        [user] => Some(g.node(user)),
        _ => None,
    };
    let matrix = |v: &Option<ValueId>| {
        let t = v.and_then(|v| g.constant(v));
        t.is_some_and(|t| t.dtype() == DType::F32 && t.shape().rank() == 2)
    };
    let split = |v: ValueId| {
        let user = sole(v)?;
        Some(match user.op {
            Op::Binary(Binary { kind: BinaryKind::Add }) => {
                user.inputs.iter().flatten().any(|b| g.constant(*b).is_some())
                    && matches!(sole(user.output())?.op, Op::Split(_))
            }
            _ => matches!(user.op, Op::Split(_)),
        })
    };
    node.inputs.iter().all(matrix)
        && sole(node.output()).is_some_and(|user| {
            matches!(user.op, Op::MatMul(MatMul { trans_a: false, .. }))
                && user.input(1) == Some(node.output())
                && split(user.output()) == Some(true)
        })
}

/// The parts of a bias for products of so many columns; none for one that changes no number.
fn parts(bias: &Tensor, columns: &[usize]) -> Option<Vec<Option<Tensor>>> {
    let all = bias.to_slice::<f32>().ok()?;
    let mut rest = &all[..];
    let mut out = vec![];
    for &n in columns {
        let (own, after) = rest.split_at_checked(n)?;
        rest = after;
        let none = own.iter().all(|x| x.to_bits() == (-0.0f32).to_bits());
        out.push(if none { None } else { Some(Tensor::from_vec([n], own.to_vec()).ok()?) });
    }
    rest.is_empty().then_some(out)
}

impl Rule for PartProjections {
    fn name(&self) -> &'static str {
        "part_projections"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Split]
    }

    fn apply(&self, g: &Graph, at: NodeId, _: &RuleCx<'_>) -> Outcome {
        let node = g.node(at);
        let whole = find!(node.input(0));
        // In a file, the bias is a step of its own.
        let added = binary(g, whole, BinaryKind::Add).and_then(|(a, b)| {
            let (y, bias) = if g.constant(b).is_some() { (a, b) } else { (b, a) };
            Some((y, g.constant(bias)?))
        });
        let (_, product) = find!(g.producer(added.map_or(whole, |a| a.0)));
        let Op::MatMul(MatMul { trans_b, epilogue, .. }) = &product.op else { return Outcome::NoMatch };
        let (x, w) = (find!(product.input(0)), find!(product.input(1)));
        let (_, beside) = find!(g.producer(w).filter(|(_, n)| joins_weights(g, n)));
        let weights: Vec<ValueId> = beside.inputs.iter().flatten().copied().collect();
        let axis = if *trans_b { 0 } else { 1 };
        let columns: Vec<usize> =
            find!(weights.iter().map(|&w| Some(g.constant(w)?.shape()[axis])).collect());
        let widths = node.outputs.iter().map(|&v| dims(g, v)?.last()?.known());
        if widths.collect::<Option<Vec<_>>>().as_ref() != Some(&columns) {
            return Outcome::Declined("the parts are not those of the weights");
        }
        let vector = |t: &&Tensor| t.dtype() == DType::F32 && t.shape().last() == Some(&t.len());
        let bias = match (&epilogue.0[..], added) {
            ([], added) => Some(added.map(|a| a.1)),
            ([PostOp::Binary { kind: BinaryKind::Add, operand, .. }], None) => {
                product.input(*operand).and_then(|b| g.constant(b)).map(Some)
            }
            _ => None,
        };
        let biases = bias.and_then(|bias| match bias {
            None => Some(vec![None; columns.len()]),
            Some(t) => parts(Some(t).filter(vector)?, &columns),
        });
        let Some(biases) = biases else {
            return Outcome::Declined("more than a bias follows the product");
        };
        let mut p = Patch::new();
        for ((&v, w), bias) in node.outputs.iter().zip(weights).zip(biases) {
            let mut op = MatMul { trans_b: *trans_b, ..MatMul::default() };
            let mut inputs = vec![x.into(), w.into()];
            let bias = bias.map(|t| p.constant(t));
            if let (Some(bias), None) = (bias, added) {
                inputs.push(bias);
                op.epilogue.0.push(PostOp::Binary { kind: BinaryKind::Add, operand: 2, swapped: false });
            }
            let mut new = p.op(op, &inputs);
            if let (Some(bias), Some(_)) = (bias, added) {
                new = p.op(Binary { kind: BinaryKind::Add }, &[new, bias]);
            }
            p.replace(v, new);
        }
        p.origin(product.origin.clone());
        Outcome::Rewrite(p)
    }
}

impl Rule for JoinWeights {
    fn name(&self) -> &'static str {
        "join_weights"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Concat]
    }

    fn apply(&self, g: &Graph, at: NodeId, cx: &RuleCx<'_>) -> Outcome {
        if joins_weights(g, g.node(at)) { fold_node(g, at, cx) } else { Outcome::NoMatch }
    }
}
