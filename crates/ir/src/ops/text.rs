use super::OpDef;
use crate::{
    attr::F32,
    dim::Dim,
    error::InferError,
    infer::{InferCx, broadcast, refuse},
    op_attrs,
    types::TensorType,
    word_enum,
};
use tensormill_tensor::DType;

op_attrs! {
    /// Strings put one after the other. Operands: two string tensors, which broadcast.
    StringConcat {}
}

impl OpDef for StringConcat {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(2..=2)?;
        let (a, b) = (cx.typed(0, DType::Str)?, cx.typed(1, DType::Str)?);
        let dims = broadcast(a.dims.as_ref(), b.dims.as_ref())?;
        cx.output(TensorType { dtype: DType::Str, dims });
        Ok(())
    }
}

op_attrs! {
    /// Strings cut up. Operand: a string tensor. Results: the pieces along a new last axis, empty strings
    /// after those of a string that has fewer than the others; and their numbers, i64.
    StringSplit {
        /// What stands between pieces; when empty, white space does, and none is left at the ends.
        delimiter: String = String::new(),
        /// How often a string is cut at most, from the left.
        max_splits: Option<usize> = None,
    }
}

impl OpDef for StringSplit {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(1..=1)?;
        let x = cx.typed(0, DType::Str)?;
        let pieces = x.dims.as_ref().map(|d| d.iter().cloned().chain([Dim::Unknown]).collect());
        cx.output(TensorType { dtype: DType::Str, dims: pieces });
        cx.output(TensorType { dtype: DType::I64, dims: x.dims.clone() });
        Ok(())
    }
}

word_enum! {
    /// What happens to the case of letters.
    CaseChange {
        /// Nothing.
        None = "none",
        /// All become lower case.
        Lower = "lower",
        /// All become upper case.
        Upper = "upper",
    }
}

op_attrs! {
    /// Strings without stop words, in one case; one empty string when none is left. Operand: strings `[n]`
    /// or `[1,n]`. Letters change case by Unicode, whatever the locale.
    StringNormalize {
        /// What happens to the case of letters.
        case: CaseChange = CaseChange::None,
        /// Whether stop words only count in their own case.
        case_sensitive: bool = false,
        /// The words to leave out.
        stopwords: Vec<String> = vec![],
    }
}

impl OpDef for StringNormalize {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(1..=1)?;
        let dims = match cx.typed(0, DType::Str)?.dims.as_deref() {
            None => None,
            Some([_]) => Some([Dim::Unknown].into_iter().collect()),
            Some([one, _]) if one.known().is_none_or(|n| n == 1) => {
                Some([Dim::Known(1), Dim::Unknown].into_iter().collect())
            }
            Some(_) => return refuse("strings must be a vector or one row"),
        };
        cx.output(TensorType { dtype: DType::Str, dims });
        Ok(())
    }
}

op_attrs! {
    /// Whether each whole string matches a regular expression. Operand: a string tensor; the result is
    /// bool. Classes such as `\w` are those of Unicode.
    RegexFullMatch {
        /// The expression.
        pattern: String = String::new(),
    }
}

impl OpDef for RegexFullMatch {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(1..=1)?;
        let dims = cx.typed(0, DType::Str)?.dims.clone();
        cx.output(TensorType { dtype: DType::Bool, dims });
        Ok(())
    }
}

word_enum! {
    /// What stands for an n-gram in the result.
    NgramMode {
        /// How often it occurs.
        Count = "count",
        /// Its weight, if it occurs.
        Weight = "weight",
        /// Its weight times how often it occurs.
        WeightedCount = "weighted_count",
    }
}

op_attrs! {
    /// Counts known n-grams. Operand: strings or i32 or i64, `[n]` or `[rows,n]`. Result: f32, a value per
    /// place in `places`, `[max+1]` or `[rows,max+1]`.
    ///
    /// The n-grams are in `strings` or `ints`, first all of one item, then all of two, and so on.
    Ngrams {
        /// What the result holds.
        mode: NgramMode = NgramMode::Count,
        /// Shortest n-gram counted.
        min_length: usize = 1,
        /// Longest n-gram counted.
        max_length: usize = 1,
        /// Items that may lie between two of an n-gram, as many between any two.
        max_skip: usize = 0,
        /// Where the n-grams of one item begin in the list, those of two, and so on.
        starts: Vec<usize> = vec![],
        /// The place of each n-gram in the result.
        places: Vec<usize> = vec![],
        /// The weight of each n-gram; empty when all are 1.
        weights: Vec<F32> = vec![],
        /// Items of n-grams of integers.
        ints: Vec<i64> = vec![],
        /// Items of n-grams of strings.
        strings: Vec<String> = vec![],
    }
}

impl Ngrams {
    /// Length of the result.
    ///
    /// # Errors
    /// When it is no number.
    pub fn width(&self) -> Result<usize, InferError> {
        match self.places.iter().max() {
            None => Ok(0),
            Some(m) => m.checked_add(1).ok_or_else(|| InferError::new("a place beyond any size")),
        }
    }
}

impl OpDef for Ngrams {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(1..=1)?;
        let x = cx.tensor(0)?;
        let fits = match x.dtype {
            DType::Str => self.ints.is_empty(),
            DType::I32 | DType::I64 => self.strings.is_empty(),
            _ => false,
        };
        if !fits {
            return refuse(format!("has no n-grams of {}", x.dtype));
        }
        if self.min_length == 0 || self.max_length < self.min_length {
            return refuse(format!("n-grams of {} to {} items", self.min_length, self.max_length));
        }
        if !self.weights.is_empty() && self.weights.len() != self.places.len() {
            return refuse("there must be one weight per n-gram");
        }
        let width = Dim::Known(self.width()?);
        let dims = match x.dims.as_deref() {
            None => None,
            Some([_]) => Some([width].into_iter().collect()),
            Some([rows, _]) => Some([rows.clone(), width].into_iter().collect()),
            Some(d) => return refuse(format!("x must have rank 1 or 2, not {}", d.len())),
        };
        cx.output(TensorType { dtype: DType::F32, dims });
        Ok(())
    }
}
