//! Known usage against the samples, the events, and itself.

use std::collections::HashMap;

use nilometer_contract::{
    Change, MICROS_PER_SECOND, MeterKind, ResourceKind, Timestamp, catalogue,
};
use nilometer_simulated::{Fleet, FleetConfig, KnownUsage, known_usage, known_usage_at};
use proptest::prelude::*;

use crate::{MINUTE_MICROS, events_at, lively, minutes, rows};

const TICK_PICO: i128 = 1_000_000_000_000 / 512;

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn known_usage_adds_up_to_what_the_samples_say(seed in 0_u64..1_000) {
        check_known_totals(&lively(seed), 100);
    }
}

fn check_known_totals(config: &FleetConfig, minutes_long: i64) {
    let end = minutes(config, minutes_long);
    let known = known_usage(config, config.start, end).unwrap();
    let mut sums: HashMap<(&str, &str), i128> = HashMap::new();
    for row in &known {
        assert!(row.pico > 0, "{row:?}");
        let meter = row.meter;
        if meter.kind == MeterKind::Counter {
            *sums.entry((&row.resource, &meter.name)).or_default() += row.pico;
        }
    }
    let mut fleet = Fleet::new(config).unwrap();
    let mut last: HashMap<(String, String), f64> = HashMap::new();
    let mut counted: HashMap<(String, String), i128> = HashMap::new();
    for (_, observation) in fleet.steps(end, config.step_micros) {
        for (resource, name, _, value) in rows(&observation.samples.build()) {
            let meter = catalogue().find(name).unwrap();
            if meter.kind != MeterKind::Counter {
                continue;
            }
            let key = (resource.to_owned(), name.to_owned());
            let before = last.insert(key.clone(), value).unwrap_or(0.0);
            let increase = if value < before { value } else { value - before };
            let ticks = increase * 512.0;
            assert_eq!(ticks.fract(), 0.0);
            *counted.entry(key).or_default() += ticks as i128 * TICK_PICO;
        }
    }
    counted.retain(|_, pico| *pico != 0);
    assert_eq!(sums.len(), counted.len());
    for ((resource, name), pico) in &counted {
        assert_eq!(sums[&(resource.as_str(), name.as_str())], *pico, "{name} of {resource}");
    }
}

#[test]
fn lifetimes_are_known_to_the_microsecond() {
    let config = lively(2);
    let end = minutes(&config, 180);
    let known = known_usage(&config, config.start, end).unwrap();
    let lifetime = catalogue().find("lifetime").unwrap();
    let mut lived: HashMap<&str, i128> = HashMap::new();
    for row in known.iter().filter(|row| row.meter == lifetime) {
        *lived.entry(&row.resource).or_default() += row.pico;
    }
    let events = events_at(&config, &[180 * MINUTE_MICROS]);
    let born: HashMap<&str, Timestamp> = events
        .iter()
        .filter(|event| event.change == Change::Created)
        .map(|event| (event.resource.id.as_str(), event.at))
        .collect();
    let (mut three, mut sixty_one) = (0, 0);
    for event in events.iter().filter(|event| event.change == Change::Deleted) {
        let id = event.resource.id.as_str();
        let micros = event.at.0 - born[id].0;
        assert_eq!(lived[id], i128::from(micros) * 1_000_000);
        let container = event.resource.kind == ResourceKind::CONTAINER;
        three += u32::from(container && micros == 3 * MICROS_PER_SECOND);
        sixty_one += u32::from(container && micros == 61 * MICROS_PER_SECOND);
    }
    assert!(three > 10 && sixty_one > 10, "{three} and {sixty_one}");
}

/// Hour by hour, the VMs and pods on nodes never used more than the nodes did; and usage over a
/// period is the sum of usage over its parts.
#[test]
fn known_usage_conserves_and_splits() {
    let mut config = lively(4);
    config.start = config.start.plus_micros(17 * MINUTE_MICROS);
    let (half, end) = (minutes(&config, 77), minutes(&config, 150));
    let whole = known_usage(&config, config.start, end).unwrap();
    let steps: Vec<Timestamp> = (0..config.steps_until(end)).map(|n| config.step_at(n)).collect();
    let part = |from, upto| known_usage_at(&config, steps.iter().copied(), from, upto).unwrap();
    let mut sums: HashMap<_, i128> = HashMap::new();
    for row in part(config.start, half).into_iter().chain(part(half, end)) {
        *sums.entry((row.hour, row.resource, row.meter, row.project)).or_default() += row.pico;
    }
    assert_eq!(sums.len(), whole.len());
    for row in &whole {
        let key = (row.hour, row.resource.clone(), row.meter, row.project.clone());
        assert_eq!(sums[&key], row.pico);
    }
    let nested: HashMap<String, bool> = events_at(&config, &[150 * MINUTE_MICROS])
        .into_iter()
        .map(|event| {
            let parent = event.resource.parent;
            (event.resource.id, parent.is_some_and(|parent| !parent.starts_with("sim")))
        })
        .collect();
    let cpu = catalogue().find("cpu.time").unwrap();
    let mut spare: HashMap<Timestamp, i128> = HashMap::new();
    for KnownUsage { hour, resource, kind, pico, .. } in
        whole.into_iter().filter(|row| row.meter == cpu && !nested[&*row.resource])
    {
        let sign = if kind == ResourceKind::NODE { 1 } else { -1 };
        *spare.entry(hour).or_default() += sign * pico;
        assert!(!resource.is_empty());
    }
    assert!(spare.len() == 3 && spare.values().all(|&pico| pico > 0), "{spare:?}");
}
