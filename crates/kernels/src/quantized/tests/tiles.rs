//! Every size of a tile with every rest that its loop over depth leaves, and which forms there are.

use super::super::form::{self, Job};
use super::*;
use crate::simd::integer::{Element, Sums};

/// Ends of the range and what is near them, for rows of any number and depths of any rest.
#[test]
fn every_size_of_tile_is_exact() {
    for depth in (1..=36).chain([48, 63, 64, 65]) {
        for rows in 1..=13 {
            let columns = [1, 4, 7, 8, 19, 33][(depth + rows) % 6];
            let seed = (depth * 16 + rows) as u64;
            let (x, w) = (bytes(rows * depth, seed, true), bytes(depth * columns, seed ^ 5, true));
            let (signed, x_zero) = (rows % 2 == 0, [0u8, 255, 128, 1][depth % 4]);
            let x_zero = number(x_zero, signed);
            let zeros: Vec<i32> = if rows % 3 == 0 { vec![-128 + 255 * (depth % 2) as i32] } else { vec![] };
            let zero = zeros.first().map_or(0, |&z| i64::from(z));
            let mut expected = vec![];
            for x in x.chunks_exact(depth) {
                for j in 0..columns {
                    let of = |(k, &x): (usize, &u8)| {
                        (number(x, signed) - x_zero) * (number(w[k * columns + j], true) - zero)
                    };
                    expected.push(x.iter().enumerate().map(of).sum::<i64>() as i32);
                }
            }
            let (channels, strides) = (depth, [0, columns, 1]);
            let matrix =
                ByteMatrix { data: &w, signed: true, taps: 1, channels, columns, strides, zeros: &zeros };
            for (level, way) in ways(1) {
                let pool = Pool::serial().with_level(level);
                let w = ByteWeights::pack_with(&pool, way, &matrix, None).unwrap();
                let s = Scaling { x_scale: 1.0, x_zero: x_zero as i32, scales: &[], bias: &[] };
                let mut out = vec![i32::MIN; rows * columns];
                let x = Bytes { data: &x, signed };
                conv::linear(&pool, rows, x, depth, &w, &s, Output::Sums { out: &mut out, pitch: columns })
                    .unwrap();
                assert!(out == expected, "{level:?} {way:?} {depth} {rows} {columns}");
            }
        }
    }
}

/// Four groups of three rows and two vectors at once, and what they are one by one.
struct FourGroups<'a> {
    x: &'a [u8],
    w: &'a [i8],
}

impl Job for FourGroups<'_> {
    type Out = [Vec<i32>; 2];
    #[inline(always)]
    unsafe fn run<S: Sums>(self) -> [Vec<i32>; 2] {
        let (depth, lanes) = (4 * S::GROUP, S::LANES);
        let x: Vec<S::X> = self.x[..3 * depth].iter().map(|&x| S::X::from_u8(x)).collect();
        let w = &self.w[..2 * lanes * depth];
        let mut out = vec![0; 6 * lanes];
        // SAFETY: the instructions are on; the rows have four groups each, the weights are those of two vectors, and
        // there is room for the sums.
        unsafe {
            let mut acc = [[S::splat(7); 2]; 3];
            let rows = [x.as_ptr(), x[depth..].as_ptr(), x[2 * depth..].as_ptr()];
            S::dot_four(&rows, 0, w.as_ptr(), &mut acc);
            for i in 0..6 {
                acc[i / 2][i % 2].store(out[i * lanes..].as_mut_ptr());
            }
        }
        let mut expected = vec![7; 6 * lanes];
        for (at, sum) in expected.iter_mut().enumerate() {
            let (row, column) = (at / (2 * lanes), at % (2 * lanes));
            for k in 0..depth {
                let w = w[(k / S::GROUP * 2 * lanes + column) * S::GROUP + k % S::GROUP];
                *sum += (x[row * depth + k].to_i32() - i32::from(S::X::BASE)) * i32::from(w);
            }
        }
        [out, expected]
    }
}

#[test]
fn four_groups_are_what_they_are_one_by_one() {
    let w: Vec<i8> = bytes(2 * 16 * 16, 11, true).into_iter().map(|w| w as i8).collect();
    for level in Level::available() {
        for form in Form::available(level) {
            // Two products in words exceed no word.
            let most = if form == Form::Pairs { 127 } else { 255 };
            let x: Vec<u8> = bytes(3 * 16, 12, true).into_iter().map(|x| x.min(most)).collect();
            let [out, expected] = form::run(form, level, FourGroups { x: &x, w: &w });
            assert_eq!(out, expected, "{level:?} {form:?}");
        }
    }
}

/// Where a machine multiplies bytes weights are packed for that, and words stay beside it.
#[test]
fn the_fastest_form_is_used() {
    let level = Level::best();
    let [first, best] = Form::available(level);
    assert_eq!(first, Form::Words);
    let data = bytes(64 * 16, 3, false).into_iter().map(|x| x / 4).collect::<Vec<_>>();
    let strides = [0, 16, 1];
    let matrix =
        ByteMatrix { data: &data, signed: true, taps: 1, channels: 64, columns: 16, strides, zeros: &[] };
    let packed = ByteWeights::pack(&Pool::serial().with_level(level), &matrix).unwrap();
    assert_eq!(packed.form, best);
    #[cfg(target_arch = "aarch64")]
    {
        let detected = std::arch::is_aarch64_feature_detected!("dotprod");
        assert_eq!(best == Form::Bytes, detected);
        // Who knows the machine may say what the tests above have to have seen.
        if let Ok(known) = std::env::var("TENSORMILL_TEST_DOTPROD") {
            assert_eq!(detected, known == "yes");
        }
    }
}
