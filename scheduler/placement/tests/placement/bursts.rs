//! Bursts, fits, ties, and giving a recorded decision again.

use std::collections::BTreeMap;

use nilometer_contract::{Change, ResourceKind, Timestamp};
use nilometer_placement::place::{Decision, EligibleNodes, place};
use nilometer_placement::policy::{Policy, Strategy as Packing};
use nilometer_placement::record::{DecisionRecord, Inputs, replay};
use nilometer_placement::request::Request;
use nilometer_placement::snapshot::{Dimension, NodeState, Snapshot};
use nilometer_placement::state::ClusterState;
use proptest::prelude::*;

use crate::cluster::{GIB, Meters, at, event, node, request, snapshot};

fn burst(count: usize, cpu_millis: u64) -> Vec<Request> {
    (0..count).map(|n| request(&format!("w{n}"), cpu_millis, GIB)).collect()
}

fn per_node(decision: &Decision) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for placed in &decision.placements {
        *counts.entry(placed.node.as_deref().unwrap_or("none")).or_default() += 1;
    }
    counts
}

fn forty_nodes() -> ClusterState {
    let mut state = ClusterState::default();
    let mut meters = Meters::new();
    for n in 0..40 {
        let host = node(&format!("n{n:02}"), 16, 64 * GIB);
        state.apply(event(Change::Created, at(0), host.clone()));
        meters.set(&host, 5.76, 20 * GIB);
    }
    meters.feed(&mut state, at(0), at(86_400));
    state
}

#[test]
fn a_burst_of_forty_spreads_over_forty_nodes() {
    let snapshot = snapshot(&forty_nodes(), at(86_400));
    let policy = Policy::default();
    let decision = place(&EligibleNodes::new(&snapshot, None), &burst(40, 500), &policy, 0);
    let most = per_node(&decision).into_values().max();
    assert!(most <= Some(2), "{most:?} on one node");
}

#[test]
fn forty_single_requests_between_two_samples_spread_as_well() {
    let mut state = forty_nodes();
    let policy = Policy::default();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for (n, request) in burst(40, 500).into_iter().enumerate() {
        let now = at(86_400 + n as i64);
        let snapshot = snapshot(&state, now);
        let decision =
            place(&EligibleNodes::new(&snapshot, None), std::slice::from_ref(&request), &policy, 0);
        let node = decision.placements[0].node.clone().expect("there is room");
        state.reserve(&request, &node, now, &policy);
        *counts.entry(node).or_default() += 1;
    }
    assert!(counts.values().all(|&count| count <= 2), "{counts:?}");
}

#[test]
fn ties_go_to_the_smaller_name_and_unknown_capacity_is_neutral() {
    let mut state = ClusterState::default();
    for id in ["b", "a", "c"] {
        state.apply(event(Change::Created, at(0), node(id, 8, 8 * GIB)));
    }
    let bare = nilometer_contract::Resource::new("x", ResourceKind::NODE);
    state.apply(event(Change::Created, at(0), bare));
    let snapshot = snapshot(&state, at(60));
    let decision =
        place(&EligibleNodes::new(&snapshot, None), &burst(1, 500), &Policy::default(), 0);
    let order: Vec<&str> =
        decision.placements[0].candidates.iter().map(|node| node.node.as_str()).collect();
    assert_eq!(order, ["a", "b", "c", "x"]);
    assert_eq!(decision.placements[0].candidates[3].score.points(), 50.0);
}

#[test]
fn what_does_not_fit_is_said_and_stale_nodes_are_not_refused() {
    let mut state = ClusterState::default();
    state.apply(event(Change::Created, at(0), node("n1", 4, 8 * GIB)));
    let snapshot = snapshot(&state, at(60));
    let wanted = [request("small", 1_000, GIB), request("huge", 1_000, 9 * GIB)];
    let decision = place(&EligibleNodes::new(&snapshot, None), &wanted, &Policy::default(), 0);
    assert_eq!(decision.placements[0].node.as_deref(), Some("n1"), "no sample ever, still placed");
    let refused = &decision.placements[1];
    assert_eq!(refused.node, None);
    assert!(refused.candidates[0].reasons[0].contains("memory does not fit"), "{refused:?}");
}

#[test]
fn a_larger_burst_explains_fewer_nodes_of_each_workload() {
    let snapshot = snapshot(&forty_nodes(), at(86_400));
    let eligible = EligibleNodes::new(&snapshot, None);
    let listed = |count, explained_nodes| {
        let policy = Policy { explained_nodes, ..Policy::default() };
        let placements = place(&eligible, &burst(count, 1), &policy, 0).placements;
        placements.iter().map(|placed| placed.candidates.len()).max()
    };
    assert_eq!(listed(1, 8), Some(8));
    assert_eq!(listed(32, 8), Some(8));
    assert_eq!(listed(64, 8), Some(4), "256 nodes over all workloads");
    assert_eq!(listed(256, 8), Some(1));
    assert_eq!(listed(64, 2), Some(2));
    assert_eq!(listed(0, 8), None);
}

#[test]
fn the_cheaper_of_two_equal_nodes_is_chosen() {
    let mut state = ClusterState::default();
    for id in ["a", "b"] {
        state.apply(event(Change::Created, at(0), node(id, 8, 8 * GIB)));
    }
    let price = |of: &nilometer_contract::Resource| {
        Some(if of.id == "a" { "0.40" } else { "0.38" }.to_owned())
    };
    let snapshot = state.snapshot(at(60), &Policy::default(), &price);
    let decision =
        place(&EligibleNodes::new(&snapshot, None), &burst(1, 500), &Policy::default(), 0);
    assert_eq!(decision.placements[0].node.as_deref(), Some("b"));
}

fn dimension(capacity: u64) -> impl Strategy<Value = Dimension> {
    let part = 0..=capacity;
    let whole = (part.clone(), part.clone(), part.clone(), part, 0_u32..=500);
    whole.prop_map(move |(allocated, settled, arrived, in_flight, margin_permille)| Dimension {
        capacity,
        allocated,
        measured: false,
        used: None,
        settled,
        arrived: arrived / 4,
        in_flight: in_flight / 8,
        together_permille: 1_000,
        margin_permille,
    })
}

fn nodes() -> impl Strategy<Value = Snapshot> {
    let state = (dimension(16_000), dimension(64 * GIB), any::<bool>(), 1_u64..9_999_999, 0_u32..3);
    prop::collection::vec(state, 1..60).prop_map(|states| {
        let nodes = states.into_iter().enumerate().map(|(n, (cpu, memory, stale, price, pods))| {
            let id = format!("n{n}");
            NodeState {
                name: id.clone(),
                id,
                kind: ResourceKind::NODE,
                guest: false,
                cpu,
                memory,
                price_per_hour: None,
                price_micros: Some(price),
                age_seconds: None,
                stale,
                vms: pods,
                pods,
            }
        });
        Snapshot::new(Timestamp::from_seconds(1_795_392_000), nodes.collect(), Vec::new())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn a_record_read_back_gives_the_same_decision(
        snapshot in nodes(),
        wanted in prop::collection::vec((0_u64..9_000, 0_u64..(20 * GIB), any::<bool>()), 1..40),
        seed: u64,
        near_tie_millipoints in prop_oneof![Just(0_u32), Just(500_u32)],
        pack: bool,
    ) {
        let strategy = if pack { Packing::Pack } else { Packing::Spread };
        let policy = Policy { near_tie_millipoints, strategy, ..Policy::default() };
        let requests: Vec<Request> = wanted
            .into_iter()
            .enumerate()
            .map(|(n, (cpu, memory, pod))| {
                let kind = if pod { ResourceKind::POD } else { ResourceKind::VM };
                Request { kind, ..request(&format!("w{n}"), cpu, memory) }
            })
            .collect();
        let eligible = EligibleNodes::new(&snapshot, None);
        let decision = place(&eligible, &requests, &policy, seed);
        prop_assert_eq!(&decision, &place(&eligible, &requests, &policy, seed));
        let inputs = Inputs {
            requests,
            policy,
            seed,
            nodes: eligible.listed(&decision),
            considered: eligible.count() as u64,
            price_reference_micros: snapshot.price_reference_micros,
            ..Inputs::default()
        };
        let record = DecisionRecord::of_placement(snapshot.at, inputs, &decision);
        let text = serde_json::to_string(&record).unwrap();
        let read: DecisionRecord = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&read, &record);
        prop_assert_eq!(replay(&read), decision);
    }
}
