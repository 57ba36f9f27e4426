//! A log that is replaced, or loses its end: what it has is stored, what is gone is told.

use std::fs;
use std::path::Path;

use arrow::array::AsArray;
use arrow::datatypes::TimestampMicrosecondType;
use nilometer_contract::{Change, GAPS, SAMPLES};
use nilometer_ingest::{Follower, Tables};
use nilometer_log::{Log, TopicPartition};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::faults::{Death, Faults};
use crate::lost::damage;
use crate::place::{
    PARTITIONS, Place, Running, Sample, T0, event, eventually, gap, hasty, line, patient,
};

/// Samples of many identities, a record for each of `records`.
async fn fill(place: &Place, name: &str, records: i64, each: i64) -> Vec<String> {
    let mut stored = Vec::new();
    for record in 0..records {
        let names: Vec<String> = (0..each).map(|i| format!("{name}-{record}-{i}")).collect();
        let samples: Vec<Sample<'_>> =
            names.iter().map(|name| ("cpu.time", name.as_str(), record, 1.0)).collect();
        let partition = record as u32 % PARTITIONS;
        place.samples(partition, &samples).await;
        stored.extend(samples.iter().map(|sample| line(*sample)));
    }
    stored
}

/// Deletes every topic behind the back of all that have it open.
pub(crate) fn delete_log(place: &Place) {
    let away = tempfile::tempdir_in(place.log_folder().parent().unwrap()).unwrap();
    fs::rename(place.log_folder(), away.path().join("log")).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (entry, to) = (entry.as_ref().unwrap(), to.join(entry.as_ref().unwrap().file_name()));
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

fn sorted(lines: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut lines: Vec<String> = lines.into_iter().collect();
    lines.sort();
    lines
}

/// How many gaps say so, of how many.
async fn gaps_saying(place: &Place, what: &str) -> (usize, usize) {
    let gaps = place.stored_in("gaps").await;
    (gaps.iter().filter(|gap| gap.contains(what)).count(), gaps.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_log_is_stored_from_its_beginning_and_a_gap_tells_of_it() {
    let place = Place::new();
    let before = fill(&place, "old", 50, 50).await;
    place.ingest(patient()).await;
    delete_log(&place);
    let after = fill(&place, "new", 110, 46).await;
    assert_eq!(after.len(), 5_060);
    place.ingest(patient()).await;
    assert_eq!(place.stored_in("samples").await, sorted([before, after].concat()));
    assert_eq!(
        gaps_saying(&place, "0 the log was replaced: 25 records were read of").await,
        (2, 7)
    );
    // It goes on there, and is not told of again.
    let more = fill(&place, "more", 2, 1).await;
    place.ingest(patient()).await;
    assert_eq!(gaps_saying(&place, "the log was replaced").await, (7, 7));
    assert_eq!(place.stored_in("samples").await.len(), 2_500 + 5_060 + more.len());
}

async fn is_stored(running: &Running, place: &Place, lines: &[String]) {
    eventually("all is stored", async || {
        assert!(!running.task.is_finished(), "the ingester works");
        place.stored_in("samples").await == lines
    })
    .await;
}

struct Following {
    tables: Tables,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

fn follow(follower: Follower) -> Following {
    let (tables, cancel) = (follower.tables(), CancellationToken::new());
    let running = follower.run(cancel.clone());
    Following { tables, cancel, task: tokio::spawn(async move { running.await.unwrap() }) }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_noticed_by_an_ingester_and_a_follower_at_work() {
    let place = Place::new();
    let before = fill(&place, "old", 20, 5).await;
    let running = place.start(hasty()).await;
    let following = follow(place.follower().await);
    is_stored(&running, &place, &sorted(before.clone())).await;
    delete_log(&place);
    let all = sorted([before, fill(&place, "new", 30, 5).await].concat());
    is_stored(&running, &place, &all).await;
    eventually("the follower sees it, each row once", async || {
        place.seen(&following.tables, "samples").await == all
            && following.tables.now().tables["samples"].memory.is_empty()
    })
    .await;
    eventually("the gaps are stored", async || {
        // Of topics that nothing was read of, too: what they had is not known.
        gaps_saying(&place, "the log was replaced").await == (7, 7)
    })
    .await;
    following.cancel.cancel();
    following.task.await.unwrap();
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_lost_its_end_is_read_again_and_nothing_is_doubled() {
    let place = Place::new();
    let kept = fill(&place, "kept", 10, 3).await;
    place.event(0, &event(Change::Created, "vm-kept", 1)).await;
    let backup = tempfile::tempdir().unwrap();
    copy(&place.log_folder(), backup.path());
    let lost = fill(&place, "lost", 10, 3).await;
    place.ingest(patient()).await;
    // Restored, and grown past where it was, or not that far.
    for (grown, name) in [(16, "grown"), (4, "short")] {
        delete_log(&place);
        copy(backup.path(), &place.log_folder());
        let before = place.stored_in("samples").await;
        let (gaps, _) = gaps_saying(&place, "lost records from its end").await;
        let new = fill(&place, name, grown, 3).await;
        let running = place.start(hasty()).await;
        is_stored(&running, &place, &sorted([before, new].concat())).await;
        eventually("it is told", async || {
            gaps_saying(&place, "lost records from its end").await.0 == gaps + 2
        })
        .await;
        running.stop().await.unwrap();
    }
    assert_eq!(place.stored_in("samples").await.len(), kept.len() + lost.len() + 60);
    assert_eq!(place.stored_in("events").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_comes_back_goes_on_where_it_was() {
    let place = Place::new();
    let first = fill(&place, "first", 4, 1).await;
    place.ingest(patient()).await;
    let away = tempfile::tempdir().unwrap();
    copy(&place.log_folder(), away.path());
    delete_log(&place);
    let second = fill(&place, "second", 6, 1).await;
    place.ingest(patient()).await;
    delete_log(&place);
    copy(away.path(), &place.log_folder());
    let third = fill(&place, "third", 2, 1).await;
    let metrics = place.ingest(patient()).await;
    assert_eq!(metrics.samples.get(), 2, "only what is new is read");
    assert_eq!(place.stored_in("samples").await, sorted([first, second, third].concat()));
    assert_eq!(gaps_saying(&place, "the log was replaced").await, (9, 9));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_write_tells_it_once() {
    for put in 0.. {
        let mut deaths = 0;
        for how in [Death::Before, Death::After] {
            let place = Place::new();
            let before = fill(&place, "old", 4, 1).await;
            place.append(GAPS, 0, gap("old").encode().unwrap()).await;
            place.ingest(patient()).await;
            delete_log(&place);
            let after = fill(&place, "new", 6, 1).await;
            place.append(GAPS, 0, gap("new").encode().unwrap()).await;
            let records = place.missing().await;
            let faults = Faults::dying_at(put, how);
            let storage = place.storage().through(|store| faults.over(store));
            if let Ok(running) = place.try_start(hasty(), storage).await {
                eventually("it dies or has read all", async || {
                    faults.is_dead() || running.read() >= records
                })
                .await;
                running.ask_to_stop();
                eventually("it ends", async || faults.is_dead() || running.task.is_finished())
                    .await;
                running.kill().await;
            }
            deaths += u32::from(faults.is_dead());
            place.ingest(patient()).await;
            assert_eq!(place.stored_in("samples").await, sorted([before, after].concat()));
            let gaps = gaps_saying(&place, "the log was replaced").await;
            assert_eq!(gaps, (7, 9), "death at write {put}, {how:?}");
        }
        if deaths == 0 {
            assert!(put > 8, "{put}");
            return;
        }
    }
}

/// Starts and ends of the gaps, in seconds of the log's clock.
pub(crate) async fn spans(place: &Place) -> Vec<(i64, i64)> {
    let table = place.storage().table(&nilometer_ingest::GAPS).await.unwrap();
    let mut spans = Vec::new();
    for file in table.files().iter() {
        for rows in table.read(file).await.unwrap() {
            let seconds = |name: &str| {
                let column = rows.column_by_name(name).unwrap();
                let micros = column.as_primitive::<TimestampMicrosecondType>().values().to_vec();
                micros.into_iter().map(|at| at / 1_000_000 - T0).collect::<Vec<i64>>()
            };
            spans.extend(seconds("start").into_iter().zip(seconds("end")));
        }
    }
    spans.sort_unstable();
    spans
}

/// The records on both sides of a damaged one say where its gap begins and ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_is_a_gap_between_its_neighbours() {
    let place = Place::new();
    for second in [10, 20, 30] {
        place.at(second);
        place.samples(0, &[("cpu.time", "vm", second, 1.0)]).await;
    }
    damage(&place, SAMPLES, 1);
    let running = place.start(patient()).await;
    running.has_read(2).await;
    running.stop().await.unwrap();
    assert_eq!(spans(&place).await, [(10, 30)]);
    assert_eq!(place.stored_in("samples").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_begins_at_the_last_record_that_is_stored() {
    let sample = |second| ("cpu.time", "vm", second, 1.0);
    let (mut deaths, mut losses) = (0, 0);
    for put in 0.. {
        let place = Place::new();
        place.samples(0, &[sample(0)]).await;
        place.ingest(patient()).await;
        let faults = Faults::default();
        let storage = place.storage().through(|store| faults.over(store));
        let running = place.start_on(patient(), storage).await;
        for second in [10, 20] {
            place.at(second);
            place.samples(0, &[sample(second)]).await;
        }
        // In memory alone.
        running.has_read(2).await;
        faults.die_after(put);
        delete_log(&place);
        place.at(30);
        place.samples(0, &[sample(30)]).await;
        eventually("it dies or has read all", async || faults.is_dead() || running.read() >= 3)
            .await;
        running.ask_to_stop();
        eventually("it ends", async || faults.is_dead() || running.task.is_finished()).await;
        running.kill().await;
        place.ingest(patient()).await;
        let samples = place.stored_in("samples").await;
        let is_lost = samples == sorted([0, 30].map(|second| line(sample(second))));
        let all = sorted([0, 10, 20, 30].map(|second| line(sample(second))));
        assert!(is_lost || samples == all, "{samples:?}");
        let gap = (if is_lost { 0 } else { 20 }, 30);
        assert!(spans(&place).await.contains(&gap), "death at write {put}, lost: {is_lost}");
        losses += u32::from(is_lost);
        deaths += u32::from(faults.is_dead());
        if !faults.is_dead() {
            break;
        }
    }
    assert!(losses > 0 && deaths > losses, "{losses} of {deaths}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_begins_and_ends_by_the_clock_of_the_log() {
    let place = Place::new();
    place.samples(0, &[("cpu.time", "vm", 1, 1.0)]).await;
    place.ingest(patient()).await;
    delete_log(&place);
    place.at(30);
    place.samples(0, &[("cpu.time", "vm", 2, 1.0)]).await;
    place.ingest(patient()).await;
    // Of a partition that has no record since, by the clock of the ingester.
    assert!(spans(&place).await.contains(&(0, 30)), "{:?}", spans(&place).await);
    let at = TopicPartition { topic: SAMPLES.to_owned(), partition: 0 };
    place.at(40);
    place.samples(0, &[("cpu.time", "vm", 3, 1.0)]).await;
    place.log.truncate(&at, 2).await.unwrap();
    place.at(50);
    place.samples(0, &[("cpu.time", "vm", 4, 1.0)]).await;
    place.ingest(patient()).await;
    assert!(spans(&place).await.contains(&(30, 50)), "{:?}", spans(&place).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_replaced_before_anything_is_stored_is_missed() {
    let place = Place::new();
    fill(&place, "old", 4, 1).await;
    let running = place.start(patient()).await;
    running.has_read(4).await;
    running.kill().await;
    delete_log(&place);
    let after = fill(&place, "new", 2, 1).await;
    place.ingest(patient()).await;
    assert_eq!(place.stored_in("samples").await, sorted(after));
    assert_eq!(gaps_saying(&place, "replaced: 0 records were read of").await, (7, 7));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_partition_that_is_lost_is_a_log_of_its_own() {
    let place = Place::new();
    let before = fill(&place, "old", 6, 2).await;
    place.ingest(patient()).await;
    fs::remove_dir_all(place.log_folder().join(SAMPLES).join("1")).unwrap();
    let other = TopicPartition { topic: SAMPLES.to_owned(), partition: 0 };
    let kept = place.log.incarnation(&other).await.unwrap();
    let after = fill(&place, "new", 10, 2).await;
    assert_eq!(place.log.incarnation(&other).await.unwrap(), kept);
    place.ingest(patient()).await;
    assert_eq!(place.stored_in("samples").await, sorted([before, after].concat()));
    assert_eq!(gaps_saying(&place, "samples 1 0 the log was replaced").await, (1, 1));
}
