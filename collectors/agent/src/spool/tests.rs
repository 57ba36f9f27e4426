//! The spool against a model, and against what a crash leaves.

use std::collections::VecDeque;

use nilometer_contract::Timestamp;
use proptest::prelude::*;

use super::*;

fn entry(number: u32, bytes: usize) -> Entry {
    let at = Timestamp::from_seconds(i64::from(number));
    let payload = vec![number as u8; bytes].into();
    Entry { partition: number, samples: 1, start: at, end: at, payload }
}

fn open(dir: &Path, max_bytes: u64) -> (Spool, Vec<u32>) {
    let mut found = Vec::new();
    let (spool, _) = Spool::open(dir, max_bytes, |entry| found.push(entry.partition)).unwrap();
    (spool, found)
}

fn numbers(entries: &[Entry]) -> Vec<u32> {
    entries.iter().map(|entry| entry.partition).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Push(Vec<usize>),
    Send { most: usize, bytes: usize },
    Trim,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => proptest::collection::vec(0..3_000_usize, 1..6).prop_map(Step::Push),
        4 => (1..6_usize, 1..9_000_usize).prop_map(|(most, bytes)| Step::Send { most, bytes }),
        1 => Just(Step::Trim),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    /// In order, none lost but the oldest at the bound, and a crash repeats but never loses.
    #[test]
    fn it_is_a_queue_that_outlives_its_owner(steps in steps(), max_bytes in 4_000..60_000_u64) {
        let dir = tempfile::tempdir().unwrap();
        let (mut spool, _) = open(dir.path(), max_bytes);
        let mut model: VecDeque<u32> = VecDeque::new();
        let mut next = 0;
        for step in steps {
            match step {
                Step::Push(sizes) => {
                    let entries: Vec<Entry> = (next..).zip(sizes).map(|(n, size)| entry(n, size)).collect();
                    next += entries.len() as u32;
                    model.extend(numbers(&entries));
                    spool.push(&entries).unwrap();
                    let dropped = numbers(&spool.bound().unwrap());
                    let oldest: Vec<u32> = model.drain(..dropped.len()).collect();
                    prop_assert_eq!(dropped, oldest);
                    prop_assert!(spool.bytes() <= max_bytes);
                }
                Step::Send { most, bytes } => match spool.front(most, bytes).unwrap() {
                    Some((entries, mark)) => {
                        let expected: Vec<u32> = model.drain(..entries.len()).collect();
                        prop_assert_eq!(numbers(&entries), expected);
                        spool.sent(mark);
                    }
                    None => prop_assert!(model.is_empty()),
                },
                Step::Trim => spool.trim().unwrap(),
                Step::Reopen => {
                    drop(spool);
                    let (opened, found) = open(dir.path(), max_bytes);
                    spool = opened;
                    prop_assert!(found.windows(2).all(|pair| pair[0] < pair[1]));
                    prop_assert!(found.ends_with(model.make_contiguous()));
                    model = found.into();
                }
            }
            prop_assert_eq!(spool.is_empty(), model.is_empty());
        }
    }
}

#[test]
fn a_torn_tail_is_cut_off_and_nothing_follows_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(dir.path(), 1 << 20);
    spool.push(&[entry(1, 100), entry(2, 100)]).unwrap();
    drop(spool);
    let path = dir.path().join("0000000000000000.seg");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 7]).unwrap();
    let (mut spool, left) = Spool::open(dir.path(), 1 << 20, drop).unwrap();
    assert_eq!(left, Left { records: 1, torn_bytes: 125 });
    spool.push(&[entry(3, 100)]).unwrap();
    let mut seen = Vec::new();
    while let Some((entries, mark)) = spool.front(10, 10_000).unwrap() {
        seen.extend(numbers(&entries));
        spool.sent(mark);
    }
    assert_eq!(seen, [1, 3]);
}

#[test]
fn what_was_dropped_while_it_was_sent_stays_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(dir.path(), 4_000);
    spool.push(&[entry(1, 2_000)]).unwrap();
    let (_, mark) = spool.front(10, 10_000).unwrap().unwrap();
    spool.push(&[entry(2, 2_000)]).unwrap();
    assert_eq!(numbers(&spool.bound().unwrap()), [1]);
    spool.sent(mark);
    assert_eq!(numbers(&spool.front(10, 10_000).unwrap().unwrap().0), [2]);
}
