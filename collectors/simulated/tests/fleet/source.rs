//! The fleet as a source: by a clock, over a crash.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use nilometer_clock::Clock;
use nilometer_contract::{Change, History, LifecycleEvent, MICROS_PER_SECOND, Timestamp};
use nilometer_simulated::{FleetConfig, SimulatedSource};
use nilometer_source::Source;
use proptest::prelude::*;

use crate::{MINUTE_MICROS, events_at, lively, minutes, run, says};

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_resumed_fleet_says_what_it_would_have_said(seed in 0_u64..1_000, next in 0_usize..60) {
        let config = lively(seed);
        let end = minutes(&config, 60);
        let said = run(&config, end);
        let clock = TestClock::at(end);
        let mut source = SimulatedSource::resume(&config, clock, next as u64).unwrap();
        prop_assert_eq!(source.next_step(), next as u64);
        let rest: Vec<String> =
            source.backfill(end, config.step_micros).map(|(_, seen)| says(seen)).collect();
        prop_assert_eq!(&said[next..], &rest[..]);
    }
}

#[derive(Debug)]
struct TestClock(AtomicI64);

impl TestClock {
    fn at(at: Timestamp) -> Arc<Self> {
        Arc::new(TestClock(AtomicI64::new(at.0)))
    }

    fn set(&self, at: Timestamp) {
        self.0.store(at.0, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::Relaxed))
    }
}

#[tokio::test]
async fn the_source_observes_each_due_step_once() {
    let config = lively(1);
    let said = run(&config, minutes(&config, 9));
    let clock = TestClock::at(config.start.plus_micros(-1));
    let mut source = SimulatedSource::new(&config, clock.clone()).unwrap();
    assert!(source.observe().await.unwrap().is_empty());
    clock.set(minutes(&config, 1));
    assert_eq!(source.behind(), 2);
    for expected in &said[..2] {
        assert_eq!(&says(source.observe().await.unwrap()), expected);
    }
    assert!(source.observe().await.unwrap().is_empty());
    let (outlet, mut pushed) = tokio::sync::mpsc::channel(16);
    source = source.with_outlet(outlet);
    clock.set(minutes(&config, 9));
    let newest = says(source.observe().await.unwrap());
    for expected in &said[2..9] {
        assert_eq!(&says(pushed.recv().await.unwrap()), expected);
    }
    assert_eq!(newest, said[9]);
}

#[test]
fn simulated_time_runs_by_its_factor() {
    let config = FleetConfig { factor: 60, ..lively(1) };
    let epoch = minutes(&config, 5_000);
    let clock = TestClock::at(epoch.plus_micros(2 * MICROS_PER_SECOND));
    let source = SimulatedSource::new(&config, clock).unwrap().with_epoch(epoch);
    assert_eq!(source.now(), minutes(&config, 2));
    assert_eq!(source.behind(), 3);
}

/// Killed after any step and resumed at any step before it, the source mentions at once whatever
/// a listener may know of, and neither its lifecycles nor its samples differ in the end.
#[tokio::test]
async fn a_resumed_source_contradicts_nothing_it_said() {
    let config = lively(6);
    let said = run(&config, minutes(&config, 40));
    let mut expected = History::default();
    hear(&mut expected, events_at(&config, &[40 * MINUTE_MICROS]));
    for (killed, next) in [(0, 0), (5, 6), (20, 3), (30, 31), (39, 0)] {
        let mut heard = History::default();
        hear(&mut heard, events_at(&config, &[killed * MINUTE_MICROS]));
        let clock = TestClock::at(minutes(&config, killed));
        let mut source = SimulatedSource::resume(&config, clock.clone(), next).unwrap();
        let first = source.observe().await.unwrap();
        check_all_mentioned(&heard, &first.events);
        clock.set(minutes(&config, 40));
        let mut observation = first;
        let mut samples = Vec::new();
        while source.behind() > 0 || !observation.is_empty() {
            hear(&mut heard, observation.events.drain(..));
            if !observation.samples.is_empty() {
                samples.push(says(observation));
            }
            observation = source.observe().await.unwrap();
        }
        let rest: Vec<String> =
            said[next as usize..].iter().map(|text| without_events(text)).collect();
        assert_eq!(samples, rest);
        assert_eq!(heard.len(), expected.len());
        for (id, lifetime) in expected.iter() {
            assert_eq!(heard.get(id).unwrap().segments(), lifetime.segments());
        }
    }
}

fn hear(history: &mut History, events: impl IntoIterator<Item = LifecycleEvent>) {
    for event in events {
        history.apply(event);
    }
}

/// What is known to be alive is mentioned, and first in a way that nobody takes for a resource
/// found again in another state.
fn check_all_mentioned(known: &History, events: &[LifecycleEvent]) {
    let alive = known.iter().filter(|(_, lifetime)| lifetime.latest().unwrap().end.is_none());
    let mut unmentioned: HashSet<&str> = alive.map(|(id, _)| id).collect();
    for event in events {
        let first = unmentioned.remove(event.resource.id.as_str());
        assert!(!first || event.change != Change::Created, "taken for found again");
    }
    assert!(unmentioned.is_empty(), "{unmentioned:?}");
}

fn without_events(said: &str) -> String {
    let lines = said.lines().filter(|line| line.split(' ').count() > 2);
    lines.map(|line| format!("{line}\n")).collect()
}
