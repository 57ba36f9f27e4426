//! One Delta table: its files and its positions.
//!
//! Invariant 1: rows and the log positions that they cover are one Delta transaction, with one
//! application id per topic-partition and version = next offset.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use deltalake_core::kernel::Add;
use deltalake_core::logstore::ObjectStoreRef;
use nilometer_clock::SharedClock;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use uuid::Uuid;

use crate::aside::Suspects;
use crate::checked::Checked;
use crate::commit::Position;
use crate::create::creation;
use crate::file::{FileError, conform, encode_parquet, read_parquet, sorted, stats_of};
use crate::files::{DataFile, Files};
use crate::log::{Log, State, Unread};
use crate::sums::{Damaged, Sums};
use nilometer_contract::TableDef;

/// After this long without news it is asked whether there is any that a look cannot see.
const DOUBT_MILLIS: i64 = 60_000;

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
    /// The table vanished, or came into being half.
    #[error("table {table} has no readable log: is store.location what it was?")]
    NoLog {
        /// Table.
        table: &'static str,
    },
}

/// An open table. Files written to it are nothing until a commit names them.
pub struct Table {
    def: &'static TableDef,
    pub(crate) log: Log,
    pub(crate) state: State,
    clock: SharedClock,
    /// When it was last known to be up to date, by the time of day.
    asked: i64,
    pub(crate) suspects: Suspects,
    /// Paths of files that could not be merged.
    left_out: HashSet<String>,
}

impl Table {
    /// Opens a table below a store of its own; creates it when it is missing.
    pub(crate) async fn open(
        def: &'static TableDef,
        store: ObjectStoreRef,
        suspects: Suspects,
        clock: SharedClock,
    ) -> Result<Self, StoreError> {
        let log = Log::new(def, store);
        let state = match log.load().await? {
            Some(state) => state,
            None => {
                // Another may create it at the same time: then it is there all the same.
                let created = log.begin(&creation(def, millis(&clock))).await;
                match log.load().await? {
                    Some(state) => state,
                    None => {
                        return Err(created.err().unwrap_or(StoreError::NoLog { table: def.name }));
                    }
                }
            }
        };
        let (asked, left_out) = (millis(&clock), HashSet::new());
        Ok(Table { def, log, state, clock, asked, suspects, left_out })
    }

    /// Definition of the table.
    pub fn def(&self) -> &'static TableDef {
        self.def
    }

    /// The time that Delta notes of files and commits, in milliseconds.
    pub(crate) fn now_millis(&self) -> i64 {
        millis(&self.clock)
    }

    /// Version of the table that is being looked at.
    pub fn version(&self) -> i64 {
        self.state.version
    }

    /// Files of that version.
    pub fn files(&self) -> Files {
        self.state.files.clone()
    }

    /// Commits that could not be read when the table was opened, and are not made up for.
    pub fn unread(&self) -> &[Unread] {
        &self.state.unread
    }

    /// Store of the table's files; paths are those of [`DataFile`].
    pub fn object_store(&self) -> ObjectStoreRef {
        self.log.store()
    }

    /// A file of the table, of which nothing is read that was not written.
    pub(crate) fn checked(&self, file: &Arc<DataFile>) -> Checked {
        let (store, suspects) = (self.object_store(), self.suspects.clone());
        Checked { store, suspects, file: file.clone() }
    }

    /// Looks at the newest version; says whether it changed. Costs one request if it did not.
    pub async fn refresh(&mut self) -> Result<bool, StoreError> {
        let mut changed = self.log.advance(&mut self.state).await?;
        let now = self.now_millis();
        if changed {
            self.asked = now;
        } else if (now - self.asked).abs() >= DOUBT_MILLIS {
            changed = self.catch_up().await?;
            self.asked = now;
        }
        Ok(changed)
    }

    /// Looks whether the log was cleaned up past what was read of it.
    pub(crate) async fn catch_up(&mut self) -> Result<bool, StoreError> {
        if !self.log.has_left_behind(&self.state).await? {
            return Ok(false);
        }
        let newest = self.log.load().await?;
        let newest = newest.ok_or(StoreError::NoLog { table: self.def.name })?;
        // A note of the newest checkpoint may be of one that is gone.
        let moved = newest.version > self.state.version;
        if moved {
            self.state = newest;
        }
        Ok(moved)
    }

    pub(crate) fn may_merge(&self, path: &str) -> bool {
        !self.left_out.contains(path)
    }

    pub(crate) fn leave_out(&mut self, path: &str) {
        self.left_out.insert(path.to_owned());
    }

    /// Moves the position of an application id on from where it is.
    pub(crate) fn moved(&self, app: String, next: i64) -> Position {
        Position { from: self.state.positions.get(&app).copied(), app, next }
    }

    /// Position stored under an application id.
    pub async fn position(&mut self, app: &str) -> Result<Option<i64>, StoreError> {
        Ok(self.state.positions.get(app).copied())
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
        bytes: impl Into<PutPayload>,
        stats: String,
        partition: Option<&str>,
    ) -> Result<Add, StoreError> {
        let folder = match (self.def.partition, partition) {
            (Some(column), Some(value)) => format!("{column}={value}/"),
            _ => String::new(),
        };
        let path = format!("{folder}{}.parquet", Uuid::new_v4());
        let bytes: PutPayload = bytes.into();
        let (size, sums) = (bytes.content_length() as i64, Sums::of(&bytes));
        let refused = |cause| StoreError::Object { table: self.def.name, cause };
        let object = Path::parse(&path).map_err(|cause| refused(cause.into()))?;
        self.object_store().put(&object, bytes).await.map_err(refused)?;
        let values = self.def.partition.map(|of| (of.to_owned(), partition.map(str::to_owned)));
        Ok(Add {
            path,
            partition_values: values.into_iter().collect(),
            size,
            modification_time: self.now_millis(),
            data_change: true,
            stats: Some(stats),
            tags: sums.to_tags(),
            ..Add::default()
        })
    }

    /// Reads a file whole.
    pub async fn read(&self, file: &DataFile) -> Result<Vec<RecordBatch>, StoreError> {
        let read = async {
            let bytes = self.read_bytes(&file.path).await?;
            self.check(file, &bytes)?;
            self.decode(bytes).await
        };
        let read = read.await;
        if let Err(error) = &read {
            self.suspects.note(self.def.name, &file.path, error);
        }
        read
    }

    fn check(&self, file: &DataFile, bytes: &Bytes) -> Result<(), StoreError> {
        if file.sums.is_unknown() || file.sums == Sums::of([bytes]) {
            return Ok(());
        }
        let what = "it is not what was written".to_owned();
        let damaged = Damaged { table: self.def.name, path: file.path.clone(), what };
        let cause = FileError::of("compare checksums", Box::new(damaged));
        Err(StoreError::File { table: self.def.name, cause })
    }

    pub(crate) async fn decode(&self, bytes: Bytes) -> Result<Vec<RecordBatch>, StoreError> {
        let rows = off_thread(move || read_parquet(bytes)).await;
        rows.map_err(|cause| StoreError::File { table: self.def.name, cause })
    }

    pub(crate) async fn read_bytes(&self, path: &str) -> Result<Bytes, StoreError> {
        let refused = |cause| StoreError::Object { table: self.def.name, cause };
        let path = Path::parse(path).map_err(|cause| refused(cause.into()))?;
        let found = self.object_store().get(&path).await.map_err(refused)?;
        found.bytes().await.map_err(refused)
    }

    /// Writes a checkpoint if one is due; says whether it did.
    pub async fn keep_short(&mut self) -> Result<bool, StoreError> {
        let now = self.now_millis();
        self.log.keep_short(&mut self.state, now).await
    }

    /// Makes the version that could be read the one that everybody reads, without the commits that
    /// could not: to be done once it is said elsewhere that they are missing.
    pub async fn go_without(&mut self) -> Result<(), StoreError> {
        let now = self.now_millis();
        self.log.settle(&mut self.state, now).await?;
        self.state.unread.clear();
        Ok(())
    }

    /// Deletes what checkpoints made superfluous in the log, once it is a day old; says how many
    /// objects.
    pub async fn clean_log(&self) -> Result<usize, StoreError> {
        self.log.clean_up(self.now_millis()).await
    }
}

fn millis(clock: &SharedClock) -> i64 {
    clock.now().0.div_euclid(1_000)
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
