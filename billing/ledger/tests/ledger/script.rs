//! What happens in a test: records for the log, from a simulated fleet or written by hand.

use std::collections::BTreeMap;

use bytes::Bytes;
use nilometer_contract::{
    BatchBuilder, Change, LifecycleEvent, Resource, ResourceKind, Subject, Timestamp, encode,
    partition_of,
};
use nilometer_simulated::{ChurnConfig, Fleet, FleetConfig};

use crate::bed::{PARTITIONS, START};

pub(crate) const MINUTE: i64 = 60_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Topic {
    Samples,
    Events,
    Gaps,
}

/// One record of the log.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) topic: Topic,
    pub(crate) partition: u32,
    /// When what it tells was observed.
    pub(crate) at: Timestamp,
    /// Samples or events in it.
    pub(crate) rows: u64,
    pub(crate) payload: Bytes,
}

/// A small fleet in which a lot happens.
pub(crate) fn lively(seed: u64) -> FleetConfig {
    let churn = ChurnConfig {
        replacements_per_hour: 20,
        jobs_per_hour: 40,
        resizes_per_hour: 20,
        moves_per_hour: 20,
        transfers_per_hour: 20,
        reboots_per_hour: 20,
    };
    FleetConfig {
        seed,
        nodes: 2,
        vms_and_pods: 16,
        projects: 3,
        step_micros: MINUTE,
        start: START,
        churn,
        ..FleetConfig::default()
    }
}

/// Everything a fleet says up to an instant.
pub(crate) fn fleet(config: &FleetConfig, end: Timestamp) -> Vec<Record> {
    let mut records = Vec::new();
    let mut fleet = Fleet::new(config).unwrap();
    for (at, observation) in fleet.steps(end, config.step_micros) {
        records.extend(observation.events.iter().map(event_record));
        for (partition, batch) in observation.samples.build_partitioned(PARTITIONS) {
            let rows = batch.len() as u64;
            let payloads = encode(&batch).unwrap();
            assert_eq!(payloads.len(), 1, "a small batch is one record");
            records.extend(payloads.into_iter().map(|payload| Record {
                topic: Topic::Samples,
                partition,
                at,
                rows,
                payload: payload.into(),
            }));
        }
    }
    records
}

/// Samples and events among records.
pub(crate) fn counts<'r>(records: impl IntoIterator<Item = &'r Record>) -> (u64, u64) {
    let mut counts = (0, 0);
    for record in records {
        match record.topic {
            Topic::Samples => counts.0 += record.rows,
            Topic::Events => counts.1 += record.rows,
            Topic::Gaps => {}
        }
    }
    counts
}

/// The record of an event.
pub(crate) fn event_record(event: &LifecycleEvent) -> Record {
    Record {
        topic: Topic::Events,
        partition: partition_of(&event.resource.id, PARTITIONS),
        at: event.at,
        rows: 1,
        payload: event.encode().unwrap().into(),
    }
}

/// An event about a resource with attributes.
pub(crate) fn event(
    change: Change,
    at: Timestamp,
    id: &str,
    kind: ResourceKind,
    attributes: &[(&str, &str)],
) -> Record {
    event_by("hand", change, at, id, kind, attributes)
}

/// The same by a source.
pub(crate) fn event_by(
    source: &str,
    change: Change,
    at: Timestamp,
    id: &str,
    kind: ResourceKind,
    attributes: &[(&str, &str)],
) -> Record {
    let mut resource = Resource::new(id, kind);
    resource.project = "acme".to_owned();
    resource.node = "node-1".to_owned();
    let attributes = attributes.iter().map(|(key, value)| (key.to_string(), value.to_string()));
    resource.attributes = attributes.collect::<BTreeMap<_, _>>();
    event_record(&LifecycleEvent { change, at, resource, source: source.to_owned() })
}

/// Samples of one meter of one resource.
pub(crate) fn samples(
    id: &str,
    kind: ResourceKind,
    meter: &str,
    values: impl IntoIterator<Item = (Timestamp, f64)>,
) -> Record {
    samples_by("hand", id, kind, meter, values)
}

/// The same by a source.
pub(crate) fn samples_by(
    source: &str,
    id: &str,
    kind: ResourceKind,
    meter: &str,
    values: impl IntoIterator<Item = (Timestamp, f64)>,
) -> Record {
    let mut builder = BatchBuilder::new(source);
    let project = if kind == ResourceKind::NODE { "" } else { "acme" };
    let mut subject = Subject::from(&Resource::new(id, kind));
    (subject.project, subject.node) = (project.to_owned(), "node-1".to_owned());
    let subject = builder.subject(subject);
    let mut last = Timestamp::default();
    for (at, value) in values {
        builder.push_named(subject, meter, at, value);
        last = last.max(at);
    }
    let rows = builder.len() as u64;
    let payload = encode(&builder.build()).unwrap().remove(0).into();
    let partition = partition_of(id, PARTITIONS);
    Record { topic: Topic::Samples, partition, at: last, rows, payload }
}
