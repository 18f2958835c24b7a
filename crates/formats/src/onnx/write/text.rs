//! Strings.

use super::{error::Result, node::NodeCx};
use tensormill_ir::ops::{CaseChange, NgramMode, Ngrams, StringNormalize, StringSplit};

pub(super) fn split(cx: &mut NodeCx<'_, '_, '_>, op: &StringSplit) -> Result<()> {
    let mut made = cx.plain("StringSplit");
    if !op.delimiter.is_empty() {
        made = made.string("delimiter", &op.delimiter);
    }
    if let Some(n) = op.max_splits {
        made.size("maxsplit", n);
    }
    Ok(())
}

pub(super) fn normalize(cx: &mut NodeCx<'_, '_, '_>, op: &StringNormalize) -> Result<()> {
    let case = match op.case {
        CaseChange::None => "NONE",
        CaseChange::Lower => "LOWER",
        CaseChange::Upper => "UPPER",
    };
    let mut made = cx.plain("StringNormalizer").string("case_change_action", case);
    made = made.flag("is_case_sensitive", op.case_sensitive);
    if !op.stopwords.is_empty() {
        made.strings("stopwords", op.stopwords.iter().map(String::as_str));
    }
    Ok(())
}

pub(super) fn ngrams(cx: &mut NodeCx<'_, '_, '_>, op: &Ngrams) -> Result<()> {
    let mode = match op.mode {
        NgramMode::Count => "TF",
        NgramMode::Weight => "IDF",
        NgramMode::WeightedCount => "TFIDF",
    };
    let mut made = cx
        .plain("TfIdfVectorizer")
        .string("mode", mode)
        .size("min_gram_length", op.min_length)
        .size("max_gram_length", op.max_length)
        .size("max_skip_count", op.max_skip)
        .sizes("ngram_counts", &op.starts)
        .sizes("ngram_indexes", &op.places);
    if !op.weights.is_empty() {
        made = made.floats("weights", op.weights.iter().map(|w| w.0).collect());
    }
    if !op.ints.is_empty() {
        made = made.ints("pool_int64s", &op.ints);
    }
    if !op.strings.is_empty() {
        made.strings("pool_strings", op.strings.iter().map(String::as_str));
    }
    Ok(())
}
