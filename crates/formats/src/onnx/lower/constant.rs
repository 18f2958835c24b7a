//! Constants and what makes them.

use super::{LowerError, NodeCx, Table};
use tensormill_ir::ops::Expand;
use tensormill_tensor::{DType, Tensor};

pub(super) const TABLE: Table = &[("Constant", constant), ("ConstantOfShape", constant_of_shape)];

fn constant(cx: &mut NodeCx<'_, '_>) -> Result<(), LowerError> {
    let made =
        |r: Result<Tensor, tensormill_tensor::TensorError>| r.map_err(|e| LowerError::Operand(e.to_string()));
    let tensor = if cx.has("value") {
        cx.tensor_attribute("value")?
    } else if cx.has("sparse_value") {
        cx.tensor_attribute("sparse_value")?
    } else if let Some(v) = cx.opt_float("value_float")? {
        Some(Tensor::scalar(v))
    } else if let Some(v) = cx.opt_int("value_int")? {
        Some(Tensor::scalar(v))
    } else if let Some(v) = cx.floats("value_floats")? {
        Some(made(Tensor::from_vec([v.len()], v))?)
    } else if let Some(v) = cx.ints("value_ints")? {
        Some(made(Tensor::from_vec([v.len()], v))?)
    } else if let Some(v) = cx.string("value_string")? {
        Some(made(Tensor::from_strings([], vec![v]))?)
    } else if let Some(v) = cx.strings("value_strings")? {
        Some(made(Tensor::from_strings([v.len()], v))?)
    } else {
        None
    };
    let Some(tensor) = tensor else { return cx.bad("value", "is missing, and so is every other value_*") };
    let v = cx.constant(tensor)?;
    cx.set(0, v);
    Ok(())
}

fn constant_of_shape(cx: &mut NodeCx<'_, '_>) -> Result<(), LowerError> {
    let shape = cx.input(0)?;
    let fill = match cx.tensor_attribute("value")? {
        None => Tensor::scalar(0f32),
        Some(t) if t.len() == 1 => t.reshape([]).map_err(|e| LowerError::Operand(e.to_string()))?,
        Some(_) => return cx.bad("value", "must have one element"),
    };
    let fill = cx.constant(fill)?;
    let shape = cx.cast(shape, DType::I64)?;
    let v = cx.op(Expand {}, &[fill, shape])?;
    cx.set(0, v);
    Ok(())
}
