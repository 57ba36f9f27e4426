//! Reading one partition of the log, decoding as it goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::Duration;

use nilometer_contract::SAMPLES;
use nilometer_log::{LogError, LogId, ReadEvent, Reader, Record};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::record::Prepared;
use crate::stream::Stream;

/// What happens to the ingester's loop.
pub(crate) enum Event {
    /// Records of the samples topic, decoded.
    Samples { stream: Stream, records: Vec<Prepared> },
    /// Records of another topic.
    Records { stream: Stream, records: Vec<Record> },
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

/// A partition that is read.
pub(crate) struct Cursor {
    pub(crate) stream: Stream,
    pub(crate) reader: Reader,
    /// A log that the tables have in a later round is read in that.
    pub(crate) wanted: Arc<AtomicI64>,
    pub(crate) retry_pause: Duration,
    pub(crate) metrics: Metrics,
}

impl Cursor {
    /// Reads until cancelled; a full channel makes it wait.
    pub(crate) async fn follow(self, events: mpsc::Sender<Event>, cancel: CancellationToken) {
        // Nobody listens where it ends before.
        let _ = cancel.run_until_cancelled(self.read(events)).await;
    }

    async fn read(
        mut self,
        events: mpsc::Sender<Event>,
    ) -> Result<(), mpsc::error::SendError<Event>> {
        let (mut failing, mut starting, mut end) = (false, true, None);
        loop {
            self.reader.want(LogId::from_number(self.wanted.load(Relaxed)));
            let read = self.reader.next().await;
            let failed = read.is_err();
            if std::mem::replace(&mut failing, failed) != failed {
                self.metrics.unread.add(if failed { 1 } else { -1 });
            }
            if let Ok(ReadEvent::End(high)) = read {
                end.get_or_insert(high);
            }
            if let Some(event) =
                read.map_or_else(|error| Some(Event::Failed(error)), |read| self.event(read))
            {
                events.send(event).await?;
            }
            if failed {
                tokio::time::sleep(self.retry_pause).await;
            }
            if starting && end.is_some_and(|end| self.reader.position().next >= end) {
                starting = false;
                events.send(Event::CaughtUp).await?;
            }
        }
    }

    /// What it is to the ingester; none if there was nothing new.
    fn event(&mut self, read: ReadEvent) -> Option<Event> {
        let position = self.reader.position();
        match read {
            ReadEvent::Records(records) => Some(self.decoded(records)),
            ReadEvent::Missing(gone) => {
                Some(Event::Truncated { stream: self.stream, low: gone.end })
            }
            ReadEvent::Begun(_) => {
                self.stream.log = position.log;
                Some(Event::Begun { stream: self.stream, next: position.next })
            }
            ReadEvent::End(end) => {
                self.lag().set(end.saturating_sub(position.next) as i64);
                (end > position.next).then_some(Event::End { stream: self.stream, end })
            }
            ReadEvent::Idle => {
                self.lag().set(0);
                None
            }
        }
    }

    fn decoded(&self, records: Vec<Record>) -> Event {
        let stream = self.stream;
        let bytes: usize = records.iter().map(|record| record.payload.len()).sum();
        self.metrics.bytes.with_label_values(&[stream.topic]).inc_by(bytes as u64);
        match stream.topic == SAMPLES {
            true => {
                let records = records.into_iter().map(Prepared::of).collect();
                Event::Samples { stream, records }
            }
            false => Event::Records { stream, records },
        }
    }

    fn lag(&self) -> prometheus::IntGauge {
        let partition = self.stream.partition.to_string();
        self.metrics.lag.with_label_values(&[self.stream.topic, &partition])
    }
}
