//! Small things done to the rows of a tile after it, while it is in the first-level cache: a call for each
//! row would cost more than the work.

use crate::simd::Level;
#[cfg(target_arch = "x86_64")]
use crate::simd::Tier;
use crate::simd::vector::{Base, Vector};

/// Lines of rows of floats.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    pub start: *mut f32,
    /// Lines, and rows of each.
    pub size: [usize; 2],
    /// Floats from one line and row to the next.
    pub pitches: [usize; 2],
    pub columns: usize,
}

impl Rows {
    /// A single line.
    pub(crate) fn line(start: *mut f32, count: usize, pitch: usize, columns: usize) -> Rows {
        Rows { start, size: [1, count], pitches: [0, pitch], columns }
    }
}

/// Something done to rows, compiled for every level.
pub(crate) trait Work {
    /// # Safety
    /// `V`'s instructions are available, and what the work touches is there.
    unsafe fn run<V: Vector>(self);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
unsafe fn run_avx512<W: Work>(work: W) {
    // SAFETY: forwarded; the instructions are on.
    unsafe { work.run::<std::arch::x86_64::__m512>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn run_avx2<W: Work>(work: W) {
    // SAFETY: as above.
    unsafe { work.run::<std::arch::x86_64::__m256>() }
}

/// # Safety
/// What the work touches is there.
pub(crate) unsafe fn run<W: Work>(level: Level, work: W) {
    match level.tier() {
        // SAFETY: forwarded; a level exists only where its instructions do.
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512 => unsafe { run_avx512(work) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => unsafe { run_avx2(work) },
        // SAFETY: as above.
        _ => unsafe { work.run::<Base>() },
    }
}

/// Calls `f` for every vector of the rows with its place, its place if the rows were dense, and its floats.
#[inline(always)]
pub(crate) fn each<V: Vector>(rows: Rows, mut f: impl FnMut(*mut f32, usize, usize)) {
    for y in 0..rows.size[0] {
        for x in 0..rows.size[1] {
            let row = rows.start.wrapping_add(y * rows.pitches[0] + x * rows.pitches[1]);
            let dense = (y * rows.size[1] + x) * rows.columns;
            for c in (0..rows.columns).step_by(V::LANES) {
                f(row.wrapping_add(c), dense + c, (rows.columns - c).min(V::LANES));
            }
        }
    }
}

/// # Safety
/// `V`'s instructions are available, and `p` has `n <= V::LANES` floats.
#[inline(always)]
pub(crate) unsafe fn load<V: Vector>(p: *const f32, n: usize) -> V {
    // SAFETY: forwarded.
    unsafe { if n == V::LANES { V::load(p) } else { V::load_first(p, n) } }
}

/// # Safety
/// As [`load`].
#[inline(always)]
pub(crate) unsafe fn store<V: Vector>(x: V, p: *mut f32, n: usize) {
    // SAFETY: forwarded.
    unsafe { if n == V::LANES { x.store(p) } else { x.store_first(p, n) } }
}

struct Copy<'a>(&'a [f32], Rows);

impl Work for Copy<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Copy(from, to) = self;
        // SAFETY: the vector is inside its row, and the dense rows hold as many.
        each::<V>(to, |p, dense, n| unsafe { store(load::<V>(from.as_ptr().add(dense), n), p, n) });
    }
}

/// Copies dense rows.
///
/// # Safety
/// The rows are there, and nobody else touches them.
pub(crate) unsafe fn copy(level: Level, from: &[f32], to: Rows) {
    assert!(from.len() >= to.size[0] * to.size[1] * to.columns);
    // SAFETY: forwarded.
    unsafe { run(level, Copy(from, to)) }
}
