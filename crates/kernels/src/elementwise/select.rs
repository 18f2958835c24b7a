//! Choosing between two operands element by element.

use super::GRAIN;
use super::binary::{broadcast_strides, collapse};
use crate::error::{KernelError, exact, product};
use crate::threads::{Pool, Shards};

/// `out = condition ? a : b` with all three broadcast to `out_dims` (all row-major).
pub fn select<T: Copy + Send + Sync>(
    pool: &Pool,
    (condition, condition_dims): (&[bool], &[usize]),
    (a, a_dims): (&[T], &[usize]),
    (b, b_dims): (&[T], &[usize]),
    (out, out_dims): (&mut [T], &[usize]),
) -> Result<(), KernelError> {
    let total = product("output", out_dims)?;
    exact("output", out, total)?;
    exact("condition", condition, product("condition", condition_dims)?)?;
    exact("first operand", a, product("first operand", a_dims)?)?;
    exact("second operand", b, product("second operand", b_dims)?)?;
    let c_strides = broadcast_strides(condition_dims, out_dims)?;
    let a_strides = broadcast_strides(a_dims, out_dims)?;
    let b_strides = broadcast_strides(b_dims, out_dims)?;
    if total == 0 {
        return Ok(());
    }
    // The axes may only merge where all three operands agree, so outer axes are walked one by one.
    let Some((&inner, outer)) = out_dims.split_last() else {
        out[0] = if condition[0] { a[0] } else { b[0] };
        return Ok(());
    };
    let shards = Shards::new(out);
    let last = outer.len();
    let (cs, sa, sb) = (c_strides[last], a_strides[last], b_strides[last]);
    let contiguous = collapse(out_dims, &c_strides, &a_strides).len() == 1
        && collapse(out_dims, &c_strides, &b_strides).len() == 1
        && [cs, sa, sb] == [1, 1, 1];
    if contiguous {
        pool.split(total, GRAIN, |r| {
            // SAFETY: the ranges of a split are disjoint.
            let out = unsafe { shards.part(r.start, r.len()) };
            let operands = condition[r.clone()].iter().zip(a[r.clone()].iter().zip(&b[r]));
            out.iter_mut().zip(operands).for_each(|(o, (&c, (&a, &b)))| *o = if c { a } else { b });
        });
        return Ok(());
    }
    let rows = total / inner;
    pool.split(rows, GRAIN.div_ceil(inner), |r| {
        for row in r {
            let (mut rest, mut co, mut ao, mut bo) = (row, 0, 0, 0);
            for (i, &d) in outer.iter().enumerate().rev() {
                let index = rest % d;
                rest /= d;
                co += index * c_strides[i];
                ao += index * a_strides[i];
                bo += index * b_strides[i];
            }
            // SAFETY: every row is taken once, and rows are disjoint.
            let out = unsafe { shards.part(row * inner, inner) };
            for (j, o) in out.iter_mut().enumerate() {
                *o = if condition[co + j * cs] { a[ao + j * sa] } else { b[bo + j * sb] };
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selects_with_broadcasting() {
        let pool = Pool::new(2).unwrap();
        let (n, m) = (70, 900);
        let c: Vec<bool> = (0..m).map(|i| i % 3 == 0).collect();
        let a: Vec<i64> = (0..n as i64).collect();
        let mut out = vec![0i64; n * m];
        select(&pool, (&c, &[m]), (&a, &[n, 1]), (&[-1], &[]), (&mut out, &[n, m])).unwrap();
        for i in 0..n {
            for j in 0..m {
                assert_eq!(out[i * m + j], if j % 3 == 0 { i as i64 } else { -1 });
            }
        }
        let x: Vec<i64> = (0..(n * m) as i64).collect();
        let cond: Vec<bool> = x.iter().map(|v| v % 2 == 0).collect();
        select(&pool, (&cond, &[n, m]), (&x, &[n, m]), (&vec![7; n * m], &[n, m]), (&mut out, &[n, m]))
            .unwrap();
        assert!((0..n * m).all(|i| out[i] == if i % 2 == 0 { i as i64 } else { 7 }));
        let mut one = [0u8];
        select(&pool, (&[true], &[]), (&[3u8], &[]), (&[4u8], &[]), (&mut one, &[])).unwrap();
        assert_eq!(one, [3]);
        select(&pool, (&[], &[0]), (&[3u8], &[]), (&[4u8], &[]), (&mut [], &[0])).unwrap();
        assert!(
            select(&pool, (&[true; 2], &[2]), (&[3u8], &[]), (&[4u8], &[]), (&mut [0; 3], &[3])).is_err()
        );
    }
}
