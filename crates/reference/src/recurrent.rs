//! Recurrent layers, one sequence and one step after the other.

use crate::{
    EvalError,
    data::{Wide, i64s},
    error::refuse,
    eval::{Operands, wrong_dtype},
};
use tensormill_ir::ops::{Activation, ActivationKind, Direction, Gru, Lstm, Rnn};
use tensormill_tensor::{DType, Shape, Tensor, Value};

type Result<T> = std::result::Result<T, EvalError>;

fn apply(f: Activation, clip: Option<f64>, x: f64) -> f64 {
    let x = match clip {
        Some(c) if x > c => c,
        Some(c) if x < -c => -c,
        _ => x,
    };
    let (alpha, beta) = (f64::from(f.alpha.0), f64::from(f.beta.0));
    match f.kind {
        ActivationKind::Relu => {
            if x > 0.0 || x.is_nan() {
                x
            } else {
                0.0
            }
        }
        ActivationKind::Tanh => x.tanh(),
        ActivationKind::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        ActivationKind::Affine => alpha * x + beta,
        ActivationKind::LeakyRelu => {
            if x >= 0.0 {
                x
            } else {
                alpha * x
            }
        }
        ActivationKind::ThresholdedRelu => {
            if x >= alpha {
                x
            } else {
                0.0
            }
        }
        ActivationKind::ScaledTanh => alpha * (beta * x).tanh(),
        ActivationKind::HardSigmoid => (alpha * x + beta).clamp(0.0, 1.0),
        ActivationKind::Elu => {
            if x >= 0.0 {
                x
            } else {
                alpha * x.exp_m1()
            }
        }
        ActivationKind::Softsign => x / (1.0 + x.abs()),
        ActivationKind::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
    }
}

/// The operands of a layer, checked against each other.
struct Layer {
    dtype: DType,
    seq: usize,
    batch: usize,
    input: usize,
    hidden: usize,
    gates: usize,
    direction: Direction,
    x: Vec<f64>,
    w: Vec<f64>,
    r: Vec<f64>,
    bias: Option<Vec<f64>>,
    lengths: Vec<usize>,
    h: Option<Vec<f64>>,
}

fn floats(t: &Tensor, shape: &[usize]) -> Result<Vec<f64>> {
    if t.shape().dims() != shape {
        return refuse(format!("an operand has shape {:?} rather than {shape:?}", t.shape().dims()));
    }
    match Wide::of(t)? {
        Wide::Float(v) => Ok(v),
        Wide::Int(_) => wrong_dtype(t),
    }
}

impl Layer {
    fn read(x: &Operands<'_>, gates: usize, direction: Direction) -> Result<Layer> {
        let (t, r) = (x.tensor(0)?, x.tensor(2)?);
        let &[seq, batch, input] = t.shape().dims() else { return refuse("the input must have rank 3") };
        let &[d, _, hidden] = r.shape().dims() else {
            return refuse("the recurrent kernel must have rank 3");
        };
        if d != direction.count() {
            return refuse(format!("kernels for {d} directions"));
        }
        let opt = |i: usize, shape: &[usize]| x.opt_tensor(i)?.map(|t| floats(t, shape)).transpose();
        let lengths = match x.opt_tensor(4)? {
            None => vec![seq; batch],
            Some(l) => i64s(l)?
                .into_iter()
                .map(|n| usize::try_from(n).ok().filter(|n| *n <= seq))
                .collect::<Option<_>>()
                .ok_or_else(|| EvalError::Operand("a length is out of range".into()))?,
        };
        if lengths.len() != batch {
            return refuse("every sequence needs its length");
        }
        x.limits.check(&Shape::from(vec![seq, d, batch, hidden]))?;
        x.limits.check(&Shape::from(vec![d, batch, hidden]))?;
        Ok(Layer {
            dtype: t.dtype(),
            seq,
            batch,
            input,
            hidden,
            gates,
            direction,
            x: floats(t, &[seq, batch, input])?,
            w: floats(x.tensor(1)?, &[d, gates * hidden, input])?,
            r: floats(r, &[d, gates * hidden, hidden])?,
            bias: opt(3, &[d, 2 * gates * hidden])?,
            lengths,
            h: opt(5, &[d, batch, hidden])?,
        })
    }

    /// Element `j` of a gate's product of w with an input row, with its bias.
    fn input_part(&self, d: usize, gate: usize, j: usize, row: &[f64]) -> f64 {
        let at = (d * self.gates + gate) * self.hidden + j;
        let bias =
            self.bias.as_ref().map_or(0.0, |b| b[2 * d * self.gates * self.hidden + gate * self.hidden + j]);
        dot(&self.w[at * self.input..][..self.input], row) + bias
    }

    /// Element `j` of a gate's product of r with a state, with its bias.
    fn state_part(&self, d: usize, gate: usize, j: usize, state: &[f64]) -> f64 {
        let at = (d * self.gates + gate) * self.hidden + j;
        let offset = (2 * d + 1) * self.gates * self.hidden;
        let bias = self.bias.as_ref().map_or(0.0, |b| b[offset + gate * self.hidden + j]);
        dot(&self.r[at * self.hidden..][..self.hidden], state) + bias
    }

    /// Walks all sequences. `cell` turns state and cell state into the next ones, for a direction and an
    /// input row. Results: all states, the last ones, the last cell states.
    fn walk(
        &self,
        c0: Option<&[f64]>,
        cell: impl Fn(usize, &[f64], &mut Vec<f64>, &mut Vec<f64>),
    ) -> Result<[Tensor; 3]> {
        let (n, dirs) = (self.hidden, self.direction.count());
        let mut all = vec![0.0; self.seq * dirs * self.batch * n];
        let (mut last, mut last_cell) = (vec![], vec![]);
        for d in 0..dirs {
            let backwards = d == 1 || self.direction == Direction::Reverse;
            for b in 0..self.batch {
                let start = (d * self.batch + b) * n;
                let begin = |v: Option<&[f64]>| v.map_or(vec![0.0; n], |v| v[start..start + n].to_vec());
                let (mut h, mut c) = (begin(self.h.as_deref()), begin(c0));
                let len = self.lengths[b];
                for step in 0..len {
                    let t = if backwards { len - 1 - step } else { step };
                    let row = &self.x[(t * self.batch + b) * self.input..][..self.input];
                    cell(d, row, &mut h, &mut c);
                    all[((t * dirs + d) * self.batch + b) * n..][..n].copy_from_slice(&h);
                }
                last.extend(h);
                last_cell.extend(c);
            }
        }
        let state = [dirs, self.batch, n];
        Ok([
            Wide::Float(all).tensor(self.dtype, [self.seq, dirs, self.batch, n])?,
            Wide::Float(last).tensor(self.dtype, state)?,
            Wide::Float(last_cell).tensor(self.dtype, state)?,
        ])
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The functions of every direction, `per` for each.
fn functions(dirs: usize, per: usize, of: impl Fn(usize) -> Vec<Activation>) -> Result<Vec<Vec<Activation>>> {
    let all: Vec<_> = (0..dirs).map(of).collect();
    if all.iter().all(|f| f.len() == per) { Ok(all) } else { refuse("functions of gates are missing") }
}

pub(crate) fn lstm(op: &Lstm, x: &Operands<'_>) -> Result<Vec<Value>> {
    let l = Layer::read(x, Lstm::GATES, op.direction)?;
    let (n, dirs) = (l.hidden, op.direction.count());
    let c0 = x.opt_tensor(6)?.map(|t| floats(t, &[dirs, l.batch, n])).transpose()?;
    let peep = x.opt_tensor(7)?.map(|t| floats(t, &[dirs, 3 * n])).transpose()?;
    let f = functions(dirs, 3, |d| op.functions(d))?;
    let clip = op.clip.map(|c| f64::from(c.0));
    let results = l.walk(c0.as_deref(), |d, row, h, c| {
        let gate = |g: usize, j: usize| l.input_part(d, g, j, row) + l.state_part(d, g, j, h);
        let peephole = |g: usize, j: usize| peep.as_ref().map_or(0.0, |p| p[(d * 3 + g) * n + j]);
        let (mut next_h, mut next_c) = (vec![0.0; n], vec![0.0; n]);
        for j in 0..n {
            let i = apply(f[d][0], clip, gate(0, j) + peephole(0, j) * c[j]);
            let forget = if op.input_forget {
                1.0 - i
            } else {
                apply(f[d][0], clip, gate(2, j) + peephole(2, j) * c[j])
            };
            let new = apply(f[d][1], clip, gate(3, j));
            next_c[j] = forget * c[j] + i * new;
            let o = apply(f[d][0], clip, gate(1, j) + peephole(1, j) * next_c[j]);
            next_h[j] = o * apply(f[d][2], clip, next_c[j]);
        }
        (*h, *c) = (next_h, next_c);
    })?;
    Ok(results.map(Value::from).to_vec())
}

pub(crate) fn gru(op: &Gru, x: &Operands<'_>) -> Result<Vec<Value>> {
    let l = Layer::read(x, Gru::GATES, op.direction)?;
    let n = l.hidden;
    let f = functions(op.direction.count(), 2, |d| op.functions(d))?;
    let clip = op.clip.map(|c| f64::from(c.0));
    let [all, last, _] = l.walk(None, |d, row, h, _| {
        let gate =
            |g: usize, j: usize| apply(f[d][0], clip, l.input_part(d, g, j, row) + l.state_part(d, g, j, h));
        let reset: Vec<f64> = (0..n).map(|j| gate(1, j)).collect();
        let damped: Vec<f64> = reset.iter().zip(h.iter()).map(|(r, h)| r * h).collect();
        let next = (0..n).map(|j| {
            let from_state = if op.linear_before_reset {
                reset[j] * l.state_part(d, 2, j, h)
            } else {
                l.state_part(d, 2, j, &damped)
            };
            let new = apply(f[d][1], clip, l.input_part(d, 2, j, row) + from_state);
            let z = gate(0, j);
            (1.0 - z) * new + z * h[j]
        });
        *h = next.collect();
    })?;
    Ok(vec![all.into(), last.into()])
}

pub(crate) fn rnn(op: &Rnn, x: &Operands<'_>) -> Result<Vec<Value>> {
    let l = Layer::read(x, Rnn::GATES, op.direction)?;
    let f = functions(op.direction.count(), 1, |d| op.functions(d))?;
    let clip = op.clip.map(|c| f64::from(c.0));
    let [all, last, _] = l.walk(None, |d, row, h, _| {
        let next = (0..l.hidden)
            .map(|j| apply(f[d][0], clip, l.input_part(d, 0, j, row) + l.state_part(d, 0, j, h)));
        *h = next.collect();
    })?;
    Ok(vec![all.into(), last.into()])
}
