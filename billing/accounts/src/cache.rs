//! Principals that were just let in, so that one request does not cost a question to a database.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nilometer_contract::{Principal, Timestamp};

use crate::secret::Digest;

/// Most entries; past it those that end first go.
const ENTRIES_MAX: usize = 4_096;

/// By digest of the bearer token; the token itself is not kept.
#[derive(Debug)]
pub(crate) struct Cache {
    life: Duration,
    entries: Mutex<HashMap<[u8; 32], Entry>>,
}

#[derive(Debug)]
struct Entry {
    principal: Principal,
    /// By the clock's steady time, which never steps.
    until: Duration,
    /// The instant from which on the credentials are not valid.
    expires: Option<Timestamp>,
}

impl Cache {
    pub(crate) fn new(life: Duration) -> Self {
        Cache { life, entries: Mutex::default() }
    }

    pub(crate) fn get(&self, of: Digest, steady: Duration, now: Timestamp) -> Option<Principal> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.get(&of.bytes())?;
        let valid = steady < entry.until && entry.expires.is_none_or(|at| now < at);
        valid.then(|| entry.principal.clone())
    }

    /// `asked` is the steady time before the database was asked: what it said holds from there.
    pub(crate) fn put(
        &self,
        of: Digest,
        principal: Principal,
        asked: Duration,
        expires: Option<Timestamp>,
    ) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= ENTRIES_MAX {
            entries.retain(|_, entry| asked < entry.until);
        }
        if entries.len() >= ENTRIES_MAX
            && let Some(first) = entries.iter().min_by_key(|(_, entry)| entry.until)
        {
            let first = *first.0;
            entries.remove(&first);
        }
        let until = asked.saturating_add(self.life);
        entries.insert(of.bytes(), Entry { principal, until, expires });
    }

    pub(crate) fn clear(&self) {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn an_entry_ends_with_its_life_and_with_its_credentials() {
        let cache = Cache::new(at(10));
        let (of, now) = (Digest::of(b"a"), Timestamp(5));
        cache.put(of, Principal::operator("a"), at(100), Some(Timestamp(6)));
        assert!(cache.get(of, at(109), now).is_some());
        assert!(cache.get(Digest::of(b"b"), at(100), now).is_none());
        assert!(cache.get(of, at(110), now).is_none());
        assert!(cache.get(of, at(100), Timestamp(6)).is_none());
        cache.clear();
        assert!(cache.get(of, at(100), now).is_none());
    }

    #[test]
    fn entries_are_bounded_and_the_oldest_goes() {
        let cache = Cache::new(at(100_000));
        let of = |n: u64| Digest::of(&n.to_le_bytes());
        let count = ENTRIES_MAX as u64;
        for n in 0..=count {
            cache.put(of(n), Principal::operator("a"), at(n), None);
        }
        assert_eq!(cache.entries.lock().unwrap().len(), ENTRIES_MAX);
        let known = |n| cache.get(of(n), at(count), Timestamp(0)).is_some();
        assert!(!known(0) && known(1) && known(count));
    }
}
