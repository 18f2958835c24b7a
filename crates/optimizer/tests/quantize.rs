//! Quantization as golden files and over random networks. A golden file's header names the scheme; ranges come
//! from runs of the graph before on inputs from a seed, and both graphs are evaluated. Bless with
//! `TENSORMILL_BLESS=1`.

use proptest::prelude::*;
use std::{fmt::Write, fs, path::Path};
use tensormill_ir::{
    Dim, Graph, GraphBuilder, IrError, Type, ValueId,
    ops::{AveragePool, BinaryKind, Concat, Conv, MatMul, MaxPool, Reduce, ReduceKind, Reshape, UnaryKind},
    text,
};
use tensormill_optimizer::{
    OptOptions,
    quantize::{
        Method, Observer, QuantOptions, Quantized, Scheme, Statistics, Treatment, Wanted, equalize, prepare,
        quantize, wanted, wanted_to_equalize,
    },
    testing::{Bytes, random_inputs},
};
use tensormill_reference::{EvalLimits, interpret};
use tensormill_tensor::{DType, Shape, Tensor, Value};

const BEFORE: &str = "--- before\n";
const AFTER: &str = "--- after\n";
const SAMPLES: u64 = 4;

fn run(g: &Graph, inputs: &[Value]) -> Vec<Tensor> {
    let limits = EvalLimits { max_elements: 1 << 20, ..Default::default() };
    let out = interpret(g, inputs, &limits).unwrap_or_else(|e| panic!("{e}\n{g}"));
    out.into_iter().map(|v| v.into_tensor().expect("a tensor")).collect()
}

fn observed(g: &Graph, o: &QuantOptions, samples: u64) -> Statistics {
    watched(g, &wanted(g, o), samples)
}

fn watched(g: &Graph, wanted: &Wanted, samples: u64) -> Statistics {
    let mut stats = Statistics::default();
    // In parts of few bytes, which must not matter.
    for observer in Observer::all(g, wanted, 1 << 10).expect("observers") {
        observer.graph.verify().expect("a valid graph");
        for seed in 0..samples {
            let inputs = random_inputs(g, &mut Bytes::seeded(seed, 1 << 14));
            observer.count(&run(&observer.graph, &inputs), &mut stats).expect("floats");
        }
    }
    stats
}

/// The root mean square of how far the outputs of `b` are from those of `a`, as a part of theirs; on inputs that
/// were observed, for others may exceed every range. The largest over all outputs.
fn distance(a: &Graph, b: &Graph) -> f64 {
    let mut sums = vec![(1e-12, 0f64); a.outputs().len()];
    for seed in 0..3 {
        let inputs = random_inputs(a, &mut Bytes::seeded(seed, 1 << 14));
        for (sum, (x, y)) in sums.iter_mut().zip(run(a, &inputs).iter().zip(run(b, &inputs))) {
            assert_eq!((x.dtype(), x.shape()), (y.dtype(), y.shape()));
            let (x, y) = (x.to_f64_vec().expect("numbers"), y.to_f64_vec().expect("numbers"));
            sum.0 += x.iter().map(|v| v * v).sum::<f64>();
            sum.1 += x.iter().zip(&y).map(|(p, q)| (p - q) * (p - q)).sum::<f64>();
        }
    }
    sums.iter().map(|(signal, noise)| (noise / signal).sqrt()).fold(0.0, f64::max)
}

/// Tensors beside the text are drawn from their names.
fn resolve(name: &str, dtype: DType, shape: &Shape) -> Result<Tensor, String> {
    let seed = name.bytes().fold(7u64, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
    Ok(Bytes::seeded(seed, 4096).tensor(dtype, shape))
}

fn options(header: &str) -> Result<(QuantOptions, f64), String> {
    let mut o = QuantOptions::new(Scheme::StaticInt8);
    let mut tolerance = 0.05;
    for line in header.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let (key, value) = line.split_once(':').ok_or_else(|| format!("`{line}` has no colon"))?;
        let value = value.trim();
        match (key, value) {
            ("scheme", "int8") => o.scheme = Scheme::StaticInt8,
            ("scheme", "int8-dynamic") => o.scheme = Scheme::DynamicInt8,
            ("scheme", "int8-weights") => o.scheme = Scheme::Int8Weights,
            ("scheme", "int4-weights") => o.scheme = Scheme::Int4Weights { group: 16 },
            ("scheme", "f16") => o.scheme = Scheme::F16Weights,
            ("method", "minmax") => o.method = Method::MinMax,
            ("zero_points", v) => o.zero_points = v == "yes",
            ("equalize", v) => o.equalize = v == "yes",
            ("smooth", v) => o.smooth = Some(v.parse().map_err(|e| format!("{e}"))?),
            ("exclude", v) => _ = o.exclude.insert(v.into()),
            ("tolerance", v) => tolerance = v.parse().map_err(|e| format!("{e}"))?,
            _ => return Err(format!("unknown `{line}`")),
        }
    }
    Ok((o, tolerance))
}

fn check(path: &Path, bless: bool) -> Result<(), String> {
    let file = fs::read_to_string(path).map_err(|e| e.to_string())?;
    let (head, rest) = file.split_once(BEFORE).ok_or("no `--- before`")?;
    let (before_text, after_text) = rest.split_once(AFTER).unwrap_or((rest, ""));
    let (o, tolerance) = options(head)?;
    let before = text::parse_with(before_text, &resolve).map_err(|e| format!("before: {e}"))?;
    let mut prepared = before.clone();
    prepare(&mut prepared, &OptOptions::default()).map_err(|e| e.to_string())?;
    let seen = watched(&prepared, &wanted_to_equalize(&prepared, &o), SAMPLES);
    let (prepared, _) = equalize(&prepared, &o, &seen).map_err(|e| e.to_string())?;
    let done = quantize(&prepared, &o, &observed(&prepared, &o, SAMPLES)).map_err(|e| e.to_string())?;
    done.graph.verify().map_err(|e| e.to_string())?;
    let away = distance(&before, &done.graph);
    if away > tolerance {
        return Err(format!("outputs are {away} away\n{}", done.graph));
    }
    let mut got = text::print(&done.graph).text;
    for n in &done.nodes {
        writeln!(got, "# {} {}: {}", n.op, n.name, n.treatment).map_err(|e| e.to_string())?;
    }
    if bless {
        let before_text = before_text.trim_end();
        return fs::write(path, format!("{head}{BEFORE}{before_text}\n\n{AFTER}{got}"))
            .map_err(|e| e.to_string());
    }
    if got.trim() != after_text.trim() {
        return Err(format!("expected\n{}\ngot\n{got}", after_text.trim()));
    }
    Ok(())
}

#[test]
fn golden_files_hold() {
    let bless = std::env::var_os("TENSORMILL_BLESS").is_some_and(|v| v == "1");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/quantize");
    let mut files: Vec<_> =
        fs::read_dir(&folder).expect("the folder is there").map(|e| e.expect("readable").path()).collect();
    files.sort();
    assert!(files.len() >= 5, "only {} golden files were found", files.len());
    let mut failed = String::new();
    for f in files {
        if let Err(e) = check(&f, bless) {
            write!(failed, "\n== {}\n{e}\n", f.display()).expect("a String takes every write");
        }
    }
    assert!(failed.is_empty(), "{failed}");
}

/// A network of convolutions, pools, activations and sums over an image of 8 by 8.
fn network(bytes: &mut Bytes, nodes: usize) -> Result<Graph, IrError> {
    let mut b = GraphBuilder::new("net");
    let mut maps =
        vec![b.input("x", Type::tensor(DType::F32, [Dim::symbol("N"), 4.into(), 8.into(), 8.into()]))?];
    for i in 0..nodes {
        let x = maps[maps.len() - 1 - bytes.below(maps.len().min(3))];
        let channels = size(&b, x, 1);
        b.set_origin(Some(&format!("n{i}")));
        let y = match bytes.below(12) {
            0..=3 => conv(&mut b, bytes, x, channels),
            4 => b.unary(UnaryKind::Relu, x),
            5 => {
                let s = b.unary(UnaryKind::Sigmoid, x)?;
                b.binary(BinaryKind::Mul, x, s)
            }
            6 => b.op(
                MaxPool { kernel: vec![3, 3], strides: vec![1, 1], pads: vec![1; 4], ..Default::default() },
                &[x],
            ),
            7 => b.op(
                AveragePool {
                    kernel: vec![3, 3],
                    strides: vec![1, 1],
                    pads: vec![1; 4],
                    ..Default::default()
                },
                &[x],
            ),
            8 => {
                let z = maps[bytes.below(maps.len())];
                b.binary(if bytes.below(2) == 0 { BinaryKind::Add } else { BinaryKind::Mul }, x, z)
            }
            9 => {
                let z = maps[bytes.below(maps.len())];
                b.op(Concat { axis: 1 }, &[x, z])
            }
            10 => {
                let c = b.constant(bytes.tensor(DType::F32, &Shape::from([channels, 1, 1])))?;
                b.binary(BinaryKind::Add, x, c)
            }
            _ => b.unary(UnaryKind::Clamp { min: 0.0.into(), max: 3.0.into() }, x),
        };
        // Operands of other channels do not add up; then there is one node less.
        if let Ok(y) = y
            && size(&b, y, 1) <= 32
        {
            maps.push(y);
        }
    }
    let x = maps[maps.len() - 1];
    if bytes.below(3) == 0 {
        b.output("map", x)?;
    }
    let axes = b.ints(&[2, 3])?;
    let channels = size(&b, x, 1);
    let y = b.op(Reduce { kind: ReduceKind::Mean, ..Default::default() }, &[x, axes])?;
    let shape = b.ints(&[0, -1])?;
    let y = b.op(Reshape::default(), &[y, shape])?;
    let w = b.constant(bytes.tensor(DType::F32, &Shape::from([channels, 5])))?;
    let y = b.op(MatMul::default(), &[y, w])?;
    b.output("y", y)?;
    b.finish()
}

fn size(b: &GraphBuilder, v: ValueId, axis: usize) -> usize {
    b.ty(v).as_tensor().and_then(|t| t.dims.as_ref()?.get(axis)?.known()).unwrap_or(0)
}

fn conv(b: &mut GraphBuilder, bytes: &mut Bytes, x: ValueId, channels: usize) -> Result<ValueId, IrError> {
    let group = if bytes.below(3) == 0 { channels } else { 1 };
    let out = if group == 1 { 1 + bytes.below(8) } else { channels };
    let k = 1 + 2 * bytes.below(2);
    let shape = Shape::from([out, channels / group, k, k]);
    let w = bytes.tensor(DType::F32, &shape);
    // Sums that neither vanish nor grow.
    let scale = 1.0 / ((channels / group * k * k) as f64).sqrt();
    let w = w.to_f64_vec().expect("floats").into_iter().map(|v| v * scale);
    let w = b.constant(Tensor::from_f64s(DType::F32, shape, w).expect("its own shape"))?;
    let op = Conv { pads: vec![k / 2; 4], group, ..Default::default() };
    if bytes.below(2) == 0 {
        return b.op(op, &[x, w]);
    }
    let bias = b.constant(bytes.tensor(DType::F32, &Shape::from([out])))?;
    b.op(op, &[x, w, bias])
}

/// A random network, prepared and quantized.
fn quantized(g: &Graph, o: &QuantOptions, samples: u64) -> (Graph, Quantized) {
    let mut float = g.clone();
    prepare(&mut float, &OptOptions::default()).expect("prepared");
    let seen = watched(&float, &wanted_to_equalize(&float, o), samples);
    let (float, declined) = equalize(&float, o, &seen).expect("equalized");
    assert!(declined.iter().all(|d| !d.is_quantized()));
    let away = distance(g, &float);
    assert!(away < 1e-4, "scales moved by {away}\n{g}\n{float}");
    let done = quantize(&float, o, &observed(&float, o, samples)).expect("quantized");
    done.graph.verify().expect("a valid graph");
    for n in &done.nodes {
        assert!(!n.name.is_empty() && n.treatment != Treatment::Float(""));
    }
    (float, done)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn integer_networks_are_near(seed: u64, nodes in 1usize..10, kind in 0usize..5) {
        let mut bytes = Bytes::seeded(seed, 1 << 13);
        let g = network(&mut bytes, nodes).expect("a network");
        let mut o = QuantOptions::new(Scheme::StaticInt8);
        o.method = [Method::MinMax, Method::Mse, Method::Percentile(99.99), Method::MinMax, Method::Mse][kind];
        o.symmetric_activations = kind == 3;
        o.activations = if kind == 4 { DType::I8 } else { DType::U8 };
        o.equalize = seed % 2 == 0;
        let (float, done) = quantized(&g, &o, 8);
        let away = distance(&float, &done.graph);
        // Each node adds about a hundredth of its range, and sums of differences lose some more.
        prop_assert!(away < 0.02 * (nodes + 3) as f64, "{}\n{}\n{}", away, float, done.graph);
        // Every product computes from integers, and every integer value is between quantize and dequantize.
        for (_, n) in done.graph.nodes() {
            if n.op.name() == "conv" {
                for v in &n.inputs[..2] {
                    let (_, from) = done.graph.producer(v.expect("given")).expect("computed");
                    prop_assert_eq!(from.op.name(), "dequantize");
                }
            }
        }
        let again = quantize(&float, &o, &observed(&float, &o, 8)).expect("quantized");
        prop_assert!(again.graph.same_as(&done.graph));
    }

    #[test]
    fn stored_weights_are_near(seed: u64, nodes in 1usize..8, kind in 0usize..4, samples in 0u64..3) {
        let mut bytes = Bytes::seeded(seed, 1 << 13);
        let g = network(&mut bytes, nodes).expect("a network");
        let scheme = [Scheme::Int8Weights, Scheme::F16Weights, Scheme::Bf16Weights, Scheme::DynamicInt8][kind];
        let (float, done) = quantized(&g, &QuantOptions::new(scheme), samples);
        let away = distance(&float, &done.graph);
        prop_assert!(away < 0.015 * (nodes + 2) as f64, "{}\n{}\n{}", away, float, done.graph);
    }
}
