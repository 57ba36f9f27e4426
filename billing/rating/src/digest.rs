//! Digests that name things by what they are: books, invoices, lines.
//!
//! SHA-256, because an issued invoice must not be forgeable. Fields are length-prefixed, so that
//! no two lists of fields read the same.

use sha2::{Digest, Sha256};

/// Collects fields into one digest.
pub(crate) struct Fields(Sha256);

impl Fields {
    /// Starts a digest; `purpose` keeps digests of different things apart.
    pub(crate) fn new(purpose: &str) -> Self {
        Fields(Sha256::new()).text(purpose)
    }

    /// Adds one text.
    pub(crate) fn text(mut self, text: &str) -> Self {
        self.0.update((text.len() as u64).to_le_bytes());
        self.0.update(text.as_bytes());
        self
    }

    /// Adds one number.
    pub(crate) fn number(mut self, number: i128) -> Self {
        self.0.update(number.to_le_bytes());
        self
    }

    /// All 64 hexadecimal digits.
    pub(crate) fn hex(self) -> String {
        let digits = |byte: &u8| format!("{byte:02x}");
        self.0.finalize().iter().map(digits).collect()
    }

    /// The first 16 hexadecimal digits, enough to tell the lines of an archive apart.
    pub(crate) fn short(self) -> String {
        let mut hex = self.hex();
        hex.truncate(16);
        hex
    }
}
