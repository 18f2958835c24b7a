use super::*;
use crate::simd::Level;
use proptest::prelude::*;

/// Small numbers that repeat late.
fn numbers(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| (((i + seed) * 7919) % 1021) as f32 / 510.0 - 1.0).collect()
}

/// Strides of `[batch, heads, rows, size]`, or of heads side by side in rows that are `gap` longer.
fn strides(side_by_side: bool, [heads, rows, size]: [usize; 3], gap: usize) -> [usize; 3] {
    if side_by_side {
        [rows * (heads * size + gap), size, heads * size + gap]
    } else {
        [heads * rows * (size + gap), rows * (size + gap), size + gap]
    }
}

/// The definition, in double precision, row by row.
fn definition(
    s: Sizes,
    [q, k, v]: [Heads<'_>; 3],
    mask: Option<Mask<'_>>,
    scoring: Scoring,
    [b, h, i]: [usize; 3],
) -> Vec<f64> {
    let at = |x: &Heads<'_>, h: usize, row: usize, e: usize| {
        f64::from(x.data[b * x.strides[0] + h * x.strides[1] + row * x.strides[2] + e])
    };
    let kv = h / (s.heads / s.kv_heads);
    let mut seen = false;
    let scores: Vec<f64> = (0..s.keys)
        .map(|j| {
            let mut score = (0..s.size).map(|e| at(&q, h, i, e) * at(&k, kv, j, e)).sum::<f64>();
            score *= f64::from(scoring.scale);
            if scoring.softcap != 0.0 {
                let cap = f64::from(scoring.softcap);
                score = cap * (score / cap).tanh();
            }
            let mut bias = mask.map_or(0.0, |m| {
                let at = b * m.strides[0] + h * m.strides[1] + i * m.strides[2] + j * m.strides[3];
                match m.values {
                    _ if j >= m.keys => f64::NEG_INFINITY,
                    MaskValues::Added(x) => f64::from(x[at]),
                    MaskValues::Seen(x) if x[at] => 0.0,
                    MaskValues::Seen(_) => f64::NEG_INFINITY,
                }
            });
            if scoring.causal.is_some_and(|n| j > i + n) {
                bias = f64::NEG_INFINITY;
            }
            seen |= bias != f64::NEG_INFINITY;
            score + bias
        })
        .collect();
    let nan = scoring.blind_nan && s.keys > 0;
    if !seen && !nan {
        return vec![0.0; s.value_size];
    }
    let top = scores.iter().fold(f64::NEG_INFINITY, |a, b| a.max(*b));
    let weights: Vec<f64> = scores.iter().map(|x| (x - top).exp()).collect();
    let sum: f64 = weights.iter().sum();
    (0..s.value_size)
        .map(|e| weights.iter().enumerate().map(|(j, w)| w / sum * at(&v, kv, j, e)).sum())
        .collect()
}

#[derive(Debug, Clone)]
struct Case {
    sizes: Sizes,
    side_by_side: [bool; 4],
    gap: usize,
    mask: usize,
    short: usize,
    broadcast: [bool; 4],
    causal: Option<usize>,
    softcap: bool,
    blind_nan: bool,
    odd: usize,
}

fn case() -> impl Strategy<Value = Case> {
    let few = prop_oneof![0usize..5, 5usize..40, 180usize..220];
    let many = prop_oneof![0usize..5, 5usize..60, 250usize..300];
    let size = prop_oneof![0usize..5, 5usize..40, Just(64usize), Just(80)];
    let sizes = (1usize..3, 1usize..3, 1usize..4, few, many, size.clone(), size).prop_map(
        |(batch, kv_heads, group, queries, keys, size, value_size)| Sizes {
            batch,
            heads: kv_heads * group,
            kv_heads,
            queries,
            keys,
            size,
            value_size,
        },
    );
    let causal = proptest::option::of(0usize..20);
    (
        sizes,
        any::<[bool; 4]>(),
        0usize..4,
        0usize..4,
        0usize..3,
        any::<[bool; 4]>(),
        causal,
        any::<[bool; 2]>(),
        0usize..12,
    )
        .prop_map(|(sizes, side_by_side, gap, mask, short, broadcast, causal, flags, odd)| Case {
            sizes,
            side_by_side,
            gap,
            mask,
            short,
            broadcast,
            causal,
            softcap: flags[0],
            blind_nan: flags[1],
            odd,
        })
}

fn check(c: &Case) -> Result<(), TestCaseError> {
    let s = c.sizes;
    let q_strides = strides(c.side_by_side[0], [s.heads, s.queries, s.size], c.gap);
    let k_strides = strides(c.side_by_side[1], [s.kv_heads, s.keys, s.size], c.gap);
    let v_strides = strides(c.side_by_side[2], [s.kv_heads, s.keys, s.value_size], c.gap);
    let out_strides = strides(c.side_by_side[3], [s.heads, s.queries, s.value_size], c.gap);
    let (mut q, mut k) = (numbers(s.batch * q_strides[0], 1), numbers(s.batch * k_strides[0], 2));
    let mut v = numbers(s.batch * v_strides[0], 3);
    // Numbers that are none, in one place of one operand.
    let strange = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    let to = [&mut q, &mut k, &mut v];
    if let Some(x) = strange.get(c.odd % 4)
        && let Some(to) = to.into_iter().nth(c.odd / 4)
        && let Some(place) = to.len().checked_sub(1)
    {
        to[place / 2] = *x;
    }
    let keys = s.keys.saturating_sub(c.short * usize::from(c.mask > 0));
    let own = [s.batch, s.heads, s.queries, keys];
    let mut mask_strides = [0; 4];
    let mut len = 1;
    for a in (0..4).rev() {
        if !c.broadcast[a] {
            mask_strides[a] = len;
            len *= own[a];
        }
    }
    // Whole rows are hidden, too.
    let per_row = if c.broadcast[3] { 1 } else { keys.max(1) };
    let hidden = |i: usize| i * 31 % 7 < 3 || (i / per_row).is_multiple_of(3);
    let added: Vec<f32> = numbers(len, 4)
        .iter()
        .enumerate()
        .map(|(i, x)| match c.mask {
            1 => *x,
            _ if hidden(i) => f32::NEG_INFINITY,
            _ => 0.0,
        })
        .collect();
    let seen: Vec<bool> = (0..len).map(|i| !hidden(i)).collect();
    let values = if c.mask == 3 { MaskValues::Seen(&seen) } else { MaskValues::Added(&added) };
    let mask = (c.mask > 0).then_some(Mask { values, strides: mask_strides, keys });
    let scoring = Scoring {
        scale: 0.7,
        softcap: if c.softcap { 1.5 } else { 0.0 },
        causal: c.causal,
        blind_nan: c.blind_nan,
    };
    let [q, k, v] =
        [(&q, q_strides), (&k, k_strides), (&v, v_strides)].map(|(data, strides)| Heads { data, strides });
    for level in Level::available() {
        let run = |threads: usize| {
            let pool = Pool::new(threads).unwrap().with_level(level);
            let mut out = vec![9.5; s.batch * out_strides[0]];
            attention(&pool, s, q, k, v, mask, scoring, &mut out, out_strides).unwrap();
            out
        };
        let mut out = run(1);
        // Which sign a NaN has is up to the order of an instruction's operands.
        let same = |a: f32, b: f32| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
        prop_assert!(out.iter().zip(run(3)).all(|(a, b)| same(*a, b)));
        for b in 0..s.batch {
            for h in 0..s.heads {
                for i in 0..s.queries {
                    let want = definition(s, [q, k, v], mask, scoring, [b, h, i]);
                    let at = b * out_strides[0] + h * out_strides[1] + i * out_strides[2];
                    for (e, (got, want)) in out[at..at + s.value_size].iter_mut().zip(&want).enumerate() {
                        let near = (f64::from(*got) - want).abs() <= 2e-5
                            || f64::from(*got) == *want
                            || got.is_nan() && want.is_nan();
                        prop_assert!(near, "{level:?} {b} {h} {i} {e}: {got} is not {want}");
                        *got = 9.5;
                    }
                }
            }
        }
        // Nothing between the rows was written.
        prop_assert!(out.iter().all(|x| *x == 9.5));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn as_defined(c in case()) {
        check(&c)?;
    }
}

#[test]
fn long_rows_as_defined() {
    let sizes = Sizes { batch: 1, heads: 2, kv_heads: 1, queries: 30, keys: 4100, size: 64, value_size: 33 };
    for (odd, queries) in [(11, 30), (0, 30), (11, 1)] {
        let sizes = Sizes { queries, ..sizes };
        let case = Case {
            sizes,
            side_by_side: [true, true, false, true],
            gap: 3,
            mask: 2,
            short: 1,
            broadcast: [false; 4],
            causal: Some(4000),
            softcap: false,
            blind_nan: false,
            odd,
        };
        check(&case).unwrap();
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let sizes = Sizes { batch: 1, heads: 2, kv_heads: 2, queries: 3, keys: 3, size: 4, value_size: 4 };
    let scoring = Scoring { scale: 1.0, softcap: 0.0, causal: None, blind_nan: false };
    let data = [0.0; 24];
    let x = Heads { data: &data, strides: [24, 12, 4] };
    let run = |sizes: Sizes, k: Heads<'_>, mask: Option<Mask<'_>>, out_strides: [usize; 3]| {
        let mut out = [0.0; 24];
        attention(&Pool::serial(), sizes, x, k, x, mask, scoring, &mut out, out_strides)
    };
    assert!(run(sizes, x, None, [24, 12, 4]).is_ok());
    assert!(run(sizes, x, None, [24, 4, 8]).is_ok());
    assert!(run(sizes, x, None, [24, 4, 4]).is_err(), "rows overlap");
    assert!(run(sizes, x, None, [24, 12, 5]).is_err(), "the result is too short");
    assert!(run(sizes, Heads { data: &data[1..], ..x }, None, [24, 12, 4]).is_err());
    assert!(run(Sizes { kv_heads: 0, ..sizes }, x, None, [24, 12, 4]).is_err());
    assert!(run(Sizes { heads: 3, ..sizes }, x, None, [24, 12, 4]).is_err());
    let mask = |len: usize, strides, keys| {
        Some(Mask { values: MaskValues::Seen(&[true; 64][..len]), strides, keys })
    };
    assert!(run(sizes, x, mask(9, [0, 0, 3, 1], 3), [24, 12, 4]).is_ok());
    assert!(run(sizes, x, mask(8, [0, 0, 3, 1], 3), [24, 12, 4]).is_err());
    assert!(run(sizes, x, mask(64, [0, 0, 4, 1], 4), [24, 12, 4]).is_err());
    assert!(run(sizes, x, mask(64, [0, 0, 6, 2], 3), [24, 12, 4]).is_err());
}
