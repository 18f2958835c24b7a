//! NumPy's archives of arrays: zip files of `.npy` entries.

use crate::{
    Tensor, TensorError,
    npy::{file_error, parse_npy, read_regular, write_array},
    replace_file,
};
use bytes::Bytes;
use std::{
    io::{self, Cursor, Read},
    path::Path,
};
use zip::{CompressionMethod, ZipArchive, ZipWriter, write::SimpleFileOptions};

/// Bytes that an archive may unpack to when it is smaller than that itself.
const DEFAULT_LIMIT: u64 = 4 << 30;
/// No deflate stream unpacks to more than this many times its size.
const DEFLATE_RATIO: u64 = 1032;

/// Reads a `.npz` file: its arrays under their names, in the order of the file. Entries may be stored or
/// deflated, and unpack to 4 GiB together or to the size of the file, whichever is more.
///
/// # Errors
/// [`TensorError::File`] when the file cannot be read, is damaged, unpacks to too much, has two entries of
/// one name or entries that share bytes, or holds anything but arrays that [`read_npy`](crate::read_npy) knows.
pub fn read_npz(path: impl AsRef<Path>) -> Result<Vec<(String, Tensor)>, TensorError> {
    let path = path.as_ref();
    let bytes = read_regular(path)?;
    let limit = DEFAULT_LIMIT.max(bytes.len() as u64);
    parse_npz(&path.to_string_lossy(), &bytes, limit)
}

/// As [`read_npz`], from bytes, with at most `limit` bytes of arrays; errors call it `name`.
///
/// # Errors
/// As [`read_npz`].
pub fn parse_npz(name: &str, bytes: &[u8], limit: u64) -> Result<Vec<(String, Tensor)>, TensorError> {
    let bad = |what: String| TensorError::File { path: name.to_string(), what };
    let failed = |e: zip::result::ZipError| bad(e.to_string());
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(failed)?;
    if archive.has_duplicate_names() {
        return Err(bad("two entries have the same name".to_string()));
    }
    if archive.has_overlapping_entries().map_err(failed)? {
        return Err(bad("entries share bytes".to_string()));
    }
    let mut left = limit;
    let mut out = Vec::new();
    for i in 0..archive.len() {
        let entry = archive.by_index(i).map_err(failed)?;
        let full = entry.name().map_err(failed)?.into_owned();
        let Some(key) = full.strip_suffix(".npy") else {
            return Err(bad(format!("entry `{}` is not an array", full.escape_debug())));
        };
        let inside =
            |what: String| TensorError::File { path: format!("{name}:{}", full.escape_debug()), what };
        let size = entry.size();
        if size > left {
            return Err(inside(format!(
                "unpacks to {size} bytes, more than the limit leaves ({left} of {limit})"
            )));
        }
        left -= size;
        let there = entry.compressed_size().min(bytes.len() as u64);
        let likely = size.min(there.saturating_mul(DEFLATE_RATIO));
        let mut data = Vec::new();
        usize::try_from(likely)
            .ok()
            .and_then(|n| data.try_reserve_exact(n).ok())
            .ok_or_else(|| inside(format!("no memory for {likely} bytes")))?;
        entry.take(size.saturating_add(1)).read_to_end(&mut data).map_err(|e| inside(e.to_string()))?;
        if data.len() as u64 != size {
            return Err(inside(format!("declares {size} bytes, but unpacks to other than that")));
        }
        out.push((
            key.to_string(),
            parse_npy(&format!("{name}:{}", full.escape_debug()), Bytes::from(data))?,
        ));
    }
    Ok(out)
}

/// Writes a `.npz` file that NumPy reads, uncompressed, replacing what was there only once all is written.
/// The same tensors give the same bytes.
///
/// # Errors
/// [`TensorError::File`] as for [`write_npy`](crate::write_npy), and when two tensors have the same name.
pub fn write_npz(path: impl AsRef<Path>, tensors: &[(&str, &Tensor)]) -> Result<(), TensorError> {
    let path = path.as_ref();
    replace_file(path, |file| {
        let mut archive = ZipWriter::new(file);
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(zip::DateTime::default())
            // Sizes come before the data, when it is not known yet whether they will be beyond 4 GiB.
            .large_file(true);
        for (name, tensor) in tensors {
            let named = |e: io::Error| io::Error::new(e.kind(), format!("`{}`: {e}", name.escape_debug()));
            archive.start_file(format!("{name}.npy"), options).map_err(io::Error::from).map_err(named)?;
            write_array(&mut archive, tensor).map_err(named)?;
        }
        archive.finish().map_err(io::Error::from)?;
        Ok(())
    })
    .map_err(|e| file_error(path, &e))
}

#[cfg(test)]
#[path = "npz_tests.rs"]
mod tests;
