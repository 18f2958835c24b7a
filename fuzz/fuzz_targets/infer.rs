//! One op with arbitrary attributes on arbitrary operands: inference never panics, what it says of known
//! sizes is what the reference computes, and what it says of symbolic sizes agrees with that.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tensormill_ir::{
    Dim, Op, TensorType, Type,
    attr::Attr,
    infer::{Fact, Inferred, infer},
};
use tensormill_reference::{EvalLimits, eval};
use tensormill_tensor::{DType, Tensor, Value};

/// Reads choices off the fuzzer's bytes; zeros at their end.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        let Some((&b, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        b
    }

    fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n.max(1)
    }

    fn small(&mut self) -> i64 {
        match self.byte() {
            255 => i64::MAX,
            254 => i64::MIN,
            253 => i64::MAX - i64::from(self.byte()),
            b => i64::from(b % 12) - 4,
        }
    }

    fn attr(&mut self, depth: usize) -> Attr {
        const WORDS: &[&str] = &["none", "f16", "i8", "same_upper", "constant", "reflect", "add", "linear", "cubic", "forward", "bidirectional"];
        match self.below(8) {
            0 | 1 => Attr::Int(self.small()),
            2 => Attr::Bool(self.byte() & 1 == 1),
            3 => Attr::Float(f32::from(self.byte()) / 16.0 - 4.0),
            4 => Attr::Word(WORDS[self.below(WORDS.len())].into()),
            5 => Attr::Str(["", "ij,jk->ik", "...i->i", "ii", "a,a"][self.below(5)].into()),
            _ if depth > 0 => Attr::Int(self.small()),
            _ => Attr::List((0..self.below(6)).map(|_| self.attr(depth + 1)).collect()),
        }
    }

    fn tensor(&mut self) -> Option<Tensor> {
        const TYPES: &[DType] = &[DType::F32, DType::I64, DType::I64, DType::Bool, DType::I32, DType::U8, DType::F64, DType::F16, DType::I8, DType::I4, DType::U64];
        let dtype = TYPES[self.below(TYPES.len())];
        let shape: Vec<usize> = (0..self.below(5)).map(|_| self.below(5)).collect();
        let n = shape.iter().product::<usize>();
        let values: Vec<i64> = (0..n).map(|_| self.small()).collect();
        if dtype.is_float() {
            Tensor::from_f64s(dtype, shape, values.into_iter().map(|v| v as f64 / 2.0)).ok()
        } else {
            Tensor::from_i64s(dtype, shape, values).ok()
        }
    }
}

const ATTRIBUTES: &[&str] = &[
    "axis", "axes", "perm", "keepdims", "noop_with_empty_axes", "outputs", "start", "end", "to", "allow_zero", "trans_a", "trans_b", "max",
    "select_last", "strides", "dilations", "pads", "group", "auto_pad", "kernel", "ceil_mode", "count_include_pad", "storage_order",
    "with_indices", "epsilon", "with_stats", "groups", "mode", "equation", "alpha", "beta", "gamma", "min", "bias", "lambd", "negative",
    "positive", "batch_dims", "reduction", "largest", "sorted", "upper", "exclusive", "reverse", "block", "p", "output_padding", "k",
    "block_size", "hidden_size", "direction", "layout", "size", "dtype", "saturate", "linear_before_reset", "causal", "q_heads", "kv_heads",
];

fuzz_target!(|data: &[u8]| {
    let mut c = Choices(data);
    let names = Op::names();
    let name = names[(usize::from(c.byte()) * 256 + usize::from(c.byte())) % names.len()];
    let mut attrs: Vec<(String, Attr)> = vec![];
    for _ in 0..c.below(6) {
        let key = ATTRIBUTES[c.below(ATTRIBUTES.len())];
        let trial = (key.to_owned(), c.attr(0));
        let mut with = attrs.clone();
        with.push(trial.clone());
        // An attribute that the op does not have, or not of this type, is left out.
        if Op::from_text(name, with).is_ok() || Op::from_text(name, attrs.clone()).is_err() {
            attrs.push(trial);
        }
    }
    let Ok(op) = Op::from_text(name, attrs) else { return };
    let Some(tensors) = (0..c.below(6)).map(|_| c.tensor()).collect::<Option<Vec<_>>>() else { return };
    let types: Vec<Type> = tensors.iter().map(|t| TensorType::of(t).into()).collect();
    let facts: Vec<_> = types.iter().zip(&tensors).map(|(ty, t)| Some(Fact { ty, elements: None, constant: Some(t) })).collect();
    let concrete = infer(&op, &facts);

    // The same with some sizes named or unknown and no values known.
    let loose: Vec<Type> = tensors
        .iter()
        .map(|t| {
            let dims = t.shape().iter().map(|&d| match c.below(3) {
                0 => Dim::Known(d),
                1 => Dim::symbol(["N", "M"][d % 2]),
                _ => Dim::Unknown,
            });
            Type::tensor(t.dtype(), dims.collect::<Vec<_>>())
        })
        .collect();
    let facts: Vec<_> = loose.iter().map(|ty| Some(Fact { ty, elements: None, constant: None })).collect();
    let symbolic = infer(&op, &facts);

    // No graph holds an op that inference refuses on all it knows; evaluation may rely on that.
    if concrete.is_err() && symbolic.is_err() {
        return;
    }
    let values: Vec<Value> = tensors.into_iter().map(Value::Tensor).collect();
    let operands: Vec<Option<&Value>> = values.iter().map(Some).collect();
    let limits = EvalLimits { max_elements: 100_000, max_trips: 100, cancel: None };
    let (Ok(inferred), Ok(results)) = (&concrete, eval(&op, &operands, &limits)) else { return };
    assert_eq!(inferred.len(), results.len(), "{op:?}");
    let agrees = |said: &[Inferred], what: &str| {
        for (i, (said, got)) in said.iter().zip(&results).enumerate() {
            let Some(got) = Type::of(got) else { continue };
            assert!(said.ty.meet(&got).is_some(), "{op:?} result {i}: {what} {} but {got}; operands {types:?}", said.ty);
        }
    };
    agrees(inferred, "inferred");
    if let Ok(said) = &symbolic {
        // Symbols stand for several sizes here, so only numbers and ranks can disagree.
        agrees(said, "inferred from symbols");
    }
    // What holds for all sizes holds for these: a refusal of the loose types must refuse the exact ones too.
    assert!(symbolic.is_ok(), "{op:?} accepts {types:?} but refuses {loose:?}: {symbolic:?}");
});
