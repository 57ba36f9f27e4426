//! Queues of partitions over one spool: order, independence, bounds, damage.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::retry::LONGEST_BACKOFF;

const MEMORY: usize = 1 << 20;

fn entry(number: u32, partition: u32) -> Entry {
    let start = Timestamp::from_seconds(1_000_000_000 + i64::from(number));
    let payload = Bytes::from(number.to_le_bytes().repeat(25));
    let (end, source) = (start.plus_micros(1), "s".into());
    Entry { partition, samples: 1, start, end, source, payload, tried: false }
}

fn open(dir: &Path, max_bytes: u64, write_through: bool) -> Queue {
    let mut waiting = Waiting::default();
    let spool = Spool::open(dir, max_bytes, |at, found| match found {
        Found::Record(entry, size) => waiting.add(at, &entry, size),
        other => panic!("damage: {other:?}"),
    });
    let mut queue = Queue::new(spool.unwrap(), waiting, write_through, MEMORY);
    queue.set_count(4);
    queue
}

fn number(payload: &Bytes) -> u32 {
    u32::from_le_bytes(payload[..4].try_into().unwrap())
}

fn begin(queue: &mut Queue, partition: u32) -> Vec<u32> {
    queue.begin(partition).unwrap().iter().map(number).collect()
}

fn fail(queue: &mut Queue, partition: u32) {
    let now = Timestamp::from_seconds(1_000_000_000);
    queue.partition(partition).retry.failed(now, "asked to fail", LONGEST_BACKOFF);
    queue.failed(partition);
}

/// Sends all of a partition.
fn send(queue: &mut Queue, partition: u32) -> Vec<u32> {
    let mut all = Vec::new();
    loop {
        let sent = begin(queue, partition);
        if sent.is_empty() {
            return all;
        }
        queue.partition(partition).retry.worked();
        assert_eq!(queue.acknowledged(partition), sent.len());
        all.extend(sent);
    }
}

#[test]
fn a_partition_that_fails_holds_back_no_other_and_is_tried_with_one_record() {
    for write_through in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let mut queue = open(dir.path(), 1 << 20, write_through);
        queue.push((0..20).map(|n| entry(n, n % 2)).collect());
        assert_eq!(begin(&mut queue, 0).len(), 10);
        fail(&mut queue, 0);
        assert_eq!(send(&mut queue, 1), (0..20).filter(|n| n % 2 == 1).collect::<Vec<_>>());
        assert_eq!(begin(&mut queue, 0), [0]);
        fail(&mut queue, 0);
        queue.push((20..40).map(|n| entry(n, n % 2)).collect());
        assert_eq!(send(&mut queue, 1), (20..40).filter(|n| n % 2 == 1).collect::<Vec<_>>());
        assert_eq!(send(&mut queue, 0), (0..40).filter(|n| n % 2 == 0).collect::<Vec<_>>());
        assert!(queue.is_empty());
        queue.trim();
        assert_eq!((queue.spooled_bytes(), queue.spool.bytes()), (0, 0));
    }
}

#[test]
fn a_refused_record_is_found_and_its_partition_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = open(dir.path(), 1 << 20, true);
    queue.push((0..20).map(|n| entry(n, 0)).collect());
    let mut sent = Vec::new();
    while !queue.is_empty() {
        let window = begin(&mut queue, 0);
        if !window.contains(&13) {
            queue.acknowledged(0);
            sent.extend(window);
        } else if let Some(refused) = queue.refused(0) {
            assert_eq!((number(&refused.payload), window), (13, vec![13]));
            queue.acknowledged(0);
        }
    }
    assert_eq!(sent, (0..20).filter(|&n| n != 13).collect::<Vec<_>>());
}

#[test]
fn sources_are_held_back_only_where_it_can_help() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = open(dir.path(), 4_000, true);
    queue.push((0..20).map(|n| entry(n, n % 2)).collect());
    assert!(!queue.has_room(), "more than half is taken, and nobody failed");
    begin(&mut queue, 0);
    fail(&mut queue, 0);
    assert!(!queue.has_room(), "the other takes records");
    send(&mut queue, 1);
    assert!(queue.has_room(), "what is left is of a partition that fails");
}

#[test]
fn nothing_is_dropped_before_a_partition_fails() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = open(dir.path(), 2_000, true);
    queue.push((0..40).map(|n| entry(n, n % 2)).collect());
    assert!(!queue.is_over() && !queue.has_room());
    begin(&mut queue, 0);
    fail(&mut queue, 0);
    assert!(queue.is_over());
    let mut lost = Vec::new();
    while queue.is_over() {
        lost.extend(queue.oldest());
        assert!(queue.drop_oldest());
    }
    assert!(lost.iter().all(|entry| entry.payload.is_empty()));
    let sent = [send(&mut queue, 0), send(&mut queue, 1)].concat();
    assert_eq!(sent.len() + lost.len(), 40);
}

#[test]
fn a_disk_that_fails_loses_nothing_that_fits_in_memory_and_keeps_the_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("queue");
    let mut queue = open(&path, 1 << 20, true);
    fs::remove_dir(&path).unwrap();
    queue.push(vec![entry(1, 0), entry(2, 0)]);
    assert_eq!((queue.disk_errors, queue.spooled_bytes()), (1, 0));
    fs::create_dir(&path).unwrap();
    queue.push(vec![entry(3, 0)]);
    assert!(queue.spooled_bytes() > 0, "what waited in memory went to disk first");
    assert_eq!(send(&mut queue, 0), [1, 2, 3]);
}

#[test]
fn a_disk_that_fails_for_long_drops_the_oldest_from_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("queue");
    let mut queue = open(&path, 1 << 20, false);
    queue.memory_max_bytes = 2 * entry(0, 0).size();
    fail(&mut queue, 0);
    fs::remove_dir(&path).unwrap();
    queue.push((1..=6).map(|n| entry(n, 0)).collect());
    let [Loss::Records(lost, _)] = &queue.take_losses()[..] else { panic!("no loss") };
    assert_eq!(lost.len(), 2);
    assert_eq!(send(&mut queue, 0), [3, 4, 5, 6]);
}

#[test]
fn a_topic_with_fewer_partitions_takes_all() {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = open(dir.path(), 1 << 20, true);
    queue.push((0..40).map(|n| entry(n, n % 4)).collect());
    queue.stop();
    let mut queue = open(dir.path(), 1 << 20, true);
    queue.push((40..44).map(|n| entry(n, n % 4)).collect());
    queue.set_count(3);
    let mut sent = [0, 1, 2].map(|partition| send(&mut queue, partition)).concat();
    sent.sort_unstable();
    assert_eq!(sent, (0..44).collect::<Vec<_>>());
}

/// While it runs a bit of its files is flipped: all but the record that it touches is sent, in
/// order, and the loss says whose it was.
fn check_flip(place: prop::sample::Index, bit: u8) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().unwrap();
    let mut queue = open(dir.path(), 32_000, true);
    (0..4).for_each(|partition| fail(&mut queue, partition));
    (0..60).for_each(|n| queue.push(vec![entry(n, n % 4)]));
    let mut files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    let lengths: Vec<usize> =
        files.iter().map(|path| fs::metadata(path).unwrap().len() as usize).collect();
    let (mut place, mut file) = (place.index(lengths.iter().sum()), 0);
    while place >= lengths[file] {
        place -= lengths[file];
        file += 1;
    }
    let mut bytes = fs::read(&files[file]).unwrap();
    bytes[place] ^= 1 << bit;
    fs::write(&files[file], bytes).unwrap();

    let mut missing: BTreeMap<u32, u64> = BTreeMap::new();
    for partition in 0..4 {
        let sent = send(&mut queue, partition);
        let all: Vec<u32> = (0..60).filter(|n| n % 4 == partition).collect();
        prop_assert!(sent.is_sorted());
        if sent.len() < all.len() {
            missing.insert(partition, (all.len() - sent.len()) as u64);
        }
    }
    let mut lost: BTreeMap<u32, u64> = BTreeMap::new();
    for loss in queue.take_losses() {
        match loss {
            Loss::Records(entries, DAMAGED) => {
                entries.iter().for_each(|entry| *lost.entry(entry.partition).or_default() += 1);
            }
            Loss::Hidden { partition, records, .. } => {
                *lost.entry(partition).or_default() += records
            }
            other @ Loss::Records(..) => prop_assert!(false, "{:?}", other),
        }
    }
    prop_assert_eq!(missing.values().sum::<u64>(), 1);
    prop_assert_eq!(lost, missing);
    prop_assert!(queue.is_empty());
    Ok(())
}

#[derive(Clone, Debug)]
enum Step {
    Push(u32, usize),
    Send(u32),
    Fail(u32),
    Bound,
    Trim,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..4_u32, 1..20_usize).prop_map(|(partition, count)| Step::Push(partition, count)),
        3 => (0..4_u32).prop_map(Step::Send),
        2 => (0..4_u32).prop_map(Step::Fail),
        2 => Just(Step::Bound),
        1 => Just(Step::Trim),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..100)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn one_flipped_bit_costs_one_record(place in any::<prop::sample::Index>(), bit in 0..8_u8) {
        check_flip(place, bit)?;
    }

    /// In each partition: everything once and in order but for what is said to be lost, whatever
    /// the others do, and of that it is said what may be in the log; a new start repeats but never
    /// loses.
    #[test]
    fn each_partition_is_a_queue_of_its_own(steps in steps(), write_through: bool) {
        let dir = tempfile::tempdir().unwrap();
        let mut queue = open(dir.path(), 8_000, write_through);
        let mut waiting: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        let mut sent: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        let mut tried = BTreeSet::new();
        let mut next = 0;
        for step in steps {
            match step {
                Step::Push(partition, count) => {
                    let numbers = next..next + count as u32;
                    next = numbers.end;
                    waiting.entry(partition).or_default().extend(numbers.clone());
                    queue.push(numbers.map(|n| entry(n, partition)).collect());
                }
                Step::Send(partition) => {
                    let window = begin(&mut queue, partition);
                    let waiting = waiting.entry(partition).or_default();
                    prop_assert_eq!(window.is_empty(), waiting.is_empty());
                    let front: Vec<u32> = waiting.drain(..window.len()).collect();
                    prop_assert_eq!(&window, &front);
                    sent.entry(partition).or_default().extend(window);
                    if queue.partition(partition).is_sending() {
                        queue.partition(partition).retry.worked();
                        queue.acknowledged(partition);
                    }
                }
                Step::Fail(partition) => {
                    tried.extend(begin(&mut queue, partition));
                    fail(&mut queue, partition);
                }
                Step::Bound => while queue.is_over() {
                    for lost in queue.oldest() {
                        let number = (lost.start.0 / 1_000_000 - 1_000_000_000) as u32;
                        let waiting = waiting.entry(lost.partition).or_default();
                        prop_assert_eq!(waiting.first(), Some(&number), "the oldest go");
                        prop_assert_eq!(lost.tried, tried.contains(&number));
                        waiting.remove(0);
                    }
                    prop_assert!(queue.drop_oldest());
                },
                Step::Trim => queue.trim(),
                Step::Reopen => {
                    queue.stop();
                    queue = open(dir.path(), 8_000, write_through);
                    // What was sent and not trimmed is sent again.
                    for partition in 0..4 {
                        let again = send(&mut queue, partition);
                        let waiting = std::mem::take(waiting.entry(partition).or_default());
                        prop_assert!(again.ends_with(&waiting));
                        let known = sent.entry(partition).or_default();
                        prop_assert!(again.iter().all(|n| known.contains(n) || waiting.contains(n)));
                        known.extend(again);
                    }
                }
            }
            prop_assert_eq!(queue.take_losses(), []);
        }
    }
}
