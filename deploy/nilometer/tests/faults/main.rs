//! What goes wrong around `nilometer up`: a message that is none, a broker that is away for a
//! minute, a full disk, a clock that jumps. Nothing is lost, and each is seen in `/metrics` and in
//! a table.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "../shared/oracle.rs"]
mod oracle;
#[path = "../shared/process.rs"]
mod process;

use std::time::Duration;

use nilometer_contract::{EVENTS, SAMPLES};
use nilometer_log::{KafkaConfig, KafkaLog, Log, TopicPartition};
use nilometer_testbed::clock::JumpingClock;
use nilometer_testbed::disk::SmallDisk;
use nilometer_testbed::kafka::Kafka;

use crate::oracle::Oracle;
use crate::process::{Server, Settings};

const PATIENCE: Duration = Duration::from_secs(60);
/// For what takes a minute of its own.
const MINUTES: Duration = Duration::from_secs(300);
/// Observations of a minute, as the oracle's configuration has it.
const OF_A_MINUTE: f64 = 300.0;
/// Commits that are tried every second until one that fails is told as late, and some more.
const LATE_TRIES: f64 = 13.0;

/// Waits until a metric is at least so much, and returns it.
async fn at_least(server: &Server, metric: &str, wanted: f64) -> f64 {
    at_least_within(PATIENCE, server, metric, wanted).await
}

/// Waits until a metric has grown by so much.
async fn grows(server: &Server, metric: &str, by: f64) {
    let before = server.metric(metric).await.unwrap().unwrap_or(0.0);
    at_least_within(MINUTES, server, metric, before + by).await;
}

async fn at_least_within(patience: Duration, server: &Server, metric: &str, wanted: f64) -> f64 {
    let asking = async {
        loop {
            match server.metric(metric).await.unwrap() {
                Some(value) if value >= wanted => return value,
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    };
    let found = tokio::time::timeout(patience, asking).await;
    found.unwrap_or_else(|_| panic!("{metric} never was {wanted} in {patience:?}"))
}

async fn becomes_ready(server: &Server) {
    let asking = async {
        while server.get("/readyz", "text/plain").await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, asking).await.is_ok(), "never became ready");
}

/// The only row of an answer.
async fn row(server: &Server, sql: &str) -> String {
    let answer = server.sql(sql).await.unwrap();
    answer.lines().nth(1).unwrap_or_default().to_owned()
}

/// Waits until the only row of the answer is this one.
async fn becomes(server: &Server, sql: &str, wanted: &str) {
    let mut found = String::new();
    let asking = async {
        while found != wanted {
            found = row(server, sql).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, asking).await.is_err() {
        panic!("{sql} never was {wanted}, but {found}");
    }
}

/// Everything is there once, and nothing is said to be lost.
async fn nothing_is_lost(server: &Server, oracle: &Oracle) {
    oracle.settle(server).await;
    let verdict = oracle.compare(server).await.unwrap();
    assert_eq!((verdict.lost, verdict.doubled), (0, 0), "of {} samples", verdict.samples);
    oracle.compare_bills(server).await.unwrap();
    assert_eq!(row(server, "SELECT count(*) FROM gaps WHERE kind = 'lost'").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poisoned_message_and_a_broker_away_for_a_minute() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut kafka) = Kafka::start(&folder.path().join("kafka")).unwrap() else { return };
    let oracle = Oracle::new(7, 100).unwrap();
    let text = oracle.configuration(&kafka.bootstrap()).unwrap();
    let settings = Settings::write(folder.path(), &text).unwrap();
    let mut server = Server::start(&settings, "up").unwrap();
    at_least(&server, "nilometer_ingest_samples_total", 1.0).await;

    let log = KafkaLog::connect(KafkaConfig::new(kafka.bootstrap())).unwrap();
    for topic in [SAMPLES, EVENTS] {
        let to = TopicPartition { topic: topic.to_owned(), partition: 0 };
        log.append(&to, vec!["poison".into()]).await.unwrap();
    }
    at_least(&server, "nilometer_ingest_dead_letters_total", 2.0).await;
    let letters = "SELECT count(*) FROM dead_letters WHERE payload = CAST('poison' AS BYTEA)";
    becomes(&server, letters, "2").await;

    kafka.kill().unwrap();
    at_least(&server, "nilometer_agent_append_errors_total", 1.0).await;
    assert_eq!(server.metric("nilometer_agent_log_up").await.unwrap(), Some(0.0));
    assert!(server.get("/readyz", "text/plain").await.is_err());
    grows(&server, "nilometer_agent_observe_seconds_count", OF_A_MINUTE).await;
    kafka.restart().unwrap();
    at_least(&server, "nilometer_agent_log_up", 1.0).await;
    becomes_ready(&server).await;
    let late = "SELECT count(*) FROM gaps WHERE kind = 'late' AND of_topic = 'nilometer.samples' AND \
                reason LIKE 'the log was away%' AND \"end\" - start > INTERVAL '50 seconds'";
    becomes(&server, late, "1").await;

    nothing_is_lost(&server, &oracle).await;
    server.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let Some(disk) = SmallDisk::mount(&data, 192).unwrap() else { return };
    let oracle = Oracle::new(8, 45).unwrap();
    let text = oracle.configuration("").unwrap();
    let settings = Settings::write(folder.path(), &text).unwrap();
    let mut server = Server::start(&settings, "up").unwrap();
    at_least(&server, "nilometer_ingest_commits_total", 1.0).await;

    disk.fill().unwrap();
    at_least(&server, "nilometer_ingest_commit_failures_total", 1.0).await;
    at_least(&server, "nilometer_agent_append_errors_total", 1.0).await;
    grows(&server, "nilometer_ingest_commit_failures_total", LATE_TRIES).await;
    // It says so, and answers questions meanwhile.
    assert!(server.get("/readyz", "text/plain").await.is_err());
    assert_ne!(row(&server, "SELECT count(*) FROM samples").await, "0");
    disk.free().unwrap();
    becomes_ready(&server).await;

    for reason in ["the log was away%", "commits failed%No space left%"] {
        let late = format!(
            "SELECT CAST(count(*) > 0 AS TEXT) FROM gaps WHERE kind = 'late' AND \
             reason LIKE '{reason}'"
        );
        becomes(&server, &late, "true").await;
    }
    nothing_is_lost(&server, &oracle).await;
    server.stop().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps() {
    let folder = tempfile::tempdir().unwrap();
    let Some(clock) = JumpingClock::new(folder.path()).unwrap() else { return };
    let text = "[collect]\ninterval = \"500ms\"\nsources = [\"host\"]\n";
    let settings = Settings::write(folder.path(), text).unwrap();
    let settings = settings.with_environment(clock.environment());
    let mut server = Server::start(&settings, "up").unwrap();
    at_least(&server, "nilometer_ingest_samples_total", 1.0).await;

    clock.set(7_200).unwrap();
    at_least(&server, "nilometer_agent_clock_jumps_total", 1.0).await;
    let ahead = server.metric("nilometer_agent_samples_total").await.unwrap().unwrap();
    at_least(&server, "nilometer_agent_samples_total", ahead + 1.0).await;
    clock.set(0).unwrap();
    at_least(&server, "nilometer_agent_clock_jumps_total", 2.0).await;
    let back = server.metric("nilometer_agent_samples_total").await.unwrap().unwrap();
    let taken = at_least(&server, "nilometer_agent_samples_total", back + 1.0).await;

    at_least(&server, "nilometer_ingest_samples_total", taken).await;
    let stored = format!("SELECT CAST(count(*) >= {taken} AS TEXT) FROM samples");
    becomes(&server, &stored, "true").await;
    let jumps = "SELECT count(*) FROM gaps WHERE kind = 'unobserved' AND \
                 reason = 'the clock was stepped' AND \"end\" - start > INTERVAL '1 hour'";
    becomes(&server, jumps, "2").await;
    let dead = "SELECT count(*) FROM dead_letters";
    assert_eq!(row(&server, dead).await, "0");
    server.stop().unwrap();
}
