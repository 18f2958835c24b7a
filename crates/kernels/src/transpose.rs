//! Permutation of axes for elements of any size.

use crate::copy::row_major;
use crate::error::{KernelError, exact, product};
use crate::threads::{Pool, Shards};

/// Side of a square that is transposed at a time: its rows and columns both stay in cache.
const SIDE: usize = 16;
const GRAIN: usize = 32 * 1024;

/// Up to so many elements, a table of where each comes from is cheaper than loops over axes.
const FEW: usize = 256;

#[derive(Debug, Clone, Copy)]
struct Axis {
    len: usize,
    from: usize,
}

/// A permutation of the axes of arrays of one shape, prepared.
#[derive(Debug, Clone)]
pub struct Transposition {
    total: usize,
    way: Way,
}

#[derive(Debug, Clone)]
enum Way {
    Same,
    /// Where each element comes from.
    Table(Box<[u32]>),
    /// Rows that stay rows.
    Rows {
        outer: Vec<Axis>,
        inner: Axis,
    },
    /// Blocks of the innermost axis by one that lies dense in the input, `across`, whose elements lie `step`
    /// apart in the result; of the other axes, where they go too.
    Blocks {
        across: Axis,
        step: usize,
        inner: Axis,
        others: Vec<(Axis, usize)>,
    },
}

impl Transposition {
    /// Of arrays of shape `dims`, row-major, with their axes in the order of `perm`.
    ///
    /// # Errors
    /// [`KernelError`] for what is no permutation, and sizes beyond the address space.
    pub fn new(dims: &[usize], perm: &[usize]) -> Result<Transposition, KernelError> {
        let mut t = Transposition::by_axes(dims, perm)?;
        if t.total <= FEW && !matches!(t.way, Way::Same) {
            let places: Vec<u32> = (0..t.total as u32).collect();
            let mut from = vec![0; t.total];
            t.run(&Pool::serial(), &places, &mut from)?;
            t.way = Way::Table(from.into());
        }
        Ok(t)
    }

    /// As [`Transposition::new`], without a table.
    fn by_axes(dims: &[usize], perm: &[usize]) -> Result<Transposition, KernelError> {
        let total = product("input", dims)?;
        let mut seen = vec![false; dims.len()];
        let valid = perm.len() == dims.len()
            && perm.iter().all(|&p| p < dims.len() && !std::mem::replace(&mut seen[p], true));
        if !valid {
            return Err(KernelError::Shape("transpose: not a permutation of the axes"));
        }
        if total == 0 {
            return Ok(Transposition { total, way: Way::Same });
        }
        let strides = row_major(dims);
        let mut axes: Vec<Axis> = vec![];
        for axis in perm.iter().map(|&p| Axis { len: dims[p], from: strides[p] }).filter(|a| a.len > 1) {
            match axes.last_mut() {
                Some(outer) if outer.from == axis.from * axis.len => {
                    *outer = Axis { len: outer.len * axis.len, from: axis.from };
                }
                _ => axes.push(axis),
            }
        }
        let Some((&inner, outer)) = axes.split_last() else {
            return Ok(Transposition { total, way: Way::Same });
        };
        if inner.from == 1 {
            let way = if outer.is_empty() { Way::Same } else { Way::Rows { outer: outer.into(), inner } };
            return Ok(Transposition { total, way });
        }
        // Some outer axis walks the input contiguously: blocks of it by the innermost are transposed in cache.
        let turn = outer.iter().position(|a| a.from == 1).unwrap_or(outer.len() - 1);
        let to: Vec<usize> = axes.iter().map(|a| a.len).collect();
        let to = row_major(&to);
        let others = (0..outer.len()).filter(|&i| i != turn).map(|i| (outer[i], to[i])).collect();
        let way = Way::Blocks { across: outer[turn], step: to[turn], inner, others };
        Ok(Transposition { total, way })
    }

    /// `out` becomes `x` with its axes permuted.
    ///
    /// # Errors
    /// [`KernelError`] for slices of another length.
    pub fn run<T: Copy + Send + Sync>(&self, pool: &Pool, x: &[T], out: &mut [T]) -> Result<(), KernelError> {
        exact("input", x, self.total)?;
        exact("output", out, self.total)?;
        match &self.way {
            Way::Same => out.copy_from_slice(x),
            Way::Table(from) => out.iter_mut().zip(from).for_each(|(o, &f)| *o = x[f as usize]),
            Way::Rows { outer, inner } => rows(pool, self.total, x, outer, *inner, out),
            Way::Blocks { across, step, inner, others } => {
                blocks(pool, x, (*across, *step), *inner, others, out);
            }
        }
        Ok(())
    }
}

/// `out` becomes `x` (row-major, of shape `dims`) with its axes in the order of `perm`, row-major.
///
/// # Errors
/// As [`Transposition::new`] and [`Transposition::run`].
pub fn transpose<T: Copy + Send + Sync>(
    pool: &Pool,
    x: &[T],
    dims: &[usize],
    perm: &[usize],
    out: &mut [T],
) -> Result<(), KernelError> {
    Transposition::by_axes(dims, perm)?.run(pool, x, out)
}

fn rows<T: Copy + Send + Sync>(
    pool: &Pool,
    total: usize,
    x: &[T],
    outer: &[Axis],
    inner: Axis,
    out: &mut [T],
) {
    let shards = Shards::new(out);
    pool.split(total / inner.len, (GRAIN / inner.len).max(1), |rows| {
        for row in rows {
            let from = offset(outer, row);
            // SAFETY: every row is taken once.
            let to = unsafe { shards.part(row * inner.len, inner.len) };
            // A short row is cheaper element by element than as a call.
            if inner.len <= 8 {
                to.iter_mut().zip(&x[from..from + inner.len]).for_each(|(t, &x)| *t = x);
            } else {
                to.copy_from_slice(&x[from..from + inner.len]);
            }
        }
    });
}

fn blocks<T: Copy + Send + Sync>(
    pool: &Pool,
    x: &[T],
    (across, step): (Axis, usize),
    inner: Axis,
    others: &[(Axis, usize)],
    out: &mut [T],
) {
    let shards = Shards::new(out);
    let bands = across.len.div_ceil(SIDE);
    let count: usize = others.iter().map(|o| o.0.len).product::<usize>() * bands;
    pool.split(count, (GRAIN / (inner.len * SIDE)).max(1), |range| {
        for task in range {
            let (mut rest, band) = (task / bands, task % bands);
            let (mut from, mut to) = (0, 0);
            for &(axis, stride) in others.iter().rev() {
                from += rest % axis.len * axis.from;
                to += rest % axis.len * stride;
                rest /= axis.len;
            }
            let rows = band * SIDE..((band + 1) * SIDE).min(across.len);
            for first in (0..inner.len).step_by(SIDE) {
                let n = SIDE.min(inner.len - first);
                for r in rows.clone() {
                    // SAFETY: this stretch belongs to one row of one task.
                    let to = unsafe { shards.part(to + r * step + first, n) };
                    let start = from + r * across.from + first * inner.from;
                    for (i, t) in to.iter_mut().enumerate() {
                        *t = x[start + i * inner.from];
                    }
                }
            }
        }
    });
}

fn offset(axes: &[Axis], mut row: usize) -> usize {
    let mut at = 0;
    for axis in axes.iter().rev() {
        at += row % axis.len * axis.from;
        row /= axis.len;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check<T: Copy + Send + Sync + PartialEq + std::fmt::Debug>(
        pool: &Pool,
        dims: &[usize],
        perm: &[usize],
        value: impl Fn(usize) -> T,
    ) {
        let total: usize = dims.iter().product();
        let x: Vec<T> = (0..total).map(&value).collect();
        let mut out = vec![value(999); total];
        transpose(pool, &x, dims, perm, &mut out).unwrap();
        let mut prepared = vec![value(998); total];
        Transposition::new(dims, perm).unwrap().run(pool, &x, &mut prepared).unwrap();
        assert_eq!(out, prepared, "{dims:?} {perm:?}");
        let strides = row_major(dims);
        for (flat, got) in out.iter().enumerate() {
            let (mut rest, mut at) = (flat, 0);
            for &p in perm.iter().rev() {
                at += rest % dims[p] * strides[p];
                rest /= dims[p];
            }
            assert_eq!(*got, x[at], "{dims:?} {perm:?} {flat}");
        }
    }

    proptest! {
        #[test]
        fn any_permutation_of_any_size(
            (dims, perm) in prop::collection::vec(0usize..7, 0..6)
                .prop_flat_map(|d| { let n = d.len(); (Just(d), Just((0..n).collect::<Vec<_>>()).prop_shuffle()) }),
            threads in 1usize..3, grow in 0usize..6,
        ) {
            let mut dims = dims;
            if let Some(d) = dims.get_mut(grow) { *d *= 11; }
            let pool = Pool::new(threads).unwrap();
            check(&pool, &dims, &perm, |i| i as u8);
            check(&pool, &dims, &perm, |i| i as u16);
            check(&pool, &dims, &perm, |i| i as f32);
            check(&pool, &dims, &perm, |i| [i as u64, 7]);
        }
    }

    #[test]
    fn attention_and_layout_shapes() {
        let pool = Pool::new(2).unwrap();
        check(&pool, &[2, 33, 4, 16], &[0, 2, 1, 3], |i| i as f32);
        check(&pool, &[2, 33, 4, 16], &[0, 2, 3, 1], |i| i as f32);
        check(&pool, &[1, 19, 31, 37], &[0, 2, 3, 1], |i| i as f32);
        check(&pool, &[300, 500], &[1, 0], |i| i as f32);
    }

    #[test]
    fn misfits_are_errors() {
        let (pool, mut out) = (Pool::serial(), [0u8; 6]);
        for perm in [&[0usize, 0][..], &[0], &[0, 2], &[0, 1, 2]] {
            assert!(transpose(&pool, &[0u8; 6], &[2, 3], perm, &mut out).is_err());
        }
        assert!(transpose(&pool, &[0u8; 5], &[2, 3], &[1, 0], &mut out).is_err());
    }
}
