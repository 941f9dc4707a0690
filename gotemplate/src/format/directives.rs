//! `printf`: verbs with their flags, widths and arguments, and what Go says of those that do not fit.

use super::{Done, Flags, Printer, WIDEST};
use crate::exec::Meter;
use crate::text::decode_rune;
use crate::value::Value;

/// `fmt.Sprintf`.
pub(crate) fn sprintf(meter: &mut Meter, layout: &[u8], values: &[Value]) -> Result<Vec<u8>, String> {
    // Most that two signs of a layout become is `%!(BADWIDTH)%!(BADPREC)%!z(MISSING)`.
    meter.memory(16 * layout.len())?;
    meter.steps(layout.len() / 16)?;
    let mut out = Vec::new();
    let last_bracket = layout.iter().rposition(|b| *b == b']').unwrap_or(0);
    let mut directives = Directives { layout, at: 0, values, next: 0, reordered: false, good: true, last_bracket };
    while directives.at < layout.len() {
        let begin = directives.at;
        let end = layout[begin..].iter().position(|b| *b == b'%').map_or(layout.len(), |found| begin + found);
        meter.memory(end - begin)?;
        out.extend_from_slice(&layout[begin..end]);
        directives.at = end;
        if end == layout.len() {
            break;
        }
        directives.at += 1;
        directives.one(meter, &mut out)?;
    }
    if !directives.reordered && directives.next < values.len() {
        out.extend(b"%!(EXTRA ");
        for (i, value) in values[directives.next..].iter().enumerate() {
            if i > 0 {
                out.extend(b", ");
            }
            match value.type_of() {
                None => out.extend(b"<nil>"),
                Some(of) => {
                    out.extend(format!("{of}=").bytes());
                    Printer::new(meter, &mut out).value(value, 'v', 0)?;
                }
            }
        }
        out.push(b')');
    }
    Ok(out)
}

struct Directives<'a> {
    layout: &'a [u8],
    at: usize,
    values: &'a [Value],
    next: usize,
    /// Whether an explicit index was used: then nothing is extra.
    reordered: bool,
    /// Whether the last explicit index was one.
    good: bool,
    /// Where the last `]` of the layout is.
    last_bracket: usize,
}

impl Directives<'_> {
    fn peek(&self) -> Option<u8> {
        self.layout.get(self.at).copied()
    }

    /// A number; none when there is none or it is too large.
    fn number(&mut self) -> (Option<usize>, bool) {
        let start = self.at;
        let mut value = 0_usize;
        while let Some(digit @ b'0'..=b'9') = self.peek() {
            if value > WIDEST {
                return (None, false);
            }
            value = value * 10 + usize::from(digit - b'0');
            self.at += 1;
        }
        (Some(value), self.at > start)
    }

    /// `[3]`: which argument is next.
    fn argument_index(&mut self) -> bool {
        if self.peek() != Some(b'[') {
            return false;
        }
        self.reordered = true;
        // Without another bracket nothing is looked for again.
        let length = if self.at > self.last_bracket { None } else { self.layout[self.at..].iter().position(|b| *b == b']') };
        let Some(length) = length else {
            self.good = false;
            self.at += 1;
            return false;
        };
        let inside = &self.layout[self.at + 1..self.at + length];
        let index = std::str::from_utf8(inside).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
        let index = index.and_then(|text| text.parse::<usize>().ok()).filter(|i| (1..=self.values.len()).contains(i));
        self.at += length + 1;
        match index {
            Some(index) => {
                self.next = index - 1;
                true
            }
            None => {
                self.good = false;
                false
            }
        }
    }

    /// The value of a `*`.
    fn star(&mut self) -> Option<i64> {
        let value = self.values.get(self.next);
        self.next += usize::from(value.is_some());
        let number = match value? {
            Value::Int(int, _) => *int,
            Value::Uint(uint, _) => i64::try_from(*uint).ok()?,
            _ => return None,
        };
        (-(WIDEST as i64)..=WIDEST as i64).contains(&number).then_some(number)
    }

    fn one(&mut self, meter: &mut Meter, out: &mut Vec<u8>) -> Done {
        let mut flags = Flags::default();
        self.good = true;
        let mut after_index = false;
        loop {
            match self.peek() {
                Some(b'#') => flags.sharp = true,
                Some(b'0') => flags.zero = true,
                Some(b'+') => flags.plus = true,
                Some(b'-') => flags.minus = true,
                Some(b' ') => flags.space = true,
                _ => break,
            }
            self.at += 1;
        }
        after_index |= self.argument_index();
        if self.peek() == Some(b'*') {
            self.at += 1;
            match self.star() {
                None => out.extend(b"%!(BADWIDTH)"),
                Some(width) => {
                    flags.minus |= width < 0;
                    flags.zero &= width >= 0;
                    flags.width = Some(width.unsigned_abs() as usize);
                }
            }
            after_index = false;
        } else {
            let (width, there) = self.number();
            if there {
                flags.width = width;
                if after_index {
                    self.good = false;
                }
            }
        }
        // A point at the very end is a verb to Go.
        if self.peek() == Some(b'.') && self.at + 1 < self.layout.len() {
            self.at += 1;
            if after_index {
                self.good = false;
            }
            after_index = self.argument_index();
            if self.peek() == Some(b'*') {
                self.at += 1;
                match self.star() {
                    Some(precision) if precision >= 0 => flags.precision = Some(precision as usize),
                    _ => out.extend(b"%!(BADPREC)"),
                }
                after_index = false;
            } else {
                let (precision, there) = self.number();
                flags.precision = if there { precision } else { Some(0) };
            }
        }
        if !after_index {
            self.argument_index();
        }
        if self.at >= self.layout.len() {
            out.extend(b"%!(NOVERB)");
            return Ok(());
        }
        let (verb, length) = decode_rune(&self.layout[self.at..]);
        self.at += length;
        if verb == '%' {
            out.push(b'%');
        } else if !self.good {
            out.extend(format!("%!{verb}(BADINDEX)").bytes());
        } else if let Some(value) = self.values.get(self.next) {
            self.next += 1;
            if verb == 'v' {
                flags.sharp_v = std::mem::take(&mut flags.sharp);
                flags.plus_v = std::mem::take(&mut flags.plus);
            }
            if flags.minus {
                flags.zero = false;
            }
            let mut printer = Printer::new(meter, out);
            printer.flags = flags;
            match (value, verb) {
                (Value::Nil, 'T' | 'v') | (_, 'T') => printer.value(value, verb, 0)?,
                (Value::Nil, _) => printer.bad_verb(value, verb, 0)?,
                _ => printer.value(value, verb, 0)?,
            }
        } else {
            out.extend(format!("%!{verb}(MISSING)").bytes());
        }
        Ok(())
    }
}
