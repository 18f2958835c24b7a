//! Measures what the machine could do at best, and prints it as one JSON object: multiply-adds that stay in
//! registers, and memory that is read once, for one thread and for as many as are named.
//!
//! `cargo run --release -p tensormill-kernels --example limits -- [THREADS ..]`

#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// How long one measurement lasts. Of several the best counts: whatever else runs can only slow them down.
const SLICE: Duration = Duration::from_millis(60);
const SLICES: usize = 8;
/// Multiply-adds between two looks at the clock, in rounds over all accumulators.
const ROUNDS: usize = 1 << 16;
/// Bytes that all threads read together: several times what the caches of a large server hold.
const MEMORY: usize = 1 << 30;

/// An instruction set and what a call of its loop does.
struct Level {
    name: &'static str,
    /// Runs `ROUNDS` rounds.
    work: fn() -> f32,
    /// Floating-point operations of one call.
    flops: f64,
}

#[cfg(target_arch = "x86_64")]
fn levels() -> Vec<Level> {
    use std::arch::x86_64::*;
    /// Enough independent sums to hide the latency of any multiply-add there is, and few enough for
    /// the registers.
    const SUMS: usize = 12;

    #[target_feature(enable = "avx512f")]
    fn avx512() -> f32 {
        let (a, b) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.001)));
        let mut sums = [_mm512_set1_ps(black_box(1.0)); SUMS];
        for _ in 0..ROUNDS {
            for s in &mut sums {
                *s = _mm512_fmadd_ps(*s, a, b);
            }
        }
        sums.iter().map(|&s| _mm512_reduce_add_ps(s)).sum()
    }

    #[target_feature(enable = "avx2,fma")]
    fn avx2() -> f32 {
        let (a, b) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(0.001)));
        let mut sums = [_mm256_set1_ps(black_box(1.0)); SUMS];
        for _ in 0..ROUNDS {
            for s in &mut sums {
                *s = _mm256_fmadd_ps(*s, a, b);
            }
        }
        sums.iter().map(|&s| _mm256_cvtss_f32(s)).sum()
    }

    let flops = |lanes: usize| (ROUNDS * SUMS * lanes * 2) as f64;
    let mut levels = vec![];
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the instructions were just detected.
        levels.push(Level { name: "avx512", work: || unsafe { avx512() }, flops: flops(16) });
    }
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: the instructions were just detected.
        levels.push(Level { name: "avx2", work: || unsafe { avx2() }, flops: flops(8) });
    }
    levels
}

#[cfg(target_arch = "aarch64")]
fn levels() -> Vec<Level> {
    const SUMS: usize = 24;
    // Every 64-bit Arm processor has these instructions.
    fn neon() -> f32 {
        use std::arch::aarch64::*;
        // SAFETY: the instructions are part of the target.
        unsafe {
            let (a, b) = (vdupq_n_f32(black_box(0.999)), vdupq_n_f32(black_box(0.001)));
            let mut sums = [vdupq_n_f32(black_box(1.0)); SUMS];
            for _ in 0..ROUNDS {
                for s in &mut sums {
                    *s = vfmaq_f32(b, *s, a);
                }
            }
            sums.iter().map(|&s| vaddvq_f32(s)).sum()
        }
    }
    vec![Level { name: "neon", work: neon, flops: (ROUNDS * SUMS * 4 * 2) as f64 }]
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn levels() -> Vec<Level> {
    vec![]
}

/// Units per second that `threads` threads do together when each repeats its work, which returns the units
/// of one call, until the time is up: the best of several slices.
fn rate<W: FnMut() -> f64 + Send>(threads: usize, make: impl Fn(usize) -> W) -> f64 {
    let mut works: Vec<W> = (0..threads).map(make).collect();
    let mut best = 0f64;
    for _ in 0..SLICES {
        let start = Barrier::new(threads);
        let total: f64 = std::thread::scope(|scope| {
            let running: Vec<_> = works
                .iter_mut()
                .map(|work| {
                    let start = &start;
                    scope.spawn(move || {
                        start.wait();
                        let (begin, mut done) = (Instant::now(), 0.0);
                        while begin.elapsed() < SLICE {
                            done += work();
                        }
                        done / begin.elapsed().as_secs_f64()
                    })
                })
                .collect();
            running.into_iter().map(|t| t.join().expect("a measuring thread")).sum()
        });
        best = best.max(total);
    }
    best
}

/// The sum of all words: every byte is read, and nothing is written.
fn read(words: &[u64]) -> u64 {
    // Eight sums that do not wait for each other.
    let mut sums = [0u64; 8];
    for chunk in words.chunks_exact(8) {
        for (s, w) in sums.iter_mut().zip(chunk) {
            *s = s.wrapping_add(*w);
        }
    }
    sums.iter().fold(0, |a, b| a.wrapping_add(*b))
}

/// Gigabytes per second that `threads` threads read from memory together.
fn bandwidth(threads: usize) -> f64 {
    /// Bytes between two looks at the clock.
    const STEP: usize = 1 << 23;
    rate(threads, |_| {
        // Not zeros: pages of zeros could all be one.
        let words: Vec<u64> = (0..MEMORY / 8 / threads).map(|i| i as u64 | 1).collect();
        let mut at = 0;
        move || {
            let part = &words[at..(at + STEP / 8).min(words.len())];
            at = if at + STEP / 8 >= words.len() { 0 } else { at + STEP / 8 };
            black_box(read(part));
            (part.len() * 8) as f64
        }
    }) / 1e9
}

fn main() {
    let named = std::env::args().skip(1).filter_map(|a| a.parse::<usize>().ok());
    let mut counts = vec![1];
    counts.extend(named.filter(|n| (2..=1024).contains(n)));
    if counts.len() == 1 {
        let all = std::thread::available_parallelism().map_or(1, usize::from);
        counts.extend((all > 1).then_some(all));
    }
    let mut rows = vec![];
    for &threads in &counts {
        let mut rates = vec![];
        for level in levels() {
            let gflops = rate(threads, |_| {
                || {
                    black_box((level.work)());
                    level.flops
                }
            }) / 1e9;
            rates.push(format!("\"{}\":{gflops:.1}", level.name));
        }
        let read = bandwidth(threads);
        rows.push(format!(
            "{{\"threads\":{threads},\"multiply_add_gflops\":{{{}}},\"read_gbs\":{read:.2}}}",
            rates.join(",")
        ));
    }
    println!("{{\"limits\":[{}]}}", rows.join(","));
}
