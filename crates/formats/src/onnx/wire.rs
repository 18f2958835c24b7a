//! A walk over the encoded message before it is decoded: it finds what is malformed or too much while
//! nothing has been allocated yet, and knows the path and the byte of what it finds.

use super::{
    OnnxError, ParseLimits, Warning,
    schema::{Field, Kind},
};
use bytes::Bytes;

/// Messages inside each other: the decoder stops at 100, and a better error is wanted before that.
const MAX_DEPTH: usize = 96;
/// Kinds of unknown fields that are reported; a file of noise could have any number.
const MAX_WARNINGS: usize = 32;

struct Frame {
    kind: Kind,
    field: &'static str,
    index: u32,
    end: usize,
    seen: [u32; 27],
}

struct Scan<'a> {
    bytes: &'a [u8],
    limits: &'a ParseLimits,
    at: usize,
    stack: Vec<Frame>,
    nodes: u64,
    memory: u64,
    warnings: Vec<Warning>,
}

/// Checks and decodes a message of kind `kind`, which `M` must be.
pub(crate) fn decode<M: prost::Message + Default>(
    kind: Kind,
    bytes: Bytes,
    limits: &ParseLimits,
) -> Result<(M, Vec<Warning>), OnnxError> {
    let warnings = scan(kind, &bytes, limits)?;
    let message = M::decode(bytes).map_err(|e| OnnxError::Wire {
        at: kind.name().to_owned(),
        offset: 0,
        what: e.to_string(),
    })?;
    Ok((message, warnings))
}

fn scan(kind: Kind, bytes: &[u8], limits: &ParseLimits) -> Result<Vec<Warning>, OnnxError> {
    let mut scan =
        Scan { bytes, limits, at: 0, stack: Vec::new(), nodes: 0, memory: 0, warnings: Vec::new() };
    scan.enter(kind, kind.name(), 0, bytes.len())?;
    while let Some(frame) = scan.stack.last() {
        if scan.at == frame.end {
            scan.stack.pop();
        } else {
            scan.field()?;
        }
    }
    Ok(scan.warnings)
}

impl Scan<'_> {
    fn field(&mut self) -> Result<(), OnnxError> {
        let start = self.at;
        let key = self.varint("")?;
        let (number, wire_type) = (key >> 3, key & 7);
        let number = match u32::try_from(number) {
            Ok(n @ 1..0x2000_0000) => n,
            _ => return Err(self.wire("", start, "a field number out of range")),
        };
        let frame = self.top();
        let kind = frame.kind;
        let known = kind.field(number);
        let name = known.map_or("an unknown field", |(name, _)| name);
        match wire_type {
            0 => {
                self.varint(name)?;
            }
            1 => self.skip(name, 8)?,
            2 => {
                let length = self.varint(name)?;
                let left = (self.top().end - self.at) as u64;
                if length > left {
                    return Err(self.wire(
                        name,
                        start,
                        format!("a length of {length} where {left} bytes are left"),
                    ));
                }
                // At most the bytes that are left, hence a usize.
                return self.delimited(number, known, start, length as usize);
            }
            5 => self.skip(name, 4)?,
            _ => return Err(self.wire(name, start, format!("wire type {wire_type}"))),
        }
        match known {
            None => self.unknown(kind, number),
            Some((_, Field::Varint(size))) if wire_type == 0 => self.charge(name, size)?,
            Some((_, Field::Fixed32)) if wire_type == 5 => self.charge(name, 4)?,
            Some((_, Field::Fixed64)) if wire_type == 1 => self.charge(name, 8)?,
            Some(_) => {
                return Err(self.wire(name, start, format!("wire type {wire_type} does not fit the field")));
            }
        }
        Ok(())
    }

    fn delimited(
        &mut self,
        number: u32,
        known: Option<(&'static str, Field)>,
        start: usize,
        length: usize,
    ) -> Result<(), OnnxError> {
        let payload = &self.bytes[self.at..self.at + length];
        let Some((name, field)) = known else {
            let kind = self.top().kind;
            self.unknown(kind, number);
            self.at += length;
            return Ok(());
        };
        match field {
            Field::Message(kind) => {
                let seen = &mut self.stack.last_mut().expect("a field is read inside a message").seen
                    [number as usize];
                let index = *seen;
                *seen = seen.saturating_add(1);
                return self.enter(kind, name, index, self.at + length);
            }
            Field::Text => {
                if let Err(e) = std::str::from_utf8(payload) {
                    return Err(self.wire(name, start, format!("text that is not UTF-8 ({e})")));
                }
                self.charge(name, (size_of::<String>() + length) as u64)?;
            }
            Field::Bytes => self.charge(name, size_of::<Bytes>() as u64)?,
            Field::Varint(size) => {
                let count = payload.iter().filter(|&&b| b < 0x80).count() as u64;
                self.charge(name, count.saturating_mul(size))?;
            }
            Field::Fixed32 | Field::Fixed64 => {
                let size = if field == Field::Fixed32 { 4 } else { 8 };
                if !length.is_multiple_of(size) {
                    return Err(self.wire(
                        name,
                        start,
                        format!("{length} bytes, which is no multiple of {size}"),
                    ));
                }
                self.charge(name, length as u64)?;
            }
        }
        self.at += length;
        Ok(())
    }

    fn enter(&mut self, kind: Kind, field: &'static str, index: u32, end: usize) -> Result<(), OnnxError> {
        self.charge(field, kind.size())?;
        if self.stack.len() >= MAX_DEPTH {
            return Err(self.wire(
                field,
                self.at,
                format!("messages inside each other, more than {MAX_DEPTH} deep"),
            ));
        }
        match kind {
            Kind::Node => {
                self.nodes += 1;
                if self.nodes > self.limits.max_nodes {
                    return Err(self.limit(field, "nodes", self.limits.max_nodes, "max_nodes"));
                }
            }
            Kind::Graph => {
                let bodies = self.stack.iter().filter(|f| f.kind == Kind::Graph).count() as u64;
                if bodies > self.limits.max_nesting {
                    return Err(self.limit(
                        field,
                        "graphs inside each other",
                        self.limits.max_nesting,
                        "max_nesting",
                    ));
                }
            }
            _ => {}
        }
        self.stack.push(Frame { kind, field, index, end, seen: [0; 27] });
        Ok(())
    }

    fn charge(&mut self, field: &'static str, bytes: u64) -> Result<(), OnnxError> {
        self.memory = self.memory.saturating_add(bytes);
        if self.memory > self.limits.max_decoded_bytes {
            let limit = self.limits.max_decoded_bytes;
            return Err(self.limit(field, "decoded messages, in bytes,", limit, "max_decoded_bytes"));
        }
        Ok(())
    }

    fn unknown(&mut self, kind: Kind, field: u32) {
        let warning = Warning::UnknownField { message: kind.name(), field };
        if self.warnings.len() < MAX_WARNINGS && !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    fn varint(&mut self, field: &'static str) -> Result<u64, OnnxError> {
        let start = self.at;
        let end = self.top().end;
        let mut value = 0u64;
        for i in 0..10 {
            if self.at == end {
                return Err(self.wire(field, start, "a number that the message's end cuts off"));
            }
            let byte = self.bytes[self.at];
            self.at += 1;
            if i == 9 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.wire(field, start, "a number of more than 64 bits"))
    }

    fn skip(&mut self, field: &'static str, count: usize) -> Result<(), OnnxError> {
        if self.top().end - self.at < count {
            return Err(self.wire(field, self.at, "a number that the message's end cuts off"));
        }
        self.at += count;
        Ok(())
    }

    fn top(&self) -> &Frame {
        self.stack.last().expect("a field is read inside a message")
    }

    fn path(&self, field: &str) -> String {
        let mut path = String::new();
        for (depth, frame) in self.stack.iter().enumerate() {
            if depth == 0 {
                path.push_str(frame.field);
            } else {
                path.push_str(&format!(".{}[{}]", frame.field, frame.index));
            }
        }
        if !self.stack.is_empty() && !field.is_empty() {
            path.push('.');
        }
        path + field
    }

    fn wire(&self, field: &str, offset: usize, what: impl Into<String>) -> OnnxError {
        OnnxError::Wire { at: self.path(field), offset, what: what.into() }
    }

    fn limit(&self, at: &str, what: &'static str, limit: u64, field: &'static str) -> OnnxError {
        OnnxError::Limit { at: self.path(at), what, limit, field }
    }
}
