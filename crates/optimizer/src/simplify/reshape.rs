use crate::{
    pass::Numerics,
    pattern::{dims, find},
    rule::{Outcome, Rule, RuleCx},
};
use tensormill_ir::{
    Dim, Dims, Expr, Graph, New, NodeId, OpKind, Patch, ValueId,
    ops::{Op, Reshape},
};
use tensormill_tensor::Tensor;

/// The constant shape operand that reshapes `from` to `to`: numbers, 0 for an axis that stays where it
/// is, one -1 for what is left. `None` where no constant says it for every size, 0 included.
pub(crate) fn shape_operand(from: &Dims, to: &Dims) -> Option<Vec<i64>> {
    let mut spec = Vec::with_capacity(to.len());
    let mut rest = None;
    for (i, d) in to.iter().enumerate() {
        spec.push(match d {
            Dim::Known(0) => return None,
            Dim::Known(n) => i64::try_from(*n).ok()?,
            d if from.get(i).is_some_and(|f| f.same(d)) => 0,
            _ if rest.is_some() => return None,
            _ => {
                rest = Some(i);
                -1
            }
        });
    }
    // Beside an axis that turns out empty, -1 has no meaning.
    let clear = rest.is_none() || !spec.contains(&0);
    (clear && may_reshape(from, to)).then_some(spec)
}

/// Whether both have the same number of elements, as far as is known: a file may say otherwise.
fn may_reshape(from: &Dims, to: &Dims) -> bool {
    let count = |d: &Dims| d.iter().try_fold(Expr::constant(1), |n, d| n.mul(&d.expr()?));
    let known = |d: &Dims| d.iter().filter_map(Dim::known).try_fold(1usize, |n, d| n.checked_mul(d));
    match (count(from), count(to)) {
        (Some(a), Some(b)) => a == b,
        (Some(a), None) => match (a.as_const(), known(to)) {
            (Some(a), Some(k)) => usize::try_from(a).is_ok_and(|a| a % k.max(1) == 0),
            _ => true,
        },
        _ => true,
    }
}

pub(crate) fn reshape(p: &mut Patch, x: New, spec: Vec<i64>) -> Option<New> {
    let shape = p.constant(Tensor::from_vec([spec.len()], spec).ok()?);
    Some(p.op(Reshape::default(), &[x, shape]))
}

/// Whether the second operand, a shape or axes, is known element by element: sizes that only the file
/// declares are no ground to rewrite on.
pub(crate) fn operand_known(g: &Graph, at: NodeId) -> bool {
    g.node(at).input(1).is_none_or(|v| g.value(v).elements.is_some() || g.constant(v).is_some())
}

fn rewrite(g: &Graph, at: NodeId, x: ValueId, spec: Vec<i64>) -> Outcome {
    let mut p = Patch::new();
    let new = find!(reshape(&mut p, x.into(), spec));
    p.origin(g.node(at).origin.clone());
    p.replace(g.node(at).output(), new);
    Outcome::Rewrite(p)
}

/// Spells flatten, squeeze and unsqueeze as reshapes, and reshapes with constant shapes.
#[derive(Debug)]
pub struct ToReshape;

impl Rule for ToReshape {
    fn name(&self) -> &'static str {
        "to_reshape"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Flatten, OpKind::Squeeze, OpKind::Unsqueeze, OpKind::Reshape]
    }

    fn apply(&self, g: &Graph, at: NodeId, _: &RuleCx<'_>) -> Outcome {
        let node = g.node(at);
        let x = find!(node.input(0));
        if matches!(node.op, Op::Reshape(_)) && find!(node.input(1).map(|s| g.constant(s).is_some())) {
            return Outcome::NoMatch;
        }
        if !operand_known(g, at) {
            return Outcome::Declined("the shape or the axes come from data");
        }
        let (from, to) = (find!(dims(g, x)), find!(dims(g, node.output())));
        match shape_operand(from, to) {
            Some(spec) => rewrite(g, at, x, spec),
            None => Outcome::Declined("no constant shape says it for every size"),
        }
    }
}

/// Makes one reshape of two.
#[derive(Debug)]
pub struct ReshapeOfReshape;

impl Rule for ReshapeOfReshape {
    fn name(&self) -> &'static str {
        "reshape_of_reshape"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Reshape]
    }

    fn apply(&self, g: &Graph, at: NodeId, _: &RuleCx<'_>) -> Outcome {
        let node = g.node(at);
        let Op::Reshape(outer) = &node.op else { return Outcome::NoMatch };
        let (mid, shape) = (find!(node.input(0)), find!(node.input(1)));
        let (_, inner) = find!(g.producer(mid));
        if !matches!(inner.op, Op::Reshape(_) | Op::Flatten(_) | Op::Squeeze(_) | Op::Unsqueeze(_)) {
            return Outcome::NoMatch;
        }
        let x = find!(inner.input(0));
        if operand_known(g, at)
            && let (Some(from), Some(to)) = (dims(g, x), dims(g, node.output()))
            && let Some(spec) = shape_operand(from, to)
        {
            return rewrite(g, at, x, spec);
        }
        // A shape that copies nothing from what it reshapes says the same about x.
        if find!(g.const_ints(shape)).contains(&0) && !outer.allow_zero {
            return Outcome::Declined("the outer shape copies sizes of the inner");
        }
        let mut p = Patch::new();
        let new = p.op(outer.clone(), &[x.into(), shape.into()]);
        p.origin(node.origin.clone());
        p.replace(node.output(), new);
        Outcome::Rewrite(p)
    }
}
