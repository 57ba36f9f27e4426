//! Records of one topic on their way to the log, in order: on disk, then in memory.
//!
//! ```text
//! sent ◄── spool, oldest first ──┤ memory, oldest first ──┤ ◄── pushed
//! ```
//!
//! What is in memory is always newer than what is on disk: a record goes to disk only after all
//! of memory did. Memory is used while the log takes records, and when the disk does not.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::entry::Entry;
use crate::spool::{Mark, Spool};

/// How often a disk that fails is said to, at most.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Most records, and about most bytes, handed out at once.
const WINDOW_RECORDS: usize = 512;
const WINDOW_BYTES: usize = 4 << 20;

/// One topic's queue.
pub(crate) struct Lane {
    spool: Spool,
    /// Whether every record goes to disk before it is sent.
    write_through: bool,
    memory: VecDeque<Entry>,
    memory_bytes: usize,
    memory_max_bytes: usize,
    /// Records at the front of memory that are handed out.
    handed_out: usize,
    /// How often the disk failed.
    pub(crate) disk_errors: u64,
    /// When that was last said.
    told: Option<Instant>,
}

/// Records handed out; they stay in the lane until they are [`sent`](Lane::sent).
#[derive(Debug)]
pub(crate) struct Window {
    pub(crate) entries: Vec<Entry>,
    /// Whether the lane holds nothing else.
    pub(crate) is_all: bool,
    mark: Option<Mark>,
}

impl Lane {
    pub(crate) fn new(spool: Spool, write_through: bool, memory_max_bytes: usize) -> Self {
        Lane {
            spool,
            write_through,
            memory: VecDeque::new(),
            memory_bytes: 0,
            memory_max_bytes,
            handed_out: 0,
            disk_errors: 0,
            told: None,
        }
    }

    /// Whether everything was sent.
    pub(crate) fn is_empty(&self) -> bool {
        self.spool.is_empty() && self.memory.is_empty()
    }

    /// Bytes that wait on disk.
    pub(crate) fn spooled_bytes(&self) -> u64 {
        self.spool.bytes()
    }

    /// Whether it can take more without coming near a bound.
    pub(crate) fn has_room(&self) -> bool {
        self.memory_bytes < self.memory_max_bytes && !self.spool.is_tight()
    }

    /// Takes records in; returns those dropped at the bound, oldest first, without payloads.
    pub(crate) fn push(&mut self, entries: Vec<Entry>, log_is_away: bool) -> Vec<Entry> {
        let on_disk = self.write_through || log_is_away || !self.spool.is_empty();
        if on_disk {
            self.spill();
        }
        if !(on_disk && self.memory.is_empty() && self.write(&entries)) {
            self.memory_bytes += entries.iter().map(Entry::size).sum::<usize>();
            self.memory.extend(entries);
        }
        self.bound()
    }

    /// Moves what is in memory to disk; what is handed out stays until it comes back.
    pub(crate) fn spill(&mut self) {
        if self.handed_out > 0 || self.memory.is_empty() {
            return;
        }
        let memory = std::mem::take(&mut self.memory);
        let entries: Vec<Entry> = memory.into();
        if self.write(&entries) {
            self.memory_bytes = 0;
        } else {
            self.memory = entries.into();
        }
    }

    fn write(&mut self, entries: &[Entry]) -> bool {
        match self.spool.push(entries) {
            Ok(()) => true,
            Err(error) => {
                self.disk_failed(&error);
                false
            }
        }
    }

    /// Counts a failure of the disk; says so now and then, since each record meets it.
    pub(crate) fn disk_failed(&mut self, error: &dyn std::error::Error) {
        self.disk_errors += 1;
        if self.told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
            self.told = Some(Instant::now());
            tracing::error!(%error, cause = error.source(), "spool failed, records stay in memory");
        }
    }

    fn bound(&mut self) -> Vec<Entry> {
        let mut dropped = match self.spool.bound() {
            Ok(dropped) => dropped,
            Err(error) => {
                self.disk_failed(&error);
                Vec::new()
            }
        };
        // Memory is past its bound only when the disk fails and sources cannot be held up.
        while self.memory_bytes > 2 * self.memory_max_bytes && self.handed_out == 0 {
            let Some(mut oldest) = self.memory.pop_front() else { break };
            self.memory_bytes -= oldest.size();
            oldest.payload.clear();
            dropped.push(oldest);
        }
        dropped
    }

    /// Hands out the oldest records; nothing when there is none.
    pub(crate) fn front(&mut self) -> Option<Window> {
        match self.spool.front(WINDOW_RECORDS, WINDOW_BYTES) {
            Ok(Some((entries, mark))) => {
                let bytes: u64 = entries.iter().map(|entry| entry.size() as u64).sum();
                let is_all = self.memory.is_empty() && bytes == self.spool.bytes();
                return Some(Window { entries, is_all, mark: Some(mark) });
            }
            Ok(None) => {}
            Err(error) => {
                self.disk_failed(&error);
                return None;
            }
        }
        let mut bytes = 0;
        let fits = |entry: &&Entry| {
            bytes += entry.size();
            bytes <= WINDOW_BYTES
        };
        let count = self.memory.iter().take(WINDOW_RECORDS).take_while(fits).count();
        let count = count.max(1).min(self.memory.len());
        self.handed_out = count;
        let entries: Vec<Entry> = self.memory.iter().take(count).cloned().collect();
        let is_all = count == self.memory.len();
        (count > 0).then_some(Window { entries, is_all, mark: None })
    }

    /// The records of the window are in the log.
    pub(crate) fn sent(&mut self, window: &Window) {
        match window.mark {
            Some(mark) => self.spool.sent(mark),
            None => {
                let sent = self.memory.drain(..self.handed_out);
                self.memory_bytes -= sent.map(|entry| entry.size()).sum::<usize>();
                self.handed_out = 0;
            }
        }
    }

    /// The records of the window may not be in the log; everything goes to disk.
    pub(crate) fn failed(&mut self) {
        self.handed_out = 0;
        self.spill();
    }

    /// Removes from disk what was sent.
    pub(crate) fn trim(&mut self) {
        if let Err(error) = self.spool.trim() {
            self.disk_failed(&error);
        }
    }

    /// The files to sync.
    pub(crate) fn take_unsynced(&mut self) -> Vec<Arc<File>> {
        self.spool.take_unsynced()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nilometer_contract::Timestamp;

    fn entry(number: u32) -> Entry {
        let at = Timestamp::from_seconds(i64::from(number));
        Entry { partition: number, samples: 1, start: at, end: at, payload: vec![0; 100].into() }
    }

    fn sent(lane: &mut Lane) -> Vec<u32> {
        let mut numbers = Vec::new();
        while let Some(window) = lane.front() {
            numbers.extend(window.entries.iter().map(|entry| entry.partition));
            lane.sent(&window);
        }
        numbers
    }

    #[test]
    fn a_disk_that_fails_loses_nothing_that_fits_in_memory_and_keeps_the_order() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lane");
        let (spool, _) = Spool::open(&path, 1 << 20, drop).unwrap();
        let mut lane = Lane::new(spool, true, 1 << 20);
        std::fs::remove_dir(&path).unwrap();
        assert!(lane.push(vec![entry(1), entry(2)], false).is_empty());
        assert_eq!((lane.disk_errors, lane.spooled_bytes()), (1, 0));
        std::fs::create_dir(&path).unwrap();
        assert!(lane.push(vec![entry(3)], false).is_empty());
        assert!(lane.spooled_bytes() > 0, "what waited in memory went to disk first");
        assert_eq!(sent(&mut lane), [1, 2, 3]);
    }

    #[test]
    fn a_disk_that_fails_for_long_drops_the_oldest_from_memory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lane");
        let (spool, _) = Spool::open(&path, 1 << 20, drop).unwrap();
        let mut lane = Lane::new(spool, false, 2 * entry(0).size());
        std::fs::remove_dir(&path).unwrap();
        let dropped = lane.push((1..=6).map(entry).collect(), true);
        assert_eq!(dropped.iter().map(|entry| entry.partition).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(sent(&mut lane), [3, 4, 5, 6]);
    }

    #[test]
    fn what_is_handed_out_from_memory_stays_in_front_when_it_fails() {
        let dir = tempfile::tempdir().unwrap();
        let (spool, _) = Spool::open(dir.path(), 1 << 20, drop).unwrap();
        let mut lane = Lane::new(spool, false, 1 << 20);
        lane.push(vec![entry(1), entry(2)], false);
        assert!(lane.front().unwrap().is_all);
        lane.push(vec![entry(3)], true);
        lane.failed();
        lane.push(vec![entry(4)], true);
        assert_eq!(sent(&mut lane), [1, 2, 3, 4]);
    }
}
