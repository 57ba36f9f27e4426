//! Retention: what is older than it is kept leaves the tables, a little at a time.
//!
//! What is gone is gone, so no single clock decides it. A horizon rests on the earlier of the
//! clock and of what the samples themselves know of the time; whoever still needs samples holds
//! them; and one run drops a small share of a table at most, so that a mistake that passes all
//! this is noticed while there is something left.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use deltalake_core::kernel::Add;
use nilometer_contract::{MICROS_PER_DAY, Timestamp, micros};

use crate::commit::{CommitError, Position};
use crate::compact::WRITER;
use crate::files::DataFile;
use crate::table::Table;

/// Begins the application ids of holds; the version is the first instant still needed, in µs.
const HOLD: &str = "hold/";
/// Application id of the first instant, in µs, that no expired row was at or after.
const EXPIRED: &str = "expired/before";
/// Application id of when rows expired last, in µs by the clock of who let them.
const EXPIRED_AT: &str = "expired/at";
/// A day with fewer rows than this part of a usual day proves nothing about the time.
const FEW: u64 = 10;

/// Files with rows that are older than they are kept: all of theirs, unless some are kept in
/// other files.
#[derive(Clone, Debug)]
pub struct Expired {
    files: Vec<Arc<DataFile>>,
    /// Rows that go.
    pub rows: u64,
    /// First and last instant of these rows.
    pub span: (Timestamp, Timestamp),
}

impl Table {
    /// The latest day, its end, that has about as many rows as a day usually has: what a table
    /// partitioned by day knows of the time. None if it has no rows. A few stray rows, however far
    /// ahead, do not move it.
    pub fn latest_full_day(&self) -> Option<Timestamp> {
        let mut days: BTreeMap<i64, u64> = BTreeMap::new();
        for file in self.files().iter().filter(|file| file.rows > 0) {
            let last = file.span()?.1;
            *days.entry(last.div_euclid(MICROS_PER_DAY)).or_default() += file.rows;
        }
        let mut rows: Vec<u64> = days.values().copied().collect();
        rows.sort_unstable();
        let usual = rows.get(rows.len() / 2)?;
        let full = days.iter().rev().find(|(_, rows)| **rows * FEW > *usual);
        full.map(|(day, _)| Timestamp((day + 1) * MICROS_PER_DAY))
    }

    /// Keeps rows at and after an instant from expiring, in the name of who needs them. A later
    /// instant lets go of some; it lasts until it is said anew, whether or not its holder runs.
    pub async fn hold(&mut self, name: &str, first_needed: Timestamp) -> Result<(), CommitError> {
        let app = format!("{HOLD}{name}");
        let from = self.position(&app).await.map_err(CommitError::Store)?;
        self.append(Vec::new(), &[Position { app, from, next: first_needed.0 }]).await
    }

    /// The first instant that anybody holds.
    pub fn held(&self) -> Option<Timestamp> {
        let positions = self.state.positions.iter();
        let holds = positions.filter(|(app, _)| app.starts_with(HOLD));
        holds.map(|(_, first)| Timestamp(*first)).min()
    }

    /// The oldest files with nothing at or after `horizon`: one, or as many as have at most one
    /// row in `parts` of the table.
    pub fn expired(&self, horizon: Timestamp, parts: u64) -> Option<Expired> {
        let all = self.files();
        let most = all.rows() / parts.max(1);
        let mut files = Vec::new();
        let (mut rows, mut span) = (0, (i64::MAX, i64::MIN));
        for file in all.iter() {
            let Some((first, last)) = file.span().filter(|(_, last)| *last < horizon.0) else {
                break;
            };
            if !files.is_empty() && rows + file.rows > most {
                break;
            }
            rows += file.rows;
            span = (span.0.min(first), span.1.max(last));
            files.push(file.clone());
        }
        let span = (Timestamp(span.0), Timestamp(span.1));
        (!files.is_empty()).then_some(Expired { files, rows, span })
    }

    /// Drops them, but for rows that others have now; at a time by the clock.
    pub async fn drop_expired(
        &mut self,
        expired: &Expired,
        kept: Vec<Add>,
        now: Timestamp,
    ) -> Result<(), CommitError> {
        let before = expired.span.1.plus_micros(1).max(self.expired_before());
        let merges = self.state.positions.get(WRITER).copied().unwrap_or(0);
        let positions = [(WRITER, merges + 1), (EXPIRED, before.0), (EXPIRED_AT, now.0)];
        let positions = positions.map(|(app, next)| self.moved(app.to_owned(), next));
        self.exchange(&expired.files, kept, &positions, true).await
    }

    /// The first instant at and after which no row has expired; of rows before, some may have.
    pub fn expired_before(&self) -> Timestamp {
        let before = self.state.positions.get(EXPIRED).copied();
        before.map_or(Timestamp(i64::MIN), Timestamp)
    }

    /// Whether rows may expire now: once in an interval, whoever asks and however often it was
    /// started since. The first time, and where the clock went back, the interval begins now.
    pub async fn may_expire(
        &mut self,
        now: Timestamp,
        interval: Duration,
    ) -> Result<bool, CommitError> {
        let last = self.state.positions.get(EXPIRED_AT).copied();
        if let Some(last) = last.filter(|last| *last <= now.0) {
            return Ok(now.0 - last >= micros(interval));
        }
        let begun = self.moved(EXPIRED_AT.to_owned(), now.0);
        self.append(Vec::new(), &[begun]).await?;
        Ok(false)
    }
}

impl Expired {
    /// Some rows of some files; the others are to be kept.
    pub fn of(files: Vec<Arc<DataFile>>, rows: u64, span: (Timestamp, Timestamp)) -> Self {
        Expired { files, rows, span }
    }

    /// How many files.
    pub fn files(&self) -> usize {
        self.files.len()
    }
}

/// The instant before which a table's rows expire; none if nothing can be said.
///
/// `samples` tells what the tables know of the time and who holds what.
pub fn horizon(samples: &Table, clock: Timestamp, kept_micros: i64) -> Option<Timestamp> {
    let now = clock.min(samples.latest_full_day()?);
    let horizon = Timestamp(now.0.saturating_sub(kept_micros));
    Some(samples.held().map_or(horizon, |held| held.min(horizon)))
}
