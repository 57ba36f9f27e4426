//! The HTTP surface, by recorded requests and golden answers.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use nilometer_clock::SystemClock;
use nilometer_contract::{Change, Principal, ResourceKind};
use nilometer_http::Gate;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::cluster::{GIB, HOUR, Meters, at, event, node, vm};
use crate::service::Running;

/// Three workers known by name: calm, busy, and full by requests; a day of samples.
async fn cluster() -> Running {
    let (mut events, mut hosts) = (Vec::new(), Vec::new());
    for (id, name, cores) in
        [("id-1", "worker-calm", 0.5), ("id-2", "worker-busy", 3.4), ("id-3", "worker-full", 0.5)]
    {
        let mut host = node(id, 4, 8 * GIB);
        host.name = name.to_owned();
        events.push(event(Change::Created, at(0), host.clone()));
        hosts.push((host, cores));
    }
    let mut pod = vm("p-1", "id-3", 1, 7 * GIB + GIB / 2);
    pod.kind = ResourceKind::POD;
    events.push(event(Change::Created, at(0), pod));
    let mut batches = Vec::new();
    for (host, cores) in hosts {
        let mut meters = Meters::new();
        meters.set(&host, cores, GIB);
        for slot in 0..=288 {
            batches.push(meters.read(at(slot * 300)));
        }
    }
    Running::start(events, batches, at(24 * HOUR)).await
}

fn router(running: &Running) -> Router {
    let gate = Gate::trusting(Principal::operator("test"), Arc::new(SystemClock));
    running.scheduler.surface().router(gate)
}

async fn call(router: &Router, method: &str, uri: &str, body: String) -> (StatusCode, Value) {
    let request = Request::builder().method(method).uri(uri);
    let request = request.header("content-type", "application/json");
    let request = request.body(Body::from(body)).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let status = response.status();
    let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, serde_json::from_slice(&bytes).unwrap())
}

async fn check(router: &Router, uri: &str, request: &str, expected: &str) {
    let (status, answer) = call(router, "POST", uri, request.to_owned()).await;
    assert_eq!(status, StatusCode::OK);
    let expected: Value = serde_json::from_str(expected).unwrap();
    assert_eq!(answer, expected, "{uri}: {answer:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kube_scheduler_is_answered_in_its_own_words() {
    let running = cluster().await;
    let router = router(&running);
    let names = include_str!("../golden/names.request.json");
    let nodes = include_str!("../golden/nodes.request.json");
    let golden = include_str!("../golden/filter_names.response.json");
    check(&router, "/scheduler/filter", names, golden).await;
    let golden = include_str!("../golden/filter_nodes.response.json");
    check(&router, "/scheduler/filter", nodes, golden).await;
    let golden = include_str!("../golden/prioritize_names.response.json");
    check(&router, "/scheduler/prioritize", names, golden).await;
    let golden = include_str!("../golden/prioritize_nodes.response.json");
    check(&router, "/scheduler/prioritize", nodes, golden).await;

    let strange = r#"{"Pod":null,"Nodes":null,"NodeNames":["?"]}"#;
    check(&router, "/scheduler/prioritize", strange, r#"[{"Host":"?","Score":5}]"#).await;
    let (status, problem) = call(&router, "POST", "/scheduler/filter", "{".to_owned()).await;
    assert_eq!((status, &problem["status"]), (StatusCode::BAD_REQUEST, &json!(400)));
    assert_eq!(running.stop().await.len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_come_in_pages_and_placements_with_reasons() {
    let running = cluster().await;
    let router = router(&running);
    let (_, first) = call(&router, "GET", "/v1/nodes?limit=2", String::new()).await;
    assert_eq!(first["nodes"][0]["name"], "worker-calm");
    assert_eq!(first["nodes"][0]["allocatable"], json!({"cpus": 4.0, "memory_bytes": 8 * GIB}));
    assert_eq!(first["nodes"][0]["price_per_hour"], "4");
    let next = "/v1/nodes?limit=2&offset=2";
    let (_, second) = call(&router, "GET", next, String::new()).await;
    assert_eq!(second["nodes"][0]["id"], "id-3");
    assert_eq!(second["nodes"].as_array().unwrap().len(), 1);

    let body = json!({"workloads": [{"name": "w", "vcpus": 0.5, "memory_bytes": GIB}]});
    let (status, answer) = call(&router, "POST", "/v1/placements", body.to_string()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let placed = &answer["placements"][0];
    assert_eq!(placed["node"], "id-1");
    assert_eq!(placed["candidates"][2]["fits"], false, "{placed:#}");
    let (_, named) = call(
        &router,
        "POST",
        "/v1/placements",
        json!({
            "workloads": [{"name": "x", "vcpus": 0.5, "kind": "pod"}], "nodes": ["worker-busy"],
        })
        .to_string(),
    )
    .await;
    assert_eq!(named["placements"][0]["node"], "id-2");

    for (uri, body, expected, detail) in [
        ("/v1/placements", r#"{"workloads":[]}"#, 422, "1 to 256"),
        ("/v1/placements", r#"{"workloads":[{"name":"a"},{"name":"a"}]}"#, 422, "twice"),
        ("/v1/placements", r#"{"workloads":[{"name":"a","kind":"disk"}]}"#, 422, "use vm or pod"),
        ("/v1/placements", r#"{"workloads":[{"name":"a","vcpus":-1}]}"#, 422, "vcpus"),
        ("/v1/placements", r#"{"workload":[]}"#, 400, "unknown field"),
    ] {
        let (status, problem) = call(&router, "POST", uri, body.to_owned()).await;
        assert_eq!(status.as_u16(), expected, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(detail), "{problem}");
    }
    let (status, _) = call(&router, "GET", "/v1/nodes?limit=0", String::new()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let (_, plan) = call(&router, "GET", "/v1/plan", String::new()).await;
    assert_eq!(plan["dry_run"], true);
    let kinds: Vec<Value> = running.stop().await.iter().map(|record| json!(record.kind)).collect();
    assert_eq!(kinds, ["placement", "placement", "plan"]);
}
