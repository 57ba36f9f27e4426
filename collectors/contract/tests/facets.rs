//! What several sources say of one resource is put together by their order, and by nothing else.

#![allow(clippy::unwrap_used)] // test code throughout, helpers too

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use nilometer_contract::{
    Applied, Change, History, HistoryBounds, LifecycleEvent, Precedence, Resource, ResourceKind,
    Segment, Timestamp,
};
use proptest::prelude::*;
use proptest::sample::Index;

const ID: &str = "vm-1";
/// In this order; the last one is not named by any list.
const SOURCES: [&str; 3] = ["nova", "libvirt", "other"];
const AFTER_ALL: i64 = 14;

fn event(source: &str, at: i64, change: Change, texts: [&str; 3]) -> LifecycleEvent {
    let mut resource = Resource::new(ID, ResourceKind::VM);
    let [name, project, vcpus] = texts.map(str::to_owned);
    (resource.name, resource.project) = (name, project);
    if vcpus != "-" {
        resource.attributes.insert("vcpus".to_owned(), vcpus);
    }
    LifecycleEvent { change, at: Timestamp(at), resource, source: source.to_owned() }
}

fn precedence() -> Arc<Precedence> {
    let mut catalogue = nilometer_contract::Catalogue::empty();
    let text = "[sources]\norder = ['nova', 'libvirt']\nattributes.vcpus = ['libvirt']\n";
    catalogue.add(text, nilometer_contract::Origin::BuiltIn).unwrap();
    catalogue.precedence().clone()
}

fn history() -> History {
    History::new(HistoryBounds::default(), precedence())
}

fn of(events: &[LifecycleEvent]) -> History {
    let mut history = history();
    history.apply_all(events.to_vec());
    history
}

fn segments(history: &History) -> Vec<Segment> {
    history.get(ID).map(|lifetime| lifetime.segments().to_vec()).unwrap_or_default()
}

/// Touching segments of one state as one.
fn joined(segments: Vec<Segment>) -> Vec<Segment> {
    let mut joined: Vec<Segment> = Vec::new();
    for segment in segments {
        match joined.last_mut() {
            Some(last) if last.end == Some(segment.start) && last.state == segment.state => {
                last.end = segment.end;
            }
            _ => joined.push(segment),
        }
    }
    joined
}

fn text(history: &History) -> String {
    let segments = segments(history);
    let texts = segments.iter().map(|Segment { start, end, state }| {
        let end = end.map(|end| end.0.to_string()).unwrap_or_default();
        let vcpus = state.attributes.get("vcpus").map_or("-", String::as_str);
        format!("{}-{end} {}/{}/{vcpus}", start.0, state.name, state.project)
    });
    texts.collect::<Vec<_>>().join(", ")
}

/// `source at change name/project/vcpus` per line.
fn check(script: &str, expected: &str) {
    let events: Vec<LifecycleEvent> = script
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let change = match words[2] {
                "created" => Change::Created,
                "changed" => Change::Changed,
                _ => Change::Deleted,
            };
            let texts: Vec<&str> = words[3].split('/').collect();
            event(words[0], words[1].parse().unwrap(), change, [texts[0], texts[1], texts[2]])
        })
        .collect();
    assert_eq!(text(&of(&events)), expected, "{script}");
    let mut backwards = history();
    events.iter().rev().for_each(|event| {
        backwards.apply(event.clone());
    });
    assert_eq!(text(&backwards), expected, "backwards: {script}");
}

#[test]
fn each_attribute_is_of_the_first_source_that_states_it() {
    check(
        "nova    1 created web/a/2
         libvirt 3 created i-7/-/4",
        "1-3 web/a/2, 3- web/a/4",
    );
    check(
        "libvirt 1 created i-7//2
         nova    3 changed web/a/-
         nova    5 changed /a/-
         libvirt 7 deleted i-7//2",
        "1-3 i-7//2, 3-5 web/a/2, 5-7 i-7/a/2, 7- /a/-",
    );
    check(
        "other 1 created x/x/1
         libvirt 1 created y//",
        "1- y/x/1",
    );
}

#[test]
fn the_first_source_that_speaks_decides_on_the_life() {
    check(
        "nova    1 created web/a/2
         libvirt 2 created web/a/2
         libvirt 4 deleted web/a/2
         libvirt 5 created web/a/2",
        "1- web/a/2",
    );
    check(
        "libvirt 1 created web/a/2
         nova    2 created web/a/2
         nova    6 deleted web/a/2
         libvirt 9 changed new/a/2",
        "1-6 web/a/2",
    );
    check(
        "libvirt 1 created web/a/2
         nova    6 deleted web/a/2
         nova    9 created web/a/2",
        "1-6 web/a/2, 9- web/a/2",
    );
    check(
        "libvirt 1 created web/a/2
         libvirt 3 deleted web/a/2
         nova    5 changed web/a/2",
        "1-3 web/a/2, 5- web/a/2",
    );
}

#[test]
fn sources_and_changes_of_one_resource_are_bounded() {
    let bounds = HistoryBounds {
        changes_per_resource: 3,
        sources_per_resource: 2,
        ..HistoryBounds::default()
    };
    let mut history = History::new(bounds, precedence());
    let created = |source| event(source, 1, Change::Created, ["a", "a", "-"]);
    let later = |at, change| event("nova", at, change, ["b", "b", "-"]);
    let applied = history.apply_all(vec![
        created("libvirt"),
        created("nova"),
        created("other"),
        created("nova"),
        later(2, Change::Changed),
        later(3, Change::Changed),
        later(4, Change::Deleted),
    ]);
    use Applied::{Duplicate, New, TooManyChanges, TooManySources};
    assert_eq!(applied, [New, New, TooManySources, Duplicate, New, TooManyChanges, New]);
    let lifetime = history.get(ID).unwrap();
    let sources: Vec<&str> = lifetime.facets().map(|(source, _)| source).collect();
    assert_eq!((sources, lifetime.event_count()), (vec!["nova", "libvirt"], 4));
    assert_eq!(lifetime.latest().unwrap().end, Some(Timestamp(4)));
}

/// Merging all of them at each event takes minutes.
#[test]
fn a_hundred_thousand_changes_of_two_sources_are_applied_in_linear_time() {
    let mut history = history();
    for at in 0..100_000 {
        let source = SOURCES[usize::from(at % 3 == 0)];
        let name = (at % 7).to_string();
        history.apply(event(source, at, Change::Changed, [&name, "p", "2"]));
    }
    assert_eq!(history.get(ID).unwrap().event_count(), 100_000);
}

#[test]
fn an_end_is_kept_while_another_source_would_revive() {
    let mut history = of(&[
        event("libvirt", 1, Change::Created, ["a", "p", "2"]),
        event("nova", 1, Change::Created, ["a", "p", "2"]),
        event("nova", 4, Change::Changed, ["b", "p", "2"]),
        event("nova", 5, Change::Deleted, ["b", "p", "2"]),
    ]);
    history.forget_before(Timestamp(10));
    assert!(history.get(ID).unwrap().at(Timestamp(20)).is_none());
    history.apply(event("libvirt", 11, Change::Changed, ["c", "p", "2"]));
    assert!(history.get(ID).unwrap().at(Timestamp(20)).is_none());
    history.apply(event("libvirt", 12, Change::Deleted, ["c", "p", "2"]));
    history.forget_before(Timestamp(30));
    assert!(history.is_empty(), "all have ended it");
}

/// The definition of what all say at an instant.
fn defined(events: &[LifecycleEvent], at: i64) -> Option<Resource> {
    let at = Timestamp(at);
    let mut alive: Vec<(&str, Resource)> = Vec::new();
    let mut decided = false;
    for source in SOURCES {
        let own: Vec<LifecycleEvent> =
            events.iter().filter(|event| event.source == source).cloned().collect();
        if !own.iter().any(|event| event.at <= at) {
            continue;
        }
        let state = of(&own).get(ID).and_then(|own| Some(own.at(at)?.state.as_ref().clone()));
        if state.is_none() && !decided {
            return None;
        }
        decided = true;
        alive.extend(state.map(|state| (source, state)));
    }
    let (_, first) = alive.first()?;
    let pick = |sources: &[(&str, Resource)], text: fn(&Resource) -> Option<&str>| {
        let mut texts: Vec<String> =
            sources.iter().filter_map(|(_, state)| text(state)).map(str::to_owned).collect();
        texts.sort_by_key(String::is_empty);
        texts.into_iter().next()
    };
    let mut merged = Resource::new(ID, first.kind.clone());
    merged.name = pick(&alive, |state| Some(&state.name)).unwrap();
    merged.project = pick(&alive, |state| Some(&state.project)).unwrap();
    alive.sort_by_key(|(source, _)| *source != "libvirt");
    let vcpus = pick(&alive, |state| state.attributes.get("vcpus").map(String::as_str));
    merged.attributes = BTreeMap::from_iter(vcpus.map(|vcpus| ("vcpus".to_owned(), vcpus)));
    Some(merged)
}

fn some_events(sources: usize, most: usize) -> impl Strategy<Value = Vec<LifecycleEvent>> {
    let changes = [Change::Created, Change::Changed, Change::Deleted];
    let source = prop::sample::select(SOURCES[..sources].to_vec());
    let text = || prop::sample::select(vec!["a", "b", ""]);
    let vcpus = prop::sample::select(vec!["1", "2", "-"]);
    let one = (source, 0..12_i64, prop::sample::select(changes.to_vec()), text(), text(), vcpus)
        .prop_map(|(source, at, change, name, project, vcpus)| {
            event(source, at, change, [name, project, vcpus])
        });
    proptest::collection::vec(one, 0..most)
}

fn some_events_of_some() -> impl Strategy<Value = Vec<LifecycleEvent>> {
    (1..=3_usize).prop_flat_map(|sources| some_events(sources, 16))
}

fn states(history: &History, from: i64) -> Vec<Option<Resource>> {
    let at = |at| Some(history.get(ID)?.at(Timestamp(at))?.state.as_ref().clone());
    (from..AFTER_ALL).map(at).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn order_repeats_and_batches_change_nothing(
        events in some_events_of_some(),
        shuffle in proptest::collection::vec((any::<Index>(), any::<bool>()), 0..24),
    ) {
        let ordered = of(&events);
        let (mut shuffled, mut batch) = (history(), Vec::new());
        for (place, ends) in shuffle {
            if !events.is_empty() {
                batch.push(events[place.index(events.len())].clone());
            }
            if ends {
                shuffled.apply_all(std::mem::take(&mut batch));
            }
        }
        for event in events.iter().rev() {
            batch.push(event.clone());
            shuffled.apply_all(std::mem::take(&mut batch));
        }
        prop_assert_eq!(ordered.get(ID), shuffled.get(ID));
        let found = segments(&ordered);
        prop_assert!(found.iter().all(|one| one.end.is_none_or(|end| one.start < end)));
        prop_assert!(found.windows(2).all(|pair| pair[0].end.is_some_and(|end| end <= pair[1].start)));
    }

    #[test]
    fn what_is_found_at_each_instant_is_as_defined(events in some_events_of_some()) {
        let history = of(&events);
        for at in 0..AFTER_ALL {
            let found = history.get(ID).and_then(|life| Some(life.at(Timestamp(at))?.state.as_ref().clone()));
            prop_assert_eq!(found, defined(&events, at), "at {}", at);
        }
        // Several sources never leave two segments where one would do.
        let found = segments(&history);
        if history.get(ID).is_some_and(|life| life.facets().len() > 1) {
            prop_assert_eq!(joined(found.clone()), found);
        }
    }

    #[test]
    fn two_sources_that_say_the_same_give_what_one_gives(
        events in some_events(1, 14),
        late in proptest::collection::vec(0..3_usize, 14),
    ) {
        // Which of two that contradict each other at one instant counts, their digests say.
        let mut instants = BTreeSet::new();
        let first = |event: &LifecycleEvent| instants.insert((event.at, event.change));
        let events: Vec<LifecycleEvent> = events.into_iter().filter(first).collect();
        let mut both = history();
        // The second source says each thing somewhat later than the first, or before it.
        let mut waiting: Vec<LifecycleEvent> = Vec::new();
        for (event, late) in events.iter().zip(&late) {
            both.apply(event.clone());
            waiting.push(LifecycleEvent { source: "libvirt".to_owned(), ..event.clone() });
            if *late == 0 {
                both.apply_all(std::mem::take(&mut waiting));
            }
        }
        both.apply_all(waiting);
        prop_assert_eq!(segments(&both), joined(segments(&of(&events))));
    }

    #[test]
    fn what_is_forgotten_is_missed_by_nothing_later(
        before in some_events_of_some(),
        later in some_events(3, 8),
        horizon in 0..12_i64,
    ) {
        let mut whole = of(&before);
        let mut trimmed = whole.clone();
        trimmed.forget_before(Timestamp(horizon));
        let gone = trimmed.get(ID).is_none();
        prop_assert_eq!(states(&whole, horizon), states(&trimmed, horizon));
        for event in later.into_iter().filter(|event| event.at.0 >= horizon && !gone) {
            whole.apply(event.clone());
            trimmed.apply(event);
        }
        prop_assert_eq!(states(&whole, horizon), states(&trimmed, horizon));
        let count = trimmed.get(ID).map(|life| life.event_count());
        trimmed.forget_before(Timestamp(horizon));
        prop_assert!(trimmed.get(ID).map(|life| life.event_count()) <= count);
    }

    #[test]
    fn the_beginning_of_a_life_that_goes_on_is_kept(
        events in some_events_of_some(),
        horizon in 0..12_i64,
    ) {
        let whole = of(&events);
        let mut trimmed = whole.clone();
        trimmed.forget_before(Timestamp(horizon));
        let birth = |history: &History| {
            let found = joined(segments(history));
            let at = found.iter().position(|one| {
                one.start.0 < horizon && one.end.is_none_or(|end| end.0 >= horizon)
            })?;
            let lives = found[..=at].windows(2).rev();
            let before = lives.take_while(|pair| pair[0].end == Some(pair[1].start)).count();
            Some(found[at - before].start)
        };
        prop_assert_eq!(birth(&whole), birth(&trimmed));
    }

    #[test]
    fn what_is_removed_bit_by_bit_is_missed_by_nothing_later(
        events in some_events_of_some(),
        removable in proptest::collection::vec(any::<bool>(), 16),
        horizon in 0..12_i64,
    ) {
        let whole = of(&events);
        let Some(lifetime) = whole.get(ID) else { return Ok(()) };
        let may = |digest: u128| {
            events.iter().zip(&removable).any(|(event, may)| *may && event.digest() == digest)
        };
        let gone = lifetime.forgettable(Timestamp(horizon), whole.precedence(), may);
        prop_assert!(gone.iter().all(|digest| may(*digest)));
        let left: Vec<LifecycleEvent> =
            events.into_iter().filter(|event| !gone.contains(&event.digest())).collect();
        prop_assert_eq!(states(&whole, horizon), states(&of(&left), horizon));
    }
}
