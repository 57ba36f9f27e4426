//! What the ingester itself tells the log: copies of dead letters for whoever listens there, and
//! that commits came late.
//!
//! A letter is copied after the table has it and before its record's position moves, so a crash
//! in between copies it again: at least once. The table is the record; the copy says where the
//! message lies, with its text if it is one and short.

use bytes::Bytes;
use nilometer_contract::{Causes, DEAD_LETTERS, GAPS, Gap, GapKind, SAMPLES, Timestamp};
use nilometer_log::{Log, LogError, TopicPartition};
use serde_json::json;
use tracing::warn;

use crate::rows::DeadLetter;
use crate::stream::Origin;

const MOST_AT_ONCE: usize = 256;
const MOST_PAYLOAD_BYTES: usize = 16 * 1024;
/// Longest reason of a late commit, in characters.
const MOST_REASON: usize = 300;

/// Appends copies to the topic of dead letters, which has one partition.
pub(crate) async fn copy_to_log(
    letters: &[(Origin, DeadLetter)],
    log: &dyn Log,
) -> Result<(), LogError> {
    let to = TopicPartition { topic: DEAD_LETTERS.to_owned(), partition: 0 };
    for some in letters.chunks(MOST_AT_ONCE) {
        match log.append(&to, some.iter().map(copy).collect()).await {
            Ok(_) => {}
            Err(LogError::Invalid(why) | LogError::Refused(why)) => {
                // Trying again cannot help, and must not hold up what is stored.
                warn!(why, letters = some.len(), "dead letters not copied to the log");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn copy((origin, letter): &(Origin, DeadLetter)) -> Bytes {
    let short = letter.payload.len() <= MOST_PAYLOAD_BYTES;
    let text = std::str::from_utf8(&letter.payload).ok().filter(|_| short);
    let copy = json!({
        "at": letter.at, "topic": origin.topic, "partition": origin.partition,
        "log": origin.log.to_string(), "offset": origin.offset, "row": letter.row, "reason": letter.reason, "payload": text,
    });
    Bytes::from(copy.to_string())
}

/// Tells, as an agent would, that commits came late. Nothing is missing, so a log that cannot be
/// told is no failure.
pub(crate) async fn tell_late(log: &dyn Log, (since, now): (Timestamp, Timestamp), why: &str) {
    let gap = Gap {
        kind: GapKind::Late,
        agent: String::new(),
        node: String::new(),
        sources: Vec::new(),
        topic: SAMPLES.to_owned(),
        partition: None,
        start: since.min(now),
        end: now.max(since),
        records: 0,
        samples: 0,
        reason: format!("commits failed: {why}"),
    };
    let to = TopicPartition { topic: GAPS.to_owned(), partition: 0 };
    let Ok(gap) = gap.encode() else { return };
    if let Err(error) = log.append(&to, vec![gap.into()]).await {
        warn!(error = %Causes(&error), "a late commit cannot be told");
    }
}

/// An error with its causes, of bounded length.
pub(crate) fn told(error: &dyn std::error::Error) -> String {
    Causes(error).to_string().chars().take(MOST_REASON).collect()
}
