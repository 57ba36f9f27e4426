//! The header that says what an answer lacks.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use nilometer_contract::Scope;
use nilometer_store::Missing;

/// Header of an answer that lacks rows.
pub const MISSING_ROWS: HeaderName = HeaderName::from_static("x-missing-rows");
/// Most of them in one header.
const MOST: usize = 16;

/// Says in an answer what it lacks. Who does not see all rows learns only of which table: how many
/// rows of what time are gone says something about others.
pub fn say_missing(headers: &mut HeaderMap, missing: &[Missing], scope: &Scope) {
    if missing.is_empty() {
        return;
    }
    let mut said: Vec<String> = match scope.is_system() {
        true => missing.iter().take(MOST).map(Missing::to_string).collect(),
        false => missing.iter().map(|of| format!("rows of {}", of.table)).collect(),
    };
    said.dedup();
    if scope.is_system() && missing.len() > MOST {
        said.push(format!("and of {} more files", missing.len() - MOST));
    }
    if let Ok(said) = HeaderValue::from_str(&said.join("; ")) {
        headers.insert(MISSING_ROWS, said);
    }
}
