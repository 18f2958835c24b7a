//! Attention over queries, keys and values, and rotary positions.

use crate::{
    EvalError,
    data::{broadcast_indices, i64s, take},
    error::refuse,
    eval::{Operands, wrong_dtype},
};
use tensormill_ir::ops::{Attention, AttentionScores, RotaryEmbedding};
use tensormill_tensor::{DType, Shape, Tensor, Value};

type Result<T> = std::result::Result<T, EvalError>;

/// A tensor as `[batch, heads, sequence, size]`.
fn by_head(t: &Tensor, heads: usize) -> Result<Tensor> {
    match **t.shape() {
        [_, _, _, _] => Ok(t.clone()),
        [b, s, d] if heads > 0 && d % heads == 0 => {
            let size = d / heads;
            let at = |i: usize| {
                let (rest, e) = (i / size, i % size);
                let (rest, p) = (rest / s, rest % s);
                let (b, h) = (rest / heads, rest % heads);
                ((b * s + p) * heads + h) * size + e
            };
            take(t, [b, heads, s, size], &(0..t.len()).map(at).collect::<Vec<_>>())
        }
        [_, _, d] => refuse(format!("{d} does not divide into {heads} heads")),
        _ => refuse("operands must have rank 3 or 4"),
    }
}

/// The inverse of [`by_head`] for rank 3: `[batch, heads, sequence, size]` as `[batch, sequence, heads * size]`.
fn by_sequence(t: &Tensor) -> Result<Tensor> {
    let [b, heads, s, size] = **t.shape() else { return refuse("operands must have rank 4") };
    let at = |i: usize| {
        let (rest, e) = (i / size, i % size);
        let (rest, h) = (rest / heads, rest % heads);
        let (b, p) = (rest / s, rest % s);
        ((b * heads + h) * s + p) * size + e
    };
    take(t, [b, s, heads * size], &(0..t.len()).map(at).collect::<Vec<_>>())
}

/// Past and new along axis 2.
fn joined(past: Option<&Tensor>, new: Tensor, x: &Operands<'_>) -> Result<Tensor> {
    let Some(past) = past else { return Ok(new) };
    let ([b, h, p, d], [nb, nh, n, nd]) = (dims4(past)?, dims4(&new)?);
    if (b, h, d) != (nb, nh, nd) || past.dtype() != new.dtype() {
        return refuse("past and new keys and values do not fit");
    }
    let total = p.checked_add(n).ok_or_else(|| EvalError::Operand("too many keys".into()))?;
    let shape = Shape::from([b, h, total, d]);
    x.limits.check(&shape)?;
    let (old, fresh) = (past.to_f64_vec()?, new.to_f64_vec()?);
    let mut all = Vec::with_capacity(shape.numel());
    for i in 0..b * h {
        all.extend_from_slice(&old[i * p * d..(i + 1) * p * d]);
        all.extend_from_slice(&fresh[i * n * d..(i + 1) * n * d]);
    }
    Ok(Tensor::from_f64s(new.dtype(), shape, all)?)
}

fn dims4(t: &Tensor) -> Result<[usize; 4]> {
    match **t.shape() {
        [a, b, c, d] => Ok([a, b, c, d]),
        _ => refuse("operands must have rank 4"),
    }
}

/// What a mask adds to each score of `[batch, heads, queries, keys]`.
struct Mask {
    values: Vec<f64>,
    indices: Vec<usize>,
    /// Keys that it speaks of; those after are hidden.
    keys: usize,
}

impl Mask {
    fn new(t: &Tensor, [b, h, s, total]: [usize; 4]) -> Result<Mask> {
        let own = t.shape();
        let keys = own.last().copied().unwrap_or(total);
        if keys > total || own.rank() > 4 {
            return refuse("the mask is larger than the scores");
        }
        let to = Shape::from([b, h, s, keys]);
        let fits = own.iter().rev().zip(to.iter().rev()).all(|(a, b)| a == b || *a == 1);
        if !fits {
            return refuse(format!("a mask of {:?} does not broadcast to {:?}", own.dims(), to.dims()));
        }
        let values = if t.dtype() == DType::Bool {
            t.to_bool_vec()?.into_iter().map(|seen| if seen { 0.0 } else { f64::NEG_INFINITY }).collect()
        } else if t.dtype().is_float() {
            t.to_f64_vec()?
        } else {
            return wrong_dtype(t);
        };
        Ok(Mask { values, indices: broadcast_indices(own, &to), keys })
    }

    /// For a row of scores, counted through batches, heads and queries.
    fn at(&self, row: usize, key: usize) -> f64 {
        if key >= self.keys { f64::NEG_INFINITY } else { self.values[self.indices[row * self.keys + key]] }
    }
}

/// Which keys the query at `p` may see by its position.
fn in_reach(op: &Attention, p: i128, key: i128) -> bool {
    let after = |n: Option<usize>, d: i128| n.is_none_or(|n| d <= n as i128);
    (!op.causal || key <= p) && after(op.left_window, p - key) && after(op.right_window, key - p)
}

pub(crate) fn attention(op: &Attention, x: &Operands<'_>) -> Result<Vec<Value>> {
    let (q0, k0, v0) = (x.tensor(0)?, x.tensor(1)?, x.tensor(2)?);
    if !(q0.dtype().is_float() && k0.dtype().is_float() && v0.dtype().is_float()) {
        return wrong_dtype(q0);
    }
    let rank = q0.shape().rank();
    if k0.shape().rank() != rank || v0.shape().rank() != rank {
        return refuse("queries, keys and values must have one rank");
    }
    let q = by_head(q0, op.q_heads)?;
    let k = joined(x.opt_tensor(4)?, by_head(k0, op.kv_heads)?, x)?;
    let v = joined(x.opt_tensor(5)?, by_head(v0, op.kv_heads)?, x)?;
    let past = x.opt_tensor(4)?.map_or(0, |t| t.shape()[2]);
    let ([b, heads, s, size], [kb, kv_heads, total, k_size], [vb, v_heads, v_total, v_size]) =
        (dims4(&q)?, dims4(&k)?, dims4(&v)?);
    let fits = kb == b && vb == b && v_heads == kv_heads && v_total == total && k_size == size;
    if !fits || kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        return refuse("the shapes of queries, keys and values do not fit");
    }
    let group = heads / kv_heads;
    let scores_shape = Shape::from([b, heads, s, total]);
    let y_shape = Shape::from([b, heads, s, v_size]);
    x.limits.check(&scores_shape)?;
    x.limits.check(&y_shape)?;
    let mask = x.opt_tensor(3)?.map(|m| Mask::new(m, [b, heads, s, total])).transpose()?;
    let lengths = x.opt_tensor(6)?.map(i64s).transpose()?;
    if lengths.as_ref().is_some_and(|l| l.len() != b) {
        return refuse("there must be one length per batch");
    }
    let scale = op.scale.map_or_else(|| 1.0 / (size as f64).sqrt(), |s| f64::from(s.0));
    let cap = f64::from(op.softcap.0);
    let (qv, kv, vv) = (q.to_f64_vec()?, k.to_f64_vec()?, v.to_f64_vec()?);
    let mut y = Vec::with_capacity(y_shape.numel());
    let keep = op.scores != AttentionScores::None;
    let mut kept = Vec::with_capacity(if keep { scores_shape.numel() } else { 0 });
    for row in 0..b * heads * s {
        let (batch, head, query) = (row / (heads * s), row / s % heads, row % s);
        let kv_row = (batch * kv_heads + head / group) * total;
        let length = lengths.as_ref().map(|l| i128::from(l[batch]));
        let p = query as i128 + length.map_or(past as i128, |l| l - s as i128);
        let mut seen = false;
        let mut scores = Vec::with_capacity(total);
        for key in 0..total {
            let a = &qv[row * size..][..size];
            let b = &kv[(kv_row + key) * size..][..size];
            let mut score = a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() * scale;
            if op.scores == AttentionScores::Raw {
                kept.push(score);
            }
            if cap != 0.0 {
                score = cap * (score / cap).tanh();
            }
            if op.scores == AttentionScores::Capped {
                kept.push(score);
            }
            let mut bias = mask.as_ref().map_or(0.0, |m| m.at(row, key));
            if !in_reach(op, p, key as i128) || length.is_some_and(|l| key as i128 >= l) {
                bias = f64::NEG_INFINITY;
            }
            seen |= bias != f64::NEG_INFINITY;
            scores.push(score + bias);
        }
        if op.scores == AttentionScores::Biased {
            kept.extend_from_slice(&scores);
        }
        let seen = seen || op.blind_nan;
        softmax(&mut scores, seen);
        if op.scores == AttentionScores::Softmax {
            kept.extend_from_slice(&scores);
        }
        let from = y.len();
        y.resize(from + v_size, 0.0);
        if seen {
            for (key, w) in scores.iter().enumerate() {
                for (y, v) in y[from..].iter_mut().zip(&vv[(kv_row + key) * v_size..]) {
                    *y += w * v;
                }
            }
        }
    }
    let y = Tensor::from_f64s(q.dtype(), y_shape, y)?;
    let mut results = vec![Value::Tensor(if rank == 3 { by_sequence(&y)? } else { y })];
    if op.present {
        results.extend([k.into(), v.into()]);
    }
    if keep {
        results.push(Tensor::from_f64s(q.dtype(), scores_shape, kept)?.into());
    }
    Ok(results)
}

/// Probabilities in place of scores; zeros when nothing is seen.
fn softmax(scores: &mut [f64], seen: bool) {
    if !seen {
        scores.fill(0.0);
        return;
    }
    let max = scores.iter().fold(f64::NEG_INFINITY, |m, s| m.max(*s));
    let mut sum = 0.0;
    for s in scores.iter_mut() {
        *s = (*s - max).exp();
        sum += *s;
    }
    for s in scores.iter_mut() {
        *s /= sum;
    }
}

pub(crate) fn rotary(op: &RotaryEmbedding, x: &Operands<'_>) -> Result<Tensor> {
    let t = x.tensor(0)?;
    if !t.dtype().is_float() {
        return wrong_dtype(t);
    }
    let by = by_head(t, op.heads)?;
    let [batch, heads, s, size] = dims4(&by)?;
    let dim = if op.dim == 0 { size } else { op.dim };
    if dim > size || !dim.is_multiple_of(2) {
        return refuse("the rotated part of a head must be even and no longer than the head");
    }
    let half = dim / 2;
    let (cos, sin) = (x.tensor(1)?, x.tensor(2)?);
    if cos.shape() != sin.shape() || cos.shape().last() != Some(&half) {
        return refuse("cosines and sines must be of half the rotated part");
    }
    // For every batch and position the row of the tables.
    let rows: Vec<usize> = match x.opt_tensor(3)? {
        Some(ids) => {
            if **ids.shape() != [batch, s] || cos.shape().rank() != 2 {
                return refuse("position ids do not fit");
            }
            let row = |p: i64| {
                let n = cos.shape()[0];
                match usize::try_from(p).ok().filter(|p| *p < n) {
                    Some(p) => Ok(p),
                    None => refuse(format!("position {p} is not one of {n}")),
                }
            };
            i64s(ids)?.into_iter().map(row).collect::<Result<_>>()?
        }
        None if **cos.shape() == [batch, s, half] => (0..batch * s).collect(),
        None => return refuse("cosines and sines must be given for every position"),
    };
    let (cos, sin) = (cos.to_f64_vec()?, sin.to_f64_vec()?);
    let mut v = by.to_f64_vec()?;
    if size > 0 {
        for (i, head) in v.chunks_mut(size).enumerate() {
            let row = rows[i / (heads * s) * s + i % s] * half;
            for j in 0..half {
                let (a, b) = if op.interleaved { (2 * j, 2 * j + 1) } else { (j, j + half) };
                let (c, n, re, im) = (cos[row + j], sin[row + j], head[a], head[b]);
                head[a] = c * re - n * im;
                head[b] = n * re + c * im;
            }
        }
    }
    let y = Tensor::from_f64s(t.dtype(), by.shape().clone(), v)?;
    if t.shape().rank() == 3 { by_sequence(&y) } else { Ok(y) }
}
