//! Patterns on attribute values: exact text, with `*` for any run of characters.

use std::fmt;

/// A text in which every `*` stands for any run of characters, even none. There is no escape.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(String);

impl Pattern {
    /// Every text is a pattern.
    pub fn new(text: impl Into<String>) -> Self {
        Pattern(text.into())
    }

    /// Whether the whole of `text` fits. Time is bounded by the product of both lengths.
    pub fn matches(&self, text: &str) -> bool {
        let Some((head, rest)) = self.0.split_once('*') else { return self.0 == text };
        let (middle, tail) = rest.rsplit_once('*').unwrap_or(("", rest));
        let Some(left) = text.strip_prefix(head).and_then(|left| left.strip_suffix(tail)) else {
            return false;
        };
        // The leftmost place for each part leaves the most room for the parts after it.
        let mut left = left;
        for part in middle.split('*') {
            match left.find(part) {
                Some(at) => left = &left[at + part.len()..],
                None => return false,
            }
        }
        true
    }

    /// The pattern as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    #[test]
    fn stars_stand_for_any_run() {
        let cases = [
            ("m1.small", "m1.small", true),
            ("m1.small", "m1.smaller", false),
            ("m1.*", "m1.large", true),
            ("m1.*", "m1.", true),
            ("m1.*", "m2.large", false),
            ("*", "", true),
            ("*.gpu", "g1.gpu", true),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "acb", false),
            ("a*ab*b", "aab", false),
            ("aba*aba", "aba", false),
            ("*x**y*", "1x2y3", true),
            ("", "", true),
            ("", "x", false),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(Pattern::new(pattern).matches(text), expected, "{pattern} on {text}");
        }
    }
}
