//! Products with few rows, bound by reading the matrix once.

use super::pack::MatRef;
use crate::simd::{Isa, Kernel, Level};
use std::ops::Range;

/// Most rows of A that these kernels take.
pub(crate) const FEW: usize = 8;
/// Columns summed at a time over row-major B: their sums stay in the first-level cache.
pub(crate) const COLUMNS: usize = 512;
/// Columns (rows in memory) of a transposed B taken together.
const TOGETHER: usize = 4;
const LANES: usize = 16;

/// Whether B can be read in order by one of the kernels here.
pub(crate) fn fits(b: &MatRef<'_>) -> bool {
    b.rows > 0 && (b.column_stride == 1 || b.row_stride == 1)
}

/// `out[j] = sum_k a[k] b[k][j]` for `columns`, one row of A at a time in `out` (one slice per row).
pub(crate) fn columns(
    level: Level,
    a: MatRef<'_>,
    b: MatRef<'_>,
    columns: Range<usize>,
    out: &mut [&mut [f32]],
) {
    if b.column_stride == 1 {
        for start in columns.clone().step_by(COLUMNS) {
            let end = (start + COLUMNS).min(columns.end);
            for (i, out) in out.iter_mut().enumerate() {
                let piece = &mut out[start - columns.start..end - columns.start];
                level.run(Streamed { a, row: i, b, first: start, out: piece });
            }
        }
    } else {
        level.run(Dotted { a, b, columns, out });
    }
}

/// Row-major B: eight rows of it at a time, scaled and added to the sums.
struct Streamed<'a, 'o> {
    a: MatRef<'a>,
    row: usize,
    b: MatRef<'a>,
    first: usize,
    out: &'o mut [f32],
}

impl Kernel for Streamed<'_, '_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        const STEP: usize = 8;
        let n = self.out.len();
        let (k, stride) = (self.b.rows, self.b.row_stride);
        let x = |k: usize| self.a.data[self.row * self.a.row_stride + k * self.a.column_stride];
        let b = |k: usize| &self.b.data[k * stride + self.first..][..n];
        self.out.fill(0.0);
        let whole = k - k % STEP;
        for k in (0..whole).step_by(STEP) {
            let xs: [f32; STEP] = std::array::from_fn(|i| x(k + i));
            let [b0, b1, b2, b3, b4, b5, b6, b7] = std::array::from_fn(|i| b(k + i));
            for j in 0..n {
                let s = I::mul_add(xs[0], b0[j], self.out[j]);
                let s = I::mul_add(xs[1], b1[j], s);
                let s = I::mul_add(xs[2], b2[j], s);
                let s = I::mul_add(xs[3], b3[j], s);
                let s = I::mul_add(xs[4], b4[j], s);
                let s = I::mul_add(xs[5], b5[j], s);
                let s = I::mul_add(xs[6], b6[j], s);
                self.out[j] = I::mul_add(xs[7], b7[j], s);
            }
        }
        for k in whole..k {
            let (x, b) = (x(k), b(k));
            for j in 0..n {
                self.out[j] = I::mul_add(x, b[j], self.out[j]);
            }
        }
    }
}

/// Transposed B: dot products, four columns at a time.
struct Dotted<'a, 'o, 'p> {
    a: MatRef<'a>,
    b: MatRef<'a>,
    columns: Range<usize>,
    out: &'o mut [&'p mut [f32]],
}

impl Kernel for Dotted<'_, '_, '_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let k = self.b.rows;
        let column = |j: usize| &self.b.data[j * self.b.column_stride..][..k];
        let mut gathered = Vec::new();
        for j in self.columns.clone().step_by(TOGETHER) {
            let count = TOGETHER.min(self.columns.end - j);
            // A missing column repeats the last one; its sum is dropped.
            let bs: [&[f32]; TOGETHER] = std::array::from_fn(|c| column(j + c.min(count - 1)));
            for (i, out) in self.out.iter_mut().enumerate() {
                let start = i * self.a.row_stride;
                let a = if self.a.column_stride == 1 {
                    &self.a.data[start..start + k]
                } else {
                    gathered.clear();
                    gathered.extend((0..k).map(|k| self.a.data[start + k * self.a.column_stride]));
                    &gathered[..]
                };
                let sums = dots::<I>(a, bs);
                let at = j - self.columns.start;
                out[at..at + count].copy_from_slice(&sums[..count]);
            }
        }
    }
}

#[inline(always)]
fn dots<I: Isa>(a: &[f32], b: [&[f32]; TOGETHER]) -> [f32; TOGETHER] {
    let mut acc = [[0.0f32; LANES]; TOGETHER];
    let (chunks, tail) = a.as_chunks::<LANES>();
    let [b0, b1, b2, b3] = b.map(|b| b.as_chunks::<LANES>().0);
    let [acc0, acc1, acc2, acc3] = &mut acc;
    for ((((a, b0), b1), b2), b3) in chunks.iter().zip(b0).zip(b1).zip(b2).zip(b3) {
        for l in 0..LANES {
            acc0[l] = I::mul_add(a[l], b0[l], acc0[l]);
            acc1[l] = I::mul_add(a[l], b1[l], acc1[l]);
            acc2[l] = I::mul_add(a[l], b2[l], acc2[l]);
            acc3[l] = I::mul_add(a[l], b3[l], acc3[l]);
        }
    }
    let done = chunks.len() * LANES;
    std::array::from_fn(|c| {
        let mut sum = 0.0;
        for (l, &x) in tail.iter().enumerate() {
            sum = I::mul_add(x, b[c][done + l], sum);
        }
        let mut lanes = acc[c];
        let mut width = LANES / 2;
        while width > 0 {
            for l in 0..width {
                lanes[l] += lanes[l + width];
            }
            width /= 2;
        }
        lanes[0] + sum
    })
}
