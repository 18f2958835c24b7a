//! Functions along the last axis.

use super::{LowerError, NodeCx, Order, Table};
use tensormill_ir::ops::{BinaryKind, LogSoftmax, Reduce, ReduceKind, Softmax};

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table =
    &[("SOFTMAX", 9, softmax), ("LOG_SOFTMAX", 36, log_softmax), ("L2_NORMALIZATION", 11, l2_normalization)];

fn softmax(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let beta = cx.float("beta", 0, 0.0)?;
    let mut x = cx.real(0, Order::Plain)?;
    if beta != 1.0 {
        let beta = cx.scalar_like(x, f64::from(beta))?;
        x = cx.binary(BinaryKind::Mul, x, beta)?;
    }
    let y = cx.op(Softmax { axis: -1 }, &[x])?;
    cx.set_real(0, y, Order::Plain)
}

fn log_softmax(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.real(0, Order::Plain)?;
    let y = cx.op(LogSoftmax { axis: -1 }, &[x])?;
    cx.set_real(0, y, Order::Plain)
}

/// x over its length, which counts as 1e-6 at least.
fn l2_normalization(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    // The format's own runtime takes no notice of an activation here.
    cx.ignore(0);
    let x = cx.real(0, Order::Plain)?;
    let axes = cx.ints_constant(&[-1])?;
    let length = cx.op(Reduce { kind: ReduceKind::L2, ..Reduce::default() }, &[x, axes])?;
    let least = cx.scalar_like(length, 1e-6)?;
    let length = cx.binary(BinaryKind::Max, length, least)?;
    let y = cx.binary(BinaryKind::Div, x, length)?;
    cx.set_real(0, y, Order::Plain)
}
