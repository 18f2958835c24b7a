//! Sums in NEON registers.

use super::paired::Paired;
use super::{Narrow, Sums};
use std::arch::aarch64::*;
use std::arch::asm;

mod pairs;

pub(crate) use pairs::Pairs128;

/// Four sums; activations in words.
#[derive(Clone, Copy)]
pub(crate) struct Words128(int32x4_t);

/// Four sums; activations in bytes less 128, four to a group, which the dot product multiplies and adds up at once.
#[derive(Clone, Copy)]
pub(crate) struct Bytes128(int32x4_t);

macro_rules! sums128 {
    ($t:ident, {$($own:tt)*}) => {
        impl Sums for $t {
            type Floats = float32x4_t;
            $($own)*
            #[inline(always)]
            unsafe fn zero() -> Self {
                // SAFETY: every processor of this architecture has the instructions, here and below.
                $t(unsafe { vdupq_n_s32(0) })
            }
            #[inline(always)]
            unsafe fn splat(x: i32) -> Self {
                // SAFETY: as above.
                $t(unsafe { vdupq_n_s32(x) })
            }
            #[inline(always)]
            unsafe fn load(p: *const i32) -> Self {
                // SAFETY: the caller gives four numbers.
                $t(unsafe { vld1q_s32(p) })
            }
            #[inline(always)]
            unsafe fn store(self, p: *mut i32) {
                // SAFETY: the caller gives room for four numbers.
                unsafe { vst1q_s32(p, self.0) }
            }
            #[inline(always)]
            unsafe fn add(a: Self, b: Self) -> Self {
                // SAFETY: as above.
                $t(unsafe { vaddq_s32(a.0, b.0) })
            }
            #[inline(always)]
            unsafe fn sub(a: Self, b: Self) -> Self {
                // SAFETY: as above.
                $t(unsafe { vsubq_s32(a.0, b.0) })
            }
            #[inline(always)]
            unsafe fn mul(a: Self, b: Self) -> Self {
                // SAFETY: as above.
                $t(unsafe { vmulq_s32(a.0, b.0) })
            }
            #[inline(always)]
            unsafe fn xor(a: Self, b: Self) -> Self {
                // SAFETY: as above.
                $t(unsafe { veorq_s32(a.0, b.0) })
            }
            #[inline(always)]
            unsafe fn to_floats(self) -> float32x4_t {
                // SAFETY: as above.
                unsafe { vcvtq_f32_s32(self.0) }
            }
            #[inline(always)]
            unsafe fn nearest(x: float32x4_t) -> Self {
                // SAFETY: as above.
                $t(unsafe { vcvtnq_s32_f32(x) })
            }
            #[inline(always)]
            unsafe fn load_bytes(p: *const u8) -> Self {
                // SAFETY: the caller gives four bytes.
                unsafe {
                    let bytes = vcreate_u8(u64::from(p.cast::<u32>().read_unaligned()));
                    $t(vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(bytes)))))
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
            #[inline(always)]
            unsafe fn store_bytes_of_both(a: Self, b: Self, to: Narrow, p: *mut u8) {
                // SAFETY: the caller gives room for eight bytes.
                unsafe {
                    let words = vcombine_s16(vqmovn_s32(a.0), vqmovn_s32(b.0));
                    let bytes = vqmovun_s16(vqaddq_s16(words, vdupq_n_s16(to.zero)));
                    let bytes = vmin_u8(vmax_u8(bytes, vdup_n_u8(to.low)), vdup_n_u8(to.high));
                    vst1_u8(p, veor_u8(bytes, vdup_n_u8(to.flip)));
                }
            }
        }
    };
}

sums128!(Words128, {
    type X = i16;
    type Spread = int16x4_t;
    type Weights = int16x4x2_t;
    const GROUP: usize = 2;
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
});

/// Adds the products of four groups of weights and group `L` of `x`. The compiler's own name for the instruction is not
/// stable yet; the assembler refuses it in a function that was compiled without it.
///
/// # Safety
/// The instructions for dot products are available.
#[inline(always)]
unsafe fn dot_lane<const L: i32>(mut acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: the caller has the instruction, which reads and writes these registers only.
    unsafe {
        asm!(
            "sdot {0:v}.4s, {1:v}.16b, {2:v}.4b[{3}]",
            inout(vreg) acc, in(vreg) w, in(vreg) x, const L,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}

sums128!(Bytes128, {
    type X = i8;
    type Spread = int8x16_t;
    type Weights = int8x16_t;
    const GROUP: usize = 4;
    const FOURS: bool = true;
    #[inline(always)]
    unsafe fn spread(p: *const i8) -> int8x16_t {
        // SAFETY: the caller gives the four elements of a group.
        unsafe { vreinterpretq_s8_s32(vdupq_n_s32(p.cast::<i32>().read_unaligned())) }
    }
    #[inline(always)]
    unsafe fn weights(p: *const i8) -> int8x16_t {
        // SAFETY: the caller gives sixteen weights.
        unsafe { vld1q_s8(p) }
    }
    #[inline(always)]
    unsafe fn dot(acc: Self, a: int8x16_t, w: int8x16_t) -> Self {
        // SAFETY: the caller has the instructions.
        Bytes128(unsafe { dot_lane::<0>(acc.0, w, a) })
    }
    #[inline(always)]
    unsafe fn dot_four<const MR: usize, const NV: usize>(
        a: &[*const i8; MR],
        k: isize,
        b: *const i8,
        acc: &mut [[Self; NV]; MR],
    ) {
        // SAFETY: the caller has the instructions, and gives four groups of every row and the weights of all.
        unsafe {
            let mut x = [vdupq_n_s8(0); MR];
            for i in 0..MR {
                x[i] = vld1q_s8(a[i].byte_offset(k));
            }
            macro_rules! group {
                ($($g:literal)+) => {$(
                    let mut w = [vdupq_n_s8(0); NV];
                    for v in 0..NV {
                        w[v] = vld1q_s8(b.add(16 * ($g * NV + v)));
                    }
                    for i in 0..MR {
                        for v in 0..NV {
                            acc[i][v].0 = dot_lane::<$g>(acc[i][v].0, w[v], x[i]);
                        }
                    }
                )+};
            }
            group!(0 1 2 3);
        }
    }
});

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
