//! The query half of the HTTP API.
//!
//! `POST /v1/sql`, `GET /v1/tables`, `GET /v1/usage`, `GET /v1/conservation`.

use axum::Router;
use axum::extract::{Query, State, rejection::JsonRejection, rejection::QueryRejection};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, extract::DefaultBodyLimit};
use nilometer_contract::Timestamp;
use nilometer_engine::{
    Engine, QueryError, Rows, Selection, USAGE_SCHEMA, days, kinds_schema, meters_schema,
    resources_schema, samples_schema, usage_batch,
};
use nilometer_store::STORED;
use nilometer_usage::{UsageRow, Window};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::missing::say_missing;
use crate::output::{Format, render};
use crate::problem::Problem;

const MAX_QUERY_BYTES: usize = 1 << 20;

/// The routes.
pub fn router(engine: Engine) -> Router {
    Router::new()
        .route("/v1/sql", post(sql))
        .route("/v1/tables", get(tables))
        .route("/v1/usage", get(usage))
        .route("/v1/conservation", get(conservation))
        .layer(DefaultBodyLimit::max(MAX_QUERY_BYTES))
        .with_state(engine)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SqlRequest {
    query: String,
}

async fn sql(
    State(engine): State<Engine>,
    headers: HeaderMap,
    body: Result<Json<SqlRequest>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(request) = body.map_err(|error| Problem::bad_request(error.body_text()))?;
    let rows = engine.query(&request.query).await?;
    respond(&rows, &headers)
}

/// Rows in the form that the client accepts.
fn respond(rows: &Rows, headers: &HeaderMap) -> Result<Response, Problem> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let format = Format::of_accept(accept.unwrap_or(""));
    let bytes = render(rows, format).map_err(|error| Problem::internal(&error))?;
    let mut response = ([(header::CONTENT_TYPE, format.content_type())], bytes).into_response();
    say_missing(response.headers_mut(), &rows.missing);
    Ok(response)
}

async fn tables(State(engine): State<Engine>) -> Json<Value> {
    let view = engine.tables().now();
    let stored =
        STORED.iter().filter(|def| !["samples", "series"].contains(&def.name)).map(|def| {
            let columns = def.columns.iter().map(|column| {
                json!({
                    "name": column.name, "type": column.kind.as_str(),
                    "unit": column.unit, "description": column.doc,
                })
            });
            let rows = view.tables.get(def.name).map(|table| {
                let files = table.files.rows();
                files + table.memory.iter().map(|batch| batch.num_rows() as u64).sum::<u64>()
            });
            json!({
                "name": def.name, "description": def.doc, "rows": rows,
                "retention_days": def.retention_days, "columns": columns.collect::<Vec<_>>(),
            })
        });
    let logical = [
        described(
            "samples",
            "Observations: what a meter read on a resource at an instant.",
            &samples_schema(),
            &SAMPLES_COLUMNS,
        ),
        described(
            "resources",
            "Each state of each resource over [start, end), from the lifecycle events.",
            &resources_schema(),
            &RESOURCES_COLUMNS,
        ),
        described(
            "meters",
            "What can be measured: declared by the catalogue, or learnt from samples.",
            &meters_schema(),
            &METERS_COLUMNS,
        ),
        described(
            "kinds",
            "Kinds of resources: declared by the catalogue, or of a resource that is known.",
            &kinds_schema(),
            &KINDS_COLUMNS,
        ),
    ];
    let tables: Vec<Value> = logical.into_iter().chain(stored).collect();
    Json(json!({ "tables": tables }))
}

const SAMPLES_COLUMNS: [(&str, &str); 10] = [
    ("", "Instant of observation."),
    ("", "Meter; the catalogue has its unit and kind."),
    ("", "Resource id."),
    ("", "Kind of the resource."),
    ("", "Project that the resource belonged to."),
    ("", "Node that it ran on."),
    ("", "Source that saw it."),
    ("JSON", "Further labels of the series; empty for none."),
    ("meter's unit", "What was observed."),
    ("", "Epoch in which it was read, see the table `epochs`; 0 is none."),
];

const METERS_COLUMNS: [(&str, &str); 11] = [
    ("", "Meter."),
    ("", "counter, gauge, delta or allocation."),
    ("", "Base unit of its samples."),
    ("", "Unit of its usage."),
    ("seconds", "Longest time that one sample speaks for."),
    ("", "Attribute that an allocation is the size of."),
    ("", "Attribute of a resource that runs others that bounds its usage."),
    ("", "Kinds of resource that have it, by commas; empty for any."),
    ("", "What it measures."),
    ("", "built-in, the catalogue file that declares it, or learnt."),
    ("", "Source whose samples named it first, of one that was learnt."),
];

const KINDS_COLUMNS: [(&str, &str); 7] = [
    ("", "Kind of resource."),
    ("", "Whether the catalogue declares it."),
    ("", "Whether it uses CPU and memory of its parent."),
    ("", "Whether it runs other resources."),
    ("", "Whether it costs money while it is idle."),
    ("", "Kind that it is usually part of."),
    ("", "What it is."),
];

const RESOURCES_COLUMNS: [(&str, &str); 10] = [
    ("", "Resource id."),
    ("", "Kind."),
    ("", "Project that pays."),
    ("", "What people call it."),
    ("", "Node that it runs on."),
    ("", "Resource that it is part of."),
    ("JSON", "Labels, flavor, sizes."),
    ("", "First instant of the state."),
    ("", "First instant past the state; null while it lasts."),
    ("", "Whether the state lasts."),
];

fn described(
    name: &str,
    description: &str,
    schema: &arrow::datatypes::Schema,
    columns: &[(&str, &str)],
) -> Value {
    let columns: Vec<Value> = schema
        .fields()
        .iter()
        .zip(columns)
        .map(|(field, (unit, doc))| {
            let kind = field.data_type().to_string();
            json!({ "name": field.name(), "type": kind, "unit": unit, "description": doc })
        })
        .collect();
    json!({ "name": name, "description": description, "columns": columns })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UsageRequest {
    start: Timestamp,
    end: Timestamp,
    project: Option<String>,
    resource: Option<String>,
    meter: Option<String>,
    kind: Option<String>,
    limit: Option<usize>,
    offset: Option<usize>,
}

const PAGE: usize = 10_000;

async fn usage(
    State(engine): State<Engine>,
    headers: HeaderMap,
    request: Result<Query<UsageRequest>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(request) = request.map_err(|error| Problem::bad_request(error.body_text()))?;
    let kind = request.kind.map(|kind| kind.parse()).transpose();
    let kind = kind.map_err(|error: nilometer_contract::InvalidName| {
        Problem::bad_request(error.to_string())
    })?;
    let UsageRequest { project, resource, meter, .. } = request;
    let selection = Selection { project, resource, meter, kind };
    let known = selection.check(engine.tables());
    known.map_err(|error| Problem::bad_request(error.to_string()))?;
    let window = Window { start: request.start, end: request.end };
    if window.start >= window.end {
        return Err(Problem::bad_request("start must lie before end"));
    }
    let rows = within(&engine, usage_rows(&engine, window, &selection)).await?;
    let total = rows.len();
    let offset = request.offset.unwrap_or(0).min(total);
    let page = &rows[offset..total.min(offset + request.limit.unwrap_or(PAGE).min(PAGE))];
    let batch = usage_batch(page).map_err(|error| Problem::internal(&error))?;
    let missing = engine.meter().missing(window);
    let rows = Rows { schema: USAGE_SCHEMA.clone(), batches: vec![batch], missing };
    let mut response = respond(&rows, &headers)?;
    response.headers_mut().insert("x-total-rows", total.into());
    Ok(response)
}

/// Day by day, so that a window without end meets the bounds of a query early.
async fn usage_rows(
    engine: &Engine,
    window: Window,
    selection: &Selection,
) -> Result<Vec<UsageRow>, Problem> {
    let mut rows = Vec::new();
    let last = window.end.min(engine.meter().newest());
    for day in days(Window { end: last, ..window }) {
        let of_day = engine.meter().usage(day, selection).await;
        rows.extend(of_day.map_err(|error| Problem::internal(&error))?);
        if rows.len() > engine.limits().rows {
            return Err(QueryError::TooMany(engine.limits().rows).into());
        }
    }
    Ok(rows)
}

async fn within<T>(
    engine: &Engine,
    work: impl Future<Output = Result<T, Problem>>,
) -> Result<T, Problem> {
    let time = engine.limits().time;
    match tokio::time::timeout(time, work).await {
        Ok(done) => done,
        Err(_) => Err(QueryError::TooSlow(time).into()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConservationRequest {
    start: Timestamp,
    end: Timestamp,
    meter: String,
    node: Option<String>,
}

async fn conservation(
    State(engine): State<Engine>,
    request: Result<Query<ConservationRequest>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(request) = request.map_err(|error| Problem::bad_request(error.body_text()))?;
    let window = Window { start: request.start, end: request.end };
    let told = async {
        let hours = engine.meter().conservation(window, &request.meter).await;
        hours.map_err(|error| Problem::internal(&error))
    };
    let hours = within(&engine, told).await?;
    let wanted =
        hours.iter().filter(|hour| request.node.as_deref().is_none_or(|n| n == &*hour.node));
    let rows = wanted.map(|hour| {
        json!({
            "hour": hour.hour, "node": hour.node, "meter": request.meter,
            "capacity": hour.capacity, "measured": hour.measured,
            "children": hour.children_used(), "child_count": hour.children.len(),
            "overhead": hour.overhead, "idle": hour.idle, "skew": hour.skew, "excess": hour.excess,
            "observed_micros": hour.observed_micros,
        })
    });
    let mut response = Json(json!({ "hours": rows.collect::<Vec<_>>() })).into_response();
    say_missing(response.headers_mut(), &engine.meter().missing(window));
    Ok(response)
}
