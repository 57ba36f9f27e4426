//! A reader of tables that an ingester elsewhere keeps: it sees what is committed, and reads the
//! rest from the log itself.
//!
//! ```text
//! log ─ fetch, decode ─▶ identity, memory ─▶ view
//! tables ─ every second ─▶ what is in files now leaves the memory ─┘
//! ```
//!
//! So a row is visible within a second in any process (invariant 6), and the row of a record is
//! either in a file of the view or in its memory, as the position of its partition in the same
//! version of the table says.

use nilometer_contract::Causes;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use nilometer_clock::SharedClock;
use nilometer_log::{Log, LogId, Mark};
use nilometer_store::{Storage, StoreError, Table};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::config::IngestConfig;
use crate::load::{load_file, unless_damaged};
use crate::metrics::Metrics;
use crate::ownership::IngestError;
use crate::positions::has;
use crate::sink::Sink;
use crate::stream::{Origin, Stream};
use crate::tail::{Tail, prepare};
use crate::view::Tables;

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Follows tables and the log behind them.
pub struct Follower {
    tail: Tail,
    sink: Sink,
    loaded: HashSet<String>,
    behind: bool,
}

impl Follower {
    /// Opens the tables, makes sure of the topics, and reads what is kept in memory.
    pub async fn open(
        config: IngestConfig,
        log: Arc<dyn Log>,
        storage: &Storage,
        clock: SharedClock,
        metrics: Metrics,
    ) -> Result<Self, IngestError> {
        let topics = prepare(&config, log.as_ref()).await.map_err(IngestError::Log)?;
        let mut sink = Sink::open(storage, &config.others).await.map_err(IngestError::Store)?;
        let tail = Tail::open(config, (log, topics), &mut sink, clock, metrics).await?;
        Ok(Self::of(tail, sink))
    }

    /// Follows tables that are open.
    pub(crate) fn of(tail: Tail, sink: Sink) -> Self {
        let files = [&sink.series, &sink.events, &sink.epochs, &sink.gaps].map(Table::files);
        let loaded = files.iter().flat_map(|files| files.iter()).map(|file| file.path.clone());
        let loaded = loaded.collect();
        Follower { tail, sink, loaded, behind: false }
    }

    /// What it followed with.
    pub(crate) fn into_parts(self) -> (Tail, Sink) {
        (self.tail, self.sink)
    }

    /// A handle for readers.
    pub fn tables(&self) -> Tables {
        self.tail.tables()
    }

    /// Follows until cancelled; a store or a log that is away is asked again.
    pub async fn run(mut self, cancel: CancellationToken) -> Result<(), IngestError> {
        self.follow(&cancel).await
    }

    /// Follows until cancelled, or dropped at any moment.
    pub(crate) async fn follow(&mut self, cancel: &CancellationToken) -> Result<(), IngestError> {
        let reading = cancel.child_token();
        let _until_dropped = reading.clone().drop_guard();
        let mut events = self.tail.fetch(&reading);
        let mut ticks = tokio::time::interval(self.tail.config.publish_interval);
        let mut looks = tokio::time::interval(LOOK_EVERY);
        for timer in [&mut ticks, &mut looks] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        loop {
            self.tail.state.metrics.pulse.beat();
            let full = self.tail.is_full();
            tokio::select! {
                event = events.recv(), if !full => match event {
                    Some(event) => self.tail.apply(event).await,
                    None => return Ok(()),
                },
                _ = ticks.tick() => {
                    self.tail.settle().await;
                    warn_of(self.publish().await);
                }
                _ = looks.tick() => warn_of(self.look().await),
            }
        }
    }

    /// Makes what was applied visible. Letters and gaps of a topic are stored before the position
    /// of the topic moves, so their tables may have what was read only now.
    ///
    /// Between tables of several moments nothing is published: a row might be in no list.
    async fn publish(&mut self) -> Result<(), StoreError> {
        if self.behind {
            return Ok(());
        }
        let pending = &mut self.tail.state.pending;
        forget(&mut self.sink.gaps, &mut pending.gaps).await?;
        forget(&mut self.sink.dead_letters, &mut pending.dead_letters).await?;
        self.tail.state.changes += 1;
        self.tail.publish();
        Ok(())
    }

    /// Looks for new versions of the tables; what fails half-way is done again.
    async fn look(&mut self) -> Result<(), StoreError> {
        for table in self.sink.tables_mut() {
            self.behind |= table.refresh().await?;
        }
        if self.behind {
            self.load().await?;
            self.tail.forget(&self.sink.samples);
            self.tail.state.beginning.note_stored(self.sink.metering_start().await?);
            self.forget_stored().await?;
            self.tail.publisher.list(&self.sink);
            self.tail.state.dirty = true;
            self.behind = false;
            self.publish().await?;
            self.tail.state.pending.weigh();
        }
        Ok(())
    }

    /// Series, lifetimes, epochs and gaps of files not seen before.
    async fn load(&mut self) -> Result<(), StoreError> {
        let shared = &self.tail.state.shared;
        let Sink { series, events, epochs, gaps, .. } = &self.sink;
        for table in [series, events, epochs, gaps] {
            for file in table.files().iter() {
                if self.loaded.contains(&file.path) {
                    continue;
                }
                unless_damaged(file, load_file(table, file, shared).await)?;
                self.loaded.insert(file.path.clone());
            }
        }
        Ok(())
    }

    /// What is in files now leaves the memory.
    async fn forget_stored(&mut self) -> Result<(), StoreError> {
        let streams: Vec<Stream> = self.tail.state.next.keys().copied().collect();
        for stream in streams {
            let home = self.sink.home(stream.topic);
            let position = home.position(&stream.app()).await?;
            let mark = home.position(&stream.mark_app()).await?.and_then(Mark::from_number);
            let log = home.position(&stream.log_app()).await?.map(LogId::from_number);
            let Tail { state, wanted, .. } = &mut self.tail;
            let is_read = state.reads(stream.topic, stream.partition) == stream;
            if let (true, Some(log)) = (is_read, log)
                && let Some(wanted) = wanted.get(&(stream.topic, stream.partition))
            {
                wanted.store(log.number(), Relaxed);
            }
            // Of a log that is over for the ingester too, no row will be stored any more.
            let over = !is_read && log == Some(state.reads(stream.topic, stream.partition).log);
            let stored = if over { Some(i64::MAX) } else { position };
            state.committed.insert(stream, stored);
            let next = state.next.entry(stream).or_default();
            if is_read && let Some(ahead) = position.map(|at| at as u64).filter(|at| at > next) {
                *next = ahead;
                match mark {
                    Some(mark) => drop(state.marks.insert(stream, mark)),
                    None => drop(state.marks.remove(&stream)),
                }
            }
        }
        let state = &mut self.tail.state;
        let files = self.sink.samples.files();
        let newest = files.extent().map(|extent| extent.1);
        state.newest.0 = newest.into_iter().fold(state.newest.0, i64::max);
        state.forget_stored_samples();
        // What only an ingester needs.
        state.new_series.clear();
        state.new_epochs.clear();
        state.memory.take_hours();
        // Up to its position the owner has decided what is a row, a letter, or lost: what it says
        // is in the tables, and what was thought of it here, from behind or ahead, is nothing.
        // What is said of a log as a whole comes before its first record.
        let committed = &state.committed;
        state.pending.retain(|origin| {
            let next = committed.get(&origin.stream()).copied().flatten();
            next.is_none_or(|next| origin.offset as i64 >= next)
        });
        Ok(())
    }
}

fn warn_of(done: Result<(), StoreError>) {
    if let Err(error) = done {
        warn!(error = %Causes(&error), "tables cannot be followed");
    }
}

/// Drops rows that the table has, by its own position in the log that each came from.
async fn forget<R>(table: &mut Table, rows: &mut Vec<(Origin, R)>) -> Result<(), StoreError> {
    let mut stored = Vec::with_capacity(rows.len());
    for (origin, _) in rows.iter() {
        stored.push(has(table, origin).await?);
    }
    let mut stored = stored.into_iter();
    rows.retain(|_| !stored.next().unwrap_or(false));
    Ok(())
}
