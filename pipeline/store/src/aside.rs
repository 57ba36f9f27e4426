//! Files that cannot be read: set aside, so that one damaged file stops nothing else.
//!
//! ```text
//! read fails ─▶ suspect (in this process) ─▶ read whole, fails again ─▶ set aside ─▶ put back
//! ```
//!
//! A file that is set aside is no longer in the table; it stays where it is, and the table's log
//! remembers it under an application id of its own until its rows are back. A commit of which it
//! must not be forgotten that it could not be read is remembered in the same way.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex};

use arrow::array::RecordBatch;
use deltalake_core::kernel::Add;
use nilometer_contract::Timestamp;

use crate::checked::is_damage;
use crate::commit::{CommitError, Position};
use crate::file::stats_of;
use crate::files::DataFile;
use crate::log::Unread;
use crate::sums::Sums;
use crate::table::{StoreError, Table};

/// Begins the application id of a file that was set aside; the path follows.
const ASIDE: &str = "aside/";
/// Its versions: back in the table or given up; of a file that is out of it, its digest, so that
/// it is known whether the file is good after all.
const BACK: i64 = 1;
const UNKNOWN: i64 = 2;
/// Stands for the path where it is a commit; its version follows.
const COMMIT: &str = "commit/";
/// Beside it: first and last instant of the rows that are missing, and how many they are.
const FIRST: &str = "aside.first/";
const LAST: &str = "aside.last/";
const ROWS: &str = "aside.rows/";

/// Rows that answers lack, because the file that they were in is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Table.
    pub table: &'static str,
    /// First and last instant of them, if the table has a time.
    pub span: Option<(Timestamp, Timestamp)>,
    /// How many; 0 where that is not known.
    pub rows: u64,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Missing { table, span, rows } = self;
        match rows {
            0 => write!(f, "an unknown number of rows of {table}")?,
            rows => write!(f, "{rows} rows of {table}")?,
        }
        match span {
            Some((first, last)) => write!(f, " from {first} to {last}"),
            None => Ok(()),
        }
    }
}

impl Missing {
    /// What positions of a table tell.
    pub(crate) fn of(table: &'static str, positions: &HashMap<String, i64>) -> Vec<Missing> {
        let of = |kind: &str, path: &str| positions.get(&format!("{kind}{path}")).copied();
        let aside = positions.iter().filter_map(|(app, state)| {
            let path = app.strip_prefix(ASIDE)?;
            let rows = u64::try_from(of(ROWS, path).unwrap_or(0)).unwrap_or(0);
            let span = of(FIRST, path).zip(of(LAST, path));
            let span = span.map(|(first, last)| (Timestamp(first), Timestamp(last)));
            (*state != BACK || rows > 0).then_some(Missing { table, span, rows })
        });
        let mut aside: Vec<Missing> = aside.collect();
        aside.sort_unstable_by_key(|missing| (missing.span, missing.rows));
        aside
    }
}

/// Whether a position tells of a file that was set aside.
pub(crate) fn is_aside(app: &str) -> bool {
    app.starts_with(ASIDE)
}

/// Files that could not be read, as far as this process met them: table and path. At most
/// [`MOST_SUSPECTS`]; those beyond are met again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Suspects(Arc<Mutex<BTreeSet<(&'static str, String)>>>);

const MOST_SUSPECTS: usize = 10_000;

impl Suspects {
    /// Remembers a file if it was damage that kept it from being read.
    pub(crate) fn note(&self, table: &'static str, path: &str, error: &StoreError) {
        if error.is_damage() {
            self.add(table, path);
        }
    }

    pub(crate) fn add(&self, table: &'static str, path: &str) {
        let mut known = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if known.len() < MOST_SUSPECTS {
            known.insert((table, path.to_owned()));
        }
    }

    fn take(&self, table: &'static str) -> HashSet<String> {
        let mut known = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let (of_table, others) =
            std::mem::take(&mut *known).into_iter().partition(|(of, _)| *of == table);
        *known = others;
        let of_table: BTreeSet<(&'static str, String)> = of_table;
        of_table.into_iter().map(|(_, path)| path).collect()
    }
}

fn out_of(sums: &Sums) -> i64 {
    sums.digest().map_or(UNKNOWN, |digest| digest | UNKNOWN)
}

impl StoreError {
    /// Whether a file is damaged or gone, rather than out of reach for now.
    pub fn is_damage(&self) -> bool {
        let mut error: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(link) = error {
            if let Some(store) = link.downcast_ref::<object_store::Error>() {
                return is_damage(store);
            }
            error = link.source();
        }
        matches!(self, StoreError::File { .. })
    }
}

impl Table {
    /// Files of the newest version that this process could not read and that cannot be read now
    /// either, with the reason.
    pub async fn damaged(&mut self) -> Result<Vec<(Arc<DataFile>, StoreError)>, StoreError> {
        let suspects = self.suspects.take(self.def().name);
        let mut damaged = Vec::new();
        if suspects.is_empty() {
            return Ok(damaged);
        }
        // What was merged meanwhile may be gone.
        self.refresh().await?;
        let files = self.files();
        for file in files.iter().filter(|file| suspects.contains(&file.path)) {
            match self.read(file).await {
                Ok(_) => {}
                Err(error) if error.is_damage() => damaged.push((file.clone(), error)),
                Err(error) => return Err(error),
            }
        }
        Ok(damaged)
    }

    /// Takes a file out of the table without deleting it; nothing if another did.
    pub async fn set_aside(&mut self, file: &Arc<DataFile>) -> Result<(), CommitError> {
        let rows = i64::try_from(file.rows).unwrap_or(i64::MAX);
        let mut facts = vec![(ASIDE, out_of(&file.sums)), (ROWS, rows)];
        if let Some((first, last)) = file.span() {
            facts.extend([(FIRST, first), (LAST, last)]);
        }
        while self.files().iter().any(|of_table| of_table.path == file.path) {
            let moved =
                |&(kind, next): &(&str, i64)| self.moved(format!("{kind}{}", file.path), next);
            let positions: Vec<Position> = facts.iter().map(moved).collect();
            let files = std::slice::from_ref(file);
            match self.exchange(files, Vec::new(), &positions, true).await {
                Err(CommitError::Conflict(_)) => {
                    self.refresh().await.map_err(CommitError::Store)?;
                }
                done => return done,
            }
        }
        Ok(())
    }

    /// Remembers a commit that could not be read as if a file with rows of any time had been set
    /// aside; once, whoever does it.
    pub async fn doubt(&mut self, unread: &Unread) -> Result<(), CommitError> {
        let app = format!("{ASIDE}{COMMIT}{}", unread.version);
        loop {
            self.refresh().await.map_err(CommitError::Store)?;
            if self.state.positions.contains_key(&app) {
                return Ok(());
            }
            let position = Position { app: app.clone(), from: None, next: UNKNOWN };
            match self.append(Vec::new(), &[position]).await {
                Err(CommitError::Conflict(_)) => {}
                done => return done,
            }
        }
    }

    /// Paths of files that were set aside and whose rows are not back.
    pub fn aside(&self) -> Vec<String> {
        let positions = self.state.positions.iter().filter(|(_, state)| **state != BACK);
        let paths = positions.filter_map(|(app, _)| app.strip_prefix(ASIDE));
        let mut paths: Vec<String> = paths.map(str::to_owned).collect();
        paths.sort_unstable();
        paths
    }

    /// First and last instant of the rows that are missing with a file that was set aside; none if
    /// they are of any time.
    pub fn span_aside(&self, path: &str) -> Option<(i64, i64)> {
        let of = |kind: &str| self.state.positions.get(&format!("{kind}{path}")).copied();
        of(FIRST).zip(of(LAST))
    }

    /// Of a file that was set aside only rows before an instant are missing from now on. The
    /// position `beside` is moved, too.
    pub async fn lacks_before(
        &mut self,
        path: &str,
        end: i64,
        beside: Option<Position>,
    ) -> Result<(), CommitError> {
        let last = self.moved(format!("{LAST}{path}"), end - 1);
        let app = format!("{ASIDE}{path}");
        let state = self.state.positions.get(&app).copied().unwrap_or(UNKNOWN);
        let aside = self.moved(app, state);
        let positions: Vec<Position> = [last, aside].into_iter().chain(beside).collect();
        self.append(Vec::new(), &positions).await
    }

    /// Puts rows back in the place of files that were set aside; none if all of them are lost.
    /// Once only: a second time conflicts, or is stale. Of rows that are lost it is known from
    /// then on that they lie between the first and the last of all these files. The position
    /// `beside` is moved, too.
    pub async fn put_back(
        &mut self,
        paths: &[String],
        adds: Vec<Add>,
        lost: u64,
        beside: Option<Position>,
    ) -> Result<(), CommitError> {
        let positions = paths.iter().map(|path| {
            let app = format!("{ASIDE}{path}");
            let out = self.state.positions.get(&app).copied().filter(|state| *state != BACK);
            Position { app, from: out, next: BACK }
        });
        let mut positions: Vec<Position> = positions.collect();
        for (n, path) in paths.iter().enumerate() {
            let left = if n == 0 { i64::try_from(lost).unwrap_or(i64::MAX) } else { 0 };
            positions.push(self.moved(format!("{ROWS}{path}"), left));
        }
        let of = |kind: &str, path: &str| self.state.positions.get(&format!("{kind}{path}"));
        let first = paths.iter().filter_map(|path| of(FIRST, path)).min();
        let last = paths.iter().filter_map(|path| of(LAST, path)).max();
        if let (Some(path), Some(&first), Some(&last)) = (paths.first(), first, last) {
            positions.push(self.moved(format!("{FIRST}{path}"), first));
            positions.push(self.moved(format!("{LAST}{path}"), last));
        }
        positions.extend(beside);
        self.append(adds, &positions).await
    }

    /// Reads a file that was set aside again; its rows with the action that puts it back as it is,
    /// if it is good after all.
    pub async fn recovered(
        &self,
        path: &str,
    ) -> Result<Option<(Vec<RecordBatch>, Add)>, StoreError> {
        let folder = path.split_once('/').map(|(folder, _)| folder);
        let partition = self.def().partition.and_then(|column| {
            Some((column, folder?.strip_prefix(column)?.strip_prefix('=')?.to_owned()))
        });
        let mut add = Add {
            path: path.to_owned(),
            partition_values: partition
                .map(|(column, value)| (column.to_owned(), Some(value)))
                .into_iter()
                .collect(),
            modification_time: self.now_millis(),
            data_change: true,
            ..Add::default()
        };
        let bytes = match self.read_bytes(path).await {
            Err(error) if error.is_damage() => return Ok(None),
            read => read?,
        };
        let (sums, out) = (Sums::of([&bytes]), self.state.positions.get(&format!("{ASIDE}{path}")));
        if out.is_some_and(|out| ![UNKNOWN, out_of(&sums)].contains(out)) {
            return Ok(None);
        }
        (add.size, add.tags) = (bytes.len() as i64, sums.to_tags());
        match self.decode(bytes).await {
            Err(error) if error.is_damage() => Ok(None),
            Err(error) => Err(error),
            Ok(batches) => {
                let add = Add { stats: Some(stats_of(&batches)), ..add };
                Ok(Some((batches, add)))
            }
        }
    }
}
