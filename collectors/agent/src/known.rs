//! Which resources are alive, kept on disk, so that a restart tells what happened meanwhile.
//!
//! A source says after every restart what it finds. Against what was known before:
//!
//! ```text
//! found again, same life            said again as it was said before: the same event
//! found again, another state        changed at the instant of the observation
//! found again, started since        the old life ended when it was last seen; another began
//! found again, another boot         the same, whatever the clocks say of its start
//! not mentioned                     ended when it was last seen, attribute `end` = `estimated`
//! ```
//!
//! A resource is seen at every observation of its source, so one instant per source is kept. The
//! file is replaced once a second at most; events younger than it are in the spool and applied
//! to it at the start, so that nothing an agent told is forgotten when it is killed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};

use nilometer_contract::{BOOT_ID, Change, LifecycleEvent, Resource, Timestamp};
use serde::{Deserialize, Serialize};

use crate::file;

/// Most resources remembered; those beyond are told but not missed after a restart.
const MAX_KNOWN: usize = 262_144;
const VERSION: u32 = 1;

/// The resources that are alive, by source.
pub(crate) struct Known {
    path: PathBuf,
    sources: BTreeMap<String, Seen>,
    count: usize,
    /// What was known at the start and was not mentioned since.
    unconfirmed: HashMap<String, HashSet<String>>,
    dirty: bool,
}

#[derive(Serialize, Deserialize)]
struct Form {
    version: u32,
    sources: BTreeMap<String, Seen>,
}

#[derive(Default, Serialize, Deserialize)]
struct Seen {
    /// The last observation.
    at: Timestamp,
    alive: BTreeMap<String, Alive>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Alive {
    /// Start of its life.
    born: Timestamp,
    /// Start of its state.
    since: Timestamp,
    state: Resource,
}

impl Known {
    /// Reads what an agent before knew; a file that cannot be read is said and begun anew.
    pub(crate) fn open(dir: &Path) -> Self {
        let path = dir.join("known.json");
        let read = file::read(&path).and_then(|bytes| match bytes {
            Some(bytes) => serde_json::from_slice::<Form>(&bytes).map_err(io::Error::other),
            None => Ok(Form { version: VERSION, sources: BTreeMap::new() }),
        });
        let sources = match read {
            Ok(form) if form.version == VERSION => form.sources,
            Ok(form) => {
                tracing::error!(form.version, path = %path.display(), "unknown form of known resources");
                BTreeMap::new()
            }
            Err(error) => {
                tracing::error!(%error, path = %path.display(), "cannot read known resources");
                BTreeMap::new()
            }
        };
        let count = sources.values().map(|seen| seen.alive.len()).sum();
        Known { path, sources, count, unconfirmed: HashMap::new(), dirty: false }
    }

    /// Applies an event that was told before the start; then [`start`](Self::start).
    pub(crate) fn replay(&mut self, event: &LifecycleEvent) {
        self.apply(event);
    }

    /// From now on sources speak anew.
    pub(crate) fn start(&mut self) {
        let names = |seen: &Seen| seen.alive.keys().cloned().collect();
        self.unconfirmed =
            self.sources.iter().map(|(source, seen)| (source.clone(), names(seen))).collect();
    }

    /// Takes events in as a source said them; returns them as they are to be told.
    ///
    /// `started` is when the observation that made them started, nothing for pushed ones.
    pub(crate) fn admit(
        &mut self,
        events: Vec<LifecycleEvent>,
        started: Option<Timestamp>,
    ) -> Vec<LifecycleEvent> {
        let mut told = Vec::with_capacity(events.len());
        for event in events {
            let first = self
                .unconfirmed
                .get_mut(&event.source)
                .is_some_and(|ids| ids.remove(&event.resource.id));
            let from = told.len();
            match first && event.change == Change::Created {
                true => self.found_again(event, started, &mut told),
                false => told.push(event),
            }
            told[from..].iter().for_each(|event| self.apply(event));
        }
        told
    }

    fn found_again(
        &self,
        mut event: LifecycleEvent,
        started: Option<Timestamp>,
        told: &mut Vec<LifecycleEvent>,
    ) {
        let seen = self.sources.get(&event.source);
        let known = seen.and_then(|seen| Some((seen.at, seen.alive.get(&event.resource.id)?)));
        let Some((seen_at, known)) = known else {
            told.push(event);
            return;
        };
        // A start that the source could not tell is an instant of this very observation.
        let start_is_told = started.is_none_or(|started| event.at < started);
        let same_start = event.at == known.born || event.at == known.since;
        let boots = [&known.state, &event.resource].map(|state| state.attributes.get(BOOT_ID));
        let began_anew = match boots {
            // No clock is asked where the kernel says whether it is the same boot.
            [Some(was), Some(is)] => was != is,
            _ => start_is_told && event.at > seen_at && !same_start,
        };
        if began_anew {
            let end = ended(known, seen_at, &event.source);
            if event.at <= end.at || !start_is_told {
                // Counters were zero at some time since it was last seen. A birth just before the
                // first reading makes that reading count whole.
                event.at = event.at.plus_micros(-1).max(end.at.plus_micros(1));
            }
            told.push(end);
        } else if event.resource == known.state {
            event.at = known.since;
        } else {
            event.change = Change::Changed;
            event.at = started.unwrap_or(event.at).max(known.since.plus_micros(1));
        }
        told.push(event);
    }

    /// A source observed all there is; returns the ends of what it had and does not mention.
    pub(crate) fn observed(&mut self, source: &str, at: Timestamp) -> Vec<LifecycleEvent> {
        let missing = self.unconfirmed.remove(source).unwrap_or_default();
        let seen = self.sources.entry(source.to_owned()).or_default();
        let mut missing: Vec<&Alive> = missing.iter().filter_map(|id| seen.alive.get(id)).collect();
        // Children end before their parents: ids of devices extend their owner's.
        missing.sort_by(|a, b| b.state.id.cmp(&a.state.id));
        let ends: Vec<LifecycleEvent> =
            missing.into_iter().map(|known| ended(known, seen.at, source)).collect();
        seen.at = at;
        self.dirty = true;
        ends.iter().for_each(|event| self.apply(event));
        ends
    }

    fn apply(&mut self, event: &LifecycleEvent) {
        let id = &event.resource.id;
        let seen = self.sources.entry(event.source.clone()).or_default();
        self.dirty = true;
        if event.change == Change::Deleted {
            self.count -= usize::from(seen.alive.remove(id).is_some());
            return;
        }
        let alive = Alive { born: event.at, since: event.at, state: event.resource.clone() };
        match seen.alive.get_mut(id) {
            Some(known) if known.state == event.resource => {}
            Some(known) if event.change == Change::Changed => {
                *known = Alive { born: known.born, ..alive };
            }
            Some(known) => *known = alive,
            None if self.count < MAX_KNOWN => {
                seen.alive.insert(id.clone(), alive);
                self.count += 1;
            }
            None => tracing::warn!(most = MAX_KNOWN, id, "too many resources to remember"),
        }
    }

    /// How many resources of a source are alive.
    pub(crate) fn alive(&self, source: &str) -> usize {
        self.sources.get(source).map_or(0, |seen| seen.alive.len())
    }

    /// The file and what it is to hold now; nothing when that is what was written last.
    pub(crate) fn draft(&mut self) -> Option<(PathBuf, Vec<u8>)> {
        if !std::mem::take(&mut self.dirty) {
            return None;
        }
        let form = Form { version: VERSION, sources: std::mem::take(&mut self.sources) };
        let bytes = serde_json::to_vec(&form);
        self.sources = form.sources;
        match bytes {
            Ok(bytes) => Some((self.path.clone(), bytes)),
            Err(error) => {
                tracing::error!(%error, "known resources cannot be written");
                None
            }
        }
    }

    /// What was drafted could not be written.
    pub(crate) fn not_written(&mut self) {
        self.dirty = true;
    }
}

/// The end of a life that nobody saw end.
fn ended(known: &Alive, seen_at: Timestamp, source: &str) -> LifecycleEvent {
    let mut resource = known.state.clone();
    resource.attributes.insert("end".to_owned(), "estimated".to_owned());
    if resource.check().is_err() {
        resource.attributes.remove("end");
    }
    let at = seen_at.max(known.since.plus_micros(1));
    LifecycleEvent { change: Change::Deleted, at, resource, source: source.to_owned() }
}

#[cfg(test)]
mod tests;
