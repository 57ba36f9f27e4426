//! Tables of billing for SQL: settled rows as stored, open hours as of the moment of the query.
//!
//! | table | rows |
//! |---|---|
//! | `usage`, `charges` | the newest statement about each settled hour ∪ open hours, each row once |
//! | `usage_history`, `charges_history` | every statement ever made, with its `known` |
//! | `invoices` | issued invoices, a row a line |
//!
//! Filters that compare start, end, project, resource, meter or kind with a value bound what is
//! computed: a query about one project and one hour computes no more than that.

use std::sync::{Arc, Weak};

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::{MemTable, provider_as_source};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{
    Expr, LogicalPlan, LogicalPlanBuilder, Operator, TableProviderFilterPushDown, TableType, col,
};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::ProjectionExec;
use nilometer_contract::{MICROS_PER_HOUR, Scope, TableDef, Timestamp};
use nilometer_engine::{Selection, bounds, equals, usage_columns};
use nilometer_usage::{USAGE, Window};

use crate::core::Core;
use crate::error::LedgerError;
use crate::ledger::Ledger;
use crate::rating::Rating;
use crate::stored::read::live;
use crate::stored::rows::{CHARGES, INVOICES, charge_columns};
use crate::stored::statements::{AsOf, Statements};

/// Every statement about usage that was ever made.
pub(crate) const USAGE_HISTORY: &str = "usage_history";
/// Every statement about charges that was ever made.
pub(crate) const CHARGES_HISTORY: &str = "charges_history";

const BATCH_ROWS: usize = 8_192;
/// Columns of stored rows that `usage` and `charges` do not show.
const HIDDEN: [&str; 2] = ["observed_micros", "known"];
/// The sealed invoice, which HTTP serves; it would fill the screen of who asks for all columns.
const DOCUMENT: &str = "document";

/// Registers the tables of a ledger with its engine. They hold it weakly, since it holds the
/// engine.
pub(crate) fn register(ledger: &Ledger) {
    for (name, def, form) in [
        ("usage", &USAGE, Form::Living),
        ("charges", &CHARGES, Form::Living),
        (USAGE_HISTORY, &USAGE, Form::Stored),
        (CHARGES_HISTORY, &CHARGES, Form::Stored),
        ("invoices", &INVOICES, Form::Stored),
    ] {
        let shown = |field: &&Arc<Field>| {
            let name = field.name().as_str();
            name != DOCUMENT && (form == Form::Stored || !HIDDEN.contains(&name))
        };
        let fields = def.file_schema().fields().iter().filter(shown).cloned().collect::<Vec<_>>();
        let schema = Arc::new(Schema::new(fields));
        let core = Arc::downgrade(&ledger.core);
        let table = LedgerTable { name, def, form, schema, core };
        ledger.core.engine.register(name, def, Arc::new(table));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// What counts now, open hours included.
    Living,
    /// What is stored, as it is.
    Stored,
}

struct LedgerTable {
    name: &'static str,
    def: &'static TableDef,
    form: Form,
    schema: SchemaRef,
    core: Weak<Core>,
}

impl std::fmt::Debug for LedgerTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl LedgerTable {
    /// Rows that are stored: of the statements in force, or all of them.
    fn stored(
        &self,
        rating: &Rating,
        said: &Statements,
        window: Option<Window>,
    ) -> Result<LogicalPlan> {
        let provider = rating.core.engine.provide(said.view.clone());
        let plan = LogicalPlanBuilder::scan(self.name, provider_as_source(provider), None)?;
        let plan = match window {
            Some(window) => plan.filter(live(said.choice(window, AsOf::Newest), window))?,
            None => plan.filter(col("end").gt(col("start")))?,
        };
        let columns = self.schema.fields().iter().map(|field| col(field.name().as_str()));
        plan.project(columns.collect::<Vec<Expr>>())?.build()
    }

    /// Rows of hours that are not settled, as of now.
    async fn open(
        &self,
        rating: &Rating,
        said: &Statements,
        window: Window,
        selection: &Selection,
    ) -> Result<Vec<RecordBatch>, LedgerError> {
        let mut batches = Vec::new();
        for open in said.open(window, AsOf::Newest) {
            match self.name {
                "usage" => {
                    let rows = rating.usage(&Scope::system(), open, selection).await?;
                    for rows in rows.chunks(BATCH_ROWS) {
                        batches.push(self.def.project(self.schema.clone(), &usage_columns(rows)?));
                    }
                }
                _ => {
                    let rows = rating.charges(&Scope::system(), open, selection).await?;
                    let parts = rows.chunks(BATCH_ROWS).map(charge_columns);
                    batches.extend(parts.map(|part| self.def.project(self.schema.clone(), &part)));
                }
            }
        }
        Ok(batches)
    }

    async fn plan(&self, rating: &Rating, filters: &[Expr]) -> Result<LogicalPlan> {
        let stored = rating.core.stored();
        let said = match self.def.name {
            "usage" => &stored.usage,
            "charges" => &stored.charges,
            _ => {
                let provider = rating.core.engine.provide(stored.invoices.clone());
                let source = provider_as_source(provider);
                return LogicalPlanBuilder::scan(self.name, source, None)?.build();
            }
        };
        if self.form == Form::Stored {
            return self.stored(rating, said, None);
        }
        let window = rating.metered(window_of(filters));
        let selection = Selection {
            project: equals(filters, "project"),
            resource: equals(filters, "resource"),
            meter: equals(filters, "meter"),
            kind: equals(filters, "kind").and_then(|kind| kind.parse().ok()),
        };
        let open = self.open(rating, said, window, &selection).await;
        let open = open.map_err(|error| DataFusionError::External(Box::new(error)))?;
        let stored = self.stored(rating, said, Some(window))?;
        if open.is_empty() {
            return Ok(stored);
        }
        let open = MemTable::try_new(self.schema.clone(), vec![open])?;
        let open = provider_as_source(Arc::new(open));
        let open = LogicalPlanBuilder::scan(self.name, open, None)?.build()?;
        LogicalPlanBuilder::from(stored).union(open)?.build()
    }
}

/// The hours that filters let through: of rows within one hour, bounds on one edge bound the
/// other to within an hour.
fn window_of(filters: &[Expr]) -> Window {
    let (start, end) = (bounds(filters, "start"), bounds(filters, "end"));
    let low = start.0.max(end.0.saturating_sub(MICROS_PER_HOUR));
    let strict = filters.iter().any(|filter| {
        let Expr::BinaryExpr(compared) = filter else { return false };
        matches!(compared.op, Operator::Lt | Operator::Gt)
            && bounds(std::slice::from_ref(filter), "start").1 == start.1
    });
    let high = start.1.saturating_sub(i64::from(strict)).min(end.1.saturating_sub(1));
    let low = Timestamp(low.max(Timestamp::MIN.0));
    let high = Timestamp(high.min(Timestamp::MAX.0));
    Window { start: low.hour(), end: high.hour().plus_micros(MICROS_PER_HOUR) }
}

#[async_trait]
impl TableProvider for LedgerTable {
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
        let Some(core) = self.core.upgrade() else {
            return Err(DataFusionError::Execution("billing was stopped".to_owned()));
        };
        let plan = LogicalPlanBuilder::from(self.plan(&Rating { core }, filters).await?);
        let plan = match conjunction(filters.to_vec()) {
            Some(all) => plan.filter(all)?,
            None => plan,
        };
        let all: Vec<usize> = (0..self.schema.fields().len()).collect();
        let columns = projection.unwrap_or(&all);
        // A plan without columns has no rows to count; the first column stands in for it.
        let read = if columns.is_empty() { &all[..1] } else { columns.as_slice() };
        let names = read.iter().map(|&at| col(self.schema.field(at).name().as_str()));
        let plan = plan.project(names.collect::<Vec<Expr>>())?.build()?;
        let rows = state.create_physical_plan(&plan).await?;
        match columns.is_empty() {
            true => Ok(Arc::new(ProjectionExec::try_new(
                Vec::<datafusion::physical_plan::projection::ProjectionExpr>::new(),
                rows,
            )?)),
            false => Ok(rows),
        }
    }
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::lit;

    use super::*;
    use crate::stored::read::instant;

    const HOUR: i64 = MICROS_PER_HOUR;

    #[test]
    fn filters_bound_the_hours_that_are_looked_at() {
        let hours = |filters: &[Expr]| {
            let window = window_of(filters);
            (window.start.0 / HOUR, window.end.0 / HOUR)
        };
        let at = |hours: i64| instant(Timestamp::MIN.0 + hours * HOUR);
        let zero = Timestamp::MIN.0 / HOUR;
        let from = col("start").gt_eq(at(5));
        assert_eq!(hours(&[from.clone(), col("start").lt(at(7))]), (zero + 5, zero + 7));
        assert_eq!(hours(&[from.clone(), at(7).gt(col("start"))]), (zero + 5, zero + 7));
        assert_eq!(hours(&[from.clone(), col("start").lt_eq(at(7))]), (zero + 5, zero + 8));
        assert_eq!(hours(&[from, col("end").lt_eq(at(7))]), (zero + 5, zero + 7));
        assert_eq!(hours(&[col("start").eq(at(5))]), (zero + 5, zero + 6));
        assert_eq!(hours(&[col("end").gt(at(5)), col("end").lt_eq(at(6))]), (zero + 4, zero + 6));
        let all = hours(&[col("project").eq(lit("p"))]);
        assert_eq!(all, (zero, Timestamp::MAX.0 / HOUR + 1));
    }
}
