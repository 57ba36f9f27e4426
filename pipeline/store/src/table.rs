//! One Delta table: its files and its positions.
//!
//! Invariant 1: rows and the log positions that they cover are one Delta transaction, with one
//! application id per topic-partition and version = next offset.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use deltalake_core::kernel::Add;
use deltalake_core::logstore::{LogStoreRef, ObjectStoreRef};
use deltalake_core::{DeltaTable, DeltaTableError};
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use uuid::Uuid;

use crate::create::open_or_create;
use crate::file::{DataFile, FileError, conform, encode_parquet, read_parquet, sorted, stats_of};
use crate::schema::TableDef;

/// Why a table could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The place is no place for tables.
    #[error("cannot keep tables at {location}")]
    Location {
        /// Where.
        location: String,
        /// Why not.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Delta refused.
    #[error("cannot {verb} table {table}")]
    Delta {
        /// Table.
        table: &'static str,
        /// What was tried.
        verb: &'static str,
        /// Why not.
        #[source]
        cause: Box<DeltaTableError>,
    },
    /// The object store refused.
    #[error("cannot reach a file of table {table}")]
    Object {
        /// Table.
        table: &'static str,
        /// Why not.
        #[source]
        cause: object_store::Error,
    },
    /// A file could not be encoded or decoded.
    #[error("a file of table {table} is no good")]
    File {
        /// Table.
        table: &'static str,
        /// Why not.
        #[source]
        cause: FileError,
    },
}

impl StoreError {
    pub(crate) fn delta(def: &TableDef, verb: &'static str, cause: DeltaTableError) -> Self {
        StoreError::Delta { table: def.name, verb, cause: Box::new(cause) }
    }
}

/// An open table. Files written to it are nothing until a commit names them.
pub struct Table {
    def: &'static TableDef,
    pub(crate) delta: DeltaTable,
    pub(crate) positions: HashMap<String, Option<i64>>,
    files: Arc<Vec<DataFile>>,
}

impl Table {
    pub(crate) async fn open(
        def: &'static TableDef,
        log_store: LogStoreRef,
    ) -> Result<Self, StoreError> {
        let delta = open_or_create(def, log_store).await?;
        let mut table = Table { def, delta, positions: HashMap::new(), files: Arc::default() };
        table.list_files()?;
        Ok(table)
    }

    /// Definition of the table.
    pub fn def(&self) -> &'static TableDef {
        self.def
    }

    /// Version of the table that is being looked at.
    pub fn version(&self) -> i64 {
        self.delta.version().map_or(0, |version| version as i64)
    }

    /// Files of that version.
    pub fn files(&self) -> Arc<Vec<DataFile>> {
        self.files.clone()
    }

    /// Store of the table's files; paths are those of [`DataFile`].
    pub fn object_store(&self) -> ObjectStoreRef {
        self.delta.object_store()
    }

    /// Looks at the newest version; says whether it changed.
    pub async fn refresh(&mut self) -> Result<bool, StoreError> {
        let before = self.delta.version();
        let updated = self.delta.update_state().await;
        updated.map_err(|cause| StoreError::delta(self.def, "refresh", cause))?;
        if self.delta.version() == before {
            return Ok(false);
        }
        self.positions.clear();
        self.list_files()?;
        Ok(true)
    }

    /// Position stored under an application id.
    pub async fn position(&mut self, app: &str) -> Result<Option<i64>, StoreError> {
        if let Some(&position) = self.positions.get(app) {
            return Ok(position);
        }
        let refused = |cause| StoreError::delta(self.def, "read positions of", cause);
        let log_store = self.delta.log_store();
        let state = self.delta.snapshot().map_err(refused)?;
        let position = state.transaction_version(log_store.as_ref(), app).await.map_err(refused)?;
        self.positions.insert(app.to_owned(), position);
        Ok(position)
    }

    /// Files that commits dropped, with the time in milliseconds, as long as the log tells.
    pub(crate) async fn dropped_files(&self) -> Result<HashMap<String, i64>, StoreError> {
        let refused = |cause| StoreError::delta(self.def, "read", cause);
        let state = self.delta.snapshot().map_err(refused)?;
        let log_store = self.delta.log_store();
        let dropped = state.all_tombstones(log_store.as_ref()).map_ok(|file| {
            (file.path().into_owned(), file.deletion_timestamp().unwrap_or(i64::MAX))
        });
        dropped.try_collect().await.map_err(refused)
    }

    /// Writes rows in the table's order as one file of a partition.
    pub async fn write(
        &self,
        rows: &[RecordBatch],
        partition: Option<&str>,
    ) -> Result<Add, StoreError> {
        let (def, rows) = (self.def, rows.to_vec());
        let encoded = off_thread(move || {
            let rows: Vec<RecordBatch> =
                rows.iter().map(|rows| conform(def, rows)).collect::<Result<_, _>>()?;
            let sorted = sorted(def, &rows)?;
            let bytes = encode_parquet(def, std::slice::from_ref(&sorted))?;
            Ok((bytes, stats_of(&[sorted])))
        });
        let (bytes, stats) =
            encoded.await.map_err(|cause| StoreError::File { table: self.def.name, cause })?;
        self.put(bytes, stats, partition).await
    }

    /// Stores an encoded file under a new name.
    pub(crate) async fn put(
        &self,
        bytes: Vec<u8>,
        stats: String,
        partition: Option<&str>,
    ) -> Result<Add, StoreError> {
        let folder = match (self.def.partition, partition) {
            (Some(column), Some(value)) => format!("{column}={value}/"),
            _ => String::new(),
        };
        let path = format!("{folder}{}.parquet", Uuid::new_v4());
        let size = bytes.len() as i64;
        let refused = |cause| StoreError::Object { table: self.def.name, cause };
        let object = Path::parse(&path).map_err(|cause| refused(cause.into()))?;
        self.object_store().put(&object, bytes.into()).await.map_err(refused)?;
        let partition_values = self
            .def
            .partition
            .map(|column| HashMap::from([(column.to_owned(), partition.map(str::to_owned))]));
        Ok(Add {
            path,
            partition_values: partition_values.unwrap_or_default(),
            size,
            modification_time: now_millis(),
            data_change: true,
            stats: Some(stats),
            ..Add::default()
        })
    }

    /// Reads a file whole.
    pub async fn read(&self, file: &DataFile) -> Result<Vec<RecordBatch>, StoreError> {
        let bytes = self.read_bytes(file).await?;
        let rows = off_thread(move || read_parquet(bytes)).await;
        rows.map_err(|cause| StoreError::File { table: self.def.name, cause })
    }

    async fn read_bytes(&self, file: &DataFile) -> Result<Bytes, StoreError> {
        let refused = |cause| StoreError::Object { table: self.def.name, cause };
        let path = Path::parse(&file.path).map_err(|cause| refused(cause.into()))?;
        let found = self.object_store().get(&path).await.map_err(refused)?;
        found.bytes().await.map_err(refused)
    }

    pub(crate) fn list_files(&mut self) -> Result<(), StoreError> {
        let state = self.delta.snapshot();
        let state = state.map_err(|cause| StoreError::delta(self.def, "list", cause))?;
        let log = state.log_data();
        let files = log.iter().map(|view| {
            let mut values = view.partition_values_map();
            let partition = self.def.partition.and_then(|column| values.remove(column)).flatten();
            let path = view.object_store_path().to_string();
            let size = u64::try_from(view.size()).unwrap_or(0);
            DataFile::of_stats(self.def, path, size, partition, view.stats().as_deref())
        });
        self.files = Arc::new(files.collect());
        Ok(())
    }
}

/// The time that Delta notes of files, in milliseconds.
pub(crate) fn now_millis() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

/// Runs what takes long off the async threads.
pub(crate) async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FileError> + Send + 'static,
) -> Result<T, FileError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    }
}
