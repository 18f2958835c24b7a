//! Products and sums along rows, in vectors.

use crate::simd::Level;
#[cfg(target_arch = "x86_64")]
use crate::simd::Tier;
use crate::simd::vector::{self, Base, Vector};

/// A function of vectors and the functions that compile it for each level.
macro_rules! by_level {
    ($(#[$meta:meta])* $name:ident, $generic:ident, ($($arg:ident: $t:ty),*) $(-> $out:ty)?) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        pub(super) unsafe fn $name(level: Level, $($arg: $t),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
            unsafe fn avx512($($arg: $t),*) $(-> $out)? {
                // SAFETY: forwarded from the caller.
                unsafe { $generic::<std::arch::x86_64::__m512>($($arg),*) }
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            unsafe fn avx2($($arg: $t),*) $(-> $out)? {
                // SAFETY: forwarded from the caller.
                unsafe { $generic::<std::arch::x86_64::__m256>($($arg),*) }
            }
            match level.tier() {
                // SAFETY: forwarded; a level exists only where its instructions do.
                #[cfg(target_arch = "x86_64")]
                Tier::Avx512 => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Tier::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: forwarded; the type needs no instructions of its own.
                _ => unsafe { $generic::<Base>($($arg),*) },
            }
        }
    };
}

by_level! {
    /// Scales `n` floats and adds those at `bias` unless it is null; gives the largest number.
    ///
    /// # Safety
    /// `n` is a multiple of 16, and that many floats can be written at `row` and read at `bias`.
    scale, scale_in, (row: *mut f32, n: usize, factor: f32, bias: *const f32) -> f32
}

#[inline(always)]
unsafe fn scale_in<V: Vector>(row: *mut f32, n: usize, factor: f32, bias: *const f32) -> f32 {
    // SAFETY: offsets stay below `n`, a multiple of the lanes.
    unsafe {
        let factor = V::splat(factor);
        let mut top = V::splat(f32::NEG_INFINITY);
        if bias.is_null() {
            for i in (0..n).step_by(V::LANES) {
                let x = V::mul(V::load(row.add(i)), factor);
                x.store(row.add(i));
                top = V::max(x, top);
            }
        } else {
            for i in (0..n).step_by(V::LANES) {
                let x = V::mul_add(V::load(row.add(i)), factor, V::load(bias.add(i)));
                x.store(row.add(i));
                top = V::max(x, top);
            }
        }
        top.largest()
    }
}

by_level! {
    /// The products of `x` with each of `count` rows.
    ///
    /// # Safety
    /// `size` floats can be read at `x` and at each row, which are `pitch` apart, and `count` written at
    /// `out`.
    dots, dots_in, (x: *const f32, size: usize, rows: *const f32, pitch: usize, count: usize, out: *mut f32)
}

#[inline(always)]
unsafe fn dots_in<V: Vector>(
    x: *const f32,
    size: usize,
    rows: *const f32,
    pitch: usize,
    count: usize,
    out: *mut f32,
) {
    // SAFETY: rows and offsets stay inside what the contract gives.
    unsafe {
        let mut j = 0;
        while j + 4 <= count {
            let sums = dots_of::<V, 4>(x, size, rows.add(j * pitch), pitch);
            for (i, sum) in sums.into_iter().enumerate() {
                *out.add(j + i) = sum;
            }
            j += 4;
        }
        while j < count {
            let [sum] = dots_of::<V, 1>(x, size, rows.add(j * pitch), pitch);
            *out.add(j) = sum;
            j += 1;
        }
    }
}

#[inline(always)]
unsafe fn dots_of<V: Vector, const N: usize>(
    x: *const f32,
    size: usize,
    rows: *const f32,
    pitch: usize,
) -> [f32; N] {
    // SAFETY: as above.
    unsafe {
        let mut sums = [V::splat(0.0); N];
        let mut i = 0;
        while i + V::LANES <= size {
            let x = V::load(x.add(i));
            for r in 0..N {
                sums[r] = V::mul_add(x, V::load(rows.add(r * pitch + i)), sums[r]);
            }
            i += V::LANES;
        }
        if i < size {
            let x = V::load_first(x.add(i), size - i);
            for r in 0..N {
                sums[r] = V::mul_add(x, V::load_first(rows.add(r * pitch + i), size - i), sums[r]);
            }
        }
        let mut out = [0.0; N];
        for r in 0..N {
            out[r] = sums[r].sum();
        }
        out
    }
}

by_level! {
    /// The sum of `count` rows, each times its weight, times a factor.
    ///
    /// # Safety
    /// `count` floats can be read at `weights`, `size` at each row, which are `pitch` apart, and `size`
    /// written at `out`.
    weighted, weighted_in,
    (weights: *const f32, count: usize, rows: *const f32, pitch: usize, size: usize, factor: f32, out: *mut f32)
}

#[inline(always)]
unsafe fn weighted_in<V: Vector>(
    weights: *const f32,
    count: usize,
    rows: *const f32,
    pitch: usize,
    size: usize,
    factor: f32,
    out: *mut f32,
) {
    // SAFETY: rows and offsets stay inside what the contract gives.
    unsafe {
        let mut i = 0;
        while i + 4 * V::LANES <= size {
            let mut sums = [V::splat(0.0); 4];
            for j in 0..count {
                let w = V::splat(*weights.add(j));
                for v in 0..4 {
                    sums[v] = V::mul_add(w, V::load(rows.add(j * pitch + i + v * V::LANES)), sums[v]);
                }
            }
            for v in 0..4 {
                V::mul(sums[v], V::splat(factor)).store(out.add(i + v * V::LANES));
            }
            i += 4 * V::LANES;
        }
        while i < size {
            let n = (size - i).min(V::LANES);
            let mut sum = V::splat(0.0);
            for j in 0..count {
                let w = V::splat(*weights.add(j));
                sum = V::mul_add(w, V::load_first(rows.add(j * pitch + i), n), sum);
            }
            V::mul(sum, V::splat(factor)).store_first(out.add(i), n);
            i += n;
        }
    }
}

by_level! {
    /// `n` floats become the exponentials of what they are below `top`, zero below the normal range; gives their sum.
    /// NaN stays.
    ///
    /// # Safety
    /// `n` is a multiple of 16, and that many floats can be written at `row`.
    numerators, numerators_in, (row: *mut f32, n: usize, top: f32) -> f32
}

#[inline(always)]
unsafe fn numerators_in<V: Vector>(row: *mut f32, n: usize, top: f32) -> f32 {
    /// Where results leave the normal range.
    const LOWEST: f32 = -87.3;
    // SAFETY: offsets stay below `n`, a multiple of 16 and so of the lanes.
    unsafe {
        let (top, lowest) = (V::splat(top), V::splat(LOWEST));
        // Several sums, as one would have to wait for itself.
        let mut sums = [V::splat(0.0); 4];
        for i in (0..n).step_by(16) {
            for v in 0..16 / V::LANES {
                let p = row.add(i + v * V::LANES);
                let x = V::sub(V::load(p), top);
                let y = vector::power(V::max(lowest, x), std::f32::consts::LOG2_E);
                let y = V::zero_below(y, x, lowest);
                y.store(p);
                sums[v] = V::add(sums[v], y);
            }
        }
        let mut sum = sums[0];
        for v in 1..16 / V::LANES {
            sum = V::add(sum, sums[v]);
        }
        sum.sum()
    }
}

by_level! {
    /// `n` floats times a factor.
    ///
    /// # Safety
    /// `n` floats can be read at `x` and written at `out`.
    times, times_in, (x: *const f32, n: usize, factor: f32, out: *mut f32)
}

#[inline(always)]
unsafe fn times_in<V: Vector>(x: *const f32, n: usize, factor: f32, out: *mut f32) {
    // SAFETY: offsets stay below `n`.
    unsafe {
        let factor = V::splat(factor);
        let mut i = 0;
        while i + V::LANES <= n {
            V::mul(V::load(x.add(i)), factor).store(out.add(i));
            i += V::LANES;
        }
        if i < n {
            V::mul(V::load_first(x.add(i), n - i), factor).store_first(out.add(i), n - i);
        }
    }
}
