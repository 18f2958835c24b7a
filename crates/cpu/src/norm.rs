//! Normalizations.

use crate::native::{Built, Call, Fail, Known, Native, Prep};
use tensormill_ir::ops::{BatchNorm, LayerNorm, RmsNorm};
use tensormill_kernels::norm::{
    channel_affine, group_norm as group_kernel, layer_norm as layer_kernel, rms_norm as rms_kernel,
};
use tensormill_tensor::DType;

fn all_f32(p: &Prep<'_>) -> Result<(), std::borrow::Cow<'static, str>> {
    (0..p.ins.len()).try_for_each(|i| p.need(i, DType::F32))
}

/// Batch, channels, and the elements of a channel.
fn planes(x: &Known<'_>) -> Option<[usize; 3]> {
    let [batch, channels, ..] = *x.shape else { return None };
    Some([batch, channels, x.shape[2..].iter().product()])
}

/// Scale and shift of each channel.
fn affine(scale: &[f32], bias: &[f32], mean: &[f32], var: &[f32], epsilon: f32) -> (Vec<f32>, Vec<f32>) {
    let epsilon = f64::from(epsilon);
    let factor = |i: usize| f64::from(scale[i]) / (f64::from(var[i]) + epsilon).sqrt();
    let n = scale.len().min(bias.len()).min(mean.len()).min(var.len());
    let shift = |i: usize| (f64::from(bias[i]) - f64::from(mean[i]) * factor(i)) as f32;
    ((0..n).map(|i| factor(i) as f32).collect(), (0..n).map(shift).collect())
}

pub(crate) fn batch_norm(p: &Prep<'_>, op: &BatchNorm) -> Built {
    all_f32(p)?;
    let sizes = planes(&p.get(0)?).ok_or("an operand without channels")?;
    let epsilon = op.epsilon.0;
    let constants: Option<Vec<Vec<f32>>> =
        (1..5).map(|i| p.opt(i)?.known?.to_slice::<f32>().ok().map(|v| v.into_owned())).collect();
    let ready = constants.map(|v| affine(&v[0], &v[1], &v[2], &v[3], epsilon));
    Native::new("channel-affine", move |c| {
        let (pool, x) = (c.pool, c.get::<f32>(0)?);
        if let Some((scale, shift)) = &ready {
            return Ok(channel_affine(pool, x, sizes, scale, shift, c.out::<f32>(0)?)?);
        }
        let (scale, shift) = affine(c.get(1)?, c.get(2)?, c.get(3)?, c.get(4)?, epsilon);
        Ok(channel_affine(pool, x, sizes, &scale, &shift, c.out::<f32>(0)?)?)
    })
}

/// Rows, and the elements normalized together.
fn rows(p: &Prep<'_>, axis: i64) -> Result<[usize; 2], std::borrow::Cow<'static, str>> {
    all_f32(p)?;
    let x = p.get(0)?;
    let axis = tensormill_ir::infer::axis(axis, x.shape.len()).map_err(|e| e.0)?;
    let n: usize = x.shape[axis..].iter().product();
    for k in p.ins.iter().skip(1).flatten() {
        // Elements of a row each with their own factor; leading ones do not matter.
        let own: Vec<usize> = k.shape.iter().copied().skip_while(|&d| d == 1).collect();
        let row: Vec<usize> = x.shape[axis..].iter().copied().skip_while(|&d| d == 1).collect();
        if own != row || k.len() != n {
            return Err("factors that repeat within a row".into());
        }
    }
    Ok([x.len().checked_div(n).unwrap_or(0), n])
}

pub(crate) fn layer_norm(p: &Prep<'_>, op: &LayerNorm) -> Built {
    if op.with_stats {
        return Err("no kernel gives the statistics".into());
    }
    let (sizes, epsilon) = (rows(p, op.axis)?, op.epsilon.0);
    let bias = p.opt(2).is_some();
    let mut native = Native::new("layer-norm", move |c: &mut Call<'_, '_>| {
        let (pool, x, scale) = (c.pool, c.get::<f32>(0)?, c.get::<f32>(1)?);
        let bias = if bias { Some(c.get::<f32>(2)?) } else { None };
        Ok(layer_kernel(pool, x, sizes, Some(scale), bias, epsilon, c.out::<f32>(0)?)?)
    })?;
    native.flops = 8 * p.out().numel() as u64;
    Ok(native)
}

pub(crate) fn rms_norm(p: &Prep<'_>, op: &RmsNorm) -> Built {
    let (sizes, epsilon) = (rows(p, op.axis)?, op.epsilon.0);
    Native::new("rms-norm", move |c| {
        let (pool, x, scale) = (c.pool, c.get::<f32>(0)?, c.get::<f32>(1)?);
        Ok(rms_kernel(pool, x, sizes, Some(scale), epsilon, c.out::<f32>(0)?)?)
    })
}

/// `groups` of channels; `None`: each channel by itself.
pub(crate) fn group_norm(p: &Prep<'_>, groups: Option<usize>, epsilon: f32) -> Built {
    all_f32(p)?;
    let sizes = planes(&p.get(0)?).ok_or("an operand without channels")?;
    let groups = groups.unwrap_or(sizes[1]);
    if groups == 0 || sizes.contains(&0) {
        return Err("nothing to normalize".into());
    }
    Native::new("group-norm", move |c| {
        let (pool, x, scale, bias) = (c.pool, c.get::<f32>(0)?, c.get::<f32>(1)?, c.get::<f32>(2)?);
        group_kernel(pool, x, sizes, groups, scale, bias, epsilon, c.out::<f32>(0)?).map_err(Fail::from)
    })
}
