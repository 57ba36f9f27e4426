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
use crate::settlement::Settlement;
use crate::settlement::writer::Writer;
use crate::stored::statements::AsOf;

/// Who holds.
const NAME: &str = "billing";

impl Settlement {
    /// Holds the samples from the first instant that is needed on, if that moved.
    pub(crate) async fn hold(&self, writer: &mut Writer) -> Result<(), LedgerError> {
        let first = self.first_needed(writer);
        if writer.held == Some(first) {
            return Ok(());
        }
        let mut samples = self.core.storage.table(&SAMPLES).await.map_err(LedgerError::Store)?;
        match samples.hold(NAME, first).await {
            Ok(()) => writer.held = Some(first),
            // Another ledger said it meanwhile; the next round looks again.
            Err(CommitError::Conflict(_) | CommitError::Stale { .. }) => {}
            Err(error) => return Err(LedgerError::Commit(error)),
        }
        Ok(())
    }

    /// The start of the month of the first hour that is not settled, and a day before: what
    /// spreads over a pause reaches back.
    fn first_needed(&self, writer: &mut Writer) -> Timestamp {
        let (stored, meter) = (self.core.stored(), self.core.engine.meter());
        let (start, newest) = (meter.start(), meter.newest().hour());
        let known = writer.settled.filter(|known| known.start <= start);
        let mut end = known.map_or(start, |known| known.end.max(start));
        while end < newest && stored.usage.has(end.0, AsOf::Newest) {
            end = end.plus_micros(MICROS_PER_HOUR);
        }
        writer.settled = Some(Window { start, end });
        let dirty = writer.changes.dirty.first().copied();
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
