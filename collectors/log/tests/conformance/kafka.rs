//! The suite against a real Apache Kafka, and its death in the middle of work.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use nilometer_log::{KafkaConfig, KafkaLog, Log, LogError, Sasl, Secret, Security, Tls};
use nilometer_testbed::kafka::{Kafka, KafkaTls};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};

use crate::suite::{self, PATIENCE, at, fetch, make, numbered, read_all};

/// Tells visibly that a test could not run here; fails where the machine is meant to be able to.
pub(crate) fn skipped(why: &str) {
    use std::io::Write;
    let required = std::env::var("NILOMETER_TESTBED").is_ok_and(|v| v == "required");
    assert!(!required, "the test bed is required: {why}");
    // Past the test harness's capture.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

struct Cluster {
    config: KafkaConfig,
}

#[async_trait]
impl suite::Factory for Cluster {
    fn open(&self) -> Arc<dyn Log> {
        Arc::new(KafkaLog::connect(self.config.clone()).unwrap())
    }

    async fn delete_topic(&self, topic: &str) {
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &self.config.bootstrap).create().unwrap();
        let options = AdminOptions::new().operation_timeout(Some(PATIENCE));
        for deleted in admin.delete_topics(&[topic], &options).await.unwrap() {
            deleted.unwrap();
        }
    }
}

fn secure(tls: &KafkaTls, password: &str) -> KafkaConfig {
    let sasl = Sasl {
        mechanism: "PLAIN".into(),
        username: tls.username.clone(),
        password: Secret(password.into()),
    };
    let tls_files = Tls { ca_file: Some(tls.ca_file.clone()), ..Tls::default() };
    let security = Security { tls: Some(tls_files), sasl: Some(sasl) };
    KafkaConfig { security, ..KafkaConfig::new(tls.bootstrap.clone()) }
}

/// One broker for all of it: it takes seconds to start.
#[test]
fn apache_kafka() {
    let dir = tempfile::tempdir().unwrap();
    let Some(mut kafka) = Kafka::start(dir.path()).unwrap() else { return };
    a_waiting_fetch_sleeps(&kafka);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        suite::run(&Cluster { config: KafkaConfig::new(kafka.bootstrap()) }).await;
        tls_with_credentials(&kafka.tls()).await;
        nothing_acknowledged_is_lost_by_killing_the_broker(&mut kafka).await;
    });
}

/// It wakes up when there are records, and does not look for them meanwhile.
fn a_waiting_fetch_sleeps(kafka: &Kafka) {
    let wait = Duration::from_secs(4);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let log = KafkaLog::connect(KafkaConfig::new(kafka.bootstrap())).unwrap();
        make(&log, "idle", 1).await;
        assert!(fetch(&log, &at("idle", 0), 0, 1, Duration::ZERO).await.unwrap().is_empty());
        let metrics = tokio::runtime::Handle::current().metrics();
        let before = metrics.worker_park_count(0);
        assert!(fetch(&log, &at("idle", 0), 0, 1, wait).await.unwrap().is_empty());
        let woken = metrics.worker_park_count(0) - before;
        assert!(woken < 20, "woken {woken} times in {wait:?}");
    });
}

async fn tls_with_credentials(tls: &KafkaTls) {
    let log = KafkaLog::connect(secure(tls, &tls.password)).unwrap();
    make(&log, "secure", 1).await;
    assert_eq!(log.append(&at("secure", 0), numbered(0..5)).await.unwrap(), 0);
    assert_eq!(read_all(&log, &at("secure", 0), 0).await.len(), 5);

    let mut wrong = secure(tls, "wrong");
    wrong.timeout_ms = 3_000;
    let refused = KafkaLog::connect(wrong).unwrap().watermarks(&at("secure", 0)).await;
    assert!(matches!(refused, Err(LogError::Invalid(_))), "{refused:?}");

    let mut untrusted = secure(tls, &tls.password);
    untrusted.timeout_ms = 3_000;
    untrusted.security.tls = Some(Tls::default());
    let refused = KafkaLog::connect(untrusted).unwrap().watermarks(&at("secure", 0)).await;
    assert!(matches!(refused, Err(LogError::Unavailable { .. })), "{refused:?}");

    let mut unreadable = secure(tls, &tls.password);
    unreadable.security.tls = Some(Tls { ca_file: Some("/no/such".into()), ..Tls::default() });
    assert!(matches!(KafkaLog::connect(unreadable), Err(LogError::Invalid(_))));
}

async fn nothing_acknowledged_is_lost_by_killing_the_broker(kafka: &mut Kafka) {
    let config = KafkaConfig { timeout_ms: 1_500, ..KafkaConfig::new(kafka.bootstrap()) };
    let log = Arc::new(KafkaLog::connect(config).unwrap());
    make(&*log, "killed", 1).await;
    let zero = at("killed", 0);
    let mut told = Vec::new();
    for round in 0..2 {
        // Appends go on while the broker dies under them.
        let (appender, to) = (log.clone(), zero.clone());
        let appending = tokio::spawn(async move {
            let mut told = Vec::new();
            for i in 0.. {
                let payload = Bytes::from(format!("{round}:{i}"));
                match appender.append(&to, vec![payload.clone()]).await {
                    Ok(offset) => told.push((offset, payload)),
                    Err(e) => return (told, e),
                }
            }
            unreachable!("invariant: it appends until it fails")
        });
        tokio::time::timeout(PATIENCE, async {
            while log.watermarks(&zero).await.unwrap().high < (round + 1) * 50 {}
        })
        .await
        .unwrap();
        kafka.kill().unwrap();
        let asked = Instant::now();
        let (more, failed) = appending.await.unwrap();
        assert!(matches!(failed, LogError::Unavailable { .. }), "{failed:?}");
        told.extend(more);
        for unavailable in [
            log.append(&zero, numbered(0..1)).await.map(|_| ()),
            fetch(&*log, &zero, told.len() as u64, 1, Duration::ZERO).await.map(|_| ()),
            log.watermarks(&zero).await.map(|_| ()),
            log.truncate(&zero, 1).await,
        ] {
            assert!(matches!(unavailable, Err(LogError::Unavailable { .. })), "{unavailable:?}");
        }
        assert!(asked.elapsed() < PATIENCE, "bounded: {:?}", asked.elapsed());
        kafka.restart().unwrap();
        let started = Instant::now();
        while log.append(&zero, vec![Bytes::from_static(b"back")]).await.is_err() {
            assert!(started.elapsed() < PATIENCE, "the log does not come back");
        }
    }
    let records = read_all(&*log, &zero, 0).await;
    assert!(told.len() > 50, "{}", told.len());
    for (offset, payload) in told {
        assert_eq!(records[offset as usize].payload, payload, "acknowledged at {offset}");
    }
}
