//! Commits: rows and the log positions that they cover, as one Delta transaction.
//!
//! Delta accepts a lower or equal version of an application in silence, so a commit states the
//! position it starts from, which is compared with the one in force; a writer that overtook us in
//! between is caught by Delta's conflict check, because a transaction under the same application
//! id conflicts.
//!
//! A store that failed to answer is asked again, and then the commit's name is taken: by
//! ourselves. So each commit carries an id by which it is known again.

use std::collections::HashMap;

use deltalake_core::DeltaTableError;
use deltalake_core::kernel::transaction::{CommitBuilder, CommitProperties, TransactionError};
use deltalake_core::kernel::{Action, Add, Remove, Transaction};
use deltalake_core::protocol::{DeltaOperation, SaveMode};
use uuid::Uuid;

use crate::file::DataFile;
use crate::table::{StoreError, Table, now_millis};

/// How far one partition of the log is stored: every offset below `next` is in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// Application id, one per topic-partition.
    pub app: String,
    /// Where the rows of this commit start; `None` before the first commit.
    pub from: Option<i64>,
    /// Next offset after this commit.
    pub next: i64,
}

/// Why a commit did not happen; nothing of it is in the table.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The positions in force are not those that the rows start from: another writer was here.
    #[error("position of {app} is {found:?}, rows start from {from:?}")]
    Stale {
        /// Application id.
        app: String,
        /// Where the rows start.
        from: Option<i64>,
        /// What is in force.
        found: Option<i64>,
    },
    /// Another writer committed something that contradicts this commit; refresh and think again.
    #[error("another writer committed first")]
    Conflict(#[source] Box<DeltaTableError>),
    /// The store failed; whether the commit happened is known after a refresh.
    #[error("commit failed")]
    Store(#[source] StoreError),
}

impl Table {
    /// Commits new files with the positions that they cover; all or nothing.
    pub async fn append(
        &mut self,
        adds: Vec<Add>,
        positions: &[Position],
    ) -> Result<(), CommitError> {
        let write =
            DeltaOperation::Write { mode: SaveMode::Append, partition_by: None, predicate: None };
        self.commit(adds.into_iter().map(Action::Add).collect(), positions, write).await
    }

    /// Replaces files by others with the same rows (`data_change` false) or, with no additions,
    /// drops them and their rows. `writer` names who does it: of two from the same snapshot the
    /// second fails.
    pub async fn replace(
        &mut self,
        files: &[DataFile],
        mut adds: Vec<Add>,
        writer: &str,
    ) -> Result<(), CommitError> {
        let from = self.position(writer).await.map_err(CommitError::Store)?;
        let data_change = adds.is_empty();
        adds.iter_mut().for_each(|add| add.data_change = data_change);
        let removes = files.iter().map(|file| {
            let partition = self
                .def()
                .partition
                .map(|column| HashMap::from([(column.to_owned(), file.partition.clone())]));
            Action::Remove(Remove {
                path: file.path.clone(),
                data_change,
                deletion_timestamp: Some(now_millis()),
                extended_file_metadata: Some(true),
                partition_values: Some(partition.unwrap_or_default()),
                size: Some(file.size as i64),
                ..Remove::default()
            })
        });
        let actions = removes.chain(adds.into_iter().map(Action::Add)).collect();
        let next = from.unwrap_or(0) + 1;
        let position = Position { app: writer.to_owned(), from, next };
        let optimize = DeltaOperation::Optimize { predicate: None, target_size: 0 };
        self.commit(actions, &[position], optimize).await
    }

    async fn commit(
        &mut self,
        actions: Vec<Action>,
        positions: &[Position],
        operation: DeltaOperation,
    ) -> Result<(), CommitError> {
        for position in positions {
            let found = self.position(&position.app).await.map_err(CommitError::Store)?;
            if found != position.from {
                let Position { app, from, .. } = position.clone();
                return Err(CommitError::Stale { app, from, found });
            }
        }
        let def = self.def();
        let failed = |cause| CommitError::Store(StoreError::delta(def, "commit to", cause));
        let log_store = self.delta.log_store();
        let state = self.delta.snapshot().map_err(failed)?.clone();
        let transactions = positions.iter().map(|p| Transaction::new(&p.app, p.next)).collect();
        let id = Uuid::new_v4().to_string();
        let properties = CommitProperties::default()
            .with_application_transactions(transactions)
            .with_metadata([("txnId".to_owned(), id.clone().into())]);
        let done = CommitBuilder::from(properties)
            .with_actions(actions)
            .build(Some(&state), log_store.clone(), operation)
            .await;
        let done = match done {
            Ok(done) => done,
            Err(cause) if !is_conflict(&cause) => return Err(failed(cause)),
            Err(cause) => match self.has_commit(&id).await {
                Ok(true) => return self.refresh().await.map(drop).map_err(CommitError::Store),
                // Not to be had now; what is known is that somebody committed.
                Ok(false) | Err(_) => return Err(CommitError::Conflict(Box::new(cause))),
            },
        };
        if self.delta.version().is_none_or(|before| done.version() != before + 1) {
            // Positions of other writers may have moved with the versions we rebased over.
            self.positions.clear();
        }
        for position in positions {
            self.positions.insert(position.app.clone(), Some(position.next));
        }
        self.delta.state = Some(done.snapshot());
        self.list_files().map_err(CommitError::Store)
    }

    /// Whether a commit is in the log past the version that is being looked at.
    async fn has_commit(&self, id: &str) -> Result<bool, DeltaTableError> {
        let log_store = self.delta.log_store();
        let known = self.delta.version().unwrap_or(0);
        let latest = log_store.get_latest_version(known).await?;
        for version in known + 1..=latest {
            let commit = log_store.read_commit_entry(version).await?.unwrap_or_default();
            if String::from_utf8_lossy(&commit).contains(id) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn is_conflict(error: &DeltaTableError) -> bool {
    matches!(
        error,
        DeltaTableError::Transaction {
            source: TransactionError::CommitConflict(_)
                | TransactionError::MaxCommitAttempts(_)
                | TransactionError::VersionAlreadyExists(_)
        }
    )
}
