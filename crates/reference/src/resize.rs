//! Resizing, one axis after the other.

use crate::{
    EvalError,
    conv::misfit,
    data::{Wide, i64s, strided_indices, take},
    error::refuse,
    eval::Operands,
    reduce::int_range,
};
use tensormill_ir::ops::{CoordinateMode, NearestMode, Resize, ResizeAxis, ResizeMode};
use tensormill_tensor::{Shape, Tensor};

type Result<T> = std::result::Result<T, EvalError>;

/// Where an element of the result lies in the operand. `region` is of the operand's extent as 1.
fn coordinate(mode: CoordinateMode, at: usize, a: &ResizeAxis, input: usize, region: [f64; 2]) -> f64 {
    let (x, n, exact) = (at as f64, input as f64, a.scale * input as f64);
    let half_pixel = (x + 0.5) / a.scale - 0.5;
    match mode {
        CoordinateMode::HalfPixel => half_pixel,
        CoordinateMode::HalfPixelSymmetric => n / 2.0 * (1.0 - a.output as f64 / exact) + half_pixel,
        CoordinateMode::PytorchHalfPixel => {
            if exact == 1.0 {
                -0.5
            } else {
                half_pixel
            }
        }
        CoordinateMode::AlignCorners if exact == 1.0 => 0.0,
        CoordinateMode::AlignCorners => x * (n - 1.0) / (exact - 1.0),
        CoordinateMode::Asymmetric => x / a.scale,
        CoordinateMode::TfCropAndResize => {
            let [start, end] = region;
            let along = if exact == 1.0 { 0.5 } else { x / (exact - 1.0) };
            along * (end - start) * (n - 1.0) + start * (n - 1.0)
        }
    }
}

fn nearest(mode: NearestMode, x: f64, scale: f64) -> f64 {
    match mode {
        NearestMode::RoundPreferFloor => (x - 0.5).ceil(),
        NearestMode::RoundPreferCeil => (x + 0.5).floor(),
        NearestMode::Floor => x.floor(),
        NearestMode::Ceil => x.ceil(),
        NearestMode::Simple => {
            if scale < 1.0 {
                x.ceil()
            } else {
                x.floor()
            }
        }
    }
}

fn cubic(a: f64, d: f64) -> f64 {
    let d = d.abs();
    if d <= 1.0 {
        ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0
    } else if d < 2.0 {
        ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a
    } else {
        0.0
    }
}

fn clamped(x: f64, n: usize) -> usize {
    x.clamp(0.0, n.saturating_sub(1) as f64) as usize
}

/// The elements of the operand, with their weights, that make up the one at `x`.
fn weights(op: &Resize, x: f64, scale: f64, n: usize) -> Vec<(usize, f64)> {
    if op.mode == ResizeMode::Nearest {
        return vec![(clamped(nearest(op.nearest, x, scale), n), 1.0)];
    }
    let reach = if op.mode == ResizeMode::Cubic { 2.0 } else { 1.0 };
    let shrink = if op.antialias { scale.min(1.0) } else { 1.0 };
    let first = (-reach / shrink).floor() + 1.0;
    let base = x.floor();
    let places = (2.0 - 2.0 * first) as usize;
    let mut all: Vec<(f64, f64)> = (0..places)
        .map(|i| {
            let at = base + first + i as f64;
            let d = (at - x) * shrink;
            let w = match op.mode {
                ResizeMode::Cubic => cubic(f64::from(op.cubic_coeff_a.0), d),
                _ => (1.0 - d.abs()).max(0.0),
            };
            (at, w)
        })
        .collect();
    if op.exclude_outside {
        all.retain(|(at, _)| (0.0..n as f64).contains(at));
    }
    let sum: f64 = all.iter().map(|(_, w)| w).sum();
    let sum = if (op.exclude_outside || op.antialias) && sum != 0.0 { sum } else { 1.0 };
    all.into_iter().filter(|(_, w)| *w != 0.0).map(|(at, w)| (clamped(at, n), w / sum)).collect()
}

/// For every element of the result along one axis, the elements of the operand, of `input` elements
/// there, that it is made of, with their weights. Not for regions.
pub fn resize_weights(op: &Resize, a: &ResizeAxis, input: usize) -> Vec<Vec<(usize, f64)>> {
    let at = |o| coordinate(op.coordinates, o, a, input, [0.0, 1.0]);
    (0..a.output).map(|o| weights(op, at(o), a.scale, input)).collect()
}

pub(crate) fn resize(op: &Resize, x: &Operands<'_>) -> Result<Tensor> {
    let t = x.tensor(0)?;
    let scales = x.opt_tensor(2)?.map(|s| s.to_f32_vec()).transpose()?;
    let sizes = x.opt_tensor(3)?.map(i64s).transpose()?;
    let plan = op.plan(t.shape(), scales.as_deref(), sizes.as_deref()).map_err(misfit)?;
    let crop = op.coordinates == CoordinateMode::TfCropAndResize;
    let region = match x.opt_tensor(1)? {
        Some(r) if crop && r.len() == 2 * plan.len() => Some(r.to_f64_vec()?),
        _ if crop => return refuse("a region must have a start and an end for every axis"),
        _ => None,
    };
    let mut shape: Vec<usize> = t.shape().to_vec();
    // Every step between operand and result must be allowed, as axes are resized one by one.
    for a in &plan {
        shape[a.axis] = a.output;
        x.limits.check(&Shape::from(shape.clone()))?;
    }
    let shape = Shape::from(shape);
    let region_of = |i: usize| region.as_ref().map_or([0.0, 1.0], |r| [r[i], r[plan.len() + i]]);
    let at = |i: usize, a: &ResizeAxis| -> Vec<f64> {
        let n = t.shape()[a.axis];
        (0..a.output).map(|o| coordinate(op.coordinates, o, a, n, region_of(i))).collect()
    };
    if op.mode == ResizeMode::Nearest && !crop {
        // Works on every dtype: elements are only copied.
        let strides = t.shape().strides();
        let mut offsets: Vec<Vec<usize>> =
            (0..shape.rank()).map(|i| (0..shape[i]).map(|j| j * strides[i]).collect()).collect();
        for (i, a) in plan.iter().enumerate() {
            let n = t.shape()[a.axis];
            let near = |x| clamped(nearest(op.nearest, x, a.scale), n) * strides[a.axis];
            offsets[a.axis] = at(i, a).into_iter().map(near).collect();
        }
        let mut indices = vec![0];
        for axis in &offsets {
            indices = indices.into_iter().flat_map(|i| axis.iter().map(move |o| i + o)).collect();
        }
        return if t.is_empty() { Ok(Tensor::zeros(t.dtype(), shape)?) } else { take(t, shape, &indices) };
    }
    let (mut v, integer) = match Wide::of(t)? {
        Wide::Float(v) => (v, false),
        Wide::Int(v) => (v.into_iter().map(|v| v as f64).collect(), true),
    };
    let mut current: Vec<usize> = t.shape().to_vec();
    for (i, a) in plan.iter().enumerate() {
        let n = current[a.axis];
        if a.scale == 1.0 && a.output == n && region_of(i) == [0.0, 1.0] {
            continue;
        }
        let lines: Vec<Option<Vec<(usize, f64)>>> = at(i, a)
            .into_iter()
            .map(|x| {
                let inside = !crop || (0.0..=n as f64 - 1.0).contains(&x);
                inside.then(|| weights(op, x, a.scale, n))
            })
            .collect();
        v = along(&v, &current, a.axis, &lines, f64::from(op.extrapolation_value.0));
        current[a.axis] = a.output;
    }
    if integer {
        let (low, high) = int_range(t.dtype());
        let v = v.into_iter().map(|v| i128::from(v.round_ties_even() as i64).clamp(low, high)).collect();
        return Wide::Int(v).tensor(t.dtype(), shape);
    }
    Wide::Float(v).tensor(t.dtype(), shape)
}

/// Weighted sums along one axis; `outside` where there are no weights.
fn along(
    v: &[f64],
    shape: &[usize],
    axis: usize,
    lines: &[Option<Vec<(usize, f64)>>],
    outside: f64,
) -> Vec<f64> {
    let inner: usize = shape[axis + 1..].iter().product();
    let blocks = strided_indices(&shape[..axis], &Shape::from(&shape[..=axis]).strides()[..axis]);
    let mut out = Vec::with_capacity(blocks.len() * lines.len() * inner);
    for block in blocks {
        for line in lines {
            for j in 0..inner {
                out.push(match line {
                    None => outside,
                    Some(w) => w.iter().map(|&(i, w)| v[(block + i) * inner + j] * w).sum(),
                });
            }
        }
    }
    out
}
