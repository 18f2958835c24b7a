//! The register tile of integer products: a few rows of the activation by one or two vectors of columns, over
//! the whole depth, and what turns its sums into results.

use super::apart::{self, Apart, Groups};
use crate::channels_last::conv::tile::Finish as Floats;
use crate::simd::integer::{Narrow, Sums};
use crate::simd::vector::Vector;
use std::ops::Range;

/// Most rows of a tile in any form.
pub(crate) const MAX_ROWS: usize = 12;
/// Most columns of a tile in any form.
pub(crate) const MAX_COLUMNS: usize = 32;

/// What is larger than words could not be told from what is smaller.
pub(crate) const WORD: f32 = 32767.0;

/// Where finished results go, from the tile's corner on.
#[derive(Clone, Copy)]
pub(crate) enum To {
    /// As they are.
    Sums { to: *mut i32, pitch: usize },
    /// As real numbers, with what else happens to them.
    Floats { to: *mut f32, pitch: usize, then: Floats },
    /// As bytes.
    Bytes { to: *mut u8, pitch: usize, steps: Steps },
}

/// How numbers in steps of quantization become bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Steps {
    /// Limits, counted from the zero point.
    pub low: f32,
    pub high: f32,
    /// The byte that stands for zero, as if bytes had no sign.
    pub zero: i32,
    /// 0x80 where bytes have a sign.
    pub flip: i32,
    /// The same among whole numbers.
    pub narrow: Narrow,
}

impl Steps {
    /// Steps between limits, `zero` and `flip` being what they are in [`Steps`].
    pub(crate) fn new(low: f32, high: f32, zero: i32, flip: i32) -> Steps {
        // Rounding keeps the order of numbers, so that limits may be rounded, too.
        let byte = |x: f32| (x.round_ties_even() + zero as f32).clamp(0.0, 255.0) as u8;
        let narrow = Narrow { zero: zero as i16, low: byte(low), high: byte(high), flip: flip as u8 };
        Steps { low, high, zero, flip, narrow }
    }
}

/// What a sum of products becomes: `(start + sum - row_sum * zero) * scale + bias`.
#[derive(Clone, Copy)]
pub(crate) struct Finish<'a> {
    /// What sums begin with; for each column, as the others.
    pub starts: &'a [i32],
    pub scales: &'a [f32],
    /// Empty for none.
    pub bias: &'a [f32],
    /// What stands for zero in the weights; empty for zero.
    pub zeros: &'a [i32],
}

/// One tile, or a few below each other that share what comes before and after their sums.
pub(crate) struct Tile<'a, X> {
    /// Where each row's activation begins.
    pub rows: &'a [*const X],
    /// Where runs begin, counted from there.
    pub runs: &'a [usize],
    /// Elements of a run.
    pub depth: usize,
    pub b: *const i8,
    /// The sums of the row's products, where there is one row and they are known; null otherwise.
    pub from: *const i32,
    pub vectors: usize,
    pub column: usize,
    pub columns: usize,
    /// Sums of the rows' activations; empty where no weight needs them.
    pub row_sums: &'a [i32],
    /// What paired products do not take with the rest.
    pub apart: Apart<'a>,
    pub to: To,
}

/// Some rows of a tile, as many as there are registers for.
pub(crate) struct Part<'a, X> {
    pub rows: &'a [*const X],
    /// What the narrow range does not hold of them.
    pub lacking: [Groups<'a>; 2],
}

/// Room for a tile's sums, in whole cache lines.
#[repr(align(64))]
pub(crate) struct Room(pub [i32; MAX_ROWS * MAX_COLUMNS]);

#[inline(always)]
unsafe fn sums<S: Sums, const MR: usize, const NV: usize>(
    t: &Tile<'_, S::X>,
    part: &Part<'_, S::X>,
    starts: &[i32],
    to: *mut i32,
) {
    // SAFETY: all pointer steps stay inside what the contract of `tile` gives.
    unsafe {
        let mut start = [S::zero(); NV];
        for v in 0..NV {
            start[v] = first(&starts[(v * S::LANES).min(starts.len())..]);
        }
        let mut acc = [start; MR];
        if MR == 1 && !t.from.is_null() {
            for v in 0..NV {
                acc[0][v] = S::add(acc[0][v], S::load(t.from.add(v * S::LANES)));
            }
        } else {
            products::<S, MR, NV>(t, part.rows, &mut acc);
        }
        if S::PAIRED {
            apart::add_weights::<S, MR, NV>(&t.apart, part, &mut acc);
            for lacking in &part.lacking {
                if !lacking.groups.is_empty() {
                    apart::add_lacking::<S, MR, NV>(
                        t.b,
                        t.apart.mates.as_ref(),
                        part.rows,
                        lacking,
                        &mut acc,
                    );
                }
            }
        }
        for i in 0..MR {
            for v in 0..NV {
                acc[i][v].store(to.add((i * NV + v) * S::LANES));
            }
        }
    }
}

/// The products of the rows and the panel.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn products<S: Sums, const MR: usize, const NV: usize>(
    t: &Tile<'_, S::X>,
    rows: &[*const S::X],
    acc: &mut [[S; NV]; MR],
) {
    // SAFETY: all pointer steps stay inside what the contract of `tile` gives.
    unsafe {
        let step = NV * S::LANES * S::GROUP;
        let mut b = t.b;
        if S::PAIRED
            && let Some(mates) = &t.apart.mates
        {
            let mut a = [std::ptr::null::<S::X>(); MR];
            a.copy_from_slice(rows);
            for pair in mates.order.as_chunks::<2>().0 {
                let [j, k] = [pair[0], pair[1]].map(|g| usize::from(u16::from_ne_bytes(g)) * S::GROUP);
                both_steps::<S, MR, NV>(&a, [j as isize, k as isize], b, acc);
                b = b.add(2 * step);
            }
            return;
        }
        for &run in t.runs {
            // The pointers are to the end, so that one counter, which ends at zero, serves all addresses.
            let mut a = [std::ptr::null::<S::X>(); MR];
            for i in 0..MR {
                a[i] = rows.get_unchecked(i).add(run + t.depth);
            }
            let mut k = -((t.depth * size_of::<S::X>()) as isize);
            let group = (S::GROUP * size_of::<S::X>()) as isize;
            // Groups of a turn, and those before the first turn.
            let turn = if S::FOURS { 4 } else { 2 };
            for _ in 0..if S::PAIRED { 0 } else { t.depth / S::GROUP % turn } {
                steps::<S, MR, NV>(&a, k, b, acc);
                k += group;
                b = b.add(step);
            }
            while k != 0 {
                k = S::Floats::opaque(k);
                if S::FOURS {
                    S::dot_four(&a, k, b, acc);
                } else if S::PAIRED {
                    both_steps::<S, MR, NV>(&a, [k, k + group], b, acc);
                } else {
                    steps::<S, MR, NV>(&a, k, b, acc);
                    steps::<S, MR, NV>(&a, k + group, b.add(step), acc);
                }
                k += turn as isize * group;
                b = b.add(turn * step);
            }
        }
    }
}

/// Two groups of depth at once, so many bytes after the pointers.
#[inline(always)]
unsafe fn both_steps<S: Sums, const MR: usize, const NV: usize>(
    a: &[*const S::X; MR],
    [j, k]: [isize; 2],
    b: *const i8,
    acc: &mut [[S; NV]; MR],
) {
    let vector = S::LANES * S::GROUP;
    // SAFETY: forwarded.
    unsafe {
        let w: [[S::Weights; 2]; NV] =
            std::array::from_fn(|v| [S::weights(b.add(v * vector)), S::weights(b.add((NV + v) * vector))]);
        for i in 0..MR {
            S::dot_both(&mut acc[i], [a[i].byte_offset(j), a[i].byte_offset(k)], &w);
        }
    }
}

/// One group of depth.
#[inline(always)]
unsafe fn steps<S: Sums, const MR: usize, const NV: usize>(
    a: &[*const S::X; MR],
    k: isize,
    b: *const i8,
    acc: &mut [[S; NV]; MR],
) {
    // SAFETY: forwarded.
    unsafe {
        let mut w = [S::weights(b); NV];
        for v in 1..NV {
            w[v] = S::weights(b.add(v * S::LANES * S::GROUP));
        }
        for i in 0..MR {
            let x = S::spread(a[i].byte_offset(k));
            for v in 0..NV {
                acc[i][v] = S::dot(acc[i][v], x, w[v]);
            }
        }
    }
}

/// What turns the sums of one vector of columns into results. Everything here is a function of its own, because
/// closures are not compiled for a form's vectors.
#[derive(Clone, Copy)]
struct Columns<'a, S: Sums> {
    sums: *const i32,
    /// Sums from one row to the next.
    pitch: usize,
    row_sums: &'a [i32],
    zeros: S,
    scales: S::Floats,
    bias: S::Floats,
}

impl<'a, S: Sums> Columns<'a, S> {
    /// Those of a tile from `at` on, which are `range` of all.
    ///
    /// # Safety
    /// `S`'s instructions are available.
    #[inline(always)]
    unsafe fn new(t: &Tile<'a, S::X>, f: &Finish<'_>, room: &[i32], at: usize, range: Range<usize>) -> Self {
        // SAFETY: forwarded.
        unsafe {
            Columns {
                sums: room[at..].as_ptr(),
                pitch: t.vectors * S::LANES,
                row_sums: t.row_sums,
                zeros: first(if f.zeros.is_empty() { &[] } else { &f.zeros[range.clone()] }),
                scales: floats::<S>(&f.scales[range.clone()]),
                bias: if f.bias.is_empty() { S::Floats::splat(0.0) } else { floats::<S>(&f.bias[range]) },
            }
        }
    }

    /// # Safety
    /// `S`'s instructions are available, and there are sums of row `i`.
    #[inline(always)]
    unsafe fn exact(&self, i: usize) -> S {
        // SAFETY: forwarded.
        unsafe {
            let sum = S::load(self.sums.add(i * self.pitch));
            if self.row_sums.is_empty() {
                return sum;
            }
            S::sub(sum, S::mul(S::splat(self.row_sums[i]), self.zeros))
        }
    }

    /// # Safety
    /// As [`Columns::exact`].
    #[inline(always)]
    unsafe fn real(&self, i: usize) -> S::Floats {
        // SAFETY: forwarded.
        unsafe { S::Floats::add(S::Floats::mul(self.exact(i).to_floats(), self.scales), self.bias) }
    }

    /// # Safety
    /// As [`Columns::exact`].
    #[inline(always)]
    unsafe fn byte(&self, i: usize, limits: [S::Floats; 2], zero: S, flip: S) -> S {
        // SAFETY: forwarded.
        unsafe {
            let x = S::Floats::min(S::Floats::max(self.real(i), limits[0]), limits[1]);
            S::xor(S::add(S::nearest(x), zero), flip)
        }
    }
}

/// Turns the sums of a tile, which lie in the room row by row in whole vectors, into results.
///
/// # Safety
/// `S`'s instructions are available; the room and the target are as large as [`tile`] has them.
#[inline(always)]
pub(crate) unsafe fn finish<S: Sums>(t: &Tile<'_, S::X>, f: &Finish<'_>, room: &[i32]) {
    if let (To::Bytes { to, pitch, steps }, true) = (t.to, t.columns == 2 * S::LANES && t.vectors == 2) {
        // SAFETY: forwarded; the tile has both vectors.
        return unsafe { whole_bytes::<S>(t, f, room, to, pitch, steps) };
    }
    for v in 0..t.vectors {
        let at = v * S::LANES;
        let n = t.columns.saturating_sub(at).min(S::LANES);
        let range = t.column + at..t.column + at + n;
        // SAFETY: the caller has the instructions; each load and store touches the `n` elements that the
        // finish's slices and the target have from this column on.
        unsafe {
            let c = Columns::<S>::new(t, f, room, at, range);
            match t.to {
                To::Sums { to, pitch } => {
                    for i in 0..t.rows.len() {
                        store(c.exact(i), to.add(i * pitch + at), n);
                    }
                }
                To::Floats { to, pitch, then } => {
                    for i in 0..t.rows.len() {
                        let x = then.one(c.real(i), i, at, n);
                        let to = to.add(i * pitch + at);
                        if n == S::LANES { x.store(to) } else { x.store_first(to, n) }
                    }
                }
                To::Bytes { to, pitch, steps } => {
                    let limits = [S::Floats::splat(steps.low), S::Floats::splat(steps.high)];
                    let (zero, flip) = (S::splat(steps.zero), S::splat(steps.flip));
                    let to = to.add(at);
                    if n == S::LANES {
                        for i in 0..t.rows.len() {
                            c.byte(i, limits, zero, flip).store_bytes(to.add(i * pitch));
                        }
                    } else {
                        for i in 0..t.rows.len() {
                            c.byte(i, limits, zero, flip).store_first_bytes(to.add(i * pitch), n);
                        }
                    }
                }
            }
        }
    }
}

/// As [`finish`], for bytes in two whole vectors: they are narrowed together.
#[inline(always)]
unsafe fn whole_bytes<S: Sums>(
    t: &Tile<'_, S::X>,
    f: &Finish<'_>,
    room: &[i32],
    to: *mut u8,
    pitch: usize,
    steps: Steps,
) {
    let range = |v: usize| t.column + v * S::LANES..t.column + (v + 1) * S::LANES;
    let narrow = steps.narrow;
    // SAFETY: as in `finish`.
    unsafe {
        let a = Columns::<S>::new(t, f, room, 0, range(0));
        let b = Columns::<S>::new(t, f, room, S::LANES, range(1));
        let most = S::Floats::splat(WORD);
        let mut i = 0;
        while i + 2 <= t.rows.len() {
            let x = S::nearest(S::Floats::min(a.real(i), most));
            let y = S::nearest(S::Floats::min(b.real(i), most));
            let z = S::nearest(S::Floats::min(a.real(i + 1), most));
            let w = S::nearest(S::Floats::min(b.real(i + 1), most));
            let first = to.add(i * pitch);
            S::store_bytes_of_rows([[x, y], [z, w]], narrow, first, first.add(pitch));
            i += 2;
        }
        if i < t.rows.len() {
            let x = S::nearest(S::Floats::min(a.real(i), most));
            let y = S::nearest(S::Floats::min(b.real(i), most));
            S::store_bytes_of_both(x, y, narrow, to.add(i * pitch));
        }
    }
}

/// # Safety
/// `S`'s instructions are available.
#[inline(always)]
unsafe fn floats<S: Sums>(s: &[f32]) -> S::Floats {
    // SAFETY: no more is read than is there.
    unsafe {
        if s.len() >= S::LANES {
            S::Floats::load(s.as_ptr())
        } else {
            S::Floats::load_first(s.as_ptr(), s.len())
        }
    }
}

/// The first numbers of a vector, and zeros.
///
/// # Safety
/// `S`'s instructions are available.
#[inline(always)]
unsafe fn first<S: Sums>(s: &[i32]) -> S {
    // SAFETY: a whole vector is read only where it is there, else a copy of what is.
    unsafe {
        if s.len() >= S::LANES {
            return S::load(s.as_ptr());
        }
        let mut room = [0i32; 16];
        for (to, from) in room.iter_mut().zip(s) {
            *to = *from;
        }
        S::load(room.as_ptr())
    }
}

/// # Safety
/// `S`'s instructions are available, and there is room for `n` numbers.
#[inline(always)]
unsafe fn store<S: Sums>(x: S, to: *mut i32, n: usize) {
    // SAFETY: a whole vector is written only where there is room.
    unsafe {
        if n == S::LANES {
            return x.store(to);
        }
        let mut room = [0i32; 16];
        x.store(room.as_mut_ptr());
        std::ptr::copy_nonoverlapping(room.as_ptr(), to, n);
    }
}

/// Rows that there are registers for.
const fn most_rows<S: Sums>() -> usize {
    match S::LANES {
        16 => MAX_ROWS,
        8 if S::PAIRED => 4,
        8 => 6,
        _ if cfg!(target_arch = "aarch64") => 8,
        _ => 4,
    }
}

/// Computes one tile, or a few: parts of [`super::form::Form::rows`] rows, of which the last may have less.
///
/// # Safety
/// `S`'s instructions are available. There are 1 to [`MAX_ROWS`] rows, each with `depth` readable elements, whole
/// groups, at every run; the panel of one or two vectors has weights for all of that; the target has room for the
/// rows' columns, of which there are `1..=vectors * LANES`, and nobody else touches it meanwhile.
#[inline(always)]
pub(crate) unsafe fn tile<S: Sums>(t: &Tile<'_, S::X>, f: &Finish<'_>, room: &mut Room) {
    let starts = &f.starts[t.column..t.column + t.columns];
    let mut at = 0;
    for rows in t.rows.chunks(most_rows::<S>()) {
        let number = t.apart.first + at / most_rows::<S>();
        let part = Part { rows, lacking: [t.apart.lacking[0].of(number), t.apart.lacking[1].of(number)] };
        let to = room.0[at * t.vectors * S::LANES..].as_mut_ptr();
        macro_rules! by_size {
            ($($rows:literal)+) => {
                match (t.vectors, rows.len()) {
                    // SAFETY: forwarded from the caller.
                    $((2, $rows) => unsafe { sums_within::<S, $rows, 2>(t, &part, starts, to) },)+
                    // SAFETY: as above.
                    $((1, $rows) => unsafe { sums_within::<S, $rows, 1>(t, &part, starts, to) },)+
                    _ => unreachable!("a tile is no larger than its form allows"),
                }
            };
        }
        by_size!(1 2 3 4 5 6 7 8 9 10 11 12);
        at += rows.len();
    }
    // SAFETY: as above.
    unsafe { finish::<S>(t, f, &room.0) }
}

/// As [`sums`], where the form has registers for so many rows.
#[inline(always)]
unsafe fn sums_within<S: Sums, const MR: usize, const NV: usize>(
    t: &Tile<'_, S::X>,
    part: &Part<'_, S::X>,
    starts: &[i32],
    to: *mut i32,
) {
    if MR <= most_rows::<S>() {
        // SAFETY: forwarded.
        unsafe { sums::<S, MR, NV>(t, part, starts, to) }
    } else {
        unreachable!("a tile is no larger than its form allows")
    }
}
