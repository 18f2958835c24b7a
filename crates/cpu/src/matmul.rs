//! Matrix products: one large product where the batch axes collapse into rows, else one per item.

use crate::epilogue::{Layout, Steps};
use crate::native::{Built, Known, Native, Prep, Sizes};
use crate::tune::least;
use std::sync::Arc;
use tensormill_ir::ops::MatMul;
use tensormill_kernels::channels_last::linear::{LinearWeights, Method, linear};
use tensormill_kernels::copy::row_major;
use tensormill_kernels::epilogue::Epilogue;
use tensormill_kernels::matmul::sparse::{SparseWeights, Sparsity, sparse_row};
use tensormill_kernels::matmul::{
    BatchItem, BatchShape, MatRef, PackedB, matmul as product, matmul_batch, matmul_packed,
};
use tensormill_tensor::{DType, Element, Tensor};

/// Larger right operands are never packed: the copy would cost more memory than it saves time.
pub(crate) const LARGEST_PACKED: usize = 1 << 30;

/// An operand as a stack of matrices: batch sizes, then rows and columns, each with its stride.
struct Matrices {
    batch: Sizes,
    batch_strides: Sizes,
    rows: (usize, usize),
    columns: (usize, usize),
}

impl Matrices {
    fn of(k: &Known<'_>, trans: bool, left: bool) -> Option<Matrices> {
        let dense = row_major(k.shape);
        let strides = k.strides.unwrap_or(&dense);
        let rank = k.shape.len();
        let axis = |a: usize| (k.shape[a], strides[a]);
        let (mut rows, mut columns) = match rank {
            0 => return None,
            1 if left => ((1, 0), axis(0)),
            1 => (axis(0), (1, 1)),
            _ => (axis(rank - 2), axis(rank - 1)),
        };
        if trans {
            std::mem::swap(&mut rows, &mut columns);
        }
        let lead = rank.saturating_sub(2);
        Some(Matrices { batch: k.shape[..lead].into(), batch_strides: strides[..lead].into(), rows, columns })
    }

    /// The step from row to row when the batch axes simply go on where the rows end.
    fn merged_stride(&self) -> Option<usize> {
        let (mut stride, mut count) = (self.rows.1, self.rows.0);
        for (&d, &s) in self.batch.iter().zip(&self.batch_strides).rev() {
            if d == 1 {
                continue;
            }
            if count == 1 {
                stride = s;
            } else if s != stride * count {
                return None;
            }
            count *= d;
        }
        Some(stride)
    }

    /// Where each item of a broadcast batch begins.
    fn offsets(&self, batch: &[usize]) -> Vec<usize> {
        let lead = batch.len() - self.batch.len();
        let step = |a: usize| {
            if a < lead || self.batch[a - lead] == 1 { 0 } else { self.batch_strides[a - lead] }
        };
        (0..batch.iter().product())
            .map(|i: usize| {
                let (mut rest, mut at) = (i, 0);
                for a in (0..batch.len()).rev() {
                    at += rest % batch[a] * step(a);
                    rest /= batch[a];
                }
                at
            })
            .collect()
    }
}

pub(crate) fn matmul(p: &Prep<'_>, op: &MatMul) -> Built {
    if p.get(0)?.dtype != DType::F32 {
        return small_integers(p, op);
    }
    let (ka, kb) = (p.get(0)?, p.get(1)?);
    let a = Matrices::of(&ka, op.trans_a, true).ok_or("scalars have no product")?;
    let b = Matrices::of(&kb, op.trans_b, false).ok_or("scalars have no product")?;
    let (m, k, n) = (a.rows.0, a.columns.0, b.columns.0);
    if b.rows.0 != k {
        return Err("inner sizes differ".into());
    }
    let out = p.out();
    let lead = out.rank() - usize::from(ka.shape.len() > 1) - usize::from(kb.shape.len() > 1);
    let batch: Sizes = out[..lead].into();
    let flops = (out.numel() as u64).saturating_mul(2).saturating_mul(k as u64);
    let single = b.batch.iter().all(|&d| d == 1);
    let merged = if single { a.merged_stride() } else { None };
    let matrix = ka.shape.len() > 1 && kb.shape.len() > 1;
    let layout = Layout {
        rows: out.rank().saturating_sub(2),
        columns: out.rank().saturating_sub(1)..out.rank(),
        merged: merged.is_some(),
    };
    let steps = Steps::plan(p, &op.epilogue, matrix.then_some(&layout))?;
    let mut native = if !p.beside.is_empty() {
        let rows = m * batch.iter().product::<usize>();
        beside(p, steps, (rows, k, n), merged.ok_or("rows that lie apart")?, op.trans_b)?
    } else if let Some(row_stride) = merged {
        let rows = m * batch.iter().product::<usize>();
        large(p, &kb, steps, (rows, k, n), (row_stride, a.columns.1), (b.rows.1, b.columns.1))?
    } else {
        let shape = BatchShape {
            m,
            n,
            k,
            a_strides: (a.rows.1, a.columns.1),
            b_strides: (b.rows.1, b.columns.1),
            out_stride: n,
        };
        let items: Vec<BatchItem> = a
            .offsets(&batch)
            .into_iter()
            .zip(b.offsets(&batch))
            .enumerate()
            .map(|(i, (a, b))| BatchItem { a, b, out: i * m * n })
            .collect();
        let empty = m == 0 || n == 0;
        let mut native = Native::new("matmul-batch", move |c| {
            steps.run(c, |out, epilogue, c| {
                let (x, y) = (c.get::<f32>(0)?, c.get::<f32>(1)?);
                if !empty {
                    matmul_batch(c.pool, &shape, x, y, &items, out, epilogue)?;
                }
                Ok(())
            })
        })?;
        native.reason = format!("{m}x{k}x{n}, a product per batch item");
        native
    };
    native.flops = flops;
    Ok(native)
}

fn large(
    p: &Prep<'_>,
    kb: &Known<'_>,
    steps: Steps,
    (m, k, n): (usize, usize, usize),
    a: (usize, usize),
    b: (usize, usize),
) -> Built {
    if let Some((t, data)) = kb.weights()
        && t.byte_len() <= LARGEST_PACKED
    {
        if a.1 == 1 || k == 1 {
            let matrix = MatRef::new(data, k, n, b.0, b.1).map_err(|e| e.to_string())?;
            if m == 1
                && let Some(sparse) = sparse(p, t, &matrix)?
            {
                let mut native = Native::new("linear-sparse", move |c| {
                    steps.run(c, |out, epilogue, c| {
                        let x = c.get::<f32>(0)?;
                        Ok(sparse_row(c.pool, x.get(..k).unwrap_or(x), &sparse, out, epilogue)?)
                    })
                })?;
                native.reason = format!("{m}x{k}x{n}, constant right operand with many zeros");
                native.packed = Some(1);
                return Ok(native);
            }
            return packed(p, steps, (m, k, n), a.0, &[t], &[matrix], [b.0, b.1]);
        }
        let packed = p.weights.get(p.node, "matmul-b", 0, &[t], || {
            let data = t.to_slice::<f32>().map_err(|e| e.to_string())?;
            let matrix = MatRef::new(&data, k, n, b.0, b.1).map_err(|e| e.to_string())?;
            let packed = PackedB::pack_on(p.pool, matrix).map_err(|e| e.to_string())?;
            let bytes = packed.bytes();
            Ok::<_, String>((packed, bytes))
        })?;
        let mut native = Native::new("matmul-packed", move |c| {
            steps.run(c, |out, epilogue, c| {
                let x = MatRef::new(c.get::<f32>(0)?, m, k, a.0, a.1)?;
                Ok(matmul_packed(c.pool, x, &packed, out, epilogue)?)
            })
        })?;
        native.reason = format!("{m}x{k}x{n}, constant right operand");
        native.packed = Some(1);
        return Ok(native);
    }
    let mut native = Native::new("matmul", move |c| {
        steps.run(c, |out, epilogue, c| {
            let x = MatRef::new(c.get::<f32>(0)?, m, k, a.0, a.1)?;
            let y = MatRef::new(c.get::<f32>(1)?, k, n, b.0, b.1)?;
            Ok(product(c.pool, x, y, out, epilogue)?)
        })
    })?;
    native.reason = format!("{m}x{k}x{n}");
    Ok(native)
}

/// A product by constants that are the columns of the right operand, one after the other.
fn beside(
    p: &Prep<'_>,
    steps: Steps,
    (m, k, n): (usize, usize, usize),
    x_pitch: usize,
    trans_b: bool,
) -> Built {
    let parts = p.beside.iter().map(|t| {
        let [rows, columns] = t.shape()[..] else { return Err("an operand is no matrix".to_owned()) };
        let data = t.bytes().as_chunks().0;
        let matrix = match trans_b {
            true => MatRef::new(data, columns, rows, 1, columns),
            false => MatRef::new(data, rows, columns, columns, 1),
        };
        matrix.map_err(|e| e.to_string())
    });
    let parts = parts.collect::<Result<Vec<_>, _>>()?;
    let tensors: Vec<&Tensor> = p.beside.iter().collect();
    let strides = if trans_b { [1, k] } else { [n, 1] };
    packed(p, steps, (m, k, n), x_pitch, &tensors, &parts, strides)
}

/// A linear layer whose weights are packed once, from one matrix or several beside one another.
fn packed(
    p: &Prep<'_>,
    steps: Steps,
    (m, k, n): (usize, usize, usize),
    x_pitch: usize,
    tensors: &[&Tensor],
    parts: &[MatRef<'_, [u8; 4]>],
    strides: [usize; 2],
) -> Built {
    let packed = p.weights.get_stored(
        p.pool,
        (p.node, "linear", 0),
        tensors,
        &[k, n, strides[0], strides[1]],
        |packed| LinearWeights::from_packed(p.pool.level(), k, n, packed),
        || LinearWeights::pack_beside(p.pool, parts),
    )?;
    let method = method(p, &packed, (m, k, n));
    let name = if method == Method::Strassen { "linear-strassen" } else { "linear" };
    let mut native = Native::new(name, move |c| {
        steps.run(c, |out, epilogue, c| {
            Ok(linear(c.pool, method, m, c.get::<f32>(0)?, x_pitch, &packed, out, epilogue)?)
        })
    })?;
    native.reason = match parts.len() {
        1 => format!("{m}x{k}x{n}, constant right operand"),
        of => format!("{m}x{k}x{n}, {of} constants beside one another"),
    };
    native.packed = Some(1);
    Ok(native)
}

/// Weights without their zeros, where a single row is faster by that. Looked for once per plan.
fn sparse(
    p: &Prep<'_>,
    t: &Tensor,
    matrix: &MatRef<'_, [u8; 4]>,
) -> Result<Option<Arc<SparseWeights>>, String> {
    let found = p.weights.get(p.node, "sparse", 0, &[], || {
        let Some(form) = Sparsity::pick(p.pool.level(), matrix) else { return Ok((None, 0)) };
        let packed = SparseWeights::pack(matrix, form).map_err(|e| e.to_string())?;
        let bytes = packed.bytes();
        t.release();
        Ok::<_, String>((Some(Arc::new(packed)), bytes))
    })?;
    Ok((*found).clone())
}

/// How a linear layer is computed: as estimated, or as measured where there is a choice.
fn method(p: &Prep<'_>, weights: &LinearWeights, (m, k, n): (usize, usize, usize)) -> Method {
    use Method::{Direct, Strassen};
    /// Fewer rows than this never gain.
    const FEW: usize = 32;
    if !p.fewer_multiplications {
        return Direct;
    }
    let level = p.pool.level();
    let likely = Method::pick(level, m, k, n);
    let choice = m >= FEW && Strassen.supports(level, k, n);
    let Some(tuner) = p.tuner.filter(|_| choice) else { return likely };
    let candidates = if likely == Direct { [Direct, Strassen] } else { [Strassen, Direct] };
    let kind = if likely == Direct { "linear, direct first" } else { "linear, strassen first" };
    let (x, mut out) = (vec![1.0; m * k], vec![0.0; m * n]);
    tuner.pick((kind, &[m, k, n]), p.pool, &candidates, |method| {
        least(|| linear(p.pool, method, m, &x, k, weights, &mut out, Epilogue::NONE))
    })
}

/// Integer products with wrapping sums, row by row.
fn small_integers(p: &Prep<'_>, op: &MatMul) -> Built {
    if !op.epilogue.is_empty() {
        return Err("an integer product with an epilogue".into());
    }
    match p.get(0)?.dtype {
        DType::I32 => integers::<i32>(p, op, |s, a, b| s.wrapping_add(a.wrapping_mul(b))),
        DType::I64 => integers::<i64>(p, op, |s, a, b| s.wrapping_add(a.wrapping_mul(b))),
        d => Err(format!("no kernel for {d}").into()),
    }
}

fn integers<T: Element>(
    p: &Prep<'_>,
    op: &MatMul,
    f: impl Fn(T, T, T) -> T + Send + Sync + Copy + 'static,
) -> Built {
    let (ka, kb) = (p.get(0)?, p.get(1)?);
    let a = Matrices::of(&ka, op.trans_a, true).ok_or("scalars have no product")?;
    let b = Matrices::of(&kb, op.trans_b, false).ok_or("scalars have no product")?;
    let out = p.out();
    let lead = out.rank() - usize::from(ka.shape.len() > 1) - usize::from(kb.shape.len() > 1);
    let (oa, ob) = (a.offsets(&out[..lead]), b.offsets(&out[..lead]));
    let (m, k, n) = (a.rows.0, a.columns.0, b.columns.0);
    if b.rows.0 != k {
        return Err("inner sizes differ".into());
    }
    Native::new("matmul-integer", move |c| {
        let (pool, x, y) = (c.pool, c.get::<T>(0)?, c.get::<T>(1)?);
        let out = c.out::<T>(0)?;
        out.fill(T::default());
        if n == 0 {
            return Ok(());
        }
        let _ = pool;
        for (row, out) in out.chunks_exact_mut(n).enumerate() {
            let (item, i) = (row / m, row % m);
            for kk in 0..k {
                let x = x[oa[item] + i * a.rows.1 + kk * a.columns.1];
                let start = ob[item] + kk * b.rows.1;
                for (j, o) in out.iter_mut().enumerate() {
                    *o = f(*o, x, y[start + j * b.columns.1]);
                }
            }
        }
        Ok(())
    })
}
