//! Go's strings: bytes that are mostly UTF-8, shared, wiped when nobody has them any more.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::rc::Rc;

use zeroize::Zeroizing;

/// A string of Go's: any bytes. Its `Debug` shows its length only.
#[derive(Clone)]
pub struct Text(Rc<Zeroizing<Box<[u8]>>>);

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Text {}

impl PartialOrd for Text {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Text {
    fn cmp(&self, other: &Self) -> Ordering {
        self.bytes().cmp(other.bytes())
    }
}

impl Borrow<[u8]> for Text {
    fn borrow(&self) -> &[u8] {
        self.bytes()
    }
}

impl Text {
    /// These bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Rc::new(Zeroizing::new(bytes.into_boxed_slice())))
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// As text, with U+FFFD for what is no UTF-8.
    pub fn lossy(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(self.bytes())
    }
}

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{} bytes]", self.0.len())
    }
}

impl Default for Text {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::new(text.as_bytes().to_vec())
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self::new(text.into_bytes())
    }
}

/// The first rune of some bytes and its length, as Go's `utf8.DecodeRune`: U+FFFD of length 1 for what is none.
pub(crate) fn decode_rune(bytes: &[u8]) -> (char, usize) {
    let end = bytes.len().min(4);
    for length in 1..=end {
        if let Ok(text) = std::str::from_utf8(&bytes[..length]) {
            return (text.chars().next().unwrap_or('\u{fffd}'), length);
        }
    }
    ('\u{fffd}', 1.min(bytes.len()))
}

/// Runes with their offsets, as Go ranges over a string.
pub(crate) fn runes(bytes: &[u8]) -> impl Iterator<Item = (usize, char, usize)> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        if at >= bytes.len() {
            return None;
        }
        let (rune, length) = decode_rune(&bytes[at..]);
        at += length;
        Some((at - length, rune, length))
    })
}
