//! Weights stored in few bits and computed with as floats.

use super::{
    options::{QuantError, QuantOptions, Scheme},
    rebuild::Rebuild,
    report::{NodeEntry, Treatment},
    statistics::Statistics,
    weighted::Weighted,
    weights::{Format, store},
};
use std::collections::BTreeMap;
use tensormill_ir::{Graph, Op, ValueId, ops::Cast};
use tensormill_tensor::{CastOptions, DType};

/// Constants of fewer elements stay as they are: they would save nothing.
const SMALL: usize = 256;

/// The graph with the weights of products stored as integers behind a dequantization.
pub(super) fn integers(
    g: &Graph,
    o: &QuantOptions,
    stats: &Statistics,
) -> Result<(Graph, Vec<NodeEntry>), QuantError> {
    let mut r = Rebuild::new(g)?;
    let mut entries = vec![];
    let mut done: BTreeMap<(ValueId, usize), ValueId> = BTreeMap::new();
    for id in g.order() {
        let node = g.node(id);
        let w = match Weighted::at(g, id, o) {
            Some(Ok(w)) => w,
            other => {
                r.copy(id)?;
                if let Some(Err(why)) = other {
                    entries.push(NodeEntry::new(g, id, node.output(), Treatment::Float(why)));
                }
                continue;
            }
        };
        let (format, how) = match (o.scheme, &node.op) {
            (Scheme::Int4Weights { .. }, Op::Conv(_)) => {
                // Blocks of a convolution's weights would cut through windows; eight bits take a whole channel.
                (eight(o), "i8 per channel")
            }
            (Scheme::Int4Weights { group }, _) => {
                let dtype = if o.zero_points { DType::U4 } else { DType::I4 };
                let f = Format {
                    dtype,
                    seven_bits: false,
                    group: Some(group),
                    per_tensor: false,
                    search: o.search_weights,
                };
                (f, if o.zero_points { "u4 in groups" } else { "i4 in groups" })
            }
            (_, Op::MatMul(_)) if o.group.is_some() && o.per_channel => {
                (Format { group: o.group, ..eight(o) }, "i8 in groups")
            }
            _ => (eight(o), if o.per_channel { "i8 per channel" } else { "i8 per tensor" }),
        };
        let Some(rows) = w.rows(g) else {
            r.copy(id)?;
            continue;
        };
        if rows.data.len() < SMALL {
            r.copy(id)?;
            let why = "its weights are few";
            entries.push(NodeEntry::new(g, id, node.output(), Treatment::Float(why)));
            continue;
        }
        let key = (w.weights, w.axis);
        let back = match done.get(&key) {
            Some(v) => *v,
            None => {
                let moments =
                    stats.moments.get(&w.x).filter(|m| w.is_plain_product() && m.size() == rows.len);
                let importance = moments.map(super::Moments::diagonal);
                let s = store(&rows, format, importance.as_deref(), moments.filter(|_| o.compensate), None)?;
                let v = r.dequantized(w.weights, s.ints, s.scale, s.zero, s.axis, s.block)?;
                done.insert(key, v);
                v
            }
        };
        let mut operands = r.operands(id)?;
        operands[1] = Some(back);
        r.node(id, node.op.clone(), &operands)?;
        let treatment = Treatment::Quantized { weights: Some(how.into()) };
        entries.push(NodeEntry::new(g, id, node.output(), treatment));
    }
    finish(r, entries)
}

fn eight(o: &QuantOptions) -> Format {
    Format {
        dtype: DType::I8,
        seven_bits: false,
        group: None,
        per_tensor: !o.per_channel,
        search: o.search_weights,
    }
}

/// The graph with large f32 constants stored in half the bits behind a cast.
pub(super) fn halves(g: &Graph, o: &QuantOptions, to: DType) -> Result<(Graph, Vec<NodeEntry>), QuantError> {
    let mut r = Rebuild::new(g)?;
    let mut entries = vec![];
    for id in g.order() {
        let node = g.node(id);
        let Op::Const(c) = &node.op else {
            r.copy(id)?;
            continue;
        };
        let v = node.output();
        let t = &c.tensor;
        if t.dtype() != DType::F32 || t.len() < SMALL {
            r.copy(id)?;
            continue;
        }
        let excluded = g.value(v).users().iter().any(|u| o.excludes(g, *u));
        let small = t.cast(to, CastOptions::default())?;
        let finite =
            |t: &tensormill_tensor::Tensor| t.to_f32_vec().is_ok_and(|v| v.iter().all(|v| v.is_finite()));
        let why = match () {
            () if excluded => Some("it was excluded"),
            () if finite(t) && !finite(&small) => Some("a weight is too large"),
            () => None,
        };
        let treatment = match why {
            Some(why) => {
                r.copy(id)?;
                Treatment::Float(why)
            }
            None => {
                let stored = r.constant(v, to.name(), small)?;
                r.b.set_origin(None);
                let wide = r.b.op(Cast { to: DType::F32, ..Default::default() }, &[stored])?;
                r.put(v, wide)?;
                Treatment::Quantized { weights: Some(to.name().into()) }
            }
        };
        entries.push(NodeEntry::new(g, id, v, treatment));
    }
    finish(r, entries)
}

pub(super) fn finish(r: Rebuild<'_>, entries: Vec<NodeEntry>) -> Result<(Graph, Vec<NodeEntry>), QuantError> {
    let (new, map) = r.finish()?;
    Ok((new, entries.into_iter().map(|e| e.mapped(&map)).collect()))
}
