//! Suspects against the files: is this sample stored already, and with what value?

use std::collections::HashMap;

use nilometer_store::{Files, Finder, StoreError};

use tracing::warn;

use crate::memory::{Search, Suspect};
use crate::state::State;

/// Settles all suspects: repeats are dropped, conflicts buried, late samples admitted.
///
/// `files` are those of the view in force: what they lack is in memory.
pub(crate) async fn settle_suspects(
    state: &mut State,
    files: &Files,
    finder: &Finder,
) -> Result<(), StoreError> {
    let suspects = std::mem::take(&mut state.suspects);
    let buried = state.pending.dead_letters.len();
    let unknown = against_memory(state, suspects);
    let found = match unknown.is_empty() {
        true => Ok(()),
        false => against_files(state, unknown, files, finder).await,
    };
    state.warn_of_letters(buried);
    found
}

async fn against_files(
    state: &mut State,
    unknown: Vec<Suspect>,
    files: &Files,
    finder: &Finder,
) -> Result<(), StoreError> {
    let search = {
        let index = state.shared.index.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        Search::of(&unknown, &index)
    };
    let stored = match find(&search, files, finder).await {
        Ok(stored) => stored,
        Err(error) => {
            state.suspects = unknown;
            return Err(error);
        }
    };
    let index = state.shared.index.clone();
    let index = index.read().unwrap_or_else(|poisoned| poisoned.into_inner());
    for suspect in unknown {
        // An equal twin in the same batch may have been admitted just now.
        let known = stored.get(&(suspect.identity, suspect.row.at)).copied();
        let known = known.or_else(|| state.memory.recent(&index, suspect.identity, suspect.row.at));
        match known {
            Some(value) => state.settle(&index, &suspect, value),
            None => state.admit(&suspect),
        }
    }
    Ok(())
}

fn against_memory(state: &mut State, suspects: Vec<Suspect>) -> Vec<Suspect> {
    let index = state.shared.index.clone();
    let index = index.read().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut unknown = Vec::new();
    for suspect in suspects {
        match state.memory.recent(&index, suspect.identity, suspect.row.at) {
            Some(value) => state.settle(&index, &suspect, value),
            None => unknown.push(suspect),
        }
    }
    unknown
}

async fn find(
    search: &Search,
    files: &Files,
    finder: &Finder,
) -> Result<HashMap<(u32, i64), f64>, StoreError> {
    let mut stored = HashMap::new();
    for file in files.within(search.low, search.high) {
        let series = search.series.keys().copied().collect();
        let found = match finder.find(file, series, (search.low, search.high)).await {
            // A damaged file must not hold back all that comes; maintenance sets it aside.
            Err(error) if error.is_damage() => {
                warn!(file = file.path, "identities of a damaged file are not known");
                continue;
            }
            found => found?,
        };
        for row in found {
            let Some(&identity) = search.series.get(&row.series) else { continue };
            if search.instants.contains(&(identity, row.at)) {
                stored.insert((identity, row.at), row.value);
            }
        }
    }
    Ok(stored)
}
