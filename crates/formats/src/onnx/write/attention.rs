//! Attention and what goes with it.

use super::{
    error::{Result, refuse},
    node::NodeCx,
};
use tensormill_ir::ops::{Attention, AttentionScores, CausalConv, LinearAttention, RotaryEmbedding};
use tensormill_tensor::DType;

/// What our fusions make can be said in older operators, which every engine has; the operator itself came
/// late.
fn is_plain(cx: &NodeCx<'_, '_, '_>, op: &Attention) -> bool {
    let dtype = cx.dtype_of(0);
    let bare = op.softcap.0 == 0.0
        && !op.causal
        && op.left_window.is_none()
        && op.right_window.is_none()
        && !op.present
        && op.scores == AttentionScores::None
        && op.q_heads == op.kv_heads
        && (4..7).all(|i| cx.node.input(i).is_none())
        && matches!(dtype, Ok(DType::F32 | DType::F64));
    let ranks = if op.q_heads == 0 { 4 } else { 3 };
    let heads = op.q_heads > 0 || repeats(cx).is_some();
    let mask = cx.node.input(3).is_none()
        || op.blind_nan && cx.dtype_of(3).ok() == dtype.as_ref().ok().copied() && whole_mask(cx, ranks);
    bare && mask && heads && (0..3).all(|i| cx.rank_of(i) == Some(ranks)) && scale(cx, op).is_some()
}

/// How many heads of queries share one of keys and values, by heads; repeated ones are joined by their sizes.
fn repeats(cx: &NodeCx<'_, '_, '_>) -> Option<usize> {
    let (q, kv) = (cx.size_of(0, 1)?, cx.size_of(1, 1)?);
    let times = if kv > 0 && q % kv == 0 { q / kv } else { return None };
    let sized = times == 1 || cx.size_of(1, 3).zip(cx.size_of(2, 3)).is_some_and(|(k, v)| k > 0 && v > 0);
    (sized && cx.size_of(2, 1) == Some(kv)).then_some(times)
}

/// Whether the mask has a column for every key: those beyond its end would be hidden.
fn whole_mask(cx: &NodeCx<'_, '_, '_>, ranks: usize) -> bool {
    let last = |i: usize, axis: usize| {
        let dims = cx.tensor(cx.node.input(i)?)?.dims.as_ref()?;
        dims.get(axis).cloned()
    };
    let keys = last(1, ranks - 2);
    let columns = cx.rank_of(3).and_then(|r| last(3, r.checked_sub(1)?));
    keys.zip(columns).is_some_and(|(k, m)| k.same(&m))
}

fn scale(cx: &NodeCx<'_, '_, '_>, op: &Attention) -> Option<f64> {
    if let Some(s) = op.scale {
        return Some(f64::from(s.0));
    }
    let size = match op.q_heads {
        0 => cx.size_of(0, 3)?,
        heads => cx.size_of(0, 2)? / heads,
    };
    Some(1.0 / (size as f64).sqrt())
}

pub(super) fn attention(cx: &mut NodeCx<'_, '_, '_>, op: &Attention) -> Result<()> {
    if is_plain(cx, op) {
        return apart(cx, op);
    }
    if op.blind_nan && cx.node.input(3).is_some() {
        return refuse("a query that may see nothing yields NaN, and zeros in ONNX");
    }
    if op.left_window.is_some() || op.right_window.is_some() {
        cx.require(25);
    }
    if cx.node.input(6).is_some() {
        cx.require(24);
    }
    let inputs = cx.inputs();
    let given = cx.outputs();
    let mut outputs = vec![given[0].clone()];
    if op.present {
        outputs.extend_from_slice(&given[1..3]);
    }
    let mode = match op.scores {
        AttentionScores::None => None,
        AttentionScores::Raw => Some(0),
        AttentionScores::Capped => Some(1),
        AttentionScores::Biased => Some(2),
        AttentionScores::Softmax => Some(3),
    };
    if mode.is_some() {
        outputs.resize(3, String::new());
        outputs.push(given[given.len() - 1].clone());
    }
    let mut made = cx.add("Attention", inputs, outputs).flag("is_causal", op.causal);
    if op.q_heads > 0 {
        made = made.size("q_num_heads", op.q_heads).size("kv_num_heads", op.kv_heads);
    }
    if let Some(s) = op.scale {
        made = made.float("scale", s.0);
    }
    if op.softcap.0 != 0.0 {
        made = made.float("softcap", op.softcap.0);
    }
    for (name, window) in [("left_window_size", op.left_window), ("right_window_size", op.right_window)] {
        if let Some(n) = window {
            made = made.size(name, n);
        }
    }
    if let Some(m) = mode {
        made.int("qk_matmul_output_mode", m);
    }
    Ok(())
}

/// Products with a softmax between them.
fn apart(cx: &mut NodeCx<'_, '_, '_>, op: &Attention) -> Result<()> {
    let dtype = cx.dtype_of(0)?;
    let Some(scale) = scale(cx, op) else { return refuse("the size of a head is not known") };
    let rows = op.q_heads > 0;
    let mut parts = vec![];
    for i in 0..3 {
        let mut x = cx.input(i);
        // Keys are turned for the product, on the way to the front where their heads go there.
        let perm: Option<&[i64]> = match (rows, i) {
            (true, 1) => Some(&[0, 2, 3, 1]),
            (true, _) => Some(&[0, 2, 1, 3]),
            (false, 1) => Some(&[0, 1, 3, 2]),
            (false, _) => None,
        };
        if rows {
            let heads = i64::try_from(op.q_heads).unwrap_or(i64::MAX);
            let shape = cx.new_ints("heads", &[0, 0, heads, -1])?;
            x = cx.part("Reshape", vec![x, shape]);
        }
        if let (false, 1 | 2, Some(times @ 2..), Some(all), Some(size)) =
            (rows, i, repeats(cx), cx.size_of(0, 1), cx.size_of(i, 3))
        {
            let ints = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
            let behind = cx.new_ints("behind", &[2])?;
            x = cx.part("Unsqueeze", vec![x, behind]);
            let shape = cx.new_ints("times", &[1, 1, ints(times), 1, 1])?;
            x = cx.part("Expand", vec![x, shape]);
            let shape = cx.new_ints("shared", &[0, ints(all), -1, ints(size)])?;
            x = cx.part("Reshape", vec![x, shape]);
        }
        if let Some(perm) = perm {
            let y = cx.temporary();
            cx.add("Transpose", vec![x], vec![y.clone()]).ints("perm", perm);
            x = y;
        }
        parts.push(x);
    }
    let mut parts = parts.into_iter();
    let (Some(q), Some(k), Some(v)) = (parts.next(), parts.next(), parts.next()) else {
        return refuse("operands are missing");
    };
    let mut scores = cx.part("MatMul", vec![q, k]);
    if scale != 1.0 {
        let factor = cx.new_scalar("scale", dtype, scale)?;
        scores = cx.part("Mul", vec![scores, factor]);
    }
    if cx.node.input(3).is_some() {
        let mask = cx.input(3);
        scores = cx.part("Add", vec![scores, mask]);
    }
    let p = cx.temporary();
    cx.add("Softmax", vec![scores], vec![p.clone()]).int("axis", -1);
    let y = cx.output(0);
    if !rows {
        cx.add("MatMul", vec![p, v], vec![y]);
        return Ok(());
    }
    let heads = cx.part("MatMul", vec![p, v]);
    let turned = cx.temporary();
    cx.add("Transpose", vec![heads], vec![turned.clone()]).ints("perm", &[0, 2, 1, 3]);
    let shape = cx.new_ints("rows", &[0, 0, -1])?;
    cx.add("Reshape", vec![turned, shape], vec![y]);
    Ok(())
}

pub(super) fn rotary(cx: &mut NodeCx<'_, '_, '_>, op: &RotaryEmbedding) -> Result<()> {
    let made = cx.plain("RotaryEmbedding").flag("interleaved", op.interleaved);
    let made = if op.heads > 0 { made.size("num_heads", op.heads) } else { made };
    if op.dim > 0 {
        made.size("rotary_embedding_dim", op.dim);
    }
    Ok(())
}

pub(super) fn linear(cx: &mut NodeCx<'_, '_, '_>, op: &LinearAttention) -> Result<()> {
    let rule = match (cx.node.input(4).is_some(), cx.node.input(5).is_some()) {
        (false, false) => "linear",
        (true, false) => "gated",
        (false, true) => "delta",
        (true, true) => "gated_delta",
    };
    let made = cx.plain("LinearAttention").string("update_rule", rule);
    let made = made.size("q_num_heads", op.q_heads).size("kv_num_heads", op.kv_heads);
    if let Some(s) = op.scale {
        made.float("scale", s.0);
    }
    Ok(())
}

pub(super) fn causal_conv(cx: &mut NodeCx<'_, '_, '_>, op: &CausalConv) -> Result<()> {
    cx.plain("CausalConvWithState").string("activation", if op.silu { "silu" } else { "none" });
    Ok(())
}
