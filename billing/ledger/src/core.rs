//! What all parts of billing share: where rows are, what is stored, the books, the clock.

use std::sync::{Arc, RwLock};

use nilometer_clock::SharedClock;
use nilometer_engine::Engine;
use nilometer_store::Storage;

use crate::books::Books;
use crate::config::LedgerConfig;
use crate::metrics::Metrics;
use crate::stored::statements::Stored;

/// Shared by all parts of billing.
pub(crate) struct Core {
    pub(crate) engine: Engine,
    pub(crate) storage: Storage,
    pub(crate) books: Books,
    pub(crate) clock: SharedClock,
    pub(crate) config: LedgerConfig,
    pub(crate) metrics: Metrics,
    stored: RwLock<Arc<Stored>>,
}

impl Core {
    pub(crate) fn new(
        (engine, storage): (Engine, Storage),
        books: Books,
        clock: SharedClock,
        (config, metrics): (LedgerConfig, Metrics),
        stored: Stored,
    ) -> Self {
        let stored = RwLock::new(Arc::new(stored));
        Core { engine, storage, books, clock, config, metrics, stored }
    }

    /// What is stored, as it was last read or written.
    pub(crate) fn stored(&self) -> Arc<Stored> {
        self.stored.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// Shows readers what is stored from now on.
    pub(crate) fn publish(&self, stored: Stored) {
        let mut shared = self.stored.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        *shared = Arc::new(stored);
    }
}
