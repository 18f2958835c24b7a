//! Memory of packed weights: written once, then shared, and never moved.
//!
//! Weights are read from end to end in every run, so they lie close together on large pages; those pages
//! are fresh from the system, which saves filling them with zeros once more, and each is first touched by
//! the thread that writes it.

use crate::error::KernelError;
use crate::scratch::Buffer;
use bytes::Bytes;
use memmap2::{MmapMut, MmapRaw};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// What packed weights are aligned to: a cache line.
pub const ALIGNMENT: usize = 64;
/// Less than this comes from the allocator.
const SMALL: usize = 128 << 10;
/// Blocks from here on have pages of their own; those between share chunks of this size.
const CHUNK: usize = 32 << 20;

/// Packed floats. Clones share them.
#[derive(Clone)]
pub struct Packed(Bytes);

impl Packed {
    /// Floats that lie in memory already, in whole cache lines; `None` where the bytes do not.
    pub fn from_bytes(bytes: Bytes) -> Option<Packed> {
        let whole =
            (bytes.as_ptr() as usize).is_multiple_of(ALIGNMENT) && bytes.len().is_multiple_of(ALIGNMENT);
        // An empty slice may lie anywhere.
        (whole || bytes.is_empty()).then_some(Packed(bytes))
    }

    /// Room for `len` floats and for what is left of the last cache line, all zero, that `write` fills.
    pub(crate) fn build(len: usize, write: impl FnOnce(&mut [f32])) -> Result<Packed, KernelError> {
        let bytes = len.div_ceil(16).saturating_mul(64);
        if bytes < SMALL {
            let mut buffer = Buffer::default();
            buffer.reserve(len)?;
            write(buffer.as_mut_slice());
            return Ok(Packed(if bytes == 0 { Bytes::new() } else { Bytes::from_owner(buffer) }));
        }
        let mut part = Part::new(bytes).ok_or(KernelError::Memory { bytes })?;
        write(part.as_mut_slice());
        Ok(Packed(Bytes::from_owner(part)))
    }

    /// As [`Packed::build`], for bytes.
    pub(crate) fn build_bytes(len: usize, write: impl FnOnce(&mut [u8])) -> Result<Packed, KernelError> {
        Packed::build(len.div_ceil(4), |room| {
            // SAFETY: floats are bytes without padding, and any bytes are floats.
            write(unsafe { std::slice::from_raw_parts_mut(room.as_mut_ptr().cast(), size_of_val(room)) });
        })
    }

    /// The memory, in whole cache lines.
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }

    pub(crate) fn as_slice(&self) -> &[f32] {
        if self.0.is_empty() {
            return &[];
        }
        // SAFETY: both ways to make one align the bytes, and every pattern of four bytes is a float.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() / 4) }
    }
}

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Packed({} bytes)", self.0.len())
    }
}

/// A float as weights hold it: in memory, or as the four bytes of a file, which may lie anywhere.
pub trait Weight: Copy + Send + Sync {
    /// The float.
    fn float(self) -> f32;
}

impl Weight for f32 {
    #[inline(always)]
    fn float(self) -> f32 {
        self
    }
}

impl Weight for [u8; 4] {
    #[inline(always)]
    fn float(self) -> f32 {
        f32::from_le_bytes(self)
    }
}

/// Pages that several blocks share.
struct Chunk {
    map: MmapRaw,
    used: AtomicUsize,
}

impl Chunk {
    fn new(len: usize) -> Option<Arc<Chunk>> {
        let map = MmapMut::map_anon(len).ok()?;
        // Without large pages, small ones do as well.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Some(Arc::new(Chunk { map: map.into(), used: AtomicUsize::new(0) }))
    }

    /// Takes bytes that nobody else has or had.
    fn take(self: Arc<Chunk>, len: usize) -> Option<Part> {
        let fits = |used: usize| used.checked_add(len).filter(|end| *end <= self.map.len());
        let start = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        Some(Part { chunk: self, start, len })
    }
}

/// A block's own bytes of a chunk.
struct Part {
    chunk: Arc<Chunk>,
    start: usize,
    len: usize,
}

impl Part {
    /// Zero bytes; `len` counts whole cache lines.
    fn new(len: usize) -> Option<Part> {
        static CURRENT: Mutex<Weak<Chunk>> = Mutex::new(Weak::new());
        if len >= CHUNK / 4 {
            return Chunk::new(len)?.take(len);
        }
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = current.upgrade().and_then(|c| c.take(len)) {
            return Some(part);
        }
        let chunk = Chunk::new(CHUNK)?;
        *current = Arc::downgrade(&chunk);
        chunk.take(len)
    }

    fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: `take` gave this range, inside the map and in whole cache lines, to this block alone; the
        // map starts on a page, is zero where nobody wrote, and lives as long as the chunk.
        unsafe {
            let start = self.chunk.map.as_mut_ptr().add(self.start);
            std::slice::from_raw_parts_mut(start.cast(), self.len / 4)
        }
    }
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: as above; nobody writes while this is shared.
        unsafe { std::slice::from_raw_parts(self.chunk.map.as_ptr().add(self.start), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_zero_aligned_and_apart() {
        let sizes = [0, 1, 100, SMALL / 4, 3 * SMALL / 4 + 5, CHUNK / 16 + 1, CHUNK / 16];
        let all: Vec<Packed> = (0..40)
            .map(|i| {
                let len = sizes[i % sizes.len()];
                Packed::build(len, |room| {
                    assert!(room.len() >= len && room.iter().all(|&x| x == 0.0));
                    room.fill(i as f32);
                })
                .unwrap()
            })
            .collect();
        for (i, p) in all.iter().enumerate() {
            assert!(p.as_slice().iter().all(|&x| x == i as f32), "{i}");
            assert_eq!(p.as_slice().len(), sizes[i % sizes.len()].next_multiple_of(16));
            assert!(Packed::from_bytes(p.bytes().clone()).is_some());
        }
        let odd = all[3].bytes().slice(4..);
        assert!(Packed::from_bytes(odd).is_none());
    }

    #[test]
    fn an_absurd_size_is_an_error() {
        assert!(matches!(Packed::build(usize::MAX / 8, |_| ()), Err(KernelError::Memory { .. })));
    }
}
