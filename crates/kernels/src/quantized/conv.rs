//! Convolutions and linear layers over bytes.
//!
//! Lines of outputs are taken together as long as what they read fits half of the second-level cache; that is
//! copied once, padded, and then every panel of weights passes over it.

use super::ByteWeights;
use super::after::{self, Target, Waiting};
use super::apart::{self, Apart, Group, Lacking, Lists, Parts, Places};
use super::fill::{Geometry, Order};
use super::form::{self, Form, Job};
use super::one_row;
use super::tile::{self, Finish, MAX_COLUMNS, MAX_ROWS, Room, Steps, Tile};
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
    /// The sums themselves, without scales.
    Sums {
        /// The result.
        out: &'a mut [i32],
        /// Elements from one row to the next.
        pitch: usize,
    },
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
    product(pool, &Geometry::new(shape, order, w.form.filled()), rows, x, order, w, scaling, output)
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
    // A single row of a single run meets each weight once, and with all of its parts.
    let alone = rows == 1 && g.runs().0.len() == 1;
    // What is taken off all elements is taken off their zero point.
    let base = match w.form {
        Form::Pairs if !alone => apart::base(zero, w.span),
        form => form.base(),
    };
    let start = |starts: &mut [i32]| {
        let depth = w.depth() as i32;
        for (j, (to, sum)) in starts.iter_mut().zip(w.sums()).enumerate() {
            let without = depth.wrapping_mul(w.zeros.get(j).copied().unwrap_or(0));
            *to = (i32::from(zero) - i32::from(base)).wrapping_mul(without.wrapping_sub(sum));
        }
    };
    after::with([rows, w.columns], s, output, &w.zeros, start, |finish, target| {
        share(pool, g, Source { x, order, zero, base, alone }, w, finish, target)
    })
}

/// An activation.
#[derive(Clone, Copy)]
struct Source<'a> {
    x: Bytes<'a>,
    order: Order,
    /// Its zero point, as if it had no sign.
    zero: u8,
    /// What is taken off its elements, where they are narrowed or multiplied with a sign.
    base: u8,
    /// Whether it is a single row that lies in one piece.
    alone: bool,
}

/// Shares lines of outputs and panels out over the threads.
fn share(
    pool: &Pool,
    g: &Geometry,
    source: Source<'_>,
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
    let mut groups_of = 1;
    if threads > 1 {
        let finest = (lines * g.line() / (4 * tile)).clamp(1, lines);
        blocks = (images * blocks).next_multiple_of(threads).div_ceil(images).min(finest).max(blocks);
        if images * blocks < threads {
            groups_of = (2 * threads).div_ceil(images * blocks).min(w.panels.len());
        }
    }
    let (runs, depth) = g.runs();
    let narrow = w.form == Form::Pairs;
    let runs = Runs { starts: runs, depth };
    // Where the groups begin after a window whose weights are apart: nearly all products have a single run, from
    // which that follows at no cost.
    let groups = w.groups_apart();
    let listed: Vec<[u8; 4]>;
    let places = match runs.starts[..] {
        [start] => Places { numbers: groups, places: &[], run: [start, w.form.group()] },
        _ => {
            let step = |g: &[u8; 4]| u32::from_ne_bytes(*g) as usize * w.form.group();
            listed = groups.iter().map(|g| runs.after(step(g)).to_ne_bytes()).collect();
            Places { numbers: groups, places: &listed, run: [0; 2] }
        }
    };
    let error = FirstError::default();
    pool.run(images * blocks * groups_of, |task| {
        let (block, group) = (task / groups_of, task % groups_of);
        let (image, block) = (block / blocks, block % blocks);
        let lines = block * lines / blocks..(block + 1) * lines / blocks;
        let panels = group * w.panels.len() / groups_of..(group + 1) * w.panels.len() / groups_of;
        let (outputs, elements) = (lines.len() * g.line(), g.len(lines.len().max(1)));
        let sums = if w.zeros.is_empty() { 0 } else { outputs };
        // Of elements that are narrowed three parts are kept, and of two of those a bit for each.
        let (copies, bits, tiles) = match narrow {
            true => (3, apart::bits(elements), outputs.div_ceil(w.form.rows(w.level))),
            false => (1, 0, 0),
        };
        let groups = runs.starts.len() * depth / w.form.group();
        // A bit for each group of each tile, if there are tiles, for both of those parts.
        let (groups, marks) = (tiles * groups, tiles * groups.div_ceil(32));
        // Rooms are taken here: what runs inside of their closures is not compiled for the form's vectors.
        let done = scratch::with_plain::<u8, _>(copies * elements * w.form.size() + 2 * bits, |copy| {
            scratch::with_plain::<u32, _>(outputs + 2 * (tiles + 1 + marks), |windows| {
                scratch::with_plain::<Group, _>(2 * groups, |groups| {
                    scratch::with_plain::<i32, _>(sums, |sums| {
                        let (copy, bits) = copy.split_at_mut(copies * elements * w.form.size());
                        let (windows, first) = windows.split_at_mut(outputs);
                        let (first, marks) = first.split_at_mut(2 * (tiles + 1));
                        let rooms = Rooms { copy, bits, windows, sums, first, marks, groups };
                        let (runs, lines) = (&runs, lines);
                        let job =
                            Block { g, source, image, lines, w, panels, runs, places, finish, target, rooms };
                        form::run(w.form, w.level, job);
                    })
                })
            })
        });
        error.note(done.flatten().flatten().flatten());
    });
    error.into_result()
}

/// The runs of a window, elements that lie side by side in the copy.
struct Runs {
    /// Where they begin after the window.
    starts: Vec<usize>,
    /// Elements of each.
    depth: usize,
}

impl Runs {
    /// Where a step of depth lies after the window.
    fn after(&self, step: usize) -> u32 {
        (self.starts[step / self.depth] + step % self.depth) as u32
    }
}

/// Room for a block's work.
#[derive(Default)]
struct Rooms<'a> {
    /// What the lines read, or its parts.
    copy: &'a mut [u8],
    /// A bit for each element of two of the parts.
    bits: &'a mut [u8],
    /// Where each output's window begins in the copy.
    windows: &'a mut [u32],
    /// Each window's sum, where that is asked for.
    sums: &'a mut [i32],
    /// For both, where each tile's groups begin of which something is in that part.
    first: &'a mut [u32],
    /// For both, a bit for each group of each tile: whether it is one of those.
    marks: &'a mut [u32],
    /// Those groups.
    groups: &'a mut [Group],
}

/// Some panels' columns of some lines of outputs.
struct Block<'a> {
    g: &'a Geometry,
    source: Source<'a>,
    image: usize,
    lines: Range<usize>,
    w: &'a ByteWeights,
    panels: Range<usize>,
    runs: &'a Runs,
    /// Where all panels' groups begin after a window whose weights are apart.
    places: Places<'a>,
    finish: &'a Finish<'a>,
    target: &'a Target<'a>,
    rooms: Rooms<'a>,
}

/// What a block's panels read.
struct Copied<'a, X> {
    copy: &'a [X],
    windows: &'a [u32],
    sums: &'a [i32],
    /// What narrowed elements lack.
    lacking: [Lists<'a>; 2],
}

impl Job for Block<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Sums>(mut self) {
        let Rooms { copy: room, bits, windows, sums, first: firsts, marks, groups } =
            std::mem::take(&mut self.rooms);
        if windows.is_empty() {
            return;
        }
        let elements = self.g.len(self.lines.len());
        // Elements to be narrowed are read where what is more of them will be.
        let first = if S::PAIRED { elements } else { 0 };
        assert!(room.len() >= (2 * first + elements) * size_of::<S::X>());
        // SAFETY: the room starts on a cache line and has the elements, which may have any bits.
        let copy: &mut [S::X] =
            unsafe { std::slice::from_raw_parts_mut(room.as_mut_ptr().cast::<S::X>().add(first), elements) };
        let Source { x, order, zero, base, alone } = self.source;
        debug_assert!(S::PAIRED || base == S::X::BASE);
        // What is to be narrowed may be read where it is.
        let from = self.g.in_place(x, order, self.lines.clone()).filter(|_| S::PAIRED && sums.is_empty());
        if from.is_none() {
            self.g.fill(x, order, [zero, base], self.image, self.lines.clone(), copy);
        }
        for (i, row) in windows.chunks_exact_mut(self.g.line()).enumerate() {
            row.iter_mut().enumerate().for_each(|(j, w)| *w = self.g.window(i, j) as u32);
        }
        let (runs, depth) = (&self.runs.starts[..], self.runs.depth);
        for (sum, &window) in sums.iter_mut().zip(&*windows) {
            *sum = -i32::from(base) * (runs.len() * depth) as i32;
            for r in runs {
                *sum += copy[window as usize + r..][..depth].iter().map(|x| x.to_i32()).sum::<i32>();
            }
        }
        let mut lacking = [Lists::NONE; 2];
        if S::PAIRED {
            let (narrow, rest) = room.split_at_mut(elements);
            let (more, less) = rest.split_at_mut(elements);
            let (above, below) = bits.split_at_mut(bits.len() / 2);
            let from = from.map(|from| (from, x.flip()));
            let mut parts = Parts { from, narrow, more, less: &mut less[..elements], bits: [above, below] };
            // SAFETY: the instructions are on.
            unsafe { apart::narrow::<S>(&mut parts, [base, self.w.span]) };
            marks.fill(0);
            let (first, more) =
                (firsts.split_at_mut(firsts.len() / 2), groups.split_at_mut(groups.len() / 2));
            let marks = marks.split_at_mut(marks.len() / 2);
            let all = Lacking { bits: &*parts.bits[0], runs, depth };
            let more_of = Lists { later: elements, ..Lists::NONE };
            lacking[0] = if alone {
                Lists { whole: true, ..more_of }
            } else {
                self.by_tile(&all, windows, (first.0, more.0, marks.0), more_of)
            };
            if base > 0 {
                let all = Lacking { bits: &*parts.bits[1], ..all };
                let less_of = Lists { later: 2 * elements, negative: true, ..Lists::NONE };
                lacking[1] = self.by_tile(&all, windows, (first.1, more.1, marks.1), less_of);
            }
        }
        // SAFETY: as above.
        let copy: &[S::X] =
            unsafe { std::slice::from_raw_parts(room.as_ptr().cast(), room.len() / size_of::<S::X>()) };
        let copied = Copied { copy, windows, sums, lacking };
        // SAFETY: the instructions are on.
        unsafe { self.panels::<S>(copied) };
    }
}

impl Block<'_> {
    /// Lists what is lacking by the tiles whose rows lack it.
    #[inline(always)]
    fn by_tile<'b>(
        &self,
        all: &Lacking<'_>,
        windows: &[u32],
        (first, groups, marks): (&'b mut [u32], &'b mut [Group], &'b mut [u32]),
        lists: Lists<'b>,
    ) -> Lists<'b> {
        let mut count = 0;
        let each = marks.len() / (first.len() - 1);
        for (tile, windows) in windows.chunks(self.w.form.rows(self.w.level)).enumerate() {
            first[tile] = count as u32;
            count = all.list(windows, count, groups, &mut marks[tile * each..(tile + 1) * each]);
        }
        if let Some(last) = first.last_mut() {
            *last = count as u32;
        }
        Lists { first, groups: &groups[..count], marks, each, ..lists }
    }

    /// # Safety
    /// `S`'s instructions are available; every window lies in the copy.
    #[inline(always)]
    unsafe fn panels<S: Sums>(&self, from: Copied<'_, S::X>) {
        let Copied { copy, windows, sums, lacking } = from;
        let count = windows.len();
        let part = self.w.form.rows(self.w.level);
        let together = MAX_ROWS / part * part;
        let first = (self.image * self.g.lines()[1] + self.lines.start) * self.g.line();
        let mut room = Room([0; MAX_ROWS * MAX_COLUMNS]);
        let mut side = self.target.side();
        let last = self.runs.starts.last().map_or(0, |r| r + self.runs.depth);
        let panels = &self.w.panels[self.panels.clone()];
        let mut sums_of_row = one_row::Room::new();
        for (i, p) in panels.iter().enumerate() {
            let from = if self.source.alone {
                let row = one_row::Row {
                    x: copy[windows[0] as usize + self.runs.starts[0]..][..self.runs.depth].as_ptr(),
                    depth: self.runs.depth,
                    later: lacking[0].later,
                };
                // SAFETY: the instructions are on, and the row and its part have the depth of the panels.
                unsafe { one_row::sums::<S>(self.w, panels, i, row, &mut sums_of_row) }
            } else {
                std::ptr::null()
            };
            let b = self.w.panel(p);
            let (places, weights) = (self.places.of(p.apart), self.w.weights_apart(p));
            let mates = self.w.mates(p);
            let most = self.target.waiting(p).min(count);
            let mut waiting = 0;
            for start in (0..count).step_by(together) {
                let rows = start..(start + together).min(count);
                let mut starts = [std::ptr::null(); MAX_ROWS];
                for (to, &window) in starts.iter_mut().zip(&windows[rows.clone()]) {
                    debug_assert!(window as usize + last <= copy.len());
                    *to = copy.as_ptr().wrapping_add(window as usize);
                }
                let row = first + rows.start;
                let to = self.target.to(row, p, &mut side, waiting);
                waiting += rows.len();
                let tile = Tile {
                    rows: &starts[..rows.len()],
                    runs: &self.runs.starts,
                    depth: self.runs.depth,
                    b,
                    from,
                    vectors: p.vectors,
                    column: p.column,
                    columns: p.columns,
                    row_sums: if sums.is_empty() { &[] } else { &sums[rows.clone()] },
                    apart: Apart { places, weights, lacking, first: start / part, mates },
                    to,
                };
                // SAFETY: the copy has each row's runs; this task alone writes these columns of these rows, for
                // which there is room, or its side buffer, which has room for what waits.
                unsafe { tile::tile::<S>(&tile, self.finish, &mut room) };
                if waiting + together > most || rows.end == count {
                    let rows = Waiting { row: first + rows.end - waiting, size: [1, waiting], line: 0 };
                    // SAFETY: as above.
                    unsafe { self.target.rest::<S>(self.w.level, &mut side, rows, p) };
                    waiting = 0;
                }
            }
        }
    }
}
