//! From memory into the tables: one cut, several tables, each record exactly once in each.
//!
//! Every table that the log feeds keeps its own position per topic-partition, in the transaction
//! of its rows (invariant 1). The table that a topic belongs to commits last: a crash in between
//! replays the records, and the tables that were ahead drop the rows they have by their position.
//!
//! ```text
//! series → dead letters → gaps → events → decisions → samples
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use nilometer_contract::{DECISIONS, EVENTS, GAPS, Gap, LifecycleEvent, SAMPLES};
use nilometer_store::{CommitError, Position, Row, Storage, StoreError, Table, write_samples};
use tokio::sync::Mutex;
use tracing::{info, warn};

use crate::memory::collect_rows;
use crate::metrics::Metrics;
use crate::rows::{DeadLetter, Decision, Origin, TableRow, batch_of, commits_batch};

const PAUSE: Duration = Duration::from_secs(1);

/// The tables that the ingester writes.
pub(crate) struct Sink {
    pub(crate) samples: Table,
    pub(crate) series: Table,
    pub(crate) commits: Table,
    pub(crate) events: Table,
    pub(crate) gaps: Table,
    pub(crate) dead_letters: Table,
    pub(crate) decisions: Table,
}

/// Position of each topic-partition: where the cut starts in the topic's own table, and its end.
pub(crate) type Spans = BTreeMap<(&'static str, u32), (Option<i64>, i64)>;

/// Everything that one flush commits.
#[derive(Clone, Default)]
pub(crate) struct Cut {
    pub(crate) samples: Vec<RecordBatch>,
    pub(crate) series: Option<RecordBatch>,
    pub(crate) events: Vec<(Origin, LifecycleEvent)>,
    pub(crate) gaps: Vec<(Origin, Gap)>,
    pub(crate) dead_letters: Vec<(Origin, DeadLetter)>,
    pub(crate) decisions: Vec<(Origin, Decision)>,
    pub(crate) spans: Spans,
    pub(crate) hours: BTreeSet<i64>,
}

/// Why a flush gave up: only because somebody else ingests the same partitions.
#[derive(Debug, thiserror::Error)]
#[error("another ingester stores the same partitions; stop one of the two")]
pub struct Overtaken(#[source] pub(crate) CommitError);

impl Sink {
    pub(crate) async fn open(storage: &Storage) -> Result<Self, StoreError> {
        Ok(Sink {
            samples: storage.table(&nilometer_store::SAMPLES).await?,
            series: storage.table(&nilometer_store::SERIES).await?,
            commits: storage.table(&nilometer_store::COMMITS).await?,
            events: storage.table(&nilometer_store::EVENTS).await?,
            gaps: storage.table(&nilometer_store::GAPS).await?,
            dead_letters: storage.table(&nilometer_store::DEAD_LETTERS).await?,
            decisions: storage.table(&nilometer_store::DECISIONS).await?,
        })
    }

    /// The table that keeps the position of a topic.
    pub(crate) fn home(&mut self, topic: &str) -> &mut Table {
        match topic {
            SAMPLES => &mut self.samples,
            EVENTS => &mut self.events,
            GAPS => &mut self.gaps,
            DECISIONS => &mut self.decisions,
            other => panic!("topic {other} has a home table"),
        }
    }

    /// All tables, for a view.
    pub(crate) fn tables(&self) -> [&Table; 7] {
        let Sink { samples, series, commits, events, gaps, dead_letters, decisions } = self;
        [samples, series, commits, events, gaps, dead_letters, decisions]
    }
}

impl Sink {
    /// All tables, to refresh.
    pub(crate) fn tables_mut(&mut self) -> [&mut Table; 7] {
        let Sink { samples, series, commits, events, gaps, dead_letters, decisions } = self;
        // Samples are looked at before series, so that no row is shown whose labels are unknown.
        [samples, series, commits, events, gaps, dead_letters, decisions]
    }
}

/// Commits a cut; tries again until it is done or somebody else did it.
pub(crate) async fn flush(
    sink: Arc<Mutex<Sink>>,
    cut: Cut,
    metrics: Metrics,
) -> Result<(), Overtaken> {
    let started = std::time::Instant::now();
    loop {
        let failed = match sink.lock().await.store(&cut).await {
            Ok(()) => break,
            Err(CommitError::Store(error)) => error,
            Err(overtaken) => return Err(Overtaken(overtaken)),
        };
        metrics.commit_failures.inc();
        let cause = std::error::Error::source(&failed).map(ToString::to_string);
        warn!(error = %failed, cause, "commit failed, trying again");
        tokio::time::sleep(PAUSE).await;
    }
    metrics.commits.inc();
    metrics.commit_seconds.observe(started.elapsed().as_secs_f64());
    Ok(())
}

impl Sink {
    async fn store(&mut self, cut: &Cut) -> Result<(), CommitError> {
        if let Some(series) = &cut.series {
            let add = self.series.write(std::slice::from_ref(series), None).await;
            let add = add.map_err(CommitError::Store)?;
            append(&mut self.series, vec![add], &[]).await?;
        }
        guarded(&mut self.dead_letters, &cut.dead_letters, &cut.spans).await?;
        let (own, foreign): (Vec<_>, Vec<_>) =
            cut.gaps.iter().cloned().partition(|(origin, _)| origin.topic == GAPS);
        guarded(&mut self.gaps, &foreign, &cut.spans).await?;
        owned(&mut self.gaps, GAPS, &own, &cut.spans).await?;
        owned(&mut self.events, EVENTS, &cut.events, &cut.spans).await?;
        owned(&mut self.decisions, DECISIONS, &cut.decisions, &cut.spans).await?;
        let positions = positions(&cut.spans, SAMPLES);
        if positions.is_empty() || done(&mut self.samples, &positions).await? {
            return Ok(());
        }
        let rows = collect_rows(&cut.samples);
        let count = rows.len();
        note_commit(&mut self.commits, &rows, &positions).await?;
        let adds = write_samples(&self.samples, rows).await.map_err(CommitError::Store)?;
        append(&mut self.samples, adds, &positions).await?;
        info!(samples = count, version = self.samples.version(), "committed");
        Ok(())
    }
}

/// Tells which offsets these samples came with. Ahead of the samples after a crash, the table
/// notes only the offsets past its own position.
async fn note_commit(
    table: &mut Table,
    rows: &[Row],
    positions: &[Position],
) -> Result<(), CommitError> {
    let instants = || rows.iter().map(|row| row.at);
    let Some((first, last)) = instants().min().zip(instants().max()) else { return Ok(()) };
    let mut noted = Vec::new();
    for position in positions {
        let from = table.position(&position.app).await.map_err(CommitError::Store)?;
        if from.is_none_or(|from| from < position.next) {
            noted.push(Position { from, ..position.clone() });
        }
    }
    if noted.is_empty() {
        return Ok(());
    }
    let batch = commits_batch(&noted, first, last);
    let add = table.write(&[batch], None).await.map_err(CommitError::Store)?;
    append(table, vec![add], &noted).await
}

fn positions(spans: &Spans, topic: &str) -> Vec<Position> {
    let of_topic =
        spans.iter().filter(|((of, _), (from, next))| *of == topic && *from != Some(*next));
    let position = |(&(topic, partition), &(from, next)): (&(&'static str, u32), &(_, _))| {
        Position { app: Origin::app(topic, partition), from, next }
    };
    of_topic.map(position).collect()
}

/// Rows of a table that is the home of their topic: its positions are the topic's.
async fn owned<R: TableRow + Clone>(
    table: &mut Table,
    topic: &str,
    rows: &[(Origin, R)],
    spans: &Spans,
) -> Result<(), CommitError> {
    let positions = positions(spans, topic);
    if positions.is_empty() || done(table, &positions).await? {
        return Ok(());
    }
    let mut adds = Vec::new();
    if !rows.is_empty() {
        adds.push(table.write(&[batch_of(rows)], None).await.map_err(CommitError::Store)?);
    }
    append(table, adds, &positions).await
}

/// Rows of a table that several topics feed: rows it has already, by its own position, are left
/// out.
async fn guarded<R: TableRow + Clone>(
    table: &mut Table,
    rows: &[(Origin, R)],
    spans: &Spans,
) -> Result<(), CommitError> {
    let mut fresh: Vec<(Origin, R)> = Vec::new();
    let mut positions: BTreeMap<String, Position> = BTreeMap::new();
    for (origin, row) in rows {
        let app = Origin::app(origin.topic, origin.partition);
        let from = table.position(&app).await.map_err(CommitError::Store)?;
        if from.is_some_and(|from| (origin.offset as i64) < from) {
            continue;
        }
        let (_, next) = spans[&(origin.topic, origin.partition)];
        positions.insert(app.clone(), Position { app, from, next });
        fresh.push((origin.clone(), row.clone()));
    }
    if fresh.is_empty() {
        return Ok(());
    }
    let add = table.write(&[batch_of(&fresh)], None).await.map_err(CommitError::Store)?;
    let positions: Vec<Position> = positions.into_values().collect();
    append(table, vec![add], &positions).await
}

/// Whether an earlier try that seemed to fail had committed after all.
async fn done(table: &mut Table, positions: &[Position]) -> Result<bool, CommitError> {
    for position in positions {
        let found = table.position(&position.app).await.map_err(CommitError::Store)?;
        if found != Some(position.next) {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn append(
    table: &mut Table,
    adds: Vec<nilometer_store::Add>,
    positions: &[Position],
) -> Result<(), CommitError> {
    let result = table.append(adds, positions).await;
    if let Err(CommitError::Store(_)) = &result {
        // Whether it happened is known only from the table; the next try looks there first.
        table.refresh().await.map_err(CommitError::Store)?;
    }
    result
}
