//! Integer weights packed for the register tile.

use super::apart::{
    self, SPANS,
    mates::{self, Mates},
};
use super::form::Form;
use super::panel::pack_panel;
use crate::error::KernelError;
use crate::packed::Packed;
use crate::simd::Level;
use crate::threads::{Pool, Shards};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Weights of a piece of packing worth a task of its own.
const GRAIN: usize = 1 << 16;

/// A matrix of bytes as it comes: an element's place is the sum of its tap, channel and column times their
/// strides. The depth of its product is every channel of every tap.
#[derive(Debug, Clone, Copy)]
pub struct ByteMatrix<'a> {
    /// The elements.
    pub data: &'a [u8],
    /// Whether they are i8, not u8.
    pub signed: bool,
    /// Taps of a window.
    pub taps: usize,
    /// Steps of depth of a tap.
    pub channels: usize,
    /// Columns of the product.
    pub columns: usize,
    /// From one tap, channel and column to the next.
    pub strides: [usize; 3],
    /// What stands for zero: one number, one for each column, or none at all where it is zero.
    pub zeros: &'a [i32],
}

/// Some columns: for each group of depth a row of vectors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Panel {
    pub column: usize,
    pub columns: usize,
    pub vectors: usize,
    /// Where its weights start.
    pub start: usize,
    /// The first of its groups that are in part behind all panels, and their number.
    pub apart: [usize; 2],
}

/// Weights rearranged once for [`super::conv::conv`] and [`super::conv::linear`]: i8, whatever they were.
#[derive(Debug, Clone)]
pub struct ByteWeights {
    pub(crate) form: Form,
    pub(crate) level: Level,
    pub(crate) panels: Vec<Panel>,
    pub(crate) taps: usize,
    pub(crate) channels: usize,
    pub(crate) columns: usize,
    /// The weights, then what [`Layout`] says.
    data: Packed,
    layout: Layout,
    /// What stands for zero in each column, if it is not zero in all.
    pub(crate) zeros: Vec<i32>,
    /// Of the narrow range that paired products hold elements to.
    pub(crate) span: u8,
}

/// What lies where behind the weights: the sum of each column; how many groups there is room for that are apart,
/// with the sizes of the matrix, whether panels are arranged, and the span; the number of each panel's; those groups; the
/// order of each panel's groups and their places, where panels are arranged; and the weights of the groups apart.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Layout {
    sums: usize,
    sizes: usize,
    counts: usize,
    groups: usize,
    mates: usize,
    weights: usize,
    end: usize,
    room: Rooms,
}

/// In what form weights are packed, whether each panel has its groups in an order of its own, and the span of the narrow
/// range.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    pub form: Form,
    pub arranged: bool,
    pub span: u8,
}

/// What [`Layout`] leaves room for.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Rooms {
    /// Groups that are apart.
    apart: usize,
    /// Groups of depth that each panel has in its own order.
    mates: usize,
}

/// One of so many pairs of groups with weights apart is too many for [`Form::Pairs`].
const MUCH_APART: usize = 8;

/// Columns by which that is judged.
const SAMPLE: usize = 32;

/// Panels are arranged where that is more than one of so many pairs of groups has apart without it.
const SOME_APART: usize = 32;

/// Bytes of a group's weights that are apart.
const APART: usize = 64;

/// Numbers that say what there is room for, and of which matrix.
const SIZES: usize = 5;

impl Layout {
    fn new(len: usize, columns: usize, panels: usize, room: Rooms) -> Result<Layout, KernelError> {
        let Rooms { apart, mates } = room;
        let after = |at: usize, count: usize, each: usize| {
            count
                .checked_mul(each)
                .and_then(|n| n.checked_add(at))
                .ok_or(KernelError::Overflow("packed weights"))
        };
        let sizes = after(len, columns, 4)?;
        let counts = if apart == 0 { sizes } else { after(sizes, SIZES, 4)? };
        let groups = if apart == 0 { counts } else { after(counts, panels, 4)? };
        let orders = after(groups, apart, 4)?;
        let each = mates.checked_mul(4).ok_or(KernelError::Overflow("packed weights"))?;
        let weights = after(orders, panels, each)?.next_multiple_of(if apart == 0 { 1 } else { APART });
        let end = after(weights, apart, APART)?;
        Ok(Layout { sums: len, sizes, counts, groups, mates: orders, weights, end, room })
    }
}

/// Room for groups that are apart, at first: few weights of models are.
fn first_room(form: Form, panels: &[Panel], depth: usize) -> usize {
    if form == Form::Pairs { (panels.len() * depth / form.group()).div_ceil(64) } else { 0 }
}

/// How columns are grouped, and the bytes that this takes.
fn panels(
    form: Form,
    level: Level,
    depth: usize,
    columns: usize,
) -> Result<(Vec<Panel>, usize), KernelError> {
    let lanes = form.lanes(level);
    let mut panels = vec![];
    let (mut column, mut start) = (0, 0usize);
    while column < columns {
        let vectors = (columns - column).div_ceil(lanes).min(2);
        let count = (vectors * lanes).min(columns - column);
        panels.push(Panel { column, columns: count, vectors, start, apart: [0; 2] });
        let bytes = (vectors * lanes).checked_mul(depth).and_then(|n| n.checked_add(start));
        start = bytes.ok_or(KernelError::Overflow("packed weights"))?;
        column += count;
    }
    Ok((panels, start.next_multiple_of(64)))
}

/// The zeros of weights that were made i8, for each column; empty where all are zero.
fn zeros(w: &ByteMatrix<'_>) -> Result<Vec<i32>, KernelError> {
    let flipped = if w.signed { 0 } else { 128 };
    let of = |z: i32| z - flipped;
    match w.zeros {
        [] if flipped == 0 => Ok(vec![]),
        [] => Ok(vec![of(0); w.columns]),
        z if z.iter().all(|&z| of(z) == 0) && (z.len() == 1 || z.len() == w.columns) => Ok(vec![]),
        [one] => Ok(vec![of(*one); w.columns]),
        z if z.len() == w.columns => Ok(z.iter().map(|&z| of(z)).collect()),
        _ => Err(KernelError::Shape("weights: one zero point, or one for each column")),
    }
}

impl ByteWeights {
    /// Packs a matrix for kernels at the pool's level, its threads sharing the work.
    pub fn pack(pool: &Pool, w: &ByteMatrix<'_>) -> Result<ByteWeights, KernelError> {
        let form = Form::best(pool.level(), w.channels);
        if form != Form::Pairs {
            return ByteWeights::pack_as(pool, form, w);
        }
        // What is apart is multiplied once more for each part of the activation: where it is much, words are
        // faster. The first columns stand for all.
        let zeros = if w.zeros.len() > 1 { &w.zeros[..w.zeros.len().min(SAMPLE)] } else { w.zeros };
        let some = ByteMatrix { columns: w.columns.min(SAMPLE), zeros, ..*w };
        let twos =
            w.columns.min(SAMPLE).div_ceil(2 * form.lanes(pool.level())) * w.taps * w.channels.div_ceil(8);
        let apart = |w: &ByteWeights| w.groups_apart().len();
        let with = |arranged: bool, span: u8| {
            ByteWeights::pack_with(pool, Way { form, arranged, span }, &some, None)
        };
        let mut best: Option<ByteWeights> = None;
        // The first in which little of the weights is apart, else the one in which the least is.
        for (span, arranged) in SPANS.into_iter().flat_map(|span| [(span, false), (span, true)]) {
            // Only the groups of a single tap lie side by side in a window.
            if arranged && (w.taps != 1 || w.channels >= 4 * usize::from(u16::MAX)) {
                continue;
            }
            let next = with(arranged, span)?;
            let enough = apart(&next) <= twos / SOME_APART;
            if enough || best.as_ref().is_none_or(|best| apart(&next) < apart(best)) {
                best = Some(next);
            }
            if enough {
                break;
            }
        }
        let Some(packed) = best else { return ByteWeights::pack_as(pool, Form::Words, w) };
        if apart(&packed) > twos / MUCH_APART {
            return ByteWeights::pack_as(pool, Form::Words, w);
        }
        if some.columns == w.columns {
            return Ok(packed);
        }
        // A third more than the first columns have: packing begins anew where that is too little.
        let room = apart(&packed).saturating_mul(w.columns) / some.columns.max(1) * 4 / 3 + 16;
        let way = Way { form, arranged: packed.arranged(), span: packed.span };
        ByteWeights::pack_with(pool, way, w, Some(room))
    }

    /// As [`ByteWeights::pack`], for weights that only a few rows meet: it takes less time to pack these, and may take
    /// more to multiply them.
    pub fn pack_for_once(pool: &Pool, w: &ByteMatrix<'_>) -> Result<ByteWeights, KernelError> {
        let form = match Form::best(pool.level(), w.channels) {
            Form::Pairs => Form::Words,
            form => form,
        };
        ByteWeights::pack_as(pool, form, w)
    }

    pub(crate) fn pack_as(pool: &Pool, form: Form, w: &ByteMatrix<'_>) -> Result<ByteWeights, KernelError> {
        ByteWeights::pack_with(pool, Way { form, arranged: false, span: SPANS[SPANS.len() - 1] }, w, None)
    }

    /// Packs with room for so many groups that are apart at first.
    pub(crate) fn pack_with(
        pool: &Pool,
        way: Way,
        w: &ByteMatrix<'_>,
        room: Option<usize>,
    ) -> Result<ByteWeights, KernelError> {
        let (level, Way { form, arranged, span }) = (pool.level(), way);
        let last = [w.taps, w.channels, w.columns].iter().zip(w.strides).try_fold(0usize, |at, (&n, s)| {
            n.checked_sub(1).and_then(|n| n.checked_mul(s)).and_then(|n| n.checked_add(at))
        });
        if w.taps * w.channels * w.columns > 0 && last.is_none_or(|last| last >= w.data.len()) {
            return Err(KernelError::Shape("weights: the matrix does not lie in its data"));
        }
        let zeros = zeros(w)?;
        let padded = w.channels.next_multiple_of(form.filled());
        let depth = w.taps.checked_mul(padded).ok_or(KernelError::Overflow("packed weights"))?;
        let (mut panels, len) = panels(form, level, depth, w.columns)?;
        let room = match room {
            Some(room) if form == Form::Pairs => room,
            _ => first_room(form, &panels, depth),
        };
        let mates = if arranged { depth / form.group() } else { 0 };
        let mut layout = Layout::new(len, w.columns, panels.len(), Rooms { apart: room, mates })?;
        loop {
            let mut needed = 0;
            let data = Packed::build_bytes(layout.end, |room| {
                needed = fill(pool, way, w, padded, &panels, &layout, room);
            })?;
            let next = Layout::new(len, w.columns, panels.len(), Rooms { apart: needed, mates })?;
            if next.end <= layout.end {
                find_apart(&mut panels, &layout, depth / form.group(), data.bytes())?;
                let (taps, channels, columns) = (w.taps, w.channels, w.columns);
                return Ok(ByteWeights {
                    form,
                    level,
                    panels,
                    taps,
                    channels,
                    columns,
                    data,
                    layout,
                    zeros,
                    span,
                });
            }
            layout = next;
        }
    }

    /// Weights that [`ByteWeights::pack`] once packed from such a matrix for this level.
    pub fn from_packed(level: Level, w: &ByteMatrix<'_>, data: Packed) -> Result<ByteWeights, KernelError> {
        let given = data.bytes().len();
        let sizes = |form: Form| -> Result<(usize, Vec<Panel>, Layout), KernelError> {
            let depth = w.taps.checked_mul(w.channels.next_multiple_of(form.filled()));
            let depth = depth.ok_or(KernelError::Overflow("packed weights"))?;
            let (panels, len) = panels(form, level, depth, w.columns)?;
            let room = Rooms { apart: first_room(form, &panels, depth), mates: 0 };
            let layout = Layout::new(len, w.columns, panels.len(), room)?;
            Ok((depth, panels, layout))
        };
        let mut form = Form::best(level, w.channels);
        // Pairs take more room than words, always.
        if form == Form::Pairs && sizes(Form::Words)?.2.end.next_multiple_of(64) == given {
            form = Form::Words;
        }
        let (depth, mut panels, mut layout) = sizes(form)?;
        let mut span = SPANS[SPANS.len() - 1];
        if layout.counts > layout.sizes {
            let sizes = data.bytes().get(layout.sizes..layout.counts).unwrap_or_default().as_chunks::<4>().0;
            let sizes: Vec<usize> = sizes.iter().map(|b| u32::from_ne_bytes(*b) as usize).collect();
            let [apart, d, columns, mates, narrow] = sizes[..] else {
                return Err(KernelError::Shape("packed weights: too few of them"));
            };
            let Some(one) = SPANS.into_iter().find(|s| usize::from(*s) == narrow) else {
                return Err(KernelError::Shape("packed weights: a narrow range that there is not"));
            };
            span = one;
            if (d, columns) != (depth, w.columns)
                || (mates != 0 && (mates != depth / form.group() || w.taps != 1))
            {
                return Err(KernelError::Shape("packed weights: of another matrix"));
            }
            layout = Layout::new(layout.sums, w.columns, panels.len(), Rooms { apart, mates })?;
        }
        if given != layout.end.next_multiple_of(64) {
            return Err(KernelError::Shape("packed weights: another number of them"));
        }
        find_apart(&mut panels, &layout, depth / form.group(), data.bytes())?;
        let (taps, channels, columns, zeros) = (w.taps, w.channels, w.columns, zeros(w)?);
        let weights = ByteWeights { form, level, panels, taps, channels, columns, data, layout, zeros, span };
        if weights.arranged() && !weights.panels.iter().filter_map(|p| weights.mates(p)).all(|m| m.is_order())
        {
            return Err(KernelError::Shape("packed weights: groups in an order that is none"));
        }
        Ok(weights)
    }

    /// The packed weights as they lie in memory.
    pub fn packed(&self) -> &Packed {
        &self.data
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.data.bytes().len()
    }

    /// Columns of a product.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Steps of depth that products sum over.
    pub fn depth(&self) -> usize {
        self.taps * self.channels
    }

    pub(crate) fn panel(&self, p: &Panel) -> *const i8 {
        self.data.bytes()[p.start..self.layout.sums].as_ptr().cast()
    }

    /// The sum of each column's weights.
    pub(crate) fn sums(&self) -> impl Iterator<Item = i32> + '_ {
        let (sums, _) = self.data.bytes()[self.layout.sums..].as_chunks::<4>();
        sums[..self.columns].iter().map(|b| i32::from_ne_bytes(*b))
    }

    /// The groups of depth, counted from the first tap's first channel, that are in part behind the panels; those
    /// of each panel where [`Panel::apart`] says. They are u32 as they lie in memory.
    pub(crate) fn groups_apart(&self) -> &[[u8; 4]] {
        let count = self.panels.last().map_or(0, |p| p.apart[0] + p.apart[1]);
        &self.data.bytes()[self.layout.groups..].as_chunks::<4>().0[..count]
    }

    /// Whether panels have their groups of depth in orders of their own.
    pub(crate) fn arranged(&self) -> bool {
        self.layout.room.mates > 0
    }

    /// The order of a panel's groups of depth, if it has one of its own.
    pub(crate) fn mates(&self, p: &Panel) -> Option<Mates<'_>> {
        let groups = self.layout.room.mates;
        let number = p.column / (2 * self.form.lanes(self.level));
        let of = |from: usize| &self.data.bytes()[self.layout.mates + from * groups * 4..][..groups * 4];
        (groups > 0).then(|| Mates::new(of(number)))
    }

    /// The weights of a panel's groups that are apart, two vectors for each.
    pub(crate) fn weights_apart(&self, p: &Panel) -> *const i8 {
        self.data.bytes()[self.layout.weights + p.apart[0] * APART..].as_ptr().cast()
    }
}

/// Packs all panels, and says how many groups had to be set apart: all is there if the layout has room for them.
fn fill(
    pool: &Pool,
    Way { form, arranged, span }: Way,
    w: &ByteMatrix<'_>,
    padded: usize,
    panels: &[Panel],
    layout: &Layout,
    room: &mut [u8],
) -> usize {
    let (group, lanes, depth) = (form.group(), form.lanes(pool.level()), w.taps * padded);
    let flip = if w.signed { 0 } else { 0x80 };
    let (bytes, rest) = room.split_at_mut(layout.sums);
    let (sums, rest) = rest.split_at_mut(layout.sizes - layout.sums);
    let (to, sums) = (&Shards::new(bytes), &Shards::new(sums));
    let each = (GRAIN / (depth * 2 * lanes).max(1)).max(1);
    let apart = Mutex::new(BTreeMap::new());
    pool.run(panels.len().div_ceil(each), |task| {
        for i in task * each..((task + 1) * each).min(panels.len()) {
            let p = &panels[i];
            let width = p.vectors * lanes;
            // SAFETY: panels are disjoint.
            let rows = unsafe { to.part(p.start, width * depth) };
            // SAFETY: and so are their columns.
            let sums = unsafe { sums.part(4 * p.column, 4 * p.columns) };
            pack_panel(w, p, [group, padded, width], flip, rows, sums);
            if form == Form::Pairs {
                let (mut groups, mut weights, mut mates) = (vec![], vec![], vec![]);
                let order = if arranged { mates::order(rows, width, span) } else { vec![] };
                if arranged {
                    mates = mates::arrange(rows, width, &order);
                }
                apart::split(rows, width, span, &mut groups, &mut weights);
                // They are named by their places in depth.
                groups.iter_mut().for_each(|g| *g = order.get(*g as usize).map_or(*g, |o| u32::from(*o)));
                if arranged || !groups.is_empty() {
                    apart.lock().unwrap_or_else(PoisonError::into_inner).insert(i, (groups, weights, mates));
                }
            }
        }
    });
    let apart = apart.into_inner().unwrap_or_else(PoisonError::into_inner);
    let needed = apart.values().map(|(groups, ..)| groups.len()).sum();
    if layout.end - layout.weights >= needed * APART && layout.groups > layout.counts {
        let at = |x: usize| x - layout.sizes;
        rest[..at(layout.end)].fill(0);
        let Rooms { apart: room, mates: ordered } = layout.room;
        for (to, size) in
            rest.as_chunks_mut::<4>().0.iter_mut().zip([room, depth, w.columns, ordered, usize::from(span)])
        {
            *to = (size as u32).to_ne_bytes();
        }
        let (mut group, mut weight) = (at(layout.groups), at(layout.weights));
        for (i, (groups, weights, mates)) in apart {
            rest[at(layout.mates) + i * mates.len()..][..mates.len()].copy_from_slice(&mates);
            rest[at(layout.counts) + 4 * i..][..4].copy_from_slice(&(groups.len() as u32).to_ne_bytes());
            for g in groups {
                rest[group..][..4].copy_from_slice(&g.to_ne_bytes());
                group += 4;
            }
            rest[weight..][..weights.len()].copy_from_slice(&weights);
            weight += weights.len();
        }
    }
    needed
}

/// Finds each panel's groups that are apart; `groups` is the number of all in a panel.
fn find_apart(panels: &mut [Panel], layout: &Layout, groups: usize, data: &[u8]) -> Result<(), KernelError> {
    if layout.groups == layout.counts {
        return Ok(());
    }
    let wrong = || KernelError::Shape("packed weights: groups that do not exist");
    let numbers =
        |at: usize, end: usize| data[at..end].as_chunks::<4>().0.iter().map(|b| u32::from_ne_bytes(*b));
    let room = layout.room.apart;
    let mut all = numbers(layout.groups, layout.groups + 4 * room);
    let mut first = 0;
    for (p, count) in panels.iter_mut().zip(numbers(layout.counts, layout.groups)) {
        p.apart = [first, count as usize];
        first += count as usize;
        for _ in 0..count {
            all.next().filter(|&g| g < groups as u32).ok_or_else(wrong)?;
        }
    }
    Ok(())
}
