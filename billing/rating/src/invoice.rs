//! Invoices: a project's charges for a billing period, rounded once per line.
//!
//! An invoice is a pure function of project, period, charges and book; so are its id and the ids
//! of its lines, which is why a line can be found again from a recomputed invoice (invariants 13,
//! 14 and 16). Issuing seals it under a digest of its content (invariant 15): what turns out
//! differently later becomes [`corrections`] on a later invoice.

mod correct;
mod coverage;
mod lines;
mod sealed;

use nilometer_contract::{ResourceKind, Timestamp};
use nilometer_usage::Quantity;
use serde::{Deserialize, Serialize};

use crate::book::PriceBook;
use crate::currency::Currency;
use crate::decimal::Price;
use crate::digest::Fields;
use crate::fraction::{Fraction, Money};
use crate::period::Period;
use crate::rate::{Charge, RateError, in_order};

pub use correct::{Correction, corrections};
pub use coverage::{Coverage, MAX_GAPS, Millionths};
pub(crate) use lines::COUNT_DIGITS;
pub use sealed::IssuedInvoice;

/// Version of the written form of an invoice.
pub const FORMAT: &str = "nilometer.invoice.v1";

/// How finely an invoice breaks up its lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Detail {
    /// A line for each price and kind of resource.
    Prices,
    /// A line for each price and resource.
    Resources,
}

/// Whether an invoice may still change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Computed from what is known now.
    Draft,
    /// Sent; never changes.
    Issued,
}

/// One line: the usage of one meter at one price, rounded once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Digest of what the line is about (not of how much): the same in every recomputation.
    pub id: String,
    /// What it is, for people.
    pub description: String,
    /// Kind of resource.
    pub kind: ResourceKind,
    /// The resource, when lines are by resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// Name of the meter.
    pub meter: String,
    /// Exact sum of the usage, in `unit`.
    pub quantity: Quantity,
    /// Usage unit of the meter.
    pub unit: String,
    /// Price of `per` usage.
    pub price: Price,
    /// What the price is for.
    pub per: String,
    /// How many times `per` goes into the quantity, cut to 6 places, for reading.
    pub count: String,
    /// The exact amount, as a fraction.
    pub amount_exact: Fraction,
    /// The exact amount rounded to the minor unit, half to even.
    pub amount: Money,
    /// How much of the usage was observed.
    pub coverage: Coverage,
    /// Version of the price book.
    pub price_book: String,
    /// Entry of the price book.
    pub price_entry: String,
    /// The line of an issued invoice that this one corrects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corrects: Option<Correction>,
}

/// A project's bill for a period.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invoice {
    /// [`FORMAT`].
    pub format: String,
    /// Digest of project, period, book, usage and corrections.
    pub id: String,
    /// Who pays.
    pub project: String,
    /// First instant of the period.
    pub start: Timestamp,
    /// First instant past the period.
    pub end: Timestamp,
    /// Time zone that the period's days are days of.
    pub time_zone: String,
    /// Currency of all amounts.
    pub currency: Currency,
    /// Version of the price book.
    pub price_book: String,
    /// SHA-256 of the price book's canonical text.
    pub price_book_digest: String,
    /// SHA-256 of the charges.
    pub usage_digest: String,
    /// Version of the samples that the usage rests on, when the caller keeps several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known: Option<i64>,
    /// How finely lines are broken up.
    pub detail: Detail,
    /// Whether it may still change.
    pub status: Status,
    /// When it was issued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_at: Option<Timestamp>,
    /// In the order of the price book, then by kind and resource; corrections last.
    pub lines: Vec<Line>,
    /// Sum of the rounded lines.
    pub total: Money,
    /// Usage that was not observed in full, in words; at most [`MAX_GAPS`] and a count of the rest.
    pub gaps: Vec<String>,
    /// SHA-256 of an issued invoice's content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// Why there is no invoice.
#[derive(Debug, thiserror::Error)]
pub enum InvoiceError {
    /// A charge was made with another book.
    #[error("charge for {resource} was made with price book {found}, not {expected}")]
    OtherBook {
        /// The charge's resource.
        resource: String,
        /// The charge's book.
        found: String,
        /// The invoice's book.
        expected: String,
    },
    /// A charge lies across an edge of the period.
    #[error("usage of {resource} from {start} to {end} lies across an edge of the period")]
    AcrossEdge {
        /// The charge's resource.
        resource: String,
        /// Start of the usage.
        start: Timestamp,
        /// End of the usage.
        end: Timestamp,
    },
    /// Usage is stated twice.
    #[error("charges overlap")]
    Overlap(#[source] RateError),
    /// One line's quantity does not fit: more than 10^26 usage units.
    #[error("quantity of line {0} is out of range")]
    QuantityOverflow(String),
    /// A correction computed from something else than what is corrected.
    #[error("invoice {now} is not about the project, period, detail and currency of {issued}")]
    OtherBill {
        /// The issued invoice.
        issued: String,
        /// The invoice computed anew.
        now: String,
    },
    /// Corrections in another currency.
    #[error("a correction in {found} cannot be billed in {expected}")]
    OtherCurrency {
        /// Currency of the correction.
        found: Currency,
        /// Currency of the invoice.
        expected: Currency,
    },
    /// Issued already.
    #[error("invoice {0} was issued before and never changes")]
    AlreadyIssued(String),
    /// Issued too early.
    #[error("the period of invoice {id} lasts until {end}; it cannot be issued before")]
    PeriodOpen {
        /// The invoice.
        id: String,
        /// First instant past its period.
        end: Timestamp,
    },
    /// Not the text of an issued invoice.
    #[error("not an issued invoice in JSON")]
    Json(#[source] serde_json::Error),
    /// The content is not what was sealed.
    #[error("invoice {id} {reason}: it was changed after it was issued")]
    Forged {
        /// The invoice.
        id: String,
        /// What does not hold.
        reason: &'static str,
    },
}

/// Draws up a draft of what `project` owes for `period`.
///
/// Charges of other projects and periods are left out; the order of charges changes nothing.
/// Rounds once per line, half to even; the total is the sum of the rounded lines.
pub fn invoice(
    project: &str,
    period: &Period,
    charges: &[Charge],
    book: &PriceBook,
    detail: Detail,
) -> Result<Invoice, InvoiceError> {
    let outside =
        |charge: &Charge| charge.usage.end <= period.start() || charge.usage.start >= period.end();
    let ours = charges.iter().filter(|c| &*c.usage.project == project && !outside(c));
    let ours = in_order(ours, |charge| &charge.usage).map_err(InvoiceError::Overlap)?;
    for charge in &ours {
        check(charge, period, book)?;
    }
    let usage_digest = digest_of(&ours);
    let scope = lines::Scope { project, period, book, detail };
    let lines = lines::draw_up(&scope, &ours)?;
    let mut gaps = coverage::Gaps::default();
    lines.iter().for_each(|line| line.note_gaps(&mut gaps));
    let lines: Vec<Line> = lines.into_iter().map(|line| line.line).collect();
    let mut invoice = Invoice {
        format: FORMAT.to_owned(),
        id: String::new(),
        project: project.to_owned(),
        start: period.start(),
        end: period.end(),
        time_zone: period.zone().to_owned(),
        currency: book.currency(),
        price_book: book.version().to_owned(),
        price_book_digest: book.heading().digest.clone(),
        usage_digest,
        known: None,
        detail,
        status: Status::Draft,
        issued_at: None,
        total: Money::zero(book.currency()),
        lines,
        gaps: gaps.into_texts(),
        digest: None,
    };
    invoice.settle();
    Ok(invoice)
}

impl Invoice {
    /// Finds a line by its id.
    pub fn line(&self, id: &str) -> Option<&Line> {
        self.lines.iter().find(|line| line.id == id)
    }

    /// The line that a charge is part of, if it is part of this invoice. Looks at every line.
    pub fn line_of(&self, charge: &Charge) -> Option<&Line> {
        self.lines.iter().find(|line| self.has_on(line, charge))
    }

    /// Whether a charge is part of a line of this invoice.
    pub(crate) fn has_on(&self, line: &Line, charge: &Charge) -> bool {
        let usage = &charge.usage;
        line.corrects.is_none()
            && line.price_entry == charge.entry.id
            && line.kind == usage.kind
            && line.resource.as_ref().is_none_or(|resource| **resource == *usage.resource)
            && *usage.project == *self.project
            && self.start <= usage.start
            && usage.end <= self.end
            && charge.entry.book.digest == self.price_book_digest
    }

    /// States which version of the samples a draft rests on: "as known at". It is sealed with the
    /// rest but is no part of the id, since what is newly known may change nothing.
    pub fn as_known(mut self, known: i64) -> Result<Self, InvoiceError> {
        if self.status == Status::Issued {
            return Err(InvoiceError::AlreadyIssued(self.id));
        }
        self.known = Some(known);
        Ok(self)
    }

    /// Adds lines that correct issued invoices; see [`corrections`].
    pub fn with_corrections(mut self, found: Vec<Line>) -> Result<Self, InvoiceError> {
        if self.status == Status::Issued {
            return Err(InvoiceError::AlreadyIssued(self.id));
        }
        for line in found {
            let currency = line.corrects.as_ref().map(|correction| correction.currency);
            if let Some(found) = currency.filter(|&currency| currency != self.currency) {
                return Err(InvoiceError::OtherCurrency { found, expected: self.currency });
            }
            self.lines.push(line);
        }
        self.settle();
        Ok(self)
    }

    /// Sets what follows from the rest: the total and the id.
    fn settle(&mut self) {
        self.total = self.sum_of_lines();
        let id = Fields::new("nilometer invoice 1")
            .text(&self.project)
            .number(self.start.0.into())
            .number(self.end.0.into())
            .text(&self.time_zone)
            .text(&self.price_book_digest)
            .text(&self.usage_digest)
            .number(if self.detail == Detail::Resources { 1 } else { 0 });
        let corrections = self.lines.iter().filter(|line| line.corrects.is_some());
        let id = corrections.fold(id, |id, line| id.text(&line.id).text(&line.amount.to_string()));
        self.id = format!("INV-{}", id.short());
    }

    fn sum_of_lines(&self) -> Money {
        let zero = Money::zero(self.currency);
        self.lines.iter().fold(zero, |sum, line| sum.plus(&line.amount))
    }
}

fn check(charge: &Charge, period: &Period, book: &PriceBook) -> Result<(), InvoiceError> {
    let usage = &charge.usage;
    if charge.entry.book.digest != book.heading().digest {
        return Err(InvoiceError::OtherBook {
            resource: usage.resource.to_string(),
            found: charge.entry.book.version.clone(),
            expected: book.version().to_owned(),
        });
    }
    if !period.contains(usage.start, usage.end) {
        let (resource, start, end) = (usage.resource.to_string(), usage.start, usage.end);
        return Err(InvoiceError::AcrossEdge { resource, start, end });
    }
    Ok(())
}

/// Digest of the usage that was priced and of the prices. Rows that touch count as one, so that
/// it does not depend on how the usage was cut within an hour.
fn digest_of(charges: &[&Charge]) -> String {
    fn key(charge: &Charge) -> (&str, &ResourceKind, &str, Timestamp) {
        let usage = &charge.usage;
        (&usage.resource, &usage.kind, &charge.entry.id, usage.start.hour())
    }
    let mut digest = Fields::new("nilometer usage 1");
    for run in charges.chunk_by(|left, right| key(left) == key(right)) {
        let (resource, kind, entry, hour) = key(run[0]);
        let sum = |of: fn(&Charge) -> i128| run.iter().map(|charge| of(charge)).sum::<i128>();
        digest = digest
            .text(resource)
            .text(kind.as_str())
            .text(entry)
            .number(hour.0.into())
            .number(sum(|charge| i128::from(charge.usage.end.0 - charge.usage.start.0)))
            .number(sum(|charge| charge.usage.quantity.0))
            .number(sum(|charge| charge.usage.observed_micros.into()));
    }
    digest.hex()
}
