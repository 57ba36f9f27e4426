//! What readers see: tables ∪ memory tier, swapped as one.
//!
//! Invariant 6: a row is visible within a second of ingestion, each row once. A view is immutable;
//! when rows move from memory to a file, one swap replaces both lists, so no reader sees a row
//! twice or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, RwLock};

use arrow::array::RecordBatch;
use nilometer_clock::SharedClock;
use nilometer_contract::{Catalogue, History, HistoryBounds, ResourceKind, TableDef, Timestamp};
use nilometer_store::{Files, SeriesColumn};
use tokio::sync::watch;

use crate::epochs::Epochs;
use crate::gaps::KnownGaps;
use crate::index::SeriesIndex;

/// One table as readers see it.
#[derive(Clone, Debug)]
pub struct TableView {
    /// Definition.
    pub def: &'static TableDef,
    /// Version of the Delta table.
    pub version: i64,
    /// Its files.
    pub files: Files,
    /// Rows not yet in a file, with the columns of a file.
    pub memory: Vec<RecordBatch>,
}

/// All tables at one moment.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// By name.
    pub tables: BTreeMap<&'static str, TableView>,
    /// The start of metering: usage is computed from here on. None before the first sample.
    pub start: Option<Timestamp>,
    /// Samples before this may have expired.
    pub expired_before: Timestamp,
    /// Largest instant of a sample so far; as [`Tables::now`] gives it, at most the present.
    pub newest: Timestamp,
    /// Hours (their start, µs) that commits of this run touched, with the version of `samples` of
    /// the last such commit. At the bound the oldest hours are forgotten.
    pub touched: BTreeMap<i64, i64>,
}

/// What lives beside the tables in memory and grows with them.
#[derive(Clone, Debug, Default)]
pub struct Shared {
    /// The series.
    pub index: Arc<RwLock<SeriesIndex>>,
    /// The lifetimes of all resources.
    pub history: Arc<RwLock<History>>,
    /// The order of the samples' epochs.
    pub epochs: Arc<RwLock<Epochs>>,
    /// What is known to be missing.
    pub gaps: Arc<RwLock<KnownGaps>>,
}

impl Shared {
    /// Nothing yet but a catalogue of what is declared.
    pub fn with(catalogue: Arc<Catalogue>) -> Self {
        let history = History::new(HistoryBounds::default(), catalogue.precedence().clone());
        Shared {
            index: Arc::new(RwLock::new(SeriesIndex::with(catalogue))),
            history: Arc::new(RwLock::new(history)),
            ..Shared::default()
        }
    }
}

/// A reader's handle.
#[derive(Clone)]
pub struct Tables {
    /// The newest view as it was published.
    pub(crate) view: watch::Receiver<Arc<View>>,
    /// Series and lifetimes.
    pub shared: Shared,
    pub(crate) clock: SharedClock,
}

impl Tables {
    /// The meters and kinds that are known now.
    pub fn catalogue(&self) -> Arc<Catalogue> {
        let index = self.shared.index.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        index.catalogue().clone()
    }

    /// Kinds of all resources that are known, by samples or events.
    pub fn kinds_in_use(&self) -> BTreeSet<ResourceKind> {
        let mut index = self.shared.index.write().unwrap_or_else(|p| p.into_inner());
        let sampled = index.values(SeriesColumn::Kind);
        drop(index);
        let history = self.shared.history.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let segments = history.iter().flat_map(|(_, lifetime)| lifetime.segments());
        let mut kinds: BTreeSet<ResourceKind> =
            sampled.iter().flatten().filter_map(|kind| kind.parse().ok()).collect();
        for segment in segments {
            if !kinds.contains(&segment.state.kind) {
                kinds.insert(segment.state.kind.clone());
            }
        }
        kinds
    }

    /// Whether a kind is declared or any resource of it is known.
    pub fn knows_kind(&self, kind: &ResourceKind) -> bool {
        let index = self.shared.index.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        if index.catalogue().kind(kind).is_some() || index.has(SeriesColumn::Kind, kind.as_str()) {
            return true;
        }
        let history = self.shared.history.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut segments = history.iter().flat_map(|(_, lifetime)| lifetime.segments());
        segments.any(|segment| segment.state.kind == *kind)
    }

    /// The view of this moment.
    ///
    /// Samples that were read while a clock was ahead stay when it is back, and end no hour that
    /// is yet to come: the newest instant of a view is never past the present.
    pub fn now(&self) -> Arc<View> {
        let (view, present) = (self.view.borrow().clone(), self.clock.now());
        match view.newest > present {
            true => Arc::new(View { newest: present, ..View::clone(&view) }),
            false => view,
        }
    }
}
