//! Random text with so many digits and symbols.

use std::collections::BTreeMap;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use lockstep_crds::generator::password::{PasswordEncoding, PasswordSpec};
use rand::Rng;
use rand::seq::SliceRandom;
use zeroize::Zeroizing;

use super::{Generated, Generator};
use crate::{Error, Result, SecretBytes};

/// Longest password, in characters: all keys of a Secret together hold 1 MiB.
const LONGEST: usize = 65_536;
/// Characters of all passwords of one generator at most.
const MOST: usize = 1 << 20;
const SYMBOLS: &str = "~!@#$%^&*()_+`-={}|[]\\:\"<>?,./";

/// Makes passwords.
#[derive(Debug)]
pub(super) struct Password {
    length: usize,
    digits: usize,
    symbols: usize,
    symbol_characters: Vec<char>,
    no_upper: bool,
    allow_repeat: bool,
    encoding: PasswordEncoding,
    keys: Vec<String>,
}

impl Password {
    /// Checks that there can be such a password.
    pub(super) fn new(spec: PasswordSpec) -> Result<Self> {
        let count = |field: &str, n: i64| {
            let n = usize::try_from(n).map_err(|_| Error::invalid(field, "is negative"))?;
            if n > LONGEST { Err(Error::invalid(field, format!("is more than {LONGEST}"))) } else { Ok(n) }
        };
        let length = count("spec.length", spec.length)?;
        if length == 0 {
            return Err(Error::invalid("spec.length", "is 0"));
        }
        let quarter = |field: &str, n: Option<i64>| n.map_or(Ok(length / 4), |n| count(field, n));
        let (digits, symbols) = (quarter("spec.digits", spec.digits)?, quarter("spec.symbols", spec.symbols)?);
        let mut characters: Vec<char> =
            spec.symbol_characters.as_deref().filter(|s| !s.is_empty()).unwrap_or(SYMBOLS).chars().collect();
        characters.sort_unstable();
        characters.dedup();
        let keys = if spec.secret_keys.is_empty() { vec!["password".to_owned()] } else { spec.secret_keys };
        if keys.len().saturating_mul(length) > MOST {
            let why = format!("{} passwords of {length} characters are more than a Secret holds", keys.len());
            return Err(Error::invalid("spec.secretKeys", why));
        }
        let made = Self {
            length,
            digits,
            symbols,
            symbol_characters: characters,
            no_upper: spec.no_upper,
            allow_repeat: spec.allow_repeat,
            encoding: spec.encoding,
            keys,
        };
        let mut sorted = made.keys.clone();
        sorted.sort();
        if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Error::invalid("spec.secretKeys", "names a key twice"));
        }
        if digits + symbols > length {
            let why = format!("{digits} digits and {symbols} symbols are more than spec.length {length}");
            return Err(Error::invalid("spec", why));
        }
        for (what, wanted, there) in made.classes().map(|(what, wanted, set)| (what, wanted, set.len())) {
            if !made.allow_repeat && wanted > there {
                let why = format!("{wanted} {what} without a repetition can't be, as there are {there}; set allowRepeat: true");
                return Err(Error::invalid("spec", why));
            }
        }
        Ok(made)
    }

    fn classes(&self) -> impl Iterator<Item = (&'static str, usize, Vec<char>)> {
        let mut letters: Vec<char> = ('a'..='z').collect();
        if !self.no_upper {
            letters.extend('A'..='Z');
        }
        let rest = self.length - (self.digits + self.symbols).min(self.length);
        [
            ("digits", self.digits, ('0'..='9').collect()),
            ("symbols", self.symbols, self.symbol_characters.clone()),
            ("letters", rest, letters),
        ]
        .into_iter()
    }

    fn password(&self) -> Zeroizing<String> {
        // Seeded by the system, and made for keys: `rand` documents it as cryptographically secure.
        let mut rng = rand::rng();
        let mut chosen: Zeroizing<Vec<char>> = Zeroizing::new(Vec::with_capacity(self.length));
        for (_, wanted, mut set) in self.classes() {
            if self.allow_repeat {
                chosen.extend((0..wanted).map(|_| set[rng.random_range(0..set.len())]));
            } else {
                let (some, _) = set.partial_shuffle(&mut rng, wanted);
                chosen.extend(some.iter());
            }
        }
        chosen.shuffle(&mut rng);
        let mut text = Zeroizing::new(String::with_capacity(self.length * 4));
        text.extend(chosen.iter());
        text
    }

    fn encoded(&self, text: &str) -> SecretBytes {
        SecretBytes::from(match self.encoding {
            PasswordEncoding::Raw => text.to_owned(),
            PasswordEncoding::Base64 => STANDARD.encode(text),
            PasswordEncoding::Base64url => URL_SAFE.encode(text),
            PasswordEncoding::Base32 => base32(text.as_bytes()),
            PasswordEncoding::Hex => text.bytes().map(|b| format!("{b:02x}")).collect(),
        })
    }
}

/// Base32 with padding (RFC 4648, section 6).
fn base32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut out = String::with_capacity(bytes.len().div_ceil(5) * 8);
    for chunk in bytes.chunks(5) {
        let mut five = [0; 5];
        five[..chunk.len()].copy_from_slice(chunk);
        let bits = five.iter().fold(0u64, |bits, b| bits << 8 | u64::from(*b));
        let filled = (chunk.len() * 8).div_ceil(5);
        let digit = |i: usize| char::from(ALPHABET[(bits >> (35 - 5 * i) & 31) as usize]);
        out.extend((0..8).map(|i| if i < filled { digit(i) } else { '=' }));
    }
    out
}

#[async_trait]
impl Generator for Password {
    async fn generate(&self) -> Result<Generated> {
        let values: BTreeMap<_, _> = self.keys.iter().map(|key| (key.clone(), self.encoded(&self.password()))).collect();
        Ok(Generated { values, lease: None })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn password(spec: serde_json::Value) -> Result<Password> {
        Password::new(serde_json::from_value(spec).expect("a spec"))
    }

    #[test]
    fn all_passwords_together_are_no_more_than_a_secret_holds() {
        let keys: Vec<String> = (0..20).map(|i| format!("k{i}")).collect();
        let spec = |length: i64| json!({"length": length, "digits": 0, "symbols": 0, "allowRepeat": true, "secretKeys": keys});
        assert!(password(spec(50_000)).is_ok());
        assert!(password(spec(60_000)).unwrap_err().to_string().contains("more than a Secret holds"));
    }

    proptest! {
        /// Whatever is asked for: as long as that, with as many digits and symbols, and nothing twice unless that is allowed.
        #[test]
        fn a_password_is_what_was_asked_for(digits in 0i64..=10, symbols in 0i64..=20, letters in 0i64..=26, no_upper: bool, allow_repeat: bool) {
            prop_assume!(digits + symbols + letters > 0);
            let spec = json!({"length": digits + symbols + letters, "digits": digits, "symbols": symbols,
                "noUpper": no_upper, "allowRepeat": allow_repeat});
            let text = password(spec).expect("it can be").password();
            let count = |is: fn(&char) -> bool| text.chars().filter(is).count() as i64;
            prop_assert_eq!(count(char::is_ascii_digit), digits);
            prop_assert_eq!(count(char::is_ascii_punctuation), symbols);
            prop_assert_eq!(count(char::is_ascii_alphabetic), letters);
            prop_assert!(!no_upper || count(char::is_ascii_uppercase) == 0);
            let mut all: Vec<char> = text.chars().collect();
            all.sort_unstable();
            prop_assert!(allow_repeat || all.windows(2).all(|pair| pair[0] != pair[1]));
        }
    }

    #[test]
    fn the_defaults_are_24_characters_a_quarter_of_them_digits_and_symbols() {
        let made = password(json!({})).expect("the defaults");
        assert_eq!((made.length, made.digits, made.symbols, &made.keys[..]), (24, 6, 6, &["password".to_owned()][..]));
        assert_ne!(made.password(), made.password());
        let own = password(json!({"symbolCharacters": "-_", "symbols": 2, "length": 6})).expect("its own symbols").password();
        assert!(own.contains('-') && own.contains('_'));
    }

    #[test]
    fn every_encoding_is_the_fields_own() {
        let encoded = |encoding: &str, text: &str| {
            let made = password(json!({"encoding": encoding})).expect("an encoding");
            made.encoded(text).as_text().expect("text").to_owned()
        };
        assert_eq!(encoded("raw", "a?>"), "a?>");
        assert_eq!(encoded("base64", "a?>~~~"), "YT8+fn5+");
        assert_eq!(encoded("base64url", "a?>~~~"), "YT8-fn5-");
        assert_eq!(encoded("hex", "a?"), "613f");
        // The vectors of RFC 4648, section 10.
        for (text, expected) in
            [("", ""), ("f", "MY======"), ("fo", "MZXQ===="), ("foo", "MZXW6==="), ("foob", "MZXW6YQ="), ("fooba", "MZXW6YTB")]
        {
            assert_eq!(encoded("base32", text), expected);
        }
    }

    #[test]
    fn what_can_not_be_is_named() {
        for (spec, needle) in [
            (json!({"length": 0}), "spec.length: is 0"),
            (json!({"length": -1}), "spec.length: is negative"),
            (json!({"length": 1_000_000_000}), "more than 65536"),
            (json!({"length": 4, "digits": 3, "symbols": 2}), "3 digits and 2 symbols are more than spec.length 4"),
            (json!({"length": 100}), "25 digits without a repetition can't be, as there are 10; set allowRepeat: true"),
            (json!({"length": 60, "digits": 0, "symbols": 0}), "60 letters without"),
            (json!({"symbols": 2, "symbolCharacters": "--"}), "2 symbols without"),
            (json!({"secretKeys": ["a", "b", "a"]}), "names a key twice"),
        ] {
            let error = password(spec.clone()).expect_err("it can't be").to_string();
            assert!(error.contains(needle), "{spec}: {error}");
        }
        assert!(password(json!({"length": 200, "allowRepeat": true})).is_ok());
    }
}
