//! The epochs of the samples, and where each of them ends (invariant 8a).
//!
//! Epochs of one instance are in order by their sequence, and where a later one starts, every
//! earlier one ends. So a sample counts if it lies before the least start of its instance's later
//! epochs, whatever their clocks said otherwise.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use nilometer_contract::{Epoch, EpochId};
use nilometer_store::text_hash;

use crate::record::Content;
use crate::state::State;

/// Most epochs known; a sample of one more goes to the dead letters. An agent begins one when it
/// starts and one at each step of its clock.
pub(crate) const MAX_EPOCHS: usize = 1 << 20;

/// One instance: its sequences with their starts in microseconds.
type Starts = BTreeMap<u64, i64>;

/// All epochs known.
#[derive(Debug, Default)]
pub struct Epochs {
    epochs: HashMap<EpochId, Known>,
    instances: HashMap<Arc<str>, Starts>,
}

#[derive(Debug)]
struct Known {
    instance: Arc<str>,
    sequence: u64,
}

/// What usage needs to know of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Digest of the instance, the same wherever it is asked; 0 is none.
    pub instance: u64,
    /// First instant, in microseconds, at which the epoch is over.
    pub end: i64,
}

impl Epochs {
    /// Whether an epoch is known; the one that is none always is.
    pub(crate) fn knows(&self, id: EpochId) -> bool {
        id == 0 || self.epochs.contains_key(&id)
    }

    /// Number of epochs.
    pub fn len(&self) -> usize {
        self.epochs.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.epochs.is_empty()
    }

    /// Adds an epoch; one of a sequence that is known already widens it to the earlier start.
    pub(crate) fn insert(&mut self, epoch: &Epoch) {
        if epoch.is_none() {
            return;
        }
        let name = self.instances.get_key_value(epoch.instance.as_str());
        let name = name.map_or_else(|| epoch.instance.as_str().into(), |(name, _)| name.clone());
        let starts = self.instances.entry(Arc::clone(&name)).or_default();
        let start = starts.entry(epoch.sequence).or_insert(epoch.start.0);
        *start = epoch.start.0.min(*start);
        self.epochs.insert(epoch.id(), Known { instance: name, sequence: epoch.sequence });
    }

    /// How far an epoch reaches; of one that is not known, and of none, without an end.
    pub fn reach(&self, id: EpochId) -> Reach {
        let found = self.epochs.get(&id).and_then(|known| {
            let starts = self.instances.get(&known.instance)?;
            let later = starts.range(known.sequence.saturating_add(1)..).map(|(_, &start)| start);
            let instance = text_hash(&known.instance).max(1);
            Some(Reach { instance, end: later.min().unwrap_or(i64::MAX) })
        });
        found.unwrap_or(Reach { instance: 0, end: i64::MAX })
    }
}

impl State {
    /// Learns of the epoch of a record, if it is new.
    pub(crate) fn take_epoch(&mut self, content: &Content, appended: i64) -> Result<(), String> {
        let mut epochs = self.shared.epochs.write().unwrap_or_else(|e| e.into_inner());
        if epochs.knows(content.epoch) {
            return Ok(());
        }
        let epoch = &content.batch.epoch;
        if epochs.len() >= MAX_EPOCHS {
            return Err(format!("more than {MAX_EPOCHS} epochs"));
        }
        self.plausible.check(epoch.start.0, appended, self.now.0)?;
        epochs.insert(epoch);
        self.new_epochs.push(epoch.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use nilometer_contract::Timestamp;

    use super::*;

    #[test]
    fn an_epoch_ends_where_any_later_one_starts() {
        let epoch =
            |sequence, start| Epoch { instance: "a".to_owned(), sequence, start: Timestamp(start) };
        let mut epochs = Epochs::default();
        // The clock was set an hour ahead by mistake, and back.
        let (first, ahead, back) = (epoch(1, 0), epoch(2, 3_800), epoch(3, 310));
        [&back, &first, &ahead, &first].into_iter().for_each(|epoch| epochs.insert(epoch));
        let end = |epoch: &Epoch| epochs.reach(epoch.id()).end;
        assert_eq!([end(&first), end(&ahead), end(&back)], [310, 310, i64::MAX]);
        let other = Epoch { instance: "b".to_owned(), ..epoch(9, 5) };
        epochs.insert(&other);
        assert_eq!(epochs.reach(first.id()).end, 310);
        assert_ne!(epochs.reach(other.id()).instance, epochs.reach(first.id()).instance);
        assert_eq!(epochs.reach(0), Reach { instance: 0, end: i64::MAX });
    }
}
