//! Convolution of bytes by windows of 3 by 3 in tiles of outputs, after Winograd, with exact sums.
//!
//! A tile's inputs and the weights are taken through a small transform each, after which the convolution is a
//! product for each place: 36 multiplications for 4 by 4 outputs instead of 144, or 16 for 2 by 2 instead of 36.
//! All transforms have whole numbers. Those of inputs and weights fit words; products and their sums are computed
//! modulo 2 to the 32, as is a small multiple of each output that the last transform ends in, from which the
//! output follows as long as the multiple fits 32 bits: [`WinogradWeights::exact`].

mod product;
mod transform;
mod weights;

#[cfg(test)]
mod tests;

pub use weights::{Tiles, WinogradWeights};

use super::after::{self, Target, Waiting};
use super::conv::{Bytes, Output, Scaling};
use super::tile::Finish;
use super::weights::Panel;
use crate::channels_last::conv::finish::Side;
use crate::conv::ConvShape;
use crate::error::{KernelError, at_least, extent};
use crate::matmul::driver::FirstError;
use crate::scratch;
use crate::simd::integer::Sums;
use crate::simd::integer::pairs::{self, Pairs, Work};
use crate::threads::{Pool, Shards};
use std::ops::Range;

/// Elements between the places of a buffer beyond what they need: places a power of two apart would share the
/// same few lines of the first-level cache.
const APART: usize = 32;
/// Bytes of a block's transformed inputs and of a panel's sums for it: most of the second-level cache.
const REGION: usize = 400 * 1024;
/// Multiply-adds that one thread is through with before another one would be of help.
const SHORT: usize = 100 * 1000;

/// Whether the kernel computes this shape.
pub(crate) fn supports(s: &ConvShape) -> bool {
    s.kernel == [1, 3, 3]
        && s.strides == [1; 3]
        && s.dilations[1..] == [1, 1]
        && s.groups == 1
        && s.input[0] == 1
}

/// A convolution of 3 by 3 without steps, dilation or groups, channels innermost, pixels `pitch` elements apart.
/// Rows of the result are pixels; its padding stands for zeros.
pub fn conv(
    pool: &Pool,
    shape: &ConvShape,
    x: Bytes<'_>,
    pitch: usize,
    w: &WinogradWeights,
    scaling: &Scaling<'_>,
    output: Output<'_>,
) -> Result<(), KernelError> {
    if !supports(shape) || shape.pads[0] != 0 {
        return Err(KernelError::Shape(
            "integer Winograd: windows of 3 by 3 without steps, dilation or groups",
        ));
    }
    if (shape.in_channels, shape.out_channels) != (w.channels, w.columns) {
        return Err(KernelError::Shape("integer Winograd: the weights have other sizes"));
    }
    let pixels: usize = shape.input.iter().product::<usize>() * shape.batch;
    at_least("activation", x.data, extent("activation", &[pixels, shape.in_channels], &[pitch, 1])?)?;
    let range = if x.signed { -128..=127 } else { 0..=255 };
    if !range.contains(&scaling.x_zero) {
        return Err(KernelError::Shape("a zero point outside the type's range"));
    }
    let rows = shape.output.iter().product::<usize>() * shape.batch;
    // Transformed inputs have the zero point taken off.
    let start = |starts: &mut [i32]| starts.fill(0);
    after::with([rows, w.columns], scaling, output, &[], start, |finish, target| {
        scratch::with_plain::<u8, _>(shape.in_channels, |outside| {
            outside.fill(scaling.x_zero as u8);
            let zero = scaling.x_zero as i16;
            let run = Run { s: shape, x, pitch, zero, outside, w, finish, target };
            match w.tiles {
                Tiles::Four => run.all::<4, 6>(pool),
                Tiles::Two => run.all::<2, 4>(pool),
            }
        })?
    })
}

/// One convolution.
struct Run<'a> {
    s: &'a ConvShape,
    x: Bytes<'a>,
    pitch: usize,
    zero: i16,
    /// A pixel outside the image.
    outside: &'a [u8],
    w: &'a WinogradWeights,
    finish: &'a Finish<'a>,
    target: &'a Target<'a>,
}

/// How the transformed inputs of a block lie.
#[derive(Clone, Copy)]
struct Layout {
    /// Words of a tile's channels at one place, in whole vectors.
    channels: usize,
    /// From one place to the next.
    apart: usize,
}

impl Run<'_> {
    /// Computes the whole output in tiles of `SIDE` by `SIDE` outputs and `REACH` by `REACH` inputs.
    fn all<const SIDE: usize, const REACH: usize>(&self, pool: &Pool) -> Result<(), KernelError> {
        let places = REACH * REACH;
        let (w, level) = (self.w, self.w.level);
        let channels = w.channels.next_multiple_of(product::words(level));
        let widest = w.panels.iter().map(|p| w.width(p)).max().unwrap_or(0);
        let [down, across] = self.tiles::<SIDE>();
        let total = self.s.batch * down * across;
        let work = (w.channels.saturating_mul(w.columns)).saturating_mul(total * places);
        let threads = if work <= SHORT { 1 } else { pool.threads() };
        let rows = product::most_rows(level);
        let fit = (REGION / (places * (2 * channels + 4 * widest))).max(rows);
        let blocks = total.div_ceil(fit);
        let layout = |tiles: usize| Layout { channels, apart: tiles * channels + APART };
        let products = |tiles: usize| tiles * widest + APART;
        let error = FirstError::default();
        let with_inputs = |tiles: usize, f: &mut dyn FnMut(&mut [i16])| {
            error.note(scratch::with_plain::<i16, _>(places * layout(tiles).apart, f));
        };
        let multiply = |block: Range<usize>, inputs: &[i16], panels: &[Panel]| {
            let (layout, apart) = (layout(block.len()), products(block.len()));
            error.note(scratch::with_plain::<i32, _>(places * apart, |room| {
                let work = Multiply::<SIDE, REACH> { run: self, block, inputs, layout, panels, room, apart };
                // SAFETY: both rooms have what the block takes in these layouts; tasks have other tiles or panels.
                unsafe { pairs::run(level, work) };
            }));
        };
        let transform = |tiles: Range<usize>, to: *mut i16, layout: Layout| {
            // SAFETY: the room has these tiles' words at every place, which no other task touches.
            unsafe { pairs::run(level, Inputs::<SIDE, REACH> { run: self, tiles, to, layout }) };
        };
        if blocks >= threads || total < 2 {
            let each = total.div_ceil(blocks.next_multiple_of(threads));
            pool.run(total.div_ceil(each), |i| {
                let block = i * each..((i + 1) * each).min(total);
                with_inputs(block.len(), &mut |room| {
                    transform(block.clone(), room.as_mut_ptr(), layout(block.len()));
                    multiply(block.clone(), room, &w.panels);
                });
            });
        } else {
            // Too few tiles for all threads: they share the transform, and then the channels.
            for start in (0..total).step_by(fit) {
                let block = start..(start + fit).min(total);
                with_inputs(block.len(), &mut |room| {
                    let shards = Shards::new(room);
                    pool.run(block.len(), |j| {
                        let to = shards.as_ptr().wrapping_add(j * channels);
                        transform(block.start + j..block.start + j + 1, to, layout(block.len()));
                    });
                    let each = w.panels.len().div_ceil(threads);
                    pool.run(w.panels.len().div_ceil(each), |i| {
                        let panels = &w.panels[i * each..((i + 1) * each).min(w.panels.len())];
                        multiply(block.clone(), room, panels);
                    });
                });
            }
        }
        error.into_result()
    }

    /// Tiles of an image along both axes.
    fn tiles<const SIDE: usize>(&self) -> [usize; 2] {
        [self.s.output[1].div_ceil(SIDE), self.s.output[2].div_ceil(SIDE)]
    }

    /// Image, and the output's line and pixel where a tile starts.
    #[inline(always)]
    fn corner<const SIDE: usize>(&self, t: usize) -> [usize; 3] {
        let [down, across] = self.tiles::<SIDE>();
        [t / across / down, t / across % down * SIDE, t % across * SIDE]
    }

    /// Moves to the next tile.
    #[inline(always)]
    fn next<const SIDE: usize>(&self, [image, top, left]: &mut [usize; 3]) {
        let [_, height, width] = self.s.output;
        *left += SIDE;
        if *left >= width {
            (*left, *top) = (0, *top + SIDE);
            if *top >= height {
                (*top, *image) = (0, *image + 1);
            }
        }
    }

    /// The pixel that a place of a tile's window reads.
    #[inline(always)]
    fn pixel(&self, image: usize, y: usize, x: usize) -> *const u8 {
        let [_, height, width] = self.s.input;
        let (y, x) = (y.wrapping_sub(self.s.pads[1]), x.wrapping_sub(self.s.pads[2]));
        if y >= height || x >= width {
            return self.outside.as_ptr();
        }
        self.x.data[((image * height + y) * width + x) * self.pitch..][..self.w.channels].as_ptr()
    }
}

/// Transforms the inputs of some tiles.
struct Inputs<'a, const SIDE: usize, const REACH: usize> {
    run: &'a Run<'a>,
    tiles: Range<usize>,
    /// Where the first tile's go.
    to: *mut i16,
    layout: Layout,
}

impl<const SIDE: usize, const REACH: usize> Work for Inputs<'_, SIDE, REACH> {
    #[inline(always)]
    unsafe fn run<V: Pairs>(self) {
        let run = self.run;
        let mut corner = run.corner::<SIDE>(self.tiles.start);
        for j in 0..self.tiles.len() {
            let [image, top, left] = corner;
            run.next::<SIDE>(&mut corner);
            let mut pixels = [[std::ptr::null(); REACH]; REACH];
            for y in 0..REACH {
                for x in 0..REACH {
                    pixels[y][x] = run.pixel(image, top + y, left + x);
                }
            }
            let to = self.to.wrapping_add(j * self.layout.channels);
            // SAFETY: the instructions are on; every pointer has the input's channels behind it, and the room has
            // as many in whole vectors at every place.
            unsafe {
                if run.x.signed {
                    transform::input::<V, true, REACH>(
                        &pixels,
                        run.w.channels,
                        run.zero,
                        to,
                        self.layout.apart,
                    );
                } else {
                    transform::input::<V, false, REACH>(
                        &pixels,
                        run.w.channels,
                        run.zero,
                        to,
                        self.layout.apart,
                    );
                }
            }
        }
    }
}

/// Computes some panels' columns of a block of tiles whose inputs are transformed.
struct Multiply<'a, const SIDE: usize, const REACH: usize> {
    run: &'a Run<'a>,
    block: Range<usize>,
    inputs: &'a [i16],
    layout: Layout,
    panels: &'a [Panel],
    /// Room for a panel's sums: a row for each tile, and such a table for each place, so far apart.
    room: &'a mut [i32],
    apart: usize,
}

impl<const SIDE: usize, const REACH: usize> Work for Multiply<'_, SIDE, REACH> {
    #[inline(always)]
    unsafe fn run<V: Pairs>(mut self) {
        let room = std::mem::take(&mut self.room);
        let (count, depth) = (self.block.len(), self.run.w.depth());
        let mut side = self.run.target.side();
        let mut outputs = transform::Lines([[0; transform::LINE]; SIDE]);
        for p in self.panels {
            let width = p.vectors * V::Sums::LANES;
            for place in 0..REACH * REACH {
                let inputs = &self.inputs[place * self.layout.apart..][..count * self.layout.channels];
                let weights = self.run.w.place(p, place);
                let sums = &mut room[place * self.apart..][..count * width];
                // SAFETY: the instructions are on; the slices have `count` rows, and rows their depth.
                unsafe {
                    product::product::<V>(
                        [count, depth, p.vectors],
                        inputs.as_ptr(),
                        self.layout.channels,
                        weights.as_ptr(),
                        sums.as_mut_ptr(),
                    );
                }
            }
            let mut corner = self.run.corner::<SIDE>(self.block.start);
            for j in 0..count {
                let sums = room[j * width..].as_ptr();
                // SAFETY: as above; the room has the tile's sums of every place.
                unsafe { self.finish::<V>(corner, p, sums, &mut outputs, &mut side) };
                self.run.next::<SIDE>(&mut corner);
            }
        }
    }
}

impl<const SIDE: usize, const REACH: usize> Multiply<'_, SIDE, REACH> {
    /// Turns the sums of one tile and panel into outputs.
    ///
    /// # Safety
    /// `V`'s instructions are available, and there is a row of whole vectors for every place.
    #[inline(always)]
    unsafe fn finish<V: Pairs>(
        &self,
        [image, top, left]: [usize; 3],
        p: &Panel,
        sums: *const i32,
        outputs: &mut transform::Lines<SIDE>,
        side: &mut Option<Side>,
    ) {
        let run = self.run;
        let [_, height, width] = run.s.output;
        let [lines, pixels] = [(height - top).min(SIDE), (width - left).min(SIDE)];
        // SAFETY: forwarded.
        unsafe { transform::output::<V, SIDE, REACH>(sums, self.apart, p.vectors, outputs) };
        let none = [std::ptr::null(); SIDE];
        for (y, line) in outputs.0.iter().enumerate().take(lines) {
            let row = (image * height + top + y) * width + left;
            let to = run.target.to(row, p, side, y * pixels);
            let tile = super::tile::Tile {
                rows: &none[..pixels],
                runs: &[],
                depth: 0,
                b: std::ptr::null(),
                from: std::ptr::null(),
                vectors: p.vectors,
                column: p.column,
                columns: p.columns,
                row_sums: &[],
                apart: super::apart::Apart::NONE,
                to,
            };
            // SAFETY: the line has the pixels' sums; this task alone writes these columns of theirs, for which there
            // is room, or its side buffer, which has room for all lines.
            unsafe { super::tile::finish::<V::Sums>(&tile, run.finish, line) };
        }
        let row = (image * height + top) * width + left;
        let rows = Waiting { row, size: [lines, pixels], line: width };
        // SAFETY: as above.
        unsafe { run.target.rest::<V::Sums>(run.w.level, side, rows, p) };
    }
}
