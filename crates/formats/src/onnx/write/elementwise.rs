//! Functions of one, two or more elements, and what epilogues apply after another op.

use super::{
    error::{Result, refuse},
    node::NodeCx,
};
use tensormill_ir::ops::{BinaryKind, Cast, PostOp, PostOps, RoundMode, UnaryKind};
use tensormill_tensor::DType;

/// `y = kind(x)` for elements of this type.
pub(super) fn apply_unary(
    cx: &mut NodeCx<'_, '_, '_>,
    kind: UnaryKind,
    dtype: DType,
    x: String,
    y: String,
) -> Result<()> {
    use UnaryKind::*;
    let op = match kind {
        Abs => "Abs",
        Acos => "Acos",
        Acosh => "Acosh",
        Asin => "Asin",
        Asinh => "Asinh",
        Atan => "Atan",
        Atanh => "Atanh",
        BitwiseNot => "BitwiseNot",
        Ceil => "Ceil",
        Celu { .. } => "Celu",
        Clamp { min, max } => {
            let bound = |cx: &mut NodeCx<'_, '_, '_>, what: &str, v: f32| {
                if v.is_infinite() { Ok(String::new()) } else { cx.new_scalar(what, dtype, f64::from(v)) }
            };
            let inputs = vec![x, bound(cx, "min", min.0)?, bound(cx, "max", max.0)?];
            cx.add("Clip", inputs, vec![y]);
            return Ok(());
        }
        Cos => "Cos",
        Cosh => "Cosh",
        Elu { .. } => "Elu",
        Erf => "Erf",
        Exp => "Exp",
        Floor => "Floor",
        Gelu => "Gelu",
        GeluTanh => {
            cx.add("Gelu", vec![x], vec![y]).string("approximate", "tanh");
            return Ok(());
        }
        HardSigmoid { .. } => "HardSigmoid",
        HardSwish => "HardSwish",
        IsInf { negative, positive } => {
            let made = cx.add("IsInf", vec![x], vec![y]);
            made.int("detect_negative", i64::from(negative.0 != 0.0))
                .int("detect_positive", i64::from(positive.0 != 0.0));
            return Ok(());
        }
        IsNan => "IsNaN",
        LeakyRelu { .. } => "LeakyRelu",
        Log => "Log",
        Mish => "Mish",
        Neg => "Neg",
        Not => "Not",
        Reciprocal => "Reciprocal",
        Relu => "Relu",
        Round => "Round",
        Selu { .. } => "Selu",
        Shrink { .. } => "Shrink",
        Sigmoid => "Sigmoid",
        Sign => "Sign",
        Sin => "Sin",
        Sinh => "Sinh",
        Softplus => "Softplus",
        Softsign => "Softsign",
        Sqrt => "Sqrt",
        // What every version has; narrow floats would round in between.
        Swish { alpha } if matches!(dtype, DType::F32 | DType::F64) => {
            let mut inner = x.clone();
            if alpha.0 != 1.0 {
                let factor = cx.new_scalar("alpha", dtype, f64::from(alpha.0))?;
                inner = cx.part("Mul", vec![inner, factor]);
            }
            let gate = cx.part("Sigmoid", vec![inner]);
            cx.add("Mul", vec![x, gate], vec![y]);
            return Ok(());
        }
        Swish { .. } => "Swish",
        Tan => "Tan",
        Tanh => "Tanh",
        ThresholdedRelu { .. } => "ThresholdedRelu",
    };
    let mut made = cx.add(op, vec![x], vec![y]);
    for (name, v) in kind.params() {
        made = made.float(name, v.0);
    }
    Ok(())
}

pub(super) fn unary(cx: &mut NodeCx<'_, '_, '_>, kind: UnaryKind) -> Result<()> {
    let (dtype, x, y) = (cx.dtype_of(0)?, cx.input(0), cx.output(0));
    apply_unary(cx, kind, dtype, x, y)
}

/// `y = kind(a, b)`, where `a` has this type.
pub(super) fn apply_binary(
    cx: &mut NodeCx<'_, '_, '_>,
    kind: BinaryKind,
    dtype: DType,
    operands: Vec<String>,
    y: String,
) -> Result<()> {
    use BinaryKind::*;
    let op = match kind {
        Add => "Add",
        Sub => "Sub",
        Mul => "Mul",
        Div => "Div",
        Mod => {
            // Of floats, only the newest set has the remainder with the sign of the divisor.
            if dtype.is_float() {
                cx.require(28);
            }
            "Mod"
        }
        Fmod => {
            cx.add("Mod", operands, vec![y]).int("fmod", 1);
            return Ok(());
        }
        Pow => "Pow",
        Min => "Min",
        Max => "Max",
        Prelu => "PRelu",
        Equal => "Equal",
        Less => "Less",
        LessOrEqual => "LessOrEqual",
        Greater => "Greater",
        GreaterOrEqual => "GreaterOrEqual",
        And => "And",
        Or => "Or",
        Xor => "Xor",
        BitAnd => "BitwiseAnd",
        BitOr => "BitwiseOr",
        BitXor => "BitwiseXor",
        ShiftLeft | ShiftRight => {
            if !dtype.is_unsigned_int() {
                cx.require(28);
            }
            let direction = if kind == ShiftLeft { "LEFT" } else { "RIGHT" };
            cx.add("BitShift", operands, vec![y]).string("direction", direction);
            return Ok(());
        }
    };
    cx.add(op, operands, vec![y]);
    Ok(())
}

pub(super) fn binary(cx: &mut NodeCx<'_, '_, '_>, kind: BinaryKind) -> Result<()> {
    let (dtype, operands, y) = (cx.dtype_of(0)?, cx.inputs(), cx.output(0));
    apply_binary(cx, kind, dtype, operands, y)
}

/// Where an op with an epilogue puts its own result: the node's, if there are no steps after it.
pub(super) fn before_epilogue(cx: &mut NodeCx<'_, '_, '_>, steps: &PostOps) -> String {
    if steps.is_empty() { cx.output(0) } else { cx.temporary() }
}

/// The steps of an epilogue as operators of their own, from `x` to the node's result.
pub(super) fn epilogue(cx: &mut NodeCx<'_, '_, '_>, steps: &PostOps, x: String) -> Result<()> {
    let Some(dtype) = cx.tensor(cx.node.output()).map(|t| t.dtype) else { return refuse("is no tensor") };
    let y = cx.output(0);
    epilogue_to(cx, steps, dtype, x, y)
}

/// The steps of an epilogue as operators of their own, from `x` to `result`.
pub(super) fn epilogue_to(
    cx: &mut NodeCx<'_, '_, '_>,
    steps: &PostOps,
    dtype: DType,
    mut x: String,
    result: String,
) -> Result<()> {
    for (i, step) in steps.0.iter().enumerate() {
        let y = if i + 1 == steps.0.len() { result.clone() } else { cx.temporary() };
        match *step {
            PostOp::Unary(kind) => apply_unary(cx, kind, dtype, x, y.clone())?,
            PostOp::Binary { kind, operand, swapped } => {
                let v = cx.operand(operand)?;
                let other = cx.name(v);
                let operands = if swapped { vec![other, x] } else { vec![x, other] };
                apply_binary(cx, kind, dtype, operands, y.clone())?;
            }
        }
        x = y;
    }
    Ok(())
}

pub(super) fn cast(cx: &mut NodeCx<'_, '_, '_>, op: &Cast) -> Result<()> {
    let mut made = cx.plain("Cast").dtype("to", op.to);
    if !op.saturate {
        made = made.int("saturate", 0);
    }
    match op.round_mode {
        RoundMode::Up => {}
        RoundMode::Down => drop(made.string("round_mode", "down")),
        RoundMode::Nearest => drop(made.string("round_mode", "nearest")),
    }
    Ok(())
}
