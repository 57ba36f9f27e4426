//! The table `resources`: each state of each resource, from the lifecycle events.

use std::sync::{Arc, RwLock};

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use datafusion::catalog::memory::MemorySourceConfig;
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use nilometer_contract::{History, Resource, Scope, Segment, Timestamp};

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

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        needs(state, &LIFETIMES);
        let rows = {
            let history = self.history.read().unwrap_or_else(|poisoned| poisoned.into_inner());
            rows(&history, &self.scope)?
        };
        let projection = projection.cloned();
        Ok(MemorySourceConfig::try_new_exec(&[vec![rows]], self.schema.clone(), projection)?)
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

fn rows(history: &History, scope: &Scope) -> Result<RecordBatch> {
    let segments = history.iter().flat_map(|(_, lifetime)| lifetime.segments());
    let mut rows: Vec<Row<'_>> = segments.flat_map(|segment| Row::of(segment, scope)).collect();
    rows.sort_by(|a, b| (&a.state.id, a.start).cmp(&(&b.state.id, b.start)));
    let text = |field: &dyn Fn(&Row<'_>) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(field)))
    };
    let instant = |at: &dyn Fn(&Row<'_>) -> Option<i64>| -> ArrayRef {
        let micros: TimestampMicrosecondArray = rows.iter().map(at).collect();
        Arc::new(micros.with_timezone("UTC"))
    };
    let parents: StringArray = rows.iter().map(|row| row.state.parent.as_deref()).collect();
    let current: BooleanArray = rows.iter().map(|row| Some(row.end.is_none())).collect();
    let columns: Vec<ArrayRef> = vec![
        text(&|row| row.state.id.clone()),
        text(&|row| row.state.kind.to_string()),
        text(&|row| row.state.project.clone()),
        text(&|row| row.state.name.clone()),
        text(&|row| row.state.node.clone()),
        Arc::new(parents),
        text(&|row| serde_json::to_string(&row.state.attributes).unwrap_or_default()),
        instant(&|row| Some(row.start.0)),
        instant(&|row| row.end.map(|end| end.0)),
        Arc::new(current),
    ];
    Ok(RecordBatch::try_new(schema(), columns)?)
}
