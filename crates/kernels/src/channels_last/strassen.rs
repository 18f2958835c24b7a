//! A product of matrices in halves, after Strassen: seven products of half the size along each axis instead
//! of eight.
//!
//! Both operands are cut in four. Seven sums of the left one's quarters are made once for a block of rows;
//! those of the right one's are made panel by panel, right before the register tile uses them, from weights
//! that are packed as for any other product. What comes out is added up on its way to the output.

use super::conv::direct::{PIECE, Target};
use super::conv::finish::{Parts, Side};
use super::conv::panels::Panels;
use super::conv::rows::{self, Rows, Work};
use super::conv::tile::{self, Finish, MAX_ROWS, Tile};
use crate::error::KernelError;
use crate::matmul::driver::FirstError;
use crate::scratch;
use crate::simd::Level;
use crate::simd::vector::Vector;
use crate::threads::{Pool, Shards};
use std::ops::Range;
use std::ptr::null;

/// Products of halves.
const PRODUCTS: usize = 7;
/// Sums of quarters that products take, of either operand.
const SUMS: usize = 5;

/// A factor of a product: the quarters are top left, top right, bottom left and bottom right.
#[derive(Clone, Copy)]
enum Factor {
    Quarter(usize),
    /// One of what [`sums_of`] gives.
    Sum(usize),
}
use Factor::{Quarter, Sum};

/// The left factors.
const LEFT: [Factor; PRODUCTS] = [Sum(0), Sum(1), Quarter(0), Quarter(3), Sum(2), Sum(3), Sum(4)];
/// The right factors.
const RIGHT: [Factor; PRODUCTS] = [Sum(0), Quarter(0), Sum(4), Sum(3), Quarter(3), Sum(2), Sum(1)];

/// # Safety
/// `V`'s instructions are available.
#[inline(always)]
unsafe fn sums_of<V: Vector>([a, b, c, d]: [V; 4]) -> [V; SUMS] {
    // SAFETY: forwarded.
    unsafe { [V::add(a, d), V::add(c, d), V::add(a, b), V::sub(c, a), V::sub(b, d)] }
}

/// The products in each quarter of the result.
const RESULT: [[i8; PRODUCTS]; 4] =
    [[1, 0, 0, 1, -1, 0, 1], [0, 0, 1, 0, 1, 0, 0], [0, 1, 0, 1, 0, 0, 0], [1, -1, 1, 0, 0, 1, 0]];

/// Elements of a block of the left operand, whose sums take a quarter more.
const REGION: usize = 96 * 1024;
/// Rows of a block at least, so that sums of the right operand are used often enough.
const FEW_ROWS: usize = 160;
/// Floats between rows of sums beyond what they need: rows a power of two apart would share the same few
/// lines of the first-level cache.
const APART: usize = 16;
/// The same between sums of a panel, which are written side by side.
const SKEW: usize = 5 * 16;

/// Whether the kernel computes a product of these sizes.
pub(super) fn supports(level: Level, depth: usize, columns: usize) -> bool {
    depth >= 8 && depth.is_multiple_of(8) && columns > 0 && columns.is_multiple_of(4 * tile::lanes(level))
}

/// A product's operands and result.
struct Run<'a> {
    x: &'a [f32],
    x_pitch: usize,
    w: &'a Panels,
    target: Target<'a>,
    parts: &'a Parts<'a>,
    /// Half the depth.
    half: usize,
    /// Zeros for a row that is not there.
    zeros: &'a [f32],
}

/// Computes the whole output: a row of the target for each row of `x`, `x_pitch` floats from one to the next.
pub(super) fn run(
    pool: &Pool,
    x: &[f32],
    x_pitch: usize,
    w: &Panels,
    target: Target<'_>,
    parts: &Parts<'_>,
) -> Result<(), KernelError> {
    debug_assert!(supports(w.level, w.depth, w.columns));
    let half = w.depth / 2;
    scratch::with(half, |zeros| {
        zeros.fill(0.0);
        let run = Run { x, x_pitch, w, target, parts, half, zeros };
        run.all(pool)
    })?
}

impl Run<'_> {
    fn all(&self, pool: &Pool) -> Result<(), KernelError> {
        let rows = self.target.pixels;
        // The cuts decide which rows are added up, so that they must not depend on the threads.
        let fit = (REGION / self.w.depth).max(FEW_ROWS);
        let blocks = rows.div_ceil(fit);
        let each = rows.div_ceil(blocks);
        let block = |i: usize| i * each..((i + 1) * each).min(rows);
        let error = FirstError::default();
        if blocks >= pool.threads() {
            pool.run(rows.div_ceil(each), |i| {
                error.note(self.with_sums(each, |sums| {
                    let rows = block(i);
                    (0..rows.len().div_ceil(2)).for_each(|row| self.add_up(&rows, row, sums.as_mut_ptr()));
                    error.note(self.multiply(&rows, 0..self.pairs(), sums));
                }));
            });
        } else {
            for i in 0..rows.div_ceil(each) {
                error.note(self.with_sums(each, |sums| {
                    let rows = block(i);
                    let to = &Shards::new(sums);
                    pool.split(rows.len().div_ceil(2), 8, |of| {
                        of.for_each(|row| self.add_up(&rows, row, to.as_ptr()));
                    });
                    let each = self.pairs().div_ceil(4 * pool.threads());
                    pool.run(self.pairs().div_ceil(each), |i| {
                        let pairs = i * each..((i + 1) * each).min(self.pairs());
                        error.note(self.multiply(&rows, pairs, sums));
                    });
                }));
            }
        }
        error.into_result()
    }

    /// Panels of half the columns.
    fn pairs(&self) -> usize {
        self.w.panels.len() / 2
    }

    /// Floats from one row of sums to the next.
    fn sum_pitch(&self) -> usize {
        self.half + APART
    }

    /// Room for the sums of a block of rows: those of a product together.
    fn with_sums<R>(&self, rows: usize, f: impl FnOnce(&mut [f32]) -> R) -> Result<R, KernelError> {
        scratch::with(SUMS * rows.div_ceil(2) * self.sum_pitch(), f)
    }

    /// Where a row of a quarter of a block of rows lies.
    fn left(&self, block: &Range<usize>, quarter: usize, row: usize) -> *const f32 {
        let top = block.len().div_ceil(2);
        let row = if quarter < 2 { row } else { top + row };
        if row >= block.len() {
            return self.zeros.as_ptr();
        }
        let start = (block.start + row) * self.x_pitch + quarter % 2 * self.half;
        self.x[start..start + self.half].as_ptr()
    }

    /// Adds up the quarters of one row for all products that want a sum.
    fn add_up(&self, block: &Range<usize>, row: usize, sums: *mut f32) {
        let apart = block.len().div_ceil(2) * self.sum_pitch();
        let of = std::array::from_fn(|quarter| self.left(block, quarter, row));
        let to = sums.wrapping_add(row * self.sum_pitch());
        // SAFETY: the quarters have half the depth, and so has each row of the room, which this task alone
        // writes.
        unsafe { rows::run(self.w.level, Sums { of, to, apart, count: self.half }) };
    }

    /// Computes some pairs of panels' columns of a block of rows.
    fn multiply(&self, block: &Range<usize>, pairs: Range<usize>, sums: &[f32]) -> Result<(), KernelError> {
        let width = self.width();
        let rows = block.len().div_ceil(2);
        let cuts = (self.half * width).div_ceil(PIECE);
        let piece = self.half.div_ceil(cuts).next_multiple_of(4);
        let apart = rows * width + APART;
        scratch::with_pointers(PRODUCTS * rows, |pointers| {
            for (product, factor) in LEFT.iter().enumerate() {
                for row in 0..rows {
                    pointers[product * rows + row] = match *factor {
                        Quarter(q) => self.left(block, q, row),
                        Sum(sum) => sums[(sum * rows + row) * self.sum_pitch()..].as_ptr(),
                    };
                }
            }
            scratch::with(PRODUCTS * apart + SUMS * (piece * width + SKEW), |room| {
                let (products, panel) = room.split_at_mut(PRODUCTS * apart);
                for pair in pairs {
                    for skip in (0..self.half).step_by(piece) {
                        let later = (skip + piece).min(self.half);
                        let next = if later < self.half { (pair, later) } else { (pair + 1, 0) };
                        self.piece(pair, skip..later, next, pointers, panel, products, apart);
                    }
                    self.finish(block, pair, products, apart);
                }
            })
        })?
    }

    /// Floats of a row of a panel.
    fn width(&self) -> usize {
        2 * tile::lanes(self.w.level)
    }

    /// The weights of a quarter of a pair of panels from some depth on.
    fn right(&self, quarter: usize, (pair, skip): (usize, usize)) -> &[f32] {
        let panel = self.w.panels[(pair + quarter % 2 * self.pairs()).min(self.w.panels.len() - 1)];
        &self.w.data()[panel.start + (quarter / 2 * self.half + skip) * self.width()..]
    }

    /// Adds a piece of the depth of a pair of panels to the products. The next piece, which begins at a pair
    /// and a depth, is brought near meanwhile. The table has a pointer for each row of each product's left
    /// operand, and `panel` room for the sums of the piece.
    fn piece(
        &self,
        pair: usize,
        piece: Range<usize>,
        next: (usize, usize),
        table: &[*const f32],
        panel: &mut [f32],
        products: &mut [f32],
        apart: usize,
    ) {
        let (level, width) = (self.w.level, self.width());
        let (skip, depth) = (piece.start, piece.len());
        let rows = table.len() / PRODUCTS;
        let tiles = rows.div_ceil(tile::most_rows(level, 2));
        let quarter = |q: usize| self.right(q, (pair, skip))[..depth * width].as_ptr();
        let apart_sums = panel.len() / SUMS;
        let of = std::array::from_fn(quarter);
        let sums = Sums { of, to: panel.as_mut_ptr(), apart: apart_sums, count: depth * width };
        // SAFETY: the quarters have that many floats, and the room as many for each sum.
        unsafe { rows::run(level, sums) };
        for (product, factor) in RIGHT.iter().enumerate() {
            let b = match *factor {
                Quarter(q) => of[q],
                Sum(sum) => panel[sum * apart_sums..].as_ptr(),
            };
            // Four of the seven fetch a quarter each.
            let fetched = if product < 4 { self.right(product, next).as_ptr() } else { b };
            let ahead = fetched.addr().wrapping_sub(b.addr()).cast_signed() / size_of::<f32>() as isize;
            for i in 0..tiles {
                let of = i * rows / tiles..(i + 1) * rows / tiles;
                let to = products[product * apart + of.start * width..].as_mut_ptr();
                let t = Tile {
                    rows: table[product * rows + of.start..].as_ptr(),
                    pitch: 0,
                    runs: 1,
                    skip,
                    depth,
                    b,
                    vectors: 2,
                    from: if skip == 0 { null() } else { to },
                    from_pitch: width,
                    to,
                    to_pitch: width,
                    height: of.len(),
                    columns: width,
                    finish: Finish::NONE,
                    ahead: tile::ahead(level, ahead, width, i, tiles),
                };
                // SAFETY: behind each pointer is half the depth, the piece has as many rows, and the products'
                // room whole rows of the panel.
                unsafe { tile::run(level, &t) };
            }
        }
    }

    /// Adds the products of a pair of panels up to outputs.
    fn finish(&self, block: &Range<usize>, pair: usize, products: &[f32], apart: usize) {
        let (w, level, width) = (self.w, self.w.level, self.width());
        let top = block.len().div_ceil(2);
        let mut side = Side::new();
        let complete = self.parts.complete();
        for quarter in 0..4 {
            let p = w.panels[pair + quarter % 2 * self.pairs()];
            let rows = if quarter < 2 { 0..top } else { top..block.len() };
            let most = if complete { top } else { MAX_ROWS };
            for first in rows.clone().step_by(most) {
                let count = most.min(rows.end - first);
                let row = block.start + first;
                let out = self.target.out.as_ptr().wrapping_add(row * self.target.pitch + p.column);
                let out = Rows::line(out, count, self.target.pitch, width);
                let to = if complete { out } else { Rows::line(side.tile.as_mut_ptr(), count, width, width) };
                let products = products[(first - rows.start) * width..].as_ptr();
                let finish = self.parts.finish(row, p.column);
                // SAFETY: each product has the rows; this task alone writes these rows' columns.
                unsafe {
                    match quarter {
                        0 => rows::run(level, Part::<0> { products, apart, finish, to }),
                        1 => rows::run(level, Part::<1> { products, apart, finish, to }),
                        2 => rows::run(level, Part::<2> { products, apart, finish, to }),
                        _ => rows::run(level, Part::<3> { products, apart, finish, to }),
                    }
                }
                // SAFETY: as above.
                unsafe { self.parts.activate(level, to) };
                if !complete {
                    self.parts.apply_rest(level, &mut side, count, width, |i| row + i, p.column);
                    // SAFETY: as above; the side buffer holds the rows.
                    unsafe { rows::copy(level, &side.tile, out) };
                }
            }
        }
    }
}

/// Adds up four quarters.
struct Sums {
    of: [*const f32; 4],
    /// The first sum, each `apart` floats before the next.
    to: *mut f32,
    apart: usize,
    count: usize,
}

impl Work for Sums {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Sums { of, to, apart, count } = self;
        let whole = count / V::LANES * V::LANES;
        // SAFETY: all quarters and sums have `count` floats.
        unsafe {
            for i in (0..whole).step_by(V::LANES) {
                add::<V>(of, to, apart, i, V::LANES);
            }
            if whole < count {
                add::<V>(of, to, apart, whole, count - whole);
            }
        }
    }
}

/// # Safety
/// As [`Sums`], whose `n` floats from `i` on are added.
#[inline(always)]
unsafe fn add<V: Vector>(of: [*const f32; 4], to: *mut f32, apart: usize, i: usize, n: usize) {
    // SAFETY: forwarded.
    unsafe {
        let mut x = [V::splat(0.0); 4];
        for q in 0..4 {
            x[q] = rows::load(of[q].add(i), n);
        }
        let sums = sums_of(x);
        for s in 0..SUMS {
            rows::store(sums[s], to.add(s * apart + i), n);
        }
    }
}

/// Some rows of quarter `Q` of the result, two vectors wide.
struct Part<const Q: usize> {
    /// The first row of the first product, each `apart` floats before the next.
    products: *const f32,
    apart: usize,
    finish: Finish,
    to: Rows,
}

impl<const Q: usize> Work for Part<Q> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Part { products, apart, finish, to } = self;
        for row in 0..to.size[1] {
            for v in 0..2 {
                // SAFETY: the rows are two vectors in every product and in the output, and the finish's
                // operands have them.
                unsafe {
                    let mut sum = V::splat(0.0);
                    for product in 0..PRODUCTS {
                        let x = products.add(product * apart + (2 * row + v) * V::LANES);
                        match RESULT[Q][product] {
                            0 => {}
                            1 => sum = V::add(sum, V::load(x)),
                            _ => sum = V::sub(sum, V::load(x)),
                        }
                    }
                    let sum = finish.one(sum, row, v * V::LANES, V::LANES);
                    sum.store(to.start.add(row * to.pitches[1] + v * V::LANES));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
