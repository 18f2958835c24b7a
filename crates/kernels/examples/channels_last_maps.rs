//! Times the channels-last kernels that move more than they compute, on the shapes of well-known models.
//!
//! `cargo run --release -p tensormill-kernels --example channels_last [depthwise|pool|resize|convert] ..`
//!
//! Prints the best time of many, the bytes read and written per second, and for windows the
//! multiply-additions per second. The first line is the machine's own speed of copying.

#![allow(clippy::print_stdout)]

use std::time::Instant;
use tensormill_kernels::channels_last::convert::{copy_channels, from_planes, to_planes};
use tensormill_kernels::channels_last::depthwise::{DepthwiseWeights, depthwise};
use tensormill_kernels::channels_last::pool::{PoolShape, global_average, pool as pooling};
use tensormill_kernels::channels_last::resize::{resize_linear, resize_nearest};
use tensormill_kernels::conv::{ConvShape, Window};
use tensormill_kernels::elementwise::UnaryOp;
use tensormill_kernels::epilogue::{Epilogue, Step};
use tensormill_kernels::pool::PoolOp;
use tensormill_kernels::resize::Blend;
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

/// Floats that start on a cache line, as those of a session's buffers do.
struct Aligned {
    room: Vec<f32>,
    first: usize,
}

impl std::ops::Deref for Aligned {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.room[self.first..]
    }
}

impl std::ops::DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.room[self.first..]
    }
}

fn noise(n: usize) -> Aligned {
    let room = vec![0.0; n + 16];
    let first = room.as_ptr().align_offset(64);
    let mut data = Aligned { room, first };
    data.room.truncate(first + n);
    data.iter_mut().enumerate().for_each(|(i, x)| *x = ((i * 7919) % 1021) as f32 / 510.0 - 1.0);
    data
}

fn report(name: &str, seconds: f64, floats: usize) {
    println!("{name:>34}: {:8.1} us {:6.1} GB/s", seconds * 1e6, (4 * floats) as f64 / seconds / 1e9);
}

fn main() {
    let chosen: Vec<String> = std::env::args().skip(1).collect();
    let wants = |name: &str| chosen.is_empty() || chosen.iter().any(|c| c == name);
    for n in [1 << 16, 1 << 18, 1 << 20] {
        let (x, mut out) = (noise(n), noise(n));
        report(&format!("copy of {} KiB", n >> 8), time(|| out.copy_from_slice(&x)), 2 * n);
    }
    for threads in [1, 2] {
        let pool = Pool::new(threads).expect("threads");
        println!("--- {threads} thread(s), {}", pool.level().name());
        if wants("depthwise") {
            all_depthwise(&pool);
        }
        if wants("pool") {
            all_pools(&pool);
        }
        if wants("resize") {
            all_resizes(&pool);
        }
        if wants("convert") {
            all_conversions(&pool);
        }
    }
}

fn window(kernel: usize, stride: usize) -> Window {
    Window { kernel, stride, dilation: 1, pad_begin: kernel / 2, pad_end: kernel / 2 }
}

fn all_depthwise(pool: &Pool) {
    // channels, input size, kernel, stride, how often in MobileNetV2
    let shapes = [
        (32, 112, 3, 1, 1),
        (96, 112, 3, 2, 1),
        (144, 56, 3, 1, 1),
        (144, 56, 3, 2, 1),
        (192, 28, 3, 1, 2),
        (192, 28, 3, 2, 1),
        (384, 14, 3, 1, 4),
        (576, 14, 3, 1, 2),
        (576, 14, 3, 2, 1),
        (960, 7, 3, 1, 3),
        (240, 28, 5, 1, 0),
        (672, 14, 5, 2, 0),
        (72, 56, 5, 2, 0),
        (128, 28, 7, 1, 0),
    ];
    let mut total = 0.0;
    for (c, size, kernel, stride, times) in shapes {
        let w = window(kernel, stride);
        let s = ConvShape::new(1, c, c, c, &[size, size], &[w, w]).expect("shape");
        let (x, bias) = (noise(s.input_len()), noise(c));
        let weights = DepthwiseWeights::pack(pool.level(), &s, &noise(s.weights_len())).expect("pack");
        let mut out = noise(s.output_len());
        let steps = [Step::bias_columns(&bias), Step::Unary(UnaryOp::Clip(0.0, 6.0))];
        let t =
            time(|| depthwise(pool, &s, &x, &weights, &mut out, Epilogue::new(&steps)).expect("depthwise"));
        total += times as f64 * t;
        let name = format!("{kernel}x{kernel}/{stride} {c} of {size}, {:.0} GMAC/s", s.flops() / 2e9 / t);
        report(&name, t, s.input_len() + s.output_len());
    }
    println!("all of MobileNetV2: {:.3} ms", total * 1e3);
}

fn all_pools(pool: &Pool) {
    for (op, c, size, kernel, stride) in [
        (PoolOp::Max, 64, 112, 3, 2),
        (PoolOp::Max, 192, 71, 3, 2),
        (PoolOp::Average, 192, 35, 3, 1),
        (PoolOp::Average, 768, 17, 3, 1),
        (PoolOp::Max, 128, 20, 5, 1),
    ] {
        let w = window(kernel, stride);
        let to = w.positions(size).expect("window");
        let s = PoolShape { batch: 1, channels: c, input: [size; 2], output: [to; 2], windows: [w, w] };
        let (x, mut out) = (noise(size * size * c), noise(to * to * c));
        let t = time(|| pooling(pool, op, &s, &x, c, &mut out, c).expect("pool"));
        report(&format!("{op:?} {kernel}x{kernel}/{stride} {c} of {size}"), t, x.len() + out.len());
    }
    for (c, size) in [(2048, 7), (1280, 7), (96, 112)] {
        let (x, mut out) = (noise(size * size * c), noise(c));
        let t = time(|| global_average(pool, 1, size * size, c, &x, &mut out).expect("mean"));
        report(&format!("mean {c} of {size}"), t, x.len());
    }
}

fn all_resizes(pool: &Pool) {
    for (c, size, pitch) in [(256, 20, 768), (128, 40, 384), (64, 80, 64)] {
        let (x, mut out) = (noise(size * size * c), noise(4 * size * size * pitch));
        let near: Vec<usize> = (0..2 * size).map(|i| i / 2).collect();
        let line = |i: usize| Blend { low: i / 2, high: (i / 2 + 1).min(size - 1), weight: 0.25 };
        let blends: Vec<Blend> = (0..2 * size).map(line).collect();
        let from = [1, size, size, c];
        let t = time(|| resize_nearest(pool, &x, c, from, &near, &near, &mut out, pitch).expect("nearest"));
        report(&format!("nearest x2 {c} of {size} into {pitch}"), t, 5 * x.len());
        let t = time(|| resize_linear(pool, &x, c, from, &blends, &blends, &mut out, pitch).expect("linear"));
        report(&format!("linear x2 {c} of {size} into {pitch}"), t, 5 * x.len());
    }
}

fn all_conversions(pool: &Pool) {
    for (c, size) in [(3, 224), (64, 112), (256, 56), (144, 56), (128, 20), (384, 14), (2048, 7)] {
        let n = size * size;
        let (x, mut out) = (noise(n * c), noise(n * c));
        let t = time(|| from_planes(pool, &x, 1, c, n, &mut out, c).expect("from planes"));
        report(&format!("from planes {c} of {size}"), t, 2 * n * c);
        let t = time(|| to_planes(pool, &x, c, 1, c, n, &mut out, n).expect("to planes"));
        report(&format!("to planes {c} of {size}"), t, 2 * n * c);
    }
    for (c, size, pitch) in [(128, 40, 384), (48, 35, 256), (32, 160, 64)] {
        let n = size * size;
        let (x, mut out) = (noise(n * c), noise(n * pitch));
        let t = time(|| copy_channels(pool, &x, c, n, c, &mut out, pitch).expect("copy"));
        report(&format!("copy {c} of {size} into {pitch}"), t, 2 * n * c);
    }
}
