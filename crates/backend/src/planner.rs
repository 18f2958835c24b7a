//! Fixed places for values that do not all live at once.

/// Every place is a multiple of this, in bytes.
pub const ARENA_ALIGNMENT: usize = 64;

/// When a value is needed, in steps of the plan, and how large it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// The step that writes it.
    pub first: usize,
    /// The last step that reads it; at least `first`.
    pub last: usize,
    /// Its size.
    pub bytes: usize,
}

impl Lifetime {
    fn overlaps(&self, other: &Lifetime) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// Places for a set of values in one arena.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Where each value begins, in the order in which they were given.
    pub offsets: Vec<usize>,
    /// Size of the arena.
    pub bytes: usize,
}

/// Places values so that those alive at the same step never overlap: the largest first, each in the
/// smallest gap between its neighbours in time that holds it (greedy by size; Pisarchyk and Lee 2020).
/// `None` when the arena would exceed the address space.
pub fn plan_memory(values: &[Lifetime]) -> Option<MemoryPlan> {
    let mut by_size: Vec<usize> = (0..values.len()).collect();
    by_size.sort_by_key(|&i| (std::cmp::Reverse(values[i].bytes), values[i].first, i));
    let mut plan = MemoryPlan { offsets: vec![0; values.len()], bytes: 0 };
    // Placed values in the order of their offsets.
    let mut placed: Vec<usize> = Vec::with_capacity(values.len());
    for i in by_size {
        let v = values[i];
        let size = v.bytes.checked_next_multiple_of(ARENA_ALIGNMENT)?;
        if size == 0 {
            continue;
        }
        let mut end = 0usize;
        let mut best: Option<(usize, usize)> = None;
        for &j in &placed {
            if !values[j].overlaps(&v) {
                continue;
            }
            let gap = plan.offsets[j].saturating_sub(end);
            if gap >= size && best.is_none_or(|(g, _)| gap < g) {
                best = Some((gap, end));
            }
            end = end.max(
                plan.offsets[j].checked_add(values[j].bytes.checked_next_multiple_of(ARENA_ALIGNMENT)?)?,
            );
        }
        let offset = best.map_or(end, |b| b.1);
        plan.offsets[i] = offset;
        plan.bytes = plan.bytes.max(offset.checked_add(size)?);
        let at = placed.partition_point(|&j| plan.offsets[j] <= offset);
        placed.insert(at, i);
    }
    Some(plan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_chain_needs_room_for_two() {
        let chain: Vec<_> = (0..10).map(|i| Lifetime { first: i, last: i + 1, bytes: 64 }).collect();
        assert_eq!(plan_memory(&chain).unwrap().bytes, 128);
    }

    #[test]
    fn overflow_is_none() {
        let huge = Lifetime { first: 0, last: 1, bytes: usize::MAX - 100 };
        assert_eq!(plan_memory(&[huge, huge]), None);
    }

    proptest! {
        #[test]
        fn living_values_never_overlap(raw in prop::collection::vec((0usize..20, 0usize..6, 0usize..500), 0..40)) {
            let values: Vec<_> = raw.into_iter().map(|(first, n, bytes)| Lifetime { first, last: first + n, bytes }).collect();
            let plan = plan_memory(&values).unwrap();
            for (i, a) in values.iter().enumerate() {
                prop_assert!(plan.offsets[i].is_multiple_of(ARENA_ALIGNMENT) && plan.offsets[i] + a.bytes <= plan.bytes);
                for (j, b) in values.iter().enumerate().skip(i + 1) {
                    let apart = plan.offsets[i] + a.bytes <= plan.offsets[j] || plan.offsets[j] + b.bytes <= plan.offsets[i];
                    prop_assert!(apart || !a.overlaps(b) || a.bytes == 0 || b.bytes == 0);
                }
            }
        }
    }
}
