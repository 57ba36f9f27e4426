//! What a log lost: from the last record that was read to the first one since.
//!
//! Both ends are by the log's clock. A log that has no record since has no time to tell either, so
//! until there is one the gap ends by the ingester's clock, and not before it starts; if it is
//! committed so, it stays so, and is short by as much as that clock is behind the log's. Where
//! nothing is known of the last record, the gap starts at the newest sample's instant.

use nilometer_contract::{Gap, GapKind, Timestamp};
use tracing::warn;

use crate::state::State;
use crate::stream::{Origin, Stream};

impl State {
    /// Records up to `low` are gone from the log (invariant 2).
    pub(crate) fn note_truncated(&mut self, stream: Stream, low: u64, now: Timestamp) {
        let expected = self.next.get(&stream).copied().unwrap_or(0);
        if low > expected {
            let end = now.max(self.last_append(&stream));
            self.note_missing(stream, expected, low, end);
            self.open.insert(stream, Origin::at(stream, low - 1));
            self.next.insert(stream, low);
            self.marks.remove(&stream);
            self.dirty = true;
        }
    }

    /// The partition is another log than the one that was read (invariant 8b).
    pub(crate) fn note_begun(&mut self, stream: Stream, next: u64, now: Timestamp) {
        let before = self.reading.insert((stream.topic, stream.partition), stream.log);
        self.next.insert(stream, next);
        let Some(log) = before.filter(|before| *before != stream.log) else { return };
        let before = Stream { log, ..stream };
        self.note_beginning(before, stream, now);
    }

    /// What the log that is gone had beyond what was read of it nobody knows.
    pub(crate) fn note_beginning(&mut self, before: Stream, stream: Stream, now: Timestamp) {
        let read = self.next.get(&before).copied().unwrap_or(0);
        let Stream { log, .. } = stream;
        let reason = match log.is_later_round_of(before.log) {
            true => {
                format!("log {log} lost records from its end, {read} were read; it is read again")
            }
            false => format!(
                "the log was replaced: {read} records were read of {}, now it is {log}",
                before.log
            ),
        };
        let end = now.max(self.last_append(&before));
        self.note_lost(Origin::beginning(stream), 0, reason, (before, end));
        self.open.insert(stream, Origin::beginning(stream));
    }

    /// The first record that was appended since a gap says where it ends. A log that is read again
    /// has older ones before.
    pub(crate) fn end_gap(&mut self, stream: Stream, end: Timestamp) {
        let Some(origin) = self.open.get(&stream) else { return };
        let found = self.pending.gaps.iter_mut().rfind(|(of, _)| of == origin);
        if let Some((_, gap)) = found {
            if end < gap.start {
                return;
            }
            gap.end = end;
            self.changes += 1;
        }
        self.open.remove(&stream);
    }

    pub(crate) fn note_missing(&mut self, stream: Stream, from: u64, upto: u64, end: Timestamp) {
        let reason = format!("records {from} to {} are gone from the log", upto - 1);
        self.note_lost(Origin::at(stream, upto - 1), upto - from, reason, (stream, end));
    }

    /// When the last record known of a log was appended; else the newest sample's instant.
    fn last_append(&self, stream: &Stream) -> Timestamp {
        self.marks.get(stream).map_or(self.newest, |mark| mark.appended_at())
    }

    fn note_lost(
        &mut self,
        origin: Origin,
        records: u64,
        reason: String,
        (after, end): (Stream, Timestamp),
    ) {
        let start = self.last_append(&after);
        let (topic, partition) = (origin.topic, origin.partition);
        let gap = Gap {
            kind: GapKind::Lost,
            agent: String::new(),
            node: String::new(),
            sources: Vec::new(),
            topic: topic.to_owned(),
            partition: Some(partition),
            start: start.min(end),
            end: end.max(start),
            records,
            samples: 0,
            reason,
        };
        warn!(topic, partition, records, reason = gap.reason, "gap in the log");
        self.note_gap(origin, gap);
        self.dirty = true;
    }
}
