//! Attention, as exporters spell it with products and a softmax.

mod heads;
mod mask;
mod rows;

pub use heads::SharedHeads;
pub use rows::AttentionOfRows;

use crate::{
    pass::Numerics,
    pattern::{binary, dims, dtype, find, scalar, unary},
    rule::{Outcome, Rule, RuleCx},
};
use mask::Mask;
use tensormill_ir::{
    Graph, New, NodeId, OpKind, Patch, ValueId,
    ops::{Attention as AttentionOp, BinaryKind, MatMul, Op, Softmax, Transpose, UnaryKind},
};
use tensormill_tensor::DType;

/// Finds attention in two products with a softmax between them, with a scale and a mask before it. Heads of
/// keys and values that were repeated for the queries' are read as they were.
#[derive(Debug)]
pub struct Attention;

/// Heads to the front, or back behind; its own inverse.
const SWAP: [usize; 4] = [0, 2, 1, 3];

/// A plain product's operands, and whether the right one is transposed.
fn product(g: &Graph, v: ValueId) -> Option<(ValueId, ValueId, bool)> {
    let (_, n) = g.producer(v)?;
    match &n.op {
        Op::MatMul(MatMul { trans_a: false, trans_b, epilogue }) if epilogue.is_empty() => {
            Some((n.input(0)?, n.input(1)?, *trans_b))
        }
        _ => None,
    }
}

/// The `x` of `factor * x` or `x / divisor`, with the factor.
fn scaled(g: &Graph, v: ValueId) -> Option<(ValueId, f64)> {
    if let Some((a, b)) = binary(g, v, BinaryKind::Mul) {
        return [(a, b), (b, a)].into_iter().find_map(|(x, c)| Some((x, scalar(g, c)?)));
    }
    let (x, c) = binary(g, v, BinaryKind::Div)?;
    Some((x, 1.0 / scalar(g, c)?))
}

/// What a transposition turns, and how.
fn transposed(g: &Graph, v: ValueId) -> Option<(ValueId, &[usize])> {
    let (_, n) = g.producer(v)?;
    match &n.op {
        Op::Transpose(Transpose { perm }) => Some((n.input(0)?, perm)),
        _ => None,
    }
}

/// Whether the dims `a` and `b` of two values are certainly the same.
fn same(g: &Graph, a: (ValueId, usize), b: (ValueId, usize)) -> bool {
    let at = |(v, i): (ValueId, usize)| dims(g, v)?.get(i);
    at(a).zip(at(b)).is_some_and(|(a, b)| a.same(b))
}

fn rank(g: &Graph, v: ValueId) -> Option<usize> {
    Some(dims(g, v)?.len())
}

/// The `p` of `where(isnan(p), 0, p)`, by which exporters let queries that may see nothing yield zeros.
fn guarded(g: &Graph, v: ValueId) -> Option<ValueId> {
    let (_, n) = g.producer(v)?;
    let Op::Where(_) = n.op else { return None };
    let (c, zero, p) = (n.input(0)?, n.input(1)?, n.input(2)?);
    (scalar(g, zero) == Some(0.0) && unary(g, c) == Some((UnaryKind::IsNan, p))).then_some(p)
}

/// Whether only the guard reads the probabilities, and only it what it asks of them.
fn guards_alone(g: &Graph, weights: ValueId, p: ValueId, cx: &RuleCx<'_>) -> bool {
    let asked = g.producer(weights).and_then(|(_, n)| n.input(0));
    g.value(p).users().len() == 2 && !cx.is_output(p) && asked.is_some_and(|c| cx.is_private(g, c))
}

impl Rule for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Reassociates
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::MatMul]
    }

    fn apply(&self, g: &Graph, at: NodeId, cx: &RuleCx<'_>) -> Outcome {
        let node = g.node(at);
        let (weights, mut v, trans_v) = find!(product(g, node.output()));
        let guard = guarded(g, weights);
        let p = guard.unwrap_or(weights);
        let (_, softmax) = find!(g.producer(p));
        let Op::Softmax(Softmax { axis }) = softmax.op else { return Outcome::NoMatch };
        let mut scores = find!(softmax.input(0));
        // From here back to the product of queries and keys, which must be there for a match at all.
        let mut inner = vec![weights, scores];
        let mut factor = 1.0;
        let is_score = |v: ValueId| product(g, v).or_else(|| product(g, scaled(g, v)?.0)).is_some();
        let mask = Mask::of(g, scores, is_score);
        if let Some((s, _)) = mask {
            scores = s;
            inner.push(s);
        }
        if let Some((x, c)) = scaled(g, scores) {
            factor *= c;
            scores = x;
            inner.push(x);
        }
        let (mut q, mut k, trans_k) = find!(product(g, scores));
        let Some(all @ (3 | 4)) = rank(g, p) else {
            return Outcome::Declined("the scores are not of rank 3 or 4");
        };
        if !(axis == -1 || axis == all as i64 - 1) {
            return Outcome::Declined("the softmax is not over the keys");
        }
        if trans_v || [q, k, v].iter().any(|x| rank(g, *x) != Some(all) || dtype(g, *x) != Some(DType::F32)) {
            return Outcome::Declined("queries, keys or values are not f32 of one rank, or lie transposed");
        }
        if !inner.iter().all(|x| cx.is_private(g, *x))
            || guard.is_some_and(|p| !guards_alone(g, weights, p, cx))
        {
            return Outcome::Declined("the scores have other readers");
        }
        // The scale may also have been spread over queries and keys.
        for x in [&mut q, &mut k] {
            if let Some((y, c)) = scaled(g, *x)
                && rank(g, y) == Some(all)
            {
                factor *= c;
                *x = y;
            }
        }
        if !(factor as f32).is_finite() || factor == 0.0 {
            return Outcome::Declined("the scale is zero or not finite");
        }
        let mut patch = Patch::new();
        // Keys as `[.., keys, size]`: as they are, or what was turned for the product.
        let stay: Vec<usize> = (0..all).collect();
        let (mut keys, place) = match (trans_k, transposed(g, k)) {
            (true, _) => (New::Old(k), (k, stay)),
            (false, Some((source, perm))) if perm.len() == all => {
                let mut perm = perm.to_vec();
                perm.swap(all - 2, all - 1);
                if perm == stay {
                    (New::Old(source), (source, perm))
                } else {
                    (patch.op(Transpose { perm: perm.clone() }, &[source.into()]), (source, perm))
                }
            }
            _ => return Outcome::Declined("the keys lie transposed"),
        };
        let key = |i: usize| (place.0, place.1[i]);
        let fits = (0..all - 2).all(|i| same(g, (q, i), key(i)) && same(g, (v, i), key(i)))
            && same(g, (v, all - 2), key(all - 2))
            && same(g, (q, all - 1), key(all - 1));
        if !fits {
            return Outcome::Declined("batches or heads broadcast, or are not known to be the same");
        }
        let mut op = AttentionOp { scale: Some((factor as f32).into()), ..AttentionOp::default() };
        let mut masked = None;
        if let Some((_, mask)) = mask {
            if mask.is_causal(g, p) {
                op.causal = true;
            } else {
                if let Err(why) = mask.fits(g, p, v) {
                    return Outcome::Declined(why);
                }
                masked = Some(find!(mask.operand(&mut patch, g, all)));
                op.blind_nan = guard.is_none();
            }
        }
        if all == 3 {
            // One head, whose rows are all there is in rows of every head.
            (op.q_heads, op.kv_heads) = (1, 1);
        } else if let New::Old(k) = keys
            && let (Some(shared), Some(values)) = (heads::shared(g, k), heads::shared(g, v))
            && same(g, (shared, 1), (values, 1))
        {
            (keys, v) = (shared.into(), values);
        }
        let mut inputs: Vec<Option<New>> = vec![Some(q.into()), Some(keys), Some(v.into())];
        inputs.extend(masked.map(Some));
        let new = patch.node(op, &inputs);
        patch.origin(node.origin.clone());
        patch.replace(node.output(), new);
        Outcome::Rewrite(patch)
    }
}
