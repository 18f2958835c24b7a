//! Depthwise convolutions in words and in floats, against plain loops.

use super::super::{Bytes, Output, Quantized, Scaling};
use super::{ByteDepthwise, depthwise};
use crate::conv::{ConvShape, Window};
use crate::elementwise::UnaryOp;
use crate::epilogue::{Epilogue, Step};
use crate::quantized::tests::number;
use crate::simd::Level;
use crate::simd::integer::paired;
use crate::threads::Pool;
use proptest::prelude::*;

/// Bytes of which many are at the ends of their range, or all are the same.
fn bytes(len: usize, seed: u64, kind: u8) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let x = (state >> 33) as u8;
            match kind {
                0 => x,
                1 => [0, 255, 128, 127][usize::from(x) % 4],
                2 => 255,
                3 => 128,
                _ => 0,
            }
        })
        .collect()
}

#[derive(Debug, Clone)]
struct Case {
    shape: ConvShape,
    x: Vec<u8>,
    x_signed: bool,
    x_zero: i32,
    /// Less their zero points.
    w: Vec<i32>,
}

impl Case {
    fn sums(&self) -> Vec<i64> {
        let s = &self.shape;
        let (channels, taps) = (s.in_channels, s.kernel[1] * s.kernel[2]);
        let mut out = vec![];
        for n in 0..s.batch {
            for oy in 0..s.output[1] {
                for ox in 0..s.output[2] {
                    for c in 0..channels {
                        let mut sum = 0;
                        for t in 0..taps {
                            let (ky, kx) = (t / s.kernel[2], t % s.kernel[2]);
                            let y = (oy * s.strides[1] + ky * s.dilations[1]).wrapping_sub(s.pads[1]);
                            let x = (ox * s.strides[2] + kx * s.dilations[2]).wrapping_sub(s.pads[2]);
                            if y < s.input[1] && x < s.input[2] {
                                let x = self.x[((n * s.input[1] + y) * s.input[2] + x) * channels + c];
                                sum += (number(x, self.x_signed) - i64::from(self.x_zero))
                                    * i64::from(self.w[c * taps + t]);
                            }
                        }
                        out.push(sum);
                    }
                }
            }
        }
        out
    }
}

fn case() -> impl Strategy<Value = Case> {
    let sizes = (1usize..3, 1usize..70, (1usize..12, 1usize..30));
    let window = (
        (1usize..7, prop_oneof![Just(3usize), Just(5usize), 1usize..7]),
        (1usize..3, 1usize..4),
        (1usize..3, prop_oneof![3 => Just(1usize), 1 => Just(2usize)]),
        [[0usize..4, 0usize..4], [0usize..4, 0usize..5]],
    );
    let kinds = (any::<bool>(), any::<bool>(), 0u8..5, 0u8..5, any::<u8>(), 0u8..3);
    (sizes, window, kinds, any::<u64>()).prop_filter_map(
        "the window does not fit",
        |((n, c, size), (kernel, stride, dilation, pads), (x_signed, w_signed, kx, kw, zero, end), seed)| {
            let [size, kernel, stride, dilation] = [size, kernel, stride, dilation].map(|(a, b)| [a, b]);
            let windows = [0, 1].map(|i| Window {
                kernel: kernel[i],
                stride: stride[i],
                dilation: dilation[i],
                pad_begin: pads[i][0],
                pad_end: pads[i][1],
            });
            let shape = ConvShape::new(n, c, c, c, &size, &windows).ok()?;
            if shape.output.contains(&0) {
                return None;
            }
            let zero_of = |z: u8, signed: bool| number(z, signed) as i32;
            let w_zero = zero_of([zero, 0, 255][usize::from(end)], w_signed);
            let w = bytes(shape.weights_len(), seed ^ 1, kw);
            Some(Case {
                x: bytes(shape.input_len(), seed, kx),
                w: w.into_iter().map(|w| zero_of(w, w_signed) - w_zero).collect(),
                x_zero: zero_of([zero, 255, 0][usize::from(end)], x_signed),
                shape,
                x_signed,
            })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// In words as in floats, at every level, with any number of threads.
    #[test]
    fn both_ways_are_exact(
        c in case(), threads in 1usize..4, one: bool, signed: bool, zero in 0i32..256, kind in 0usize..4, step in 0.001f32..3.0,
    ) {
        let (sums, channels) = (c.sums(), c.shape.in_channels);
        let raw: Vec<[u8; 4]> = c.w.iter().map(|&w| (w as f32).to_le_bytes()).collect();
        let scales: Vec<f32> =
            (0..if one { 1 } else { channels }).map(|j| 0.001 + j as f32 * 0.0003).collect();
        let bias: Vec<f32> = if one { vec![] } else { (0..channels).map(|j| j as f32 * 0.7 - 3.0).collect() };
        let steps: &[Step] = match kind {
            0 => &[],
            1 => &[Step::Unary(UnaryOp::Relu)],
            2 => &[Step::Unary(UnaryOp::Clip(-1.0, 6.0))],
            _ => &[Step::Unary(UnaryOp::Neg), Step::Unary(UnaryOp::Relu)],
        };
        let s = Scaling { x_scale: 0.02, x_zero: c.x_zero, scales: &scales, bias: &bias };
        let to = Quantized { scale: step, zero: if signed { zero - 128 } else { zero }, signed };
        let (low, high) = if signed { (-128.0, 127.0) } else { (0.0, 255.0) };
        let expected: Vec<i64> = sums.iter().enumerate().map(|(i, &sum)| {
            let j = i % channels;
            let scale = 0.02 * scales[if one { 0 } else { j }];
            let real = |per: f32| sum as f32 * (scale / per) + bias.get(j).map_or(0.0, |b| b / per);
            let stepped = match kind {
                0 => real(step),
                1 => real(step).max(0.0),
                2 => real(step).clamp(-1.0 / step, 6.0 / step),
                _ => (-real(1.0)).max(0.0) / step,
            };
            (stepped.round_ties_even() + to.zero as f32).clamp(low, high) as i64
        }).collect();
        let reals: Vec<f32> = sums.iter().enumerate().map(|(i, &sum)| {
            let j = i % channels;
            let x = sum as f32 * (0.02 * scales[if one { 0 } else { j }]) + bias.get(j).copied().unwrap_or(0.0);
            match kind {
                0 => x,
                1 => x.max(0.0),
                2 => x.clamp(-1.0, 6.0),
                _ => (-x).max(0.0),
            }
        }).collect();
        for level in Level::available() {
            let pool = Pool::new(threads).unwrap().with_level(level);
            let words = ByteDepthwise::pack(level, &c.shape, &raw).unwrap();
            prop_assert_eq!(words.pairs.is_some(), paired::group(level).is_some_and(|g| channels >= g));
            for (weights, way) in [(words.clone(), "words"), (words.by_floats(), "floats")] {
                let mut out = vec![0u8; sums.len()];
                let output = Output::Bytes { out: &mut out, pitch: channels, epilogue: Epilogue::new(steps), to };
                let x = Bytes { data: &c.x, signed: c.x_signed };
                depthwise(&pool, &c.shape, x, &weights, &s, output).unwrap();
                for (i, (&got, &expected)) in out.iter().zip(&expected).enumerate() {
                    prop_assert_eq!(number(got, signed), expected, "{} in {} at {:?}", i, way, level);
                }
                let mut out = vec![i32::MIN; sums.len()];
                let output = Output::Sums { out: &mut out, pitch: channels };
                let unscaled = Scaling { scales: &[], bias: &[], ..s };
                depthwise(&pool, &c.shape, x, &weights, &unscaled, output).unwrap();
                prop_assert!(out.iter().map(|&x| i64::from(x)).eq(sums.iter().copied()), "{} at {:?}", way, level);
                let mut out = vec![f32::NAN; sums.len()];
                let output = Output::Floats { out: &mut out, pitch: channels, epilogue: Epilogue::new(steps) };
                depthwise(&pool, &c.shape, x, &weights, &s, output).unwrap();
                prop_assert_eq!(&out, &reals, "{} at {:?}", way, level);
            }
        }
    }
}

/// Weights that are not whole, or too large for exact sums, have no words.
#[test]
fn only_whole_weights_become_words() {
    let window = Window { kernel: 3, stride: 1, dilation: 1, pad_begin: 1, pad_end: 1 };
    let shape = ConvShape::new(1, 64, 64, 64, &[4, 4], &[window; 2]).unwrap();
    for (weight, whole) in [(255.0f32, true), (-255.0, true), (0.5, false), (256.0, false), (f32::NAN, false)]
    {
        let mut w = vec![1.0f32; shape.weights_len()];
        w[100] = weight;
        for level in Level::available() {
            let packed = ByteDepthwise::pack(level, &shape, &w).unwrap();
            assert_eq!(packed.pairs.is_some(), whole && paired::group(level).is_some(), "{weight}");
        }
    }
}
