//! Sums of rows picked from tables, normalized while each is in the first-level cache.

use crate::error::{KernelError, exact, product};
use crate::norm::{Center, Row};
use crate::packed::Weight;
use crate::simd::{Isa, Kernel};
use crate::threads::{Pool, Shards};

/// Which rows of a table; negative numbers count from its end.
#[derive(Debug, Clone, Copy)]
pub enum Picks<'a> {
    /// As they mostly come.
    Wide(&'a [i64]),
    /// In half the bytes.
    Narrow(&'a [i32]),
}

impl Picks<'_> {
    fn len(self) -> usize {
        match self {
            Picks::Wide(p) => p.len(),
            Picks::Narrow(p) => p.len(),
        }
    }

    fn at(self, i: usize) -> i64 {
        match self {
            Picks::Wide(p) => p[i],
            Picks::Narrow(p) => p[i].into(),
        }
    }
}

/// What gives a term for each row of a sum.
#[derive(Debug, Clone, Copy)]
pub enum Term<'a> {
    /// Rows of a table, wherever its bytes lie.
    Table {
        /// The table, row by row.
        data: &'a [[u8; 4]],
        /// The row for each of the sum's.
        picks: Picks<'a>,
    },
    /// Rows one after the other, and again from the first when they are used up.
    Cycle(&'a [f32]),
}

impl Term<'_> {
    /// Whether there is a term for each of so many rows of `n`.
    fn check(self, rows: usize, n: usize) -> Result<(), KernelError> {
        match self {
            Term::Cycle(x) => match !x.is_empty() && x.len().is_multiple_of(n) {
                true => Ok(()),
                false => Err(KernelError::Shape("embed: a term is not made of rows")),
            },
            Term::Table { data, picks } => {
                if picks.len() != rows || !data.len().is_multiple_of(n) {
                    return Err(KernelError::Shape(
                        "embed: a table or what is picked of it has another size",
                    ));
                }
                let len = data.len() / n;
                match (0..rows).map(|i| picks.at(i)).find(|&p| place(p, len).is_none()) {
                    Some(index) => Err(KernelError::Index { index, len }),
                    None => Ok(()),
                }
            }
        }
    }
}

/// Where a pick is in a table of `len` rows.
fn place(pick: i64, len: usize) -> Option<usize> {
    let at = if pick < 0 { pick.checked_add(len as i64)? } else { pick };
    usize::try_from(at).ok().filter(|at| *at < len)
}

/// One row of the sum.
struct Sum<'a> {
    terms: &'a [Term<'a>],
    row: usize,
    out: &'a mut [f32],
}

impl Kernel for Sum<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let n = self.out.len();
        for (i, term) in self.terms.iter().enumerate() {
            match *term {
                Term::Table { data, picks } => {
                    let at = place(picks.at(self.row), data.len() / n).unwrap_or(0);
                    add(self.out, &data[at * n..][..n], i == 0);
                }
                Term::Cycle(x) => add(self.out, &x[self.row * n % x.len()..][..n], i == 0),
            }
        }
    }
}

/// Adds to a row, or begins it.
#[inline(always)]
fn add<T: Weight>(out: &mut [f32], x: &[T], first: bool) {
    if first {
        out.iter_mut().zip(x).for_each(|(o, x)| *o = x.float());
    } else {
        out.iter_mut().zip(x).for_each(|(o, x)| *o += x.float());
    }
}

/// `(s - mean) / sqrt(variance + epsilon) * scale + bias` over each of `rows` rows of `n` elements of the sum `s` of
/// terms, which are added in order.
pub fn embed_norm(
    pool: &Pool,
    terms: &[Term<'_>],
    [rows, n]: [usize; 2],
    scale: &[f32],
    bias: Option<&[f32]>,
    epsilon: f32,
    out: &mut [f32],
) -> Result<(), KernelError> {
    exact("output", out, product("output", &[rows, n])?)?;
    exact("scale", scale, n)?;
    if let Some(bias) = bias {
        exact("bias", bias, n)?;
    }
    if terms.is_empty() {
        return Err(KernelError::Shape("embed: a sum without terms"));
    }
    if out.is_empty() {
        return Ok(());
    }
    terms.iter().try_for_each(|t| t.check(rows, n))?;
    let (shards, level) = (Shards::new(out), pool.level());
    pool.split(rows, (16 * 1024 / n).max(1), |r| {
        for row in r {
            // SAFETY: every row is taken once.
            let out = unsafe { shards.part(row * n, n) };
            level.run(Sum { terms, row, out: &mut *out });
            level.run(Row { x: None, out, scale: Some(scale), bias, epsilon, center: Center::Mean });
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gather::gather_rows;
    use crate::norm::layer_norm;
    use crate::simd::Level;
    use proptest::prelude::*;

    fn noise(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| (((i + seed) * 7919) % 1021) as f32 / 510.0 - 0.3).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// The bits of gathers, sums and a normalization one after the other.
        #[test]
        fn as_one_step_after_the_other(
            blocks in 1usize..4, cycle in 1usize..6, n in 1usize..90, kinds in prop::collection::vec(0u8..4, 1..5),
            len in 1usize..7, with_bias: bool, threads in 1usize..4,
        ) {
            let rows = blocks * cycle;
            let (scale, bias) = (noise(n, 1), noise(n, 2));
            let bias = with_bias.then_some(&bias[..]);
            let tables: Vec<Vec<f32>> = (0..kinds.len()).map(|i| noise(len * n, 10 * i)).collect();
            let bytes: Vec<Vec<[u8; 4]>> =
                tables.iter().map(|t| t.iter().map(|x| x.to_le_bytes()).collect()).collect();
            let wide: Vec<i64> = (0..rows).map(|i| (i * 5 % (2 * len)) as i64 - len as i64).collect();
            let narrow: Vec<i32> = wide.iter().map(|&i| i as i32).collect();
            let (full, some) = (noise(rows * n, 77), noise(cycle * n, 78));
            for level in Level::available() {
                let pool = Pool::new(threads).unwrap().with_level(level);
                let mut sum = vec![0.0; rows * n];
                let mut terms = vec![];
                for (i, kind) in kinds.iter().enumerate() {
                    let mut one = vec![0.0; rows * n];
                    match kind {
                        0 | 1 => gather_rows(&pool, &tables[i], [1, len, n], &wide, &mut one).unwrap(),
                        2 => one.copy_from_slice(&full),
                        _ => one.iter_mut().enumerate().for_each(|(i, o)| *o = some[i % some.len()]),
                    }
                    terms.push(match kind {
                        0 => Term::Table { data: &bytes[i], picks: Picks::Wide(&wide) },
                        1 => Term::Table { data: &bytes[i], picks: Picks::Narrow(&narrow) },
                        2 => Term::Cycle(&full),
                        _ => Term::Cycle(&some),
                    });
                    match i {
                        0 => sum = one,
                        _ => sum.iter_mut().zip(one).for_each(|(s, x)| *s += x),
                    }
                }
                let (mut want, mut got) = (vec![f32::NAN; rows * n], vec![f32::NAN; rows * n]);
                layer_norm(&pool, &sum, [rows, n], Some(&scale), bias, 1e-5, &mut want).unwrap();
                embed_norm(&pool, &terms, [rows, n], &scale, bias, 1e-5, &mut got).unwrap();
                prop_assert!(want.iter().zip(&got).all(|(a, b)| a.to_bits() == b.to_bits()), "{:?}", level);
            }
        }
    }

    #[test]
    fn misfits_are_errors() {
        let (pool, table, mut out) = (Pool::serial(), [[0; 4]; 6], [0.0; 4]);
        let ones = [1.0; 2];
        let mut run = |terms: &[Term<'_>]| embed_norm(&pool, terms, [2, 2], &ones, None, 1e-5, &mut out);
        let table = |picks| Term::Table { data: &table, picks };
        assert!(run(&[table(Picks::Wide(&[-3, 2]))]).is_ok());
        assert_eq!(run(&[table(Picks::Wide(&[0, 3]))]), Err(KernelError::Index { index: 3, len: 3 }));
        assert_eq!(run(&[table(Picks::Narrow(&[-4, 0]))]), Err(KernelError::Index { index: -4, len: 3 }));
        assert!(run(&[table(Picks::Wide(&[0]))]).is_err());
        assert!(run(&[Term::Cycle(&[1.0; 3])]).is_err());
        assert!(run(&[Term::Cycle(&[])]).is_err());
        assert!(run(&[]).is_err());
    }
}
