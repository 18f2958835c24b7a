//! An epilogue taken apart: what a tile does in registers, and the steps that are left for afterwards.

use super::activation::Activation;
use super::rows::Rows;
use super::tile::{Finish, MAX_COLUMNS, MAX_ROWS};
use crate::elementwise::{BinaryOp, UnaryOp};
use crate::epilogue::{Epilogue, Operand, Step};
use crate::simd::Level;
use std::ptr::null;

/// Floats that the elementwise loops take at a time.
const GROUP: usize = 64;

/// Room for a few tiles, of either algorithm, on their way through the steps that are left.
pub(crate) struct Side {
    pub tile: [f32; SIDE],
    operand: [f32; SIDE],
}

impl Side {
    pub(crate) fn new() -> Side {
        Side { tile: [0.0; SIDE], operand: [0.0; SIDE] }
    }

    /// Rows of so many columns that there is room for.
    pub(crate) fn rows(columns: usize) -> usize {
        SIDE / columns
    }
}

/// Floats of the largest tile, or of a few others.
const SIDE: usize = 32 * MAX_COLUMNS;
const _: () = assert!(SIDE >= MAX_ROWS * MAX_COLUMNS && SIDE.is_multiple_of(GROUP));

/// The longest beginning of an epilogue that is a bias, a residual and a clamp at zero, and the rest.
#[derive(Clone, Copy)]
pub(crate) struct Parts<'a> {
    bias: Option<&'a [f32]>,
    /// Its elements, and how many lie from one row to the next.
    residual: Option<(&'a [f32], usize)>,
    relu: bool,
    high: Option<f32>,
    /// Comes after the tile's registers and before the rest.
    activation: Option<Activation>,
    rest: &'a [Step<'a>],
    /// Columns of the whole output.
    columns: usize,
}

impl<'a> Parts<'a> {
    pub(crate) fn of(epilogue: Epilogue<'a>, columns: usize) -> Parts<'a> {
        let mut rest = epilogue.steps;
        let (mut bias, mut residual, mut relu, mut high, mut activation) = (None, None, false, None, None);
        if let [Step::Binary { op: BinaryOp::Add, operand: Operand::PerColumn(v), .. }, tail @ ..] = rest {
            (bias, rest) = (Some(*v), tail);
        }
        match rest {
            [Step::Binary { op: BinaryOp::Add, operand: Operand::Full(v), .. }, tail @ ..] => {
                (residual, rest) = (Some((*v, columns)), tail);
            }
            [
                Step::Binary { op: BinaryOp::Add, operand: Operand::Pitched { data, pitch }, .. },
                tail @ ..,
            ] => {
                (residual, rest) = (Some((*data, *pitch)), tail);
            }
            _ => {}
        }
        match rest {
            [Step::Unary(UnaryOp::Relu), tail @ ..] => (relu, rest) = (true, tail),
            // Other limits treat zeros of either sign and NaN in ways of their own.
            [Step::Unary(UnaryOp::Clip(lo, hi)), tail @ ..] if lo.to_bits() == 0 && *hi > 0.0 => {
                (relu, high, rest) = (true, Some(*hi), tail);
            }
            [Step::Unary(UnaryOp::Silu(alpha)), tail @ ..] if alpha.is_finite() => {
                (activation, rest) = (Some(Activation::silu(*alpha)), tail);
            }
            [Step::Unary(UnaryOp::Gelu), tail @ ..] => (activation, rest) = (Some(Activation::Gelu), tail),
            [Step::Unary(UnaryOp::GeluTanh), tail @ ..] => {
                (activation, rest) = (Some(Activation::GeluTanh), tail);
            }
            _ => {}
        }
        Parts { bias, residual, relu, high, activation, rest, columns }
    }

    /// What the tile with this corner does in registers.
    pub(crate) fn finish(&self, row: usize, column: usize) -> Finish {
        Finish {
            bias: self.bias.map_or(null(), |b| b[column..].as_ptr()),
            residual: self.residual.map_or(null(), |(r, pitch)| r[row * pitch + column..].as_ptr()),
            residual_pitch: self.residual.map_or(self.columns, |r| r.1),
            relu: self.relu,
            high: self.high,
        }
    }

    /// Applies the activation that follows the registers' part, if there is one.
    ///
    /// # Safety
    /// The rows are there, and nobody else touches them.
    pub(crate) unsafe fn activate(&self, level: Level, rows: Rows) {
        if let Some(activation) = self.activation {
            // SAFETY: forwarded.
            unsafe { activation.apply(level, rows) };
        }
    }

    /// Tiles of which an activation takes the rows at once: the first vectors of each call wait for what went before.
    pub(crate) fn together(&self) -> usize {
        if self.activation.is_some() && self.complete() { 4 } else { 1 }
    }

    /// Whether nothing is left after the activation.
    pub(crate) fn complete(&self) -> bool {
        self.rest.is_empty()
    }

    /// Applies what is left to a dense piece of `lines` lines of `columns` columns from `column` on; line `i`
    /// is the output's row `row(i)`. Some of the floats behind the piece change as well.
    pub(crate) fn apply_rest(
        &self,
        level: Level,
        side: &mut Side,
        lines: usize,
        columns: usize,
        row: impl Fn(usize) -> usize,
        column: usize,
    ) {
        // Whole groups of vectors: what is left of one would go float by float.
        let whole = (lines * columns).next_multiple_of(GROUP).min(SIDE);
        let Side { tile, operand: other } = side;
        let tile = &mut tile[..whole];
        for step in self.rest {
            let (op, operand, reversed) = match *step {
                Step::Unary(op) => {
                    op.apply(level, tile);
                    continue;
                }
                Step::Binary { op, operand, reversed } => (op, operand, reversed),
            };
            for (i, line) in other[..lines * columns].chunks_exact_mut(columns).enumerate() {
                match operand {
                    Operand::PerColumn(v) => line.copy_from_slice(&v[column..column + columns]),
                    Operand::PerRow(v) => line.fill(v[row(i)]),
                    Operand::Full(v) => {
                        let start = row(i) * self.columns + column;
                        line.copy_from_slice(&v[start..start + columns]);
                    }
                    Operand::Pitched { data, pitch } => {
                        let start = row(i) * pitch + column;
                        line.copy_from_slice(&data[start..start + columns]);
                    }
                    Operand::Scalar(s) => line.fill(s),
                }
            }
            op.apply(level, tile, &other[..whole], reversed);
        }
    }
}
