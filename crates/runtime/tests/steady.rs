//! What a run costs besides its arithmetic, once another of the same sizes has been: no allocation.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    collections::HashMap,
    sync::Mutex,
    sync::atomic::{AtomicUsize, Ordering},
};
use tensormill::{DType, Graph, Model, SessionOptions, Tensor};
use tensormill_ir::{GraphBuilder, text};

/// Counts what is asked for, by any thread.
struct Counting;

static ASKED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is the system allocator's, unchanged; counting touches no memory that it hands out.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ASKED.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ASKED.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, size) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Tests of one program run at once, but here what one asks for must not count for another.
static ONE: Mutex<()> = Mutex::new(());

const MLP: &str =
    "graph @mlp(%x: f32[8,64], %w1: f32[64,128], %w2: f32[128], %w3: f32[128,10]) -> (%y, %logits) {
  %a: f32[8,128] = matmul %x, %w1
  %b: f32[8,128] = add %a, %w2
  %c: f32[8,128] = relu %b
  %logits: f32[8,10] = matmul %c, %w3
  %y: f32[8,10] = softmax %logits
}
";

const CNN: &str =
    "graph @cnn(%x: f32[1,3,32,32], %w1: f32[32,3,3,3], %w2: f32[32,1,3,3], %w3: f32[32,32,1,1], \
%w4: f32[48,32,3,3], %w5: f32[48], %w6: f32[48,10]) -> (%y) {
  %a: f32[1,32,32,32] = conv %x, %w1 {pads=[1,1,1,1]}
  %b: f32[1,32,32,32] = relu %a
  %c: f32[1,32,32,32] = conv %b, %w2 {pads=[1,1,1,1], group=32}
  %d: f32[1,32,32,32] = conv %c, %w3 {}
  %e: f32[1,32,32,32] = add %d, %b
  %f: f32[1,32,16,16] = max_pool %e {kernel=[2,2], strides=[2,2]}
  %g: f32[1,48,16,16] = conv %f, %w4, %w5 {pads=[1,1,1,1]}
  %h: f32[1,48,16,16] = sigmoid %g
  %i: f32[1,48,16,16] = mul %g, %h
  %j: f32[1,48,8,8] = average_pool %i {kernel=[2,2], strides=[2,2]}
  %axes: i64[2] = const [2, 3]
  %k: f32[1,48] = reduce_mean %j, %axes {keepdims=false}
  %y: f32[1,10] = matmul %k, %w6
}
";

const TRANSFORMER: &str =
    "graph @transformer(%x: f32[1,16,64], %w1: f32[64,64], %w2: f32[64,64], %w3: f32[64,64], \
%w4: f32[64,64], %w5: f32[64], %w6: f32[64], %w7: f32[64,256], %w8: f32[256,64]) -> (%y) {
  %heads: i64[4] = const [1, 16, 4, 16]
  %rows: i64[3] = const [1, 16, 64]
  %scale: f32[] = const [0.25]
  %q: f32[1,16,64] = matmul %x, %w1
  %k: f32[1,16,64] = matmul %x, %w2
  %v: f32[1,16,64] = matmul %x, %w3
  %qr: f32[1,16,4,16] = reshape %q, %heads
  %kr: f32[1,16,4,16] = reshape %k, %heads
  %vr: f32[1,16,4,16] = reshape %v, %heads
  %qt: f32[1,4,16,16] = transpose %qr {perm=[0, 2, 1, 3]}
  %kt: f32[1,4,16,16] = transpose %kr {perm=[0, 2, 3, 1]}
  %vt: f32[1,4,16,16] = transpose %vr {perm=[0, 2, 1, 3]}
  %s: f32[1,4,16,16] = matmul %qt, %kt
  %ss: f32[1,4,16,16] = mul %s, %scale
  %p: f32[1,4,16,16] = softmax %ss
  %o: f32[1,4,16,16] = matmul %p, %vt
  %ot: f32[1,16,4,16] = transpose %o {perm=[0, 2, 1, 3]}
  %or: f32[1,16,64] = reshape %ot, %rows
  %m: f32[1,16,64] = matmul %or, %w4
  %r: f32[1,16,64] = add %m, %x
  %n: f32[1,16,64] = layer_norm %r, %w5, %w6
  %f: f32[1,16,256] = matmul %n, %w7
  %g: f32[1,16,256] = gelu %f
  %h: f32[1,16,64] = matmul %g, %w8
  %y: f32[1,16,64] = add %h, %n
}
";

fn noise(shape: &[usize], seed: usize) -> Tensor {
    let n = shape.iter().product();
    let of = |i: usize| (((i + seed) * 7919) % 1021) as f32 / 5100.0 - 0.1;
    Tensor::from_vec(shape, (0..n).map(of).collect()).unwrap()
}

/// The graph with constants for the inputs that are named as weights.
fn model(source: &str) -> Model {
    let g: Graph = text::parse(source).unwrap();
    let mut b = GraphBuilder::new("steady");
    let mut values = HashMap::new();
    for (i, &v) in g.inputs().iter().enumerate() {
        let name = g.value(v).name.clone().unwrap();
        let made = if name.starts_with('w') {
            let shape = g.ty(v).as_tensor().unwrap().static_shape().unwrap();
            b.constant(noise(&shape, i)).unwrap()
        } else {
            b.input(&name, g.ty(v).clone()).unwrap()
        };
        values.insert(v, made);
    }
    for id in g.order() {
        let node = g.node(id);
        let ins: Vec<_> = node.inputs.iter().map(|v| v.map(|v| values[&v])).collect();
        let outs = b.node(node.op.clone(), &ins).unwrap();
        values.extend(node.outputs.iter().copied().zip(outs));
    }
    for o in g.outputs() {
        b.output(&o.name, values[&o.value]).unwrap();
    }
    Model::from_graph(b.finish().unwrap())
}

/// Allocations of one run, the least of a few: a thread that just woke up may have grown its buffers.
fn asked_by(mut run: impl FnMut()) -> usize {
    for _ in 0..20 {
        run();
    }
    let counts = (0..20).map(|_| {
        let before = ASKED.load(Ordering::SeqCst);
        run();
        ASKED.load(Ordering::SeqCst) - before
    });
    counts.min().unwrap()
}

fn each(mut test: impl FnMut(&str, &Model, usize, [(&'static str, Tensor); 1])) {
    let _one = ONE.lock().unwrap();
    for (name, source, shape) in [
        ("mlp", MLP, &[8, 64][..]),
        ("cnn", CNN, &[1, 3, 32, 32]),
        ("transformer", TRANSFORMER, &[1, 16, 64]),
    ] {
        let model = model(source);
        for threads in [1, 2] {
            test(name, &model, threads, [("x", noise(shape, 5))]);
        }
    }
}

#[test]
fn a_runner_allocates_nothing() {
    each(|name, model, threads, inputs| {
        let session = model.session_with(&SessionOptions::new().threads(threads)).unwrap();
        let expected = session.run(inputs.clone()).unwrap();
        let mut runner = session.runner();
        let asked = asked_by(|| {
            let outputs = runner.run(inputs.clone()).unwrap();
            assert_eq!(outputs.tensor(0).unwrap().dtype(), DType::F32);
        });
        assert_eq!(asked, 0, "{name} on {threads} threads");
        let outputs = runner.run(inputs).unwrap();
        for (a, b) in expected.iter().zip(outputs.iter()) {
            assert!(a.1.same_bits(b.1), "{name} on {threads} threads");
        }
    });
}

/// A run that gives its outputs away makes the list of them, and a tensor only where one is still held.
#[test]
fn a_session_allocates_what_it_gives() {
    each(|name, model, threads, inputs| {
        let session = model.session_with(&SessionOptions::new().threads(threads)).unwrap();
        let asked = asked_by(|| {
            session.run(inputs.clone()).unwrap();
        });
        assert_eq!(asked, 1, "{name} on {threads} threads: the list of outputs");
        let mut held = session.run(inputs.clone()).unwrap();
        let outputs = held.len();
        let asked = asked_by(|| held = session.run(inputs.clone()).unwrap());
        // Each is a block and its owner.
        assert!(asked <= 1 + 2 * outputs, "{name} on {threads} threads: {asked} for {outputs} outputs");
    });
}
