//! Softmax and its logarithm along one axis of `[outer, axis, inner]`.

use crate::error::{KernelError, exact, product};
use crate::math;
use crate::reduce;
use crate::simd::{Isa, Kernel, Level};
use crate::threads::{Pool, Shards};

/// Columns taken side by side when the axis is strided.
const COLUMNS: usize = 128;

/// Softmax along the middle axis.
pub fn softmax(pool: &Pool, x: &[f32], sizes: [usize; 3], out: &mut [f32]) -> Result<(), KernelError> {
    along(pool, x, sizes, out, false)
}

/// Logarithm of the softmax along the middle axis.
pub fn log_softmax(pool: &Pool, x: &[f32], sizes: [usize; 3], out: &mut [f32]) -> Result<(), KernelError> {
    along(pool, x, sizes, out, true)
}

fn along(
    pool: &Pool,
    x: &[f32],
    [outer, axis, inner]: [usize; 3],
    out: &mut [f32],
    log: bool,
) -> Result<(), KernelError> {
    exact("input", x, product("input", &[outer, axis, inner])?)?;
    exact("output", out, x.len())?;
    if out.is_empty() {
        return Ok(());
    }
    let shards = Shards::new(out);
    let grain = (16 * 1024 / axis).max(1);
    if inner == 1 {
        pool.split(outer, grain, |r| {
            // SAFETY: the ranges of a split are disjoint.
            let out = unsafe { shards.part(r.start * axis, r.len() * axis) };
            if axis <= SHORT && !log {
                return short(pool.level(), &x[r.start * axis..r.end * axis], axis, out);
            }
            for (out, x) in out.chunks_exact_mut(axis).zip(x[r.start * axis..].chunks_exact(axis)) {
                pool.level().run(Row { x, out, log });
            }
        });
        return Ok(());
    }
    // Rows of different columns interleave, so one task owns whole outer slabs.
    pool.split(outer, grain.div_ceil(inner), |r| {
        for o in r {
            let slab = o * axis * inner;
            // SAFETY: every slab is taken once.
            let out = unsafe { shards.part(slab, axis * inner) };
            for first in (0..inner).step_by(COLUMNS) {
                let n = COLUMNS.min(inner - first);
                let x = &x[slab..slab + axis * inner];
                pool.level().run(Slab { x, out, inner, first, n, log });
            }
        }
    });
    Ok(())
}

/// Rows of so many elements at most are taken many at a time.
const SHORT: usize = 8;

fn short(level: Level, x: &[f32], axis: usize, out: &mut [f32]) {
    match axis {
        1 => level.run(Short::<1> { x, out }),
        2 => level.run(Short::<2> { x, out }),
        3 => level.run(Short::<3> { x, out }),
        4 => level.run(Short::<4> { x, out }),
        5 => level.run(Short::<5> { x, out }),
        6 => level.run(Short::<6> { x, out }),
        7 => level.run(Short::<7> { x, out }),
        _ => level.run(Short::<SHORT> { x, out }),
    }
}

/// Rows of `N`, with the same sums as [`Row`] has.
struct Short<'a, const N: usize> {
    x: &'a [f32],
    out: &'a mut [f32],
}

impl<const N: usize> Kernel for Short<'_, N> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        /// Rows whose exponents are taken together: few enough to stay in cache.
        const ROWS: usize = 256;
        let ((x, _), (out, _)) = (self.x.as_chunks::<N>(), self.out.as_chunks_mut::<N>());
        for (x, out) in x.chunks(ROWS).zip(out.chunks_mut(ROWS)) {
            for (o, x) in out.iter_mut().zip(x) {
                let top = x.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
                o.iter_mut().zip(x).for_each(|(o, x)| *o = x - top);
            }
            out.as_flattened_mut().iter_mut().for_each(|o| *o = math::exp::<I>(*o));
            for o in out {
                let mut lanes = [0.0; SHORT];
                lanes[..N].copy_from_slice(o);
                for half in [4, 2, 1] {
                    for i in 0..half {
                        lanes[i] += lanes[i + half];
                    }
                }
                let scale = 1.0 / lanes[0];
                o.iter_mut().for_each(|o| *o *= scale);
            }
        }
    }
}

/// The largest element that is a number. A NaN makes the whole sum one, whatever is taken from it first.
#[inline(always)]
fn top(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; 64];
    let (chunks, rest) = x.as_chunks::<64>();
    for chunk in chunks {
        for (l, &x) in lanes.iter_mut().zip(chunk) {
            *l = larger(*l, x);
        }
    }
    for half in [32, 16, 8, 4, 2, 1] {
        for i in 0..half {
            lanes[i] = larger(lanes[i], lanes[i + half]);
        }
    }
    rest.iter().fold(lanes[0], |a, &b| larger(a, b))
}

struct Row<'a> {
    x: &'a [f32],
    out: &'a mut [f32],
    log: bool,
}

impl Kernel for Row<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let top = top(self.x);
        self.out.iter_mut().zip(self.x).for_each(|(o, &x)| *o = math::exp::<I>(x - top));
        let total = reduce::sum(self.out) as f32;
        if self.log {
            let shift = total.ln();
            self.out.iter_mut().zip(self.x).for_each(|(o, &x)| *o = (x - top) - shift);
        } else {
            let scale = 1.0 / total;
            self.out.iter_mut().for_each(|o| *o *= scale);
        }
    }
}

struct Slab<'a> {
    x: &'a [f32],
    out: &'a mut [f32],
    inner: usize,
    first: usize,
    n: usize,
    log: bool,
}

impl Kernel for Slab<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let (first, n) = (self.first, self.n);
        let mut top = [f32::NEG_INFINITY; COLUMNS];
        let mut total = [0.0f32; COLUMNS];
        for x in self.x.chunks_exact(self.inner) {
            for (t, &x) in top.iter_mut().zip(&x[first..first + n]) {
                *t = if *t > x || t.is_nan() { *t } else { x };
            }
        }
        for (out, x) in self.out.chunks_exact_mut(self.inner).zip(self.x.chunks_exact(self.inner)) {
            let (out, x) = (&mut out[first..first + n], &x[first..first + n]);
            for j in 0..n {
                let e = math::exp::<I>(x[j] - top[j]);
                total[j] += e;
                out[j] = e;
            }
        }
        if self.log {
            total.iter_mut().for_each(|t| *t = math::log::<I>(*t));
        } else {
            total.iter_mut().for_each(|t| *t = 1.0 / *t);
        }
        for (out, x) in self.out.chunks_exact_mut(self.inner).zip(self.x.chunks_exact(self.inner)) {
            let (out, x) = (&mut out[first..first + n], &x[first..first + n]);
            for j in 0..n {
                out[j] = if self.log { (x[j] - top[j]) - total[j] } else { out[j] * total[j] };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn matches_the_definition(
            outer in 0usize..4, axis in 0usize..70, inner in 0usize..4, wide in any::<bool>(),
            scale in prop_oneof![Just(1.0f32), Just(30.0), Just(1e4)], holes in any::<bool>(), threads in 1usize..3,
        ) {
            let inner = if wide { inner * 61 } else { inner };
            let mut x: Vec<f32> = (0..outer * axis * inner)
                .map(|i| (((i * 7919) % 1021) as f32 / 510.0 - 1.0) * scale).collect();
            if holes {
                x.iter_mut().skip(1).step_by(3).for_each(|x| *x = f32::NEG_INFINITY);
            }
            for level in Level::available() {
                let pool = Pool::new(threads).unwrap().with_level(level);
                let (mut p, mut l) = (vec![7.0; x.len()], vec![7.0; x.len()]);
                softmax(&pool, &x, [outer, axis, inner], &mut p).unwrap();
                log_softmax(&pool, &x, [outer, axis, inner], &mut l).unwrap();
                for o in 0..outer { for j in 0..inner {
                    let at = |k: usize| (o * axis + k) * inner + j;
                    let xs: Vec<f64> = (0..axis).map(|k| x[at(k)] as f64).collect();
                    let top = xs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let total: f64 = xs.iter().map(|x| (x - top).exp()).sum();
                    for k in 0..axis {
                        let want = (xs[k] - top).exp() / total;
                        let log = xs[k] - top - total.ln();
                        prop_assert!(want.is_nan() && p[at(k)].is_nan() || (p[at(k)] as f64 - want).abs() <= 2e-6 * want.max(1e-3));
                        prop_assert!(log.is_nan() && l[at(k)].is_nan() || l[at(k)] as f64 == log
                            || (l[at(k)] as f64 - log).abs() <= 1e-6 * log.abs().max(4.0));
                    }
                }}
            }
        }
    }

    #[test]
    fn short_rows_are_as_rows_are() {
        for level in Level::available() {
            for axis in 1..=SHORT {
                let x: Vec<f32> = (0..axis * 700).map(|i| ((i * 7919) % 1021) as f32 / 51.0 - 10.0).collect();
                let (mut many, mut one) = (vec![7.0; x.len()], vec![7.0; x.len()]);
                short(level, &x, axis, &mut many);
                for (x, out) in x.chunks_exact(axis).zip(one.chunks_exact_mut(axis)) {
                    level.run(Row { x, out, log: false });
                }
                assert_eq!(many, one, "{axis}");
            }
        }
    }

    #[test]
    fn nan_spoils_only_its_own_row() {
        let mut out = [0.0; 6];
        softmax(&Pool::serial(), &[1.0, f32::NAN, 2.0, 1.0, 1.0, 1.0], [2, 3, 1], &mut out).unwrap();
        assert!(out[..3].iter().all(|x| x.is_nan()));
        assert!(out[3..].iter().all(|x| (x - 1.0 / 3.0).abs() < 1e-6));
        assert!(softmax(&Pool::serial(), &[1.0; 6], [2, 2, 1], &mut out).is_err());
    }
}
