//! The table `resources`: each state of each resource, from the lifecycle events.

use std::sync::{Arc, RwLock};

use arrow::array::{
    ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use datafusion::catalog::memory::MemorySourceConfig;
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use nilometer_contract::{History, Lifetime, Resource, Scope, Segment, Timestamp};

use crate::filter::equals;
use crate::missing::{LIFETIMES, needs};

/// Schema of `resources`: one row a state, `[start, end)`, `end` null while it lasts.
pub(crate) fn schema() -> SchemaRef {
    let instant = || DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    Arc::new(Schema::new(vec![
        text("resource"),
        text("kind"),
        text("project"),
        text("name"),
        text("node"),
        Field::new("parent", DataType::Utf8, true),
        text("attributes"),
        Field::new("start", instant(), false),
        Field::new("end", instant(), true),
        Field::new("current", DataType::Boolean, false),
    ]))
}

/// The table, made when a query reads it.
#[derive(Debug)]
pub(crate) struct ResourcesTable {
    pub(crate) schema: SchemaRef,
    pub(crate) history: Arc<RwLock<History>>,
    /// Whose states it has: of a state only the part in which the project is in the scope.
    pub(crate) scope: Scope,
}

#[async_trait]
impl TableProvider for ResourcesTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
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
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        needs(state, &LIFETIMES);
        let schema = match projection {
            Some(columns) => Arc::new(self.schema.project(columns)?),
            None => self.schema.clone(),
        };
        let rows = {
            let history = self.history.read().unwrap_or_else(|poisoned| poisoned.into_inner());
            rows(&history, &self.scope, &Wanted::by(filters), schema.clone())?
        };
        Ok(MemorySourceConfig::try_new_exec(&[vec![rows]], schema, None)?)
    }
}

/// What filters demand of the states, as far as it is looked up instead of compared.
struct Wanted {
    resource: Option<String>,
    kind: Option<String>,
    project: Option<String>,
    node: Option<String>,
}

impl Wanted {
    fn by(filters: &[Expr]) -> Self {
        let of = |column| equals(filters, column);
        let (resource, kind) = (of("resource"), of("kind"));
        Wanted { resource, kind, project: of("project"), node: of("node") }
    }

    fn has(&self, state: &Resource) -> bool {
        let is =
            |wanted: &Option<String>, text: &str| wanted.as_deref().is_none_or(|it| it == text);
        is(&self.kind, state.kind.as_str())
            && is(&self.project, &state.project)
            && is(&self.node, &state.node)
    }
}

/// A state, or the part of it that a scope sees.
struct Row<'a> {
    state: &'a Resource,
    start: Timestamp,
    end: Option<Timestamp>,
}

impl<'a> Row<'a> {
    fn of(segment: &'a Segment, scope: &'a Scope) -> Vec<Row<'a>> {
        let (state, start, end) = (&segment.state, segment.start, segment.end);
        let Some(projects) = scope.iter() else { return vec![Row { state, start, end }] };
        let ours = projects.filter(|(project, _)| ***project == *state.project);
        ours.flat_map(|(_, periods)| periods)
            .filter(|period| period.start < end.unwrap_or(Timestamp::MAX) && start < period.end)
            .map(|period| {
                let last = end.unwrap_or(Timestamp::MAX).min(period.end);
                let end = (last < Timestamp::MAX).then_some(last);
                Row { state, start: start.max(period.start), end }
            })
            .collect()
    }
}

fn rows(
    history: &History,
    scope: &Scope,
    wanted: &Wanted,
    schema: SchemaRef,
) -> Result<RecordBatch> {
    let lifetimes: Box<dyn Iterator<Item = &Lifetime>> = match &wanted.resource {
        Some(id) => Box::new(history.get(id).into_iter()),
        None => Box::new(history.iter().map(|(_, lifetime)| lifetime)),
    };
    let segments = lifetimes.flat_map(Lifetime::segments);
    let segments = segments.filter(|segment| wanted.has(&segment.state));
    let mut rows: Vec<Row<'_>> = segments.flat_map(|segment| Row::of(segment, scope)).collect();
    rows.sort_by(|a, b| (&a.state.id, a.start).cmp(&(&b.state.id, b.start)));
    let fields = schema.fields().iter();
    let columns = fields.map(|field| column(&rows, field.name())).collect();
    let count = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    Ok(RecordBatch::try_new_with_options(schema, columns, &count)?)
}

fn column(rows: &[Row<'_>], name: &str) -> ArrayRef {
    let text = |field: fn(&Resource) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| field(row.state))))
    };
    let instant = |at: fn(&Row<'_>) -> Option<i64>| -> ArrayRef {
        let micros: TimestampMicrosecondArray = rows.iter().map(at).collect();
        Arc::new(micros.with_timezone("UTC"))
    };
    match name {
        "resource" => text(|state| &state.id),
        "kind" => text(|state| state.kind.as_str()),
        "project" => text(|state| &state.project),
        "name" => text(|state| &state.name),
        "node" => text(|state| &state.node),
        "parent" => {
            let parents = rows.iter().map(|row| row.state.parent.as_deref());
            Arc::new(parents.collect::<StringArray>())
        }
        "attributes" => {
            let json = |row: &Row<'_>| serde_json::to_string(&row.state.attributes);
            let texts = rows.iter().map(|row| json(row).unwrap_or_default());
            Arc::new(StringArray::from_iter_values(texts))
        }
        "start" => instant(|row| Some(row.start.0)),
        "end" => instant(|row| row.end.map(|end| end.0)),
        "current" => {
            Arc::new(rows.iter().map(|row| Some(row.end.is_none())).collect::<BooleanArray>())
        }
        other => panic!("resources have no column {other}"),
    }
}
