//! Resizing by tables computed ahead, channels last: which rows and columns of the input each output takes.

use super::convert::copy_pixel;
use super::pool::pitched;
use crate::error::KernelError;
use crate::matmul::driver::FirstError;
use crate::resize::{Blend, check_table};
use crate::scratch;
use crate::simd::{Isa, Kernel};
use crate::threads::{Pool, Shards};

/// Elements worth a task of their own.
const GRAIN: usize = 32 * 1024;

/// `out[n][i][j] = x[n][rows[i]][columns[j]]` for pixels of a `[batch, height, width, channels]` array, which
/// are `x_pitch` elements apart; those of `out` are `out_pitch` apart.
pub fn resize_nearest<T: Copy + Send + Sync>(
    pool: &Pool,
    x: &[T],
    x_pitch: usize,
    [batch, height, width, channels]: [usize; 4],
    rows: &[usize],
    columns: &[usize],
    out: &mut [T],
    out_pitch: usize,
) -> Result<(), KernelError> {
    pitched("input", x, &[batch, height, width], channels, x_pitch)?;
    pitched("output", out, &[batch, rows.len(), columns.len()], channels, out_pitch)?;
    check_table(rows.iter().copied(), height)?;
    check_table(columns.iter().copied(), width)?;
    if [batch, rows.len(), columns.len(), channels].contains(&0) {
        return Ok(());
    }
    let shards = Shards::new(out);
    let grain = (GRAIN / (columns.len() * channels)).max(1);
    pool.split(batch * rows.len(), grain, |r| {
        for line in r {
            let from = (line / rows.len() * height + rows[line % rows.len()]) * width;
            let first = line * columns.len();
            pool.level().run(Nearest { x, x_pitch, channels, from, columns, out: &shards, first, out_pitch });
        }
    });
    Ok(())
}

/// One row of output pixels, which belongs to whoever makes this.
struct Nearest<'a, T> {
    x: &'a [T],
    x_pitch: usize,
    channels: usize,
    /// The input row's first pixel.
    from: usize,
    columns: &'a [usize],
    out: &'a Shards<'a, T>,
    /// The output row's first pixel.
    first: usize,
    out_pitch: usize,
}

impl<T: Copy> Kernel for Nearest<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let c = self.channels;
        let row = &self.x[self.from * self.x_pitch..];
        for (j, &column) in self.columns.iter().enumerate() {
            let from = &row[column * self.x_pitch..][..c];
            // SAFETY: the pixel is inside the output and of a row that is taken once.
            unsafe {
                let to = self.out.as_ptr().add((self.first + j) * self.out_pitch);
                copy_pixel(from.as_ptr(), to, c);
            }
        }
    }
}

/// Linear interpolation along both axes of a `[batch, height, width, channels]` array, whose pixels are
/// `x_pitch` floats apart; those of `out` are `out_pitch` apart.
pub fn resize_linear(
    pool: &Pool,
    x: &[f32],
    x_pitch: usize,
    [batch, height, width, channels]: [usize; 4],
    rows: &[Blend],
    columns: &[Blend],
    out: &mut [f32],
    out_pitch: usize,
) -> Result<(), KernelError> {
    pitched("input", x, &[batch, height, width], channels, x_pitch)?;
    pitched("output", out, &[batch, rows.len(), columns.len()], channels, out_pitch)?;
    check_table(rows.iter().flat_map(|b| [b.low, b.high]), height)?;
    check_table(columns.iter().flat_map(|b| [b.low, b.high]), width)?;
    if [batch, rows.len(), columns.len(), channels].contains(&0) {
        return Ok(());
    }
    let (shards, error) = (Shards::new(out), FirstError::default());
    let grain = (GRAIN / (columns.len() * channels)).max(1);
    pool.split(batch * rows.len(), grain, |r| {
        error.note(scratch::with(width * channels, |mixed| {
            for line in r {
                let (image, row) = (line / rows.len(), rows[line % rows.len()]);
                let input = |y: usize| &x[(image * height + y) * width * x_pitch..];
                let (low, high) = (input(row.low), input(row.high));
                // Dense pixels are one run.
                let run = if x_pitch == channels { width * channels } else { channels };
                for (i, out) in mixed.chunks_exact_mut(run).enumerate() {
                    let [low, high] = [low, high].map(|x| &x[i * x_pitch..][..run]);
                    pool.level().run(Mix { low, high, weight: row.weight, out });
                }
                let first = line * columns.len();
                pool.level().run(Linear { row: mixed, channels, columns, out: &shards, first, out_pitch });
            }
        }));
    });
    error.into_result()
}

/// At weights 0 and 1 only one side counts, even if the other is infinite.
struct Mix<'a> {
    low: &'a [f32],
    high: &'a [f32],
    weight: f32,
    out: &'a mut [f32],
}

impl Kernel for Mix<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let w = self.weight;
        if w == 0.0 || w == 1.0 {
            self.out.copy_from_slice(if w == 0.0 { self.low } else { self.high });
            return;
        }
        for ((o, &l), &h) in self.out.iter_mut().zip(self.low).zip(self.high) {
            *o = l * (1.0 - w) + h * w;
        }
    }
}

/// One row of output pixels from a row that is mixed already.
struct Linear<'a> {
    row: &'a [f32],
    channels: usize,
    columns: &'a [Blend],
    out: &'a Shards<'a, f32>,
    first: usize,
    out_pitch: usize,
}

impl Kernel for Linear<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let c = self.channels;
        for (j, column) in self.columns.iter().enumerate() {
            let (low, high) = (&self.row[column.low * c..][..c], &self.row[column.high * c..][..c]);
            // SAFETY: pixels do not overlap, and each is taken once.
            let out = unsafe { self.out.part((self.first + j) * self.out_pitch, c) };
            Mix { low, high, weight: column.weight, out }.run::<I>();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Level;
    use proptest::prelude::*;

    /// Rows of `run` elements further apart.
    fn spread<T: Copy>(x: &[T], run: usize, pitch: usize) -> Vec<T> {
        let Some(&fill) = x.first() else { return vec![] };
        let mut apart: Vec<T> = x
            .chunks_exact(run)
            .flat_map(|row| row.iter().copied().chain(std::iter::repeat_n(fill, pitch - run)))
            .collect();
        apart.truncate(apart.len() - (pitch - run));
        apart
    }

    proptest! {
        #[test]
        fn tables_are_followed(
            batch in 0usize..3, channels in 0usize..50, h in 1usize..6, w in 1usize..6,
            more in 0usize..3, apart in 0usize..3,
            r in prop::collection::vec((0usize..6, 0usize..6, 0u8..5), 0..9),
            c in prop::collection::vec((0usize..6, 0usize..6, 0u8..5), 0..9),
            threads in 1usize..4, special in any::<bool>(),
        ) {
            let mut x: Vec<f32> = (0..batch * h * w * channels).map(|i| ((i * 7919) % 1021) as f32).collect();
            if let (true, Some(last)) = (special, x.last_mut()) {
                *last = f32::INFINITY;
            }
            let blends = |t: &[(usize, usize, u8)], n: usize| -> Vec<Blend> {
                t.iter().map(|&(a, b, k)| Blend { low: a % n, high: b % n, weight: k as f32 / 4.0 }).collect()
            };
            let (rb, cb) = (blends(&r, h), blends(&c, w));
            let rows: Vec<usize> = rb.iter().map(|b| b.low).collect();
            let columns: Vec<usize> = cb.iter().map(|b| b.low).collect();
            let at = |n: usize, i: usize, j: usize, k: usize| x[((n * h + i) * w + j) * channels + k];
            let side = |a: f64, b: f64, w: f32| match w {
                0.0 => a,
                1.0 => b,
                _ => a * (1.0 - w as f64) + b * w as f64,
            };
            let pitch = channels + more;
            let pixels = batch * rows.len() * columns.len();
            let len = if pixels == 0 { 0 } else { (pixels - 1) * pitch + channels };
            let bytes: Vec<u8> = x.iter().map(|&x| x as u8).collect();
            for level in Level::available() {
                let pool = Pool::new(threads).unwrap().with_level(level);
                let (mut near, mut small, mut linear) = (vec![-5.0; len], vec![99u8; len], vec![-5.0; len]);
                let (from, x_pitch) = ([batch, h, w, channels], channels + apart);
                let (x, bytes) = (spread(&x, channels, x_pitch), spread(&bytes, channels, x_pitch));
                resize_nearest(&pool, &x, x_pitch, from, &rows, &columns, &mut near, pitch).unwrap();
                resize_nearest(&pool, &bytes, x_pitch, from, &rows, &columns, &mut small, pitch).unwrap();
                resize_linear(&pool, &x, x_pitch, from, &rb, &cb, &mut linear, pitch).unwrap();
                for i in 0..len {
                    let (p, k) = (i / pitch, i % pitch);
                    let (j, row, n) = (p % columns.len(), p / columns.len() % rows.len(), p / columns.len() / rows.len());
                    if k >= channels {
                        prop_assert_eq!((near[i], small[i], linear[i]), (-5.0, 99, -5.0));
                        continue;
                    }
                    let (a, b) = (rb[row], cb[j]);
                    prop_assert_eq!(near[i], at(n, a.low, b.low, k));
                    prop_assert_eq!(small[i], at(n, a.low, b.low, k) as u8);
                    let line = |j: usize| side(at(n, a.low, j, k) as f64, at(n, a.high, j, k) as f64, a.weight);
                    let want = side(line(b.low), line(b.high), b.weight);
                    let got = linear[i] as f64;
                    prop_assert!(got == want || (got - want).abs() < 1e-3, "{got} for {want}");
                }
            }
        }
    }

    #[test]
    fn bad_tables_and_pitches_are_errors() {
        let (pool, x, mut out) = (Pool::serial(), [1u8, 2, 3, 4], [0u8; 8]);
        let from = [1, 2, 1, 2];
        resize_nearest(&pool, &x, 2, from, &[0, 1], &[0, 0], &mut out, 2).unwrap();
        assert_eq!(out, [1, 2, 1, 2, 3, 4, 3, 4]);
        assert!(resize_nearest(&pool, &x, 2, from, &[0, 2], &[0, 0], &mut out, 2).is_err());
        assert!(resize_nearest(&pool, &x, 2, from, &[0, 1], &[0, 1], &mut out, 2).is_err());
        assert!(resize_nearest(&pool, &x, 2, from, &[0, 1], &[0, 0], &mut out, 1).is_err());
        assert!(resize_nearest(&pool, &x, 2, from, &[0, 1], &[0, 0], &mut out, 3).is_err());
        let blend = |low, high| Blend { low, high, weight: 0.5 };
        let mut out = [0.0; 2];
        assert!(
            resize_linear(&pool, &[0.0; 4], 2, from, &[blend(0, 2)], &[blend(0, 0)], &mut out, 2).is_err()
        );
        assert!(
            resize_linear(&pool, &[0.0; 4], 2, from, &[blend(0, 1)], &[blend(1, 0)], &mut out, 2).is_err()
        );
        assert!(
            resize_linear(&pool, &[0.0; 4], 2, from, &[blend(0, 1)], &[blend(0, 0)], &mut out, 2).is_ok()
        );
    }
}
