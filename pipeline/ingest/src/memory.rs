//! The memory tier of the samples, and the guard of their identity (invariant 3).
//!
//! Most samples are newer than the newest of their identity, so one comparison tells that they
//! are new. The others are *suspects*: a repeat, a conflict, or simply late; they are looked up
//! in memory and then in the files.

use std::collections::{BTreeSet, HashMap};

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::{concat_batches, filter_record_batch};
use nilometer_contract::MICROS_PER_HOUR;
use nilometer_log::LogId;
use nilometer_store::{Row, SeriesId, rows_of, sample_batch};

use crate::index::SeriesIndex;
use crate::stream::Origin;

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

/// How many rows of a chunk came with one record of the log.
#[derive(Clone, Copy, Debug)]
struct Run {
    partition: u32,
    log: LogId,
    offset: u64,
    rows: usize,
}

/// Rows in order of arrival, and where they came from.
struct Chunk {
    batch: RecordBatch,
    runs: Vec<Run>,
}

/// Samples that are not in a file yet.
#[derive(Default)]
pub(crate) struct MemoryTier {
    chunks: Vec<Chunk>,
    /// How many of the chunks are on their way to a file.
    in_cut: usize,
    series: Vec<i64>,
    at: Vec<i64>,
    value: Vec<f64>,
    epoch: Vec<i64>,
    runs: Vec<Run>,
    rows: usize,
    newest_by_identity: Vec<i64>,
    /// The same of identities that are not known yet.
    newest_of_others: i64,
    hours: BTreeSet<i64>,
    last_hour: i64,
    recent: Option<HashMap<(u32, i64), f64>>,
}

impl Chunk {
    fn followed_by(mut self, next: Chunk) -> Chunk {
        self.batch = match concat_batches(&self.batch.schema(), [&self.batch, &next.batch]) {
            Ok(merged) => merged,
            Err(error) => panic!("chunks of samples have one schema: {error}"),
        };
        self.runs.extend(next.runs);
        self
    }

    /// The rows whose records are not stored yet.
    fn not_stored(mut self, is_stored: impl Fn(u32, LogId, u64) -> bool) -> Option<Chunk> {
        let left = |run: &Run| !is_stored(run.partition, run.log, run.offset);
        if self.runs.iter().all(left) {
            return Some(self);
        }
        let mask = self.runs.iter().flat_map(|run| std::iter::repeat_n(left(run), run.rows));
        let mask = BooleanArray::from_iter(mask.map(Some));
        self.batch = match filter_record_batch(&self.batch, &mask) {
            Ok(batch) => batch,
            Err(error) => panic!("runs are as long as their chunk: {error}"),
        };
        self.runs.retain(left);
        (!self.runs.is_empty()).then_some(self)
    }
}

impl MemoryTier {
    /// Identities known now may have samples in files up to `floor` that are not in memory.
    pub(crate) fn new(identities: usize, floor: i64) -> Self {
        let newest_by_identity = vec![floor; identities];
        MemoryTier {
            newest_by_identity,
            newest_of_others: i64::MIN,
            last_hour: i64::MIN,
            ..MemoryTier::default()
        }
    }

    /// Learns of a stored sample.
    pub(crate) fn seen(&mut self, identity: u32, at: i64) {
        let newest = self.newest_of(identity);
        *newest = (*newest).max(at);
    }

    /// Files may have samples up to `newest` of any identity that are not known here.
    pub(crate) fn doubt(&mut self, newest: i64) {
        self.newest_of_others = self.newest_of_others.max(newest);
        self.newest_by_identity.iter_mut().for_each(|at| *at = newest.max(*at));
    }

    /// Newest instant of an identity; of one born in this run nothing is stored, as a rule.
    fn newest_of(&mut self, identity: u32) -> &mut i64 {
        let place = identity as usize;
        if place >= self.newest_by_identity.len() {
            self.newest_by_identity.resize(place + 1, self.newest_of_others);
        }
        &mut self.newest_by_identity[place]
    }

    /// Adds a sample if it is newer than all of its identity; else says so and does nothing.
    pub(crate) fn push_newer(&mut self, identity: u32, row: Row, origin: &Origin) -> bool {
        let newest = self.newest_of(identity);
        if row.at <= *newest {
            return false;
        }
        *newest = row.at;
        self.push(identity, row, origin);
        true
    }

    /// Adds a sample that is known to be new.
    pub(crate) fn push(&mut self, identity: u32, row: Row, origin: &Origin) {
        self.series.push(row.series);
        self.at.push(row.at);
        self.value.push(row.value);
        self.epoch.push(row.epoch);
        self.rows += 1;
        let Origin { partition, log, offset, .. } = *origin;
        match self.runs.last_mut() {
            Some(run) if (run.partition, run.log, run.offset) == (partition, log, offset) => {
                run.rows += 1;
            }
            _ => self.runs.push(Run { partition, log, offset, rows: 1 }),
        }
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
        let (value, epoch) = (std::mem::take(&mut self.value), take(&mut self.epoch));
        let batch = sample_batch(series, at, value, epoch);
        let mut chunk = Chunk { batch, runs: std::mem::take(&mut self.runs) };
        // Merging with chunks of like size keeps them few, however often readers ask.
        while self.chunks.len() > self.in_cut
            && let Some(last) = self.chunks.pop_if(|last| {
                let (last, rows) = (last.batch.num_rows(), chunk.batch.num_rows());
                last <= 2 * rows && last + rows <= CHUNK_ROWS
            })
        {
            chunk = last.followed_by(chunk);
        }
        self.chunks.push(chunk);
    }

    /// Value in memory under an identity and instant.
    pub(crate) fn recent(&mut self, index: &SeriesIndex, identity: u32, at: i64) -> Option<f64> {
        if self.recent.is_none() {
            self.freeze();
            let mut recent = HashMap::new();
            for chunk in &self.chunks {
                for row in rows_of(&chunk.batch) {
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
        let cut = self.chunks[..self.in_cut].iter().map(|chunk| chunk.batch.num_rows());
        self.rows - cut.sum::<usize>()
    }

    /// Everything in memory, for a view.
    pub(crate) fn batches(&mut self) -> Vec<RecordBatch> {
        self.freeze();
        self.chunks.iter().map(|chunk| chunk.batch.clone()).collect()
    }

    /// Hours that samples since the last call fell into.
    pub(crate) fn take_hours(&mut self) -> BTreeSet<i64> {
        self.last_hour = i64::MIN;
        std::mem::take(&mut self.hours)
    }

    /// Hands everything to a flush; it stays visible until it is [stored](Self::stored).
    pub(crate) fn cut(&mut self) -> Vec<RecordBatch> {
        assert!(self.in_cut == 0, "one flush at a time");
        let batches = self.batches();
        self.in_cut = batches.len();
        batches
    }

    /// Drops the rows of records that the table has now, by partition, log and offset.
    pub(crate) fn stored(&mut self, is_stored: impl Fn(u32, LogId, u64) -> bool) {
        self.freeze();
        self.in_cut = 0;
        let chunks = std::mem::take(&mut self.chunks).into_iter();
        self.chunks = chunks.filter_map(|chunk| chunk.not_stored(&is_stored)).collect();
        self.rows = self.chunks.iter().map(|chunk| chunk.batch.num_rows()).sum();
        self.recent = None;
    }
}

/// Rows of several batches in one vector.
pub(crate) fn collect_rows(batches: &[RecordBatch]) -> Vec<Row> {
    let mut rows = Vec::with_capacity(batches.iter().map(RecordBatch::num_rows).sum());
    batches.iter().for_each(|batch| rows.extend(rows_of(batch)));
    rows
}

/// What to look for in files: the series of identities and their span of time.
pub(crate) struct Search {
    pub(crate) series: HashMap<SeriesId, u32>,
    pub(crate) instants: std::collections::HashSet<(u32, i64)>,
    pub(crate) low: i64,
    pub(crate) high: i64,
}

impl Search {
    /// Of identities and instants.
    pub(crate) fn of(wanted: impl Iterator<Item = (u32, i64)>, index: &SeriesIndex) -> Self {
        let mut search = Search {
            series: HashMap::new(),
            instants: std::collections::HashSet::new(),
            low: i64::MAX,
            high: i64::MIN,
        };
        for (identity, at) in wanted {
            let members = index.members(identity);
            search.series.extend(members.iter().map(|&slot| (index.id(slot), identity)));
            search.instants.insert((identity, at));
            search.low = search.low.min(at);
            search.high = search.high.max(at);
        }
        search
    }
}
