//! Products of real numbers with weights stored in 8 or 4 bits, in blocks that share a scale.
//!
//! Rows of the activation become words of 16 bits, by a scale of their own: their rounding, 1.6e-5 of the row's
//! largest number at most, is far below that of the weights. Sums of a block are exact; blocks add up in floats.

use super::form::{self, Form, Job};
use super::tile::MAX_COLUMNS;
use super::weights::Panel;
use crate::channels_last::conv::finish::{Parts, Side};
use crate::channels_last::conv::rows::Rows;
use crate::epilogue::Epilogue;
use crate::error::{KernelError, at_least, exact, extent};
use crate::packed::Packed;
use crate::scratch;
use crate::simd::Level;
use crate::simd::integer::Sums;
use crate::simd::vector::Vector;
use crate::threads::{Pool, Shards};

/// Most rows of a tile.
const ROWS: usize = 4;
/// Most steps of depth whose sums of words by bytes are exact.
const EXACT: usize = 256;
/// Multiply-adds that one thread is through with before another one would be of help.
const SHORT: usize = 200 * 1000;

/// How many bits a weight has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bits {
    /// One byte each.
    Eight,
    /// Two to a byte.
    Four,
}

/// A matrix of small integers: element `(k, n)` and the scale and zero point of its block by index.
pub struct BlockMatrix<'a> {
    /// Steps of depth.
    pub depth: usize,
    /// Columns.
    pub columns: usize,
    /// Steps of depth that share a scale; even, or all.
    pub block: usize,
    /// The bits that every element fits in.
    pub bits: Bits,
    /// The element less an offset: -128..=127 in eight bits, 0..=15 in four.
    pub element: &'a (dyn Fn(usize, usize) -> i32 + Sync),
    /// The scale of a block and column.
    pub scale: &'a (dyn Fn(usize, usize) -> f32 + Sync),
    /// What stands for zero in a block and column, less the same offset.
    pub zero: &'a (dyn Fn(usize, usize) -> i32 + Sync),
}

/// Weights in blocks, rearranged once for [`linear`].
#[derive(Debug, Clone)]
pub struct BlockWeights {
    level: Level,
    bits: Bits,
    panels: Vec<Panel>,
    depth: usize,
    columns: usize,
    /// Steps of depth of a piece, whole groups; the last piece of a block may be filled up with zeros.
    piece: usize,
    /// Pieces of a block, and blocks.
    pieces: [usize; 2],
    block: usize,
    data: Packed,
    /// For each panel and block a row of scales, then one of zero points, as floats.
    scales: Vec<f32>,
}

impl BlockWeights {
    /// Packs a matrix, the pool's threads sharing the work.
    pub fn pack(pool: &Pool, m: &BlockMatrix<'_>) -> Result<BlockWeights, KernelError> {
        let level = pool.level();
        let lanes = Form::Words.lanes(level);
        let block = m.block.min(m.depth).max(1);
        let blocks = m.depth.div_ceil(block);
        // Pieces of a block are even and as alike as can be.
        let count = block.div_ceil(EXACT);
        let piece = block.div_ceil(count).next_multiple_of(2);
        let (pieces, width) = ([block.div_ceil(piece), blocks], 2 * lanes);
        let steps = pieces[0] * piece * blocks;
        let row = match m.bits {
            Bits::Eight => 2 * width,
            Bits::Four => width,
        };
        let each = (steps / 2).checked_mul(row).ok_or(KernelError::Overflow("packed weights"))?;
        let panels: Vec<Panel> = (0..m.columns.div_ceil(width))
            .map(|i| {
                let (column, columns) = (i * width, width.min(m.columns - i * width));
                Panel { column, columns, vectors: 2, start: i * each, apart: [0; 2] }
            })
            .collect();
        let total = each.checked_mul(panels.len()).ok_or(KernelError::Overflow("packed weights"))?;
        let data = Packed::build_bytes(total, |room| {
            let to = &Shards::new(room);
            pool.run(panels.len(), |i| {
                let p = &panels[i];
                // SAFETY: panels are disjoint.
                let rows = unsafe { to.part(p.start, each) };
                for k in 0..m.depth {
                    let at = k / block * pieces[0] * piece + k % block;
                    let pair = &mut rows[at / 2 * row..(at / 2 + 1) * row];
                    for j in 0..p.columns {
                        let x = (m.element)(k, p.column + j);
                        match m.bits {
                            Bits::Eight => pair[2 * j + at % 2] = x as i8 as u8,
                            Bits::Four => {
                                let within = 2 * (j % lanes) + at % 2;
                                pair[within] |= (x as u8 & 15) << (4 * (j / lanes));
                            }
                        }
                    }
                }
            });
        })?;
        let mut scales = vec![0.0; panels.len() * blocks * 2 * width];
        for (p, rows) in panels.iter().zip(scales.chunks_exact_mut(blocks * 2 * width)) {
            for (b, row) in rows.chunks_exact_mut(2 * width).enumerate() {
                for j in 0..p.columns {
                    row[j] = (m.scale)(b, p.column + j);
                    row[width + j] = (m.zero)(b, p.column + j) as f32;
                }
            }
        }
        let (depth, columns, bits) = (m.depth, m.columns, m.bits);
        Ok(BlockWeights { level, bits, panels, depth, columns, piece, pieces, block, data, scales })
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.data.bytes().len() + 4 * self.scales.len()
    }

    /// Steps of a row as the kernel reads it.
    fn steps(&self) -> usize {
        self.piece * self.pieces[0] * self.pieces[1]
    }
}

/// Rows of the activation as words.
struct Words<'a> {
    words: &'a [i16],
    /// The sum of each block, for each row.
    sums: &'a [f32],
    /// What a word stands for, in each row.
    scales: &'a [f32],
}

struct ToWords<'a> {
    w: &'a BlockWeights,
    x: &'a [f32],
    words: &'a mut [i16],
    sums: &'a mut [f32],
}

impl Job for ToWords<'_> {
    /// The row's scale.
    type Out = f32;
    #[inline(always)]
    unsafe fn run<S: Sums>(self) -> f32 {
        let (w, x) = (self.w, self.x);
        let mut largest = 0.0f32;
        for &x in x {
            largest = largest.max(x.abs());
        }
        // Infinities and NaN make the whole row NaN, below.
        let scale = largest / 32767.0;
        let per = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        self.words.fill(0);
        let room = w.piece * w.pieces[0];
        for (b, x) in x.chunks(w.block).enumerate() {
            let to = &mut self.words[b * room..][..x.len()];
            let mut sum = 0i32;
            for (to, &x) in to.iter_mut().zip(x) {
                // Rounds to the nearest, ties to even, in numbers of this size.
                const SHIFT: f32 = 12_582_912.0;
                let q = (x * per + SHIFT) - SHIFT;
                *to = q as i16;
                sum += q as i32;
            }
            self.sums[b] = sum as f32;
        }
        if x.iter().all(|x| x.is_finite()) { scale } else { f32::NAN }
    }
}

/// `out = x w + bias`, then the epilogue: `rows` rows of `x`, `pitch` floats from one to the next, and rows of
/// `out` that lie `out_pitch` apart. A row with an infinity or NaN becomes NaN.
#[allow(clippy::too_many_arguments)]
pub fn linear(
    pool: &Pool,
    rows: usize,
    x: &[f32],
    pitch: usize,
    w: &BlockWeights,
    bias: &[f32],
    out: &mut [f32],
    out_pitch: usize,
    epilogue: Epilogue<'_>,
) -> Result<(), KernelError> {
    at_least("rows", x, extent("rows", &[rows, w.depth], &[pitch, 1])?)?;
    at_least("result", out, extent("result", &[rows, w.columns], &[out_pitch, 1])?)?;
    if !bias.is_empty() {
        exact("bias", bias, w.columns)?;
    }
    epilogue.check(rows, w.columns, rows * w.columns)?;
    if rows == 0 || w.columns == 0 {
        return Ok(());
    }
    let (steps, blocks) = (w.steps(), w.pieces[1]);
    let target =
        Target { out: Shards::new(out), pitch: out_pitch, bias, parts: Parts::of(epilogue, w.columns) };
    scratch::with_plain::<i16, _>(rows * steps, |words| {
        scratch::with(rows * (blocks + 1), |floats| {
            let (sums, scales) = floats.split_at_mut(rows * blocks);
            let (all_words, all_sums, all_scales) =
                (Shards::new(words), Shards::new(sums), Shards::new(scales));
            pool.split(rows, (16_384 / steps.max(1)).max(1), |range| {
                for i in range {
                    // SAFETY: rows are disjoint.
                    unsafe {
                        let (words, sums) =
                            (all_words.part(i * steps, steps), all_sums.part(i * blocks, blocks));
                        let x = &x[i * pitch..][..w.depth];
                        let scale = form::run(Form::Words, w.level, ToWords { w, x, words, sums });
                        all_scales.part(i, 1)[0] = scale;
                    }
                }
            });
            let x = Words { words, sums, scales };
            let short = (rows * w.columns).saturating_mul(w.depth) <= SHORT;
            let threads = if short { 1 } else { pool.threads() };
            // Several pieces for each thread, because one may be held up.
            let tasks = if threads == 1 { 1 } else { (4 * threads).min(w.panels.len()) };
            let run = |task: usize| {
                let panels = task * w.panels.len() / tasks..(task + 1) * w.panels.len() / tasks;
                form::run(
                    Form::Words,
                    w.level,
                    Block { w, x: &x, first: panels.start, count: panels.len(), rows, target: &target },
                );
            };
            if tasks == 1 {
                run(0);
            } else {
                pool.run(tasks, run);
            }
        })
    })?
}

struct Target<'a> {
    out: Shards<'a, f32>,
    pitch: usize,
    bias: &'a [f32],
    parts: Parts<'a>,
}

/// Some panels' columns of all rows.
struct Block<'a> {
    w: &'a BlockWeights,
    x: &'a Words<'a>,
    first: usize,
    count: usize,
    rows: usize,
    target: &'a Target<'a>,
}

/// Room for the sums of a tile.
type Room = [f32; ROWS * MAX_COLUMNS];

impl Job for Block<'_> {
    type Out = ();
    #[inline(always)]
    unsafe fn run<S: Sums>(self) {
        let (w, t) = (self.w, self.target);
        let mut side = (!t.parts.complete()).then(Side::new);
        let mut room: Room = [0.0; ROWS * MAX_COLUMNS];
        for at in self.first..self.first + self.count {
            let p = &w.panels[at];
            let mut row = 0;
            while row < self.rows {
                let count = (self.rows - row).min(ROWS);
                // SAFETY: forwarded; only the form for words has words for elements.
                unsafe {
                    match count {
                        1 => self.tile::<S, 1>(at, row, &mut room),
                        2 => self.tile::<S, 2>(at, row, &mut room),
                        3 => self.tile::<S, 3>(at, row, &mut room),
                        _ => self.tile::<S, 4>(at, row, &mut room),
                    }
                }
                let place = t.out.as_ptr().wrapping_add(row * t.pitch + p.column);
                let (to, pitch) = match &mut side {
                    None => (place, t.pitch),
                    Some(side) => (side.tile.as_mut_ptr(), p.columns),
                };
                let then = t.parts.finish(row, p.column);
                for i in 0..count {
                    for v in 0..2 {
                        let at = v * S::LANES;
                        let n = p.columns.saturating_sub(at).min(S::LANES);
                        if n == 0 {
                            break;
                        }
                        // SAFETY: the row has these columns, and so has the room.
                        unsafe {
                            let mut x = S::Floats::load(room.as_ptr().add(i * 2 * S::LANES + at));
                            if !t.bias.is_empty() {
                                let bias = t.bias[p.column + at..][..n].as_ptr();
                                let whole = n == S::LANES;
                                let bias = if whole {
                                    S::Floats::load(bias)
                                } else {
                                    S::Floats::load_first(bias, n)
                                };
                                x = S::Floats::add(x, bias);
                            }
                            let x = then.one(x, i, at, n);
                            let to = to.add(i * pitch + at);
                            if n == S::LANES { x.store(to) } else { x.store_first(to, n) }
                        }
                    }
                }
                // SAFETY: these are the rows that were just written.
                unsafe { t.parts.activate(w.level, Rows::line(to, count, pitch, p.columns)) };
                if let Some(side) = &mut side {
                    t.parts.apply_rest(w.level, side, count, p.columns, |i| row + i, p.column);
                    for (i, from) in side.tile.chunks_exact(p.columns).take(count).enumerate() {
                        // SAFETY: this task alone writes these columns.
                        unsafe {
                            std::ptr::copy_nonoverlapping(from.as_ptr(), place.add(i * t.pitch), p.columns);
                        };
                    }
                }
                row += count;
            }
        }
    }
}

impl Block<'_> {
    /// The sums of some rows, in real numbers.
    ///
    /// # Safety
    /// `S`'s instructions are available, and its activations are words.
    #[inline(always)]
    unsafe fn tile<S: Sums, const MR: usize>(&self, panel: usize, row: usize, room: &mut Room) {
        assert!(size_of::<S::X>() == 2 && S::GROUP == 2);
        let w = self.w;
        let (steps, [pieces, blocks]) = (w.steps(), w.pieces);
        let width = 2 * S::LANES;
        let words: &[S::X] =
            // SAFETY: the elements are words, by the assertion.
            unsafe { std::slice::from_raw_parts(self.x.words.as_ptr().cast(), self.x.words.len()) };
        let mut a = [std::ptr::null::<S::X>(); MR];
        for i in 0..MR {
            a[i] = words[(row + i) * steps..(row + i + 1) * steps].as_ptr();
        }
        let each = match w.bits {
            Bits::Eight => 2 * width,
            Bits::Four => width,
        };
        let bytes = w.data.bytes()[w.panels[panel].start..][..steps / 2 * each].as_ptr();
        let scales = &w.scales[panel * blocks * 2 * width..(panel + 1) * blocks * 2 * width];
        // SAFETY: a row has `steps` words, the panel half as many rows of `each` bytes, and each block two rows of
        // scales; the room has the sums.
        unsafe {
            let mut total = [[S::Floats::splat(0.0); 2]; MR];
            let mut k = 0;
            for b in 0..blocks {
                let at = scales.as_ptr().add(b * 2 * width);
                let scale = [S::Floats::load(at), S::Floats::load(at.add(S::LANES))];
                let zero = [S::Floats::load(at.add(width)), S::Floats::load(at.add(width + S::LANES))];
                let mut sum = [[S::Floats::splat(0.0); 2]; MR];
                for _ in 0..pieces {
                    let mut acc = [[S::zero(); 2]; MR];
                    let end = k + w.piece;
                    match w.bits {
                        Bits::Eight => {
                            while k < end {
                                let p = bytes.add(k / 2 * each);
                                S::Floats::prefetch_line(p.wrapping_add(AHEAD).cast());
                                let p = p.cast::<i8>();
                                let v = [S::weights(p), S::weights(p.add(width))];
                                step::<S, MR>(&a, k, v, &mut acc);
                                k += 2;
                            }
                        }
                        Bits::Four => {
                            while k < end {
                                let p = bytes.add(k / 2 * each);
                                S::Floats::prefetch_line(p.wrapping_add(AHEAD).cast());
                                step::<S, MR>(&a, k, S::nibbles(p), &mut acc);
                                k += 2;
                            }
                        }
                    }
                    for i in 0..MR {
                        for v in 0..2 {
                            sum[i][v] = S::Floats::add(sum[i][v], acc[i][v].to_floats());
                        }
                    }
                }
                for i in 0..MR {
                    let of = S::Floats::splat(*self.x.sums.get_unchecked((row + i) * blocks + b));
                    for v in 0..2 {
                        let x = S::Floats::sub(sum[i][v], S::Floats::mul(of, zero[v]));
                        total[i][v] = S::Floats::add(total[i][v], S::Floats::mul(x, scale[v]));
                    }
                }
            }
            for i in 0..MR {
                let scale = S::Floats::splat(self.x.scales[row + i]);
                for v in 0..2 {
                    S::Floats::mul(total[i][v], scale).store(room.as_mut_ptr().add(i * width + v * S::LANES));
                }
            }
        }
    }
}

/// How many bytes before their use weights are asked for.
const AHEAD: usize = 1024;

/// Two steps of depth.
#[inline(always)]
unsafe fn step<S: Sums, const MR: usize>(
    a: &[*const S::X; MR],
    k: usize,
    w: [S::Weights; 2],
    acc: &mut [[S; 2]; MR],
) {
    for i in 0..MR {
        // SAFETY: forwarded.
        unsafe {
            let x = S::spread(a[i].add(k));
            acc[i][0] = S::dot(acc[i][0], x, w[0]);
            acc[i][1] = S::dot(acc[i][1], x, w[1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// Against sums in f64 of the same weights: the only error is that of the activation's words.
        #[test]
        fn as_plain_loops(
            rows in 0usize..9, depth in 1usize..700, columns in 1usize..70, block in 0usize..40, four: bool,
            threads in 1usize..3, with_bias: bool,
        ) {
            let block = if block == 0 { depth } else { 2 * block };
            let mix = |i: usize| (i.wrapping_mul(0x9E37_79B9_7F4A_7C15)) >> 40;
            let element = |k: usize, n: usize| {
                let x = mix(k * columns + n) as i32;
                if four { x & 15 } else { (x & 255) - 128 }
            };
            let scale = |b: usize, n: usize| 0.01 + (mix(b * 31 + n) % 100) as f32 * 0.001;
            let zero = |b: usize, n: usize| if four { (mix(b * 17 + n + 5) & 15) as i32 } else { (mix(b + n) % 9) as i32 - 4 };
            let bits = if four { Bits::Four } else { Bits::Eight };
            let matrix = BlockMatrix { depth, columns, block, bits, element: &element, scale: &scale, zero: &zero };
            let x: Vec<f32> = (0..rows * depth).map(|i| (mix(i + 77) % 2001) as f32 / 1000.0 - 1.0).collect();
            let bias: Vec<f32> = if with_bias { (0..columns).map(|j| j as f32).collect() } else { vec![] };
            for level in Level::available() {
                let pool = Pool::new(threads).unwrap().with_level(level);
                let w = BlockWeights::pack(&pool, &matrix).unwrap();
                let mut out = vec![f32::NAN; rows * columns];
                linear(&pool, rows, &x, depth, &w, &bias, &mut out, columns, Epilogue::NONE).unwrap();
                for i in 0..rows {
                    for j in 0..columns {
                        let (mut sum, mut size) = (0.0f64, 0.0f64);
                        for k in 0..depth {
                            let b = k / block;
                            let w = f64::from(element(k, j) - zero(b, j)) * f64::from(scale(b, j));
                            sum += f64::from(x[i * depth + k]) * w;
                            size += w.abs();
                        }
                        let bias = bias.get(j).map_or(0.0, |b| f64::from(*b));
                        let bound = size * (0.5 / 32767.0 + 1e-6) + 1e-6 * (sum + bias).abs();
                        let got = f64::from(out[i * columns + j]);
                        prop_assert!((got - sum - bias).abs() <= bound, "{got} for {} +- {bound} at {level:?}", sum + bias);
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        let matrix = BlockMatrix {
            depth: 6,
            columns: 3,
            block: 6,
            bits: Bits::Eight,
            element: &|_, _| 1,
            scale: &|_, _| 1.0,
            zero: &|_, _| 0,
        };
        let pool = Pool::serial();
        let w = BlockWeights::pack(&pool, &matrix).unwrap();
        let mut x = vec![1.0; 18];
        (x[2], x[8]) = (f32::NAN, f32::INFINITY);
        let mut out = vec![0.0; 9];
        linear(&pool, 3, &x, 6, &w, &[], &mut out, 3, Epilogue::NONE).unwrap();
        assert!(out[..6].iter().all(|x| x.is_nan()));
        assert!(out[6..].iter().all(|x| (x - 6.0).abs() < 1e-3));
        linear(&pool, 1, &[0.0; 6], 6, &w, &[], &mut out[..3], 3, Epilogue::NONE).unwrap();
        assert_eq!(&out[..3], &[0.0; 3]);
    }
}
