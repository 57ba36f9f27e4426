//! Samples in batches: columns, not objects, so that a million cost no allocation each.

use std::collections::HashMap;

use arrow::array::{Array, StringArray};
use arrow::buffer::ScalarBuffer;

use crate::epoch::Epoch;
use crate::meter::{MeterId, catalogue};
use crate::resource::{Resource, ResourceKind};
use crate::time::Timestamp;

/// Samples of one source, read within one epoch.
///
/// A sample is one observation `(meter, resource, at) → value`, and that triple is its identity:
/// storing it twice is a no-op, another value under it is an error.
///
/// Column `i` of each array is sample `i`; `meter` and `resource` are places in `meters` and
/// `subjects`.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleBatch {
    /// Name of the source, such as `libvirt`.
    pub source: String,
    /// The stretch of the source instance's clock in which all of them were read.
    pub epoch: Epoch,
    /// Names of the meters that occur.
    pub meters: StringArray,
    /// The resources that occur.
    pub subjects: Subjects,
    /// Instants, microseconds since the epoch.
    pub at: ScalarBuffer<i64>,
    /// Places in `meters`.
    pub meter: ScalarBuffer<u16>,
    /// Places in `subjects`.
    pub resource: ScalarBuffer<u32>,
    /// Values in the meter's base unit.
    pub value: ScalarBuffer<f64>,
}

/// The resources of a batch as columns of equal length.
#[derive(Clone, Debug, PartialEq)]
pub struct Subjects {
    /// Resource ids.
    pub id: StringArray,
    /// Resource kinds, by name.
    pub kind: StringArray,
    /// Projects.
    pub project: StringArray,
    /// Nodes.
    pub node: StringArray,
}

/// One resource as samples name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subject {
    /// Resource id.
    pub id: String,
    /// Resource kind.
    pub kind: ResourceKind,
    /// Project.
    pub project: String,
    /// Node.
    pub node: String,
}

impl SampleBatch {
    /// Number of samples.
    pub fn len(&self) -> usize {
        self.value.len()
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.value.is_empty()
    }

    /// Samples `from..from + count` with the same dictionaries; copies nothing.
    pub fn slice(&self, from: usize, count: usize) -> SampleBatch {
        SampleBatch {
            at: self.at.slice(from, count),
            meter: self.meter.slice(from, count),
            resource: self.resource.slice(from, count),
            value: self.value.slice(from, count),
            ..self.clone()
        }
    }
}

impl SampleBatch {
    /// The same samples, with only the resources and meters that occur in its dictionaries.
    pub(crate) fn compacted(&self) -> SampleBatch {
        let (subjects, resource) = used(self.subjects.len(), self.resource.iter().copied());
        let (meters, meter) = used(self.meters.len(), self.meter.iter().map(|&n| u32::from(n)));
        let pick = |texts: &StringArray, places: &[usize]| {
            StringArray::from_iter_values(places.iter().map(|&place| texts.value(place)))
        };
        SampleBatch {
            meters: pick(&self.meters, &meters),
            subjects: Subjects {
                id: pick(&self.subjects.id, &subjects),
                kind: pick(&self.subjects.kind, &subjects),
                project: pick(&self.subjects.project, &subjects),
                node: pick(&self.subjects.node, &subjects),
            },
            meter: meter.into_iter().map(|place| place as u16).collect(),
            resource: resource.into(),
            ..self.clone()
        }
    }
}

/// The places in use, in order, and each row's place among them.
fn used(places: usize, rows: impl Iterator<Item = u32> + Clone) -> (Vec<usize>, Vec<u32>) {
    let mut new = vec![u32::MAX; places];
    rows.clone().for_each(|place| new[place as usize] = 0);
    let kept: Vec<usize> = (0..places).filter(|&place| new[place] == 0).collect();
    kept.iter().zip(0..).for_each(|(&place, n)| new[place] = n);
    let rows = rows.map(|place| new[place as usize]).collect();
    (kept, rows)
}

impl Subjects {
    /// Number of resources.
    pub fn len(&self) -> usize {
        self.id.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.id.is_empty()
    }
}

impl From<&Resource> for Subject {
    fn from(resource: &Resource) -> Self {
        Subject {
            id: resource.id.clone(),
            kind: resource.kind,
            project: resource.project.clone(),
            node: resource.node.clone(),
        }
    }
}

/// Collects the samples of one observation, then becomes a batch.
///
/// A value that is not finite is left out and counted: it could never be billed.
#[derive(Debug)]
pub struct BatchBuilder {
    source: String,
    epoch: Epoch,
    subjects: Vec<Subject>,
    places: HashMap<Subject, u32>,
    meters: Vec<MeterId>,
    meter_places: HashMap<MeterId, u16>,
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
    #[must_use]
    pub fn moved_to(self, epoch: &Epoch, last: Timestamp) -> Self {
        let shift = last.0.saturating_sub(self.at.last().copied().unwrap_or(0));
        let (mut next, mut kept) = (HashMap::new(), Vec::new());
        for row in (0..self.len()).rev() {
            let at = self.at[row].saturating_add(shift);
            let resource = &self.subjects[self.resource[row] as usize].id;
            let later = next.entry((self.meter[row], resource)).or_insert(i64::MAX);
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
        for row in 0..other.value.len() {
            let meter = other.meters[usize::from(other.meter[row])];
            let subject = places[other.resource[row] as usize];
            self.push(subject, meter, Timestamp(other.at[row]), other.value[row]);
        }
        self.not_finite += other.not_finite;
    }

    /// Adds one sample.
    pub fn push(&mut self, subject: u32, meter: MeterId, at: Timestamp, value: f64) {
        assert!((subject as usize) < self.subjects.len(), "the subject is of this builder");
        if !value.is_finite() {
            self.not_finite += 1;
            return;
        }
        let meter = *self.meter_places.entry(meter).or_insert_with(|| {
            self.meters.push(meter);
            (self.meters.len() - 1) as u16
        });
        self.at.push(at.0);
        self.meter.push(meter);
        self.resource.push(subject);
        self.value.push(value);
    }

    /// Adds one sample by the name of its meter; panics on a meter that is not in the catalogue,
    /// which is a mistake in the source's code.
    pub fn push_named(&mut self, subject: u32, meter: &str, at: Timestamp, value: f64) {
        match catalogue().find(meter) {
            Some(id) => self.push(subject, id, at, value),
            None => panic!("meter {meter} is in the catalogue"),
        }
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
        for row in 0..self.value.len() {
            let subject = self.resource[row] as usize;
            let meter = self.meters[usize::from(self.meter[row])];
            let at = Timestamp(self.at[row]);
            parts[home[subject] as usize].push(places[subject], meter, at, self.value[row]);
        }
        (0..).zip(parts).filter(|(_, p)| !p.is_empty()).map(|(n, p)| (n, p.build())).collect()
    }

    /// The finished batch.
    pub fn build(self) -> SampleBatch {
        let texts = |text: fn(&Subject) -> &str| {
            StringArray::from_iter_values(self.subjects.iter().map(text))
        };
        let names = self.meters.iter().map(|&id| catalogue().get(id).name.as_str());
        SampleBatch {
            meters: StringArray::from_iter_values(names),
            subjects: Subjects {
                id: texts(|subject| &subject.id),
                kind: texts(|subject| subject.kind.as_str()),
                project: texts(|subject| &subject.project),
                node: texts(|subject| &subject.node),
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
