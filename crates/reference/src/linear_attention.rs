//! Recurrences that carry a state from one call to the next.

use crate::{
    EvalError,
    error::refuse,
    eval::{Operands, wrong_dtype},
};
use tensormill_ir::ops::{CausalConv, LinearAttention};
use tensormill_tensor::{Shape, Tensor, Value};

type Result<T> = std::result::Result<T, EvalError>;

fn dims3(t: &Tensor) -> Result<[usize; 3]> {
    match **t.shape() {
        [a, b, c] => Ok([a, b, c]),
        _ => refuse("operands must have rank 3"),
    }
}

pub(crate) fn linear(op: &LinearAttention, x: &Operands<'_>) -> Result<Vec<Value>> {
    let q = x.tensor(0)?;
    if !q.dtype().is_float() {
        return wrong_dtype(q);
    }
    let (heads, kv) = (op.q_heads, op.kv_heads);
    let ([b, s, qn], [kb, ks, kn], [vb, vs, vn]) = (dims3(q)?, dims3(x.tensor(1)?)?, dims3(x.tensor(2)?)?);
    if kv == 0 || heads % kv != 0 || qn % heads.max(1) != 0 || vn % kv != 0 || heads == 0 {
        return refuse("operands do not divide into heads");
    }
    let (size, v_size) = (qn / heads, vn / kv);
    if (kb, ks, kn) != (b, s, kv * size) || (vb, vs) != (b, s) {
        return refuse("the shapes of queries, keys and values do not fit");
    }
    let (qv, kvs, vv) = (q.to_f64_vec()?, x.tensor(1)?.to_f64_vec()?, x.tensor(2)?.to_f64_vec()?);
    let state_shape = Shape::from([b, kv, size, v_size]);
    let y_shape = Shape::from([b, s, heads * v_size]);
    x.limits.check(&state_shape)?;
    x.limits.check(&y_shape)?;
    let (mut state, state_dtype) = match x.opt_tensor(3)? {
        Some(p) if *p.shape() == state_shape => (p.to_f64_vec()?, p.dtype()),
        Some(p) => return refuse(format!("a state of shape {:?} does not fit", p.shape().dims())),
        None => (vec![0.0; state_shape.numel()], q.dtype()),
    };
    // Per head or finer; the number of values per position says which.
    let gate = |i: usize, allowed: [usize; 2]| -> Result<Option<(Vec<f64>, usize)>> {
        let Some(t) = x.opt_tensor(i)? else { return Ok(None) };
        let [gb, gs, n] = dims3(t)?;
        if (gb, gs) != (b, s) || !allowed.contains(&n) {
            return refuse(format!("operand {i} has the wrong shape {:?}", t.shape().dims()));
        }
        Ok(Some((t.to_f64_vec()?, n)))
    };
    let decay = gate(4, [kv, kv * size])?;
    let beta = gate(5, [kv, 1])?;
    let scale = op.scale.map_or_else(|| 1.0 / (size as f64).sqrt(), |s| f64::from(s.0));
    let mut y = vec![0.0; y_shape.numel()];
    let block = size * v_size;
    for at in 0..b * s {
        for h in 0..kv {
            let cell = at / s * kv + h;
            let state = &mut state[cell * block..][..block];
            let k = &kvs[at * kn + h * size..][..size];
            let v = &vv[at * vn + h * v_size..][..v_size];
            if let Some((g, n)) = &decay {
                for (d, row) in state.chunks_mut(v_size.max(1)).enumerate() {
                    let by = g[at * n + if *n == kv { h } else { h * size + d }].exp();
                    row.iter_mut().for_each(|s| *s *= by);
                }
            }
            for m in 0..v_size {
                let recalled: f64 = (0..size).map(|d| state[d * v_size + m] * k[d]).sum();
                let w = match &beta {
                    Some((rate, n)) => rate[at * n + if *n == 1 { 0 } else { h }] * (v[m] - recalled),
                    None => v[m],
                };
                for d in 0..size {
                    state[d * v_size + m] += k[d] * w;
                }
            }
            for head in h * (heads / kv)..(h + 1) * (heads / kv) {
                let q = &qv[at * qn + head * size..][..size];
                for m in 0..v_size {
                    let sum: f64 = (0..size).map(|d| state[d * v_size + m] * q[d]).sum();
                    y[(at * heads + head) * v_size + m] = scale * sum;
                }
            }
        }
    }
    let y = Tensor::from_f64s(q.dtype(), y_shape, y)?;
    Ok(vec![y.into(), Tensor::from_f64s(state_dtype, state_shape, state)?.into()])
}

pub(crate) fn causal_conv(op: &CausalConv, x: &Operands<'_>) -> Result<Vec<Value>> {
    let t = x.tensor(0)?;
    if !t.dtype().is_float() {
        return wrong_dtype(t);
    }
    let ([b, channels, n], [c, one, k]) = (dims3(t)?, dims3(x.tensor(1)?)?);
    if c != channels || one != 1 || k == 0 {
        return refuse("there must be one kernel per channel");
    }
    let kernels = x.tensor(1)?.to_f64_vec()?;
    let bias = x.opt_tensor(2)?.map(Tensor::to_f64_vec).transpose()?;
    if bias.as_ref().is_some_and(|v| v.len() != channels) {
        return refuse("there must be one bias per channel");
    }
    let carried = k - 1;
    let state_shape = Shape::from([b, channels, carried]);
    x.limits.check(&state_shape)?;
    let past = match x.opt_tensor(3)? {
        Some(p) if *p.shape() == state_shape => p.to_f64_vec()?,
        Some(_) => return refuse("the past must have one position less than the kernels"),
        None => vec![0.0; state_shape.numel()],
    };
    let v = t.to_f64_vec()?;
    let (mut y, mut state) = (Vec::with_capacity(v.len()), Vec::with_capacity(past.len()));
    for row in 0..b * channels {
        let mut line = past[row * carried..][..carried].to_vec();
        line.extend_from_slice(&v[row * n..][..n]);
        let kernel = &kernels[row % channels * k..][..k];
        let add = bias.as_ref().map_or(0.0, |b| b[row % channels]);
        for window in line.windows(k) {
            let sum = add + window.iter().zip(kernel).map(|(a, b)| a * b).sum::<f64>();
            y.push(if op.silu { sum / (1.0 + (-sum).exp()) } else { sum });
        }
        state.extend_from_slice(&line[n..]);
    }
    let y = Tensor::from_f64s(t.dtype(), t.shape().clone(), y)?;
    Ok(vec![y.into(), Tensor::from_f64s(t.dtype(), state_shape, state)?.into()])
}
