//! Convolutions of bytes whose channels are in groups: one convolution after the other, each for as many groups as fill
//! the vectors with outputs. Weights between groups that are taken together stand for zeros.

use super::conv::{Bytes, Output, Scaling, conv};
use super::fill::Order;
use super::weights::{ByteMatrix, ByteWeights};
use crate::conv::ConvShape;
use crate::epilogue::{Epilogue, Operand, Step};
use crate::error::{KernelError, extent};
use crate::threads::Pool;
use std::ops::Range;

/// Outputs that fill a panel at most levels.
const FULL: usize = 16;
/// Most steps of an epilogue of a convolution in groups.
pub const MAX_STEPS: usize = 8;

/// Weights of a convolution in groups.
#[derive(Debug, Clone)]
pub struct GroupWeights {
    parts: Vec<ByteWeights>,
    /// Of a part.
    channels: usize,
    columns: usize,
}

impl GroupWeights {
    /// Packs `[out_channels, in_channels / groups, taps..]` weights, which are i8 if `signed`, with zero points as
    /// [`ByteMatrix`] has them, for kernels at the pool's level.
    pub fn pack(
        pool: &Pool,
        s: &ConvShape,
        data: &[u8],
        signed: bool,
        zeros: &[i32],
    ) -> Result<GroupWeights, KernelError> {
        let taps: usize = s.kernel.iter().product();
        let (channels, columns) = (s.in_channels / s.groups.max(1), s.out_channels / s.groups.max(1));
        let len = extent("weights", &[s.out_channels, channels, taps], &[channels * taps, taps, 1])?;
        if data.len() != len || ![0, 1, s.out_channels].contains(&zeros.len()) {
            return Err(KernelError::Shape("weights in groups: other sizes than the convolution's"));
        }
        // As few groups together as fill a panel, where all parts can be alike.
        let together = (1..=s.groups).find(|m| s.groups.is_multiple_of(*m) && m * columns >= FULL);
        let together = together.unwrap_or(s.groups.max(1));
        let of = |part: usize| {
            let zeros = match zeros {
                [] | [_] => zeros,
                all => &all[part * together * columns..][..together * columns],
            };
            let depth = together * channels * taps;
            let mut dense = vec![0; together * columns * depth];
            for (j, row) in dense.chunks_exact_mut(depth.max(1)).enumerate() {
                let zero = zeros.get(if zeros.len() == 1 { 0 } else { j }).copied().unwrap_or(0);
                row.fill(zero as u8);
                let group = j / columns;
                let from = &data[(part * together * columns + j) * channels * taps..][..channels * taps];
                row[group * channels * taps..][..channels * taps].copy_from_slice(from);
            }
            let matrix = ByteMatrix {
                data: &dense,
                signed,
                taps,
                channels: together * channels,
                columns: together * columns,
                strides: [1, taps, depth],
                zeros,
            };
            ByteWeights::pack(pool, &matrix)
        };
        let parts = (0..s.groups / together).map(of).collect::<Result<_, _>>()?;
        Ok(GroupWeights { parts, channels: together * channels, columns: together * columns })
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(ByteWeights::bytes).sum()
    }
}

/// A convolution in groups. Rows of the operand, `pitch` apart, and of the result are pixels; its padding stands for
/// zeros.
pub fn conv_in_groups(
    pool: &Pool,
    s: &ConvShape,
    x: Bytes<'_>,
    pitch: usize,
    w: &GroupWeights,
    scaling: &Scaling<'_>,
    mut output: Output<'_>,
) -> Result<(), KernelError> {
    let sizes = [w.parts.len() * w.channels, w.parts.len() * w.columns];
    if sizes != [s.in_channels, s.out_channels] || x.data.len() < s.in_channels {
        return Err(KernelError::Shape("convolution in groups: the weights have other sizes"));
    }
    let mut shape = s.clone();
    (shape.groups, shape.in_channels, shape.out_channels) = (1, w.channels, w.columns);
    for (i, weights) in w.parts.iter().enumerate() {
        let columns = i * w.columns..(i + 1) * w.columns;
        let x = Bytes { data: &x.data[i * w.channels..], ..x };
        let per_column = |all: &'_ [f32]| -> Range<usize> {
            if all.len() == s.out_channels { columns.clone() } else { 0..all.len() }
        };
        let scaling = Scaling {
            scales: &scaling.scales[per_column(scaling.scales)],
            bias: &scaling.bias[per_column(scaling.bias)],
            ..*scaling
        };
        let mut room = [Step::Unary(crate::elementwise::UnaryOp::Relu); MAX_STEPS];
        let output = match &mut output {
            Output::Sums { out, pitch } => Output::Sums { out: rest(out, columns.start)?, pitch: *pitch },
            Output::Floats { out, pitch, epilogue } => {
                let epilogue = part(*epilogue, &columns, s.out_channels, &mut room)?;
                Output::Floats { out: rest(out, columns.start)?, pitch: *pitch, epilogue }
            }
            Output::Bytes { out, pitch, epilogue, to } => {
                let epilogue = part(*epilogue, &columns, s.out_channels, &mut room)?;
                Output::Bytes { out: rest(out, columns.start)?, pitch: *pitch, epilogue, to: *to }
            }
        };
        conv(pool, &shape, x, Order::Pixels(pitch), weights, &scaling, output)?;
    }
    Ok(())
}

fn rest<T>(out: &mut [T], from: usize) -> Result<&mut [T], KernelError> {
    out.get_mut(from..).ok_or(KernelError::Shape("convolution in groups: the result does not fit its room"))
}

/// What an epilogue of `all` columns is for some of them.
fn part<'a, 'r>(
    epilogue: Epilogue<'a>,
    columns: &Range<usize>,
    all: usize,
    room: &'r mut [Step<'a>; MAX_STEPS],
) -> Result<Epilogue<'r>, KernelError>
where
    'a: 'r,
{
    let wrong = || KernelError::Shape("convolution in groups: an epilogue that does not fit");
    let count = epilogue.steps.len();
    for (to, &step) in room.get_mut(..count).ok_or_else(wrong)?.iter_mut().zip(epilogue.steps) {
        *to = match step {
            Step::Binary { op, operand, reversed } => {
                let operand = match operand {
                    Operand::PerColumn(v) => Operand::PerColumn(v.get(columns.clone()).ok_or_else(wrong)?),
                    Operand::Full(v) => {
                        Operand::Pitched { data: v.get(columns.start..).ok_or_else(wrong)?, pitch: all }
                    }
                    Operand::Pitched { data, pitch } => {
                        Operand::Pitched { data: data.get(columns.start..).ok_or_else(wrong)?, pitch }
                    }
                    same => same,
                };
                Step::Binary { op, operand, reversed }
            }
            same => same,
        };
    }
    Ok(Epilogue::new(&room[..count]))
}

#[cfg(test)]
mod tests {
    use super::super::Quantized;
    use super::*;
    use crate::conv::Window;
    use crate::elementwise::{BinaryOp, UnaryOp};
    use crate::simd::Level;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// The bytes and floats of plain loops over exact sums, one scale a column.
        #[test]
        fn groups_are_as_plain_loops(
            groups in 1usize..9, channels in 1usize..6, columns in 1usize..6, side in 1usize..7, k in 1usize..4,
            stride in 1usize..3, batch in 1usize..3, zero: u8, w_zero in -3i32..4, apart in 0usize..3, seed: u64,
            threads in 1usize..3,
        ) {
            let mut state = seed | 1;
            let mut next = || {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 40) as u8
            };
            let window = Window { kernel: k, stride, dilation: 1, pad_begin: k / 2, pad_end: k / 2 };
            let (from, to) = (groups * channels, groups * columns);
            let shape = ConvShape::new(batch, from, to, groups, &[side, side], &[window; 2]).unwrap();
            let [_, h, w] = shape.output;
            let pitch = from + apart;
            let x: Vec<u8> = (0..batch * side * side * pitch).map(|_| next()).collect();
            let weights: Vec<u8> = (0..to * channels * k * k).map(|_| next()).collect();
            let scales: Vec<f32> = (0..to).map(|j| 0.001 + j as f32 * 1e-4).collect();
            let bias: Vec<f32> = (0..to).map(|j| j as f32 * 0.1 - 1.0).collect();
            let pixels = batch * h * w;
            let residual: Vec<f32> = (0..pixels * to).map(|_| f32::from(next()) / 64.0).collect();
            let factors: Vec<f32> = (0..to).map(|j| 1.0 + j as f32 * 0.25).collect();
            let mut sums = vec![0i32; pixels * to];
            for (i, sum) in sums.iter_mut().enumerate() {
                let (pixel, j) = (i / to, i % to);
                let (image, y, x0) = (pixel / (h * w), pixel / w % h, pixel % w);
                for c in 0..channels {
                    for (ky, kx) in (0..k * k).map(|t| (t / k, t % k)) {
                        let (y, x0) = ((y * stride + ky).wrapping_sub(k / 2), (x0 * stride + kx).wrapping_sub(k / 2));
                        if y < side && x0 < side {
                            let at = ((image * side + y) * side + x0) * pitch + j / columns * channels + c;
                            let weight = i32::from(weights[(j * channels + c) * k * k + ky * k + kx] as i8);
                            *sum += (i32::from(x[at]) - i32::from(zero)) * (weight - w_zero);
                        }
                    }
                }
            }
            let scaling = Scaling { x_scale: 0.5, x_zero: i32::from(zero), scales: &scales, bias: &bias };
            let steps = [
                Step::residual(&residual),
                Step::Binary { op: BinaryOp::Mul, operand: Operand::PerColumn(&factors), reversed: false },
                Step::Unary(UnaryOp::Relu),
            ];
            let zeros = if w_zero == 0 { vec![] } else { vec![w_zero; to] };
            for level in Level::available() {
                let pool = Pool::new(threads).unwrap().with_level(level);
                let packed = GroupWeights::pack(&pool, &shape, &weights, true, &zeros).unwrap();
                let mut out = vec![f32::NAN; pixels * to];
                let output = Output::Floats { out: &mut out, pitch: to, epilogue: Epilogue::new(&steps) };
                let bytes = Bytes { data: &x, signed: false };
                conv_in_groups(&pool, &shape, bytes, pitch, &packed, &scaling, output).unwrap();
                for (i, &got) in out.iter().enumerate() {
                    let j = i % to;
                    let want = ((sums[i] as f32 * (0.5 * scales[j]) + bias[j] + residual[i]) * factors[j]).max(0.0);
                    prop_assert!((got - want).abs() <= 1e-4 * want.abs().max(1.0), "{level:?} {i}: {got} {want}");
                }
                let mut out = vec![i32::MIN; pixels * to];
                let output = Output::Sums { out: &mut out, pitch: to };
                conv_in_groups(&pool, &shape, bytes, pitch, &packed, &scaling, output).unwrap();
                prop_assert_eq!(&out, &sums, "{:?}", level);
                let mut out = vec![0u8; pixels * to];
                let to_bytes = Quantized { scale: 0.25, zero: 3, signed: false };
                let output = Output::Bytes { out: &mut out, pitch: to, epilogue: Epilogue::NONE, to: to_bytes };
                conv_in_groups(&pool, &shape, bytes, pitch, &packed, &scaling, output).unwrap();
                for (i, &got) in out.iter().enumerate() {
                    let j = i % to;
                    let want = sums[i] as f32 * (0.5 * scales[j] / 0.25) + bias[j] / 0.25;
                    let want = (want.round_ties_even() + 3.0).clamp(0.0, 255.0) as u8;
                    prop_assert_eq!(got, want, "{:?} {}", level, i);
                }
            }
        }
    }

    #[test]
    fn other_sizes_are_refused() {
        let pool = Pool::serial();
        let shape = ConvShape::new(1, 4, 6, 2, &[3, 3], &[Window::new(1); 2]).unwrap();
        assert!(GroupWeights::pack(&pool, &shape, &[0; 11], true, &[]).is_err());
        assert!(GroupWeights::pack(&pool, &shape, &[0; 12], true, &[1, 2]).is_err());
        let w = GroupWeights::pack(&pool, &shape, &[0; 12], true, &[]).unwrap();
        let s = Scaling { x_scale: 1.0, x_zero: 0, scales: &[1.0], bias: &[] };
        let x = Bytes { data: &[0; 36], signed: false };
        let mut out = vec![0.0; 53];
        fn floats(out: &mut [f32]) -> Output<'_> {
            Output::Floats { out, pitch: 6, epilogue: Epilogue::NONE }
        }
        assert!(conv_in_groups(&pool, &shape, x, 4, &w, &s, floats(&mut out)).is_err());
        let other = ConvShape::new(1, 4, 4, 2, &[3, 3], &[Window::new(1); 2]).unwrap();
        let mut out = vec![0.0; 54];
        assert!(conv_in_groups(&pool, &other, x, 4, &w, &s, floats(&mut out)).is_err());
        let short = Output::Sums { out: &mut [0; 53], pitch: 6 };
        assert!(conv_in_groups(&pool, &shape, x, 4, &w, &s, short).is_err());
        conv_in_groups(&pool, &shape, x, 4, &w, &s, floats(&mut out)).unwrap();
    }
}
