//! Suspects against the files: is this sample stored already, and with what value?

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use nilometer_store::{DataFile, Files, Finder, Row, StoreError};

use tracing::warn;

use crate::index::SeriesIndex;
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
        Search::of(unknown.iter().map(|suspect| (suspect.identity, suspect.row.at)), &index)
    };
    let files: Vec<_> = files.within(search.low, search.high).cloned().collect();
    let stored = match find(&search, &files, finder).await {
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

/// Rows that none of some files has under their identity.
pub(crate) async fn not_stored(
    mut rows: Vec<Row>,
    index: &RwLock<SeriesIndex>,
    files: &[Arc<DataFile>],
    finder: &Finder,
) -> Result<Vec<Row>, StoreError> {
    let (keys, search) = {
        let index = index.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let key = |row: &Row| Some((index.identity(index.slot(row.series)?), row.at));
        let keys: Vec<Option<(u32, i64)>> = rows.iter().map(key).collect();
        let search = Search::of(keys.iter().flatten().copied(), &index);
        (keys, search)
    };
    let stored = find(&search, files, finder).await?;
    let (all, mut others, mut keys) = (rows.len(), 0_usize, keys.into_iter());
    rows.retain(|row| {
        let found = keys.next().flatten().and_then(|key| stored.get(&key));
        others += usize::from(found.is_some_and(|value| *value != row.value));
        found.is_none()
    });
    if rows.len() < all {
        warn!(stored = all - rows.len(), others, "samples that were restored came again");
    }
    Ok(rows)
}

async fn find(
    search: &Search,
    files: &[Arc<DataFile>],
    finder: &Finder,
) -> Result<HashMap<(u32, i64), f64>, StoreError> {
    let mut stored = HashMap::new();
    for file in files {
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
