//! Billing over HTTP: charges, invoices, explanations, the price book.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/charges?start&end&project&resource&meter&kind&limit&offset` | charges of full hours |
//! | `GET /v1/invoices?project&start&end&tz&detail` | the bill of a period: issued, or a draft |
//! | `GET /v1/invoices?project` | invoices that were issued |
//! | `POST /v1/invoices {"project","start","end","tz","detail"}` | issues, once |
//! | `GET /v1/invoices/{id}` | an issued invoice |
//! | `GET /v1/explain/{line}?project&start&end&tz` | where a line comes from |
//! | `GET /v1/price-book` | the price book in force |
//!
//! JSON, CSV or text for people, as `Accept` says. Errors are problems as RFC 9457 describes them.

use std::sync::Arc;

use arrow::datatypes::Schema;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use nilometer_contract::InvalidName;
use nilometer_engine::{Rows, Selection};
use nilometer_http::{Format, Problem, render, say_missing};
use nilometer_rating::{Detail, Invoice, IssuedInvoice, Period};
use nilometer_store::{CHARGES, Missing};
use nilometer_usage::Window;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::LedgerError;
use crate::find::Bill;
use crate::invoices::window_of;
use crate::ledger::Ledger;
use crate::rows::{batch, charge_columns};

/// Most charges in one answer, and how many come unasked.
const PAGE: usize = 10_000;
const MAX_BODY_BYTES: usize = 64 << 10;

impl Ledger {
    /// The HTTP surface.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/v1/charges", get(charges))
            .route("/v1/invoices", get(bill).post(issue))
            .route("/v1/invoices/{id}", get(issued))
            .route("/v1/explain/{line}", get(explained))
            .route("/v1/price-book", get(price_book))
            .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
            .with_state(self.clone())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChargesRequest {
    start: String,
    end: String,
    tz: Option<String>,
    project: Option<String>,
    resource: Option<String>,
    meter: Option<String>,
    kind: Option<String>,
    limit: Option<usize>,
    offset: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BillRequest {
    project: Option<String>,
    start: Option<String>,
    end: Option<String>,
    tz: Option<String>,
    detail: Option<String>,
}

async fn charges(
    State(ledger): State<Ledger>,
    headers: HeaderMap,
    request: Result<Query<ChargesRequest>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(request) = request.map_err(|error| Problem::bad_request(error.body_text()))?;
    let period = period(&request.start, &request.end, request.tz.as_deref())?;
    let kind = request.kind.map(|kind| kind.parse()).transpose();
    let kind = kind.map_err(|error: InvalidName| Problem::bad_request(error.to_string()))?;
    let (project, resource, meter) = (request.project, request.resource, request.meter);
    if let Some(name) = meter.as_deref().filter(|name| ledger.is_unpriced(name)) {
        let detail = format!(
            "the price book has no price for a meter {name:?}; it prices {}",
            ledger.priced_meters()
        );
        return Err(Problem::bad_request(detail));
    }
    let selection = Selection { project, resource, meter, kind };
    let known = selection.check(ledger.inner.engine.tables());
    known.map_err(|error| Problem::bad_request(error.to_string()))?;
    let found = ledger.charges(window_of(&period), &selection).await?;
    let offset = request.offset.unwrap_or(0).min(found.len());
    let limit = request.limit.unwrap_or(PAGE).min(PAGE);
    let page = &found[offset..found.len().min(offset + limit)];
    let columns = charge_columns(page);
    let schema = CHARGES.file_schema();
    let schema = Arc::new(Schema::new(schema.fields()[..columns.len()].to_vec()));
    let rows =
        Rows { schema: schema.clone(), batches: vec![batch(schema, columns)], missing: Vec::new() };
    let mut response = respond(&rows, format_of(&headers))?;
    response.headers_mut().insert("x-total-rows", found.len().into());
    Ok(ledger.say_missing(response, window_of(&period)))
}

async fn bill(
    State(ledger): State<Ledger>,
    headers: HeaderMap,
    request: Result<Query<BillRequest>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(request) = request.map_err(|error| Problem::bad_request(error.body_text()))?;
    let detail = detail(request.detail.as_deref())?;
    let Some(bill) = request.bill()? else {
        let issued = ledger.issued(request.project.as_deref()).await?;
        let mut response = list(&issued, format_of(&headers));
        let missing: Vec<Missing> = ledger.archive().lost_invoices().cloned().collect();
        say_missing(response.headers_mut(), &missing);
        return Ok(response);
    };
    let issued = ledger.issued(Some(&bill.project)).await?;
    let period = (bill.period.start(), bill.period.end());
    match issued.iter().find(|it| (it.start, it.end) == period) {
        Some(issued) => Ok(sheet(issued, format_of(&headers))),
        None => {
            let draft = ledger.draft(&bill.project, &bill.period, detail).await?;
            let draft = sheet(&draft, format_of(&headers));
            Ok(ledger.say_missing(draft, window_of(&bill.period)))
        }
    }
}

async fn issue(
    State(ledger): State<Ledger>,
    headers: HeaderMap,
    body: Result<Json<BillRequest>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(request) = body.map_err(|error| Problem::bad_request(error.body_text()))?;
    let detail = detail(request.detail.as_deref())?;
    let Some(bill) = request.bill()? else {
        return Err(Problem::bad_request("to issue, give project, start and end"));
    };
    let now = ledger.inner.clock.now();
    let issued = ledger.issue(&bill.project, &bill.period, detail, now).await?;
    let issued = (StatusCode::CREATED, sheet(&issued, format_of(&headers))).into_response();
    Ok(ledger.say_missing(issued, window_of(&bill.period)))
}

async fn issued(
    State(ledger): State<Ledger>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let issued = ledger.issued_invoice(&id).await?;
    Ok(sheet(&issued, format_of(&headers)))
}

async fn explained(
    State(ledger): State<Ledger>,
    headers: HeaderMap,
    Path(line): Path<String>,
    request: Result<Query<BillRequest>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(request) = request.map_err(|error| Problem::bad_request(error.body_text()))?;
    let explanation = ledger.explain(&line, request.bill()?.as_ref()).await?;
    Ok(match format_of(&headers) {
        Format::Table => text(explanation.to_text()),
        _ => typed(Format::Json, explanation.to_json()),
    })
}

async fn price_book(State(ledger): State<Ledger>, headers: HeaderMap) -> Response {
    let (book, heading) = (ledger.book(), ledger.book().heading());
    match format_of(&headers) {
        Format::Table => text(book.canonical_text().to_owned()),
        _ => Json(json!({
            "name": heading.name, "version": heading.version, "digest": heading.digest,
            "currency": heading.currency.to_string(), "entries": book.entries().len(),
            "text": book.canonical_text(),
        }))
        .into_response(),
    }
}

impl Ledger {
    /// Says in an answer about a period which rows it lacks because their files are damaged: of
    /// samples and lifetimes, and of what was settled.
    fn say_missing(&self, mut response: Response, window: Window) -> Response {
        let archive = self.archive();
        let settled = [&archive.usage, &archive.charges].into_iter().flat_map(|statements| {
            statements.view.files.missing(window.start.0, window.end.0).cloned()
        });
        let mut missing = self.inner.engine.meter().missing(window);
        missing.extend(settled);
        missing.extend(archive.lost_invoices().cloned());
        say_missing(response.headers_mut(), &missing);
        response
    }

    fn is_unpriced(&self, meter: &str) -> bool {
        !self.book().has_meter(meter)
    }

    fn priced_meters(&self) -> String {
        self.book().meters().collect::<Vec<_>>().join(", ")
    }
}

impl BillRequest {
    /// The bill meant; none when nothing of a period was given.
    fn bill(&self) -> Result<Option<Bill>, Problem> {
        match (&self.project, &self.start, &self.end) {
            (Some(project), Some(start), Some(end)) => {
                let period = period(start, end, self.tz.as_deref())?;
                Ok(Some(Bill { project: project.clone(), period }))
            }
            (_, None, None) => Ok(None),
            _ => Err(Problem::bad_request("a bill needs project, start and end")),
        }
    }
}

fn period(start: &str, end: &str, zone: Option<&str>) -> Result<Period, Problem> {
    let period = Period::parse(start, end, zone.unwrap_or("UTC"));
    period.map_err(|error| LedgerError::Period(error).into())
}

fn detail(text: Option<&str>) -> Result<Detail, Problem> {
    match text {
        None | Some("prices") => Ok(Detail::Prices),
        Some("resources") => Ok(Detail::Resources),
        Some(other) => Err(Problem::bad_request(format!(
            "detail is prices (a line for each price) or resources (a line for each resource and \
             price), not {other:?}"
        ))),
    }
}

fn format_of(headers: &HeaderMap) -> Format {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    Format::of_accept(accept.unwrap_or(""))
}

fn respond(rows: &Rows, format: Format) -> Result<Response, Problem> {
    let bytes = render(rows, format).map_err(|error| Problem::internal(&error))?;
    Ok(([(header::CONTENT_TYPE, format.content_type())], bytes).into_response())
}

/// An invoice in the form asked for; there is none in Arrow, which gets JSON.
fn sheet(invoice: &Invoice, format: Format) -> Response {
    match format {
        Format::Table => text(invoice.to_text()),
        Format::Csv => typed(Format::Csv, invoice.to_csv()),
        Format::Json | Format::Arrow => typed(Format::Json, invoice.to_json()),
    }
}

/// A list of issued invoices: what each is about and comes to.
fn list(issued: &[IssuedInvoice], format: Format) -> Response {
    const COLUMNS: [&str; 7] = ["id", "project", "start", "end", "issued_at", "currency", "total"];
    let cells = |invoice: &IssuedInvoice| {
        [
            invoice.id.clone(),
            invoice.project.clone(),
            invoice.start.to_string(),
            invoice.end.to_string(),
            invoice.issued_at.map(|at| at.to_string()).unwrap_or_default(),
            invoice.currency.to_string(),
            invoice.total.to_string(),
        ]
    };
    let rows: Vec<[String; 7]> = issued.iter().map(cells).collect();
    match format {
        Format::Json | Format::Arrow => {
            let object = |row: &[String; 7]| -> Value {
                COLUMNS.iter().zip(row).map(|(name, cell)| (*name, json!(cell))).collect()
            };
            Json(json!({ "invoices": rows.iter().map(object).collect::<Vec<_>>() })).into_response()
        }
        Format::Csv => {
            let quoted = |cell: &String| format!("\"{}\"", cell.replace('"', "\"\""));
            let line = |row: &[String; 7]| row.iter().map(quoted).collect::<Vec<_>>().join(",");
            let lines = rows.iter().map(|row| line(row) + "\r\n");
            typed(Format::Csv, COLUMNS.join(",") + "\r\n" + &lines.collect::<String>())
        }
        Format::Table if rows.is_empty() => text(
            "No invoice was issued. Give project, start and end to see a draft; POST them to \
             issue it.\n"
                .to_owned(),
        ),
        Format::Table => text(aligned(&COLUMNS, &rows)),
    }
}

/// Cells in columns, the last one on the right.
fn aligned<const N: usize>(columns: &[&str; N], rows: &[[String; N]]) -> String {
    let heading = columns.map(str::to_owned);
    let all = || std::iter::once(&heading).chain(rows);
    let width = |at: usize| all().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| -> String {
        let cells = row.iter().zip(widths).enumerate().map(|(at, (cell, width))| {
            if at + 1 == N { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        cells.collect::<Vec<_>>().join("  ") + "\n"
    };
    all().map(line).collect()
}

fn text(body: String) -> Response {
    typed(Format::Table, body)
}

fn typed(format: Format, body: String) -> Response {
    ([(header::CONTENT_TYPE, format.content_type())], body).into_response()
}
