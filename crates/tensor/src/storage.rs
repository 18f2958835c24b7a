use bytes::Bytes;
use memmap2::{Mmap, MmapMut};
use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    fs::File,
    path::Path,
    ptr::NonNull,
    sync::{Arc, Mutex, PoisonError, Weak},
};

/// Alignment of tensors that we allocate: a cache line and the widest vector register.
pub const ALIGNMENT: usize = 64;

/// An owned, aligned block of bytes.
pub(crate) struct Buffer {
    ptr: NonNull<u8>,
    len: usize,
    owner: Owner,
}

/// Whom a block goes back to.
enum Owner {
    Allocator(Layout),
    /// Pages of its own, given back when the map is dropped.
    Map(#[expect(dead_code, reason = "held for its drop")] MmapMut),
}

/// Blocks that are worth pages of their own.
const LARGE: usize = 1 << 20;

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
        Some(Buffer { ptr, len, owner: Owner::Allocator(layout) })
    }

    /// As [`Buffer::zeroed`], for a block that lives long: a large one gets fresh pages, which the system
    /// fills with zeros when they are first touched, and large ones if it has them.
    pub(crate) fn fresh(len: usize) -> Option<Buffer> {
        if len < LARGE {
            return Buffer::zeroed(len);
        }
        let Ok(mut map) = MmapMut::map_anon(len) else { return Buffer::zeroed(len) };
        // Without large pages, small ones do as well.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Some(Buffer { ptr: NonNull::new(map.as_mut_ptr())?, len, owner: Owner::Map(map) })
    }

    /// Takes over a vector's block without copying.
    pub(crate) fn from_vec<T: crate::Element>(v: Vec<T>) -> Buffer {
        let mut v = std::mem::ManuallyDrop::new(v);
        let len = size_of_val(v.as_slice());
        let bytes = v.capacity() * size_of::<T>();
        let layout = Layout::from_size_align(bytes, align_of::<T>()).expect("a live Vec's layout is valid");
        // SAFETY: a Vec's pointer is never null (dangling when it has no capacity, and then never freed).
        let ptr = unsafe { NonNull::new_unchecked(v.as_mut_ptr().cast::<u8>()) };
        Buffer { ptr, len, owner: Owner::Allocator(layout) }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        // SAFETY: ptr is valid for len initialized bytes as long as self lives.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }

    /// Where the block lies, and its length. It stays there while the buffer lives.
    pub(crate) fn raw(&self) -> (NonNull<u8>, usize) {
        (self.ptr, self.len)
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above, and &mut self makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Owner::Allocator(layout) = self.owner
            && layout.size() > 0
        {
            // SAFETY: the block came from the global allocator with exactly this layout.
            unsafe { dealloc(self.ptr.as_ptr(), layout) }
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
    let map = Arc::new(unsafe { Mmap::map(&file)? });
    let stamp = stamp(&file.metadata()?);
    let mut maps = MAPS.lock().unwrap_or_else(PoisonError::into_inner);
    maps.retain(|m| m.0.strong_count() > 0);
    maps.push((Arc::downgrade(&map), stamp));
    Ok(Bytes::from_owner(Mapped(map)))
}

/// A file's map; clones of its bytes share it.
struct Mapped(Arc<Mmap>);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The files that are mapped now: what may be read again, and what tells their contents from others.
static MAPS: Mutex<Vec<(Weak<Mmap>, Option<[u64; 5]>)>> = Mutex::new(Vec::new());

/// The mapped file that the bytes are of, where in it they begin, and its stamp.
fn mapped(bytes: &[u8]) -> Option<(Arc<Mmap>, usize, Option<[u64; 5]>)> {
    let start = bytes.as_ptr() as usize;
    let maps = MAPS.lock().unwrap_or_else(PoisonError::into_inner);
    maps.iter().find_map(|(map, stamp)| {
        let map = map.upgrade()?;
        let at = start.checked_sub(map.as_ptr() as usize)?;
        (at < map.len() && bytes.len() <= map.len() - at).then_some((map, at, *stamp))
    })
}

/// What changes whenever a file's contents do; `None` where the system does not tell, or the last change is
/// so recent that the clock may not tell it from another.
#[cfg(unix)]
fn stamp(meta: &std::fs::Metadata) -> Option<[u64; 5]> {
    use std::os::unix::fs::MetadataExt;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?.as_secs();
    let changed = u64::try_from(meta.ctime()).ok()?;
    let settled = changed.checked_add(2)? < now;
    let time = |s: i64, n: i64| (s as u64).wrapping_mul(1_000_000_000).wrapping_add(n as u64);
    let (modified, changed) = (time(meta.mtime(), meta.mtime_nsec()), time(meta.ctime(), meta.ctime_nsec()));
    settled.then(|| [meta.dev(), meta.ino(), meta.len(), modified, changed])
}

#[cfg(not(unix))]
fn stamp(_: &std::fs::Metadata) -> Option<[u64; 5]> {
    None
}

/// Numbers that tell these bytes of a mapped file from any others without reading them: the file's identity,
/// size and times when it was mapped, and where in it they begin. `None` for bytes of another origin, and
/// for a file that was changed just before or whose system keeps no such times.
pub fn file_stamp(bytes: &[u8]) -> Option<[u64; 6]> {
    let (_, at, stamp) = mapped(bytes)?;
    let [a, b, c, d, e] = stamp?;
    Some([a, b, c, d, e, at as u64])
}

/// Gives back the memory behind bytes of a mapped file: whole pages that lie inside them. Reading them later
/// brings them back from the file. Bytes of any other origin stay, and so do all where the system has no way.
///
/// Returns whether the bytes are a mapped file's.
pub fn release_pages(bytes: &[u8]) -> bool {
    let Some((map, at, _)) = mapped(bytes) else { return false };
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 4096;
        // Few pages are not worth the call.
        const WORTH: usize = 64 << 10;
        let (first, end) = (at.next_multiple_of(PAGE), (at + bytes.len()) / PAGE * PAGE);
        if bytes.len() >= WORTH && first < end {
            // SAFETY: the map is a file's, private and never written, so dropping its pages changes no byte
            // that anybody reads; the range lies inside it.
            let _ =
                unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, first, end - first) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (map, at);
    true
}
