//! Rotary positions: pairs of elements of each head, turned by angles that depend on the position.

use crate::error::{KernelError, exact, product};
use crate::simd::{Isa, Kernel};
use crate::threads::{Pool, Shards};

/// What is rotated, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rotary {
    /// Items that have nothing to do with each other.
    pub batch: usize,
    /// Heads of an item.
    pub heads: usize,
    /// Rows of a head, which are positions.
    pub rows: usize,
    /// Elements of a row.
    pub size: usize,
    /// How many of them, from the first on, are rotated; even.
    pub rotated: usize,
    /// Whether all rows of a head lie together, rather than all heads of a row.
    pub heads_first: bool,
    /// Whether pairs are neighbours; otherwise the second of each is half the rotated part away.
    pub interleaved: bool,
}

/// One row of one head.
struct Row<'a> {
    x: &'a [f32],
    cos: &'a [f32],
    sin: &'a [f32],
    out: &'a mut [f32],
    interleaved: bool,
}

impl Kernel for Row<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let half = self.cos.len();
        let (x, rest) = self.x.split_at(2 * half);
        let (out, left) = self.out.split_at_mut(2 * half);
        left.copy_from_slice(rest);
        let angles = self.cos.iter().zip(self.sin);
        if self.interleaved {
            for ((o, x), (&c, &s)) in out.chunks_exact_mut(2).zip(x.chunks_exact(2)).zip(angles) {
                (o[0], o[1]) = (c * x[0] - s * x[1], s * x[0] + c * x[1]);
            }
            return;
        }
        let ((a, b), (o, p)) = (x.split_at(half), out.split_at_mut(half));
        for (((o, p), (&a, &b)), (&c, &s)) in o.iter_mut().zip(p).zip(a.iter().zip(b)).zip(angles) {
            (*o, *p) = (c * a - s * b, s * a + c * b);
        }
    }
}

/// Rotates the rows of `x`. `cos` and `sin` have a row of half the rotated elements for each batch item and
/// position, or with `positions`, which are as many, for each number that may be among them.
///
/// # Errors
/// For slices of other lengths than the sizes ask for, an odd or too long rotated part, and positions
/// that the tables do not have.
pub fn rotary(
    pool: &Pool,
    r: Rotary,
    x: &[f32],
    cos: &[f32],
    sin: &[f32],
    positions: Option<&[i64]>,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let Rotary { batch, heads, rows, size, rotated, .. } = r;
    if rotated > size || !rotated.is_multiple_of(2) {
        return Err(KernelError::Shape("rotary positions: the rotated part is odd or longer than a row"));
    }
    let half = rotated / 2;
    let total = product("rotary positions", &[batch, heads, rows])?;
    exact("input", x, product("input", &[total, size])?)?;
    exact("output", out, x.len())?;
    exact("sines", sin, cos.len())?;
    let places = product("positions", &[batch, rows])?;
    match positions {
        None => exact("cosines", cos, product("cosines", &[places, half])?)?,
        Some(p) => {
            exact("positions", p, places)?;
            let len = cos.len().checked_div(half).unwrap_or(usize::MAX);
            if let Some(&index) = p.iter().find(|p| usize::try_from(**p).map_or(true, |p| p >= len)) {
                return Err(KernelError::Index { index, len });
            }
        }
    }
    if out.is_empty() {
        return Ok(());
    }
    let shards = Shards::new(out);
    pool.split(total, (16 * 1024 / size).max(1), |range| {
        // SAFETY: the ranges of a split are disjoint.
        let out = unsafe { shards.part(range.start * size, range.len() * size) };
        let x = &x[range.start * size..range.end * size];
        for ((i, x), out) in range.zip(x.chunks_exact(size)).zip(out.chunks_exact_mut(size)) {
            let place = if r.heads_first { i / (heads * rows) * rows + i % rows } else { i / heads };
            let place = positions.map_or(place, |p| p[place] as usize);
            let at = place * half..(place + 1) * half;
            let (cos, sin) = (&cos[at.clone()], &sin[at]);
            pool.level().run(Row { x, cos, sin, out, interleaved: r.interleaved });
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Level;
    use proptest::prelude::*;

    fn noise(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| (((i + seed) * 7919) % 1021) as f32 / 510.0 - 1.0).collect()
    }

    proptest! {
        #[test]
        fn rows_match_their_definition(sizes in (0usize..3, 1usize..4, 0usize..6), half in 0usize..20, more in 0usize..4, flags: [bool; 3], threads in 1usize..3) {
            let (batch, heads, rows) = sizes;
            let [heads_first, interleaved, given] = flags;
            let (size, places) = (2 * half + more, batch * rows);
            let x = noise(batch * heads * rows * size, 1);
            let table = if given { 7 } else { places };
            let (cos, sin) = (noise(table * half, 5), noise(table * half, 9));
            let ids: Vec<i64> = (0..places).map(|i| (i * 5 % 7) as i64).collect();
            let r = Rotary { batch, heads, rows, size, rotated: 2 * half, heads_first, interleaved };
            let mut want = x.clone();
            for (b, h, s) in (0..batch).flat_map(|b| (0..heads).flat_map(move |h| (0..rows).map(move |s| (b, h, s)))) {
                let row = if heads_first { (b * heads + h) * rows + s } else { (b * rows + s) * heads + h };
                let place = if given { ids[b * rows + s] as usize } else { b * rows + s };
                for j in 0..half {
                    let (p, q) = if interleaved { (2 * j, 2 * j + 1) } else { (j, j + half) };
                    let (re, im) = (x[row * size + p], x[row * size + q]);
                    let (c, n) = (cos[place * half + j], sin[place * half + j]);
                    want[row * size + p] = c * re - n * im;
                    want[row * size + q] = n * re + c * im;
                }
            }
            for level in Level::available() {
                let pool = Pool::new(threads).unwrap().with_level(level);
                let mut out = vec![7.0; x.len()];
                rotary(&pool, r, &x, &cos, &sin, given.then_some(&ids[..]), &mut out).unwrap();
                for (i, (g, w)) in out.iter().zip(&want).enumerate() {
                    prop_assert!((g - w).abs() <= 1e-6 * w.abs().max(1.0), "{i}: {g} for {w}");
                }
            }
        }
    }

    #[test]
    fn misfits_are_errors() {
        let (pool, x) = (Pool::serial(), [1.0; 8]);
        let mut out = [0.0; 8];
        let r = Rotary {
            batch: 1,
            heads: 1,
            rows: 2,
            size: 4,
            rotated: 4,
            heads_first: true,
            interleaved: false,
        };
        assert!(rotary(&pool, r, &x, &x[..4], &x[..4], None, &mut out).is_ok());
        assert!(rotary(&pool, Rotary { rotated: 6, ..r }, &x, &x, &x, None, &mut out).is_err());
        assert!(rotary(&pool, r, &x, &x[..4], &x[..2], None, &mut out).is_err());
        assert!(rotary(&pool, r, &x, &x[..4], &x[..4], Some(&[0, 2]), &mut out).is_err());
        assert!(rotary(&pool, r, &x, &x[..4], &x[..4], Some(&[0, -1]), &mut out).is_err());
    }
}
