use bytes::Bytes;
use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    fs::File,
    path::Path,
    ptr::NonNull,
    sync::Arc,
};

/// Alignment of tensors that we allocate: a cache line and the widest vector register.
pub const ALIGNMENT: usize = 64;

/// An owned, aligned block of bytes.
pub(crate) struct Buffer {
    ptr: NonNull<u8>,
    len: usize,
    layout: Layout,
}

// SAFETY: a Buffer owns its block alone; bytes have no thread affinity.
unsafe impl Send for Buffer {}
// SAFETY: shared access is read-only.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `len` zero bytes at [`ALIGNMENT`]; `None` when `len` is beyond the address space.
    pub(crate) fn zeroed(len: usize) -> Option<Buffer> {
        let layout = Layout::from_size_align(len.max(1), ALIGNMENT).ok()?;
        // SAFETY: the layout has a non-zero size.
        let ptr = unsafe { alloc_zeroed(layout) };
        let Some(ptr) = NonNull::new(ptr) else { handle_alloc_error(layout) };
        Some(Buffer { ptr, len, layout })
    }

    /// Takes over a vector's block without copying.
    pub(crate) fn from_vec<T: crate::Element>(v: Vec<T>) -> Buffer {
        let mut v = std::mem::ManuallyDrop::new(v);
        let len = size_of_val(v.as_slice());
        let bytes = v.capacity() * size_of::<T>();
        let layout = Layout::from_size_align(bytes, align_of::<T>()).expect("a live Vec's layout is valid");
        // SAFETY: a Vec's pointer is never null (dangling when it has no capacity, and then never freed).
        let ptr = unsafe { NonNull::new_unchecked(v.as_mut_ptr().cast::<u8>()) };
        Buffer { ptr, len, layout }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: ptr is valid for len initialized bytes as long as self lives.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and &mut self makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.layout.size() > 0 {
            // SAFETY: the block came from the global allocator with exactly this layout.
            unsafe { dealloc(self.ptr.as_ptr(), self.layout) }
        }
    }
}

/// Where a tensor's elements are.
#[derive(Clone)]
pub(crate) enum Storage {
    /// Our own block.
    Heap(Arc<Buffer>),
    /// A range of a memory map, of a file's bytes or of a static: possibly unaligned.
    Shared(Bytes),
    /// Strings, which have no byte form.
    Strings(Arc<Vec<String>>),
}

/// Maps a file read-only; the map lives as long as any slice of the returned bytes.
///
/// Others may still truncate or change the file: reading past its new end raises SIGBUS on Unix, as
/// with every memory map. Programs that load files which others write should read them into memory.
///
/// # Errors
/// Those of the operating system, and `InvalidInput` for what is not a regular file.
pub fn map_file(path: &Path) -> std::io::Result<Bytes> {
    // Opening a FIFO would block: look before opening.
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let file = File::open(path)?;
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the map is private and read-only; that the file must not shrink meanwhile is documented above.
    let map = unsafe { memmap2::Mmap::map(&file)? };
    Ok(Bytes::from_owner(map))
}
