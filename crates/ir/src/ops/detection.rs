use super::OpDef;
use crate::{
    dim::Dim,
    error::InferError,
    infer::{InferCx, refuse},
    op_attrs,
    types::TensorType,
};
use tensormill_tensor::DType;

op_attrs! {
    /// The best boxes of every batch and class that do not overlap better ones. Operands: boxes
    /// `[batch,boxes,4]`, scores `[batch,classes,boxes]`, greatest number per batch and class (integer
    /// scalar, optional: 0), greatest overlap (float scalar, optional: 0), score to be exceeded (float
    /// scalar, optional). Result: `[found,3]` i64 of batch, class and box.
    NonMaxSuppression {
        /// Whether boxes are x and y of the centre, width, height; otherwise y and x of two corners.
        center_point: bool = false,
    }
}

impl OpDef for NonMaxSuppression {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(2..=5)?;
        for i in 0..2 {
            let t = cx.tensor(i)?;
            if !t.dtype.is_float() || t.rank().is_some_and(|r| r != 3) {
                return refuse(format!("operand {i} must be floats of rank 3"));
            }
        }
        if cx.tensor(0)?.dims.as_ref().and_then(|d| d[2].known()).is_some_and(|n| n != 4) {
            return refuse("a box must have 4 numbers");
        }
        for i in 2..5 {
            if let Some(t) = cx.opt_tensor(i)?
                && (if i == 2 { !t.dtype.is_int() } else { !t.dtype.is_float() })
            {
                return refuse(format!("operand {i} must not be {}", t.dtype));
            }
        }
        cx.output(TensorType::new(DType::I64, [Dim::Unknown, Dim::Known(3)]));
        Ok(())
    }
}
