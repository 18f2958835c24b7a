//! Attention by heads, read and written where the heads lie, and rotary positions.

use crate::native::{Built, Call, Fail, Known, Native, Prep};
use std::borrow::Cow;
use tensormill_ir::ops::{Attention, AttentionScores, RotaryEmbedding};
use tensormill_kernels::attention::{
    Heads, Mask, MaskValues, Rotary, Scoring, Sizes, attention as kernel, rotary as rotary_kernel,
};
use tensormill_kernels::copy::row_major;
use tensormill_tensor::{DType, arena};

/// An operand's heads: how many, rows and elements of each, and strides over batch, head and row.
struct Layout {
    batch: usize,
    heads: usize,
    rows: usize,
    size: usize,
    strides: [usize; 3],
}

/// The elements of a row of all heads, where they lie side by side in the rows of one matrix.
fn side_by_side(l: &Layout) -> Option<usize> {
    let width = l.heads * l.size;
    (l.strides == [l.rows * width, l.size, width]).then_some(width)
}

impl Layout {
    fn of(k: &Known<'_>, heads: usize) -> Result<Layout, Cow<'static, str>> {
        let dense = row_major(k.shape);
        let strides = k.strides.unwrap_or(&dense);
        match *k.shape {
            [batch, heads, rows, size] if size <= 1 || strides[3] == 1 => {
                Ok(Layout { batch, heads, rows, size, strides: [strides[0], strides[1], strides[2]] })
            }
            [batch, rows, width] if heads > 0 && width % heads == 0 => {
                let size = width / heads;
                Ok(Layout { batch, heads, rows, size, strides: [strides[0], size, strides[1]] })
            }
            _ => Err("the heads' elements lie apart".into()),
        }
    }
}

/// What is seen of which key: shape, strides and whether it is true or false.
struct MaskLayout {
    strides: [usize; 4],
    keys: usize,
    seen: bool,
}

impl MaskLayout {
    fn of(k: &Known<'_>, sizes: &Sizes) -> Result<MaskLayout, Cow<'static, str>> {
        let keys = k.shape.last().copied().unwrap_or(sizes.keys);
        let to = [sizes.batch, sizes.heads, sizes.queries, keys];
        if k.shape.len() > 4 || keys > sizes.keys {
            return Err("the mask is larger than the scores".into());
        }
        let mut strides = [0; 4];
        let dense = row_major(k.shape);
        let lead = 4 - k.shape.len();
        for (a, (&d, &stride)) in k.shape.iter().zip(&dense).enumerate() {
            match d {
                _ if d == to[lead + a] => strides[lead + a] = if d == 1 { 0 } else { stride },
                1 => {}
                _ => return Err("the mask does not broadcast to the scores".into()),
            }
        }
        match k.dtype {
            DType::F32 | DType::Bool => Ok(MaskLayout { strides, keys, seen: k.dtype == DType::Bool }),
            d => Err(format!("no kernel for masks of {d}").into()),
        }
    }
}

/// Whether the kernel computes what the attributes ask for.
fn covers(op: &Attention) -> bool {
    let windows = op.left_window.is_some() || op.right_window.is_some();
    !op.present && op.scores == AttentionScores::None && !windows
}

/// What a kernel needs to know of the operands.
struct Plan {
    sizes: Sizes,
    strides: [[usize; 3]; 3],
    /// Where an operand is the rows of one matrix, the elements of a row, and the rows of a batch item.
    matrices: [Option<(usize, usize)>; 3],
    mask: Option<MaskLayout>,
}

impl Plan {
    fn of(op: &Attention, ins: &[Option<Known<'_>>]) -> Result<Plan, Cow<'static, str>> {
        let opt = |i: usize| ins.get(i).copied().flatten();
        if !covers(op) || (4..7).any(|i| opt(i).is_some()) {
            return Err("no kernel takes past keys, lengths or windows, or gives scores".into());
        }
        let operand = |i: usize, heads| match opt(i) {
            Some(k) if k.dtype == DType::F32 => Layout::of(&k, heads),
            Some(k) => Err(format!("no kernel for {}", k.dtype).into()),
            None => Err("an operand is missing".into()),
        };
        let (q, k, v) = (operand(0, op.q_heads)?, operand(1, op.kv_heads)?, operand(2, op.kv_heads)?);
        let same = [k.batch, v.batch] == [q.batch; 2]
            && (k.heads, k.rows, k.size) == (v.heads, v.rows, q.size)
            && k.heads > 0
            && q.heads.is_multiple_of(k.heads);
        if !same {
            return Err("queries, keys and values do not fit".into());
        }
        let sizes = Sizes {
            batch: q.batch,
            heads: q.heads,
            kv_heads: k.heads,
            queries: q.rows,
            keys: k.rows,
            size: q.size,
            value_size: v.size,
        };
        let mask = opt(3).map(|m| MaskLayout::of(&m, &sizes)).transpose()?;
        let matrices = [&q, &k, &v].map(|l| Some((side_by_side(l)?, l.rows)));
        Ok(Plan { sizes, strides: [q.strides, k.strides, v.strides], matrices, mask })
    }
}

/// Whether a kernel runs for operands of these types, so that it may read them through transpositions.
pub(crate) fn runs(op: &Attention, ins: &[Option<Known<'_>>]) -> bool {
    Plan::of(op, ins).is_ok()
}

pub(crate) fn attention(p: &Prep<'_>, op: &Attention) -> Built {
    let Plan { sizes, strides, matrices, mask } = Plan::of(op, p.ins)?;
    let Sizes { batch, heads, queries, keys, size, value_size, .. } = sizes;
    let scoring = Scoring {
        scale: op.scale.map_or_else(|| (1.0 / (size as f64).sqrt()) as f32, |s| s.0),
        softcap: op.softcap.0,
        causal: op.causal.then_some(0),
        blind_nan: op.blind_nan,
    };
    let out_strides = match **p.out() {
        [_, rows, width] => [rows * width, value_size, width],
        _ => [heads * queries * value_size, queries * value_size, value_size],
    };
    let mut native = Native::new("attention", move |c: &mut Call<'_, '_>| {
        let heads = |i: usize| -> Result<Heads<'_>, Fail> {
            let strides = match matrices[i] {
                None => strides[i],
                Some((width, rows)) => {
                    let pitch = c.pitch::<f32>(i, width);
                    [rows * pitch, strides[i][1], pitch]
                }
            };
            Ok(Heads { data: c.get(i)?, strides })
        };
        let (q, k, v) = (heads(0)?, heads(1)?, heads(2)?);
        let mask = match &mask {
            None => None,
            Some(m) => {
                let values = if m.seen {
                    let bad = || Fail("a mask is neither true nor false".into());
                    MaskValues::Seen(arena::bools(c.view(3)?.bytes).ok_or_else(bad)?)
                } else {
                    MaskValues::Added(c.get(3)?)
                };
                Some(Mask { values, strides: m.strides, keys: m.keys })
            }
        };
        Ok(kernel(c.pool, sizes, q, k, v, mask, scoring, c.out(0)?, out_strides)?)
    })?;
    native.reads_rows = (0..3).filter_map(|i| Some((i, matrices[i]?.0))).collect();
    native.reason = format!("{heads} heads, {queries} by {keys}");
    native.flops = [batch, heads, queries, keys, size + value_size]
        .iter()
        .fold(2, |all, n| u64::saturating_mul(all, *n as u64));
    Ok(native)
}

pub(crate) fn rotary(p: &Prep<'_>, op: &RotaryEmbedding) -> Built {
    (0..3).try_for_each(|i| p.need(i, DType::F32))?;
    let (x, cos, sin) = (p.get(0)?, p.get(1)?, p.get(2)?);
    let (batch, heads, rows, size) = match *x.shape {
        [batch, heads, rows, size] => (batch, heads, rows, size),
        [batch, rows, width] if op.heads > 0 && width % op.heads == 0 => {
            (batch, op.heads, rows, width / op.heads)
        }
        _ => return Err("the heads do not divide the rows".into()),
    };
    let rotated = if op.dim == 0 { size } else { op.dim };
    let by_id = p.opt(3).is_some();
    let fits = match (cos.shape, by_id) {
        (&[_, half], true) => half * 2 == rotated && *p.get(3)?.shape == [batch, rows],
        (&[b, s, half], false) => [b, s, half * 2] == [batch, rows, rotated],
        _ => false,
    };
    if !fits || cos.shape != sin.shape {
        return Err("the tables are not of half the rotated part".into());
    }
    if by_id {
        p.need(3, DType::I64)?;
    }
    let heads_first = x.shape.len() == 4;
    let r = Rotary { batch, heads, rows, size, rotated, heads_first, interleaved: op.interleaved };
    let mut native = Native::new("rotary-embedding", move |c: &mut Call<'_, '_>| {
        let (x, cos, sin) = (c.get::<f32>(0)?, c.get::<f32>(1)?, c.get::<f32>(2)?);
        let ids = if by_id { Some(c.get::<i64>(3)?) } else { None };
        Ok(rotary_kernel(c.pool, r, x, cos, sin, ids, c.out::<f32>(0)?)?)
    })?;
    native.flops = 3 * x.len() as u64;
    Ok(native)
}
