//! What a log lost: from the last record that was read to the first one since.
//!
//! Both ends are by the log's clock. A gap begins when the last record that is known was appended,
//! and earlier by as much as records of late were older than that ([`Lag`](crate::lag::Lag)). Where
//! no record is known, it begins with the start of metering, before which nothing is billed; while
//! that is not stored, with the oldest instant that is taken.
//!
//! A log that has no record since has no time to tell either, so until there is one the gap ends by
//! the ingester's clock, and not before it starts; if it is committed so, it stays so, and is short
//! by as much as that clock is behind the log's.

use nilometer_contract::{Gap, GapKind, Timestamp};
use tracing::warn;

use crate::state::State;
use crate::stream::{Origin, Stream};

impl State {
    /// Records up to `low` are gone from the log (invariant 2).
    pub(crate) fn note_truncated(&mut self, stream: Stream, low: u64, now: Timestamp) {
        let expected = self.next.get(&stream).copied().unwrap_or(0);
        if low > expected {
            self.note_missing(stream, expected, low, now);
            self.open(Origin::at(stream, low - 1), &stream);
            self.next.insert(stream, low);
            self.marks.entry(stream).and_modify(|mark| *mark = mark.passed());
            self.dirty = true;
        }
    }

    /// The partition is another log than the one that was read (invariant 8b).
    pub(crate) fn note_begun(&mut self, stream: Stream, next: u64, now: Timestamp) {
        let before = self.reading.insert((stream.topic, stream.partition), stream.log);
        self.next.insert(stream, next);
        let Some(log) = before.filter(|before| *before != stream.log) else { return };
        let before = Stream { log, ..stream };
        self.follows(before, stream);
        self.note_beginning(before, stream, now);
    }

    /// Of a log of which nothing was read the last that is known is of the one before.
    pub(crate) fn follows(&mut self, before: Stream, stream: Stream) {
        if let Some(mark) = self.marks.get(&before).map(|mark| mark.passed()) {
            self.marks.entry(stream).or_insert(mark);
        }
        if let Some(&lag) = self.lags.get(&before) {
            self.lags.entry(stream).or_insert(lag);
        }
    }

    /// What the log that is gone had beyond what was read of it, as far as it was seen.
    pub(crate) fn note_beginning(&mut self, before: Stream, stream: Stream, now: Timestamp) {
        let read = self.next.get(&before).copied().unwrap_or(0);
        let end = self.ends.get(&before).copied().unwrap_or(0);
        let records = end.saturating_sub(read);
        let more = match records {
            0 => "how many more it had is not known".to_owned(),
            _ => format!("at least {records} more are lost"),
        };
        let Stream { log, .. } = stream;
        let reason = match log.is_later_round_of(before.log) {
            true => format!(
                "log {log} lost records from its end, {read} were read, {more}; it is read again"
            ),
            false => format!(
                "the log was replaced: {read} records were read of {}, {more}; now it is {log}",
                before.log
            ),
        };
        self.note_lost(Origin::beginning(stream), records, reason, (before, now));
        self.open(Origin::beginning(stream), &before);
    }

    /// A gap after the last record of a log is to end.
    fn open(&mut self, origin: Origin, after: &Stream) {
        let last = self.last_append(after).unwrap_or(Timestamp::MIN);
        self.open.insert(origin, last);
    }

    /// The first record that was appended since gaps says where they end. A log that is read again
    /// has older ones before.
    pub(crate) fn end_gaps(&mut self, stream: Stream, end: Timestamp) {
        let all = Origin::at(stream, 0)..=Origin::beginning(stream);
        let open = self.open.range(all).filter(|(_, last)| **last <= end);
        let open: Vec<Origin> = open.map(|(origin, _)| origin.clone()).collect();
        for origin in open {
            if let Some((_, gap)) = self.pending.gaps.iter_mut().rfind(|(of, _)| *of == origin) {
                (gap.start, gap.end) = (gap.start.min(end), end);
                self.changes += 1;
            }
            self.open.remove(&origin);
        }
    }

    pub(crate) fn note_missing(&mut self, stream: Stream, from: u64, upto: u64, end: Timestamp) {
        let reason = format!("records {from} to {} are gone from the log", upto - 1);
        self.note_lost(Origin::at(stream, upto - 1), upto - from, reason, (stream, end));
    }

    /// What is in a record is as old as this, compared with when it was appended.
    pub(crate) fn note_lag(&mut self, stream: Stream, appended_at: i64, newest: i64) {
        self.lags.entry(stream).or_default().note(appended_at, newest);
    }

    /// When the last record known of a log, or of the one before it, was appended.
    fn last_append(&self, stream: &Stream) -> Option<Timestamp> {
        self.marks.get(stream).map(|mark| mark.appended_at())
    }

    /// The first instant of which something may have been in what a log lost after the last record
    /// that is known.
    fn first_lost(&self, after: &Stream, now: Timestamp) -> Timestamp {
        let lag = self.lags.get(after).map_or(0, |lag| lag.micros());
        let last = self.last_append(after);
        let last = last.map(|last| Timestamp(last.0.saturating_sub(lag)).max(Timestamp::MIN));
        last.or(self.beginning.settled()).unwrap_or_else(|| self.plausible.oldest(now))
    }

    /// `end` is when something was known to be there again; the ingester's present if nothing is.
    fn note_lost(
        &mut self,
        origin: Origin,
        records: u64,
        reason: String,
        (after, end): (Stream, Timestamp),
    ) {
        let start = self.first_lost(&after, end);
        let end = self.last_append(&after).map_or(end, |last| end.max(last));
        let (topic, partition) = (origin.topic, origin.partition);
        let gap = Gap {
            kind: GapKind::Lost,
            agent: String::new(),
            node: String::new(),
            sources: Vec::new(),
            topic: topic.to_owned(),
            partition: Some(partition),
            start: start.min(end),
            end,
            records,
            samples: 0,
            reason,
        };
        warn!(topic, partition, records, reason = gap.reason, "gap in the log");
        self.note_gap(origin, gap);
        self.dirty = true;
    }
}
