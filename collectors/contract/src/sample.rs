//! Samples in batches: columns, not objects, so that a million cost no allocation each.

use arrow::array::{Array, StringArray};
use arrow::buffer::ScalarBuffer;

use crate::catalogue::Statement;
use crate::epoch::Epoch;
use crate::kind::ResourceKind;
use crate::labels::Labels;
use crate::meter::MeterKind;
use crate::resource::Resource;

/// Samples of one source, read within one epoch.
///
/// A sample is one observation `(meter, resource, labels, source, at) → value`, and that is its
/// identity: storing it twice is a no-op, another value under it is an error. What two sources
/// say of one meter of one resource are two samples; usage counts those of one source, see
/// [`Precedence`](crate::Precedence). A source that sees a VM on two nodes is one source.
///
/// Column `i` of each array is sample `i`; `meter` and `resource` are places in `meters` and
/// `subjects`.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleBatch {
    /// Name of the source, such as `libvirt`.
    pub source: String,
    /// The stretch of the source instance's clock in which all of them were read.
    pub epoch: Epoch,
    /// The meters that occur.
    pub meters: Meters,
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

/// The meters of a batch as columns of equal length, each meter once.
#[derive(Clone, Debug, PartialEq)]
pub struct Meters {
    /// Names.
    pub name: StringArray,
    /// Kinds, by name; empty where not stated.
    pub kind: StringArray,
    /// Base units; empty where not stated.
    pub unit: StringArray,
}

/// The resources of a batch, with further labels of their series, as columns of equal length.
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
    /// Further labels, as text; see [`Labels`].
    pub labels: StringArray,
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
    /// Further labels of the series.
    pub labels: Labels,
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
            meters: Meters {
                name: pick(&self.meters.name, &meters),
                kind: pick(&self.meters.kind, &meters),
                unit: pick(&self.meters.unit, &meters),
            },
            subjects: Subjects {
                id: pick(&self.subjects.id, &subjects),
                kind: pick(&self.subjects.kind, &subjects),
                project: pick(&self.subjects.project, &subjects),
                node: pick(&self.subjects.node, &subjects),
                labels: pick(&self.subjects.labels, &subjects),
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

impl Meters {
    /// Number of meters.
    pub fn len(&self) -> usize {
        self.name.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.name.is_empty()
    }

    pub(crate) fn columns(&self) -> [&StringArray; 3] {
        [&self.name, &self.kind, &self.unit]
    }

    /// What is stated of one of them.
    pub fn statement(&self, place: usize) -> Statement {
        Statement {
            kind: MeterKind::sampled(self.kind.value(place)),
            unit: self.unit.value(place).parse().ok(),
        }
    }
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

    pub(crate) fn columns(&self) -> [&StringArray; 5] {
        [&self.id, &self.kind, &self.project, &self.node, &self.labels]
    }
}

impl From<&Resource> for Subject {
    fn from(resource: &Resource) -> Self {
        Subject {
            id: resource.id.clone(),
            kind: resource.kind.clone(),
            project: resource.project.clone(),
            node: resource.node.clone(),
            labels: Labels::none(),
        }
    }
}

impl Subject {
    /// The same resource, for samples with further labels.
    #[must_use]
    pub fn with_labels(self, labels: Labels) -> Self {
        Subject { labels, ..self }
    }
}
