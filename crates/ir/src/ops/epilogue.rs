use super::{BinaryKind, UnaryKind};
use crate::{
    attr::{Attr, AttrMap, AttrValue, F32},
    error::InferError,
    infer::{InferCx, broadcast, refuse},
    types::TensorType,
};

/// One step applied to a result while its tile is hot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PostOp {
    /// A function of the element.
    Unary(UnaryKind),
    /// A function of the element and a further operand of the node, which broadcasts to the result's shape.
    Binary {
        /// The function.
        kind: BinaryKind,
        /// Which operand of the node.
        operand: usize,
        /// Whether the operand comes first: `f(operand, element)`.
        swapped: bool,
    },
}

/// The steps applied to the result of a convolution or a matrix product, in order. Each must keep the
/// result's type and shape.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct PostOps(pub Vec<PostOp>);

impl PostOps {
    /// Whether there are no steps.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Checks the steps of an op with `own` operands of its own against its result's type.
    pub fn check(&self, cx: &InferCx<'_>, own: usize, result: &TensorType) -> Result<(), InferError> {
        let operands = self.0.iter().filter(|p| matches!(p, PostOp::Binary { .. })).count();
        if operands == 0 && cx.len() > own {
            return refuse(format!("takes at most {own} operands, got {}", cx.len()));
        }
        for step in &self.0 {
            match *step {
                PostOp::Unary(kind) => {
                    if kind.result_dtype(result.dtype) != Some(result.dtype) {
                        return refuse(format!("`{}` does not keep {}", kind.name(), result.dtype));
                    }
                }
                PostOp::Binary { kind, operand, .. } => {
                    if operand < own {
                        return refuse(format!("operand {operand} is the op's own, not its epilogue's"));
                    }
                    let b = cx.tensor(operand)?;
                    if kind.result_dtype(result.dtype, b.dtype) != Some(result.dtype) {
                        return refuse(format!(
                            "`{}` with {} does not keep {}",
                            kind.word(),
                            b.dtype,
                            result.dtype
                        ));
                    }
                    let dims = broadcast(result.dims.as_ref(), b.dims.as_ref())?;
                    if let (Some(d), Some(r)) = (dims, &result.dims)
                        && (d.len() != r.len()
                            || d.iter()
                                .zip(r)
                                .any(|(d, r)| d.known().zip(r.known()).is_some_and(|(d, r)| d != r)))
                    {
                        return refuse(format!("operand {operand} does not broadcast to the result's shape"));
                    }
                }
            }
        }
        Ok(())
    }
}

impl AttrValue for PostOps {
    fn to_attr(&self) -> Attr {
        Attr::List(
            self.0
                .iter()
                .map(|p| match p {
                    PostOp::Unary(kind) => {
                        let params = kind.params();
                        if params.is_empty() {
                            Attr::Word(kind.name().into())
                        } else {
                            Attr::Call(
                                kind.name().into(),
                                params.into_iter().map(|(_, v)| v.to_attr()).collect(),
                            )
                        }
                    }
                    PostOp::Binary { kind, operand, swapped } => {
                        let mut args = vec![operand.to_attr()];
                        if *swapped {
                            args.push(Attr::Word("swapped".into()));
                        }
                        Attr::Call(kind.word().into(), args)
                    }
                })
                .collect(),
        )
    }

    fn from_attr(a: Attr) -> Result<Self, String> {
        let Attr::List(items) = a else { return Err("expected a list of steps".into()) };
        items.into_iter().map(step).collect::<Result<_, _>>().map(PostOps)
    }
}

fn step(a: Attr) -> Result<PostOp, String> {
    let (name, args) = match a {
        Attr::Word(w) => (w, vec![]),
        Attr::Call(w, args) => (w, args),
        other => return Err(format!("expected a step, got {other:?}")),
    };
    if let Some(kind) = BinaryKind::from_word(&name) {
        let mut args = args.into_iter();
        let operand = args.next().map(usize::from_attr).ok_or("a binary step names its operand")??;
        let swapped = match args.next() {
            None => false,
            Some(Attr::Word(w)) if w == "swapped" => true,
            Some(other) => return Err(format!("expected `swapped`, got {other:?}")),
        };
        return Ok(PostOp::Binary { kind, operand, swapped });
    }
    // Parameters are positional here; a first parse with every name tells which there are.
    let names = ["alpha", "beta", "gamma", "min", "max", "lambd", "bias", "negative", "positive"];
    let zeros = names.iter().map(|n| (n.to_string(), F32(0.0).to_attr())).collect();
    let shape = UnaryKind::from_name(&name, &mut AttrMap(zeros))
        .ok_or_else(|| format!("unknown step `{name}`"))??;
    if shape.params().len() != args.len() {
        return Err(format!("step `{name}` has {} parameters", shape.params().len()));
    }
    let named = shape.params().iter().map(|(n, _)| n.to_string()).zip(args).collect();
    let kind =
        UnaryKind::from_name(&name, &mut AttrMap(named)).ok_or("unreachable: the name was known")??;
    Ok(PostOp::Unary(kind))
}
