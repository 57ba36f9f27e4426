//! Reading one partition of the log from a position on, and what it shows to be missing.
//!
//! ```text
//! Records  Records  Missing   Records        Begun             Records
//!  0 1 2    3 4     5 … 8     9 10      another log, or        0 1 …
//!                  trimmed,             another round of it
//!                  damaged
//! ```
//!
//! Offsets are trusted within one log only (invariant 8b). One that was replaced is read from its
//! beginning. One that lost its end, by a restored backup or an unclean election, is read again
//! from its beginning in another round, see [`LogId`]: which of its records are new is not known,
//! and who reads knows what it has. That it did is seen from an offset past its end or, at the start
//! and after each failure, from the record before the position, see [`Mark`].
//!
//! What is missing is never passed over in silence (invariant 2); what follows from it is the
//! caller's to decide.

mod position;
mod search;
#[cfg(test)]
mod tests;

use std::{ops::Range, sync::Arc, time::Duration};

use tokio::time::Instant;

pub use self::{
    position::{LogId, Mark, ReadPosition},
    search::first_since,
};
use crate::{Log, LogError, Record, TopicPartition};

/// How long one fetch waits for records; new ones end it at once.
const WAIT: Duration = Duration::from_secs(5);
/// How often it is looked where the log ends.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Reads one partition.
pub struct Reader {
    log: Arc<dyn Log>,
    at: TopicPartition,
    position: ReadPosition,
    fetch_bytes: usize,
    wait: Duration,
    /// A round of the log that another reader found.
    wanted: LogId,
    /// Whether the record before the position is known to be the one that was read.
    verified: bool,
    /// Whether it is of interest where the log ends.
    behind: bool,
    end_known: bool,
    looked_at: Option<Instant>,
}

/// What reading on gave.
#[derive(Debug)]
pub enum ReadEvent {
    /// Records, one offset after another.
    Records(Vec<Record>),
    /// Records of these offsets are gone: trimmed, or damaged.
    Missing(Range<u64>),
    /// The partition is not the log that was read, as the error says; from here on it is read as
    /// what it is now.
    Begun(LogError),
    /// Where the log ends, now and then.
    End(u64),
    /// Nothing came for as long as a fetch waits.
    Idle,
}

impl Reader {
    /// Reads on from a position, about so many bytes at once.
    pub fn new(
        log: Arc<dyn Log>,
        at: TopicPartition,
        from: ReadPosition,
        fetch_bytes: usize,
    ) -> Reader {
        Reader {
            log,
            at,
            position: from,
            fetch_bytes,
            wait: WAIT,
            wanted: LogId::default(),
            verified: false,
            behind: false,
            end_known: false,
            looked_at: None,
        }
    }

    /// Reads what is there: waits for nothing, and does not look where the log ends.
    #[must_use]
    pub fn without_waiting(self) -> Reader {
        Reader { wait: Duration::ZERO, ..self }
    }

    /// Where it reads on.
    pub fn position(&self) -> ReadPosition {
        self.position
    }

    /// Reads on in a round in which another reader has the log, if that is a later one.
    pub fn want(&mut self, round: LogId) {
        self.wanted = round;
    }

    /// Reads on. Dropped at any moment, it loses nothing.
    ///
    /// # Errors
    ///
    /// As [`Log::fetch`], but for what is an [`ReadEvent`]; the next call tries again at once.
    pub async fn next(&mut self) -> Result<ReadEvent, LogError> {
        if let Some(end) = self.look().await {
            return Ok(ReadEvent::End(end));
        }
        let read = self.read().await;
        let idle = matches!(read, Ok(ReadEvent::Idle));
        self.verified &= read.is_ok();
        self.behind = read.is_ok() && !(idle && self.end_known);
        read
    }

    /// Where the log ends, if that is due. A failure to tell shows as one to fetch soon enough.
    async fn look(&mut self) -> Option<u64> {
        let due = self.looked_at.is_none_or(|looked| looked.elapsed() >= LOOK_EVERY);
        if !(self.behind && due) || self.wait.is_zero() {
            return None;
        }
        self.looked_at = Some(Instant::now());
        let end = self.log.watermarks(&self.at).await.ok()?.high;
        self.end_known = true;
        Some(end)
    }

    async fn read(&mut self) -> Result<ReadEvent, LogError> {
        if self.wanted.is_later_round_of(self.position.log) {
            return self.begin_round(self.wanted).await;
        }
        if !self.verified {
            if let Some(event) = self.verify().await? {
                return Ok(event);
            }
            self.verified = true;
        }
        let ReadPosition { log, next, .. } = self.position;
        let of = log.incarnation();
        match self.log.fetch(&self.at, of, next, self.fetch_bytes, self.wait).await {
            Ok(records) if records.is_empty() => Ok(ReadEvent::Idle),
            Ok(records) => Ok(self.advance(records)),
            Err(LogError::Truncated { low, .. }) if low > next => Ok(self.pass_over(low)),
            Err(error) => self.begin(error).await,
        }
    }

    /// Whether the record before the position is still the one that was read.
    async fn verify(&mut self) -> Result<Option<ReadEvent>, LogError> {
        let ReadPosition { log, next, mark } = self.position;
        let mark = mark.filter(|mark| mark.is_before_position());
        let (Some(mark), Some(before)) = (mark, next.checked_sub(1)) else { return Ok(None) };
        match self.log.fetch(&self.at, log.incarnation(), before, 1, self.wait).await {
            Ok(records) => match records.first() {
                Some(record) if record.offset == before && Mark::of(record) != mark => {
                    self.begin_round(log.next_round()).await.map(Some)
                }
                _ => Ok(None),
            },
            Err(LogError::Truncated { .. }) => Ok(None),
            Err(error) => self.begin(error).await.map(Some),
        }
    }

    /// Begins again where an error says that the log is not the one that was read.
    async fn begin(&mut self, error: LogError) -> Result<ReadEvent, LogError> {
        match error {
            LogError::Replaced { found, .. } => {
                let log = LogId::first_of(found);
                self.position = ReadPosition { log, next: 0, mark: None };
                Ok(ReadEvent::Begun(error))
            }
            LogError::BeyondEnd { .. } => self.begin_round(self.position.log.next_round()).await,
            error => Err(error),
        }
    }

    /// Reads again all that the log has. What it forgot of what was read is no gap.
    async fn begin_round(&mut self, log: LogId) -> Result<ReadEvent, LogError> {
        let marks = self.log.watermarks(&self.at).await?;
        let (at, asked) = (self.at.clone(), self.position.next);
        self.position = ReadPosition { log, next: marks.low.min(asked), mark: None };
        Ok(ReadEvent::Begun(LogError::BeyondEnd { at, asked, high: marks.high }))
    }

    /// Moves on over records up to where some are missing; what follows is fetched again.
    fn advance(&mut self, mut records: Vec<Record>) -> ReadEvent {
        let next = self.position.next;
        let first = records.first().map_or(next, |first| first.offset);
        assert!(first >= next, "a log returns no records from before the offset asked for");
        if first > next {
            return self.pass_over(first);
        }
        let run = (next..).zip(&records).take_while(|(offset, record)| record.offset == *offset);
        records.truncate(run.count());
        if let Some(last) = records.last() {
            let mark = Some(Mark::of(last));
            self.position = ReadPosition { next: last.offset + 1, mark, ..self.position };
        }
        ReadEvent::Records(records)
    }

    fn pass_over(&mut self, upto: u64) -> ReadEvent {
        let from = self.position.next;
        self.position = ReadPosition { next: upto, mark: None, ..self.position };
        ReadEvent::Missing(from..upto)
    }
}
