//! The register tile: a few rows by two vectors of output, kept in registers over a block of depth.

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
            Tier::Baseline => Geometry { rows: 6, columns: 8 },
        }
    }

    /// Rows of each panel of an `m`-row operand: as even as they can be, so that the last is not thin.
    pub(crate) fn panel_rows(self, m: usize) -> usize {
        m.div_ceil(m.div_ceil(self.rows).max(1)).max(1)
    }
}

/// A vector of floats.
trait Vector: Copy {
    const LANES: usize;
    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(p: *const f32) -> Self;
    unsafe fn store(self, p: *mut f32);
    unsafe fn mul_add(a: Self, b: Self, c: Self) -> Self;
    unsafe fn add(a: Self, b: Self) -> Self;
    /// Brings the cache lines of two vectors near; any address will do.
    #[inline(always)]
    fn prefetch(_: *const f32) {}
}

#[derive(Clone, Copy)]
#[repr(align(16))]
struct Quad([f32; 4]);

impl Vector for Quad {
    const LANES: usize = 4;
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Quad([x; 4])
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the caller gives four readable floats; an array of floats needs no more alignment.
        Quad(unsafe { *p.cast::<[f32; 4]>() })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the caller gives four writable floats.
        unsafe { *p.cast::<[f32; 4]>() = self.0 }
    }
    #[inline(always)]
    unsafe fn mul_add(a: Self, b: Self, c: Self) -> Self {
        if cfg!(target_arch = "aarch64") {
            Quad(std::array::from_fn(|i| a.0[i].mul_add(b.0[i], c.0[i])))
        } else {
            Quad(std::array::from_fn(|i| a.0[i] * b.0[i] + c.0[i]))
        }
    }
    #[inline(always)]
    unsafe fn add(a: Self, b: Self) -> Self {
        Quad(std::array::from_fn(|i| a.0[i] + b.0[i]))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Vector;
    use std::arch::x86_64::*;

    macro_rules! vector {
        ($t:ty, $lanes:expr, $splat:ident, $load:ident, $store:ident, $fma:ident, $add:ident) => {
            // Every method is inlined into a function that has the instructions on.
            impl Vector for $t {
                const LANES: usize = $lanes;
                #[inline(always)]
                unsafe fn splat(x: f32) -> Self {
                    // SAFETY: the caller has the instructions.
                    unsafe { $splat(x) }
                }
                #[inline(always)]
                unsafe fn load(p: *const f32) -> Self {
                    // SAFETY: the caller has the instructions and gives that many readable floats.
                    unsafe { $load(p) }
                }
                #[inline(always)]
                unsafe fn store(self, p: *mut f32) {
                    // SAFETY: the caller has the instructions and gives that many writable floats.
                    unsafe { $store(p, self) }
                }
                #[inline(always)]
                unsafe fn mul_add(a: Self, b: Self, c: Self) -> Self {
                    // SAFETY: the caller has the instructions.
                    unsafe { $fma(a, b, c) }
                }
                #[inline(always)]
                unsafe fn add(a: Self, b: Self) -> Self {
                    // SAFETY: the caller has the instructions.
                    unsafe { $add(a, b) }
                }
                #[inline(always)]
                fn prefetch(p: *const f32) {
                    for line in 0..(2 * Self::LANES).div_ceil(16) {
                        // SAFETY: every x86-64 processor has the instruction, and it never faults.
                        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(16 * line).cast()) };
                    }
                }
            }
        };
    }
    vector!(__m512, 16, _mm512_set1_ps, _mm512_loadu_ps, _mm512_storeu_ps, _mm512_fmadd_ps, _mm512_add_ps);
    vector!(__m256, 8, _mm256_set1_ps, _mm256_loadu_ps, _mm256_storeu_ps, _mm256_fmadd_ps, _mm256_add_ps);
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
            for i in 0..MR {
                let av = V::splat(*a.add(i));
                for v in 0..NV {
                    acc[i][v] = V::mul_add(av, bv[v], acc[i][v]);
                }
            }
            a = a.add(MR);
            b = b.add(NR);
        }
        if t.columns == NV * V::LANES {
            for i in 0..MR {
                let c = t.c.add(i * t.c_stride);
                for v in 0..NV {
                    let p = c.add(v * V::LANES);
                    let x = if t.accumulate { V::add(V::load(p), acc[i][v]) } else { acc[i][v] };
                    x.store(p);
                }
            }
        } else {
            let mut row = [0.0f32; MAX_COLUMNS];
            for i in 0..MR {
                for v in 0..NV {
                    acc[i][v].store(row.as_mut_ptr().add(v * V::LANES));
                }
                let c = std::slice::from_raw_parts_mut(t.c.add(i * t.c_stride), t.columns);
                if t.accumulate {
                    c.iter_mut().zip(&row).for_each(|(c, r)| *c += r);
                } else {
                    c.copy_from_slice(&row[..t.columns]);
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

unsafe fn run_portable(t: Tile) {
    if t.columns > 4 {
        by_rows!(t, Quad, 2, 8, 1 2 3 4 5 6);
    } else {
        by_rows!(t, Quad, 1, 8, 1 2 3 4 5 6);
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
        _ => unsafe { run_portable(t) },
    }
}
