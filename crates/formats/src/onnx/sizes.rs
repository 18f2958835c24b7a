//! Names of sizes that spell out what they are made of.
//!
//! ONNX knows no arithmetic of sizes, so exporters of decoders with a cache name the keys' axis
//! `past_sequence_length + sequence_length`.

use std::collections::HashSet;
use tensormill_ir::{Expr, dim::Symbol};

/// Longest name that is looked into.
const MAX_NAME: usize = 200;

/// The sum that a name spells: whole numbers and names joined by `+`, `*`, and `-` after a space, for names may have
/// hyphens. A name alone is none.
pub(super) fn sum(name: &str) -> Option<Expr> {
    if name.len() > MAX_NAME || !name.contains(['+', '-', '*']) {
        return None;
    }
    let mut sum = Expr::constant(0);
    let mut rest = name;
    let mut negative = false;
    loop {
        let end = rest.find(['+', '-']).unwrap_or(rest.len());
        let mut term = Expr::constant(1);
        for factor in rest[..end].split('*') {
            term = term.mul(&one(factor.trim())?)?;
        }
        sum = if negative { sum.sub(&term)? } else { sum.add(&term)? };
        let Some(sign) = rest[end..].chars().next() else { return Some(sum) };
        negative = sign == '-';
        if negative && !rest[..end].ends_with(' ') {
            return None;
        }
        rest = &rest[end + 1..];
    }
}

/// A number or a plain name.
fn one(s: &str) -> Option<Expr> {
    if s.starts_with(|c: char| c.is_ascii_digit()) {
        return s.parse().ok().map(Expr::constant);
    }
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.');
    (!s.is_empty() && s.chars().all(plain)).then(|| Expr::symbol(s))
}

/// Whether all names in an expression are among these.
pub(super) fn made_of(e: &Expr, names: &HashSet<Symbol>) -> bool {
    let mut all = true;
    e.for_each_symbol(&mut |s| all &= names.contains(s));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_read() {
        let read = |s: &str| sum(s).map(|e| e.to_string());
        assert_eq!(
            read("past_sequence_length + sequence_length"),
            read("sequence_length+past_sequence_length")
        );
        assert_eq!(read("n + 1").as_deref(), Some("n+1"));
        assert_eq!(read("2 * n - m").as_deref(), read("n - m + n").as_deref());
        // What is written of a sum is read again as that.
        let e = sum("a*b + 2*c + 3").unwrap();
        assert_eq!(sum(&e.to_string()), Some(e));
    }

    #[test]
    fn what_is_no_sum_stays_a_name() {
        for name in [
            "n",
            "",
            "+",
            "n +",
            "-n",
            "dim-1",
            "2*n-m",
            "a b + c",
            "max(a,b) + 1",
            "a / b - 1",
            "99999999999999999999 + n",
        ] {
            assert_eq!(sum(name), None, "{name}");
        }
        assert_eq!(sum(&"a+".repeat(150)), None);
    }
}
