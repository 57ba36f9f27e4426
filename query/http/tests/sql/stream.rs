//! Answers are sent while they are computed, and one that breaks off does not look whole.

use std::sync::atomic::Ordering;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use futures::StreamExt;
use nilometer_engine::Limits;
use serde_json::json;
use tower::ServiceExt;

use crate::estate::router;
use crate::limits::{stops, with};

const FORMATS: [&str; 4] =
    ["application/json", "text/csv", "application/vnd.apache.arrow.stream", "text/plain"];

async fn ask(routes: &Router, accept: &str, query: &str) -> (StatusCode, Body) {
    let request = Request::post("/v1/sql")
        .header(header::ACCEPT, accept)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(json!({ "query": query }).to_string()))
        .unwrap();
    let response = routes.clone().oneshot(request).await.unwrap();
    (response.status(), response.into_body())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_computed_than_is_taken() {
    let (estate, taken) = with(Limits { rows: usize::MAX, ..Limits::default() }).await;
    let routes = router(&estate.engine);
    for format in FORMATS {
        let before = taken.load(Ordering::Relaxed);
        let (status, body) = ask(&routes, format, "SELECT n FROM endless").await;
        assert_eq!(status, StatusCode::OK);
        let mut parts = body.into_data_stream();
        for _ in 0..8 {
            parts.next().await.unwrap().unwrap();
        }
        // The client takes nothing, and the work waits for it; then the client is gone.
        stops(&taken).await;
        drop(parts);
        stops(&taken).await;
        let rows = 100 * (taken.load(Ordering::Relaxed) - before);
        assert!(rows < 1_000_000, "{format}: {rows} rows for eight parts of 64 KiB");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_off_is_an_error() {
    let (estate, _) = with(Limits { rows: 100_000, ..Limits::default() }).await;
    let routes = router(&estate.engine);
    for format in FORMATS {
        let (status, body) = ask(&routes, format, "SELECT n FROM endless").await;
        assert_eq!(status, StatusCode::OK);
        let parts: Vec<_> = body.into_data_stream().collect().await;
        let (last, parts) = parts.split_last().unwrap();
        assert!(last.is_err() && parts.len() > 1 && parts.iter().all(Result::is_ok), "{format}");
    }
    // What fails before anything was sent has a status of its own.
    let query = "SELECT repeat('x', 1000) FROM endless LIMIT 5";
    let (status, body) = ask(&routes, "text/csv", query).await;
    let parts: Vec<_> = body.into_data_stream().collect().await;
    assert!(status == StatusCode::OK && parts.iter().all(Result::is_ok));
    let query = "SELECT 1 / (n - n) FROM endless";
    let (status, _) = ask(&routes, "text/csv", query).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
}
