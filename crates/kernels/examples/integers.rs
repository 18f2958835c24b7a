//! How fast products of bytes are, beside those of floats and beside what the processor can do.
//!
//! `cargo run --release -p tensormill-kernels --example integers [THREADS [INPUT_CHANNELS [CALM]]]`
//!
//! The larger CALM, the nearer the activation is to its zero point: 10 is like layers, 2 is like noise.

#![allow(clippy::print_stdout)]

use std::time::Instant;
use tensormill_kernels::channels_last::conv::{Algorithm, ConvWeights, conv as conv_f32};
use tensormill_kernels::conv::{ConvShape, Window};
use tensormill_kernels::epilogue::Epilogue;
use tensormill_kernels::quantized::{
    ByteMatrix, ByteWeights, Bytes, Order, Output, Quantized, Scaling,
    conv::conv,
    winograd::{self, Tiles, WinogradWeights},
};
use tensormill_kernels::threads::Pool;

fn least(mut f: impl FnMut()) -> f64 {
    let (mut best, start) = (f64::INFINITY, Instant::now());
    while start.elapsed().as_secs_f64() < 0.15 {
        let t = Instant::now();
        f();
        best = best.min(t.elapsed().as_secs_f64());
    }
    best
}

fn main() {
    let threads = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(1);
    let only: Option<usize> = std::env::args().nth(2).and_then(|a| a.parse().ok());
    let spread = std::env::args().nth(3).and_then(|a| a.parse().ok()).unwrap_or(10);
    let pool = Pool::new(threads).expect("threads");
    println!(
        "{:>28} {:>9} {:>9} {:>9} {:>9} {:>7}",
        "side, in, out, window, step", "int8", "tiles 2", "tiles 4", "f32", "ratio"
    );
    println!("{:>28} {:>9} {:>9} {:>9} {:>9}", "", "GMAC/s", "GMAC/s", "GMAC/s", "GMAC/s");
    for [side, from, to, k, stride] in [
        [224, 3, 64, 7, 2],
        [56, 64, 64, 1, 1],
        [56, 64, 64, 3, 1],
        [56, 64, 256, 1, 1],
        [56, 256, 64, 1, 1],
        [28, 128, 128, 3, 1],
        [28, 128, 512, 1, 1],
        [28, 512, 128, 1, 1],
        [14, 256, 256, 3, 1],
        [14, 256, 1024, 1, 1],
        [14, 1024, 256, 1, 1],
        [7, 512, 512, 3, 1],
        [7, 512, 2048, 1, 1],
        [7, 2048, 512, 1, 1],
        [14, 1024, 2048, 1, 2],
        [112, 32, 16, 1, 1],
        [56, 24, 144, 1, 1],
        [14, 64, 384, 1, 1],
        [14, 384, 64, 1, 1],
        [7, 960, 160, 1, 1],
    ] {
        if only.is_some_and(|c| c != from) {
            continue;
        }
        let pad = k / 2;
        let window = Window { kernel: k, stride, dilation: 1, pad_begin: pad, pad_end: pad };
        let shape = ConvShape::new(1, from, to, 1, &[side, side], &[window; 2]).expect("sizes");
        let macs = shape.flops() / 2.0;
        let outs = to * shape.output().iter().product::<usize>();
        // Both as layers have them: most numbers are nearer to zero than to the ends of the range.
        let noise = |i: usize| {
            let x = (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (x ^ x >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 56
        };
        let mean = |i: usize, of: usize| (0..of).map(|j| noise(of * i + j)).sum::<u64>() / of as u64;
        let w: Vec<u8> = (0..from * to * k * k).map(|i| mean(i, 3) as u8 ^ 0x80).collect();
        let x: Vec<u8> = (0..shape.input_len()).map(|i| mean(i, spread) as u8).collect();
        let (taps, strides) = (k * k, [1, k * k, k * k * from]);
        let matrix =
            ByteMatrix { data: &w, signed: true, taps, channels: from, columns: to, strides, zeros: &[] };
        let packed = ByteWeights::pack(&pool, &matrix).expect("packs");
        let scaling = Scaling { x_scale: 0.01, x_zero: 128, scales: &[0.01], bias: &[] };
        let mut out = vec![0u8; outs];
        let quantized = Quantized { scale: 0.1, zero: 128, signed: false };
        let bytes = least(|| {
            let output = Output::Bytes { out: &mut out, pitch: to, epilogue: Epilogue::NONE, to: quantized };
            let x = Bytes { data: &x, signed: false };
            conv(&pool, &shape, x, Order::Pixels(from), &packed, &scaling, output).expect("runs");
        });
        let in_tiles = [Tiles::Two, Tiles::Four].map(|tiles| {
            let window = k == 3 && stride == 1 && WinogradWeights::exact(tiles, &matrix);
            let packed = window.then(|| WinogradWeights::pack(&pool, tiles, &matrix).expect("packs"))?;
            Some(least(|| {
                let output =
                    Output::Bytes { out: &mut out, pitch: to, epilogue: Epilogue::NONE, to: quantized };
                let x = Bytes { data: &x, signed: false };
                winograd::conv(&pool, &shape, x, from, &packed, &scaling, output).expect("runs");
            }))
        });
        let wf: Vec<[u8; 4]> = (0..from * to * k * k).map(|i| ((i % 31) as f32).to_le_bytes()).collect();
        let xf = vec![1.0f32; shape.input_len()];
        let packed = ConvWeights::pack(&pool, &shape, &wf, Algorithm::Direct).expect("packs");
        let mut out = vec![0.0f32; outs];
        let floats = least(|| {
            conv_f32(&pool, &shape, &xf, from, &packed, &mut out, to, Epilogue::NONE).expect("runs");
        });
        let name = format!("{side}, {from}, {to}, {k}, {stride}");
        let speed = |seconds: Option<f64>| seconds.map_or("-".into(), |s| format!("{:.1}", macs / s / 1e9));
        println!(
            "{name:>28} {:>9} {:>9} {:>9} {:>9} {:>7.2}",
            speed(Some(bytes)),
            speed(in_tiles[0]),
            speed(in_tiles[1]),
            speed(Some(floats)),
            floats / bytes
        );
    }
}
