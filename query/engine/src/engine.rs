//! Queries under limits, each over one view of all tables.

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::common::{Diagnostic, Location, Span};
use datafusion::error::DataFusionError;
use datafusion::execution::cache::cache_manager::CacheManagerConfig;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::{
    FunctionRegistry, SendableRecordBatchStream, SessionStateBuilder, context::SQLOptions,
};
use datafusion::prelude::{SessionConfig, SessionContext};
use nilometer_contract::{RowRule, Scope, TableDef};
use nilometer_ingest::{TableView, Tables, View};
use nilometer_store::{Missing, Storage};
use nilometer_usage::{SOURCE_HOURS, USAGE};
use tokio::time::Instant;

use crate::answer::Answer;
use crate::catalogue::{CatalogueTable, Of};
use crate::meter::Meter;
use crate::missing::Lacks;
use crate::once::OncePerSeries;
use crate::resources::ResourcesTable;
use crate::samples::SamplesTable;
use crate::scan::Files;
use crate::stored::StoredTable;
use crate::tenancy::scoped;
use crate::truncate::BinFixedWidths;
use crate::usage::{Told, UsageTable};

/// Bounds of one query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that its operators may hold, and as many again for its answer.
    pub memory_bytes: usize,
    /// Longest time.
    pub time: Duration,
    /// Most rows returned; one more is an error, never a silent cut.
    pub rows: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { memory_bytes: 512 << 20, time: Duration::from_secs(60), rows: 1_000_000 }
    }
}

/// Why a query gave no rows.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The query is wrong, or asks for what is not allowed.
    #[error("the query was refused")]
    Refused(#[source] DataFusionError),
    /// It ran and failed.
    #[error("the query failed")]
    Failed(#[source] DataFusionError),
    /// It took too long.
    #[error("the query took longer than {0:?}; narrow it, or raise query.max_time")]
    TooSlow(Duration),
    /// It needed too much memory.
    #[error(
        "the query needs more than {0} bytes; aggregate or narrow it, or raise query.max_memory"
    )]
    TooLarge(usize),
    /// It gave too many rows.
    #[error("the query gives more than {0} rows; add LIMIT or aggregate, or raise query.max_rows")]
    TooMany(usize),
}

impl QueryError {
    /// `planning`: nothing ran yet, so it is the query that is wrong.
    pub(crate) fn of(error: DataFusionError, planning: bool, limits: Limits) -> Self {
        let root = error.find_root();
        if matches!(root, DataFusionError::ResourcesExhausted(_)) {
            return QueryError::TooLarge(limits.memory_bytes);
        }
        let of_query = matches!(
            root,
            DataFusionError::SQL(..)
                | DataFusionError::Plan(_)
                | DataFusionError::SchemaError(..)
                | DataFusionError::NotImplemented(_)
                | DataFusionError::ArrowError(..)
                | DataFusionError::Execution(_)
        );
        match planning || of_query {
            true => QueryError::Refused(error),
            false => QueryError::Failed(error),
        }
    }
}

/// What a query gave.
#[derive(Clone, Debug)]
pub struct Rows {
    /// Names and types, also of an empty answer.
    pub schema: SchemaRef,
    /// The rows.
    pub batches: Vec<RecordBatch>,
    /// Rows that the answer lacks because their files are damaged.
    pub missing: Vec<Missing>,
}

/// A table, whose its rows are, and what is declared of it.
#[derive(Clone)]
struct Provided {
    table: Arc<dyn TableProvider>,
    rule: RowRule,
    def: Option<&'static TableDef>,
}

/// A table as a scope sees it.
#[derive(Clone, Debug)]
pub struct Described {
    /// Its name.
    pub name: String,
    /// What is declared of it, if anything.
    pub def: Option<&'static TableDef>,
    /// The columns that are seen.
    pub schema: SchemaRef,
}

/// Answers queries.
#[derive(Clone)]
pub struct Engine {
    tables: Tables,
    files: Files,
    limits: Limits,
    config: SessionConfig,
    caches: CacheManagerConfig,
    meter: Meter,
    extra: Arc<RwLock<BTreeMap<&'static str, Provided>>>,
}

impl Engine {
    /// An engine over the tables of a place.
    pub fn new(storage: &Storage, tables: Tables, limits: Limits) -> Result<Self, QueryError> {
        let build = || -> Result<Self, DataFusionError> {
            let shared = RuntimeEnv::default();
            let footers = shared.cache_manager.get_file_metadata_cache();
            let caches =
                CacheManagerConfig::default().with_file_metadata_cache(Some(footers.clone()));
            let files = Files::new(storage, footers)?;
            let mut config = SessionConfig::new()
                .with_default_catalog_and_schema("nilometer", "public")
                .with_information_schema(true)
                .with_target_partitions(std::thread::available_parallelism().map_or(2, Into::into));
            config.options_mut().sql_parser.collect_spans = true;
            config.options_mut().execution.time_zone = Some("UTC".to_owned());
            let runtime = runtime(limits.memory_bytes, &caches)?;
            runtime.register_object_store(files.url.as_ref(), files.storage.object_store());
            let context = SessionContext::new_with_config_rt(config.clone(), runtime);
            let meter = Meter::new(files.clone(), tables.clone(), context);
            let extra = Arc::default();
            Ok(Engine { tables, files, limits, config, caches, meter, extra })
        };
        build().map_err(QueryError::Failed)
    }

    /// Adds or replaces a table that is provided further right: under its declared name, or
    /// another one where it has other rows of the same form.
    pub fn register(
        &self,
        name: &'static str,
        def: &'static TableDef,
        table: Arc<dyn TableProvider>,
    ) {
        let provided = Provided { table, rule: def.rule, def: Some(def) };
        let mut extra = self.extra.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        extra.insert(name, provided);
    }

    /// Tables that a scope sees by name, each with what is declared of it and the schema that is
    /// shown; of logical ones, such as `resources`, nothing is declared.
    pub fn described(&self, scope: &Scope) -> Vec<Described> {
        let tables = self.provided(&self.tables.now(), scope).into_iter();
        let shown = tables.filter_map(|(name, provided)| {
            let table = scoped(name, provided.table, provided.rule, scope)?;
            Some(Described { name: name.to_owned(), def: provided.def, schema: table.schema() })
        });
        shown.collect()
    }

    /// Tells exact usage.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// The tables.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// A table whose files somebody further right keeps, for registering or reading.
    pub fn provide(&self, table: TableView) -> Arc<dyn TableProvider> {
        let schema = table.def.file_schema();
        Arc::new(StoredTable { files: self.files.clone(), table, schema })
    }

    /// A context without tables for code that reads what [`provide`](Self::provide) gives: within
    /// the memory of a query, without its other limits.
    pub fn context(&self) -> Result<SessionContext, QueryError> {
        self.empty_session(self.config.clone()).map_err(QueryError::Failed)
    }

    /// Bounds of a query.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// All rows of a read-only query, within the limits; dropping the future cancels the work.
    pub async fn query(&self, scope: &Scope, sql: &str) -> Result<Rows, QueryError> {
        self.answer(scope, sql).await?.collect().await
    }

    /// The rows of a read-only query as they come, within the limits.
    ///
    /// Tables have the rows that the scope sees, and are not there where it sees none of them.
    pub async fn answer(&self, scope: &Scope, sql: &str) -> Result<Answer, QueryError> {
        let start = Instant::now();
        let (batches, missing) =
            match tokio::time::timeout(self.limits.time, self.plan(scope, sql)).await {
                Ok(planned) => planned?,
                Err(_) => return Err(QueryError::TooSlow(self.limits.time)),
            };
        let left = self.limits.time.saturating_sub(start.elapsed());
        Ok(Answer::new(batches, missing, self.limits, left))
    }

    async fn plan(
        &self,
        scope: &Scope,
        sql: &str,
    ) -> Result<(SendableRecordBatchStream, Vec<Missing>), QueryError> {
        let lacks = Lacks::of(self.tables.now());
        let context = self.session(scope, &lacks).map_err(QueryError::Failed)?;
        let read_only = SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(false)
            .with_allow_statements(false);
        let frame = context
            .sql_with_options(sql, read_only)
            .await
            .map_err(|error| QueryError::of(placed(error, sql), true, self.limits))?;
        let batches = frame.execute_stream().await;
        let batches = batches.map_err(|error| QueryError::of(error, false, self.limits))?;
        Ok((batches, lacks.take()))
    }

    fn empty_session(&self, config: SessionConfig) -> Result<SessionContext, DataFusionError> {
        let runtime = runtime(self.limits.memory_bytes, &self.caches)?;
        runtime.register_object_store(self.files.url.as_ref(), self.files.storage.object_store());
        let mut state = SessionStateBuilder::new_with_default_features()
            .with_config(config)
            .with_runtime_env(runtime)
            .with_physical_optimizer_rule(Arc::new(OncePerSeries))
            .build();
        state.register_function_rewrite(Arc::new(BinFixedWidths))?;
        Ok(SessionContext::new_with_state(state))
    }

    fn session(
        &self,
        scope: &Scope,
        lacks: &Arc<Lacks>,
    ) -> Result<SessionContext, DataFusionError> {
        let context = self.empty_session(self.config.clone().with_extension(lacks.clone()))?;
        for (name, Provided { table, rule, .. }) in self.provided(&lacks.view, scope) {
            if let Some(table) = scoped(name, table, rule, scope) {
                context.register_table(name, table)?;
            }
        }
        Ok(context)
    }

    /// All tables of a view, for a scope.
    fn provided(&self, view: &View, scope: &Scope) -> BTreeMap<&'static str, Provided> {
        let mut tables: BTreeMap<&str, Provided> = BTreeMap::new();
        for (&name, of) in &view.tables {
            let (table, def): (Arc<dyn TableProvider>, _) = match name {
                "series" => continue,
                "samples" => {
                    let index = self.tables.shared.index.clone();
                    let table = SamplesTable::new(self.files.clone(), of.clone(), index);
                    (Arc::new(table), None)
                }
                _ => (self.provide(of.clone()), Some(of.def)),
            };
            tables.insert(name, Provided { table, rule: of.def.rule, def });
        }
        let mut add = |name, rule, def, table| tables.insert(name, Provided { table, rule, def });
        let history = self.tables.shared.history.clone();
        let schema = crate::resources::schema();
        let resources = ResourcesTable { schema, history, scope: scope.clone() };
        add("resources", RowRule::Scoped, None, Arc::new(resources));
        for (name, of) in [("meters", Of::Meters), ("kinds", Of::Kinds)] {
            let table = CatalogueTable { of, tables: self.tables.clone(), scope: scope.clone() };
            add(name, RowRule::Scoped, None, Arc::new(table));
        }
        for (def, told) in [(&USAGE, Told::Usage), (&SOURCE_HOURS, Told::SourceHours)] {
            let table = UsageTable { meter: self.meter.clone(), told };
            add(def.name, def.rule, Some(def), Arc::new(table));
        }
        let extra = self.extra.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        // Who provides a table further right knows better than the one here.
        tables.extend(extra.iter().map(|(name, table)| (*name, table.clone())));
        tables
    }
}

/// The parser names no place when the query ends too early: it is its end.
fn placed(error: DataFusionError, sql: &str) -> DataFusionError {
    let early = matches!(error.find_root(), DataFusionError::SQL(_, _))
        && error.to_string().contains("found: EOF");
    if !early {
        return error;
    }
    let sql = sql.trim_end();
    let line = sql.split('\n').count() as u64;
    let column = sql.rsplit('\n').next().unwrap_or("").chars().count() as u64 + 1;
    let end = Location { line, column };
    error.with_diagnostic(Diagnostic::new_error("the query ends here", Some(Span::new(end, end))))
}

fn runtime(
    memory_bytes: usize,
    caches: &CacheManagerConfig,
) -> Result<Arc<RuntimeEnv>, DataFusionError> {
    let disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
    RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(memory_bytes)))
        .with_disk_manager_builder(disk)
        .with_cache_manager(caches.clone())
        .build_arc()
}
