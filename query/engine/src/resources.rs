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
use nilometer_contract::{History, Segment};

use crate::missing::{LIFETIMES, needs};

/// Schema of `resources`: one row a state, `[start, end)`, `end` null while it lasts.
pub fn schema() -> SchemaRef {
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
            rows(&history)?
        };
        let projection = projection.cloned();
        Ok(MemorySourceConfig::try_new_exec(&[vec![rows]], self.schema.clone(), projection)?)
    }
}

fn rows(history: &History) -> Result<RecordBatch> {
    let mut rows: Vec<&Segment> =
        history.iter().flat_map(|(_, lifetime)| lifetime.segments()).collect();
    rows.sort_by(|a, b| (&a.state.id, a.start).cmp(&(&b.state.id, b.start)));
    let text = |field: &dyn Fn(&Segment) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| field(row))))
    };
    let instant = |at: &dyn Fn(&Segment) -> Option<i64>| -> ArrayRef {
        let micros: TimestampMicrosecondArray = rows.iter().map(|row| at(row)).collect();
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
