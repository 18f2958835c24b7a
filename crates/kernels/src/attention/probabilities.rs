//! Rows of scores made into the numerators of probabilities.

use super::{Group, Job, Mask, MaskValues, rows};
use crate::math;
use crate::simd::{Isa, Kernel, Level};

/// Floats that are worked on together.
pub(super) const LANES: usize = 16;

/// What a row's numerators are multiplied by, for a query that may see nothing.
pub(super) const BLIND: f32 = -1.0;

/// Scores of a group's rows from `first` on, in place.
pub(super) struct Rows<'a, 'j> {
    pub level: Level,
    pub job: &'a Job<'j>,
    pub group: Group,
    pub first: usize,
    /// Rows of `pitch` floats, of which as many as there are keys, in whole lanes, are used.
    pub scores: &'a mut [f32],
    pub pitch: usize,
    /// Room for a row's mask.
    pub bias: &'a mut [f32],
    /// For each row what makes its numerators probabilities, or [`BLIND`].
    pub factors: &'a mut [f32],
}

impl Kernel for Rows<'_, '_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let job = self.job;
        let keys = job.sizes.keys;
        let padded = keys.next_multiple_of(LANES);
        let bias = &mut self.bias[..padded];
        // What the room for a row's mask holds now.
        let mut held = None;
        let plain = job.mask.is_none() && job.scoring.causal.is_none() && padded == keys;
        let rows = self.scores.chunks_mut(self.pitch).zip(self.factors);
        for ((row, factor), (head, query)) in rows.zip(job.places(self.group, self.first)) {
            let row = &mut row[..padded];
            row[keys..].fill(0.0);
            let scoring = &job.scoring;
            let mut scale = scoring.scale;
            if scoring.softcap != 0.0 {
                let (cap, inner) = (scoring.softcap, scale / scoring.softcap);
                row.iter_mut().for_each(|s| *s = cap * math::tanh::<I>(*s * inner));
                scale = 1.0;
            }
            let bias = if plain {
                None
            } else {
                let seen =
                    scoring.causal.map_or(keys, |n| query.saturating_add(n).saturating_add(1).min(keys));
                let at = job.mask.map(|m| mask_row(&m, [self.group.batch, head, query]));
                let bias: &[f32] = match (&job.mask, at) {
                    (Some(Mask { values: MaskValues::Added(x), strides, keys: all }), Some(at))
                        if seen == padded && *all == padded && strides[3] == 1 =>
                    {
                        &x[at..at + padded]
                    }
                    _ => {
                        if held != Some((at, seen)) {
                            spread(job.mask.as_ref(), at, seen, bias);
                            held = Some((at, seen));
                        }
                        bias
                    }
                };
                Some(bias)
            };
            let addends = bias.map_or(std::ptr::null(), |b| b.as_ptr());
            // SAFETY: the row, and what is added to it, are whole lanes of one length.
            let top = unsafe { rows::scale(self.level, row.as_mut_ptr(), padded, scale, addends) };
            let hidden = |b: &[f32]| b.iter().all(|b| *b == f32::NEG_INFINITY);
            if top == f32::NEG_INFINITY && !scoring.blind_nan && bias.is_some_and(hidden) {
                *factor = BLIND;
                continue;
            }
            // SAFETY: the row is whole lanes.
            *factor = 1.0 / unsafe { rows::numerators(self.level, row.as_mut_ptr(), padded, top) };
        }
    }
}

fn mask_row(m: &Mask<'_>, at: [usize; 3]) -> usize {
    at.iter().zip(m.strides).map(|(i, s)| i * s).sum()
}

/// A row's addends: the mask's as far as it goes and keys are seen, then minus infinity.
fn spread(mask: Option<&Mask<'_>>, at: Option<usize>, seen: usize, to: &mut [f32]) {
    let (Some(m), Some(at)) = (mask, at) else {
        to[..seen].fill(0.0);
        to[seen..].fill(f32::NEG_INFINITY);
        return;
    };
    let n = seen.min(m.keys);
    let step = m.strides[3];
    match m.values {
        MaskValues::Added(x) if step == 1 => to[..n].copy_from_slice(&x[at..at + n]),
        MaskValues::Added(x) => to[..n].iter_mut().enumerate().for_each(|(j, b)| *b = x[at + j * step]),
        MaskValues::Seen(x) => to[..n].iter_mut().enumerate().for_each(|(j, b)| {
            *b = if x[at + j * step] { 0.0 } else { f32::NEG_INFINITY };
        }),
    }
    to[n..].fill(f32::NEG_INFINITY);
}
