//! The series in use: what each id stands for, and which share an identity.
//!
//! Labels are interned per column, so a sample's label is a small integer until somebody asks for
//! text. The identity of a sample is `(meter, resource, at)`; several series share `(meter,
//! resource)` when a VM moved, was transferred, or was seen by two sources.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::StringArray;
use nilometer_store::{Labels, SeriesId};

/// Number of label columns.
pub const COLUMNS: usize = 6;
/// Names of the label columns, in order.
pub const LABEL_NAMES: [&str; COLUMNS] = ["meter", "resource", "kind", "project", "node", "source"];
const METER: usize = 0;
const RESOURCE: usize = 1;
const NODE: usize = 4;
const SOURCE: usize = 5;

/// Two label sets have one id; astronomically rare, never silent.
#[derive(Debug, thiserror::Error)]
#[error("series {id} stands for other labels already")]
pub struct Collision {
    /// The id.
    pub id: SeriesId,
}

/// One interned column.
#[derive(Debug, Default)]
struct Column {
    keys: Vec<u32>,
    values: Vec<Arc<str>>,
    places: HashMap<Arc<str>, u32>,
    cached: Option<StringArray>,
}

/// All series known, each in a slot; slots are dense and never change.
#[derive(Debug, Default)]
pub struct SeriesIndex {
    slots: hashbrown::HashMap<SeriesId, u32>,
    ids: Vec<SeriesId>,
    columns: [Column; COLUMNS],
    identity: Vec<u32>,
    identities: HashMap<(u32, u32), u32>,
    members: Vec<Vec<u32>>,
    /// Series of each source and node.
    of_source: HashMap<(u32, u32), usize>,
}

impl Column {
    fn intern(&mut self, text: &str) -> u32 {
        if let Some(&place) = self.places.get(text) {
            return place;
        }
        let place = self.values.len() as u32;
        let text: Arc<str> = text.into();
        self.values.push(text.clone());
        self.places.insert(text, place);
        self.cached = None;
        place
    }
}

impl SeriesIndex {
    /// Number of series.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Slot of a series.
    pub fn slot(&self, id: SeriesId) -> Option<u32> {
        self.slots.get(&id).copied()
    }

    /// Id of the series in a slot.
    pub fn id(&self, slot: u32) -> SeriesId {
        self.ids[slot as usize]
    }

    /// Ids by slot.
    pub fn ids(&self) -> &[SeriesId] {
        &self.ids
    }

    /// Identity that the series in a slot belongs to.
    pub fn identity(&self, slot: u32) -> u32 {
        self.identity[slot as usize]
    }

    /// Number of identities.
    pub fn identities(&self) -> usize {
        self.members.len()
    }

    /// Slots of one identity.
    pub fn members(&self, identity: u32) -> &[u32] {
        &self.members[identity as usize]
    }

    /// Adds a series, or finds it; says whether it is new.
    pub fn insert(
        &mut self,
        id: SeriesId,
        labels: &Labels<&str>,
    ) -> Result<(u32, bool), Collision> {
        let Labels { meter, resource, kind, project, node, source } = *labels;
        let texts = [meter, resource, kind, project, node, source];
        if let Some(&slot) = self.slots.get(&id) {
            let same = texts.iter().enumerate().all(|(at, text)| self.label(slot, at) == *text);
            return if same { Ok((slot, false)) } else { Err(Collision { id }) };
        }
        let slot = self.ids.len() as u32;
        self.ids.push(id);
        self.slots.insert(id, slot);
        for (column, text) in self.columns.iter_mut().zip(texts) {
            let place = column.intern(text);
            column.keys.push(place);
        }
        let key =
            (self.columns[METER].keys[slot as usize], self.columns[RESOURCE].keys[slot as usize]);
        let identity = *self.identities.entry(key).or_insert_with(|| {
            self.members.push(Vec::new());
            (self.members.len() - 1) as u32
        });
        self.members[identity as usize].push(slot);
        self.identity.push(identity);
        let of = (self.columns[SOURCE].keys[slot as usize], self.columns[NODE].keys[slot as usize]);
        *self.of_source.entry(of).or_default() += 1;
        Ok((slot, true))
    }

    /// Number of series that one source has on one node.
    pub fn of_source(&self, source: &str, node: &str) -> usize {
        let place = |column: usize, text: &str| self.columns[column].places.get(text).copied();
        let of = place(SOURCE, source).zip(place(NODE, node));
        of.and_then(|of| self.of_source.get(&of)).copied().unwrap_or(0)
    }

    /// Text of one label.
    pub fn label(&self, slot: u32, column: usize) -> &str {
        let column = &self.columns[column];
        &column.values[column.keys[slot as usize] as usize]
    }

    /// All labels of a series.
    pub fn labels(&self, slot: u32) -> Labels<&str> {
        Labels {
            meter: self.label(slot, 0),
            resource: self.label(slot, 1),
            kind: self.label(slot, 2),
            project: self.label(slot, 3),
            node: self.label(slot, 4),
            source: self.label(slot, 5),
        }
    }

    /// Per slot, the place of its label in [`values`](Self::values).
    pub fn keys(&self, column: usize) -> &[u32] {
        &self.columns[column].keys
    }

    /// Distinct labels of a column; cached until a new one appears.
    pub fn values(&mut self, column: usize) -> StringArray {
        let column = &mut self.columns[column];
        let values = &column.values;
        column
            .cached
            .get_or_insert_with(|| StringArray::from_iter_values(values.iter().map(AsRef::as_ref)))
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels<'a>(resource: &'a str, node: &'a str) -> Labels<&'a str> {
        Labels { meter: "cpu.time", resource, kind: "vm", project: "p", node, source: "s" }
    }

    #[test]
    fn a_moved_vm_is_two_series_of_one_identity() {
        let mut index = SeriesIndex::default();
        assert_eq!(index.insert(1, &labels("vm", "a")).unwrap(), (0, true));
        assert_eq!(index.insert(2, &labels("vm", "b")).unwrap(), (1, true));
        assert_eq!(index.insert(1, &labels("vm", "a")).unwrap(), (0, false));
        assert_eq!(index.insert(3, &labels("other", "a")).unwrap(), (2, true));
        assert_eq!(index.identity(0), index.identity(1));
        assert_eq!(index.members(index.identity(0)), [0, 1]);
        assert_ne!(index.identity(0), index.identity(2));
        assert_eq!(index.labels(1), labels("vm", "b"));
        assert_eq!(index.values(4), StringArray::from(vec!["a", "b"]));
    }

    #[test]
    fn other_labels_under_a_known_id_collide() {
        let mut index = SeriesIndex::default();
        index.insert(1, &labels("vm", "a")).unwrap();
        assert!(index.insert(1, &labels("vm", "b")).is_err());
    }
}
