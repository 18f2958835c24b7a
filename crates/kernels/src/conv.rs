//! Convolution over one, two or three spatial axes, channels first, with an epilogue whose rows are the
//! output channels.
//!
//! Dense convolutions are matrix products of packed weights by columns gathered block by block from the
//! input; outputs with few positions exchange the two sides, so that the register tile stays full.
//! Depthwise ones have a kernel of their own.

mod columns;
mod depthwise;
mod shape;
mod transpose;

pub use shape::{ConvShape, Window};
pub use transpose::{ConvTransposeShape, conv_transpose};

use crate::epilogue::Epilogue;
use crate::error::{KernelError, exact};
use crate::matmul::driver::{FirstError, Grid, Left, Product, Right};
use crate::matmul::{self, MatRef, PackedA, PackedB};
use crate::scratch;
use crate::simd::Level;
use crate::threads::{Pool, Shards};
use columns::Columns;

/// Outputs with at most this many positions have the channels across the tile.
const NARROW: usize = 128;

/// Weights rearranged once for one convolution's kernel.
#[derive(Debug, Clone)]
pub struct ConvWeights {
    level: Level,
    kind: Kind,
    len: usize,
    groups: usize,
}

#[derive(Debug, Clone)]
enum Kind {
    Depthwise(Vec<f32>),
    /// A product for each group, weights on the left.
    Wide(Vec<PackedA>),
    /// Weights on the right.
    Narrow(Vec<PackedB>),
}

impl ConvWeights {
    /// Packs `[out_channels, in_channels / groups, taps..]` weights for `shape`. The result also serves
    /// other batch and spatial sizes with the same channels, groups and taps; which kernel it is packed
    /// for follows from the sizes given here.
    pub fn pack(level: Level, shape: &ConvShape, weights: &[f32]) -> Result<ConvWeights, KernelError> {
        exact("weights", weights, shape.weights_len())?;
        let (m, k) = (shape.out_channels / shape.groups, shape.depth());
        let group = |g: usize| MatRef::row_major(&weights[g * m * k..(g + 1) * m * k], m, k);
        let kind = if shape.depthwise() {
            Kind::Depthwise(weights.to_vec())
        } else if narrow(level, shape) {
            let all: Result<_, _> =
                (0..shape.groups).map(|g| PackedB::pack(level, group(g)?.transposed())).collect();
            Kind::Narrow(all?)
        } else {
            Kind::Wide((0..shape.groups).map(|g| PackedA::pack(level, group(g)?)).collect::<Result<_, _>>()?)
        };
        Ok(ConvWeights { level, kind, len: weights.len(), groups: shape.groups })
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        match &self.kind {
            Kind::Depthwise(w) => size_of_val(&w[..]),
            Kind::Wide(all) => all.iter().map(PackedA::bytes).sum(),
            Kind::Narrow(all) => all.iter().map(PackedB::bytes).sum(),
        }
    }

    /// The kernel these weights are packed for, for reports.
    pub fn kernel_name(&self) -> &'static str {
        match self.kind {
            Kind::Depthwise(_) => "depthwise",
            Kind::Wide(_) => "gemm",
            Kind::Narrow(_) => "gemm-transposed",
        }
    }
}

/// Whether exchanging the sides fills the tile clearly better.
fn narrow(level: Level, s: &ConvShape) -> bool {
    let g = matmul::tile::Geometry::of(level);
    let (m, n) = (s.out_channels / s.groups, s.positions());
    let waste = |n: usize| n.next_multiple_of(g.columns) * 10;
    n > 0 && n <= NARROW && m >= g.columns && waste(n) > n * 11 && waste(m) <= m * 11
}

/// Convolution with weights packed ahead, then the epilogue.
pub fn conv_packed(
    pool: &Pool,
    shape: &ConvShape,
    x: &[f32],
    weights: &ConvWeights,
    out: &mut [f32],
    epilogue: Epilogue<'_>,
) -> Result<(), KernelError> {
    exact("input", x, shape.input_len())?;
    exact("output", out, shape.output_len())?;
    epilogue.check(shape.out_channels, shape.positions(), out.len())?;
    let (m, k) = (shape.out_channels / shape.groups, shape.depth());
    let fits = weights.groups == shape.groups
        && weights.len == shape.weights_len()
        && match &weights.kind {
            Kind::Depthwise(_) => shape.depthwise(),
            Kind::Wide(all) => all.first().is_none_or(|w| (w.rows(), w.columns()) == (m, k)),
            Kind::Narrow(all) => all.first().is_none_or(|w| (w.columns(), w.rows()) == (m, k)),
        };
    if !fits {
        return Err(KernelError::Shape("convolution: weights were packed for other channels or taps"));
    }
    if out.is_empty() {
        return Ok(());
    }
    let pool = &pool.clone().with_level(weights.level);
    match &weights.kind {
        Kind::Depthwise(w) => depthwise::run(pool, shape, x, w, out, epilogue),
        Kind::Wide(all) => wide(pool, shape, x, all, out, epilogue),
        Kind::Narrow(all) => {
            let shards = Shards::new(out);
            for item in 0..shape.batch * shape.groups {
                let weights = &all[item % shape.groups];
                narrow_item(pool, shape, item, x, weights, &shards, epilogue)?;
            }
            Ok(())
        }
    }
}

/// Convolution, then the epilogue. Packs the weights on every call: for weights that change.
pub fn conv(
    pool: &Pool,
    shape: &ConvShape,
    x: &[f32],
    weights: &[f32],
    out: &mut [f32],
    epilogue: Epilogue<'_>,
) -> Result<(), KernelError> {
    conv_packed(pool, shape, x, &ConvWeights::pack(pool.level(), shape, weights)?, out, epilogue)
}

/// The input channels of one image and group.
fn input<'a>(s: &ConvShape, x: &'a [f32], item: usize) -> &'a [f32] {
    let len = s.in_channels / s.groups * s.plane();
    &x[item * len..(item + 1) * len]
}

fn wide(
    pool: &Pool,
    s: &ConvShape,
    x: &[f32],
    weights: &[PackedA],
    out: &mut [f32],
    epilogue: Epilogue<'_>,
) -> Result<(), KernelError> {
    let (m, n, k) = (s.out_channels / s.groups, s.positions(), s.depth());
    let items = s.batch * s.groups;
    let grid = Grid::new(pool.level(), pool.threads().div_ceil(items), m, n, k);
    let error = FirstError::default();
    let shards = Shards::new(out);
    pool.run(items * grid.tasks(), |task| {
        let (item, task) = (task / grid.tasks(), task % grid.tasks());
        let x = input(s, x, item);
        error.note(if s.pointwise() {
            let b = MatRef { data: x, rows: k, columns: n, row_stride: n, column_stride: 1 };
            wide_task(pool, s, item, &weights[item % s.groups], &b, &grid, task, &shards, epilogue)
        } else {
            let b = Columns::new(s, x);
            wide_task(pool, s, item, &weights[item % s.groups], &b, &grid, task, &shards, epilogue)
        });
    });
    error.into_result()
}

fn wide_task<R: Right>(
    pool: &Pool,
    s: &ConvShape,
    item: usize,
    weights: &PackedA,
    b: &R,
    grid: &Grid,
    task: usize,
    out: &Shards<'_, f32>,
    epilogue: Epilogue<'_>,
) -> Result<(), KernelError> {
    let (m, n) = (weights.rows(), s.positions());
    let p = Product {
        level: pool.level(),
        a: Left::packed(weights),
        b,
        k: weights.columns(),
        n,
        epilogue,
        out_start: item * m * n,
        out_stride: n,
        first_row: item % s.groups * m,
    };
    let (rows, columns) = grid.piece(task, m, n);
    // SAFETY: items are disjoint in the output, and so are the pieces of a grid.
    unsafe { p.block(rows, columns, out) }
}

/// One image and group with the output channels across the tile: the product comes out transposed and is
/// turned on its way to the output.
fn narrow_item(
    pool: &Pool,
    s: &ConvShape,
    item: usize,
    x: &[f32],
    weights: &PackedB,
    out: &Shards<'_, f32>,
    epilogue: Epilogue<'_>,
) -> Result<(), KernelError> {
    let (m, n, k) = (weights.columns(), s.positions(), s.depth());
    let x = input(s, x, item);
    let width = matmul::tile::Geometry::of(pool.level()).columns;
    let columns_len = if s.pointwise() { 0 } else { n.next_multiple_of(width) * k };
    scratch::with(columns_len.next_multiple_of(16) + n * m, |room| {
        let (columns, turned) = room.split_at_mut(columns_len.next_multiple_of(16));
        let a = if s.pointwise() {
            MatRef { data: x, rows: n, columns: k, row_stride: 1, column_stride: n }
        } else {
            gather(pool, s, x, k, n, width, columns)?;
            MatRef { data: columns, rows: n, columns: k, row_stride: 1, column_stride: n }
        };
        let shards = Shards::new(turned);
        // SAFETY: the room is n by m.
        unsafe { matmul::large(pool, a, weights, m, 0, m, &shards, Epilogue::NONE)? };
        let turned = &*turned;
        pool.split(m, (1 << 15) / n, |channels| {
            for c in channels {
                let start = (item * m + c) * n;
                // SAFETY: every channel is taken once.
                let row = unsafe { out.part(start, n) };
                for (j, x) in row.iter_mut().enumerate() {
                    *x = turned[j * m + c];
                }
                epilogue.apply(pool.level(), row, item % s.groups * m + c, 0, start);
            }
        });
        Ok(())
    })?
}

/// All columns, one contiguous row of `n` for each depth.
fn gather(
    pool: &Pool,
    s: &ConvShape,
    x: &[f32],
    k: usize,
    n: usize,
    width: usize,
    to: &mut [f32],
) -> Result<(), KernelError> {
    let error = FirstError::default();
    let source = Columns::new(s, x);
    let shards = Shards::new(to);
    let panels = n.div_ceil(width) * width;
    pool.split(k, ((1 << 15) / n).max(s.taps()), |depth| {
        let block = 64;
        for first in depth.clone().step_by(block) {
            let part = first..(first + block).min(depth.end);
            let done = scratch::with(panels * part.len(), |packed| {
                source.pack(pool.level(), part.clone(), 0..n, packed);
                // SAFETY: depths are split, and rows of different depths are disjoint.
                let rows = unsafe { shards.part(part.start * n, part.len() * n) };
                for (kk, row) in rows.chunks_exact_mut(n).enumerate() {
                    for (p, piece) in row.chunks_mut(width).enumerate() {
                        let at = (p * part.len() + kk) * width;
                        piece.copy_from_slice(&packed[at..at + piece.len()]);
                    }
                }
            });
            error.note(done);
        }
    });
    error.into_result()
}

#[cfg(test)]
mod tests;
