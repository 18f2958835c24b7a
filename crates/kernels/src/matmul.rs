//! Matrix products with an epilogue.
//!
//! `f32` products run on the kernels here: panels packed for a register tile, or a matrix-vector kernel
//! when there are few rows. `f64` is rare and goes through the `gemm` crate.

pub(crate) mod driver;
pub(crate) mod matvec;
mod pack;
pub mod sparse;
pub(crate) mod tile;

pub use pack::{MatRef, PackedA, PackedB};

use crate::epilogue::Epilogue;
use crate::error::{KernelError, exact, extent, product};
use crate::scratch;
use crate::simd::Level;
use crate::threads::{Pool, Shards};
use driver::{FirstError, Left, Product, Right};
use pack::pack_rows;

/// Products below this many multiplications run one to a task, several at a time.
const SMALL: usize = 4 << 20;

/// Where one product of a batch takes its operands and puts its result: offsets of the first elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchItem {
    /// Offset into A's data.
    pub a: usize,
    /// Offset into B's data.
    pub b: usize,
    /// Offset into the output.
    pub out: usize,
}

/// Sizes and strides shared by all products of a batch: `m` by `k` times `k` by `n`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchShape {
    /// Rows of A and of the output.
    pub m: usize,
    /// Columns of B and of the output.
    pub n: usize,
    /// Depth.
    pub k: usize,
    /// A's strides, by row and by column.
    pub a_strides: (usize, usize),
    /// B's strides, by row and by column.
    pub b_strides: (usize, usize),
    /// The output's stride by row; its columns are contiguous.
    pub out_stride: usize,
}

/// `out = a b`, then the epilogue; `out` is dense and row-major.
pub fn matmul(
    pool: &Pool,
    a: MatRef<'_>,
    b: MatRef<'_>,
    out: &mut [f32],
    epilogue: Epilogue<'_>,
) -> Result<(), KernelError> {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    if b.rows != k {
        return Err(KernelError::Shape("matrix product: columns of A differ from rows of B"));
    }
    exact("output", out, product("output", &[m, n])?)?;
    epilogue.check(m, n, out.len())?;
    let out = Shards::new(out);
    if m <= matvec::FEW && matvec::fits(&b) {
        few_rows(pool, a, b, 0, n, &out, epilogue);
        return Ok(());
    }
    // SAFETY: the output was checked to be m by n.
    unsafe { large(pool, a, &b, n, 0, n, &out, epilogue) }
}

/// `out = a b` with B packed ahead, then the epilogue; `out` is dense and row-major.
pub fn matmul_packed(
    pool: &Pool,
    a: MatRef<'_>,
    b: &PackedB,
    out: &mut [f32],
    epilogue: Epilogue<'_>,
) -> Result<(), KernelError> {
    let (m, n) = (a.rows, b.n);
    if b.k != a.columns {
        return Err(KernelError::Shape("matrix product: columns of A differ from rows of B"));
    }
    exact("output", out, product("output", &[m, n])?)?;
    epilogue.check(m, n, out.len())?;
    let pool = pool.clone().with_level(b.level);
    // SAFETY: the output was checked to be m by n.
    unsafe { large(&pool, a, b, n, 0, n, &Shards::new(out), epilogue) }
}

/// `out = a b` with A packed ahead, then the epilogue; `out` is dense and row-major.
pub fn matmul_packed_a(
    pool: &Pool,
    a: &PackedA,
    b: MatRef<'_>,
    out: &mut [f32],
    epilogue: Epilogue<'_>,
) -> Result<(), KernelError> {
    let (m, n) = (a.m, b.columns);
    if b.rows != a.k {
        return Err(KernelError::Shape("matrix product: columns of A differ from rows of B"));
    }
    exact("output", out, product("output", &[m, n])?)?;
    epilogue.check(m, n, out.len())?;
    let p = Product {
        level: a.level,
        a: Left::packed(a),
        b: &b,
        k: a.k,
        n,
        epilogue,
        out_start: 0,
        out_stride: n,
        first_row: 0,
    };
    // SAFETY: the output was checked to be m by n.
    unsafe { driver::run(pool, &p, &Shards::new(out)) }
}

/// Many products of one shape.
///
/// The outputs must not overlap, and that must be plain to see: item offsets strictly increase, and each
/// output starts at a multiple of `m` rows and of `n` columns in a grid of `out_stride` columns. Dense
/// outputs one after another satisfy this, and so do attention heads side by side in a merged row. The
/// epilogue's rows and columns are those of one product; its full operands are laid out like `out`.
pub fn matmul_batch(
    pool: &Pool,
    shape: &BatchShape,
    a: &[f32],
    b: &[f32],
    items: &[BatchItem],
    out: &mut [f32],
    epilogue: Epilogue<'_>,
) -> Result<(), KernelError> {
    let BatchShape { m, n, k, a_strides, b_strides, out_stride } = *shape;
    epilogue.check(m, n, out.len())?;
    if items.is_empty() || m == 0 || n == 0 {
        return Ok(());
    }
    let a_need = extent("A", &[m, k], &[a_strides.0, a_strides.1])?;
    let b_need = extent("B", &[k, n], &[b_strides.0, b_strides.1])?;
    let out_need = extent("output", &[m, n], &[out_stride, 1])?;
    if out_stride < n {
        return Err(KernelError::Shape("matrix product: output rows overlap"));
    }
    let mut last = None;
    for item in items {
        let inside =
            |start: usize, need: usize, len: usize| start.checked_add(need).is_some_and(|e| e <= len);
        // Without an inner size the factors have no elements, and where they would begin does not matter.
        if k > 0 && (!inside(item.a, a_need, a.len()) || !inside(item.b, b_need, b.len())) {
            return Err(KernelError::Shape("matrix product: a batch item lies outside its operand"));
        }
        if !inside(item.out, out_need, out.len()) {
            return Err(KernelError::Shape("matrix product: a batch item lies outside the output"));
        }
        let (row, column) = (item.out / out_stride, item.out % out_stride);
        let on_grid = row.is_multiple_of(m) && column.is_multiple_of(n) && column + n <= out_stride;
        if !on_grid || last.is_some_and(|l| l >= item.out) {
            return Err(KernelError::Shape("matrix product: batch outputs may overlap"));
        }
        last = Some(item.out);
    }
    let shards = Shards::new(out);
    let left = |i: &BatchItem| MatRef {
        data: a.get(i.a..).unwrap_or(&[]),
        rows: m,
        columns: k,
        row_stride: a_strides.0,
        column_stride: a_strides.1,
    };
    let right = |i: &BatchItem| MatRef {
        data: b.get(i.b..).unwrap_or(&[]),
        rows: k,
        columns: n,
        row_stride: b_strides.0,
        column_stride: b_strides.1,
    };
    let work = m.saturating_mul(n).saturating_mul(k);
    if items.len() == 1 || work >= SMALL {
        for item in items {
            let (a, b) = (left(item), right(item));
            if m <= matvec::FEW && matvec::fits(&b) {
                few_rows(pool, a, b, item.out, out_stride, &shards, epilogue);
            } else {
                // SAFETY: the item's output lies inside the array by the checks above.
                unsafe { large(pool, a, &b, n, item.out, out_stride, &shards, epilogue)? };
            }
        }
        return Ok(());
    }
    let error = FirstError::default();
    let serial = Pool::serial().with_level(pool.level());
    let per_task = ((1 << 19) / work.max(1)).clamp(1, items.len());
    pool.run(items.len().div_ceil(per_task), |task| {
        for item in items.iter().skip(task * per_task).take(per_task) {
            let (a, b) = (left(item), right(item));
            if m <= matvec::FEW && matvec::fits(&b) {
                few_rows(&serial, a, b, item.out, out_stride, &shards, epilogue);
            } else {
                let p = Product {
                    level: pool.level(),
                    a: Left::Plain(a),
                    b: &b,
                    k,
                    n,
                    epilogue,
                    out_start: item.out,
                    out_stride,
                    first_row: 0,
                };
                let width = driver::STRIPE;
                for start in (0..n).step_by(width) {
                    // SAFETY: outputs of different items are disjoint by the checks above.
                    error.note(unsafe { p.block(0..m, start..(start + width).min(n), &shards) });
                }
            }
        }
    });
    error.into_result()
}

/// A product with few rows, cut by columns.
fn few_rows(
    pool: &Pool,
    a: MatRef<'_>,
    b: MatRef<'_>,
    out_start: usize,
    out_stride: usize,
    out: &Shards<'_, f32>,
    epilogue: Epilogue<'_>,
) {
    let (n, level) = (b.columns, pool.level());
    // Pieces of whole cache lines, about 64 KiB of B each at least.
    let grain = (16 * 1024 / b.rows.max(1)).max(64);
    let lines = n.div_ceil(16);
    pool.split(lines, grain.div_ceil(16), |r| {
        let columns = r.start * 16..(r.end * 16).min(n);
        let mut rows: [&mut [f32]; matvec::FEW] = Default::default();
        for (i, row) in rows.iter_mut().enumerate().take(a.rows) {
            // SAFETY: the caller checked the output; columns of different pieces are disjoint.
            *row = unsafe { out.part(out_start + i * out_stride + columns.start, columns.len()) };
        }
        matvec::columns(level, a, b, columns.clone(), &mut rows[..a.rows]);
        for (i, row) in rows.iter_mut().enumerate().take(a.rows) {
            let at = out_start + i * out_stride + columns.start;
            epilogue.apply(level, row, i, columns.start, at);
        }
    });
}

/// A product of any size: packs A once for all tasks, in chunks that bound the memory for it.
///
/// # Safety
/// The output holds `a.rows` rows of `n` floats from `out_start` at `out_stride`.
pub(crate) unsafe fn large<R: Right>(
    pool: &Pool,
    a: MatRef<'_>,
    b: &R,
    n: usize,
    out_start: usize,
    out_stride: usize,
    out: &Shards<'_, f32>,
    epilogue: Epilogue<'_>,
) -> Result<(), KernelError> {
    const CHUNK: usize = 1 << 20;
    let (level, k) = (pool.level(), a.columns);
    let step = tile::Geometry::of(level).panel_rows(a.rows);
    let chunk = (CHUNK / k.max(1) / step).max(16) * step;
    for first in (0..a.rows).step_by(chunk) {
        let rows = chunk.min(a.rows - first);
        let part = MatRef { data: if k == 0 { a.data } else { &a.data[first * a.row_stride..] }, rows, ..a };
        let step = tile::Geometry::of(level).panel_rows(rows);
        scratch::with(rows * k, |packed| {
            let panels = rows.div_ceil(step);
            let shards = Shards::new(packed);
            pool.split(panels, (32 * 1024 / (step * k.max(1))).max(1), |r| {
                let range = r.start * step..(r.end * step).min(rows);
                // SAFETY: panels of different ranges are disjoint.
                let to = unsafe { shards.part(range.start * k, range.len() * k) };
                pack_panels(level, part, range, to);
            });
            let p = Product {
                level,
                a: Left::Packed { m: rows, k, data: packed },
                b,
                k,
                n,
                epilogue,
                out_start: out_start + first * out_stride,
                out_stride,
                first_row: first,
            };
            // SAFETY: forwarded; the chunk's rows lie inside the output.
            unsafe { driver::run(pool, &p, out) }
        })??;
    }
    Ok(())
}

fn pack_panels(level: Level, a: MatRef<'_>, rows: std::ops::Range<usize>, to: &mut [f32]) {
    pack_rows(level, a, rows, 0..a.columns, to);
}

/// `out = a b` in `f64`, on the calling thread; `out` is dense and row-major.
pub fn matmul_f64(a: MatRef<'_, f64>, b: MatRef<'_, f64>, out: &mut [f64]) -> Result<(), KernelError> {
    let (m, n, k) = (a.rows, b.columns, a.columns);
    if b.rows != k {
        return Err(KernelError::Shape("matrix product: columns of A differ from rows of B"));
    }
    exact("output", out, product("output", &[m, n])?)?;
    if out.is_empty() {
        return Ok(());
    }
    if k == 0 {
        out.fill(0.0);
        return Ok(());
    }
    // SAFETY: `MatRef` proves that all elements of A and B at these strides lie in their slices, and the
    // output is m by n.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            false,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;
