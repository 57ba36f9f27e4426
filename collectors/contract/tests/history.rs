//! The history is a function of the set of events.

use nilometer_contract::{
    Applied, Change, History, LifecycleEvent, Resource, ResourceKind, Timestamp,
};
use proptest::prelude::*;

fn event(at: i64, change: Change, project: &str) -> LifecycleEvent {
    let mut resource = Resource::new("vm-1", ResourceKind::Vm);
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
fn repeats_are_duplicates() {
    let mut history = History::default();
    assert_eq!(history.apply(event(1, Change::Created, "a")), Applied::New);
    assert_eq!(history.apply(event(1, Change::Created, "a")), Applied::Duplicate);
    assert_eq!(history.apply(event(2, Change::Created, "a")), Applied::New);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn order_and_repeats_change_nothing(
        events in proptest::collection::vec((0..12_i64, 0..3_usize, "[abc]"), 0..12),
        shuffle in proptest::collection::vec(any::<prop::sample::Index>(), 0..24),
    ) {
        let changes = [Change::Created, Change::Changed, Change::Deleted];
        let events: Vec<_> = events.iter().map(|(at, change, project)| event(*at, changes[*change], project)).collect();
        let mut ordered = History::default();
        let mut shuffled = History::default();
        if !events.is_empty() {
            for place in shuffle {
                shuffled.apply(events[place.index(events.len())].clone());
            }
        }
        for event in events.iter().rev() {
            shuffled.apply(event.clone());
        }
        for event in events {
            ordered.apply(event);
        }
        prop_assert_eq!(ordered.get("vm-1"), shuffled.get("vm-1"));
        let segments = ordered.get("vm-1").map(|lifetime| lifetime.segments().to_vec()).unwrap_or_default();
        prop_assert!(segments.windows(2).all(|pair| pair[0].end.is_some_and(|end| end <= pair[1].start)));
        prop_assert!(segments.iter().all(|segment| segment.end.is_none_or(|end| segment.start < end)));
    }
}
