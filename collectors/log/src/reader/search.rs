//! The search for a position by time.

use nilometer_contract::Timestamp;

use super::WAIT;
use crate::{Incarnation, Log, LogError, TopicPartition, Watermarks};

/// The first offset between the watermarks whose record was appended at an instant or later; the
/// high one where there is none. Exact where records are in the order of their stamps.
///
/// # Errors
///
/// As [`Log::fetch`].
pub async fn first_since(
    log: &dyn Log,
    at: &TopicPartition,
    of: Incarnation,
    marks: Watermarks,
    since: Timestamp,
) -> Result<u64, LogError> {
    let (mut low, mut high) = (marks.low, marks.high);
    while low < high {
        let middle = low + (high - low) / 2;
        let found = match log.fetch(at, of, middle, 1, WAIT).await {
            // Nothing is left from there on: what follows it decides.
            Err(LogError::Truncated { low: after, .. }) if after < high => {
                log.fetch(at, of, after, 1, WAIT).await?
            }
            Err(LogError::Truncated { .. }) => Vec::new(),
            found => found?,
        };
        match found.first() {
            Some(record) if record.appended_at_micros < since.0 => low = record.offset + 1,
            _ => high = middle,
        }
    }
    Ok(low.min(marks.high))
}
