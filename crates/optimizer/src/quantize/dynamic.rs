//! The dynamic scheme: before each product, activations become integers by the range that they have in the
//! run, as ONNX's `DynamicQuantizeLinear` and `MatMulInteger` have it.

use super::{
    options::{QuantError, QuantOptions},
    rebuild::Rebuild,
    report::{NodeEntry, Treatment},
    statistics::Statistics,
    weight_only::finish,
    weighted::{Inputs, Weighted},
    weights::{Format, store},
};
use std::collections::BTreeMap;
use tensormill_ir::{
    Graph, IrError, Op, ValueId,
    ops::{BinaryKind, DynamicQuantize, MatMulInteger},
};
use tensormill_tensor::DType;

/// An activation as integers: u8, their scale, and their zero point.
#[derive(Debug, Clone, Copy)]
struct Dynamic {
    q: ValueId,
    scale: ValueId,
    zero: ValueId,
}

/// The graph with products of integers.
pub(super) fn rewrite(
    g: &Graph,
    o: &QuantOptions,
    stats: &Statistics,
) -> Result<(Graph, Vec<NodeEntry>), QuantError> {
    let mut r = Rebuild::new(g)?;
    let mut entries = vec![];
    let mut activations: BTreeMap<ValueId, Dynamic> = BTreeMap::new();
    for id in g.order() {
        let node = g.node(id);
        let w = match Weighted::at(g, id, o) {
            Some(Ok(w)) if w.inputs == Inputs::Last => Ok(w),
            Some(Ok(_)) if matches!(node.op, Op::Conv(_)) => Err("a convolution has no dynamic form"),
            Some(Ok(_)) => Err("its left factor is transposed"),
            Some(Err(why)) => Err(why),
            None => {
                r.copy(id)?;
                continue;
            }
        };
        let rows = w.and_then(|w| w.rows(g).map(|rows| (w, rows)).ok_or("the weights are no matrix"));
        let treatment = match rows {
            Err(why) => {
                r.copy(id)?;
                Treatment::Float(why)
            }
            Ok((w, rows)) => {
                let x = match activations.get(&w.x) {
                    Some(x) => *x,
                    None => {
                        let x = r.get(w.x)?;
                        r.at(id);
                        let x = dynamic(&mut r, x)?;
                        activations.insert(w.x, x);
                        x
                    }
                };
                let f = Format {
                    dtype: DType::I8,
                    seven_bits: o.seven_bit_weights,
                    group: None,
                    per_tensor: !o.per_channel,
                    search: o.search_weights,
                };
                let moments = stats.moments.get(&w.x).filter(|m| m.size() == rows.len);
                let importance = moments.map(super::Moments::diagonal);
                // The factor of integers lies as the operator takes it: inputs by outputs.
                let s =
                    store(&rows.upright(), f, importance.as_deref(), moments.filter(|_| o.compensate), None)?;
                let q = r.constant(w.weights, "quantized", s.ints)?;
                let scale = r.constant(w.weights, "scale", s.scale)?;
                r.at(id);
                let y = product(&mut r, x, q, scale)?;
                r.put(node.output(), y)?;
                Treatment::Quantized {
                    weights: Some(if o.per_channel { "i8 per channel" } else { "i8 per tensor" }.into()),
                }
            }
        };
        entries.push(NodeEntry::new(g, id, node.output(), treatment));
    }
    finish(r, entries)
}

fn dynamic(r: &mut Rebuild<'_>, x: ValueId) -> Result<Dynamic, IrError> {
    let made = r.b.node(DynamicQuantize {}, &[Some(x)])?;
    Ok(Dynamic { q: made[0], scale: made[1], zero: made[2] })
}

/// The product of integers, and floats again by the product of both scales.
fn product(r: &mut Rebuild<'_>, x: Dynamic, w: ValueId, w_scale: ValueId) -> Result<ValueId, IrError> {
    let b = &mut r.b;
    let y = b.op(MatMulInteger {}, &[x.q, w, x.zero])?;
    let y = b.cast(y, DType::F32)?;
    let scale = b.binary(BinaryKind::Mul, x.scale, w_scale)?;
    b.binary(BinaryKind::Mul, y, scale)
}
