//! NumPy's array files.

use crate::{DType, Shape, Tensor, TensorError, replace_file};
use bytes::Bytes;
use std::{
    fs,
    io::{self, Write},
    path::Path,
};

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// NumPy's own limit.
const MAX_RANK: usize = 64;

/// Reads a `.npy` file.
///
/// Row- and column-major arrays of either byte order: bool, integers, floats from 16 to 64 bits, complex
/// numbers, text (`U`, and `S` where it is UTF-8).
///
/// # Errors
/// [`TensorError::File`] when the file cannot be read, is damaged, or holds objects, records or dates.
pub fn read_npy(path: impl AsRef<Path>) -> Result<Tensor, TensorError> {
    let path = path.as_ref();
    parse_npy(&path.to_string_lossy(), Bytes::from(read_regular(path)?))
}

/// As [`read_npy`], from bytes, which are shared rather than copied where their order allows; errors call
/// them `name`.
///
/// # Errors
/// As [`read_npy`].
pub fn parse_npy(name: &str, bytes: Bytes) -> Result<Tensor, TensorError> {
    parse(&bytes).map_err(|what| TensorError::File { path: name.to_string(), what })
}

/// Writes a `.npy` file, replacing what was there only once all is written.
///
/// # Errors
/// [`TensorError::File`] when it cannot be written, or for types that NumPy lacks: `bf16`, floats of 8 bits
/// and less, integers of 4 and 2 bits. Cast these first.
pub fn write_npy(path: impl AsRef<Path>, tensor: &Tensor) -> Result<(), TensorError> {
    let path = path.as_ref();
    replace_file(path, |w| write_array(w, tensor)).map_err(|e| file_error(path, &e))
}

pub(crate) fn file_error(path: &Path, error: &io::Error) -> TensorError {
    TensorError::File { path: path.to_string_lossy().into_owned(), what: error.to_string() }
}

pub(crate) fn read_regular(path: &Path) -> Result<Vec<u8>, TensorError> {
    let read = || {
        // Opening a FIFO would block: look before opening.
        if !fs::metadata(path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        fs::read(path)
    };
    read().map_err(|e| file_error(path, &e))
}

/// What the header says of the elements.
#[derive(Clone, Copy)]
struct Elements {
    kind: Kind,
    /// Bytes of one.
    size: usize,
    /// Bytes of what a byte swap turns around; 1 when there is nothing to swap.
    swap: usize,
}

#[derive(Clone, Copy)]
enum Kind {
    Plain(DType),
    Utf32,
    Bytes,
}

fn parse(bytes: &Bytes) -> Result<Tensor, String> {
    let (text, at) = header(bytes)?;
    let (descr, column_major, dims) = Literal { rest: text }.array()?;
    let elements = elements(descr)?;
    let shape = Shape::from(dims);
    let there = bytes.len() - at;
    let count = shape.checked_numel();
    // Elements without bytes would let a few digits ask for any amount of memory.
    if elements.size == 0 && count != Some(0) {
        return Err("text of zero width".to_string());
    }
    let needed = count.and_then(|n| n.checked_mul(elements.size));
    if needed != Some(there) {
        let needed = needed.map_or("more than can be".to_string(), |n| n.to_string());
        return Err(format!(
            "an array `{descr}` of shape {shape} takes {needed} bytes, but {there} are there"
        ));
    }
    let mut data = bytes.slice(at..);
    if column_major && shape.iter().filter(|&&d| d != 1).count() > 1 {
        data = Bytes::from(row_major(&data, &shape, elements.size));
    }
    if elements.swap > 1 {
        let mut swapped = Vec::from(data);
        swapped.chunks_exact_mut(elements.swap).for_each(<[u8]>::reverse);
        data = Bytes::from(swapped);
    }
    match elements.kind {
        Kind::Plain(dtype) => Tensor::from_bytes(dtype, shape, data),
        _ if data.is_empty() => Tensor::from_strings(shape, Vec::new()),
        Kind::Utf32 => {
            Tensor::from_strings(shape, data.chunks(elements.size).map(utf32).collect::<Result<_, _>>()?)
        }
        Kind::Bytes => {
            Tensor::from_strings(shape, data.chunks(elements.size).map(utf8).collect::<Result<_, _>>()?)
        }
    }
    .map_err(|e| e.to_string())
}

/// The header's text, and where the data starts.
fn header(bytes: &[u8]) -> Result<(&str, usize), String> {
    let cut = || "the header is cut off".to_string();
    if !bytes.starts_with(MAGIC) {
        return Err("not a NumPy array file".to_string());
    }
    let (start, length) = match bytes.get(6..8).ok_or_else(cut)? {
        [1, 0] => (10, bytes.get(8..10).map(|b| usize::from(b[0]) | usize::from(b[1]) << 8)),
        [2 | 3, 0] => (12, bytes.get(8..12).map(|b| b.iter().rev().fold(0, |n, &b| n << 8 | usize::from(b)))),
        [major, minor] => return Err(format!("unknown format version {major}.{minor}")),
        _ => return Err(cut()),
    };
    let end = length.and_then(|l| l.checked_add(start)).ok_or_else(cut)?;
    let text = bytes.get(start..end).ok_or_else(cut)?;
    Ok((std::str::from_utf8(text).map_err(|_| "the header is not UTF-8".to_string())?, end))
}

/// A reader of the few Python literals that a header is made of. Nothing nests, so nothing recurses.
struct Literal<'a> {
    rest: &'a str,
}

impl<'a> Literal<'a> {
    fn skip(&mut self, token: &str) -> bool {
        self.rest = self.rest.trim_start();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: &str) -> Result<(), String> {
        if self.skip(token) { Ok(()) } else { Err(format!("the header is malformed: `{token}` missing")) }
    }

    fn string(&mut self) -> Result<&'a str, String> {
        let quote = if self.skip("'") {
            '\''
        } else if self.skip("\"") {
            '"'
        } else {
            return Err("the header has something else where text should be (a record array?)".to_string());
        };
        let (text, rest) =
            self.rest.split_once(quote).ok_or("the header is malformed: a string has no end")?;
        self.rest = rest;
        Ok(text)
    }

    fn dims(&mut self) -> Result<Vec<usize>, String> {
        self.expect("(")?;
        let mut dims = Vec::new();
        while !self.skip(")") {
            let digits = self.rest.len() - self.rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let (number, rest) = self.rest.split_at(digits);
            dims.push(number.parse().map_err(|_| "the header's shape is not one of sizes".to_string())?);
            if dims.len() > MAX_RANK {
                return Err(format!("more than {MAX_RANK} axes"));
            }
            self.rest = rest;
            // Python 2 wrote its long integers so.
            self.skip("L");
            if !self.skip(",") {
                self.expect(")")?;
                break;
            }
        }
        Ok(dims)
    }

    /// Type, whether column-major, and dims.
    fn array(mut self) -> Result<(&'a str, bool, Vec<usize>), String> {
        let (mut descr, mut order, mut dims) = (None, None, None);
        self.expect("{")?;
        while !self.skip("}") {
            let key = self.string()?;
            self.expect(":")?;
            let fresh = match key {
                "descr" => descr.replace(self.string()?).is_none(),
                "fortran_order" if self.skip("True") => order.replace(true).is_none(),
                "fortran_order" => {
                    self.expect("False")?;
                    order.replace(false).is_none()
                }
                "shape" => dims.replace(self.dims()?).is_none(),
                _ => false,
            };
            if !fresh {
                return Err(format!("the header's key `{}` is unknown or double", key.escape_debug()));
            }
            if !self.skip(",") {
                self.expect("}")?;
                break;
            }
        }
        if !self.rest.trim().is_empty() {
            return Err("the header goes on after its end".to_string());
        }
        match (descr, order, dims) {
            (Some(descr), Some(order), Some(dims)) => Ok((descr, order, dims)),
            _ => Err("the header lacks `descr`, `fortran_order` or `shape`".to_string()),
        }
    }
}

fn elements(descr: &str) -> Result<Elements, String> {
    let unsupported = || format!("arrays of type `{}` are not supported", descr.escape_debug());
    let (order, rest) = descr.split_at_checked(1).ok_or_else(unsupported)?;
    let (kind, width) = rest.split_at_checked(1).ok_or_else(unsupported)?;
    let width: usize = width.parse().map_err(|_| unsupported())?;
    let big = match order {
        "<" | "|" | "=" => false,
        ">" => true,
        _ => return Err(unsupported()),
    };
    let plain = |dtype: DType, component: usize| Elements {
        kind: Kind::Plain(dtype),
        size: width,
        swap: if big { component } else { 1 },
    };
    Ok(match (kind, width) {
        ("b", 1) => plain(DType::Bool, 1),
        ("i", 1) => plain(DType::I8, 1),
        ("i", 2) => plain(DType::I16, 2),
        ("i", 4) => plain(DType::I32, 4),
        ("i", 8) => plain(DType::I64, 8),
        ("u", 1) => plain(DType::U8, 1),
        ("u", 2) => plain(DType::U16, 2),
        ("u", 4) => plain(DType::U32, 4),
        ("u", 8) => plain(DType::U64, 8),
        ("f", 2) => plain(DType::F16, 2),
        ("f", 4) => plain(DType::F32, 4),
        ("f", 8) => plain(DType::F64, 8),
        ("c", 8) => plain(DType::C64, 4),
        ("c", 16) => plain(DType::C128, 8),
        ("U", _) => {
            let size = width.checked_mul(4).ok_or_else(unsupported)?;
            Elements { kind: Kind::Utf32, size, swap: if big { 4 } else { 1 } }
        }
        ("S", _) => Elements { kind: Kind::Bytes, size: width, swap: 1 },
        ("O", _) => return Err("arrays of Python objects are pickles, which are never read".to_string()),
        _ => return Err(unsupported()),
    })
}

fn utf32(data: &[u8]) -> Result<String, String> {
    let code = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    // Text is padded with zeros to the array's width.
    let len = data.chunks_exact(4).rposition(|b| code(b) != 0).map_or(0, |last| last + 1);
    let text: Option<String> = data.chunks_exact(4).take(len).map(|b| char::from_u32(code(b))).collect();
    text.ok_or_else(|| "text that is not Unicode".to_string())
}

fn utf8(data: &[u8]) -> Result<String, String> {
    let len = data.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1);
    String::from_utf8(data[..len].to_vec()).map_err(|_| "byte strings that are not UTF-8".to_string())
}

/// Elements of `size` bytes from column-major to row-major order.
fn row_major(data: &[u8], shape: &Shape, size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len());
    let mut strides = vec![size; shape.rank()];
    for i in 1..strides.len() {
        strides[i] = strides[i - 1].saturating_mul(shape[i - 1]);
    }
    let mut index = vec![0; shape.rank()];
    let mut at = 0;
    while out.len() < data.len() {
        out.extend_from_slice(&data[at..at + size]);
        for axis in (0..index.len()).rev() {
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            at -= strides[axis] * shape[axis];
            index[axis] = 0;
        }
    }
    out
}

/// Writes header and elements.
pub(crate) fn write_array(w: &mut impl Write, tensor: &Tensor) -> io::Result<()> {
    let invalid = |what: String| io::Error::new(io::ErrorKind::InvalidInput, what);
    let width = match tensor.strings() {
        Ok(strings) => {
            if strings.iter().any(|s| s.ends_with('\0')) {
                return Err(invalid("NumPy cannot hold text that ends in a zero character".to_string()));
            }
            strings.iter().map(|s| s.chars().count()).max().unwrap_or(0).max(1)
        }
        Err(_) => 0,
    };
    let descr = match tensor.dtype() {
        DType::Bool => "|b1".to_string(),
        DType::I8 => "|i1".to_string(),
        DType::U8 => "|u1".to_string(),
        DType::Str => format!("<U{width}"),
        d @ (DType::I16 | DType::I32 | DType::I64) => format!("<i{}", d.bits() / 8),
        d @ (DType::U16 | DType::U32 | DType::U64) => format!("<u{}", d.bits() / 8),
        d @ (DType::F16 | DType::F32 | DType::F64) => format!("<f{}", d.bits() / 8),
        d @ (DType::C64 | DType::C128) => format!("<c{}", d.bits() / 8),
        d => return Err(invalid(format!("NumPy has no type for {d}: cast it first"))),
    };
    let dims: String = match tensor.shape().dims() {
        [one] => format!("{one},"),
        dims => dims.iter().map(usize::to_string).collect::<Vec<_>>().join(", "),
    };
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({dims}), }}");
    // The data starts at a multiple of 64, as NumPy pads it, so that it can be mapped.
    header.extend(std::iter::repeat_n(' ', (64 - (10 + header.len() + 1) % 64) % 64));
    header.push('\n');
    let length = u16::try_from(header.len()).map_err(|_| invalid("too many axes".to_string()))?;
    w.write_all(MAGIC)?;
    w.write_all(&[1, 0])?;
    w.write_all(&length.to_le_bytes())?;
    w.write_all(header.as_bytes())?;
    let Ok(strings) = tensor.strings() else { return w.write_all(tensor.bytes()) };
    let mut cell = Vec::with_capacity(width * 4);
    for s in strings {
        cell.clear();
        cell.extend(s.chars().flat_map(|c| u32::from(c).to_le_bytes()));
        cell.resize(width * 4, 0);
        w.write_all(&cell)?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "npy_tests.rs"]
mod tests;
