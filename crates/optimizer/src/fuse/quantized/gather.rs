use super::{Real, is_byte, is_single};
use crate::{
    pass::Numerics,
    pattern::{dims, find},
    rule::{Outcome, Rule, RuleCx},
};
use tensormill_ir::{
    Graph, New, NodeId, OpKind, Patch, ValueId,
    infer::axis,
    ops::{DequantizeLinear, Gather, Op},
};

/// Gathers from a constant table of integers before they become real numbers, so that the table stays small.
#[derive(Debug)]
pub struct GatherIntegers;

impl Rule for GatherIntegers {
    fn name(&self) -> &'static str {
        "gather_integers"
    }

    fn numerics(&self) -> Numerics {
        Numerics::Exact
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Gather]
    }

    fn apply(&self, g: &Graph, at: NodeId, _: &RuleCx<'_>) -> Outcome {
        let node = g.node(at);
        let Op::Gather(op) = &node.op else { return Outcome::NoMatch };
        let (table, indices) = (find!(node.input(0)), find!(node.input(1)));
        let r = find!(Real::of(g, table));
        if g.constant(r.x).is_none() {
            return Outcome::NoMatch;
        }
        if !is_byte(r.dtype) {
            return Outcome::Declined("rows of less than a byte an element are not gathered");
        }
        let mut p = Patch::new();
        let gather = |p: &mut Patch, v: ValueId| p.op(op.clone(), &[v.into(), indices.into()]);
        let new = if is_single(g, r.scale) && r.zero.is_none_or(|z| is_single(g, z)) && r.op.block_size == 0 {
            let x = gather(&mut p, r.x);
            p.node(r.op.clone(), &with_zero(x, r.scale.into(), r.zero.map(New::Old)))
        } else {
            let rows = find!(rows(g, op, &r));
            let Some(block_size) = rows else {
                return Outcome::Declined("the table's scales differ along other axes than its rows");
            };
            let x = gather(&mut p, r.x);
            let scales = |p: &mut Patch, v: ValueId| {
                let t = g.constant(v)?;
                let v =
                    if t.shape().rank() == 2 { v.into() } else { p.constant(t.reshape([t.len(), 1]).ok()?) };
                Some(p.op(op.clone(), &[v, indices.into()]))
            };
            let scale = find!(scales(&mut p, r.scale));
            let zero = match r.zero {
                None => None,
                Some(z) => Some(find!(scales(&mut p, z))),
            };
            let real = DequantizeLinear { to: r.op.to, axis: -1, block_size };
            p.node(real, &with_zero(x, scale, zero))
        };
        p.origin(node.origin.clone());
        p.replace(node.output(), new);
        Outcome::Rewrite(p)
    }
}

fn with_zero(x: New, scale: New, zero: Option<New>) -> Vec<Option<New>> {
    [Some(x), Some(scale)].into_iter().chain(zero.map(Some)).collect()
}

/// The size of the blocks along a row that share a scale, where each row of the table has scales of its own.
fn rows(g: &Graph, op: &Gather, r: &Real<'_>) -> Option<Option<usize>> {
    let table = dims(g, r.x)?;
    let (scale, zero) = (g.constant(r.scale)?, r.zero.map(|z| g.constant(z)));
    if table.len() != 2 || axis(op.axis, 2).ok()? != 0 {
        return Some(None);
    }
    let along = axis(r.op.axis, 2).ok()?;
    let fits = zero.is_none_or(|z| z.is_some_and(|z| z.shape() == scale.shape()));
    Some(match (r.op.block_size, along, scale.shape().rank()) {
        (0, 0, 1) if fits => Some(table[1].known()?.max(1)),
        (n, 1, 2) if n > 0 && fits => Some(n),
        _ => None,
    })
}
