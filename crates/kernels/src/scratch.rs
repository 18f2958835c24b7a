//! Reusable temporary buffers, one stack of them per thread.
//!
//! A kernel that needs room for a packed block borrows it here; the buffer goes back to the thread's
//! stack afterwards, so that the steady state allocates nothing. Contents are left over from earlier uses.

use crate::error::KernelError;
use std::cell::RefCell;

/// One cache line of floats: buffers made of these start on a cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line([f32; 16]);

/// A cache-line-aligned buffer of floats.
#[derive(Clone, Default)]
pub(crate) struct Buffer(Vec<Line>);

impl Buffer {
    /// Makes room for `len` floats; new room is zeroed, old contents stay.
    pub(crate) fn reserve(&mut self, len: usize) -> Result<(), KernelError> {
        let lines = len.div_ceil(16);
        if lines > self.0.len() {
            let bytes = lines.saturating_mul(64);
            self.0.try_reserve_exact(lines - self.0.len()).map_err(|_| KernelError::Memory { bytes })?;
            prefer_large_pages(self.0.spare_capacity_mut());
            self.0.resize(lines, Line([0.0; 16]));
        }
        Ok(())
    }

    pub(crate) fn as_slice(&self) -> &[f32] {
        // SAFETY: a `Line` is 16 floats without padding (64 bytes, alignment 64), so `n` of them are
        // `16 * n` floats.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * 16) }
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [f32] {
        // SAFETY: as in `as_slice`, and `self` is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * 16) }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} floats)", self.as_slice().len())
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: as in `as_slice`; floats are bytes without padding.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * 64) }
    }
}

/// Asks for large pages under memory that is yet to be touched: weights that are read from end to end wait
/// for address translation otherwise.
#[cfg(target_os = "linux")]
fn prefer_large_pages(room: &mut [std::mem::MaybeUninit<Line>]) {
    const PAGE: usize = 2 << 20;
    let start = room.as_mut_ptr().cast::<u8>();
    let skip = start.align_offset(PAGE);
    let len = size_of_val(room).saturating_sub(skip) / PAGE * PAGE;
    if len >= 2 * PAGE {
        // SAFETY: the range lies inside the room, which is borrowed exclusively; advice changes no contents.
        // A refusal leaves small pages, which do as well.
        unsafe { libc::madvise(start.add(skip).cast(), len, libc::MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
fn prefer_large_pages(_: &mut [std::mem::MaybeUninit<Line>]) {}

thread_local! {
    static FREE: RefCell<Vec<Buffer>> = const { RefCell::new(Vec::new()) };
}

/// Calls `f` with a cache-line-aligned buffer of `len` floats with arbitrary contents.
pub(crate) fn with<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> Result<R, KernelError> {
    let mut buffer = FREE.with_borrow_mut(Vec::pop).unwrap_or_default();
    buffer.reserve(len)?;
    let out = f(&mut buffer.as_mut_slice()[..len]);
    FREE.with_borrow_mut(|free| free.push(buffer));
    Ok(out)
}

/// Calls `f` with room for a table of `len` pointers, of arbitrary bits.
pub(crate) fn with_pointers<R>(len: usize, f: impl FnOnce(&mut [*const f32]) -> R) -> Result<R, KernelError> {
    const SLOT: usize = size_of::<*const f32>() / size_of::<f32>();
    with(len.saturating_mul(SLOT), |room| {
        // SAFETY: the room is aligned to cache lines and has `SLOT` floats for each pointer, which may have any
        // bits.
        f(unsafe { std::slice::from_raw_parts_mut(room.as_mut_ptr().cast::<*const f32>(), len) })
    })
}

/// A number of which every pattern of bits is one.
///
/// # Safety
/// It has no padding, and needs no more alignment than a cache line gives.
pub(crate) unsafe trait Plain: Copy {}
// SAFETY: integers are plain.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for i16 {}
// SAFETY: as above.
unsafe impl Plain for i32 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}

/// As [`with`], for other numbers.
pub(crate) fn with_plain<T: Plain, R>(len: usize, f: impl FnOnce(&mut [T]) -> R) -> Result<R, KernelError> {
    with(len.saturating_mul(size_of::<T>()).div_ceil(4), |room| {
        // SAFETY: the room is aligned to cache lines and has the bytes; `T` may have any of them.
        f(unsafe { std::slice::from_raw_parts_mut(room.as_mut_ptr().cast::<T>(), len) })
    })
}

/// Frees this thread's idle buffers.
pub fn release() {
    FREE.with_borrow_mut(Vec::clear);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_nest_are_aligned_and_come_back() {
        let first = with(100, |a| {
            a.fill(1.0);
            with(10, |b| {
                b.fill(2.0);
                assert_eq!(b.as_ptr() as usize % 64, 0);
            })
            .unwrap();
            assert!(a.iter().all(|&x| x == 1.0));
            a.as_ptr() as usize
        })
        .unwrap();
        assert_eq!(with(50, |a| a.as_ptr() as usize).unwrap(), first);
        release();
    }

    #[test]
    fn an_absurd_size_is_an_error() {
        assert!(matches!(with(usize::MAX / 8, |_| ()), Err(KernelError::Memory { .. })));
    }
}
