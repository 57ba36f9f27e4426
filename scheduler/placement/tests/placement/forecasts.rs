//! What a node is expected to bear, and what happens to that when data is missing.

use nilometer_contract::{Change, MICROS_PER_SECOND, SampleBatch};
use nilometer_placement::MOVABLE;
use nilometer_placement::policy::Policy;
use nilometer_placement::state::ClusterState;
use proptest::prelude::*;

use crate::cluster::{GIB, HOUR, Meters, at, event, node, request, snapshot, vm};

fn two_vms() -> (ClusterState, Meters) {
    let mut state = ClusterState::default();
    let mut meters = Meters::new();
    let host = node("n1", 16, 64 * GIB);
    state.apply(event(Change::Created, at(0), host.clone()));
    meters.set(&host, 3.0, 10 * GIB);
    for (id, cores) in [("v1", 1.0), ("v2", 2.0)] {
        let guest = vm(id, "n1", 4, 8 * GIB);
        state.apply(event(Change::Created, at(0), guest.clone()));
        meters.set(&guest, cores, 4 * GIB);
    }
    (state, meters)
}

#[test]
fn requests_stand_in_until_history_is_long_enough() {
    let (mut state, mut meters) = two_vms();
    let none = &snapshot(&state, at(HOUR)).nodes[0];
    assert!(none.stale);
    assert_eq!((none.cpu.predicted(), none.memory.predicted()), (8_000, 16 * GIB));
    meters.feed(&mut state, at(0), at(2 * HOUR));
    let young = &snapshot(&state, at(2 * HOUR)).nodes[0];
    assert!(!young.stale);
    assert_eq!(young.cpu.used, Some(3_000));
    assert_eq!(young.cpu.predicted(), 8_000, "two hours are too short to doubt the requests");
    meters.feed(&mut state, at(2 * HOUR + 300), at(24 * HOUR));
    let known = &snapshot(&state, at(24 * HOUR)).nodes[0];
    let cores = known.cpu.predicted();
    assert!((3_600..4_000).contains(&cores), "3 cores, rounded up, and a margin: {cores}");
    assert_eq!(known.cpu.allocated, 8_000);
}

#[test]
fn ageing_data_widens_the_margin_then_requests_count() {
    let (mut state, mut meters) = two_vms();
    meters.feed(&mut state, at(0), at(24 * HOUR));
    let predicted = |age: i64| {
        let node = snapshot(&state, at(24 * HOUR + age)).nodes[0].clone();
        (node.stale, node.cpu.predicted())
    };
    let (fresh, ageing, stale) = (predicted(60), predicted(800), predicted(901));
    assert!(!fresh.0 && !ageing.0 && fresh.1 < ageing.1, "{fresh:?} {ageing:?}");
    assert_eq!(stale, (true, 8_000), "requests, not zero and not the old measurement");
    assert_eq!(predicted(7 * 24 * HOUR), (true, 8_000));
}

#[test]
fn stale_usage_above_the_request_is_not_forgotten() {
    let (mut state, mut meters) = two_vms();
    meters.set(&vm("v1", "n1", 4, 8 * GIB), 6.0, 4 * GIB);
    meters.feed(&mut state, at(0), at(24 * HOUR));
    let cores = snapshot(&state, at(25 * HOUR)).nodes[0].cpu.predicted();
    assert!((10_000..10_600).contains(&cores), "6 used by the one, 4 requested: {cores}");
}

#[test]
fn peaks_that_do_not_coincide_are_not_added_up() {
    let (mut state, mut meters) = two_vms();
    for slot in 0..288 {
        let busy = if slot % 2 == 0 { (4.0, 0.0) } else { (0.0, 4.0) };
        meters.set(&vm("v1", "n1", 4, 8 * GIB), busy.0, 4 * GIB);
        meters.set(&vm("v2", "n1", 4, 8 * GIB), busy.1, 4 * GIB);
        meters.set(&node("n1", 16, 64 * GIB), 4.0, 10 * GIB);
        state.fold(&meters.read(at(slot * 300)));
    }
    let node = &snapshot(&state, at(287 * 300)).nodes[0];
    assert!((4_000..5_400).contains(&node.cpu.predicted()), "{:?}", node.cpu);
    assert!(node.cpu.together_permille < 600, "{:?}", node.cpu);
}

#[test]
fn counters_that_restart_are_not_read_as_use() {
    let (mut state, mut meters) = two_vms();
    meters.feed(&mut state, at(0), at(HOUR));
    let mut again = Meters::new();
    again.set(&node("n1", 16, 64 * GIB), 3.0, 10 * GIB);
    let _ = again.read(at(HOUR));
    state.fold(&again.read(at(HOUR + 300)));
    assert_eq!(snapshot(&state, at(HOUR + 300)).nodes[0].cpu.used, Some(3_000));
}

#[test]
fn a_decision_counts_until_the_workload_is_seen_or_the_entry_expires() {
    let (mut state, _) = two_vms();
    let policy = Policy::default();
    let wanted = request("name-v3", 2_000, GIB);
    state.reserve(&wanted, "n1", at(HOUR), &policy);
    let in_flight = |state: &ClusterState, seconds| {
        let cpu = snapshot(state, at(seconds)).nodes[0].cpu;
        (cpu.in_flight, cpu.allocated, cpu.predicted())
    };
    assert_eq!(in_flight(&state, HOUR), (2_000, 10_000, 10_000));
    let mut seen = state.clone();
    seen.apply(event(Change::Created, at(HOUR + 5), vm("v3", "n1", 2, GIB)));
    assert_eq!(in_flight(&seen, HOUR + 5), (0, 10_000, 10_000), "counted once, as itself");
    seen.forget(at(HOUR + 5));
    assert_eq!(seen.sizes().reservations, 0);
    assert_eq!(in_flight(&state, HOUR + 600), (0, 8_000, 8_000), "never carried out");
}

#[test]
fn pods_count_on_their_vm_and_the_vm_on_its_node() {
    let (mut state, _) = two_vms();
    let mut pod = vm("p1", "n1", 1, GIB);
    pod.kind = nilometer_contract::ResourceKind::POD;
    pod.parent = Some("v1".to_owned());
    pod.attributes.insert(MOVABLE.to_owned(), "false".to_owned());
    state.apply(event(Change::Created, at(1), pod));
    let snapshot = snapshot(&state, at(HOUR));
    let ids: Vec<&str> = snapshot.nodes.iter().map(|node| node.id.as_str()).collect();
    assert_eq!(ids, ["n1", "v1"]);
    assert_eq!(
        snapshot.nodes[0].cpu.allocated, 8_000,
        "the pod is inside v1 and not counted again"
    );
    assert_eq!((snapshot.nodes[1].cpu.allocated, snapshot.nodes[1].guest), (1_000, true));
    assert!(!snapshot.workloads[0].movable && snapshot.workloads[1].movable);
}

/// One resource's records stay in order; partitions and topics interleave in any way.
fn partitions() -> [Vec<SampleBatch>; 3] {
    let mut parts: [Vec<SampleBatch>; 3] = Default::default();
    let hosts = [node("n1", 16, 64 * GIB), vm("v1", "n1", 4, GIB), vm("v2", "n1", 4, GIB)];
    for (part, host) in parts.iter_mut().zip(&hosts) {
        let mut meters = Meters::new();
        for slot in 0..20 {
            meters.set(host, f64::from(slot % 7) / 2.0, u64::from(slot as u32) * GIB / 8);
            part.push(meters.read(at(i64::from(slot) * 300)));
        }
    }
    parts
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn the_order_of_partitions_and_topics_changes_nothing(
        turns in prop::collection::vec(0_usize..4, 80),
        repeat in any::<bool>(),
    ) {
        let parts = partitions();
        let mut moved = vm("v2", "n2", 4, GIB);
        moved.name = "moved".to_owned();
        let events = [
            event(Change::Created, at(0), node("n1", 16, 64 * GIB)),
            event(Change::Created, at(0), node("n2", 16, 64 * GIB)),
            event(Change::Created, at(0), vm("v1", "n1", 4, GIB)),
            event(Change::Created, at(0), vm("v2", "n1", 4, GIB)),
            event(Change::Changed, at(3_000), moved),
            event(Change::Deleted, at(4_000), vm("v1", "n1", 4, GIB)),
        ];
        let mut straight = ClusterState::default();
        events.iter().for_each(|event| straight.apply(event.clone()));
        parts.iter().flatten().for_each(|batch| straight.fold(batch));

        let mut mixed = ClusterState::default();
        let mut next = [0; 4];
        for turn in turns.into_iter().chain((0..80).map(|n| n % 4)) {
            if turn == 3 {
                let from_the_end = events.iter().rev().nth(next[3]);
                from_the_end.iter().for_each(|event| mixed.apply((*event).clone()));
            } else if let Some(batch) = parts[turn].get(next[turn]) {
                mixed.fold(batch);
                if repeat {
                    mixed.fold(batch);
                }
            }
            next[turn] += 1;
        }
        let now = at(20 * 300).plus_micros(MICROS_PER_SECOND);
        prop_assert_eq!(snapshot(&straight, now), snapshot(&mixed, now));
    }
}
