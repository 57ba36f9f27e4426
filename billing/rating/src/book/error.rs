//! What can be wrong with a price book, and where.

use std::fmt;

use crate::book::{MAX_BOOK_BYTES, MAX_ENTRIES};
use nilometer_contract::InvalidName;

use crate::currency::UnknownCurrency;
use crate::decimal::InvalidPrice;
use crate::per::InvalidPer;

/// Why a text is not a price book.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct BookError {
    /// Where in the text.
    pub place: Place,
    /// What is wrong there.
    pub problem: Box<Problem>,
}

/// A place in a price book.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Line of the text, from 1.
    pub line: usize,
    /// Number of the `[[price]]` entry, from 1, and its meter when known.
    pub entry: Option<(usize, String)>,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Not TOML.
    #[error("not TOML: {0}")]
    Toml(String),
    /// Too long, or too many entries.
    #[error("a book has at most {MAX_ENTRIES} entries and {MAX_BOOK_BYTES} bytes")]
    TooBig,
    /// A key that means nothing here.
    #[error("unknown key {key:?}{suggestion}; keys are {known}")]
    UnknownKey {
        /// The key.
        key: String,
        /// The nearest known key, when one is near.
        suggestion: String,
        /// The known keys.
        known: String,
    },
    /// A key that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A value of the wrong sort.
    #[error("{key} must be {expected}")]
    WrongType {
        /// The key.
        key: String,
        /// What it must be.
        expected: &'static str,
    },
    /// A text that is empty, or has characters that do not belong on an invoice.
    #[error("{0} is empty or has control characters")]
    BadText(String),
    /// No such meter.
    #[error(
        "unknown meter {name:?}{suggestion}; to price a meter that the catalogue does not have, state \
         the `unit` of its usage"
    )]
    UnknownMeter {
        /// The name.
        name: String,
        /// The nearest known meter, when one is near.
        suggestion: String,
    },
    /// A unit that is not the meter's.
    #[error("unit {stated:?} is not that of {meter}, whose usage is in {unit}")]
    OtherUnit {
        /// What was written.
        stated: String,
        /// The meter.
        meter: String,
        /// Unit of its usage.
        unit: String,
    },
    /// A text that names no meter or kind.
    #[error(transparent)]
    Name(InvalidName),
    /// A kind that nobody declared and that is nearly the name of one that is.
    #[error("unknown kind {name:?}{suggestion}; kinds are {known}")]
    UnknownKind {
        /// The name.
        name: String,
        /// The nearest known kind, when one is near.
        suggestion: String,
        /// The known kinds.
        known: String,
    },
    /// A kind that does not have the meter, so that the price would never apply.
    #[error("a {kind} has no {meter}; kinds that do: {known}")]
    KindWithoutMeter {
        /// The kind.
        kind: String,
        /// The meter.
        meter: String,
        /// Kinds that have it.
        known: String,
    },
    /// Not a currency.
    #[error(transparent)]
    Currency(UnknownCurrency),
    /// Not a price.
    #[error("price {0}")]
    Price(InvalidPrice),
    /// Not an amount of usage.
    #[error("per: {0}")]
    Per(InvalidPer),
    /// Not an instant.
    #[error("valid.{key} {text:?} is not an RFC 3339 instant like 2026-11-01T00:00:00Z")]
    BadInstant {
        /// `start` or `end`.
        key: &'static str,
        /// What was written.
        text: String,
    },
    /// Validity that would split a usage row.
    #[error(
        "valid.{key} {text} is inside a clock hour; usage is kept by clock hours (UTC), so prices \
         change at full hours only"
    )]
    InsideHour {
        /// `start` or `end`.
        key: &'static str,
        /// What was written.
        text: String,
    },
    /// Validity that ends before it starts.
    #[error("valid ends before it starts")]
    NeverValid,
    /// Two prices for the same at the same time.
    #[error("has the same meter, kind and match as entry {other} (line {line}) at the same time")]
    Overlap {
        /// Number of the other entry, from 1.
        other: usize,
        /// Its line.
        line: usize,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        match &self.entry {
            Some((number, meter)) if meter.is_empty() => write!(f, ", [[price]] entry {number}"),
            Some((number, meter)) => write!(f, ", [[price]] entry {number} ({meter})"),
            None => Ok(()),
        }
    }
}
