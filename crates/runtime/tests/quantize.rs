//! Small networks quantized end to end: by every scheme and method, with samples drawn from a seed.
#![cfg(feature = "optimizer")]

use tensormill::{
    Dim, Error, Graph, Model, Session, SessionOptions, Tensor, Type,
    quantize::{Inputs, Method, QuantNode, Quantizer, Scheme, Treatment},
};
use tensormill_ir::{
    GraphBuilder, ValueId,
    ops::{BinaryKind, Concat, Conv, LayerNorm, MatMul, MaxPool, Reduce, ReduceKind, Reshape, UnaryKind},
};
use tensormill_tensor::DType;

/// Numbers between -1 and 1, dense in the middle.
fn numbers(n: usize, seed: u32) -> Vec<f32> {
    let mut s = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (s >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..n).map(|_| (next() + next() + next()) * 0.66).collect()
}

fn tensor(shape: &[usize], seed: u32, scale: f32) -> Tensor {
    let n = shape.iter().product();
    Tensor::from_vec(shape, numbers(n, seed).into_iter().map(|v| v * scale).collect()).unwrap()
}

fn conv(
    b: &mut GraphBuilder,
    name: &str,
    x: ValueId,
    (o, i, k): (usize, usize, usize),
    stride: usize,
) -> ValueId {
    let seed = name.bytes().fold(7, |h: u32, c| h.wrapping_mul(31).wrapping_add(c.into()));
    let w = b.constant(tensor(&[o, i, k, k], seed, 3.0 / ((i * k * k) as f32).sqrt())).unwrap();
    let bias = b.constant(tensor(&[o], seed + 1, 0.3)).unwrap();
    b.set_origin(Some(name));
    let op = Conv { strides: vec![stride; 2], pads: vec![k / 2; 4], ..Default::default() };
    let y = b.op(op, &[x, w, bias]).unwrap();
    b.set_origin(None);
    y
}

/// A small residual network: a residual, a concatenation, pools, swish and a linear layer.
fn residual() -> Model {
    let mut b = GraphBuilder::new("net");
    let x = b
        .input("image", Type::tensor(DType::F32, [Dim::symbol("N"), 3.into(), 16.into(), 16.into()]))
        .unwrap();
    let y = conv(&mut b, "stem", x, (16, 3, 3), 1);
    let y = b.unary(UnaryKind::Relu, y).unwrap();
    let pool = MaxPool { kernel: vec![2, 2], strides: vec![2, 2], ..Default::default() };
    let y = b.op(pool, &[y]).unwrap();
    let z = conv(&mut b, "left", y, (16, 16, 3), 1);
    let s = b.unary(UnaryKind::Sigmoid, z).unwrap();
    let z = b.binary(BinaryKind::Mul, z, s).unwrap();
    let z = conv(&mut b, "right", z, (16, 16, 1), 1);
    let y = b.binary(BinaryKind::Add, y, z).unwrap();
    let y = b.unary(UnaryKind::Relu, y).unwrap();
    let (p, q) = (conv(&mut b, "wide", y, (8, 16, 3), 1), conv(&mut b, "narrow", y, (8, 16, 1), 1));
    let y = b.op(Concat { axis: 1 }, &[p, q]).unwrap();
    let y = conv(&mut b, "last", y, (24, 16, 1), 1);
    let y = b.unary(UnaryKind::Relu, y).unwrap();
    let axes = b.ints(&[2, 3]).unwrap();
    let y = b.op(Reduce { kind: ReduceKind::Mean, ..Default::default() }, &[y, axes]).unwrap();
    let shape = b.ints(&[0, -1]).unwrap();
    let y = b.op(Reshape::default(), &[y, shape]).unwrap();
    let w = b.constant(tensor(&[10, 24], 99, 0.6)).unwrap();
    b.set_origin(Some("head"));
    let y = b.op(MatMul { trans_b: true, ..Default::default() }, &[y, w]).unwrap();
    let bias = b.constant(tensor(&[10], 98, 0.3)).unwrap();
    let y = b.binary(BinaryKind::Add, y, bias).unwrap();
    b.output("scores", y).unwrap();
    Model::from_graph(b.finish().unwrap())
}

/// A layer norm and two linear layers around a GELU, as transformers have them.
fn perceptron() -> Model {
    perceptron_of(1.0)
}

/// The same, where what is wide after the layer norm meets weights that are smaller by a factor.
fn perceptron_of(smaller: f32) -> Model {
    let mut b = GraphBuilder::new("mlp");
    let x = b.input("x", Type::tensor(DType::F32, [Dim::symbol("N"), 64.into()])).unwrap();
    let scale =
        Tensor::from_vec([64], (0..64).map(|i| if i % 16 == 3 { 8.0 } else { 1.0f32 }).collect()).unwrap();
    let (scale, shift) = (b.constant(scale).unwrap(), b.constant(tensor(&[64], 5, 0.5)).unwrap());
    let y = b.op(LayerNorm::default(), &[x, scale, shift]).unwrap();
    let w = tensor(&[64, 128], 1, 0.4).to_f32_vec().unwrap();
    let w = w.iter().enumerate().map(|(i, v)| if i / 128 % 16 == 3 { v / smaller } else { *v }).collect();
    let w = b.constant(Tensor::from_vec([64, 128], w).unwrap()).unwrap();
    b.set_origin(Some("up"));
    let y = b.op(MatMul::default(), &[y, w]).unwrap();
    b.set_origin(None);
    let bias = b.constant(tensor(&[128], 2, 0.3)).unwrap();
    let y = b.binary(BinaryKind::Add, bias, y).unwrap();
    let y = b.unary(UnaryKind::Gelu, y).unwrap();
    let w = b.constant(tensor(&[128, 32], 3, 0.4)).unwrap();
    b.set_origin(Some("down"));
    let y = b.op(MatMul::default(), &[y, w]).unwrap();
    b.set_origin(None);
    let bias = b.constant(tensor(&[32], 4, 0.3)).unwrap();
    let y = b.binary(BinaryKind::Add, y, bias).unwrap();
    b.output("y", y).unwrap();
    Model::from_graph(b.finish().unwrap())
}

fn samples(model: &Model, count: u32) -> Vec<Result<Inputs, Error>> {
    let port = &model.inputs()[0];
    let dims = port.ty.as_tensor().unwrap().dims.clone().unwrap();
    let shape: Vec<usize> = dims.iter().map(|d| d.known().unwrap_or(4)).collect();
    (0..count).map(|i| Ok(vec![(port.name.clone(), tensor(&shape, 1000 + i, 2.0))])).collect()
}

/// Signal to noise, in decibels, on inputs that calibration did not see.
fn snr(float: &Model, other: &Model) -> f64 {
    let (a, b) = (float.session().unwrap(), other.session().unwrap());
    let (mut signal, mut noise) = (0.0, 0.0);
    for sample in samples(float, 40).into_iter().skip(30) {
        let x = sample.unwrap().remove(0).1;
        let y = b.run(x.clone()).unwrap().tensor(0).unwrap().to_f64_vec().unwrap();
        for (p, q) in a.run(x).unwrap().tensor(0).unwrap().to_f64_vec().unwrap().into_iter().zip(y) {
            signal += p * p;
            noise += (p - q) * (p - q);
        }
    }
    10.0 * (signal / noise).log10()
}

fn node<'a>(nodes: &'a [QuantNode], name: &str) -> &'a QuantNode {
    nodes.iter().find(|n| n.name == name).unwrap_or_else(|| panic!("no node {name}"))
}

fn count(g: &Graph, op: &str) -> usize {
    g.nodes().filter(|(_, n)| n.op.name() == op).count()
}

#[test]
fn a_residual_network_keeps_its_outputs() {
    let model = residual();
    for method in [Method::MinMax, Method::Mse, Method::Percentile(99.99), Method::Entropy] {
        for (signed, symmetric, channel) in [(false, false, true), (true, false, true), (true, true, false)] {
            let q = Quantizer::new(Scheme::StaticInt8)
                .method(method)
                .signed_activations(signed)
                .symmetric_activations(symmetric)
                .per_channel(channel)
                .run(&model, samples(&model, 8))
                .unwrap();
            let db = snr(&model, &q.model);
            let least = if method == Method::Entropy { 16.0 } else { 24.0 };
            assert!(db > least, "{method:?} {signed} {symmetric} {channel}: {db}\n{}", q.model.graph());
            for name in ["stem", "left", "right", "wide", "narrow", "last", "head"] {
                assert!(node(&q.report.nodes, name).is_quantized(), "{name}");
            }
            // Between the convolutions that a concatenation alone reads, and it, nothing is rounded again.
            assert!(q.report.nodes.iter().any(|n| n.op == "concat" && n.is_quantized()));
            assert!(q.report.quantized_bytes < q.report.float_bytes * 2 / 5);
            assert!(q.report.outputs[0].1.unwrap() > least);
        }
    }
}

#[test]
fn what_measures_better_is_the_default() {
    let model = residual();
    let of = |q: Quantizer| snr(&model, &q.run(&model, samples(&model, 8)).unwrap().model);
    let best = of(Quantizer::new(Scheme::StaticInt8));
    let plain = Quantizer::new(Scheme::StaticInt8).method(Method::MinMax);
    let plain = of(plain.search_weights(false).correct_bias(false).compensate(false));
    assert!(best > plain, "{best} {plain}");
}

#[test]
fn a_swish_stays_within_its_convolution() {
    let model = residual();
    let q = Quantizer::new(Scheme::StaticInt8).run(&model, samples(&model, 2)).unwrap();
    let g = q.model.graph();
    let (_, sigmoid) = g.nodes().find(|(_, n)| n.op.name() == "sigmoid").unwrap();
    assert_eq!(g.producer(sigmoid.input(0).unwrap()).unwrap().1.op.name(), "conv");
    // The output that no product reads stays as it is.
    let (_, last) = g.producer(g.outputs()[0].value).unwrap();
    assert_eq!(last.op.name(), "add");
}

#[test]
fn linear_layers_keep_their_outputs() {
    let model = perceptron();
    for (scheme, least, part) in [
        (Scheme::StaticInt8, 28.0, 0.4),
        (Scheme::DynamicInt8, 28.0, 0.4),
        (Scheme::Int8Weights, 38.0, 0.4),
        (Scheme::Int4Weights { group: 32 }, 15.0, 0.26),
        (Scheme::F16Weights, 55.0, 0.6),
        (Scheme::Bf16Weights, 45.0, 0.6),
    ] {
        for given in [0, 8] {
            if given == 0 && scheme == Scheme::StaticInt8 {
                continue;
            }
            for zero_points in [false, true] {
                let q = Quantizer::new(scheme).zero_points(zero_points);
                let q = q.run(&model, samples(&model, given)).unwrap();
                let db = snr(&model, &q.model);
                assert!(db > least, "{scheme:?} {given}: {db}");
                let (before, after) = (q.report.float_bytes as f64, q.report.quantized_bytes as f64);
                assert!(after < part * before, "{scheme:?}: {before} {after}");
                assert_eq!(q.report.outputs[0].1.is_some(), given > 0);
                assert!(q.report.nodes.iter().any(QuantNode::is_quantized));
            }
        }
    }
}

#[test]
fn moved_scales_narrow_wide_channels() {
    let model = perceptron_of(8.0);
    let of = |q: Quantizer| snr(&model, &q.run(&model, samples(&model, 8)).unwrap().model);
    let (plain, smooth) =
        (of(Quantizer::new(Scheme::StaticInt8)), of(Quantizer::new(Scheme::StaticInt8).smooth(0.5)));
    assert!(smooth > plain + 0.5, "{plain} {smooth}");
    let model = residual();
    let q = Quantizer::new(Scheme::StaticInt8).equalize(true).run(&model, samples(&model, 8)).unwrap();
    assert!(snr(&model, &q.model) > 24.0);
    assert!(q.report.not_scaled.iter().any(|(name, _)| name == "left"), "{:?}", q.report.not_scaled);
}

#[test]
fn samples_make_four_bits_better() {
    let model = perceptron();
    let of = |n| {
        let q = Quantizer::new(Scheme::Int4Weights { group: 32 }).run(&model, samples(&model, n)).unwrap();
        snr(&model, &q.model)
    };
    let (without, with) = (of(0), of(200));
    assert!(with > without + 0.5, "{without} {with}");
}

#[test]
fn results_do_not_depend_on_threads_or_runs() {
    for (model, scheme) in [
        (residual(), Scheme::StaticInt8),
        (perceptron(), Scheme::StaticInt8),
        (perceptron(), Scheme::DynamicInt8),
        (perceptron(), Scheme::Int4Weights { group: 16 }),
    ] {
        let of = |threads| {
            let q = Quantizer::new(scheme).threads(threads).run(&model, samples(&model, 6)).unwrap();
            q.model.graph().clone()
        };
        let one = of(1);
        assert!(one.same_as(&of(1)));
        assert!(one.same_as(&of(2)));
    }
}

#[test]
fn excluded_nodes_stay_in_float() {
    let model = residual();
    let q = Quantizer::new(Scheme::StaticInt8).exclude("right").run(&model, samples(&model, 2)).unwrap();
    assert_eq!(node(&q.report.nodes, "right").treatment, Treatment::Float("it was excluded"));
    assert!(node(&q.report.nodes, "left").is_quantized());
    let e = Quantizer::new(Scheme::StaticInt8).exclude("nobody").run(&model, samples(&model, 2)).unwrap_err();
    assert!(matches!(e, Error::Quantize { .. }) && e.to_string().contains("nobody"), "{e}");
}

#[test]
fn what_cannot_be_done_is_said() {
    let model = residual();
    let e = Quantizer::new(Scheme::StaticInt8).run(&model, []).unwrap_err();
    assert!(matches!(e, Error::Quantize { .. }) && e.to_string().contains("samples"), "{e}");
    for q in [
        Quantizer::new(Scheme::Int4Weights { group: 3 }),
        Quantizer::new(Scheme::StaticInt8).method(Method::Percentile(3.0)),
        Quantizer::new(Scheme::StaticInt8).smooth(Some(7.0)),
    ] {
        assert!(matches!(q.run(&model, samples(&model, 1)), Err(Error::Quantize { .. })));
    }
    let wrong = vec![Ok(vec![("image".to_string(), Tensor::scalar(1.0f32))])];
    assert!(matches!(Quantizer::new(Scheme::StaticInt8).run(&model, wrong), Err(Error::Input { .. })));
    let failed = vec![Err(Error::Option("a file is missing".into()))];
    assert!(matches!(Quantizer::new(Scheme::StaticInt8).run(&model, failed), Err(Error::Option(_))));
}

/// How near a session's outputs are to the float model's, in decibels.
fn metric(model: &Model, session: &Session) -> f64 {
    let float = model.session_with(&SessionOptions::new().threads(1)).unwrap();
    let (mut signal, mut noise) = (1e-9, 1e-9);
    for sample in samples(model, 4) {
        let x = sample.unwrap().remove(0).1;
        let of = |s: &Session| s.run(x.clone()).unwrap().tensor(0).unwrap().to_f64_vec().unwrap();
        for (p, q) in of(&float).into_iter().zip(of(session)) {
            signal += p * p;
            noise += (p - q) * (p - q);
        }
    }
    10.0 * f64::log10(signal / noise)
}

#[test]
fn a_budget_keeps_the_costliest_nodes_in_float() {
    let model = residual();
    let q = Quantizer::new(Scheme::StaticInt8);
    let all = q.run(&model, samples(&model, 6)).unwrap();
    let (float, quantized) =
        (metric(&model, &model.session().unwrap()), metric(&model, &all.model.session().unwrap()));
    let target = quantized + 3.0;
    let within = q.run_within(&model, samples(&model, 6), float - target, |s| Ok(metric(&model, s))).unwrap();
    assert!(metric(&model, &within.model.session().unwrap()) >= target);
    let ints = |nodes: &[QuantNode]| nodes.iter().filter(|n| n.is_quantized()).count();
    assert!(ints(&within.report.nodes) < ints(&all.report.nodes));
    assert!(ints(&within.report.nodes) > 0);
    // A metric that nothing reaches.
    let calls = std::cell::Cell::new(0);
    let falling = |_: &Session| {
        calls.set(calls.get() + 1);
        Ok(-f64::from(calls.get()))
    };
    let e = q.run_within(&model, samples(&model, 2), 0.5, falling).unwrap_err();
    assert!(matches!(e, Error::Budget { .. }), "{e}");
    let q = q.anyway(true).run_within(&model, samples(&model, 2), 0.5, falling).unwrap();
    assert_eq!(ints(&q.report.nodes), ints(&all.report.nodes));
}

#[test]
fn weights_are_stored_as_asked() {
    let model = perceptron();
    let g = |s| Quantizer::new(s).run(&model, samples(&model, 2)).unwrap().model.graph().clone();
    let text = |s| tensormill_ir::text::print(&g(s)).text;
    assert!(text(Scheme::Int4Weights { group: 32 }).contains("u4[64,128]"));
    assert!(text(Scheme::Int4Weights { group: 32 }).contains("block_size=32"));
    assert!(text(Scheme::Int8Weights).contains("i8[64,128]"));
    assert!(text(Scheme::F16Weights).contains("f16[64,128]"));
    assert_eq!(count(&g(Scheme::StaticInt8), "quantize"), 2);
    assert_eq!(count(&g(Scheme::DynamicInt8), "dynamic_quantize"), 2);
}

#[cfg(feature = "mill")]
#[test]
fn quantized_models_are_saved_and_read() {
    let folder = tempfile::tempdir().unwrap();
    for (model, scheme) in [
        (residual(), Scheme::StaticInt8),
        (perceptron(), Scheme::DynamicInt8),
        (perceptron(), Scheme::Int4Weights { group: 32 }),
        (perceptron(), Scheme::Bf16Weights),
    ] {
        let q = Quantizer::new(scheme).run(&model, samples(&model, 2)).unwrap();
        let path = folder.path().join("q.mill");
        q.model.save(&path).unwrap();
        assert!(Model::load(&path).unwrap().graph().same_as(q.model.graph()), "{scheme:?}");
    }
}
