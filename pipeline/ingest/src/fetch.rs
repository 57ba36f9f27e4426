//! Reading one partition of the log, decoding as it goes.

use std::sync::Arc;
use std::time::Duration;

use nilometer_contract::SAMPLES;
use nilometer_log::{Log, LogError, Record, TopicPartition};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::record::Prepared;
use crate::rows::Origin;

const WAIT: Duration = Duration::from_millis(500);
const LAG_EVERY: Duration = Duration::from_secs(5);

/// What happens to the ingester's loop.
pub(crate) enum Event {
    /// Records of the samples topic, decoded.
    Samples { partition: u32, records: Vec<Prepared> },
    /// Records of another topic.
    Records { topic: &'static str, partition: u32, records: Vec<Record> },
    /// Records up to here are gone from the log: invariant 2.
    Truncated { topic: &'static str, partition: u32, low: u64 },
    /// The log ends before the place to read on: it lost its end, or is another one.
    Shrunk { topic: &'static str, partition: u32, high: u64 },
    /// The log could not be read; it is tried again.
    Failed(LogError),
}

/// Where to read on.
pub(crate) struct Cursor {
    pub(crate) topic: &'static str,
    pub(crate) partition: u32,
    pub(crate) next: u64,
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
        let at = TopicPartition { topic: self.topic.to_owned(), partition: self.partition };
        let (topic, partition) = (self.topic, self.partition);
        let mut lag_told: Option<Instant> = None;
        let (mut shrunk, mut failing, mut end) = (false, false, None);
        let mut starting = true;
        loop {
            let fetched = tokio::select! {
                () = cancel.cancelled() => return,
                fetched = log.fetch(&at, self.next, self.fetch_bytes, WAIT) => fetched,
            };
            let failed = fetched.is_err();
            if std::mem::replace(&mut failing, failed) != failed {
                self.metrics.unread.add(if failed { 1 } else { -1 });
            }
            let event = match fetched {
                Ok(records) if records.is_empty() => None,
                Ok(records) => Some(self.advance(records)),
                Err(LogError::Truncated { low, .. }) if low > self.next => {
                    self.next = low;
                    Some(Event::Truncated { topic, partition, low })
                }
                Err(LogError::BeyondEnd { high, .. }) if !shrunk => {
                    shrunk = true;
                    Some(Event::Shrunk { topic, partition, high })
                }
                Err(error) => Some(Event::Failed(error)),
            };
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
            } else if lag_told.is_none_or(|told| told.elapsed() >= LAG_EVERY) {
                lag_told = Some(Instant::now());
                let high = self.tell_lag(log.as_ref(), &at).await;
                end = end.or(high);
            }
            if starting && end.is_some_and(|end| self.next >= end) {
                starting = false;
                self.metrics.starting.dec();
            }
        }
    }

    /// Where the log ends. A failure to tell shows as one to fetch soon enough.
    async fn tell_lag(&self, log: &dyn Log, at: &TopicPartition) -> Option<u64> {
        let high = log.watermarks(at).await.ok()?.high;
        let partition = self.partition.to_string();
        let lag = self.metrics.lag.with_label_values(&[self.topic, &partition]);
        lag.set(high.saturating_sub(self.next) as i64);
        Some(high)
    }

    fn advance(&mut self, records: Vec<Record>) -> Event {
        if let Some(last) = records.last() {
            self.next = last.offset + 1;
        }
        let (topic, partition) = (self.topic, self.partition);
        let bytes: usize = records.iter().map(|record| record.payload.len()).sum();
        self.metrics.bytes.with_label_values(&[topic]).inc_by(bytes as u64);
        match topic == SAMPLES {
            true => Event::Samples {
                partition,
                records: records.into_iter().map(Prepared::of).collect(),
            },
            false => Event::Records { topic, partition, records },
        }
    }
}

impl Origin {
    /// Application id under which a table keeps its position in this partition.
    pub(crate) fn app(topic: &str, partition: u32) -> String {
        format!("ingest/{topic}/{partition}")
    }
}
