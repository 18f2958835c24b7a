//! Branches and loops: what bodies capture, they see by its name around them.

use super::{
    error::{Result, refuse},
    node::NodeCx,
};
use tensormill_ir::ops::{If, Loop, Scan};

/// The names of operands from this place on.
fn rest(cx: &mut NodeCx<'_, '_, '_>, from: usize) -> Vec<String> {
    (from..cx.node.inputs.len()).map(|i| cx.input(i)).collect()
}

pub(super) fn branch(cx: &mut NodeCx<'_, '_, '_>, op: &If) -> Result<()> {
    let (condition, outputs) = (cx.input(0), cx.outputs());
    let captured = rest(cx, 1);
    let Some((first, second)) = captured.split_at_checked(op.then_inputs) else {
        return refuse("captures less than its first body takes");
    };
    let (then_branch, else_branch) = (cx.body(&op.then_branch, first)?, cx.body(&op.else_branch, second)?);
    let made = cx.add("If", vec![condition], outputs).graph("then_branch", then_branch);
    made.graph("else_branch", else_branch);
    Ok(())
}

pub(super) fn repeat(cx: &mut NodeCx<'_, '_, '_>, op: &Loop) -> Result<()> {
    let (mut inputs, outputs) = (vec![cx.input(0), cx.input(1)], cx.outputs());
    inputs.extend((2..2 + op.carried).map(|i| cx.input(i)));
    let captured = rest(cx, 2 + op.carried);
    let body = cx.body(&op.body, &captured)?;
    cx.add("Loop", inputs, outputs).graph("body", body);
    Ok(())
}

pub(super) fn scan(cx: &mut NodeCx<'_, '_, '_>, op: &Scan) -> Result<()> {
    let scanned = op.input_axes.len();
    let outputs = cx.outputs();
    let inputs: Vec<String> = (0..op.carried + scanned).map(|i| cx.input(i)).collect();
    let captured = rest(cx, op.carried + scanned);
    let body = cx.body(&op.body, &captured)?;
    let directions = |v: &[bool]| v.iter().map(|r| i64::from(*r)).collect::<Vec<_>>();
    let mut made = cx.add("Scan", inputs, outputs).graph("body", body).size("num_scan_inputs", scanned);
    made = made.ints("scan_input_axes", &op.input_axes);
    made = made.ints("scan_input_directions", &directions(&op.input_reverse));
    if !op.output_axes.is_empty() {
        made = made.ints("scan_output_axes", &op.output_axes);
        made.ints("scan_output_directions", &directions(&op.output_reverse));
    }
    Ok(())
}
