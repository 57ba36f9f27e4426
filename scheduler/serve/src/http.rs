//! The scheduler over HTTP: nodes, placements, the plan, and the kube-scheduler extender.
//!
//! Errors are problems as RFC 9457 describes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use nilometer_contract::ResourceKind;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::extender::Arguments;
use crate::scheduler::Scheduler;
use nilometer_placement::place::Placement;
use nilometer_placement::request::Request;
use nilometer_placement::score::Score;
use nilometer_placement::snapshot::{Dimension, NodeState};

/// Longest body of a placement request.
const MAX_PLACEMENT_BYTES: usize = 256 << 10;
/// Longest body of an extender request: 5,000 whole nodes of 12 KiB.
const MAX_EXTENDER_BYTES: usize = 64 << 20;
/// Most nodes named in a placement request.
const MAX_NAMED: usize = 10_000;
const DEFAULT_PAGE: usize = 100;
const MAX_PAGE: usize = 1_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlacementBody {
    workloads: Vec<WorkloadBody>,
    #[serde(default)]
    nodes: Option<Vec<String>>,
    #[serde(default)]
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
    #[serde(default)]
    memory_bytes: u64,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

fn vm() -> ResourceKind {
    ResourceKind::VM
}

impl Scheduler {
    /// The HTTP surface.
    pub fn router(self: &Arc<Self>) -> Router {
        let limit = |bytes| DefaultBodyLimit::max(bytes);
        Router::new()
            .route("/v1/nodes", get(nodes))
            .route("/v1/placements", post(placements).layer(limit(MAX_PLACEMENT_BYTES)))
            .route("/v1/plan", get(plan))
            .route("/scheduler/filter", post(filter).layer(limit(MAX_EXTENDER_BYTES)))
            .route("/scheduler/prioritize", post(prioritize).layer(limit(MAX_EXTENDER_BYTES)))
            .with_state(self.clone())
    }
}

async fn nodes(State(scheduler): State<Arc<Scheduler>>, RawQuery(query): RawQuery) -> Response {
    let mut limit = DEFAULT_PAGE;
    let mut cursor = None;
    for (key, value) in query.iter().flat_map(|query| query.split('&')).filter_map(pair) {
        match key {
            "limit" => match value.parse() {
                Ok(wanted) if (1..=MAX_PAGE).contains(&wanted) => limit = wanted,
                _ => return problem(400, format!("limit is a number from 1 to {MAX_PAGE}")),
            },
            "cursor" => match unescape(value) {
                Some(after) => cursor = Some(after),
                None => return problem(400, "cursor is not one that this service gave".to_owned()),
            },
            other => return problem(400, format!("unknown parameter {other:?}")),
        }
    }
    let mut page = scheduler.nodes(cursor.as_deref(), limit + 1);
    let more = page.len() > limit;
    page.truncate(limit);
    let next = page.last().filter(|_| more).map(|(node, _)| escape(&node.id));
    let nodes: Vec<Value> = page.iter().map(|(node, score)| node_json(node, *score)).collect();
    Json(json!({"nodes": nodes, "next": next})).into_response()
}

async fn placements(State(scheduler): State<Arc<Scheduler>>, body: Bytes) -> Response {
    let body: PlacementBody = match serde_json::from_slice(&body) {
        Ok(body) => body,
        Err(error) => return problem(400, format!("not a placement request: {error}")),
    };
    if body.nodes.as_ref().is_some_and(|nodes| nodes.len() > MAX_NAMED) {
        return problem(422, format!("more than {MAX_NAMED} nodes are named"));
    }
    let mut requests = Vec::with_capacity(body.workloads.len());
    for workload in body.workloads {
        match workload.request() {
            Ok(request) => requests.push(request),
            Err(reason) => return problem(422, reason),
        }
    }
    match scheduler.place(requests, body.nodes.as_deref(), body.seed) {
        Err(error) => problem(422, error.to_string()),
        Ok((record, decision)) => {
            let placed: Vec<Value> = decision.placements.iter().map(placement_json).collect();
            Json(json!({
                "id": record.id,
                "at": record.at,
                "considered": record.inputs.considered,
                "newest_sample": record.inputs.watermark.newest_sample,
                "placements": placed,
            }))
            .into_response()
        }
    }
}

async fn plan(State(scheduler): State<Arc<Scheduler>>, headers: HeaderMap) -> Response {
    let (record, plan) = scheduler.plan();
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    if accept.is_some_and(|accept| accept.starts_with("text/plain")) {
        return plan.to_string().into_response();
    }
    Json(json!({"id": record.id, "dry_run": true, "plan": plan})).into_response()
}

async fn filter(State(scheduler): State<Arc<Scheduler>>, body: Bytes) -> Response {
    match arguments(&body) {
        Ok(arguments) => Json(scheduler.filter(arguments)).into_response(),
        Err(refusal) => refusal,
    }
}

async fn prioritize(State(scheduler): State<Arc<Scheduler>>, body: Bytes) -> Response {
    match arguments(&body) {
        Ok(arguments) => Json(scheduler.prioritize(&arguments)).into_response(),
        Err(refusal) => refusal,
    }
}

/// kube-scheduler takes any answer but 200 as a failure of the extender, and goes on without it
/// where it is configured as ignorable.
#[allow(clippy::result_large_err, reason = "the error is the response, on a cold path")]
fn arguments(body: &[u8]) -> Result<Arguments, Response> {
    let arguments = serde_json::from_slice(body);
    arguments.map_err(|error| problem(400, format!("not extender arguments: {error}")))
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

fn problem(status: u16, detail: String) -> Response {
    let code = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    let title = code.canonical_reason().unwrap_or_default();
    let body = json!({"type": "about:blank", "title": title, "status": status, "detail": detail});
    (code, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
}

fn pair(pair: &str) -> Option<(&str, &str)> {
    (!pair.is_empty()).then(|| pair.split_once('=').unwrap_or((pair, "")))
}

/// A cursor is the last id, in hexadecimal: ids hold any text, cursors go in URLs.
fn escape(id: &str) -> String {
    id.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn unescape(cursor: &str) -> Option<String> {
    let bytes = cursor.as_bytes().chunks(2).map(|pair| {
        let digits = std::str::from_utf8(pair).ok()?;
        (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
    });
    String::from_utf8(bytes.collect::<Option<_>>()?).ok()
}
