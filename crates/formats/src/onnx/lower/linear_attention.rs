//! Recurrences that carry a state from one call to the next.

use super::{LowerError, NodeCx, Table, attention::count};
use tensormill_ir::{
    attr::F32,
    ops::{CausalConv, LinearAttention},
};

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table = &[("LinearAttention", linear), ("CausalConvWithState", causal_conv)];

fn linear(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    // How an implementation may cut the sequence up.
    cx.ignore("chunk_size");
    let rule = cx.string("update_rule")?;
    let (decay, beta) = match rule.as_deref().unwrap_or("gated_delta") {
        "linear" => (false, false),
        "gated" => (true, false),
        "delta" => (false, true),
        "gated_delta" => (true, true),
        _ => return cx.bad("update_rule", "must be linear, gated, delta or gated_delta"),
    };
    if cx.opt(4).is_some() != decay || cx.opt(5).is_some() != beta {
        return cx.bad("update_rule", "does not fit the operands: decay goes with gated, beta with delta");
    }
    let scale = cx.float("scale", 0.0)?;
    let op = LinearAttention {
        q_heads: count(cx, "q_num_heads")?,
        kv_heads: count(cx, "kv_num_heads")?,
        scale: (scale != 0.0).then_some(F32(scale)),
    };
    let operands: Vec<_> = (0..6).map(|i| cx.opt(i)).collect();
    let results = cx.node(op, &operands)?;
    cx.set_all(&results);
    Ok(())
}

fn causal_conv(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let activation = cx.string("activation")?;
    let silu = match activation.as_deref().unwrap_or("none") {
        "none" => false,
        "silu" | "swish" => true,
        _ => return cx.bad("activation", "must be none, silu or swish"),
    };
    let operands = [Some(cx.input(0)?), Some(cx.input(1)?), cx.opt(2), cx.opt(3)];
    let results = cx.node(CausalConv { silu }, &operands)?;
    cx.set_all(&results);
    Ok(())
}
