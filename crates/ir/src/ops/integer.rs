//! Products of small integers: with the integers as the result, and between steps of quantization.

use super::{
    AutoPad, BinaryKind, Conv, MatMul, OpDef, PostOps,
    conv::{check_bias, check_ranks},
};
use crate::{
    dim::Dim,
    error::InferError,
    infer::{InferCx, broadcast, refuse},
    op_attrs,
    types::{Dims, TensorType},
};
use tensormill_tensor::DType;

op_attrs! {
    /// Matrix product of 8-bit integers less their zero points, in i32 that wrap. Operands: a, b, zero of a
    /// (optional: one, a vector of one per row, or what broadcasts to a), zero of b (optional: one, or what
    /// broadcasts to b, as a vector of one per column does).
    MatMulInteger {}
}

op_attrs! {
    /// Convolution of 8-bit integers less their zero points, in i32 that wrap. Operands: x, w, zero of x
    /// (optional, one), zero of w (optional: one, or one per kernel). Padding stands for the zero point.
    ConvInteger {
        /// As those of a convolution.
        strides: Vec<usize> = vec![],
        /// As those of a convolution.
        dilations: Vec<usize> = vec![],
        /// As those of a convolution.
        pads: Vec<usize> = vec![],
        /// Channel groups that are convolved apart.
        group: usize = 1,
        /// Who decides the padding.
        auto_pad: AutoPad = AutoPad::Explicit,
    }
}

op_attrs! {
    /// A convolution in 8-bit integers: `quantize(epilogue(conv(dequantize(x), dequantize(w)) + bias))`, where
    /// the result stays f32 without a scale of its own. Operands: 0 x, 1 w, 2 bias (f32, optional), 3 scale
    /// and 4 zero of x (one; the zero is optional), 5 scale and 6 zero of w (one, or one per kernel; the zero
    /// is optional), 7 scale and 8 zero of the result (one; optional), then those of the epilogue. Sums are
    /// exact; then `sum * (x_scale * w_scale) + bias` and the epilogue are computed in f32. Padding stands for
    /// the number 0.
    QuantizedConv {
        /// As those of a convolution.
        strides: Vec<usize> = vec![],
        /// As those of a convolution.
        dilations: Vec<usize> = vec![],
        /// As those of a convolution.
        pads: Vec<usize> = vec![],
        /// Channel groups that are convolved apart.
        group: usize = 1,
        /// Who decides the padding.
        auto_pad: AutoPad = AutoPad::Explicit,
        /// Steps applied to the f32 result before it is quantized.
        epilogue: PostOps = PostOps::default(),
        /// The result's dtype where it is quantized; none: f32.
        to: Option<DType> = None,
    }
}

op_attrs! {
    /// A product with a matrix of integers: `quantize(epilogue(dequantize(x) * dequantize(w) + bias))`, where
    /// the result stays f32 without a scale of its own. x has any rank from 1 and its last axis multiplies; w
    /// is `[K,N]`. Operands are those of a quantized convolution; w has one scale, or one per column. An x
    /// in f32 has no scale, and w may then have 4 bits. Sums of integers are exact, within a block where
    /// there are blocks; then `sum * (x_scale * w_scale) + bias` and the epilogue are computed in f32.
    QuantizedMatMul {
        /// Whether w is `[N,K]`.
        trans_b: bool = false,
        /// Elements along K that share a scale; 0: all. The scales of w are then `[ceil(K/block_size),N]`,
        /// or `[N,ceil(K/block_size)]` where w is `[N,K]`.
        block_size: usize = 0,
        /// Steps applied to the f32 result before it is quantized.
        epilogue: PostOps = PostOps::default(),
        /// The result's dtype where it is quantized; none: f32.
        to: Option<DType> = None,
    }
}

op_attrs! {
    /// `quantize(relu?(kind(dequantize(a), dequantize(b))))` of 8-bit integers that broadcast, in f32 between.
    /// Operands: 0 a, 1 b, 2 scale and 3 zero of a, 4 scale and 5 zero of b, 6 scale and 7 zero of the result;
    /// one of each, and zeros are optional.
    QuantizedBinary {
        /// The function.
        kind: BinaryKind = BinaryKind::Add,
        /// Whether what is negative becomes 0 before it is quantized.
        relu: bool = false,
        /// The result's dtype.
        to: DType = DType::U8,
    }
}

op_attrs! {
    /// A byte for each byte: `table[x]`. Operands: x (u8 or i8), table (256 of u8 or i8, the result's dtype), whose
    /// place `i` is for the byte of the bits of `i`: what is -1 as i8 finds the last.
    ByteTable {}
}

impl ConvInteger {
    /// The convolution without the zero points.
    pub fn plain(&self) -> Conv {
        let Self { strides, dilations, pads, group, auto_pad } = self.clone();
        Conv { strides, dilations, pads, group, auto_pad, epilogue: PostOps::default() }
    }
}

impl QuantizedConv {
    /// Operands of its own, before those of the epilogue.
    pub const OWN: usize = 9;

    /// The convolution without quantization and epilogue.
    pub fn plain(&self) -> Conv {
        let Self { strides, dilations, pads, group, auto_pad, .. } = self.clone();
        Conv { strides, dilations, pads, group, auto_pad, epilogue: PostOps::default() }
    }
}

impl QuantizedMatMul {
    /// Operands of its own, before those of the epilogue.
    pub const OWN: usize = 9;
}

/// Whether numbers of a dtype are 8-bit integers.
fn is_byte(dtype: DType) -> bool {
    matches!(dtype, DType::U8 | DType::I8)
}

/// An operand of 8-bit integers.
fn bytes<'a>(cx: &InferCx<'a>, i: usize) -> Result<&'a TensorType, InferError> {
    let t = cx.tensor(i)?;
    if is_byte(t.dtype) { Ok(t) } else { refuse(format!("operand {i} must be u8 or i8, not {}", t.dtype)) }
}

/// Whether dims may be those of a single element.
fn is_single(dims: &Dims) -> bool {
    dims.iter().all(|d| d.known().is_none_or(|n| n == 1))
}

/// Checks an operand of one element, which may be left out.
fn check_single(cx: &InferCx<'_>, i: usize, dtype: DType) -> Result<(), InferError> {
    if cx.opt(i).is_some() && cx.typed(i, dtype)?.dims.as_ref().is_some_and(|d| !is_single(d)) {
        return refuse(format!("operand {i} must have one element"));
    }
    Ok(())
}

/// Checks an operand of one element or of a vector of this size, which may be left out.
fn check_vector(cx: &InferCx<'_>, i: usize, dtype: DType, n: Option<&Dim>) -> Result<(), InferError> {
    if cx.opt(i).is_none() {
        return Ok(());
    }
    let Some(d) = &cx.typed(i, dtype)?.dims else { return Ok(()) };
    let differs = |d: &Dim| n.and_then(Dim::known).zip(d.known()).is_some_and(|(m, n)| m != n);
    if !is_single(d) && (d.len() != 1 || differs(&d[0])) {
        return refuse(format!("operand {i} must have one element, or one for each channel of the result"));
    }
    Ok(())
}

/// Declares the result of a product in f32, or as what it is quantized to by operands 7 and 8.
fn declare(cx: &mut InferCx<'_>, to: Option<DType>, result: TensorType) -> Result<(), InferError> {
    let dtype = match to {
        None if cx.opt(7).is_none() && cx.opt(8).is_none() => DType::F32,
        Some(to) if is_byte(to) && cx.opt(7).is_some() => to,
        Some(to) if !is_byte(to) => return refuse(format!("the result cannot be quantized to {to}")),
        _ => return refuse("a result is quantized when it has both a dtype and a scale"),
    };
    check_single(cx, 7, DType::F32)?;
    check_single(cx, 8, dtype)?;
    cx.output(TensorType { dtype, dims: result.dims });
    Ok(())
}

/// Checks a zero point that broadcasts to the factor at `of`; `rows`: where a vector has one for each row.
fn check_zero(cx: &InferCx<'_>, i: usize, of: usize, rows: bool) -> Result<(), InferError> {
    let x = cx.tensor(of)?;
    if cx.opt(i).is_none() {
        return Ok(());
    }
    let (Some(z), Some(x)) = (&cx.typed(i, x.dtype)?.dims, &x.dims) else { return Ok(()) };
    let same = |a: &Dim, b: &Dim| a.known().zip(b.known()).is_none_or(|(a, b)| a == b);
    let fits = if is_single(z) {
        true
    } else if rows && z.len() == 1 {
        x.len() >= 2 && same(&z[0], &x[x.len() - 2])
    } else {
        let both = broadcast(Some(z), Some(x))?.unwrap_or_default();
        both.len() == x.len() && both.iter().zip(x).all(|(a, b)| same(a, b))
    };
    if fits { Ok(()) } else { refuse(format!("zero points in operand {i} do not fit operand {of}")) }
}

impl OpDef for MatMulInteger {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(2..=4)?;
        let (a, b) = (bytes(cx, 0)?, bytes(cx, 1)?);
        let dims = match (&a.dims, &b.dims) {
            (Some(a), Some(b)) => Some(MatMul::default().dims(a, b)?),
            _ => None,
        };
        check_zero(cx, 2, 0, true)?;
        check_zero(cx, 3, 1, false)?;
        cx.output(TensorType { dtype: DType::I32, dims });
        Ok(())
    }
}

/// The dims of a convolution of operands 0 and 1, and the number of its kernels.
fn conv_dims(cx: &InferCx<'_>, op: &Conv) -> Result<(Option<Dims>, Option<Dim>), InferError> {
    let (x, w) = (bytes(cx, 0)?, bytes(cx, 1)?);
    Ok(match (&x.dims, &w.dims) {
        (Some(x), Some(w)) => {
            check_ranks(x, w)?;
            (Some(op.output_dims(x, w)?), Some(w[0].clone()))
        }
        (_, w) => (None, w.as_ref().and_then(|w| w.first().cloned())),
    })
}

impl OpDef for ConvInteger {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(2..=4)?;
        let (dims, kernels) = conv_dims(cx, &self.plain())?;
        check_single(cx, 2, cx.tensor(0)?.dtype)?;
        check_vector(cx, 3, cx.tensor(1)?.dtype, kernels.as_ref())?;
        cx.output(TensorType { dtype: DType::I32, dims });
        Ok(())
    }
}

impl OpDef for QuantizedConv {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        let (dims, kernels) = conv_dims(cx, &self.plain())?;
        let (x, w) = (cx.tensor(0)?.dtype, cx.tensor(1)?.dtype);
        cx.fact(3)?;
        cx.fact(5)?;
        check_single(cx, 3, DType::F32)?;
        check_single(cx, 4, x)?;
        check_vector(cx, 5, DType::F32, kernels.as_ref())?;
        check_vector(cx, 6, w, kernels.as_ref())?;
        let result = TensorType { dtype: DType::F32, dims };
        check_bias(cx, 2, &result, kernels.as_ref())?;
        self.epilogue.check(cx, Self::OWN, &result)?;
        declare(cx, self.to, result)
    }
}

impl QuantizedMatMul {
    /// Checks scales or zero points of w, whose dims are `[k,n]`.
    fn check_weights(
        &self,
        cx: &InferCx<'_>,
        i: usize,
        dtype: DType,
        kn: Option<[&Dim; 2]>,
    ) -> Result<(), InferError> {
        if self.block_size == 0 || cx.opt(i).is_none() {
            return check_vector(cx, i, dtype, kn.map(|[_, n]| n));
        }
        let (Some([k, n]), Some(d)) = (kn, &cx.typed(i, dtype)?.dims) else { return Ok(()) };
        if d.len() != 2 {
            return refuse(format!("operand {i} must be a matrix"));
        }
        let (blocks, columns) = if self.trans_b { (&d[1], &d[0]) } else { (&d[0], &d[1]) };
        let differs = |a: Option<usize>, b: &Dim| a.zip(b.known()).is_some_and(|(a, b)| a != b);
        let size = self.block_size;
        if differs(k.known().map(|k| k.div_ceil(size)), blocks) || differs(n.known(), columns) {
            return refuse(format!("operand {i} does not have a block for every {size} elements"));
        }
        Ok(())
    }
}

impl OpDef for QuantizedMatMul {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        let x = cx.tensor(0)?;
        let w = cx.tensor(1)?;
        let real = x.dtype == DType::F32;
        if real {
            if cx.opt(3).is_some() || cx.opt(4).is_some() {
                return refuse("an operand in f32 has no scale");
            }
            if !is_byte(w.dtype) && !matches!(w.dtype, DType::U4 | DType::I4) {
                return refuse(format!("the weights must be integers of 4 or 8 bits, not {}", w.dtype));
            }
        } else {
            bytes(cx, 0)?;
            bytes(cx, 1)?;
            cx.fact(3)?;
            check_single(cx, 3, DType::F32)?;
            check_single(cx, 4, x.dtype)?;
        }
        if w.rank().is_some_and(|r| r != 2) {
            return refuse("the weights must be a matrix");
        }
        let kn = w.dims.as_ref().map(|d| if self.trans_b { [&d[1], &d[0]] } else { [&d[0], &d[1]] });
        let dims = match (&x.dims, &w.dims) {
            (Some(x), Some(w)) => Some(MatMul { trans_b: self.trans_b, ..MatMul::default() }.dims(x, w)?),
            _ => None,
        };
        cx.fact(5)?;
        self.check_weights(cx, 5, DType::F32, kn)?;
        self.check_weights(cx, 6, w.dtype, kn)?;
        let result = TensorType { dtype: DType::F32, dims };
        check_bias(cx, 2, &result, kn.map(|[_, n]| n))?;
        self.epilogue.check(cx, Self::OWN, &result)?;
        declare(cx, self.to, result)
    }
}

impl OpDef for QuantizedBinary {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(7..=8)?;
        let (a, b) = (bytes(cx, 0)?, bytes(cx, 1)?);
        if self.kind.result_dtype(DType::F32, DType::F32) != Some(DType::F32) || !is_byte(self.to) {
            return refuse(format!("`{}` is not quantized to {}", self.kind.word(), self.to));
        }
        for i in [2, 4, 6] {
            cx.fact(i)?;
            check_single(cx, i, DType::F32)?;
        }
        for (i, dtype) in [(3, a.dtype), (5, b.dtype), (7, self.to)] {
            check_single(cx, i, dtype)?;
        }
        cx.output(TensorType { dtype: self.to, dims: broadcast(a.dims.as_ref(), b.dims.as_ref())? });
        Ok(())
    }
}

impl OpDef for ByteTable {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(2..=2)?;
        let (x, table) = (bytes(cx, 0)?, bytes(cx, 1)?);
        if table.dims.as_ref().is_some_and(|d| d.len() != 1 || d[0].known().is_some_and(|n| n != 256)) {
            return refuse("a table has 256 bytes");
        }
        cx.output(TensorType { dtype: table.dtype, dims: x.dims.clone() });
        Ok(())
    }
}
