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
        let [tap_stride, channel_stride, column_stride] = w.strides;
        // Rows are contiguous: each is read once and goes to all panels.
        let by_row = column_stride == 1 && w.columns > 1;
        Panels::build(pool, [w.taps, w.channels, w.columns], by_row, |piece| {
            let (p, width, channels) = (piece.panel, piece.width, piece.channels.clone());
            for tap in 0..w.taps {
                // SAFETY: each tap is asked for once.
                let rows = unsafe { piece.rows(tap) };
                let first = tap * tap_stride + channels.start * channel_stride + p.column * column_stride;
                if by_row {
                    for (i, row) in rows.chunks_exact_mut(width).enumerate() {
                        let from = &w.data[first + i * channel_stride..][..p.columns];
                        row.iter_mut().zip(from).for_each(|(t, x)| *t = x.float());
                    }
                    continue;
                }
                let blocks = rows.chunks_mut(BLOCK * width).enumerate();
                for (block, rows) in blocks {
                    let first = first + block * BLOCK * channel_stride;
                    for j in 0..p.columns {
                        let to = rows[j..].iter_mut().step_by(width);
                        let from = &w.data[first + j * column_stride..];
                        if channel_stride == 1 {
                            to.zip(from).for_each(|(t, x)| *t = x.float());
                        } else {
                            to.zip(from.iter().step_by(channel_stride)).for_each(|(t, x)| *t = x.float());
                        }
                    }
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
    }
}
