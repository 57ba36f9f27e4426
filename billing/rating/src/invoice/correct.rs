//! Corrections: what an issued invoice would have said, had it been known then (invariant 15).

use std::collections::BTreeMap;

use nilometer_contract::Timestamp;
use nilometer_usage::Quantity;
use serde::{Deserialize, Serialize};

use super::coverage::{Coverage, Millionths};
use super::{Detail, Invoice, InvoiceError, IssuedInvoice, Line};
use crate::currency::Currency;
use crate::digest::Fields;
use crate::fraction::{Fraction, Money};

/// Which line of which issued invoice a line corrects.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Correction {
    /// The issued invoice.
    pub invoice: String,
    /// The line; when that invoice had none for this price, the line it would have had.
    pub line: String,
    /// First instant of that invoice's period.
    pub start: Timestamp,
    /// First instant past that invoice's period.
    pub end: Timestamp,
    /// Currency of that invoice.
    pub currency: Currency,
}

/// What has been billed for one line so far.
struct Billed<'l> {
    line: &'l Line,
    quantity: Quantity,
    exact: Fraction,
    amount: Money,
}

/// Lines for a later invoice that bring what was billed for a past period to what is known now.
///
/// `issued` is the invoice of that period, `later` are issued invoices whose lines may have
/// corrected it before, and `now` is the same period, project and detail computed anew. Each line
/// carries the difference of rounded amounts, so that all that was ever billed for a line adds up
/// to what the line says now. Lines without a difference make no correction.
pub fn corrections(
    issued: &IssuedInvoice,
    later: &[&IssuedInvoice],
    now: &Invoice,
) -> Result<Vec<Line>, InvoiceError> {
    if about(issued) != about(now) {
        let (issued, now) = (issued.id.clone(), now.id.clone());
        return Err(InvoiceError::OtherBill { issued, now });
    }
    let mut billed: BTreeMap<&str, Billed<'_>> = BTreeMap::new();
    let first = issued.lines.iter().filter(|line| line.corrects.is_none());
    let first = first.map(|line| (line.id.as_str(), line));
    let before = later.iter().flat_map(|invoice| &invoice.lines).filter_map(|line| {
        let correction = line.corrects.as_ref().filter(|it| it.invoice == issued.id)?;
        Some((correction.line.as_str(), line))
    });
    for (id, line) in first.chain(before) {
        let sum = billed.entry(id).or_insert_with(|| Billed::nothing(line, issued.currency));
        sum.add(&line.quantity, &line.amount_exact, &line.amount)?;
    }
    let mut wanted: BTreeMap<&str, &Line> = BTreeMap::new();
    for line in now.lines.iter().filter(|line| line.corrects.is_none()) {
        wanted.insert(&line.id, line);
        billed.entry(&line.id).or_insert_with(|| Billed::nothing(line, issued.currency));
    }
    let mut found = Vec::new();
    for (id, mut sum) in billed {
        sum.turn()?;
        if let Some(line) = wanted.get(id) {
            sum.line = line;
            sum.add(&line.quantity, &line.amount_exact, &line.amount)?;
        }
        if sum.quantity != Quantity::default() || !sum.amount.is_zero() {
            found.push(sum.correction(id, issued, now));
        }
    }
    Ok(found)
}

/// What an invoice is about: its lines can be compared with those of another about the same.
fn about(invoice: &Invoice) -> (&str, Timestamp, Timestamp, Detail, Currency) {
    (&invoice.project, invoice.start, invoice.end, invoice.detail, invoice.currency)
}

impl<'l> Billed<'l> {
    fn nothing(line: &'l Line, currency: Currency) -> Self {
        let (quantity, amount) = (Quantity::default(), Money::zero(currency));
        Billed { line, quantity, exact: Fraction::zero(), amount }
    }

    fn add(
        &mut self,
        more: &Quantity,
        exact: &Fraction,
        amount: &Money,
    ) -> Result<(), InvoiceError> {
        let overflow = || InvoiceError::QuantityOverflow(self.line.id.clone());
        self.quantity = self.quantity.checked_add(*more).ok_or_else(overflow)?;
        self.exact = self.exact.plus(exact);
        self.amount = self.amount.plus(amount);
        Ok(())
    }

    fn turn(&mut self) -> Result<(), InvoiceError> {
        let overflow = || InvoiceError::QuantityOverflow(self.line.id.clone());
        let zero = Quantity::default();
        self.quantity = zero.checked_sub(self.quantity).ok_or_else(overflow)?;
        self.exact = self.exact.negated();
        self.amount = self.amount.minus(&self.amount).minus(&self.amount);
        Ok(())
    }

    fn correction(self, id: &str, issued: &Invoice, now: &Invoice) -> Line {
        let digest = Fields::new("nilometer correction 1")
            .text(&issued.id)
            .text(&now.id)
            .text(id)
            .text(&self.amount.to_string())
            .text(&self.quantity.to_string());
        let gone = Coverage { weighted: Millionths::WHOLE, lowest: Millionths::WHOLE };
        let is_known = now.line(id).is_some();
        let text = match &self.line.corrects {
            None => format!("Correction of {id} of {}: {}", issued.id, self.line.description),
            Some(_) => self.line.description.clone(),
        };
        Line {
            id: format!("L-{}", digest.short()),
            description: text,
            quantity: self.quantity,
            count: String::new(),
            amount_exact: self.exact,
            amount: self.amount,
            coverage: if is_known { self.line.coverage } else { gone },
            corrects: Some(Correction {
                invoice: issued.id.clone(),
                line: id.to_owned(),
                start: issued.start,
                end: issued.end,
                currency: issued.currency,
            }),
            ..self.line.clone()
        }
    }
}
