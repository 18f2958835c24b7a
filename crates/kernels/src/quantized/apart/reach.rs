//! How large and how small words of products can become.

/// Words that are looked at together; panels have whole vectors of them.
const LANES: usize = 16;

/// What the two weights of each word of a panel's groups add up to at most and at least, by elements of one or nothing.
pub(crate) struct Reach {
    /// Words of a group.
    words: usize,
    most: Vec<[i16; LANES]>,
    least: Vec<[i16; LANES]>,
    /// What two words may add up to.
    limits: [i16; 2],
}

impl Reach {
    /// That of a panel of `width` columns, of which elements up to `span` are multiplied.
    pub(crate) fn of(panel: &[u8], width: usize, span: u8) -> Reach {
        let count = panel.len() / (2 * LANES);
        let (mut most, mut least) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for bytes in panel.as_chunks::<{ 2 * LANES }>().0 {
            let (mut more, mut less) = ([0; LANES], [0; LANES]);
            for (i, pair) in bytes.as_chunks::<2>().0.iter().enumerate() {
                let both = i16::from_le_bytes(*pair);
                let (a, b) = ((both << 8) >> 8, both >> 8);
                more[i] = a.max(0) + b.max(0);
                less[i] = a.min(0) + b.min(0);
            }
            most.push(more);
            least.push(less);
        }
        let span = i32::from(span.max(1));
        let limits = [32767 / span, -(32768 / span)].map(|x| x as i16);
        Reach { words: 2 * width / LANES, most, least, limits }
    }

    /// Whether a word of two groups can be exceeded.
    #[inline]
    pub(crate) fn exceeds(&self, a: usize, b: usize) -> bool {
        let (a, b) = (a * self.words, b * self.words);
        let (mut most, mut least) = ([0; LANES], [0; LANES]);
        for w in 0..self.words {
            let (x, y) = (&self.most[a + w], &self.most[b + w]);
            for i in 0..LANES {
                most[i] = most[i].max(x[i] + y[i]);
            }
            let (x, y) = (&self.least[a + w], &self.least[b + w]);
            for i in 0..LANES {
                least[i] = least[i].min(x[i] + y[i]);
            }
        }
        let (mut over, mut under) = (i16::MIN, i16::MAX);
        for i in 0..LANES {
            over = over.max(most[i]);
            under = under.min(least[i]);
        }
        over > self.limits[0] || under < self.limits[1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantized::apart::{SPANS, exceeds};
    use proptest::prelude::*;

    proptest! {
        /// As one word after the other.
        #[test]
        fn groups_exceed_words_if_a_word_does(
            vectors in 1usize..3, close: bool, seed: u64, span in prop::sample::select(&SPANS[..]),
        ) {
            let width = 8 * vectors;
            let mut state = seed | 1;
            let panel: Vec<u8> = (0..6 * 4 * width).map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let x = (state >> 40) as u8;
                // Four of these are at the limit of some span, or one of few weights is an end of the range.
                if close { [64, 63, 192, 191, 53, 43, 214, 0][usize::from(x % 8)] } else if x == 0 { 128 } else { x % 32 }
            }).collect();
            let reach = Reach::of(&panel, width, span);
            for a in 0..6 {
                for b in 0..6 {
                    let of = |g: usize| panel[g * 4 * width..][..4 * width].as_chunks::<2>().0;
                    let one = of(a).iter().zip(of(b)).any(|(x, y)| exceeds(*x, *y, span));
                    prop_assert_eq!(reach.exceeds(a, b), one);
                }
            }
        }
    }
}
