//! Pooling against the channels-first kernel, which has a twin of its own, and against nested loops.

use super::*;
use crate::simd::Level;
use proptest::prelude::*;

fn noise(n: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919) % 1021) as f32 / 510.0 - 1.0).collect()
}

fn twin(op: PoolOp, s: &PoolShape, at: impl Fn(usize, usize, usize, usize) -> f32) -> Vec<f64> {
    let ([h, w], [wy, wx]) = (s.input, &s.windows);
    let place = |o: usize, k: usize, w: &Window| (o * w.stride + k * w.dilation) as i64 - w.pad_begin as i64;
    let mut out = Vec::new();
    for i in 0..s.batch * s.output[0] * s.output[1] * s.channels {
        let (c, ox) = (i % s.channels, i / s.channels % s.output[1]);
        let (oy, n) =
            (i / s.channels / s.output[1] % s.output[0], i / s.channels / s.output[1] / s.output[0]);
        let (mut top, mut sum, mut count) = (f64::NEG_INFINITY, 0.0, 0);
        for ky in 0..wy.kernel {
            for kx in 0..wx.kernel {
                let (y, x) = (place(oy, ky, wy), place(ox, kx, wx));
                let real = y >= 0 && y < h as i64 && x >= 0 && x < w as i64;
                if real {
                    let v = at(n, y as usize, x as usize, c) as f64;
                    sum += v;
                    top = if v.is_nan() || top.is_nan() { f64::NAN } else { top.max(v) };
                }
                let padded = y < (h + wy.pad_end) as i64 && x < (w + wx.pad_end) as i64;
                if real || op == PoolOp::AverageWithPad && padded {
                    count += 1;
                }
            }
        }
        out.push(match op {
            PoolOp::Max => top,
            _ if count == 0 => 0.0,
            _ => sum / count as f64,
        });
    }
    out
}

fn window() -> impl Strategy<Value = Window> {
    (1usize..6, 1usize..4, 1usize..3, 0usize..3, 0usize..3).prop_map(|(kernel, stride, dilation, b, e)| {
        Window { kernel, stride, dilation, pad_begin: b, pad_end: e }
    })
}

fn check(s: &PoolShape, more: [usize; 2], special: Option<f32>) {
    let [x_pitch, out_pitch] = more.map(|m| s.channels + m);
    let mut x = noise(s.batch * s.input[0] * s.input[1] * x_pitch);
    if let Some(v) = special {
        let middle = x.len() / 2;
        x.iter_mut().skip(middle).take(1).for_each(|x| *x = v);
    }
    let at =
        |n: usize, y: usize, xx: usize, c: usize| x[((n * s.input[0] + y) * s.input[1] + xx) * x_pitch + c];
    let pixels = s.batch * s.output[0] * s.output[1];
    let len = if pixels == 0 { 0 } else { (pixels - 1) * out_pitch + s.channels };
    for op in [PoolOp::Max, PoolOp::Average, PoolOp::AverageWithPad] {
        let want = twin(op, s, at);
        for level in Level::available() {
            let mut outs = Vec::new();
            for threads in [1, 3] {
                let threads = Pool::new(threads).unwrap().with_level(level);
                let mut out = vec![77.0; len];
                pool(&threads, op, s, &x, x_pitch, &mut out, out_pitch).unwrap();
                outs.push(out.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
                for (i, &g) in out.iter().enumerate() {
                    let (pixel, c) = (i / out_pitch, i % out_pitch);
                    if c >= s.channels {
                        assert_eq!(g, 77.0, "{s:?}: wrote between the pixels");
                        continue;
                    }
                    let e = want[pixel * s.channels + c];
                    let same = g as f64 == e || g.is_nan() && e.is_nan() || (g as f64 - e).abs() < 1e-5;
                    assert!(same, "{op:?} {s:?} {level:?} {i}: {g} for {e}");
                }
            }
            assert_eq!(outs[0], outs[1], "threads differ");
        }
    }
}

proptest! {
    #[test]
    fn pooling_matches_nested_loops(
        batch in 0usize..3, channels in 1usize..90, h in 5usize..12, w in 5usize..20, a in window(), b in window(),
        up in 0usize..2, more in [0usize..3, 0usize..3], special in 0usize..4,
    ) {
        let output = [a.positions(h).unwrap() + up, b.positions(w).unwrap() + up];
        let s = PoolShape { batch, channels, input: [h, w], output, windows: [a, b] };
        check(&s, more, [None, Some(f32::NAN), Some(f32::INFINITY), Some(f32::NEG_INFINITY)][special]);
    }

    #[test]
    fn averages_have_the_bits_of_the_channels_first_kernel(
        channels in 1usize..40, h in 5usize..9, w in 5usize..20, a in window(), b in window(),
    ) {
        let output = [a.positions(h).unwrap(), b.positions(w).unwrap()];
        let x = noise(h * w * channels);
        let planes: Vec<f32> = (0..x.len()).map(|i| x[i % (h * w) * channels + i / (h * w)]).collect();
        let s = PoolShape { batch: 1, channels, input: [h, w], output, windows: [a, b] };
        let p = crate::pool::PoolShape { planes: channels, input: [h, w], output, windows: [a, b] };
        let n = output[0] * output[1];
        for op in [PoolOp::Max, PoolOp::Average, PoolOp::AverageWithPad] {
            let (mut last, mut first) = (vec![0.0; n * channels], vec![0.0; n * channels]);
            pool(&Pool::serial(), op, &s, &x, channels, &mut last, channels).unwrap();
            crate::pool::pool(&Pool::serial(), op, &p, &planes, &mut first).unwrap();
            for i in 0..n * channels {
                prop_assert_eq!(last[i].to_bits(), first[i % channels * n + i / channels].to_bits());
            }
        }
    }

    #[test]
    fn global_averages(batch in 0usize..3, pixels in 1usize..400, channels in 0usize..150) {
        let x = noise(batch * pixels * channels);
        for level in Level::available() {
            let mut outs = Vec::new();
            for threads in [1, 3] {
                let pool = Pool::new(threads).unwrap().with_level(level);
                let mut out = vec![0.0; batch * channels];
                global_average(&pool, batch, pixels, channels, &x, &mut out).unwrap();
                for (i, &g) in out.iter().enumerate() {
                    let (n, c) = (i / channels, i % channels);
                    let own = (0..pixels).map(|p| x[(n * pixels + p) * channels + c] as f64);
                    let (sum, size) = own.fold((0.0, 0.0), |(s, z), x| (s + x, z + x.abs()));
                    // A sum in f32 rounds once for each of its terms, by half an epsilon of what is in it.
                    let bound = f32::EPSILON as f64 * (size + 1.0);
                    prop_assert!((g as f64 - sum / pixels as f64).abs() <= bound);
                }
                outs.push(out);
            }
            prop_assert_eq!(&outs[0], &outs[1]);
        }
    }
}

#[test]
fn parts_of_many_channels_are_all_done() {
    let w = Window { kernel: 3, stride: 1, dilation: 1, pad_begin: 1, pad_end: 1 };
    for channels in [63, 64, 65, 71, 128, 129, 200] {
        let s = PoolShape { batch: 1, channels, input: [4, 64], output: [4, 64], windows: [w, w] };
        check(&s, [0, 0], None);
        check(&s, [5, 3], Some(f32::NAN));
    }
}

#[test]
fn empties_and_misfits() {
    let pool1 = Pool::serial();
    let mut out = [7.0; 3];
    global_average(&pool1, 1, 0, 3, &[], &mut out).unwrap();
    assert!(out.iter().all(|x| x.is_nan()));
    assert!(global_average(&pool1, 1, 2, 3, &[0.0; 5], &mut out).is_err());
    let w = Window::new(2);
    let run = |bad: Window, x_pitch: usize, out_pitch: usize| {
        let s = PoolShape {
            batch: 1,
            channels: 2,
            input: [1, 4],
            output: [1, 3],
            windows: [Window::new(1), bad],
        };
        pool(&pool1, PoolOp::Max, &s, &[0.0; 8], x_pitch, &mut [0.0; 6], out_pitch)
    };
    assert!(run(w, 2, 2).is_ok());
    for (x_pitch, out_pitch) in [(1, 2), (2, 1), (3, 2), (2, 3), (usize::MAX, 2), (2, usize::MAX)] {
        assert!(run(w, x_pitch, out_pitch).is_err());
    }
    for bad in [
        Window { stride: 0, ..w },
        Window { kernel: 0, ..w },
        Window { dilation: 0, ..w },
        Window { kernel: 1 << 30, ..w },
        Window { pad_begin: usize::MAX, ..w },
    ] {
        assert!(run(bad, 2, 2).is_err(), "{bad:?}");
    }
    // No input at all: windows over padding alone.
    let s = PoolShape {
        batch: 1,
        channels: 3,
        input: [0, 0],
        output: [1, 1],
        windows: [Window { pad_begin: 1, ..Window::new(1) }; 2],
    };
    pool(&pool1, PoolOp::Max, &s, &[], 3, &mut out, 3).unwrap();
    assert_eq!(out, [f32::NEG_INFINITY; 3]);
    let vast = PoolShape { input: [0, 1 << 40], ..s };
    pool(&pool1, PoolOp::Max, &vast, &[], 3, &mut out, 3).unwrap();
    pool(&pool1, PoolOp::Average, &s, &[], 3, &mut out, 3).unwrap();
    assert_eq!(out, [0.0; 3]);
}
