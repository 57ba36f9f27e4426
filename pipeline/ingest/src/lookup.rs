//! Suspects against the files: is this sample stored already, and with what value?

use std::collections::HashMap;
use std::sync::Arc;

use nilometer_store::StoreError;
use tokio::sync::Mutex;

use crate::flush::Sink;
use crate::memory::{Search, Suspect, rows_of};
use crate::state::State;

/// Settles all suspects: repeats are dropped, conflicts buried, late samples admitted.
pub(crate) async fn settle_suspects(
    state: &mut State,
    sink: &Arc<Mutex<Sink>>,
) -> Result<(), StoreError> {
    let suspects = std::mem::take(&mut state.suspects);
    let unknown = against_memory(state, suspects);
    if unknown.is_empty() {
        return Ok(());
    }
    let search = {
        let index = state.shared.index.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        Search::of(&unknown, &index)
    };
    let stored = match find(&search, sink).await {
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
    sink: &Arc<Mutex<Sink>>,
) -> Result<HashMap<(u32, i64), f64>, StoreError> {
    let sink = sink.lock().await;
    let low_series = search.series.keys().copied().min().unwrap_or(0);
    let high_series = search.series.keys().copied().max().unwrap_or(0);
    let mut stored = HashMap::new();
    for file in sink.samples.files().iter() {
        if !file.may_hold("at", search.low, search.high)
            || !file.may_hold("series", low_series, high_series)
        {
            continue;
        }
        for batch in sink.samples.read(file).await? {
            for row in rows_of(&batch) {
                let Some(&identity) = search.series.get(&row.series) else { continue };
                if search.instants.contains(&(identity, row.at)) {
                    stored.insert((identity, row.at), row.value);
                }
            }
        }
    }
    Ok(stored)
}
