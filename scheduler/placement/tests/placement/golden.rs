//! Recorded decisions stay what they were, to the byte: placements of every strategy and a plan.

use std::path::Path;

use nilometer_contract::{Change, Resource, ResourceKind};
use nilometer_placement::place::{EligibleNodes, place};
use nilometer_placement::plan::plan;
use nilometer_placement::policy::{Policy, Strategy};
use nilometer_placement::record::{DecisionRecord, Inputs, Watermark, replay};
use nilometer_placement::request::Request;
use nilometer_placement::snapshot::Snapshot;
use nilometer_placement::state::ClusterState;

use crate::cluster::{GIB, HOUR, Meters, at, event, node, request, vm};

const DAY: i64 = 24 * HOUR;

/// Six nodes: hot, calm, cold, of unknown size, stale, and cheap; VMs, and pods on one of them.
fn state() -> ClusterState {
    let mut state = ClusterState::default();
    let mut meters = Meters::new();
    let hosts = [("n1", 15.0), ("n2", 7.0), ("n3", 1.0), ("n5", 2.0), ("n6", 6.0)];
    for (id, cores) in hosts {
        let host = node(id, 16, 64 * GIB);
        meters.set(&host, cores, 9 * GIB);
        state.apply(event(Change::Created, at(0), host));
    }
    state.apply(event(Change::Created, at(0), Resource::new("n4", ResourceKind::NODE)));
    let workloads = [
        ("v1", "n1", 8.0),
        ("v2", "n1", 4.0),
        ("v3", "n1", 2.5),
        ("v4", "n2", 6.0),
        ("v5", "n3", 0.5),
    ];
    for (n, (id, on, cores)) in workloads.into_iter().enumerate() {
        let guest = vm(id, on, 8, (n as u64 + 1) * GIB);
        meters.set(&guest, cores, GIB);
        state.apply(event(Change::Created, at(0), guest));
    }
    let mut pod = vm("p1", "n2", 1, GIB);
    pod.kind = ResourceKind::POD;
    pod.parent = Some("v4".to_owned());
    meters.set(&pod, 0.7, GIB / 2);
    state.apply(event(Change::Created, at(60), pod));
    meters.feed(&mut state, at(0), at(DAY));
    let policy = Policy::default();
    state.reserve(&request("on-its-way", 1_500, 3 * GIB), "n2", at(DAY - 10), &policy);
    state
}

fn snapshot() -> Snapshot {
    let price = |of: &Resource| match of.id.as_str() {
        "n6" => Some("0.3125".to_owned()),
        "n4" => None,
        _ => Some("0.50".to_owned()),
    };
    state().snapshot(at(DAY + 200), &Policy::default(), &price)
}

fn requests() -> Vec<Request> {
    let pod = Request { kind: ResourceKind::POD, ..request("pod", 300, GIB) };
    vec![
        request("small", 500, GIB),
        request("large", 9_000, 40 * GIB),
        pod,
        request("none", 0, 0),
        request("huge", 90_000, GIB),
    ]
}

fn records() -> Vec<DecisionRecord> {
    let snapshot = snapshot();
    let eligible = EligibleNodes::new(&snapshot, None);
    let placed = |policy: Policy, seed| {
        let decision = place(&eligible, &requests(), &policy, seed);
        let inputs = Inputs {
            requests: requests(),
            policy,
            seed,
            nodes: eligible.listed(&decision),
            considered: eligible.count() as u64,
            state_digest: snapshot.digest(),
            price_reference_micros: snapshot.price_reference_micros,
            watermark: Watermark { newest_sample: snapshot.newest_sample, partitions: Vec::new() },
        };
        let record = DecisionRecord::of_placement(snapshot.at, inputs, &decision);
        assert_eq!(replay(&record), decision);
        record
    };
    let pack = Policy { strategy: Strategy::Pack, explained_nodes: 3, ..Policy::default() };
    let tie = Policy { near_tie_millipoints: 20_000, ..Policy::default() };
    let policy = Policy { residence_seconds: 0, ..Policy::default() };
    let moves = plan(&snapshot, &policy);
    let watermark = Watermark { newest_sample: snapshot.newest_sample, partitions: Vec::new() };
    vec![
        placed(Policy::default(), 0),
        placed(pack, 0),
        placed(tie, 7),
        DecisionRecord::of_plan(&snapshot, &moves, &policy, watermark),
    ]
}

#[test]
fn recorded_decisions_stay_what_they_were() {
    let lines: Vec<String> =
        records().iter().map(|record| serde_json::to_string(record).unwrap()).collect();
    check("decisions.json", &(lines.join("\n") + "\n"));
}

/// Compares with a file of `tests/golden`, or writes it where `NILOMETER_BLESS` is set.
pub(crate) fn check(file: &str, given: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    if std::env::var_os("NILOMETER_BLESS").is_some() {
        std::fs::write(&path, given).unwrap();
        return;
    }
    let known = std::fs::read_to_string(&path).unwrap();
    if let Some((line, (given, known))) =
        (1..).zip(given.lines().zip(known.lines())).find(|(_, (given, known))| given != known)
    {
        panic!("{file}:{line}:\n{known}\nis now\n{given}");
    }
    assert_eq!(given.lines().count(), known.lines().count(), "{file}");
}
