//! Which nodes run with the channels innermost, and how values come to lie so.
//!
//! A convolution that gains from it asks for it; what can follow without moving elements does, and
//! everything else gets its operands back in plain order. A value is brought into another order at most
//! once.

use super::{Binder, Operands, Running};
use crate::native::{Known, Native, Prep};
use crate::order::{self, Order, either, padded};
use crate::place::{Class, Kind};
use crate::shape;
use smallvec::SmallVec;
use tensormill_backend::NodeReport;
use tensormill_ir::{
    Node, NodeId, ValueId,
    ops::{Op, QuantizedConv, ReduceKind},
};
use tensormill_tensor::{DType, Shape};

/// How an operand is handed to a kernel.
pub(super) struct Wanted {
    pub order: Order,
    /// The shape that the kernel is told.
    pub shape: Shape,
}

/// What a node becomes: parts of operands, in elements, or a kernel.
enum Made {
    Parts(SmallVec<[(usize, usize); 1]>),
    Kernel(Native),
}

impl Binder<'_> {
    /// Lets the node run with its channels last, if it gains from that or its operand lies so.
    pub(super) fn channels_last(&mut self, id: NodeId, node: &Node, ins: &[Option<ValueId>]) -> bool {
        let Some((op, wanted)) = self.form(node, ins) else { return false };
        let Some(made) = self.made(id, node, ins, &op, &wanted) else { return false };
        let operands: Operands = ins
            .iter()
            .zip(&wanted)
            .map(|(v, w)| v.zip(w.as_ref()).map(|(v, w)| self.in_order(id, v, w.order)))
            .collect();
        let order = match node.op {
            Op::Transpose(_) | Op::Reduce(_) => Order::Plain,
            _ => Order::ChannelsLast,
        };
        match made {
            Made::Kernel(native) => self.runs(id, native, operands, order),
            Made::Parts(places) => {
                for (v, (operand, at)) in node.outputs.iter().zip(places) {
                    let Some(of) = operands.get(operand).copied().flatten() else { continue };
                    let size = self.ty(*v).and_then(|t| t.0.size()).unwrap_or(0);
                    let bytes = self.bytes(*v);
                    self.classes.alias(*v, of, at * size, bytes);
                }
                self.tell(node, "alias", "the elements stay where they are", false);
            }
        }
        for v in &node.outputs {
            let plain = self.ty(*v).is_none_or(|t| either(&t.1));
            self.orders[v.index()] = if plain { Order::Plain } else { order };
        }
        true
    }

    /// Prepares the op for operands in the orders that it wants, whatever they lie in now.
    fn made(
        &self,
        id: NodeId,
        node: &Node,
        ins: &[Option<ValueId>],
        op: &Op,
        wanted: &[Option<Wanted>],
    ) -> Option<Made> {
        let known: SmallVec<[Option<Known<'_>>; 4]> = ins
            .iter()
            .zip(wanted)
            .map(|(v, w)| {
                let (v, w) = ((*v)?, w.as_ref()?);
                let (dtype, shape) = self.ty(v)?;
                let same = self.orders[v.index()] == w.order || either(shape);
                let known = self.constant_of.get(&v).map(|&i| &self.constants[i]);
                Some(Known {
                    dtype: *dtype,
                    shape: &w.shape,
                    constant: self.shared.constants.get(&v).filter(|_| same),
                    known: known.filter(|_| same),
                    strides: None,
                    order: w.order,
                })
            })
            .collect();
        let moved = in_memory(&node.op);
        let outs: SmallVec<[(DType, Shape); 1]> = node
            .outputs
            .iter()
            .map(|v| {
                let (dtype, shape) = self.ty(*v)?;
                let keeps = !moved || matches!(node.op, Op::Transpose(_));
                Some((*dtype, if keeps { shape.clone() } else { order::channels_last(shape) }))
            })
            .collect::<Option<_>>()?;
        if moved && let Some(places) = shape::alias(op, &known, &outs) {
            return Some(Made::Parts(places));
        }
        let prep = Prep {
            op,
            ins: &known,
            outs: &outs,
            pool: &self.shared.pool,
            weights: &self.shared.weights,
            beside: &[],
            node: Some(id.index()),
            fewer_multiplications: self.shared.options.fewer_multiplications,
            tuner: self.shared.tuner.as_ref(),
        };
        let made = match op {
            Op::Conv(c) => crate::conv::conv_channels_last(&prep, c),
            Op::QuantizedConv(c) => crate::quantize::conv_channels_last(&prep, c),
            Op::ConvInteger(c) => crate::quantize::conv_integer_channels_last(&prep, c),
            Op::MaxPool(o) => crate::pool::max_pool_channels_last(&prep, o),
            Op::AveragePool(o) => crate::pool::average_pool_channels_last(&prep, o),
            Op::Resize(o) => crate::resize::resize_channels_last(&prep, o),
            Op::Reduce(o) => crate::reduce::mean_of_pixels(&prep, o),
            _ => crate::native::prepare(&prep),
        };
        made.ok().map(Made::Kernel)
    }

    /// The op to prepare, and what it wants of its operands; `None` where plain order is as good.
    pub(super) fn form(&self, node: &Node, ins: &[Option<ValueId>]) -> Option<(Op, Vec<Option<Wanted>>)> {
        let x = ins.first().copied().flatten()?;
        let out = self.ty(node.output())?;
        let is_last = |v: ValueId| self.orders[v.index()] == Order::ChannelsLast;
        let plain = |v: &Option<ValueId>| -> Option<Option<Wanted>> {
            let Some(v) = v else { return Some(None) };
            Some(Some(Wanted { order: Order::Plain, shape: self.ty(*v)?.1.clone() }))
        };
        // Operands that memory's shapes are told of; those before them are told as they are.
        let broadcast = |v: &Option<ValueId>, rank: usize| -> Option<Option<Wanted>> {
            let Some(v) = v else { return Some(None) };
            let shape = &self.ty(*v)?.1;
            let full = padded(shape, rank);
            if full.len() != rank {
                return None;
            }
            // Another order is a matter of whole values, not of what broadcasting adds to them.
            let order = match () {
                () if either(&full) => self.orders[v.index()],
                () if shape.len() == rank => Order::ChannelsLast,
                () => return None,
            };
            Some(Some(Wanted { order, shape: order::channels_last(&full) }))
        };
        let rank = out.1.rank();
        let image = |v: ValueId| {
            self.ty(v).is_some_and(|(d, s)| *d == DType::F32 && matches!(s.rank(), 3 | 4) && !s.contains(&0))
        };
        let bytes = |v: ValueId| {
            let byte = |d: DType| matches!(d, DType::U8 | DType::I8);
            self.ty(v).is_some_and(|(d, s)| byte(*d) && matches!(s.rank(), 3 | 4) && !s.contains(&0))
        };
        match &node.op {
            // Bytes have no kernels in plain order: what comes from elsewhere is brought into this one.
            Op::QuantizedConv(c) if bytes(x) => {
                let few = self.ty(x)?.1[1] <= 4 && c.group == 1 && !is_last(x);
                let order = if few { Order::Plain } else { Order::ChannelsLast };
                let mut wanted = vec![Some(Wanted { order, shape: self.ty(x)?.1.clone() })];
                for v in &ins[1..ins.len().min(QuantizedConv::OWN)] {
                    wanted.push(plain(v)?);
                }
                for v in ins.iter().skip(QuantizedConv::OWN) {
                    wanted.push(broadcast(v, rank)?);
                }
                Some((node.op.clone(), wanted))
            }
            Op::ConvInteger(c) if bytes(x) => {
                let few = self.ty(x)?.1[1] <= 4 && c.group == 1 && !is_last(x);
                let order = if few { Order::Plain } else { Order::ChannelsLast };
                let mut wanted = vec![Some(Wanted { order, shape: self.ty(x)?.1.clone() })];
                for v in &ins[1..] {
                    wanted.push(plain(v)?);
                }
                Some((node.op.clone(), wanted))
            }
            Op::ByteTable(_) if bytes(x) && is_last(x) => {
                let own = Wanted { order: Order::ChannelsLast, shape: self.ty(x)?.1.clone() };
                Some((node.op.clone(), vec![Some(own), plain(ins.get(1)?)?]))
            }
            // Bytes lie as the numbers do; their scale and zero point are single numbers.
            Op::DynamicQuantize(_) if is_last(x) && image(x) => {
                let own = Wanted { order: Order::ChannelsLast, shape: self.ty(x)?.1.clone() };
                Some((node.op.clone(), vec![Some(own)]))
            }
            Op::MaxPool(_) if bytes(x) => {
                let own = Wanted { order: Order::ChannelsLast, shape: self.ty(x)?.1.clone() };
                Some((node.op.clone(), vec![Some(own)]))
            }
            Op::Conv(c) if image(x) && out.0 == DType::F32 => {
                let channels = self.ty(x)?.1[1];
                let few = channels <= 4 && c.group == 1 && !is_last(x);
                let own = Wanted {
                    order: if few { Order::Plain } else { Order::ChannelsLast },
                    shape: self.ty(x)?.1.clone(),
                };
                if !is_last(x) && out.1[1] < 16 {
                    return None;
                }
                let mut wanted = vec![Some(own)];
                for v in &ins[1..ins.len().min(3)] {
                    wanted.push(plain(v)?);
                }
                for v in ins.iter().skip(3) {
                    wanted.push(broadcast(v, rank)?);
                }
                Some((node.op.clone(), wanted))
            }
            Op::MaxPool(_) | Op::AveragePool(_) | Op::Resize(_) if is_last(x) && image(x) => {
                let own = Wanted { order: Order::ChannelsLast, shape: self.ty(x)?.1.clone() };
                let rest: Option<Vec<_>> = ins[1..].iter().map(plain).collect();
                Some((node.op.clone(), std::iter::once(Some(own)).chain(rest?).collect()))
            }
            Op::Reduce(r) if is_last(x) && image(x) && r.kind == ReduceKind::Mean => {
                let own = Wanted { order: Order::ChannelsLast, shape: self.ty(x)?.1.clone() };
                let rest: Option<Vec<_>> = ins[1..].iter().map(plain).collect();
                Some((node.op.clone(), std::iter::once(Some(own)).chain(rest?).collect()))
            }
            Op::Transpose(t) if is_last(x) => {
                let shape = &self.ty(x)?.1;
                let op = order::transposition(&shape::permutation(t, shape.rank()))?;
                let own = Wanted { order: Order::ChannelsLast, shape: order::channels_last(shape) };
                Some((Op::Transpose(op), vec![Some(own)]))
            }
            Op::Split(_) if is_last(x) => {
                let op = order::in_memory(&node.op, self.ty(x)?.1.rank())?;
                let own = Wanted { order: Order::ChannelsLast, shape: order::channels_last(&self.ty(x)?.1) };
                let rest: Option<Vec<_>> = ins[1..].iter().map(plain).collect();
                Some((op, std::iter::once(Some(own)).chain(rest?).collect()))
            }
            _ if in_memory(&node.op) => {
                let leads = |v: &ValueId| is_last(*v) && self.ty(*v).is_some_and(|t| t.1.rank() == rank);
                if !ins.iter().flatten().any(leads) {
                    return None;
                }
                let op = order::in_memory(&node.op, rank)?;
                let wanted: Option<Vec<_>> = ins.iter().map(|v| broadcast(v, rank)).collect();
                Some((op, wanted?))
            }
            _ => None,
        }
    }

    /// The value in this order: itself, or a copy that a step makes when it is first asked for.
    pub(super) fn in_order(&mut self, for_node: NodeId, v: ValueId, order: Order) -> ValueId {
        let Some((dtype, shape)) = self.ty(v).cloned() else { return v };
        if self.orders[v.index()] == order || either(&shape) {
            return v;
        }
        if let Some(&c) = self.converted.get(&v) {
            return c;
        }
        let Some(c) = ValueId::at(self.types.len()) else { return v };
        let Some(native) = crate::convert::convert(dtype, &shape, order) else { return v };
        self.report.nodes.push(NodeReport {
            node: None,
            op: "convert",
            backend: "cpu",
            kernel: native.name.into(),
            reason: "the next node wants its operand in this order".into(),
            fallback: false,
        });
        let bytes = self.bytes(v);
        self.types.push(Some((dtype, shape)));
        self.facts.push(None);
        self.orders.push(order);
        self.classes.add(c, Class::new(Kind::Step, bytes));
        self.running.push(Running {
            node: self.shared.graph.producer(v).map_or(for_node, |p| p.0),
            native: Some(native),
            native_later: false,
            ins: SmallVec::from_elem(Some(v), 1),
            outs: SmallVec::from_elem(c, 1),
            order,
            converts: true,
            told: self.report.nodes.len().saturating_sub(1),
        });
        self.converted.insert(v, c);
        c
    }

    /// A value as a caller sees it: in plain order.
    pub(super) fn given_out(&mut self, v: ValueId) -> ValueId {
        match self.shared.order.last() {
            Some(&any) => self.in_order(any, v, Order::Plain),
            None => v,
        }
    }
}

/// Whether kernels are told the shapes that memory has.
fn in_memory(op: &Op) -> bool {
    matches!(op, Op::Transpose(_)) || order::in_memory(op, 4).is_some()
}
