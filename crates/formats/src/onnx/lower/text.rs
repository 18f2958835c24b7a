//! Strings.

use super::{LowerError, NodeCx, Table};
use tensormill_ir::{
    attr::F32,
    ops::{CaseChange, NgramMode, Ngrams, RegexFullMatch, StringConcat, StringNormalize, StringSplit},
};

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table = &[
    ("StringConcat", concat),
    ("StringSplit", split),
    ("StringNormalizer", normalize),
    ("RegexFullMatch", full_match),
    ("TfIdfVectorizer", ngrams),
];

fn concat(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let operands = cx.all()?;
    let y = cx.op(StringConcat {}, &operands)?;
    cx.set(0, y);
    Ok(())
}

fn split(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let op = StringSplit {
        delimiter: cx.string("delimiter")?.unwrap_or_default(),
        max_splits: cx.opt_int("maxsplit")?.and_then(|n| usize::try_from(n).ok()),
    };
    let results = cx.node(op, &[Some(x)])?;
    cx.set_all(&results);
    Ok(())
}

fn normalize(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let change = cx.string("case_change_action")?;
    let case = match change.as_deref().unwrap_or("NONE") {
        "NONE" => CaseChange::None,
        "LOWER" => CaseChange::Lower,
        "UPPER" => CaseChange::Upper,
        _ => return cx.bad("case_change_action", "must be NONE, LOWER or UPPER"),
    };
    if let Some(locale) = cx.string("locale")?
        && case != CaseChange::None
        && !locale.is_empty()
        && !locale.starts_with("en")
    {
        cx.approximation("letters change case by Unicode, not by the locale");
    }
    let op = StringNormalize {
        case,
        case_sensitive: cx.flag("is_case_sensitive", false)?,
        stopwords: cx.strings("stopwords")?.unwrap_or_default(),
    };
    let y = cx.op(op, &[x])?;
    cx.set(0, y);
    Ok(())
}

fn full_match(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let Some(pattern) = cx.string("pattern")? else { return cx.bad("pattern", "is missing") };
    let y = cx.op(RegexFullMatch { pattern }, &[x])?;
    cx.set(0, y);
    Ok(())
}

/// A list of counts.
fn counts(cx: &NodeCx<'_, '_>, name: &str) -> Result<Vec<usize>> {
    let Some(given) = cx.ints(name)? else { return cx.bad(name, "is missing") };
    let sizes: std::result::Result<Vec<_>, _> = given.into_iter().map(usize::try_from).collect();
    sizes.or_else(|_| cx.bad(name, "must not be negative"))
}

fn count(cx: &NodeCx<'_, '_>, name: &str) -> Result<usize> {
    let Some(n) = cx.opt_int(name)? else { return cx.bad(name, "is missing") };
    usize::try_from(n).or_else(|_| cx.bad(name, "must not be negative"))
}

fn ngrams(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let mode = match cx.string("mode")?.as_deref() {
        Some("TF") => NgramMode::Count,
        Some("IDF") => NgramMode::Weight,
        Some("TFIDF") => NgramMode::WeightedCount,
        _ => return cx.bad("mode", "must be TF, IDF or TFIDF"),
    };
    let op = Ngrams {
        mode,
        min_length: count(cx, "min_gram_length")?,
        max_length: count(cx, "max_gram_length")?,
        max_skip: count(cx, "max_skip_count")?,
        starts: counts(cx, "ngram_counts")?,
        places: counts(cx, "ngram_indexes")?,
        weights: cx.floats("weights")?.unwrap_or_default().into_iter().map(F32).collect(),
        ints: cx.ints("pool_int64s")?.unwrap_or_default(),
        strings: cx.strings("pool_strings")?.unwrap_or_default(),
    };
    let y = cx.op(op, &[x])?;
    cx.set(0, y);
    Ok(())
}
