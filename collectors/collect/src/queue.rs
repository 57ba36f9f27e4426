//! Records of one topic on their way to the log: a queue for each partition over one spool.
//!
//! Each partition is sent, acknowledged and tried again on its own; one that fails holds back none
//! of the others. Where records wait depends on their partition:
//!
//! | the partition | records wait |
//! |---|---|
//! | takes records | in memory; those of events on disk as well |
//! | fails | on disk; of them one is loaded for each attempt |
//! | catches up | on disk; a share of them is loaded |
//! | the disk fails | in memory, behind what is on disk |
//!
//! Bounds, over all partitions: files of the spool up to its size, past which the oldest segment
//! goes, once a partition with records on disk fails; records in memory up to twice `memory_max_bytes`,
//! past which the oldest of the longest queue goes; loaded records up to [`LOADED_BYTES`], or one for
//! each partition. Sources are held back before a bound is reached as long as that can help: while
//! partitions that take records have not taken them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use nilometer_contract::Timestamp;
use tokio::time::Instant;

use crate::entry::{Entry, Position};
use crate::partition::Partition;
use crate::spool::{Found, Spool, SpoolError, Unsynced};

/// How often a disk that fails is logged, at most.
const LOG_EVERY: Duration = Duration::from_secs(10);
/// About most bytes loaded from disk, shared by all partitions.
const LOADED_BYTES: usize = 4 << 20;
/// Bytes read at once: for a partition that takes records, and for one that fails.
const READ_BYTES: usize = 1 << 20;
const READ_FEW_BYTES: usize = 16 << 10;

/// One topic's queues.
pub(crate) struct Queue {
    spool: Spool,
    /// Whether every record goes to disk before it is sent.
    write_through: bool,
    partitions: BTreeMap<u32, Partition>,
    /// What a record's partition is taken modulo of, to find a queue for it.
    modulus: u32,
    /// Whether the topic could not be made ready.
    unreachable: bool,
    memory_max_bytes: usize,
    /// Time of records that damage hides, as far as it is known.
    hidden: Option<(Option<Timestamp>, Option<Timestamp>)>,
    losses: Vec<Loss>,
    /// How often the disk failed.
    pub(crate) disk_errors: u64,
    logged_at: Option<Instant>,
}

/// What was found in a spool, by partition.
#[derive(Default)]
pub(crate) struct Waiting {
    partitions: BTreeMap<u32, Partition>,
}

impl Waiting {
    /// A record was found, behind those found before.
    pub(crate) fn add(&mut self, position: Position, entry: &Entry, size: u64) {
        let partition = self.partitions.entry(entry.partition).or_default();
        partition.spooled(position, size, entry.start);
        // That the log has it may not have been written.
        partition.tried += 1;
    }
}

/// Records that are gone.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Loss {
    /// These, without payloads.
    Records(Vec<Entry>, &'static str),
    /// So many of a partition, of a time of which no more is known where it is none.
    Hidden { partition: u32, records: u64, tried: bool, start: Timestamp, end: Option<Timestamp> },
}

pub(crate) const DAMAGED: &str = "damaged in the spool";
pub(crate) const SPOOL_FULL: &str = "spool full";
const MEMORY_FULL: &str = "memory full while the spool's disk failed";

impl Queue {
    /// Queues of a topic, with what waits in its spool.
    pub(crate) fn new(
        spool: Spool,
        found: Waiting,
        write_through: bool,
        memory_max_bytes: usize,
    ) -> Self {
        Queue {
            spool,
            write_through,
            partitions: found.partitions,
            modulus: u32::MAX,
            unreachable: false,
            memory_max_bytes,
            hidden: None,
            losses: Vec::new(),
            disk_errors: 0,
            logged_at: None,
        }
    }

    /// The log said how many partitions there are. A record of a partition that there is not finds
    /// another.
    pub(crate) fn set_count(&mut self, count: u32) {
        self.unreachable = false;
        if count == self.modulus {
            return;
        }
        self.modulus = count;
        let first = self.spool.first();
        for (number, mut old) in std::mem::take(&mut self.partitions) {
            old.unload(first);
            let new = self.partitions.entry(number % count).or_default();
            if old.unread > 0 {
                new.next = if new.unread > 0 { new.next.min(old.next) } else { old.next };
                new.since = new.since.min(old.since);
            }
            // Tried are those that were found, which lie before all others.
            new.tried += old.tried;
            new.unread += old.unread;
            new.disk_bytes += old.disk_bytes;
            new.memory_bytes += old.memory_bytes;
            new.memory.append(&mut old.memory);
        }
    }

    /// Until the count is known nothing can be sent, and all that comes goes to disk.
    pub(crate) fn set_unreachable(&mut self) {
        self.unreachable = true;
        self.spill_all();
    }

    /// Whether everything was acknowledged.
    pub(crate) fn is_empty(&self) -> bool {
        self.partitions.values().all(Partition::is_empty)
    }

    /// Bytes on disk that wait.
    pub(crate) fn spooled_bytes(&self) -> u64 {
        self.partitions.values().map(|partition| partition.disk_bytes).sum()
    }

    /// The partitions that fail.
    pub(crate) fn failing(&self) -> impl Iterator<Item = (u32, &Partition)> {
        let all = self.partitions.iter().map(|(number, partition)| (*number, partition));
        all.filter(|(_, partition)| partition.retry.fails())
    }

    /// A partition's queue.
    pub(crate) fn partition(&mut self, number: u32) -> &mut Partition {
        self.partitions.entry(number).or_default()
    }

    /// All of them.
    pub(crate) fn partitions(&mut self) -> impl Iterator<Item = &mut Partition> {
        self.partitions.values_mut()
    }

    /// The partitions that could send now, and whether they failed last.
    pub(crate) fn ready(&self, now: Instant) -> Vec<(u32, bool)> {
        let ready = self.partitions.iter().filter(|(_, partition)| {
            partition.sending == 0 && !partition.is_empty() && partition.retry.at <= now
        });
        ready.map(|(number, partition)| (*number, partition.retry.fails())).collect()
    }

    /// When the next partition that waits may try again.
    pub(crate) fn next_retry(&self) -> Option<Instant> {
        let waiting = self.partitions.values();
        let waiting = waiting.filter(|partition| partition.sending == 0 && !partition.is_empty());
        waiting.map(|partition| partition.retry.at).min()
    }

    /// Takes records in.
    pub(crate) fn push(&mut self, entries: Vec<Entry>) {
        let mut to_disk = Vec::with_capacity(entries.len());
        for entry in entries {
            let partition = self.partitions.entry(entry.partition % self.modulus).or_default();
            let fails = self.unreachable || partition.retry.fails();
            let on_disk = self.write_through || fails || partition.unread > 0;
            if !on_disk || partition.sends_memory() {
                partition.memory_bytes += entry.size();
                partition.memory.push_back(entry);
                continue;
            }
            // Never behind what is newer.
            partition.memory_bytes = 0;
            to_disk.extend(partition.memory.drain(..));
            to_disk.push(entry);
        }
        self.write(to_disk);
        self.bound_memory();
    }

    /// Writes records that are the newest of their partitions, a segment's worth at a time; what
    /// cannot be written stays in memory.
    fn write(&mut self, entries: Vec<Entry>) {
        let most = self.part_bytes();
        let mut entries = entries.into_iter().peekable();
        while entries.peek().is_some() {
            let (mut part, mut bytes) = (Vec::new(), 0);
            while bytes < most
                && let Some(entry) = entries.next()
            {
                bytes += entry.size();
                part.push(entry);
            }
            match self.spool.push(&part) {
                Ok(positions) => self.spooled(part, positions),
                Err(error) => {
                    self.disk_failed(&error);
                    for entry in part.into_iter().chain(entries) {
                        let partition =
                            self.partitions.entry(entry.partition % self.modulus).or_default();
                        partition.memory_bytes += entry.size();
                        partition.memory.push_back(entry);
                    }
                    return;
                }
            }
        }
    }

    fn spooled(&mut self, entries: Vec<Entry>, positions: Vec<Position>) {
        let share = self.share();
        for (position, entry) in positions.into_iter().zip(entries) {
            let partition = self.partitions.entry(entry.partition % self.modulus).or_default();
            let fails = self.unreachable || partition.retry.fails();
            partition.spooled(position, entry.size() as u64, entry.start);
            if !fails && partition.unread == 1 && partition.takes(share) {
                partition.load(position, entry);
            }
        }
    }

    /// Bytes that one partition may have loaded.
    fn share(&self) -> usize {
        LOADED_BYTES / self.partitions.len().max(1)
    }

    /// Moves to disk what is only in memory, but for what is being sent.
    pub(crate) fn spill_all(&mut self) {
        let numbers: Vec<u32> = self.partitions.keys().copied().collect();
        numbers.into_iter().for_each(|number| self.spill(number));
    }

    fn spill(&mut self, number: u32) {
        let Some(partition) = self.partitions.get_mut(&number) else { return };
        if !partition.sends_memory() {
            partition.memory_bytes = 0;
            let entries = std::mem::take(&mut partition.memory).into();
            self.write(entries);
        }
    }

    /// Begins an attempt of a partition with its oldest records, loaded first if need be.
    pub(crate) fn begin(&mut self, number: u32) -> Result<Vec<Bytes>, SpoolError> {
        while let Some(partition) = self.partitions.get(&number)
            && partition.loaded.is_empty()
            && partition.unread > 0
        {
            self.load(number)?;
        }
        Ok(self.partition(number).begin())
    }

    /// Reads on for a partition; the others that are as far take what is theirs.
    fn load(&mut self, number: u32) -> Result<(), SpoolError> {
        let (share, modulus) = (self.share(), self.modulus);
        let Some(target) = self.partitions.get(&number) else { return Ok(()) };
        let from = target.next;
        let want = if target.retry.fails() { READ_FEW_BYTES } else { READ_BYTES };
        let chunk = self.spool.read(from, want)?;
        // Those that left a record of this chunk to be read later.
        let mut behind = BTreeSet::new();
        let mut damaged = Vec::new();
        for (position, found) in chunk.found {
            let (mut entry, size, whole) = match found {
                Found::Record(entry, size) => (entry, size, true),
                Found::Damaged(entry, size) => (entry, size, false),
                Found::Unknown(unknown) => {
                    let (start, end) = unknown.span();
                    let (from, upto) = self.hidden.unwrap_or((start, end));
                    let end = end.and_then(|end| Some(upto?.max(end)));
                    self.hidden = Some((start.and_then(|start| Some(from?.min(start))), end));
                    continue;
                }
            };
            let owner = entry.partition % modulus;
            let Some(partition) = self.partitions.get_mut(&owner) else { continue };
            if partition.next < from || position < partition.next || behind.contains(&owner) {
                continue;
            }
            let joins = owner == number || !(self.unreachable || partition.retry.fails());
            if partition.unread == 0 {
                continue;
            } else if !joins || !partition.takes(share) {
                partition.next = position;
                behind.insert(owner);
            } else if whole {
                partition.load(position, entry);
            } else {
                entry.tried = partition.skip(size);
                damaged.push(entry);
            }
        }
        if !damaged.is_empty() {
            self.losses.push(Loss::Records(damaged, DAMAGED));
        }
        let end = chunk.end;
        for (&number, partition) in &mut self.partitions {
            if partition.unread == 0 || partition.next < from || behind.contains(&number) {
                continue;
            }
            match end {
                Some(end) => partition.next = partition.next.max(end),
                // All was read, and not all was there.
                None => {
                    let (records, tried) = partition.skip_all();
                    let (start, end) = self.hidden.unwrap_or_default();
                    let (partition, start) = (number, start.unwrap_or(partition.since));
                    self.losses.push(Loss::Hidden { partition, records, tried, start, end });
                }
            }
        }
        Ok(())
    }

    /// The records of the attempt are in the log, or set aside; returns how many there were.
    pub(crate) fn acknowledged(&mut self, number: u32) -> usize {
        self.partition(number).acknowledged()
    }

    /// The records of the attempt may not be in the log.
    pub(crate) fn failed(&mut self, number: u32) {
        let first = self.spool.first();
        self.partition(number).failed(first);
        self.spill(number);
    }

    /// The log refused a record of the attempt: the record, once the attempt has no other.
    pub(crate) fn refused(&mut self, number: u32) -> Option<Entry> {
        self.partition(number).refused()
    }

    /// Nothing is being sent any more; what is in memory goes to disk.
    pub(crate) fn stop(&mut self) {
        let first = self.spool.first();
        self.partitions.values_mut().for_each(|partition| partition.failed(first));
        self.spill_all();
    }

    /// What was lost since the last call.
    pub(crate) fn take_losses(&mut self) -> Vec<Loss> {
        std::mem::take(&mut self.losses)
    }

    /// What is to be synced.
    pub(crate) fn take_unsynced(&mut self) -> Unsynced {
        self.spool.take_unsynced()
    }

    /// Counts a failure of the disk; logs it now and then, since it may come with each record.
    pub(crate) fn disk_failed(&mut self, error: &(dyn std::error::Error + 'static)) {
        self.disk_errors += 1;
        if self.logged_at.is_none_or(|at| at.elapsed() >= LOG_EVERY) {
            self.logged_at = Some(Instant::now());
            tracing::error!(error, "the spool failed, records stay in memory");
        }
    }
}

mod bound;
#[cfg(test)]
mod tests;
