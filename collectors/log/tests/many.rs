//! Partitions that nobody uses cost neither files nor threads. In a process of its own, since it
//! counts both.

#![allow(clippy::unwrap_used, reason = "all of it is tests")]

use std::{fs, sync::Arc, time::Duration};

use bytes::Bytes;
use nilometer_clock::SystemClock;
use nilometer_log::{EmbeddedConfig, EmbeddedLog, Fsync, Log, TopicConfig, TopicPartition};

const PARTITIONS: u32 = 1_024;

fn count(what: &str) -> usize {
    fs::read_dir(format!("/proc/self/{what}")).unwrap().count()
}

#[test]
fn a_thousand_partitions_hold_few_files_and_threads() {
    let dir = tempfile::tempdir().unwrap();
    let config = EmbeddedConfig {
        fsync: Fsync::Every(Duration::from_secs(60)),
        ..EmbeddedConfig::new(dir.path())
    };
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all().build().unwrap().block_on(async {
        let log = EmbeddedLog::open(config.clone(), Arc::new(SystemClock)).unwrap();
        let retention = Duration::from_secs(86_400);
        let topic = TopicConfig { name: "t".into(), partitions: PARTITIONS, retention };
        log.ensure_topic(&topic).await.unwrap();
        let at = |partition| TopicPartition { topic: "t".into(), partition };
        let of = log.incarnation(&at(0)).await.unwrap();
        let (files, threads) = (count("fd"), count("task"));
        let waiting = Vec::from_iter((0..PARTITIONS).map(|partition| {
            let (log, from) = (log.clone(), at(partition));
            tokio::spawn(async move {
                let mut read = Vec::new();
                // The first is of this process, the second of another.
                for offset in 0..2 {
                    let patience = Duration::from_secs(60);
                    read.extend(log.fetch(&from, of, offset, 1 << 20, patience).await.unwrap());
                }
                read.into_iter().map(|record| record.payload).collect::<Vec<_>>()
            })
        }));
        let other = EmbeddedLog::open(config, Arc::new(SystemClock)).unwrap();
        let payload = |n: u32| Bytes::from(n.to_string());
        for partition in 0..PARTITIONS {
            assert_eq!(log.append(&at(partition), vec![payload(partition)]).await.unwrap(), 0);
        }
        for partition in 0..PARTITIONS {
            assert_eq!(other.append(&at(partition), vec![payload(partition)]).await.unwrap(), 1);
        }
        for (partition, waiting) in (0..).zip(waiting) {
            assert_eq!(waiting.await.unwrap(), [payload(partition), payload(partition)]);
        }
        let (files, threads) = (count("fd") - files, count("task") - threads);
        assert!(files <= 2 * 128 + 32, "{files} files for {PARTITIONS} partitions");
        assert!(threads <= 64, "{threads} threads for {PARTITIONS} partitions");
    });
}
