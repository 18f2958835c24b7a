//! Recurrent layers on the CPU compute what the reference computes.

use proptest::prelude::*;
use tensormill_backend::{Backend, CompileOptions, Io};
use tensormill_cpu::{CpuBackend, Pool, ReferenceBackend};
use tensormill_ir::{
    Graph, GraphBuilder, Type,
    attr::F32,
    infer::Inferred,
    ops::{Activation, ActivationKind, Direction, Gru, Lstm, Op, Rnn},
};
use tensormill_tensor::{Tensor, Value};

fn noise(shape: &[usize], seed: usize, scale: f32) -> Tensor {
    let n: usize = shape.iter().product();
    let v = (0..n).map(|i| ((((i * 31 + seed) * 7919) % 1021) as f32 / 510.0 - 1.0) * scale).collect();
    Tensor::from_vec(shape, v).unwrap()
}

/// A graph of one layer: operands are inputs, or constants where `constant` says so.
fn graph(op: Op, operands: &[Option<Tensor>], constant: impl Fn(usize) -> bool) -> (Graph, Vec<Value>) {
    let mut g = GraphBuilder::new("layer");
    let mut inputs = vec![];
    let mut ids = vec![];
    for (i, t) in operands.iter().enumerate() {
        ids.push(t.as_ref().map(|t| {
            if constant(i) {
                return g.constant(t.clone()).unwrap();
            }
            inputs.push(Value::from(t.clone()));
            let dims = t.shape().dims().iter().map(|&d| d.into());
            g.input(&format!("in{i}"), Type::tensor(t.dtype(), dims)).unwrap()
        }));
    }
    for (i, out) in g.node(op, &ids).unwrap().into_iter().enumerate() {
        g.output(&format!("out{i}"), out).unwrap();
    }
    (g.finish().unwrap(), inputs)
}

/// The results, and whether a kernel of the backend's own computed them.
fn run(backend: &dyn Backend, g: &Graph, inputs: &[Value]) -> (Vec<Tensor>, bool) {
    let plan = backend.compile(g.clone(), &CompileOptions::default()).unwrap();
    let types: Vec<Inferred> =
        inputs.iter().map(|v| Inferred { ty: Type::of(v).unwrap(), elements: None }).collect();
    let mut state = plan.state(&types).unwrap();
    let mut outputs = vec![];
    for _ in 0..2 {
        outputs.clear();
        state.run(&mut Io { inputs, outputs: &mut outputs, profile: None, cancel: None }).unwrap();
    }
    let tensors = outputs.iter().map(|v| v.as_tensor().unwrap().clone()).collect();
    (tensors, plan.report().fallbacks().next().is_none())
}

fn same(g: &Graph, inputs: &[Value], threads: usize, native: bool) -> Result<(), String> {
    let (expected, _) = run(&ReferenceBackend, g, inputs);
    let (got, own) = run(&CpuBackend::new(Pool::new(threads).unwrap()), g, inputs);
    if own != native {
        return Err(format!("computed by a kernel: {own}, not {native}"));
    }
    assert_eq!(expected.len(), got.len());
    for (a, b) in expected.iter().zip(&got) {
        if a.shape() != b.shape() {
            return Err(format!("{a:?} and {b:?}"));
        }
        for (i, (x, y)) in a.to_f64_vec().unwrap().iter().zip(b.to_f64_vec().unwrap()).enumerate() {
            if (x - y).abs() > 2e-5 * x.abs().max(1.0) {
                return Err(format!("element {i}: {x:e} and {y:e}"));
            }
        }
    }
    Ok(())
}

fn operands(
    gates: usize,
    d: usize,
    [s, n, i, h]: [usize; 4],
    (bias, initial): (bool, bool),
) -> Vec<Option<Tensor>> {
    let mut all = vec![
        Some(noise(&[s, n, i], 1, 1.0)),
        Some(noise(&[d, gates * h, i], 2, 0.3)),
        Some(noise(&[d, gates * h, h], 3, 0.3)),
        bias.then(|| noise(&[d, 2 * gates * h], 4, 0.5)),
        None,
        initial.then(|| noise(&[d, n, h], 5, 1.0)),
    ];
    if gates == 4 {
        all.push(initial.then(|| noise(&[d, n, h], 6, 1.0)));
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn layers(
        kind in 0usize..6, direction in 0usize..3, steps in 0usize..6, batch in 0usize..11, input in 1usize..20,
        hidden in 1usize..36, has in 0u8..4, constant in any::<bool>(), whole in any::<bool>(), threads in 1usize..3,
    ) {
        let direction = [Direction::Forward, Direction::Reverse, Direction::Bidirectional][direction];
        let relu = vec![Activation::plain(ActivationKind::Relu); direction.count()];
        let (op, gates): (Op, usize) = match kind {
            0 => (Lstm { direction, ..Lstm::default() }.into(), 4),
            1 => (Lstm { direction, input_forget: true, ..Lstm::default() }.into(), 4),
            2 => (Gru { direction, ..Gru::default() }.into(), 3),
            3 => (Gru { direction, linear_before_reset: true, ..Gru::default() }.into(), 3),
            4 => (Rnn { direction, ..Rnn::default() }.into(), 1),
            _ => (Rnn { direction, activations: relu, ..Rnn::default() }.into(), 1),
        };
        let flags = (has & 1 == 1, has & 2 == 2);
        let mut all = operands(gates, direction.count(), [steps, batch, input, hidden], flags);
        if whole {
            all[4] = Some(Tensor::from_vec([batch], vec![steps as i32; batch]).unwrap());
        }
        let (g, inputs) = graph(op, &all, |i| i == 4 || (constant && (1..4).contains(&i)));
        same(&g, &inputs, threads, true).map_err(TestCaseError::fail)?;
    }
}

#[test]
fn what_has_no_kernel_falls_back() {
    let sizes = [3, 2, 4, 5];
    let all = operands(4, 1, sizes, (true, true));
    let clipped = Lstm { clip: Some(F32(0.5)), ..Lstm::default() };
    let (g, inputs) = graph(clipped.into(), &all, |_| false);
    same(&g, &inputs, 1, false).unwrap();
    let mut with_peepholes = all.clone();
    with_peepholes.push(Some(noise(&[1, 15], 7, 1.0)));
    let (g, inputs) = graph(Lstm::default().into(), &with_peepholes, |_| false);
    same(&g, &inputs, 1, false).unwrap();
    let mut shorter = all;
    shorter[4] = Some(Tensor::from_vec([2], vec![3i32, 1]).unwrap());
    let (g, inputs) = graph(Lstm::default().into(), &shorter, |i| i == 4);
    same(&g, &inputs, 1, false).unwrap();
    let soft = Rnn { activations: vec![Activation::plain(ActivationKind::Softsign)], ..Rnn::default() };
    let (g, inputs) = graph(soft.into(), &operands(1, 1, sizes, (true, true)), |_| false);
    same(&g, &inputs, 1, false).unwrap();
}
