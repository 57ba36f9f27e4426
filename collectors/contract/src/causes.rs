//! An error with its causes, for logs, tables and answers.

use std::error::Error;
use std::fmt;

/// Displays an error and its causes, outermost first: `cannot write a: no space left on device`.
///
/// A cause that the text before has in it already is left out.
pub struct Causes<'e>(pub &'e dyn Error);

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.0.to_string();
        f.write_str(&text)?;
        let mut next_cause = self.0.source();
        while let Some(cause) = next_cause {
            next_cause = cause.source();
            let next = cause.to_string();
            if !text.contains(&next) {
                write!(f, ": {next}")?;
                text.push_str(&next);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Told {
        text: &'static str,
        source: Option<Box<Told>>,
    }

    fn error(texts: &[&'static str]) -> Told {
        let source = (texts.len() > 1).then(|| Box::new(error(&texts[1..])));
        Told { text: texts[0], source }
    }

    #[test]
    fn causes_follow_the_error_once_each() {
        let shown = |texts: &[&'static str]| Causes(&error(texts)).to_string();
        assert_eq!(shown(&["a"]), "a");
        assert_eq!(
            shown(&["cannot write", "file x", "disk full"]),
            "cannot write: file x: disk full"
        );
        assert_eq!(shown(&["cannot write: disk full", "disk full"]), "cannot write: disk full");
        assert_eq!(shown(&["one", "two", "one"]), "one: two");
    }
}
