//! Tables that are queried as they are stored: files ∪ memory.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::ToDFSchema;
use datafusion::error::Result;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use nilometer_ingest::TableView;

use crate::filter::bounds;
use crate::missing::needs_files;
use crate::scan::{Files, Wanted};

/// A stored table at one moment.
#[derive(Debug)]
pub(crate) struct StoredTable {
    pub(crate) files: Files,
    pub(crate) table: TableView,
    pub(crate) schema: SchemaRef,
}

#[async_trait]
impl TableProvider for StoredTable {
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
        let time = self.table.def.time;
        let (low, high) = time.map_or((i64::MIN, i64::MAX), |column| bounds(filters, column));
        needs_files(state, &self.table.files, (low, high));
        let predicate = match conjunction(filters.to_vec()) {
            Some(all) => {
                let schema = self.schema.clone().to_dfschema()?;
                Some(state.create_physical_expr(all, &schema)?)
            }
            None => None,
        };
        let wanted = Wanted {
            time: (low, high),
            keep: &|_| true,
            predicate,
            selective: false,
            projection: projection.cloned(),
            partitions: state.config().target_partitions(),
        };
        self.files.plan(&self.table, self.schema.clone(), wanted)
    }
}
