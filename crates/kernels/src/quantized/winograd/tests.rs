//! Winograd's sums against plain loops and the direct kernel: they are the same numbers, whatever they lead to.

use super::*;
use crate::conv::Window;
use crate::elementwise::UnaryOp;
use crate::epilogue::{Epilogue, Step};
use crate::quantized::tests::number;
use crate::quantized::{ByteMatrix, ByteWeights, Order, Quantized, conv as direct};
use crate::simd::Level;
use proptest::prelude::*;

const BOTH: [Tiles; 2] = [Tiles::Two, Tiles::Four];

/// Bytes, either all of one kind of end or mixed.
fn bytes(len: usize, seed: u64, kind: u8) -> Vec<u8> {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let x = (state >> 33) as u8;
            match (kind, x % 4) {
                (0, _) => x,
                (1, 0) => 0,
                (1, 1) => 255,
                (1, 2) => 128,
                (1, _) => 127,
                (2, _) => 128,
                (3, _) => 127,
                (4, _) => 255,
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
    w: Vec<u8>,
    w_signed: bool,
    w_zeros: Vec<i32>,
}

impl Case {
    fn matrix(&self) -> ByteMatrix<'_> {
        let (channels, columns) = (self.shape.in_channels, self.shape.out_channels);
        let strides = [1, 9, 9 * channels];
        let (data, zeros) = (&self.w, &self.w_zeros);
        ByteMatrix { data, signed: self.w_signed, taps: 9, channels, columns, strides, zeros }
    }

    fn bytes(&self) -> Bytes<'_> {
        Bytes { data: &self.x, signed: self.x_signed }
    }

    fn scaling<'a>(&self, scales: &'a [f32], bias: &'a [f32]) -> Scaling<'a> {
        Scaling { x_scale: 0.02, x_zero: self.x_zero, scales, bias }
    }

    /// One sum by a plain loop.
    fn sum(&self, n: usize, oy: usize, ox: usize, o: usize) -> i64 {
        let s = &self.shape;
        let zero = match self.w_zeros[..] {
            [] => 0,
            [z] => z,
            _ => self.w_zeros[o],
        };
        let mut sum = 0;
        for tap in 0..9 {
            let y = (oy + tap / 3).wrapping_sub(s.pads[1]);
            let x = (ox + tap % 3).wrapping_sub(s.pads[2]);
            if y >= s.input[1] || x >= s.input[2] {
                continue;
            }
            for c in 0..s.in_channels {
                let at = ((n * s.input[1] + y) * s.input[2] + x) * s.in_channels + c;
                let w = number(self.w[(o * s.in_channels + c) * 9 + tap], self.w_signed) - i64::from(zero);
                sum += (number(self.x[at], self.x_signed) - i64::from(self.x_zero)) * w;
            }
        }
        sum
    }

    /// The direct kernel's result.
    fn direct(&self, pool: &Pool, scaling: &Scaling<'_>, output: Output<'_>) {
        let w = ByteWeights::pack(pool, &self.matrix()).unwrap();
        let order = Order::Pixels(self.shape.in_channels);
        direct::conv(pool, &self.shape, self.bytes(), order, &w, scaling, output).unwrap();
    }
}

fn case(largest: usize, channels: usize) -> impl Strategy<Value = Case> {
    let sizes =
        (1usize..3, 1..channels, 1usize..40, [1..largest, 1..largest], [[0usize..3, 0..3], [0..3, 0..3]]);
    let kinds = (any::<[bool; 2]>(), 0u8..6, 0u8..6, 0usize..3, any::<u64>(), any::<u8>());
    (sizes, kinds).prop_filter_map("the window does not fit", |(sizes, kinds)| {
        let (n, ic, oc, size, pads) = sizes;
        let ([x_signed, w_signed], x_kind, w_kind, zeros, seed, zero) = kinds;
        let windows =
            pads.map(|p| Window { kernel: 3, stride: 1, dilation: 1, pad_begin: p[0], pad_end: p[1] });
        let shape = ConvShape::new(n, ic, oc, 1, &size, &windows).ok()?;
        if shape.output.contains(&0) {
            return None;
        }
        let zero_of = |z: u8, signed: bool| number(if x_kind > 0 { z / 128 * 255 } else { z }, signed) as i32;
        let w_zeros = match zeros {
            0 => vec![],
            1 => vec![zero_of(zero ^ 0x55, w_signed)],
            _ => bytes(oc, seed ^ 7, 0).into_iter().map(|z| zero_of(z, w_signed)).collect(),
        };
        Some(Case {
            x: bytes(shape.input_len(), seed, x_kind),
            w: bytes(shape.weights_len(), seed ^ 1, w_kind),
            x_zero: zero_of(zero, x_signed),
            shape,
            x_signed,
            w_signed,
            w_zeros,
        })
    })
}

fn sums(out: &mut [i32], pitch: usize) -> Output<'_> {
    Output::Sums { out, pitch }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// Sums are those of plain loops whatever the sizes, signs, zero points, level and threads.
    #[test]
    fn sums_are_exact(c in case(14, 40), threads in 1usize..4, apart in 0usize..4) {
        let s = &c.shape;
        let mut expected = vec![];
        for n in 0..s.batch { for y in 0..s.output[1] { for x in 0..s.output[2] { for o in 0..s.out_channels {
            expected.push(i32::try_from(c.sum(n, y, x, o)).unwrap());
        }}}}
        let pitch = s.in_channels + apart;
        let mut spread = vec![99u8; c.x.len() / s.in_channels * pitch];
        for (to, from) in spread.chunks_exact_mut(pitch).zip(c.x.chunks_exact(s.in_channels)) {
            to[..s.in_channels].copy_from_slice(from);
        }
        for level in Level::available() {
            let pool = Pool::new(threads).unwrap().with_level(level);
            for tiles in BOTH {
                let w = WinogradWeights::pack(&pool, tiles, &c.matrix()).unwrap();
                let mut out = vec![i32::MIN; expected.len()];
                let x = Bytes { data: &spread, signed: c.x_signed };
                conv(&pool, s, x, pitch, &w, &c.scaling(&[], &[]), sums(&mut out, s.out_channels)).unwrap();
                prop_assert_eq!(&out, &expected, "{:?} {:?}", level, tiles);
            }
        }
    }

    /// What follows the sums is the direct kernel's, to the last bit.
    #[test]
    fn results_are_the_direct_kernels(
        c in case(40, 70), threads in 1usize..4, each: bool, with_bias: bool, signed: bool, zero in 0i32..256,
        kind in 0usize..4, apart in 0usize..9,
    ) {
        let columns = c.shape.out_channels;
        let scales: Vec<f32> = (0..if each { columns } else { 1 }).map(|j| 0.001 + j as f32 * 0.0003).collect();
        let bias: Vec<f32> = (0..if with_bias { columns } else { 0 }).map(|j| j as f32 * 0.7 - 3.0).collect();
        let steps: &[Step] = match kind {
            0 => &[],
            1 => &[Step::Unary(UnaryOp::Relu)],
            2 => &[Step::Unary(UnaryOp::Clip(-1.0, 6.0))],
            _ => &[Step::Unary(UnaryOp::Silu(1.0)), Step::Unary(UnaryOp::Neg)],
        };
        let epilogue = Epilogue::new(steps);
        let s = c.scaling(&scales, &bias);
        let to = Quantized { scale: 0.3, zero: if signed { zero - 128 } else { zero }, signed };
        let pitch = columns + apart;
        let len = c.shape.output_len() / columns * pitch;
        for level in Level::available() {
            let pool = Pool::new(threads).unwrap().with_level(level);
            let mut expected = (vec![7i32; c.shape.output_len()], vec![7f32; len], vec![7u8; len]);
            c.direct(&pool, &s, sums(&mut expected.0, columns));
            c.direct(&pool, &s, Output::Floats { out: &mut expected.1, pitch, epilogue });
            c.direct(&pool, &s, Output::Bytes { out: &mut expected.2, pitch, epilogue, to });
            for tiles in BOTH {
                if !WinogradWeights::exact(tiles, &c.matrix()) {
                    prop_assert!(WinogradWeights::pack(&pool, tiles, &c.matrix()).is_err());
                    continue;
                }
                let w = WinogradWeights::pack(&pool, tiles, &c.matrix()).unwrap();
                let mut out = (vec![8i32; c.shape.output_len()], vec![7f32; len], vec![7u8; len]);
                let ic = c.shape.in_channels;
                conv(&pool, &c.shape, c.bytes(), ic, &w, &s, sums(&mut out.0, columns)).unwrap();
                let output = Output::Floats { out: &mut out.1, pitch, epilogue };
                conv(&pool, &c.shape, c.bytes(), ic, &w, &s, output).unwrap();
                let output = Output::Bytes { out: &mut out.2, pitch, epilogue, to };
                conv(&pool, &c.shape, c.bytes(), ic, &w, &s, output).unwrap();
                prop_assert_eq!(&out.0, &expected.0, "{:?} {:?}", level, tiles);
                let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                prop_assert_eq!(bits(&out.1), bits(&expected.1), "{:?} {:?}", level, tiles);
                prop_assert_eq!(&out.2, &expected.2, "{:?} {:?}", level, tiles);
            }
        }
    }
}

/// Weights that add up to `total` in the first column, with that sign, and to nothing in the second.
fn adding_up(channels: usize, total: i64, sign: i8) -> Vec<u8> {
    let mut left = total;
    let mut w: Vec<u8> = (0..9 * channels)
        .map(|_| {
            let x = left.min(127);
            left -= x;
            (x as i8 * sign) as u8
        })
        .collect();
    assert_eq!(left, 0);
    w.resize(18 * channels, 0);
    w
}

/// The largest outputs that a form has, of both signs, are exact; with a weight more, they are refused.
#[test]
fn the_largest_outputs_are_exact() {
    for (tiles, limit, channels) in [(Tiles::Four, 1i64 << 25, 116), (Tiles::Two, 1 << 29, 1843)] {
        let total = (limit - 1) / 255;
        for (x, x_zero, sign) in [(255u8, 0, 1i8), (255, 0, -1), (0, 255, 1), (0, 255, -1)] {
            let window = Window { kernel: 3, stride: 1, dilation: 1, pad_begin: 1, pad_end: 1 };
            let shape = ConvShape::new(1, channels, 2, 1, &[5, 4], &[window; 2]).unwrap();
            let w = adding_up(channels, total, sign);
            let x = vec![x; shape.input_len()];
            let c = Case { shape, x, x_signed: false, x_zero, w, w_signed: true, w_zeros: vec![] };
            assert!(WinogradWeights::exact(tiles, &c.matrix()));
            assert!(255 * total < limit && 255 * (total + 1) >= limit);
            for level in Level::available() {
                let pool = Pool::serial().with_level(level);
                let w = WinogradWeights::pack(&pool, tiles, &c.matrix()).unwrap();
                let mut out = vec![0; c.shape.output_len()];
                let output = sums(&mut out, c.shape.out_channels);
                conv(&pool, &c.shape, c.bytes(), channels, &w, &c.scaling(&[], &[]), output).unwrap();
                let mut at = out.iter();
                for y in 0..5 {
                    for x in 0..4 {
                        for o in 0..2 {
                            assert_eq!(i64::from(*at.next().unwrap()), c.sum(0, y, x, o));
                        }
                    }
                }
                let most = out.iter().map(|x| i64::from(x.abs())).max().unwrap();
                assert_eq!(most, 255 * total);
            }
            let more = Case { w: adding_up(channels, total + 1, sign), ..c };
            assert!(!WinogradWeights::exact(tiles, &more.matrix()));
            assert!(WinogradWeights::pack(&Pool::serial(), tiles, &more.matrix()).is_err());
        }
    }
}

#[test]
fn packed_weights_come_back() {
    let data = bytes(9 * 37 * 29, 5, 0);
    let pool = Pool::serial();
    let matrix = ByteMatrix {
        data: &data,
        signed: true,
        taps: 9,
        channels: 37,
        columns: 29,
        strides: [1, 9, 9 * 37],
        zeros: &[],
    };
    for tiles in BOTH {
        let w = WinogradWeights::pack(&pool, tiles, &matrix).unwrap();
        assert_eq!(w.bytes(), w.packed().bytes().len());
        WinogradWeights::from_packed(pool.level(), tiles, &matrix, w.packed().clone()).unwrap();
        let other = ByteMatrix { channels: 33, ..matrix };
        assert!(WinogradWeights::from_packed(pool.level(), tiles, &other, w.packed().clone()).is_err());
        let short = ByteMatrix { data: &data[1..], ..matrix };
        assert!(WinogradWeights::pack(&pool, tiles, &short).is_err());
    }
    let zeros = ByteMatrix { zeros: &[1, 2], ..matrix };
    assert!(!WinogradWeights::exact(Tiles::Two, &zeros));
}

#[test]
fn other_shapes_are_refused() {
    let c = |stride: usize, dilation: usize, kernel: usize, groups: usize| {
        let window = Window { kernel, stride, dilation, pad_begin: 0, pad_end: 0 };
        ConvShape::new(1, 4, 4, groups, &[9, 9], &[window; 2]).unwrap()
    };
    assert!(supports(&c(1, 1, 3, 1)));
    for other in [c(2, 1, 3, 1), c(1, 2, 3, 1), c(1, 1, 5, 1), c(1, 1, 3, 2)] {
        assert!(!supports(&other));
        let data = bytes(9 * 16, 1, 0);
        let (strides, zeros) = ([1, 9, 36], &[]);
        let matrix =
            ByteMatrix { data: &data, signed: true, taps: 9, channels: 4, columns: 4, strides, zeros };
        let w = WinogradWeights::pack(&Pool::serial(), Tiles::Four, &matrix).unwrap();
        let x = Bytes { data: &[0; 4 * 81], signed: false };
        let s = Scaling { x_scale: 1.0, x_zero: 0, scales: &[], bias: &[] };
        let mut out = vec![0; other.output_len()];
        assert!(conv(&Pool::serial(), &other, x, 4, &w, &s, sums(&mut out, other.out_channels)).is_err());
    }
}

/// Layers of large images take the larger tiles, those with more weights than pixels the smaller ones, and what has
/// little to do neither.
#[test]
fn tiles_are_taken_where_they_pay() {
    let pick = |level: Level, side: usize, channels: usize| {
        let window = Window { kernel: 3, stride: 1, dilation: 1, pad_begin: 1, pad_end: 1 };
        let shape = ConvShape::new(1, channels, channels, 1, &[side, side], &[window; 2]).unwrap();
        assert!(Tiles::supports(level, &shape) || Tiles::pick(level, &shape).is_empty());
        Tiles::supports(level, &shape).then(|| Tiles::pick(level, &shape))
    };
    for level in Level::available() {
        for (side, channels, first) in [
            (56, 64, Some(Tiles::Four)),
            (14, 256, Some(Tiles::Four)),
            (7, 512, Some(Tiles::Two)),
            (56, 8, None),
            (3, 256, None),
        ] {
            let Some(picked) = pick(level, side, channels) else { continue };
            assert_eq!(picked.first().copied(), first, "{side} {channels}");
        }
    }
}
