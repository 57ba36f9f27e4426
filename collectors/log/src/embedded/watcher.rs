//! Waking those who wait for records of other processes.
//!
//! One thread for the whole log, begun by the first who waits. It looks at one directory entry
//! and one file for each topic, however many partitions there are, and at nothing while nobody
//! waits.

use nilometer_contract::Causes;
use std::{
    sync::{
        Arc, Once, Weak,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use super::topics::Topics;

/// How often it looks.
const POLL: Duration = Duration::from_millis(40);

/// After how many looks open files are let go that were deleted.
const TIDY_EVERY: u32 = 250;

pub(super) struct Watcher {
    topics: Weak<Topics>,
    waiting: Arc<AtomicUsize>,
    started: Once,
}

/// Somebody waits as long as this is there.
pub(super) struct Waiting(Arc<AtomicUsize>);

impl Watcher {
    pub(super) fn new(topics: &Arc<Topics>) -> Watcher {
        let (topics, waiting) = (Arc::downgrade(topics), Arc::default());
        Watcher { topics, waiting, started: Once::new() }
    }

    /// Looks for changes until what is returned is dropped.
    pub(super) fn wait(&self) -> Waiting {
        self.waiting.fetch_add(1, SeqCst);
        self.started.call_once(|| {
            let (topics, waiting) = (self.topics.clone(), self.waiting.clone());
            let watching = thread::Builder::new().name("log-watch".into());
            if let Err(e) = watching.spawn(move || watch(&topics, &waiting)) {
                tracing::error!(error = %Causes(&e), "records of other processes are noticed late only");
            }
        });
        Waiting(self.waiting.clone())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

/// Ends within one pause after the log is dropped.
fn watch(topics: &Weak<Topics>, waiting: &AtomicUsize) {
    let mut looks = 0;
    while let Some(topics) = topics.upgrade() {
        if waiting.load(SeqCst) > 0 {
            look(&topics);
        }
        looks += 1;
        if looks % TIDY_EVERY == 0 {
            topics.files.close_deleted();
        }
        drop(topics);
        thread::sleep(POLL);
    }
}

fn look(topics: &Topics) {
    for topic in topics.all() {
        // What cannot be looked at is found out by those who wait.
        if !topics.is_current(&topic) || topic.wake_changed().is_err() {
            topic.wake_all();
        }
    }
}
