//! Random networks with steps of quantization, as quantizers of files write them.

use super::Bytes;
use tensormill_ir::{
    GraphBuilder, IrError, Type, ValueId,
    ops::{
        BinaryKind, Cast, Concat, Conv, DequantizeLinear, DynamicQuantize, MatMul, MatMulInteger, MaxPool,
        QuantizeLinear, Reshape, Transpose, UnaryKind,
    },
};
use tensormill_tensor::{DType, Shape, Tensor};

/// A scale and zero point for all elements.
#[derive(Clone, Copy)]
struct Parameters {
    scale: ValueId,
    zero: Option<ValueId>,
    dtype: DType,
}

struct Network<'a> {
    b: GraphBuilder,
    bytes: &'a mut Bytes,
    parameters: Vec<Parameters>,
    /// Values in f32, of four axes.
    values: Vec<ValueId>,
}

/// A network of convolutions, products, sums and moves between steps of quantization.
///
/// # Errors
/// None that a caller could cause: what the builder refuses is left out.
pub fn random_quantized(bytes: &mut Bytes, nodes: usize) -> Result<tensormill_ir::Graph, IrError> {
    let mut n = Network { b: GraphBuilder::new("quantized"), bytes, parameters: vec![], values: vec![] };
    let ty = || Type::tensor(DType::F32, [1.into(), 4.into(), 4.into(), 4.into()]);
    let inputs = [n.b.input("x", ty())?, n.b.input("y", ty())?];
    for dtype in [DType::U8, DType::U8, DType::I8] {
        let scale = n.scales(&[], 40.0)?;
        let zero = if n.bytes.below(3) == 0 { None } else { Some(n.integers(dtype, &[])?) };
        n.parameters.push(Parameters { scale, zero, dtype });
    }
    for x in inputs {
        let p = n.draw();
        let x = n.through(x, p)?;
        n.values.push(x);
    }
    for _ in 0..nodes {
        if let Ok(v) = n.step() {
            n.values.push(v);
        }
    }
    let outputs = 1 + n.bytes.below(2);
    for (i, v) in n.values.iter().rev().take(outputs).enumerate() {
        n.b.output(&format!("out{i}"), *v)?;
    }
    n.b.finish()
}

impl Network<'_> {
    fn draw(&mut self) -> Parameters {
        self.bytes.pick(&self.parameters)
    }

    fn integers(&mut self, dtype: DType, shape: &[usize]) -> Result<ValueId, IrError> {
        let t = self.bytes.tensor(dtype, &Shape::from(shape));
        self.b.constant(t)
    }

    /// Scales around `1 / one`, of which no number is a nice multiple.
    fn scales(&mut self, shape: &[usize], one: f32) -> Result<ValueId, IrError> {
        let n = shape.iter().product();
        let v: Vec<f32> = (0..n).map(|_| (0.3711 + self.bytes.below(251) as f32 / 241.0) / one).collect();
        let t = Tensor::from_vec(shape, v).unwrap_or_else(|e| panic!("a tensor of its own shape: {e}"));
        self.b.constant(t)
    }

    fn quantize(&mut self, x: ValueId, p: Parameters) -> Result<ValueId, IrError> {
        let op = QuantizeLinear { to: p.dtype, ..QuantizeLinear::default() };
        let inputs = [Some(x), Some(p.scale), p.zero];
        Ok(self.b.node(op, &inputs[..if p.zero.is_some() { 3 } else { 2 }])?[0])
    }

    fn dequantize(
        &mut self,
        x: ValueId,
        scale: ValueId,
        zero: Option<ValueId>,
        axis: i64,
        block_size: usize,
    ) -> Result<ValueId, IrError> {
        let op = DequantizeLinear { to: DType::F32, axis, block_size };
        let inputs = [Some(x), Some(scale), zero];
        Ok(self.b.node(op, &inputs[..if zero.is_some() { 3 } else { 2 }])?[0])
    }

    fn through(&mut self, x: ValueId, p: Parameters) -> Result<ValueId, IrError> {
        let q = self.quantize(x, p)?;
        self.dequantize(q, p.scale, p.zero, 1, 0)
    }

    /// Mostly through integers, sometimes as it is.
    fn stored(&mut self, x: ValueId) -> Result<ValueId, IrError> {
        let p = self.draw();
        match self.bytes.below(8) {
            0 => Ok(x),
            1 => {
                let x = self.through(x, p)?;
                self.through(x, p)
            }
            _ => self.through(x, p),
        }
    }

    fn activated(&mut self, x: ValueId) -> Result<ValueId, IrError> {
        let clamp = UnaryKind::Clamp { min: 0.0.into(), max: 6.0.into() };
        match self.bytes.below(5) {
            0 => Ok(x),
            1 => self.b.unary(clamp, x),
            2 => self.b.unary(UnaryKind::Tanh, x),
            _ => self.b.unary(UnaryKind::Relu, x),
        }
    }

    fn size(&self, x: ValueId, axis: usize) -> usize {
        let dims = self.b.ty(x).as_tensor().and_then(|t| t.dims.as_ref());
        dims.and_then(|d| d.get(axis)?.known()).unwrap_or(1)
    }

    /// Constant weights behind a dequantization, with one scale or one along an axis.
    fn weights(&mut self, shape: &[usize], axis: usize) -> Result<ValueId, IrError> {
        let dtype = self.bytes.pick(&[DType::I8, DType::U8]);
        let w = self.integers(dtype, shape)?;
        let per = if self.bytes.below(3) == 0 { vec![] } else { vec![shape[axis]] };
        let scale = self.scales(&per, 400.0)?;
        let zero = if self.bytes.below(2) == 0 { None } else { Some(self.integers(dtype, &per)?) };
        self.dequantize(w, scale, zero, axis as i64, 0)
    }

    fn step(&mut self) -> Result<ValueId, IrError> {
        let x = self.bytes.pick(&self.values);
        match self.bytes.below(13) {
            0..=3 => self.conv(x),
            4 | 5 => {
                let other = self.bytes.pick(&self.values);
                let kind =
                    self.bytes.pick(&[BinaryKind::Add, BinaryKind::Add, BinaryKind::Mul, BinaryKind::Sub]);
                let y = self.b.binary(kind, x, other)?;
                let y = self.activated(y)?;
                self.stored(y)
            }
            6 => {
                let y = self
                    .b
                    .op(MaxPool { kernel: vec![2, 2], pads: vec![0, 1, 0, 1], ..Default::default() }, &[x])?;
                self.stored(y)
            }
            7 => {
                let shape = self.b.ints(&[0, 0, -1, 1])?;
                let y = self.b.op(Reshape::default(), &[x, shape])?;
                let y = self.b.op(Transpose { perm: vec![0, 3, 2, 1] }, &[y])?;
                self.stored(y)
            }
            8 => {
                let other = self.bytes.pick(&self.values);
                let y = self.b.op(Concat { axis: 1 }, &[x, other])?;
                self.stored(y)
            }
            9 => self.dynamic(x),
            10 => {
                let kind = self.bytes.pick(&[UnaryKind::Sigmoid, UnaryKind::HardSwish, UnaryKind::Tanh]);
                let y = self.b.unary(kind, x)?;
                let factor = self.b.scalar(DType::F32, 1.75)?;
                let y =
                    self.b.binary(BinaryKind::Mul, y, if self.bytes.below(2) == 0 { x } else { factor })?;
                self.stored(y)
            }
            _ => self.matmul(x),
        }
    }

    fn conv(&mut self, x: ValueId) -> Result<ValueId, IrError> {
        let (channels, m) = (self.size(x, 1), 2 * (1 + self.bytes.below(2)));
        let group = if channels.is_multiple_of(2) { 1 + self.bytes.below(2) } else { 1 };
        let kernel = 1 + 2 * self.bytes.below(2);
        let w = self.weights(&[m, channels / group, kernel, kernel], 0)?;
        let mut operands = vec![x, w];
        if self.bytes.below(2) == 0 {
            let b = self.bytes.tensor(DType::F32, &Shape::from([m]));
            operands.push(self.b.constant(b)?);
        }
        let op = Conv { group, pads: vec![kernel / 2; 4], ..Conv::default() };
        let y = self.b.op(op, &operands)?;
        let y = self.activated(y)?;
        self.stored(y)
    }

    fn matmul(&mut self, x: ValueId) -> Result<ValueId, IrError> {
        let (k, n) = (self.size(x, 3), 3);
        let trans_b = self.bytes.below(2) == 0;
        let shape = if trans_b { [n, k] } else { [k, n] };
        let w = if self.bytes.below(3) == 0 {
            let dtype = self.bytes.pick(&[DType::I8, DType::U8, DType::I4, DType::U4]);
            let w = self.integers(dtype, &shape)?;
            let blocks = k.div_ceil(2);
            let per = if trans_b { [n, blocks] } else { [blocks, n] };
            let (scale, zero) = (self.scales(&per, 100.0)?, self.integers(dtype, &per)?);
            self.dequantize(w, scale, Some(zero), i64::from(trans_b), 2)?
        } else {
            self.weights(&shape, usize::from(!trans_b))?
        };
        let mut y = self.b.op(MatMul { trans_b, ..MatMul::default() }, &[x, w])?;
        if self.bytes.below(2) == 0 {
            let b = self.bytes.tensor(DType::F32, &Shape::from([n]));
            let b = self.b.constant(b)?;
            y = self.b.binary(BinaryKind::Add, b, y)?;
        }
        let y = self.activated(y)?;
        self.stored(y)
    }

    fn dynamic(&mut self, x: ValueId) -> Result<ValueId, IrError> {
        let (k, n) = (self.size(x, 3), 3);
        let r = self.b.node(DynamicQuantize {}, &[Some(x)])?.to_vec();
        let dtype = self.bytes.pick(&[DType::I8, DType::U8]);
        let w = self.integers(dtype, &[k, n])?;
        let per = if self.bytes.below(2) == 0 { vec![] } else { vec![n] };
        let (scale, zero) = (self.scales(&per, 400.0)?, self.integers(dtype, &per)?);
        let y = self.b.node(MatMulInteger {}, &[r[0], w, r[2], zero].map(Some))?[0];
        let y = self.b.op(Cast { to: DType::F32, ..Default::default() }, &[y])?;
        let scale = self.b.binary(BinaryKind::Mul, r[1], scale)?;
        let y = self.b.binary(BinaryKind::Mul, y, scale)?;
        self.activated(y)
    }
}
