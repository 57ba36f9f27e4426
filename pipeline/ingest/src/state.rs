//! What the ingester knows between two commits, and what one record does to it.
//!
//! Plain data and no IO, except where suspects are looked up in files (`lookup`).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use nilometer_contract::{
    Cells, Conflict, Epoch, GAPS, Gap, ResourceKind, SAMPLES, TableDef, Timestamp,
};
use nilometer_log::{LogId, Mark, Record};
use nilometer_store::Row;
use serde_json::json;
use tracing::warn;

use crate::beginning::Beginning;
use crate::bounds::{Bounds, Days};
use crate::cut::{Cut, Spans};
use crate::index::SeriesIndex;
use crate::lag::Lag;
use crate::memory::{MemoryTier, Suspect};
use crate::metrics::Metrics;
use crate::plausible::Plausible;
use crate::record::{Content, Prepared, Refused};
use crate::rows::{DeadLetter, TableRow};
use crate::stream::{Origin, Stream};
use crate::turns::{Turn, Turns};
use crate::view::Shared;

/// State of the ingester.
pub(crate) struct State {
    pub(crate) shared: Shared,
    pub(crate) memory: MemoryTier,
    pub(crate) turns: Turns,
    pub(crate) suspects: Vec<Suspect>,
    /// Which log each partition is now; of others nothing comes any more.
    pub(crate) reading: BTreeMap<(&'static str, u32), LogId>,
    pub(crate) committed: BTreeMap<Stream, Option<i64>>,
    pub(crate) next: BTreeMap<Stream, u64>,
    /// Of the record before `next`, or the last one that is known.
    pub(crate) marks: BTreeMap<Stream, Mark>,
    pub(crate) lags: BTreeMap<Stream, Lag>,
    /// Where logs ended when they were seen to go on beyond `next`.
    pub(crate) ends: BTreeMap<Stream, u64>,
    /// Gaps that end with the first record after them, which is to come, and when the last one
    /// before was appended.
    pub(crate) open: BTreeMap<Origin, Timestamp>,
    pub(crate) pending: Cut,
    pub(crate) flushing: Option<Arc<Cut>>,
    pub(crate) new_series: Vec<u32>,
    pub(crate) new_epochs: Vec<Epoch>,
    pub(crate) newest: Timestamp,
    pub(crate) beginning: Beginning,
    /// The ingester's own clock, as it was last looked at; the largest instant before.
    pub(crate) now: Timestamp,
    pub(crate) touched: BTreeMap<i64, i64>,
    pub(crate) arrivals: Vec<i64>,
    pub(crate) plausible: Plausible,
    /// Something was applied that no view has.
    pub(crate) dirty: bool,
    /// How often the rows of the small tables in memory changed.
    pub(crate) changes: u64,
    pub(crate) bounds: Bounds,
    pub(crate) days: Days,
    /// Tables of others, some of which have topics that feed them.
    pub(crate) others: Vec<&'static TableDef>,
    pub(crate) metrics: Metrics,
}

/// Longest reason of a dead letter, in characters.
const MOST_REASON: usize = 1_000;

impl State {
    /// Applies one record of samples.
    pub(crate) fn apply_samples(&mut self, stream: Stream, record: Prepared) {
        let origin = Origin::at(stream, record.offset);
        if !self.advance(&origin, record.appended_at_micros) {
            self.remember(&record);
            return;
        }
        let appended = record.appended_at_micros;
        self.arrivals.push(appended);
        self.days.begin_record();
        let buried = self.pending.dead_letters.len();
        let content =
            record.content.and_then(|content| match self.take_epoch(&content, appended) {
                Ok(()) => Ok(content),
                Err(reason) => Err(Refused { payload: content.payload, reason }),
            });
        let content = match content {
            Ok(content) => content,
            Err(bad) => {
                self.bury(origin, Timestamp(appended), -1, bad.reason, bad.payload);
                self.warn_of_letters(buried);
                return;
            }
        };
        let index = self.shared.index.clone();
        let mut index = index.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        let conflicts: Vec<Option<Conflict>> = content
            .meters()
            .map(|(name, stated)| index.catalogue().check(name, stated).err())
            .collect();
        let (mut taken, mut newest) = (0, i64::MIN);
        for row in 0..content.batch.len() {
            let conflict = &conflicts[usize::from(content.batch.meter[row])];
            let applied = match conflict {
                Some(conflict) => Err(conflict.to_string()),
                None => self.apply_sample(&mut index, &origin, &content, row, appended),
            };
            match applied {
                Ok(()) => {
                    taken += 1;
                    newest = newest.max(content.batch.at[row]);
                }
                Err(reason) => {
                    let payload = content.sample_json(row);
                    self.bury(origin.clone(), Timestamp(appended), row as i64, reason, payload);
                }
            }
        }
        if taken > 0 {
            self.note_lag(stream, appended, newest);
        }
        self.beginning.note_record(appended, taken);
        self.metrics.series.set(index.len() as i64);
        self.warn_of_letters(buried);
    }

    /// Learns the identities of a record that is stored already.
    fn remember(&mut self, record: &Prepared) {
        let Ok(content) = &record.content else { return };
        let index = self.shared.index.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        for row in 0..content.batch.len() {
            if let Some(slot) = index.slot(content.series(row)) {
                self.memory.seen(index.identity(slot), content.batch.at[row]);
            }
        }
    }

    fn apply_sample(
        &mut self,
        index: &mut SeriesIndex,
        origin: &Origin,
        content: &Content,
        row_in_record: usize,
        appended_at_micros: i64,
    ) -> Result<(), String> {
        let batch = &content.batch;
        let (at, value) = (batch.at[row_in_record], batch.value[row_in_record]);
        if !value.is_finite() {
            return Err("the value is not finite".to_owned());
        }
        self.plausible.check(at, appended_at_micros, self.now.0)?;
        self.days.admit(at).map_err(|beyond| beyond.refused(&self.metrics))?;
        let series = content.series(row_in_record);
        let slot = match index.slot(series) {
            Some(slot) => slot,
            None => self.meet(index, content, row_in_record)?,
        };
        let identity = index.identity(slot);
        let row = Row { series, at, value, epoch: content.epoch };
        if self.memory.push_newer(identity, row, origin) {
            self.newest = self.newest.max(Timestamp(at));
            self.count_taken(at);
        } else {
            let origin = origin.clone();
            let suspect = Suspect { origin, row_in_record, appended_at_micros, identity, row };
            self.suspects.push(suspect);
        }
        Ok(())
    }

    /// A series seen for the first time.
    fn meet(
        &mut self,
        index: &mut SeriesIndex,
        content: &Content,
        row: usize,
    ) -> Result<u32, String> {
        let series = content.description(row);
        series.kind.parse::<ResourceKind>().map_err(|error| error.to_string())?;
        let room = self.bounds.series(index, &series);
        room.map_err(|beyond| beyond.refused(&self.metrics))?;
        let learnt = index.learn(series.meter, || content.stated(row).clone(), series.source);
        learnt.map_err(|error| error.to_string())?;
        let met = index.insert(content.series(row), &series);
        let (slot, _) = met.map_err(|error| error.to_string())?;
        self.new_series.push(slot);
        Ok(slot)
    }

    /// A suspect turned out to be new.
    pub(crate) fn admit(&mut self, suspect: &Suspect) {
        self.memory.push(suspect.identity, suspect.row, &suspect.origin);
        self.dirty = true;
        self.count_taken(suspect.row.at);
    }

    /// A suspect's identity is stored with a value: a repeat if it is the same.
    pub(crate) fn settle(&mut self, index: &SeriesIndex, suspect: &Suspect, stored: f64) {
        if stored == suspect.row.value {
            self.metrics.repeats.inc();
            return;
        }
        let slot = index.slot(suspect.row.series).unwrap_or_default();
        let series = index.description(slot);
        let payload = json!({
            "meter": series.meter, "resource": series.resource, "project": series.project,
            "node": series.node, "source": series.source, "labels": series.labels, "at": Timestamp(suspect.row.at),
            "value": suspect.row.value, "stored": stored,
        });
        let reason =
            "another value is stored under the same meter, resource, labels, source and instant";
        let at = Timestamp(suspect.appended_at_micros);
        let payload = Bytes::from(payload.to_string());
        self.bury(suspect.origin.clone(), at, suspect.row_in_record as i64, reason.into(), payload);
        self.dirty = true;
    }

    /// Applies one record of a topic that is neither samples nor events.
    pub(crate) fn apply_record(&mut self, stream: Stream, record: &Record) {
        let origin = Origin::at(stream, record.offset);
        let at = Timestamp(record.appended_at_micros);
        if !self.advance(&origin, record.appended_at_micros) {
            return;
        }
        let applied = match stream.topic {
            GAPS => Gap::decode(&record.payload)
                .map(|gap| {
                    self.note_lag(stream, at.0, gap.end.0);
                    self.note_gap(origin.clone(), gap);
                })
                .map_err(|error| error.to_string()),
            topic => {
                let mut fed =
                    self.others.iter().filter_map(|table| Some((table.name, table.feed()?)));
                let (table, feed) = fed
                    .find(|(_, feed)| feed.topic == topic)
                    .unwrap_or_else(|| panic!("topic {topic} is one that the ingester reads"));
                (feed.decode)(&record.payload)
                    .map(|cells| self.note_fed(origin.clone(), table, cells))
            }
        };
        if let Err(reason) = applied {
            let buried = self.pending.dead_letters.len();
            self.bury(origin, at, -1, reason, record.payload.clone());
            self.warn_of_letters(buried);
        }
    }

    pub(crate) fn note_gap(&mut self, origin: Origin, gap: Gap) {
        self.metrics.gaps.inc();
        self.changes += 1;
        self.pending.bytes += gap.weight();
        self.pending.gaps.push((origin, gap));
    }

    fn note_fed(&mut self, origin: Origin, table: &'static str, cells: Cells) {
        self.changes += 1;
        self.pending.bytes += cells.weight();
        self.pending.fed.entry(table).or_default().push((origin, cells));
    }

    /// The log that a partition is read as.
    pub(crate) fn reads(&self, topic: &'static str, partition: u32) -> Stream {
        let log = self.reading.get(&(topic, partition)).copied();
        let log = log.unwrap_or_else(|| panic!("invariant 8b: {topic}/{partition} has a log"));
        Stream { topic, partition, log }
    }

    /// Moves the position over a record; a record from before it is a repeat and is left out.
    pub(crate) fn advance(&mut self, origin: &Origin, appended_at_micros: i64) -> bool {
        let stream = origin.stream();
        let expected = self.next.get(&stream).copied().unwrap_or(0);
        if origin.offset < expected {
            return false;
        }
        assert!(
            origin.offset == expected,
            "invariant 2: what is missing is noted before what follows"
        );
        self.end_gaps(stream, Timestamp(appended_at_micros));
        self.dirty = true;
        self.next.insert(stream, origin.offset + 1);
        true
    }

    /// Whether records of a log were read that no cut has.
    pub(crate) fn has_uncut(&self, stream: Stream) -> bool {
        let cut = self.flushing.as_ref().and_then(|cut| cut.spans.get(&stream));
        let committed = self.committed.get(&stream).copied().flatten();
        let cut = cut.map(|(_, next)| *next).or(committed).unwrap_or(0);
        self.next.get(&stream).is_some_and(|&next| next as i64 > cut)
    }

    pub(crate) fn bury(
        &mut self,
        origin: Origin,
        at: Timestamp,
        row: i64,
        reason: String,
        payload: Bytes,
    ) {
        self.metrics.dead_letters.inc();
        self.changes += 1;
        let reason: String = reason.chars().take(MOST_REASON).collect();
        let letter = DeadLetter { at, row, reason, payload };
        self.pending.bytes += letter.weight();
        self.pending.dead_letters.push((origin, letter));
    }

    /// Warns once of all letters since there were `before`.
    pub(crate) fn warn_of_letters(&self, before: usize) {
        let letters = &self.pending.dead_letters[before..];
        if let Some((Origin { topic, partition, offset, .. }, first)) = letters.first() {
            let reason = first.reason.as_str();
            warn!(topic, partition, offset, reason, letters = letters.len(), "dead letters");
        }
    }

    /// Drops samples that the table has, by the committed positions.
    pub(crate) fn forget_stored_samples(&mut self) {
        let committed = &self.committed;
        let is_stored = |partition, log, offset| {
            let stream = Stream { topic: SAMPLES, partition, log };
            let next = committed.get(&stream).copied().flatten();
            next.is_some_and(|next| offset < next as u64)
        };
        self.memory.stored(is_stored);
        self.suspects.retain(|suspect| {
            let Origin { partition, log, offset, .. } = suspect.origin;
            !is_stored(partition, log, offset)
        });
    }

    /// Takes note of rows that were put back into the table: what comes up to its newest instant
    /// is looked up there, and what is in memory is compared with it before it is stored.
    pub(crate) fn note_restored(&mut self, turn: Turn, newest: i64) {
        if turn.number() != self.turns.known {
            self.turns.known = turn.number();
            self.memory.doubt(newest);
        }
        if self.rows() == 0 {
            self.turns.compared = self.turns.known;
        }
    }

    /// Forgets logs that were replaced and are stored as far as they were read.
    pub(crate) fn forget_finished_logs(&mut self) {
        let State { reading, committed, next, marks, lags, ends, .. } = self;
        next.retain(|stream, next| {
            let is_read = reading.get(&(stream.topic, stream.partition)) == Some(&stream.log);
            let stored = committed.get(stream).copied().flatten().unwrap_or(0) as u64;
            is_read || stored < *next
        });
        committed.retain(|stream, _| next.contains_key(stream));
        marks.retain(|stream, _| next.contains_key(stream));
        lags.retain(|stream, _| next.contains_key(stream));
        ends.retain(|stream, end| next.get(stream).is_some_and(|next| next < end));
    }

    /// Where each partition's next cut starts and ends.
    pub(crate) fn spans(&self) -> Spans {
        let span = |(&stream, &next): (&Stream, &u64)| {
            (stream, (self.committed.get(&stream).copied().flatten(), next as i64))
        };
        self.next.iter().map(span).collect()
    }

    /// Rows held that no file has, settled or not.
    pub(crate) fn rows(&self) -> usize {
        self.memory.rows() + self.suspects.len()
    }

    /// Bytes of the small tables held that no file has.
    pub(crate) fn bytes(&self) -> usize {
        self.pending.bytes + self.flushing.as_ref().map_or(0, |cut| cut.bytes)
    }
}
