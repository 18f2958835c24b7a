//! One block of memory in which values have fixed places, and typed views of places.
//!
//! A step of a plan writes some places and reads others. [`carve`] hands out the written ones as `&mut`
//! and everything between them as `&`, by splitting the block, so that no two views can overlap.

use crate::{Element, storage::Buffer};
use smallvec::SmallVec;
use std::ops::Range;

/// A block of bytes aligned to [`ALIGNMENT`](crate::ALIGNMENT).
pub struct Arena(Buffer);

impl Arena {
    /// A block of `len` zero bytes; `None` when that is beyond the address space.
    pub fn new(len: usize) -> Option<Arena> {
        Buffer::fresh(len).map(Arena)
    }

    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.0.as_slice().len()
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// Where the block lies, and its length.
    pub(crate) fn raw(&self) -> (std::ptr::NonNull<u8>, usize) {
        self.0.raw()
    }

    /// The bytes for writing.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.as_mut_slice()
    }
}

impl std::fmt::Debug for Arena {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Arena({} bytes)", self.len())
    }
}

/// What lies between the carved places of one block: readable pieces by where they begin.
#[derive(Debug, Default)]
pub struct Rest<'a>(SmallVec<[(usize, &'a [u8]); 4]>);

impl<'a> Rest<'a> {
    /// The bytes of a place; `None` when it overlaps a carved place or leaves the block.
    pub fn get(&self, place: Range<usize>) -> Option<&'a [u8]> {
        self.0.iter().find_map(|&(start, piece)| {
            piece.get(place.start.checked_sub(start)?..place.end.checked_sub(start)?)
        })
    }
}

/// Splits `block` into the given places, for writing, and the rest, for reading. The places must be in
/// ascending order and disjoint, and lie inside; otherwise `None`.
pub fn carve<'a>(
    block: &'a mut [u8],
    places: impl IntoIterator<Item = Range<usize>>,
    out: &mut impl Extend<&'a mut [u8]>,
) -> Option<Rest<'a>> {
    let mut rest = Rest::default();
    let (mut tail, mut at) = (block, 0);
    for place in places {
        let (gap, next) = tail.split_at_mut_checked(place.start.checked_sub(at)?)?;
        let (own, next) = next.split_at_mut_checked(place.end.checked_sub(place.start)?)?;
        rest.0.push((at, gap));
        out.extend([own]);
        tail = next;
        at = place.end;
    }
    rest.0.push((at, tail));
    Some(rest)
}

/// Bytes as elements; `None` unless they are aligned and a whole number of them. No bytes may lie anywhere.
pub fn elements<T: Element>(bytes: &[u8]) -> Option<&[T]> {
    if bytes.is_empty() {
        return Some(&[]);
    }
    let fits = (bytes.as_ptr() as usize).is_multiple_of(align_of::<T>())
        && bytes.len().is_multiple_of(size_of::<T>());
    // SAFETY: aligned and sized as just checked; Element has no invalid bit patterns.
    fits.then(|| unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<T>()) })
}

/// As [`elements`], for writing.
pub fn elements_mut<T: Element>(bytes: &mut [u8]) -> Option<&mut [T]> {
    if bytes.is_empty() {
        return Some(&mut []);
    }
    let fits = (bytes.as_ptr() as usize).is_multiple_of(align_of::<T>())
        && bytes.len().is_multiple_of(size_of::<T>());
    // SAFETY: as above; the borrow is unique, and every bit pattern written through it is a valid byte.
    fits.then(|| unsafe {
        std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len() / size_of::<T>())
    })
}

/// Bytes as bools; `None` unless each is 0 or 1.
pub fn bools(bytes: &[u8]) -> Option<&[bool]> {
    // One accumulator without early exit, so that the check is vectorized.
    let valid = bytes.iter().fold(0, |all, &b| all | b) <= 1;
    // SAFETY: bool has size and alignment 1, and every byte was just checked to be one of its two patterns.
    valid.then(|| unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bools_are_checked() {
        assert_eq!(bools(&[0, 1, 1]), Some(&[false, true, true][..]));
        assert_eq!(bools(&[0, 1, 2]), None);
        assert_eq!(bools(&[]), Some(&[][..]));
    }

    #[test]
    fn misaligned_bytes_are_no_elements() {
        let mut arena = Arena::new(12).unwrap();
        assert!(elements::<f32>(&arena.bytes()[1..9]).is_none());
        assert!(elements::<f32>(&arena.bytes()[..6]).is_none());
        elements_mut::<f32>(&mut arena.bytes_mut()[4..8]).unwrap()[0] = 1.5;
        assert_eq!(elements::<f32>(arena.bytes()).unwrap(), &[0.0, 1.5, 0.0]);
        assert!((arena.bytes().as_ptr() as usize).is_multiple_of(crate::ALIGNMENT));
    }

    proptest! {
        /// Writing to the carved places changes them and nothing else; readers see only what is not carved.
        #[test]
        fn carved_places_are_disjoint(
            len in 0usize..200,
            raw in prop::collection::vec((0usize..220, 0usize..40), 0..5),
            read in (0usize..220, 0usize..40),
        ) {
            let places: Vec<_> = raw.into_iter().map(|(s, n)| s..s + n).collect();
            let valid = places.windows(2).all(|w| w[0].end <= w[1].start) && places.iter().all(|p| p.end <= len);
            let mut block = vec![0u8; len];
            let mut out: Vec<&mut [u8]> = vec![];
            let rest = carve(&mut block, places.iter().cloned(), &mut out);
            prop_assert_eq!(rest.is_some(), valid);
            if !valid {
                return Ok(());
            }
            let rest = rest.unwrap();
            let read = read.0..read.0 + read.1;
            let got = rest.get(read.clone());
            let clear = read.end <= len
                && places.iter().all(|p| read.end <= p.start || p.end <= read.start);
            prop_assert!(got.is_none_or(|g| g.len() == read.len()));
            // A piece may be split by an empty place; otherwise what is clear can be read.
            if places.iter().all(|p| !p.is_empty()) && !read.is_empty() {
                prop_assert_eq!(got.is_some(), clear);
            }
            drop(rest);
            for (i, o) in out.into_iter().enumerate() {
                o.fill(i as u8 + 1);
            }
            for (at, b) in block.iter().enumerate() {
                let owner = places.iter().position(|p| p.contains(&at)).map_or(0, |i| i as u8 + 1);
                prop_assert_eq!(*b, owner);
            }
        }
    }
}
