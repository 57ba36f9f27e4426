//! Stores that look as they do after a long time, made quickly: nothing is synced to disk.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use nilometer_clock::SystemClock;
use nilometer_contract::{MICROS_PER_DAY, MICROS_PER_SECOND};
use nilometer_store::{
    Description, Position, Row, SAMPLES, SERIES, SeriesColumn, Storage, write_samples,
};
use object_store::local::LocalFileSystem;

/// 2026-11-02T00:00:00Z, the end of all of them.
pub(crate) const END: i64 = 1_793_577_600 * MICROS_PER_SECOND;
/// Resources of an aged store.
const RESOURCES: usize = 20;
/// Samples of each series in one file.
const OF_A_FILE: i64 = 10;
/// Commits between two checkpoints while a store is made; at the end there is one more.
const CHECKPOINT_EVERY: i64 = 5_000;

/// How old a store is.
pub(crate) struct Age {
    pub(crate) days: i64,
    pub(crate) files_a_day: i64,
}

impl Age {
    /// Makes one in a folder, a commit a file.
    pub(crate) async fn make(&self, folder: &Path) -> anyhow::Result<()> {
        let storage = quick(folder)?;
        some_series(&storage, RESOURCES, RESOURCES).await?;
        let mut table = storage.table(&SAMPLES).await?;
        let files = self.days * self.files_a_day;
        let step = MICROS_PER_DAY / self.files_a_day;
        for file in 0..files {
            let end = END - (files - 1 - file) * step;
            let adds = write_samples(&table, rows_of_file(end)).await?;
            let from = (file > 0).then_some(file);
            let position = Position { app: "made".to_owned(), from, next: file + 1 };
            table.append(adds, &[position]).await?;
            if file % CHECKPOINT_EVERY == CHECKPOINT_EVERY - 1 || file + 1 == files {
                table.keep_short().await?;
            }
        }
        Ok(())
    }
}

/// Samples of a file whose last is at an instant.
pub(crate) fn rows_of_file(end: i64) -> Vec<Row> {
    let series = (0..RESOURCES).map(|resource| described(resource).id());
    let rows = series.flat_map(|series| {
        (0..OF_A_FILE).map(move |n| {
            let at = end - n * 10 * MICROS_PER_SECOND;
            Row { series, at, value: at as f64 / 1e6, epoch: 0 }
        })
    });
    rows.collect()
}

/// A store of many series, and no samples.
pub(crate) async fn series(folder: &Path, many: usize) -> anyhow::Result<()> {
    some_series(&quick(folder)?, many, 250_000).await
}

async fn some_series(storage: &Storage, many: usize, of_a_file: usize) -> anyhow::Result<()> {
    let mut table = storage.table(&SERIES).await?;
    for start in (0..many).step_by(of_a_file) {
        let all: Vec<Description> = (start..many.min(start + of_a_file)).map(described).collect();
        let ids = Int64Array::from_iter_values(all.iter().map(Description::id));
        let mut columns: Vec<ArrayRef> = vec![Arc::new(ids)];
        for column in SeriesColumn::ALL {
            let texts = all.iter().map(|series| series.get(column));
            columns.push(Arc::new(StringArray::from_iter_values(texts)));
        }
        for stated in ["counter", "seconds"] {
            let texts = all.iter().map(|_| stated);
            columns.push(Arc::new(StringArray::from_iter_values(texts)));
        }
        let add = table.write(&[RecordBatch::try_new(SERIES.schema(), columns)?], None).await?;
        table.append(vec![add], &[]).await?;
    }
    Ok(())
}

fn described(resource: usize) -> Description {
    let text = str::to_owned;
    Description {
        meter: text("cpu.time"),
        resource: format!("vm-{resource:08}"),
        kind: text("vm"),
        project: format!("project-{}", resource % 100),
        node: format!("node-{}", resource % 1_000),
        source: text("libvirt"),
        labels: text(""),
    }
}

fn quick(folder: &Path) -> anyhow::Result<Storage> {
    Ok(Storage::local(folder, Arc::new(SystemClock))?.through(|_| Arc::new(LocalFileSystem::new())))
}

pub(crate) fn text_of(answer: &[u8]) -> anyhow::Result<&str> {
    Ok(std::str::from_utf8(answer)?)
}
