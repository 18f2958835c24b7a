//! The loops around the register tile.
//!
//! Depth is cut into fixed blocks, so that an output element is the same chain of operations however
//! rows and columns are shared out among threads.

use super::matvec::FEW;
use super::pack::{MatRef, PackedA, PackedB, pack_columns, pack_rows};
use super::tile::{self, Geometry, Tile};
use crate::epilogue::Epilogue;
use crate::error::KernelError;
use crate::scratch;
use crate::simd::Level;
use crate::threads::{Pool, Shards};
use std::ops::Range;
use std::sync::Mutex;

/// Depth of a block: a B panel of it (32 KiB at most) stays in the first-level cache.
pub(crate) const DEPTH: usize = 256;
/// Columns of B packed at a time: a block of it (256 KiB at most) stays in the second-level cache.
pub(crate) const STRIPE: usize = 256;

/// The left operand of a product.
#[derive(Clone, Copy)]
pub(crate) enum Left<'a> {
    Plain(MatRef<'a>),
    Packed { m: usize, k: usize, data: &'a [f32] },
}

impl<'a> Left<'a> {
    pub(crate) fn packed(a: &'a PackedA) -> Left<'a> {
        Left::Packed { m: a.m, k: a.k, data: a.buffer.as_slice() }
    }

    fn rows(&self) -> usize {
        match self {
            Left::Plain(a) => a.rows,
            Left::Packed { m, .. } => *m,
        }
    }
}

/// The right operand of a product: something that can fill packed panels.
pub(crate) trait Right: Sync {
    /// Panels packed ahead, each with the whole depth.
    fn packed(&self) -> Option<&[f32]> {
        None
    }
    /// Packs a block of depth and columns (starting on a panel); `to` has room for whole panels.
    fn pack(&self, level: Level, depth: Range<usize>, columns: Range<usize>, to: &mut [f32]);
}

impl Right for MatRef<'_> {
    fn pack(&self, level: Level, depth: Range<usize>, columns: Range<usize>, to: &mut [f32]) {
        pack_columns(level, *self, depth, columns, to);
    }
}

impl Right for PackedB {
    fn packed(&self) -> Option<&[f32]> {
        Some(self.buffer.as_slice())
    }
    fn pack(&self, _: Level, _: Range<usize>, _: Range<usize>, _: &mut [f32]) {}
}

/// One product: `out[row0 + i][j] = sum_k a[i][k] b[k][j]`, then the epilogue.
#[derive(Clone, Copy)]
pub(crate) struct Product<'a, R: Right> {
    pub level: Level,
    pub a: Left<'a>,
    pub b: &'a R,
    pub k: usize,
    pub n: usize,
    pub epilogue: Epilogue<'a>,
    /// Where row 0 column 0 is in the output array.
    pub out_start: usize,
    pub out_stride: usize,
    /// The epilogue's number of row 0: not zero when the rows are one group of several.
    pub first_row: usize,
}

impl<R: Right> Product<'_, R> {
    /// Computes rows and columns that start on panels.
    ///
    /// # Safety
    /// The output array holds `m` rows of `n` floats from `out_start` at `out_stride`, and nobody else
    /// touches the given part of it.
    pub(crate) unsafe fn block(
        &self,
        rows: Range<usize>,
        columns: Range<usize>,
        out: &Shards<'_, f32>,
    ) -> Result<(), KernelError> {
        if rows.is_empty() || columns.is_empty() {
            return Ok(());
        }
        let g = Geometry::of(self.level);
        let m = self.a.rows();
        if let Left::Plain(a) = self.a
            && self.b.packed().is_some()
            && rows.len() == m
            && m <= FEW
        {
            return scratch::with(m * self.k, |room| {
                pack_rows(self.level, a, 0..m, 0..self.k, room);
                let packed = Product { a: Left::Packed { m, k: self.k, data: room }, ..*self };
                // SAFETY: forwarded.
                unsafe {
                    packed.stream(g, &rows, &columns, out);
                    self.finish(&rows, &columns, out);
                }
            });
        }
        let panels = columns.len().div_ceil(g.columns);
        let kc_max = DEPTH.min(self.k);
        let a_len = if let Left::Plain(_) = self.a { rows.len() * kc_max } else { 0 };
        let b_len = if self.b.packed().is_some() { 0 } else { panels * g.columns * kc_max };
        scratch::with(a_len.next_multiple_of(16) + b_len, |room| {
            let (a_room, b_room) = room.split_at_mut(a_len.next_multiple_of(16));
            for k0 in (0..self.k).step_by(DEPTH) {
                let depth = k0..(k0 + DEPTH).min(self.k);
                // SAFETY: forwarded.
                unsafe { self.depth_block(g, &rows, &columns, depth, a_room, b_room, out) };
            }
            // SAFETY: forwarded.
            unsafe { self.finish(&rows, &columns, out) };
        })
    }

    /// Products of few rows wait for memory: each panel is read from its beginning to its end.
    ///
    /// # Safety
    /// As for `block`.
    unsafe fn stream(&self, g: Geometry, rows: &Range<usize>, columns: &Range<usize>, out: &Shards<'_, f32>) {
        for start in columns.clone().step_by(g.columns) {
            let panel = start..(start + g.columns).min(columns.end);
            for k0 in (0..self.k).step_by(DEPTH) {
                let depth = k0..(k0 + DEPTH).min(self.k);
                // SAFETY: forwarded.
                unsafe { self.depth_block(g, rows, &panel, depth, &mut [], &mut [], out) };
            }
        }
    }

    /// The epilogue, and the zeros that a product without depth is.
    ///
    /// # Safety
    /// As for `block`.
    unsafe fn finish(&self, rows: &Range<usize>, columns: &Range<usize>, out: &Shards<'_, f32>) {
        if self.k > 0 && self.epilogue.steps.is_empty() {
            return;
        }
        for row in rows.clone() {
            let start = self.out_start + row * self.out_stride + columns.start;
            // SAFETY: this part of the output is the caller's to give.
            let piece = unsafe { out.part(start, columns.len()) };
            if self.k == 0 {
                piece.fill(0.0);
            }
            self.epilogue.apply(self.level, piece, self.first_row + row, columns.start, start);
        }
    }

    /// # Safety
    /// As for `block`.
    unsafe fn depth_block(
        &self,
        g: Geometry,
        rows: &Range<usize>,
        columns: &Range<usize>,
        depth: Range<usize>,
        a_room: &mut [f32],
        b_room: &mut [f32],
        out: &Shards<'_, f32>,
    ) {
        let kc = depth.len();
        let step = g.panel_rows(self.a.rows());
        // Where a panel's block of depth starts, and how far apart panels are.
        let (a_data, a_base, a_depth) = match self.a {
            Left::Plain(a) => {
                pack_rows(self.level, a, rows.clone(), depth.clone(), &mut a_room[..rows.len() * kc]);
                (&*a_room, rows.start, kc)
            }
            Left::Packed { k, data, .. } => (data, 0, k),
        };
        let a_skip = if a_depth == kc { 0 } else { depth.start };
        let (b_data, b_base, b_depth) = match self.b.packed() {
            Some(data) => (data, 0, self.k),
            None => {
                self.b.pack(self.level, depth.clone(), columns.clone(), b_room);
                (&*b_room, columns.start, kc)
            }
        };
        let b_skip = if b_depth == kc { 0 } else { depth.start };
        for column in columns.clone().step_by(g.columns) {
            let width = g.columns.min(columns.end - column);
            let b_at = (column - b_base) * b_depth + b_skip * g.columns;
            let b = &b_data[b_at..b_at + kc * g.columns];
            for row in rows.clone().step_by(step) {
                let height = step.min(rows.end - row);
                let a_at = (row - a_base) * a_depth + a_skip * height;
                let a = &a_data[a_at..a_at + kc * height];
                // SAFETY: the panels were sliced to their sizes; the tile lies in the part of the output
                // that the caller gives.
                unsafe {
                    let c = out.as_ptr().add(self.out_start + row * self.out_stride + column);
                    let t = Tile {
                        depth: kc,
                        a: a.as_ptr(),
                        b: b.as_ptr(),
                        c,
                        c_stride: self.out_stride,
                        rows: height,
                        columns: width,
                        accumulate: depth.start > 0,
                    };
                    tile::run(self.level, t);
                }
            }
        }
    }
}

/// The first error of any task.
#[derive(Default)]
pub(crate) struct FirstError(Mutex<Option<KernelError>>);

impl FirstError {
    pub(crate) fn note(&self, result: Result<(), KernelError>) {
        if let Err(e) = result {
            self.0.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(e);
        }
    }

    pub(crate) fn into_result(self) -> Result<(), KernelError> {
        match self.0.into_inner().unwrap_or_else(|e| e.into_inner()) {
            Some(e) => Err(e),
            None => Ok(()),
        }
    }
}

/// How a product is cut into tasks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    rows: usize,
    columns: usize,
    row_step: usize,
    column_step: usize,
}

impl Grid {
    /// Cuts `m` by `n` into pieces that start on panels: stripes of columns, cut by rows as well when
    /// there are too few stripes for the threads.
    pub(crate) fn new(level: Level, threads: usize, m: usize, n: usize, k: usize) -> Grid {
        let g = Geometry::of(level);
        let column_panels = n.div_ceil(g.columns).max(1);
        let row_panels = m.div_ceil(g.panel_rows(m)).max(1);
        let widest = (STRIPE / g.columns).max(1);
        let mut stripes = column_panels.div_ceil(widest);
        let mut row_cuts = 1;
        // A task of less than some 20 microseconds is not worth a thread.
        let work = m.saturating_mul(n).saturating_mul(k);
        if threads > 1 && work > 1 << 19 {
            let wanted = (2 * threads).min(work >> 18);
            if stripes < wanted {
                if column_panels >= wanted {
                    stripes = wanted;
                } else {
                    row_cuts = wanted.div_ceil(stripes).min(row_panels);
                }
            }
        }
        let column_step = column_panels.div_ceil(stripes) * g.columns;
        let row_step = row_panels.div_ceil(row_cuts) * g.panel_rows(m);
        Grid { rows: m.div_ceil(row_step), columns: n.div_ceil(column_step), row_step, column_step }
    }

    pub(crate) fn tasks(&self) -> usize {
        self.rows * self.columns
    }

    pub(crate) fn piece(&self, task: usize, m: usize, n: usize) -> (Range<usize>, Range<usize>) {
        let (r, c) = (task % self.rows, task / self.rows);
        let rows = r * self.row_step..((r + 1) * self.row_step).min(m);
        let columns = c * self.column_step..((c + 1) * self.column_step).min(n);
        (rows, columns)
    }
}

/// Runs one product over the pool.
///
/// # Safety
/// The output holds `m` rows of `n` floats from `out_start` at `out_stride`.
pub(crate) unsafe fn run<R: Right>(
    pool: &Pool,
    p: &Product<'_, R>,
    out: &Shards<'_, f32>,
) -> Result<(), KernelError> {
    let m = p.a.rows();
    let grid = Grid::new(p.level, pool.threads(), m, p.n, p.k);
    let error = FirstError::default();
    pool.run(grid.tasks(), |task| {
        let (rows, columns) = grid.piece(task, m, p.n);
        // SAFETY: the pieces of a grid are disjoint.
        error.note(unsafe { p.block(rows, columns, out) });
    });
    error.into_result()
}
