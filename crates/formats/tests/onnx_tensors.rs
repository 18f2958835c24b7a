//! Every element type, through every place where a message may hold its elements.
#![cfg(feature = "onnx")]

use bytes::Bytes;
use prost::Message;
use tensormill_formats::{
    external::ExternalData,
    onnx::{
        OnnxError, ParseLimits, TensorProblem, ValueKind, dtype_code, parse_value,
        proto::{MapProto, SequenceProto, SparseTensorProto, StringStringEntryProto, TensorProto},
        read_sparse, read_tensor, write_tensor, write_value,
    },
};
use tensormill_tensor::{DType, Shape, Tensor, Value};

fn read(proto: &TensorProto) -> Result<Tensor, OnnxError> {
    read_tensor(proto, &"test", &ParseLimits::default(), &ExternalData::deny())
}

fn problem(proto: &TensorProto) -> TensorProblem {
    match read(proto) {
        Err(OnnxError::Tensor { source, .. }) => *source,
        other => panic!("expected a tensor problem, got {other:?}"),
    }
}

fn typed(dtype: DType, dims: &[i64]) -> TensorProto {
    TensorProto { data_type: dtype_code(dtype).unwrap(), dims: dims.to_vec(), ..TensorProto::default() }
}

/// Bytes for `count` elements that differ from each other, with valid bools and no stray bits at the end.
fn sample(dtype: DType, count: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        (0..dtype.bytes_for(count).unwrap()).map(|i| (i as u8).wrapping_mul(37).wrapping_add(141)).collect();
    if dtype == DType::Bool {
        bytes.iter_mut().for_each(|b| *b &= 1);
    }
    let used = count * dtype.bits() % 8;
    if let (Some(last), 1..) = (bytes.last_mut(), used) {
        *last &= (1 << used) - 1;
    }
    bytes
}

/// The message that holds the same elements in the field for their type.
fn as_typed(dtype: DType, dims: &[i64], raw: &[u8]) -> TensorProto {
    let mut p = typed(dtype, dims);
    match dtype {
        DType::F32 | DType::C64 => {
            p.float_data = raw.chunks(4).map(|c| f32::from_le_bytes(c.try_into().unwrap())).collect();
        }
        DType::F64 | DType::C128 => {
            p.double_data = raw.chunks(8).map(|c| f64::from_le_bytes(c.try_into().unwrap())).collect();
        }
        DType::I64 => {
            p.int64_data = raw.chunks(8).map(|c| i64::from_le_bytes(c.try_into().unwrap())).collect();
        }
        DType::U64 => {
            p.uint64_data = raw.chunks(8).map(|c| u64::from_le_bytes(c.try_into().unwrap())).collect();
        }
        DType::U32 => {
            p.uint64_data = raw.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap()).into()).collect();
        }
        DType::I32 => {
            p.int32_data = raw.chunks(4).map(|c| i32::from_le_bytes(c.try_into().unwrap())).collect();
        }
        DType::I16 => {
            p.int32_data = raw.chunks(2).map(|c| i16::from_le_bytes(c.try_into().unwrap()).into()).collect();
        }
        DType::U16 | DType::F16 | DType::BF16 => {
            p.int32_data = raw.chunks(2).map(|c| u16::from_le_bytes(c.try_into().unwrap()).into()).collect();
        }
        DType::I8 => p.int32_data = raw.iter().map(|&b| (b as i8).into()).collect(),
        _ => p.int32_data = raw.iter().map(|&b| b.into()).collect(),
    }
    p
}

fn numeric() -> impl Iterator<Item = DType> {
    DType::ALL.iter().copied().filter(|&d| d != DType::Str && dtype_code(d).is_some())
}

#[test]
fn every_type_reads_alike_from_raw_and_typed_fields() {
    assert_eq!(numeric().count(), 25);
    for dtype in numeric() {
        for dims in [&[][..], &[0, 7], &[1], &[5], &[3, 5], &[4, 4]] {
            let count = dims.iter().product::<i64>() as usize;
            let raw = Bytes::from(sample(dtype, count));
            let proto = TensorProto { raw_data: Some(raw.clone()), ..typed(dtype, dims) };
            let from_raw = read(&proto).unwrap();
            assert_eq!((from_raw.dtype(), from_raw.bytes()), (dtype, &raw[..]));
            assert_eq!(from_raw.shape(), &dims.iter().map(|&d| d as usize).collect::<Shape>());
            assert!(count == 0 || from_raw.bytes().as_ptr() == raw.as_ptr(), "raw elements are shared");
            let from_typed = read(&as_typed(dtype, dims, &raw)).unwrap();
            assert!(from_raw.same_bits(&from_typed), "{dtype} {dims:?}");

            let encoded = write_tensor("w", &from_typed).unwrap().encode_to_vec();
            let back = TensorProto::decode(Bytes::from(encoded)).unwrap();
            assert_eq!(back.name, "w");
            assert!(read(&back).unwrap().same_bits(&from_raw), "{dtype} {dims:?}");
        }
    }
}

#[test]
fn strings_read_back_and_must_be_text() {
    let t = Tensor::from_strings([3], vec![String::new(), "añ".into(), "\0".into()]).unwrap();
    let mut proto = write_tensor("s", &t).unwrap();
    assert!(read(&proto).unwrap().same_bits(&t));
    proto.string_data[1] = Bytes::from_static(b"a\xff");
    assert_eq!(problem(&proto), TensorProblem::Text { index: 1 });
    proto.string_data.pop();
    assert!(matches!(problem(&proto), TensorProblem::Length { field: "string_data", actual: 2, .. }));
    let raw = TensorProto { raw_data: Some(Bytes::from_static(b"abc")), ..typed(DType::Str, &[3]) };
    assert!(matches!(problem(&raw), TensorProblem::Field { field: "raw_data", .. }));
}

#[test]
fn wrong_lengths_are_refused_in_every_field() {
    for dtype in numeric() {
        for wrong in [sample(dtype, 32), sample(dtype, 8), vec![]] {
            let raw = TensorProto { raw_data: Some(wrong.clone().into()), ..typed(dtype, &[16]) };
            assert!(matches!(problem(&raw), TensorProblem::Length { .. }), "{dtype}");
            assert!(
                matches!(problem(&as_typed(dtype, &[16], &wrong)), TensorProblem::Length { .. }),
                "{dtype}"
            );
        }
    }
}

#[test]
fn elements_have_one_home() {
    for dtype in numeric() {
        let good = as_typed(dtype, &[4], &sample(dtype, 4));
        let both = TensorProto { raw_data: Some(sample(dtype, 4).into()), ..good.clone() };
        assert!(matches!(problem(&both), TensorProblem::Both { first: "raw_data", .. }), "{dtype}");
        // The same elements under a type that keeps them elsewhere.
        let other = if dtype == DType::F32 || dtype == DType::C64 { DType::F64 } else { DType::F32 };
        let misplaced = TensorProto { data_type: dtype_code(other).unwrap(), ..good };
        assert!(matches!(problem(&misplaced), TensorProblem::Field { .. }), "{dtype}");
    }
}

#[test]
fn narrow_types_refuse_wide_entries() {
    for (dtype, value) in [
        (DType::U8, 256),
        (DType::U8, -1),
        (DType::I8, 128),
        (DType::I8, -129),
        (DType::I16, 1 << 15),
        (DType::U16, 1 << 16),
        (DType::F16, 1 << 16),
        (DType::BF16, -1),
        (DType::F8E5M2, 256),
        (DType::U4, 256),
        (DType::I2, -1),
    ] {
        let p = TensorProto { int32_data: vec![value], ..typed(dtype, &[1]) };
        assert_eq!(problem(&p), TensorProblem::Value { index: 0, value, dtype });
    }
    let p = TensorProto { uint64_data: vec![1 << 32], ..typed(DType::U32, &[1]) };
    assert!(matches!(problem(&p), TensorProblem::Value { .. }));
    let p = TensorProto { int32_data: vec![2, 0, -1], ..typed(DType::Bool, &[3]) };
    assert_eq!(read(&p).unwrap().bytes(), [1, 0, 1]);
}

#[test]
fn impossible_shapes_and_types_are_refused() {
    assert!(matches!(problem(&typed(DType::F32, &[2, -1])), TensorProblem::Dim { axis: 1, size: -1 }));
    assert!(matches!(problem(&typed(DType::F32, &[i64::MIN])), TensorProblem::Dim { .. }));
    assert!(matches!(problem(&typed(DType::F32, &[i64::MAX, 4])), TensorProblem::Tensor(_)));
    assert!(matches!(problem(&typed(DType::C128, &[i64::MAX / 4])), TensorProblem::Tensor(_)));
    assert!(matches!(problem(&typed(DType::Str, &[i64::MAX, i64::MAX])), TensorProblem::Tensor(_)));
    assert!(matches!(problem(&typed(DType::F32, &[1; 65])), TensorProblem::Rank { rank: 65 }));
    assert!(matches!(problem(&typed(DType::F32, &[i64::MAX, 0, i64::MAX])), TensorProblem::Tensor(_)));
    assert!(read(&typed(DType::F32, &[1 << 20, 0, 1 << 20])).unwrap().is_empty());
    for code in [0, -1, 27, 28, 29, i32::MAX, i32::MIN] {
        let p = TensorProto { data_type: code, ..TensorProto::default() };
        assert!(matches!(problem(&p), TensorProblem::DType { code: c, .. } if c == code));
    }
    let huge = read(&typed(DType::F32, &[1 << 40]));
    assert!(huge.is_err_and(|e| e.to_string().contains("float_data has 0 entries")));
    let limits = {
        let mut l = ParseLimits::default();
        l.max_tensor_bytes = 15;
        l
    };
    let p = as_typed(DType::F32, &[4], &sample(DType::F32, 4));
    let e = read_tensor(&p, &"w", &limits, &ExternalData::deny()).unwrap_err();
    assert!(matches!(e, OnnxError::Limit { field: "max_tensor_bytes", .. }));
}

fn entry(key: &str, value: &str) -> StringStringEntryProto {
    StringStringEntryProto { key: key.into(), value: value.into() }
}

fn external(entries: &[(&str, &str)]) -> TensorProto {
    TensorProto {
        data_location: 1,
        external_data: entries.iter().map(|(k, v)| entry(k, v)).collect(),
        ..typed(DType::F32, &[2])
    }
}

#[test]
fn external_data_is_mapped_and_checked() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("w"), [sample(DType::F32, 4), vec![9]].concat()).unwrap();
    let data = ExternalData::folder(dir.path());
    let read = |p: &TensorProto| read_tensor(p, &"test", &ParseLimits::default(), &data);

    let t = read(&external(&[("location", "w"), ("offset", "4"), ("length", "8")])).unwrap();
    assert_eq!(t.bytes(), &sample(DType::F32, 4)[4..12]);
    assert!(t.is_borrowed());
    // Without a length, as many bytes as the shape needs.
    assert_eq!(read(&external(&[("location", "w")])).unwrap().bytes(), &sample(DType::F32, 4)[..8]);

    for bad in [
        &[("offset", "0")][..],
        &[("location", "w"), ("length", "7")],
        &[("location", "w"), ("length", "-8")],
        &[("location", "w"), ("offset", "x")],
        &[("location", "w"), ("offset", "18446744073709551616")],
        &[("location", "w"), ("location", "w")],
        &[("location", "w"), ("prepacked", "1")],
    ] {
        assert!(matches!(read(&external(bad)), Err(OnnxError::Tensor { .. })), "{bad:?}");
    }
    for bad in [
        &[("location", "w"), ("offset", "16")][..],
        &[("location", "w"), ("offset", "18446744073709551615")],
        &[("location", "../w")],
        &[("location", "absent")],
    ] {
        assert!(matches!(read(&external(bad)), Err(OnnxError::External { .. })), "{bad:?}");
    }
    let mut both = external(&[("location", "w")]);
    both.float_data = vec![1.0, 2.0];
    assert!(matches!(problem(&both), TensorProblem::Both { .. }));
    let inside = TensorProto { data_location: 0, ..external(&[("location", "w")]) };
    assert!(matches!(problem(&inside), TensorProblem::External(_)));
    let elsewhere = TensorProto { data_location: 2, ..external(&[("location", "w")]) };
    assert!(matches!(problem(&elsewhere), TensorProblem::Location(2)));
}

fn sparse(dtype: DType, dims: &[i64], at: &[i64], at_dims: &[i64]) -> Result<Tensor, OnnxError> {
    let count = at_dims[0];
    let indices = TensorProto { int64_data: at.to_vec(), ..typed(DType::I64, at_dims) };
    let values =
        TensorProto { raw_data: Some(sample(dtype, count as usize).into()), ..typed(dtype, &[count]) };
    let proto = SparseTensorProto { values: Some(values), indices: Some(indices), dims: dims.to_vec() };
    read_sparse(&proto, &"sparse", &ParseLimits::default(), &ExternalData::deny())
}

/// Element `i` of packed bytes, as bits.
fn element(dtype: DType, bytes: &[u8], i: usize) -> Vec<u8> {
    (0..dtype.bits()).map(|b| i * dtype.bits() + b).map(|bit| bytes[bit / 8] >> (bit % 8) & 1).collect()
}

#[test]
fn sparse_tensors_become_dense() {
    for dtype in numeric() {
        let flat = sparse(dtype, &[2, 3], &[1, 3, 5], &[3]).unwrap();
        let coordinates = sparse(dtype, &[2, 3], &[0, 1, 1, 0, 1, 2], &[3, 2]).unwrap();
        assert!(flat.same_bits(&coordinates));
        let stored = sample(dtype, 3);
        for i in 0..6 {
            let expected = match i {
                1 | 3 | 5 => element(dtype, &stored, i / 2),
                _ => vec![0; dtype.bits()],
            };
            assert_eq!(element(dtype, flat.bytes(), i), expected, "{dtype} {i}");
        }
    }
    for (dims, at, at_dims) in [
        (&[2, 3][..], &[1, 3, 6][..], &[3][..]),
        (&[2, 3], &[-1, 3, 5], &[3]),
        (&[2, 3], &[1, 1, 5], &[3]),
        (&[2, 3], &[3, 1, 5], &[3]),
        (&[2, 3], &[0, 1, 1, 3], &[2, 2]),
        (&[2, 3], &[0, 1, 2, 0], &[2, 2]),
        (&[2, 3], &[0, 1, 1], &[1, 3]),
        (&[-2], &[0], &[1]),
        (&[i64::MAX, 8], &[0], &[1]),
        (&[0], &[0], &[1]),
    ] {
        assert!(
            matches!(sparse(DType::F32, dims, at, at_dims), Err(OnnxError::Tensor { .. })),
            "{dims:?} {at:?}"
        );
    }
    assert!(matches!(sparse(DType::F32, &[1 << 40], &[0], &[1]), Err(OnnxError::Limit { .. })));
}

#[test]
fn values_of_every_kind_read_back() {
    let t = || Value::from(Tensor::from_vec([2], vec![1i64, -1]).unwrap());
    let s = || Value::Sequence(vec![t(), t()]);
    for (kind, value) in [
        (ValueKind::Tensor, t()),
        (ValueKind::Sequence, s()),
        (ValueKind::Sequence, Value::Sequence(vec![])),
        (ValueKind::Sequence, Value::Sequence(vec![s(), Value::Sequence(vec![])])),
        (
            ValueKind::Sequence,
            Value::Sequence(vec![Value::Optional(None), Value::Optional(Some(t().into()))]),
        ),
        (ValueKind::Optional, Value::Optional(None)),
        (ValueKind::Optional, Value::Optional(Some(t().into()))),
        (ValueKind::Optional, Value::Optional(Some(s().into()))),
        (ValueKind::Optional, Value::Optional(Some(Value::Optional(None).into()))),
    ] {
        let bytes = write_value("v", &value).unwrap().encode_to_vec();
        let back = parse_value(kind, bytes.into(), &ParseLimits::default(), &ExternalData::deny()).unwrap();
        assert!(back.same_bits(&value), "{value:?}");
    }
    assert!(write_value("v", &Value::Sequence(vec![t(), s()])).is_err());
    let map =
        SequenceProto { elem_type: 4, map_values: vec![MapProto::default()], ..SequenceProto::default() };
    let read = |p: &SequenceProto| {
        let bytes = p.encode_to_vec().into();
        parse_value(ValueKind::Sequence, bytes, &ParseLimits::default(), &ExternalData::deny())
    };
    assert!(matches!(read(&map), Err(OnnxError::Unsupported { what: "maps", .. })));
    let unsure = SequenceProto { elem_type: 1, ..map };
    assert!(matches!(read(&unsure), Err(OnnxError::Attribute { .. })));
}
