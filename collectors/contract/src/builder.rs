//! Collects samples into a batch.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::StringArray;

use crate::catalogue::{Statement, catalogue};
use crate::epoch::Epoch;
use crate::meter::{Meter, MeterKind, Unit};
use crate::sample::{Meters, SampleBatch, Subject, Subjects};
use crate::time::Timestamp;

/// Collects the samples of one observation, then becomes a batch.
///
/// A value that is not finite is left out and counted: it could never be billed.
#[derive(Debug)]
pub struct BatchBuilder {
    source: String,
    epoch: Epoch,
    subjects: Vec<Subject>,
    places: HashMap<Subject, u32>,
    meters: Vec<(Arc<str>, Statement)>,
    meter_places: HashMap<Arc<str>, u16>,
    at: Vec<i64>,
    meter: Vec<u16>,
    resource: Vec<u32>,
    value: Vec<f64>,
    not_finite: usize,
}

impl BatchBuilder {
    /// An empty batch of a source.
    pub fn new(source: impl Into<String>) -> Self {
        BatchBuilder {
            source: source.into(),
            epoch: Epoch::none(),
            subjects: Vec::new(),
            places: HashMap::new(),
            meters: Vec::new(),
            meter_places: HashMap::new(),
            at: Vec::new(),
            meter: Vec::new(),
            resource: Vec::new(),
            value: Vec::new(),
            not_finite: 0,
        }
    }

    /// The same samples, as read within an epoch.
    #[must_use]
    pub fn in_epoch(self, epoch: Epoch) -> Self {
        BatchBuilder { epoch, ..self }
    }

    /// The same samples in another epoch, as if the last had been read at `last` and the others as
    /// long before it as they were. Those of a series are in order: what then lies before the
    /// epoch, or not before the next of its series, is left out, but for the last of each series.
    /// Resources that differ in further labels are different series.
    #[must_use]
    pub fn moved_to(self, epoch: &Epoch, last: Timestamp) -> Self {
        let shift = last.0.saturating_sub(self.at.last().copied().unwrap_or(0));
        let (mut next, mut kept) = (HashMap::new(), Vec::new());
        for row in (0..self.len()).rev() {
            let at = self.at[row].saturating_add(shift);
            let Subject { id, labels, .. } = &self.subjects[self.resource[row] as usize];
            let later = next.entry((self.meter[row], id, labels)).or_insert(i64::MAX);
            let is_last = *later == i64::MAX;
            if is_last || (epoch.start.0..*later).contains(&at) {
                *later = at.clamp(epoch.start.0, last.0.max(epoch.start.0));
                kept.push((row, *later));
            }
        }
        kept.reverse();
        BatchBuilder {
            at: kept.iter().map(|&(_, at)| at).collect(),
            meter: kept.iter().map(|&(row, _)| self.meter[row]).collect(),
            resource: kept.iter().map(|&(row, _)| self.resource[row]).collect(),
            value: kept.iter().map(|&(row, _)| self.value[row]).collect(),
            epoch: epoch.clone(),
            ..self
        }
    }

    /// The place of a resource as it is now, for [`push`](Self::push).
    pub fn subject(&mut self, subject: impl Into<Subject>) -> u32 {
        let subject = subject.into();
        if let Some(&place) = self.places.get(&subject) {
            return place;
        }
        let place = self.subjects.len() as u32;
        self.places.insert(subject.clone(), place);
        self.subjects.push(subject);
        place
    }

    /// Adds all samples of another batch of the same epoch, so that what is said of a resource is
    /// said once.
    pub fn append(&mut self, other: BatchBuilder) {
        assert_eq!(self.epoch, other.epoch, "a batch is of one epoch");
        let places: Vec<u32> =
            other.subjects.into_iter().map(|subject| self.subject(subject)).collect();
        let meters: Vec<u16> =
            other.meters.iter().map(|(name, stated)| self.meter(name, stated)).collect();
        for row in 0..other.value.len() {
            let meter = meters[usize::from(other.meter[row])];
            let subject = places[other.resource[row] as usize];
            self.add(subject, meter, Timestamp(other.at[row]), other.value[row]);
        }
        self.not_finite += other.not_finite;
    }

    /// The place of a meter as a record states it, for [`add`](Self::add); what is stated of one
    /// that is there already is left out.
    pub fn meter(&mut self, name: &str, stated: &Statement) -> u16 {
        self.meter_or(name, || stated.clone())
    }

    fn meter_or(&mut self, name: &str, stated: impl FnOnce() -> Statement) -> u16 {
        if let Some(&place) = self.meter_places.get(name) {
            return place;
        }
        let place = u16::try_from(self.meters.len()).unwrap_or_else(|_| {
            panic!("a batch has at most {} meters", u16::MAX);
        });
        let name: Arc<str> = name.into();
        self.meters.push((name.clone(), stated()));
        self.meter_places.insert(name, place);
        place
    }

    /// Adds one sample of a subject and a meter of this builder, by their places.
    pub fn add(&mut self, subject: u32, meter: u16, at: Timestamp, value: f64) {
        assert!((subject as usize) < self.subjects.len(), "the subject is of this builder");
        assert!(usize::from(meter) < self.meters.len(), "the meter is of this builder");
        if !value.is_finite() {
            self.not_finite += 1;
            return;
        }
        self.at.push(at.0);
        self.meter.push(meter);
        self.resource.push(subject);
        self.value.push(value);
    }

    /// Adds one sample of a meter, which states what the meter is.
    pub fn push(&mut self, subject: u32, meter: &Meter, at: Timestamp, value: f64) {
        let place = self.meter_or(&meter.name, || Statement::of(meter));
        self.add(subject, place, at, value);
    }

    /// Adds one sample by the name of its meter, which the catalogue of this version may or may
    /// not have.
    pub fn push_named(&mut self, subject: u32, meter: &str, at: Timestamp, value: f64) {
        let place = self.meter_or(meter, || {
            catalogue().find(meter).map(|meter| Statement::of(meter)).unwrap_or_default()
        });
        self.add(subject, place, at, value);
    }

    /// The source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Number of samples so far.
    pub fn len(&self) -> usize {
        self.value.len()
    }

    /// Whether there is no sample yet.
    pub fn is_empty(&self) -> bool {
        self.value.is_empty()
    }

    /// How many values were left out because they were not finite.
    pub fn not_finite(&self) -> usize {
        self.not_finite
    }

    /// An empty batch of the same source and epoch.
    fn like(&self) -> Self {
        BatchBuilder::new(self.source.clone()).in_epoch(self.epoch.clone())
    }

    /// One batch per partition that has samples, in order of partition.
    pub fn build_partitioned(self, partitions: u32) -> Vec<(u32, SampleBatch)> {
        let home: Vec<u32> = self
            .subjects
            .iter()
            .map(|subject| crate::topic::partition_of(&subject.id, partitions))
            .collect();
        let mut parts: Vec<BatchBuilder> = (0..partitions).map(|_| self.like()).collect();
        let places: Vec<u32> = self
            .subjects
            .into_iter()
            .zip(&home)
            .map(|(subject, &partition)| parts[partition as usize].subject(subject))
            .collect();
        let mut meters = vec![vec![None; self.meters.len()]; parts.len()];
        for row in 0..self.value.len() {
            let subject = self.resource[row] as usize;
            let home = home[subject] as usize;
            let (part, meter) = (&mut parts[home], usize::from(self.meter[row]));
            let meter = *meters[home][meter].get_or_insert_with(|| {
                let (name, stated) = &self.meters[meter];
                part.meter(name, stated)
            });
            part.add(places[subject], meter, Timestamp(self.at[row]), self.value[row]);
        }
        (0..).zip(parts).filter(|(_, p)| !p.is_empty()).map(|(n, p)| (n, p.build())).collect()
    }

    /// The finished batch.
    pub fn build(self) -> SampleBatch {
        let texts = |text: fn(&Subject) -> &str| {
            StringArray::from_iter_values(self.subjects.iter().map(text))
        };
        let meters = || self.meters.iter();
        let kind = |stated: &Statement| stated.kind.as_ref().map_or("", MeterKind::as_str);
        let units = meters().map(|(_, stated)| stated.unit.as_ref().map_or("", Unit::as_str));
        SampleBatch {
            meters: Meters {
                name: StringArray::from_iter_values(meters().map(|(name, _)| name)),
                kind: StringArray::from_iter_values(meters().map(|(_, stated)| kind(stated))),
                unit: StringArray::from_iter_values(units),
            },
            subjects: Subjects {
                id: texts(|subject| &subject.id),
                kind: texts(|subject| subject.kind.as_str()),
                project: texts(|subject| &subject.project),
                node: texts(|subject| &subject.node),
                labels: texts(|subject| subject.labels.as_str()),
            },
            source: self.source,
            epoch: self.epoch,
            at: self.at.into(),
            meter: self.meter.into(),
            resource: self.resource.into(),
            value: self.value.into(),
        }
    }
}
