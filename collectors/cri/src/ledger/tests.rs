//! Every fact once, whichever path finds it and however often.

use std::collections::HashSet;

use nilometer_contract::ResourceKind;
use proptest::prelude::*;

use super::*;

const SECOND: i64 = 1_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(1_800_000_000 + seconds)
}

fn pod(sandbox: &str, created: i64) -> PodFacts {
    let mut resource = Resource::new("uid", ResourceKind::POD);
    resource.attributes.insert("sandbox".to_owned(), sandbox.to_owned());
    let sandbox = sandbox.to_owned();
    PodFacts { sandbox, resource, created: at(created), ready: true, attempt: 0 }
}

fn container(id: &str, started: Option<i64>, finished: Option<i64>) -> ContainerFacts {
    ContainerFacts {
        sandbox: "s1".to_owned(),
        resource: Resource::new(id, ResourceKind::CONTAINER),
        current: Resource::new(id, ResourceKind::CONTAINER),
        started: started.map(at),
        finished: finished.map(at),
        exit_code: 0,
        pid: 0,
    }
}

fn listed(ledger: &mut Ledger, seconds: i64, pods: &[(&str, bool)], all: &[&str]) -> Listed {
    let set = |ids: &mut dyn Iterator<Item = &str>| ids.map(str::to_owned).collect();
    Listed {
        round: ledger.begin_round(),
        at: at(seconds),
        sandboxes: set(&mut pods.iter().map(|(id, _)| *id)),
        ready: set(&mut pods.iter().filter(|(_, ready)| *ready).map(|(id, _)| *id)),
        dead: HashSet::new(),
        containers: set(&mut all.iter().copied()),
    }
}

/// `created s1 0; deleted uid 5`: what, which sandbox or id, seconds.
fn said(events: &[LifecycleEvent]) -> String {
    let one = |event: &LifecycleEvent| {
        let id = event.resource.attributes.get("sandbox").unwrap_or(&event.resource.id);
        let seconds = (event.at.0 - at(0).0) / SECOND;
        format!("{} {id} {seconds}", event.change.as_str())
    };
    events.iter().map(one).collect::<Vec<_>>().join("; ")
}

#[test]
fn exited_container_never_seen_running_is_said_whole() {
    let mut ledger = Ledger::new(10, 10);
    let facts = container("c", Some(1), Some(4));
    let events = ledger.container_seen(facts.clone(), at(0));
    assert_eq!(said(&events), "created c 1; deleted c 4");
    assert_eq!(said(&ledger.container_seen(facts, at(0))), "");
    assert_eq!(said(&ledger.container_exited("c", at(4), 0)), "");
}

#[test]
fn resize_and_its_undoing_are_said_at_their_instants() {
    let mut ledger = Ledger::new(10, 10);
    let asked = container("c", Some(1), None);
    let mut resized = asked.clone();
    resized.current.attributes.insert("vcpus".to_owned(), "2".to_owned());
    let mut renamed = asked.clone();
    renamed.current.attributes.insert("image".to_owned(), "other:tag".to_owned());
    ledger.container_seen(asked.clone(), at(1));
    assert_eq!(said(&ledger.container_seen(resized.clone(), at(5))), "changed c 5");
    assert_eq!(said(&ledger.container_seen(resized, at(5))), "");
    assert_eq!(said(&ledger.container_seen(asked, at(7))), "changed c 7");
    assert_eq!(said(&ledger.container_seen(renamed, at(8))), "", "no resize");
}

#[test]
fn container_that_never_started_is_not_said() {
    let mut ledger = Ledger::new(10, 10);
    assert_eq!(said(&ledger.container_seen(container("c", None, None), at(0))), "");
    assert_eq!(said(&ledger.container_seen(container("c", None, Some(4)), at(0))), "");
}

#[test]
fn vanished_container_ends_when_first_missed_but_the_stream_knows_better() {
    let mut ledger = Ledger::new(10, 10);
    for id in ["a", "b"] {
        ledger.container_seen(container(id, Some(1), None), at(0));
    }
    let missed = listed(&mut ledger, 10, &[], &[]);
    assert_eq!(said(&ledger.end_round(&missed)), "");
    assert_eq!(said(&ledger.container_exited("b", at(7), 0)), "deleted b 7");
    let missed = listed(&mut ledger, 20, &[], &[]);
    assert_eq!(said(&ledger.end_round(&missed)), "deleted a 10");
    assert!(ledger.container("a").is_none(), "forgotten");
}

#[test]
fn list_older_than_an_entry_does_not_end_it() {
    let mut ledger = Ledger::new(10, 10);
    let old = listed(&mut ledger, 10, &[], &[]);
    ledger.container_seen(container("c", Some(9), None), at(0));
    ledger.pod_seen(pod("s1", 9));
    assert_eq!(said(&ledger.end_round(&old)), "");
    let seen = listed(&mut ledger, 20, &[("s1", true)], &["c"]);
    assert_eq!(said(&ledger.end_round(&seen)), "");
    let missed = listed(&mut ledger, 30, &[("s1", true)], &[]);
    assert_eq!(said(&ledger.end_round(&missed)), "");
    let found = listed(&mut ledger, 40, &[("s1", true)], &["c"]);
    assert_eq!(said(&ledger.end_round(&found)), "", "missed once is not gone");
}

#[test]
fn pod_unheard_of_ends_with_its_last_container() {
    let mut ledger = Ledger::new(10, 10);
    ledger.pod_seen(pod("s1", 0));
    let mut dead = listed(&mut ledger, 100, &[("s1", false)], &["c"]);
    dead.dead.insert("s1".to_owned());
    ledger.container_seen(container("c", Some(1), Some(4)), at(0));
    assert_eq!(said(&ledger.end_round(&dead)), "deleted s1 4");
}

#[test]
fn pod_that_the_stream_missed_ends_where_it_was_last_ready() {
    let mut ledger = Ledger::new(10, 10);
    ledger.pod_seen(pod("s1", 0));
    ledger.container_seen(container("c", Some(1), Some(4)), at(0));
    for (seconds, ready, expected) in
        [(10, true, ""), (20, true, ""), (30, false, ""), (40, false, "deleted s1 20")]
    {
        let round = listed(&mut ledger, seconds, &[("s1", ready)], &["c"]);
        assert_eq!(said(&ledger.end_round(&round)), expected);
    }
}

#[test]
fn new_sandbox_carries_the_pod_on() {
    let mut ledger = Ledger::new(10, 10);
    assert_eq!(said(&ledger.pod_seen(pod("s1", 0))), "created s1 0");
    assert_eq!(said(&ledger.pod_ended("s1", at(5))), "deleted s1 5");
    assert_eq!(said(&ledger.pod_seen(pod("s2", 7))), "created s2 7");
    assert_eq!(said(&ledger.pod_seen(pod("s3", 9))), "created s3 9");
    assert_eq!(said(&ledger.pod_ended("s2", at(9))), "", "s3 was there by then");
    assert_eq!(said(&ledger.pod_ended("s3", at(11))), "deleted s3 11");
}

#[test]
fn interfaces_live_and_end_with_their_pod() {
    let mut ledger = Ledger::new(10, 10);
    ledger.pod_seen(pod("s1", 2));
    let (_, new) = ledger.interface_seen("s1", "eth0").unwrap();
    assert_eq!(said(&Vec::from_iter(new)), "created uid/interface/eth0 2");
    assert!(ledger.interface_seen("s1", "eth0").unwrap().1.is_none());
    let events = ledger.pod_ended("s1", at(5));
    assert_eq!(said(&events), "deleted uid/interface/eth0 5; deleted s1 5");
    assert!(ledger.interface_seen("s1", "eth1").is_none());
}

#[test]
fn bounds_leave_out_and_count() {
    let mut ledger = Ledger::new(1, 1);
    ledger.pod_seen(pod("s1", 0));
    assert_eq!(said(&ledger.pod_seen(pod("s2", 0))), "");
    ledger.container_seen(container("a", Some(1), None), at(0));
    assert_eq!(said(&ledger.container_seen(container("b", Some(1), None), at(0))), "");
    assert_eq!((ledger.take_left_out(), ledger.take_left_out()), (2, 0));
}

proptest! {
    /// Stream and poll in any order and any number of times: both edges, once each.
    #[test]
    fn any_interleaving_says_the_same(steps in prop::collection::vec(0..5_u8, 0..20)) {
        let mut ledger = Ledger::new(10, 10);
        let mut events = Vec::new();
        for step in steps.into_iter().chain([3]) {
            events.extend(match step {
                0 => ledger.container_seen(container("c", None, None), at(0)),
                1 => ledger.container_seen(container("c", Some(1), None), at(0)),
                2 => ledger.container_exited("c", at(4), 0),
                3 => ledger.container_seen(container("c", Some(1), Some(4)), at(0)),
                _ => {
                    let round = listed(&mut ledger, 10, &[], &["c"]);
                    ledger.end_round(&round)
                }
            });
        }
        prop_assert_eq!(said(&events), "created c 1; deleted c 4");
    }
}
