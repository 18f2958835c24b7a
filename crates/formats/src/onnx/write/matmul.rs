//! Products of matrices.

use super::{
    conv::narrow,
    elementwise::{before_epilogue, epilogue},
    error::{Result, refuse},
    node::NodeCx,
    pattern::Narrow,
};
use tensormill_ir::{
    Node, Op, ValueId,
    ops::{BinaryKind, MatMul, PostOp, PostOps},
};

/// The first step of an epilogue, when it adds a vector to every row, and the other steps.
fn added_row(cx: &NodeCx<'_, '_, '_>, steps: &PostOps) -> Option<(ValueId, PostOps)> {
    match steps.0.first()? {
        PostOp::Binary { kind: BinaryKind::Add, operand, .. } => {
            let row = cx.node.input(*operand)?;
            (cx.tensor(row)?.rank() == Some(1)).then(|| (row, PostOps(steps.0[1..].to_vec())))
        }
        _ => None,
    }
}

pub(super) fn matmul(cx: &mut NodeCx<'_, '_, '_>, op: &MatMul) -> Result<()> {
    let matrices = cx.rank_of(0) == Some(2) && cx.rank_of(1) == Some(2) && cx.dtype_of(0)?.is_float();
    if matrices && let Some((row, rest)) = added_row(cx, &op.epilogue) {
        let inputs = vec![cx.input(0), cx.input(1), cx.name(row)];
        let y = before_epilogue(cx, &rest);
        cx.add("Gemm", inputs, vec![y.clone()]).flag("transA", op.trans_a).flag("transB", op.trans_b);
        return epilogue(cx, &rest, y);
    }
    if matrices && (op.trans_a || op.trans_b) {
        let inputs = vec![cx.input(0), cx.input(1)];
        let y = before_epilogue(cx, &op.epilogue);
        cx.add("Gemm", inputs, vec![y.clone()]).flag("transA", op.trans_a).flag("transB", op.trans_b);
        return epilogue(cx, &op.epilogue, y);
    }
    let mut inputs = vec![];
    for (i, turned) in [op.trans_a, op.trans_b].into_iter().enumerate() {
        let mut x = cx.input(i);
        if turned {
            let Some(rank) = cx.rank_of(i) else { return refuse("a factor of unknown rank is transposed") };
            let mut perm: Vec<i64> = (0..rank as i64).collect();
            perm.swap(rank - 2, rank - 1);
            let y = cx.temporary();
            cx.add("Transpose", vec![x], vec![y.clone()]).ints("perm", &perm);
            x = y;
        }
        inputs.push(x);
    }
    let y = before_epilogue(cx, &op.epilogue);
    cx.add("MatMul", inputs, vec![y.clone()]);
    epilogue(cx, &op.epilogue, y)
}

/// A product and the sum after it, which is the node at hand.
pub(super) fn gemm(cx: &mut NodeCx<'_, '_, '_>, product: &Node, c: ValueId) -> Result<()> {
    let Op::MatMul(op) = &product.op else { return refuse("is no product") };
    let (Some(a), Some(b)) = (product.input(0), product.input(1)) else { return refuse("has no factors") };
    let (inputs, y) = (vec![cx.name(a), cx.name(b), cx.name(c)], cx.output(0));
    cx.add("Gemm", inputs, vec![y]).flag("transA", op.trans_a).flag("transB", op.trans_b);
    Ok(())
}

pub(super) fn matmul_integer(cx: &mut NodeCx<'_, '_, '_>, factors: &[Narrow; 2]) -> Result<()> {
    let (inputs, y) = (narrow(cx, factors), cx.output(0));
    cx.add("MatMulInteger", inputs, vec![y]);
    Ok(())
}
