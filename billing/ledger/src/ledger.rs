//! The ledger: opens the tables of billing, keeps what was read of them, and runs settling.

use std::collections::VecDeque;
use std::sync::{Arc, RwLock};

use nilometer_clock::SharedClock;
use nilometer_contract::{Causes, Timestamp, micros};
use nilometer_engine::Engine;
use nilometer_rating::PriceBook;
use nilometer_store::{CHARGES, GAPS, INVOICES, Storage, Table, USAGE};
use nilometer_usage::Window;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use prometheus::Registry;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::archive::view_of;
use crate::config::LedgerConfig;
use crate::error::LedgerError;
use crate::find::Bill;
use crate::look::Look;
use crate::mend::Mender;
use crate::metrics::Metrics;
use crate::rows_read::Entries;
use crate::settle::SETTLE;
use crate::state::Archive;
use crate::tables;
use crate::tenancy::Standing;

/// Settled usage, charges and invoices. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct Ledger {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) engine: Engine,
    pub(crate) storage: Storage,
    pub(crate) book: PriceBook,
    pub(crate) entries: Entries,
    pub(crate) clock: SharedClock,
    pub(crate) config: LedgerConfig,
    pub(crate) metrics: Metrics,
    archive: RwLock<Arc<Archive>>,
    /// Bills drawn up lately, the newest first, so that their lines can be asked about.
    pub(crate) recent: std::sync::Mutex<VecDeque<Bill>>,
    pub(crate) standing: Standing,
    /// Whoever writes holds it; readers never wait for it.
    pub(crate) desk: Mutex<Desk>,
}

/// What a writer needs.
pub(crate) struct Desk {
    pub(crate) usage: Table,
    pub(crate) charges: Table,
    pub(crate) invoices: Table,
    pub(crate) mender: Mender,
    /// Largest `known` of any statement.
    pub(crate) last_known: i64,
    pub(crate) look: Look,
    /// The first instant that samples are held from, as far as this run has said.
    pub(crate) held: Option<Timestamp>,
    /// Hours from the start of metering on that are known to be settled.
    pub(crate) settled: Option<Window>,
    /// Which owner of the tables this is, by its lease; none that was not asked to own them.
    pub(crate) owner: Option<i64>,
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
        keep_book(storage, &book).await?;
        let mut desk = Desk {
            usage: storage.table(&USAGE).await.map_err(LedgerError::Store)?,
            charges: storage.table(&CHARGES).await.map_err(LedgerError::Store)?,
            invoices: storage.table(&INVOICES).await.map_err(LedgerError::Store)?,
            mender: Mender {
                gaps: storage.table(&GAPS).await.map_err(LedgerError::Store)?,
                metrics: metrics.clone(),
            },
            last_known: 0,
            look: Look::default(),
            held: None,
            settled: None,
            owner: None,
        };
        let Desk { usage, charges, mender, look, .. } = &mut desk;
        let archive = Archive {
            usage: mender.learn(&engine, usage, book.version(), look).await?,
            charges: mender.learn(&engine, charges, book.version(), look).await?,
            invoices: view_of(&desk.invoices),
        };
        desk.learn_position().await?;
        let inner = Inner {
            entries: Entries::of(&book),
            archive: RwLock::new(Arc::new(archive)),
            recent: std::sync::Mutex::default(),
            standing: Standing::default(),
            desk: Mutex::new(desk),
            storage: storage.clone(),
            engine,
            book,
            clock,
            config,
            metrics,
        };
        let ledger = Ledger { inner: Arc::new(inner) };
        tables::register(&ledger);
        Ok(ledger)
    }

    /// Settles what can be settled, again and again, until cancelled. A round that fails is tried
    /// again; what it left undone is not lost, since the tables tell what is settled.
    pub async fn run(&self, cancel: CancellationToken) -> Result<(), LedgerError> {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                () = tokio::time::sleep(self.inner.config.interval) => {}
            }
            if let Err(error) = self.settle(&cancel).await {
                self.inner.metrics.failures.inc();
                warn!(error = %Causes(&error), "settling failed, trying again");
            }
        }
    }

    /// Metrics of this ledger.
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// The price book in force.
    pub fn book(&self) -> &PriceBook {
        &self.inner.book
    }

    pub(crate) fn archive(&self) -> Arc<Archive> {
        self.inner.archive.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    pub(crate) fn publish(&self, archive: Archive) {
        let mut shared =
            self.inner.archive.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        *shared = Arc::new(archive);
    }

    /// Looks at what others did to the tables: compaction moves rows between files, and an earlier
    /// commit of ours may have happened though it seemed to fail. Files that were found damaged are
    /// set aside.
    pub(crate) async fn refresh(&self, desk: &mut Desk) -> Result<(), LedgerError> {
        let mut archive = (*self.archive()).clone();
        let mut changed = false;
        let Desk { usage, charges, invoices, mender, look, settled, .. } = &mut *desk;
        let (engine, book) = (&self.inner.engine, self.inner.book.version());
        for (table, said) in [(usage, &mut archive.usage), (charges, &mut archive.charges)] {
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
                false => *said = mender.learn(engine, table, book, look).await?,
            }
        }
        mender.own_up(invoices).await?;
        invoices.refresh().await.map_err(LedgerError::Store)?;
        if invoices.version() != archive.invoices.version {
            changed = true;
            archive.invoices = view_of(invoices);
        }
        if changed {
            desk.learn_position().await?;
            self.publish(archive);
        }
        Ok(())
    }

    /// Everything before this can be settled: the newest sample is far enough past it, and so is
    /// the clock, should samples come from the future.
    pub(crate) fn final_before(&self) -> Timestamp {
        let grace = micros(self.inner.config.grace);
        let newest = self.inner.engine.tables().now().newest.min(self.inner.clock.now());
        newest.plus_micros(-grace).hour()
    }
}

impl Desk {
    async fn learn_position(&mut self) -> Result<(), LedgerError> {
        for table in [&mut self.usage, &mut self.charges] {
            let known = table.position(SETTLE).await.map_err(LedgerError::Store)?;
            self.last_known = self.last_known.max(known.unwrap_or(0));
        }
        Ok(())
    }
}

fn book_path(storage: &Storage, digest: &str) -> Path {
    let root = Path::from_url_path(storage.root().path()).unwrap_or_default();
    root.join("price_books").join(format!("{digest}.toml"))
}

/// Keeps a book that is going to be used: any past invoice can be recomputed with it.
async fn keep_book(storage: &Storage, book: &PriceBook) -> Result<(), LedgerError> {
    let (store, path) = (storage.object_store(), book_path(storage, &book.heading().digest));
    match store.head(&path).await {
        Ok(_) => Ok(()),
        Err(object_store::Error::NotFound { .. }) => {
            let text = book.canonical_text().to_owned();
            store.put(&path, text.into()).await.map_err(LedgerError::Object)?;
            info!(book = book.version(), "price book is in use from now on");
            Ok(())
        }
        Err(error) => Err(LedgerError::Object(error)),
    }
}

/// A book that was in use, by its digest.
pub(crate) async fn used_book(storage: &Storage, digest: &str) -> Result<PriceBook, LedgerError> {
    let lost = || LedgerError::Book(digest.to_owned());
    let found = storage.object_store().get(&book_path(storage, digest)).await;
    let bytes = found.map_err(LedgerError::Object)?.bytes().await.map_err(LedgerError::Object)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| lost())?;
    let book = PriceBook::parse_canonical(text).map_err(|_| lost())?;
    match book.heading().digest == digest {
        true => Ok(book),
        false => Err(lost()),
    }
}
