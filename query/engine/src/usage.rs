//! The tables `usage` and `source_hours`: computed for the window that a query asks about.

use std::sync::{Arc, LazyLock};

use arrow::array::{
    ArrayRef, Decimal128Array, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::stream::{self, StreamExt};
use nilometer_contract::{MICROS_PER_DAY, MICROS_PER_HOUR, Timestamp};
use nilometer_ingest::View;
use nilometer_usage::{SOURCE_HOURS, UsageRow, Window};

use crate::filter::{bounds, equals};
use crate::meter::Meter;
use crate::missing::{LIFETIMES, needs, samples_of};
use crate::plan::Selection;
use crate::rivals::contested_batch;

const BATCH_ROWS: usize = 8_192;
const QUANTITY_SCALE: i8 = 12;

/// Schema of `usage`.
pub static USAGE_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let instant = || DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    Arc::new(Schema::new(vec![
        Field::new("start", instant(), false),
        Field::new("end", instant(), false),
        text("resource"),
        text("kind"),
        text("meter"),
        text("labels"),
        text("project"),
        Field::new("quantity", DataType::Decimal128(38, QUANTITY_SCALE), false),
        text("unit"),
        Field::new("coverage", DataType::Float64, false),
    ]))
});

/// Rows of usage as a batch.
pub fn usage_batch(rows: &[UsageRow]) -> Result<RecordBatch> {
    let columns = usage_columns(rows)?.into_iter().map(|(_, column)| column).collect();
    Ok(RecordBatch::try_new(USAGE_SCHEMA.clone(), columns)?)
}

/// The columns of `usage` by name, in the order of [`USAGE_SCHEMA`].
pub fn usage_columns(rows: &[UsageRow]) -> Result<Vec<(&'static str, ArrayRef)>> {
    let instants = |at: fn(&UsageRow) -> Timestamp| -> ArrayRef {
        let micros = rows.iter().map(|row| at(row).0);
        Arc::new(TimestampMicrosecondArray::from_iter_values(micros).with_timezone("UTC"))
    };
    let texts = |text: fn(&UsageRow) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(text)))
    };
    let quantity = Decimal128Array::from_iter_values(rows.iter().map(|row| row.quantity.0))
        .with_precision_and_scale(38, QUANTITY_SCALE)?;
    let coverage = rows.iter().map(|row| {
        let period = (row.end.0 - row.start.0).max(1);
        row.observed_micros as f64 / period as f64
    });
    Ok(vec![
        ("start", instants(|row| row.start)),
        ("end", instants(|row| row.end)),
        ("resource", texts(|row| &row.resource)),
        ("kind", texts(|row| row.kind.as_str())),
        ("meter", texts(|row| &row.meter.name)),
        ("labels", texts(|row| row.labels.as_str())),
        ("project", texts(|row| &row.project)),
        ("quantity", Arc::new(quantity)),
        ("unit", texts(|row| &row.meter.usage_unit)),
        ("coverage", Arc::new(Float64Array::from_iter_values(coverage))),
    ])
}

/// What is told of each hour.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Told {
    /// Rows of `usage`.
    Usage,
    /// Rows of `source_hours`.
    SourceHours,
}

/// A table of what is told of hours, for queries.
pub(crate) struct UsageTable {
    pub(crate) meter: Meter,
    pub(crate) told: Told,
}

impl std::fmt::Debug for UsageTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.told)
    }
}

impl Told {
    fn schema(self) -> SchemaRef {
        static SOURCES_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| SOURCE_HOURS.file_schema());
        match self {
            Told::Usage => USAGE_SCHEMA.clone(),
            Told::SourceHours => SOURCES_SCHEMA.clone(),
        }
    }
}

#[async_trait]
impl TableProvider for UsageTable {
    fn schema(&self) -> SchemaRef {
        self.told.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let selection = Selection {
            project: equals(filters, "project"),
            resource: equals(filters, "resource"),
            meter: equals(filters, "meter"),
            kind: equals(filters, "kind").and_then(|kind| kind.parse().ok()),
        };
        let view = self.meter.tables.now();
        let window = self.window(filters, view.newest);
        needs(state, &samples_of((window.start.0, window.end.0)));
        needs(state, &LIFETIMES);
        let (schema, told) = (self.schema(), self.told);
        let days = Days {
            meter: self.meter.clone(),
            view,
            window,
            selection,
            told,
            schema: schema.clone(),
        };
        let days: Vec<Arc<dyn PartitionStream>> = vec![Arc::new(days)];
        let rows = StreamingTableExec::try_new(schema, days, projection, None, false, limit)?;
        Ok(Arc::new(rows))
    }
}

impl UsageTable {
    /// The whole hours that may hold what is asked for, so that a row is the same whatever the
    /// query asks about.
    fn window(&self, filters: &[Expr], newest: Timestamp) -> Window {
        let (from, upto) = bounds(filters, "start");
        let (after, end) = bounds(filters, "end");
        let low = from.max(after.saturating_sub(MICROS_PER_HOUR)).max(self.meter.start().0);
        let high = upto.min(end).min(newest.0);
        let (start, last) = (Timestamp(low).hour(), Timestamp(high).hour());
        Window { start, end: last.plus_micros(MICROS_PER_HOUR).max(start) }
    }
}

/// The usage of a window, day by day, so that a long one needs no more memory than a short one.
struct Days {
    meter: Meter,
    view: Arc<View>,
    window: Window,
    selection: Selection,
    told: Told,
    schema: SchemaRef,
}

impl std::fmt::Debug for Days {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} of {:?}", self.told, self.window)
    }
}

impl PartitionStream for Days {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let Days { meter, view, selection, told, .. } = self;
        let asked = Arc::new((meter.clone(), view.clone(), selection.clone()));
        let told = *told;
        let days = days(self.window).map(move |day| {
            let asked = asked.clone();
            async move {
                let (meter, view, selection) = asked.as_ref();
                let batches: Result<Vec<Result<RecordBatch>>, _> = match told {
                    Told::Usage => meter
                        .usage_at(view, day, selection)
                        .await
                        .map(|rows| rows.chunks(BATCH_ROWS).map(usage_batch).collect()),
                    Told::SourceHours => meter
                        .contested_at(view, day, selection)
                        .await
                        .map(|rows| vec![Ok(contested_batch(&rows))]),
                };
                batches
                    .unwrap_or_else(|error| vec![Err(DataFusionError::External(Box::new(error)))])
            }
        });
        let batches = stream::iter(days).then(|day| day).flat_map(stream::iter);
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), batches))
    }
}

/// A window cut where hours meet, into parts of at most a day.
pub fn days(window: Window) -> impl Iterator<Item = Window> {
    let Window { start, end } = window;
    let next = |at: &Timestamp| at.hour().plus_micros(MICROS_PER_DAY);
    std::iter::successors(Some(start), move |at| Some(next(at)))
        .take_while(move |at| *at < end)
        .map(move |at| Window { start: at, end: next(&at).min(end) })
}
