//! The start of metering: stored once, and moved by no sample.

use nilometer_contract::Timestamp;
use nilometer_ingest::COMMITS;
use nilometer_ingest::{IngestConfig, Tables};
use nilometer_store::SAMPLES;

use crate::place::{Place, Sample, T0, patient};

const DAY: i64 = 86_400;
const NOW: Sample<'static> = ("cpu.time", "vm-a", 60, 1.5);
/// From a clock that was wrong for a moment.
const STRAY: Sample<'static> = ("cpu.time", "vm-b", -300 * DAY, 2.5);

fn hour_of(second: i64) -> Option<Timestamp> {
    Some(Timestamp::from_seconds(T0 + second).hour())
}

async fn start_of(place: &Place, config: IngestConfig) -> Option<Timestamp> {
    let running = place.start(config).await;
    let start = start_in(&running.tables);
    running.stop().await.unwrap();
    start
}

fn start_in(tables: &Tables) -> Option<Timestamp> {
    tables.now().start
}

#[tokio::test(flavor = "multi_thread")]
async fn metering_starts_when_the_log_took_the_first_samples() {
    let place = Place::new();
    assert_eq!(start_of(&place, patient()).await, None, "there is none without samples");
    // The very first sample is a stray one.
    place.samples(0, &[STRAY]).await;
    place.samples(0, &[NOW]).await;
    let running = place.start(patient()).await;
    running.has_read(2).await;
    let metrics = running.metrics.clone();
    running.stop().await.unwrap();
    assert_eq!(metrics.unmetered.get(), 0, "of the first record it is not known yet");
    assert_eq!(start_of(&place, patient()).await, hour_of(0));
    assert_eq!(start_in(&place.follower().await.tables()), hour_of(0));
    // Nor do later ones move it, early or stored.
    place.samples(0, &[("cpu.time", "vm-b", -350 * DAY, 3.5)]).await;
    let metrics = place.ingest(patient()).await;
    assert_eq!(metrics.unmetered.get(), 1);
    assert_eq!(start_of(&place, patient()).await, hour_of(0));
    assert_eq!(place.stored_in("samples").await.len(), 3, "they are kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_known_though_a_commit_is_lost() {
    let place = Place::new();
    place.samples(0, &[NOW]).await;
    place.ingest(patient()).await;
    for def in [&SAMPLES, &COMMITS] {
        let mut table = place.storage().table(def).await.unwrap();
        let stored = table.position("metering/start").await.unwrap();
        assert_eq!(stored.map(Timestamp), hour_of(0), "{}", def.name);
    }
    let commits = place.tables_folder().join("samples/_delta_log");
    let mut names: Vec<_> =
        std::fs::read_dir(commits).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| path.extension().is_some_and(|kind| kind == "json"));
    for path in names {
        if std::fs::read_to_string(&path).unwrap().contains("metering/start") {
            std::fs::write(path, "{").unwrap();
        }
    }
    let mut table = place.storage().table(&SAMPLES).await.unwrap();
    assert_eq!(table.position("metering/start").await.unwrap(), None, "the commit is damaged");
    assert_eq!(start_of(&place, patient()).await, hour_of(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_can_be_configured_at_any_time() {
    let place = Place::new();
    place.samples(0, &[STRAY]).await;
    place.ingest(patient()).await;
    let imported = hour_of(-300 * DAY);
    let config = IngestConfig { metering_start: imported, ..patient() };
    place.samples(0, &[NOW]).await;
    place.ingest(config).await;
    assert_eq!(start_of(&place, patient()).await, imported, "it is stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_clock_was_ahead_at_first_holds_back_nothing() {
    let place = Place::new();
    place.at(365 * DAY);
    place.samples(0, &[NOW]).await;
    place.ingest(patient()).await;
    assert_eq!(start_of(&place, patient()).await, hour_of(365 * DAY));
    place.at(0);
    for value in [2.5, 3.5] {
        place.samples(0, &[("cpu.time", "vm-a", 70, value)]).await;
        place.ingest(patient()).await;
    }
    assert_eq!(start_of(&place, patient()).await, hour_of(0), "most records came before it");
    assert_eq!(start_in(&place.follower().await.tables()), hour_of(0));
}
