//! Which log an offset counts in, and under which names the tables keep positions.
//!
//! Invariant 8b: a position without its log's incarnation is no position. Every name has the log
//! in it, so a replaced log has no position and begins at its beginning.
//!
//! | application id | version |
//! |---|---|
//! | `ingest/<topic>/<partition>/<log>` | next offset |
//! | `ingest/<topic>/<partition>/<log>/mark` | [`Mark`](nilometer_log::Mark) of the record before it |
//! | `ingest/<topic>/<partition>/<log>/end` | where the log ended as seen last, if that was beyond |
//! | `ingest/<topic>/<partition>/log` | the log read last, a [`LogId`] |
//! | `ingest/<topic>/lag` | the greatest [`Lag`](crate::lag::Lag) of its partitions |
//! | `ingest/<topic>/<partition>/told`, in `gaps` | the log whose beginning is told there |

use nilometer_log::LogId;

/// One partition as one log has it: offsets are comparable within.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Stream {
    pub(crate) topic: &'static str,
    pub(crate) partition: u32,
    pub(crate) log: LogId,
}

impl Stream {
    /// Application id of the position.
    pub(crate) fn app(&self) -> String {
        let Stream { topic, partition, log } = self;
        format!("ingest/{topic}/{partition}/{log}")
    }

    /// Application id of the mark that goes with the position.
    pub(crate) fn mark_app(&self) -> String {
        format!("{}/mark", self.app())
    }

    /// Application id of where the log ended.
    pub(crate) fn end_app(&self) -> String {
        format!("{}/end", self.app())
    }

    /// Application id of the lag of the topic.
    pub(crate) fn lag_app(&self) -> String {
        format!("ingest/{}/lag", self.topic)
    }

    /// Application id of the log that is read.
    pub(crate) fn log_app(&self) -> String {
        format!("ingest/{}/{}/log", self.topic, self.partition)
    }

    /// Application id of the log whose beginning is told.
    pub(crate) fn told_app(&self) -> String {
        format!("ingest/{}/{}/told", self.topic, self.partition)
    }
}

/// Where in the log a row comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Origin {
    pub(crate) topic: &'static str,
    pub(crate) partition: u32,
    pub(crate) log: LogId,
    pub(crate) offset: u64,
}

/// Offset of what is said of a log as a whole, -1 in tables.
const BEGINNING: u64 = u64::MAX;

impl Origin {
    pub(crate) fn at(stream: Stream, offset: u64) -> Origin {
        let Stream { topic, partition, log } = stream;
        Origin { topic, partition, log, offset }
    }

    /// Before the first record of a log.
    pub(crate) fn beginning(stream: Stream) -> Origin {
        Origin::at(stream, BEGINNING)
    }

    pub(crate) fn is_beginning(&self) -> bool {
        self.offset == BEGINNING
    }

    pub(crate) fn stream(&self) -> Stream {
        Stream { topic: self.topic, partition: self.partition, log: self.log }
    }
}
