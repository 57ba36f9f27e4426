//! Invoices: drafts of what is known now, and those that were issued.

mod find;
mod issue;

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use datafusion::logical_expr::{col, lit};
use nilometer_contract::{Scope, Timestamp};
use nilometer_engine::Selection;
use nilometer_rating::{
    Charge, Detail, Invoice, IssuedInvoice, Line, MAX_GAPS, Period, corrections, invoice,
};
use nilometer_usage::{USAGE, Window};
use tracing::warn;

use crate::core::Core;
use crate::error::LedgerError;
use crate::rating::Rating;
use crate::settlement::Settlement;
use crate::stored::parse::{instants, text};
use crate::stored::read::documents;
use crate::stored::rows::{CHARGES, INVOICES};
use crate::stored::statements::{AsOf, Stored};

pub use find::Bill;

/// Most issued invoices of a project that a later one corrects: the newest.
const MAX_CORRECTED: usize = 24;

/// Drafts and issued invoices. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Invoices {
    core: Arc<Core>,
    rating: Rating,
    settlement: Settlement,
    /// Bills drawn up lately, the newest first, so that their lines can be asked about.
    recent: Arc<Mutex<VecDeque<Bill>>>,
}

impl Invoices {
    pub(crate) fn new(core: Arc<Core>, rating: Rating, settlement: Settlement) -> Self {
        Invoices { core, rating, settlement, recent: Arc::default() }
    }

    /// What a project owes for a period, as known now. Changes nothing.
    ///
    /// Carries the corrections of invoices issued before, and tells what is known to be missing.
    ///
    /// A scope that does not have the project for all of the period gets the same answer as for one
    /// that there never was.
    pub async fn draft(
        &self,
        scope: &Scope,
        project: &str,
        period: &Period,
        detail: Detail,
    ) -> Result<Invoice, LedgerError> {
        let selection = Selection { project: Some(project.to_owned()), ..Selection::default() };
        let bill = Bill { project: project.to_owned(), period: *period };
        if !bill.is_in(scope) {
            return Err(LedgerError::NoProject(bill.project));
        }
        let charges = self.rating.charges(scope, window_of(period), &selection).await?;
        self.remember(bill);
        self.drawn(&self.core.stored(), project, period, detail, &charges).await
    }

    /// A draft of given charges, with corrections and gaps.
    pub(crate) async fn drawn(
        &self,
        stored: &Stored,
        project: &str,
        period: &Period,
        detail: Detail,
        charges: &[Charge],
    ) -> Result<Invoice, LedgerError> {
        let draft = invoice(project, period, charges, self.core.books.in_force(), detail)?;
        let owed = self.owed(stored, project, period).await?;
        let mut draft = draft.with_corrections(owed)?;
        draft.gaps.extend(self.gaps(project, period).await?);
        Ok(draft)
    }

    /// Issued invoices of a scope, of one project or all, by period and project.
    pub async fn issued(
        &self,
        scope: &Scope,
        project: Option<&str>,
    ) -> Result<Vec<IssuedInvoice>, LedgerError> {
        let mut issued = self.issued_in(&self.core.stored(), project).await?;
        issued.retain(|it| scope.covers(&it.project, it.start, it.end));
        Ok(issued)
    }

    pub(crate) async fn issued_in(
        &self,
        stored: &Stored,
        project: Option<&str>,
    ) -> Result<Vec<IssuedInvoice>, LedgerError> {
        let of = project.map_or(lit(true), |project| col("project").eq(lit(project)));
        let wanted = col("document").is_not_null().and(of);
        let documents = documents(&self.core.engine, &stored.invoices, wanted).await?;
        let mut found = documents
            .iter()
            .map(|text| IssuedInvoice::from_json(text).map_err(LedgerError::Invoice))
            .collect::<Result<Vec<_>, _>>()?;
        found.sort_by(|a, b| (a.start, &a.project, &a.id).cmp(&(b.start, &b.project, &b.id)));
        Ok(found)
    }

    /// An issued invoice by its id.
    pub async fn issued_invoice(
        &self,
        scope: &Scope,
        id: &str,
    ) -> Result<IssuedInvoice, LedgerError> {
        let wanted = col("document").is_not_null().and(col("id").eq(lit(id)));
        let documents = documents(&self.core.engine, &self.core.stored().invoices, wanted).await?;
        let issued = documents.first().map(|text| IssuedInvoice::from_json(text)).transpose()?;
        let ours = issued.filter(|it| scope.covers(&it.project, it.start, it.end));
        ours.ok_or_else(|| LedgerError::NoInvoice(id.to_owned()))
    }

    /// Lines that correct invoices of other periods, where something was stated anew since.
    async fn owed(
        &self,
        stored: &Stored,
        project: &str,
        period: &Period,
    ) -> Result<Vec<Line>, LedgerError> {
        let issued = self.issued_in(stored, Some(project)).await?;
        let others =
            issued.iter().filter(|it| it.end <= period.start() || it.start >= period.end());
        let others: Vec<&IssuedInvoice> = others.collect();
        let mut found = Vec::new();
        for one in others.iter().rev().take(MAX_CORRECTED).rev() {
            if !is_restated(stored, one) {
                continue;
            }
            let of = Period::parse(&one.start.to_string(), &one.end.to_string(), &one.time_zone)?;
            let book = self.core.books.of(one).await?;
            let selection = Selection { project: Some(project.to_owned()), ..Selection::default() };
            let usage = self.rating.usage(&Scope::system(), window_of(&of), &selection).await?;
            let now = invoice(project, &of, &self.rating.rated(&usage, &book)?, &book, one.detail)?;
            let lines = corrections(one, &others, &now)?;
            if one.currency != self.core.books.in_force().currency() {
                let (invoice, currency) = (&one.id, one.currency.to_string());
                warn!(invoice, currency, lines = lines.len(), "cannot correct in another currency");
                continue;
            }
            found.extend(lines);
        }
        Ok(found)
    }

    /// Gaps that overlap a period and concern a project: on nodes where it had resources, or of
    /// the log as a whole. A damaged file of billing itself is none: of what is billed nothing is
    /// missing with it. How many samples a gap cost is not said: others had theirs on the node too.
    async fn gaps(&self, project: &str, period: &Period) -> Result<Vec<String>, LedgerError> {
        let nodes = self.nodes_of(project, window_of(period));
        let sql = format!(
            "SELECT DISTINCT \"start\", \"end\", node, reason FROM gaps \
             WHERE kind <> 'late' AND of_topic NOT IN ('{}', '{}', '{}') \
             AND \"start\" < TIMESTAMP '{}' AND \"end\" > TIMESTAMP '{}' \
             ORDER BY \"start\", \"end\", node, reason",
            USAGE.name,
            CHARGES.name,
            INVOICES.name,
            period.end(),
            period.start()
        );
        let rows = self.core.engine.query(&Scope::system(), &sql).await?;
        let (mut texts, mut more) = (Vec::new(), 0);
        for batch in &rows.batches {
            let (start, end) = (instants(batch, "start")?, instants(batch, "end")?);
            let (node, reason) = (text(batch, "node")?, text(batch, "reason")?);
            for row in 0..batch.num_rows() {
                let node = node.value(row);
                if !node.is_empty() && !nodes.contains(node) {
                    continue;
                }
                if texts.len() >= MAX_GAPS {
                    more += 1;
                    continue;
                }
                let (start, end) = (Timestamp(start[row]), Timestamp(end[row]));
                let at = if node.is_empty() { "log".to_owned() } else { format!("node {node}") };
                texts.push(format!("{at} from {start} to {end}: {}", reason.value(row)));
            }
        }
        if more > 0 {
            texts.push(format!("and {more} more in table gaps"));
        }
        Ok(texts)
    }

    /// Nodes on which a project had resources at some time of a window.
    fn nodes_of(&self, project: &str, window: Window) -> BTreeSet<String> {
        let history = &self.core.engine.tables().shared.history;
        let history = history.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let segments = history.iter().flat_map(|(_, lifetime)| lifetime.segments());
        let ours = segments.filter(|segment| {
            segment.state.project == project
                && segment.start < window.end
                && segment.end.is_none_or(|end| end > window.start)
        });
        ours.flat_map(|segment| [segment.state.node.clone(), segment.state.id.clone()]).collect()
    }
}

/// Whether anything about an invoice's period was stated after it was issued.
fn is_restated(stored: &Stored, invoice: &Invoice) -> bool {
    let newer = |said: &crate::stored::statements::Statements| {
        let hours = said.hours.range(invoice.start.0..invoice.end.0);
        let mut newest = hours.filter_map(|(_, statements)| statements.last());
        newest.any(|it| invoice.known.is_none_or(|known| it.known > known))
    };
    newer(&stored.usage) || newer(&stored.charges)
}

/// The window of a period.
pub(crate) fn window_of(period: &Period) -> Window {
    Window { start: period.start(), end: period.end() }
}

/// Which statements an invoice rests on.
pub(crate) fn known_of(invoice: &Invoice) -> AsOf {
    invoice.known.map_or(AsOf::Newest, AsOf::At)
}
