use super::OpDef;
use crate::{
    dim::{Dim, Expr},
    error::InferError,
    infer::{InferCx, axis, refuse},
    op_attrs,
    types::{Dims, TensorType, Type},
};
use tensormill_tensor::DType;

/// The type of the elements of a sequence operand.
fn element<'a>(cx: &InferCx<'a>, i: usize) -> Result<&'a Type, InferError> {
    match cx.fact(i)?.ty {
        Type::Sequence(t) => Ok(t),
        ty => refuse(format!("operand {i} must be a sequence, not {ty}")),
    }
}

/// The type of a tensor operand that joins elements of a type.
fn joined(cx: &InferCx<'_>, element: &Type, i: usize) -> Result<Type, InferError> {
    let ty = cx.fact(i)?.ty;
    element.join(ty).ok_or_else(|| InferError::new(format!("{ty} does not join a sequence of {element}")))
}

/// A place in a sequence: one integer, if it is given.
fn position(cx: &InferCx<'_>, i: usize) -> Result<(), InferError> {
    match cx.opt_tensor(i)? {
        Some(t) if !matches!(t.dtype, DType::I32 | DType::I64) || t.rank().is_some_and(|r| r > 1) => {
            refuse(format!("operand {i} must be one i32 or i64"))
        }
        _ => Ok(()),
    }
}

op_attrs! {
    /// A sequence of the operands. Operands: one or more tensors of one dtype.
    SequenceConstruct {}
}

impl OpDef for SequenceConstruct {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        let mut ty = Type::from(cx.tensor(0)?.clone());
        for i in 1..cx.len() {
            ty = joined(cx, &ty, i)?;
        }
        cx.output(Type::Sequence(Box::new(ty)));
        Ok(())
    }
}

op_attrs! {
    /// A sequence of no tensors. No operands.
    SequenceEmpty {
        /// The dtype of the tensors that it may get.
        dtype: DType = DType::F32,
    }
}

impl OpDef for SequenceEmpty {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(0..=0)?;
        cx.output(Type::Sequence(Box::new(TensorType::unranked(self.dtype).into())));
        Ok(())
    }
}

op_attrs! {
    /// A sequence with one more tensor. Operands: sequence, tensor, the place before which it comes
    /// (optional: at the end; counts from the end when negative).
    SequenceInsert {}
}

impl OpDef for SequenceInsert {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(2..=3)?;
        cx.tensor(1)?;
        position(cx, 2)?;
        let ty = joined(cx, element(cx, 0)?, 1)?;
        cx.output(Type::Sequence(Box::new(ty)));
        Ok(())
    }
}

op_attrs! {
    /// A sequence without one of its tensors. Operands: sequence, the place (optional: the last; counts
    /// from the end when negative).
    SequenceErase {}
}

impl OpDef for SequenceErase {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(1..=2)?;
        position(cx, 1)?;
        let ty = element(cx, 0)?.clone();
        cx.output(Type::Sequence(Box::new(ty)));
        Ok(())
    }
}

op_attrs! {
    /// A tensor of a sequence. Operands: sequence, the place, which counts from the end when negative.
    SequenceAt {}
}

impl OpDef for SequenceAt {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(2..=2)?;
        cx.tensor(1)?;
        position(cx, 1)?;
        cx.output(element(cx, 0)?.clone());
        Ok(())
    }
}

op_attrs! {
    /// The number of tensors, as an i64 scalar. Operand: sequence.
    SequenceLength {}
}

impl OpDef for SequenceLength {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(1..=1)?;
        element(cx, 0)?;
        cx.output(TensorType::new(DType::I64, []));
        Ok(())
    }
}

op_attrs! {
    /// A tensor cut into a sequence. Operands: x, sizes (optional: 1; a scalar is the size of every part but
    /// perhaps the last, a vector the sizes of all).
    SplitToSequence {
        /// The axis; may count from the end.
        axis: i64 = 0,
        /// Whether parts of size 1 keep the axis; only asked where no sizes are given.
        keepdims: bool = true,
    }
}

impl OpDef for SplitToSequence {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(1..=2)?;
        let x = cx.tensor(0)?;
        let sizes = cx.opt_tensor(1)?;
        if sizes.is_some_and(|t| !matches!(t.dtype, DType::I32 | DType::I64)) {
            return refuse("sizes must be i32 or i64");
        }
        let mut dims = x.dims.clone();
        if let Some(d) = &mut dims {
            let a = axis(self.axis, d.len())?;
            match sizes {
                None if self.keepdims => d[a] = Dim::Known(1),
                None => drop(d.remove(a)),
                Some(_) => d[a] = Dim::Unknown,
            }
        }
        cx.output(Type::Sequence(Box::new(TensorType { dtype: x.dtype, dims }.into())));
        Ok(())
    }
}

op_attrs! {
    /// The tensors of a sequence one after the other. Operand: sequence.
    ConcatFromSequence {
        /// The axis; may count from the end.
        axis: i64 = 0,
        /// Whether it is a new one.
        new_axis: bool = false,
    }
}

impl OpDef for ConcatFromSequence {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(1..=1)?;
        let ty = element(cx, 0)?;
        let Some(t) = ty.as_tensor() else { return refuse(format!("only tensors are joined, not {ty}")) };
        let dims = match &t.dims {
            None => None,
            Some(d) => {
                let mut d: Dims = d.clone();
                let a = axis(self.axis, d.len() + usize::from(self.new_axis))?;
                if self.new_axis {
                    d.insert(a, Dim::Unknown);
                } else {
                    d[a] = Dim::Unknown;
                }
                Some(d)
            }
        };
        cx.output(TensorType { dtype: t.dtype, dims });
        Ok(())
    }
}

op_attrs! {
    /// A value as an optional, or the optional without one. Operand: the value (optional).
    OptionalOf {
        /// The type of the value that is not there.
        of: Option<Type> = None,
    }
}

impl OpDef for OptionalOf {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(0..=1)?;
        let ty = match (cx.opt(0), &self.of) {
            (Some(f), _) => f.ty.clone(),
            (None, Some(t)) => t.clone(),
            (None, None) => return refuse("needs a value or the type of one"),
        };
        if matches!(ty, Type::Optional(_)) {
            return refuse(format!("{ty} is an optional already"));
        }
        cx.output(Type::Optional(Box::new(ty)));
        Ok(())
    }
}

op_attrs! {
    /// Whether an optional has a value, as a bool scalar; what is no optional has one. Operand: x.
    OptionalHasElement {}
}

impl OpDef for OptionalHasElement {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(1..=1)?;
        let certain = !matches!(cx.fact(0)?.ty, Type::Optional(_));
        cx.output_elements(TensorType::new(DType::Bool, []), certain.then(|| vec![Expr::constant(1)]));
        Ok(())
    }
}

op_attrs! {
    /// The value of an optional, which must be there; what is no optional is the value itself. Operand: x.
    OptionalGetElement {}
}

impl OpDef for OptionalGetElement {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(1..=1)?;
        cx.output(match cx.fact(0)?.ty {
            Type::Optional(t) => (**t).clone(),
            t => t.clone(),
        });
        Ok(())
    }
}
