//! Convolution by windows of 3 by 3 in tiles of 4 by 4 or 2 by 2 outputs, after Winograd: F(4x4, 3x3), F(2x2, 3x3).
//!
//! A tile's inputs and the weights are taken through a small transform each, after which the convolution is a
//! product for each place: 36 multiplications for 16 outputs instead of 144, or 16 for 4 instead of 36. The
//! transform evaluates polynomials at 0, ±A, ±B and infinity, or at 0, ±1 and infinity.

use super::conv::direct::Target;
use super::conv::finish::{Parts, Side};
use super::conv::panels::{Panel, Panels};
use super::conv::rows::{self, Rows};
use super::conv::tile::{self, Finish, MAX_ROWS, Tile};
use crate::conv::ConvShape;
use crate::error::KernelError;
use crate::matmul::driver::FirstError;
use crate::packed::Weight;
use crate::scratch;
use crate::threads::{Pool, Shards};
use std::ops::Range;
use std::ptr::null;
use transform::Patch;

mod transform;

/// Outputs that are computed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tiles {
    /// 2 by 2.
    Two,
    /// 4 by 4.
    Four,
}

impl Tiles {
    /// Outputs of a tile along an axis.
    pub(crate) fn side(self) -> usize {
        match self {
            Tiles::Two => 2,
            Tiles::Four => 4,
        }
    }

    /// Inputs of a tile along an axis.
    pub(crate) fn reach(self) -> usize {
        self.side() + 2
    }

    /// Products behind a tile.
    pub(crate) fn places(self) -> usize {
        self.reach() * self.reach()
    }
}

/// Most inputs of a tile along an axis.
const REACH: usize = 6;
/// Most products behind a tile.
const PLACES: usize = REACH * REACH;
/// Windows of weights that are transformed together.
const GROUP: usize = 16;
/// Floats between the places of a buffer beyond what they need: places a power of two apart would share
/// the same few lines of the first-level cache.
const APART: usize = 16;
/// Floats of a block's transformed inputs: about half of the second-level cache.
const REGION: usize = 112 * 1024;

/// Whether the kernel computes this shape.
pub(super) fn supports(s: &ConvShape) -> bool {
    s.kernel == [1, 3, 3] && s.strides == [1; 3] && s.dilations[1..] == [1, 1]
}

/// Transforms and packs `[out_channels, in_channels, 3, 3]` weights.
pub(super) fn pack<T: Weight>(
    pool: &Pool,
    s: &ConvShape,
    weights: &[T],
    tiles: Tiles,
) -> Result<Panels, KernelError> {
    let windows = weights.as_chunks::<9>().0;
    let channels = s.in_channels;
    let level = pool.level();
    Panels::build(pool, [tiles.places(), channels, s.out_channels], false, |piece| {
        let (panel, of) = (piece.panel, piece.channels.clone());
        let mut places: [&mut [f32]; PLACES] = std::array::from_fn(|place| {
            // SAFETY: each place is asked for once.
            if place < tiles.places() { unsafe { piece.rows(place) } } else { &mut [] }
        });
        for (i, c) in of.enumerate() {
            for j in (0..panel.columns).step_by(GROUP) {
                let count = GROUP.min(panel.columns - j);
                let first = (panel.column + j) * channels + c;
                let group = windows[first..].iter().step_by(channels).take(count);
                transform::weights(level, tiles, group, |place, values| {
                    places[place][i * piece.width + j..][..count].copy_from_slice(&values[..count]);
                });
            }
        }
    })
}

/// A convolution to compute.
#[derive(Clone, Copy)]
pub(super) struct Conv<'a> {
    pub s: &'a ConvShape,
    pub x: &'a [f32],
    pub x_pitch: usize,
    pub w: &'a Panels,
    /// What padding is read from.
    pub zeros: &'a [f32],
    pub target: Target<'a>,
    pub parts: &'a Parts<'a>,
}

/// One convolution in tiles of `SIDE` by `SIDE` outputs and `REACH` by `REACH` inputs.
struct Run<'a, const SIDE: usize, const REACH: usize> {
    of: Conv<'a>,
    /// Tiles of an image along both axes.
    tiles: [usize; 2],
    /// Floats of a tile's channels at one place, in whole vectors.
    channels: usize,
}

/// Computes the whole output.
pub(super) fn run(pool: &Pool, size: Tiles, conv: Conv<'_>) -> Result<(), KernelError> {
    match size {
        Tiles::Two => in_tiles::<2, 4>(pool, conv),
        Tiles::Four => in_tiles::<4, 6>(pool, conv),
    }
}

fn in_tiles<const SIDE: usize, const REACH: usize>(pool: &Pool, conv: Conv<'_>) -> Result<(), KernelError> {
    let Conv { s, w, .. } = conv;
    let tiles = [s.output[1].div_ceil(SIDE), s.output[2].div_ceil(SIDE)];
    let channels = s.in_channels.next_multiple_of(tile::lanes(w.level));
    let run = Run::<SIDE, REACH> { of: conv, tiles, channels };
    let total = s.batch * tiles[0] * tiles[1];
    let rows = tile::most_rows(w.level, 2);
    let fit = (REGION / (REACH * REACH * channels)).max(2 * rows) / rows * rows;
    let blocks = total.div_ceil(fit);
    let error = FirstError::default();
    if blocks >= pool.threads() {
        let blocks = blocks.next_multiple_of(pool.threads());
        let each = total.div_ceil(blocks);
        pool.run(total.div_ceil(each), |i| {
            let block = i * each..((i + 1) * each).min(total);
            error.note(run.with_inputs(block.len(), |room, apart| {
                for (j, t) in block.clone().enumerate() {
                    run.transform(t, room[j * channels..].as_mut_ptr(), apart);
                }
                error.note(run.multiply(&w.panels, block, room, apart));
            }));
        });
    } else {
        // Too few tiles for all threads: they share the transform, and then the channels.
        for start in (0..total).step_by(fit) {
            let block = start..(start + fit).min(total);
            error.note(run.with_inputs(block.len(), |room, apart| {
                let shards = Shards::new(room);
                pool.run(block.len(), |j| {
                    run.transform(block.start + j, shards.as_ptr().wrapping_add(j * channels), apart);
                });
                let each = w.panels.len().div_ceil(pool.threads());
                pool.run(w.panels.len().div_ceil(each), |i| {
                    let panels = &w.panels[i * each..((i + 1) * each).min(w.panels.len())];
                    error.note(run.multiply(panels, block.clone(), room, apart));
                });
            }));
        }
    }
    error.into_result()
}

impl<const SIDE: usize, const REACH: usize> Run<'_, SIDE, REACH> {
    const PLACES: usize = REACH * REACH;

    /// Room for the transformed inputs of some tiles, and how far its places are apart.
    fn with_inputs<R>(&self, tiles: usize, f: impl FnOnce(&mut [f32], usize) -> R) -> Result<R, KernelError> {
        let apart = tiles * self.channels + APART;
        scratch::with(Self::PLACES * apart, |room| f(room, apart))
    }

    /// Image, and the output's line and pixel where a tile starts.
    fn corner(&self, t: usize) -> [usize; 3] {
        let [down, across] = self.tiles;
        [t / across / down, t / across % down * SIDE, t % across * SIDE]
    }

    /// Transforms the inputs of tile `t` to the places at `to`, which nobody else touches.
    fn transform(&self, t: usize, to: *mut f32, apart: usize) {
        let [image, top, left] = self.corner(t);
        let [_, height, width] = self.of.s.input;
        let mut pixels = [[self.of.zeros.as_ptr(); REACH]; REACH];
        for (i, line) in pixels.iter_mut().enumerate() {
            let y = (top + i).wrapping_sub(self.of.s.pads[1]);
            for (j, pixel) in line.iter_mut().enumerate() {
                let x = (left + j).wrapping_sub(self.of.s.pads[2]);
                if y < height && x < width {
                    let start = ((image * height + y) * width + x) * self.of.x_pitch;
                    *pixel = self.of.x[start..start + self.of.s.in_channels].as_ptr();
                }
            }
        }
        // SAFETY: every pointer has the input's channels behind it, and the room has as many whole vectors
        // at every place.
        unsafe { transform::input(self.of.w.level, &pixels, self.of.s.in_channels, to, apart) };
    }

    /// Computes some panels' channels of a block of tiles whose inputs are transformed.
    fn multiply(
        &self,
        panels: &[Panel],
        block: Range<usize>,
        inputs: &[f32],
        apart: usize,
    ) -> Result<(), KernelError> {
        let level = self.of.w.level;
        let depth = self.of.s.in_channels;
        let widest = tile::most_vectors(level) * tile::lanes(level);
        let count = block.len();
        scratch::with(Self::PLACES * (count * widest + APART), |room| {
            // Cleared once: it is as large as a tile's work.
            let mut side = (!self.of.parts.complete()).then(Side::new);
            for p in panels {
                let width = p.vectors * tile::lanes(level);
                let products_apart = count * width + APART;
                let groups = count.div_ceil(tile::most_rows(level, p.vectors));
                for place in 0..Self::PLACES {
                    let b = self.of.w.data()[p.start + place * depth * width..].as_ptr();
                    for i in 0..groups {
                        let rows = i * count / groups..(i + 1) * count / groups;
                        let mut pointers = [null(); MAX_ROWS];
                        for (pointer, row) in pointers.iter_mut().zip(rows.clone()) {
                            *pointer = inputs[place * apart + row * self.channels..].as_ptr();
                        }
                        let t = Tile {
                            rows: pointers.as_ptr(),
                            pitch: 0,
                            runs: 1,
                            skip: 0,
                            depth,
                            b,
                            vectors: p.vectors,
                            from: null(),
                            from_pitch: 0,
                            to: room[place * products_apart + rows.start * width..].as_mut_ptr(),
                            to_pitch: width,
                            height: rows.len(),
                            columns: width,
                            finish: Finish::NONE,
                            ahead: tile::ahead(level, (depth * width) as isize, width, i, groups),
                        };
                        // SAFETY: the inputs have `depth` floats in each row, the panel as many rows at
                        // each place, and the products room for whole rows of it.
                        unsafe { tile::run(level, &t) };
                    }
                }
                for (j, t) in block.clone().enumerate() {
                    self.finish(t, p, room[j * width..].as_ptr(), products_apart, side.as_mut());
                }
            }
        })
    }

    /// Turns the products of one tile and panel into outputs.
    fn finish(&self, t: usize, p: &Panel, products: *const f32, apart: usize, mut side: Option<&mut Side>) {
        let [image, top, left] = self.corner(t);
        let [_, height, width] = self.of.s.output;
        let size = [(height - top).min(SIDE), (width - left).min(SIDE)];
        let pixel = (image * height + top) * width + left;
        let Target { out, pitch, .. } = self.of.target;
        let (to, pitches) = match &mut side {
            None => (out.as_ptr().wrapping_add(pixel * pitch + p.column), [width * pitch, pitch]),
            Some(side) => (side.tile.as_mut_ptr(), [size[1] * p.columns, p.columns]),
        };
        let finish = self.of.parts.finish(pixel, p.column);
        let patch = Patch { to, pitches, size, columns: p.columns, residual_line: width };
        // SAFETY: the products have a row of whole vectors at every place; the patch is inside the output,
        // where this task alone writes these channels, or fits the side buffer.
        unsafe { transform::output::<SIDE, REACH>(self.of.w.level, products, apart, &finish, &patch) };
        let done = Rows { start: to, size, pitches, columns: p.columns };
        // SAFETY: as above.
        unsafe { self.of.parts.activate(self.of.w.level, done) };
        if let Some(side) = side {
            let row = |i: usize| pixel + i / size[1] * width + i % size[1];
            self.of.parts.apply_rest(self.of.w.level, side, size[0] * size[1], p.columns, row, p.column);
            let start = out.as_ptr().wrapping_add(pixel * pitch + p.column);
            let to = Rows { start, size, pitches: [width * pitch, pitch], columns: p.columns };
            // SAFETY: as above; the side buffer holds the patch.
            unsafe { rows::copy(self.of.w.level, &side.tile, to) };
        }
    }
}
