use crate::{
    fuse::joins_weights,
    pass::Numerics,
    pattern::{byte_len, tensor},
    rule::{Outcome, Rule, RuleCx},
};
use tensormill_ir::{
    Expr, Graph, Node, NodeId, OpKind, Patch, TensorType, ValueId,
    ops::{MatMul, Op},
};
use tensormill_reference::{EvalLimits, eval};
use tensormill_tensor::{Tensor, Value};

/// Constants up to this size are worth having whatever they grow from.
const SMALL: usize = 4096;
/// Multiplications that folding one node may take.
const MAX_WORK: usize = 1 << 27;
/// Loop iterations that folding one node may take.
const MAX_TRIPS: u64 = 10_000;

/// Computes what depends on constants alone, and integer tensors whose elements inference knows.
#[derive(Debug)]
pub struct Fold;

impl Rule for Fold {
    fn name(&self) -> &'static str {
        "fold"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn roots(&self) -> &'static [OpKind] {
        OpKind::ALL
    }

    fn apply(&self, g: &Graph, at: NodeId, cx: &RuleCx<'_>) -> Outcome {
        if keeps_integers(g, g.node(at)) {
            return Outcome::Declined("integers wait for products that take them as they are");
        }
        if joins_weights(g, g.node(at)) {
            return Outcome::Declined("a product packs the weights side by side");
        }
        fold_node(g, at, cx)
    }
}

/// Whether a node makes real numbers of constant integers of a byte or less: a quarter of the bytes, that
/// products may read as they are.
pub(crate) fn keeps_integers(g: &Graph, node: &Node) -> bool {
    matches!(node.op, Op::DequantizeLinear(_))
        && node
            .input(0)
            .and_then(|x| g.constant(x))
            .is_some_and(|t| t.dtype().is_int() && t.dtype().bits() <= 8)
}

/// Computes a node that depends on constants alone.
pub(crate) fn fold_node(g: &Graph, at: NodeId, cx: &RuleCx<'_>) -> Outcome {
    let node = g.node(at);
    if matches!(node.op, Op::Const(_)) || node.op.is_random() {
        return Outcome::NoMatch;
    }
    if let Some(tensors) = node.outputs.iter().map(|v| known_elements(g, *v)).collect::<Option<Vec<_>>>() {
        return replace(node, tensors);
    }
    let Some(operands) = constants(g, node) else { return Outcome::NoMatch };
    if swaps_for_products(g, node) {
        return Outcome::Declined("the products that read it transpose by themselves");
    }
    let before: usize = private_bytes(g, node, cx);
    let mut after = 0;
    for v in &node.outputs {
        let Some(bytes) = tensor(g, *v).and_then(byte_len) else {
            return Outcome::Declined("its size is not known before it is computed");
        };
        after += bytes;
    }
    let growth = after.saturating_sub(before);
    if after > cx.options.fold_bytes {
        return Outcome::Declined("the constant would exceed the bytes of one fold");
    }
    if growth > SMALL && !cx.may_grow(growth) {
        return Outcome::Declined("the constants would grow past their budget");
    }
    if work(g, node, &operands) > MAX_WORK {
        return Outcome::Declined("computing it here would take too long");
    }
    let limits =
        EvalLimits { max_elements: after.saturating_mul(8).max(64), max_trips: MAX_TRIPS, cancel: None };
    let refs: Vec<Option<&Value>> = operands.iter().map(Option::as_ref).collect();
    // What fails here fails in a run too, if a run ever gets there.
    let Ok(results) = eval(&node.op, &refs, &limits) else {
        return Outcome::Declined("it cannot be computed");
    };
    let Some(tensors) = results.into_iter().map(|v| v.into_tensor().ok()).collect::<Option<Vec<_>>>() else {
        return Outcome::Declined("its result is not a tensor");
    };
    cx.grow(growth);
    replace(node, tensors)
}

fn replace(node: &Node, tensors: Vec<Tensor>) -> Outcome {
    let mut p = Patch::new();
    for (v, t) in node.outputs.iter().zip(tensors) {
        let c = p.constant(t);
        p.replace(*v, c);
    }
    p.origin(node.origin.clone());
    Outcome::Rewrite(p)
}

/// The tensor of a value whose elements are all known numbers.
fn known_elements(g: &Graph, v: ValueId) -> Option<Tensor> {
    let info = g.value(v);
    let ints: Vec<i64> = info.elements.as_ref()?.iter().map(Expr::as_const).collect::<Option<_>>()?;
    let TensorType { dtype, .. } = info.ty.as_tensor()?;
    let shape = info.ty.as_tensor()?.static_shape()?;
    if !dtype.is_int() && *dtype != tensormill_tensor::DType::Bool {
        return None;
    }
    let t = Tensor::from_i64s(*dtype, shape, ints.iter().copied()).ok()?;
    // Elements beyond the dtype's range wrap at run time; here they must be what was known.
    (t.to_i64_vec().ok()? == ints).then_some(t)
}

/// The operands when all are constants; a node without operands computes nothing from constants.
fn constants(g: &Graph, node: &Node) -> Option<Vec<Option<Value>>> {
    node.inputs
        .iter()
        .map(|v| match v {
            None => Some(None),
            Some(v) => g.constant(*v).map(|t| Some(Value::Tensor(t.clone()))),
        })
        .collect()
}

/// Bytes of the constants that only this node reads: they go when it does.
fn private_bytes(g: &Graph, node: &Node, cx: &RuleCx<'_>) -> usize {
    node.inputs
        .iter()
        .flatten()
        .filter(|v| cx.is_private(g, **v))
        .filter_map(|v| g.constant(*v).map(Tensor::byte_len))
        .sum()
}

/// Whether the node swaps the last two axes for products only, which read their operands either way.
fn swaps_for_products(g: &Graph, node: &Node) -> bool {
    let Op::Transpose(t) = &node.op else { return false };
    let rank = node.input(0).and_then(|x| tensor(g, x)?.rank());
    let users = g.value(node.output()).users();
    rank.is_some_and(|r| super::transpose::swaps_last_two(&t.perm, r))
        && !users.is_empty()
        && users.iter().all(|u| {
            let user = g.node(*u);
            matches!(user.op, Op::MatMul(_)) && !user.inputs[2..].contains(&Some(node.output()))
        })
}

/// An upper bound, roughly, of the multiplications.
fn work(g: &Graph, node: &Node, operands: &[Option<Value>]) -> usize {
    let len = |i: usize| match operands.get(i) {
        Some(Some(Value::Tensor(t))) => t.len(),
        _ => 0,
    };
    let results = node
        .outputs
        .iter()
        .filter_map(|v| tensor(g, *v)?.static_shape()?.checked_numel())
        .fold(0, usize::saturating_add);
    match &node.op {
        Op::MatMul(MatMul { trans_a, .. }) => {
            let inner = node.input(0).and_then(|a| {
                let shape = tensor(g, a)?.static_shape()?;
                let at = if *trans_a { shape.rank().checked_sub(2)? } else { shape.rank().checked_sub(1)? };
                shape.get(at).copied()
            });
            results.saturating_mul(inner.unwrap_or(usize::MAX))
        }
        op if is_linear(op.kind()) => (0..operands.len()).map(len).fold(results, usize::saturating_add),
        // Every element of the result may see every element of the second operand: convolutions, gathers.
        _ => results.max(1).saturating_mul(len(1).max(1)).saturating_add(len(0)),
    }
}

/// Whether the op looks at each element a small number of times.
fn is_linear(kind: OpKind) -> bool {
    use OpKind::*;
    matches!(
        kind,
        Unary
            | Binary
            | Reduce
            | Where
            | Clip
            | Cast
            | BitCast
            | ShapeOf
            | SizeOf
            | Reshape
            | Flatten
            | Squeeze
            | Unsqueeze
            | Transpose
            | Expand
            | Tile
            | Range
            | Concat
            | Split
            | Slice
            | ArgReduce
            | QuantizeLinear
            | DequantizeLinear
    )
}
