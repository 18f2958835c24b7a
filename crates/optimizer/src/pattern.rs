//! What rules ask of graphs.

use tensormill_ir::{
    Dims, Graph, NodeId, TensorType, Type, ValueId,
    ops::{Binary, BinaryKind, Op, Unary, UnaryKind},
};
use tensormill_tensor::DType;

/// Longest constant whose elements a rule reads to see whether they are all one number.
const MAX_READ: usize = 65_536;

/// The tensor type of a value.
pub(crate) fn tensor(g: &Graph, v: ValueId) -> Option<&TensorType> {
    g.ty(v).as_tensor()
}

/// The dims of a value, when its rank is known.
pub(crate) fn dims(g: &Graph, v: ValueId) -> Option<&Dims> {
    tensor(g, v)?.dims.as_ref()
}

/// Whether both dim lists are certainly the same sizes.
pub(crate) fn same_dims(a: &Dims, b: &Dims) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same(b))
}

/// Whether `x` certainly keeps its shape when it is broadcast with `other`.
pub(crate) fn keeps_shape(g: &Graph, x: ValueId, other: ValueId) -> bool {
    dims(g, x).zip(dims(g, other)).is_some_and(|(x, o)| {
        o.len() <= x.len()
            && x.iter().rev().zip(o.iter().rev()).all(|(x, o)| o.known() == Some(1) || x.same(o))
    })
}

/// Whether both values certainly have one dtype and one shape.
pub(crate) fn same_type(g: &Graph, a: ValueId, b: ValueId) -> bool {
    match (g.ty(a), g.ty(b)) {
        (Type::Tensor(x), Type::Tensor(y)) if x.dtype == y.dtype => {
            x.dims.as_ref().zip(y.dims.as_ref()).is_some_and(|(x, y)| same_dims(x, y))
        }
        _ => false,
    }
}

/// The dtype of a tensor value.
pub(crate) fn dtype(g: &Graph, v: ValueId) -> Option<DType> {
    tensor(g, v).map(|t| t.dtype)
}

/// The number that every element of a float or integer constant is, bit for bit.
pub(crate) fn uniform(g: &Graph, v: ValueId) -> Option<f64> {
    let t = g.constant(v)?;
    if t.is_empty() || t.len() > MAX_READ || !(t.dtype().is_float() || t.dtype().is_int()) {
        return None;
    }
    let all = t.to_f64_vec().ok()?;
    let first = *all.first()?;
    all.iter().all(|x| x.to_bits() == first.to_bits()).then_some(first)
}

/// The number of a constant of one element.
pub(crate) fn scalar(g: &Graph, v: ValueId) -> Option<f64> {
    (g.constant(v)?.len() == 1).then(|| uniform(g, v)).flatten()
}

/// The operands of the binary node of this kind that computes a value.
pub(crate) fn binary(g: &Graph, v: ValueId, kind: BinaryKind) -> Option<(ValueId, ValueId)> {
    let (_, n) = g.producer(v)?;
    match n.op {
        Op::Binary(Binary { kind: k }) if k == kind => Some((n.input(0)?, n.input(1)?)),
        _ => None,
    }
}

/// The kind and operand of the unary node that computes a value.
pub(crate) fn unary(g: &Graph, v: ValueId) -> Option<(UnaryKind, ValueId)> {
    let (_, n) = g.producer(v)?;
    match n.op {
        Op::Unary(Unary { kind }) => Some((kind, n.input(0)?)),
        _ => None,
    }
}

/// The kind and operands of a binary node.
pub(crate) fn binary_at(g: &Graph, at: NodeId) -> Option<(BinaryKind, ValueId, ValueId)> {
    let n = g.node(at);
    match n.op {
        Op::Binary(Binary { kind }) => Some((kind, n.input(0)?, n.input(1)?)),
        _ => None,
    }
}

/// The operands of a node when all are given.
pub(crate) fn all_inputs(g: &Graph, at: NodeId) -> Option<Vec<ValueId>> {
    g.node(at).inputs.iter().copied().collect()
}

/// Bytes of a constant as large as this type says, when every size is a number.
pub(crate) fn byte_len(t: &TensorType) -> Option<usize> {
    t.dtype.bytes_for(t.static_shape()?.checked_numel()?)
}

/// `Some` kept, `None` turned into no match.
macro_rules! find {
    ($e:expr) => {
        match $e {
            Some(v) => v,
            None => return $crate::Outcome::NoMatch,
        }
    };
}
pub(crate) use find;
