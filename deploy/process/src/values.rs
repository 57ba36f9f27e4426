//! Settings that are written as texts: durations, sizes, instants.

use std::time::Duration;

use nilometer_contract::Timestamp;
use secrecy::SecretString;
use serde::{Deserialize, Deserializer, de};

/// A duration such as `10s`.
///
/// # Errors
///
/// If it is none.
pub fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    humantime::parse_duration(&text)
        .map_err(|error| de::Error::custom(format!("{text:?} is no duration: {error}")))
}

/// An instant; an empty text is none.
///
/// # Errors
///
/// If it is no instant.
pub fn instant<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
    let text = String::deserialize(from)?;
    match text.as_str() {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(de::Error::custom),
    }
}

/// When the embedded log forces records to disk.
///
/// # Errors
///
/// If it is neither `always` nor a duration.
pub(crate) fn fsync<'de, D: Deserializer<'de>>(from: D) -> Result<nilometer_log::Fsync, D::Error> {
    let text = String::deserialize(from)?;
    match text.as_str() {
        "always" => Ok(nilometer_log::Fsync::Always),
        other => humantime::parse_duration(other).map(nilometer_log::Fsync::Every).map_err(|_| {
            de::Error::custom(format!("fsync is \"always\" or a duration, not {other:?}"))
        }),
    }
}

/// A size such as `512MiB`.
///
/// # Errors
///
/// If it is none.
pub fn size<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let text = String::deserialize(from)?;
    parse_size(&text).ok_or_else(|| {
        de::Error::custom(format!("{text:?} is no size; write it like \"512MiB\" or \"1GB\""))
    })
}

/// A text that is not shown.
pub(crate) fn secret<'de, D: Deserializer<'de>>(from: D) -> Result<SecretString, D::Error> {
    String::deserialize(from).map(SecretString::from)
}

fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit: u64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}
