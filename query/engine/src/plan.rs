//! What a question about usage is about: resources, their meters, the series that tell of them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use nilometer_contract::{
    Labels, Lifetime, Meter, MeterKind, ResourceKind, Scope, Segment, Timestamp,
};
use nilometer_ingest::{Shared, Tables};
use nilometer_store::{Description, SeriesColumn};
use nilometer_usage::{
    Names, Neighbours, ParentUsage, Points, Reach, Sample, Series, Tenure, UsageRow, Window,
    allocation_usage, neighbours, series_usage, series_usage_by_parent, whole_hours,
};

use crate::points::Point;
use crate::rivals::{Contested, Pause, Rivals};

/// Whose usage of what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Resources that belonged to this project at some time of the window.
    pub project: Option<String>,
    /// This resource.
    pub resource: Option<String>,
    /// This meter.
    pub meter: Option<String>,
    /// Resources of this kind.
    pub kind: Option<ResourceKind>,
}

/// A resource with its wanted meters.
pub(crate) struct Subject {
    pub(crate) tenure: Option<Tenure>,
    pub(crate) resource: Arc<str>,
    pub(crate) kind: ResourceKind,
    pub(crate) project: Arc<str>,
    /// First and last instant at which it may have been, as far as it was announced.
    birth: i64,
    death: i64,
    /// Instants at which its attributes change while it lives.
    cuts: Vec<i64>,
    /// First instants of the gaps that concern it, in order.
    gaps: Vec<i64>,
    /// Nodes on which its samples were read.
    nodes: HashSet<String>,
    /// By whom, as the index of series numbers sources.
    sources: Vec<u32>,
}

/// The series that a selection wants, by identity.
#[derive(Default)]
pub(crate) struct Plan {
    pub(crate) subjects: Vec<Subject>,
    pub(crate) places: Vec<Place>,
    /// The meters that resources are allocated, as far as they are wanted.
    pub(crate) allocations: Vec<Arc<Meter>>,
    /// Series to place.
    pub(crate) series: HashMap<i64, u32>,
    /// Meters of resources that several sources sample.
    pub(crate) rivals: Vec<Rivals>,
    /// Whether rows end where attributes change.
    pub(crate) by_state: bool,
    /// Whether only the choices among sources are asked for, and no usage.
    pub(crate) only_choices: bool,
}

/// What the points of one identity are of.
pub(crate) struct Place {
    /// Place of the subject.
    pub(crate) subject: usize,
    pub(crate) meter: Arc<Meter>,
    labels: Labels,
    pub(crate) source: Arc<str>,
    /// Whether other sources sample the same.
    pub(crate) has_rival: bool,
}

/// The points of one place, with when their resource lived.
pub(crate) struct Observed<'a> {
    place: &'a Place,
    pub(crate) subject: &'a Subject,
    points: Points,
    sighted: Option<Tenure>,
}

/// Rows by project and, for conservation, by parent.
#[derive(Default)]
pub(crate) struct Out {
    pub(crate) rows: Vec<UsageRow>,
    pub(crate) by_parent: Vec<ParentUsage>,
    /// Hours in which several sources sampled one meter of a resource.
    pub(crate) contested: Vec<Contested>,
    /// Pauses of sources that have rivals.
    pub(crate) pauses: Vec<Pause>,
}

impl Plan {
    /// Learns from series and lifetimes; about all that lived in the window.
    pub(crate) fn of(shared: &Shared, window: Window, selection: &Selection) -> Self {
        let index = shared.index.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let history = shared.history.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut plan = Plan::default();
        let mut names = Names::default();
        let mut by_resource: HashMap<&str, usize> = HashMap::new();
        let wanted = |id: &str, lifetime: &Lifetime| selection.wants(id, lifetime, window);
        for (id, lifetime) in history.iter().filter(|(id, lifetime)| wanted(id, lifetime)) {
            let Some(latest) = lifetime.latest() else { continue };
            by_resource.insert(id, plan.subjects.len());
            plan.subjects.push(Subject {
                tenure: Some(Tenure::announced(id.into(), lifetime, &mut names)),
                resource: id.into(),
                kind: latest.state.kind.clone(),
                project: latest.state.project.as_str().into(),
                birth: lifetime.start().map_or(i64::MIN, |start| start.0),
                death: latest.end.map_or(i64::MAX, |end| end.0),
                cuts: cuts(lifetime),
                gaps: Vec::new(),
                nodes: HashSet::new(),
                sources: Vec::new(),
            });
        }
        let mut by_identity: HashMap<u32, u32> = HashMap::new();
        for slot in 0..index.len() as u32 {
            let series = index.description(slot);
            if !selection.wants_meter(series.meter) {
                continue;
            }
            let Some(meter) = index.catalogue().find(series.meter) else { continue };
            let subject = match by_resource.get(series.resource) {
                Some(&subject) => subject,
                None => {
                    let announced =
                        history.get(series.resource).is_some_and(|known| known.latest().is_some());
                    let Some(subject) = Subject::sighted(&series, announced, selection) else {
                        continue;
                    };
                    by_resource.insert(series.resource, plan.subjects.len());
                    plan.subjects.push(subject);
                    plan.subjects.len() - 1
                }
            };
            let place = *by_identity.entry(index.identity(slot)).or_insert_with(|| {
                let labels = Labels::parse(series.labels).unwrap_or_default();
                let (meter, source) = (meter.clone(), names.get(series.source));
                plan.places.push(Place { subject, meter, labels, source, has_rival: false });
                (plan.places.len() - 1) as u32
            });
            plan.series.insert(index.id(slot), place);
            let Subject { nodes, sources, .. } = &mut plan.subjects[subject];
            if !nodes.contains(series.node) {
                nodes.insert(series.node.to_owned());
            }
            let source = index.keys(SeriesColumn::Source)[slot as usize];
            if !sources.contains(&source) {
                sources.push(source);
            }
        }
        plan.find_rivals(index.catalogue().precedence());
        let allocated = |meter: &&Arc<Meter>| matches!(meter.kind, MeterKind::Allocation { .. });
        let wanted = index.catalogue().meters().filter(|meter| selection.wants_meter(&meter.name));
        plan.allocations = wanted.filter(allocated).cloned().collect();
        plan.find_gaps(shared);
        plan
    }

    fn find_gaps(&mut self, shared: &Shared) {
        let gaps = shared.gaps.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        for subject in &mut self.subjects {
            let nodes = subject.nodes.iter().map(String::as_str);
            subject.gaps = gaps.of(&subject.resource, nodes, (subject.birth, subject.death));
        }
    }

    /// What of time to read for a window: it, a margin around it, and, where sources are to be
    /// chosen from, its whole hours.
    pub(crate) fn reading(&self, window: Window) -> (i64, i64) {
        let around = if self.rivals.is_empty() { window } else { whole_hours(window) };
        let margin = self.margin_micros();
        (around.start.0.saturating_sub(margin), around.end.0.saturating_add(margin))
    }

    /// How far around a window to read without asking whether it is needed: the longest time for
    /// which one observation of these meters speaks.
    fn margin_micros(&self) -> i64 {
        self.places.iter().map(|place| place.meter.hold_micros).max().unwrap_or(0) + 1
    }

    /// Places that need the nearest reading before the window, and those that need it after.
    pub(crate) fn wanting(&self, window: Window) -> (HashSet<u32>, HashSet<u32>) {
        let places = |reach: fn(&Neighbours) -> Reach, lives: &dyn Fn(&Subject) -> bool| {
            let wanting = self.places.iter().enumerate().filter(|(_, place)| {
                let subject = &self.subjects[place.subject];
                let needs = neighbours(&place.meter, subject.tenure.is_some());
                reach(&needs) == Reach::Nearest && lives(subject)
            });
            wanting.map(|(place, _)| place as u32).collect()
        };
        let before = places(|needs| needs.before, &|subject| subject.birth < window.start.0);
        // A reading after a death counts within the hold time only, which the margin covers.
        let after = places(|needs| needs.after, &|subject| subject.death > window.end.0);
        (before, after)
    }

    /// What the points of one place are of.
    pub(crate) fn observed(&self, place: u32, points: &[Point]) -> Observed<'_> {
        let place = &self.places[place as usize];
        let subject = &self.subjects[place.subject];
        let samples =
            points.iter().map(|&Point { at, value, clock, .. }| Sample { at, value, clock });
        let points = match Points::collect(samples) {
            Ok(points) => points,
            Err(error) => panic!("invariant 3: one value per identity: {error}"),
        };
        let mut observed = Observed { place, subject, points, sighted: None };
        if subject.tenure.is_none() {
            let (resource, project) = (subject.resource.clone(), subject.project.clone());
            let kind = subject.kind.clone();
            let sighted = Tenure::sighted(resource, kind, project, &observed.series());
            observed.sighted = Some(sighted);
        }
        observed
    }

    /// Adds the usage that the points of one place tell of.
    pub(crate) fn series_usage(
        &self,
        place: u32,
        points: &[Point],
        window: Window,
        as_of: Timestamp,
        by_parent: bool,
        out: &mut Out,
    ) {
        if !matches!(self.places[place as usize].meter.kind, MeterKind::Allocation { .. }) {
            let observed = self.observed(place, points);
            self.usage_of(&observed, window, as_of, by_parent, out);
        }
    }

    /// Adds the usage of what was observed.
    pub(crate) fn usage_of(
        &self,
        observed: &Observed<'_>,
        window: Window,
        as_of: Timestamp,
        by_parent: bool,
        out: &mut Out,
    ) {
        let (series, tenure) = (observed.series(), observed.tenure());
        for part in self.parts(observed.subject, window) {
            series_usage(&series, tenure, part, as_of, &mut out.rows);
        }
        if by_parent {
            series_usage_by_parent(&series, tenure, window, as_of, &mut out.by_parent);
        }
    }

    /// Adds the usage that lifecycles alone tell of.
    pub(crate) fn allocations(&self, window: Window, as_of: Timestamp, out: &mut Vec<UsageRow>) {
        for subject in &self.subjects {
            let Some(tenure) = &subject.tenure else { continue };
            for part in self.parts(subject, window) {
                for meter in &self.allocations {
                    allocation_usage(tenure, meter, part, as_of, out);
                }
            }
        }
    }

    /// The window, in parts of one state each if that is asked for.
    fn parts(&self, subject: &Subject, window: Window) -> Vec<Window> {
        let inside = |at: &&i64| self.by_state && (window.start.0 + 1..window.end.0).contains(*at);
        let mut edges = vec![window.start];
        edges.extend(subject.cuts.iter().filter(inside).map(|&at| Timestamp(at)));
        edges.push(window.end);
        edges.windows(2).map(|edge| Window { start: edge[0], end: edge[1] }).collect()
    }
}

impl Observed<'_> {
    /// Its series.
    pub(crate) fn series(&self) -> Series<'_> {
        let Place { meter, labels, .. } = self.place;
        Series { gaps: &self.subject.gaps, labels, ..self.points.series(meter) }
    }

    /// When its resource lived.
    pub(crate) fn tenure(&self) -> &Tenure {
        match self.subject.tenure.as_ref().or(self.sighted.as_ref()) {
            Some(tenure) => tenure,
            None => panic!("what was not announced was sighted"),
        }
    }
}

impl Subject {
    /// Whether several sources sample it.
    pub(crate) fn has_several_sources(&self) -> bool {
        self.sources.len() > 1
    }
}

fn cuts(lifetime: &Lifetime) -> Vec<i64> {
    let pairs = lifetime.segments().windows(2);
    let changed = pairs.filter(|pair| {
        pair[0].end == Some(pair[1].start) && pair[0].state.attributes != pair[1].state.attributes
    });
    changed.map(|pair| pair[1].start.0).collect()
}

/// A kind of which nothing is known.
#[derive(Debug, thiserror::Error)]
#[error("no resource of kind {kind:?} is known; kinds that are declared: {declared}")]
pub struct UnknownKind {
    kind: String,
    declared: String,
}

impl Selection {
    /// Refuses a kind that is not declared and of which no resource is known: it is misspelt.
    /// Only to who sees all, since to others it would say which kinds somebody else has.
    pub fn check(&self, tables: &Tables, scope: &Scope) -> Result<(), UnknownKind> {
        match &self.kind {
            Some(kind) if scope.is_system() && !tables.knows_kind(kind) => {
                let catalogue = tables.catalogue();
                let declared: Vec<&str> =
                    catalogue.kinds().map(|kind| kind.name.as_str()).collect();
                let declared = declared.join(", ");
                Err(UnknownKind { kind: kind.to_string(), declared })
            }
            _ => Ok(()),
        }
    }

    /// Whether a row is of what is selected; of a selected resource, not every row is.
    pub(crate) fn takes(&self, row: &UsageRow) -> bool {
        self.project.as_deref().is_none_or(|project| *row.project == *project)
            && self.kind.as_ref().is_none_or(|kind| *kind == row.kind)
    }

    fn wants_meter(&self, name: &str) -> bool {
        self.meter.as_deref().is_none_or(|meter| meter == name)
    }

    fn wants(&self, id: &str, lifetime: &Lifetime, window: Window) -> bool {
        let overlaps = |segment: &&Segment| {
            segment.start < window.end && segment.end.is_none_or(|end| end > window.start)
        };
        let mut segments = lifetime.segments().iter().filter(overlaps).peekable();
        self.resource.as_deref().is_none_or(|resource| resource == id)
            && segments.peek().is_some()
            && segments.any(|segment| {
                let state = &segment.state;
                self.project.as_deref().is_none_or(|project| project == state.project)
                    && self.kind.as_ref().is_none_or(|kind| *kind == state.kind)
            })
    }
}

impl Subject {
    /// A resource that only its samples tell of: the first labels it was seen with say whose it is,
    /// whatever is asked for.
    fn sighted(series: &Description<&str>, announced: bool, selection: &Selection) -> Option<Self> {
        let kind = series.kind.parse().ok()?;
        let wanted = !announced
            && selection.resource.as_deref().is_none_or(|resource| resource == series.resource);
        wanted.then(|| Subject {
            tenure: None,
            resource: series.resource.into(),
            kind,
            project: series.project.into(),
            birth: i64::MIN,
            death: i64::MAX,
            cuts: Vec::new(),
            gaps: Vec::new(),
            nodes: HashSet::new(),
            sources: Vec::new(),
        })
    }
}
