//! Issued invoices: sealed under a digest of their content, read-only from then on.

use std::ops::Deref;

use nilometer_contract::Timestamp;

use super::{Invoice, InvoiceError, Status};
use crate::digest::Fields;

/// An invoice that was issued. Nothing changes it: it can only be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedInvoice(Invoice);

impl Invoice {
    /// Issues a draft at an instant past its period, and seals it.
    pub fn issue(mut self, at: Timestamp) -> Result<IssuedInvoice, InvoiceError> {
        if self.status == Status::Issued {
            return Err(InvoiceError::AlreadyIssued(self.id));
        }
        if at < self.end {
            return Err(InvoiceError::PeriodOpen { id: self.id, end: self.end });
        }
        self.status = Status::Issued;
        self.issued_at = Some(at);
        self.digest = Some(self.content_digest());
        Ok(IssuedInvoice(self))
    }

    fn is_in_its_currency(&self) -> bool {
        let digits = self.currency.minor_digits();
        let mut amounts = self.lines.iter().map(|line| &line.amount).chain([&self.total]);
        amounts.all(|amount| amount.digits() == digits)
    }

    /// SHA-256 of everything but the digest itself, in the JSON form of [`crate::FORMAT`].
    fn content_digest(&self) -> String {
        let content = Invoice { digest: None, ..self.clone() };
        match serde_json::to_string(&content) {
            Ok(text) => Fields::new("nilometer issued invoice 1").text(&text).hex(),
            Err(error) => panic!("an invoice is plain text and numbers: {error}"),
        }
    }
}

impl IssuedInvoice {
    /// Reads back the JSON of an issued invoice and checks that it is what was sealed.
    pub fn from_json(text: &str) -> Result<Self, InvoiceError> {
        let invoice: Invoice = serde_json::from_str(text).map_err(InvoiceError::Json)?;
        let reason = if invoice.digest.as_deref() != Some(invoice.content_digest().as_str()) {
            "has another digest than its content"
        } else if invoice.status != Status::Issued || invoice.issued_at.is_none() {
            "is not issued"
        } else if !invoice.is_in_its_currency() {
            "has amounts that are not in its currency"
        } else if invoice.sum_of_lines() != invoice.total {
            "does not add up"
        } else {
            return Ok(IssuedInvoice(invoice));
        };
        Err(InvoiceError::Forged { id: invoice.id, reason })
    }
}

impl Deref for IssuedInvoice {
    type Target = Invoice;

    fn deref(&self) -> &Invoice {
        &self.0
    }
}
