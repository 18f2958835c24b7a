use safetensors::Dtype;
use tensormill_tensor::DType;

/// The type that safetensors has for a dtype, with its name in the header; `None` for types that are
/// stored as bytes. Narrow types are stored as bytes even where a name exists: the format wants their
/// elements to fill whole bytes.
pub(super) fn stored(dtype: DType) -> Option<(Dtype, &'static str)> {
    Some(match dtype {
        DType::Bool => (Dtype::BOOL, "BOOL"),
        DType::I8 => (Dtype::I8, "I8"),
        DType::I16 => (Dtype::I16, "I16"),
        DType::I32 => (Dtype::I32, "I32"),
        DType::I64 => (Dtype::I64, "I64"),
        DType::U8 => (Dtype::U8, "U8"),
        DType::U16 => (Dtype::U16, "U16"),
        DType::U32 => (Dtype::U32, "U32"),
        DType::U64 => (Dtype::U64, "U64"),
        DType::F8E4M3FN => (Dtype::F8_E4M3, "F8_E4M3"),
        DType::F8E5M2 => (Dtype::F8_E5M2, "F8_E5M2"),
        DType::F8E8M0 => (Dtype::F8_E8M0, "F8_E8M0"),
        DType::F16 => (Dtype::F16, "F16"),
        DType::BF16 => (Dtype::BF16, "BF16"),
        DType::F32 => (Dtype::F32, "F32"),
        DType::F64 => (Dtype::F64, "F64"),
        DType::C64 => (Dtype::C64, "C64"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_widths_are_those_of_safetensors() {
        for &d in DType::ALL {
            if let Some((stored, name)) = stored(d) {
                assert_eq!(serde_json::to_value(stored).unwrap(), name);
                assert_eq!(stored.bitsize(), d.bits());
            }
        }
    }
}
