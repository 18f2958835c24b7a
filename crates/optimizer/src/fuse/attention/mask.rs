//! What is added to scores, or put in their place.

use crate::pattern::{binary, dims, dtype, keeps_shape, scalar, unary, uniform};
use tensormill_ir::{
    Graph, New, Patch, ValueId,
    ops::{BinaryKind, Op, UnaryKind, Unsqueeze, Where},
};
use tensormill_tensor::{DType, Tensor};

/// Numbers so low that nothing is left of a score they are added to.
const LOW: f64 = -1e30;
/// Elements of a constant that are read to see whether it is a causal mask.
const MAX_READ: usize = 1 << 22;

/// How scores are masked.
#[derive(Debug, Clone, Copy)]
pub(super) enum Mask {
    /// This is added to them.
    Added(ValueId),
    /// They are kept, or else hidden, where the condition is as said; the last is what hides them.
    Chosen { condition: ValueId, kept: bool, low: ValueId },
}

impl Mask {
    /// The scores that `v` masks, as far as `is_score` knows them.
    pub(super) fn of(g: &Graph, v: ValueId, is_score: impl Fn(ValueId) -> bool) -> Option<(ValueId, Mask)> {
        if let Some((a, b)) = binary(g, v, BinaryKind::Add) {
            let (s, m) = [(a, b), (b, a)].into_iter().find(|(s, _)| is_score(*s))?;
            return Some((s, Mask::Added(m)));
        }
        let (condition, a, b) = chosen(g, v)?;
        if is_score(a) && hides(g, b) {
            return Some((a, Mask::Chosen { condition, kept: true, low: b }));
        }
        (is_score(b) && hides(g, a)).then_some((b, Mask::Chosen { condition, kept: false, low: a }))
    }

    fn value(&self) -> ValueId {
        match self {
            Mask::Added(m) => *m,
            Mask::Chosen { condition, .. } => *condition,
        }
    }

    /// Says why attention cannot take it, over scores that become `p` and these values.
    pub(super) fn fits(&self, g: &Graph, p: ValueId, values: ValueId) -> Result<(), &'static str> {
        let m = self.value();
        if matches!(self, Mask::Added(_)) && dtype(g, m) != Some(DType::F32) {
            return Err("the mask is not f32");
        }
        // A mask that ends before the keys hides those after it, so one of a single key would not broadcast.
        let last = dims(g, m).and_then(|d| d.last());
        let all_keys = dims(g, values).zip(last).is_some_and(|(v, m)| v[v.len() - 2].same(m));
        if all_keys && keeps_shape(g, p, m) {
            Ok(())
        } else {
            Err("the mask is not one of every key, or may enlarge the scores")
        }
    }

    /// The operand of attention, for scores of this rank.
    pub(super) fn operand(&self, p: &mut Patch, g: &Graph, rank: usize) -> Option<New> {
        let mut new = match *self {
            Mask::Added(m) => New::Old(m),
            Mask::Chosen { condition, kept, low } => {
                let zero = p.constant(Tensor::scalar(0f32));
                let (a, b) = if kept { (zero, low.into()) } else { (low.into(), zero) };
                p.op(Where {}, &[condition.into(), a, b])
            }
        };
        // Without heads, what lies before the queries are batches.
        if rank == 3 && dims(g, self.value()).is_some_and(|d| d.len() == 3) {
            let axis = p.constant(Tensor::from_vec([1], vec![1i64]).ok()?);
            new = p.op(Unsqueeze {}, &[new, axis]);
        }
        Some(new)
    }

    /// Whether it hides from each query the keys after it, and nothing else.
    pub(super) fn is_causal(&self, g: &Graph, p: ValueId) -> bool {
        let square = |m: ValueId| {
            dims(g, m).zip(dims(g, p)).is_some_and(|(m, p)| {
                let (Some(lead), [.., s, t]) = (m.len().checked_sub(2), &p[..]) else { return false };
                m.len() <= p.len()
                    && m[..lead].iter().all(|d| d.known() == Some(1))
                    && m[lead].same(s)
                    && m[lead + 1].same(t)
            })
        };
        if !square(self.value()) {
            return false;
        }
        match *self {
            Mask::Chosen { condition, kept, .. } => triangle(g, condition, kept),
            Mask::Added(m) => {
                let m = below_ones(g, m);
                if let Some((c, a, b)) = chosen(g, m) {
                    let zero = |v| scalar(g, v) == Some(0.0);
                    return square(c)
                        && (zero(a) && hides(g, b) && triangle(g, c, true)
                            || zero(b) && hides(g, a) && triangle(g, c, false));
                }
                constant(g, m)
                    || trilu(g, m).is_some_and(|(x, upper, k)| upper && k == 1 && filled(g, x, hidden))
            }
        }
    }
}

fn hidden(x: f64) -> bool {
    x <= LOW
}

fn hides(g: &Graph, v: ValueId) -> bool {
    dtype(g, v) == Some(DType::F32) && scalar(g, v).is_some_and(hidden)
}

/// Condition and operands of a choice.
fn chosen(g: &Graph, v: ValueId) -> Option<(ValueId, ValueId, ValueId)> {
    let (_, n) = g.producer(v)?;
    let Op::Where(_) = n.op else { return None };
    Some((n.input(0)?, n.input(1)?, n.input(2)?))
}

/// What `v` is, but for leading axes of size 1.
fn below_ones(g: &Graph, mut v: ValueId) -> ValueId {
    let long = |v: ValueId| Some(dims(g, v)?.iter().skip_while(|d| d.known() == Some(1)).collect::<Vec<_>>());
    while let Some((_, n)) = g.producer(v) {
        let (Op::Reshape(_) | Op::Unsqueeze(_) | Op::Expand(_), Some(x)) = (&n.op, n.input(0)) else { break };
        let same = long(v).zip(long(x)).is_some_and(|(a, b)| {
            a.len() == b.len() && a.len() >= 2 && a.iter().zip(&b).all(|(a, b)| a.same(b))
        });
        if !same {
            break;
        }
        v = x;
    }
    v
}

/// A constant of zeros up to the diagonal, and nothing but what hides after it.
fn constant(g: &Graph, m: ValueId) -> bool {
    let Some(t) = g.constant(m).filter(|t| t.len() <= MAX_READ && t.dtype() == DType::F32) else {
        return false;
    };
    let (&[.., rows, keys], Ok(all)) = (&**t.shape(), t.to_slice::<f32>()) else { return false };
    keys > 0
        && all.len() == rows * keys
        && all.chunks(keys).enumerate().all(|(i, row)| {
            let (seen, after) = row.split_at(keys.min(i + 1));
            seen.iter().all(|x| *x == 0.0) && after.iter().all(|x| hidden((*x).into()))
        })
}

/// The operand, side and diagonal of a triangle.
fn trilu(g: &Graph, v: ValueId) -> Option<(ValueId, bool, i64)> {
    let (_, n) = g.producer(v)?;
    let Op::Trilu(t) = &n.op else { return None };
    let k = match n.input(1) {
        None => 0,
        Some(k) => *g.const_ints(k)?.first()?,
    };
    Some((n.input(0)?, t.upper, k))
}

/// Whether every element is one number, of which `is` holds.
fn filled(g: &Graph, v: ValueId, is: fn(f64) -> bool) -> bool {
    let one = match g.producer(v) {
        Some((_, n)) if matches!(n.op, Op::Expand(_)) => n.input(0),
        _ => Some(v),
    };
    let Some(t) = one.and_then(|v| g.constant(v)) else { return false };
    let truth = || t.to_bool_vec().ok()?.iter().all(|b| *b).then_some(1.0);
    if t.dtype() == DType::Bool {
        truth().is_some_and(is)
    } else {
        one.and_then(|v| uniform(g, v)).is_some_and(is)
    }
}

/// Whether a condition is `seen` up to the diagonal, and the other after it.
fn triangle(g: &Graph, mut c: ValueId, mut seen: bool) -> bool {
    /// Negations, comparisons with zero and casts that are looked through.
    const STEPS: usize = 6;
    for _ in 0..STEPS {
        c = below_ones(g, c);
        let Some((_, n)) = g.producer(c) else { return false };
        if let Some((UnaryKind::Not, x)) = unary(g, c) {
            (c, seen) = (x, !seen);
        } else if let Some((a, b)) = binary(g, c, BinaryKind::Equal) {
            let zero = |v| scalar(g, v) == Some(0.0);
            let Some((x, _)) = [(a, b), (b, a)].into_iter().find(|(_, z)| zero(*z)) else { return false };
            (c, seen) = (x, !seen);
        } else if let (Op::Cast(_), Some(x)) = (&n.op, n.input(0)) {
            c = x;
        } else {
            return trilu(g, c).is_some_and(|(x, upper, k)| {
                (upper, k) == if seen { (false, 0) } else { (true, 1) } && filled(g, x, |x| x != 0.0)
            });
        }
    }
    false
}
