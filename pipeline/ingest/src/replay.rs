//! The log read again for rows that the tables lost.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use nilometer_contract::{Applied, EVENTS, GAPS, Gap, History, LifecycleEvent, SAMPLES, Timestamp};
use nilometer_log::{Log, ReadEvent, ReadPosition, Reader, Record, TopicPartition};
use nilometer_store::{Add, Row, SAMPLES as SAMPLES_TABLE, StoreError, Table, rows_of};
use prometheus::Registry;

use crate::config::IngestConfig;
use crate::ingester::series_batch;
use crate::load::{event_of, load, load_positions, unless_damaged};
use crate::lookup::settle_suspects;
use crate::memory::{MemoryTier, collect_rows};
use crate::metrics::Metrics;
use crate::ownership::IngestError;
use crate::record::Prepared;
use crate::repair::Fact;
use crate::rows::{TableRow, batch_of, epochs_batch};
use crate::sink::Sink;
use crate::state::State;
use crate::stream::{Origin, Stream};
use crate::tail::Topics;
use crate::view::Shared;

/// Bytes asked of the log at once.
const FETCH_BYTES: usize = 4 << 20;

/// Rows that came back, and their files, which are not committed.
type Restored = (u64, Vec<Add>);
/// A log with the first offset and the one past the last.
type Range = (Stream, u64, u64);

/// When the rows that are missing were of, and how many they were.
#[derive(Default)]
pub(crate) struct Spans(Vec<Fact>);

impl<'f> FromIterator<&'f Fact> for Spans {
    fn from_iter<I: IntoIterator<Item = &'f Fact>>(facts: I) -> Self {
        Spans(facts.into_iter().cloned().collect())
    }
}

impl Spans {
    pub(crate) fn rows(&self) -> u64 {
        self.0.iter().map(|fact| fact.rows).sum()
    }

    /// From the first of them to the last.
    pub(crate) fn whole(&self) -> Option<(i64, i64)> {
        let starts = self.0.iter().map(|fact| fact.span.0);
        starts.min().zip(self.0.iter().map(|fact| fact.span.1).max())
    }

    fn hold(&self, low: i64, high: i64) -> bool {
        self.0.iter().any(|fact| fact.span.0 <= high && low < fact.span.1)
    }
}

/// Reads the log again.
pub(crate) struct Replay {
    log: Arc<dyn Log>,
    topics: Topics,
    /// Tables of which it is not known what is missing.
    whole: BTreeSet<&'static str>,
}

impl Replay {
    pub(crate) fn new(log: Arc<dyn Log>, topics: Topics) -> Self {
        Replay { log, topics, whole: BTreeSet::new() }
    }

    /// It is not known what is missing of a table.
    pub(crate) fn add_whole(&mut self, table: &'static str) {
        self.whole.insert(table);
    }

    pub(crate) fn wants_whole(&self, table: &str) -> bool {
        self.whole.contains(table)
    }

    /// Samples of the spans that are in the log and not in the table.
    pub(crate) async fn samples(
        &self,
        sink: &mut Sink,
        config: &IngestConfig,
        spans: &Spans,
    ) -> Result<Vec<Row>, IngestError> {
        let mut state = self.begin(sink, config).await?;
        let mut ranges = self.ranges(&state, SAMPLES).await?;
        let whole = self.wants_whole(SAMPLES_TABLE.name);
        if !whole && sink.commits.aside().is_empty() {
            let covered = covered(&sink.commits, spans).await.map_err(IngestError::Store)?;
            ranges.retain_mut(|(stream, low, high)| {
                let of = covered.get(&(stream.partition, stream.log.to_string()));
                (*low, *high) = of.map_or((0, 0), |of| ((*low).max(of.0), (*high).min(of.1)));
                low < high
            });
        }
        self.run(sink, &mut state, ranges).await?;
        let mut rows = collect_rows(&state.memory.batches());
        rows.retain(|row| whole || spans.hold(row.at, row.at));
        Ok(rows)
    }

    /// Series that records in the log are of and that the table does not have; with how many
    /// there are of stored samples that neither has.
    pub(crate) async fn series(
        &self,
        sink: &mut Sink,
        config: &IngestConfig,
    ) -> Result<(Restored, u64), IngestError> {
        let mut state = self.applied(sink, config).await?;
        let index = state.shared.index.clone();
        let is_known =
            |row: &Row| index.read().unwrap_or_else(|e| e.into_inner()).slot(row.series).is_some();
        let unknown = unknown(&sink.samples, |row| row.series, is_known).await;
        let unknown = unknown.map_err(IngestError::Store)?;
        let Some(batch) = series_batch(&mut state) else {
            return Ok((Restored::default(), unknown));
        };
        let add = sink.series.write(std::slice::from_ref(&batch), None).await;
        Ok(((batch.num_rows() as u64, vec![add.map_err(IngestError::Store)?]), unknown))
    }

    /// Epochs that records in the log are of and that the table does not have; with how many
    /// there are of stored samples that neither has.
    pub(crate) async fn epochs(
        &self,
        sink: &mut Sink,
        config: &IngestConfig,
    ) -> Result<(Restored, u64), IngestError> {
        let state = self.applied(sink, config).await?;
        let epochs = state.shared.epochs.clone();
        let is_known =
            |row: &Row| epochs.read().unwrap_or_else(|e| e.into_inner()).knows(row.epoch);
        let unknown = unknown(&sink.samples, |row| row.epoch, is_known).await;
        let unknown = unknown.map_err(IngestError::Store)?;
        if state.new_epochs.is_empty() {
            return Ok((Restored::default(), unknown));
        }
        let add = sink.epochs.write(&[epochs_batch(&state.new_epochs)], None).await;
        Ok(((state.new_epochs.len() as u64, vec![add.map_err(IngestError::Store)?]), unknown))
    }

    /// What all samples in the log below the stored positions come to.
    async fn applied(&self, sink: &mut Sink, config: &IngestConfig) -> Result<State, IngestError> {
        let mut state = self.begin(sink, config).await?;
        let ranges = self.ranges(&state, SAMPLES).await?;
        self.run(sink, &mut state, ranges).await?;
        Ok(state)
    }

    /// What the log holds below the stored positions of a topic.
    async fn ranges(&self, state: &State, topic: &str) -> Result<Vec<Range>, IngestError> {
        let mut ranges = Vec::new();
        for (&stream, &next) in state.next.iter().filter(|(stream, _)| stream.topic == topic) {
            if state.reading.get(&(stream.topic, stream.partition)) != Some(&stream.log) {
                continue;
            }
            let at = TopicPartition { topic: topic.to_owned(), partition: stream.partition };
            let marks = self.log.watermarks(&at).await.map_err(IngestError::Log)?;
            ranges.push((stream, marks.low, next.min(marks.high)));
        }
        Ok(ranges)
    }

    /// A state that takes every sample for a suspect, and knows which logs are read.
    async fn begin(&self, sink: &mut Sink, config: &IngestConfig) -> Result<State, IngestError> {
        let metrics = Metrics::register(&Registry::new()).map_err(IngestError::Metrics)?;
        let config = IngestConfig { identity_window: Duration::ZERO, ..config.clone() };
        let loaded = load(sink, &config, metrics, Shared::with(config.catalogue.clone())).await;
        let mut state = loaded.map_err(IngestError::Store)?;
        let of = (self.log.as_ref(), self.topics.as_slice());
        load_positions(&mut state, sink, of, Timestamp::default()).await?;
        let identities = {
            let index = state.shared.index.read().unwrap_or_else(|e| e.into_inner());
            index.identities()
        };
        state.memory = MemoryTier::new(identities, i64::MAX);
        Ok(state)
    }

    /// Applies the samples of ranges.
    async fn run(
        &self,
        sink: &Sink,
        state: &mut State,
        ranges: Vec<Range>,
    ) -> Result<(), IngestError> {
        let (files, finder) = (sink.samples.files(), sink.samples.finder());
        for (stream, low, high) in ranges {
            let mut reader = self.reader(stream, low);
            while let Some(records) = next_below(&mut reader, high).await? {
                // What is missing before them was noted when it was found to be.
                state.next.extend(records.first().map(|first| (stream, first.offset)));
                for record in records {
                    state.apply_samples(stream, Prepared::of(record));
                }
                let settled = settle_suspects(state, &files, &finder).await;
                settled.map_err(IngestError::Store)?;
                // They are stored already, or were said when they were lost.
                state.pending = Default::default();
            }
        }
        Ok(())
    }

    /// Reads what the log has from an offset on.
    fn reader(&self, stream: Stream, next: u64) -> Reader {
        let Stream { topic, partition, log } = stream;
        let at = TopicPartition { topic: topic.to_owned(), partition };
        let from = ReadPosition { log, next, mark: None };
        Reader::new(self.log.clone(), at, from, FETCH_BYTES).without_waiting()
    }

    /// Records of another topic that are in the log and not in its table.
    pub(crate) async fn records(
        &self,
        sink: &mut Sink,
        config: &IngestConfig,
        topic: &'static str,
    ) -> Result<Restored, IngestError> {
        let state = self.begin(sink, config).await?;
        let ranges = self.ranges(&state, topic).await?;
        let known = known(sink.home(topic)).await.map_err(IngestError::Store)?;
        let mut missing = Vec::new();
        for (stream, low, high) in ranges {
            let mut reader = self.reader(stream, low);
            while let Some(records) = next_below(&mut reader, high).await? {
                let lacking =
                    records.into_iter().map(|record| (Origin::at(stream, record.offset), record));
                missing.extend(lacking.filter(|(origin, _)| !known.holds(origin)));
            }
        }
        let table = sink.home(topic);
        match topic {
            EVENTS => {
                let mut history = known.history;
                let mut events = decoded(missing, |record| LifecycleEvent::decode(record).ok());
                events.retain(|(_, event)| history.apply(event.clone()) == Applied::New);
                write(table, events).await
            }
            GAPS => write(table, decoded(missing, |record| Gap::decode(record).ok())).await,
            topic => {
                let feed = table.def().feed();
                let feed = feed.unwrap_or_else(|| panic!("topic {topic} feeds its table"));
                write(table, decoded(missing, |record| (feed.decode)(record).ok())).await
            }
        }
    }
}

/// The next records below an offset; none where the log has no more.
async fn next_below(reader: &mut Reader, high: u64) -> Result<Option<Vec<Record>>, IngestError> {
    while reader.position().next < high {
        match reader.next().await.map_err(IngestError::Log)? {
            ReadEvent::Records(mut records) => {
                records.retain(|record| record.offset < high);
                return Ok(Some(records));
            }
            ReadEvent::Missing(_) | ReadEvent::End(_) => {}
            ReadEvent::Begun(why) => return Err(IngestError::Log(why)),
            ReadEvent::Idle => break,
        }
    }
    Ok(None)
}

/// Offsets of each partition that commits of the spans covered: from the first to the last.
async fn covered(
    commits: &Table,
    spans: &Spans,
) -> Result<BTreeMap<(u32, String), (u64, u64)>, StoreError> {
    let mut covered: BTreeMap<(u32, String), (u64, u64)> = BTreeMap::new();
    for file in commits.files().iter() {
        for batch in commits.read(file).await? {
            let number = |name: &str, row: usize| {
                let column = batch.column_by_name(name)?.as_primitive_opt::<Int64Type>()?;
                u64::try_from(column.value(row)).ok()
            };
            let at = |name: &str, row: usize| {
                let column = batch.column_by_name(name)?;
                Some(column.as_primitive_opt::<TimestampMicrosecondType>()?.value(row))
            };
            let log = |row: usize| {
                Some(batch.column_by_name("log")?.as_string_opt::<i32>()?.value(row).to_owned())
            };
            for row in 0..batch.num_rows() {
                let read = (|| {
                    let span = (at("first_at", row)?, at("last_at", row)?);
                    let offsets = (number("start_offset", row)?, number("end_offset", row)?);
                    let partition = u32::try_from(number("partition", row)?).ok()?;
                    Some(((partition, log(row)?), span, offsets))
                })();
                if let Some((partition, span, offsets)) = read
                    && spans.hold(span.0, span.1)
                {
                    let all = covered.entry(partition).or_insert(offsets);
                    *all = (all.0.min(offsets.0), all.1.max(offsets.1));
                }
            }
        }
    }
    Ok(covered)
}

/// How many numbers samples refer to by which nothing is known.
async fn unknown(
    samples: &Table,
    number: impl Fn(&Row) -> i64,
    is_known: impl Fn(&Row) -> bool,
) -> Result<u64, StoreError> {
    let mut unknown = HashSet::new();
    for file in samples.files().iter() {
        let Some(batches) = unless_damaged(file, samples.read(file).await)? else { continue };
        let rows = batches.iter().flat_map(rows_of).filter(|row| !is_known(row));
        unknown.extend(rows.map(|row| number(&row)));
    }
    Ok(unknown.len() as u64)
}

/// What a table has: where its rows came from, and what its events add up to.
#[derive(Default)]
struct Known {
    origins: HashSet<(u32, String, u64)>,
    history: History,
}

impl Known {
    fn holds(&self, origin: &Origin) -> bool {
        let log = origin.stream().log.to_string();
        self.origins.contains(&(origin.partition, log, origin.offset))
    }
}

async fn known(table: &Table) -> Result<Known, StoreError> {
    let mut known = Known::default();
    for file in table.files().iter() {
        for batch in table.read(file).await? {
            let column = |name: &str| batch.column_by_name(name);
            let (Some(partitions), Some(logs), Some(offsets)) =
                (column("partition"), column("log"), column("offset"))
            else {
                continue;
            };
            let partitions = partitions.as_primitive::<Int64Type>().values().iter();
            let offsets = offsets.as_primitive::<Int64Type>().values().iter();
            let logs = logs.as_string::<i32>().iter().map(|log| log.unwrap_or_default());
            let origins = partitions.zip(logs).zip(offsets);
            let origins =
                origins.map(|((of, log), offset)| (*of as u32, log.to_owned(), *offset as u64));
            known.origins.extend(origins);
            if table.def().name == "events" {
                for event in (0..batch.num_rows()).filter_map(|row| event_of(&batch, row)) {
                    known.history.apply(event);
                }
            }
        }
    }
    Ok(known)
}

fn decoded<R>(
    records: Vec<(Origin, Record)>,
    decode: impl Fn(&[u8]) -> Option<R>,
) -> Vec<(Origin, R)> {
    let rows = records.into_iter();
    rows.filter_map(|(origin, record)| Some((origin, decode(&record.payload)?))).collect()
}

async fn write<R: TableRow>(
    table: &Table,
    rows: Vec<(Origin, R)>,
) -> Result<Restored, IngestError> {
    if rows.is_empty() {
        return Ok(Restored::default());
    }
    let add =
        table.write(&[batch_of(table.def(), &rows)], None).await.map_err(IngestError::Store)?;
    Ok((rows.len() as u64, vec![add]))
}
