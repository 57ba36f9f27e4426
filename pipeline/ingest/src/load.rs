//! What a starting ingester learns from the tables: series, lifetimes, positions, identities.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use nilometer_contract::{
    Causes, Change, Epoch, HistoryBounds, LifecycleEvent, MeterKind, Resource, Statement,
    Timestamp, micros,
};
use nilometer_log::{Log, LogId, Mark, TopicPartition};
use nilometer_store::{DataFile, Description, StoreError, Table, rows_of};
use tracing::warn;

use crate::beginning::Beginning;
use crate::bounds::Days;
use crate::config::IngestConfig;
use crate::cut::Cut;
use crate::forget::learn_events;
use crate::lag::Lag;
use crate::memory::MemoryTier;
use crate::metrics::Metrics;
use crate::note::restored_app;
use crate::ownership::IngestError;
use crate::plausible::Plausible;
use crate::sink::Sink;
use crate::state::State;
use crate::stream::Stream;
use crate::turns::{Turn, Turns};
use crate::view::Shared;

/// Builds the state that the tables imply. What readers share already is kept: series that the
/// tables lack are new, and the lifetimes become those of the tables.
pub(crate) async fn load(
    sink: &mut Sink,
    config: &IngestConfig,
    metrics: Metrics,
    shared: Shared,
) -> Result<State, StoreError> {
    let (new_series, whole) = load_series(&sink.series, &shared).await?;
    load_history(sink, &shared, config.bounds.history()).await?;
    let window = micros(config.identity_window);
    let (mut memory, newest, labelled) = load_identities(&sink.samples, &shared, window).await?;
    if !(whole && labelled) {
        // Of a series that is not known now, samples may be stored.
        memory.doubt(newest.0);
    }
    let mut beginning = Beginning::of(config.metering_start);
    beginning.note_stored(sink.metering_start().await?);
    Ok(State {
        shared,
        memory,
        turns: Turns::at(Turn::of(&mut sink.samples).await?),
        suspects: Vec::new(),
        reading: BTreeMap::new(),
        committed: BTreeMap::new(),
        next: BTreeMap::new(),
        marks: BTreeMap::new(),
        lags: BTreeMap::new(),
        ends: BTreeMap::new(),
        open: BTreeMap::new(),
        pending: Cut::default(),
        flushing: None,
        new_series,
        new_epochs: Vec::new(),
        newest,
        beginning,
        now: Timestamp(i64::MAX),
        touched: BTreeMap::new(),
        arrivals: Vec::new(),
        plausible: Plausible::of(config),
        dirty: true,
        changes: 0,
        bounds: config.bounds,
        days: Days::new(&config.bounds),
        others: config.others.clone(),
        metrics,
    })
}

/// Learns what each partition is now and how far that log is stored; notes those that are not
/// what they were.
pub(crate) async fn load_positions(
    state: &mut State,
    sink: &mut Sink,
    (log, topics): (&dyn Log, &[(&'static str, u32)]),
    now: Timestamp,
) -> Result<(), IngestError> {
    for &(topic, partitions) in topics {
        for partition in 0..partitions {
            let at = TopicPartition { topic: topic.to_owned(), partition };
            let found = log.incarnation(&at).await.map_err(IngestError::Log)?;
            let stream = Stream { topic, partition, log: LogId::first_of(found) };
            load_position(state, sink, stream, now).await.map_err(IngestError::Store)?;
        }
    }
    Ok(())
}

async fn load_position(
    state: &mut State,
    sink: &mut Sink,
    mut stream: Stream,
    now: Timestamp,
) -> Result<(), StoreError> {
    let home = sink.home(stream.topic);
    let last = home.position(&stream.log_app()).await?.map(LogId::from_number);
    match last {
        Some(last) if last.incarnation() == stream.log.incarnation() => stream.log = last,
        // One that came back goes on in the round it was left in.
        _ => loop {
            let later = Stream { log: stream.log.next_round(), ..stream };
            match home.position(&later.app()).await? {
                Some(_) => stream = later,
                None => break,
            }
        },
    }
    let before = last.filter(|last| *last != stream.log).map(|log| Stream { log, ..stream });
    for one in [Some(stream), before].into_iter().flatten() {
        let home = sink.home(one.topic);
        let position = home.position(&one.app()).await?;
        let mark = home.position(&one.mark_app()).await?.and_then(Mark::from_number);
        let end = home.position(&one.end_app()).await?.map(|end| end as u64);
        let lag = home.position(&one.lag_app()).await?;
        state.ends.extend(end.map(|end| (one, end)));
        state.lags.extend(lag.map(|lag| (one, Lag::stored(lag))));
        state.committed.insert(one, position);
        state.next.insert(one, position.map_or(0, |next| next as u64));
        state.marks.extend(mark.map(|mark| (one, mark)));
    }
    state.reading.insert((stream.topic, stream.partition), stream.log);
    if let Some(before) = before {
        state.follows(before, stream);
        if sink.gaps.position(&stream.told_app()).await? != Some(stream.log.number()) {
            state.note_beginning(before, stream, now);
        }
    }
    Ok(())
}

/// Adds the series of the table; says which others there are, and whether the table has all that
/// it had.
async fn load_series(table: &Table, shared: &Shared) -> Result<(Vec<u32>, bool), StoreError> {
    let known = shared.index.read().unwrap_or_else(|poisoned| poisoned.into_inner()).len();
    let mut others: HashSet<u32> = (0..known as u32).collect();
    let mut whole = table.aside().is_empty() && table.unread().is_empty();
    for file in table.files().iter() {
        let slots = unless_damaged(file, load_series_file(table, file, shared).await)?;
        whole &= slots.is_some();
        for slot in slots.into_iter().flatten() {
            others.remove(&slot);
        }
    }
    Ok((others.into_iter().collect(), whole))
}

/// Makes lifetimes, epochs and gaps those of the tables; what is stored already is not refused.
async fn load_history(
    sink: &Sink,
    shared: &Shared,
    bounds: HistoryBounds,
) -> Result<(), StoreError> {
    let catalogue = {
        let index = shared.index.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        index.catalogue().clone()
    };
    let loaded = Shared::with(catalogue);
    for table in [&sink.events, &sink.epochs, &sink.gaps] {
        load_table(table, &loaded).await?;
    }
    let mut history =
        std::mem::take(&mut *loaded.history.write().unwrap_or_else(|e| e.into_inner()));
    history.bound(bounds);
    *shared.history.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = history;
    let epochs = std::mem::take(&mut *loaded.epochs.write().unwrap_or_else(|e| e.into_inner()));
    *shared.epochs.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = epochs;
    let gaps = std::mem::take(&mut *loaded.gaps.write().unwrap_or_else(|e| e.into_inner()));
    shared.gaps.write().unwrap_or_else(|poisoned| poisoned.into_inner()).set_stored(gaps);
    Ok(())
}

/// Adds what a table of series, events, epochs or gaps says.
pub(crate) async fn load_table(table: &Table, shared: &Shared) -> Result<(), StoreError> {
    for file in table.files().iter() {
        unless_damaged(file, load_file(table, file, shared).await)?;
    }
    Ok(())
}

/// Adds what one file of such a table says.
pub(crate) async fn load_file(
    table: &Table,
    file: &DataFile,
    shared: &Shared,
) -> Result<(), StoreError> {
    match table.def().name {
        "series" => load_series_file(table, file, shared).await.map(drop),
        "events" => learn_events(table, file, shared).await,
        "epochs" => load_epochs_file(table, file, shared).await,
        _ => load_gaps_file(table, file, shared).await,
    }
}

/// Versions of tables in which a repair put rows back last.
pub(crate) type Restored = BTreeMap<&'static str, i64>;

/// Which repairs the tables have as they were read; of one that they do not have yet nothing is
/// known, even if `gaps` says so already.
pub(crate) async fn restored(sink: &mut Sink) -> Result<Restored, StoreError> {
    let Sink { series, events, epochs, gaps, .. } = sink;
    let mut restored = Restored::new();
    for table in [&*series, events, epochs] {
        let version = gaps.position(&restored_app(table.def().name)).await?;
        let seen = version.filter(|version| *version <= table.version());
        restored.extend(seen.map(|version| (table.def().name, version)));
    }
    Ok(restored)
}

/// Adds what tables say in which a repair put rows back since those that are `known`.
pub(crate) async fn load_restored(
    sink: &mut Sink,
    shared: &Shared,
    known: &mut Restored,
) -> Result<(), StoreError> {
    for (name, version) in restored(sink).await? {
        if known.get(name) == Some(&version) {
            continue;
        }
        for table in sink.tables().filter(|table| table.def().name == name) {
            load_table(table, shared).await?;
        }
        known.insert(name, version);
    }
    Ok(())
}

/// A damaged file holds up nothing: what it has is not known, and maintenance sets it aside.
pub(crate) fn unless_damaged<T>(
    file: &DataFile,
    read: Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    match read {
        Err(error) if error.is_damage() => {
            warn!(file = file.path, error = %Causes(&error), "left out");
            Ok(None)
        }
        read => read.map(Some),
    }
}

/// Adds the series of one file; says which slots they have.
pub(crate) async fn load_series_file(
    table: &Table,
    file: &DataFile,
    shared: &Shared,
) -> Result<Vec<u32>, StoreError> {
    let batches = table.read(file).await?;
    let mut slots = Vec::with_capacity(file.rows as usize);
    let mut index = shared.index.write().unwrap_or_else(|poisoned| poisoned.into_inner());
    for batch in batches {
        let ids = batch["series"].as_primitive::<Int64Type>();
        let columns = Description::of(|column| batch[column.name()].as_string::<i32>());
        let (kinds, units) =
            (batch["meter_kind"].as_string::<i32>(), batch["unit"].as_string::<i32>());
        for row in 0..batch.num_rows() {
            let series = Description::of(|column| columns.get(column).value(row));
            let stated = || Statement {
                kind: MeterKind::sampled(kinds.value(row)),
                unit: units.value(row).parse().ok(),
            };
            let learnt = index.learn(series.meter, stated, series.source);
            if let Err(error) = learnt {
                warn!(
                    series = ids.value(row),
                    error = %Causes(&error),
                    "left out"
                );
                continue;
            }
            match index.insert(ids.value(row), &series) {
                Ok((slot, _)) => slots.push(slot),
                Err(error) => {
                    panic!("invariant 3: the table of series has one meaning per id: {error}")
                }
            }
        }
    }
    Ok(slots)
}

/// Adds the epochs of one file.
pub(crate) async fn load_epochs_file(
    table: &Table,
    file: &DataFile,
    shared: &Shared,
) -> Result<(), StoreError> {
    let batches = table.read(file).await?;
    let mut epochs = shared.epochs.write().unwrap_or_else(|poisoned| poisoned.into_inner());
    for batch in batches {
        let instances = batch.column(1).as_string::<i32>();
        let sequences = batch.column(2).as_primitive::<Int64Type>();
        let starts = batch.column(3).as_primitive::<TimestampMicrosecondType>();
        for row in 0..batch.num_rows() {
            epochs.insert(&Epoch {
                instance: instances.value(row).to_owned(),
                sequence: sequences.value(row).unsigned_abs(),
                start: Timestamp(starts.value(row)),
            });
        }
    }
    Ok(())
}

/// Adds the gaps of one file.
pub(crate) async fn load_gaps_file(
    table: &Table,
    file: &DataFile,
    shared: &Shared,
) -> Result<(), StoreError> {
    let batches = table.read(file).await?;
    let mut gaps = shared.gaps.write().unwrap_or_else(|poisoned| poisoned.into_inner());
    batches.iter().for_each(|batch| gaps.add_rows(batch));
    Ok(())
}

/// The event of a row of `events`; none if an older version wrote what this one cannot read.
pub(crate) fn event_of(batch: &RecordBatch, row: usize) -> Option<LifecycleEvent> {
    let text = |name: &str| -> Option<&str> {
        let column = batch.column_by_name(name)?.as_string::<i32>();
        column.is_valid(row).then(|| column.value(row))
    };
    let change = match text("change")? {
        "created" => Change::Created,
        "changed" => Change::Changed,
        "deleted" => Change::Deleted,
        _ => return None,
    };
    let at = batch.column_by_name("at")?.as_primitive::<TimestampMicrosecondType>().value(row);
    let resource = Resource {
        id: text("resource")?.to_owned(),
        kind: text("kind")?.parse().ok()?,
        project: text("project")?.to_owned(),
        name: text("name")?.to_owned(),
        node: text("node")?.to_owned(),
        parent: text("parent").map(str::to_owned),
        attributes: serde_json::from_str(text("attributes")?).ok()?,
    };
    Some(LifecycleEvent { change, at: Timestamp(at), resource, source: text("source")?.to_owned() })
}

/// Newest instants of all identities, the newest of all samples, and whether the series of all that
/// were read are known.
async fn load_identities(
    table: &Table,
    shared: &Shared,
    window_micros: i64,
) -> Result<(MemoryTier, Timestamp, bool), StoreError> {
    let files = table.files();
    let Some((_, newest)) = files.extent() else {
        return Ok((MemoryTier::new(0, i64::MIN), Timestamp::default(), true));
    };
    let floor = newest.saturating_sub(window_micros);
    let index = Arc::clone(&shared.index);
    let identities = index.read().unwrap_or_else(|poisoned| poisoned.into_inner()).identities();
    let mut memory = MemoryTier::new(identities, floor);
    let mut labelled = true;
    for file in files.within(floor, i64::MAX) {
        let read = table.read(file).await;
        let Some(batches) = unless_damaged(file, read)? else { continue };
        let index = index.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut last = (0, None);
        for batch in &batches {
            for row in rows_of(batch) {
                // Files are sorted by series: most rows are of the series before.
                if last.1.is_none() || last.0 != row.series {
                    last = (row.series, index.slot(row.series).map(|slot| index.identity(slot)));
                }
                // Every series is stored before its samples; only a damaged file is without.
                match last.1 {
                    Some(identity) => memory.seen(identity, row.at),
                    None => labelled = false,
                }
            }
        }
    }
    Ok((memory, Timestamp(newest), labelled))
}
