//! Fourier transforms and what goes with them.

use crate::{
    EvalError,
    data::{Wide, axis, i64s},
    error::refuse,
    eval::{Operands, wrong_dtype},
    fourier::{Complex, transform},
};
use std::f64::consts::{LN_10, TAU};
use tensormill_ir::ops::{Dft, MelWeights, Stft, WindowFunction, WindowKind};
use tensormill_tensor::{DType, Shape, Tensor};

type Result<T> = std::result::Result<T, EvalError>;

fn integer(t: &Tensor) -> Result<i64> {
    if !t.dtype().is_int() || t.len() != 1 {
        return refuse("a scalar integer is expected");
    }
    Ok(i64s(t)?[0])
}

fn size(t: &Tensor) -> Result<usize> {
    let n = integer(t)?;
    usize::try_from(n).map_err(|_| EvalError::Operand(format!("a length of {n}")))
}

/// Elements of a tensor whose last axis holds one part of a number or both.
fn numbers(t: &Tensor) -> Result<Vec<Complex>> {
    if !t.dtype().is_float() {
        return wrong_dtype(t);
    }
    let v = t.to_f64_vec()?;
    match t.shape().last() {
        Some(1) => Ok(v.into_iter().map(|re| (re, 0.0)).collect()),
        Some(2) => Ok(v.chunks_exact(2).map(|c| (c[0], c[1])).collect()),
        _ => refuse("the last axis must hold one part or two"),
    }
}

pub(crate) fn dft(op: &Dft, x: &Operands<'_>) -> Result<Tensor> {
    let t = x.tensor(0)?;
    let v = numbers(t)?;
    let rank = t.shape().rank();
    if rank < 2 {
        return refuse("x must have rank 2 or more");
    }
    let at = axis(x.opt_tensor(2)?.map_or(Ok(-2), integer)?, rank)?;
    if at == rank - 1 {
        return refuse("the last axis holds the parts of a number");
    }
    let own = t.shape()[at];
    let back_to_real = op.inverse && op.onesided;
    let n = match x.opt_tensor(1)? {
        Some(l) => size(l)?,
        None if back_to_real && own == 0 => return refuse("half a spectrum of no bins"),
        None if back_to_real => 2 * (own - 1),
        None => own,
    };
    let kept = if op.onesided && !op.inverse { n / 2 + 1 } else { n };
    let mut dims = t.shape().to_vec();
    dims[at] = kept;
    dims[rank - 1] = if back_to_real { 1 } else { 2 };
    let shape = Shape::from(dims);
    x.limits.check(&shape)?;
    x.limits.check(&Shape::from([n]))?;
    let inner: usize = t.shape()[at + 1..rank - 1].iter().product();
    let outer: usize = t.shape()[..at].iter().product();
    let parts = shape[rank - 1];
    let mut y = vec![0.0; shape.numel()];
    for line in 0..outer * inner {
        x.limits.check_cancel()?;
        let (o, i) = (line / inner, line % inner);
        let mut signal: Vec<Complex> = (0..own.min(n)).map(|k| v[(o * own + k) * inner + i]).collect();
        signal.resize(n, (0.0, 0.0));
        if back_to_real {
            // The second half is the mirror of the first; what a real signal cannot have is left out.
            let known = own.min(n / 2 + 1);
            signal.iter_mut().skip(known).for_each(|c| *c = (0.0, 0.0));
            for k in 1..n.div_ceil(2) {
                signal[n - k] = (signal[k].0, -signal[k].1);
            }
            for k in [0, n / 2] {
                if let Some(c) = signal.get_mut(k).filter(|_| k == 0 || n % 2 == 0) {
                    c.1 = 0.0;
                }
            }
        }
        let out = transform(&signal, op.inverse);
        for (k, c) in out.iter().take(kept).enumerate() {
            let to = ((o * kept + k) * inner + i) * parts;
            y[to] = c.0;
            if parts == 2 {
                y[to + 1] = c.1;
            }
        }
    }
    Ok(Tensor::from_f64s(t.dtype(), shape, y)?)
}

pub(crate) fn stft(op: &Stft, x: &Operands<'_>) -> Result<Tensor> {
    let t = x.tensor(0)?;
    let v = numbers(t)?;
    let [batch, own, _] = **t.shape() else { return refuse("a signal must have rank 3") };
    let step = size(x.tensor(1)?)?;
    let window = x.opt_tensor(2)?.map(Tensor::to_f64_vec).transpose()?;
    let n = match (x.opt_tensor(3)?, &window) {
        (Some(l), _) => size(l)?,
        (None, Some(w)) => w.len(),
        (None, None) => own,
    };
    if step == 0 || n > own || window.as_ref().is_some_and(|w| w.len() != n) {
        return refuse(format!("pieces of {n} in steps of {step} do not fit a signal of {own}"));
    }
    let pieces = (own - n) / step + 1;
    let bins = if op.onesided { n / 2 + 1 } else { n };
    let shape = Shape::from([batch, pieces, bins, 2]);
    x.limits.check(&shape)?;
    let mut y = Vec::with_capacity(shape.numel());
    for b in 0..batch {
        for p in 0..pieces {
            x.limits.check_cancel()?;
            let piece = &v[b * own + p * step..][..n];
            let weight = |i: usize| window.as_ref().map_or(1.0, |w| w[i]);
            let piece: Vec<Complex> =
                piece.iter().enumerate().map(|(i, c)| (c.0 * weight(i), c.1 * weight(i))).collect();
            y.extend(transform(&piece, false).iter().take(bins).flat_map(|c| [c.0, c.1]));
            // Of nothing, the one bin that a one-sided spectrum has is the empty sum.
            y.resize((b * pieces + p + 1) * bins * 2, 0.0);
        }
    }
    Ok(Tensor::from_f64s(t.dtype(), shape, y)?)
}

/// A tensor of a dtype that may be of integers, cut towards zero.
fn rounded(dtype: DType, shape: Shape, v: Vec<f64>) -> Result<Tensor> {
    if dtype.is_float() {
        return Ok(Tensor::from_f64s(dtype, shape, v)?);
    }
    Wide::Int(v.into_iter().map(|x| x as i128).collect()).tensor(dtype, shape)
}

pub(crate) fn window(op: &WindowFunction, x: &Operands<'_>) -> Result<Tensor> {
    let n = size(x.tensor(0)?)?;
    let shape = Shape::from([n]);
    x.limits.check(&shape)?;
    let period = if op.periodic { n } else { n.saturating_sub(1) };
    let at = |i: usize| {
        // One point alone has no period: it is the middle.
        if period == 0 {
            return 1.0;
        }
        let turn = TAU * i as f64 / period as f64;
        match op.kind {
            WindowKind::Hann => 0.5 - 0.5 * turn.cos(),
            WindowKind::Hamming => 25.0 / 46.0 - 21.0 / 46.0 * turn.cos(),
            WindowKind::Blackman => 0.42 - 0.5 * turn.cos() + 0.08 * (2.0 * turn).cos(),
        }
    };
    rounded(op.to, shape, (0..n).map(at).collect())
}

pub(crate) fn mel_weights(op: &MelWeights, x: &Operands<'_>) -> Result<Tensor> {
    let (bands, n, rate) = (size(x.tensor(0)?)?, size(x.tensor(1)?)?, integer(x.tensor(2)?)?);
    let hertz = |i: usize| match x.tensor(i)?.to_f64_vec()?[..] {
        [f] if f.is_finite() && f >= 0.0 => Ok(f),
        _ => refuse(format!("operand {i} must be a frequency")),
    };
    let (low, high) = (hertz(3)?, hertz(4)?);
    if rate <= 0 {
        return refuse("the sample rate must be positive");
    }
    let rows = n / 2 + 1;
    let shape = Shape::from([rows, bands]);
    x.limits.check(&shape)?;
    let mel = |f: f64| 2595.0 * (f / 700.0).ln_1p() / LN_10;
    let step = (mel(high) - mel(low)) / (bands as f64 + 2.0);
    let bin = |i: usize| {
        let f = 700.0 * ((i as f64 * step + mel(low)) / 2595.0 * LN_10).exp_m1();
        ((n as f64 + 1.0) * f / rate as f64).floor() as i64
    };
    let mut y = vec![0.0; shape.numel()];
    for band in 0..bands {
        let (left, middle, right) = (bin(band), bin(band + 1), bin(band + 2));
        let from = left.max(0);
        for j in from..right.max(middle.saturating_add(1)).min(rows as i64) {
            let weight = if j < middle {
                (j - left) as f64 / (middle - left) as f64
            } else if j == middle {
                1.0
            } else {
                (right - j) as f64 / (right - middle) as f64
            };
            y[j as usize * bands + band] = weight;
        }
    }
    rounded(op.to, shape, y)
}
