//! The memory tier of the samples, and the guard of their identity (invariant 3).
//!
//! Most samples are newer than the newest of their identity, so one comparison tells that they
//! are new. The others are *suspects*: a repeat, a conflict, or simply late; they are looked up
//! in memory and then in the files.

use std::collections::{BTreeSet, HashMap};

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use nilometer_contract::MICROS_PER_HOUR;
use nilometer_store::{Row, SeriesId, rows_of, sample_batch};

use crate::index::SeriesIndex;
use crate::rows::Origin;

/// Rows of one finished chunk.
const CHUNK_ROWS: usize = 64 * 1024;

/// A sample that may have been stored before.
#[derive(Clone, Debug)]
pub(crate) struct Suspect {
    pub(crate) origin: Origin,
    pub(crate) row_in_record: usize,
    pub(crate) appended_at_micros: i64,
    pub(crate) identity: u32,
    pub(crate) row: Row,
}

/// Samples that are not in a file yet.
#[derive(Default)]
pub(crate) struct MemoryTier {
    flushing: Vec<RecordBatch>,
    frozen: Vec<RecordBatch>,
    series: Vec<i64>,
    at: Vec<i64>,
    value: Vec<f64>,
    rows: usize,
    newest_by_identity: Vec<i64>,
    hours: BTreeSet<i64>,
    last_hour: i64,
    recent: Option<HashMap<(u32, i64), f64>>,
}

impl MemoryTier {
    /// Identities known now may have samples in files up to `floor` that are not in memory.
    pub(crate) fn new(identities: usize, floor: i64) -> Self {
        let newest_by_identity = vec![floor; identities];
        MemoryTier { newest_by_identity, last_hour: i64::MIN, ..MemoryTier::default() }
    }

    /// Learns of a stored sample, at start.
    pub(crate) fn seen(&mut self, identity: u32, at: i64) {
        let newest = &mut self.newest_by_identity[identity as usize];
        *newest = (*newest).max(at);
    }

    /// Adds a sample if it is newer than all of its identity; else says so and does nothing.
    pub(crate) fn push_newer(&mut self, identity: u32, row: Row) -> bool {
        let place = identity as usize;
        if place >= self.newest_by_identity.len() {
            // Born in this run: nothing of it is stored.
            self.newest_by_identity.resize(place + 1, i64::MIN);
        }
        if row.at <= self.newest_by_identity[place] {
            return false;
        }
        self.newest_by_identity[place] = row.at;
        self.push(identity, row);
        true
    }

    /// Adds a sample that is known to be new.
    pub(crate) fn push(&mut self, identity: u32, row: Row) {
        self.series.push(row.series);
        self.at.push(row.at);
        self.value.push(row.value);
        self.rows += 1;
        let hour = row.at.div_euclid(MICROS_PER_HOUR);
        if hour != self.last_hour {
            self.last_hour = hour;
            self.hours.insert(hour * MICROS_PER_HOUR);
        }
        if let Some(recent) = &mut self.recent {
            recent.insert((identity, row.at), row.value);
        }
        if self.series.len() >= CHUNK_ROWS {
            self.freeze();
        }
    }

    fn freeze(&mut self) {
        if self.series.is_empty() {
            return;
        }
        let take = |column: &mut Vec<i64>| std::mem::take(column);
        let (series, at) = (take(&mut self.series), take(&mut self.at));
        let mut chunk = sample_batch(series, at, std::mem::take(&mut self.value));
        // Merging with chunks of like size keeps them few, however often readers ask.
        while let Some(last) = self.frozen.pop_if(|last| {
            let (last, rows) = (last.num_rows(), chunk.num_rows());
            last <= 2 * rows && last + rows <= CHUNK_ROWS
        }) {
            chunk = match concat_batches(&chunk.schema(), [&last, &chunk]) {
                Ok(merged) => merged,
                Err(error) => panic!("chunks of samples have one schema: {error}"),
            };
        }
        self.frozen.push(chunk);
    }

    /// Value in memory under an identity and instant.
    pub(crate) fn recent(&mut self, index: &SeriesIndex, identity: u32, at: i64) -> Option<f64> {
        if self.recent.is_none() {
            self.freeze();
            let mut recent = HashMap::new();
            for batch in self.flushing.iter().chain(&self.frozen) {
                for row in rows_of(batch) {
                    if let Some(slot) = index.slot(row.series) {
                        recent.insert((index.identity(slot), row.at), row.value);
                    }
                }
            }
            self.recent = Some(recent);
        }
        self.recent.as_ref()?.get(&(identity, at)).copied()
    }

    /// Rows that no file has, including those on their way to one.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Rows that would be in the next cut.
    pub(crate) fn uncut_rows(&self) -> usize {
        self.rows - self.flushing.iter().map(RecordBatch::num_rows).sum::<usize>()
    }

    /// Everything in memory, for a view.
    pub(crate) fn batches(&mut self) -> Vec<RecordBatch> {
        self.freeze();
        self.flushing.iter().chain(&self.frozen).cloned().collect()
    }

    /// Hours that samples since the last call fell into.
    pub(crate) fn take_hours(&mut self) -> BTreeSet<i64> {
        self.last_hour = i64::MIN;
        std::mem::take(&mut self.hours)
    }

    /// Hands everything to a flush; it stays visible until [`flushed`](Self::flushed).
    pub(crate) fn cut(&mut self) -> Vec<RecordBatch> {
        assert!(self.flushing.is_empty(), "one flush at a time");
        self.freeze();
        self.flushing = std::mem::take(&mut self.frozen);
        self.flushing.clone()
    }

    /// The cut is in the table.
    pub(crate) fn flushed(&mut self) {
        self.rows -= self.flushing.iter().map(RecordBatch::num_rows).sum::<usize>();
        self.flushing.clear();
        self.recent = None;
    }
}

/// Rows of several batches in one vector.
pub(crate) fn collect_rows(batches: &[RecordBatch]) -> Vec<Row> {
    let mut rows = Vec::with_capacity(batches.iter().map(RecordBatch::num_rows).sum());
    batches.iter().for_each(|batch| rows.extend(rows_of(batch)));
    rows
}

/// What to look for in files: the series of the suspects' identities and their span of time.
pub(crate) struct Search {
    pub(crate) series: HashMap<SeriesId, u32>,
    pub(crate) instants: std::collections::HashSet<(u32, i64)>,
    pub(crate) low: i64,
    pub(crate) high: i64,
}

impl Search {
    pub(crate) fn of(suspects: &[Suspect], index: &SeriesIndex) -> Self {
        let mut search = Search {
            series: HashMap::new(),
            instants: std::collections::HashSet::new(),
            low: i64::MAX,
            high: i64::MIN,
        };
        for suspect in suspects {
            let members = index.members(suspect.identity);
            search.series.extend(members.iter().map(|&slot| (index.id(slot), suspect.identity)));
            search.instants.insert((suspect.identity, suspect.row.at));
            search.low = search.low.min(suspect.row.at);
            search.high = search.high.max(suspect.row.at);
        }
        search
    }
}
