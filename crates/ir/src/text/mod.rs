//! Graphs as text.
//!
//! ```text
//! graph @main(%x: f32[N,3]) -> ("y" = %1) {
//!   %w: f32[3,2] = const @"layer.weight"
//!   %1: f32[N,2] = matmul %x, %w {epilogue=[relu]} !"MatMul_0"
//! }
//! ```
//!
//! A value is `%` and its name: bare when it is an identifier, quoted when it is not, a number when it
//! has none. `_` is an operand left out. Small constants stand in the text; the others are
//! named, and their tensors lie beside it ([`Text::tensors`]). Types are those of the graph; the parser
//! infers them again and keeps what the text adds.

mod lex;
mod parse;
mod print;

pub use parse::{parse, parse_with};
pub use print::{Text, print};

use std::fmt;

/// Writes a name bare when it is an identifier, else quoted.
pub(crate) fn write_name(f: &mut impl fmt::Write, name: &str) -> fmt::Result {
    let mut chars = name.chars();
    let head = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    if head && name != "_" && chars.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.') {
        f.write_str(name)
    } else {
        write_quoted(f, name)
    }
}

/// Writes a quoted string: control characters, which could steer a terminal, never stand as they are.
pub(crate) fn write_quoted(f: &mut impl fmt::Write, s: &str) -> fmt::Result {
    f.write_char('"')?;
    for c in s.chars() {
        match c {
            '"' | '\\' => {
                f.write_char('\\')?;
                f.write_char(c)?;
            }
            '\n' => f.write_str("\\n")?,
            c if c.is_control() || ('\u{200b}'..='\u{206f}').contains(&c) => {
                write!(f, "\\u{{{:x}}}", c as u32)?;
            }
            c => f.write_char(c)?,
        }
    }
    f.write_char('"')
}
