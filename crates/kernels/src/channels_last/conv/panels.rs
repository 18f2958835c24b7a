//! Weights packed for the register tile.

use super::tile;
use crate::error::KernelError;
use crate::packed::{Packed, Weight};
use crate::simd::Level;
use crate::threads::{Pool, Shards};
use std::ops::Range;

/// Channels that are rearranged together: a cache line of each column.
const BLOCK: usize = 16;
/// Floats worth a task of their own.
const GRAIN: usize = 1 << 15;

/// Some output channels' weights: for each step of depth a row of vectors.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Panel {
    pub column: usize,
    pub columns: usize,
    pub vectors: usize,
    /// Where its weights start.
    pub start: usize,
}

/// A matrix of weights, `depth` by `columns`, in panels that are filled up with zeros.
#[derive(Debug, Clone)]
pub(in super::super) struct Panels {
    pub level: Level,
    pub panels: Vec<Panel>,
    pub depth: usize,
    pub columns: usize,
    data: Packed,
}

/// Weights as they come: an element's place is the sum of its tap, channel and column times their strides.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Weights<'a, T> {
    pub data: &'a [T],
    pub taps: usize,
    pub channels: usize,
    pub columns: usize,
    /// Of a tap, a channel and a column.
    pub strides: [usize; 3],
}

/// A task of packing: some channels of a panel, or of all.
pub(in super::super) struct Piece<'a, 'b> {
    pub panel: Panel,
    /// Floats of a row.
    pub width: usize,
    pub channels: Range<usize>,
    /// All channels of the matrix.
    of: usize,
    to: &'b Shards<'a, f32>,
}

impl<'a> Piece<'a, '_> {
    /// The rows of this piece at a tap.
    ///
    /// # Safety
    /// Those of the same tap, asked for before, are no longer in use.
    pub unsafe fn rows(&self, tap: usize) -> &'a mut [f32] {
        let start = self.panel.start + (tap * self.of + self.channels.start) * self.width;
        // SAFETY: pieces are disjoint by their panels or channels, their taps by the caller's promise.
        unsafe { self.to.part(start, self.channels.len() * self.width) }
    }
}

impl<T: Weight> Weights<'_, T> {
    /// Writes those of its columns that are in a piece, whose rows at a tap are given. In the matrix that the piece
    /// is of they begin at column `first`.
    fn fill(&self, rows: &mut [f32], piece: &Piece<'_, '_>, tap: usize, first: usize, by_row: bool) {
        let (p, [tap_stride, channel_stride, column_stride]) = (piece.panel, self.strides);
        let columns = p.column.max(first)..(p.column + p.columns).min(first + self.columns);
        if columns.is_empty() {
            return;
        }
        // Where they are in the panel, and where their weights are.
        let to = columns.start - p.column;
        let from = tap * tap_stride
            + piece.channels.start * channel_stride
            + (columns.start - first) * column_stride;
        if by_row {
            for (i, row) in rows.chunks_exact_mut(piece.width).enumerate() {
                let from = &self.data[from + i * channel_stride..][..columns.len()];
                row[to..].iter_mut().zip(from).for_each(|(t, x)| *t = x.float());
            }
            return;
        }
        for (block, rows) in rows.chunks_mut(BLOCK * piece.width).enumerate() {
            let from = from + block * BLOCK * channel_stride;
            for j in 0..columns.len() {
                let to = rows[to + j..].iter_mut().step_by(piece.width);
                let from = &self.data[from + j * column_stride..];
                if channel_stride == 1 {
                    to.zip(from).for_each(|(t, x)| *t = x.float());
                } else {
                    to.zip(from.iter().step_by(channel_stride)).for_each(|(t, x)| *t = x.float());
                }
            }
        }
    }
}

/// How columns are grouped, and the floats that this takes.
fn panels(level: Level, depth: usize, columns: usize) -> Result<(Vec<Panel>, usize), KernelError> {
    let lanes = tile::lanes(level);
    let mut panels = Vec::new();
    let (mut column, mut start) = (0, 0usize);
    while column < columns {
        let left = (columns - column).div_ceil(lanes);
        // An odd number of vectors ends with three, because a single one keeps few units busy.
        let vectors = if left == 3 { tile::most_vectors(level) } else { left.min(2) };
        let count = (vectors * lanes).min(columns - column);
        panels.push(Panel { column, columns: count, vectors, start });
        let floats = (vectors * lanes).checked_mul(depth).and_then(|n| n.checked_add(start));
        start = floats.ok_or(KernelError::Overflow("packed weights"))?;
        column += count;
    }
    Ok((panels, start))
}

impl Panels {
    /// Packs a matrix whose depth is its taps, each with all channels.
    pub(in super::super) fn pack<T: Weight>(pool: &Pool, w: &Weights<'_, T>) -> Result<Panels, KernelError> {
        Panels::pack_beside(pool, std::slice::from_ref(w))
    }

    /// Packs matrices with the same taps and channels as one that has the columns of them all.
    pub(in super::super) fn pack_beside<T: Weight>(
        pool: &Pool,
        parts: &[Weights<'_, T>],
    ) -> Result<Panels, KernelError> {
        let Some(&Weights { taps, channels, .. }) = parts.first() else {
            return Err(KernelError::Shape("packed weights: no matrix"));
        };
        if parts.iter().any(|w| [w.taps, w.channels] != [taps, channels]) {
            return Err(KernelError::Shape("packed weights: matrices of another depth"));
        }
        let columns = parts.iter().try_fold(0usize, |n, w| n.checked_add(w.columns));
        let columns = columns.ok_or(KernelError::Overflow("packed weights"))?;
        // Rows are contiguous: each is read once and goes to all panels.
        let by_row = parts.iter().all(|w| w.strides[2] == 1 && w.columns > 1);
        Panels::build(pool, [taps, channels, columns], by_row, |piece| {
            for tap in 0..taps {
                // SAFETY: each tap is asked for once.
                let rows = unsafe { piece.rows(tap) };
                let mut first = 0;
                for w in parts {
                    w.fill(rows, &piece, tap, first, by_row);
                    first += w.columns;
                }
            }
        })
    }

    /// Panels that `fill` writes piece by piece, on all threads; what it leaves is zero. `together` asks for
    /// neighbouring panels of the same channels right after one another.
    pub(in super::super) fn build(
        pool: &Pool,
        [taps, channels, columns]: [usize; 3],
        together: bool,
        fill: impl Fn(Piece<'_, '_>) + Sync,
    ) -> Result<Panels, KernelError> {
        let level = pool.level();
        let depth = taps.checked_mul(channels).ok_or(KernelError::Overflow("packed weights"))?;
        let (panels, len) = panels(level, depth, columns)?;
        let data = Packed::build(len, |room| {
            let to = &Shards::new(room);
            let piece = |panel: Panel, channels_of: Range<usize>| {
                let width = panel.vectors * tile::lanes(level);
                fill(Piece { panel, width, channels: channels_of, of: channels, to });
            };
            let widest = if together { columns } else { 2 * tile::lanes(level) };
            let each = (GRAIN / (taps * widest).max(1)).clamp(BLOCK, 1 << 12).next_multiple_of(BLOCK);
            let parts = channels.div_ceil(each);
            let part = |i: usize| i * each..((i + 1) * each).min(channels);
            if together {
                pool.run(parts, |i| {
                    // A few rows at a time, so that they are still near for the next panel.
                    for start in part(i).step_by(BLOCK) {
                        for panel in &panels {
                            piece(*panel, start..(start + BLOCK).min(part(i).end));
                        }
                    }
                });
            } else {
                pool.run(parts * panels.len(), |i| piece(panels[i / parts], part(i % parts)));
            }
        })?;
        Ok(Panels { level, panels, depth, columns, data })
    }

    /// The packed weights, one panel after the other.
    pub(in super::super) fn data(&self) -> &[f32] {
        self.data.as_slice()
    }

    /// The packed weights as they lie in memory.
    pub(in super::super) fn packed(&self) -> &Packed {
        &self.data
    }

    /// Panels of a matrix whose weights are packed already.
    pub(in super::super) fn from_packed(
        level: Level,
        depth: usize,
        columns: usize,
        data: Packed,
    ) -> Result<Panels, KernelError> {
        let (panels, len) = panels(level, depth, columns)?;
        if data.as_slice().len() != len.next_multiple_of(16) {
            return Err(KernelError::Shape("packed weights: another number of them"));
        }
        Ok(Panels { level, panels, depth, columns, data })
    }

    pub(in super::super) fn bytes(&self) -> usize {
        self.data.bytes().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Every weight lies where the tile reads it, whatever its strides, its form and the threads.
        #[test]
        fn packs_like_index_arithmetic(
            taps in 1usize..5, channels in 0usize..70, columns in 1usize..80, order in 0usize..3,
            threads in 1usize..4, skew in 0usize..4,
        ) {
            let strides = match order {
                0 => [1, taps, channels * taps],
                1 => [channels * columns, columns, 1],
                _ => [channels * columns, 1, channels],
            };
            let data: Vec<f32> = (0..taps * channels * columns).map(|i| i as f32 + 1.0).collect();
            // As in a file: at any address.
            let raw: Vec<u8> =
                vec![0; skew].into_iter().chain(data.iter().flat_map(|x| x.to_le_bytes())).collect();
            for level in Level::available() {
                let pool = Pool::new(threads).unwrap().with_level(level);
                let packed = Panels::pack(&pool, &Weights { data: &data, taps, channels, columns, strides }).unwrap();
                let anywhere = Weights { data: raw[skew..].as_chunks::<4>().0, taps, channels, columns, strides };
                let same = Panels::pack(&pool, &anywhere).unwrap();
                prop_assert_eq!(packed.data(), same.data());
                let again =
                    Panels::from_packed(level, taps * channels, columns, packed.packed().clone()).unwrap();
                prop_assert_eq!(packed.data(), again.data());
                prop_assert!(Panels::from_packed(level, taps * channels + 16, columns, packed.packed().clone()).is_err());
                let mut expected = vec![0.0f32; packed.data().len()];
                for p in &packed.panels {
                    let width = p.vectors * tile::lanes(level);
                    for tap in 0..taps { for c in 0..channels { for j in 0..p.columns {
                        let from = tap * strides[0] + c * strides[1] + (p.column + j) * strides[2];
                        expected[p.start + (tap * channels + c) * width + j] = data[from];
                    }}}
                }
                prop_assert_eq!(packed.data(), &expected[..]);
            }
        }

        /// Matrices packed beside one another are packed like the matrix that they make.
        #[test]
        fn parts_pack_like_the_whole(
            channels in 0usize..70, widths in prop::collection::vec(0usize..40, 1..5), by_column in any::<bool>(),
            threads in 1usize..4,
        ) {
            let columns: usize = widths.iter().sum();
            let strides = |columns: usize| if by_column { [0, 1, channels] } else { [0, columns, 1] };
            let number = |channel: usize, column: usize| (channel * columns + column) as f32 + 1.0;
            let matrix = |columns: Range<usize>| -> Vec<f32> {
                if by_column {
                    columns.flat_map(|j| (0..channels).map(move |c| number(c, j))).collect()
                } else {
                    (0..channels).flat_map(|c| columns.clone().map(move |j| number(c, j))).collect()
                }
            };
            let mut at = 0;
            let parts: Vec<Vec<f32>> = widths.iter().map(|w| { at += w; matrix(at - w..at) }).collect();
            let parts: Vec<Weights<'_, f32>> = parts.iter().zip(&widths)
                .map(|(data, &columns)| Weights { data, taps: 1, channels, columns, strides: strides(columns) })
                .collect();
            let whole = matrix(0..columns);
            let whole = Weights { data: &whole, taps: 1, channels, columns, strides: strides(columns) };
            for level in Level::available() {
                let pool = Pool::new(threads).unwrap().with_level(level);
                let (a, b) = (Panels::pack(&pool, &whole).unwrap(), Panels::pack_beside(&pool, &parts).unwrap());
                prop_assert_eq!(a.data(), b.data());
                let more = [parts[0], Weights { channels: channels + 1, ..whole }];
                prop_assert!(Panels::pack_beside(&pool, &more).is_err());
            }
        }
    }
}
