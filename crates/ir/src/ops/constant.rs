use super::OpDef;
use crate::{
    attr::{Attr, AttrMap, Attributes},
    dim::Expr,
    error::InferError,
    infer::{InferCx, MAX_ELEMENTS, int_elements},
    types::TensorType,
};
use std::hash::{Hash, Hasher};
use tensormill_tensor::Tensor;

/// A tensor known before any run: weights, and the small numbers between them. No operands.
///
/// Two constants are equal when their bits are. In the text form the tensor follows the name:
/// `const [1, 2]`, or `const @"layer1.weight"` for a tensor beside the text.
#[derive(Debug, Clone)]
pub struct Const {
    /// The tensor.
    pub tensor: Tensor,
}

impl PartialEq for Const {
    fn eq(&self, other: &Self) -> bool {
        self.tensor.same_bits(&other.tensor)
    }
}

impl Eq for Const {}

impl Hash for Const {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.tensor.dtype().hash(state);
        self.tensor.shape().hash(state);
        // A prefix tells weights apart well enough; hashing hundreds of megabytes would not pay.
        let bytes = self.tensor.bytes();
        bytes[..bytes.len().min(256)].hash(state);
    }
}

impl Attributes for Const {
    fn write(&self, _: &mut Vec<(&'static str, Attr)>) {}

    fn read(_: &mut AttrMap) -> Result<Self, String> {
        Err("a constant needs its tensor: `const [..]` or `const @\"name\"`".into())
    }
}

impl OpDef for Const {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(0..=0)?;
        let elements = (self.tensor.len() <= MAX_ELEMENTS)
            .then(|| int_elements(&self.tensor))
            .flatten()
            .map(|v| v.into_iter().map(Expr::constant).collect());
        cx.output_elements(TensorType::of(&self.tensor), elements);
        Ok(())
    }
}
