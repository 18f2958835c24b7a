//! How fast kernels of bytes are that are no products: depthwise convolutions, sums, pools, and what lies between
//! bytes and real numbers.
//!
//! `cargo run --release -p tensormill-kernels --example bytes [THREADS]`

#![allow(clippy::print_stdout)]

use std::time::Instant;
use tensormill_kernels::channels_last::depthwise::{DepthwiseWeights, depthwise as depthwise_f32};
use tensormill_kernels::channels_last::pool::PoolShape;
use tensormill_kernels::conv::{ConvShape, Window};
use tensormill_kernels::epilogue::Epilogue;
use tensormill_kernels::quantized::depthwise::{ByteDepthwise, depthwise};
use tensormill_kernels::quantized::elementwise::{Both, Real, binary, dequantize, quantize, range};
use tensormill_kernels::quantized::pool::max_pool;
use tensormill_kernels::quantized::{Bytes, Output, Quantized, Scaling};
use tensormill_kernels::threads::Pool;

fn least(mut f: impl FnMut()) -> f64 {
    let (mut best, start) = (f64::INFINITY, Instant::now());
    while start.elapsed().as_secs_f64() < 0.1 {
        let t = Instant::now();
        f();
        best = best.min(t.elapsed().as_secs_f64());
    }
    best
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| ((i * 31) >> 3) as u8).collect()
}

fn main() {
    let threads = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(1);
    let pool = Pool::new(threads).expect("threads");
    depthwises(&pool);
    others(&pool);
}

fn depthwises(pool: &Pool) {
    println!("{:>28} {:>9} {:>9} {:>9}", "depthwise side, channels,", "int8", "int8", "f32");
    println!("{:>28} {:>9} {:>9} {:>9}", "window, step", "us", "ns a sum", "us");
    let quantized = Quantized { scale: 0.1, zero: 0, signed: false };
    for [side, channels, k, stride] in [
        [112, 32, 3, 1],
        [112, 96, 3, 2],
        [56, 144, 3, 1],
        [56, 144, 3, 2],
        [28, 192, 3, 1],
        [28, 192, 3, 2],
        [14, 384, 3, 1],
        [14, 576, 3, 1],
        [14, 576, 3, 2],
        [7, 960, 3, 1],
        [28, 240, 5, 1],
        [14, 672, 5, 2],
    ] {
        let pad = k / 2;
        let window = Window { kernel: k, stride, dilation: 1, pad_begin: pad, pad_end: pad };
        let shape =
            ConvShape::new(1, channels, channels, channels, &[side, side], &[window; 2]).expect("sizes");
        let w: Vec<f32> = bytes(shape.weights_len()).iter().map(|&w| f32::from(w as i8)).collect();
        let packed = ByteDepthwise::pack(pool.level(), &shape, &w).expect("packs");
        let scales = vec![0.001; channels];
        let scaling = Scaling { x_scale: 0.01, x_zero: 3, scales: &scales, bias: &scales };
        let (x, mut out) = (bytes(shape.input_len()), vec![0u8; shape.output_len()]);
        let int8 = least(|| {
            let output =
                Output::Bytes { out: &mut out, pitch: channels, epilogue: Epilogue::NONE, to: quantized };
            let x = Bytes { data: &x, signed: false };
            depthwise(pool, &shape, x, &packed, &scaling, output).expect("runs");
        });
        let packed = DepthwiseWeights::pack(pool.level(), &shape, &w).expect("packs");
        let (x, mut out) = (vec![1.0f32; shape.input_len()], vec![0.0f32; shape.output_len()]);
        let floats = least(|| {
            depthwise_f32(pool, &shape, &x, &packed, &mut out, Epilogue::NONE).expect("runs");
        });
        println!(
            "{:>28} {:>9.1} {:>9.3} {:>9.1}",
            format!("{side}, {channels}, {k}, {stride}"),
            int8 * 1e6,
            int8 * 1e9 / out.len() as f64,
            floats * 1e6
        );
    }
}

fn others(pool: &Pool) {
    println!("{:>28} {:>9} {:>9}", "others", "us", "ns each");
    let print = |name: &str, time: f64, each: usize| {
        println!("{name:>28} {:>9.1} {:>9.3}", time * 1e6, time * 1e9 / each as f64);
    };
    let to = Quantized { scale: 0.1, zero: 128, signed: false };
    for len in [256 * 56 * 56, 512 * 28 * 28, 24 * 56 * 56] {
        let (a, b, mut out) = (bytes(len), bytes(len), vec![0u8; len]);
        let real = |data, scale| Real { x: Bytes { data, signed: false }, scale, zero: 7 };
        for (name, kind) in [("add", Both::Add), ("mul", Both::Mul)] {
            let time = least(|| {
                binary(pool, kind, real(&a, 0.02), real(&b, 0.03), true, to, &mut out).expect("runs");
            });
            print(&format!("{name} {len}"), time, len);
        }
    }
    for [side, channels, k, stride] in [[112, 64, 3, 2], [20, 128, 5, 1]] {
        let pad = k / 2;
        let windows = [Window { kernel: k, stride, dilation: 1, pad_begin: pad, pad_end: pad }; 2];
        let (input, output) = ([side; 2], [side.div_ceil(stride); 2]);
        let shape = PoolShape { batch: 1, channels, input, output, windows };
        let x = bytes(channels * side * side);
        let mut out = vec![0u8; channels * output[0] * output[1]];
        let time =
            least(|| max_pool(pool, &shape, Bytes { data: &x, signed: false }, &mut out).expect("runs"));
        print(&format!("pool {side}, {channels}, {k}, {stride}"), time, out.len());
    }
    for len in [128 * 384, 128 * 1536, 3 * 224 * 224] {
        let x: Vec<f32> = (0..len).map(|i| (i % 1000) as f32 * 0.01 - 5.0).collect();
        let (mut out, mut back) = (vec![0u8; len], vec![0f32; len]);
        print(&format!("quantize {len}"), least(|| quantize(pool, &x, to, &mut out).expect("runs")), len);
        let time = least(|| {
            range(pool, &x);
        });
        print(&format!("range {len}"), time, len);
        let time = least(|| {
            let x = Real { x: Bytes { data: &out, signed: false }, scale: 0.1, zero: 3 };
            dequantize(pool, x, &mut back).expect("runs");
        });
        print(&format!("dequantize {len}"), time, len);
    }
}
