//! The records of one partition that wait, in order.
//!
//! ```text
//! acknowledged ◄── loaded (on disk, in memory too) ──┤ unread (on disk) ──┤ memory only ──┤ ◄── pushed
//!                  └ sending ┘                        └ next
//! ```
//!
//! What is only in memory is newer than what is on disk. Records being sent are at the front of
//! `loaded`, or of `memory` when there is nothing on disk; they stay there until acknowledged.

use std::collections::VecDeque;

use bytes::Bytes;
use nilometer_contract::Timestamp;

use crate::entry::{Entry, Position};
use crate::retry::Retry;

/// Most records, and about most bytes, in one attempt.
pub(crate) const WINDOW_RECORDS: usize = 512;
pub(crate) const WINDOW_BYTES: usize = 4 << 20;

/// The queue of one partition.
pub(crate) struct Partition {
    pub(super) loaded: VecDeque<(Position, Entry)>,
    pub(super) loaded_bytes: usize,
    /// Where the first unread record lies, or lies after.
    pub(super) next: Position,
    pub(super) unread: u64,
    /// Bytes of all that is on disk.
    pub(super) disk_bytes: u64,
    /// Start of the oldest record on disk; only meaningful while there is any.
    pub(super) since: Timestamp,
    pub(super) memory: VecDeque<Entry>,
    pub(super) memory_bytes: usize,
    /// How many records the attempt under way has; none without one.
    pub(super) sending: usize,
    /// How many of the oldest records an attempt had of which it is not known how it ended: they may
    /// be in the log.
    pub(super) tried: usize,
    sends_memory: bool,
    /// Most records in the next attempt: one after a failure, more with every success.
    limit: usize,
    pub(crate) retry: Retry,
}

impl Default for Partition {
    fn default() -> Self {
        Partition {
            loaded: VecDeque::new(),
            loaded_bytes: 0,
            next: Position::default(),
            unread: 0,
            disk_bytes: 0,
            since: Timestamp::MAX,
            memory: VecDeque::new(),
            memory_bytes: 0,
            sending: 0,
            tried: 0,
            sends_memory: false,
            limit: WINDOW_RECORDS,
            retry: Retry::default(),
        }
    }
}

impl Partition {
    /// Whether everything was acknowledged.
    pub(super) fn is_empty(&self) -> bool {
        !self.is_on_disk() && self.memory.is_empty()
    }

    /// Whether records of it that are not acknowledged are on disk.
    pub(super) fn is_on_disk(&self) -> bool {
        self.unread > 0 || !self.loaded.is_empty()
    }

    /// Where its first record on disk lies.
    pub(super) fn head(&self) -> Option<Position> {
        let loaded = self.loaded.front().map(|(position, _)| *position);
        loaded.or((self.unread > 0).then_some(self.next))
    }

    /// Whether an attempt is under way.
    pub(crate) fn is_sending(&self) -> bool {
        self.sending > 0
    }

    /// Whether an attempt sends records that are only in memory.
    pub(super) fn sends_memory(&self) -> bool {
        self.sending > 0 && self.sends_memory
    }

    /// A record of it was found or written on disk, behind all others of it there.
    pub(super) fn spooled(&mut self, position: Position, size: u64, start: Timestamp) {
        if !self.is_on_disk() {
            self.since = start;
        }
        if self.unread == 0 {
            self.next = position;
        }
        self.since = self.since.min(start);
        self.unread += 1;
        self.disk_bytes += size;
    }

    /// The next unread record, read from where it lies.
    pub(super) fn load(&mut self, position: Position, entry: Entry) {
        self.unread = self.unread.saturating_sub(1);
        self.loaded_bytes += entry.size();
        self.loaded.push_back((position, entry));
    }

    /// Whether it has room for more loaded records, of a share of so many bytes.
    pub(super) fn takes(&self, share_bytes: usize) -> bool {
        match self.limit {
            1 => self.loaded.is_empty(),
            _ => self.loaded.is_empty() || self.loaded_bytes < share_bytes,
        }
    }

    /// Begins an attempt with its oldest records; none when there are none at hand.
    pub(super) fn begin(&mut self) -> Vec<Bytes> {
        self.sends_memory = self.loaded.is_empty();
        let mut bytes = 0;
        let mut fits = |entry: &Entry| {
            bytes += entry.size();
            bytes == entry.size() || bytes <= WINDOW_BYTES
        };
        let payload = |entry: &Entry| fits(entry).then(|| entry.payload.clone());
        let payloads: Vec<Bytes> = match self.sends_memory {
            true => self.memory.iter().take(self.limit).map_while(payload).collect(),
            false => {
                let loaded = self.loaded.iter().map(|(_, entry)| entry);
                loaded.take(self.limit).map_while(payload).collect()
            }
        };
        self.sending = payloads.len();
        payloads
    }

    /// The records of the attempt are in the log, or need not be; returns how many there were.
    pub(super) fn acknowledged(&mut self) -> usize {
        let sent = std::mem::take(&mut self.sending);
        self.tried = self.tried.saturating_sub(sent);
        self.limit = (self.limit * 4).min(WINDOW_RECORDS);
        if self.sends_memory {
            let gone = self.memory.drain(..sent.min(self.memory.len()));
            self.memory_bytes -= gone.map(|entry| entry.size()).sum::<usize>();
            return sent;
        }
        let gone = self.loaded.drain(..sent.min(self.loaded.len()));
        let bytes: usize = gone.map(|(_, entry)| entry.size()).sum();
        self.loaded_bytes -= bytes;
        self.disk_bytes = match self.is_on_disk() {
            true => self.disk_bytes.saturating_sub(bytes as u64),
            false => 0,
        };
        sent
    }

    /// The attempt failed: what was loaded is left to the disk again, from segment `first` on.
    pub(super) fn failed(&mut self, first: u64) {
        self.end_unknown();
        self.limit = 1;
        self.unload(first);
    }

    /// How the attempt ended is not known.
    fn end_unknown(&mut self) {
        self.tried = self.tried.max(std::mem::take(&mut self.sending));
    }

    pub(super) fn unload(&mut self, first: u64) {
        let mut loaded = std::mem::take(&mut self.loaded);
        let before = loaded.len();
        self.loaded_bytes = 0;
        // Those that were reported lost while they were sent.
        loaded.retain(|(position, _)| position.segment >= first);
        self.tried = self.tried.saturating_sub(before - loaded.len());
        if let Some((position, _)) = loaded.front() {
            self.next = *position;
            self.unread += loaded.len() as u64;
        }
    }

    /// One of the attempt's records is refused: the record, if it is the only one.
    pub(super) fn refused(&mut self) -> Option<Entry> {
        if self.sending > 1 {
            self.limit = (self.sending / 2).max(1);
            self.end_unknown();
            return None;
        }
        match self.sends_memory {
            true => self.memory.front().cloned(),
            false => self.loaded.front().map(|(_, entry)| entry.clone()),
        }
    }

    /// The record at `position` goes from disk; returns whether it was tried, if it was still needed.
    pub(super) fn lose(&mut self, position: Position, size: u64) -> Option<bool> {
        if self.head().is_none_or(|head| position < head) {
            return None;
        }
        let Some(place) = self.loaded.iter().position(|(at, _)| *at == position) else {
            return Some(self.skip(size));
        };
        self.disk_bytes = self.disk_bytes.saturating_sub(size);
        if place < self.sending && !self.sends_memory {
            // Being sent: it may get there all the same, but that is not known.
            return Some(true);
        }
        if let Some((_, entry)) = self.loaded.remove(place) {
            self.loaded_bytes -= entry.size();
        }
        Some(self.take_tried(place, 1) > 0)
    }

    /// The next unread record is lost; returns whether it was tried.
    pub(super) fn skip(&mut self, size: u64) -> bool {
        self.unread = self.unread.saturating_sub(1);
        self.disk_bytes = self.disk_bytes.saturating_sub(size);
        self.take_tried(self.loaded.len(), 1) > 0
    }

    /// All unread records are lost; returns how many there were, and whether any was tried.
    pub(super) fn skip_all(&mut self) -> (u64, bool) {
        let records = std::mem::take(&mut self.unread);
        self.disk_bytes = self.loaded_bytes as u64;
        let most = usize::try_from(records).unwrap_or(usize::MAX);
        (records, self.take_tried(self.loaded.len(), most) > 0)
    }

    /// The oldest record that is only in memory is lost; returns it.
    pub(super) fn drop_from_memory(&mut self) -> Option<Entry> {
        let mut oldest = self.memory.pop_front()?;
        self.memory_bytes -= oldest.size();
        let unread = usize::try_from(self.unread).unwrap_or(usize::MAX);
        oldest.tried = self.take_tried(self.loaded.len().saturating_add(unread), 1) > 0;
        Some(oldest)
    }

    /// Up to so many records from a place on are gone; returns how many of them were tried.
    fn take_tried(&mut self, place: usize, records: usize) -> usize {
        let tried = self.tried.saturating_sub(place).min(records);
        self.tried -= tried;
        tried
    }
}
