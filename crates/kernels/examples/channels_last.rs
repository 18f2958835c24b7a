//! Times the channels-last convolutions of well-known models against the machine's own limit.
//!
//! `cargo run --release -p tensormill-kernels --example channels_last [resnet|mobilenet|inception|yolo] ..
//! [1|2] [direct|winograd|winograd2] [cold]`
//!
//! Each line: GFLOP/s and share of the peak, which is measured right before, so that a busy machine does
//! not distort the ratio much. Winograd's rate counts the multiplications that it saves. With `cold`, the
//! weights come from memory each time, as in a model whose weights exceed the caches.

#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::time::Instant;
use tensormill_kernels::channels_last::conv::{Algorithm, ConvWeights, Tiles, conv, conv_from_planes};
use tensormill_kernels::conv::{ConvShape, Window};
use tensormill_kernels::elementwise::UnaryOp;
use tensormill_kernels::epilogue::{Epilogue, Step};
use tensormill_kernels::threads::Pool;

/// Seconds of one call: the best of enough calls to fill some tens of milliseconds.
fn time(mut f: impl FnMut()) -> f64 {
    f();
    let mut best = f64::INFINITY;
    let begin = Instant::now();
    while begin.elapsed().as_secs_f64() < 0.05 {
        let start = Instant::now();
        f();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

/// GFLOP/s of a loop of independent multiply-adds in registers on one thread.
#[cfg(target_arch = "x86_64")]
fn peak() -> f64 {
    use std::arch::x86_64::*;
    const N: usize = 1 << 17;
    #[target_feature(enable = "avx512f")]
    fn wide(n: usize) -> f32 {
        let (a, b) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.001)));
        let mut acc = [_mm512_setzero_ps(); 24];
        for _ in 0..n {
            for i in 0..24 {
                acc[i] = _mm512_fmadd_ps(a, b, acc[i]);
            }
            // SAFETY: nothing runs; the compiler only may not merge the rounds.
            unsafe { std::arch::asm!("", options(nomem, nostack)) };
        }
        let mut sum = acc[0];
        for i in 1..24 {
            sum = _mm512_add_ps(sum, acc[i]);
        }
        _mm512_reduce_add_ps(sum)
    }
    #[target_feature(enable = "avx2,fma")]
    fn narrow(n: usize) -> f32 {
        let (a, b) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(0.001)));
        let mut acc = [_mm256_setzero_ps(); 12];
        for _ in 0..n {
            for i in 0..12 {
                acc[i] = _mm256_fmadd_ps(a, b, acc[i]);
            }
            // SAFETY: as above.
            unsafe { std::arch::asm!("", options(nomem, nostack)) };
        }
        let mut sum = acc[0];
        for i in 1..12 {
            sum = _mm256_add_ps(sum, acc[i]);
        }
        _mm_cvtss_f32(_mm256_castps256_ps128(sum))
    }
    match Pool::serial().level().name() {
        // SAFETY: the level says that the instructions are there.
        "avx512" => (N * 24 * 16 * 2) as f64 / time(|| _ = black_box(unsafe { wide(N) })) / 1e9,
        // SAFETY: as above.
        "avx2" => (N * 12 * 8 * 2) as f64 / time(|| _ = black_box(unsafe { narrow(N) })) / 1e9,
        _ => f64::NAN,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn peak() -> f64 {
    f64::NAN
}

/// Input and output channels, input height and width, kernel, stride, and how often a model has it.
type Layer = (usize, usize, [usize; 2], [usize; 2], usize, usize);

fn square(ci: usize, co: usize, size: usize, kernel: usize, stride: usize, times: usize) -> Layer {
    (ci, co, [size; 2], [kernel; 2], stride, times)
}

fn resnet() -> Vec<Layer> {
    [
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
    ]
    .map(|(ci, co, size, kernel, stride, times)| square(ci, co, size, kernel, stride, times))
    .to_vec()
}

fn mobilenet() -> Vec<Layer> {
    [
        (3, 32, 224, 3, 2, 1),
        (32, 16, 112, 1, 1, 1),
        (16, 96, 112, 1, 1, 1),
        (96, 24, 56, 1, 1, 1),
        (24, 144, 56, 1, 1, 2),
        (144, 24, 56, 1, 1, 1),
        (144, 32, 28, 1, 1, 1),
        (32, 192, 28, 1, 1, 3),
        (192, 32, 28, 1, 1, 2),
        (192, 64, 14, 1, 1, 1),
        (64, 384, 14, 1, 1, 4),
        (384, 64, 14, 1, 1, 3),
        (384, 96, 14, 1, 1, 1),
        (96, 576, 14, 1, 1, 3),
        (576, 96, 14, 1, 1, 2),
        (576, 160, 7, 1, 1, 1),
        (160, 960, 7, 1, 1, 3),
        (960, 160, 7, 1, 1, 2),
        (960, 320, 7, 1, 1, 1),
        (320, 1280, 7, 1, 1, 1),
    ]
    .map(|(ci, co, size, kernel, stride, times)| square(ci, co, size, kernel, stride, times))
    .to_vec()
}

fn inception() -> Vec<Layer> {
    vec![
        square(3, 32, 299, 3, 2, 1),
        square(32, 32, 149, 3, 1, 1),
        square(32, 64, 147, 3, 1, 1),
        square(64, 80, 73, 1, 1, 1),
        square(80, 192, 73, 3, 1, 1),
        square(192, 64, 35, 1, 1, 2),
        square(48, 64, 35, 5, 1, 3),
        square(64, 96, 35, 3, 1, 4),
        square(96, 96, 35, 3, 1, 3),
        square(288, 64, 35, 1, 1, 4),
        square(288, 384, 35, 3, 2, 1),
        square(768, 192, 17, 1, 1, 12),
        (128, 128, [17; 2], [1, 7], 1, 2),
        (128, 128, [17; 2], [7, 1], 1, 2),
        (160, 160, [17; 2], [1, 7], 1, 4),
        (160, 192, [17; 2], [7, 1], 1, 4),
        (192, 192, [17; 2], [1, 7], 1, 4),
        (192, 192, [17; 2], [7, 1], 1, 4),
        square(192, 320, 17, 3, 2, 1),
        square(1280, 320, 8, 1, 1, 1),
        square(2048, 384, 8, 1, 1, 2),
        square(2048, 448, 8, 1, 1, 1),
        square(448, 384, 8, 3, 1, 2),
        (384, 384, [8; 2], [1, 3], 1, 4),
        (384, 384, [8; 2], [3, 1], 1, 4),
    ]
}

fn yolo() -> Vec<Layer> {
    [
        (3, 16, 640, 3, 2, 1),
        (16, 32, 320, 3, 2, 1),
        (32, 32, 160, 1, 1, 1),
        (16, 16, 160, 3, 1, 2),
        (48, 32, 160, 1, 1, 1),
        (32, 64, 160, 3, 2, 1),
        (64, 64, 80, 1, 1, 1),
        (32, 32, 80, 3, 1, 6),
        (128, 64, 80, 1, 1, 1),
        (64, 128, 80, 3, 2, 1),
        (64, 64, 40, 3, 1, 8),
        (256, 128, 40, 1, 1, 2),
        (128, 256, 40, 3, 2, 1),
        (128, 128, 20, 3, 1, 6),
        (256, 256, 20, 1, 1, 2),
        (512, 256, 20, 1, 1, 2),
        (64, 64, 80, 3, 1, 2),
        (64, 80, 80, 3, 1, 1),
        (80, 80, 80, 3, 1, 1),
        (80, 80, 40, 3, 1, 1),
        (80, 80, 80, 1, 1, 1),
    ]
    .map(|(ci, co, size, kernel, stride, times)| square(ci, co, size, kernel, stride, times))
    .to_vec()
}

/// Times one layer with bias and activation; returns seconds.
fn layer(
    pool: &Pool,
    peak: f64,
    l: Layer,
    activation: UnaryOp,
    algorithm: Option<Algorithm>,
    cold: bool,
) -> f64 {
    let (ci, co, size, kernel, stride, times) = l;
    let window = |k: usize| Window { kernel: k, stride, dilation: 1, pad_begin: k / 2, pad_end: k / 2 };
    let s = ConvShape::new(1, ci, co, 1, &size, &kernel.map(window)).expect("shape");
    let noise = |n: usize| (0..n).map(|i| ((i * 7919) % 1021) as f32 / 510.0 - 1.0).collect::<Vec<_>>();
    let (x, weights, bias) = (noise(s.input_len()), noise(s.weights_len()), noise(co));
    let algorithm = algorithm.unwrap_or_else(|| Algorithm::pick(pool.level(), &s));
    let start = Instant::now();
    let packed = ConvWeights::pack(pool, &s, &weights, algorithm).expect("pack");
    let packing = start.elapsed().as_secs_f64();
    let copies = if cold { (96 << 20) / packed.bytes() + 1 } else { 1 };
    // A clone would share its memory.
    let again = || ConvWeights::pack(pool, &s, &weights, algorithm).expect("pack");
    let packed: Vec<_> = std::iter::once(packed).chain((1..copies).map(|_| again())).collect();
    let mut turn = 0;
    let mut out = vec![0.0; s.output_len()];
    let steps = [Step::bias_columns(&bias), Step::Unary(activation)];
    let epilogue = Epilogue::new(&steps);
    let t = time(|| {
        turn = (turn + 1) % copies;
        let packed = &packed[turn];
        if ci <= 4 {
            conv_from_planes(pool, &s, &x, packed, &mut out, co, epilogue).expect("conv");
        } else {
            conv(pool, &s, &x, ci, packed, &mut out, co, epilogue).expect("conv");
        }
    });
    let rate = s.flops() / 1e9 / t;
    println!(
        "{ci:5}->{co:5} {}x{}/{stride} on {:3} x{times:2}: {rate:6.1} GFLOP/s ({:5.1}%) {:8.1} us {}, packed in {:.1} ms",
        kernel[0],
        kernel[1],
        size[0],
        100.0 * rate / (peak * pool.threads() as f64),
        t * 1e6,
        packed[0].kernel_name(),
        packing * 1e3
    );
    t * times as f64
}

fn main() {
    let chosen: Vec<String> = std::env::args().skip(1).collect();
    let named = |name: &str| chosen.iter().any(|c| c == name);
    let families: [(&str, Vec<Layer>, UnaryOp); 4] = [
        ("resnet", resnet(), UnaryOp::Relu),
        ("mobilenet", mobilenet(), UnaryOp::Clip(0.0, 6.0)),
        ("inception", inception(), UnaryOp::Relu),
        ("yolo", yolo(), UnaryOp::Silu(1.0)),
    ];
    let all_families = !families.iter().any(|f| named(f.0));
    let algorithms = [
        ("direct", Algorithm::Direct),
        ("winograd2", Algorithm::Winograd(Tiles::Two)),
        ("winograd", Algorithm::Winograd(Tiles::Four)),
    ];
    let algorithm = algorithms.into_iter().find(|a| named(a.0)).map(|a| a.1);
    for threads in [1, 2] {
        if (named("1") || named("2")) && !named(&threads.to_string()) {
            continue;
        }
        let pool = Pool::new(threads).expect("threads");
        for (name, layers, activation) in &families {
            if !all_families && !named(name) {
                continue;
            }
            println!("--- {name}, {threads} thread(s), {}", pool.level().name());
            let (mut total, mut ideal) = (0.0, 0.0);
            for &l in layers {
                let three = l.3 == [3, 3] && l.4 == 1;
                if matches!(algorithm, Some(Algorithm::Winograd(_))) && !three {
                    continue;
                }
                let peak = peak();
                let t = layer(&pool, peak, l, *activation, algorithm, named("cold"));
                let out: usize = l.2.iter().map(|s| s.div_ceil(l.4)).product();
                let flops = 2.0 * (out * l.0 * l.1 * l.3[0] * l.3[1] * l.5) as f64;
                total += t;
                ideal += flops / 1e9 / (peak * threads as f64);
            }
            println!("all of them: {:.2} ms, {:.1}% of the peak", total * 1e3, 100.0 * ideal / total);
        }
    }
}
