//! Errors over HTTP: RFC 9457 problem details, with the place in the query.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use datafusion::error::DataFusionError;
use serde::Serialize;

use nilometer_engine::QueryError;

/// A problem as the client sees it.
#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    /// HTTP status.
    pub status: u16,
    /// Kind of problem, short.
    pub title: String,
    /// What happened and what to do.
    pub detail: String,
    /// Line of the query, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// Column of the query, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<u64>,
}

impl Problem {
    /// A problem without a place.
    pub fn new(status: StatusCode, title: &str, detail: impl Into<String>) -> Self {
        let (status, title) = (status.as_u16(), title.to_owned());
        Problem { status, title, detail: detail.into(), line: None, column: None }
    }

    /// The client's mistake.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Problem::new(StatusCode::BAD_REQUEST, "bad request", detail)
    }

    /// Our failure; the detail is for operators.
    pub fn internal(error: &dyn std::error::Error) -> Self {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error", chain(error))
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Self {
        let (status, title) = match &error {
            QueryError::Refused(_) => (StatusCode::BAD_REQUEST, "query refused"),
            QueryError::Failed(_) => (StatusCode::INTERNAL_SERVER_ERROR, "query failed"),
            QueryError::TooSlow(_) => (StatusCode::REQUEST_TIMEOUT, "query too slow"),
            QueryError::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "query too large"),
            QueryError::TooMany(_) => (StatusCode::PAYLOAD_TOO_LARGE, "too many rows"),
        };
        let detail = match &error {
            QueryError::Refused(cause) | QueryError::Failed(cause) => told(cause),
            other => other.to_string(),
        };
        let mut problem = Problem::new(status, title, detail);
        if let QueryError::Refused(cause) = &error
            && let Some((line, column)) = place(cause)
        {
            (problem.line, problem.column) = (Some(line), Some(column));
        }
        problem
    }
}

/// The root of the error, without what DataFusion wraps around it.
fn told(error: &DataFusionError) -> String {
    let text = match error.find_root() {
        DataFusionError::SQL(error, _) => error.to_string(),
        DataFusionError::Plan(text) | DataFusionError::NotImplemented(text) => text.clone(),
        root => root.strip_backtrace(),
    };
    let text = text.split(DataFusionError::BACK_TRACE_SEP).next().unwrap_or("");
    text.trim().trim_start_matches("sql parser error: ").to_owned()
}

/// Where in the query the error lies: from the planner's span, or from the parser's message.
fn place(error: &DataFusionError) -> Option<(u64, u64)> {
    if let Some(span) = error.diagnostic().and_then(|found| found.span) {
        return Some((span.start.line, span.start.column));
    }
    let text = error.to_string();
    let number = |name: &str| -> Option<u64> {
        let after = &text[text.find(name)? + name.len()..];
        let digits: String = after.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    Some((number("Line: ")?, number("Column: ")?))
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::BAD_REQUEST);
        let mut response = (status, Json(self)).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response
    }
}
