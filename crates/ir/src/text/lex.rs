use crate::error::IrError;

/// A token of the text form.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// A bare word: `graph`, `f32`, `conv`, `inf`.
    Word(String),
    /// A quoted string.
    Str(String),
    /// An integer.
    Int(i64),
    /// A number with a point or an exponent.
    Float(f32),
    /// `0x..`: an even number of digits.
    Hex(Vec<u8>),
    /// `->`
    Arrow,
    /// `..`
    Dots,
    /// Any other single character.
    Sym(char),
    /// The end.
    End,
}

/// Cuts the text into tokens, one at a time.
pub(super) struct Lexer<'a> {
    rest: &'a str,
    pub(super) line: usize,
    pub(super) peeked: Option<Token>,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Lexer { rest: text, line: 1, peeked: None }
    }

    pub(super) fn error<T>(&self, what: impl Into<String>) -> Result<T, IrError> {
        Err(IrError::Parse { line: self.line, what: what.into() })
    }

    pub(super) fn peek(&mut self) -> Result<&Token, IrError> {
        if self.peeked.is_none() {
            self.peeked = Some(self.scan()?);
        }
        Ok(self.peeked.as_ref().expect("just filled"))
    }

    pub(super) fn next(&mut self) -> Result<Token, IrError> {
        match self.peeked.take() {
            Some(t) => Ok(t),
            None => self.scan(),
        }
    }

    fn scan(&mut self) -> Result<Token, IrError> {
        loop {
            let trimmed = self.rest.trim_start_matches([' ', '\t', '\r']);
            self.rest = trimmed;
            if let Some(r) = trimmed.strip_prefix('\n') {
                self.line += 1;
                self.rest = r;
            } else if trimmed.starts_with('#') {
                self.rest = &trimmed[trimmed.find('\n').unwrap_or(trimmed.len())..];
            } else {
                break;
            }
        }
        let Some(c) = self.rest.chars().next() else { return Ok(Token::End) };
        if c == '"' {
            return self.string();
        }
        if let Some(hex) = self.rest.strip_prefix("0x") {
            let n = hex.bytes().take_while(u8::is_ascii_hexdigit).count();
            let (digits, rest) = hex.split_at(n);
            self.rest = rest;
            let pairs = digits.as_bytes().chunks(2).map(|p| {
                std::str::from_utf8(p)
                    .ok()
                    .filter(|s| s.len() == 2)
                    .and_then(|s| u8::from_str_radix(s, 16).ok())
            });
            return match pairs.collect() {
                Some(bytes) => Ok(Token::Hex(bytes)),
                None => self.error("hexadecimal digits come in pairs"),
            };
        }
        for (symbol, token) in [("->", Token::Arrow), ("..", Token::Dots)] {
            if let Some(r) = self.rest.strip_prefix(symbol) {
                self.rest = r;
                return Ok(token);
            }
        }
        if c.is_ascii_digit() || (c == '-' && self.rest[1..].starts_with(|c: char| c.is_ascii_digit())) {
            return self.number();
        }
        if c.is_ascii_alphabetic() || c == '_' {
            let n = self
                .rest
                .bytes()
                .take_while(|b| b.is_ascii_alphanumeric() || *b == b'_' || *b == b'.')
                .count();
            let (word, rest) = self.rest.split_at(n);
            self.rest = rest;
            return Ok(Token::Word(word.into()));
        }
        self.rest = &self.rest[c.len_utf8()..];
        Ok(Token::Sym(c))
    }

    fn number(&mut self) -> Result<Token, IrError> {
        let bytes = self.rest.as_bytes();
        let mut n = 1;
        while let Some(&b) = bytes.get(n) {
            let sign = (b == b'-' || b == b'+') && matches!(bytes[n - 1], b'e' | b'E');
            if !(b.is_ascii_digit() || b == b'.' || b == b'e' || b == b'E' || sign) {
                break;
            }
            n += 1;
        }
        let (digits, rest) = self.rest.split_at(n);
        self.rest = rest;
        if let Ok(i) = digits.parse() {
            return Ok(Token::Int(i));
        }
        match digits.parse() {
            Ok(f) if digits.contains(['.', 'e', 'E']) => Ok(Token::Float(f)),
            _ => self.error(format!("`{digits}` is no number")),
        }
    }

    fn string(&mut self) -> Result<Token, IrError> {
        let mut out = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.rest = &self.rest[i + 1..];
                    return Ok(Token::Str(out));
                }
                '\n' => break,
                '\\' => match chars.next().map(|c| c.1) {
                    Some('n') => out.push('\n'),
                    Some('u') => {
                        let mut code = 0u32;
                        for (k, (_, c)) in chars.by_ref().enumerate() {
                            match (k, c) {
                                (0, '{') => {}
                                (1..=8, '}') => break,
                                (1..=8, c) if c.is_ascii_hexdigit() => {
                                    code = (code << 4) | c.to_digit(16).unwrap_or(0);
                                }
                                _ => return self.error("a character is written \\u{..}"),
                            }
                        }
                        let Some(c) = char::from_u32(code) else { return self.error("no such character") };
                        out.push(c);
                    }
                    Some(c @ ('"' | '\\')) => out.push(c),
                    _ => return self.error("unknown escape in a string"),
                },
                c => out.push(c),
            }
        }
        self.error("a string does not end")
    }
}
