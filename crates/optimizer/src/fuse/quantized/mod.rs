//! Integer ops for what stands between steps of quantization.
//!
//! Files say `quantize(f(dequantize(x)))`; here it becomes one op on the integers. What nothing here takes is
//! computed in f32 as the file says, with weights that [`Unpack`] expands at the end.

mod binary;
mod dynamic;
mod gather;
mod movement;
mod product;
mod store;
mod table;
mod unpack;

pub use binary::QuantizedBinaryOps;
pub use dynamic::{DynamicConv, DynamicMatMul};
pub use gather::GatherIntegers;
pub use movement::{ConcatIntegers, MoveIntegers, QuantizedTwice, SplitIntegers};
pub use product::{QuantizedConvs, QuantizedMatMuls};
pub use store::{ClampBeforeQuantize, StoreQuantized};
pub use table::TableOfBytes;
pub use unpack::Unpack;

use crate::pattern::{dims, dtype};
use tensormill_ir::{
    Graph, Node, ValueId,
    infer::axis,
    ops::{DequantizeLinear, Op, PostOp, PostOps, QuantizeLinear},
};
use tensormill_tensor::{DType, Tensor};

/// Whether numbers of a dtype are 8-bit integers.
fn is_byte(dtype: DType) -> bool {
    matches!(dtype, DType::U8 | DType::I8)
}

/// Whether a value certainly has one element.
fn is_single(g: &Graph, v: ValueId) -> bool {
    dims(g, v).is_some_and(|d| d.iter().all(|n| n.known() == Some(1)))
}

/// An f32 value that is integers times a scale.
struct Real<'a> {
    op: &'a DequantizeLinear,
    /// The integers.
    x: ValueId,
    scale: ValueId,
    zero: Option<ValueId>,
    /// The dtype of the integers.
    dtype: DType,
}

impl<'a> Real<'a> {
    /// The dequantization to f32 that computes `v`.
    fn of(g: &'a Graph, v: ValueId) -> Option<Self> {
        let (_, n) = g.producer(v)?;
        let Op::DequantizeLinear(op) = &n.op else { return None };
        let (x, scale) = (n.input(0)?, n.input(1)?);
        let own = dtype(g, x)?;
        (op.to == DType::F32 && dtype(g, scale)? == DType::F32 && own.is_int() && own.bits() <= 8)
            .then_some(Real { op, x, scale, zero: n.input(2), dtype: own })
    }

    /// As [`of`](Self::of), of 8-bit integers with one scale for all.
    fn whole(g: &'a Graph, v: ValueId) -> Option<Self> {
        Real::of(g, v).filter(|r| is_byte(r.dtype) && r.is_whole(g))
    }

    /// Whether there is one scale for all.
    fn is_whole(&self, g: &Graph) -> bool {
        self.op.block_size == 0 && is_single(g, self.scale) && self.zero.is_none_or(|z| is_single(g, z))
    }

    /// Whether it stands for the same numbers by the same integers as a quantization makes.
    fn matches(&self, g: &Graph, q: &Stored<'_>) -> bool {
        self.dtype == q.op.to && same_scale(g, self.scale, q.scale) && same_zero(g, self.zero, q.zero)
    }
}

/// A quantization of f32 to 8-bit integers with one constant scale and zero point for all.
struct Stored<'a> {
    op: &'a QuantizeLinear,
    /// The real numbers.
    x: ValueId,
    scale: ValueId,
    zero: Option<ValueId>,
}

impl<'a> Stored<'a> {
    /// The quantization that a node is.
    fn at(g: &'a Graph, node: &'a Node) -> Option<Self> {
        let Op::QuantizeLinear(op) = &node.op else { return None };
        let (x, scale, zero) = (node.input(0)?, node.input(1)?, node.input(2));
        let plain = op.block_size == 0 && op.precision.is_none_or(|p| p == DType::F32) && is_byte(op.to);
        let single = |v: ValueId| is_single(g, v) && g.constant(v).is_some();
        (plain
            && dtype(g, x)? == DType::F32
            && dtype(g, scale)? == DType::F32
            && single(scale)
            && zero.is_none_or(single))
        .then_some(Stored { op, x, scale, zero })
    }

    /// The integer that stands for a number.
    fn step(&self, g: &Graph, v: f32) -> Option<i64> {
        let (scale, zero) = (g.constant(self.scale)?.to_f32_vec().ok()?, self.zero);
        let zero = zero.map_or(Some(0), |z| g.constant(z)?.to_i64_vec().ok()?.first().copied())?;
        let (low, high) = range(self.op.to);
        let steps = (v / scale.first()?).round_ties_even();
        (!steps.is_nan()).then(|| (steps as i64).saturating_add(zero).clamp(low, high))
    }

    /// Its operands but x.
    fn parameters(&self) -> [Option<ValueId>; 2] {
        [Some(self.scale), self.zero]
    }
}

/// The least and the greatest of 8-bit integers.
fn range(dtype: DType) -> (i64, i64) {
    if dtype == DType::U8 { (0, 255) } else { (-128, 127) }
}

/// Whether both are one constant scale, and one by which a quantized number is found again.
fn same_scale(g: &Graph, a: ValueId, b: ValueId) -> bool {
    let one = |v: ValueId| g.constant(v)?.to_f32_vec().ok()?.first().copied();
    let fine = |s: f32| s.is_finite() && s > 1e-30;
    is_single(g, a)
        && is_single(g, b)
        && one(a).zip(one(b)).is_some_and(|(a, b)| a.to_bits() == b.to_bits() && fine(a))
}

/// Whether both are one constant zero point; one left out is 0.
fn same_zero(g: &Graph, a: Option<ValueId>, b: Option<ValueId>) -> bool {
    let one = |v: Option<ValueId>| match v {
        None => Some(0),
        Some(v) => g.constant(v)?.to_i64_vec().ok()?.first().copied(),
    };
    let single = |v: Option<ValueId>| v.is_none_or(|v| is_single(g, v));
    single(a) && single(b) && one(a).is_some() && one(a) == one(b)
}

/// How the scales and zero points of a constant matrix or kernel differ.
enum Scales {
    /// One for all.
    One,
    /// One for each channel of the result.
    Channel,
    /// One for each block of so many elements along the inner axis.
    Block(usize),
}

impl Scales {
    /// Those of a constant whose results' channels lie along this axis, and where the sums of a matrix run
    /// along that one; `None` where they differ otherwise or are computed.
    fn of(g: &Graph, r: &Real<'_>, channel: usize, inner: Option<usize>) -> Option<Scales> {
        let rank = dims(g, r.x)?.len();
        let scale = g.constant(r.scale)?;
        let zero = match r.zero {
            None => None,
            Some(z) => Some(g.constant(z)?),
        };
        let along = axis(r.op.axis, rank).ok();
        if r.op.block_size > 0 && scale.shape().rank() == rank {
            let fits = zero.is_none_or(|z| z.shape() == scale.shape());
            return (along.is_some() && along == inner && fits).then_some(Scales::Block(r.op.block_size));
        }
        let one = |t: &Tensor| t.len() == 1;
        if one(scale) && zero.is_none_or(one) {
            return Some(Scales::One);
        }
        (r.op.block_size == 0 && along == Some(channel)).then_some(Scales::Channel)
    }
}

/// An epilogue whose operands begin at another place.
fn moved(steps: &PostOps, from: usize, to: usize) -> PostOps {
    let step = |s: &PostOp| match *s {
        PostOp::Binary { kind, operand, swapped } => {
            PostOp::Binary { kind, operand: operand - from + to, swapped }
        }
        s @ PostOp::Unary(_) => s,
    };
    PostOps(steps.0.iter().map(step).collect())
}
