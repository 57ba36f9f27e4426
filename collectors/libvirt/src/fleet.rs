//! The domains known to run, and what each reading or event of libvirt changes about them.
//!
//! Pure: takes what libvirt said and when, gives lifecycle events and samples.
//!
//! ```text
//!              first reading              event or reading
//!   unknown ─────────────────► running ────────────────────► running, changed
//!      ▲                          │ │
//!      │  event `stopped`, exact  │ │ absent, or another runtime id, in a reading:
//!      ├──────────────────────────┘ ▼
//!      │                        unexplained ──► running, when the next reading has it again
//!      └────────────────────────────┘ still unexplained in the next reading: ended at the
//!                                     instant last seen, with the attribute end=estimated
//! ```
//!
//! The pause of one reading lets the event that explains it arrive, since libvirt sends events a
//! little after the fact. A reading describes the instant between question and answer; what an
//! event said after the question was asked is newer and stands.

use std::collections::{BTreeMap, HashMap, HashSet};

use nilometer_contract::{Change, LifecycleEvent, Resource, Timestamp};
use nilometer_source::Observation;

use crate::description::Description;
use crate::protocol::{DomainRef, Uuid};
use crate::resources::{self, Children};
use crate::samples;
use crate::stats::{Counted, DomainStats, State};

/// Name of this source.
pub(crate) const SOURCE: &str = "libvirt";

/// What libvirt said of one domain.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub(crate) domain: DomainRef,
    pub(crate) stats: DomainStats,
    /// When it was asked.
    pub(crate) asked: Timestamp,
    /// When it was so, as near as can be told: midway between question and answer.
    pub(crate) at: Timestamp,
}

/// How a domain came to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Birth {
    /// Its start was seen: what it used since then is its usage.
    Seen(Timestamp),
    /// It ran already.
    Found(Timestamp),
}

/// What is to be done with a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The domain is new: describe it, find its start and admit it.
    Admit,
    /// The domain is known, but its description is wanted again, for a new device.
    Describe,
    /// The domain is known.
    Update,
    /// The reading says nothing that counts.
    Skip,
}

/// The domains of one hypervisor.
#[derive(Debug)]
pub(crate) struct Fleet {
    node: String,
    domains: HashMap<Uuid, Known>,
    /// Ends that events told since the last full reading was asked for.
    ended: HashMap<Uuid, Timestamp>,
    /// Domains that migrate to this host and do not run here yet.
    incoming: HashSet<Uuid>,
}

#[derive(Debug)]
struct Known {
    domain: DomainRef,
    vm: Resource,
    children: Children,
    description: Description,
    start: Timestamp,
    last_seen: Timestamp,
    /// When an event last told the state.
    state_at: Timestamp,
    unexplained: bool,
    /// Of the process of this run.
    counted: Counted,
    /// Start of the resources, by id, of which nothing has changed since.
    unchanged: BTreeMap<String, Timestamp>,
}

impl Fleet {
    pub(crate) fn new(node: String) -> Self {
        Fleet { node, domains: HashMap::new(), ended: HashMap::new(), incoming: HashSet::new() }
    }

    /// What a reading calls for.
    pub(crate) fn judge(&mut self, reading: &Reading) -> Verdict {
        let uuid = reading.domain.uuid;
        let over = self.ended.get(&uuid).is_some_and(|&end| end >= reading.asked);
        let off = reading.stats.state == Some(State::Off) || reading.domain.id < 0;
        if over || off || self.incoming.contains(&uuid) {
            return Verdict::Skip;
        }
        match self.domains.get(&uuid) {
            None => Verdict::Admit,
            Some(known) if known.domain.id != reading.domain.id => Verdict::Skip,
            Some(known) if known.lacks_description_of(&reading.stats) => Verdict::Describe,
            Some(_) => Verdict::Update,
        }
    }

    /// Takes up a domain that was not known.
    pub(crate) fn admit(
        &mut self,
        reading: &Reading,
        description: Description,
        birth: Birth,
        out: &mut Observation,
    ) {
        let (Birth::Seen(start) | Birth::Found(start)) = birth;
        let start = start.min(reading.at);
        let stats = &reading.stats;
        // Every domain starts out running; what it is now, it became at some later instant.
        let mut at_birth = stats.clone();
        at_birth.state = Some(State::Running);
        let vm = resources::vm(&reading.domain, &self.node, &description, &at_birth, None);
        let children = children(&vm, &description, stats, &Children::new());
        out.events.push(event(Change::Created, start, &vm));
        out.events.extend(children.values().map(|child| event(Change::Created, start, child)));
        if matches!(birth, Birth::Seen(_)) {
            samples::push_zeros(&mut out.samples, &vm, &children, start);
        }
        let ids = std::iter::once(&vm.id).chain(children.keys());
        let known = Known {
            unchanged: ids.map(|id| (id.clone(), start)).collect(),
            domain: reading.domain.clone(),
            vm,
            children,
            description,
            start,
            last_seen: start,
            state_at: start,
            unexplained: false,
            counted: Counted::default(),
        };
        self.domains.insert(reading.domain.uuid, known);
        self.update(reading, out);
    }

    /// Replaces the description of a known domain; the next update tells what changed.
    pub(crate) fn describe(&mut self, uuid: Uuid, description: Description) {
        if let Some(known) = self.domains.get_mut(&uuid) {
            known.description = description;
        }
    }

    /// Takes in a reading of a known domain.
    pub(crate) fn update(&mut self, reading: &Reading, out: &mut Observation) {
        let Some(known) = self.domains.get_mut(&reading.domain.uuid) else { return };
        let mut stats = reading.stats.clone();
        if known.state_at >= reading.asked {
            stats.state = None;
        }
        stats.leave_out_unread(&known.counted);
        known.counted.keep(&mut stats);
        let Known { description, vm: before, children: children_before, unchanged, .. } = known;
        let (description, before, children_before) = (&*description, &*before, &*children_before);
        let vm = resources::vm(&reading.domain, &self.node, description, &stats, Some(before));
        let children = children(&vm, description, &stats, children_before);
        tell(before, &vm, reading.at, unchanged, out);
        changes(children_before, &children, reading.at, unchanged, out);
        samples::push(&mut out.samples, &vm, &children, description, &stats, reading.at);
        known.domain = reading.domain.clone();
        known.vm = vm;
        known.children = children;
        known.last_seen = reading.at;
        known.unexplained = false;
    }

    /// Compares all readings of one answer with the domains known: ends what an earlier answer
    /// left unexplained and this one does not explain, too.
    pub(crate) fn reconcile(&mut self, readings: &[Reading], out: &mut Observation) {
        let ids: HashMap<Uuid, i32> =
            readings.iter().map(|one| (one.domain.uuid, one.domain.id)).collect();
        let mut lost = Vec::new();
        for (uuid, known) in &mut self.domains {
            if ids.get(uuid) == Some(&known.domain.id) {
                continue;
            }
            if known.unexplained {
                lost.push(*uuid);
            }
            known.unexplained = true;
        }
        lost.sort_unstable();
        for uuid in lost {
            self.lose(uuid, out);
        }
    }

    /// Ends every domain whose process was started anew or is gone after a time without
    /// connection, in which events may have been lost.
    pub(crate) fn reconcile_all(
        &mut self,
        readings: &[Reading],
        start_of: impl Fn(&str) -> Option<Timestamp>,
        out: &mut Observation,
    ) {
        self.incoming.clear();
        let ids: HashMap<Uuid, i32> =
            readings.iter().map(|one| (one.domain.uuid, one.domain.id)).collect();
        let is_same = |uuid: &Uuid, known: &Known| {
            let restarted = || start_of(&known.domain.name).is_some_and(|at| at > known.last_seen);
            ids.get(uuid) == Some(&known.domain.id) && !restarted()
        };
        let lost = self.domains.iter().filter(|(uuid, known)| !is_same(uuid, known));
        let mut lost: Vec<Uuid> = lost.map(|(uuid, _)| *uuid).collect();
        lost.sort_unstable();
        for uuid in lost {
            self.lose(uuid, out);
        }
    }

    /// A domain stopped at `at`.
    pub(crate) fn ended(&mut self, uuid: Uuid, at: Timestamp, out: &mut Observation) {
        self.ended.insert(uuid, at);
        self.incoming.remove(&uuid);
        if let Some(known) = self.domains.remove(&uuid) {
            known.end(at, out);
        }
    }

    /// A domain left for another host at `at`, where it lives on.
    pub(crate) fn departed(&mut self, uuid: Uuid, at: Timestamp) {
        self.ended.insert(uuid, at);
        self.domains.remove(&uuid);
    }

    /// A domain is about to arrive from another host, where it still runs.
    pub(crate) fn arriving(&mut self, uuid: Uuid) {
        self.incoming.insert(uuid);
    }

    /// Whether the domain is about to arrive; it then has.
    pub(crate) fn arrived(&mut self, uuid: Uuid) -> bool {
        self.incoming.remove(&uuid)
    }

    /// An event told the state of a domain.
    pub(crate) fn turned(
        &mut self,
        uuid: Uuid,
        state: State,
        at: Timestamp,
        out: &mut Observation,
    ) {
        let Some(known) = self.domains.get_mut(&uuid) else { return };
        known.state_at = at;
        known.last_seen = known.last_seen.max(at);
        let state = state.as_str().to_owned();
        if known.vm.attributes.get("state") != Some(&state) {
            known.vm.attributes.insert("state".to_owned(), state);
            known.unchanged.remove(&known.vm.id);
            out.events.push(event(Change::Changed, at.max(known.start), &known.vm));
        }
    }

    /// Before a full reading is asked for: ends that were told until now are in its answer.
    pub(crate) fn forget_ends(&mut self) {
        self.ended.clear();
    }

    /// Whether this run of the domain is known.
    pub(crate) fn knows(&self, domain: &DomainRef) -> bool {
        self.domains.get(&domain.uuid).is_some_and(|known| known.domain.id == domain.id)
    }

    /// The domain as it is known, with the runtime id of its present run.
    pub(crate) fn domain(&self, uuid: Uuid) -> Option<&DomainRef> {
        self.domains.get(&uuid).map(|known| &known.domain)
    }

    fn lose(&mut self, uuid: Uuid, out: &mut Observation) {
        let Some(mut known) = self.domains.remove(&uuid) else { return };
        let estimated = ("end".to_owned(), "estimated".to_owned());
        known.vm.attributes.extend([estimated.clone()]);
        for child in known.children.values_mut() {
            child.attributes.extend([estimated.clone()]);
        }
        let at = known.last_seen;
        let name = &known.domain.name;
        tracing::warn!(domain = %name, %at, "end of domain was missed and is estimated");
        known.end(at, out);
    }
}

impl Known {
    fn end(self, at: Timestamp, out: &mut Observation) {
        let at = at.max(self.start);
        out.events.extend(self.children.values().map(|child| event(Change::Deleted, at, child)));
        out.events.push(event(Change::Deleted, at, &self.vm));
    }

    fn lacks_description_of(&self, stats: &DomainStats) -> bool {
        let disks = stats.disks.iter().flat_map(|disks| disks.values());
        let interfaces = stats.interfaces.iter().flat_map(|list| list.values());
        let known = |id: String| self.children.contains_key(&id);
        disks.filter(|disk| !disk.name.is_empty()).any(|disk| {
            !self.description.disks.contains_key(&disk.name)
                && !known(resources::disk_id(&self.vm, disk))
        }) || interfaces.filter(|one| !one.name.is_empty()).any(|one| {
            !self.description.macs.contains_key(&one.name)
                && !known(resources::interface_id(&self.vm, &self.description, &one.name))
        })
    }
}

/// Devices in a reading; of a kind that it says nothing of, those known before.
fn children(
    vm: &Resource,
    description: &Description,
    stats: &DomainStats,
    previous: &Children,
) -> Children {
    let mut children = Children::new();
    let kinds = [
        ("disk", resources::disks(vm, description, stats, previous)),
        ("interface", resources::interfaces(vm, description, stats)),
    ];
    for (kind, found) in kinds {
        let before = || {
            let same = previous.iter().filter(|(_, child)| child.kind.as_str() == kind);
            same.map(|(id, child)| (id.clone(), child.clone())).collect()
        };
        children.extend(found.unwrap_or_else(before));
    }
    children
}

fn changes(
    before: &Children,
    after: &Children,
    at: Timestamp,
    unchanged: &mut BTreeMap<String, Timestamp>,
    out: &mut Observation,
) {
    for (id, child) in before {
        if !after.contains_key(id) {
            out.events.push(event(Change::Deleted, at, child));
            unchanged.remove(id);
        }
    }
    for (id, child) in after {
        match before.get(id) {
            None => {
                out.events.push(event(Change::Created, at, child));
                unchanged.insert(id.clone(), at);
            }
            Some(known) => tell(known, child, at, unchanged, out),
        }
    }
}

/// Tells what changed about a resource at `at`. A size that the first readings left out was the
/// same all along, so it is told as of the start.
fn tell(
    before: &Resource,
    after: &Resource,
    at: Timestamp,
    unchanged: &mut BTreeMap<String, Timestamp>,
    out: &mut Observation,
) {
    let mut told = before.clone();
    if let Some(&start) = unchanged.get(&before.id) {
        resources::complete(&mut told, after);
        if told != *before {
            out.events.push(event(Change::Changed, start, &told));
        }
    }
    if told != *after {
        out.events.push(event(Change::Changed, at, after));
        unchanged.remove(&before.id);
    }
}

fn event(change: Change, at: Timestamp, resource: &Resource) -> LifecycleEvent {
    LifecycleEvent { change, at, resource: resource.clone(), source: SOURCE.to_owned() }
}
