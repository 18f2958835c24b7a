//! Functions of one, two or more elements.

use super::{LowerError, NodeCx, Order, Table};
use tensormill_ir::{
    ValueId,
    attr::F32,
    ops::{BinaryKind, UnaryKind, Unsqueeze, Where},
};

type Result<T> = std::result::Result<T, LowerError>;

macro_rules! unary {
    ($kind:expr) => {
        |cx| map(cx, |cx, x| cx.unary($kind, x))
    };
}

macro_rules! binary {
    ($kind:ident) => {
        |cx| pair(cx, |cx, a, b| cx.binary(BinaryKind::$kind, a, b))
    };
    // With an activation after it.
    ($kind:ident, fused) => {
        |cx| {
            pair(cx, |cx, a, b| {
                let y = cx.binary(BinaryKind::$kind, a, b)?;
                cx.fused(y, 0)
            })
        }
    };
}

const fn clamp(min: f32, max: f32) -> UnaryKind {
    UnaryKind::Clamp { min: F32(min), max: F32(max) }
}

pub(super) const TABLE: Table = &[
    ("ABS", 78, unary!(UnaryKind::Abs)),
    ("CEIL", 0, unary!(UnaryKind::Ceil)),
    ("COS", 84, unary!(UnaryKind::Cos)),
    ("ELU", 0, unary!(UnaryKind::Elu { alpha: F32(1.0) })),
    ("EXP", 33, unary!(UnaryKind::Exp)),
    ("FLOOR", 0, unary!(UnaryKind::Floor)),
    ("GELU", 116, gelu),
    ("HARD_SWISH", 91, unary!(UnaryKind::HardSwish)),
    ("LEAKY_RELU", 75, leaky_relu),
    ("LOG", 0, unary!(UnaryKind::Log)),
    ("LOGICAL_NOT", 63, unary!(UnaryKind::Not)),
    ("LOGISTIC", 0, unary!(UnaryKind::Sigmoid)),
    ("NEG", 42, unary!(UnaryKind::Neg)),
    ("RELU", 0, unary!(UnaryKind::Relu)),
    ("RELU6", 0, unary!(clamp(0.0, 6.0))),
    ("RELU_0_TO_1", 0, unary!(clamp(0.0, 1.0))),
    ("RELU_N1_TO_1", 0, unary!(clamp(-1.0, 1.0))),
    ("ROUND", 0, unary!(UnaryKind::Round)),
    ("RSQRT", 0, rsqrt),
    ("SIGN", 123, unary!(UnaryKind::Sign)),
    ("SIN", 0, unary!(UnaryKind::Sin)),
    ("SQRT", 0, unary!(UnaryKind::Sqrt)),
    ("SQUARE", 66, |cx| map(cx, |cx, x| cx.binary(BinaryKind::Mul, x, x))),
    ("TANH", 0, unary!(UnaryKind::Tanh)),
    // two
    ("ADD", 11, add),
    ("DIV", 29, binary!(Div, fused)),
    ("EQUAL", 53, binary!(Equal)),
    ("FLOOR_DIV", 65, floor_div),
    ("FLOOR_MOD", 72, binary!(Mod)),
    ("GREATER", 44, binary!(Greater)),
    ("GREATER_EQUAL", 45, binary!(GreaterOrEqual)),
    ("LESS", 41, binary!(Less)),
    ("LESS_EQUAL", 46, binary!(LessOrEqual)),
    ("LOGICAL_AND", 62, binary!(And)),
    ("LOGICAL_OR", 60, binary!(Or)),
    ("MAXIMUM", 39, binary!(Max)),
    ("MINIMUM", 39, binary!(Min)),
    ("MUL", 21, binary!(Mul, fused)),
    ("NOT_EQUAL", 54, |cx| {
        pair(cx, |cx, a, b| {
            let equal = cx.binary(BinaryKind::Equal, a, b)?;
            cx.unary(UnaryKind::Not, equal)
        })
    }),
    ("POW", 56, binary!(Pow)),
    ("PRELU", 0, binary!(Prelu)),
    ("SQUARED_DIFFERENCE", 76, |cx| {
        pair(cx, |cx, a, b| {
            let d = cx.binary(BinaryKind::Sub, a, b)?;
            cx.binary(BinaryKind::Mul, d, d)
        })
    }),
    ("SUB", 28, sub),
    // more
    ("ADD_N", 82, add_n),
    ("SELECT", 47, |cx| select(cx, true)),
    ("SELECT_V2", 98, |cx| select(cx, false)),
];

/// A function of one operand, computed in the order that it comes in.
fn map(
    cx: &mut NodeCx<'_, '_>,
    f: impl FnOnce(&mut NodeCx<'_, '_>, ValueId) -> Result<ValueId>,
) -> Result<()> {
    let order = cx.home(0);
    let x = cx.real(0, order)?;
    let y = f(cx, x)?;
    cx.set_real(0, y, order)
}

/// The order that operands are best combined in, and their real numbers in it: where one has come with its
/// channels first and the others can follow, this; else that of the file.
fn together(cx: &mut NodeCx<'_, '_>, operands: &[usize]) -> Result<(Order, Vec<ValueId>)> {
    if operands.iter().any(|&i| cx.home(i) == Order::First) {
        let mut all = vec![];
        for &i in operands {
            match cx.real_broadcast(i, Order::First)? {
                Some(v) => all.push(v),
                None => break,
            }
        }
        if all.len() == operands.len() {
            return Ok((Order::First, all));
        }
    }
    let all = operands.iter().map(|&i| cx.real(i, Order::Plain)).collect::<Result<_>>()?;
    Ok((Order::Plain, all))
}

/// A function of two operands that broadcast.
fn pair(
    cx: &mut NodeCx<'_, '_>,
    f: impl FnOnce(&mut NodeCx<'_, '_>, ValueId, ValueId) -> Result<ValueId>,
) -> Result<()> {
    let (order, all) = together(cx, &[0, 1])?;
    let y = f(cx, all[0], all[1])?;
    cx.set_real(0, y, order)
}

fn add(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    // Whether scales of 16-bit integers are powers of two: they are what the tensors say.
    cx.ignore(1);
    binary!(Add, fused)(cx)
}

fn sub(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    cx.ignore(1);
    binary!(Sub, fused)(cx)
}

fn gelu(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let kind = if cx.flag("approximate", 0)? { UnaryKind::GeluTanh } else { UnaryKind::Gelu };
    map(cx, |cx, x| cx.unary(kind, x))
}

fn leaky_relu(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let alpha = F32(cx.float("alpha", 0, 0.0)?);
    map(cx, |cx, x| cx.unary(UnaryKind::LeakyRelu { alpha }, x))
}

fn rsqrt(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    map(cx, |cx, x| {
        let root = cx.unary(UnaryKind::Sqrt, x)?;
        cx.unary(UnaryKind::Reciprocal, root)
    })
}

/// The quotient rounded down.
fn floor_div(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    pair(cx, |cx, a, b| {
        if cx.dtype(a)?.is_float() {
            let q = cx.binary(BinaryKind::Div, a, b)?;
            return cx.unary(UnaryKind::Floor, q);
        }
        // Without the remainder, which has the divisor's sign, nothing is left to round.
        let rest = cx.binary(BinaryKind::Mod, a, b)?;
        let whole = cx.binary(BinaryKind::Sub, a, rest)?;
        cx.binary(BinaryKind::Div, whole, b)
    })
}

fn add_n(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let operands: Vec<usize> = (0..cx.len()).collect();
    let (order, all) = together(cx, &operands)?;
    let Some((&first, rest)) = all.split_first() else { return LowerError::operand("there are no operands") };
    let y = rest.iter().try_fold(first, |y, v| cx.binary(BinaryKind::Add, y, *v))?;
    cx.set_real(0, y, order)
}

/// `rows`: whether a vector chooses whole rows, as it does in the older operator.
fn select(cx: &mut NodeCx<'_, '_>, rows: bool) -> Result<()> {
    let (mut c, a, b) = (cx.input(0)?, cx.real(1, Order::Plain)?, cx.real(2, Order::Plain)?);
    let (from, to) = (cx.rank(c)?, cx.rank(a)?);
    if rows && from == 1 && to > 1 {
        let axes: Vec<i64> = (1..to as i64).collect();
        let axes = cx.ints_constant(&axes)?;
        c = cx.op(Unsqueeze {}, &[c, axes])?;
    }
    let y = cx.op(Where {}, &[c, a, b])?;
    cx.set_real(0, y, Order::Plain)
}
