//! Resizing planes by tables computed ahead: which rows and columns of the input each output takes.

use crate::error::{KernelError, exact, product};
use crate::simd::{Isa, Kernel};
use crate::threads::{Pool, Shards};

/// One output position's place between two input positions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Blend {
    /// The lower position.
    pub low: usize,
    /// The upper position.
    pub high: usize,
    /// Weight of the upper one; the lower has the rest.
    pub weight: f32,
}

/// Fails unless every place of a table lies below `len`.
pub(crate) fn check_table(table: impl Iterator<Item = usize>, len: usize) -> Result<(), KernelError> {
    for index in table {
        if index >= len {
            return Err(KernelError::Index { index: i64::try_from(index).unwrap_or(i64::MAX), len });
        }
    }
    Ok(())
}

/// `out[p][i][j] = x[p][rows[i]][columns[j]]` over `planes` planes of `height` by `width`.
pub fn resize_nearest<T: Copy + Send + Sync>(
    pool: &Pool,
    x: &[T],
    [planes, height, width]: [usize; 3],
    rows: &[usize],
    columns: &[usize],
    out: &mut [T],
) -> Result<(), KernelError> {
    exact("input", x, product("input", &[planes, height, width])?)?;
    let plane = product("output", &[rows.len(), columns.len()])?;
    exact("output", out, product("output", &[planes, plane])?)?;
    check_table(rows.iter().copied(), height)?;
    check_table(columns.iter().copied(), width)?;
    if out.is_empty() {
        return Ok(());
    }
    let doubled = columns.len() == 2 * width && columns.iter().enumerate().all(|(j, &c)| c == j / 2);
    let shards = Shards::new(out);
    pool.split(planes, (32 * 1024 / plane).max(1), |r| {
        for p in r {
            // SAFETY: every plane is taken once.
            let out = unsafe { shards.part(p * plane, plane) };
            let x = &x[p * height * width..(p + 1) * height * width];
            for (i, &row) in rows.iter().enumerate() {
                let (done, rest) = out.split_at_mut(i * columns.len());
                let to = &mut rest[..columns.len()];
                if i > 0 && rows[i - 1] == row {
                    to.copy_from_slice(&done[(i - 1) * columns.len()..]);
                    continue;
                }
                let from = &x[row * width..(row + 1) * width];
                if doubled {
                    to.as_chunks_mut::<2>().0.iter_mut().zip(from).for_each(|(t, &x)| *t = [x, x]);
                } else {
                    to.iter_mut().zip(columns).for_each(|(t, &c)| *t = from[c]);
                }
            }
        }
    });
    Ok(())
}

/// Linear interpolation along both axes over `planes` planes of `height` by `width`.
pub fn resize_linear(
    pool: &Pool,
    x: &[f32],
    [planes, height, width]: [usize; 3],
    rows: &[Blend],
    columns: &[Blend],
    out: &mut [f32],
) -> Result<(), KernelError> {
    exact("input", x, product("input", &[planes, height, width])?)?;
    let plane = product("output", &[rows.len(), columns.len()])?;
    exact("output", out, product("output", &[planes, plane])?)?;
    check_table(rows.iter().flat_map(|b| [b.low, b.high]), height)?;
    check_table(columns.iter().flat_map(|b| [b.low, b.high]), width)?;
    if out.is_empty() {
        return Ok(());
    }
    let shards = Shards::new(out);
    pool.split(planes, (16 * 1024 / plane).max(1), |r| {
        let mut mixed = vec![0.0; width];
        for p in r {
            // SAFETY: every plane is taken once.
            let out = unsafe { shards.part(p * plane, plane) };
            let x = &x[p * height * width..(p + 1) * height * width];
            for (row, out) in rows.iter().zip(out.chunks_exact_mut(columns.len())) {
                let (low, high) = (&x[row.low * width..][..width], &x[row.high * width..][..width]);
                pool.level().run(Mix { low, high, weight: row.weight, out: &mut mixed });
                for (o, c) in out.iter_mut().zip(columns) {
                    *o = mix(mixed[c.low], mixed[c.high], c.weight);
                }
            }
        }
    });
    Ok(())
}

/// At weights 0 and 1 only one side counts, even if the other is infinite.
#[inline(always)]
fn mix(low: f32, high: f32, weight: f32) -> f32 {
    let between = low * (1.0 - weight) + high * weight;
    let between = if weight == 0.0 { low } else { between };
    if weight == 1.0 { high } else { between }
}

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
        for ((o, &l), &h) in self.out.iter_mut().zip(self.low).zip(self.high) {
            *o = mix(l, h, self.weight);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Level;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn tables_are_followed(
            planes in 0usize..4, h in 1usize..6, w in 1usize..6,
            r in prop::collection::vec((0usize..6, 0usize..6, 0u8..5), 0..9),
            c in prop::collection::vec((0usize..6, 0usize..6, 0u8..5), 0..9), threads in 1usize..3,
        ) {
            let x: Vec<f32> = (0..planes * h * w).map(|i| ((i * 7919) % 1021) as f32).collect();
            let blends = |t: &[(usize, usize, u8)], n: usize| -> Vec<Blend> {
                t.iter().map(|&(a, b, k)| Blend { low: a % n, high: b % n, weight: k as f32 / 4.0 }).collect()
            };
            let (rb, cb) = (blends(&r, h), blends(&c, w));
            let (rows, columns): (Vec<usize>, Vec<usize>) =
                (rb.iter().map(|b| b.low).collect(), cb.iter().map(|b| b.low).collect());
            let at = |p: usize, i: usize, j: usize| x[(p * h + i) * w + j];
            for level in Level::available() {
                let pool = Pool::new(threads).unwrap().with_level(level);
                let mut near = vec![0.0; planes * rows.len() * columns.len()];
                let mut linear = near.clone();
                resize_nearest(&pool, &x, [planes, h, w], &rows, &columns, &mut near).unwrap();
                resize_linear(&pool, &x, [planes, h, w], &rb, &cb, &mut linear).unwrap();
                let mut k = 0;
                for p in 0..planes { for a in &rb { for b in &cb {
                    prop_assert_eq!(near[k], at(p, a.low, b.low));
                    let line = |i: usize| at(p, i, b.low) as f64 * (1.0 - b.weight as f64) + at(p, i, b.high) as f64 * b.weight as f64;
                    let want = line(a.low) * (1.0 - a.weight as f64) + line(a.high) * a.weight as f64;
                    prop_assert!((linear[k] as f64 - want).abs() < 1e-3);
                    k += 1;
                }}}
            }
        }
    }

    #[test]
    fn doubling_and_bad_tables() {
        let (pool, x) = (Pool::serial(), [1u8, 2, 3, 4]);
        let mut out = [0u8; 16];
        resize_nearest(&pool, &x, [1, 2, 2], &[0, 0, 1, 1], &[0, 0, 1, 1], &mut out).unwrap();
        assert_eq!(out, [1, 1, 2, 2, 1, 1, 2, 2, 3, 3, 4, 4, 3, 3, 4, 4]);
        assert!(resize_nearest(&pool, &x, [1, 2, 2], &[0, 2], &[0], &mut out[..2]).is_err());
        assert!(resize_nearest(&pool, &x, [1, 2, 2], &[0, 1], &[0], &mut out).is_err());
    }
}
