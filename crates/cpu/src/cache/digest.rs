//! Sums that tell bytes from others.

use std::sync::atomic::{AtomicU64, Ordering};
use tensormill_kernels::threads::Pool;

const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
const LANES: usize = 8;
/// Bytes that one thread sums up at a time.
const BLOCK: usize = 1 << 20;

/// One step: for any state, different words lead to different states, and the other way round.
#[inline(always)]
fn step(state: u64, word: u64) -> u64 {
    (state ^ word).wrapping_mul(ODD).rotate_left(29)
}

/// A sum of bytes. Changing any single word of eight bytes always changes it.
pub(crate) fn digest(seed: u64, bytes: &[u8]) -> u64 {
    let mut lanes: [u64; LANES] = std::array::from_fn(|i| seed.wrapping_add(i as u64 + 1).wrapping_mul(ODD));
    let (chunks, rest) = bytes.as_chunks::<{ 8 * LANES }>();
    for chunk in chunks {
        for (lane, word) in lanes.iter_mut().zip(chunk.as_chunks::<8>().0) {
            *lane = step(*lane, u64::from_le_bytes(*word));
        }
    }
    let (words, tail) = rest.as_chunks::<8>();
    let mut last = [0; 8];
    last[..tail.len()].copy_from_slice(tail);
    let end =
        words.iter().map(|w| u64::from_le_bytes(*w)).chain([u64::from_le_bytes(last), bytes.len() as u64]);
    let all = lanes.into_iter().chain(end).fold(seed, step);
    // The last words so far moved only some bits.
    let all = (all ^ (all >> 32)).wrapping_mul(ODD);
    all ^ (all >> 29)
}

/// A sum of many bytes, by all threads of the pool; the same for any number of them.
pub(crate) fn digest_on(pool: &Pool, bytes: &[u8]) -> u64 {
    let sums: Vec<AtomicU64> = (0..bytes.len().div_ceil(BLOCK)).map(|_| AtomicU64::new(0)).collect();
    pool.run(sums.len(), |i| {
        let block = &bytes[i * BLOCK..((i + 1) * BLOCK).min(bytes.len())];
        sums[i].store(digest(i as u64, block), Ordering::Relaxed);
    });
    let sums: Vec<u64> = sums.into_iter().map(AtomicU64::into_inner).collect();
    digest_words(bytes.len() as u64, &sums)
}

/// A sum of words.
pub(crate) fn digest_words(seed: u64, words: &[u64]) -> u64 {
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
    digest(seed, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_changed_byte_changes_the_sum(
            mut bytes in prop::collection::vec(any::<u8>(), 1..400), at in any::<usize>(), by in 1u8..,
        ) {
            let before = digest(7, &bytes);
            prop_assert_eq!(before, digest(7, &bytes));
            prop_assert_ne!(before, digest(8, &bytes));
            prop_assert_ne!(before, digest(7, &bytes[..bytes.len() - 1]));
            let at = at % bytes.len();
            bytes[at] ^= by;
            prop_assert_ne!(before, digest(7, &bytes));
        }
    }

    #[test]
    fn threads_do_not_matter() {
        let bytes: Vec<u8> = (0..3 * BLOCK + 77).map(|i| ((i * i) >> 3) as u8).collect();
        let one = digest_on(&Pool::serial(), &bytes);
        assert_eq!(one, digest_on(&Pool::new(3).unwrap(), &bytes));
        let mut other = bytes.clone();
        other[2 * BLOCK] ^= 1;
        assert_ne!(one, digest_on(&Pool::serial(), &other));
    }
}
