//! Tensors as values of the graph, in either order of their axes.

use super::{LowerError, graph::Lowerer};
use crate::tflite::{
    model::{Quantization, TensorInfo},
    tensor::{constant, dtype, dtype_of},
};
use tensormill_ir::{
    Dim, ValueId,
    ops::{DequantizeLinear, Op, QuantizeLinear, Transpose, Unsqueeze},
};
use tensormill_tensor::{DType, Tensor};

type Result<T> = std::result::Result<T, LowerError>;

/// In which order a value of four axes has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// As the file has them: channels last.
    Plain,
    /// Channels after the batch, as the IR's convolutions and pools want them.
    First,
}

/// From the file's order to channels first.
pub(super) const TO_FIRST: [usize; 4] = [0, 3, 1, 2];
/// And back.
const TO_PLAIN: [usize; 4] = [0, 2, 3, 1];

impl Order {
    /// Where an axis of the file's is in a value of four axes in this order.
    pub(super) fn axis(self, axis: usize) -> usize {
        if self == Order::First { TO_PLAIN.get(axis).copied().unwrap_or(axis) } else { axis }
    }
}

/// The values that hold a tensor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    plain: Option<ValueId>,
    first: Option<ValueId>,
    /// The order that it was computed in.
    home: Order,
}

impl Held {
    pub(super) fn new(v: ValueId, order: Order) -> Held {
        match order {
            Order::Plain => Held { plain: Some(v), first: None, home: order },
            Order::First => Held { plain: None, first: Some(v), home: order },
        }
    }
}

impl Lowerer<'_> {
    pub(super) fn op(&mut self, op: impl Into<Op>, inputs: &[ValueId]) -> Result<ValueId> {
        Ok(self.builder.op(op, inputs)?)
    }

    /// The dims of a value.
    pub(super) fn dims(&self, v: ValueId) -> Result<Vec<Dim>> {
        match self.builder.ty(v).as_tensor().and_then(|t| t.dims.as_ref()) {
            Some(d) => Ok(d.to_vec()),
            None => LowerError::feature("an operand of unknown rank"),
        }
    }

    /// What a tensor is called in errors.
    pub(super) fn place(&self, t: usize) -> String {
        format!("tensor {t} {}", crate::text::quoted(&self.graph.tensors[t].name))
    }

    /// A tensor as it was first computed, or as the file has it.
    fn held(&mut self, t: usize) -> Result<Held> {
        if let Some(h) = self.held[t] {
            return Ok(h);
        }
        let (info, place) = (&self.graph.tensors[t], self.place(t));
        let data = match constant(self.model, info, &place)? {
            Some(data) => data,
            None if info.variable => {
                return LowerError::feature(format!("{place} keeps its numbers between runs, which"));
            }
            // A tensor of no elements has no bytes to tell it from one that is computed.
            None if info.shape.contains(&0) && info.buffer != 0 => {
                Tensor::zeros(dtype(info, &place)?, info.shape.as_slice())
                    .map_err(|e| LowerError::Operand(e.to_string()))?
            }
            None => return LowerError::operand(format!("{place} is read before anything computes it")),
        };
        let held = Held::new(self.builder.constant(data)?, Order::Plain);
        self.held[t] = Some(held);
        Ok(held)
    }

    /// The integers of a tensor that the file holds: sizes, axes and places are few.
    pub(super) fn constant_ints(&self, t: usize) -> Result<Option<Vec<i64>>> {
        const MOST: usize = 4096;
        if self.held[t]
            .is_some_and(|h| self.builder.graph().constant(h.plain.or(h.first).expect("held")).is_none())
        {
            return Ok(None);
        }
        let data = constant(self.model, &self.graph.tensors[t], &self.place(t))?;
        let Some(data) = data.filter(|d| d.dtype().is_int() && d.len() <= MOST) else { return Ok(None) };
        data.to_i64_vec().map(Some).map_err(|e| LowerError::Operand(e.to_string()))
    }

    /// The order that a tensor was computed in.
    pub(super) fn home(&self, t: usize) -> Order {
        self.held[t].map_or(Order::Plain, |h| h.home)
    }

    /// The value that holds a tensor in this order; only tensors of four axes have another than the file's.
    pub(super) fn value(&mut self, t: usize, order: Order) -> Result<ValueId> {
        let held = self.held(t)?;
        let (have, other, perm) = match order {
            Order::Plain => (held.plain, held.first, TO_PLAIN),
            Order::First => (held.first, held.plain, TO_FIRST),
        };
        let v = match (have, other) {
            (Some(v), _) => return Ok(v),
            (None, Some(from)) => {
                if self.dims(from)?.len() != 4 {
                    let what =
                        format!("{} must have four axes: batch, height, width, channels", self.place(t));
                    return LowerError::operand(what);
                }
                self.op(Transpose { perm: perm.to_vec() }, &[from])?
            }
            (None, None) => unreachable!("a tensor is held in one order at least"),
        };
        let place = match order {
            Order::Plain => &mut self.held[t].as_mut().expect("held").plain,
            Order::First => &mut self.held[t].as_mut().expect("held").first,
        };
        *place = Some(v);
        Ok(v)
    }

    /// What a tensor's integers stand for, where they are no numbers of their own.
    pub(super) fn quantization(&self, t: usize) -> Option<&Quantization> {
        let info: &TensorInfo = &self.graph.tensors[t];
        // Only small integers; those of 32 bits are biases, which go by other scales, or indices.
        let small = dtype_of(info.dtype).is_some_and(|d| d.is_int() && d.bits() <= 16);
        info.quantization.as_ref().filter(|_| small)
    }

    /// Constants of a quantization of this element type.
    fn parameters(&mut self, q: &Quantization, dtype: DType) -> Result<[ValueId; 2]> {
        let dims: &[usize] = if q.scale.len() == 1 { &[] } else { &[q.scale.len()] };
        let wrong = |e: tensormill_tensor::TensorError| LowerError::Operand(format!("zero points: {e}"));
        let (low, high) = range(dtype);
        if let Some(z) = q.zero.iter().find(|z| !(low..=high).contains(*z)) {
            return LowerError::operand(format!("a zero point of {z} is none of {dtype}"));
        }
        let scale = Tensor::from_vec(dims, q.scale.clone()).map_err(wrong)?;
        let zero = Tensor::from_i64s(dtype, dims, q.zero.iter().copied()).map_err(wrong)?;
        Ok([self.builder.constant(scale)?, self.builder.constant(zero)?])
    }

    /// The real numbers that stored ones of a tensor stand for; `axis` is where the scales' axis is in `v`.
    pub(super) fn dequantize(
        &mut self,
        t: usize,
        v: ValueId,
        axis: impl Fn(usize) -> usize,
    ) -> Result<ValueId> {
        let Some(q) = self.quantization(t).cloned() else { return Ok(v) };
        let Some(dtype) = self.builder.ty(v).as_tensor().map(|t| t.dtype) else { return Ok(v) };
        let [scale, zero] = self.parameters(&q, dtype)?;
        let op = DequantizeLinear { to: DType::F32, axis: axis(q.axis) as i64, block_size: 0 };
        self.op(op, &[v, scale, zero])
    }

    /// Real numbers as those that a tensor stores.
    pub(super) fn quantize(&mut self, t: usize, v: ValueId, order: Order) -> Result<ValueId> {
        let Some(q) = self.quantization(t).cloned() else { return Ok(v) };
        let to = dtype(&self.graph.tensors[t], &self.place(t))?;
        let [scale, zero] = self.parameters(&q, to)?;
        let op = QuantizeLinear { to, axis: order.axis(q.axis) as i64, ..QuantizeLinear::default() };
        self.op(op, &[v, scale, zero])
    }

    /// A tensor as it broadcasts to one of four axes in this order, or `None` where it cannot say.
    pub(super) fn broadcast(&mut self, t: usize, order: Order) -> Result<Option<ValueId>> {
        if order == Order::Plain {
            return self.value(t, order).map(Some);
        }
        let plain = self.held(t)?;
        let rank = self.dims(plain.plain.or(plain.first).expect("held"))?.len();
        Ok(match rank {
            4 => Some(self.value(t, order)?),
            0 => Some(self.value(t, Order::Plain)?),
            1 => {
                let v = self.value(t, Order::Plain)?;
                if self.dims(v)?[0].known() == Some(1) {
                    return Ok(Some(v));
                }
                let axes = self.builder.ints(&[1, 2])?;
                Some(self.op(Unsqueeze {}, &[v, axes])?)
            }
            _ => None,
        })
    }
}

/// The least and the greatest of an integer type of up to 16 bits.
fn range(dtype: DType) -> (i64, i64) {
    let bits = dtype.bits() as u32;
    if dtype.is_unsigned_int() { (0, (1 << bits) - 1) } else { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) }
}
