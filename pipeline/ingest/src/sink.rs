//! The tables that an ingester writes, as a set, and whose they are.

use futures::future::try_join_all;
use nilometer_contract::{EVENTS, GAPS, SAMPLES, TableDef};
use nilometer_store::{CommitError, Position, Storage, StoreError, Table};

use crate::tables;

/// Application id under which every table keeps its ingester's generation.
pub(crate) const OWNER: &str = "ingest/owner";

/// The tables that the ingester writes.
pub(crate) struct Sink {
    pub(crate) samples: Table,
    pub(crate) series: Table,
    pub(crate) epochs: Table,
    pub(crate) commits: Table,
    pub(crate) events: Table,
    pub(crate) gaps: Table,
    pub(crate) dead_letters: Table,
    /// Tables of others that a topic feeds.
    pub(crate) fed: Vec<Table>,
    /// Which owner of these tables this is, by its lease; none that only reads.
    pub(crate) generation: Option<i64>,
}

impl Sink {
    /// Opens them, and those of others that have a topic.
    pub(crate) async fn open(
        storage: &Storage,
        others: &[&'static TableDef],
    ) -> Result<Self, StoreError> {
        let mut fed = Vec::new();
        for def in others.iter().filter(|def| def.feed().is_some()) {
            fed.push(storage.table(def).await?);
        }
        Ok(Sink {
            samples: storage.table(&nilometer_store::SAMPLES).await?,
            series: storage.table(&nilometer_store::SERIES).await?,
            epochs: storage.table(&tables::EPOCHS).await?,
            commits: storage.table(&tables::COMMITS).await?,
            events: storage.table(&tables::EVENTS).await?,
            gaps: storage.table(&tables::GAPS).await?,
            dead_letters: storage.table(&tables::DEAD_LETTERS).await?,
            fed,
            generation: None,
        })
    }

    /// The largest generation that has claimed these tables.
    pub(crate) async fn claimed(&mut self) -> Result<i64, StoreError> {
        Ok(self.samples.position(OWNER).await?.unwrap_or(0))
    }

    /// Makes this the ingester of these tables: no commit of an earlier one can happen from here
    /// on, and all that happened is seen.
    pub(crate) async fn claim(&mut self, generation: i64) -> Result<(), CommitError> {
        let claims = self.tables_mut().map(|table| table.claim(OWNER, generation));
        try_join_all(claims).await?;
        self.generation = Some(generation);
        for table in self.tables_mut() {
            table.refresh().await.map_err(CommitError::Store)?;
        }
        Ok(())
    }

    /// The table that keeps the position of a topic.
    pub(crate) fn home(&mut self, topic: &str) -> &mut Table {
        match topic {
            SAMPLES => &mut self.samples,
            EVENTS => &mut self.events,
            GAPS => &mut self.gaps,
            other => self
                .fed
                .iter_mut()
                .find(|table| table.def().feed().is_some_and(|feed| feed.topic == other))
                .unwrap_or_else(|| panic!("topic {other} has a home table")),
        }
    }

    /// All tables, for a view.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &Table> {
        let Sink { samples, series, epochs, commits, events, gaps, dead_letters, fed, .. } = self;
        [samples, series, epochs, commits, events, gaps, dead_letters].into_iter().chain(fed)
    }

    /// All tables, to refresh: samples before series, so that no row is seen whose labels are not,
    /// and gaps and letters after the tables whose positions they come before.
    pub(crate) fn tables_mut(&mut self) -> impl Iterator<Item = &mut Table> {
        let Sink { samples, series, epochs, commits, events, gaps, dead_letters, fed, .. } = self;
        let first = [samples, series, epochs, commits, events].into_iter();
        first.chain(fed).chain([gaps, dead_letters])
    }
}

/// The owner's position, which makes a commit conflict with the claim of a later ingester.
pub(crate) fn owned_by(owner: Option<i64>) -> Vec<Position> {
    let position = |next| Position { app: OWNER.to_owned(), from: owner, next };
    owner.map(position).into_iter().collect()
}
