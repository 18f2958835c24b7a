//! Maximum and average pooling over one or two spatial axes, channels first.

use crate::conv::Window;
use crate::error::{KernelError, exact, product};
use crate::matmul::driver::FirstError;
use crate::scratch;
use crate::simd::{Isa, Kernel};
use crate::threads::{Pool, Shards};
use smallvec::SmallVec;
use std::ops::Range;

/// What a window's elements become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PoolOp {
    /// The largest element; NaN if any is. Padding is not looked at.
    Max,
    /// The mean over elements inside the input.
    Average,
    /// The mean over elements inside the input and its padding (but not past the end pad, where rounding
    /// up the output size may put a window).
    AverageWithPad,
}

/// Sizes of a pooling: `planes` images of `input`, each giving one of `output`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolShape {
    /// Batch times channels.
    pub planes: usize,
    /// Height and width; height 1 where there is one spatial axis.
    pub input: [usize; 2],
    /// Output height and width, rounded as the caller's operator asks.
    pub output: [usize; 2],
    /// The windows along height and width.
    pub windows: [Window; 2],
}

/// The part of `0..outputs` whose tap at distance `offset` (already times dilation) is inside `0..len`.
fn inside(outputs: usize, len: usize, w: &Window, offset: usize) -> Range<usize> {
    let first = w.pad_begin.saturating_sub(offset).div_ceil(w.stride);
    let end = match (len + w.pad_begin).checked_sub(offset) {
        Some(room) => room.div_ceil(w.stride).min(outputs),
        None => 0,
    };
    first.min(end)..end
}

/// How many taps of the window at `at` count towards its mean.
fn counted(at: usize, len: usize, w: &Window, with_pad: bool) -> usize {
    (0..w.kernel)
        .filter(|t| {
            let i = at * w.stride + t * w.dilation;
            if with_pad {
                i < len + w.pad_begin + w.pad_end
            } else {
                i >= w.pad_begin && i < len + w.pad_begin
            }
        })
        .count()
}

/// Pools every plane of `x` into `out`. A window with no element gives minus infinity (maximum) or zero.
pub fn pool(
    pool: &Pool,
    op: PoolOp,
    shape: &PoolShape,
    x: &[f32],
    out: &mut [f32],
) -> Result<(), KernelError> {
    let PoolShape { planes, input: [h, w], output: [oh, ow], windows } = *shape;
    exact("input", x, product("input", &[planes, h, w])?)?;
    exact("output", out, product("output", &[planes, oh, ow])?)?;
    for (axis, window) in windows.iter().enumerate() {
        window.reach()?;
        let last = shape.output[axis].checked_mul(window.stride);
        if shape.input[axis] > 1 << 40 || last.is_none_or(|v| v > 1 << 48) {
            return Err(KernelError::Overflow("pooling"));
        }
        // Taps past the input do nothing, but each costs time.
        if window.kernel
            > shape.input[axis].saturating_add(window.pad_begin).saturating_add(window.pad_end).max(1)
        {
            return Err(KernelError::Shape("pooling: the window is larger than the padded input"));
        }
    }
    if out.is_empty() {
        return Ok(());
    }
    // How many taps count along each axis, one after the other.
    let scale = |i: usize| {
        let (axis, at) = if i < oh { (0, i) } else { (1, i - oh) };
        counted(at, shape.input[axis], &windows[axis], op == PoolOp::AverageWithPad) as f32
    };
    let spans: SmallVec<[Span; 8]> = (0..windows[1].kernel)
        .map(|t| t * windows[1].dilation)
        .map(|offset| (offset, inside(ow, w, &windows[1], offset)))
        .filter(|(_, outputs)| !outputs.is_empty())
        .map(|(offset, outputs)| Span {
            first: outputs.start * windows[1].stride + offset - windows[1].pad_begin,
            outputs,
        })
        .collect();
    let shards = Shards::new(out);
    let error = FirstError::default();
    let work = oh * ow * windows[0].kernel * windows[1].kernel;
    pool.split(planes, ((1 << 16) / work.max(1)).max(1), |r| {
        error.note(scratch::with(if op == PoolOp::Max { 0 } else { w + oh + ow }, |room| {
            let (sums, scales) = room.split_at_mut(w.min(room.len()));
            scales.iter_mut().enumerate().for_each(|(i, s)| *s = scale(i));
            for plane in r {
                // SAFETY: every plane is taken once.
                let out = unsafe { shards.part(plane * oh * ow, oh * ow) };
                let x = &x[plane * h * w..(plane + 1) * h * w];
                pool.level().run(Plane { op, shape, x, out, scales, spans: &spans, sums });
            }
        }));
    });
    error.into_result()
}

/// What one tap of the window's width is added to.
struct Span {
    outputs: Range<usize>,
    /// The column that the first of them takes.
    first: usize,
}

struct Plane<'a> {
    op: PoolOp,
    shape: &'a PoolShape,
    x: &'a [f32],
    out: &'a mut [f32],
    scales: &'a [f32],
    spans: &'a [Span],
    /// Room for a row of the input.
    sums: &'a mut [f32],
}

impl Kernel for Plane<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let PoolShape { input: [h, w], output: [oh, ow], windows: [wy, wx], .. } = *self.shape;
        for (oy, out) in self.out.chunks_exact_mut(ow).enumerate() {
            let rows = (0..wy.kernel).filter_map(|ky| {
                let y = (oy * wy.stride + ky * wy.dilation).checked_sub(wy.pad_begin)?;
                (y < h).then(|| &self.x[y * w..(y + 1) * w])
            });
            if self.op == PoolOp::Max {
                out.fill(f32::NEG_INFINITY);
                for row in rows {
                    for s in self.spans {
                        largest(&mut out[s.outputs.clone()], &row[s.first..], wx.stride);
                    }
                }
                continue;
            }
            // Down the columns first: each element is then added once per row and tap, not per pair.
            self.sums.fill(0.0);
            for row in rows {
                self.sums.iter_mut().zip(row).for_each(|(s, &x)| *s += x);
            }
            out.fill(0.0);
            for s in self.spans {
                let (out, sums) = (&mut out[s.outputs.clone()], &self.sums[s.first..]);
                match wx.stride {
                    1 => out.iter_mut().zip(sums).for_each(|(o, &x)| *o += x),
                    n => out.iter_mut().zip(sums.iter().step_by(n)).for_each(|(o, &x)| *o += x),
                }
            }
            let rows = self.scales[oy];
            for (o, &columns) in out.iter_mut().zip(&self.scales[oh..]) {
                let count = rows * columns;
                *o = if count > 0.0 { *o / count } else { 0.0 };
            }
        }
    }
}

#[inline(always)]
fn largest(out: &mut [f32], x: &[f32], stride: usize) {
    let max = |o: &mut f32, x: f32| {
        *o = if x > *o || x.is_nan() { x } else { *o };
    };
    // The common strides are constants, so that the loop becomes vector code.
    match stride {
        1 => out.iter_mut().zip(x).for_each(|(o, &x)| max(o, x)),
        2 => {
            let pairs = x.as_chunks::<2>().0;
            out.iter_mut().zip(pairs).for_each(|(o, x)| max(o, x[0]));
            // The last element may have no partner.
            for (o, x) in out.iter_mut().zip(x.chunks(2)).skip(pairs.len()) {
                max(o, x[0]);
            }
        }
        s => out.iter_mut().zip(x.iter().step_by(s)).for_each(|(o, &x)| max(o, x)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Level;
    use proptest::prelude::*;

    fn twin(op: PoolOp, s: &PoolShape, x: &[f32]) -> Vec<f64> {
        let mut out = Vec::new();
        let [h, w] = s.input;
        for p in 0..s.planes {
            for oy in 0..s.output[0] {
                for ox in 0..s.output[1] {
                    let (mut top, mut sum, mut count) = (f64::NEG_INFINITY, 0.0, 0);
                    for ky in 0..s.windows[0].kernel {
                        for kx in 0..s.windows[1].kernel {
                            let at = |o: usize, k: usize, w: &Window| {
                                (o * w.stride + k * w.dilation) as i64 - w.pad_begin as i64
                            };
                            let (y, xx) = (at(oy, ky, &s.windows[0]), at(ox, kx, &s.windows[1]));
                            let real = y >= 0 && y < h as i64 && xx >= 0 && xx < w as i64;
                            let padded = y < (h + s.windows[0].pad_end) as i64
                                && xx < (w + s.windows[1].pad_end) as i64;
                            if real {
                                let v = x[(p * h + y as usize) * w + xx as usize] as f64;
                                sum += v;
                                top = if v.is_nan() || top.is_nan() { f64::NAN } else { top.max(v) };
                            }
                            if real || (op == PoolOp::AverageWithPad && padded) {
                                count += 1;
                            }
                        }
                    }
                    out.push(match op {
                        PoolOp::Max => top,
                        _ if count == 0 => 0.0,
                        _ => sum / count as f64,
                    });
                }
            }
        }
        out
    }

    fn window() -> impl Strategy<Value = Window> {
        (1usize..4, 1usize..4, 1usize..3, 0usize..3, 0usize..3).prop_map(
            |(kernel, stride, dilation, b, e)| Window { kernel, stride, dilation, pad_begin: b, pad_end: e },
        )
    }

    proptest! {
        #[test]
        fn pooling_matches_nested_loops(
            planes in 0usize..4, h in 3usize..12, w in 3usize..40, a in window(), b in window(),
            up in 0usize..2, nan in any::<bool>(), threads in 1usize..3,
        ) {
            let output = [a.positions(h).unwrap() + up, b.positions(w).unwrap() + up];
            let s = PoolShape { planes, input: [h, w], output, windows: [a, b] };
            let mut x: Vec<f32> = (0..planes * h * w).map(|i| ((i * 7919) % 1021) as f32 / 510.0 - 1.0).collect();
            if nan && !x.is_empty() { x[h] = f32::NAN; }
            for level in Level::available() {
                let threads = Pool::new(threads).unwrap().with_level(level);
                for op in [PoolOp::Max, PoolOp::Average, PoolOp::AverageWithPad] {
                    let mut out = vec![7.0; planes * output[0] * output[1]];
                    pool(&threads, op, &s, &x, &mut out).unwrap();
                    for (i, (&g, e)) in out.iter().zip(twin(op, &s, &x)).enumerate() {
                        let same = g as f64 == e || g.is_nan() && e.is_nan() || (g as f64 - e).abs() < 1e-5;
                        prop_assert!(same, "{op:?} {i}: {g} for {e}");
                    }
                }
            }
        }
    }

    #[test]
    fn hostile_windows_are_errors() {
        let w = Window::new(2);
        let run = |bad: Window| {
            let s = PoolShape { planes: 1, input: [1, 4], output: [1, 3], windows: [Window::new(1), bad] };
            pool(&Pool::serial(), PoolOp::Max, &s, &[0.0; 4], &mut [0.0; 3])
        };
        assert!(run(w).is_ok());
        for bad in [
            Window { stride: 0, ..w },
            Window { kernel: 0, ..w },
            Window { dilation: 0, ..w },
            Window { kernel: 1 << 30, ..w },
            Window { pad_begin: usize::MAX, ..w },
        ] {
            assert!(run(bad).is_err(), "{bad:?}");
        }
    }
}
