use super::{
    TfliteError,
    error::TfliteError as E,
    flat::{Flat, Table, Vector},
    limits::ParseLimits,
    model::{Model, Operator, OperatorCode, Quantization, SubGraph, TensorInfo},
};
use bytes::Bytes;
use std::{fmt::Display, ops::Range};

type Result<T> = std::result::Result<T, TfliteError>;

/// The only version there has been since 2017.
const VERSION: u32 = 3;
/// Most axes of a tensor.
const MAX_RANK: usize = 64;
/// Bytes of memory that a byte of file may ask for: a list of offsets may lead to one long vector again and again.
const GROWTH: u64 = 32;

/// Fields of the tables, by their place in the schema.
mod field {
    pub(super) mod model {
        pub(in super::super) const VERSION: usize = 0;
        pub(in super::super) const CODES: usize = 1;
        pub(in super::super) const SUBGRAPHS: usize = 2;
        pub(in super::super) const DESCRIPTION: usize = 3;
        pub(in super::super) const BUFFERS: usize = 4;
    }
    pub(super) mod operator {
        pub(in super::super) const CODE: usize = 0;
        pub(in super::super) const INPUTS: usize = 1;
        pub(in super::super) const OUTPUTS: usize = 2;
        pub(in super::super) const OPTIONS_TYPE: usize = 3;
        pub(in super::super) const OPTIONS: usize = 4;
        pub(in super::super) const NEWER_OPTIONS: usize = 12;
    }
    pub(super) mod tensor {
        pub(in super::super) const SHAPE: usize = 0;
        pub(in super::super) const DTYPE: usize = 1;
        pub(in super::super) const BUFFER: usize = 2;
        pub(in super::super) const NAME: usize = 3;
        pub(in super::super) const QUANTIZATION: usize = 4;
        pub(in super::super) const VARIABLE: usize = 5;
        pub(in super::super) const SPARSITY: usize = 6;
        pub(in super::super) const SIGNATURE: usize = 7;
    }
    pub(super) mod quantization {
        pub(in super::super) const SCALE: usize = 2;
        pub(in super::super) const ZERO: usize = 3;
        pub(in super::super) const DETAILS_TYPE: usize = 4;
        pub(in super::super) const AXIS: usize = 6;
    }
}

/// Reads a file.
///
/// # Errors
/// [`TfliteError`], which says where.
pub fn parse(bytes: Bytes, limits: &ParseLimits) -> Result<Model> {
    if bytes.get(4..8) != Some(b"TFL3") {
        return Err(E::NoIdentifier);
    }
    let root = Flat(&bytes).root().map_err(|e| E::flat("the model", e))?;
    let grown = (bytes.len() as u64).saturating_mul(GROWTH).saturating_add(64 << 10);
    let mut p = Parser {
        size: bytes.len(),
        left: limits.max_decoded_bytes.min(grown),
        allowed: limits.max_decoded_bytes.min(grown),
        nodes: 0,
        limits,
    };
    let version = at("version", root.u32(field::model::VERSION))?.unwrap_or(0);
    if version != VERSION {
        return Err(E::Version { found: version });
    }
    let description = p.text(&root, field::model::DESCRIPTION, "description")?;
    let codes = p.list(&root, field::model::CODES, "operator code", Parser::code)?;
    let buffers = p.list(&root, field::model::BUFFERS, "buffer", Parser::buffer)?;
    let counts = (codes.len(), buffers.len());
    let subgraphs =
        p.list(&root, field::model::SUBGRAPHS, "subgraph", |p, t, at| p.subgraph(t, at, counts))?;
    if subgraphs.is_empty() {
        return Err(E::NoGraph);
    }
    let max_tensor_bytes = limits.max_tensor_bytes;
    Ok(Model { bytes: bytes.clone(), description, codes, subgraphs, buffers, max_tensor_bytes })
}

/// Names the place of an error.
fn at<T>(place: impl Display, r: std::result::Result<T, super::flat::FlatError>) -> Result<T> {
    r.map_err(|e| E::flat(place, e))
}

struct Parser<'l> {
    /// Bytes of the file.
    size: usize,
    /// Bytes of memory that may still be used, of those allowed.
    left: u64,
    allowed: u64,
    nodes: u64,
    limits: &'l ParseLimits,
}

impl Parser<'_> {
    /// Asks for memory for so many elements.
    fn take<T>(&mut self, count: usize, place: &dyn Display) -> Result<()> {
        let bytes = (count as u64).saturating_mul(size_of::<T>() as u64);
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(E::Limit {
                at: place.to_string(),
                what: "what the file holds takes more bytes than its size bears out, which",
                limit: self.allowed,
                field: "max_decoded_bytes",
            }),
        }
    }

    fn text(&mut self, t: &Table<'_>, field: usize, place: impl Display) -> Result<String> {
        let v = at(&place, t.vector(field, 1))?;
        // What is no UTF-8 may grow by replacements.
        self.take::<[u8; 3]>(v.len(), &place)?;
        at(&place, t.text(field))
    }

    /// Elements of a vector, all read by `read`.
    fn elements<'a, T, I: Iterator<Item = T>>(
        &mut self,
        t: &Table<'a>,
        (field, width): (usize, usize),
        place: impl Display,
        read: fn(Vector<'a>) -> I,
    ) -> Result<Vec<T>> {
        let v = at(&place, t.vector(field, width))?;
        self.take::<T>(v.len(), &place)?;
        Ok(read(v).collect())
    }

    fn ints(&mut self, t: &Table<'_>, field: usize, place: impl Display) -> Result<Vec<i32>> {
        self.elements(t, (field, 4), place, |v| v.i32s())
    }

    /// Tables of a vector, each read by `read`, which is told its place.
    fn list<'a, T>(
        &mut self,
        t: &Table<'a>,
        field: usize,
        name: impl Display,
        mut read: impl FnMut(&mut Self, &Table<'a>, &dyn Display) -> Result<T>,
    ) -> Result<Vec<T>> {
        let v = at(&name, t.vector(field, 4))?;
        self.take::<T>(v.len(), &name)?;
        let mut out = Vec::with_capacity(v.len());
        for (i, entry) in v.tables().enumerate() {
            let place = format_args!("{name} {i}").to_string();
            out.push(read(self, &at(&place, entry)?, &place)?);
        }
        Ok(out)
    }

    fn code(&mut self, t: &Table<'_>, place: &dyn Display) -> Result<OperatorCode> {
        // The number was a byte once; the field for larger ones is left out, or holds the same.
        let old = at(place, t.u8(0))?.unwrap_or(0);
        let new = at(place, t.i32(3))?.unwrap_or(0);
        Ok(OperatorCode {
            builtin: new.max(i32::from(old as i8)),
            custom: self.text(t, 1, format_args!("{place}: custom_code"))?,
            version: at(place, t.i32(2))?.unwrap_or(1),
        })
    }

    /// Where a buffer's bytes are: in the FlatBuffer, or after it where that would be too long.
    fn buffer(&mut self, t: &Table<'_>, place: &dyn Display) -> Result<Range<usize>> {
        let inside = at(place, t.vector(0, 1))?;
        let offset = at(place, t.u64(1))?.unwrap_or(0);
        if offset <= 1 {
            return Ok(if inside.len() == 0 { 0..0 } else { inside.bytes() });
        }
        let size = at(place, t.u64(2))?.unwrap_or(0);
        let end = offset.checked_add(size).filter(|e| *e <= self.size as u64);
        match end {
            Some(end) if inside.len() == 0 => Ok(offset as usize..end as usize),
            Some(_) => E::value(place, "has bytes inside the structure and after it"),
            None => E::value(place, format!("{size} bytes at {offset} reach past the end of the file")),
        }
    }

    fn subgraph(
        &mut self,
        t: &Table<'_>,
        place: &dyn Display,
        (codes, buffers): (usize, usize),
    ) -> Result<SubGraph> {
        let tensors =
            self.list(t, 0, format_args!("{place}: tensor"), |p, t, at| p.tensor(t, at, buffers))?;
        let count = tensors.len();
        let operators = at(place, t.vector(3, 4))?.len();
        self.nodes += operators as u64;
        if self.nodes > self.limits.max_nodes {
            return Err(E::Limit {
                at: place.to_string(),
                what: "operators",
                limit: self.limits.max_nodes,
                field: "max_nodes",
            });
        }
        Ok(SubGraph {
            name: self.text(t, 4, format_args!("{place}: name"))?,
            inputs: self.indices(t, 1, &format_args!("{place}: inputs"), count)?,
            outputs: self.indices(t, 2, &format_args!("{place}: outputs"), count)?,
            operators: self
                .list(t, 3, format_args!("{place}: operator"), |p, t, at| p.operator(t, at, codes, count))?,
            tensors,
        })
    }

    fn indices(
        &mut self,
        t: &Table<'_>,
        field: usize,
        place: &dyn Display,
        count: usize,
    ) -> Result<Vec<usize>> {
        let given = self.ints(t, field, place)?;
        self.take::<usize>(given.len(), place)?;
        given.into_iter().map(|i| index(i, count, place)).collect()
    }

    fn operator(
        &mut self,
        t: &Table<'_>,
        place: &dyn Display,
        codes: usize,
        tensors: usize,
    ) -> Result<Operator> {
        use field::operator as f;
        let code = at(place, t.u32(f::CODE))?.unwrap_or(0) as usize;
        if code >= codes {
            return E::value(
                format_args!("{place}: opcode_index"),
                format!("{code} of {codes} operator codes"),
            );
        }
        let inputs = self.ints(t, f::INPUTS, format_args!("{place}: inputs"))?;
        self.take::<Option<usize>>(inputs.len(), place)?;
        let input = |i: i32| {
            if i == -1 { Ok(None) } else { index(i, tensors, &format_args!("{place}: inputs")).map(Some) }
        };
        Ok(Operator {
            code,
            inputs: inputs.into_iter().map(input).collect::<Result<_>>()?,
            outputs: self.indices(t, f::OUTPUTS, &format_args!("{place}: outputs"), tensors)?,
            options_type: at(place, t.u8(f::OPTIONS_TYPE))?.unwrap_or(0),
            options: at(format_args!("{place}: builtin_options"), t.table(f::OPTIONS))?.map(|t| t.place()),
            newer_options: at(place, t.u8(f::NEWER_OPTIONS))?.unwrap_or(0) != 0,
        })
    }

    fn tensor(&mut self, t: &Table<'_>, place: &dyn Display, buffers: usize) -> Result<TensorInfo> {
        use field::tensor as f;
        let name = self.text(t, f::NAME, format_args!("{place}: name"))?;
        let place = &format_args!("{place} {}", crate::text::quoted(&name)).to_string();
        let sizes = |p: &mut Self, field, name| -> Result<Vec<i32>> {
            let v = at(format_args!("{place}: {name}"), t.vector(field, 4))?;
            if v.len() > MAX_RANK {
                let what = format!("{} axes are more than {MAX_RANK}", v.len());
                return E::value(format_args!("{place}: {name}"), what);
            }
            p.ints(t, field, format_args!("{place}: {name}"))
        };
        let shape = sizes(self, f::SHAPE, "shape")?;
        let shape = shape.iter().map(|&n| {
            usize::try_from(n)
                .or_else(|_| E::value(format_args!("{place}: shape"), format!("an axis of size {n}")))
        });
        let shape = shape.collect::<Result<Vec<usize>>>()?;
        let signature = sizes(self, f::SIGNATURE, "shape_signature")?;
        let signature = (!signature.is_empty()).then_some(signature);
        let signature: Option<Vec<_>> =
            signature.map(|s| s.into_iter().map(|n| usize::try_from(n).ok()).collect());
        let signature = signature.filter(|s| s.len() == shape.len());
        let buffer = at(place, t.u32(f::BUFFER))?.unwrap_or(0) as usize;
        if buffer >= buffers.max(1) {
            return E::value(format_args!("{place}: buffer"), format!("{buffer} of {buffers} buffers"));
        }
        let quantization = match at(place, t.table(f::QUANTIZATION))? {
            None => None,
            Some(q) => self.quantization(&q, &format_args!("{place}: quantization"), &shape)?,
        };
        Ok(TensorInfo {
            name,
            dtype: at(place, t.u8(f::DTYPE))?.unwrap_or(0),
            shape,
            signature,
            buffer,
            quantization,
            variable: at(place, t.u8(f::VARIABLE))?.unwrap_or(0) != 0,
            sparse: at(place, t.table(f::SPARSITY))?.is_some(),
        })
    }

    fn quantization(
        &mut self,
        t: &Table<'_>,
        place: &dyn Display,
        shape: &[usize],
    ) -> Result<Option<Quantization>> {
        use field::quantization as f;
        if at(place, t.u8(f::DETAILS_TYPE))?.unwrap_or(0) != 0 {
            return Err(E::Unsupported { at: place.to_string(), what: "a scheme of its own is".into() });
        }
        let scale = self.elements(t, (f::SCALE, 4), format_args!("{place}: scale"), |v| v.f32s())?;
        let mut zero = self.elements(t, (f::ZERO, 8), format_args!("{place}: zero_point"), |v| v.i64s())?;
        // Ranges without scales are notes of the converter.
        if scale.is_empty() {
            return Ok(None);
        }
        if let Some(s) = scale.iter().find(|s| !(s.is_finite() && **s > 0.0)) {
            return E::value(format_args!("{place}: scale"), format!("{s} is no positive number"));
        }
        if zero.is_empty() {
            self.take::<i64>(scale.len(), place)?;
            zero = vec![0; scale.len()];
        }
        if zero.len() != scale.len() {
            let what = format!("{} zero points for {} scales", zero.len(), scale.len());
            return E::value(place, what);
        }
        let axis = at(place, t.i32(f::AXIS))?.unwrap_or(0);
        let given = usize::try_from(axis).ok().and_then(|a| shape.get(a));
        if scale.len() > 1 && given != Some(&scale.len()) {
            let what = format!("{} scales do not fit axis {axis} of {shape:?}", scale.len());
            return E::value(format_args!("{place}: quantized_dimension"), what);
        }
        Ok(Some(Quantization { scale, zero, axis: usize::try_from(axis).unwrap_or(0) }))
    }
}

/// An index of a tensor.
fn index(i: i32, count: usize, place: &dyn Display) -> Result<usize> {
    match usize::try_from(i).ok().filter(|i| *i < count) {
        Some(i) => Ok(i),
        None => E::value(place, format!("names tensor {i} of {count}")),
    }
}
