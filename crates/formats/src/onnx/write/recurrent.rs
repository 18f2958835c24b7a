//! Recurrent layers.

use super::{
    error::{Result, refuse},
    node::{Made, NodeCx},
};
use tensormill_ir::{
    attr::F32,
    ops::{Activation, ActivationKind, Direction, Gru, Lstm, Rnn},
};

/// The operator's name of a function, and how many parameters it has.
fn function(kind: ActivationKind) -> (&'static str, usize) {
    use ActivationKind::*;
    match kind {
        Relu => ("Relu", 0),
        Tanh => ("Tanh", 0),
        Sigmoid => ("Sigmoid", 0),
        Affine => ("Affine", 2),
        LeakyRelu => ("LeakyRelu", 1),
        ThresholdedRelu => ("ThresholdedRelu", 1),
        ScaledTanh => ("ScaledTanh", 2),
        HardSigmoid => ("HardSigmoid", 2),
        Elu => ("Elu", 1),
        Softsign => ("Softsign", 0),
        Softplus => ("Softplus", 0),
    }
}

fn layer<'a>(
    cx: &'a mut NodeCx<'_, '_, '_>,
    op_type: &str,
    direction: Direction,
    activations: &[Activation],
    clip: Option<F32>,
) -> Result<Made<'a>> {
    let Some(hidden) = cx.size_of(2, 2) else { return refuse("the size of the state is not known") };
    let mut made = cx.plain(op_type).size("hidden_size", hidden);
    if direction != Direction::Forward {
        made = made.string("direction", direction.word());
    }
    if !activations.is_empty() {
        let all: Vec<_> = activations.iter().map(|a| (a, function(a.kind))).collect();
        let with = |n: usize| all.iter().filter(move |(_, (_, has))| *has >= n);
        let alphas: Vec<f32> = with(1).map(|(a, _)| a.alpha.0).collect();
        let betas: Vec<f32> = with(2).map(|(a, _)| a.beta.0).collect();
        made = made.strings("activations", all.iter().map(|(_, (name, _))| *name));
        if !alphas.is_empty() {
            made = made.floats("activation_alpha", alphas);
        }
        if !betas.is_empty() {
            made = made.floats("activation_beta", betas);
        }
    }
    Ok(match clip {
        Some(c) => made.float("clip", c.0),
        None => made,
    })
}

pub(super) fn lstm(cx: &mut NodeCx<'_, '_, '_>, op: &Lstm) -> Result<()> {
    layer(cx, "LSTM", op.direction, &op.activations, op.clip)?.flag("input_forget", op.input_forget);
    Ok(())
}

pub(super) fn gru(cx: &mut NodeCx<'_, '_, '_>, op: &Gru) -> Result<()> {
    let made = layer(cx, "GRU", op.direction, &op.activations, op.clip)?;
    made.flag("linear_before_reset", op.linear_before_reset);
    Ok(())
}

pub(super) fn rnn(cx: &mut NodeCx<'_, '_, '_>, op: &Rnn) -> Result<()> {
    layer(cx, "RNN", op.direction, &op.activations, op.clip)?;
    Ok(())
}
