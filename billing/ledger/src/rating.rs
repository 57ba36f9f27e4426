//! Usage and charges of a window: what is settled as stored, the rest as of this moment.

mod cost;

use std::collections::BTreeMap;
use std::sync::Arc;

use nilometer_contract::{MICROS_PER_HOUR, Resource, Scope, Timestamp};
use nilometer_engine::Selection;
use nilometer_rating::{Charge, PriceBook, rate};
use nilometer_usage::{UsageRow, Window};

use crate::core::Core;
use crate::error::LedgerError;
use crate::stored::parse::{Entries, Reader};
use crate::stored::read::read;
use crate::stored::statements::{AsOf, Stored};

/// Rows rated under one lock of the lifetimes, so that ingestion never waits long for it.
const RATED_AT_ONCE: usize = 8_192;

/// Usage and charges of a window. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Rating {
    pub(crate) core: Arc<Core>,
}

impl Rating {
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
        self.rated(&usage, self.core.books.in_force())
    }

    /// Usage of whole hours in rows of one state each, in canonical order.
    pub async fn usage(
        &self,
        scope: &Scope,
        window: Window,
        selection: &Selection,
    ) -> Result<Vec<UsageRow>, LedgerError> {
        let stored = self.core.stored();
        let window = self.metered(window);
        let mut rows = self.stored_usage(&stored, window, AsOf::Newest, selection).await?;
        for open in stored.usage.open(window, AsOf::Newest) {
            let meter = self.core.engine.meter();
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
        let meter = self.core.engine.meter();
        let stored = self.core.stored();
        let first = stored.usage.hours.keys().next().map_or(i64::MAX, |hour| *hour);
        let present = self.core.clock.now().hour().0;
        let last = stored.usage.stated(i64::MIN, present).next_back().unwrap_or(i64::MIN);
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
        stored: &Stored,
        window: Window,
        known: AsOf,
        selection: &Selection,
    ) -> Result<Vec<UsageRow>, LedgerError> {
        let (mut reader, mut rows) =
            (Reader::new(self.core.engine.tables().catalogue()), Vec::new());
        let take = |batch| reader.usage(&batch, &mut rows);
        read(&self.core.engine, &stored.usage, window, known, selection, take).await?;
        rows.sort_unstable();
        Ok(rows)
    }

    /// Stored charges made with `book`, in order of their usage.
    pub(crate) async fn stored_charges(
        &self,
        stored: &Stored,
        window: Window,
        known: AsOf,
        selection: &Selection,
        book: &PriceBook,
    ) -> Result<Vec<Charge>, LedgerError> {
        let own = book.heading().digest == self.core.books.in_force().heading().digest;
        let others = (!own).then(|| Entries::of(book));
        let entries = others.as_ref().unwrap_or(self.core.books.entries());
        let (mut reader, mut rows) =
            (Reader::new(self.core.engine.tables().catalogue()), Vec::new());
        let take = |batch| reader.charges(&batch, book, entries, &mut rows);
        read(&self.core.engine, &stored.charges, window, known, selection, take).await?;
        rows.sort_unstable_by(|a: &Charge, b: &Charge| a.usage.cmp(&b.usage));
        Ok(rows)
    }

    /// Rates usage by the states that its resources were in.
    pub(crate) fn rated(
        &self,
        usage: &[UsageRow],
        book: &PriceBook,
    ) -> Result<Vec<Charge>, LedgerError> {
        let history = &self.core.engine.tables().shared.history;
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
