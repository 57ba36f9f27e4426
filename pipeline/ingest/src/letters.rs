//! Dead letters on their way back into the log, for whoever listens there.
//!
//! A letter is copied after the table has it and before its record's position moves, so a crash
//! in between copies it again: at least once. The table is the record; the copy says where the
//! message lies, with its text if it is one and short.

use bytes::Bytes;
use nilometer_contract::DEAD_LETTERS;
use nilometer_log::{Log, LogError, TopicPartition};
use serde_json::json;
use tracing::warn;

use crate::rows::{DeadLetter, Origin};

const MOST_AT_ONCE: usize = 256;
const MOST_PAYLOAD_BYTES: usize = 16 * 1024;

/// Appends copies to the topic of dead letters, which has one partition.
pub(crate) async fn copy_to_log(
    letters: &[(Origin, DeadLetter)],
    log: &dyn Log,
) -> Result<(), LogError> {
    let to = TopicPartition { topic: DEAD_LETTERS.to_owned(), partition: 0 };
    for some in letters.chunks(MOST_AT_ONCE) {
        match log.append(&to, some.iter().map(copy).collect()).await {
            Ok(_) => {}
            Err(LogError::Invalid(why)) => {
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
        "offset": origin.offset, "row": letter.row, "reason": letter.reason, "payload": text,
    });
    Bytes::from(copy.to_string())
}
