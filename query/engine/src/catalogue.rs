//! The tables `meters` and `kinds`: what is declared, and what was learnt from samples.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::memory::MemorySourceConfig;
use datafusion::catalog::{Session, TableProvider};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use nilometer_contract::{Kind, MICROS_PER_SECOND, Meter, MeterKind, Origin, ResourceKind, Scope};
use nilometer_ingest::Tables;

fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, false)
}

fn flag(name: &str) -> Field {
    Field::new(name, DataType::Boolean, false)
}

/// Schema of `meters`: one row a meter, in order of names.
fn meters_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        text("meter"),
        text("kind"),
        text("unit"),
        text("usage_unit"),
        Field::new("hold_seconds", DataType::Float64, false),
        text("attribute"),
        text("capacity"),
        text("resources"),
        text("description"),
        text("origin"),
        text("learnt_from"),
        text("sources"),
    ]))
}

/// Schema of `kinds`: one row a kind of resource, in order of names.
fn kinds_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        text("kind"),
        flag("declared"),
        flag("computes"),
        flag("contains"),
        flag("costs_idle"),
        text("parent"),
        text("description"),
    ]))
}

/// Which of the two tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    Meters,
    Kinds,
}

/// One of the two tables, made when a query reads it.
pub(crate) struct CatalogueTable {
    pub(crate) of: Of,
    pub(crate) tables: Tables,
    /// Who sees not all sees what is declared: what was learnt may be somebody else's.
    pub(crate) scope: Scope,
}

impl std::fmt::Debug for CatalogueTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.of)
    }
}

#[async_trait]
impl TableProvider for CatalogueTable {
    fn schema(&self) -> SchemaRef {
        match self.of {
            Of::Meters => meters_schema(),
            Of::Kinds => kinds_schema(),
        }
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let rows = match self.of {
            Of::Meters => meters(&self.tables, &self.scope)?,
            Of::Kinds => kinds(&self.tables, &self.scope)?,
        };
        let source =
            MemorySourceConfig::try_new_exec(&[vec![rows]], self.schema(), projection.cloned())?;
        Ok(source)
    }
}

fn texts<T: AsRef<str>>(values: impl Iterator<Item = T>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn meters(tables: &Tables, scope: &Scope) -> Result<RecordBatch> {
    let catalogue = tables.catalogue();
    let is_seen =
        |meter: &&Meter| scope.is_system() || !matches!(meter.origin, Origin::Learnt { .. });
    let all = || catalogue.meters().map(|meter| &**meter).filter(is_seen);
    let attribute = |meter: &Meter| match &meter.kind {
        MeterKind::Allocation { attribute } => attribute.clone().unwrap_or_default(),
        _ => String::new(),
    };
    let learnt_from = |meter: &Meter| match &meter.origin {
        Origin::Learnt { source } => source.to_string(),
        _ => String::new(),
    };
    let sources = |meter: &Meter| match &meter.kind {
        MeterKind::Allocation { .. } => String::new(),
        _ => catalogue.precedence().of_meter(&meter.name).join(","),
    };
    let resources = |meter: &Meter| {
        let kinds = meter.resources.iter().map(ResourceKind::as_str);
        kinds.collect::<Vec<_>>().join(",")
    };
    let seconds = |meter: &Meter| meter.hold_micros as f64 / MICROS_PER_SECOND as f64;
    let columns: Vec<ArrayRef> = vec![
        texts(all().map(|meter| &*meter.name)),
        texts(all().map(|meter| meter.kind.as_str())),
        texts(all().map(|meter| meter.unit.as_str())),
        texts(all().map(|meter| &*meter.usage_unit)),
        Arc::new(Float64Array::from_iter_values(all().map(seconds))),
        texts(all().map(attribute)),
        texts(all().map(|meter| meter.capacity.as_deref().unwrap_or_default())),
        texts(all().map(resources)),
        texts(all().map(|meter| &meter.description)),
        texts(all().map(|meter| meter.origin.as_str())),
        texts(all().map(learnt_from)),
        texts(all().map(sources)),
    ];
    Ok(RecordBatch::try_new(meters_schema(), columns)?)
}

fn kinds(tables: &Tables, scope: &Scope) -> Result<RecordBatch> {
    let catalogue = tables.catalogue();
    let declared = catalogue.kinds().map(|kind| kind.name.clone());
    let in_use = if scope.is_system() { tables.kinds_in_use() } else { BTreeSet::new() };
    let names: BTreeSet<ResourceKind> = declared.chain(in_use).collect();
    let all: Vec<Option<&Kind>> = names.iter().map(|name| catalogue.kind(name)).collect();
    let flags = |flag: fn(&Kind) -> bool| -> ArrayRef {
        Arc::new(all.iter().map(|kind| Some(kind.is_some_and(flag))).collect::<BooleanArray>())
    };
    let columns: Vec<ArrayRef> = vec![
        texts(names.iter().map(ResourceKind::as_str)),
        flags(|_| true),
        flags(|kind| kind.computes),
        flags(|kind| kind.contains),
        flags(|kind| kind.costs_idle),
        texts(all.iter().map(|kind| {
            kind.and_then(|kind| kind.parent.as_ref()).map_or("", ResourceKind::as_str)
        })),
        texts(all.iter().map(|kind| kind.map_or("", |kind| &kind.description))),
    ];
    Ok(RecordBatch::try_new(kinds_schema(), columns)?)
}
