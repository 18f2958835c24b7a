//! Recurrent layers.

use super::OpDef;
use crate::{
    attr::{Attr, AttrValue, F32},
    dim::Dim,
    error::InferError,
    infer::{InferCx, refuse},
    op_attrs,
    types::TensorType,
    word_enum,
};
use tensormill_tensor::DType;

word_enum! {
    /// Which way a layer walks its sequence.
    Direction {
        /// From the first step on.
        Forward = "forward",
        /// From the last step on.
        Reverse = "reverse",
        /// Both, apart; the results stand beside each other.
        Bidirectional = "bidirectional",
    }
}

impl Direction {
    /// Number of ways.
    pub const fn count(self) -> usize {
        if matches!(self, Direction::Bidirectional) { 2 } else { 1 }
    }
}

word_enum! {
    /// Functions of a gate.
    ActivationKind {
        /// `max(x, 0)`
        Relu = "relu",
        /// Hyperbolic tangent.
        Tanh = "tanh",
        /// `1 / (1 + exp(-x))`
        Sigmoid = "sigmoid",
        /// `alpha*x + beta`
        Affine = "affine",
        /// `x` from 0 on, else `alpha*x`
        LeakyRelu = "leaky_relu",
        /// `x` from `alpha` on, else 0
        ThresholdedRelu = "thresholded_relu",
        /// `alpha * tanh(beta*x)`
        ScaledTanh = "scaled_tanh",
        /// `clamp(alpha*x + beta, 0, 1)`
        HardSigmoid = "hard_sigmoid",
        /// `x` from 0 on, else `alpha*(exp(x)-1)`
        Elu = "elu",
        /// `x / (1 + |x|)`
        Softsign = "softsign",
        /// `log(1 + exp(x))`
        Softplus = "softplus",
    }
}

/// A function of a gate with its parameters, 0 where it has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Activation {
    /// The function.
    pub kind: ActivationKind,
    /// Its first parameter.
    pub alpha: F32,
    /// Its second parameter.
    pub beta: F32,
}

impl Activation {
    /// A function without parameters.
    pub const fn plain(kind: ActivationKind) -> Self {
        Activation { kind, alpha: F32(0.0), beta: F32(0.0) }
    }
}

impl AttrValue for Activation {
    fn to_attr(&self) -> Attr {
        if *self == Self::plain(self.kind) {
            return self.kind.to_attr();
        }
        Attr::Call(self.kind.word().into(), vec![self.alpha.to_attr(), self.beta.to_attr()])
    }

    fn from_attr(a: Attr) -> Result<Self, String> {
        match a {
            Attr::Call(name, args) => {
                let kind = ActivationKind::from_attr(Attr::Word(name))?;
                let [alpha, beta] = <[Attr; 2]>::try_from(args).map_err(|_| "expected two parameters")?;
                Ok(Activation { kind, alpha: F32::from_attr(alpha)?, beta: F32::from_attr(beta)? })
            }
            a => ActivationKind::from_attr(a).map(Self::plain),
        }
    }
}

macro_rules! recurrent {
    ($(#[$meta:meta])* $name:ident { gates: $gates:literal, activations: [$($act:ident),*], $($(#[$fmeta:meta])* $field:ident : $ty:ty = $default:expr),* $(,)? }) => {
        op_attrs! {
            $(#[$meta])*
            $name {
                /// Which way it walks the sequence.
                direction: Direction = Direction::Forward,
                /// The functions of one direction, then of the other; empty: the usual ones.
                activations: Vec<Activation> = vec![],
                /// Bound of the magnitude of what goes into the functions.
                clip: Option<F32> = None,
                $($(#[$fmeta])* $field: $ty = $default,)*
            }
        }

        impl $name {
            /// Gates of a cell.
            pub const GATES: usize = $gates;

            /// The functions of a direction (0 or 1).
            pub fn functions(&self, direction: usize) -> Vec<Activation> {
                let usual = [$(Activation::plain(ActivationKind::$act)),*];
                if self.activations.is_empty() {
                    return usual.to_vec();
                }
                self.activations.iter().skip(direction * usual.len()).take(usual.len()).copied().collect()
            }

            fn check_activations(&self) -> Result<(), InferError> {
                let usual = [$(ActivationKind::$act),*].len() * self.direction.count();
                match self.activations.len() {
                    0 => Ok(()),
                    n if n == usual => Ok(()),
                    n => refuse(format!("{n} functions of gates, not {usual}")),
                }
            }
        }
    };
}

recurrent! {
    /// A layer of long short-term memory. Operands: x `[S,N,I]`, w `[D,4H,I]`, r `[D,4H,H]` (gates: input,
    /// output, forget, cell), bias `[D,8H]` (of w, then of r), lengths of the sequences `[N]` (i32), state
    /// `[D,N,H]`, cell state `[D,N,H]`, peepholes `[D,3H]` (input, output, forget); all but the first three
    /// optional. Results: all states `[S,D,N,H]`, the last `[D,N,H]`, the last cell state `[D,N,H]`.
    Lstm {
        gates: 4,
        activations: [Sigmoid, Tanh, Tanh],
        /// Whether the forget gate is 1 less the input gate.
        input_forget: bool = false,
    }
}

recurrent! {
    /// A layer of gated recurrent units. Operands: x `[S,N,I]`, w `[D,3H,I]`, r `[D,3H,H]` (gates: update,
    /// reset, hidden), bias `[D,6H]` (of w, then of r), lengths of the sequences `[N]` (i32), state
    /// `[D,N,H]`; the last three optional. Results: all states `[S,D,N,H]`, the last `[D,N,H]`.
    Gru {
        gates: 3,
        activations: [Sigmoid, Tanh],
        /// Whether the reset gate multiplies the product with r rather than the state before it.
        linear_before_reset: bool = false,
    }
}

recurrent! {
    /// A plain recurrent layer. Operands and results are as those of [`Gru`], with one gate.
    Rnn {
        gates: 1,
        activations: [Tanh],
    }
}

struct Layer {
    gates: usize,
    directions: usize,
    cell: bool,
}

impl Layer {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(3..=if self.cell { 8 } else { 6 })?;
        let x = cx.tensor(0)?;
        if !x.dtype.is_float() {
            return refuse(format!("is not defined for {}", x.dtype));
        }
        let hidden = match &cx.typed(2, x.dtype)?.dims {
            Some(d) if d.len() == 3 => d[2].clone(),
            Some(_) => return refuse("the recurrent kernel must have rank 3"),
            None => Dim::Unknown,
        };
        let (seq, batch, input) = match &x.dims {
            Some(d) if d.len() == 3 => (d[0].clone(), d[1].clone(), d[2].clone()),
            Some(_) => return refuse("the input must have rank 3"),
            None => (Dim::Unknown, Dim::Unknown, Dim::Unknown),
        };
        let times = |n: usize| hidden.known().and_then(|h| h.checked_mul(n)).map_or(Dim::Unknown, Dim::Known);
        let d = Dim::Known(self.directions);
        let state = [d.clone(), batch.clone(), hidden.clone()];
        let gates = times(self.gates);
        self.operand(cx, 1, x.dtype, &[d.clone(), gates.clone(), input])?;
        self.operand(cx, 2, x.dtype, &[d.clone(), gates, hidden.clone()])?;
        self.operand(cx, 3, x.dtype, &[d.clone(), times(2 * self.gates)])?;
        self.operand(cx, 4, DType::I32, std::slice::from_ref(&batch))?;
        self.operand(cx, 5, x.dtype, &state)?;
        if self.cell {
            self.operand(cx, 6, x.dtype, &state)?;
            self.operand(cx, 7, x.dtype, &[d.clone(), times(3)])?;
        }
        let all = [seq, d, batch, hidden];
        cx.output(TensorType::new(x.dtype, all));
        for _ in 0..1 + usize::from(self.cell) {
            cx.output(TensorType::new(x.dtype, state.iter().cloned()));
        }
        Ok(())
    }

    fn operand(&self, cx: &InferCx<'_>, i: usize, dtype: DType, dims: &[Dim]) -> Result<(), InferError> {
        if i > 2 && cx.opt(i).is_none() {
            return Ok(());
        }
        let Some(d) = &cx.typed(i, dtype)?.dims else { return Ok(()) };
        let differ = |(a, b): (&Dim, &Dim)| a.known().zip(b.known()).is_some_and(|(a, b)| a != b);
        if d.len() != dims.len() || d.iter().zip(dims).any(differ) {
            return refuse(format!("the shape of operand {i} does not fit the others"));
        }
        Ok(())
    }
}

impl OpDef for Lstm {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        self.check_activations()?;
        Layer { gates: 4, directions: self.direction.count(), cell: true }.infer(cx)
    }
}

impl OpDef for Gru {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        self.check_activations()?;
        Layer { gates: 3, directions: self.direction.count(), cell: false }.infer(cx)
    }
}

impl OpDef for Rnn {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        self.check_activations()?;
        Layer { gates: 1, directions: self.direction.count(), cell: false }.infer(cx)
    }
}
