//! XDR (RFC 4506) as libvirt uses it: big-endian, everything padded to four bytes.
//!
//! The reader never panics and never reserves more than a small multiple of its input: every
//! length is checked against the bytes that are left first.

/// Bytes that are not the XDR that was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum XdrError {
    #[error("message ends {missing} bytes early")]
    Short { missing: usize },
    #[error("{what} of length {length} does not fit the {left} bytes left")]
    Length { what: &'static str, length: u32, left: usize },
    #[error("text is not UTF-8")]
    Text,
    #[error("{what} {value} is not known")]
    Unknown { what: &'static str, value: i32 },
}

/// Reads values from the front of a message.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

/// Appends values to a message.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    pub(crate) fn left(&self) -> usize {
        self.rest.len()
    }

    /// Exactly `count` bytes, without padding.
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], XdrError> {
        let missing = count.saturating_sub(self.rest.len());
        match self.rest.split_at_checked(count) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(XdrError::Short { missing }),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], XdrError> {
        let missing = N.saturating_sub(self.rest.len());
        match self.rest.split_first_chunk::<N>() {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(*taken)
            }
            None => Err(XdrError::Short { missing }),
        }
    }

    pub(crate) fn u32(&mut self) -> Result<u32, XdrError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(crate) fn i32(&mut self) -> Result<i32, XdrError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, XdrError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub(crate) fn i64(&mut self) -> Result<i64, XdrError> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    pub(crate) fn f64(&mut self) -> Result<f64, XdrError> {
        Ok(f64::from_be_bytes(self.array()?))
    }

    /// Opaque data of a fixed length that is a multiple of four.
    pub(crate) fn uuid(&mut self) -> Result<[u8; 16], XdrError> {
        self.array()
    }

    /// A counted string with its padding.
    pub(crate) fn text(&mut self) -> Result<&'a str, XdrError> {
        let length = self.u32()?;
        let left = self.rest.len();
        if length as usize > left {
            return Err(XdrError::Length { what: "text", length, left });
        }
        let bytes = self.take(length as usize)?;
        self.take((4 - length as usize % 4) % 4)?;
        std::str::from_utf8(bytes).map_err(|_| XdrError::Text)
    }

    /// The count of a list whose entries take at least `least` bytes each; a count that cannot
    /// fit is refused, so that reserving for it is safe.
    pub(crate) fn count(&mut self, what: &'static str, least: usize) -> Result<usize, XdrError> {
        let length = self.u32()?;
        let left = self.rest.len();
        if (length as usize).saturating_mul(least) > left {
            return Err(XdrError::Length { what, length, left });
        }
        Ok(length as usize)
    }

    /// Whether an optional value follows.
    pub(crate) fn present(&mut self) -> Result<bool, XdrError> {
        match self.i32()? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(XdrError::Unknown { what: "flag of an optional value", value }),
        }
    }

    /// A string that may be absent.
    pub(crate) fn optional_text(&mut self) -> Result<Option<&'a str>, XdrError> {
        if self.present()? { self.text().map(Some) } else { Ok(None) }
    }
}

impl Writer {
    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    pub(crate) fn i32(&mut self, value: i32) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// A counted string with its padding. Ours are names and UUIDs, far below 4 GiB.
    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        assert!(u32::try_from(text.len()).is_ok(), "a text in a call is shorter than 4 GiB");
        self.u32(text.len() as u32).raw(text.as_bytes());
        let padding = (4 - text.len() % 4) % 4;
        self.raw(&[0; 3][..padding])
    }

    /// A string that may be absent.
    pub(crate) fn optional_text(&mut self, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.u32(1).text(text),
            None => self.u32(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn texts_are_padded_to_four_bytes() {
        let mut writer = Writer::default();
        writer.text("ab").text("abcd").text("").optional_text(None).optional_text(Some("x"));
        let bytes = writer.into_bytes();
        assert_eq!(bytes.len(), 8 + 8 + 4 + 4 + 12);
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.text(), Ok("ab"));
        assert_eq!(reader.text(), Ok("abcd"));
        assert_eq!(reader.text(), Ok(""));
        assert_eq!(reader.optional_text(), Ok(None));
        assert_eq!(reader.optional_text(), Ok(Some("x")));
        assert_eq!(reader.left(), 0);
    }

    #[test]
    fn a_count_that_cannot_fit_is_refused_before_reserving() {
        let mut reader = Reader::new(&[0xff; 8]);
        assert!(matches!(reader.count("list", 4), Err(XdrError::Length { left: 4, .. })));
    }

    proptest! {
        #[test]
        fn texts_round_trip(texts in proptest::collection::vec(".{0,40}", 0..8)) {
            let mut writer = Writer::default();
            for text in &texts {
                writer.text(text);
            }
            let bytes = writer.into_bytes();
            let mut reader = Reader::new(&bytes);
            for text in &texts {
                prop_assert_eq!(reader.text(), Ok(text.as_str()));
            }
            prop_assert_eq!(reader.left(), 0);
        }
    }
}
