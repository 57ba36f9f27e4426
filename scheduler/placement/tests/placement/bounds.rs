//! What is refused, and what is left out: each bound as it is, and one beyond.

use std::collections::BTreeMap;

use nilometer_contract::{Change, MAX_ATTRIBUTES, MAX_TEXT_BYTES, Resource, ResourceKind};
use nilometer_placement::policy::{InvalidPolicy, Policy};
use nilometer_placement::request::{
    InvalidRequest, MAX_BURST, Request, check, cpu_millis_of, memory_bytes_of,
};
use nilometer_placement::state::{Bounds, ClusterState, Sizes};

use crate::cluster::{GIB, HOUR, Meters, at, event, node, request, snapshot, vm};

/// Changes a policy.
type Edit<'a> = &'a dyn Fn(&mut Policy);
/// Names and values of attributes.
type Attributes<'a> = &'a [(&'a str, &'a str)];

#[test]
fn a_policy_holds_within_its_bounds_only() {
    let accepted = |change: &dyn Fn(&mut Policy)| {
        let mut policy = Policy::default();
        change(&mut policy);
        policy.check()
    };
    let cases: [(Edit<'_>, Edit<'_>, &str); 16] = [
        (&|p| p.low_percent = 74, &|p| p.low_percent = 75, "low_percent <"),
        (&|p| p.relief_percent = 84, &|p| p.relief_percent = 85, "relief_percent <"),
        (&|p| p.high_percent = 200, &|p| p.high_percent = 201, "high_percent <="),
        (&|p| p.cpu_overcommit_percent = 1, &|p| p.cpu_overcommit_percent = 0, "overcommit"),
        (
            &|p| p.memory_overcommit_percent = 100_000,
            &|p| p.memory_overcommit_percent = 100_001,
            "overcommit",
        ),
        (&|p| p.risk_weight = 1_000, &|p| p.risk_weight = 1_001, "weights are at most"),
        (
            &|p| (p.risk_weight, p.strategy_weight, p.price_weight) = (0, 1, 0),
            &|p| (p.risk_weight, p.strategy_weight, p.price_weight) = (0, 0, 0),
            "above zero",
        ),
        (&|p| p.pack_target_percent = 200, &|p| p.pack_target_percent = 201, "pack_target"),
        (&|p| p.pack_target_percent = 1, &|p| p.pack_target_percent = 0, "pack_target"),
        (&|p| p.margin_percent = 1_000, &|p| p.margin_percent = 1_001, "margin_percent"),
        (
            &|p| p.stale_margin_percent = 1_000,
            &|p| p.stale_margin_percent = 1_001,
            "stale_margin_percent",
        ),
        (&|p| p.fresh_seconds = 899, &|p| p.fresh_seconds = 900, "fresh_seconds <"),
        (&|p| p.max_moves = 1_000, &|p| p.max_moves = 1_001, "max_moves"),
        (&|p| p.explained_nodes = 64, &|p| p.explained_nodes = 65, "explained_nodes"),
        (
            &|p| p.default_memory_bytes = 1 << 50,
            &|p| p.default_memory_bytes = (1 << 50) + 1,
            "default_memory_bytes",
        ),
        (
            &|p| p.default_cpu_millis = 1 << 30,
            &|p| p.default_cpu_millis = (1 << 30) + 1,
            "default_cpu_millis",
        ),
    ];
    for (within, beyond, rule) in cases {
        assert_eq!(accepted(within), Ok(()), "{rule}");
        let InvalidPolicy(refusal) = accepted(beyond).unwrap_err();
        assert!(refusal.contains(rule), "{refusal}");
    }
}

#[test]
fn a_request_holds_within_its_bounds_only() {
    let long = "x".repeat(MAX_TEXT_BYTES);
    let longer = "x".repeat(MAX_TEXT_BYTES + 1);
    let named = |name: &str| request(name, 0, 0);
    let attributes = |count: usize, value: &str| Request {
        attributes: (0..count).map(|n| (n.to_string(), value.to_owned())).collect(),
        ..named("w")
    };
    let good = [
        request("w", 1_000_000_000, 1 << 50),
        named(&long),
        Request { project: long.clone(), id: long.clone(), ..named("w") },
        Request { kind: ResourceKind::POD, ..named("w") },
        attributes(MAX_ATTRIBUTES, &long),
    ];
    for request in good {
        assert_eq!(check(std::slice::from_ref(&request)), Ok(()), "{request:?}");
    }
    let bad = [
        (request("w", 1_000_000_001, 0), "thousandths of a core are too many"),
        (request("w", 0, (1 << 50) + 1), "bytes of memory are too many"),
        (named(""), "needs a name"),
        (named(&longer), "longer than"),
        (Request { project: longer.clone(), ..named("w") }, "longer than"),
        (Request { id: longer.clone(), ..named("w") }, "longer than"),
        (Request { kind: ResourceKind::NODE, ..named("w") }, "kind node cannot be placed"),
        (attributes(MAX_ATTRIBUTES + 1, ""), "attributes"),
        (attributes(1, &longer), "longer than"),
    ];
    for (request, expected) in bad {
        let refusal = check(&[request]).unwrap_err().to_string();
        assert!(refusal.contains(expected), "{refusal}");
    }
    let burst = |count: usize| (0..count).map(|n| named(&n.to_string())).collect::<Vec<_>>();
    assert_eq!(check(&burst(MAX_BURST)), Ok(()));
    assert_eq!(check(&burst(MAX_BURST + 1)), Err(InvalidRequest::Burst(MAX_BURST + 1)));
    assert_eq!(check(&[]), Err(InvalidRequest::Burst(0)));
    assert_eq!(check(&[named("a"), named("a")]), Err(InvalidRequest::Twice("a".to_owned())));
    let elsewhere = Request { project: "p".to_owned(), ..named("a") };
    assert_eq!(check(&[named("a"), elsewhere]), Ok(()), "of another project");
}

#[test]
fn sizes_are_read_from_attributes() {
    let with = |kind: &ResourceKind, attributes: &[(&str, &str)]| {
        let mut resource = Resource::new("r", kind.clone());
        let pairs = attributes.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        resource.attributes = pairs.collect::<BTreeMap<String, String>>();
        (cpu_millis_of(&resource), memory_bytes_of(&resource))
    };
    let (node, vm) = (&ResourceKind::NODE, &ResourceKind::VM);
    let cases: [(&ResourceKind, Attributes<'_>, (u64, u64)); 11] = [
        (node, &[("vcpus", "2"), ("memory_bytes", "1024")], (2_000, 1_024)),
        (vm, &[("vcpus", "0.5")], (500, 0)),
        (vm, &[("cpus", "3")], (0, 0)),
        (vm, &[("vcpus", "0.0001")], (1, 0)),
        (vm, &[("vcpus", "0")], (0, 0)),
        (vm, &[("vcpus", "-1"), ("memory_bytes", "-1")], (0, 0)),
        (vm, &[("vcpus", "inf"), ("memory_bytes", "NaN")], (0, 0)),
        (vm, &[("vcpus", "1e30"), ("memory_bytes", "1e30")], (1_000_000_000, 1 << 50)),
        (vm, &[("vcpus", "many"), ("memory_bytes", "much")], (0, 0)),
        (vm, &[("memory_bytes", "10.5")], (0, 11)),
        (vm, &[], (0, 0)),
    ];
    for (kind, attributes, expected) in cases {
        assert_eq!(with(kind, attributes), expected, "{kind} {attributes:?}");
    }
}

#[test]
fn what_is_beyond_the_bounds_of_the_state_is_left_out_and_counted() {
    let bounds = Bounds { resources: 2, events_each: 2, sampled: 1, reservations: 2 };
    let mut state = ClusterState::with_bounds(bounds);
    let created = |id| event(Change::Created, at(0), node(id, 4, GIB));
    state.apply(created("a"));
    state.apply(created("b"));
    assert_eq!(state.left_out(), 0);
    state.apply(created("c"));
    assert_eq!((state.sizes().resources, state.left_out()), (2, 1), "a third resource");
    let changed = |second, cpus| event(Change::Changed, at(second), node("a", cpus, GIB));
    state.apply(changed(1, 5));
    state.apply(changed(2, 6));
    assert_eq!(state.left_out(), 2, "a third event");
    assert_eq!(snapshot(&state, at(9)).nodes[0].cpu.capacity, 5_000);
    state.apply(event(Change::Deleted, at(3), node("a", 4, GIB)));
    assert!(state.is_gone("a"), "its end is known all the same");
    assert!(!state.is_gone("b") && !state.is_gone("c"));

    let mut meters = Meters::new();
    meters.set(&node("s1", 4, GIB), 1.0, GIB);
    meters.set(&node("s2", 4, GIB), 1.0, GIB);
    state.fold(&meters.read(at(0)));
    assert_eq!((state.sizes().sampled, state.left_out()), (1, 4), "two samples of a second");

    let policy = Policy::default();
    for name in ["r1", "r2", "r3"] {
        state.reserve(&request(name, 100, 0), "b", at(10), &policy);
    }
    let expected = Sizes { resources: 2, sampled: 1, reservations: 2 };
    assert_eq!(state.sizes(), expected);
    assert_eq!(snapshot(&state, at(11)).nodes[0].cpu.in_flight, 200);
    assert_eq!(state.release(&request("r1", 100, 0), at(11)), None, "the oldest made room");
    assert_eq!(Bounds::default().resources, 200_000);
    assert_eq!(Bounds::default().reservations, 10_000);
}

#[test]
fn what_ended_or_fell_silent_is_forgotten_after_a_week() {
    let mut state = ClusterState::default();
    let mut meters = Meters::new();
    for id in ["n1", "n2"] {
        state.apply(event(Change::Created, at(0), node(id, 4, GIB)));
    }
    meters.set(&node("n1", 4, GIB), 1.0, GIB);
    state.fold(&meters.read(at(0)));
    state.fold(&meters.read(at(HOUR)));
    state.apply(event(Change::Deleted, at(HOUR), node("n2", 4, GIB)));
    state.apply(event(Change::Created, at(0), Resource::new("d", ResourceKind::DISK)));
    let sizes = |state: &ClusterState| (state.sizes().resources, state.sizes().sampled);
    assert_eq!(sizes(&state), (2, 1), "disks are not followed");
    let week = 7 * 24 * HOUR;
    state.forget(at(week + HOUR));
    assert_eq!(sizes(&state), (2, 1));
    state.forget(at(week + HOUR).plus_micros(1));
    assert_eq!(sizes(&state), (1, 0));
    assert!(!state.is_gone("n2"));
    assert_eq!(state.newest_sample(), Some(at(HOUR)));
}

#[test]
fn a_reservation_is_one_per_workload_and_ends_with_its_time() {
    let policy = Policy::default();
    let mut state = ClusterState::default();
    for id in ["n1", "n2"] {
        state.apply(event(Change::Created, at(0), node(id, 16, 64 * GIB)));
    }
    let in_flight = |state: &ClusterState, second| {
        snapshot(state, at(second)).nodes.iter().map(|node| node.cpu.in_flight).collect::<Vec<_>>()
    };
    let wanted = request("w", 1_000, GIB);
    state.reserve(&wanted, "n1", at(0), &policy);
    state.reserve(&wanted, "n2", at(1), &policy);
    assert_eq!(in_flight(&state, 2), [0, 1_000], "decided anew");
    state.reserve(&request("gone", 1, 0), "no such node", at(1), &policy);
    state.reserve(&Request { project: "p".to_owned(), ..wanted.clone() }, "n1", at(1), &policy);
    let with_id = |name: &str, id: &str| Request { id: id.to_owned(), ..request(name, 10, 0) };
    state.reserve(&with_id("w", "u1"), "n1", at(1), &policy);
    state.reserve(&with_id("renamed", "u1"), "n2", at(1), &policy);
    assert_eq!(in_flight(&state, 2), [1_000, 1_010], "one id is one workload");
    assert_eq!(in_flight(&state, 600), [1_000, 1_010]);
    assert_eq!(in_flight(&state, 601), [0, 0]);
    let (node, load) = state.clone().release(&wanted, at(600)).unwrap();
    assert_eq!((node.as_str(), load.cpu_peak, load.memory_request), ("n2", 1_000, GIB));
    assert_eq!(state.clone().release(&wanted, at(601)), None, "it counted no more");
    state.forget(at(600));
    assert_eq!(state.sizes().reservations, 4);
    state.forget(at(601));
    assert_eq!(state.sizes().reservations, 0);
}

#[test]
fn a_reservation_ends_where_the_workload_is_observed() {
    let policy = Policy::default();
    let base = {
        let mut state = ClusterState::default();
        for id in ["n1", "n2"] {
            state.apply(event(Change::Created, at(0), node(id, 16, 64 * GIB)));
        }
        state.reserve(&request("name-v", 1_000, GIB), "n1", at(HOUR), &policy);
        state
    };
    let in_flight = |guest: Resource, second| {
        let mut state = base.clone();
        state.apply(event(Change::Created, at(second), guest));
        snapshot(&state, at(HOUR + 10)).nodes[0].cpu.in_flight
    };
    assert_eq!(in_flight(vm("v", "n1", 1, GIB), 5), 0, "where it was sent, by its name");
    assert_eq!(in_flight(vm("v", "n2", 1, GIB), HOUR - 60), 0, "elsewhere since then");
    assert_eq!(in_flight(vm("v", "n2", 1, GIB), HOUR - 61), 1_000, "elsewhere before");
    assert_eq!(in_flight(vm("v", "", 1, GIB), HOUR + 5), 1_000, "nowhere yet");
    assert_eq!(in_flight(vm("other", "n1", 1, GIB), HOUR + 5), 1_000, "another workload");
    let mut by_id = vm("u1", "n1", 1, GIB);
    by_id.name = "otherwise".to_owned();
    assert_eq!(in_flight(by_id.clone(), 5), 1_000);
    let mut state = ClusterState::default();
    state.apply(event(Change::Created, at(0), node("n1", 16, 64 * GIB)));
    let wanted = Request { id: "u1".to_owned(), ..request("name-v", 1_000, GIB) };
    state.reserve(&wanted, "n1", at(HOUR), &policy);
    state.apply(event(Change::Created, at(5), by_id));
    assert_eq!(snapshot(&state, at(HOUR)).nodes[0].cpu.in_flight, 0, "by its id");
}
