//! Depthwise convolutions against nested loops.

use super::*;
use crate::conv::Window;
use crate::elementwise::{BinaryOp, UnaryOp};
use crate::epilogue::{Operand, Step};
use proptest::prelude::*;

fn noise(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| (((i + seed) * 7919) % 1021) as f32 / 510.0 - 1.0).collect()
}

/// The sums in `f64`, taps outside the input left out.
fn twin(s: &ConvShape, x: &[f32], w: &[f32]) -> Vec<f64> {
    let c = s.in_channels;
    let [_, h, width] = s.input;
    let [_, oh, ow] = s.output;
    let mut out = Vec::new();
    for i in 0..s.batch * oh * ow * c {
        let (n, oy, ox, channel) = (i / c / ow / oh, i / c / ow % oh, i / c % ow, i % c);
        let mut sum = 0.0;
        for ky in 0..s.kernel[1] {
            for kx in 0..s.kernel[2] {
                let y = (oy * s.strides[1] + ky * s.dilations[1]) as isize - s.pads[1] as isize;
                let at = (ox * s.strides[2] + kx * s.dilations[2]) as isize - s.pads[2] as isize;
                if y >= 0 && y < h as isize && at >= 0 && at < width as isize {
                    let x = x[((n * h + y as usize) * width + at as usize) * c + channel];
                    sum += x as f64 * w[(channel * s.kernel[1] + ky) * s.kernel[2] + kx] as f64;
                }
            }
        }
        out.push(sum);
    }
    out
}

/// Runs at every level with one and three threads, which must agree bit for bit.
fn run(s: &ConvShape, x: &[f32], w: &[f32], steps: &[Step<'_>], mut see: impl FnMut(Level, &[f32])) {
    for level in Level::available() {
        let weights = DepthwiseWeights::pack(level, s, w).unwrap();
        let outs: Vec<Vec<f32>> = [1, 3]
            .into_iter()
            .map(|threads| {
                let pool = Pool::new(threads).unwrap().with_level(level);
                let mut out = vec![f32::NAN; s.output_len()];
                depthwise(&pool, s, x, &weights, &mut out, Epilogue::new(steps)).unwrap();
                out
            })
            .collect();
        let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&outs[0]), bits(&outs[1]), "{s:?} {level:?}: threads differ");
        see(level, &outs[0]);
    }
}

fn window() -> impl Strategy<Value = Window> {
    (1usize..6, 1usize..4, 1usize..4, 0usize..4, 0usize..4).prop_map(|(kernel, stride, dilation, b, e)| {
        Window { kernel, stride, dilation, pad_begin: b, pad_end: e }
    })
}

/// Windows with kernels of their own.
fn common() -> impl Strategy<Value = Window> {
    (1usize..4, 1usize..3, 0usize..4, 0usize..4).prop_map(|(half, stride, b, e)| Window {
        kernel: 2 * half + 1,
        stride,
        dilation: 1,
        pad_begin: b,
        pad_end: e,
    })
}

/// An epilogue's steps, chosen by the bits of `which`.
fn steps<'a>(
    which: usize,
    rows: &'a [f32],
    columns: &'a [f32],
    full: &'a [f32],
    apart: Operand<'a>,
) -> Vec<Step<'a>> {
    let all = [
        Step::bias_columns(columns),
        Step::residual(full),
        Step::Unary([UnaryOp::Relu, UnaryOp::Clip(0.0, 0.6), UnaryOp::Clip(-0.4, 0.3)][which % 3]),
        Step::Binary { op: BinaryOp::Sub, operand: Operand::PerColumn(columns), reversed: true },
        Step::Binary { op: BinaryOp::Mul, operand: apart, reversed: false },
        Step::Binary { op: BinaryOp::Max, operand: Operand::PerRow(rows), reversed: false },
        Step::Unary(UnaryOp::HardSwish),
        Step::Binary { op: BinaryOp::Add, operand: Operand::Scalar(0.25), reversed: true },
    ];
    all.into_iter().enumerate().filter(|(i, _)| which >> i & 1 == 1).map(|(_, s)| s).collect()
}

fn check(s: &ConvShape, which: usize) {
    let (x, w) = (noise(s.input_len(), 1), noise(s.weights_len(), 5));
    let pixels = s.batch * s.positions();
    let (rows, columns, full) = (noise(pixels, 2), noise(s.in_channels, 3), noise(s.output_len(), 11));
    let pitch = s.in_channels + 2;
    let data = noise(pixels * pitch, 13);
    let steps = steps(which, &rows, &columns, &full, Operand::Pitched { data: &data, pitch });
    let want: Vec<f64> = twin(s, &x, &w)
        .into_iter()
        .enumerate()
        .map(|(i, v)| {
            let (row, column) = (i / s.in_channels, i % s.in_channels);
            steps.iter().fold(v, |v, step| match *step {
                Step::Unary(UnaryOp::Relu) => v.max(0.0),
                Step::Unary(UnaryOp::Clip(lo, hi)) => v.max(lo as f64).min(hi as f64),
                Step::Unary(_) => v * (v / 6.0 + 0.5).clamp(0.0, 1.0),
                Step::Binary { op, operand, .. } => {
                    let o = match operand {
                        Operand::Scalar(o) => o,
                        Operand::PerRow(o) => o[row],
                        Operand::PerColumn(o) => o[column],
                        Operand::Full(o) => o[i],
                        Operand::Pitched { data, pitch } => data[row * pitch + column],
                    } as f64;
                    match op {
                        BinaryOp::Add => v + o,
                        BinaryOp::Sub => o - v,
                        BinaryOp::Mul => v * o,
                        _ => v.max(o),
                    }
                }
            })
        })
        .collect();
    run(s, &x, &w, &steps, |level, out| {
        for (i, (&g, &e)) in out.iter().zip(&want).enumerate() {
            assert!((g as f64 - e).abs() <= 1e-4, "{s:?} {which:b} {level:?}: element {i} is {g}, not {e}");
        }
    });
}

proptest! {
    #[test]
    fn any_window_matches_nested_loops(
        batch in 0usize..3, channels in 1usize..40, axes in prop::collection::vec((0usize..16, window()), 1..3),
        which in 0usize..256,
    ) {
        let (input, windows): (Vec<usize>, Vec<Window>) = axes.into_iter().unzip();
        check(&ConvShape::new(batch, channels, channels, channels, &input, &windows).unwrap(), which);
    }

    #[test]
    fn common_windows_match_nested_loops(
        batch in 1usize..3, channels in 8usize..140, h in 0usize..8, w in 0usize..30,
        a in common(), b in common(), which in 0usize..256,
    ) {
        let s = ConvShape::new(batch, channels, channels, channels, &[h, w], &[a, b]).unwrap();
        check(&s, which);
    }

    #[test]
    fn exceptional_values_stay_in_their_channel(
        channels in 1usize..40, at in 0usize..1000, kind in 0usize..3, activation in 0usize..3,
        a in common(), b in common(),
    ) {
        let s = ConvShape::new(1, channels, channels, channels, &[6, 9], &[a, b]).unwrap();
        let (mut x, w) = (noise(s.input_len(), 1), noise(s.weights_len(), 5));
        let bad = at % x.len();
        x[bad] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][kind];
        let act = [&[][..], &[Step::Unary(UnaryOp::Relu)], &[Step::Unary(UnaryOp::Clip(-0.5, 6.0))]][activation];
        let want = twin(&s, &x, &w);
        run(&s, &x, &w, act, |level, out| {
            for (i, (&g, &e)) in out.iter().zip(&want).enumerate() {
                let e = match activation {
                    _ if e.is_nan() => f64::NAN,
                    0 => e,
                    1 => e.max(0.0),
                    _ => e.clamp(-0.5, 6.0),
                };
                let same = g as f64 == e || g.is_nan() && e.is_nan() || (g as f64 - e).abs() <= 1e-4;
                assert!(same, "{s:?} {level:?}: element {i} is {g}, not {e}");
            }
        });
    }
}

/// The activation in registers gives the bits of the elementwise kernel, zeros and NaN included.
#[test]
fn activations_have_the_bits_of_the_elementwise_kernels() {
    let specials = [0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 6.0, 7.5, -6.0, 1e-40, -1e-40];
    for channels in [1, 4, 8, 16, 21, 40] {
        let s = ConvShape::new(1, channels, channels, channels, &[1, 10], &[Window::new(1); 2]).unwrap();
        let x: Vec<f32> = (0..s.input_len()).map(|i| specials[(i / channels + i) % 10]).collect();
        for op in [
            UnaryOp::Relu,
            UnaryOp::Clip(0.0, 6.0),
            UnaryOp::Clip(-0.0, 6.0),
            UnaryOp::Clip(-6.0, 0.0),
            UnaryOp::Clip(-6.0, -0.0),
            UnaryOp::Clip(2.0, 1.0),
            UnaryOp::Clip(f32::NAN, 6.0),
            UnaryOp::Clip(0.0, f32::NAN),
        ] {
            // The residual brings the values in as they are: the sum before it is a negative zero nowhere,
            // so it is one of zeros that turns them positive.
            run(
                &s,
                &vec![-0.0; x.len()],
                &vec![1.0; channels],
                &[Step::residual(&x), Step::Unary(op)],
                |l, out| {
                    let mut want: Vec<f32> = x.iter().map(|x| x + 0.0).collect();
                    op.apply(l, &mut want);
                    for (i, (g, e)) in out.iter().zip(&want).enumerate() {
                        let same = g.to_bits() == e.to_bits() || g.is_nan() && e.is_nan();
                        assert!(same, "{op:?} {l:?}: {g} for {}, not {e}", x[i]);
                    }
                },
            );
        }
    }
}

/// Taps that reach far past a small input cost nothing and overflow nothing.
#[test]
fn vast_dilations_see_the_padding() {
    let far = Window { kernel: 2, stride: 1, dilation: 1 << 31, pad_begin: 0, pad_end: 1 << 31 };
    for windows in [[far, Window::new(1)], [Window::new(1), far]] {
        let s = ConvShape::new(1, 8, 8, 8, &[1, 1], &windows).unwrap();
        check(&s, 1);
    }
}

#[test]
fn misfits_are_errors() {
    let w3 = Window { pad_begin: 1, pad_end: 1, ..Window::new(3) };
    let level = Level::best();
    let s = ConvShape::new(1, 8, 8, 8, &[5, 5], &[w3; 2]).unwrap();
    let weights = DepthwiseWeights::pack(level, &s, &[0.5; 72]).unwrap();
    assert!(weights.bytes() >= 72 * 4);
    let (pool, x) = (Pool::serial(), noise(s.input_len(), 0));
    let mut out = vec![0.0; s.output_len()];
    depthwise(&pool, &s, &x, &weights, &mut out, Epilogue::NONE).unwrap();
    assert!(depthwise(&pool, &s, &x[1..], &weights, &mut out, Epilogue::NONE).is_err());
    assert!(depthwise(&pool, &s, &x, &weights, &mut out[1..], Epilogue::NONE).is_err());
    let bias = [Step::bias_columns(&x[..7])];
    assert!(depthwise(&pool, &s, &x, &weights, &mut out, Epilogue::new(&bias)).is_err());
    let wider = ConvShape::new(1, 8, 8, 8, &[5, 5], &[Window::new(3), Window::new(1)]).unwrap();
    assert!(depthwise(&pool, &wider, &x, &weights, &mut out, Epilogue::NONE).is_err());
    for (ci, co, groups) in [(8, 16, 8), (8, 8, 4), (8, 8, 1)] {
        let s = ConvShape::new(1, ci, co, groups, &[5, 5], &[w3; 2]).unwrap();
        assert!(DepthwiseWeights::pack(level, &s, &noise(s.weights_len(), 0)).is_err());
    }
    let solid = ConvShape::new(1, 8, 8, 8, &[5, 5, 5], &[w3; 3]).unwrap();
    assert!(DepthwiseWeights::pack(level, &solid, &noise(solid.weights_len(), 0)).is_err());
}
