//! The scheduler over HTTP: nodes, placements, the plan, and the kube-scheduler extender.
//!
//! [`routes`] has the bodies and answers of each.

use std::collections::BTreeMap;
use std::future::ready;
use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::Response;
use nilometer_contract::ResourceKind;
use nilometer_http::{Call, Format, Page, Problem, Surface, TOTAL_ROWS};
use nilometer_placement::place::Placement;
use nilometer_placement::request::Request;
use nilometer_placement::score::Score;
use nilometer_placement::snapshot::{Dimension, NodeState};
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::extender::Arguments;
use crate::routes::{self, MAX_NAMED};
use crate::scheduler::Scheduler;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlacementBody {
    workloads: Vec<WorkloadBody>,
    #[serde(default)]
    nodes: Option<Vec<String>>,
    #[serde(default, deserialize_with = "integer")]
    seed: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WorkloadBody {
    name: String,
    #[serde(default)]
    project: String,
    #[serde(default)]
    id: String,
    #[serde(default = "vm")]
    kind: ResourceKind,
    #[serde(default)]
    vcpus: f64,
    #[serde(default, deserialize_with = "integer")]
    memory_bytes: u64,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

/// A whole number, however it is written: to JSON 2.0 is one.
fn integer<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let number = serde_json::Number::deserialize(from)?;
    let whole = number.as_f64().filter(|it| it.fract() == 0.0 && (0.0..9.1e15).contains(it));
    let integer = number.as_u64().or(whole.map(|it| it as u64));
    integer.ok_or_else(|| D::Error::custom(format!("{number} is no whole number from 0 on")))
}

fn vm() -> ResourceKind {
    ResourceKind::VM
}

impl Scheduler {
    /// The HTTP surface.
    pub fn surface(self: &Arc<Self>) -> Surface {
        let shared = || self.clone();
        let (of_nodes, of_placements, of_plan) = (shared(), shared(), shared());
        let (of_filter, of_prioritize) = (shared(), shared());
        Surface::new()
            .with(&routes::NODES, move |call| ready(nodes(&of_nodes, &call)))
            .with(&routes::PLACEMENTS, move |call| ready(placements(&of_placements, &call)))
            .with(&routes::PLAN, move |call| ready(plan(&of_plan, &call)))
            .with(&routes::FILTER, move |call| ready(filter(&of_filter, &call)))
            .with(&routes::PRIORITIZE, move |call| ready(prioritize(&of_prioritize, &call)))
    }
}

fn nodes(scheduler: &Scheduler, call: &Call) -> Result<Response, Problem> {
    let Page { limit, offset } = call.page();
    let (page, total) = scheduler.nodes(call.scope(), offset, limit);
    let nodes: Vec<Value> = page.iter().map(|(node, score)| node_json(node, *score)).collect();
    call.note.add_rows(nodes.len());
    let mut response = call.answer_json(&json!({ "nodes": nodes }));
    response.headers_mut().insert(TOTAL_ROWS, total.into());
    call.link_next(&mut response, call.page().has_more(total));
    Ok(response)
}

fn placements(scheduler: &Scheduler, call: &Call) -> Result<Response, Problem> {
    let refused = |why: String| Problem::unprocessable("no placement", why);
    let body: PlacementBody = call.json()?;
    if body.nodes.as_ref().is_some_and(|nodes| nodes.len() > MAX_NAMED) {
        return Err(refused(format!("more than {MAX_NAMED} nodes are named")));
    }
    let requests = body.workloads.into_iter().map(WorkloadBody::request);
    let requests = requests.collect::<Result<Vec<Request>, String>>().map_err(refused)?;
    let names: Vec<&str> = requests.iter().map(|request| request.name.as_str()).collect();
    call.note.set_query(&names.join(" "));
    let placed = scheduler.place(requests, body.nodes.as_deref(), body.seed);
    let (record, decision) = placed.map_err(|error| refused(error.to_string()))?;
    let placements: Vec<Value> = decision.placements.iter().map(placement_json).collect();
    Ok(call.answer_json(&json!({
        "id": record.id,
        "at": record.at,
        "considered": record.inputs.considered,
        "newest_sample": record.inputs.watermark.newest_sample,
        "placements": placements,
    })))
}

fn plan(scheduler: &Scheduler, call: &Call) -> Result<Response, Problem> {
    let Some((record, plan)) = scheduler.plan(call.scope()) else {
        let detail = "a plan tells of all nodes, which are not in your scope";
        return Err(Problem::new(StatusCode::FORBIDDEN, "not allowed", detail));
    };
    Ok(match call.format {
        Format::Table => call.answer(plan.to_string()),
        _ => call.answer_json(&json!({"id": record.id, "dry_run": true, "plan": plan})),
    })
}

fn filter(scheduler: &Scheduler, call: &Call) -> Result<Response, Problem> {
    let filtered = scheduler.filter(arguments(call)?);
    Ok(call.answer_json(&json!(filtered)))
}

fn arguments(call: &Call) -> Result<Arguments, Problem> {
    let arguments: Arguments = call.json()?;
    match arguments.fault() {
        None => Ok(arguments),
        Some(part) => Err(Problem::bad_request(format!("{part} is no object")).about(part)),
    }
}

/// kube-scheduler takes any answer but 200 as a failure of the extender, and goes on without it
/// where it is configured as ignorable.
fn prioritize(scheduler: &Scheduler, call: &Call) -> Result<Response, Problem> {
    let priorities = scheduler.prioritize(&arguments(call)?);
    Ok(call.answer_json(&json!(priorities)))
}

impl WorkloadBody {
    fn request(self) -> Result<Request, String> {
        let millis = self.vcpus * 1_000.0;
        if !(0.0..=1e9).contains(&millis) {
            return Err(format!("workload {:?}: vcpus is 0 to 1000000", self.name));
        }
        Ok(Request {
            name: self.name,
            project: self.project,
            id: self.id,
            kind: self.kind,
            cpu_millis: millis.ceil() as u64,
            memory_bytes: self.memory_bytes,
            attributes: self.attributes,
        })
    }
}

fn node_json(node: &NodeState, score: Score) -> Value {
    let sizes = |of: fn(&Dimension) -> u64| json!({"cpus": cores(of(&node.cpu)), "memory_bytes": of(&node.memory)});
    json!({
        "id": node.id,
        "name": node.name,
        "kind": node.kind,
        "vms": node.vms,
        "pods": node.pods,
        "allocatable": sizes(|of| of.capacity),
        "allocated": sizes(|of| of.allocated),
        "used": {"cpus": node.cpu.used.map(cores), "memory_bytes": node.memory.used},
        "in_flight": sizes(|of| of.in_flight),
        "predicted_peak": sizes(Dimension::predicted),
        "price_per_hour": node.price_per_hour,
        "score": score.points(),
        "stale": node.stale,
        "age_seconds": node.age_seconds,
    })
}

fn placement_json(placed: &Placement) -> Value {
    let candidates: Vec<Value> = placed
        .candidates
        .iter()
        .map(|node| {
            json!({
                "node": node.node,
                "fits": node.fits,
                "predicted_peak_before": {
                    "cpus": cores(node.cpu_before_millis),
                    "memory_bytes": node.memory_before_bytes,
                },
                "predicted_peak_after": {
                    "cpus": cores(node.cpu_after_millis),
                    "memory_bytes": node.memory_after_bytes,
                },
                "risk_before": f64::from(node.risk_before_permille) / 1_000.0,
                "risk_after": f64::from(node.risk_after_permille) / 1_000.0,
                "score": node.score.points(),
                "reasons": node.reasons,
            })
        })
        .collect();
    json!({
        "workload": placed.workload,
        "project": placed.project,
        "node": placed.node,
        "score": placed.score.map(Score::points),
        "candidates": candidates,
    })
}

fn cores(millis: u64) -> f64 {
    millis as f64 / 1_000.0
}
