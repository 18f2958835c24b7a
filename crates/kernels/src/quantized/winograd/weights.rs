//! Transformed weights, packed for the register tile, and whether outputs follow from what is computed of them.

use super::product;
use super::transform;
pub use crate::channels_last::conv::Tiles;
use crate::conv::ConvShape;
use crate::error::KernelError;
use crate::packed::Packed;
use crate::quantized::form::Form;
use crate::quantized::weights::{ByteMatrix, Panel};
use crate::simd::Level;
use crate::threads::{Pool, Shards};

/// Most columns of a panel.
const WIDEST: usize = 32;

impl Tiles {
    /// Whether there is a choice: not where a level's direct kernel multiplies bytes four at a time, beside which
    /// products of words were never measured.
    pub fn supports(level: Level, s: &ConvShape) -> bool {
        super::supports(s) && !Form::available(level).contains(&Form::Bytes)
    }

    /// The tiles that compute this shape in less time than the direct kernel, the fastest first, by an estimate whose
    /// constants come from measurements. It counts weights as read from memory, because a whole model's are.
    pub fn pick(level: Level, s: &ConvShape) -> Vec<Tiles> {
        /// A multiplication of the direct kernel, in those of a product of words.
        const DIRECT: f64 = 1.15;
        /// Fetching one byte of weights from memory meanwhile, in the same unit.
        const FETCH: f64 = 7.0;
        /// Products of a few channels do not fill vectors.
        const FEW: usize = 16;
        if !Tiles::supports(level, s) || s.in_channels.min(s.out_channels) < FEW {
            return vec![];
        }
        let channels = s.in_channels.next_multiple_of(product::words(level)) as f64;
        let (inputs, outputs) = (s.in_channels as f64, s.out_channels as f64);
        let direct = DIRECT * 9.0 * inputs * outputs * FETCH.max((s.batch * s.positions()) as f64);
        // Transforming one channel of a tile there or back, and how much less time it has to take: weights take 3.6
        // times the room in smaller tiles and 8 times in larger ones.
        let ways = [(Tiles::Two, 250.0, 1.2), (Tiles::Four, 650.0, 1.3)];
        let mut ways = ways.map(|(tiles, transform, worth)| {
            let side = tiles.side();
            let count = (s.batch * s.output[1].div_ceil(side) * s.output[2].div_ceil(side)) as f64;
            let products = tiles.places() as f64 * inputs * outputs * count.max(2.0 * FETCH);
            (tiles, worth * (products + count * transform * (channels + outputs)))
        });
        ways.sort_by(|a, b| a.1.total_cmp(&b.1));
        ways.into_iter().filter(|w| w.1 <= direct).map(|w| w.0).collect()
    }

    /// What outputs must be smaller than, so that 4 or 64 times as much fits 32 bits.
    fn limit(self) -> i64 {
        match self {
            Tiles::Two => 1 << 29,
            Tiles::Four => 1 << 25,
        }
    }
}

/// Weights rearranged once for [`super::conv`].
#[derive(Debug, Clone)]
pub struct WinogradWeights {
    pub(super) tiles: Tiles,
    pub(super) level: Level,
    pub(super) panels: Vec<Panel>,
    pub(super) channels: usize,
    pub(super) columns: usize,
    /// For each panel and place the channels' pairs, each a row of vectors.
    data: Packed,
}

/// A weight less what stands for zero.
fn number(w: &ByteMatrix<'_>, at: usize, zero: i32) -> i32 {
    let x = w.data[at];
    (if w.signed { i32::from(x as i8) } else { i32::from(x) }) - zero
}

/// What stands for zero in a column.
fn zero(w: &ByteMatrix<'_>, column: usize) -> i32 {
    match w.zeros {
        [] => 0,
        [one] => *one,
        each => each[column],
    }
}

/// Fails unless the matrix has nine taps, lies in its data and has zero points of its type.
fn check(w: &ByteMatrix<'_>) -> Result<(), KernelError> {
    let last = [w.taps, w.channels, w.columns].iter().zip(w.strides).try_fold(0usize, |at, (&n, s)| {
        n.checked_sub(1).and_then(|n| n.checked_mul(s)).and_then(|n| n.checked_add(at))
    });
    if w.taps != 9 || w.channels == 0 || w.columns > 0 && last.is_none_or(|last| last >= w.data.len()) {
        return Err(KernelError::Shape("weights: the matrix does not lie in its data"));
    }
    let range = if w.signed { -128..=127 } else { 0..=255 };
    if !(w.zeros.len() <= 1 || w.zeros.len() == w.columns) || !w.zeros.iter().all(|z| range.contains(z)) {
        return Err(KernelError::Shape("weights: one zero point, or one for each column"));
    }
    Ok(())
}

/// How columns are grouped, and the words that this takes.
fn panels(tiles: Tiles, level: Level, w: &ByteMatrix<'_>) -> Result<(Vec<Panel>, usize), KernelError> {
    let (lanes, depth) = (Form::Words.lanes(level), w.channels.next_multiple_of(2));
    let mut panels = vec![];
    let (mut column, mut start) = (0, 0usize);
    while column < w.columns {
        let vectors = (w.columns - column).div_ceil(lanes).min(2);
        let columns = (vectors * lanes).min(w.columns - column);
        panels.push(Panel { column, columns, vectors, start, apart: [0; 2] });
        let words = (tiles.places() * vectors * lanes).checked_mul(depth);
        let end = words.and_then(|n| n.checked_add(start)).filter(|n| *n <= isize::MAX as usize / 2);
        start = end.ok_or(KernelError::Overflow("packed weights"))?;
        column += columns;
    }
    Ok((panels, start))
}

impl WinogradWeights {
    /// Whether every output that these weights can lead to is computed exactly in such tiles.
    ///
    /// An input is the zero point `z` less than a byte: in `-z..=255 - z`. A column whose weights above zero add up
    /// to `p` and those below to `-n` makes at most `p * (255 - z) + n * z` of them, which is largest at an end of
    /// the zero points' range, and at least the same with both exchanged: nothing is beyond 255 times the larger.
    pub fn exact(tiles: Tiles, w: &ByteMatrix<'_>) -> bool {
        if check(w).is_err() {
            return false;
        }
        let [tap, channel, column] = w.strides;
        (0..w.columns).all(|j| {
            let zero = zero(w, j);
            let mut sums = [0i64; 2];
            for c in 0..w.channels {
                for t in 0..9 {
                    let x = number(w, j * column + c * channel + t * tap, zero);
                    sums[usize::from(x < 0)] += i64::from(x.abs());
                }
            }
            sums.iter().all(|s| 255 * s < tiles.limit())
        })
    }

    /// Transforms and packs weights for kernels at the pool's level, its threads sharing the work.
    pub fn pack(pool: &Pool, tiles: Tiles, w: &ByteMatrix<'_>) -> Result<WinogradWeights, KernelError> {
        check(w)?;
        if !WinogradWeights::exact(tiles, w) {
            return Err(KernelError::Shape("integer Winograd: outputs may be too large"));
        }
        let level = pool.level();
        let (panels, len) = panels(tiles, level, w)?;
        let data = Packed::build_bytes(2 * len, |room| {
            // SAFETY: the room starts on a cache line, and any bytes are words.
            let room: &mut [i16] = unsafe { std::slice::from_raw_parts_mut(room.as_mut_ptr().cast(), len) };
            let shards = Shards::new(room);
            let lanes = Form::Words.lanes(level);
            pool.run(panels.len(), |i| {
                let width = panels[i].vectors * lanes;
                let words = tiles.places() * width * w.channels.next_multiple_of(2);
                // SAFETY: panels are disjoint.
                pack_panel(tiles.reach(), w, &panels[i], width, unsafe {
                    shards.part(panels[i].start, words)
                });
            });
        })?;
        Ok(WinogradWeights { tiles, level, panels, channels: w.channels, columns: w.columns, data })
    }

    /// Weights that [`WinogradWeights::pack`] once packed from this matrix for this level; the matrix's own, which were
    /// found to lead to exact outputs then, are not read.
    pub fn from_packed(
        level: Level,
        tiles: Tiles,
        w: &ByteMatrix<'_>,
        data: Packed,
    ) -> Result<WinogradWeights, KernelError> {
        check(w)?;
        let (panels, len) = panels(tiles, level, w)?;
        if data.bytes().len() != (2 * len).next_multiple_of(64) {
            return Err(KernelError::Shape("packed weights: another number of them"));
        }
        Ok(WinogradWeights { tiles, level, panels, channels: w.channels, columns: w.columns, data })
    }

    /// The packed weights as they lie in memory.
    pub fn packed(&self) -> &Packed {
        &self.data
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.data.bytes().len()
    }

    /// Steps of depth of a product.
    pub(super) fn depth(&self) -> usize {
        self.channels.next_multiple_of(2)
    }

    /// Columns of a panel in whole vectors.
    pub(super) fn width(&self, p: &Panel) -> usize {
        p.vectors * product::words(self.level) / 2
    }

    /// A panel's weights of one place.
    #[inline(always)]
    pub(super) fn place(&self, p: &Panel, place: usize) -> &[i16] {
        let words = self.width(p) * self.depth();
        let bytes = &self.data.bytes()[2 * (p.start + place * words)..][..2 * words];
        // SAFETY: packed weights start on a cache line, places and panels at whole words, and any bytes are words.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), words) }
    }
}

/// Packs one panel.
fn pack_panel(reach: usize, w: &ByteMatrix<'_>, p: &Panel, width: usize, to: &mut [i16]) {
    let [tap, channel, column] = w.strides;
    let pairs = w.channels.div_ceil(2);
    for c in (0..w.channels).step_by(2) {
        // Both channels of a pair side by side, column by column.
        let mut taps = [[0i16; 2 * WIDEST]; 9];
        for j in 0..p.columns {
            let (first, zero) = ((p.column + j) * column, zero(w, p.column + j));
            for i in 0..(w.channels - c).min(2) {
                for (t, to) in taps.iter_mut().enumerate() {
                    to[2 * j + i] = number(w, first + (c + i) * channel + t * tap, zero) as i16;
                }
            }
        }
        let mut half = [[[0i16; 2 * WIDEST]; 3]; transform::REACH];
        for x in 0..3 {
            for k in 0..2 * width {
                let column = transform::weights(reach, [taps[x][k], taps[3 + x][k], taps[6 + x][k]]);
                for y in 0..reach {
                    half[y][x][k] = column[y];
                }
            }
        }
        for y in 0..reach {
            let mut line = [[0i16; 2 * WIDEST]; transform::REACH];
            let [a, b, d] = &half[y];
            for k in 0..2 * width {
                let values = transform::weights(reach, [a[k], b[k], d[k]]);
                for x in 0..reach {
                    line[x][k] = values[x];
                }
            }
            for (x, line) in line.iter().enumerate().take(reach) {
                let row = ((y * reach + x) * pairs + c / 2) * 2 * width;
                to[row..row + 2 * width].copy_from_slice(&line[..2 * width]);
            }
        }
    }
}
