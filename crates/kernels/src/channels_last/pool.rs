//! Maximum and average pooling over one or two spatial axes, channels last.
//!
//! A row of outputs is made in two steps: the rows of its windows become one row, down the columns, and
//! then the columns of each window become one pixel. Few channels at a time, so that the row between stays
//! in the first-level cache.

use super::lanes::{self, Body, Lanes};
use crate::conv::Window;
use crate::error::{KernelError, at_least, exact, extent, product};
use crate::matmul::driver::FirstError;
use crate::pool::PoolOp;
use crate::scratch;
use crate::threads::{Pool, Shards};
use std::ops::Range;

/// Floats that stay in the first-level cache from one row of outputs to the next.
const NEAR: usize = 8 * 1024;
/// Elements looked at that are worth a task of their own.
const GRAIN: usize = 1 << 16;
/// Pixels whose sum is taken on its own before it is added to the others', for the sake of precision.
const RUN: usize = 128;

/// Sizes of a pooling of `[batch, height, width, channels]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolShape {
    /// Images.
    pub batch: usize,
    /// Channels of a pixel.
    pub channels: usize,
    /// Height and width; height 1 where there is one spatial axis.
    pub input: [usize; 2],
    /// Output height and width, rounded as the caller's operator asks.
    pub output: [usize; 2],
    /// The windows along height and width.
    pub windows: [Window; 2],
}

/// The taps of the window at `at` whose input lies in `0..len`.
fn inside(at: usize, len: usize, w: &Window) -> Range<usize> {
    let first = w.pad_begin.saturating_sub(at * w.stride).div_ceil(w.dilation);
    let end = (len + w.pad_begin).saturating_sub(at * w.stride).div_ceil(w.dilation).min(w.kernel);
    first.min(end)..end
}

/// How many taps of the window at `at` count towards its mean.
fn count(op: PoolOp, at: usize, len: usize, w: &Window) -> f32 {
    let taps = match op {
        PoolOp::AverageWithPad => {
            let padded = len + w.pad_begin + w.pad_end;
            padded.saturating_sub(at * w.stride).div_ceil(w.dilation).min(w.kernel)
        }
        _ => inside(at, len, w).len(),
    };
    taps as f32
}

/// Pools the windows of every channel. Pixels of `x` are `x_pitch` floats apart, those of `out` `out_pitch`.
/// A window with no element gives minus infinity (maximum) or zero.
pub fn pool(
    pool: &Pool,
    op: PoolOp,
    shape: &PoolShape,
    x: &[f32],
    x_pitch: usize,
    out: &mut [f32],
    out_pitch: usize,
) -> Result<(), KernelError> {
    let PoolShape { batch, channels, input: [h, w], output: [oh, ow], windows } = *shape;
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
    pitched("input", x, &[batch, h, w], channels, x_pitch)?;
    pitched("output", out, &[batch, oh, ow], channels, out_pitch)?;
    if [batch, channels, oh, ow].contains(&0) {
        return Ok(());
    }
    if h == 0 || w == 0 {
        let nothing = if op == PoolOp::Max { f32::NEG_INFINITY } else { 0.0 };
        out.chunks_mut(out_pitch).take(batch * oh * ow).for_each(|pixel| pixel[..channels].fill(nothing));
        return Ok(());
    }
    // The rows of a window, the row between and the outputs stay near; parts are as even as they can be.
    let aim = NEAR / w.saturating_mul(windows[0].kernel + 2);
    let step = if channels.is_multiple_of(64) { 64 } else { 16 };
    let part = channels.div_ceil(channels.div_ceil(aim.max(64))).next_multiple_of(step).min(channels);
    let shards = Shards::new(out);
    let error = FirstError::default();
    let work = (ow * channels).saturating_mul(windows[0].kernel + windows[1].kernel);
    pool.split(batch * oh, (GRAIN / work.max(1)).max(1), |rows| {
        error.note(scratch::with(w * part, |between| {
            let mut row = rows.start;
            while row < rows.end {
                let (image, oy) = (row / oh, row % oh);
                let count = (oh - oy).min(rows.end - row);
                for first in (0..channels).step_by(part) {
                    // The last part overlaps the one before rather than be a narrow one.
                    let first = first.min(channels - part);
                    let job = Band {
                        op,
                        shape,
                        image,
                        rows: oy..oy + count,
                        channels: first..first + part,
                        x,
                        x_pitch,
                        out: &shards,
                        out_pitch,
                        between,
                    };
                    lanes::run(pool.level(), part, job);
                }
                row += count;
            }
        }));
    });
    error.into_result()
}

/// Fails unless pixels of `channels` fit into the slice at the pitch.
pub(super) fn pitched<T>(
    what: &'static str,
    slice: &[T],
    pixels: &[usize],
    channels: usize,
    pitch: usize,
) -> Result<(), KernelError> {
    if pitch < channels {
        return Err(KernelError::Shape("channels last: the pitch is less than the channels"));
    }
    at_least(what, slice, extent(what, &[product(what, pixels)?, channels], &[pitch, 1])?)
}

/// Some channels of some output rows of an image.
struct Band<'a> {
    op: PoolOp,
    shape: &'a PoolShape,
    image: usize,
    rows: Range<usize>,
    channels: Range<usize>,
    x: &'a [f32],
    x_pitch: usize,
    out: &'a Shards<'a, f32>,
    out_pitch: usize,
    /// Room for an input row of these channels.
    between: &'a mut [f32],
}

impl Body for Band<'_> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        // SAFETY: forwarded.
        unsafe {
            match self.op {
                PoolOp::Max => self.both::<V, true>(),
                _ => self.both::<V, false>(),
            }
        }
    }
}

impl Band<'_> {
    /// # Safety
    /// `V`'s instructions are available, and it is no wider than these channels.
    #[inline(always)]
    unsafe fn both<V: Lanes, const MAX: bool>(self) {
        let PoolShape { input: [h, w], output: [oh, ow], windows: [wy, wx], .. } = *self.shape;
        let c = self.channels.len();
        let between = self.between.as_mut_ptr();
        let down = (wy.dilation * w).wrapping_mul(self.x_pitch);
        for oy in self.rows.clone() {
            let taps = inside(oy, h, &wy);
            let top = (oy * wy.stride + taps.start * wy.dilation).saturating_sub(wy.pad_begin);
            let top = (self.image * h).wrapping_add(top).wrapping_mul(w).wrapping_mul(self.x_pitch);
            let x = self.x.as_ptr().wrapping_add(top).wrapping_add(self.channels.start);
            // SAFETY: the rows are inside the input and the row between has room for these channels of a row.
            unsafe {
                if self.x_pitch == c {
                    down_columns::<V, MAX>(x, taps.len(), down, w * c, between);
                } else {
                    for column in 0..w {
                        let x = x.wrapping_add(column * self.x_pitch);
                        down_columns::<V, MAX>(x, taps.len(), down, c, between.add(column * c));
                    }
                }
            }
            let first = (self.image * oh + oy) * ow;
            let rows_of = if MAX { 1.0 } else { count(self.op, oy, h, &wy) };
            for ox in 0..ow {
                let taps = inside(ox, w, &wx);
                let column = (ox * wx.stride + taps.start * wx.dilation).saturating_sub(wx.pad_begin);
                let count = if MAX { 1.0 } else { rows_of * count(self.op, ox, w, &wx) };
                let x = between.cast_const().wrapping_add(column.wrapping_mul(c));
                // SAFETY: the columns are inside the row, and these channels of this pixel are written by
                // nobody else.
                unsafe {
                    let out = self.out.as_ptr().add((first + ox) * self.out_pitch + self.channels.start);
                    across_columns::<V, MAX>(x, taps.len(), wx.dilation * c, c, out, count);
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn join<V: Lanes, const MAX: bool>(acc: V, x: V) -> V {
    // SAFETY: the caller has the instructions.
    unsafe { if MAX { acc.larger(x) } else { V::add(acc, x) } }
}

#[inline(always)]
unsafe fn nothing<V: Lanes, const MAX: bool>() -> V {
    // SAFETY: the caller has the instructions.
    unsafe { V::splat(if MAX { f32::NEG_INFINITY } else { 0.0 }) }
}

/// Joins `rows` rows of `len` floats, `down` apart.
///
/// # Safety
/// `V`'s instructions are available, `len` is at least its width, and all rows can be read and the result
/// written.
#[inline(always)]
unsafe fn down_columns<V: Lanes, const MAX: bool>(
    x: *const f32,
    rows: usize,
    down: usize,
    len: usize,
    to: *mut f32,
) {
    // SAFETY: every vector is inside the rows.
    unsafe {
        let mut i = 0;
        while i + 4 * V::LANES <= len {
            let all = group::<V, MAX, 4>(x.wrapping_add(i), rows, down);
            for n in 0..4 {
                all[n].store(to.add(i + n * V::LANES));
            }
            i += 4 * V::LANES;
        }
        while i < len {
            let at = i.min(len - V::LANES);
            group::<V, MAX, 1>(x.wrapping_add(at), rows, down)[0].store(to.add(at));
            i += V::LANES;
        }
    }
}

/// Joins `taps` pixels of `channels` floats, `along` apart; a mean is taken over `count`.
///
/// # Safety
/// As for [`down_columns`].
#[inline(always)]
unsafe fn across_columns<V: Lanes, const MAX: bool>(
    x: *const f32,
    taps: usize,
    along: usize,
    channels: usize,
    to: *mut f32,
    count: f32,
) {
    // SAFETY: every vector is inside the pixels.
    unsafe {
        let mut i = 0;
        while i + 4 * V::LANES <= channels {
            let all = group::<V, MAX, 4>(x.wrapping_add(i), taps, along);
            for n in 0..4 {
                ended::<V, MAX>(all[n], count).store(to.add(i + n * V::LANES));
            }
            i += 4 * V::LANES;
        }
        while i < channels {
            let at = i.min(channels - V::LANES);
            let one = group::<V, MAX, 1>(x.wrapping_add(at), taps, along)[0];
            ended::<V, MAX>(one, count).store(to.add(at));
            i += V::LANES;
        }
    }
}

/// The result of a window from what its elements were joined to.
#[inline(always)]
unsafe fn ended<V: Lanes, const MAX: bool>(joined: V, count: f32) -> V {
    // SAFETY: the caller has the instructions.
    unsafe {
        if MAX {
            joined
        } else if count > 0.0 {
            V::div(joined, V::splat(count))
        } else {
            V::splat(0.0)
        }
    }
}

/// Joins `N` neighbouring vectors each over `times` places, `step` apart.
///
/// # Safety
/// `V`'s instructions are available and all of it can be read.
#[inline(always)]
unsafe fn group<V: Lanes, const MAX: bool, const N: usize>(
    x: *const f32,
    times: usize,
    step: usize,
) -> [V; N] {
    // SAFETY: forwarded.
    unsafe {
        let mut acc = [nothing::<V, MAX>(); N];
        let mut from = x;
        for _ in 0..times {
            for n in 0..N {
                acc[n] = join::<V, MAX>(acc[n], V::load(from.add(n * V::LANES)));
            }
            from = from.wrapping_add(step);
        }
        acc
    }
}

/// The mean over all pixels of each image: `[batch, pixels, channels]` to `[batch, channels]`. NaN where
/// there are no pixels.
pub fn global_average(
    pool: &Pool,
    batch: usize,
    pixels: usize,
    channels: usize,
    x: &[f32],
    out: &mut [f32],
) -> Result<(), KernelError> {
    exact("input", x, product("input", &[batch, pixels, channels])?)?;
    exact("output", out, product("output", &[batch, channels])?)?;
    if out.is_empty() {
        return Ok(());
    }
    const PART: usize = 64;
    let parts = channels.div_ceil(PART);
    let shards = Shards::new(out);
    pool.split(batch * parts, (GRAIN / pixels.saturating_mul(PART).max(1)).max(1), |tasks| {
        for task in tasks {
            let (image, first) = (task / parts, task % parts * PART);
            let c = PART.min(channels - first);
            // SAFETY: every part of every image is taken once.
            let out = unsafe { shards.part(image * channels + first, c) };
            let x = x.get(image * pixels * channels + first..).unwrap_or(&[]);
            lanes::run(pool.level(), c, Mean { x, pixels, pitch: channels, out });
        }
    });
    Ok(())
}

struct Mean<'a> {
    x: &'a [f32],
    pixels: usize,
    pitch: usize,
    out: &'a mut [f32],
}

impl Body for Mean<'_> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(self) {
        let c = self.out.len();
        let (x, out) = (self.x.as_ptr(), self.out.as_mut_ptr());
        // SAFETY: every vector is inside the channels, and the input has all the pixels.
        unsafe {
            let mut i = 0;
            while i + 4 * V::LANES <= c {
                let all = mean::<V, 4>(x.wrapping_add(i), self.pixels, self.pitch);
                for n in 0..4 {
                    all[n].store(out.add(i + n * V::LANES));
                }
                i += 4 * V::LANES;
            }
            while i < c {
                let at = i.min(c - V::LANES);
                mean::<V, 1>(x.wrapping_add(at), self.pixels, self.pitch)[0].store(out.add(at));
                i += V::LANES;
            }
        }
    }
}

/// # Safety
/// As for [`group`].
#[inline(always)]
unsafe fn mean<V: Lanes, const N: usize>(x: *const f32, pixels: usize, pitch: usize) -> [V; N] {
    // SAFETY: forwarded.
    unsafe {
        let mut sums = [V::splat(0.0); N];
        let mut done = 0;
        while done < pixels {
            let run = RUN.min(pixels - done);
            let part = group::<V, false, N>(x.wrapping_add(done * pitch), run, pitch);
            for n in 0..N {
                sums[n] = V::add(sums[n], part[n]);
            }
            done += run;
        }
        let count = V::splat(pixels as f32);
        for n in 0..N {
            sums[n] = V::div(sums[n], count);
        }
        sums
    }
}

#[cfg(test)]
mod tests;
