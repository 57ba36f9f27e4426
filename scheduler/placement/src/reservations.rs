//! Reservations: what was decided and is not observed yet (invariant 18).
//!
//! An entry counts against its node from the instant of the decision until events or samples
//! show the workload on a node, or until it expires. A workload that is shown counts by its requests
//! until there are samples of it, so between decision and sample nothing goes uncounted.

use std::collections::VecDeque;

use nilometer_contract::Timestamp;

use crate::request::Request;
use crate::score::Load;

/// One workload that was assigned to a node and is not observed there yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reservation {
    /// The workload.
    pub(crate) request: Request,
    /// Id of the node it was assigned to.
    pub(crate) node: String,
    /// What it counts for.
    pub(crate) load: Load,
    /// When it was decided.
    pub(crate) decided: Timestamp,
    /// First instant at which it no longer counts.
    pub(crate) expires: Timestamp,
}

/// The reservations, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reservations {
    entries: VecDeque<Reservation>,
}

impl Reservations {
    /// Adds a reservation; one for the same workload replaces the earlier. Of more than `most` the
    /// oldest are dropped.
    pub(crate) fn insert(&mut self, entry: Reservation, most: usize) {
        self.remove(&entry.request);
        self.entries.push_back(entry);
        while self.entries.len() > most {
            self.entries.pop_front();
        }
    }

    /// Takes out the entry of a workload that is decided anew, so that it does not count against
    /// itself.
    pub(crate) fn remove(&mut self, request: &Request) -> Option<Reservation> {
        let index = self.entries.iter().position(|known| is_same(&known.request, request))?;
        self.entries.remove(index)
    }

    /// The entries that count at `now`.
    pub(crate) fn active(&self, now: Timestamp) -> impl Iterator<Item = &Reservation> {
        self.entries.iter().filter(move |entry| now < entry.expires)
    }

    /// Keeps the entries that have not expired and for which `keep` holds.
    pub(crate) fn retain(&mut self, now: Timestamp, keep: impl Fn(&Reservation) -> bool) {
        self.entries.retain(|entry| now < entry.expires && keep(entry));
    }

    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is in flight.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

fn is_same(one: &Request, other: &Request) -> bool {
    let same_id = !one.id.is_empty() && one.id == other.id;
    same_id || (one.project == other.project && one.name == other.name && one.id == other.id)
}
