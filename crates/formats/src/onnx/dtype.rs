use tensormill_tensor::DType;

const CODES: [(i32, DType); 26] = [
    (1, DType::F32),
    (2, DType::U8),
    (3, DType::I8),
    (4, DType::U16),
    (5, DType::I16),
    (6, DType::I32),
    (7, DType::I64),
    (8, DType::Str),
    (9, DType::Bool),
    (10, DType::F16),
    (11, DType::F64),
    (12, DType::U32),
    (13, DType::U64),
    (14, DType::C64),
    (15, DType::C128),
    (16, DType::BF16),
    (17, DType::F8E4M3FN),
    (18, DType::F8E4M3FNUZ),
    (19, DType::F8E5M2),
    (20, DType::F8E5M2FNUZ),
    (21, DType::U4),
    (22, DType::I4),
    (23, DType::F4E2M1),
    (24, DType::F8E8M0),
    (25, DType::U2),
    (26, DType::I2),
];

/// The element type of a number in `TensorProto.data_type`, `TypeProto.Tensor.elem_type` or a `to`
/// attribute; `None` for 0 (undefined) and for numbers without an element type here.
pub fn dtype_of(code: i32) -> Option<DType> {
    CODES.iter().find(|(c, _)| *c == code).map(|&(_, d)| d)
}

/// The number of an element type.
pub fn dtype_code(dtype: DType) -> Option<i32> {
    CODES.iter().find(|(_, d)| *d == dtype).map(|&(c, _)| c)
}

/// The format's name of a number that has no element type here.
pub(crate) fn foreign_dtype(code: i32) -> &'static str {
    match code {
        0 => "undefined",
        27 => "FLOAT6E2M3, which is not supported",
        28 => "FLOAT6E3M2, which is not supported",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_one_number() {
        for &d in DType::ALL {
            if let Some(code) = dtype_code(d) {
                assert_eq!(dtype_of(code), Some(d));
            }
        }
        assert_eq!((1..=26).filter(|&c| dtype_of(c).is_some()).count(), 26);
        assert!([i32::MIN, -1, 0, 27, 28, 29, i32::MAX].iter().all(|&c| dtype_of(c).is_none()));
    }
}
