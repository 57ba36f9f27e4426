//! Events past their retention: what ended is forgotten, what lives keeps its facts.
//!
//! An event is needed for as long as it says something of the time since the horizon: which state
//! a resource has, and when the life that it has began. So a machine that was created years ago
//! and still runs keeps its creation and its last state; one that ended before the horizon is
//! forgotten, in memory at once and in the table a little at a time.
//!
//! The horizon is that of the samples (never past what billing holds), and never later than
//! theirs: usage of an hour that can still be computed anew has its events.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use nilometer_contract::{
    History, HistoryBounds, LifecycleEvent, MICROS_PER_DAY, Precedence, Timestamp, micros,
};
use nilometer_store::{Add, DataFile, Expired, Files, SAMPLES, StoreError, Table, horizon};
use tokio::time::Instant;
use tracing::info;

use crate::config::IngestConfig;
use crate::load::event_of;
use crate::tables::EVENTS;
use crate::tail::Tail;
use crate::view::Shared;

/// Rows that may expire at once however few there are: a file is written anew for them.
const LEAST_ROWS: u64 = 1_000;
/// Files that are looked at together for rows that may go.
const FILES_AT_ONCE: usize = 16;
/// A file that had nothing to let go is looked at again once the horizon has moved on by this.
const LOOK_AGAIN_MICROS: i64 = MICROS_PER_DAY;

/// How long events are kept: at least as long as samples; none is for ever.
pub(crate) fn events_kept(config: &IngestConfig) -> Option<Duration> {
    let kept = |table: &str| config.retention.get(table).copied();
    Some(kept(EVENTS.name)?.max(kept(SAMPLES.name)?))
}

impl Tail {
    /// Forgets what is past retention, now and then.
    pub(crate) fn forget(&mut self, samples: &Table) {
        let interval = self.config.expiry_interval;
        if self.forgot_at.is_some_and(|last| last.elapsed() < interval) {
            return;
        }
        self.forgot_at = Some(Instant::now());
        let Some(kept) = events_kept(&self.config) else { return };
        let Some(horizon) = horizon(samples, self.clock.now(), micros(kept)) else { return };
        let history = &self.state.shared.history;
        let mut history = history.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        let before = history.len();
        history.forget_before(horizon);
        let forgotten = before - history.len();
        if forgotten > 0 {
            info!(resources = forgotten, %horizon, "forgot resources that ended long ago");
        }
    }
}

/// Applies the events of a file that was not seen before. It may be one that replaced others, with
/// events of a resource that ended and was forgotten: then all that is known of it counts, since
/// its end may be in another file.
pub(crate) async fn learn_events(
    table: &Table,
    file: &DataFile,
    shared: &Shared,
) -> Result<(), StoreError> {
    let mut events = events_in(table, file).await?;
    let unknown: HashSet<String> = {
        let history = shared.history.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let horizon = history.forgotten_before();
        let old = events.iter().filter(|event| event.at < horizon);
        let old = old.map(|event| event.resource.id.as_str());
        old.filter(|id| history.get(id).is_none()).map(str::to_owned).collect()
    };
    if !unknown.is_empty() {
        events.retain(|event| !unknown.contains(&event.resource.id));
        let all = Facts::of(table, &unknown).await?;
        events.extend(all.events.into_iter().map(|(event, _)| event));
    }
    let mut history = shared.history.write().unwrap_or_else(|poisoned| poisoned.into_inner());
    history.apply_all(events);
    Ok(())
}

async fn events_in(table: &Table, file: &DataFile) -> Result<Vec<LifecycleEvent>, StoreError> {
    let batches = table.read(file).await?;
    let rows = batches.iter().flat_map(|batch| (0..batch.num_rows()).map(move |row| (batch, row)));
    Ok(rows.filter_map(|(batch, row)| event_of(batch, row)).collect())
}

/// All events of some resources, with the place of each among the files of the table.
struct Facts {
    events: Vec<(LifecycleEvent, usize)>,
}

impl Facts {
    /// Reads the whole table, a file at a time.
    async fn of(table: &Table, resources: &HashSet<String>) -> Result<Self, StoreError> {
        let mut events = Vec::new();
        for (place, file) in table.files().iter().enumerate() {
            let found = events_in(table, file).await?.into_iter();
            let found = found.filter(|event| resources.contains(&event.resource.id));
            events.extend(found.map(|event| (event, place)));
        }
        Ok(Facts { events })
    }

    /// Digests of the events that nothing since `horizon` needs, whose rows all lie in `files`;
    /// the oldest `most` of them.
    fn forgettable(
        self,
        horizon: Timestamp,
        files: &HashSet<usize>,
        most: usize,
        precedence: &Arc<Precedence>,
    ) -> HashSet<u128> {
        let digests = self.events.iter().map(|(event, place)| (event.digest(), *place));
        let elsewhere: HashSet<u128> =
            digests.filter(|(_, place)| !files.contains(place)).map(|(digest, _)| digest).collect();
        let mut history = History::new(HistoryBounds::default(), precedence.clone());
        history.apply_all(self.events.into_iter().map(|(event, _)| event).collect());
        let resources = history.iter().filter_map(|(id, lifetime)| {
            let first = lifetime.begin()?;
            let may = |digest| !elsewhere.contains(&digest);
            let gone = lifetime.forgettable(horizon, precedence, may);
            (!gone.is_empty()).then_some((first, id, gone))
        });
        let mut resources: Vec<_> = resources.collect();
        resources.sort_by_key(|&(first, id, _)| (first, id));
        let mut chosen = HashSet::new();
        for (_, _, gone) in resources {
            // A resource's events go together, so that what is left of it stays true.
            if !chosen.is_empty() && chosen.len() + gone.len() > most {
                break;
            }
            chosen.extend(gone);
        }
        chosen
    }
}

/// Which files had nothing to let go, as of which horizon.
pub(crate) struct Forgetting {
    precedence: Arc<Precedence>,
    looked_at: HashMap<String, Timestamp>,
}

impl Forgetting {
    /// No file was looked at yet; of several sources the order decides what is needed.
    pub(crate) fn new(precedence: Arc<Precedence>) -> Self {
        Forgetting { precedence, looked_at: HashMap::new() }
    }

    /// Rows of `events` that may expire, and what is left of the files that they are in, written
    /// and not committed.
    pub(crate) async fn pick(
        &mut self,
        table: &Table,
        horizon: Timestamp,
        parts: u64,
    ) -> Result<Option<(Expired, Vec<Add>)>, StoreError> {
        let files = table.files();
        self.looked_at.retain(|path, _| files.iter().any(|file| file.path == *path));
        let most = (files.rows() / parts.max(1)).max(LEAST_ROWS);
        loop {
            let due = |file: &DataFile| {
                let last = self.looked_at.get(&file.path);
                file.span().is_some_and(|(first, _)| first < horizon.0)
                    && last.is_none_or(|last| horizon.0 - last.0 >= LOOK_AGAIN_MICROS)
            };
            let places = files.iter().enumerate().filter(|(_, file)| due(file));
            let places: HashSet<usize> =
                places.take(FILES_AT_ONCE).map(|(place, _)| place).collect();
            if places.is_empty() {
                return Ok(None);
            }
            let mut old = HashSet::new();
            for &place in &places {
                let events = events_in(table, &files[place]).await?.into_iter();
                let events = events.filter(|event| event.at < horizon);
                old.extend(events.map(|event| event.resource.id));
            }
            let facts = Facts::of(table, &old).await?;
            let gone = facts.forgettable(horizon, &places, most as usize, &self.precedence);
            let picked = split(table, &files, &places, &gone).await?;
            if picked.is_some() {
                return Ok(picked);
            }
            let looked_at = places.iter().map(|&place| (files[place].path.clone(), horizon));
            self.looked_at.extend(looked_at);
        }
    }
}

/// Writes what is left of files without some events.
async fn split(
    table: &Table,
    files: &Files,
    places: &HashSet<usize>,
    gone: &HashSet<u128>,
) -> Result<Option<(Expired, Vec<Add>)>, StoreError> {
    let (mut from, mut left, mut dropped) = (Vec::new(), Vec::new(), Vec::new());
    for &place in places {
        let (mut kept, before) = (Vec::new(), dropped.len());
        for batch in table.read(&files[place]).await? {
            let stays = stays(&batch, gone, &mut dropped);
            let rows = filter_record_batch(&batch, &stays);
            kept.push(
                rows.unwrap_or_else(|error| panic!("a mask is as long as its rows: {error}")),
            );
        }
        if dropped.len() > before {
            from.push(files[place].clone());
            left.extend(kept.into_iter().filter(|rows| rows.num_rows() > 0));
        }
    }
    let (Some(first), Some(last)) = (dropped.iter().min(), dropped.iter().max()) else {
        return Ok(None);
    };
    let expired = Expired::of(from, dropped.len() as u64, (*first, *last));
    let adds = match left.is_empty() {
        true => Vec::new(),
        false => vec![table.write(&left, None).await?],
    };
    Ok(Some((expired, adds)))
}

fn stays(batch: &RecordBatch, gone: &HashSet<u128>, dropped: &mut Vec<Timestamp>) -> BooleanArray {
    let stays = (0..batch.num_rows()).map(|row| {
        let event = event_of(batch, row);
        let goes = event.filter(|event| gone.contains(&event.digest()));
        dropped.extend(goes.as_ref().map(|event| event.at));
        Some(goes.is_none())
    });
    stays.collect()
}
