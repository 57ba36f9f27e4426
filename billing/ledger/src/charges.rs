//! Usage and charges of a window: what is settled as stored, the rest as of this moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use nilometer_contract::{MICROS_PER_HOUR, Resource, Scope, Timestamp};
use nilometer_engine::Selection;
use nilometer_rating::{Charge, PriceBook, rate};
use nilometer_usage::{UsageRow, Window};

use crate::archive::read;
use crate::error::LedgerError;
use crate::ledger::Ledger;
use crate::rows_read::{Entries, Reader};
use crate::state::{Archive, Known};

/// Rows rated under one lock of the lifetimes, so that ingestion never waits long for it.
const RATED_AT_ONCE: usize = 8_192;

impl Ledger {
    /// Charges of whole hours: `window` is widened to full hours, UTC. Sorted by start, resource
    /// and meter.
    ///
    /// Prices match on the state of a resource at the start of a row, and rows are cut where the
    /// state changes, so a resize takes effect at its instant.
    pub async fn charges(
        &self,
        scope: &Scope,
        window: Window,
        selection: &Selection,
    ) -> Result<Vec<Charge>, LedgerError> {
        let usage = self.usage(scope, window, selection).await?;
        self.rated(&usage, &self.inner.book)
    }

    /// Usage of whole hours in rows of one state each, in canonical order.
    pub async fn usage(
        &self,
        scope: &Scope,
        window: Window,
        selection: &Selection,
    ) -> Result<Vec<UsageRow>, LedgerError> {
        let archive = self.archive();
        let window = self.metered(window);
        let mut rows = self.stored_usage(&archive, window, Known::Newest, selection).await?;
        for open in archive.usage.open(window, Known::Newest) {
            let meter = self.inner.engine.meter();
            let found =
                meter.usage_by_state(scope, open, selection).await.map_err(LedgerError::Meter)?;
            rows.extend(found);
        }
        rows.retain(|row| scope.admits(&row.project, row.start));
        rows.sort_unstable();
        Ok(rows)
    }

    /// The part of a window that anything is known of, widened to full hours.
    pub(crate) fn metered(&self, window: Window) -> Window {
        let meter = self.inner.engine.meter();
        let archive = self.archive();
        let first = archive.usage.hours.keys().next().map_or(i64::MAX, |hour| *hour);
        let present = self.inner.clock.now().hour().0;
        let last = archive.usage.stated(i64::MIN, present).next_back().unwrap_or(i64::MIN);
        let oldest = meter.start().0.min(first);
        let newest = meter.newest().hour().0.max(last).saturating_add(MICROS_PER_HOUR);
        let upto = match window.end.hour() == window.end {
            true => window.end.0,
            false => window.end.hour().0.saturating_add(MICROS_PER_HOUR),
        };
        let start = Timestamp(window.start.hour().0.max(oldest));
        Window { start, end: Timestamp(upto.min(newest).max(start.0)) }
    }

    pub(crate) async fn stored_usage(
        &self,
        archive: &Archive,
        window: Window,
        known: Known,
        selection: &Selection,
    ) -> Result<Vec<UsageRow>, LedgerError> {
        let (mut reader, mut rows) =
            (Reader::new(self.inner.engine.tables().catalogue()), Vec::new());
        let take = |batch| reader.usage(&batch, &mut rows);
        read(&self.inner.engine, &archive.usage, window, known, selection, take).await?;
        rows.sort_unstable();
        Ok(rows)
    }

    /// Stored charges made with `book`, in order of their usage.
    pub(crate) async fn stored_charges(
        &self,
        archive: &Archive,
        window: Window,
        known: Known,
        selection: &Selection,
        book: &PriceBook,
    ) -> Result<Vec<Charge>, LedgerError> {
        let own = book.heading().digest == self.inner.book.heading().digest;
        let others = (!own).then(|| Entries::of(book));
        let entries = others.as_ref().unwrap_or(&self.inner.entries);
        let (mut reader, mut rows) =
            (Reader::new(self.inner.engine.tables().catalogue()), Vec::new());
        let take = |batch| reader.charges(&batch, book, entries, &mut rows);
        read(&self.inner.engine, &archive.charges, window, known, selection, take).await?;
        rows.sort_unstable_by(|a: &Charge, b: &Charge| a.usage.cmp(&b.usage));
        Ok(rows)
    }

    /// Rates usage by the states that its resources were in.
    pub(crate) fn rated(
        &self,
        usage: &[UsageRow],
        book: &PriceBook,
    ) -> Result<Vec<Charge>, LedgerError> {
        let history = &self.inner.engine.tables().shared.history;
        let mut charges = Vec::new();
        for part in usage.chunks(RATED_AT_ONCE) {
            let history = history.read().unwrap_or_else(|poisoned| poisoned.into_inner());
            let state_of = |row: &UsageRow| -> Option<&Resource> {
                let segment = history.get(&row.resource)?.at(row.start)?;
                Some(Arc::as_ref(&segment.state))
            };
            charges.extend(rate(part, book, state_of).map_err(LedgerError::Rate)?);
        }
        charges.sort_unstable_by(|a: &Charge, b: &Charge| a.usage.cmp(&b.usage));
        Ok(charges)
    }
}

/// Charges by who pays.
pub(crate) fn by_project(charges: Vec<Charge>) -> BTreeMap<String, Vec<Charge>> {
    let mut projects: BTreeMap<String, Vec<Charge>> = BTreeMap::new();
    for charge in charges {
        match projects.get_mut(&*charge.usage.project) {
            Some(ours) => ours.push(charge),
            None => drop(projects.insert(charge.usage.project.to_string(), vec![charge])),
        }
    }
    projects
}
