//! Keeps the whole log within its bound, by dropping the oldest segments of any partition.

use std::{fs, io, path::PathBuf};

use super::{
    appender::Appender,
    config::EmbeddedConfig,
    format::first_at_micros,
    segments,
    tail::{self, Boot},
};

/// A segment that may go: not the last of its partition.
struct Old {
    at_micros: i64,
    bytes: u64,
    dir: PathBuf,
    base: u64,
}

/// Drops the oldest segments while all together are larger than the bound. Holds one partition's
/// lock at a time, none when it is called. What fails is told and tried again the next time.
pub(super) fn bound(config: &EmbeddedConfig, boot: Boot) {
    if let Err(e) = try_bound(config, boot) {
        tracing::warn!(dir = %config.dir.display(), error = %e, "log not kept within its bound");
    }
}

fn try_bound(config: &EmbeddedConfig, boot: Boot) -> io::Result<()> {
    let (mut total, mut old) = survey(config)?;
    old.sort_by(|a, b| (a.at_micros, &a.dir, a.base).cmp(&(b.at_micros, &b.dir, b.base)));
    for segment in old {
        if total <= config.max_total_bytes {
            break;
        }
        let mut appender = Appender::open(segment.dir.clone(), boot)?;
        appender.drop_first(segment.base, config)?;
        total = total.saturating_sub(segment.bytes);
        tracing::warn!(
            dir = %segment.dir.display(), base = segment.base, bytes = segment.bytes,
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
        let Ok(partitions) = fs::read_dir(topic?.path()) else { continue };
        for partition in partitions {
            let dir = partition?.path();
            if !dir.join(tail::NAME).is_file() {
                continue;
            }
            let bases = segments::list(&dir)?;
            for (i, &base) in bases.iter().enumerate() {
                let Ok(file) = segments::open(&dir, base) else { continue };
                let bytes = file.metadata()?.len();
                total += bytes;
                if i + 1 < bases.len() {
                    let at_micros = first_at_micros(&file, base)?.unwrap_or(i64::MIN);
                    old.push(Old { at_micros, bytes, dir: dir.clone(), base });
                }
            }
        }
    }
    Ok((total, old))
}
