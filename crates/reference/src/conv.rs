//! Convolutions: sums over the taps of a window, one kernel place after the other.

use crate::{
    EvalError, EvalLimits,
    data::Wide,
    error::refuse,
    eval::{Operands, wrong_dtype},
};
use tensormill_ir::{
    Dim, InferError,
    ops::{Conv, ConvTranspose, DeformConv, WindowAxis},
};
use tensormill_tensor::{Shape, Tensor};

type Result<T> = std::result::Result<T, EvalError>;

/// Attributes and sizes that do not fit together.
pub(crate) fn misfit(e: InferError) -> EvalError {
    EvalError::Operand(e.0)
}

/// The shape that inference decides for operands of these shapes.
pub(crate) fn known_dims(t: &Tensor) -> Vec<Dim> {
    t.shape().iter().map(|&d| Dim::Known(d)).collect()
}

fn shape_of(dims: &[Dim]) -> Result<Shape> {
    let size = |d: &Dim| d.known().ok_or_else(|| EvalError::Operand("a size is unknown".into()));
    dims.iter().map(size).collect()
}

/// Numbers that products are summed in; integers wrap.
trait Number: Copy {
    fn add_product(self, a: Self, b: Self) -> Self;
}

impl Number for f64 {
    fn add_product(self, a: f64, b: f64) -> f64 {
        self + a * b
    }
}

impl Number for i128 {
    fn add_product(self, a: i128, b: i128) -> i128 {
        self.wrapping_add(a.wrapping_mul(b))
    }
}

/// Pairs of (window, element it sees at kernel place `k`), as flat indices over `windows` and `elements`.
pub(crate) fn taps(axes: &[WindowAxis], k: &[usize], elements: &[usize]) -> Vec<(usize, usize)> {
    let mut pairs = vec![(0, 0)];
    for (i, a) in axes.iter().enumerate() {
        let along: Vec<(usize, usize)> = (0..a.output)
            .filter(|&o| a.inside(o, elements[i]).contains(&k[i]))
            .map(|o| (o, a.input(o, k[i])))
            .collect();
        pairs = pairs
            .into_iter()
            .flat_map(|(o, e)| along.iter().map(move |(p, f)| (o * a.output + p, e * elements[i] + f)))
            .collect();
    }
    pairs
}

/// All positions of a shape, in row-major order.
pub(crate) fn positions(shape: &[usize]) -> impl Iterator<Item = Vec<usize>> + '_ {
    let n: usize = shape.iter().product();
    (0..n).map(|mut i| {
        let mut at = vec![0; shape.len()];
        for j in (0..shape.len()).rev() {
            at[j] = i % shape[j];
            i /= shape[j];
        }
        at
    })
}

fn bias(b: Option<Wide>, channels: usize) -> Result<Option<Wide>> {
    let len = match &b {
        None => return Ok(None),
        Some(Wide::Float(v)) => v.len(),
        Some(Wide::Int(v)) => v.len(),
    };
    if len == channels { Ok(b) } else { refuse(format!("a bias of {len} elements for {channels} channels")) }
}

/// A result of shape `[n, m, spatial..]` that starts as the bias.
fn begin<T: Copy>(bias: Option<&[T]>, zero: T, shape: &Shape) -> Vec<T> {
    let spatial: usize = shape[2..].iter().product();
    let channel = |c| bias.map_or(zero, |b| b[c]);
    (0..shape[0] * shape[1]).flat_map(|i| std::iter::repeat_n(channel(i % shape[1]), spatial)).collect()
}

pub(crate) fn conv(op: &Conv, x: &Operands<'_>) -> Result<Tensor> {
    convolve(op, x.tensor(0)?, x.tensor(1)?, x.opt_tensor(2)?, x.limits)
}

/// The convolution without an epilogue.
pub(crate) fn convolve(
    op: &Conv,
    t: &Tensor,
    w: &Tensor,
    b: Option<&Tensor>,
    limits: &EvalLimits<'_>,
) -> Result<Tensor> {
    let shape = shape_of(&op.output_dims(&known_dims(t), &known_dims(w)).map_err(misfit)?)?;
    limits.check(&shape)?;
    let axes = op.axes(&t.shape()[2..], &w.shape()[2..]).map_err(misfit)?;
    let b = bias(b.map(Wide::of).transpose()?, shape[1])?;
    let y = match (Wide::of(t)?, Wide::of(w)?, b) {
        (Wide::Float(t1), Wide::Float(w1), None) => {
            Wide::Float(correlate(&axes, (&t1, t), (&w1, w), begin(None, 0.0, &shape), &shape))
        }
        (Wide::Float(t1), Wide::Float(w1), Some(Wide::Float(b))) => {
            Wide::Float(correlate(&axes, (&t1, t), (&w1, w), begin(Some(&b), 0.0, &shape), &shape))
        }
        (Wide::Int(t1), Wide::Int(w1), None) => {
            Wide::Int(correlate(&axes, (&t1, t), (&w1, w), begin(None, 0, &shape), &shape))
        }
        (Wide::Int(t1), Wide::Int(w1), Some(Wide::Int(b))) => {
            Wide::Int(correlate(&axes, (&t1, t), (&w1, w), begin(Some(&b), 0, &shape), &shape))
        }
        _ => return refuse("input, kernel and bias must have one dtype"),
    };
    y.tensor(t.dtype(), shape)
}

/// Adds the correlation of x and w to `y`.
fn correlate<T: Number>(
    axes: &[WindowAxis],
    (x, xt): (&[T], &Tensor),
    (w, wt): (&[T], &Tensor),
    mut y: Vec<T>,
    shape: &Shape,
) -> Vec<T> {
    let (xs, ws) = (xt.shape(), wt.shape());
    let (elements, windows, places): (usize, usize, usize) =
        (xs[2..].iter().product(), shape[2..].iter().product(), ws[2..].iter().product());
    let (channels, kernels, per_group) = (xs[1], ws[0], ws[1]);
    let kernels_per_group = if per_group == 0 { 1 } else { (kernels * per_group / channels.max(1)).max(1) };
    for (at, k) in positions(&ws[2..]).enumerate() {
        let pairs = taps(axes, &k, &xs[2..]);
        for n in 0..shape[0] {
            for m in 0..kernels {
                for c in 0..per_group {
                    let from = m / kernels_per_group * per_group + c;
                    let x = &x[(n * channels + from) * elements..][..elements];
                    let y = &mut y[(n * kernels + m) * windows..][..windows];
                    let w = w[(m * per_group + c) * places + at];
                    for &(o, i) in &pairs {
                        y[o] = y[o].add_product(w, x[i]);
                    }
                }
            }
        }
    }
    y
}

pub(crate) fn conv_transpose(op: &ConvTranspose, x: &Operands<'_>) -> Result<Tensor> {
    let (t, w) = (x.tensor(0)?, x.tensor(1)?);
    let shape = shape_of(&op.output_dims(&known_dims(t), &known_dims(w)).map_err(misfit)?)?;
    x.limits.check(&shape)?;
    let (axes, _): (Vec<_>, Vec<_>) =
        op.axes(&t.shape()[2..], &w.shape()[2..]).map_err(misfit)?.into_iter().unzip();
    let b = bias(x.opt_tensor(2)?.map(Wide::of).transpose()?, shape[1])?;
    let scatter = |g| (axes.as_slice(), g);
    let y = match (Wide::of(t)?, Wide::of(w)?, b) {
        (Wide::Float(t1), Wide::Float(w1), None) => {
            Wide::Float(spread(scatter(op.group), (&t1, t), (&w1, w), begin(None, 0.0, &shape), &shape))
        }
        (Wide::Float(t1), Wide::Float(w1), Some(Wide::Float(b))) => {
            Wide::Float(spread(scatter(op.group), (&t1, t), (&w1, w), begin(Some(&b), 0.0, &shape), &shape))
        }
        (Wide::Int(t1), Wide::Int(w1), None) => {
            Wide::Int(spread(scatter(op.group), (&t1, t), (&w1, w), begin(None, 0, &shape), &shape))
        }
        (Wide::Int(t1), Wide::Int(w1), Some(Wide::Int(b))) => {
            Wide::Int(spread(scatter(op.group), (&t1, t), (&w1, w), begin(Some(&b), 0, &shape), &shape))
        }
        _ => return refuse("input, kernel and bias must have one dtype"),
    };
    y.tensor(t.dtype(), shape)
}

/// Adds what every element of x spreads through w to `y`.
fn spread<T: Number>(
    (axes, group): (&[WindowAxis], usize),
    (x, xt): (&[T], &Tensor),
    (w, wt): (&[T], &Tensor),
    mut y: Vec<T>,
    shape: &Shape,
) -> Vec<T> {
    let (xs, ws) = (xt.shape(), wt.shape());
    let (elements, results, places): (usize, usize, usize) =
        (xs[2..].iter().product(), shape[2..].iter().product(), ws[2..].iter().product());
    let (channels, per_group) = (xs[1], ws[1]);
    for (at, k) in positions(&ws[2..]).enumerate() {
        let pairs = taps(axes, &k, &shape[2..]);
        for n in 0..shape[0] {
            for c in 0..channels {
                for m in 0..per_group {
                    let to = c / (channels / group) * per_group + m;
                    let x = &x[(n * channels + c) * elements..][..elements];
                    let y = &mut y[(n * shape[1] + to) * results..][..results];
                    let w = w[(c * per_group + m) * places + at];
                    for &(i, o) in &pairs {
                        y[o] = y[o].add_product(w, x[i]);
                    }
                }
            }
        }
    }
    y
}

/// The value of a plane between its elements; zero outside.
fn bilinear(plane: &[f64], [h, w]: [usize; 2], y: f64, x: f64) -> f64 {
    let at = |r: f64, c: f64| {
        let inside = r >= 0.0 && c >= 0.0 && r < h as f64 && c < w as f64;
        if inside { plane[r as usize * w + c as usize] } else { 0.0 }
    };
    let (r, c) = (y.floor(), x.floor());
    let (fr, fc) = (y - r, x - c);
    let mut sum = 0.0;
    for (row, p) in [(r, 1.0 - fr), (r + 1.0, fr)] {
        for (col, q) in [(c, 1.0 - fc), (c + 1.0, fc)] {
            // An element of no weight may be infinite.
            if p != 0.0 && q != 0.0 {
                sum += p * q * at(row, col);
            }
        }
    }
    sum
}

pub(crate) fn deform_conv(op: &DeformConv, x: &Operands<'_>) -> Result<Tensor> {
    let (t, w, offset) = (x.tensor(0)?, x.tensor(1)?, x.tensor(2)?);
    let plain = op.plain();
    if t.shape().rank() != 4 {
        return refuse("the input must have two spatial axes");
    }
    let shape = shape_of(&plain.output_dims(&known_dims(t), &known_dims(w)).map_err(misfit)?)?;
    x.limits.check(&shape)?;
    let axes = plain.axes(&t.shape()[2..], &w.shape()[2..]).map_err(misfit)?;
    let mask = x.opt_tensor(4)?;
    let (n, m, oh, ow) = (shape[0], shape[1], shape[2], shape[3]);
    let (channels, per_group, kh, kw) = (t.shape()[1], w.shape()[1], w.shape()[2], w.shape()[3]);
    let groups = op.offset_group;
    let fits = |t: &Tensor, each: usize| {
        kh.checked_mul(kw)
            .and_then(|k| k.checked_mul(groups)?.checked_mul(each))
            .is_some_and(|c| t.shape()[..] == [n, c, oh, ow])
    };
    if groups == 0 || channels % groups != 0 || !fits(offset, 2) || mask.is_some_and(|m| !fits(m, 1)) {
        return refuse("offsets or mask do not fit the result and the kernel");
    }
    let (Wide::Float(tv), Wide::Float(wv), Wide::Float(ov)) = (Wide::of(t)?, Wide::of(w)?, Wide::of(offset)?)
    else {
        return wrong_dtype(t);
    };
    let mv = mask.map(|m| m.to_f64_vec()).transpose()?;
    let b = match bias(x.opt_tensor(3)?.map(Wide::of).transpose()?, m)? {
        Some(Wide::Float(b)) => Some(b),
        Some(Wide::Int(_)) => return refuse("the bias must be a float"),
        None => None,
    };
    let mut y = begin(b.as_deref(), 0.0, &shape);
    let plane = [t.shape()[2], t.shape()[3]];
    let (size, windows, places) = (plane[0] * plane[1], oh * ow, kh * kw);
    let kernels_per_group = m / op.group;
    for image in 0..n {
        for c in 0..channels {
            let from = &tv[(image * channels + c) * size..][..size];
            let own = image * groups + c / (channels / groups);
            let group = c / per_group;
            for at in 0..places {
                for o in 0..windows {
                    let shift = |which: usize| ov[((own * places + at) * 2 + which) * windows + o];
                    let base = |a: &WindowAxis, o: usize, k: usize| {
                        (o * a.stride + k * a.dilation) as f64 - a.before as f64
                    };
                    let row = base(&axes[0], o / ow, at / kw) + shift(0);
                    let col = base(&axes[1], o % ow, at % kw) + shift(1);
                    let seen = bilinear(from, plane, row, col)
                        * mv.as_ref().map_or(1.0, |m| m[(own * places + at) * windows + o]);
                    for k in group * kernels_per_group..(group + 1) * kernels_per_group {
                        y[(image * m + k) * windows + o] +=
                            seen * wv[(k * per_group + c % per_group) * places + at];
                    }
                }
            }
        }
    }
    Wide::Float(y).tensor(t.dtype(), shape)
}
