//! The HTTP surface: forms of answers, and problems that say what to do.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use nilometer_clock::SystemClock;
use nilometer_contract::Principal;
use nilometer_http::Gate;
use nilometer_rating::PriceBook;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::bed::{Bed, Site, hour};
use crate::bills::projects;
use crate::script::{MINUTE, counts, fleet, lively};

const DAY: &str = "start=2026-11-02T00:00:00Z&end=2026-11-02T02:00:00Z";

async fn get(site: &Site, path: &str, accept: &str) -> (StatusCode, String) {
    let request = Request::get(path).header("accept", accept).body(Body::empty()).unwrap();
    answer(site, request).await
}

async fn answer(site: &Site, request: Request<Body>) -> (StatusCode, String) {
    let response = router(site).oneshot(request).await.unwrap();
    let status = response.status();
    let bytes = to_bytes(response.into_body(), 16 << 20).await.unwrap();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

fn router(site: &Site) -> Router {
    let gate = Gate::trusting(Principal::operator("test"), Arc::new(SystemClock));
    site.ledger.surface().router(gate)
}

async fn issue(site: &Site, body: &Value) -> (StatusCode, String) {
    let request = Request::post("/v1/invoices")
        .header("content-type", "application/json")
        .body(Body::from(body.to_string()))
        .unwrap();
    answer(site, request).await
}

fn problem((status, body): (StatusCode, String)) -> (u16, String) {
    let problem: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{body}"));
    assert_eq!(problem["status"], status.as_u16());
    (status.as_u16(), problem["detail"].as_str().unwrap().to_owned())
}

async fn site(bed: &Bed) -> Site {
    let records = fleet(&lively(61), hour(3).plus_micros(10 * MINUTE));
    let (samples, events) = counts(&records);
    bed.append(&records).await;
    let site = bed.start(&PriceBook::built_in()).await;
    site.holds(samples, events).await;
    site
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bill_by_http_from_draft_to_explanation() {
    let bed = Bed::new();
    let site = site(&bed).await;
    let project = projects(&site).pop().unwrap();
    let path = format!("/v1/charges?{DAY}&project={project}&limit=5");
    let (status, charges) = get(&site, &path, "application/json").await;
    let charges: Vec<Value> = serde_json::from_str(&charges).unwrap();
    assert_eq!((status, charges.len()), (StatusCode::OK, 5));
    assert!(charges.iter().all(|charge| charge["project"] == project.as_str()), "{charges:?}");
    let (_, table) = get(&site, &path, "text/plain").await;
    assert!(table.starts_with("+--") && table.contains("price_entry"), "{table}");
    let bill = format!("/v1/invoices?{DAY}&project={project}");
    let (_, draft) = get(&site, &bill, "text/plain").await;
    assert!(draft.contains("(draft, may still change)") && draft.contains("Total EUR"), "{draft}");
    let (_, csv) = get(&site, &bill, "text/csv").await;
    assert!(csv.starts_with("id,project,start"), "{csv}");
    let (_, none) = get(&site, "/v1/invoices", "text/plain").await;
    assert!(none.starts_with("No invoice was issued"), "{none}");

    let body = json!({
        "project": project, "start": "2026-11-02T00:00:00Z", "end": "2026-11-02T02:00:00Z",
    });
    let (status, issued) = issue(&site, &body).await;
    assert_eq!(status, StatusCode::CREATED, "{issued}");
    assert_eq!(issue(&site, &body).await, (status, issued.clone()));
    let invoice: Value = serde_json::from_str(&issued).unwrap();
    let id = invoice["id"].as_str().unwrap();
    let by_id = get(&site, &format!("/v1/invoices/{id}"), "application/json").await;
    assert_eq!(by_id, (StatusCode::OK, issued.clone()));
    assert_eq!(get(&site, &bill, "*/*").await.1, issued, "the bill of that period is issued");
    let (_, list) = get(&site, "/v1/invoices", "text/plain").await;
    assert!(list.lines().count() == 2 && list.contains(id), "{list}");
    let line = invoice["lines"][0]["id"].as_str().unwrap();
    let (status, text) = get(&site, &format!("/v1/explain/{line}"), "text/plain").await;
    assert_eq!(status, StatusCode::OK, "{text}");
    assert!(text.contains("1. Charges of the line"), "{text}");
    let (_, explained) = get(&site, &format!("/v1/explain/{line}"), "application/json").await;
    let explained: Value = serde_json::from_str(&explained).unwrap();
    assert!(explained["steps"].as_array().unwrap().len() >= 4);
    let (_, book) = get(&site, "/v1/price-book", "text/plain").await;
    assert!(PriceBook::parse(&book).is_ok());
    site.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn problems_say_what_to_do() {
    let bed = Bed::new();
    let site = site(&bed).await;
    for (path, status, hint) in [
        ("/v1/charges?start=2026-11-02", 400, "end"),
        ("/v1/charges?start=2026-11-02&end=2026-11-03&metre=x", 400, "metre"),
        ("/v1/charges?start=2026-11-02&end=2026-11-03&meter=cpu.tiem", 422, "it prices"),
        ("/v1/charges?start=2026-11-02&end=tomorrow", 400, "such as 2026-11"),
        ("/v1/charges?start=2026-11-02&end=2026-11-31", 422, "a day like 2026-11-01"),
        ("/v1/charges?start=2026-11-02&end=2026-11-03&kind=vn", 422, "vn"),
        ("/v1/invoices?project=p&start=2026-11-02", 422, "project, start and end"),
        ("/v1/invoices?project=p&start=2026-11-02&end=2026-11-03&tz=Mars", 422, "time zone"),
        ("/v1/invoices?project=p&start=2026-11-02&end=2026-11-03&detail=x", 400, "resources"),
        ("/v1/invoices/INV-0", 404, "GET /v1/invoices lists"),
        ("/v1/explain/L-0", 404, "give project, start and end"),
    ] {
        let (found, detail) = problem(get(&site, path, "text/plain").await);
        assert_eq!(found, status, "{path}: {detail}");
        assert!(detail.contains(hint), "{path}: {detail}");
    }
    let early = json!({ "project": "p", "start": "2026-11-02", "end": "2026-11-03" });
    let (status, detail) = problem(issue(&site, &early).await);
    assert!(status == 409 && detail.contains("issue again after that"), "{detail}");
    let (status, _) = problem(issue(&site, &json!({ "project": "p" })).await);
    assert_eq!(status, 400);
    site.stop().await;
}
