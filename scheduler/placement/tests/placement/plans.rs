//! What the controller proposes, and that it stops proposing.

use std::collections::HashSet;

use nilometer_contract::{Change, Resource};
use nilometer_placement::plan::{MoveReason, Plan, plan};
use nilometer_placement::policy::Policy;
use nilometer_placement::state::ClusterState;
use proptest::prelude::*;

use crate::cluster::{GIB, HOUR, Meters, at, event, node, vm};

const DAY: i64 = 24 * HOUR;

/// A cluster whose VMs use the same, day and night; the nodes use what their VMs use and a bit.
struct Steady {
    state: ClusterState,
    meters: Meters,
    nodes: Vec<Resource>,
    vms: Vec<(Resource, f64)>,
    now: i64,
}

impl Steady {
    fn new(nodes: usize, vms: &[(usize, f64)]) -> Self {
        let nodes: Vec<Resource> =
            (0..nodes).map(|n| node(&format!("n{n}"), 16, 64 * GIB)).collect();
        let vms = vms.iter().enumerate().map(|(n, &(on, cores))| {
            (vm(&format!("v{n}"), &nodes[on % nodes.len()].id, 8, 2 * GIB), cores)
        });
        let vms: Vec<(Resource, f64)> = vms.collect();
        let mut state = ClusterState::default();
        for resource in nodes.iter().chain(vms.iter().map(|(vm, _)| vm)) {
            state.apply(event(Change::Created, at(0), resource.clone()));
        }
        let mut steady = Steady { state, meters: Meters::new(), nodes, vms, now: 0 };
        steady.run(DAY);
        steady
    }

    fn run(&mut self, seconds: i64) {
        for host in &self.nodes {
            let workloads = self.vms.iter().filter(|(vm, _)| vm.node == host.id);
            let cores: f64 = workloads.clone().map(|(_, cores)| cores).sum();
            self.meters.set(host, cores + 0.1, (1 + workloads.count() as u64) * GIB);
        }
        for (vm, cores) in &self.vms {
            self.meters.set(vm, *cores, GIB);
        }
        self.meters.feed(&mut self.state, at(self.now), at(self.now + seconds));
        self.now += seconds;
    }

    fn plan(&self) -> Plan {
        let price = |_: &Resource| Some("0.50".to_owned());
        let policy = Policy::default();
        plan(&self.state.snapshot(at(self.now), &policy, &price), &policy)
    }

    fn carry_out(&mut self, plan: &Plan) {
        for step in &plan.moves {
            let (vm, _) = self.vms.iter_mut().find(|(vm, _)| vm.id == step.workload).unwrap();
            vm.node.clone_from(&step.to);
            self.state.apply(event(Change::Changed, at(self.now + 1), vm.clone()));
        }
    }
}

#[test]
fn a_hot_node_is_relieved_and_cold_ones_are_emptied() {
    let vms = [(0, 7.0), (0, 5.0), (0, 3.5), (1, 5.0), (1, 2.0), (2, 1.0), (3, 0.5)];
    let mut steady = Steady::new(4, &vms);
    let plan = steady.plan();
    assert_eq!(plan.hot, ["n0"], "{plan}");
    let relief = plan.moves.iter().find(|step| step.reason == MoveReason::Relieve).unwrap();
    assert!(relief.from_risk_permille.1 < relief.from_risk_permille.0, "{plan}");
    assert!(!plan.emptied.is_empty(), "{plan}");
    assert_eq!(plan.price_saved_per_hour.to_string(), format!("{}.50", plan.emptied.len() / 2));
    assert!(plan.to_string().contains("relieves n0"), "{plan}");
    steady.carry_out(&plan);
    steady.run(HOUR);
    assert_eq!(steady.plan().moves, [], "{}", steady.plan());
}

#[test]
fn a_calm_cluster_is_left_alone_and_stale_nodes_are_not_touched() {
    let mut steady = Steady::new(3, &[(0, 6.0), (1, 7.0), (2, 8.0)]);
    assert_eq!(steady.plan().moves, []);
    let mut cold = Steady::new(3, &[(0, 1.0), (1, 1.0), (2, 1.0)]);
    assert!(!cold.plan().moves.is_empty());
    for state in [&mut steady, &mut cold] {
        state.now += 2 * HOUR;
        assert_eq!(state.plan().moves, [], "nothing is known for two hours: nothing is moved");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(32) })]

    #[test]
    fn a_plan_carried_out_leaves_nothing_to_do(
        vms in prop::collection::vec((0_usize..5, 0.1_f64..6.0), 1..14),
    ) {
        let mut steady = Steady::new(5, &vms);
        let first = steady.plan();
        prop_assert_eq!(&first, &steady.plan(), "the same input, the same plan");
        for step in &first.moves {
            let moves = first.moves.iter().filter(|other| other.workload == step.workload);
            prop_assert_eq!(moves.count(), 1, "{}", first);
        }
        let mut moved: HashSet<String> =
            first.moves.iter().map(|step| step.workload.clone()).collect();
        steady.carry_out(&first);
        steady.run(HOUR);
        let second = steady.plan();
        prop_assert!(second.moves.is_empty(), "first {}, then {}", first, second);
        // As what moved becomes part of its node's history more may fit; nothing moves twice.
        for pause in [7 * HOUR, 17 * HOUR, 24 * HOUR] {
            steady.run(pause);
            let later = steady.plan();
            for step in &later.moves {
                prop_assert!(moved.insert(step.workload.clone()), "{} then {}", first, later);
            }
            steady.carry_out(&later);
        }
    }
}
