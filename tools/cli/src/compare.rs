//! `tensormill compare`

use crate::{
    args::CompareArgs,
    failure::Failure,
    inputs,
    outputs::flatten,
    session,
    text::{safe, table},
};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use tensormill::{DType, Inputs, Model, Outputs, SessionOptions, Tensor};

/// Inner values compared at most to find where two models part.
const MAX_INNER: usize = 20_000;

pub fn run(args: &CompareArgs) -> Result<String, Failure> {
    let a = session::load(&args.model, Some(&args.session))?;
    let b = match &args.other {
        Some(path) => session::load(path, Some(&args.session))?,
        None => a.clone(),
    };
    let left = session::options(&args.session);
    // Two models run the same way; one model runs in two ways.
    let right = match &args.other {
        Some(_) => session::options(&args.session),
        None => session::options_on(&args.session, args.against_backend, args.against_opt),
    };
    let sizes: BTreeMap<String, usize> = args.session.dims.iter().cloned().collect();
    let session = a.session_with(&left)?;
    let given = inputs::gather(&args.input, session.inputs(), &sizes)?;
    let x = session.run(given.iter().cloned().collect::<Inputs<'_>>())?;
    let y = b.session_with(&right)?.run(rename(&given, &a, &b))?;
    let rows = pairs(&x, &y, args, args.other.is_some())?;
    let same = rows.iter().all(|r| r.same);
    let first = if same { None } else { first_difference(args, &a, &b, &left, &right, &given)? };
    let report = if args.json {
        as_json(&rows, same, first.as_ref())
    } else {
        for_people(&rows, first.as_ref(), args)
    };
    if same { Ok(report) } else { Err(Failure::Differs(report)) }
}

/// Inputs of one model under the names of another, whose names may differ while their order does not.
fn rename<'a>(given: &'a [(String, Tensor)], a: &Model, b: &'a Model) -> Inputs<'a> {
    given
        .iter()
        .map(|(name, t)| {
            let at = a.inputs().iter().position(|p| p.name == *name);
            let known = b.inputs().iter().any(|p| p.name == *name);
            let other = at.and_then(|i| b.inputs().get(i)).filter(|_| !known);
            (other.map_or(name.as_str(), |p| p.name.as_str()), t.clone())
        })
        .collect()
}

struct Row {
    name: String,
    same: bool,
    absolute: f64,
    relative: f64,
    what: String,
}

fn pairs(x: &Outputs, y: &Outputs, args: &CompareArgs, by_order: bool) -> Result<Vec<Row>, Failure> {
    let (x, y) = (flatten(x.iter()), flatten(y.iter()));
    if x.len() != y.len() {
        return Err(Failure::Differs(format!("one side has {} outputs, the other {}\n", x.len(), y.len())));
    }
    let rows = x.iter().enumerate().map(|(i, (name, t))| {
        let named = y.iter().find(|(n, _)| n == name).map(|(_, u)| u);
        let other = named.or_else(|| by_order.then(|| &y[i].1));
        match other {
            Some(u) => row(name, t, u, args),
            None => {
                Row { name: name.clone(), same: false, absolute: 0.0, relative: 0.0, what: "missing".into() }
            }
        }
    });
    Ok(rows.collect())
}

/// How far two tensors are apart. Equal infinities are equal, and so are two NaN.
fn row(name: &str, a: &Tensor, b: &Tensor, args: &CompareArgs) -> Row {
    let mut row = Row { name: name.into(), same: true, absolute: 0.0, relative: 0.0, what: String::new() };
    let apart = |mut row: Row, what: String| {
        row.same = false;
        row.what = what;
        row
    };
    if a.shape() != b.shape() || a.dtype() != b.dtype() {
        return apart(row, format!("{}{} against {}{}", a.dtype(), a.shape(), b.dtype(), b.shape()));
    }
    let (a64, b64) = match (a.to_f64_vec(), b.to_f64_vec()) {
        (Ok(x), Ok(y)) => (x, y),
        // Strings and complex numbers are equal or not.
        _ if a.same_bits(b) => return row,
        _ => return apart(row, "different values".into()),
    };
    // 64-bit integers may differ beyond what an f64 holds.
    let exact = matches!(a.dtype(), DType::I64 | DType::U64);
    let mut wrong = 0usize;
    let mut at = None;
    for (i, (&x, &y)) in a64.iter().zip(&b64).enumerate() {
        if x == y || (x.is_nan() && y.is_nan()) {
            continue;
        }
        let d = (x - y).abs();
        let d = if d.is_nan() { f64::INFINITY } else { d };
        row.absolute = row.absolute.max(d);
        row.relative = row.relative.max(d / y.abs().max(f64::MIN_POSITIVE));
        if d.is_infinite() || d > args.atol + args.rtol * y.abs() {
            wrong += 1;
            at = at.or(Some(i));
        }
    }
    if let Some(i) = at {
        let what =
            format!("{wrong} of {} beyond tolerance, first at {i}: {} against {}", a64.len(), a64[i], b64[i]);
        return apart(row, what);
    }
    if exact && args.atol == 0.0 && args.rtol == 0.0 && !a.same_bits(b) {
        return apart(row, "different bits".into());
    }
    row
}

/// The first value, in the order of the graph, that both sides name and that differs.
fn first_difference(
    args: &CompareArgs,
    a: &Model,
    b: &Model,
    left: &SessionOptions,
    right: &SessionOptions,
    given: &[(String, Tensor)],
) -> Result<Option<(Row, String)>, Failure> {
    let g = a.graph();
    let mut shared: Vec<(String, String)> = vec![];
    for id in g.order() {
        let node = g.node(id);
        if matches!(node.op, tensormill_ir::Op::Const(_)) {
            continue;
        }
        for &v in &node.outputs {
            if let Some(name) = &g.value(v).name
                && g.ty(v).as_tensor().is_some()
                && b.graph().value_by_name(name).is_some()
                && shared.len() < MAX_INNER
            {
                let origin = node.origin.as_deref().unwrap_or("");
                shared.push((name.to_string(), format!("{} {}", node.op.name(), safe(origin))));
            }
        }
    }
    let all = |o: &SessionOptions| shared.iter().fold(o.clone(), |o, (name, _)| o.output(name));
    let x = a.session_with(&all(left))?.run(given.iter().cloned().collect::<Inputs<'_>>())?;
    let y = b.session_with(&all(right))?.run(rename(given, a, b))?;
    for (name, node) in &shared {
        // An output of the graph may hide a value of the same name: both sides have it either way.
        if let (Ok(t), Ok(u)) = (x.tensor(name), y.tensor(name)) {
            let row = row(name, t, u, args);
            if !row.same {
                return Ok(Some((row, node.trim_end().to_string())));
            }
        }
    }
    Ok(None)
}

fn as_json(rows: &[Row], same: bool, first: Option<&(Row, String)>) -> String {
    let one = |r: &Row| {
        let number = |v: f64| if v.is_finite() { json!(v) } else { json!(v.to_string()) };
        json!({"name": r.name, "same": r.same, "max_abs": number(r.absolute), "max_rel": number(r.relative), "what": r.what})
    };
    let first = first.map_or(Json::Null, |(r, node)| {
        let mut v = one(r);
        v["node"] = json!(node);
        v
    });
    let outputs: Vec<_> = rows.iter().map(one).collect();
    format!("{}\n", json!({"same": same, "outputs": outputs, "first_difference": first}))
}

fn for_people(rows: &[Row], first: Option<&(Row, String)>, args: &CompareArgs) -> String {
    let list: Vec<_> = rows
        .iter()
        .map(|r| {
            vec![
                safe(&r.name),
                if r.same { "same" } else { "DIFFERENT" }.to_string(),
                format!("{:.3e}", r.absolute),
                format!("{:.3e}", r.relative),
                r.what.clone(),
            ]
        })
        .collect();
    let mut out = table(&["output", "is", "max abs", "max rel", ""], &[2, 3], &list);
    out += &format!("tolerance: {} + {} x |expected|\n", args.atol, args.rtol);
    if let Some((row, node)) = first {
        out += &format!("first difference: value \"{}\" of node {node}: {}\n", safe(&row.name), row.what);
    } else if rows.iter().any(|r| !r.same) {
        out += "no inner value that both sides name differs when all of them are kept\n";
    }
    out
}
