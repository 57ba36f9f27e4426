//! Processes that append are killed over and over, at any instruction; nothing that they were
//! told was stored may be missing, doubled or moved.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use nilometer_clock::SystemClock;
use nilometer_log::{EmbeddedConfig, EmbeddedLog, Log};
use proptest::prelude::RngExt;

use crate::suite::{at, make, read_all, rng};

const DIR: &str = "NILOMETER_LOG_CRASH_DIR";
const NAME: &str = "NILOMETER_LOG_CRASH_NAME";

const ROUNDS: u32 = 60;

fn config(dir: &Path) -> EmbeddedConfig {
    EmbeddedConfig { segment_bytes: 20_000, ..EmbeddedConfig::new(dir) }
}

/// Not a test of its own: what the test below starts as other processes. Appends for ever, and
/// tells each record's name and offset once it is acknowledged.
#[test]
fn appending_process() {
    let (Ok(dir), Ok(name)) = (std::env::var(DIR), std::env::var(NAME)) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let log = EmbeddedLog::open(config(Path::new(&dir)), Arc::new(SystemClock)).unwrap();
        let mut out = std::io::stdout();
        for batch in 0_u64.. {
            let names: Vec<String> =
                (0..batch % 7 + 1).map(|i| format!("{name}:{batch}:{i}")).collect();
            let long = |name: &String| {
                Bytes::from(format!("{name} {}", "x".repeat((batch % 900) as usize)))
            };
            let first = log.append(&at("t", 0), names.iter().map(long).collect()).await.unwrap();
            let told: String = names
                .iter()
                .zip(first..)
                .map(|(name, at)| format!("stored {name} {at}\n"))
                .collect();
            out.write_all(told.as_bytes()).unwrap();
            out.flush().unwrap();
        }
    });
}

fn start(dir: &Path, name: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["crash::appending_process", "--exact", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .env(NAME, name)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Lets it store a few records, then for a while, then kills it; returns what it was told.
fn kill_after(mut child: Child, lines: usize, micros: u64) -> Vec<(String, u64)> {
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut told = Vec::new();
    let mut note = |line: String| {
        // A line torn by the kill has no number or a shorter one: only whole ones count.
        let Some(stored) = line.strip_prefix("stored ") else { return };
        let (name, offset) = stored.split_once(' ').unwrap_or((stored, ""));
        if let Ok(offset) = offset.parse() {
            told.push((name.to_owned(), offset));
        }
    };
    for line in out.by_ref().map_while(Result::ok).filter(|l| l.starts_with("stored")).take(lines) {
        note(line);
    }
    std::thread::sleep(Duration::from_micros(micros));
    child.kill().unwrap();
    child.wait().unwrap();
    let mut rest: Vec<String> = out.map_while(Result::ok).collect();
    // Whether the last line ended cannot be told any more.
    rest.pop();
    rest.into_iter().for_each(note);
    told
}

#[test]
fn nothing_acknowledged_is_lost_or_doubled_by_kills() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let log = EmbeddedLog::open(config(dir.path()), Arc::new(SystemClock)).unwrap();
    runtime.block_on(make(&log, "t", 1));
    let mut rng = rng(3);
    let mut told = BTreeMap::new();
    for round in 0..ROUNDS {
        // Two at a time append to the same partition; they die at different times.
        let children: Vec<_> = (0..2)
            .map(|i| {
                let child = start(dir.path(), &format!("{round}.{i}"));
                let (lines, micros) = (rng.random_range(1..40), rng.random_range(0..3_000));
                std::thread::spawn(move || kill_after(child, lines, micros))
            })
            .collect();
        for child in children {
            told.extend(child.join().unwrap());
        }
    }
    assert!(told.len() > ROUNDS as usize, "the children stored {}", told.len());
    let end = runtime.block_on(log.append(&at("t", 0), vec![Bytes::from_static(b"end ")])).unwrap();
    let records = runtime.block_on(read_all(&log, &at("t", 0), 0));
    assert_eq!(records.len() as u64, end + 1, "dense from first to last");
    let mut found = BTreeMap::new();
    for record in &records {
        let text = std::str::from_utf8(&record.payload).unwrap();
        let (name, filling) = text.split_once(' ').unwrap();
        assert!(filling.bytes().all(|b| b == b'x'));
        assert_eq!(found.insert(name, record.offset), None, "{name} twice");
    }
    for (name, offset) in &told {
        assert_eq!(found.get(name.as_str()), Some(offset), "{name} was acknowledged");
    }
    assert!(found.len() > told.len() / 2);
}
