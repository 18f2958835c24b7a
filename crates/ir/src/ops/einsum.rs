use super::OpDef;
use crate::{
    dim::Dim,
    error::InferError,
    infer::{InferCx, refuse},
    op_attrs,
    types::{Dims, TensorType},
};

op_attrs! {
    /// Sums of products over labelled axes, as numpy's function of that name. Operands: any number of
    /// tensors of one dtype.
    Einsum {
        /// Letters name axes, `...` stands for axes that broadcast; without `->` the result has every
        /// letter that occurs once, sorted.
        equation: String = String::new(),
    }
}

/// One axis, or all that `...` stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Label {
    Letter(u8),
    Ellipsis,
}

/// A parsed equation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EinsumTerms {
    inputs: Vec<Vec<Label>>,
    output: Vec<Label>,
}

/// Axes of operands and of the result as labels: letters by their code, axes of `...` counted from the
/// last one on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EinsumAxes {
    /// For each operand the label of each axis.
    pub inputs: Vec<Vec<usize>>,
    /// The label of each axis of the result.
    pub output: Vec<usize>,
}

/// Labels from here on are of axes that `...` stands for.
const FIRST_OF_ELLIPSIS: usize = 256;

fn labels(term: &str) -> Result<Vec<Label>, InferError> {
    let mut out = vec![];
    let mut rest = term.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match first {
            b' ' | b'\t' => {}
            c if c.is_ascii_alphabetic() => out.push(Label::Letter(*c)),
            b'.' if tail.starts_with(b"..") && !out.contains(&Label::Ellipsis) => {
                out.push(Label::Ellipsis);
                rest = &tail[2..];
            }
            _ => return refuse(format!("equation term \"{}\" cannot be read", term.escape_debug())),
        }
    }
    Ok(out)
}

impl Einsum {
    /// The equation's terms.
    ///
    /// # Errors
    /// When it cannot be read, or the result has a letter twice or one that no operand has.
    pub fn terms(&self) -> Result<EinsumTerms, InferError> {
        let (from, to) = match self.equation.split_once("->") {
            Some((from, to)) => (from, Some(to)),
            None => (self.equation.as_str(), None),
        };
        let inputs: Vec<Vec<Label>> = from.split(',').map(labels).collect::<Result<_, _>>()?;
        let count = |l: &Label| inputs.iter().flatten().filter(|k| *k == l).count();
        let output = match to {
            Some(to) => labels(to)?,
            None => {
                let ellipsis = (count(&Label::Ellipsis) > 0).then_some(Label::Ellipsis);
                let letters = (b'A'..=b'z').map(Label::Letter).filter(|l| count(l) == 1).collect::<Vec<_>>();
                ellipsis.into_iter().chain(letters).collect()
            }
        };
        for (i, l) in output.iter().enumerate() {
            if output[..i].contains(l) {
                return refuse("an axis of the result is named twice");
            }
            if count(l) == 0 {
                return refuse("an axis of the result is in no operand");
            }
        }
        Ok(EinsumTerms { inputs, output })
    }
}

impl EinsumTerms {
    /// The label of every axis of operands of these ranks.
    ///
    /// # Errors
    /// When the equation does not fit them.
    pub fn axes(&self, ranks: &[usize]) -> Result<EinsumAxes, InferError> {
        if ranks.len() != self.inputs.len() {
            return refuse(format!(
                "the equation has {} terms for {} operands",
                self.inputs.len(),
                ranks.len()
            ));
        }
        let mut widest = 0;
        let mut spread = |term: &[Label], rank: usize| -> Result<Vec<usize>, InferError> {
            let letters = term.iter().filter(|l| **l != Label::Ellipsis).count();
            let open = term.len() > letters;
            let wide = match rank.checked_sub(letters) {
                Some(n) if n == 0 || open => n,
                _ => return refuse(format!("a term of {letters} letters does not fit rank {rank}")),
            };
            widest = widest.max(wide);
            Ok(expand(term, wide))
        };
        let inputs =
            self.inputs.iter().zip(ranks).map(|(t, r)| spread(t, *r)).collect::<Result<_, InferError>>()?;
        if widest > 0 && !self.output.contains(&Label::Ellipsis) {
            return refuse("the result must have the `...` that operands have");
        }
        Ok(EinsumAxes { inputs, output: expand(&self.output, widest) })
    }
}

fn expand(term: &[Label], wide: usize) -> Vec<usize> {
    let mut out = vec![];
    for l in term {
        match l {
            Label::Letter(c) => out.push(usize::from(*c)),
            Label::Ellipsis => out.extend((0..wide).rev().map(|i| FIRST_OF_ELLIPSIS + i)),
        }
    }
    out
}

impl OpDef for Einsum {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(1..=usize::MAX)?;
        let terms = self.terms()?;
        let dtype = cx.tensor(0)?.dtype;
        if !(dtype.is_float() || dtype.is_int()) {
            return refuse(format!("is not defined for {dtype}"));
        }
        let mut operands: Vec<Option<&Dims>> = vec![];
        for i in 0..cx.len() {
            operands.push(cx.typed(i, dtype)?.dims.as_ref());
        }
        if operands.len() != terms.inputs.len() {
            return refuse(format!(
                "the equation has {} terms for {} operands",
                terms.inputs.len(),
                operands.len()
            ));
        }
        let Some(known) = operands.into_iter().collect::<Option<Vec<&Dims>>>() else {
            cx.output(TensorType::unranked(dtype));
            return Ok(());
        };
        let axes = terms.axes(&known.iter().map(|d| d.len()).collect::<Vec<_>>())?;
        let mut sizes: Vec<(usize, Dim)> = vec![];
        for (l, d) in axes.inputs.iter().flatten().zip(known.iter().flat_map(|d| d.iter())) {
            match sizes.iter_mut().find(|(k, _)| k == l) {
                None => sizes.push((*l, d.clone())),
                Some((_, s)) => *s = merged(s, d)?,
            }
        }
        let size = |l: &usize| sizes.iter().find(|(k, _)| k == l).map_or(Dim::Unknown, |(_, d)| d.clone());
        cx.output(TensorType::new(dtype, axes.output.iter().map(size)));
        Ok(())
    }
}

/// The size of an axis that two operands have.
fn merged(a: &Dim, b: &Dim) -> Result<Dim, InferError> {
    Ok(match (a, b) {
        _ if a.same(b) => a.clone(),
        (Dim::Known(1), d) | (d, Dim::Known(1)) => d.clone(),
        (Dim::Known(m), Dim::Known(n)) => return refuse(format!("sizes {m} and {n} of one axis differ")),
        (Dim::Known(n), _) | (_, Dim::Known(n)) => Dim::Known(*n),
        _ => Dim::Unknown,
    })
}

op_attrs! {
    /// Determinants of square matrices in the last two axes. Operand: x.
    Det {}
}

impl OpDef for Det {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(1..=1)?;
        let x = cx.tensor(0)?;
        if !x.dtype.is_float() {
            return refuse(format!("is not defined for {}", x.dtype));
        }
        let dims = match x.dims.as_deref() {
            None => None,
            Some([batch @ .., m, n]) => {
                if m.known().zip(n.known()).is_some_and(|(m, n)| m != n) {
                    return refuse("matrices must be square");
                }
                Some(batch.iter().cloned().collect())
            }
            Some(_) => return refuse("x must have rank 2 or more"),
        };
        cx.output(TensorType { dtype: x.dtype, dims });
        Ok(())
    }
}
