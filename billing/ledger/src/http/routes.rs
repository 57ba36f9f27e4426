//! The routes of billing, as data.

use axum::http::Method;
use nilometer_http::{Access, Answer, Body, Format, Kind, PageBounds, Parameter, Route};
use serde_json::{Value, json};

const TAG: &str = "billing";
const MAX_BODY_BYTES: usize = 64 << 10;
/// Formats of what has lines and columns, and sums that a stream of rows would not have.
const SHEET: &[Format] = &[Format::Json, Format::Csv, Format::Table];
pub(crate) const DETAILS: &[&str] = &["prices", "resources"];
const OBJECT: fn() -> Value = || json!({"type": "object"});

const TZ: Parameter =
    Parameter::optional("tz", Kind::Text, "Time zone of days and months, such as Europe/Berlin.");
const PROJECT: Parameter = Parameter::optional("project", Kind::Text, "Project.");
const START: Parameter =
    Parameter::optional("start", Kind::Edge, "First month, day or instant of the bill.");
const END: Parameter =
    Parameter::optional("end", Kind::Edge, "First month, day or instant past the bill.");

pub(crate) static CHARGES: Route = Route {
    method: Method::GET,
    path: "/v1/charges",
    summary: "Charges of full hours",
    tag: TAG,
    parameters: &[
        Parameter::required("start", Kind::Edge, "First month, day or instant."),
        Parameter::required("end", Kind::Edge, "First month, day or instant past the window."),
        TZ,
        Parameter::optional("project", Kind::Text, "Only charges of this project."),
        Parameter::optional("resource", Kind::Text, "Only charges of this resource."),
        Parameter::optional("meter", Kind::Text, "Only charges of this meter."),
        Parameter::optional("kind", Kind::Text, "Only charges of resources of this kind."),
    ],
    page: Some(PageBounds { usual: 10_000, most: 10_000 }),
    body: None,
    answer: Answer {
        status: 200,
        formats: Format::ROWS,
        schema: || json!({"type": "array", "items": {"type": "object"}}),
    },
    access: Access::TENANTS,
    quiet: false,
};

pub(crate) static INVOICES: Route = Route {
    method: Method::GET,
    path: "/v1/invoices",
    summary: "The bill of a project's period, issued or a draft; without a period, issued invoices",
    tag: TAG,
    parameters: &[
        PROJECT,
        START,
        END,
        TZ,
        Parameter::optional(
            "detail",
            Kind::Choice(DETAILS),
            "A line for each price, or for each resource and price.",
        ),
    ],
    page: Some(PageBounds { usual: 1_000, most: 10_000 }),
    body: None,
    answer: Answer { status: 200, formats: SHEET, schema: OBJECT },
    access: Access::TENANTS,
    quiet: false,
};

pub(crate) static ISSUE: Route = Route {
    method: Method::POST,
    path: "/v1/invoices",
    summary: "Issues the invoice of a project's period, once",
    tag: TAG,
    parameters: &[],
    page: None,
    body: Some(Body { max_bytes: MAX_BODY_BYTES, schema: issue_schema }),
    answer: Answer { status: 201, formats: SHEET, schema: OBJECT },
    access: Access::OPERATOR,
    quiet: false,
};

pub(crate) static INVOICE: Route = Route {
    method: Method::GET,
    path: "/v1/invoices/{id}",
    summary: "An issued invoice",
    tag: TAG,
    parameters: &[Parameter::path("id", "Id of the invoice.")],
    page: None,
    body: None,
    answer: Answer { status: 200, formats: SHEET, schema: OBJECT },
    access: Access::TENANTS,
    quiet: false,
};

pub(crate) static EXPLAIN: Route = Route {
    method: Method::GET,
    path: "/v1/explain/{line}",
    summary: "Where a line comes from; of a draft, give its project and period",
    tag: TAG,
    parameters: &[Parameter::path("line", "Id of the line."), PROJECT, START, END, TZ],
    page: None,
    body: None,
    answer: Answer { status: 200, formats: Format::DOCUMENT, schema: OBJECT },
    access: Access::TENANTS,
    quiet: false,
};

pub(crate) static PRICE_BOOK: Route = Route {
    method: Method::GET,
    path: "/v1/price-book",
    summary: "The price book in force",
    tag: TAG,
    parameters: &[],
    page: None,
    body: None,
    answer: Answer { status: 200, formats: Format::DOCUMENT, schema: OBJECT },
    access: Access::TENANTS,
    quiet: false,
};

fn issue_schema() -> Value {
    json!({
        "type": "object",
        "required": ["project", "start", "end"],
        "additionalProperties": false,
        "properties": {
            "project": Kind::Text.schema(),
            "start": Kind::Edge.schema(),
            "end": Kind::Edge.schema(),
            "tz": Kind::Text.schema(),
            "detail": Kind::Choice(DETAILS).schema(),
        },
    })
}
