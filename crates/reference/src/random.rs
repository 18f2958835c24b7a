use crate::{
    EvalError,
    data::{i64s, sizes},
    error::refuse,
    eval::Operands,
};
use std::{
    hash::{BuildHasher, Hasher, RandomState},
    sync::atomic::{AtomicU64, Ordering},
};
use tensormill_ir::{
    attr::F32,
    ops::{Bernoulli, Multinomial, RandomNormal, RandomUniform},
};
use tensormill_tensor::{Shape, Tensor};

type Result<T> = std::result::Result<T, EvalError>;

/// A generator of 64 bits: a counter in steps of an odd constant, mixed.
struct Random(u64);

impl Random {
    /// The same numbers for the same seed; others every time without one.
    fn new(seed: Option<F32>) -> Self {
        static DRAWS: AtomicU64 = AtomicU64::new(0);
        Random(match seed {
            Some(F32(s)) => u64::from(s.to_bits()),
            None => {
                let mut h = RandomState::new().build_hasher();
                h.write_u64(DRAWS.fetch_add(1, Ordering::Relaxed));
                h.finish()
            }
        })
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to below 1.
    fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number of the standard normal distribution.
    fn normal(&mut self) -> f64 {
        // 1 - u is never 0, whose logarithm is infinite.
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}

fn shape(x: &Operands<'_>) -> Result<Shape> {
    let shape = sizes(&i64s(x.tensor(0)?)?)?;
    x.limits.check(&shape)?;
    Ok(shape)
}

pub(crate) fn uniform(op: &RandomUniform, x: &Operands<'_>) -> Result<Tensor> {
    let (shape, mut r) = (shape(x)?, Random::new(op.seed));
    let (low, high) = (f64::from(op.low.0), f64::from(op.high.0));
    let v: Vec<f64> = (0..shape.numel()).map(|_| low + (high - low) * r.unit()).collect();
    Ok(Tensor::from_f64s(op.dtype, shape, v)?)
}

pub(crate) fn normal(op: &RandomNormal, x: &Operands<'_>) -> Result<Tensor> {
    let (shape, mut r) = (shape(x)?, Random::new(op.seed));
    let (mean, scale) = (f64::from(op.mean.0), f64::from(op.scale.0));
    let v: Vec<f64> = (0..shape.numel()).map(|_| mean + scale * r.normal()).collect();
    Ok(Tensor::from_f64s(op.dtype, shape, v)?)
}

pub(crate) fn bernoulli(op: &Bernoulli, x: &Operands<'_>) -> Result<Tensor> {
    let t = x.tensor(0)?;
    let mut r = Random::new(op.seed);
    let v: Vec<f64> = t.to_f64_vec()?.into_iter().map(|p| f64::from(u8::from(r.unit() < p))).collect();
    Ok(Tensor::from_f64s(op.dtype, t.shape(), v)?)
}

pub(crate) fn multinomial(op: &Multinomial, x: &Operands<'_>) -> Result<Tensor> {
    let t = x.tensor(0)?;
    let [rows, classes] = **t.shape() else { return refuse("needs a matrix") };
    let shape = Shape::from([rows, op.samples]);
    x.limits.check(&shape)?;
    if shape.numel() == 0 {
        return Ok(Tensor::zeros(op.dtype, shape)?);
    }
    if classes == 0 {
        return refuse("there are no classes to draw from");
    }
    let mut r = Random::new(op.seed);
    let mut drawn = Vec::with_capacity(shape.numel());
    for row in t.to_f64_vec()?.chunks(classes) {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let mut total = 0.0;
        let sums: Vec<f64> = row
            .iter()
            .map(|v| {
                total += (v - max).exp();
                total
            })
            .collect();
        if !total.is_finite() || total <= 0.0 {
            return refuse("the logarithmic probabilities must be finite, at least one of them");
        }
        for _ in 0..op.samples {
            let at = r.unit() * total;
            drawn.push(sums.iter().position(|s| at < *s).unwrap_or(classes - 1) as i64);
        }
    }
    Ok(Tensor::from_i64s(op.dtype, shape, drawn)?)
}
