use crate::{Element, Tensor, TensorError};
use ndarray::{ArrayBase, ArrayD, Data, Dimension, IxDyn};

/// Tensors from and to arrays of the `ndarray` crate.
///
/// ```
/// use tensormill::{ArrayExt, Tensor};
/// let a = ndarray::array![[1.0f32, 2.0], [3.0, 4.0]];
/// let t = Tensor::from_array(&a.t())?;
/// assert_eq!(t.to_slice::<f32>()?[1], 3.0);
/// assert_eq!(t.to_array::<f32>()?, a.t().into_dyn());
/// # Ok::<(), tensormill::TensorError>(())
/// ```
pub trait ArrayExt: Sized {
    /// A tensor of an array's elements, copied into row-major order.
    ///
    /// # Errors
    /// [`TensorError::Overflow`] when the size is beyond the address space.
    fn from_array<T: Element, S: Data<Elem = T>, D: Dimension>(
        array: &ArrayBase<S, D>,
    ) -> Result<Self, TensorError>;

    /// An array of a copy of the elements.
    ///
    /// # Errors
    /// [`TensorError::DType`] when the elements are not `T`.
    fn to_array<T: Element>(&self) -> Result<ArrayD<T>, TensorError>;
}

impl ArrayExt for Tensor {
    fn from_array<T: Element, S: Data<Elem = T>, D: Dimension>(
        array: &ArrayBase<S, D>,
    ) -> Result<Self, TensorError> {
        Tensor::from_vec(array.shape(), array.iter().copied().collect::<Vec<T>>())
    }

    fn to_array<T: Element>(&self) -> Result<ArrayD<T>, TensorError> {
        let data = self.to_slice::<T>()?.into_owned();
        let len = data.len();
        ArrayD::from_shape_vec(IxDyn(self.shape().dims()), data).map_err(|_| TensorError::Length {
            shape: self.shape().to_vec(),
            dtype: self.dtype(),
            expected: self.len(),
            actual: len,
        })
    }
}
