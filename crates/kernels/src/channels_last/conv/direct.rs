//! The convolution as a product without columns: tiles of pixels by panels of weights.
//!
//! The loops, from the outside: blocks of pixels whose input stays in the second-level cache; panels of
//! output channels; pieces of the depth, so that a panel's piece stays in the first-level cache; tiles. An
//! element's sum goes on from piece to piece in the same order as without pieces, so that no cut shows.

use super::finish::{Parts, Side};
use super::panels::{Panel, Panels};
use super::rows::{self, Rows};
use super::tile::{self, Finish, STREAMS, Tile};
use crate::error::KernelError;
use crate::matmul::driver::FirstError;
use crate::scratch;
use crate::simd::Level;
use crate::threads::{Pool, Shards};
use std::ops::Range;
use std::ptr::null;

/// Floats of a panel's piece: half of the first-level cache.
pub(crate) const PIECE: usize = 8 * 1024;
/// Floats of a block's input and output: about half of the second-level cache.
const REGION: usize = 96 * 1024;
/// Tiles of a block, so that a panel fetched from afar is used often enough.
const FEW_TILES: usize = 8;
/// Most pointers of a block's table.
const TABLE: usize = 8 * 1024;
/// Most pointers of a table even if few tiles of pixels are left by that.
const LARGE_TABLE: usize = 1 << 20;

/// The input as runs of floats: for each output pixel and tap one run, or zeros outside.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub x: &'a [f32],
    /// Floats from one image, line and pixel to the next.
    pub pitches: [usize; 3],
    /// Lines and pixels of an image.
    pub input: [usize; 2],
    pub output: [usize; 2],
    pub taps: [usize; 2],
    pub strides: [usize; 2],
    pub dilations: [usize; 2],
    pub pads: [usize; 2],
    /// Floats of a run.
    pub run: usize,
    /// A run of zeros.
    pub zeros: &'a [f32],
}

impl Source<'_> {
    fn runs(&self) -> usize {
        self.taps[0] * self.taps[1]
    }

    /// The output positions along an axis whose input for a tap lies inside, and the first one's input
    /// (at which the others follow by the stride).
    fn inside(&self, axis: usize, tap: usize) -> (Range<usize>, usize) {
        let offset = tap as isize * self.dilations[axis] as isize - self.pads[axis] as isize;
        let stride = self.strides[axis] as isize;
        let begin = (-offset).max(0) as usize;
        let first = begin.div_ceil(stride as usize).min(self.output[axis]);
        let room = (self.input[axis] as isize - offset).max(0) as usize;
        let end = room.div_ceil(stride as usize).clamp(first, self.output[axis]);
        (first..end, (first as isize * stride + offset).max(0) as usize)
    }

    /// Fills the table: for each run a row of `pixels.len()` pointers.
    fn table(&self, pixels: Range<usize>, to: &mut [*const f32]) {
        let width = self.output[1];
        let count = pixels.len();
        let mut pixel = pixels.start;
        while pixel < pixels.end {
            let (image, line, left) =
                (pixel / width / self.output[0], pixel / width % self.output[0], pixel % width);
            let here = (width - left).min(pixels.end - pixel);
            for ky in 0..self.taps[0] {
                let (lines, first_line) = self.inside(0, ky);
                let y = lines.contains(&line).then(|| first_line + (line - lines.start) * self.strides[0]);
                for kx in 0..self.taps[1] {
                    let at = (ky * self.taps[1] + kx) * count + pixel - pixels.start;
                    let row = &mut to[at..at + here];
                    let (xs, first) = self.inside(1, kx);
                    let Some(y) = y else {
                        row.fill(self.zeros.as_ptr());
                        continue;
                    };
                    let begin = xs.start.clamp(left, left + here) - left;
                    let end = xs.end.clamp(left + begin, left + here) - left;
                    row[..begin].fill(self.zeros.as_ptr());
                    row[end..].fill(self.zeros.as_ptr());
                    if begin < end {
                        let step = self.strides[1] * self.pitches[2];
                        let x = first + (left + begin - xs.start) * self.strides[1];
                        let start = image * self.pitches[0] + y * self.pitches[1] + x * self.pitches[2];
                        let last = start + (end - begin - 1) * step;
                        assert!(last + self.run <= self.x.len(), "runs are inside the input");
                        let mut p = self.x[start..].as_ptr();
                        for slot in &mut row[begin..end] {
                            *slot = p;
                            p = p.wrapping_add(step);
                        }
                    }
                }
            }
            pixel += here;
        }
    }
}

/// A piece of the depth: some runs, and some floats of each.
#[derive(Clone, Copy)]
struct Piece {
    run: usize,
    runs: usize,
    skip: usize,
    depth: usize,
}

/// Cuts `runs` of `run` floats into pieces of about `most` floats.
fn pieces(runs: usize, run: usize, most: usize) -> impl Iterator<Item = Piece> {
    // Runs longer than a piece are cut, shorter ones taken together; evenly either way.
    let cuts = run.div_ceil(most).max(1);
    let depth = run.div_ceil(cuts).next_multiple_of(4);
    let together = if cuts > 1 { 1 } else { (most / run.max(1)).clamp(1, runs) };
    let together = runs.div_ceil(runs.div_ceil(together));
    (0..runs).step_by(together).flat_map(move |first| {
        (0..run).step_by(depth).map(move |skip| Piece {
            run: first,
            runs: together.min(runs - first),
            skip,
            depth: depth.min(run - skip),
        })
    })
}

/// Multiply-adds, and weights to be fetched for them, that one thread is through with in some five microseconds:
/// no other one would be of help before then.
const SHORT_PRODUCTS: usize = 200 * 1000;
const SHORT_WEIGHTS: usize = 32 * 1024;

/// How the pixels and panels are shared out.
struct Plan {
    blocks: usize,
    pixels: usize,
    groups: usize,
    panels: usize,
}

impl Plan {
    fn new(threads: usize, s: &Source<'_>, w: &Panels, pixels: usize) -> Plan {
        let weights = w.depth.saturating_mul(w.columns);
        let short = weights <= SHORT_WEIGHTS && weights.saturating_mul(pixels) <= SHORT_PRODUCTS;
        let threads = if short { 1 } else { threads };
        let rows = tile::most_rows(w.level, 2);
        // Neighbouring pixels share their input unless strides keep them apart.
        let area = s.strides[0].min(s.taps[0]) * s.strides[1].min(s.taps[1]);
        let fit = REGION / s.run.saturating_mul(area).saturating_add(w.columns);
        let fit = fit.min(TABLE / s.runs()).clamp(FEW_TILES * rows, 1 << 14);
        let fit = fit.min((LARGE_TABLE / s.runs()).max(1));
        let mut blocks = pixels.div_ceil(fit);
        let mut groups = 1;
        if threads > 1 {
            // As many blocks as keep all threads busy, but none so small that fetching panels costs more.
            let most = (pixels / (4 * rows)).max(1);
            blocks = blocks.next_multiple_of(threads).min(most).max(blocks);
            if blocks < threads {
                // A few groups for each thread, because one may be held up.
                groups = (4 * threads).div_ceil(blocks).min(w.panels.len());
            }
        }
        let each = pixels.div_ceil(blocks);
        let panels = w.panels.len().div_ceil(groups);
        Plan { blocks: pixels.div_ceil(each), pixels: each, groups: w.panels.len().div_ceil(panels), panels }
    }
}

/// Where the output goes.
#[derive(Clone, Copy)]
pub(crate) struct Target<'a> {
    pub out: Shards<'a, f32>,
    pub pitch: usize,
    /// Pixels in all.
    pub pixels: usize,
    /// The number that the source's first pixel has in the output.
    pub first: usize,
    /// Channels that the output lacks before its first.
    pub skip: usize,
}

/// Computes the whole output. The weights' depth is the source's runs from end to end.
pub(crate) fn run(
    pool: &Pool,
    s: &Source<'_>,
    w: &Panels,
    target: Target<'_>,
    parts: &Parts<'_>,
) -> Result<(), KernelError> {
    debug_assert_eq!(s.runs() * s.run, w.depth);
    let plan = Plan::new(pool.threads(), s, w, target.pixels);
    let error = FirstError::default();
    pool.run(plan.blocks * plan.groups, |task| {
        let (block, group) = (task / plan.groups, task % plan.groups);
        let pixels = block * plan.pixels..((block + 1) * plan.pixels).min(target.pixels);
        let panels = group * plan.panels..((group + 1) * plan.panels).min(w.panels.len());
        error.note(self::block(s, w, pixels, &w.panels[panels], target, parts, |_| {}));
    });
    error.into_result()
}

/// Leading panels that are read [`STREAMS`] at a time for a single pixel.
fn streamed(level: Level, panels: &[Panel]) -> usize {
    let width = 2 * tile::lanes(level);
    panels.iter().take_while(|p| p.vectors == 2 && p.columns == width).count() / STREAMS * STREAMS
}

/// Computes some panels' channels of some pixels; `after` is called with each panel that is done.
pub(crate) fn block(
    s: &Source<'_>,
    w: &Panels,
    pixels: Range<usize>,
    panels: &[Panel],
    target: Target<'_>,
    parts: &Parts<'_>,
    mut after: impl FnMut(&Panel),
) -> Result<(), KernelError> {
    let count = pixels.len();
    scratch::with_pointers(s.runs() * count, |table| {
        s.table(pixels.clone(), table);
        // Cleared once: it is as large as many a tile's work.
        let mut side = (!parts.complete()).then(Side::new);
        let streamed = if count == 1 && s.runs() == 1 { streamed(w.level, panels) } else { 0 };
        for (i, p) in panels.iter().enumerate() {
            let summed = i < streamed;
            if summed && i.is_multiple_of(STREAMS) {
                let group: [Panel; STREAMS] = std::array::from_fn(|j| panels[i + j]);
                let row = (target.first + pixels.start) * target.pitch;
                let to = |p: Panel| target.out.as_ptr().wrapping_add(row + p.column - target.skip);
                let b = group.map(|p| w.data()[p.start..p.start + s.run * 2 * tile::lanes(w.level)].as_ptr());
                // SAFETY: behind the only pointer is a run, the panels have a row for each of its floats, and
                // this task alone writes their channels of this pixel.
                unsafe { tile::run_streams(w.level, table[0], s.run, b, group.map(to)) };
            }
            let width = p.vectors * tile::lanes(w.level);
            let tiles = count.div_ceil(tile::most_rows(w.level, p.vectors));
            let together = parts.together();
            let mut b = w.data()[p.start..].as_ptr();
            // Nothing is left of what is summed but its finish.
            let nothing = Piece { run: 0, runs: 0, skip: 0, depth: 0 };
            let left = pieces(s.runs(), s.run, PIECE / width).take_while(|_| !summed);
            for piece in summed.then_some(nothing).into_iter().chain(left) {
                let floats = piece.runs * piece.depth * width;
                let last = summed || piece.run + piece.runs == s.runs() && piece.skip + piece.depth == s.run;
                let first = !summed && piece.run == 0 && piece.skip == 0;
                for i in 0..tiles {
                    // As even as can be, so that no tile is thin.
                    let rows = i * count / tiles..(i + 1) * count / tiles;
                    let row = target.first + pixels.start + rows.start;
                    let to = target.out.as_ptr().wrapping_add(row * target.pitch + p.column - target.skip);
                    let mut aside = side.as_mut().filter(|_| last);
                    let t = Tile {
                        rows: table[piece.run * count + rows.start..].as_ptr(),
                        pitch: count,
                        runs: piece.runs,
                        skip: piece.skip,
                        depth: piece.depth,
                        b,
                        vectors: p.vectors,
                        from: if first { null() } else { to },
                        from_pitch: target.pitch,
                        to: aside.as_mut().map_or(to, |side| side.tile.as_mut_ptr()),
                        to_pitch: if aside.is_some() { p.columns } else { target.pitch },
                        height: rows.len(),
                        columns: p.columns,
                        finish: if last { parts.finish(row, p.column) } else { Finish::NONE },
                        ahead: tile::ahead(w.level, floats as isize, width, i, tiles),
                    };
                    // SAFETY: the table has the rows' pointers, each with a run behind it; the panel's
                    // piece is in the weights; this task alone writes these pixels' channels.
                    unsafe { tile::run(w.level, &t) };
                    if last && (aside.is_some() || (i + 1).is_multiple_of(together) || i + 1 == tiles) {
                        // The tiles that lie next to each other and wait for this, which are one with a side buffer.
                        let waiting = rows.end - (i / together * together) * count / tiles;
                        let first = t.to.wrapping_sub((waiting - rows.len()) * t.to_pitch);
                        let done = Rows::line(first, waiting, t.to_pitch, p.columns);
                        // SAFETY: as above.
                        unsafe { parts.activate(w.level, done) };
                    }
                    if let Some(side) = aside {
                        parts.apply_rest(w.level, side, rows.len(), p.columns, |j| row + j, p.column);
                        let to = Rows::line(to, rows.len(), target.pitch, p.columns);
                        // SAFETY: as above; the side buffer holds the tile.
                        unsafe { rows::copy(w.level, &side.tile, to) };
                    }
                }
                b = b.wrapping_add(floats);
            }
            after(p);
        }
    })
}
