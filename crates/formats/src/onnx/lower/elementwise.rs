//! Functions of one, two or more elements.

use super::{LowerError, NodeCx, Table};
use tensormill_ir::{
    ValueId,
    attr::F32,
    ops::{BinaryKind, BitCast, Cast, Clip, RoundMode, UnaryKind, Where},
};
use tensormill_tensor::DType;

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table = &[
    ("Abs", unary),
    ("Acos", unary),
    ("Acosh", unary),
    ("Asin", unary),
    ("Asinh", unary),
    ("Atan", unary),
    ("Atanh", unary),
    ("BitwiseNot", unary),
    ("Ceil", unary),
    ("Celu", unary),
    ("Cos", unary),
    ("Cosh", unary),
    ("Elu", unary),
    ("Erf", unary),
    ("Exp", unary),
    ("Floor", unary),
    ("Gelu", unary),
    ("HardSigmoid", unary),
    ("HardSwish", unary),
    ("IsInf", unary),
    ("IsNaN", unary),
    ("LeakyRelu", unary),
    ("Log", unary),
    ("Mish", unary),
    ("Neg", unary),
    ("Not", unary),
    ("Reciprocal", unary),
    ("Relu", unary),
    ("Round", unary),
    ("Selu", unary),
    ("Shrink", unary),
    ("Sigmoid", unary),
    ("Sign", unary),
    ("Sin", unary),
    ("Sinh", unary),
    ("Softplus", unary),
    ("Softsign", unary),
    ("Sqrt", unary),
    ("Swish", unary),
    ("Tan", unary),
    ("Tanh", unary),
    ("ThresholdedRelu", unary),
    ("Add", binary),
    ("And", binary),
    ("BitShift", binary),
    ("BitwiseAnd", binary),
    ("BitwiseOr", binary),
    ("BitwiseXor", binary),
    ("Div", binary),
    ("Equal", binary),
    ("Greater", binary),
    ("GreaterOrEqual", binary),
    ("Less", binary),
    ("LessOrEqual", binary),
    ("Mod", binary),
    ("Mul", binary),
    ("Or", binary),
    ("Pow", binary),
    ("PRelu", binary),
    ("Sub", binary),
    ("Xor", binary),
    ("Max", variadic),
    ("Mean", variadic),
    ("Min", variadic),
    ("Sum", variadic),
    ("Where", choose),
    ("Clip", clip),
    ("Cast", cast),
    ("CastLike", cast),
    ("BitCast", bitcast),
    ("Identity", identity),
    ("Dropout", dropout),
];

fn unary(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    use UnaryKind::*;
    let f = |name: &str, default: f32| cx.float(name, default).map(F32);
    let kind = match cx.op_type() {
        "Abs" => Abs,
        "Acos" => Acos,
        "Acosh" => Acosh,
        "Asin" => Asin,
        "Asinh" => Asinh,
        "Atan" => Atan,
        "Atanh" => Atanh,
        "BitwiseNot" => BitwiseNot,
        "Ceil" => Ceil,
        "Celu" => Celu { alpha: f("alpha", 1.0)? },
        "Cos" => Cos,
        "Cosh" => Cosh,
        "Elu" => Elu { alpha: f("alpha", 1.0)? },
        "Erf" => Erf,
        "Exp" => Exp,
        "Floor" => Floor,
        "Gelu" => match cx.string("approximate")?.as_deref() {
            None | Some("none") => Gelu,
            Some("tanh") => GeluTanh,
            Some(_) => return cx.bad("approximate", "must be none or tanh"),
        },
        "HardSigmoid" => HardSigmoid { alpha: f("alpha", 0.2)?, beta: f("beta", 0.5)? },
        "HardSwish" => HardSwish,
        "IsInf" => IsInf {
            negative: F32(f32::from(u8::from(cx.flag("detect_negative", true)?))),
            positive: F32(f32::from(u8::from(cx.flag("detect_positive", true)?))),
        },
        "IsNaN" => IsNan,
        "LeakyRelu" => LeakyRelu { alpha: f("alpha", 0.01)? },
        "Log" => Log,
        "Mish" => Mish,
        "Neg" => Neg,
        "Not" => Not,
        "Reciprocal" => Reciprocal,
        "Relu" => Relu,
        "Round" => Round,
        "Selu" => Selu { alpha: f("alpha", 1.673_263_2)?, gamma: f("gamma", 1.050_701)? },
        "Shrink" => Shrink { lambd: f("lambd", 0.5)?, bias: f("bias", 0.0)? },
        "Sigmoid" => Sigmoid,
        "Sign" => Sign,
        "Sin" => Sin,
        "Sinh" => Sinh,
        "Softplus" => Softplus,
        "Softsign" => Softsign,
        "Sqrt" => Sqrt,
        "Swish" => Swish { alpha: f("alpha", 1.0)? },
        "Tan" => Tan,
        "Tanh" => Tanh,
        "ThresholdedRelu" => ThresholdedRelu { alpha: f("alpha", 1.0)? },
        other => return LowerError::feature(other),
    };
    // Operators before opset 6 could be told to work in place, which means nothing to a graph.
    cx.ignore("consumed_inputs");
    cx.at_most(1)?;
    let x = cx.input(0)?;
    let y = cx.unary(kind, x)?;
    cx.set(0, y);
    Ok(())
}

fn binary(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    use BinaryKind::*;
    let kind = match cx.op_type() {
        "Add" => Add,
        "And" => And,
        "BitShift" => match cx.string("direction")?.as_deref() {
            Some("LEFT") => ShiftLeft,
            Some("RIGHT") => ShiftRight,
            _ => return cx.bad("direction", "must be LEFT or RIGHT"),
        },
        "BitwiseAnd" => BitAnd,
        "BitwiseOr" => BitOr,
        "BitwiseXor" => BitXor,
        "Div" => Div,
        "Equal" => Equal,
        "Greater" => Greater,
        "GreaterOrEqual" => GreaterOrEqual,
        "Less" => Less,
        "LessOrEqual" => LessOrEqual,
        "Mod" => {
            if cx.flag("fmod", false)? {
                Fmod
            } else {
                Mod
            }
        }
        "Mul" => Mul,
        "Or" => Or,
        "Pow" => Pow,
        "PRelu" => Prelu,
        "Sub" => Sub,
        "Xor" => Xor,
        other => return LowerError::feature(other),
    };
    cx.ignore("consumed_inputs");
    cx.at_most(2)?;
    let (a, mut b) = (cx.input(0)?, cx.input(1)?);
    if cx.flag("broadcast", false)? {
        b = align(cx, a, b)?;
    } else {
        cx.ignore("axis");
    }
    let y = cx.binary(kind, a, b)?;
    cx.set(0, y);
    Ok(())
}

/// Before opset 7, `broadcast` and `axis` said which axes of `a` the axes of `b` stand for.
fn align(cx: &mut NodeCx<'_, '_>, a: ValueId, b: ValueId) -> Result<ValueId> {
    let (ra, rb) = (cx.rank(a)? as i64, cx.rank(b)? as i64);
    let axis = match cx.opt_int("axis")? {
        None => ra - rb,
        Some(axis) if axis < 0 => axis + ra,
        Some(axis) => axis,
    };
    let behind = ra - rb - axis;
    if axis < 0 || behind < 0 {
        return cx.bad("axis", "places the second operand beyond the first");
    }
    if behind == 0 {
        return Ok(b);
    }
    let axes: Vec<i64> = (rb..rb + behind).collect();
    let axes = cx.ints_constant(&axes)?;
    cx.op(tensormill_ir::ops::Unsqueeze {}, &[b, axes])
}

fn variadic(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let kind = match cx.op_type() {
        "Max" => BinaryKind::Max,
        "Min" => BinaryKind::Min,
        _ => BinaryKind::Add,
    };
    cx.ignore("consumed_inputs");
    let all = cx.all()?;
    let Some((&first, rest)) = all.split_first() else {
        return LowerError::operand("takes one operand or more");
    };
    let mut y = first;
    for &x in rest {
        y = cx.binary(kind, y, x)?;
    }
    if cx.op_type() == "Mean" && all.len() > 1 {
        y = cx.binary_scalar(BinaryKind::Div, y, all.len() as f64)?;
    }
    cx.set(0, y);
    Ok(())
}

fn choose(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let inputs = [cx.input(0)?, cx.input(1)?, cx.input(2)?];
    let y = cx.op(Where {}, &inputs)?;
    cx.set(0, y);
    Ok(())
}

fn clip(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    cx.ignore("consumed_inputs");
    let (mut min, mut max) = (cx.opt(1), cx.opt(2));
    if cx.opset() < 11 {
        if let Some(v) = cx.opt_float("min")? {
            min = Some(cx.scalar_like(x, f64::from(v))?);
        }
        if let Some(v) = cx.opt_float("max")? {
            max = Some(cx.scalar_like(x, f64::from(v))?);
        }
    }
    let y = cx.node(Clip {}, &[Some(x), min, max])?[0];
    cx.set(0, y);
    Ok(())
}

fn cast(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let to = if cx.op_type() == "CastLike" {
        let like = cx.input(1)?;
        Some(cx.dtype(like)?)
    } else if cx.opset() < 6 {
        // The type was spelled out as a name.
        cx.string("to")?.and_then(|name| dtype_named(&name))
    } else {
        cx.dtype_attribute("to")?
    };
    let Some(to) = to else { return cx.bad("to", "is missing or unknown") };
    let saturate = cx.flag("saturate", true)?;
    let round_mode = match cx.string("round_mode")?.as_deref() {
        None | Some("up") => RoundMode::Up,
        Some("down") => RoundMode::Down,
        Some("nearest") => RoundMode::Nearest,
        Some(_) => return cx.bad("round_mode", "must be up, down or nearest"),
    };
    let y = if cx.dtype(x)? == to { x } else { cx.op(Cast { to, saturate, round_mode }, &[x])? };
    cx.set(0, y);
    Ok(())
}

fn dtype_named(name: &str) -> Option<DType> {
    Some(match name {
        "FLOAT" => DType::F32,
        "FLOAT16" => DType::F16,
        "DOUBLE" => DType::F64,
        "INT8" => DType::I8,
        "INT16" => DType::I16,
        "INT32" => DType::I32,
        "INT64" => DType::I64,
        "UINT8" => DType::U8,
        "UINT16" => DType::U16,
        "UINT32" => DType::U32,
        "UINT64" => DType::U64,
        "BOOL" => DType::Bool,
        _ => return None,
    })
}

fn bitcast(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let Some(to) = cx.dtype_attribute("to")? else { return cx.bad("to", "is missing") };
    let y = cx.op(BitCast { to }, &[x])?;
    cx.set(0, y);
    Ok(())
}

fn identity(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    cx.set(0, x);
    Ok(())
}

fn dropout(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    for name in ["ratio", "seed", "consumed_inputs", "is_test"] {
        cx.ignore(name);
    }
    if let Some(training) = cx.opt(2)
        && cx.ints_of(training).is_none_or(|t| t.iter().any(|t| *t != 0))
    {
        return LowerError::feature("dropout in training mode");
    }
    cx.set(0, x);
    if cx.wants(1) {
        // Before opset 10 the mask had x's type, since then it is bool.
        let dtype = if cx.opset() < 10 { cx.dtype(x)? } else { DType::Bool };
        let one = cx.builder().scalar(dtype, 1.0)?;
        let shape = cx.op(tensormill_ir::ops::ShapeOf::default(), &[x])?;
        let mask = cx.op(tensormill_ir::ops::Expand {}, &[one, shape])?;
        cx.set(1, mask);
    }
    Ok(())
}
