//! What is kept of gaps, at the bound and under damage.

use std::fs;

use bytes::Bytes;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_seconds(1_000_000_000 + second)
}

fn open(dir: &Path) -> Gaps {
    Gaps::open(dir, "agent", "node", "samples", at(10_000))
}

fn pending(gaps: &mut Gaps) -> Vec<Gap> {
    let mut all = Vec::new();
    while !gaps.is_empty() {
        all.extend(gaps.front().iter().map(|gap| Gap::decode(&gap.encode().unwrap()).unwrap()));
        gaps.acknowledged();
    }
    all
}

fn entry(partition: u32, second: i64, source: &str) -> Entry {
    let (start, end) = (at(second), at(second + 1));
    let payload = Bytes::new();
    Entry { partition, samples: 10, start, end, source: source.into(), payload, tried: false }
}

#[test]
fn records_lost_for_one_reason_are_one_gap_for_each_partition() {
    let dir = tempfile::tempdir().unwrap();
    let mut gaps = open(dir.path());
    gaps.lost("samples", &[entry(1, 0, "b"), entry(2, 0, "a"), entry(1, 5, "a")], "full");
    gaps.lost("samples", &[entry(1, 60, "a")], "full");
    drop(gaps);
    let reported = pending(&mut open(dir.path()));
    let line = |gap: &Gap| {
        let span = (gap.start, gap.end);
        (gap.partition, span, gap.records, gap.samples, gap.sources.join(" "))
    };
    let reported: Vec<_> = reported.iter().map(line).collect();
    let first = (Some(1), (at(0), at(61)), 3, 30, "a b".to_owned());
    assert_eq!(reported, [first, (Some(2), (at(0), at(1)), 1, 10, "a".to_owned())]);
}

/// How many are lost is known of those alone that no append had.
#[test]
fn records_that_may_be_in_the_log_are_a_gap_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let mut gaps = open(dir.path());
    let tried = |second| Entry { tried: true, ..entry(1, second, "a") };
    gaps.lost("samples", &[tried(0), tried(1), entry(1, 2, "a")], "full");
    let reported = pending(&mut gaps);
    let line = |gap: &Gap| (gap.records, gap.start, gap.reason.contains(AT_MOST));
    let reported: Vec<_> = reported.iter().map(line).collect();
    assert_eq!(reported, [(1, at(2), false), (2, at(0), true)]);
}

#[test]
fn a_gap_that_the_log_may_have_is_sent_again_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let mut gaps = open(dir.path());
    gaps.lost("samples", &[entry(1, 0, "a")], "full");
    let first = gaps.front().to_vec();
    gaps.failed();
    gaps.lost("samples", &[entry(1, 1, "a")], "full");
    assert_eq!(gaps.front()[..1], first);
    drop(gaps);
    let mut gaps = open(dir.path());
    gaps.lost("samples", &[entry(1, 2, "a")], "full");
    let records: Vec<u64> = pending(&mut gaps).iter().map(|gap| gap.records).collect();
    assert_eq!(records, [1, 1, 1]);
}

/// Also while some are under way.
#[test]
fn at_the_bound_gaps_are_joined_and_none_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let mut gaps = open(dir.path());
    for n in 0..2_000 {
        let topic = ["samples", "events"][n as usize % 2];
        let kind = [GapKind::Lost, GapKind::Late, GapKind::Unobserved][n as usize % 3];
        let of = Of { kind, topic, partition: Some(n), start: at(i64::from(n)), end: at(9_000) };
        let gap = gaps.gap(of, &format!("reason {n}"));
        gaps.add(Gap { records: 1, samples: u64::from(n), ..gap });
        if n == 100 {
            gaps.front();
        }
    }
    assert!(gaps.pending.len() <= MAX_PENDING + 6, "{}", gaps.pending.len());
    gaps.save();
    let reported = pending(&mut open(dir.path()));
    assert_eq!(reported.iter().map(|gap| gap.records).sum::<u64>(), 2_000);
    assert_eq!(reported.iter().map(|gap| gap.samples).sum::<u64>(), (0..2_000).sum::<u64>());
    let lost = reported.iter().filter(|gap| gap.kind == GapKind::Lost);
    assert_eq!(lost.map(|gap| gap.records).sum::<u64>(), 667);
}

#[test]
fn what_no_gap_could_carry_is_made_one_that_can() {
    let dir = tempfile::tempdir().unwrap();
    let mut gaps = open(dir.path());
    let source = "s".repeat(500);
    let start = Timestamp(i64::MIN);
    let wrong = Entry { start, end: Timestamp(i64::MAX), ..entry(0, 0, &source) };
    gaps.lost("samples", &[wrong], &"\0".repeat(5_000));
    let reported = pending(&mut gaps);
    assert_eq!((reported.len(), reported[0].start, reported[0].records), (1, Timestamp::MIN, 1));
    assert!(reported[0].sources.is_empty());
}

#[test]
fn no_flipped_bit_loses_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let mut gaps = open(dir.path());
    gaps.lost("samples", &[entry(1, 0, "a"), entry(2, 7, "a")], "full");
    gaps.late(("events", None), (at(3), at(5)), "away");
    let path = dir.path().join("gaps");
    let bytes = fs::read(&path).unwrap();
    let expected = pending(&mut gaps);
    for place in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[place] ^= 1 << (place % 8);
        fs::write(&path, &flipped).unwrap();
        assert_eq!(pending(&mut open(dir.path())), expected, "bit of byte {place}");
    }
}

#[test]
fn damage_to_both_copies_of_a_gap_is_a_gap_of_their_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut gaps = open(dir.path());
    gaps.lost("samples", &[entry(1, 100, "a"), entry(2, 700, "a")], "full");
    let path = dir.path().join("gaps");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"partition\":2", "\"partition\":3")).unwrap();
    let reported = pending(&mut open(dir.path()));
    let spans: Vec<_> = reported.iter().map(|gap| (gap.partition, gap.start, gap.end)).collect();
    assert_eq!(spans, [(Some(1), at(100), at(101)), (None, at(100), at(701))]);
}
