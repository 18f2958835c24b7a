//! Elements repeated in place, as exporters spell nearest neighbours.

use crate::{
    pass::Numerics,
    pattern::{dims, find},
    rule::{Outcome, Rule, RuleCx},
    simplify::{operand_known, repeat, scales},
};
use tensormill_ir::{Dims, Expr, Graph, NodeId, OpKind, Patch, ops::Op};

/// Finds a resize to the nearest elements in axes of size 1 that are put in behind others, expanded or tiled, and
/// joined with them.
#[derive(Debug)]
pub struct NearestOfReshapes;

/// How often elements along each axis of `x` are repeated, one behind the other: `apart` has axes of size 1 put
/// in, which in `repeated` have other sizes, and each axis of `y` is one of `x` with those that follow it.
fn repeats(x: &Dims, apart: &Dims, repeated: &Dims, y: &Dims) -> Option<Vec<i64>> {
    if apart.len() != repeated.len() || x.len() != y.len() {
        return None;
    }
    let mut out: Vec<i64> = vec![];
    for (a, r) in apart.iter().zip(repeated) {
        if x.get(out.len()).is_some_and(|x| x.same(a)) {
            // An axis of x stays as it is.
            if !a.same(r) {
                return None;
            }
            out.push(1);
            continue;
        }
        let (Some(1), Some(n)) = (a.known(), r.known()) else { return None };
        match out.last_mut() {
            Some(times) => *times = times.checked_mul(i64::try_from(n).ok()?)?,
            // In front of all axes, everything is repeated as a whole.
            None if n == 1 => {}
            None => return None,
        }
    }
    let joined = x.iter().zip(&out).zip(y).all(|((x, &n), y)| {
        let whole = x.expr().and_then(|x| x.mul(&Expr::constant(n)));
        whole.zip(y.expr()).is_some_and(|(a, b)| a == b)
    });
    (out.len() == x.len() && joined && out.iter().all(|n| *n > 0)).then_some(out)
}

impl Rule for NearestOfReshapes {
    fn name(&self) -> &'static str {
        "nearest_of_reshapes"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Reshape]
    }

    fn apply(&self, g: &Graph, at: NodeId, cx: &RuleCx<'_>) -> Outcome {
        let node = g.node(at);
        let repeated = find!(node.input(0));
        let (copies, by) = find!(g.producer(repeated));
        let apart = find!(by.input(0).filter(|_| matches!(by.op, Op::Expand(_) | Op::Tile(_))));
        let (first, put_in) = find!(g.producer(apart));
        if !matches!(put_in.op, Op::Reshape(_) | Op::Unsqueeze(_)) {
            return Outcome::NoMatch;
        }
        let x = find!(put_in.input(0));
        let (from, y) = (find!(dims(g, x)), find!(dims(g, node.output())));
        let of = find!(repeats(from, find!(dims(g, apart)), find!(dims(g, repeated)), y));
        let moved: Vec<usize> = (0..of.len()).filter(|&a| of[a] > 1).collect();
        let last = find!(of.len().checked_sub(1));
        // One axis before the last is rather one of heads, which attention reads as they are.
        if moved.len() < 2 && moved != [last] {
            return Outcome::NoMatch;
        }
        if ![first, copies, at].into_iter().all(|n| operand_known(g, n)) {
            return Outcome::Declined("the shapes come from data");
        }
        if last == 0 || moved[0] + 1 < last {
            return Outcome::Declined("backends resize the last two axes");
        }
        if !cx.is_private(g, repeated) {
            return Outcome::Declined("the repeated elements have other readers");
        }
        let Some(scales) = scales(from, &of) else {
            return Outcome::Declined("the scales may not be exact");
        };
        let mut p = Patch::new();
        let new = repeat(&mut p, x.into(), scales);
        p.origin(node.origin.clone());
        p.replace(node.output(), new);
        Outcome::Rewrite(p)
    }
}
