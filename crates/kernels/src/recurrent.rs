//! Recurrent layers: LSTM, GRU and plain cells over `[steps, batch, input]`.
//!
//! The inputs of many steps go through their weights in one product; each step then multiplies the state
//! by the recurrent weights, and one loop over both computes the next state.

use crate::elementwise::UnaryOp;
use crate::epilogue::{Epilogue, Step};
use crate::error::{KernelError, exact, product};
use crate::math::{sigmoid, tanh};
use crate::matmul::{MatRef, PackedB, matmul, matmul_packed, matvec};
use crate::scratch;
use crate::simd::{Isa, Kernel, Level};
use crate::threads::Pool;

/// Floats of gates kept at once: what bounds the memory for a long sequence.
const BLOCK: usize = 1 << 18;

/// What a step computes from its input and the state before it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cell {
    /// Long short-term memory with sigmoid gates and tanh; gates in the order input, output, forget, cell.
    Lstm {
        /// Whether the forget gate is 1 less the input gate.
        input_forget: bool,
    },
    /// Gated recurrent unit with sigmoid gates and tanh; gates in the order update, reset, hidden.
    Gru {
        /// Whether the reset gate multiplies the recurrent product rather than the state before it.
        linear_before_reset: bool,
    },
    /// A function of the sum of both products.
    Plain(UnaryOp),
}

impl Cell {
    /// Rows of the weights for each element of the state.
    pub fn gates(self) -> usize {
        match self {
            Cell::Lstm { .. } => 4,
            Cell::Gru { .. } => 3,
            Cell::Plain(_) => 1,
        }
    }
}

/// A layer and the sizes it runs over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RecurrentShape {
    /// What a step computes.
    pub cell: Cell,
    /// Directions: 1 or 2, the second one backwards.
    pub directions: usize,
    /// Whether the first direction walks backwards.
    pub backwards: bool,
    /// Steps.
    pub steps: usize,
    /// Sequences.
    pub batch: usize,
    /// Elements of a step's input.
    pub input: usize,
    /// Elements of a state.
    pub hidden: usize,
}

impl RecurrentShape {
    fn gates(&self) -> Result<usize, KernelError> {
        product("gates", &[self.cell.gates(), self.hidden])
    }

    /// Whether the recurrent product of the hidden gate waits for the reset gate.
    fn reset_first(&self) -> bool {
        self.cell == Cell::Gru { linear_before_reset: false }
    }

    /// Multiplications of both products.
    pub fn multiplications(&self) -> u64 {
        let all = [self.directions, self.steps, self.batch, self.cell.gates(), self.hidden];
        let rows = all.iter().fold(1u64, |n, &d| n.saturating_mul(d as u64));
        rows.saturating_mul(self.input.saturating_add(self.hidden) as u64)
    }
}

/// Weights as the right operand of a product, arranged for the number of rows that it will have.
#[derive(Debug, Clone)]
enum Matrix {
    Dense { data: Vec<f32>, k: usize, n: usize },
    Packed(PackedB),
}

impl Matrix {
    /// `weights` has a row of `k` elements for each of `n` columns.
    fn new(level: Level, weights: &[f32], k: usize, n: usize, rows: usize) -> Result<Matrix, KernelError> {
        let view = MatRef::row_major(weights, n, k)?.transposed();
        if rows > matvec::FEW {
            return Ok(Matrix::Packed(PackedB::pack(level, view)?));
        }
        // Few rows stream over the columns of one depth after the other.
        let mut data = vec![0.0; weights.len()];
        for (j, row) in weights.chunks_exact(k.max(1)).enumerate() {
            row.iter().enumerate().for_each(|(i, &v)| data[i * n + j] = v);
        }
        Ok(Matrix::Dense { data, k, n })
    }

    fn bytes(&self) -> usize {
        match self {
            Matrix::Dense { data, .. } => size_of_val(&data[..]),
            Matrix::Packed(p) => p.bytes(),
        }
    }

    fn times(
        &self,
        pool: &Pool,
        x: MatRef<'_>,
        out: &mut [f32],
        epilogue: Epilogue<'_>,
    ) -> Result<(), KernelError> {
        match self {
            Matrix::Dense { data, k, n } => matmul(pool, x, MatRef::row_major(data, *k, *n)?, out, epilogue),
            Matrix::Packed(p) => matmul_packed(pool, x, p, out, epilogue),
        }
    }
}

#[derive(Debug, Clone)]
struct DirectionWeights {
    input: Matrix,
    /// All gates, or those that do not wait for the reset gate.
    state: Matrix,
    /// The gate that does.
    reset: Option<Matrix>,
    /// Added to the input's product.
    bias: Vec<f32>,
    /// Added to the hidden gate's recurrent product before the reset gate multiplies it.
    reset_bias: Vec<f32>,
}

/// The weights of a layer, rearranged once.
#[derive(Debug, Clone)]
pub struct RecurrentWeights {
    cell: Cell,
    input: usize,
    hidden: usize,
    directions: Vec<DirectionWeights>,
}

impl RecurrentWeights {
    /// Arranges `w` (`[directions, gates * hidden, input]`), `r` (`[directions, gates * hidden, hidden]`)
    /// and the biases of both (`[directions, 2 * gates * hidden]`) for products of the sizes of `shape`;
    /// the result computes the same for other steps and batches.
    pub fn pack(
        level: Level,
        shape: &RecurrentShape,
        w: &[f32],
        r: &[f32],
        bias: Option<&[f32]>,
    ) -> Result<RecurrentWeights, KernelError> {
        let (gates, hidden, input, dirs) = (shape.gates()?, shape.hidden, shape.input, shape.directions);
        exact("input weights", w, product("input weights", &[dirs, gates, input])?)?;
        exact("recurrent weights", r, product("recurrent weights", &[dirs, gates, hidden])?)?;
        if let Some(b) = bias {
            exact("bias", b, product("bias", &[dirs, 2, gates])?)?;
        }
        let direction = |d: usize| {
            let r = &r[d * gates * hidden..(d + 1) * gates * hidden];
            let (at_once, later) =
                r.split_at(if shape.reset_first() { 2 * hidden * hidden } else { r.len() });
            let reset = shape.reset_first().then(|| Matrix::new(level, later, hidden, hidden, shape.batch));
            let columns = if shape.reset_first() { 2 * hidden } else { gates };
            let (mut sum, mut reset_bias) = (vec![0.0; gates], vec![0.0; hidden]);
            if let Some(b) = bias {
                let (of_w, of_r) = b[2 * d * gates..2 * (d + 1) * gates].split_at(gates);
                sum.iter_mut().zip(of_w).zip(of_r).for_each(|((s, w), r)| *s = w + r);
                if shape.cell == (Cell::Gru { linear_before_reset: true }) {
                    sum[2 * hidden..].copy_from_slice(&of_w[2 * hidden..]);
                    reset_bias.copy_from_slice(&of_r[2 * hidden..]);
                }
            }
            let rows = shape.steps.saturating_mul(shape.batch);
            Ok(DirectionWeights {
                input: Matrix::new(
                    level,
                    &w[d * gates * input..(d + 1) * gates * input],
                    input,
                    gates,
                    rows,
                )?,
                state: Matrix::new(level, at_once, hidden, columns, shape.batch)?,
                reset: reset.transpose()?,
                bias: sum,
                reset_bias,
            })
        };
        let directions = (0..dirs).map(direction).collect::<Result<_, KernelError>>()?;
        Ok(RecurrentWeights { cell: shape.cell, input, hidden, directions })
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        let of = |d: &DirectionWeights| {
            let biases = size_of_val(&d.bias[..]) + size_of_val(&d.reset_bias[..]);
            d.input.bytes() + d.state.bytes() + d.reset.as_ref().map_or(0, Matrix::bytes) + biases
        };
        self.directions.iter().map(of).sum()
    }
}

/// States before the first step, zeros where there are none: `[directions, batch, hidden]`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Initial<'a> {
    /// The state.
    pub state: Option<&'a [f32]>,
    /// The cell state of an LSTM.
    pub cell: Option<&'a [f32]>,
}

/// Where the states go.
#[derive(Debug)]
pub struct States<'a> {
    /// Of all steps: `[steps, directions, batch, hidden]`.
    pub all: &'a mut [f32],
    /// Of each direction's last step: `[directions, batch, hidden]`.
    pub last: &'a mut [f32],
    /// The cell state of an LSTM there; empty for other cells.
    pub last_cell: &'a mut [f32],
}

/// Runs a layer over `x` (`[steps, batch, input]`).
pub fn recurrent(
    pool: &Pool,
    shape: &RecurrentShape,
    x: &[f32],
    weights: &RecurrentWeights,
    initial: Initial<'_>,
    out: States<'_>,
) -> Result<(), KernelError> {
    let RecurrentShape { directions, steps, batch, input, hidden, .. } = *shape;
    let state = product("state", &[batch, hidden])?;
    let states = product("states", &[directions, state])?;
    let gates = product("gates", &[batch, shape.gates()?])?;
    let cells = if matches!(shape.cell, Cell::Lstm { .. }) { states } else { 0 };
    exact("input", x, product("input", &[steps, batch, input])?)?;
    exact("states", out.all, product("states", &[steps, states])?)?;
    exact("last states", out.last, states)?;
    exact("last cell states", out.last_cell, cells)?;
    initial.state.map_or(Ok(()), |h| exact("initial state", h, states))?;
    initial.cell.map_or(Ok(()), |c| exact("initial cell state", c, cells))?;
    let packed = (weights.cell, weights.input, weights.hidden, weights.directions.len());
    if packed != (shape.cell, input, hidden, directions) || directions > 2 {
        return Err(KernelError::Shape("recurrent layer: weights were packed for other sizes"));
    }
    match initial.state {
        Some(h) => out.last.copy_from_slice(h),
        None => out.last.fill(0.0),
    }
    match initial.cell {
        Some(c) => out.last_cell.copy_from_slice(c),
        None => out.last_cell.fill(0.0),
    }
    if state == 0 {
        return Ok(());
    }
    let block = (BLOCK / gates).clamp(1, steps.max(1));
    let room = product("gates of several steps", &[block + 1, gates])?;
    scratch::with(room + state, |room| {
        let (room, damped) = room.split_at_mut(block * gates + gates);
        let (inputs, products) = room.split_at_mut(block * gates);
        for (d, weights) in weights.directions.iter().enumerate() {
            let h = &mut out.last[d * state..(d + 1) * state];
            let c: &mut [f32] =
                if cells == 0 { &mut [] } else { &mut out.last_cell[d * state..(d + 1) * state] };
            let backwards = shape.backwards || d == 1;
            for done in (0..steps).step_by(block) {
                let count = block.min(steps - done);
                let first = if backwards { steps - done - count } else { done };
                let rows = &x[first * batch * input..(first + count) * batch * input];
                let rows = MatRef::row_major(rows, count * batch, input)?;
                let bias = [Step::bias_columns(&weights.bias)];
                let inputs = &mut inputs[..count * gates];
                weights.input.times(pool, rows, inputs, Epilogue::new(&bias))?;
                for i in 0..count {
                    let i = if backwards { count - 1 - i } else { i };
                    let x = &inputs[i * gates..(i + 1) * gates];
                    step(pool, shape, weights, x, products, damped, h, c)?;
                    let at = ((first + i) * directions + d) * state;
                    out.all[at..at + state].copy_from_slice(h);
                }
            }
        }
        Ok(())
    })?
}

/// One step of all sequences; `x` is the input's product with its bias.
fn step(
    pool: &Pool,
    shape: &RecurrentShape,
    weights: &DirectionWeights,
    x: &[f32],
    products: &mut [f32],
    damped: &mut [f32],
    h: &mut [f32],
    c: &mut [f32],
) -> Result<(), KernelError> {
    let (n, level) = (shape.hidden, pool.level());
    let before = MatRef::row_major(&*h, shape.batch, n)?;
    if let Some(reset) = &weights.reset {
        let (at_once, later) = products.split_at_mut(2 * h.len());
        weights.state.times(pool, before, at_once, Epilogue::NONE)?;
        let rows = x.chunks_exact(3 * n).zip(at_once.chunks_exact(2 * n)).zip(h.chunks_exact(n));
        for (((x, r), h), out) in rows.zip(damped.chunks_exact_mut(n)) {
            level.run(Damp { x: &x[n..2 * n], r: &r[n..], h, out });
        }
        reset.times(pool, MatRef::row_major(damped, shape.batch, n)?, later, Epilogue::NONE)?;
        let rows = x.chunks_exact(3 * n).zip(at_once.chunks_exact(2 * n)).zip(later.chunks_exact(n));
        for (((x, r), hidden), h) in rows.zip(h.chunks_exact_mut(n)) {
            level.run(GruCell { x, update: &r[..n], reset: None, hidden, h });
        }
        return Ok(());
    }
    weights.state.times(pool, before, products, Epilogue::NONE)?;
    let width = shape.cell.gates() * n;
    let rows = x.chunks_exact(width).zip(products.chunks_exact(width)).zip(h.chunks_exact_mut(n));
    match shape.cell {
        Cell::Lstm { input_forget } => {
            for (((x, r), h), c) in rows.zip(c.chunks_exact_mut(n)) {
                level.run(LstmCell { x, r, h, c, input_forget });
            }
        }
        Cell::Gru { .. } => {
            for ((x, r), h) in rows {
                let reset = Some((&r[n..2 * n], &weights.reset_bias[..]));
                level.run(GruCell { x, update: &r[..n], reset, hidden: &r[2 * n..], h });
            }
        }
        Cell::Plain(f) => {
            for ((x, r), h) in rows {
                h.iter_mut().zip(x).zip(r).for_each(|((h, x), r)| *h = x + r);
                f.apply(level, h);
            }
        }
    }
    Ok(())
}

struct LstmCell<'a> {
    x: &'a [f32],
    r: &'a [f32],
    h: &'a mut [f32],
    c: &'a mut [f32],
    input_forget: bool,
}

impl Kernel for LstmCell<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let n = self.h.len();
        let [xi, xo, xf, xc] = std::array::from_fn(|g| &self.x[g * n..(g + 1) * n]);
        let [ri, ro, rf, rc] = std::array::from_fn(|g| &self.r[g * n..(g + 1) * n]);
        let c = &mut self.c[..n];
        for j in 0..n {
            let i = sigmoid::<I>(xi[j] + ri[j]);
            let forget = if self.input_forget { 1.0 - i } else { sigmoid::<I>(xf[j] + rf[j]) };
            let new = tanh::<I>(xc[j] + rc[j]);
            c[j] = I::mul_add(forget, c[j], i * new);
            self.h[j] = sigmoid::<I>(xo[j] + ro[j]) * tanh::<I>(c[j]);
        }
    }
}

/// The state times the reset gate.
struct Damp<'a> {
    x: &'a [f32],
    r: &'a [f32],
    h: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Damp<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        for (((o, &x), &r), &h) in self.out.iter_mut().zip(self.x).zip(self.r).zip(self.h) {
            *o = sigmoid::<I>(x + r) * h;
        }
    }
}

struct GruCell<'a> {
    x: &'a [f32],
    update: &'a [f32],
    /// The reset gate's recurrent product and the bias of what it multiplies; `None` where it has
    /// multiplied the state already.
    reset: Option<(&'a [f32], &'a [f32])>,
    hidden: &'a [f32],
    h: &'a mut [f32],
}

impl Kernel for GruCell<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self) {
        let n = self.h.len();
        let [xz, xr, xh] = std::array::from_fn(|g| &self.x[g * n..(g + 1) * n]);
        let (rz, rh) = (&self.update[..n], &self.hidden[..n]);
        let next = |z: f32, new: f32, h: f32| I::mul_add(1.0 - z, new, z * h);
        if let Some((rr, bias)) = self.reset {
            let (rr, bias) = (&rr[..n], &bias[..n]);
            for j in 0..n {
                let z = sigmoid::<I>(xz[j] + rz[j]);
                let reset = sigmoid::<I>(xr[j] + rr[j]);
                let new = tanh::<I>(I::mul_add(reset, rh[j] + bias[j], xh[j]));
                self.h[j] = next(z, new, self.h[j]);
            }
        } else {
            for j in 0..n {
                let z = sigmoid::<I>(xz[j] + rz[j]);
                self.h[j] = next(z, tanh::<I>(xh[j] + rh[j]), self.h[j]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn noise(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| (((i * 31 + seed) * 7919) % 1021) as f32 / 510.0 - 1.0).collect()
    }

    fn logistic(x: f64) -> f64 {
        1.0 / (1.0 + (-x).exp())
    }

    /// One direction of one sequence by the definition, in f64: all states, the last state and cell state.
    fn twin(
        s: &RecurrentShape,
        x: impl Fn(usize, usize) -> f64,
        w: &[f32],
        r: &[f32],
        bias: &[f32],
        (mut h, mut c): (Vec<f64>, Vec<f64>),
        backwards: bool,
    ) -> (Vec<Vec<f64>>, Vec<f64>, Vec<f64>) {
        let (n, gates) = (s.hidden, s.cell.gates() * s.hidden);
        let mut all = vec![vec![]; s.steps];
        for step in 0..s.steps {
            let t = if backwards { s.steps - 1 - step } else { step };
            let of_w = |g: usize, j: usize| {
                let row = g * n + j;
                let sum: f64 = (0..s.input).map(|i| f64::from(w[row * s.input + i]) * x(t, i)).sum();
                sum + f64::from(bias[row])
            };
            let of_r = |g: usize, j: usize, h: &[f64]| {
                let row = g * n + j;
                let sum: f64 = (0..n).map(|i| f64::from(r[row * n + i]) * h[i]).sum();
                sum + f64::from(bias[gates + row])
            };
            let gate = |g: usize, j: usize| of_w(g, j) + of_r(g, j, &h);
            let mut next = vec![0.0; n];
            match s.cell {
                Cell::Lstm { input_forget } => {
                    for j in 0..n {
                        let i = logistic(gate(0, j));
                        let f = if input_forget { 1.0 - i } else { logistic(gate(2, j)) };
                        c[j] = f * c[j] + i * gate(3, j).tanh();
                        next[j] = logistic(gate(1, j)) * c[j].tanh();
                    }
                }
                Cell::Gru { linear_before_reset } => {
                    let reset: Vec<f64> = (0..n).map(|j| logistic(gate(1, j))).collect();
                    let damped: Vec<f64> = (0..n).map(|j| reset[j] * h[j]).collect();
                    for j in 0..n {
                        let z = logistic(gate(0, j));
                        let from_state =
                            if linear_before_reset { reset[j] * of_r(2, j, &h) } else { of_r(2, j, &damped) };
                        next[j] = (1.0 - z) * (of_w(2, j) + from_state).tanh() + z * h[j];
                    }
                }
                Cell::Plain(_) => (0..n).for_each(|j| next[j] = gate(0, j).tanh()),
            }
            h = next;
            all[t] = h.clone();
        }
        (all, h, c)
    }

    const CELLS: [Cell; 5] = [
        Cell::Lstm { input_forget: false },
        Cell::Lstm { input_forget: true },
        Cell::Gru { linear_before_reset: false },
        Cell::Gru { linear_before_reset: true },
        Cell::Plain(UnaryOp::Tanh),
    ];

    proptest! {
        #[test]
        fn layers_match_their_definition(
            cell in 0usize..5, directions in 1usize..3, backwards in any::<bool>(), steps in 0usize..6,
            batch in 0usize..11, input in 0usize..20, hidden in 0usize..36, has in 0u8..4, threads in 1usize..3,
        ) {
            let cell = CELLS[cell];
            let s = RecurrentShape { cell, directions, backwards, steps, batch, input, hidden };
            let gates = cell.gates() * hidden;
            let x = noise(steps * batch * input, 1);
            let scaled = |v: Vec<f32>| -> Vec<f32> { v.iter().map(|v| v * 0.3).collect() };
            let (w, r) = (scaled(noise(directions * gates * input, 2)), scaled(noise(directions * gates * hidden, 3)));
            let bias = if has & 1 == 1 { noise(directions * 2 * gates, 4) } else { vec![0.0; directions * 2 * gates] };
            let states = directions * batch * hidden;
            let lstm = matches!(cell, Cell::Lstm { .. });
            let start = |seed| if has & 2 == 2 { noise(states, seed) } else { vec![0.0; states] };
            let (h0, c0) = (start(5), start(6));
            let initial = Initial {
                state: (has & 2 == 2).then_some(&h0[..]),
                cell: (lstm && has & 2 == 2).then_some(&c0[..]),
            };
            for level in Level::available() {
                let pool = Pool::new(threads).unwrap().with_level(level);
                let packed = RecurrentWeights::pack(level, &s, &w, &r, (has & 1 == 1).then_some(&bias[..])).unwrap();
                let (mut all, mut last) = (vec![7.0; steps * states], vec![7.0; states]);
                let mut last_cell = vec![7.0; if lstm { states } else { 0 }];
                let out = States { all: &mut all, last: &mut last, last_cell: &mut last_cell };
                recurrent(&pool, &s, &x, &packed, initial, out).unwrap();
                for (d, b) in (0..directions).flat_map(|d| (0..batch).map(move |b| (d, b))) {
                    let at = (d * batch + b) * hidden;
                    let begin = |v: &[f32]| v[at..at + hidden].iter().map(|&v| f64::from(v)).collect::<Vec<_>>();
                    let (want, h, c) = twin(
                        &s,
                        |t, i| f64::from(x[(t * batch + b) * input + i]),
                        &w[d * gates * input..],
                        &r[d * gates * hidden..],
                        &bias[2 * d * gates..],
                        (begin(&h0), begin(&c0)),
                        backwards || d == 1,
                    );
                    let close = |got: &[f32], want: &[f64]| {
                        got.iter().zip(want).all(|(&g, w)| (f64::from(g) - w).abs() <= 2e-5 * w.abs().max(1.0))
                    };
                    prop_assert!(close(&last[at..at + hidden], &h));
                    prop_assert!(!lstm || close(&last_cell[at..at + hidden], &c));
                    for (t, want) in want.iter().enumerate() {
                        prop_assert!(close(&all[t * states + at..][..hidden], want), "step {t}");
                    }
                }
            }
        }
    }

    #[test]
    fn misfits_are_errors() {
        let cell = Cell::Plain(UnaryOp::Relu);
        let s =
            RecurrentShape { cell, directions: 1, backwards: false, steps: 2, batch: 1, input: 3, hidden: 2 };
        let level = Level::best();
        assert!(RecurrentWeights::pack(level, &s, &[0.0; 5], &[0.0; 4], None).is_err());
        assert!(RecurrentWeights::pack(level, &s, &[0.0; 6], &[0.0; 4], Some(&[0.0; 3])).is_err());
        let weights = RecurrentWeights::pack(level, &s, &[0.0; 6], &[0.0; 4], None).unwrap();
        let run = |s: &RecurrentShape, x: &[f32], cells: usize| {
            let (mut all, mut last, mut cell) = ([0.0; 4], [0.0; 2], vec![0.0; cells]);
            let out = States { all: &mut all, last: &mut last, last_cell: &mut cell };
            recurrent(&Pool::serial(), s, x, &weights, Initial::default(), out)
        };
        assert!(run(&s, &[1.0; 6], 0).is_ok());
        assert!(run(&s, &[1.0; 5], 0).is_err());
        assert!(run(&s, &[1.0; 6], 2).is_err());
        let other = RecurrentShape { cell: Cell::Plain(UnaryOp::Tanh), ..s };
        assert!(run(&other, &[1.0; 6], 0).is_err());
        let absurd = RecurrentShape { steps: usize::MAX, ..s };
        assert!(run(&absurd, &[1.0; 6], 0).is_err());
    }
}
