//! The spool against a model, and against damage.

use std::collections::VecDeque;

use bytes::Bytes;
use nilometer_contract::Timestamp;
use proptest::prelude::*;

use super::scan::Unknown;
use super::*;

fn entry(number: u32, bytes: usize) -> Entry {
    let start = Timestamp::from_seconds(1_000_000_000 + i64::from(number));
    let end = start.plus_micros(1);
    let payload = Bytes::from(vec![number as u8; bytes]);
    Entry { partition: number, samples: 1, start, end, source: "s".into(), payload, tried: false }
}

/// A spool, the numbers of the records in it, and the damage.
fn open(dir: &Path, max_bytes: u64) -> (Spool, Vec<(Position, u32)>, Vec<Found>) {
    let (mut numbers, mut damage) = (Vec::new(), Vec::new());
    let spool = Spool::open(dir, max_bytes, |at, found| match found {
        Found::Record(entry, _) => numbers.push((at, entry.partition)),
        other => damage.push(other),
    });
    (spool.unwrap(), numbers, damage)
}

/// All that is read from a place on.
fn read(spool: &Spool, from: Position, want: usize) -> Vec<(Position, Found)> {
    let (mut all, mut next) = (Vec::new(), Some(from));
    while let Some(from) = next {
        let chunk = spool.read(from, want).unwrap();
        all.extend(chunk.found);
        next = chunk.end;
    }
    all
}

fn numbers(found: &[(Position, Found)]) -> Vec<(Position, u32)> {
    let number = |(at, found): &(Position, Found)| match found {
        Found::Record(entry, _) => (*at, entry.partition),
        other => panic!("damage: {other:?}"),
    };
    found.iter().map(number).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Push(Vec<usize>),
    Read { from: prop::sample::Index, want: usize },
    Trim(prop::sample::Index),
    RemoveOldest,
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => proptest::collection::vec(0..3_000_usize, 1..6).prop_map(Step::Push),
        4 => (any::<prop::sample::Index>(), 1..9_000_usize).prop_map(|(from, want)| Step::Read { from, want }),
        1 => any::<prop::sample::Index>().prop_map(Step::Trim),
        1 => Just(Step::RemoveOldest),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn it_is_a_list_that_outlives_its_owner(steps in steps(), max_bytes in 4_000..60_000_u64) {
        let dir = tempfile::tempdir().unwrap();
        let (mut spool, ..) = open(dir.path(), max_bytes);
        let mut model: VecDeque<(Position, u32)> = VecDeque::new();
        let mut next = 0;
        for step in steps {
            match step {
                Step::Push(sizes) => {
                    let entries: Vec<Entry> = (next..).zip(sizes).map(|(n, size)| entry(n, size)).collect();
                    next += entries.len() as u32;
                    let positions = spool.push(&entries).unwrap();
                    model.extend(positions.into_iter().zip(entries.iter().map(|entry| entry.partition)));
                }
                Step::Read { from, want } if !model.is_empty() => {
                    let from = from.index(model.len());
                    let expected: Vec<_> = model.iter().skip(from).copied().collect();
                    prop_assert_eq!(numbers(&read(&spool, model[from].0, want)), expected);
                }
                Step::Trim(needed) if !model.is_empty() => {
                    let needed = model[needed.index(model.len())].0;
                    spool.trim(Some(needed)).unwrap();
                    model.retain(|(at, _)| at.segment >= needed.segment);
                }
                Step::RemoveOldest => {
                    let oldest = numbers(&spool.oldest().unwrap());
                    spool.remove_oldest().unwrap();
                    let expected: Vec<_> = model.drain(..oldest.len()).collect();
                    prop_assert_eq!(oldest, expected);
                }
                Step::Read { .. } | Step::Trim(_) => spool.trim(None).unwrap(),
                Step::Reopen => {
                    drop(spool);
                    let (opened, found, damage) = open(dir.path(), max_bytes);
                    spool = opened;
                    prop_assert!(damage.is_empty());
                    prop_assert_eq!(&found, &Vec::from(model.clone()));
                }
            }
        }
    }

    /// Of records in several segments all but the one that is touched are found, and the damage
    /// says of when the lost one is; what is repaired has none.
    #[test]
    fn one_flipped_bit_costs_one_record(sizes in proptest::collection::vec(0..200_usize, 1..30), place in any::<prop::sample::Index>(), bit in 0..8_u8, want in 1..2_000_usize) {
        let dir = tempfile::tempdir().unwrap();
        let (mut spool, ..) = open(dir.path(), 16_000);
        let entries: Vec<Entry> = (0..).zip(&sizes).map(|(n, &size)| entry(n, size)).collect();
        let mut places = Vec::new();
        for (n, entry) in entries.iter().enumerate() {
            let at = spool.push(std::slice::from_ref(entry)).unwrap()[0];
            places.extend((0..entry.size() as u64).map(|byte| (n, at.segment, at.offset + byte)));
        }
        let (touched, segment, offset) = places[place.index(places.len())];
        let path = spool.path(segment);
        let mut bytes = fs::read(&path).unwrap();
        bytes[offset as usize] ^= 1 << bit;
        fs::write(&path, bytes).unwrap();

        let check = |records: Vec<u32>, damage: Vec<Found>| {
            let expected: Vec<u32> = (0..sizes.len() as u32).filter(|&n| n as usize != touched).collect();
            prop_assert_eq!(records, expected);
            let lost = &entries[touched];
            match &damage[..] {
                [Found::Damaged(found, _)] => {
                    prop_assert_eq!(found, &Entry { payload: Bytes::new(), ..lost.clone() });
                }
                [Found::Unknown(unknown)] => {
                    let (start, end) = unknown.span();
                    prop_assert!(start.is_none_or(|start| start <= lost.start));
                    prop_assert!(end.is_none_or(|end| end >= lost.end));
                }
                other => prop_assert!(false, "{:?}", other),
            }
            Ok(())
        };
        let (mut records, mut damage) = (Vec::new(), Vec::new());
        for (_, found) in read(&spool, Position::default(), want) {
            match found {
                Found::Record(entry, _) => records.push(entry.partition),
                other => damage.push(other),
            }
        }
        check(records, damage)?;
        let (_, found, damage) = open(dir.path(), 16_000);
        check(found.iter().map(|(_, number)| *number).collect(), damage)?;
        let (repaired, found, damage) = open(dir.path(), 16_000);
        prop_assert!(damage.is_empty());
        prop_assert_eq!(found.len(), sizes.len() - 1);
        if let Some((first, _)) = found.first() {
            prop_assert_eq!(numbers(&read(&repaired, *first, want)), found);
        }
    }
}

#[test]
fn damage_says_between_which_records_it_lies_over_segments_too() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, ..) = open(dir.path(), 1_600);
    for number in 0..3 {
        spool.push(&[entry(number, 100)]).unwrap();
    }
    let path = dir.path().join("0000000000000001.seg");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, vec![0; whole.len()]).unwrap();
    let (_, found, damage) = open(dir.path(), 1_600);
    assert_eq!(found.len(), 2);
    let span = |number| Some((entry(number, 0).start, entry(number, 0).end));
    let (bytes, before, after) = (whole.len() as u64, span(0), span(2));
    assert_eq!(damage, [Found::Unknown(Unknown { bytes, before, after })]);
}

#[test]
fn a_torn_tail_says_what_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, ..) = open(dir.path(), 1 << 20);
    spool.push(&[entry(1, 100), entry(2, 100)]).unwrap();
    drop(spool);
    let path = dir.path().join("0000000000000000.seg");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 7]).unwrap();
    let (mut spool, _, damage) = open(dir.path(), 1 << 20);
    assert!(matches!(&damage[..], [Found::Damaged(lost, _)] if lost.partition == 2));
    spool.push(&[entry(3, 100)]).unwrap();
    let found = numbers(&read(&spool, Position::default(), 10_000));
    assert_eq!(found.iter().map(|(_, number)| *number).collect::<Vec<_>>(), [1, 3]);
}
