//! Convolutions and pools against formulations that share nothing with their code: explicit padding,
//! the definition element by element, and the adjoint.

use proptest::prelude::*;
use tensormill_ir::{
    Op,
    ops::{AutoPad, AveragePool, Conv, ConvTranspose, MaxPool},
};
use tensormill_reference::{EvalLimits, eval};
use tensormill_tensor::{Tensor, Value};

fn run(op: impl Into<Op>, operands: &[&Tensor]) -> Tensor {
    let values: Vec<Value> = operands.iter().map(|t| Value::Tensor((*t).clone())).collect();
    let operands: Vec<Option<&Value>> = values.iter().map(Some).collect();
    let mut results = eval(&op.into(), &operands, &EvalLimits::default()).expect("evaluates");
    results.swap_remove(0).into_tensor().expect("is a tensor")
}

fn small(n: usize, seed: u64) -> Vec<f64> {
    let mut s = seed | 1;
    (0..n)
        .map(|_| {
            s = s.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((s >> 33) % 17) as f64 - 8.0
        })
        .collect()
}

fn tensor(shape: &[usize], v: Vec<f64>) -> Tensor {
    Tensor::from_vec(shape, v).expect("fits")
}

#[derive(Debug, Clone)]
struct Setup {
    n: usize,
    group: usize,
    c: usize,
    m: usize,
    size: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    dilation: [usize; 2],
    pads: [usize; 4],
    seed: u64,
}

prop_compose! {
    fn setup()(
        n in 1usize..3, group in 1usize..4, c in 1usize..3, m in 1usize..3,
        size in [1usize..9, 1usize..9], kernel in [1usize..4, 1usize..4],
        stride in [1usize..4, 1usize..4], dilation in [1usize..4, 1usize..4],
        pads in [0usize..4, 0usize..4, 0usize..4, 0usize..4], seed: u64,
    ) -> Setup {
        Setup { n, group, c, m, size, kernel, stride, dilation, pads, seed }
    }
}

impl Setup {
    /// Size of the padded input and of the result, if the kernel fits.
    fn sizes(&self) -> Option<([usize; 2], [usize; 2])> {
        let padded = [0, 1].map(|i| self.size[i] + self.pads[i] + self.pads[2 + i]);
        let extent = [0, 1].map(|i| (self.kernel[i] - 1) * self.dilation[i] + 1);
        if extent[0] > padded[0] || extent[1] > padded[1] {
            return None;
        }
        Some((padded, [0, 1].map(|i| (padded[i] - extent[i]) / self.stride[i] + 1)))
    }

    fn conv(&self) -> Conv {
        Conv {
            strides: self.stride.to_vec(),
            dilations: self.dilation.to_vec(),
            pads: self.pads.to_vec(),
            group: self.group,
            ..Conv::default()
        }
    }
}

proptest! {
    #[test]
    fn convolution_is_its_definition_on_a_padded_input(s in setup()) {
        let Some((padded, out)) = s.sizes() else { return Ok(()) };
        let (channels, kernels) = (s.c * s.group, s.m * s.group);
        let [h, w] = s.size;
        let x = small(s.n * channels * h * w, s.seed);
        let k = small(kernels * s.c * s.kernel[0] * s.kernel[1], s.seed ^ 5);
        let b = small(kernels, s.seed ^ 9);
        let mut big = vec![0.0; s.n * channels * padded[0] * padded[1]];
        for (i, v) in x.iter().enumerate() {
            let (plane, row, col) = (i / (h * w), i / w % h, i % w);
            big[(plane * padded[0] + row + s.pads[0]) * padded[1] + col + s.pads[1]] = *v;
        }
        let mut want = vec![];
        for n in 0..s.n {
            for m in 0..kernels {
                for r in 0..out[0] {
                    for c in 0..out[1] {
                        let mut sum = b[m];
                        for i in 0..s.c {
                            let plane = n * channels + m / s.m * s.c + i;
                            for p in 0..s.kernel[0] {
                                for q in 0..s.kernel[1] {
                                    let row = r * s.stride[0] + p * s.dilation[0];
                                    let col = c * s.stride[1] + q * s.dilation[1];
                                    sum += big[(plane * padded[0] + row) * padded[1] + col]
                                        * k[((m * s.c + i) * s.kernel[0] + p) * s.kernel[1] + q];
                                }
                            }
                        }
                        want.push(sum);
                    }
                }
            }
        }
        let got = run(
            s.conv(),
            &[
                &tensor(&[s.n, channels, h, w], x),
                &tensor(&[kernels, s.c, s.kernel[0], s.kernel[1]], k),
                &tensor(&[kernels], b),
            ],
        );
        prop_assert_eq!(got.shape().dims(), &[s.n, kernels, out[0], out[1]]);
        prop_assert_eq!(got.to_f64_vec().expect("floats"), want);
    }

    /// `<conv(x), y> == <x, transpose(y)>`, exactly, as all numbers are small integers.
    #[test]
    fn transposed_convolution_is_the_adjoint(s in setup()) {
        let Some((padded, out)) = s.sizes() else { return Ok(()) };
        let (channels, kernels) = (s.c * s.group, s.m * s.group);
        let [h, w] = s.size;
        // What the strides of the convolution left over at the end.
        let left = [0, 1].map(|i| {
            let extent = (s.kernel[i] - 1) * s.dilation[i] + 1;
            padded[i] - extent - (out[i] - 1) * s.stride[i]
        });
        let x = tensor(&[s.n, channels, h, w], small(s.n * channels * h * w, s.seed));
        let k = tensor(
            &[kernels, s.c, s.kernel[0], s.kernel[1]],
            small(kernels * s.c * s.kernel[0] * s.kernel[1], s.seed ^ 5),
        );
        let y = tensor(&[s.n, kernels, out[0], out[1]], small(s.n * kernels * out[0] * out[1], s.seed ^ 7));
        let back = ConvTranspose {
            strides: s.stride.to_vec(),
            dilations: s.dilation.to_vec(),
            pads: s.pads.to_vec(),
            output_padding: left.to_vec(),
            group: s.group,
            ..ConvTranspose::default()
        };
        let (forth, back) = (run(s.conv(), &[&x, &k]), run(back, &[&y, &k]));
        prop_assert_eq!(back.shape(), x.shape());
        let dot = |a: &Tensor, b: &Tensor| -> f64 {
            let (a, b) = (a.to_f64_vec().expect("floats"), b.to_f64_vec().expect("floats"));
            a.iter().zip(b).map(|(a, b)| a * b).sum()
        };
        prop_assert_eq!(dot(&forth, &y), dot(&x, &back));
    }

    #[test]
    fn pools_are_their_definition(
        size in 1usize..12, kernel in 1usize..5, stride in 1usize..4, dilation in 1usize..3,
        pads in [0usize..4, 0usize..4], ceil: bool, count_include_pad: bool, special in 0usize..4, seed: u64,
    ) {
        let extent = (kernel - 1) * dilation + 1;
        // Windows that see nothing but padding have no mean.
        prop_assume!(pads[0] < kernel.min(extent) && pads[1] < extent && extent <= size + pads[0] + pads[1]);
        let mut x = small(size, seed);
        match special {
            0 => x[size / 2] = f64::NAN,
            1 => x[0] = f64::INFINITY,
            2 => x[size - 1] = f64::NEG_INFINITY,
            _ => {}
        }
        let (mut max, mut mean) = (vec![], vec![]);
        let mut start = -(pads[0] as i64);
        let (end, padded_end) = (size as i64, (size + pads[1]) as i64);
        loop {
            let full = start + extent as i64 <= padded_end;
            let cut_off = ceil && start < end && start - (stride as i64) + (extent as i64) < padded_end;
            if !(full || cut_off || max.is_empty()) {
                break;
            }
            let places = (0..kernel as i64).map(|k| start + k * dilation as i64);
            let seen: Vec<f64> = places.clone().filter(|p| (0..end).contains(p)).map(|p| x[p as usize]).collect();
            let nan = seen.iter().any(|v| v.is_nan());
            max.push(if nan { f64::NAN } else { seen.iter().copied().fold(f64::NEG_INFINITY, f64::max) });
            let count = if count_include_pad { places.filter(|p| *p < padded_end).count() } else { seen.len() };
            mean.push(seen.iter().sum::<f64>() / count as f64);
            start += stride as i64;
        }
        let t = tensor(&[1, 1, size], x);
        let (kernel, strides, dilations, pads) = (vec![kernel], vec![stride], vec![dilation], pads.to_vec());
        let auto_pad = AutoPad::Explicit;
        let got = run(
            MaxPool {
                kernel: kernel.clone(), strides: strides.clone(), dilations: dilations.clone(), pads: pads.clone(),
                auto_pad, ceil_mode: ceil, ..MaxPool::default()
            },
            &[&t],
        );
        prop_assert!(got.same_bits(&tensor(&[1, 1, max.len()], max.clone())), "{:?} {:?}", got, max);
        let got = run(
            AveragePool { kernel, strides, dilations, pads, auto_pad, ceil_mode: ceil, count_include_pad },
            &[&t],
        );
        let got = got.to_f64_vec().expect("floats");
        prop_assert_eq!(got.len(), mean.len());
        for (a, b) in got.iter().zip(&mean) {
            prop_assert!(a == b || (a.is_nan() && b.is_nan()), "{:?} {:?}", got, mean);
        }
    }
}

#[test]
fn attributes_that_make_no_sense_are_refused() {
    let x = Value::Tensor(tensor(&[1, 2, 4, 4], small(32, 3)));
    let w = Value::Tensor(tensor(&[2, 2, 3, 3], small(36, 4)));
    let bad = [
        Conv { strides: vec![0, 1], ..Conv::default() },
        Conv { strides: vec![1], ..Conv::default() },
        Conv { dilations: vec![usize::MAX, 1], ..Conv::default() },
        Conv { pads: vec![usize::MAX; 4], ..Conv::default() },
        Conv { dilations: vec![2, 2], ..Conv::default() },
        Conv { group: 0, ..Conv::default() },
        Conv { group: usize::MAX, ..Conv::default() },
    ];
    for op in bad {
        assert!(eval(&op.clone().into(), &[Some(&x), Some(&w)], &EvalLimits::default()).is_err(), "{op:?}");
    }
    // Padding of two thousand million on every side asks for more than the limits allow.
    let huge = MaxPool { kernel: vec![1, 1], pads: vec![i32::MAX as usize; 4], ..MaxPool::default() };
    assert!(eval(&huge.into(), &[Some(&x)], &EvalLimits::default()).is_err());
}
