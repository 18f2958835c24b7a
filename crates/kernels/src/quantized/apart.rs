//! What paired products leave apart: of the activation what lies outside of a narrow range, of the weights what
//! would not fit words together with its neighbours.
//!
//! Products of bytes are added up in words on their way to the sums, which no word may exceed. Nearly all elements
//! of a layer lie within half of their range and weights seldom are large side by side, so that the few others
//! cost less than wider products of all would.

pub(crate) mod mates;
mod reach;

use self::mates::Mates;
use self::reach::Reach;
use super::tile::Part;
use crate::scratch::Plain;
use crate::simd::integer::Sums;

/// Spans of the narrow range, the widest first: the wider it is, the less of the activation and the more of the weights
/// is apart.
pub(crate) const SPANS: [u8; 3] = [192, 160, 128];

/// What is taken off all elements, so that most of them are in the narrow range.
pub(crate) fn base(zero: u8, span: u8) -> u8 {
    zero.saturating_sub(span / 2).min(255 - span)
}

/// Bytes for a bit of each element, as [`narrow`] writes and [`Lacking::list`] reads them.
pub(crate) fn bits(elements: usize) -> usize {
    elements / 8 + 8
}

/// Elements of which the narrow range holds `narrow`, while `more` is to be added to those and `less` to be taken off,
/// with a bit for each element of which that is not nothing.
pub(crate) struct Parts<'a> {
    /// The elements and what turns those into bytes without a sign; `None` where they lie in `more`.
    pub from: Option<(&'a [u8], u8)>,
    pub narrow: &'a mut [u8],
    pub more: &'a mut [u8],
    pub less: &'a mut [u8],
    pub bits: [&'a mut [u8]; 2],
}

/// Takes the elements less `base` apart; they are whole groups of eight.
///
/// # Safety
/// `S`'s instructions are available.
#[inline(always)]
pub(crate) unsafe fn narrow<S: Sums>(p: &mut Parts<'_>, [base, span]: [u8; 2]) {
    let len = p.narrow.len();
    assert!(p.more.len() == len && p.less.len() == len && len.is_multiple_of(8));
    assert!(p.bits[0].len() >= bits(len) && p.bits[1].len() >= bits(len));
    let [narrow, more, less] = [p.narrow.as_mut_ptr(), p.more.as_mut_ptr(), p.less.as_mut_ptr()];
    let (from, flip) = p.from.map_or((more.cast_const(), 0), |(from, flip)| {
        assert!(from.len() >= len);
        (from.as_ptr(), flip)
    });
    let mut at = 0;
    // SAFETY: all have as many elements as `narrow`, and the bits a few more.
    unsafe {
        while at + 32 <= len {
            let to = [narrow.add(at), more.add(at), less.add(at)];
            let [above, below] = S::narrow([base, flip, span], from.add(at), to);
            p.bits[0].as_mut_ptr().add(at / 8).cast::<u32>().write_unaligned(above.to_le());
            p.bits[1].as_mut_ptr().add(at / 8).cast::<u32>().write_unaligned(below.to_le());
            at += 32;
        }
        while at < len {
            let mut lost = [0; 2];
            for i in 0..8 {
                let x = *from.add(at + i) ^ flip;
                let (above, below) = (x.saturating_sub(base).saturating_sub(span), base.saturating_sub(x));
                *narrow.add(at + i) = x.saturating_sub(base).min(span);
                *more.add(at + i) = above;
                *less.add(at + i) = below;
                lost[0] |= u8::from(above != 0) << i;
                lost[1] |= u8::from(below != 0) << i;
            }
            (p.bits[0][at / 8], p.bits[1][at / 8]) = (lost[0], lost[1]);
            at += 8;
        }
    }
}

/// A group of depth.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub(crate) struct Group {
    /// Groups before it.
    pub number: u32,
    /// Where it begins after a window.
    pub place: u32,
}

// SAFETY: two numbers without padding; any bits are such numbers.
unsafe impl Plain for Group {}

/// The bits of what the narrow range does not hold.
#[derive(Clone, Copy)]
pub(crate) struct Lacking<'a> {
    pub bits: &'a [u8],
    /// Where runs begin after a window, and the elements of each: whole groups of eight.
    pub runs: &'a [usize],
    pub depth: usize,
}

impl Lacking<'_> {
    /// Lists the groups of depth of which something is lacking in any of a tile's rows, whose windows these are, from
    /// `count` on, marks them, and says where the list ends. There is room for all groups, and no mark yet.
    #[inline(always)]
    pub(crate) fn list(
        &self,
        windows: &[u32],
        mut count: usize,
        to: &mut [Group],
        marks: &mut [u32],
    ) -> usize {
        for (r, &run) in self.runs.iter().enumerate() {
            for step in (0..self.depth).step_by(64) {
                let mut lost = 0;
                for window in windows {
                    let at = (*window as usize + run + step) / 8;
                    let mut eight = [0; 8];
                    eight.copy_from_slice(&self.bits[at..at + 8]);
                    lost |= u64::from_le_bytes(eight);
                }
                if self.depth - step < 64 {
                    lost &= (1 << (self.depth - step)) - 1;
                }
                // The lowest bit of each group's four.
                lost |= lost >> 1;
                lost = (lost | lost >> 2) & 0x1111_1111_1111_1111;
                while lost != 0 {
                    let (at, group) = (lost.trailing_zeros(), ((r * self.depth + step) / 4) as u32);
                    let number = group + at / 4;
                    to[count] = Group { number, place: (run + step) as u32 + at };
                    marks[number as usize / 32] |= 1 << (number % 32);
                    count += 1;
                    lost &= lost - 1;
                }
            }
        }
        count
    }
}

/// Groups of depth of which something is lacking, for each tile of rows.
#[derive(Clone, Copy)]
pub(crate) struct Lists<'a> {
    /// Where each tile's begin, and the end; empty where nothing is lacking.
    pub first: &'a [u32],
    pub groups: &'a [Group],
    /// A bit for each group of depth, for each tile: whether it is listed.
    pub marks: &'a [u32],
    /// Numbers of those for one tile.
    pub each: usize,
    /// From an element to the part of it that is lacking.
    pub later: usize,
    /// Whether the parts are to be taken off.
    pub negative: bool,
    /// Whether nothing is listed because the panels' products have all elements' parts already.
    pub whole: bool,
}

impl<'a> Lists<'a> {
    /// Nothing.
    pub(crate) const NONE: Lists<'static> =
        Lists { first: &[], groups: &[], marks: &[], each: 0, later: 0, negative: false, whole: false };

    /// Those of one tile.
    #[inline(always)]
    pub(crate) fn of(&self, tile: usize) -> Groups<'a> {
        let groups = match self.first.get(tile..tile + 2) {
            Some(&[from, to]) => &self.groups[from as usize..to as usize],
            _ => &[],
        };
        let any = self.whole || !groups.is_empty();
        let marks = self.marks.get(tile * self.each..(tile + 1) * self.each).unwrap_or_default();
        Groups { groups, marks, later: self.later, negative: self.negative, any }
    }
}

/// Groups of depth of some rows, and where the parts of their elements lie.
#[derive(Clone, Copy)]
pub(crate) struct Groups<'a> {
    pub groups: &'a [Group],
    /// A bit for each group of depth, or nothing if all may be listed.
    pub marks: &'a [u32],
    /// From an element to its part.
    pub later: usize,
    /// Whether the parts are to be taken off.
    pub negative: bool,
    /// Whether there are parts that are not nothing.
    pub any: bool,
}

impl Groups<'_> {
    /// Whether a group of depth may have parts that are not nothing.
    #[inline(always)]
    fn has(&self, number: usize) -> bool {
        self.any && self.marks.get(number / 32).is_none_or(|m| m >> (number % 32) & 1 != 0)
    }
}

/// Some groups of depth, and where they begin after a window: at the places that there are for them, or else in one run.
/// Numbers and places are u32 as they lie in memory.
#[derive(Clone, Copy)]
pub(crate) struct Places<'a> {
    pub numbers: &'a [[u8; 4]],
    pub places: &'a [[u8; 4]],
    /// Where the run begins, and the elements of a group.
    pub run: [usize; 2],
}

impl<'a> Places<'a> {
    /// Some of the groups.
    pub(crate) fn of(&self, [first, count]: [usize; 2]) -> Places<'a> {
        let places = if self.places.is_empty() { &[] } else { &self.places[first..][..count] };
        Places { numbers: &self.numbers[first..][..count], places, run: self.run }
    }
}

/// What a tile's rows and panel have apart.
#[derive(Clone, Copy)]
pub(crate) struct Apart<'a> {
    /// The groups whose weights are in part behind the panel.
    pub places: Places<'a>,
    /// Those parts, two vectors for each group.
    pub weights: *const i8,
    /// What the narrow range does not hold, and the number of the rows' first part there.
    pub lacking: [Lists<'a>; 2],
    pub first: usize,
    /// The order of the panel's groups, if it is not that of depth.
    pub mates: Option<Mates<'a>>,
}

impl Apart<'_> {
    /// Nothing.
    pub(crate) const NONE: Apart<'static> = Apart {
        places: Places { numbers: &[], places: &[], run: [0; 2] },
        weights: std::ptr::null(),
        lacking: [Lists::NONE; 2],
        first: 0,
        mates: None,
    };
}

/// Adds the products of weights behind the panel, with all parts of the elements.
///
/// # Safety
/// As [`super::tile::tile`].
#[inline(always)]
pub(crate) unsafe fn add_weights<S: Sums, const MR: usize, const NV: usize>(
    apart: &Apart<'_>,
    part: &Part<'_, S::X>,
    acc: &mut [[S; NV]; MR],
) {
    let mut weights = apart.weights;
    let Places { numbers, places, run: [start, each] } = apart.places;
    for (i, &number) in numbers.iter().enumerate() {
        let number = u32::from_ne_bytes(number) as usize;
        let place = places.get(i).map_or(start + number * each, |p| u32::from_ne_bytes(*p) as usize);
        // SAFETY: each group lies in the rows' runs and has two vectors of weights.
        unsafe {
            add_group(part.rows, place, weights, false, acc);
            for lacking in &part.lacking {
                if lacking.has(number) {
                    add_group(part.rows, place + lacking.later, weights, lacking.negative, acc);
                }
            }
            weights = weights.add(2 * S::LANES * S::GROUP);
        }
    }
}

/// Adds the products of what the narrow range does not hold and the panel.
///
/// # Safety
/// As [`super::tile::tile`].
#[inline(always)]
pub(crate) unsafe fn add_lacking<S: Sums, const MR: usize, const NV: usize>(
    b: *const i8,
    mates: Option<&Mates<'_>>,
    rows: &[*const S::X],
    lacking: &Groups<'_>,
    acc: &mut [[S; NV]; MR],
) {
    for group in lacking.groups {
        let number = group.number as usize;
        let number = mates.map_or(number, |m| m.place(number));
        // SAFETY: the group lies in a run of the rows and has its weights in the panel.
        unsafe {
            let weights = b.add(number * NV * S::LANES * S::GROUP);
            add_group(rows, group.place as usize + lacking.later, weights, lacking.negative, acc);
        }
    }
}

/// # Safety
/// There are the vectors' weights, and the rows' elements.
#[inline(always)]
unsafe fn add_group<S: Sums, const MR: usize, const NV: usize>(
    rows: &[*const S::X],
    place: usize,
    weights: *const i8,
    negative: bool,
    acc: &mut [[S; NV]; MR],
) {
    // SAFETY: forwarded.
    unsafe {
        let mut w = [S::weights(weights); NV];
        for v in 1..NV {
            w[v] = S::weights(weights.add(v * S::LANES * S::GROUP));
        }
        for i in 0..MR {
            let x = S::spread(rows.get_unchecked(i).add(place));
            for v in 0..NV {
                acc[i][v] = S::dot_signed(acc[i][v], x, w[v], negative);
            }
        }
    }
}

/// Whether products of two neighbours' weights and two others with elements up to `span` exceed the word that they share.
#[inline]
pub(crate) fn exceeds(before: [u8; 2], here: [u8; 2], span: u8) -> bool {
    let [a, b, c, d] = [before[0], before[1], here[0], here[1]].map(|w| i32::from(w as i8));
    let more = a.max(0) + b.max(0) + c.max(0) + d.max(0);
    let less = a.min(0) + b.min(0) + c.min(0) + d.min(0);
    (more * i32::from(span) > 32767) | (less * i32::from(span) < -32768)
}

/// Moves weights that would exceed words together with those of the group before out of a panel of `width` columns:
/// notes the group and appends its moved weights, two vectors of 32 bytes. Groups meet in twos. Where the moved ones
/// exceed words, too, a group is there twice, and a weight of the group before may have to go as well.
pub(crate) fn split(panel: &mut [u8], width: usize, span: u8, groups: &mut Vec<u32>, weights: &mut Vec<u8>) {
    let row = 4 * width;
    let reach = Reach::of(panel, width, span);
    for group in (1..panel.len() / row.max(1)).step_by(2) {
        if !reach.exceeds(group - 1, group) {
            continue;
        }
        let (before, here) = panel[(group - 1) * row..(group + 1) * row].split_at_mut(row);
        let (before, here) = (before.as_chunks_mut::<2>().0, here.as_chunks_mut::<2>().0);
        let mut moved = [[[0u8; 2]; 32]; 3];
        for (at, (a, b)) in before.iter_mut().zip(here).enumerate() {
            if exceeds(*a, *b, span) {
                moved[1][at] = std::mem::take(b);
            }
            if exceeds([0; 2], moved[1][at], span) {
                moved[2][at][1] = std::mem::take(&mut moved[1][at][1]);
            }
            if exceeds(*a, [0; 2], span) {
                moved[0][at][1] = std::mem::take(&mut a[1]);
            }
        }
        for (number, moved) in [group - 1, group, group].into_iter().zip(&moved) {
            if moved.iter().any(|m| *m != [0; 2]) {
                groups.push(number as u32);
                weights.extend_from_slice(moved.as_flattened());
            }
        }
    }
}

#[cfg(test)]
mod tests;
