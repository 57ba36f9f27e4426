//! The query half of the HTTP API: SQL, its tables, exact usage, conservation.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Decimal128Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use axum::http::{HeaderName, Method};
use axum::response::Response;
use nilometer_contract::ResourceKind;
use nilometer_engine::{Engine, QueryError, Rows, Selection, USAGE_SCHEMA, days, usage_batch};
use nilometer_surface::{
    Access, Answer, Body, Call, Format, Kind, Page, PageBounds, Parameter, Problem, Route, Surface,
};
use nilometer_usage::{Breakdown, Quantity, UsageRow, Window};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::describe;
use crate::failed::query_problem;
use crate::stream::{send_rows, stream_rows};

const MAX_QUERY_BYTES: usize = 1 << 20;
/// Header with the number of rows of all pages.
pub const TOTAL_ROWS: HeaderName = HeaderName::from_static("x-total-rows");
const TAG: &str = "query";
/// Rows as JSON.
const ROWS: fn() -> Value = || json!({"type": "array", "items": {"type": "object"}});

static SQL: Route = Route {
    method: Method::POST,
    path: "/v1/sql",
    summary: "Rows of a read-only SQL query",
    tag: TAG,
    parameters: &[],
    page: None,
    body: Some(Body {
        max_bytes: MAX_QUERY_BYTES,
        schema: || {
            json!({
                "type": "object", "required": ["query"], "additionalProperties": false,
                "properties": {"query": {"type": "string"}},
            })
        },
    }),
    answer: Answer { status: 200, formats: Format::ROWS, schema: ROWS },
    access: Access::TENANTS,
    quiet: false,
};

static TABLES: Route = Route {
    method: Method::GET,
    path: "/v1/tables",
    summary: "Tables and their columns",
    tag: TAG,
    parameters: &[],
    page: None,
    body: None,
    answer: Answer {
        status: 200,
        formats: &[Format::Json],
        schema: || {
            json!({
                "type": "object", "required": ["tables"],
                "properties": {"tables": {"type": "array", "items": {
                    "type": "object", "required": ["name", "description", "columns"],
                }}},
            })
        },
    },
    access: Access::TENANTS,
    quiet: false,
};

static USAGE: Route = Route {
    method: Method::GET,
    path: "/v1/usage",
    summary: "Exact usage by hour of a window",
    tag: TAG,
    parameters: &[
        Parameter::required("start", Kind::Instant, "First instant."),
        Parameter::required("end", Kind::Instant, "First instant past the window."),
        Parameter::optional("project", Kind::Text, "Only rows of this project."),
        Parameter::optional("resource", Kind::Text, "Only rows of this resource."),
        Parameter::optional("meter", Kind::Text, "Only rows of this meter."),
        Parameter::optional("kind", Kind::Text, "Only rows of resources of this kind."),
    ],
    page: Some(PageBounds { usual: 10_000, most: 10_000 }),
    body: None,
    answer: Answer { status: 200, formats: Format::ROWS, schema: ROWS },
    access: Access::TENANTS,
    quiet: false,
};

static CONSERVATION: Route = Route {
    method: Method::GET,
    path: "/v1/conservation",
    summary: "How each hour of each node splits into children, overhead and idle",
    tag: TAG,
    parameters: &[
        Parameter::required("start", Kind::Instant, "First instant."),
        Parameter::required("end", Kind::Instant, "First instant past the window."),
        Parameter::required("meter", Kind::Text, "Meter."),
        Parameter::optional("node", Kind::Text, "Only this node."),
    ],
    page: Some(PageBounds { usual: 10_000, most: 10_000 }),
    body: None,
    answer: Answer { status: 200, formats: Format::ROWS, schema: ROWS },
    access: Access::OPERATOR,
    quiet: false,
};

/// The routes over an engine.
pub fn surface(engine: &Engine) -> Surface {
    let with = |engine: &Engine| engine.clone();
    let (for_sql, for_tables) = (with(engine), with(engine));
    let (for_usage, for_conservation) = (with(engine), with(engine));
    Surface::new()
        .with(&SQL, move |call| sql(for_sql.clone(), call))
        .with(&TABLES, move |call| {
            let tables = describe::tables(&for_tables, call.scope());
            async move { Ok(call.answer_json(&tables)) }
        })
        .with(&USAGE, move |call| usage(for_usage.clone(), call))
        .with(&CONSERVATION, move |call| conservation(for_conservation.clone(), call))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SqlRequest {
    query: String,
}

async fn sql(engine: Engine, call: Call) -> Result<Response, Problem> {
    let request: SqlRequest = call.json()?;
    call.note.set_query(&request.query);
    let answer = engine.answer(call.scope(), &request.query).await.map_err(query_problem)?;
    stream_rows(&call, answer).await
}

async fn usage(engine: Engine, call: Call) -> Result<Response, Problem> {
    let window = window(&call)?;
    let kind = call.get("kind").map(str::parse::<ResourceKind>).transpose();
    let kind = kind
        .map_err(|error| Problem::unprocessable("no such kind", error.to_string()).about("kind"))?;
    let (project, resource) = (call.text("project"), call.text("resource"));
    let selection = Selection { project, resource, meter: call.text("meter"), kind };
    let known = selection.check(engine.tables(), call.scope());
    known
        .map_err(|error| Problem::unprocessable("no such kind", error.to_string()).about("kind"))?;
    let (rows, total) = within(&engine, usage_page(&engine, &call, window, &selection)).await?;
    let batch = usage_batch(&rows).map_err(|error| Problem::internal(&error))?;
    let missing = engine.meter().missing(window);
    let rows = Rows { schema: USAGE_SCHEMA.clone(), batches: vec![batch], missing };
    paged(&call, &rows, total)
}

/// Rows of a page, of all rows that there are.
fn paged(call: &Call, rows: &Rows, total: usize) -> Result<Response, Problem> {
    let mut response = send_rows(call, rows)?;
    response.headers_mut().insert(TOTAL_ROWS, total.into());
    call.link_next(&mut response, call.page().has_more(total));
    Ok(response)
}

fn window(call: &Call) -> Result<Window, Problem> {
    let window = Window { start: call.instant("start")?, end: call.instant("end")? };
    match window.start < window.end {
        true => Ok(window),
        false => {
            Err(Problem::unprocessable("empty window", "start must lie before end").about("end"))
        }
    }
}

/// The rows of a page and the number of all of them. Day by day, so that no more than a day and the
/// page is held, and a window without end meets the bounds of a query early.
async fn usage_page(
    engine: &Engine,
    call: &Call,
    window: Window,
    selection: &Selection,
) -> Result<(Vec<UsageRow>, usize), Problem> {
    let (page, mut rows, mut total) = (call.page(), Vec::new(), 0);
    let (oldest, newest) = (engine.meter().oldest(), engine.meter().newest());
    let start = if window.start < oldest { window.start.max(oldest.hour()) } else { window.start };
    for day in days(Window { start, end: window.end.min(newest) }) {
        let of_day = engine.meter().usage(call.scope(), day, selection).await;
        let of_day = of_day.map_err(|error| Problem::internal(&error))?;
        let of_page = Page {
            offset: page.offset.saturating_sub(total),
            limit: page.limit.saturating_sub(rows.len()),
        };
        rows.extend_from_slice(of_page.of(&of_day));
        total += of_day.len();
        if total > engine.limits().rows {
            return Err(query_problem(QueryError::TooMany(engine.limits().rows)));
        }
    }
    Ok((rows, total))
}

async fn within<T>(
    engine: &Engine,
    work: impl Future<Output = Result<T, Problem>>,
) -> Result<T, Problem> {
    let time = engine.limits().time;
    match tokio::time::timeout(time, work).await {
        Ok(done) => done,
        Err(_) => Err(query_problem(QueryError::TooSlow(time))),
    }
}

async fn conservation(engine: Engine, call: Call) -> Result<Response, Problem> {
    let window = window(&call)?;
    let meter = call.required("meter");
    let hours = async {
        let hours = engine.meter().conservation(call.scope(), window, meter).await;
        hours.map_err(|error| Problem::internal(&error))
    };
    let mut hours = within(&engine, hours).await?;
    hours.retain(|hour| call.get("node").is_none_or(|node| node == &*hour.node));
    let page = call.page().of(&hours);
    let batch = breakdowns(meter, page).map_err(|error| Problem::internal(&error))?;
    let missing = engine.meter().missing(window);
    let rows = Rows { schema: batch.schema(), batches: vec![batch], missing };
    paged(&call, &rows, hours.len())
}

fn breakdowns(meter: &str, hours: &[Breakdown]) -> Result<RecordBatch, ArrowError> {
    let quantities = |of: fn(&Breakdown) -> Quantity| -> Result<ArrayRef, ArrowError> {
        let values = Decimal128Array::from_iter_values(hours.iter().map(|hour| of(hour).0));
        Ok(Arc::new(values.with_precision_and_scale(38, 12)?))
    };
    let texts = |of: fn(&Breakdown) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(hours.iter().map(of)))
    };
    let numbers = |of: fn(&Breakdown) -> i64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(hours.iter().map(of)))
    };
    let instants =
        TimestampMicrosecondArray::from_iter_values(hours.iter().map(|hour| hour.hour.0));
    let meters = StringArray::from_iter_values(hours.iter().map(|_| meter));
    let columns: [(&str, ArrayRef); 11] = [
        ("hour", Arc::new(instants.with_timezone("UTC"))),
        ("node", texts(|hour| &hour.node)),
        ("meter", Arc::new(meters)),
        ("capacity", quantities(|hour| hour.capacity)?),
        ("measured", quantities(|hour| hour.measured)?),
        ("children", quantities(Breakdown::children_used)?),
        ("child_count", numbers(|hour| hour.children.len() as i64)),
        ("overhead", quantities(|hour| hour.overhead)?),
        ("idle", quantities(|hour| hour.idle)?),
        ("skew", quantities(|hour| hour.skew)?),
        ("excess", quantities(|hour| hour.excess)?),
    ];
    let observed = numbers(|hour| hour.observed_micros);
    let columns = columns.into_iter().chain([("observed_micros", observed)]);
    let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = columns
        .map(|(name, column)| {
            (Field::new(name, DataType::clone(column.data_type()), false), column)
        })
        .unzip();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)
}
