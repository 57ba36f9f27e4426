//! Keeping samples from expiring while a bill may still rest on them.
//!
//! Hours that are not settled need theirs, and so does the month that the first of these lies in:
//! its invoice is not final. The hold is in the table of the samples, so whoever lets rows expire
//! obeys it, whether or not billing runs.

use chrono::{Datelike, NaiveTime};
use nilometer_contract::{MICROS_PER_DAY, MICROS_PER_HOUR, Timestamp};
use nilometer_store::{CommitError, SAMPLES};
use nilometer_usage::Window;

use crate::error::LedgerError;
use crate::ledger::{Desk, Ledger};
use crate::state::Known;

/// Who holds.
const NAME: &str = "billing";

impl Ledger {
    /// Holds the samples from the first instant that is needed on, if that moved.
    pub(crate) async fn hold(&self, desk: &mut Desk) -> Result<(), LedgerError> {
        let first = self.first_needed(desk);
        if desk.held == Some(first) {
            return Ok(());
        }
        let mut samples = self.inner.storage.table(&SAMPLES).await.map_err(LedgerError::Store)?;
        match samples.hold(NAME, first).await {
            Ok(()) => desk.held = Some(first),
            // Another ledger said it meanwhile; the next round looks again.
            Err(CommitError::Conflict(_) | CommitError::Stale { .. }) => {}
            Err(error) => return Err(LedgerError::Commit(error)),
        }
        Ok(())
    }

    /// The start of the month of the first hour that is not settled, and a day before: what
    /// spreads over a pause reaches back.
    fn first_needed(&self, desk: &mut Desk) -> Timestamp {
        let (archive, meter) = (self.archive(), self.inner.engine.meter());
        let (start, newest) = (meter.start(), meter.newest().hour());
        let known = desk.settled.filter(|known| known.start <= start);
        let mut end = known.map_or(start, |known| known.end.max(start));
        while end < newest && archive.usage.has(end.0, Known::Newest) {
            end = end.plus_micros(MICROS_PER_HOUR);
        }
        desk.settled = Some(Window { start, end });
        let dirty = desk.look.dirty.first().copied();
        let first = dirty.map_or(end, |dirty| end.min(Timestamp(dirty)));
        month_of(first).plus_micros(-MICROS_PER_DAY)
    }
}

fn month_of(at: Timestamp) -> Timestamp {
    let day = at.to_datetime().date_naive();
    let first = day.with_day(1).unwrap_or(day).and_time(NaiveTime::MIN);
    Timestamp(first.and_utc().timestamp_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_start_at_midnight() {
        let month = |text: &str| month_of(text.parse().unwrap()).to_string();
        assert_eq!(month("2026-11-24T21:40:23Z"), "2026-11-01T00:00:00Z");
        assert_eq!(month("2026-12-01T00:00:00Z"), "2026-12-01T00:00:00Z");
    }
}
