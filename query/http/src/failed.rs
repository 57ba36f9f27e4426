//! Queries that fail, as problems: with the place in the query.

use axum::http::StatusCode;
use datafusion::error::DataFusionError;
use nilometer_engine::QueryError;
use nilometer_surface::Problem;

/// What a client learns of a query that failed.
pub fn query_problem(error: QueryError) -> Problem {
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
