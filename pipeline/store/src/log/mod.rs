//! The log of a Delta table, read and written one object at a time.
//!
//! Nothing here lists the log but the opening of a table and its clean-up: a commit takes the
//! next name, a look asks for the next name, so that both cost the same however long the log is.
//!
//! ```text
//! _delta_log/_last_checkpoint            ─▶ where to begin
//! _delta_log/…0300.checkpoint.parquet    ─▶ the whole state of version 300
//! _delta_log/…0301.json, …0302.json      ─▶ what each version since changed
//! ```
//!
//! Damage is local: of a commit that is missing or cannot be read, with later ones behind it, only
//! its own changes are unknown; it is noted, and the rest is read.

mod checkpoint;
mod cleanup;
mod commit;
mod load;
mod seal;
mod state;

use bytes::Bytes;
use deltalake_core::logstore::ObjectStoreRef;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use serde::Deserialize;

use crate::table::StoreError;
use nilometer_contract::TableDef;

pub use commit::Beaten;
pub(crate) use commit::Commit;
pub(crate) use state::State;
pub use state::Unread;

/// How long the log keeps what newer checkpoints make superfluous, and how long it names files
/// that left the table, unless a vacuum was told to take them sooner.
const RETENTION_MILLIS: i64 = 24 * 3_600_000;
/// The same for other readers of the table.
pub(crate) const RETENTION: &str = "interval 1 day";
/// Commits after which maintenance writes a checkpoint: what a start has to read one by one.
const CHECKPOINT_EVERY: i64 = 100;

/// The log of one table.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    def: &'static TableDef,
    store: ObjectStoreRef,
}

/// An object of the log.
enum Found<T> {
    Good(T),
    Missing,
    /// There, but no good, and why.
    Damaged(String),
}

#[derive(Deserialize)]
struct Hint {
    version: i64,
}

fn folder() -> Path {
    Path::from("_delta_log")
}

fn commit_path(version: i64) -> Path {
    folder().join(format!("{version:020}.json"))
}

fn checkpoint_path(version: i64) -> Path {
    folder().join(format!("{version:020}.checkpoint.parquet"))
}

fn hint_path() -> Path {
    folder().join("_last_checkpoint")
}

/// What a name in the log stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    Commit(i64),
    Checkpoint(i64),
}

impl Name {
    fn of(path: &Path) -> Option<Self> {
        let (number, kind) = path.filename()?.split_once('.')?;
        let version = number.parse().ok()?;
        match kind {
            "json" => Some(Name::Commit(version)),
            "checkpoint.parquet" => Some(Name::Checkpoint(version)),
            _ => None,
        }
    }

    fn commit(&self) -> Option<i64> {
        match self {
            Name::Commit(version) => Some(*version),
            Name::Checkpoint(_) => None,
        }
    }

    fn checkpoint(&self) -> Option<i64> {
        match self {
            Name::Checkpoint(version) => Some(*version),
            Name::Commit(_) => None,
        }
    }
}

impl Log {
    pub(crate) fn new(def: &'static TableDef, store: ObjectStoreRef) -> Self {
        Log { def, store }
    }

    pub(crate) fn store(&self) -> ObjectStoreRef {
        self.store.clone()
    }

    fn refused(&self, cause: Error) -> StoreError {
        StoreError::Object { table: self.def.name, cause }
    }

    async fn read(&self, path: &Path) -> Result<Option<Bytes>, StoreError> {
        let got = async { self.store.get(path).await?.bytes().await };
        match got.await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(cause) => Err(self.refused(cause)),
        }
    }

    async fn commit(&self, version: i64) -> Result<Found<Commit>, StoreError> {
        let Some(bytes) = self.read(&commit_path(version)).await? else {
            return Ok(Found::Missing);
        };
        Ok(match Commit::decode(&bytes) {
            Ok(commit) => Found::Good(commit),
            Err(why) => Found::Damaged(why),
        })
    }

    /// Takes the name of a version; false if another has it.
    async fn create(&self, version: i64, commit: &[u8]) -> Result<bool, StoreError> {
        let payload = PutPayload::from(commit.to_vec());
        let path = commit_path(version);
        match self.store.put_opts(&path, payload, PutMode::Create.into()).await {
            Ok(_) => Ok(true),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(false),
            Err(cause) => Err(self.refused(cause)),
        }
    }

    /// Version of the newest checkpoint, as far as it is told.
    async fn newest_checkpoint(&self) -> Result<Option<i64>, StoreError> {
        let Some(bytes) = self.read(&hint_path()).await? else { return Ok(None) };
        Ok(serde_json::from_slice::<Hint>(&bytes).ok().map(|hint| hint.version))
    }

    /// All names past a version; all there are if it is negative.
    async fn names_past(&self, version: i64) -> Result<Vec<Name>, StoreError> {
        let folder = folder();
        let listed = match version {
            ..0 => self.store.list(Some(&folder)),
            // A checkpoint of the version sorts before its commit.
            _ => self.store.list_with_offset(Some(&folder), &commit_path(version)),
        };
        let names = listed.try_filter_map(|object| async move { Ok(Name::of(&object.location)) });
        names.try_collect().await.map_err(|cause| self.refused(cause))
    }
}
