use crate::{
    EvalError, EvalLimits,
    data::{Wide, broadcast, broadcast_indices, take},
    error::refuse,
    eval::Operands,
};
use tensormill_ir::ops::MatMul;
use tensormill_tensor::{Shape, Tensor};

type Result<T> = std::result::Result<T, EvalError>;

/// A factor as a stack of matrices: (elements in row-major order, batch dims, rows, columns).
fn matrices(t: &Tensor, trans: bool, left: bool) -> Result<(Wide, Vec<usize>, usize, usize)> {
    let d = t.shape();
    match d.rank() {
        0 => refuse("scalars have no matrix product"),
        1 if left => Ok((Wide::of(t)?, vec![], 1, d[0])),
        1 => Ok((Wide::of(t)?, vec![], d[0], 1)),
        r => {
            let (rows, cols) = (d[r - 2], d[r - 1]);
            let batch = d[..r - 2].to_vec();
            if !trans {
                return Ok((Wide::of(t)?, batch, rows, cols));
            }
            let n: usize = batch.iter().product();
            let swapped = (0..n * rows * cols).map(|i| {
                let (b, at) = (i / (rows * cols), i % (rows * cols));
                b * rows * cols + (at % rows) * cols + at / rows
            });
            let t = take(t, [n, cols, rows], &swapped.collect::<Vec<_>>())?;
            Ok((Wide::of(&t)?, batch, cols, rows))
        }
    }
}

pub(crate) fn matmul(op: &MatMul, x: &Operands<'_>) -> Result<Tensor> {
    multiply(op, x.tensor(0)?, x.tensor(1)?, x.limits)
}

/// The product without an epilogue.
pub(crate) fn multiply(op: &MatMul, a: &Tensor, b: &Tensor, limits: &EvalLimits<'_>) -> Result<Tensor> {
    let (va, ba, m, k) = matrices(a, op.trans_a, true)?;
    let (vb, bb, kb, n) = matrices(b, op.trans_b, false)?;
    if k != kb {
        return refuse(format!("inner sizes {k} and {kb} differ"));
    }
    let batch = broadcast(&ba, &bb)?;
    let mut shape: Vec<usize> = batch.to_vec();
    shape.extend((a.shape().rank() > 1).then_some(m));
    shape.extend((b.shape().rank() > 1).then_some(n));
    let shape = Shape::from(shape);
    limits.check(&shape)?;
    let (ia, ib) = (broadcast_indices(&ba, &batch), broadcast_indices(&bb, &batch));
    let out = match (va, vb) {
        (Wide::Float(p), Wide::Float(q)) => {
            let mut out = vec![0f64; shape.numel()];
            for (i, (&oa, &ob)) in ia.iter().zip(&ib).enumerate() {
                let (p, q) = (&p[oa * m * k..][..m * k], &q[ob * k * n..][..k * n]);
                product(p, q, &mut out[i * m * n..][..m * n], k, n);
            }
            Wide::Float(out)
        }
        (Wide::Int(p), Wide::Int(q)) => {
            let mut out = vec![0i128; shape.numel()];
            for (i, (&oa, &ob)) in ia.iter().zip(&ib).enumerate() {
                for (r, row) in out[i * m * n..][..m * n].chunks_mut(n.max(1)).enumerate() {
                    for (c, y) in row.iter_mut().enumerate() {
                        *y = (0..k).fold(0, |s: i128, j| {
                            s.wrapping_add(p[oa * m * k + r * k + j].wrapping_mul(q[ob * k * n + j * n + c]))
                        });
                    }
                }
            }
            Wide::Int(out)
        }
        _ => return refuse("both factors must have one dtype"),
    };
    out.tensor(a.dtype(), shape)
}

/// `out = p * q` for row-major p `[m,k]` and q `[k,n]`; out starts as zeros.
pub(crate) fn product(p: &[f64], q: &[f64], out: &mut [f64], k: usize, n: usize) {
    if k == 0 || n == 0 {
        return;
    }
    for (row, y) in p.chunks(k).zip(out.chunks_mut(n)) {
        for (a, q) in row.iter().zip(q.chunks(n)) {
            for (y, b) in y.iter_mut().zip(q) {
                *y += a * b;
            }
        }
    }
}
