//! The series in use: what each id stands for, and which share an identity.
//!
//! Labels are interned per column, so a sample's label is a small integer until somebody asks for
//! text. The identity of a sample is `(meter, resource, labels, source, at)`; several series share
//! all but the instant when a VM moved or was transferred.
//!
//! The catalogue is here because a meter that nobody declared is known by its series.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::StringArray;
use nilometer_contract::{Catalogue, InvalidName, Statement, catalogue, pairs_of};
use nilometer_store::{Description, SeriesColumn, SeriesId, text_hash};

/// Two descriptions have one id; astronomically rare, never silent.
#[derive(Debug, thiserror::Error)]
#[error("series {id} stands for another description already")]
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
#[derive(Debug)]
pub struct SeriesIndex {
    catalogue: Arc<Catalogue>,
    slots: hashbrown::HashMap<SeriesId, u32>,
    ids: Vec<SeriesId>,
    columns: [Column; SeriesColumn::COUNT],
    identity: Vec<u32>,
    identities: HashMap<[u32; 4], u32>,
    members: Vec<Vec<u32>>,
    counts: Counts,
}

/// How many there are of what is bounded.
#[derive(Debug, Default)]
struct Counts {
    /// Series of each source and node.
    of_source: HashMap<(u32, u32), usize>,
    /// Series of each project.
    of_project: HashMap<u32, usize>,
    /// Digests of the values of each further label, by source and project.
    values: HashMap<(u32, u32, String), HashSet<u64>>,
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

impl Default for SeriesIndex {
    /// No series, and the built-in catalogue.
    fn default() -> Self {
        SeriesIndex::with(Arc::new(catalogue().clone()))
    }
}

impl SeriesIndex {
    /// No series, and a catalogue of what is declared.
    pub fn with(catalogue: Arc<Catalogue>) -> Self {
        SeriesIndex {
            catalogue,
            slots: hashbrown::HashMap::new(),
            ids: Vec::new(),
            columns: Default::default(),
            identity: Vec::new(),
            identities: HashMap::new(),
            members: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// Meters and kinds that are declared, and meters that the series are of.
    pub fn catalogue(&self) -> &Arc<Catalogue> {
        &self.catalogue
    }

    /// Makes a meter known before a series of it is inserted; one that is known stays as it is.
    pub fn learn(
        &mut self,
        meter: &str,
        stated: impl FnOnce() -> Statement,
        source: &str,
    ) -> Result<(), InvalidName> {
        if self.catalogue.find(meter).is_none() {
            Arc::make_mut(&mut self.catalogue).learn(meter, stated(), source)?;
        }
        Ok(())
    }

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
        described: &Description<&str>,
    ) -> Result<(u32, bool), Collision> {
        if let Some(&slot) = self.slots.get(&id) {
            let same = self.description(slot) == *described;
            return if same { Ok((slot, false)) } else { Err(Collision { id }) };
        }
        let slot = self.ids.len() as u32;
        self.ids.push(id);
        self.slots.insert(id, slot);
        let key: [u32; SeriesColumn::COUNT] = SeriesColumn::ALL.map(|at| {
            let column = &mut self.columns[at as usize];
            let place = column.intern(described.get(at));
            column.keys.push(place);
            place
        });
        let of = |at: SeriesColumn| key[at as usize];
        let identity_key = [
            of(SeriesColumn::Meter),
            of(SeriesColumn::Resource),
            of(SeriesColumn::Labels),
            of(SeriesColumn::Source),
        ];
        let identity = *self.identities.entry(identity_key).or_insert_with(|| {
            self.members.push(Vec::new());
            (self.members.len() - 1) as u32
        });
        self.members[identity as usize].push(slot);
        self.identity.push(identity);
        let (source, project) = (of(SeriesColumn::Source), of(SeriesColumn::Project));
        self.counts.note((source, of(SeriesColumn::Node), project), described.labels);
        Ok((slot, true))
    }

    fn key(&self, column: SeriesColumn, text: &str) -> Option<u32> {
        self.columns[column as usize].places.get(text).copied()
    }

    /// Whether any series has this text in a column.
    pub fn has(&self, column: SeriesColumn, text: &str) -> bool {
        self.key(column, text).is_some()
    }

    /// Number of series that one source has on one node.
    pub fn of_source(&self, source: &str, node: &str) -> usize {
        let of = self.key(SeriesColumn::Source, source).zip(self.key(SeriesColumn::Node, node));
        of.and_then(|of| self.counts.of_source.get(&of)).copied().unwrap_or(0)
    }

    /// Number of series that are labelled with a project.
    pub fn of_project(&self, project: &str) -> usize {
        let of = self.key(SeriesColumn::Project, project);
        of.and_then(|of| self.counts.of_project.get(&of)).copied().unwrap_or(0)
    }

    /// The further labels that would be given one more value than `most` by this source in this
    /// project.
    pub fn full_label(&self, described: &Description<&str>, most: usize) -> Option<String> {
        let source = self.key(SeriesColumn::Source, described.source)?;
        let project = self.key(SeriesColumn::Project, described.project)?;
        pairs_of(described.labels).into_iter().find_map(|(label, value)| {
            let values = self.counts.values.get(&(source, project, label.clone()))?;
            (values.len() >= most && !values.contains(&text_hash(&value))).then_some(label)
        })
    }

    /// Text of one column.
    pub fn text(&self, slot: u32, column: SeriesColumn) -> &str {
        let column = &self.columns[column as usize];
        &column.values[column.keys[slot as usize] as usize]
    }

    /// All that describes a series.
    pub fn description(&self, slot: u32) -> Description<&str> {
        Description::of(|column| self.text(slot, column))
    }

    /// Per slot, the place of its text in [`values`](Self::values).
    pub fn keys(&self, column: SeriesColumn) -> &[u32] {
        &self.columns[column as usize].keys
    }

    /// Distinct texts of a column; cached until a new one appears.
    pub fn values(&mut self, column: SeriesColumn) -> StringArray {
        let column = &mut self.columns[column as usize];
        let values = &column.values;
        column
            .cached
            .get_or_insert_with(|| StringArray::from_iter_values(values.iter().map(AsRef::as_ref)))
            .clone()
    }
}

impl Counts {
    fn note(&mut self, (source, node, project): (u32, u32, u32), labels: &str) {
        *self.of_source.entry((source, node)).or_default() += 1;
        *self.of_project.entry(project).or_default() += 1;
        for (label, value) in pairs_of(labels) {
            let values = self.values.entry((source, project, label)).or_default();
            values.insert(text_hash(&value));
        }
    }
}

#[cfg(test)]
mod tests {
    use nilometer_contract::Labels;

    use super::*;

    fn series<'a>(resource: &'a str, node: &'a str) -> Description<&'a str> {
        let (meter, kind, project) = ("cpu.time", "vm", "p");
        Description { meter, resource, kind, project, node, source: "s", labels: "" }
    }

    #[test]
    fn a_further_label_is_another_identity_and_its_values_are_counted() {
        let mut index = SeriesIndex::default();
        let texts = ["a", "b", "c"].map(|value| Labels::new([("device", value)]).unwrap());
        let labelled = |n: usize| Description { labels: texts[n].as_str(), ..series("vm", "n") };
        for n in 0..2 {
            assert_eq!(index.full_label(&labelled(n), 2), None);
            index.insert(n as i64, &labelled(n)).unwrap();
        }
        assert_ne!(index.identity(0), index.identity(1));
        assert_eq!(index.full_label(&labelled(1), 2), None);
        assert_eq!(index.full_label(&labelled(2), 2), Some("device".to_owned()));
        let other = Description { source: "t", ..labelled(2) };
        assert_eq!(
            index.insert(3, &Description { source: "t", ..labelled(0) }).unwrap(),
            (2, true)
        );
        assert_ne!(index.identity(0), index.identity(2), "another source is another identity");
        assert_eq!(index.full_label(&other, 2), None);
        assert_eq!((index.of_project("p"), index.of_project("q")), (3, 0));
    }

    #[test]
    fn a_moved_vm_is_two_series_of_one_identity() {
        let mut index = SeriesIndex::default();
        assert_eq!(index.insert(1, &series("vm", "a")).unwrap(), (0, true));
        assert_eq!(index.insert(2, &series("vm", "b")).unwrap(), (1, true));
        assert_eq!(index.insert(1, &series("vm", "a")).unwrap(), (0, false));
        assert_eq!(index.insert(3, &series("other", "a")).unwrap(), (2, true));
        assert_eq!(index.identity(0), index.identity(1));
        assert_eq!(index.members(index.identity(0)), [0, 1]);
        assert_ne!(index.identity(0), index.identity(2));
        assert_eq!(index.description(1), series("vm", "b"));
        assert_eq!(index.values(SeriesColumn::Node), StringArray::from(vec!["a", "b"]));
    }

    #[test]
    fn other_labels_under_a_known_id_collide() {
        let mut index = SeriesIndex::default();
        index.insert(1, &series("vm", "a")).unwrap();
        assert!(index.insert(1, &series("vm", "b")).is_err());
    }
}
