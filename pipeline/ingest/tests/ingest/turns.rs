//! A repair beside an ingester: what both have, from the log and from an agent that repeats it, is
//! stored once.

use std::time::Duration;

use nilometer_ingest::{IngestConfig, repair};
use nilometer_store::{SAMPLES, SERIES};

use crate::place::{Place, Sample, eventually, hasty, lines, patient};

/// Commits of a sample each, of which the second is lost.
async fn a_commit_lost(place: &Place) -> Vec<Sample<'static>> {
    let sent =
        [("cpu.time", "vm-a", 0, 0.0), ("cpu.time", "vm-a", 1, 1.0), ("cpu.time", "vm-b", 2, 2.0)];
    for sample in sent {
        place.samples(0, &[sample]).await;
        place.ingest(patient()).await;
    }
    let folder = place.tables_folder().join("samples/_delta_log");
    let mut names: Vec<_> =
        std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    names.retain(|path| std::fs::read_to_string(path).unwrap_or_default().contains("\"add\""));
    names.sort();
    std::fs::remove_file(&names[1]).unwrap();
    sent.to_vec()
}

async fn repaired(place: &Place, say: impl FnMut(String)) -> (u64, u64) {
    let log = std::sync::Arc::new(place.log.clone());
    let done = repair(&place.storage(), log, &patient(), say).await.unwrap();
    (done.restored, done.lost)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_in_memory_is_compared_with_what_a_repair_put_back() {
    let place = Place::new();
    let sent = a_commit_lost(&place).await;
    let running = place.start(patient()).await;
    place.samples(0, &[sent[1]]).await;
    running.has_read(1).await;
    assert_eq!(repaired(&place, drop).await, (1, 0));
    running.stop().await.unwrap();
    assert_eq!(place.stored_in("samples").await, lines(&sent));
    assert_eq!(place.missing().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_after_a_repair_is_known() {
    let place = Place::new();
    let sent = a_commit_lost(&place).await;
    let config = IngestConfig { refresh_interval: Duration::from_millis(5), ..hasty() };
    let running = place.start(config).await;
    assert_eq!(repaired(&place, drop).await, (1, 0));
    let seen = async || place.seen(&running.tables, "samples").await;
    eventually("it is seen", async || seen().await == lines(&sent)).await;
    for _ in 0..2 {
        place.samples(0, &[sent[1]]).await;
        eventually("it is stored", async || place.missing().await == 0).await;
    }
    assert_eq!(place.stored_in("samples").await, lines(&sent));
    // Another value is a conflict, as ever.
    place.samples(0, &[("cpu.time", "vm-a", 1, 7.0)]).await;
    eventually("it is a letter", async || place.stored_in("dead_letters").await.len() == 1).await;
    running.stop().await.unwrap();
    assert_eq!(place.stored_in("samples").await, lines(&sent));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_compares_with_what_was_stored_meanwhile() {
    let place = Place::new();
    let sent = a_commit_lost(&place).await;
    let running = place.start(patient()).await;
    place.samples(0, &[sent[1]]).await;
    running.has_read(1).await;
    let mut running = Some(running);
    let found = repaired(&place, |line| {
        if line.starts_with("samples: 0 files to restore") {
            let stop = running.take().unwrap().stop();
            let now = tokio::runtime::Handle::current();
            tokio::task::block_in_place(|| now.block_on(stop)).unwrap();
        }
    });
    assert_eq!(found.await, (0, 0));
    assert_eq!(place.stored_in("samples").await, lines(&sent));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_good_after_all_doubles_nothing() {
    let place = Place::new();
    let sent = [("cpu.time", "vm-a", 0, 0.0), ("cpu.time", "vm-b", 0, 1.0)];
    place.samples(0, &sent).await;
    place.ingest(patient()).await;
    let table = place.storage().table(&SAMPLES).await.unwrap();
    let path = place.tables_folder().join("samples").join(&table.files()[0].path);
    let hidden = path.with_extension("away");
    std::fs::rename(&path, &hidden).unwrap();
    let mut samples = place.storage().table(&SAMPLES).await.unwrap();
    let file = samples.files()[0].clone();
    samples.set_aside(&file).await.unwrap();
    place.samples(0, &sent[..1]).await;
    place.ingest(patient()).await;
    std::fs::rename(&hidden, &path).unwrap();
    repaired(&place, drop).await;
    assert_eq!(place.stored_in("samples").await, lines(&sent));
}

/// A series that is in another file, or that the log tells again, is not lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_series_that_is_known_elsewhere_is_not_lost() {
    let place = Place::new();
    let sent = [("cpu.time", "vm-a", 0, 0.0)];
    place.samples(0, &sent).await;
    place.ingest(patient()).await;
    // The same again in another file, as after a crash.
    let mut series = place.storage().table(&SERIES).await.unwrap();
    let rows = series.read(&series.files()[0]).await.unwrap();
    let again = series.write(&rows, None).await.unwrap();
    series.append(vec![again], &[]).await.unwrap();
    let path = place.tables_folder().join("series").join(&series.files()[0].path);
    std::fs::write(&path, "no Parquet").unwrap();
    assert_eq!(repaired(&place, drop).await, (0, 0));
    std::fs::write(
        place.tables_folder().join("series").join(&series.files()[1].path),
        "no Parquet",
    )
    .unwrap();
    assert_eq!(repaired(&place, drop).await, (1, 0));
}

/// One that starts without a series takes no repeat of its samples for new.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_of_a_series_that_is_damaged_is_known() {
    let place = Place::new();
    let sent = [("cpu.time", "vm-a", 0, 0.0)];
    place.samples(0, &sent).await;
    place.ingest(patient()).await;
    let series = place.storage().table(&SERIES).await.unwrap();
    let path = place.tables_folder().join("series").join(&series.files()[0].path);
    std::fs::write(&path, "no Parquet").unwrap();
    place.samples(0, &sent).await;
    place.ingest(patient()).await;
    assert_eq!(place.stored_in("samples").await, lines(&sent));
}
