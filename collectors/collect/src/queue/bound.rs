//! What is removed from a topic's queues, and when sources are held back.

use super::{Loss, MEMORY_FULL, Queue};
use crate::entry::{Entry, Position};
use crate::partition::Partition;
use crate::spool::Found;

impl Queue {
    /// Whether it can take more: whether holding sources back could not help.
    pub(crate) fn has_room(&self) -> bool {
        if self.unreachable {
            return true;
        }
        let takes = || self.partitions.values().filter(|partition| !partition.retry.fails());
        let memory_bytes: usize = takes().map(|partition| partition.memory_bytes).sum();
        memory_bytes < self.memory_max_bytes
            && !(self.spool.is_tight() && takes().any(Partition::is_on_disk))
    }

    /// Whether more than half of the spool is taken.
    pub(crate) fn is_tight(&self) -> bool {
        self.spool.is_tight()
    }

    /// Bytes to push at once, at most, so that the bound is kept closely.
    pub(crate) fn part_bytes(&self) -> usize {
        self.spool.segment_bytes()
    }

    /// Whether the oldest segment is to go; then [`oldest`](Self::oldest) and
    /// [`drop_oldest`](Self::drop_oldest).
    pub(crate) fn is_over(&self) -> bool {
        let fails = |partition: &Partition| self.unreachable || partition.retry.fails();
        let stuck = |partition: &Partition| fails(partition) && partition.is_on_disk();
        self.spool.is_over() && self.partitions.values().any(stuck)
    }

    /// The records of the oldest segment that nobody took, without payloads. They count as gone.
    pub(crate) fn oldest(&mut self) -> Vec<Entry> {
        let found = match self.spool.oldest() {
            Ok(found) => found,
            Err(error) => {
                // What was in it is missed when reading comes to the end.
                self.disk_failed(&error);
                Vec::new()
            }
        };
        let mut lost = Vec::new();
        for (position, found) in found {
            let (Found::Record(mut entry, size) | Found::Damaged(mut entry, size)) = found else {
                continue;
            };
            let partition = self.partitions.get_mut(&(entry.partition % self.modulus));
            if let Some(tried) = partition.and_then(|partition| partition.lose(position, size)) {
                entry.payload.clear();
                entry.tried = tried;
                lost.push(entry);
            }
        }
        lost
    }

    /// Removes the oldest segment; says whether it is gone.
    pub(crate) fn drop_oldest(&mut self) -> bool {
        let removed = self.spool.remove_oldest();
        removed.map_err(|error| self.disk_failed(&error)).is_ok()
    }

    /// Memory is past its bound only when the disk fails and sources cannot be held back.
    pub(super) fn bound_memory(&mut self) {
        let mut dropped = Vec::new();
        let mut bytes: usize =
            self.partitions.values().map(|partition| partition.memory_bytes).sum();
        while bytes > 2 * self.memory_max_bytes {
            let idle = self.partitions.values_mut().filter(|partition| !partition.sends_memory());
            let longest = idle.rev().max_by_key(|partition| partition.memory_bytes);
            let Some(longest) = longest else { break };
            let Some(mut oldest) = longest.drop_from_memory() else { break };
            bytes -= oldest.size();
            oldest.payload.clear();
            dropped.push(oldest);
        }
        if !dropped.is_empty() {
            self.losses.push(Loss::Records(dropped, MEMORY_FULL));
        }
    }

    /// Whether segments can be trimmed.
    pub(crate) fn can_trim(&self) -> bool {
        self.spool.has_before(self.needed())
    }

    fn needed(&self) -> Option<Position> {
        self.partitions.values().filter_map(Partition::head).min()
    }

    /// Removes from disk the segments before the oldest record that waits.
    pub(crate) fn trim(&mut self) {
        if let Err(error) = self.spool.trim(self.needed()) {
            self.disk_failed(&error);
        }
    }
}
