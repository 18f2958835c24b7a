//! Control flow against what it should do, and against those who would make it run forever.

use proptest::prelude::*;
use std::sync::atomic::AtomicBool;
use tensormill_ir::text;
use tensormill_reference::{EvalError, EvalLimits, interpret};
use tensormill_tensor::{Tensor, Value};

fn run(text: &str, inputs: &[Value], limits: &EvalLimits<'_>) -> Result<Vec<Value>, EvalError> {
    interpret(&text::parse(text).unwrap(), inputs, limits)
}

fn scalar(v: i64) -> Value {
    Tensor::scalar(v).into()
}

fn ints(v: &Value) -> Vec<i64> {
    v.as_tensor().unwrap().to_i64_vec().unwrap()
}

/// Inside every error of a node, the one that says what is wrong.
fn innermost(e: EvalError) -> EvalError {
    match e {
        EvalError::Node { source, .. } => innermost(*source),
        e => e,
    }
}

/// `s` grows by `k + i` in the outer loop and by `k * j` in the inner one, which the branch leaves out
/// for odd `i`: `k` comes from two levels up.
const NESTED: &str = r#"
graph @main(%n: i64[], %m: i64[], %s: i64[], %k: i64[]) -> (%sum, %all) {
  %sum: i64[], %all: i64[?] = loop %n, _, %s, %m, %k {carried=1, body=graph @outer(
      %i: i64[], %go: bool[], %s: i64[], %m: i64[], %k: i64[]) -> (%go, %t, "seen" = %t) {
    %two: i64[] = const [2]
    %zero: i64[] = const [0]
    %r: i64[] = mod %i, %two
    %even: bool[] = equal %r, %zero
    %step: i64[] = if %even, %m, %k, %zero {then_inputs=2, then_branch=graph @then(
        %m: i64[], %k: i64[]) -> (%u) {
      %zero: i64[] = const [0]
      %u: i64[] = loop %m, _, %zero, %k {carried=1, body=graph @inner(
          %j: i64[], %go: bool[], %a: i64[], %k: i64[]) -> (%go, %b) {
        %p: i64[] = mul %k, %j
        %b: i64[] = add %a, %p
      }}
    }, else_branch=graph @else(%zero: i64[]) -> (%zero) {
    }}
    %ki: i64[] = add %k, %i
    %si: i64[] = add %s, %ki
    %t: i64[] = add %si, %step
  }}
}"#;

proptest! {
    #[test]
    fn nested_loops_agree_with_rust(n in 0i64..6, m in 0i64..6, s in -9i64..9, k in -9i64..9) {
        let (mut want, mut seen) = (s, vec![]);
        for i in 0..n {
            want += k + i + if i % 2 == 0 { (0..m).map(|j| k * j).sum() } else { 0 };
            seen.push(want);
        }
        let inputs = [n, m, s, k].map(scalar);
        let got = run(NESTED, &inputs, &EvalLimits::default()).unwrap();
        prop_assert_eq!(ints(&got[0]), vec![want]);
        prop_assert_eq!(ints(&got[1]), seen);
    }

    #[test]
    fn trips_of_nested_loops_add_up(n in 1i64..6, m in 0i64..6, spare in 0u64..4) {
        let needed = (n + (n + 1) / 2 * m) as u64;
        let inputs = [n, m, 0, 1].map(scalar);
        let limits = |max_trips| EvalLimits { max_trips, ..EvalLimits::default() };
        run(NESTED, &inputs, &limits(needed + spare)).unwrap();
        let e = run(NESTED, &inputs, &limits(needed - 1)).unwrap_err();
        prop_assert_eq!(innermost(e), EvalError::TooLong { limit: needed - 1 });
    }
}

const FOREVER: &str = r#"
graph @main(%n: i64[], %x: f32[4]) -> (%y) {
  %y: f32[?,4] = loop %n, _, %x {body=graph @b(%i: i64[], %go: bool[], %x: f32[4]) -> (%go, %x) {
  }}
}"#;

#[test]
fn hostile_trip_counts_end() {
    let x = Value::from(Tensor::from_vec([4], vec![1f32; 4]).unwrap());
    let few = EvalLimits { max_trips: 1000, ..EvalLimits::default() };
    let e = run(FOREVER, &[scalar(i64::MAX), x.clone()], &few).unwrap_err();
    assert_eq!(innermost(e), EvalError::TooLong { limit: 1000 });
    // Stacked results count against the size of a tensor while they grow.
    let small = EvalLimits { max_elements: 100, ..EvalLimits::default() };
    let e = run(FOREVER, &[scalar(i64::MAX), x.clone()], &small).unwrap_err();
    assert!(matches!(innermost(e), EvalError::TooLarge { limit: 100, .. }));
    let stop = AtomicBool::new(true);
    let stopped = EvalLimits { cancel: Some(&stop), ..EvalLimits::default() };
    let e = run(FOREVER, &[scalar(i64::MAX), x.clone()], &stopped).unwrap_err();
    assert_eq!(innermost(e), EvalError::Cancelled);
    for n in [0, -1, i64::MIN] {
        let y = run(FOREVER, &[scalar(n), x.clone()], &few).unwrap();
        assert_eq!(y[0].as_tensor().unwrap().shape().dims(), [0, 4]);
    }
}

#[test]
fn carried_values_may_grow() {
    let text = r#"
    graph @main(%n: i64[], %x: f32[1]) -> (%y) {
      %y: f32[?] = loop %n, _, %x {carried=1, body=graph @b(%i: i64[], %go: bool[], %v: f32[?]) -> (%go, %w) {
        %w: f32[?] = concat %v, %v
      }}
    }"#;
    let x = Value::from(Tensor::from_vec([1], vec![2.5f32]).unwrap());
    let y = run(text, &[scalar(5), x.clone()], &EvalLimits::default()).unwrap();
    assert_eq!(y[0].as_tensor().unwrap().to_f32_vec().unwrap(), [2.5; 32]);
    let small = EvalLimits { max_elements: 5000, ..EvalLimits::default() };
    let e = run(text, &[scalar(i64::MAX), x], &small).unwrap_err();
    assert!(matches!(innermost(e), EvalError::TooLarge { .. }));
}

#[test]
fn a_condition_ends_a_loop() {
    let text = r#"
    graph @main(%go: bool[], %x: i64[]) -> (%y) {
      %y: i64[] = loop _, %go, %x {carried=1, body=graph @b(%i: i64[], %go: bool[], %v: i64[]) -> (%on, %w) {
        %three: i64[] = const [3]
        %hundred: i64[] = const [100]
        %w: i64[] = mul %v, %three
        %on: bool[] = less %w, %hundred
      }}
    }"#;
    for (go, want) in [(true, 243), (false, 1)] {
        let go = Tensor::from_bools([], vec![go]).unwrap().into();
        let y = run(text, &[go, scalar(1)], &EvalLimits::default()).unwrap();
        assert_eq!(ints(&y[0]), [want]);
    }
}
