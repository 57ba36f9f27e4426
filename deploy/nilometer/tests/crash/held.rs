//! What log, spool and tables hold, read from their bytes, and flips of these bytes.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use nilometer_contract::{EVENTS, GAPS, LifecycleEvent, SAMPLES, decode};
use nilometer_log::{Log, LogError, TopicPartition};

use crate::oracle::{Identity, PARTITIONS, identities};

/// The topics and how many partitions each has.
pub(crate) const TOPICS: [(&str, u32); 3] =
    [(SAMPLES, PARTITIONS), (EVENTS, PARTITIONS), (GAPS, 1)];
const FETCH_BYTES: usize = 8 << 20;

/// One record, wherever it lies.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) topic: &'static str,
    pub(crate) partition: u32,
    /// When the log took it; 0 in a spool.
    pub(crate) appended_at: i64,
    pub(crate) samples: BTreeSet<Identity>,
    /// Id of the event.
    pub(crate) event: Option<String>,
}

impl Held {
    pub(crate) fn new(
        topic: &'static str,
        partition: u32,
        appended_at: i64,
        payload: &[u8],
    ) -> Self {
        let batch = (topic == SAMPLES).then(|| decode(payload).ok()).flatten();
        let samples = batch.map(|batch| identities(&batch).collect()).unwrap_or_default();
        let event = (topic == EVENTS).then(|| LifecycleEvent::decode(payload).ok()).flatten();
        Held { topic, partition, appended_at, samples, event: event.map(|event| event.id()) }
    }
}

/// All that a log gives to its readers.
pub(crate) async fn in_log(log: &dyn Log) -> anyhow::Result<Vec<Held>> {
    let mut held = Vec::new();
    for (topic, partitions) in TOPICS {
        for partition in 0..partitions {
            let at = TopicPartition { topic: topic.to_owned(), partition };
            let Ok(marks) = log.watermarks(&at).await else { continue };
            let (of, mut next) = (log.incarnation(&at).await?, marks.low);
            while next < marks.high {
                match log.fetch(&at, of, next, FETCH_BYTES, Duration::from_secs(1)).await {
                    Ok(records) => {
                        for record in records {
                            next = record.offset + 1;
                            let at = record.appended_at_micros;
                            held.push(Held::new(topic, partition, at, &record.payload));
                        }
                    }
                    Err(LogError::Truncated { low, .. }) if low > next => next = low,
                    Err(error) => return Err(error).context("the log cannot be read"),
                }
            }
        }
    }
    Ok(held)
}

/// A record and where it lies.
pub(crate) struct Place {
    pub(crate) file: PathBuf,
    pub(crate) bytes: Range<usize>,
    /// Where its payload begins.
    pub(crate) payload: usize,
    pub(crate) held: Held,
}

/// The records in the embedded log's segments, by the form that their files have.
pub(crate) fn in_segments(log: &Path) -> anyhow::Result<Vec<Place>> {
    const HEADER: usize = 24;
    let mut places = Vec::new();
    for (topic, partitions) in TOPICS {
        for partition in 0..partitions {
            let folder = log.join(topic).join(partition.to_string());
            for file in files(&folder, ".log")? {
                let bytes = std::fs::read(&file)?;
                let mut at = 8;
                while let Some(header) = bytes.get(at..at + HEADER) {
                    let end = at + HEADER + number(&header[..4]) as usize;
                    let Some(payload) = bytes.get(at + HEADER..end) else { break };
                    let appended_at = number(&header[16..]) as i64;
                    let held = Held::new(topic, partition, appended_at, payload);
                    let (file, payload) = (file.clone(), at + HEADER);
                    places.push(Place { file, bytes: at..end, payload, held });
                    at = end;
                }
            }
        }
    }
    Ok(places)
}

/// The records in the agent's spools, by the form that their files have.
pub(crate) fn in_spools(spools: &Path) -> anyhow::Result<Vec<Place>> {
    const MARK: [u8; 4] = [0xC5, 0x00, 0xFE, 0x91];
    const FIXED: usize = 41;
    let mut places = Vec::new();
    for spool in folders(spools)? {
        for (lane, topic) in [("samples", SAMPLES), ("events", EVENTS)] {
            for file in files(&spool.join(lane), ".seg")? {
                let bytes = std::fs::read(&file)?;
                let mut at = 0;
                while let Some(header) = bytes.get(at..at + FIXED) {
                    let payload = at + FIXED + usize::from(header[FIXED - 1]);
                    let end = payload + number(&header[12..16]) as usize;
                    let (true, Some(body)) = (header.starts_with(&MARK), bytes.get(payload..end))
                    else {
                        break;
                    };
                    let held = Held::new(topic, number(&header[16..20]) as u32, 0, body);
                    places.push(Place { file: file.clone(), bytes: at..end, payload, held });
                    at = end;
                }
            }
        }
    }
    Ok(places)
}

/// The files of all tables: Parquet files and commits.
pub(crate) fn in_tables(tables: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders_left = folders(tables)?;
    while let Some(folder) = folders_left.pop() {
        found.extend(files(&folder, ".parquet")?);
        let commits = files(&folder, ".json")?;
        found.extend(commits.into_iter().filter(|_| folder.ends_with("_delta_log")));
        folders_left.extend(folders(&folder)?);
    }
    found.sort();
    Ok(found)
}

/// Flips one bit.
pub(crate) fn flip(file: &Path, byte: usize, bit: u32) -> anyhow::Result<()> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().read(true).write(true).open(file)?;
    let mut read = [0];
    file.read_exact_at(&mut read, byte as u64)?;
    file.write_all_at(&[read[0] ^ 1 << bit], byte as u64)?;
    Ok(())
}

fn number(little_endian: &[u8]) -> u64 {
    little_endian.iter().take(8).rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte))
}

fn entries(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let listed = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        listed => listed?,
    };
    let mut paths: Vec<PathBuf> = listed.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    Ok(paths)
}

fn folders(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    Ok(entries(folder)?.into_iter().filter(|path| path.is_dir()).collect())
}

fn files(folder: &Path, ending: &str) -> anyhow::Result<Vec<PathBuf>> {
    let name = |path: &PathBuf| path.to_string_lossy().ends_with(ending) && path.is_file();
    Ok(entries(folder)?.into_iter().filter(name).collect())
}
