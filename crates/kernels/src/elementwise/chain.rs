//! Several functions one after the other, on pieces that stay in the first-level cache.

use super::{BLOCK, GRAIN};
use crate::epilogue::{Epilogue, Operand, Step};
use crate::error::{KernelError, exact};
use crate::threads::{Pool, Shards};

/// Puts `x`, or what `out` holds when there is no `x`, through the steps. The result is seen as rows of
/// `row` elements.
pub fn chain(
    pool: &Pool,
    x: Option<&[f32]>,
    row: usize,
    out: &mut [f32],
    steps: Epilogue<'_>,
) -> Result<(), KernelError> {
    if let Some(x) = x {
        exact("input", x, out.len())?;
    }
    if out.is_empty() {
        return Ok(());
    }
    if row == 0 || !out.len().is_multiple_of(row) {
        return Err(KernelError::Shape("chain: the rows do not fill the result"));
    }
    steps.check(out.len() / row, row, out.len())?;
    let by_place = |s: &Step<'_>| {
        let Step::Binary { operand, .. } = s else { return false };
        matches!(operand, Operand::PerRow(_) | Operand::PerColumn(_) | Operand::Pitched { .. })
    };
    // Without operands by row or column, rows are as long as anyone likes.
    let row = if steps.steps.iter().any(by_place) { row } else { out.len() };
    let (rows, level) = (out.len() / row, pool.level());
    let shards = Shards::new(out);
    let run = |row_index: usize, from: usize, to: usize| {
        for start in (from..to).step_by(BLOCK) {
            let at = row_index * row + start;
            let len = BLOCK.min(to - start);
            // SAFETY: pieces of rows are disjoint, and each is one task's.
            let piece = unsafe { shards.part(at, len) };
            if let Some(x) = x {
                piece.copy_from_slice(&x[at..at + len]);
            }
            steps.apply(level, piece, row_index, start, at);
        }
    };
    if rows == 1 {
        pool.split(row, GRAIN, |r| run(0, r.start, r.end));
    } else {
        pool.split(rows, (GRAIN / row).max(1), |r| r.for_each(|i| run(i, 0, row)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elementwise::{BinaryOp, UnaryOp};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn as_one_function_after_the_other(rows in 0usize..5, row in 1usize..5000, threads in 1usize..4, in_place in any::<bool>()) {
            let value = |i: usize| ((i * 7919) % 1021) as f32 / 510.0 - 1.0;
            let x: Vec<f32> = (0..rows * row).map(value).collect();
            let full: Vec<f32> = (0..rows * row).map(|i| value(i + 3)).collect();
            let column: Vec<f32> = (0..row).map(|i| value(i + 5)).collect();
            let lines: Vec<f32> = (0..rows).map(|i| value(i + 9)).collect();
            let binary = |op, operand, reversed| Step::Binary { op, operand, reversed };
            let steps = [
                Step::Unary(UnaryOp::Neg),
                binary(BinaryOp::Sub, Operand::Full(&full), true),
                binary(BinaryOp::Mul, Operand::PerColumn(&column), false),
                binary(BinaryOp::Add, Operand::PerRow(&lines), false),
                Step::Unary(UnaryOp::Abs),
                binary(BinaryOp::Max, Operand::Scalar(0.25), false),
            ];
            let pool = Pool::new(threads).unwrap();
            let mut out = if in_place { x.clone() } else { vec![f32::NAN; x.len()] };
            chain(&pool, (!in_place).then_some(&x[..]), row, &mut out, Epilogue::new(&steps)).unwrap();
            for i in 0..x.len() {
                let y = ((full[i] - -x[i]) * column[i % row] + lines[i / row]).abs().max(0.25);
                prop_assert_eq!(out[i].to_bits(), y.to_bits());
            }
        }
    }

    #[test]
    fn rows_that_do_not_fit_are_refused() {
        let mut out = [0.0; 7];
        assert!(chain(&Pool::serial(), None, 2, &mut out, Epilogue::NONE).is_err());
        assert!(chain(&Pool::serial(), Some(&[0.0; 6]), 7, &mut out, Epilogue::NONE).is_err());
    }
}
