//! Whether a loop still goes round: what it does in one go must not take long.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

/// When a loop last came round. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pulse(Arc<Mutex<Option<Instant>>>);

impl Pulse {
    /// The loop comes round.
    pub(crate) fn beat(&self) {
        *self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(Instant::now());
    }

    /// How long ago that was; nothing before the first time.
    pub(crate) fn silence(&self) -> Option<Duration> {
        let last = *self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        last.map(|last| last.elapsed())
    }
}
