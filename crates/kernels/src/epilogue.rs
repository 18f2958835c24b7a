//! What happens to a piece of output while it is still in cache: bias, activation, residual.
//!
//! The output is seen as rows and columns: a matrix product's own, or for a convolution one row per
//! output channel and one column per position. Batches repeat rows and columns.

use crate::elementwise::{BinaryOp, UnaryOp};
use crate::error::{KernelError, at_least, exact, extent};
use crate::simd::Level;

/// The further operand of a binary step.
#[derive(Debug, Clone, Copy)]
pub enum Operand<'a> {
    /// One number for all.
    Scalar(f32),
    /// One number for each row (for a convolution: each output channel).
    PerRow(&'a [f32]),
    /// One number for each column.
    PerColumn(&'a [f32]),
    /// One number for each element, in dense rows.
    Full(&'a [f32]),
    /// One number for each element, in rows that lie further apart than they are long.
    Pitched {
        /// From the first element to the last.
        data: &'a [f32],
        /// Floats from one row to the next.
        pitch: usize,
    },
}

/// One step of an epilogue.
#[derive(Debug, Clone, Copy)]
pub enum Step<'a> {
    /// `x = op(x)`
    Unary(UnaryOp),
    /// `x = op(x, operand)`, or `op(operand, x)` if `reversed`.
    Binary {
        /// The function.
        op: BinaryOp,
        /// The operand beside the output.
        operand: Operand<'a>,
        /// Whether the operand comes first.
        reversed: bool,
    },
}

impl<'a> Step<'a> {
    /// Adds a number per column.
    pub fn bias_columns(bias: &'a [f32]) -> Step<'a> {
        Step::Binary { op: BinaryOp::Add, operand: Operand::PerColumn(bias), reversed: false }
    }

    /// Adds a number per row.
    pub fn bias_rows(bias: &'a [f32]) -> Step<'a> {
        Step::Binary { op: BinaryOp::Add, operand: Operand::PerRow(bias), reversed: false }
    }

    /// Adds another array of the output's shape.
    pub fn residual(data: &'a [f32]) -> Step<'a> {
        Step::Binary { op: BinaryOp::Add, operand: Operand::Full(data), reversed: false }
    }
}

/// Steps applied in order to every element of an output.
#[derive(Debug, Clone, Copy, Default)]
pub struct Epilogue<'a> {
    /// The steps.
    pub steps: &'a [Step<'a>],
}

impl<'a> Epilogue<'a> {
    /// Leaves the output as it is.
    pub const NONE: Epilogue<'static> = Epilogue { steps: &[] };

    /// These steps.
    pub fn new(steps: &'a [Step<'a>]) -> Epilogue<'a> {
        Epilogue { steps }
    }

    /// Fails unless every operand fits an output of `rows` by `columns` in an array of `len`.
    pub(crate) fn check(&self, rows: usize, columns: usize, len: usize) -> Result<(), KernelError> {
        for step in self.steps {
            if let Step::Binary { operand, .. } = step {
                match operand {
                    Operand::Scalar(_) => {}
                    Operand::PerRow(v) => exact("epilogue's operand per row", v, rows)?,
                    Operand::PerColumn(v) => exact("epilogue's operand per column", v, columns)?,
                    Operand::Full(v) => exact("epilogue's full operand", v, len)?,
                    Operand::Pitched { data, pitch } => {
                        let what = "epilogue's operand with a pitch";
                        if *pitch < columns {
                            return Err(KernelError::Shape("epilogue: a pitch below the columns"));
                        }
                        at_least(what, data, extent(what, &[rows, columns], &[*pitch, 1])?)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Applies the steps to a piece of one row that starts at `column`; `offset` is where the piece
    /// starts in the output array.
    pub(crate) fn apply(&self, level: Level, piece: &mut [f32], row: usize, column: usize, offset: usize) {
        for step in self.steps {
            match *step {
                Step::Unary(op) => op.apply(level, piece),
                Step::Binary { op, operand, reversed } => match operand {
                    Operand::Scalar(s) => op.apply_scalar(level, piece, s, reversed),
                    Operand::PerRow(v) => op.apply_scalar(level, piece, v[row], reversed),
                    Operand::PerColumn(v) => {
                        let n = piece.len();
                        op.apply(level, piece, &v[column..column + n], reversed);
                    }
                    Operand::Full(v) => {
                        let n = piece.len();
                        op.apply(level, piece, &v[offset..offset + n], reversed);
                    }
                    Operand::Pitched { data, pitch } => {
                        let n = piece.len();
                        op.apply(level, piece, &data[row * pitch + column..][..n], reversed);
                    }
                },
            }
        }
    }
}
