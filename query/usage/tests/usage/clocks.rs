//! Readings of several epochs and of several observers, and what gaps void.

use std::fmt::Write;

use nilometer_contract::{MICROS_PER_SECOND, Timestamp};
use nilometer_usage::{ClockId, Points, Sample, Series, UsageRow, Window, merge, series_usage};
use proptest::prelude::*;

use crate::script::{Script, instant, meter, micros, row_text};

/// Reads `1a 0s=0 60s=30`: readings of instance 1 within its epoch a, line by line.
fn samples(text: &str) -> Vec<Sample> {
    let mut samples = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let mut words = line.split_whitespace();
        let clock = words.next().unwrap().as_bytes();
        let clock = ClockId { instance: u64::from(clock[0] - b'0'), epoch: i64::from(clock[1]) };
        samples.extend(words.map(|word| {
            let (at, value) = word.split_once('=').unwrap();
            Sample { at: instant(micros(at)).0, value: value.parse().unwrap(), clock }
        }));
    }
    samples
}

fn rows(
    name: &str,
    script: &str,
    samples: &[Sample],
    gaps: &[i64],
    window: Window,
) -> Vec<UsageRow> {
    let (meter, mut rows) = (meter(name), Vec::new());
    let points = Points::collect(samples.iter().copied()).unwrap();
    let script = Script::parse(script);
    let tenure = script.tenure(name, &points);
    let series = Series { gaps, ..points.series(meter) };
    series_usage(&series, &tenure, window, Timestamp::MAX, &mut rows);
    rows
}

fn hour() -> Window {
    Window { start: instant(0), end: instant(3_600 * MICROS_PER_SECOND) }
}

#[track_caller]
fn check(name: &str, life: &str, readings: &str, gaps: &str, expected: &str) {
    let gaps: Vec<i64> = gaps.split_whitespace().map(|at| instant(micros(at)).0).collect();
    let found = rows(name, life, &samples(readings), &gaps, hour());
    let mut text = String::new();
    found.iter().for_each(|row| writeln!(text, "{}", row_text(row)).unwrap());
    assert_eq!(text.trim_end(), expected, "{name} of\n{readings}");
}

const LIVED: &str = "created 0s project=a\ndeleted 10m";

#[test]
fn a_fall_is_a_reset_within_an_epoch_only() {
    check("counter", LIVED, "1a 0s=0 60s=60 120s=5", "", "0s..10m a 65 seen 2m");
    check("counter", LIVED, "1a 0s=0 60s=60\n1b 120s=5 180s=25", "", "0s..10m a 80 seen 3m");
    check("counter", LIVED, "1a 0s=0 60s=60\n1b 120s=90", "", "0s..10m a 90 seen 2m");
}

#[test]
fn another_life_is_what_makes_a_counter_begin_anew() {
    let two = "created 0s project=a\ndeleted 70s\ncreated 80s project=a\ndeleted 10m";
    let expected = "0s..1m10s a 60 seen 1m\n1m20s..10m a 25 seen 1m40s";
    check("counter", two, "1a 0s=0 60s=60\n1b 120s=5 180s=25", "", expected);
}

#[test]
fn two_observers_of_one_counter_count_once() {
    let both = "1a 0s=100 60s=160 120s=220\n2a 10s=110 70s=170 130s=230 190s=290";
    // The first up to its last reading, the second from there on.
    check("counter", LIVED, both, "", "0s..10m a 190 seen 3m10s");
    // Of two hosts with counters of their own, neither is taken for the other; what the second had
    // counted since the birth counts for the time in which the first was silent.
    let hosts = "1a 0s=1000000 60s=1000060\n2a 70s=5 130s=65";
    check("counter", LIVED, hosts, "", "0s..10m a 120.714285714286 seen 2m10s");
    check("gauge", LIVED, "1a 0s=6 60s=6\n2a 30s=6 90s=6", "", "0s..10m a 2340 seen 6m30s");
    check("delta", LIVED, "1a 60s=5 120s=5\n2a 90s=5 150s=5", "", "0s..10m a 15 seen 2m30s");
}

#[test]
fn what_was_read_before_a_gap_does_not_reach_into_it() {
    let readings = "1a 0s=6 60s=6 200s=6";
    check("gauge", LIVED, readings, "", "0s..10m a 3000 seen 8m20s");
    check("gauge", LIVED, readings, "90s", "0s..10m a 2340 seen 6m30s");
    // What the counter grew by is certain, when is not.
    check("counter", LIVED, "1a 0s=0 60s=60 200s=200", "90s", "0s..10m a 200 seen 1m30s");
}

prop_compose! {
    fn readings()(
        told in proptest::collection::btree_map(
            0..3_600_i64, (1..3_u64, 0..3_i64, 0..1_000_u32), 0..60),
    ) -> Vec<Sample> {
        told.into_iter().map(|(second, (instance, epoch, value))| Sample {
            at: instant(second * MICROS_PER_SECOND).0,
            value: f64::from(value),
            clock: ClockId { instance, epoch },
        }).collect()
    }
}

/// What a window may be computed from: what lies within the hold time around it, and the nearest
/// on either side.
fn visible(samples: &[Sample], window: Window) -> Vec<Sample> {
    let hold = 300 * MICROS_PER_SECOND;
    let (low, high) = (window.start.0 - hold, window.end.0 + hold);
    let before = samples.iter().rfind(|sample| sample.at < low);
    let after = samples.iter().find(|sample| sample.at > high);
    let near = samples.iter().filter(|sample| (low..=high).contains(&sample.at));
    before.into_iter().chain(near).chain(after).copied().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn windows_cut_anywhere_give_the_whole(
        samples in readings(), cut in 0..3_600_i64, gap in proptest::option::of(0..3_600_i64),
    ) {
        let gaps: Vec<i64> = gap.map(|at| instant(at * MICROS_PER_SECOND).0).into_iter().collect();
        let (whole, middle) = (hour(), instant(cut * MICROS_PER_SECOND));
        for name in ["counter", "gauge", "delta"] {
            let of = |window: Window| {
                rows(name, LIVED_LONG, &visible(&samples, window), &gaps, window)
            };
            let mut parts = of(Window { end: middle, ..whole });
            parts.extend(of(Window { start: middle, ..whole }));
            prop_assert_eq!(merge(parts), merge(of(whole)), "{}", name);
        }
    }

    /// However two agents' readings of one counter interleave, what they bill is at most what
    /// the counter did.
    #[test]
    fn no_interleaving_bills_more_than_there_was(
        told in proptest::collection::btree_map(0..3_600_i64, 1..4_u64, 2..80),
        resets in proptest::collection::btree_set(0..3_600_i64, 0..2),
    ) {
        // One core, busy all the time; a reset begins the counter anew.
        let value = |second: i64| (second - resets.range(..=second).next_back().unwrap_or(&0)) as f64;
        let samples: Vec<Sample> = told.iter().map(|(&second, &instance)| Sample {
            at: instant(second * MICROS_PER_SECOND).0,
            value: value(second),
            clock: ClockId { instance, epoch: 7 },
        }).collect();
        let rows = rows("counter", LIVED_LONG, &samples, &[], hour());
        let billed: i128 = rows.iter().map(|row| row.quantity.0).sum();
        let observed: i64 = rows.iter().map(|row| row.observed_micros).sum();
        let span = told.keys().next_back().unwrap() - told.keys().next().unwrap();
        let first = told.keys().next().unwrap();
        // The birth makes the first reading count, if it is near.
        let most = if *first <= 300 { span + first } else { span };
        prop_assert!(billed <= i128::from(most) * 1_000_000_000_000, "{billed} of {most} s");
        prop_assert!(observed <= most * MICROS_PER_SECOND);
    }
}

const LIVED_LONG: &str = "created 0s project=a";
