//! Since when usage is metered: one stored fact, which no sample moves (invariant 8a).
//!
//! Billing settles no hour before it, and usage is computed for none. It is the hour in which the
//! log took the first record of samples, by the log's clock, and is stored with the first commit
//! of samples, in that transaction. Where [`IngestConfig::metering_start`] states an instant, that
//! is stored instead, also later: the way to bill samples that were imported.
//!
//! Samples from before it are kept, counted in `nilometer_ingest_unmetered_samples_total`, and
//! answered by queries of `samples`.
//!
//! [`IngestConfig::metering_start`]: crate::IngestConfig::metering_start

use std::collections::BTreeMap;

use nilometer_contract::{MICROS_PER_HOUR, Timestamp};
use nilometer_store::{COMMITS, Position, SAMPLES, StoreError, Table};
use tracing::info;

use crate::cut::Cut;
use crate::flush::Sink;
use crate::state::State;

/// Application id of the first metered instant, in microseconds. It is in `samples`, and in
/// `commits` too, should the commit be lost that stored it in the other.
const START: &str = "metering/start";
/// Clocks that are further apart than this are not those of one log: those of the fewer records
/// were wrong.
const CLOCKS_APART_HOURS: i64 = 32 * 24;

/// What is known of the start of metering.
#[derive(Clone, Debug, Default)]
pub(crate) struct Beginning {
    /// As it was configured.
    fixed: Option<Timestamp>,
    /// As it is stored.
    stored: Option<Timestamp>,
    /// Records of samples by the hour of the log's clock, while nothing is stored.
    records: BTreeMap<i64, u64>,
    now: Option<Timestamp>,
}

impl Beginning {
    pub(crate) fn of(fixed: Option<Timestamp>) -> Self {
        Beginning { fixed, now: fixed, ..Beginning::default() }
    }

    /// The start of metering; none before the first sample.
    pub(crate) fn now(&self) -> Option<Timestamp> {
        self.now
    }

    /// The same, unless it may still turn out to be another.
    pub(crate) fn settled(&self) -> Option<Timestamp> {
        self.fixed.or(self.stored)
    }

    fn is_before(&self, at: i64) -> bool {
        self.now.is_some_and(|start| at < start.0)
    }

    /// A record of which so many samples were taken in.
    pub(crate) fn note_record(&mut self, appended_at: i64, taken: usize) {
        if self.stored.is_none() && taken > 0 {
            *self.records.entry(appended_at.div_euclid(MICROS_PER_HOUR)).or_default() += 1;
            self.now = self.fixed.or_else(|| self.found());
        }
    }

    /// What the tables have.
    pub(crate) fn note_stored(&mut self, stored: Option<Timestamp>) {
        if stored.is_some() && stored != self.stored {
            (self.stored, self.now) = (stored, stored);
            self.records.clear();
        }
    }

    /// What the next commit of samples stores, unless it is stored already.
    pub(crate) fn to_store(&self) -> Option<Timestamp> {
        match (self.fixed, self.stored) {
            (Some(fixed), stored) => Some(fixed).filter(|_| stored != Some(fixed)),
            (None, Some(_)) => None,
            (None, None) => self.now,
        }
    }

    /// The first hour that is not far from that of the median record.
    fn found(&self) -> Option<Timestamp> {
        let half = self.records.values().sum::<u64>().div_ceil(2);
        let mut count = 0;
        let (median, _) = self.records.iter().find(|(_, records)| {
            count += **records;
            count >= half
        })?;
        let (hour, _) = self.records.range(median - CLOCKS_APART_HOURS..).next()?;
        Some(Timestamp(hour * MICROS_PER_HOUR))
    }
}

impl State {
    /// Counts a sample that was taken in.
    pub(crate) fn count_taken(&self, at: i64) {
        self.metrics.samples.inc();
        if self.beginning.is_before(at) {
            self.metrics.unmetered.inc();
        }
    }
}

impl Sink {
    /// The start of metering as it is stored.
    pub(crate) async fn metering_start(&mut self) -> Result<Option<Timestamp>, StoreError> {
        let found = self.samples.position(START).await?;
        let found = found.or(self.commits.position(START).await?);
        Ok(found.map(Timestamp))
    }
}

/// The position that stores the start of metering in a table, if it does not have it.
pub(crate) async fn start_of(table: &mut Table, cut: &Cut) -> Result<Option<Position>, StoreError> {
    let name = table.def().name;
    let Some(start) = cut.start.filter(|_| [SAMPLES.name, COMMITS.name].contains(&name)) else {
        return Ok(None);
    };
    let from = table.position(START).await?;
    if from == Some(start.0) {
        return Ok(None);
    }
    if name == SAMPLES.name {
        info!(%start, before = ?from.map(Timestamp), "metering starts");
    }
    Ok(Some(Position { app: START.to_owned(), from, next: start.0 }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = MICROS_PER_HOUR;

    fn at(hour: i64) -> Option<Timestamp> {
        Some(Timestamp(hour * HOUR))
    }

    #[test]
    fn metering_starts_with_the_first_record_by_the_clock_of_most() {
        let now = 500_000;
        let mut beginning = Beginning::of(None);
        assert_eq!(beginning.now(), None);
        // The machine began with the clock of its firmware.
        beginning.note_record(200_000 * HOUR, 1);
        beginning.note_record(100_000 * HOUR, 0);
        for minute in 0..120 {
            beginning.note_record(now * HOUR + minute * HOUR / 60, 1);
        }
        assert_eq!(beginning.now(), at(now));
        beginning.note_record((now - 5) * HOUR + 7, 1);
        assert_eq!((beginning.now(), beginning.to_store()), (at(now - 5), at(now - 5)));
        assert!(beginning.is_before((now - 5) * HOUR - 1) && !beginning.is_before(now * HOUR));
    }

    #[test]
    fn what_is_stored_stays_unless_it_is_configured() {
        let mut beginning = Beginning::of(None);
        beginning.note_stored(at(7));
        beginning.note_record(3 * HOUR, 1);
        assert_eq!((beginning.now(), beginning.to_store()), (at(7), None));
        let mut fixed = Beginning::of(at(2));
        fixed.note_record(3 * HOUR, 1);
        assert_eq!(fixed.to_store(), at(2));
        fixed.note_stored(at(7));
        assert_eq!((fixed.now(), fixed.to_store()), (at(7), at(2)));
        fixed.note_stored(at(2));
        assert_eq!((fixed.now(), fixed.to_store()), (at(2), None));
    }
}
