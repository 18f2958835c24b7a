//! Sequences and optionals.

use super::{LowerError, NodeCx, Table};
use tensormill_ir::{
    Type,
    ops::{
        ConcatFromSequence, OptionalGetElement, OptionalHasElement, OptionalOf, SequenceAt,
        SequenceConstruct, SequenceEmpty, SequenceErase, SequenceInsert, SequenceLength, SplitToSequence,
    },
};
use tensormill_tensor::{DType, Tensor};

type Result<T> = std::result::Result<T, LowerError>;

pub(super) const TABLE: Table = &[
    ("SequenceConstruct", construct),
    ("SequenceEmpty", empty),
    ("SequenceInsert", insert),
    ("SequenceErase", erase),
    ("SequenceAt", at),
    ("SequenceLength", length),
    ("SplitToSequence", split),
    ("ConcatFromSequence", concat),
    ("Optional", optional),
    ("OptionalHasElement", has_element),
    ("OptionalGetElement", get_element),
];

fn construct(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let all = cx.all()?;
    let y = cx.op(SequenceConstruct {}, &all)?;
    cx.set(0, y);
    Ok(())
}

fn empty(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let dtype = cx.dtype_attribute("dtype")?.unwrap_or(DType::F32);
    let y = cx.op(SequenceEmpty { dtype }, &[])?;
    cx.set(0, y);
    Ok(())
}

fn insert(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let inputs = [Some(cx.input(0)?), Some(cx.input(1)?), cx.opt(2)];
    let y = cx.node(SequenceInsert {}, &inputs)?[0];
    cx.set(0, y);
    Ok(())
}

fn erase(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let inputs = [Some(cx.input(0)?), cx.opt(1)];
    let y = cx.node(SequenceErase {}, &inputs)?[0];
    cx.set(0, y);
    Ok(())
}

fn at(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let inputs = [cx.input(0)?, cx.input(1)?];
    let y = cx.op(SequenceAt {}, &inputs)?;
    cx.set(0, y);
    Ok(())
}

fn length(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let y = cx.op(SequenceLength {}, &[x])?;
    cx.set(0, y);
    Ok(())
}

fn split(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let inputs = [Some(cx.input(0)?), cx.opt(1)];
    let op = SplitToSequence { axis: cx.int("axis", 0)?, keepdims: cx.flag("keepdims", true)? };
    let y = cx.node(op, &inputs)?[0];
    cx.set(0, y);
    Ok(())
}

fn concat(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let Some(axis) = cx.opt_int("axis")? else { return cx.bad("axis", "is missing") };
    let y = cx.op(ConcatFromSequence { axis, new_axis: cx.flag("new_axis", false)? }, &[x])?;
    cx.set(0, y);
    Ok(())
}

fn optional(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.opt(0);
    let of = cx.type_attribute("type")?.filter(|_| x.is_none());
    let y = cx.node(OptionalOf { of }, &[x])?[0];
    cx.set(0, y);
    Ok(())
}

fn has_element(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let fixed = |b: bool| Tensor::from_bools([], vec![b]).map_err(|e| LowerError::Operand(e.to_string()));
    let y = match cx.opt(0).map(|v| (v, cx.ty(v))) {
        None => cx.constant(fixed(false)?)?,
        Some((v, Type::Optional(_))) => cx.op(OptionalHasElement {}, &[v])?,
        Some(_) => cx.constant(fixed(true)?)?,
    };
    cx.set(0, y);
    Ok(())
}

fn get_element(cx: &mut NodeCx<'_, '_>) -> Result<()> {
    let x = cx.input(0)?;
    let y = if matches!(cx.ty(x), Type::Optional(_)) { cx.op(OptionalGetElement {}, &[x])? } else { x };
    cx.set(0, y);
    Ok(())
}
