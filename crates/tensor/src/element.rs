use crate::{DType, bf16, f16};

/// A complex number as ONNX stores it: real part, then imaginary part.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[repr(C)]
pub struct Complex<T> {
    /// Real part.
    pub re: T,
    /// Imaginary part.
    pub im: T,
}

mod sealed {
    pub trait Sealed {}
}

/// A Rust type that a tensor's bytes can be seen as.
///
/// # Safety
/// Implementors are plain data: every bit pattern is a value and there is no padding. (This is why
/// `bool` is none: [`DType::Bool`] is seen as `u8`.)
pub unsafe trait Element:
    sealed::Sealed + Copy + Send + Sync + Default + PartialEq + std::fmt::Debug + 'static
{
    /// The type of a tensor made of such elements.
    const DTYPE: DType;

    /// Whether bytes of `dtype` may be seen as `Self`. `u8` accepts every one-byte type, as raw bits.
    fn views(dtype: DType) -> bool {
        dtype == Self::DTYPE
    }
}

macro_rules! elements {
    ($($t:ty => $d:ident),*) => { $(
        impl sealed::Sealed for $t {}
        // SAFETY: a primitive number, or a transparent or repr(C) pair of them, without padding.
        unsafe impl Element for $t { const DTYPE: DType = DType::$d; }
    )* };
}

elements!(i8 => I8, i16 => I16, i32 => I32, i64 => I64, u16 => U16, u32 => U32, u64 => U64,
    f16 => F16, bf16 => BF16, f32 => F32, f64 => F64, Complex<f32> => C64, Complex<f64> => C128);

impl sealed::Sealed for u8 {}
// SAFETY: a byte.
unsafe impl Element for u8 {
    const DTYPE: DType = DType::U8;

    fn views(dtype: DType) -> bool {
        dtype.size() == Some(1) && dtype != DType::I8
    }
}
