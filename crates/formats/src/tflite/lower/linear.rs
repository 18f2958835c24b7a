//! Matrix products.

use super::{LowerError, NodeCx, Order, Table, conv::bias};
use tensormill_ir::{
    Dim,
    ops::{BinaryKind, MatMul, Reshape},
};

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table =
    &[("FULLY_CONNECTED", 8, fully_connected), ("BATCH_MATMUL", 101, batch_matmul)];

fn fully_connected(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    if cx.byte("weights_format", 1, 0)? != 0 {
        return LowerError::feature("weights in shuffled order");
    }
    let keep = cx.flag("keep_num_dims", 2)?;
    // How inputs would be quantized where only weights are, and in which type sums are kept.
    [3, 4].into_iter().for_each(|f| cx.ignore(f));
    let (mut x, w) = (cx.input(0)?, cx.real(1, Order::Plain)?);
    let dims = cx.dims(w)?;
    let [_, Dim::Known(inner)] = dims[..] else {
        return LowerError::operand("weights must be a matrix of known size");
    };
    if !keep && cx.rank(x)? != 2 {
        let shape = cx.ints_constant(&[-1, inner as i64])?;
        x = cx.op(Reshape { allow_zero: true }, &[x, shape])?;
    }
    let t = cx.tensor(0)?;
    let x = cx.l.dequantize(t, x, |a| a)?;
    let mut y = cx.op(MatMul { trans_b: true, ..MatMul::default() }, &[x, w])?;
    if let Some(b) = bias(cx, 2, 0, 1)? {
        y = cx.binary(BinaryKind::Add, y, b)?;
    }
    let y = cx.fused(y, 0)?;
    cx.set_real(0, y, Order::Plain)
}

fn batch_matmul(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let op = MatMul { trans_a: cx.flag("adj_x", 0)?, trans_b: cx.flag("adj_y", 1)?, ..MatMul::default() };
    cx.ignore(2);
    let (a, b) = (cx.real(0, Order::Plain)?, cx.real(1, Order::Plain)?);
    let y = cx.op(op, &[a, b])?;
    cx.set_real(0, y, Order::Plain)
}
