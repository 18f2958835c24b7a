//! Integer weights packed for the register tile.

use super::tile::Form;
use crate::error::KernelError;
use crate::packed::Packed;
use crate::simd::Level;
use crate::threads::{Pool, Shards};

/// Weights of a piece of packing worth a task of its own.
const GRAIN: usize = 1 << 16;

/// A matrix of bytes as it comes: an element's place is the sum of its tap, channel and column times their
/// strides. The depth of its product is every channel of every tap.
#[derive(Debug, Clone, Copy)]
pub struct ByteMatrix<'a> {
    /// The elements.
    pub data: &'a [u8],
    /// Whether they are i8, not u8.
    pub signed: bool,
    /// Taps of a window.
    pub taps: usize,
    /// Steps of depth of a tap.
    pub channels: usize,
    /// Columns of the product.
    pub columns: usize,
    /// From one tap, channel and column to the next.
    pub strides: [usize; 3],
    /// What stands for zero: one number, one for each column, or none at all where it is zero.
    pub zeros: &'a [i32],
}

/// Some columns: for each group of depth a row of vectors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Panel {
    pub column: usize,
    pub columns: usize,
    pub vectors: usize,
    /// Where its weights start.
    pub start: usize,
}

/// Weights rearranged once for [`super::conv::conv`] and [`super::conv::linear`]: i8, whatever they were.
#[derive(Debug, Clone)]
pub struct ByteWeights {
    pub(crate) form: Form,
    pub(crate) level: Level,
    pub(crate) panels: Vec<Panel>,
    pub(crate) taps: usize,
    pub(crate) channels: usize,
    pub(crate) columns: usize,
    /// The weights, then the sum of each column.
    data: Packed,
    /// Bytes before the sums.
    len: usize,
    /// What stands for zero in each column, if it is not zero in all.
    pub(crate) zeros: Vec<i32>,
}

/// How columns are grouped, and the bytes that this takes.
fn panels(
    form: Form,
    level: Level,
    depth: usize,
    columns: usize,
) -> Result<(Vec<Panel>, usize), KernelError> {
    let lanes = form.lanes(level);
    let mut panels = vec![];
    let (mut column, mut start) = (0, 0usize);
    while column < columns {
        let vectors = (columns - column).div_ceil(lanes).min(2);
        let count = (vectors * lanes).min(columns - column);
        panels.push(Panel { column, columns: count, vectors, start });
        let bytes = (vectors * lanes).checked_mul(depth).and_then(|n| n.checked_add(start));
        start = bytes.ok_or(KernelError::Overflow("packed weights"))?;
        column += count;
    }
    Ok((panels, start.next_multiple_of(64)))
}

/// The zeros of weights that were made i8, for each column; empty where all are zero.
fn zeros(w: &ByteMatrix<'_>) -> Result<Vec<i32>, KernelError> {
    let flipped = if w.signed { 0 } else { 128 };
    let of = |z: i32| z - flipped;
    match w.zeros {
        [] if flipped == 0 => Ok(vec![]),
        [] => Ok(vec![of(0); w.columns]),
        z if z.iter().all(|&z| of(z) == 0) && (z.len() == 1 || z.len() == w.columns) => Ok(vec![]),
        [one] => Ok(vec![of(*one); w.columns]),
        z if z.len() == w.columns => Ok(z.iter().map(|&z| of(z)).collect()),
        _ => Err(KernelError::Shape("weights: one zero point, or one for each column")),
    }
}

impl ByteWeights {
    /// Packs a matrix for kernels at the pool's level, its threads sharing the work.
    pub fn pack(pool: &Pool, w: &ByteMatrix<'_>) -> Result<ByteWeights, KernelError> {
        ByteWeights::pack_as(pool, Form::best(pool.level()), w)
    }

    pub(crate) fn pack_as(pool: &Pool, form: Form, w: &ByteMatrix<'_>) -> Result<ByteWeights, KernelError> {
        let level = pool.level();
        let last = [w.taps, w.channels, w.columns].iter().zip(w.strides).try_fold(0usize, |at, (&n, s)| {
            n.checked_sub(1).and_then(|n| n.checked_mul(s)).and_then(|n| n.checked_add(at))
        });
        if w.taps * w.channels * w.columns > 0 && last.is_none_or(|last| last >= w.data.len()) {
            return Err(KernelError::Shape("weights: the matrix does not lie in its data"));
        }
        let zeros = zeros(w)?;
        let (group, lanes) = (form.group(), form.lanes(level));
        let padded = w.channels.next_multiple_of(group);
        let depth = w.taps.checked_mul(padded).ok_or(KernelError::Overflow("packed weights"))?;
        let (panels, len) = panels(form, level, depth, w.columns)?;
        let flip = if w.signed { 0 } else { 0x80 };
        let total = len.checked_add(4 * w.columns).ok_or(KernelError::Overflow("packed weights"))?;
        let data = Packed::build_bytes(total, |room| {
            let (bytes, sums) = room.split_at_mut(len);
            let (to, sums) = (&Shards::new(bytes), &Shards::new(sums));
            let each = (GRAIN / (depth * 2 * lanes).max(1)).max(1);
            pool.run(panels.len().div_ceil(each), |task| {
                for p in &panels[task * each..((task + 1) * each).min(panels.len())] {
                    let width = p.vectors * lanes;
                    // SAFETY: panels are disjoint.
                    let rows = unsafe { to.part(p.start, width * depth) };
                    // SAFETY: and so are their columns.
                    let sums = unsafe { sums.part(4 * p.column, 4 * p.columns) };
                    pack_panel(w, p, [group, padded, width], flip, rows, sums);
                }
            });
        })?;
        let (taps, channels, columns) = (w.taps, w.channels, w.columns);
        Ok(ByteWeights { form, level, panels, taps, channels, columns, data, len, zeros })
    }

    /// Weights that [`ByteWeights::pack`] once packed from such a matrix for this level.
    pub fn from_packed(level: Level, w: &ByteMatrix<'_>, data: Packed) -> Result<ByteWeights, KernelError> {
        let form = Form::best(level);
        let depth = w.taps.checked_mul(w.channels.next_multiple_of(form.group()));
        let depth = depth.ok_or(KernelError::Overflow("packed weights"))?;
        let (panels, len) = panels(form, level, depth, w.columns)?;
        if data.bytes().len() != (len + 4 * w.columns).next_multiple_of(64) {
            return Err(KernelError::Shape("packed weights: another number of them"));
        }
        let (taps, channels, columns, zeros) = (w.taps, w.channels, w.columns, zeros(w)?);
        Ok(ByteWeights { form, level, panels, taps, channels, columns, data, len, zeros })
    }

    /// The packed weights as they lie in memory.
    pub fn packed(&self) -> &Packed {
        &self.data
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.data.bytes().len()
    }

    /// Columns of a product.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Steps of depth that products sum over.
    pub fn depth(&self) -> usize {
        self.taps * self.channels
    }

    pub(crate) fn panel(&self, p: &Panel) -> *const i8 {
        self.data.bytes()[p.start..self.len].as_ptr().cast()
    }

    /// The sum of each column's weights.
    pub(crate) fn sums(&self) -> impl Iterator<Item = i32> + '_ {
        let (sums, _) = self.data.bytes()[self.len..].as_chunks::<4>();
        sums[..self.columns].iter().map(|b| i32::from_ne_bytes(*b))
    }
}

/// Packs one panel of rows of `width` columns by `group` steps of depth, `padded` of them in a tap.
fn pack_panel(
    w: &ByteMatrix<'_>,
    p: &Panel,
    [group, padded, width]: [usize; 3],
    flip: u8,
    rows: &mut [u8],
    sums: &mut [u8],
) {
    let [tap_stride, channel_stride, column_stride] = w.strides;
    let (sums, _) = sums.as_chunks_mut::<4>();
    let mut totals = [0i32; 64];
    for tap in 0..w.taps {
        let rows = &mut rows[tap * padded * width..(tap + 1) * padded * width];
        let first = tap * tap_stride + p.column * column_stride;
        if column_stride == 1 {
            for c in 0..w.channels {
                let from = &w.data[first + c * channel_stride..][..p.columns];
                let row = &mut rows[c / group * group * width + c % group..];
                for (j, &x) in from.iter().enumerate() {
                    row[j * group] = x ^ flip;
                    totals[j] += i32::from((x ^ flip) as i8);
                }
            }
            continue;
        }
        for j in 0..p.columns {
            let column = &w.data[first + j * column_stride..];
            let mut total = 0;
            for c in 0..w.channels {
                let x = column[c * channel_stride] ^ flip;
                rows[(c / group * width + j) * group + c % group] = x;
                total += i32::from(x as i8);
            }
            totals[j] += total;
        }
    }
    for (to, total) in sums.iter_mut().zip(totals) {
        *to = total.to_ne_bytes();
    }
}
