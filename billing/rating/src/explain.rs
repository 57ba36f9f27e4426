//! Explanation: from an invoice line to its charges, usage and samples, each step as a query that
//! the customer can run (invariant 16).

mod sql;

use nilometer_contract::{Catalogue, MeterKind};
use nilometer_usage::Quantity;
use serde::Serialize;

use crate::explain::sql::{Steps, corrected_query, instant, origin, quoted};
use crate::invoice::{Invoice, Line};
use crate::rate::{Charge, ChargeRow, RateError, SHOWN_DIGITS, in_order};

/// Most charges that an explanation lists; its first query finds all.
pub const MAX_EXPLAINED: usize = 1_000;

/// A question in SQL that takes the explanation one step further.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Query {
    /// What it finds: `charges`, `usage`, `samples`, `events`, `invoices`.
    pub finds: &'static str,
    /// Read-only SQL over the documented tables.
    pub sql: String,
}

/// Names of the tables that the questions are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableNames {
    /// Usage by hour.
    pub usage: &'static str,
    /// Every statement about usage of an hour.
    pub usage_history: &'static str,
    /// Charges by hour.
    pub charges: &'static str,
    /// Every statement about charges of an hour.
    pub charges_history: &'static str,
    /// Issued invoices.
    pub invoices: &'static str,
    /// Samples.
    pub samples: &'static str,
    /// Lifecycle events.
    pub events: &'static str,
    /// Whose samples count where several sources have some.
    pub source_hours: &'static str,
}

/// Where an invoice line comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The invoice.
    pub invoice: String,
    /// The line.
    pub line: Line,
    /// The line's calculation in words.
    pub arithmetic: String,
    /// SHA-256 of the price book's canonical text.
    pub price_book_digest: String,
    /// The charges that make up the line, by resource and start; at most [`MAX_EXPLAINED`].
    pub charges: Vec<ChargeRow>,
    /// Charges beyond the bound.
    pub charges_left_out: usize,
    /// The steps from the line to its samples.
    pub queries: Vec<Query>,
}

/// Why a line cannot be explained.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    /// No such line.
    #[error("invoice {invoice} has no line {line}")]
    NoLine {
        /// The invoice.
        invoice: String,
        /// The line asked for.
        line: String,
    },
    /// The charges given overlap.
    #[error("charges overlap")]
    Overlap(#[source] RateError),
    /// The charges given are not those that the line was drawn up from: usage has been corrected
    /// since, or some were left out.
    #[error(
        "line {line} bills {billed}, its charges as known now come to {found}; for an issued \
         invoice give the charges as they were known when it was issued"
    )]
    Mismatch {
        /// The line.
        line: String,
        /// Quantity on the line.
        billed: Quantity,
        /// Sum of the charges.
        found: Quantity,
    },
}

/// Explains a line by the charges it was drawn up from; others among `charges` are left out.
///
/// The charges are added up again: an explanation that is returned is one that adds up. A line
/// that corrects another is explained by queries alone.
pub fn explain(
    line_id: &str,
    invoice: &Invoice,
    charges: &[Charge],
    catalogue: &Catalogue,
    tables: &TableNames,
) -> Result<Explanation, ExplainError> {
    let line = invoice.line(line_id).ok_or_else(|| ExplainError::NoLine {
        invoice: invoice.id.clone(),
        line: line_id.to_owned(),
    })?;
    let mut explanation = Explanation {
        invoice: invoice.id.clone(),
        line: line.clone(),
        arithmetic: arithmetic(line, invoice),
        price_book_digest: invoice.price_book_digest.clone(),
        charges: Vec::new(),
        charges_left_out: 0,
        queries: Vec::new(),
    };
    let mut metered = charges.iter().map(|charge| &*charge.usage.meter);
    let meter = metered
        .find(|meter| *meter.name == *line.meter)
        .or_else(|| catalogue.find(&line.meter).map(|meter| &**meter));
    if let Some(correction) = &line.corrects {
        let span = (correction.start, correction.end);
        explanation.queries = vec![corrected_query(correction, tables)];
        explanation.queries.extend(Steps { line, invoice, span, meter, tables }.queries());
        return Ok(explanation);
    }
    let of_line = |charge: &&Charge| invoice.has_on(line, charge);
    let ours = in_order(charges.iter().filter(of_line), |charge| &charge.usage)
        .map_err(ExplainError::Overlap)?;
    let zero = Some(Quantity::default());
    let found = ours.iter().fold(zero, |sum, charge| sum?.checked_add(charge.usage.quantity));
    if found != Some(line.quantity) {
        let found = found.unwrap_or_default();
        return Err(ExplainError::Mismatch { line: line.id.clone(), billed: line.quantity, found });
    }
    explanation.charges = ours.iter().take(MAX_EXPLAINED).map(|charge| charge.row()).collect();
    explanation.charges_left_out = ours.len().saturating_sub(MAX_EXPLAINED);
    let span = (invoice.start, invoice.end);
    explanation.queries = Steps { line, invoice, span, meter, tables }.queries();
    Ok(explanation)
}

/// The query that finds what one charge's usage was made from: the samples of its resource and
/// meter, or the lifecycle events when the meter is an allocated size.
pub fn samples_query(charge: &Charge, tables: &TableNames) -> Query {
    let Charge { usage, .. } = charge;
    let labels = quoted(usage.labels.as_str());
    let of = format!("resource = {} AND labels = {labels}", quoted(&usage.resource));
    let of = match usage.meter.kind {
        MeterKind::Allocation { .. } => format!("resource = {}", quoted(&usage.resource)),
        _ => of,
    };
    origin(&usage.meter, &of, (charge.usage.start, charge.usage.end), tables)
}

/// The query that finds, where several sources sampled what a charge is of, whose samples count.
pub fn sources_query(charge: &Charge, tables: &TableNames) -> Query {
    let Charge { usage, .. } = charge;
    Query {
        finds: "sources",
        sql: format!(
            "SELECT start, source, samples, counted FROM {} WHERE meter = {} AND resource = {} \
             AND start < {} AND \"end\" > {} ORDER BY start, source",
            tables.source_hours,
            quoted(&usage.meter.name),
            quoted(&usage.resource),
            instant(usage.end),
            instant(usage.start),
        ),
    }
}

fn arithmetic(line: &Line, invoice: &Invoice) -> String {
    let (amount, is_exact) = line.amount_exact.truncated(SHOWN_DIGITS);
    let cut = if is_exact { "" } else { "…" };
    let Line { quantity, unit, price, per, .. } = line;
    let currency = invoice.currency;
    let sum =
        format!("{quantity} {unit} × {price} {currency} per {per} = {amount}{cut} {currency}");
    match &line.corrects {
        None => format!("{sum}, rounded once, half to even: {} {currency}", line.amount),
        Some(correction) => format!(
            "{sum}; the rounded amount of {} differs by {} {currency}",
            correction.line, line.amount
        ),
    }
}
