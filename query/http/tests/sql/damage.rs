//! Damaged files: no answer has a value that was not stored.

use std::path::PathBuf;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, header};
use nilometer_contract::{BatchBuilder, Resource, ResourceKind, Scope, Timestamp};
use nilometer_engine::Limits;
use nilometer_http::MISSING_ROWS;
use nilometer_ingest::EVENTS;
use nilometer_store::SAMPLES;
use tower::ServiceExt;

use crate::estate::{Estate, Lie, T0, router, small};

/// The next of a row of numbers that look random.
fn next(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    *seed >> 16
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_is_in_no_answer() {
    let estate = small(Lie::InFiles).await;
    let mut table = estate.storage.table(&SAMPLES).await.unwrap();
    let folder = estate.folder.path().join("tables/samples");
    let files: Vec<PathBuf> = table.files().iter().map(|file| folder.join(&file.path)).collect();
    let questions = [
        "SELECT * FROM samples ORDER BY at, meter, resource",
        "SELECT sum(value) FROM samples WHERE resource = 'vm-a' AND meter = 'cpu.time'",
        "SELECT resource, meter, quantity FROM usage ORDER BY start, resource, meter",
    ];
    let mut good = Vec::new();
    for sql in questions {
        good.push(estate.ask(sql).await.unwrap());
    }
    let (mut seed, mut failed) = (11, 0);
    for turn in 0..120 {
        let file = &files[turn % files.len()];
        let before = std::fs::read(file).unwrap();
        let mut bytes = before.clone();
        let at = next(&mut seed) as usize % bytes.len();
        bytes[at] ^= 1 << (next(&mut seed) % 8);
        std::fs::write(file, bytes).unwrap();
        // What was read before is kept in memory, so each time another process asks.
        let engine = estate.engine_over(estate.engine.tables().clone());
        for (sql, good) in questions.iter().zip(&good) {
            match estate.ask_of(&engine, sql).await {
                Ok(answer) => assert_eq!(&answer, good, "{sql}: byte {at} of {file:?}"),
                Err(error) => {
                    let why = format!("{error:?}");
                    assert!(why.contains("damaged") && why.contains("repair"), "{why}");
                    failed += 1;
                }
            }
        }
        // Maintenance in the same process finds out.
        let suspects = table.damaged().await.unwrap();
        assert_eq!(suspects.len(), usize::from(failed > 0));
        std::fs::write(file, before).unwrap();
    }
    assert!(failed > 100, "{failed}");
}

async fn lacks(routes: &Router, request: Request<Body>) -> Option<String> {
    let answer = routes.clone().oneshot(request).await.unwrap();
    assert!(answer.status().is_success());
    let missing = answer.headers().get(MISSING_ROWS)?;
    Some(missing.to_str().unwrap().to_owned())
}

async fn sql_lacks(routes: &Router, sql: &str) -> Option<String> {
    let request = Request::post("/v1/sql").header(header::CONTENT_TYPE, "application/json");
    let body = serde_json::json!({ "query": sql }).to_string();
    lacks(routes, request.body(Body::from(body)).unwrap()).await
}

async fn get_lacks(routes: &Router, path: &str) -> Option<String> {
    lacks(routes, Request::get(path).body(Body::empty()).unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_need_a_file_set_aside_say_so() {
    let estate = small(Lie::InFiles).await;
    let mut table = estate.storage.table(&SAMPLES).await.unwrap();
    let first_day = table.files()[0].clone();
    assert_eq!(first_day.partition.as_deref(), Some("2026-11-02"));
    table.set_aside(&first_day).await.unwrap();
    let routes = router(&estate.engine_over(estate.follower().await.tables()));
    let said = Some("11 rows of samples from 2026-11-02T00:00:00Z to 2026-11-02T00:20:00Z");
    for sql in [
        "SELECT count(*) FROM samples",
        "SELECT * FROM samples WHERE at >= '2026-11-02T00:20:00Z'",
        "SELECT r.name FROM resources r JOIN samples s ON s.resource = r.resource",
        "SELECT sum(quantity) FROM usage WHERE start >= '2026-11-02T00:00:00Z'",
    ] {
        assert_eq!(sql_lacks(&routes, sql).await.as_deref(), said, "{sql}");
    }
    for sql in [
        "SELECT * FROM samples WHERE at > '2026-11-02T00:20:01Z'",
        "SELECT * FROM samples WHERE at >= '2026-11-03T00:00:00Z'",
        "SELECT * FROM resources",
        "SELECT * FROM gaps",
        "SELECT sum(quantity) FROM usage WHERE start >= '2026-11-02T22:00:00Z'",
    ] {
        assert_eq!(sql_lacks(&routes, sql).await, None, "{sql}");
    }
    for path in ["usage", "conservation"] {
        let of = |start: &str, end: &str| {
            format!("/v1/{path}?start={start}T00:00:00Z&end={end}T00:00:00Z&meter=cpu.time")
        };
        let asked = of("2026-11-02", "2026-11-03");
        assert_eq!(get_lacks(&routes, &asked).await.as_deref(), said, "{asked}");
        let asked = of("2026-11-03", "2026-11-04");
        assert_eq!(get_lacks(&routes, &asked).await, None, "{asked}");
    }
    // Of lifetimes all that follows rests on what is missing.
    let mut events = estate.storage.table(&EVENTS).await.unwrap();
    let file = events.files()[0].clone();
    events.set_aside(&file).await.unwrap();
    let routes = router(&estate.engine_over(estate.follower().await.tables()));
    let said = sql_lacks(&routes, "SELECT * FROM resources").await.unwrap();
    assert!(said.contains("5 rows of events from 2026-11-02T00:00:00Z"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_whose_labels_are_lost_are_left_out() {
    let mut estate = Estate::new(Limits::default()).await;
    let mut samples = BatchBuilder::new("test");
    let subject = samples.subject(&Resource::new("vm", ResourceKind::VM));
    samples.push_named(subject, "cpu.time", Timestamp::from_seconds(T0), 1.0);
    estate.samples(samples).await;
    estate.settle(Lie::InFiles).await;
    let folder = estate.folder.path().join("tables/series");
    for file in std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()) {
        if file.extension().is_some_and(|ending| ending == "parquet") {
            std::fs::write(file, "no Parquet").unwrap();
        }
    }
    let engine = estate.engine_over(estate.follower().await.tables());
    let answer = engine.query(&Scope::system(), "SELECT meter, value FROM samples").await.unwrap();
    assert_eq!(answer.batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 0);
}
