//! Sums in NEON registers.

use super::paired::Paired;
use super::{Narrow, Sums};
use std::arch::aarch64::*;

mod pairs;

pub(crate) use pairs::Pairs128;

/// Four sums; activations in words.
#[derive(Clone, Copy)]
pub(crate) struct Words128(int32x4_t);

impl Sums for Words128 {
    type Floats = float32x4_t;
    type X = i16;
    type Spread = int16x4_t;
    type Weights = int16x4x2_t;
    const GROUP: usize = 2;
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: every processor of this architecture has the instructions, here and below.
        Words128(unsafe { vdupq_n_s32(0) })
    }
    #[inline(always)]
    unsafe fn splat(x: i32) -> Self {
        // SAFETY: as above.
        Words128(unsafe { vdupq_n_s32(x) })
    }
    #[inline(always)]
    unsafe fn spread(p: *const i16) -> int16x4_t {
        // SAFETY: the caller gives two elements.
        unsafe { vreinterpret_s16_s32(vdup_n_s32(p.cast::<i32>().read_unaligned())) }
    }
    #[inline(always)]
    unsafe fn weights(p: *const i8) -> int16x4x2_t {
        // SAFETY: the caller gives eight weights; the first of every pair go to one vector, the second to the other.
        unsafe {
            let words = vmovl_s8(vld1_s8(p));
            let (low, high) = (vget_low_s16(words), vget_high_s16(words));
            int16x4x2_t(vuzp1_s16(low, high), vuzp2_s16(low, high))
        }
    }
    #[inline(always)]
    unsafe fn dot(acc: Self, a: int16x4_t, w: int16x4x2_t) -> Self {
        // SAFETY: as above.
        Words128(unsafe { vmlal_lane_s16::<1>(vmlal_lane_s16::<0>(acc.0, w.0, a), w.1, a) })
    }
    #[inline(always)]
    unsafe fn load(p: *const i32) -> Self {
        // SAFETY: the caller gives four numbers.
        Words128(unsafe { vld1q_s32(p) })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut i32) {
        // SAFETY: the caller gives room for four numbers.
        unsafe { vst1q_s32(p, self.0) }
    }
    #[inline(always)]
    unsafe fn add(a: Self, b: Self) -> Self {
        // SAFETY: as above.
        Words128(unsafe { vaddq_s32(a.0, b.0) })
    }
    #[inline(always)]
    unsafe fn sub(a: Self, b: Self) -> Self {
        // SAFETY: as above.
        Words128(unsafe { vsubq_s32(a.0, b.0) })
    }
    #[inline(always)]
    unsafe fn mul(a: Self, b: Self) -> Self {
        // SAFETY: as above.
        Words128(unsafe { vmulq_s32(a.0, b.0) })
    }
    #[inline(always)]
    unsafe fn xor(a: Self, b: Self) -> Self {
        // SAFETY: as above.
        Words128(unsafe { veorq_s32(a.0, b.0) })
    }
    #[inline(always)]
    unsafe fn to_floats(self) -> float32x4_t {
        // SAFETY: as above.
        unsafe { vcvtq_f32_s32(self.0) }
    }
    #[inline(always)]
    unsafe fn nearest(x: float32x4_t) -> Self {
        // SAFETY: as above.
        Words128(unsafe { vcvtnq_s32_f32(x) })
    }
    #[inline(always)]
    unsafe fn load_bytes(p: *const u8) -> Self {
        // SAFETY: the caller gives four bytes.
        unsafe {
            let bytes = vcreate_u8(u64::from(p.cast::<u32>().read_unaligned()));
            Words128(vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(bytes)))))
        }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8) {
        // SAFETY: the caller gives room for four bytes.
        unsafe {
            let words = vmovn_u32(vreinterpretq_u32_s32(self.0));
            let bytes = vmovn_u16(vcombine_u16(words, words));
            p.cast::<u32>().write_unaligned(vget_lane_u32::<0>(vreinterpret_u32_u8(bytes)));
        }
    }
}

impl Paired for Words128 {
    type Words = int16x8_t;
    type Pair = int16x4x2_t;
    #[inline(always)]
    unsafe fn words<const SIGNED: bool>(p: *const u8) -> int16x8_t {
        // SAFETY: the caller gives eight bytes.
        unsafe {
            if SIGNED { vmovl_s8(vld1_s8(p.cast())) } else { vreinterpretq_s16_u16(vmovl_u8(vld1_u8(p))) }
        }
    }
    #[inline(always)]
    unsafe fn pair(a: int16x8_t, b: int16x8_t) -> [int16x4x2_t; 2] {
        // SAFETY: as above.
        unsafe {
            [int16x4x2_t(vget_low_s16(a), vget_low_s16(b)), int16x4x2_t(vget_high_s16(a), vget_high_s16(b))]
        }
    }
    #[inline(always)]
    unsafe fn dot_pair(acc: Self, x: int16x4x2_t, w: *const i16) -> Self {
        // SAFETY: the caller gives eight words.
        unsafe {
            let w = vld2_s16(w);
            Words128(vmlal_s16(vmlal_s16(acc.0, x.0, w.0), x.1, w.1))
        }
    }
    #[inline(always)]
    unsafe fn store_bytes_of_paired(x: [Self; 2], to: Narrow, p: *mut u8) {
        // SAFETY: forwarded; turns by fours are the plain order here.
        unsafe { Self::store_bytes_of_both(x[0], x[1], to, p) }
    }
}
