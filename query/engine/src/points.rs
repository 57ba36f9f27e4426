//! Samples on their way to the usage engine: a window and what it needs around it.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
use datafusion::common::ToDFSchema;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{Expr, col, lit};
use datafusion::scalar::ScalarValue;
use futures::StreamExt;
use nilometer_contract::{EpochId, MICROS_PER_HOUR, Timestamp};
use nilometer_ingest::{Epochs, Reach, TableView, View};
use nilometer_store::DataFile;
use nilometer_usage::{ClockId, Window};

use crate::meter::Meter;
use crate::plan::{Out, Plan};
use crate::scan::Wanted;

/// Rows of one chunk, 32 bytes each.
const CHUNK_ROWS: u64 = 6 << 20;

/// One sample on its way to the engine.
#[derive(Clone, Copy)]
pub(crate) struct Point {
    pub(crate) place: u32,
    pub(crate) at: i64,
    pub(crate) value: f64,
    pub(crate) clock: ClockId,
}

/// The epochs met on the way, each looked up once.
struct Clocks<'a> {
    epochs: &'a Epochs,
    known: HashMap<EpochId, Reach>,
}

impl Clocks<'_> {
    /// By whose clock a sample was read; none if a later epoch of the instance starts before it.
    fn of(&mut self, epoch: EpochId, at: i64) -> Option<ClockId> {
        let reach = self.known.entry(epoch).or_insert_with(|| self.epochs.reach(epoch));
        (at < reach.end).then_some(ClockId { instance: reach.instance, epoch })
    }
}

impl Meter {
    /// Adds the usage of one chunk of a window.
    pub(crate) async fn chunk(
        &self,
        view: &View,
        plan: &Arc<Plan>,
        window: Window,
        by_parent: bool,
        mut out: Out,
    ) -> Result<Out, DataFusionError> {
        let Some(samples) = view.tables.get("samples") else { return Ok(out) };
        let (low, high) = plan.reading(window);
        let mut points = self.points(samples, plan, None, low, high).await?;
        self.reach_out(samples, plan, window, (low, high), &mut points).await?;
        let (plan, as_of) = (plan.clone(), view.newest);
        // Long computing would hold up the thread that shows new samples.
        let computed = tokio::task::spawn_blocking(move || {
            points.sort_unstable_by_key(|point| (point.place, point.at));
            let points_of = |place: u32| {
                let from = points.partition_point(|point| point.place < place);
                &points[from..points.partition_point(|point| point.place <= place)]
            };
            let alone = (0..).zip(&plan.places).filter(|(_, of)| !of.has_rival);
            for (place, _) in alone.filter(|_| !plan.only_choices) {
                plan.series_usage(place, points_of(place), window, as_of, by_parent, &mut out);
            }
            for rivals in &plan.rivals {
                plan.rival_usage(rivals, points_of, window, as_of, by_parent, &mut out);
            }
            out
        });
        computed.await.map_err(|panic| DataFusionError::ExecutionJoin(Box::new(panic)))
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
        let keep = |file: &DataFile| file.may_hold("series", lowest, highest);
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
            time: (low, high - 1),
            keep: &keep,
            predicate: Some(predicate),
            selective: few,
            projection: None,
            partitions: 2,
        };
        let plan = self.files.plan(samples, schema, wanted)?;
        let mut rows = datafusion::physical_plan::execute_stream(plan, self.context.task_ctx())?;
        let epochs = self.tables.shared.epochs.clone();
        let mut points = Vec::new();
        while let Some(batch) = rows.next().await {
            let batch = batch?;
            let ids = batch.column(0).as_primitive::<Int64Type>().values();
            let at = batch.column(1).as_primitive::<TimestampMicrosecondType>().values();
            let value = batch.column(2).as_primitive::<Float64Type>().values();
            let epoch = batch.column(3).as_primitive::<Int64Type>().values();
            let epochs = epochs.read().unwrap_or_else(|poisoned| poisoned.into_inner());
            let mut clocks = Clocks { epochs: &epochs, known: HashMap::new() };
            let mut last: (i64, Option<u32>) = (-1, None);
            for row in 0..batch.num_rows() {
                if ids[row] != last.0 {
                    last = (ids[row], series.get(&ids[row]).copied());
                }
                if let (Some(place), true) = (last.1, (low..high).contains(&at[row]))
                    && let Some(clock) = clocks.of(epoch[row], at[row])
                {
                    points.push(Point { place, at: at[row], value: value[row], clock });
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
            if point.at <= window.start.0 {
                before.remove(&point.place);
            } else if point.at >= window.end.0 {
                after.remove(&point.place);
            }
        }
        let (oldest, newest) = extent(samples);
        for (wanting, low, high, nearest_is_last) in
            [(before, oldest, read.0, true), (after, read.1, newest.saturating_add(1), false)]
        {
            let series: HashMap<i64, u32> = plan
                .series
                .iter()
                .filter(|(_, place)| wanting.contains(*place))
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

/// First and last instant of any sample, in files and memory.
pub(crate) fn extent(samples: &TableView) -> (i64, i64) {
    let memory = samples.memory.iter().filter_map(|batch| {
        let at = batch.column(1).as_primitive::<TimestampMicrosecondType>();
        arrow::compute::min(at).zip(arrow::compute::max(at))
    });
    samples
        .files
        .extent()
        .into_iter()
        .chain(memory)
        .fold((i64::MAX, i64::MIN), |all, one| (all.0.min(one.0), all.1.max(one.1)))
}

/// Cuts a window at hours so that each chunk's rows fit in memory.
pub(crate) fn chunks(view: &View, window: Window) -> Vec<Window> {
    let Some(samples) = view.tables.get("samples") else { return Vec::new() };
    let (oldest, newest) = extent(samples);
    let start = window.start.0.max(oldest.saturating_sub(MICROS_PER_HOUR));
    let end = window.end.0.min(newest.saturating_add(MICROS_PER_HOUR));
    if start >= end {
        return Vec::new();
    }
    let rows: u64 = samples.files.rows()
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
