//! What every route has in common: who may ask, what is refused and how, pages, formats, the
//! document, the audit.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode, header};
use nilometer_clock::Clock;
use nilometer_contract::{Principal, Role, Scope, Timestamp};
use nilometer_http::gate::{Audit, AuditRecord, Authenticator, Credentials, Denied, Rate, Secret};
use nilometer_http::{Gate, surface};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::estate::{Estate, Lie, small};

/// Whoever presents the name of a role has it; `late` cannot be found out.
struct ByRole;

#[async_trait]
impl Authenticator for ByRole {
    async fn authenticate(&self, credentials: &Credentials) -> Result<Principal, Denied> {
        match credentials.bearer.as_ref().map(Secret::expose) {
            None => Err(Denied::Unknown),
            Some("late") => Err(Denied::Unavailable("the accounts are away".into())),
            Some(text) => {
                let wrong = |_| Denied::Invalid("the key is not valid".to_owned());
                let role: Role = text.parse().map_err(wrong)?;
                let scope = match role {
                    Role::Operator | Role::Scheduler => Scope::system(),
                    _ => Scope::projects([]),
                };
                let name = format!("user:{role}").into();
                Ok(Principal { name, role, account: Some("acme".into()), scope })
            }
        }
    }
}

/// A clock that stands still until it is set.
#[derive(Default)]
struct Still(Mutex<Duration>);

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(1_793_577_600)
    }

    fn steady(&self) -> Duration {
        *self.0.lock().unwrap()
    }
}

#[derive(Default)]
struct Kept(Mutex<Vec<AuditRecord>>);

impl Audit for Kept {
    fn record(&self, record: AuditRecord) {
        self.0.lock().unwrap().push(record);
    }
}

struct Site {
    routes: Router,
    clock: Arc<Still>,
    audit: Arc<Kept>,
    _estate: Estate,
}

async fn site(rate: Rate) -> Site {
    let estate = small(Lie::InMemory).await;
    let (clock, audit) = (Arc::new(Still::default()), Arc::new(Kept::default()));
    let gate = Gate::new(vec![Arc::new(ByRole)], rate, audit.clone(), clock.clone());
    Site { routes: surface(&estate.engine).router(gate), clock, audit, _estate: estate }
}

fn request(method: Method, path: &str, key: &str) -> Request<Body> {
    let request = Request::builder().method(method.clone()).uri(path);
    let request = match key {
        "" => request,
        key => request.header(header::AUTHORIZATION, format!("Bearer {key}")),
    };
    match method {
        Method::POST => request
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(r#"{"query":"SELECT 1 AS one"}"#))
            .unwrap(),
        _ => request.body(Body::empty()).unwrap(),
    }
}

impl Site {
    async fn ask(&self, request: Request<Body>) -> (StatusCode, axum::http::HeaderMap, Value) {
        let response = self.routes.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let bytes = to_bytes(body, 1 << 20).await.unwrap();
        let kind = head.headers.get(header::CONTENT_TYPE).map(|it| it.to_str().unwrap().to_owned());
        let value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        if !head.status.is_success() && !bytes.is_empty() {
            assert_eq!(kind.as_deref(), Some("application/problem+json"));
            assert_eq!(value["status"], head.status.as_u16());
            for field in ["type", "title", "detail"] {
                assert!(!value[field].as_str().unwrap().is_empty(), "{value}");
            }
        }
        (head.status, head.headers, value)
    }

    async fn status(&self, request: Request<Body>) -> u16 {
        self.ask(request).await.0.as_u16()
    }
}

const WINDOW: &str = "start=2026-11-02T00:00:00Z&end=2026-11-02T01:00:00Z";

#[tokio::test(flavor = "multi_thread")]
async fn each_role_may_ask_what_its_routes_say() {
    let site = site(Rate::UNLIMITED).await;
    let (usage, nodes) =
        (format!("/v1/usage?{WINDOW}"), format!("/v1/conservation?{WINDOW}&meter=cpu.time"));
    let asked = [
        (Method::POST, "/v1/sql"),
        (Method::GET, "/v1/tables"),
        (Method::GET, &usage),
        (Method::GET, &nodes),
        (Method::GET, "/v1/openapi.json"),
    ];
    for (role, statuses) in [
        (Role::Operator, [200, 200, 200, 200, 200]),
        (Role::AccountAdministrator, [200, 200, 200, 403, 200]),
        (Role::Viewer, [200, 200, 200, 403, 200]),
        (Role::Agent, [403, 403, 403, 403, 200]),
        (Role::Scheduler, [403, 403, 403, 403, 200]),
    ] {
        for ((method, path), expected) in asked.iter().zip(statuses) {
            let status = site.status(request(method.clone(), path, role.as_str())).await;
            assert_eq!(status, expected, "{role}: {method} {path}");
        }
    }
    for (method, path) in asked.iter().chain(&[(Method::GET, "/no/such/path")]) {
        let (status, headers, _) = site.ask(request(method.clone(), path, "")).await;
        assert!(status == StatusCode::UNAUTHORIZED, "{path}");
        assert!(headers[header::WWW_AUTHENTICATE].to_str().unwrap().starts_with("Bearer"));
        assert_eq!(site.status(request(method.clone(), path, "guess")).await, 401, "{path}");
        assert_eq!(site.status(request(method.clone(), path, "late")).await, 503, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_document_does_not_have_is_refused() {
    let site = site(Rate::UNLIMITED).await;
    let get = |path: &str| request(Method::GET, path, "operator");
    for (path, status, about) in [
        ("/v1/usage", 400, "start"),
        ("/v1/usage?start=yesterday&end=2026-11-02T01:00:00Z", 400, "start"),
        ("/v1/usage?start=2026-11-02T02:00:00Z&end=2026-11-02T01:00:00Z", 422, "end"),
        (&format!("/v1/usage?{WINDOW}&metre=x"), 400, "metre"),
        (&format!("/v1/usage?{WINDOW}&limit=0"), 400, "limit"),
        (&format!("/v1/usage?{WINDOW}&limit=10001"), 400, "limit"),
        (&format!("/v1/usage?{WINDOW}&offset=-1"), 400, "offset"),
        (&format!("/v1/usage?{WINDOW}&offset=+1"), 400, "offset"),
        (&format!("/v1/usage?{WINDOW}&kind=vn"), 422, "kind"),
        (&format!("/v1/usage?{WINDOW}&meter=a&meter=b"), 400, "meter"),
        (&format!("/v1/usage?{WINDOW}&meter={}", "m".repeat(600)), 400, "meter"),
        ("/v1/tables?x=1", 400, "x"),
    ] {
        let (found, _, problem) = site.ask(get(path)).await;
        assert_eq!((found.as_u16(), &problem["parameter"]), (status, &json!(about)), "{problem}");
    }
    let (status, _, problem) = site.ask(get("/v1/nothing")).await;
    assert!(status == StatusCode::NOT_FOUND);
    assert!(problem["detail"].as_str().unwrap().contains("POST /v1/sql"), "{problem}");
    for (method, path, allow) in [
        (Method::DELETE, "/v1/sql", "POST"),
        (Method::POST, "/v1/tables", "GET, HEAD"),
        (Method::OPTIONS, "/v1/usage", "GET, HEAD"),
    ] {
        let (status, headers, _) = site.ask(request(method, path, "operator")).await;
        assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(headers[header::ALLOW], allow);
    }
    let head = site.ask(request(Method::HEAD, "/v1/tables", "operator")).await;
    assert_eq!((head.0, head.2), (StatusCode::OK, Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_and_formats_are_checked_alike() {
    let site = site(Rate::UNLIMITED).await;
    let post = |kind: &str, accept: &str, body: String| {
        Request::post("/v1/sql")
            .header(header::AUTHORIZATION, "Bearer operator")
            .header(header::CONTENT_TYPE, kind)
            .header(header::ACCEPT, accept)
            .body(Body::from(body))
            .unwrap()
    };
    let nested = || json!({ "query": "SELECT array_agg(1) AS list" }).to_string();
    let good = || json!({ "query": "SELECT 1 AS one" }).to_string();
    let long = json!({ "query": "x".repeat(2 << 20) }).to_string();
    for (kind, accept, body, status) in [
        ("application/json", "*/*", good(), 200),
        ("Application/JSON; charset=utf-8", "text/csv", good(), 200),
        ("application/json", "application/json", nested(), 200),
        ("application/json", "text/csv", nested(), 406),
        ("text/plain", "*/*", good(), 415),
        ("application/json", "image/png", good(), 406),
        ("application/json", "*/*", "{".to_owned(), 400),
        ("application/json", "*/*", r#"["SELECT 1"]"#.to_owned(), 400),
        ("application/json", "*/*", r#"{"query":1}"#.to_owned(), 400),
        ("application/json", "*/*", r#"{"query":"SELECT 1","x":1}"#.to_owned(), 400),
        ("application/json", "*/*", "\u{0}".to_owned(), 400),
        ("application/json", "*/*", long, 413),
    ] {
        assert_eq!(site.status(post(kind, accept, body)).await, status, "{kind} {accept}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_lead_to_the_next() {
    let site = site(Rate::UNLIMITED).await;
    let mut path = Some(format!("/v1/usage?{WINDOW}&limit=2&kind=vm"));
    let (mut rows, mut total) = (0, None);
    while let Some(at) = path.take() {
        let (status, headers, page) = site.ask(request(Method::GET, &at, "operator")).await;
        assert_eq!(status, StatusCode::OK);
        rows += page.as_array().unwrap().len();
        total = Some(headers["x-total-rows"].to_str().unwrap().parse::<usize>().unwrap());
        if let Some(link) = headers.get(header::LINK) {
            let link = link.to_str().unwrap();
            let next = link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap();
            path = Some(next.to_owned());
        }
    }
    assert!(rows > 2 && total == Some(rows), "{rows} of {total:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_has_every_route() {
    let site = site(Rate::UNLIMITED).await;
    let (_, _, document) = site.ask(request(Method::GET, "/v1/openapi.json", "viewer")).await;
    assert_eq!(document["openapi"], "3.1.0");
    let sql = &document["paths"]["/v1/sql"]["post"];
    assert_eq!(sql["requestBody"]["content"]["application/json"]["schema"]["required"][0], "query");
    assert!(sql["responses"]["200"]["content"]["text/csv"].is_object());
    let usage = document["paths"]["/v1/usage"]["get"]["parameters"].as_array().unwrap();
    let names: Vec<&str> = usage.iter().map(|it| it["name"].as_str().unwrap()).collect();
    let expected = ["start", "end", "project", "resource", "meter", "kind", "limit", "offset"];
    assert_eq!(names, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_too_often_waits() {
    let site = site(Rate { per_second: 0.5, burst: 3.0 }).await;
    let ask = async |key: &str| site.ask(request(Method::GET, "/v1/tables", key)).await;
    for _ in 0..3 {
        assert_eq!(ask("operator").await.0, StatusCode::OK);
    }
    let (status, headers, _) = ask("operator").await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(headers[header::RETRY_AFTER], "2");
    assert_eq!(ask("viewer").await.0, StatusCode::OK, "another principal has its own");
    for _ in 0..3 {
        assert_eq!(ask("guess").await.0, StatusCode::UNAUTHORIZED);
    }
    assert_eq!(ask("other guess").await.0, StatusCode::TOO_MANY_REQUESTS);
    *site.clock.0.lock().unwrap() = Duration::from_secs(2);
    assert_eq!(ask("operator").await.0, StatusCode::OK);
    assert_eq!(ask("operator").await.0, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_leaves_a_record_without_secrets() {
    let site = site(Rate::UNLIMITED).await;
    for request in [
        request(Method::POST, "/v1/sql", "operator"),
        request(Method::GET, &format!("/v1/usage?{WINDOW}&meter=cpu.time"), "viewer"),
        request(Method::GET, "/v1/conservation", "viewer"),
        request(Method::GET, "/v1/tables", "s3cret-guess"),
    ] {
        site.ask(request).await;
    }
    let records = std::mem::take(&mut *site.audit.0.lock().unwrap());
    let told: Vec<(&str, &str, &str, u16, u64)> = records
        .iter()
        .map(|it| (&*it.principal, &*it.route, &*it.query, it.status, it.rows))
        .collect();
    let usage = "end=2026-11-02T01:00:00Z meter=cpu.time start=2026-11-02T00:00:00Z";
    assert_eq!(
        told,
        [
            ("user:operator", "POST /v1/sql", "SELECT 1 AS one", 200, 1),
            ("user:viewer", "GET /v1/usage", usage, 200, records[1].rows),
            ("user:viewer", "GET /v1/conservation", "", 403, 0),
            ("", "GET /v1/tables", "", 401, 0),
        ]
    );
    assert_eq!((&*records[1].role, &*records[1].account), ("viewer", "acme"));
    assert!(!format!("{records:?}").contains("s3cret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_nobody_took_is_recorded_as_such() {
    let site = site(Rate::UNLIMITED).await;
    let request = request(Method::POST, "/v1/sql", "operator");
    drop(site.routes.clone().oneshot(request).await.unwrap());
    let records = site.audit.0.lock().unwrap();
    assert_eq!((records[0].status, &*records[0].failure), (200, "the client went away"));
}
