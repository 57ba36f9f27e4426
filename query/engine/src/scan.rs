//! Files ∪ memory of one table as one physical plan, each row once.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::catalog::memory::MemorySourceConfig;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::CachedParquetFileReaderFactory;
use datafusion::datasource::physical_plan::{
    FileGroup, FileScanConfigBuilder, ParquetFileReaderFactory, ParquetSource,
};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::union::UnionExec;
use nilometer_ingest::TableView;
use nilometer_store::{DataFile, Storage};
use parquet::arrow::async_reader::AsyncFileReader;

const STORE_URL: &str = "nilometer://store";
/// Read at once from the end of a file: the footer and the page index of all but the largest.
const FOOTER_BYTES: usize = 64 * 1024;

/// Where files are read from, and the cache of their footers.
#[derive(Clone)]
pub(crate) struct Files {
    pub(crate) url: ObjectStoreUrl,
    pub(crate) storage: Storage,
    prefix: String,
    footers: Arc<FileMetadataCache>,
}

/// What to read of a table.
pub(crate) struct Wanted<'a> {
    /// First and last instant, inclusive.
    pub(crate) time: (i64, i64),
    /// Which of the files of that time.
    pub(crate) keep: &'a dyn Fn(&DataFile) -> bool,
    pub(crate) predicate: Option<Arc<dyn PhysicalExpr>>,
    /// Whether few rows pass: then values are read only where the predicate holds.
    pub(crate) selective: bool,
    pub(crate) projection: Option<Vec<usize>>,
    pub(crate) partitions: usize,
}

impl Files {
    pub(crate) fn new(storage: &Storage, footers: Arc<FileMetadataCache>) -> Result<Self> {
        let path = object_store::path::Path::from_url_path(storage.root().path())
            .map_err(|error| DataFusionError::External(Box::new(error)))?;
        Ok(Files {
            url: ObjectStoreUrl::parse(STORE_URL)?,
            storage: storage.clone(),
            prefix: path.to_string(),
            footers,
        })
    }

    /// The plan; memory comes unfiltered, so filters stand above it too.
    pub(crate) fn plan(
        &self,
        table: &TableView,
        schema: SchemaRef,
        wanted: Wanted<'_>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let of_time = table.files.within(wanted.time.0, wanted.time.1);
        let kept: Vec<&Arc<DataFile>> = of_time.filter(|file| (wanted.keep)(file)).collect();
        let mut inputs: Vec<Arc<dyn ExecutionPlan>> = Vec::new();
        if !kept.is_empty() {
            inputs.push(self.file_plan(table, schema.clone(), &wanted, kept)?);
        }
        if !table.memory.is_empty() {
            let memory = [table.memory.clone()];
            let projection = wanted.projection.clone();
            inputs.push(MemorySourceConfig::try_new_exec(&memory, schema.clone(), projection)?);
        }
        match inputs.len() {
            0 => {
                let projected = match &wanted.projection {
                    Some(columns) => Arc::new(schema.project(columns)?),
                    None => schema,
                };
                Ok(Arc::new(EmptyExec::new(projected)))
            }
            1 => Ok(inputs.remove(0)),
            _ => UnionExec::try_new(inputs),
        }
    }

    fn file_plan(
        &self,
        table: &TableView,
        schema: SchemaRef,
        wanted: &Wanted<'_>,
        kept: Vec<&Arc<DataFile>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut source = ParquetSource::new(schema)
            .with_parquet_file_reader_factory(Arc::new(self.clone()))
            .with_metadata_size_hint(FOOTER_BYTES)
            .with_pushdown_filters(wanted.selective)
            .with_enable_page_index(true);
        if let Some(predicate) = &wanted.predicate {
            source = source.with_predicate(predicate.clone());
        }
        let config = FileScanConfigBuilder::new(self.url.clone(), Arc::new(source))
            .with_file_groups(self.groups(table, kept, wanted.partitions))
            .with_projection_indices(wanted.projection.clone())?
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }

    /// Files spread over partitions so that each gets about the same number of rows.
    fn groups(
        &self,
        table: &TableView,
        mut kept: Vec<&Arc<DataFile>>,
        partitions: usize,
    ) -> Vec<FileGroup> {
        kept.sort_by_key(|file| std::cmp::Reverse(file.rows));
        let mut groups: Vec<(u64, Vec<PartitionedFile>)> =
            (0..partitions.clamp(1, kept.len())).map(|_| (0, Vec::new())).collect();
        for file in kept {
            let path = format!("{}/{}/{}", self.prefix, table.def.name, file.path);
            if let Some(least) = groups.iter_mut().min_by_key(|(rows, _)| *rows) {
                least.0 += file.rows;
                least.1.push(PartitionedFile::new(path, file.size).with_extension(file.clone()));
            }
        }
        groups.into_iter().map(|(_, files)| FileGroup::new(files)).collect()
    }
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "files below {}", self.prefix)
    }
}

/// Reads nothing of a file that was not written.
impl ParquetFileReaderFactory for Files {
    fn create_reader(
        &self,
        partition: usize,
        file: PartitionedFile,
        hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        let Some(of_table) = file.extension::<Arc<DataFile>>() else {
            return Err(DataFusionError::Internal("a file of no table is read".to_owned()));
        };
        let store = Arc::new(self.storage.checked(of_table));
        let readers = CachedParquetFileReaderFactory::new(store, self.footers.clone());
        readers.create_reader(partition, file, hint, metrics)
    }
}
