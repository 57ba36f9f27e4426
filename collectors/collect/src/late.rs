//! Outages that are over, joined so that one cause gives one gap for each topic.

use std::time::Duration;

use nilometer_contract::Timestamp;
use nilometer_producer::Topic;
use tokio::time::Instant;

use crate::retry::LONGEST_BACKOFF;

/// Longest wait for other partitions to recover as well.
const WAIT: Duration = Duration::from_secs(2 * LONGEST_BACKOFF.as_secs());

/// What came late, until it is recorded.
#[derive(Default)]
pub(crate) struct Late {
    topics: Vec<LateTopic>,
    since: Option<Instant>,
}

/// A time whose records of a topic came late.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LateTopic {
    pub(crate) topic: Topic,
    /// The only partition that was late; none when several were.
    pub(crate) partition: Option<u32>,
    pub(crate) start: Timestamp,
    pub(crate) end: Timestamp,
    pub(crate) why: String,
}

impl Late {
    /// An outage is over.
    pub(crate) fn add(&mut self, late: LateTopic) {
        self.since.get_or_insert_with(Instant::now);
        match self.topics.iter_mut().find(|known| known.topic == late.topic) {
            Some(known) => {
                known.start = known.start.min(late.start);
                known.end = known.end.max(late.end);
                known.partition = known.partition.filter(|_| known.partition == late.partition);
            }
            None => self.topics.push(late),
        }
    }

    /// What to record now: nothing as long as other partitions may recover at the same time.
    pub(crate) fn take(&mut self, others_fail: bool) -> Vec<LateTopic> {
        if others_fail && self.since.is_some_and(|since| since.elapsed() < WAIT) {
            return Vec::new();
        }
        self.since = None;
        std::mem::take(&mut self.topics)
    }
}
