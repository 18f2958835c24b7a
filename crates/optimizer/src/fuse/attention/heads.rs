//! Heads of keys and values that several heads of queries share.

use crate::pattern::dims;
use tensormill_ir::{Graph, Node, ValueId, ops::Op};

/// The heads that were each repeated in a row to make those of `v`, `[batch, heads, sequence, size]`: an
/// axis put in behind them, expanded or tiled, and joined with theirs.
pub(super) fn shared(g: &Graph, v: ValueId) -> Option<ValueId> {
    let step = |v: ValueId, is: fn(&Op) -> bool| -> Option<ValueId> {
        let node: &Node = g.producer(v)?.1;
        if is(&node.op) { node.input(0) } else { None }
    };
    let moved = |op: &Op| matches!(op, Op::Reshape(_) | Op::Unsqueeze(_));
    let repeated = step(v, moved)?;
    let apart = step(repeated, |op| matches!(op, Op::Expand(_) | Op::Tile(_)))?;
    let x = step(apart, moved)?;
    let ([b, h, s, d], [rb, rh, n, rs, rd], [ab, ah, one, a_s, ad], [xb, xh, xs, xd]) =
        (&dims(g, v)?[..], &dims(g, repeated)?[..], &dims(g, apart)?[..], &dims(g, x)?[..])
    else {
        return None;
    };
    let kept = [[b, rb, ab], [s, rs, a_s], [d, rd, ad]];
    let same = kept.iter().zip([xb, xs, xd]).all(|(all, x)| all.iter().all(|a| a.same(x)));
    let (heads, times) = (xh.known()?, n.known()?);
    // Along an axis of one element, repeating a batch or a key would look like this, too, but changes a size.
    let by_head = [rh.known(), ah.known()] == [Some(heads); 2]
        && one.known() == Some(1)
        && heads.checked_mul(times) == h.known();
    (same && by_head).then_some(x)
}
