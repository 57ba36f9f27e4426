//! Exact usage of a window, from the view of this moment.
//!
//! Reads `(series, at, value)` of the window and a margin around it, in chunks that fit in memory,
//! sorts them by identity and instant, and hands each series to the pure engine. A counter's
//! neighbours beyond the margin are looked up only where they are missing.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::compute::min;
use arrow::datatypes::TimestampMicrosecondType;
use datafusion::error::DataFusionError;
use datafusion::prelude::SessionContext;
use nilometer_contract::{MICROS_PER_HOUR, Scope, Timestamp};
use nilometer_ingest::{Tables, View};
use nilometer_store::Missing;
use nilometer_usage::{
    Breakdown, NegativeUsage, UsageRow, Window, capacity_usage, conserve, merge,
};

use crate::missing::{LIFETIMES, missing_of, samples_of};
use crate::plan::{Out, Plan, Selection, Subject};
use crate::points::chunks;
use crate::rivals::{Contested, Pause};
use crate::scan::Files;

/// Why usage could not be told.
#[derive(Debug, thiserror::Error)]
pub enum MeterError {
    /// The samples could not be read.
    #[error("samples cannot be read")]
    Read(#[source] DataFusionError),
    /// A node's parts do not make sense.
    #[error("usage is not conserved")]
    Negative(#[source] NegativeUsage),
}

/// Tells usage.
#[derive(Clone)]
pub struct Meter {
    pub(crate) files: Files,
    pub(crate) tables: Tables,
    pub(crate) context: SessionContext,
}

impl Meter {
    pub(crate) fn new(files: Files, tables: Tables, context: SessionContext) -> Self {
        Meter { files, tables, context }
    }

    /// The instant up to which there is anything to tell: of the newest sample, or the present if
    /// that is earlier.
    pub fn newest(&self) -> Timestamp {
        self.tables.now().newest
    }

    /// The first hour of which usage can be told: in which metering starts, or, once samples and
    /// events have expired, the first that has all of its own. The newest one where there is no
    /// sample yet.
    pub fn start(&self) -> Timestamp {
        let view = self.tables.now();
        let history = self.tables.shared.history.read().unwrap_or_else(|e| e.into_inner());
        let gone = view.expired_before.max(history.forgotten_before());
        let whole = Timestamp(gone.0.saturating_add(MICROS_PER_HOUR - 1)).hour();
        view.start.unwrap_or(view.newest).hour().max(whole)
    }

    /// The first instant that any sample or lifetime is of; no usage lies before it. It is found in
    /// what is known of files, and by a look at what lies in memory.
    pub fn oldest(&self) -> Timestamp {
        let view = self.tables.now();
        let mut oldest = view.newest.0;
        if let Some(samples) = view.tables.get("samples") {
            let of_files = samples.files.within(i64::MIN, i64::MAX);
            for file in of_files {
                oldest = oldest.min(file.span().map_or(i64::MIN, |(first, _)| first));
            }
            let columns = samples.memory.iter().filter_map(|batch| batch.column_by_name("at"));
            let firsts =
                columns.filter_map(|at| min(at.as_primitive::<TimestampMicrosecondType>()));
            oldest = firsts.fold(oldest, i64::min);
        }
        let history = self.tables.shared.history.read().unwrap_or_else(|e| e.into_inner());
        let births = history.iter().filter_map(|(_, lifetime)| lifetime.start());
        Timestamp(births.map(|start| start.0).fold(oldest, i64::min))
    }

    /// Rows that usage of a window lacks because their files are damaged.
    pub fn missing(&self, window: Window) -> Vec<Missing> {
        let view = self.tables.now();
        let samples = missing_of(&view, &samples_of((window.start.0, window.end.0)));
        samples.into_iter().chain(missing_of(&view, &LIFETIMES)).collect()
    }

    /// Usage by hour of what is selected and in the scope, in canonical order. A row belongs to whom
    /// its project belongs at its start.
    pub async fn usage(
        &self,
        scope: &Scope,
        window: Window,
        selection: &Selection,
    ) -> Result<Vec<UsageRow>, MeterError> {
        let mut rows = self.usage_at(&self.tables.now(), window, selection).await?;
        rows.retain(|row| scope.admits(&row.project, row.start));
        Ok(rows)
    }

    /// The same usage in rows that also end where the attributes of their resource change, so
    /// that each is of one state: what prices that match on attributes need.
    pub async fn usage_by_state(
        &self,
        scope: &Scope,
        window: Window,
        selection: &Selection,
    ) -> Result<Vec<UsageRow>, MeterError> {
        let (mut rows, _) = self.usage_to_settle(window, selection).await?;
        rows.retain(|row| scope.admits(&row.project, row.start));
        Ok(rows)
    }

    /// The same for all, with the pauses of sources that bear on hours outside the window.
    pub async fn usage_to_settle(
        &self,
        window: Window,
        selection: &Selection,
    ) -> Result<(Vec<UsageRow>, Vec<Pause>), MeterError> {
        let mut out = self.told(&self.tables.now(), window, selection, true).await?;
        out.rows.sort_unstable();
        Ok((out.rows, out.pauses))
    }

    /// [`usage`](Self::usage) as a view of another moment tells it.
    pub(crate) async fn usage_at(
        &self,
        view: &View,
        window: Window,
        selection: &Selection,
    ) -> Result<Vec<UsageRow>, MeterError> {
        self.told(view, window, selection, false).await.map(|out| merge(out.rows))
    }

    /// What a plan finds in a window, chunk by chunk.
    async fn over(
        &self,
        view: &View,
        plan: &Arc<Plan>,
        window: Window,
        by_parent: bool,
    ) -> Result<Out, MeterError> {
        let mut out = Out::default();
        for chunk in chunks(view, window) {
            let read = self.chunk(view, plan, chunk, by_parent, out).await;
            out = read.map_err(MeterError::Read)?;
        }
        Ok(out)
    }

    async fn told(
        &self,
        view: &View,
        window: Window,
        selection: &Selection,
        by_state: bool,
    ) -> Result<Out, MeterError> {
        let plan = Plan { by_state, ..Plan::of(&self.tables.shared, window, selection) };
        let plan = Arc::new(plan);
        let mut out = self.over(view, &plan, window, false).await?;
        plan.allocations(window, view.newest, &mut out.rows);
        out.rows.retain(|row| selection.takes(row));
        Ok(out)
    }

    /// Which sources sampled the same in which hours, and whose samples count, as a view tells it.
    pub(crate) async fn contested_at(
        &self,
        view: &View,
        window: Window,
        selection: &Selection,
    ) -> Result<Vec<Contested>, MeterError> {
        let plan = Arc::new(Plan::of(&self.tables.shared, window, selection).of_rivals());
        if plan.rivals.is_empty() {
            return Ok(Vec::new());
        }
        let mut out = self.over(view, &plan, window, false).await?;
        let Selection { project, kind, .. } = selection;
        out.contested.retain(|row| {
            project.as_deref().is_none_or(|project| *row.project == *project)
                && kind.as_ref().is_none_or(|kind| *kind == row.kind)
        });
        out.contested.sort_by(|a, b| {
            let (one, other) = ((a.hour, &a.resource, &a.meter), (b.hour, &b.resource, &b.meter));
            one.cmp(&other).then_with(|| a.source.cmp(&b.source))
        });
        Ok(out.contested)
    }

    /// How each node's hour splits into children, overhead and idle (invariant 11). It tells of all
    /// that shared a node, so a scope of projects sees none of it.
    pub async fn conservation(
        &self,
        scope: &Scope,
        window: Window,
        meter: &str,
    ) -> Result<Vec<Breakdown>, MeterError> {
        if !scope.is_system() {
            return Ok(Vec::new());
        }
        let view = self.tables.now();
        let selection = Selection { meter: Some(meter.to_owned()), ..Selection::default() };
        let plan = Arc::new(Plan::of(&self.tables.shared, window, &selection));
        let mut out = self.over(&view, &plan, window, true).await?;
        let catalogue = self.tables.catalogue();
        let Some(meter) = catalogue.find(meter) else { return Ok(Vec::new()) };
        let mut capacity = Vec::new();
        let parents: HashSet<Arc<str>> =
            out.by_parent.iter().map(|row| row.parent.clone()).collect();
        let host = |subject: &&Subject| {
            catalogue.kind(&subject.kind).is_some_and(|kind| kind.costs_idle)
                || parents.contains(&subject.resource)
        };
        for subject in plan.subjects.iter().filter(host) {
            let contains = catalogue.kind(&subject.kind).is_some_and(|kind| kind.contains);
            if let Some(tenure) = subject.tenure.as_ref().filter(|_| contains) {
                capacity_usage(tenure, meter, window, view.newest, &mut capacity);
            }
        }
        let hosts: HashSet<&Arc<str>> =
            plan.subjects.iter().filter(host).map(|subject| &subject.resource).collect();
        out.rows.retain(|row| hosts.contains(&row.resource));
        out.by_parent.retain(|row| catalogue.kind(&row.kind).is_some_and(|kind| kind.computes));
        conserve(&capacity, &out.rows, &out.by_parent).map_err(MeterError::Negative)
    }
}
