//! Convolutions and linear layers over bytes.
//!
//! Lines of outputs are taken together as long as what they read fits half of the second-level cache; that is
//! copied once, padded, and then every panel of weights passes over it.

use super::ByteWeights;
use super::after::{self, Target};
use super::fill::{Geometry, Order};
use super::tile::{self, Finish, Job, MAX_COLUMNS, MAX_ROWS, Steps, Tile};
use super::weights::Panel;
use crate::conv::{ConvShape, Window};
use crate::epilogue::Epilogue;
use crate::error::{KernelError, at_least, extent};
use crate::matmul::driver::FirstError;
use crate::scratch;
use crate::simd::integer::{Element, Sums};
use crate::threads::Pool;
use std::ops::Range;

/// Bytes of a block's copied activation: about a quarter of the second-level cache.
const REGION: usize = 128 * 1024;
/// Multiply-adds that one thread is through with before another one would be of help.
const SHORT: usize = 400 * 1000;

/// Bytes with or without a sign.
#[derive(Debug, Clone, Copy)]
pub struct Bytes<'a> {
    /// The elements.
    pub data: &'a [u8],
    /// Whether they are i8, not u8.
    pub signed: bool,
}

impl Bytes<'_> {
    /// What turns them into bytes without a sign, 128 larger where they had one.
    pub(crate) fn flip(&self) -> u8 {
        if self.signed { 0x80 } else { 0 }
    }
}

/// What the operands' numbers stand for.
#[derive(Debug, Clone, Copy)]
pub struct Scaling<'a> {
    /// Of the activation.
    pub x_scale: f32,
    /// The activation's zero point.
    pub x_zero: i32,
    /// Of the weights: one, or one for each column.
    pub scales: &'a [f32],
    /// Added to the real result: one number for each column, or none.
    pub bias: &'a [f32],
}

/// What is made of a product's sums.
#[derive(Debug)]
pub enum Output<'a> {
    /// The sums themselves, without scales; dense.
    Sums(&'a mut [i32]),
    /// Real numbers.
    Floats {
        /// The result.
        out: &'a mut [f32],
        /// Elements from one row to the next.
        pitch: usize,
        /// What follows the bias.
        epilogue: Epilogue<'a>,
    },
    /// Quantized numbers.
    Bytes {
        /// The result.
        out: &'a mut [u8],
        /// Elements from one row to the next.
        pitch: usize,
        /// What follows the bias, on real numbers.
        epilogue: Epilogue<'a>,
        /// How they are quantized.
        to: Quantized,
    },
}

/// How real numbers become bytes: divided by a scale, rounded to the nearest (of two as near the even one),
/// moved by the zero point and kept within the range.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quantized {
    /// Of a step.
    pub scale: f32,
    /// The number that stands for zero.
    pub zero: i32,
    /// Whether the bytes are i8, not u8.
    pub signed: bool,
}

impl Quantized {
    pub(crate) fn steps(&self) -> Result<Steps, KernelError> {
        let flip = if self.signed { 0x80 } else { 0 };
        let zero = self.zero + flip;
        if !(0..=255).contains(&zero) {
            return Err(KernelError::Shape("a zero point outside the type's range"));
        }
        Ok(Steps::new(-zero as f32, (255 - zero) as f32, zero, flip))
    }
}

/// A convolution without groups. Rows of the result are pixels; its padding stands for zeros.
pub fn conv(
    pool: &Pool,
    shape: &ConvShape,
    x: Bytes<'_>,
    order: Order,
    w: &ByteWeights,
    scaling: &Scaling<'_>,
    output: Output<'_>,
) -> Result<(), KernelError> {
    let taps: usize = shape.kernel.iter().product();
    if shape.groups != 1 || shape.kernel[0] != 1 || shape.input[0] != 1 || shape.pads[0] != 0 {
        return Err(KernelError::Shape("integer convolution: at most two axes, and no groups"));
    }
    if (taps, shape.in_channels, shape.out_channels) != (w.taps, w.channels, w.columns) {
        return Err(KernelError::Shape("integer convolution: the weights have other sizes"));
    }
    let pixels: usize = shape.input.iter().product::<usize>() * shape.batch;
    match order {
        Order::Pixels(pitch) => {
            at_least("activation", x.data, extent("activation", &[pixels, shape.in_channels], &[pitch, 1])?)?;
        }
        Order::Planes => at_least("activation", x.data, shape.input_len())?,
    }
    let rows = shape.output.iter().product::<usize>() * shape.batch;
    product(pool, &Geometry::new(shape, order, w.form.group()), rows, x, order, w, scaling, output)
}

/// A product of many rows, `pitch` elements apart, by weights of a single tap.
pub fn linear(
    pool: &Pool,
    rows: usize,
    x: Bytes<'_>,
    pitch: usize,
    w: &ByteWeights,
    scaling: &Scaling<'_>,
    output: Output<'_>,
) -> Result<(), KernelError> {
    if w.channels == 0 || w.taps != 1 {
        return Err(KernelError::Shape("integer product: no depth"));
    }
    let shape = ConvShape::new(1, w.channels, w.columns, 1, &[rows], &[Window::new(1)])?;
    conv(pool, &shape, x, Order::Pixels(pitch), w, scaling, output)
}

#[allow(clippy::too_many_arguments)]
fn product(
    pool: &Pool,
    g: &Geometry,
    rows: usize,
    x: Bytes<'_>,
    order: Order,
    w: &ByteWeights,
    s: &Scaling<'_>,
    output: Output<'_>,
) -> Result<(), KernelError> {
    let zero = s.x_zero + i32::from(x.flip());
    let Ok(zero) = u8::try_from(zero) else {
        return Err(KernelError::Shape("a zero point outside the type's range"));
    };
    let start = |starts: &mut [i32]| {
        let depth = w.depth() as i32;
        for (j, (to, sum)) in starts.iter_mut().zip(w.sums()).enumerate() {
            let without = depth.wrapping_mul(w.zeros.get(j).copied().unwrap_or(0));
            *to = i32::from(zero).wrapping_mul(without.wrapping_sub(sum));
        }
    };
    after::with([rows, w.columns], s, output, &w.zeros, start, |finish, target| {
        share(pool, g, (x, order, zero), w, finish, target)
    })
}

/// Shares lines of outputs and panels out over the threads.
fn share(
    pool: &Pool,
    g: &Geometry,
    (x, order, zero): (Bytes<'_>, Order, u8),
    w: &ByteWeights,
    finish: &Finish<'_>,
    target: &Target<'_>,
) -> Result<(), KernelError> {
    let [images, lines] = g.lines();
    let work = (w.depth().saturating_mul(w.columns)).saturating_mul(images * lines * g.line());
    let threads = if work <= SHORT { 1 } else { pool.threads() };
    let fits = |lines: usize| g.len(lines) * w.form.size() <= REGION;
    // Lines share what they read, so their number is found by trying.
    let mut most = (REGION / (g.len(2).saturating_sub(g.len(1)) * w.form.size()).max(1)).clamp(1, lines);
    while most > 1 && !fits(most) {
        most -= 1;
    }
    let tile = w.form.rows(w.level);
    // A panel that comes from afar is used at least by a few tiles.
    most = most.max((4 * tile).div_ceil(g.line())).min(lines);
    let mut blocks = lines.div_ceil(most);
    let mut groups = 1;
    if threads > 1 {
        let finest = (lines * g.line() / (4 * tile)).clamp(1, lines);
        blocks = (images * blocks).next_multiple_of(threads).div_ceil(images).min(finest).max(blocks);
        if images * blocks < threads {
            groups = (2 * threads).div_ceil(images * blocks).min(w.panels.len());
        }
    }
    let (runs, depth) = g.runs();
    let error = FirstError::default();
    pool.run(images * blocks * groups, |task| {
        let (block, group) = (task / groups, task % groups);
        let (image, block) = (block / blocks, block % blocks);
        let range = block * lines / blocks..(block + 1) * lines / blocks;
        let panels = group * w.panels.len() / groups..(group + 1) * w.panels.len() / groups;
        let (outputs, elements) = (range.len() * g.line(), g.len(range.len().max(1)));
        let sums = if w.zeros.is_empty() { 0 } else { outputs };
        // Rooms are taken here: what runs inside of their closures is not compiled for the form's vectors.
        let done = scratch::with_plain::<u8, _>(elements * w.form.size(), |copy| {
            scratch::with_plain::<u32, _>(outputs, |windows| {
                scratch::with_plain::<i32, _>(sums, |sums| {
                    let panels = &w.panels[panels];
                    let (runs, lines) = (&runs[..], range);
                    let source = (x, order, zero);
                    let job = Block {
                        g,
                        source,
                        image,
                        lines,
                        w,
                        panels,
                        runs,
                        depth,
                        finish,
                        target,
                        copy,
                        windows,
                        sums,
                    };
                    tile::run(w.form, w.level, job);
                })
            })
        });
        error.note(done.flatten().flatten());
    });
    error.into_result()
}

/// Some panels' columns of some lines of outputs.
struct Block<'a> {
    g: &'a Geometry,
    /// The activation, its order, and its zero point as if it had no sign.
    source: (Bytes<'a>, Order, u8),
    image: usize,
    lines: Range<usize>,
    w: &'a ByteWeights,
    panels: &'a [Panel],
    runs: &'a [usize],
    depth: usize,
    finish: &'a Finish<'a>,
    target: &'a Target<'a>,
    /// Room for what the lines read, for where each output's window begins in it, and for the window's sum,
    /// where that is asked for.
    copy: &'a mut [u8],
    windows: &'a mut [u32],
    sums: &'a mut [i32],
}

impl Job for Block<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Sums>(mut self) {
        if self.windows.is_empty() {
            return;
        }
        let lines = self.lines.len();
        let room = std::mem::take(&mut self.copy);
        assert!(room.len() >= self.g.len(lines) * size_of::<S::X>());
        // SAFETY: the room starts on a cache line and has the elements, which may have any bits.
        let copy: &mut [S::X] =
            unsafe { std::slice::from_raw_parts_mut(room.as_mut_ptr().cast(), self.g.len(lines)) };
        let (x, order, zero) = self.source;
        self.g.fill(x, order, zero, self.image, self.lines.clone(), copy);
        let (windows, sums) = (std::mem::take(&mut self.windows), std::mem::take(&mut self.sums));
        for (i, row) in windows.chunks_exact_mut(self.g.line()).enumerate() {
            row.iter_mut().enumerate().for_each(|(j, w)| *w = self.g.window(i, j) as u32);
        }
        for (sum, &window) in sums.iter_mut().zip(&*windows) {
            *sum = 0;
            for r in self.runs {
                *sum += copy[window as usize + r..][..self.depth].iter().map(|x| x.to_i32()).sum::<i32>();
            }
        }
        // SAFETY: the instructions are on.
        unsafe { self.panels::<S>(copy, windows, sums) };
    }
}

impl Block<'_> {
    /// # Safety
    /// `S`'s instructions are available; every window lies in the copy.
    #[inline(always)]
    unsafe fn panels<S: Sums>(&self, copy: &[S::X], windows: &[u32], sums: &[i32]) {
        let count = windows.len();
        let tiles = count.div_ceil(self.w.form.rows(self.w.level));
        let first = (self.image * self.g.lines()[1] + self.lines.start) * self.g.line();
        let mut room = [0; MAX_ROWS * MAX_COLUMNS];
        let mut side = self.target.side();
        let last = self.runs.last().map_or(0, |r| r + self.depth);
        for p in self.panels {
            let b = self.w.panel(p);
            for i in 0..tiles {
                let rows = i * count / tiles..(i + 1) * count / tiles;
                let mut starts = [std::ptr::null(); MAX_ROWS];
                for (to, &window) in starts.iter_mut().zip(&windows[rows.clone()]) {
                    debug_assert!(window as usize + last <= copy.len());
                    *to = copy.as_ptr().wrapping_add(window as usize);
                }
                let row = first + rows.start;
                let to = self.target.to(row, p, self.w.columns, &mut side);
                let tile = Tile {
                    rows: &starts[..rows.len()],
                    runs: self.runs,
                    depth: self.depth,
                    b,
                    vectors: p.vectors,
                    column: p.column,
                    columns: p.columns,
                    row_sums: if sums.is_empty() { &[] } else { &sums[rows.clone()] },
                    to,
                };
                // SAFETY: the copy has each row's runs; this task alone writes these columns of these rows, for
                // which there is room, or its side buffer, which has room for a tile.
                unsafe {
                    tile::tile::<S>(&tile, self.finish, &mut room);
                    self.target.rest::<S>(self.w.level, to, &mut side, [row, rows.len()], p);
                }
            }
        }
    }
}
