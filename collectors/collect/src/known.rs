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
//! A resource is seen at every observation of its source, so one instant per source is kept, as
//! the time of change of the empty file `seen/<source>`. The file of the resources is replaced once a
//! second at most, and only when they change; events younger than it are in the spool and applied
//! to it at the start, so that nothing an agent reported is forgotten when it is killed.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};

use nilometer_contract::attribute::BOOT_ID;
use nilometer_contract::{Causes, Change, LifecycleEvent, Resource, Timestamp};
use serde::{Deserialize, Serialize};

use crate::gaps::Gaps;
use crate::{file, lines};

/// Most resources remembered; those beyond are reported but not missed after a restart, which a gap
/// says then.
const MAX_KNOWN: usize = 262_144;
/// Most ends remembered until the log has them; they are needed when the spool is damaged.
const MAX_ENDS: usize = 4_096;
const VERSION: u32 = 1;

/// The resources that are alive, by source.
pub(crate) struct Known {
    path: PathBuf,
    sources: BTreeMap<String, Seen>,
    count: usize,
    /// How many are not remembered.
    forgotten: u64,
    /// Ends of which the record may still be on its way, oldest first.
    ends: VecDeque<LifecycleEvent>,
    /// What was known at the start and was not mentioned since.
    unconfirmed: HashMap<String, HashSet<String>>,
    dirty: bool,
    /// Sources that observed since the last draft.
    observed: BTreeSet<String>,
}

/// What is to be on disk.
pub(crate) struct Draft {
    /// The file of the resources, if they changed.
    resources: Option<(PathBuf, Vec<u8>)>,
    seen: Vec<(PathBuf, Timestamp)>,
}

/// A line of the file; `Head` is its first and its last.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line<'a> {
    Head {
        version: u32,
        /// When each source observed last.
        seen: BTreeMap<String, Timestamp>,
        /// Lines of resources.
        count: usize,
        forgotten: u64,
    },
    Alive {
        source: Cow<'a, str>,
        alive: Cow<'a, Alive>,
    },
    /// An event as it is on the wire.
    Ended {
        event: String,
    },
}

#[derive(Default)]
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
    /// Reads what an agent before knew. Of what is damaged or was not remembered the ends may be
    /// missed, which becomes a gap of the topic of events.
    pub(crate) fn open(dir: &Path, topic: &str, gaps: &mut Gaps, now: Timestamp) -> Self {
        let path = dir.join("known");
        let bytes = file::read(&path).unwrap_or_else(|error| {
            tracing::error!(error = %Causes(&error), path = %path.display(), "cannot read known resources");
            Some(b"unreadable\n".to_vec())
        });
        let mut known = Known {
            path,
            sources: BTreeMap::new(),
            count: 0,
            forgotten: 0,
            ends: VecDeque::new(),
            unconfirmed: HashMap::new(),
            dirty: false,
            observed: BTreeSet::new(),
        };
        let (lines, damaged) = lines::read::<Line<'_>>(&bytes.unwrap_or_default());
        let mut expected = None;
        for line in lines {
            match line {
                Line::Head { version: VERSION, seen, count, forgotten } => {
                    expected = Some((count, forgotten));
                    for (source, at) in seen {
                        known.sources.entry(source).or_default().at = at;
                    }
                }
                Line::Head { version, .. } => {
                    tracing::error!(version, path = %known.path.display(), "unknown version");
                }
                Line::Alive { source, alive } => {
                    let seen = known.sources.entry(source.into_owned()).or_default();
                    seen.alive.insert(alive.state.id.clone(), alive.into_owned());
                    known.count += 1;
                }
                Line::Ended { event } => {
                    known.ends.extend(LifecycleEvent::decode(event.as_bytes()))
                }
            }
        }
        for (source, seen) in &mut known.sources {
            if let Ok(Some(at)) = file::changed(&seen_path(&known.path, source)) {
                seen.at = at;
            }
        }
        let missing = match expected {
            Some((count, forgotten)) => count.saturating_sub(known.count) as u64 + forgotten,
            None => damaged as u64,
        };
        if missing > 0 {
            known.misses(topic, missing, gaps, now);
            known.dirty = true;
        }
        known
    }

    /// What happened to some resources after they were last seen may be missed.
    fn misses(&mut self, topic: &str, missing: u64, gaps: &mut Gaps, now: Timestamp) {
        let written = file::changed_by(&self.path, now);
        for seen in self.sources.values_mut().filter(|seen| seen.at == Timestamp::default()) {
            seen.at = written;
        }
        let start = self.sources.values().map(|seen| seen.at).min().unwrap_or(written).min(now);
        let sources = self.sources.keys().cloned().collect();
        tracing::error!(missing, path = %self.path.display(), "known resources are missing");
        let reason =
            "resources alive before the start are not remembered, their ends may be missed";
        gaps.lost_somehow((topic, None), (start, now), (missing, sources), reason);
    }

    /// Applies an event that was reported before the start; then [`start`](Self::start).
    pub(crate) fn replay(&mut self, event: &LifecycleEvent) {
        self.apply(event);
    }

    /// From now on sources speak anew.
    pub(crate) fn start(&mut self) {
        let names = |seen: &Seen| seen.alive.keys().cloned().collect();
        self.unconfirmed =
            self.sources.iter().map(|(source, seen)| (source.clone(), names(seen))).collect();
    }

    /// Takes events in as a source said them; returns them as they are to be reported.
    ///
    /// `started` is when the observation that made them started, nothing for pushed ones.
    pub(crate) fn admit(
        &mut self,
        events: Vec<LifecycleEvent>,
        started: Option<Timestamp>,
    ) -> Vec<LifecycleEvent> {
        let mut reported = Vec::with_capacity(events.len());
        for event in events {
            let first = self
                .unconfirmed
                .get_mut(&event.source)
                .is_some_and(|ids| ids.remove(&event.resource.id));
            let from = reported.len();
            match first && event.change == Change::Created {
                true => self.found_again(event, started, &mut reported),
                false => reported.push(event),
            }
            reported[from..].iter().for_each(|event| self.apply(event));
        }
        reported
    }

    fn found_again(
        &self,
        mut event: LifecycleEvent,
        started: Option<Timestamp>,
        reported: &mut Vec<LifecycleEvent>,
    ) {
        let seen = self.sources.get(&event.source);
        let known = seen.and_then(|seen| Some((seen.at, seen.alive.get(&event.resource.id)?)));
        let Some((seen_at, known)) = known else {
            reported.push(event);
            return;
        };
        // A start that the source could not tell is an instant of this very observation.
        let start_is_reported = started.is_none_or(|started| event.at < started);
        let same_start = event.at == known.born || event.at == known.since;
        let boots = [&known.state, &event.resource].map(|state| state.attributes.get(BOOT_ID));
        let began_anew = match boots {
            // No clock is asked where the kernel says whether it is the same boot.
            [Some(was), Some(is)] => was != is,
            _ => start_is_reported && event.at > seen_at && !same_start,
        };
        if began_anew {
            let end = ended(known, seen_at, &event.source);
            if event.at <= end.at || !start_is_reported {
                // Counters were zero at some time since it was last seen. A birth just before the
                // first reading makes that reading count whole.
                event.at = event.at.plus_micros(-1).max(end.at.plus_micros(1));
            }
            reported.push(end);
        } else if event.resource == known.state {
            event.at = known.since;
        } else {
            event.change = Change::Changed;
            event.at = started.unwrap_or(event.at).max(known.since.plus_micros(1));
        }
        reported.push(event);
    }

    /// A source said all there is: the ends of what it had before the start and does not mention,
    /// to be [`ended`](Self::ended) one by one. Then it is [`seen`](Self::seen).
    pub(crate) fn missing(&self, source: &str) -> Vec<LifecycleEvent> {
        let missing = self.unconfirmed.get(source).into_iter().flatten();
        let Some(seen) = self.sources.get(source) else { return Vec::new() };
        let mut missing: Vec<&Alive> = missing.filter_map(|id| seen.alive.get(id)).collect();
        // Children end before their parents: ids of devices extend their owner's.
        missing.sort_by(|a, b| b.state.id.cmp(&a.state.id));
        missing.into_iter().map(|known| ended(known, seen.at, source)).collect()
    }

    /// An end is recorded.
    pub(crate) fn ended(&mut self, event: &LifecycleEvent) {
        if let Some(ids) = self.unconfirmed.get_mut(&event.source) {
            ids.remove(&event.resource.id);
        }
        self.apply(event);
    }

    /// A source observed all there is, and all that came of it is recorded.
    pub(crate) fn seen(&mut self, source: &str, at: Timestamp) {
        self.unconfirmed.remove(source);
        self.sources.entry(source.to_owned()).or_default().at = at;
        self.observed.insert(source.to_owned());
    }

    fn apply(&mut self, event: &LifecycleEvent) {
        let id = &event.resource.id;
        let seen = self.sources.entry(event.source.clone()).or_default();
        self.dirty = true;
        if event.change == Change::Deleted {
            if seen.alive.remove(id).is_some() {
                self.count -= 1;
                self.ends.truncate(MAX_ENDS - 1);
                self.ends.push_front(event.clone());
            }
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
            None => {
                self.forgotten += 1;
                tracing::warn!(most = MAX_KNOWN, id, "too many resources to remember");
            }
        }
    }

    /// The log has all records of events.
    pub(crate) fn all_sent(&mut self) {
        self.dirty |= !self.ends.is_empty();
        self.ends.clear();
    }

    /// The ends of which a record may be lost, oldest first: of what is alive sources say all again.
    pub(crate) fn ends(&self) -> Vec<LifecycleEvent> {
        self.ends.iter().rev().cloned().collect()
    }

    /// How many resources of a source are alive.
    pub(crate) fn alive(&self, source: &str) -> usize {
        self.sources.get(source).map_or(0, |seen| seen.alive.len())
    }

    /// What is to be on disk now; nothing when that is what was drafted last.
    pub(crate) fn draft(&mut self) -> Option<Draft> {
        let seen = std::mem::take(&mut self.observed).into_iter().filter_map(|source| {
            let seen = self.sources.get(&source)?;
            Some((seen_path(&self.path, &source), seen.at))
        });
        let seen: Vec<_> = seen.collect();
        let resources = std::mem::take(&mut self.dirty).then(|| self.encode()).flatten();
        (resources.is_some() || !seen.is_empty()).then_some(Draft { resources, seen })
    }

    fn encode(&self) -> Option<(PathBuf, Vec<u8>)> {
        let seen = self.sources.iter().map(|(source, seen)| (source.clone(), seen.at)).collect();
        let (count, forgotten) = (self.count, self.forgotten);
        let head = Line::Head { version: VERSION, seen, count, forgotten };
        let alive = self.sources.iter().flat_map(|(source, seen)| {
            let alive = |alive| Line::Alive { source: source.into(), alive: Cow::Borrowed(alive) };
            seen.alive.values().map(alive)
        });
        let ends = self.ends.iter().filter_map(|event| {
            let event = String::from_utf8(event.encode().ok()?).ok()?;
            Some(Line::Ended { event })
        });
        let mut bytes = Vec::new();
        let mut write = |line: &Line<'_>| lines::write(line, &mut bytes);
        let written = write(&head).and_then(|()| {
            alive.chain(ends).try_for_each(|line| write(&line)).and_then(|()| write(&head))
        });
        match written {
            Ok(()) => Some((self.path.clone(), bytes)),
            Err(error) => {
                tracing::error!(error = %Causes(&error), "known resources cannot be written");
                None
            }
        }
    }

    /// What was drafted could not be written.
    pub(crate) fn not_written(&mut self) {
        self.dirty = true;
        self.observed.extend(self.sources.keys().cloned());
    }
}

impl Draft {
    /// Brings it to disk. When sources observed lasts as the file system has it.
    pub(crate) fn keep(self) -> io::Result<()> {
        if let Some((path, bytes)) = self.resources {
            file::replace(&path, &bytes)?;
        }
        for (path, at) in self.seen {
            path.parent().map_or(Ok(()), file::create_folder)?;
            file::set_changed(&path, at)?;
        }
        Ok(())
    }
}

/// The file of which the time of change is when a source observed last.
fn seen_path(known: &Path, source: &str) -> PathBuf {
    known.with_file_name("seen").join(source)
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
