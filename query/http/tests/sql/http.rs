//! The same over HTTP: forms, problems, and the tables as documentation.

use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, Response, StatusCode, header};
use nilometer_contract::Scope;
use nilometer_engine::Limits;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::estate::{Estate, Lie, router, small};

async fn sql(routes: &Router, accept: &str, query: &str) -> Response<Body> {
    let request = Request::post("/v1/sql")
        .header(header::ACCEPT, accept)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(json!({ "query": query }).to_string()))
        .unwrap();
    routes.clone().oneshot(request).await.unwrap()
}

async fn get(routes: &Router, path: &str) -> Response<Body> {
    routes.clone().oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap()
}

fn kind(response: &Response<Body>) -> &str {
    response.headers()[header::CONTENT_TYPE].to_str().unwrap()
}

async fn bytes(response: Response<Body>) -> Vec<u8> {
    to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec()
}

async fn value(response: Response<Body>) -> Value {
    serde_json::from_slice(&bytes(response).await).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_chooses_the_form() {
    let estate = small(Lie::InFiles).await;
    let routes = router(&estate.engine);
    let query = "SELECT at, resource, value, CASE WHEN value > 40 THEN 1 END AS high FROM samples \
                 WHERE resource = 'vm-b' AND meter = 'cpu.time' AND value > 0 ORDER BY at";
    for accept in ["", "*/*", "application/json", "text/html, application/json;q=0.9"] {
        let told = sql(&routes, accept, query).await;
        assert_eq!((told.status(), kind(&told)), (StatusCode::OK, "application/json"));
        let expected = json!([
            {"at": "2026-11-02T00:10:00Z", "resource": "vm-b", "value": 30.0, "high": null},
            {"at": "2026-11-02T00:20:00Z", "resource": "vm-b", "value": 45.5, "high": 1},
        ]);
        assert_eq!(value(told).await, expected);
    }
    let told = sql(&routes, "text/csv", query).await;
    assert_eq!(kind(&told), "text/csv; charset=utf-8");
    let text = String::from_utf8(bytes(told).await).unwrap();
    let lines = [
        "at,resource,value,high",
        "2026-11-02T00:10:00Z,vm-b,30.0,",
        "2026-11-02T00:20:00Z,vm-b,45.5,1",
    ];
    assert_eq!(text.lines().collect::<Vec<_>>(), lines);
    let told = sql(&routes, "application/vnd.apache.arrow.stream", query).await;
    assert_eq!(kind(&told), "application/vnd.apache.arrow.stream");
    let bytes = bytes(told).await;
    let reader = arrow::ipc::reader::StreamReader::try_new(bytes.as_slice(), None).unwrap();
    let rows: usize = reader.map(|batch| batch.unwrap().num_rows()).sum();
    assert_eq!(rows, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_has_a_form_too() {
    let estate = small(Lie::InMemory).await;
    let routes = router(&estate.engine);
    let query = "SELECT at, value FROM samples WHERE resource = 'nobody'";
    assert_eq!(value(sql(&routes, "application/json", query).await).await, json!([]));
    assert_eq!(bytes(sql(&routes, "text/csv", query).await).await, b"at,value\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn problems_say_what_and_where() {
    let estate = small(Lie::InFiles).await;
    let routes = router(&estate.engine);
    let told = sql(&routes, "text/csv", "SELECT at,\n  nothing FROM samples").await;
    assert_eq!(
        (told.status(), kind(&told)),
        (StatusCode::UNPROCESSABLE_ENTITY, "application/problem+json")
    );
    let problem = value(told).await;
    assert_eq!((&problem["line"], &problem["column"]), (&json!(2), &json!(3)));
    assert!(problem["detail"].as_str().unwrap().contains("nothing"), "{problem}");
    let told = value(sql(&routes, "", "DROP TABLE samples").await).await;
    assert_eq!((&told["status"], &told["title"]), (&json!(422), &json!("query refused")));
    let request = Request::post("/v1/sql").body(Body::from("SELECT 1")).unwrap();
    let told = routes.clone().oneshot(request).await.unwrap();
    let unsupported = (StatusCode::UNSUPPORTED_MEDIA_TYPE, "application/problem+json");
    assert_eq!((told.status(), kind(&told)), unsupported);
    for path in ["/v1/usage", "/v1/usage?start=x&end=y", "/v1/conservation?node=n1"] {
        let told = get(&routes, path).await;
        assert_eq!(
            (told.status(), kind(&told)),
            (StatusCode::BAD_REQUEST, "application/problem+json")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bounds_are_problems_of_their_own() {
    let limits = Limits { rows: 1, time: Duration::from_millis(300), ..Limits::default() };
    let estate = Estate::new(limits).await;
    let routes = router(&estate.engine);
    let told = sql(&routes, "", "SELECT * FROM generate_series(1, 9)").await;
    assert_eq!(told.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let endless = "SELECT count(*) FROM generate_series(1, 9000000000000) WHERE random() > 2";
    let told = sql(&routes, "", endless).await;
    assert_eq!(told.status(), StatusCode::REQUEST_TIMEOUT);
    assert!(value(told).await["detail"].as_str().unwrap().contains("300ms"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_table_is_documented() {
    let estate = small(Lie::InFiles).await;
    let routes = router(&estate.engine);
    let told = value(get(&routes, "/v1/tables").await).await;
    let tables = told["tables"].as_array().unwrap();
    let names: Vec<&str> = tables.iter().map(|table| table["name"].as_str().unwrap()).collect();
    for name in
        ["samples", "resources", "events", "usage", "decisions", "audit", "gaps", "dead_letters"]
    {
        assert!(names.contains(&name), "{name}");
    }
    for table in tables {
        assert!(!table["description"].as_str().unwrap().is_empty());
        for column in table["columns"].as_array().unwrap() {
            for of in ["name", "type", "description"] {
                assert!(!column[of].as_str().unwrap().is_empty(), "{column} of {}", table["name"]);
            }
        }
    }
    // What is documented is what is answered.
    for name in ["samples", "resources", "events", "gaps", "dead_letters", "decisions", "audit"] {
        let table = tables.iter().find(|table| table["name"] == name).unwrap();
        let columns = table["columns"].as_array().unwrap().iter();
        let documented: Vec<&str> = columns.map(|it| it["name"].as_str().unwrap()).collect();
        let rows =
            estate.engine.query(&Scope::system(), &format!("SELECT * FROM {name}")).await.unwrap();
        let fields = rows.schema.fields().iter();
        assert_eq!(documented, fields.map(|field| field.name()).collect::<Vec<_>>(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_comes_in_pages() {
    let estate = small(Lie::InFiles).await;
    let routes = router(&estate.engine);
    let window = "/v1/usage?start=2026-11-02T00:00:00Z&end=2026-11-02T01:00:00Z";
    let all = get(&routes, window).await;
    let total: usize = all.headers()["x-total-rows"].to_str().unwrap().parse().unwrap();
    let all = value(all).await;
    assert_eq!(all.as_array().unwrap().len(), total);
    let page = value(get(&routes, &format!("{window}&offset=1&limit=2")).await).await;
    assert_eq!(page.as_array().unwrap(), &all.as_array().unwrap()[1..3]);
    let red =
        value(get(&routes, &format!("{window}&project=red&meter=cpu.time&kind=vm")).await).await;
    assert_eq!(red[0]["resource"], "vm-b");
    assert_eq!(red.as_array().unwrap().len(), 1);
    let hours = get(
        &routes,
        "/v1/conservation?start=2026-11-02T00:00:00Z&end=2026-11-02T01:00:00Z&meter=cpu.time&node=n1",
    );
    let hours = value(hours.await).await;
    assert_eq!(hours[0]["node"], "n1");
}
