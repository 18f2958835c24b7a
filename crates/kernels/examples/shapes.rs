//! Times the kernels on the shapes of well-known models and prints rates against the machine's own limit.
//!
//! `cargo run --release -p tensormill-kernels --example shapes [matmul|matvec|maps|conv|depthwise] ..`

#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::time::Instant;
use tensormill_kernels::conv::{ConvShape, ConvWeights, Window, conv_packed};
use tensormill_kernels::elementwise::{BinaryOp, UnaryOp, binary_f32, unary_f32};
use tensormill_kernels::epilogue::{Epilogue, Step};
use tensormill_kernels::matmul::{MatRef, PackedB, matmul, matmul_packed};
use tensormill_kernels::norm::layer_norm;
use tensormill_kernels::pool::{PoolOp, PoolShape, pool as pooling};
use tensormill_kernels::reduce::{ReduceOp, reduce};
use tensormill_kernels::softmax::softmax;
use tensormill_kernels::threads::Pool;
use tensormill_kernels::transpose::transpose;

/// Seconds of one call: the best of enough calls to fill some tens of milliseconds.
fn time(mut f: impl FnMut()) -> f64 {
    f();
    let mut best = f64::INFINITY;
    let begin = Instant::now();
    while begin.elapsed().as_secs_f64() < 0.06 {
        let start = Instant::now();
        f();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

fn noise(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919) % 1021) as f32 / 510.0 - 1.0).collect()
}

/// A loop of independent multiply-adds in registers: what one thread could do at best.
#[cfg(target_arch = "x86_64")]
fn peak() -> f64 {
    use std::arch::x86_64::*;
    const N: usize = 1 << 22;
    #[target_feature(enable = "avx512f")]
    fn wide(n: usize) -> f32 {
        let (a, b) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.001)));
        let mut acc = [_mm512_set1_ps(black_box(1.0)); 12];
        for _ in 0..n {
            for x in &mut acc {
                *x = _mm512_fmadd_ps(*x, a, b);
            }
        }
        acc.iter().map(|&x| _mm512_reduce_add_ps(x)).sum()
    }
    #[target_feature(enable = "avx2,fma")]
    fn narrow(n: usize) -> f32 {
        let (a, b) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(0.001)));
        let mut acc = [_mm256_set1_ps(black_box(1.0)); 12];
        for _ in 0..n {
            for x in &mut acc {
                *x = _mm256_fmadd_ps(*x, a, b);
            }
        }
        acc.iter().map(|&x| _mm_cvtss_f32(_mm256_castps256_ps128(x))).sum()
    }
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the instructions were just detected.
        let s = time(|| _ = black_box(unsafe { wide(N) }));
        (N * 12 * 16 * 2) as f64 / s / 1e9
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the instructions were just detected.
        let s = time(|| _ = black_box(unsafe { narrow(N) }));
        (N * 12 * 8 * 2) as f64 / s / 1e9
    } else {
        f64::NAN
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn peak() -> f64 {
    f64::NAN
}

fn main() {
    let chosen: Vec<String> = std::env::args().skip(1).collect();
    let wants = |name: &str| chosen.is_empty() || chosen.iter().any(|c| c == name);
    let peak = peak();
    println!("peak of one thread: {peak:.0} GFLOP/s");
    for threads in [1, 2] {
        let pool = Pool::new(threads).expect("threads");
        println!("--- {threads} thread(s), {}", pool.level().name());
        if wants("matmul") {
            products(&pool, peak);
        }
        if wants("matvec") {
            vectors(&pool);
        }
        if wants("maps") {
            maps(&pool);
        }
        if wants("conv") {
            convolutions(&pool, peak);
        }
        if wants("depthwise") {
            depthwise(&pool, peak);
        }
    }
}

fn products(pool: &Pool, peak: f64) {
    println!("matmul m,n,k: GFLOP/s packed, plain, gemm crate (share of peak)");
    let shapes = [
        (128, 768, 768),
        (128, 3072, 768),
        (128, 768, 3072),
        (128, 384, 384),
        (128, 1536, 384),
        (64, 3136, 64),
        (64, 3136, 576),
        (128, 784, 1152),
        (256, 196, 2304),
        (512, 49, 4608),
        (2048, 49, 512),
        (128, 128, 64),
    ];
    for (m, n, k) in shapes {
        let (a, b) = (noise(m * k), noise(k * n));
        let mut out = vec![0.0; m * n];
        let (a, b) = (MatRef::row_major(&a, m, k).expect("a"), MatRef::row_major(&b, k, n).expect("b"));
        let packed = PackedB::pack(pool.level(), b).expect("pack");
        let flops = 2.0 * (m * n * k) as f64 / 1e9;
        let t1 = flops / time(|| matmul_packed(pool, a, &packed, &mut out, Epilogue::NONE).expect("packed"));
        let t2 = flops / time(|| matmul(pool, a, b, &mut out, Epilogue::NONE).expect("plain"));
        let t3 = if pool.threads() == 1 { flops / time(|| by_gemm(m, n, k, &mut out)) } else { f64::NAN };
        let share = |x: f64| 100.0 * x / (peak * pool.threads() as f64);
        println!(
            "{m:5} {n:5} {k:5}: {t1:6.1} ({:3.0}%) {t2:6.1} ({:3.0}%) {t3:6.1} ({:3.0}%)",
            share(t1),
            share(t2),
            share(t3)
        );
    }
}

fn by_gemm(m: usize, n: usize, k: usize, out: &mut [f32]) {
    thread_local!(static DATA: (Vec<f32>, Vec<f32>) = (noise(1 << 23), noise(1 << 23)));
    DATA.with(|(a, b)| {
        assert!(m * k <= a.len() && k * n <= b.len() && out.len() == m * n);
        // SAFETY: all three are dense and were just measured.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                out.as_mut_ptr(),
                1,
                n as isize,
                false,
                a.as_ptr(),
                1,
                k as isize,
                b.as_ptr(),
                1,
                n as isize,
                0.0f32,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    });
}

fn vectors(pool: &Pool) {
    println!("matvec m,n,k: GB/s of B packed, row-major, transposed");
    for (m, n, k) in [(1, 3072, 768), (1, 768, 3072), (1, 2304, 768), (1, 50257, 768), (4, 3072, 768)] {
        // Several copies, so that the matrix comes from memory each time.
        let copies = (256 << 20) / (4 * n * k) + 1;
        let a = noise(m * k);
        let a = MatRef::row_major(&a, m, k).expect("a");
        let bs: Vec<Vec<f32>> = (0..copies).map(|_| noise(n * k)).collect();
        let mut out = vec![0.0; m * n];
        let bytes = (4 * n * k) as f64 / 1e9;
        let mut rate = |f: &dyn Fn(usize, &mut [f32])| {
            let mut i = 0;
            let all = time(|| {
                for _ in 0..copies {
                    f(i, &mut out);
                    i = (i + 1) % copies;
                }
            });
            bytes * copies as f64 / all
        };
        let plain = rate(&|i, out| {
            let b = MatRef::row_major(&bs[i], k, n).expect("b");
            matmul(pool, a, b, out, Epilogue::NONE).expect("plain");
        });
        let turned = rate(&|i, out| {
            let b = MatRef::row_major(&bs[i], n, k).expect("b").transposed();
            matmul(pool, a, b, out, Epilogue::NONE).expect("transposed");
        });
        let packs: Vec<PackedB> = bs
            .iter()
            .map(|b| PackedB::pack(pool.level(), MatRef::row_major(b, k, n).expect("b")).expect("pack"))
            .collect();
        let packed = rate(&|i, out| matmul_packed(pool, a, &packs[i], out, Epilogue::NONE).expect("packed"));
        println!("{m:5} {n:5} {k:5}: {packed:5.1} {plain:5.1} {turned:5.1}");
    }
}

/// Times one convolution with bias and activation; returns seconds.
fn convolution(
    pool: &Pool,
    peak: f64,
    (ci, co, groups): (usize, usize, usize),
    size: usize,
    kernel: usize,
    stride: usize,
) -> f64 {
    let w = Window { kernel, stride, dilation: 1, pad_begin: kernel / 2, pad_end: kernel / 2 };
    let s = ConvShape::new(1, ci, co, groups, &[size, size], &[w, w]).expect("shape");
    let (x, weights, bias) = (noise(s.input_len()), noise(s.weights_len()), noise(co));
    let packed = ConvWeights::pack(pool.level(), &s, &weights).expect("pack");
    let mut out = vec![0.0; s.output_len()];
    let steps = [Step::bias_rows(&bias), Step::Unary(UnaryOp::Relu)];
    let t = time(|| conv_packed(pool, &s, &x, &packed, &mut out, Epilogue::new(&steps)).expect("conv"));
    let rate = s.flops() / 1e9 / t;
    println!(
        "{ci:5}->{co:5} {kernel}x{kernel}/{stride} on {size:3}: {rate:6.1} GFLOP/s ({:3.0}%) {:8.1} us {}",
        100.0 * rate / (peak * pool.threads() as f64),
        t * 1e6,
        packed.kernel_name()
    );
    t
}

fn convolutions(pool: &Pool, peak: f64) {
    println!("the convolutions of ResNet-50");
    // channels in and out, input size, kernel, stride, how often
    let shapes = [
        (3, 64, 224, 7, 2, 1),
        (64, 64, 56, 1, 1, 1),
        (64, 64, 56, 3, 1, 3),
        (64, 256, 56, 1, 1, 4),
        (256, 64, 56, 1, 1, 2),
        (256, 128, 56, 1, 1, 1),
        (128, 128, 56, 3, 2, 1),
        (128, 128, 28, 3, 1, 3),
        (128, 512, 28, 1, 1, 4),
        (512, 128, 28, 1, 1, 3),
        (256, 512, 56, 1, 2, 1),
        (512, 256, 28, 1, 1, 1),
        (256, 256, 28, 3, 2, 1),
        (256, 256, 14, 3, 1, 5),
        (256, 1024, 14, 1, 1, 6),
        (1024, 256, 14, 1, 1, 5),
        (512, 1024, 28, 1, 2, 1),
        (1024, 512, 14, 1, 1, 1),
        (512, 512, 14, 3, 2, 1),
        (512, 512, 7, 3, 1, 2),
        (512, 2048, 7, 1, 1, 3),
        (2048, 512, 7, 1, 1, 2),
        (1024, 2048, 14, 1, 2, 1),
    ];
    let total: f64 = shapes
        .iter()
        .map(|&(ci, co, size, kernel, stride, times)| {
            times as f64 * convolution(pool, peak, (ci, co, 1), size, kernel, stride)
        })
        .sum();
    println!("all of them: {:.2} ms", total * 1e3);
}

fn depthwise(pool: &Pool, peak: f64) {
    println!("the depthwise convolutions of MobileNetV2");
    let shapes = [
        (32, 112, 1, 1),
        (96, 112, 2, 1),
        (144, 56, 1, 1),
        (144, 56, 2, 1),
        (192, 28, 1, 2),
        (192, 28, 2, 1),
        (384, 14, 1, 4),
        (576, 14, 1, 2),
        (576, 14, 2, 1),
        (960, 7, 1, 3),
    ];
    let total: f64 = shapes
        .iter()
        .map(|&(c, size, stride, times)| times as f64 * convolution(pool, peak, (c, c, c), size, 3, stride))
        .sum();
    println!("all of them: {:.2} ms", total * 1e3);
}

fn maps(pool: &Pool) {
    println!("maps over 128 x 3072 floats: elements per nanosecond");
    let (rows, n) = (128, 3072);
    let (x, y) = (noise(rows * n), noise(rows * n));
    let mut out = vec![0.0; rows * n];
    let rate = |name: &str, t: f64| println!("{name:>12}: {:6.2}", (rows * n) as f64 / t / 1e9);
    for op in [
        UnaryOp::Relu,
        UnaryOp::Exp,
        UnaryOp::Log,
        UnaryOp::Sigmoid,
        UnaryOp::Tanh,
        UnaryOp::Gelu,
        UnaryOp::Silu(1.0),
        UnaryOp::HardSwish,
        UnaryOp::Round,
    ] {
        let t = time(|| unary_f32(pool, op, &x, &mut out).expect("unary"));
        rate(&format!("{op:?}"), t);
    }
    let dims = [rows, n];
    rate(
        "Add",
        time(|| binary_f32(pool, BinaryOp::Add, (&x, &dims), (&y, &dims), (&mut out, &dims)).expect("add")),
    );
    rate("softmax", time(|| softmax(pool, &x, [rows * 24, 128, 1], &mut out).expect("softmax")));
    rate("softmax axis", time(|| softmax(pool, &x, [rows, 24, 128], &mut out).expect("softmax")));
    let (scale, bias) = (noise(768), noise(768));
    let sizes = [rows * 4, 768];
    rate(
        "layer_norm",
        time(|| layer_norm(pool, &x, sizes, Some(&scale), Some(&bias), 1e-5, &mut out).expect("norm")),
    );
    let mut few = vec![0.0; rows * n / 64];
    rate("sum rows", time(|| reduce(pool, ReduceOp::Sum, &x, [rows, n, 1], &mut few[..rows]).expect("sum")));
    rate("max axis", time(|| reduce(pool, ReduceOp::Max, &x, [64, 64, 96], &mut few).expect("max")));
    rate("transpose", time(|| transpose(pool, &x, &[rows, n], &[1, 0], &mut out).expect("transpose")));
    rate("heads", time(|| transpose(pool, &x, &[rows, 48, 64], &[1, 0, 2], &mut out).expect("transpose")));
    let w = Window { kernel: 3, stride: 2, dilation: 1, pad_begin: 1, pad_end: 1 };
    let shape = PoolShape { planes: 31, input: [112, 112], output: [56, 56], windows: [w, w] };
    let x = &x[..31 * 112 * 112];
    rate(
        "max pool 3/2",
        time(|| pooling(pool, PoolOp::Max, &shape, x, &mut out[..31 * 56 * 56]).expect("pool")),
    );
}
