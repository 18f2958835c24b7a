use crate::{
    error::IrError,
    graph::{Def, Graph, Output, ValueId, ValueInfo},
    ops::{Const, Op},
    types::Type,
};
use smallvec::SmallVec;
use std::sync::Arc;
use tensormill_tensor::{DType, Tensor};

/// Builds a [`Graph`] node by node, inferring types on the way.
///
/// ```
/// use tensormill_ir::{Dim, GraphBuilder, Type, ops::UnaryKind};
/// use tensormill_tensor::DType;
/// let mut b = GraphBuilder::new("main");
/// let x = b.input("x", Type::tensor(DType::F32, [Dim::symbol("N"), 3.into()]))?;
/// let y = b.unary(UnaryKind::Relu, x)?;
/// b.output("y", y)?;
/// assert_eq!(b.finish()?.ty(y).to_string(), "f32[N,3]");
/// # Ok::<(), tensormill_ir::IrError>(())
/// ```
#[derive(Debug)]
pub struct GraphBuilder {
    graph: Graph,
    origin: Option<Arc<str>>,
}

impl GraphBuilder {
    /// Starts an empty graph.
    pub fn new(name: &str) -> Self {
        GraphBuilder { graph: Graph::empty(name), origin: None }
    }

    /// The graph so far.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// Sets the source name of the nodes that follow.
    pub fn set_origin(&mut self, origin: Option<&str>) {
        self.origin = origin.filter(|s| !s.is_empty()).map(Into::into);
    }

    /// Adds an input.
    ///
    /// # Errors
    /// [`IrError::Name`] when the name is taken.
    pub fn input(&mut self, name: &str, ty: Type) -> Result<ValueId, IrError> {
        let id = self.unnamed_input(ty);
        self.graph.set_name(id, name)?;
        Ok(id)
    }

    /// Adds an input without a name, as bodies have for what they capture.
    pub fn unnamed_input(&mut self, ty: Type) -> ValueId {
        let def = Def::Input(self.graph.inputs.len());
        let id =
            self.graph.push_value(ValueInfo { ty, name: None, def, elements: None, users: SmallVec::new() });
        self.graph.inputs.push(id);
        id
    }

    /// Adds a node.
    ///
    /// # Errors
    /// [`IrError::Infer`] when the op refuses the operands.
    pub fn node(
        &mut self,
        op: impl Into<Op>,
        inputs: &[Option<ValueId>],
    ) -> Result<SmallVec<[ValueId; 1]>, IrError> {
        let id = self.graph.push_node(op.into(), inputs, self.origin.clone())?;
        Ok(self.graph.node(id).outputs.clone())
    }

    /// Adds a node all of whose operands are given; returns its first output.
    ///
    /// # Errors
    /// As [`GraphBuilder::node`].
    pub fn op(&mut self, op: impl Into<Op>, inputs: &[ValueId]) -> Result<ValueId, IrError> {
        let inputs: SmallVec<[_; 4]> = inputs.iter().copied().map(Some).collect();
        Ok(self.node(op, &inputs)?[0])
    }

    /// Adds a constant.
    ///
    /// # Errors
    /// [`IrError::Verify`] when the graph is full.
    pub fn constant(&mut self, tensor: Tensor) -> Result<ValueId, IrError> {
        Ok(self.node(Const { tensor }, &[])?[0])
    }

    /// Adds a constant vector of i64.
    ///
    /// # Errors
    /// As [`GraphBuilder::constant`].
    pub fn ints(&mut self, v: &[i64]) -> Result<ValueId, IrError> {
        let t = Tensor::from_vec([v.len()], v.to_vec()).expect("one dim of its own length");
        self.constant(t)
    }

    /// Adds a constant scalar of any numeric dtype from an f64.
    ///
    /// # Errors
    /// As [`GraphBuilder::constant`]; [`IrError::Verify`] for dtypes that are no number.
    pub fn scalar(&mut self, dtype: DType, v: f64) -> Result<ValueId, IrError> {
        let t = Tensor::from_f64s(dtype, [], [v]).map_err(|e| IrError::Verify(e.to_string()))?;
        self.constant(t)
    }

    /// Adds a unary elementwise node.
    ///
    /// # Errors
    /// As [`GraphBuilder::node`].
    pub fn unary(&mut self, kind: crate::ops::UnaryKind, x: ValueId) -> Result<ValueId, IrError> {
        self.op(crate::ops::Unary { kind }, &[x])
    }

    /// Adds a binary elementwise node.
    ///
    /// # Errors
    /// As [`GraphBuilder::node`].
    pub fn binary(
        &mut self,
        kind: crate::ops::BinaryKind,
        a: ValueId,
        b: ValueId,
    ) -> Result<ValueId, IrError> {
        self.op(crate::ops::Binary { kind }, &[a, b])
    }

    /// Adds a cast, unless the value has that type already.
    ///
    /// # Errors
    /// As [`GraphBuilder::node`].
    pub fn cast(&mut self, x: ValueId, to: DType) -> Result<ValueId, IrError> {
        if self.graph.ty(x).as_tensor().is_some_and(|t| t.dtype == to) {
            return Ok(x);
        }
        self.op(crate::ops::Cast { to, ..Default::default() }, &[x])
    }

    /// The type of a value.
    pub fn ty(&self, v: ValueId) -> &Type {
        self.graph.ty(v)
    }

    /// Narrows a value's type by what a file declares of it; a contradiction is an error.
    ///
    /// # Errors
    /// [`IrError::Verify`] with both types.
    pub fn refine(&mut self, v: ValueId, declared: &Type) -> Result<(), IrError> {
        let ty = self.graph.ty(v);
        let met = ty.meet(declared).ok_or_else(|| {
            let name = crate::shown(self.graph.value(v).name.as_deref().unwrap_or(""));
            IrError::Verify(format!("value \"{name}\" is declared {declared}, but is {ty}"))
        })?;
        self.graph.value_mut(v).ty = met;
        Ok(())
    }

    /// Names a value.
    ///
    /// # Errors
    /// [`IrError::Name`] when the name is taken.
    pub fn name(&mut self, v: ValueId, name: &str) -> Result<(), IrError> {
        self.graph.set_name(v, name)
    }

    /// Adds an output.
    ///
    /// # Errors
    /// [`IrError::Name`] when an output of that name exists.
    pub fn output(&mut self, name: &str, value: ValueId) -> Result<(), IrError> {
        if self.graph.outputs.iter().any(|o| &*o.name == name) {
            return Err(IrError::Name(format!("two outputs are named \"{}\"", crate::shown(name))));
        }
        self.graph.outputs.push(Output { name: name.into(), value });
        Ok(())
    }

    /// The finished graph.
    ///
    /// # Errors
    /// In debug builds, whatever the verifier finds.
    pub fn finish(self) -> Result<Graph, IrError> {
        if cfg!(debug_assertions) {
            self.graph.verify()?;
        }
        Ok(self.graph)
    }
}
