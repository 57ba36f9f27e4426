//! The table `usage`: computed for the window that a query asks about.

use std::sync::{Arc, LazyLock};

use arrow::array::{
    ArrayRef, Decimal128Array, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use datafusion::catalog::memory::MemorySourceConfig;
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use nilometer_contract::{MICROS_PER_HOUR, Timestamp, catalogue};
use nilometer_usage::{UsageRow, Window};

use crate::filter::{bounds, equals};
use crate::meter::{Meter, Selection};

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
        text("project"),
        Field::new("quantity", DataType::Decimal128(38, QUANTITY_SCALE), false),
        text("unit"),
        Field::new("coverage", DataType::Float64, false),
    ]))
});

/// Rows of usage as a batch.
pub fn usage_batch(rows: &[UsageRow]) -> Result<RecordBatch> {
    let instants = |at: fn(&UsageRow) -> Timestamp| -> ArrayRef {
        let micros = rows.iter().map(|row| at(row).0);
        Arc::new(TimestampMicrosecondArray::from_iter_values(micros).with_timezone("UTC"))
    };
    let texts = |text: &dyn Fn(&UsageRow) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(text)))
    };
    let quantity = Decimal128Array::from_iter_values(rows.iter().map(|row| row.quantity.0))
        .with_precision_and_scale(38, QUANTITY_SCALE)?;
    let coverage = rows.iter().map(|row| {
        let period = (row.end.0 - row.start.0).max(1);
        row.observed_micros as f64 / period as f64
    });
    let columns: Vec<ArrayRef> = vec![
        instants(|row| row.start),
        instants(|row| row.end),
        texts(&|row| row.resource.to_string()),
        texts(&|row| row.kind.to_string()),
        texts(&|row| catalogue().get(row.meter).name.clone()),
        texts(&|row| row.project.to_string()),
        Arc::new(quantity),
        texts(&|row| catalogue().get(row.meter).usage_unit().to_owned()),
        Arc::new(Float64Array::from_iter_values(coverage)),
    ];
    Ok(RecordBatch::try_new(USAGE_SCHEMA.clone(), columns)?)
}

/// `usage` for queries.
pub(crate) struct UsageTable {
    pub(crate) meter: Meter,
}

impl std::fmt::Debug for UsageTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("usage")
    }
}

#[async_trait]
impl TableProvider for UsageTable {
    fn schema(&self) -> SchemaRef {
        USAGE_SCHEMA.clone()
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
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        // Whole hours, so that a row is the same whatever the query asks about.
        let (from, _) = bounds(filters, "start");
        let (after, _) = bounds(filters, "end");
        let (_, upto) = bounds(filters, "start");
        let (_, end) = bounds(filters, "end");
        let low = from
            .max(after.saturating_sub(MICROS_PER_HOUR))
            .max(self.meter.oldest().0 - MICROS_PER_HOUR);
        let high = upto.min(end).min(self.meter.newest().0);
        let start = Timestamp(low).hour();
        let window = Window { start, end: Timestamp(high).hour().plus_micros(MICROS_PER_HOUR) };
        let selection = Selection {
            project: equals(filters, "project"),
            resource: equals(filters, "resource"),
            meter: equals(filters, "meter"),
            kind: equals(filters, "kind").and_then(|kind| kind.parse().ok()),
        };
        let rows = self.meter.usage(window, &selection).await;
        let rows = rows.map_err(|error| DataFusionError::External(Box::new(error)))?;
        let batches = rows.chunks(BATCH_ROWS).map(usage_batch).collect::<Result<Vec<_>>>()?;
        let projection = projection.cloned();
        Ok(MemorySourceConfig::try_new_exec(&[batches], USAGE_SCHEMA.clone(), projection)?)
    }
}
