//! What an API key looks like: `nlm_<id>_<secret>`.
//!
//! The id is public: it names the key in lists and logs. The secret is 256 random bits that are
//! shown once. The prefix lets scanners of repositories find keys that were committed.

use secrecy::SecretString;

use crate::error::AccountsError;
use crate::secret::{Digest, hex};

const PREFIX: &str = "nlm_";
const ID_BYTES: usize = 8;
const SECRET_BYTES: usize = 32;

/// A key as it was made.
pub(crate) struct Minted {
    pub(crate) id: String,
    pub(crate) digest: Digest,
    /// All of it, as the client sends it.
    pub(crate) token: SecretString,
}

/// A key as a client sent it.
pub(crate) struct Parsed<'a> {
    pub(crate) id: &'a str,
    pub(crate) digest: Digest,
}

/// Makes a key of random bits from the operating system.
pub(crate) fn mint() -> Result<Minted, AccountsError> {
    let mut bytes = [0; ID_BYTES + SECRET_BYTES];
    getrandom::fill(&mut bytes).map_err(|error| AccountsError::Random(error.into()))?;
    let (id, secret) = bytes.split_at(ID_BYTES);
    let (id, secret) = (hex(id), hex(secret));
    let digest = Digest::of(secret.as_bytes());
    let token = SecretString::from(format!("{PREFIX}{id}_{secret}"));
    Ok(Minted { id, digest, token })
}

/// Whether a bearer token is meant as an API key.
pub(crate) fn is_key(bearer: &str) -> bool {
    bearer.starts_with(PREFIX)
}

/// Takes a key apart; none of what is no key.
pub(crate) fn parse(bearer: &str) -> Option<Parsed<'_>> {
    let (id, secret) = bearer.strip_prefix(PREFIX)?.split_once('_')?;
    let is_hex =
        |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let good = id.len() == 2 * ID_BYTES && secret.len() == 2 * SECRET_BYTES;
    (good && is_hex(id) && is_hex(secret))
        .then(|| Parsed { id, digest: Digest::of(secret.as_bytes()) })
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn a_key_is_what_it_was_made_of() {
        let (one, two) = (mint().unwrap(), mint().unwrap());
        let token = one.token.expose_secret();
        let parsed = parse(token).unwrap();
        assert_eq!((parsed.id, parsed.digest), (one.id.as_str(), one.digest));
        assert!(is_key(token) && token.len() == 85, "{token}");
        assert!(one.id != two.id && token != two.token.expose_secret());
        assert!(!format!("{:?}", one.token).contains(token));
    }

    #[test]
    fn other_texts_are_no_keys() {
        let token = mint().unwrap().token.expose_secret().to_owned();
        let upper = token.to_uppercase();
        let long = format!("{token}0");
        for bad in ["", "nlm_", "nlm__", "eyJ.a.b", &token[1..], &token[..84], &upper, &long] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
