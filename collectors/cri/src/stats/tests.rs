//! Recorded statistics as samples; counters that start and end where lives do.

use nilometer_contract::ResourceKind;

use super::*;
use crate::api::{
    CpuUsage, LinuxPodSandboxStats, ListContainerStatsResponse, ListPodSandboxStatsResponse,
    NetworkUsage, StatsAttributes,
};
use crate::describe::{ContainerFacts, PodFacts};
use crate::fixtures::fixture;

const NOW: Timestamp = Timestamp(1_800_000_000_000_000);

fn knowing(id: &str, started: Timestamp) -> Ledger {
    let mut ledger = Ledger::new(10, 10);
    let facts = ContainerFacts {
        sandbox: "s".to_owned(),
        resource: Resource::new(id, ResourceKind::CONTAINER),
        current: Resource::new(id, ResourceKind::CONTAINER),
        started: Some(started),
        finished: None,
        exit_code: 0,
        pid: 0,
    };
    ledger.container_seen(facts, started);
    ledger.pod_seen(PodFacts {
        sandbox: id.to_owned(),
        resource: Resource::new("uid", ResourceKind::POD),
        created: started,
        ready: true,
        attempt: 0,
    });
    ledger
}

/// `meter value` of every sample, in order, with its offset from `from` where `timed`.
fn said(samples: BatchBuilder) -> Vec<String> {
    let batch = samples.build();
    let one = |row: usize| {
        let meter = batch.meters.name.value(batch.meter[row].into());
        let id = batch.subjects.id.value(batch.resource[row] as usize);
        format!("{id} {meter} {} @{}", batch.value[row], batch.at[row])
    };
    (0..batch.len()).map(one).collect()
}

fn meters(samples: BatchBuilder) -> String {
    let said = said(samples);
    let meters = said.iter().filter_map(|line| line.split(' ').nth(1));
    meters.collect::<Vec<_>>().join(" ")
}

#[test]
fn recorded_container_stats_are_samples_at_their_own_instant() {
    let stats: ListContainerStatsResponse = fixture("container-stats");
    let [one] = &stats.stats[..] else { panic!("one container was recorded") };
    let cpu = one.cpu.unwrap();
    let taken = Timestamp::from_nanos(cpu.timestamp);
    let id = one.attributes.as_ref().unwrap().id.clone();
    let mut samples = BatchBuilder::new("cri");
    let mut ledger = knowing(&id, taken.plus_micros(-5_000_000));
    containers(&stats.stats, &mut ledger, NOW, &mut samples);
    let seconds = cpu.usage_core_nano_seconds.unwrap().value as f64 / 1e9;
    let lines = said(samples);
    assert_eq!(lines[0], format!("{id} cpu.time 0 @{}", taken.0 - 5_000_000));
    assert_eq!(lines[1], format!("{id} cpu.time {seconds} @{}", taken.0));

    let mut samples = BatchBuilder::new("cri");
    containers(&stats.stats, &mut ledger, NOW, &mut samples);
    let expected = "cpu.time memory.usage memory.working_set memory.resident memory.available";
    assert_eq!(meters(samples), expected, "the zero is said once; the layer was not measured");
}

#[test]
fn recorded_pod_stats_are_samples() {
    let stats: ListPodSandboxStatsResponse = fixture("pod-stats");
    let id = stats.stats[0].attributes.as_ref().unwrap().id.clone();
    let mut samples = BatchBuilder::new("cri");
    let events = pods(&stats.stats, &mut knowing(&id, NOW), NOW, &mut samples);
    assert!(events.is_empty());
    let said = meters(samples);
    assert!(said.starts_with("cpu.time memory.usage memory.working_set"), "{said}");
    assert!(said.ends_with("processes"), "{said}");
}

#[test]
fn interfaces_are_resources_of_their_own() {
    let eth0 = NetworkInterfaceUsage {
        name: "eth0".to_owned(),
        rx_bytes: Some(UInt64Value { value: 7 }),
        tx_bytes: Some(UInt64Value { value: 9 }),
        ..NetworkInterfaceUsage::default()
    };
    let network = NetworkUsage {
        timestamp: NOW.0 * 1_000,
        default_interface: Some(eth0.clone()),
        interfaces: vec![eth0],
    };
    let stats = PodSandboxStats {
        attributes: Some(StatsAttributes { id: "s".to_owned() }),
        linux: Some(LinuxPodSandboxStats {
            network: Some(network),
            ..LinuxPodSandboxStats::default()
        }),
    };
    let mut samples = BatchBuilder::new("cri");
    let events = pods(&[stats], &mut knowing("s", NOW), NOW, &mut samples);
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].resource.kind, ResourceKind::INTERFACE);
    let at = NOW.0;
    let expected =
        ["rx.bytes 7", "tx.bytes 9"].map(|meter| format!("uid/interface/eth0 net.{meter} @{at}"));
    assert_eq!(said(samples), expected, "listed twice, it is counted once");
}

#[test]
fn counters_of_unknown_age_do_not_start_at_zero() {
    let second = 1_000_000;
    for (age, cpu_seconds, zero) in
        [(10, 1, true), (299, 1, true), (301, 1, false), (10, 1_000_000, false)]
    {
        let stats = ContainerStats {
            attributes: Some(StatsAttributes { id: "c".to_owned() }),
            cpu: Some(CpuUsage {
                timestamp: NOW.0 * 1_000,
                usage_core_nano_seconds: Some(UInt64Value { value: cpu_seconds * 1_000_000_000 }),
            }),
            ..ContainerStats::default()
        };
        let mut samples = BatchBuilder::new("cri");
        let mut ledger = knowing("c", NOW.plus_micros(-age * second));
        containers(&[stats], &mut ledger, NOW, &mut samples);
        assert_eq!(samples.len(), 1 + usize::from(zero), "{age} s old, {cpu_seconds} s used");
    }
}

#[test]
fn last_reading_is_within_the_life() {
    let resource = Resource::new("c", ResourceKind::CONTAINER);
    let mut samples = BatchBuilder::new("cri");
    let life = (NOW, NOW.plus_micros(3_000_000));
    final_cpu(&resource, &mut Origin::Open, life, 1_500_000_000, &mut samples);
    let expected = [("0", NOW.0), ("1.5", NOW.0 + 2_999_999)]
        .map(|(value, at)| format!("c cpu.time {value} @{at}"));
    assert_eq!(said(samples), expected);
}
