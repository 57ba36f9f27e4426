//! Damage in the tables is local: it stops nothing, and it is said.

use std::path::PathBuf;
use std::time::Duration;

use nilometer_contract::SAMPLES as SAMPLES_TOPIC;
use nilometer_contract::TableDef;
use nilometer_ingest::EVENTS;
use nilometer_ingest::{IngestConfig, Metrics, Repaired, maintain, repair};
use nilometer_log::{Log, TopicPartition};
use nilometer_store::{SAMPLES, SERIES};
use prometheus::Registry;
use tokio_util::sync::CancellationToken;

use crate::place::{Place, clock, event, eventually, hasty, lines, patient};
use crate::replaced::spans;

/// Five commits of samples and events of two resources, each with files of its own.
async fn five_commits(place: &Place) -> Vec<crate::place::Sample<'static>> {
    let mut sent = Vec::new();
    for n in 0..5 {
        let sample = ("cpu.time", if n % 2 == 0 { "vm-a" } else { "vm-b" }, n, n as f64);
        place.samples(0, &[sample]).await;
        let change = nilometer_contract::Change::Created;
        place.event(0, &event(change, &format!("vm-{n}"), n)).await;
        place.ingest(patient()).await;
        sent.push(sample);
    }
    sent
}

/// A file of a table that is damaged now.
async fn damage(place: &Place, def: &'static TableDef, file: usize) -> PathBuf {
    let table = place.storage().table(def).await.unwrap();
    let path = place.tables_folder().join(def.name).join(&table.files()[file].path);
    std::fs::write(&path, "no Parquet").unwrap();
    path
}

async fn until_said(place: &Place, gaps: usize) -> Vec<String> {
    let config = IngestConfig { maintenance_interval: Duration::from_millis(5), ..hasty() };
    let (storage, cancel) = (place.storage(), CancellationToken::new());
    // What an ingester finds damaged, maintenance in the same process sets aside.
    let running = place.start_on(config.clone(), storage.clone()).await;
    let metrics = Metrics::register(&Registry::new()).unwrap();
    let now = clock();
    let upkeep = tokio::spawn(maintain(storage, config, metrics, now, cancel.clone()));
    eventually("it is said", async || place.stored_in("gaps").await.len() == gaps).await;
    eventually("all can be read", async || {
        let mut good = true;
        for def in [&SAMPLES, &EVENTS, &SERIES] {
            let table = place.storage().table(def).await.unwrap();
            good &= table.unread().is_empty();
            for file in table.files().iter() {
                good &= table.read(file).await.is_ok();
            }
        }
        good
    })
    .await;
    // And it goes on.
    let more = ("cpu.time", "vm-a", 60, 60.0);
    place.samples(0, &[more]).await;
    eventually("it goes on", async || {
        place.stored_in("samples").await.contains(&lines(&[more])[0])
    })
    .await;
    cancel.cancel();
    upkeep.await.unwrap().unwrap();
    running.stop().await.unwrap();
    place.stored_in("gaps").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_costs_its_own_rows() {
    let place = Place::new();
    let sent = five_commits(&place).await;
    let broken = damage(&place, &SAMPLES, 2).await;
    damage(&place, &EVENTS, 1).await;
    damage(&place, &SERIES, 0).await;
    let gaps = until_said(&place, 3).await;
    let of = |table: &str| gaps.iter().filter(|gap| gap.contains(table)).count();
    assert_eq!((of(" samples -1 0 "), of(" events -1 0 "), of(" series -1 0 ")), (1, 1, 1));
    let mut left: Vec<_> = sent;
    left.remove(2);
    left.push(("cpu.time", "vm-a", 60, 60.0));
    assert_eq!(place.stored_in("samples").await, lines(&left));
    assert!(broken.exists(), "it stays where it is");
    let table = place.storage().table(&SAMPLES).await.unwrap();
    assert_eq!(table.aside().len(), 1);
    assert!(broken.ends_with(&table.aside()[0]), "{:?}", table.aside());
}

/// Labels have no time of their own, and all samples may be theirs.
#[tokio::test(flavor = "multi_thread")]
async fn a_gap_of_labels_spans_the_samples() {
    let place = Place::new();
    five_commits(&place).await;
    damage(&place, &SERIES, 0).await;
    until_said(&place, 1).await;
    assert_eq!(spans(&place).await, [(0, 4)]);
    let (done, said) = repaired(&place).await;
    assert_eq!((done.damaged, done.lost), (1, 0), "{said:#?}");
    assert_eq!(spans(&place).await, [(0, 4), (0, 4)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_gone_is_as_a_damaged_one() {
    let place = Place::new();
    five_commits(&place).await;
    std::fs::remove_file(damage(&place, &SAMPLES, 4).await).unwrap();
    let gaps = until_said(&place, 1).await;
    assert!(gaps[0].contains(" samples -1 0 "), "{gaps:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_sample_is_taken_in_beside_a_damaged_file() {
    let place = Place::new();
    five_commits(&place).await;
    let running = place.start(hasty()).await;
    damage(&place, &SAMPLES, 1).await;
    // Older than what is known of its series, so it is looked up in the files.
    let late = ("cpu.time", "vm-a", 1, 7.0);
    place.samples(0, &[late]).await;
    eventually("it is stored", async || place.missing().await == 0).await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_missing_is_said() {
    let place = Place::new();
    five_commits(&place).await;
    let log = place.tables_folder().join("samples/_delta_log");
    std::fs::remove_file(log.join(format!("{:020}.json", 4))).unwrap();
    let gaps = until_said(&place, 1).await;
    assert!(gaps[0].contains("commit 4 of table samples"), "{gaps:?}");
    let again = place.storage().table(&SAMPLES).await.unwrap();
    assert!(again.unread().is_empty());
}

/// One that started without them goes on with the labels and lives that a repair put back.
#[tokio::test(flavor = "multi_thread")]
async fn a_repair_reaches_an_ingester_at_work() {
    let place = Place::new();
    five_commits(&place).await;
    for def in [&SERIES, &EVENTS] {
        damage(&place, def, 0).await;
    }
    let config = IngestConfig { refresh_interval: Duration::from_millis(5), ..hasty() };
    let running = place.start(config).await;
    let known = || {
        let shared = &running.tables.shared;
        let lives = shared.history.read().unwrap().iter().count();
        (shared.index.read().unwrap().len(), lives)
    };
    assert_eq!(known(), (1, 4));
    let (done, said) = repaired(&place).await;
    assert_eq!((done.damaged, done.restored, done.lost), (2, 2, 0), "{said:#?}");
    eventually("they are known", async || known() == (2, 5)).await;
    running.stop().await.unwrap();
}

async fn repaired(place: &Place) -> (Repaired, Vec<String>) {
    let (log, mut said) = (std::sync::Arc::new(place.log.clone()), Vec::new());
    let done = repair(&place.storage(), log, &patient(), |line| said.push(line)).await;
    (done.unwrap(), said)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_restores_what_the_log_has() {
    let place = Place::new();
    five_commits(&place).await;
    let before = place.stored().await;
    let (done, _) = repaired(&place).await;
    assert_eq!((done.damaged, done.unread, done.restored, done.lost), (0, 0, 0, 0));
    let broken = damage(&place, &SAMPLES, 2).await;
    damage(&place, &SAMPLES, 3).await;
    damage(&place, &EVENTS, 1).await;
    damage(&place, &SERIES, 0).await;
    let (done, said) = repaired(&place).await;
    assert_eq!((done.damaged, done.restored, done.lost), (4, 4, 0), "{said:#?}");
    let rows = |lines: &[String]| {
        let kept = lines.iter().filter(|line| !line.starts_with("gaps"));
        kept.cloned().collect::<Vec<_>>()
    };
    assert_eq!(rows(&place.stored().await), rows(&before));
    let gaps = place.stored_in("gaps").await;
    assert_eq!(gaps.iter().filter(|gap| gap.contains("are restored, 0 are lost")).count(), 3);
    // Again it does nothing, and what was set aside is forgotten.
    let (again, _) = repaired(&place).await;
    assert_eq!((again.damaged, again.restored, again.lost), (0, 0, 0));
    assert_eq!(rows(&place.stored().await), rows(&before));
    assert!(broken.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_good_after_all_is_put_back() {
    let place = Place::new();
    five_commits(&place).await;
    let before = place.stored_in("samples").await;
    let table = place.storage().table(&SAMPLES).await.unwrap();
    let path = place.tables_folder().join("samples").join(&table.files()[2].path);
    let hidden = path.with_extension("away");
    std::fs::rename(&path, &hidden).unwrap();
    until_said(&place, 1).await;
    std::fs::rename(&hidden, &path).unwrap();
    let (done, said) = repaired(&place).await;
    assert_eq!((done.damaged, done.lost), (1, 0), "{said:#?}");
    assert_eq!(place.stored_in("samples").await.len(), before.len() + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_has_no_more_is_lost() {
    let place = Place::new();
    five_commits(&place).await;
    damage(&place, &SAMPLES, 2).await;
    let all = TopicPartition { topic: SAMPLES_TOPIC.to_owned(), partition: 0 };
    place.log.truncate(&all, 5).await.unwrap();
    let (done, _) = repaired(&place).await;
    assert_eq!((done.damaged, done.restored, done.lost), (1, 0, 1));
    let gaps = place.stored_in("gaps").await;
    assert!(gaps.iter().any(|gap| gap.contains("0 rows are restored, 1 are lost")), "{gaps:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_commit_is_made_up_for() {
    for (def, rows) in [(&SAMPLES, 5), (&SERIES, 2), (&EVENTS, 5)] {
        let place = Place::new();
        five_commits(&place).await;
        let before = place.stored().await;
        assert_eq!(rows_of(&place, def).await, rows);
        let folder = place.tables_folder().join(def.name).join("_delta_log");
        std::fs::remove_file(folder.join(second_add(&folder))).unwrap();
        let (done, said) = repaired(&place).await;
        assert_eq!((done.unread, done.damaged, done.lost), (1, 0, 0), "{said:#?}");
        // Hours that were settled without them are settled anew with them.
        let is_told = |(start, end): &(i64, i64)| *start <= 1 && *end > 1;
        let spans = spans(&place).await;
        assert!(spans.iter().any(is_told), "{}: {spans:?}", def.name);
        place.ingest(patient()).await;
        assert_eq!(rows_of(&place, def).await, rows, "{}", def.name);
        let kept = |lines: Vec<String>| -> Vec<String> {
            lines.into_iter().filter(|line| !line.starts_with("gaps")).collect()
        };
        assert_eq!(kept(place.stored().await), kept(before), "{}", def.name);
    }
}

async fn rows_of(place: &Place, def: &'static TableDef) -> u64 {
    let table = place.storage().table(def).await.unwrap();
    table.files().iter().map(|file| file.rows).sum()
}

/// Name of the second commit that adds a file.
fn second_add(folder: &std::path::Path) -> String {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.into_string().unwrap());
    let adds = |name: &String| {
        let text = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        name.ends_with(".json") && text.contains("\"add\"")
    };
    let mut names: Vec<String> = names.filter(adds).collect();
    names.sort();
    names.swap_remove(1)
}
