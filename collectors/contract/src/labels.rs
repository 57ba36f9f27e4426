//! The further labels of a series, beside its meter and its resource.
//!
//! In text, and so on the wire and in tables, they are a JSON object of texts with its keys in
//! order and no spaces, or nothing where there are none: equal labels are equal texts.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::name::{InvalidName, check_name};

/// Most labels of one series.
pub const MAX_LABELS: usize = 24;
/// Longest value of a label, in bytes.
pub const MAX_LABEL_BYTES: usize = 512;
/// Longest text of all labels of a series, in bytes.
pub const MAX_LABELS_BYTES: usize = 4_096;
/// Names of a series' own columns, which no label may have.
const RESERVED: [&str; 11] = [
    "at", "meter", "resource", "kind", "project", "node", "source", "labels", "value", "epoch",
    "series",
];

/// The further labels of a series.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Labels(Option<Arc<str>>);

/// Why labels are refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLabels {
    /// A key is no name.
    #[error(transparent)]
    Key(#[from] InvalidName),
    /// A key is that of a column.
    #[error("{0:?} is a column of every sample and cannot be a label")]
    Reserved(String),
    /// More than [`MAX_LABELS`].
    #[error("{0} labels, more than {MAX_LABELS}")]
    TooMany(usize),
    /// A value is empty or longer than [`MAX_LABEL_BYTES`], or has control characters.
    #[error(
        "the value of label {0:?} is empty, longer than {MAX_LABEL_BYTES} bytes, or has control \
         characters"
    )]
    Value(String),
    /// Longer than [`MAX_LABELS_BYTES`] together.
    #[error("labels of {0} bytes together, more than {MAX_LABELS_BYTES}")]
    TooLong(usize),
    /// Not the one text that these labels have.
    #[error("labels are a JSON object of texts, keys in order and without spaces")]
    Text,
}

impl Labels {
    /// No labels.
    pub const fn none() -> Self {
        Labels(None)
    }

    /// Labels from keys and values; the later of two with one key counts.
    pub fn new<K: Into<String>, V: Into<String>>(
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, InvalidLabels> {
        let pairs: BTreeMap<String, String> =
            pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        Self::of(&pairs)
    }

    fn of(pairs: &BTreeMap<String, String>) -> Result<Self, InvalidLabels> {
        if pairs.is_empty() {
            return Ok(Labels::none());
        }
        if pairs.len() > MAX_LABELS {
            return Err(InvalidLabels::TooMany(pairs.len()));
        }
        for (key, value) in pairs {
            check_name("label", key)?;
            if RESERVED.contains(&key.as_str()) {
                return Err(InvalidLabels::Reserved(key.clone()));
            }
            let fits = (1..=MAX_LABEL_BYTES).contains(&value.len());
            if !fits || value.chars().any(char::is_control) {
                return Err(InvalidLabels::Value(key.clone()));
            }
        }
        let text = serde_json::to_string(pairs).unwrap_or_default();
        match text.len() {
            length if length > MAX_LABELS_BYTES => Err(InvalidLabels::TooLong(length)),
            _ => Ok(Labels(Some(text.into()))),
        }
    }

    /// Labels from their text; refuses any other text of the same labels.
    pub fn parse(text: &str) -> Result<Self, InvalidLabels> {
        if text.is_empty() {
            return Ok(Labels::none());
        }
        if text.len() > MAX_LABELS_BYTES {
            return Err(InvalidLabels::TooLong(text.len()));
        }
        let pairs = serde_json::from_str(text).map_err(|_| InvalidLabels::Text)?;
        let labels = Self::of(&pairs)?;
        match labels.as_str() == text {
            true => Ok(labels),
            false => Err(InvalidLabels::Text),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or("")
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Keys and values, in order of keys.
    pub fn pairs(&self) -> BTreeMap<String, String> {
        pairs_of(self.as_str())
    }
}

/// Keys and values of a text that was checked before, in order of keys; none of any other text.
pub fn pairs_of(text: &str) -> BTreeMap<String, String> {
    if text.is_empty() {
        return BTreeMap::new();
    }
    serde_json::from_str(text).unwrap_or_default()
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_labels_are_one_text() {
        let labels = Labels::new([("mode", "user"), ("device", "sd\"a")]).unwrap();
        assert_eq!(labels.as_str(), r#"{"device":"sd\"a","mode":"user"}"#);
        assert_eq!(Labels::parse(labels.as_str()).unwrap(), labels);
        assert_eq!(labels.pairs()["device"], "sd\"a");
        for other in [
            r#"{"mode":"user","device":"sda"}"#,
            r#"{"device": "sda"}"#,
            r#"{"device":"sda","device":"sda"}"#,
            r#"{"device":"\u0073da"}"#,
            "{}",
            "[]",
            r#"{"device":1}"#,
        ] {
            assert_eq!(Labels::parse(other), Err(InvalidLabels::Text), "{other}");
        }
    }

    #[test]
    fn no_labels_are_no_text() {
        assert_eq!(Labels::parse("").unwrap(), Labels::none());
        assert_eq!(Labels::new::<&str, &str>([]).unwrap(), Labels::default());
        assert!(Labels::none().is_empty() && Labels::none().pairs().is_empty());
    }

    #[test]
    fn every_bound_is_named() {
        let one = |key: &str, value: &str| Labels::new([(key, value)]);
        assert!(matches!(one("a b", "x"), Err(InvalidLabels::Key(_))));
        assert_eq!(one("node", "x"), Err(InvalidLabels::Reserved("node".to_owned())));
        let long = "x".repeat(MAX_LABEL_BYTES + 1);
        for value in ["", "a\nb", long.as_str()] {
            assert_eq!(one("k", value), Err(InvalidLabels::Value("k".to_owned())), "{value:?}");
        }
        assert!(one("k", &long[1..]).is_ok());
        let many = |count: usize| Labels::new((0..count).map(|n| (format!("k{n}"), "v")));
        assert!(many(MAX_LABELS).is_ok());
        assert_eq!(many(MAX_LABELS + 1), Err(InvalidLabels::TooMany(MAX_LABELS + 1)));
        let wide = Labels::new((0..MAX_LABELS).map(|n| (format!("k{n}"), "v".repeat(500))));
        assert!(matches!(wide, Err(InvalidLabels::TooLong(_))));
    }
}
