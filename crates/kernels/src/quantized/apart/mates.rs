//! Which groups of depth meet in paired products.
//!
//! Weights of two groups share words, which two large ones of a column would exceed. Where few groups make up the
//! depth, nearly every one has a large weight in some column of its panel, but seldom in the same place as all others:
//! each panel reads the groups in an order of its own in which most fit those that they meet.

use super::reach::Reach;

/// Partners tried for a group that does not fit its own.
const TRIES: usize = 96;

/// The order in which a panel reads its groups of depth, and where each group is in that order.
#[derive(Clone, Copy)]
pub(crate) struct Mates<'a> {
    pub order: &'a [[u8; 2]],
    pub places: &'a [[u8; 2]],
}

impl<'a> Mates<'a> {
    /// Those that lie in memory as [`arrange`] gave them.
    #[inline(always)]
    pub(crate) fn new(bytes: &'a [u8]) -> Mates<'a> {
        let (order, places) = bytes.as_chunks::<2>().0.split_at(bytes.len() / 4);
        Mates { order, places }
    }

    /// Whether the order has every group, and the places are those.
    pub(crate) fn is_order(&self) -> bool {
        let group = |at: usize| self.order.get(at).map(|g| usize::from(u16::from_ne_bytes(*g)));
        (0..self.places.len()).all(|g| group(self.place(g)) == Some(g))
            && self.order.len() == self.places.len()
    }

    /// Where a group of depth is in the panel.
    #[inline(always)]
    pub(crate) fn place(&self, group: usize) -> usize {
        usize::from(u16::from_ne_bytes(self.places[group]))
    }
}

/// An order of a panel's groups in which few exceed words with those that they meet.
pub(crate) fn order(panel: &[u8], width: usize, span: u8) -> Vec<u16> {
    let reach = Reach::of(panel, width, span);
    let fit = |a: u16, b: u16| !reach.exceeds(a.into(), b.into());
    let mut order: Vec<u16> = (0..(panel.len() / (4 * width)) as u16).collect();
    let (pairs, _) = order.as_chunks_mut::<2>();
    let mut fits: Vec<bool> = pairs.iter().map(|p| fit(p[0], p[1])).collect();
    for i in 0..pairs.len() {
        // Each exchange makes more of the two pairs fit than did before.
        for step in 1..pairs.len().min(TRIES) {
            if fits[i] {
                break;
            }
            let j = (i + step) % pairs.len();
            let ([a, b], [c, d]) = (pairs[i], pairs[j]);
            for [x, y] in [[[a, c], [b, d]], [[a, d], [b, c]]] {
                let now = [fit(x[0], x[1]), fit(y[0], y[1])];
                if now.iter().filter(|f| **f).count() > usize::from(fits[j]) {
                    (pairs[i], pairs[j]) = (x, y);
                    (fits[i], fits[j]) = (now[0], now[1]);
                    break;
                }
            }
        }
    }
    order
}

/// Puts a panel's groups in this order; gives it and then the places of all groups, as they are to lie in memory.
pub(crate) fn arrange(panel: &mut [u8], width: usize, order: &[u16]) -> Vec<u8> {
    let row = 4 * width;
    let old = panel.to_vec();
    let mut places = vec![0; order.len()];
    for (at, (to, &g)) in panel.chunks_exact_mut(row).zip(order).enumerate() {
        to.copy_from_slice(&old[usize::from(g) * row..][..row]);
        places[usize::from(g)] = at as u16;
    }
    order.iter().chain(&places).flat_map(|n| n.to_ne_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// All groups stay, where the places say, and no fewer fit those that they meet.
        #[test]
        fn groups_change_places_only(pairs in 1usize..40, width in 1usize..3, large in 1usize..9, seed: u64) {
            let mut state = seed | 1;
            let mut next = || {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 33) as usize
            };
            let (row, groups) = (32 * width, 2 * pairs);
            let panel: Vec<u8> =
                (0..groups * row).map(|_| if next() % 64 < large { 127 } else { (next() % 61) as u8 }).collect();
            let misfits = |panel: &[u8]| {
                let (mut groups, mut weights) = (vec![], vec![]);
                crate::quantized::apart::split(&mut panel.to_vec(), 8 * width, 128, &mut groups, &mut weights);
                groups.len()
            };
            let mut arranged = panel.clone();
            let order = order(&panel, 8 * width, 128);
            let bytes = arrange(&mut arranged, 8 * width, &order);
            let mates = Mates::new(&bytes);
            prop_assert!(mates.is_order());
            for g in 0..groups {
                prop_assert_eq!(&panel[g * row..][..row], &arranged[mates.place(g) * row..][..row]);
            }
            prop_assert!(misfits(&arranged) <= misfits(&panel));
            let mut broken = bytes.clone();
            broken.swap(0, 2);
            prop_assert!(!Mates::new(&broken).is_order());
        }
    }

    /// Two groups of large weights in the same columns, and two of small ones.
    #[test]
    fn large_groups_meet_small_ones() {
        let panel: Vec<u8> = [100, 100, 3, 3].iter().flat_map(|w| [*w; 32]).collect();
        let order = order(&panel, 8, 128);
        assert!(order.as_chunks::<2>().0.iter().all(|p| (p[0] < 2) != (p[1] < 2)), "{order:?}");
    }
}
