use crate::{
    DType, Element, Shape, TensorError,
    storage::{Buffer, Storage},
};
use bytes::Bytes;
use std::{borrow::Cow, fmt, sync::Arc};

/// A dense, row-major array. Clones share the data.
#[derive(Clone)]
pub struct Tensor {
    pub(crate) dtype: DType,
    pub(crate) shape: Shape,
    storage: Storage,
}

impl Tensor {
    /// A tensor that takes over `data` without copying it.
    ///
    /// # Errors
    /// [`TensorError::Length`] when `data` does not hold exactly the shape's elements.
    pub fn from_vec<T: Element>(shape: impl Into<Shape>, data: Vec<T>) -> Result<Self, TensorError> {
        let shape = shape.into();
        if shape.checked_numel() != Some(data.len()) {
            return Err(length(&shape, T::DTYPE, shape.numel(), data.len()));
        }
        Ok(Tensor { dtype: T::DTYPE, shape, storage: Storage::Heap(Arc::new(Buffer::from_vec(data))) })
    }

    /// A rank-0 tensor.
    pub fn scalar<T: Element>(value: T) -> Self {
        Tensor {
            dtype: T::DTYPE,
            shape: Shape::default(),
            storage: Storage::Heap(Arc::new(Buffer::from_vec(vec![value]))),
        }
    }

    /// A bool tensor.
    ///
    /// # Errors
    /// As [`Tensor::from_vec`].
    pub fn from_bools(shape: impl Into<Shape>, data: Vec<bool>) -> Result<Self, TensorError> {
        Ok(Tensor::from_vec(shape, data.into_iter().map(u8::from).collect())?.reinterpret(DType::Bool))
    }

    /// A string tensor.
    ///
    /// # Errors
    /// As [`Tensor::from_vec`].
    pub fn from_strings(shape: impl Into<Shape>, data: Vec<String>) -> Result<Self, TensorError> {
        let shape = shape.into();
        if shape.checked_numel() != Some(data.len()) {
            return Err(length(&shape, DType::Str, shape.numel(), data.len()));
        }
        Ok(Tensor { dtype: DType::Str, shape, storage: Storage::Strings(Arc::new(data)) })
    }

    /// A tensor over bytes in ONNX order: little-endian, row-major, sub-byte elements packed low bits
    /// first. The bytes are shared, not copied, and need no alignment.
    ///
    /// # Errors
    /// [`TensorError::Length`] unless `data` has exactly the bytes the shape asks for;
    /// [`TensorError::Unsupported`] for strings.
    pub fn from_bytes(dtype: DType, shape: impl Into<Shape>, data: Bytes) -> Result<Self, TensorError> {
        let shape = shape.into();
        let expected = byte_len(dtype, &shape)?;
        if expected != data.len() {
            return Err(length(&shape, dtype, expected, data.len()));
        }
        Ok(Tensor { dtype, shape, storage: Storage::Shared(data) })
    }

    /// Zeros (false, empty strings), aligned to [`ALIGNMENT`](crate::ALIGNMENT).
    ///
    /// # Errors
    /// [`TensorError::Overflow`] when the size is beyond the address space.
    pub fn zeros(dtype: DType, shape: impl Into<Shape>) -> Result<Self, TensorError> {
        let shape = shape.into();
        let overflow = || TensorError::Overflow { shape: shape.to_vec(), dtype };
        let storage = if dtype == DType::Str {
            Storage::Strings(Arc::new(vec![String::new(); shape.checked_numel().ok_or_else(overflow)?]))
        } else {
            Storage::Heap(Arc::new(Buffer::zeroed(byte_len(dtype, &shape)?).ok_or_else(overflow)?))
        };
        Ok(Tensor { dtype, shape, storage })
    }

    /// The element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The sizes of the axes.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.numel()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The raw bytes in ONNX order; empty for strings.
    pub fn bytes(&self) -> &[u8] {
        match &self.storage {
            Storage::Heap(b) => b.as_slice(),
            Storage::Shared(b) => b,
            Storage::Strings(_) => &[],
        }
    }

    /// The raw bytes for writing; `None` while another clone shares them, when they are not ours, and
    /// for strings.
    pub fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        match &mut self.storage {
            Storage::Heap(b) => Some(Arc::get_mut(b)?.as_mut_slice()),
            _ => None,
        }
    }

    /// Where the bytes lie and how many they are, if [`Tensor::bytes_mut`] would give them.
    pub(crate) fn raw_mut(&mut self) -> Option<(std::ptr::NonNull<u8>, usize)> {
        match &mut self.storage {
            Storage::Heap(b) => Arc::get_mut(b).map(|b| b.raw()),
            _ => None,
        }
    }

    /// Bytes of memory that the elements take; for strings, their text.
    pub fn byte_len(&self) -> usize {
        match &self.storage {
            Storage::Strings(s) => s.iter().map(String::len).sum(),
            _ => self.bytes().len(),
        }
    }

    /// Whether the elements lie in memory that is not ours alone: a map, a file's bytes, a static.
    pub fn is_borrowed(&self) -> bool {
        matches!(self.storage, Storage::Shared(_))
    }

    /// Gives back the memory of elements that lie in a mapped file, until they are read again.
    ///
    /// Returns whether they do.
    pub fn release(&self) -> bool {
        matches!(&self.storage, Storage::Shared(b) if crate::storage::release_pages(b))
    }

    /// The elements, when they are aligned for `T`; else (a map may start anywhere) `None`.
    ///
    /// # Errors
    /// [`TensorError::DType`] when the tensor cannot be seen as `T`.
    pub fn as_slice<T: Element>(&self) -> Result<Option<&[T]>, TensorError> {
        if !T::views(self.dtype) {
            return Err(TensorError::DType { expected: T::DTYPE, actual: self.dtype });
        }
        let bytes = self.bytes();
        if !(bytes.as_ptr() as usize).is_multiple_of(align_of::<T>()) {
            return Ok(None);
        }
        // SAFETY: aligned as just checked; Element has no invalid bit patterns; the length is that of the bytes.
        Ok(Some(unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<T>()) }))
    }

    /// The elements: borrowed, or copied when the bytes are not aligned for `T`.
    ///
    /// # Errors
    /// [`TensorError::DType`] when the tensor cannot be seen as `T`.
    pub fn to_slice<T: Element>(&self) -> Result<Cow<'_, [T]>, TensorError> {
        if let Some(s) = self.as_slice()? {
            return Ok(Cow::Borrowed(s));
        }
        let mut out = vec![T::default(); self.len()];
        let bytes = self.bytes();
        // SAFETY: `out` has len * size_of::<T>() bytes, which from_bytes checked to be bytes.len(); no overlap.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), out.as_mut_ptr().cast(), bytes.len()) };
        Ok(Cow::Owned(out))
    }

    /// The elements for writing; `None` while another clone shares them, or when they are not ours.
    ///
    /// # Errors
    /// [`TensorError::DType`] when the tensor cannot be seen as `T`.
    pub fn as_mut_slice<T: Element>(&mut self) -> Result<Option<&mut [T]>, TensorError> {
        if !T::views(self.dtype) {
            return Err(TensorError::DType { expected: T::DTYPE, actual: self.dtype });
        }
        let Storage::Heap(buffer) = &mut self.storage else { return Ok(None) };
        let Some(buffer) = Arc::get_mut(buffer) else { return Ok(None) };
        let bytes = buffer.as_mut_slice();
        if !(bytes.as_ptr() as usize).is_multiple_of(align_of::<T>()) {
            return Ok(None);
        }
        // SAFETY: aligned as just checked, unique through get_mut, every bit pattern is valid for T.
        Ok(Some(unsafe {
            std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len() / size_of::<T>())
        }))
    }

    /// The elements of a string tensor.
    ///
    /// # Errors
    /// [`TensorError::DType`] for every other type.
    pub fn strings(&self) -> Result<&[String], TensorError> {
        match &self.storage {
            Storage::Strings(s) => Ok(s),
            _ => Err(TensorError::DType { expected: DType::Str, actual: self.dtype }),
        }
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    /// [`TensorError::Reshape`] when the element counts differ.
    pub fn reshape(&self, shape: impl Into<Shape>) -> Result<Self, TensorError> {
        let shape = shape.into();
        if shape.checked_numel() != Some(self.len()) {
            return Err(TensorError::Reshape { from: self.shape.to_vec(), to: shape.to_vec() });
        }
        Ok(Tensor { shape, ..self.clone() })
    }

    /// The same bits as another type of the same width.
    ///
    /// # Errors
    /// [`TensorError::DType`] when the widths differ or either type is a string.
    pub fn bitcast(&self, dtype: DType) -> Result<Self, TensorError> {
        if self.dtype.bits() != dtype.bits() || (dtype == DType::Str) != (self.dtype == DType::Str) {
            return Err(TensorError::DType { expected: dtype, actual: self.dtype });
        }
        Ok(self.clone().reinterpret(dtype))
    }

    /// The same tensor in memory of its own, aligned to [`ALIGNMENT`](crate::ALIGNMENT).
    pub fn to_owned_aligned(&self) -> Self {
        match &self.storage {
            Storage::Strings(_) => self.clone(),
            _ => {
                let bytes = self.bytes();
                let mut buffer = Buffer::zeroed(bytes.len()).expect("as large as an existing tensor");
                buffer.as_mut_slice().copy_from_slice(bytes);
                Tensor {
                    dtype: self.dtype,
                    shape: self.shape.clone(),
                    storage: Storage::Heap(Arc::new(buffer)),
                }
            }
        }
    }

    /// Whether both have the same type, shape and bits. Unlike float equality, a NaN equals itself.
    pub fn same_bits(&self, other: &Tensor) -> bool {
        self.dtype == other.dtype
            && self.shape == other.shape
            && match (&self.storage, &other.storage) {
                (Storage::Strings(a), Storage::Strings(b)) => a == b,
                _ => std::ptr::eq(self.bytes(), other.bytes()) || self.bytes() == other.bytes(),
            }
    }

    pub(crate) fn reinterpret(mut self, dtype: DType) -> Self {
        self.dtype = dtype;
        self
    }
}

fn byte_len(dtype: DType, shape: &Shape) -> Result<usize, TensorError> {
    if dtype == DType::Str {
        return Err(TensorError::Unsupported { what: "a byte form", dtype });
    }
    shape
        .checked_numel()
        .and_then(|n| dtype.bytes_for(n))
        .ok_or_else(|| TensorError::Overflow { shape: shape.to_vec(), dtype })
}

pub(crate) fn length(shape: &Shape, dtype: DType, expected: usize, actual: usize) -> TensorError {
    TensorError::Length { shape: shape.to_vec(), dtype, expected, actual }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({}{})", self.dtype, self.shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unaligned_bytes_are_copied_on_view() {
        let mut raw = vec![0u8; 9];
        raw[1..9].copy_from_slice(&[1.5f32, -2.0].map(f32::to_le_bytes).concat());
        let bytes = Bytes::from(raw);
        for start in 0..2 {
            let t = Tensor::from_bytes(DType::F32, [2], bytes.slice(start..start + 8)).unwrap();
            let expected: Vec<f32> = bytes[start..start + 8]
                .chunks(4)
                .map(|c| f32::from_le_bytes(c.try_into().unwrap()))
                .collect();
            assert_eq!(&*t.to_slice::<f32>().unwrap(), expected);
        }
    }

    #[test]
    fn lengths_are_checked() {
        assert!(Tensor::from_vec([2, 2], vec![1f32; 3]).is_err());
        assert!(Tensor::from_bytes(DType::I4, [3], Bytes::from_static(&[0, 0])).is_ok());
        assert!(Tensor::from_bytes(DType::I4, [3], Bytes::from_static(&[0])).is_err());
        assert!(Tensor::zeros(DType::F64, [usize::MAX, 2]).is_err());
        assert!(Tensor::zeros(DType::F64, [usize::MAX, 2, 0]).is_err());
        assert!(Tensor::zeros(DType::F64, [1 << 20, 2, 0]).is_ok_and(|t| t.is_empty()));
    }

    #[test]
    fn shared_data_is_not_writable() {
        let mut a = Tensor::from_vec([1], vec![1i64]).unwrap();
        assert!(a.as_mut_slice::<i64>().unwrap().is_some());
        let b = a.clone();
        assert!(a.as_mut_slice::<i64>().unwrap().is_none());
        drop(b);
        assert!(a.as_mut_slice::<i64>().unwrap().is_some());
    }

    #[test]
    fn empty_vec_makes_an_empty_tensor() {
        let t = Tensor::from_vec([0, 3], Vec::<f64>::new()).unwrap();
        assert!(t.is_empty() && t.to_slice::<f64>().unwrap().is_empty());
    }
}
