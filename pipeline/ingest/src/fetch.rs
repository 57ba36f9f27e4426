//! Reading one partition of the log, decoding as it goes.
//!
//! Offsets are trusted within one log only. One that was replaced is read from its beginning
//! (invariant 8b). One that lost its end, by a restored backup or an unclean election, is read
//! again from its beginning in another round: which of its records are new cannot be told, and
//! what is stored already is known by its identity. That it did is seen from an offset past its
//! end or, at the start and after each failure, from the record before the position.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::Duration;

use nilometer_contract::SAMPLES;
use nilometer_log::{Log, LogError, Record, TopicPartition};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::record::Prepared;
use crate::stream::{LogId, Mark, Stream};

/// How long one fetch waits for records; new ones end it at once.
const WAIT: Duration = Duration::from_secs(5);
const LAG_EVERY: Duration = Duration::from_secs(5);

/// What happens to the ingester's loop.
pub(crate) enum Event {
    /// Records of the samples topic, decoded.
    Samples { stream: Stream, records: Vec<Prepared> },
    /// Records of another topic.
    Records { stream: Stream, records: Vec<Record>, mark: Mark },
    /// Records up to here are gone from the log: invariant 2.
    Truncated { stream: Stream, low: u64 },
    /// The log goes on beyond what was read of it, up to here.
    End { stream: Stream, end: u64 },
    /// The partition is another log from here on, read from this offset.
    Begun { stream: Stream, next: u64 },
    /// All that a partition held at the start came before this.
    CaughtUp,
    /// The log could not be read; it is tried again.
    Failed(LogError),
}

/// Where to read on.
pub(crate) struct Cursor {
    pub(crate) stream: Stream,
    pub(crate) next: u64,
    /// Of the record before `next`, where that is known.
    pub(crate) mark: Option<Mark>,
    /// A log that the tables have in a later round is read in that.
    pub(crate) wanted: Arc<AtomicI64>,
    pub(crate) fetch_bytes: usize,
    pub(crate) retry_pause: Duration,
    pub(crate) metrics: Metrics,
}

impl Cursor {
    /// Reads until cancelled; a full channel makes it wait.
    pub(crate) async fn follow(
        mut self,
        log: Arc<dyn Log>,
        events: mpsc::Sender<Event>,
        cancel: CancellationToken,
    ) {
        let (topic, partition) = (self.stream.topic, self.stream.partition);
        let at = TopicPartition { topic: topic.to_owned(), partition };
        let mut lag_told: Option<Instant> = None;
        let (mut verified, mut failing, mut end) = (false, false, None);
        let mut starting = true;
        loop {
            let step = tokio::select! {
                () = cancel.cancelled() => return,
                step = self.step(log.as_ref(), &at, &mut verified) => step,
            };
            let failed = step.is_err();
            verified &= !failed;
            if std::mem::replace(&mut failing, failed) != failed {
                self.metrics.unread.add(if failed { 1 } else { -1 });
            }
            let event = step.unwrap_or_else(|error| Some(Event::Failed(error)));
            let idle = event.is_none();
            if let Some(event) = event {
                tokio::select! {
                    () = cancel.cancelled() => return,
                    sent = events.send(event) => if sent.is_err() { return },
                }
            }
            if failed {
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = tokio::time::sleep(self.retry_pause) => {}
                }
            } else if idle && end.is_some() {
                self.lag().set(0);
            } else if lag_told.is_none_or(|told| told.elapsed() >= LAG_EVERY) {
                lag_told = Some(Instant::now());
                let high = self.tell_lag(log.as_ref(), &at).await;
                end = end.or(high);
                if let Some(end) = high.filter(|high| *high > self.next) {
                    let event = Event::End { stream: self.stream, end };
                    tokio::select! {
                        () = cancel.cancelled() => return,
                        sent = events.send(event) => if sent.is_err() { return },
                    }
                }
            }
            if starting && end.is_some_and(|end| self.next >= end) {
                starting = false;
                tokio::select! {
                    () = cancel.cancelled() => return,
                    sent = events.send(Event::CaughtUp) => if sent.is_err() { return },
                }
            }
        }
    }

    /// One look at the log. None if there was nothing new for as long as a fetch waits.
    async fn step(
        &mut self,
        log: &dyn Log,
        at: &TopicPartition,
        verified: &mut bool,
    ) -> Result<Option<Event>, LogError> {
        let wanted = LogId::from_number(self.wanted.load(Relaxed));
        if wanted.is_later_round_of(self.stream.log) {
            return self.begin_round(log, at, wanted).await.map(Some);
        }
        if !*verified {
            if let Some(event) = self.verify(log, at).await? {
                return Ok(Some(event));
            }
            *verified = true;
        }
        let of = self.stream.log.incarnation();
        match log.fetch(at, of, self.next, self.fetch_bytes, WAIT).await {
            Ok(records) => Ok(self.advance(records)),
            Err(LogError::Truncated { low, .. }) if low > self.next => {
                (self.next, self.mark) = (low, None);
                Ok(Some(Event::Truncated { stream: self.stream, low }))
            }
            Err(error) => self.begin(log, at, error).await.map(Some),
        }
    }

    /// Whether the record before the position is still the one that was read.
    async fn verify(
        &mut self,
        log: &dyn Log,
        at: &TopicPartition,
    ) -> Result<Option<Event>, LogError> {
        let mark = self.mark.filter(|mark| mark.is_before_position());
        let (Some(mark), Some(before)) = (mark, self.next.checked_sub(1)) else {
            return Ok(None);
        };
        match log.fetch(at, self.stream.log.incarnation(), before, 1, WAIT).await {
            Ok(records) => match records.first() {
                Some(record) if record.offset == before && Mark::of(record) != mark => {
                    let round = self.stream.log.next_round();
                    self.begin_round(log, at, round).await.map(Some)
                }
                _ => Ok(None),
            },
            Err(LogError::Truncated { .. }) => Ok(None),
            Err(error) => self.begin(log, at, error).await.map(Some),
        }
    }

    /// Begins anew where an error says that the log is not the one that was read.
    async fn begin(
        &mut self,
        log: &dyn Log,
        at: &TopicPartition,
        error: LogError,
    ) -> Result<Event, LogError> {
        match error {
            LogError::Replaced { found, .. } => {
                self.stream.log = LogId::first_of(found);
                (self.next, self.mark) = (0, None);
                Ok(Event::Begun { stream: self.stream, next: 0 })
            }
            LogError::BeyondEnd { .. } => {
                self.begin_round(log, at, self.stream.log.next_round()).await
            }
            error => Err(error),
        }
    }

    /// Reads again all that the log has. What it forgot of what was read is no gap.
    async fn begin_round(
        &mut self,
        log: &dyn Log,
        at: &TopicPartition,
        round: LogId,
    ) -> Result<Event, LogError> {
        let low = log.watermarks(at).await?.low;
        self.stream.log = round;
        (self.next, self.mark) = (low.min(self.next), None);
        Ok(Event::Begun { stream: self.stream, next: self.next })
    }

    fn lag(&self) -> prometheus::IntGauge {
        let partition = self.stream.partition.to_string();
        self.metrics.lag.with_label_values(&[self.stream.topic, &partition])
    }

    /// Where the log ends. A failure to tell shows as one to fetch soon enough.
    async fn tell_lag(&self, log: &dyn Log, at: &TopicPartition) -> Option<u64> {
        let high = log.watermarks(at).await.ok()?.high;
        self.lag().set(high.saturating_sub(self.next) as i64);
        Some(high)
    }

    fn advance(&mut self, records: Vec<Record>) -> Option<Event> {
        let last = records.last()?;
        let mark = Mark::of(last);
        (self.next, self.mark) = (last.offset + 1, Some(mark));
        let stream = self.stream;
        let bytes: usize = records.iter().map(|record| record.payload.len()).sum();
        self.metrics.bytes.with_label_values(&[stream.topic]).inc_by(bytes as u64);
        Some(match stream.topic == SAMPLES {
            true => {
                let records = records.into_iter().map(Prepared::of).collect();
                Event::Samples { stream, records }
            }
            false => Event::Records { stream, records, mark },
        })
    }
}
