//! Random graphs: optimized equals unoptimized, and the text form gives back the same graph.

use proptest::prelude::*;
use std::time::Instant;
use tensormill_ir::{Graph, text};
use tensormill_optimizer::{
    Numerics, OptOptions, Pipeline,
    testing::{Bytes, compare, random_graph, random_inputs, random_quantized},
};
use tensormill_reference::{EvalLimits, interpret};

/// The optimized graph; `None` where the optimizer found that no run can succeed.
fn optimized(g: &Graph, options: &OptOptions) -> Option<Graph> {
    let mut o = g.clone();
    match Pipeline::by_name("default").expect("a named pipeline").run(&mut o, options) {
        Ok(_) => Some(o),
        Err(e) => {
            for seed in 0..8 {
                let inputs = random_inputs(g, &mut Bytes::seeded(seed, 1 << 13));
                assert!(interpret(g, &inputs, &EvalLimits::default()).is_err(), "{e}\n{g}\n{o}");
            }
            None
        }
    }
}

fn holds(g: &Graph, numerics: Numerics, seed: u64) {
    let Some(o) = optimized(g, &OptOptions { numerics, verify: true, ..Default::default() }) else { return };
    for s in 0..3 {
        let inputs = random_inputs(g, &mut Bytes::seeded(seed ^ s, 1 << 13));
        if let Err(e) = compare(g, &o, &inputs, numerics) {
            panic!("{e}\n{g}\nbecame\n{o}");
        }
    }
}

fn round_trips(g: &Graph) {
    let t = text::print(g);
    let resolve = |name: &str, _: _, _: &_| {
        t.tensors.iter().find(|(n, _)| n == name).map(|(_, t)| t.clone()).ok_or_else(|| "missing".to_string())
    };
    match text::parse_with(&t.text, &resolve) {
        Ok(back) => assert!(back.same_as(g), "{}\ncame back as\n{back}", t.text),
        Err(e) => panic!("{e}\n{}", t.text),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 400, failure_persistence: None, ..Default::default() })]
    #[test]
    fn quantized_networks_keep_their_integers(data in prop::collection::vec(any::<u8>(), 200..1500), seed: u64) {
        let mut bytes = Bytes::new(data);
        let nodes = 2 + bytes.below(9);
        let g = random_quantized(&mut bytes, nodes).expect("a valid graph");
        round_trips(&g);
        holds(&g, Numerics::Exact, seed);
        holds(&g, Numerics::Reassociates, seed);
        if let Some(o) = optimized(&g, &OptOptions::default()) {
            round_trips(&o);
        }
    }

    #[test]
    fn optimized_equals_unoptimized(data in prop::collection::vec(any::<u8>(), 60..400), seed: u64) {
        let mut bytes = Bytes::new(data);
        let nodes = 4 + bytes.below(28);
        let g = random_graph(&mut bytes, nodes).expect("a valid graph");
        round_trips(&g);
        holds(&g, Numerics::Exact, seed);
        holds(&g, Numerics::Reassociates, seed);
        if let Some(o) = optimized(&g, &OptOptions::default()) {
            round_trips(&o);
        }
    }
}

/// Shapes of the same number of elements: every cut of these parts into axes, sometimes with an axis of 1.
fn cut(bytes: &mut Bytes, parts: &[i64]) -> Vec<i64> {
    let mut out = vec![];
    for (i, p) in parts.iter().enumerate() {
        match out.last_mut() {
            Some(last) if i > 0 && bytes.below(2) == 1 => *last *= p,
            _ => out.push(*p),
        }
        if bytes.below(8) == 0 {
            out.push(1);
        }
    }
    out
}

#[test]
fn transposes_between_reshapes_move_the_same_elements() {
    let mut applied = 0;
    for seed in 0..600 {
        let mut bytes = Bytes::seeded(seed, 200);
        let n = 2 + bytes.below(4);
        let parts: Vec<i64> = (0..n).map(|_| 2 + bytes.below(2) as i64).collect();
        let (from, mid) = (cut(&mut bytes, &parts), cut(&mut bytes, &parts));
        let mut perm: Vec<usize> = (0..mid.len()).collect();
        (1..mid.len()).rev().for_each(|i| perm.swap(i, bytes.below(i + 1)));
        // Every axis of the middle as it was, or with the one after it.
        let turned: Vec<i64> = perm.iter().map(|p| mid[*p]).collect();
        let to = cut(&mut bytes, &turned);
        let g = format!(
            "graph @main(%x: f32{from:?}) -> (%y) {{\n  %m: i64[{}] = const {mid:?}\n  %t: i64[{}] = const {to:?}\n  \
             %0: f32{mid:?} = reshape %x, %m\n  %1: f32{turned:?} = transpose %0 {{perm={perm:?}}}\n  \
             %y: f32{to:?} = reshape %1, %t\n}}",
            mid.len(),
            to.len()
        );
        let g = text::parse(&g).expect("parses");
        let mut o = g.clone();
        let options = OptOptions { numerics: Numerics::Exact, verify: true, ..Default::default() };
        let log =
            Pipeline::by_name("basic").expect("a named pipeline").run(&mut o, &options).expect("optimizes");
        applied += log.rewrites_of("transpose_between_reshapes");
        let inputs = random_inputs(&g, &mut Bytes::seeded(seed, 1 << 12));
        if let Err(e) = compare(&g, &o, &inputs, Numerics::Exact) {
            panic!("{e}\n{g}\nbecame\n{o}");
        }
    }
    assert!(applied > 100, "only {applied} were rewritten");
}

#[test]
fn optimizing_twice_changes_nothing() {
    for seed in 0..40 {
        let g = random_graph(&mut Bytes::seeded(seed, 600), 30).expect("a valid graph");
        let Some(once) = optimized(&g, &OptOptions::default()) else { continue };
        let twice = optimized(&once, &OptOptions::default()).expect("as the first time");
        assert!(once.same_as(&twice), "seed {seed}\n{once}\nbecame\n{twice}");
    }
}

#[test]
fn fuel_bounds_rewrites_and_every_prefix_is_right() {
    let pipeline = Pipeline::by_name("default").expect("a named pipeline");
    let mut total = 0;
    for seed in 0..12 {
        let g = random_graph(&mut Bytes::seeded(seed, 900), 40).expect("a valid graph");
        let Ok(full) = pipeline.run(&mut g.clone(), &OptOptions::default()) else { continue };
        total += full.rewrites();
        for fuel in 0..full.rewrites() {
            let mut o = g.clone();
            let options = OptOptions { fuel: Some(fuel), verify: true, ..Default::default() };
            let log = pipeline.run(&mut o, &options).expect("optimizes");
            assert!(log.rewrites() <= fuel, "{} rewrites with fuel {fuel}", log.rewrites());
            let inputs = random_inputs(&g, &mut Bytes::seeded(fuel, 4096));
            if let Err(e) = compare(&g, &o, &inputs, Numerics::Reassociates) {
                panic!("fuel {fuel}: {e}\n{g}\n{o}");
            }
        }
    }
    assert!(total > 40, "only {total} rewrites");
}

/// Quadratic algorithms take seconds here; the bound is for unoptimized builds on busy machines.
#[test]
fn large_graphs_take_little_time() {
    let mut lines = String::from("graph @main(%x: f32[N,8]) -> (%h6000) {\n  %h0: f32[N,8] = relu %x\n");
    for i in 0..6000 {
        let (a, b) = (i, i + 1);
        let line = match i % 6 {
            0 => format!("  %c{b}: f32[8] = const [1,2,3,4,5,6,7,8]\n  %h{b}: f32[N,8] = add %h{a}, %c{b}\n"),
            1 => format!("  %c{b}: f32[] = const [1]\n  %h{b}: f32[N,8] = mul %h{a}, %c{b}\n"),
            2 => format!("  %h{b}: f32[N,8] = relu %h{a}\n"),
            3 => format!("  %c{b}: i64[2] = const [-1, 8]\n  %h{b}: f32[N,8] = reshape %h{a}, %c{b}\n"),
            4 => format!("  %t{b}: f32[8,N] = transpose %h{a}\n  %h{b}: f32[N,8] = transpose %t{b}\n"),
            _ => format!("  %h{b}: f32[N,8] = tanh %h{a}\n"),
        };
        lines.push_str(&line);
    }
    lines.push('}');
    let mut g = text::parse(&lines).expect("parses");
    let nodes = g.nodes().count();
    let start = Instant::now();
    let log = Pipeline::by_name("default")
        .expect("a named pipeline")
        .run(&mut g, &OptOptions { verify: false, ..Default::default() })
        .expect("optimizes");
    let took = start.elapsed();
    assert!(
        nodes > 9000 && g.nodes().count() <= nodes / 2,
        "{} of {nodes} nodes are left",
        g.nodes().count()
    );
    assert!(log.rewrites() > 3900, "{log}");
    #[expect(clippy::print_stderr, reason = "what a reader of the test's output wants to know")]
    {
        eprintln!("{nodes} nodes took {took:?}\n{log}");
    }
    assert!(took.as_secs_f64() < 5.0, "{nodes} nodes took {took:?}\n{log}");
}

#[test]
fn random_quantized_networks_meet_every_rule() {
    let mut applied = vec![0u64; RULES.len()];
    for seed in 0..300 {
        let g = random_quantized(&mut Bytes::seeded(seed, 1500), 8).expect("a valid graph");
        let mut o = g.clone();
        let log = Pipeline::by_name("default").expect("a named pipeline").run(&mut o, &OptOptions::default());
        let log = log.expect("a graph that runs");
        RULES.iter().zip(&mut applied).for_each(|(r, n)| *n += log.rewrites_of(r));
    }
    assert!(applied.iter().all(|n| *n >= 5), "{RULES:?} were applied {applied:?} times");
}

/// The rules that random quantized networks are for.
const RULES: [&str; 10] = [
    "quantized_twice",
    "clamp_before_quantize",
    "quantized_conv",
    "quantized_matmul",
    "dynamic_matmul",
    "quantized_binary",
    "move_integers",
    "concat_integers",
    "byte_table",
    "store_quantized",
];
