//! Nothing is lost by what is set apart, and what stays fits.

use super::*;
use crate::quantized::form::{self, Form, Job};
use crate::simd::Level;
use proptest::prelude::*;

struct Narrow<'a, 'b>(&'b mut Parts<'a>, [u8; 2]);

impl Job for Narrow<'_, '_> {
    type Out = ();
    unsafe fn run<S: Sums>(self) {
        // SAFETY: the instructions are on.
        unsafe { narrow::<S>(self.0, self.1) }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Elements are the sum of their parts and the base, and lists name what is lacking.
    #[test]
    fn elements_are_the_sum_of_their_parts(
        rows in 1usize..=4, runs in 1usize..4, eights in 1usize..25, zero: u8, near: bool, seed: u64, flip: Option<bool>,
        span in prop::sample::select(&SPANS[..]),
    ) {
        let mut state = seed | 1;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as u8
        };
        let depth = 8 * eights;
        // Windows overlap, and runs lie apart.
        let windows: Vec<u32> = (0..rows).map(|i| 8 * i as u32).collect();
        let runs: Vec<usize> = (0..runs).map(|i| i * (depth + 16)).collect();
        let len = 8 * (rows - 1) + runs[runs.len() - 1] + depth;
        // Few are far from the zero point, or all may be.
        let mut of = || if near && next() > 5 { zero.saturating_add(next() / 8) } else { next() };
        let old: Vec<u8> = (0..len).map(|_| of()).collect();
        let base = base(zero, span);
        prop_assert!(zero - base <= span);
        for form in Form::available(Level::best()) {
            let (mut narrow, mut more, mut less) = (vec![0; len], old.clone(), vec![0; len]);
            // In place, or from elsewhere, with a sign or without.
            let turn = if flip == Some(true) { 0x80 } else { 0 };
            let turned: Vec<u8> = old.iter().map(|x| x ^ turn).collect();
            let from = flip.map(|_| (&turned[..], turn));
            let (mut above, mut below) = (vec![0; bits(len)], vec![0; bits(len)]);
            let mut parts = Parts {
                from, narrow: &mut narrow, more: &mut more, less: &mut less, bits: [&mut above, &mut below],
            };
            form::run(form, Level::best(), Narrow(&mut parts, [base, span]));
            for at in 0..len {
                prop_assert!(narrow[at] <= span && more[at] < 128 && less[at] < 128);
                let sum = i32::from(base) + i32::from(narrow[at]) + i32::from(more[at]) - i32::from(less[at]);
                prop_assert_eq!(sum, i32::from(old[at]));
            }
            for (bits, part) in [(&above, &more), (&below, &less)] {
                let mut list = vec![Group { number: 0, place: 0 }; runs.len() * depth / 4];
                let mut marks = vec![0; list.len().div_ceil(32)];
                let count = Lacking { bits, runs: &runs, depth }.list(&windows, 0, &mut list, &mut marks);
                let lacks = |group: usize| {
                    let (run, step) = (4 * group / depth, 4 * group % depth);
                    windows.iter().any(|w| part[*w as usize + runs[run] + step..][..4] != [0; 4])
                };
                let place = |group: usize| (runs[4 * group / depth] + 4 * group % depth) as u32;
                let expected: Vec<Group> = (0..list.len())
                    .filter(|&g| lacks(g))
                    .map(|g| Group { number: g as u32, place: place(g) })
                    .collect();
                prop_assert_eq!(&list[..count], &expected[..]);
                for g in 0..list.len() as u32 {
                    let marked = marks[g as usize / 32] >> (g % 32) & 1 != 0;
                    prop_assert_eq!(marked, expected.iter().any(|e| e.number == g));
                }
            }
        }
    }

    /// Weights are what the panel and what is behind it hold together, and words hold what meets in them.
    #[test]
    fn weights_fit_words(
        groups in 1usize..20, vectors in 1usize..3, large: bool, seed: u64, span in prop::sample::select(&SPANS[..]),
    ) {
        let width = 8 * vectors;
        let mut state = seed | 1;
        let old: Vec<u8> = (0..groups * width * 4).map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let x = (state >> 40) as i8;
            (match (large, x % 3) { (true, 0) => -128, (true, 1) => 127, (true, _) => x, _ => x / 4 }) as u8
        }).collect();
        let (mut panel, mut apart, mut weights) = (old.clone(), vec![], vec![]);
        split(&mut panel, width, span, &mut apart, &mut weights);
        prop_assert_eq!(weights.len(), 64 * apart.len());
        prop_assert!(apart.is_sorted());
        for pair in weights.as_chunks::<2>().0 {
            prop_assert!(!exceeds([0; 2], *pair, span));
        }
        let row = 4 * width;
        let mut both = panel.clone();
        for (group, moved) in apart.iter().zip(weights.chunks_exact(64)) {
            let to = &mut both[*group as usize * row..][..row];
            for (to, &w) in to.iter_mut().zip(moved) {
                prop_assert!(*to == 0 || w == 0);
                *to |= w;
            }
        }
        prop_assert_eq!(both, old);
        for first in (0..groups.saturating_sub(1)).step_by(2) {
            for at in (0..row).step_by(2) {
                let [a, b] = [first, first + 1].map(|g| {
                    [panel[g * row + at], panel[g * row + at + 1]].map(|w| i32::from(w as i8) * i32::from(span))
                });
                let all = [a[0], a[1], b[0], b[1]];
                prop_assert!(all.iter().map(|x| x.max(&0)).sum::<i32>() <= i32::from(i16::MAX));
                prop_assert!(all.iter().map(|x| x.min(&0)).sum::<i32>() >= i32::from(i16::MIN));
            }
        }
    }
}
