//! From samples to records.

use std::sync::Arc;

use bytes::Bytes;
use nilometer_contract::{
    BatchBuilder, Labels, MAX_TEXT_BYTES, SampleBatch, Subject, Timestamp, WireError, check_name,
    encode_parts,
};

use crate::record::{Produced, ProducerRecord, Refusal, Refused, Topic};

/// Samples as records, each in the partition of its resources.
pub(crate) fn of_samples(samples: BatchBuilder, partitions: u32) -> Produced {
    let mut produced = Produced::default();
    let source: Arc<str> = samples.source().into();
    for (partition, batch) in samples.build_partitioned(partitions) {
        let Err(cause) = add(&mut produced, partition, &batch, &source) else { continue };
        // One resource out of bounds must not take the others with it.
        let (batch, refused) = salvage(&batch);
        if refused > 0 {
            let record = record(partition, &batch, refused, &source, Bytes::new());
            produced.refused.push(Refused { record, why: Refusal::Samples(cause) });
        }
        if let Err(cause) = add(&mut produced, partition, &batch, &source) {
            let record = record(partition, &batch, batch.len(), &source, Bytes::new());
            produced.refused.push(Refused { record, why: Refusal::Samples(cause) });
        }
    }
    produced
}

fn add(
    produced: &mut Produced,
    partition: u32,
    batch: &SampleBatch,
    source: &Arc<str>,
) -> Result<(), WireError> {
    let parts = encode_parts(batch)?.into_iter();
    produced.records.extend(
        parts.map(|(part, bytes)| record(partition, &part, part.len(), source, bytes.into())),
    );
    Ok(())
}

fn record(
    partition: u32,
    batch: &SampleBatch,
    samples: usize,
    source: &Arc<str>,
    payload: Bytes,
) -> ProducerRecord {
    let start = Timestamp(batch.at.iter().copied().min().unwrap_or(0));
    let end = Timestamp(batch.at.iter().copied().max().unwrap_or(0)).plus_micros(1);
    let (samples, source) = (u32::try_from(samples).unwrap_or(u32::MAX), source.clone());
    ProducerRecord { topic: Topic::Samples, partition, samples, start, end, source, payload }
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

    fn rows(records: &Produced) -> usize {
        for entry in &records.records {
            let batch = decode(&entry.payload).unwrap();
            assert_eq!(batch.len(), entry.samples as usize);
            assert_eq!(batch.at.iter().min(), Some(&entry.start.0));
            assert_eq!(batch.at.iter().max(), Some(&(entry.end.0 - 1)));
        }
        let counted: u32 = records.records.iter().map(|entry| entry.samples).sum();
        counted as usize
    }

    #[test]
    fn one_resource_out_of_bounds_does_not_take_the_others_with_it() {
        let ids = ["a".to_owned(), "x".repeat(MAX_TEXT_BYTES + 1), "b".to_owned()];
        let records = of_samples(samples(ids.into_iter()), 1);
        assert_eq!(rows(&records), 2);
        let refused: u32 = records.refused.iter().map(|entry| entry.record.samples).sum();
        assert_eq!(refused, 1);
    }

    #[test]
    fn the_samples_left_stay_in_their_epoch() {
        let start = Timestamp::from_seconds(1_000_000_000);
        let epoch = Epoch { instance: "node".to_owned(), sequence: 7, start };
        let ids = ["a".to_owned(), "x".repeat(MAX_TEXT_BYTES + 1), "b".to_owned()];
        let records = of_samples(samples(ids.into_iter()).in_epoch(epoch.clone()), 1);
        assert_eq!(rows(&records), 2);
        let left = records.records.iter().map(|entry| decode(&entry.payload).unwrap().epoch);
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
