//! Readers beside an ingester: files and log are one, whoever is ahead.

use std::collections::BTreeSet;
use std::time::Duration;

use nilometer_contract::{Change, SAMPLES, partition_of};
use nilometer_ingest::{Follower, IngestError, Tables};
use nilometer_log::{Log, TopicPartition};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::place::{PARTITIONS, Place, Sample, event, eventually, gap, hasty, lines, patient};

const A: (&str, &str, i64, f64) = ("cpu.time", "vm-a", 10, 1.5);
const B: (&str, &str, i64, f64) = ("cpu.time", "vm-b", 20, 2.5);
const C: (&str, &str, i64, f64) = ("cpu.time", "vm-a", 30, 3.5);
const ALL: [&str; 4] = ["samples", "events", "dead_letters", "gaps"];

/// Forty rounds of one sample, one event and one bad record; the samples.
pub(crate) async fn busy(place: &Place) -> Vec<Sample<'static>> {
    let mut samples = Vec::new();
    for n in 0..40 {
        let sample = ("cpu.time", if n % 2 == 0 { "vm-a" } else { "vm-b" }, n, n as f64);
        place.samples((n % 2) as u32, &[sample]).await;
        place.append(SAMPLES, 0, "garbage").await;
        place.event(0, &event(Change::Created, &format!("vm-{n}"), n)).await;
        samples.push(sample);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    samples
}

struct Following {
    tables: Tables,
    cancel: CancellationToken,
    task: JoinHandle<Result<(), IngestError>>,
}

fn follow(follower: Follower) -> Following {
    let (tables, cancel) = (follower.tables(), CancellationToken::new());
    let task = tokio::spawn(follower.run(cancel.clone()));
    Following { tables, cancel, task }
}

impl Following {
    async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_has_stored_yet_is_seen() {
    let place = Place::new();
    let following = follow(place.follower().await);
    place.samples(0, &[A, C]).await;
    place.append("nilometer.samples", 0, "nothing").await;
    place.append("nilometer.gaps", 0, gap("lost").encode().unwrap()).await;
    eventually("the samples are seen", async || {
        place.seen(&following.tables, "samples").await == lines(&[A, C])
    })
    .await;
    eventually("the rest is", async || {
        place.seen(&following.tables, "dead_letters").await.len() == 1
            && place.seen(&following.tables, "gaps").await.len() == 1
    })
    .await;
    assert!(place.stored().await.is_empty());
    following.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_every_moment_each_row_is_there_once() {
    let place = Place::new();
    place.create_topics().await;
    let running = place.start(hasty()).await;
    let following = follow(place.follower().await);
    let filling = async {
        let samples = busy(&place).await;
        eventually("all is stored", async || place.missing().await == 0).await;
        samples
    };
    let watching = async {
        let mut known = BTreeSet::new();
        loop {
            for table in ALL {
                let seen = place.seen(&following.tables, table).await;
                let once: BTreeSet<String> = seen.iter().cloned().collect();
                assert_eq!(once.len(), seen.len(), "a row is there twice: {seen:?}");
                let before = known.iter().filter(|line: &&String| line.starts_with(table));
                assert!(before.into_iter().all(|line| once.contains(line)), "a row went");
                known.extend(once);
            }
            tokio::task::yield_now().await;
        }
    };
    let samples = tokio::select! {
        samples = filling => samples,
        () = watching => unreachable!("it watches until all is stored"),
    };
    eventually("all is in files, and the memory is empty again", async || {
        let view = following.tables.now();
        let is_empty = ALL.iter().all(|name| view.tables[name].memory.is_empty());
        is_empty && view.tables["samples"].files.rows() == samples.len() as u64
    })
    .await;
    assert_eq!(place.seen(&following.tables, "samples").await, lines(&samples));
    for table in ["events", "dead_letters"] {
        assert_eq!(place.seen(&following.tables, table).await, place.stored_in(table).await);
    }
    following.stop().await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_behind_sees_nothing_twice() {
    let place = Place::new();
    place.create_topics().await;
    let follower = place.follower().await;
    place.samples(0, &[A, B]).await;
    place.ingest(patient()).await;
    // It reads from before what is stored now; what comes is stored already, but for the last.
    place.samples(0, &[B, A, C]).await;
    let following = follow(follower);
    eventually("the last is seen", async || {
        place.seen(&following.tables, "samples").await == lines(&[A, B, C])
    })
    .await;
    place.ingest(patient()).await;
    eventually("it is in a file", async || {
        following.tables.now().tables["samples"].memory.is_empty()
    })
    .await;
    assert_eq!(place.seen(&following.tables, "samples").await, lines(&[A, B, C]));
    following.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_missed_is_not_lost_if_the_owner_has_it() {
    let place = Place::new();
    place.create_topics().await;
    let follower = place.follower().await;
    let running = place.start(patient()).await;
    let partition = partition_of("vm-a", PARTITIONS);
    place.samples(partition, &[A, C]).await;
    place.append(SAMPLES, partition, "nothing").await;
    running.has_read(2).await;
    let at = TopicPartition { topic: SAMPLES.to_owned(), partition };
    place.log.truncate(&at, 2).await.unwrap();
    let following = follow(follower);
    let known = |tables: &Tables| {
        let gaps = tables.shared.gaps.read().unwrap();
        gaps.of("vm-a", ["n"].into_iter(), (0, i64::MAX)).len()
    };
    // As long as the owner has not stored them they would be lost with it.
    eventually("it misses them", async || {
        place.seen(&following.tables, "gaps").await.len() == 1 && known(&following.tables) == 1
    })
    .await;
    running.stop().await.unwrap();
    eventually("they are there", async || {
        place.seen(&following.tables, "samples").await == lines(&[A, C])
    })
    .await;
    assert_eq!(place.seen(&following.tables, "gaps").await, place.stored_in("gaps").await);
    assert_eq!((known(&following.tables), place.stored_in("gaps").await.len()), (0, 0));
    assert_eq!(place.seen(&following.tables, "dead_letters").await.len(), 1);
    following.stop().await;
}
