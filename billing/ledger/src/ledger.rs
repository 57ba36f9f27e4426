//! The ledger: opens the tables of billing and puts its parts together.

use std::sync::Arc;

use nilometer_clock::SharedClock;
use nilometer_engine::Engine;
use nilometer_ingest::GAPS;
use nilometer_rating::PriceBook;
use nilometer_store::Storage;
use nilometer_usage::USAGE;
use prometheus::Registry;

use crate::books::Books;
use crate::config::LedgerConfig;
use crate::core::Core;
use crate::error::LedgerError;
use crate::explain::Explanations;
use crate::invoices::Invoices;
use crate::metrics::Metrics;
use crate::rating::Rating;
use crate::settlement::Settlement;
use crate::settlement::mend::Mender;
use crate::settlement::writer::Writer;
use crate::stored::read::view_of;
use crate::stored::rows::{CHARGES, INVOICES};
use crate::stored::statements::Stored;
use crate::tables;

/// Billing, by its parts. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Ledger {
    /// Usage and charges of a window, settled or open.
    pub rating: Rating,
    /// Settles hours, if this process bills.
    pub settlement: Settlement,
    /// Drafts and issued invoices.
    pub invoices: Invoices,
    /// Where an invoice line comes from.
    pub explanations: Explanations,
    pub(crate) core: Arc<Core>,
}

impl Ledger {
    /// Opens billing with default settings, and registers its tables with the engine.
    pub async fn open(
        engine: Engine,
        storage: &Storage,
        book: PriceBook,
        clock: SharedClock,
        registry: &Registry,
    ) -> Result<Self, LedgerError> {
        Self::open_with(LedgerConfig::default(), engine, storage, book, clock, registry).await
    }

    /// Opens billing, and registers its tables with the engine.
    pub async fn open_with(
        config: LedgerConfig,
        engine: Engine,
        storage: &Storage,
        book: PriceBook,
        clock: SharedClock,
        registry: &Registry,
    ) -> Result<Self, LedgerError> {
        let metrics = Metrics::register(registry).map_err(LedgerError::Metrics)?;
        let books = Books::new(storage, book);
        if !config.reads_only {
            books.keep().await?;
        }
        let table = async |def| storage.table(def).await.map_err(LedgerError::Store);
        let mender = Mender { gaps: table(&GAPS).await?, metrics: metrics.clone() };
        let tables = (table(&USAGE).await?, table(&CHARGES).await?, table(&INVOICES).await?);
        let mut writer = Writer::new(tables, mender);
        let version = books.in_force().version();
        let Writer { usage, charges, mender, changes, .. } = &mut writer;
        let stored = Stored {
            usage: mender.learn(&engine, usage, version, changes).await?,
            charges: mender.learn(&engine, charges, version, changes).await?,
            invoices: view_of(&writer.invoices),
        };
        writer.learn_position().await?;
        let core = Core::new((engine, storage.clone()), books, clock, (config, metrics), stored);
        let ledger = Self::of(Arc::new(core), writer);
        tables::register(&ledger);
        Ok(ledger)
    }

    fn of(core: Arc<Core>, writer: Writer) -> Self {
        let rating = Rating { core: core.clone() };
        let settlement = Settlement::new(core.clone(), rating.clone(), writer);
        let invoices = Invoices::new(core.clone(), rating.clone(), settlement.clone());
        let explanations = Explanations { core: core.clone(), invoices: invoices.clone() };
        Ledger { rating, settlement, invoices, explanations, core }
    }

    /// Metrics of this ledger.
    pub fn metrics(&self) -> &Metrics {
        &self.core.metrics
    }

    /// The price book in force.
    pub fn book(&self) -> &PriceBook {
        self.core.books.in_force()
    }
}
