//! Finds out which hours have to be settled, or stated anew.
//!
//! Usage of an hour rests on samples, lifecycle events and gaps, so all are watched by their log
//! offsets: `commits` says which offsets each commit of samples covered and over which instants,
//! `events` and `gaps` carry the offset of each event and gap. Up to where all this was taken into
//! account is stored beside the usage (application ids `seen/<topic>/<partition>/<log>`), so that
//! what came in just before a crash is looked at again after it. Offsets are comparable within one
//! log only (invariant 8b): of one that replaced another nothing was seen yet. Within a run the
//! ingester says more exactly which hours a commit touched.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;
use nilometer_contract::{EVENTS, GAPS, MICROS_PER_HOUR, SAMPLES, Scope, Timestamp};
use nilometer_ingest::{MAINTENANCE, TableView, View};
use nilometer_store::Position;
use tokio::time::Instant;

use crate::error::LedgerError;
use crate::settlement::Settlement;
use crate::settlement::owned_by;
use crate::settlement::writer::Writer;
use crate::stored::parse::{instants, integers, text};

/// A partition of a topic, or of what is found in it, as one log has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Stream {
    of: &'static str,
    partition: i64,
    log: String,
}

/// Offset up to which each was taken into account.
type Seen = BTreeMap<Stream, i64>;

/// Where rows of `gaps` come from, with the names under which it is kept how far they were looked
/// at: those that agents report, those that the ingester finds in the topics themselves, and what
/// says that rows of damaged files are back.
const GAPS_OF: [(&str, &str); 3] =
    [(GAPS, "gaps/reported"), (SAMPLES, "gaps/found"), (MAINTENANCE, "gaps/restored")];

/// What was seen so far.
#[derive(Default)]
pub(crate) struct Changes {
    /// Settled hours about which something may have turned out differently.
    pub(crate) dirty: BTreeSet<i64>,
    /// Version of the samples from before each hour was computed in this run.
    pub(crate) basis: HashMap<i64, i64>,
    seen: Seen,
    stored: Seen,
    /// What `commits` and `events` looked like last.
    commits: Option<i64>,
    events: Option<(i64, usize)>,
    gaps: Option<(i64, usize)>,
    /// The last version that touched an hour, and when that was noticed.
    touched: HashMap<i64, (i64, Instant)>,
}

impl Changes {
    /// Whether no commit has touched an hour for a while.
    pub(crate) fn is_quiet(&self, hour: i64, quiet: Duration) -> bool {
        self.touched.get(&hour).is_none_or(|(_, since)| since.elapsed() >= quiet)
    }

    /// The hour is settled as of a version of the samples.
    pub(crate) fn done(&mut self, hour: i64, basis: i64) {
        self.basis.insert(hour, basis);
        self.dirty.remove(&hour);
    }

    /// Marks hours that were not computed as of a version of the samples yet.
    pub(crate) fn take_up(&mut self, hours: impl Iterator<Item = i64>, version: i64) {
        let older = hours.filter(|hour| self.basis.get(hour).is_none_or(|basis| *basis < version));
        self.dirty.extend(older);
    }

    /// The hours are not settled.
    pub(crate) fn undone(&mut self, hours: &BTreeSet<i64>) {
        for hour in hours {
            self.basis.remove(hour);
            self.dirty.remove(hour);
        }
    }

    fn advance(&mut self, newest: Vec<(Stream, i64)>) {
        self.seen.extend(newest);
    }
}

impl Stream {
    /// Application id.
    fn app(&self) -> String {
        let Stream { of, partition, log } = self;
        format!("seen/{of}/{partition}/{log}")
    }
}

/// First and last instant of rows of samples in memory.
pub(crate) fn span(batch: &RecordBatch) -> Option<(i64, i64)> {
    let at = batch.column(1).as_primitive::<TimestampMicrosecondType>();
    arrow::compute::min(at).zip(arrow::compute::max(at))
}

/// Hours that samples in memory fall into, or may fall into: their hours are not complete in any
/// version of the table yet.
pub(crate) fn hours_in_memory(view: &View) -> BTreeSet<i64> {
    let memory = view.tables.get("samples").map(|samples| samples.memory.as_slice());
    let spans = memory.unwrap_or_default().iter().filter_map(span);
    spans.flat_map(|(low, high)| hours(low, high)).collect()
}

/// The hours that a span touches.
pub(crate) fn hours(low: i64, high: i64) -> impl Iterator<Item = i64> {
    let hour = |at: i64| at.div_euclid(MICROS_PER_HOUR);
    (hour(low)..=hour(high)).map(|hour| hour * MICROS_PER_HOUR)
}

/// Tells whether a table has other rows than before.
fn state_of(table: &TableView) -> (i64, usize) {
    (table.version, table.memory.iter().map(RecordBatch::num_rows).sum())
}

impl Settlement {
    /// Takes into account what came in since the last look.
    pub(crate) async fn note_changes(
        &self,
        writer: &mut Writer,
        view: &View,
    ) -> Result<(), LedgerError> {
        let settled: BTreeSet<i64> = self.core.stored().usage.stated(i64::MIN, i64::MAX).collect();
        let first = writer.changes.commits.is_none();
        let mut changed = self.note_commits(writer, view, first).await?;
        if !view.touched.is_empty() && !first {
            changed.clear();
        }
        changed.extend(self.note_gaps(writer, view, &settled).await?);
        let look = &mut writer.changes;
        for (&hour, &version) in &view.touched {
            if look.touched.get(&hour).is_some_and(|&(known, _)| known == version) {
                continue;
            }
            look.touched.insert(hour, (version, Instant::now()));
            if look.basis.get(&hour).is_none_or(|&basis| basis < version) {
                changed.insert(hour);
            }
        }
        look.touched.retain(|hour, _| view.touched.contains_key(hour));
        for hour in changed {
            // A sample moves the borders of the pairs on both sides of it.
            let near = [hour - MICROS_PER_HOUR, hour, hour + MICROS_PER_HOUR];
            if settled.contains(&hour) {
                look.dirty.extend(near.into_iter().filter(|hour| settled.contains(hour)));
            }
        }
        if let Some(from) = self.note_events(writer, view).await? {
            // Lifecycles may change everything after an event, and what spreads over a pause
            // that ends with it.
            let from = from.saturating_sub(MICROS_PER_HOUR);
            writer.changes.dirty.extend(settled.range(from..));
        }
        Ok(())
    }

    /// Hours that commits since the last look may have touched.
    async fn note_commits(
        &self,
        writer: &mut Writer,
        view: &View,
        first: bool,
    ) -> Result<BTreeSet<i64>, LedgerError> {
        let mut changed = BTreeSet::new();
        let Some(version) = view.tables.get("commits").map(|table| table.version) else {
            return Ok(changed);
        };
        if writer.changes.commits == Some(version) {
            return Ok(changed);
        }
        let newest = format!(
            "SELECT partition, log, max(end_offset) AS next FROM commits \
             WHERE topic = '{SAMPLES}' GROUP BY 1, 2"
        );
        let newest = self.newest_offsets(SAMPLES, &newest).await?;
        let since = writer.since(&newest).await?;
        if !since.is_empty() && (first || view.touched.is_empty()) {
            let rows = self
                .core
                .engine
                .query(
                    &Scope::system(),
                    &format!(
                        "SELECT DISTINCT date_bin(INTERVAL '1 hour', first_at) AS low, \
                     date_bin(INTERVAL '1 hour', last_at) AS high FROM commits \
                     WHERE topic = '{SAMPLES}' AND ({})",
                        later_than(&since, "end_offset >")
                    ),
                )
                .await?;
            for batch in &rows.batches {
                let (low, high) = (instants(batch, "low")?, instants(batch, "high")?);
                changed.extend(low.into_iter().zip(high).flat_map(|(low, high)| hours(low, high)));
            }
        }
        writer.changes.advance(newest);
        writer.changes.commits = Some(version);
        Ok(changed)
    }

    /// The earliest hour that events since the last look speak of.
    async fn note_events(
        &self,
        writer: &mut Writer,
        view: &View,
    ) -> Result<Option<i64>, LedgerError> {
        let Some(events) = view.tables.get("events") else { return Ok(None) };
        let state = Some(state_of(events));
        if writer.changes.events == state {
            return Ok(None);
        }
        let newest = "SELECT partition, log, max(\"offset\") + 1 AS next FROM events GROUP BY 1, 2";
        let newest = self.newest_offsets(EVENTS, newest).await?;
        let since = writer.since(&newest).await?;
        let mut earliest = None;
        if !since.is_empty() {
            let rows = self
                .core
                .engine
                .query(
                    &Scope::system(),
                    &format!(
                        "SELECT date_bin(INTERVAL '1 hour', min(at)) AS low FROM events WHERE {}",
                        later_than(&since, "\"offset\" >=")
                    ),
                )
                .await?;
            for batch in rows.batches.iter().filter(|batch| batch.num_rows() > 0) {
                earliest = earliest.into_iter().chain(instants(batch, "low")?).min();
            }
        }
        writer.changes.advance(newest);
        writer.changes.events = state;
        Ok(earliest)
    }

    /// Settled hours that gaps since the last look lie in: what was read before one does not reach
    /// into it.
    async fn note_gaps(
        &self,
        writer: &mut Writer,
        view: &View,
        settled: &BTreeSet<i64>,
    ) -> Result<BTreeSet<i64>, LedgerError> {
        let mut changed = BTreeSet::new();
        let Some(state) = view.tables.get("gaps").map(state_of) else { return Ok(changed) };
        if writer.changes.gaps == Some(state) {
            return Ok(changed);
        }
        for (topic, key) in GAPS_OF {
            let of = format!("{} AND topic = '{topic}'", bearing_on_usage(topic));
            let newest = format!(
                "SELECT partition, log, max(\"offset\") + 1 AS next FROM gaps WHERE {of} \
                 GROUP BY 1, 2"
            );
            let newest = self.newest_offsets(key, &newest).await?;
            let since = writer.since(&newest).await?;
            if !since.is_empty() {
                let later = later_than(&since, "\"offset\" >=");
                let sql = format!(
                    "SELECT start, \"end\", CAST(of_topic IN ('{SAMPLES}', 'samples') AS BIGINT) AS ends \
                     FROM gaps WHERE {of} AND ({later})"
                );
                for batch in &self.core.engine.query(&Scope::system(), &sql).await?.batches {
                    let (low, high) = (instants(batch, "start")?, instants(batch, "end")?);
                    let spans = low.into_iter().zip(high).zip(integers(batch, "ends")?);
                    for ((low, high), ends) in spans {
                        // What lifetimes and labels say holds from then on.
                        let last = if ends == 1 { high } else { i64::MAX };
                        let first = Timestamp(low).hour().0;
                        changed.extend(settled.range(first..=last.max(first)));
                    }
                }
            }
            writer.changes.advance(newest);
        }
        writer.changes.gaps = Some(state);
        Ok(changed)
    }

    async fn newest_offsets(
        &self,
        of: &'static str,
        sql: &str,
    ) -> Result<Vec<(Stream, i64)>, LedgerError> {
        let rows = self.core.engine.query(&Scope::system(), sql).await?;
        let mut found = Vec::new();
        for batch in &rows.batches {
            let (partitions, logs) = (integers(batch, "partition")?, text(batch, "log")?);
            let logs = logs.iter().map(|log| log.unwrap_or_default().to_owned());
            let streams = partitions.into_iter().zip(logs);
            let streams = streams.map(|(partition, log)| Stream { of, partition, log });
            found.extend(streams.zip(integers(batch, "next")?));
        }
        Ok(found)
    }
}

impl Writer {
    /// Stores up to where everything was taken into account; to be called when nothing is dirty.
    pub(crate) async fn store_seen(&mut self) -> Result<(), LedgerError> {
        let mut positions = Vec::new();
        for (stream, &next) in &self.changes.seen {
            if self.changes.stored.get(stream) == Some(&next) {
                continue;
            }
            // By the table and not by memory: an earlier try may have happened after all.
            let app = stream.app();
            let from = self.usage.position(&app).await.map_err(LedgerError::Store)?;
            if from.is_none_or(|from| from < next) {
                positions.push(Position { app, from, next });
            }
        }
        if !positions.is_empty() {
            positions.extend(owned_by(self.owner));
            self.usage.append(Vec::new(), &positions).await.map_err(LedgerError::Commit)?;
        }
        self.changes.stored.clone_from(&self.changes.seen);
        Ok(())
    }

    /// Those that moved on, with the position seen; -1 before the first.
    async fn since(&mut self, newest: &[(Stream, i64)]) -> Result<Vec<(Stream, i64)>, LedgerError> {
        let mut since = Vec::new();
        for (stream, next) in newest {
            if !self.changes.seen.contains_key(stream) {
                let position = self.usage.position(&stream.app()).await;
                if let Some(position) = position.map_err(LedgerError::Store)? {
                    self.changes.seen.insert(stream.clone(), position);
                    self.changes.stored.insert(stream.clone(), position);
                }
            }
            // What is found of a log as a whole has the offset -1.
            let seen = self.changes.seen.get(stream).copied().unwrap_or(-1);
            if *next > seen {
                since.push((stream.clone(), seen));
            }
        }
        Ok(since)
    }
}

/// Which gaps of a topic usage rests on.
fn bearing_on_usage(topic: &str) -> String {
    match topic {
        MAINTENANCE => "of_topic IN ('samples', 'series', 'epochs', 'events', 'gaps') \
                        AND kind IN ('late', 'lost')"
            .to_owned(),
        _ => format!("of_topic = '{SAMPLES}' AND kind <> 'late'"),
    }
}

fn later_than(since: &[(Stream, i64)], offset: &str) -> String {
    let part = |(Stream { partition, log, .. }, seen): &(Stream, i64)| {
        format!("(partition = {partition} AND log = '{log}' AND {offset} {seen})")
    };
    since.iter().map(part).collect::<Vec<_>>().join(" OR ")
}
