//! Tokens of a template.

use crate::ast::Span;
use crate::text::decode_rune;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Assign,
    Bool,
    Char,
    CharConstant,
    Complex,
    Declare,
    Dot,
    Eof,
    Field,
    Identifier,
    LeftDelim,
    LeftParen,
    Number,
    Pipe,
    RawString,
    RightDelim,
    RightParen,
    Space,
    String,
    Text,
    Variable,
    // Keywords.
    Block,
    Break,
    Continue,
    Define,
    Else,
    End,
    If,
    Nil,
    Range,
    Template,
    With,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) at: Span,
}

/// What can't be read, and where.
pub(crate) type Wrong = (usize, String);

pub(crate) struct Lexer<'a> {
    source: &'a str,
    left: &'a str,
    right: &'a str,
    at: usize,
    inside: bool,
    parens: usize,
}

const SPACES: [char; 4] = [' ', '\t', '\r', '\n'];

fn is_space(c: char) -> bool {
    SPACES.contains(&c)
}

fn is_alphanumeric(c: char) -> bool {
    // Go's letters and digits: categories L and Nd.
    c == '_' || c.is_alphabetic() && is_letter(c) || is_decimal_digit(c)
}

/// `char::is_alphabetic` also takes marks and letter-like numbers, which are no letters to Go.
fn is_letter(c: char) -> bool {
    c.is_ascii_alphabetic() || (!c.is_ascii() && c.is_alphabetic() && !c.is_numeric())
}

fn is_decimal_digit(c: char) -> bool {
    c.is_ascii_digit()
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(source: &'a str, left: &'a str, right: &'a str) -> Self {
        Self { source, left, right, at: 0, inside: false, parens: 0 }
    }

    fn rest(&self) -> &'a str {
        &self.source[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn token(&self, kind: Kind, start: usize) -> Token {
        Token { kind, at: Span { start, end: self.at } }
    }

    /// The right delimiter here, and whether the blanks behind it go.
    fn right_delim(&self) -> Option<bool> {
        let rest = self.rest();
        if rest.starts_with(is_space) && rest[1..].starts_with('-') && rest[2..].starts_with(self.right) {
            return Some(true);
        }
        rest.starts_with(self.right).then_some(false)
    }

    pub(crate) fn next(&mut self) -> Result<Token, Wrong> {
        if self.inside { self.in_action() } else { self.in_text() }
    }

    fn in_text(&mut self) -> Result<Token, Wrong> {
        loop {
            let start = self.at;
            let Some(found) = self.rest().find(self.left) else {
                self.at = self.source.len();
                let kind = if start < self.at { Kind::Text } else { Kind::Eof };
                return Ok(self.token(kind, start));
            };
            let delim = start + found;
            let behind = &self.source[delim + self.left.len()..];
            let trims = behind.starts_with('-') && behind[1..].starts_with(is_space);
            let mut end = delim;
            if trims {
                end = start + self.source[start..delim].trim_end_matches(SPACES).len();
            }
            if end > start {
                self.at = delim;
                return Ok(Token { kind: Kind::Text, at: Span { start, end } });
            }
            self.at = delim + self.left.len();
            if trims {
                self.at += 2;
            }
            if !self.rest().starts_with("/*") {
                self.inside = true;
                self.parens = 0;
                return Ok(self.token(Kind::LeftDelim, delim));
            }
            self.comment()?;
        }
    }

    fn comment(&mut self) -> Result<(), Wrong> {
        let start = self.at;
        let end = self.rest()[2..].find("*/").ok_or_else(|| (start, "unclosed comment".to_owned()))?;
        self.at += 2 + end + 2;
        match self.right_delim() {
            None => Err((start, "comment ends before closing delimiter".to_owned())),
            Some(trims) => {
                self.skip_right_delim(trims);
                Ok(())
            }
        }
    }

    fn skip_right_delim(&mut self, trims: bool) {
        self.at += self.right.len() + if trims { 2 } else { 0 };
        if trims {
            self.at += self.rest().len() - self.rest().trim_start_matches(SPACES).len();
        }
    }

    fn in_action(&mut self) -> Result<Token, Wrong> {
        let start = self.at;
        if let Some(trims) = self.right_delim() {
            if self.parens > 0 {
                return Err((start, "unclosed left paren".to_owned()));
            }
            self.skip_right_delim(trims);
            self.inside = false;
            return Ok(self.token(Kind::RightDelim, start));
        }
        let Some(c) = self.bump() else { return Err((start, "unclosed action".to_owned())) };
        let kind = match c {
            c if is_space(c) => {
                // A blank and a minus before the right delimiter belong to it.
                while self.peek().is_some_and(is_space) && self.right_delim().is_none() {
                    self.bump();
                }
                Kind::Space
            }
            '=' => Kind::Assign,
            ':' if self.bump() == Some('=') => Kind::Declare,
            ':' => return Err((start, "expected :=".to_owned())),
            '|' => Kind::Pipe,
            '"' => self.quoted(start, '"', "unterminated quoted string", Kind::String)?,
            '\'' => self.quoted(start, '\'', "unterminated character constant", Kind::CharConstant)?,
            '`' => {
                let end = self.rest().find('`').ok_or_else(|| (start, "unterminated raw quoted string".to_owned()))?;
                self.at += end + 1;
                Kind::RawString
            }
            '$' => self.name(start, Kind::Variable)?,
            '.' if !self.peek().is_some_and(|c| c.is_ascii_digit()) && self.at < self.source.len() => {
                self.name(start, Kind::Field)?
            }
            '.' | '+' | '-' | '0'..='9' => {
                self.at = start;
                self.number(start)?
            }
            c if is_alphanumeric(c) => self.word(start)?,
            '(' => {
                self.parens += 1;
                Kind::LeftParen
            }
            ')' if self.parens == 0 => return Err((start, "unexpected right paren".to_owned())),
            ')' => {
                self.parens -= 1;
                Kind::RightParen
            }
            c if c.is_ascii() && !c.is_ascii_control() => Kind::Char,
            c => return Err((start, format!("unrecognized character in action: {c:?}"))),
        };
        Ok(self.token(kind, start))
    }

    fn quoted(&mut self, start: usize, quote: char, unterminated: &str, kind: Kind) -> Result<Kind, Wrong> {
        loop {
            let c = match self.bump() {
                Some('\\') => self.bump().map(|c| if c == '\n' { c } else { ' ' }),
                c if c == Some(quote) => return Ok(kind),
                c => c,
            };
            if matches!(c, None | Some('\n')) {
                return Err((start, unterminated.to_owned()));
            }
        }
    }

    fn is_at_end_of_word(&self) -> bool {
        match self.peek() {
            None => true,
            Some(c) => is_space(c) || ".,|:)(".contains(c) || self.rest().starts_with(self.right),
        }
    }

    fn end_of_word(&self) -> Result<(), Wrong> {
        match self.is_at_end_of_word() {
            true => Ok(()),
            false => Err((self.at, format!("bad character {:?}", self.peek().unwrap_or_default()))),
        }
    }

    fn absorb_word(&mut self) -> Result<(), Wrong> {
        while self.peek().is_some_and(is_alphanumeric) {
            self.bump();
        }
        self.end_of_word()
    }

    /// A field or a variable, whose first sign is read.
    fn name(&mut self, start: usize, kind: Kind) -> Result<Kind, Wrong> {
        if self.is_at_end_of_word() {
            return Ok(if kind == Kind::Field { Kind::Dot } else { kind });
        }
        self.absorb_word().map_err(|(at, why)| (at.max(start), why))?;
        Ok(kind)
    }

    fn word(&mut self, start: usize) -> Result<Kind, Wrong> {
        self.absorb_word()?;
        Ok(match &self.source[start..self.at] {
            "true" | "false" => Kind::Bool,
            "block" => Kind::Block,
            "break" => Kind::Break,
            "continue" => Kind::Continue,
            "define" => Kind::Define,
            "else" => Kind::Else,
            "end" => Kind::End,
            "if" => Kind::If,
            "nil" => Kind::Nil,
            "range" => Kind::Range,
            "template" => Kind::Template,
            "with" => Kind::With,
            _ => Kind::Identifier,
        })
    }

    fn number(&mut self, start: usize) -> Result<Kind, Wrong> {
        let bad = |lexer: &Self| Err((start, format!("bad number syntax: {:?}", &lexer.source[start..lexer.at])));
        if !self.scan_number() {
            return bad(self);
        }
        if self.peek().is_some_and(|c| matches!(c, '+' | '-')) {
            if !self.scan_number() || !self.source[..self.at].ends_with('i') {
                return bad(self);
            }
            return Ok(Kind::Complex);
        }
        Ok(Kind::Number)
    }

    fn accept(&mut self, set: &str) -> bool {
        let fits = self.peek().is_some_and(|c| set.contains(c));
        if fits {
            self.bump();
        }
        fits
    }

    fn scan_number(&mut self) -> bool {
        const DECIMAL: &str = "0123456789_";
        const HEX: &str = "0123456789abcdefABCDEF_";
        self.accept("+-");
        let mut digits = DECIMAL;
        if self.accept("0") {
            if self.accept("xX") {
                digits = HEX;
            } else if self.accept("oO") {
                digits = "01234567_";
            } else if self.accept("bB") {
                digits = "01_";
            }
        }
        while self.accept(digits) {}
        if self.accept(".") {
            while self.accept(digits) {}
        }
        let exponent = (digits == DECIMAL && self.accept("eE")) || (digits == HEX && self.accept("pP"));
        if exponent {
            self.accept("+-");
            while self.accept(DECIMAL) {}
        }
        self.accept("i");
        if self.peek().is_some_and(is_alphanumeric) {
            self.bump();
            return false;
        }
        true
    }
}

/// Go's `strconv.Unquote`; none when it is no literal.
pub(crate) fn unquote(literal: &str) -> Option<Vec<u8>> {
    if let Some(raw) = literal.strip_prefix('`') {
        return Some(raw.strip_suffix('`')?.replace('\r', "").into_bytes());
    }
    let mut rest = literal.strip_prefix('"')?.strip_suffix('"')?;
    let mut bytes = Vec::with_capacity(rest.len());
    while !rest.is_empty() {
        rest = unquote_char(rest, '"', &mut bytes)?.1;
    }
    Some(bytes)
}

/// A character constant with its quotes.
pub(crate) fn unquote_rune(literal: &str) -> Option<char> {
    let mut bytes = Vec::new();
    let (code, rest) = unquote_char(literal.strip_prefix('\'')?, '\'', &mut bytes)?;
    if rest != "'" {
        return None;
    }
    Some(char::from_u32(code).unwrap_or_else(|| decode_rune(&bytes).0))
}

/// One character or escape: its code and the rest; its bytes are added.
fn unquote_char<'a>(text: &'a str, quote: char, bytes: &mut Vec<u8>) -> Option<(u32, &'a str)> {
    let mut chars = text.chars();
    let first = chars.next()?;
    if first == quote || first == '\n' {
        return None;
    }
    let mut push = |c: char| bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    if first != '\\' {
        push(first);
        return Some((first.into(), chars.as_str()));
    }
    let escape = chars.next()?;
    let simple = match escape {
        'a' => Some('\u{7}'),
        'b' => Some('\u{8}'),
        'f' => Some('\u{c}'),
        'n' => Some('\n'),
        'r' => Some('\r'),
        't' => Some('\t'),
        'v' => Some('\u{b}'),
        '\\' => Some('\\'),
        '\'' | '"' if escape == quote => Some(escape),
        _ => None,
    };
    if let Some(c) = simple {
        push(c);
        return Some((c.into(), chars.as_str()));
    }
    let rest = chars.as_str();
    let (digits, base, rest) = match escape {
        'x' => (rest.get(..2)?, 16, rest.get(2..)?),
        'u' => (rest.get(..4)?, 16, rest.get(4..)?),
        'U' => (rest.get(..8)?, 16, rest.get(8..)?),
        '0'..='7' => (text.get(1..4)?, 8, text.get(4..)?),
        _ => return None,
    };
    if !digits.chars().all(|c| c.is_digit(base)) {
        return None;
    }
    let code = u32::from_str_radix(digits, base).ok()?;
    if matches!(escape, 'u' | 'U') {
        push(char::from_u32(code)?);
    } else {
        bytes.push(u8::try_from(code).ok()?);
    }
    Some((code, rest))
}
