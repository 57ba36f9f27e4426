//! Views for readers: files from the tables, rows from memory, swapped as one.

use std::sync::Arc;

use nilometer_contract::Timestamp;
use nilometer_store::Files;
use tokio::sync::watch;

use crate::sink::Sink;
use crate::state::State;
use crate::view::{TableView, View};

/// Makes views.
pub(crate) struct Publisher {
    view: watch::Sender<Arc<View>>,
    tables: Vec<TableView>,
    /// Which [`State::changes`] the small tables' rows in memory are of.
    shown: Option<u64>,
    expired_before: Timestamp,
}

impl Publisher {
    pub(crate) fn new() -> Self {
        let (view, _) = watch::channel(Arc::default());
        let expired_before = Timestamp(i64::MIN);
        Publisher { view, tables: Vec::new(), shown: None, expired_before }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    /// Learns of the files there are; nobody sees them before the next view.
    pub(crate) fn list(&mut self, sink: &Sink) {
        let view = |table: &nilometer_store::Table| TableView {
            def: table.def(),
            version: table.version(),
            files: table.files(),
            memory: Vec::new(),
        };
        self.expired_before = sink.samples.expired_before();
        self.tables = sink.tables().map(view).collect();
        self.shown = None;
    }

    /// Files of `samples`, as the views tell of them.
    pub(crate) fn sample_files(&self) -> Files {
        let samples = self.tables.iter().find(|table| table.def.name == "samples");
        samples.map(|table| table.files.clone()).unwrap_or_default()
    }

    /// Version of `samples` that has those files.
    pub(crate) fn sample_version(&self) -> i64 {
        let samples = self.tables.iter().find(|table| table.def.name == "samples");
        samples.map_or(0, |table| table.version)
    }

    /// Makes what was applied visible, if anything was since the last time.
    pub(crate) fn publish(&mut self, state: &mut State, now: Timestamp) {
        if !std::mem::take(&mut state.dirty) {
            return;
        }
        let are_changed = self.shown.replace(state.changes) != Some(state.changes);
        let cuts = || state.flushing.as_deref().into_iter().chain([&state.pending]);
        for table in &mut self.tables {
            match table.def.name {
                "samples" => table.memory = state.memory.batches(),
                _ if are_changed => {
                    table.memory = cuts().filter_map(|cut| cut.batch_of(table.def)).collect();
                }
                _ => {}
            }
        }
        if are_changed {
            let pending = cuts().flat_map(|cut| &cut.gaps).map(|(_, gap)| gap);
            state.shared.gaps.write().unwrap_or_else(|e| e.into_inner()).set_pending(pending);
        }
        let mut view = View { newest: state.newest, ..View::default() };
        (view.start, view.expired_before) = (state.beginning.now(), self.expired_before);
        view.touched.clone_from(&state.touched);
        view.tables = self.tables.iter().map(|table| (table.def.name, table.clone())).collect();
        self.view.send_replace(Arc::new(view));
        for appended in state.arrivals.drain(..) {
            let seconds = (now.0 - appended).max(0) as f64 / 1e6;
            state.metrics.freshness.observe(seconds);
        }
        state.metrics.memory_rows.set(state.memory.rows() as i64);
        state.metrics.newest.set(state.newest.0 / 1_000_000);
        let start = state.beginning.now().map_or(0, |start| start.0 / 1_000_000);
        state.metrics.metering_start.set(start);
    }
}
