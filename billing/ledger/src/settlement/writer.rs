//! What a writer of the tables of billing needs.

use nilometer_contract::Timestamp;
use nilometer_store::Table;
use nilometer_usage::Window;

use crate::error::LedgerError;
use crate::settlement::changes::Changes;
use crate::settlement::mend::Mender;
use crate::settlement::settle::SETTLE;

/// What a writer needs.
pub(crate) struct Writer {
    pub(crate) usage: Table,
    pub(crate) charges: Table,
    pub(crate) invoices: Table,
    pub(crate) mender: Mender,
    /// Largest `known` of any statement.
    pub(crate) last_known: i64,
    pub(crate) changes: Changes,
    /// The first instant that samples are held from, as far as this run has said.
    pub(crate) held: Option<Timestamp>,
    /// Hours from the start of metering on that are known to be settled.
    pub(crate) settled: Option<Window>,
    /// Which owner of the tables this is, by its lease; none that was not asked to own them.
    pub(crate) owner: Option<i64>,
}

impl Writer {
    pub(crate) fn new((usage, charges, invoices): (Table, Table, Table), mender: Mender) -> Self {
        Writer {
            usage,
            charges,
            invoices,
            mender,
            last_known: 0,
            changes: Changes::default(),
            held: None,
            settled: None,
            owner: None,
        }
    }

    /// Learns the largest `known` from the tables.
    pub(crate) async fn learn_position(&mut self) -> Result<(), LedgerError> {
        for table in [&mut self.usage, &mut self.charges] {
            let known = table.position(SETTLE).await.map_err(LedgerError::Store)?;
            self.last_known = self.last_known.max(known.unwrap_or(0));
        }
        Ok(())
    }
}
