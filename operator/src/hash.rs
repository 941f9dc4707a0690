//! One way to hash what has several parts.

use sha2::{Digest, Sha256};

/// SHA-256 over parts, each behind its length: parts that are divided otherwise hash otherwise.
#[derive(Default)]
pub struct PartsHash(Sha256);

impl PartsHash {
    /// Takes the next part in.
    pub fn add(&mut self, part: &[u8]) {
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
    }

    /// The whole hash.
    pub fn whole(self) -> [u8; 32] {
        self.0.finalize().into()
    }

    /// The first half of the hash, in hexadecimal digits.
    pub fn hex(self) -> String {
        self.whole()[..16].iter().map(|b| format!("{b:02x}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_divided_otherwise_hash_otherwise() {
        let hex = |parts: &[&str]| {
            let mut hash = PartsHash::default();
            parts.iter().for_each(|part| hash.add(part.as_bytes()));
            hash.hex()
        };
        assert_eq!(hex(&["a", "bc"]), hex(&["a", "bc"]));
        assert_ne!(hex(&["a", "bc"]), hex(&["ab", "c"]));
        assert_ne!(hex(&["a"]), hex(&["a", ""]));
    }
}
