//! Attention whose scores and probabilities pass through graphs of the model's own.

use super::{LowerError, NodeCx, Table};
use tensormill_ir::{
    Dim, ValueId,
    ops::{BinaryKind, Concat, Expand, MatMul, Reshape, ShapeOf, Softmax, Transpose, Unsqueeze},
};
use tensormill_tensor::DType;

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table = &[("FlexAttention", flex_attention)];

fn flex_attention(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let (q, k, v) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let (dtype, dims) = (cx.dtype(q)?, cx.dims(q)?);
    let precise = match cx.dtype_attribute("softmax_precision")? {
        Some(d) if d.is_float() => d,
        Some(_) => return cx.bad("softmax_precision", "must be a type of floats"),
        None if dtype == DType::F64 => DType::F64,
        None => DType::F32,
    };
    let [_, heads, _, size] = &dims[..] else { return LowerError::operand("operands must have rank 4") };
    let (heads, size) = (heads.clone(), size.clone());
    let (k, v) = (shared(cx, k, &heads)?, shared(cx, v, &heads)?);
    let scale = match (cx.opt_float("scale")?, size.known()) {
        (Some(s), _) => f64::from(s),
        (None, Some(n)) => 1.0 / (n as f64).sqrt(),
        (None, None) => return LowerError::feature("a head of unknown size without a scale"),
    };
    let (q, k) = (cx.cast(q, precise)?, cx.cast(k, precise)?);
    let k = cx.op(Transpose { perm: vec![0, 1, 3, 2] }, &[k])?;
    let scores = cx.op(MatMul::default(), &[q, k])?;
    let mut scores = cx.binary_scalar(BinaryKind::Mul, scores, scale)?;
    if cx.has("score_mod") {
        scores = modified(cx, "score_mod", scores)?;
    }
    let mut probabilities = cx.op(Softmax { axis: -1 }, &[scores])?;
    if cx.has("prob_mod") {
        probabilities = modified(cx, "prob_mod", probabilities)?;
    }
    let v = cx.cast(v, precise)?;
    let y = cx.op(MatMul::default(), &[probabilities, v])?;
    let y = cx.cast(y, dtype)?;
    cx.set(0, y);
    Ok(())
}

/// Keys or values with every head repeated for the query heads that share it.
fn shared(cx: &mut NodeCx<'_, '_>, x: ValueId, heads: &Dim) -> Result<ValueId> {
    let dims = cx.dims(x)?;
    let [_, own, _, _] = &dims[..] else { return LowerError::operand("operands must have rank 4") };
    if own.same(heads) {
        return Ok(x);
    }
    let (Some(own), Some(heads)) = (own.known(), heads.known()) else {
        return LowerError::feature("an unknown number of heads");
    };
    if own == 0 || heads % own != 0 {
        return LowerError::operand(format!("{heads} query heads do not share {own} key heads evenly"));
    }
    let axes = cx.ints_constant(&[2])?;
    let apart = cx.op(Unsqueeze {}, &[x, axes])?;
    let repeats = cx.ints_constant(&[1, 1, (heads / own) as i64, 1, 1])?;
    let repeated = cx.op(Expand {}, &[apart, repeats])?;
    let front = cx.op(ShapeOf { start: 0, end: 1 }, &[x])?;
    let middle = cx.ints_constant(&[heads as i64])?;
    let back = cx.op(ShapeOf { start: 2, end: 4 }, &[x])?;
    let shape = cx.op(Concat { axis: 0 }, &[front, middle, back])?;
    cx.op(Reshape { allow_zero: true }, &[repeated, shape])
}

/// What the graph in an attribute makes of a value.
fn modified(cx: &mut NodeCx<'_, '_>, name: &str, x: ValueId) -> Result<ValueId> {
    let graph = cx.graph(name)?;
    match cx.inline(graph, name, &[x])?[..] {
        [y] => Ok(y),
        _ => cx.bad(name, "must have one result"),
    }
}
