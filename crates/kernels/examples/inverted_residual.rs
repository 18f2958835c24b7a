//! Times MobileNetV2's inverted residuals as one step against the three kernels alone.
//!
//! `cargo run --release -p tensormill-kernels --example inverted_residual [1|2]`
//!
//! Both take turns in one process. Before each call some megabytes of other memory are read, so that weights
//! and input come from as far as they do in a whole model. Prints the best and the median of each.

#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::time::Instant;
use tensormill_kernels::channels_last::bands::{InvertedResidual, Product, inverted_residual};
use tensormill_kernels::channels_last::conv::{Algorithm, ConvWeights, conv};
use tensormill_kernels::channels_last::depthwise::{DepthwiseWeights, depthwise};
use tensormill_kernels::conv::{ConvShape, Window};
use tensormill_kernels::elementwise::UnaryOp;
use tensormill_kernels::epilogue::{Epilogue, Step};
use tensormill_kernels::threads::Pool;

fn noise(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919) % 1021) as f32 / 510.0 - 1.0).collect()
}

fn pointwise(size: usize, from: usize, to: usize) -> ConvShape {
    ConvShape::new(1, from, to, 1, &[size; 2], &[Window::new(1); 2]).expect("shape")
}

/// Best and median microseconds.
fn summary(mut seconds: Vec<f64>) -> (f64, f64) {
    seconds.sort_by(f64::total_cmp);
    (seconds[0] * 1e6, seconds[seconds.len() / 2] * 1e6)
}

fn main() {
    // channels of the input, expanded (0 for none), of the output, input size, stride, how often
    let blocks = [
        (32, 0, 16, 112, 1, 1),
        (16, 96, 24, 112, 2, 1),
        (24, 144, 24, 56, 1, 1),
        (24, 144, 32, 56, 2, 1),
        (32, 192, 32, 28, 1, 2),
        (32, 192, 64, 28, 2, 1),
        (64, 384, 64, 14, 1, 3),
        (64, 384, 96, 14, 1, 1),
        (96, 576, 96, 14, 1, 2),
        (96, 576, 160, 14, 2, 1),
        (160, 960, 160, 7, 1, 2),
        (160, 960, 320, 7, 1, 1),
    ];
    let chosen: Option<usize> = std::env::args().nth(1).and_then(|a| a.parse().ok());
    let other = noise(4 << 20);
    for threads in [1, 2] {
        if chosen.is_some_and(|c| c != threads) {
            continue;
        }
        let pool = Pool::new(threads).expect("threads");
        println!("--- {threads} thread(s), {}", pool.level().name());
        let mut totals = [0.0; 4];
        for (from, wide, to, size, stride, times) in blocks {
            let channels = if wide == 0 { from } else { wide };
            let w = Window { kernel: 3, stride, dilation: 1, pad_begin: 1, pad_end: 1 };
            let s = ConvShape::new(1, channels, channels, channels, &[size; 2], &[w; 2]).expect("shape");
            let (before, after) = (pointwise(size, from, channels), pointwise(size / stride, channels, to));
            let pack = |s: &ConvShape| {
                let weights = noise(s.flops() as usize / 2 / s.output()[1] / s.output()[0]);
                ConvWeights::pack(&pool, s, &weights, Algorithm::Direct).expect("pack")
            };
            let (p0, p2) = (pack(&before), pack(&after));
            let p1 = DepthwiseWeights::pack(pool.level(), &s, &noise(9 * channels)).expect("pack");
            let (b0, b2, x) = (noise(channels), noise(to), noise(from * size * size));
            let act = Step::Unary(UnaryOp::Clip(0.0, 6.0));
            let (inner, last) = ([Step::bias_columns(&b0), act], [Step::bias_columns(&b2)]);
            let (inner, last) = (Epilogue::new(&inner), Epilogue::new(&last));
            let mut expanded = vec![0.0; channels * size * size];
            let mut mid = vec![0.0; channels * (size / stride).pow(2)];
            let mut out = vec![0.0; to * (size / stride).pow(2)];
            let mut seen = [vec![], vec![]];
            let begin = Instant::now();
            while begin.elapsed().as_secs_f64() < 0.4 {
                for (which, seen) in seen.iter_mut().enumerate() {
                    black_box(other.iter().step_by(16).fold(0.0f32, |a, b| a + b));
                    let start = Instant::now();
                    if which == 0 {
                        let mut from_x = &x[..];
                        if wide != 0 {
                            conv(&pool, &before, &x, from, &p0, &mut expanded, channels, inner)
                                .expect("conv");
                            from_x = &expanded;
                        }
                        depthwise(&pool, &s, from_x, &p1, &mut mid, inner).expect("depthwise");
                        conv(&pool, &after, &mid, channels, &p2, &mut out, to, last).expect("conv");
                    } else {
                        let block = InvertedResidual {
                            expand: (wide != 0).then_some(Product { weights: &p0, epilogue: inner }),
                            shape: &s,
                            weights: &p1,
                            epilogue: inner,
                            project: Product { weights: &p2, epilogue: last },
                        };
                        inverted_residual(&pool, &block, &x, &mut out).expect("block");
                    }
                    seen.push(start.elapsed().as_secs_f64());
                }
            }
            let [(a, b), (c, d)] = seen.map(summary);
            totals.iter_mut().zip([a, b, c, d]).for_each(|(t, x)| *t += times as f64 * x);
            println!(
                "{from:4} {wide:4} {to:4} of {size:3}/{stride} x{times}: alone {a:7.1} ({b:7.1}), as one {c:7.1} ({d:7.1}) us, {:.2} times ({:.2})",
                a / c,
                b / d
            );
        }
        let [a, b, c, d] = totals.map(|t| t / 1e3);
        println!("all of them: alone {a:.2} ({b:.2}), as one {c:.2} ({d:.2}) ms");
    }
}
