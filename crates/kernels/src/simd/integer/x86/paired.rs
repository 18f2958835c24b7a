//! Pairs of words in AVX2 and AVX-512 registers.

use super::super::paired::Paired;
use super::{Narrow, Words256, Words512, narrowed};
use std::arch::x86_64::*;

impl Paired for Words256 {
    type Words = __m256i;
    type Pair = __m256i;
    #[inline(always)]
    unsafe fn words<const SIGNED: bool>(p: *const u8) -> __m256i {
        // SAFETY: the caller gives sixteen bytes.
        unsafe {
            let x = _mm_loadu_si128(p.cast());
            if SIGNED { _mm256_cvtepi8_epi16(x) } else { _mm256_cvtepu8_epi16(x) }
        }
    }
    #[inline(always)]
    unsafe fn pair(a: __m256i, b: __m256i) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe { [_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b)] }
    }
    #[inline(always)]
    unsafe fn dot_pair(acc: Self, x: __m256i, w: *const i16) -> Self {
        // SAFETY: the caller gives sixteen words.
        Words256(unsafe { _mm256_add_epi32(acc.0, _mm256_madd_epi16(x, _mm256_loadu_si256(w.cast()))) })
    }
    #[inline(always)]
    unsafe fn store_bytes_of_paired(x: [Self; 2], to: Narrow, p: *mut u8) {
        // SAFETY: the caller gives room for sixteen bytes.
        unsafe {
            // Each half of these has the next eight words.
            let words = _mm256_adds_epi16(_mm256_packs_epi32(x[0].0, x[1].0), _mm256_set1_epi16(to.zero));
            let bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            let bytes = _mm_max_epu8(bytes, _mm_set1_epi8(to.low as i8));
            let bytes = _mm_min_epu8(bytes, _mm_set1_epi8(to.high as i8));
            _mm_storeu_si128(p.cast(), _mm_xor_si128(bytes, _mm_set1_epi8(to.flip as i8)));
        }
    }
    #[inline(always)]
    unsafe fn store_bytes_of_paired_twice(x: [[Self; 2]; 2], to: Narrow, p: *mut u8, q: *mut u8) {
        // SAFETY: the caller gives room for sixteen bytes at both.
        unsafe {
            // Each half has eight bytes of the first row and then eight of the second.
            let bytes = narrowed([[x[0][0].0, x[0][1].0], [x[1][0].0, x[1][1].0]], to);
            let bytes = _mm256_permute4x64_epi64::<0b11_01_10_00>(bytes);
            _mm_storeu_si128(p.cast(), _mm256_castsi256_si128(bytes));
            _mm_storeu_si128(q.cast(), _mm256_extracti128_si256::<1>(bytes));
        }
    }
}

impl Paired for Words512 {
    type Words = __m512i;
    type Pair = __m512i;
    #[inline(always)]
    unsafe fn words<const SIGNED: bool>(p: *const u8) -> __m512i {
        // SAFETY: the caller gives 32 bytes.
        unsafe {
            let x = _mm256_loadu_si256(p.cast());
            if SIGNED { _mm512_cvtepi8_epi16(x) } else { _mm512_cvtepu8_epi16(x) }
        }
    }
    #[inline(always)]
    unsafe fn pair(a: __m512i, b: __m512i) -> [__m512i; 2] {
        // SAFETY: as above.
        unsafe { [_mm512_unpacklo_epi16(a, b), _mm512_unpackhi_epi16(a, b)] }
    }
    #[inline(always)]
    unsafe fn dot_pair(acc: Self, x: __m512i, w: *const i16) -> Self {
        // SAFETY: the caller gives 32 words.
        Words512(unsafe { _mm512_add_epi32(acc.0, _mm512_madd_epi16(x, _mm512_loadu_si512(w.cast()))) })
    }
    #[inline(always)]
    unsafe fn store_bytes_of_paired(x: [Self; 2], to: Narrow, p: *mut u8) {
        // SAFETY: the caller gives room for 32 bytes.
        unsafe {
            // Each quarter of these has the next eight words.
            let words = _mm512_packs_epi32(x[0].0, x[1].0);
            let words = _mm512_adds_epi16(words, _mm512_set1_epi16(to.zero));
            let bytes = _mm512_cvtusepi16_epi8(_mm512_max_epi16(words, _mm512_setzero_si512()));
            let bytes = _mm256_max_epu8(bytes, _mm256_set1_epi8(to.low as i8));
            let bytes = _mm256_min_epu8(bytes, _mm256_set1_epi8(to.high as i8));
            _mm256_storeu_si256(p.cast(), _mm256_xor_si256(bytes, _mm256_set1_epi8(to.flip as i8)));
        }
    }
}
