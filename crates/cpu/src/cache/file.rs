//! The file of packed weights: a header, a table of entries, and their floats in whole cache lines.
//!
//! Every byte is under a sum: those of the header and table under one, which is checked when the file is
//! opened, each entry's floats under its own, which is checked when the entry is asked for. All numbers are
//! little-endian and eight bytes wide.

use super::digest::{digest, digest_on};
use bytes::Bytes;
use rustc_hash::FxHashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use tensormill_kernels::packed::Packed;
use tensormill_kernels::threads::Pool;

const MAGIC: u64 = u64::from_le_bytes(*b"millpack");
/// Changes with the layout of the file.
const FORMAT: u64 = 1;
/// A cache line: the size of the header and of each entry, and what floats are aligned to.
const LINE: usize = 64;
const SEED: u64 = 0x6d69_6c6c;

/// Whose packed weights they are: node, kind and variant.
pub(crate) type Name = [u64; 3];

/// One node's packed weights in a file.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Entry {
    /// What they were packed from.
    fingerprint: [u64; 2],
    offset: usize,
    len: usize,
    sum: u64,
}

/// A file that was found whole.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    entries: FxHashMap<Name, Entry>,
    bytes: Bytes,
}

/// Packed weights to be written.
pub(crate) struct Item {
    pub name: Name,
    pub fingerprint: [u64; 2],
    pub packed: Packed,
    pub sum: u64,
}

impl Stored {
    /// Reads header and table; `None` for anything but a whole file with this key.
    pub fn parse(bytes: Bytes, key: u64) -> Option<Stored> {
        let word = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        let number = |at: usize| usize::try_from(word(at)?).ok();
        if word(0)? != MAGIC || word(8)? != FORMAT || word(16)? != key || number(24)? != bytes.len() {
            return None;
        }
        let count = number(32)?;
        let table = LINE.checked_add(count.checked_mul(LINE)?).filter(|&end| end <= bytes.len())?;
        if header_sum(bytes.get(..table)?) != word(LINE - 8)? {
            return None;
        }
        let mut entries = FxHashMap::default();
        for at in (LINE..table).step_by(LINE) {
            let name = [word(at)?, word(at + 8)?, word(at + 16)?];
            let (offset, len) = (number(at + 40)?, number(at + 48)?);
            let inside = offset >= table && offset.checked_add(len)? <= bytes.len();
            if !inside || !offset.is_multiple_of(LINE) || !len.is_multiple_of(LINE) {
                return None;
            }
            let fingerprint = [word(at + 24)?, word(at + 32)?];
            entries.insert(name, Entry { fingerprint, offset, len, sum: word(at + 56)? });
        }
        Some(Stored { entries, bytes })
    }

    /// Weights packed from what has this fingerprint, and their sum, if they are there and undamaged.
    pub fn get(&self, pool: &Pool, name: &Name, fingerprint: [u64; 2]) -> Option<(Packed, u64)> {
        let e = self.entries.get(name).filter(|e| e.fingerprint == fingerprint)?;
        let bytes = self.bytes.slice(e.offset..e.offset + e.len);
        (digest_on(pool, &bytes) == e.sum).then_some((Packed::from_bytes(bytes)?, e.sum))
    }

    /// All entries that are undamaged, but those that `skip` names.
    pub fn others(&self, pool: &Pool, skip: impl Fn(&Name) -> bool) -> Vec<Item> {
        let kept = self.entries.iter().filter(|(name, _)| !skip(name));
        kept.filter_map(|(name, e)| {
            let (packed, sum) = self.get(pool, name, e.fingerprint)?;
            Some(Item { name: *name, fingerprint: e.fingerprint, packed, sum })
        })
        .collect()
    }
}

/// The sum of header and table, in which the sum itself counts as zero.
fn header_sum(bytes: &[u8]) -> u64 {
    digest(digest(SEED, &bytes[..LINE - 8]), &bytes[LINE..])
}

/// Header and table for these items.
fn head(items: &[Item], key: u64) -> Vec<u8> {
    let table = LINE + items.len() * LINE;
    let total = table + items.iter().map(|i| i.packed.bytes().len()).sum::<usize>();
    let mut words = vec![MAGIC, FORMAT, key, total as u64, items.len() as u64, 0, 0, 0];
    let mut offset = table;
    for i in items {
        let len = i.packed.bytes().len();
        words.extend(i.name);
        words.extend(i.fingerprint);
        words.extend([offset as u64, len as u64, i.sum]);
        offset += len;
    }
    let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    let sum = header_sum(&bytes);
    bytes[LINE - 8..LINE].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// Writes the file, which appears under its name only once it is whole; of several writers the last wins.
pub(crate) fn write(path: &Path, key: u64, items: &mut [Item]) -> io::Result<()> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    items.sort_unstable_by_key(|i| i.name);
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str())) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    std::fs::create_dir_all(folder)?;
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let temporary = folder.join(format!(".{name}.{}.{number}", std::process::id()));
    // What a process of the same number left behind is nobody's.
    let _ = std::fs::remove_file(&temporary);
    let mut file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
    let done = fill(&mut file, key, items).and_then(|()| std::fs::rename(&temporary, path));
    if done.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    done
}

fn fill(file: &mut File, key: u64, items: &[Item]) -> io::Result<()> {
    file.write_all(&head(items, key))?;
    items.iter().try_for_each(|i| file.write_all(i.packed.bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: u64 = 42;

    fn item(name: u64, lines: usize) -> Item {
        let mut floats =
            tensormill_tensor::Tensor::zeros(tensormill_tensor::DType::U8, [lines * LINE]).unwrap();
        for (i, b) in floats.bytes_mut().unwrap().iter_mut().enumerate() {
            *b = (i * 31 + name as usize) as u8;
        }
        let packed = Packed::from_bytes(Bytes::from_owner(Owner(floats))).unwrap();
        let sum = digest_on(&Pool::serial(), packed.bytes());
        Item { name: [name, 1, 2], fingerprint: [name, 9], packed, sum }
    }

    struct Owner(tensormill_tensor::Tensor);

    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            self.0.bytes()
        }
    }

    fn items() -> Vec<Item> {
        [(3, 2), (1, 0), (2, 5)].map(|(name, lines)| item(name, lines)).into()
    }

    fn bytes_of(items: &mut [Item]) -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write(&path, KEY, items).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        std::fs::read(path).unwrap()
    }

    /// The bytes as a map has them: aligned.
    fn aligned(bytes: &[u8]) -> Bytes {
        let mut t = tensormill_tensor::Tensor::zeros(tensormill_tensor::DType::U8, [bytes.len()]).unwrap();
        t.bytes_mut().unwrap().copy_from_slice(bytes);
        Bytes::from_owner(Owner(t))
    }

    /// Whether everything that the file gives out is what was put in.
    fn harmless(bytes: &[u8], items: &[Item]) -> bool {
        let Some(stored) = Stored::parse(aligned(bytes), KEY) else { return true };
        items.iter().all(|i| {
            let found = stored.get(&Pool::serial(), &i.name, i.fingerprint);
            found.is_none_or(|(p, sum)| p.bytes() == i.packed.bytes() && sum == i.sum)
        }) && stored.others(&Pool::serial(), |_| false).iter().all(|o| {
            items.iter().any(|i| {
                (i.name, i.fingerprint) == (o.name, o.fingerprint) && i.packed.bytes() == o.packed.bytes()
            })
        })
    }

    #[test]
    fn what_was_written_comes_back() {
        let mut items = items();
        let bytes = bytes_of(&mut items);
        let stored = Stored::parse(aligned(&bytes), KEY).unwrap();
        for i in &items {
            let (packed, _) = stored.get(&Pool::serial(), &i.name, i.fingerprint).unwrap();
            assert_eq!(packed.bytes(), i.packed.bytes());
            assert!(stored.get(&Pool::serial(), &i.name, [0, 0]).is_none());
        }
        assert_eq!(stored.others(&Pool::serial(), |n| n[0] == 1).len(), 2);
        assert!(Stored::parse(aligned(&bytes), KEY + 1).is_none());
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let mut items = items();
        let bytes = bytes_of(&mut items);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                let stored = Stored::parse(aligned(&damaged), KEY);
                let all = stored.is_some_and(|s| {
                    items.iter().all(|i| s.get(&Pool::serial(), &i.name, i.fingerprint).is_some())
                });
                assert!(!all, "byte {at}, bit {bit}");
                assert!(harmless(&damaged, &items), "byte {at}, bit {bit}");
            }
        }
    }

    proptest! {
        #[test]
        fn damage_is_harmless(
            cut in 0usize..900, edits in prop::collection::vec((0usize..900, any::<u8>()), 0..6),
            extra in prop::collection::vec(any::<u8>(), 0..80),
        ) {
            let mut items = items();
            let mut bytes = bytes_of(&mut items);
            bytes.truncate(cut);
            bytes.extend(extra);
            for (at, b) in edits {
                if let Some(x) = bytes.get_mut(at) {
                    *x = b;
                }
            }
            prop_assert!(harmless(&bytes, &items));
        }
    }

    #[test]
    fn writers_at_once_leave_one_whole_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::thread::scope(|scope| {
            for t in 0..4 {
                let path = &path;
                scope.spawn(move || {
                    for round in 0..20 {
                        let mut mine = vec![item(t, 3 + round), item(t + 10, 40)];
                        write(path, KEY, &mut mine).unwrap();
                        let read = Stored::parse(aligned(&std::fs::read(path).unwrap()), KEY).unwrap();
                        assert_eq!(read.others(&Pool::serial(), |_| false).len(), 2);
                    }
                });
            }
        });
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
