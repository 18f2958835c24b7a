//! Graphs with bodies, in and out of the text form.

use proptest::prelude::*;
use std::sync::Arc;
use tensormill_ir::{
    Dim, Graph, GraphBuilder, Type, ValueId,
    attr::Body,
    ops::{BinaryKind, If, Loop, Op, Scan, UnaryKind},
    text,
};
use tensormill_tensor::{DType, Tensor};

fn round_trip(g: &Graph) {
    let printed = text::print(g);
    let found = text::parse_with(&printed.text, &|name, _, _| {
        let of_name: Vec<_> = printed.tensors.iter().filter(|(n, _)| n == name).collect();
        match of_name[..] {
            [(_, t)] => Ok(t.clone()),
            _ => Err(format!("{} tensors are named {name}", of_name.len())),
        }
    });
    let back = found.unwrap_or_else(|e| panic!("{e}\n{}", printed.text));
    back.verify().unwrap();
    assert_eq!(text::print(&back).text, printed.text);
    assert!(back.same_as(g));
}

fn vector() -> Type {
    Type::tensor(DType::F32, [Dim::symbol("N")])
}

fn finish(b: GraphBuilder) -> Body {
    Body(Arc::new(b.finish().unwrap()))
}

/// A value of the same type through control flow that nests once for every kind in `kinds`.
fn nest(b: &mut GraphBuilder, x: ValueId, kinds: &[u8], salt: usize) -> ValueId {
    // Too long to stand in the text, so that every body names a tensor beside it.
    let long = Tensor::from_vec([20], (0..20).map(|i| (i + salt) as f32).collect()).unwrap();
    let long = b.constant(long).unwrap();
    let long = b.op(tensormill_ir::ops::Reduce { keepdims: false, ..Default::default() }, &[long]).unwrap();
    let x = b.binary(BinaryKind::Add, x, long).unwrap();
    let Some((&kind, rest)) = kinds.split_first() else { return b.unary(UnaryKind::Relu, x).unwrap() };
    let body = |name: &str, own: &[Type], salt: usize| {
        let mut inner = GraphBuilder::new(name);
        let mut inputs: Vec<ValueId> = own.iter().map(|t| inner.unnamed_input(t.clone())).collect();
        inputs.push(if salt.is_multiple_of(2) {
            inner.input("an odd \"name\"", vector()).unwrap()
        } else {
            inner.unnamed_input(vector())
        });
        (inner, inputs)
    };
    let scalar = |d| Type::tensor(d, []);
    match kind {
        0 => {
            let condition = b.constant(Tensor::from_bools([], vec![true]).unwrap()).unwrap();
            let mut branches = ["then", "else"].into_iter().enumerate().map(|(i, name)| {
                let (mut inner, inputs) = body(name, &[], salt + i);
                let y = nest(&mut inner, inputs[0], if i == 0 { rest } else { &[] }, salt + 2 * i + 1);
                inner.output("0", y).unwrap();
                finish(inner)
            });
            let (then_branch, else_branch) = (branches.next().unwrap(), branches.next().unwrap());
            b.op(If { then_branch, else_branch, then_inputs: 1 }, &[condition, x, x]).unwrap()
        }
        1 => {
            let (mut inner, inputs) = body("trip", &[scalar(DType::I64), scalar(DType::Bool)], salt);
            let y = nest(&mut inner, inputs[2], rest, salt + 1);
            inner.output("go", inputs[1]).unwrap();
            inner.output("0", y).unwrap();
            inner.output("1", inputs[0]).unwrap();
            let most = b.ints(&[3]).unwrap();
            b.node(Loop { body: finish(inner), carried: 1 }, &[Some(most), None, Some(x)]).unwrap()[0]
        }
        _ => {
            let (mut inner, inputs) = body("step", &[vector()], salt);
            let y = nest(&mut inner, inputs[1], rest, salt + 1);
            let y = inner.binary(BinaryKind::Mul, y, inputs[0]).unwrap();
            inner.output("0", y).unwrap();
            let two = b.ints(&[0]).unwrap();
            let rows = b.op(tensormill_ir::ops::Unsqueeze {}, &[x, two]).unwrap();
            let op = Scan {
                body: finish(inner),
                carried: 1,
                input_axes: vec![0],
                input_reverse: vec![true],
                ..Default::default()
            };
            b.op(op, &[x, rows]).unwrap()
        }
    }
}

proptest! {
    #[test]
    fn nested_bodies_print_and_parse(kinds in prop::collection::vec(0u8..3, 0..6), salt in 0usize..9) {
        let mut b = GraphBuilder::new("main");
        let x = b.input("x", vector()).unwrap();
        let y = nest(&mut b, x, &kinds, salt);
        b.output("y", y).unwrap();
        let g = b.finish().unwrap();
        prop_assert_eq!(g.ty(y), &vector());
        g.verify().unwrap();
        round_trip(&g);
    }
}

#[test]
fn carried_sizes_that_change_become_unknown() {
    let g = text::parse(
        r#"graph @main(%x: f32[2], %n: i64[]) -> (%y) {
          %y: f32[?] = loop %n, _, %x {body=graph @body(%i: i64[], %go: bool[], %v: f32[?]) -> (%go, %w) {
            %w: f32[?] = concat %v, %v
          }, carried=1}
        }"#,
    )
    .unwrap();
    assert_eq!(g.ty(g.value_by_name("y").unwrap()).to_string(), "f32[?]");
    round_trip(&g);
    // A rank that changes leaves nothing but the element type.
    let g = text::parse(
        r#"graph @main(%x: f32[2], %n: i64[]) -> (%y) {
          %y: f32[..] = loop %n, _, %x {body=graph @body(%i: i64[], %go: bool[], %v: f32[..]) -> (%go, %w) {
            %a: i64[1] = const [0]
            %w: f32[..] = unsqueeze %v, %a
          }, carried=1}
        }"#,
    )
    .unwrap();
    assert_eq!(g.ty(g.value_by_name("y").unwrap()).to_string(), "f32[..]");
}

#[test]
fn bodies_that_do_not_fit_are_refused() {
    let body = "graph @b(%v: f32[2]) -> (%v) {\n}";
    let with = |attrs: &str, operands: &str| {
        text::parse(&format!(
            "graph @main(%c: bool[], %x: f32[2], %i: i64[2]) -> (%y) {{\n %y: f32[2] = if {operands} {{{attrs}}}\n}}"
        ))
    };
    let both = format!("then_branch={body}, else_branch={body}, then_inputs=1");
    with(&both, "%c, %x, %x").unwrap();
    for (attrs, operands) in [
        (both.as_str(), "%c, %x"),
        (&both, "%c, %x, %i"),
        (&both, "%x, %x, %x"),
        (&both, ""),
        ("then_inputs=9223372036854775807", "%c, %x, %x"),
    ] {
        with(attrs, operands).unwrap_err();
    }
    let op = Op::from(Loop { body: Body::default(), carried: usize::MAX });
    let mut b = GraphBuilder::new("main");
    b.node(op, &[None, None]).unwrap_err();
}
