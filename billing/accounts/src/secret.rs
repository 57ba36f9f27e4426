//! Digests of secrets: what is stored and compared instead of them.

use std::fmt;

use secrecy::SecretString;
use serde::{Deserialize, Deserializer};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

/// SHA-256 of a secret. Compared in constant time, and hidden from `Debug`.
#[derive(Clone, Copy)]
pub(crate) struct Digest([u8; 32]);

impl Digest {
    pub(crate) fn of(secret: &[u8]) -> Self {
        Digest(Sha256::digest(secret).into())
    }

    /// As it is stored.
    pub(crate) fn to_hex(self) -> String {
        hex(&self.0)
    }

    /// Whether it is the stored one; a stored text that is no digest equals nothing.
    pub(crate) fn equals_hex(self, stored: &str) -> bool {
        self.to_hex().as_bytes().ct_eq(stored.as_bytes()).into()
    }

    /// As the key of a map; equality of digests tells nothing about near secrets.
    pub(crate) fn bytes(self) -> [u8; 32] {
        self.0
    }
}

impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest")
    }
}

/// Reads a secret setting, for `#[serde(deserialize_with)]`.
///
/// # Errors
///
/// If it is no text.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SecretString, D::Error> {
    String::deserialize(from).map(SecretString::from)
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_equals_itself_alone() {
        let digest = Digest::of(b"abc");
        assert_eq!(
            digest.to_hex(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert!(digest.equals_hex(&digest.to_hex()));
        assert!(!digest.equals_hex("") && !digest.equals_hex(&digest.to_hex()[1..]));
        assert!(!Digest::of(b"abd").equals_hex(&digest.to_hex()));
        assert!(digest == Digest::of(b"abc") && digest != Digest::of(b""));
        assert_eq!(format!("{digest:?}"), "Digest");
    }
}
