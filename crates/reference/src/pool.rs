//! Pools over windows and regions.

use crate::{
    EvalError,
    conv::{misfit, positions},
    data::{Wide, i64s, sizes},
    error::refuse,
    eval::{Operands, wrong_dtype},
};
use tensormill_ir::ops::{
    AveragePool, LpPool, MaxPool, MaxRoiPool, MaxUnpool, RoiAlign, RoiMode, WindowAxis,
};
use tensormill_tensor::{Shape, Tensor, Value};

type Result<T> = std::result::Result<T, EvalError>;

fn pooled_shape(x: &Operands<'_>, axes: &[WindowAxis]) -> Result<Shape> {
    let t = x.tensor(0)?;
    let shape: Shape = t.shape()[..2].iter().copied().chain(axes.iter().map(|a| a.output)).collect();
    x.limits.check(&shape)?;
    Ok(shape)
}

fn spatial(t: &Tensor) -> Result<&[usize]> {
    if t.shape().rank() < 3 { refuse("needs batch, channel and spatial axes") } else { Ok(&t.shape()[2..]) }
}

/// The flat spatial indices that the window at `o` sees.
fn seen(axes: &[WindowAxis], o: &[usize], input: &[usize]) -> Vec<usize> {
    let mut all = vec![0];
    for (i, a) in axes.iter().enumerate() {
        let along = a.inside(o[i], input[i]);
        all = all
            .into_iter()
            .flat_map(|e| along.clone().map(move |k| e * input[i] + a.input(o[i], k)))
            .collect();
    }
    all
}

/// Index in `window` of the largest element of `v`; the first NaN wins.
fn largest<T: PartialOrd + Copy>(v: &[T], window: &[usize]) -> Option<usize> {
    let nan = |x: T| x.partial_cmp(&x).is_none();
    window.iter().copied().reduce(|a, b| if !nan(v[a]) && (v[b] > v[a] || nan(v[b])) { b } else { a })
}

pub(crate) fn max_pool(op: &MaxPool, x: &Operands<'_>) -> Result<Vec<Value>> {
    let t = x.tensor(0)?;
    let input = spatial(t)?;
    let axes = op.axes(input).map_err(misfit)?;
    let shape = pooled_shape(x, &axes)?;
    let size: usize = input.iter().product();
    let windows: Vec<Vec<usize>> = positions(&shape[2..]).map(|o| seen(&axes, &o, input)).collect();
    let planes = shape[0] * shape[1];
    let mut indices = Vec::with_capacity(if op.with_indices { shape.numel() } else { 0 });
    let mut note = |plane: usize, at: Option<usize>| {
        if op.with_indices {
            let at = at.unwrap_or(0);
            let at = if op.column_major { column_major(at, input) } else { at };
            indices.push((plane * size + at) as i64);
        }
    };
    let y = match Wide::of(t)? {
        Wide::Float(v) => {
            let mut y = Vec::with_capacity(shape.numel());
            for p in 0..planes {
                let plane = &v[p * size..][..size];
                for w in &windows {
                    let at = largest(plane, w);
                    y.push(at.map_or(f64::NEG_INFINITY, |i| plane[i]));
                    note(p, at);
                }
            }
            Wide::Float(y)
        }
        Wide::Int(v) => {
            let least = crate::reduce::int_range(t.dtype()).0;
            let mut y = Vec::with_capacity(shape.numel());
            for p in 0..planes {
                let plane = &v[p * size..][..size];
                for w in &windows {
                    let at = largest(plane, w);
                    y.push(at.map_or(least, |i| plane[i]));
                    note(p, at);
                }
            }
            Wide::Int(y)
        }
    };
    let mut out = vec![y.tensor(t.dtype(), shape.clone())?.into()];
    if op.with_indices {
        out.push(Tensor::from_vec(shape, indices)?.into());
    }
    Ok(out)
}

/// A row-major index of a shape as one that counts with the first axis fastest.
fn column_major(mut at: usize, shape: &[usize]) -> usize {
    // A window that lies in the padding of an empty input points nowhere.
    if shape.contains(&0) {
        return 0;
    }
    let mut strides = vec![1; shape.len()];
    for i in 1..shape.len() {
        strides[i] = strides[i - 1] * shape[i - 1];
    }
    let mut out = 0;
    for i in (0..shape.len()).rev() {
        out += at % shape[i] * strides[i];
        at /= shape[i];
    }
    out
}

pub(crate) fn average_pool(op: &AveragePool, x: &Operands<'_>) -> Result<Tensor> {
    let axes = op.axes(spatial(x.tensor(0)?)?).map_err(misfit)?;
    fold(x, &axes, |v, o| {
        let count: f64 = if op.count_include_pad {
            // Of the padding only; what a last window sees beyond it does not count.
            axes.iter().zip(o).map(|(a, &o)| padded_places(a, o, spatial_size(x, a, &axes))).product()
        } else {
            v.len() as f64
        };
        v.iter().sum::<f64>() / count
    })
}

fn spatial_size(x: &Operands<'_>, a: &WindowAxis, axes: &[WindowAxis]) -> usize {
    let i = axes.iter().position(|b| std::ptr::eq(a, b)).unwrap_or(0);
    x.tensor(0).map_or(0, |t| t.shape()[2 + i])
}

/// Places of a window inside the padded input.
fn padded_places(a: &WindowAxis, o: usize, input: usize) -> f64 {
    let end = a.before + input + a.after;
    end.saturating_sub(o * a.stride).div_ceil(a.dilation).min(a.kernel) as f64
}

pub(crate) fn lp_pool(op: &LpPool, x: &Operands<'_>) -> Result<Tensor> {
    let axes = op.axes(spatial(x.tensor(0)?)?).map_err(misfit)?;
    let p = op.p as f64;
    fold(x, &axes, |v, _| v.iter().map(|x| x.abs().powf(p)).sum::<f64>().powf(1.0 / p))
}

/// Every window's elements through `f`, which also gets the window's position.
fn fold(x: &Operands<'_>, axes: &[WindowAxis], f: impl Fn(&[f64], &[usize]) -> f64) -> Result<Tensor> {
    let t = x.tensor(0)?;
    let shape = pooled_shape(x, axes)?;
    let input = spatial(t)?;
    let Wide::Float(v) = Wide::of(t)? else { return wrong_dtype(t) };
    let size: usize = input.iter().product();
    let windows: Vec<(Vec<usize>, Vec<usize>)> =
        positions(&shape[2..]).map(|o| (seen(axes, &o, input), o)).collect();
    let mut y = Vec::with_capacity(shape.numel());
    for p in 0..shape[0] * shape[1] {
        let plane = &v[p * size..][..size];
        for (w, o) in &windows {
            let elements: Vec<f64> = w.iter().map(|&i| plane[i]).collect();
            y.push(f(&elements, o));
        }
    }
    Wide::Float(y).tensor(t.dtype(), shape)
}

pub(crate) fn max_unpool(op: &MaxUnpool, x: &Operands<'_>) -> Result<Tensor> {
    let (t, indices) = (x.tensor(0)?, x.tensor(1)?);
    let inner = op.default_sizes(spatial(t)?).map_err(misfit)?;
    let default: Shape = t.shape()[..2].iter().copied().chain(inner).collect();
    let shape = match x.opt_tensor(2)? {
        Some(s) => sizes(&i64s(s)?)?,
        None => default.clone(),
    };
    x.limits.check(&shape)?;
    x.limits.check(&default)?;
    if indices.shape() != t.shape() || shape.rank() != default.rank() {
        return refuse("indices and result must have the operand's shape and rank");
    }
    let Wide::Float(v) = Wide::of(t)? else { return wrong_dtype(t) };
    let mut y = vec![0.0; shape.numel()];
    let strides = shape.strides();
    for (v, at) in v.into_iter().zip(i64s(indices)?) {
        // Indices count over the default size; a larger result keeps the position.
        let mut rest = usize::try_from(at)
            .ok()
            .filter(|a| *a < default.numel())
            .ok_or_else(|| EvalError::Operand(format!("index {at} is out of range")))?;
        let mut to = 0;
        for i in (0..default.rank()).rev() {
            let position = rest % default[i];
            rest /= default[i];
            if position >= shape[i] {
                return refuse(format!("index {at} lies outside the result"));
            }
            to += position * strides[i];
        }
        y[to] = v;
    }
    Wide::Float(y).tensor(t.dtype(), shape)
}

/// Batch index, in range.
fn batch(at: f64, n: usize) -> Result<usize> {
    if at >= 0.0 && at < n as f64 { Ok(at as usize) } else { refuse(format!("batch {at} is out of range")) }
}

pub(crate) fn max_roi_pool(op: &MaxRoiPool, x: &Operands<'_>) -> Result<Tensor> {
    let (t, rois) = (x.tensor(0)?, x.tensor(1)?);
    let &[n, c, h, w] = t.shape().dims() else { return refuse("x must have rank 4") };
    let &[count, 5] = rois.shape().dims() else { return refuse("regions must be a matrix of 5 columns") };
    let &[rows, cols] = &op.pooled[..] else { return refuse("a grid has rows and columns") };
    let shape = Shape::from(vec![count, c, rows, cols]);
    x.limits.check(&shape)?;
    let (Wide::Float(v), Wide::Float(rois)) = (Wide::of(t)?, Wide::of(rois)?) else { return wrong_dtype(t) };
    let scale = f64::from(op.spatial_scale.0);
    let mut y = Vec::with_capacity(shape.numel());
    for roi in rois.chunks(5) {
        let image = batch(roi[0], n)?;
        let round = |v: f64| (v * scale).round();
        let (x1, y1, x2, y2) = (round(roi[1]), round(roi[2]), round(roi[3]), round(roi[4]));
        let (rw, rh) = ((x2 - x1 + 1.0).max(1.0), (y2 - y1 + 1.0).max(1.0));
        // From the cell's first element to behind its last, cut to the plane.
        let span = |cell: usize, cells: usize, length: f64, start: f64, size: usize| {
            let step = length / cells as f64;
            let from = (cell as f64 * step).floor() + start;
            let to = ((cell + 1) as f64 * step).ceil() + start;
            from.clamp(0.0, size as f64) as usize..to.clamp(0.0, size as f64) as usize
        };
        for channel in 0..c {
            let plane = &v[(image * c + channel) * h * w..][..h * w];
            for row in 0..rows {
                for col in 0..cols {
                    let across = span(col, cols, rw, x1, w);
                    let cell = span(row, rows, rh, y1, h)
                        .flat_map(|r| across.clone().map(move |c| r * w + c))
                        .collect::<Vec<_>>();
                    y.push(largest(plane, &cell).map_or(0.0, |i| plane[i]));
                }
            }
        }
    }
    Wide::Float(y).tensor(t.dtype(), shape)
}

/// Corners and weights around a point of a plane; nothing when it lies outside by more than one.
fn corners(y: f64, x: f64, h: usize, w: usize) -> Option<[(usize, f64); 4]> {
    if !(y >= -1.0 && y <= h as f64 && x >= -1.0 && x <= w as f64) || h == 0 || w == 0 {
        return None;
    }
    let along = |v: f64, n: usize| {
        let v = v.max(0.0);
        let low = (v as usize).min(n - 1);
        let high = (low + 1).min(n - 1);
        (low, high, if low + 1 >= n { 0.0 } else { v - low as f64 })
    };
    let ((y1, y2, fy), (x1, x2, fx)) = (along(y, h), along(x, w));
    Some([
        (y1 * w + x1, (1.0 - fy) * (1.0 - fx)),
        (y1 * w + x2, (1.0 - fy) * fx),
        (y2 * w + x1, fy * (1.0 - fx)),
        (y2 * w + x2, fy * fx),
    ])
}

/// Samples of one cell that are worth summing; more come of regions that make no sense.
const MAX_SAMPLES: f64 = 4096.0;

pub(crate) fn roi_align(op: &RoiAlign, x: &Operands<'_>) -> Result<Tensor> {
    let (t, rois, batches) = (x.tensor(0)?, x.tensor(1)?, i64s(x.tensor(2)?)?);
    let &[n, c, h, w] = t.shape().dims() else { return refuse("x must have rank 4") };
    let &[count, 4] = rois.shape().dims() else { return refuse("regions must be a matrix of 4 columns") };
    if batches.len() != count {
        return refuse("every region needs its batch index");
    }
    let (rows, cols) = (op.output_height, op.output_width);
    let shape = Shape::from(vec![count, c, rows, cols]);
    x.limits.check(&shape)?;
    let (Wide::Float(v), Wide::Float(rois)) = (Wide::of(t)?, Wide::of(rois)?) else { return wrong_dtype(t) };
    let (scale, shift) = (f64::from(op.spatial_scale.0), if op.half_pixel { 0.5 } else { 0.0 });
    let mut y = Vec::with_capacity(shape.numel());
    for (roi, at) in rois.chunks(4).zip(batches) {
        let image = batch(at as f64, n)?;
        let [x1, y1, x2, y2] = [0, 1, 2, 3].map(|i| roi[i] * scale - shift);
        let (mut rw, mut rh) = (x2 - x1, y2 - y1);
        if !op.half_pixel {
            (rw, rh) = (rw.max(1.0), rh.max(1.0));
        }
        let (bw, bh) = (rw / cols as f64, rh / rows as f64);
        let samples = |bin: f64| {
            let n = if op.sampling_ratio > 0 { op.sampling_ratio as f64 } else { bin.ceil().max(0.0) };
            if n <= MAX_SAMPLES { Ok(n as usize) } else { refuse(format!("{n} samples in one cell")) }
        };
        let (nh, nw) = (samples(bh)?, samples(bw)?);
        for channel in 0..c {
            let plane = &v[(image * c + channel) * h * w..][..h * w];
            for row in 0..rows {
                for col in 0..cols {
                    let (mut sum, mut max) = (0.0, None::<f64>);
                    for iy in 0..nh {
                        let sy = y1 + row as f64 * bh + (iy as f64 + 0.5) * bh / nh as f64;
                        for ix in 0..nw {
                            let sx = x1 + col as f64 * bw + (ix as f64 + 0.5) * bw / nw as f64;
                            let parts = corners(sy, sx, h, w).map(|c| c.map(|(i, q)| plane[i] * q));
                            let parts = parts.unwrap_or([0.0; 4]);
                            sum += parts.iter().sum::<f64>();
                            max = parts.iter().copied().chain(max).reduce(f64::max);
                        }
                    }
                    y.push(match op.mode {
                        RoiMode::Avg => sum / (nh * nw).max(1) as f64,
                        RoiMode::Max => max.unwrap_or(0.0),
                    });
                }
            }
        }
    }
    Wide::Float(y).tensor(t.dtype(), shape)
}
