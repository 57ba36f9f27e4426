//! Taking back what was settled too early.
//!
//! A clock that is ahead lets hours be settled that are yet to come. When it is back, statements
//! about hours that are not over are withdrawn: the hours are open again, no usage of theirs
//! counts, and they are settled when newest sample and clock are past them. A statement says so
//! like any other, under a newer `known`, so that a restart changes nothing and invoices that were
//! issued meanwhile stay as they are (invariant 15).
//!
//! A clock that is behind for a while does the same to hours that are over: those are computed
//! anew when it is right again. Hours that cannot be computed any more, because samples of theirs
//! have expired, are never withdrawn.

use std::collections::BTreeSet;

use nilometer_contract::Timestamp;
use tracing::warn;

use crate::error::LedgerError;
use crate::settlement::Settlement;
use crate::settlement::settle::commit;
use crate::settlement::writer::Writer;
use crate::stored::read::view_of;
use crate::stored::rows::withdrawn_hours;
use crate::stored::statements::{Statement, Statements};

impl Settlement {
    /// Opens the hours again that are settled and whose end lies ahead of the clock.
    pub(crate) async fn withdraw(&self, writer: &mut Writer) -> Result<(), LedgerError> {
        let (meter, present) = (self.core.engine.meter(), self.core.clock.now().hour());
        let from = present.max(meter.start()).0;
        let stored = self.core.stored();
        let is_ahead = |said: &Statements| said.stated(from, i64::MAX).next().is_some();
        if ![&stored.charges, &stored.usage].into_iter().any(is_ahead) {
            return Ok(());
        }
        let mut stored = (*stored).clone();
        let (known, owner) = (writer.last_known + 1, writer.owner);
        let book = self.core.books.in_force().version();
        let mut open = BTreeSet::new();
        for (table, said) in
            [(&mut writer.charges, &mut stored.charges), (&mut writer.usage, &mut stored.usage)]
        {
            let ahead: Vec<i64> = said.stated(from, i64::MAX).collect();
            if ahead.is_empty() {
                continue;
            }
            let rows = withdrawn_hours(table.def(), &ahead, known, book);
            let add = table.write(&[rows], None).await.map_err(LedgerError::Store)?;
            commit(table, add, known, owner).await?;
            writer.last_known = known;
            said.view = view_of(table);
            let withdrawn = Statement { is_withdrawn: true, ..Statement::made(known) };
            ahead.iter().for_each(|&hour| said.note(hour, withdrawn));
            open.extend(ahead);
        }
        let (Some(first), Some(last)) = (open.first(), open.last()) else { return Ok(()) };
        let (first, last) = (Timestamp(*first).to_string(), Timestamp(*last).to_string());
        warn!(first, last, hours = open.len(), "settled hours lie ahead of the clock, open again");
        self.core.metrics.withdrawn.inc_by(open.len() as u64);
        writer.changes.undone(&open);
        writer.settled = None;
        self.core.publish(stored);
        Ok(())
    }
}
