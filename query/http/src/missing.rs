//! The header that says what an answer lacks.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use nilometer_store::Missing;

/// Header of an answer that lacks rows.
pub const MISSING_ROWS: HeaderName = HeaderName::from_static("x-missing-rows");
/// Most of them in one header.
const MOST: usize = 16;

/// Says in an answer what it lacks.
pub fn say_missing(headers: &mut HeaderMap, missing: &[Missing]) {
    if missing.is_empty() {
        return;
    }
    let mut said: Vec<String> = missing.iter().take(MOST).map(Missing::to_string).collect();
    if missing.len() > MOST {
        said.push(format!("and of {} more files", missing.len() - MOST));
    }
    if let Ok(said) = HeaderValue::from_str(&said.join("; ")) {
        headers.insert(MISSING_ROWS, said);
    }
}
