//! Strings.

use crate::{
    EvalError,
    data::{broadcast, broadcast_indices, i64s},
    error::refuse,
    eval::{Operands, wrong_dtype},
};
use regex::Regex;
use std::collections::HashMap;
use tensormill_ir::ops::{CaseChange, NgramMode, Ngrams, RegexFullMatch, StringNormalize, StringSplit};
use tensormill_tensor::{DType, Shape, Tensor, Value};

type Result<T> = std::result::Result<T, EvalError>;

pub(crate) fn concat(x: &Operands<'_>) -> Result<Tensor> {
    let (a, b) = (x.tensor(0)?, x.tensor(1)?);
    let shape = broadcast(a.shape(), b.shape())?;
    x.limits.check(&shape)?;
    let (va, vb) = (a.strings()?, b.strings()?);
    let (ia, ib) = (broadcast_indices(a.shape(), &shape), broadcast_indices(b.shape(), &shape));
    let joined = ia.iter().zip(&ib).map(|(&i, &j)| format!("{}{}", va[i], vb[j])).collect();
    Ok(Tensor::from_strings(shape, joined)?)
}

/// Pieces between white space, of which only the last, uncut, may hold some.
fn words(s: &str, max: Option<usize>) -> Vec<&str> {
    let mut rest = s.trim_start();
    let mut out = vec![];
    while !rest.is_empty() {
        let end = rest.find(char::is_whitespace).filter(|_| max.is_none_or(|m| out.len() < m));
        let (word, tail) = rest.split_at(end.unwrap_or(rest.len()));
        out.push(word);
        rest = tail.trim_start();
    }
    out
}

fn pieces<'a>(op: &StringSplit, s: &'a str) -> Vec<&'a str> {
    match op.max_splits {
        _ if op.delimiter.is_empty() => words(s, op.max_splits),
        None => s.split(op.delimiter.as_str()).collect(),
        Some(m) => s.splitn(m.saturating_add(1), op.delimiter.as_str()).collect(),
    }
}

pub(crate) fn split(op: &StringSplit, x: &Operands<'_>) -> Result<Vec<Value>> {
    let t = x.tensor(0)?;
    let cut: Vec<Vec<&str>> = t.strings()?.iter().map(|s| pieces(op, s)).collect();
    let most = cut.iter().map(Vec::len).max().unwrap_or(0);
    let shape: Shape = t.shape().iter().copied().chain([most]).collect();
    // One long string among many short ones would make all rows as long.
    x.limits.check(&shape)?;
    let counts = cut.iter().map(|c| c.len() as i64).collect();
    let mut all = Vec::with_capacity(shape.numel());
    for row in &cut {
        all.extend(row.iter().map(|s| s.to_string()));
        all.extend((row.len()..most).map(|_| String::new()));
    }
    let counts = Tensor::from_vec::<i64>(t.shape().clone(), counts)?;
    Ok(vec![Tensor::from_strings(shape, all)?.into(), counts.into()])
}

pub(crate) fn normalize(op: &StringNormalize, t: &Tensor) -> Result<Tensor> {
    let row = match **t.shape() {
        [_] => false,
        [1, _] => true,
        _ => return refuse("strings must be a vector or one row"),
    };
    let folded: Vec<String> = op.stopwords.iter().map(|s| s.to_lowercase()).collect();
    let stops = |s: &String| {
        if op.case_sensitive { op.stopwords.contains(s) } else { folded.contains(&s.to_lowercase()) }
    };
    let change = |s: &String| match op.case {
        CaseChange::None => s.clone(),
        CaseChange::Lower => s.to_lowercase(),
        CaseChange::Upper => s.to_uppercase(),
    };
    let mut left: Vec<String> = t.strings()?.iter().filter(|s| !stops(s)).map(change).collect();
    if left.is_empty() {
        left.push(String::new());
    }
    let n = left.len();
    Ok(Tensor::from_strings(if row { Shape::from([1, n]) } else { Shape::from([n]) }, left)?)
}

pub(crate) fn full_match(op: &RegexFullMatch, t: &Tensor) -> Result<Tensor> {
    // The expression must make sense by itself, or a bracket in it could close the one around it.
    let compile = |p: &str| {
        Regex::new(p).map_err(|e| EvalError::Operand(format!("the expression cannot be used: {e}")))
    };
    compile(&op.pattern)?;
    let whole = compile(&format!(r"\A(?:{})\z", op.pattern))?;
    let found = t.strings()?.iter().map(|s| whole.is_match(s)).collect();
    Ok(Tensor::from_bools(t.shape().clone(), found)?)
}

/// Items as numbers, the same for the same item; `None` for those of no n-gram.
fn numbered<T: std::hash::Hash + Eq>(pool: &[T], items: &[T]) -> (Vec<usize>, Vec<Option<usize>>) {
    let mut known = HashMap::new();
    let pool = pool
        .iter()
        .map(|p| {
            let next = known.len();
            *known.entry(p).or_insert(next)
        })
        .collect();
    (pool, items.iter().map(|i| known.get(i).copied()).collect())
}

/// The n-grams of each length counted, with their numbers.
fn known_ngrams<'a>(op: &Ngrams, pool: &'a [usize]) -> Result<HashMap<&'a [usize], usize>> {
    let mut known = HashMap::new();
    let mut next = 0;
    for (i, &from) in op.starts.iter().enumerate() {
        let to = op.starts.get(i + 1).copied().unwrap_or(pool.len());
        let length = i + 1;
        let Some(part) = pool.get(from..to).filter(|p| p.len() % length == 0) else {
            return refuse(format!("the n-grams of {length} items do not fit their list"));
        };
        for gram in part.chunks_exact(length) {
            if (op.min_length..=op.max_length).contains(&length) {
                known.insert(gram, next);
            }
            next += 1;
        }
    }
    if next != op.places.len() {
        return refuse(format!("{next} n-grams have {} places", op.places.len()));
    }
    Ok(known)
}

pub(crate) fn ngrams(op: &Ngrams, x: &Operands<'_>) -> Result<Tensor> {
    let t = x.tensor(0)?;
    let (pool, items) = match t.dtype() {
        DType::Str => numbered(&op.strings, t.strings()?),
        DType::I32 | DType::I64 => numbered(&op.ints, &i64s(t)?),
        _ => return wrong_dtype(t),
    };
    let known = known_ngrams(op, &pool)?;
    let width = op.width().map_err(|e| EvalError::Operand(e.0))?;
    let (rows, n) = match **t.shape() {
        [n] => (1, n),
        [rows, n] => (rows, n),
        _ => return refuse("x must have rank 1 or 2"),
    };
    let shape = if t.shape().rank() == 1 { Shape::from([width]) } else { Shape::from([rows, width]) };
    x.limits.check(&shape)?;
    if !op.weights.is_empty() && op.weights.len() != op.places.len() {
        return refuse("there must be one weight per n-gram");
    }
    let mut y = vec![0f32; shape.numel()];
    for row in 0..rows {
        x.limits.check_cancel()?;
        let mut counts = vec![0u64; op.places.len()];
        let items = &items[row * n..][..n];
        let longest = op.max_length.min(op.starts.len());
        for length in op.min_length.max(1)..=longest {
            for step in 1..=op.max_skip.saturating_add(1) {
                // A single item has nothing to skip.
                let Some(reach) = step.checked_mul(length - 1).filter(|r| *r < n) else { break };
                if length == 1 && step > 1 {
                    break;
                }
                for from in 0..n - reach {
                    let gram: Option<Vec<usize>> = (0..length).map(|i| items[from + i * step]).collect();
                    if let Some(found) = gram.and_then(|g| known.get(&g[..]).copied()) {
                        counts[found] += 1;
                    }
                }
            }
        }
        for (i, &count) in counts.iter().enumerate().filter(|(_, c)| **c > 0) {
            let weight = op.weights.get(i).map_or(1.0, |w| w.0);
            y[row * width + op.places[i]] += match op.mode {
                NgramMode::Count => count as f32,
                NgramMode::Weight => weight,
                NgramMode::WeightedCount => weight * count as f32,
            };
        }
    }
    Ok(Tensor::from_vec(shape, y)?)
}
