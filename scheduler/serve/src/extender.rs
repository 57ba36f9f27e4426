//! The kube-scheduler extender, version 1: `filter` and `prioritize`.
//!
//! Keys are Go's names, in PascalCase, none left out; the pods and nodes inside are Kubernetes'
//! own JSON. Both forms are understood: names (`nodeCacheCapable: true`) and whole nodes.
//!
//! `filter` refuses a node only where the requests cannot fit by what recent samples confirm, or
//! where the node is known to be gone; a node it does not know passes. `prioritize` answers every
//! name: the best node alone gets 10, the others 9 and less by how far they fall behind, a node
//! without a score 5. The node ranked first counts as chosen until the pod is seen (invariant 18).

use std::collections::BTreeMap;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::pod::request_of;
use crate::scheduler::Scheduler;
use nilometer_placement::place::{EligibleNode, explain};
use nilometer_placement::record::{Choice, DecisionKind, DecisionRecord, Forecast, Inputs};
use nilometer_placement::request::Request;
use nilometer_placement::score::{Evaluation, Load, evaluate};
use nilometer_placement::snapshot::Snapshot;

/// Most nodes whose states a record keeps.
const MAX_KEPT: usize = 64;
const BEST: u32 = 10;
const NEUTRAL: u32 = 5;
/// Nodes within this of each other, in thousandths of a point, are not told apart by more than 1.
const LEAST_STEP: u32 = 2_000;

/// What kube-scheduler asks.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Arguments {
    pod: Value,
    nodes: Value,
    node_names: Option<Vec<String>>,
}

/// Which nodes pass.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Filtered {
    nodes: Option<Value>,
    node_names: Option<Vec<String>>,
    failed_nodes: BTreeMap<String, String>,
    failed_and_unresolvable_nodes: BTreeMap<String, String>,
    error: String,
}

/// One node's rank.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct HostPriority {
    host: String,
    score: u32,
}

impl Arguments {
    /// The part that is not of the protocol, if one is not.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        let is_object = |value: &Value| value.is_object() || value.is_null();
        match (is_object(&self.pod), is_object(&self.nodes)) {
            (false, _) => Some("Pod"),
            (_, false) => Some("Nodes"),
            _ => None,
        }
    }

    fn names(&self) -> Vec<String> {
        match &self.node_names {
            Some(names) => names.clone(),
            None => self.items().iter().map(|node| name_of(node).to_owned()).collect(),
        }
    }

    fn items(&self) -> &[Value] {
        self.nodes["items"].as_array().map(Vec::as_slice).unwrap_or_default()
    }
}

impl Scheduler {
    /// Answers `filter` and records the answer.
    pub(crate) fn filter(&self, mut arguments: Arguments) -> Filtered {
        let started = Instant::now();
        let now = self.now();
        let request = request_of(&arguments.pod);
        let names = arguments.names();
        let guard = self.snapshot(now);
        let empty = Snapshot::default();
        let snapshot = guard.as_ref().unwrap_or(&empty);
        let mut failed = BTreeMap::new();
        for (name, known) in self.evaluated(snapshot, &request, &names) {
            let Some((index, evaluation)) = known else {
                if self.is_gone(name) {
                    failed.insert(name.to_owned(), "node is gone".to_owned());
                }
                continue;
            };
            let node = &snapshot.nodes[index];
            if evaluation.misfit.is_some() && !node.stale {
                let why = explain(node, &evaluation, &self.config.policy).reasons.swap_remove(0);
                failed.insert(name.to_owned(), why);
            }
        }
        let passed: Vec<String> =
            names.iter().filter(|name| !failed.contains_key(*name)).cloned().collect();
        let chosen = passed.iter().take(MAX_KEPT).map(|name| choice(&request, name, None));
        let reasons = failed.iter().take(MAX_KEPT).map(|(name, why)| format!("{name}: {why}"));
        let (chosen, reasons) = (chosen.collect(), reasons.collect());
        let inputs = self.inputs(snapshot, request, &names);
        drop(guard);
        let kind = DecisionKind::Filter;
        self.record(&DecisionRecord::new(now, kind, inputs, Vec::new(), chosen, reasons));
        self.metrics.answer_seconds.observe(started.elapsed().as_secs_f64());
        let by_name = arguments.node_names.is_some();
        let nodes = (!by_name).then(|| {
            keep(&mut arguments.nodes, &failed);
            arguments.nodes
        });
        Filtered {
            nodes,
            node_names: by_name.then_some(passed),
            failed_nodes: failed,
            failed_and_unresolvable_nodes: BTreeMap::new(),
            error: String::new(),
        }
    }

    /// Answers `prioritize`, counts the first as chosen, and records the answer.
    pub(crate) fn prioritize(&self, arguments: &Arguments) -> Vec<HostPriority> {
        let started = Instant::now();
        let now = self.now();
        let request = request_of(&arguments.pod);
        let names = arguments.names();
        let mut guard = self.snapshot(now);
        let snapshot = guard.get_or_insert_default();
        self.release(snapshot, std::slice::from_ref(&request), now);
        let evaluated = self.evaluated(snapshot, &request, &names);
        let points: Vec<Option<u32>> = evaluated
            .iter()
            .map(|(_, known)| known.map(|(_, evaluation)| evaluation.score.0))
            .collect();
        let ranks = ranks(&points);
        let best = ranks.iter().position(|&rank| rank == BEST);
        let forecast = best.and_then(|best| forecast(snapshot, &request, evaluated[best].1?));
        let first = best.and_then(|best| Some(snapshot.nodes[evaluated[best].1?.0].id.clone()));
        drop(evaluated);
        let mut order: Vec<usize> = (0..names.len()).collect();
        order.sort_by_key(|&at| std::cmp::Reverse((ranks[at], points[at])));
        let chosen = order.iter().take(MAX_KEPT);
        let chosen = chosen.map(|&at| choice(&request, &names[at], Some(ranks[at]))).collect();
        let inputs = self.inputs(snapshot, request.clone(), &names);
        if let Some(node) = first {
            self.reserve(snapshot, &request, &node, now);
        }
        drop(guard);
        let unknown = points.iter().filter(|known| known.is_none()).count();
        let reasons = match unknown {
            0 => Vec::new(),
            count => vec![format!("{count} nodes are not known and rank {NEUTRAL}")],
        };
        let forecast = forecast.into_iter().collect();
        let kind = DecisionKind::Prioritize;
        self.record(&DecisionRecord::new(now, kind, inputs, forecast, chosen, reasons));
        self.metrics.answer_seconds.observe(started.elapsed().as_secs_f64());
        names.into_iter().zip(ranks).map(|(host, score)| HostPriority { host, score }).collect()
    }

    /// Each name with its index on the snapshot and its evaluation, if known.
    fn evaluated<'n>(
        &self,
        snapshot: &Snapshot,
        request: &Request,
        names: &'n [String],
    ) -> Vec<(&'n str, Option<(usize, Evaluation)>)> {
        let policy = &self.config.policy;
        let load = request.load(policy);
        let evaluated = names.iter().map(|name| {
            let known = snapshot.find(name).map(|index| {
                let node = &snapshot.nodes[index];
                (
                    index,
                    evaluate(node, Load::default(), load, policy, snapshot.price_reference_micros),
                )
            });
            (name.as_str(), known)
        });
        evaluated.collect()
    }

    fn is_gone(&self, name: &str) -> bool {
        let state = self.state.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.is_gone(name)
    }

    fn inputs(&self, snapshot: &Snapshot, request: Request, names: &[String]) -> Inputs {
        let known = names.iter().filter_map(|name| snapshot.find(name)).take(MAX_KEPT);
        let kept = known.map(|index| EligibleNode {
            node: snapshot.nodes[index].clone(),
            for_vms: false,
            for_pods: true,
        });
        Inputs {
            requests: vec![request],
            policy: self.config.policy.clone(),
            seed: 0,
            nodes: kept.collect(),
            considered: names.len() as u64,
            state_digest: snapshot.digest(),
            price_reference_micros: snapshot.price_reference_micros,
            watermark: self.watermark(snapshot),
        }
    }
}

/// Scores in thousandths of a point as ranks from 0 to 10. Only the first best gets 10.
fn ranks(points: &[Option<u32>]) -> Vec<u32> {
    let known = || points.iter().flatten().copied();
    let (Some(best), Some(worst)) = (known().max(), known().min()) else {
        return vec![NEUTRAL; points.len()];
    };
    let step = ((best - worst) / (BEST - 1)).max(LEAST_STEP);
    let mut taken = false;
    let rank = |points: &Option<u32>| match points {
        None => NEUTRAL,
        Some(points) if *points == best && !taken => {
            taken = true;
            BEST
        }
        Some(points) => (BEST - 1).saturating_sub((best - points) / step),
    };
    points.iter().map(rank).collect()
}

fn forecast(
    snapshot: &Snapshot,
    request: &Request,
    (index, evaluation): (usize, Evaluation),
) -> Option<Forecast> {
    Some(Forecast {
        node: snapshot.nodes.get(index)?.id.clone(),
        workload: request.name.clone(),
        cpu_after_millis: Some(evaluation.cpu.1),
        memory_after_bytes: Some(evaluation.memory.1),
        risk_before_permille: evaluation.risk_permille.0,
        risk_after_permille: evaluation.risk_permille.1,
        price_saved_per_hour: None,
    })
}

fn choice(request: &Request, node: &str, score: Option<u32>) -> Choice {
    let (workload, node) = (request.name.clone(), Some(node.to_owned()));
    Choice { workload, from: None, node, score }
}

/// Takes the failed nodes out of a list of whole nodes.
fn keep(nodes: &mut Value, failed: &BTreeMap<String, String>) {
    if !nodes.is_object() {
        *nodes = Value::Object(Map::new());
    }
    match nodes["items"].as_array_mut() {
        Some(items) => items.retain(|node| !failed.contains_key(name_of(node))),
        None => nodes["items"] = Value::Array(Vec::new()),
    }
}

fn name_of(node: &Value) -> &str {
    node["metadata"]["name"].as_str().unwrap_or_default()
}
