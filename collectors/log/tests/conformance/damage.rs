//! Flipped bytes anywhere in the files of a log: exactly the records that they hit are missing.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use nilometer_clock::SystemClock;
use nilometer_log::{EmbeddedConfig, EmbeddedLog, Fsync, Log, LogError};
use proptest::prelude::RngExt;

use crate::{
    embedded::block_on,
    suite::{at, fetch, make, numbered, rng},
};

const RECORDS: u64 = 12;
const HEADER: usize = 24;
const MAGIC: usize = 8;

fn config(dir: &Path) -> EmbeddedConfig {
    let fsync = Fsync::Every(Duration::from_secs(60));
    EmbeddedConfig { segment_bytes: 150, fsync, ..EmbeddedConfig::new(dir) }
}

/// The files of a log of several segments, as they were written.
struct Written {
    files: Vec<(PathBuf, Vec<u8>)>,
}

impl Written {
    async fn new(dir: &Path) -> Written {
        let log = EmbeddedLog::open(config(dir), Arc::new(SystemClock)).unwrap();
        make(&log, "t", 1).await;
        for i in 0..RECORDS {
            log.append(&at("t", 0), numbered(i..i + 1)).await.unwrap();
        }
        drop(log);
        let mut files = Vec::new();
        for folder in [dir.join("t"), dir.join("t/0")] {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_file() {
                    files.push((path.clone(), fs::read(path).unwrap()));
                }
            }
        }
        files.sort();
        assert!(files.len() >= 5, "{files:?}");
        Written { files }
    }

    /// Writes all files, with some bytes flipped: which file, which byte, which bits.
    fn write(&self, dir: &Path, flips: &[(usize, usize, u8)]) {
        fs::remove_dir_all(dir.join("t")).unwrap();
        fs::create_dir_all(dir.join("t/0")).unwrap();
        for (i, (path, bytes)) in self.files.iter().enumerate() {
            let mut bytes = bytes.clone();
            for (_, byte, bits) in flips.iter().filter(|(file, ..)| *file == i) {
                bytes[*byte] ^= bits;
            }
            fs::write(path, bytes).unwrap();
        }
    }

    /// The records that a byte of a file belongs to.
    fn hit(&self, (file, byte, _): (usize, usize, u8)) -> Option<u64> {
        let (path, bytes) = &self.files[file];
        let base = path.file_name().unwrap().to_str().unwrap().strip_suffix(".log")?;
        let mut offset: u64 = base.parse().unwrap();
        let mut at = MAGIC;
        while at < bytes.len() {
            let length =
                HEADER + u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
            if (at..at + length).contains(&byte) {
                return Some(offset);
            }
            (at, offset) = (at + length, offset + 1);
        }
        None
    }
}

/// Reads all there is, checks it, and returns what is missing.
async fn missing(log: &EmbeddedLog, until: u64) -> BTreeSet<u64> {
    let (mut next, mut missing) = (0, BTreeSet::new());
    while next < until {
        match fetch(log, &at("t", 0), next, 50, Duration::ZERO).await {
            Ok(records) => {
                assert!(!records.is_empty(), "nothing at {next}");
                for record in records {
                    assert_eq!(record.offset, next);
                    assert_eq!(record.payload, numbered(next..next + 1)[0]);
                    next += 1;
                }
            }
            Err(LogError::Truncated { low, .. }) if low > next => {
                missing.extend(next..low);
                next = low;
            }
            Err(e) => panic!("{next}: {e:?}"),
        }
    }
    let after = fetch(log, &at("t", 0), until, 50, Duration::ZERO).await.unwrap();
    assert_eq!(after, []);
    missing
}

async fn check(written: &Written, dir: &Path, flips: &[(usize, usize, u8)]) {
    written.write(dir, flips);
    let hit: BTreeSet<u64> = flips.iter().filter_map(|flip| written.hit(*flip)).collect();
    let log = EmbeddedLog::open(config(dir), Arc::new(SystemClock)).unwrap();
    make(&log, "t", 1).await;
    assert_eq!(missing(&log, RECORDS).await, hit, "{flips:?}");
    for i in RECORDS..RECORDS + 3 {
        let first = log.append(&at("t", 0), numbered(i..i + 1)).await;
        assert_eq!(first.unwrap(), i, "{flips:?}");
    }
    assert_eq!(missing(&log, RECORDS + 3).await, hit, "after appends: {flips:?}");
    let again = EmbeddedLog::open(config(dir), Arc::new(SystemClock)).unwrap();
    assert_eq!(missing(&again, RECORDS + 3).await, hit, "opened again: {flips:?}");
    let more = vec![Bytes::from_static(b"record 15")];
    assert_eq!(again.append(&at("t", 0), more).await.unwrap(), RECORDS + 3);
}

#[test]
fn every_flipped_byte_costs_the_record_it_hit_and_no_append() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let written = Written::new(dir.path()).await;
        for (file, (_, bytes)) in written.files.iter().enumerate() {
            for byte in 0..bytes.len() {
                check(&written, dir.path(), &[(file, byte, 0x10)]).await;
            }
        }
    });
}

#[test]
fn many_flipped_bytes_cost_the_records_they_hit() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let written = Written::new(dir.path()).await;
        let segments: Vec<usize> = (0..written.files.len())
            .filter(|file| written.files[*file].0.extension().is_some_and(|e| e == "log"))
            .collect();
        let mut rng = rng(6);
        for _ in 0..100 {
            let flips: Vec<_> = (0..rng.random_range(2..8))
                .map(|_| {
                    let file = segments[rng.random_range(0..segments.len())];
                    let byte = rng.random_range(0..written.files[file].1.len());
                    (file, byte, 1 << rng.random_range(0..8))
                })
                .collect();
            // Two flips of one bit are none.
            let distinct: BTreeSet<_> = flips.iter().copied().collect();
            let distinct: Vec<_> = distinct.into_iter().collect();
            check(&written, dir.path(), &distinct).await;
        }
    });
}
