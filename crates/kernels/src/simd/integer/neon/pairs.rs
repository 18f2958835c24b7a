//! Words in NEON registers.

use super::Words128;
use crate::simd::integer::pairs::Pairs;
use std::arch::aarch64::*;

/// Eight words.
#[derive(Clone, Copy)]
pub(crate) struct Pairs128(int16x8_t);

impl Pairs for Pairs128 {
    type Sums = Words128;
    type Spread = int16x4_t;
    type Weights = int16x4x2_t;
    #[inline(always)]
    unsafe fn splat(x: i16) -> Self {
        // SAFETY: every processor of this architecture has the instructions, here and below.
        Pairs128(unsafe { vdupq_n_s16(x) })
    }
    #[inline(always)]
    unsafe fn load<const SIGNED: bool>(p: *const u8) -> Self {
        // SAFETY: the caller gives eight bytes.
        unsafe {
            let bytes = vld1_u8(p);
            Pairs128(if SIGNED {
                vmovl_s8(vreinterpret_s8_u8(bytes))
            } else {
                vreinterpretq_s16_u16(vmovl_u8(bytes))
            })
        }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut i16) {
        // SAFETY: the caller gives room for eight words.
        unsafe { vst1q_s16(p, self.0) }
    }
    #[inline(always)]
    unsafe fn add(a: Self, b: Self) -> Self {
        // SAFETY: as above.
        Pairs128(unsafe { vaddq_s16(a.0, b.0) })
    }
    #[inline(always)]
    unsafe fn sub(a: Self, b: Self) -> Self {
        // SAFETY: as above.
        Pairs128(unsafe { vsubq_s16(a.0, b.0) })
    }
    #[inline(always)]
    unsafe fn four(self) -> Self {
        // SAFETY: as above.
        Pairs128(unsafe { vshlq_n_s16::<2>(self.0) })
    }
    #[inline(always)]
    unsafe fn spread(p: *const i16) -> int16x4_t {
        // SAFETY: the caller gives two words.
        unsafe { vreinterpret_s16_s32(vdup_n_s32(p.cast::<i32>().read_unaligned())) }
    }
    #[inline(always)]
    unsafe fn weights(p: *const i16) -> int16x4x2_t {
        // SAFETY: the caller gives eight weights; the first of every pair go to one vector, the second to the other.
        unsafe { vld2_s16(p) }
    }
    #[inline(always)]
    unsafe fn dot(acc: Words128, a: int16x4_t, w: int16x4x2_t) -> Words128 {
        // SAFETY: as above.
        Words128(unsafe { vmlal_lane_s16::<1>(vmlal_lane_s16::<0>(acc.0, w.0, a), w.1, a) })
    }
    #[inline(always)]
    unsafe fn four_sums(x: Words128) -> Words128 {
        // SAFETY: as above.
        Words128(unsafe { vshlq_n_s32::<2>(x.0) })
    }
    #[inline(always)]
    unsafe fn shift_right(x: Words128, n: i32) -> Words128 {
        // SAFETY: as above.
        Words128(unsafe { vshlq_s32(x.0, vdupq_n_s32(-n)) })
    }
}
