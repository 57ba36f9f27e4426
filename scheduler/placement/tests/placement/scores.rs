//! Scores of single nodes, worked out by hand.

use nilometer_contract::ResourceKind;
use nilometer_placement::policy::{Policy, Strategy};
use nilometer_placement::score::{Evaluation, Load, Misfit, Score, evaluate};
use nilometer_placement::snapshot::{Dimension, NodeState};

/// Ten cores and 1,000 bytes; nothing runs here.
fn node() -> NodeState {
    let dimension = |capacity| Dimension { capacity, ..Dimension::default() };
    NodeState {
        id: "n".to_owned(),
        name: "n".to_owned(),
        kind: ResourceKind::NODE,
        guest: false,
        cpu: dimension(10_000),
        memory: dimension(1_000),
        price_per_hour: None,
        price_micros: None,
        age_seconds: None,
        stale: false,
        vms: 0,
        pods: 0,
    }
}

/// Only the risk counts.
fn risk_only() -> Policy {
    Policy { risk_weight: 1, strategy_weight: 0, price_weight: 0, ..Policy::default() }
}

fn strategy_only(strategy: Strategy) -> Policy {
    let pack_target_percent = 50;
    Policy {
        risk_weight: 0,
        strategy_weight: 7,
        price_weight: 0,
        strategy,
        pack_target_percent,
        ..Policy::default()
    }
}

fn price_only(strategy: Strategy) -> Policy {
    Policy { risk_weight: 0, strategy_weight: 0, price_weight: 3, strategy, ..Policy::default() }
}

fn peaks(cpu_peak: u64, memory_peak: u64) -> Load {
    Load { cpu_peak, memory_peak, ..Load::default() }
}

fn plain(node: &NodeState, load: Load, policy: &Policy) -> Evaluation {
    evaluate(node, Load::default(), load, policy, 0)
}

#[test]
fn risk_rises_from_below_high_to_above_it() {
    // High is 85 %, the ramp reaches a margin of 5 % to both sides.
    for (memory, risk) in
        [(0, 0), (800, 0), (825, 156), (850, 500), (875, 843), (900, 1_000), (2_000, 1_000)]
    {
        let found = plain(&node(), peaks(0, memory), &risk_only());
        assert_eq!(found.risk_permille, (0, risk), "{memory}");
        assert!(found.score.0.abs_diff((1_000 - risk) * 100) <= 100, "{memory}: {found:?}");
    }
    let mut doubtful = node();
    doubtful.memory.margin_permille = 200;
    for (memory, risk) in [(650, 0), (750, 156), (850, 500), (950, 843)] {
        let found = plain(&doubtful, peaks(0, memory), &risk_only());
        assert_eq!(found.risk_permille, (0, risk), "a wider margin: {memory}");
    }
    let both = plain(&node(), peaks(8_500, 850), &risk_only());
    assert_eq!((both.risk_permille.1, both.score), (750, Score(25_000)), "1 − ½ × ½");
}

#[test]
fn peaks_before_and_after_count_what_was_added_already() {
    let mut node = node();
    (node.cpu.arrived, node.memory.settled) = (1_000, 100);
    let found = evaluate(&node, peaks(400, 30), peaks(8_000, 720), &risk_only(), 0);
    assert_eq!((found.cpu, found.memory), ((1_400, 9_400), (130, 850)));
    assert_eq!(found.risk_permille, (0, 1_000));
    node.memory.arrived = 720;
    assert_eq!(
        evaluate(&node, peaks(0, 30), peaks(0, 0), &risk_only(), 0).risk_permille,
        (500, 500)
    );
}

#[test]
fn spreading_prefers_the_emptier_and_packing_the_target() {
    let spread = strategy_only(Strategy::Spread);
    let pack = strategy_only(Strategy::Pack);
    for (load, spread_score, pack_score) in [
        (peaks(0, 0), 100_000, 0),
        (peaks(2_500, 0), 80_000, 50_000),
        (peaks(0, 250), 80_000, 50_000),
        (peaks(5_000, 250), 66_667, 100_000),
        (peaks(0, 1_000), 50_000, 50_000),
    ] {
        assert_eq!(plain(&node(), load, &spread).score, Score(spread_score), "{load:?}");
        assert_eq!(plain(&node(), load, &pack).score, Score(pack_score), "{load:?}");
    }
}

#[test]
fn a_price_counts_against_the_median_but_not_for_a_node_that_is_packed() {
    let with = |price_micros, median, policy: &Policy| {
        let node = NodeState { price_micros, ..node() };
        evaluate(&node, Load::default(), peaks(0, 0), policy, median).score.0
    };
    let spread = price_only(Strategy::Spread);
    assert_eq!(with(Some(10_000), 1_000, &spread), 50_000, "the median of a core");
    assert_eq!(with(Some(30_000), 1_000, &spread), 25_000);
    assert_eq!(with(Some(0), 1_000, &spread), 100_000);
    assert_eq!(with(None, 1_000, &spread), 50_000);
    assert_eq!(with(Some(30_000), 0, &spread), 50_000, "no prices known");
    let pack = price_only(Strategy::Pack);
    assert_eq!(with(Some(30_000), 1_000, &pack), 25_000, "an empty node must be opened");
    let in_use = NodeState { price_micros: Some(30_000), vms: 1, ..node() };
    let score = |node: &NodeState, already, policy| {
        evaluate(node, already, peaks(0, 0), policy, 1_000).score.0
    };
    assert_eq!(score(&in_use, Load::default(), &pack), 100_000);
    assert_eq!(score(&in_use, Load::default(), &spread), 25_000);
    let empty = NodeState { vms: 0, ..in_use.clone() };
    assert_eq!(score(&empty, peaks(1, 0), &pack), 100_000, "something was placed already");
    let mut no_cores = empty;
    no_cores.cpu.capacity = 0;
    assert_eq!(score(&no_cores, Load::default(), &spread), 50_000);
}

#[test]
fn weights_are_shares_of_their_sum() {
    let policy =
        Policy { risk_weight: 1, strategy_weight: 2, price_weight: 5, ..Policy::default() };
    // Risk ½, at 85 % spreading gives 1 / 1.85, without a price ½.
    let score = plain(&node(), peaks(0, 850), &policy).score;
    assert_eq!(score, Score(((0.5 + 2.0 / 1.85 + 2.5) / 8.0 * 100_000.0_f64).round() as u32));
}

#[test]
fn what_is_wholly_unknown_is_neutral() {
    let sized = |cpu: u64, memory: u64| {
        let mut node = node();
        (node.cpu.capacity, node.memory.capacity) = (cpu, memory);
        plain(&node, peaks(1, 1), &strategy_only(Strategy::Spread)).score
    };
    assert_eq!(sized(0, 0), Score::NEUTRAL);
    assert_eq!(Score::NEUTRAL.points(), 50.0);
    assert_ne!(sized(10, 0), Score::NEUTRAL);
    assert_ne!(sized(0, 10), Score::NEUTRAL);
}

#[test]
fn requests_fit_up_to_the_overcommitted_capacity() {
    let policy =
        Policy { cpu_overcommit_percent: 200, memory_overcommit_percent: 100, ..Policy::default() };
    let mut busy = node();
    (busy.cpu.allocated, busy.memory.allocated) = (15_000, 600);
    let misfit = |node: &NodeState, cpu_request, memory_request| {
        let already = Load { cpu_request: 1_000, memory_request: 100, ..Load::default() };
        let load = Load { cpu_request, memory_request, ..Load::default() };
        evaluate(node, already, load, &policy, 0).misfit
    };
    assert_eq!(misfit(&busy, 4_000, 300), None);
    assert_eq!(misfit(&busy, 4_001, 300), Some(Misfit::Cpu));
    assert_eq!(misfit(&busy, 4_000, 301), Some(Misfit::Memory));
    assert_eq!(misfit(&busy, 4_001, 301), Some(Misfit::Cpu), "cores are named first");
    let mut unknown = busy.clone();
    (unknown.cpu.capacity, unknown.memory.capacity) = (0, 0);
    assert_eq!(misfit(&unknown, 1_000_000, 1_000_000), None, "of unknown size, never refused");
    let nothing =
        |node: &NodeState| evaluate(node, Load::default(), Load::default(), &policy, 0).misfit;
    busy.cpu.allocated = 30_000;
    assert_eq!(nothing(&busy), None, "what requests nothing fits where too much is allocated");
}

#[test]
fn loads_add_up() {
    let one = Load { cpu_request: 1, memory_request: 2, cpu_peak: 3, memory_peak: 4 };
    let other = Load { cpu_request: 10, memory_request: 20, cpu_peak: 30, memory_peak: u64::MAX };
    let sum = Load { cpu_request: 11, memory_request: 22, cpu_peak: 33, memory_peak: u64::MAX };
    assert_eq!(one.plus(other), sum);
}
