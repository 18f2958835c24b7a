use super::range::Affine;
use std::collections::BTreeMap;
use tensormill_ir::{
    Graph, GraphBuilder, IrError, NodeId, Op, ValueId,
    ops::{DequantizeLinear, QuantizeLinear},
};
use tensormill_tensor::{DType, Tensor};

/// A graph built again node by node, so that some come out otherwise.
pub(super) struct Rebuild<'g> {
    pub(super) old: &'g Graph,
    pub(super) b: GraphBuilder,
    /// By value of the old graph, what its readers read in the new one.
    new: Vec<Option<ValueId>>,
    /// Constants of scale and zero point, by whose they are.
    parameters: BTreeMap<ValueId, (ValueId, ValueId)>,
}

impl<'g> Rebuild<'g> {
    /// A graph with the inputs of the old one.
    pub(super) fn new(old: &'g Graph) -> Result<Self, IrError> {
        let mut b = GraphBuilder::new(old.name());
        let mut new = vec![None; old.value_capacity()];
        for &v in old.inputs() {
            let info = old.value(v);
            new[v.index()] = Some(match &info.name {
                Some(name) => b.input(name, info.ty.clone())?,
                None => b.unnamed_input(info.ty.clone()),
            });
        }
        Ok(Rebuild { old, b, new, parameters: BTreeMap::new() })
    }

    /// What readers of an old value read.
    pub(super) fn get(&self, v: ValueId) -> Result<ValueId, IrError> {
        self.new[v.index()].ok_or_else(|| IrError::Verify("an operand comes after its reader".into()))
    }

    /// The operands of an old node.
    pub(super) fn operands(&self, id: NodeId) -> Result<Vec<Option<ValueId>>, IrError> {
        self.old.node(id).inputs.iter().map(|v| v.map(|v| self.get(v)).transpose()).collect()
    }

    /// The source name of an old node for those that follow.
    pub(super) fn at(&mut self, id: NodeId) {
        self.b.set_origin(self.old.node(id).origin.as_deref());
    }

    /// A node as it was.
    pub(super) fn copy(&mut self, id: NodeId) -> Result<(), IrError> {
        let operands = self.operands(id)?;
        self.node(id, self.old.node(id).op.clone(), &operands)
    }

    /// A node with the results of an old one.
    pub(super) fn node(&mut self, id: NodeId, op: Op, operands: &[Option<ValueId>]) -> Result<(), IrError> {
        self.at(id);
        let outputs = self.b.node(op, operands)?;
        for (&old, new) in self.old.node(id).outputs.iter().zip(outputs) {
            self.put(old, new)?;
        }
        Ok(())
    }

    /// A value in place of an old one.
    pub(super) fn put(&mut self, old: ValueId, new: ValueId) -> Result<(), IrError> {
        self.b.refine(new, self.old.ty(old))?;
        self.new[old.index()] = Some(new);
        Ok(())
    }

    /// Names values and outputs as the old graph does, and leaves out what nobody reads.
    pub(super) fn finish(mut self) -> Result<(Graph, Vec<Option<ValueId>>), IrError> {
        self.name()?;
        for o in self.old.outputs() {
            let v = self.get(o.value)?;
            self.b.output(&o.name, v)?;
        }
        let mut g = self.b.finish()?;
        g.remove_dead();
        for v in &mut self.new {
            *v = v.filter(|v| g.get_value(*v).is_some());
        }
        Ok((g, self.new))
    }

    /// The graph with these outputs in place of its own.
    pub(super) fn finish_with(
        mut self,
        outputs: impl Iterator<Item = (String, ValueId)>,
    ) -> Result<Graph, IrError> {
        self.name()?;
        for (name, v) in outputs {
            self.b.output(&name, v)?;
        }
        let mut g = self.b.finish()?;
        g.remove_dead();
        Ok(g)
    }

    fn name(&mut self) -> Result<(), IrError> {
        for (v, info) in self.old.values() {
            if let (Some(name), Some(new)) = (&info.name, self.new[v.index()])
                && self.b.graph().value(new).name.is_none()
                && self.b.graph().value_by_name(name).is_none()
            {
                self.b.name(new, name)?;
            }
        }
        Ok(())
    }

    /// A constant that belongs to an old value, named after it where that name is free.
    pub(super) fn constant(&mut self, of: ValueId, suffix: &str, t: Tensor) -> Result<ValueId, IrError> {
        let c = self.b.constant(t)?;
        if let Some(name) = &self.old.value(of).name {
            let name = format!("{name}_{suffix}");
            if self.old.value_by_name(&name).is_none() && self.b.graph().value_by_name(&name).is_none() {
                self.b.name(c, &name)?;
            }
        }
        Ok(c)
    }

    /// Puts a value's integers and back between it and its readers. Values of one `source` share the constants.
    pub(super) fn through_integers(&mut self, v: ValueId, source: ValueId, a: Affine) -> Result<(), IrError> {
        let x = self.get(v)?;
        self.b.set_origin(None);
        let (scale, zero) = match self.parameters.get(&source) {
            Some(p) => *p,
            None => {
                let scale = self.constant(source, "scale", Tensor::scalar(a.scale))?;
                let zero =
                    Tensor::from_i64s(a.dtype, [], [a.zero]).map_err(|e| IrError::Verify(e.to_string()))?;
                let zero = self.constant(source, "zero_point", zero)?;
                self.parameters.insert(source, (scale, zero));
                (scale, zero)
            }
        };
        let op = QuantizeLinear { to: a.dtype, ..Default::default() };
        let q = self.b.op(op, &[x, scale, zero])?;
        let back = self.b.op(DequantizeLinear::default(), &[q, scale, zero])?;
        self.put(v, back)
    }

    /// Stored integers as floats again.
    pub(super) fn dequantized(
        &mut self,
        of: ValueId,
        ints: Tensor,
        scale: Tensor,
        zero: Option<Tensor>,
        axis: usize,
        block: usize,
    ) -> Result<ValueId, IrError> {
        self.b.set_origin(None);
        let q = self.constant(of, "quantized", ints)?;
        let s = self.constant(of, "scale", scale)?;
        let z = zero.map(|z| self.constant(of, "zero_point", z)).transpose()?;
        let op = DequantizeLinear { to: DType::F32, axis: axis as i64, block_size: block };
        Ok(self.b.node(op, &[Some(q), Some(s), z])?[0])
    }
}
