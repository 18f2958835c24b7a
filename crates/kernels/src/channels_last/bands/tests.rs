//! Inverted residuals against the three kernels alone, whose bits they have.

use super::*;
use crate::channels_last::conv::{Algorithm, conv};
use crate::channels_last::depthwise::depthwise;
use crate::conv::Window;
use crate::elementwise::{BinaryOp, UnaryOp};
use proptest::prelude::*;

fn noise(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| (((i + seed) * 7919) % 1021) as f32 / 510.0 - 1.0).collect()
}

fn pointwise(s: &ConvShape, output: bool, from: usize, to: usize) -> ConvShape {
    let axes = if output { s.output } else { s.input };
    ConvShape::new(s.batch, from, to, 1, &axes[1..], &[Window::new(1); 2]).unwrap()
}

/// The channels of the input, the expanded image and the output.
struct Sizes {
    s: ConvShape,
    from: usize,
    to: usize,
    expands: bool,
}

/// Steps that each part may end with.
fn steps<'a>(which: usize, columns: &'a [f32]) -> Vec<Step<'a>> {
    let activation = [
        UnaryOp::Relu,
        UnaryOp::Clip(0.0, 0.6),
        UnaryOp::Silu(1.0),
        UnaryOp::HardSwish,
        UnaryOp::Clip(-0.4, 0.3),
    ][which / 8 % 5];
    let all = [
        Step::bias_columns(columns),
        Step::Unary(activation),
        Step::Binary { op: BinaryOp::Sub, operand: Operand::PerColumn(columns), reversed: true },
    ];
    all.into_iter().enumerate().filter(|(i, _)| which >> i & 1 == 1).map(|(_, s)| s).collect()
}

/// Compares at every level, with one to three threads.
fn check(z: &Sizes, which: [usize; 3], special: Option<(usize, f32)>) {
    let s = &z.s;
    let channels = s.in_channels;
    let (before, after) = (pointwise(s, false, z.from, channels), pointwise(s, true, channels, z.to));
    let mut x = noise(before.input_len(), 1);
    if !z.expands {
        x = noise(s.input_len(), 1);
    }
    if let Some((at, value)) = special.filter(|_| !x.is_empty()) {
        let at = at % x.len();
        x[at] = value;
    }
    let (w0, w1, w2) =
        (noise(before.weights_len(), 3), noise(s.weights_len(), 5), noise(after.weights_len(), 7));
    let (c0, c2) = (noise(channels, 2), noise(z.to, 4));
    let residual = noise(after.output_len(), 9);
    let (e0, e1) = (steps(which[0], &c0), steps(which[1], &c0));
    let mut e2 = steps(which[2], &c2);
    if which[2] >> 6 & 1 == 1 {
        e2.insert((which[2] & 1).min(e2.len()), Step::residual(&residual));
    }
    for level in Level::available() {
        let weights = |s: &ConvShape, w: &[f32]| {
            let pool = Pool::serial().with_level(level);
            ConvWeights::pack(&pool, s, w, Algorithm::Direct).unwrap()
        };
        let (p0, p2) = (weights(&before, &w0), weights(&after, &w2));
        let p1 = DepthwiseWeights::pack(level, s, &w1).unwrap();
        let block = InvertedResidual {
            expand: z.expands.then_some(Product { weights: &p0, epilogue: Epilogue::new(&e0) }),
            shape: s,
            weights: &p1,
            epilogue: Epilogue::new(&e1),
            project: Product { weights: &p2, epilogue: Epilogue::new(&e2) },
        };
        let serial = Pool::serial().with_level(level);
        let mut wide = vec![0.0; s.input_len()];
        if z.expands {
            conv(&serial, &before, &x, z.from, &p0, &mut wide, channels, Epilogue::new(&e0)).unwrap();
        } else {
            wide.copy_from_slice(&x);
        }
        let mut mid = vec![0.0; s.output_len()];
        depthwise(&serial, s, &wide, &p1, &mut mid, Epilogue::new(&e1)).unwrap();
        let mut want = vec![0.0; after.output_len()];
        conv(&serial, &after, &mid, channels, &p2, &mut want, z.to, Epilogue::new(&e2)).unwrap();
        for threads in 1..4 {
            let pool = Pool::new(threads).unwrap().with_level(level);
            let mut out = vec![0.5; want.len()];
            inverted_residual(&pool, &block, &x, &mut out).unwrap();
            for (i, (g, e)) in out.iter().zip(&want).enumerate() {
                let same = g.to_bits() == e.to_bits() || g.is_nan() && e.is_nan();
                assert!(same, "{s:?} {} {} {which:?} {level:?} {threads}: {i} is {g}, not {e}", z.from, z.to);
            }
        }
    }
}

fn window() -> impl Strategy<Value = Window> {
    (prop::sample::select(vec![1usize, 3, 5]), 1usize..3, 1usize..3, 0usize..4, 0usize..4).prop_map(
        |(kernel, stride, dilation, b, e)| Window {
            kernel,
            stride,
            dilation: if b == 3 { dilation } else { 1 },
            pad_begin: b,
            pad_end: e,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_block_has_the_bits_of_its_parts(
        batch in 0usize..3, from in 1usize..40, channels in 2usize..120, to in 1usize..40,
        h in 0usize..20, w in 0usize..24, a in window(), b in window(), expands in any::<bool>(),
        which in prop::array::uniform3(0usize..128), at in any::<usize>(), kind in 0usize..5,
    ) {
        let s = ConvShape::new(batch, channels, channels, channels, &[h, w], &[a, b]).unwrap();
        let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].get(kind).map(|&x| (at, x));
        check(&Sizes { s, from, to, expands }, which, special);
    }
}

/// The blocks of a real network at a sixth of its channels or all of them: every way to cut one.
#[test]
fn blocks_of_mobilenet() {
    for (from, channels, to, size, kernel, stride) in [
        (16, 96, 24, 112, 3, 2),
        (24, 144, 24, 56, 3, 1),
        (24, 144, 32, 56, 5, 2),
        (64, 384, 64, 14, 3, 1),
        (96, 576, 96, 14, 5, 1),
        (64, 960, 32, 7, 3, 1),
        (8, 100, 8, 30, 5, 1),
    ] {
        let half = kernel / 2;
        let w = Window { kernel, stride, dilation: 1, pad_begin: half, pad_end: half };
        let s = ConvShape::new(1, channels, channels, channels, &[size; 2], &[w; 2]).unwrap();
        for which in [[11, 11, 1], [25, 11, 65]] {
            check(&Sizes { s: s.clone(), from, to, expands: true }, which, None);
        }
        check(&Sizes { s, from, to, expands: false }, [0, 11, 1], None);
    }
}

#[test]
fn misfits_are_errors() {
    let w3 = Window { pad_begin: 1, pad_end: 1, ..Window::new(3) };
    let s = ConvShape::new(1, 16, 16, 16, &[5, 5], &[w3; 2]).unwrap();
    let (before, after) = (pointwise(&s, false, 4, 16), pointwise(&s, true, 16, 8));
    let pool = Pool::serial();
    let pack =
        |s: &ConvShape| ConvWeights::pack(&pool, s, &noise(s.weights_len(), 0), Algorithm::Direct).unwrap();
    let (p0, p2, wide) = (pack(&before), pack(&after), pack(&pointwise(&s, true, 8, 8)));
    let p1 = DepthwiseWeights::pack(pool.level(), &s, &noise(s.weights_len(), 0)).unwrap();
    let product = |weights| Product { weights, epilogue: Epilogue::NONE };
    let block = InvertedResidual {
        expand: Some(product(&p0)),
        shape: &s,
        weights: &p1,
        epilogue: Epilogue::NONE,
        project: product(&p2),
    };
    let x = noise(before.input_len(), 0);
    let mut out = vec![0.0; after.output_len()];
    inverted_residual(&pool, &block, &x, &mut out).unwrap();
    assert!(inverted_residual(&pool, &block, &x[1..], &mut out).is_err());
    assert!(inverted_residual(&pool, &block, &x, &mut out[1..]).is_err());
    let other = InvertedResidual { project: product(&wide), ..block };
    assert!(inverted_residual(&pool, &other, &x, &mut out).is_err());
    let other = InvertedResidual { expand: Some(product(&p2)), ..block };
    assert!(inverted_residual(&pool, &other, &x, &mut out).is_err());
    let full = noise(s.output_len(), 0);
    let steps = [Step::residual(&full)];
    let other = InvertedResidual { epilogue: Epilogue::new(&steps), ..block };
    assert!(inverted_residual(&pool, &other, &x, &mut out).is_err());
}
