use super::lex::{Lexer, Token};
use crate::{
    attr::{Attr, Body},
    builder::GraphBuilder,
    dim::{Dim, Expr},
    error::IrError,
    graph::{Graph, ValueId},
    ops::Op,
    types::{Dims, TensorType, Type},
};
use std::{collections::HashMap, sync::Arc};
use tensormill_tensor::{DType, Shape, Tensor};

/// Bodies within bodies, lists within lists. No reader nests bodies deeper.
const MAX_NESTING: usize = 32;

/// Finds the tensor of a name and type that the text refers to.
pub type Resolve<'a> = dyn Fn(&str, DType, &Shape) -> Result<Tensor, String> + 'a;

/// Parses a graph whose constants all stand in the text.
///
/// # Errors
/// [`IrError::Parse`] with the line, and what the graph itself refuses.
pub fn parse(text: &str) -> Result<Graph, IrError> {
    parse_with(text, &|name, _, _| {
        Err(format!("tensor \"{}\" does not stand beside the text", name.escape_debug()))
    })
}

/// Parses a graph; `resolve` gives the tensors that the text names.
///
/// # Errors
/// As [`parse`].
pub fn parse_with(text: &str, resolve: &Resolve<'_>) -> Result<Graph, IrError> {
    let mut p = Parser { lex: Lexer::new(text), resolve };
    p.word("graph")?;
    p.expect('@')?;
    let name = p.name()?;
    let g = p.graph(&name, 0)?;
    match p.lex.next()? {
        Token::End => Ok(g),
        t => p.lex.error(format!("expected the end of the text, got {t:?}")),
    }
}

struct Parser<'a> {
    lex: Lexer<'a>,
    resolve: &'a Resolve<'a>,
}

/// Names of values in the text: those with names of their own, and numbers.
#[derive(PartialEq, Eq, Hash)]
enum Label {
    Name(String),
    Number(i64),
}

impl Parser<'_> {
    fn expect(&mut self, c: char) -> Result<(), IrError> {
        match self.lex.next()? {
            Token::Sym(s) if s == c => Ok(()),
            t => self.lex.error(format!("expected `{c}`, got {t:?}")),
        }
    }

    fn accept(&mut self, c: char) -> Result<bool, IrError> {
        let yes = *self.lex.peek()? == Token::Sym(c);
        if yes {
            self.lex.next()?;
        }
        Ok(yes)
    }

    fn word(&mut self, w: &str) -> Result<(), IrError> {
        match self.lex.next()? {
            Token::Word(x) if x == w => Ok(()),
            t => self.lex.error(format!("expected `{w}`, got {t:?}")),
        }
    }

    fn name(&mut self) -> Result<String, IrError> {
        match self.lex.next()? {
            Token::Word(s) | Token::Str(s) => Ok(s),
            t => self.lex.error(format!("expected a name, got {t:?}")),
        }
    }

    fn label(&mut self) -> Result<Label, IrError> {
        self.expect('%')?;
        match self.lex.next()? {
            Token::Word(s) | Token::Str(s) => Ok(Label::Name(s)),
            Token::Int(n) => Ok(Label::Number(n)),
            t => self.lex.error(format!("expected a value's name, got {t:?}")),
        }
    }

    /// `item, item, .. close`, the opening character already taken.
    fn list<T>(
        &mut self,
        close: char,
        mut item: impl FnMut(&mut Self) -> Result<T, IrError>,
    ) -> Result<Vec<T>, IrError> {
        let mut out = vec![];
        if self.accept(close)? {
            return Ok(out);
        }
        loop {
            out.push(item(self)?);
            if self.accept(close)? {
                return Ok(out);
            }
            self.expect(',')?;
        }
    }

    /// From the inputs to the closing brace.
    fn graph(&mut self, name: &str, depth: usize) -> Result<Graph, IrError> {
        if depth > MAX_NESTING {
            return self.lex.error(format!("bodies nest deeper than {MAX_NESTING}"));
        }
        let mut b = GraphBuilder::new(name);
        let mut known: HashMap<Label, ValueId> = HashMap::new();
        self.expect('(')?;
        for (label, ty) in self.list(')', |p| {
            let label = p.label()?;
            p.expect(':')?;
            Ok((label, p.ty(0)?))
        })? {
            let v = match &label {
                Label::Name(n) => b.input(n, ty)?,
                Label::Number(_) => b.unnamed_input(ty),
            };
            self.define(&mut known, label, v)?;
        }
        if self.lex.next()? != Token::Arrow {
            return self.lex.error("expected `->`");
        }
        self.expect('(')?;
        let outputs = self.list(')', |p| {
            let name = match p.lex.peek()? {
                Token::Str(_) => {
                    let n = p.name()?;
                    p.expect('=')?;
                    Some(n)
                }
                _ => None,
            };
            Ok((name, p.label()?))
        })?;
        self.expect('{')?;
        while !self.accept('}')? {
            self.node(&mut b, &mut known, depth)?;
        }
        for (name, label) in outputs {
            let Some(&v) = known.get(&label) else { return self.lex.error("an output is not defined") };
            let name = match (name, label) {
                (Some(n), _) | (None, Label::Name(n)) => n,
                (None, Label::Number(n)) => n.to_string(),
            };
            b.output(&name, v)?;
        }
        b.finish()
    }

    fn define(&self, known: &mut HashMap<Label, ValueId>, label: Label, v: ValueId) -> Result<(), IrError> {
        match known.insert(label, v) {
            None => Ok(()),
            Some(_) => self.lex.error("a value is defined twice"),
        }
    }

    fn node(
        &mut self,
        b: &mut GraphBuilder,
        known: &mut HashMap<Label, ValueId>,
        depth: usize,
    ) -> Result<(), IrError> {
        let mut results = vec![];
        loop {
            let label = self.label()?;
            self.expect(':')?;
            results.push((label, self.ty(0)?));
            if !self.accept(',')? {
                break;
            }
        }
        self.expect('=')?;
        let name = self.name()?;
        let outputs = if name == "const" {
            let ty = results[0].1.as_tensor().and_then(|t| Some((t.dtype, t.static_shape()?)));
            let Some((dtype, shape)) = ty else {
                return self.lex.error("a constant is a tensor of known shape");
            };
            let tensor = self.constant(dtype, shape)?;
            let origin = self.origin()?;
            b.set_origin(origin.as_deref());
            [b.constant(tensor)?].into_iter().collect()
        } else {
            let inputs = self.operands(known)?;
            let mut attrs = vec![];
            if self.accept('{')? {
                attrs = self.list('}', |p| {
                    let n = p.name()?;
                    p.expect('=')?;
                    Ok((n, p.attr(depth + 1)?))
                })?;
            }
            let op = Op::from_text(&name, attrs).or_else(|e| self.lex.error(e))?;
            let origin = self.origin()?;
            b.set_origin(origin.as_deref());
            b.node(op, &inputs)?
        };
        if outputs.len() != results.len() {
            return self.lex.error(format!("`{name}` has {} results, not {}", outputs.len(), results.len()));
        }
        for (v, (label, ty)) in outputs.into_iter().zip(results) {
            b.refine(v, &ty)?;
            if let Label::Name(n) = &label {
                b.name(v, n)?;
            }
            self.define(known, label, v)?;
        }
        Ok(())
    }

    fn origin(&mut self) -> Result<Option<String>, IrError> {
        if self.accept('!')? { self.name().map(Some) } else { Ok(None) }
    }

    fn operands(&mut self, known: &HashMap<Label, ValueId>) -> Result<Vec<Option<ValueId>>, IrError> {
        let mut inputs = vec![];
        loop {
            match self.lex.peek()? {
                Token::Sym('%') => {
                    let label = self.label()?;
                    let Some(&v) = known.get(&label) else {
                        return self.lex.error("an operand is not defined before its use");
                    };
                    inputs.push(Some(v));
                }
                Token::Word(w) if w == "_" => {
                    self.lex.next()?;
                    inputs.push(None);
                }
                _ if inputs.is_empty() => return Ok(inputs),
                t => {
                    let what = format!("expected an operand, got {t:?}");
                    return self.lex.error(what);
                }
            }
            if !self.accept(',')? {
                return Ok(inputs);
            }
        }
    }

    fn constant(&mut self, dtype: DType, shape: Shape) -> Result<Tensor, IrError> {
        if self.accept('@')? {
            let name = self.name()?;
            let t = (self.resolve)(&name, dtype, &shape).or_else(|e| self.lex.error(e))?;
            if t.dtype() != dtype || *t.shape() != shape {
                return self.lex.error(format!(
                    "tensor \"{}\" is {}{}, not {dtype}{shape}",
                    name.escape_debug(),
                    t.dtype(),
                    t.shape()
                ));
            }
            return Ok(t);
        }
        self.expect('[')?;
        let tensor = if let Token::Hex(_) = self.lex.peek()? {
            let Token::Hex(bytes) = self.lex.next()? else { return self.lex.error("expected bytes") };
            self.expect(']')?;
            Tensor::from_bytes(dtype, shape, bytes.into())
        } else {
            let items = self.list(']', |p| p.attr(0))?;
            elements(dtype, shape, items).or_else(|e| self.lex.error(e))?
        };
        tensor.or_else(|e| self.lex.error(e.to_string()))
    }

    fn ty(&mut self, depth: usize) -> Result<Type, IrError> {
        if depth > MAX_NESTING {
            return self.lex.error("a type nests too deep");
        }
        let word = self.name()?;
        if word == "seq" || word == "opt" {
            self.expect('(')?;
            let inner = Box::new(self.ty(depth + 1)?);
            self.expect(')')?;
            return Ok(if word == "seq" { Type::Sequence(inner) } else { Type::Optional(inner) });
        }
        let dtype: DType = word.parse().or_else(|e: String| self.lex.error(e))?;
        self.expect('[')?;
        if *self.lex.peek()? == Token::Dots {
            self.lex.next()?;
            self.expect(']')?;
            return Ok(TensorType::unranked(dtype).into());
        }
        let dims: Dims = self.list(']', Self::dim)?.into_iter().collect();
        Ok(TensorType { dtype, dims: Some(dims) }.into())
    }

    fn dim(&mut self) -> Result<Dim, IrError> {
        if self.accept('?')? {
            return Ok(Dim::Unknown);
        }
        let e = self.expr(0)?;
        match (e.as_const(), Dim::from(e)) {
            (Some(n), Dim::Unknown) => self.lex.error(format!("a size of {n}")),
            (_, d) => Ok(d),
        }
    }

    /// Sums of products of numbers, symbols and functions.
    fn expr(&mut self, depth: usize) -> Result<Expr, IrError> {
        if depth > MAX_NESTING {
            return self.lex.error("a size nests too deep");
        }
        let mut sum = Expr::constant(0);
        let mut negative = self.accept('-')?;
        loop {
            let mut term = self.factor(depth)?;
            while self.accept('*')? {
                let f = self.factor(depth)?;
                term = self.fits(term.mul(&f))?;
            }
            sum = self.fits(if negative { sum.sub(&term) } else { sum.add(&term) })?;
            match self.lex.peek()? {
                Token::Sym('+') => negative = false,
                Token::Sym('-') => negative = true,
                // `N-3` reads as `N`, `-3`.
                Token::Int(n) if *n < 0 => {
                    negative = false;
                    continue;
                }
                _ => return Ok(sum),
            }
            self.lex.next()?;
        }
    }

    fn fits(&self, e: Option<Expr>) -> Result<Expr, IrError> {
        e.map_or_else(|| self.lex.error("a size is out of bounds"), Ok)
    }

    fn factor(&mut self, depth: usize) -> Result<Expr, IrError> {
        let function: fn(&Expr, &Expr) -> Option<Expr> = match self.lex.next()? {
            Token::Int(n) => return Ok(Expr::constant(n)),
            Token::Str(s) => return Ok(Expr::symbol(&s)),
            Token::Word(w) => {
                if *self.lex.peek()? != Token::Sym('(') {
                    return Ok(Expr::symbol(&w));
                }
                match w.as_str() {
                    "floordiv" => Expr::floor_div,
                    "mod" => Expr::modulo,
                    "max" => Expr::maximum,
                    "min" => Expr::minimum,
                    _ => return self.lex.error(format!("unknown function `{w}` of sizes")),
                }
            }
            t => return self.lex.error(format!("expected a size, got {t:?}")),
        };
        self.expect('(')?;
        let a = self.expr(depth + 1)?;
        self.expect(',')?;
        let b = self.expr(depth + 1)?;
        self.expect(')')?;
        self.fits(function(&a, &b))
    }

    fn attr(&mut self, depth: usize) -> Result<Attr, IrError> {
        if depth > MAX_NESTING {
            return self.lex.error("attributes nest too deep");
        }
        Ok(match self.lex.next()? {
            Token::Int(i) => Attr::Int(i),
            Token::Float(f) => Attr::Float(f),
            Token::Str(s) => Attr::Str(s),
            Token::Sym('-') => {
                self.word("inf")?;
                Attr::Float(f32::NEG_INFINITY)
            }
            Token::Sym('[') => Attr::List(self.list(']', |p| p.attr(depth + 1))?),
            Token::Word(w) => match w.as_str() {
                "true" => Attr::Bool(true),
                "false" => Attr::Bool(false),
                "inf" => Attr::Float(f32::INFINITY),
                "type" => Attr::Type(self.ty(0)?),
                "graph" => {
                    self.expect('@')?;
                    let name = self.name()?;
                    Attr::Graph(Body(Arc::new(self.graph(&name, depth)?)))
                }
                "nan" => {
                    self.expect('(')?;
                    let Token::Hex(b) = self.lex.next()? else {
                        return self.lex.error("expected the bits of a NaN");
                    };
                    self.expect(')')?;
                    let Ok(b) = <[u8; 4]>::try_from(b) else { return self.lex.error("a NaN has four bytes") };
                    Attr::Float(f32::from_bits(u32::from_be_bytes(b)))
                }
                _ if self.accept('(')? => Attr::Call(w, self.list(')', |p| p.attr(depth + 1))?),
                _ => Attr::Word(w),
            },
            t => return self.lex.error(format!("expected an attribute's value, got {t:?}")),
        })
    }
}

/// A tensor from its elements in the text.
fn elements(
    dtype: DType,
    shape: Shape,
    items: Vec<Attr>,
) -> Result<Result<Tensor, tensormill_tensor::TensorError>, String> {
    if dtype == DType::Str {
        let strings = items.into_iter().map(|a| match a {
            Attr::Str(s) => Ok(s),
            a => Err(format!("expected a string, got {a:?}")),
        });
        return Ok(Tensor::from_strings(shape, strings.collect::<Result<_, _>>()?));
    }
    if dtype == DType::F32 {
        let floats = items.into_iter().map(|a| match a {
            Attr::Float(f) => Ok(f),
            Attr::Int(i) => Ok(i as f32),
            a => Err(format!("expected a number, got {a:?}")),
        });
        return Ok(Tensor::from_vec(shape, floats.collect::<Result<Vec<f32>, _>>()?));
    }
    let ints = items.into_iter().map(|a| match a {
        Attr::Int(i) => Ok(i),
        a => Err(format!("expected an integer, got {a:?}")),
    });
    let ints = ints.collect::<Result<Vec<i64>, _>>()?;
    Ok(Tensor::from_i64s(dtype, shape, ints))
}
