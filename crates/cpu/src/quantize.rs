//! Products of bytes, and what lies between bytes and real numbers.
//!
//! Scales and zero points are operands: nearly always constants, and read when a step runs.

mod conv;
mod conv_integer;
mod matmul_integer;

pub(crate) use conv::conv_channels_last;
pub(crate) use conv_integer::{conv_integer, conv_integer_channels_last};
pub(crate) use matmul_integer::matmul_integer;

use crate::epilogue::{Layout, Steps};
use crate::native::{Built, Call, Fail, Known, Native, Prep, Stored};
use std::borrow::Cow;
use std::sync::Arc;
use tensormill_ir::ops::{BinaryKind, QuantizeLinear, QuantizedBinary, QuantizedMatMul};
use tensormill_kernels::elementwise::{BinaryOp, binary_f32};
use tensormill_kernels::packed::Packed;
use tensormill_kernels::quantized::{
    self as kernel, ByteMatrix, ByteWeights, Bytes, Output, Quantized, Scaling,
    blocks::{Bits, BlockMatrix, BlockWeights},
    elementwise::{Both, Real},
};
use tensormill_tensor::{DType, Tensor};

/// Operands of a product before those of its epilogue, in the order of the op.
const X: usize = 0;
const W: usize = 1;
const BIAS: usize = 2;
const X_SCALE: usize = 3;
const X_ZERO: usize = 4;
const W_SCALE: usize = 5;
const W_ZERO: usize = 6;
const Y_SCALE: usize = 7;
const Y_ZERO: usize = 8;

impl Stored for ByteWeights {
    fn packed(&self) -> &Packed {
        ByteWeights::packed(self)
    }
}

/// Most steps of depth whose sums of products of bytes are exact in 32 bits.
const EXACT: usize = 1 << 16;

fn is_byte(d: DType) -> bool {
    matches!(d, DType::U8 | DType::I8)
}

/// Whether the operand, if given, has a single element.
fn single(p: &Prep<'_>, i: usize) -> Result<(), Cow<'static, str>> {
    match p.opt(i) {
        Some(k) if k.len() != 1 => Err("scales or zero points that differ along an axis".into()),
        _ => Ok(()),
    }
}

/// The number in an operand of one byte; zero if it is left out.
fn zero(c: &Call<'_, '_>, i: usize, signed: bool) -> Result<i32, Fail> {
    match c.ins.get(i).copied().flatten() {
        None => Ok(0),
        Some(v) => {
            let x = *v.bytes.first().ok_or_else(|| Fail(format!("operand {i} is empty")))?;
            Ok(if signed { i32::from(x as i8) } else { i32::from(x) })
        }
    }
}

fn scale(c: &Call<'_, '_>, i: usize) -> Result<f32, Fail> {
    c.get::<f32>(i)?.first().copied().ok_or_else(|| Fail(format!("operand {i} is empty")))
}

/// What a product needs to know of its operands' types.
#[derive(Clone, Copy)]
struct Types {
    x_signed: bool,
    /// Whether there is a bias.
    bias: bool,
    /// The sign of a quantized result; none for a real one.
    y_signed: Option<bool>,
}

impl Types {
    fn of(p: &Prep<'_>) -> Result<Types, Cow<'static, str>> {
        let x = p.get(X)?;
        if !is_byte(x.dtype) {
            return Err(format!("no kernel for {}", x.dtype).into());
        }
        for i in [X_SCALE, X_ZERO, Y_SCALE, Y_ZERO] {
            single(p, i)?;
        }
        let y_signed = match p.out_dtype() {
            DType::F32 => None,
            d if is_byte(d) => Some(d == DType::I8),
            d => return Err(format!("no kernel for {d}").into()),
        };
        Ok(Types { x_signed: x.dtype == DType::I8, bias: p.opt(BIAS).is_some(), y_signed })
    }

    /// Calls `kernel` with the activation, what the numbers stand for, and the result with its epilogue.
    fn run(
        self,
        c: &mut Call<'_, '_>,
        steps: &Steps,
        columns: usize,
        kernel: impl FnOnce(Bytes<'_>, &Scaling<'_>, Output<'_>, &Call<'_, '_>) -> Result<(), Fail>,
    ) -> Result<(), Fail> {
        let x = Bytes { data: c.view(X)?.bytes, signed: self.x_signed };
        let scaling = Scaling {
            x_scale: scale(c, X_SCALE)?,
            x_zero: zero(c, X_ZERO, self.x_signed)?,
            scales: c.get::<f32>(W_SCALE)?,
            bias: if self.bias { c.get::<f32>(BIAS)? } else { &[] },
        };
        match self.y_signed {
            None => steps.run(c, |out, epilogue, c| {
                let pitch = c.out_pitch::<f32>(columns);
                kernel(x, &scaling, Output::Floats { out, pitch, epilogue }, c)
            }),
            Some(signed) => {
                let to = Quantized { scale: scale(c, Y_SCALE)?, zero: zero(c, Y_ZERO, signed)?, signed };
                steps.run_bytes(c, |out, epilogue, c| {
                    let pitch = c.out_pitch::<u8>(columns);
                    kernel(x, &scaling, Output::Bytes { out, pitch, epilogue, to }, c)
                })
            }
        }
    }
}

/// A constant of bytes.
fn constant<'a>(k: &Known<'a>) -> Result<(&'a Tensor, bool), Cow<'static, str>> {
    let t = k.constant.filter(|t| is_byte(t.dtype())).ok_or("weights known only at run time")?;
    Ok((t, t.dtype() == DType::I8))
}

/// The zero points of constant weights.
fn zeros(p: &Prep<'_>, i: usize) -> Result<Vec<i32>, Cow<'static, str>> {
    let Some(k) = p.opt(i) else { return Ok(vec![]) };
    let known = k.known.or(k.constant).ok_or("zero points of weights known only at run time")?;
    let zeros = known.to_i64_vec().map_err(|e| e.to_string())?;
    Ok(zeros.into_iter().map(|z| z as i32).collect())
}

/// Weights packed once for the node.
fn packed(p: &Prep<'_>, from: &Tensor, matrix: &ByteMatrix<'_>) -> Result<Arc<ByteWeights>, String> {
    let sizes: Vec<usize> =
        [matrix.taps, matrix.channels, matrix.columns].into_iter().chain(matrix.strides).collect();
    p.weights.get_stored(
        p.pool,
        (p.node, "bytes", 0),
        &[from],
        &sizes,
        |packed| ByteWeights::from_packed(p.pool.level(), matrix, packed),
        || ByteWeights::pack(p.pool, matrix),
    )
}

/// The matrix that a constant right operand is, and its zero points.
fn matrix<'a>(
    weights: &'a Tensor,
    signed: bool,
    trans: bool,
    zeros: &'a [i32],
) -> Result<ByteMatrix<'a>, Cow<'static, str>> {
    let [a, b] = weights.shape()[..] else { return Err("weights are no matrix".into()) };
    let (depth, columns, strides) = if trans { (b, a, [0, 1, b]) } else { (a, b, [0, b, 1]) };
    Ok(ByteMatrix { data: weights.bytes(), signed, taps: 1, channels: depth, columns, strides, zeros })
}

pub(crate) fn matmul(p: &Prep<'_>, op: &QuantizedMatMul) -> Built {
    if p.get(X)?.dtype == DType::F32 {
        return real_matmul(p, op);
    }
    let types = Types::of(p)?;
    if op.block_size != 0 {
        return Err("no kernel for bytes in blocks".into());
    }
    let (x, w) = (p.get(X)?, p.get(W)?);
    let (weights, signed) = constant(&w)?;
    let zeros = zeros(p, W_ZERO)?;
    let matrix = matrix(weights, signed, op.trans_b, &zeros)?;
    let (depth, columns) = (matrix.channels, matrix.columns);
    if depth == 0 || x.shape.last() != Some(&depth) {
        return Err("no depth".into());
    }
    if depth > EXACT {
        return Err("sums of so many products may not fit 32 bits".into());
    }
    let rows = x.len() / depth;
    let out = p.out();
    if out.numel() != rows * columns {
        return Err("sizes that the kernel computes otherwise".into());
    }
    let rank = out.rank();
    let layout = Layout { rows: rank.saturating_sub(2), columns: rank - 1..rank, merged: true };
    let steps = Steps::plan(p, &op.epilogue, (rank > 1).then_some(&layout))?;
    if types.y_signed.is_some() && !steps.all_hot() {
        return Err("an operand of the epilogue lies in a way of its own".into());
    }
    let packed = packed(p, weights, &matrix)?;
    let mut native = Native::new("int8-linear", move |c| {
        types.run(c, &steps, columns, |x, scaling, output, c| {
            Ok(kernel::conv::linear(c.pool, rows, x, depth, &packed, scaling, output)?)
        })
    })?;
    native.packed = Some(W);
    native.flops = 2 * (rows * columns) as u64 * depth as u64;
    native.reason = format!("{rows}x{depth}x{columns}, constant right operand");
    Ok(native)
}

/// The integer at a place of a constant, less an offset that makes 8 bits signed and 4 bits unsigned.
fn element(bytes: &[u8], dtype: DType, at: usize) -> i32 {
    let half = || i32::from(bytes[at / 2] >> (4 * (at % 2)) & 15);
    match dtype {
        DType::I8 => i32::from(bytes[at] as i8),
        DType::U8 => i32::from(bytes[at]) - 128,
        DType::U4 => half(),
        // The sign's bit counts as much as it lacks.
        _ => half() ^ 8,
    }
}

/// What [`element`] makes of zero.
fn origin(dtype: DType) -> i32 {
    match dtype {
        DType::U8 => -128,
        DType::I4 => 8,
        _ => 0,
    }
}

/// A product of real numbers with weights in few bits.
fn real_matmul(p: &Prep<'_>, op: &QuantizedMatMul) -> Built {
    let (x, w) = (p.get(X)?, p.get(W)?);
    if p.out_dtype() != DType::F32 {
        return Err(format!("no kernel for {} from real numbers", p.out_dtype()).into());
    }
    let weights = w.constant.ok_or("weights known only at run time")?;
    let known = |i: usize| match p.opt(i) {
        None => Ok(None),
        Some(k) => k.known.or(k.constant).map(Some).ok_or("scales of weights known only at run time"),
    };
    let scales = known(W_SCALE)?.ok_or("weights without a scale")?;
    let zeros = known(W_ZERO)?;
    let [a, b] = w.shape[..] else { return Err("weights are no matrix".into()) };
    let (depth, columns) = if op.trans_b { (b, a) } else { (a, b) };
    if depth == 0 || x.shape.last() != Some(&depth) {
        return Err("no depth".into());
    }
    let rows = x.len() / depth;
    let out = p.out();
    if out.numel() != rows * columns {
        return Err("sizes that the kernel computes otherwise".into());
    }
    let block = if op.block_size == 0 { depth } else { op.block_size };
    if block < depth && !block.is_multiple_of(2) {
        return Err("no kernel for blocks of an odd size".into());
    }
    let (dtype, rank) = (weights.dtype(), out.rank());
    let bits = match dtype {
        DType::I8 | DType::U8 => Bits::Eight,
        DType::I4 | DType::U4 => Bits::Four,
        d => return Err(format!("no kernel for weights of {d}").into()),
    };
    let layout = Layout { rows: rank.saturating_sub(2), columns: rank - 1..rank, merged: true };
    let steps = Steps::plan(p, &op.epilogue, (rank > 1).then_some(&layout))?;
    let packed = p.weights.get(p.node, "blocks", 0, &[weights], || {
        let scales = scales.to_slice::<f32>().map_err(|e| e.to_string())?;
        let (bytes, blocks) = (weights.bytes(), depth.div_ceil(block));
        // One scale, one for each column, or one for each block and column.
        let at = |len: usize, b: usize, n: usize| match () {
            () if len == 1 => 0,
            () if op.block_size == 0 => n,
            () if op.trans_b => n * blocks + b,
            () => b * columns + n,
        };
        let zero = |b: usize, n: usize| match zeros {
            None => origin(dtype),
            Some(z) => element(z.bytes(), dtype, at(z.len(), b, n)),
        };
        let matrix = BlockMatrix {
            depth,
            columns,
            block,
            bits,
            element: &|k, n| element(bytes, dtype, if op.trans_b { n * depth + k } else { k * columns + n }),
            scale: &|b, n| scales[at(scales.len(), b, n)],
            zero: &zero,
        };
        let packed = BlockWeights::pack(p.pool, &matrix).map_err(|e| e.to_string())?;
        let bytes = packed.bytes();
        Ok::<_, String>((packed, bytes))
    })?;
    let bias = p.opt(BIAS).is_some();
    let name = if bits == Bits::Eight { "weights8-linear" } else { "weights4-linear" };
    let mut native = Native::new(name, move |c| {
        let x = c.get::<f32>(X)?;
        let bias = if bias { c.get::<f32>(BIAS)? } else { &[] };
        steps.run(c, |out, epilogue, c| {
            let pitch = c.out_pitch::<f32>(columns);
            Ok(kernel::blocks::linear(c.pool, rows, x, depth, &packed, bias, out, pitch, epilogue)?)
        })
    })?;
    native.packed = Some(W);
    native.flops = 2 * (rows * columns) as u64 * depth as u64;
    native.reason = format!("{rows}x{depth}x{columns}, {dtype} weights in blocks of {block}");
    Ok(native)
}

/// Quantization by the range of the numbers themselves.
pub(crate) fn dynamic_quantize(p: &Prep<'_>) -> Built {
    p.need(0, DType::F32)?;
    Native::new("quantize-by-range", |c| {
        let (pool, x) = (c.pool, c.get::<f32>(0)?);
        let (scale, zero) = kernel::elementwise::range(pool, x);
        // Of zeros only, any scale will do.
        let divisor = if scale == 0.0 { 1.0 } else { scale };
        let to = Quantized { scale: divisor, zero: i32::from(zero), signed: false };
        kernel::elementwise::quantize(pool, x, to, c.out::<u8>(0)?)?;
        if let Some(to) = c.out::<f32>(1)?.first_mut() {
            *to = scale;
        }
        if let Some(to) = c.out::<u8>(2)?.first_mut() {
            *to = zero;
        }
        Ok(())
    })
}

pub(crate) fn quantize(p: &Prep<'_>, op: &QuantizeLinear) -> Built {
    p.need(0, DType::F32)?;
    p.need(1, DType::F32)?;
    single(p, 1)?;
    single(p, 2)?;
    if !is_byte(p.out_dtype()) || op.precision.is_some_and(|d| d != DType::F32) || op.block_size != 0 {
        return Err("no kernel for this type".into());
    }
    let signed = p.out_dtype() == DType::I8;
    Native::new("quantize", move |c| {
        let (pool, x) = (c.pool, c.get::<f32>(0)?);
        let to = Quantized { scale: scale(c, 1)?, zero: zero(c, 2, signed)?, signed };
        Ok(kernel::elementwise::quantize(pool, x, to, c.out::<u8>(0)?)?)
    })
}

pub(crate) fn dequantize(p: &Prep<'_>) -> Built {
    let x = p.get(0)?;
    p.need(1, DType::F32)?;
    single(p, 1)?;
    single(p, 2)?;
    if !is_byte(x.dtype) || p.out_dtype() != DType::F32 {
        return Err("no kernel for this type".into());
    }
    let signed = x.dtype == DType::I8;
    Native::new("dequantize", move |c| {
        let pool = c.pool;
        let x = Bytes { data: c.view(0)?.bytes, signed };
        let x = Real { x, scale: scale(c, 1)?, zero: zero(c, 2, signed)? };
        Ok(kernel::elementwise::dequantize(pool, x, c.out::<f32>(0)?)?)
    })
}

/// Bytes for bytes.
pub(crate) fn table(p: &Prep<'_>) -> Built {
    if !is_byte(p.get(0)?.dtype) || p.get(1)?.len() != 256 {
        return Err("no kernel for this table".into());
    }
    Native::new("byte-table", |c| {
        let (pool, x) = (c.pool, c.view(0)?.bytes);
        let table = c.view(1)?.bytes.try_into().map_err(|_| Fail("a table has 256 bytes".into()))?;
        Ok(kernel::elementwise::look_up(pool, x, table, c.out::<u8>(0)?)?)
    })
}

pub(crate) fn binary(p: &Prep<'_>, op: &QuantizedBinary) -> Built {
    let kind = match op.kind {
        BinaryKind::Add => Both::Add,
        BinaryKind::Mul => Both::Mul,
        _ => return Err("no kernel for this function of bytes".into()),
    };
    for i in 2..8 {
        single(p, i)?;
    }
    let (a, b) = (p.get(0)?, p.get(1)?);
    let (a_signed, b_signed, signed) =
        (a.dtype == DType::I8, b.dtype == DType::I8, p.out_dtype() == DType::I8);
    let relu = op.relu;
    let operands = move |c: &Call<'_, '_>| -> Result<_, Fail> {
        let real = |i: usize, signed: bool| -> Result<_, Fail> {
            Ok((scale(c, 2 + 2 * i)?, zero(c, 3 + 2 * i, signed)?))
        };
        let to = Quantized { scale: scale(c, 6)?, zero: zero(c, 7, signed)?, signed };
        Ok((real(0, a_signed)?, real(1, b_signed)?, to))
    };
    if a.shape == b.shape {
        return Native::new("int8-binary", move |c| {
            let ((a_scale, a_zero), (b_scale, b_zero), to) = operands(c)?;
            let pool = c.pool;
            let x = Bytes { data: c.view(0)?.bytes, signed: a_signed };
            let y = Bytes { data: c.view(1)?.bytes, signed: b_signed };
            let a = Real { x, scale: a_scale, zero: a_zero };
            let b = Real { x: y, scale: b_scale, zero: b_zero };
            Ok(kernel::elementwise::binary(pool, kind, a, b, relu, to, c.out::<u8>(0)?)?)
        });
    }
    let (a_dims, b_dims, dims) = (a.shape.to_vec(), b.shape.to_vec(), p.out().clone());
    Native::new("int8-binary-broadcast", move |c| {
        let ((a_scale, a_zero), (b_scale, b_zero), to) = operands(c)?;
        let pool = c.pool;
        let real = |i: usize, scale, zero, signed| -> Result<Vec<f32>, Fail> {
            let data = c.view(i)?.bytes;
            let mut out = vec![0.0; data.len()];
            kernel::elementwise::dequantize(pool, Real { x: Bytes { data, signed }, scale, zero }, &mut out)?;
            Ok(out)
        };
        let (x, y) = (real(0, a_scale, a_zero, a_signed)?, real(1, b_scale, b_zero, b_signed)?);
        let mut out = vec![0.0; dims.numel()];
        let f = if kind == Both::Add { BinaryOp::Add } else { BinaryOp::Mul };
        binary_f32(pool, f, (&x, &a_dims), (&y, &b_dims), (&mut out, &dims))?;
        if relu {
            out.iter_mut().for_each(|x| *x = x.max(0.0));
        }
        Ok(kernel::elementwise::quantize(pool, &out, to, c.out::<u8>(0)?)?)
    })
}
