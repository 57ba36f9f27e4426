//! When a resource lived, and whose and part of what it was.

use std::collections::HashSet;
use std::sync::Arc;

use nilometer_contract::{Lifetime, MICROS_PER_HOUR, ResourceKind, Segment, Timestamp};

use crate::points::Series;

/// A half-open period `[start, end)` that usage is asked for; empty when it ends before it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// First instant.
    pub start: Timestamp,
    /// First instant past the window.
    pub end: Timestamp,
}

/// Shares the names of projects and parents between tenures and rows, so that a row costs no copy.
///
/// Grows with the number of different names; it lives as long as the computation it serves.
#[derive(Clone, Debug, Default)]
pub struct Names(HashSet<Arc<str>>);

/// The lives of one resource, and how they split by project and by parent. Made once per
/// resource, used for all its meters.
///
/// ```text
/// segments   ├─ a, 2 vcpus ─┼─ a, 4 vcpus ─┼─ b, 4 vcpus ─┤    dead    ├─ b ─ …
/// lives      ├──────────────── birth to death ─────────────┤            ├────── …
/// owners     ├───────────── a ─────────────┼────── b ──────┤            ├─ b ─ …
/// ```
#[derive(Clone, Debug)]
pub struct Tenure {
    pub(crate) resource: Arc<str>,
    pub(crate) segments: Vec<Segment>,
    pub(crate) lives: Vec<Life>,
    pub(crate) owners: Vec<Span>,
    pub(crate) parents: Vec<Span>,
}

/// From a birth to the next death; open ends are [`OPEN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) birth: i64,
    pub(crate) death: i64,
    /// The birth itself was seen: counters were zero then.
    pub(crate) born: bool,
}

/// A maximal run of touching segments that share a key: a project, or a parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) kind: ResourceKind,
    pub(crate) key: Arc<str>,
}

/// The end of what has not ended.
pub(crate) const OPEN: i64 = i64::MAX;

impl Window {
    /// What of the window can hold usage as of an instant: `start..end` in microseconds.
    pub(crate) fn until(self, as_of: Timestamp) -> (i64, i64) {
        let start = self.start.max(Timestamp::MIN);
        let end = self.end.min(as_of).min(Timestamp::MAX);
        (start.0, end.0)
    }
}

impl Names {
    /// The shared copy of a name.
    pub fn get(&mut self, name: &str) -> Arc<str> {
        match self.0.get(name) {
            Some(shared) => Arc::clone(shared),
            None => {
                let shared: Arc<str> = name.into();
                self.0.insert(Arc::clone(&shared));
                shared
            }
        }
    }
}

impl Tenure {
    /// The tenure of an announced resource. A lifetime without segments (all that is known is
    /// that it ended) has no usage: such a resource is better [`sighted`](Self::sighted).
    pub fn announced(resource: Arc<str>, lifetime: &Lifetime, names: &mut Names) -> Self {
        let segments = lifetime.segments();
        Tenure {
            resource,
            lives: lives(lifetime),
            owners: owners(segments, names),
            parents: spans(segments, names, |state| state.parent.as_deref().unwrap_or("")),
            segments: segments.to_vec(),
        }
    }

    /// The tenure of a resource that nobody announced, as one of its series tells it: from the
    /// first reading to the last one plus the meter's hold time, under the project and the kind
    /// that came with the samples, part of nothing. Without readings it has not lived.
    pub fn sighted(
        resource: Arc<str>,
        kind: ResourceKind,
        project: Arc<str>,
        series: &Series<'_>,
    ) -> Self {
        let extent = series.extent();
        let life = extent.map(|(first, last)| Life {
            birth: first,
            death: last.saturating_add(series.meter.hold_micros),
            born: false,
        });
        let span = |key: Arc<str>| {
            let span =
                |life: Life| Span { start: life.birth, end: life.death, kind: kind.clone(), key };
            life.map(span).into_iter().collect()
        };
        Tenure {
            resource,
            segments: Vec::new(),
            lives: life.into_iter().collect(),
            owners: span(project),
            parents: span("".into()),
        }
    }
}

impl Tenure {
    /// The projects that owned the resource in an hour.
    pub fn projects_in(&self, hour: Timestamp) -> impl Iterator<Item = &Arc<str>> {
        let end = hour.plus_micros(MICROS_PER_HOUR);
        let in_hour = move |owner: &&Span| owner.end > hour.0 && owner.start < end.0;
        self.owners.iter().filter(in_hour).map(|owner| &owner.key)
    }
}

/// Spans of equal project.
pub(crate) fn owners<'a>(
    segments: impl IntoIterator<Item = &'a Segment>,
    names: &mut Names,
) -> Vec<Span> {
    spans(segments, names, |state| &state.project)
}

fn spans<'a>(
    segments: impl IntoIterator<Item = &'a Segment>,
    names: &mut Names,
    key: impl Fn(&nilometer_contract::Resource) -> &str,
) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    for segment in segments {
        let (start, end) = bounds(segment);
        let (kind, name) = (&segment.state.kind, key(&segment.state));
        match spans.last_mut() {
            Some(last) if last.end == start && *last.key == *name && last.kind == *kind => {
                last.end = end;
            }
            _ => spans.push(Span { start, end, kind: kind.clone(), key: names.get(name) }),
        }
    }
    spans
}

fn lives(lifetime: &Lifetime) -> Vec<Life> {
    let mut lives: Vec<Life> = Vec::new();
    for segment in lifetime.segments() {
        let (start, end) = bounds(segment);
        match lives.last_mut() {
            Some(life) if life.death == start => life.death = end,
            _ => {
                let born = lifetime.is_created_at(segment.start);
                lives.push(Life { birth: start, death: end, born });
            }
        }
    }
    lives
}

pub(crate) fn bounds(segment: &Segment) -> (i64, i64) {
    (segment.start.0, segment.end.map_or(OPEN, |end| end.0))
}
