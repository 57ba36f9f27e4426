//! The states of a resource that several sources describe.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::facet::{Facet, state_at, unfold};
use crate::lifetime::Segment;
use crate::precedence::Precedence;
use crate::resource::Resource;
use crate::time::Timestamp;

/// What a source says of the state at an instant.
type Stated<'a> = (&'a str, &'a Arc<Resource>);

/// Makes segments those of the facets, which are in order of their sources; those before `from`
/// are right already.
///
/// States change only where one of a facet begins or ends, or where a source begins to speak.
pub(crate) fn merge_from(
    segments: &mut Vec<Segment>,
    facets: &[Facet],
    from: Timestamp,
    precedence: &Precedence,
) {
    unfold(segments, from);
    for edge in edges(facets, from) {
        let state = state_of(facets, edge, precedence);
        let last = segments.last_mut().filter(|last| last.end.is_none());
        if let Some(last) = last {
            if state.as_ref() == Some(&last.state) {
                continue;
            }
            last.end = Some(edge);
        }
        segments.extend(state.map(|state| Segment { start: edge, end: None, state }));
    }
}

/// Instants from `from` on at which what the facets say may change, in order.
fn edges(facets: &[Facet], from: Timestamp) -> BTreeSet<Timestamp> {
    let mut edges = BTreeSet::new();
    for facet in facets {
        edges.insert(facet.begin());
        let segments = facet.segments();
        let first = segments.partition_point(|segment| segment.end.is_some_and(|end| end < from));
        for segment in &segments[first..] {
            edges.insert(segment.start);
            edges.extend(segment.end);
        }
    }
    // What held before `from` may end there.
    let mut edges = edges.split_off(&from);
    if from > Timestamp(i64::MIN) {
        edges.insert(from);
    }
    edges
}

/// The state at an instant, if the resource is alive then.
fn state_of(facets: &[Facet], at: Timestamp, precedence: &Precedence) -> Option<Arc<Resource>> {
    let deciding = facets.iter().position(|facet| facet.begin() <= at)?;
    let first = state_at(facets[deciding].segments(), at)?;
    let mut alive: Vec<Stated<'_>> = vec![(facets[deciding].source(), &first.state)];
    for facet in &facets[deciding + 1..] {
        let segment = state_at(facet.segments(), at);
        alive.extend(segment.map(|segment| (facet.source(), &segment.state)));
    }
    Some(together(&alive, precedence))
}

/// One state of what several sources state, the first one first.
fn together<'a>(alive: &[Stated<'a>], precedence: &Precedence) -> Arc<Resource> {
    let first = alive[0].1;
    if alive.iter().all(|(_, state)| *state == first) {
        return first.clone();
    }
    let text = |name: &str, of: for<'b> fn(&'b Resource) -> &'b str| {
        stated(alive, precedence, name, |state| Some(of(state))).unwrap_or_default().to_owned()
    };
    let names: BTreeSet<&String> =
        alive.iter().flat_map(|(_, state)| state.attributes.keys()).collect();
    let attributes = names.into_iter().filter_map(|name| {
        let value = |state: &'a Resource| state.attributes.get(name).map(String::as_str);
        Some((name.clone(), stated(alive, precedence, name, value)?.to_owned()))
    });
    let parent = stated(alive, precedence, "parent", |state| state.parent.as_deref());
    let state = Resource {
        id: first.id.clone(),
        kind: first.kind.clone(),
        project: text("project", |state| &state.project),
        name: text("name", |state| &state.name),
        node: text("node", |state| &state.node),
        parent: parent.map(str::to_owned),
        attributes: attributes.collect(),
    };
    match state == **first {
        true => first.clone(),
        false => Arc::new(state),
    }
}

/// What the first source states that states anything but an empty text.
fn stated<'a>(
    alive: &[Stated<'a>],
    precedence: &Precedence,
    name: &str,
    text: impl Fn(&'a Resource) -> Option<&'a str>,
) -> Option<&'a str> {
    let order =
        |one: &(&str, &str), other: &(&str, &str)| match (one.1.is_empty(), other.1.is_empty()) {
            (false, true) => Ordering::Less,
            (true, false) => Ordering::Greater,
            _ => precedence.compare_for_attribute(name, one.0, other.0),
        };
    let texts = alive.iter().filter_map(|&(source, state)| Some((source, text(state)?)));
    texts.min_by(order).map(|(_, text)| text)
}
