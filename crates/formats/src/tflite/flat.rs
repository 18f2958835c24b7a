//! FlatBuffers, as far as models use them: tables, vectors and strings behind offsets that are not trusted.
//!
//! The `flatbuffers` crate is safe to use only behind a verifier that is generated with the types of a schema,
//! and needs as much generated code as the schema is long, of which a reader wants a tenth. Reading a table takes
//! an offset, a table of offsets and a bounds check, so this is all of it, and the checks are made where the
//! bytes are read. Nothing is followed twice and nothing recurses: callers walk a fixed depth of tables.

use std::ops::Range;

/// An offset or length that the bytes do not bear out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FlatError {
    /// Where it was read.
    pub(super) offset: usize,
    /// What is wrong.
    pub(super) what: &'static str,
}

type Result<T> = std::result::Result<T, FlatError>;

/// The bytes of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flat<'a>(pub(super) &'a [u8]);

/// A table: fields, each of which may be left out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table<'a> {
    flat: Flat<'a>,
    /// Where it begins.
    at: usize,
    /// Where the offsets of its fields are.
    slots: usize,
    /// Number of fields that have an offset, be it zero.
    count: usize,
    /// Bytes of the table itself.
    size: usize,
}

/// A vector whose elements all lie inside the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Vector<'a> {
    flat: Flat<'a>,
    start: usize,
    len: usize,
}

impl<'a> Flat<'a> {
    fn array<const N: usize>(&self, at: usize) -> Result<[u8; N]> {
        let end = at.checked_add(N).filter(|e| *e <= self.0.len());
        let bytes = end.and_then(|e| self.0.get(at..e)).and_then(|b| b.try_into().ok());
        bytes.ok_or(FlatError { offset: at, what: "reaches past the end of the file" })
    }

    fn u32(&self, at: usize) -> Result<usize> {
        Ok(u32::from_le_bytes(self.array(at)?) as usize)
    }

    fn u16(&self, at: usize) -> Result<usize> {
        Ok(usize::from(u16::from_le_bytes(self.array(at)?)))
    }

    /// Where the offset at a place leads.
    fn target(&self, at: usize) -> Result<usize> {
        let past = FlatError { offset: at, what: "an offset leads past the end of the file" };
        let to = at.checked_add(self.u32(at)?).ok_or(past)?;
        if to < self.0.len() { Ok(to) } else { Err(past) }
    }

    /// The table that the file begins with.
    pub(super) fn root(self) -> Result<Table<'a>> {
        self.table(self.target(0)?)
    }

    /// The table at a place.
    pub(super) fn table(self, at: usize) -> Result<Table<'a>> {
        let back = i64::from(i32::from_le_bytes(self.array(at)?));
        let outside = FlatError { offset: at, what: "the list of a table's fields lies outside the file" };
        let vtable = usize::try_from(at as i64 - back).map_err(|_| outside)?;
        let (length, size) =
            (self.u16(vtable).map_err(|_| outside)?, self.u16(vtable + 2).map_err(|_| outside)?);
        let wrong =
            FlatError { offset: vtable, what: "the list of a table's fields has an impossible length" };
        if length < 4 || length % 2 != 0 || size < 4 {
            return Err(wrong);
        }
        if vtable + length > self.0.len() || at + size > self.0.len() {
            return Err(FlatError { offset: vtable, what: "a table reaches past the end of the file" });
        }
        Ok(Table { flat: self, at, slots: vtable + 4, count: (length - 4) / 2, size })
    }

    /// The vector at a place, of elements of so many bytes.
    fn vector(self, at: usize, width: usize) -> Result<Vector<'a>> {
        let len = self.u32(at)?;
        let start = at + 4;
        let end = len.checked_mul(width).and_then(|n| n.checked_add(start));
        if end.is_none_or(|e| e > self.0.len()) {
            return Err(FlatError { offset: at, what: "a vector is longer than the file" });
        }
        Ok(Vector { flat: self, start, len })
    }
}

impl<'a> Table<'a> {
    /// Where it begins.
    pub(super) fn place(&self) -> usize {
        self.at
    }

    /// Where a field of so many bytes is, if it is there.
    fn field(&self, field: usize, width: usize) -> Result<Option<usize>> {
        if field >= self.count {
            return Ok(None);
        }
        let slot = self.slots + 2 * field;
        match self.flat.u16(slot)? {
            0 => Ok(None),
            n if n < 4 || n + width > self.size => {
                Err(FlatError { offset: slot, what: "a field lies outside its table" })
            }
            n => Ok(Some(self.at + n)),
        }
    }

    /// Numbers of the fields that are there.
    pub(super) fn present(&self) -> Result<Vec<usize>> {
        let mut out = vec![];
        for field in 0..self.count {
            if self.field(field, 0)?.is_some() {
                out.push(field);
            }
        }
        Ok(out)
    }

    fn scalar<const N: usize>(&self, field: usize) -> Result<Option<[u8; N]>> {
        self.field(field, N)?.map(|at| self.flat.array(at)).transpose()
    }

    pub(super) fn u8(&self, field: usize) -> Result<Option<u8>> {
        Ok(self.scalar::<1>(field)?.map(|[b]| b))
    }

    pub(super) fn i32(&self, field: usize) -> Result<Option<i32>> {
        Ok(self.scalar(field)?.map(i32::from_le_bytes))
    }

    pub(super) fn u32(&self, field: usize) -> Result<Option<u32>> {
        Ok(self.scalar(field)?.map(u32::from_le_bytes))
    }

    pub(super) fn u64(&self, field: usize) -> Result<Option<u64>> {
        Ok(self.scalar(field)?.map(u64::from_le_bytes))
    }

    pub(super) fn f32(&self, field: usize) -> Result<Option<f32>> {
        Ok(self.scalar(field)?.map(f32::from_le_bytes))
    }

    /// Another table.
    pub(super) fn table(&self, field: usize) -> Result<Option<Table<'a>>> {
        let Some(at) = self.field(field, 4)? else { return Ok(None) };
        self.flat.table(self.flat.target(at)?).map(Some)
    }

    /// A vector of elements of so many bytes; an empty one where there is none.
    pub(super) fn vector(&self, field: usize, width: usize) -> Result<Vector<'a>> {
        let Some(at) = self.field(field, 4)? else {
            return Ok(Vector { flat: self.flat, start: 0, len: 0 });
        };
        self.flat.vector(self.flat.target(at)?, width)
    }

    /// Text; what is no UTF-8 is replaced, since names decide nothing.
    pub(super) fn text(&self, field: usize) -> Result<String> {
        let v = self.vector(field, 1)?;
        Ok(String::from_utf8_lossy(&self.flat.0[v.bytes()]).into_owned())
    }
}

impl<'a> Vector<'a> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Where the elements are, which are bytes.
    pub(super) fn bytes(&self) -> Range<usize> {
        self.start..self.start + self.len
    }

    fn arrays<const N: usize>(self) -> impl Iterator<Item = [u8; N]> {
        let bytes = self.flat.0.get(self.start..self.start + self.len * N).unwrap_or_default();
        bytes.chunks_exact(N).map(|c| c.try_into().expect("chunks of this length"))
    }

    pub(super) fn i32s(self) -> impl Iterator<Item = i32> {
        self.arrays().map(i32::from_le_bytes)
    }

    pub(super) fn f32s(self) -> impl Iterator<Item = f32> {
        self.arrays().map(f32::from_le_bytes)
    }

    pub(super) fn i64s(self) -> impl Iterator<Item = i64> {
        self.arrays().map(i64::from_le_bytes)
    }

    /// The tables that the elements lead to.
    pub(super) fn tables(self) -> impl Iterator<Item = Result<Table<'a>>> {
        (0..self.len).map(move |i| self.flat.table(self.flat.target(self.start + 4 * i)?))
    }
}
