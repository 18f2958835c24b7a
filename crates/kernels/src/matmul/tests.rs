//! Every product against a triple loop in `f64`.

use super::*;
use crate::elementwise::{BinaryOp, UnaryOp};
use crate::epilogue::{Operand, Step};
use proptest::prelude::*;

fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut s = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    (0..n)
        .map(|_| {
            s = s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (s >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

fn twin(a: MatRef<'_>, b: MatRef<'_>) -> Vec<f64> {
    let mut out = Vec::new();
    for i in 0..a.rows {
        for j in 0..b.columns {
            out.push(
                (0..a.columns)
                    .map(|k| {
                        let x = a.data[i * a.row_stride + k * a.column_stride] as f64;
                        x * b.data[k * b.row_stride + j * b.column_stride] as f64
                    })
                    .sum(),
            );
        }
    }
    out
}

fn close(got: &[f32], want: &[f64], k: usize) {
    assert_eq!(got.len(), want.len());
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let bound = 1e-6 * (k as f64).sqrt().max(1.0) * 4.0 + 1e-6 * w.abs();
        assert!((g as f64 - w).abs() <= bound, "element {i}: {g} for {w}");
    }
}

/// A matrix of the given order: row-major, transposed, or with gaps.
fn matrix(data: &[f32], rows: usize, columns: usize, order: usize) -> MatRef<'_> {
    match order {
        0 => MatRef::new(data, rows, columns, columns, 1),
        1 => MatRef::new(data, rows, columns, 1, rows),
        2 => MatRef::new(data, rows, columns, columns * 2 + 3, 2),
        _ => MatRef::new(data, rows, columns, 0, 1),
    }
    .unwrap()
}

proptest! {
    #[test]
    fn products_match_the_triple_loop(
        m in 0usize..40, n in 0usize..70, k in 0usize..40, deep in 0usize..4,
        ao in 0usize..4, bo in 0usize..4, threads in 1usize..3, seed in 0u32..1000,
    ) {
        let k = if deep == 3 { k + 500 } else { k };
        let (ad, bd) = (noise(m * (2 * k + 3) + 8, seed), noise(k * (2 * n + 3) + 8, seed + 1));
        let (a, b) = (matrix(&ad, m, k, ao), matrix(&bd, k, n, bo));
        let want = twin(a, b);
        let (row, column, full) = (noise(m, 5), noise(n, 6), noise(m * n, 7));
        let steps = [
            Step::bias_columns(&column),
            Step::Binary { op: BinaryOp::Mul, operand: Operand::PerRow(&row), reversed: false },
            Step::Binary { op: BinaryOp::Sub, operand: Operand::Full(&full), reversed: true },
            Step::Unary(UnaryOp::Relu),
            Step::Binary { op: BinaryOp::Mul, operand: Operand::Scalar(0.5), reversed: false },
        ];
        let finished: Vec<f64> = want.iter().enumerate().map(|(i, &x)| {
            ((full[i] as f64) - (x + column[i % n] as f64) * row[i / n] as f64).max(0.0) * 0.5
        }).collect();
        for level in Level::available() {
            let pool = Pool::new(threads).unwrap().with_level(level);
            let mut out = vec![f32::NAN; m * n];
            matmul(&pool, a, b, &mut out, Epilogue::NONE).unwrap();
            close(&out, &want, k);
            out.fill(f32::NAN);
            matmul(&pool, a, b, &mut out, Epilogue::new(&steps)).unwrap();
            close(&out, &finished, k);
            let packed = PackedB::pack(level, b).unwrap();
            out.fill(f32::NAN);
            matmul_packed(&pool, a, &packed, &mut out, Epilogue::new(&steps)).unwrap();
            close(&out, &finished, k);
            let packed = PackedA::pack(level, a).unwrap();
            out.fill(f32::NAN);
            matmul_packed_a(&pool, &packed, b, &mut out, Epilogue::new(&steps)).unwrap();
            close(&out, &finished, k);
        }
    }

    #[test]
    fn batches_match_one_by_one(
        m in 1usize..12, n in 1usize..40, k in 0usize..20, count in 1usize..9,
        shared in any::<bool>(), merged in any::<bool>(), transposed in any::<bool>(), threads in 1usize..3,
    ) {
        let (a, b) = (noise(count * m * k, 1), noise(count * k * n, 2));
        let out_stride = if merged { n * count } else { n };
        let items: Vec<BatchItem> = (0..count).map(|i| BatchItem {
            a: i * m * k,
            b: if shared { 0 } else { i * k * n },
            out: if merged { i * n } else { i * m * n },
        }).collect();
        let b_strides = if transposed { (1, k) } else { (n, 1) };
        let shape = BatchShape { m, n, k, a_strides: (k, 1), b_strides, out_stride };
        let column = noise(n, 3);
        let steps = [Step::bias_columns(&column)];
        for level in Level::available() {
            let pool = Pool::new(threads).unwrap().with_level(level);
            let mut out = vec![f32::NAN; count * m * n];
            matmul_batch(&pool, &shape, &a, &b, &items, &mut out, Epilogue::new(&steps)).unwrap();
            for item in &items {
                let x = MatRef::new(&a[item.a..], m, k, k, 1).unwrap();
                let y = MatRef::new(&b[item.b..], k, n, b_strides.0, b_strides.1).unwrap();
                let want: Vec<f64> = twin(x, y).iter().enumerate().map(|(i, v)| v + column[i % n] as f64).collect();
                let got: Vec<f32> = (0..m)
                    .flat_map(|i| out[item.out + i * out_stride..][..n].to_vec())
                    .collect();
                close(&got, &want, k);
            }
        }
    }
}

#[test]
fn large_products_do_not_depend_on_threads() {
    for (m, n, k) in [(130, 700, 300), (1, 1000, 600), (3, 50, 2000), (500, 33, 64), (64, 3136, 64)] {
        let (a, b, bt) = (noise(m * k, 1), noise(k * n, 2), noise(k * n, 3));
        let a = MatRef::row_major(&a, m, k).unwrap();
        for b in [MatRef::row_major(&b, k, n).unwrap(), MatRef::row_major(&bt, n, k).unwrap().transposed()] {
            let mut outs = Vec::new();
            for threads in [1, 2, 3] {
                let mut out = vec![0.0; m * n];
                matmul(&Pool::new(threads).unwrap(), a, b, &mut out, Epilogue::NONE).unwrap();
                outs.push(out);
            }
            assert!(outs[0] == outs[1] && outs[0] == outs[2], "{m} {n} {k}");
            close(&outs[0], &twin(a, b), k);
        }
    }
}

#[test]
fn chunks_of_a_tall_operand_meet() {
    let (m, k, n) = (3000, 700, 5);
    let (a, b, row) = (noise(m * k, 1), noise(k * n, 2), noise(m, 3));
    let a = MatRef::row_major(&a, m, k).unwrap();
    let b = MatRef::row_major(&b, k, n).unwrap();
    let mut out = vec![0.0; m * n];
    let steps = [Step::bias_rows(&row)];
    matmul(&Pool::serial(), a, b, &mut out, Epilogue::new(&steps)).unwrap();
    let want: Vec<f64> = twin(a, b).iter().enumerate().map(|(i, v)| v + row[i / n] as f64).collect();
    close(&out, &want, k);
}

#[test]
fn f64_products_match() {
    let a: Vec<f64> = noise(6 * 7, 1).iter().map(|&x| x as f64).collect();
    let b: Vec<f64> = noise(7 * 5, 2).iter().map(|&x| x as f64).collect();
    let mut out = vec![0.0; 30];
    let (ma, mb) = (MatRef::row_major(&a, 6, 7).unwrap(), MatRef::new(&b, 7, 5, 1, 7).unwrap());
    matmul_f64(ma, mb, &mut out).unwrap();
    for i in 0..6 {
        for j in 0..5 {
            let want: f64 = (0..7).map(|k| a[i * 7 + k] * b[j * 7 + k]).sum();
            assert!((out[i * 5 + j] - want).abs() < 1e-12);
        }
    }
    assert!(matmul_f64(ma, mb, &mut out[1..]).is_err());
}

#[test]
fn an_empty_depth_gives_the_epilogue_of_zero() {
    let (pool, column) = (Pool::serial(), [1.0, 2.0, 3.0]);
    let steps = [Step::bias_columns(&column)];
    for m in [1, 20] {
        let a = MatRef::new(&[], m, 0, 5, 1).unwrap();
        for b in [MatRef::new(&[], 0, 3, 3, 1).unwrap(), MatRef::new(&[], 0, 3, 1, 7).unwrap()] {
            let mut out = vec![9.0; m * 3];
            matmul(&pool, a, b, &mut out, Epilogue::new(&steps)).unwrap();
            assert!(out.chunks(3).all(|row| row == column));
        }
    }
}

#[test]
fn nan_and_infinity_pass_through() {
    for m in [1, 20] {
        let mut a = vec![1.0; m * 3];
        a[1] = f32::NAN;
        a[m * 3 - 1] = f32::INFINITY;
        let b = [0.0f32; 6];
        let mut out = vec![0.0; m * 2];
        let (ma, mb) = (MatRef::row_major(&a, m, 3).unwrap(), MatRef::row_major(&b, 3, 2).unwrap());
        matmul(&Pool::serial(), ma, mb, &mut out, Epilogue::NONE).unwrap();
        assert!(out[0].is_nan() && out[1].is_nan());
        assert!(out[m * 2 - 1].is_nan());
    }
}

#[test]
fn misfits_are_errors() {
    let (pool, x) = (Pool::serial(), [1.0f32; 16]);
    assert!(MatRef::row_major(&x, 4, 5).is_err());
    assert!(MatRef::new(&x, usize::MAX, 2, usize::MAX, 1).is_err());
    let m = MatRef::row_major(&x, 4, 4).unwrap();
    let wide = MatRef::row_major(&x, 2, 8).unwrap();
    let mut out = [0.0; 16];
    assert!(matmul(&pool, m, wide, &mut out, Epilogue::NONE).is_err());
    assert!(matmul(&pool, m, m, &mut out[1..], Epilogue::NONE).is_err());
    let short = [Step::bias_columns(&x[..3])];
    assert!(matmul(&pool, m, m, &mut out, Epilogue::new(&short)).is_err());
    let shape = BatchShape { m: 2, n: 2, k: 2, a_strides: (2, 1), b_strides: (2, 1), out_stride: 2 };
    let run = |items: &[BatchItem], out: &mut [f32]| {
        matmul_batch(&pool, &shape, &x, &x, items, out, Epilogue::NONE)
    };
    let at = |a, b, out| BatchItem { a, b, out };
    assert!(run(&[at(0, 0, 0), at(4, 4, 4)], &mut out).is_ok());
    assert!(run(&[at(0, 0, 0), at(4, 4, 2)], &mut out).is_err());
    assert!(run(&[at(0, 0, 4), at(4, 4, 4)], &mut out).is_err());
    assert!(run(&[at(13, 0, 0)], &mut out).is_err());
    assert!(run(&[at(0, 0, 16)], &mut out).is_err());
    assert!(run(&[at(0, usize::MAX, 0)], &mut out).is_err());
}
