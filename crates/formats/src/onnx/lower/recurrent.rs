//! Recurrent layers. Results and operands with the batch first are transposed.

use super::{LowerError, NodeCx, Table};
use tensormill_ir::{
    Op, ValueId,
    attr::F32,
    ops::{Activation, ActivationKind, Direction, Gru, Lstm, Rnn, Transpose},
};
use tensormill_tensor::DType;

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table = &[("LSTM", lstm), ("GRU", gru), ("RNN", rnn)];

fn direction(cx: &NodeCx<'_, '_>) -> Result<Direction> {
    match cx.string("direction")?.as_deref() {
        None | Some("forward") => Ok(Direction::Forward),
        Some("reverse") => Ok(Direction::Reverse),
        Some("bidirectional") => Ok(Direction::Bidirectional),
        Some(_) => cx.bad("direction", "is unknown"),
    }
}

fn clip(cx: &NodeCx<'_, '_>) -> Result<Option<F32>> {
    Ok(cx.opt_float("clip")?.map(F32))
}

/// A function by its name, with its default parameters and how many of them it has.
fn function(name: &str) -> Option<(ActivationKind, f32, f32, usize)> {
    use ActivationKind::*;
    Some(match name.to_ascii_lowercase().as_str() {
        "relu" => (Relu, 0.0, 0.0, 0),
        "tanh" => (Tanh, 0.0, 0.0, 0),
        "sigmoid" => (Sigmoid, 0.0, 0.0, 0),
        "affine" => (Affine, 1.0, 0.0, 2),
        "leakyrelu" => (LeakyRelu, 0.01, 0.0, 1),
        "thresholdedrelu" => (ThresholdedRelu, 1.0, 0.0, 1),
        "scaledtanh" => (ScaledTanh, 1.0, 1.0, 2),
        "hardsigmoid" => (HardSigmoid, 0.2, 0.5, 2),
        "elu" => (Elu, 1.0, 0.0, 1),
        "softsign" => (Softsign, 0.0, 0.0, 0),
        "softplus" => (Softplus, 0.0, 0.0, 0),
        _ => return None,
    })
}

/// The functions of the gates. Parameters stand in the order of the functions that have them.
fn activations(cx: &NodeCx<'_, '_>, per_direction: usize, direction: Direction) -> Result<Vec<Activation>> {
    let mut alphas = cx.floats("activation_alpha")?.unwrap_or_default().into_iter();
    let mut betas = cx.floats("activation_beta")?.unwrap_or_default().into_iter();
    let Some(names) = cx.strings("activations")? else { return Ok(vec![]) };
    if names.len() != per_direction * direction.count() {
        return cx.bad("activations", format!("must name {per_direction} functions per direction"));
    }
    let mut all = vec![];
    for name in &names {
        let Some((kind, alpha, beta, parameters)) = function(name) else {
            return cx.bad("activations", "names an unknown function");
        };
        let alpha = if parameters > 0 { alphas.next().unwrap_or(alpha) } else { alpha };
        let beta = if parameters > 1 { betas.next().unwrap_or(beta) } else { beta };
        all.push(Activation { kind, alpha: F32(alpha), beta: F32(beta) });
    }
    Ok(all)
}

fn lstm(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let direction = direction(cx)?;
    let op = Lstm {
        direction,
        activations: activations(cx, 3, direction)?,
        clip: clip(cx)?,
        input_forget: cx.flag("input_forget", false)?,
    };
    layer(cx, op.into(), 8)
}

fn gru(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let direction = direction(cx)?;
    let op = Gru {
        direction,
        activations: activations(cx, 2, direction)?,
        clip: clip(cx)?,
        linear_before_reset: cx.flag("linear_before_reset", false)?,
    };
    layer(cx, op.into(), 6)
}

fn rnn(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let direction = direction(cx)?;
    let op = Rnn { direction, activations: activations(cx, 1, direction)?, clip: clip(cx)? };
    layer(cx, op.into(), 6)
}

fn swap(cx: &mut NodeCx<'_, '_>, x: ValueId, perm: &[usize]) -> Result<ValueId> {
    cx.op(Transpose { perm: perm.to_vec() }, &[x])
}

fn layer(cx: &mut NodeCx<'_, '_>, op: Op, operands: usize) -> Result<()> {
    // The recurrent kernel says how large the state is; results are always all there.
    cx.ignore("output_sequence");
    let hidden = cx.opt_int("hidden_size")?;
    let r = cx.input(2)?;
    if let Some(h) = hidden
        && let Some(d) = cx.tensor(r)?.dims
        && d.get(2).and_then(|d| d.known()).is_some_and(|n| i64::try_from(n) != Ok(h))
    {
        return cx.bad("hidden_size", "differs from the recurrent kernel");
    }
    let batch_first = cx.flag("layout", false)?;
    let mut inputs = vec![];
    for i in 0..operands {
        let mut v = cx.opt(i);
        if let Some(x) = v {
            if batch_first && matches!(i, 0 | 5 | 6) {
                v = Some(swap(cx, x, &[1, 0, 2])?);
            } else if i == 4 {
                v = Some(cx.cast(x, DType::I32)?);
            }
        }
        inputs.push(v);
    }
    let results = cx.node(op, &inputs)?;
    for (i, &y) in results.iter().enumerate() {
        if !cx.wants(i) {
            continue;
        }
        let y = match (batch_first, i) {
            (false, _) => y,
            (true, 0) => swap(cx, y, &[2, 0, 1, 3])?,
            (true, _) => swap(cx, y, &[1, 0, 2])?,
        };
        cx.set(i, y);
    }
    Ok(())
}
