//! Random graphs and inputs, and the comparison of two graphs by evaluation: for tests, golden files
//! and fuzz targets.

mod quantized;

pub use quantized::random_quantized;

use crate::Numerics;
use tensormill_ir::{
    Bindings, Graph, GraphBuilder, IrError, TensorType, Type, ValueId,
    ops::{
        BinaryKind, Cast, Clip, Concat, Expand, Flatten, MatMul, Op, Reduce, ReduceKind, Reshape, ShapeOf,
        Slice, Transpose, UnaryKind, Unsqueeze, Where,
    },
};
use tensormill_reference::{EvalError, EvalLimits, interpret, interpret_values};
use tensormill_tensor::{DType, Shape, Tensor, Value};

/// Numbers drawn from bytes: what a fuzzer mutates, or a seed expands to.
#[derive(Debug, Clone)]
pub struct Bytes {
    data: Vec<u8>,
    at: usize,
}

impl Bytes {
    /// Draws from these bytes, then zeros.
    pub fn new(data: Vec<u8>) -> Self {
        Bytes { data, at: 0 }
    }

    /// Draws from bytes that a seed expands to.
    pub fn seeded(seed: u64, len: usize) -> Self {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x1234_5678_9abc_def1);
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        };
        Bytes { data: (0..len).map(|_| next()).collect(), at: 0 }
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        let byte = self.data.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        usize::from(byte) % n.max(1)
    }

    /// Whether bytes are left.
    pub fn more(&self) -> bool {
        self.at < self.data.len()
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// A small number as activations and weights are, with zeros of both signs among them.
    fn float(&mut self) -> f64 {
        match self.below(24) {
            0 => 0.0,
            1 => -0.0,
            2 => 1.0,
            n => (n as f64 - 13.0) / 4.0 + (self.below(256) as f64 - 128.0) / 512.0,
        }
    }

    /// A tensor of small numbers.
    pub fn tensor(&mut self, dtype: DType, shape: &Shape) -> Tensor {
        let n = shape.numel();
        let made = if dtype == DType::Bool {
            Tensor::from_bools(shape, (0..n).map(|_| self.below(2) == 1).collect())
        } else if dtype == DType::Str {
            Tensor::from_strings(shape, (0..n).map(|_| format!("s{}", self.below(5))).collect())
        } else if dtype.is_float() {
            Tensor::from_f64s(dtype, shape, (0..n).map(|_| self.float()).collect::<Vec<_>>())
        } else if dtype.is_int() && dtype.bits() <= 8 {
            // Quantized numbers: all there are.
            let low = if dtype.is_unsigned_int() { 0 } else { 1i64 << (dtype.bits() - 1) };
            let all = 1 << dtype.bits();
            Tensor::from_i64s(dtype, shape, (0..n).map(|_| self.below(all) as i64 - low).collect::<Vec<_>>())
        } else if dtype.is_int() {
            let low = if dtype.is_unsigned_int() { 0 } else { 2 };
            Tensor::from_i64s(dtype, shape, (0..n).map(|_| self.below(4) as i64 - low).collect::<Vec<_>>())
        } else {
            Tensor::zeros(dtype, shape)
        };
        made.unwrap_or_else(|e| panic!("a tensor of its own shape: {e}"))
    }
}

/// Inputs of a graph's types, its symbols bound to sizes from 1 to 4.
pub fn random_inputs(g: &Graph, bytes: &mut Bytes) -> Vec<Value> {
    let mut bindings = Bindings::new();
    for v in g.inputs() {
        for d in g.ty(*v).as_tensor().into_iter().flat_map(|t| t.dims.iter().flatten()) {
            if let Some(e) = d.expr() {
                e.for_each_symbol(&mut |s| {
                    bindings.entry(s.clone()).or_insert_with(|| 1 + bytes.below(4) as i64);
                });
            }
        }
    }
    g.inputs()
        .iter()
        .map(|v| {
            let t: &TensorType = g.ty(*v).as_tensor().unwrap_or_else(|| panic!("an input that is no tensor"));
            let dims = t.dims.iter().flatten().map(|d| d.bind(&bindings).unwrap_or(2));
            Value::Tensor(bytes.tensor(t.dtype, &dims.collect()))
        })
        .collect()
}

/// Compares two graphs on random inputs; says where they differ. A run that fails in the first graph
/// may do anything in the second; where rounding may change, so may one that is ill-conditioned.
///
/// # Errors
/// The first difference, in words.
pub fn compare(a: &Graph, b: &Graph, inputs: &[Value], numerics: Numerics) -> Result<(), String> {
    let limits = EvalLimits { max_elements: 1 << 20, ..Default::default() };
    let x: Vec<Value> = match interpret(a, inputs, &limits) {
        Ok(x) => x,
        Err(EvalError::Cancelled) | Err(_) => return Ok(()),
    };
    if numerics != Numerics::Exact && ill_conditioned(a, inputs, &limits) {
        return Ok(());
    }
    let y = interpret(b, inputs, &limits).map_err(|e| format!("the second graph fails: {e}"))?;
    for (o, (x, y)) in a.outputs().iter().zip(x.iter().zip(&y)) {
        let (Value::Tensor(x), Value::Tensor(y)) = (x, y) else {
            if x.same_bits(y) {
                continue;
            }
            return Err(format!("output \"{}\" differs", o.name));
        };
        agree(x, y, numerics).map_err(|e| format!("output \"{}\": {e}", o.name))?;
    }
    Ok(())
}

/// Whether an op that jumps meets a number so near its jump that another rounding, or the other sign of a
/// zero, may come out on the other side of it. Quantization jumps between integers, so where this says no, the
/// integers of both graphs must be equal.
fn ill_conditioned(g: &Graph, inputs: &[Value], limits: &EvalLimits<'_>) -> bool {
    /// How far a rewrite may move a number, relative to 1.
    const NEAR: f64 = 1e-4;
    let at_zero: fn(f64) -> bool = |x| x.abs() < NEAR;
    let at_integer: fn(f64) -> bool = |x| (x - x.round()).abs() < NEAR * x.abs().max(1.0);
    let steps = g.nodes().filter_map(|(_, n)| match n.op {
        Op::QuantizeLinear(_) => Some((n.input(0)?, n.input(1)?)),
        Op::DynamicQuantize(_) => Some((n.input(0)?, n.outputs[1])),
        _ => None,
    });
    let (x, by): (Vec<_>, Vec<_>) = steps.unzip();
    let (Ok(x), Ok(by)) = (interpret_values(g, inputs, &x, limits), interpret_values(g, inputs, &by, limits))
    else {
        return false;
    };
    if x.iter().zip(&by).any(|(x, by)| near_tie(x, by)) {
        return true;
    }
    let watched: Vec<(ValueId, fn(f64) -> bool)> = g
        .nodes()
        .filter_map(|(_, n)| {
            let (operand, near) = match &n.op {
                Op::Binary(b) if b.kind == BinaryKind::Div => (1, at_zero),
                Op::Unary(u) => match u.kind {
                    UnaryKind::Ceil => (0, at_integer),
                    UnaryKind::Sign => (0, at_zero),
                    _ => return None,
                },
                // The generator compares with zero only.
                Op::Binary(b) if b.kind == BinaryKind::Less => (0, at_zero),
                _ => return None,
            };
            Some((n.input(operand)?, near))
        })
        .collect();
    let wanted: Vec<ValueId> = watched.iter().map(|w| w.0).collect();
    let Ok(values) = interpret_values(g, inputs, &wanted, limits) else { return false };
    values.iter().zip(&watched).any(|(v, (_, near))| {
        let Value::Tensor(t) = v else { return false };
        t.dtype().is_float() && t.to_f64_vec().is_ok_and(|x| x.into_iter().any(near))
    })
}

/// Whether a number is, by one scale, near the middle between two integers.
fn near_tie(x: &Value, scale: &Value) -> bool {
    /// How far a rewrite may move a number, in steps.
    const NEAR: f64 = 2e-4;
    let (Value::Tensor(x), Value::Tensor(scale)) = (x, scale) else { return false };
    let (Ok(x), Ok(scale)) = (x.to_f64_vec(), scale.to_f64_vec()) else { return false };
    let [scale] = scale[..] else { return false };
    x.iter().map(|x| (x / scale).abs()).any(|x| x < 256.0 && (x - x.floor() - 0.5).abs() < NEAR)
}

fn agree(x: &Tensor, y: &Tensor, numerics: Numerics) -> Result<(), String> {
    if x.dtype() != y.dtype() || x.shape() != y.shape() {
        return Err(format!("{}{} became {}{}", x.dtype(), x.shape(), y.dtype(), y.shape()));
    }
    if !x.dtype().is_float() {
        return if x.same_bits(y) { Ok(()) } else { Err(format!("{x:?} became {y:?}")) };
    }
    let (Ok(p), Ok(q)) = (x.to_f64_vec(), y.to_f64_vec()) else { return Err("no numbers".into()) };
    let epsilon = match x.dtype() {
        DType::F64 => 1e-9,
        DType::F32 => 1e-5,
        _ => 2e-2,
    };
    let largest = p.iter().filter(|v| v.is_finite()).fold(0f64, |m, v| m.max(v.abs()));
    for (i, (a, b)) in p.iter().zip(&q).enumerate() {
        let same = a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
        let near = match numerics {
            Numerics::Exact => false,
            // Sums that cancel keep the error of their largest terms.
            Numerics::Reassociates => a == b || (a - b).abs() <= epsilon * a.abs().max(largest).max(1.0),
            Numerics::Lossy => a == b || (a - b).abs() <= 0.1 * largest.max(1.0),
        };
        if !same && !near {
            return Err(format!("element {i}: {a:e} became {b:e}"));
        }
    }
    Ok(())
}

/// A graph of elementwise, shape, product and reduction ops over f32, and the integers between them.
///
/// # Errors
/// None that a caller could cause: what the builder refuses is left out.
pub fn random_graph(bytes: &mut Bytes, nodes: usize) -> Result<Graph, IrError> {
    let mut b = GraphBuilder::new("random");
    let symbolic = bytes.below(2) == 1;
    let n = if symbolic { tensormill_ir::Dim::symbol("N") } else { 2.into() };
    let mut floats: Vec<ValueId> = vec![];
    floats.push(b.input("x", Type::tensor(DType::F32, [n.clone(), 3.into(), 4.into()]))?);
    floats.push(b.input("y", Type::tensor(DType::F32, [n, 4.into(), 3.into()]))?);
    floats.push(b.input("z", Type::tensor(DType::F32, [3.into(), 1.into()]))?);
    for _ in 0..nodes {
        if let Some(v) = random_node(&mut b, &floats, bytes)? {
            let size = b.ty(v).as_tensor().and_then(|t| t.dims.as_ref().map(|d| d.len()));
            if size.is_some_and(|rank| rank <= 5) {
                floats.push(v);
            }
        }
    }
    let first = 1 + bytes.below(3);
    for (i, v) in floats.iter().rev().take(first).enumerate() {
        b.output(&format!("out{i}"), *v)?;
    }
    b.finish()
}

/// Adds a node or a few that belong together; `None` when the operands drawn do not fit.
fn random_node(
    b: &mut GraphBuilder,
    floats: &[ValueId],
    bytes: &mut Bytes,
) -> Result<Option<ValueId>, IrError> {
    use UnaryKind::*;
    let x = bytes.pick(floats);
    let rank = b.ty(x).as_tensor().and_then(TensorType::rank).unwrap_or(0);
    let made = match bytes.below(16) {
        0 | 1 => {
            let clamp = Clamp { min: (-1.0).into(), max: 2.0.into() };
            let kind = bytes.pick(&[Relu, Neg, Abs, Sigmoid, Tanh, Erf, Ceil, Sign, clamp, HardSwish]);
            b.unary(kind, x)
        }
        2..=4 => {
            let y = bytes.pick(floats);
            let kind = bytes.pick(&[BinaryKind::Add, BinaryKind::Sub, BinaryKind::Mul, BinaryKind::Max]);
            b.binary(kind, x, y)
        }
        5 => {
            let c = bytes.pick(&[0.0, -0.0, 1.0, 0.5, std::f64::consts::SQRT_2]);
            let c = b.scalar(DType::F32, c)?;
            let kind = bytes.pick(&[BinaryKind::Add, BinaryKind::Sub, BinaryKind::Mul, BinaryKind::Div]);
            let (p, q) = if bytes.below(3) == 0 { (c, x) } else { (x, c) };
            b.binary(kind, p, q)
        }
        6 => {
            let mut perm: Vec<usize> = (0..rank).collect();
            for i in (1..rank).rev() {
                perm.swap(i, bytes.below(i + 1));
            }
            b.op(Transpose { perm }, &[x])
        }
        7 => {
            let shape = b.ints(bytes.pick(&[&[-1][..], &[0, -1], &[-1, 4], &[0, 0, -1], &[1, -1, 3]]))?;
            b.op(Reshape::default(), &[x, shape])
        }
        8 => {
            let y = bytes.pick(floats);
            b.op(MatMul { trans_b: bytes.below(2) == 1, ..Default::default() }, &[x, y])
        }
        9 => {
            let inner = b.ty(x).as_tensor().and_then(|t| t.dims.as_ref()?.last()?.known());
            let Some(k) = inner else { return Ok(None) };
            let w = b.constant(bytes.tensor(DType::F32, &Shape::from([k, 3])))?;
            b.op(MatMul::default(), &[x, w])
        }
        10 => {
            let kind = bytes.pick(&[ReduceKind::Sum, ReduceKind::Mean, ReduceKind::Max]);
            let axes = b.ints(&[-1])?;
            b.op(Reduce { kind, keepdims: bytes.below(2) == 1, ..Default::default() }, &[x, axes])
        }
        11 => {
            let axes = b.ints(&[bytes.below(rank + 1) as i64])?;
            b.op(Unsqueeze {}, &[x, axes])
        }
        12 => {
            let y = bytes.pick(floats);
            b.op(Concat { axis: -1 }, &[x, y])
        }
        13 => {
            let ends = bytes.pick(&[i64::MAX, 2, -1]);
            let step = bytes.pick(&[1, 1, 2, -1]);
            let starts = if step < 0 { i64::MAX } else { 0 };
            let ends = if step < 0 { i64::MIN } else { ends };
            let operands = [b.ints(&[starts])?, b.ints(&[ends])?, b.ints(&[-1])?, b.ints(&[step])?];
            b.op(Slice {}, &[&[x], &operands[..]].concat())
        }
        14 => {
            // The size arithmetic that exporters write out: shape, then reshape or expansion by it.
            let y = bytes.pick(floats);
            let shape = b.op(ShapeOf::default(), &[y])?;
            if bytes.below(2) == 1 {
                b.op(Expand {}, &[x, shape])
            } else {
                b.op(Reshape::default(), &[x, shape])
            }
        }
        _ => match bytes.below(4) {
            0 => b.op(Flatten { axis: bytes.below(rank + 1) as i64 }, &[x]),
            1 => {
                let (lo, hi) = (b.scalar(DType::F32, 0.0)?, b.scalar(DType::F32, 6.0)?);
                b.op(Clip {}, &[x, lo, hi])
            }
            2 => {
                let wide = b.op(Cast { to: DType::F64, ..Default::default() }, &[x])?;
                b.op(Cast { to: DType::F32, ..Default::default() }, &[wide])
            }
            _ => {
                let (y, zero) = (bytes.pick(floats), b.scalar(DType::F32, 0.0)?);
                match b.binary(BinaryKind::Less, x, zero) {
                    Ok(c) => b.op(Where {}, &[c, x, y]),
                    Err(e) => Err(e),
                }
            }
        },
    };
    Ok(made.ok())
}
