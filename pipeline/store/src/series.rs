//! A series: what describes its samples, and the digest that stands for it.
//!
//! ```text
//!  62          53 52                                                  0
//! │ hash of meter │ hash of meter, resource, …, further labels, source │    always ≥ 0
//! ```
//!
//! The meter is in the high bits so that a meter's series lie together in a sorted file. Delta
//! has no unsigned 64-bit type, hence 63 bits. Two descriptions under one id are detected when the
//! second is first seen, and its samples go to the dead letters.

use xxhash_rust::xxh3::xxh3_64;

const METER_BITS: u32 = 10;
const REST_BITS: u32 = 53;

/// Id of a series.
pub type SeriesId = i64;

/// A column that describes the samples of a series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SeriesColumn {
    /// Meter.
    Meter,
    /// Resource id.
    Resource,
    /// Resource kind.
    Kind,
    /// Project.
    Project,
    /// Node.
    Node,
    /// Source.
    Source,
    /// Further labels, as text.
    Labels,
}

/// What describes the samples of a series.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Description<T = String> {
    /// Meter.
    pub meter: T,
    /// Resource id.
    pub resource: T,
    /// Resource kind.
    pub kind: T,
    /// Project.
    pub project: T,
    /// Node.
    pub node: T,
    /// Source.
    pub source: T,
    /// Further labels, as text.
    pub labels: T,
}

/// Digests from which ids of many series of one batch are made without touching texts again.
#[derive(Clone, Copy, Debug)]
pub struct SeriesKey {
    /// [`text_hash`] of the meter.
    pub meter: u64,
    /// [`subject_hash`] of the resource, kind, project, node and labels.
    pub subject: u64,
    /// [`text_hash`] of the source.
    pub source: u64,
}

/// Digest of one text.
pub fn text_hash(text: &str) -> u64 {
    xxh3_64(text.as_bytes())
}

/// Digest of a resource as samples name it, with further labels.
pub fn subject_hash(id: &str, kind: &str, project: &str, node: &str, labels: &str) -> u64 {
    let mut bytes = [0_u8; 40];
    for (slot, text) in bytes.chunks_exact_mut(8).zip([id, kind, project, node, labels]) {
        slot.copy_from_slice(&text_hash(text).to_le_bytes());
    }
    xxh3_64(&bytes)
}

impl SeriesColumn {
    /// All of them.
    pub const ALL: [SeriesColumn; 7] = [
        SeriesColumn::Meter,
        SeriesColumn::Resource,
        SeriesColumn::Kind,
        SeriesColumn::Project,
        SeriesColumn::Node,
        SeriesColumn::Source,
        SeriesColumn::Labels,
    ];
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            SeriesColumn::Meter => "meter",
            SeriesColumn::Resource => "resource",
            SeriesColumn::Kind => "kind",
            SeriesColumn::Project => "project",
            SeriesColumn::Node => "node",
            SeriesColumn::Source => "source",
            SeriesColumn::Labels => "labels",
        }
    }

    /// Finds one by name.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|column| column.name() == name)
    }
}

impl SeriesKey {
    /// The id.
    pub fn id(self) -> SeriesId {
        let mut bytes = [0_u8; 24];
        bytes[..8].copy_from_slice(&self.meter.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.subject.to_le_bytes());
        bytes[16..].copy_from_slice(&self.source.to_le_bytes());
        let high = self.meter >> (64 - METER_BITS) << REST_BITS;
        (high | xxh3_64(&bytes) >> (64 - REST_BITS)) as i64
    }
}

impl<T> Description<T> {
    /// The text of each column, given by name.
    pub fn of(mut text: impl FnMut(SeriesColumn) -> T) -> Self {
        Description {
            meter: text(SeriesColumn::Meter),
            resource: text(SeriesColumn::Resource),
            kind: text(SeriesColumn::Kind),
            project: text(SeriesColumn::Project),
            node: text(SeriesColumn::Node),
            source: text(SeriesColumn::Source),
            labels: text(SeriesColumn::Labels),
        }
    }

    /// One column.
    pub fn get(&self, column: SeriesColumn) -> &T {
        match column {
            SeriesColumn::Meter => &self.meter,
            SeriesColumn::Resource => &self.resource,
            SeriesColumn::Kind => &self.kind,
            SeriesColumn::Project => &self.project,
            SeriesColumn::Node => &self.node,
            SeriesColumn::Source => &self.source,
            SeriesColumn::Labels => &self.labels,
        }
    }
}

impl<T: AsRef<str>> Description<T> {
    /// The id of the series.
    pub fn id(&self) -> SeriesId {
        let text = |column| self.get(column).as_ref();
        let subject = subject_hash(
            text(SeriesColumn::Resource),
            text(SeriesColumn::Kind),
            text(SeriesColumn::Project),
            text(SeriesColumn::Node),
            text(SeriesColumn::Labels),
        );
        let meter = text_hash(text(SeriesColumn::Meter));
        SeriesKey { meter, subject, source: text_hash(text(SeriesColumn::Source)) }.id()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_stable_and_positive() {
        let mut series = Description {
            meter: "cpu.time",
            resource: "vm-1",
            kind: "vm",
            project: "p",
            node: "n",
            source: "libvirt",
            labels: "",
        };
        let id = series.id();
        assert_eq!(id, 7_632_711_989_316_785_237);
        series.labels = "{\"device\":\"sda\"}";
        assert!(series.id() >= 0 && series.id() != id);
        assert_eq!(series.id() >> REST_BITS, id >> REST_BITS, "a meter's series lie together");
    }
}
