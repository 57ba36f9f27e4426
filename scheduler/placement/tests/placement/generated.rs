//! Decisions and plans over seeded clusters, compared with what they were: every number of a node, a
//! workload and a policy takes part in some of them.

use std::fmt::Write;

use nilometer_contract::{MICROS_PER_SECOND, ResourceKind, Timestamp};
use nilometer_placement::place::{EligibleNodes, place};
use nilometer_placement::plan::plan;
use nilometer_placement::policy::{Policy, Strategy};
use nilometer_placement::request::Request;
use nilometer_placement::snapshot::{Dimension, NodeState, Snapshot, WorkloadState};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::cluster::{GIB, HOUR, at, request};
use crate::golden::check;

const SEEDS: u64 = 120;

fn dimension(random: &mut ChaCha8Rng, capacity: u64) -> Dimension {
    Dimension {
        capacity: if random.random_bool(0.03) { 0 } else { capacity },
        measured: random.random_bool(0.9),
        used: random.random_bool(0.8).then(|| random.random_range(0..capacity)),
        together_permille: random.random_range(250..=1_000),
        margin_permille: *pick(random, &[0, 40, 200, 600]),
        ..Dimension::default()
    }
}

fn pick<'a, T>(random: &mut ChaCha8Rng, of: &'a [T]) -> &'a T {
    &of[random.random_range(0..of.len())]
}

fn node(random: &mut ChaCha8Rng, n: usize) -> NodeState {
    let price = random.random_bool(0.8).then(|| random.random_range(1..200_u64));
    NodeState {
        id: format!("n{n}"),
        name: format!("name-{n}"),
        kind: ResourceKind::NODE,
        guest: random.random_bool(0.05),
        cpu: dimension(random, 16_000),
        memory: dimension(random, 64 * GIB),
        price_per_hour: price.map(|cents| format!("{}.{:02}", cents / 100, cents % 100)),
        price_micros: price.map(|cents| cents * 10_000),
        age_seconds: None,
        stale: random.random_bool(0.08),
        vms: 0,
        pods: 0,
    }
}

fn workload(random: &mut ChaCha8Rng, n: usize, on: &NodeState) -> WorkloadState {
    let (cpu, memory) = (random.random_range(100..6_000), random.random_range(1..20) * GIB);
    let scale = |of: u64, by: u64| of * by / 10;
    let use_tenths = random.random_range(2..12);
    WorkloadState {
        id: format!("w{n}"),
        name: format!("workload-{n}"),
        project: "p".to_owned(),
        kind: if random.random_bool(0.75) { ResourceKind::VM } else { ResourceKind::POD },
        node: on.id.clone(),
        cpu_request: cpu,
        memory_request: memory,
        cpu_peak: scale(cpu, use_tenths),
        memory_peak: scale(memory, use_tenths),
        cpu_arriving: scale(cpu, use_tenths + 2),
        memory_arriving: scale(memory, use_tenths + 1),
        cpu_settled: random.random_bool(0.8),
        memory_settled: random.random_bool(0.8),
        since: at(-HOUR * random.random_range(0..=12)),
        movable: random.random_bool(0.92),
    }
}

/// A cluster whose nodes bear what runs on them.
fn snapshot(random: &mut ChaCha8Rng) -> Snapshot {
    let mut nodes: Vec<NodeState> =
        (0..random.random_range(2..9)).map(|n| node(random, n)).collect();
    let mut workloads = Vec::new();
    for n in 0..random.random_range(0..nodes.len() * 5) {
        // Some nodes get more than others.
        let (one, other) =
            (random.random_range(0..nodes.len()), random.random_range(0..nodes.len()));
        let index = one.min(other);
        let placed = workload(random, n, &nodes[index]);
        let node = &mut nodes[index];
        let bear = |of: &mut Dimension, request, peak: u64, arriving, settled| {
            of.allocated += request;
            match settled {
                true => of.settled += (peak * u64::from(of.together_permille)).div_ceil(1_000),
                false => of.arrived += arriving,
            }
        };
        let (cpu, memory) = (&mut node.cpu, &mut node.memory);
        bear(cpu, placed.cpu_request, placed.cpu_peak, placed.cpu_arriving, placed.cpu_settled);
        let of = &placed;
        bear(memory, of.memory_request, of.memory_peak, of.memory_arriving, of.memory_settled);
        match placed.kind == ResourceKind::VM {
            true => node.vms += 1,
            false => node.pods += 1,
        }
        workloads.push(placed);
    }
    if random.random_bool(0.2) {
        nodes[0].cpu.in_flight = 500;
        nodes[0].memory.in_flight = GIB;
    }
    Snapshot::new(at(0), nodes, workloads)
}

fn policy(random: &mut ChaCha8Rng) -> Policy {
    Policy {
        strategy: *pick(random, &[Strategy::Spread, Strategy::Pack]),
        cpu_overcommit_percent: *pick(random, &[100, 150, 400]),
        pack_target_percent: *pick(random, &[50, 65, 80]),
        price_weight: *pick(random, &[0, 10, 100]),
        near_tie_millipoints: *pick(random, &[0, 0, 5_000]),
        max_moves: *pick(random, &[1, 3, 20]),
        explained_nodes: *pick(random, &[1, 2, 8]),
        residence_seconds: *pick(random, &[0, 4 * 3_600, 6 * 3_600]),
        low_percent: *pick(random, &[20, 30, 45]),
        ..Policy::default()
    }
}

#[test]
fn plans_of_seeded_clusters_stay_what_they_were() {
    let mut text = String::new();
    for seed in 0..SEEDS {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let (snapshot, policy) = (snapshot(&mut random), policy(&mut random));
        let plan = plan(&snapshot, &policy);
        let lists = [&plan.hot, &plan.cold, &plan.emptied].map(|ids| ids.join(" "));
        let [hot, cold, emptied] = lists;
        writeln!(text, "seed {seed}: hot [{hot}] cold [{cold}] emptied [{emptied}]").unwrap();
        for step in &plan.moves {
            let (cpu, memory) = (step.to_cpu_millis, step.to_memory_bytes);
            writeln!(text, "  {step}; score {}, then {cpu} {memory}", step.score.0).unwrap();
        }
        plan.notes.iter().for_each(|note| writeln!(text, "  {note}").unwrap());
    }
    check("plans.txt", &text);
}

#[test]
fn placements_in_seeded_clusters_stay_what_they_were() {
    let mut text = String::new();
    for seed in 0..SEEDS / 3 {
        let mut random = ChaCha8Rng::seed_from_u64(1_000 + seed);
        let (snapshot, policy) = (snapshot(&mut random), policy(&mut random));
        let requests: Vec<Request> = (0..5)
            .map(|n| {
                let kind = pick(&mut random, &[ResourceKind::VM, ResourceKind::POD]).clone();
                let cpu = *pick(&mut random, &[0, 500, 3_000, 20_000]);
                let memory = *pick(&mut random, &[0, GIB, 30 * GIB]);
                Request { kind, ..request(&format!("r{n}"), cpu, memory) }
            })
            .collect();
        let eligible = EligibleNodes::new(&snapshot, None);
        writeln!(text, "seed {seed}: {:?}, {} nodes", policy.strategy, eligible.count()).unwrap();
        for placed in place(&eligible, &requests, &policy, seed).placements {
            writeln!(text, "  {} to {:?}", placed.workload, placed.node).unwrap();
            for of in &placed.candidates {
                let (cpu, memory) = (of.cpu_before_millis, of.memory_before_bytes);
                let risk = (of.risk_before_permille, of.risk_after_permille);
                let (node, score, why) = (&of.node, of.score.0, of.reasons.join("; "));
                writeln!(text, "    {node} {score} {risk:?} {cpu} {memory}: {why}").unwrap();
            }
        }
    }
    check("placements.txt", &text);
}

#[test]
fn the_digest_covers_every_number_of_a_node() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let base = node(&mut random, 1);
    let digest =
        |node: NodeState| Snapshot::new(Timestamp(MICROS_PER_SECOND), vec![node], vec![]).digest();
    let mut digests = vec![digest(base.clone())];
    let mut change = |of: &dyn Fn(&mut NodeState)| {
        let mut node = base.clone();
        of(&mut node);
        digests.push(digest(node));
    };
    change(&|node| node.id.push('x'));
    change(&|node| node.stale ^= true);
    change(&|node| node.guest ^= true);
    change(&|node| node.vms += 1);
    change(&|node| node.pods += 1);
    change(&|node| node.price_micros = None);
    change(&|node| node.price_micros = Some(0));
    let dimensions: [fn(&mut NodeState) -> &mut Dimension; 2] =
        [|node| &mut node.cpu, |node| &mut node.memory];
    for of in dimensions {
        change(&|node| of(node).capacity += 1);
        change(&|node| of(node).allocated += 1);
        change(&|node| of(node).measured ^= true);
        change(&|node| of(node).used = None);
        change(&|node| of(node).used = Some(0));
        change(&|node| of(node).settled += 1);
        change(&|node| of(node).arrived += 1);
        change(&|node| of(node).in_flight += 1);
        change(&|node| of(node).together_permille += 1);
        change(&|node| of(node).margin_permille += 1);
        change(&|node| {
            // Neither of the two hides in the other.
            let of = of(node);
            (of.together_permille, of.margin_permille) = (of.margin_permille, of.together_permille);
        });
    }
    let count = digests.len();
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), count);
}
