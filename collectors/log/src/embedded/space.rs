//! Keeps the whole log within its bound, by dropping the oldest segments of any partition.

use nilometer_contract::Causes;
use std::{fs, io, path::PathBuf, sync::Arc};

use super::{
    appender::Appender,
    config::EmbeddedConfig,
    files::Files,
    format::first_at_micros,
    segments,
    tail::{Boot, Tails},
};

/// A segment that may go: not the last of its partition.
struct Old {
    at_micros: i64,
    bytes: u64,
    topic_dir: PathBuf,
    partition: u32,
    base: u64,
}

/// Drops the oldest segments while all together are larger than the bound. Holds one partition's
/// lock at a time, none when it is called. What fails is told and tried again the next time.
pub(super) fn bound(config: &EmbeddedConfig, files: &Arc<Files>, boot: Boot) {
    if let Err(e) = try_bound(config, files, boot) {
        tracing::warn!(dir = %config.dir.display(), error = %Causes(&e), "log not kept within its bound");
    }
}

fn try_bound(config: &EmbeddedConfig, files: &Arc<Files>, boot: Boot) -> io::Result<()> {
    fn order(old: &Old) -> (i64, &PathBuf, u32, u64) {
        (old.at_micros, &old.topic_dir, old.partition, old.base)
    }
    let (mut total, mut old) = survey(config)?;
    old.sort_by(|a, b| order(a).cmp(&order(b)));
    for segment in old {
        if total <= config.max_total_bytes {
            break;
        }
        let tails = Arc::new(Tails::open(&segment.topic_dir, boot)?);
        let dir = segment.topic_dir.join(segment.partition.to_string());
        let mut appender = Appender::new(dir.clone(), segment.partition, tails, files.clone());
        appender.drop_first(segment.base, config)?;
        total = total.saturating_sub(segment.bytes);
        tracing::warn!(
            dir = %dir.display(), base = segment.base, bytes = segment.bytes,
            max_total_bytes = config.max_total_bytes,
            "oldest segment dropped: the log is at its bound"
        );
    }
    Ok(())
}

/// Bytes of all segments, and those that may go.
fn survey(config: &EmbeddedConfig) -> io::Result<(u64, Vec<Old>)> {
    let (mut total, mut old) = (0, Vec::new());
    for topic in fs::read_dir(&config.dir)? {
        let topic_dir = topic?.path();
        let Ok(partitions) = fs::read_dir(&topic_dir) else { continue };
        for partition in partitions {
            let name = partition?.file_name();
            let Some(partition) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let dir = topic_dir.join(name);
            let Ok(bases) = segments::list(&dir) else { continue };
            for (i, &base) in bases.iter().enumerate() {
                let Ok(bytes) = fs::metadata(segments::path(&dir, base)) else { continue };
                let bytes = bytes.len();
                total += bytes;
                if i + 1 < bases.len() {
                    let Ok(file) = segments::open(&dir, base) else { continue };
                    let at_micros = first_at_micros(&file, base)?.unwrap_or(i64::MIN);
                    old.push(Old {
                        at_micros,
                        bytes,
                        topic_dir: topic_dir.clone(),
                        partition,
                        base,
                    });
                }
            }
        }
    }
    Ok((total, old))
}
