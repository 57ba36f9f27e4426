//! Damage in the tables of billing.
//!
//! Usage and charges are computed, so nothing is lost with a file of theirs: all hours that it may
//! have told of are settled anew.
//!
//! ```text
//! damaged ─▶ set aside: answers say that they lack its rows ─▶ its hours are settled anew ─▶ forgotten
//! ```
//!
//! How far that has come is in the table, so after a crash it goes on. An hour of which no other
//! statement is left is open meanwhile; one of which an older statement is left is looked at again.
//! A commit that cannot be read is as a file of all hours. What lies before the start of metering
//! can be computed no more: it stays missing. So do issued invoices, which are nowhere else; while
//! some are missing, none is issued.

use nilometer_contract::Timestamp;
use nilometer_engine::Engine;
use nilometer_ingest::own_up;
use nilometer_store::Table;
use nilometer_usage::Window;
use tracing::info;

use crate::error::LedgerError;
use crate::metrics::Metrics;
use crate::settlement::Settlement;
use crate::settlement::changes::Changes;
use crate::settlement::owned_by;
use crate::settlement::writer::Writer;
use crate::stored::read::{statements, view_of};
use crate::stored::rows::hour_of;
use crate::stored::statements::{AsOf, Statements};

/// Sets aside what is damaged.
pub(crate) struct Mender {
    /// Where it is said.
    pub(crate) gaps: Table,
    pub(crate) metrics: Metrics,
}

impl Mender {
    /// Sets aside what of a table was found damaged; says how many files.
    pub(crate) async fn own_up(&mut self, table: &mut Table) -> Result<usize, LedgerError> {
        let done = own_up(&mut self.gaps, table, None, &self.metrics.set_aside).await;
        done.map_err(LedgerError::Commit)
    }

    /// Learns what a table states, and which hours have to be looked at again because it is
    /// damaged.
    pub(crate) async fn learn(
        &mut self,
        engine: &Engine,
        table: &mut Table,
        book: &str,
        changes: &mut Changes,
    ) -> Result<Statements, LedgerError> {
        self.own_up(table).await?;
        loop {
            let read = statements(engine, table, book).await;
            // Each try finds at least one more of the files that are damaged.
            if read.is_err() && self.own_up(table).await? > 0 {
                continue;
            }
            let said = read?;
            changes.dirty.extend(said.doubtful(table));
            return Ok(said);
        }
    }
}

impl Writer {
    /// Refuses to issue while issued invoices are missing.
    pub(crate) fn need_all_invoices(&self) -> Result<(), LedgerError> {
        let unread = self.invoices.unread().first();
        let commit = unread.map(|unread| format!("commit {}", unread.version));
        let file = self.invoices.aside().first().map(|path| format!("file {path}"));
        commit.or(file).map_or(Ok(()), |what| Err(LedgerError::LostInvoices(what)))
    }
}

impl Settlement {
    /// Forgets files that were set aside once all their hours are settled anew, as far as these can
    /// be computed.
    pub(crate) async fn put_back(&self, writer: &mut Writer) -> Result<(), LedgerError> {
        let stored = self.core.stored();
        if stored.usage.aside.is_empty() && stored.charges.aside.is_empty() {
            return Ok(());
        }
        let mut stored = (*stored).clone();
        let (start, end) = (self.core.engine.meter().start(), self.final_before());
        let mut changed = false;
        let Writer { usage, charges, changes, owner, .. } = writer;
        for (table, said) in [(usage, &mut stored.usage), (charges, &mut stored.charges)] {
            // Of one that was set aside since, nothing is looked at yet.
            let aside = table.aside();
            for path in aside.iter().filter(|path| said.aside.contains(path)) {
                let (first, last) = table.span_aside(path).unwrap_or((start.0, i64::MAX));
                let upto = Timestamp(last.saturating_add(1)).min(end);
                let of = Window { start: Timestamp(first).hour().max(start), end: upto };
                let open = said.open(of, AsOf::Newest);
                let is_dirty = changes.dirty.range(hour_of(first)..=last).next().is_some();
                if is_dirty || !open.is_empty() || last < start.0 {
                    continue;
                }
                let (name, owned) = (table.def().name, owned_by(*owner).next());
                let done = match first < start.0 {
                    true => table.lacks_before(path, start.0, owned).await,
                    false => table.put_back(std::slice::from_ref(path), Vec::new(), 0, owned).await,
                };
                done.map_err(LedgerError::Commit)?;
                changed = true;
                info!(table = name, file = path, "what a damaged file had is settled anew");
            }
            said.view = view_of(table);
            said.aside.retain(|path| table.aside().contains(path));
        }
        if changed {
            self.core.publish(stored);
        }
        Ok(())
    }
}
