//! Attention of a few queries, as when text is generated: keys and values are read once, where they lie.

use super::probabilities::{BLIND, LANES, Rows};
use super::{Group, Job, rows};
use crate::error::KernelError;
use crate::scratch;
use crate::simd::Level;
use crate::threads::Shards;

/// Up to how many rows of a group packing its keys does not pay.
pub(super) const MOST_ROWS: usize = 3;

/// Whether rows of `size` floats, `pitch` apart, are all inside.
fn reach(data: &[f32], pitch: usize, rows: usize, size: usize) -> bool {
    size == 0 || (rows - 1) * pitch + size <= data.len()
}

/// Computes the rows of a group.
pub(super) fn run(
    level: Level,
    job: &Job<'_>,
    group: Group,
    out: Shards<'_, f32>,
) -> Result<(), KernelError> {
    let s = &job.sizes;
    let padded = s.keys.next_multiple_of(LANES);
    let start = |s: [usize; 3]| group.batch * s[0] + group.kv_head * s[1];
    let (k, v) = (&job.k.data[start(job.k.strides)..], &job.v.data[start(job.v.strides)..]);
    scratch::with(2 * padded, |room| {
        let (scores, bias) = room.split_at_mut(padded);
        for row in 0..job.rows() {
            let q = job.offset(group, row, job.q.strides);
            let mut factor = [0.0];
            let query = &job.q.data[q..q + s.size];
            assert!(reach(k, job.k.strides[2], s.keys, s.size) && scores.len() >= s.keys);
            // SAFETY: the keys are there, and scores have room for one of each, by the check above.
            unsafe {
                let (x, k, to) = (query.as_ptr(), k.as_ptr(), scores.as_mut_ptr());
                rows::dots(level, x, s.size, k, job.k.strides[2], s.keys, to);
            }
            let (scores, bias) = (&mut *scores, &mut *bias);
            level.run(Rows {
                level,
                job,
                group,
                first: row,
                scores,
                pitch: padded,
                bias,
                factors: &mut factor,
            });
            // SAFETY: rows of the result lie apart, and each is one task's.
            let out = unsafe { out.part(job.offset(group, row, job.out_strides), s.value_size) };
            if factor[0] == BLIND {
                out.fill(0.0);
                continue;
            }
            assert!(reach(v, job.v.strides[2], s.keys, s.value_size));
            // SAFETY: there is a score for each key, the values are there by the check above, and the
            // result's row is as long as they are.
            unsafe {
                let (w, v, to) = (scores.as_ptr(), v.as_ptr(), out.as_mut_ptr());
                rows::weighted(level, w, s.keys, v, job.v.strides[2], s.value_size, factor[0], to);
            }
        }
    })
}
