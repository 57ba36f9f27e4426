//! Settling: usage and charges of closed hours become rows of tables.
//!
//! ```text
//! hour:  open ──▶ closed: newest sample and clock past its end by  ──▶ settled, `known` = n
//!         ▲       the grace, all its samples in files, no commit        │  something changed
//!         │       lately                                                ▼
//!         └──────────────── its end lies ahead of the clock ◀── settled anew, `known` = m > n
//! ```
//!
//! Exactly once: each commit moves the application id [`SETTLE`] of its table on to the `known`
//! of its statements. A second writer conflicts; after a crash the tables tell what is settled,
//! and stating an hour twice changes nothing, since the newest statement counts. Charges are
//! committed before usage: an hour whose usage is settled has its charges.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Instant;

use nilometer_contract::{Labels, MICROS_PER_HOUR, Meter, MeterKind, Timestamp};
use nilometer_engine::Selection;
use nilometer_rating::Charge;
use nilometer_store::{Add, Position, Table};
use nilometer_usage::{UsageRow, Window};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::error::LedgerError;
use crate::settlement::Settlement;
use crate::settlement::changes::{self, hours_in_memory};
use crate::settlement::owned_by;
use crate::settlement::writer::Writer;
use crate::stored::read::view_of;
use crate::stored::rows::{charges_batch, hour_of, usage_batch, void_hour};
use crate::stored::statements::{AsOf, Statement, Statements};

/// Application id of statements in `usage` and `charges`; its version is the newest `known`.
pub(crate) const SETTLE: &str = "settle";

/// A resource's meter with further labels.
type Measured = (Arc<str>, Arc<Meter>, Labels);

/// Why an hour is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// Its usage has to be computed.
    Compute,
    /// Its usage stands; its charges are of another price book.
    Rate,
}

/// What an hour was and is now found to be.
struct Found<'r> {
    hour: i64,
    usage: Option<&'r [UsageRow]>,
    charges: Option<&'r [Charge]>,
}

impl Settlement {
    /// Settles all hours that are due now; says how many statements were made or confirmed.
    ///
    /// [`run`](Self::run) does this again and again; tests and tools may do it once.
    pub async fn settle(&self, cancel: &CancellationToken) -> Result<usize, LedgerError> {
        if self.core.config.reads_only {
            return Err(LedgerError::ReadsOnly);
        }
        let mut writer = self.writer.lock().await;
        self.settle_before(&mut writer, self.final_before(), true, cancel).await
    }

    /// Settles what is due before an instant; `patient` leaves hours for later that commits still
    /// touch.
    pub(crate) async fn settle_before(
        &self,
        writer: &mut Writer,
        end: Timestamp,
        patient: bool,
        cancel: &CancellationToken,
    ) -> Result<usize, LedgerError> {
        self.refresh(writer).await?;
        self.withdraw(writer).await?;
        let mut count = 0;
        loop {
            let view = self.core.engine.tables().now();
            self.note_changes(writer, &view).await?;
            let oldest = self.core.engine.meter().start().0;
            writer.changes.dirty.retain(|hour| *hour >= oldest);
            let due = self.due(writer, end, patient);
            self.core.metrics.due.set(due.len() as i64);
            self.show_lag();
            let Some((run, why)) = self.first_run(&due).filter(|_| !cancel.is_cancelled()) else {
                break;
            };
            let version = view.tables.get("samples").map_or(0, |samples| samples.version);
            count += self.settle_run(writer, run, why, version).await?;
        }
        if !cancel.is_cancelled() {
            self.put_back(writer).await?;
        }
        self.hold(writer).await?;
        if count > 0 && !cancel.is_cancelled() && writer.changes.dirty.is_empty() {
            writer.store_seen().await?;
        }
        Ok(count)
    }

    fn due(&self, writer: &Writer, end: Timestamp, patient: bool) -> BTreeMap<i64, Why> {
        let stored = self.core.stored();
        let in_memory = hours_in_memory(&self.core.engine.tables().now());
        let (oldest, quiet) = (self.core.engine.meter().start().0, self.core.config.quiet);
        let stated = stored.usage.hours.keys().copied();
        let metered = (0..).map(|n| oldest + n * MICROS_PER_HOUR).take_while(|hour| *hour < end.0);
        let hours: BTreeSet<i64> = stated.chain(metered).collect();
        let ready = |hour: i64| {
            let calm = !in_memory.contains(&hour) && writer.changes.is_quiet(hour, quiet);
            hour < end.0 && (!patient || calm)
        };
        let why = |hour: i64| -> Option<Why> {
            // Nothing is metered before, or what it rests on has expired; what was stated stands.
            if hour < oldest {
                return None;
            }
            let settled = stored.usage.has(hour, AsOf::Newest);
            if !settled || writer.changes.dirty.contains(&hour) {
                Some(Why::Compute)
            } else if !stored.charges.has(hour, AsOf::Newest) {
                Some(Why::Rate)
            } else {
                None
            }
        };
        hours.into_iter().filter(|&hour| ready(hour)).filter_map(|h| Some((h, why(h)?))).collect()
    }

    /// The first run of hours that can be settled in one go.
    fn first_run(&self, due: &BTreeMap<i64, Why>) -> Option<(Window, Why)> {
        let (&start, &why) = due.first_key_value()?;
        let shared = &self.core.engine.tables().shared;
        let series = shared.index.read().unwrap_or_else(|e| e.into_inner()).len();
        let resources = shared.history.read().unwrap_or_else(|e| e.into_inner()).len();
        let an_hour = series + 3 * resources;
        let most = (self.core.config.batch_rows / an_hour.max(1))
            .clamp(1, self.core.config.batch_hours.max(1));
        let hours = (0..most as i64).map(|n| start + n * MICROS_PER_HOUR);
        let run = hours.take_while(|hour| due.get(hour) == Some(&why)).count() as i64;
        let end = Timestamp(start + run * MICROS_PER_HOUR);
        Some((Window { start: Timestamp(start), end }, why))
    }

    async fn settle_run(
        &self,
        writer: &mut Writer,
        run: Window,
        why: Why,
        version: i64,
    ) -> Result<usize, LedgerError> {
        let started = Instant::now();
        let (stored, all) = (self.core.stored(), Selection::default());
        let before = self.rating.stored_usage(&stored, run, AsOf::Newest, &all).await?;
        let meter = self.core.engine.meter();
        let (computed, pauses) = match why {
            Why::Compute => {
                let found = meter.usage_to_settle(run, &all).await.map_err(LedgerError::Meter)?;
                (Some(found.0), found.1)
            }
            Why::Rate => (None, Vec::new()),
        };
        let usage = computed.as_deref().unwrap_or(&before);
        let charges = self.rating.rated(usage, self.core.books.in_force())?;
        let book = self.core.books.in_force();
        let charged = self.rating.stored_charges(&stored, run, AsOf::Newest, &all, book).await?;
        let hours = (run.start.0..run.end.0).step_by(MICROS_PER_HOUR as usize);
        let found = hours.map(|hour| {
            let (now, was) = (rows_of(usage, hour), rows_of(&before, hour));
            let (rated, paid) = (charges_of(&charges, hour), charges_of(&charged, hour));
            let same_usage = stored.usage.has(hour, AsOf::Newest) && now == was;
            let same_charges = stored.charges.has(hour, AsOf::Newest) && rated == paid;
            Found {
                hour,
                usage: (!same_usage).then_some(now),
                charges: (!same_charges).then_some(rated),
            }
        });
        let found: Vec<Found<'_>> = found.collect();
        self.state(writer, &found, version).await?;
        if computed.is_some() {
            let last = run.end.0 - MICROS_PER_HOUR;
            for (edge, step) in [(run.start.0, -MICROS_PER_HOUR), (last, MICROS_PER_HOUR)] {
                let was = stored.usage.has(edge, AsOf::Newest);
                let was = was.then(|| rows_of(&before, edge));
                let turned = turned(rows_of(usage, edge), was);
                self.follow_pauses(writer, edge, step, turned).await?;
            }
            found.iter().for_each(|found| writer.changes.done(found.hour, version));
            let stated = self.core.stored();
            let hours = pauses.iter().flat_map(|pause| changes::hours(pause.start.0, pause.end.0));
            writer
                .changes
                .take_up(hours.filter(|hour| stated.usage.has(*hour, AsOf::Newest)), version);
        }
        self.count(&stored.usage, &found, usage.len(), started);
        Ok(found.len())
    }

    /// Commits what differs from what was stated before.
    async fn state(
        &self,
        writer: &mut Writer,
        found: &[Found<'_>],
        version: i64,
    ) -> Result<(), LedgerError> {
        let known = version.max(writer.last_known + 1);
        let book = self.core.books.in_force().version();
        let mut stored = (*self.core.stored()).clone();
        let charges = found.iter().filter_map(|found| {
            let rows = found.charges?;
            let batch = match rows.is_empty() {
                true => void_hour(writer.charges.def(), found.hour, known, book),
                false => charges_batch(rows, known),
            };
            Some((found.hour, batch))
        });
        let charges: Vec<_> = charges.collect();
        let usage = found.iter().filter_map(|found| {
            let rows = found.usage?;
            let batch = match rows.is_empty() {
                true => Ok(void_hour(writer.usage.def(), found.hour, known, book)),
                false => usage_batch(rows, known),
            };
            Some(batch.map(|batch| (found.hour, batch)))
        });
        let usage: Vec<_> = usage.collect::<Result<_, LedgerError>>()?;
        let owner = writer.owner;
        for (table, rows, said) in [
            (&mut writer.charges, charges, &mut stored.charges),
            (&mut writer.usage, usage, &mut stored.usage),
        ] {
            if rows.is_empty() {
                continue;
            }
            let (hours, batches): (Vec<i64>, Vec<_>) = rows.into_iter().unzip();
            let add = table.write(&batches, None).await.map_err(LedgerError::Store)?;
            commit(table, add, known, owner).await?;
            writer.last_known = known;
            said.view = view_of(table);
            hours.into_iter().for_each(|hour| said.note(hour, Statement::made(known)));
        }
        self.core.publish(stored);
        Ok(())
    }

    /// Marks hours outside a run that changed series in the hour at its `edge` may bear on.
    ///
    /// What a counter grew by over a pause spreads over all of it. So when a series turns out
    /// differently in the first hour of the run, the hours before in which it was silent may
    /// change too, and likewise the hours after the last. It comes to an end because only what
    /// changed is followed.
    async fn follow_pauses(
        &self,
        writer: &mut Writer,
        edge: i64,
        step: i64,
        mut turned: HashSet<Measured>,
    ) -> Result<(), LedgerError> {
        let (stored, all) = (self.core.stored(), Selection::default());
        let mut hour = edge + step;
        while !turned.is_empty() && stored.usage.has(hour, AsOf::Newest) {
            let end = Timestamp(hour + MICROS_PER_HOUR);
            let of = Window { start: Timestamp(hour), end };
            let rows = self.rating.stored_usage(&stored, of, AsOf::Newest, &all).await?;
            let partly = rows.iter().filter(|row| row.observed_micros < row.end.0 - row.start.0);
            let silent: HashSet<_> = partly.filter_map(counter).collect();
            turned.retain(|series| silent.contains(series));
            if !turned.is_empty() {
                writer.changes.dirty.insert(hour);
            }
            hour += step;
        }
        Ok(())
    }

    fn count(&self, before: &Statements, found: &[Found<'_>], rows: usize, started: Instant) {
        let metrics = &self.core.metrics;
        for found in found {
            let changed = found.usage.is_some() || found.charges.is_some();
            match (before.newest(found.hour), changed) {
                (None, _) => metrics.settled.inc(),
                (Some(_), true) => metrics.restated.inc(),
                (Some(_), false) => metrics.confirmed.inc(),
            }
        }
        metrics.rated_rows.inc_by(rows as u64);
        metrics.seconds.observe(started.elapsed().as_secs_f64());
        self.show_lag();
        let (first, seconds) = (found.first(), started.elapsed().as_secs_f64());
        let stated = found.iter().any(|it| it.usage.is_some() || it.charges.is_some());
        let from = first.map(|found| Timestamp(found.hour).to_string()).unwrap_or_default();
        match stated {
            true => info!(from, hours = found.len(), rows, seconds, "settled"),
            false => debug!(from, hours = found.len(), rows, seconds, "confirmed"),
        }
    }

    fn show_lag(&self) {
        let meter = self.core.engine.meter();
        let newest = meter.newest();
        let stored = self.core.stored();
        let last = stored.usage.stated(i64::MIN, newest.0).next_back();
        let upto = last.map_or(meter.start().0, |hour| hour + MICROS_PER_HOUR);
        self.core.metrics.lag_seconds.set((newest.0 - upto).max(0) / 1_000_000);
    }
}

pub(crate) async fn commit(
    table: &mut Table,
    add: Add,
    known: i64,
    owner: Option<i64>,
) -> Result<(), LedgerError> {
    let from = table.position(SETTLE).await.map_err(LedgerError::Store)?;
    let position = Position { app: SETTLE.to_owned(), from, next: known };
    let positions: Vec<Position> = std::iter::once(position).chain(owned_by(owner)).collect();
    table.append(vec![add], &positions).await.map_err(LedgerError::Commit)
}

/// The series of a row, if it is a counter's.
fn counter(row: &UsageRow) -> Option<Measured> {
    let is_counter = row.meter.kind == MeterKind::Counter;
    is_counter.then(|| (row.resource.clone(), row.meter.clone(), row.labels.clone()))
}

/// Counters whose rows in an hour are others than they were; in an hour that was not stated
/// before, those that say anything.
fn turned(now: &[UsageRow], was: Option<&[UsageRow]>) -> HashSet<Measured> {
    let Some(was) = was else {
        let says = |row: &&UsageRow| row.observed_micros > 0 || row.quantity.0 != 0;
        return now.iter().filter(says).filter_map(counter).collect();
    };
    let (now, was): (HashSet<_>, HashSet<_>) = (now.iter().collect(), was.iter().collect());
    now.symmetric_difference(&was).filter_map(|row| counter(row)).collect()
}

/// Rows of one hour among rows in order.
fn rows_of(rows: &[UsageRow], hour: i64) -> &[UsageRow] {
    let at = |hour: i64| rows.partition_point(|row| hour_of(row.start.0) < hour);
    &rows[at(hour)..at(hour + MICROS_PER_HOUR)]
}

fn charges_of(charges: &[Charge], hour: i64) -> &[Charge] {
    let at = |hour: i64| charges.partition_point(|charge| hour_of(charge.usage.start.0) < hour);
    &charges[at(hour)..at(hour + MICROS_PER_HOUR)]
}
