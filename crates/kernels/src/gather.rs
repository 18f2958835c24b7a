//! Selection of rows by index.

use crate::error::{KernelError, exact, product};
use crate::threads::{Pool, Shards};

/// `out[o][i] = x[o][indices[i]]` for rows of `inner` elements: `x` is `[outer, axis, inner]`, `out` is
/// `[outer, indices, inner]`. Negative indices count from the end.
pub fn gather_rows<T: Copy + Send + Sync>(
    pool: &Pool,
    x: &[T],
    [outer, axis, inner]: [usize; 3],
    indices: &[i64],
    out: &mut [T],
) -> Result<(), KernelError> {
    exact("input", x, product("input", &[outer, axis, inner])?)?;
    exact("output", out, product("output", &[outer, indices.len(), inner])?)?;
    let rows = resolve(indices, axis)?;
    if out.is_empty() {
        return Ok(());
    }
    let shards = Shards::new(out);
    pool.split(outer * rows.len(), (16 * 1024 / inner).max(1), |range| {
        for i in range {
            let from = (i / rows.len() * axis + rows[i % rows.len()]) * inner;
            // SAFETY: every output row is taken once.
            let to = unsafe { shards.part(i * inner, inner) };
            if inner == 1 {
                to[0] = x[from];
            } else {
                to.copy_from_slice(&x[from..from + inner]);
            }
        }
    });
    Ok(())
}

/// Checks indices into an axis and makes negative ones count from the end.
pub fn resolve(indices: &[i64], axis: usize) -> Result<Vec<usize>, KernelError> {
    indices
        .iter()
        .map(|&index| {
            let len = axis as i64;
            let at = if index < 0 { index.checked_add(len) } else { Some(index) };
            at.filter(|&i| 0 <= i && i < len)
                .map(|i| i as usize)
                .ok_or(KernelError::Index { index, len: axis })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn gathers_like_index_arithmetic(
            outer in 0usize..4, axis in 1usize..6, inner in 0usize..9,
            picks in prop::collection::vec(-6i64..6, 0..8), threads in 1usize..3,
        ) {
            let x: Vec<u16> = (0..outer * axis * inner).map(|i| i as u16).collect();
            let mut out = vec![0u16; outer * picks.len() * inner];
            let result = gather_rows(&Pool::new(threads).unwrap(), &x, [outer, axis, inner], &picks, &mut out);
            let len = axis as i64;
            if let Some(&bad) = picks.iter().find(|&&p| p >= len || p < -len) {
                prop_assert_eq!(result, Err(KernelError::Index { index: bad, len: axis }));
            } else {
                result.unwrap();
                for o in 0..outer { for (i, &p) in picks.iter().enumerate() { for j in 0..inner {
                    let row = if p < 0 { p + len } else { p } as usize;
                    prop_assert_eq!(out[(o * picks.len() + i) * inner + j], x[(o * axis + row) * inner + j]);
                }}}
            }
        }
    }

    #[test]
    fn extremes_are_errors() {
        let mut out = [0u8; 1];
        for index in [i64::MIN, i64::MAX, 3, -4] {
            let got = gather_rows(&Pool::serial(), &[1u8, 2, 3], [1, 3, 1], &[index], &mut out);
            assert_eq!(got, Err(KernelError::Index { index, len: 3 }));
        }
        assert!(gather_rows(&Pool::serial(), &[1u8, 2, 3], [1, 3, 1], &[0, 1], &mut out).is_err());
    }
}
