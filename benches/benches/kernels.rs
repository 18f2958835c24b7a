//! Single kernels, on one thread and on all.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Arc;
use tensormill_kernels::{
    conv::{ConvShape, ConvWeights, Window, conv_packed},
    elementwise::{BinaryOp, UnaryOp, binary_f32, unary_f32},
    epilogue::Epilogue,
    matmul::{MatRef, PackedB, matmul, matmul_packed},
    norm::layer_norm,
    softmax::softmax,
    threads::Pool,
};

fn noise(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919) % 1021) as f32 / 510.0 - 1.0).collect()
}

/// One thread, and all where there are more.
fn pools() -> Vec<Pool> {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let mut pools = vec![Pool::serial()];
    if all > 1 {
        pools.extend(Pool::new(all));
    }
    pools
}

fn id(kernel: &str, pool: &Pool, sizes: &str) -> BenchmarkId {
    BenchmarkId::new(format!("{kernel}/{}t", pool.threads()), sizes)
}

fn bytes(floats: usize) -> Throughput {
    Throughput::Bytes((floats * size_of::<f32>()) as u64)
}

/// The product of another library, on one thread, for comparison.
fn gemm_crate(a: &[f32], b: &[f32], out: &mut [f32], [m, k, n]: [usize; 3]) {
    assert_eq!([a.len(), b.len(), out.len()], [m * k, k * n, m * n]);
    let parallelism = gemm::Parallelism::None;
    let [row_a, row_b] = [k as isize, n as isize];
    let (x, y, z) = (a.as_ptr(), b.as_ptr(), out.as_mut_ptr());
    // SAFETY: the slices were checked to hold dense row-major matrices of these sizes.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            z,
            1,
            row_b,
            false,
            x,
            1,
            row_a,
            y,
            1,
            row_b,
            0.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

fn products(c: &mut Criterion) {
    let mut group = c.benchmark_group("matmul");
    let pools = pools();
    for [m, k, n] in [[64, 64, 64], [128, 768, 768], [512, 512, 512], [1024, 1024, 1024], [49, 2048, 512]] {
        let (a, b) = (noise(m * k), noise(k * n));
        let mut out = vec![0.0; m * n];
        group.throughput(Throughput::Elements((m * k * n) as u64));
        for pool in &pools {
            let x = MatRef::row_major(&a, m, k).expect("sizes fit");
            let y = MatRef::row_major(&b, k, n).expect("sizes fit");
            let packed = PackedB::pack(pool.level(), y).expect("sizes fit");
            let sizes = format!("{m}x{k}x{n}");
            group.bench_function(id("packed", pool, &sizes), |bench| {
                bench.iter(|| matmul_packed(pool, x, &packed, black_box(&mut out), Epilogue::NONE));
            });
            group.bench_function(id("unpacked", pool, &sizes), |bench| {
                bench.iter(|| matmul(pool, x, y, black_box(&mut out), Epilogue::NONE));
            });
            if pool.threads() == 1 {
                group.bench_function(id("gemm-crate", pool, &sizes), |bench| {
                    bench.iter(|| gemm_crate(&a, &b, black_box(&mut out), [m, k, n]));
                });
            }
        }
    }
    group.finish();
}

fn single_rows(c: &mut Criterion) {
    let mut group = c.benchmark_group("matvec");
    let pools = pools();
    for [k, n] in [[512, 2048], [2048, 1000], [4096, 4096]] {
        let (a, b) = (noise(k), noise(k * n));
        let mut out = vec![0.0; n];
        // Bound by reading the matrix.
        group.throughput(bytes(k * n));
        let x = MatRef::row_major(&a, 1, k).expect("sizes fit");
        let rows = MatRef::row_major(&b, k, n).expect("sizes fit");
        let columns = MatRef::row_major(&b, n, k).expect("sizes fit").transposed();
        for pool in &pools {
            for (name, y) in [("rows", rows), ("columns", columns)] {
                group.bench_function(id(name, pool, &format!("{k}x{n}")), |bench| {
                    bench.iter(|| matmul(pool, x, y, black_box(&mut out), Epilogue::NONE));
                });
            }
        }
    }
    group.finish();
}

/// Channels in and out, side of the input, taps along a side, stride: shapes of a ResNet-50 for one image
/// of 224 by 224.
const RESNET_50: [[usize; 5]; 9] = [
    [3, 64, 224, 7, 2],
    [64, 64, 56, 1, 1],
    [64, 64, 56, 3, 1],
    [64, 256, 56, 1, 1],
    [128, 128, 28, 3, 1],
    [256, 256, 14, 3, 1],
    [1024, 256, 14, 1, 1],
    [512, 512, 7, 3, 1],
    [1024, 2048, 14, 1, 2],
];

fn convolutions(c: &mut Criterion) {
    let mut group = c.benchmark_group("conv");
    let pools = pools();
    for [input, output, side, taps, stride] in RESNET_50 {
        let pad = taps / 2;
        let window = Window { stride, pad_begin: pad, pad_end: pad, ..Window::new(taps) };
        let shape = ConvShape::new(1, input, output, 1, &[side, side], &[window, window]).expect("sizes fit");
        let (x, w) = (noise(shape.input_len()), noise(shape.weights_len()));
        let mut out = vec![0.0; shape.output_len()];
        group.throughput(Throughput::Elements((shape.output_len() * input * taps * taps) as u64));
        for pool in &pools {
            let packed = ConvWeights::pack(pool.level(), &shape, &w).expect("sizes fit");
            let sizes = format!("{input}-{output}/{side}/{taps}x{taps}s{stride}");
            group.bench_function(id(packed.kernel_name(), pool, &sizes), |bench| {
                bench.iter(|| conv_packed(pool, &shape, &x, &packed, black_box(&mut out), Epilogue::NONE));
            });
        }
    }
    group.finish();
}

fn rows(c: &mut Criterion) {
    let pools = pools();
    for (name, normalize) in [("softmax", false), ("layer-norm", true)] {
        let mut group = c.benchmark_group(name);
        for [rows, n] in [[1, 1000], [128, 768], [1536, 128]] {
            let (x, scale) = (noise(rows * n), noise(n));
            let mut out = vec![0.0; rows * n];
            group.throughput(bytes(2 * rows * n));
            for pool in &pools {
                group.bench_function(id("rows", pool, &format!("{rows}x{n}")), |bench| {
                    bench.iter(|| {
                        let out = black_box(&mut out[..]);
                        if normalize {
                            layer_norm(pool, &x, [rows, n], Some(&scale), Some(&scale), 1e-5, out)
                        } else {
                            softmax(pool, &x, [rows, n, 1], out)
                        }
                    });
                });
            }
        }
        group.finish();
    }
}

fn maps(c: &mut Criterion) {
    let mut group = c.benchmark_group("elementwise");
    for n in [1 << 12, 1 << 20] {
        let (x, y) = (noise(n), noise(n));
        let mut out = vec![0.0; n];
        for pool in &pools() {
            group.throughput(bytes(2 * n));
            let unary = [
                ("relu", UnaryOp::Relu),
                ("sigmoid", UnaryOp::Sigmoid),
                ("tanh", UnaryOp::Tanh),
                ("gelu", UnaryOp::Gelu),
            ];
            for (name, op) in unary {
                group.bench_function(id(name, pool, &n.to_string()), |bench| {
                    bench.iter(|| unary_f32(pool, op, &x, black_box(&mut out)));
                });
            }
            group.throughput(bytes(3 * n));
            group.bench_function(id("add", pool, &n.to_string()), |bench| {
                bench.iter(|| {
                    binary_f32(pool, BinaryOp::Add, (&x, &[n]), (&y, &[n]), (black_box(&mut out), &[n]))
                });
            });
        }
    }
    group.finish();
}

/// What sharing work out costs: jobs whose tasks do next to nothing, on our own threads and on rayon's.
fn jobs(c: &mut Criterion) {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let rayon = rayon::ThreadPoolBuilder::new().num_threads(all).build().expect("threads");
    let own = Pool::new(all).expect("threads");
    let mut group = c.benchmark_group("job");
    for (name, pool) in [("own", own), ("rayon", Pool::external(Arc::new(rayon)))] {
        // As in a run, where workers stay awake from one job to the next.
        let _busy = pool.busy();
        for tasks in [2, 16] {
            group.bench_function(id(name, &pool, &format!("{tasks} tasks")), |bench| {
                bench.iter(|| pool.run(tasks, |i| _ = black_box(i)));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, products, single_rows, convolutions, rows, maps, jobs);
criterion_main!(benches);
