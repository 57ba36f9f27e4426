//! Making damage good: whatever the log still has of rows that the tables lost.
//!
//! ```text
//! read every file ─▶ set aside what is damaged ─▶ good after all? put it back as it is
//!                                              └▶ read the log again, store what is missing
//! ```
//!
//! What billing computed is not lost: it is left to billing, which settles its hours anew. Issued
//! invoices are in no log: their files stay set aside, so that one from a backup is put back.
//!
//! Rows of samples are told by their identity and others by their offset, so a repair that is
//! broken off, or done twice, doubles nothing. Samples are compared with the table as it is at
//! their commit, and the ingester takes turns with it (see `turns`). One table at a time; in memory are the rows that
//! come back, at about 60 bytes a sample.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use nilometer_contract::{EVENTS, GAPS};
use nilometer_log::Log;
use nilometer_store::{
    Add, CommitError, Row, SAMPLES, SERIES, Storage, StoreError, Table, write_samples,
};

use crate::config::IngestConfig;
use crate::load::load_table;
use crate::lookup::not_stored;
use crate::memory::collect_rows;
use crate::note::{Extent, Remedy, note_restored, own_up_damaged, own_up_unread};
use crate::ownership::IngestError;
use crate::replay::{Replay, Spans};
use crate::sink::Sink;
use crate::tables;
use crate::tail::prepare;
use crate::turns::Turn;
use crate::view::Shared;

/// Said after so many files.
const EVERY_FILES: usize = 1_000;

/// What a repair came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Files that were read.
    pub files: usize,
    /// Files that were or had been set aside.
    pub damaged: usize,
    /// Commits of tables that cannot be read.
    pub unread: usize,
    /// Rows that are back.
    pub restored: u64,
    /// Rows that are gone.
    pub lost: u64,
    /// Of the damaged files and commits those of which billing computes the rows anew.
    pub computed: usize,
}

impl fmt::Display for Repaired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Repaired { files, damaged, unread, restored, lost, computed } = self;
        write!(
            f,
            "{files} files read; {damaged} damaged files and {unread} unreadable commits; \
             {restored} rows restored, {lost} lost"
        )?;
        match computed {
            0 => Ok(()),
            computed => write!(f, "; billing computes anew what {computed} of them had"),
        }
    }
}

/// Reads all files of all tables, sets aside what is damaged, and restores from the log what it
/// still has. `say` gets a line now and then. An ingester may be at work meanwhile.
pub async fn repair(
    storage: &Storage,
    log: Arc<dyn Log>,
    config: &IngestConfig,
    mut say: impl FnMut(String),
) -> Result<Repaired, IngestError> {
    let topics = prepare(config, log.as_ref()).await.map_err(IngestError::Log)?;
    let mut done = Repaired::default();
    let mut gaps = storage.table(&tables::GAPS).await.map_err(IngestError::Store)?;
    let mut replay = Replay::new(log, topics);
    let mut good_samples = Vec::new();
    let extent = storage.table(&SAMPLES).await.map_err(IngestError::Store)?.files().extent();
    for def in config.tables() {
        let mut table = storage.table(def).await.map_err(IngestError::Store)?;
        let unread = table.unread().len();
        done.unread += unread;
        let checked = check((&mut table, extent), &mut gaps, &mut done, &mut say).await;
        checked.map_err(failed)?;
        if unread > 0 && Remedy::of(&table) == Remedy::Replay {
            replay.add_whole(def.name);
        }
        done.damaged += table.aside().len();
        good_samples.extend(put_back_good(&mut table, &mut say).await?);
    }
    let mut sink = Sink::open(storage, &config.others).await.map_err(IngestError::Store)?;
    let noted = facts(&gaps).await.map_err(IngestError::Store)?;
    // Whoever meets samples that are back finds what they refer to.
    let mut order: Vec<_> = config.tables().collect();
    order.sort_by_key(|def| ![SERIES.name, tables::EPOCHS.name].contains(&def.name));
    for def in order {
        if def.name == SAMPLES.name {
            for (path, rows, add) in good_samples.drain(..) {
                put_back_samples(&mut sink, &[path], rows, (Some(add), 0)).await?;
            }
        }
        let mut table = storage.table(def).await.map_err(IngestError::Store)?;
        let paths = table.aside();
        let whole = replay.wants_whole(def.name);
        let facts = noted.iter().filter(|fact| fact.is_of(def.name, whole, &paths));
        let facts: Spans = facts.collect();
        if paths.is_empty() && table.unread().is_empty() && !whole {
            continue;
        }
        let remedy = Remedy::of(&table);
        if remedy != Remedy::Replay {
            let missing = paths.len() + table.unread().len();
            say(format!("{}: {missing} files or commits: {}", def.name, remedy.advice()));
            match remedy {
                Remedy::Compute => done.computed += missing,
                _ => done.lost += facts.rows(),
            }
            continue;
        }
        say(format!("{}: {} files to restore from the log", def.name, paths.len()));
        let (paths, of) = (paths.as_slice(), (&replay, config, &facts));
        let (restored, lost, of) = restore(&mut table, &mut sink, of, paths).await?;
        if let Some(span) = facts.whole() {
            let of = of.unwrap_or(span);
            let span = (span.0.min(of.0), span.1.max(of.1));
            let noting = note_restored(&mut gaps, &table, paths, span, (restored, lost));
            noting.await.map_err(failed)?;
        }
        done.restored += restored;
        done.lost += lost;
    }
    Ok(done)
}

/// Puts back the files that are good after all; those of samples are returned, since their rows may
/// be stored again already.
async fn put_back_good(
    table: &mut Table,
    say: &mut impl FnMut(String),
) -> Result<Vec<(String, Vec<Row>, Add)>, IngestError> {
    let (name, mut samples) = (table.def().name, Vec::new());
    for path in table.aside() {
        let good = table.recovered(&path).await.map_err(IngestError::Store)?;
        let Some((rows, add)) = good else { continue };
        say(format!("{name}: file {path} is good after all"));
        if name == SAMPLES.name {
            samples.push((path, collect_rows(&rows), add));
        } else {
            table.put_back(&[path], vec![add], 0, None).await.map_err(failed)?;
        }
    }
    Ok(samples)
}

/// Restores rows of one table; says how many are back and how many are gone, and the time of those
/// that are back: of an unreadable commit nothing else tells it.
async fn restore(
    table: &mut Table,
    sink: &mut Sink,
    (replay, config, facts): (&Replay, &IngestConfig, &Spans),
    paths: &[String],
) -> Result<(u64, u64, Extent), IngestError> {
    let name = table.def().name;
    if name == SAMPLES.name {
        let rows = replay.samples(sink, config, facts).await?;
        let lost = facts.rows().saturating_sub(rows.len() as u64);
        let instants = || rows.iter().map(|row| row.at);
        let of = instants().min().zip(instants().max().map(|last| last + 1));
        let restored = put_back_samples(sink, paths, rows, (None, lost)).await?;
        table.refresh().await.map_err(IngestError::Store)?;
        return Ok((restored, lost, of));
    }
    // What samples refer to is lost where one is left that refers to it.
    let topic = match table.def().feed() {
        Some(feed) => Some(feed.topic),
        None if name == tables::EVENTS.name => Some(EVENTS),
        None if name == tables::GAPS.name => Some(GAPS),
        None => None,
    };
    let ((restored, adds), most_lost) = match topic {
        Some(topic) => (replay.records(sink, config, topic).await?, u64::MAX),
        None if name == SERIES.name => replay.series(sink, config).await?,
        None if name == tables::EPOCHS.name => replay.epochs(sink, config).await?,
        None => (Default::default(), u64::MAX),
    };
    let lost = facts.rows().saturating_sub(restored).min(most_lost);
    let back: HashSet<String> = adds.iter().map(|add| add.path.clone()).collect();
    table.put_back(paths, adds, lost, None).await.map_err(failed)?;
    let files = table.files();
    let spans = || files.iter().filter(|file| back.contains(&file.path)).filter_map(|f| f.span());
    let of = spans().map(|span| span.0).min().zip(spans().map(|span| span.1 + 1).max());
    Ok((restored, lost, of))
}

/// Puts back those rows of samples that the table does not have at the commit, and says how many.
/// Of all of them there may be a file that only has to be named.
async fn put_back_samples(
    sink: &mut Sink,
    paths: &[String],
    mut rows: Vec<Row>,
    (file, lost): (Option<Add>, u64),
) -> Result<u64, IngestError> {
    let (all, shared, mut compared) = (rows.len(), Shared::default(), HashSet::new());
    loop {
        sink.samples.refresh().await.map_err(IngestError::Store)?;
        sink.series.refresh().await.map_err(IngestError::Store)?;
        load_table(&sink.series, &shared).await.map_err(IngestError::Store)?;
        let samples = &mut sink.samples;
        let files = samples.files();
        let files = files.iter().filter(|file| compared.insert(file.path.clone()));
        let files: Vec<_> = files.cloned().collect();
        let left = not_stored(rows, &shared.index, &files, &samples.finder()).await;
        rows = left.map_err(IngestError::Store)?;
        let adds = match &file {
            Some(file) if rows.len() == all => vec![file.clone()],
            _ => write_samples(samples, rows.clone()).await.map_err(IngestError::Store)?,
        };
        let turn = Turn::of(samples).await.map_err(IngestError::Store)?;
        match samples.put_back(paths, adds, lost, Some(turn.taken())).await {
            // The ingester stored samples, which may be among these.
            Err(CommitError::Conflict(_)) => {}
            done => return done.map(|()| rows.len() as u64).map_err(failed),
        }
    }
}

/// Reads every file of a table; what is damaged is said and set aside.
async fn check(
    (table, samples): (&mut Table, Extent),
    gaps: &mut Table,
    done: &mut Repaired,
    say: &mut impl FnMut(String),
) -> Result<(), CommitError> {
    let (name, files) = (table.def().name, table.files());
    own_up_unread(gaps, table, samples, |unread| {
        say(format!("{name}: commit {} cannot be read: {}", unread.version, unread.reason));
    })
    .await?;
    for (read, file) in files.iter().enumerate() {
        if read % EVERY_FILES == 0 {
            say(format!("{name}: {read} of {} files read", files.len()));
        }
        match table.read(file).await {
            Err(error) if !error.is_damage() => return Err(CommitError::Store(error)),
            _ => done.files += 1,
        }
    }
    own_up_damaged(gaps, table, samples, |file, why| {
        say(format!("{name}: file {} is damaged: {why}", file.path));
    })
    .await
}

fn failed(error: CommitError) -> IngestError {
    match error {
        CommitError::Store(error) => IngestError::Store(error),
        error => IngestError::Repair(error),
    }
}

/// What `gaps` tell of a file that was set aside.
#[derive(Clone, Debug)]
pub(crate) struct Fact {
    table: String,
    reason: String,
    pub(crate) span: (i64, i64),
    pub(crate) rows: u64,
}

impl Fact {
    /// Whether it is of one of these files, or of a commit where all of the table is wanted.
    fn is_of(&self, table: &str, whole: bool, paths: &[String]) -> bool {
        let is_commit = whole && self.reason.starts_with("commit ");
        let is_file = paths.iter().any(|path| self.reason.contains(path.as_str()));
        self.table == table && (is_commit || is_file)
    }
}

async fn facts(gaps: &Table) -> Result<Vec<Fact>, StoreError> {
    let mut facts = Vec::new();
    for file in gaps.files().iter() {
        for batch in gaps.read(file).await? {
            facts.extend((0..batch.num_rows()).filter_map(|row| fact(&batch, row)));
        }
    }
    // A file that was set aside is told once, but a table may have been restored before.
    let mut known = HashSet::new();
    facts.retain(|fact| known.insert(fact.reason.clone()));
    Ok(facts)
}

fn fact(batch: &RecordBatch, row: usize) -> Option<Fact> {
    let text = |name: &str| Some(batch.column_by_name(name)?.as_string::<i32>().value(row));
    let at = |name: &str| {
        let column = batch.column_by_name(name)?;
        Some(column.as_primitive::<TimestampMicrosecondType>().value(row))
    };
    let rows = batch.column_by_name("samples")?.as_primitive::<Int64Type>().value(row);
    (text("kind")? == "damaged").then_some(Fact {
        table: text("of_topic")?.to_owned(),
        reason: text("reason")?.to_owned(),
        span: (at("start")?, at("end")?),
        rows: u64::try_from(rows).unwrap_or(0),
    })
}
