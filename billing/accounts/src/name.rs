//! Which names accounts, users and projects may have.

use crate::error::AccountsError;

/// Longest name of an account or a user.
const NAME_MAX: usize = 63;
/// Longest project, label, title, issuer or subject.
const TEXT_MAX: usize = 255;

/// Checks the name of an account or a user: names stand in logs, audits and command lines.
pub(crate) fn check_name(what: &'static str, name: &str) -> Result<(), AccountsError> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-@".contains(c);
    let first = name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    match first && name.len() <= NAME_MAX && name.chars().all(good) {
        true => Ok(()),
        false => Err(AccountsError::InvalidName { what, name: name.escape_debug().to_string() }),
    }
}

/// Checks a text that other systems chose.
pub(crate) fn check_text(what: &'static str, text: &str) -> Result<(), AccountsError> {
    let good = !text.is_empty() && text.len() <= TEXT_MAX && !text.chars().any(char::is_control);
    match good {
        true => Ok(()),
        false => Err(AccountsError::InvalidText { what, text: text.escape_debug().to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        for good in ["acme", "a", "0", "a.b-c_d@e.example", &"a".repeat(63)] {
            check_name("account", good).unwrap();
        }
        for bad in ["", "Acme", "-a", "@a", "a b", "a/b", "ä", "a\n", &"a".repeat(64)] {
            let why = check_name("account", bad).unwrap_err().to_string();
            assert!(why.starts_with("the name of an account is"), "{why}");
        }
    }

    #[test]
    fn texts_hold_no_control_characters() {
        for good in ["4f9c", "prod/web", "Größe", &"a".repeat(255)] {
            check_text("project", good).unwrap();
        }
        for bad in ["", "a\nb", "a\u{7f}", &"a".repeat(256)] {
            assert!(check_text("project", bad).is_err(), "{bad:?}");
        }
    }
}
