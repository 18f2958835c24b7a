//! Ops that only move elements: which cells of their operand are which of their result.

use super::{
    groups::{Groups, Place, Waiting},
    operands,
};
use crate::pattern::dims;
use std::ops::Range;
use tensormill_ir::{Dim, Node, NodeId, Op, ValueId, ops::ShapeOf};

/// Axes of one shape, and those of another that have the same elements.
type Segment = [Range<usize>; 2];

/// Pieces of two shapes of the same elements that certainly have the same sizes. What lies between the last axes that are
/// matched from the end and the first that are matched from the front is no piece.
fn segments(x: &[Dim], y: &[Dim]) -> Vec<Segment> {
    let mut out = vec![];
    let (mut i, mut j) = (x.len(), y.len());
    while i > 0 && j > 0 {
        let (mut a, mut b) = (i - 1, j - 1);
        if !x[a].same(&y[b]) {
            let (Some(mut p), Some(mut q)) = (x[a].known(), y[b].known()) else { break };
            while p != q && p > 0 && q > 0 {
                let (at, d, product) = if p < q { (&mut a, x, &mut p) } else { (&mut b, y, &mut q) };
                let Some(size) = at.checked_sub(1).and_then(|i| d[i].known()) else { break };
                *at -= 1;
                *product = product.saturating_mul(size);
            }
            if p != q || p == 0 {
                break;
            }
        }
        out.push([a..i, b..j]);
        (i, j) = (a, b);
    }
    let front = (0..i.min(j)).take_while(|k| x[*k].same(&y[*k]));
    out.extend(front.map(|k| [k..k + 1, k..k + 1]));
    out
}

/// The one axis of a piece that has more than one cell, or its only one.
fn single(d: &[Dim], axes: &Range<usize>) -> Option<usize> {
    let mut large = axes.clone().filter(|i| axes.len() == 1 || d[*i].known() != Some(1));
    large.next().filter(|_| large.next().is_none())
}

impl Groups<'_> {
    /// The same elements under another shape: an axis as it was, in several, or several as one.
    ///
    /// Which of several axes loses cells is decided by who asks first, because an element that goes is one of each:
    /// an axis that is split waits for that.
    pub(super) fn reshaped(&mut self, id: NodeId, place: Place, axis: usize) -> bool {
        let g = self.g;
        let n = g.node(id);
        let (Some(x), y) = (n.input(0), n.output()) else { return false };
        let side = match place {
            Place::Operand(0) => 0,
            Place::Result(_) => 1,
            Place::Operand(_) => return false,
        };
        let (Some(dx), Some(dy)) = (dims(g, x), dims(g, y)) else { return false };
        let Some(piece) = segments(dx, dy).into_iter().find(|s| s[side].contains(&axis)) else {
            return false;
        };
        let values = [(x, dx), (y, dy)];
        let whole: [Option<usize>; 2] = [0, 1].map(|i| single(values[i].1, &piece[i]));
        let can_resize = |axis| matches!(n.op, Op::Flatten(_)) || operands::can_resize(g, n, axis);
        match whole {
            [Some(a), Some(b)] => axis == [a, b][side] && can_resize(b) && self.link((x, a), (y, b)),
            [None, None] => false,
            _ => {
                let (flat, split) = if whole[0].is_some() { (0, 1) } else { (1, 0) };
                let key = (id, piece[0].start);
                let chosen = self.chosen.get(&key).copied();
                if side == flat {
                    let large = |i: &usize| values[split].1[*i].known() != Some(1);
                    if let (None, Some(first)) = (chosen, piece[split].clone().find(large)) {
                        let to = if split == 0 { Place::Operand(0) } else { Place::Result(0) };
                        self.waiting.push(Waiting { key, at: (values[flat].0, axis), leading: (to, first) });
                    }
                    return whole[flat] == Some(axis);
                }
                if let Some(chosen) = chosen {
                    return chosen == axis;
                }
                let Some(whole) = whole[flat] else { return false };
                if !can_resize([axis, whole][flat]) || values[split].1[axis].known() == Some(1) {
                    return false;
                }
                let inner = piece[split].end;
                let inner: usize = values[split].1[axis + 1..inner].iter().filter_map(Dim::known).product();
                let (Some(cells), Some(all)) =
                    (self.slot((values[split].0, axis)), self.slot((values[flat].0, whole)))
                else {
                    return false;
                };
                for i in 0..all.size {
                    self.tie((cells, i / inner % cells.size), (all, i));
                }
                self.chosen.insert(key, axis);
                true
            }
        }
    }

    /// Axes of size 1 put in or taken out.
    pub(super) fn squeezed(&mut self, n: &Node, place: Place, axis: usize) -> bool {
        let (Some(x), y) = (n.input(0), n.output()) else { return false };
        let (few, many) = if matches!(n.op, Op::Squeeze(_)) { (y, x) } else { (x, y) };
        let Some(d) = dims(self.g, many) else { return false };
        let rank = d.len();
        let extra: Vec<usize> = match n.input(1).map(|v| self.g.const_ints(v)) {
            Some(Some(axes)) => {
                axes.iter().map(|a| (if *a < 0 { a + rank as i64 } else { *a }) as usize).collect()
            }
            Some(None) => return false,
            None => (0..rank).filter(|i| d[*i].known() == Some(1)).collect(),
        };
        let left: Vec<usize> = (0..rank).filter(|i| !extra.contains(i)).collect();
        let own = match place {
            Place::Operand(0) => x,
            Place::Result(_) => y,
            Place::Operand(_) => return false,
        };
        let at = if own == few { Some(axis) } else { left.iter().position(|i| *i == axis) };
        at.is_some_and(|i| left.get(i).is_some_and(|to| self.link((few, i), (many, *to))))
    }

    /// Repeated along axes of size 1.
    pub(super) fn expanded(&mut self, n: &Node, place: Place, axis: usize) -> bool {
        let (Some(x), y) = (n.input(0), n.output()) else { return false };
        let ahead = self.rank(y) - self.rank(x).min(self.rank(y));
        let own = match place {
            Place::Operand(0) => Some(axis),
            Place::Result(_) => axis.checked_sub(ahead),
            Place::Operand(_) => return false,
        };
        let to = own.map_or(axis, |own| own + ahead);
        let repeated = own.is_none_or(|own| self.size(x, own) == Some(1));
        operands::can_resize(self.g, n, to)
            && (repeated || own.is_some_and(|own| self.link((x, own), (y, to))))
    }

    /// Parts along an axis.
    pub(super) fn split(&mut self, n: &Node, along: i64, axis: usize) -> bool {
        let Some(x) = n.input(0) else { return false };
        if !self.is(along, x, axis) {
            return n.outputs.iter().all(|y| self.link((x, axis), (*y, axis)));
        }
        let mut offset = 0;
        n.outputs.iter().all(|y| {
            let Some(size) = self.size(*y, axis) else { return false };
            offset += size;
            size > 0 && self.link_blocks((x, axis), offset - size, (*y, axis), 1)
        })
    }

    /// A part of some axes.
    pub(super) fn sliced(&mut self, n: &Node, place: Place, axis: usize) -> bool {
        let (Some(x), y) = (n.input(0), n.output()) else { return false };
        if !matches!(place, Place::Operand(0) | Place::Result(_)) {
            return false;
        }
        match operands::sliced(self.g, n, axis) {
            None => false,
            Some(None) => self.link((x, axis), (y, axis)),
            Some(Some((_, start, end))) => start < end && self.link_blocks((x, axis), start, (y, axis), 1),
        }
    }

    /// Slices at places of an axis, whichever they are: all others are as they were.
    pub(super) fn gathered(&mut self, n: &Node, along: i64, place: Place, axis: usize) -> bool {
        let (Some(x), Some(places), y) = (n.input(0), n.input(1), n.output()) else { return false };
        let along = (if along < 0 { along + self.rank(x) as i64 } else { along }) as usize;
        let new = self.rank(places);
        match place {
            Place::Operand(0) if axis < along => self.link((x, axis), (y, axis)),
            Place::Operand(0) if axis > along => self.link((x, axis), (y, axis + new - 1)),
            Place::Result(_) if axis < along => self.link((x, axis), (y, axis)),
            Place::Result(_) if axis >= along + new => self.link((x, axis + 1 - new), (y, axis)),
            _ => false,
        }
    }

    /// Whether nobody asks for the size of this axis.
    pub(super) fn is_unasked(&self, n: &Node, op: &ShapeOf, x: ValueId, axis: usize) -> bool {
        let range = op.range(self.rank(x));
        let Some(at) = axis.checked_sub(range.start).filter(|_| range.contains(&axis)) else { return true };
        let y = n.output();
        let other = |user: &NodeId| {
            let n = self.g.node(*user);
            let places = n.input(1).and_then(|v| self.g.constant(v)?.to_i64_vec().ok());
            let at = at as i64;
            matches!(n.op, Op::Gather(_))
                && n.input(0) == Some(y)
                && places.is_some_and(|p| p.iter().all(|p| *p != at && *p != at - range.len() as i64))
        };
        !self.g.is_output(y) && self.g.value(y).users().iter().all(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(x: &[Dim], y: &[Dim]) -> Vec<Segment> {
        let mut s = segments(x, y);
        s.sort_by_key(|s| s[0].start);
        s
    }

    #[test]
    fn shapes_are_matched_from_both_ends() {
        let (n, s) = (Dim::symbol("n"), Dim::symbol("s"));
        let known = |v: &[usize]| v.iter().map(|n| Dim::Known(*n)).collect::<Vec<_>>();
        let rows = [n.clone(), s.clone(), 12.into()];
        let heads = [n.clone(), s.clone(), 3.into(), 4.into()];
        assert_eq!(pieces(&rows, &heads), [[0..1, 0..1], [1..2, 1..2], [2..3, 2..4]]);
        assert_eq!(
            pieces(&[n.clone(), 12.into()], &[s.clone(), n.clone(), 12.into()]),
            [[1..2, 2..3], [0..1, 1..2]].into_iter().rev().collect::<Vec<_>>()
        );
        // What is not known to divide is in no piece.
        assert_eq!(pieces(&[n.clone(), 6.into(), 4.into()], &[s, 3.into(), 4.into()]), [[2..3, 2..3]]);
        assert_eq!(pieces(&known(&[4, 6]), &known(&[2, 2, 2, 3])), [[0..1, 0..2], [1..2, 2..4]]);
        assert_eq!(pieces(&known(&[0, 6]), &known(&[6, 0])), [] as [Segment; 0]);
        assert_eq!(single(&known(&[1, 5, 1]), &(0..3)), Some(1));
        assert_eq!(single(&known(&[2, 5, 1]), &(0..3)), None);
        assert_eq!(single(&known(&[1]), &(0..1)), Some(0));
    }
}
