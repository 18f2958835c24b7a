//! Softmax and its kin.

use super::OpDef;
use crate::{
    error::InferError,
    infer::{InferCx, axis, refuse},
    op_attrs,
};

macro_rules! along_axis {
    ($($(#[$meta:meta])* $name:ident,)*) => {$(
        op_attrs! {
            $(#[$meta])*
            $name {
                /// The axis; may count from the end.
                axis: i64 = -1,
            }
        }

        impl OpDef for $name {
            fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
                cx.arity(1..=1)?;
                let x = cx.tensor(0)?;
                if !x.dtype.is_float() {
                    return refuse(format!("is not defined for {}", x.dtype));
                }
                if let Some(rank) = x.rank() {
                    axis(self.axis, rank)?;
                }
                cx.output(x.clone());
                Ok(())
            }
        }
    )*};
}

along_axis! {
    /// `exp(x) / sum(exp(x))` along an axis, computed from the largest element. Operand: x.
    Softmax,
    /// The logarithm of the softmax, computed without it. Operand: x.
    LogSoftmax,
    /// 1 at the first largest element along an axis, 0 elsewhere. Operand: x.
    Hardmax,
}
