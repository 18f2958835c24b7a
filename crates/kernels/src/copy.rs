//! Strided copies: concatenation, slicing, splitting, padding's interior, expansion.

use crate::error::{KernelError, at_least, extent, product};
use crate::threads::{Pool, Shards};
use smallvec::SmallVec;

/// Elements in a piece of a parallel copy.
const GRAIN: usize = 64 * 1024;

/// Where a box of elements lies in an array.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// Place of the first element.
    pub offset: usize,
    /// Step along each axis: 0 repeats, negative walks backwards.
    pub strides: &'a [isize],
}

/// Where a box of elements goes in an array.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Place of the first element.
    pub offset: usize,
    /// Step along each axis. No two elements may go to the same place: along axes longer than 1, each
    /// stride must reach past everything that smaller strides cover.
    pub strides: &'a [usize],
}

#[derive(Clone, Copy)]
struct Axis {
    len: usize,
    from: isize,
    to: usize,
}

/// Copies a box of `dims` elements from `source` in `x` to `target` in `out`.
pub fn copy_strided<T: Copy + Send + Sync>(
    pool: &Pool,
    dims: &[usize],
    x: &[T],
    source: Source<'_>,
    out: &mut [T],
    target: Target<'_>,
) -> Result<(), KernelError> {
    if source.strides.len() != dims.len() || target.strides.len() != dims.len() {
        return Err(KernelError::Shape("copy: one stride for each axis"));
    }
    let total = product("copy", dims)?;
    if total == 0 {
        return Ok(());
    }
    check_source(dims, source, x.len())?;
    let end = extent("copy target", dims, target.strides)?.checked_add(target.offset);
    at_least("copy target", out, end.ok_or(KernelError::Overflow("copy target"))?)?;
    check_injective(dims, target.strides)?;

    let axes = collapse(dims, source.strides, target.strides);
    let (inner, outer) = match axes.split_last() {
        Some((inner, outer)) => (*inner, outer),
        None => (Axis { len: 1, from: 1, to: 1 }, &[][..]),
    };
    let shards = Shards::new(out);
    pool.split(total / inner.len, (GRAIN / inner.len).max(1), |rows| {
        let mut index: SmallVec<[usize; 6]> = SmallVec::from_elem(0, outer.len());
        let (mut from, mut to) = (source.offset as isize, target.offset);
        let mut rest = rows.start;
        for (i, axis) in outer.iter().enumerate().rev() {
            index[i] = rest % axis.len;
            rest /= axis.len;
            from += index[i] as isize * axis.from;
            to += index[i] * axis.to;
        }
        for _ in rows {
            copy_row(x, from, &shards, to, inner);
            for (i, axis) in outer.iter().enumerate().rev() {
                index[i] += 1;
                from += axis.from;
                to += axis.to;
                if index[i] < axis.len {
                    break;
                }
                index[i] = 0;
                from -= axis.len as isize * axis.from;
                to -= axis.len * axis.to;
            }
        }
    });
    Ok(())
}

fn copy_row<T: Copy>(x: &[T], from: isize, out: &Shards<'_, T>, to: usize, axis: Axis) {
    let from = from as usize;
    if axis.to == 1 {
        // SAFETY: target places are distinct, and rows are taken once.
        let row = unsafe { out.part(to, axis.len) };
        match axis.from {
            1 => row.copy_from_slice(&x[from..from + axis.len]),
            0 => row.fill(x[from]),
            step if step > 0 => {
                row.iter_mut().zip(x[from..].iter().step_by(step as usize)).for_each(|(o, &x)| *o = x);
            }
            step => {
                let back = x[..=from].iter().rev().step_by(step.unsigned_abs());
                row.iter_mut().zip(back).for_each(|(o, &x)| *o = x);
            }
        }
    } else {
        for i in 0..axis.len {
            // SAFETY: as above.
            unsafe {
                out.part(to + i * axis.to, 1)[0] = x[(from as isize + i as isize * axis.from) as usize];
            }
        }
    }
}

/// Fails unless every source element lies in an array of `len`.
fn check_source(dims: &[usize], source: Source<'_>, len: usize) -> Result<(), KernelError> {
    let outside = KernelError::Shape("copy: the source lies outside its array");
    let (mut low, mut high) = (source.offset as i128, source.offset as i128);
    for (&d, &s) in dims.iter().zip(source.strides) {
        let reach = (d as i128 - 1) * s as i128;
        if s < 0 {
            low += reach;
        } else {
            high += reach;
        }
    }
    if low >= 0 && high < len as i128 { Ok(()) } else { Err(outside) }
}

fn check_injective(dims: &[usize], strides: &[usize]) -> Result<(), KernelError> {
    let mut axes: SmallVec<[(usize, usize); 6]> =
        strides.iter().copied().zip(dims.iter().copied()).filter(|&(_, d)| d > 1).collect();
    axes.sort_unstable();
    let mut covered = 1usize;
    for (stride, len) in axes {
        if stride < covered {
            return Err(KernelError::Shape("copy: targets may overlap"));
        }
        covered += (len - 1) * stride;
    }
    Ok(())
}

fn collapse(dims: &[usize], from: &[isize], to: &[usize]) -> SmallVec<[Axis; 6]> {
    let mut axes: SmallVec<[Axis; 6]> = SmallVec::new();
    for i in 0..dims.len() {
        if dims[i] == 1 {
            continue;
        }
        let axis = Axis { len: dims[i], from: from[i], to: to[i] };
        match axes.last_mut() {
            Some(outer)
                if axis.from.checked_mul(axis.len as isize) == Some(outer.from)
                    && axis.to.checked_mul(axis.len) == Some(outer.to) =>
            {
                *outer = Axis { len: outer.len * axis.len, ..axis };
            }
            _ => axes.push(axis),
        }
    }
    axes
}

/// Repeats a row-major operand of shape `dims` over `out_dims` by the rules of broadcasting.
pub fn expand<T: Copy + Send + Sync>(
    pool: &Pool,
    (x, dims): (&[T], &[usize]),
    (out, out_dims): (&mut [T], &[usize]),
) -> Result<(), KernelError> {
    crate::error::exact("operand", x, product("operand", dims)?)?;
    crate::error::exact("output", out, product("output", out_dims)?)?;
    let strides = crate::elementwise::broadcast_strides(dims, out_dims)?;
    let from: SmallVec<[isize; 6]> = strides.iter().map(|&s| s as isize).collect();
    let to = row_major(out_dims);
    copy_strided(
        pool,
        out_dims,
        x,
        Source { offset: 0, strides: &from },
        out,
        Target { offset: 0, strides: &to },
    )
}

/// Strides of a dense row-major array. Saturates where sizes overflow; checks reject such sizes.
pub fn row_major(dims: &[usize]) -> SmallVec<[usize; 6]> {
    let mut strides: SmallVec<[usize; 6]> = SmallVec::from_elem(1, dims.len());
    for i in (1..dims.len()).rev() {
        strides[i - 1] = strides[i].saturating_mul(dims[i].max(1));
    }
    strides
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn slices_match_index_arithmetic(
            axes in prop::collection::vec((1usize..6, -3isize..4, 0usize..6), 0..4), lead in 0usize..3, threads in 1usize..3,
        ) {
            // A slice of each axis with a step of either sign (0 repeats), into a part of a larger array.
            let whole: Vec<usize> = axes.iter().map(|a| a.0).collect();
            let strides = row_major(&whole);
            let x: Vec<i64> = (0..whole.iter().product::<usize>() as i64).collect();
            let (mut offset, mut dims, mut from) = (0, Vec::new(), Vec::new());
            for (i, &(len, step, limit)) in axes.iter().enumerate() {
                let count = if step == 0 { limit } else { len.div_ceil(step.unsigned_abs()).min(limit) };
                if step < 0 { offset += (len - 1) * strides[i]; }
                dims.push(count);
                from.push(step * strides[i] as isize);
            }
            let big: Vec<usize> = dims.iter().map(|d| d + lead).collect();
            let to = row_major(&big);
            let start = lead * to.iter().sum::<usize>();
            let mut out = vec![-1i64; big.iter().product::<usize>().max(start + 1)];
            let pool = Pool::new(threads).unwrap();
            copy_strided(&pool, &dims, &x, Source { offset, strides: &from }, &mut out, Target { offset: start, strides: &to }).unwrap();
            let mut want = vec![-1i64; out.len()];
            for flat in 0..dims.iter().product::<usize>() {
                let (mut rest, mut f, mut t) = (flat, offset as isize, start);
                for i in (0..dims.len()).rev() {
                    f += (rest % dims[i]) as isize * from[i];
                    t += rest % dims[i] * to[i];
                    rest /= dims[i];
                }
                want[t] = x[f as usize];
            }
            prop_assert_eq!(out, want);
        }
    }

    #[test]
    fn transposing_targets_and_expansion() {
        let (pool, x) = (Pool::new(2).unwrap(), [1, 2, 3, 4, 5, 6]);
        let mut out = [0; 6];
        let source = Source { offset: 0, strides: &[3, 1] };
        copy_strided(&pool, &[2, 3], &x, source, &mut out, Target { offset: 0, strides: &[1, 2] }).unwrap();
        assert_eq!(out, [1, 4, 2, 5, 3, 6]);
        let mut wide = [0; 12];
        expand(&pool, (&x[..2], &[2, 1]), (&mut wide, &[2, 2, 3])).unwrap();
        assert_eq!(wide, [1, 1, 1, 2, 2, 2, 1, 1, 1, 2, 2, 2]);
    }

    #[test]
    fn misfits_are_errors() {
        let (pool, x) = (Pool::serial(), [0u8; 6]);
        let mut out = [0u8; 6];
        let mut run = |dims: &[usize], offset, from: &[isize], start, to: &[usize]| {
            copy_strided(
                &pool,
                dims,
                &x,
                Source { offset, strides: from },
                &mut out,
                Target { offset: start, strides: to },
            )
        };
        assert!(run(&[6], 0, &[1], 0, &[1]).is_ok());
        assert!(run(&[6], 1, &[1], 0, &[1]).is_err());
        assert!(run(&[6], 4, &[-1], 0, &[1]).is_err());
        assert!(run(&[6], 0, &[1], 1, &[1]).is_err());
        assert!(run(&[6], 0, &[1], 0, &[0]).is_err());
        assert!(run(&[2, 3], 0, &[3, 1], 0, &[2, 1]).is_err());
        assert!(run(&[2], 0, &[isize::MIN], 0, &[1]).is_err());
        assert!(run(&[2], 0, &[1], 0, &[usize::MAX]).is_err());
        assert!(run(&[2], 0, &[1, 1], 0, &[1]).is_err());
    }
}
