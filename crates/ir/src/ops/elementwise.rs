use super::OpDef;
use crate::{
    attr::{Attr, AttrMap, AttrValue, Attributes, F32},
    dim::Expr,
    error::InferError,
    infer::{InferCx, broadcast, refuse},
    op_attrs,
    types::TensorType,
    word_enum,
};
use tensormill_tensor::DType;

macro_rules! unary_kinds {
    ($($(#[$meta:meta])* $case:ident $name:literal $({ $($param:ident),* })?,)*) => {
        /// Functions of one element.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(missing_docs)]
        pub enum UnaryKind { $($(#[$meta])* $case $({ $($param: F32),* })?,)* }

        impl UnaryKind {
            /// The names of all kinds.
            pub const NAMES: &[&str] = &[$($name,)*];

            /// The op's name in the text form.
            pub const fn name(self) -> &'static str {
                match self { $(UnaryKind::$case { .. } => $name,)* }
            }

            /// The parameters with their names.
            pub fn params(self) -> Vec<(&'static str, F32)> {
                match self { $(UnaryKind::$case $({ $($param),* })? => vec![$($((stringify!($param), $param)),*)?],)* }
            }

            /// The kind of this name; `None` when there is none, an error when a parameter is missing.
            pub fn from_name(name: &str, attrs: &mut AttrMap) -> Option<Result<Self, String>> {
                Some(match name {
                    $($name => {
                        $($(let $param = match param(attrs, stringify!($param)) {
                            Ok(v) => v,
                            Err(e) => return Some(Err(e)),
                        };)*)?
                        Ok(UnaryKind::$case $({ $($param),* })?)
                    })*
                    _ => return None,
                })
            }
        }
    };
}

fn param(attrs: &mut AttrMap, name: &str) -> Result<F32, String> {
    attrs.get(name)?.ok_or_else(|| format!("attribute `{name}` is missing"))
}

unary_kinds! {
    Abs "abs",
    Acos "acos",
    Acosh "acosh",
    Asin "asin",
    Asinh "asinh",
    Atan "atan",
    Atanh "atanh",
    BitwiseNot "bitwise_not",
    Ceil "ceil",
    /// `max(0,x) + min(0, alpha*(exp(x/alpha)-1))`
    Celu "celu" { alpha },
    /// `min(max(x, min), max)` in the element type; NaN stays NaN.
    Clamp "clamp" { min, max },
    Cos "cos",
    Cosh "cosh",
    /// `x` above 0, else `alpha*(exp(x)-1)`
    Elu "elu" { alpha },
    Erf "erf",
    Exp "exp",
    Floor "floor",
    /// `x*(1+erf(x/sqrt 2))/2`
    Gelu "gelu",
    /// `x*(1+tanh(sqrt(2/pi)*(x+0.044715*x^3)))/2`
    GeluTanh "gelu_tanh",
    /// `clamp(alpha*x+beta, 0, 1)`
    HardSigmoid "hard_sigmoid" { alpha, beta },
    /// `x*clamp(x/6+1/2, 0, 1)`
    HardSwish "hard_swish",
    /// True for infinities: of negative sign when `negative` is not 0, of positive sign when `positive` is not 0.
    IsInf "is_inf" { negative, positive },
    IsNan "is_nan",
    LeakyRelu "leaky_relu" { alpha },
    Log "log",
    /// `x*tanh(softplus(x))`
    Mish "mish",
    Neg "neg",
    Not "not",
    Reciprocal "reciprocal",
    Relu "relu",
    /// To the nearest integer, ties to even.
    Round "round",
    /// `gamma*x` above 0, else `gamma*alpha*(exp(x)-1)`
    Selu "selu" { alpha, gamma },
    /// `x+bias` below `-lambd`, `x-bias` above `lambd`, else 0
    Shrink "shrink" { lambd, bias },
    Sigmoid "sigmoid",
    Sign "sign",
    Sin "sin",
    Sinh "sinh",
    /// `log(1+exp(x))`
    Softplus "softplus",
    /// `x/(1+|x|)`
    Softsign "softsign",
    Sqrt "sqrt",
    /// `x*sigmoid(alpha*x)`
    Swish "swish" { alpha },
    Tan "tan",
    Tanh "tanh",
    /// `x` above `alpha`, else 0
    ThresholdedRelu "thresholded_relu" { alpha },
}

/// One function applied to every element. Operand: x. The result has x's type, or bool for predicates.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Unary {
    /// The function.
    pub kind: UnaryKind,
}

impl Attributes for Unary {
    fn write(&self, out: &mut Vec<(&'static str, Attr)>) {
        out.extend(self.kind.params().into_iter().map(|(n, v)| (n, v.to_attr())));
    }

    fn read(_: &mut AttrMap) -> Result<Self, String> {
        Err("a unary op is named by its kind".into())
    }
}

impl UnaryKind {
    /// The result's dtype; `None` when the function has no meaning for the operand's.
    pub fn result_dtype(self, x: DType) -> Option<DType> {
        use UnaryKind::*;
        let ok = match self {
            Not => x == DType::Bool,
            IsNan | IsInf { .. } => x.is_float(),
            BitwiseNot => x.is_int(),
            Abs | Neg | Sign | Relu | Clamp { .. } | Shrink { .. } => x.is_float() || x.is_int(),
            _ => x.is_float(),
        };
        ok.then_some(if matches!(self, IsNan | IsInf { .. }) { DType::Bool } else { x })
    }
}

impl OpDef for Unary {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(1..=1)?;
        let x = cx.tensor(0)?;
        let Some(dtype) = self.kind.result_dtype(x.dtype) else {
            return refuse(format!("is not defined for {}", x.dtype));
        };
        let elements = match self.kind {
            UnaryKind::Neg => {
                cx.elements(0).and_then(|e| e.iter().map(|e| e.mul(&Expr::constant(-1))).collect())
            }
            UnaryKind::Not => cx.elements(0).and_then(|e| {
                e.iter().map(|e| e.as_const().map(|v| Expr::constant(i64::from(v == 0)))).collect()
            }),
            _ => None,
        };
        cx.output_elements(TensorType { dtype, dims: x.dims.clone() }, elements);
        Ok(())
    }
}

word_enum! {
    /// Functions of two elements. Operands broadcast as in numpy.
    BinaryKind {
        /// Sum; integers wrap.
        Add = "add",
        /// Difference; integers wrap.
        Sub = "sub",
        /// Product; integers wrap.
        Mul = "mul",
        /// Quotient; integers truncate towards zero, and dividing one by zero is an error.
        Div = "div",
        /// Remainder with the sign of the divisor (Python's `%`).
        Mod = "mod",
        /// Remainder with the sign of the dividend (C's `fmod`).
        Fmod = "fmod",
        /// Power; the exponent may have another type than the base and the result.
        Pow = "pow",
        /// The smaller; NaN if either is.
        Min = "min",
        /// The larger; NaN if either is.
        Max = "max",
        /// `a` above 0, else `a*b`.
        Prelu = "prelu",
        /// Equality, of every type.
        Equal = "equal",
        /// `a < b`
        Less = "less",
        /// `a <= b`
        LessOrEqual = "less_or_equal",
        /// `a > b`
        Greater = "greater",
        /// `a >= b`
        GreaterOrEqual = "greater_or_equal",
        /// Logical and.
        And = "and",
        /// Logical or.
        Or = "or",
        /// Logical exclusive or.
        Xor = "xor",
        /// And of the bits.
        BitAnd = "bit_and",
        /// Or of the bits.
        BitOr = "bit_or",
        /// Exclusive or of the bits.
        BitXor = "bit_xor",
        /// Shift left; 0 when the distance is negative or not below the width.
        ShiftLeft = "shift_left",
        /// Shift right that keeps the sign; 0 or -1 when the distance is negative or not below the width.
        ShiftRight = "shift_right",
    }
}

impl BinaryKind {
    /// Whether the result is bool whatever the operands.
    pub const fn is_comparison(self) -> bool {
        use BinaryKind::*;
        matches!(self, Equal | Less | LessOrEqual | Greater | GreaterOrEqual)
    }

    /// Whether swapping the operands never changes the result.
    pub const fn is_commutative(self) -> bool {
        use BinaryKind::*;
        matches!(self, Add | Mul | Min | Max | Equal | And | Or | Xor | BitAnd | BitOr | BitXor)
    }

    /// The result's dtype; `None` when the function has no meaning for the operands'.
    pub fn result_dtype(self, a: DType, b: DType) -> Option<DType> {
        use BinaryKind::*;
        let number = a.is_float() || a.is_int();
        let same = a == b;
        let ok = match self {
            Add | Sub | Mul | Div => same && (number || a.is_complex()),
            Mod | Fmod | Min | Max | Prelu => same && number,
            Pow => number && (b.is_float() || b.is_int()),
            Equal => same,
            Less | LessOrEqual | Greater | GreaterOrEqual => same && number,
            And | Or | Xor => same && a == DType::Bool,
            BitAnd | BitOr | BitXor => same && a.is_int(),
            ShiftLeft | ShiftRight => same && a.is_int(),
        };
        ok.then_some(if self.is_comparison() { DType::Bool } else { a })
    }
}

/// One function applied to pairs of elements, broadcasting. Operands: a, b.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Binary {
    /// The function.
    pub kind: BinaryKind,
}

impl Attributes for Binary {
    fn write(&self, _: &mut Vec<(&'static str, Attr)>) {}

    fn read(_: &mut AttrMap) -> Result<Self, String> {
        Err("a binary op is named by its kind".into())
    }
}

impl OpDef for Binary {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(2..=2)?;
        let (a, b) = (cx.tensor(0)?, cx.tensor(1)?);
        let Some(dtype) = self.kind.result_dtype(a.dtype, b.dtype) else {
            return refuse(format!("is not defined for {} and {}", a.dtype, b.dtype));
        };
        let dims = broadcast(a.dims.as_ref(), b.dims.as_ref())?;
        // Rank is at most 1 wherever elements matter; there, a single element broadcasts.
        let low_rank = a.rank().is_some_and(|r| r <= 1) && b.rank().is_some_and(|r| r <= 1);
        let integral = a.dtype.is_int() || a.dtype == DType::Bool;
        let elements = match (cx.elements(0), cx.elements(1)) {
            (Some(x), Some(y))
                if low_rank && integral && (x.len() == y.len() || x.len() == 1 || y.len() == 1) =>
            {
                let n = if x.len() == 1 { y.len() } else { x.len() };
                let at = |e: &[Expr], i: usize| e[if e.len() == 1 { 0 } else { i }].clone();
                (0..n).map(|i| element(self.kind, &at(x, i), &at(y, i))).collect()
            }
            _ => None,
        };
        cx.output_elements(TensorType { dtype, dims }, elements);
        Ok(())
    }
}

/// The function on size expressions, where its result is one for certain.
fn element(kind: BinaryKind, a: &Expr, b: &Expr) -> Option<Expr> {
    use BinaryKind::*;
    let truth = |t: bool| Some(Expr::constant(i64::from(t)));
    match kind {
        Add => a.add(b),
        Sub => a.sub(b),
        Mul => a.mul(b),
        // Truncation and rounding down agree where nothing is negative.
        Div if a.is_non_negative() && b.is_non_negative() => a.floor_div(b),
        Mod | Fmod if a.is_non_negative() && b.is_non_negative() => a.modulo(b),
        Min => a.minimum(b),
        Max => a.maximum(b),
        Equal if a == b => truth(true),
        // A size is never negative, so it is no -1.
        Equal if a.is_non_negative() && b.as_const().is_some_and(|b| b < 0) => truth(false),
        Equal if b.is_non_negative() && a.as_const().is_some_and(|a| a < 0) => truth(false),
        _ => {
            let (a, b) = (a.as_const()?, b.as_const()?);
            match kind {
                Div => a.checked_div(b).map(Expr::constant),
                Equal => truth(a == b),
                Less => truth(a < b),
                LessOrEqual => truth(a <= b),
                Greater => truth(a > b),
                GreaterOrEqual => truth(a >= b),
                And => truth(a != 0 && b != 0),
                Or => truth(a != 0 || b != 0),
                _ => None,
            }
        }
    }
}

op_attrs! {
    /// Element of `a` where the condition holds, else of `b`, broadcasting. Operands: condition (bool), a, b.
    Where {}
}

impl OpDef for Where {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(3..=3)?;
        let (c, a, b) = (cx.typed(0, DType::Bool)?, cx.tensor(1)?, cx.tensor(2)?);
        if a.dtype != b.dtype {
            return refuse("both choices must have the same dtype");
        }
        let ab = broadcast(a.dims.as_ref(), b.dims.as_ref())?;
        let dims = broadcast(c.dims.as_ref(), ab.as_ref())?;
        let elements = match (cx.elements(0), cx.elements(1), cx.elements(2)) {
            (Some(c), Some(a), Some(b)) => {
                let n = c.len().max(a.len()).max(b.len());
                let fits = [c, a, b].iter().all(|e| e.len() == n || e.len() == 1);
                let at = |e: &[Expr], i: usize| e[if e.len() == 1 { 0 } else { i }].clone();
                let pick = |i| Some(if at(c, i).as_const()? != 0 { at(a, i) } else { at(b, i) });
                (fits && dims.as_ref().is_some_and(|d| d.len() <= 1))
                    .then(|| (0..n).map(pick).collect())
                    .flatten()
            }
            _ => None,
        };
        cx.output_elements(TensorType { dtype: a.dtype, dims }, elements);
        Ok(())
    }
}

op_attrs! {
    /// Limits every element. Operands: x, lower bound (scalar, optional), upper bound (scalar, optional).
    /// Where the bounds cross, the upper one wins.
    Clip {}
}

impl OpDef for Clip {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(1..=3)?;
        let x = cx.tensor(0)?;
        if !(x.dtype.is_float() || x.dtype.is_int()) {
            return refuse(format!("is not defined for {}", x.dtype));
        }
        for i in 1..3 {
            if let Some(b) = cx.opt_tensor(i)?
                && (b.dtype != x.dtype || b.rank().is_some_and(|r| r > 1))
            {
                return refuse("a bound must be a scalar of x's dtype");
            }
        }
        cx.output(x.clone());
        Ok(())
    }
}

word_enum! {
    /// How a cast to an 8-bit power-of-two scale rounds.
    RoundMode {
        /// To the larger power of two.
        Up = "up",
        /// To the smaller one.
        Down = "down",
        /// To the nearest, ties up.
        Nearest = "nearest",
    }
}

op_attrs! {
    /// Converts every element. Operand: x. ONNX Cast-25 defines each pair of types.
    Cast {
        /// The result's dtype.
        to: DType = DType::F32,
        /// Whether values beyond an 8-bit float's range become its largest number.
        saturate: bool = true,
        /// For casts to f8e8m0.
        round_mode: RoundMode = RoundMode::Up,
    }
}

impl OpDef for Cast {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(1..=1)?;
        let x = cx.tensor(0)?;
        if x.dtype.is_complex() != self.to.is_complex() {
            return refuse("complex numbers do not convert to real ones");
        }
        // Sizes fit in i32; narrower types might wrap, and then the elements are no longer these.
        let keeps = matches!(self.to, DType::I64 | DType::I32) && x.dtype.is_int();
        let elements = if keeps { cx.elements(0).map(<[Expr]>::to_vec) } else { None };
        cx.output_elements(TensorType { dtype: self.to, dims: x.dims.clone() }, elements);
        Ok(())
    }
}

op_attrs! {
    /// The same bits as another dtype of the same width. Operand: x.
    BitCast {
        /// The result's dtype.
        to: DType = DType::F32,
    }
}

impl OpDef for BitCast {
    fn infer(&self, cx: &mut InferCx<'_>) -> Result<(), InferError> {
        cx.arity(1..=1)?;
        let x = cx.tensor(0)?;
        if x.dtype.bits() != self.to.bits() || x.dtype == DType::Str {
            return refuse(format!("{} and {} differ in width", x.dtype, self.to));
        }
        cx.output(TensorType { dtype: self.to, dims: x.dims.clone() });
        Ok(())
    }
}
