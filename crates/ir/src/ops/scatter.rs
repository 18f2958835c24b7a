use super::{
    OpDef,
    gather::{indices, slices},
};
use crate::{
    error::InferError,
    infer::{InferCx, axis, refuse},
    op_attrs,
    types::TensorType,
    word_enum,
};
use tensormill_tensor::DType;

word_enum! {
    /// What an update does to the element that it meets.
    ScatterReduction {
        /// Replaces it; of several updates of one element the last stays.
        None = "replace",
        /// Is added.
        Add = "add",
        /// Is multiplied with it.
        Mul = "mul",
        /// The smaller stays.
        Min = "min",
        /// The larger stays.
        Max = "max",
    }
}

impl ScatterReduction {
    fn check(self, dtype: DType) -> Result<(), InferError> {
        if self == ScatterReduction::None || dtype.is_float() || dtype.is_int() || dtype == DType::Bool {
            return Ok(());
        }
        refuse(format!("`{}` is not defined for {dtype}", self.word()))
    }
}

fn operands<'a>(cx: &InferCx<'a>) -> Result<[&'a TensorType; 3], InferError> {
    cx.arity(3..=3)?;
    let x = cx.tensor(0)?;
    Ok([x, indices(cx, 1)?, cx.typed(2, x.dtype)?])
}

op_attrs! {
    /// x with some elements updated, each at its own place among the updates but for one axis, where the
    /// indices say it. Operands: x, indices, updates; all of one rank, the last two of one shape.
    ScatterElements {
        /// The axis; may count from the end.
        axis: i64 = 0,
        /// What an update does.
        reduction: ScatterReduction = ScatterReduction::None,
    }
}

impl OpDef for ScatterElements {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        let [x, i, updates] = operands(cx)?;
        self.reduction.check(x.dtype)?;
        if let Some(r) = x.rank() {
            axis(self.axis, r)?;
            if [i, updates].iter().any(|t| t.rank().is_some_and(|n| n != r)) {
                return refuse("x, indices and updates must have one rank");
            }
        }
        cx.output(x.clone());
        Ok(())
    }
}

op_attrs! {
    /// x with some slices updated, at the places that the last axis of the indices spells. Operands: x,
    /// indices, updates.
    ScatterND {
        /// What an update does.
        reduction: ScatterReduction = ScatterReduction::None,
    }
}

impl OpDef for ScatterND {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        let [x, i, updates] = operands(cx)?;
        self.reduction.check(x.dtype)?;
        if let (Some(want), Some(rank)) = (slices(x, i, 0)?, updates.rank())
            && want.len() != rank
        {
            return refuse(format!("updates of rank {rank}, not {}", want.len()));
        }
        cx.output(x.clone());
        Ok(())
    }
}

op_attrs! {
    /// A cache with new entries written along an axis, at a place of its own for each sample of the batch,
    /// which is axis 0. Operands: cache, update, places (i64 vector, optional: 0).
    TensorScatter {
        /// The axis, not 0; may count from the end.
        axis: i64 = -2,
        /// Whether places beyond the end go on at the beginning.
        circular: bool = false,
    }
}

impl OpDef for TensorScatter {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(2..=3)?;
        let cache = cx.tensor(0)?;
        let update = cx.typed(1, cache.dtype)?;
        if cx.opt(2).is_some() {
            cx.typed(2, DType::I64)?;
        }
        if let Some(r) = cache.rank() {
            if axis(self.axis, r)? == 0 {
                return refuse("axis 0 is that of the batch");
            }
            if update.rank().is_some_and(|n| n != r) {
                return refuse("cache and update must have one rank");
            }
        }
        cx.output(cache.clone());
        Ok(())
    }
}
