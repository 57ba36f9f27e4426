//! Flipped bits: what is read is what was written, or it is said that it is damaged.

use std::path::{Path, PathBuf};

use nilometer_contract::Timestamp;
use nilometer_store::{
    CompactionPolicy, Missing, Position, Row, SAMPLES, Storage, Table, compact, rows_of,
    write_samples,
};

use crate::place::Place;
use crate::tables::NOON;

/// The next of a row of numbers that look random.
fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*seed ^ (*seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ (mixed >> 27)
}

fn flip(path: &Path, place: u64) -> Vec<u8> {
    let good = std::fs::read(path).unwrap();
    let mut bytes = good.clone();
    let at = place as usize % bytes.len();
    bytes[at] ^= 1 << (place >> 60 & 7);
    std::fs::write(path, bytes).unwrap();
    good
}

fn file_of(place: &Place, table: &Table, n: usize) -> PathBuf {
    place.folder().join(table.def().name).join(&table.files()[n].path)
}

async fn two_files(table: &mut Table, each: i64) -> Vec<Row> {
    let mut all: Vec<Row> = Vec::new();
    for n in 0..2 {
        let rows = (0..each).map(|row| Row {
            series: row % 5,
            at: NOON + row * 1_003 + n,
            value: (row as f64).sin(),
            epoch: row % 3,
        });
        let rows: Vec<Row> = rows.collect();
        all.extend(&rows);
        let adds = write_samples(table, rows).await.unwrap();
        let from = (n > 0).then_some(n);
        table.append(adds, &[Position { app: "app".to_owned(), from, next: n + 1 }]).await.unwrap();
    }
    all.sort_unstable_by_key(|row| (row.series, row.at));
    all
}

async fn all_rows(table: &Table) -> Result<Vec<Row>, nilometer_store::StoreError> {
    let mut rows = Vec::new();
    for file in table.files().iter() {
        let batches = table.read(file).await?;
        rows.extend(batches.iter().flat_map(rows_of));
    }
    rows.sort_unstable_by_key(|row| (row.series, row.at));
    Ok(rows)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_is_never_another_value() {
    let place = Place::local();
    let mut table = place.samples().await;
    let good = two_files(&mut table, 300).await;
    let file = table.files()[0].clone();
    let path = file_of(&place, &table, 0);
    let all: Vec<i64> = (0..5).collect();
    let mut seed = 7;
    let finder = table.finder();
    let whole = finder.find(&file, all.clone(), (i64::MIN, i64::MAX)).await.unwrap();
    for at in (0..file.size).step_by(9).chain(file.size - 12..file.size) {
        let random = next(&mut seed);
        let before = flip(&path, random - random % file.size + at);
        let read = all_rows(&table).await;
        let damage = read.err().is_some_and(|error| error.is_damage());
        assert!(damage, "byte {at}");
        // A part of the file is right, or it is damaged.
        let found = finder.find(&file, all.clone(), (i64::MIN, i64::MAX)).await;
        match found {
            Ok(found) => assert_eq!(found, whole, "byte {at}"),
            Err(error) => assert!(error.is_damage(), "byte {at}: {error:?}"),
        }
        std::fs::write(&path, before).unwrap();
    }
    assert_eq!(all_rows(&table).await.unwrap(), good);
    // What was suspected is good when it is read again.
    assert_eq!(table.damaged().await.unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_not_merged_and_is_suspect() {
    let place = Place::local();
    let mut table = place.samples().await;
    two_files(&mut table, 300_000).await;
    let policy = CompactionPolicy { fan_in: 2, ..CompactionPolicy::default() };
    let path = file_of(&place, &table, 1);
    let (mut seed, mut blocks) = (1, std::collections::BTreeSet::new());
    for _ in 0..12 {
        let at = next(&mut seed);
        blocks.insert(at % table.files()[1].size / (256 << 10));
        let before = flip(&path, at);
        // It is left out from then on, so each look is of a table that was opened anew.
        let mut again = place.samples().await;
        let merged = compact(&mut again, policy, Timestamp(NOON)).await;
        assert!(merged.is_err(), "{merged:?}");
        assert_eq!(again.files().len(), 2);
        let damaged = again.damaged().await.unwrap();
        assert_eq!(damaged[0].0.path, table.files()[1].path);
        std::fs::write(&path, before).unwrap();
    }
    assert!(blocks.len() > 1, "of one block only: {blocks:?}");
    assert_eq!(compact(&mut table, policy, Timestamp(NOON)).await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_set_aside_comes_back_only_as_it_was() {
    let place = Place::local();
    let mut table = place.samples().await;
    let good = two_files(&mut table, 300).await;
    let (file, path) = (table.files()[0].clone(), file_of(&place, &table, 0));
    let before = flip(&path, 40);
    table.set_aside(&file).await.unwrap();
    let missing =
        |table: &Table, low: i64| table.files().missing(low, i64::MAX).cloned().collect::<Vec<_>>();
    let (first, last) = file.span().unwrap();
    let aside = Missing {
        table: "samples",
        span: Some((Timestamp(first), Timestamp(last))),
        rows: file.rows,
    };
    assert_eq!(missing(&table, last), std::slice::from_ref(&aside));
    assert_eq!(missing(&place.samples().await, last), [aside]);
    assert_eq!(missing(&table, last + 1), []);
    let back = [file.path.clone()];
    assert_eq!(table.aside(), back);
    assert!(table.recovered(&file.path).await.unwrap().is_none());
    std::fs::write(&path, &before[..before.len() - 1]).unwrap();
    assert!(table.recovered(&file.path).await.unwrap().is_none());
    std::fs::write(&path, before).unwrap();
    let (_, add) = table.recovered(&file.path).await.unwrap().unwrap();
    table.put_back(&back, vec![add.clone()], 0, None).await.unwrap();
    assert!(table.put_back(&back, vec![add], 0, None).await.is_err(), "once only");
    assert_eq!(missing(&table, 0), []);
    assert_eq!(table.aside(), Vec::<String>::new());
    let again = place.samples().await;
    assert_eq!(all_rows(&again).await.unwrap(), good);
    // It has its checksums again.
    flip(&path, 99);
    assert!(all_rows(&again).await.is_err_and(|error| error.is_damage()));
}

/// Whoever finds a file damaged may set it aside: the second finds it done.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_set_aside_once() {
    let place = Place::local();
    let mut table = place.samples().await;
    two_files(&mut table, 300).await;
    let (file, mut other) = (table.files()[0].clone(), place.samples().await);
    table.set_aside(&file).await.unwrap();
    other.set_aside(&file).await.unwrap();
    assert_eq!((table.version(), table.aside()), (other.version(), other.aside()));
    let (first, last) = file.span().unwrap();
    assert_eq!(table.span_aside(&file.path), Some((first, last)));
    table.lacks_before(&file.path, last, None).await.unwrap();
    assert_eq!(table.span_aside(&file.path), Some((first, last - 1)));
    for (low, files) in [(last, 0), (last - 1, 1)] {
        assert_eq!(table.files().missing(low, i64::MAX).count(), files);
    }
    assert!(
        table.recovered(&file.path).await.unwrap().is_some(),
        "it is still known by its digest"
    );
}

/// A commit whose changes must not be forgotten is as a file of all times, also for one that had
/// read it.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_in_doubt_is_remembered_once() {
    let place = Place::local();
    let mut table = place.samples().await;
    for n in 0..3 {
        two_files_of(&mut table, n).await;
    }
    let commit = place.folder().join(format!("samples/_delta_log/{:020}.json", 2));
    std::fs::remove_file(commit).unwrap();
    let (mut one, mut two) = (place.samples().await, place.samples().await);
    for opened in [&mut one, &mut two] {
        let unread = opened.unread()[0].clone();
        opened.doubt(&unread).await.unwrap();
        opened.go_without().await.unwrap();
    }
    assert_eq!(one.version(), two.version());
    table.refresh().await.unwrap();
    for table in [table, place.samples().await] {
        assert_eq!(table.unread(), []);
        let missing: Vec<String> =
            table.files().missing(0, 1).map(|missing| missing.to_string()).collect();
        assert_eq!(missing, ["an unknown number of rows of samples"]);
        let path = table.aside().remove(0);
        assert_eq!(table.span_aside(&path), None);
        assert!(table.recovered(&path).await.unwrap().is_none());
    }
    let path = two.aside();
    two.put_back(&path, Vec::new(), 0, None).await.unwrap();
    assert_eq!(place.samples().await.files().missing(i64::MIN, i64::MAX).count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_cut_off_is_damaged() {
    let place = Place::local();
    let mut table = place.samples().await;
    two_files(&mut table, 1_000).await;
    let (file, path) = (table.files()[0].clone(), file_of(&place, &table, 0));
    for left in [0, 4, file.size as usize / 2, file.size as usize - 1] {
        let good = std::fs::read(&path).unwrap();
        std::fs::write(&path, &good[..left]).unwrap();
        assert!(table.read(&file).await.is_err_and(|error| error.is_damage()), "{left}");
        let found = table.finder().find(&file, vec![1], (i64::MIN, i64::MAX)).await;
        assert!(found.as_ref().is_err_and(|error| error.is_damage()), "{left}: {found:?}");
        std::fs::write(&path, good).unwrap();
    }
}

/// State of a table in a word.
async fn state_of(storage: &Storage) -> Result<(i64, u64, usize), String> {
    let table = storage.table(&SAMPLES).await.map_err(|error| error.to_string())?;
    Ok((table.version(), table.files().rows(), table.unread().len()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_the_log_is_a_commit_that_cannot_be_read() {
    let place = Place::local();
    let mut table = place.samples().await;
    for n in 0..2 {
        two_files_of(&mut table, n).await;
    }
    let good = state_of(&place.storage()).await.unwrap();
    let commit = place.folder().join(format!("samples/_delta_log/{:020}.json", 1));
    let size = std::fs::metadata(&commit).unwrap().len();
    let mut seed = 3;
    for at in (0..size).step_by(3) {
        let random = next(&mut seed);
        let before = flip(&commit, random - random % size + at);
        let (version, rows, unread) = state_of(&place.storage()).await.unwrap();
        let is_said = unread == 1 && version == good.0 && rows < good.1;
        // A seal that is damaged itself may be no seal; all else is as it was.
        assert!(is_said || (version, rows, unread) == good, "byte {at}");
        std::fs::write(&commit, before).unwrap();
    }
    assert_eq!(state_of(&place.storage()).await.unwrap(), good);
    // Of a checkpoint that is damaged, the one before is read, or all commits are.
    table.go_without().await.unwrap();
    let checkpoint = place
        .folder()
        .join(format!("samples/_delta_log/{:020}.checkpoint.parquet", table.version()));
    let size = std::fs::metadata(&checkpoint).unwrap().len();
    for _ in 0..150 {
        let before = flip(&checkpoint, next(&mut seed));
        assert_eq!(state_of(&place.storage()).await.unwrap(), good, "of {size} bytes");
        std::fs::write(&checkpoint, before).unwrap();
    }
}

async fn two_files_of(table: &mut Table, n: i64) {
    let adds = write_samples(table, vec![crate::tables::row(n, NOON + n)]).await.unwrap();
    let from = table.position("app").await.unwrap();
    table.append(adds, &[Position { app: "app".to_owned(), from, next: n + 1 }]).await.unwrap();
}
