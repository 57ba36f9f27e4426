//! What was decided and not seen yet (invariant 18).
//!
//! An entry counts against its node from the instant of the decision until the estate shows the
//! workload somewhere, or until it expires. What the estate shows counts by its requests until
//! samples of it have come, so between decision and sample nothing goes uncounted.

use std::collections::VecDeque;

use nilometer_contract::Timestamp;

use crate::request::Request;
use crate::score::Load;

/// Most decisions in flight; one more pushes out the oldest.
pub const MAX_IN_FLIGHT: usize = 10_000;

/// One workload on its way to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// The workload.
    pub request: Request,
    /// Id of the node it was sent to.
    pub node: String,
    /// What it counts for.
    pub load: Load,
    /// When it was decided.
    pub decided: Timestamp,
    /// First instant at which it no longer counts.
    pub expires: Timestamp,
}

/// Decisions in flight, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    entries: VecDeque<InFlight>,
}

impl Ledger {
    /// Adds a decision; one for the same workload replaces the earlier.
    pub fn add(&mut self, entry: InFlight) {
        self.withdraw(&entry.request);
        if self.entries.len() >= MAX_IN_FLIGHT {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
    }

    /// Takes out the entry of a workload that is decided anew, so that it does not count against
    /// itself.
    pub fn withdraw(&mut self, request: &Request) -> Option<InFlight> {
        let place = self.entries.iter().position(|known| is_same(&known.request, request))?;
        self.entries.remove(place)
    }

    /// The entries that count at `now`.
    pub fn alive(&self, now: Timestamp) -> impl Iterator<Item = &InFlight> {
        self.entries.iter().filter(move |entry| now < entry.expires)
    }

    /// All entries, expired ones too, oldest first.
    pub fn all(&self) -> impl Iterator<Item = &InFlight> {
        self.entries.iter()
    }

    /// Drops the entries at places that `covered` says are seen, and what expired.
    pub fn settle(&mut self, now: Timestamp, covered: impl Fn(usize) -> bool) {
        let mut place = 0;
        self.entries.retain(|entry| {
            place += 1;
            now < entry.expires && !covered(place - 1)
        });
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

fn is_same(one: &Request, other: &Request) -> bool {
    let same_id = !one.id.is_empty() && one.id == other.id;
    same_id || (one.project == other.project && one.name == other.name && one.id == other.id)
}
