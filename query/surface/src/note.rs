//! What is learnt about a request while it is answered, for the audit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

/// Longest text of a query that is recorded.
pub(crate) const MAX_QUERY_CHARS: usize = 2_000;

/// What is learnt about one request. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Note(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    rows: AtomicU64,
    query: Mutex<String>,
    failure: Mutex<Option<String>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Note {
    /// Counts rows that were sent.
    pub fn add_rows(&self, rows: usize) {
        self.0.rows.fetch_add(rows as u64, Ordering::Relaxed);
    }

    /// Says what was asked: text without secrets, which is cut to 2,000 characters.
    pub fn set_query(&self, text: &str) {
        *locked(&self.0.query) = text.chars().take(MAX_QUERY_CHARS).collect();
    }

    /// Says that the answer broke off, and why.
    pub fn set_failure(&self, why: &str) {
        *locked(&self.0.failure) = Some(why.chars().take(MAX_QUERY_CHARS).collect());
    }

    /// Rows that were sent.
    pub fn rows(&self) -> u64 {
        self.0.rows.load(Ordering::Relaxed)
    }

    /// What was asked.
    pub fn query(&self) -> String {
        locked(&self.0.query).clone()
    }

    /// Why the answer broke off, if it did.
    pub fn failure(&self) -> Option<String> {
        locked(&self.0.failure).clone()
    }
}
