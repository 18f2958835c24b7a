//! The one error type of all kernels.

use std::fmt::Debug;

/// Why a kernel refused its arguments.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// A slice has another length than the sizes ask for.
    #[error("{what}: needs {needed} elements, has {found}")]
    Length {
        /// Which operand.
        what: &'static str,
        /// Elements that the sizes ask for.
        needed: usize,
        /// Elements that are there.
        found: usize,
    },
    /// Sizes that contradict each other or lie outside what the kernel computes.
    #[error("{0}")]
    Shape(&'static str),
    /// A product or sum of sizes does not fit the address space.
    #[error("{0}: size overflows")]
    Overflow(&'static str),
    /// An index points outside the axis it selects from.
    #[error("index {index} is outside an axis of {len}")]
    Index {
        /// The index as given.
        index: i64,
        /// Length of the axis.
        len: usize,
    },
    /// Memory for a temporary buffer could not be had.
    #[error("out of memory for a scratch buffer of {bytes} bytes")]
    Memory {
        /// Size asked for.
        bytes: usize,
    },
    /// The worker threads could not be started.
    #[error("cannot start worker threads: {0}")]
    Threads(String),
}

/// Fails unless `slice` has exactly `needed` elements.
pub(crate) fn exact<T>(what: &'static str, slice: &[T], needed: usize) -> Result<(), KernelError> {
    if slice.len() == needed { Ok(()) } else { Err(KernelError::Length { what, needed, found: slice.len() }) }
}

/// Fails unless `slice` has at least `needed` elements.
pub(crate) fn at_least<T>(what: &'static str, slice: &[T], needed: usize) -> Result<(), KernelError> {
    if slice.len() >= needed { Ok(()) } else { Err(KernelError::Length { what, needed, found: slice.len() }) }
}

/// The product of sizes, or an overflow error. A zero anywhere makes it zero whatever the others are.
pub(crate) fn product(what: &'static str, sizes: &[usize]) -> Result<usize, KernelError> {
    if sizes.contains(&0) {
        return Ok(0);
    }
    let total = sizes.iter().try_fold(1usize, |acc, &s| acc.checked_mul(s));
    total.filter(|&t| t <= isize::MAX as usize / 16).ok_or(KernelError::Overflow(what))
}

/// One past the last element that a strided box touches (0 when the box is empty).
pub(crate) fn extent(what: &'static str, sizes: &[usize], strides: &[usize]) -> Result<usize, KernelError> {
    if sizes.contains(&0) {
        return Ok(0);
    }
    sizes
        .iter()
        .zip(strides)
        .try_fold(1usize, |acc, (&n, &s)| acc.checked_add((n - 1).checked_mul(s)?))
        .filter(|&t| t <= isize::MAX as usize / 16)
        .ok_or(KernelError::Overflow(what))
}
