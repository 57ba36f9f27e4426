//! A reader against a model of a log that is trimmed, replaced, loses its end and goes away.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard},
};

use async_trait::async_trait;
use bytes::Bytes;
use nilometer_contract::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::{Incarnation, TopicConfig, Watermarks};

/// One partition, whose records are all different.
#[derive(Default)]
struct Held {
    replaced: u64,
    low: u64,
    /// None where a record is damaged.
    records: Vec<Option<Record>>,
    appended: u64,
    /// The next fetch fails.
    away: bool,
}

#[derive(Default)]
struct Model(Mutex<Held>);

impl Model {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap()
    }
}

impl Held {
    fn incarnation(&self) -> Incarnation {
        Incarnation::new(self.replaced + 1)
    }

    fn high(&self) -> u64 {
        self.low + self.records.len() as u64
    }

    fn append(&mut self, count: u64) {
        for _ in 0..count {
            self.appended += 1;
            let (offset, appended_at_micros) = (self.high(), self.appended as i64 * 1_000);
            let payload = Bytes::from(format!("record {}", self.appended));
            self.records.push(Some(Record { offset, appended_at_micros, payload }));
        }
    }

    fn trim(&mut self, count: u64) {
        let gone = count.min(self.records.len() as u64);
        self.records.drain(..gone as usize);
        self.low += gone;
    }

    fn lose_end(&mut self, count: u64) {
        let left = self.records.len().saturating_sub(count as usize);
        self.records.truncate(left);
    }

    fn replace(&mut self) {
        let (replaced, appended) = (self.replaced + 1, self.appended);
        *self = Held { replaced, appended, ..Held::default() };
    }
}

#[async_trait]
impl Log for Model {
    async fn ensure_topic(&self, topic: &TopicConfig) -> Result<u32, LogError> {
        Ok(topic.partitions)
    }

    async fn incarnation(&self, _: &TopicPartition) -> Result<Incarnation, LogError> {
        Ok(self.held().incarnation())
    }

    async fn append(&self, _: &TopicPartition, payloads: Vec<Bytes>) -> Result<u64, LogError> {
        let mut held = self.held();
        held.append(payloads.len() as u64);
        Ok(held.high() - payloads.len() as u64)
    }

    async fn fetch(
        &self,
        from: &TopicPartition,
        of: Incarnation,
        offset: u64,
        max_bytes: usize,
        _: Duration,
    ) -> Result<Vec<Record>, LogError> {
        let mut held = self.held();
        let (at, low, high, found) = (from.clone(), held.low, held.high(), held.incarnation());
        if std::mem::take(&mut held.away) {
            return Err(LogError::Unavailable { what: "away".into(), cause: None });
        }
        match offset {
            _ if of != found => Err(LogError::Replaced { at, asked: of, found }),
            _ if offset < low => Err(LogError::Truncated { at, asked: offset, low }),
            _ if offset > high => Err(LogError::BeyondEnd { at, asked: offset, high }),
            _ => {
                let rest = held.records.iter().skip((offset - low) as usize);
                // Damaged ones are left out; bytes count records here.
                Ok(rest.flatten().take(max_bytes).cloned().collect())
            }
        }
    }

    async fn watermarks(&self, _: &TopicPartition) -> Result<Watermarks, LogError> {
        let held = self.held();
        Ok(Watermarks { low: held.low, high: held.high() })
    }

    async fn truncate(&self, _: &TopicPartition, below: u64) -> Result<(), LogError> {
        let mut held = self.held();
        let count = below.saturating_sub(held.low);
        held.trim(count);
        Ok(())
    }
}

/// A reader, and what it reported of each log.
struct Bed {
    model: Arc<Model>,
    reader: Reader,
    /// What was reported of each offset of each log: its record, or that it is missing.
    reported: BTreeMap<LogId, BTreeMap<u64, Option<Record>>>,
}

fn at() -> TopicPartition {
    TopicPartition { topic: "t".into(), partition: 0 }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
}

impl Bed {
    fn new(fetched_at_once: usize) -> Bed {
        let model = Arc::new(Model::default());
        let from = ReadPosition::at(Incarnation::new(1), 0);
        let reader = Reader::new(model.clone(), at(), from, fetched_at_once);
        Bed { model, reader, reported: BTreeMap::new() }
    }

    fn next(&mut self) -> Result<ReadEvent, LogError> {
        let before = self.reader.position();
        let event = block_on(self.reader.next());
        let position = self.reader.position();
        let reported = self.reported.entry(position.log).or_default();
        match &event {
            Ok(ReadEvent::Records(records)) => {
                let offsets = records.iter().map(|record| record.offset);
                assert!(offsets.eq(before.next..position.next), "no offset is passed over");
                reported.extend(records.iter().map(|record| (record.offset, Some(record.clone()))));
                assert_eq!(position.mark, records.last().map(Mark::of));
            }
            Ok(ReadEvent::Missing(gone)) => {
                assert_eq!(*gone, before.next..position.next);
                assert_eq!(position.mark, None);
                reported.extend(gone.clone().map(|offset| (offset, None)));
            }
            Ok(ReadEvent::Begun(_)) => {
                assert_ne!(before.log, position.log);
                assert!(reported.is_empty(), "a log is begun once");
                assert_eq!(position.mark, None);
            }
            Ok(ReadEvent::End(_) | ReadEvent::Idle) | Err(_) => assert_eq!(before, position),
        }
        event
    }

    fn read_all(&mut self) {
        while !matches!(self.next(), Ok(ReadEvent::Idle)) {}
    }

    /// Whether all that the log holds was reported as it is, and all else as missing.
    fn check(&mut self) {
        self.read_all();
        let (position, held) = (self.reader.position(), self.model.0.lock().unwrap());
        assert_eq!(position.log.incarnation(), held.incarnation());
        let last = held.records.iter().rposition(Option::is_some);
        let end = held.low + last.map_or(0, |last| last as u64 + 1);
        assert!(position.next >= end, "{} of {end}", position.next);
        let reported = self.reported.get(&position.log).cloned().unwrap_or_default();
        for (offset, record) in (held.low..position.next).zip(&held.records) {
            assert_eq!(reported.get(&offset), Some(record), "{offset} of {}", position.log);
        }
    }
}

#[derive(Clone, Debug)]
enum Change {
    Append(u64),
    Trim(u64),
    /// So many are lost, and so many others come in their place.
    LoseEnd(u64, u64),
    Replace(u64),
    /// The record so far from the end that was not read cannot be read.
    Damage(u64),
    GoAway,
    Read(usize),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        4 => (1..6_u64).prop_map(Change::Append),
        1 => (1..8_u64).prop_map(Change::Trim),
        1 => (1..8_u64, 0..8_u64).prop_map(|(lost, others)| Change::LoseEnd(lost, others)),
        1 => (0..6_u64).prop_map(Change::Replace),
        1 => (1..6_u64).prop_map(Change::Damage),
        1 => Just(Change::GoAway),
        4 => (1..6_usize).prop_map(Change::Read),
    ];
    proptest::collection::vec(change, 1..40)
}

/// What a record before the position would show cannot be seen where that is not known, or gone:
/// then a log is not made to lose its end.
fn can_be_seen(bed: &Bed) -> bool {
    let ReadPosition { log, next, mark } = bed.reader.position();
    let held = bed.model.held();
    let kept = next.checked_sub(1).and_then(|before| before.checked_sub(held.low));
    let kept = kept.and_then(|at| held.records.get(at as usize)).is_some_and(Option::is_some);
    log.incarnation() == held.incarnation() && mark.is_some() && kept
}

fn change(bed: &mut Bed, change: Change) {
    match change {
        Change::Append(count) => bed.model.held().append(count),
        Change::Trim(count) => bed.model.held().trim(count),
        Change::LoseEnd(lost, others) => {
            if can_be_seen(bed) {
                let mut held = bed.model.held();
                held.lose_end(lost);
                held.append(others);
                // It does not happen without an interruption.
                held.away = true;
                drop(held);
                while bed.next().is_ok() {}
                while !bed.reader.verified {
                    drop(bed.next());
                }
            }
        }
        Change::Replace(count) => {
            let mut held = bed.model.held();
            held.replace();
            held.append(count);
        }
        Change::Damage(from_end) => {
            let next = bed.reader.position().next;
            let mut held = bed.model.held();
            let damaged = held.high().checked_sub(from_end).filter(|damaged| *damaged >= next);
            let place = damaged.and_then(|damaged| damaged.checked_sub(held.low));
            if let Some(place) = place {
                held.records[place as usize] = None;
            }
        }
        Change::GoAway => bed.model.held().away = true,
        Change::Read(times) => (0..times).for_each(|_| drop(bed.next())),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn all_that_a_log_holds_is_told_and_all_else_is_missing(
        changes in changes(), at_once in 1..5_usize,
    ) {
        let mut bed = Bed::new(at_once);
        for each in changes {
            change(&mut bed, each);
        }
        bed.check();
    }
}

fn read_to_end(bed: &mut Bed) -> Vec<String> {
    let mut lines = Vec::new();
    loop {
        let line = match bed.next() {
            Ok(ReadEvent::Idle) => return lines,
            Ok(ReadEvent::Records(records)) => format!("{} records", records.len()),
            Ok(ReadEvent::Missing(gone)) => format!("missing {gone:?}"),
            Ok(ReadEvent::Begun(LogError::Replaced { .. })) => "replaced".to_owned(),
            Ok(ReadEvent::Begun(LogError::BeyondEnd { .. })) => "lost its end".to_owned(),
            Ok(ReadEvent::End(end)) => format!("end {end}"),
            other => panic!("{other:?}"),
        };
        lines.push(line);
    }
}

#[test]
fn each_way_to_lose_records_is_told() {
    let mut bed = Bed::new(10);
    bed.model.held().append(5);
    assert_eq!(read_to_end(&mut bed), ["5 records", "end 5"]);
    bed.model.held().append(5);
    bed.model.held().trim(7);
    assert_eq!(read_to_end(&mut bed), ["missing 5..7", "3 records"]);
    bed.model.held().append(4);
    bed.model.held().records[4] = None;
    assert_eq!(read_to_end(&mut bed), ["1 records", "missing 11..12", "2 records"]);
    bed.model.held().lose_end(2);
    assert_eq!(read_to_end(&mut bed), ["lost its end", "4 records"], "a round of it");
    assert_eq!(bed.reader.position().log.to_string(), "000000000001.1");
    bed.model.held().replace();
    bed.model.held().append(1);
    assert_eq!(read_to_end(&mut bed), ["replaced", "1 records"]);
}

#[test]
fn an_end_that_grew_again_shows_once_the_log_was_away() {
    let mut bed = Bed::new(10);
    bed.model.held().append(5);
    bed.read_all();
    bed.model.held().lose_end(2);
    bed.model.held().append(2);
    assert!(matches!(bed.next(), Ok(ReadEvent::Idle)), "nothing tells it");
    bed.model.held().away = true;
    assert!(matches!(bed.next(), Err(LogError::Unavailable { .. })));
    assert_eq!(read_to_end(&mut bed), ["lost its end", "5 records"]);
    bed.check();
}

#[test]
fn a_mark_of_an_earlier_record_says_nothing_of_the_one_before_the_position() {
    let mut bed = Bed::new(10);
    bed.model.held().append(5);
    bed.read_all();
    let ReadPosition { log, next, mark } = bed.reader.position();
    bed.model.held().lose_end(1);
    bed.model.held().append(1);
    let reader = |mark| {
        let from = ReadPosition { log, next, mark };
        Reader::new(bed.model.clone(), at(), from, 10)
    };
    let mut passed = reader(mark.map(Mark::passed));
    assert!(matches!(block_on(passed.next()), Ok(ReadEvent::Idle)));
    let mut before = reader(mark);
    assert!(matches!(block_on(before.next()), Ok(ReadEvent::Begun(LogError::BeyondEnd { .. }))));
}

#[test]
fn a_round_that_another_reader_found_is_read_from_the_beginning() {
    let mut bed = Bed::new(10);
    bed.model.held().append(5);
    bed.read_all();
    let log = bed.reader.position().log;
    bed.reader.want(log);
    assert!(matches!(bed.next(), Ok(ReadEvent::Idle)), "the round that it is in");
    bed.reader.want(log.next_round());
    assert_eq!(read_to_end(&mut bed), ["lost its end", "5 records"]);
    bed.model.held().append(4);
    bed.model.held().trim(7);
    bed.reader.want(log.next_round().next_round());
    let seen = ["lost its end", "missing 5..7", "2 records"];
    assert_eq!(read_to_end(&mut bed), seen, "what was not read yet is missing");
}

#[test]
fn the_first_record_since_an_instant_is_found() {
    let model = Model::default();
    model.held().append(9);
    model.held().trim(2);
    let marks = block_on(model.watermarks(&at())).unwrap();
    let found = |millis: i64| {
        let since = Timestamp(millis * 1_000);
        block_on(first_since(&model, &at(), Incarnation::new(1), marks, since)).unwrap()
    };
    // The record at an offset was appended a millisecond later than that.
    assert_eq!([0, 3, 4, 9, 10].map(found), [2, 2, 3, 8, 9]);
}

#[test]
fn reading_what_is_there_does_not_look_where_the_log_ends() {
    let model = Arc::new(Model::default());
    model.held().append(3);
    let from = ReadPosition::at(Incarnation::new(1), 1);
    let mut reader = Reader::new(model, at(), from, 1).without_waiting();
    let events: Vec<ReadEvent> = (0..3).map(|_| block_on(reader.next()).unwrap()).collect();
    assert!(matches!(&events[..], [ReadEvent::Records(_), ReadEvent::Records(_), ReadEvent::Idle]));
}
