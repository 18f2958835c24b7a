use crate::{EvalError, elementwise, eval::Operands};
use tensormill_ir::ops::{PostOp, PostOps};
use tensormill_tensor::Tensor;

/// Applies the steps of an epilogue to a result, one after the other.
pub(crate) fn apply(steps: &PostOps, mut y: Tensor, x: &Operands<'_>) -> Result<Tensor, EvalError> {
    for step in &steps.0 {
        y = match *step {
            PostOp::Unary(kind) => elementwise::unary(kind, &y)?,
            PostOp::Binary { kind, operand, swapped } => {
                let b = x.tensor(operand)?;
                let (first, second) = if swapped { (b, &y) } else { (&y, b) };
                elementwise::binary(kind, first, second, x.limits)?
            }
        };
    }
    Ok(y)
}
