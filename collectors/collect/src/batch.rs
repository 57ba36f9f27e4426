//! From what a source saw to records for the log.

use std::sync::Arc;

use bytes::Bytes;
use nilometer_contract::{
    BatchBuilder, Causes, Labels, LifecycleEvent, MAX_TEXT_BYTES, SampleBatch, Subject, Timestamp,
    check_name, encode_parts, partition_of,
};

use crate::entry::Entry;

/// Records, and what could not become one.
#[derive(Debug)]
pub(crate) struct Records {
    pub(crate) entries: Vec<Entry>,
    /// Records that break a bound of the contract, without payload.
    pub(crate) refused: Vec<Entry>,
    /// Source of the samples; empty when there are none.
    pub(crate) source: Arc<str>,
}

impl Records {
    fn new() -> Self {
        Records { entries: Vec::new(), refused: Vec::new(), source: "".into() }
    }
}

/// Events as records, each in the partition of its resource.
pub(crate) fn of_events(events: &[LifecycleEvent], partitions: u32) -> Records {
    let mut records = Records::new();
    let mut source: Arc<str> = Arc::from("");
    for event in events {
        if *source != *event.source {
            source = event.source.as_str().into();
        }
        let (payload, kept) = match event.encode() {
            Ok(bytes) => (Bytes::from(bytes), true),
            Err(error) => {
                tracing::error!(error = %Causes(&error), resource = event.resource.id, "an event cannot be reported");
                (Bytes::new(), false)
            }
        };
        let partition = partition_of(&event.resource.id, partitions);
        let end = event.at.plus_micros(1);
        let (start, source) = (event.at, source.clone());
        let entry = Entry { partition, samples: 0, start, end, source, payload, tried: false };
        if kept { &mut records.entries } else { &mut records.refused }.push(entry);
    }
    records
}

/// Samples as records, each in the partition of its resources.
pub(crate) fn of_samples(samples: BatchBuilder, partitions: u32) -> Records {
    let mut records = Records::new();
    for (partition, batch) in samples.build_partitioned(partitions) {
        if *records.source != *batch.source {
            records.source = batch.source.as_str().into();
        }
        let source = &records.source;
        if add(&mut records.entries, partition, &batch, source).is_ok() {
            continue;
        }
        // One resource out of bounds must not take the others with it.
        let (batch, refused) = salvage(&batch);
        if refused > 0 {
            tracing::error!(refused, source = batch.source, "samples cannot be reported");
            records.refused.push(entry(partition, &batch, refused, source, Bytes::new()));
        }
        if let Err(error) = add(&mut records.entries, partition, &batch, source) {
            tracing::error!(error = %Causes(&error), source = batch.source, "samples cannot be reported");
            records.refused.push(entry(partition, &batch, batch.len(), source, Bytes::new()));
        }
    }
    records
}

fn add(
    entries: &mut Vec<Entry>,
    partition: u32,
    batch: &SampleBatch,
    source: &Arc<str>,
) -> Result<(), nilometer_contract::WireError> {
    let parts = encode_parts(batch)?;
    entries.extend(
        parts
            .into_iter()
            .map(|(part, bytes)| entry(partition, &part, part.len(), source, bytes.into())),
    );
    Ok(())
}

fn entry(
    partition: u32,
    batch: &SampleBatch,
    samples: usize,
    source: &Arc<str>,
    payload: Bytes,
) -> Entry {
    let start = Timestamp(batch.at.iter().copied().min().unwrap_or(0));
    let end = Timestamp(batch.at.iter().copied().max().unwrap_or(0)).plus_micros(1);
    let samples = u32::try_from(samples).unwrap_or(u32::MAX);
    Entry { partition, samples, start, end, source: source.clone(), payload, tried: false }
}

/// The samples of a batch that keep the bounds of the wire; counts those that do not.
fn salvage(batch: &SampleBatch) -> (SampleBatch, usize) {
    let subjects = &batch.subjects;
    let subject = |place: usize| -> Option<Subject> {
        let texts =
            [subjects.id.value(place), subjects.project.value(place), subjects.node.value(place)];
        let fine = !texts[0].is_empty() && texts.iter().all(|text| text.len() <= MAX_TEXT_BYTES);
        fine.then(|| {
            let [id, project, node] = texts.map(str::to_owned);
            let kind = subjects.kind.value(place).parse().ok()?;
            let labels = Labels::parse(subjects.labels.value(place)).ok()?;
            Some(Subject { id, kind, project, node, labels })
        })?
    };
    let mut builder = BatchBuilder::new(batch.source.clone()).in_epoch(batch.epoch.clone());
    let mut refused = 0;
    for row in 0..batch.len() {
        let place = batch.resource[row] as usize;
        let meter = usize::from(batch.meter[row]);
        let name = batch.meters.name.value(meter);
        let Some(subject) = subject(place).filter(|_| check_name("meter", name).is_ok()) else {
            refused += 1;
            continue;
        };
        let subject = builder.subject(subject);
        let meter = builder.meter(name, &batch.meters.statement(meter));
        builder.add(subject, meter, Timestamp(batch.at[row]), batch.value[row]);
    }
    (builder.build(), refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nilometer_contract::{Epoch, MAX_SUBJECTS, ResourceKind, decode};

    fn samples(ids: impl Iterator<Item = String>) -> BatchBuilder {
        let mut builder = BatchBuilder::new("t");
        for (n, id) in (0..).zip(ids) {
            let subject = builder.subject(Subject {
                id,
                kind: ResourceKind::VM,
                project: String::new(),
                node: String::new(),
                labels: Labels::none(),
            });
            builder.push_named(
                subject,
                "cpu.time",
                Timestamp::from_seconds(1_000_000_000 + n),
                1.0,
            );
        }
        builder
    }

    fn rows(records: &Records) -> usize {
        for entry in &records.entries {
            let batch = decode(&entry.payload).unwrap();
            assert_eq!(batch.len(), entry.samples as usize);
            assert_eq!(batch.at.iter().min(), Some(&entry.start.0));
            assert_eq!(batch.at.iter().max(), Some(&(entry.end.0 - 1)));
        }
        let counted: u32 = records.entries.iter().map(|entry| entry.samples).sum();
        counted as usize
    }

    #[test]
    fn one_resource_out_of_bounds_does_not_take_the_others_with_it() {
        let ids = ["a".to_owned(), "x".repeat(MAX_TEXT_BYTES + 1), "b".to_owned()];
        let records = of_samples(samples(ids.into_iter()), 1);
        assert_eq!(rows(&records), 2);
        let refused: u32 = records.refused.iter().map(|entry| entry.samples).sum();
        assert_eq!(refused, 1);
    }

    #[test]
    fn the_samples_left_stay_in_their_epoch() {
        let start = Timestamp::from_seconds(1_000_000_000);
        let epoch = Epoch { instance: "node".to_owned(), sequence: 7, start };
        let ids = ["a".to_owned(), "x".repeat(MAX_TEXT_BYTES + 1), "b".to_owned()];
        let records = of_samples(samples(ids.into_iter()).in_epoch(epoch.clone()), 1);
        assert_eq!(rows(&records), 2);
        let left = records.entries.iter().map(|entry| decode(&entry.payload).unwrap().epoch);
        assert!(left.into_iter().all(|left| left == epoch));
    }

    #[test]
    fn more_resources_than_a_record_names_are_split() {
        let count = MAX_SUBJECTS + 1_000;
        let records = of_samples(samples((0..count).map(|n| format!("vm-{n}"))), 1);
        assert_eq!(rows(&records), count);
        assert!(records.refused.is_empty());
    }
}
