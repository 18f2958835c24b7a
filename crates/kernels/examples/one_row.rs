//! How fast products of a single row read their weights from memory, as in generating text word by word.
//!
//! `cargo run --release -p tensormill-kernels --example one_row [THREADS]`
//!
//! Each line: gigabytes of weights a second, in floats and in bytes, the best of many calls over weights that no
//! cache holds.

#![allow(clippy::print_stdout)]

use std::time::Instant;
use tensormill_kernels::channels_last::linear::{LinearWeights, Method, linear};
use tensormill_kernels::epilogue::Epilogue;
use tensormill_kernels::matmul::MatRef;
use tensormill_kernels::quantized::conv::linear as linear_of_bytes;
use tensormill_kernels::quantized::{ByteMatrix, ByteWeights, Bytes, Output, Scaling};
use tensormill_kernels::threads::Pool;

/// Bytes that are more than any cache.
const FAR: usize = 128 << 20;

fn rate<W>(all: &[W], bytes: usize, mut f: impl FnMut(&W)) -> f64 {
    let (mut best, start) = (f64::INFINITY, Instant::now());
    while start.elapsed().as_secs_f64() < 0.5 {
        let t = Instant::now();
        all.iter().for_each(&mut f);
        best = best.min(t.elapsed().as_secs_f64());
    }
    (all.len() * bytes) as f64 / best * 1e-9
}

fn main() {
    let threads = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(1);
    let pool = Pool::new(threads).expect("threads");
    // Sums of twelve are close to normally distributed, with a deviation of `spread`.
    let mut state = 12345u32;
    let mut normal = |spread: f32| {
        let sum: f32 = (0..12)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 24) as f32 - 0.5
            })
            .sum();
        (sum * spread).clamp(-127.0, 127.0)
    };
    println!("{:>20} {:>9} {:>9}", "depth, columns", "f32 GB/s", "int8 GB/s");
    for [depth, columns] in [[768, 768], [768, 2304], [768, 3072], [3072, 768], [768, 50257]] {
        let len = depth * columns;
        let floats: Vec<f32> = (0..len).map(|_| normal(40.0)).collect();
        let bytes: Vec<u8> = floats.iter().map(|&x| x as i8 as u8).collect();
        let pack = |_| {
            let matrix = MatRef::new(&floats, depth, columns, columns, 1).expect("a matrix");
            LinearWeights::pack(&pool, matrix).expect("packs")
        };
        let all: Vec<_> = (0..FAR / (4 * len) + 1).map(pack).collect();
        let (x, mut out) = (vec![0.5f32; depth], vec![0.0f32; columns]);
        let f32s = rate(&all, 4 * len, |w| {
            linear(&pool, Method::Direct, 1, &x, depth, w, &mut out, Epilogue::NONE).expect("runs");
        });
        drop(all);
        let matrix = ByteMatrix {
            data: &bytes,
            signed: true,
            taps: 1,
            channels: depth,
            columns,
            strides: [0, columns, 1],
            zeros: &[],
        };
        let all: Vec<_> =
            (0..FAR / len + 1).map(|_| ByteWeights::pack(&pool, &matrix).expect("packs")).collect();
        let x: Vec<u8> = (0..depth).map(|_| (128.0 + normal(35.0)) as u8).collect();
        let scaling = Scaling { x_scale: 0.01, x_zero: 128, scales: &[0.001], bias: &[] };
        let int8 = rate(&all, len, |w| {
            let output = Output::Floats { out: &mut out, pitch: columns, epilogue: Epilogue::NONE };
            let x = Bytes { data: &x, signed: false };
            linear_of_bytes(&pool, 1, x, depth, w, &scaling, output).expect("runs");
        });
        println!("{:>20} {f32s:>9.1} {int8:>9.1}", format!("{depth}, {columns}"));
    }
}
