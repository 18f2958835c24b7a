use crate::{
    pass::Numerics,
    pattern::{binary, binary_at, dims, dtype, find, same_type, scalar, unary},
    rule::{Outcome, Rule, RuleCx},
};
use tensormill_ir::{
    Dim, Graph, New, NodeId, OpKind, Patch, ValueId,
    ops::{
        Binary, BinaryKind, Concat, Expand, Gather, Op, Reshape, RotaryEmbedding, ShapeOf, Unary, UnaryKind,
    },
};
use tensormill_tensor::{DType, Tensor};

/// Finds rotary positions in `x * cos + rotate_half(x) * sin`, where both halves of the angles are the same:
/// joined from one, or a constant table of such rows.
#[derive(Debug)]
pub struct Rotary;

/// Elements of a constant table that are read to see whether its halves are the same.
const MAX_TABLE: usize = 1 << 24;

/// A slice of the last axis with step 1: what is sliced, and the first element.
fn last_slice(g: &Graph, v: ValueId) -> Option<(ValueId, usize)> {
    let (_, n) = g.producer(v)?;
    let Op::Slice(_) = n.op else { return None };
    let x = n.input(0)?;
    let d = dims(g, x)?;
    let only = |i: usize| match &g.const_ints(n.input(i)?)?[..] {
        &[one] => Some(one),
        _ => None,
    };
    let axis = n.input(3).map_or(Some(0), |_| only(3))?;
    let steps = n.input(4).map_or(Some(1), |_| only(4))?;
    let last = d.len().checked_sub(1)?;
    if steps != 1 || tensormill_ir::infer::axis(axis, d.len()).ok()? != last {
        return None;
    }
    let size = i64::try_from(d[last].known()?).ok()?;
    let start = only(1)?;
    let start = if start < 0 { start + size } else { start };
    Some((x, usize::try_from(start.clamp(0, size)).ok()?))
}

/// The `x` of `concat(-x[half..], x[..half])`.
fn rotated_half(g: &Graph, v: ValueId) -> Option<ValueId> {
    let (_, n) = g.producer(v)?;
    let Op::Concat(Concat { axis }) = n.op else { return None };
    let rank = dims(g, v)?.len();
    let (&[Some(neg), Some(first)], true) = (&n.inputs[..], axis == -1 || axis == rank as i64 - 1) else {
        return None;
    };
    let (UnaryKind::Neg, second) = unary(g, neg)? else { return None };
    let halves = [first, second].map(|h| dims(g, h)?.last()?.known());
    let half = halves[0].filter(|h| halves[1] == Some(*h))?;
    let (x, y) = match (last_slice(g, first), last_slice(g, second)) {
        (Some((x, 0)), Some((y, at))) if at == half => (x, y),
        _ => {
            // Both may be the results of one split.
            let ((a, n), (b, _)) = (g.producer(first)?, g.producer(second)?);
            let split = matches!(n.op, Op::Split(_)) && a == b && n.outputs[..] == [first, second];
            let x = if split { n.input(0)? } else { return None };
            (x, x)
        }
    };
    (x == y && dims(g, x)?.last()?.known() == half.checked_mul(2)).then_some(x)
}

/// The left half of a value `[.., 2 * half]` whose halves are the same.
fn halved(g: &Graph, p: &mut Patch, v: ValueId, depth: usize) -> Option<New> {
    let depth = depth.checked_sub(1)?;
    if let Some(t) = g.constant(v) {
        let size = *t.shape().last()?;
        let all =
            t.to_slice::<f32>().ok().filter(|all| all.len() <= MAX_TABLE && size > 0 && size % 2 == 0)?;
        let rows = || all.chunks_exact(size).map(|row| row.split_at(size / 2));
        let same = rows().all(|(a, b)| a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits()));
        let left: Vec<f32> = if same { rows().flat_map(|(a, _)| a).copied().collect() } else { return None };
        let mut shape = t.shape().to_vec();
        *shape.last_mut()? = size / 2;
        return Some(p.constant(Tensor::from_vec(shape, left).ok()?));
    }
    let (_, n) = g.producer(v)?;
    let x = n.input(0)?;
    match &n.op {
        Op::Concat(Concat { axis }) => {
            let last = *axis == -1 || *axis == dims(g, v)?.len() as i64 - 1;
            (last && n.inputs[..] == [Some(x), Some(x)]).then_some(x.into())
        }
        Op::Unary(Unary { kind: kind @ (UnaryKind::Cos | UnaryKind::Sin) }) => {
            let half = halved(g, p, x, depth)?;
            Some(p.op(Unary { kind: *kind }, &[half]))
        }
        Op::Gather(op @ Gather { axis: 0 }) if dims(g, x)?.len() == 2 => {
            let half = halved(g, p, x, depth)?;
            Some(p.op(op.clone(), &[half, n.input(1)?.into()]))
        }
        Op::Binary(Binary { kind: BinaryKind::Mul }) => {
            let (a, b) = (x, n.input(1)?);
            let (t, c) = [(a, b), (b, a)].into_iter().find(|(_, c)| scalar(g, *c).is_some())?;
            if !same_type(g, t, v) {
                return None;
            }
            let half = halved(g, p, t, depth)?;
            Some(p.op(Binary { kind: BinaryKind::Mul }, &[half, c.into()]))
        }
        _ => None,
    }
}

/// Half the angles for `x` as `[batch, sequence, half]`, from those that broadcast to it.
fn angles(g: &Graph, p: &mut Patch, v: ValueId, x: ValueId) -> Option<New> {
    /// Steps from the angles back to what has both halves.
    const STEPS: usize = 6;
    let ([batch, _, rows, size], d) = (&dims(g, x)?[..], dims(g, v)?) else { return None };
    // The same for every head, in the axis of the heads or without one.
    let inner = match &d[..] {
        [_, h, _, _] if h.known() == Some(1) => match g.producer(v) {
            Some((_, n)) if matches!(n.op, Op::Reshape(_) | Op::Unsqueeze(_)) => n.input(0)?,
            _ if g.constant(v).is_some() => v,
            _ => return None,
        },
        [_, _] => v,
        _ => return None,
    };
    let own = dims(g, inner)?;
    let n = own.len();
    let by_row = n >= 2 && own[n - 1].same(size) && own[n - 2].same(rows);
    let one = |d: &Dim| d.known() == Some(1);
    // Batches as `v` has them: their own, or one for all.
    let (own_batch, fits) = match &own[..n.checked_sub(2)?] {
        [] => (false, true),
        [b] | [b, _] => {
            (b.same(batch) && !one(b), (b.same(batch) || one(b)) && own[1..n - 2].iter().all(one))
        }
        _ => (false, false),
    };
    let same_batch = d.len() == 2 || if own_batch { d[0].same(batch) } else { one(&d[0]) };
    if !by_row || !fits || !same_batch || dtype(g, v) != Some(DType::F32) {
        return None;
    }
    let mut half = halved(g, p, inner, STEPS)?;
    let ints = |p: &mut Patch, v: &[i64]| Some(p.constant(Tensor::from_vec([v.len()], v.to_vec()).ok()?));
    if own_batch {
        return (n == 3).then_some(half);
    }
    if n > 3 {
        let known = |d: &Dim| i64::try_from(d.known()?).ok();
        let spec = ints(p, &[1, known(rows)?, known(size)? / 2])?;
        half = p.op(Reshape::default(), &[half, spec]);
    }
    if one(batch) && n >= 3 {
        return Some(half);
    }
    let batches = p.op(ShapeOf { start: 0, end: 1 }, &[x.into()]);
    let ones = ints(p, &[1, 1])?;
    let shape = p.op(Concat { axis: 0 }, &[batches, ones]);
    Some(p.op(Expand {}, &[half, shape]))
}

impl Rule for Rotary {
    fn name(&self) -> &'static str {
        "rotary"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Reassociates
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Binary]
    }

    fn apply(&self, g: &Graph, at: NodeId, cx: &RuleCx<'_>) -> Outcome {
        let node = g.node(at);
        let (BinaryKind::Add, a, b) = find!(binary_at(g, at)) else { return Outcome::NoMatch };
        let turned = |v: ValueId| {
            let (p, q) = binary(g, v, BinaryKind::Mul)?;
            [(p, q), (q, p)].into_iter().find_map(|(r, sin)| Some((r, rotated_half(g, r)?, sin)))
        };
        let found = [(a, b), (b, a)].into_iter().find_map(|(straight, crossed)| {
            let (r, x, sin) = turned(crossed)?;
            let (p, q) = binary(g, straight, BinaryKind::Mul)?;
            let cos = [(p, q), (q, p)].into_iter().find(|(y, _)| *y == x)?.1;
            Some((x, cos, sin, [straight, crossed, r]))
        });
        let (x, cos, sin, inner) = find!(found);
        if dims(g, x).is_none_or(|d| d.len() != 4) || dtype(g, x) != Some(DType::F32) {
            return Outcome::Declined("what is rotated is not f32 by batch and head");
        }
        if !inner.iter().all(|v| cx.is_private(g, *v)) {
            return Outcome::Declined("what is added has other readers");
        }
        if !same_type(g, x, node.output()) {
            return Outcome::Declined("the angles may enlarge the result");
        }
        let mut p = Patch::new();
        let tables = [cos, sin].map(|v| angles(g, &mut p, v, x));
        let [Some(cos), Some(sin)] = tables else {
            return Outcome::Declined(
                "the angles are not known to be those of two halves, for each position",
            );
        };
        let new = p.op(RotaryEmbedding::default(), &[x.into(), cos, sin]);
        p.origin(node.origin.clone());
        p.replace(node.output(), new);
        Outcome::Rewrite(p)
    }
}
