//! Whole models at every level of instructions that this machine can be held to, each in a process of its
//! own because a process decides only once.

mod common;

use common::{f32s, same};
use std::process::Command;
use tensormill_ir::{
    Graph, GraphBuilder, Type, ValueId,
    ops::{
        BinaryKind, Concat, Conv, MatMul, MaxPool, Reduce, ReduceKind, Reshape, Softmax, Transpose, UnaryKind,
    },
};
use tensormill_kernels::simd::Level;
use tensormill_tensor::{DType, Tensor, Value};

const VARIABLE: &str = "TENSORMILL_CPU";

/// A constant whose products stay near one whatever the depth.
fn weights(b: &mut GraphBuilder, shape: &[usize], depth: usize) -> ValueId {
    let n: usize = shape.iter().product();
    let scale = (depth as f32).sqrt().recip();
    let v = (0..n).map(|i| (((i + n) * 7919) % 1021) as f32 / 510.0 - 1.0).map(|x| x * scale).collect();
    b.constant(Tensor::from_vec(shape, v).unwrap()).unwrap()
}

fn input(b: &mut GraphBuilder, shape: &[usize]) -> ValueId {
    b.input("x", Type::tensor(DType::F32, shape.iter().map(|&d| d.into()))).unwrap()
}

fn conv(b: &mut GraphBuilder, x: ValueId, [to, from, side, stride]: [usize; 4], group: usize) -> ValueId {
    let depth = from / group * side * side;
    let w = weights(b, &[to, from / group, side, side], depth);
    let bias = weights(b, &[to], 4);
    let op = Conv { strides: vec![stride; 2], pads: vec![side / 2; 4], group, ..Conv::default() };
    b.op(op, &[x, w, bias]).unwrap()
}

/// A stem, windows for either algorithm, each channel by itself, pooling, a branch, a classifier.
fn image_network() -> (Graph, Value) {
    let shape = [2, 3, 37, 41];
    let mut b = GraphBuilder::new("image");
    let x = input(&mut b, &shape);
    let stem = conv(&mut b, x, [32, 3, 7, 2], 1);
    let stem = b.unary(UnaryKind::Relu, stem).unwrap();
    let pooled =
        b.op(MaxPool { kernel: vec![3, 3], strides: vec![2; 2], ..MaxPool::default() }, &[stem]).unwrap();
    let wide = conv(&mut b, pooled, [51, 32, 3, 1], 1);
    let wide = b.unary(UnaryKind::Relu, wide).unwrap();
    let each = conv(&mut b, wide, [51, 51, 3, 1], 51);
    let broad = conv(&mut b, each, [51, 51, 5, 1], 51);
    let sum = b.binary(BinaryKind::Add, broad, wide).unwrap();
    let joined = b.op(Concat { axis: 1 }, &[sum, pooled]).unwrap();
    let flat = conv(&mut b, joined, [100, 83, 1, 1], 1);
    let flat = b.unary(UnaryKind::Sigmoid, flat).unwrap();
    let down = conv(&mut b, flat, [48, 100, 3, 2], 1);
    let axes = b.ints(&[2, 3]).unwrap();
    let mean = b.op(Reduce { kind: ReduceKind::Mean, keepdims: false, ..Reduce::default() }, &[down, axes]);
    let w = weights(&mut b, &[48, 19], 48);
    let y = b.op(MatMul::default(), &[mean.unwrap(), w]).unwrap();
    b.output("y", y).unwrap();
    (b.finish().unwrap(), f32s(&shape, 5))
}

/// One block of a transformer over heads of an odd size.
fn transformer() -> (Graph, Value) {
    let (batch, tokens, heads, size) = (2usize, 23usize, 3usize, 21usize);
    let width = heads * size;
    let shape = [batch, tokens, width];
    let mut b = GraphBuilder::new("transformer");
    let x = input(&mut b, &shape);
    let split = b.ints(&[batch as i64, tokens as i64, heads as i64, size as i64]).unwrap();
    let project = |b: &mut GraphBuilder, perm: &[usize]| {
        let w = weights(b, &[width, width], width);
        let y = b.op(MatMul::default(), &[x, w]).unwrap();
        let y = b.op(Reshape::default(), &[y, split]).unwrap();
        b.op(Transpose { perm: perm.to_vec() }, &[y]).unwrap()
    };
    let q = project(&mut b, &[0, 2, 1, 3]);
    let k = project(&mut b, &[0, 2, 3, 1]);
    let v = project(&mut b, &[0, 2, 1, 3]);
    let scores = b.op(MatMul::default(), &[q, k]).unwrap();
    let share = b.op(Softmax { axis: -1 }, &[scores]).unwrap();
    let seen = b.op(MatMul::default(), &[share, v]).unwrap();
    let seen = b.op(Transpose { perm: vec![0, 2, 1, 3] }, &[seen]).unwrap();
    let merge = b.ints(&[batch as i64, tokens as i64, width as i64]).unwrap();
    let seen = b.op(Reshape::default(), &[seen, merge]).unwrap();
    let x = b.binary(BinaryKind::Add, x, seen).unwrap();
    let w = weights(&mut b, &[width, 4 * width], width);
    let inner = b.op(MatMul::default(), &[x, w]).unwrap();
    let inner = b.unary(UnaryKind::Gelu, inner).unwrap();
    let w = weights(&mut b, &[4 * width, width], 4 * width);
    let outer = b.op(MatMul::default(), &[inner, w]).unwrap();
    let y = b.binary(BinaryKind::Add, x, outer).unwrap();
    b.output("y", y).unwrap();
    (b.finish().unwrap(), f32s(&shape, 9))
}

/// The part that runs in a process of its own, held to a level by the environment.
#[test]
#[ignore = "run by the test below"]
fn models_at_the_level_of_the_environment() {
    let wanted = std::env::var(VARIABLE).expect("a level");
    assert_eq!(Level::best().name(), wanted, "the program took another level than it was held to");
    for (g, x) in [image_network(), transformer()] {
        for threads in [1, 2] {
            same(&g, std::slice::from_ref(&x), threads).unwrap();
        }
    }
}

#[test]
fn models_at_every_level() {
    for level in Level::available() {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "models_at_the_level_of_the_environment", "--ignored"])
            .env(VARIABLE, level.name())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success(), "{}: {said}{}", level.name(), String::from_utf8_lossy(&child.stderr));
        assert!(said.contains("1 passed"), "{}: {said}", level.name());
    }
}
