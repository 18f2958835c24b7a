//! Normalizations: over rows (layer, RMS), over groups of channels (group, instance), and the affine map
//! per channel that inference makes of batch normalization.

use crate::error::{KernelError, exact, product};
use crate::reduce;
use crate::simd::{Isa, Kernel};
use crate::threads::{Pool, Shards};

/// How a row's scale is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Center {
    Mean,
    None,
}

/// One row, `x` or what `out` holds when there is no `x`: normalized, then scaled and shifted element by element.
pub(crate) struct Row<'a> {
    pub x: Option<&'a [f32]>,
    pub out: &'a mut [f32],
    pub scale: Option<&'a [f32]>,
    pub bias: Option<&'a [f32]>,
    pub epsilon: f32,
    pub center: Center,
}

impl Kernel for Row<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let n = self.out.len() as f64;
        let mean = match self.center {
            Center::Mean => (reduce::sum(self.x.unwrap_or(self.out)) / n) as f32,
            Center::None => 0.0,
        };
        match self.x {
            Some(x) => self.out.iter_mut().zip(x).for_each(|(o, &x)| *o = x - mean),
            None => self.out.iter_mut().for_each(|o| *o -= mean),
        }
        let variance = reduce::sum_square(self.out) / n;
        let inverse = (1.0 / (variance + self.epsilon as f64).sqrt()) as f32;
        match (self.scale, self.bias) {
            (Some(scale), Some(bias)) => {
                for ((o, &s), &b) in self.out.iter_mut().zip(scale).zip(bias) {
                    *o = I::mul_add(*o * inverse, s, b);
                }
            }
            (Some(scale), None) => self.out.iter_mut().zip(scale).for_each(|(o, &s)| *o = *o * inverse * s),
            (None, Some(bias)) => self.out.iter_mut().zip(bias).for_each(|(o, &b)| *o = *o * inverse + b),
            (None, None) => self.out.iter_mut().for_each(|o| *o *= inverse),
        }
    }
}

fn rows(
    pool: &Pool,
    x: &[f32],
    [rows, n]: [usize; 2],
    (scale, bias): (Option<&[f32]>, Option<&[f32]>),
    epsilon: f32,
    center: Center,
    out: &mut [f32],
) -> Result<(), KernelError> {
    exact("input", x, product("input", &[rows, n])?)?;
    exact("output", out, x.len())?;
    if let Some(scale) = scale {
        exact("scale", scale, n)?;
    }
    if let Some(bias) = bias {
        exact("bias", bias, n)?;
    }
    if out.is_empty() {
        return Ok(());
    }
    let shards = Shards::new(out);
    pool.split(rows, (16 * 1024 / n).max(1), |r| {
        // SAFETY: the ranges of a split are disjoint.
        let out = unsafe { shards.part(r.start * n, r.len() * n) };
        for (out, x) in out.chunks_exact_mut(n).zip(x[r.start * n..].chunks_exact(n)) {
            pool.level().run(Row { x: Some(x), out, scale, bias, epsilon, center });
        }
    });
    Ok(())
}

/// `(x - mean) / sqrt(variance + epsilon) * scale + bias` over each of `rows` rows of `n`.
pub fn layer_norm(
    pool: &Pool,
    x: &[f32],
    sizes: [usize; 2],
    scale: Option<&[f32]>,
    bias: Option<&[f32]>,
    epsilon: f32,
    out: &mut [f32],
) -> Result<(), KernelError> {
    rows(pool, x, sizes, (scale, bias), epsilon, Center::Mean, out)
}

/// `x / sqrt(mean of squares + epsilon) * scale` over each of `rows` rows of `n`.
pub fn rms_norm(
    pool: &Pool,
    x: &[f32],
    sizes: [usize; 2],
    scale: Option<&[f32]>,
    epsilon: f32,
    out: &mut [f32],
) -> Result<(), KernelError> {
    rows(pool, x, sizes, (scale, None), epsilon, Center::None, out)
}

/// `x * scale[c] + shift[c]` over `[batch, channels, spatial]`.
pub fn channel_affine(
    pool: &Pool,
    x: &[f32],
    [batch, channels, spatial]: [usize; 3],
    scale: &[f32],
    shift: &[f32],
    out: &mut [f32],
) -> Result<(), KernelError> {
    exact("input", x, product("input", &[batch, channels, spatial])?)?;
    exact("output", out, x.len())?;
    exact("scale", scale, channels)?;
    exact("shift", shift, channels)?;
    if out.is_empty() {
        return Ok(());
    }
    let shards = Shards::new(out);
    pool.split(batch * channels, (32 * 1024 / spatial).max(1), |r| {
        for plane in r {
            // SAFETY: every plane is taken once.
            let out = unsafe { shards.part(plane * spatial, spatial) };
            let c = plane % channels;
            let x = &x[plane * spatial..(plane + 1) * spatial];
            pool.level().run(Affine { x, out, scale: scale[c], shift: shift[c] });
        }
    });
    Ok(())
}

struct Affine<'a> {
    x: &'a [f32],
    out: &'a mut [f32],
    scale: f32,
    shift: f32,
}

impl Kernel for Affine<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        self.out.iter_mut().zip(self.x).for_each(|(o, &x)| *o = I::mul_add(x, self.scale, self.shift));
    }
}

/// Normalizes each of `groups` groups of channels of each image, then scales and shifts per channel.
/// With as many groups as channels this is instance normalization.
pub fn group_norm(
    pool: &Pool,
    x: &[f32],
    [batch, channels, spatial]: [usize; 3],
    groups: usize,
    scale: &[f32],
    bias: &[f32],
    epsilon: f32,
    out: &mut [f32],
) -> Result<(), KernelError> {
    if groups == 0 || !channels.is_multiple_of(groups) {
        return Err(KernelError::Shape("group normalization: groups must divide the channels"));
    }
    exact("input", x, product("input", &[batch, channels, spatial])?)?;
    exact("output", out, x.len())?;
    exact("scale", scale, channels)?;
    exact("bias", bias, channels)?;
    let n = channels / groups * spatial;
    if out.is_empty() {
        return Ok(());
    }
    let shards = Shards::new(out);
    pool.split(batch * groups, (16 * 1024 / n).max(1), |r| {
        for i in r {
            // SAFETY: every group is taken once.
            let out = unsafe { shards.part(i * n, n) };
            let x = &x[i * n..(i + 1) * n];
            let center = Center::Mean;
            pool.level().run(Row { x: Some(x), out: &mut *out, scale: None, bias: None, epsilon, center });
            let first = i % groups * (channels / groups);
            for (c, plane) in out.chunks_exact_mut(spatial).enumerate() {
                let (scale, bias) = (scale[first + c], bias[first + c]);
                plane.iter_mut().for_each(|o| *o = *o * scale + bias);
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::Level;
    use proptest::prelude::*;

    fn noise(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| (((i + seed) * 7919) % 1021) as f32 / 510.0 - 0.3).collect()
    }

    fn normalized(xs: &[f32], center: bool, epsilon: f64) -> Vec<f64> {
        let n = xs.len() as f64;
        let mean = if center { xs.iter().map(|&x| x as f64).sum::<f64>() / n } else { 0.0 };
        let variance = xs.iter().map(|&x| (x as f64 - mean).powi(2)).sum::<f64>() / n;
        xs.iter().map(|&x| (x as f64 - mean) / (variance + epsilon).sqrt()).collect()
    }

    fn close(got: &[f32], want: impl Iterator<Item = f64>) {
        for (i, (&g, w)) in got.iter().zip(want).enumerate() {
            assert!((g as f64 - w).abs() <= 1e-5 * w.abs().max(1.0), "{i}: {g} for {w}");
        }
    }

    proptest! {
        #[test]
        fn rows_match_their_definition(rows in 0usize..5, n in 0usize..150, threads in 1usize..3, has in 0u8..4) {
            let (x, s, b) = (noise(rows * n, 1), noise(n, 2), noise(n, 3));
            let scale = (has & 1 == 1).then_some(&s[..]);
            let bias = (has & 2 == 2).then_some(&b[..]);
            let (one, zero) = (vec![1.0; n], vec![0.0; n]);
            for level in Level::available() {
                let pool = Pool::new(threads).unwrap().with_level(level);
                let mut out = vec![7.0; rows * n];
                layer_norm(&pool, &x, [rows, n], scale, bias, 1e-5, &mut out).unwrap();
                let want = x.chunks(n.max(1)).flat_map(|r| normalized(r, true, 1e-5)).enumerate();
                let (sc, bi) = (scale.unwrap_or(&one), bias.unwrap_or(&zero));
                close(&out, want.map(|(i, v)| v * sc[i % n] as f64 + bi[i % n] as f64));
                rms_norm(&pool, &x, [rows, n], scale, 1e-5, &mut out).unwrap();
                let want = x.chunks(n.max(1)).flat_map(|r| normalized(r, false, 1e-5)).enumerate();
                close(&out, want.map(|(i, v)| v * sc[i % n] as f64));
            }
        }

        #[test]
        fn groups_match_their_definition(batch in 0usize..3, groups in 1usize..4, each in 1usize..4, spatial in 0usize..40, threads in 1usize..3) {
            let channels = groups * each;
            let (x, s, b) = (noise(batch * channels * spatial, 1), noise(channels, 2), noise(channels, 3));
            for level in Level::available() {
                let pool = Pool::new(threads).unwrap().with_level(level);
                let mut out = vec![7.0; x.len()];
                group_norm(&pool, &x, [batch, channels, spatial], groups, &s, &b, 1e-5, &mut out).unwrap();
                let want = x.chunks((each * spatial).max(1)).flat_map(|r| normalized(r, true, 1e-5)).enumerate();
                let channel = |i: usize| i / spatial % channels;
                close(&out, want.map(|(i, v)| v * s[channel(i)] as f64 + b[channel(i)] as f64));
                channel_affine(&pool, &x, [batch, channels, spatial], &s, &b, &mut out).unwrap();
                close(&out, x.iter().enumerate().map(|(i, &v)| v as f64 * s[channel(i)] as f64 + b[channel(i)] as f64));
            }
        }
    }

    #[test]
    fn misfits_are_errors() {
        let (pool, x) = (Pool::serial(), [1.0; 12]);
        let mut out = [0.0; 12];
        assert!(layer_norm(&pool, &x, [3, 5], None, None, 1e-5, &mut out).is_err());
        assert!(layer_norm(&pool, &x, [3, 4], Some(&x), None, 1e-5, &mut out).is_err());
        assert!(group_norm(&pool, &x, [1, 3, 4], 2, &x[..3], &x[..3], 1e-5, &mut out).is_err());
        assert!(group_norm(&pool, &x, [1, 3, 4], 0, &x[..3], &x[..3], 1e-5, &mut out).is_err());
    }
}
