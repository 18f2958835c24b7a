use std::{fmt, str::FromStr};

macro_rules! dtypes {
    ($($(#[$doc:meta])* $variant:ident $name:literal $bits:literal,)*) => {
        /// The type of a tensor's elements: all that ONNX 1.23 names but its two 6-bit floats.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum DType { $($(#[$doc])* $variant,)* }

        impl DType {
            /// Every type, in declaration order.
            pub const ALL: &[DType] = &[$(DType::$variant,)*];

            /// The short name used in the text form: `f32`, `i64`, `f8e4m3fn`.
            pub const fn name(self) -> &'static str {
                match self { $(DType::$variant => $name,)* }
            }

            /// Bits of one element; 0 for [`DType::Str`], whose elements have no fixed size.
            pub const fn bits(self) -> usize {
                match self { $(DType::$variant => $bits,)* }
            }
        }

        impl FromStr for DType {
            type Err = String;
            fn from_str(s: &str) -> Result<Self, String> {
                match s { $($name => Ok(DType::$variant),)* _ => Err(format!("unknown dtype `{s}`")) }
            }
        }
    };
}

dtypes! {
    /// One byte, 0 or 1; any other value reads as true.
    Bool "bool" 8,
    /// Signed 2-bit integer, four to a byte.
    I2 "i2" 2,
    /// Signed 4-bit integer, two to a byte.
    I4 "i4" 4,
    /// Signed 8-bit integer.
    I8 "i8" 8,
    /// Signed 16-bit integer.
    I16 "i16" 16,
    /// Signed 32-bit integer.
    I32 "i32" 32,
    /// Signed 64-bit integer.
    I64 "i64" 64,
    /// Unsigned 2-bit integer, four to a byte.
    U2 "u2" 2,
    /// Unsigned 4-bit integer, two to a byte.
    U4 "u4" 4,
    /// Unsigned 8-bit integer.
    U8 "u8" 8,
    /// Unsigned 16-bit integer.
    U16 "u16" 16,
    /// Unsigned 32-bit integer.
    U32 "u32" 32,
    /// Unsigned 64-bit integer.
    U64 "u64" 64,
    /// 4-bit float: 2 exponent bits, 1 mantissa bit, no infinity, no NaN; two to a byte (OCP MX).
    F4E2M1 "f4e2m1" 4,
    /// 8-bit float: 4 exponent bits, 3 mantissa bits, finite with NaN (OCP FP8).
    F8E4M3FN "f8e4m3fn" 8,
    /// As `F8E4M3FN` with one zero and bias 8 (Graphcore/AMD).
    F8E4M3FNUZ "f8e4m3fnuz" 8,
    /// 8-bit float: 5 exponent bits, 2 mantissa bits, IEEE-like (OCP FP8).
    F8E5M2 "f8e5m2" 8,
    /// As `F8E5M2` with one zero and no infinity.
    F8E5M2FNUZ "f8e5m2fnuz" 8,
    /// 8-bit power-of-two scale without sign or mantissa (OCP MX).
    F8E8M0 "f8e8m0" 8,
    /// IEEE half precision.
    F16 "f16" 16,
    /// Truncated f32 with 8 mantissa bits.
    BF16 "bf16" 16,
    /// IEEE single precision.
    F32 "f32" 32,
    /// IEEE double precision.
    F64 "f64" 64,
    /// Complex of two f32, real part first.
    C64 "c64" 64,
    /// Complex of two f64, real part first.
    C128 "c128" 128,
    /// UTF-8 text.
    Str "str" 0,
}

impl DType {
    /// Bytes that `count` elements take, sub-byte elements packed; `None` on overflow and for strings.
    pub const fn bytes_for(self, count: usize) -> Option<usize> {
        match self {
            DType::Str => None,
            _ if self.bits() >= 8 => count.checked_mul(self.bits() / 8),
            _ => Some(count.div_ceil(8 / self.bits())),
        }
    }

    /// Bytes of one element for types of whole bytes; `None` for sub-byte types and strings.
    pub const fn size(self) -> Option<usize> {
        if self.bits() >= 8 { Some(self.bits() / 8) } else { None }
    }

    /// Real floating-point types, from 4 to 64 bits.
    pub const fn is_float(self) -> bool {
        use DType::*;
        matches!(self, F4E2M1 | F8E4M3FN | F8E4M3FNUZ | F8E5M2 | F8E5M2FNUZ | F8E8M0 | F16 | BF16 | F32 | F64)
    }

    /// Signed integers, 2 to 64 bits.
    pub const fn is_signed_int(self) -> bool {
        use DType::*;
        matches!(self, I2 | I4 | I8 | I16 | I32 | I64)
    }

    /// Unsigned integers, 2 to 64 bits; not `bool`.
    pub const fn is_unsigned_int(self) -> bool {
        use DType::*;
        matches!(self, U2 | U4 | U8 | U16 | U32 | U64)
    }

    /// Integers of either sign; not `bool`.
    pub const fn is_int(self) -> bool {
        self.is_signed_int() || self.is_unsigned_int()
    }

    /// Complex types.
    pub const fn is_complex(self) -> bool {
        matches!(self, DType::C64 | DType::C128)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back() {
        for &d in DType::ALL {
            assert_eq!(d.name().parse::<DType>(), Ok(d));
        }
    }

    #[test]
    fn narrow_elements_share_bytes() {
        assert_eq!(DType::I4.bytes_for(3), Some(2));
        assert_eq!(DType::U2.bytes_for(5), Some(2));
        assert_eq!(DType::F64.bytes_for(usize::MAX), None);
    }
}
