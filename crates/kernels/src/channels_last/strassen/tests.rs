use super::*;
use crate::channels_last::linear::{LinearWeights, Method, linear};
use crate::elementwise::{BinaryOp, UnaryOp};
use crate::epilogue::{Epilogue, Operand, Step};
use crate::matmul::MatRef;
use proptest::prelude::*;

/// The tables describe a product of two by two matrices of numbers.
#[test]
fn the_tables_multiply() {
    let (a, b) = ([2, 3, 5, 7], [11, 13, 17, 19]);
    let factor = |f: Factor, [a, b, c, d]: [i32; 4]| match f {
        Quarter(q) => [a, b, c, d][q],
        Sum(s) => [a + d, c + d, a + b, c - a, b - d][s],
    };
    let products: Vec<i32> = (0..PRODUCTS).map(|p| factor(LEFT[p], a) * factor(RIGHT[p], b)).collect();
    let want = [2 * 11 + 3 * 17, 2 * 13 + 3 * 19, 5 * 11 + 7 * 17, 5 * 13 + 7 * 19];
    for (of, want) in RESULT.iter().zip(want) {
        let sum: i32 = of.iter().zip(&products).map(|(t, p)| i32::from(*t) * p).sum();
        assert_eq!(sum, want);
    }
}

fn noise(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| (((i + seed) * 7919) % 1021) as f32 / 510.0 - 1.0).collect()
}

/// A few kinds of steps after a product.
fn steps<'a>(kind: usize, bias: &'a [f32], residual: &'a [f32]) -> Vec<Step<'a>> {
    match kind {
        0 => vec![],
        1 => vec![Step::bias_columns(bias), Step::residual(residual), Step::Unary(UnaryOp::Relu)],
        2 => vec![Step::bias_columns(bias), Step::Unary(UnaryOp::Gelu)],
        3 => vec![Step::bias_columns(bias), Step::Unary(UnaryOp::Clip(0.0, 6.0))],
        _ => vec![
            Step::Unary(UnaryOp::Neg),
            Step::Binary { op: BinaryOp::Sub, operand: Operand::Full(residual), reversed: true },
        ],
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Beside the direct product: within a few roundings of its terms, and the same for any threads.
    #[test]
    fn as_the_direct_product(
        rows in 1usize..420, eighths in 1usize..40, fours in 1usize..4, pad in 0usize..3, threads in 2usize..4,
        kind in 0usize..5, seed in 0usize..1000,
    ) {
        for level in Level::available() {
            let (depth, columns) = (8 * eighths, fours * 4 * tile::lanes(level));
            let pitch = depth + pad;
            let (x, b) = (noise(rows * pitch, seed), noise(depth * columns, seed + 3));
            let (bias, residual) = (noise(columns, 5), noise(rows * columns, 11));
            let steps = steps(kind, &bias, &residual);
            let matrix = MatRef::new(&b, depth, columns, columns, 1).unwrap();
            let serial = Pool::serial().with_level(level);
            let weights = LinearWeights::pack(&serial, matrix).unwrap();
            let run = |pool: &Pool, method| {
                let mut out = vec![f32::NAN; rows * columns];
                linear(pool, method, rows, &x, pitch, &weights, &mut out, Epilogue::new(&steps)).unwrap();
                out
            };
            let got = run(&serial, Method::Strassen);
            let many = run(&Pool::new(threads).unwrap().with_level(level), Method::Strassen);
            prop_assert!(got.iter().zip(&many).all(|(a, b)| a.to_bits() == b.to_bits()));
            // Terms are at most 1; sums of two by sums of two are added four times.
            let bound = 16.0 * f32::EPSILON * (depth as f32).sqrt() * 4.0;
            for (i, (got, want)) in got.iter().zip(run(&serial, Method::Direct)).enumerate() {
                prop_assert!((got - want).abs() <= bound * (1.0 + want.abs()), "{i}: {got} {want}");
            }
        }
    }
}

/// Errors beside those of the direct product, against sums in double precision.
#[test]
fn errors_stay_within_a_few_times_the_direct_ones() {
    // Three pieces of depth where vectors have eight floats, the last of them shorter.
    let (rows, depth, columns) = (130, 2312, 64);
    let mut seed = 1u64;
    let mut random = |n: usize| -> Vec<f32> {
        (0..n)
            .map(|_| {
                seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (seed >> 40) as f32 / (1u64 << 23) as f32 - 1.0
            })
            .collect()
    };
    let (x, b) = (random(rows * depth), random(depth * columns));
    for level in Level::available() {
        let pool = Pool::serial().with_level(level);
        let weights =
            LinearWeights::pack(&pool, MatRef::new(&b, depth, columns, columns, 1).unwrap()).unwrap();
        let error = |method| {
            let mut out = vec![0.0; rows * columns];
            linear(&pool, method, rows, &x, depth, &weights, &mut out, Epilogue::NONE).unwrap();
            let square = |i: usize, j: usize| {
                let want: f64 =
                    (0..depth).map(|k| f64::from(x[i * depth + k]) * f64::from(b[k * columns + j])).sum();
                (want - f64::from(out[i * columns + j])).powi(2)
            };
            (0..rows * columns).map(|at| square(at / columns, at % columns)).sum::<f64>().sqrt()
        };
        let (direct, strassen) = (error(Method::Direct), error(Method::Strassen));
        assert!(strassen <= 4.0 * direct, "{level:?}: {strassen} against {direct}");
    }
}

/// What is infinite or NaN shows in every element that it belongs to.
#[test]
fn nothing_odd_gets_lost() {
    for level in Level::available() {
        let (rows, depth, columns) = (9, 16, 4 * tile::lanes(level));
        let pool = Pool::serial().with_level(level);
        let b = noise(depth * columns, 1).iter().map(|x| x + 2.0).collect::<Vec<_>>();
        let weights =
            LinearWeights::pack(&pool, MatRef::new(&b, depth, columns, columns, 1).unwrap()).unwrap();
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in 0..rows * depth {
                let mut x = noise(rows * depth, 7);
                x[at] = odd;
                let mut out = vec![0.0; rows * columns];
                linear(&pool, Method::Strassen, rows, &x, depth, &weights, &mut out, Epilogue::NONE).unwrap();
                let row = at / depth;
                assert!(
                    out[row * columns..][..columns].iter().all(|y| !y.is_finite()),
                    "{level:?} {odd} {at}"
                );
            }
        }
    }
}
