//! A cut: what one flush commits, and the positions that it covers.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::RecordBatch;
use nilometer_contract::{Cells, Gap, LifecycleEvent, TableDef, Timestamp};
use nilometer_log::{LogId, Mark};
use nilometer_store::Position;

use crate::lag::Lag;
use crate::rows::{DeadLetter, TableRow, batch_of};
use crate::stream::{Origin, Stream};
use crate::tables::{DEAD_LETTERS, EVENTS, GAPS};

/// Position of each partition's log: where the cut starts in the topic's own table, and its end.
pub(crate) type Spans = BTreeMap<Stream, (Option<i64>, i64)>;

/// Everything that one flush commits.
#[derive(Default)]
pub(crate) struct Cut {
    pub(crate) samples: Vec<RecordBatch>,
    pub(crate) series: Option<RecordBatch>,
    pub(crate) epochs: Option<RecordBatch>,
    pub(crate) events: Vec<(Origin, LifecycleEvent)>,
    pub(crate) gaps: Vec<(Origin, Gap)>,
    pub(crate) dead_letters: Vec<(Origin, DeadLetter)>,
    /// Rows of the tables that topics of others feed, by table.
    pub(crate) fed: BTreeMap<&'static str, Vec<(Origin, Cells)>>,
    /// Bytes of the small tables' rows, about.
    pub(crate) bytes: usize,
    pub(crate) spans: Spans,
    /// The record before each end, or the last one that is known.
    pub(crate) marks: BTreeMap<Stream, Mark>,
    pub(crate) lags: BTreeMap<Stream, Lag>,
    /// Where logs ended, as far as it was seen.
    pub(crate) ends: BTreeMap<Stream, u64>,
    /// The log that each partition is at the end of the cut.
    pub(crate) logs: BTreeMap<(&'static str, u32), LogId>,
    pub(crate) hours: BTreeSet<i64>,
    /// The start of metering, and how many records agree with it.
    pub(crate) start: Option<(Timestamp, i64)>,
    /// How often rows of `samples` had been put back when these were compared with the table.
    pub(crate) turn: i64,
    /// When the cut was made.
    pub(crate) at: Timestamp,
    /// Whether to look for what others committed first.
    pub(crate) refresh: bool,
}

impl Cut {
    /// Rows of one of the small tables as a batch, if there are any.
    pub(crate) fn batch_of(&self, table: &TableDef) -> Option<RecordBatch> {
        fn batch<R: TableRow>(table: &TableDef, rows: &[(Origin, R)]) -> Option<RecordBatch> {
            (!rows.is_empty()).then(|| batch_of(table, rows))
        }
        match table.name {
            name if name == EVENTS.name => batch(table, &self.events),
            name if name == GAPS.name => batch(table, &self.gaps),
            name if name == DEAD_LETTERS.name => batch(table, &self.dead_letters),
            name => self.fed.get(name).and_then(|rows| batch(table, rows)),
        }
    }

    /// Keeps rows of the small tables by where they came from.
    pub(crate) fn retain(&mut self, is_kept: impl Fn(&Origin) -> bool) {
        self.events.retain(|(origin, _)| is_kept(origin));
        self.gaps.retain(|(origin, _)| is_kept(origin));
        self.dead_letters.retain(|(origin, _)| is_kept(origin));
        self.fed.values_mut().for_each(|rows| rows.retain(|(origin, _)| is_kept(origin)));
    }

    /// Weighs the small tables' rows anew.
    pub(crate) fn weigh(&mut self) {
        fn all<R: TableRow>(rows: &[(Origin, R)]) -> usize {
            rows.iter().map(|(_, row)| row.weight()).sum()
        }
        self.bytes = all(&self.events)
            + all(&self.gaps)
            + all(&self.dead_letters)
            + self.fed.values().map(|rows| all(rows)).sum::<usize>();
    }

    /// Whether there is nothing to commit.
    pub(crate) fn is_empty(&self) -> bool {
        let moved = |(from, next): &(Option<i64>, i64)| from.unwrap_or(0) != *next;
        self.gaps.is_empty() && !self.spans.values().any(moved)
    }

    /// Positions of one topic that the cut moves.
    pub(crate) fn positions(&self, topic: &str) -> Vec<(Stream, Position)> {
        let of_topic = self.spans.iter().filter(|(stream, _)| stream.topic == topic);
        let moved = of_topic.filter(|(_, (from, next))| from.unwrap_or(0) != *next);
        let position = |(&stream, &(from, next)): (&Stream, &(_, _))| {
            (stream, Position { app: stream.app(), from, next })
        };
        moved.map(position).collect()
    }

    /// What is noted beside a position that moves: application ids and versions.
    pub(crate) fn notes(&self, stream: &Stream) -> Vec<(String, i64)> {
        let mark = self.marks.get(stream).copied().unwrap_or_default();
        let log = self.logs.get(&(stream.topic, stream.partition));
        let log = log.map(|log| (stream.log_app(), log.number()));
        let next = self.spans.get(stream).map_or(0, |(_, next)| *next);
        let end = self.ends.get(stream).map(|&end| end as i64).filter(|end| *end > next);
        let end = end.map(|end| (stream.end_app(), end));
        std::iter::once((stream.mark_app(), mark.number())).chain(log).chain(end).collect()
    }

    /// The greatest lag of a topic, in microseconds.
    pub(crate) fn lag(&self, topic: &str) -> i64 {
        let lags = self.lags.iter().filter(|(stream, _)| stream.topic == topic);
        lags.map(|(_, lag)| lag.micros()).max().unwrap_or_default()
    }
}
