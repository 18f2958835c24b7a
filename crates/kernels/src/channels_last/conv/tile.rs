//! The register tile: a few pixels by a few vectors of output channels, kept in registers over the depth.
//!
//! The pixels' inputs are read where they lie, one pointer for each pixel and run of channels, and spread
//! over a vector one float at a time; the weights are packed. Nothing of the activation is copied.

use crate::simd::vector::{Base, Vector};
use crate::simd::{Level, Tier};
use std::ptr::null;

/// Most floats of a panel's row at any level.
pub(crate) const MAX_COLUMNS: usize = 48;
/// Most rows of a tile at any level.
pub(crate) const MAX_ROWS: usize = 12;

/// Floats of a vector at a level.
pub(crate) fn lanes(level: Level) -> usize {
    match level.tier() {
        Tier::Avx512 => 16,
        Tier::Avx2 => 8,
        Tier::Baseline => 4,
    }
}

/// Vectors of the widest panel at a level.
pub(crate) fn most_vectors(level: Level) -> usize {
    match level.tier() {
        Tier::Avx512 | Tier::Avx2 => 3,
        Tier::Baseline if NEON => 3,
        Tier::Baseline => 2,
    }
}

/// Most rows of a tile whose panel is `vectors` wide.
pub(crate) fn most_rows(level: Level, vectors: usize) -> usize {
    match (level.tier(), vectors) {
        (Tier::Avx512, 1 | 2) => 12,
        (Tier::Avx512, _) => 8,
        (Tier::Avx2, 1 | 2) => 6,
        // Four would need all sixteen registers, and the compiler wants one more.
        (Tier::Avx2, _) => 3,
        // Beside the sums, a vector of each row's next four floats and one row of the panel.
        (Tier::Baseline, 1 | 2) if NEON => 8,
        (Tier::Baseline, _) if NEON => 7,
        (Tier::Baseline, _) => 4,
    }
}

/// Whether the baseline has 32 vector registers.
const NEON: bool = cfg!(target_arch = "aarch64");

/// Floats of a cache line.
const LINE: usize = 16;

/// Steps of depth of a tile that are enough for its output's lines to come near meanwhile.
const WRITTEN_LATE: usize = 32;

/// Rows that are too few to hide how far away the weights are.
const FEW_ROWS: usize = 2;
/// How many floats before their use the weights of few rows are asked for.
const STREAM: usize = 512;

/// What tile `i` of `tiles` brings near in two places, of the floats that lie `apart` from those that all of them
/// use. Of each four steps' lines every one has its tile, so that the fetching is even and none is asked for
/// twice, which costs as much as one that is far away; if tiles are few, some are left to the processor.
pub(crate) fn ahead(level: Level, apart: isize, width: usize, i: usize, tiles: usize) -> [isize; 2] {
    if lanes(level) == 16 {
        // Twelve rows leave a register for one place, from which four lines are brought.
        return [apart + (4 * width * i / tiles / LINE * LINE) as isize; 2];
    }
    let lines = (4 * width).div_ceil(LINE);
    let first = (i * lines).div_ceil(tiles);
    let count = ((i + 1) * lines).div_ceil(tiles) - first;
    // Where the tile's own panel is, nothing has to be brought.
    let line = |l: usize| if l < count { apart + ((first + l) * LINE) as isize } else { 0 };
    [line(0), line(1)]
}

/// What happens to a finished tile on its way out, in this order.
#[derive(Clone, Copy)]
pub(crate) struct Finish {
    /// A number for each column, from the tile's first on; null for none.
    pub bias: *const f32,
    /// An addend for each element, from the tile's corner on; null for none.
    pub residual: *const f32,
    pub residual_pitch: usize,
    /// Nothing below zero, and no negative zero.
    pub relu: bool,
    pub high: Option<f32>,
}

impl Finish {
    pub(crate) const NONE: Finish =
        Finish { bias: null(), residual: null(), residual_pitch: 0, relu: false, high: None };

    /// Finishes a vector of `n` elements that begins at this row and column of the tile.
    ///
    /// # Safety
    /// `V`'s instructions are available, and the operands have these elements.
    #[inline(always)]
    pub(crate) unsafe fn one<V: Vector>(&self, x: V, row: usize, column: usize, n: usize) -> V {
        let mut x = x;
        // SAFETY: forwarded.
        unsafe {
            let load = |p: *const f32| if n == V::LANES { V::load(p) } else { V::load_first(p, n) };
            if !self.bias.is_null() {
                x = V::add(x, load(self.bias.add(column)));
            }
            if !self.residual.is_null() {
                x = V::add(x, load(self.residual.add(row * self.residual_pitch + column)));
            }
            if self.relu {
                // The sum turns a negative zero, which the maximum lets pass, into a positive one.
                let zero = V::splat(0.0);
                x = V::add(V::max(zero, x), zero);
            }
            if let Some(high) = self.high {
                x = V::min(V::splat(high), x);
            }
        }
        x
    }
}

/// One tile and where its operands are.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    /// A pointer for each row of the first run; those of the next run are `pitch` further.
    pub rows: *const *const f32,
    pub pitch: usize,
    pub runs: usize,
    /// Which floats behind each pointer count.
    pub skip: usize,
    pub depth: usize,
    /// The panel: a row of `vectors` vectors for each float of each run.
    pub b: *const f32,
    pub vectors: usize,
    /// Sums so far; null to start from zero.
    pub from: *const f32,
    pub from_pitch: usize,
    pub to: *mut f32,
    pub to_pitch: usize,
    pub height: usize,
    /// Columns that exist; the panel is full width whatever this is.
    pub columns: usize,
    pub finish: Finish,
    /// How far behind the panel's rows to bring floats near meanwhile: see [`ahead`].
    pub ahead: [isize; 2],
}

/// # Safety
/// `V`'s instructions are available; the pointers give what [`run`] asks for with `MR` rows and `NV`
/// vectors.
#[inline(always)]
unsafe fn tile<V: Vector, const MR: usize, const NV: usize>(t: &Tile) {
    let width = NV * V::LANES;
    let whole = t.columns == width;
    // SAFETY: all pointer steps stay inside what the function's contract gives.
    unsafe {
        let mut acc = [[V::splat(0.0); NV]; MR];
        if !t.from.is_null() {
            for i in 0..MR {
                let from = t.from.add(i * t.from_pitch);
                for v in 0..NV {
                    acc[i][v] = load_part(from, v, t.columns, whole);
                }
            }
        }
        if MR > FEW_ROWS && t.depth >= WRITTEN_LATE {
            // Stores to lines that are far away would fill the queue when the sums are done, and loads of what is
            // added to them would be waited for.
            for i in 0..MR {
                for line in 0..width.div_ceil(LINE) {
                    V::prefetch_written(t.to.wrapping_add(i * t.to_pitch + LINE * line));
                    if !t.finish.residual.is_null() {
                        let row = t.finish.residual.wrapping_add(i * t.finish.residual_pitch);
                        V::prefetch_line(row.wrapping_add(LINE * line));
                    }
                }
            }
        }
        let fours = (t.depth / 4 * 4) as isize;
        let mut b = t.b;
        let mut rows = t.rows;
        for _ in 0..t.runs {
            // The pointers are to the end of what is done by fours, so that one counter in bytes, which
            // ends at zero, serves all addresses: the loop needs every general register there is.
            let mut a = [null::<f32>(); MR];
            for i in 0..MR {
                a[i] = (*rows.add(i)).add(t.skip).offset(fours);
            }
            let mut k = -4 * fours;
            while k != 0 {
                k = V::opaque(k);
                if MR <= FEW_ROWS {
                    // Few rows wait for the panel, which comes from memory in one stream.
                    for line in 0..4 * width / LINE {
                        V::prefetch_line(b.wrapping_add(STREAM + LINE * line));
                    }
                } else if V::LANES == 16 {
                    for line in 0..4 {
                        V::prefetch_line(b.wrapping_offset(t.ahead[0]).wrapping_add(LINE * line));
                    }
                } else {
                    for ahead in t.ahead {
                        V::prefetch_line(b.wrapping_offset(ahead));
                    }
                }
                V::four_steps(&a, k, b, &mut acc);
                b = b.add(4 * width);
                k += 16;
            }
            for u in 0..t.depth % 4 {
                step(&a, 4 * u as isize, b, &mut acc);
                b = b.add(width);
            }
            rows = rows.add(t.pitch);
        }
        let f = &t.finish;
        if !f.bias.is_null() {
            let mut bias = [V::splat(0.0); NV];
            for v in 0..NV {
                bias[v] = load_part(f.bias, v, t.columns, whole);
            }
            for i in 0..MR {
                for v in 0..NV {
                    acc[i][v] = V::add(acc[i][v], bias[v]);
                }
            }
        }
        if !f.residual.is_null() {
            for i in 0..MR {
                let residual = f.residual.add(i * f.residual_pitch);
                for v in 0..NV {
                    acc[i][v] = V::add(acc[i][v], load_part(residual, v, t.columns, whole));
                }
            }
        }
        if f.relu {
            // The sum with zero turns a negative zero, which the maximum lets pass, into a positive one.
            let zero = V::splat(0.0);
            for i in 0..MR {
                for v in 0..NV {
                    acc[i][v] = V::add(V::max(zero, acc[i][v]), zero);
                }
            }
        }
        if let Some(high) = f.high {
            let high = V::splat(high);
            for i in 0..MR {
                for v in 0..NV {
                    acc[i][v] = V::min(high, acc[i][v]);
                }
            }
        }
        for i in 0..MR {
            let to = t.to.add(i * t.to_pitch);
            for v in 0..NV {
                if whole {
                    acc[i][v].store(to.add(v * V::LANES));
                } else {
                    let n = t.columns.saturating_sub(v * V::LANES).min(V::LANES);
                    acc[i][v].store_first(to.wrapping_add(v * V::LANES), n);
                }
            }
        }
    }
}

/// One step of depth: every row's float, `k` bytes on, by the panel's row.
#[inline(always)]
unsafe fn step<V: Vector, const MR: usize, const NV: usize>(
    a: &[*const f32; MR],
    k: isize,
    b: *const f32,
    acc: &mut [[V; NV]; MR],
) {
    // SAFETY: forwarded from the tile.
    unsafe {
        let mut bv = [V::splat(0.0); NV];
        for v in 0..NV {
            bv[v] = V::load(b.add(v * V::LANES));
        }
        for i in 0..MR {
            let av = V::splat(*a[i].byte_offset(k));
            for v in 0..NV {
                acc[i][v] = V::mul_add(av, bv[v], acc[i][v]);
            }
        }
    }
}

/// Vector `v` of a row of `columns` floats.
#[inline(always)]
unsafe fn load_part<V: Vector>(p: *const f32, v: usize, columns: usize, whole: bool) -> V {
    // SAFETY: the row has `columns` floats, and all of the vector if it is whole.
    unsafe {
        if whole {
            V::load(p.add(v * V::LANES))
        } else {
            V::load_first(p.wrapping_add(v * V::LANES), columns.saturating_sub(v * V::LANES).min(V::LANES))
        }
    }
}

macro_rules! by_size {
    ($t:ident, $v:ty, $($nv:literal: $($rows:literal)+;)+) => {
        match ($t.vectors, $t.height) {
            // SAFETY: forwarded from the caller.
            $($(($nv, $rows) => unsafe { tile::<$v, $rows, $nv>($t) },)+)+
            _ => unreachable!("a tile is no larger than its level allows"),
        }
    };
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
unsafe fn run_avx512(t: &Tile) {
    use std::arch::x86_64::__m512;
    by_size!(t, __m512, 1: 1 2 3 4 5 6 7 8 9 10 11 12; 2: 1 2 3 4 5 6 7 8 9 10 11 12; 3: 1 2 3 4 5 6 7 8;);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn run_avx2(t: &Tile) {
    use std::arch::x86_64::__m256;
    by_size!(t, __m256, 1: 1 2 3 4 5 6; 2: 1 2 3 4 5 6; 3: 1 2 3;);
}

#[cfg(not(target_arch = "aarch64"))]
unsafe fn run_baseline(t: &Tile) {
    by_size!(t, Base, 1: 1 2 3 4; 2: 1 2 3 4;);
}

#[cfg(target_arch = "aarch64")]
unsafe fn run_baseline(t: &Tile) {
    by_size!(t, Base, 1: 1 2 3 4 5 6 7 8; 2: 1 2 3 4 5 6 7 8; 3: 1 2 3 4 5 6 7;);
}

/// Panels that a single row reads side by side: memory gives more to several streams than to one.
pub(crate) const STREAMS: usize = 4;

/// The sums of one row's products with some panels of two vectors, in the order in which a tile makes them.
///
/// # Safety
/// `V`'s instructions are available, and the pointers give what [`run_streams`] asks for.
#[inline(always)]
unsafe fn streams<V: Vector>(a: *const f32, depth: usize, b: [*const f32; STREAMS], to: [*mut f32; STREAMS]) {
    let width = 2 * V::LANES;
    // SAFETY: all pointer steps stay inside what the function's contract gives.
    unsafe {
        let mut acc = [[V::splat(0.0); 2]; STREAMS];
        for k in 0..depth {
            if k % 4 == 0 {
                for p in b {
                    for line in 0..4 * width / LINE {
                        V::prefetch_line(p.wrapping_add(k * width + STREAM + LINE * line));
                    }
                }
            }
            let x = V::splat(*a.add(k));
            for p in 0..STREAMS {
                for v in 0..2 {
                    acc[p][v] = V::mul_add(x, V::load(b[p].add(k * width + v * V::LANES)), acc[p][v]);
                }
            }
        }
        for p in 0..STREAMS {
            for v in 0..2 {
                acc[p][v].store(to[p].add(v * V::LANES));
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
unsafe fn streams_avx512(a: *const f32, depth: usize, b: [*const f32; STREAMS], to: [*mut f32; STREAMS]) {
    // SAFETY: forwarded; the instructions are on.
    unsafe { streams::<std::arch::x86_64::__m512>(a, depth, b, to) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn streams_avx2(a: *const f32, depth: usize, b: [*const f32; STREAMS], to: [*mut f32; STREAMS]) {
    // SAFETY: as above.
    unsafe { streams::<std::arch::x86_64::__m256>(a, depth, b, to) }
}

/// Writes the sums of one row's products with some panels of two vectors.
///
/// # Safety
/// `a` has `depth` readable floats, each panel as many rows, and each place to write room for one of them, which
/// nobody else touches.
pub(crate) unsafe fn run_streams(
    level: Level,
    a: *const f32,
    depth: usize,
    b: [*const f32; STREAMS],
    to: [*mut f32; STREAMS],
) {
    match level.tier() {
        // SAFETY: forwarded; a level exists only where its instructions do.
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512 => unsafe { streams_avx512(a, depth, b, to) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => unsafe { streams_avx2(a, depth, b, to) },
        // SAFETY: as above.
        _ => unsafe { streams::<Base>(a, depth, b, to) },
    }
}

/// Computes one tile.
///
/// # Safety
/// `t.vectors` and `t.height` are at least 1 and within [`most_vectors`] and [`most_rows`], and
/// `t.columns` is in `1..=vectors * lanes`. `rows` has `height` pointers for each of `runs` runs, with
/// `skip + depth` readable floats behind each; the panel has `runs * depth` rows. `from` (unless null)
/// and `to` have `height` rows of `columns` floats at their pitches, and so have the finish's operands;
/// nobody else touches those of `to` meanwhile.
#[inline]
pub(crate) unsafe fn run(level: Level, t: &Tile) {
    match level.tier() {
        // SAFETY: forwarded; a level exists only where its instructions do.
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512 => unsafe { run_avx512(t) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => unsafe { run_avx2(t) },
        // SAFETY: as above.
        _ => unsafe { run_baseline(t) },
    }
}
