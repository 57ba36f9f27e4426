//! The embedded log: the suite, torn and damaged files, two processes' handles, a full disk.

use std::{fs, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use nilometer_clock::SystemClock;
use nilometer_contract::Timestamp;
use nilometer_log::{EmbeddedConfig, EmbeddedLog, Fsync, Log, LogError, TopicConfig, Watermarks};

use crate::suite::{self, PATIENCE, at, fetch, make, numbered, read_all};

struct Dir {
    config: EmbeddedConfig,
}

#[async_trait]
impl suite::Factory for Dir {
    fn open(&self) -> Arc<dyn Log> {
        Arc::new(EmbeddedLog::open(self.config.clone(), Arc::new(SystemClock)).unwrap())
    }

    async fn delete_topic(&self, topic: &str) {
        let away = tempfile::tempdir_in(&self.config.dir).unwrap();
        fs::rename(self.config.dir.join(topic), away.path().join(topic)).unwrap();
    }
}

/// Segments so small that every case runs over many.
fn small(dir: &Path) -> EmbeddedConfig {
    EmbeddedConfig { segment_bytes: 2_000, ..EmbeddedConfig::new(dir) }
}

pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all().build().unwrap().block_on(work)
}

#[test]
fn the_suite_in_small_segments() {
    let dir = tempfile::tempdir().unwrap();
    block_on(suite::run(&Dir { config: small(dir.path()) }));
}

#[test]
fn the_suite_in_larger_segments_synced_now_and_then() {
    let dir = tempfile::tempdir().unwrap();
    let fsync = Fsync::Every(Duration::from_millis(20));
    let config = EmbeddedConfig { segment_bytes: 8_000, fsync, ..EmbeddedConfig::new(dir.path()) };
    block_on(suite::run(&Dir { config }));
}

/// One segment with ten records, and another version of `tail` from before the last of them.
async fn ten_records(dir: &Path) -> (fs::File, Vec<u8>, Vec<u8>) {
    let log = EmbeddedLog::open(EmbeddedConfig::new(dir), Arc::new(SystemClock)).unwrap();
    make(&log, "t", 1).await;
    log.append(&at("t", 0), numbered(0..9)).await.unwrap();
    let tail = fs::read(dir.join("t/tails")).unwrap();
    log.append(&at("t", 0), numbered(9..10)).await.unwrap();
    let path = dir.join("t/0/00000000000000000000.log");
    let bytes = fs::read(&path).unwrap();
    (fs::OpenOptions::new().write(true).open(path).unwrap(), bytes, tail)
}

const LAST: usize = 24 + "record 9".len();

#[test]
fn an_end_torn_at_any_byte_is_cut_and_its_offset_given_again() {
    block_on(async {
        for cut in 1..=LAST {
            let dir = tempfile::tempdir().unwrap();
            let (file, bytes, tail) = ten_records(dir.path()).await;
            file.set_len((bytes.len() - cut) as u64).unwrap();
            fs::write(dir.path().join("t/tails"), tail).unwrap();
            let log =
                EmbeddedLog::open(EmbeddedConfig::new(dir.path()), Arc::new(SystemClock)).unwrap();
            let kept = 9;
            let marks = Watermarks { low: 0, high: kept };
            assert_eq!(log.watermarks(&at("t", 0)).await.unwrap(), marks, "readers ignore it");
            assert_eq!(read_all(&log, &at("t", 0), 0).await.len() as u64, kept);
            let again = vec![Bytes::from_static(b"again"), Bytes::from_static(b"and on")];
            assert_eq!(log.append(&at("t", 0), again).await.unwrap(), kept, "cut {cut}");
            let all = read_all(&log, &at("t", 0), 0).await;
            assert_eq!((all.len() as u64, &all[9].payload[..]), (kept + 2, &b"again"[..]));
        }
    });
}

#[test]
fn an_end_torn_by_a_power_loss_is_cut_too() {
    block_on(async {
        for garbage in [vec![0; 100], vec![0xff; 100], numbered(5..9).concat()] {
            let dir = tempfile::tempdir().unwrap();
            let (_, mut bytes, _) = ten_records(dir.path()).await;
            bytes.extend(garbage);
            fs::write(dir.path().join("t/0/00000000000000000000.log"), bytes).unwrap();
            // As after a reboot: nothing that can be understood.
            fs::write(dir.path().join("t/tails"), [0; 32]).unwrap();
            let log =
                EmbeddedLog::open(EmbeddedConfig::new(dir.path()), Arc::new(SystemClock)).unwrap();
            assert_eq!(log.watermarks(&at("t", 0)).await.unwrap().high, 10);
            assert_eq!(read_all(&log, &at("t", 0), 0).await.len(), 10);
            assert_eq!(log.append(&at("t", 0), numbered(10..12)).await.unwrap(), 10);
            assert_eq!(read_all(&log, &at("t", 0), 0).await.len(), 12);
        }
    });
}

#[test]
fn acknowledged_records_that_vanish_are_reported_and_their_offsets_never_reused() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let (file, bytes, _) = ten_records(dir.path()).await;
        file.set_len((bytes.len() - LAST - 3) as u64).unwrap();
        let log =
            EmbeddedLog::open(EmbeddedConfig::new(dir.path()), Arc::new(SystemClock)).unwrap();
        let gone = fetch(&log, &at("t", 0), 8, 100, Duration::ZERO).await;
        assert!(matches!(gone, Err(LogError::Truncated { asked: 8, low: 10, .. })), "{gone:?}");
        assert_eq!(log.append(&at("t", 0), numbered(10..11)).await.unwrap(), 10);
        let gone = fetch(&log, &at("t", 0), 8, 100, Duration::ZERO).await;
        assert!(matches!(gone, Err(LogError::Truncated { asked: 8, low: 10, .. })), "{gone:?}");
        assert_eq!(read_all(&log, &at("t", 0), 10).await.len(), 1);
        let before = fetch(&log, &at("t", 0), 0, 10_000, Duration::ZERO).await.unwrap();
        assert_eq!(before.len(), 8);
    });
}

#[test]
fn every_flipped_byte_is_detected_and_costs_one_record() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let (_, bytes, _) = ten_records(dir.path()).await;
        let path = dir.path().join("t/0/00000000000000000000.log");
        let (start, end) = (8 + 4 * LAST, 8 + 5 * LAST);
        for byte in start..end {
            let mut damaged = bytes.clone();
            damaged[byte] ^= 0x10;
            fs::write(&path, damaged).unwrap();
            let log =
                EmbeddedLog::open(EmbeddedConfig::new(dir.path()), Arc::new(SystemClock)).unwrap();
            let before = fetch(&log, &at("t", 0), 0, 10_000, Duration::ZERO).await.unwrap();
            assert_eq!(before.len(), 4, "byte {byte}");
            let gone = fetch(&log, &at("t", 0), 4, 10_000, Duration::ZERO).await;
            assert!(matches!(gone, Err(LogError::Truncated { asked: 4, low: 5, .. })), "{gone:?}");
            let after = fetch(&log, &at("t", 0), 5, 10_000, Duration::ZERO).await.unwrap();
            assert_eq!((after.len(), &after[0].payload[..]), (5, &b"record 5"[..]));
            let next = fetch(&log, &at("t", 0), 10, 10_000, Duration::ZERO).await.unwrap();
            assert!(next.is_empty());
        }
        let log =
            EmbeddedLog::open(EmbeddedConfig::new(dir.path()), Arc::new(SystemClock)).unwrap();
        assert_eq!(log.append(&at("t", 0), numbered(10..11)).await.unwrap(), 10);
    });
}

#[test]
fn two_handles_take_turns_over_segments_and_truncation() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let open = || EmbeddedLog::open(small(dir.path()), Arc::new(SystemClock)).unwrap();
        let (one, two, reader) = (open(), open(), open());
        make(&one, "t", 1).await;
        let zero = at("t", 0);
        for i in 0..200 {
            let log = if i % 3 == 0 { &one } else { &two };
            assert_eq!(log.append(&zero, numbered(i..i + 1)).await.unwrap(), i);
            let read = fetch(&reader, &zero, i, 1, PATIENCE).await.unwrap();
            assert_eq!(read[0].payload, numbered(i..i + 1)[0]);
            if i % 50 == 49 {
                one.truncate(&zero, i - 10).await.unwrap();
            }
        }
        let low = two.watermarks(&zero).await.unwrap().low;
        assert!(low > 100, "{low}");
        assert_eq!(read_all(&reader, &zero, low).await.len() as u64, 200 - low);
    });
}

#[test]
fn another_handle_sees_new_records_while_it_waits() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let one = EmbeddedLog::open(small(dir.path()), Arc::new(SystemClock)).unwrap();
        let two = EmbeddedLog::open(small(dir.path()), Arc::new(SystemClock)).unwrap();
        make(&one, "t", 1).await;
        let waiting =
            tokio::spawn(async move { fetch(&two, &at("t", 0), 0, 100, PATIENCE).await.unwrap() });
        tokio::task::yield_now().await;
        one.append(&at("t", 0), numbered(0..1)).await.unwrap();
        assert_eq!(waiting.await.unwrap().len(), 1);
    });
}

#[test]
fn retention_and_the_bound_of_the_whole_log_drop_old_segments_only() {
    block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let now = Arc::new(std::sync::atomic::AtomicI64::new(1_000_000));
        let clock = now.clone();
        let clock = Arc::new(move || Timestamp(clock.load(std::sync::atomic::Ordering::Relaxed)));
        let config = EmbeddedConfig { max_total_bytes: 20_000, ..small(dir.path()) };
        let log = EmbeddedLog::open(config, clock).unwrap();
        for name in ["brief", "lasting"] {
            let retention = Duration::from_secs(if name == "brief" { 100 } else { 1_000_000 });
            let topic = TopicConfig { name: name.into(), partitions: 1, retention };
            log.ensure_topic(&topic).await.unwrap();
        }
        let fill = || vec![Bytes::from(vec![7; 300]); 5];
        for _ in 0..5 {
            log.append(&at("brief", 0), fill()).await.unwrap();
        }
        assert_eq!(
            log.watermarks(&at("brief", 0)).await.unwrap().low,
            0,
            "kept at least that long"
        );
        now.fetch_add(101_000_000, std::sync::atomic::Ordering::Relaxed);
        for _ in 0..2 {
            log.append(&at("brief", 0), fill()).await.unwrap();
        }
        assert_eq!(
            log.watermarks(&at("brief", 0)).await.unwrap(),
            Watermarks { low: 20, high: 35 }
        );
        for _ in 0..40 {
            log.append(&at("lasting", 0), fill()).await.unwrap();
        }
        let marks = log.watermarks(&at("lasting", 0)).await.unwrap();
        assert!(marks.low > 100 && marks.low < 200 && marks.high == 200, "{marks:?}");
        assert_eq!(
            log.watermarks(&at("brief", 0)).await.unwrap(),
            Watermarks { low: 30, high: 35 }
        );
    });
}

#[test]
fn a_full_disk_refuses_leaves_no_trace_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=512k", "tmpfs"])
        .arg(dir.path())
        .output();
    if !mounted.is_ok_and(|mounted| mounted.status.success()) {
        return crate::kafka::skipped("a full disk needs the right to mount a tmpfs");
    }
    let filled = std::panic::catch_unwind(|| block_on(fill_the_disk(dir.path())));
    let unmounted = std::process::Command::new("umount").arg(dir.path()).status().unwrap();
    assert!(unmounted.success());
    filled.unwrap();
}

async fn fill_the_disk(dir: &Path) {
    let config = EmbeddedConfig { segment_bytes: 100_000, ..EmbeddedConfig::new(dir) };
    let log = EmbeddedLog::open(config, Arc::new(SystemClock)).unwrap();
    make(&log, "t", 1).await;
    let zero = at("t", 0);
    let batch = vec![Bytes::from(vec![1; 9_000]); 3];
    let mut appended = 0;
    let full = loop {
        match log.append(&zero, batch.clone()).await {
            Ok(first) => assert_eq!(first, appended),
            Err(e) => break e,
        }
        appended += 3;
    };
    assert!(matches!(full, LogError::Unavailable { .. }) && appended > 30, "{full:?} {appended}");
    for _ in 0..3 {
        assert!(log.append(&zero, batch.clone()).await.is_err());
        assert_eq!(log.watermarks(&zero).await.unwrap(), Watermarks { low: 0, high: appended });
    }
    assert_eq!(read_all(&log, &zero, 0).await.len() as u64, appended, "what was there stays");
    log.truncate(&zero, appended - 3).await.unwrap();
    assert_eq!(log.append(&zero, batch).await.unwrap(), appended, "there is room again");
    assert_eq!(read_all(&log, &zero, appended).await.len(), 3);
}
