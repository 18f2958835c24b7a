//! Which attributes each op takes, found out by trying, so that what the fuzzer draws is seldom refused.

use std::{
    collections::HashMap,
    sync::OnceLock,
};
use tensormill_ir::{
    Op,
    attr::{Attr, Body},
    text,
};

/// Reads choices off the fuzzer's bytes; zeros at their end.
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Choices(bytes)
    }

    pub fn byte(&mut self) -> u8 {
        let Some((&b, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        b
    }

    pub fn below(&mut self, n: usize) -> usize {
        usize::from(self.byte()) % n.max(1)
    }

    pub fn small(&mut self) -> i64 {
        match self.byte() {
            255 => i64::MAX,
            254 => i64::MIN,
            253 => i64::MAX - i64::from(self.byte()),
            252 => 1 << (self.byte() % 63),
            b => i64::from(b % 12) - 4,
        }
    }
}

/// A form that an attribute may take.
pub enum Form {
    Int,
    Size,
    Bool,
    Float,
    Str,
    Words(Vec<String>),
    List(Box<Form>),
    Calls(Vec<String>),
    Whole(Attr),
}

impl Form {
    pub fn draw(&self, c: &mut Choices) -> Attr {
        match self {
            Form::Int => Attr::Int(c.small()),
            Form::Size => Attr::Int(c.small().checked_abs().unwrap_or(0)),
            Form::Bool => Attr::Bool(c.byte() & 1 == 1),
            Form::Float => match c.byte() {
                255 => Attr::Float(f32::NAN),
                254 => Attr::Float(f32::INFINITY),
                b => Attr::Float(f32::from(b) / 16.0 - 4.0),
            },
            Form::Str => Attr::Str(TEXTS[c.below(TEXTS.len())].into()),
            Form::Words(words) => Attr::Word(words[c.below(words.len())].clone()),
            Form::List(of) => Attr::List((0..[2, 1, 4, 3, 0, 6][c.below(6)]).map(|_| of.draw(c)).collect()),
            Form::Calls(names) => {
                let args = (0..c.below(3)).map(|_| if c.below(3) == 0 { Form::Float.draw(c) } else { Form::Size.draw(c) });
                let args = args.collect();
                Attr::Call(names[c.below(names.len())].clone(), args)
            }
            Form::Whole(a) => a.clone(),
        }
    }
}

/// The attributes of one op.
pub struct Known {
    pub required: Vec<(String, Attr)>,
    pub optional: Vec<(String, Vec<Form>)>,
}

const TEXTS: &[&str] = &[
    "", "ij,jk->ik", "...i->i", "ii", "a,a", "ij->ji", "bij,bjk->bik", "a,b->ab", "...a,...b->...ab", "aab->b", " ", ",", "a+", "(", "[a-c]*",
];

const WORDS: &[&str] = &[
    "none", "add", "affine", "align_corners", "and", "asymmetric", "average", "avg", "biased", "bidirectional", "bit_and", "bit_or", "bit_xor",
    "blackman", "border", "capped", "ceil", "constant", "count", "cubic", "div", "down", "edge", "elu", "equal", "explicit", "floor", "fmod",
    "forward", "greater", "greater_or_equal", "half_pixel", "half_pixel_symmetric", "hamming", "hann", "hard_sigmoid", "leaky_relu", "less",
    "less_or_equal", "linear", "lower", "max", "mean", "min", "mod", "mul", "nearest", "not_larger", "not_smaller", "or", "pow", "prelu",
    "pytorch_half_pixel", "raw", "reflect", "reflection", "relu", "replace", "reverse", "round_prefer_ceil", "round_prefer_floor", "same_lower",
    "same_upper", "scaled_tanh", "shift_left", "shift_right", "sigmoid", "simple", "softmax", "softplus", "softsign", "stretch", "sub", "sum",
    "tanh", "tf_crop_and_resize", "thresholded_relu", "up", "upper", "weight", "weighted_count", "wrap", "xor", "zeros", "f16", "f32", "f64",
    "bf16", "i8", "u8", "i32", "i64", "bool", "str", "i4", "u4", "u16", "i16", "u32", "u64", "f8e4m3fn", "f8e5m2", "f4e2m1", "c64",
];

const KEYS: &[&str] = &[
    "activations", "aggregate", "align_corners", "allow_zero", "alpha", "antialias", "auto_pad", "axes", "axis", "batch_axis", "batch_dims",
    "beta", "bias", "block_size", "body", "carried", "case", "case_sensitive", "causal", "ceil_mode", "center_point", "circular", "clip",
    "column_major", "coordinates", "count_include_pad", "cubic_coeff_a", "delimiter", "dilations", "dim", "direction", "dtype", "else_branch",
    "end", "epilogue", "epsilon", "equation", "exclude_outside", "exclusive", "extrapolation_value", "gamma", "group", "groups", "half_pixel",
    "heads", "high", "ignore_index", "input_axes", "input_forget", "input_reverse", "interleaved", "ints", "inverse", "k", "keepdims",
    "kernel", "kind", "kv_heads", "lambd", "largest", "left_window", "linear_before_reset", "low", "max", "max_length", "max_skip",
    "max_splits", "mean", "min", "min_length", "mode", "nearest", "negative", "new_axis", "noop_with_empty_axes", "of", "offset_group",
    "onesided", "output_axes", "output_height", "output_padding", "output_reverse", "output_shape", "output_width", "outputs", "p", "padding",
    "pads", "pattern", "periodic", "perm", "places", "policy", "pooled", "positive", "precision", "present", "q_heads", "reduction", "reverse",
    "right_window", "round_mode", "samples", "sampling_ratio", "saturate", "scale", "scores", "seed", "select_last", "silu", "size", "softcap",
    "sorted", "spatial_scale", "start", "starts", "stopwords", "strides", "strings", "targets", "then_branch", "then_inputs", "time_axis", "to",
    "trans_a", "trans_b", "upper", "weights", "with_indices", "with_stats",
];

const BODIES: &[&str] = &[
    "graph @b(%x: f32[..]) -> (%y) {\n  %y: f32[..] = relu %x\n}",
    "graph @b() -> (%y) {\n  %y: f32[2] = const [1, 2]\n}",
    "graph @b(%i: i64[], %go: bool[]) -> (%go, %i) {\n}",
    "graph @b(%i: i64[], %go: bool[], %v: f32[..]) -> (%go, %w, %i) {\n  %w: f32[..] = add %v, %v\n}",
    "graph @b(%a: f32[..], %x: f32[..]) -> (%s, %t) {\n  %s: f32[..] = add %a, %x\n  %t: f32[..] = relu %s\n}",
];

fn accepted(op: &str, required: &[(String, Attr)], key: &str, value: Attr) -> bool {
    let mut attrs: Vec<_> = required.iter().filter(|(k, _)| k != key).cloned().collect();
    attrs.push((key.into(), value));
    Op::from_text(op, attrs).is_ok()
}

fn forms(op: &str, required: &[(String, Attr)], key: &str) -> Vec<Form> {
    let ok = |value: Attr| accepted(op, required, key, value);
    let words = |wrap: &dyn Fn(Attr) -> Attr| -> Vec<String> {
        WORDS.iter().filter(|w| ok(wrap(Attr::Word((**w).into())))).map(|w| (*w).into()).collect()
    };
    let list = |a: Attr| Attr::List(vec![a]);
    let mut out = vec![];
    // An empty list and `none` fit many types; they are drawn as part of those.
    match (ok(Attr::Int(-1)), ok(Attr::Int(1))) {
        (true, _) => out.push(Form::Int),
        (_, true) => out.push(Form::Size),
        _ => {}
    }
    for (form, sample) in [
        (Form::Bool, Attr::Bool(true)),
        (Form::Float, Attr::Float(1.5)),
        (Form::Str, Attr::Str("a".into())),
        (Form::List(Box::new(Form::Str)), list(Attr::Str("a".into()))),
        (Form::List(Box::new(Form::Float)), list(Attr::Float(1.5))),
    ] {
        if ok(sample) {
            out.push(form);
        }
    }
    match (ok(list(Attr::Int(-1))), ok(list(Attr::Int(1)))) {
        (true, _) => out.push(Form::List(Box::new(Form::Int))),
        (_, true) => out.push(Form::List(Box::new(Form::Size))),
        _ => {}
    }
    let plain = words(&|a| a);
    if !plain.is_empty() {
        out.push(Form::Words(plain));
    }
    let listed = words(&list);
    if !listed.is_empty() {
        out.push(Form::List(Box::new(Form::Words(listed))));
        let calls: Vec<String> = WORDS
            .iter()
            .filter(|w| (1..=2).any(|n| ok(list(Attr::Call((**w).into(), vec![Attr::Int(1); n])))))
            .map(|w| (*w).into())
            .collect();
        if !calls.is_empty() {
            out.push(Form::List(Box::new(Form::Calls(calls))));
        }
    }
    for text in BODIES {
        let body = text::parse(text).unwrap_or_else(|e| panic!("{e} in {text}"));
        let whole = Attr::Graph(Body(body.into()));
        if ok(whole.clone()) {
            out.push(Form::Whole(whole));
        }
    }
    for (word, of) in [("f32", None), ("f32", Some(2)), ("i64", Some(0))] {
        let dtype = word.parse().expect("a dtype");
        let ty = match of {
            None => tensormill_ir::TensorType::unranked(dtype),
            Some(rank) => tensormill_ir::TensorType::new(dtype, (0..rank).map(|_| tensormill_ir::Dim::Unknown)),
        };
        let whole = Attr::Type(ty.into());
        if ok(whole.clone()) {
            out.push(Form::Whole(whole));
        }
    }
    out
}

fn find(op: &str) -> Known {
    let mut required: Vec<(String, Attr)> = vec![];
    while let Err(e) = Op::from_text(op, required.clone()) {
        let Some(key) = KEYS.iter().find(|k| e.contains(&format!("`{k}` is missing"))) else { break };
        required.push(((*key).into(), Attr::Float(1.5)));
    }
    let whole = |text: &str| Attr::Graph(Body(text::parse(text).unwrap_or_else(|e| panic!("{e} in {text}")).into()));
    // Without these nothing is computed; drawn values replace them now and then.
    let usual = [
        ("kernel", Attr::List(vec![Attr::Int(2), Attr::Int(2)])),
        ("body", whole(BODIES[if op == "loop" { 3 } else { 4 }])),
        ("carried", Attr::Int(1)),
        ("then_branch", whole(BODIES[1])),
        ("else_branch", whole(BODIES[1])),
    ];
    for (key, value) in usual {
        if accepted(op, &required, key, value.clone()) {
            required.push((key.into(), value));
        }
    }
    let optional = KEYS.iter().map(|k| ((*k).to_owned(), forms(op, &required, k))).filter(|(_, f)| !f.is_empty());
    Known { optional: optional.collect(), required }
}

/// The attributes of an op.
pub fn attributes(op: &str) -> Option<&'static Known> {
    static KNOWN: OnceLock<HashMap<&'static str, Known>> = OnceLock::new();
    KNOWN.get_or_init(|| Op::names().into_iter().map(|n| (n, find(n))).collect()).get(op)
}
