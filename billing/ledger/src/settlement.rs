//! Settlement: usage of closed hours becomes rows, with its charges, by one owner at a time.

pub(crate) mod changes;
mod hold;
pub(crate) mod mend;
mod ownership;
mod settle;
mod withdraw;
pub(crate) mod writer;

use std::sync::Arc;

use nilometer_contract::{Causes, Timestamp, micros};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::core::Core;
use crate::error::LedgerError;
use crate::rating::Rating;
use crate::settlement::ownership::Standing;
use crate::settlement::writer::Writer;
use crate::stored::read::view_of;

pub(crate) use ownership::owned_by;

/// Settles hours. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Settlement {
    core: Arc<Core>,
    rating: Rating,
    standing: Arc<Standing>,
    /// Whoever writes holds it; readers never wait for it.
    pub(crate) writer: Arc<Mutex<Writer>>,
}

impl Settlement {
    pub(crate) fn new(core: Arc<Core>, rating: Rating, writer: Writer) -> Self {
        let (standing, writer) = (Arc::default(), Arc::new(Mutex::new(writer)));
        Settlement { core, rating, standing, writer }
    }

    /// Settles what can be settled, again and again, until cancelled. A round that fails is tried
    /// again; what it left undone is not lost, since the tables tell what is settled.
    pub async fn run(&self, cancel: CancellationToken) -> Result<(), LedgerError> {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                () = tokio::time::sleep(self.core.config.interval) => {}
            }
            if let Err(error) = self.settle(&cancel).await {
                self.core.metrics.failures.inc();
                warn!(error = %Causes(&error), "settling failed, trying again");
            }
        }
    }

    /// Looks at what others did to the tables: compaction moves rows between files, and an earlier
    /// commit of ours may have happened though it seemed to fail. Files that were found damaged are
    /// set aside.
    pub(crate) async fn refresh(&self, writer: &mut Writer) -> Result<(), LedgerError> {
        let mut stored = (*self.core.stored()).clone();
        let mut changed = false;
        let Writer { usage, charges, invoices, mender, changes, settled, .. } = &mut *writer;
        let (engine, book) = (&self.core.engine, self.core.books.in_force().version());
        for (table, said) in [(usage, &mut stored.usage), (charges, &mut stored.charges)] {
            mender.own_up(table).await?;
            table.refresh().await.map_err(LedgerError::Store)?;
            // A commit of ours may have come after one that set a file aside.
            let known = table.aside() == said.aside;
            if known && table.version() == said.view.version {
                continue;
            }
            changed = true;
            *settled = None;
            match known && table.files().rows() == said.view.files.rows() {
                true => said.view = view_of(table),
                false => *said = mender.learn(engine, table, book, changes).await?,
            }
        }
        mender.own_up(invoices).await?;
        invoices.refresh().await.map_err(LedgerError::Store)?;
        if invoices.version() != stored.invoices.version {
            changed = true;
            stored.invoices = view_of(invoices);
        }
        if changed {
            writer.learn_position().await?;
            self.core.publish(stored);
        }
        Ok(())
    }

    /// Everything before this can be settled: the newest sample is far enough past it, and so is
    /// the clock, should samples come from the future.
    pub(crate) fn final_before(&self) -> Timestamp {
        let grace = micros(self.core.config.grace);
        let newest = self.core.engine.tables().now().newest.min(self.core.clock.now());
        newest.plus_micros(-grace).hour()
    }
}
