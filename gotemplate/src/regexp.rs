//! Go's `regexp`: RE2's syntax as <https://pkg.go.dev/regexp/syntax> has it, leftmost-first, in time that is linear.
//!
//! A pattern is read with Go's rules and handed to the `regex` crate in an unmistakable form: classes such as `\d` are ASCII, what
//! only that crate knows (`[a&&b]`, `\<`, `(?x)`) is plain text or an error, as in Go.

use std::cell::RefCell;
use std::collections::HashMap;

use regex::bytes::{Regex, RegexBuilder};

/// Bytes that a compiled pattern may take.
const SIZE: usize = 256 << 10;
/// Most repetitions of one part, as in Go.
const REPETITIONS: u32 = 1000;

/// A pattern.
#[derive(Clone, Debug)]
pub struct Regexp {
    regex: Regex,
    /// The names of its groups, from the second on.
    names: Vec<Option<String>>,
    is_empty: bool,
}

impl Regexp {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it, quoting the part.
    pub fn new(pattern: &str) -> Result<Self, String> {
        let mut reader =
            Reader { rest: pattern.chars().collect(), at: 0, out: String::new(), flags: String::new(), names: Vec::new() };
        reader.read()?;
        let regex =
            RegexBuilder::new(&reader.out).size_limit(SIZE).dfa_size_limit(SIZE).build().map_err(|error| match error {
                regex::Error::CompiledTooBig(_) => "the regexp is too large".to_owned(),
                _ => format!("the regexp is not valid: {}", reason(&error)),
            })?;
        Ok(Self { regex, names: reader.names, is_empty: pattern.is_empty() })
    }

    /// Whether it matches anywhere.
    pub fn is_match(&self, text: &[u8]) -> bool {
        self.regex.is_match(text)
    }

    /// The first match.
    pub fn find<'a>(&self, text: &'a [u8]) -> Option<&'a [u8]> {
        self.regex.find(text).map(|found| found.as_bytes())
    }

    /// Matches that do not overlap; a limit below zero is none.
    pub fn find_all<'a>(&self, text: &'a [u8], limit: i64) -> Vec<&'a [u8]> {
        self.ranges(text, limit).into_iter().map(|(from, to)| &text[from..to]).collect()
    }

    /// Every match's range, for somebody who stops when it is enough.
    pub(crate) fn each(&self, text: &[u8], mut see: impl FnMut(usize, usize) -> Result<(), String>) -> Result<(), String> {
        self.regex.find_iter(text).try_for_each(|found| see(found.start(), found.end()))
    }

    fn ranges(&self, text: &[u8], limit: i64) -> Vec<(usize, usize)> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let ranges = self.regex.find_iter(text).map(|found| (found.start(), found.end()));
        ranges.filter(|range| !is_within_rune(text, *range)).take(limit).collect()
    }

    /// What is between matches, at most so many parts; a limit below zero is none.
    pub fn split<'a>(&self, text: &'a [u8], limit: i64) -> Vec<&'a [u8]> {
        if limit == 0 {
            return Vec::new();
        }
        if !self.is_empty && text.is_empty() {
            return vec![text];
        }
        let mut parts = Vec::new();
        let (mut begin, mut end) = (0, 0);
        for (from, to) in self.ranges(text, limit) {
            if limit > 0 && parts.len() as i64 == limit - 1 {
                break;
            }
            end = from;
            if to != 0 {
                parts.push(&text[begin..end]);
            }
            begin = to;
        }
        if end != text.len() {
            parts.push(&text[begin..]);
        }
        parts
    }

    /// Every match replaced by what a template such as `$1` or `${name}` means; at most so many bytes.
    ///
    /// # Errors
    /// When the result is longer.
    pub fn replace_all(&self, text: &[u8], template: &[u8], most: usize) -> Result<Vec<u8>, String> {
        self.replace(text, most, |captures, out| self.expand(template, captures, out, most))
    }

    /// Every match replaced by a text.
    ///
    /// # Errors
    /// When the result is longer than so many bytes.
    pub fn replace_all_literal(&self, text: &[u8], with: &[u8], most: usize) -> Result<Vec<u8>, String> {
        self.replace(text, most, |_, out| {
            check(out.len() + with.len(), most)?;
            out.extend_from_slice(with);
            Ok(())
        })
    }

    fn replace(
        &self,
        text: &[u8],
        most: usize,
        write: impl Fn(&regex::bytes::Captures<'_>, &mut Vec<u8>) -> Result<(), String>,
    ) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        let mut at = 0;
        for captures in self.regex.captures_iter(text) {
            let Some(whole) = captures.get(0).filter(|whole| !is_within_rune(text, (whole.start(), whole.end()))) else {
                continue;
            };
            out.extend_from_slice(&text[at..whole.start()]);
            write(&captures, &mut out)?;
            at = whole.end();
            check(out.len(), most)?;
        }
        out.extend_from_slice(&text[at..]);
        Ok(out)
    }

    fn expand(
        &self,
        template: &[u8],
        captures: &regex::bytes::Captures<'_>,
        out: &mut Vec<u8>,
        most: usize,
    ) -> Result<(), String> {
        let mut rest = template;
        while let Some(at) = rest.iter().position(|byte| *byte == b'$') {
            out.extend_from_slice(&rest[..at]);
            rest = &rest[at + 1..];
            if rest.first() == Some(&b'$') {
                out.push(b'$');
                rest = &rest[1..];
                continue;
            }
            let Some((name, length)) = reference(rest) else {
                out.push(b'$');
                continue;
            };
            rest = &rest[length..];
            let index = match number(&name) {
                Some(index) => Some(index),
                None => self.names.iter().rposition(|there| there.as_deref() == Some(&name)).map(|i| i + 1),
            };
            if let Some(group) = index.and_then(|index| captures.get(index)) {
                check(out.len() + group.len(), most)?;
                out.extend_from_slice(group.as_bytes());
            }
        }
        out.extend_from_slice(rest);
        Ok(())
    }
}

fn check(length: usize, most: usize) -> Result<(), String> {
    if length > most { Err(format!("the replaced text is longer than {most} bytes")) } else { Ok(()) }
}

/// Nothing is matched within a rune, not even nothing.
fn is_within_rune(text: &[u8], (from, to): (usize, usize)) -> bool {
    from == to && text.get(from).is_some_and(|byte| byte & 0xc0 == 0x80)
}

/// The name in `name…` or `{name}…`, and how long it is as it is written.
fn reference(text: &[u8]) -> Option<(String, usize)> {
    let (body, braces) = match text.strip_prefix(b"{") {
        Some(body) => (body, true),
        None => (text, false),
    };
    let mut length = 0;
    for (at, rune, size) in crate::text::runes(body) {
        if !(rune == '_' || rune.is_alphanumeric()) {
            break;
        }
        length = at + size;
    }
    let name = std::str::from_utf8(&body[..length]).ok().filter(|name| !name.is_empty())?.to_owned();
    match braces {
        true => (body.get(length) == Some(&b'}')).then_some((name, length + 2)),
        false => Some((name, length)),
    }
}

fn number(name: &str) -> Option<usize> {
    if name.len() > 1 && name.starts_with('0') {
        return None;
    }
    name.bytes().all(|byte| byte.is_ascii_digit()).then(|| name.parse().unwrap_or(usize::MAX))
}

/// `regexp.QuoteMeta`
pub fn quote_meta(text: &[u8]) -> Vec<u8> {
    let mut quoted = Vec::with_capacity(text.len());
    for byte in text {
        if br"\.+*?()|[]{}^$".contains(byte) {
            quoted.push(b'\\');
        }
        quoted.push(*byte);
    }
    quoted
}

/// What the crate says, in a line: its last.
fn reason(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    last.trim_start_matches("error: ").to_owned()
}

thread_local! {
    static CLASSES: RefCell<HashMap<&'static str, regex::Regex>> = RefCell::default();
}

/// Whether a rune is in a class that is written in the crate's own syntax.
pub(crate) fn is_in(rune: char, class: &'static str) -> bool {
    CLASSES.with_borrow_mut(|classes| {
        let regex = classes.entry(class).or_insert_with(|| regex::Regex::new(class).unwrap_or_else(|_| unreachable!()));
        regex.is_match(rune.encode_utf8(&mut [0; 4]))
    })
}

struct Reader {
    rest: Vec<char>,
    at: usize,
    out: String,
    /// Flags that hold from the next part on.
    flags: String,
    names: Vec<Option<String>>,
}

/// `\pL` and its like: general categories, as Go knows them.
const CATEGORIES: &[&str] = &[
    "C", "Cc", "Cf", "Co", "Cs", "L", "Ll", "Lm", "Lo", "Lt", "Lu", "M", "Mc", "Me", "Mn", "N", "Nd", "Nl", "No", "P", "Pc",
    "Pd", "Pe", "Pf", "Pi", "Po", "Ps", "S", "Sc", "Sk", "Sm", "So", "Z", "Zl", "Zp", "Zs",
];
const NAMED: &[&str] = &[
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "word", "xdigit",
];

impl Reader {
    fn peek(&self) -> Option<char> {
        self.rest.get(self.at).copied()
    }

    fn take(&mut self) -> Option<char> {
        let next = self.peek();
        self.at += usize::from(next.is_some());
        next
    }

    fn eat(&mut self, wanted: &str) -> bool {
        let is_there = self.rest[self.at..].iter().copied().take(wanted.chars().count()).eq(wanted.chars());
        if is_there {
            self.at += wanted.chars().count();
        }
        is_there
    }

    fn since(&self, start: usize) -> String {
        self.rest[start..self.at.min(self.rest.len())].iter().collect()
    }

    fn literal(&mut self, rune: char) {
        let plain = rune.is_ascii_alphanumeric() || (!rune.is_ascii() && !rune.is_whitespace());
        match plain {
            true => self.out.push(rune),
            false => self.out.push_str(&format!(r"\x{{{:x}}}", u32::from(rune))),
        }
    }

    fn read(&mut self) -> Result<(), String> {
        let mut repeated = false;
        while let Some(next) = self.take() {
            let start = self.at - 1;
            let was_repeated = std::mem::replace(&mut repeated, false);
            if !matches!(next, '*' | '+' | '?' | '{' | '(') {
                self.flush();
            }
            match next {
                '*' | '+' | '?' => {
                    self.out.push(next);
                    repeated = true;
                }
                '{' => match self.repetition()? {
                    Some(text) => {
                        self.out.push_str(&text);
                        repeated = true;
                    }
                    None => {
                        self.flush();
                        self.literal('{');
                    }
                },
                '(' => self.group()?,
                ')' | '|' | '^' | '$' | '.' => self.out.push(next),
                '[' => self.class()?,
                '\\' if self.eat("Q") => {
                    while self.at < self.rest.len() && !self.eat(r"\E") {
                        if let Some(rune) = self.take() {
                            self.literal(rune);
                        }
                    }
                }
                '\\' => self.escape()?,
                other => self.literal(other),
            }
            if repeated {
                if self.eat("?") {
                    self.out.push('?');
                }
                if was_repeated {
                    return Err(format!("invalid nested repetition operator: {:?}", self.since(start)));
                }
            }
        }
        self.flush();
        Ok(())
    }

    fn flush(&mut self) {
        self.out.push_str(&std::mem::take(&mut self.flags));
    }

    /// `{2}`, `{2,}` or `{2,5}` after its brace; anything else is plain text.
    fn repetition(&mut self) -> Result<Option<String>, String> {
        let start = self.at;
        let counted = self.count().and_then(|least| {
            let most = match self.eat(",") {
                false => Some(Some(least)),
                true if self.peek() == Some('}') => Some(None),
                true => self.count().map(Some),
            };
            most.filter(|_| self.eat("}")).map(|most| (least, most))
        });
        let Some((least, most)) = counted else {
            self.at = start;
            return Ok(None);
        };
        if least > REPETITIONS || most.is_some_and(|most| most > REPETITIONS || most < least) {
            return Err(format!("invalid repeat count: {{{}", self.since(start)));
        }
        Ok(Some(match most {
            Some(most) => format!("{{{least},{most}}}"),
            None => format!("{{{least},}}"),
        }))
    }

    fn count(&mut self) -> Option<u32> {
        let start = self.at;
        while self.peek().is_some_and(|rune| rune.is_ascii_digit()) {
            self.at += 1;
        }
        let digits = self.since(start);
        if digits.is_empty() || (digits.len() > 1 && digits.starts_with('0')) {
            return None;
        }
        Some(digits.parse().unwrap_or(u32::MAX))
    }

    fn group(&mut self) -> Result<(), String> {
        if !self.eat("?") {
            self.flush();
            self.names.push(None);
            self.out.push('(');
            return Ok(());
        }
        let start = self.at;
        if self.eat("P<") || self.eat("<") {
            self.flush();
            let from = self.at;
            while self.peek().is_some_and(|rune| rune != '>') {
                self.at += 1;
            }
            let name = self.since(from);
            let is_sound = self.eat(">") && !name.is_empty() && name.chars().all(|r| r == '_' || r.is_ascii_alphanumeric());
            if !is_sound {
                return Err(format!("invalid named capture: (?{}", self.since(start)));
            }
            if self.names.iter().flatten().any(|there| *there == name) {
                return Err(format!("duplicate capture group name: {name:?}"));
            }
            self.names.push(Some(name));
            self.out.push('(');
            return Ok(());
        }
        let (mut minus, mut any) = (false, false);
        while let Some(next) = self.take() {
            match next {
                'i' | 'm' | 's' | 'U' => any = true,
                '-' if !minus => {
                    minus = true;
                    any = false;
                }
                ':' | ')' if !minus || any => {
                    let flags = self.since(start);
                    match flags.as_str() {
                        // Go allows flags that are none; the crate does not.
                        ")" => {}
                        // To Go, what repeats behind flags repeats what stands before them.
                        _ if next == ')' => self.flags.push_str(&format!("(?{flags}")),
                        _ => {
                            self.flush();
                            self.out.push_str(&format!("(?{flags}"));
                        }
                    }
                    return Ok(());
                }
                _ => break,
            }
        }
        Err(format!("invalid or unsupported Perl syntax: (?{}", self.since(start)))
    }

    /// A class such as `\d` or `\pL`, as it stands within brackets; after its backslash.
    fn perl_class(&mut self) -> Result<Option<String>, String> {
        let start = self.at;
        let class = match self.peek() {
            Some('d') => "[0-9]",
            Some('D') => "[^0-9]",
            Some('s') => r"[\t\n\f\r ]",
            Some('S') => r"[^\t\n\f\r ]",
            Some('w') => "[0-9A-Za-z_]",
            Some('W') => "[^0-9A-Za-z_]",
            Some('p' | 'P') => {
                let mut negated = self.take() == Some('P');
                let name = match self.take() {
                    Some('{') => {
                        let from = self.at;
                        while self.peek().is_some_and(|rune| rune != '}') {
                            self.at += 1;
                        }
                        let name = self.since(from);
                        if !self.eat("}") {
                            return Err(format!("invalid character class range: \\{}", self.since(start)));
                        }
                        name
                    }
                    Some(one) => one.to_string(),
                    None => return Err(format!("invalid character class range: \\{}", self.since(start))),
                };
                let name = match name.strip_prefix('^') {
                    Some(rest) => {
                        negated = !negated;
                        rest.to_owned()
                    }
                    None => name,
                };
                let is_script = name.len() > 2 && name.starts_with(|c: char| c.is_ascii_uppercase());
                if !is_script && !CATEGORIES.contains(&name.as_str()) {
                    return Err(format!("invalid character class range: \\{}", self.since(start)));
                }
                let letter = if negated { 'P' } else { 'p' };
                let kind = if name == "Any" || !is_script { String::new() } else { "Script=".to_owned() };
                return Ok(Some(format!(r"\{letter}{{{kind}{name}}}")));
            }
            _ => return Ok(None),
        };
        self.at += 1;
        Ok(Some(class.to_owned()))
    }

    fn escape(&mut self) -> Result<(), String> {
        match self.peek() {
            Some('A') => self.out.push_str(r"\A"),
            Some('z') => self.out.push_str(r"\z"),
            Some('b') => self.out.push_str(r"(?-u:\b)"),
            Some('B') => self.out.push_str(r"(?-u:\B)"),
            _ => {
                match self.perl_class()? {
                    Some(class) => self.out.push_str(&class),
                    None => {
                        let rune = self.escaped_rune()?;
                        self.literal(rune);
                    }
                }
                return Ok(());
            }
        }
        self.at += 1;
        Ok(())
    }

    /// What an escape means that is one rune; after its backslash.
    fn escaped_rune(&mut self) -> Result<char, String> {
        let start = self.at;
        let Some(next) = self.take() else { return Err("trailing backslash at end of expression".into()) };
        let rune = match next {
            '1'..='7' if !self.peek().is_some_and(|rune| ('0'..='7').contains(&rune)) => None,
            '0'..='7' => {
                let mut code = next.to_digit(8).unwrap_or(0);
                for _ in 0..2 {
                    let Some(digit) = self.peek().and_then(|rune| rune.to_digit(8)) else { break };
                    self.at += 1;
                    code = code * 8 + digit;
                }
                char::from_u32(code)
            }
            'x' if self.eat("{") => {
                let from = self.at;
                while self.peek().is_some_and(|rune| rune.is_ascii_hexdigit()) {
                    self.at += 1;
                }
                let code = u32::from_str_radix(&self.since(from), 16).ok();
                code.filter(|_| self.eat("}")).and_then(char::from_u32)
            }
            'x' => {
                let from = self.at;
                self.at = (self.at + 2).min(self.rest.len());
                let digits = self.since(from);
                let is_sound = digits.len() == 2 && digits.chars().all(|rune| rune.is_ascii_hexdigit());
                is_sound.then(|| u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32)).flatten()
            }
            'a' => Some('\x07'),
            'f' => Some('\x0c'),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            'v' => Some('\x0b'),
            other if other.is_ascii() && !other.is_ascii_alphanumeric() => Some(other),
            _ => None,
        };
        rune.ok_or_else(|| format!("invalid escape sequence: \\{}", self.since(start)))
    }

    /// A class in brackets; after the first.
    fn class(&mut self) -> Result<(), String> {
        let start = self.at - 1;
        let missing = |reader: &Self| format!("missing closing ]: {:?}", reader.rest[start..].iter().collect::<String>());
        let mut class = String::from(if self.eat("^") { "[^" } else { "[" });
        let mut first = true;
        loop {
            match self.peek() {
                None => return Err(missing(self)),
                Some(']') if !first => {
                    self.at += 1;
                    break;
                }
                _ => {}
            }
            first = false;
            if self.eat("[:") {
                if let Some(name) = self.named_class()? {
                    class.push_str(&name);
                    continue;
                }
                self.at -= 2;
            }
            if self.eat("\\") {
                if let Some(inner) = self.perl_class()? {
                    class.push_str(&inner);
                    continue;
                }
                self.at -= 1;
            }
            let from = self.at;
            let low = self.class_rune().map_err(|why| why.unwrap_or_else(|| missing(self)))?;
            let is_range = self.peek() == Some('-') && self.rest.get(self.at + 1).is_some_and(|rune| *rune != ']');
            let high = match is_range {
                true => {
                    self.at += 1;
                    self.class_rune().map_err(|why| why.unwrap_or_else(|| missing(self)))?
                }
                false => low,
            };
            if high < low {
                return Err(format!("invalid character class range: {:?}", self.since(from)));
            }
            class.push_str(&format!(r"\x{{{:x}}}-\x{{{:x}}}", u32::from(low), u32::from(high)));
        }
        class.push(']');
        self.out.push_str(&class);
        Ok(())
    }

    fn class_rune(&mut self) -> Result<char, Option<String>> {
        if self.eat("\\") { self.escaped_rune().map_err(Some) } else { self.take().ok_or(None) }
    }

    /// `[:alpha:]` after `[:`; none if it is none.
    fn named_class(&mut self) -> Result<Option<String>, String> {
        let start = self.at;
        let Some(length) = self.rest[start..].windows(2).position(|pair| pair == [':', ']']) else { return Ok(None) };
        let name: String = self.rest[start..start + length].iter().collect();
        if !NAMED.contains(&name.strip_prefix('^').unwrap_or(&name)) {
            return Err(format!("invalid character class range: \"[:{name}:]\""));
        }
        self.at += length + 2;
        Ok(Some(format!("[:{name}:]")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_means_what_it_means_to_go() {
        let matches = |pattern: &str, text: &str| Regexp::new(pattern).unwrap().is_match(text.as_bytes());
        // Classes are ASCII, and what is an operator to the crate alone is text.
        for (pattern, yes, no) in [
            (r"^\d+$", "123", "\u{661}\u{662}"),
            (r"^\w$", "a", "\u{e4}"),
            (r"^[a&&b]+$", "a&b", "c"),
            (r"^[+--b~]$", "~", "c"),
            (r"^[[a]+$", "[a", "]"),
            (r"^\<b\>$", "<b>", "b"),
            (r"^a{,2}$", "a{,2}", "aa"),
            (r"^\Qa.b\E.$", "a.bc", "axbc"),
            (r"^[^\d\s]$", "x", "5"),
            (r"^[[:^alpha:]]$", "5", "a"),
            (r"^\pN$", "\u{661}", "a"),
            (r"^\p{^Greek}$", "a", "\u{3b1}"),
            ("^a b#$", "a b#", "ab"),
            (r"^\x41\x{42}\103$", "ABC", "abc"),
        ] {
            assert!(matches(pattern, yes), "{pattern} should match {yes}");
            assert!(!matches(pattern, no), "{pattern} should not match {no}");
        }
        for wrong in [
            "(",
            ")",
            "*",
            "a**",
            "a+*",
            "[",
            "[z-a]",
            r"\",
            r"\1",
            r"\Z",
            r"\C",
            "(?x)a",
            "(?u)a",
            "(?P<a>b)(?P<a>c)",
            "a{1001}",
            "a{3,2}",
            r"\p{greek}",
            r"\pX",
            "[[:what:]]",
            "(?P<1-2>a)",
            "(?i",
            r"[a-\d]",
            "((a{100}){100}){100}",
        ] {
            assert!(Regexp::new(wrong).is_err(), "{wrong} should be refused");
        }
    }

    #[test]
    fn replacements_know_numbers_names_and_braces() {
        let regexp = Regexp::new(r"(?P<first>\w+)-(\d+)").unwrap();
        let replaced =
            |template: &str| String::from_utf8(regexp.replace_all(b"ab-12 c", template.as_bytes(), 1000).unwrap()).unwrap();
        assert_eq!(replaced("$2"), "12 c");
        assert_eq!(replaced("${2}x$first"), "12xab c");
        assert_eq!(replaced("$2x|$$|$|${1"), "|$|$|${1 c");
        assert_eq!(replaced("$9$nope$0"), "ab-12 c");
        assert!(regexp.replace_all(b"a-1", &[b'x'; 2000], 1000).is_err());
    }
}
