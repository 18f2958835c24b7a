//! Sums of products of words that lie in their own lanes: for channels that have nothing to do with each other.

use super::{Narrow, Sums};
#[cfg(target_arch = "x86_64")]
use super::{Words256, Words512};
use crate::simd::{Level, Tier};

/// Vectors that multiply pairs of words.
///
/// # Safety of the methods
/// As for [`Sums`].
pub(crate) trait Paired: Sums {
    /// A word for each of twice as many lanes.
    type Words: Copy;
    /// Two words for each lane.
    type Pair: Copy;
    /// `2 * LANES` bytes, with or without a sign, as words.
    unsafe fn words<const SIGNED: bool>(p: *const u8) -> Self::Words;
    /// The words of `a` beside those of `b`, for two vectors of lanes, which take turns by fours: [`place`] says whose
    /// words a lane has.
    unsafe fn pair(a: Self::Words, b: Self::Words) -> [Self::Pair; 2];
    /// `acc + x . w` for `LANES` pairs of words.
    unsafe fn dot_pair(acc: Self, x: Self::Pair, w: *const i16) -> Self;
    /// As [`Sums::store_bytes_of_both`], for numbers whose lanes are those of [`Paired::pair`].
    unsafe fn store_bytes_of_paired(x: [Self; 2], to: Narrow, p: *mut u8);
    /// The same for two at once, which go to `p` and `q`.
    #[inline(always)]
    unsafe fn store_bytes_of_paired_twice(x: [[Self; 2]; 2], to: Narrow, p: *mut u8, q: *mut u8) {
        // SAFETY: forwarded.
        unsafe {
            Self::store_bytes_of_paired(x[0], to, p);
            Self::store_bytes_of_paired(x[1], to, q);
        }
    }
}

/// Which of the `2 * LANES` words belongs to a lane of the first or second vector.
pub(crate) fn place(vector: usize, lane: usize) -> usize {
    lane / 4 * 8 + vector * 4 + lane % 4
}

/// Lanes of both vectors at a level; none where there are no such vectors.
pub(crate) fn group(level: Level) -> Option<usize> {
    match level.tier() {
        Tier::Avx512 => Some(32),
        Tier::Avx2 => Some(16),
        Tier::Baseline => cfg!(target_arch = "aarch64").then_some(8),
    }
}

/// Something done with such vectors, compiled for each.
pub(crate) trait Job {
    /// # Safety
    /// `S`'s instructions are available.
    unsafe fn run<S: Paired>(self);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
unsafe fn run_words512<J: Job>(job: J) {
    // SAFETY: the instructions are on.
    unsafe { job.run::<Words512>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn run_words256<J: Job>(job: J) {
    // SAFETY: the instructions are on.
    unsafe { job.run::<Words256>() }
}

/// Runs a job where there are vectors for it, which [`group`] tells.
pub(crate) fn run<J: Job>(level: Level, job: J) {
    match level.tier() {
        // SAFETY: a level exists only where its instructions do.
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512 => unsafe { run_words512(job) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => unsafe { run_words256(job) },
        // SAFETY: these are in the baseline.
        #[cfg(target_arch = "aarch64")]
        _ => unsafe { job.run::<super::Base>() },
        #[cfg(not(target_arch = "aarch64"))]
        _ => debug_assert!(false, "no such vectors"),
    }
}
