//! Attention by heads: the softmax of scaled products of queries and keys, times the values.
//!
//! Operands and result are read and written where they lie, by strides over batch, head and row, so that
//! heads side by side in the rows of one matrix and heads one after the other need no copy. The scores
//! exist only for a block of queries at a time.

mod block;
mod few;
mod probabilities;
mod rotary;
mod rows;
#[cfg(test)]
mod tests;

pub use rotary::{Rotary, rotary};

use crate::error::{KernelError, at_least, extent};
use crate::matmul::driver::FirstError;
use crate::threads::{Pool, Shards};

/// Sizes of an attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Items that have nothing to do with each other.
    pub batch: usize,
    /// Heads of the queries: a multiple of those of the keys.
    pub heads: usize,
    /// Heads of keys and values, each of which serves as many heads of queries as there are more of them.
    pub kv_heads: usize,
    /// Rows of a head of queries.
    pub queries: usize,
    /// Rows of a head of keys and values.
    pub keys: usize,
    /// Elements of a query and of a key.
    pub size: usize,
    /// Elements of a value.
    pub value_size: usize,
}

/// An operand: rows of elements that lie together.
#[derive(Debug, Clone, Copy)]
pub struct Heads<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// Elements from one batch item, head and row to the next.
    pub strides: [usize; 3],
}

/// What a mask holds for a query and a key.
#[derive(Debug, Clone, Copy)]
pub enum MaskValues<'a> {
    /// An addend of the score.
    Added(&'a [f32]),
    /// Whether the key is seen: false adds minus infinity.
    Seen(&'a [bool]),
}

/// A mask over batch, heads, queries and keys.
#[derive(Debug, Clone, Copy)]
pub struct Mask<'a> {
    /// The elements.
    pub values: MaskValues<'a>,
    /// Elements from one batch item, head, query and key to the next; 0 where it is the same for all. From
    /// key to key it is 0 or 1.
    pub strides: [usize; 4],
    /// Keys that it speaks of; those after are hidden.
    pub keys: usize,
}

/// How scores become probabilities.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scoring {
    /// Factor of the products.
    pub scale: f32,
    /// Scaled products become `softcap * tanh(products / softcap)`, unless 0.
    pub softcap: f32,
    /// With `Some(n)`, query `i` does not see keys after `i + n`.
    pub causal: Option<usize>,
    /// Whether a query that may see nothing yields NaN rather than zeros.
    pub blind_nan: bool,
}

/// Everything but the result, checked.
#[derive(Clone, Copy)]
struct Job<'a> {
    sizes: Sizes,
    q: Heads<'a>,
    k: Heads<'a>,
    v: Heads<'a>,
    mask: Option<Mask<'a>>,
    scoring: Scoring,
    out_strides: [usize; 3],
}

/// The queries of all heads that share a head of keys, as one run of rows.
#[derive(Clone, Copy)]
struct Group {
    batch: usize,
    kv_head: usize,
}

impl Job<'_> {
    /// Rows of a group.
    fn rows(&self) -> usize {
        self.sizes.heads / self.sizes.kv_heads * self.sizes.queries
    }

    /// Head and query of a group's row.
    fn place(&self, g: Group, row: usize) -> (usize, usize) {
        let s = &self.sizes;
        (g.kv_head * (s.heads / s.kv_heads) + row / s.queries, row % s.queries)
    }

    /// Head and query of a group's rows from `first` on.
    fn places(&self, g: Group, first: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (queries, mut next) = (self.sizes.queries, self.place(g, first));
        std::iter::repeat_with(move || {
            let here = next;
            next = if here.1 + 1 == queries { (here.0 + 1, 0) } else { (here.0, here.1 + 1) };
            here
        })
    }

    /// Where a group's rows from `first` on lie by these strides.
    fn offsets(&self, g: Group, first: usize, strides: [usize; 3]) -> impl Iterator<Item = usize> + use<> {
        let places = self.places(g, first);
        places.map(move |(head, query)| g.batch * strides[0] + head * strides[1] + query * strides[2])
    }

    /// Where a group's row lies by these strides.
    fn offset(&self, g: Group, row: usize, strides: [usize; 3]) -> usize {
        let (head, query) = self.place(g, row);
        g.batch * strides[0] + head * strides[1] + query * strides[2]
    }
}

/// Fails unless the result's rows lie apart.
fn apart(rows: [usize; 3], strides: [usize; 3], size: usize) -> Result<(), KernelError> {
    let mut axes: [(usize, usize); 3] = std::array::from_fn(|i| (strides[i], rows[i]));
    axes.sort_unstable();
    let mut end = size;
    for (stride, n) in axes.into_iter().filter(|a| a.1 > 1) {
        if stride < end {
            return Err(KernelError::Shape("attention: rows of the result overlap"));
        }
        let last = stride.checked_mul(n - 1).and_then(|l| l.checked_add(end));
        end = last.ok_or(KernelError::Overflow("attention"))?;
    }
    Ok(())
}

/// Writes the attention of `q` over `k` and `v` to `out`, whose rows lie by `out_strides`.
///
/// Products and sums are those of plain softmax: a NaN or infinity among a query's scores makes its row NaN,
/// and so does one among the values, hidden or not.
#[allow(clippy::too_many_arguments)]
pub fn attention(
    pool: &Pool,
    sizes: Sizes,
    q: Heads<'_>,
    k: Heads<'_>,
    v: Heads<'_>,
    mask: Option<Mask<'_>>,
    scoring: Scoring,
    out: &mut [f32],
    out_strides: [usize; 3],
) -> Result<(), KernelError> {
    let Sizes { batch, heads, kv_heads, queries, keys, size, value_size } = sizes;
    if kv_heads == 0 || heads % kv_heads != 0 {
        return Err(KernelError::Shape("attention: heads of queries do not share those of keys evenly"));
    }
    let check = |what, h: &Heads<'_>, [heads, rows, size]: [usize; 3]| {
        let [b, h0, r] = h.strides;
        at_least(what, h.data, extent(what, &[batch, heads, rows, size], &[b, h0, r, 1])?)
    };
    check("queries", &q, [heads, queries, size])?;
    check("keys", &k, [kv_heads, keys, size])?;
    check("values", &v, [kv_heads, keys, value_size])?;
    let [b, h, r] = out_strides;
    at_least("output", out, extent("output", &[batch, heads, queries, value_size], &[b, h, r, 1])?)?;
    if let Some(m) = &mask {
        if m.keys > keys || m.strides[3] > 1 {
            return Err(KernelError::Shape("attention: a mask of more keys than there are, or sparse ones"));
        }
        let needed = extent("mask", &[batch, heads, queries, m.keys], &m.strides)?;
        match m.values {
            MaskValues::Added(x) => at_least("mask", x, needed)?,
            MaskValues::Seen(x) => at_least("mask", x, needed)?,
        }
    }
    if [batch, heads, queries, value_size].contains(&0) {
        return Ok(());
    }
    apart([batch, heads, queries], out_strides, value_size)?;
    // What has no elements lies anywhere.
    let mask = mask.map(|m| if m.keys == 0 { Mask { strides: [0; 4], ..m } } else { m });
    let still = |h: Heads<'_>| if size == 0 { [0; 3] } else { h.strides };
    let (q, k) = (Heads { strides: still(q), ..q }, Heads { strides: still(k), ..k });
    let job = Job { sizes, q, k, v, mask, scoring, out_strides };
    let out = Shards::new(out);
    let groups = batch * kv_heads;
    let group = |i: usize| Group { batch: i / kv_heads, kv_head: i % kv_heads };
    let failed = FirstError::default();
    if keys == 0 {
        for i in 0..groups {
            for row in 0..job.rows() {
                // SAFETY: the rows lie apart, and nobody else writes.
                unsafe { out.part(job.offset(group(i), row, out_strides), value_size) }.fill(0.0);
            }
        }
        return Ok(());
    }
    if job.rows() <= few::MOST_ROWS {
        pool.run(groups, |i| failed.note(few::run(pool.level(), &job, group(i), out)));
    } else {
        // Every part packs keys and values for itself: no more parts than threads need.
        let wanted = if pool.threads() == 1 { 1 } else { (4 * pool.threads()).div_ceil(groups) };
        let parts = wanted.min(job.rows().div_ceil(block::FEWEST_ROWS));
        let each = job.rows().div_ceil(parts);
        let parts = job.rows().div_ceil(each);
        pool.run(groups * parts, |i| {
            let first = i % parts * each;
            let rows = first..(first + each).min(job.rows());
            failed.note(block::run(pool.level(), &job, group(i / parts), rows, out));
        });
    }
    failed.into_result()
}
