//! Sampling at given places, and folding windows back.

use crate::{
    EvalError,
    conv::{misfit, positions, taps},
    data::{Wide, i64s, sizes},
    error::refuse,
    eval::{Operands, wrong_dtype},
    reduce::int_range,
};
use tensormill_ir::ops::{AffineGrid, Col2Im, GridPadding, GridSample, ResizeMode};
use tensormill_tensor::{Shape, Tensor};

type Result<T> = std::result::Result<T, EvalError>;

/// A coordinate mirrored into `low..=high`.
fn reflect(x: f64, low: f64, high: f64) -> f64 {
    let range = high - low;
    if range <= 0.0 || !x.is_finite() {
        return low;
    }
    // Twice the range is the period.
    let along = (x - low).rem_euclid(2.0 * range);
    low + if along > range { 2.0 * range - along } else { along }
}

/// One axis of what is sampled.
struct Axis {
    size: usize,
    stride: usize,
    low: f64,
    high: f64,
}

impl Axis {
    /// Which element stands at an integer coordinate; none is zero.
    fn element(&self, at: f64, padding: GridPadding) -> Option<usize> {
        if self.size == 0 {
            return None;
        }
        let last = self.size as f64 - 1.0;
        let at = match padding {
            GridPadding::Zeros => return (at >= 0.0 && at <= last).then_some(at as usize),
            GridPadding::Border => at,
            GridPadding::Reflection if at >= self.low && at <= self.high => at,
            GridPadding::Reflection => reflect(at, self.low, self.high).trunc(),
        };
        Some(at.clamp(0.0, last) as usize)
    }
}

fn cubic(x: f64) -> [f64; 4] {
    const A: f64 = -0.75;
    let near = |d: f64| ((A + 2.0) * d - (A + 3.0)) * d * d + 1.0;
    let far = |d: f64| ((A * d - 5.0 * A) * d + 8.0 * A) * d - 4.0 * A;
    [far(x + 1.0), near(x), near(1.0 - x), far(2.0 - x)]
}

/// Elements (offsets) and weights along one axis at a coordinate; an element that is zero has no offset.
fn weights(op: &GridSample, a: &Axis, x: f64) -> Vec<(Option<usize>, f64)> {
    let x = if op.mode == ResizeMode::Nearest { x.round_ties_even() } else { x };
    // A place that is no number is outside.
    if !x.is_finite() && op.padding == GridPadding::Zeros {
        return vec![(None, 1.0)];
    }
    let x = match op.padding {
        _ if x >= a.low && x <= a.high => x,
        GridPadding::Zeros => x,
        // NaN becomes the first element.
        GridPadding::Border => x.max(0.0).min(a.size as f64 - 1.0),
        GridPadding::Reflection => reflect(x, a.low, a.high),
    };
    let base = x.floor();
    let part = x - base;
    let (first, w): (f64, Vec<f64>) = match op.mode {
        ResizeMode::Nearest => (x, vec![1.0]),
        ResizeMode::Linear => (base, vec![1.0 - part, part]),
        ResizeMode::Cubic => (base - 1.0, cubic(part).to_vec()),
    };
    let at = |i: usize| a.element((first + i as f64).trunc(), op.padding).map(|e| e * a.stride);
    w.into_iter().enumerate().filter(|(_, w)| *w != 0.0).map(|(i, w)| (at(i), w)).collect()
}

pub(crate) fn grid_sample(op: &GridSample, x: &Operands<'_>) -> Result<Tensor> {
    let (t, grid) = (x.tensor(0)?, x.tensor(1)?);
    let (xs, gs) = (t.shape(), grid.shape());
    if !(3..=5).contains(&xs.rank()) || gs.rank() != xs.rank() || gs[0] != xs[0] {
        return refuse("x and grid do not fit together");
    }
    let spatial = xs.rank() - 2;
    if gs[gs.rank() - 1] != spatial {
        return refuse("the grid must have a coordinate for every spatial axis");
    }
    let places: usize = gs[1..gs.rank() - 1].iter().product();
    let shape: Shape = xs[..2].iter().chain(&gs[1..gs.rank() - 1]).copied().collect();
    x.limits.check(&shape)?;
    let size: usize = xs[2..].iter().product();
    if size == 0 && shape.numel() > 0 {
        return refuse("nothing cannot be sampled");
    }
    let strides = Shape::from(&xs[2..]).strides();
    let axes: Vec<Axis> = (0..spatial)
        .map(|i| {
            let n = xs[2 + i];
            let (low, high) = if op.align_corners { (0.0, n as f64 - 1.0) } else { (-0.5, n as f64 - 0.5) };
            Axis { size: n, stride: strides[i], low, high }
        })
        .collect();
    let (v, integer) = match Wide::of(t)? {
        Wide::Float(v) => (v, false),
        Wide::Int(v) => (v.into_iter().map(|v| v as f64).collect::<Vec<_>>(), true),
    };
    let Wide::Float(g) = Wide::of(grid)? else { return wrong_dtype(grid) };
    let mut y = vec![0.0; shape.numel()];
    for n in 0..xs[0] {
        for p in 0..places {
            let place = &g[(n * places + p) * spatial..][..spatial];
            let mut parts = vec![(Some(0), 1.0)];
            for (i, a) in axes.iter().enumerate() {
                let at = place[spatial - 1 - i];
                let size = a.size as f64;
                let at = if op.align_corners {
                    (at + 1.0) / 2.0 * (size - 1.0)
                } else {
                    ((at + 1.0) * size - 1.0) / 2.0
                };
                let along = weights(op, a, at);
                parts = parts
                    .iter()
                    .flat_map(|&(o, w)| {
                        along.iter().map(move |&(e, u)| (o.zip(e).map(|(o, e): (usize, usize)| o + e), w * u))
                    })
                    .collect();
            }
            for c in 0..xs[1] {
                let plane = &v[(n * xs[1] + c) * size..][..size];
                y[(n * xs[1] + c) * places + p] =
                    parts.iter().map(|&(o, w)| o.map_or(0.0, |o| plane[o] * w)).sum();
            }
        }
    }
    if integer {
        let (low, high) = int_range(t.dtype());
        let y = y.into_iter().map(|v| i128::from(v as i64).clamp(low, high)).collect();
        return Wide::Int(y).tensor(t.dtype(), shape);
    }
    Wide::Float(y).tensor(t.dtype(), shape)
}

pub(crate) fn affine_grid(op: &AffineGrid, x: &Operands<'_>) -> Result<Tensor> {
    let theta = x.tensor(0)?;
    let size = sizes(&i64s(x.tensor(1)?)?)?;
    let spatial = size.rank().saturating_sub(2);
    if !(2..=3).contains(&spatial) || theta.shape().dims() != [size[0], spatial, spatial + 1] {
        return refuse("theta does not fit the size");
    }
    let shape: Shape = [size[0]].into_iter().chain(size[2..].iter().copied()).chain([spatial]).collect();
    x.limits.check(&shape)?;
    let Wide::Float(m) = Wide::of(theta)? else { return wrong_dtype(theta) };
    let mut y = Vec::with_capacity(shape.numel());
    let along = |i: usize, n: usize| {
        if op.align_corners {
            // One element stands where the first of many does.
            -1.0 + if n > 1 { 2.0 * i as f64 / (n as f64 - 1.0) } else { 0.0 }
        } else {
            (2.0 * i as f64 + 1.0) / n as f64 - 1.0
        }
    };
    for n in 0..size[0] {
        for at in positions(&size[2..]) {
            // The last axis comes first, then a one.
            let point: Vec<f64> =
                (0..spatial).rev().map(|i| along(at[i], size[2 + i])).chain([1.0]).collect();
            for row in 0..spatial {
                let row = &m[(n * spatial + row) * (spatial + 1)..][..=spatial];
                y.push(row.iter().zip(&point).map(|(a, b)| a * b).sum());
            }
        }
    }
    Wide::Float(y).tensor(theta.dtype(), shape)
}

pub(crate) fn col2im(op: &Col2Im, x: &Operands<'_>) -> Result<Tensor> {
    let t = x.tensor(0)?;
    let (image, block) = (sizes(&i64s(x.tensor(1)?)?)?, sizes(&i64s(x.tensor(2)?)?)?);
    let &[n, columns, windows] = t.shape().dims() else { return refuse("x must have rank 3") };
    if image.rank() != block.rank() {
        return refuse("image and window must have as many axes");
    }
    let axes = op.axes(&image, &block).map_err(misfit)?;
    let count = axes.iter().try_fold(1usize, |p, a| p.checked_mul(a.output));
    let places = block.checked_numel().filter(|p| *p > 0 && columns % p == 0);
    let (Some(places), true) = (places, count == Some(windows)) else {
        return refuse("the columns do not fit image and window");
    };
    let channels = columns / places;
    let shape: Shape = [n, channels].into_iter().chain(image.iter().copied()).collect();
    x.limits.check(&shape)?;
    let size: usize = image.iter().product();
    let y = match Wide::of(t)? {
        Wide::Float(v) => {
            let mut y = vec![0.0; shape.numel()];
            for (k, at) in positions(&block).enumerate() {
                for (o, e) in taps(&axes, &at, &image) {
                    for c in 0..n * channels {
                        y[c * size + e] += v[(c * places + k) * windows + o];
                    }
                }
            }
            Wide::Float(y)
        }
        Wide::Int(v) => {
            let mut y = vec![0i128; shape.numel()];
            for (k, at) in positions(&block).enumerate() {
                for (o, e) in taps(&axes, &at, &image) {
                    for c in 0..n * channels {
                        y[c * size + e] = y[c * size + e].wrapping_add(v[(c * places + k) * windows + o]);
                    }
                }
            }
            Wide::Int(y)
        }
    };
    y.tensor(t.dtype(), shape)
}
