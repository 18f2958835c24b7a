use crate::{
    pass::Numerics,
    pattern::{binary, dims, dtype, find, keeps_shape, scalar},
    rule::{Outcome, Rule, RuleCx},
};
use tensormill_ir::{
    Dim, Graph, New, NodeId, OpKind, Patch, ValueId,
    ops::{Attention as AttentionOp, AttentionScores, BinaryKind, MatMul, Op, Softmax, Transpose},
};
use tensormill_tensor::DType;

/// Finds attention in two products with a softmax between them, with a scale and an added mask before it.
#[derive(Debug)]
pub struct Attention;

/// Takes attention whose heads were only brought to the front, and back behind, on the rows as they were.
#[derive(Debug)]
pub struct AttentionOfRows;

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
        let (p, v, trans_v) = find!(product(g, node.output()));
        let (_, softmax) = find!(g.producer(p));
        let Op::Softmax(Softmax { axis }) = softmax.op else { return Outcome::NoMatch };
        let mut scores = find!(softmax.input(0));
        // From here back to the product of queries and keys, which must be there for a match at all.
        let mut inner = vec![p, scores];
        let mut mask = None;
        let mut factor = 1.0;
        if let Some((a, b)) = binary(g, scores, BinaryKind::Add) {
            let is_score = |v: ValueId| product(g, v).or_else(|| product(g, scaled(g, v)?.0)).is_some();
            let (s, m) = find!([(a, b), (b, a)].into_iter().find(|(s, _)| is_score(*s)));
            mask = Some(m);
            scores = s;
            inner.push(s);
        }
        if let Some((x, c)) = scaled(g, scores) {
            factor *= c;
            scores = x;
            inner.push(x);
        }
        let (mut q, mut k, trans_k) = find!(product(g, scores));
        if rank(g, p) != Some(4) || !(axis == -1 || axis == 3) {
            return Outcome::Declined("the scores are not of rank 4, or the softmax is not over the keys");
        }
        if trans_v || [q, k, v].iter().any(|x| rank(g, *x) != Some(4) || dtype(g, *x) != Some(DType::F32)) {
            return Outcome::Declined("queries, keys or values are not f32 of rank 4, or lie transposed");
        }
        if !inner.iter().all(|x| cx.is_private(g, *x)) {
            return Outcome::Declined("the scores have other readers");
        }
        // The scale may also have been spread over queries and keys.
        for x in [&mut q, &mut k] {
            if let Some((y, c)) = scaled(g, *x)
                && rank(g, y) == Some(4)
            {
                factor *= c;
                *x = y;
            }
        }
        if !(factor as f32).is_finite() || factor == 0.0 {
            return Outcome::Declined("the scale is zero or not finite");
        }
        let mut patch = Patch::new();
        // Keys as `[batch, heads, keys, size]`: as they are, or what was turned for the product.
        let (keys, place) = match (trans_k, transposed(g, k)) {
            (true, _) => (New::Old(k), (k, [0, 1, 2, 3])),
            (false, Some((source, perm))) if perm == [0, 1, 3, 2] => {
                (New::Old(source), (source, [0, 1, 2, 3]))
            }
            (false, Some((source, perm))) if perm == [0, 2, 3, 1] => {
                (patch.op(Transpose { perm: SWAP.to_vec() }, &[source.into()]), (source, SWAP))
            }
            _ => return Outcome::Declined("the keys lie transposed"),
        };
        let key = |i: usize| (place.0, place.1[i]);
        let fits = same(g, (q, 0), key(0))
            && same(g, (q, 1), key(1))
            && same(g, (v, 0), key(0))
            && same(g, (v, 1), key(1))
            && same(g, (v, 2), key(2))
            && same(g, (q, 3), key(3));
        if !fits {
            return Outcome::Declined("batches or heads broadcast, or are not known to be the same");
        }
        if let Some(m) = mask {
            if dtype(g, m) != Some(DType::F32) {
                return Outcome::Declined("the mask is not f32");
            }
            // A mask that ends before the keys hides those after it, so one of a single key would not broadcast.
            let last = dims(g, m).and_then(|d| d.last());
            let all_keys = dims(g, v).zip(last).is_some_and(|(v, m)| v[2].same(m));
            if !all_keys || !keeps_shape(g, p, m) {
                return Outcome::Declined("the mask is not one of every key, or may enlarge the scores");
            }
        }
        let op = AttentionOp {
            scale: Some((factor as f32).into()),
            blind_nan: mask.is_some(),
            ..AttentionOp::default()
        };
        let mut inputs: Vec<Option<New>> = vec![Some(q.into()), Some(keys), Some(v.into())];
        inputs.extend(mask.map(|m| Some(m.into())));
        let new = patch.node(op, &inputs);
        patch.origin(node.origin.clone());
        patch.replace(node.output(), new);
        Outcome::Rewrite(patch)
    }
}

/// The rows `[batch, sequence, heads * size]` of which `v` is `[batch, heads, sequence, size]`.
fn rows(g: &Graph, v: ValueId) -> Option<ValueId> {
    let (split, perm) = transposed(g, v)?;
    let (_, n) = g.producer(split)?;
    let Op::Reshape(_) = n.op else { return None };
    let x = n.input(0)?;
    (perm == SWAP && merges(g, split, x)).then_some(x)
}

/// Whether `[batch, sequence, heads, size]` is certainly `rows` with its last axis in two.
fn merges(g: &Graph, split: ValueId, rows: ValueId) -> bool {
    let (Some([b, s, h, d]), Some([rb, rs, rd])) =
        (dims(g, split).map(|d| &d[..]), dims(g, rows).map(|d| &d[..]))
    else {
        return false;
    };
    let size = h.known().zip(d.known()).and_then(|(h, d)| h.checked_mul(d));
    b.same(rb) && s.same(rs) && size.is_some() && size == rd.known()
}

impl Rule for AttentionOfRows {
    fn name(&self) -> &'static str {
        "attention_of_rows"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Reshape]
    }

    fn apply(&self, g: &Graph, at: NodeId, cx: &RuleCx<'_>) -> Outcome {
        let node = g.node(at);
        let turned = find!(node.input(0));
        let (heads, perm) = find!(transposed(g, turned));
        let (_, below) = find!(g.producer(heads));
        let Op::Attention(op) = &below.op else { return Outcome::NoMatch };
        if perm != SWAP || !merges(g, turned, node.output()) {
            return Outcome::Declined("the result's heads are not put side by side");
        }
        if op.present || op.scores != AttentionScores::None {
            return Outcome::Declined("the attention has further results");
        }
        if !cx.is_private(g, turned) || !cx.is_private(g, heads) {
            return Outcome::Declined("the result by heads has other readers");
        }
        let operands: Option<Vec<ValueId>> = (0..3).map(|i| rows(g, below.input(i)?)).collect();
        let Some(operands) = operands else {
            return Outcome::Declined("queries, keys or values are no rows of all heads");
        };
        let count = |i: usize| dims(g, below.input(i)?)?.get(1).and_then(Dim::known);
        let (q_heads, kv_heads) = (find!(count(0)), find!(count(1)));
        let mut inputs: Vec<Option<New>> = below.inputs.iter().map(|v| v.map(New::Old)).collect();
        for (input, rows) in inputs.iter_mut().zip(operands) {
            *input = Some(rows.into());
        }
        // Unless it was given, the scale follows from the size of a head, which stays.
        let mut p = Patch::new();
        let new = p.node(AttentionOp { q_heads, kv_heads, ..op.clone() }, &inputs);
        p.origin(below.origin.clone());
        p.replace(node.output(), new);
        Outcome::Rewrite(p)
    }
}
