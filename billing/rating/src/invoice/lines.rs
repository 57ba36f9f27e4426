//! Draws up the lines of an invoice from its charges.

use std::collections::BTreeMap;
use std::sync::Arc;

use nilometer_contract::ResourceKind;
use nilometer_usage::Quantity;

use super::coverage::{Gaps, Observed};
use super::{Detail, InvoiceError, Line};
use crate::book::{PriceBook, PriceEntry};
use crate::decimal::trimmed;
use crate::digest::Fields;
use crate::fraction::round_to_minor_unit;
use crate::period::Period;
use crate::rate::Charge;

/// Places to which a line's count is shown.
pub(crate) const COUNT_DIGITS: u32 = 6;

/// Whose bill, for when, at which prices.
pub(super) struct Scope<'s> {
    pub(super) project: &'s str,
    pub(super) period: &'s Period,
    pub(super) book: &'s PriceBook,
    pub(super) detail: Detail,
}

/// A line and what was observed of each of its hours.
pub(super) struct Drawn {
    pub(super) line: Line,
    observed: Observed,
}

/// Usage that makes up one line.
struct Sum<'c> {
    entry: &'c Arc<PriceEntry>,
    quantity: Quantity,
    observed: Observed,
}

/// Place of the price in the book, kind, and the resource when lines are by resource: the order
/// of the lines.
type Key<'c> = (usize, ResourceKind, Option<&'c str>);

/// Sums the charges and rounds each line once.
pub(super) fn draw_up(scope: &Scope<'_>, charges: &[&Charge]) -> Result<Vec<Drawn>, InvoiceError> {
    let mut sums: BTreeMap<Key<'_>, Sum<'_>> = BTreeMap::new();
    for charge in charges {
        let usage = &charge.usage;
        let resource = (scope.detail == Detail::Resources).then_some(&*usage.resource);
        let key = (charge.entry.position, usage.kind.clone(), resource);
        let sum = sums.entry(key).or_insert_with(|| Sum::new(&charge.entry));
        sum.observed.add(usage);
        sum.quantity = sum
            .quantity
            .checked_add(usage.quantity)
            .ok_or_else(|| InvoiceError::QuantityOverflow(charge.entry.id.clone()))?;
    }
    Ok(sums.into_iter().map(|(key, sum)| scope.line(key, sum)).collect())
}

impl<'c> Sum<'c> {
    fn new(entry: &'c Arc<PriceEntry>) -> Self {
        Sum { entry, quantity: Quantity::default(), observed: Observed::default() }
    }
}

impl Scope<'_> {
    fn line(&self, (_, kind, resource): Key<'_>, sum: Sum<'_>) -> Drawn {
        let Sum { entry, quantity, observed } = sum;
        let amount_exact = entry.amount_of(quantity);
        let (count, _) = entry.count_in(quantity).truncated(COUNT_DIGITS);
        let meter = &entry.meter;
        let description = entry.description.clone().unwrap_or_else(|| format!("{kind} {meter}"));
        let line = Line {
            id: self.line_id(entry, &kind, resource),
            description,
            kind,
            resource: resource.map(str::to_owned),
            meter: meter.to_string(),
            quantity,
            unit: entry.usage_unit.to_string(),
            price: entry.price,
            per: entry.per.to_string(),
            count: trimmed(&count).to_owned(),
            amount: round_to_minor_unit(&amount_exact, self.book.currency()),
            amount_exact,
            coverage: observed.coverage(),
            price_book: entry.book.version.clone(),
            price_entry: entry.id.clone(),
            corrects: None,
        };
        Drawn { line, observed }
    }

    fn line_id(&self, entry: &PriceEntry, kind: &ResourceKind, resource: Option<&str>) -> String {
        let fields = Fields::new("nilometer line 1")
            .text(self.project)
            .number(self.period.start().0.into())
            .number(self.period.end().0.into())
            .text(&entry.book.digest)
            .text(&entry.id)
            .text(kind.as_str());
        let fields = resource.into_iter().fold(fields, Fields::text);
        format!("L-{}", fields.short())
    }
}

impl Drawn {
    /// Notes the hours of this line that were not observed in full.
    pub(super) fn note_gaps(&self, gaps: &mut Gaps) {
        self.observed.note_gaps(&self.line.id, &self.line.meter, gaps);
    }
}
