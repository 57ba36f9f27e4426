//! Exact usage of a window, from the view of this moment.
//!
//! Reads `(series, at, value)` of the window and a margin around it, in chunks that fit in memory,
//! sorts them by identity and instant, and hands each series to the pure engine. A counter's
//! neighbours beyond the margin are looked up only where they are missing.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
use datafusion::common::ToDFSchema;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, col, lit};
use datafusion::prelude::SessionContext;
use datafusion::scalar::ScalarValue;
use futures::StreamExt;
use nilometer_contract::{
    Lifetime, MICROS_PER_HOUR, MeterId, MeterKind, ResourceKind, Timestamp, catalogue,
};
use nilometer_ingest::{Shared, TableView, Tables, View};
use nilometer_store::DataFile;
use nilometer_usage::{
    Breakdown, Names, NegativeUsage, ParentUsage, Points, Reach, Tenure, UsageRow, Window,
    allocation_usage, capacity_attribute, capacity_usage, conserve, merge, neighbours,
    series_usage, series_usage_by_parent,
};

use crate::scan::{Files, Wanted};

/// Margin read around a window without asking: the largest hold time is well below it.
const MARGIN_MICROS: i64 = 10 * 60 * 1_000_000;
/// Rows of one chunk, 32 bytes each.
const CHUNK_ROWS: u64 = 6 << 20;

/// Whose usage of what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Resources that belonged to this project at some time of the window.
    pub project: Option<String>,
    /// This resource.
    pub resource: Option<String>,
    /// This meter.
    pub meter: Option<String>,
    /// Resources of this kind.
    pub kind: Option<ResourceKind>,
}

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
    files: Files,
    tables: Tables,
    context: SessionContext,
}

/// One sample on its way to the engine.
#[derive(Clone, Copy)]
struct Point {
    place: u32,
    at: i64,
    value: f64,
}

/// A resource with its wanted meters.
struct Subject {
    tenure: Option<Tenure>,
    resource: Arc<str>,
    kind: ResourceKind,
    project: Arc<str>,
    birth: i64,
    /// Instants at which its attributes change while it lives.
    cuts: Vec<i64>,
}

/// The series that a selection wants, by identity.
#[derive(Default)]
struct Plan {
    subjects: Vec<Subject>,
    /// Per place: subject and meter.
    places: Vec<(usize, MeterId)>,
    /// Series to place.
    series: HashMap<i64, u32>,
    /// Whether rows end where attributes change.
    by_state: bool,
}

/// Rows by project and, for conservation, by parent.
#[derive(Default)]
struct Out {
    rows: Vec<UsageRow>,
    by_parent: Vec<ParentUsage>,
}

impl Meter {
    pub(crate) fn new(files: Files, tables: Tables, context: SessionContext) -> Self {
        Meter { files, tables, context }
    }

    /// The instant up to which there is anything to tell.
    pub fn newest(&self) -> Timestamp {
        self.tables.now().newest
    }

    /// First instant with a sample or a resource; the newest when there is none.
    pub fn oldest(&self) -> Timestamp {
        let view = self.tables.now();
        let files = view.tables.get("samples").map(|table| table.files.clone()).unwrap_or_default();
        let stored =
            files.iter().filter_map(|file| file.ranges.get("at")).map(|range| range.0).min();
        stored.map_or(view.newest, Timestamp).min(view.newest)
    }

    /// Usage by hour of what is selected, in canonical order.
    pub async fn usage(
        &self,
        window: Window,
        selection: &Selection,
    ) -> Result<Vec<UsageRow>, MeterError> {
        self.rows(window, selection, false).await.map(merge)
    }

    /// The same usage in rows that also end where the attributes of their resource change, so
    /// that each is of one state: what prices that match on attributes need.
    pub async fn usage_by_state(
        &self,
        window: Window,
        selection: &Selection,
    ) -> Result<Vec<UsageRow>, MeterError> {
        let mut rows = self.rows(window, selection, true).await?;
        rows.sort_unstable();
        Ok(rows)
    }

    async fn rows(
        &self,
        window: Window,
        selection: &Selection,
        by_state: bool,
    ) -> Result<Vec<UsageRow>, MeterError> {
        let view = self.tables.now();
        let plan = Plan { by_state, ..Plan::of(&self.tables.shared, window, selection) };
        let mut out = Out::default();
        for chunk in chunks(&view, window) {
            self.chunk(&view, &plan, chunk, false, &mut out).await?;
        }
        plan.allocations(window, view.newest, selection, &mut out.rows);
        out.rows.retain(|row| {
            selection.project.as_deref().is_none_or(|project| *row.project == *project)
        });
        Ok(out.rows)
    }

    /// How each node's hour splits into children, overhead and idle (invariant 11).
    pub async fn conservation(
        &self,
        window: Window,
        meter: &str,
    ) -> Result<Vec<Breakdown>, MeterError> {
        let view = self.tables.now();
        let selection = Selection { meter: Some(meter.to_owned()), ..Selection::default() };
        let plan = Plan::of(&self.tables.shared, window, &selection);
        let mut out = Out::default();
        for chunk in chunks(&view, window) {
            self.chunk(&view, &plan, chunk, true, &mut out).await?;
        }
        let Some(id) = catalogue().find(meter) else { return Ok(Vec::new()) };
        let mut capacity = Vec::new();
        let parents: std::collections::HashSet<Arc<str>> =
            out.by_parent.iter().map(|row| row.parent.clone()).collect();
        let host = |subject: &&Subject| {
            subject.kind == ResourceKind::Node || parents.contains(&subject.resource)
        };
        for subject in plan.subjects.iter().filter(host) {
            let attribute = capacity_attribute(meter, subject.kind);
            if let (Some(tenure), Some(attribute)) = (&subject.tenure, attribute) {
                capacity_usage(tenure, attribute, id, window, view.newest, &mut capacity);
            }
        }
        let hosts: std::collections::HashSet<&Arc<str>> =
            plan.subjects.iter().filter(host).map(|subject| &subject.resource).collect();
        out.rows.retain(|row| hosts.contains(&row.resource));
        out.by_parent.retain(|row| nests(row.kind));
        conserve(&capacity, &out.rows, &out.by_parent).map_err(MeterError::Negative)
    }

    async fn chunk(
        &self,
        view: &View,
        plan: &Plan,
        window: Window,
        by_parent: bool,
        out: &mut Out,
    ) -> Result<(), MeterError> {
        let Some(samples) = view.tables.get("samples") else { return Ok(()) };
        let (low, high) = (window.start.0 - MARGIN_MICROS, window.end.0 + MARGIN_MICROS);
        let mut points =
            self.points(samples, plan, None, low, high).await.map_err(MeterError::Read)?;
        self.reach_out(samples, plan, window, (low, high), &mut points)
            .await
            .map_err(MeterError::Read)?;
        points.sort_unstable_by_key(|point| (point.place, point.at));
        let mut from = 0;
        for place in 0..plan.places.len() as u32 {
            let upto = from + points[from..].partition_point(|point| point.place <= place);
            plan.series_usage(place, &points[from..upto], window, view.newest, by_parent, out);
            from = upto;
        }
        Ok(())
    }

    /// Points of the wanted series within `[low, high)`.
    async fn points(
        &self,
        samples: &TableView,
        plan: &Plan,
        only: Option<&HashMap<i64, u32>>,
        low: i64,
        high: i64,
    ) -> Result<Vec<Point>, DataFusionError> {
        let series = only.unwrap_or(&plan.series);
        if series.is_empty() || low >= high {
            return Ok(Vec::new());
        }
        let few = series.len() <= 256;
        let lowest = series.keys().copied().min().unwrap_or(0);
        let highest = series.keys().copied().max().unwrap_or(0);
        let keep = |file: &DataFile| {
            file.may_hold("at", low, high - 1) && file.may_hold("series", lowest, highest)
        };
        let schema = samples.def.file_schema();
        let instant =
            |at: i64| lit(ScalarValue::TimestampMicrosecond(Some(at), Some("UTC".into())));
        let time: Expr = col("at").gt_eq(instant(low)).and(col("at").lt(instant(high)));
        let wanted_series: Expr = match few {
            true => col("series").in_list(series.keys().map(|&id| lit(id)).collect(), false),
            false => col("series").between(lit(lowest), lit(highest)),
        };
        let state = self.context.state();
        let predicate =
            state.create_physical_expr(time.and(wanted_series), &schema.clone().to_dfschema()?)?;
        let wanted = Wanted {
            keep: &keep,
            predicate: Some(predicate),
            selective: few,
            projection: None,
            partitions: 2,
        };
        let plan = self.files.plan(samples, schema, wanted)?;
        let mut rows = datafusion::physical_plan::execute_stream(plan, self.context.task_ctx())?;
        let mut points = Vec::new();
        while let Some(batch) = rows.next().await {
            let batch = batch?;
            let ids = batch.column(0).as_primitive::<Int64Type>().values();
            let at = batch.column(1).as_primitive::<TimestampMicrosecondType>().values();
            let value = batch.column(2).as_primitive::<Float64Type>().values();
            let mut last: (i64, Option<u32>) = (-1, None);
            for row in 0..batch.num_rows() {
                if ids[row] != last.0 {
                    last = (ids[row], series.get(&ids[row]).copied());
                }
                if let (Some(place), true) = (last.1, (low..high).contains(&at[row])) {
                    points.push(Point { place, at: at[row], value: value[row] });
                }
            }
        }
        Ok(points)
    }

    /// Looks beyond the margin for the neighbours that some series lack.
    async fn reach_out(
        &self,
        samples: &TableView,
        plan: &Plan,
        window: Window,
        read: (i64, i64),
        points: &mut Vec<Point>,
    ) -> Result<(), DataFusionError> {
        let (mut before, mut after) = plan.wanting(window);
        for point in points.iter() {
            before.retain_not(point, |at| at <= window.start.0);
            after.retain_not(point, |at| at >= window.end.0);
        }
        let (oldest, newest) = extent(samples);
        for (wanting, low, high, nearest_is_last) in
            [(before, oldest, read.0, true), (after, read.1, newest.saturating_add(1), false)]
        {
            let series: HashMap<i64, u32> = plan
                .series
                .iter()
                .filter(|(_, place)| wanting.0.contains(*place))
                .map(|(&id, &place)| (id, place))
                .collect();
            let mut nearest: HashMap<u32, Point> = HashMap::new();
            for point in self.points(samples, plan, Some(&series), low, high).await? {
                let best = nearest.entry(point.place).or_insert(point);
                if (point.at > best.at) == nearest_is_last {
                    *best = point;
                }
            }
            points.extend(nearest.into_values());
        }
        Ok(())
    }
}

/// Places that still lack a neighbour.
struct Wanting(std::collections::HashSet<u32>);

impl Wanting {
    fn retain_not(&mut self, point: &Point, near: impl Fn(i64) -> bool) {
        if near(point.at) {
            self.0.remove(&point.place);
        }
    }
}

fn cuts(lifetime: &Lifetime) -> Vec<i64> {
    let pairs = lifetime.segments().windows(2);
    let changed = pairs.filter(|pair| {
        pair[0].end == Some(pair[1].start) && pair[0].state.attributes != pair[1].state.attributes
    });
    changed.map(|pair| pair[1].start.0).collect()
}

fn nests(kind: ResourceKind) -> bool {
    matches!(kind, ResourceKind::Vm | ResourceKind::Pod | ResourceKind::Container)
}

/// First and last instant of any sample, in files and memory.
fn extent(samples: &TableView) -> (i64, i64) {
    let files = samples.files.iter().filter_map(|file| file.ranges.get("at").copied());
    let memory = samples.memory.iter().filter_map(|batch| {
        let at = batch.column(1).as_primitive::<TimestampMicrosecondType>();
        arrow::compute::min(at).zip(arrow::compute::max(at))
    });
    files.chain(memory).fold((i64::MAX, i64::MIN), |all, one| (all.0.min(one.0), all.1.max(one.1)))
}

/// Cuts a window at hours so that each chunk's rows fit in memory.
fn chunks(view: &View, window: Window) -> Vec<Window> {
    let Some(samples) = view.tables.get("samples") else { return Vec::new() };
    let (oldest, newest) = extent(samples);
    let start = window.start.0.max(oldest.saturating_sub(MICROS_PER_HOUR));
    let end = window.end.0.min(newest.saturating_add(MICROS_PER_HOUR));
    if start >= end {
        return Vec::new();
    }
    let rows: u64 = samples.files.iter().map(|file| file.rows).sum::<u64>()
        + samples.memory.iter().map(|batch| batch.num_rows() as u64).sum::<u64>();
    let span = (newest - oldest).max(1) as f64;
    let per_hour = rows as f64 / span * MICROS_PER_HOUR as f64;
    let hours = ((CHUNK_ROWS as f64 / per_hour.max(1.0)) as i64).clamp(1, 24 * 31);
    let mut chunks = Vec::new();
    let mut from = start;
    while from < end {
        let upto = (Timestamp(from).hour().0 + hours * MICROS_PER_HOUR).min(end);
        chunks.push(Window { start: Timestamp(from), end: Timestamp(upto) });
        from = upto;
    }
    chunks
}

impl Plan {
    fn of(shared: &Shared, window: Window, selection: &Selection) -> Self {
        let index = shared.index.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let history = shared.history.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut plan = Plan::default();
        let mut names = Names::default();
        let mut by_resource: HashMap<&str, usize> = HashMap::new();
        let wanted = |id: &str, lifetime: &Lifetime| selection.wants(id, lifetime, window);
        for (id, lifetime) in history.iter().filter(|(id, lifetime)| wanted(id, lifetime)) {
            let Some(latest) = lifetime.latest() else { continue };
            by_resource.insert(id, plan.subjects.len());
            plan.subjects.push(Subject {
                tenure: Some(Tenure::announced(id.into(), lifetime, &mut names)),
                resource: id.into(),
                kind: latest.state.kind,
                project: latest.state.project.as_str().into(),
                birth: lifetime.start().map_or(i64::MIN, |start| start.0),
                cuts: cuts(lifetime),
            });
        }
        let mut by_identity: HashMap<u32, u32> = HashMap::new();
        for slot in 0..index.len() as u32 {
            let labels = index.labels(slot);
            if selection.meter.as_deref().is_some_and(|meter| meter != labels.meter) {
                continue;
            }
            let Some(meter) = catalogue().find(labels.meter) else { continue };
            let subject = match by_resource.get(labels.resource) {
                Some(&subject) => subject,
                None => {
                    let announced =
                        history.get(labels.resource).is_some_and(|known| known.latest().is_some());
                    let Some(subject) = Subject::sighted(&labels, announced, selection) else {
                        continue;
                    };
                    by_resource.insert(labels.resource, plan.subjects.len());
                    plan.subjects.push(subject);
                    plan.subjects.len() - 1
                }
            };
            let place = *by_identity.entry(index.identity(slot)).or_insert_with(|| {
                plan.places.push((subject, meter));
                (plan.places.len() - 1) as u32
            });
            plan.series.insert(index.id(slot), place);
        }
        plan
    }

    /// Places that need the nearest reading before and after the window.
    fn wanting(&self, window: Window) -> (Wanting, Wanting) {
        let places = |side: fn(&nilometer_usage::Neighbours) -> Reach, before: bool| {
            let wanting = self.places.iter().enumerate().filter(|(_, (subject, meter))| {
                let subject = &self.subjects[*subject];
                let needs = neighbours(catalogue().get(*meter), subject.tenure.is_some());
                side(&needs) == Reach::Nearest && (!before || subject.birth < window.start.0)
            });
            Wanting(wanting.map(|(place, _)| place as u32).collect())
        };
        (places(|needs| needs.before, true), places(|needs| needs.after, false))
    }

    fn series_usage(
        &self,
        place: u32,
        points: &[Point],
        window: Window,
        as_of: Timestamp,
        by_parent: bool,
        out: &mut Out,
    ) {
        let (subject, meter) = self.places[place as usize];
        let (subject, definition) = (&self.subjects[subject], catalogue().get(meter));
        if matches!(definition.kind, MeterKind::Allocation { .. }) {
            return;
        }
        let collected = Points::collect(points.iter().map(|point| (point.at, point.value)));
        let collected = match collected {
            Ok(collected) => collected,
            Err(error) => panic!("invariant 3: one value per identity: {error}"),
        };
        let series = collected.series(meter, definition);
        let sighted;
        let tenure = match &subject.tenure {
            Some(tenure) => tenure,
            None => {
                let (resource, project) = (subject.resource.clone(), subject.project.clone());
                sighted = Tenure::sighted(resource, subject.kind, project, &series);
                &sighted
            }
        };
        for part in self.parts(subject, window) {
            series_usage(&series, tenure, part, as_of, &mut out.rows);
        }
        if by_parent {
            series_usage_by_parent(&series, tenure, window, as_of, &mut out.by_parent);
        }
    }

    fn allocations(
        &self,
        window: Window,
        as_of: Timestamp,
        selection: &Selection,
        out: &mut Vec<UsageRow>,
    ) {
        let wanted = |name: &str| selection.meter.as_deref().is_none_or(|meter| meter == name);
        for subject in &self.subjects {
            let Some(tenure) = &subject.tenure else { continue };
            for part in self.parts(subject, window) {
                for (id, meter) in catalogue().iter().filter(|(_, meter)| wanted(&meter.name)) {
                    allocation_usage(tenure, id, meter, part, as_of, out);
                }
            }
        }
    }

    /// The window, in parts of one state each if that is asked for.
    fn parts(&self, subject: &Subject, window: Window) -> Vec<Window> {
        let inside = |at: &&i64| self.by_state && (window.start.0 + 1..window.end.0).contains(*at);
        let mut edges = vec![window.start];
        edges.extend(subject.cuts.iter().filter(inside).map(|&at| Timestamp(at)));
        edges.push(window.end);
        edges.windows(2).map(|edge| Window { start: edge[0], end: edge[1] }).collect()
    }
}

impl Selection {
    fn wants(&self, id: &str, lifetime: &Lifetime, window: Window) -> bool {
        let overlaps = |segment: &&nilometer_contract::Segment| {
            segment.start < window.end && segment.end.is_none_or(|end| end > window.start)
        };
        let mut segments = lifetime.segments().iter().filter(overlaps).peekable();
        self.resource.as_deref().is_none_or(|resource| resource == id)
            && segments.peek().is_some()
            && segments.any(|segment| {
                let state = &segment.state;
                self.project.as_deref().is_none_or(|project| project == state.project)
                    && self.kind.is_none_or(|kind| kind == state.kind)
            })
    }
}

impl Subject {
    /// A resource that only its samples tell of.
    fn sighted(
        labels: &nilometer_store::Labels<&str>,
        announced: bool,
        selection: &Selection,
    ) -> Option<Self> {
        let kind = labels.kind.parse().ok()?;
        let wanted = !announced
            && selection.resource.as_deref().is_none_or(|resource| resource == labels.resource)
            && selection.project.as_deref().is_none_or(|project| project == labels.project)
            && selection.kind.is_none_or(|wanted| wanted == kind);
        wanted.then(|| Subject {
            tenure: None,
            resource: labels.resource.into(),
            kind,
            project: labels.project.into(),
            birth: i64::MIN,
            cuts: Vec::new(),
        })
    }
}
