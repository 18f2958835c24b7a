//! Operators of classical machine learning, domain `ai.onnx.ml`.

use super::{LowerError, NodeCx, Table};
use tensormill_ir::{
    ValueId,
    ops::{ArgReduce, BinaryKind, Gather, Lookup, MatMul, Reduce, ReduceKind, Softmax, UnaryKind, Where},
};
use tensormill_tensor::{DType, Tensor};

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table = &[
    ("ArrayFeatureExtractor", array_feature_extractor),
    ("Binarizer", binarizer),
    ("Imputer", imputer),
    ("LabelEncoder", label_encoder),
    ("LinearClassifier", linear_classifier),
    ("LinearRegressor", linear_regressor),
    ("Normalizer", normalizer),
    ("Scaler", scaler),
];

/// A tensor of elements that are as many as its shape says.
pub(super) fn made(t: std::result::Result<Tensor, tensormill_tensor::TensorError>) -> Result<Tensor> {
    t.map_err(|e| LowerError::Operand(e.to_string()))
}

fn floats(v: Vec<f32>) -> Result<Tensor> {
    made(Tensor::from_vec([v.len()], v))
}

fn array_feature_extractor(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let (x, at) = (cx.input(0)?, cx.input(1)?);
    let flat = cx.ints_constant(&[-1])?;
    let at = cx.op(tensormill_ir::ops::Reshape::default(), &[at, flat])?;
    let mut y = cx.op(Gather { axis: -1 }, &[x, at])?;
    // A vector counts as one row.
    if cx.rank(x)? == 1 {
        let axes = cx.ints_constant(&[0])?;
        y = cx.op(tensormill_ir::ops::Unsqueeze {}, &[y, axes])?;
    }
    cx.set(0, y);
    Ok(())
}

fn binarizer(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let threshold = cx.float("threshold", 0.0)?;
    let dtype = cx.dtype(x)?;
    // Integers are compared with the threshold as it is, not cut.
    let wide = if dtype.is_float() { x } else { cx.cast(x, DType::F64)? };
    let above = cx.scalar_like(wide, f64::from(threshold))?;
    let above = cx.binary(BinaryKind::Greater, wide, above)?;
    let y = cx.cast(above, dtype)?;
    cx.set(0, y);
    Ok(())
}

fn imputer(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let dtype = cx.dtype(x)?;
    let (given, replaced) = if dtype.is_float() {
        cx.ignore("replaced_value_int64");
        let Some(v) = cx.floats("imputed_value_floats")? else {
            return cx.bad("imputed_value_floats", "is missing");
        };
        (floats(v)?, Tensor::scalar(cx.float("replaced_value_float", 0.0)?))
    } else {
        cx.ignore("replaced_value_float");
        let Some(v) = cx.ints("imputed_value_int64s")? else {
            return cx.bad("imputed_value_int64s", "is missing");
        };
        (made(Tensor::from_vec([v.len()], v))?, Tensor::scalar(cx.int("replaced_value_int64", 0)?))
    };
    let is_nan = dtype.is_float() && replaced.to_f64_vec().is_ok_and(|v| v[0].is_nan());
    let (given, replaced) = (cx.constant(given)?, cx.constant(replaced)?);
    let (given, replaced) = (cx.cast(given, dtype)?, cx.cast(replaced, dtype)?);
    let missing =
        if is_nan { cx.unary(UnaryKind::IsNan, x)? } else { cx.binary(BinaryKind::Equal, x, replaced)? };
    let y = cx.op(Where {}, &[missing, given, x])?;
    cx.set(0, y);
    Ok(())
}

/// Keys or values of a table, whichever attribute has them.
fn entries(cx: &NodeCx<'_, '_>, what: &str) -> Result<Option<Tensor>> {
    let name = |kind: &str| format!("{what}_{kind}");
    if let Some(t) = cx.tensor_attribute(&name("tensor"))? {
        let n = t.len();
        return made(t.reshape([n])).map(Some);
    }
    if let Some(v) = cx.strings(&name("strings"))? {
        return made(Tensor::from_strings([v.len()], v)).map(Some);
    }
    if let Some(v) = cx.ints(&name("int64s"))? {
        return made(Tensor::from_vec([v.len()], v)).map(Some);
    }
    cx.floats(&name("floats"))?.map(floats).transpose()
}

fn label_encoder(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let defaults =
        (cx.string("default_string")?, cx.opt_int("default_int64")?, cx.opt_float("default_float")?);
    // Before opset 2 a list of strings was mapped to its places, and back.
    let (keys, values) = if cx.opset() < 2 {
        let Some(classes) = cx.strings("classes_strings")? else {
            return cx.bad("classes_strings", "is missing");
        };
        let places = made(Tensor::from_vec([classes.len()], (0..classes.len() as i64).collect()))?;
        let classes = made(Tensor::from_strings([classes.len()], classes))?;
        if cx.dtype(x)? == DType::Str { (classes, places) } else { (places, classes) }
    } else {
        match (entries(cx, "keys")?, entries(cx, "values")?) {
            (Some(k), Some(v)) => (k, v),
            _ => return LowerError::operand("keys and values are missing"),
        }
    };
    let default = match cx.tensor_attribute("default_tensor")? {
        Some(t) if t.len() == 1 => made(t.reshape([]))?,
        Some(_) => return cx.bad("default_tensor", "must have one element"),
        None if values.dtype() == DType::Str => {
            let unused = defaults.0.unwrap_or_else(|| "_Unused".into());
            made(Tensor::from_strings([], vec![unused]))?
        }
        None if values.dtype().is_float() => {
            made(Tensor::from_f64s(values.dtype(), [], [f64::from(defaults.2.unwrap_or(-0.0))]))?
        }
        None => made(Tensor::from_i64s(values.dtype(), [], [defaults.1.unwrap_or(-1)]))?,
    };
    let operands = [x, cx.constant(keys)?, cx.constant(values)?, cx.constant(default)?];
    let y = cx.op(Lookup {}, &operands)?;
    cx.set(0, y);
    Ok(())
}

/// Scores through the function that turns them into what the operator gives.
pub(super) fn post_transform(cx: &mut NodeCx<'_, '_>, y: ValueId, name: &str) -> Result<ValueId> {
    match name {
        "NONE" => Ok(y),
        "LOGISTIC" => cx.unary(UnaryKind::Sigmoid, y),
        "SOFTMAX" => cx.op(Softmax { axis: -1 }, &[y]),
        "SOFTMAX_ZERO" | "PROBIT" => LowerError::feature(format!("post_transform {name}")),
        _ => cx.bad("post_transform", "is unknown"),
    }
}

/// `x * coefficients' + intercepts`, in f32, for so many targets.
fn linear(cx: &mut NodeCx<'_, '_>, targets: usize) -> Result<ValueId> {
    let x = cx.input(0)?;
    let x = cx.cast(x, DType::F32)?;
    let Some(c) = cx.floats("coefficients")? else { return cx.bad("coefficients", "is missing") };
    if targets == 0 || c.len() % targets != 0 {
        return cx.bad("coefficients", format!("do not divide into {targets} rows"));
    }
    let c = made(Tensor::from_vec([targets, c.len() / targets], c))?;
    let c = cx.constant(c)?;
    let mut y = cx.op(MatMul { trans_b: true, ..Default::default() }, &[x, c])?;
    if let Some(v) = cx.floats("intercepts")? {
        if v.len() != targets {
            return cx.bad("intercepts", format!("must be {targets}"));
        }
        let v = floats(v)?;
        let v = cx.constant(v)?;
        y = cx.binary(BinaryKind::Add, y, v)?;
    }
    Ok(y)
}

fn linear_regressor(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let targets =
        usize::try_from(cx.int("targets", 1)?).or_else(|_| cx.bad("targets", "must be positive"))?;
    let y = linear(cx, targets)?;
    let transform = cx.string("post_transform")?.unwrap_or_else(|| "NONE".into());
    let y = post_transform(cx, y, &transform)?;
    cx.set(0, y);
    Ok(())
}

fn linear_classifier(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let labels = match (cx.strings("classlabels_strings")?, cx.ints("classlabels_ints")?) {
        (Some(s), None) => made(Tensor::from_strings([s.len()], s))?,
        (None, Some(v)) => made(Tensor::from_vec([v.len()], v))?,
        _ => return LowerError::operand("one list of class labels must be given"),
    };
    // It only says how the coefficients were found.
    cx.ignore("multi_class");
    let rows = cx.floats("intercepts")?.map_or(labels.len(), |v| v.len());
    if rows != labels.len() {
        return LowerError::feature("a classifier of two classes with one row of coefficients");
    }
    let scores = linear(cx, rows)?;
    let transform = cx.string("post_transform")?.unwrap_or_else(|| "NONE".into());
    let z = post_transform(cx, scores, &transform)?;
    let best = ArgReduce { max: true, axis: -1, keepdims: false, select_last: false };
    let best = cx.op(best, &[scores])?;
    let labels = cx.constant(labels)?;
    let y = cx.op(Gather { axis: 0 }, &[labels, best])?;
    cx.set(0, y);
    cx.set(1, z);
    Ok(())
}

fn normalizer(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let x = cx.cast(x, DType::F32)?;
    let norm = cx.string("norm")?;
    let kind = match norm.as_deref().unwrap_or("MAX") {
        "MAX" => ReduceKind::Max,
        "L1" => ReduceKind::L1,
        "L2" => ReduceKind::L2,
        _ => return cx.bad("norm", "must be MAX, L1 or L2"),
    };
    let axes = cx.ints_constant(&[-1])?;
    let by = cx.op(Reduce { kind, keepdims: true, ..Default::default() }, &[x, axes])?;
    // A row of zeros stays one.
    let (zero, one) = (cx.scalar_like(by, 0.0)?, cx.scalar_like(by, 1.0)?);
    let none = cx.binary(BinaryKind::Equal, by, zero)?;
    let by = cx.op(Where {}, &[none, one, by])?;
    let y = cx.binary(BinaryKind::Div, x, by)?;
    cx.set(0, y);
    Ok(())
}

fn scaler(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let mut y = cx.cast(x, DType::F32)?;
    for (name, kind) in [("offset", BinaryKind::Sub), ("scale", BinaryKind::Mul)] {
        if let Some(v) = cx.floats(name)? {
            let v = floats(v)?;
            let v = cx.constant(v)?;
            y = cx.binary(kind, y, v)?;
        }
    }
    cx.set(0, y);
    Ok(())
}
