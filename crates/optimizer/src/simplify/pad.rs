use crate::{
    pass::Numerics,
    pattern::{dims, find, scalar},
    rule::{Outcome, Rule, RuleCx},
};
use tensormill_ir::{
    Graph, Node, NodeId, OpKind, Patch,
    infer::axis,
    ops::{AutoPad, Op, Pad, PadMode},
};

/// Moves the zeros that a node puts around the spatial axes into the padding of the convolution after it.
#[derive(Debug)]
pub struct PadIntoConv;

impl Rule for PadIntoConv {
    fn name(&self) -> &'static str {
        "pad_into_conv"
    }

    /// Infinite weights make NaN of zeros that are there, and nothing of those that are not.
    fn numerics(&self) -> Numerics {
        Numerics::Reassociates
    }

    fn roots(&self) -> &'static [OpKind] {
        &[OpKind::Conv]
    }

    fn apply(&self, g: &Graph, at: NodeId, _: &RuleCx<'_>) -> Outcome {
        let node = g.node(at);
        let Op::Conv(op) = &node.op else { return Outcome::NoMatch };
        let (_, pad) = find!(g.producer(find!(node.input(0))));
        let Op::Pad(Pad { mode }) = pad.op else { return Outcome::NoMatch };
        let x = find!(pad.input(0));
        let spatial = find!(find!(dims(g, x)).len().checked_sub(2));
        if mode != PadMode::Constant || pad.input(2).is_some_and(|v| scalar(g, v) != Some(0.0)) {
            return Outcome::Declined("it pads with something else than zeros");
        }
        if op.auto_pad != AutoPad::Explicit {
            return Outcome::Declined("the convolution decides its padding by the size of its input");
        }
        let Some(pads) = spatial_pads(g, pad, spatial) else {
            return Outcome::Declined("it pads other axes, or by sizes that are computed or negative");
        };
        let mut op = op.clone();
        op.pads.resize(2 * spatial, 0);
        op.pads.iter_mut().zip(&pads).for_each(|(own, more)| *own += more);
        let mut inputs: Vec<_> = node.inputs.iter().map(|v| v.map(Into::into)).collect();
        inputs[0] = Some(x.into());
        let mut p = Patch::new();
        let new = p.node(op, &inputs);
        p.origin(node.origin.clone());
        p.replace(node.output(), new);
        Outcome::Rewrite(p)
    }
}

/// What a node adds before and after each spatial axis, when it is known, adds something and changes nothing else.
fn spatial_pads(g: &Graph, pad: &Node, spatial: usize) -> Option<Vec<usize>> {
    /// More would be a mistake in the file that no sum of sizes should meet.
    const MOST: i64 = 1 << 20;
    let rank = spatial + 2;
    let given = g.const_ints(pad.input(1)?)?;
    let along = match pad.input(3) {
        None => (0..rank as i64).collect(),
        Some(v) => g.const_ints(v)?,
    };
    if given.len() != 2 * along.len() {
        return None;
    }
    let mut pads = vec![0; 2 * spatial];
    for (i, a) in along.iter().enumerate() {
        let a = axis(*a, rank).ok()?;
        for (n, end) in [(given[i], 0), (given[along.len() + i], spatial)] {
            match a.checked_sub(2) {
                _ if n == 0 => {}
                Some(s) if (0..MOST).contains(&n) => pads[end + s] = n as usize,
                _ => return None,
            }
        }
    }
    Some(pads)
}
