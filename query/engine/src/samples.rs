//! The table `samples` as people know it: labels beside instant and value.
//!
//! Files hold `(series, at, value)`. Filters on labels are answered from the index of series
//! before any file is opened; what they select becomes bounds on `series`. Labels are added to the
//! rows that are left.

use std::sync::{Arc, RwLock};

use arrow::array::{
    Array, ArrayRef, AsArray, DictionaryArray, RecordBatch, StringArray, UInt32Array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, UInt32Type};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::{ScalarValue, Statistics, ToDFSchema};
use datafusion::error::Result;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType, col, lit};
use datafusion::physical_plan::ExecutionPlan;
use nilometer_ingest::{SeriesIndex, TableView};
use nilometer_store::{DataFile, SeriesColumn};

use crate::filter::bounds;
use crate::label::{LabelExec, Out};
use crate::missing::{lacks_nothing, needs, samples_of};
use crate::points::extent;
use crate::scan::{Files, Wanted};

/// Up to this many series are looked for one by one in files.
const FEW_SERIES: usize = 64;

/// `samples` at one moment.
pub(crate) struct SamplesTable {
    files: Files,
    table: TableView,
    index: Arc<RwLock<SeriesIndex>>,
    schema: SchemaRef,
}

/// Distinct texts of each column of series.
pub(crate) type LabelValues = [StringArray; SeriesColumn::COUNT];

impl std::fmt::Debug for SamplesTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "samples at version {}", self.table.version)
    }
}

/// Schema of `samples`: `at`, the columns that describe a series, `value`, `epoch`.
pub(crate) fn schema() -> SchemaRef {
    let instant = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let mut fields = vec![Field::new("at", instant, true)];
    let described = SeriesColumn::ALL.iter();
    fields.extend(described.map(|column| Field::new(column.name(), DataType::Utf8View, true)));
    fields.push(Field::new("value", DataType::Float64, true));
    fields.push(Field::new("epoch", DataType::Int64, true));
    Arc::new(Schema::new(fields))
}

impl SamplesTable {
    pub(crate) fn new(files: Files, table: TableView, index: Arc<RwLock<SeriesIndex>>) -> Self {
        SamplesTable { files, table, index, schema: schema() }
    }

    /// Which slots the label filters select; none when there are no such filters.
    fn select(
        &self,
        state: &dyn Session,
        filters: &[Expr],
        slots: usize,
        values: &LabelValues,
    ) -> Result<Option<Vec<bool>>> {
        let of_labels: Vec<Expr> =
            filters.iter().filter(|filter| is_label_filter(filter)).cloned().collect();
        let Some(all) = conjunction(of_labels) else { return Ok(None) };
        let used = all.column_refs();
        let labels: Vec<SeriesColumn> = SeriesColumn::ALL
            .into_iter()
            .filter(|column| used.iter().any(|found| found.name == column.name()))
            .collect();
        let batch = {
            let index = self.index.read().unwrap_or_else(|poisoned| poisoned.into_inner());
            let column = |&label: &SeriesColumn| -> Result<(&str, ArrayRef)> {
                let keys = UInt32Array::from(index.keys(label)[..slots].to_vec());
                Ok((label.name(), texts(keys, &values[label as usize])?))
            };
            RecordBatch::try_from_iter(labels.iter().map(column).collect::<Result<Vec<_>>>()?)?
        };
        let physical = state.create_physical_expr(all, &batch.schema().to_dfschema()?)?;
        let mask = physical.evaluate(&batch)?.into_array(batch.num_rows())?;
        let mask = mask.as_boolean();
        Ok(Some((0..mask.len()).map(|slot| mask.is_valid(slot) && mask.value(slot)).collect()))
    }

    /// The filters on series, instant and value that files can answer, and whether few rows pass.
    fn file_filters(
        &self,
        filters: &[Expr],
        selected: Option<&[bool]>,
    ) -> (Vec<Expr>, (i64, i64), bool) {
        let mut kept: Vec<Expr> =
            filters.iter().filter(|filter| is_file_filter(filter)).cloned().collect();
        let Some(selected) = selected else { return (kept, (i64::MIN, i64::MAX), false) };
        let index = self.index.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let ids = || index.ids().iter().zip(selected).filter(|(_, keep)| **keep).map(|(id, _)| *id);
        let (low, high) = (ids().min().unwrap_or(i64::MAX), ids().max().unwrap_or(i64::MIN));
        let few = ids().count() <= FEW_SERIES;
        kept.push(if few && low <= high {
            col("series").in_list(ids().map(lit).collect(), false)
        } else {
            col("series").between(lit(low), lit(high))
        });
        (kept, (low, high), few)
    }
}

/// Texts of keys into distinct values; shares the values' bytes.
pub(crate) fn texts(keys: UInt32Array, values: &StringArray) -> Result<ArrayRef> {
    let dictionary = DictionaryArray::<UInt32Type>::try_new(keys, Arc::new(values.clone()))?;
    Ok(cast(&dictionary, &DataType::Utf8View)?)
}

fn uses_only(filter: &Expr, names: &[&str]) -> bool {
    let columns = filter.column_refs();
    !columns.is_empty() && columns.iter().all(|column| names.contains(&column.name.as_str()))
}

fn is_label_filter(filter: &Expr) -> bool {
    uses_only(filter, &SeriesColumn::ALL.map(SeriesColumn::name)) && !filter.is_volatile()
}

fn is_file_filter(filter: &Expr) -> bool {
    uses_only(filter, &["at", "value", "epoch"]) && !filter.is_volatile()
}

#[async_trait]
impl TableProvider for SamplesTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        let support = |filter: &&Expr| match is_label_filter(filter) {
            true => TableProviderFilterPushDown::Exact,
            false => TableProviderFilterPushDown::Inexact,
        };
        Ok(filters.iter().map(support).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        // Series that come meanwhile are not in this view, and their labels not in these values.
        let (slots, values): (usize, LabelValues) = {
            let mut index = self.index.write().unwrap_or_else(|poisoned| poisoned.into_inner());
            (index.len(), SeriesColumn::ALL.map(|column| index.values(column)))
        };
        let selected = self.select(state, filters, slots, &values)?;
        let (low, high) = bounds(filters, "at");
        needs(state, &samples_of((low, high)));
        let (kept, series, selective) = self.file_filters(filters, selected.as_deref());
        let keep = |file: &DataFile| file.may_hold("series", series.0, series.1);
        let file_schema = self.table.def.file_schema();
        let predicate = match conjunction(kept) {
            Some(all) => {
                Some(state.create_physical_expr(all, &file_schema.clone().to_dfschema()?)?)
            }
            None => None,
        };
        let columns = match projection {
            Some(columns) => columns.clone(),
            None => (0..self.schema.fields().len()).collect(),
        };
        let schema = Arc::new(self.schema.project(&columns)?);
        // Of the file only what comes out is read, and the series, which leads to the labels.
        let mut read = vec![file_schema.index_of("series")?];
        let outs = schema.fields().iter().map(|field| {
            Ok(match SeriesColumn::find(field.name()) {
                Some(label) => Out::Label(label),
                None => {
                    read.push(file_schema.index_of(field.name())?);
                    Out::Read(read.len() - 1)
                }
            })
        });
        let outs = outs.collect::<Result<Vec<Out>>>()?;
        let wanted = Wanted {
            time: (low, high),
            keep: &keep,
            predicate,
            selective,
            projection: Some(read),
            partitions: state.config().target_partitions(),
        };
        let rows = self.files.plan(&self.table, file_schema, wanted)?;
        let known = match filters.is_empty() && lacks_nothing(state) {
            true => self.known(&schema),
            false => Statistics::new_unknown(&schema),
        };
        let index = self.index.clone();
        Ok(Arc::new(LabelExec::new(rows, schema, outs, index, selected, values, known)))
    }
}

impl SamplesTable {
    /// What files and memory say of all rows: how many, and the first and last instant.
    fn known(&self, schema: &Schema) -> Statistics {
        let memory = self.table.memory.iter().map(|batch| batch.num_rows());
        let rows = self.table.files.rows() as usize + memory.sum::<usize>();
        let mut known = Statistics::new_unknown(schema);
        known.num_rows = Precision::Exact(rows);
        let (first, last) = extent(&self.table);
        let instant = |micros| {
            let zone = Some("UTC".into());
            Precision::Exact(ScalarValue::TimestampMicrosecond(Some(micros), zone))
        };
        for (column, field) in known.column_statistics.iter_mut().zip(schema.fields()) {
            column.null_count = Precision::Exact(0);
            if field.name() == "at" && first <= last {
                (column.min_value, column.max_value) = (instant(first), instant(last));
            }
        }
        known
    }
}
