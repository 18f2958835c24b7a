//! Attributes as data: what lets every op print, parse and compare the same way.

use crate::{graph::Graph, types::Type};
use std::{fmt, sync::Arc};
use tensormill_tensor::DType;

/// An attribute's value in the text form.
#[derive(Debug, Clone, PartialEq)]
pub enum Attr {
    /// `3`; booleans are `true` and `false`.
    Int(i64),
    /// `true`, `false`.
    Bool(bool),
    /// `0.5`, `1e-5`, `inf`, `nan`.
    Float(f32),
    /// `"text"`.
    Str(String),
    /// A bare word: an enum's case or a dtype.
    Word(String),
    /// `[a, b]`.
    List(Vec<Attr>),
    /// `word(a, b)`.
    Call(String, Vec<Attr>),
    /// A body: `(%x: f32[]) -> (%y) { .. }`.
    Graph(Body),
    /// A type: `f32[2,N]`.
    Type(Type),
}

/// A Rust type that an attribute may have.
pub trait AttrValue: Sized {
    /// To the text form.
    fn to_attr(&self) -> Attr;
    /// From the text form; the error says what was expected.
    fn from_attr(a: Attr) -> Result<Self, String>;
}

/// The attributes of an op, in and out of the text form.
pub trait Attributes: Sized {
    /// Appends those that differ from their default.
    fn write(&self, out: &mut Vec<(&'static str, Attr)>);
    /// Takes its own out of `from`; what is left there afterwards is unknown to the op.
    fn read(from: &mut AttrMap) -> Result<Self, String>;
}

/// Attributes by name, taken out as they are read.
#[derive(Debug, Default)]
pub struct AttrMap(pub(crate) Vec<(String, Attr)>);

impl AttrMap {
    /// Takes an attribute out.
    pub fn take(&mut self, name: &str) -> Option<Attr> {
        let at = self.0.iter().position(|(n, _)| n == name)?;
        Some(self.0.remove(at).1)
    }

    /// Takes an attribute out as `T`; `None` when it is not there.
    pub fn get<T: AttrValue>(&mut self, name: &str) -> Result<Option<T>, String> {
        self.take(name).map(|a| T::from_attr(a).map_err(|e| format!("attribute `{name}`: {e}"))).transpose()
    }
}

/// An `f32` compared and hashed by its bits, so that attributes are `Eq`.
#[derive(Clone, Copy, Default)]
pub struct F32(pub f32);

impl PartialEq for F32 {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}
impl Eq for F32 {}
impl std::hash::Hash for F32 {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}
impl fmt::Debug for F32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}
impl From<f32> for F32 {
    fn from(v: f32) -> F32 {
        F32(v)
    }
}

/// A body graph of a control-flow op, shared and compared by its text.
#[derive(Debug, Clone)]
pub struct Body(pub Arc<Graph>);

impl PartialEq for Body {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.same_as(&other.0)
    }
}
impl Eq for Body {}
impl std::hash::Hash for Body {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.0.inputs().len(), self.0.outputs().len(), self.0.nodes().count()).hash(state);
    }
}

impl Default for Body {
    fn default() -> Self {
        Body(Arc::new(Graph::empty("body")))
    }
}

fn expected<T>(what: &str, got: &Attr) -> Result<T, String> {
    Err(format!("expected {what}, got {got:?}"))
}

impl AttrValue for i64 {
    fn to_attr(&self) -> Attr {
        Attr::Int(*self)
    }
    fn from_attr(a: Attr) -> Result<Self, String> {
        match a {
            Attr::Int(i) => Ok(i),
            a => expected("an integer", &a),
        }
    }
}

impl AttrValue for usize {
    fn to_attr(&self) -> Attr {
        Attr::Int(i64::try_from(*self).unwrap_or(i64::MAX))
    }
    fn from_attr(a: Attr) -> Result<Self, String> {
        usize::try_from(i64::from_attr(a)?).map_err(|_| "expected a size that is not negative".into())
    }
}

impl AttrValue for bool {
    fn to_attr(&self) -> Attr {
        Attr::Bool(*self)
    }
    fn from_attr(a: Attr) -> Result<Self, String> {
        match a {
            Attr::Bool(b) => Ok(b),
            a => expected("true or false", &a),
        }
    }
}

impl AttrValue for F32 {
    fn to_attr(&self) -> Attr {
        Attr::Float(self.0)
    }
    fn from_attr(a: Attr) -> Result<Self, String> {
        match a {
            Attr::Float(f) => Ok(F32(f)),
            Attr::Int(i) => Ok(F32(i as f32)),
            a => expected("a number", &a),
        }
    }
}

impl AttrValue for String {
    fn to_attr(&self) -> Attr {
        Attr::Str(self.clone())
    }
    fn from_attr(a: Attr) -> Result<Self, String> {
        match a {
            Attr::Str(s) => Ok(s),
            a => expected("a string", &a),
        }
    }
}

impl AttrValue for DType {
    fn to_attr(&self) -> Attr {
        Attr::Word(self.name().into())
    }
    fn from_attr(a: Attr) -> Result<Self, String> {
        match a {
            Attr::Word(s) => s.parse(),
            a => expected("a dtype", &a),
        }
    }
}

impl AttrValue for Type {
    fn to_attr(&self) -> Attr {
        Attr::Type(self.clone())
    }
    fn from_attr(a: Attr) -> Result<Self, String> {
        match a {
            Attr::Type(t) => Ok(t),
            a => expected("a type", &a),
        }
    }
}

impl AttrValue for Body {
    fn to_attr(&self) -> Attr {
        Attr::Graph(self.clone())
    }
    fn from_attr(a: Attr) -> Result<Self, String> {
        match a {
            Attr::Graph(b) => Ok(b),
            a => expected("a graph", &a),
        }
    }
}

impl<T: AttrValue> AttrValue for Vec<T> {
    fn to_attr(&self) -> Attr {
        Attr::List(self.iter().map(T::to_attr).collect())
    }
    fn from_attr(a: Attr) -> Result<Self, String> {
        match a {
            Attr::List(v) => v.into_iter().map(T::from_attr).collect(),
            a => expected("a list", &a),
        }
    }
}

impl<T: AttrValue> AttrValue for Option<T> {
    fn to_attr(&self) -> Attr {
        self.as_ref().map_or_else(|| Attr::Word("none".into()), T::to_attr)
    }
    fn from_attr(a: Attr) -> Result<Self, String> {
        match a {
            Attr::Word(w) if w == "none" => Ok(None),
            a => T::from_attr(a).map(Some),
        }
    }
}

/// Declares an op's attribute struct: documented public fields with defaults, and its [`Attributes`].
#[macro_export]
#[doc(hidden)]
macro_rules! op_attrs {
    ($(#[$meta:meta])* $name:ident { $($(#[$fmeta:meta])* $field:ident : $ty:ty = $default:expr),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        pub struct $name { $($(#[$fmeta])* pub $field: $ty,)* }

        impl Default for $name {
            fn default() -> Self { $name { $($field: $default,)* } }
        }

        impl $crate::attr::Attributes for $name {
            #[allow(unused_variables)]
            fn write(&self, out: &mut Vec<(&'static str, $crate::attr::Attr)>) {
                let default = Self::default();
                $(if self.$field != default.$field {
                    out.push((stringify!($field), $crate::attr::AttrValue::to_attr(&self.$field)));
                })*
            }
            #[allow(unused_variables, unused_mut)]
            fn read(from: &mut $crate::attr::AttrMap) -> Result<Self, String> {
                let mut attrs = Self::default();
                $(if let Some(v) = from.get(stringify!($field))? { attrs.$field = v; })*
                Ok(attrs)
            }
        }
    };
}

/// Declares an enum whose cases are bare words in the text form.
#[macro_export]
#[doc(hidden)]
macro_rules! word_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$cmeta:meta])* $case:ident = $word:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$cmeta])* $case,)* }

        impl $name {
            /// Every case.
            pub const ALL: &[$name] = &[$($name::$case,)*];

            /// The word in the text form.
            pub const fn word(self) -> &'static str {
                match self { $($name::$case => $word,)* }
            }

            /// The case of this word.
            pub fn from_word(word: &str) -> Option<Self> {
                match word { $($word => Some($name::$case),)* _ => None }
            }
        }

        impl $crate::attr::AttrValue for $name {
            fn to_attr(&self) -> $crate::attr::Attr { $crate::attr::Attr::Word(self.word().into()) }
            fn from_attr(a: $crate::attr::Attr) -> Result<Self, String> {
                let known = || format!("expected one of {:?}", [$($word),*]);
                match a {
                    $crate::attr::Attr::Word(w) => Self::from_word(&w).ok_or_else(known),
                    _ => Err(known()),
                }
            }
        }
    };
}
