//! Reading one partition of the log, decoding as it goes.

use std::sync::Arc;
use std::time::Duration;

use nilometer_contract::SAMPLES;
use nilometer_log::{Log, LogError, Record, TopicPartition};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::record::Prepared;
use crate::rows::Origin;

const WAIT: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_secs(1);

/// What happens to the ingester's loop.
pub(crate) enum Event {
    /// Records of the samples topic, decoded.
    Samples { partition: u32, records: Vec<Prepared> },
    /// Records of another topic.
    Records { topic: &'static str, partition: u32, records: Vec<Record> },
    /// Records up to here are gone from the log: invariant 2.
    Truncated { topic: &'static str, partition: u32, low: u64 },
    /// The log could not be read; it is tried again.
    Failed(LogError),
}

/// Where to read on.
pub(crate) struct Cursor {
    pub(crate) topic: &'static str,
    pub(crate) partition: u32,
    pub(crate) next: u64,
    pub(crate) fetch_bytes: usize,
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
        loop {
            let fetched = tokio::select! {
                () = cancel.cancelled() => return,
                fetched = log.fetch(&at, self.next, self.fetch_bytes, WAIT) => fetched,
            };
            let (event, pause) = match fetched {
                Ok(records) if records.is_empty() => continue,
                Ok(records) => (self.advance(records), false),
                Err(LogError::Truncated { low, .. }) if low > self.next => {
                    self.next = low;
                    (Event::Truncated { topic: self.topic, partition: self.partition, low }, false)
                }
                Err(error) => (Event::Failed(error), true),
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                sent = events.send(event) => if sent.is_err() { return },
            }
            if pause {
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = tokio::time::sleep(PAUSE) => {}
                }
            }
        }
    }

    fn advance(&mut self, records: Vec<Record>) -> Event {
        if let Some(last) = records.last() {
            self.next = last.offset + 1;
        }
        let (topic, partition) = (self.topic, self.partition);
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
