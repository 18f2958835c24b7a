//! Sums in AVX2 and AVX-512 registers.

mod paired;

use super::{Narrow, Sums};
use crate::simd::vector::Vector;
use std::arch::x86_64::*;

mod pairs;

pub(crate) use pairs::{Pairs256, Pairs512};

/// Eight sums; activations in words.
#[derive(Clone, Copy)]
pub(crate) struct Words256(__m256i);

/// Eight sums; activations in bytes so small that sums of products fit words.
#[derive(Clone, Copy)]
pub(crate) struct Bytes256(__m256i);

/// Sixteen sums; activations in words.
#[derive(Clone, Copy)]
pub(crate) struct Words512(__m512i);

/// Sixteen sums; activations in bytes, four to a group, which VNNI multiplies and adds up at once.
#[derive(Clone, Copy)]
pub(crate) struct Bytes512(__m512i);

/// The bytes that two rows of two vectors become: in each half four of each vector in turn.
///
/// # Safety
/// AVX2 is available.
#[inline(always)]
unsafe fn narrowed(x: [[__m256i; 2]; 2], to: Narrow) -> __m256i {
    // SAFETY: forwarded.
    unsafe {
        let zero = _mm256_set1_epi16(to.zero);
        let first = _mm256_adds_epi16(_mm256_packs_epi32(x[0][0], x[0][1]), zero);
        let second = _mm256_adds_epi16(_mm256_packs_epi32(x[1][0], x[1][1]), zero);
        let bytes = _mm256_max_epu8(_mm256_packus_epi16(first, second), _mm256_set1_epi8(to.low as i8));
        let bytes = _mm256_min_epu8(bytes, _mm256_set1_epi8(to.high as i8));
        _mm256_xor_si256(bytes, _mm256_set1_epi8(to.flip as i8))
    }
}

macro_rules! sums256 {
    ($t:ident, $x:ty, $group:literal, $p:ident: $load:expr, $acc:ident $a:ident $w:ident: $dot:expr, {$($more:tt)*}) => {
        impl Sums for $t {
            type Floats = __m256;
            type X = $x;
            type Spread = __m256i;
            type Weights = __m256i;
            const GROUP: usize = $group;
            #[inline(always)]
            unsafe fn zero() -> Self {
                // SAFETY: the caller has the instructions, here and below.
                $t(unsafe { _mm256_setzero_si256() })
            }
            #[inline(always)]
            unsafe fn splat(x: i32) -> Self {
                // SAFETY: as above.
                $t(unsafe { _mm256_set1_epi32(x) })
            }
            #[inline(always)]
            unsafe fn spread(p: *const $x) -> __m256i {
                // SAFETY: the caller gives the four bytes of a group.
                unsafe { _mm256_castps_si256(_mm256_broadcast_ss(&*p.cast::<f32>())) }
            }
            #[inline(always)]
            unsafe fn weights($p: *const i8) -> __m256i {
                // SAFETY: the caller gives the weights of a vector.
                unsafe { $load }
            }
            #[inline(always)]
            unsafe fn dot($acc: Self, $a: __m256i, $w: __m256i) -> Self {
                // SAFETY: as above.
                $t(unsafe { $dot })
            }
            #[inline(always)]
            unsafe fn load(p: *const i32) -> Self {
                // SAFETY: the caller gives eight numbers.
                $t(unsafe { _mm256_loadu_si256(p.cast()) })
            }
            #[inline(always)]
            unsafe fn store(self, p: *mut i32) {
                // SAFETY: the caller gives room for eight numbers.
                unsafe { _mm256_storeu_si256(p.cast(), self.0) }
            }
            #[inline(always)]
            unsafe fn add(a: Self, b: Self) -> Self {
                // SAFETY: as above.
                $t(unsafe { _mm256_add_epi32(a.0, b.0) })
            }
            #[inline(always)]
            unsafe fn sub(a: Self, b: Self) -> Self {
                // SAFETY: as above.
                $t(unsafe { _mm256_sub_epi32(a.0, b.0) })
            }
            #[inline(always)]
            unsafe fn mul(a: Self, b: Self) -> Self {
                // SAFETY: as above.
                $t(unsafe { _mm256_mullo_epi32(a.0, b.0) })
            }
            #[inline(always)]
            unsafe fn xor(a: Self, b: Self) -> Self {
                // SAFETY: as above.
                $t(unsafe { _mm256_xor_si256(a.0, b.0) })
            }
            #[inline(always)]
            unsafe fn to_floats(self) -> __m256 {
                // SAFETY: as above.
                unsafe { _mm256_cvtepi32_ps(self.0) }
            }
            #[inline(always)]
            unsafe fn nearest(x: __m256) -> Self {
                // SAFETY: as above; the rounding mode is the processor's own, to the nearest.
                $t(unsafe { _mm256_cvtps_epi32(x) })
            }
            #[inline(always)]
            unsafe fn load_bytes(p: *const u8) -> Self {
                // SAFETY: the caller gives eight bytes.
                $t(unsafe { _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast())) })
            }
            #[inline(always)]
            unsafe fn store_bytes(self, p: *mut u8) {
                // SAFETY: the caller gives room for eight bytes.
                unsafe {
                    let words =
                        _mm_packus_epi32(_mm256_castsi256_si128(self.0), _mm256_extracti128_si256::<1>(self.0));
                    _mm_storel_epi64(p.cast(), _mm_packus_epi16(words, words));
                }
            }
            #[inline(always)]
            unsafe fn store_bytes_of_both(a: Self, b: Self, to: Narrow, p: *mut u8) {
                // SAFETY: the caller gives room for sixteen bytes.
                unsafe {
                    let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(a.0, b.0));
                    let words = _mm256_adds_epi16(words, _mm256_set1_epi16(to.zero));
                    let bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
                    let bytes = _mm_max_epu8(bytes, _mm_set1_epi8(to.low as i8));
                    let bytes = _mm_min_epu8(bytes, _mm_set1_epi8(to.high as i8));
                    _mm_storeu_si128(p.cast(), _mm_xor_si128(bytes, _mm_set1_epi8(to.flip as i8)));
                }
            }
            #[inline(always)]
            unsafe fn store_bytes_of_rows(x: [[Self; 2]; 2], to: Narrow, p: *mut u8, q: *mut u8) {
                // SAFETY: the caller gives room for sixteen bytes twice.
                unsafe {
                    let bytes = narrowed([[x[0][0].0, x[0][1].0], [x[1][0].0, x[1][1].0]], to);
                    let bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
                    _mm_storeu_si128(p.cast(), _mm256_castsi256_si128(bytes));
                    _mm_storeu_si128(q.cast(), _mm256_extracti128_si256::<1>(bytes));
                }
            }
            const SHIFT: f32 = 8_388_608.0;
            #[inline(always)]
            unsafe fn floats_of_four(p: *const u8, flip: u8) -> [__m256; 4] {
                // SAFETY: the caller gives 32 bytes.
                unsafe {
                    let bytes = _mm256_xor_si256(_mm256_loadu_si256(p.cast()), _mm256_set1_epi8(flip as i8));
                    let (none, whole) = (_mm256_setzero_si256(), _mm256_set1_epi16(WHOLE));
                    let (low, high) = (_mm256_unpacklo_epi8(bytes, none), _mm256_unpackhi_epi8(bytes, none));
                    [
                        _mm256_castsi256_ps(_mm256_unpacklo_epi16(low, whole)),
                        _mm256_castsi256_ps(_mm256_unpackhi_epi16(low, whole)),
                        _mm256_castsi256_ps(_mm256_unpacklo_epi16(high, whole)),
                        _mm256_castsi256_ps(_mm256_unpackhi_epi16(high, whole)),
                    ]
                }
            }
            #[inline(always)]
            unsafe fn store_bytes_of_four(x: [Self; 4], to: Narrow, p: *mut u8) {
                // SAFETY: the caller gives room for 32 bytes.
                unsafe {
                    let zero = _mm256_set1_epi16(to.zero);
                    let low = _mm256_adds_epi16(_mm256_packs_epi32(x[0].0, x[1].0), zero);
                    let high = _mm256_adds_epi16(_mm256_packs_epi32(x[2].0, x[3].0), zero);
                    let bytes = _mm256_max_epu8(_mm256_packus_epi16(low, high), _mm256_set1_epi8(to.low as i8));
                    let bytes = _mm256_min_epu8(bytes, _mm256_set1_epi8(to.high as i8));
                    _mm256_storeu_si256(p.cast(), _mm256_xor_si256(bytes, _mm256_set1_epi8(to.flip as i8)));
                }
            }
            $($more)*
        }
    };
}

sums256!(
    Words256, i16, 2,
    p: _mm256_cvtepi8_epi16(_mm_loadu_si128(p.cast())),
    acc a w: _mm256_add_epi32(acc.0, _mm256_madd_epi16(a, w)),
    {
        #[inline(always)]
        unsafe fn nibbles(p: *const u8) -> [__m256i; 2] {
            // SAFETY: the caller gives sixteen bytes.
            unsafe {
                let (both, mask) = (_mm_loadu_si128(p.cast()), _mm_set1_epi8(15));
                let (low, high) = (_mm_and_si128(both, mask), _mm_and_si128(_mm_srli_epi16::<4>(both), mask));
                [_mm256_cvtepi8_epi16(low), _mm256_cvtepi8_epi16(high)]
            }
        }
    }
);
// One product of bytes takes four steps of depth at twice the rate of words, but its sums of two are words.
sums256!(
    Bytes256, u8, 4,
    p: _mm256_loadu_si256(p.cast()),
    acc a w: {
        let pairs = _mm256_maddubs_epi16(a, w);
        _mm256_add_epi32(acc.0, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    },
    {
        const PAIRED: bool = true;
        #[inline(always)]
        unsafe fn dot_signed(acc: Self, a: __m256i, w: __m256i, negative: bool) -> Self {
            // SAFETY: as above.
            unsafe {
                let sign = _mm256_set1_epi16(if negative { -1 } else { 1 });
                Bytes256(_mm256_add_epi32(acc.0, _mm256_madd_epi16(_mm256_maddubs_epi16(a, w), sign)))
            }
        }
        #[inline(always)]
        unsafe fn narrow([base, flip, span]: [u8; 3], from: *const u8, [narrow, more, less]: [*mut u8; 3]) -> [u32; 2] {
            // SAFETY: the caller gives 32 bytes of each.
            unsafe {
                let x = _mm256_xor_si256(_mm256_loadu_si256(from.cast()), _mm256_set1_epi8(flip as i8));
                let zero = _mm256_setzero_si256();
                let (base, most) = (_mm256_set1_epi8(base as i8), _mm256_set1_epi8(span as i8));
                let from_base = _mm256_subs_epu8(x, base);
                let (above, below) = (_mm256_subs_epu8(from_base, most), _mm256_subs_epu8(base, x));
                _mm256_storeu_si256(narrow.cast(), _mm256_min_epu8(from_base, most));
                _mm256_storeu_si256(more.cast(), above);
                _mm256_storeu_si256(less.cast(), below);
                let none = [_mm256_cmpeq_epi8(above, zero), _mm256_cmpeq_epi8(below, zero)];
                [!_mm256_movemask_epi8(none[0]) as u32, !_mm256_movemask_epi8(none[1]) as u32]
            }
        }
        #[inline(always)]
        unsafe fn dot_both<const NV: usize>(acc: &mut [Self; NV], a: [*const u8; 2], w: &[[__m256i; 2]; NV]) {
            // SAFETY: the caller gives two groups.
            unsafe {
                let x = Self::spread(a[0]);
                let mut pairs = [x; NV];
                for v in 0..NV {
                    pairs[v] = _mm256_maddubs_epi16(x, w[v][0]);
                }
                for v in 0..NV {
                    // Loaded once more for each vector: the product takes its place, and all registers are in use.
                    let again = __m256::opaque(a[1].addr() as isize) as usize;
                    let x = Self::spread(a[1].with_addr(again));
                    pairs[v] = _mm256_add_epi16(pairs[v], _mm256_maddubs_epi16(x, w[v][1]));
                    acc[v].0 = _mm256_add_epi32(acc[v].0, _mm256_madd_epi16(pairs[v], _mm256_set1_epi16(1)));
                }
            }
        }
    }
);
/// A float of this exponent has a whole number in its low bits: bytes need no conversion.
const WHOLE: i16 = 0x4b00;

macro_rules! sums512 {
    ($t:ident, $x:ty, $group:literal, $weights:ty, $p:ident: $load:expr, $both:expr, $acc:ident $a:ident $w:ident: $dot:expr) => {
        impl Sums for $t {
            type Floats = __m512;
            type X = $x;
            type Spread = __m512i;
            type Weights = $weights;
            const GROUP: usize = $group;
            #[inline(always)]
            unsafe fn zero() -> Self {
                // SAFETY: the caller has the instructions, here and below.
                $t(unsafe { _mm512_setzero_si512() })
            }
            #[inline(always)]
            unsafe fn splat(x: i32) -> Self {
                // SAFETY: as above.
                $t(unsafe { _mm512_set1_epi32(x) })
            }
            #[inline(always)]
            unsafe fn spread(p: *const $x) -> __m512i {
                // SAFETY: the caller gives the four bytes of a group.
                unsafe { _mm512_set1_epi32(p.cast::<i32>().read_unaligned()) }
            }
            #[inline(always)]
            unsafe fn weights($p: *const i8) -> $weights {
                // SAFETY: the caller gives the weights of a vector.
                unsafe { $load }
            }
            #[inline(always)]
            unsafe fn nibbles($p: *const u8) -> [$weights; 2] {
                // SAFETY: the caller gives the bytes of two vectors' weights.
                unsafe { $both }
            }
            #[inline(always)]
            unsafe fn store_bytes_of_both(a: Self, b: Self, to: Narrow, p: *mut u8) {
                // SAFETY: the caller gives room for 32 bytes.
                unsafe {
                    // The words of both lie as their halves do, then as the numbers do.
                    let words = _mm512_packs_epi32(a.0, b.0);
                    let words = _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7), words);
                    let words = _mm512_adds_epi16(words, _mm512_set1_epi16(to.zero));
                    let bytes = _mm512_cvtusepi16_epi8(_mm512_max_epi16(words, _mm512_setzero_si512()));
                    let bytes = _mm256_max_epu8(bytes, _mm256_set1_epi8(to.low as i8));
                    let bytes = _mm256_min_epu8(bytes, _mm256_set1_epi8(to.high as i8));
                    _mm256_storeu_si256(p.cast(), _mm256_xor_si256(bytes, _mm256_set1_epi8(to.flip as i8)));
                }
            }
            #[inline(always)]
            unsafe fn dot($acc: Self, $a: __m512i, $w: $weights) -> Self {
                // SAFETY: as above.
                $t(unsafe { $dot })
            }
            const SHIFT: f32 = 8_388_608.0;
            #[inline(always)]
            unsafe fn floats_of_four(p: *const u8, flip: u8) -> [__m512; 4] {
                // SAFETY: the caller gives 64 bytes.
                unsafe {
                    let bytes = _mm512_xor_si512(_mm512_loadu_si512(p.cast()), _mm512_set1_epi8(flip as i8));
                    let (none, whole) = (_mm512_setzero_si512(), _mm512_set1_epi16(WHOLE));
                    let (low, high) = (_mm512_unpacklo_epi8(bytes, none), _mm512_unpackhi_epi8(bytes, none));
                    [
                        _mm512_castsi512_ps(_mm512_unpacklo_epi16(low, whole)),
                        _mm512_castsi512_ps(_mm512_unpackhi_epi16(low, whole)),
                        _mm512_castsi512_ps(_mm512_unpacklo_epi16(high, whole)),
                        _mm512_castsi512_ps(_mm512_unpackhi_epi16(high, whole)),
                    ]
                }
            }
            #[inline(always)]
            unsafe fn store_bytes_of_four(x: [Self; 4], to: Narrow, p: *mut u8) {
                // SAFETY: the caller gives room for 64 bytes.
                unsafe {
                    let zero = _mm512_set1_epi16(to.zero);
                    let low = _mm512_adds_epi16(_mm512_packs_epi32(x[0].0, x[1].0), zero);
                    let high = _mm512_adds_epi16(_mm512_packs_epi32(x[2].0, x[3].0), zero);
                    let bytes =
                        _mm512_max_epu8(_mm512_packus_epi16(low, high), _mm512_set1_epi8(to.low as i8));
                    let bytes = _mm512_min_epu8(bytes, _mm512_set1_epi8(to.high as i8));
                    _mm512_storeu_si512(p.cast(), _mm512_xor_si512(bytes, _mm512_set1_epi8(to.flip as i8)));
                }
            }
            #[inline(always)]
            unsafe fn load(p: *const i32) -> Self {
                // SAFETY: the caller gives sixteen numbers.
                $t(unsafe { _mm512_loadu_si512(p.cast()) })
            }
            #[inline(always)]
            unsafe fn store(self, p: *mut i32) {
                // SAFETY: the caller gives room for sixteen numbers.
                unsafe { _mm512_storeu_si512(p.cast(), self.0) }
            }
            #[inline(always)]
            unsafe fn add(a: Self, b: Self) -> Self {
                // SAFETY: as above.
                $t(unsafe { _mm512_add_epi32(a.0, b.0) })
            }
            #[inline(always)]
            unsafe fn sub(a: Self, b: Self) -> Self {
                // SAFETY: as above.
                $t(unsafe { _mm512_sub_epi32(a.0, b.0) })
            }
            #[inline(always)]
            unsafe fn mul(a: Self, b: Self) -> Self {
                // SAFETY: as above.
                $t(unsafe { _mm512_mullo_epi32(a.0, b.0) })
            }
            #[inline(always)]
            unsafe fn xor(a: Self, b: Self) -> Self {
                // SAFETY: as above.
                $t(unsafe { _mm512_xor_si512(a.0, b.0) })
            }
            #[inline(always)]
            unsafe fn to_floats(self) -> __m512 {
                // SAFETY: as above.
                unsafe { _mm512_cvtepi32_ps(self.0) }
            }
            #[inline(always)]
            unsafe fn nearest(x: __m512) -> Self {
                // SAFETY: as above; the rounding mode is the processor's own, to the nearest.
                $t(unsafe { _mm512_cvtps_epi32(x) })
            }
            #[inline(always)]
            unsafe fn load_bytes(p: *const u8) -> Self {
                // SAFETY: the caller gives sixteen bytes.
                $t(unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast())) })
            }
            #[inline(always)]
            unsafe fn store_bytes(self, p: *mut u8) {
                // SAFETY: the caller gives room for sixteen bytes.
                unsafe { _mm_storeu_si128(p.cast(), _mm512_cvtepi32_epi8(self.0)) }
            }
        }
    };
}

sums512!(
    Words512, i16, 2, __m512i,
    p: _mm512_cvtepi8_epi16(_mm256_loadu_si256(p.cast())),
    {
        let (both, mask) = (_mm256_loadu_si256(p.cast()), _mm256_set1_epi8(15));
        let high = _mm256_and_si256(_mm256_srli_epi16::<4>(both), mask);
        [_mm512_cvtepi8_epi16(_mm256_and_si256(both, mask)), _mm512_cvtepi8_epi16(high)]
    },
    acc a w: _mm512_add_epi32(acc.0, _mm512_madd_epi16(a, w))
);
sums512!(
    Bytes512, u8, 4, __m512i,
    p: _mm512_loadu_si512(p.cast()),
    {
        let (both, mask) = (_mm512_loadu_si512(p.cast()), _mm512_set1_epi8(15));
        [_mm512_and_si512(both, mask), _mm512_and_si512(_mm512_srli_epi16::<4>(both), mask)]
    },
    acc a w: _mm512_dpbusd_epi32(acc.0, a, w)
);

const _: () = assert!(<__m512 as Vector>::LANES == 16);
