use super::*;
use crate::conv::Window;
use crate::elementwise::{BinaryOp, UnaryOp};
use crate::epilogue::{Operand, Step};
use proptest::prelude::*;

fn noise(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| (((i + seed) * 7919) % 1021) as f32 / 510.0 - 1.0).collect()
}

/// The sums and the sums of absolute products, `[pixels, out_channels]`.
fn twin(s: &ConvShape, x: &[f32], pitch: usize, w: &[f32]) -> Vec<(f64, f64)> {
    let ([_, h, width], [_, oh, ow], [_, kh, kw]) = (s.input, s.output, s.kernel);
    let mut out = Vec::new();
    for pixel in 0..s.batch * oh * ow {
        let (n, oy, ox) = (pixel / ow / oh, pixel / ow % oh, pixel % ow);
        for o in 0..s.out_channels {
            let (mut sum, mut size) = (0.0, 0.0);
            for (ky, kx) in (0..kh).flat_map(|ky| (0..kw).map(move |kx| (ky, kx))) {
                let y = (oy * s.strides[1] + ky * s.dilations[1]) as isize - s.pads[1] as isize;
                let at = (ox * s.strides[2] + kx * s.dilations[2]) as isize - s.pads[2] as isize;
                if y < 0 || at < 0 || y >= h as isize || at >= width as isize {
                    continue;
                }
                let start = ((n * h + y as usize) * width + at as usize) * pitch;
                for c in 0..s.in_channels {
                    let w = w[((o * s.in_channels + c) * kh + ky) * kw + kx];
                    let product = x[start + c] as f64 * w as f64;
                    sum += product;
                    size += product.abs();
                }
            }
            out.push((sum, size));
        }
    }
    out
}

fn planes(s: &ConvShape, x: &[f32], pitch: usize) -> Vec<f32> {
    let (c, plane) = (s.in_channels, s.plane());
    (0..s.input_len()).map(|i| x[(i / plane / c * plane + i % plane) * pitch + i / plane % c]).collect()
}

/// Runs all levels and thread counts and compares with the twin; gaps between pixels stay as they were.
fn check(
    s: &ConvShape,
    gaps: [usize; 2],
    steps: &[Step<'_>],
    algorithm: Algorithm,
    bound: f64,
    after: impl Fn(f64, usize, usize) -> f64,
) {
    let (x_pitch, out_pitch) = (s.in_channels + gaps[0], s.out_channels + gaps[1]);
    let pixels = s.batch * s.positions();
    let len = |pixels: usize, channels: usize, pitch: usize| match pixels.min(channels) {
        0 => 0,
        _ => (pixels - 1) * pitch + channels,
    };
    let x = noise(len(s.batch * s.plane(), s.in_channels, x_pitch), 1);
    let w = noise(s.weights_len(), 5);
    let want = twin(s, &x, x_pitch, &w);
    let planes = planes(s, &x, x_pitch);
    const GAP: f32 = -77.0;
    for level in Level::available() {
        let mut first: Option<Vec<u32>> = None;
        for threads in [1, 3] {
            let pool = Pool::new(threads).unwrap().with_level(level);
            let weights = ConvWeights::pack(&pool, s, &w, algorithm).unwrap();
            for from_planes in [false, true] {
                let mut out = vec![GAP; len(pixels, s.out_channels, out_pitch)];
                let epilogue = Epilogue::new(steps);
                if from_planes {
                    conv_from_planes(&pool, s, &planes, &weights, &mut out, out_pitch, epilogue).unwrap();
                } else {
                    conv(&pool, s, &x, x_pitch, &weights, &mut out, out_pitch, epilogue).unwrap();
                }
                for (i, &got) in out.iter().enumerate() {
                    let (pixel, channel) = (i / out_pitch, i % out_pitch);
                    if channel >= s.out_channels {
                        assert_eq!(got, GAP, "written between pixels");
                        continue;
                    }
                    let (sum, size) = match (want[pixel * s.out_channels + channel], algorithm) {
                        ((sum, _), Algorithm::Winograd(_)) => (sum, s.depth() as f64),
                        (both, Algorithm::Direct) => both,
                    };
                    let e = after(sum, pixel, channel);
                    let near = (got as f64 - e).abs() <= bound * (size + e.abs() + 1.0);
                    assert!(near, "{s:?} {level:?} {from_planes}: {pixel}, {channel} is {got}, not {e}");
                }
                let bits: Vec<u32> = out.iter().map(|x| x.to_bits()).collect();
                match &first {
                    Some(first) => assert!(*first == bits, "{s:?} {level:?} {threads} {from_planes}"),
                    None => first = Some(bits),
                }
            }
        }
    }
}

/// Bias, residual and activation, all at once in registers, or partly afterwards.
fn check_all(s: &ConvShape, gaps: [usize; 2], algorithm: Algorithm, bound: f64) {
    let pixels = s.batch * s.positions();
    // Where the output's pixels lie apart, so do the residual's.
    let columns = s.out_channels + gaps[1];
    let (bias, data) = (noise(s.out_channels, 3), noise(pixels * columns, 11));
    let residual = &data[..(pixels * columns).saturating_sub(gaps[1])];
    let operand = match gaps[1] {
        0 => Operand::Full(residual),
        _ => Operand::Pitched { data: residual, pitch: columns },
    };
    let rest = Step::Binary { op: BinaryOp::Add, operand, reversed: false };
    let rows = noise(pixels, 13);
    let sum = |x: f64, p: usize, c: usize| x + bias[c] as f64 + residual[p * columns + c] as f64;
    check(s, gaps, &[], algorithm, bound, |x, _, _| x);
    let steps = [Step::bias_columns(&bias), rest, Step::Unary(UnaryOp::Relu)];
    check(s, gaps, &steps, algorithm, bound, |x, p, c| sum(x, p, c).max(0.0));
    let steps = [Step::bias_columns(&bias), Step::Unary(UnaryOp::Clip(0.0, 0.5))];
    check(s, gaps, &steps, algorithm, bound, |x, _, c| (x + bias[c] as f64).clamp(0.0, 0.5));
    let steps = [Step::Unary(UnaryOp::Silu(1.0)), rest, Step::bias_rows(&rows)];
    check(s, gaps, &steps, algorithm, bound, |x, p, c| {
        x / (1.0 + (-x).exp()) + residual[p * columns + c] as f64 + rows[p] as f64
    });
    let negated = Step::Binary { op: BinaryOp::Sub, operand: Operand::Scalar(0.25), reversed: true };
    let steps = [Step::Unary(UnaryOp::Relu), rest, negated];
    check(s, gaps, &steps, algorithm, bound, |x, p, c| {
        0.25 - (x.max(0.0) + residual[p * columns + c] as f64)
    });
    let scale = Step::Binary { op: BinaryOp::Mul, operand: Operand::PerColumn(&bias), reversed: false };
    let steps = [scale, Step::Unary(UnaryOp::Clip(-0.5, 0.25)), Step::bias_columns(&bias)];
    check(s, gaps, &steps, algorithm, bound, |x, _, c| {
        (x * bias[c] as f64).clamp(-0.5, 0.25) + bias[c] as f64
    });
}

/// A few roundings of each product, far below the sizes that the tests use.
const DIRECT: f64 = 4e-6;

fn window() -> impl Strategy<Value = Window> {
    (1usize..5, 1usize..4, 1usize..4, 0usize..4, 0usize..4).prop_map(|(kernel, stride, dilation, b, e)| {
        Window { kernel, stride, dilation, pad_begin: b, pad_end: e }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn direct_matches_nested_loops(
        batch in 1usize..3, ci in 1usize..21, co in 1usize..70,
        axes in prop::collection::vec((0usize..12, window()), 1..3), gaps in [0usize..3, 0usize..3],
    ) {
        let (input, windows): (Vec<usize>, Vec<Window>) = axes.into_iter().unzip();
        let s = ConvShape::new(batch, ci, co, 1, &input, &windows).unwrap();
        check_all(&s, gaps, Algorithm::Direct, DIRECT);
    }
}

fn square(batch: usize, ci: usize, co: usize, size: usize, kernel: usize, stride: usize) -> ConvShape {
    let w = Window { kernel, stride, dilation: 1, pad_begin: kernel / 2, pad_end: kernel / 2 };
    ConvShape::new(batch, ci, co, 1, &[size, size], &[w, w]).unwrap()
}

#[test]
fn shapes_of_real_layers() {
    for s in [
        square(1, 3, 16, 33, 7, 2),
        square(1, 40, 48, 20, 3, 1),
        square(2, 300, 33, 7, 3, 1),
        square(1, 1024, 40, 7, 1, 1),
        square(1, 64, 96, 14, 1, 2),
        square(3, 5, 7, 1, 1, 1),
    ] {
        check_all(&s, [0, 0], Algorithm::Direct, DIRECT);
        check_all(&s, [1, 2], Algorithm::Direct, DIRECT);
    }
}

#[test]
fn odd_values_come_through() {
    let s = square(1, 20, 40, 9, 3, 1);
    let w = noise(s.weights_len(), 5);
    let mut x = noise(s.input_len(), 1);
    for (value, at) in [(f32::NAN, 0), (f32::INFINITY, 40), (f32::NEG_INFINITY, 80)] {
        x[at * 20 + 7] = value;
    }
    let steps = [Step::Unary(UnaryOp::Relu)];
    for level in Level::available() {
        let pool = Pool::serial().with_level(level);
        let weights = ConvWeights::pack(&pool, &s, &w, Algorithm::Direct).unwrap();
        let mut out = vec![0.0; s.output_len()];
        conv(&pool, &s, &x, 20, &weights, &mut out, 40, Epilogue::NONE).unwrap();
        let mut cut = vec![0.0; s.output_len()];
        conv(&pool, &s, &x, 20, &weights, &mut cut, 40, Epilogue::new(&steps)).unwrap();
        for (i, (sum, _)) in twin(&s, &x, 20, &w).into_iter().enumerate() {
            if sum.is_nan() {
                assert!(out[i].is_nan() && cut[i].is_nan());
            } else if sum.is_infinite() {
                assert_eq!((out[i] as f64, cut[i] as f64), (sum, sum.max(0.0)));
            } else {
                assert!(out[i].is_finite());
                assert_eq!(cut[i].to_bits(), if out[i] <= 0.0 { 0 } else { out[i].to_bits() });
            }
        }
    }
}

#[test]
fn zeros_lose_their_sign_at_the_clamp_only() {
    let s = square(1, 4, 20, 3, 1, 1);
    let (w, x, bias) = (vec![0.0; s.weights_len()], noise(s.input_len(), 1), [-0.0; 20]);
    let negative = vec![-0.0; s.output_len()];
    for level in Level::available() {
        let pool = Pool::serial().with_level(level);
        let weights = ConvWeights::pack(&pool, &s, &w, Algorithm::Direct).unwrap();
        let run = |steps: &[Step<'_>]| {
            let mut out = vec![1.0; s.output_len()];
            conv(&pool, &s, &x, 4, &weights, &mut out, 20, Epilogue::new(steps)).unwrap();
            out
        };
        let minus = [Step::Unary(UnaryOp::Neg)];
        assert!(run(&minus).iter().all(|x| x.to_bits() == (-0.0f32).to_bits()));
        for last in [UnaryOp::Relu, UnaryOp::Clip(0.0, 6.0)] {
            let steps = [Step::bias_columns(&bias), Step::residual(&negative), Step::Unary(last)];
            assert!(run(&steps).iter().all(|x| x.to_bits() == 0));
        }
    }
}

#[test]
fn contradictions_are_errors() {
    let s = square(1, 4, 8, 5, 3, 1);
    let pool = Pool::serial();
    let pack = |s: &ConvShape, len: usize| ConvWeights::pack(&pool, s, &vec![1.0; len], Algorithm::Direct);
    let weights = pack(&s, s.weights_len()).unwrap();
    assert!(pack(&s, s.weights_len() - 1).is_err());
    let w = Window::new(1);
    let grouped = ConvShape::new(1, 4, 8, 2, &[5, 5], &[w, w]).unwrap();
    assert!(pack(&grouped, grouped.weights_len()).is_err());
    let deep = ConvShape::new(1, 4, 8, 1, &[5, 5, 5], &[w; 3]).unwrap();
    assert!(pack(&deep, deep.weights_len()).is_err());
    let x = noise(1000, 1);
    let run = |s: &ConvShape, x: &[f32], x_pitch: usize, len: usize, out_pitch: usize| {
        conv(&pool, s, x, x_pitch, &weights, &mut vec![0.0; len], out_pitch, Epilogue::NONE)
    };
    run(&s, &x[..100], 4, 200, 8).unwrap();
    run(&s, &x[..124], 5, 224, 9).unwrap();
    assert!(run(&s, &x[..99], 4, 200, 8).is_err());
    assert!(run(&s, &x[..123], 5, 224, 9).is_err());
    assert!(run(&s, &x[..124], 5, 223, 9).is_err());
    assert!(run(&s, &x, 3, 200, 8).is_err());
    assert!(run(&s, &x, 4, 200, 7).is_err());
    assert!(run(&s, &x, usize::MAX / 2, 200, 8).is_err());
    assert!(run(&square(1, 4, 9, 5, 3, 1), &x, 4, 225, 9).is_err());
    assert!(run(&square(1, 4, 8, 5, 1, 1), &x, 4, 200, 8).is_err());
    let short = [Step::bias_columns(&x[..7])];
    assert!(conv(&pool, &s, &x, 4, &weights, &mut [0.0; 200], 8, Epilogue::new(&short)).is_err());
}

/// Relative to the sum of absolute products if all of a tile's inputs and weights were as large as the
/// largest: an output shares the rounding errors of its whole tile.
const WINOGRAD: f64 = 3e-7;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn winograd_matches_nested_loops(
        batch in 1usize..3, ci in 1usize..40, co in 1usize..70, height in 0usize..14, width in 0usize..14,
        pads in [0usize..4, 0usize..4, 0usize..4, 0usize..4], gaps in [0usize..3, 0usize..3],
    ) {
        let window = |b, e| Window { pad_begin: b, pad_end: e, ..Window::new(3) };
        let windows = [window(pads[0], pads[1]), window(pads[2], pads[3])];
        let s = ConvShape::new(batch, ci, co, 1, &[height, width], &windows).unwrap();
        for tiles in [Tiles::Two, Tiles::Four] {
            check_all(&s, gaps, Algorithm::Winograd(tiles), WINOGRAD);
        }
    }
}

#[test]
fn winograd_refuses_other_windows() {
    let pool = Pool::serial();
    for algorithm in [Tiles::Two, Tiles::Four].map(Algorithm::Winograd) {
        for s in [square(1, 4, 8, 5, 3, 2), square(1, 4, 8, 5, 5, 1), square(1, 4, 8, 5, 1, 1)] {
            assert!(ConvWeights::pack(&pool, &s, &noise(s.weights_len(), 1), algorithm).is_err());
            assert_eq!(Algorithm::ways(pool.level(), &s)[..], [Algorithm::Direct]);
        }
        let s = square(1, 4, 8, 5, 3, 1);
        let weights = ConvWeights::pack(&pool, &s, &noise(s.weights_len(), 1), algorithm).unwrap();
        let strided = square(1, 4, 8, 5, 3, 2);
        let mut out = vec![0.0; strided.output_len()];
        let x = noise(strided.input_len(), 1);
        assert!(conv(&pool, &strided, &x, 4, &weights, &mut out, 8, Epilogue::NONE).is_err());
    }
}

#[test]
fn winograd_is_picked_where_it_pays() {
    let pick = |s: &ConvShape| Algorithm::pick(Level::best(), s);
    for s in [square(1, 64, 64, 56, 3, 1), square(1, 256, 256, 14, 3, 1), square(1, 32, 32, 80, 3, 1)] {
        assert_eq!(pick(&s), Algorithm::Winograd(Tiles::Four), "{s:?}");
    }
    // Where larger tiles would be few and their weights many.
    for level in Level::available().filter(|&l| tile::lanes(l) == 8) {
        let s = square(1, 448, 384, 8, 3, 1);
        assert_eq!(Algorithm::pick(level, &s), Algorithm::Winograd(Tiles::Two), "{s:?}");
    }
    for s in [
        square(1, 16, 16, 160, 3, 1),
        square(1, 64, 64, 56, 3, 2),
        square(1, 64, 64, 56, 1, 1),
        square(1, 64, 64, 0, 1, 1),
    ] {
        assert_eq!(pick(&s), Algorithm::Direct, "{s:?}");
    }
    // Where arithmetic is slower, fetching the weights weighs less.
    if tile::lanes(Level::best()) == 16 {
        for s in [square(1, 448, 384, 8, 3, 1), square(1, 512, 512, 7, 3, 1)] {
            assert_eq!(pick(&s), Algorithm::Direct, "{s:?}");
        }
    }
}
#[test]
fn winograd_is_nearly_as_exact_as_the_direct_sum() {
    let s = square(1, 64, 64, 12, 3, 1);
    // Sums of twelve, which are close to normally distributed.
    let mut state = 12345u32;
    let mut uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let mut normal = |n: usize| (0..n).map(|_| (0..12).map(|_| uniform()).sum()).collect::<Vec<f32>>();
    let (x, w) = (normal(s.input_len()), normal(s.weights_len()));
    let want = twin(&s, &x, 64, &w);
    for level in Level::available() {
        let pool = Pool::serial().with_level(level);
        let mean = |algorithm: Algorithm| {
            let weights = ConvWeights::pack(&pool, &s, &w, algorithm).unwrap();
            let mut out = vec![0.0; s.output_len()];
            conv(&pool, &s, &x, 64, &weights, &mut out, 64, Epilogue::NONE).unwrap();
            let error = |(o, (sum, size)): (&f32, &(f64, f64))| (*o as f64 - sum) / size;
            let all: Vec<f64> = out.iter().zip(&want).map(error).collect();
            assert!(all.iter().all(|e| e.abs() < 1e-6));
            (all.iter().map(|e| e * e).sum::<f64>() / all.len() as f64).sqrt()
        };
        let direct = mean(Algorithm::Direct);
        for (tiles, times) in [(Tiles::Two, 1.5), (Tiles::Four, 3.0)] {
            let winograd = mean(Algorithm::Winograd(tiles));
            assert!(winograd < times * direct, "{level:?} {tiles:?}: {winograd:e} and {direct:e}");
        }
    }
}
