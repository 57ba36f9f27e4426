//! Errors over HTTP: RFC 9457 problem details, with the place in the request.
//!
//! 400 says that a request is not as the document of the interface has it, 422 that it is, but
//! asks for what cannot be.

use axum::Json;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use nilometer_contract::Causes;
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
