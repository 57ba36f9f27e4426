//! Which rows of a table a scope sees, enforced where rows are provided (invariant 21).
//!
//! ```text
//!  query ── filters, limits, statistics ──▶ ScopeExec ═══ opaque ═══▶ rows of all tenants
//!                                              │
//!                                              └─ only rows that the scope admits come out
//! ```
//!
//! What a query brings along stays above [`ScopeExec`]: it is a leaf without statistics, metrics or
//! children, so no filter that can fail, no limit, no sort and no filter that is made while the
//! query runs gets below it, and `EXPLAIN ANALYZE` shows nothing of what is below. Filters that
//! cannot fail are used below it to read less. Its rows come in one stream of batches of one size,
//! so that neither their number nor their partitions say anything about rows that are left out.

use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::{BatchCoalescer, cast, filter_record_batch};
use arrow::datatypes::{DataType, SchemaRef, TimeUnit, TimestampMicrosecondType};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::ScalarValue;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, Operator, TableProviderFilterPushDown, TableType, col, lit};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties,
    ReplaceChildrenOptions,
};
use futures::{StreamExt, stream};
use nilometer_contract::{Causes, ORIGIN, RowRule, Scope, Timestamp};
use tracing::error;

use crate::filter::bounds;

const BATCH_ROWS: usize = 8_192;

/// A table as one scope sees it.
#[derive(Debug)]
pub(crate) struct ScopedTable {
    inner: Arc<dyn TableProvider>,
    /// Places of the columns that the scope sees.
    columns: Vec<usize>,
    schema: SchemaRef,
    name: String,
    project: &'static str,
    at: &'static str,
    until: Option<&'static str>,
    scope: Scope,
}

/// The table as a scope sees it; none where it sees nothing of it.
pub(crate) fn scoped(
    name: &str,
    inner: Arc<dyn TableProvider>,
    rule: RowRule,
    scope: &Scope,
) -> Option<Arc<dyn TableProvider>> {
    match rule {
        _ if scope.is_system() => Some(inner),
        RowRule::Operator => None,
        RowRule::Scoped => Some(inner),
        RowRule::Project { project, at, until } => {
            // Positions in the log count the records of all.
            let (name, scope, all) = (name.to_owned(), scope.clone(), inner.schema());
            let seen = all
                .fields()
                .iter()
                .enumerate()
                .filter(|(_, it)| !ORIGIN.contains(&it.name().as_str()));
            let columns: Vec<usize> = seen.map(|(place, _)| place).collect();
            let schema = Arc::new(all.project(&columns).ok()?);
            let table = ScopedTable { inner, columns, schema, name, project, at, until, scope };
            Some(Arc::new(table))
        }
    }
}

impl ScopedTable {
    /// What may be asked of the rows of all tenants: the projects of the scope, and filters that
    /// cannot fail on any row.
    fn below(&self, filters: &[Expr]) -> Vec<Expr> {
        let projects = self.scope.iter().into_iter().flatten();
        let mut names: Vec<Expr> = projects.map(|(name, _)| lit(name.as_ref())).collect();
        let ours = match names.len() {
            1 => col(self.project).eq(names.swap_remove(0)),
            _ => col(self.project).in_list(names, false),
        };
        let mut below = vec![ours];
        below.extend(filters.iter().filter(|filter| cannot_fail(filter)).cloned());
        for field in self.inner.schema().fields() {
            if !matches!(field.data_type(), DataType::Timestamp(TimeUnit::Microsecond, _)) {
                continue;
            }
            let instant =
                |micros| lit(ScalarValue::TimestampMicrosecond(Some(micros), Some("UTC".into())));
            let (low, high) = bounds(filters, field.name());
            if low > i64::MIN {
                below.push(col(field.name()).gt_eq(instant(low)));
            }
            if high < i64::MAX {
                below.push(col(field.name()).lt_eq(instant(high)));
            }
        }
        below
    }
}

/// Whether a filter only compares columns with values: it gives no error, whatever the row.
fn cannot_fail(filter: &Expr) -> bool {
    let is_plain = |expr: &Expr| matches!(expr, Expr::Column(_) | Expr::Literal(..));
    match filter {
        Expr::BinaryExpr(both) => match both.op {
            Operator::And | Operator::Or => cannot_fail(&both.left) && cannot_fail(&both.right),
            Operator::Eq
            | Operator::NotEq
            | Operator::Lt
            | Operator::LtEq
            | Operator::Gt
            | Operator::GtEq => is_plain(&both.left) && is_plain(&both.right),
            _ => false,
        },
        Expr::IsNull(of) | Expr::IsNotNull(of) => is_plain(of),
        Expr::Between(of) => is_plain(&of.expr) && is_plain(&of.low) && is_plain(&of.high),
        Expr::InList(of) => is_plain(&of.expr) && of.list.iter().all(is_plain),
        _ => false,
    }
}

#[async_trait]
impl TableProvider for ScopedTable {
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
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = self.inner.schema();
        let wanted: Vec<usize> = match projection {
            Some(places) => places.iter().map(|place| self.columns[*place]).collect(),
            None => self.columns.clone(),
        };
        let mut read = wanted.clone();
        let mut place = |name: &str| -> Result<usize> {
            let column = schema.index_of(name)?;
            if !read.contains(&column) {
                read.push(column);
            }
            Ok(read.iter().position(|of| *of == column).unwrap_or_default())
        };
        let (project, at) = (place(self.project)?, place(self.at)?);
        let until = self.until.map(place).transpose()?;
        let below = self.below(filters);
        let rows = self.inner.scan(state, Some(&read), &below, None).await;
        let rows = rows.map_err(|error| unreadable(&self.name, error))?;
        let shown = Arc::new(schema.project(&wanted)?);
        Ok(Arc::new(ScopeExec::new(Guard {
            rows: Arc::new(CoalescePartitionsExec::new(rows)),
            name: self.name.as_str().into(),
            project,
            at,
            until,
            scope: self.scope.clone(),
            shown,
        })))
    }
}

/// What went wrong below is for the log: it may name files, rows and numbers of others.
fn unreadable(name: &str, error: DataFusionError) -> DataFusionError {
    if matches!(error.find_root(), DataFusionError::ResourcesExhausted(_)) {
        return DataFusionError::ResourcesExhausted(format!("reading {name}"));
    }
    error!(table = name, error = %Causes(&error), "rows cannot be read");
    DataFusionError::Internal(format!("rows of {name} cannot be read"))
}

/// Rows of all tenants, and which of them come out.
struct Guard {
    rows: Arc<dyn ExecutionPlan>,
    name: Arc<str>,
    /// Places of the columns in the rows.
    project: usize,
    at: usize,
    until: Option<usize>,
    scope: Scope,
    /// What comes out: the first columns of the rows.
    shown: SchemaRef,
}

impl Guard {
    /// The columns that come out; the first stands in where none does, for the number of rows.
    fn held(&self) -> Vec<usize> {
        (0..self.shown.fields().len().max(1)).collect()
    }

    fn admitted(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let projects = cast(batch.column(self.project), &DataType::Utf8)?;
        let instant = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let starts = cast(batch.column(self.at), &instant)?;
        let ends = self.until.map(|until| cast(batch.column(until), &instant)).transpose()?;
        let projects = projects.as_string::<i32>();
        let starts = starts.as_primitive::<TimestampMicrosecondType>();
        let ends = ends.as_ref().map(|ends| ends.as_primitive::<TimestampMicrosecondType>());
        let admits = |row: usize| {
            if projects.is_null(row) || starts.is_null(row) {
                return false;
            }
            let (project, start) = (projects.value(row), Timestamp(starts.value(row)));
            match ends {
                None => self.scope.admits(project, start),
                Some(ends) if ends.is_null(row) => false,
                Some(ends) => self.scope.covers(project, start, Timestamp(ends.value(row))),
            }
        };
        let mask: BooleanArray = (0..batch.num_rows()).map(|row| Some(admits(row))).collect();
        let admitted = filter_record_batch(&batch.project(&self.held())?, &mask)?;
        let rows = RecordBatchOptions::new().with_row_count(Some(admitted.num_rows()));
        let columns = admitted.columns().iter().map(own_bytes).collect();
        Ok(RecordBatch::try_new_with_options(admitted.schema(), columns, &rows)?)
    }
}

/// The same texts in a buffer of their own: views share one with rows that are left out, and an
/// Arrow stream carries the buffer as it is.
fn own_bytes(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Utf8View => Arc::new(column.as_string_view().gc()),
        DataType::BinaryView => Arc::new(column.as_binary_view().gc()),
        _ => column.clone(),
    }
}

/// Lets the rows of a scope out. A leaf, whatever lies below it.
pub(crate) struct ScopeExec {
    guard: Arc<Guard>,
    properties: Arc<PlanProperties>,
}

impl ScopeExec {
    fn new(guard: Guard) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(guard.shown.clone()),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        ScopeExec { guard: Arc::new(guard), properties: Arc::new(properties) }
    }
}

impl fmt::Debug for ScopeExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScopeExec: {}", self.guard.name)
    }
}

impl DisplayAs for ScopeExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScopeExec: {}", self.guard.name)
    }
}

impl ExecutionPlan for ScopeExec {
    fn name(&self) -> &str {
        "ScopeExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn with_new_children(
        self: Arc<Self>,
        _: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, _: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let guard = self.guard.clone();
        let rows = guard.rows.execute(0, context);
        let rows = rows.map_err(|error| unreadable(&guard.name, error))?;
        let (shown, held) = (guard.shown.clone(), rows.schema().project(&guard.held())?);
        let batches = BatchCoalescer::new(Arc::new(held), BATCH_ROWS);
        let state = Admitting { rows, batches, guard, is_over: false };
        let admitted = stream::try_unfold(state, |mut state| async move {
            Ok(state.next().await?.map(|batch| (batch, state)))
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(shown, admitted)))
    }
}

/// Rows on their way out.
struct Admitting {
    rows: SendableRecordBatchStream,
    batches: BatchCoalescer,
    guard: Arc<Guard>,
    is_over: bool,
}

impl Admitting {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(batch) = self.batches.next_completed_batch() {
                let shown: Vec<usize> = (0..self.guard.shown.fields().len()).collect();
                return Ok(Some(batch.project(&shown)?));
            }
            if self.is_over {
                return Ok(None);
            }
            match self.rows.next().await {
                Some(batch) => {
                    let batch = batch.map_err(|error| unreadable(&self.guard.name, error))?;
                    self.batches.push_batch(self.guard.admitted(&batch)?)?;
                }
                None => {
                    self.batches.finish_buffered_batch()?;
                    self.is_over = true;
                }
            }
        }
    }
}
