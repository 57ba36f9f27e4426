//! The agent's epochs: which instance it is and how many epochs it has begun, kept on disk.
//!
//! The count is on disk before an epoch begins, so no two epochs of an instance have one number,
//! however the agent dies. A folder that lost the file is another instance: of two instances the
//! readers of the tables assume no order.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nilometer_clock::{Clock, EpochClock};
use nilometer_contract::{Causes, Epoch, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::file;

/// A wall clock that is farther than this from the epoch was stepped: clocks that are corrected
/// in small parts take steady time along.
const STEP_MICROS: i64 = 100_000;

/// Hands out epochs.
pub(crate) struct Epochs {
    path: PathBuf,
    form: Form,
    clock: Arc<EpochClock>,
    /// When the sources were last asked before this start, by the clock of then.
    before: Option<Timestamp>,
}

/// The wall clock was stepped, and another epoch began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// Now, by the epoch before.
    pub(crate) expected: Timestamp,
    /// Now, by the wall clock: the start of the epoch.
    pub(crate) found: Timestamp,
}

/// Whether a clock's wall clock was stepped since its epoch began.
pub(crate) fn is_stepped(clock: &EpochClock) -> bool {
    clock.ahead_micros().abs() > STEP_MICROS
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    instance: String,
    sequence: u64,
}

impl Epochs {
    /// Reads which instance the folder is of, or makes it a new one, and begins an epoch.
    pub(crate) fn open(dir: &Path, agent: &str, clock: Arc<EpochClock>) -> io::Result<Self> {
        let path = dir.join("epoch.json");
        let known = file::read(&path)?.and_then(|bytes| {
            let read = serde_json::from_slice::<Form>(&bytes);
            read.inspect_err(
                |error| tracing::error!(error = %Causes(&error), path = %path.display(), "damaged"),
            )
            .ok()
        });
        let before = if known.is_some() { file::changed(&path)? } else { None };
        let form = known.unwrap_or_else(|| Form {
            instance: format!("{agent}/{}", Uuid::new_v4().simple()),
            sequence: 0,
        });
        let mut epochs = Epochs { path, form, clock, before };
        let next = epochs.form.after();
        next.keep(&epochs.path)?;
        epochs.begin(next);
        Ok(epochs)
    }

    /// Begins the next epoch if the wall clock was stepped. If that cannot be written down, the
    /// epoch goes on, and its instants with it.
    pub(crate) async fn follow(&mut self) -> Option<Step> {
        if !is_stepped(&self.clock) {
            return None;
        }
        let expected = self.clock.now();
        let found = self.next().await?.start;
        tracing::warn!(%expected, %found, "the clock was stepped, another epoch begins");
        Some(Step { expected, found })
    }

    /// Begins the next epoch; none, and the current one goes on, if it cannot be written down.
    async fn next(&mut self) -> Option<Epoch> {
        let (path, next) = (self.path.clone(), self.form.after());
        let kept = tokio::task::spawn_blocking(move || next.keep(&path).map(|()| next));
        match kept.await.map_err(io::Error::other).flatten() {
            Ok(next) => Some(self.begin(next)),
            Err(error) => {
                tracing::error!(error = %Causes(&error), path = %self.path.display(), "no new epoch can be begun");
                None
            }
        }
    }

    /// When the sources were last asked before this start; none if this is the first.
    pub(crate) fn asked_before(&self) -> Option<Timestamp> {
        self.before
    }

    /// Keeps that the sources are asked now, for the next start.
    pub(crate) fn note_asked(&self) {
        let (path, at) = (self.path.clone(), self.clock.now());
        // In no hurry, and without it the next start only says more than there was.
        drop(tokio::task::spawn_blocking(move || {
            if let Err(error) = file::set_changed(&path, at) {
                tracing::debug!(error = %Causes(&error), path = %path.display(), "an instant is not kept");
            }
        }));
    }

    fn begin(&mut self, next: Form) -> Epoch {
        self.form = next;
        self.clock.begin(&self.form.instance, self.form.sequence)
    }
}

impl Form {
    fn after(&self) -> Form {
        Form { sequence: self.sequence + 1, ..self.clone() }
    }

    fn keep(&self, path: &Path) -> io::Result<()> {
        file::replace(path, &serde_json::to_vec(self)?)
    }
}

#[cfg(test)]
mod tests {
    use nilometer_clock::SystemClock;

    use super::*;

    #[tokio::test]
    async fn numbers_go_on_over_restarts_and_a_damaged_file_is_another_instance() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(EpochClock::new(Arc::new(SystemClock)));
        let mut epochs = Epochs::open(dir.path(), "n", clock.clone()).unwrap();
        let first = clock.epoch();
        assert_eq!(first.sequence, 1);
        assert_eq!(epochs.next().await.unwrap().sequence, 2);
        Epochs::open(dir.path(), "n", clock.clone()).unwrap();
        assert_eq!((clock.epoch().instance, clock.epoch().sequence), (first.instance.clone(), 3));
        std::fs::write(dir.path().join("epoch.json"), "{").unwrap();
        Epochs::open(dir.path(), "n", clock.clone()).unwrap();
        assert_ne!(clock.epoch().instance, first.instance);
        assert_eq!(clock.epoch().sequence, 1);
    }
}
