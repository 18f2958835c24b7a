use crate::dim::{Bindings, Dim, Expr};
use smallvec::SmallVec;
use std::fmt;
use tensormill_tensor::{DType, Shape, Tensor, Value};

/// The dims of a tensor type.
pub type Dims = SmallVec<[Dim; 4]>;

/// What is known of a tensor: its element type always, its rank and sizes perhaps.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// The element type.
    pub dtype: DType,
    /// The dims; `None` while even the rank is unknown.
    pub dims: Option<Dims>,
}

impl TensorType {
    /// A type of known rank.
    pub fn new(dtype: DType, dims: impl IntoIterator<Item = Dim>) -> Self {
        TensorType { dtype, dims: Some(dims.into_iter().collect()) }
    }

    /// A type of unknown rank.
    pub fn unranked(dtype: DType) -> Self {
        TensorType { dtype, dims: None }
    }

    /// The type of a given tensor.
    pub fn of(t: &Tensor) -> Self {
        TensorType::new(t.dtype(), t.shape().iter().map(|&d| Dim::Known(d)))
    }

    /// Number of axes, if known.
    pub fn rank(&self) -> Option<usize> {
        self.dims.as_ref().map(|d| d.len())
    }

    /// The shape, if every dim is a number.
    pub fn static_shape(&self) -> Option<Shape> {
        self.dims.as_ref()?.iter().map(Dim::known).collect()
    }

    /// The shape under `bindings`, if that makes every dim a number.
    pub fn bind(&self, bindings: &Bindings) -> Option<Shape> {
        self.dims.as_ref()?.iter().map(|d| d.bind(bindings)).collect()
    }

    /// Number of elements as an expression, if every dim is one.
    pub fn numel(&self) -> Option<Expr> {
        let dims = self.dims.as_ref()?;
        dims.iter().try_fold(Expr::constant(1), |n, d| n.mul(&d.expr()?))
    }
}

/// The type of a value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Type {
    /// A tensor.
    Tensor(TensorType),
    /// A list of values of one type.
    Sequence(Box<Type>),
    /// A value that may be absent.
    Optional(Box<Type>),
}

impl Type {
    /// A tensor type of known rank.
    pub fn tensor(dtype: DType, dims: impl IntoIterator<Item = Dim>) -> Type {
        Type::Tensor(TensorType::new(dtype, dims))
    }

    /// The tensor type, if it is one.
    pub fn as_tensor(&self) -> Option<&TensorType> {
        match self {
            Type::Tensor(t) => Some(t),
            _ => None,
        }
    }

    /// The type of a given value; an empty sequence or optional has no element to tell its type from.
    pub fn of(v: &Value) -> Option<Type> {
        Some(match v {
            Value::Tensor(t) => Type::Tensor(TensorType::of(t)),
            Value::Sequence(s) => {
                let first = Type::of(s.first()?)?;
                Type::Sequence(Box::new(s[1..].iter().try_fold(first, |a, v| a.join(&Type::of(v)?))?))
            }
            Value::Optional(o) => Type::Optional(Box::new(Type::of(o.as_deref()?)?)),
            _ => return None,
        })
    }

    /// The narrowest type that both belong to; `None` when kinds or element types differ.
    pub fn join(&self, other: &Type) -> Option<Type> {
        Some(match (self, other) {
            (Type::Tensor(a), Type::Tensor(b)) if a.dtype == b.dtype => {
                let dims = match (&a.dims, &b.dims) {
                    (Some(x), Some(y)) if x.len() == y.len() => Some(
                        x.iter()
                            .zip(y)
                            .map(|(x, y)| if x.same(y) { x.clone() } else { Dim::Unknown })
                            .collect(),
                    ),
                    _ => None,
                };
                Type::Tensor(TensorType { dtype: a.dtype, dims })
            }
            (Type::Sequence(a), Type::Sequence(b)) => Type::Sequence(Box::new(a.join(b)?)),
            (Type::Optional(a), Type::Optional(b)) => Type::Optional(Box::new(a.join(b)?)),
            _ => return None,
        })
    }

    /// What both types say together; `None` when they contradict each other: kinds, element types,
    /// ranks or numbers differ. Of two sizes it keeps the plainer, in whichever order they come.
    pub fn meet(&self, other: &Type) -> Option<Type> {
        Some(match (self, other) {
            (Type::Tensor(a), Type::Tensor(b)) if a.dtype == b.dtype => {
                let dims = match (&a.dims, &b.dims) {
                    (None, d) | (d, None) => d.clone(),
                    (Some(x), Some(y)) if x.len() == y.len() => Some(
                        x.iter()
                            .zip(y)
                            .map(|(x, y)| match (x, y) {
                                (Dim::Known(m), Dim::Known(n)) if m != n => None,
                                _ => Some(x.plainer(y).clone()),
                            })
                            .collect::<Option<_>>()?,
                    ),
                    _ => return None,
                };
                Type::Tensor(TensorType { dtype: a.dtype, dims })
            }
            (Type::Sequence(a), Type::Sequence(b)) => Type::Sequence(Box::new(a.meet(b)?)),
            (Type::Optional(a), Type::Optional(b)) => Type::Optional(Box::new(a.meet(b)?)),
            _ => return None,
        })
    }
}

impl From<TensorType> for Type {
    fn from(t: TensorType) -> Type {
        Type::Tensor(t)
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        match &self.dims {
            None => f.write_str("..")?,
            Some(dims) => {
                for (i, d) in dims.iter().enumerate() {
                    if i > 0 {
                        f.write_str(",")?;
                    }
                    write!(f, "{d}")?;
                }
            }
        }
        f.write_str("]")
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Tensor(t) => write!(f, "{t}"),
            Type::Sequence(t) => write!(f, "seq({t})"),
            Type::Optional(t) => write!(f, "opt({t})"),
        }
    }
}
