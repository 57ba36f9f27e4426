//! Since when usage is metered: one stored fact, which no sample moves (invariant 8a).
//!
//! Billing settles no hour before it, and usage is computed for none. It is the hour in which the
//! log took the first record of samples, by the log's clock, and is stored with the first commit
//! of samples, in that transaction. Where [`IngestConfig::metering_start`] states an instant, that
//! is stored instead, also later: the way to bill samples that were imported.
//!
//! It stands as long as most records agree with it. A log whose clock was ahead at first stores a
//! start that lies in the future, and then takes records before it: once these outnumber those
//! since, the start is found among them anew. Neither a clock that is set back for a while nor one
//! that starts at 1970 moves it, since the records of all the time before count.
//!
//! Samples from before it are kept, counted in `nilometer_ingest_unmetered_samples_total`, and
//! answered by queries of `samples`.
//!
//! [`IngestConfig::metering_start`]: crate::IngestConfig::metering_start

use std::collections::BTreeMap;

use nilometer_contract::{MICROS_PER_HOUR, Timestamp};
use nilometer_store::{Position, SAMPLES, StoreError, Table};
use tracing::info;

use crate::cut::Cut;
use crate::sink::Sink;
use crate::state::State;
use crate::tables::COMMITS;

/// Where it is stored: in `commits` too, should the commit of `samples` be lost.
const TABLES: [&str; 2] = [SAMPLES.name, COMMITS.name];
/// Application id of the first metered instant, in microseconds.
const START: &str = "metering/start";
/// Application id of how many records agree with it, in the same tables.
const AGREEING: &str = "metering/records";
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
    now: Option<Timestamp>,
    /// Records that the log took since `now`, less those that it took before it.
    agreeing: i64,
    /// Records of samples by the hour of the log's clock: all while nothing is stored, and then
    /// those before `now`.
    records: BTreeMap<i64, u64>,
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
        if taken == 0 {
            return;
        }
        if self.stored.is_some() && !self.is_before(appended_at) {
            self.agreeing += 1;
            return;
        }
        self.agreeing -= 1;
        *self.records.entry(appended_at.div_euclid(MICROS_PER_HOUR)).or_default() += 1;
        if self.stored.is_none() || (self.agreeing < 0 && self.fixed.is_none()) {
            self.now = self.fixed.or_else(|| self.found());
            let since = self.now.map_or(0, |now| now.0.div_euclid(MICROS_PER_HOUR));
            self.agreeing = self.records.range(since..).map(|(_, records)| *records as i64).sum();
        }
    }

    /// What the tables have: the start, and how many records agree with it.
    pub(crate) fn note_stored(&mut self, (stored, agreeing): (Option<Timestamp>, i64)) {
        if stored.is_none() || stored == self.stored {
            return;
        }
        if stored != self.now {
            (self.now, self.agreeing) = (stored, agreeing);
        }
        self.stored = stored;
        self.records.clear();
    }

    /// What the next commit of samples stores.
    pub(crate) fn to_store(&self) -> Option<(Timestamp, i64)> {
        let start = self.fixed.or(self.now)?;
        Some((start, self.agreeing))
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
    /// The start of metering as it is stored, and how many records agree with it.
    pub(crate) async fn metering_start(&mut self) -> Result<(Option<Timestamp>, i64), StoreError> {
        for table in [&mut self.samples, &mut self.commits] {
            if let Some(start) = table.position(START).await? {
                let agreeing = table.position(AGREEING).await?.unwrap_or_default();
                return Ok((Some(Timestamp(start)), agreeing));
            }
        }
        Ok((None, 0))
    }
}

/// The positions that store the start of metering in a table, as far as it does not have them.
pub(crate) async fn start_of(table: &mut Table, cut: &Cut) -> Result<Vec<Position>, StoreError> {
    let name = table.def().name;
    let mut positions = Vec::new();
    let Some((start, agreeing)) = cut.start.filter(|_| TABLES.contains(&name)) else {
        return Ok(positions);
    };
    for (app, next) in [(START, start.0), (AGREEING, agreeing)] {
        let from = table.position(app).await?;
        if from == Some(next) {
            continue;
        }
        if app == START && name == SAMPLES.name {
            info!(%start, before = ?from.map(Timestamp), "metering starts");
        }
        positions.push(Position { app: app.to_owned(), from, next });
    }
    Ok(positions)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = MICROS_PER_HOUR;

    impl Beginning {
        fn start_to_store(&self) -> Option<Timestamp> {
            self.to_store().map(|(start, _)| start)
        }
    }

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
        assert_eq!((beginning.now(), beginning.start_to_store()), (at(now - 5), at(now - 5)));
        assert!(beginning.is_before((now - 5) * HOUR - 1) && !beginning.is_before(now * HOUR));
    }

    #[test]
    fn what_is_stored_stays_unless_it_is_configured() {
        let mut beginning = Beginning::of(None);
        beginning.note_stored((at(7), 2));
        beginning.note_record(3 * HOUR, 1);
        beginning.note_record(3 * HOUR, 1);
        assert_eq!((beginning.now(), beginning.start_to_store()), (at(7), at(7)));
        let mut fixed = Beginning::of(at(2));
        fixed.note_record(3 * HOUR, 1);
        assert_eq!(fixed.start_to_store(), at(2));
        fixed.note_stored((at(7), 0));
        fixed.note_record(3 * HOUR, 1);
        assert_eq!((fixed.now(), fixed.start_to_store()), (at(7), at(2)));
        fixed.note_stored((at(2), 0));
        assert_eq!((fixed.now(), fixed.start_to_store()), (at(2), at(2)));
    }

    #[test]
    fn a_start_that_was_ahead_ends_when_most_records_are_before_it() {
        let (now, ahead) = (500_000, 500_000 + 365 * 24);
        let mut beginning = Beginning::of(None);
        for _ in 0..3 {
            beginning.note_record(ahead * HOUR, 1);
        }
        assert_eq!(beginning.to_store(), Some((Timestamp(ahead * HOUR), 3)));
        beginning.note_stored((at(ahead), 3));
        // Another process goes on.
        let mut beginning = Beginning::of(None);
        beginning.note_stored((at(ahead), 3));
        for second in 0..3 {
            beginning.note_record(now * HOUR + second, 1);
            assert_eq!(beginning.now(), at(ahead));
        }
        beginning.note_record(now * HOUR + 3, 1);
        assert_eq!(beginning.to_store(), Some((Timestamp(now * HOUR), 4)));
        beginning.note_stored((at(now), 4));
        // What is later agrees; a clock of 1970 for a while does not outweigh it.
        (0..100).for_each(|hour| beginning.note_record((now + hour) * HOUR, 1));
        (0..50).for_each(|second| beginning.note_record(second, 1));
        assert_eq!(beginning.to_store(), Some((Timestamp(now * HOUR), 54)));
    }
}
