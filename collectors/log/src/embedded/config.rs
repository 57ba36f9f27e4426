//! Settings of the embedded log.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;

use super::format::PAYLOAD_MAX;
use crate::LogError;

/// When appended records are forced to disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Fsync {
    /// Before the append returns and before a reader sees them: one `fdatasync` for all records
    /// of the append. An acknowledged record survives a power loss.
    #[default]
    Always,
    /// At least this often, in milliseconds when deserialized as `every_ms`. A crash of the
    /// process loses nothing; a power loss may lose what was acknowledged since, even where it
    /// was read already: where the loss is noticed, offsets go on past it.
    #[serde(rename = "every_ms", deserialize_with = "milliseconds")]
    Every(Duration),
}

/// Settings of an [`EmbeddedLog`](crate::EmbeddedLog).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmbeddedConfig {
    /// Where the log lies: on a local disk, shared by the processes of one machine. Made where
    /// it is missing.
    pub dir: PathBuf,
    /// Size at which a new segment is begun, in bytes. One append goes into one segment, which
    /// may grow longer by that. Space is freed by whole segments.
    #[serde(default = "segment_bytes")]
    pub segment_bytes: u64,
    /// When records are forced to disk.
    #[serde(default)]
    pub fsync: Fsync,
    /// Most bytes of all segments together. At the bound the oldest segment goes, whether it was
    /// read or not, and a warning tells; a reader finds out by [`LogError::Truncated`]. The last
    /// segment of each partition stays, so the log may be larger by partitions × segment.
    #[serde(default = "max_total_bytes")]
    pub max_total_bytes: u64,
    /// Longest payload taken, in bytes; at most 64 MiB.
    #[serde(default = "max_record_bytes")]
    pub max_record_bytes: usize,
    /// How long an append waits for another process's append to the same partition, in
    /// milliseconds, before it is [`LogError::Unavailable`].
    #[serde(default = "lock_timeout_ms")]
    pub lock_timeout_ms: u64,
}

impl EmbeddedConfig {
    /// Defaults: segments of 64 MiB, 16 GiB in all, records of up to 8 MiB, synced always.
    pub fn new(dir: impl Into<PathBuf>) -> EmbeddedConfig {
        EmbeddedConfig {
            dir: dir.into(),
            segment_bytes: segment_bytes(),
            fsync: Fsync::default(),
            max_total_bytes: max_total_bytes(),
            max_record_bytes: max_record_bytes(),
            lock_timeout_ms: lock_timeout_ms(),
        }
    }

    pub(super) fn lock_timeout(&self) -> Duration {
        Duration::from_millis(self.lock_timeout_ms)
    }

    pub(super) fn check(&self) -> Result<(), LogError> {
        let wrong = if self.dir.as_os_str().is_empty() {
            "dir is empty"
        } else if self.segment_bytes == 0 {
            "segment_bytes is zero"
        } else if self.max_record_bytes == 0 || self.max_record_bytes > PAYLOAD_MAX {
            "max_record_bytes is not between 1 and 64 MiB"
        } else if self.max_total_bytes < self.segment_bytes {
            "max_total_bytes is less than one segment"
        } else if self.fsync == Fsync::Every(Duration::ZERO) {
            "fsync every_ms is zero; use always"
        } else {
            return Ok(());
        };
        Err(LogError::Invalid(format!("embedded log: {wrong}")))
    }
}

fn segment_bytes() -> u64 {
    64 << 20
}

fn max_total_bytes() -> u64 {
    16 << 30
}

fn max_record_bytes() -> usize {
    8 << 20
}

fn lock_timeout_ms() -> u64 {
    10_000
}

fn milliseconds<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    u64::deserialize(from).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_read_as_written_and_unknown_ones_are_refused() {
        let read = |text| serde_json::from_str::<EmbeddedConfig>(text);
        assert_eq!(read(r#"{"dir": "/d"}"#).unwrap(), EmbeddedConfig::new("/d"));
        let every = read(r#"{"dir": "/d", "fsync": {"every_ms": 200}}"#).unwrap();
        assert_eq!(every.fsync, Fsync::Every(Duration::from_millis(200)));
        assert_eq!(read(r#"{"dir": "/d", "fsync": "always"}"#).unwrap().fsync, Fsync::Always);
        assert!(read(r#"{"dir": "/d", "segments": 3}"#).is_err());
        assert!(EmbeddedConfig::new("/d").check().is_ok());
        assert!(EmbeddedConfig { segment_bytes: 0, ..EmbeddedConfig::new("/d") }.check().is_err());
    }
}
