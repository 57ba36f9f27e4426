//! Rating: usage × price, with a pointer to both. Pure (invariant 14).

use std::collections::BTreeMap;
use std::sync::Arc;

use nilometer_contract::{Resource, ResourceKind, Timestamp};
use nilometer_usage::{Quantity, UsageRow};
use serde::Serialize;

use crate::book::{PriceBook, PriceEntry};
use crate::currency::Currency;
use crate::decimal::Price;
use crate::fraction::Fraction;

/// Digits to which amounts of single charges are shown; the rest is cut off, never rounded.
pub const SHOWN_DIGITS: u32 = 12;

/// One usage row at its price. The amount follows from both, exactly, and is never rounded here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// The usage.
    pub usage: UsageRow,
    /// The price; it leads to the book.
    pub entry: Arc<PriceEntry>,
}

/// A charge written out flat: the columns of table `charges`, numbers of money as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChargeRow {
    /// First instant of the usage.
    pub start: Timestamp,
    /// First instant past the usage.
    pub end: Timestamp,
    /// Who pays.
    pub project: String,
    /// What was used.
    pub resource: String,
    /// Its kind.
    pub kind: ResourceKind,
    /// What was measured.
    pub meter: String,
    /// Further labels of the series.
    pub labels: BTreeMap<String, String>,
    /// How much, in `unit`.
    pub quantity: Quantity,
    /// Usage unit of the meter.
    pub unit: String,
    /// Price of `per` usage.
    pub price: Price,
    /// What the price is for.
    pub per: String,
    /// Currency of price and amount.
    pub currency: Currency,
    /// The amount cut (not rounded) to [`SHOWN_DIGITS`] digits, for reading.
    pub amount: String,
    /// The amount itself, as a fraction.
    pub amount_exact: Fraction,
    /// Microseconds of the period that were observed.
    pub observed_micros: i64,
    /// Version of the price book.
    pub price_book: String,
    /// Entry of the price book.
    pub price_entry: String,
}

/// Usage that cannot be billed. A biller stops; these are faults of whoever made the rows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    /// The row is no part of one clock hour, is negative, or was observed for longer than it is.
    #[error("usage of {meter} by {resource} from {start} to {end} {reason}")]
    BadRow {
        /// The resource.
        resource: String,
        /// The meter.
        meter: String,
        /// Start of the row.
        start: Timestamp,
        /// End of the row.
        end: Timestamp,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Two rows state usage of one meter and resource for the same instant.
    #[error("usage of {meter} by {resource} is stated twice at {at}")]
    Overlap {
        /// The resource.
        resource: String,
        /// The meter.
        meter: String,
        /// First instant that is stated twice.
        at: Timestamp,
    },
}

impl Charge {
    /// Usage × price, exactly.
    pub fn amount(&self) -> Fraction {
        self.entry.amount_of(self.usage.quantity)
    }

    /// Currency of the amount.
    pub fn currency(&self) -> Currency {
        self.entry.book.currency
    }

    /// Name of the meter.
    pub fn meter_name(&self) -> &str {
        &self.usage.meter.name
    }

    /// The charge written out flat.
    pub fn row(&self) -> ChargeRow {
        let amount = self.amount();
        ChargeRow {
            start: self.usage.start,
            end: self.usage.end,
            project: self.usage.project.to_string(),
            resource: self.usage.resource.to_string(),
            kind: self.usage.kind.clone(),
            meter: self.meter_name().to_owned(),
            labels: self.usage.labels.pairs(),
            quantity: self.usage.quantity,
            unit: self.entry.usage_unit.to_string(),
            price: self.entry.price,
            per: self.entry.per.to_string(),
            currency: self.currency(),
            amount: amount.truncated(SHOWN_DIGITS).0,
            amount_exact: amount,
            observed_micros: self.usage.observed_micros,
            price_book: self.entry.book.version.clone(),
            price_entry: self.entry.id.clone(),
        }
    }
}

/// Prices usage. Pure: equal sets of rows give equal charges, in whatever order the rows come.
///
/// `state_of` gives the state of a row's resource at the row's start, which prices match on.
/// Usage that no entry of the book prices is free: it makes no charge. Rows may be rated in parts,
/// on any number of threads: [`crate::invoice()`] puts the charges in order again.
///
/// Charges come sorted by resource, meter, labels and start.
pub fn rate<'r>(
    usage: &[UsageRow],
    book: &PriceBook,
    state_of: impl Fn(&UsageRow) -> Option<&'r Resource>,
) -> Result<Vec<Charge>, RateError> {
    let mut charges = Vec::new();
    for row in in_order(usage.iter().filter(|row| book.has_meter(&row.meter.name)), |row| row)? {
        check(row)?;
        if let Some(entry) = book.price_for(row, state_of(row)) {
            charges.push(Charge { usage: row.clone(), entry: entry.clone() });
        }
    }
    Ok(charges)
}

/// Sorts rows, or what carries them, by resource, meter, labels and start, and refuses those that overlap.
pub(crate) fn in_order<'i, T>(
    items: impl Iterator<Item = &'i T>,
    row_of: impl Fn(&T) -> &UsageRow,
) -> Result<Vec<&'i T>, RateError> {
    let mut items: Vec<&T> = items.collect();
    items.sort_unstable_by(|left, right| {
        let (left, right) = (row_of(left), row_of(right));
        left.resource
            .cmp(&right.resource)
            .then_with(|| left.meter.cmp(&right.meter))
            .then_with(|| left.labels.cmp(&right.labels))
            .then_with(|| left.start.cmp(&right.start))
            .then_with(|| left.cmp(right))
    });
    for pair in items.windows(2) {
        let (before, after) = (row_of(pair[0]), row_of(pair[1]));
        let same = before.meter == after.meter
            && before.labels == after.labels
            && before.resource == after.resource;
        if same && before.end > after.start {
            let resource = after.resource.to_string();
            let meter = after.meter.name.to_string();
            return Err(RateError::Overlap { resource, meter, at: after.start });
        }
    }
    Ok(items)
}

fn check(row: &UsageRow) -> Result<(), RateError> {
    let last = row.end.plus_micros(-1);
    let micros = row.end.0.saturating_sub(row.start.0);
    let reason = if row.start >= row.end || row.start.hour() != last.hour() {
        "is no part of one clock hour"
    } else if row.quantity.0 < 0 {
        "is negative"
    } else if !(0..=micros).contains(&row.observed_micros) {
        "was observed for longer than it is, or for less than no time"
    } else {
        return Ok(());
    };
    let resource = row.resource.to_string();
    let meter = row.meter.name.to_string();
    Err(RateError::BadRow { resource, meter, start: row.start, end: row.end, reason })
}
