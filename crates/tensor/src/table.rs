//! Blocks of memory by number, and the places in them that the steps of a plan read and write.
//!
//! Whether what a step writes overlaps anything else that it touches depends on its places alone: a [`Cut`]
//! checks that once. What is left for each run of the step is to look whether the blocks are there and long
//! enough. [`carve`](crate::arena::carve) does the same for one block at a time with slices alone.

use crate::{Tensor, Value, arena::Arena};
use smallvec::SmallVec;
use std::ptr::NonNull;

/// A part of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spot {
    /// The block's number.
    pub block: usize,
    /// The first byte.
    pub start: usize,
    /// Number of bytes. No bytes may lie anywhere.
    pub len: usize,
}

#[derive(Debug, Clone, Copy)]
struct At {
    start: usize,
    end: usize,
    block: u32,
}

impl At {
    /// An operand that is not given.
    const NONE: At = At { start: 0, end: 0, block: u32::MAX };

    fn new(spot: Spot) -> Option<At> {
        if spot.len == 0 {
            return Some(At { start: 0, end: 0, block: 0 });
        }
        let block = u32::try_from(spot.block).ok().filter(|b| *b != u32::MAX)?;
        Some(At { start: spot.start, end: spot.start.checked_add(spot.len)?, block })
    }

    fn meets(&self, other: &At) -> bool {
        let both = self.start < self.end && other.start < other.end;
        both && self.block == other.block && self.start < other.end && other.start < self.end
    }
}

/// The places that one step reads and writes, of which those written overlap no other.
#[derive(Debug, Clone, Default)]
pub struct Cut {
    reads: SmallVec<[At; 3]>,
    writes: SmallVec<[At; 1]>,
}

impl Cut {
    /// `None` when a place that is written overlaps another one, or when a place ends beyond memory.
    pub fn new(
        reads: impl IntoIterator<Item = Option<Spot>>,
        writes: impl IntoIterator<Item = Spot>,
    ) -> Option<Cut> {
        let reads = reads.into_iter().map(|s| s.map_or(Some(At::NONE), At::new)).collect::<Option<_>>()?;
        let writes = writes.into_iter().map(At::new).collect::<Option<_>>()?;
        let cut = Cut { reads, writes };
        for (i, w) in cut.writes.iter().enumerate() {
            if cut.writes[i + 1..].iter().chain(&cut.reads).any(|o| w.meets(o)) {
                return None;
            }
        }
        Some(cut)
    }
}

/// Whom a block's memory belongs to.
enum Owner {
    Nobody,
    Arena(#[expect(dead_code, reason = "held for its memory")] Arena),
    Value(Value),
}

/// What may be touched of a block.
#[derive(Clone, Copy)]
struct Reach {
    ptr: NonNull<u8>,
    len: usize,
    /// Bytes that may be written: all or none.
    writable: usize,
}

impl Reach {
    const NONE: Reach = Reach { ptr: NonNull::dangling(), len: 0, writable: 0 };
}

/// Numbered blocks, each an arena, a value, or nothing yet.
pub struct Table {
    owners: Vec<Owner>,
    reach: Vec<Reach>,
}

// SAFETY: the pointers are to memory that the owners hold, which may be sent between threads.
unsafe impl Send for Table {}

impl Table {
    /// A table of empty blocks.
    pub fn new(blocks: usize) -> Table {
        Table {
            owners: std::iter::repeat_with(|| Owner::Nobody).take(blocks).collect(),
            reach: vec![Reach::NONE; blocks],
        }
    }

    /// Makes an arena a block that may be written. Panics, as the others here, when there is no such block.
    pub fn put_arena(&mut self, block: usize, arena: Arena) {
        let (ptr, len) = arena.raw();
        self.reach[block] = Reach { ptr, len, writable: len };
        self.owners[block] = Owner::Arena(arena);
    }

    /// Makes a value a block that is only read: of one that is no tensor, nothing.
    pub fn put(&mut self, block: usize, value: Value) {
        let bytes: &[u8] = value.as_tensor().map_or(&[], Tensor::bytes);
        self.reach[block] = Reach { ptr: NonNull::from(bytes).cast(), len: bytes.len(), writable: 0 };
        self.owners[block] = Owner::Value(value);
    }

    /// Makes a tensor a block that may be written. False, and nothing is done, while another clone shares its
    /// memory or when the memory is not ours.
    pub fn put_writable(&mut self, block: usize, mut tensor: Tensor) -> bool {
        let Some((ptr, len)) = tensor.raw_mut() else { return false };
        self.reach[block] = Reach { ptr, len, writable: len };
        self.owners[block] = Owner::Value(tensor.into());
        true
    }

    /// Lets the tensor of a block be written again, if nobody else holds it any more.
    pub fn reclaim(&mut self, block: usize) -> bool {
        let Some(Owner::Value(Value::Tensor(tensor))) = self.owners.get_mut(block) else { return false };
        let Some((ptr, len)) = tensor.raw_mut() else { return false };
        self.reach[block] = Reach { ptr, len, writable: len };
        true
    }

    /// The value of a block, for others to hold too: from now on the block is only read.
    pub fn share(&mut self, block: usize) -> Option<&Value> {
        let Some(Owner::Value(value)) = self.owners.get(block) else { return None };
        self.reach[block].writable = 0;
        Some(value)
    }

    /// Empties a block.
    pub fn clear(&mut self, block: usize) {
        self.reach[block] = Reach::NONE;
        self.owners[block] = Owner::Nobody;
    }

    /// The bytes of a block; none of an empty one.
    pub fn bytes(&self, block: usize) -> &[u8] {
        let r = self.reach.get(block).copied().unwrap_or(Reach::NONE);
        // SAFETY: the owner holds this memory for as long as it is in the table, and only `views` hands out
        // slices to write it by, which borrow the table.
        unsafe { std::slice::from_raw_parts(r.ptr.as_ptr(), r.len) }
    }

    /// Bytes of a block that may be written now.
    pub fn writable(&mut self, block: usize) -> &mut [u8] {
        let r = self.reach.get(block).copied().unwrap_or(Reach::NONE);
        // SAFETY: as in `bytes`; that nobody else holds the memory was checked when it became writable.
        unsafe { std::slice::from_raw_parts_mut(r.ptr.as_ptr(), r.writable) }
    }

    /// Hands over the places of a cut in order: what is read, then what is written. False when a block is
    /// empty, too short or only to be read; some may have been handed over then.
    #[inline]
    pub fn views<'a>(
        &'a mut self,
        cut: &Cut,
        mut read: impl FnMut(Option<&'a [u8]>),
        mut write: impl FnMut(&'a mut [u8]),
    ) -> bool {
        for at in &cut.reads {
            let len = at.end - at.start;
            if len == 0 {
                read((at.block != At::NONE.block).then_some(&[]));
                continue;
            }
            let Some(r) = self.reach.get(at.block as usize).filter(|r| at.end <= r.len) else { return false };
            // SAFETY: inside the block, whose owner stays while the table is borrowed. It is only read: what
            // this call hands out for writing overlaps no place that is read, as the cut has checked, and
            // memory of a writable block is in no other one.
            read(Some(unsafe { std::slice::from_raw_parts(r.ptr.as_ptr().add(at.start), len) }));
        }
        for at in &cut.writes {
            let len = at.end - at.start;
            if len == 0 {
                write(&mut []);
                continue;
            }
            let Some(r) = self.reach.get(at.block as usize).filter(|r| at.end <= r.writable) else {
                return false;
            };
            // SAFETY: as above; the table is borrowed for good, so that nothing but this call's views touches
            // the block, and the cut has checked that this one overlaps no other.
            write(unsafe { std::slice::from_raw_parts_mut(r.ptr.as_ptr().add(at.start), len) });
        }
        true
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Table({} blocks)", self.reach.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, arena::carve};
    use proptest::prelude::*;

    fn bytes(n: usize) -> Tensor {
        Tensor::from_vec([n], (0..n).map(|i| i as u8).collect()).unwrap()
    }

    #[test]
    fn what_others_hold_is_not_written() {
        let mut table = Table::new(2);
        let mine = bytes(8);
        let other = mine.clone();
        assert!(!table.put_writable(0, mine));
        assert!(table.put_writable(0, bytes(8)));
        table.writable(0)[3] = 77;
        let held = table.share(0).cloned().unwrap();
        assert!(table.writable(0).is_empty() && !table.reclaim(0));
        let all = Spot { block: 0, start: 0, len: 8 };
        let write = Cut::new([], [all]).unwrap();
        assert!(!table.views(&write, |_| (), |_| ()));
        assert_eq!(held.as_tensor().unwrap().bytes()[3], 77);
        drop(held);
        assert!(table.reclaim(0) && table.views(&write, |_| (), |w| w.fill(1)));
        assert_eq!(table.bytes(0), [1; 8]);
        table.put(1, other.into());
        assert!(table.writable(1).is_empty());
        table.clear(1);
        assert!(!table.views(
            &Cut::new([Some(Spot { block: 1, start: 0, len: 1 })], []).unwrap(),
            |_| (),
            |_| ()
        ));
        let strings = Tensor::from_strings([1], vec!["a".into()]).unwrap();
        table.put(1, strings.into());
        assert!(table.bytes(1).is_empty() && !table.reclaim(1));
    }

    #[test]
    fn places_beyond_memory_are_refused() {
        let far = Spot { block: 0, start: usize::MAX, len: 2 };
        assert!(Cut::new([Some(far)], []).is_none() && Cut::new([], [far]).is_none());
        let nowhere = Spot { block: usize::MAX, start: 0, len: 2 };
        assert!(Cut::new([Some(nowhere)], []).is_none());
        let beyond = Cut::new([Some(Spot { block: 9, start: 0, len: 1 })], []).unwrap();
        assert!(!Table::new(1).views(&beyond, |_| (), |_| ()));
    }

    proptest! {
        /// The same places are handed over as [`carve`] hands over, which splits slices, and the same refused.
        #[test]
        fn cuts_are_what_carving_gives(
            len in 1usize..200,
            raw in prop::collection::vec((0usize..220, 1usize..40), 0..4),
            read in prop::collection::vec((0usize..220, 1usize..40), 0..3),
        ) {
            let mut writes: Vec<_> = raw.iter().map(|&(start, len)| Spot { block: 0, start, len }).collect();
            writes.sort_by_key(|s| s.start);
            let reads: Vec<_> = read.iter().map(|&(start, len)| Spot { block: 0, start, len }).collect();
            let mut table = Table::new(1);
            let mut arena = Arena::new(len).unwrap();
            arena.bytes_mut().iter_mut().enumerate().for_each(|(i, b)| *b = i as u8);
            let mut twin = arena.bytes().to_vec();
            table.put_arena(0, arena);
            let cut = Cut::new(reads.iter().copied().map(Some), writes.iter().copied());
            let (mut r, mut w) = (vec![], vec![]);
            let fits = cut.is_some_and(|c| table.views(&c, |x| r.push(x.unwrap()), |x| w.push(x)));
            let mut own: Vec<&mut [u8]> = vec![];
            let rest = carve(&mut twin, writes.iter().map(|s| s.start..s.start + s.len), &mut own);
            let seen: Option<Vec<&[u8]>> =
                rest.as_ref().and_then(|rest| reads.iter().map(|s| rest.get(s.start..s.start + s.len)).collect());
            prop_assert_eq!(fits, seen.is_some());
            if let Some(seen) = seen {
                prop_assert_eq!(&r, &seen);
                for (i, (a, b)) in w.into_iter().zip(own).enumerate() {
                    prop_assert_eq!(&*a, &*b);
                    a.fill(200 + i as u8);
                    b.fill(200 + i as u8);
                }
                prop_assert_eq!(&r, &seen);
            }
            drop(rest);
            prop_assert_eq!(table.bytes(0), &twin[..]);
        }

        /// Places of several blocks do not meet; the empty and the missing lie nowhere.
        #[test]
        fn blocks_are_apart(start in 0usize..40, len in 0usize..40) {
            let mut table = Table::new(3);
            table.put(0, bytes(64).into());
            prop_assert!(table.put_writable(1, Tensor::zeros(DType::U8, [64]).unwrap()));
            let at = |block| Spot { block, start, len };
            let nowhere = Spot { block: 2, start: 5, len: 0 };
            let cut = Cut::new([Some(at(0)), None, Some(nowhere)], [at(1), nowhere]).unwrap();
            let (mut r, mut w) = (vec![], vec![]);
            let fits = table.views(&cut, |x| r.push(x), |x| w.push(x));
            prop_assert_eq!(fits, start + len <= 64);
            if fits {
                prop_assert_eq!((r.len(), w.len()), (3, 2));
                prop_assert!(r[1].is_none() && r[2] == Some(&[][..]) && w[1].is_empty());
                w[0].copy_from_slice(r[0].unwrap());
                prop_assert_eq!(&table.bytes(1)[start..start + len], &table.bytes(0)[start..start + len]);
            }
            prop_assert_eq!(Cut::new([Some(at(0))], [at(0)]).is_some(), len == 0);
        }
    }
}
