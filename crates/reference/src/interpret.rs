use crate::{EvalError, EvalLimits, eval::eval_counted};
use std::cell::Cell;
use tensormill_ir::{Graph, ValueId};
use tensormill_tensor::Value;

/// Runs a graph node by node; returns its outputs in order.
///
/// # Errors
/// [`EvalError::Operand`] for a wrong number of inputs, [`EvalError::Node`] naming the node that fails.
pub fn interpret(g: &Graph, inputs: &[Value], limits: &EvalLimits<'_>) -> Result<Vec<Value>, EvalError> {
    let wanted: Vec<ValueId> = g.outputs().iter().map(|o| o.value).collect();
    interpret_values(g, inputs, &wanted, limits)
}

/// Runs a graph node by node; returns the values asked for.
///
/// # Errors
/// As [`interpret`].
pub fn interpret_values(
    g: &Graph,
    inputs: &[Value],
    wanted: &[ValueId],
    limits: &EvalLimits<'_>,
) -> Result<Vec<Value>, EvalError> {
    run_graph(g, inputs, wanted, limits, &Cell::new(limits.max_trips))
}

/// As [`interpret_values`], within a call that may still use `trips` iterations.
pub(crate) fn run_graph(
    g: &Graph,
    inputs: &[Value],
    wanted: &[ValueId],
    limits: &EvalLimits<'_>,
    trips: &Cell<u64>,
) -> Result<Vec<Value>, EvalError> {
    if inputs.len() != g.inputs().len() {
        let what = format!(
            "graph \"{}\" takes {} inputs, got {}",
            g.name().escape_debug(),
            g.inputs().len(),
            inputs.len()
        );
        return Err(EvalError::Operand(what));
    }
    let mut values: Vec<Option<Value>> = vec![None; g.value_capacity()];
    let mut uses = vec![0usize; g.value_capacity()];
    for (id, v) in g.values() {
        uses[id.index()] = v.users().len();
    }
    for v in wanted {
        uses[v.index()] += 1;
    }
    for (&id, v) in g.inputs().iter().zip(inputs) {
        values[id.index()] = Some(v.clone());
    }
    for id in g.order() {
        let node = g.node(id);
        let results = {
            let operands: Vec<Option<&Value>> =
                node.inputs.iter().map(|v| v.and_then(|v| values[v.index()].as_ref())).collect();
            eval_counted(&node.op, &operands, limits, trips).map_err(|e| match e {
                EvalError::Cancelled => e,
                e => EvalError::Node {
                    node: node.origin.as_deref().map(str::to_owned),
                    op: node.op.name(),
                    source: Box::new(e),
                },
            })?
        };
        // Values die with their last use, so that memory is that of the widest point.
        for v in node.inputs.iter().flatten() {
            uses[v.index()] -= 1;
            if uses[v.index()] == 0 {
                values[v.index()] = None;
            }
        }
        for (&v, r) in node.outputs.iter().zip(results) {
            values[v.index()] = Some(r);
        }
    }
    wanted
        .iter()
        .map(|v| {
            values[v.index()].clone().ok_or_else(|| EvalError::Operand("an output was not computed".into()))
        })
        .collect()
}
