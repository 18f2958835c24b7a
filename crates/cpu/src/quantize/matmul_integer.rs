//! Matrix products of bytes whose results are the sums themselves.
//!
//! A right factor that is the same in every run is packed once, another one when a run has it.

use super::{constant, is_byte, matrix, packed, single, zero, zeros};
use crate::native::{Built, Native, Prep};
use smallvec::SmallVec;
use std::sync::{Mutex, PoisonError};
use tensormill_kernels::quantized::{self as kernel, ByteMatrix, ByteWeights, Bytes, Output, Scaling};
use tensormill_kernels::threads::Pool;
use tensormill_kernels::{KernelError, copy::row_major};
use tensormill_tensor::DType;

/// Operands.
const A: usize = 0;
const B: usize = 1;
const A_ZERO: usize = 2;
const B_ZERO: usize = 3;

pub(crate) fn matmul_integer(p: &Prep<'_>) -> Built {
    let (a, b) = (p.get(A)?, p.get(B)?);
    if !is_byte(a.dtype) || !is_byte(b.dtype) {
        return Err("no kernel for these operands".into());
    }
    single(p, A_ZERO)?;
    if b.shape.len() == 2 && constant(&b).is_ok() && zeros(p, B_ZERO).is_ok() {
        by_constant(p)
    } else {
        computed(p)
    }
}

fn by_constant(p: &Prep<'_>) -> Built {
    let (a, b) = (p.get(A)?, p.get(B)?);
    let (weights, signed) = constant(&b)?;
    let zeros = zeros(p, B_ZERO)?;
    let matrix = matrix(weights, signed, false, &zeros)?;
    let (depth, columns) = (matrix.channels, matrix.columns);
    if depth == 0 || a.shape.last() != Some(&depth) {
        return Err("no depth".into());
    }
    let (rows, a_signed) = (a.len() / depth, a.dtype == DType::I8);
    if p.out().numel() != rows * columns || !(zeros.len() <= 1 || zeros.len() == columns) {
        return Err("sizes that the kernel computes otherwise".into());
    }
    let packed = packed(p, weights, &matrix)?;
    let mut native = Native::new("int8-sums", move |c| {
        let x = Bytes { data: c.view(A)?.bytes, signed: a_signed };
        let scaling = Scaling { x_scale: 1.0, x_zero: zero(c, A_ZERO, a_signed)?, scales: &[], bias: &[] };
        let pool = c.pool;
        let out = Output::Sums { out: c.out::<i32>(0)?, pitch: columns };
        Ok(kernel::conv::linear(pool, rows, x, depth, &packed, &scaling, out)?)
    })?;
    native.packed = Some(B);
    native.flops = 2 * (rows * columns) as u64 * depth as u64;
    native.reason = format!("{rows}x{depth}x{columns}, constant right operand");
    Ok(native)
}

/// Where the matrices of a factor begin in its data, for each of the result's.
fn places(factor: &[usize], batch: &[usize], each: usize) -> Vec<usize> {
    let own = &factor[..factor.len().saturating_sub(2)];
    let strides = row_major(own);
    let skipped = batch.len() - own.len();
    let count = batch.iter().product();
    (0..count)
        .map(|mut i: usize| {
            let mut at = 0;
            for axis in (0..batch.len()).rev() {
                let here = i % batch[axis];
                i /= batch[axis];
                if axis >= skipped && own[axis - skipped] != 1 {
                    at += here * strides[axis - skipped];
                }
            }
            at * each
        })
        .collect()
}

fn last_two(dims: &[usize]) -> [usize; 2] {
    [dims[dims.len() - 2], dims[dims.len() - 1]]
}

/// Makes each product's part of the result: threads share one product after the other, or products, where there are
/// as many as threads.
fn each(
    pool: &Pool,
    starts: &[[usize; 2]],
    len: usize,
    out: &mut [i32],
    product: impl Fn([usize; 2], &mut [i32]) -> Result<(), KernelError> + Sync,
) -> Result<(), KernelError> {
    if starts.len() < pool.threads() {
        return starts.iter().zip(out.chunks_exact_mut(len)).try_for_each(|(at, out)| product(*at, out));
    }
    let parts: Vec<Mutex<(&mut [i32], Result<(), KernelError>)>> =
        out.chunks_exact_mut(len).map(|out| Mutex::new((out, Ok(())))).collect();
    pool.run(starts.len(), |i| {
        let mut part = parts[i].lock().unwrap_or_else(PoisonError::into_inner);
        part.1 = product(starts[i], part.0);
    });
    parts.into_iter().try_for_each(|p| p.into_inner().unwrap_or_else(PoisonError::into_inner).1)
}

/// A product of two factors that a run has.
fn computed(p: &Prep<'_>) -> Built {
    let (a, b, out) = (p.get(A)?, p.get(B)?, p.out());
    if a.shape.len() < 2 || b.shape.len() < 2 {
        return Err("no kernel for vectors".into());
    }
    let ([k, n], [m, depth]) = (last_two(b.shape), last_two(a.shape));
    if k != depth || k == 0 || out.contains(&0) || last_two(out) != [m, n] {
        return Err("sizes that the kernel computes otherwise".into());
    }
    // One zero point, or one for each column: what broadcasts otherwise differs along the depth or by batch.
    if p.opt(B_ZERO).is_some_and(|z| z.len() != 1 && !(z.shape.last() == Some(&n) && z.len() == n)) {
        return Err("zero points that differ otherwise than by column".into());
    }
    let (a_signed, b_signed) = (a.dtype == DType::I8, b.dtype == DType::I8);
    let one = b.shape[..b.shape.len() - 2].iter().all(|&d| d == 1);
    // One right factor meets all rows at once.
    let (rows, batch): (usize, SmallVec<[usize; 4]>) = match one {
        true => (a.len() / k, SmallVec::new()),
        false => (m, out[..out.rank() - 2].iter().copied().collect()),
    };
    let starts: Vec<[usize; 2]> = match one {
        true => vec![[0, 0]],
        false => {
            let (a, b) = (places(a.shape, &batch, m * k), places(b.shape, &batch, k * n));
            a.into_iter().zip(b).map(|(a, b)| [a, b]).collect()
        }
    };
    if rows * n * starts.len() != out.numel() {
        return Err("sizes that the kernel computes otherwise".into());
    }
    let count = starts.len();
    let mut native = Native::new("int8-sums-packing", move |c| {
        let (pool, x, w) = (c.pool, c.view(A)?.bytes, c.view(B)?.bytes);
        let x_zero = zero(c, A_ZERO, a_signed)?;
        let zeros = c.ins.get(B_ZERO).copied().flatten().map_or(&[][..], |v| v.bytes);
        let number = |z: u8| if b_signed { i32::from(z as i8) } else { i32::from(z) };
        let zeros: Vec<i32> = zeros.iter().map(|&z| number(z)).collect();
        let scaling = Scaling { x_scale: 1.0, x_zero, scales: &[], bias: &[] };
        let product = |[x_at, w_at]: [usize; 2], out: &mut [i32]| -> Result<(), KernelError> {
            let data = &w[w_at..w_at + k * n];
            let matrix = ByteMatrix {
                data,
                signed: b_signed,
                taps: 1,
                channels: k,
                columns: n,
                strides: [0, n, 1],
                zeros: &zeros,
            };
            let packed = ByteWeights::pack_for_once(pool, &matrix)?;
            let x = Bytes { data: &x[x_at..x_at + rows * k], signed: a_signed };
            kernel::conv::linear(pool, rows, x, k, &packed, &scaling, Output::Sums { out, pitch: n })
        };
        Ok(each(pool, &starts, rows * n, c.out::<i32>(0)?, product)?)
    })?;
    native.flops = 2 * (rows * n * count) as u64 * k as u64;
    native.reason = format!("{count} of {rows}x{k}x{n}, right operand packed in each run");
    Ok(native)
}
