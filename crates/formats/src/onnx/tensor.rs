use super::{OnnxError, ParseLimits, dtype::foreign_dtype, dtype_of, proto::TensorProto};
use crate::{external::ExternalData, text::quoted};
use bytes::Bytes;
use std::fmt::Display;
use tensormill_tensor::{Complex, DType, Element, Shape, Tensor, TensorError};

/// More axes than any array library knows; kernels may recurse over axes.
const MAX_RANK: usize = 64;

/// What can be wrong with a tensor in a file.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TensorProblem {
    /// `data_type` names no element type.
    #[error("data_type {code} is {what}")]
    DType {
        /// The number in the file.
        code: i32,
        /// What the number stands for.
        what: &'static str,
    },
    /// A negative size, or one beyond the address space.
    #[error("dims[{axis}] is {size}")]
    Dim {
        /// The axis.
        axis: usize,
        /// Its size in the file.
        size: i64,
    },
    /// Too many axes.
    #[error("{rank} axes, where {MAX_RANK} are supported")]
    Rank {
        /// Number of axes.
        rank: usize,
    },
    /// Elements in two places: it is not said which are meant.
    #[error("elements in both {first} and {second}")]
    Both {
        /// One field.
        first: &'static str,
        /// The other.
        second: &'static str,
    },
    /// Elements in a field that is for other types.
    #[error("elements of {dtype} in {field}, which is not for them")]
    Field {
        /// The field with elements.
        field: &'static str,
        /// The element type.
        dtype: DType,
    },
    /// The number of elements or bytes is not the shape's.
    #[error("{field} has {actual} {unit}, but {dtype}{shape} needs {expected}")]
    Length {
        /// The field with elements.
        field: &'static str,
        /// `bytes` or `entries`.
        unit: &'static str,
        /// The element type.
        dtype: DType,
        /// The shape.
        shape: Shape,
        /// How many the shape asks for.
        expected: usize,
        /// How many there are.
        actual: u64,
    },
    /// An element that its type cannot hold.
    #[error("int32_data[{index}] is {value}, which is no {dtype}")]
    Value {
        /// Which entry.
        index: usize,
        /// The number there.
        value: i32,
        /// The element type.
        dtype: DType,
    },
    /// A string that is not UTF-8.
    #[error("string_data[{index}] is not UTF-8")]
    Text {
        /// Which entry.
        index: usize,
    },
    /// A piece of a tensor.
    #[error("segment is set: tensors in pieces are not supported")]
    Segment,
    /// `data_location` is neither 0 nor 1.
    #[error("data_location is {0}, which is unknown")]
    Location(i32),
    /// External data that is described wrongly.
    #[error("external_data: {0}")]
    External(String),
    /// A sparse tensor whose parts do not fit each other.
    #[error("{0}")]
    Sparse(String),
    /// Sizes beyond the address space.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

/// Where a tensor's elements are, checked to be of the right number.
enum Source<'a> {
    Raw(Bytes),
    F32(&'a [f32]),
    I32(&'a [i32]),
    I64(&'a [i64]),
    F64(&'a [f64]),
    U64(&'a [u64]),
    Strings(&'a [Bytes]),
    File(FileRange<'a>),
}

struct FileRange<'a> {
    location: &'a str,
    offset: u64,
    length: u64,
    checksum: bool,
}

struct Layout<'a> {
    dtype: DType,
    shape: Shape,
    source: Source<'a>,
}

/// The tensor of a message. Raw and external elements are shared with the file, not copied.
///
/// `at` says in errors where the message is.
///
/// # Errors
/// [`OnnxError::Tensor`], [`OnnxError::External`] and [`OnnxError::Limit`].
pub fn read_tensor(
    proto: &TensorProto,
    at: &dyn Display,
    limits: &ParseLimits,
    external: &ExternalData,
) -> Result<Tensor, OnnxError> {
    let Layout { dtype, shape, source } = layout_within(proto, at, limits)?;
    let raw = match source {
        Source::Raw(bytes) => bytes,
        Source::File(range) => slice(&range, proto, at, external)?,
        typed => return from_typed(dtype, shape, typed).map_err(|e| problem(proto, at, e)),
    };
    Tensor::from_bytes(dtype, shape, raw).map_err(|e| problem(proto, at, e.into()))
}

/// Does all of [`read_tensor`] but to convert the elements. Returns the external file whose checksum
/// is not verified, if any.
pub(crate) fn check_tensor<'a>(
    proto: &'a TensorProto,
    at: &dyn Display,
    limits: &ParseLimits,
    external: &ExternalData,
) -> Result<Option<&'a str>, OnnxError> {
    if let Source::File(range) = layout_within(proto, at, limits)?.source {
        slice(&range, proto, at, external)?;
        return Ok(range.checksum.then_some(range.location));
    }
    Ok(None)
}

pub(crate) fn problem(proto: &TensorProto, at: &dyn Display, source: TensorProblem) -> OnnxError {
    OnnxError::Tensor { at: named(proto, at), source: Box::new(source) }
}

fn named(proto: &TensorProto, at: &dyn Display) -> String {
    if proto.name.is_empty() { at.to_string() } else { format!("{at} {}", quoted(&proto.name)) }
}

fn slice(
    range: &FileRange<'_>,
    proto: &TensorProto,
    at: &dyn Display,
    external: &ExternalData,
) -> Result<Bytes, OnnxError> {
    external
        .slice(range.location, range.offset, range.length)
        .map_err(|source| OnnxError::External { at: named(proto, at), source })
}

fn layout_within<'a>(
    proto: &'a TensorProto,
    at: &dyn Display,
    limits: &ParseLimits,
) -> Result<Layout<'a>, OnnxError> {
    let layout = layout(proto).map_err(|e| problem(proto, at, e))?;
    let bytes = layout.dtype.bytes_for(layout.shape.numel()).unwrap_or(0) as u64;
    if bytes > limits.max_tensor_bytes {
        return Err(OnnxError::Limit {
            at: named(proto, at),
            what: "the tensor's bytes",
            limit: limits.max_tensor_bytes,
            field: "max_tensor_bytes",
        });
    }
    Ok(layout)
}

/// The sizes of the axes, each at most the address space; their product is not looked at.
pub(crate) fn shape_of(dims: &[i64]) -> Result<Shape, TensorProblem> {
    if dims.len() > MAX_RANK {
        return Err(TensorProblem::Rank { rank: dims.len() });
    }
    dims.iter()
        .enumerate()
        .map(|(axis, &size)| usize::try_from(size).map_err(|_| TensorProblem::Dim { axis, size }))
        .collect()
}

fn layout(proto: &TensorProto) -> Result<Layout<'_>, TensorProblem> {
    let code = proto.data_type;
    let dtype = dtype_of(code).ok_or(TensorProblem::DType { code, what: foreign_dtype(code) })?;
    let shape = shape_of(&proto.dims)?;
    let overflow = || TensorError::Overflow { shape: shape.to_vec(), dtype };
    let elements = shape.checked_numel().ok_or_else(overflow)?;
    // Strings have no byte form; their number is checked against the entries that are there.
    let bytes = if dtype == DType::Str { 0 } else { dtype.bytes_for(elements).ok_or_else(overflow)? };
    if proto.segment.is_some() {
        return Err(TensorProblem::Segment);
    }

    let present = present_field(proto)?;
    let source = match (proto.data_location, present) {
        (0, _) if !proto.external_data.is_empty() => {
            return Err(TensorProblem::External(
                "given, but data_location says that the data is inside".into(),
            ));
        }
        (0, present) => inside(proto, dtype, present)?,
        (1, Some(field)) => return Err(TensorProblem::Both { first: field, second: "external_data" }),
        (1, None) if dtype == DType::Str => {
            return Err(TensorProblem::Field { field: "external_data", dtype });
        }
        (1, None) => Source::File(file_range(proto, bytes as u64)?),
        (other, _) => return Err(TensorProblem::Location(other)),
    };

    let (field, unit, actual, expected) = match &source {
        Source::Raw(b) => ("raw_data", "bytes", b.len() as u64, bytes),
        Source::File(r) => ("external_data", "bytes", r.length, bytes),
        Source::Strings(v) => ("string_data", "entries", v.len() as u64, elements),
        Source::F32(v) => ("float_data", "entries", v.len() as u64, entries(dtype, elements)),
        Source::I32(v) => ("int32_data", "entries", v.len() as u64, entries(dtype, elements)),
        Source::I64(v) => ("int64_data", "entries", v.len() as u64, elements),
        Source::F64(v) => ("double_data", "entries", v.len() as u64, entries(dtype, elements)),
        Source::U64(v) => ("uint64_data", "entries", v.len() as u64, elements),
    };
    if actual != expected as u64 {
        return Err(TensorProblem::Length { field, unit, dtype, shape, expected, actual });
    }
    Ok(Layout { dtype, shape, source })
}

/// Entries of a typed field that so many elements take: parts of complex numbers have their own,
/// elements narrower than a byte share them.
fn entries(dtype: DType, elements: usize) -> usize {
    match dtype {
        DType::C64 | DType::C128 => elements.saturating_mul(2),
        _ if dtype.bits() < 8 => elements.div_ceil(8 / dtype.bits().max(1)),
        _ => elements,
    }
}

/// The one data field that has elements.
fn present_field(proto: &TensorProto) -> Result<Option<&'static str>, TensorProblem> {
    let fields = [
        ("raw_data", proto.raw_data.as_ref().is_none_or(Bytes::is_empty)),
        ("float_data", proto.float_data.is_empty()),
        ("int32_data", proto.int32_data.is_empty()),
        ("string_data", proto.string_data.is_empty()),
        ("int64_data", proto.int64_data.is_empty()),
        ("double_data", proto.double_data.is_empty()),
        ("uint64_data", proto.uint64_data.is_empty()),
    ];
    let mut present = fields.iter().filter(|(_, empty)| !empty).map(|(name, _)| *name);
    let first = present.next();
    if let (Some(first), Some(second)) = (first, present.next()) {
        return Err(TensorProblem::Both { first, second });
    }
    Ok(first)
}

fn inside<'a>(
    proto: &'a TensorProto,
    dtype: DType,
    present: Option<&'static str>,
) -> Result<Source<'a>, TensorProblem> {
    use DType::*;
    let (home, source) = match dtype {
        Str => ("string_data", Source::Strings(&proto.string_data)),
        F32 | C64 => ("float_data", Source::F32(&proto.float_data)),
        F64 | C128 => ("double_data", Source::F64(&proto.double_data)),
        I64 => ("int64_data", Source::I64(&proto.int64_data)),
        U32 | U64 => ("uint64_data", Source::U64(&proto.uint64_data)),
        _ => ("int32_data", Source::I32(&proto.int32_data)),
    };
    match present {
        Some("raw_data") if dtype != Str => Ok(Source::Raw(proto.raw_data.clone().unwrap_or_default())),
        Some(field) if field != home => Err(TensorProblem::Field { field, dtype }),
        _ => Ok(source),
    }
}

fn file_range(proto: &TensorProto, needed: u64) -> Result<FileRange<'_>, TensorProblem> {
    let (mut location, mut offset, mut length, mut checksum) = (None, None, None, None);
    for entry in &proto.external_data {
        let slot = match entry.key.as_str() {
            "location" => &mut location,
            "offset" => &mut offset,
            "length" => &mut length,
            "checksum" => &mut checksum,
            other => return Err(TensorProblem::External(format!("unknown key {}", quoted(other)))),
        };
        if slot.replace(entry.value.as_str()).is_some() {
            return Err(TensorProblem::External(format!("{} is given twice", entry.key)));
        }
    }
    let number = |key: &str, value: Option<&str>| match value {
        None => Ok(None),
        Some(v) => v
            .parse::<u64>()
            .map(Some)
            .map_err(|_| TensorProblem::External(format!("{key} is {}, which is no byte count", quoted(v)))),
    };
    Ok(FileRange {
        location: location.ok_or_else(|| TensorProblem::External("no location".into()))?,
        offset: number("offset", offset)?.unwrap_or(0),
        length: number("length", length)?.unwrap_or(needed),
        checksum: checksum.is_some(),
    })
}

fn from_typed(dtype: DType, shape: Shape, source: Source<'_>) -> Result<Tensor, TensorProblem> {
    Ok(match source {
        Source::F32(v) if dtype == DType::C64 => Tensor::from_vec(shape, pairs(v))?,
        Source::F64(v) if dtype == DType::C128 => Tensor::from_vec(shape, pairs(v))?,
        Source::F32(v) => Tensor::from_vec(shape, v.to_vec())?,
        Source::F64(v) => Tensor::from_vec(shape, v.to_vec())?,
        Source::I64(v) => Tensor::from_vec(shape, v.to_vec())?,
        Source::U64(v) if dtype == DType::U64 => Tensor::from_vec(shape, v.to_vec())?,
        Source::U64(v) => {
            let narrow = |(index, &x): (usize, &u64)| {
                // The value is reported as far as it fits the error.
                let value = i32::try_from(x).unwrap_or(i32::MAX);
                u32::try_from(x).map_err(|_| TensorProblem::Value { index, value, dtype })
            };
            Tensor::from_vec(shape, v.iter().enumerate().map(narrow).collect::<Result<Vec<u32>, _>>()?)?
        }
        Source::Strings(v) => {
            let text = |(index, b): (usize, &Bytes)| match std::str::from_utf8(b) {
                Ok(s) => Ok(s.to_owned()),
                Err(_) => Err(TensorProblem::Text { index }),
            };
            Tensor::from_strings(shape, v.iter().enumerate().map(text).collect::<Result<_, _>>()?)?
        }
        Source::I32(v) => from_int32(dtype, shape, v)?,
        Source::Raw(_) | Source::File(_) => unreachable!("bytes are taken as they are"),
    })
}

fn from_int32(dtype: DType, shape: Shape, v: &[i32]) -> Result<Tensor, TensorProblem> {
    Ok(match dtype {
        DType::I32 => Tensor::from_vec(shape, v.to_vec())?,
        DType::I16 => Tensor::from_vec(shape, narrow::<i16>(dtype, v)?)?,
        DType::I8 => Tensor::from_vec(shape, narrow::<i8>(dtype, v)?)?,
        DType::Bool => Tensor::from_bools(shape, v.iter().map(|&x| x != 0).collect())?,
        DType::U16 | DType::F16 | DType::BF16 => {
            Tensor::from_vec(shape, narrow::<u16>(dtype, v)?)?.bitcast(dtype)?
        }
        // One-byte types as their bits, narrower types as bytes that several elements share.
        _ => Tensor::from_bytes(dtype, shape, Bytes::from(narrow::<u8>(dtype, v)?))?,
    })
}

fn narrow<T: TryFrom<i32>>(dtype: DType, v: &[i32]) -> Result<Vec<T>, TensorProblem> {
    v.iter()
        .enumerate()
        .map(|(index, &value)| T::try_from(value).map_err(|_| TensorProblem::Value { index, value, dtype }))
        .collect()
}

fn pairs<T: Copy>(v: &[T]) -> Vec<Complex<T>>
where
    Complex<T>: Element,
{
    v.chunks_exact(2).map(|p| Complex { re: p[0], im: p[1] }).collect()
}
