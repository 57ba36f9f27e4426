//! The history is a function of the set of events.

use std::sync::Arc;

use nilometer_contract::{
    Applied, Change, History, HistoryBounds, LifecycleEvent, Resource, ResourceKind, Segment,
    Timestamp,
};
use proptest::prelude::*;

fn event(at: i64, change: Change, project: &str) -> LifecycleEvent {
    let mut resource = Resource::new("vm-1", ResourceKind::VM);
    resource.project = project.to_owned();
    LifecycleEvent { change, at: Timestamp(at), resource, source: "test".to_owned() }
}

/// `start-end project` per segment.
fn check(events: &[LifecycleEvent], expected: &str) {
    let mut history = History::default();
    for event in events {
        history.apply(event.clone());
    }
    let text = |lifetime: &nilometer_contract::Lifetime| {
        let segments = lifetime.segments().iter().map(|segment| {
            let end = segment.end.map(|end| end.0.to_string()).unwrap_or_default();
            format!("{}-{} {}", segment.start.0, end, segment.state.project)
        });
        segments.collect::<Vec<_>>().join(", ")
    };
    assert_eq!(history.get("vm-1").map(text).unwrap_or_default(), expected);
}

#[test]
fn lifetimes() {
    use Change::{Changed, Created, Deleted};
    let (a, b) = ("a", "b");
    check(&[event(1, Created, a)], "1- a");
    check(&[event(1, Created, a), event(9, Deleted, a)], "1-9 a");
    check(&[event(1, Created, a), event(5, Changed, b), event(9, Deleted, b)], "1-5 a, 5-9 b");
    check(&[event(1, Created, a), event(5, Created, a)], "1- a");
    check(&[event(1, Created, a), event(9, Deleted, a), event(10, Changed, a)], "1-9 a");
    check(&[event(1, Created, a), event(9, Deleted, a), event(12, Created, a)], "1-9 a, 12- a");
    check(&[event(5, Changed, a)], "5- a");
    check(&[event(5, Deleted, a)], "");
    check(&[event(1, Created, a), event(1, Changed, b)], "1- b");
    check(&[event(1, Created, a), event(5, Changed, b), event(5, Deleted, b)], "1-5 a");
}

#[test]
fn those_of_a_kind_that_live_at_an_instant_are_listed() {
    let mut history = History::default();
    let mut pod = event(3, Change::Created, "a");
    (pod.resource.id, pod.resource.kind) = ("pod-1".to_owned(), ResourceKind::POD);
    history.apply_all(vec![event(1, Change::Created, "a"), pod, event(9, Change::Deleted, "a")]);
    let ids = |kind: ResourceKind, at| -> Vec<String> {
        history.alive(&kind, Timestamp(at)).map(|segment| segment.state.id.clone()).collect()
    };
    assert_eq!(ids(ResourceKind::VM, 5), ["vm-1"]);
    assert_eq!(history.get("vm-1").unwrap().start(), Some(Timestamp(1)));
    assert_eq!(ids(ResourceKind::POD, 5), ["pod-1"]);
    assert!(ids(ResourceKind::POD, 2).is_empty() && ids(ResourceKind::VM, 9).is_empty());
    let mut known: Vec<&str> = history.iter().map(|(id, _)| id).collect();
    known.sort_unstable();
    assert_eq!((known, history.len(), history.is_empty()), (vec!["pod-1", "vm-1"], 2, false));
}

#[test]
fn repeats_are_duplicates() {
    let mut history = History::default();
    assert_eq!(history.apply(event(1, Change::Created, "a")), Applied::New);
    assert_eq!(history.apply(event(1, Change::Created, "a")), Applied::Duplicate);
    assert_eq!(history.apply(event(2, Change::Created, "a")), Applied::New);
}

#[test]
fn bounds_refuse_what_is_beyond_them_and_let_a_resource_end() {
    let bounds =
        HistoryBounds { resources: 1, changes_per_resource: 2, ..HistoryBounds::default() };
    let mut history = History::new(bounds, Arc::default());
    let mut other = event(1, Change::Created, "a");
    other.resource.id = "vm-2".to_owned();
    let applied = history.apply_all(vec![
        event(1, Change::Created, "a"),
        other.clone(),
        event(2, Change::Changed, "b"),
        event(1, Change::Created, "a"),
        event(3, Change::Changed, "c"),
        event(9, Change::Deleted, "b"),
        event(8, Change::Deleted, "b"),
        event(7, Change::Deleted, "b"),
    ]);
    use Applied::{Duplicate, New, TooManyChanges, TooManyResources};
    let expected =
        [New, TooManyResources, New, Duplicate, TooManyChanges, New, New, TooManyChanges];
    assert_eq!(applied, expected);
    assert_eq!(history.get("vm-1").unwrap().latest().unwrap().end, Some(Timestamp(8)));
    history.forget_before(Timestamp(20));
    assert_eq!(history.apply(other), New);
}

#[test]
fn a_life_that_goes_on_keeps_its_beginning() {
    let mut history = History::default();
    for (at, change, project) in [
        (1, Change::Created, "z"),
        (2, Change::Deleted, "z"),
        (10, Change::Created, "a"),
        (20, Change::Changed, "b"),
        (30, Change::Changed, "c"),
        (40, Change::Changed, "d"),
    ] {
        history.apply(event(at, change, project));
    }
    let lives = |history: &History| -> Vec<(i64, String)> {
        let segments = history.get("vm-1").unwrap().segments().iter();
        segments.map(|segment| (segment.start.0, segment.state.project.clone())).collect()
    };
    history.forget_before(Timestamp(35));
    let of = |at: i64, project: &str| (at, project.to_owned());
    assert_eq!(lives(&history), [of(10, "a"), of(30, "c"), of(40, "d")]);
    history.forget_before(Timestamp(50));
    assert_eq!(lives(&history), [of(10, "a"), of(40, "d")]);
    assert_eq!(history.get("vm-1").unwrap().events().len(), 2);
    assert_eq!(history.forgotten_before(), Timestamp(50));
    // A life that turns out to have ended where it began leaves the one before it.
    let mut again = History::default();
    for (at, change) in [(0, Change::Created), (1, Change::Deleted), (5, Change::Created)] {
        again.apply(event(at, change, "a"));
    }
    again.forget_before(Timestamp(5));
    again.apply(event(5, Change::Deleted, "a"));
    again.apply(event(6, Change::Changed, "a"));
    assert!(again.get("vm-1").unwrap().at(Timestamp(7)).is_none(), "a report does not revive");
    history.apply(event(60, Change::Deleted, "d"));
    history.forget_before(Timestamp(61));
    assert!(history.is_empty(), "what ended is forgotten");
}

#[test]
fn what_may_be_removed_is_what_nothing_later_rests_on() {
    let removable = |events: &[LifecycleEvent], horizon: i64, kept: &[usize]| -> Vec<usize> {
        let mut history = History::default();
        history.apply_all(events.to_vec());
        let digests: Vec<u128> = events.iter().map(LifecycleEvent::digest).collect();
        let may = |digest| !kept.iter().any(|&n| digests[n] == digest);
        let gone =
            history.get("vm-1").unwrap().forgettable(Timestamp(horizon), history.precedence(), may);
        (0..events.len()).filter(|&n| gone.contains(&digests[n])).collect()
    };
    let ended = [event(1, Change::Created, "a"), event(5, Change::Deleted, "a")];
    assert_eq!(removable(&ended, 10, &[]), [0, 1], "it is over");
    assert_eq!(removable(&ended, 10, &[0]), [] as [usize; 0], "nothing before what stays");
    assert_eq!(removable(&ended, 10, &[1]), [0]);
    assert_eq!(removable(&ended, 5, &[]), [] as [usize; 0], "it ended at the horizon");
    let lives = [1, 2, 3].map(|at| event(at, Change::Changed, &at.to_string()));
    assert_eq!(removable(&lives, 10, &[]), [1], "its beginning and its state stay");
}

/// With a fold of all events at each of them this takes an hour.
#[test]
fn two_hundred_thousand_changes_are_applied_in_linear_time() {
    const CHANGES: i64 = 200_000;
    let change = |at: i64| event(at, Change::Changed, if at % 2 == 0 { "a" } else { "b" });
    let mut in_order = History::default();
    for at in 0..CHANGES {
        assert_eq!(in_order.apply(change(at)), Applied::New);
    }
    assert_eq!(in_order.get("vm-1").unwrap().segments().len(), CHANGES as usize);
    let mut scattered = History::default();
    // A step that shares no factor with the number of changes reaches each of them once.
    let order: Vec<i64> = (0..CHANGES).map(|n| n * 7_919 % CHANGES).collect();
    for some in order.chunks(50_000) {
        scattered.apply_all(some.iter().map(|&at| change(at)).collect());
    }
    assert_eq!(in_order.get("vm-1"), scattered.get("vm-1"));
}

/// The definition: all events, each once and in order, folded from the first.
fn refolded(events: &[LifecycleEvent]) -> Vec<Segment> {
    let mut events = events.to_vec();
    events.sort_by_key(|event| (event.at, event.change, event.id()));
    events.dedup();
    let mut segments: Vec<Segment> = Vec::new();
    for event in events {
        let seen = !segments.is_empty();
        let alive = segments.last().is_some_and(|segment| segment.end.is_none());
        let repeats = alive && *segments[segments.len() - 1].state == event.resource;
        let begins = match event.change {
            Change::Deleted => false,
            Change::Changed => (alive || !seen) && !repeats,
            Change::Created => !repeats,
        };
        if let Some(last) = segments.last_mut()
            && alive
            && (begins || event.change == Change::Deleted)
        {
            last.end = Some(event.at);
        }
        if begins {
            let state = Arc::new(event.resource);
            segments.push(Segment { start: event.at, end: None, state });
        }
        segments.retain(|segment| segment.end != Some(segment.start));
    }
    segments
}

fn segments_of(history: &History) -> Vec<Segment> {
    history.get("vm-1").map(|lifetime| lifetime.segments().to_vec()).unwrap_or_default()
}

fn some_events(most: usize) -> impl Strategy<Value = Vec<LifecycleEvent>> {
    let changes = [Change::Created, Change::Changed, Change::Deleted];
    let one = (0..12_i64, prop::sample::select(changes.to_vec()), "[abc]")
        .prop_map(|(at, change, project)| event(at, change, &project));
    proptest::collection::vec(one, 0..most)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn order_repeats_and_batches_change_nothing(
        events in some_events(14),
        shuffle in proptest::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..24),
    ) {
        let expected = refolded(&events);
        let mut ordered = History::default();
        for event in &events {
            ordered.apply(event.clone());
            prop_assert!(segments_of(&ordered).windows(2).all(|pair| pair[0].end.is_some_and(|end| end <= pair[1].start)));
        }
        prop_assert_eq!(&segments_of(&ordered), &expected);
        let mut shuffled = History::default();
        let mut batch = Vec::new();
        for (place, ends) in shuffle {
            if !events.is_empty() {
                batch.push(events[place.index(events.len())].clone());
            }
            if ends {
                shuffled.apply_all(std::mem::take(&mut batch));
            }
        }
        batch.extend(events.iter().rev().cloned());
        shuffled.apply_all(batch);
        prop_assert_eq!(ordered.get("vm-1"), shuffled.get("vm-1"));
        prop_assert!(expected.iter().all(|segment| segment.end.is_none_or(|end| segment.start < end)));
    }

    #[test]
    fn what_is_removed_bit_by_bit_is_missed_by_nothing_later(
        events in some_events(14),
        removable in proptest::collection::vec(any::<bool>(), 14),
        horizon in 0..12_i64,
    ) {
        let at = Timestamp(horizon);
        let mut whole = History::default();
        whole.apply_all(events.clone());
        let Some(lifetime) = whole.get("vm-1") else { return Ok(()) };
        let may = |digest: u128| {
            events.iter().zip(&removable).any(|(event, may)| *may && event.digest() == digest)
        };
        let gone = lifetime.forgettable(at, whole.precedence(), may);
        prop_assert!(gone.iter().all(|digest| may(*digest)));
        let left = events.into_iter().filter(|event| !gone.contains(&event.digest()));
        let mut rest = History::default();
        rest.apply_all(left.collect());
        for instant in horizon..13 {
            let state = |history: &History| {
                Some(history.get("vm-1")?.at(Timestamp(instant))?.state.clone())
            };
            prop_assert_eq!(state(&whole), state(&rest));
        }
    }

    #[test]
    fn what_is_forgotten_is_missed_by_nothing_later(
        before in some_events(14),
        later in some_events(8),
        horizon in 0..12_i64,
    ) {
        let at = Timestamp(horizon);
        let mut whole = History::default();
        whole.apply_all(before);
        let mut trimmed = whole.clone();
        trimmed.forget_before(at);
        let gone = trimmed.get("vm-1").is_none();
        for event in later.into_iter().filter(|event| event.at >= at && !gone) {
            whole.apply(event.clone());
            trimmed.apply(event);
        }
        let state = |history: &History| -> Vec<Option<Arc<Resource>>> {
            let alive = |at| Some(history.get("vm-1")?.at(Timestamp(at))?.state.clone());
            (horizon..13).map(alive).collect()
        };
        prop_assert_eq!(state(&whole), state(&trimmed));
    }
}
