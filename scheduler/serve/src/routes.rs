//! The routes of the scheduler, as data.

use axum::http::Method;
use nilometer_http::{Access, Answer, Body, Format, PageBounds, Route};
use serde_json::{Value, json};

const TAG: &str = "scheduler";
/// Longest body of a placement request.
const MAX_PLACEMENT_BYTES: usize = 256 << 10;
/// Longest body of an extender request: 5,000 whole nodes of 12 KiB.
const MAX_EXTENDER_BYTES: usize = 64 << 20;
/// Most nodes named in a placement request.
pub(crate) const MAX_NAMED: usize = 10_000;
/// Most workloads in a placement request.
const MAX_WORKLOADS: usize = 256;
const JSON: &[Format] = &[Format::Json];

const fn post(
    path: &'static str,
    summary: &'static str,
    body: Body,
    schema: fn() -> Value,
    quiet: bool,
) -> Route {
    Route {
        method: Method::POST,
        path,
        summary,
        tag: TAG,
        parameters: &[],
        page: None,
        body: Some(body),
        answer: Answer { status: 200, formats: JSON, schema },
        access: Access::SCHEDULER,
        quiet,
    }
}

pub(crate) static NODES: Route = Route {
    method: Method::GET,
    path: "/v1/nodes",
    summary: "Nodes with their load, prediction and score, by id",
    tag: TAG,
    parameters: &[],
    page: Some(PageBounds { usual: 100, most: 1_000 }),
    body: None,
    answer: Answer {
        status: 200,
        formats: JSON,
        schema: || {
            json!({
                "type": "object", "required": ["nodes"],
                "properties": {"nodes": {"type": "array", "items": {
                    "type": "object", "required": ["id", "name", "kind", "score"],
                }}},
            })
        },
    },
    access: Access::SCHEDULER,
    quiet: false,
};

pub(crate) static PLACEMENTS: Route = post(
    "/v1/placements",
    "Where workloads should run, with reasons",
    Body { max_bytes: MAX_PLACEMENT_BYTES, schema: placements_schema },
    || json!({"type": "object", "required": ["id", "placements"]}),
    false,
);

pub(crate) static PLAN: Route = Route {
    method: Method::GET,
    path: "/v1/plan",
    summary: "A dry-run plan of moves",
    tag: TAG,
    parameters: &[],
    page: None,
    body: None,
    answer: Answer {
        status: 200,
        formats: Format::DOCUMENT,
        schema: || json!({"type": "object", "required": ["id", "dry_run", "plan"]}),
    },
    access: Access::SCHEDULER,
    quiet: false,
};

/// kube-scheduler asks for each pod; the table `decisions` has what it was answered.
pub(crate) static FILTER: Route = post(
    "/scheduler/filter",
    "Which nodes a pod fits on: kube-scheduler's extender protocol",
    Body { max_bytes: MAX_EXTENDER_BYTES, schema: extender_schema },
    || json!({"type": "object"}),
    true,
);

/// See [`FILTER`].
pub(crate) static PRIORITIZE: Route = post(
    "/scheduler/prioritize",
    "Ranks of nodes for a pod: kube-scheduler's extender protocol",
    Body { max_bytes: MAX_EXTENDER_BYTES, schema: extender_schema },
    || json!({"type": "array", "items": {"type": "object"}}),
    true,
);

fn placements_schema() -> Value {
    let text = json!({"type": "string"});
    json!({
        "type": "object",
        "required": ["workloads"],
        "additionalProperties": false,
        "properties": {
            "workloads": {
                "type": "array", "minItems": 1, "maxItems": MAX_WORKLOADS,
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "additionalProperties": false,
                    "properties": {
                        "name": text, "project": text, "id": text,
                        "kind": {"enum": ["vm", "pod"]},
                        "vcpus": {"type": "number", "minimum": 0, "maximum": 1_000_000},
                        "memory_bytes": {
                            "type": "integer", "minimum": 0, "maximum": 9_000_000_000_000_000_u64,
                        },
                        "attributes": {"type": "object", "additionalProperties": text},
                    },
                },
            },
            "nodes": {"type": ["array", "null"], "maxItems": MAX_NAMED, "items": text},
            "seed": {"type": "integer", "minimum": 0, "maximum": 9_000_000_000_000_000_u64},
        },
    })
}

fn extender_schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "Pod": {"type": ["object", "null"]},
            "Nodes": {"type": ["object", "null"]},
            "NodeNames": {"type": ["array", "null"], "items": {"type": "string"}},
        },
    })
}
