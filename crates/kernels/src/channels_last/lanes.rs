//! Vectors of channels, and the choice of their width.

use crate::simd::{Level, Tier};

/// A vector of floats.
///
/// # Safety
/// Every method needs the instructions of its type; loads and stores reach `LANES` floats from `p`.
pub(crate) trait Lanes: Copy {
    const LANES: usize;
    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(p: *const f32) -> Self;
    unsafe fn store(self, p: *mut f32);
    /// `a * b + c`
    unsafe fn mul_add(a: Self, b: Self, c: Self) -> Self;
    unsafe fn add(a: Self, b: Self) -> Self;
    unsafe fn div(a: Self, b: Self) -> Self;
    /// The larger of the two, `x` if it is NaN, and `self` in a tie.
    unsafe fn larger(self, x: Self) -> Self;
    /// `shift` added, and then moved up to `lo` and down to `hi`; in a tie and where it is NaN it stays.
    unsafe fn clamp(self, shift_lo_hi: [Self; 3]) -> Self;
}

impl<const N: usize> Lanes for [f32; N] {
    const LANES: usize = N;
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        [x; N]
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller gives that many readable floats; an array of floats needs no more alignment.
        unsafe { *p.cast::<[f32; N]>() }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller gives that many writable floats.
        unsafe { *p.cast::<[f32; N]>() = self }
    }
    #[inline(always)]
    unsafe fn mul_add(a: Self, b: Self, c: Self) -> Self {
        // Fused where it is in the baseline, so that one channel is computed as four are.
        if cfg!(target_arch = "aarch64") {
            std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
        } else {
            std::array::from_fn(|i| a[i] * b[i] + c[i])
        }
    }
    #[inline(always)]
    unsafe fn add(a: Self, b: Self) -> Self {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn div(a: Self, b: Self) -> Self {
        std::array::from_fn(|i| a[i] / b[i])
    }
    #[inline(always)]
    unsafe fn larger(self, x: Self) -> Self {
        std::array::from_fn(|i| if x[i] > self[i] || x[i].is_nan() { x[i] } else { self[i] })
    }
    #[inline(always)]
    unsafe fn clamp(self, [shift, lo, hi]: [Self; 3]) -> Self {
        std::array::from_fn(|i| {
            let x = self[i] + shift[i];
            let x = if lo[i] > x { lo[i] } else { x };
            if hi[i] < x { hi[i] } else { x }
        })
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Lanes;
    use std::arch::x86_64::*;

    macro_rules! lanes {
        ($t:ty, $n:expr, $splat:ident $load:ident $store:ident $fma:ident $add:ident $div:ident, $($rest:tt)*) => {
            // Every method is inlined into a function that has the instructions on.
            impl Lanes for $t {
                const LANES: usize = $n;
                #[inline(always)]
                unsafe fn splat(x: f32) -> Self {
                    // SAFETY: the caller has the instructions.
                    unsafe { $splat(x) }
                }
                #[inline(always)]
                unsafe fn load(p: *const f32) -> Self {
                    // SAFETY: the caller has the instructions and gives that many readable floats.
                    unsafe { $load(p) }
                }
                #[inline(always)]
                unsafe fn store(self, p: *mut f32) {
                    // SAFETY: the caller has the instructions and gives that many writable floats.
                    unsafe { $store(p, self) }
                }
                #[inline(always)]
                unsafe fn mul_add(a: Self, b: Self, c: Self) -> Self {
                    // SAFETY: the caller has the instructions.
                    unsafe { $fma(a, b, c) }
                }
                #[inline(always)]
                unsafe fn add(a: Self, b: Self) -> Self {
                    // SAFETY: the caller has the instructions.
                    unsafe { $add(a, b) }
                }
                #[inline(always)]
                unsafe fn div(a: Self, b: Self) -> Self {
                    // SAFETY: the caller has the instructions.
                    unsafe { $div(a, b) }
                }
                $($rest)*
            }
        };
    }

    lanes! {
        __m512, 16,
        _mm512_set1_ps _mm512_loadu_ps _mm512_storeu_ps _mm512_fmadd_ps _mm512_add_ps _mm512_div_ps,
        #[inline(always)]
        unsafe fn larger(self, x: Self) -> Self {
            // The instruction gives its second operand in a tie and where either is NaN.
            // SAFETY: the caller has the instructions.
            unsafe { _mm512_mask_max_ps(x, _mm512_cmp_ps_mask::<_CMP_ORD_Q>(x, x), x, self) }
        }
        #[inline(always)]
        unsafe fn clamp(self, [shift, lo, hi]: [Self; 3]) -> Self {
            // SAFETY: the caller has the instructions.
            unsafe { _mm512_min_ps(hi, _mm512_max_ps(lo, _mm512_add_ps(self, shift))) }
        }
    }

    lanes! {
        __m256, 8,
        _mm256_set1_ps _mm256_loadu_ps _mm256_storeu_ps _mm256_fmadd_ps _mm256_add_ps _mm256_div_ps,
        #[inline(always)]
        unsafe fn larger(self, x: Self) -> Self {
            // SAFETY: the caller has the instructions.
            unsafe { _mm256_blendv_ps(_mm256_max_ps(x, self), x, _mm256_cmp_ps::<_CMP_UNORD_Q>(x, x)) }
        }
        #[inline(always)]
        unsafe fn clamp(self, [shift, lo, hi]: [Self; 3]) -> Self {
            // SAFETY: the caller has the instructions.
            unsafe { _mm256_min_ps(hi, _mm256_max_ps(lo, _mm256_add_ps(self, shift))) }
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use super::Lanes;
    use crate::simd::vector::Vector;
    use std::arch::aarch64::*;

    // Every processor of this architecture has the instructions.
    impl Lanes for float32x4_t {
        const LANES: usize = 4;
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: see above.
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
        unsafe fn mul_add(a: Self, b: Self, c: Self) -> Self {
            // SAFETY: see above.
            unsafe { vfmaq_f32(c, a, b) }
        }
        #[inline(always)]
        unsafe fn add(a: Self, b: Self) -> Self {
            // SAFETY: see above.
            unsafe { vaddq_f32(a, b) }
        }
        #[inline(always)]
        unsafe fn div(a: Self, b: Self) -> Self {
            // SAFETY: see above.
            unsafe { vdivq_f32(a, b) }
        }
        #[inline(always)]
        unsafe fn larger(self, x: Self) -> Self {
            // SAFETY: see above.
            unsafe {
                let number = vceqq_f32(x, x);
                vbslq_f32(vorrq_u32(vcgtq_f32(x, self), vmvnq_u32(number)), x, self)
            }
        }
        #[inline(always)]
        unsafe fn clamp(self, [shift, lo, hi]: [Self; 3]) -> Self {
            // SAFETY: see above.
            unsafe { Vector::min(hi, Vector::max(lo, vaddq_f32(self, shift))) }
        }
    }
}

/// Work to be compiled for each vector. `run` must be `#[inline(always)]`.
pub(super) trait Body {
    /// # Safety
    /// `V`'s instructions are available, and there are at least `V::LANES` channels.
    unsafe fn run<V: Lanes>(self);
}

#[cfg(target_arch = "aarch64")]
type Four = std::arch::aarch64::float32x4_t;
#[cfg(not(target_arch = "aarch64"))]
type Four = [f32; 4];

/// Channels in a vector: the widest of the level's that `channels` fill.
pub(crate) fn width(level: Level, channels: usize) -> usize {
    let most = match level.tier() {
        Tier::Avx512 => 16,
        Tier::Avx2 => 8,
        Tier::Baseline => 4,
    };
    [16, 8, 4].into_iter().find(|&w| w <= most.min(channels)).unwrap_or(1)
}

/// Runs `body` with vectors of [`width`]; there must be a channel.
pub(super) fn run(level: Level, channels: usize, body: impl Body) {
    debug_assert!(channels > 0);
    match width(level, channels) {
        // SAFETY: a level exists only where its instructions do, and `width` gives 16 only to this one.
        #[cfg(target_arch = "x86_64")]
        16 => unsafe { run_avx512(body) },
        // SAFETY: as above; both higher levels have these.
        #[cfg(target_arch = "x86_64")]
        8 => unsafe { run_avx2(body) },
        // SAFETY: these are in the baseline, and the channels were counted.
        4 => unsafe { body.run::<Four>() },
        // SAFETY: as above.
        _ => unsafe { body.run::<[f32; 1]>() },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
unsafe fn run_avx512(body: impl Body) {
    // SAFETY: forwarded.
    unsafe { body.run::<std::arch::x86_64::__m512>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn run_avx2(body: impl Body) {
    // SAFETY: forwarded.
    unsafe { body.run::<std::arch::x86_64::__m256>() }
}
