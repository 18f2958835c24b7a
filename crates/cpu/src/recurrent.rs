//! Recurrent layers.

use crate::native::{Built, Fail, Native, Prep};
use std::borrow::Cow;
use tensormill_ir::ops::{Activation, ActivationKind, Direction, Gru, Lstm, Rnn};
use tensormill_kernels::{
    elementwise::UnaryOp,
    recurrent::{Cell, Initial, RecurrentShape, RecurrentWeights, States, recurrent as kernel},
};
use tensormill_tensor::{DType, arena};

use ActivationKind::{Relu, Sigmoid, Tanh};

/// Batches of more sequences have their recurrent weights packed for products of many rows.
const FEW: usize = 8;

/// Fails unless every direction has these functions.
fn usual(
    direction: Direction,
    of: impl Fn(usize) -> Vec<Activation>,
    kinds: &[ActivationKind],
) -> Result<(), Cow<'static, str>> {
    let same = |d: usize| of(d).iter().map(|f| f.kind).eq(kinds.iter().copied());
    if (0..direction.count()).all(same) {
        Ok(())
    } else {
        Err("no kernel for these functions of gates".into())
    }
}

pub(crate) fn lstm(p: &Prep<'_>, op: &Lstm) -> Built {
    usual(op.direction, |d| op.functions(d), &[Sigmoid, Tanh, Tanh])?;
    if p.opt(7).is_some() {
        return Err("no kernel for peepholes".into());
    }
    layer(p, Cell::Lstm { input_forget: op.input_forget }, op.direction, op.clip.is_some())
}

pub(crate) fn gru(p: &Prep<'_>, op: &Gru) -> Built {
    usual(op.direction, |d| op.functions(d), &[Sigmoid, Tanh])?;
    let cell = Cell::Gru { linear_before_reset: op.linear_before_reset };
    layer(p, cell, op.direction, op.clip.is_some())
}

pub(crate) fn rnn(p: &Prep<'_>, op: &Rnn) -> Built {
    let f = match op.functions(0).first().map(|f| f.kind) {
        Some(Relu) => UnaryOp::Relu,
        Some(Sigmoid) => UnaryOp::Sigmoid,
        _ => UnaryOp::Tanh,
    };
    let kind = match f {
        UnaryOp::Relu => Relu,
        UnaryOp::Sigmoid => Sigmoid,
        _ => Tanh,
    };
    usual(op.direction, |d| op.functions(d), &[kind])?;
    layer(p, Cell::Plain(f), op.direction, op.clip.is_some())
}

fn layer(p: &Prep<'_>, cell: Cell, direction: Direction, clip: bool) -> Built {
    if clip {
        return Err("no kernel for gates with a bound".into());
    }
    let (x, w, r, bias) = (p.get(0)?, p.get(1)?, p.get(2)?, p.opt(3));
    for i in [0, 1, 2, 3, 5, 6] {
        p.need(i, DType::F32)?;
    }
    let (&[steps, batch, input], &[directions, _, hidden]) = (x.shape, r.shape) else {
        return Err("operands of another rank".into());
    };
    if let Some(lengths) = p.opt(4) {
        // Lengths that cut nothing off are common in exported models.
        let whole = i64::try_from(steps).ok();
        if !lengths.ints().is_some_and(|all| all.iter().all(|&n| Some(n) == whole)) {
            return Err("no kernel for sequences of different lengths".into());
        }
    }
    let backwards = direction == Direction::Reverse;
    let shape = RecurrentShape { cell, directions, backwards, steps, batch, input, hidden };
    let states = [directions, batch, hidden];
    let sizes = |i: usize, dims: &[usize]| p.opt(i).is_none_or(|k| k.shape == dims);
    let gates = cell.gates().checked_mul(hidden).ok_or("too many gates")?;
    let fit = directions == direction.count()
        && w.shape == [directions, gates, input]
        && r.shape[1] == gates
        && gates.checked_mul(2).is_some_and(|n| sizes(3, &[directions, n]))
        && sizes(5, &states)
        && sizes(6, &states)
        && p.outs[0].1[..] == [steps, directions, batch, hidden]
        && p.outs[1..].iter().all(|o| o.1[..] == states);
    if !fit {
        return Err("operands that do not fit each other".into());
    }
    let level = p.pool.level();
    let constant = match (w.constant, r.constant, bias.map(|b| b.constant)) {
        (Some(w), Some(r), None) => Some((w, r, None)),
        (Some(w), Some(r), Some(Some(b))) => Some((w, r, Some(b))),
        _ => None,
    };
    let packed = constant
        .map(|(w, r, b)| {
            let many = usize::from(batch > FEW) + 2 * usize::from(steps.saturating_mul(batch) > FEW);
            p.weights.get(p.node, "recurrent", many, &[w, r], || {
                let (w, r) = (w.to_slice::<f32>(), r.to_slice::<f32>());
                let b = b.map(|b| b.to_slice::<f32>()).transpose();
                let (w, r, b) = (
                    w.map_err(|e| e.to_string())?,
                    r.map_err(|e| e.to_string())?,
                    b.map_err(|e| e.to_string())?,
                );
                let packed =
                    RecurrentWeights::pack(level, &shape, &w, &r, b.as_deref()).map_err(|e| e.to_string())?;
                let bytes = packed.bytes();
                Ok::<_, String>((packed, bytes))
            })
        })
        .transpose()?;
    let name = match cell {
        Cell::Lstm { .. } => "lstm",
        Cell::Gru { .. } => "gru",
        Cell::Plain(_) => "rnn",
    };
    let has_bias = bias.is_some();
    let mut native = Native::new(name, move |c| {
        let of = |i: usize| c.ins.get(i).copied().flatten().map(|v| v.get::<f32>()).transpose();
        let x = c.get::<f32>(0)?;
        let initial = Initial { state: of(5)?, cell: of(6)? };
        let made;
        let weights = match &packed {
            Some(weights) => &**weights,
            None => {
                let bias = if has_bias { of(3)? } else { None };
                made = RecurrentWeights::pack(level, &shape, c.get::<f32>(1)?, c.get::<f32>(2)?, bias)?;
                &made
            }
        };
        let mut outs = c.outs.iter_mut().map(|o| arena::elements_mut::<f32>(o));
        let mut next =
            || outs.next().flatten().ok_or_else(|| Fail("a result is missing or not aligned".into()));
        let (all, last) = (next()?, next()?);
        let last_cell = if matches!(cell, Cell::Lstm { .. }) { next()? } else { &mut [] };
        Ok(kernel(c.pool, &shape, x, weights, initial, States { all, last, last_cell })?)
    })?;
    native.flops = shape.multiplications().saturating_mul(2);
    native.reason = format!("{steps} steps of {batch}x{input} to {hidden}");
    Ok(native)
}
