//! Reductions of `f32` arrays seen as `[outer, axis, inner]` over the middle axis.
//!
//! Sums run in short blocks of `f32` whose totals are added in `f64`, so the error does not grow with the
//! length of the axis, and the order never depends on the number of threads.

use crate::error::{KernelError, exact, product};
use crate::simd::{Isa, Kernel, Level};
use crate::threads::{Pool, Shards};

/// What a reduction computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReduceOp {
    /// Sum
    Sum,
    /// Arithmetic mean (NaN over nothing)
    Mean,
    /// Sum of squares
    SumSquare,
    /// Sum of magnitudes
    L1,
    /// Square root of the sum of squares
    L2,
    /// Largest (minus infinity over nothing; NaN if any is)
    Max,
    /// Smallest (infinity over nothing; NaN if any is)
    Min,
    /// Product
    Prod,
}

const LANES: usize = 16;
/// Elements (or rows, when columns are reduced side by side) summed in `f32` before going to `f64`.
const BLOCK: usize = 1024;
const ROWS: usize = 64;
/// Columns reduced side by side.
const COLUMNS: usize = 128;

/// Combining two values, and the value that changes nothing.
trait Fold: Copy {
    const START: f32;
    /// Whether blocks are combined as a sum in `f64`.
    const SUM: bool;
    fn first(x: f32) -> f32;
    fn fold(acc: f32, x: f32) -> f32;
}

macro_rules! folds {
    ($($name:ident, $sum:literal, $start:expr, |$x:ident| $first:expr, |$a:ident, $b:ident| $fold:expr;)*) => {
        $(
            #[derive(Clone, Copy)]
            struct $name;
            impl Fold for $name {
                const START: f32 = $start;
                const SUM: bool = $sum;
                #[inline(always)]
                fn first($x: f32) -> f32 {
                    $first
                }
                #[inline(always)]
                fn fold($a: f32, $b: f32) -> f32 {
                    $fold
                }
            }
        )*
    };
}

folds! {
    Plain, true, 0.0, |x| x, |a, b| a + b;
    Squares, true, 0.0, |x| x * x, |a, b| a + b;
    Magnitudes, true, 0.0, |x| x.abs(), |a, b| a + b;
    Largest, false, f32::NEG_INFINITY, |x| x, |a, b| crate::math::maximum(a, b);
    Smallest, false, f32::INFINITY, |x| x, |a, b| crate::math::minimum(a, b);
    Times, false, 1.0, |x| x, |a, b| a * b;
}

/// One contiguous run, in lanes.
#[inline(always)]
fn run<F: Fold>(xs: &[f32]) -> f32 {
    let mut lanes = [F::START; LANES];
    let (chunks, tail) = xs.as_chunks::<LANES>();
    for chunk in chunks {
        for l in 0..LANES {
            lanes[l] = F::fold(lanes[l], F::first(chunk[l]));
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(tail) {
        *lane = F::fold(*lane, F::first(x));
    }
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            lanes[l] = F::fold(lanes[l], lanes[l + width]);
        }
        width /= 2;
    }
    lanes[0]
}

#[inline(always)]
fn row<F: Fold>(xs: &[f32]) -> f64 {
    if F::SUM { xs.chunks(BLOCK).map(|block| run::<F>(block) as f64).sum() } else { run::<F>(xs) as f64 }
}

/// Sum of a row. For kernels compiled for a level already.
#[inline(always)]
pub(crate) fn sum(xs: &[f32]) -> f64 {
    row::<Plain>(xs)
}

/// Sum of squares of a row.
#[inline(always)]
pub(crate) fn sum_square(xs: &[f32]) -> f64 {
    row::<Squares>(xs)
}

/// Rows of `axis` elements each, one result per row.
struct Rows<'a, F> {
    x: &'a [f32],
    axis: usize,
    out: &'a mut [f32],
    finish: Finish,
    fold: F,
}

/// What is done to a finished reduction.
#[derive(Clone, Copy)]
enum Finish {
    None,
    Divide(f64),
    Root,
}

impl Finish {
    fn of(self, x: f64) -> f32 {
        match self {
            Finish::None => x as f32,
            Finish::Divide(n) => (x / n) as f32,
            Finish::Root => x.sqrt() as f32,
        }
    }
}

impl<F: Fold> Kernel for Rows<'_, F> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let _ = self.fold;
        for (i, out) in self.out.iter_mut().enumerate() {
            *out = self.finish.of(row::<F>(&self.x[i * self.axis..(i + 1) * self.axis]));
        }
    }
}

/// Up to [`COLUMNS`] columns of a `[axis, stride]` block, one result per column.
struct Columns<'a, F> {
    x: &'a [f32],
    axis: usize,
    stride: usize,
    out: &'a mut [f32],
    finish: Finish,
    fold: F,
}

impl<F: Fold> Kernel for Columns<'_, F> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let _ = self.fold;
        let n = self.out.len().min(COLUMNS);
        let mut totals = [0.0f64; COLUMNS];
        let mut acc = [F::START; COLUMNS];
        for block in (0..self.axis).step_by(ROWS) {
            for k in block..(block + ROWS).min(self.axis) {
                let x = &self.x[k * self.stride..][..n];
                acc[..n].iter_mut().zip(x).for_each(|(a, &x)| *a = F::fold(*a, F::first(x)));
            }
            if F::SUM {
                totals.iter_mut().zip(&mut acc).for_each(|(t, a)| *t += std::mem::take(a) as f64);
            }
        }
        for (j, out) in self.out.iter_mut().enumerate() {
            *out = self.finish.of(if F::SUM { totals[j] } else { acc[j] as f64 });
        }
    }
}

/// Reduces the middle axis: `out` has `outer * inner` elements.
pub fn reduce(
    pool: &Pool,
    op: ReduceOp,
    x: &[f32],
    [outer, axis, inner]: [usize; 3],
    out: &mut [f32],
) -> Result<(), KernelError> {
    exact("input", x, product("input", &[outer, axis, inner])?)?;
    exact("output", out, product("output", &[outer, inner])?)?;
    let sizes = [outer, axis, inner];
    match op {
        ReduceOp::Sum => all(pool, Plain, Finish::None, x, sizes, out),
        ReduceOp::Mean => all(pool, Plain, Finish::Divide(axis as f64), x, sizes, out),
        ReduceOp::SumSquare => all(pool, Squares, Finish::None, x, sizes, out),
        ReduceOp::L1 => all(pool, Magnitudes, Finish::None, x, sizes, out),
        ReduceOp::L2 => all(pool, Squares, Finish::Root, x, sizes, out),
        ReduceOp::Max => all(pool, Largest, Finish::None, x, sizes, out),
        ReduceOp::Min => all(pool, Smallest, Finish::None, x, sizes, out),
        ReduceOp::Prod => all(pool, Times, Finish::None, x, sizes, out),
    }
    Ok(())
}

fn all<F: Fold + Sync>(
    pool: &Pool,
    fold: F,
    finish: Finish,
    x: &[f32],
    [outer, axis, inner]: [usize; 3],
    out: &mut [f32],
) {
    let level: Level = pool.level();
    let shards = Shards::new(out);
    if inner == 1 {
        pool.split(outer, (32 * 1024 / axis.max(1)).max(1), |r| {
            // SAFETY: the ranges of a split are disjoint.
            let out = unsafe { shards.part(r.start, r.len()) };
            level.run(Rows { x: &x[r.start * axis..r.end * axis], axis, out, finish, fold });
        });
        return;
    }
    let blocks = inner.div_ceil(COLUMNS);
    pool.split(outer * blocks, (256 / axis.max(1)).max(1), |r| {
        for i in r {
            let (o, first) = (i / blocks, i % blocks * COLUMNS);
            let n = COLUMNS.min(inner - first);
            // SAFETY: every block is taken once.
            let out = unsafe { shards.part(o * inner + first, n) };
            let start = if axis == 0 { x.len() } else { o * axis * inner + first };
            level.run(Columns { x: &x[start..], axis, stride: inner, out, finish, fold });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [ReduceOp; 8] = [
        ReduceOp::Sum,
        ReduceOp::Mean,
        ReduceOp::SumSquare,
        ReduceOp::L1,
        ReduceOp::L2,
        ReduceOp::Max,
        ReduceOp::Min,
        ReduceOp::Prod,
    ];

    fn twin(op: ReduceOp, xs: &[f64]) -> f64 {
        let fold = |f: fn(f64, f64) -> f64, start: f64| {
            xs.iter().fold(start, |a, &x| if a.is_nan() || x.is_nan() { f64::NAN } else { f(a, x) })
        };
        match op {
            ReduceOp::Sum => xs.iter().sum(),
            ReduceOp::Mean => xs.iter().sum::<f64>() / xs.len() as f64,
            ReduceOp::SumSquare => xs.iter().map(|x| x * x).sum(),
            ReduceOp::L1 => xs.iter().map(|x| x.abs()).sum(),
            ReduceOp::L2 => xs.iter().map(|x| x * x).sum::<f64>().sqrt(),
            ReduceOp::Max => fold(f64::max, f64::NEG_INFINITY),
            ReduceOp::Min => fold(f64::min, f64::INFINITY),
            ReduceOp::Prod => xs.iter().product(),
        }
    }

    proptest! {
        #[test]
        fn reductions_match_their_definitions(
            outer in 0usize..5, axis in 0usize..90, inner in 0usize..5, wide in any::<bool>(),
            odd in prop_oneof![4 => Just(None), 1 => (0usize..1000, prop_oneof![Just(f32::NAN), Just(f32::INFINITY)]).prop_map(Some)],
            threads in 1usize..3,
        ) {
            let inner = if wide { inner * 67 } else { inner };
            let mut x: Vec<f32> = (0..outer * axis * inner).map(|i| ((i * 7919) % 1021) as f32 / 510.0 - 1.0).collect();
            if let Some((at, v)) = odd && !x.is_empty() {
                let n = x.len();
                x[at % n] = v;
            }
            for level in Level::available() {
                let pool = Pool::new(threads).unwrap().with_level(level);
                for op in ALL {
                    let mut out = vec![7.0; outer * inner];
                    reduce(&pool, op, &x, [outer, axis, inner], &mut out).unwrap();
                    for (i, &got) in out.iter().enumerate() {
                        let (o, j) = (i / inner, i % inner);
                        let xs: Vec<f64> = (0..axis).map(|k| x[(o * axis + k) * inner + j] as f64).collect();
                        let want = twin(op, &xs);
                        // Cancellation is the input's, so the bound is of what was added up.
                        let size: f64 = xs.iter().map(|x| x.abs()).sum::<f64>().max(1.0);
                        let same = (want.is_nan() && got.is_nan())
                            || got as f64 == want
                            || (got as f64 - want).abs() <= 1e-6 * size;
                        prop_assert!(same, "{op:?}: {got} for {want}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_long_sum_keeps_its_accuracy() {
        let x = vec![0.1f32; 3_000_000];
        let want = 0.1f32 as f64 * x.len() as f64;
        for sizes in [[1, 3_000_000, 1], [1, 1_500_000, 2]] {
            let mut out = vec![0.0; sizes[2]];
            reduce(&Pool::serial(), ReduceOp::Sum, &x, sizes, &mut out).unwrap();
            assert!((out[0] as f64 * sizes[2] as f64 - want).abs() < 1e-5 * want);
        }
        assert!(reduce(&Pool::serial(), ReduceOp::Sum, &x, [2, 3, 4], &mut [0.0; 8]).is_err());
    }
}
