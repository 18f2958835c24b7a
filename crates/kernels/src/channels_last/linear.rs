//! A product of many rows by weights packed once: a convolution whose window is a single pixel.

use super::conv::direct::{self, Source, Target};
use super::conv::finish::Parts;
use super::conv::panels::{Panels, Weights};
use super::strassen;
use crate::epilogue::Epilogue;
use crate::error::{KernelError, at_least, exact, extent};
use crate::matmul::MatRef;
use crate::packed::{Packed, Weight};
use crate::simd::Level;
use crate::threads::{Pool, Shards};

/// How a product of many rows is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Every product of numbers.
    Direct,
    /// In halves of all three sizes, after Strassen: seven products of halves instead of eight. Rounding errors
    /// are at most four times those of the direct sums (root mean square). An infinity or NaN spreads over the
    /// rows and columns that it is added to, as NaN.
    Strassen,
}

impl Method {
    /// The faster one for a product of these sizes, by measurements on AVX2: what adding up takes pays only
    /// where all three are large.
    pub fn pick(level: Level, rows: usize, depth: usize, columns: usize) -> Method {
        const ROWS: usize = 96;
        const DEPTH: usize = 768;
        const COLUMNS: usize = 512;
        let large = rows >= ROWS && depth >= DEPTH && columns >= COLUMNS;
        if large && Method::Strassen.supports(level, depth, columns) {
            Method::Strassen
        } else {
            Method::Direct
        }
    }

    /// Whether it computes products of these sizes.
    pub fn supports(self, level: Level, depth: usize, columns: usize) -> bool {
        self == Method::Direct || strassen::supports(level, depth, columns)
    }
}

/// A right operand, `depth` by `columns`, packed for [`linear`].
#[derive(Debug, Clone)]
pub struct LinearWeights {
    panels: Panels,
}

impl LinearWeights {
    /// Packs a matrix for kernels at the pool's level, its threads sharing the work.
    pub fn pack<T: Weight>(pool: &Pool, b: MatRef<'_, T>) -> Result<LinearWeights, KernelError> {
        LinearWeights::pack_beside(pool, &[b])
    }

    /// Packs matrices of the same depth as one that has the columns of them all, one after the other.
    pub fn pack_beside<T: Weight>(
        pool: &Pool,
        parts: &[MatRef<'_, T>],
    ) -> Result<LinearWeights, KernelError> {
        let parts: Vec<_> = parts
            .iter()
            .map(|b| {
                let (taps, strides) = (1, [0, b.row_stride, b.column_stride]);
                Weights { data: b.data, taps, channels: b.rows, columns: b.columns, strides }
            })
            .collect();
        Ok(LinearWeights { panels: Panels::pack_beside(pool, &parts)? })
    }

    /// Weights that [`LinearWeights::pack`] once packed for this level and these sizes.
    pub fn from_packed(
        level: Level,
        depth: usize,
        columns: usize,
        packed: Packed,
    ) -> Result<LinearWeights, KernelError> {
        Ok(LinearWeights { panels: Panels::from_packed(level, depth, columns, packed)? })
    }

    /// The packed weights as they lie in memory.
    pub fn packed(&self) -> &Packed {
        self.panels.packed()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.panels.bytes()
    }

    /// The depth of a product.
    pub fn depth(&self) -> usize {
        self.panels.depth
    }

    /// Columns of a product.
    pub fn columns(&self) -> usize {
        self.panels.columns
    }
}

/// `out = x w`, then the epilogue: `rows` rows of `x`, `x_pitch` floats from one to the next, and dense rows
/// of `out`. A method that does not fit the sizes gives way to the direct one.
pub fn linear(
    pool: &Pool,
    method: Method,
    rows: usize,
    x: &[f32],
    x_pitch: usize,
    weights: &LinearWeights,
    out: &mut [f32],
    epilogue: Epilogue<'_>,
) -> Result<(), KernelError> {
    let (depth, columns) = (weights.depth(), weights.columns());
    at_least("rows", x, extent("rows", &[rows, depth], &[x_pitch, 1])?)?;
    let len = extent("output", &[rows, columns], &[columns, 1])?;
    exact("output", out, len)?;
    epilogue.check(rows, columns, len)?;
    if out.is_empty() {
        return Ok(());
    }
    if depth == 0 {
        out.fill(0.0);
        for (i, row) in out.chunks_exact_mut(columns).enumerate() {
            epilogue.apply(weights.panels.level, row, i, 0, i * columns);
        }
        return Ok(());
    }
    let target = Target { out: Shards::new(out), pitch: columns, pixels: rows, first: 0, skip: 0 };
    let parts = &Parts::of(epilogue, columns);
    let panels = &weights.panels;
    if method == Method::Strassen && method.supports(panels.level, depth, columns) {
        return strassen::run(pool, x, x_pitch, panels, target, parts);
    }
    let source = Source {
        x,
        pitches: [rows * x_pitch, rows * x_pitch, x_pitch],
        input: [1, rows],
        output: [1, rows],
        taps: [1; 2],
        strides: [1; 2],
        dilations: [1; 2],
        pads: [0; 2],
        run: depth,
        zeros: &[],
    };
    direct::run(pool, &source, panels, target, parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elementwise::UnaryOp;
    use crate::epilogue::Step;
    use proptest::prelude::*;

    /// One row reads several panels at once; two rows of the same numbers do not.
    #[test]
    fn one_row_has_the_bits_of_two() {
        for level in Level::available() {
            let pool = Pool::serial().with_level(level);
            for (depth, columns) in [(1, 128), (7, 130), (300, 400), (1030, 257)] {
                let value = |i: usize| ((i * 7919) % 1021) as f32 / 510.0 - 1.0;
                let row: Vec<f32> = (0..depth).map(value).collect();
                let b: Vec<f32> = (0..depth * columns).map(|i| value(i + 3)).collect();
                let bias: Vec<f32> = (0..columns).map(|i| value(i + 5)).collect();
                let matrix = MatRef::new(&b, depth, columns, columns, 1).unwrap();
                let weights = LinearWeights::pack(&pool, matrix).unwrap();
                for steps in [
                    vec![],
                    vec![Step::bias_columns(&bias), Step::Unary(UnaryOp::Relu)],
                    vec![Step::bias_columns(&bias), Step::Unary(UnaryOp::Gelu), Step::Unary(UnaryOp::Neg)],
                ] {
                    let run = |rows: usize| {
                        let mut out = vec![f32::NAN; rows * columns];
                        let x = row.repeat(rows);
                        let epilogue = Epilogue::new(&steps);
                        linear(&pool, Method::Direct, rows, &x, depth, &weights, &mut out, epilogue).unwrap();
                        out.truncate(columns);
                        out.into_iter().map(f32::to_bits).collect::<Vec<_>>()
                    };
                    assert!(run(1) == run(2), "{level:?} {depth} {columns}");
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn as_three_loops(rows in 0usize..40, depth in 0usize..70, columns in 0usize..90, pad in 0usize..3, threads in 1usize..4, by_column in any::<bool>()) {
            let pitch = depth + pad;
            let value = |i: usize| ((i * 7919) % 1021) as f32 / 510.0 - 1.0;
            let x: Vec<f32> = (0..rows * pitch).map(value).collect();
            let b: Vec<f32> = (0..depth * columns).map(|i| value(i + 3)).collect();
            let bias: Vec<f32> = (0..columns).map(|i| value(i + 5)).collect();
            let strides = if by_column { (1, depth) } else { (columns, 1) };
            let matrix = MatRef::new(&b, depth, columns, strides.0, strides.1).unwrap();
            let steps = [Step::bias_columns(&bias), Step::Unary(UnaryOp::Relu), Step::Unary(UnaryOp::Neg)];
            for level in Level::available() {
                let weights = LinearWeights::pack(&Pool::serial().with_level(level), matrix).unwrap();
                let run = |threads| {
                    let pool = Pool::new(threads).unwrap();
                    let mut out = vec![f32::NAN; rows * columns];
                    linear(&pool, Method::Direct, rows, &x, pitch, &weights, &mut out, Epilogue::new(&steps)).unwrap();
                    out
                };
                let got = run(threads);
                prop_assert!(got.iter().zip(run(1)).all(|(a, b)| a.to_bits() == b.to_bits()));
                for i in 0..rows {
                    for j in 0..columns {
                        let sum: f64 = (0..depth)
                            .map(|k| f64::from(x[i * pitch + k]) * f64::from(b[k * strides.0 + j * strides.1]))
                            .sum::<f64>() + f64::from(bias[j]);
                        let want = -sum.max(0.0);
                        prop_assert!((f64::from(got[i * columns + j]) - want).abs() <= 1e-4, "{i} {j}");
                    }
                }
            }
        }
    }
}
