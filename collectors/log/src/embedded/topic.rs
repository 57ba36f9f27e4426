//! A topic on disk: its directory, its partitions, and `topic.json`, which is written last, so
//! that a topic that can be seen is whole.
//!
//! The file tells which log it is. What is lost of a topic is made anew under another incarnation,
//! so that nobody takes its offsets for those of before:
//!
//! | gone or damaged | what is made |
//! |---|---|
//! | the topic's folder | the topic, empty |
//! | `topic.json` | the file; the partitions and their records stay, and are read again |
//! | a partition's folder or all its segments | that partition, empty |

use nilometer_contract::Causes;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    segments,
    tail::{self, Boot, Tails},
};
use crate::{Incarnation, TopicConfig};

const FILE: &str = "topic.json";

/// Where a damaged `topic.json` is kept for people to look at.
const DAMAGED: &str = "topic.damaged";

/// Version of the layout of a topic's directory.
const FORMAT: u32 = 2;

/// Most partitions of a topic.
pub(super) const PARTITIONS_MAX: u32 = 4096;

/// What `topic.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TopicFile {
    format: u32,
    incarnation: String,
    pub(super) partitions: u32,
    retention_seconds: u64,
    /// Partitions that were lost and made anew since, with their own incarnations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    replaced: BTreeMap<u32, String>,
    /// CRC-32 of the file with nothing here.
    check: String,
}

impl TopicFile {
    fn new(partitions: u32, retention: Duration) -> TopicFile {
        TopicFile {
            format: FORMAT,
            incarnation: Incarnation::random().to_string(),
            partitions,
            retention_seconds: retention.as_secs(),
            replaced: BTreeMap::new(),
            check: String::new(),
        }
    }

    pub(super) fn retention(&self) -> Duration {
        Duration::from_secs(self.retention_seconds)
    }

    pub(super) fn incarnation(&self, partition: u32) -> Incarnation {
        let text = self.replaced.get(&partition).unwrap_or(&self.incarnation);
        text.parse().unwrap_or_default()
    }

    fn checksum(&self) -> io::Result<String> {
        let bare = TopicFile { check: String::new(), ..self.clone() };
        Ok(format!("{:08x}", crc32fast::hash(&serde_json::to_vec(&bare)?)))
    }

    fn write(mut self, dir: &Path) -> io::Result<TopicFile> {
        self.check = self.checksum()?;
        let beside = dir.join("new.json");
        let mut written = File::create(&beside)?;
        written.write_all(&serde_json::to_vec_pretty(&self)?)?;
        written.sync_all()?;
        fs::rename(beside, dir.join(FILE))?;
        segments::sync_dir(dir)?;
        Ok(self)
    }
}

/// Tells one `topic.json` from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    modified: (i64, i64),
}

impl Stamp {
    /// Of the file that is there now; none if there is none, or it cannot be seen.
    pub(super) fn of(log: &Path, topic: &str) -> Option<Stamp> {
        let stat = fs::metadata(log.join(topic).join(FILE)).ok()?;
        let modified = (stat.mtime(), stat.mtime_nsec());
        Some(Stamp { device: stat.dev(), inode: stat.ino(), modified })
    }
}

/// Whether a name can be a topic's, as for Kafka; never a path.
pub(super) fn is_name(name: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=249).contains(&name.len()) && name.chars().all(good) && name != "." && name != ".."
}

/// Where a partition lies.
pub(super) fn partition_dir(log: &Path, topic: &str, partition: u32) -> PathBuf {
    log.join(topic).join(partition.to_string())
}

/// Reads a topic; None if there is none.
///
/// # Errors
///
/// `InvalidData` if the file is damaged or of another version.
pub(super) fn read(log: &Path, topic: &str) -> io::Result<Option<TopicFile>> {
    let text = match fs::read(log.join(topic).join(FILE)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let damaged = |what: String| {
        let what = format!("{FILE} of topic {topic} {what}");
        io::Error::new(io::ErrorKind::InvalidData, what)
    };
    let file: TopicFile =
        serde_json::from_slice(&text).map_err(|e| damaged(format!("cannot be read: {e}")))?;
    if file.check != file.checksum()? {
        return Err(damaged("is damaged: its checksum is wrong".into()));
    }
    if file.format != FORMAT || file.partitions == 0 || file.partitions > PARTITIONS_MAX {
        return Err(damaged("is not of this version of the log".into()));
    }
    Ok(Some(file))
}

/// Creates a topic unless there is one, and what is missing of one that is there; other
/// processes may do the same at once.
pub(super) fn ensure(
    log: &Path,
    topic: &TopicConfig,
    boot: Boot,
    patience: Duration,
) -> io::Result<TopicFile> {
    let missing = |file: &TopicFile| -> Vec<u32> {
        let dir = |partition| partition_dir(log, &topic.name, partition);
        (0..file.partitions).filter(|&partition| !is_whole(&dir(partition))).collect()
    };
    if let Ok(Some(there)) = read(log, &topic.name)
        && missing(&there).is_empty()
        && Tails::are_in(&log.join(&topic.name))
    {
        return Ok(there);
    }
    let dir = log.join(&topic.name);
    segments::create_dir(&dir)?;
    let _lock = tail::lock(&dir, patience)?;
    let there = match read(log, &topic.name) {
        Err(e) if e.kind() == io::ErrorKind::InvalidData => {
            tracing::error!(
                topic = topic.name, error = %Causes(&e),
                "kept as {DAMAGED}, written anew; its partitions will be read again"
            );
            fs::rename(dir.join(FILE), dir.join(DAMAGED))?;
            None
        }
        other => other?,
    };
    let known = there.is_some();
    let partitions = topic.partitions.max(partitions_in(&dir)?);
    let mut file = there.unwrap_or_else(|| TopicFile::new(partitions, topic.retention));
    let tails = Tails::create(&dir, file.partitions, boot)?;
    let missing = missing(&file);
    for &partition in &missing {
        let dir = partition_dir(log, &topic.name, partition);
        segments::create_dir(&dir)?;
        tails.clear(partition)?;
        segments::create(&dir, 0)?;
        if known {
            tracing::error!(topic = topic.name, partition, "the partition was gone, made anew");
            file.replaced.insert(partition, Incarnation::random().to_string());
        }
    }
    segments::sync_dir(&dir)?;
    if known && missing.is_empty() { Ok(file) } else { file.write(&dir) }
}

/// One past the highest partition with a folder.
fn partitions_in(dir: &Path) -> io::Result<u32> {
    let mut count = 0;
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.parse::<u32>().ok());
        count = count.max(number.filter(|n| *n < PARTITIONS_MAX).map_or(0, |n| n + 1));
    }
    Ok(count)
}

/// Whether the partition has what it was made with: some segment.
fn is_whole(dir: &Path) -> bool {
    segments::list(dir).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let topic =
            TopicConfig { name: "t".into(), partitions: 3, retention: Duration::from_secs(86_400) };
        let there = ensure(dir.path(), &topic, Boot::current(), Duration::ZERO).unwrap();
        let path = dir.path().join("t").join(FILE);
        let bytes = fs::read(&path).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, flipped).unwrap();
            match read(dir.path(), "t") {
                // White space.
                Ok(same) => assert_eq!(same.as_ref(), Some(&there), "{bit}"),
                Err(e) => assert_eq!(e.kind(), io::ErrorKind::InvalidData, "{bit}"),
            }
        }
    }
}
