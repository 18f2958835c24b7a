use super::{write_name, write_quoted};
use crate::{
    attr::Attr,
    graph::{Graph, ValueId},
    ops::Op,
};
use std::fmt::{self, Write};
use tensormill_tensor::{DType, Tensor};

/// Constants of more elements stand beside the text.
const INLINE: usize = 16;

/// A graph's text, and the tensors that it names.
#[derive(Debug, Clone)]
pub struct Text {
    /// The text.
    pub text: String,
    /// The tensors behind `const @"name"`, in the order of their appearance.
    pub tensors: Vec<(String, Tensor)>,
}

/// Prints a graph.
pub fn print(g: &Graph) -> Text {
    let mut p = Printer { out: String::new(), tensors: vec![], scope: String::new() };
    p.out.push_str("graph @");
    let done = write_name(&mut p.out, g.name()).and_then(|()| p.graph(g, 0));
    debug_assert!(done.is_ok(), "a String takes every write");
    p.out.push('\n');
    Text { text: p.out, tensors: p.tensors }
}

impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&print(self).text)
    }
}

struct Printer {
    out: String,
    tensors: Vec<(String, Tensor)>,
    /// Where bodies are, so that their tensors have names of their own.
    scope: String,
}

impl Printer {
    fn graph(&mut self, g: &Graph, indent: usize) -> fmt::Result {
        // Unnamed values are numbered as they come, so that equal graphs print equally whatever their ids.
        let mut numbers = vec![u32::MAX; g.value_capacity()];
        let mut next = 0;
        let order = g.order();
        for v in g.inputs().iter().chain(order.iter().flat_map(|&n| &g.node(n).outputs)) {
            if g.value(*v).name.is_none() {
                numbers[v.index()] = next;
                next += 1;
            }
        }
        self.out.push('(');
        for (i, &v) in g.inputs().iter().enumerate() {
            self.comma(i);
            self.value(g, v, &numbers)?;
            write!(self.out, ": {}", g.ty(v))?;
        }
        self.out.push_str(") -> (");
        for (i, o) in g.outputs().iter().enumerate() {
            self.comma(i);
            if g.value(o.value).name.as_ref() != Some(&o.name) {
                write_quoted(&mut self.out, &o.name)?;
                self.out.push_str(" = ");
            }
            self.value(g, o.value, &numbers)?;
        }
        self.out.push_str(") {\n");
        for id in order {
            let node = g.node(id);
            self.pad(indent + 1);
            for (i, &v) in node.outputs.iter().enumerate() {
                self.comma(i);
                self.value(g, v, &numbers)?;
                write!(self.out, ": {}", g.ty(v))?;
            }
            write!(self.out, " = {}", node.op.name())?;
            if let Op::Const(c) = &node.op {
                self.constant(g, node.outputs[0], &c.tensor, &numbers)?;
            }
            for (i, v) in node.inputs.iter().enumerate() {
                self.out.push_str(if i > 0 { ", " } else { " " });
                match v {
                    Some(v) => self.value(g, *v, &numbers)?,
                    None => self.out.push('_'),
                }
            }
            let attrs = node.op.attrs();
            if !attrs.is_empty() {
                self.out.push_str(" {");
                for (i, (name, a)) in attrs.iter().enumerate() {
                    self.comma(i);
                    write!(self.out, "{name}=")?;
                    let outer = self.scope.len();
                    if matches!(a, Attr::Graph(_)) {
                        write!(self.scope, "{}.{name}/", numbers_or_name(g, node.outputs.first(), &numbers))?;
                    }
                    self.attr(a, indent + 1)?;
                    self.scope.truncate(outer);
                }
                self.out.push('}');
            }
            if let Some(origin) = &node.origin {
                self.out.push_str(" !");
                write_quoted(&mut self.out, origin)?;
            }
            self.out.push('\n');
        }
        self.pad(indent);
        self.out.push('}');
        Ok(())
    }

    fn comma(&mut self, i: usize) {
        if i > 0 {
            self.out.push_str(", ");
        }
    }

    fn pad(&mut self, indent: usize) {
        for _ in 0..indent {
            self.out.push_str("  ");
        }
    }

    fn value(&mut self, g: &Graph, v: ValueId, numbers: &[u32]) -> fmt::Result {
        self.out.push('%');
        match &g.value(v).name {
            Some(name) => write_name(&mut self.out, name),
            None => write!(self.out, "{}", numbers[v.index()]),
        }
    }

    fn constant(&mut self, g: &Graph, v: ValueId, t: &Tensor, numbers: &[u32]) -> fmt::Result {
        self.out.push(' ');
        if t.len() <= INLINE || t.dtype() == DType::Str {
            return self.elements(t);
        }
        let name = format!("{}{}", self.scope, numbers_or_name(g, Some(&v), numbers));
        self.out.push('@');
        write_quoted(&mut self.out, &name)?;
        self.tensors.push((name, t.clone()));
        Ok(())
    }

    fn elements(&mut self, t: &Tensor) -> fmt::Result {
        self.out.push('[');
        if let Ok(strings) = t.strings() {
            for (i, s) in strings.iter().enumerate() {
                self.comma(i);
                write_quoted(&mut self.out, s)?;
            }
        } else if let Some(ints) = ints(t) {
            for (i, v) in ints.iter().enumerate() {
                self.comma(i);
                write!(self.out, "{v}")?;
            }
        } else if let (DType::F32, Ok(v)) = (t.dtype(), t.to_slice::<f32>())
            && v.iter().all(|v| v.is_finite())
        {
            for (i, v) in v.iter().enumerate() {
                self.comma(i);
                write!(self.out, "{v:?}")?;
            }
        } else {
            // Raw bytes keep what decimals would lose: NaN payloads, narrow and complex types.
            self.out.push_str("0x");
            for b in t.bytes() {
                write!(self.out, "{b:02x}")?;
            }
        }
        self.out.push(']');
        Ok(())
    }

    fn attr(&mut self, a: &Attr, indent: usize) -> fmt::Result {
        match a {
            Attr::Int(i) => write!(self.out, "{i}"),
            Attr::Bool(b) => write!(self.out, "{b}"),
            Attr::Float(f) if f.is_nan() => write!(self.out, "nan(0x{:08x})", f.to_bits()),
            Attr::Float(f) if f.is_infinite() => self.out.write_str(if *f > 0.0 { "inf" } else { "-inf" }),
            Attr::Float(f) => write!(self.out, "{f:?}"),
            Attr::Str(s) => write_quoted(&mut self.out, s),
            Attr::Word(w) => self.out.write_str(w),
            Attr::Type(t) => write!(self.out, "type {t}"),
            Attr::List(items) => self.items(items, "[", "]", indent),
            Attr::Call(name, args) => {
                self.out.push_str(name);
                self.items(args, "(", ")", indent)
            }
            Attr::Graph(crate::attr::Body(g)) => {
                self.out.push_str("graph @");
                write_name(&mut self.out, g.name())?;
                self.graph(g, indent)
            }
        }
    }

    fn items(&mut self, items: &[Attr], open: &str, close: &str, indent: usize) -> fmt::Result {
        self.out.push_str(open);
        for (i, a) in items.iter().enumerate() {
            self.comma(i);
            self.attr(a, indent)?;
        }
        self.out.push_str(close);
        Ok(())
    }
}

/// The elements of a tensor of integers or bools that decimals write exactly.
fn ints(t: &Tensor) -> Option<Vec<i64>> {
    match t.dtype() {
        // A bool byte other than 0 and 1 would not come back as it was.
        DType::Bool => t.bytes().iter().map(|&b| (b < 2).then_some(i64::from(b))).collect(),
        d if d.is_int() => t.to_i64_vec().ok(),
        _ => None,
    }
}

fn numbers_or_name(g: &Graph, v: Option<&ValueId>, numbers: &[u32]) -> String {
    let Some(&v) = v else { return "_".into() };
    match &g.value(v).name {
        Some(name) => name.to_string(),
        None => format!("%{}", numbers[v.index()]),
    }
}
