//! Words in AVX2 and AVX-512 registers.

use super::{Words256, Words512};
use crate::simd::integer::pairs::Pairs;
use std::arch::x86_64::*;

/// Sixteen words.
#[derive(Clone, Copy)]
pub(crate) struct Pairs256(__m256i);

/// Thirty-two words.
#[derive(Clone, Copy)]
pub(crate) struct Pairs512(__m512i);

impl Pairs for Pairs256 {
    type Sums = Words256;
    type Spread = __m256i;
    type Weights = __m256i;
    #[inline(always)]
    unsafe fn splat(x: i16) -> Self {
        // SAFETY: the caller has the instructions, here and below.
        Pairs256(unsafe { _mm256_set1_epi16(x) })
    }
    #[inline(always)]
    unsafe fn load<const SIGNED: bool>(p: *const u8) -> Self {
        // SAFETY: the caller gives sixteen bytes.
        unsafe {
            let bytes = _mm_loadu_si128(p.cast());
            Pairs256(if SIGNED { _mm256_cvtepi8_epi16(bytes) } else { _mm256_cvtepu8_epi16(bytes) })
        }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut i16) {
        // SAFETY: the caller gives room for sixteen words.
        unsafe { _mm256_storeu_si256(p.cast(), self.0) }
    }
    #[inline(always)]
    unsafe fn add(a: Self, b: Self) -> Self {
        // SAFETY: as above.
        Pairs256(unsafe { _mm256_add_epi16(a.0, b.0) })
    }
    #[inline(always)]
    unsafe fn sub(a: Self, b: Self) -> Self {
        // SAFETY: as above.
        Pairs256(unsafe { _mm256_sub_epi16(a.0, b.0) })
    }
    #[inline(always)]
    unsafe fn four(self) -> Self {
        // SAFETY: as above.
        Pairs256(unsafe { _mm256_slli_epi16::<2>(self.0) })
    }
    #[inline(always)]
    unsafe fn spread(p: *const i16) -> __m256i {
        // SAFETY: the caller gives two words.
        unsafe { _mm256_castps_si256(_mm256_broadcast_ss(&*p.cast::<f32>())) }
    }
    #[inline(always)]
    unsafe fn weights(p: *const i16) -> __m256i {
        // SAFETY: the caller gives sixteen weights.
        unsafe { _mm256_loadu_si256(p.cast()) }
    }
    #[inline(always)]
    unsafe fn dot(acc: Words256, a: __m256i, w: __m256i) -> Words256 {
        // SAFETY: as above.
        Words256(unsafe { _mm256_add_epi32(acc.0, _mm256_madd_epi16(a, w)) })
    }
    #[inline(always)]
    unsafe fn four_sums(x: Words256) -> Words256 {
        // SAFETY: as above.
        Words256(unsafe { _mm256_slli_epi32::<2>(x.0) })
    }
    #[inline(always)]
    unsafe fn shift_right(x: Words256, n: i32) -> Words256 {
        // SAFETY: as above.
        Words256(unsafe { _mm256_sra_epi32(x.0, _mm_cvtsi32_si128(n)) })
    }
}

impl Pairs for Pairs512 {
    type Sums = Words512;
    type Spread = __m512i;
    type Weights = __m512i;
    #[inline(always)]
    unsafe fn splat(x: i16) -> Self {
        // SAFETY: the caller has the instructions, here and below.
        Pairs512(unsafe { _mm512_set1_epi16(x) })
    }
    #[inline(always)]
    unsafe fn load<const SIGNED: bool>(p: *const u8) -> Self {
        // SAFETY: the caller gives 32 bytes.
        unsafe {
            let bytes = _mm256_loadu_si256(p.cast());
            Pairs512(if SIGNED { _mm512_cvtepi8_epi16(bytes) } else { _mm512_cvtepu8_epi16(bytes) })
        }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut i16) {
        // SAFETY: the caller gives room for 32 words.
        unsafe { _mm512_storeu_si512(p.cast(), self.0) }
    }
    #[inline(always)]
    unsafe fn add(a: Self, b: Self) -> Self {
        // SAFETY: as above.
        Pairs512(unsafe { _mm512_add_epi16(a.0, b.0) })
    }
    #[inline(always)]
    unsafe fn sub(a: Self, b: Self) -> Self {
        // SAFETY: as above.
        Pairs512(unsafe { _mm512_sub_epi16(a.0, b.0) })
    }
    #[inline(always)]
    unsafe fn four(self) -> Self {
        // SAFETY: as above.
        Pairs512(unsafe { _mm512_slli_epi16::<2>(self.0) })
    }
    #[inline(always)]
    unsafe fn spread(p: *const i16) -> __m512i {
        // SAFETY: the caller gives two words.
        unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
    }
    #[inline(always)]
    unsafe fn weights(p: *const i16) -> __m512i {
        // SAFETY: the caller gives 32 weights.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn dot(acc: Words512, a: __m512i, w: __m512i) -> Words512 {
        // SAFETY: as above.
        Words512(unsafe { _mm512_add_epi32(acc.0, _mm512_madd_epi16(a, w)) })
    }
    #[inline(always)]
    unsafe fn four_sums(x: Words512) -> Words512 {
        // SAFETY: as above.
        Words512(unsafe { _mm512_slli_epi32::<2>(x.0) })
    }
    #[inline(always)]
    unsafe fn shift_right(x: Words512, n: i32) -> Words512 {
        // SAFETY: as above.
        Words512(unsafe { _mm512_sra_epi32(x.0, _mm_cvtsi32_si128(n)) })
    }
}
