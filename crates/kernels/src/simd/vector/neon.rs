//! Four floats in a NEON register, which every aarch64 processor has.
//!
//! A multiply-add takes one lane of a vector as its factor, so rows of a product are loaded four floats at a
//! time instead of being spread one by one.

use super::Vector;
use std::arch::aarch64::*;
use std::arch::asm;

/// `acc[v] += x[L] * b[v]`
#[inline(always)]
unsafe fn row<const L: i32, const NV: usize>(
    x: float32x4_t,
    b: &[float32x4_t; NV],
    acc: &mut [float32x4_t; NV],
) {
    for v in 0..NV {
        // SAFETY: every processor of this architecture has the instructions.
        acc[v] = unsafe { vfmaq_laneq_f32::<L>(acc[v], b[v], x) };
    }
}

impl Vector for float32x4_t {
    const LANES: usize = 4;
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        // SAFETY: every processor of this architecture has the instructions.
        unsafe { vdupq_n_f32(x) }
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller gives four readable floats.
        unsafe { vld1q_f32(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller gives four writable floats.
        unsafe { vst1q_f32(p, self) }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> Self {
        // SAFETY: the caller gives `n` readable floats.
        unsafe {
            let zero = vdupq_n_f32(0.0);
            match n {
                0 => zero,
                1 => vld1q_lane_f32::<0>(p, zero),
                2 => vcombine_f32(vld1_f32(p), vget_low_f32(zero)),
                3 => vcombine_f32(vld1_f32(p), vld1_lane_f32::<0>(p.add(2), vget_low_f32(zero))),
                _ => vld1q_f32(p),
            }
        }
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, n: usize) {
        // SAFETY: the caller gives `n` writable floats.
        unsafe {
            match n {
                0 => {}
                1 => vst1q_lane_f32::<0>(p, self),
                2 => vst1_f32(p, vget_low_f32(self)),
                3 => {
                    vst1_f32(p, vget_low_f32(self));
                    vst1q_lane_f32::<2>(p.add(2), self);
                }
                _ => vst1q_f32(p, self),
            }
        }
    }
    #[inline(always)]
    unsafe fn mul_add(a: Self, b: Self, c: Self) -> Self {
        // SAFETY: every processor of this architecture has the instructions.
        unsafe { vfmaq_f32(c, a, b) }
    }
    #[inline(always)]
    unsafe fn add(a: Self, b: Self) -> Self {
        // SAFETY: as above.
        unsafe { vaddq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn sub(a: Self, b: Self) -> Self {
        // SAFETY: as above.
        unsafe { vsubq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn mul(a: Self, b: Self) -> Self {
        // SAFETY: as above.
        unsafe { vmulq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn div(a: Self, b: Self) -> Self {
        // SAFETY: as above.
        unsafe { vdivq_f32(a, b) }
    }
    #[inline(always)]
    unsafe fn scale(x: Self, n: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let exponent = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
            vmulq_f32(x, vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent)))
        }
    }
    #[inline(always)]
    unsafe fn zero_below(y: Self, x: Self, limit: Self) -> Self {
        // SAFETY: as above.
        unsafe { vbslq_f32(vcltq_f32(x, limit), vdupq_n_f32(0.0), y) }
    }
    #[inline(always)]
    unsafe fn max(a: Self, b: Self) -> Self {
        // The maximum instruction would give NaN if either is, and the positive one of two zeros.
        // SAFETY: as above.
        unsafe { vbslq_f32(vcgtq_f32(a, b), a, b) }
    }
    #[inline(always)]
    unsafe fn min(a: Self, b: Self) -> Self {
        // SAFETY: as above.
        unsafe { vbslq_f32(vcltq_f32(a, b), a, b) }
    }
    #[inline(always)]
    fn prefetch(p: *const f32) {
        // SAFETY: the instruction never faults and changes nothing but caches.
        unsafe {
            asm!("prfm pldl1keep, [{0}]", in(reg) p, options(nomem, nostack, preserves_flags));
        }
    }
    #[inline(always)]
    fn prefetch_line(p: *const f32) {
        // SAFETY: as above.
        unsafe {
            asm!("prfm pldl2keep, [{0}]", in(reg) p, options(nomem, nostack, preserves_flags));
        }
    }
    #[inline(always)]
    fn prefetch_written(p: *const f32) {
        // SAFETY: as above.
        unsafe {
            asm!("prfm pstl1keep, [{0}]", in(reg) p, options(nomem, nostack, preserves_flags));
        }
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        // SAFETY: the instructions are part of the architecture.
        unsafe { vaddvq_f32(self) }
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        // SAFETY: as above.
        unsafe { vmaxvq_f32(self) }
    }
    #[inline(always)]
    fn opaque(mut k: isize) -> isize {
        // SAFETY: no instruction at all.
        unsafe {
            asm!("/* {0} */", inout(reg) k, options(pure, nomem, nostack, preserves_flags));
        }
        k
    }
    #[inline(always)]
    unsafe fn step<const MR: usize, const NV: usize>(
        a: *const f32,
        b: &[Self; NV],
        acc: &mut [[Self; NV]; MR],
    ) {
        // SAFETY: the caller gives `MR` readable floats.
        unsafe {
            for four in 0..MR / 4 {
                let x = vld1q_f32(a.add(4 * four));
                row::<0, NV>(x, b, &mut acc[4 * four]);
                row::<1, NV>(x, b, &mut acc[4 * four + 1]);
                row::<2, NV>(x, b, &mut acc[4 * four + 2]);
                row::<3, NV>(x, b, &mut acc[4 * four + 3]);
            }
            for i in MR / 4 * 4..MR {
                row::<0, NV>(vld1q_dup_f32(a.add(i)), b, &mut acc[i]);
            }
        }
    }
    #[inline(always)]
    unsafe fn four_steps<const MR: usize, const NV: usize>(
        a: &[*const f32; MR],
        k: isize,
        b: *const f32,
        acc: &mut [[Self; NV]; MR],
    ) {
        // SAFETY: the caller gives four floats of every row, and four rows of `NV` vectors.
        unsafe {
            let mut x = [vdupq_n_f32(0.0); MR];
            for i in 0..MR {
                x[i] = vld1q_f32(a[i].byte_offset(k));
            }
            macro_rules! step {
                ($($u:literal)+) => {$(
                    let mut bv = [vdupq_n_f32(0.0); NV];
                    for v in 0..NV {
                        bv[v] = vld1q_f32(b.add(4 * ($u * NV + v)));
                    }
                    for i in 0..MR {
                        row::<$u, NV>(x[i], &bv, &mut acc[i]);
                    }
                )+};
            }
            step!(0 1 2 3);
        }
    }
}
