//! Vectors of floats for kernels that keep a block of output in registers.

#[cfg(target_arch = "aarch64")]
mod neon;

/// The vector of the architecture's own baseline.
#[cfg(target_arch = "aarch64")]
pub(crate) type Base = std::arch::aarch64::float32x4_t;
/// The vector of the architecture's own baseline.
#[cfg(not(target_arch = "aarch64"))]
pub(crate) type Base = Quad;

/// Adding this rounds to a whole number, which then sits in the low bits.
pub(crate) const ROUND: f32 = 12_582_912.0;
/// 2^r within half a step of zero, to 1e-7 of itself: the largest error is as small as it can be for the degree.
// It is the fit that brings one term near a constant.
#[allow(clippy::approx_constant)]
pub(crate) const POWER: [f32; 6] =
    [1.0, 0.693_147, 0.240_222_42, 0.055_507_336, 0.009_671_513, 0.001_326_472_7];

/// The sum of the terms times the powers of `x`.
///
/// # Safety
/// `V`'s instructions are available.
#[inline(always)]
pub(crate) unsafe fn polynomial<V: Vector, const N: usize>(x: V, terms: &[f32; N]) -> V {
    // SAFETY: forwarded.
    unsafe {
        let mut sum = V::splat(terms[N - 1]);
        for k in (0..N - 1).rev() {
            sum = V::mul_add(sum, x, V::splat(terms[k]));
        }
        sum
    }
}

/// 2^(factor x) where that is a normal number, within 2 ULP, and as many more as the last bit of `factor` makes of the
/// exponent; NaN where `x` is.
///
/// # Safety
/// `V`'s instructions are available.
#[inline(always)]
pub(crate) unsafe fn power<V: Vector>(x: V, factor: f32) -> V {
    // SAFETY: forwarded.
    unsafe {
        let whole = V::mul_add(x, V::splat(factor), V::splat(ROUND));
        let rest = V::mul_add(x, V::splat(factor), V::sub(V::splat(ROUND), whole));
        V::scale_by_rounded(polynomial(rest, &POWER), whole)
    }
}

/// A vector of floats. Every method is inlined into a function that has the vector's instructions on.
///
/// # Safety of the methods
/// All need the vector's instructions. Loads and stores need as many floats at `p` as they touch.
pub(crate) trait Vector: Copy {
    const LANES: usize;
    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(p: *const f32) -> Self;
    unsafe fn store(self, p: *mut f32);
    /// Loads the first `n <= LANES` floats, and zeros behind them.
    unsafe fn load_first(p: *const f32, n: usize) -> Self;
    /// Stores the first `n <= LANES` floats.
    unsafe fn store_first(self, p: *mut f32, n: usize);
    unsafe fn mul_add(a: Self, b: Self, c: Self) -> Self;
    unsafe fn add(a: Self, b: Self) -> Self;
    unsafe fn sub(a: Self, b: Self) -> Self;
    unsafe fn mul(a: Self, b: Self) -> Self;
    unsafe fn div(a: Self, b: Self) -> Self;
    /// `x 2^n` for whole `n` from -126 to 127; NaN if `x` is, whatever `n` is then.
    unsafe fn scale(x: Self, n: Self) -> Self;
    /// `x 2^n` for whole `n` from -126 to 127, given as `n + ROUND`; NaN if `x` is, whatever `n` is then.
    #[inline(always)]
    unsafe fn scale_by_rounded(x: Self, n: Self) -> Self {
        // SAFETY: forwarded.
        unsafe { Self::scale(x, Self::sub(n, Self::splat(ROUND))) }
    }
    /// `|x|`, NaN where it is.
    #[inline(always)]
    unsafe fn abs(x: Self) -> Self {
        // SAFETY: forwarded.
        unsafe { Self::max(Self::sub(Self::splat(0.0), x), x) }
    }
    /// Zero where `x < limit`, else `y`.
    unsafe fn zero_below(y: Self, x: Self, limit: Self) -> Self;
    /// The larger; `b` if either is NaN or both are zeros.
    unsafe fn max(a: Self, b: Self) -> Self;
    /// The smaller; `b` if either is NaN or both are zeros.
    unsafe fn min(a: Self, b: Self) -> Self;
    /// The sum of the lanes.
    unsafe fn sum(self) -> f32;
    /// The largest lane, if none is NaN.
    unsafe fn largest(self) -> f32;
    /// Brings the cache lines of two vectors near; any address will do.
    #[inline(always)]
    fn prefetch(_: *const f32) {}
    /// Brings one cache line into the second-level cache; any address will do.
    #[inline(always)]
    fn prefetch_line(_: *const f32) {}
    /// Brings a cache line near that will be written; any address will do.
    #[inline(always)]
    fn prefetch_written(_: *const f32) {}
    /// The same number, which the compiler cannot take apart: a loop counter stays one register instead of
    /// becoming one for each use.
    #[inline(always)]
    fn opaque(k: isize) -> isize {
        k
    }
    /// A step of depth of a product: `acc[i][v] += a[i] * b[v]`, the floats of `a` one after the other.
    #[inline(always)]
    unsafe fn step<const MR: usize, const NV: usize>(
        a: *const f32,
        b: &[Self; NV],
        acc: &mut [[Self; NV]; MR],
    ) {
        for i in 0..MR {
            // SAFETY: the caller gives `MR` readable floats.
            let x = unsafe { Self::splat(*a.add(i)) };
            for v in 0..NV {
                // SAFETY: the caller has the instructions.
                acc[i][v] = unsafe { Self::mul_add(x, b[v], acc[i][v]) };
            }
        }
    }
    /// Four steps of depth of a product: `acc[i][v] += a[i][u] * b[u][v]`, the floats of a row from `k` bytes
    /// behind its pointer on, the vectors of `b` one after the other.
    #[inline(always)]
    unsafe fn four_steps<const MR: usize, const NV: usize>(
        a: &[*const f32; MR],
        k: isize,
        b: *const f32,
        acc: &mut [[Self; NV]; MR],
    ) {
        for u in 0..4 {
            // SAFETY: the caller gives four floats of every row, and four rows of `NV` vectors.
            unsafe {
                let mut bv = [Self::splat(0.0); NV];
                for v in 0..NV {
                    bv[v] = Self::load(b.add((u as usize * NV + v) * Self::LANES));
                }
                for i in 0..MR {
                    let x = Self::splat(*a[i].byte_offset(k + 4 * u));
                    for v in 0..NV {
                        acc[i][v] = Self::mul_add(x, bv[v], acc[i][v]);
                    }
                }
            }
        }
    }
}

/// Four floats in plain arithmetic, for architectures whose baseline has no vector of its own here.
#[cfg(not(target_arch = "aarch64"))]
#[derive(Clone, Copy)]
#[repr(align(16))]
pub(crate) struct Quad([f32; 4]);

#[cfg(not(target_arch = "aarch64"))]
impl Vector for Quad {
    const LANES: usize = 4;
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Quad([x; 4])
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller gives four readable floats; an array of floats needs no more alignment.
        Quad(unsafe { *p.cast::<[f32; 4]>() })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller gives four writable floats.
        unsafe { *p.cast::<[f32; 4]>() = self.0 }
    }
    #[inline(always)]
    unsafe fn load_first(p: *const f32, n: usize) -> Self {
        // SAFETY: the caller gives `n` readable floats.
        Quad(std::array::from_fn(|i| if i < n { unsafe { *p.add(i) } } else { 0.0 }))
    }
    #[inline(always)]
    unsafe fn store_first(self, p: *mut f32, n: usize) {
        for (i, &x) in self.0.iter().enumerate().take(n) {
            // SAFETY: the caller gives `n` writable floats.
            unsafe { *p.add(i) = x }
        }
    }
    #[inline(always)]
    unsafe fn mul_add(a: Self, b: Self, c: Self) -> Self {
        Quad(std::array::from_fn(|i| a.0[i] * b.0[i] + c.0[i]))
    }
    #[inline(always)]
    unsafe fn add(a: Self, b: Self) -> Self {
        Quad(std::array::from_fn(|i| a.0[i] + b.0[i]))
    }
    #[inline(always)]
    unsafe fn sub(a: Self, b: Self) -> Self {
        Quad(std::array::from_fn(|i| a.0[i] - b.0[i]))
    }
    #[inline(always)]
    unsafe fn mul(a: Self, b: Self) -> Self {
        Quad(std::array::from_fn(|i| a.0[i] * b.0[i]))
    }
    #[inline(always)]
    unsafe fn div(a: Self, b: Self) -> Self {
        Quad(std::array::from_fn(|i| a.0[i] / b.0[i]))
    }
    #[inline(always)]
    unsafe fn scale(x: Self, n: Self) -> Self {
        Quad(std::array::from_fn(|i| x.0[i] * f32::from_bits(((n.0[i] + 127.0) as u32) << 23)))
    }
    #[inline(always)]
    unsafe fn zero_below(y: Self, x: Self, limit: Self) -> Self {
        Quad(std::array::from_fn(|i| if x.0[i] < limit.0[i] { 0.0 } else { y.0[i] }))
    }
    #[inline(always)]
    unsafe fn max(a: Self, b: Self) -> Self {
        Quad(std::array::from_fn(|i| if a.0[i] > b.0[i] { a.0[i] } else { b.0[i] }))
    }
    #[inline(always)]
    unsafe fn min(a: Self, b: Self) -> Self {
        Quad(std::array::from_fn(|i| if a.0[i] < b.0[i] { a.0[i] } else { b.0[i] }))
    }
    #[inline(always)]
    unsafe fn sum(self) -> f32 {
        (self.0[0] + self.0[2]) + (self.0[1] + self.0[3])
    }
    #[inline(always)]
    unsafe fn largest(self) -> f32 {
        self.0.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a })
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Vector;
    use std::arch::x86_64::*;

    /// A mask of the first `n <= 16` lanes.
    #[inline(always)]
    fn first16(n: usize) -> __mmask16 {
        ((1u32 << n) - 1) as __mmask16
    }

    /// A mask of the first `n <= 8` lanes.
    #[inline(always)]
    unsafe fn first8(n: usize) -> __m256i {
        static LANES: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
        // SAFETY: eight lanes from `8 - n` are inside the table; the caller has the instructions.
        unsafe { _mm256_loadu_si256(LANES.as_ptr().add(8 - n).cast()) }
    }

    #[inline(always)]
    unsafe fn load_first16(p: *const f32, n: usize) -> __m512 {
        // SAFETY: forwarded; lanes past the mask are not touched.
        unsafe { _mm512_maskz_loadu_ps(first16(n), p) }
    }

    #[inline(always)]
    unsafe fn store_first16(p: *mut f32, x: __m512, n: usize) {
        // SAFETY: forwarded; lanes past the mask are not touched.
        unsafe { _mm512_mask_storeu_ps(p, first16(n), x) }
    }

    #[inline(always)]
    unsafe fn load_first8(p: *const f32, n: usize) -> __m256 {
        // SAFETY: forwarded; lanes past the mask are not touched.
        unsafe { _mm256_maskload_ps(p, first8(n)) }
    }

    #[inline(always)]
    unsafe fn store_first8(p: *mut f32, x: __m256, n: usize) {
        // SAFETY: forwarded; lanes past the mask are not touched.
        unsafe { _mm256_maskstore_ps(p, first8(n), x) }
    }

    #[inline(always)]
    unsafe fn scale8(x: __m256, n: __m256) -> __m256 {
        // SAFETY: the caller has the instructions.
        unsafe {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
        }
    }

    #[inline(always)]
    unsafe fn scale_by_rounded8(x: __m256, n: __m256) -> __m256 {
        // SAFETY: the caller has the instructions. The whole number goes to where exponents are, other bits out.
        unsafe {
            let (exponent, one) =
                (_mm256_slli_epi32::<23>(_mm256_castps_si256(n)), _mm256_set1_epi32(127 << 23));
            _mm256_mul_ps(x, _mm256_castsi256_ps(_mm256_add_epi32(exponent, one)))
        }
    }

    #[inline(always)]
    unsafe fn scale_by_rounded16(x: __m512, n: __m512) -> __m512 {
        // SAFETY: the caller has the instructions.
        unsafe { _mm512_scalef_ps(x, _mm512_sub_ps(n, _mm512_set1_ps(super::ROUND))) }
    }

    #[inline(always)]
    unsafe fn zero_below8(y: __m256, x: __m256, limit: __m256) -> __m256 {
        // SAFETY: the caller has the instructions.
        unsafe { _mm256_and_ps(y, _mm256_cmp_ps::<_CMP_NLT_UQ>(x, limit)) }
    }

    #[inline(always)]
    unsafe fn zero_below16(y: __m512, x: __m512, limit: __m512) -> __m512 {
        // SAFETY: the caller has the instructions.
        unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, limit), y) }
    }

    #[inline(always)]
    unsafe fn abs8(x: __m256) -> __m256 {
        // SAFETY: the caller has the instructions.
        unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), x) }
    }

    #[inline(always)]
    unsafe fn sum8(x: __m256) -> f32 {
        // SAFETY: the caller has the instructions.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    unsafe fn largest8(x: __m256) -> f32 {
        // SAFETY: the caller has the instructions.
        unsafe {
            let four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    macro_rules! vector {
        ($t:ty, $lanes:expr, $splat:ident, $load:ident, $store:ident, $load_first:ident, $store_first:ident,
         $fma:ident, $add:ident, $sub:ident, $mul:ident, $div:ident, $scale:ident, $max:ident, $min:ident,
         $sum:ident, $largest:ident, $scale_by_rounded:ident, $abs:ident,
         $zero_below:ident) => {
            impl Vector for $t {
                const LANES: usize = $lanes;
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
                unsafe fn load_first(p: *const f32, n: usize) -> Self {
                    // SAFETY: the caller has the instructions and gives `n` readable floats.
                    unsafe { $load_first(p, n) }
                }
                #[inline(always)]
                unsafe fn store_first(self, p: *mut f32, n: usize) {
                    // SAFETY: the caller has the instructions and gives `n` writable floats.
                    unsafe { $store_first(p, self, n) }
                }
                vector!(@ternary mul_add $fma);
                vector!(@binary add $add);
                vector!(@binary sub $sub);
                vector!(@binary mul $mul);
                vector!(@binary div $div);
                vector!(@binary scale $scale);
                vector!(@binary scale_by_rounded $scale_by_rounded);
                vector!(@ternary zero_below $zero_below);
                #[inline(always)]
                unsafe fn abs(x: Self) -> Self {
                    // SAFETY: the caller has the instructions.
                    unsafe { $abs(x) }
                }
                vector!(@binary max $max);
                vector!(@binary min $min);
                #[inline(always)]
                unsafe fn sum(self) -> f32 {
                    // SAFETY: the caller has the instructions.
                    unsafe { $sum(self) }
                }
                #[inline(always)]
                unsafe fn largest(self) -> f32 {
                    // SAFETY: the caller has the instructions.
                    unsafe { $largest(self) }
                }
                #[inline(always)]
                fn prefetch(p: *const f32) {
                    for line in 0..(2 * Self::LANES).div_ceil(16) {
                        // SAFETY: every x86-64 processor has the instruction, and it never faults.
                        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(16 * line).cast()) };
                    }
                }
                #[inline(always)]
                fn prefetch_line(p: *const f32) {
                    // SAFETY: every x86-64 processor has the instruction, and it never faults.
                    unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) };
                }
                #[inline(always)]
                fn prefetch_written(p: *const f32) {
                    // SAFETY: it never faults; processors without the instruction do nothing.
                    unsafe { _mm_prefetch::<_MM_HINT_ET0>(p.cast()) };
                }
                #[inline(always)]
                fn opaque(mut k: isize) -> isize {
                    // SAFETY: no instruction at all.
                    unsafe {
                        std::arch::asm!("/* {0} */", inout(reg) k, options(pure, nomem, nostack, preserves_flags));
                    }
                    k
                }
            }
        };
        (@binary $name:ident $f:ident) => {
            #[inline(always)]
            unsafe fn $name(a: Self, b: Self) -> Self {
                // SAFETY: the caller has the instructions.
                unsafe { $f(a, b) }
            }
        };
        (@ternary $name:ident $f:ident) => {
            #[inline(always)]
            unsafe fn $name(a: Self, b: Self, c: Self) -> Self {
                // SAFETY: the caller has the instructions.
                unsafe { $f(a, b, c) }
            }
        };
    }
    vector!(
        __m512,
        16,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        load_first16,
        store_first16,
        _mm512_fmadd_ps,
        _mm512_add_ps,
        _mm512_sub_ps,
        _mm512_mul_ps,
        _mm512_div_ps,
        _mm512_scalef_ps,
        _mm512_max_ps,
        _mm512_min_ps,
        _mm512_reduce_add_ps,
        _mm512_reduce_max_ps,
        scale_by_rounded16,
        _mm512_abs_ps,
        zero_below16
    );
    vector!(
        __m256,
        8,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        load_first8,
        store_first8,
        _mm256_fmadd_ps,
        _mm256_add_ps,
        _mm256_sub_ps,
        _mm256_mul_ps,
        _mm256_div_ps,
        scale8,
        _mm256_max_ps,
        _mm256_min_ps,
        sum8,
        largest8,
        scale_by_rounded8,
        abs8,
        zero_below8
    );
}
