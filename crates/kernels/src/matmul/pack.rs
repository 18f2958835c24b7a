//! Operands rearranged for the register tile, once ahead or block by block.
//!
//! An A panel holds a few rows, depth by depth; a B panel holds a tile's width of columns, depth by
//! depth, padded with zeros. Panels follow one another, each with its whole depth.

use super::tile::Geometry;
use crate::error::KernelError;
use crate::scratch::Buffer;
use crate::simd::Level;
use crate::threads::{Pool, Shards};
use std::ops::Range;

/// A matrix inside a slice: `rows` by `columns` elements at two strides.
#[derive(Clone, Copy, Debug)]
pub struct MatRef<'a, T = f32> {
    pub(crate) data: &'a [T],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) row_stride: usize,
    pub(crate) column_stride: usize,
}

impl<'a, T> MatRef<'a, T> {
    /// A matrix with any strides; every element must lie inside `data`.
    pub fn new(
        data: &'a [T],
        rows: usize,
        columns: usize,
        row_stride: usize,
        column_stride: usize,
    ) -> Result<Self, KernelError> {
        let needed = crate::error::extent("matrix", &[rows, columns], &[row_stride, column_stride])?;
        crate::error::at_least("matrix", data, needed)?;
        Ok(MatRef { data, rows, columns, row_stride, column_stride })
    }

    /// A dense row-major matrix.
    pub fn row_major(data: &'a [T], rows: usize, columns: usize) -> Result<Self, KernelError> {
        MatRef::new(data, rows, columns, columns, 1)
    }

    /// The same elements with rows and columns exchanged.
    pub fn transposed(self) -> Self {
        MatRef {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn columns(&self) -> usize {
        self.columns
    }
}

/// A left operand packed once: convolution weights, for instance.
#[derive(Clone)]
pub struct PackedA {
    pub(crate) level: Level,
    pub(crate) m: usize,
    pub(crate) k: usize,
    pub(crate) buffer: Buffer,
}

/// A right operand packed once: the weights of a linear layer.
#[derive(Clone)]
pub struct PackedB {
    pub(crate) level: Level,
    pub(crate) k: usize,
    pub(crate) n: usize,
    pub(crate) buffer: Buffer,
}

impl PackedA {
    /// Packs for kernels at `level`.
    pub fn pack(level: Level, a: MatRef<'_>) -> Result<PackedA, KernelError> {
        let (m, k) = (a.rows, a.columns);
        let mut buffer = Buffer::default();
        let len = crate::error::product("packed operand", &[m, k])?;
        buffer.reserve(len)?;
        pack_rows(level, a, 0..m, 0..k, &mut buffer.as_mut_slice()[..len]);
        Ok(PackedA { level, m, k, buffer })
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.m
    }

    /// Columns: the depth of a product.
    pub fn columns(&self) -> usize {
        self.k
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        size_of_val(self.buffer.as_slice())
    }
}

impl PackedB {
    /// Packs for kernels at `level`.
    pub fn pack(level: Level, b: MatRef<'_>) -> Result<PackedB, KernelError> {
        PackedB::pack_on(&Pool::serial().with_level(level), b)
    }

    /// Packs for kernels at the pool's level, its threads sharing the work.
    pub fn pack_on(pool: &Pool, b: MatRef<'_>) -> Result<PackedB, KernelError> {
        let (level, k, n) = (pool.level(), b.rows, b.columns);
        let width = Geometry::of(level).columns;
        let panels = n.div_ceil(width);
        let mut buffer = Buffer::default();
        let len = crate::error::product("packed operand", &[panels, width, k])?;
        buffer.reserve(len)?;
        let to = Shards::new(&mut buffer.as_mut_slice()[..len]);
        pool.split(panels, (1 << 16) / (width * k.max(1)), |part| {
            // SAFETY: the parts of a split are disjoint, and so are their panels.
            let to = unsafe { to.part(part.start * width * k, part.len() * width * k) };
            pack_columns(level, b, 0..k, part.start * width..(part.end * width).min(n), to);
        });
        Ok(PackedB { level, k, n, buffer })
    }

    /// Rows: the depth of a product.
    pub fn rows(&self) -> usize {
        self.k
    }

    /// Columns.
    pub fn columns(&self) -> usize {
        self.n
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        size_of_val(self.buffer.as_slice())
    }
}

impl std::fmt::Debug for PackedA {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedA({} x {}, {})", self.m, self.k, self.level.name())
    }
}

impl std::fmt::Debug for PackedB {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PackedB({} x {}, {})", self.k, self.n, self.level.name())
    }
}

/// Packs rows `rows` (starting on a panel) and depth `depth` of `a`; `to` has exactly their size.
pub(crate) fn pack_rows(
    level: Level,
    a: MatRef<'_>,
    rows: Range<usize>,
    depth: Range<usize>,
    to: &mut [f32],
) {
    let step = Geometry::of(level).panel_rows(a.rows);
    let kc = depth.len();
    if kc == 0 {
        return;
    }
    let mut to = to;
    let mut row = rows.start;
    while row < rows.end {
        let count = step.min(rows.end - row);
        let (panel, rest) = to.split_at_mut(count * kc);
        to = rest;
        if a.row_stride == 1 && a.column_stride != 1 {
            for (k, t) in panel.chunks_exact_mut(count).enumerate() {
                let start = row + (depth.start + k) * a.column_stride;
                t.copy_from_slice(&a.data[start..start + count]);
            }
            row += count;
            continue;
        }
        for i in 0..count {
            let start = (row + i) * a.row_stride + depth.start * a.column_stride;
            let target = panel[i..].iter_mut().step_by(count);
            if a.column_stride == 1 {
                target.zip(&a.data[start..start + kc]).for_each(|(t, &x)| *t = x);
            } else if a.column_stride == 0 {
                target.for_each(|t| *t = a.data[start]);
            } else {
                target.zip(a.data[start..].iter().step_by(a.column_stride)).for_each(|(t, &x)| *t = x);
            }
        }
        row += count;
    }
}

/// Packs columns `columns` and depth `depth` of `b`; `to` has room for whole panels.
pub(crate) fn pack_columns(
    level: Level,
    b: MatRef<'_>,
    depth: Range<usize>,
    columns: Range<usize>,
    to: &mut [f32],
) {
    let width = Geometry::of(level).columns;
    let kc = depth.len();
    if kc == 0 {
        return;
    }
    for (p, panel) in to.chunks_exact_mut(width * kc).enumerate().take(columns.len().div_ceil(width)) {
        let first = columns.start + p * width;
        let count = width.min(columns.end - first);
        if b.column_stride == 1 && count == width {
            let mut at = depth.start * b.row_stride + first;
            // Fixed widths, so that a row is a few vector moves and not a call.
            match width {
                32 => copy_rows::<32>(b.data, &mut at, b.row_stride, panel),
                16 => copy_rows::<16>(b.data, &mut at, b.row_stride, panel),
                12 => copy_rows::<12>(b.data, &mut at, b.row_stride, panel),
                _ => copy_rows::<8>(b.data, &mut at, b.row_stride, panel),
            }
        } else if b.row_stride == 1 && b.column_stride > 1 {
            transpose_columns(b, depth.start, first, count, width, kc, panel);
        } else {
            for (k, row) in panel.chunks_exact_mut(width).enumerate() {
                let start = (depth.start + k) * b.row_stride + first * b.column_stride;
                for (j, t) in row.iter_mut().enumerate() {
                    *t = if j < count { b.data[start + j * b.column_stride] } else { 0.0 };
                }
            }
        }
    }
}

#[inline(always)]
fn copy_rows<const W: usize>(data: &[f32], at: &mut usize, stride: usize, panel: &mut [f32]) {
    for row in panel.as_chunks_mut::<W>().0 {
        row.copy_from_slice(&data[*at..*at + W]);
        *at += stride;
    }
}

/// The panel of a matrix whose columns are contiguous, eight depths at a time so that each cache line
/// read is used whole.
fn transpose_columns(
    b: MatRef<'_>,
    k0: usize,
    first: usize,
    count: usize,
    width: usize,
    kc: usize,
    panel: &mut [f32],
) {
    const STEP: usize = 16;
    for (block, rows) in panel.chunks_mut(STEP * width).enumerate() {
        let k = k0 + block * STEP;
        let depth = STEP.min(kc - block * STEP);
        for j in 0..count {
            let start = (first + j) * b.column_stride + k;
            let column = &b.data[start..start + depth];
            for (kk, &x) in column.iter().enumerate() {
                rows[kk * width + j] = x;
            }
        }
        for row in rows.chunks_exact_mut(width) {
            row[count..].fill(0.0);
        }
    }
}
