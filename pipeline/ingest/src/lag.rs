//! How much older than its record what is in it may be: an agent that was without the log sends what
//! it kept.
//!
//! So what is lost is not always of the time of its records, and its gap begins earlier by the
//! greatest lag of late. An agent that begins to send what it kept within what is lost is not seen
//! so; it says itself, in a gap that is `late`, since when it could not.

/// A lag counts for this long at least, and for twice as long at most, by the log's clock. Agents try
/// again every 30 s.
const WINDOW_MICROS: i64 = 600 * 1_000_000;
/// Up to this, a record comes as soon as it can. Longer ones are rounded up to it, so that what is
/// stored of them rarely changes.
const MINUTE_MICROS: i64 = 60 * 1_000_000;

/// The greatest lag of records of late, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lag {
    /// When the first record of this window was appended.
    since: Option<i64>,
    window: i64,
    window_before: i64,
}

impl Lag {
    /// As a table has it.
    pub(crate) fn stored(micros: i64) -> Self {
        Lag { window: micros.max(0), ..Lag::default() }
    }

    /// A record that was appended at an instant has nothing newer than `newest`.
    pub(crate) fn note(&mut self, appended_at: i64, newest: i64) {
        let since = *self.since.get_or_insert(appended_at);
        // A clock that was set back begins a window, too.
        let windows = appended_at.saturating_sub(since).div_euclid(WINDOW_MICROS);
        if windows != 0 {
            self.window_before = if windows.abs() == 1 { self.window } else { 0 };
            (self.since, self.window) = (Some(appended_at), 0);
        }
        self.window = self.window.max(appended_at.saturating_sub(newest));
    }

    /// The greatest in whole minutes, none of up to one; as it is kept in tables.
    pub(crate) fn micros(self) -> i64 {
        match self.window.max(self.window_before) {
            ..=MINUTE_MICROS => 0,
            most => (most.saturating_sub(1) / MINUTE_MICROS + 1).saturating_mul(MINUTE_MICROS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = MINUTE_MICROS;

    #[test]
    fn a_lag_counts_for_ten_to_twenty_minutes() {
        let mut lag = Lag::stored(7 * MINUTE);
        lag.note(0, -3 * MINUTE);
        lag.note(MINUTE, 2 * MINUTE);
        assert_eq!(lag.micros(), 7 * MINUTE);
        lag.note(10 * MINUTE, 8 * MINUTE - 1);
        assert_eq!(lag.micros(), 7 * MINUTE);
        lag.note(20 * MINUTE, 19 * MINUTE);
        assert_eq!(lag.micros(), 3 * MINUTE);
        lag.note(30 * MINUTE, 29 * MINUTE);
        assert_eq!(lag.micros(), 0);
        lag.note(31 * MINUTE, 0);
        // The clock of the log was set back.
        lag.note(-90 * MINUTE, -95 * MINUTE);
        assert_eq!(lag.micros(), 5 * MINUTE);
    }
}
