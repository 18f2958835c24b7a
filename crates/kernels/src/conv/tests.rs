//! Every convolution against nested loops in `f64`.

use super::*;
use crate::elementwise::UnaryOp;
use crate::epilogue::Step;
use proptest::prelude::*;

fn noise(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| (((i + seed) * 7919) % 1021) as f32 / 510.0 - 1.0).collect()
}

fn twin(s: &ConvShape, x: &[f32], w: &[f32]) -> Vec<f64> {
    let (ci, co) = (s.in_channels / s.groups, s.out_channels / s.groups);
    let [oz, oy, ox] = s.output;
    let mut out = Vec::new();
    for n in 0..s.batch {
        for c in 0..s.out_channels {
            for p in 0..oz * oy * ox {
                let at = [p / ox / oy, p / ox % oy, p % ox];
                let mut sum = 0.0;
                for i in 0..ci {
                    for t in 0..s.taps() {
                        let tap =
                            [t / s.kernel[2] / s.kernel[1], t / s.kernel[2] % s.kernel[1], t % s.kernel[2]];
                        let mut offset = (n * s.in_channels + c / co * ci + i) as isize;
                        let mut inside = true;
                        for a in 0..3 {
                            let v = (at[a] * s.strides[a] + tap[a] * s.dilations[a]) as isize
                                - s.pads[a] as isize;
                            inside &= v >= 0 && v < s.input[a] as isize;
                            offset = offset * s.input[a] as isize + v;
                        }
                        if inside {
                            sum += x[offset as usize] as f64 * w[(c * ci + i) * s.taps() + t] as f64;
                        }
                    }
                }
                out.push(sum);
            }
        }
    }
    out
}

fn check(s: &ConvShape, threads: usize) {
    let (x, w) = (noise(s.input_len(), 1), noise(s.weights_len(), 5));
    let (bias, residual) = (noise(s.out_channels, 3), noise(s.output_len(), 11));
    let steps = [Step::bias_rows(&bias), Step::residual(&residual), Step::Unary(UnaryOp::Relu)];
    let positions = s.positions().max(1);
    let want: Vec<f64> = twin(s, &x, &w)
        .iter()
        .enumerate()
        .map(|(i, v)| (v + bias[i / positions % s.out_channels] as f64 + residual[i] as f64).max(0.0))
        .collect();
    for level in Level::available() {
        let pool = Pool::new(threads).unwrap().with_level(level);
        let mut out = vec![f32::NAN; s.output_len()];
        conv(&pool, s, &x, &w, &mut out, Epilogue::new(&steps)).unwrap();
        for (i, (&g, &e)) in out.iter().zip(&want).enumerate() {
            assert!((g as f64 - e).abs() <= 1e-4, "{s:?} {level:?}: element {i} is {g}, not {e}");
        }
    }
}

fn window() -> impl Strategy<Value = Window> {
    (1usize..5, 1usize..4, 1usize..4, 0usize..4, 0usize..4).prop_map(|(kernel, stride, dilation, b, e)| {
        Window { kernel, stride, dilation, pad_begin: b, pad_end: e }
    })
}

proptest! {
    #[test]
    fn convolutions_match_nested_loops(
        batch in 1usize..3, groups in 1usize..4, ci in 1usize..5, co in 1usize..5,
        axes in prop::collection::vec((0usize..14, window()), 1..4), threads in 1usize..3,
    ) {
        let input: Vec<usize> = axes.iter().map(|a| if axes.len() == 3 { a.0 / 2 } else { a.0 }).collect();
        let windows: Vec<Window> = axes.iter().map(|a| a.1).collect();
        check(&ConvShape::new(batch, groups * ci, groups * co, groups, &input, &windows).unwrap(), threads);
    }

    #[test]
    fn depthwise_matches_nested_loops(
        batch in 1usize..3, channels in 2usize..5, multiplier in 1usize..3,
        axes in prop::collection::vec((0usize..40, window()), 1..3), threads in 1usize..3,
    ) {
        let (input, windows): (Vec<usize>, Vec<Window>) = axes.into_iter().unzip();
        let s = ConvShape::new(batch, channels, channels * multiplier, channels, &input, &windows).unwrap();
        prop_assert!(s.depthwise());
        check(&s, threads);
    }

    #[test]
    fn transposed_convolutions_match_the_scatter(
        batch in 1usize..3, groups in 1usize..3, ci in 1usize..4, co in 1usize..4,
        axes in prop::collection::vec((1usize..7, 0usize..20, window()), 1..4), threads in 1usize..3,
    ) {
        let input: Vec<usize> = axes.iter().map(|a| a.0).collect();
        let output: Vec<usize> = axes.iter().map(|a| if axes.len() == 3 { a.1 / 3 } else { a.1 }).collect();
        let windows: Vec<Window> = axes.iter().map(|a| a.2).collect();
        let s = ConvTransposeShape::new(batch, groups * ci, groups * co, groups, &input, &output, &windows).unwrap();
        let (x, w) = (noise(s.input_len(), 1), noise(s.weights_len(), 5));
        let bias = noise(groups * co, 3);
        let taps: usize = windows.iter().map(|w| w.kernel).product();
        let (si, so): (usize, usize) = (input.iter().product(), output.iter().product());
        let mut want: Vec<f64> = (0..s.output_len()).map(|i| bias[i / so % (groups * co)] as f64).collect();
        for n in 0..batch { for c in 0..groups * ci { for o in 0..co { for p in 0..si { for t in 0..taps {
            let (mut rp, mut rt, mut offset, mut step, mut inside) = (p, t, 0isize, 1isize, true);
            for a in (0..input.len()).rev() {
                let w = &windows[a];
                let v = (rp % input[a] * w.stride + rt % w.kernel * w.dilation) as isize - w.pad_begin as isize;
                rp /= input[a];
                rt /= w.kernel;
                inside &= v >= 0 && v < output[a] as isize;
                offset += v * step;
                step *= output[a] as isize;
            }
            if inside {
                let channel = c / ci * co + o;
                let value = x[(n * groups * ci + c) * si + p] as f64 * w[(c * co + o) * taps + t] as f64;
                want[(n * groups * co + channel) * so + offset as usize] += value;
            }
        }}}}}
        for level in Level::available() {
            let pool = Pool::new(threads).unwrap().with_level(level);
            let mut out = vec![f32::NAN; s.output_len()];
            let steps = [Step::bias_rows(&bias)];
            conv_transpose(&pool, &s, &x, &w, &mut out, Epilogue::new(&steps)).unwrap();
            for (&g, &e) in out.iter().zip(&want) {
                prop_assert!((g as f64 - e).abs() <= 1e-4, "{g} for {e}");
            }
        }
    }
}

fn square(
    batch: usize,
    ci: usize,
    co: usize,
    groups: usize,
    size: usize,
    kernel: usize,
    stride: usize,
) -> ConvShape {
    let w = Window { kernel, stride, dilation: 1, pad_begin: kernel / 2, pad_end: kernel / 2 };
    ConvShape::new(batch, ci, co, groups, &[size, size], &[w, w]).unwrap()
}

#[test]
fn shapes_of_real_layers() {
    check(&square(1, 3, 16, 1, 33, 7, 2), 2);
    check(&square(1, 40, 48, 1, 28, 3, 1), 2);
    check(&square(2, 64, 64, 1, 7, 3, 1), 2);
    check(&square(1, 96, 160, 1, 7, 1, 1), 2);
    check(&square(1, 64, 96, 1, 14, 1, 2), 1);
    check(&square(1, 32, 64, 2, 7, 3, 1), 1);
    check(&square(1, 32, 32, 32, 56, 3, 1), 2);
    check(&square(1, 16, 16, 16, 57, 5, 2), 2);
}

#[test]
fn threads_do_not_change_a_bit() {
    for s in
        [square(1, 64, 64, 1, 28, 3, 1), square(1, 128, 256, 1, 7, 3, 1), square(1, 64, 64, 64, 56, 3, 1)]
    {
        let (x, w) = (noise(s.input_len(), 1), noise(s.weights_len(), 5));
        let mut outs = Vec::new();
        for threads in [1, 2, 3] {
            let mut out = vec![0.0; s.output_len()];
            conv(&Pool::new(threads).unwrap(), &s, &x, &w, &mut out, Epilogue::NONE).unwrap();
            outs.push(out);
        }
        assert!(outs[0] == outs[1] && outs[0] == outs[2]);
    }
}

#[test]
fn packed_weights_serve_other_sizes() {
    let (small, big) = (square(1, 8, 64, 1, 7, 3, 1), square(2, 8, 64, 1, 20, 3, 1));
    let w = noise(small.weights_len(), 5);
    let pool = Pool::serial();
    for (packed_for, used_for) in [(&small, &big), (&big, &small)] {
        let packed = ConvWeights::pack(pool.level(), packed_for, &w).unwrap();
        let x = noise(used_for.input_len(), 1);
        let mut out = vec![0.0; used_for.output_len()];
        conv_packed(&pool, used_for, &x, &packed, &mut out, Epilogue::NONE).unwrap();
        for (g, e) in out.iter().zip(twin(used_for, &x, &w)) {
            assert!((*g as f64 - e).abs() < 1e-4);
        }
    }
    let other = square(1, 64, 8, 1, 7, 3, 1);
    let packed = ConvWeights::pack(pool.level(), &small, &w).unwrap();
    let x = noise(other.input_len(), 1);
    let mut out = vec![0.0; other.output_len()];
    assert!(conv_packed(&pool, &other, &x, &packed, &mut out, Epilogue::NONE).is_err());
}

#[test]
fn hostile_sizes_are_errors() {
    let w = Window::new(3);
    let new = |c, g, input: &[usize], w: &[Window]| ConvShape::new(1, c, c, g, input, w);
    assert!(new(4, 0, &[8], &[w]).is_err());
    assert!(new(4, 3, &[8], &[w]).is_err());
    assert!(new(4, 1, &[], &[]).is_err());
    assert!(new(4, 1, &[8, 8, 8, 8], &[w; 4]).is_err());
    assert!(new(4, 1, &[usize::MAX], &[w]).is_err());
    assert!(new(usize::MAX, 1, &[8], &[w]).is_err());
    for bad in [
        Window { stride: 0, ..w },
        Window { dilation: 0, ..w },
        Window { kernel: 0, ..w },
        Window { pad_begin: usize::MAX, ..w },
        Window { pad_end: 1 << 40, ..w },
    ] {
        assert!(new(4, 1, &[8], &[bad]).is_err());
    }
    let s = new(4, 1, &[2], &[w]).unwrap();
    assert_eq!(s.output(), [0]);
    check(&s, 1);
}
