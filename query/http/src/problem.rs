//! Errors over HTTP: RFC 9457 problem details, with the place in the query.
//!
//! 400 says that a request is not as the document of the interface has it, 422 that it is, but
//! asks for what cannot be.

use axum::Json;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use datafusion::error::DataFusionError;
use nilometer_contract::Causes;
use nilometer_engine::QueryError;
use serde::Serialize;

/// A problem as the client sees it.
#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    /// HTTP status.
    pub status: u16,
    /// Kind of problem, short. Programs get it as the `type` too.
    pub title: String,
    /// What happened and what to do.
    pub detail: String,
    /// Line of the query, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// Column of the query, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<u64>,
    /// The parameter that is meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameter: Option<Box<str>>,
    /// Headers that go with it.
    #[serde(skip)]
    pub headers: Option<Box<HeaderMap>>,
}

impl Problem {
    /// A problem without a place.
    pub fn new(status: StatusCode, title: &str, detail: impl Into<String>) -> Self {
        Problem {
            status: status.as_u16(),
            title: title.to_owned(),
            detail: detail.into(),
            line: None,
            column: None,
            parameter: None,
            headers: None,
        }
    }

    /// The request is not as the interface has it.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Problem::new(StatusCode::BAD_REQUEST, "bad request", detail)
    }

    /// The request is well formed, and asks for what cannot be.
    pub fn unprocessable(title: &str, detail: impl Into<String>) -> Self {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, title, detail)
    }

    /// Our failure; the detail is for operators.
    pub fn internal(error: &dyn std::error::Error) -> Self {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error", Causes(error).to_string())
    }

    /// The same about a parameter.
    pub fn about(self, parameter: &str) -> Self {
        Problem { parameter: Some(parameter.into()), ..self }
    }

    /// The same with a header.
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.get_or_insert_default().insert(name, value);
        self
    }
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Self {
        let (status, title) = match &error {
            QueryError::Refused(_) => (StatusCode::UNPROCESSABLE_ENTITY, "query refused"),
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
    fn into_response(mut self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::BAD_REQUEST);
        let headers = self.headers.take().unwrap_or_default();
        let kind = format!("urn:nilometer:problem:{}", self.title.replace(' ', "-"));
        let mut response = (status, Json(Shown { kind, problem: &self })).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        response.headers_mut().extend(*headers);
        response
    }
}

/// A problem with its type.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(flatten)]
    problem: &'a Problem,
}
