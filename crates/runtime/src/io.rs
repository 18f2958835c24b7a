use crate::{Error, Port, Profile, model::known};
use smallvec::SmallVec;
use std::{borrow::Cow, collections::HashMap, sync::Arc};
use tensormill_ir::{Bindings, Dim, TensorType, Type};
use tensormill_tensor::{Tensor, Value};

/// Names an input or output: by its name or by its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key<'a> {
    /// A name.
    Name(Cow<'a, str>),
    /// A position from 0.
    Index(usize),
}

impl<'a> From<&'a str> for Key<'a> {
    fn from(name: &'a str) -> Self {
        Key::Name(name.into())
    }
}
impl<'a> From<&'a String> for Key<'a> {
    fn from(name: &'a String) -> Self {
        Key::Name(name.as_str().into())
    }
}
impl From<String> for Key<'_> {
    fn from(name: String) -> Self {
        Key::Name(name.into())
    }
}
impl From<usize> for Key<'_> {
    fn from(i: usize) -> Self {
        Key::Index(i)
    }
}

/// What a run is given: one tensor, tensors in the order of the inputs, or pairs of a name (or a
/// position) and a tensor.
///
/// ```
/// use tensormill::{Inputs, Tensor};
/// let t = Tensor::scalar(1.0f32);
/// let one: Inputs = t.clone().into();
/// let in_order: Inputs = [t.clone(), t.clone()].into();
/// let by_name: Inputs = [("a", t.clone()), ("b", t.clone())].into();
/// let by_position: Inputs = vec![(1, t.clone()), (0, t)].into();
/// # let _ = (one, in_order, by_name, by_position);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Inputs<'a>(SmallVec<[(Key<'a>, Value); FEW]>);

/// So many inputs are held without memory of their own.
const FEW: usize = 4;

/// Values in the order of the inputs.
pub(crate) type Values = SmallVec<[Value; FEW]>;

impl From<Tensor> for Inputs<'_> {
    fn from(t: Tensor) -> Self {
        Inputs([(Key::Index(0), t.into())].into_iter().collect())
    }
}

macro_rules! in_order {
    ($t:ty $(, $n:ident)?) => {
        impl<$(const $n: usize)?> From<$t> for Inputs<'_> {
            fn from(values: $t) -> Self {
                Inputs(values.into_iter().enumerate().map(|(i, v)| (Key::Index(i), v.into())).collect())
            }
        }
    };
}
in_order!([Tensor; N], N);
in_order!([Value; N], N);
in_order!(Vec<Tensor>);
in_order!(Vec<Value>);

impl<'a, K: Into<Key<'a>>, V: Into<Value>, const N: usize> From<[(K, V); N]> for Inputs<'a> {
    fn from(values: [(K, V); N]) -> Self {
        values.into_iter().collect()
    }
}

impl<'a, K: Into<Key<'a>>, V: Into<Value>> From<Vec<(K, V)>> for Inputs<'a> {
    fn from(values: Vec<(K, V)>) -> Self {
        values.into_iter().collect()
    }
}

impl<'a, K: Into<Key<'a>>, V: Into<Value>> FromIterator<(K, V)> for Inputs<'a> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(values: I) -> Self {
        Inputs(values.into_iter().map(|(k, v)| (k.into(), v.into())).collect())
    }
}

/// The place that a key means.
fn find(key: &Key<'_>, ports: &[Port], what: &'static str) -> Result<usize, Error> {
    let place = match key {
        Key::Index(i) => (*i < ports.len()).then_some(*i),
        Key::Name(name) => ports.iter().position(|p| p.name == **name),
    };
    place.ok_or_else(|| {
        let asked = match key {
            Key::Index(i) => format!("there is no {what} {i}"),
            Key::Name(n) => {
                format!(
                    "no {what} is named \"{}\"",
                    n.chars().take(80).flat_map(char::escape_debug).collect::<String>()
                )
            }
        };
        Error::Name { what: asked, known: format!("the {what}s are {}", known(ports)) }
    })
}

impl Inputs<'_> {
    /// The values in the order of the inputs, all there, of the right types, their sizes consistent.
    pub(crate) fn arrange(self, ports: &[Port]) -> Result<Values, Error> {
        let mut places: SmallVec<[Option<Value>; FEW]> = SmallVec::from_elem(None, ports.len());
        for (key, value) in self.0 {
            let i = find(&key, ports, "input")?;
            if places[i].replace(value).is_some() {
                let name = tensormill_ir::shown(&ports[i].name);
                return Err(Error::Name {
                    what: format!("input \"{name}\" is given twice"),
                    known: format!("the inputs are {}", known(ports)),
                });
            }
        }
        let mut values = Values::with_capacity(ports.len());
        for (port, value) in ports.iter().zip(places) {
            values.push(value.ok_or_else(|| Error::Name {
                what: format!("input \"{}\" is not given", tensormill_ir::shown(&port.name)),
                known: format!("the inputs are {}", known(ports)),
            })?);
        }
        check(ports, &values)?;
        Ok(values)
    }
}

/// What symbols stand for, and who said so. A few are found without memory of their own.
#[derive(Default)]
struct Sizes<'a> {
    few: SmallVec<[(&'a Arc<str>, (usize, &'a str)); 8]>,
    more: HashMap<&'a Arc<str>, (usize, &'a str)>,
}

impl<'a> Sizes<'a> {
    fn get(&self, symbol: &Arc<str>) -> Option<(usize, &'a str)> {
        let near = self.few.iter().find(|(s, _)| *s == symbol).map(|(_, size)| size);
        near.or_else(|| self.more.get(symbol)).copied()
    }

    fn insert(&mut self, symbol: &'a Arc<str>, size: (usize, &'a str)) {
        if self.few.len() < self.few.inline_size() {
            self.few.push((symbol, size));
        } else {
            self.more.insert(symbol, size);
        }
    }
}

fn check(ports: &[Port], values: &[Value]) -> Result<(), Error> {
    // Which size a symbol stands for, and who said so first.
    let mut sizes = Sizes::default();
    let mut sums = false;
    for (port, value) in ports.iter().zip(values) {
        let refuse =
            |what: String| Err(Error::Input { name: port.name.clone(), expected: port.ty.to_string(), what });
        let (ty, tensor) = match (&port.ty, value) {
            (Type::Tensor(ty), Value::Tensor(t)) => (ty, t),
            (ty, value) => {
                let fits = match value {
                    Value::Tensor(_) => false,
                    v => Type::of(v).is_none_or(|given| ty.meet(&given).is_some()),
                } && matches!(
                    (ty, value),
                    (Type::Sequence(_), Value::Sequence(_)) | (Type::Optional(_), Value::Optional(_))
                );
                if fits {
                    continue;
                }
                return refuse(format!("a {} was given", value.kind()));
            }
        };
        if ty.dtype != tensor.dtype() {
            return refuse(format!(
                "{}{} was given; cast it to {} first",
                tensor.dtype(),
                tensor.shape(),
                ty.dtype
            ));
        }
        let Some(dims) = &ty.dims else { continue };
        if dims.len() != tensor.shape().rank() {
            return refuse(format!(
                "{}{} was given, of rank {} instead of {}",
                tensor.dtype(),
                tensor.shape(),
                tensor.shape().rank(),
                dims.len()
            ));
        }
        for (axis, (dim, &size)) in dims.iter().zip(tensor.shape().iter()).enumerate() {
            match dim {
                Dim::Known(n) if *n != size => {
                    return refuse(format!(
                        "{}{} was given, with {size} instead of {n} on axis {axis}",
                        tensor.dtype(),
                        tensor.shape()
                    ));
                }
                Dim::Sym(e) => {
                    let Some(symbol) = e.as_symbol() else {
                        sums = true;
                        continue;
                    };
                    match sizes.get(symbol) {
                        Some((n, first)) if n != size => {
                            let symbol = tensormill_ir::shown(symbol);
                            let first = tensormill_ir::shown(first);
                            return refuse(format!(
                                "its axis {axis} has {size}, but `{symbol}` is {n} in input \"{first}\""
                            ));
                        }
                        Some(_) => {}
                        None => {
                            sizes.insert(symbol, (size, &port.name));
                        }
                    }
                }
                _ => {}
            }
        }
    }
    if sums { check_sums(ports, values, &sizes) } else { Ok(()) }
}

/// Checks sizes that are made of others.
fn check_sums(ports: &[Port], values: &[Value], sizes: &Sizes<'_>) -> Result<(), Error> {
    for (port, value) in ports.iter().zip(values) {
        let (Type::Tensor(TensorType { dims: Some(dims), .. }), Value::Tensor(t)) = (&port.ty, value) else {
            continue;
        };
        for (axis, (dim, &size)) in dims.iter().zip(t.shape().iter()).enumerate() {
            let Dim::Sym(e) = dim else { continue };
            if e.as_symbol().is_some() {
                continue;
            }
            let mut known = Bindings::new();
            e.for_each_symbol(&mut |s| {
                known.extend(sizes.get(s).and_then(|(n, _)| Some((s.clone(), i64::try_from(n).ok()?))));
            });
            if let Some(n) = e.eval(&known).filter(|&n| usize::try_from(n) != Ok(size)) {
                let what = format!("its axis {axis} has {size}, but `{e}` is {n}");
                return Err(Error::Input { name: port.name.clone(), expected: port.ty.to_string(), what });
            }
        }
    }
    Ok(())
}

/// What a run gives: its outputs in order, and the extra ones that the session was asked for.
#[derive(Debug, Clone)]
pub struct Outputs {
    pub(crate) ports: Arc<[Port]>,
    pub(crate) values: Vec<Value>,
    pub(crate) profile: Option<Profile>,
}

impl Outputs {
    /// Number of outputs.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// An output by its name or position, of whatever kind.
    ///
    /// # Errors
    /// [`Error::Name`] with the outputs that there are.
    pub fn get<'a>(&self, key: impl Into<Key<'a>>) -> Result<&Value, Error> {
        Ok(&self.values[find(&key.into(), &self.ports, "output")?])
    }

    /// An output by its name or position, which is a tensor.
    ///
    /// # Errors
    /// As [`Outputs::get`]; [`Error::Tensor`] for sequences and optionals.
    pub fn tensor<'a>(&self, key: impl Into<Key<'a>>) -> Result<&Tensor, Error> {
        Ok(self.get(key)?.as_tensor()?)
    }

    /// Names and values, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.ports.iter().map(|p| p.name.as_str()).zip(&self.values)
    }

    /// The values, in order.
    pub fn into_values(self) -> Vec<Value> {
        self.values
    }

    /// The time of each node, when [`RunOptions::profile`](crate::RunOptions::profile) asked for it.
    pub fn profile(&self) -> Option<&Profile> {
        self.profile.as_ref()
    }
}
