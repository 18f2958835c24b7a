//! Moves pixels between layouts: from planes to channels last and back, and between pitches.

use super::pool::pitched;
use crate::error::{KernelError, exact, product};
#[cfg(target_arch = "x86_64")]
use crate::simd::Tier;
use crate::simd::{Isa, Kernel, Level};
use crate::threads::{Pool, Shards};
use std::any::TypeId;
use std::mem::MaybeUninit;

/// Elements worth a task of their own.
const GRAIN: usize = 32 * 1024;
/// Pixels turned at a time: as many cache lines of every plane stay near meanwhile.
const PIXELS: usize = 64;

/// `[batch, channels, pixels]` to pixels of `channels` elements, `out_pitch` apart.
pub fn from_planes<T: Copy + Send + Sync + 'static>(
    pool: &Pool,
    x: &[T],
    batch: usize,
    channels: usize,
    pixels: usize,
    out: &mut [T],
    out_pitch: usize,
) -> Result<(), KernelError> {
    exact("input", x, product("input", &[batch, channels, pixels])?)?;
    pitched("output", out, &[batch, pixels], channels, out_pitch)?;
    if x.is_empty() {
        return Ok(());
    }
    let blocks = pixels.div_ceil(PIXELS);
    let shards = Shards::new(out);
    pool.split(batch * blocks, (GRAIN / PIXELS / channels).max(1), |tasks| {
        for task in tasks {
            let (image, first) = (task / blocks, task % blocks * PIXELS);
            let n = PIXELS.min(pixels - first);
            let from = &x[image * channels * pixels..(image + 1) * channels * pixels];
            // SAFETY: the pixels of a block are inside both arrays, and every block is taken once.
            unsafe {
                let to = shards.as_ptr().add((image * pixels + first) * out_pitch);
                turn(pool.level(), from.as_ptr().add(first), pixels, [channels, n], to, out_pitch);
            }
        }
    });
    Ok(())
}

/// Pixels of `channels` elements, `x_pitch` apart, to `[batch, channels, pixels]`, whose planes are `out_pitch`
/// elements apart.
pub fn to_planes<T: Copy + Send + Sync + 'static>(
    pool: &Pool,
    x: &[T],
    x_pitch: usize,
    batch: usize,
    channels: usize,
    pixels: usize,
    out: &mut [T],
    out_pitch: usize,
) -> Result<(), KernelError> {
    pitched("input", x, &[batch, pixels], channels, x_pitch)?;
    pitched("output", out, &[batch, channels], pixels, out_pitch)?;
    if [batch, channels, pixels].contains(&0) {
        return Ok(());
    }
    let blocks = pixels.div_ceil(PIXELS);
    let shards = Shards::new(out);
    pool.split(batch * blocks, (GRAIN / PIXELS / channels).max(1), |tasks| {
        for task in tasks {
            let (image, first) = (task / blocks, task % blocks * PIXELS);
            let n = PIXELS.min(pixels - first);
            // SAFETY: as above.
            unsafe {
                let from = x.as_ptr().add((image * pixels + first) * x_pitch);
                let to = shards.as_ptr().add(image * channels * out_pitch + first);
                turn(pool.level(), from, x_pitch, [n, channels], to, out_pitch);
            }
        }
    });
    Ok(())
}

/// Copies pixels of `channels` elements between two pitches: one operand of a channel concatenation, or a
/// slice of channels.
pub fn copy_channels<T: Copy + Send + Sync>(
    pool: &Pool,
    x: &[T],
    x_pitch: usize,
    pixels: usize,
    channels: usize,
    out: &mut [T],
    out_pitch: usize,
) -> Result<(), KernelError> {
    pitched("input", x, &[pixels], channels, x_pitch)?;
    pitched("output", out, &[pixels], channels, out_pitch)?;
    if pixels == 0 || channels == 0 {
        return Ok(());
    }
    let shards = Shards::new(out);
    pool.split(pixels, (GRAIN / channels).max(1), |r| {
        let from = &x[r.start * x_pitch..];
        if x_pitch == channels && out_pitch == channels {
            // SAFETY: every pixel is taken once.
            let to = unsafe { shards.part(r.start * channels, r.len() * channels) };
            to.copy_from_slice(&from[..to.len()]);
            return;
        }
        let to = shards.as_ptr().wrapping_add(r.start * out_pitch);
        let pixels = Pixels { from: from.as_ptr(), to, count: r.len(), channels, x_pitch, out_pitch };
        pool.level().run(pixels);
    });
    Ok(())
}

/// Pixels to copy. Whoever makes one promises that all of it can be read and written.
struct Pixels<T> {
    from: *const T,
    to: *mut T,
    count: usize,
    channels: usize,
    x_pitch: usize,
    out_pitch: usize,
}

impl<T: Copy> Kernel for Pixels<T> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        for i in 0..self.count {
            // SAFETY: the pixels exist, and the output is another array than the input.
            unsafe {
                let from = self.from.add(i * self.x_pitch);
                copy_pixel(from, self.to.add(i * self.out_pitch), self.channels);
            }
        }
    }
}

/// Copies one pixel without a call.
///
/// # Safety
/// `count` elements can be read and written, and they do not overlap.
#[inline(always)]
pub(super) unsafe fn copy_pixel<T: Copy>(from: *const T, to: *mut T, count: usize) {
    type Chunk = MaybeUninit<[u8; 64]>;
    let bytes = count * size_of::<T>();
    let (from, to) = (from.cast::<u8>(), to.cast::<u8>());
    // SAFETY: every chunk is inside the pixel; the last one may overlap the one before.
    unsafe {
        if bytes < size_of::<Chunk>() {
            let mut i = 0;
            while i + 8 <= bytes {
                let part = from.add(i).cast::<MaybeUninit<[u8; 8]>>().read_unaligned();
                to.add(i).cast::<MaybeUninit<[u8; 8]>>().write_unaligned(part);
                i += 8;
            }
            while i < bytes {
                *to.add(i).cast::<MaybeUninit<u8>>() = *from.add(i).cast::<MaybeUninit<u8>>();
                i += 1;
            }
            return;
        }
        let mut i = 0;
        while i < bytes {
            let at = i.min(bytes - size_of::<Chunk>());
            to.add(at).cast::<Chunk>().write_unaligned(from.add(at).cast::<Chunk>().read_unaligned());
            i += size_of::<Chunk>();
        }
    }
}

/// `to[c * to_pitch + r] = from[r * from_pitch + c]` for `rows` by `columns` elements.
///
/// # Safety
/// All of it can be read and written, and the two arrays are apart.
unsafe fn turn<T: Copy + 'static>(
    level: Level,
    from: *const T,
    from_pitch: usize,
    [rows, columns]: [usize; 2],
    to: *mut T,
    to_pitch: usize,
) {
    let id = TypeId::of::<T>();
    let wide = [TypeId::of::<f32>(), TypeId::of::<i32>(), TypeId::of::<u32>()].contains(&id);
    let few = rows.min(columns);
    match level.tier() {
        // SAFETY: a level exists only where its instructions do; elements are plain and of four bytes.
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512 if wide && few >= 16 => unsafe {
            x86::turn_512(from.cast(), from_pitch, [rows, columns], to.cast(), to_pitch);
        },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 | Tier::Avx512 if wide && few >= 8 => unsafe {
            x86::turn_256(from.cast(), from_pitch, [rows, columns], to.cast(), to_pitch);
        },
        // SAFETY: the baseline has the instructions; elements are plain and of four bytes.
        #[cfg(target_arch = "aarch64")]
        _ if wide && few >= 4 => unsafe {
            neon::turn_128(from.cast(), from_pitch, [rows, columns], to.cast(), to_pitch);
        },
        // The longer side runs inside.
        // SAFETY: forwarded.
        _ if rows < columns => unsafe {
            for r in 0..rows {
                for c in 0..columns {
                    *to.add(c * to_pitch + r) = *from.add(r * from_pitch + c);
                }
            }
        },
        // SAFETY: forwarded.
        _ => unsafe {
            for c in 0..columns {
                for r in 0..rows {
                    *to.add(c * to_pitch + r) = *from.add(r * from_pitch + c);
                }
            }
        },
    }
}

/// A matrix by squares of a side that both of its own are at least.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! walk {
    ($side:literal, $block:ident, $from:ident, $from_pitch:ident, $rows:ident, $columns:ident, $to:ident, $to_pitch:ident) => {
        let (mut c, mut r);
        c = 0;
        while c < $columns {
            let at = c.min($columns - $side);
            r = 0;
            while r < $rows {
                let down = r.min($rows - $side);
                // SAFETY: the square is inside; the last of a side may overlap the one before.
                unsafe {
                    let from = $from.add(down * $from_pitch + at);
                    $block(from, $from_pitch, $to.add(at * $to_pitch + down), $to_pitch);
                }
                r += $side;
            }
            c += $side;
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// As `turn`, with both sides at least 16.
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
    pub(super) unsafe fn turn_512(
        from: *const f32,
        from_pitch: usize,
        [rows, columns]: [usize; 2],
        to: *mut f32,
        to_pitch: usize,
    ) {
        walk!(16, square_16, from, from_pitch, rows, columns, to, to_pitch);
    }

    /// As `turn`, with both sides at least 8.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn turn_256(
        from: *const f32,
        from_pitch: usize,
        [rows, columns]: [usize; 2],
        to: *mut f32,
        to_pitch: usize,
    ) {
        walk!(8, square_8, from, from_pitch, rows, columns, to, to_pitch);
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
    unsafe fn square_16(from: *const f32, from_pitch: usize, to: *mut f32, to_pitch: usize) {
        // SAFETY: the caller gives 16 rows of 16 to read and to write.
        unsafe {
            let mut a = [_mm512_setzero_ps(); 16];
            for i in 0..16 {
                a[i] = _mm512_loadu_ps(from.add(i * from_pitch));
            }
            // Pairs and then fours of rows change places inside every quarter.
            let mut b = a;
            for i in 0..8 {
                b[2 * i] = _mm512_unpacklo_ps(a[2 * i], a[2 * i + 1]);
                b[2 * i + 1] = _mm512_unpackhi_ps(a[2 * i], a[2 * i + 1]);
            }
            for i in 0..4 {
                for j in 0..2 {
                    let (low, high) = (_mm512_castps_pd(b[4 * i + j]), _mm512_castps_pd(b[4 * i + 2 + j]));
                    a[4 * i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
                    a[4 * i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
                }
            }
            // Then whole quarters: `a[4 i + k]` has column `4 q + k` of rows `4 i ..` in quarter `q`.
            for k in 0..4 {
                let even = _mm512_shuffle_f32x4::<0x88>(a[k], a[4 + k]);
                let odd = _mm512_shuffle_f32x4::<0xdd>(a[k], a[4 + k]);
                let even_high = _mm512_shuffle_f32x4::<0x88>(a[8 + k], a[12 + k]);
                let odd_high = _mm512_shuffle_f32x4::<0xdd>(a[8 + k], a[12 + k]);
                b[k] = _mm512_shuffle_f32x4::<0x88>(even, even_high);
                b[8 + k] = _mm512_shuffle_f32x4::<0xdd>(even, even_high);
                b[4 + k] = _mm512_shuffle_f32x4::<0x88>(odd, odd_high);
                b[12 + k] = _mm512_shuffle_f32x4::<0xdd>(odd, odd_high);
            }
            for i in 0..16 {
                _mm512_storeu_ps(to.add(i * to_pitch), b[i]);
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn square_8(from: *const f32, from_pitch: usize, to: *mut f32, to_pitch: usize) {
        // SAFETY: the caller gives 8 rows of 8 to read and to write.
        unsafe {
            let mut a = [_mm256_setzero_ps(); 8];
            for i in 0..8 {
                a[i] = _mm256_loadu_ps(from.add(i * from_pitch));
            }
            let mut b = a;
            for i in 0..4 {
                b[2 * i] = _mm256_unpacklo_ps(a[2 * i], a[2 * i + 1]);
                b[2 * i + 1] = _mm256_unpackhi_ps(a[2 * i], a[2 * i + 1]);
            }
            for i in 0..2 {
                for j in 0..2 {
                    let (low, high) = (_mm256_castps_pd(b[4 * i + j]), _mm256_castps_pd(b[4 * i + 2 + j]));
                    a[4 * i + 2 * j] = _mm256_castpd_ps(_mm256_unpacklo_pd(low, high));
                    a[4 * i + 2 * j + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low, high));
                }
            }
            for k in 0..4 {
                _mm256_storeu_ps(to.add(k * to_pitch), _mm256_permute2f128_ps::<0x20>(a[k], a[4 + k]));
                _mm256_storeu_ps(to.add((4 + k) * to_pitch), _mm256_permute2f128_ps::<0x31>(a[k], a[4 + k]));
            }
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use std::arch::aarch64::*;

    /// As `turn`, with both sides at least 4.
    pub(super) unsafe fn turn_128(
        from: *const f32,
        from_pitch: usize,
        [rows, columns]: [usize; 2],
        to: *mut f32,
        to_pitch: usize,
    ) {
        walk!(4, square_4, from, from_pitch, rows, columns, to, to_pitch);
    }

    #[inline(always)]
    unsafe fn square_4(from: *const f32, from_pitch: usize, to: *mut f32, to_pitch: usize) {
        // SAFETY: the caller gives 4 rows of 4 to read and to write; the baseline has the instructions.
        unsafe {
            let row = |i: usize| vreinterpretq_f64_f32(vld1q_f32(from.add(i * from_pitch)));
            let (a, b, c, d) = (row(0), row(1), row(2), row(3));
            // Halves of rows two apart, then single columns of those.
            let [low_even, high_even] =
                [vzip1q_f64(a, c), vzip2q_f64(a, c)].map(|x| vreinterpretq_f32_f64(x));
            let [low_odd, high_odd] = [vzip1q_f64(b, d), vzip2q_f64(b, d)].map(|x| vreinterpretq_f32_f64(x));
            vst1q_f32(to, vtrn1q_f32(low_even, low_odd));
            vst1q_f32(to.add(to_pitch), vtrn2q_f32(low_even, low_odd));
            vst1q_f32(to.add(2 * to_pitch), vtrn1q_f32(high_even, high_odd));
            vst1q_f32(to.add(3 * to_pitch), vtrn2q_f32(high_even, high_odd));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check<T: Copy + Send + Sync + PartialEq + std::fmt::Debug + 'static>(
        pool: &Pool,
        [batch, channels, pixels, more]: [usize; 4],
        value: impl Fn(usize) -> T,
    ) {
        let pitch = channels + more;
        let at = |n: usize, c: usize, p: usize| value((n * channels + c) * pixels + p);
        let planes: Vec<T> = (0..batch * channels * pixels).map(&value).collect();
        let len = (batch * pixels).checked_sub(1).map_or(0, |last| last * pitch + channels);
        let mut last = vec![value(usize::MAX / 2); len];
        from_planes(pool, &planes, batch, channels, pixels, &mut last, pitch).unwrap();
        for (i, &got) in last.iter().enumerate() {
            let (n, p, c) = (i / pitch / pixels, i / pitch % pixels, i % pitch);
            let want = if c < channels { at(n, c, p) } else { value(usize::MAX / 2) };
            assert_eq!(got, want, "{batch} {channels} {pixels} {more}");
        }
        let apart = pixels + more;
        let mut back = vec![value(5); (batch * channels * apart).saturating_sub(more)];
        to_planes(pool, &last, pitch, batch, channels, pixels, &mut back, apart).unwrap();
        for (i, &got) in back.iter().enumerate() {
            let (plane, p) = (i / apart, i % apart);
            assert_eq!(got, if p < pixels { planes[plane * pixels + p] } else { value(5) });
        }
        // A slice of the channels into the middle of wider pixels.
        let (first, some) = (channels / 3, channels - channels / 3);
        let wide = channels + 2;
        let mut copy = vec![value(7); if pixels == 0 { 1 } else { (pixels - 1) * wide + some + 1 }];
        if let (1, Some(from)) = (batch, last.get(first..)) {
            copy_channels(pool, from, pitch, pixels, some, &mut copy[1..], wide).unwrap();
            for (i, &got) in copy.iter().enumerate() {
                let place =
                    i.checked_sub(1).map(|i| (i / wide, i % wide)).filter(|&(p, c)| p < pixels && c < some);
                assert_eq!(got, place.map_or(value(7), |(p, c)| at(0, first + c, p)));
            }
        }
    }

    proptest! {
        #[test]
        fn there_and_back(
            batch in 0usize..3, channels in 0usize..70, pixels in 0usize..200, more in 0usize..4, threads in 1usize..4,
        ) {
            for level in Level::available() {
                let (pool, sizes) = (Pool::new(threads).unwrap().with_level(level), [batch, channels, pixels, more]);
                check(&pool, sizes, |i| i as u8);
                check(&pool, sizes, |i| i as u16);
                check(&pool, sizes, |i| (i % 100_003) as f32);
                check(&pool, sizes, |i| i as i32);
                check(&pool, sizes, |i| [i as u8, 3, 1]);
                check(&pool, sizes, |i| i as u64);
            }
        }
    }

    #[test]
    fn bits_of_nan_are_kept() {
        let x: Vec<f32> = (0..16 * 16).map(|i| f32::from_bits(0x7f80_0001 + i)).collect();
        for level in Level::available() {
            let (pool, mut out) = (Pool::serial().with_level(level), vec![0.0; 256]);
            from_planes(&pool, &x, 1, 16, 16, &mut out, 16).unwrap();
            assert!((0..256).all(|i| out[i].to_bits() == x[i % 16 * 16 + i / 16].to_bits()));
        }
    }

    #[test]
    fn misfits_are_errors() {
        let (pool, x, mut out) = (Pool::serial(), [0u8; 12], [0u8; 12]);
        from_planes(&pool, &x, 1, 3, 4, &mut out, 3).unwrap();
        assert!(from_planes(&pool, &x, 1, 3, 4, &mut out, 2).is_err());
        assert!(from_planes(&pool, &x, 1, 3, 4, &mut out, 4).is_err());
        assert!(from_planes(&pool, &x[1..], 1, 3, 4, &mut out, 3).is_err());
        assert!(to_planes(&pool, &x, 4, 1, 3, 4, &mut out, 4).is_err());
        assert!(to_planes(&pool, &x, 3, 1, 3, 4, &mut out[1..], 4).is_err());
        assert!(copy_channels(&pool, &x, 5, 3, 4, &mut out, 4).is_err());
        assert!(copy_channels(&pool, &x, 4, 3, 4, &mut out, 5).is_err());
        assert!(copy_channels(&pool, &x, usize::MAX, 3, 4, &mut out, 4).is_err());
    }
}
