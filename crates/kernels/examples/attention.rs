//! Times attention of well-known models' sizes.
//!
//! `cargo run --release -p tensormill-kernels --example attention [1|2] [NAME]`: the cases that begin so.
//!
//! Each line: microseconds of one call and GFLOP/s of the two products, from the best of many calls.

#![allow(clippy::print_stdout)]

use std::time::Instant;
use tensormill_kernels::attention::{Heads, Mask, MaskValues, Scoring, Sizes, attention};
use tensormill_kernels::threads::Pool;

fn main() {
    let threads = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(1);
    let only = std::env::args().nth(2).unwrap_or_default();
    let Ok(pool) = Pool::new(threads) else { return };
    let cases = [
        ("minilm 128", 12, 128, 128, 32),
        ("bert 128", 12, 128, 128, 64),
        ("bert 130", 12, 130, 130, 64),
        ("bert 384", 12, 384, 384, 64),
        ("long 2048", 4, 2048, 2048, 64),
        ("wide 512", 8, 512, 512, 128),
        ("decode 128", 12, 1, 128, 64),
        ("decode 1024", 12, 1, 1024, 64),
        ("four 1024", 12, 4, 1024, 64),
    ];
    for (name, heads, queries, keys, size) in cases.into_iter().filter(|c| c.0.starts_with(&only)) {
        let width = heads * size;
        let x: Vec<f32> =
            (0..width * queries.max(keys)).map(|i| ((i * 7919) % 1021) as f32 / 510.0 - 1.0).collect();
        let mask = vec![0.0; queries * keys];
        let mut out = vec![0.0; width * queries];
        let sizes = Sizes { batch: 1, heads, kv_heads: heads, queries, keys, size, value_size: size };
        let operand = |rows: usize| Heads { data: &x, strides: [rows * width, size, width] };
        let mask = Mask { values: MaskValues::Added(&mask), strides: [0, 0, keys, 1], keys };
        let scoring = Scoring { scale: 0.125, softcap: 0.0, causal: None, blind_nan: true };
        let (q, k) = (operand(queries), operand(keys));
        let mut best = f64::INFINITY;
        let begin = Instant::now();
        while begin.elapsed().as_secs_f64() < 0.3 {
            let start = Instant::now();
            let strides = [queries * width, size, width];
            if let Err(e) = attention(&pool, sizes, q, k, k, Some(mask), scoring, &mut out, strides) {
                println!("{name}: {e}");
                return;
            }
            best = best.min(start.elapsed().as_secs_f64());
        }
        let flops = (4 * heads * queries * keys * size) as f64;
        println!("{name:12} {:9.1} us {:7.1} GFLOP/s", best * 1e6, flops / best * 1e-9);
    }
}
