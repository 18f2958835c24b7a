//! One row times a matrix of which most numbers are zero: what is not stored is not read.
//!
//! A single row is bound by reading the matrix, so half of the numbers are about half of the time, if their places cost
//! little: two bits each where there are two of every four, and 16 bits where there are few.

use super::pack::MatRef;
use crate::epilogue::Epilogue;
use crate::error::{KernelError, exact};
use crate::packed::{Packed, Weight};
use crate::simd::{Level, Tier};
use crate::threads::{Pool, Shards};

/// Columns that are summed side by side, in vectors of [`LANES`].
const PANEL: usize = 32;
const LANES: usize = 8;
/// Smaller matrices stay in a cache, where reading them is not what takes the time.
const LEAST_BYTES: usize = 4 << 20;
/// The part of numbers up to which lists beat all numbers, and up to which they beat two of four.
const FEW: f64 = 0.21;
const FEWER: f64 = 0.15;
/// Numbers that are looked at to see that a matrix is dense: the first ones, which are a page of a file that may
/// otherwise not be read at all, and others all over it.
const FIRST: usize = 1024;
const PROBED: usize = 4096;
/// The part of them that makes it dense.
const DENSE: f64 = 0.6;

/// A right operand without its zeros, for [`sparse_row`].
#[derive(Debug, Clone)]
pub struct SparseWeights {
    depth: usize,
    columns: usize,
    form: Form,
}

#[derive(Debug, Clone)]
enum Form {
    /// By panel, group of four and vector: two vectors of numbers, each with a word of two bits a lane for which of the four.
    TwoOfFour { places: Vec<u16>, values: Packed },
    /// By column: numbers and the rows that they are of.
    Lists { starts: Vec<usize>, places: Vec<u16>, values: Vec<f32> },
}

/// How the numbers of a matrix lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sparsity {
    /// At most two of every four along the depth.
    TwoOfFour,
    /// Few, anywhere.
    Few,
}

impl Sparsity {
    /// The form that computes a row faster than all numbers do, if one does; the limits were drawn on AVX2, with weights
    /// that come from memory.
    pub fn pick<T: Weight>(level: Level, b: &MatRef<'_, T>) -> Option<Sparsity> {
        let count = b.rows * b.columns;
        if level.tier() == Tier::Baseline || count * 4 < LEAST_BYTES {
            return None;
        }
        let first = &b.data[..FIRST.min(b.data.len())];
        let dense = |some: usize, of: usize| some as f64 > DENSE * of as f64;
        if dense(first.iter().filter(|x| x.float() != 0.0).count(), first.len()) {
            return None;
        }
        let step = (count / PROBED) | 1;
        let probed = (0..count).step_by(step);
        let some = probed.clone().filter(|i| number(b, i / b.columns, i % b.columns) != 0.0).count();
        if dense(some, probed.count()) {
            return None;
        }
        let mut some = 0;
        for row in 0..b.rows {
            some += (0..b.columns).filter(|c| number(b, row, *c) != 0.0).count();
        }
        let part = some as f64 / count as f64;
        if part > FEWER && Sparsity::TwoOfFour.fits(b) {
            Some(Sparsity::TwoOfFour)
        } else {
            (part <= FEW && Sparsity::Few.fits(b)).then_some(Sparsity::Few)
        }
    }

    /// Whether a matrix can be held in this form.
    pub fn fits<T: Weight>(self, b: &MatRef<'_, T>) -> bool {
        let pairs =
            |start: usize, column| (start..start + 4).filter(|r| number(b, *r, column) != 0.0).count() <= 2;
        match self {
            Sparsity::Few => b.rows <= 1 << 16,
            Sparsity::TwoOfFour => {
                b.rows.is_multiple_of(4)
                    && (0..b.rows).step_by(4).all(|start| (0..b.columns).all(|c| pairs(start, c)))
            }
        }
    }
}

#[inline(always)]
fn number<T: Weight>(b: &MatRef<'_, T>, row: usize, column: usize) -> f32 {
    b.data[row * b.row_stride + column * b.column_stride].float()
}

impl SparseWeights {
    /// Takes a matrix that fits a form.
    pub fn pack<T: Weight>(b: &MatRef<'_, T>, sparsity: Sparsity) -> Result<SparseWeights, KernelError> {
        if !sparsity.fits(b) {
            return Err(KernelError::Shape("sparse weights: not as sparse as they are to be held"));
        }
        let form = match sparsity {
            Sparsity::TwoOfFour => two_of_four(b)?,
            Sparsity::Few => {
                let (mut starts, mut places, mut values) = (vec![0], vec![], vec![]);
                for column in 0..b.columns {
                    for row in 0..b.rows {
                        let x = number(b, row, column);
                        if x != 0.0 {
                            places.push(row as u16);
                            values.push(x);
                        }
                    }
                    starts.push(values.len());
                }
                Form::Lists { starts, places, values }
            }
        };
        Ok(SparseWeights { depth: b.rows, columns: b.columns, form })
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        match &self.form {
            Form::TwoOfFour { places, values } => places.len() * 2 + values.bytes().len(),
            Form::Lists { starts, places, values } => {
                size_of_val(&starts[..]) + places.len() * 2 + values.len() * 4
            }
        }
    }

    /// What is stored of a column: rows and numbers.
    fn each(&self, column: usize, mut f: impl FnMut(usize, f32)) {
        match &self.form {
            Form::TwoOfFour { places, values } => {
                let (panel, lane, groups) = (column / PANEL, column % LANES, self.depth / 4);
                for group in 0..groups {
                    let vector = ((panel * groups + group) * (PANEL / LANES) + column % PANEL / LANES) * 2;
                    for v in [vector, vector + 1] {
                        let place = places[v] >> (2 * lane) & 3;
                        f(group * 4 + place as usize, values.as_slice()[v * LANES + lane]);
                    }
                }
            }
            Form::Lists { starts, places, values } => {
                for i in starts[column]..starts[column + 1] {
                    f(places[i] as usize, values[i]);
                }
            }
        }
    }

    /// Columns of the product for a row with infinities or NaN, which times a number that is not stored are NaN.
    fn exact(&self, x: &[f32], first: usize, out: &mut [f32]) {
        let unusual = x.iter().filter(|x| !x.is_finite()).count();
        for (i, out) in out.iter_mut().enumerate() {
            let (mut sum, mut met) = (0.0, 0);
            self.each(first + i, |row, w| {
                sum += x[row] * w;
                met += usize::from(!x[row].is_finite());
            });
            *out = if met < unusual { f32::NAN } else { sum };
        }
    }
}

fn two_of_four<T: Weight>(b: &MatRef<'_, T>) -> Result<Form, KernelError> {
    let (panels, groups) = (b.columns.div_ceil(PANEL), b.rows / 4);
    let vectors = panels * groups * (PANEL / LANES) * 2;
    let mut places = vec![0u16; vectors];
    let values = Packed::build(vectors * LANES, |values| {
        for v in (0..vectors).step_by(2) {
            let at = v / 2;
            let (part, group) = (at % (PANEL / LANES), at / (PANEL / LANES) % groups);
            let column = at / (PANEL / LANES) / groups * PANEL + part * LANES;
            for lane in 0..LANES.min(b.columns.saturating_sub(column)) {
                let four: [f32; 4] = std::array::from_fn(|r| number(b, group * 4 + r, column + lane));
                // Those that are not zero first; what fills up is a zero of the matrix, too.
                let mut order = [0, 1, 2, 3];
                order.sort_by_key(|r| four[*r] == 0.0);
                for (slot, r) in order.into_iter().take(2).enumerate() {
                    places[v + slot] |= (r as u16) << (2 * lane);
                    values[(v + slot) * LANES + lane] = four[r];
                }
            }
        }
    })?;
    Ok(Form::TwoOfFour { places, values })
}

/// `out = x w` for one row, then the epilogue. Rounds as any order of sums does; infinities and NaN mean what they do among
/// all numbers, and only the sign of a zero may differ.
pub fn sparse_row(
    pool: &Pool,
    x: &[f32],
    w: &SparseWeights,
    out: &mut [f32],
    epilogue: Epilogue<'_>,
) -> Result<(), KernelError> {
    exact("row", x, w.depth)?;
    exact("output", out, w.columns)?;
    epilogue.check(1, w.columns, w.columns)?;
    let usual = x.iter().all(|x| x.is_finite());
    let (level, columns) = (pool.level(), w.columns);
    // Pieces of whole panels, about 32 KiB each at least.
    let grain = (32 * 1024 / (w.bytes() / columns.div_ceil(PANEL).max(1)).max(1)).max(1);
    let out = Shards::new(out);
    pool.split(columns.div_ceil(PANEL), grain, |r| {
        let first = r.start * PANEL;
        let count = (r.end * PANEL).min(columns) - first;
        // SAFETY: pieces are of different columns.
        let piece = unsafe { out.part(first, count) };
        if !usual {
            w.exact(x, first, piece);
        } else {
            row(level, x, w, first, piece);
        }
        epilogue.apply(level, piece, 0, first, first);
    });
    Ok(())
}

/// Columns from `first`, where a panel begins, of a row of finite numbers.
fn row(level: Level, x: &[f32], w: &SparseWeights, first: usize, out: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if level.tier() >= Tier::Avx2 {
        match &w.form {
            Form::TwoOfFour { places, values } => {
                let panel = w.depth * (PANEL / LANES) / 2;
                let vectors = first / PANEL * panel..;
                let (places, values) =
                    (&places[vectors.clone()], &values.as_slice()[vectors.start * LANES..]);
                for ((out, places), values) in out
                    .chunks_mut(PANEL)
                    .zip(places.chunks(panel.max(1)))
                    .zip(values.chunks((panel * LANES).max(1)))
                {
                    // SAFETY: the level has these instructions.
                    unsafe { wide::panel(x, places, values, out) };
                }
                if panel == 0 {
                    out.fill(0.0);
                }
            }
            Form::Lists { starts, places, values } => {
                for (out, range) in out.iter_mut().zip(starts[first..].windows(2)) {
                    let range = range[0]..range[1];
                    // SAFETY: the level has these instructions, and packing took places from within the depth, which
                    // is the length of the row.
                    *out = unsafe { wide::list(x, &places[range.clone()], &values[range]) };
                }
            }
        }
        return;
    }
    let _ = level;
    for (i, out) in out.iter_mut().enumerate() {
        let mut sum = 0.0;
        w.each(first + i, |row, w| sum += x[row] * w);
        *out = sum;
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use super::{LANES, PANEL};
    use std::arch::x86_64::*;

    /// Floats ahead of the one in use that are fetched.
    const AHEAD: usize = 512;

    /// The columns of a panel; `places` and `values` are its own.
    #[target_feature(enable = "avx2,fma")]
    pub(super) fn panel(x: &[f32], places: &[u16], values: &[f32], out: &mut [f32]) {
        let lanes = _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14);
        let mut sums = [_mm256_setzero_ps(); PANEL / LANES * 2];
        let (places, _) = places.as_chunks::<{ PANEL / LANES * 2 }>();
        let (values, _) = values.as_chunks::<{ PANEL * 2 }>();
        for ((four, places), values) in x.as_chunks::<4>().0.iter().zip(places).zip(values) {
            // SAFETY: four floats are read.
            let four = unsafe { _mm_loadu_ps(four.as_ptr()) };
            let four = _mm256_set_m128(four, four);
            let ahead = values.as_ptr().wrapping_add(AHEAD);
            for line in 0..PANEL * 2 / 16 {
                _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(line * 16).cast());
            }
            for (i, sum) in sums.iter_mut().enumerate() {
                // Each lane picks by the lowest two bits of its own.
                let which = _mm256_srlv_epi32(_mm256_set1_epi32(i32::from(places[i])), lanes);
                // SAFETY: the eighth of the values that is this vector.
                let w = unsafe { _mm256_loadu_ps(values.as_ptr().add(i * LANES)) };
                *sum = _mm256_fmadd_ps(_mm256_permutevar_ps(four, which), w, *sum);
            }
        }
        let mut all = [0.0f32; PANEL];
        for (to, pair) in all.as_chunks_mut::<LANES>().0.iter_mut().zip(sums.as_chunks::<2>().0) {
            // SAFETY: eight floats are written.
            unsafe { _mm256_storeu_ps(to.as_mut_ptr(), _mm256_add_ps(pair[0], pair[1])) };
        }
        out.copy_from_slice(&all[..out.len()]);
    }

    /// One column.
    ///
    /// # Safety
    /// Every place lies within the row.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn list(x: &[f32], places: &[u16], values: &[f32]) -> f32 {
        let mut sums = [_mm256_setzero_ps(); 2];
        let (p, rest) = places.as_chunks::<16>();
        let (v, tail) = values.as_chunks::<16>();
        for (p, v) in p.iter().zip(v) {
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: halves of arrays of 16; the caller promises that the places lie in the row.
                unsafe {
                    let at = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.as_ptr().add(i * 8).cast()));
                    let x = _mm256_i32gather_ps::<4>(x.as_ptr(), at);
                    *sum = _mm256_fmadd_ps(x, _mm256_loadu_ps(v.as_ptr().add(i * 8)), *sum);
                }
            }
        }
        let mut lanes = [0.0f32; 8];
        // SAFETY: eight floats are written.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), _mm256_add_ps(sums[0], sums[1])) };
        let tail: f32 = rest.iter().zip(tail).map(|(p, v)| x[*p as usize] * v).sum();
        lanes.iter().sum::<f32>() + tail
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elementwise::{BinaryOp, UnaryOp};
    use crate::epilogue::{Operand, Step};
    use proptest::prelude::*;

    /// The product as its definition says, in f64, with the sum of the terms' magnitudes.
    fn dense(x: &[f32], b: &MatRef<'_>) -> Vec<(f64, f64)> {
        let term = |r: usize, c: usize| f64::from(x[r]) * f64::from(number(b, r, c));
        let column = |c| (0..b.rows).fold((0.0, 0.0), |s, r| (s.0 + term(r, c), s.1 + term(r, c).abs()));
        (0..b.columns).map(column).collect()
    }

    proptest! {
        #[test]
        fn every_form_and_level_agrees_with_all_numbers(
            groups in 0usize..20,
            columns in 0usize..100,
            left in prop::sample::select(vec![0.0, 0.1, 0.5, 1.0]),
            transposed in any::<bool>(),
            odd in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(vec![f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 0.0])), 0..3),
            threads in 1usize..3,
            seed in any::<u64>(),
        ) {
            let mut state = seed | 1;
            let mut draw = move || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 40) as f32 / (1u32 << 24) as f32
            };
            let depth = groups * 4;
            let mut data = vec![0.0f32; depth * columns];
            let strides = if transposed { (1, depth) } else { (columns, 1) };
            for group in 0..groups {
                for c in 0..columns {
                    for _ in 0..2 {
                        let r = group * 4 + (draw() * 4.0) as usize;
                        if draw() < left {
                            data[r * strides.0 + c * strides.1] = draw() - 0.5;
                        }
                    }
                }
            }
            let b = MatRef::new(&data, depth, columns, strides.0, strides.1).unwrap();
            let mut x: Vec<f32> = (0..depth).map(|_| draw() - 0.5).collect();
            for (at, value) in odd.iter().filter(|_| depth > 0) {
                x[at.index(depth)] = *value;
            }
            let bias: Vec<f32> = (0..columns).map(|_| draw()).collect();
            let steps = [
                Step::Binary { op: BinaryOp::Add, operand: Operand::PerColumn(&bias), reversed: false },
                Step::Unary(UnaryOp::Neg),
            ];
            for level in Level::available() {
                let pool = Pool::new(threads).unwrap().with_level(level);
                for form in [Sparsity::TwoOfFour, Sparsity::Few] {
                    let w = SparseWeights::pack(&b, form).unwrap();
                    let mut out = vec![7.0; columns];
                    sparse_row(&pool, &x, &w, &mut out, Epilogue::new(&steps)).unwrap();
                    for ((y, (sum, size)), bias) in out.iter().zip(dense(&x, &b)).zip(&bias) {
                        let (y, want) = (f64::from(*y), -(sum + f64::from(*bias)));
                        let near = (y - want).abs() <= 1e-6 * (size + 1.0);
                        prop_assert!(near || y == want || (y.is_nan() && want.is_nan()), "{form:?}: {y}, not {want}");
                    }
                }
            }
        }
    }

    #[test]
    fn forms_are_picked_by_what_is_left() {
        let n = 1024;
        let of = |keep: &dyn Fn(usize, usize) -> bool| -> Vec<f32> {
            (0..n * n).map(|i| f32::from(u8::from(keep(i / n, i % n)))).collect()
        };
        let pick = |data: &[f32], level| {
            let b = MatRef::row_major(data, n, n).unwrap();
            let picked = Sparsity::pick(level, &b);
            assert!(picked.is_none_or(|p| SparseWeights::pack(&b, p).unwrap().bytes() < n * n * 3));
            picked
        };
        let pairs = of(&|r, c| (r + c) % 4 < 2);
        assert_eq!(pick(&pairs, Level::BASELINE), None);
        for level in Level::available().skip(1) {
            assert_eq!(pick(&pairs, level), Some(Sparsity::TwoOfFour));
            assert_eq!(pick(&of(&|_, _| true), level), None);
            assert_eq!(pick(&of(&|r, c| (r / 4 + c) % 2 < 1), level), None);
            assert_eq!(pick(&of(&|r, c| (r / 4 + c) % 6 < 1), level), Some(Sparsity::Few));
            assert_eq!(pick(&of(&|r, c| (r + c) % 8 < 1), level), Some(Sparsity::Few));
            let small = MatRef::row_major(&pairs[..n * 512], 512, n).unwrap();
            assert_eq!(Sparsity::pick(level, &small), None);
        }
        let b = MatRef::row_major(&[1.0f32; 16], 4, 4).unwrap();
        assert!(SparseWeights::pack(&b, Sparsity::TwoOfFour).is_err());
    }
}
