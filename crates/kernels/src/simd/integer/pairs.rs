//! Vectors of 16-bit words: what integer Winograd's transforms work on, and whose pairs multiply into sums.

use super::Sums;
#[cfg(target_arch = "x86_64")]
use super::x86::{Pairs256, Pairs512};
use crate::simd::Level;
#[cfg(target_arch = "x86_64")]
use crate::simd::Tier;

/// The words of the architecture's own baseline.
#[cfg(target_arch = "aarch64")]
pub(crate) type Base = super::neon::Pairs128;
/// The words of the architecture's own baseline.
#[cfg(not(target_arch = "aarch64"))]
pub(crate) type Base = PairsOf4;

/// A vector of words, two for each lane of the sums. Arithmetic wraps around. Every method is inlined into a
/// function that has the vector's instructions on.
///
/// # Safety of the methods
/// All need the vector's instructions. Loads and stores need as many elements at `p` as they touch.
pub(crate) trait Pairs: Copy {
    /// What products of pairs add up in.
    type Sums: Sums;
    /// A pair spread over all lanes.
    type Spread: Copy;
    /// A pair of weights for each lane.
    type Weights: Copy;
    const LANES: usize = 2 * <Self::Sums as Sums>::LANES;
    unsafe fn splat(x: i16) -> Self;
    /// `LANES` bytes, with a sign or without.
    unsafe fn load<const SIGNED: bool>(p: *const u8) -> Self;
    unsafe fn store(self, p: *mut i16);
    unsafe fn add(a: Self, b: Self) -> Self;
    unsafe fn sub(a: Self, b: Self) -> Self;
    /// Four times the words.
    unsafe fn four(self) -> Self;
    unsafe fn spread(p: *const i16) -> Self::Spread;
    /// `LANES` weights.
    unsafe fn weights(p: *const i16) -> Self::Weights;
    /// `acc + a . w`, modulo 2 to the 32.
    unsafe fn dot(acc: Self::Sums, a: Self::Spread, w: Self::Weights) -> Self::Sums;
    /// Four times the sums.
    unsafe fn four_sums(x: Self::Sums) -> Self::Sums;
    /// The sums without their lowest `n < 32` bits; the sign's bit moves in.
    unsafe fn shift_right(x: Self::Sums, n: i32) -> Self::Sums;
    /// The first `n <= LANES` bytes, and zeros behind them.
    #[inline(always)]
    unsafe fn load_first<const SIGNED: bool>(p: *const u8, n: usize) -> Self {
        let mut room = [0u8; 32];
        // SAFETY: the caller gives `n` bytes; no vector has more than 32 words.
        unsafe {
            std::ptr::copy_nonoverlapping(p, room.as_mut_ptr(), n);
            Self::load::<SIGNED>(room.as_ptr())
        }
    }
}

/// Something done with vectors of words, compiled for each.
pub(crate) trait Work {
    /// # Safety
    /// `V`'s instructions are available, and what the work touches is there.
    unsafe fn run<V: Pairs>(self);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
unsafe fn run_avx512<W: Work>(work: W) {
    // SAFETY: forwarded; the instructions are on.
    unsafe { work.run::<Pairs512>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn run_avx2<W: Work>(work: W) {
    // SAFETY: as above.
    unsafe { work.run::<Pairs256>() }
}

/// # Safety
/// What the work touches is there.
pub(crate) unsafe fn run<W: Work>(level: Level, work: W) {
    match level.tier() {
        // SAFETY: forwarded; a level exists only where its instructions do.
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512 => unsafe { run_avx512(work) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => unsafe { run_avx2(work) },
        // SAFETY: as above.
        _ => unsafe { work.run::<Base>() },
    }
}

/// Eight words in plain arithmetic, for architectures whose baseline has no vector of its own here.
#[cfg(not(target_arch = "aarch64"))]
#[derive(Clone, Copy)]
pub(crate) struct PairsOf4([i16; 8]);

#[cfg(not(target_arch = "aarch64"))]
impl Pairs for PairsOf4 {
    type Sums = super::WordsOf4;
    type Spread = [i16; 2];
    type Weights = [i16; 8];
    #[inline(always)]
    unsafe fn splat(x: i16) -> Self {
        PairsOf4([x; 8])
    }
    #[inline(always)]
    unsafe fn load<const SIGNED: bool>(p: *const u8) -> Self {
        // SAFETY: the caller gives eight bytes.
        let bytes = unsafe { *p.cast::<[u8; 8]>() };
        PairsOf4(bytes.map(|x| if SIGNED { i16::from(x as i8) } else { i16::from(x) }))
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut i16) {
        // SAFETY: the caller gives room for eight words; arrays need no more alignment.
        unsafe { *p.cast() = self.0 }
    }
    #[inline(always)]
    unsafe fn add(a: Self, b: Self) -> Self {
        PairsOf4(std::array::from_fn(|i| a.0[i].wrapping_add(b.0[i])))
    }
    #[inline(always)]
    unsafe fn sub(a: Self, b: Self) -> Self {
        PairsOf4(std::array::from_fn(|i| a.0[i].wrapping_sub(b.0[i])))
    }
    #[inline(always)]
    unsafe fn four(self) -> Self {
        PairsOf4(self.0.map(|x| x << 2))
    }
    #[inline(always)]
    unsafe fn spread(p: *const i16) -> [i16; 2] {
        // SAFETY: the caller gives two words.
        unsafe { *p.cast() }
    }
    #[inline(always)]
    unsafe fn weights(p: *const i16) -> [i16; 8] {
        // SAFETY: the caller gives eight weights.
        unsafe { *p.cast() }
    }
    #[inline(always)]
    unsafe fn dot(acc: Self::Sums, a: [i16; 2], w: [i16; 8]) -> Self::Sums {
        super::WordsOf4(std::array::from_fn(|i| {
            acc.0[i]
                .wrapping_add(i32::from(a[0]) * i32::from(w[2 * i]))
                .wrapping_add(i32::from(a[1]) * i32::from(w[2 * i + 1]))
        }))
    }
    #[inline(always)]
    unsafe fn four_sums(x: Self::Sums) -> Self::Sums {
        super::WordsOf4(x.0.map(|x| x << 2))
    }
    #[inline(always)]
    unsafe fn shift_right(x: Self::Sums, n: i32) -> Self::Sums {
        super::WordsOf4(x.0.map(|x| x >> n))
    }
}
