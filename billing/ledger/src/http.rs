//! Billing over HTTP: charges, invoices, explanations, the price book.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/charges?start&end&tz&project&resource&meter&kind` | charges of full hours |
//! | `GET /v1/invoices?project&start&end&tz&detail` | the bill of a period: issued, or a draft |
//! | `GET /v1/invoices?project` | invoices that were issued |
//! | `POST /v1/invoices {"project","start","end","tz","detail"}` | issues, once |
//! | `GET /v1/invoices/{id}` | an issued invoice |
//! | `GET /v1/explain/{line}?project&start&end&tz` | where a line comes from |
//! | `GET /v1/price-book` | the price book in force |
//!
//! [`routes`] has the parameters of each.

mod routes;

use std::sync::Arc;

use arrow::datatypes::Schema;
use axum::response::Response;
use nilometer_contract::{InvalidName, Scope};
use nilometer_engine::{Rows, Selection};
use nilometer_http::{
    Call, Format, Kind, Page, Problem, Surface, TOTAL_ROWS, check, say_missing, send_rows,
};
use nilometer_rating::{Detail, Invoice, IssuedInvoice, Period};
use nilometer_store::Missing;
use nilometer_usage::Window;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::LedgerError;
use crate::invoices::{Bill, window_of};
use crate::ledger::Ledger;
use crate::stored::rows::{CHARGES, charge_columns};

impl Ledger {
    /// The HTTP surface.
    pub fn surface(&self) -> Surface {
        let ledger = || self.clone();
        let (one, two, three) = (ledger(), ledger(), ledger());
        let (four, five, six) = (ledger(), ledger(), ledger());
        Surface::new()
            .with(&routes::CHARGES, move |call| charges(one.clone(), call))
            .with(&routes::INVOICES, move |call| bill(two.clone(), call))
            .with(&routes::ISSUE, move |call| issue(three.clone(), call))
            .with(&routes::INVOICE, move |call| issued(four.clone(), call))
            .with(&routes::EXPLAIN, move |call| explained(five.clone(), call))
            .with(&routes::PRICE_BOOK, move |call| price_book(six.clone(), call))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IssueRequest {
    project: String,
    start: String,
    end: String,
    tz: Option<String>,
    detail: Option<String>,
}

async fn charges(ledger: Ledger, call: Call) -> Result<Response, Problem> {
    let period = period(call.required("start"), call.required("end"), call.get("tz"))?;
    let kind = call.get("kind").map(str::parse).transpose();
    let kind = kind.map_err(|error: InvalidName| {
        Problem::unprocessable("no such kind", error.to_string()).about("kind")
    })?;
    let (project, resource, meter) =
        (call.text("project"), call.text("resource"), call.text("meter"));
    if let Some(name) = meter.as_deref().filter(|name| ledger.is_unpriced(name)) {
        let detail = format!(
            "the price book has no price for a meter {name:?}; it prices {}",
            ledger.priced_meters()
        );
        return Err(Problem::unprocessable("no price", detail).about("meter"));
    }
    let selection = Selection { project, resource, meter, kind };
    let known = selection.check(ledger.core.engine.tables(), call.scope());
    known
        .map_err(|error| Problem::unprocessable("no such kind", error.to_string()).about("kind"))?;
    let found = ledger.rating.charges(call.scope(), window_of(&period), &selection).await?;
    let page = call.page().of(&found);
    let columns = charge_columns(page);
    let schema = CHARGES.file_schema();
    let built = schema.fields().iter();
    let built = built.filter(|field| columns.iter().any(|(name, _)| name == field.name()));
    let schema = Arc::new(Schema::new(built.cloned().collect::<Vec<_>>()));
    let batches = vec![CHARGES.project(schema.clone(), &columns)];
    let rows = Rows { schema, batches, missing: Vec::new() };
    let response = in_pages(&call, send_rows(&call, &rows)?, found.len());
    Ok(ledger.say_missing(response, window_of(&period), call.scope()))
}

fn in_pages(call: &Call, mut response: Response, total: usize) -> Response {
    response.headers_mut().insert(TOTAL_ROWS, total.into());
    call.link_next(&mut response, call.page().has_more(total));
    response
}

async fn bill(ledger: Ledger, call: Call) -> Result<Response, Problem> {
    let detail = detail(call.get("detail"));
    let Some(bill) = bill_of(&call)? else {
        let issued = ledger.invoices.issued(call.scope(), call.get("project")).await?;
        let response = call.answer(list(&issued, call.page(), call.format));
        call.note.add_rows(call.page().of(&issued).len());
        let mut response = in_pages(&call, response, issued.len());
        let missing: Vec<Missing> = ledger.core.stored().lost_invoices().cloned().collect();
        say_missing(response.headers_mut(), &missing, call.scope());
        return Ok(response);
    };
    let issued = ledger.invoices.issued(call.scope(), Some(&bill.project)).await?;
    let period = (bill.period.start(), bill.period.end());
    match issued.iter().find(|it| (it.start, it.end) == period) {
        Some(issued) => Ok(rendered(&call, issued)),
        None => {
            let draft =
                ledger.invoices.draft(call.scope(), &bill.project, &bill.period, detail).await?;
            let draft = rendered(&call, &draft);
            Ok(ledger.say_missing(draft, window_of(&bill.period), call.scope()))
        }
    }
}

async fn issue(ledger: Ledger, call: Call) -> Result<Response, Problem> {
    let request: IssueRequest = call.json()?;
    let bill = request.bill()?;
    call.note.set_query(&format!("project={} period={}", bill.project, bill.period));
    let now = ledger.core.clock.now();
    let detail = detail(request.detail.as_deref());
    let issued = ledger.invoices.issue(&bill.project, &bill.period, detail, now).await?;
    Ok(ledger.say_missing(rendered(&call, &issued), window_of(&bill.period), call.scope()))
}

async fn issued(ledger: Ledger, call: Call) -> Result<Response, Problem> {
    let issued = ledger.invoices.issued_invoice(call.scope(), call.required("id")).await?;
    Ok(rendered(&call, &issued))
}

async fn explained(ledger: Ledger, call: Call) -> Result<Response, Problem> {
    let (line, bill) = (call.required("line"), bill_of(&call)?);
    let explanation = ledger.explanations.explain(call.scope(), line, bill.as_ref()).await?;
    Ok(call.answer(match call.format {
        Format::Table => explanation.to_text(),
        _ => explanation.to_json(),
    }))
}

async fn price_book(ledger: Ledger, call: Call) -> Result<Response, Problem> {
    let (book, heading) = (ledger.book(), ledger.book().heading());
    Ok(match call.format {
        Format::Table => call.answer(book.canonical_text().to_owned()),
        _ => call.answer_json(&json!({
            "name": heading.name, "version": heading.version, "digest": heading.digest,
            "currency": heading.currency.to_string(), "entries": book.entries().len(),
            "text": book.canonical_text(),
        })),
    })
}

impl Ledger {
    /// Says in an answer about a period which rows it lacks because their files are damaged: of
    /// samples and lifetimes, and of what was settled.
    fn say_missing(&self, mut response: Response, window: Window, scope: &Scope) -> Response {
        let stored = self.core.stored();
        let settled = [&stored.usage, &stored.charges].into_iter().flat_map(|statements| {
            statements.view.files.missing(window.start.0, window.end.0).cloned()
        });
        let mut missing = self.core.engine.meter().missing(window);
        missing.extend(settled);
        missing.extend(stored.lost_invoices().cloned());
        say_missing(response.headers_mut(), &missing, scope);
        response
    }

    fn is_unpriced(&self, meter: &str) -> bool {
        !self.book().has_meter(meter)
    }

    fn priced_meters(&self) -> String {
        self.book().meters().collect::<Vec<_>>().join(", ")
    }
}

impl IssueRequest {
    fn bill(&self) -> Result<Bill, Problem> {
        check("project", Kind::Text, &self.project)?;
        check("start", Kind::Edge, &self.start)?;
        check("end", Kind::Edge, &self.end)?;
        check("tz", Kind::Text, self.tz.as_deref().unwrap_or_default())?;
        if let Some(detail) = &self.detail {
            check("detail", Kind::Choice(routes::DETAILS), detail)?;
        }
        let period = period(&self.start, &self.end, self.tz.as_deref())?;
        Ok(Bill { project: self.project.clone(), period })
    }
}

/// The bill meant; none when nothing of a period was given.
fn bill_of(call: &Call) -> Result<Option<Bill>, Problem> {
    match (call.get("project"), call.get("start"), call.get("end")) {
        (Some(project), Some(start), Some(end)) => {
            let period = period(start, end, call.get("tz"))?;
            Ok(Some(Bill { project: project.to_owned(), period }))
        }
        (_, None, None) => Ok(None),
        _ => Err(Problem::unprocessable("no bill", "a bill needs project, start and end")),
    }
}

fn period(start: &str, end: &str, zone: Option<&str>) -> Result<Period, Problem> {
    let period = Period::parse(start, end, zone.unwrap_or("UTC"));
    period.map_err(|error| LedgerError::Period(error).into())
}

fn detail(text: Option<&str>) -> Detail {
    match text {
        Some("resources") => Detail::Resources,
        _ => Detail::Prices,
    }
}

/// An invoice in the format asked for.
fn rendered(call: &Call, invoice: &Invoice) -> Response {
    call.note.add_rows(invoice.lines.len());
    call.answer(match call.format {
        Format::Table => invoice.to_text(),
        Format::Csv => invoice.to_csv(),
        Format::Json | Format::Arrow => invoice.to_json(),
    })
}

/// A page of issued invoices: what each is about and comes to.
fn list(issued: &[IssuedInvoice], page: Page, format: Format) -> String {
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
    let rows: Vec<[String; 7]> = page.of(issued).iter().map(cells).collect();
    match format {
        Format::Json | Format::Arrow => {
            let object = |row: &[String; 7]| -> Value {
                COLUMNS.iter().zip(row).map(|(name, cell)| (*name, json!(cell))).collect()
            };
            json!({ "invoices": rows.iter().map(object).collect::<Vec<_>>() }).to_string()
        }
        Format::Csv => {
            let quoted = |cell: &String| format!("\"{}\"", cell.replace('"', "\"\""));
            let line = |row: &[String; 7]| row.iter().map(quoted).collect::<Vec<_>>().join(",");
            let lines = rows.iter().map(|row| line(row) + "\r\n");
            COLUMNS.join(",") + "\r\n" + &lines.collect::<String>()
        }
        Format::Table if issued.is_empty() => {
            "No invoice was issued. Give project, start and end to see a draft; POST them to \
             issue it.\n"
                .to_owned()
        }
        Format::Table => aligned(&COLUMNS, &rows),
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
