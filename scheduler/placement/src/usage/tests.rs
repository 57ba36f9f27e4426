//! Usage by resource: what a sample changes, and what it does not.

use nilometer_contract::{BatchBuilder, Subject};

use super::*;

const START: i64 = 1_795_392_000;
const NODE: ResourceKind = ResourceKind::NODE;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(START + seconds)
}

fn subject(id: &str, kind: ResourceKind, node: &str, project: &str) -> Subject {
    Subject {
        node: node.to_owned(),
        project: project.to_owned(),
        ..Subject::from(&nilometer_contract::Resource::new(id, kind))
    }
}

fn batch(subject: Subject, meter: &str, samples: &[(Timestamp, f64)]) -> SampleBatch {
    let mut batch = BatchBuilder::new("test");
    let index = batch.subject(subject);
    for &(at, value) in samples {
        batch.push_named(index, meter, at, value);
    }
    batch.build()
}

/// Usage of one node after samples of one meter.
fn folded(meter: &str, samples: &[(i64, f64)]) -> UsageByResource {
    let samples: Vec<(Timestamp, f64)> =
        samples.iter().map(|&(second, value)| (at(second), value)).collect();
    let mut usage = UsageByResource::default();
    usage.fold(&batch(subject("n", NODE, "n", "p"), meter, &samples), 10);
    usage
}

fn cores(samples: &[(i64, f64)]) -> Option<f64> {
    folded("cpu.time", samples).get("n")?.cpu(at(0)).map(|cpu| cpu.level)
}

fn bytes(samples: &[(i64, f64)]) -> Option<f64> {
    folded("memory.usage", samples).get("n")?.memory(at(0)).map(|memory| memory.level)
}

#[test]
fn the_usage_of_a_meter_stays_small() {
    assert!(size_of::<MeterUsage>() <= 232, "{}", size_of::<MeterUsage>());
}

#[test]
fn a_counter_is_read_as_its_increase_per_second() {
    assert_eq!(cores(&[(0, 100.0)]), None, "one reading tells nothing");
    assert_eq!(cores(&[(0, 100.0), (10, 125.0)]), Some(2.5));
    assert_eq!(cores(&[(0, 100.0), (10, 125.0), (30, 135.0)]), Some(0.5));
    assert_eq!(cores(&[(0, 100.0), (10, 100.0)]), Some(0.0));
    assert_eq!(cores(&[(0, 100.0), (10, 20.0)]), Some(2.0), "it began anew");
    assert_eq!(cores(&[(0, 100.0), (10, 20.0), (20, 40.0)]), Some(2.0));
    assert_eq!(cores(&[(0, 100.0), (10, 125.0), (10, 999.0)]), Some(2.5), "a repeat");
    assert_eq!(cores(&[(0, 100.0), (10, 125.0), (5, 999.0)]), Some(2.5), "a straggler");
}

#[test]
fn a_gauge_is_read_as_its_last_value() {
    assert_eq!(bytes(&[(0, 100.0)]), Some(100.0));
    assert_eq!(bytes(&[(0, 100.0), (10, 70.0)]), Some(70.0));
    assert_eq!(bytes(&[(0, 100.0), (10, 70.0), (5, 999.0)]), Some(70.0), "a straggler");
    assert_eq!(bytes(&[(0, 100.0), (10, 70.0), (10, 70.0)]), Some(70.0), "a repeat");
}

#[test]
fn a_clock_that_was_an_hour_ahead_is_not_waited_for() {
    assert_eq!(cores(&[(3_600, 100.0), (0, 125.0), (10, 135.0)]), None, "stragglers of an hour");
    assert_eq!(cores(&[(3_601, 100.0), (0, 125.0), (10, 135.0)]), Some(1.0), "begun again");
    let usage = folded("cpu.time", &[(3_601, 0.0), (3_611, 9.0), (0, 10.0)]);
    let n = usage.get("n").unwrap();
    assert_eq!((n.last_at, n.first_at), (at(0), at(3_601)));
    assert_eq!(n.cpu(at(0)), None, "nothing is left of before");
    assert_eq!(usage.newest(), Some(at(3_611)));
    let usage = folded("cpu.time", &[(3_600, 0.0), (0, 10.0)]);
    assert_eq!(usage.get("n").unwrap().last_at, at(3_600));
}

#[test]
fn a_sample_speaks_for_the_hold_time_at_most() {
    // A high value after a gap of weeks, then low ones every five minutes for eight hours: the high
    // one has a hundredth of the weight, so that it is no peak. At noon the profile knows nothing.
    let gap = 57 * 86_400 + 20 * 3_600;
    let noon = at(59 * 86_400 + 12 * 3_600);
    let mut counter = vec![(0, 0.0), (gap, 5.0 * gap as f64)];
    let mut gauge = vec![(0, 5e9), (gap, 5e9)];
    for n in 1..=100 {
        counter.push((gap + n * 300, 5.0 * gap as f64 + n as f64 * 300.0));
        gauge.push((gap + n * 300, 1e9));
    }
    let cpu = folded("cpu.time", &counter).get("n").unwrap().cpu(noon).unwrap();
    assert!((1.0..1.1).contains(&cpu.peak), "{cpu:?}");
    let memory = folded("memory.usage", &gauge).get("n").unwrap().memory(noon).unwrap();
    assert!((1e9..1.1e9).contains(&memory.peak), "{memory:?}");
}

#[test]
fn a_sample_speaks_for_the_time_since_the_one_before() {
    // High for 3 s of every 303 s: a hundredth of the time, so no peak.
    let noon = at(12 * 3_600);
    let (mut counter, mut gauge) = (vec![(0, 0.0)], vec![(0, 1e9)]);
    let (mut second, mut total) = (0, 0.0);
    for _ in 0..100 {
        for (held, level) in [(3, 4.0), (300, 1.0)] {
            second += held;
            total += held as f64 * level;
            counter.push((second, total));
            gauge.push((second, level * 1e9));
        }
    }
    let cpu = folded("cpu.time", &counter).get("n").unwrap().cpu(noon).unwrap();
    assert!((1.0..1.1).contains(&cpu.peak), "{cpu:?}");
    let memory = folded("memory.usage", &gauge).get("n").unwrap().memory(noon).unwrap();
    assert!((1e9..1.1e9).contains(&memory.peak), "{memory:?}");
}

#[test]
fn an_estimate_has_age_span_and_a_peak_not_below_the_level() {
    let usage = folded("cpu.time", &[(0, 0.0), (60, 60.0), (120, 360.0)]);
    let n = usage.get("n").unwrap();
    let cpu = n.cpu(at(150)).unwrap();
    assert_eq!(cpu.level, 5.0);
    assert!((5.0..5.5).contains(&cpu.peak), "{cpu:?}");
    assert_eq!((cpu.age_micros, cpu.span_micros), (30_000_000, 120_000_000));
    assert_eq!(n.cpu(at(60)).unwrap().age_micros, 0, "a clock behind the sample");
    assert_eq!(n.memory(at(150)), None);
    // What was high for most of the time is the peak, also of an hour that was never observed.
    let usage = folded("cpu.time", &[(0, 0.0), (300, 1_200.0), (310, 1_210.0)]);
    let cpu = usage.get("n").unwrap().cpu(at(12 * 3_600)).unwrap();
    assert!(cpu.level == 1.0 && (4.0..4.3).contains(&cpu.peak), "{cpu:?}");
    // Of an hour with one high value the percentile is low, but not below the present level.
    let mut samples: Vec<(i64, f64)> = (0..60).map(|n| (n * 60, n as f64 * 60.0)).collect();
    samples.push((3_541, 3_540.0 + 50.0));
    let usage = folded("cpu.time", &samples);
    let cpu = usage.get("n").unwrap().cpu(at(12 * 3_600)).unwrap();
    assert_eq!((cpu.level, cpu.peak), (50.0, 50.0));
}

#[test]
fn what_is_no_usage_is_left_alone() {
    let kinds = [
        (ResourceKind::NODE, true),
        (ResourceKind::VM, true),
        (ResourceKind::POD, true),
        (ResourceKind::CONTAINER, false),
        (ResourceKind::DISK, false),
    ];
    for (kind, is_followed) in kinds {
        let mut usage = UsageByResource::default();
        usage.fold(
            &batch(subject("r", kind.clone(), "n", "p"), "memory.usage", &[(at(0), 1.0)]),
            10,
        );
        assert_eq!(usage.get("r").is_some(), is_followed, "{kind}");
    }
    assert_eq!(folded("net.rx.bytes", &[(0, 1.0)]).len(), 0);
    let mut both = BatchBuilder::new("test");
    let index = both.subject(subject("n", NODE, "n", "p"));
    both.push_named(index, "net.rx.bytes", at(5), 7.0);
    both.push_named(index, "memory.usage", at(0), 8.0);
    let mut usage = UsageByResource::default();
    usage.fold(&both.build(), 10);
    assert_eq!((usage.newest(), usage.len()), (Some(at(0)), 1), "the other meter is not counted");
    for (at, value) in
        [(at(1), f64::NAN), (at(1), f64::INFINITY), (at(1), -1.0), (Timestamp(i64::MAX), 1.0)]
    {
        let mut usage = UsageByResource::default();
        usage.fold(&batch(subject("n", NODE, "n", "p"), "memory.usage", &[(at, value)]), 10);
        assert_eq!((usage.len(), usage.newest()), (0, None), "{at:?} {value}");
    }
    assert_eq!(bytes(&[(0, 0.0)]), Some(0.0), "zero is a value");
}

#[test]
fn node_and_project_are_those_of_the_newest_sample() {
    let mut usage = UsageByResource::default();
    let mut fold = |second: i64, node: &str, project: &str| {
        let subject = subject("v", ResourceKind::VM, node, project);
        usage.fold(&batch(subject, "memory.usage", &[(at(second), 1.0)]), 10);
        let known = usage.get("v").unwrap();
        (known.node.clone(), known.project.clone())
    };
    let names = |node: &str, project: &str| (node.to_owned(), project.to_owned());
    assert_eq!(fold(10, "n1", "p1"), names("n1", "p1"));
    assert_eq!(fold(20, "n2", "p1"), names("n2", "p1"));
    assert_eq!(fold(30, "n2", "p2"), names("n2", "p2"));
    assert_eq!(fold(20, "n3", "p3"), names("n2", "p2"), "older");
    assert_eq!(fold(30, "n3", "p3"), names("n2", "p2"), "as old");
}

/// Samples of `cpu.time` and `memory.usage` of one VM by two sources, the first one preceding.
fn followed_of(samples: &[(&str, i64, f64)], meter: &str) -> UsageByResource {
    let mut usage = UsageByResource::new(Arc::new(Precedence::of(["first", "second"])));
    for &(source, second, value) in samples {
        let mut one =
            batch(subject("v", ResourceKind::VM, "n", "p"), meter, &[(at(second), value)]);
        one.source = source.to_owned();
        usage.fold(&one, 10);
    }
    usage
}

#[test]
fn of_two_sources_one_is_followed() {
    let cores = |samples: &[(&str, i64, f64)]| {
        followed_of(samples, "cpu.time").get("v")?.cpu(at(0)).map(|cpu| cpu.level)
    };
    let bytes = |samples: &[(&str, i64, f64)]| {
        followed_of(samples, "memory.usage").get("v")?.memory(at(0)).map(|memory| memory.level)
    };
    let both = [
        ("first", 0, 100.0),
        ("second", 1, 9_000.0),
        ("first", 10, 110.0),
        ("second", 11, 9_900.0),
        ("first", 20, 140.0),
        ("second", 21, 9_999.0),
    ];
    assert_eq!(cores(&both), Some(3.0), "as if there were only the first");
    assert_eq!(bytes(&both), Some(140.0));
    let alone: Vec<_> = both.iter().copied().filter(|sample| sample.0 == "first").collect();
    let usage = |samples: &[_]| followed_of(samples, "cpu.time").get("v").unwrap().cpu(at(30));
    assert_eq!(usage(&both), usage(&alone));
    // The first one falls silent, is replaced after the hold time, and comes back.
    let handed = [
        ("second", 0, 50.0),
        ("second", 10, 60.0),
        ("first", 20, 100.0),
        ("first", 30, 120.0),
        ("second", 330, 5_000.0),
    ];
    assert_eq!(cores(&handed[..2]), Some(1.0));
    assert_eq!(cores(&handed[..3]), Some(1.0), "its first reading tells nothing");
    assert_eq!(cores(&handed[..4]), Some(2.0));
    assert_eq!(cores(&handed), Some(2.0), "300 s are within the hold time");
    let silent = [("second", 331, 5_000.0), ("second", 341, 5_050.0)];
    let replaced = [&handed[..4], &silent].concat();
    assert_eq!((cores(&replaced), bytes(&replaced)), (Some(5.0), Some(5_050.0)));
    let back = [&replaced[..], &[("first", 351, 200.0), ("first", 361, 210.0)]].concat();
    assert_eq!((cores(&back), bytes(&back)), (Some(1.0), Some(210.0)));
}

#[test]
fn sources_that_are_told_apart_are_bounded() {
    let mut usage = UsageByResource::default();
    for n in 0..=MAX_SOURCES {
        let mut one = batch(subject("v", ResourceKind::VM, "n", "p"), "cpu.time", &[(at(0), 1.0)]);
        one.source = n.to_string();
        usage.fold(&one, 10);
    }
    assert_eq!((usage.left_out(), usage.sources.names.len()), (1, MAX_SOURCES));
}
