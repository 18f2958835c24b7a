//! Packed weights on disk: the same bits with and without them, whatever becomes of the file.

use std::path::{Path, PathBuf};
use std::time::Duration;
use tensormill_backend::{Backend, CompileOptions, Io};
use tensormill_cpu::{CpuBackend, Pool};
use tensormill_ir::{
    Dim, Graph, GraphBuilder, Type,
    infer::Inferred,
    ops::{Conv, MatMul, Reduce, ReduceKind},
};
use tensormill_tensor::{DType, Tensor, Value, map_file};

fn image() -> Type {
    Type::tensor(DType::F32, [1, 3, 18, 18].map(Dim::Known))
}

fn numbers(shape: &[usize], seed: usize) -> Tensor {
    let n = shape.iter().product();
    let data: Vec<f32> = (0..n).map(|i| ((i * 7919 + seed) % 997) as f32 / 500.0 - 1.0).collect();
    Tensor::from_vec(shape.to_vec(), data).unwrap()
}

/// A small image network whose weights are packed in each of the ways that are stored.
fn network(seed: usize) -> Graph {
    let mut b = GraphBuilder::new("g");
    let x = b.input("x", image()).unwrap();
    let conv = |b: &mut GraphBuilder, x, shape: [usize; 4], group| {
        let w = b.constant(numbers(&shape, seed + shape[0])).unwrap();
        b.op(Conv { pads: vec![1; 4], group, ..Conv::default() }, &[x, w]).unwrap()
    };
    let y = conv(&mut b, x, [32, 3, 3, 3], 1);
    let y = conv(&mut b, y, [32, 1, 3, 3], 32);
    let y = conv(&mut b, y, [64, 32, 3, 3], 1);
    let axes = b.constant(Tensor::from_vec([2], vec![2i64, 3]).unwrap()).unwrap();
    let mean = Reduce { kind: ReduceKind::Mean, keepdims: false, ..Reduce::default() };
    let y = b.op(mean, &[y, axes]).unwrap();
    let w = b.constant(numbers(&[64, 10], seed)).unwrap();
    let y = b.op(MatMul::default(), &[y, w]).unwrap();
    b.output("y", y).unwrap();
    b.finish().unwrap()
}

fn outputs(g: Graph, threads: usize, folder: Option<&Path>) -> Vec<Value> {
    tuned_outputs(g, threads, folder, None)
}

fn tuned_outputs(g: Graph, threads: usize, folder: Option<&Path>, tune: Option<Duration>) -> Vec<Value> {
    let mut options = CompileOptions::default();
    options.cache_dir = folder.map(Path::to_owned);
    options.tune = tune;
    let types: Vec<Inferred> = g.inputs().iter().map(|&v| g.input_fact(v)).collect();
    let plan = CpuBackend::new(Pool::new(threads).unwrap()).compile(g, &options).unwrap();
    let mut state = plan.state(&types).unwrap();
    let inputs = [Value::from(numbers(&[1, 3, 18, 18], 5))];
    let mut outputs = vec![];
    state.run(&mut Io { inputs: &inputs, outputs: &mut outputs, profile: None, cancel: None }).unwrap();
    outputs
}

fn same(a: &[Value], b: &[Value]) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| a.as_tensor().unwrap().same_bits(b.as_tensor().unwrap()))
}

fn files(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect()
}

#[test]
fn the_same_bits_with_and_without() {
    let folder = tempfile::tempdir().unwrap();
    let want = outputs(network(1), 1, None);
    assert!(same(&want, &outputs(network(1), 1, Some(folder.path()))));
    let [file] = &files(folder.path())[..] else { panic!("one file") };
    let written = std::fs::read(file).unwrap();
    let before = std::fs::metadata(file).unwrap().modified().unwrap();
    for threads in [1, 2] {
        assert!(same(&want, &outputs(network(1), threads, Some(folder.path()))));
    }
    // What was used was not written again.
    assert_eq!(before, std::fs::metadata(file).unwrap().modified().unwrap());
    assert_eq!(written, std::fs::read(file).unwrap());
    // The weights lie in it as the kernels read them: more than the constants of the graph.
    assert!(written.len() > 4 * (32 * 27 + 32 * 9 + 64 * 32 * 9 + 640));
}

#[test]
fn other_weights_have_other_files() {
    let folder = tempfile::tempdir().unwrap();
    for seed in [1, 2] {
        let want = outputs(network(seed), 1, None);
        for _ in 0..2 {
            assert!(same(&want, &outputs(network(seed), 1, Some(folder.path()))));
        }
    }
    assert_eq!(files(folder.path()).len(), 2);
}

/// Weights that differ only where the file's name does not tell.
#[test]
fn a_changed_weight_is_packed_again() {
    let folder = tempfile::tempdir().unwrap();
    let graph = |x: f32| {
        let mut b = GraphBuilder::new("g");
        let input = b.input("x", image()).unwrap();
        let mut data = vec![0.5f32; 32 * 27];
        data[101] = x;
        let w = b.constant(Tensor::from_vec([32, 3, 3, 3], data).unwrap()).unwrap();
        let y = b.op(Conv::default(), &[input, w]).unwrap();
        b.output("y", y).unwrap();
        b.finish().unwrap()
    };
    for x in [1.0, 2.0, 2.0] {
        assert!(same(&outputs(graph(x), 1, None), &outputs(graph(x), 1, Some(folder.path()))));
        assert_eq!(files(folder.path()).len(), 1);
    }
}

#[test]
fn damaged_files_are_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let want = outputs(network(1), 1, Some(folder.path()));
    let file = files(folder.path()).remove(0);
    let whole = std::fs::read(&file).unwrap();
    let mut damaged: Vec<Vec<u8>> =
        [0, 1, 63, 64, 300, whole.len() / 2, whole.len() - 1].map(|at| whole[..at].to_vec()).into();
    for at in (0..whole.len()).step_by(whole.len() / 37) {
        let mut bytes = whole.clone();
        bytes[at] ^= 16;
        damaged.push(bytes);
    }
    damaged.push([whole.clone(), vec![0]].concat());
    for bytes in damaged {
        std::fs::write(&file, &bytes).unwrap();
        assert!(same(&want, &outputs(network(1), 1, Some(folder.path()))));
        assert_eq!(std::fs::read(&file).unwrap(), whole);
    }
}

#[test]
fn starts_at_once_agree() {
    let folder = tempfile::tempdir().unwrap();
    let want = outputs(network(1), 1, None);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5 {
                    assert!(same(&want, &outputs(network(1), 1, Some(folder.path()))));
                }
            });
        }
    });
    assert_eq!(files(folder.path()).len(), 1);
}

#[test]
fn a_folder_that_is_none_only_costs_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "text").unwrap();
    assert!(same(&outputs(network(1), 1, None), &outputs(network(1), 1, Some(&file))));
}

/// What was measured once decides later runs without any budget.
#[test]
fn choices_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let choices = || files(folder.path()).into_iter().find(|f| f.extension().is_some_and(|e| e == "choices"));
    tuned_outputs(network(1), 1, Some(folder.path()), Some(Duration::ZERO));
    assert!(choices().is_none());
    let want = tuned_outputs(network(1), 1, Some(folder.path()), Some(Duration::from_secs(60)));
    let path = choices().expect("a file of choices");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.lines().count() > 1, "{text}");
    assert!(same(&want, &tuned_outputs(network(1), 1, Some(folder.path()), Some(Duration::ZERO))));
    // The other choice is followed as well.
    let other: String = text
        .lines()
        .enumerate()
        .map(|(i, l)| match l.rsplit_once(' ') {
            Some((key, "0")) if i > 0 => format!("{key} 1\n"),
            Some((key, "1")) if i > 0 => format!("{key} 0\n"),
            _ => format!("{l}\n"),
        })
        .collect();
    std::fs::write(&path, other).unwrap();
    let got = tuned_outputs(network(1), 1, Some(folder.path()), Some(Duration::ZERO));
    assert!(!same(&want, &got), "another algorithm rounds otherwise");
    let values = |v: &[Value]| v[0].as_tensor().unwrap().to_f64_vec().unwrap();
    assert!(values(&want).iter().zip(values(&got)).all(|(a, b)| (a - b).abs() < 1e-3));
}

/// Weights in a mapped file whose pages were given back read the same later.
#[test]
fn released_pages_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights");
    let weights = numbers(&[256, 640], 3);
    std::fs::write(&path, weights.bytes()).unwrap();
    let mapped = Tensor::from_bytes(DType::F32, [256, 640], map_file(&path).unwrap()).unwrap();
    let graph = |w: &Tensor| {
        let mut b = GraphBuilder::new("g");
        let x = b.input("x", image()).unwrap();
        let shape = b.constant(Tensor::from_vec([2], vec![3i64, 324]).unwrap()).unwrap();
        let y = b.op(tensormill_ir::ops::Reshape::default(), &[x, shape]).unwrap();
        let start = b.constant(numbers(&[324, 256], 4)).unwrap();
        let y = b.op(MatMul::default(), &[y, start]).unwrap();
        let w = b.constant(w.clone()).unwrap();
        let y = b.op(MatMul::default(), &[y, w]).unwrap();
        b.output("y", y).unwrap();
        b.finish().unwrap()
    };
    let want = outputs(graph(&weights), 1, None);
    for _ in 0..2 {
        assert!(same(&want, &outputs(graph(&mapped), 2, None)));
        assert!(mapped.release());
        assert!(mapped.same_bits(&weights));
    }
    assert!(!weights.release());
}
