//! Commits: rows and the log positions that they cover, as one Delta transaction.
//!
//! Delta accepts a lower or equal version of an application in silence, so a commit states the
//! position it starts from, which is compared with the one in force. A version's name is taken
//! once; who finds it taken reads what the other did, gives up if that contradicts the commit,
//! and else tries the next name:
//!
//! ```text
//! take …0042.json ─ taken ─▶ read it ─ contradicts ─▶ Conflict, nothing of ours is in the table
//!        │                      └─ does not ─▶ take …0043.json
//!        └─ ours ─▶ the state moves on by what was read and by this
//! ```
//!
//! A store that failed to answer is asked again, and then the commit's name is taken: by
//! ourselves. So each commit carries an id by which it is known again.

use std::sync::Arc;

use deltalake_core::kernel::{Add, Remove, Transaction};
use uuid::Uuid;

use crate::files::DataFile;
use crate::log::{Beaten, Commit};
use crate::table::{StoreError, Table};

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
    Conflict(#[source] Beaten),
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
        self.commit(adds, Vec::new(), positions, "WRITE").await
    }

    /// Lets no transaction of an earlier generation of `app` happen from here on. A transaction
    /// that states the generation in force as a position, from and next, conflicts with this.
    pub async fn claim(&mut self, app: &str, generation: i64) -> Result<(), CommitError> {
        loop {
            let found = self.position(app).await.map_err(CommitError::Store)?;
            if found == Some(generation) {
                return Ok(());
            }
            let (app, from) = (app.to_owned(), found);
            if found.is_some_and(|found| found > generation) {
                return Err(CommitError::Stale { app, from: Some(generation), found });
            }
            match self.append(Vec::new(), &[Position { app, from, next: generation }]).await {
                // Somebody commits: look again. Each time, one other commit has happened.
                Err(CommitError::Conflict(_)) => {
                    self.refresh().await.map_err(CommitError::Store)?
                }
                done => return done,
            };
        }
    }

    /// Replaces files by others with the same rows (`data_change` false) or, with no additions,
    /// drops them and their rows. `writer` names who does it: of two from the same snapshot the
    /// second fails.
    pub async fn replace(
        &mut self,
        files: &[Arc<DataFile>],
        adds: Vec<Add>,
        writer: &str,
    ) -> Result<(), CommitError> {
        let from = self.position(writer).await.map_err(CommitError::Store)?;
        let next = from.unwrap_or(0) + 1;
        let position = Position { app: writer.to_owned(), from, next };
        let data_change = adds.is_empty();
        self.exchange(files, adds, &[position], data_change).await
    }

    /// Takes files out of the table and puts others in, with positions; says whether the rows of
    /// both are others.
    pub(crate) async fn exchange(
        &mut self,
        files: &[Arc<DataFile>],
        mut adds: Vec<Add>,
        positions: &[Position],
        data_change: bool,
    ) -> Result<(), CommitError> {
        adds.iter_mut().for_each(|add| add.data_change = data_change);
        let now = self.now_millis();
        let removes = files.iter().map(|file| Remove {
            path: file.path.clone(),
            data_change,
            deletion_timestamp: Some(now),
            extended_file_metadata: Some(true),
            partition_values: Some(file.partition_values()),
            size: Some(file.size as i64),
            ..Remove::default()
        });
        let removes = removes.collect();
        self.commit(adds, removes, positions, "OPTIMIZE").await
    }

    async fn commit(
        &mut self,
        adds: Vec<Add>,
        removes: Vec<Remove>,
        positions: &[Position],
        operation: &'static str,
    ) -> Result<(), CommitError> {
        for position in positions {
            let found = self.state.positions.get(&position.app).copied();
            if found != position.from {
                let Position { app, from, .. } = position.clone();
                return Err(CommitError::Stale { app, from, found });
            }
        }
        let commit = Commit {
            id: Uuid::new_v4().to_string(),
            at: self.now_millis(),
            operation,
            adds,
            removes,
            positions: positions.iter().map(|p| Transaction::new(&p.app, p.next)).collect(),
            ..Commit::default()
        };
        self.take_version(commit).await
    }

    /// Appends a commit to the log, past those of others that do not contradict it.
    async fn take_version(&mut self, commit: Commit) -> Result<(), CommitError> {
        let table = self.def().name;
        let beaten = |version, what| CommitError::Conflict(Beaten { table, version, what });
        let before = self.version();
        // Where the log was cleaned up, old names are free again, and nobody reads them.
        if self.catch_up().await.map_err(CommitError::Store)? {
            let what = format!("is what others have come to; this writer was at {before}");
            return Err(beaten(self.version(), what));
        }
        let encoded = commit.encode();
        let mut others: Vec<Commit> = Vec::new();
        loop {
            let version = before + 1 + others.len() as i64;
            let first = self.log.append(version, &encoded).await.map_err(CommitError::Store)?;
            let Some(first) = first else { break };
            if first.id == commit.id {
                break;
            }
            if let Some(what) = commit.contradicted_by(&first) {
                return Err(beaten(version, what));
            }
            others.push(first);
        }
        let def = self.def();
        others.iter().chain([&commit]).for_each(|commit| self.state.apply(def, commit));
        Ok(())
    }
}
