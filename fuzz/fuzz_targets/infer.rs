//! One op with arbitrary attributes on arbitrary operands: inference never panics, what it says of known
//! sizes is what the reference computes, and what it says of named sizes and elements agrees with that.
#![no_main]

mod catalogue;
mod recipes;

use catalogue::{Choices, attributes};
use libfuzzer_sys::fuzz_target;
use tensormill_ir::{
    Bindings, Dim, Expr, Op, TensorType, Type,
    attr::Attr,
    infer::{Fact, Inferred, infer, int_elements},
};
use tensormill_reference::{EvalLimits, eval};
use tensormill_tensor::{DType, Tensor, Value};

fn tensor(c: &mut Choices) -> Option<Tensor> {
    use DType::*;
    const TYPES: &[DType] = &[F32, F32, I64, I64, Bool, I32, U8, F64, F16, I8, I4, U64, Str, BF16, U16, I16, U32];
    let dtype = TYPES[c.below(TYPES.len())];
    let shape: Vec<usize> = (0..c.below(6)).map(|_| c.below(5)).collect();
    let n = shape.iter().product::<usize>();
    if n > 256 {
        return None;
    }
    if dtype == Str {
        const TEXTS: &[&str] = &["", "a", "a b", "Ab,c", "\u{e9}"];
        return Tensor::from_strings(shape, (0..n).map(|_| TEXTS[c.below(TEXTS.len())].into()).collect()).ok();
    }
    let values: Vec<i64> = (0..n).map(|_| c.small()).collect();
    if dtype.is_float() {
        Tensor::from_f64s(dtype, shape, values.into_iter().map(|v| v as f64 / 2.0)).ok()
    } else {
        Tensor::from_i64s(dtype, shape, values).ok()
    }
}

fn value(c: &mut Choices) -> Option<Value> {
    match c.below(16) {
        0 => {
            let (first, n) = (tensor(c)?, c.below(4));
            let mut items = vec![Value::Tensor(first.clone())];
            for _ in 0..n {
                let t = tensor(c)?;
                items.push(Value::Tensor(if t.dtype() == first.dtype() { t } else { first.clone() }));
            }
            Some(Value::Sequence(items))
        }
        1 => Some(Value::Optional(Some(Box::new(Value::Tensor(tensor(c)?))))),
        _ => Some(Value::Tensor(tensor(c)?)),
    }
}

/// A name that always stands for the same size.
fn name(size: usize) -> String {
    format!("d{size}")
}

/// A type that says less than the value's own; equal names are equal sizes.
fn loosened(ty: &Type, c: &mut Choices) -> Type {
    match ty {
        Type::Tensor(t) => match (&t.dims, c.below(16)) {
            (Some(dims), 1..) => {
                let dims = dims.iter().map(|d| match (d, c.below(3)) {
                    (Dim::Known(d), 1) => Dim::symbol(&name(*d)),
                    (_, 2) => Dim::Unknown,
                    (d, _) => d.clone(),
                });
                Type::tensor(t.dtype, dims.collect::<Vec<_>>())
            }
            _ => Type::Tensor(TensorType::unranked(t.dtype)),
        },
        other => other.clone(),
    }
}

/// Whether a type holds for a value's when the names stand for their sizes.
fn holds(said: &Type, got: &Type, bindings: &Bindings) -> bool {
    let (Type::Tensor(s), Type::Tensor(g)) = (said, got) else { return said.meet(got).is_some() };
    let (Some(sd), Some(gd)) = (&s.dims, &g.dims) else { return s.dtype == g.dtype };
    let bound = |d: &Dim| match d {
        Dim::Known(n) => Some(i64::try_from(*n).unwrap_or(-1)),
        Dim::Sym(e) => e.eval(bindings),
        Dim::Unknown => None,
    };
    s.dtype == g.dtype
        && sd.len() == gd.len()
        && sd.iter().zip(gd).all(|(s, g)| bound(s).is_none() || bound(s) == bound(g))
}

/// Says which ops were computed: what a corpus reaches.
static TRACE: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| std::env::var_os("FUZZ_TRACE").is_some());

fuzz_target!(|data: &[u8]| {
    let mut c = Choices::new(data);
    let names = Op::names();
    let op_name = names[(usize::from(c.byte()) * 256 + usize::from(c.byte())) % names.len()];
    let Some(known) = attributes(op_name) else { return };
    let mut attrs: Vec<(String, Attr)> = known.required.clone();
    for _ in 0..c.below(4).min(known.optional.len()) {
        let (key, forms) = &known.optional[c.below(known.optional.len())];
        let value = forms[c.below(forms.len())].draw(&mut c);
        attrs.retain(|(k, _)| k != key);
        attrs.push((key.clone(), value));
    }
    let Ok(op) = Op::from_text(op_name, attrs) else { return };
    let anything = |c: &mut Choices| {
        (0..c.below(8)).map(|_| if c.below(12) == 11 { Some(None) } else { value(c).map(Some) }).collect()
    };
    let made = if c.below(4) == 3 { None } else { recipes::operands(op_name, &mut c) };
    let Some(values): Option<Vec<Option<Value>>> = made.or_else(|| anything(&mut c)) else { return };
    let types: Vec<Option<Type>> = values.iter().map(|v| v.as_ref().and_then(Type::of)).collect();
    if values.iter().zip(&types).any(|(v, t)| v.is_some() != t.is_some()) {
        return;
    }
    let constant = |v: &'_ Option<Value>| match v {
        Some(Value::Tensor(t)) => Some(t.clone()),
        _ => None,
    };
    let constants: Vec<Option<Tensor>> = values.iter().map(constant).collect();
    let ints: Vec<Option<Vec<i64>>> = constants.iter().map(|t| int_elements(t.as_ref()?)).collect();
    let known: Vec<Option<Vec<Expr>>> =
        ints.iter().map(|e| Some(e.as_ref()?.iter().map(|&i| Expr::constant(i)).collect())).collect();
    let facts: Vec<Option<Fact<'_>>> = types
        .iter()
        .enumerate()
        .map(|(i, ty)| Some(Fact { ty: ty.as_ref()?, elements: known[i].as_deref(), constant: constants[i].as_ref() }))
        .collect();
    let concrete = infer(&op, &facts);

    // The same with some sizes and elements named or unknown.
    let loose: Vec<Option<Type>> = types.iter().map(|t| Some(loosened(t.as_ref()?, &mut c))).collect();
    let named: Vec<Option<Vec<Expr>>> = ints
        .iter()
        .map(|e| {
            let e = e.as_ref()?;
            (c.below(3) > 0).then(|| {
                let one = |&i: &i64| match (usize::try_from(i), c.below(2)) {
                    // 0 is special to some ops, and a name stands for no special number.
                    (Ok(size @ 1..16), 1) => Expr::symbol(&name(size)),
                    _ => Expr::constant(i),
                };
                e.iter().map(one).collect()
            })
        })
        .collect();
    let facts: Vec<Option<Fact<'_>>> = loose
        .iter()
        .zip(&named)
        .map(|(ty, e)| Some(Fact { ty: ty.as_ref()?, elements: e.as_deref(), constant: None }))
        .collect();
    let symbolic = infer(&op, &facts);
    let bindings: Bindings = (0..16).map(|i| (name(i).into(), i as i64)).collect();

    let Ok(inferred) = &concrete else { return };
    let operands: Vec<Option<&Value>> = values.iter().map(Option::as_ref).collect();
    let limits = EvalLimits { max_elements: 100_000, max_trips: 100, cancel: None };
    let Ok(results) = eval(&op, &operands, &limits) else { return };
    if *TRACE {
        eprintln!("{op_name}");
    }
    assert_eq!(inferred.len(), results.len(), "{op:?}");
    let agrees = |said: &[Inferred], what: &str| {
        assert_eq!(said.len(), results.len(), "{op:?}: {what}");
        for (i, (said, got)) in said.iter().zip(&results).enumerate() {
            let Some(ty) = Type::of(got) else { continue };
            let ok = holds(&said.ty, &ty, &bindings);
            assert!(ok, "{op:?} result {i}: {what} {} but {ty}; operands {types:?} {loose:?}", said.ty);
            let (Some(e), Value::Tensor(t)) = (&said.elements, got) else { continue };
            let Some(got) = int_elements(t) else { continue };
            for (e, got) in e.iter().zip(got) {
                // Inference takes for granted that what an i32 tells of named sizes fits in it.
                let e = e.eval(&bindings).filter(|e| t.dtype() != DType::I32 || i32::try_from(*e).is_ok());
                assert!(e.is_none_or(|e| e == got), "{op:?} result {i}: {what} {e:?} but {got}; operands {values:?}");
            }
        }
    };
    agrees(inferred, "inferred");
    match &symbolic {
        Ok(said) => agrees(said, "inferred from names"),
        // What holds for all sizes holds for these: a refusal of the loose types must refuse the exact ones too.
        Err(e) => panic!("{op:?} accepts {types:?} but refuses {loose:?}: {e:?}"),
    }
});
