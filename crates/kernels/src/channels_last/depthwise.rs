//! Convolution of each channel by itself, channels last.
//!
//! A block is a few neighbouring outputs of a row by one vector of channels, summed in registers over all
//! taps in the order of the weights; a tap outside the input is left out. For the common windows a block
//! reads each input pixel once per row of taps, whichever of its outputs use it.

use super::fused::{Fused, finish, finish_room};
use super::lanes::{self, Body, Lanes};
use crate::conv::ConvShape;
use crate::epilogue::Epilogue;
use crate::error::{KernelError, exact};
use crate::matmul::driver::FirstError;
use crate::packed::{Packed, Weight};
use crate::scratch;
use crate::simd::Level;
use crate::threads::{Pool, Shards};
use std::cell::RefCell;
use std::ops::{Deref, DerefMut, Range};

/// Most outputs of a block.
const ACROSS: usize = 8;
/// Floats that stay in the first-level cache between the rows of a block.
const NEAR: usize = 8 * 1024;
/// Floats of output rows that stay near until the last steps of an epilogue.
const BAND: usize = 16 * 1024;
/// Multiplications worth a task of its own.
const GRAIN: usize = 1 << 18;

/// Weights of a depthwise convolution, rearranged once: all taps of a vector of channels, then the next.
#[derive(Clone)]
pub struct DepthwiseWeights {
    level: Level,
    channels: usize,
    kernel: [usize; 2],
    packed: Packed,
}

impl std::fmt::Debug for DepthwiseWeights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DepthwiseWeights")
            .field("level", &self.level)
            .field("channels", &self.channels)
            .field("kernel", &self.kernel)
            .finish_non_exhaustive()
    }
}

fn check_shape(s: &ConvShape) -> Result<(), KernelError> {
    if !(s.flat() && s.groups == s.in_channels && s.out_channels == s.in_channels) {
        return Err(KernelError::Shape(
            "depthwise convolution: one group and one output for each channel, at most two spatial axes",
        ));
    }
    Ok(())
}

impl DepthwiseWeights {
    /// Packs `[channels, 1, taps..]` weights. The result also serves other batch and spatial sizes with the
    /// same channels and taps.
    pub fn pack<T: Weight>(
        level: Level,
        shape: &ConvShape,
        weights: &[T],
    ) -> Result<DepthwiseWeights, KernelError> {
        check_shape(shape)?;
        exact("weights", weights, shape.weights_len())?;
        let (channels, taps) = (shape.in_channels, shape.taps());
        let width = lanes::width(level, channels);
        let len = crate::error::product("weights", &[channels.next_multiple_of(width), taps])?;
        let packed = Packed::build(len, |room| {
            for (v, block) in room[..len].chunks_exact_mut(taps * width).enumerate() {
                let first = (v * width).min(channels - width);
                for (t, to) in block.chunks_exact_mut(width).enumerate() {
                    for (l, to) in to.iter_mut().enumerate() {
                        *to = weights[(first + l) * taps + t].float();
                    }
                }
            }
        })?;
        Ok(DepthwiseWeights { level, channels, kernel: [shape.kernel[1], shape.kernel[2]], packed })
    }

    /// Weights that [`DepthwiseWeights::pack`] once packed for this level and shape.
    pub fn from_packed(
        level: Level,
        shape: &ConvShape,
        packed: Packed,
    ) -> Result<DepthwiseWeights, KernelError> {
        check_shape(shape)?;
        let (channels, taps) = (shape.in_channels, shape.taps());
        let width = lanes::width(level, channels);
        let len = crate::error::product("weights", &[channels.next_multiple_of(width), taps])?;
        if packed.as_slice().len() != len.next_multiple_of(16) {
            return Err(KernelError::Shape("packed weights: another number of them"));
        }
        Ok(DepthwiseWeights { level, channels, kernel: [shape.kernel[1], shape.kernel[2]], packed })
    }

    /// The packed weights as they lie in memory.
    pub fn packed(&self) -> &Packed {
        &self.packed
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.packed.bytes().len()
    }

    /// The level, if the weights are for this shape.
    pub(crate) fn level_for(&self, s: &ConvShape) -> Result<Level, KernelError> {
        check_shape(s)?;
        if self.channels != s.in_channels || self.kernel != [s.kernel[1], s.kernel[2]] {
            return Err(KernelError::Shape(
                "depthwise convolution: weights packed for other channels or taps",
            ));
        }
        Ok(self.level)
    }
}

/// Convolves every channel of `x` (`[batch, height, width, channels]`) by itself into `out`. The epilogue's
/// rows are the output pixels of the whole batch, its columns the channels.
pub fn depthwise(
    pool: &Pool,
    shape: &ConvShape,
    x: &[f32],
    weights: &DepthwiseWeights,
    out: &mut [f32],
    epilogue: Epilogue<'_>,
) -> Result<(), KernelError> {
    let s = shape;
    weights.level_for(s)?;
    exact("input", x, s.input_len())?;
    exact("output", out, s.output_len())?;
    epilogue.check(s.batch * s.positions(), s.in_channels, out.len())?;
    if out.is_empty() {
        return Ok(());
    }
    let (fused, rest) = Fused::split(epilogue);
    let (channels, width) = (s.in_channels, lanes::width(weights.level, s.in_channels));
    let [_, oh, ow] = s.output;
    let (rows, vectors) = (s.batch * oh, channels.div_ceil(width));
    // Few rows do not split evenly: cut the channels as well, unless later steps want whole pixels or the
    // last vector writes into the one before.
    let most = if rest.is_empty() && channels.is_multiple_of(width) { vectors.div_ceil(4) } else { 1 };
    let parts = if pool.threads() == 1 { 1 } else { (8 * pool.threads()).div_ceil(rows).min(most) };
    let part = vectors.div_ceil(parts);
    // Later steps follow while the rows are still near.
    let band = if rest.is_empty() { oh } else { (BAND / (ow * channels)).max(1) };
    let line = s.input[2] * channels;
    let mut lines = Lines::borrowed();
    lines.fill(s, 0..oh, ow * channels, |y| y * line);
    let shards = Shards::new(out);
    let error = FirstError::default();
    let work = (ow * channels).saturating_mul(s.taps()) / parts;
    pool.split(rows * parts, (GRAIN / work.max(1)).max(1), |tasks| {
        error.note(scratch::with(finish_room(rest, channels), |room| {
            let mut task = tasks.start;
            while task < tasks.end {
                let (part_of, row) = (task / rows, task % rows);
                let (image, oy) = (row / oh, row % oh);
                let count = band.min(oh - oy).min(tasks.end - task);
                let job = Band {
                    s,
                    fused: &fused,
                    vectors: part_of * part..((part_of + 1) * part).min(vectors),
                    lines: &lines.each[oy..oy + count],
                    starts: &lines.starts,
                    pitch: channels,
                    x: x[image * s.input[1] * line..].as_ptr(),
                    weights,
                    out: shards.as_ptr(),
                    first: image * oh * ow * channels,
                };
                // SAFETY: the lines are those of this image, and no other task has the same rows and vectors.
                unsafe { job.run() };
                if !rest.is_empty() {
                    // SAFETY: rows are whole here, and each is taken once.
                    let out = unsafe { shards.part(row * ow * channels, count * ow * channels) };
                    finish(weights.level, rest, out, channels, row * ow, room);
                }
                task += count;
            }
        }));
    });
    error.into_result()
}

/// The taps whose input lies in `0..len`, for an output whose first tap is at `at` before the padding.
pub(crate) fn inside(at: usize, pad: usize, len: usize, kernel: usize, dilation: usize) -> Range<usize> {
    let first = pad.saturating_sub(at).div_ceil(dilation);
    let end = (len + pad).saturating_sub(at).div_ceil(dilation).min(kernel);
    first.min(end)..end
}

/// The rows of taps inside the input for an output row, and the input row under the first of them.
pub(crate) fn rows(s: &ConvShape, oy: usize) -> (Range<usize>, usize) {
    let first = oy * s.strides[1];
    let taps = inside(first, s.pads[1], s.input[1], s.kernel[1], s.dilations[1]);
    let y = (first + taps.start * s.dilations[1]).saturating_sub(s.pads[1]);
    (taps, y)
}

/// What one output row needs of the input.
pub(crate) struct Line {
    /// The first row of taps inside the input, and how many there are.
    tap: usize,
    taps: usize,
    /// Where the starts of the rows under them begin.
    first: usize,
    /// Where the output row starts.
    out: usize,
}

/// Some output rows, and where each row of the input under their taps starts.
#[derive(Default)]
pub(crate) struct Lines {
    pub each: Vec<Line>,
    pub starts: Vec<usize>,
}

thread_local! {
    /// Those that nobody uses, so that a steady run allocates none.
    static IDLE: RefCell<Vec<Lines>> = const { RefCell::new(Vec::new()) };
}

impl Lines {
    /// Room for lines that is used again and again.
    pub(crate) fn borrowed() -> Borrowed {
        Borrowed(IDLE.with_borrow_mut(Vec::pop).unwrap_or_default())
    }

    /// Becomes the output rows `range`, `pitch` floats from one to the next; `start` says where an input row is.
    pub(crate) fn fill(
        &mut self,
        s: &ConvShape,
        range: Range<usize>,
        pitch: usize,
        start: impl Fn(usize) -> usize,
    ) {
        self.each.clear();
        self.starts.clear();
        for (i, oy) in range.enumerate() {
            let (taps, y) = rows(s, oy);
            let line = Line { tap: taps.start, taps: taps.len(), first: self.starts.len(), out: i * pitch };
            self.each.push(line);
            self.starts.extend((0..taps.len()).map(|t| start(y + t * s.dilations[1])));
        }
    }
}

/// Lines that go back to their thread's idle ones.
pub(crate) struct Borrowed(Lines);

impl Deref for Borrowed {
    type Target = Lines;

    fn deref(&self) -> &Lines {
        &self.0
    }
}

impl DerefMut for Borrowed {
    fn deref_mut(&mut self) -> &mut Lines {
        &mut self.0
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.0);
        // A thread that ends has none to keep.
        let _ = IDLE.try_with(|idle| idle.borrow_mut().push(lines));
    }
}

/// Some output rows of an image, and some vectors of their channels.
pub(crate) struct Band<'a> {
    pub s: &'a ConvShape,
    pub fused: &'a Fused<'a>,
    pub vectors: Range<usize>,
    pub lines: &'a [Line],
    pub starts: &'a [usize],
    /// From one pixel of the input to the next.
    pub pitch: usize,
    /// Where the input's rows are counted from: the first channel of all, whether it is there or not.
    pub x: *const f32,
    pub weights: &'a DepthwiseWeights,
    /// The output, whose pixels are dense, and where in it the rows are counted from.
    pub out: *mut f32,
    pub first: usize,
}

impl Band<'_> {
    /// Computes them.
    ///
    /// # Safety
    /// The lines are the shape's: behind `x` and each start there is a row of the input, with `pitch` from one
    /// pixel to the next, at least for the channels of these vectors; the output has room for its rows, and
    /// nobody else touches these vectors of them. The weights are the shape's.
    pub(crate) unsafe fn run(self) {
        lanes::run(self.weights.level, self.s.in_channels, self);
    }
}

impl Body for Band<'_> {
    #[inline(always)]
    unsafe fn run<V: Lanes>(mut self) {
        let s = self.s;
        // As many vectors at a time as stay in the first-level cache from one row to the next.
        let reach = (ACROSS - 1) * s.strides[2] + (s.kernel[2] - 1) * s.dilations[2] + 1;
        let floats = reach.saturating_mul(s.kernel[1]).saturating_add(ACROSS + s.taps());
        let most = (NEAR / V::LANES / floats).max(1);
        let all = self.vectors.clone();
        let groups = all.len().div_ceil(most);
        // Its eight sums need registers beside them.
        let known = V::LANES >= if cfg!(target_arch = "aarch64") { 4 } else { 8 };
        for g in 0..groups {
            self.vectors = all.start + g * all.len() / groups..all.start + (g + 1) * all.len() / groups;
            // SAFETY: forwarded; the window is the one named.
            unsafe {
                match (s.kernel[2], s.strides[2], s.dilations[2]) {
                    (3, 1, 1) if known => self.known::<V, 3, 1>(),
                    (3, 2, 1) if known => self.known::<V, 3, 2>(),
                    (5, 1, 1) if known => self.known::<V, 5, 1>(),
                    (5, 2, 1) if known => self.known::<V, 5, 2>(),
                    _ => self.any::<V>(),
                }
            }
        }
    }
}

impl Band<'_> {
    /// The taps inside the input for one output of a row.
    #[inline(always)]
    fn columns(&self, ox: usize) -> Range<usize> {
        let s = self.s;
        inside(ox * s.strides[2], s.pads[2], s.input[2], s.kernel[2], s.dilations[2])
    }

    /// The outputs of a row with all their taps inside the input.
    #[inline(always)]
    fn interior(&self) -> Range<usize> {
        let s = self.s;
        let reach = (s.kernel[2] - 1) * s.dilations[2] + 1;
        let first = s.pads[2].div_ceil(s.strides[2]).min(s.output[2]);
        let end = match (s.input[2] + s.pads[2]).checked_sub(reach) {
            Some(last) => (last / s.strides[2] + 1).min(s.output[2]),
            None => 0,
        };
        first..end.max(first)
    }

    /// A window whose width and stride are constants, without dilation.
    ///
    /// # Safety
    /// `V`'s instructions are available, and `KW` and `S` are the window's.
    #[inline(always)]
    unsafe fn known<V: Lanes, const KW: usize, const S: usize>(&self) {
        let interior = self.interior();
        let blocks = interior.len().div_ceil(ACROSS);
        for ox in (0..interior.start).chain(interior.end..self.s.output[2]) {
            let taps = self.columns(ox);
            // SAFETY: these taps of this output are inside the input.
            unsafe {
                match taps.len() {
                    1 => self.block::<V, 1, S, 1>(ox, taps.start),
                    2 => self.block::<V, 2, S, 1>(ox, taps.start),
                    3 => self.block::<V, 3, S, 1>(ox, taps.start),
                    4 => self.block::<V, 4, S, 1>(ox, taps.start),
                    _ => self.block_any::<V, 1>(ox, taps),
                }
            }
        }
        for b in 0..blocks {
            // As even as they can be: a last block of one output would wait for its own sums.
            let ox = interior.start + b * interior.len() / blocks;
            let end = interior.start + (b + 1) * interior.len() / blocks;
            macro_rules! by_outputs {
                ($($p:literal)+) => {
                    match end - ox {
                        // SAFETY: the block is in the interior.
                        $($p => unsafe { self.block::<V, KW, S, $p>(ox, 0) },)+
                        _ => unreachable!("a block has no more outputs than that"),
                    }
                };
            }
            by_outputs!(1 2 3 4 5 6 7 8);
        }
    }

    /// Where a block's arrays are: the weights of the first vector's tap `kx`, the input pixel under that tap
    /// for the output `ox` in a row that starts at 0, and the output itself in such a row.
    #[inline(always)]
    fn place(&self, ox: usize, kx: usize, lanes: usize) -> (*const f32, *const f32, usize) {
        let (s, step) = (self.s, self.s.in_channels);
        let vector = self.vectors.start;
        let weights = self.weights.packed.as_slice().as_ptr();
        let weights = weights.wrapping_add((vector * s.taps() + kx) * lanes);
        let column = (ox * s.strides[2] + kx * s.dilations[2]).wrapping_sub(s.pads[2]);
        let x = self.x.wrapping_add(column.wrapping_mul(self.pitch));
        (weights, x, self.first + ox * step)
    }

    /// `P` outputs from `ox` on in every row, over `T` columns of taps from `kx` on, which are inside the input
    /// for all of them.
    ///
    /// # Safety
    /// As for [`Band::known`], and there are that many outputs and columns of taps.
    #[inline(always)]
    unsafe fn block<V: Lanes, const T: usize, const S: usize, const P: usize>(&self, ox: usize, kx: usize) {
        let (s, step, pitch) = (self.s, self.s.in_channels, self.pitch);
        let (weights, x, at) = self.place(ox, kx, V::LANES);
        let (row, next) = (s.kernel[2] * V::LANES, s.taps() * V::LANES);
        for &Line { tap, taps, first, out } in self.lines {
            let (at, mut weights) = (at + out, weights.wrapping_add(tap * row));
            let starts = &self.starts[first..first + taps];
            for v in self.vectors.clone() {
                let channel = (v * V::LANES).min(step - V::LANES);
                // SAFETY: the channels are inside a pixel, the rows and columns of taps inside the input, and
                // this vector of these outputs is written by nobody else.
                unsafe {
                    let mut acc = [V::splat(0.0); P];
                    let (mut w, x) = (weights, x.wrapping_add(channel));
                    for &start in starts {
                        let mut tap = [V::splat(0.0); T];
                        for k in 0..T {
                            tap[k] = V::load(w.add(k * V::LANES));
                        }
                        // Each pixel is read once, whichever outputs it goes to.
                        let mut x = x.wrapping_add(start);
                        macro_rules! pixels {
                            ($($i:literal)+) => {$(
                                if const { $i < (P - 1) * S + T } {
                                    let pixel = V::load(x);
                                    x = x.wrapping_add(pitch);
                                    tap!(pixel $i: 0 1 2 3 4);
                                }
                            )+};
                        }
                        macro_rules! tap {
                            ($x:ident $i:literal: $($k:literal)+) => {$(
                                if const { $k < T && $i >= $k && ($i - $k) % S == 0 && ($i - $k) / S < P } {
                                    let p = const { if $i >= $k { ($i - $k) / S } else { 0 } };
                                    acc[p] = V::mul_add(tap[$k], $x, acc[p]);
                                }
                            )+};
                        }
                        pixels!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18);
                        let _ = x;
                        w = w.wrapping_add(row);
                    }
                    self.fused.apply(&mut acc, channel, at + channel, step);
                    let out = self.out.add(at + channel);
                    for p in 0..P {
                        acc[p].store(out.add(p * step));
                    }
                }
                weights = weights.wrapping_add(next);
            }
        }
    }

    /// Any window: four outputs at a time in the interior, else one.
    ///
    /// # Safety
    /// `V`'s instructions are available.
    #[inline(always)]
    unsafe fn any<V: Lanes>(&self) {
        let (s, interior) = (self.s, self.interior());
        let mut ox = 0;
        while ox < s.output[2] {
            // SAFETY: the outputs are in the row, and their taps in the input.
            unsafe {
                if ox >= interior.start && ox + 4 <= interior.end {
                    self.block_any::<V, 4>(ox, 0..s.kernel[2]);
                    ox += 4;
                } else {
                    self.block_any::<V, 1>(ox, self.columns(ox));
                    ox += 1;
                }
            }
        }
    }

    /// As [`Band::block`], for any columns of taps of any window.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    unsafe fn block_any<V: Lanes, const P: usize>(&self, ox: usize, columns: Range<usize>) {
        let (s, step) = (self.s, self.s.in_channels);
        let (weights, x, at) = self.place(ox, columns.start, V::LANES);
        let (row, next) = (s.kernel[2] * V::LANES, s.taps() * V::LANES);
        let pitch = self.pitch;
        let (across, along) = (s.strides[2].wrapping_mul(pitch), s.dilations[2].wrapping_mul(pitch));
        for &Line { tap, taps, first, out } in self.lines {
            let (at, mut weights) = (at + out, weights.wrapping_add(tap * row));
            let starts = &self.starts[first..first + taps];
            for v in self.vectors.clone() {
                let channel = (v * V::LANES).min(step - V::LANES);
                // SAFETY: as in `block`.
                unsafe {
                    let mut acc = [V::splat(0.0); P];
                    let (mut w, x) = (weights, x.wrapping_add(channel));
                    for &start in starts {
                        let x = x.wrapping_add(start);
                        for k in 0..columns.len() {
                            let tap = V::load(w.add(k * V::LANES));
                            let pixels = x.wrapping_add(k * along);
                            for p in 0..P {
                                acc[p] = V::mul_add(tap, V::load(pixels.add(p * across)), acc[p]);
                            }
                        }
                        w = w.wrapping_add(row);
                    }
                    self.fused.apply(&mut acc, channel, at + channel, step);
                    let out = self.out.add(at + channel);
                    for p in 0..P {
                        acc[p].store(out.add(p * step));
                    }
                }
                weights = weights.wrapping_add(next);
            }
        }
    }
}

#[cfg(test)]
mod tests;
