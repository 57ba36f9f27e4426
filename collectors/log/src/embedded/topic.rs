//! A topic on disk: its directory, its partitions, and `topic.json`, which is written last, so
//! that a topic that can be seen is whole.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    segments,
    tail::{Boot, Tail},
};
use crate::TopicConfig;

const FILE: &str = "topic.json";

/// Version of the layout of a topic's directory.
const FORMAT: u32 = 1;

/// Most partitions of a topic.
pub(super) const PARTITIONS_MAX: u32 = 4096;

/// What `topic.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TopicFile {
    format: u32,
    pub(super) partitions: u32,
    retention_seconds: u64,
}

impl TopicFile {
    pub(super) fn retention(&self) -> Duration {
        Duration::from_secs(self.retention_seconds)
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
pub(super) fn read(log: &Path, topic: &str) -> io::Result<Option<TopicFile>> {
    let text = match fs::read(log.join(topic).join(FILE)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let file: TopicFile = serde_json::from_slice(&text)?;
    if file.format != FORMAT || file.partitions == 0 || file.partitions > PARTITIONS_MAX {
        let what = format!("{FILE} of topic {topic} is not of this version of the log");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(Some(file))
}

/// Creates a topic unless there is one; other processes may do the same at once.
pub(super) fn ensure(
    log: &Path,
    topic: &TopicConfig,
    boot: Boot,
    patience: Duration,
) -> io::Result<TopicFile> {
    if let Some(there) = read(log, &topic.name)? {
        return Ok(there);
    }
    let dir = log.join(&topic.name);
    segments::create_dir(&dir)?;
    let creation = Tail::create(&dir, boot)?;
    let _lock = creation.lock(patience)?;
    if let Some(there) = read(log, &topic.name)? {
        return Ok(there);
    }
    for partition in 0..topic.partitions {
        create_partition(&partition_dir(log, &topic.name, partition), boot)?;
    }
    let file = TopicFile {
        format: FORMAT,
        partitions: topic.partitions,
        retention_seconds: topic.retention.as_secs(),
    };
    let beside = dir.join("new.json");
    let mut written = File::create(&beside)?;
    written.write_all(&serde_json::to_vec_pretty(&file)?)?;
    written.sync_all()?;
    fs::rename(beside, dir.join(FILE))?;
    segments::sync_dir(&dir)?;
    Ok(file)
}

fn create_partition(dir: &Path, boot: Boot) -> io::Result<()> {
    segments::create_dir(dir)?;
    Tail::create(dir, boot)?;
    // Left by a creation that was cut short: nothing was appended yet.
    if !segments::exists(dir, 0)? {
        segments::create(dir, 0)?;
    }
    segments::sync_dir(dir)
}
