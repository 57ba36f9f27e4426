//! What an answer lacks: rows of files that are damaged and were set aside.
//!
//! Each table that a question reads says what is missing of the time that it asks for; the answer
//! carries it.

use std::sync::{Arc, Mutex};

use datafusion::catalog::Session;
use nilometer_ingest::View;
use nilometer_store::{Files, Missing};

const ALWAYS: (i64, i64) = (i64::MIN, i64::MAX);

/// What is missing for one question, as its tables find out.
#[derive(Debug)]
pub(crate) struct Lacks {
    pub(crate) view: Arc<View>,
    found: Mutex<Vec<Missing>>,
}

impl Lacks {
    pub(crate) fn of(view: Arc<View>) -> Arc<Self> {
        Arc::new(Lacks { view, found: Mutex::default() })
    }

    pub(crate) fn take(&self) -> Vec<Missing> {
        std::mem::take(&mut *self.found.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    fn add(&self, missing: impl IntoIterator<Item = Missing>) {
        let mut found = self.found.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for missing in missing {
            if !found.contains(&missing) {
                found.push(missing);
            }
        }
    }
}

/// A question reads files of a time.
pub(crate) fn needs_files(state: &dyn Session, files: &Files, (low, high): (i64, i64)) {
    if let Some(lacks) = state.config().get_extension::<Lacks>() {
        lacks.add(files.missing(low, high).cloned());
    }
}

/// A question reads what tables of its view say of a time.
pub(crate) fn needs(state: &dyn Session, needs: &[(&str, (i64, i64))]) {
    if let Some(lacks) = state.config().get_extension::<Lacks>() {
        lacks.add(missing_of(&lacks.view, needs));
    }
}

/// Whether no row of samples, and nothing that describes them, is known to be missing.
pub(crate) fn lacks_nothing(state: &dyn Session) -> bool {
    let lacks = state.config().get_extension::<Lacks>();
    lacks.is_some_and(|lacks| missing_of(&lacks.view, &samples_of(ALWAYS)).is_empty())
}

/// What samples of a time rest on.
pub(crate) fn samples_of(time: (i64, i64)) -> [(&'static str, (i64, i64)); 3] {
    [("samples", time), ("series", ALWAYS), ("epochs", ALWAYS)]
}

/// What usage of a time rests on, beside samples.
pub(crate) const LIFETIMES: [(&str, (i64, i64)); 1] = [("events", ALWAYS)];

/// What is missing of tables of a view.
pub(crate) fn missing_of(view: &View, needs: &[(&str, (i64, i64))]) -> Vec<Missing> {
    let tables = needs.iter().filter_map(|(name, time)| Some((view.tables.get(name)?, *time)));
    tables.flat_map(|(table, (low, high))| table.files.missing(low, high).cloned()).collect()
}
