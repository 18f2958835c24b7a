//! Products of small integers, exact, and what quantization does around them.

use crate::{
    EvalError,
    conv::convolve,
    data::{Wide, broadcast_indices, take},
    elementwise, epilogue,
    error::refuse,
    eval::Operands,
    matmul::multiply,
    quantize::{from_quantized, to_quantized},
};
use tensormill_ir::ops::{
    Conv, ConvInteger, DequantizeLinear, MatMul, MatMulInteger, QuantizeLinear, QuantizedBinary,
    QuantizedConv, QuantizedMatMul, UnaryKind,
};
use tensormill_tensor::{DType, Shape, Tensor};

type Result<T> = std::result::Result<T, EvalError>;

/// The elements of `t` less their zero points, in i64; `of(i)` says which zero point is that of element `i`.
fn centred(t: &Tensor, zero: Option<&Tensor>, of: impl Fn(usize) -> usize) -> Result<Tensor> {
    let mut v = t.to_i64_vec()?;
    if let Some(z) = zero {
        let z = z.to_i64_vec()?;
        for (i, v) in v.iter_mut().enumerate() {
            let Some(z) = z.get(if z.len() == 1 { 0 } else { of(i) }) else {
                return refuse("zero points do not fit what they are of");
            };
            *v -= z;
        }
    }
    Ok(Tensor::from_vec(t.shape().clone(), v)?)
}

/// As [`centred`], with zero points that broadcast.
fn centred_broadcast(t: &Tensor, zero: Option<&Tensor>) -> Result<Tensor> {
    let Some(z) = zero.filter(|z| z.len() != 1) else { return centred(t, zero, |_| 0) };
    if crate::data::broadcast(t.shape(), z.shape())? != *t.shape() {
        return refuse("zero points do not fit what they are of");
    }
    let at = broadcast_indices(z.shape(), t.shape());
    centred(t, zero, |i| at[i])
}

pub(crate) fn matmul_integer(_: &MatMulInteger, x: &Operands<'_>) -> Result<Tensor> {
    let (a, zero) = (x.tensor(0)?, x.opt_tensor(2)?);
    // A vector has a zero point for each row.
    let rows = zero.filter(|z| z.shape().rank() == 1 && z.len() != 1);
    let column = rows.map(|z| z.reshape([z.len(), 1])).transpose()?;
    let a = centred_broadcast(a, column.as_ref().or(zero))?;
    let b = centred_broadcast(x.tensor(1)?, x.opt_tensor(3)?)?;
    wrapped(multiply(&MatMul::default(), &a, &b, x.limits)?)
}

/// The low 32 bits of each element.
fn wrapped(t: Tensor) -> Result<Tensor> {
    Wide::of(&t)?.tensor(DType::I32, t.shape().clone())
}

/// The exact convolution of operands 0 and 1 less their zero points, in i64.
fn convolved(op: &Conv, x: &Operands<'_>, zeros: [usize; 2]) -> Result<Tensor> {
    let (t, w) = (x.tensor(0)?, x.tensor(1)?);
    let each = w.shape().iter().skip(1).product::<usize>().max(1);
    let t = centred(t, x.opt_tensor(zeros[0])?, |_| 0)?;
    let w = centred(w, x.opt_tensor(zeros[1])?, |i| i / each)?;
    convolve(op, &t, &w, None, x.limits)
}

pub(crate) fn conv_integer(op: &ConvInteger, x: &Operands<'_>) -> Result<Tensor> {
    wrapped(convolved(&op.plain(), x, [2, 3])?)
}

/// The element of a tensor of one, or the one at `i`.
fn pick(v: &[f32], i: usize) -> Result<f32> {
    match v.get(if v.len() == 1 { 0 } else { i }) {
        Some(v) => Ok(*v),
        None => refuse("a scale or bias does not have one element for each channel"),
    }
}

/// `sum * (x_scale * w_scale) + bias` of exact sums, each step rounded to f32; `channel(i)` is that of element `i`.
fn scaled(sums: &Tensor, x: &Operands<'_>, channel: impl Fn(usize) -> usize) -> Result<Tensor> {
    let (xs, ws) = (x.tensor(3)?.to_slice::<f32>()?, x.tensor(5)?.to_slice::<f32>()?);
    let xs = pick(&xs, 0)?;
    let y = sums.to_i64_vec()?.into_iter().enumerate();
    let y = y.map(|(i, s)| Ok(s as f32 * (xs * pick(&ws, channel(i))?))).collect::<Result<Vec<f32>>>()?;
    biased(Tensor::from_vec(sums.shape().clone(), y)?, x, channel)
}

/// Adds operand 2, if there is one.
fn biased(y: Tensor, x: &Operands<'_>, channel: impl Fn(usize) -> usize) -> Result<Tensor> {
    let Some(b) = x.opt_tensor(2)? else { return Ok(y) };
    let b = b.to_slice::<f32>()?;
    let v = y.to_slice::<f32>()?;
    let v = v.iter().enumerate().map(|(i, y)| Ok(y + pick(&b, channel(i))?)).collect::<Result<Vec<f32>>>()?;
    Ok(Tensor::from_vec(y.shape().clone(), v)?)
}

/// Quantizes a result by operands 7 and 8, where it has a dtype.
fn stored(y: Tensor, to: Option<DType>, x: &Operands<'_>) -> Result<Tensor> {
    let Some(to) = to else { return Ok(y) };
    let op = QuantizeLinear { to, ..QuantizeLinear::default() };
    to_quantized(&op, &y, x.tensor(7)?, x.opt_tensor(8)?)
}

pub(crate) fn quantized_conv(op: &QuantizedConv, x: &Operands<'_>) -> Result<Tensor> {
    let sums = convolved(&op.plain(), x, [4, 6])?;
    let (kernels, windows) = (sums.shape()[1], sums.shape()[2..].iter().product::<usize>());
    let y = scaled(&sums, x, |i| i / windows % kernels)?;
    stored(epilogue::apply(&op.epilogue, y, x)?, op.to, x)
}

pub(crate) fn quantized_matmul(op: &QuantizedMatMul, x: &Operands<'_>) -> Result<Tensor> {
    let (t, w) = (x.tensor(0)?, x.tensor(1)?);
    if w.shape().rank() != 2 {
        return refuse("the weights must be a matrix");
    }
    let (k, n) = if op.trans_b { (w.shape()[1], w.shape()[0]) } else { (w.shape()[0], w.shape()[1]) };
    let product = MatMul { trans_b: op.trans_b, ..MatMul::default() };
    let y = if t.dtype() == DType::F32 {
        // Scales differ along the columns; in blocks, along K.
        let axis = i64::from(op.trans_b != (op.block_size == 0));
        let real = DequantizeLinear { to: DType::F32, axis, block_size: op.block_size };
        let w = from_quantized(&real, w, x.tensor(5)?, x.opt_tensor(6)?)?;
        biased(multiply(&product, t, &w, x.limits)?, x, |i| i % n)?
    } else if op.block_size == 0 {
        let column = |i: usize| if op.trans_b { i / k.max(1) } else { i % n };
        let t = centred(t, x.opt_tensor(4)?, |_| 0)?;
        let w = centred(w, x.opt_tensor(6)?, column)?;
        scaled(&multiply(&product, &t, &w, x.limits)?, x, |i| i % n)?
    } else {
        blocked(op, x, (k, n))?
    };
    stored(epilogue::apply(&op.epilogue, y, x)?, op.to, x)
}

/// The product of integers whose scales hold for blocks along K: exact sums within a block, then f32.
fn blocked(op: &QuantizedMatMul, x: &Operands<'_>, (k, n): (usize, usize)) -> Result<Tensor> {
    let (t, w) = (x.tensor(0)?, x.tensor(1)?);
    let blocks = k.div_ceil(op.block_size);
    // Where the block of `at` for a column lies, and where a weight does.
    let parameter = |b: usize, c: usize| if op.trans_b { c * blocks + b } else { b * n + c };
    let weight = |at: usize, c: usize| if op.trans_b { c * k + at } else { at * n + c };
    let mut shape = t.shape().to_vec();
    if shape.pop() != Some(k) {
        return refuse("inner sizes differ");
    }
    shape.push(n);
    let shape = Shape::from(shape);
    x.limits.check(&shape)?;
    let (wz, xs) = (x.opt_tensor(6)?.map(Tensor::to_i64_vec).transpose()?, x.tensor(3)?.to_slice::<f32>()?);
    let (ws, xs) = (x.tensor(5)?.to_slice::<f32>()?, pick(&xs, 0)?);
    if ws.len() != blocks * n || wz.as_ref().is_some_and(|z| z.len() != blocks * n) {
        return refuse("the weights do not have a scale and a zero point for each block");
    }
    let (t, w) = (centred(t, x.opt_tensor(4)?, |_| 0)?.to_i64_vec()?, w.to_i64_vec()?);
    let mut y = vec![0f32; shape.numel()];
    for (i, y) in y.iter_mut().enumerate() {
        let (row, c) = (&t[i / n * k..][..k], i % n);
        for (b, row) in row.chunks(op.block_size).enumerate() {
            let zero = wz.as_ref().map_or(0, |z| z[parameter(b, c)]);
            let sum: i64 =
                row.iter().enumerate().map(|(j, a)| a * (w[weight(b * op.block_size + j, c)] - zero)).sum();
            *y += sum as f32 * (xs * ws[parameter(b, c)]);
        }
    }
    biased(Tensor::from_vec(shape, y)?, x, |i| i % n)
}

pub(crate) fn quantized_binary(op: &QuantizedBinary, x: &Operands<'_>) -> Result<Tensor> {
    let real = |i: usize, at: usize| {
        from_quantized(&DequantizeLinear::default(), x.tensor(i)?, x.tensor(at)?, x.opt_tensor(at + 1)?)
    };
    let mut y = elementwise::binary(op.kind, &real(0, 2)?, &real(1, 4)?, x.limits)?;
    if op.relu {
        y = elementwise::unary(UnaryKind::Relu, &y)?;
    }
    let to = QuantizeLinear { to: op.to, ..QuantizeLinear::default() };
    to_quantized(&to, &y, x.tensor(6)?, x.opt_tensor(7)?)
}

pub(crate) fn byte_table(x: &Operands<'_>) -> Result<Tensor> {
    let (t, table) = (x.tensor(0)?, x.tensor(1)?);
    if table.len() != 256 || [t, table].iter().any(|t| !matches!(t.dtype(), DType::U8 | DType::I8)) {
        return refuse("a table has 256 bytes");
    }
    let at: Vec<usize> = t.bytes().iter().map(|b| usize::from(*b)).collect();
    take(table, t.shape().clone(), &at)
}
