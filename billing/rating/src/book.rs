//! Price books: prices in one currency, immutable once used.
//!
//! Selection: among the entries that fit a usage row, the one with most conditions wins. `kind`
//! is one condition, every key of `match` and of `labels` is one, and every name in `without`; of
//! equals, the earlier in the file wins.
//!
//! A book's version is the digest of its canonical text, so a changed book is another book and
//! every past charge names the one it was made with.

mod canonical;
mod error;
mod read;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use nilometer_contract::{Catalogue, Meter, Resource, ResourceKind, Timestamp, catalogue};
use nilometer_usage::{Quantity, UsageRow};
use num_bigint::{BigInt, BigUint};

use crate::currency::Currency;
use crate::decimal::Price;
use crate::digest::Fields;
use crate::fraction::Fraction;
use crate::pattern::Pattern;
use crate::per::Per;

pub use error::{BookError, Place, Problem};

/// Most entries of one book.
pub const MAX_ENTRIES: usize = 10_000;
/// Most bytes of one book.
pub const MAX_BOOK_BYTES: usize = 4 << 20;
/// The key of `match` that stands for the project instead of an attribute.
pub(crate) const PROJECT: &str = "project";
/// Pico-units in a usage unit.
const PICO: u64 = 1_000_000_000_000;
const BUILT_IN: &str = include_str!("../books/default.toml");

/// What all entries of a book share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BookHeading {
    /// What people call the book.
    pub name: String,
    /// Currency of every price.
    pub currency: Currency,
    /// `name@` and the first 16 digits of the digest: how charges and invoices name the book.
    pub version: String,
    /// SHA-256 of the canonical text, in hexadecimal.
    pub digest: String,
}

/// One price, and what it is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PriceEntry {
    /// Unique in the book: the meter and a digest of the entry's text.
    pub id: String,
    /// Name of the meter priced.
    pub meter: Arc<str>,
    /// Unit of the usage priced; usage of a meter of this name in another unit is not.
    pub usage_unit: Arc<str>,
    /// Kind of resource, when the price is for one kind only.
    pub kind: Option<ResourceKind>,
    /// Patterns on attributes (and on `project`) that must all match.
    pub matches: BTreeMap<String, Pattern>,
    /// Patterns on the further labels of the series that must all match.
    pub labels: BTreeMap<String, Pattern>,
    /// Attributes that the resource must not have.
    pub without: BTreeSet<String>,
    /// Price of `per` usage.
    pub price: Price,
    /// How much usage the price is for.
    pub per: Per,
    /// First instant of validity, on a clock hour; open when absent.
    pub start: Option<Timestamp>,
    /// First instant past validity, on a clock hour; open when absent.
    pub end: Option<Timestamp>,
    /// What invoice lines say.
    pub description: Option<String>,
    /// Place in the book, from 0; invoice lines keep this order.
    pub position: usize,
    /// The book.
    pub book: Arc<BookHeading>,
}

/// Prices in force, in one currency.
///
/// Invariant: no two entries with the same selector are valid at the same instant.
#[derive(Clone, Debug)]
pub struct PriceBook {
    heading: Arc<BookHeading>,
    entries: Vec<Arc<PriceEntry>>,
    /// Places of each meter's entries, the one to try first in front.
    by_meter: HashMap<Arc<str>, Vec<usize>>,
    text: String,
}

impl PriceEntry {
    fn conditions(&self) -> usize {
        let kind = usize::from(self.kind.is_some());
        self.matches.len() + self.labels.len() + self.without.len() + kind
    }

    /// What `quantity` of the meter's usage costs, exactly.
    pub fn amount_of(&self, quantity: Quantity) -> Fraction {
        let (numerator, denominator) = (BigInt::from(quantity.0), self.pico_per());
        let scale = BigUint::from(10u8).pow(self.price.scale());
        Fraction::new(numerator * self.price.digits(), denominator * scale)
    }

    /// How many times `per` goes into `quantity`, exactly.
    pub fn count_in(&self, quantity: Quantity) -> Fraction {
        Fraction::new(BigInt::from(quantity.0), self.pico_per())
    }

    fn pico_per(&self) -> BigUint {
        BigUint::from(PICO) * self.per.units()
    }

    fn is_valid_at(&self, at: Timestamp) -> bool {
        self.start.is_none_or(|start| start <= at) && self.end.is_none_or(|end| at < end)
    }

    fn overlaps(&self, other: &PriceEntry) -> bool {
        let before = |end: Option<Timestamp>, start: Option<Timestamp>| match (end, start) {
            (Some(end), Some(start)) => end <= start,
            _ => false,
        };
        !before(self.end, other.start) && !before(other.end, self.start)
    }

    fn fits(&self, row: &UsageRow, resource: Option<&Resource>) -> bool {
        let value_of = |key: &str| match key {
            PROJECT => Some(&*row.project),
            key => resource.and_then(|resource| resource.attributes.get(key)).map(String::as_str),
        };
        // Of an unknown state nothing is known to be absent.
        let without = |key: &String| resource.is_some() && value_of(key).is_none();
        self.meter == row.meter.name
            && self.usage_unit == row.meter.usage_unit
            && self.kind.as_ref().is_none_or(|kind| *kind == row.kind)
            && self.is_valid_at(row.start)
            && self
                .matches
                .iter()
                .all(|(key, pattern)| value_of(key).is_some_and(|value| pattern.matches(value)))
            && self.without.iter().all(without)
            && self.fits_labels(row)
    }

    fn fits_labels(&self, row: &UsageRow) -> bool {
        if self.labels.is_empty() {
            return true;
        }
        let pairs = row.labels.pairs();
        let fits = |(key, pattern): (&String, &Pattern)| {
            pairs.get(key).is_some_and(|value| pattern.matches(value))
        };
        self.labels.iter().all(fits)
    }
}

impl PriceBook {
    /// Reads a book in TOML about meters of the built-in catalogue; the first thing wrong with it
    /// is the error.
    pub fn parse(text: &str) -> Result<Self, BookError> {
        Self::parse_with(text, catalogue())
    }

    /// Reads the canonical text of a book that was in use, whatever the catalogue says by now.
    pub fn parse_canonical(text: &str) -> Result<Self, BookError> {
        Self::parse_with(text, &Catalogue::empty())
    }

    /// Reads a book in TOML about meters of a catalogue, and others whose unit it states.
    pub fn parse_with(text: &str, catalogue: &Catalogue) -> Result<Self, BookError> {
        let read = read::read(text, catalogue)?;
        let text = canonical::text(&read);
        let digest = Fields::new("nilometer price book 1").text(&text).hex();
        let version = format!("{}@{}", read.name, &digest[..16]);
        let heading = BookHeading { name: read.name, currency: read.currency, version, digest };
        let heading = Arc::new(heading);
        let entries: Vec<Arc<PriceEntry>> = read
            .entries
            .into_iter()
            .map(|entry| Arc::new(PriceEntry { book: heading.clone(), ..entry }))
            .collect();
        let mut by_meter: HashMap<Arc<str>, Vec<usize>> = HashMap::new();
        for entry in &entries {
            by_meter.entry(entry.meter.clone()).or_default().push(entry.position);
        }
        for places in by_meter.values_mut() {
            // The sort is stable: of equals, the earlier in the file stays in front.
            places.sort_by_key(|&at| std::cmp::Reverse(entries[at].conditions()));
        }
        Ok(PriceBook { heading, entries, by_meter, text })
    }

    /// The book that comes with the program: sensible prices in euro, as an example and for the
    /// demonstration.
    pub fn built_in() -> Self {
        match Self::parse(BUILT_IN) {
            Ok(book) => book,
            Err(error) => panic!("the built-in price book is valid: {error}"),
        }
    }

    /// The built-in book as it was written, with its comments.
    pub fn built_in_text() -> &'static str {
        BUILT_IN
    }

    /// Name, currency, version, digest.
    pub fn heading(&self) -> &Arc<BookHeading> {
        &self.heading
    }

    /// How charges and invoices name this book.
    pub fn version(&self) -> &str {
        &self.heading.version
    }

    /// Currency of every price.
    pub fn currency(&self) -> Currency {
        self.heading.currency
    }

    /// The entries in the order of the file.
    pub fn entries(&self) -> &[Arc<PriceEntry>] {
        &self.entries
    }

    /// Finds an entry by its id.
    pub fn entry(&self, id: &str) -> Option<&Arc<PriceEntry>> {
        self.entries.iter().find(|entry| entry.id == id)
    }

    /// The book without comments and in fixed form; reading it gives a book of the same version.
    /// This is what to keep when a book is used.
    pub fn canonical_text(&self) -> &str {
        &self.text
    }

    /// Meters that have a price, for callers that want to read no other usage.
    pub fn meters(&self) -> impl Iterator<Item = &str> {
        let mut meters: Vec<&str> = self.by_meter.keys().map(|meter| &**meter).collect();
        meters.sort_unstable();
        meters.into_iter()
    }

    /// Whether any entry prices the meter.
    pub fn has_meter(&self, meter: &str) -> bool {
        self.by_meter.contains_key(meter)
    }

    /// An entry for a meter of this name in another unit, where no entry is for its own.
    pub fn in_another_unit(&self, meter: &Meter) -> Option<&PriceEntry> {
        let entries = || self.by_meter.get(&meter.name).into_iter().flatten();
        let mut entries = entries().map(|&at| &*self.entries[at]).peekable();
        let first = entries.peek().copied();
        first.filter(|_| entries.all(|entry| entry.usage_unit != meter.usage_unit))
    }

    /// The entry in force for a usage row, given the state of its resource at the row's start.
    /// Without a state, only entries that ask for nothing but kind and project fit.
    pub fn price_for(
        &self,
        row: &UsageRow,
        resource: Option<&Resource>,
    ) -> Option<&Arc<PriceEntry>> {
        let places = self.by_meter.get(&row.meter.name)?;
        places.iter().map(|&at| &self.entries[at]).find(|entry| entry.fits(row, resource))
    }
}
