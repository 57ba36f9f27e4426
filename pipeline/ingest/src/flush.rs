//! From memory into the tables: one cut, several tables, each record exactly once in each.
//!
//! Every table that the log feeds keeps its own position per topic-partition, in the transaction
//! of its rows (invariant 1). The table that a topic belongs to commits last: a crash in between
//! replays the records, and the tables that were ahead drop the rows they have by their position.
//!
//! ```text
//! series, epochs → dead letters → copies to the log → gaps → events → tables of others → commits → samples
//! ```
//!
//! What fails is tried again until it is done; only a later ingester of the same tables ends that.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use nilometer_clock::SharedClock;
use nilometer_contract::{Causes, EVENTS, GAPS, SAMPLES, Timestamp};
use nilometer_log::{Log, LogError};
use nilometer_store::{Add, CommitError, Position, Row, StoreError, Table, write_samples};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::cut::{Cut, Spans};
use crate::load::load_table;
use crate::lookup::not_stored;
use crate::memory::collect_rows;
use crate::metrics::Metrics;
use crate::positions::{has, is_own, note_commit, notes};
use crate::rows::{TableRow, batch_of};
use crate::sink::{OWNER, Sink, owned_by};
use crate::stream::Origin;
use crate::tell::{copy_to_log, tell_late, told};
use crate::turns::Turn;
use crate::view::Shared;

/// A commit that fails for longer than this is told as late.
const LATE: Duration = Duration::from_secs(10);

/// What a flush needs beside tables and rows.
#[derive(Clone)]
pub(crate) struct Tools {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) clock: SharedClock,
    pub(crate) metrics: Metrics,
    pub(crate) shared: Shared,
    pub(crate) retry_pause: Duration,
    /// How long a written file may wait for its commit; well below the age of a vacuum.
    pub(crate) keep_written: Duration,
}

/// How far the tries of one flush have come with what has no position of its own.
#[derive(Default)]
struct Progress {
    refreshed: bool,
    dimensions: [bool; 2],
    copied: bool,
    samples: Option<(Instant, Turn, Vec<Add>)>,
}

/// Why an ingester gave up: only because a later one has the same tables.
#[derive(Debug, thiserror::Error)]
#[error("a later ingester has taken over these tables")]
pub struct Overtaken(#[source] pub(crate) CommitError);

/// Why one try failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("the tables cannot be written")]
    Commit(#[source] CommitError),
    #[error("the tables cannot be read")]
    Store(#[source] StoreError),
    #[error("dead letters cannot be copied to the log")]
    Log(#[source] LogError),
}

impl From<CommitError> for Failure {
    fn from(error: CommitError) -> Self {
        Failure::Commit(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Failure::Store(error)
    }
}

/// Commits a cut; tries again until it is done or somebody else did it.
pub(crate) async fn flush(
    sink: Arc<Mutex<Sink>>,
    cut: Arc<Cut>,
    tools: Tools,
) -> Result<(), Overtaken> {
    let started = Instant::now();
    let mut failing: Option<(Timestamp, String)> = None;
    let mut progress = Progress { refreshed: !cut.refresh, ..Progress::default() };
    loop {
        let tried = sink.lock().await.store(&cut, &mut progress, &tools).await;
        let failed = match tried {
            Ok(()) => break,
            Err(Failure::Commit(stale @ CommitError::Stale { .. })) => {
                return Err(Overtaken(stale));
            }
            Err(failed) => failed,
        };
        // Whether it happened is known only from the tables; the next try looks there first.
        progress.refreshed = false;
        tools.metrics.commit_failures.inc();
        tools.metrics.uncommitted.set(1);
        warn!(error = %Causes(&failed), "commit failed, trying again");
        failing.get_or_insert_with(|| (tools.clock.now(), told(&failed)));
        tokio::time::sleep(tools.retry_pause).await;
    }
    tools.metrics.uncommitted.set(0);
    if let Some((since, why)) = failing.filter(|_| started.elapsed() >= LATE) {
        tell_late(tools.log.as_ref(), (since, tools.clock.now()), &why).await;
    }
    if !cut.is_empty() {
        tools.metrics.commits.inc();
        tools.metrics.commit_seconds.observe(started.elapsed().as_secs_f64());
    }
    Ok(())
}

impl Sink {
    async fn store(
        &mut self,
        cut: &Cut,
        progress: &mut Progress,
        tools: &Tools,
    ) -> Result<(), Failure> {
        if !progress.refreshed {
            for table in self.tables_mut() {
                table.refresh().await?;
            }
            progress.refreshed = true;
        }
        self.check(&cut.spans).await?;
        let owner = self.generation;
        let [series, epochs] = &mut progress.dimensions;
        dimension(&mut self.series, cut.series.as_ref(), series, owner).await?;
        dimension(&mut self.epochs, cut.epochs.as_ref(), epochs, owner).await?;
        guarded(&mut self.dead_letters, &cut.dead_letters, owner).await?;
        if !progress.copied {
            copy_to_log(&cut.dead_letters, tools.log.as_ref()).await.map_err(Failure::Log)?;
            progress.copied = true;
        }
        let (own, foreign): (Vec<_>, Vec<_>) =
            cut.gaps.iter().cloned().partition(|(origin, _)| is_own(origin));
        guarded(&mut self.gaps, &foreign, owner).await?;
        owned(&mut self.gaps, &own, (cut, GAPS, owner)).await?;
        owned(&mut self.events, &cut.events, (cut, EVENTS, owner)).await?;
        for table in &mut self.fed {
            let Some(feed) = table.def().feed() else { continue };
            let rows = cut.fed.get(table.def().name).map_or(&[][..], Vec::as_slice);
            owned(table, rows, (cut, feed.topic, owner)).await?;
        }
        self.store_samples(cut, progress, tools).await
    }

    /// The tables are still ours, and every position is where the cut starts, or where an earlier
    /// try of it ended.
    async fn check(&mut self, spans: &Spans) -> Result<(), Failure> {
        let from = self.generation;
        for table in self.tables_mut() {
            let found = table.position(OWNER).await?;
            if found != from {
                return Err(CommitError::Stale { app: OWNER.to_owned(), from, found }.into());
            }
        }
        for (stream, &(from, next)) in spans {
            let app = stream.app();
            let found = self.home(stream.topic).position(&app).await?;
            if found != from && found != Some(next) {
                return Err(CommitError::Stale { app, from, found }.into());
            }
        }
        Ok(())
    }

    async fn store_samples(
        &mut self,
        cut: &Cut,
        progress: &mut Progress,
        tools: &Tools,
    ) -> Result<(), Failure> {
        let mut positions = positions(cut, SAMPLES, self.generation);
        if positions.is_empty() || done(&mut self.samples, &positions).await? {
            return Ok(());
        }
        positions.extend(notes(&mut self.samples, cut, SAMPLES).await?);
        let turn = Turn::of(&mut self.samples).await?;
        positions.push(turn.kept());
        // What an earlier try wrote is used again, so that tries do not fill the disk.
        let written = progress
            .samples
            .take_if(|(at, of, _)| at.elapsed() < tools.keep_written && *of == turn);
        let (at, _, adds) = match written {
            Some(written) => written,
            None => {
                let mut rows = collect_rows(&cut.samples);
                if turn.number() != cut.turn {
                    rows = self.without_restored(rows, tools).await?;
                }
                let (moved, owner) = (cut.positions(SAMPLES), self.generation);
                note_commit(&mut self.commits, &rows, (&moved, owner), cut).await?;
                (Instant::now(), turn, write_samples(&self.samples, rows).await?)
            }
        };
        progress.samples = Some((at, turn, adds.clone()));
        self.samples.append(adds, &positions).await?;
        let samples: usize = cut.samples.iter().map(|batch| batch.num_rows()).sum();
        info!(samples, version = self.samples.version(), "committed");
        Ok(())
    }

    /// Rows of a cut that the table does not have, after a repair.
    async fn without_restored(
        &self,
        rows: Vec<Row>,
        tools: &Tools,
    ) -> Result<Vec<Row>, StoreError> {
        load_table(&self.series, &tools.shared).await?;
        let files: Vec<_> = self.samples.files().iter().cloned().collect();
        not_stored(rows, &tools.shared.index, &files, &self.samples.finder()).await
    }
}

/// Rows that samples refer to; stored again after a crash, they say the same twice.
async fn dimension(
    table: &mut Table,
    rows: Option<&RecordBatch>,
    done: &mut bool,
    owner: Option<i64>,
) -> Result<(), Failure> {
    let Some(rows) = rows.filter(|_| !*done) else { return Ok(()) };
    let add = table.write(std::slice::from_ref(rows), None).await?;
    table.append(vec![add], &owned_by(owner)).await?;
    *done = true;
    Ok(())
}

/// Positions of a topic that the cut moves, with the owner's.
fn positions(cut: &Cut, topic: &str, owner: Option<i64>) -> Vec<Position> {
    let positions = cut.positions(topic).into_iter().map(|(_, position)| position);
    let mut positions: Vec<Position> = positions.collect();
    if !positions.is_empty() {
        positions.extend(owned_by(owner));
    }
    positions
}

/// Rows of a table that is the home of their topic: its positions are the topic's.
async fn owned<R: TableRow>(
    table: &mut Table,
    rows: &[(Origin, R)],
    (cut, topic, owner): (&Cut, &str, Option<i64>),
) -> Result<(), Failure> {
    let mut positions = positions(cut, topic, owner);
    if positions.is_empty() || done(table, &positions).await? {
        return Ok(());
    }
    positions.extend(notes(table, cut, topic).await?);
    let mut adds = Vec::new();
    if !rows.is_empty() {
        adds.push(table.write(&[batch_of(table.def(), rows)], None).await?);
    }
    Ok(table.append(adds, &positions).await?)
}

/// Rows of a table that several topics feed: rows it has already, by its own position, are left
/// out. The position is past the last row, and not at the end of the cut: of what comes between
/// the two this table would know nothing if the cut came to nothing more.
async fn guarded<R: TableRow + Clone>(
    table: &mut Table,
    rows: &[(Origin, R)],
    owner: Option<i64>,
) -> Result<(), Failure> {
    let mut fresh: Vec<(Origin, R)> = Vec::new();
    let mut positions: BTreeMap<String, Position> = BTreeMap::new();
    for (origin, row) in rows {
        if has(table, origin).await? {
            continue;
        }
        let stream = origin.stream();
        let (app, next) = match origin.is_beginning() {
            true => (stream.told_app(), stream.log.number()),
            false => (stream.app(), origin.offset as i64 + 1),
        };
        let from = table.position(&app).await?;
        let position = positions.entry(app.clone()).or_insert(Position { app, from, next });
        position.next = position.next.max(next);
        fresh.push((origin.clone(), row.clone()));
    }
    if fresh.is_empty() {
        return Ok(());
    }
    let add = table.write(&[batch_of(table.def(), &fresh)], None).await?;
    let positions: Vec<Position> = positions.into_values().chain(owned_by(owner)).collect();
    Ok(table.append(vec![add], &positions).await?)
}

/// Whether an earlier try that seemed to fail had committed after all.
async fn done(table: &mut Table, positions: &[Position]) -> Result<bool, Failure> {
    for position in positions {
        if table.position(&position.app).await? != Some(position.next) {
            return Ok(false);
        }
    }
    Ok(true)
}
