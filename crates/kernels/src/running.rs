//! Sums and products of the elements up to each along the middle axis of `[outer, axis, inner]`.

use crate::error::{KernelError, exact, product};
use crate::threads::{Pool, Shards};

/// Lines whose elements interleave that are taken side by side.
const COLUMNS: usize = 64;
/// Elements of a task at least.
const GRAIN: usize = 32 * 1024;

/// An element and what its totals are kept in.
pub trait Total: Copy + Send + Sync + 'static {
    /// Wide enough that rounding happens once an element.
    type Wide: Copy;
    /// The total as an element.
    fn narrow(total: Self::Wide) -> Self;
    /// What a sum, or else a product, begins with.
    fn start(sum: bool) -> Self::Wide;
    /// The total with one more element; integers wrap.
    fn add(total: Self::Wide, x: Self) -> Self::Wide;
    /// As [`Total::add`], multiplied.
    fn multiply(total: Self::Wide, x: Self) -> Self::Wide;
}

impl Total for f32 {
    type Wide = f64;
    fn narrow(total: f64) -> f32 {
        total as f32
    }
    fn start(sum: bool) -> f64 {
        if sum { 0.0 } else { 1.0 }
    }
    fn add(total: f64, x: f32) -> f64 {
        total + f64::from(x)
    }
    fn multiply(total: f64, x: f32) -> f64 {
        total * f64::from(x)
    }
}

macro_rules! wrapping {
    ($($t:ty)*) => {$(
        impl Total for $t {
            type Wide = $t;
            fn narrow(total: $t) -> $t {
                total
            }
            fn start(sum: bool) -> $t {
                <$t>::from(!sum)
            }
            fn add(total: $t, x: $t) -> $t {
                total.wrapping_add(x)
            }
            fn multiply(total: $t, x: $t) -> $t {
                total.wrapping_mul(x)
            }
        }
    )*};
}
wrapping!(i32 i64);

/// Which totals.
#[derive(Debug, Clone, Copy)]
pub struct Running {
    /// Sums, or else products.
    pub sum: bool,
    /// Whether the element itself is left out.
    pub exclusive: bool,
    /// Whether they begin at the end.
    pub reverse: bool,
}

/// The totals along the middle axis.
///
/// # Errors
/// [`KernelError`] for slices that do not have these sizes.
pub fn running<T: Total>(
    pool: &Pool,
    kind: Running,
    x: &[T],
    [outer, axis, inner]: [usize; 3],
    out: &mut [T],
) -> Result<(), KernelError> {
    exact("input", x, product("input", &[outer, axis, inner])?)?;
    exact("output", out, x.len())?;
    if out.is_empty() {
        return Ok(());
    }
    let slab = axis * inner;
    let shards = Shards::new(out);
    pool.split(outer, (GRAIN / slab).max(1), |r| {
        for o in r {
            let x = &x[o * slab..(o + 1) * slab];
            // SAFETY: every slab is taken once.
            let out = unsafe { shards.part(o * slab, slab) };
            if kind.sum {
                lines(kind, x, inner, out, T::add);
            } else {
                lines(kind, x, inner, out, T::multiply);
            }
        }
    });
    Ok(())
}

/// One slab: `inner` lines whose elements interleave.
fn lines<T: Total>(
    kind: Running,
    x: &[T],
    inner: usize,
    out: &mut [T],
    next: impl Fn(T::Wide, T) -> T::Wide,
) {
    let step = |total: &mut T::Wide, x: T, out: &mut T| {
        let after = next(*total, x);
        *out = T::narrow(if kind.exclusive { *total } else { after });
        *total = after;
    };
    let start = T::start(kind.sum);
    if inner == 1 {
        let mut total = start;
        if kind.reverse {
            x.iter().zip(out).rev().for_each(|(x, o)| step(&mut total, *x, o));
        } else {
            x.iter().zip(out).for_each(|(x, o)| step(&mut total, *x, o));
        }
        return;
    }
    for first in (0..inner).step_by(COLUMNS) {
        let n = COLUMNS.min(inner - first);
        let mut totals = [start; COLUMNS];
        let mut row = |x: &[T], out: &mut [T]| {
            let (x, out) = (&x[first..first + n], &mut out[first..first + n]);
            totals.iter_mut().zip(x).zip(out).for_each(|((t, x), o)| step(t, *x, o));
        };
        let rows = x.chunks_exact(inner).zip(out.chunks_exact_mut(inner));
        if kind.reverse { rows.rev().for_each(|(x, o)| row(x, o)) } else { rows.for_each(|(x, o)| row(x, o)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn matches_the_definition(
            outer in 0usize..4, axis in 0usize..20, inner in 0usize..4, wide in any::<bool>(),
            (sum, exclusive, reverse) in any::<(bool, bool, bool)>(), threads in 1usize..3,
        ) {
            let inner = if wide { inner * 47 } else { inner };
            let pool = Pool::new(threads).unwrap();
            let kind = Running { sum, exclusive, reverse };
            let n = outer * axis * inner;
            let x: Vec<i64> = (0..n).map(|i| ((i * 7919) % 1021) as i64 - 510).collect();
            let f: Vec<f32> = x.iter().map(|&x| x as f32 / 300.0).collect();
            let (mut whole, mut real) = (vec![7; n], vec![7.0; n]);
            running(&pool, kind, &x, [outer, axis, inner], &mut whole).unwrap();
            running(&pool, kind, &f, [outer, axis, inner], &mut real).unwrap();
            for o in 0..outer { for i in 0..inner {
                let at = |j: usize| (o * axis + if reverse { axis - 1 - j } else { j }) * inner + i;
                let (mut t, mut r) = (i64::from(!sum), if sum { 0f64 } else { 1.0 });
                for j in 0..axis {
                    let (a, b) = (x[at(j)], f64::from(f[at(j)]));
                    let after = if sum { (t.wrapping_add(a), r + b) } else { (t.wrapping_mul(a), r * b) };
                    let want = if exclusive { (t, r) } else { after };
                    prop_assert_eq!((whole[at(j)], real[at(j)]), (want.0, want.1 as f32));
                    (t, r) = after;
                }
            }}
        }
    }

    #[test]
    fn slices_of_another_length_are_refused() {
        let kind = Running { sum: true, exclusive: false, reverse: false };
        assert!(running(&Pool::serial(), kind, &[1.0f32; 6], [1, 2, 2], &mut [0.0; 6]).is_err());
        assert!(running(&Pool::serial(), kind, &[1.0f32; 4], [1, 2, 2], &mut [0.0; 3]).is_err());
    }
}
