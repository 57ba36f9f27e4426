//! Names of meters, kinds and labels: what may be one.

/// Longest name, in bytes.
pub const MAX_NAME_BYTES: usize = 255;

/// A text that is no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no name of a {of}: 1 to {MAX_NAME_BYTES} letters, digits and _ . : / -, a letter, \
     digit or _ first"
)]
pub struct InvalidName {
    /// What it was to name.
    pub of: &'static str,
    /// Its first characters.
    pub text: String,
}

/// Checks a name: 1 to 255 ASCII letters, digits and `_ . : / -`, with a letter, digit or `_` in
/// front, so that names of Prometheus, OpenTelemetry and Ceilometer are names here.
pub fn check_name(of: &'static str, text: &str) -> Result<(), InvalidName> {
    let is_first = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let is_name = text.len() <= MAX_NAME_BYTES
        && text.bytes().next().is_some_and(is_first)
        && text.bytes().all(|byte| is_first(byte) || b".:/-".contains(&byte));
    match is_name {
        true => Ok(()),
        false => Err(InvalidName { of, text: text.chars().take(64).collect() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_other_systems_are_names() {
        for name in
            ["cpu.time", "http_requests_total", "up:rate5m", "ip.floating", "a/b-c", "_x", "9"]
        {
            assert_eq!(check_name("meter", name), Ok(()), "{name}");
        }
        assert_eq!(check_name("meter", &"x".repeat(255)), Ok(()));
    }

    #[test]
    fn other_texts_are_none() {
        for text in ["", ".a", "-a", "a b", "a\n", "ä", "a\"b", "a{b}"] {
            assert!(check_name("meter", text).is_err(), "{text:?}");
        }
        let error = check_name("meter", &"x".repeat(256)).unwrap_err();
        assert_eq!(error.text.len(), 64);
    }
}
