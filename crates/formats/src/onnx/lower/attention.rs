//! Attention and what goes with it.

use super::{LowerError, NodeCx, Table};
use tensormill_ir::{
    attr::F32,
    ops::{Attention, AttentionScores, RotaryEmbedding},
};

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table = &[("Attention", attention), ("RotaryEmbedding", rotary)];

/// A count that may be left out.
pub(super) fn count(cx: &NodeCx<'_, '_>, name: &str) -> Result<usize> {
    usize::try_from(cx.int(name, 0)?).or_else(|_| cx.bad(name, "must not be negative"))
}

/// A window's size; -1 for none.
fn window(cx: &NodeCx<'_, '_>, name: &str) -> Result<Option<usize>> {
    match cx.int(name, -1)? {
        -1 => Ok(None),
        n => usize::try_from(n).map(Some).or_else(|_| cx.bad(name, "must be -1 or more")),
    }
}

fn attention(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let scores = match (cx.int("qk_matmul_output_mode", 0)?, cx.wants(3)) {
        (0, true) => AttentionScores::Raw,
        (1, true) => AttentionScores::Capped,
        (2, true) => AttentionScores::Biased,
        (3, true) => AttentionScores::Softmax,
        (0..=3, false) => AttentionScores::None,
        _ => return cx.bad("qk_matmul_output_mode", "must be 0 to 3"),
    };
    // A softmax is never computed in less than what this asks for at least.
    if cx.dtype_attribute("softmax_precision")?.is_some_and(|d| !d.is_float()) {
        return cx.bad("softmax_precision", "must be a type of floats");
    }
    let op = Attention {
        q_heads: count(cx, "q_num_heads")?,
        kv_heads: count(cx, "kv_num_heads")?,
        scale: cx.opt_float("scale")?.map(F32),
        softcap: F32(cx.float("softcap", 0.0)?),
        causal: cx.flag("is_causal", false)?,
        left_window: window(cx, "left_window_size")?,
        right_window: window(cx, "right_window_size")?,
        present: cx.wants(1) || cx.wants(2),
        scores,
        blind_nan: false,
    };
    let present = op.present;
    let operands: Vec<_> = (0..7).map(|i| cx.opt(i)).collect();
    let results = cx.node(op, &operands)?;
    cx.set(0, results[0]);
    if present {
        cx.set(1, results[1]);
        cx.set(2, results[2]);
    }
    if scores != AttentionScores::None {
        cx.set(3, results[results.len() - 1]);
    }
    Ok(())
}

fn rotary(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let op = RotaryEmbedding {
        heads: count(cx, "num_heads")?,
        dim: count(cx, "rotary_embedding_dim")?,
        interleaved: cx.flag("interleaved", false)?,
    };
    let operands = [Some(cx.input(0)?), Some(cx.input(1)?), Some(cx.input(2)?), cx.opt(3)];
    let y = cx.node(op, &operands)?;
    cx.set_all(&y);
    Ok(())
}
