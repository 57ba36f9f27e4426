//! A reader of tables that an ingester elsewhere keeps: it sees what is committed.
//!
//! It looks for new versions every second, and reads only the files it has not seen of the tables
//! that it keeps in memory (series, lifecycle events). How fresh it is follows from the
//! ingester's commit interval; the process with the ingester also sees what is not committed yet.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use nilometer_contract::Timestamp;
use nilometer_store::{Storage, StoreError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::flush::Sink;
use crate::load::{load_history_file, load_series_file};
use crate::view::{Shared, TableView, Tables, View};

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Follows tables.
pub struct Follower {
    sink: Sink,
    shared: Shared,
    seen: HashSet<String>,
    view: watch::Sender<Arc<View>>,
}

impl Follower {
    /// Opens the tables and reads what is kept in memory.
    pub async fn open(storage: &Storage) -> Result<Self, StoreError> {
        let (view, _) = watch::channel(Arc::new(View::default()));
        let sink = Sink::open(storage).await?;
        let mut follower = Follower { sink, shared: Shared::default(), seen: HashSet::new(), view };
        follower.publish().await?;
        Ok(follower)
    }

    /// A handle for readers.
    pub fn tables(&self) -> Tables {
        Tables { view: self.view.subscribe(), shared: self.shared.clone() }
    }

    /// Follows until cancelled; a store that is away is asked again.
    pub async fn run(mut self, cancel: CancellationToken) -> Result<(), StoreError> {
        while tokio::time::timeout(LOOK_EVERY, cancel.cancelled()).await.is_err() {
            if let Err(error) = self.look().await {
                warn!(error = &error as &dyn std::error::Error, "tables cannot be followed");
            }
        }
        Ok(())
    }

    async fn look(&mut self) -> Result<(), StoreError> {
        let mut changed = false;
        for table in self.sink.tables_mut() {
            changed |= table.refresh().await?;
        }
        if changed {
            self.publish().await?;
        }
        Ok(())
    }

    /// Series and events first, so that no row is shown whose labels are unknown.
    async fn publish(&mut self) -> Result<(), StoreError> {
        for file in self.sink.series.files().iter() {
            if self.seen.insert(file.path.clone()) {
                load_series_file(&self.sink.series, file, &self.shared).await?;
            }
        }
        for file in self.sink.events.files().iter() {
            if self.seen.insert(file.path.clone()) {
                load_history_file(&self.sink.events, file, &self.shared).await?;
            }
        }
        let mut view = View::default();
        for table in self.sink.tables() {
            let shown = TableView {
                def: table.def(),
                version: table.version(),
                files: table.files(),
                memory: Vec::new(),
            };
            view.tables.insert(table.def().name, shown);
        }
        let files = self.sink.samples.files();
        let newest =
            files.iter().filter_map(|file| file.ranges.get("at")).map(|range| range.1).max();
        view.newest = Timestamp(newest.unwrap_or(0));
        self.view.send_replace(Arc::new(view));
        Ok(())
    }
}
