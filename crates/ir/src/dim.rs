//! Sizes that may be unknown until inputs arrive.
//!
//! An [`Expr`] is a polynomial with integer coefficients over atoms: symbols and the few functions
//! that shape arithmetic needs. Polynomials have one normal form, so equal sizes compare equal
//! without a solver. Every operation is bounded: what grows past [`MAX_TERMS`] or overflows is `None`.

use std::{collections::HashMap, fmt, sync::Arc};

/// Terms that an expression may have before it counts as unknown.
pub const MAX_TERMS: usize = 32;
const MAX_DEPTH: u32 = 12;

/// The name of a size.
pub type Symbol = Arc<str>;

/// What symbols stand for in one run.
pub type Bindings = HashMap<Symbol, i64>;

/// The size of an axis.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dim {
    /// A number.
    Known(usize),
    /// A function of named sizes.
    Sym(Expr),
    /// Depends on data; two unknowns are never known to be equal.
    Unknown,
}

impl Dim {
    /// A named size.
    pub fn symbol(name: &str) -> Dim {
        Dim::Sym(Expr::symbol(name))
    }

    /// The number, if it is one.
    pub fn known(&self) -> Option<usize> {
        match self {
            Dim::Known(n) => Some(*n),
            _ => None,
        }
    }

    /// As an expression; `None` when unknown.
    pub fn expr(&self) -> Option<Expr> {
        match self {
            Dim::Known(n) => Some(Expr::constant(i64::try_from(*n).ok()?)),
            Dim::Sym(e) => Some(e.clone()),
            Dim::Unknown => None,
        }
    }

    /// Whether both are certainly the same size.
    pub fn same(&self, other: &Dim) -> bool {
        !matches!(self, Dim::Unknown) && self == other
    }

    /// The one that says more: a number before an expression, one of few terms before one of many.
    /// Which of two different ones that is depends on them alone, never on their order.
    pub fn plainer<'a>(&'a self, other: &'a Dim) -> &'a Dim {
        let terms = |d: &Dim| match d {
            Dim::Known(_) => 0,
            Dim::Sym(Expr(Repr::Poly(terms))) => terms.len(),
            Dim::Sym(Expr(Repr::Const(_))) => 1,
            Dim::Unknown => usize::MAX,
        };
        if (terms(self), self) <= (terms(other), other) { self } else { other }
    }

    /// The size under `bindings`; `None` while it is unknown or negative.
    pub fn bind(&self, bindings: &Bindings) -> Option<usize> {
        match self {
            Dim::Known(n) => Some(*n),
            Dim::Sym(e) => usize::try_from(e.eval(bindings)?).ok(),
            Dim::Unknown => None,
        }
    }
}

impl From<Expr> for Dim {
    /// Negative constants, which no size can be, become unknown.
    fn from(e: Expr) -> Dim {
        match e.as_const() {
            Some(n) => usize::try_from(n).map_or(Dim::Unknown, Dim::Known),
            None => Dim::Sym(e),
        }
    }
}

impl From<Option<Expr>> for Dim {
    fn from(e: Option<Expr>) -> Dim {
        e.map_or(Dim::Unknown, Dim::from)
    }
}

impl From<usize> for Dim {
    fn from(n: usize) -> Dim {
        Dim::Known(n)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Known(n) => write!(f, "{n}"),
            Dim::Sym(e) => write!(f, "{e}"),
            Dim::Unknown => f.write_str("?"),
        }
    }
}

/// An integer-valued function of symbols, in normal form.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Expr(Repr);

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Repr {
    Const(i64),
    /// Sorted by factors, no zero coefficients, never constant.
    Poly(Arc<[Term]>),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Term {
    /// Sorted; empty for the constant term.
    factors: Vec<Atom>,
    coef: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Atom {
    Sym(Symbol),
    FloorDiv(Expr, Expr),
    Mod(Expr, Expr),
    Max(Expr, Expr),
    Min(Expr, Expr),
}

impl Expr {
    /// A number.
    pub const fn constant(n: i64) -> Expr {
        Expr(Repr::Const(n))
    }

    /// A named size, which is never negative.
    pub fn symbol(name: &str) -> Expr {
        Expr::atom(Atom::Sym(name.into()))
    }

    fn atom(a: Atom) -> Expr {
        Expr(Repr::Poly(Arc::new([Term { factors: vec![a], coef: 1 }])))
    }

    /// The number, if it is one.
    pub fn as_const(&self) -> Option<i64> {
        match self.0 {
            Repr::Const(n) => Some(n),
            Repr::Poly(_) => None,
        }
    }

    /// The symbol, if it is nothing else.
    pub fn as_symbol(&self) -> Option<&Symbol> {
        match &self.0 {
            Repr::Poly(terms) => match &**terms {
                [Term { factors, coef: 1 }] => match factors.as_slice() {
                    [Atom::Sym(s)] => Some(s),
                    _ => None,
                },
                _ => None,
            },
            Repr::Const(_) => None,
        }
    }

    fn terms(&self) -> Vec<Term> {
        match &self.0 {
            Repr::Const(0) => vec![],
            Repr::Const(n) => vec![Term { factors: vec![], coef: *n }],
            Repr::Poly(terms) => terms.to_vec(),
        }
    }

    fn from_terms(mut terms: Vec<Term>) -> Option<Expr> {
        terms.sort_by(|a, b| a.factors.cmp(&b.factors));
        let mut out: Vec<Term> = vec![];
        for t in terms {
            match out.last_mut() {
                Some(last) if last.factors == t.factors => last.coef = last.coef.checked_add(t.coef)?,
                _ => out.push(t),
            }
        }
        out.retain(|t| t.coef != 0);
        match out.as_slice() {
            [] => Some(Expr::constant(0)),
            [t] if t.factors.is_empty() => Some(Expr::constant(t.coef)),
            _ if out.len() > MAX_TERMS || out.iter().any(|t| t.factors.len() > 8) => None,
            _ => Some(Expr(Repr::Poly(out.into()))),
        }
    }

    fn depth(&self) -> u32 {
        let of = |a: &Atom| match a {
            Atom::Sym(_) => 0,
            Atom::FloorDiv(a, b) | Atom::Mod(a, b) | Atom::Max(a, b) | Atom::Min(a, b) => {
                1 + a.depth().max(b.depth())
            }
        };
        match &self.0 {
            Repr::Const(_) => 0,
            Repr::Poly(terms) => terms.iter().flat_map(|t| &t.factors).map(of).max().unwrap_or(0),
        }
    }

    fn bounded(self) -> Option<Expr> {
        (self.depth() <= MAX_DEPTH).then_some(self)
    }

    /// Sum.
    pub fn add(&self, other: &Expr) -> Option<Expr> {
        if let (Repr::Const(a), Repr::Const(b)) = (&self.0, &other.0) {
            return a.checked_add(*b).map(Expr::constant);
        }
        let mut terms = self.terms();
        terms.extend(other.terms());
        Expr::from_terms(terms)
    }

    /// Difference.
    pub fn sub(&self, other: &Expr) -> Option<Expr> {
        self.add(&other.mul(&Expr::constant(-1))?)
    }

    /// Product.
    pub fn mul(&self, other: &Expr) -> Option<Expr> {
        if let (Repr::Const(a), Repr::Const(b)) = (&self.0, &other.0) {
            return a.checked_mul(*b).map(Expr::constant);
        }
        let (a, b) = (self.terms(), other.terms());
        let mut terms = Vec::with_capacity(a.len() * b.len());
        for x in &a {
            for y in &b {
                let mut factors = [&x.factors[..], &y.factors[..]].concat();
                factors.sort();
                terms.push(Term { factors, coef: x.coef.checked_mul(y.coef)? });
            }
        }
        Expr::from_terms(terms)
    }

    /// Quotient rounded down; `None` for a divisor that is not certainly positive.
    pub fn floor_div(&self, by: &Expr) -> Option<Expr> {
        if let Some(exact) = self.exact_div(by) {
            return Some(exact);
        }
        match (self.as_const(), by.as_const()) {
            (Some(a), Some(b)) if b > 0 => Some(Expr::constant(a.div_euclid(b))),
            (_, Some(b)) if b <= 0 => None,
            _ if !by.is_non_negative() => None,
            _ => Expr::atom(Atom::FloorDiv(self.clone(), by.clone())).bounded(),
        }
    }

    /// Quotient rounded up.
    pub fn ceil_div(&self, by: &Expr) -> Option<Expr> {
        let minus = self.mul(&Expr::constant(-1))?;
        minus.floor_div(by)?.mul(&Expr::constant(-1))
    }

    /// The quotient when `by` divides every term for all symbol values.
    pub fn exact_div(&self, by: &Expr) -> Option<Expr> {
        if by.as_const() == Some(0) {
            return None;
        }
        if self == by {
            return Some(Expr::constant(1));
        }
        let divisor = by.terms();
        let [d] = divisor.as_slice() else { return None };
        let mut terms = self.terms();
        for t in &mut terms {
            if t.coef.checked_rem(d.coef)? != 0 {
                return None;
            }
            t.coef = t.coef.checked_div(d.coef)?;
            for f in &d.factors {
                let at = t.factors.iter().position(|x| x == f)?;
                t.factors.remove(at);
            }
        }
        Expr::from_terms(terms)
    }

    /// Remainder of the division rounded down; `None` for a divisor that is not certainly positive.
    pub fn modulo(&self, by: &Expr) -> Option<Expr> {
        if self.exact_div(by).is_some() {
            return Some(Expr::constant(0));
        }
        match (self.as_const(), by.as_const()) {
            (Some(a), Some(b)) if b > 0 => Some(Expr::constant(a.rem_euclid(b))),
            (_, Some(b)) if b <= 0 => None,
            _ if !by.is_non_negative() => None,
            _ => Expr::atom(Atom::Mod(self.clone(), by.clone())).bounded(),
        }
    }

    /// The larger.
    pub fn maximum(&self, other: &Expr) -> Option<Expr> {
        self.pick(other, true)
    }

    /// The smaller.
    pub fn minimum(&self, other: &Expr) -> Option<Expr> {
        self.pick(other, false)
    }

    fn pick(&self, other: &Expr, larger: bool) -> Option<Expr> {
        let gap = self.sub(other)?;
        if gap.is_non_negative() {
            return Some(if larger { self } else { other }.clone());
        }
        if other.sub(self)?.is_non_negative() {
            return Some(if larger { other } else { self }.clone());
        }
        let (a, b) = if self <= other { (self, other) } else { (other, self) };
        let (a, b) = (a.clone(), b.clone());
        Expr::atom(if larger { Atom::Max(a, b) } else { Atom::Min(a, b) }).bounded()
    }

    /// Whether it is `whole` cut off at a number of at least two: the two are then 1 together, so that
    /// they broadcast only where they are equal.
    pub fn is_cut_of(&self, whole: &Expr) -> bool {
        let Repr::Poly(terms) = &self.0 else { return false };
        let [Term { factors, coef: 1 }] = &**terms else { return false };
        let [Atom::Min(a, b)] = factors.as_slice() else { return false };
        let cut = |e: &Expr| e.as_const().is_some_and(|n| n >= 2);
        a == whole && cut(b) || b == whole && cut(a)
    }

    /// Whether no choice of sizes makes it negative, as far as can be seen.
    pub fn is_non_negative(&self) -> bool {
        fn atom(a: &Atom) -> bool {
            match a {
                Atom::Sym(_) | Atom::Mod(..) => true,
                Atom::FloorDiv(a, b) | Atom::Min(a, b) => a.is_non_negative() && b.is_non_negative(),
                Atom::Max(a, b) => a.is_non_negative() || b.is_non_negative(),
            }
        }
        match &self.0 {
            Repr::Const(n) => *n >= 0,
            Repr::Poly(terms) => terms.iter().all(|t| t.coef >= 0 && t.factors.iter().all(atom)),
        }
    }

    /// The value under `bindings`; `None` when a symbol is missing, a divisor is 0, or it overflows.
    pub fn eval(&self, bindings: &Bindings) -> Option<i64> {
        self.substitute(bindings)?.as_const()
    }

    /// The expression with the bound symbols replaced by their numbers.
    pub fn substitute(&self, bindings: &Bindings) -> Option<Expr> {
        let Repr::Poly(terms) = &self.0 else { return Some(self.clone()) };
        let mut sum = Expr::constant(0);
        for t in &**terms {
            let mut product = Expr::constant(t.coef);
            for factor in &t.factors {
                let (sub, f): (_, fn(&Expr, &Expr) -> Option<Expr>) = match factor {
                    Atom::Sym(s) => {
                        let e = bindings
                            .get(s)
                            .map_or_else(|| Expr::atom(factor.clone()), |&n| Expr::constant(n));
                        product = product.mul(&e)?;
                        continue;
                    }
                    Atom::FloorDiv(a, b) => ((a, b), Expr::floor_div),
                    Atom::Mod(a, b) => ((a, b), Expr::modulo),
                    Atom::Max(a, b) => ((a, b), Expr::maximum),
                    Atom::Min(a, b) => ((a, b), Expr::minimum),
                };
                product = product.mul(&f(&sub.0.substitute(bindings)?, &sub.1.substitute(bindings)?)?)?;
            }
            sum = sum.add(&product)?;
        }
        Some(sum)
    }

    /// Calls `f` with every symbol that occurs.
    pub fn for_each_symbol(&self, f: &mut dyn FnMut(&Symbol)) {
        let Repr::Poly(terms) = &self.0 else { return };
        for atom in terms.iter().flat_map(|t| &t.factors) {
            match atom {
                Atom::Sym(s) => f(s),
                Atom::FloorDiv(a, b) | Atom::Mod(a, b) | Atom::Max(a, b) | Atom::Min(a, b) => {
                    a.for_each_symbol(f);
                    b.for_each_symbol(f);
                }
            }
        }
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let terms = match &self.0 {
            Repr::Const(n) => return write!(f, "{n}"),
            Repr::Poly(terms) => terms,
        };
        // The constant term sorts first; people write it last.
        let (constants, others): (Vec<_>, Vec<_>) = terms.iter().partition(|t| t.factors.is_empty());
        for (i, t) in others.into_iter().chain(constants).enumerate() {
            match (i, t.coef < 0) {
                (0, true) => f.write_str("-")?,
                (0, false) => {}
                (_, true) => f.write_str("-")?,
                (_, false) => f.write_str("+")?,
            }
            let magnitude = t.coef.unsigned_abs();
            if t.factors.is_empty() || magnitude != 1 {
                write!(f, "{magnitude}")?;
            }
            for (j, a) in t.factors.iter().enumerate() {
                if j > 0 || magnitude != 1 {
                    f.write_str("*")?;
                }
                write!(f, "{a}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Atom::Sym(s) => crate::text::write_name(f, s),
            Atom::FloorDiv(a, b) => write!(f, "floordiv({a},{b})"),
            Atom::Mod(a, b) => write!(f, "mod({a},{b})"),
            Atom::Max(a, b) => write!(f, "max({a},{b})"),
            Atom::Min(a, b) => write!(f, "min({a},{b})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn n() -> Expr {
        Expr::symbol("N")
    }

    #[test]
    fn the_plainer_size_is_the_same_in_either_order() {
        let more = n().add(&Expr::constant(1)).unwrap();
        let dims = [Dim::Known(3), Dim::Sym(n()), Dim::symbol("M"), Dim::Sym(more), Dim::Unknown];
        for (i, a) in dims.iter().enumerate() {
            for b in &dims {
                assert_eq!(a.plainer(b), b.plainer(a));
            }
            assert!(dims[i..].iter().all(|b| i == 1 || a.plainer(b) == a), "{a} is the plainer");
        }
    }

    #[test]
    fn normal_form_makes_equal_sizes_equal() {
        let two_n = n().add(&n()).unwrap();
        assert_eq!(two_n, n().mul(&Expr::constant(2)).unwrap());
        assert_eq!(two_n.floor_div(&Expr::constant(2)), Some(n()));
        assert_eq!(two_n.sub(&n()).unwrap().sub(&n()).unwrap().as_const(), Some(0));
        assert_eq!(n().maximum(&two_n), Some(two_n.clone()));
        assert_eq!(two_n.add(&Expr::constant(-3)).unwrap().to_string(), "2*N-3");
    }

    #[test]
    fn overflow_is_unknown() {
        let big = Expr::constant(i64::MAX);
        assert_eq!(big.add(&Expr::constant(1)), None);
        assert_eq!(Expr::constant(i64::MIN).exact_div(&Expr::constant(-1)), None);
        assert_eq!(n().floor_div(&Expr::constant(0)), None);
    }

    #[test]
    fn a_cut_is_recognized_only_above_one() {
        let cut = |c| n().minimum(&Expr::constant(c)).unwrap().is_cut_of(&n());
        assert!(cut(2) && cut(512));
        assert!(!cut(1) && !cut(0));
        assert!(
            !n().minimum(&Expr::constant(4)).unwrap().is_cut_of(&Expr::symbol("M"))
                && !n().is_cut_of(&n().minimum(&Expr::constant(4)).unwrap())
        );
    }

    proptest! {
        #[test]
        fn arithmetic_agrees_with_numbers(a in -50i64..50, c in 1i64..9, n in 0i64..40, m in 0i64..40) {
            let b: Bindings = [("N".into(), n), ("M".into(), m)].into();
            let x = Expr::symbol("N").mul(&Expr::constant(3)).unwrap().add(&Expr::constant(a)).unwrap();
            let y = Expr::symbol("M").mul(&Expr::symbol("N")).unwrap();
            let (xv, yv) = (3 * n + a, m * n);
            let k = Expr::constant(c);
            prop_assert_eq!(x.add(&y).unwrap().eval(&b), Some(xv + yv));
            prop_assert_eq!(x.mul(&y).unwrap().eval(&b), Some(xv * yv));
            prop_assert_eq!(x.floor_div(&k).unwrap().eval(&b), Some(xv.div_euclid(c)));
            prop_assert_eq!(x.ceil_div(&k).unwrap().eval(&b), Some(-(-xv).div_euclid(c)));
            prop_assert_eq!(x.modulo(&k).unwrap().eval(&b), Some(xv.rem_euclid(c)));
            prop_assert_eq!(x.maximum(&y).unwrap().eval(&b), Some(xv.max(yv)));
            prop_assert_eq!(x.minimum(&y).unwrap().eval(&b), Some(xv.min(yv)));
        }
    }
}
