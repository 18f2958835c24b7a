//! Image networks, whose values change their order on the way: all as the reference computes them, whatever
//! the plan decides about layouts.

mod common;

use common::same;
use proptest::prelude::*;
use tensormill_backend::{Backend, CompileOptions};
use tensormill_cpu::{CpuBackend, Pool};
use tensormill_ir::{
    Graph, GraphBuilder, IrError, TensorType, Type, ValueId,
    ops::{
        AveragePool, BinaryKind, Concat, Conv, CoordinateMode, Flatten, MaxPool, Reduce, ReduceKind, Reshape,
        Resize, ResizeMode, Softmax, Split, Transpose, UnaryKind,
    },
};
use tensormill_optimizer::{OptOptions, Pipeline, testing::Bytes};
use tensormill_tensor::{DType, Shape, Tensor, Value};

fn shape(b: &GraphBuilder, v: ValueId) -> Vec<usize> {
    let dims = b.ty(v).as_tensor().and_then(|t: &TensorType| t.static_shape());
    dims.map(|s| s.to_vec()).unwrap_or_default()
}

/// Weights of a convolution, small enough that values stay near one however deep the network is: what is
/// compared would be rounding errors of large sums otherwise.
fn weights(bytes: &mut Bytes, dims: [usize; 4]) -> Tensor {
    let drawn = bytes.tensor(DType::F32, &Shape::from(dims)).to_f64_vec().unwrap();
    let scale = 0.7 / (dims[1..].iter().product::<usize>() as f64).sqrt();
    Tensor::from_vec(dims, drawn.into_iter().map(|x| (x * scale) as f32).collect()).unwrap()
}

/// A node over images; `None` when what was drawn does not fit.
fn layer(b: &mut GraphBuilder, images: &[ValueId], bytes: &mut Bytes) -> Result<Option<ValueId>, IrError> {
    let x = images[images.len() - 1 - bytes.below(images.len().min(3))];
    let dims = shape(b, x);
    let [n, c, h, w] = dims[..] else { return Ok(None) };
    let made = match bytes.below(18) {
        0..=3 => {
            let each = bytes.below(4) == 0 && c > 1;
            let (group, kernels) = if each { (c, c) } else { (1, [16, 20, 3, 33][bytes.below(4)]) };
            let kernel = [1 + bytes.below(3), 1 + bytes.below(3)];
            let weights = weights(bytes, [kernels, c / group, kernel[0], kernel[1]]);
            let weights = b.constant(weights)?;
            let op = Conv {
                strides: vec![1 + bytes.below(2), 1 + bytes.below(2)],
                dilations: vec![1, 1 + bytes.below(2)],
                pads: (0..4).map(|_| bytes.below(2)).collect(),
                group,
                ..Conv::default()
            };
            if bytes.below(2) == 1 {
                let bias = b.constant(bytes.tensor(DType::F32, &Shape::from([kernels])))?;
                b.op(op, &[x, weights, bias])
            } else {
                b.op(op, &[x, weights])
            }
        }
        4 | 5 => b.unary([UnaryKind::Relu, UnaryKind::Sigmoid, UnaryKind::Neg][bytes.below(3)], x),
        6 | 7 => {
            let y = images.iter().rev().copied().find(|y| *y != x && shape(b, *y) == dims).unwrap_or(x);
            b.binary([BinaryKind::Add, BinaryKind::Max][bytes.below(2)], x, y)
        }
        8 => {
            let other: &[usize] = match bytes.below(6) {
                0 => &[1, c, 1, 1],
                1 => &[c, 1, 1],
                2 => &[],
                3 => &[h, w],
                4 => &[1, c, h, w],
                _ => &[c, h, 1],
            };
            let y = b.constant(bytes.tensor(DType::F32, &Shape::from(other)))?;
            let (p, q) = if bytes.below(2) == 1 { (x, y) } else { (y, x) };
            b.binary(BinaryKind::Sub, p, q)
        }
        9 => {
            let fits = |y: &&ValueId| {
                let d = shape(b, **y);
                d.len() == 4 && d[0] == n && d[2..] == [h, w]
            };
            let y = images.iter().rev().find(fits).copied().unwrap_or(x);
            b.op(Concat { axis: if bytes.below(4) == 0 && y == x { 2 } else { 1 } }, &[x, y])
        }
        10 => {
            let (kernel, strides) = (vec![2, 3], vec![1 + bytes.below(2), 2]);
            let pads = vec![0, 1, 1, bytes.below(2)];
            if bytes.below(2) == 1 {
                b.op(MaxPool { kernel, strides, pads, ..MaxPool::default() }, &[x])
            } else {
                let count_include_pad = bytes.below(2) == 1;
                b.op(AveragePool { kernel, strides, pads, count_include_pad, ..AveragePool::default() }, &[x])
            }
        }
        11 => {
            let mode = [ResizeMode::Nearest, ResizeMode::Linear][bytes.below(2)];
            let op = Resize { mode, coordinates: CoordinateMode::Asymmetric, ..Resize::default() };
            let sizes = b.ints(&[n, c, 2 * h, w + 1].map(|d| d as i64))?;
            b.node(op, &[Some(x), None, None, Some(sizes)]).map(|v| v[0])
        }
        12 if c > 1 => {
            let parts = b.ints(&[1, c as i64 - 1])?;
            b.node(Split { axis: 1, outputs: 2 }, &[Some(x), Some(parts)]).map(|v| v[bytes.below(2)])
        }
        13 => b.op(
            Transpose { perm: [[0, 2, 3, 1], [0, 3, 1, 2], [0, 1, 3, 2]][bytes.below(3)].to_vec() },
            &[x],
        ),
        14 => b.op(Softmax { axis: 1 }, &[x]),
        15 | 16 => return block(b, x, bytes),
        _ => {
            let axes = b.ints(&[2, 3])?;
            let kind = [ReduceKind::Mean, ReduceKind::Max][bytes.below(2)];
            b.op(Reduce { kind, ..Reduce::default() }, &[x, axes])
        }
    };
    Ok(made.ok().filter(|v| shape(b, *v).iter().product::<usize>() <= 1 << 14))
}

/// A depthwise convolution between others by one pixel; some are no block after all.
fn block(b: &mut GraphBuilder, x: ValueId, bytes: &mut Bytes) -> Result<Option<ValueId>, IrError> {
    let [_, from, h, w] = shape(b, x)[..] else { return Ok(None) };
    let wide = [24, 40, 7][bytes.below(3)];
    let mut last = x;
    let mut conv = |b: &mut GraphBuilder, from: usize, to: usize, kernel: usize, stride: usize| {
        let group = if kernel > 1 { from } else { 1 };
        let weights = weights(bytes, [to, from / group, kernel, kernel]);
        let op = Conv { strides: vec![stride; 2], pads: vec![kernel / 2; 4], group, ..Conv::default() };
        let mut ins = vec![last, b.constant(weights)?];
        if bytes.below(2) == 1 {
            ins.push(b.constant(bytes.tensor(DType::F32, &Shape::from([to])))?);
        }
        last = b.op(op, &ins)?;
        match bytes.below(4) {
            0 => last = b.unary(UnaryKind::Relu, last)?,
            1 => last = b.unary(UnaryKind::Sigmoid, last)?,
            _ => {}
        }
        Ok::<_, IrError>(last)
    };
    let (middle, stride) = (conv(b, from, wide, 1, 1)?, [1, 2][h % 2]);
    conv(b, wide, wide, [3, 5][w % 2], stride)?;
    let to = if h % 3 == 0 { from } else { 12 };
    let mut y = conv(b, wide, to, 1, 1)?;
    if shape(b, y) == shape(b, x) {
        y = b.binary(BinaryKind::Add, y, x)?;
    } else if w % 5 == 0 && shape(b, y)[2..] == [h, w] {
        // Somebody else reads what lies between.
        y = b.op(Concat { axis: 1 }, &[y, middle])?;
    }
    Ok(Some(y).filter(|v| shape(b, *v).iter().product::<usize>() <= 1 << 14))
}

fn network(bytes: &mut Bytes, layers: usize) -> Result<Graph, IrError> {
    let mut b = GraphBuilder::new("network");
    let dims = [1 + bytes.below(2), [3, 16, 5][bytes.below(3)], 3 + bytes.below(5), 4 + bytes.below(4)];
    let mut images = vec![b.input("x", Type::tensor(DType::F32, dims.map(Into::into)))?];
    for _ in 0..layers {
        images.extend(layer(&mut b, &images, bytes)?);
    }
    let last = images[images.len() - 1];
    b.output("y", last)?;
    b.output("inner", images[images.len() / 2])?;
    let flat = b.op(Flatten { axis: 1 }, &[last])?;
    b.output("flat", flat)?;
    b.finish()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn networks(seed in any::<u64>(), layers in 1usize..12, threads in 1usize..3) {
        let mut bytes = Bytes::seeded(seed, 1 << 16);
        let mut g = network(&mut bytes, layers).unwrap();
        let input = g.ty(g.inputs()[0]).as_tensor().and_then(TensorType::static_shape).unwrap();
        let inputs = [Value::Tensor(bytes.tensor(DType::F32, &input))];
        same(&g, &inputs, threads).map_err(|e| TestCaseError::fail(format!("{e}\n{g}")))?;
        Pipeline::by_name("default").unwrap().run(&mut g, &OptOptions::default()).unwrap();
        same(&g, &inputs, threads).map_err(|e| TestCaseError::fail(format!("{e}\noptimized {g}")))?;
    }
}

/// Convolutions in a row need no change of order between them, whatever lies on the way.
#[test]
fn order_changes_only_at_the_ends() {
    let mut b = GraphBuilder::new("g");
    let mut bytes = Bytes::seeded(1, 1 << 16);
    let x = b.input("x", Type::tensor(DType::F32, [1, 3, 8, 8].map(Into::into))).unwrap();
    let mut conv = |b: &mut GraphBuilder, x, from: usize, to: usize| {
        let w = b.constant(weights(&mut bytes, [to, from, 3, 3])).unwrap();
        b.op(Conv { pads: vec![1; 4], ..Conv::default() }, &[x, w]).unwrap()
    };
    let first = conv(&mut b, x, 3, 16);
    let active = b.unary(UnaryKind::Sigmoid, first).unwrap();
    let second = conv(&mut b, active, 16, 16);
    let sum = b.binary(BinaryKind::Add, active, second).unwrap();
    let joined = b.op(Concat { axis: 1 }, &[sum, active]).unwrap();
    let pooled = b.op(MaxPool { kernel: vec![2, 2], ..MaxPool::default() }, &[joined]).unwrap();
    let third = conv(&mut b, pooled, 32, 16);
    b.output("y", third).unwrap();
    let g = b.finish().unwrap();
    let plan = CpuBackend::new(Pool::serial()).compile(g.clone(), &CompileOptions::default()).unwrap();
    let report = plan.report();
    let converts: Vec<_> = report.nodes.iter().filter(|n| n.op == "convert").collect();
    assert_eq!(converts.len(), 1, "only the result goes back: {report}");
    same(&g, &[common::f32s(&[1, 3, 8, 8], 5)], 2).unwrap();
}

/// A block runs as one step, unless somebody looks inside.
#[test]
fn inverted_residuals_are_one_step() {
    for (seen, silu) in [(false, false), (true, false), (false, true)] {
        let mut b = GraphBuilder::new("g");
        let mut bytes = Bytes::seeded(3, 1 << 16);
        let x = b.input("x", Type::tensor(DType::F32, [2, 3, 17, 18].map(Into::into))).unwrap();
        let mut conv = |b: &mut GraphBuilder, x, from: usize, to: usize, kernel: usize, stride, group| {
            let w = b.constant(weights(&mut bytes, [to, from / group, kernel, kernel])).unwrap();
            let bias = b.constant(bytes.tensor(DType::F32, &Shape::from([to]))).unwrap();
            let op = Conv { pads: vec![kernel / 2; 4], strides: vec![stride; 2], group, ..Conv::default() };
            let y = b.op(op, &[x, w, bias]).unwrap();
            if !silu {
                return b.unary(UnaryKind::Relu, y).unwrap();
            }
            let gate = b.unary(UnaryKind::Sigmoid, y).unwrap();
            b.binary(BinaryKind::Mul, y, gate).unwrap()
        };
        let first = conv(&mut b, x, 3, 16, 3, 1, 1);
        let wide = conv(&mut b, first, 16, 40, 1, 1, 1);
        let each = conv(&mut b, wide, 40, 40, 3, 1, 40);
        let narrow = conv(&mut b, each, 40, 16, 1, 1, 1);
        let sum = b.binary(BinaryKind::Add, narrow, first).unwrap();
        let each2 = conv(&mut b, sum, 16, 16, 5, 2, 16);
        let last = conv(&mut b, each2, 16, 20, 1, 1, 1);
        b.output("y", last).unwrap();
        if seen {
            b.output("wide", wide).unwrap();
        }
        let mut g = b.finish().unwrap();
        Pipeline::by_name("default").unwrap().run(&mut g, &OptOptions::default()).unwrap();
        let plan = CpuBackend::new(Pool::serial()).compile(g.clone(), &CompileOptions::default()).unwrap();
        let report = plan.report();
        let count = report.nodes.iter().filter(|n| n.kernel == "inverted-residual").count();
        // The first block's expansion stands alone where its result is an output.
        assert_eq!(count, if seen { 4 } else { 5 }, "{report}");
        for threads in 1..4 {
            same(&g, &[common::f32s(&[2, 3, 17, 18], 5)], threads).unwrap();
        }
    }
}

/// A node over images of one size, whose results can all be joined.
fn joinable(b: &mut GraphBuilder, images: &[ValueId], bytes: &mut Bytes) -> Result<Vec<ValueId>, IrError> {
    let recent = |bytes: &mut Bytes| images[images.len() - 1 - bytes.below(images.len().min(5))];
    let x = recent(bytes);
    let dims = shape(b, x);
    let (n, c, h, w) = (dims[0], dims[1], dims[2], dims[3]);
    let conv = |b: &mut GraphBuilder, bytes: &mut Bytes, x: ValueId, kernels: usize| {
        let kernel = [1, 3][bytes.below(2)];
        let from = shape(b, x)[1];
        let weights = b.constant(weights(bytes, [kernels, from, kernel, kernel]))?;
        b.op(Conv { pads: vec![kernel / 2; 4], ..Conv::default() }, &[x, weights])
    };
    Ok(match bytes.below(12) {
        0 | 1 => {
            let kernels = [16, 24, 17][bytes.below(3)];
            vec![conv(b, bytes, x, kernels)?]
        }
        2 => vec![b.unary([UnaryKind::Relu, UnaryKind::Sigmoid][bytes.below(2)], x)?],
        3 => {
            let op = MaxPool { kernel: vec![3, 3], pads: vec![1; 4], ..MaxPool::default() };
            vec![b.op(op, &[x])?]
        }
        4 => {
            let mode = [ResizeMode::Nearest, ResizeMode::Linear][bytes.below(2)];
            let op = Resize { mode, coordinates: CoordinateMode::Asymmetric, ..Resize::default() };
            let sizes = b.ints(&[n, c, h, w].map(|d| d as i64))?;
            b.node(op, &[Some(x), None, None, Some(sizes)])?.to_vec()
        }
        5..=7 => {
            let parts: Vec<ValueId> = (0..2 + bytes.below(3)).map(|_| recent(bytes)).collect();
            let axis = if parts.iter().all(|p| shape(b, *p) == dims) && bytes.below(4) == 0 { 3 } else { 1 };
            let joined = b.op(Concat { axis }, &parts)?;
            if axis == 1 {
                return Ok(vec![joined]);
            }
            let back = b.ints(&[w as i64, (w * (parts.len() - 1)) as i64])?;
            b.node(Split { axis: 3, outputs: 2 }, &[Some(joined), Some(back)])?[..1].to_vec()
        }
        8 if c > 2 => {
            let first = 1 + bytes.below(c - 2);
            let parts = b.ints(&[first as i64, (c - first) as i64])?;
            b.node(Split { axis: 1, outputs: 2 }, &[Some(x), Some(parts)])?.to_vec()
        }
        // A block with a branch that is both read and joined.
        9 | 10 if c.is_multiple_of(2) && c >= 32 => {
            let halves = b.ints(&[c as i64 / 2; 2])?;
            let mut all = b.node(Split { axis: 1, outputs: 2 }, &[Some(x), Some(halves)])?.to_vec();
            for _ in 0..1 + bytes.below(2) {
                let from = all[all.len() - 1];
                let inner = conv(b, bytes, from, 16)?;
                let outer = conv(b, bytes, inner, c / 2)?;
                all.push(if bytes.below(2) == 0 { outer } else { b.binary(BinaryKind::Add, from, outer)? });
            }
            let joined = b.op(Concat { axis: 1 }, &all)?;
            all.push(joined);
            all
        }
        11 => {
            let y = images.iter().rev().copied().find(|y| *y != x && shape(b, *y) == dims).unwrap_or(x);
            vec![b.binary(BinaryKind::Add, x, y)?]
        }
        _ => vec![],
    })
}

fn joined_network(bytes: &mut Bytes, layers: usize) -> Result<Graph, IrError> {
    let mut b = GraphBuilder::new("joined");
    let dims = [1 + bytes.below(2), [3, 32, 16][bytes.below(3)], 1 + bytes.below(5), 2 + bytes.below(5)];
    let mut images = vec![b.input("x", Type::tensor(DType::F32, dims.map(Into::into)))?];
    for _ in 0..layers {
        let made = joinable(&mut b, &images, bytes)?;
        images.extend(made.into_iter().filter(|v| shape(&b, *v).iter().product::<usize>() <= 1 << 13));
    }
    let last = images[images.len() - 1];
    b.output("y", last)?;
    // Planes one after the other, as the heads of detectors have them.
    let channels = shape(&b, last)[1];
    let alike: Vec<ValueId> = images.iter().rev().copied().filter(|v| shape(&b, *v)[1] == channels).collect();
    let mut planes = vec![];
    for v in alike.into_iter().take(3) {
        let to = b.ints(&[0, channels as i64, -1])?;
        planes.push(b.op(Reshape::default(), &[v, to])?);
    }
    let planes = b.op(Concat { axis: 2 }, &planes)?;
    b.output("planes", planes)?;
    for i in 0..bytes.below(3) {
        b.output(&format!("inner{i}"), images[bytes.below(images.len())])?;
    }
    b.finish()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Parts of joined and split images, read and written where they lie.
    #[test]
    fn joined_networks(seed in any::<u64>(), layers in 1usize..14, threads in 1usize..3) {
        let mut bytes = Bytes::seeded(seed, 1 << 16);
        let mut g = joined_network(&mut bytes, layers).unwrap();
        let input = g.ty(g.inputs()[0]).as_tensor().and_then(TensorType::static_shape).unwrap();
        let inputs = [Value::Tensor(bytes.tensor(DType::F32, &input))];
        same(&g, &inputs, threads).map_err(|e| TestCaseError::fail(format!("{e}\n{g}")))?;
        Pipeline::by_name("default").unwrap().run(&mut g, &OptOptions::default()).unwrap();
        same(&g, &inputs, threads).map_err(|e| TestCaseError::fail(format!("{e}\noptimized {g}")))?;
    }
}

/// Kernel and reason of every node of this op.
fn told(g: &Graph, op: &str) -> Vec<(String, String)> {
    let plan = CpuBackend::new(Pool::serial()).compile(g.clone(), &CompileOptions::default()).unwrap();
    let nodes = plan.report().nodes;
    nodes.into_iter().filter(|n| n.op == op).map(|n| (n.kernel.to_string(), n.reason)).collect()
}

#[test]
fn branches_write_into_what_joins_them() {
    let mut b = GraphBuilder::new("g");
    let mut bytes = Bytes::seeded(1, 1 << 16);
    let x = b.input("x", Type::tensor(DType::F32, [1, 16, 6, 6].map(Into::into))).unwrap();
    let mut conv = |b: &mut GraphBuilder, x, from: usize, to: usize| {
        let w = b.constant(weights(&mut bytes, [to, from, 3, 3])).unwrap();
        b.op(Conv { pads: vec![1; 4], ..Conv::default() }, &[x, w]).unwrap()
    };
    let first = conv(&mut b, x, 16, 16);
    let second = conv(&mut b, first, 16, 24);
    let pooled = b.op(MaxPool { kernel: vec![3, 3], pads: vec![1; 4], ..MaxPool::default() }, &[x]).unwrap();
    let third = conv(&mut b, pooled, 16, 16);
    let inner = b.op(Concat { axis: 1 }, &[second, third]).unwrap();
    let fourth = conv(&mut b, inner, 40, 16);
    let joined = b.op(Concat { axis: 1 }, &[fourth, first]).unwrap();
    let halves = b.ints(&[8, 24]).unwrap();
    let parts = b.node(Split { axis: 1, outputs: 2 }, &[Some(joined), Some(halves)]).unwrap();
    let left = conv(&mut b, parts[0], 8, 16);
    let right = conv(&mut b, parts[1], 24, 16);
    let sum = b.binary(BinaryKind::Add, left, right).unwrap();
    b.output("y", sum).unwrap();
    let g = b.finish().unwrap();
    let kernels = |op| told(&g, op).into_iter().map(|t| t.0).collect::<Vec<_>>();
    assert_eq!((kernels("concat"), kernels("split")), (vec!["alias".into(); 2], vec!["alias".into()]));
    same(&g, &[common::f32s(&[1, 16, 6, 6], 5)], 2).unwrap();
}

/// Images that go back to planes end up one after the other, as the heads of detectors have them.
#[test]
fn planes_are_written_into_what_joins_them() {
    let mut b = GraphBuilder::new("g");
    let mut bytes = Bytes::seeded(1, 1 << 16);
    let x = b.input("x", Type::tensor(DType::F32, [2, 16, 6, 6].map(Into::into))).unwrap();
    let mut flat = vec![];
    for strides in [1, 2] {
        let w = b.constant(weights(&mut bytes, [24, 16, 3, 3])).unwrap();
        let op = Conv { pads: vec![1; 4], strides: vec![strides; 2], ..Conv::default() };
        let y = b.op(op, &[x, w]).unwrap();
        let to = b.ints(&[0, 24, -1]).unwrap();
        flat.push(b.op(Reshape::default(), &[y, to]).unwrap());
    }
    let joined = b.op(Concat { axis: 2 }, &flat).unwrap();
    b.output("y", joined).unwrap();
    let g = b.finish().unwrap();
    assert_eq!(told(&g, "concat")[0].0, "alias");
    same(&g, &[common::f32s(&[2, 16, 6, 6], 5)], 2).unwrap();
}

/// What something else wants dense, or what is read while a sibling is written, keeps its copy.
#[test]
fn copies_that_remain_are_explained() {
    let mut b = GraphBuilder::new("g");
    let mut bytes = Bytes::seeded(1, 1 << 16);
    let x = b.input("x", Type::tensor(DType::F32, [1, 16, 6, 6].map(Into::into))).unwrap();
    let mut conv = |b: &mut GraphBuilder, x, from: usize, to: usize| {
        let w = b.constant(weights(&mut bytes, [to, from, 3, 3])).unwrap();
        b.op(Conv { pads: vec![1; 4], ..Conv::default() }, &[x, w]).unwrap()
    };
    let first = conv(&mut b, x, 16, 16);
    let pooled =
        b.op(MaxPool { kernel: vec![3, 3], pads: vec![1; 4], ..MaxPool::default() }, &[first]).unwrap();
    let other = conv(&mut b, x, 16, 16);
    let soft = b.op(Softmax { axis: 1 }, &[other]).unwrap();
    let joined = b.op(Concat { axis: 1 }, &[first, pooled, other]).unwrap();
    let last = conv(&mut b, joined, 48, 16);
    b.output("y", last).unwrap();
    b.output("z", soft).unwrap();
    let g = b.finish().unwrap();
    let concat = &told(&g, "concat")[0];
    assert_eq!(concat.0, "concat");
    assert!(concat.1.starts_with("1 of 3 operands are copied"), "{concat:?}");
    same(&g, &[common::f32s(&[1, 16, 6, 6], 5)], 2).unwrap();
}
