//! The register tile: a few rows by two vectors of output, kept in registers over a block of depth.

use crate::simd::vector::{Base, Vector};
use crate::simd::{Level, Tier};

/// Shape of the register tile at a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Most rows of a tile.
    pub rows: usize,
    /// Columns of a tile and of a packed panel.
    pub columns: usize,
}

/// How many floats before their use a stream of B is asked for.
const AHEAD: usize = 1024;

/// Widest panel of any level.
pub(crate) const MAX_COLUMNS: usize = 32;

impl Geometry {
    pub(crate) fn of(level: Level) -> Geometry {
        match level.tier() {
            Tier::Avx512 => Geometry { rows: 14, columns: 32 },
            Tier::Avx2 => Geometry { rows: 6, columns: 16 },
            Tier::Baseline if cfg!(target_arch = "aarch64") => Geometry { rows: 8, columns: 12 },
            Tier::Baseline => Geometry { rows: 6, columns: 8 },
        }
    }

    /// Rows of each panel of an `m`-row operand: as even as they can be, so that the last is not thin.
    pub(crate) fn panel_rows(self, m: usize) -> usize {
        m.div_ceil(m.div_ceil(self.rows).max(1)).max(1)
    }
}

/// Where a tile's operands are. Panels are packed by depth: `rows` floats of A, `NR` floats of B a step.
#[derive(Clone, Copy)]
pub(crate) struct Tile {
    pub depth: usize,
    pub a: *const f32,
    pub b: *const f32,
    pub c: *mut f32,
    pub c_stride: usize,
    /// Rows of the A panel and of the tile.
    pub rows: usize,
    /// Columns of the tile that exist; the B panel is full width whatever this is.
    pub columns: usize,
    /// Add to what is in C instead of replacing it.
    pub accumulate: bool,
}

/// # Safety
/// `V`'s instructions are available; `t.a` has `depth * MR` floats, `t.b` has `depth * NR`, and C has
/// `MR` rows of `t.columns <= NV * V::LANES <= NR` floats at `c_stride`, which nobody else touches.
#[inline(always)]
unsafe fn tile<V: Vector, const MR: usize, const NV: usize, const NR: usize>(t: Tile) {
    // SAFETY: all pointer steps stay inside what the function's contract gives.
    unsafe {
        let mut acc = [[V::splat(0.0); NV]; MR];
        let (mut a, mut b) = (t.a, t.b);
        for _ in 0..t.depth {
            // Few rows wait for B, which comes from memory: ask for it early, also across pages.
            if MR <= 2 {
                V::prefetch(b.wrapping_add(AHEAD));
            }
            let mut bv = [V::splat(0.0); NV];
            for v in 0..NV {
                bv[v] = V::load(b.add(v * V::LANES));
            }
            V::step(a, &bv, &mut acc);
            a = a.add(MR);
            b = b.add(NR);
        }
        let whole = t.columns == NV * V::LANES;
        for i in 0..MR {
            let c = t.c.add(i * t.c_stride);
            for v in 0..NV {
                let p = c.wrapping_add(v * V::LANES);
                let n = t.columns.saturating_sub(v * V::LANES).min(V::LANES);
                let mut x = acc[i][v];
                if t.accumulate {
                    x = V::add(if whole { V::load(p) } else { V::load_first(p, n) }, x);
                }
                if whole {
                    x.store(p);
                } else {
                    x.store_first(p, n);
                }
            }
        }
    }
}

macro_rules! by_rows {
    ($t:ident, $v:ty, $nv:literal, $nr:literal, $($rows:literal)+) => {
        match $t.rows {
            // SAFETY: forwarded from the caller.
            $($rows => unsafe { tile::<$v, $rows, $nv, $nr>($t) },)+
            _ => unreachable!("a panel has no more rows than the geometry says"),
        }
    };
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
unsafe fn run_avx512(t: Tile) {
    use std::arch::x86_64::__m512;
    if t.columns > 16 {
        by_rows!(t, __m512, 2, 32, 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    } else {
        by_rows!(t, __m512, 1, 32, 1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn run_avx2(t: Tile) {
    use std::arch::x86_64::__m256;
    if t.columns > 8 {
        by_rows!(t, __m256, 2, 16, 1 2 3 4 5 6);
    } else {
        by_rows!(t, __m256, 1, 16, 1 2 3 4 5 6);
    }
}

#[cfg(not(target_arch = "aarch64"))]
unsafe fn run_baseline(t: Tile) {
    if t.columns > 4 {
        by_rows!(t, Base, 2, 8, 1 2 3 4 5 6);
    } else {
        by_rows!(t, Base, 1, 8, 1 2 3 4 5 6);
    }
}

#[cfg(target_arch = "aarch64")]
unsafe fn run_baseline(t: Tile) {
    if t.columns > 8 {
        by_rows!(t, Base, 3, 12, 1 2 3 4 5 6 7 8);
    } else if t.columns > 4 {
        by_rows!(t, Base, 2, 12, 1 2 3 4 5 6 7 8);
    } else {
        by_rows!(t, Base, 1, 12, 1 2 3 4 5 6 7 8);
    }
}

/// Computes one tile.
///
/// # Safety
/// With `g = Geometry::of(level)`: `t.a` has `depth * rows` floats with `1 <= rows <= g.rows`, `t.b` has
/// `depth * g.columns`, and C has `rows` rows of `1 <= t.columns <= g.columns` floats at `c_stride`,
/// which nobody else touches.
#[inline]
pub(crate) unsafe fn run(level: Level, t: Tile) {
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
