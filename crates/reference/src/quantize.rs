use crate::{
    EvalError,
    data::{Wide, axis, strided_indices},
    error::refuse,
    eval::Operands,
    reduce::int_range,
};
use tensormill_ir::ops::{DequantizeLinear, QuantizeLinear};
use tensormill_tensor::{CastOptions, DType, Tensor, Value};

type Result<T> = std::result::Result<T, EvalError>;

/// For every element of x, which element of a scale or zero point is its own.
fn owners(x: &Tensor, parameter: &Tensor, along: i64, block: usize) -> Result<Vec<usize>> {
    let (shape, p) = (x.shape(), parameter.shape());
    if parameter.len() == 1 && (block == 0 || p.rank() != shape.rank()) {
        return Ok(vec![0; x.len()]);
    }
    let along = axis(along, shape.rank())?;
    if block == 0 {
        if p.dims() != [shape[along]] {
            return refuse("a parameter must have one element, or one for each of the axis");
        }
        let mut strides = vec![0; shape.rank()];
        strides[along] = 1;
        return Ok(strided_indices(shape, &strides));
    }
    let fits = (0..shape.rank())
        .all(|i| p.get(i) == Some(&if i == along { shape[i].div_ceil(block) } else { shape[i] }));
    if !fits || p.rank() != shape.rank() {
        return refuse(format!("a parameter does not have a block for every {block} elements"));
    }
    // Every element along the axis by itself, then its block.
    let inner: usize = shape[along + 1..].iter().product();
    let (n, blocks) = (shape[along], p[along]);
    Ok((0..x.len()).map(|i| (i / (n * inner) * blocks + i / inner % n / block) * inner + i % inner).collect())
}

fn wide_floats(t: &Tensor) -> Result<Vec<f64>> {
    Ok(match Wide::of(t)? {
        Wide::Float(v) => v,
        Wide::Int(v) => v.into_iter().map(|v| v as f64).collect(),
    })
}

/// Values rounded to a float type.
fn round_to(v: Vec<f64>, dtype: DType) -> Result<Vec<f64>> {
    let n = v.len();
    Ok(Tensor::from_f64s(dtype, [n], v)?.to_f64_vec()?)
}

pub(crate) fn quantize(op: &QuantizeLinear, x: &Operands<'_>) -> Result<Tensor> {
    to_quantized(op, x.tensor(0)?, x.tensor(1)?, x.opt_tensor(2)?)
}

pub(crate) fn to_quantized(
    op: &QuantizeLinear,
    t: &Tensor,
    scale: &Tensor,
    zero: Option<&Tensor>,
) -> Result<Tensor> {
    let own = owners(t, scale, op.axis, op.block_size)?;
    let precision = op.precision.unwrap_or(if t.dtype() == scale.dtype() { t.dtype() } else { DType::F32 });
    let (v, s) = (round_to(wide_floats(t)?, precision)?, round_to(wide_floats(scale)?, precision)?);
    // The division rounds before the result does: ties depend on it.
    let v = round_to(v.iter().zip(&own).map(|(x, &i)| x / s[i]).collect(), precision)?;
    let zeros = match zero {
        None => None,
        Some(z) if z.dtype() != op.to => return refuse(format!("the zero point must be {}", op.to)),
        Some(z) => Some((owners(t, z, op.axis, op.block_size)?, Wide::of(z)?)),
    };
    if op.to.is_float() {
        let v = match zeros {
            Some((own, Wide::Float(z))) => v.iter().zip(own).map(|(v, i)| v + z[i]).collect(),
            _ => v,
        };
        let options = CastOptions { saturate: op.saturate, ..CastOptions::default() };
        return Ok(Tensor::from_vec(t.shape().clone(), v)?.cast(op.to, options)?);
    }
    let (low, high) = int_range(op.to);
    let element = |(i, v): (usize, f64)| {
        let zero = match &zeros {
            Some((own, Wide::Int(z))) => z[own[i]],
            _ => 0,
        };
        // A float cast to an integer saturates, and NaN becomes 0.
        i128::from(v.round_ties_even() as i64).saturating_add(zero).clamp(low, high)
    };
    Wide::Int(v.into_iter().enumerate().map(element).collect()).tensor(op.to, t.shape().clone())
}

pub(crate) fn dequantize(op: &DequantizeLinear, x: &Operands<'_>) -> Result<Tensor> {
    from_quantized(op, x.tensor(0)?, x.tensor(1)?, x.opt_tensor(2)?)
}

pub(crate) fn from_quantized(
    op: &DequantizeLinear,
    t: &Tensor,
    scale: &Tensor,
    zero: Option<&Tensor>,
) -> Result<Tensor> {
    let own = owners(t, scale, op.axis, op.block_size)?;
    let (mut v, s) = (wide_floats(t)?, wide_floats(scale)?);
    if let Some(z) = zero {
        let own = owners(t, z, op.axis, op.block_size)?;
        let z = wide_floats(z)?;
        v.iter_mut().zip(own).for_each(|(v, i)| *v -= z[i]);
    }
    v.iter_mut().zip(own).for_each(|(v, i)| *v *= s[i]);
    Wide::Float(v).tensor(op.to, t.shape().clone())
}

pub(crate) fn dynamic(t: &Tensor) -> Result<Vec<Value>> {
    let v = t.to_slice::<f32>()?;
    let (mut low, mut high) = (0f32, 0f32);
    for &x in &*v {
        // What is no number spreads to both.
        low = if x.is_nan() || x < low { x } else { low };
        high = if x.is_nan() || x > high { x } else { high };
    }
    let scale = (high - low) / 255.0;
    let divisor = if scale == 0.0 { 1.0 } else { scale };
    let zero = (-(low / divisor)).round_ties_even().clamp(0.0, 255.0) as u8;
    let (s, z) = (Tensor::scalar(divisor), Tensor::scalar(zero));
    let y = to_quantized(&QuantizeLinear::default(), t, &s, Some(&z))?;
    Ok([y, Tensor::scalar(scale), z].map(Value::Tensor).into())
}
