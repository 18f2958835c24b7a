//! Integer products against plain loops: sums have no tolerance, and what follows them repeats their arithmetic.

mod tiles;

use super::apart::SPANS;
use super::form::Form;
use super::weights::Way;
use super::*;
use crate::conv::{ConvShape, Window};
use crate::elementwise::UnaryOp;
use crate::epilogue::{Epilogue, Step};
use crate::simd::Level;
use crate::threads::Pool;
use proptest::prelude::*;

/// Bytes that favour the ends of their range.
fn bytes(len: usize, seed: u64, extreme: bool) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let x = (state >> 33) as u8;
            match (extreme, x % 4) {
                (true, 0) => 0,
                (true, 1) => 255,
                (true, 2) => 128,
                (true, _) => 127,
                _ => x,
            }
        })
        .collect()
}

/// Bytes as layers have them: few are far from `zero`.
fn calm(len: usize, seed: u64, zero: u8, far: u8) -> Vec<u8> {
    let (near, other) = (bytes(len, seed, false), bytes(len, seed ^ 0x5555, false));
    let of = |(&n, &o): (&u8, &u8)| if o < far { n } else { zero.wrapping_add(n % 32).wrapping_sub(16) };
    near.iter().zip(&other).map(of).collect()
}

/// What a byte stands for.
pub(super) fn number(x: u8, signed: bool) -> i64 {
    if signed { i64::from(x as i8) } else { i64::from(x) }
}

/// Every combination of a level and a way to pack weights of so many taps that this machine has.
fn ways(taps: usize) -> Vec<(Level, Way)> {
    let orders = if taps == 1 { &[false, true][..] } else { &[false] };
    let ways = |form| match form {
        Form::Pairs => {
            SPANS.iter().flat_map(|&span| orders.iter().map(move |&arranged| (arranged, span))).collect()
        }
        _ => vec![(false, SPANS[0])],
    };
    let each = |level| {
        let forms = Form::available(level).into_iter();
        forms.flat_map(move |form| {
            ways(form).into_iter().map(move |(arranged, span)| (level, Way { form, arranged, span }))
        })
    };
    Level::available().flat_map(each).collect()
}

#[derive(Debug, Clone)]
struct Case {
    shape: ConvShape,
    x: Vec<u8>,
    x_signed: bool,
    x_zero: i32,
    w: Vec<u8>,
    w_signed: bool,
    w_zeros: Vec<i32>,
}

impl Case {
    /// The exact sums, one row for each pixel.
    fn sums(&self) -> Vec<i32> {
        let s = &self.shape;
        let (ic, oc) = (s.in_channels, s.out_channels);
        let mut out = vec![];
        for n in 0..s.batch {
            for oy in 0..s.output[1] {
                for ox in 0..s.output[2] {
                    for o in 0..oc {
                        let zero = match self.w_zeros[..] {
                            [] => 0,
                            [z] => z,
                            _ => self.w_zeros[o],
                        };
                        let mut sum = 0i64;
                        for ky in 0..s.kernel[1] {
                            for kx in 0..s.kernel[2] {
                                let y = (oy * s.strides[1] + ky * s.dilations[1]).wrapping_sub(s.pads[1]);
                                let x = (ox * s.strides[2] + kx * s.dilations[2]).wrapping_sub(s.pads[2]);
                                if y >= s.input[1] || x >= s.input[2] {
                                    continue;
                                }
                                for c in 0..ic {
                                    let at = ((n * s.input[1] + y) * s.input[2] + x) * ic + c;
                                    let w = ((o * ic + c) * s.kernel[1] + ky) * s.kernel[2] + kx;
                                    sum += (number(self.x[at], self.x_signed) - i64::from(self.x_zero))
                                        * (number(self.w[w], self.w_signed) - i64::from(zero));
                                }
                            }
                        }
                        out.push(i32::try_from(sum).unwrap());
                    }
                }
            }
        }
        out
    }

    fn matrix(&self) -> ByteMatrix<'_> {
        let s = &self.shape;
        let taps = s.kernel[1] * s.kernel[2];
        ByteMatrix {
            data: &self.w,
            signed: self.w_signed,
            taps,
            channels: s.in_channels,
            columns: s.out_channels,
            strides: [1, taps, taps * s.in_channels],
            zeros: &self.w_zeros,
        }
    }

    fn bytes(&self) -> Bytes<'_> {
        Bytes { data: &self.x, signed: self.x_signed }
    }
}

fn case() -> impl Strategy<Value = Case> {
    let sizes = (1usize..3, 1usize..28, 1usize..40, [1usize..9, 1usize..9], [1usize..4, 1usize..4]);
    let steps = ([1usize..3, 1usize..3], [1usize..3, 1usize..3], [0usize..2, 0usize..2]);
    (sizes, steps, any::<[bool; 4]>(), 0usize..3, any::<u64>(), any::<u8>()).prop_filter_map(
        "the window does not fit",
        |(
            (n, ic, oc, size, kernel),
            (stride, dilation, pad),
            [x_signed, w_signed, extreme, quiet],
            zeros,
            seed,
            zero,
        )| {
            let windows: Vec<Window> = (0..2)
                .map(|i| Window {
                    kernel: kernel[i],
                    stride: stride[i],
                    dilation: dilation[i],
                    pad_begin: pad[i],
                    pad_end: pad[i],
                })
                .collect();
            let shape = ConvShape::new(n, ic, oc, 1, &size, &windows).ok()?;
            if shape.output.contains(&0) {
                return None;
            }
            let end = |z: u8| if extreme { if z > 127 { 255 } else { 0 } } else { z };
            let zero_of = |z: u8, signed: bool| number(end(z), signed) as i32;
            let w_zeros = match zeros {
                0 => vec![],
                1 => vec![zero_of(zero ^ 0x55, w_signed)],
                _ => bytes(oc, seed ^ 7, false).into_iter().map(|z| zero_of(z, w_signed)).collect(),
            };
            let x = match quiet {
                true => calm(shape.input_len(), seed, zero ^ if x_signed { 0x80 } else { 0 }, 3),
                false => bytes(shape.input_len(), seed, extreme),
            };
            let w = match quiet {
                true => calm(shape.weights_len(), seed ^ 1, if w_signed { 0 } else { 128 }, 30),
                false => bytes(shape.weights_len(), seed ^ 1, extreme),
            };
            Some(Case { x, w, x_zero: zero_of(zero, x_signed), shape, x_signed, w_signed, w_zeros })
        },
    )
}

/// Planes of the same images.
fn planes(c: &Case) -> Vec<u8> {
    let s = &c.shape;
    let (pixels, channels) = (s.input[1] * s.input[2], s.in_channels);
    let mut out = vec![0; c.x.len()];
    for n in 0..s.batch {
        for p in 0..pixels {
            for ch in 0..channels {
                out[(n * channels + ch) * pixels + p] = c.x[(n * pixels + p) * channels + ch];
            }
        }
    }
    out
}

fn sums(out: &mut [i32], pitch: usize) -> Output<'_> {
    Output::Sums { out, pitch }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Sums are exact whatever the sizes, signs, zero points, order, level and threads.
    #[test]
    fn convolutions_are_exact(c in case(), threads in 1usize..4, apart in 0usize..4) {
        let expected = c.sums();
        let (channels, columns) = (c.shape.in_channels, c.shape.out_channels);
        let pitch = channels + apart;
        let mut spread = vec![99u8; c.x.len() / channels * pitch];
        for (to, from) in spread.chunks_exact_mut(pitch).zip(c.x.chunks_exact(channels)) {
            to[..channels].copy_from_slice(from);
        }
        let by_plane = planes(&c);
        for (level, way) in ways(c.matrix().taps) {
            let pool = Pool::new(threads).unwrap().with_level(level);
            let w = ByteWeights::pack_with(&pool, way, &c.matrix(), None).unwrap();
            let s = Scaling { x_scale: 1.0, x_zero: c.x_zero, scales: &[], bias: &[] };
            for (data, order) in [(&spread, Order::Pixels(pitch)), (&by_plane, Order::Planes)] {
                let mut out = vec![i32::MIN; expected.len()];
                let x = Bytes { data, signed: c.x_signed };
                conv::conv(&pool, &c.shape, x, order, &w, &s, sums(&mut out, columns)).unwrap();
                prop_assert_eq!(&out, &expected, "{:?} {:?} {:?}", level, way, order);
            }
        }
    }

    /// Real and quantized results repeat the arithmetic that the tile promises.
    #[test]
    fn results_follow_from_the_sums(
        c in case(), with_bias: bool, each: bool, signed: bool, zero in 0i32..256, kind in 0usize..4, step in 0.01f32..3.0,
    ) {
        let sums = c.sums();
        let columns = c.shape.out_channels;
        let scales: Vec<f32> = (0..if each { columns } else { 1 }).map(|j| 0.001 + j as f32 * 0.0003).collect();
        let bias: Vec<f32> = (0..if with_bias { columns } else { 0 }).map(|j| j as f32 * 0.7 - 3.0).collect();
        let steps: &[Step] = match kind {
            0 => &[],
            1 => &[Step::Unary(UnaryOp::Relu)],
            2 => &[Step::Unary(UnaryOp::Clip(-1.0, 6.0))],
            _ => &[Step::Unary(UnaryOp::Silu(1.0)), Step::Unary(UnaryOp::Neg)],
        };
        let s = Scaling { x_scale: 0.02, x_zero: c.x_zero, scales: &scales, bias: &bias };
        let to = Quantized { scale: step, zero: if signed { zero - 128 } else { zero }, signed };
        let real = |i: usize, per: f32| {
            let scale = 0.02 * scales[if each { i % columns } else { 0 }] / per;
            sums[i] as f32 * scale + bias.get(i % columns).map_or(0.0, |b| b / per)
        };
        let (low, high) = if signed { (-128.0, 127.0) } else { (0.0, 255.0) };
        for (level, way) in ways(c.matrix().taps) {
            let pool = Pool::serial().with_level(level);
            let w = ByteWeights::pack_with(&pool, way, &c.matrix(), None).unwrap();
            let order = Order::Pixels(c.shape.in_channels);
            let mut reals = vec![f32::NAN; sums.len()];
            let output = Output::Floats { out: &mut reals, pitch: columns, epilogue: Epilogue::new(steps) };
            conv::conv(&pool, &c.shape, c.bytes(), order, &w, &s, output).unwrap();
            let mut out = vec![0u8; sums.len()];
            let output = Output::Bytes { out: &mut out, pitch: columns, epilogue: Epilogue::new(steps), to };
            conv::conv(&pool, &c.shape, c.bytes(), order, &w, &s, output).unwrap();
            for i in 0..sums.len() {
                let x = real(i, 1.0);
                let (expected, stepped) = match kind {
                    0 => (x, real(i, step)),
                    1 => (x.max(0.0), real(i, step).max(0.0)),
                    2 => (x.clamp(-1.0, 6.0), real(i, step).clamp(-1.0 / step, 6.0 / step)),
                    _ => (-(x / (1.0 + (-x).exp())), f32::NAN),
                };
                if kind == 3 {
                    prop_assert!((reals[i] - expected).abs() <= 1e-5 * (1.0 + x.abs()), "{} {}", reals[i], expected);
                } else {
                    prop_assert_eq!(reals[i] + 0.0, expected + 0.0);
                }
                // What comes after other steps is quantized from their result.
                let stepped = if kind == 3 { reals[i] / step } else { stepped };
                let q = (stepped.round_ties_even() + to.zero as f32).clamp(low, high);
                let got = number(out[i], signed) as f32;
                prop_assert_eq!(got, q, "{} at {:?}", i, (level, way));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// A single row, of which several panels are read at once, has the sums that it has among others.
    #[test]
    fn one_row_has_the_sums_of_two(
        depth in 1usize..300, columns in 1usize..400, seed in any::<u64>(), zero in any::<u8>(), far in 0u8..60,
        large in 0u8..90, threads in 1usize..4,
    ) {
        let (row, weights) = (calm(depth, seed, zero, far), calm(depth * columns, seed ^ 7, 0, large));
        let matrix = ByteMatrix {
            data: &weights, signed: true, taps: 1, channels: depth, columns, strides: [0, 1, depth], zeros: &[],
        };
        let s = Scaling { x_scale: 1.0, x_zero: i32::from(zero), scales: &[], bias: &[] };
        let mut expected = vec![0i32; columns];
        for (sum, w) in expected.iter_mut().zip(weights.chunks_exact(depth)) {
            *sum = row.iter().zip(w).map(|(&x, &w)| (i32::from(x) - i32::from(zero)) * i32::from(w as i8)).sum();
        }
        for (level, way) in ways(1) {
            let pool = Pool::new(threads).unwrap().with_level(level);
            let w = ByteWeights::pack_with(&pool, way, &matrix, None).unwrap();
            for rows in [1, 2] {
                let mut out = vec![i32::MIN; rows * columns];
                let x = row.repeat(rows);
                let x = Bytes { data: &x, signed: false };
                conv::linear(&pool, rows, x, depth, &w, &s, sums(&mut out, columns)).unwrap();
                prop_assert!(out.chunks_exact(columns).all(|o| o == expected), "{:?} {:?} {}", level, way, rows);
            }
        }
    }
}

/// Any depth up to the largest layers', at the ends of the range, where 16-bit sums would saturate.
#[test]
fn every_depth_is_exact_at_the_ends() {
    let depths = (1..70).chain([127, 128, 129, 255, 256, 1023, 1024, 1025, 2047, 2304, 4095, 4096, 4099]);
    for depth in depths {
        for (x, w, x_zero) in [(255u8, 127u8, 0), (255, 128, 0), (0, 128, 255), (0, 127, 255), (255, 255, 1)]
        {
            // Of a single row several panels are read at once.
            let (rows, columns) = if depth % 2 == 0 { (3, 19) } else { (1, 150) };
            let sum = depth as i64 * (i64::from(x) - x_zero) * i64::from(w as i8);
            let (x, w) = (vec![x; rows * depth], vec![w; depth * columns]);
            for (level, way) in ways(1) {
                let pool = Pool::serial().with_level(level);
                let (channels, strides) = (depth, [0, columns, 1]);
                let matrix =
                    ByteMatrix { data: &w, signed: true, taps: 1, channels, columns, strides, zeros: &[] };
                let w = ByteWeights::pack_with(&pool, way, &matrix, None).unwrap();
                let s = Scaling { x_scale: 1.0, x_zero: x_zero as i32, scales: &[], bias: &[] };
                let mut out = vec![0; rows * columns];
                let x = Bytes { data: &x, signed: false };
                conv::linear(&pool, rows, x, depth, &w, &s, sums(&mut out, columns)).unwrap();
                assert!(out.iter().all(|&o| i64::from(o) == sum), "{level:?} {way:?} {depth}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// Channels convolved by themselves, to bytes and to real numbers, after nothing and after other steps.
    #[test]
    fn depthwise_is_exact(
        c in case(), extra in 0usize..40, threads in 1usize..4, signed: bool, with_bias: bool, kind in 0usize..4,
    ) {
        let from = &c.shape;
        let channels = extra + 1;
        let windows: Vec<Window> = (1..3).map(|i| Window {
            kernel: from.kernel[i], stride: from.strides[i], dilation: from.dilations[i],
            pad_begin: from.pads[i], pad_end: from.pads[i],
        }).collect();
        let shape = ConvShape::new(from.batch, channels, channels, channels, &from.input[1..], &windows).unwrap();
        let x = bytes(shape.input_len(), channels as u64, true);
        let taps = from.kernel[1] * from.kernel[2];
        let w: Vec<f32> = bytes(channels * taps, 3, true).into_iter().map(|w| f32::from(w as i8)).collect();
        let raw: Vec<[u8; 4]> = w.iter().map(|w| w.to_le_bytes()).collect();
        let scales: Vec<f32> = (0..channels).map(|j| 0.001 + j as f32 * 0.0003).collect();
        let bias: Vec<f32> = if with_bias { (0..channels).map(|j| j as f32 * 0.7 - 3.0).collect() } else { vec![] };
        let steps: &[Step] = match kind {
            0 => &[],
            1 => &[Step::Unary(UnaryOp::Relu)],
            2 => &[Step::Unary(UnaryOp::Clip(-1.0, 6.0))],
            _ => &[Step::Unary(UnaryOp::Neg), Step::Unary(UnaryOp::Relu)],
        };
        let s = Scaling { x_scale: 0.02, x_zero: c.x_zero, scales: &scales, bias: &bias };
        let to = Quantized { scale: 0.3, zero: if signed { -3 } else { 100 }, signed };
        let (low, high) = if signed { (-128.0, 127.0) } else { (0.0, 255.0) };
        for level in Level::available() {
            let pool = Pool::new(threads).unwrap().with_level(level);
            let packed = depthwise::ByteDepthwise::pack(level, &shape, &raw).unwrap();
            let input = Bytes { data: &x, signed: c.x_signed };
            let mut reals = vec![f32::NAN; shape.output_len()];
            let output = Output::Floats { out: &mut reals, pitch: channels, epilogue: Epilogue::new(steps) };
            depthwise::depthwise(&pool, &shape, input, &packed, &s, output).unwrap();
            let mut out = vec![0u8; shape.output_len()];
            let output = Output::Bytes { out: &mut out, pitch: channels, epilogue: Epilogue::new(steps), to };
            depthwise::depthwise(&pool, &shape, input, &packed, &s, output).unwrap();
            let mut at = 0;
            for n in 0..shape.batch { for oy in 0..shape.output[1] { for ox in 0..shape.output[2] { for j in 0..channels {
                let mut sum = 0i64;
                for ky in 0..shape.kernel[1] { for kx in 0..shape.kernel[2] {
                    let y = (oy * shape.strides[1] + ky * shape.dilations[1]).wrapping_sub(shape.pads[1]);
                    let xx = (ox * shape.strides[2] + kx * shape.dilations[2]).wrapping_sub(shape.pads[2]);
                    if y < shape.input[1] && xx < shape.input[2] {
                        let v = x[((n * shape.input[1] + y) * shape.input[2] + xx) * channels + j];
                        let w = w[j * taps + ky * shape.kernel[2] + kx] as i64;
                        sum += (number(v, c.x_signed) - i64::from(c.x_zero)) * w;
                    }
                }}
                let b = |per: f32| bias.get(j).map_or(0.0, |b| b / per);
                let real = sum as f32 * (0.02 * scales[j]) + b(1.0);
                let stepped = sum as f32 * (0.02 * scales[j] / 0.3) + b(0.3);
                let (expected, stepped) = match kind {
                    0 => (real, stepped),
                    1 => (real.max(0.0), stepped.max(0.0)),
                    2 => (real.clamp(-1.0, 6.0), stepped.clamp(-1.0 / 0.3, 6.0 / 0.3)),
                    _ => ((-real).max(0.0), (-real).max(0.0) / 0.3),
                };
                prop_assert_eq!(reals[at] + 0.0, expected + 0.0, "{:?}", level);
                let q = (stepped.round_ties_even() + to.zero as f32).clamp(low, high);
                prop_assert_eq!(number(out[at], signed) as f32, q, "{:?}", level);
                at += 1;
            }}}}
        }
    }

    /// Between real numbers and bytes, against one element at a time.
    #[test]
    fn bytes_stand_for_numbers(
        len in 0usize..200, seed: u64, signed: [bool; 3], zeros: [u8; 3], relu: bool, mul: bool, threads in 1usize..3,
    ) {
        use super::elementwise::*;
        let zero = |i: usize| number(zeros[i], signed[i]) as i32;
        let (a, b) = (bytes(len, seed, false), bytes(len, seed ^ 9, true));
        let real = |x: u8, i: usize, scale: f32| (number(x, signed[i]) - i64::from(zero(i))) as f32 * scale;
        let to = Quantized { scale: 0.37, zero: zero(2), signed: signed[2] };
        let byte = |x: f32| {
            let (low, high) = if signed[2] { (-128.0, 127.0) } else { (0.0, 255.0) };
            ((x / 0.37).round_ties_even() + to.zero as f32).clamp(low, high) as i32 as u8
        };
        for level in Level::available() {
            let pool = Pool::new(threads).unwrap().with_level(level);
            let (x, y) = (
                Real { x: Bytes { data: &a, signed: signed[0] }, scale: 0.11, zero: zero(0) },
                Real { x: Bytes { data: &b, signed: signed[1] }, scale: 0.23, zero: zero(1) },
            );
            let mut reals = vec![f32::NAN; len];
            dequantize(&pool, x, &mut reals).unwrap();
            for i in 0..len { prop_assert_eq!(reals[i], real(a[i], 0, 0.11)); }
            let mut out = vec![0; len];
            quantize(&pool, &reals, to, &mut out).unwrap();
            for i in 0..len { prop_assert_eq!(out[i], byte(reals[i])); }
            binary(&pool, if mul { Both::Mul } else { Both::Add }, x, y, relu, to, &mut out).unwrap();
            for i in 0..len {
                let (p, q) = (real(a[i], 0, 0.11), real(b[i], 1, 0.23));
                let r = if mul { p * q } else { p + q };
                prop_assert_eq!(out[i], byte(if relu { r.max(0.0) } else { r }));
            }
            let (scale, zero) = range(&pool, &reals);
            let low = reals.iter().fold(0.0f32, |a, &b| a.min(b));
            let high = reals.iter().fold(0.0f32, |a, &b| a.max(b));
            prop_assert_eq!(scale, (high - low) / 255.0);
            let steps = if scale == 0.0 { 0.0 } else { -(low / scale) };
            prop_assert_eq!(f32::from(zero), steps.round_ties_even().clamp(0.0, 255.0));
        }
    }

    /// The largest of a window, whatever the sign.
    #[test]
    fn pools_bytes(c in case(), threads in 1usize..3) {
        use crate::channels_last::pool::PoolShape;
        let s = &c.shape;
        let windows = [1, 2].map(|i| Window {
            kernel: s.kernel[i], stride: s.strides[i], dilation: s.dilations[i], pad_begin: s.pads[i], pad_end: s.pads[i],
        });
        let (input, output) = ([s.input[1], s.input[2]], [s.output[1], s.output[2]]);
        let shape = PoolShape { batch: s.batch, channels: s.in_channels, input, output, windows };
        let pool = Pool::new(threads).unwrap();
        let mut out = vec![7; s.batch * output[0] * output[1] * s.in_channels];
        pool::max_pool(&pool, &shape, c.bytes(), &mut out).unwrap();
        let mut at = 0;
        for n in 0..s.batch { for oy in 0..output[0] { for ox in 0..output[1] { for ch in 0..s.in_channels {
            let lowest = if c.x_signed { -128 } else { 0 };
            let mut best = lowest;
            for ky in 0..s.kernel[1] { for kx in 0..s.kernel[2] {
                let y = (oy * s.strides[1] + ky * s.dilations[1]).wrapping_sub(s.pads[1]);
                let x = (ox * s.strides[2] + kx * s.dilations[2]).wrapping_sub(s.pads[2]);
                if y < input[0] && x < input[1] {
                    best = best.max(number(c.x[((n * input[0] + y) * input[1] + x) * s.in_channels + ch], c.x_signed));
                }
            }}
            prop_assert_eq!(number(out[at], c.x_signed), best);
            at += 1;
        }}}}
    }
}

#[test]
fn packed_weights_come_back() {
    let data = bytes(37 * 29, 5, false);
    let pool = Pool::serial();
    let strides = [0, 29, 1];
    let matrix =
        ByteMatrix { data: &data, signed: false, taps: 1, channels: 37, columns: 29, strides, zeros: &[3] };
    let w = ByteWeights::pack(&pool, &matrix).unwrap();
    let again = ByteWeights::from_packed(pool.level(), &matrix, w.packed().clone()).unwrap();
    assert_eq!(w.sums().collect::<Vec<_>>(), again.sums().collect::<Vec<_>>());
    assert_eq!(w.zeros, again.zeros);
    let other = ByteMatrix { channels: 32, ..matrix };
    assert!(ByteWeights::from_packed(pool.level(), &other, Packed::clone(w.packed())).is_err());
    let short = ByteMatrix { data: &data[1..], ..matrix };
    assert!(ByteWeights::pack(&pool, &short).is_err());
    // Weights of which no group is apart, few are (more than there is room for at first), or every second is.
    for large in [0, 24, 640] {
        let data: Vec<u8> = (0..640 * 29).map(|i| if i / 29 < large { 110 } else { (i % 7) as u8 }).collect();
        let matrix = ByteMatrix { data: &data, signed: true, channels: 640, zeros: &[], ..matrix };
        let x: Vec<u8> = bytes(3 * 640, 9, true);
        let results = [false, true].map(|again| {
            let mut w = ByteWeights::pack(&pool, &matrix).unwrap();
            if again {
                w = ByteWeights::from_packed(pool.level(), &matrix, w.packed().clone()).unwrap();
            }
            // A few groups of large weights find others to meet.
            assert_eq!(w.arranged(), w.form == Form::Pairs && large == 24);
            let mut out = vec![0; 3 * 29];
            let s = Scaling { x_scale: 1.0, x_zero: 7, scales: &[], bias: &[] };
            let x = Bytes { data: &x, signed: false };
            conv::linear(&pool, 3, x, 640, &w, &s, sums(&mut out, 29)).unwrap();
            (out, format!("{:?}", w.form))
        });
        assert_eq!(results[0], results[1]);
        for (row, x) in x.chunks_exact(640).enumerate() {
            for column in 0..29 {
                let of = |k: usize| i32::from(data[29 * k + column]) * (i32::from(x[k]) - 7);
                assert_eq!(results[0].0[29 * row + column], (0..640).map(of).sum::<i32>());
            }
        }
        let other = ByteMatrix { columns: 13, ..matrix };
        let packed = ByteWeights::pack(&pool, &matrix).unwrap().packed().clone();
        assert!(ByteWeights::from_packed(pool.level(), &other, packed).is_err());
    }
}

use crate::packed::Packed;
