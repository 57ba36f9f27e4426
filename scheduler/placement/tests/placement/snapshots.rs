//! Snapshots by their numbers: what nodes and workloads count for as time goes by, to the digit.

use std::fmt::Write;

use nilometer_contract::{BatchBuilder, Change, Resource, ResourceKind, Subject};
use nilometer_placement::MOVABLE;
use nilometer_placement::policy::Policy;
use nilometer_placement::score::Load;
use nilometer_placement::snapshot::{Dimension, NodeState, Snapshot, WorkloadState};
use nilometer_placement::state::ClusterState;

use crate::cluster::{GIB, HOUR, Meters, at, event, node, request, snapshot, vm};
use crate::golden::check;

const DAY: i64 = 24 * HOUR;

/// Two busy nodes over two days: a VM that moves, one that comes late, one that ends, pods on a VM,
/// and a node that nobody measures.
fn cluster() -> ClusterState {
    let mut state = ClusterState::default();
    let mut meters = Meters::new();
    for id in ["n1", "n2", "n3"] {
        state.apply(event(Change::Created, at(0), node(id, 16, 64 * GIB)));
    }
    let vms = [("v1", "n1", 4), ("v2", "n1", 8), ("v3", "n2", 2), ("v4", "n2", 6), ("v5", "n3", 3)];
    for (id, on, vcpus) in vms {
        state.apply(event(Change::Created, at(0), vm(id, on, vcpus, 8 * GIB)));
    }
    let mut pod = vm("p1", "n2", 1, GIB);
    (pod.kind, pod.parent) = (ResourceKind::POD, Some("v4".to_owned()));
    pod.attributes.insert(MOVABLE.to_owned(), "false".to_owned());
    state.apply(event(Change::Created, at(60), pod.clone()));
    for slot in 0..=576 {
        let second = slot * 300;
        if second == 40 * HOUR {
            state.apply(event(Change::Changed, at(second), vm("v2", "n2", 8, 8 * GIB)));
            state.apply(event(Change::Created, at(second), vm("v6", "n1", 5, 4 * GIB)));
            state.apply(event(Change::Deleted, at(second), vm("v3", "n2", 2, 8 * GIB)));
        }
        let busy = if slot % 24 < 8 { 2.0 } else { 1.0 };
        meters.set(&node("n1", 16, 64 * GIB), 3.0 * busy, 20 * GIB);
        meters.set(&node("n2", 16, 64 * GIB), 7.0 - busy, 12 * GIB + second as u64 * 10_000);
        meters.set(&vm("v1", "n1", 4, 8 * GIB), 1.3 * busy, 6 * GIB);
        meters.set(&vm("v2", "n1", 8, 8 * GIB), 3.1 - busy, 5 * GIB);
        meters.set(&vm("v4", "n2", 6, 8 * GIB), 2.7 * busy, 7 * GIB);
        meters.set(&pod, 0.4 * busy, GIB / 2);
        if second >= 46 * HOUR {
            meters.set(&vm("v6", "n1", 5, 4 * GIB), 1.9, GIB);
        }
        state.fold(&meters.read(at(second)));
    }
    state.reserve(&request("coming", 1_234, 3 * GIB), "n2", at(2 * DAY), &Policy::default());
    state
}

fn price(of: &Resource) -> Option<String> {
    match of.id.as_str() {
        "n1" => Some("0.5000007".to_owned()),
        "n2" => Some("not a price".to_owned()),
        "n3" => Some("0.25".to_owned()),
        _ => None,
    }
}

fn write_node(text: &mut String, node: &NodeState) {
    let facts = (node.stale, node.guest, node.age_seconds, node.vms, node.pods);
    let price = (&node.price_per_hour, node.price_micros);
    writeln!(text, "  {} {facts:?} {price:?}", node.id).unwrap();
    for of in [&node.cpu, &node.memory] {
        let sums = (of.capacity, of.allocated, of.settled, of.arrived, of.in_flight);
        let factors = (of.together_permille, of.margin_permille);
        let predicted = of.predicted();
        writeln!(text, "    {} {:?} {sums:?} {factors:?} → {predicted}", of.measured, of.used)
            .unwrap();
    }
}

fn write_workload(text: &mut String, of: &WorkloadState) {
    let cpu = (of.cpu_request, of.cpu_peak, of.cpu_arriving, of.cpu_settled);
    let memory = (of.memory_request, of.memory_peak, of.memory_arriving, of.memory_settled);
    let facts = (of.since, of.movable);
    writeln!(text, "  {} on {}: {cpu:?} {memory:?} {facts:?}", of.id, of.node).unwrap();
}

#[test]
fn the_numbers_of_a_snapshot_stay_what_they_were() {
    let (state, policy) = (cluster(), Policy::default());
    let mut text = String::new();
    for seconds in [1, 120, 121, 599, 600, 899, 900, 901, HOUR, 40 * HOUR, 65 * HOUR] {
        let snapshot = state.snapshot(at(2 * DAY + seconds), &policy, &price);
        writeln!(text, "after {seconds} s: {}", snapshot.price_reference_micros).unwrap();
        snapshot.nodes.iter().for_each(|node| write_node(&mut text, node));
        snapshot.workloads.iter().for_each(|of| write_workload(&mut text, of));
    }
    check("snapshots.txt", &text);
}

#[test]
fn what_counts_is_settled_after_its_time_and_departed_for_three_days() {
    let state = cluster();
    let policy = Policy { settle_seconds: 8 * 3_600, ..Policy::default() };
    let settled = |policy: &Policy| {
        let snapshot = state.snapshot(at(2 * DAY), policy, &|_| None);
        let v6 = snapshot.workloads.iter().find(|of| of.id == "v6").unwrap();
        (v6.cpu_settled, v6.memory_settled)
    };
    assert_eq!(settled(&policy), (true, true), "it came eight hours ago");
    let longer = Policy { settle_seconds: 8 * 3_600 + 1, ..Policy::default() };
    assert_eq!(settled(&longer), (false, false));
    // A node's history of two days is too short for a policy that wants more.
    let longest = Policy { settle_seconds: 48 * 3_600 + 1, ..Policy::default() };
    let measured =
        |policy: &Policy| state.snapshot(at(2 * DAY), policy, &|_| None).nodes[0].cpu.measured;
    assert!(measured(&Policy { settle_seconds: 48 * 3_600, ..Policy::default() }));
    assert!(!measured(&longest));
}

#[test]
fn an_idle_node_is_expected_to_stay_idle() {
    let mut state = ClusterState::default();
    let mut meters = Meters::new();
    state.apply(event(Change::Created, at(0), node("n1", 16, 64 * GIB)));
    meters.set(&node("n1", 16, 64 * GIB), 0.0, 0);
    meters.feed(&mut state, at(0), at(DAY));
    let idle = &snapshot(&state, at(DAY)).nodes[0];
    assert_eq!((idle.cpu.measured, idle.stale), (true, false));
    assert_eq!((idle.cpu.predicted(), idle.cpu.together_permille), (0, 1_000));
    assert_eq!((idle.cpu.used, idle.memory.used), (Some(0), Some(0)));
}

#[test]
fn a_node_of_which_one_meter_is_missing_is_stale() {
    let mut state = ClusterState::default();
    let of = node("n1", 16, 64 * GIB);
    state.apply(event(Change::Created, at(0), of.clone()));
    let mut batch = BatchBuilder::new("test");
    let index = batch.subject(Subject::from(&of));
    batch.push_named(index, "memory.usage", at(0), GIB as f64);
    state.fold(&batch.build());
    let found = &snapshot(&state, at(1)).nodes[0];
    assert_eq!((found.memory.used, found.cpu.used, found.stale), (Some(GIB), None, true));
}

#[test]
fn resources_known_from_samples_alone_live_for_an_hour_after_the_last() {
    let mut state = ClusterState::default();
    let mut batch = BatchBuilder::new("test");
    for (id, kind, node) in [
        ("n1", ResourceKind::NODE, "n1"),
        ("v1", ResourceKind::VM, "n1"),
        ("p1", ResourceKind::POD, "v1"),
    ] {
        let mut resource = Resource::new(id, kind);
        (resource.node, resource.project) = (node.to_owned(), "p".to_owned());
        let index = batch.subject(Subject::from(&resource));
        batch.push_named(index, "memory.usage", at(0), GIB as f64);
    }
    state.fold(&batch.build());
    let known = snapshot(&state, at(HOUR));
    let ids: Vec<&str> = known.nodes.iter().map(|node| node.id.as_str()).collect();
    assert_eq!(ids, ["n1", "v1"], "the VM is a node of pods");
    assert_eq!((known.nodes[0].guest, known.nodes[1].guest), (false, true));
    let of = &known.workloads[1];
    assert_eq!((of.id.as_str(), of.node.as_str(), of.project.as_str()), ("v1", "n1", "p"));
    assert_eq!(of.since, at(0));
    assert_eq!(snapshot(&state, at(HOUR).plus_micros(1)).nodes, []);
}

#[test]
fn a_workload_runs_on_its_parent_if_that_is_a_machine_else_on_its_node() {
    let mut state = ClusterState::default();
    for id in ["n1", "n2"] {
        state.apply(event(Change::Created, at(0), node(id, 16, 64 * GIB)));
    }
    let mut place = |id: &str, on: &str, parent: Option<&str>| {
        let mut guest = vm(id, on, 1, GIB);
        guest.parent = parent.map(str::to_owned);
        state.apply(event(Change::Created, at(0), guest));
        let snapshot = snapshot(&state, at(1));
        snapshot.workloads.into_iter().find(|of| of.id == id).map(|of| of.node)
    };
    let node = |id: &str| Some(id.to_owned());
    assert_eq!(place("a", "n1", Some("n2")), node("n2"));
    assert_eq!(place("b", "n1", Some("a project")), node("n1"), "no machine");
    assert_eq!(place("c", "", Some("n2")), node("n2"));
    assert_eq!(place("d", "n1", None), node("n1"));
    assert_eq!(place("e", "e", None), None, "on itself is on nothing");
    assert_eq!(place("f", "", None), None);
}

fn bare(id: &str, name: &str) -> NodeState {
    NodeState {
        id: id.to_owned(),
        name: name.to_owned(),
        kind: ResourceKind::NODE,
        guest: false,
        cpu: Dimension { capacity: 4_000, ..Dimension::default() },
        memory: Dimension { capacity: 8 * GIB, ..Dimension::default() },
        price_per_hour: None,
        price_micros: None,
        age_seconds: None,
        stale: false,
        vms: 0,
        pods: 0,
    }
}

#[test]
fn nodes_are_found_by_id_and_then_by_name() {
    let nodes = vec![bare("c", "a"), bare("b", "same"), bare("a", "same")];
    let snapshot = Snapshot::new(at(0), nodes, Vec::new());
    for (of, expected) in
        [("a", Some(0)), ("b", Some(1)), ("c", Some(2)), ("same", Some(0)), ("x", None)]
    {
        assert_eq!(snapshot.find(of), expected, "{of}");
    }
}

#[test]
fn a_reservation_on_a_snapshot_can_be_released() {
    let load = Load { cpu_request: 100, memory_request: GIB, cpu_peak: 200, memory_peak: 2 * GIB };
    let mut snapshot = Snapshot::new(at(0), vec![bare("a", "a"), bare("b", "b")], Vec::new());
    let (before, first) = (snapshot.nodes.clone(), snapshot.digest());
    assert!(snapshot.nodes[1].is_empty());
    snapshot.reserve(1, load);
    assert_eq!(snapshot.nodes[0], before[0]);
    let node = &snapshot.nodes[1];
    assert_eq!((node.cpu.allocated, node.cpu.in_flight), (100, 200));
    assert_eq!((node.memory.allocated, node.memory.in_flight), (GIB, 2 * GIB));
    assert!(!node.is_empty());
    let reserved = snapshot.digest();
    snapshot.release(1, load);
    assert_eq!(snapshot.nodes, before);
    let released = snapshot.digest();
    assert!(first != reserved && reserved != released && first != released);
    let digest_after = |index: usize, load: Load| {
        let mut snapshot = Snapshot::new(at(0), before.clone(), Vec::new());
        snapshot.reserve(index, load);
        snapshot.digest()
    };
    assert_eq!(digest_after(1, load), reserved, "it depends on nothing else");
    assert_ne!(digest_after(0, load), reserved);
    assert_ne!(digest_after(1, Load { cpu_peak: 201, ..load }), reserved);
    // More than is in flight is not taken off what runs here.
    snapshot.nodes[0].cpu.allocated = 1_000;
    snapshot.nodes[0].cpu.in_flight = 30;
    snapshot.release(0, load);
    assert_eq!((snapshot.nodes[0].cpu.allocated, snapshot.nodes[0].cpu.in_flight), (970, 0));
}

#[test]
fn a_node_is_in_use_by_any_of_four_signs() {
    let change: [fn(&mut NodeState); 4] = [
        |node| node.vms = 1,
        |node| node.pods = 1,
        |node| node.cpu.in_flight = 1,
        |node| node.memory.in_flight = 1,
    ];
    for change in change {
        let mut node = bare("a", "a");
        change(&mut node);
        assert!(!node.is_empty(), "{node:?}");
    }
}

#[test]
fn vms_go_to_nodes_and_pods_where_pods_run() {
    let hosts =
        |nodes: Vec<NodeState>, kind| Snapshot::new(at(0), nodes, Vec::new()).hosts_for(kind);
    let (vm, pod) = (ResourceKind::VM, ResourceKind::POD);
    let mut nested = bare("b", "b");
    (nested.kind, nested.guest) = (vm.clone(), true);
    let guest = NodeState { guest: true, ..bare("c", "c") };
    let nodes = vec![bare("a", "a"), nested.clone(), guest.clone()];
    assert_eq!(hosts(nodes.clone(), vm), [0], "neither on VMs nor on nodes that run on machines");
    assert_eq!(hosts(nodes, pod.clone()), [0, 2], "no pods anywhere: any node");
    let with_pods = NodeState { pods: 1, ..nested };
    assert_eq!(hosts(vec![bare("a", "a"), with_pods, guest], pod), [1]);
}

#[test]
fn the_reference_price_is_the_median_of_a_core_and_hour() {
    let reference = |prices: &[(Option<u64>, u64)]| {
        let nodes = prices.iter().enumerate().map(|(n, &(price_micros, capacity))| {
            let mut node = bare(&n.to_string(), "");
            (node.price_micros, node.cpu.capacity) = (price_micros, capacity);
            node
        });
        Snapshot::new(at(0), nodes.collect(), Vec::new()).price_reference_micros
    };
    assert_eq!(reference(&[]), 0);
    assert_eq!(reference(&[(None, 4_000), (Some(5), 0)]), 0, "no price, or no size");
    assert_eq!(reference(&[(Some(8_000), 4_000)]), 2_000);
    let three = [(Some(9_000), 1_000), (Some(1_000), 1_000), (Some(4_000), 1_000), (None, 1_000)];
    assert_eq!(reference(&three), 4_000);
}

#[test]
fn shares_and_predictions_are_of_what_is_there() {
    let of = Dimension {
        capacity: 1_000,
        settled: 101,
        arrived: 10,
        in_flight: 7,
        margin_permille: 200,
        ..Dimension::default()
    };
    assert_eq!(of.predicted(), 122 + 10 + 7, "121.2 is rounded up");
    assert_eq!(of.share(250), 0.25);
    assert_eq!(Dimension::default().share(5), 0.0, "of nothing known");
    let mut node = bare("a", "a");
    node.cpu = of;
    assert_eq!(node.predicted_share(), 0.139);
    node.memory.arrived = 4 * GIB;
    assert_eq!(node.predicted_share(), 0.5);
}
