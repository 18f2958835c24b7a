//! Random chains of resizes, and elements repeated by reshapes: what the rules make of them has the same bits.

use tensormill_ir::{Graph, text};
use tensormill_optimizer::{
    Numerics, OptLog, OptOptions, Pipeline,
    testing::{Bytes, compare, random_inputs},
};

/// Optimizes and compares over sizes of several draws.
fn checked(source: &str, seed: u64) -> (Graph, OptLog) {
    let g = text::parse(source).unwrap_or_else(|e| panic!("{e}\n{source}"));
    let mut o = g.clone();
    let options = OptOptions { numerics: Numerics::Exact, verify: true, ..Default::default() };
    let log =
        Pipeline::by_name("default").expect("a named pipeline").run(&mut o, &options).expect("optimizes");
    for draw in 0..3 {
        let inputs = random_inputs(&g, &mut Bytes::seeded(seed ^ draw, 1 << 12));
        if let Err(e) = compare(&g, &o, &inputs, Numerics::Exact) {
            panic!("{e}\n{g}\nbecame\n{o}");
        }
    }
    (o, log)
}

#[test]
fn two_resizes_find_the_elements_of_one() {
    let (mut merged, mut left) = (0, 0);
    for seed in 0..600 {
        let mut bytes = Bytes::seeded(seed, 64);
        let symbolic = ["N,H,W", "1,3,5", "2,1,4", "N,4,W"][bytes.below(4)];
        let mut source = format!("graph @main(%x: f32[{symbolic}]) -> (%y) {{\n");
        // Mostly of the kind that repeats elements.
        let odd = bytes.below(2) == 0;
        let mut pick = |usual: &[&'static str], of: &[&'static str]| {
            let of = if odd { of } else { usual };
            of[bytes.below(of.len())]
        };
        for (from, to) in [("%x", "%m"), ("%m", "%y")] {
            let mode = pick(&["nearest"], &["nearest", "nearest", "linear"]);
            let at = pick(
                &["half_pixel", "asymmetric"],
                &["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"],
            );
            let usual = if at == "asymmetric" {
                ["floor", "simple"]
            } else {
                ["round_prefer_floor", "round_prefer_ceil"]
            };
            let near = pick(&usual, &["round_prefer_floor", "round_prefer_ceil", "floor", "ceil", "simple"]);
            let s = [
                pick(&["1.0", "2.0"], &["1.0", "2.0", "0.5"]),
                pick(&["1.0", "2.0", "4.0"], &["1.0", "3.0", "1.5", "0.5"]),
                pick(&["2.0", "4.0", "3.0"], &["2.0", "3.0", "2.5"]),
            ];
            source += &format!(
                "  {to}s: f32[3] = const [{}]\n  {to}: f32[?,?,?] = resize {from}, _, {to}s {{mode={mode}, coordinates={at}, nearest={near}}}\n",
                s.join(", ")
            );
        }
        let (_, log) = checked(&(source + "}"), seed);
        match log.rewrites_of("resize_of_resize") {
            0 => left += 1,
            _ => merged += 1,
        }
    }
    assert!(merged > 20 && left > 100, "{merged} merged, {left} left");
}

#[test]
fn sizes_that_are_multiples_become_scales() {
    let mut applied = 0;
    for seed in 0..200 {
        let mut bytes = Bytes::seeded(seed, 64);
        let mut pick = |of: &[&'static str]| of[bytes.below(of.len())];
        let mode = pick(&["nearest", "linear", "cubic"]);
        let at = pick(&[
            "half_pixel",
            "asymmetric",
            "align_corners",
            "pytorch_half_pixel",
            "half_pixel_symmetric",
        ]);
        let by = [pick(&["1", "2", "4", "3"]), pick(&["1", "2", "8"])];
        let first = pick(&["mul", "mul", "add"]);
        let (_, log) = checked(
            &format!(
                "graph @main(%x: f32[N,2,H,W]) -> (%y) {{
                  %nc: i64[2] = shape %x {{end=2}}
                  %hw: i64[2] = shape %x {{start=2, end=4}}
                  %by: i64[2] = const [{}]
                  %to: i64[2] = {first} %hw, %by
                  %sizes: i64[4] = concat %nc, %to
                  %y: f32[?,?,?,?] = resize %x, _, _, %sizes {{mode={mode}, coordinates={at}}}
                }}",
                by.join(", ")
            ),
            seed,
        );
        applied += log.rewrites_of("sizes_to_scales") + log.rewrites_of("resize_unmoved");
    }
    assert!(applied > 60, "only {applied} were rewritten");
}

#[test]
fn repeated_elements_are_the_nearest() {
    let (mut found, mut left) = (0, 0);
    for seed in 0..600 {
        let mut bytes = Bytes::seeded(seed, 64);
        let rank = 2 + bytes.below(3);
        let x: Vec<usize> = (0..rank).map(|_| 1 + bytes.below(4)).collect();
        // Behind each axis up to two more, most of them of the last ones; rarely in front.
        let (mut apart, mut times, mut y) = (vec![], vec![], vec![]);
        for (i, &n) in x.iter().enumerate() {
            let mut whole = n;
            let before = bytes.below(12) == 0;
            let more: Vec<usize> =
                (0..bytes.below(2) + usize::from(i + 2 >= rank)).map(|_| 1 + bytes.below(3)).collect();
            let mut axes: Vec<(usize, usize)> = more.iter().map(|&m| (1, m)).collect();
            axes.insert(if before { axes.len() } else { 0 }, (n, 1));
            for (size, m) in axes {
                apart.push(size);
                times.push(m);
                whole *= m;
            }
            y.push(whole);
        }
        let repeated: Vec<usize> = apart.iter().zip(&times).map(|(a, b)| a * b).collect();
        let how = ["expand", "tile"][bytes.below(2)];
        let by = if how == "tile" { &times } else { &repeated };
        let (o, log) = checked(
            &format!(
                "graph @main(%x: f32{x:?}) -> (%y) {{
                  %a: i64[{}] = const {apart:?}
                  %b: i64[{}] = const {by:?}
                  %c: i64[{rank}] = const {y:?}
                  %0: f32{apart:?} = reshape %x, %a
                  %1: f32{repeated:?} = {how} %0, %b
                  %y: f32{y:?} = reshape %1, %c
                }}",
                apart.len(),
                by.len(),
            ),
            seed,
        );
        match log.rewrites_of("nearest_of_reshapes") {
            0 => left += 1,
            _ => found += 1,
        }
        assert_eq!(log.rewrites_of("nearest_of_reshapes") > 0, o.to_string().contains(" = resize"));
    }
    assert!(found > 100 && left > 50, "{found} found, {left} left");
}
