//! Finds the invoice that a line is on, and the charges that the line was drawn up from.

use datafusion::logical_expr::{col, lit};
use nilometer_contract::{Scope, Timestamp};
use nilometer_engine::Selection;
use nilometer_rating::{Charge, Detail, Invoice, Period};

use crate::error::LedgerError;
use crate::invoices::{Invoices, known_of, window_of};
use crate::rating::by_project;
use crate::stored::read::documents;

/// Most projects whose current drafts are searched for a line.
const MAX_SEARCHED: usize = 1_000;
/// Most bills that are remembered; the one drawn up longest ago is forgotten first.
const MAX_REMEMBERED: usize = 16;

/// Whose bill, for when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bill {
    /// Who pays.
    pub project: String,
    /// The period.
    pub period: Period,
}

impl Bill {
    /// Whether a scope sees it: the project for all of the period.
    pub(crate) fn is_in(&self, scope: &Scope) -> bool {
        scope.covers(&self.project, self.period.start(), self.period.end())
    }
}

/// An invoice and the charges that it was drawn up from.
pub(crate) struct DrawnInvoice {
    pub(crate) invoice: Invoice,
    pub(crate) charges: Vec<Charge>,
}

impl Invoices {
    /// The invoice that a line is on: an issued one, else a draft of the bill given, else of a bill
    /// drawn up lately, else of the month (UTC) of the newest sample.
    pub(crate) async fn drawn_with(
        &self,
        scope: &Scope,
        line: &str,
        bill: Option<&Bill>,
    ) -> Result<DrawnInvoice, LedgerError> {
        if let Some(drawn) = self.issued_with(scope, line).await? {
            return Ok(drawn);
        }
        let bills = bill.map_or_else(|| self.remembered(), |bill| vec![bill.clone()]);
        for bill in bills.iter().filter(|bill| bill.is_in(scope)) {
            let of = Selection { project: Some(bill.project.clone()), ..Selection::default() };
            let charges = self.rating.charges(scope, window_of(&bill.period), &of).await?;
            if let Some(drawn) = self.draft_with(line, &bill.project, &bill.period, charges).await?
            {
                return Ok(drawn);
            }
        }
        let found = match bill {
            Some(_) => None,
            None => self.current_with(scope, line).await?,
        };
        found.ok_or_else(|| LedgerError::NoLine(line.to_owned()))
    }

    /// Remembers that a bill was drawn up: people ask about its lines next.
    pub(crate) fn remember(&self, bill: Bill) {
        let mut recent = self.recent.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        recent.retain(|known| *known != bill);
        recent.push_front(bill);
        recent.truncate(MAX_REMEMBERED);
    }

    fn remembered(&self) -> Vec<Bill> {
        let recent = self.recent.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        recent.iter().cloned().collect()
    }

    async fn issued_with(
        &self,
        scope: &Scope,
        line: &str,
    ) -> Result<Option<DrawnInvoice>, LedgerError> {
        let stored = self.core.stored();
        let ids = self.invoices_with(line).await?;
        let Some(id) = ids.first() else { return Ok(None) };
        let wanted = col("document").is_not_null().and(col("id").eq(lit(id.as_str())));
        let texts = documents(&self.core.engine, &stored.invoices, wanted).await?;
        let Some(text) = texts.first() else { return Ok(None) };
        let issued = nilometer_rating::IssuedInvoice::from_json(text)?;
        if !scope.covers(&issued.project, issued.start, issued.end) {
            return Ok(None);
        }
        let book = self.core.books.of(&issued).await?;
        let of = Selection { project: Some(issued.project.clone()), ..Selection::default() };
        let window = nilometer_usage::Window { start: issued.start, end: issued.end };
        let known = known_of(&issued);
        let charges = self.rating.stored_charges(&stored, window, known, &of, &book).await?;
        Ok(Some(DrawnInvoice { invoice: (*issued).clone(), charges }))
    }

    async fn invoices_with(&self, line: &str) -> Result<Vec<String>, LedgerError> {
        let quoted = line.replace('\'', "''");
        let sql = format!("SELECT DISTINCT id FROM invoices WHERE line = '{quoted}' ORDER BY id");
        let rows = self.core.engine.query(&Scope::system(), &sql).await?;
        let mut found = Vec::new();
        for batch in &rows.batches {
            let ids = crate::stored::parse::text(batch, "id")?;
            found.extend(ids.iter().flatten().map(str::to_owned));
        }
        Ok(found)
    }

    /// The draft of a bill, if it has the line in one of its details.
    async fn draft_with(
        &self,
        line: &str,
        project: &str,
        period: &Period,
        charges: Vec<Charge>,
    ) -> Result<Option<DrawnInvoice>, LedgerError> {
        let stored = self.core.stored();
        for detail in [Detail::Prices, Detail::Resources] {
            let invoice = self.drawn(&stored, project, period, detail, &charges).await?;
            if invoice.line(line).is_some() {
                return Ok(Some(DrawnInvoice { invoice, charges }));
            }
        }
        Ok(None)
    }

    async fn current_with(
        &self,
        scope: &Scope,
        line: &str,
    ) -> Result<Option<DrawnInvoice>, LedgerError> {
        let Some(period) = month_of(self.core.engine.meter().newest()) else { return Ok(None) };
        let charges = self.rating.charges(scope, window_of(&period), &Selection::default()).await?;
        let projects = by_project(charges).into_iter();
        let ours = projects.filter(|(it, _)| scope.covers(it, period.start(), period.end()));
        for (project, charges) in ours.take(MAX_SEARCHED) {
            if let Some(drawn) = self.draft_with(line, &project, &period, charges).await? {
                return Ok(Some(drawn));
            }
        }
        Ok(None)
    }
}

/// The calendar month (UTC) of an instant.
fn month_of(at: Timestamp) -> Option<Period> {
    let start = at.to_datetime().date_naive().format("%Y-%m").to_string();
    let next = at.to_datetime().date_naive().checked_add_months(chrono::Months::new(1))?;
    Period::parse(&start, &next.format("%Y-%m").to_string(), "UTC").ok()
}
